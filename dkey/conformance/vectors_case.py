"""One known answer of a file, read field by field, and the count of what was compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dkey.crypto.secret import Secret
from dkey.errors import DkeyError, FileFormatError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Case", "Tally", "damaged"]


def damaged(path: str, text: str) -> FileFormatError:
    """Return the error for a file that cannot be checked."""
    return FileFormatError(
        f"{path}: {text}", hint="fetch the file again from its source; its content is damaged"
    )


class Case:
    """One JSON object of a file. It remembers which fields were read.

    Args:
        value: The parsed object.
        path: Where it stands, for errors.
        name: What identifies it in a report.
    """

    def __init__(self, value: Any, path: str, name: str) -> None:
        if not isinstance(value, dict):
            raise damaged(path, f"{name}: expected an object")
        self._value: dict[str, Any] = value
        self._path = path
        self._read: set[str] = set()
        self.name = name

    def error(self, name: str, text: str) -> FileFormatError:
        """Return the error for one field."""
        return damaged(self._path, f"{self.name}: {name}: {text}")

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._value

    def raw(self, name: str) -> Any:
        """Return the field as it stands.

        Raises:
            FileFormatError: It is missing.
        """
        if name not in self._value:
            raise self.error(name, "is missing")
        self._read.add(name)
        return self._value[name]

    def text(self, name: str) -> str:
        """Return a field of text."""
        value = self.raw(name)
        if not isinstance(value, str):
            raise self.error(name, "expected text")
        return value

    def hex(self, name: str, size: int | None = None) -> bytes:
        """Return a field of hex digits; ``size`` is its length in bytes where it is fixed."""
        value = self.text(name)
        try:
            data = bytes.fromhex(value)
        except ValueError as exc:
            raise self.error(name, "expected hex digits") from exc
        if size is not None and len(data) != size:
            raise self.error(name, f"expected {2 * size} hex digits")
        return data

    def scalar(self, name: str) -> bytes:
        """Return a field of hex digits as a number of 32 bytes, leading zeros added or cut."""
        return self.hex(name).lstrip(b"\x00").rjust(32, b"\x00")

    def number(self, name: str) -> int:
        """Return a whole number that is zero or more, also one written as decimal text."""
        value = self.raw(name)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(name, "expected a whole number")
        return value

    def section(self, name: str) -> Case:
        """Return a field that is an object."""
        return Case(self.raw(name), self._path, f"{self.name}: {name}")

    def names(self) -> list[str]:
        """Return the names of all fields."""
        return [*self._value]

    def unread(self, *informal: str) -> list[str]:
        """Return the fields that nobody read and that are not ``informal``."""
        return [name for name in self._value if name not in self._read and name not in informal]


class Tally:
    """Counts agreements, disagreements and what the stack does not implement yet.

    Attributes:
        agreed: Values that came out as the file says.
        not_implemented: Values that the stack does not compute.
        failures: For each disagreement the case and what differs.
    """

    def __init__(self) -> None:
        self.agreed = 0
        self.not_implemented = 0
        self.failures: list[tuple[str, str]] = []

    def judge(self, case: Case, what: str, *, ok: bool) -> None:
        """Count one comparison."""
        if ok:
            self.agreed += 1
        else:
            self.failures.append((case.name, what))

    def same(self, case: Case, what: str, ours: Callable[[], object], expected: object) -> None:
        """Count whether ``ours()`` is ``expected``; an error of the stack is a disagreement."""
        try:
            found = ours()
        except FileFormatError:
            raise
        except DkeyError as exc:
            self.failures.append((case.name, f"{what}: {exc}"))
            return
        if isinstance(found, Secret):
            found = found.reveal()
        self.judge(case, f"{what} differs", ok=found == expected)

    def accepts(self, case: Case, what: str, action: Callable[[], object]) -> None:
        """Count whether ``action`` succeeds."""

        def succeeds() -> bool:
            action()
            return True

        self.same(case, what, succeeds, expected=True)

    def refuses(self, case: Case, what: str, action: Callable[[], object]) -> None:
        """Count whether ``action`` ends in an error of the stack."""
        try:
            action()
        except FileFormatError:
            raise
        except DkeyError:
            self.agreed += 1
            return
        self.failures.append((case.name, f"{what} was accepted"))

    def not_yet(self, count: int = 1) -> None:
        """Count values that the stack does not compute."""
        self.not_implemented += count
