"""What one ranging round measured, as the vehicle's decisions take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["INVALID_DISTANCE_CM", "AnchorRange", "RangingRound"]

INVALID_DISTANCE_CM: Final = 0xFFFF
"""What a UWB subsystem reports where there is no distance (FiRa UCI, SESSION_INFO_NTF)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorRange:
    """What one anchor measured in a round.

    Attributes:
        anchor: Index of the anchor in the layout.
        status: UCI status code, 0..255; 0 is good, 0x24 a failed STS, 0x1B good but negative.
        distance_cm: Signed distance in centimetres, never clamped; None without one.
        clock_ratio_ppb: How much faster the phone's clock ran than the anchor's in this round, in
            parts per 10^9; None where the subsystem does not report raw timestamps.
        nlos: The subsystem's own estimate that the direct path was blocked, 0..100 %; None
            without.
        rssi_dbm: Received power; None without.
    """

    anchor: int
    status: int = 0
    distance_cm: float | None = None
    clock_ratio_ppb: float | None = None
    nlos: int | None = None
    rssi_dbm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingRound:
    """What all anchors measured of one phone in one round.

    Attributes:
        session_id: Ranging session, 0..2^32-1.
        block: Ranging block, 0..65535.
        round: Round within the block.
        sts_index: STS index of the round's POLL, 0..2^31-1.
        at_s: Monotonic time of the round.
        ranges: One entry for each anchor that took part, by anchor index.
        static_sts: Whether the session runs on static STS, which proves nothing.
    """

    session_id: int
    block: int
    round: int
    sts_index: int
    at_s: float
    ranges: tuple[AnchorRange, ...]
    static_sts: bool = False
