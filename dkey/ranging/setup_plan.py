"""What a ranging session is made of, and how two ends find a common one (Aliro 1.0 §11.7.2).

A plan is everything that enters the key ladder and the grid: one differing field, and no STS of the
two ends will match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dkey.errors import WireError

__all__ = [
    "CHAPS",
    "DEFAULT_HOPPING",
    "INDEX_END",
    "INDEX_FIRST_END",
    "NO_HOPPING",
    "RESPONDERS_MAX",
    "SLOTS_PER_ROUND",
    "Ability",
    "SessionPlan",
    "channel_of",
    "hopping_of",
    "least_chaps_of",
    "one_of",
    "slots_of",
]

CLAUSE: Final = "Aliro 1.0 §11.7.2"
CHAPS: Final = (3, 4, 6, 8, 9, 12, 24)
"""Thirds of a millisecond in a slot; bit n of a slot mask stands for the nth."""
SLOTS_PER_ROUND: Final = (6, 8, 9, 12, 16, 18, 24, 32, 36, 48, 72, 96)
"""Slots in a round; each divides the 288 chaps of 96 ms with every entry of CHAPS or not at all."""
BLOCK_CHAPS: Final = 288
INDEX_FIRST_END: Final = 1 << 30
"""The first STS index of a URSK is below this."""
INDEX_END: Final = (1 << 31) - 1
"""The URSK dies at this STS index (Aliro 1.0 §11.1.1.4)."""
NO_HOPPING: Final = 0x80
DEFAULT_HOPPING: Final = 0x48
"""Continuous hopping by the default sequence (Aliro 1.0 §11.7.2; the low bit as we read it)."""
RESPONDERS_MAX: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """What one end's UWB subsystem is able to.

    Attributes:
        configs: UWB configuration identifiers, best first.
        pulse_shapes: Pulse shape combinations, best first.
        channels: Bit 0 channel 5, bit 1 channel 9.
        sync_mask: SYNC code indices, bit n - 1 for index n.
        slot_mask: Bits over :data:`CHAPS`.
        hopping: Bits of the possible modes.
        min_ran: Least number of 96 ms in a block.
        responders: Anchors, 1..10; of the vehicle only.
    """

    configs: tuple[int, ...] = (0, 1)
    pulse_shapes: tuple[int, ...] = (0x00,)
    channels: int = 0b11
    sync_mask: int = 0x00FFFF00
    slot_mask: int = 0b0000111
    hopping: int = NO_HOPPING | DEFAULT_HOPPING
    min_ran: int = 1
    responders: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """Everything that both ends agreed; one differing field and no STS will match.

    Attributes:
        session_id: Ranging session.
        config: UWB configuration identifier.
        pulse_shape: Pulse shape combination.
        channel: 5 or 9.
        ran_multiplier: Number of 96 ms in a block.
        chaps_per_slot: Thirds of a millisecond in a slot.
        responders: Number of anchors.
        slots_per_round: Slots in a round.
        hopping: The mode, as a mask of the setup messages.
        mac_mode: Bits 7:6 rounds per block less one, bits 5:0 offset.
        sync_index: SYNC code index; 0 before M4.
        hop_key: Key of the hopping sequence.
        sts_index0: First STS index.
        uwb_time0_us: When the first block begins, in the phone's UWB time.
    """

    session_id: int
    config: int
    pulse_shape: int
    channel: int
    ran_multiplier: int
    chaps_per_slot: int
    responders: int
    slots_per_round: int
    hopping: int
    mac_mode: int
    sync_index: int = 0
    hop_key: int = 0
    sts_index0: int = 0
    uwb_time0_us: int = 0

    @property
    def rounds_per_block(self) -> int:
        """Number of rounds that fit into a block."""
        return BLOCK_CHAPS * self.ran_multiplier // (self.chaps_per_slot * self.slots_per_round)


def one_of(selected: tuple[int, ...], offered: tuple[int, ...], what: str) -> int:
    """Return the only selected value, which was offered; else WireError."""
    if len(selected) != 1 or selected[0] not in offered:
        raise WireError(f"the phone selected a {what} that was not offered", clause=CLAUSE)
    return selected[0]


def channel_of(common: int, selected: int) -> int:
    """Return the channel number of a selected mask with one common bit; else WireError."""
    if selected not in (0b01, 0b10) or not common:
        raise WireError("the phone selected a channel that was not offered", clause=CLAUSE)
    return 9 if selected == 0b10 else 5


def least_chaps_of(mask: int) -> int:
    """Return the shortest slot of a mask over :data:`CHAPS`; WireError when it is empty."""
    for bit, chaps in enumerate(CHAPS):
        if mask >> bit & 1:
            return chaps
    raise WireError("no slot duration is common", clause=CLAUSE)


def hopping_of(common: int) -> int:
    """Return the mode to use of those in common; WireError when there is none."""
    if common & DEFAULT_HOPPING == DEFAULT_HOPPING:
        return DEFAULT_HOPPING
    if common & NO_HOPPING:
        return NO_HOPPING
    raise WireError("no hopping mode is common", clause=CLAUSE)


def slots_of(responders: int, chaps: int, ran: int) -> int:
    """Return the least number of slots that holds the anchors and divides the block."""
    for slots in SLOTS_PER_ROUND:
        if slots >= responders + 4 and BLOCK_CHAPS * ran % (chaps * slots) == 0:
            return slots
    raise WireError("the anchors do not fit into a round", clause=CLAUSE)
