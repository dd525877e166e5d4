"""The vehicle's notion of time, which never goes back (security 5, case 20).

A wall clock can be set back, and a monotonic clock forgets everything at a power cut. What was
signed by an issuer was signed before now; so now is never earlier than the latest of all three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dkey.lifecycle.plain import from_plain, to_plain

__all__ = ["TrustedTime"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedTime:
    """A time that was certainly reached, and when that was on the monotonic clock.

    Attributes:
        floor_s: Seconds since 1970 that were reached.
        anchor_ms: Monotonic milliseconds at which ``floor_s`` was reached; None after power was
            lost, until the next :meth:`advanced`.
    """

    floor_s: int = 0
    anchor_ms: int | None = None

    def now_s(self, wall_s: float, monotonic_s: float) -> int:
        """Return the time: the wall clock, or the floor and what elapsed since, if later."""
        return max(int(wall_s), self.floor_s + self._elapsed_ms(monotonic_s) // 1000)

    def _elapsed_ms(self, monotonic_s: float) -> int:
        if self.anchor_ms is None:
            return 0
        return max(0, int(monotonic_s * 1000) - self.anchor_ms)

    def advanced(self, wall_s: float, monotonic_s: float) -> TrustedTime:
        """Return the value to remember now; it keeps fractions of a second that elapsed."""
        now_s = self.now_s(wall_s, monotonic_s)
        at_ms = int(monotonic_s * 1000)
        rest_ms = self._elapsed_ms(monotonic_s) - (now_s - self.floor_s) * 1000
        return TrustedTime(floor_s=now_s, anchor_ms=at_ms - max(0, rest_ms))

    def seen(self, signed_s: int, wall_s: float, monotonic_s: float) -> TrustedTime:
        """Return the value after an issuer's signature of ``signed_s`` was checked."""
        now = self.advanced(wall_s, monotonic_s)
        if signed_s <= now.floor_s:
            return now
        return TrustedTime(floor_s=signed_s, anchor_ms=int(monotonic_s * 1000))

    def power_cycled(self) -> TrustedTime:
        """Return the value after the monotonic clock began anew."""
        return TrustedTime(floor_s=self.floor_s)

    def to_value(self) -> list[Any]:
        """Return a plain value that CBOR can carry."""
        value: list[Any] = to_plain(self)
        return value

    @classmethod
    def from_value(cls, value: Any) -> TrustedTime:
        """Return what :meth:`to_value` gave.

        Raises:
            WireError: Not exactly such a value.
        """
        return from_plain(cls, value)
