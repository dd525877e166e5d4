"""The clocks of ranging: one's own subsystem's, and the phone's as the vehicle makes it out.

The phone says in its own UWB time when the first block begins. Time Sync tells the vehicle what
that time is (Aliro 1.0 §11.7.4). *Ours*: the event of a Time Sync is the message itself, sent at
``device_time_us`` by the phone's clock; so the vehicle is late by what the message took, and the
least of the latest ones counts. A vehicle that is late by some milliseconds ranges all the same,
from the second block on at the latest; one that is early would not.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from dkey.codec.ble_ranging import TimeSync

__all__ = ["PeerClock", "SubsystemClock"]

_KEPT: Final = 8
_MAX_AGE_S: Final = 60.0
"""Older ones say too little: two clocks drift apart by up to 40 us a second."""
_UNCERTAINTY: Final = 80
"""2^(80/8) us, about a millisecond: what asking the subsystem for its time takes (ours)."""
_MAX_PPM: Final = 20


class SubsystemClock:
    """The time of one's own subsystem, from its answers to QUERY_UWBS_TIMESTAMP."""

    def __init__(self) -> None:
        self._offset_us: float | None = None
        self._asked_s: float | None = None

    def asked(self, now_s: float) -> None:
        """The question is sent."""
        self._asked_s = now_s

    def answered(self, timestamp_us: int, now_s: float) -> None:
        """The answer came; it was true in the middle of the wait."""
        asked_s = now_s if self._asked_s is None else self._asked_s
        self._asked_s = None
        self._offset_us = timestamp_us - (asked_s + now_s) / 2 * 1e6

    def lose(self) -> None:
        """The subsystem was reset, and its clock with it."""
        self._offset_us = self._asked_s = None

    def now_us(self, now_s: float) -> int | None:
        """Return the subsystem's time; None when it is not known."""
        if self._offset_us is None:
            return None
        return max(0, round(self._offset_us + now_s * 1e6))

    def sync(self, now_s: float, count: int) -> TimeSync | None:
        """Return the Time Sync that is true now; None when the time is not known.

        Args:
            now_s: Monotonic time.
            count: Number of this Time Sync.
        """
        now_us = self.now_us(now_s)
        if now_us is None:
            return None
        return TimeSync(
            event_count=count,
            device_time_us=now_us,
            uncertainty=_UNCERTAINTY,
            skew_available=1,
            max_ppm=_MAX_PPM,
            success=1,
            retry_delay_ms=0,
        )


class PeerClock:
    """The phone's UWB time, as the vehicle makes it out."""

    def __init__(self) -> None:
        self._offsets: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def told(self, sync: TimeSync, now_s: float) -> None:
        """Take a Time Sync that has just come; one without success says nothing."""
        if sync.success:
            self._offsets.append((now_s, now_s * 1e6 - sync.device_time_us))

    def at_s(self, device_time_us: int, now_s: float) -> float | None:
        """Return when it is, or was, that time at the phone; None when nothing recent tells."""
        fresh = [offset for at_s, offset in self._offsets if now_s - at_s <= _MAX_AGE_S]
        return (device_time_us + min(fresh)) / 1e6 if fresh else None

    @property
    def known(self) -> bool:
        """Whether any Time Sync came."""
        return bool(self._offsets)
