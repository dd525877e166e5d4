"""A byte string that does not show itself."""

from __future__ import annotations

from hmac import compare_digest
from typing import NoReturn

__all__ = ["Secret"]


_BYTES = (bytes, bytearray, memoryview)


class Secret:
    """Secret bytes: no repr, no str, no pickle, no hash; compared in constant time.

    :meth:`reveal` is the only way to the bytes, so that a reader of the code can find every use.
    Python cannot promise that copies in memory are erased (specs/threat-model.md).
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if type(value) is not bytes:
            if not isinstance(value, _BYTES):
                raise TypeError("a secret is made of bytes")
            value = bytes(value)
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self._value)} secret bytes>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never pickled or copied; seal it in a vault instead")
