"""Refuses a random source that repeats itself (a stuck generator, a restored snapshot)."""

from __future__ import annotations

from collections import deque

from dkey.errors import EntropyError

__all__ = ["Freshness"]


class Freshness:
    """Remembers the last values drawn and refuses to see one twice."""

    __slots__ = ("_seen",)

    def __init__(self, depth: int = 64) -> None:
        self._seen: deque[bytes] = deque(maxlen=depth)

    def require(self, value: bytes) -> None:
        """Take note of a fresh value.

        Raises:
            EntropyError: It is one of the last ``depth`` values.
        """
        if value in self._seen:
            raise EntropyError(
                "the random source repeated a value",
                clause="specs/threat-model.md",
                hint="do not continue: check the system's random source or the restored snapshot",
            )
        self._seen.append(value)
