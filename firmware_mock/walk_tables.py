"""Strict reading of TOML tables: every entry has a type and bounds, and nothing is guessed."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Final, TypeVar

from dkey.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Collection
    from enum import StrEnum

    ChoiceT = TypeVar("ChoiceT", bound=StrEnum)

__all__ = ["CLAUSE", "Table", "bad"]

CLAUSE: Final = "specs/formats.md §17"
_MISSING: Final = object()


def bad(text: str) -> FileFormatError:
    """Return the error of a scenario that is not what specs/formats.md prescribes."""
    return FileFormatError(text, clause=CLAUSE, hint="compare it with one of the shipped scenarios")


class Table:
    """One TOML table; entries are taken one by one, and :meth:`end` refuses what is left.

    Every method raises FileFormatError that names the table and the entry.
    """

    def __init__(self, entries: object, where: str) -> None:
        if not isinstance(entries, dict):
            raise bad(f"{where} is no table")
        self._entries = dict(entries)
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def _take(self, name: str) -> object:
        return self._entries.pop(name, _MISSING)

    def wrong(self, name: str, text: str) -> FileFormatError:
        """Return the error of one entry."""
        return bad(f"{self._where}: {name} {text}")

    def end(self) -> None:
        """Refuse entries that nobody asked for."""
        if self._entries:
            raise bad(f"{self._where} has the unknown entry {min(self._entries)!r}")

    def number(
        self, name: str, low: float, high: float, default: float | None = None, *, scale: float = 1
    ) -> float:
        """Return a number within ``low``..``high`` as written, multiplied by ``scale``."""
        value = self._take(name)
        if value is _MISSING:
            if default is None:
                raise self.wrong(name, "is missing")
            return default
        return self._number(name, value, low, high) * scale

    def maybe(self, name: str, low: float, high: float) -> float | None:
        """Return a number, or None without the entry."""
        return self.number(name, low, high) if name in self else None

    def _number(self, name: str, value: object, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "is no number")
        if not isfinite(value) or not low <= value <= high:
            raise self.wrong(name, f"is not within {low:g}..{high:g}")
        return float(value)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number within ``low``..``high``."""
        value = self.number(name, low, high, default)
        if value != int(value):
            raise self.wrong(name, "is no whole number")
        return int(value)

    def numbers(
        self, name: str, low: float, high: float, *, least: int, most: int
    ) -> tuple[float, ...]:
        """Return a list of ``least`` to ``most`` numbers."""
        value = self._take(name)
        if value is _MISSING:
            raise self.wrong(name, "is missing")
        if not isinstance(value, list) or not least <= len(value) <= most:
            count = f"{least}" if least == most else f"{least} to {most}"
            raise self.wrong(name, f"is no list of {count} numbers")
        return tuple(self._number(name, each, low, high) for each in value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._take(name)
        if value is _MISSING:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "is neither true nor false")
        return value

    def maybe_flag(self, name: str) -> bool | None:
        """Return true or false, or None without the entry."""
        return self.flag(name, default=False) if name in self else None

    def name(self, name: str) -> str:
        """Return a name of letters, digits and hyphens."""
        value = self._take(name)
        if not isinstance(value, str) or not value or not value.replace("-", "").isalnum():
            raise self.wrong(name, "is no text of letters, digits and hyphens")
        return value

    def line(self, name: str) -> str:
        """Return one line of text."""
        value = self._take(name)
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 200:
            raise self.wrong(name, "is no line of text")
        return value

    def one_of(self, name: str, known: Collection[str], default: str | None = None) -> str:
        """Return one of the words in ``known``."""
        value = self._take(name)
        if value is _MISSING and default is not None:
            return default
        if not isinstance(value, str) or value not in known:
            raise self.wrong(name, f"is none of {', '.join(known)}")
        return value

    def choice(self, name: str, kind: type[ChoiceT], default: ChoiceT | None = None) -> ChoiceT:
        """Return a member of an enumeration."""
        return kind(self.one_of(name, [*kind], default))

    def words(self, name: str, known: Collection[str]) -> frozenset[str]:
        """Return a list of words, each one in ``known``."""
        value = self._take(name)
        if not isinstance(value, list) or not value or not all(each in known for each in value):
            raise self.wrong(name, f"is no list of {', '.join(known)}")
        return frozenset(value)

    def table(self, name: str) -> Table:
        """Return a table within; empty without the entry."""
        value = self._take(name)
        return Table({} if value is _MISSING else value, name)

    def tables(self, name: str, most: int) -> list[Table]:
        """Return an array of at most ``most`` tables; empty without the entry."""
        value = self._take(name)
        found = [] if value is _MISSING else value
        if not isinstance(found, list):
            raise self.wrong(name, "is no array of tables")
        if len(found) > most:
            raise self.wrong(name, f"has more than {most} entries")
        above = "" if self._where == "the scenario" else f"{self._where}, "
        return [Table(each, f"{above}{name} {at}") for at, each in enumerate(found, start=1)]
