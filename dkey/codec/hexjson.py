"""Strict reading of our JSON files: sizes and types of every field, no key twice."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from dkey.errors import FileFormatError

__all__ = ["Record", "load_record"]


_HEX: Final = re.compile(r"[0-9A-Fa-f]*")


class Record:
    """One JSON object, read field by field; every error names the field's full path.

    Args:
        value: The parsed object.
        path: Where it stands, for errors: a file name, then field names and indices.
        clause: Section of specs/formats.md that describes it.
    """

    def __init__(self, value: Any, path: str, clause: str) -> None:
        if not isinstance(value, dict):
            raise FileFormatError(f"{path}: expected an object", clause=clause)
        self._value = value
        self._path = path
        self._clause = clause

    def error(self, name: str, text: str) -> FileFormatError:
        """Return the error for one field."""
        return FileFormatError(
            f"{self._path}: {name}: {text}",
            clause=self._clause,
            hint="correct the file; specs/formats.md shows every field",
        )

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._value.get(name) is not None

    def raw(self, name: str) -> Any:
        """Return the field as it stands.

        Raises:
            FileFormatError: It is missing.
        """
        if name not in self._value:
            raise self.error(name, "is missing")
        return self._value[name]

    def hex(self, name: str, size: int | None = None) -> bytes:
        """Return a field of hex digits; ``size`` is its length in bytes where it is fixed."""
        value = self.raw(name)
        data = None
        if isinstance(value, str) and _HEX.fullmatch(value) and len(value) % 2 == 0:
            data = bytes.fromhex(value)
        if data is None or (size is not None and len(data) != size):
            wanted = "hex digits" if size is None else f"{2 * size} hex digits"
            raise self.error(name, f"expected {wanted}")
        return data

    def text(self, name: str) -> str:
        """Return a field of text that is not empty."""
        value = self.raw(name)
        if not isinstance(value, str) or not value:
            raise self.error(name, "expected text")
        return value

    def number(self, name: str, low: int, high: int) -> int:
        """Return a whole number between ``low`` and ``high``."""
        value = self.raw(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"expected a whole number {low}..{high}")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.raw(name)
        if not isinstance(value, bool):
            raise self.error(name, "expected true or false")
        return value

    def record(self, name: str) -> Record:
        """Return a field that is an object."""
        return Record(self.raw(name), f"{self._path}: {name}", self._clause)

    def records(self, name: str) -> list[Record]:
        """Return a field that is a list of objects; missing is an empty list."""
        value = self._value.get(name, [])
        if not isinstance(value, list):
            raise self.error(name, "expected a list")
        where = f"{self._path}: {name}"
        return [Record(item, f"{where}[{at}]", self._clause) for at, item in enumerate(value)]


def load_record(text: str, path: str, clause: str) -> Record:
    """Parse a JSON document that is one object.

    Raises:
        FileFormatError: Not JSON, not an object, or a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise FileFormatError(f"{path}: {name}: stands twice", clause=clause)
            found[name] = value
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as exc:
        raise FileFormatError(f"{path}: not JSON ({exc})", clause=clause) from exc
    return Record(value, path, clause)
