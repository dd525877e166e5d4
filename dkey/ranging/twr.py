"""Asymmetric double-sided two-way ranging: three frames, six timestamps, no common clock.

The device sends POLL, the anchor answers RESPONSE, the device sends FINAL. With round1 (POLL sent
to RESPONSE received) and reply2 (RESPONSE received to FINAL sent) on the device's clock, reply1
(POLL received to RESPONSE sent) and round2 (RESPONSE sent to FINAL received) on the anchor's::

    time of flight = (round1 * round2 - reply1 * reply2) / (round1 + round2 + reply1 + reply2)

The error is the time of flight times half of both clock errors together: 0.4 mm at 20 m and 20 ppm
each. The symmetric formula is metres off when several anchors answer one POLL
(specs/proximity.md §2).

Timestamps and intervals are counts of RCTU, 1/(128 * 499.2 MHz) = 15.65 ps, modulo 2^32 (67 ms).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "METRES_PER_RCTU",
    "RCTU_S",
    "SPEED_OF_LIGHT_M_S",
    "TwrStamps",
    "clock_ratios_ppb",
    "distances_m",
]

SPEED_OF_LIGHT_M_S: Final = 299_792_458.0
RCTU_S: Final = 1 / (499.2e6 * 128)
"""One tick of a ranging counter, s (IEEE 802.15.4z: 128 * 499.2 MHz)."""
METRES_PER_RCTU: Final = SPEED_OF_LIGHT_M_S * RCTU_S
_MASK: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class TwrStamps:
    """The six timestamps of one anchor in one round, RCTU modulo 2^32."""

    poll_tx: int
    poll_rx: int
    response_tx: int
    response_rx: int
    final_tx: int
    final_rx: int

    @property
    def distance_m(self) -> float:
        """Signed distance, m; negative when a frame seems to arrive before it was sent."""
        round1 = (self.response_rx - self.poll_tx) & _MASK
        reply1 = (self.response_tx - self.poll_rx) & _MASK
        round2 = (self.final_rx - self.response_tx) & _MASK
        reply2 = (self.final_tx - self.response_rx) & _MASK
        total = round1 + round2 + reply1 + reply2
        # Both products have up to 64 bits: only integers keep their difference exact.
        return (round1 * round2 - reply1 * reply2) / total * METRES_PER_RCTU if total else 0.0

    @property
    def clock_ratio_ppb(self) -> float | None:
        """How much faster the device's clock ran than the anchor's, 10^-9; None without a span.

        Both sides measure POLL to FINAL: the distance drops out, and an advance of only one of the
        two frames shows (specs/proximity.md §5).
        """
        device = (self.final_tx - self.poll_tx) & _MASK
        anchor = (self.final_rx - self.poll_rx) & _MASK
        return (device - anchor) / anchor * 1e9 if anchor else None


def _intervals(
    stamps: NDArray[np.uint32],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
    poll_tx, poll_rx, response_tx, response_rx, final_tx, final_rx = stamps
    # Unsigned differences wrap as the counters do.
    return (
        response_rx - poll_tx,
        response_tx - poll_rx,
        final_rx - response_tx,
        final_tx - response_rx,
    )


def distances_m(stamps: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return signed distances in metres, shape (...).

    Args:
        stamps: Shape (6, ...): the timestamps in the order of :class:`TwrStamps`.
    """
    round1, reply1, round2, reply2 = _intervals(stamps)
    # round1*round2 - reply1*reply2 = round1*(round2-reply2) + reply2*(round1-reply1): the two
    # differences are small and exact, so float64 keeps far more than a tick.
    gain2 = (round2.astype(np.int64) - reply2).astype(np.float64)
    gain1 = (round1.astype(np.int64) - reply1).astype(np.float64)
    total = round1.astype(np.float64) + round2 + reply1 + reply2
    product = round1 * gain2 + reply2 * gain1
    flight = np.divide(product, total, out=np.zeros_like(product), where=total > 0)
    return np.asarray(flight * METRES_PER_RCTU, dtype=np.float64)


def clock_ratios_ppb(stamps: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return how much faster the device's clock ran than each anchor's, 10^-9, shape (...).

    Args:
        stamps: Shape (6, ...), as :func:`distances_m`; NaN where POLL and FINAL coincide.
    """
    poll_tx, poll_rx, _, _, final_tx, final_rx = stamps
    device = (final_tx - poll_tx).astype(np.int64)
    anchor = (final_rx - poll_rx).astype(np.int64)
    faster = (device - anchor).astype(np.float64)
    none = np.full_like(faster, np.nan)
    ratio: NDArray[np.float64] = np.divide(faster, anchor, out=none, where=anchor > 0)
    return ratio * 1e9
