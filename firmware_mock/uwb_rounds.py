"""What is done to ranging rounds, and what comes out of them: arrays of T tracks by N anchors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dkey.ranging.measurement import AnchorRange, RangingRound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

__all__ = ["NEGATIVE_DISTANCE", "OK", "RX_TIMEOUT", "STS_FAILED", "Rounds", "Tampering"]

OK: Final = 0x00
NEGATIVE_DISTANCE: Final = 0x1B
RX_TIMEOUT: Final = 0x21
STS_FAILED: Final = 0x24
_AT_1M_DBM: Final = -64.0
"""Free space at 8 GHz, -14 dBm sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tampering:
    """What somebody does to the frames of a round; every field broadcasts to (T, N).

    Attributes:
        poll_s: Added to the time of arrival of POLL; negative is early.
        response_s: The same for RESPONSE.
        final_s: The same for FINAL.
        lost: Exchanges of which a frame does not arrive.
        sts_failed: Exchanges of which a frame arrives with a wrong STS.
    """

    poll_s: Floats | float = 0.0
    response_s: Floats | float = 0.0
    final_s: Floats | float = 0.0
    lost: Flags | bool = False
    sts_failed: Flags | bool = False

    def __add__(self, other: Tampering) -> Tampering:
        """Return both done to the same round."""
        return Tampering(
            poll_s=self.poll_s + other.poll_s,
            response_s=self.response_s + other.response_s,
            final_s=self.final_s + other.final_s,
            lost=np.logical_or(self.lost, other.lost),
            sts_failed=np.logical_or(self.sts_failed, other.sts_failed),
        )

    def rows(self, rows: slice, tracks: int) -> Tampering:
        """Return what is done to some of ``tracks`` tracks."""

        def cut(value: NDArray[np.generic] | float) -> NDArray[np.generic] | float:
            shaped = isinstance(value, np.ndarray) and value.ndim == 2 and len(value) == tracks
            return value[rows] if shaped and isinstance(value, np.ndarray) else value

        return Tampering(
            **{name: cut(getattr(self, name)) for name in Tampering.__slots__}  # type: ignore[arg-type]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What the anchors measured, one row for each track.

    Attributes:
        distance_m: (T, N), signed; NaN where there is none.
        status: (T, N) UCI status codes.
        clock_ratio_ppb: (T, N), phone against anchor; NaN where there is none.
        round1: (T, N) ticks on the phone from POLL's departure to RESPONSE's arrival.
        span: (T, N) ticks on the anchor from POLL's arrival to FINAL's.
        path_m: (T, N) true distance, which no receiver knows.
        shadow_db: (T, N) what bodies took away.
    """

    distance_m: Floats
    status: NDArray[np.uint8]
    clock_ratio_ppb: Floats
    round1: Floats
    span: Floats
    path_m: Floats
    shadow_db: Floats

    @property
    def rssi_dbm(self) -> Floats:
        """Return the power of the first path (T, N); says nothing where nothing was received."""
        level: Floats = _AT_1M_DBM - 20 * np.log10(np.maximum(self.path_m, 0.01)) - self.shadow_db
        return level

    def ranges(self, track: int, *, raw: bool = True) -> tuple[AnchorRange, ...]:
        """Return one track's ranges; without ``raw``, as a subsystem that hides clock ratios."""
        measured = zip(
            self.status[track],
            self.distance_m[track],
            self.clock_ratio_ppb[track],
            self.rssi_dbm[track],
            strict=True,
        )
        return tuple(
            AnchorRange(
                anchor=anchor,
                status=int(status),
                distance_cm=None if np.isnan(d) else float(d) * 100,
                clock_ratio_ppb=float(ratio) if raw and not np.isnan(ratio) else None,
                rssi_dbm=None if np.isnan(d) else float(rssi),
            )
            for anchor, (status, d, ratio, rssi) in enumerate(measured)
        )

    def round(
        self, track: int, *, block: int, at_s: float, sts_index: int, session_id: int = 1
    ) -> RangingRound:
        """Return one track's round as the vehicle's decisions take it."""
        return RangingRound(
            session_id=session_id,
            block=block,
            round=0,
            sts_index=sts_index,
            at_s=at_s,
            ranges=self.ranges(track),
        )
