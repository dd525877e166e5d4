"""Notices values that must be fresh and are not: a stuck generator, a replayed answer."""

from __future__ import annotations

from dkey.errors import EntropyError

__all__ = ["Freshness"]


class Freshness:
    """Remembers the last ``depth`` values and tells one that comes twice."""

    __slots__ = ("_depth", "_seen")

    def __init__(self, depth: int = 128) -> None:
        self._depth = depth
        self._seen: dict[bytes, None] = {}

    def first_time(self, value: bytes) -> bool:
        """Take note of a value; return whether it is none of the last ones."""
        if value in self._seen:
            return False
        self._seen[value] = None
        if len(self._seen) > self._depth:
            del self._seen[next(iter(self._seen))]
        return True

    def require(self, value: bytes) -> None:
        """Take note of a value of our own.

        Raises:
            EntropyError: It is one of the last ones.
        """
        if not self.first_time(value):
            raise EntropyError(
                "the random source repeated a value",
                clause="specs/threat-model.md",
                hint="do not continue: check the system's random source or the restored snapshot",
            )
