"""What a ranging session is made of, and how two ends find a common one (Aliro 1.0 §11.7.2).

A plan is everything that enters the key ladder and the grid: one differing field, and no STS of the
two ends will match. What the numbers may be is in :mod:`dkey.ranging.configuration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dkey.codec.uci_params import (
    HOP_NONE,
    HOP_SEQUENCE_DEFAULT,
    CccCapabilities,
)
from dkey.errors import PolicyRefusal, RefusalCode, WireError
from dkey.ranging.configuration import (
    BLOCK_CHAPS,
    CHAPS_PER_SLOT,
    OVERHEAD_SLOTS,
    SLOTS_PER_ROUND,
    RangingConfiguration,
)

__all__ = [
    "BLOCK_S",
    "DEFAULT_HOPPING",
    "NO_HOPPING",
    "Ability",
    "SessionPlan",
    "channel_of",
    "grid_of",
    "hopping_of",
    "least_chaps_of",
    "nothing_common",
    "one_of",
]

CLAUSE: Final = "Aliro 1.0 §11.7.2"
BLOCK_S: Final = 0.096
"""Length of a ranging block for each unit of the RAN multiplier."""
NO_HOPPING: Final = 0x80
DEFAULT_HOPPING: Final = 0x48
"""Continuous hopping by the default sequence (Aliro 1.0 §11.7.2; the low bit as we read it)."""
_CONTINUOUS: Final = 0x40
_ADAPTIVE: Final = 0x20
_CHANNEL_BITS: Final = {5: 0b01, 9: 0b10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """What one end's UWB subsystem is able to.

    Attributes:
        configs: UWB configuration identifiers, best first.
        pulse_shapes: Pulse shape combinations, best first.
        channels: Bit 0 channel 5, bit 1 channel 9.
        sync_mask: SYNC code indices, bit n - 1 for index n.
        slot_mask: Bits over CHAPS_PER_SLOT.
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

    @classmethod
    def of(cls, told: CccCapabilities, *, responders: int = 1) -> Ability:
        """Return what a subsystem says of itself, in the bits of the setup messages."""
        hopping = told.hopping & HOP_NONE
        if told.hopping & _CONTINUOUS and told.hopping & HOP_SEQUENCE_DEFAULT:
            hopping |= DEFAULT_HOPPING
        return cls(
            configs=tuple(sorted(told.uwb_configs)),
            pulse_shapes=tuple(sorted(told.pulse_shapes)),
            channels=sum(_CHANNEL_BITS[each] for each in told.channels),
            sync_mask=sum(1 << each - 1 for each in told.sync_codes),
            slot_mask=sum(1 << CHAPS_PER_SLOT.index(each) for each in told.chaps_per_slot),
            hopping=hopping,
            min_ran=max(told.ran_multiplier or 1, 1),
            responders=responders,
        )


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

    @property
    def indices_per_block(self) -> int:
        """STS indices that a block uses up."""
        return self.rounds_per_block * self.slots_per_round

    @property
    def block_s(self) -> float:
        """Length of a block."""
        return BLOCK_S * self.ran_multiplier

    @property
    def continuous(self) -> bool:
        """Whether every block hops."""
        return bool(self.hopping & _CONTINUOUS)

    @property
    def adaptive(self) -> bool:
        """Whether a block hops after a round that failed."""
        return bool(self.hopping & _ADAPTIVE)

    @property
    def complete(self) -> bool:
        """Whether all of it is agreed, as after M4."""
        return self.sync_index > 0

    def configuration(self, protocol_version: int = 0x0100) -> RangingConfiguration:
        """Return what of it goes into the keys."""
        return RangingConfiguration(
            protocol_version=protocol_version,
            config_id=self.config,
            session_id=self.session_id,
            sts_index0=self.sts_index0,
            responders=self.responders,
            ran_multiplier=self.ran_multiplier,
            slots_per_round=self.slots_per_round,
            chaps_per_slot=self.chaps_per_slot,
            pulse_shape=self.pulse_shape,
        )


def nothing_common(what: str) -> PolicyRefusal:
    """Return the refusal of two ends that have no ``what`` in common."""
    return PolicyRefusal(
        RefusalCode.DEVICE_UNSUPPORTED,
        f"the phone and the vehicle have no {what} in common",
        hint="lock and unlock by touch; UWB ranging is not possible with this phone",
    )


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
    """Return the shortest slot of a mask; DEVICE_UNSUPPORTED when there is none."""
    for bit, chaps in enumerate(CHAPS_PER_SLOT):
        if mask >> bit & 1:
            return chaps
    raise nothing_common("slot duration")


def hopping_of(common: int) -> int:
    """Return the mode to use of those in common; DEVICE_UNSUPPORTED when there is none."""
    if common & DEFAULT_HOPPING == DEFAULT_HOPPING:
        return DEFAULT_HOPPING
    if common & NO_HOPPING:
        return NO_HOPPING
    raise nothing_common("hopping mode")


def grid_of(responders: int, chaps: int, ran: int) -> tuple[int, int]:
    """Return the fewest slots that hold the anchors, and the RAN multiplier that fits a round."""
    slots = next(each for each in SLOTS_PER_ROUND if each >= responders + OVERHEAD_SLOTS)
    return slots, max(ran, -(-chaps * slots // BLOCK_CHAPS))
