"""The vehicle's clock for windows of validity: it never goes back, over restarts too.

The latest of the wall clock, of what an issuer signed, and of the last known time with what elapsed
since on the monotonic clock (:mod:`dkey.lifecycle.trusted_time`). What was reached is kept in the
store with every commit that logs an event. May be read from any thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.lifecycle.trusted_time import TrustedTime
from firmware_mock import share_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.lifecycle.durable import DurableFile

__all__ = ["TrustedClock"]


class TrustedClock:
    """The clock of one vehicle.

    Args:
        file: The open store file.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970, as somebody may have set them.
    """

    def __init__(
        self, file: DurableFile, *, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        self._file = file
        self._clock = clock
        self._wall_clock = wall_clock
        self._time = TrustedTime(floor_s=share_rows.floor_s(file)).advanced(wall_clock(), clock())

    def now_s(self) -> int:
        """Return the time, whole seconds since 1970."""
        return self._time.now_s(self._wall_clock(), self._clock())

    def seen(self, signed_s: int) -> None:
        """An issuer's signature of this time was checked: it has come."""
        self._time = self._time.seen(signed_s, self._wall_clock(), self._clock())

    def keep(self) -> None:
        """Write the time down, inside an open transaction; a clock set back later changes none."""
        self._time = self._time.advanced(self._wall_clock(), self._clock())
        share_rows.keep_floor(self._file, self._time.floor_s)
