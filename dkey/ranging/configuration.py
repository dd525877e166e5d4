"""What both sides agree on before they range: capabilities, their intersection, the encoded form.

The encoded RangingConfiguration is input of every key (specs/ranging.md §2), so that a parameter
on which the sides disagree leads to silence and never to a wrong distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import construct as c

from dkey.codec.uci_params import CHANNELS, CHAPS_PER_SLOT, SYNC_CODES
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.ranging.keys import INDEX_LIMIT

__all__ = [
    "BLOCK_CHAPS",
    "CHANNELS",
    "CHAPS_PER_SLOT",
    "CONFIGURATION_SIZE",
    "OVERHEAD_SLOTS",
    "PULSE_SHAPES",
    "RESPONDERS_MAX",
    "SLOTS_PER_ROUND",
    "SYNC_CODES",
    "RangingConfiguration",
    "UwbCapabilities",
    "UwbSelection",
    "negotiate",
]

CLAUSE: Final = "Aliro 1.0 §11.7.2, specs/ranging.md §2"
CONFIGURATION_SIZE: Final = 17
BLOCK_CHAPS: Final = 288
"""Chaps of 1/3 ms in a ranging block, for each unit of the RAN multiplier."""
SLOTS_PER_ROUND: Final = (6, 8, 9, 12, 16, 18, 24, 32, 36, 48, 72, 96)
RESPONDERS_MAX: Final = 10
"""More do not fit the 127 bytes of a Final_Data frame."""
OVERHEAD_SLOTS: Final = 4
"""Slots of a round that belong to no responder: Pre-POLL, POLL, FINAL, FINAL_DATA."""
PULSE_SHAPES: Final = frozenset(
    first << 4 | second for first, second in product(range(3), repeat=2)
)
"""Initiator's shape in the high nibble, responder's in the low one: 0 root raised cosine,
1 precursor-free, 2 special."""

_LAYOUT: Final = c.Struct(
    "protocol_version" / c.Int16ub,
    "config_id" / c.Int16ub,
    "session_id" / c.Int32ub,
    "sts_index0" / c.Int32ub,
    "responders" / c.Int8ub,
    "ran_multiplier" / c.Int8ub,
    "slots_per_round" / c.Int8ub,
    "chaps_per_slot" / c.Int8ub,
    "pulse_shape" / c.Int8ub,
    c.Terminated,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingConfiguration:
    """The parameters that go into the keys, 17 bytes, big-endian.

    Wire: version(2) || config(2) || session(4) || STS_Index0(4) || responders(1) || RAN(1) ||
    slots per round(1) || chaps per slot(1) || pulse shapes(1).

    Attributes:
        protocol_version: 0..65535, such as 0x0100.
        config_id: UWB configuration, 0..65535.
        session_id: Last 4 bytes of the transaction identifier, as a number.
        sts_index0: First STS index, 0..2^31-2.
        responders: Anchors, 1..10.
        ran_multiplier: Length of a block in units of 96 ms, 1..255.
        slots_per_round: One of SLOTS_PER_ROUND, at least ``responders + 4``.
        chaps_per_slot: One of CHAPS_PER_SLOT.
        pulse_shape: One of PULSE_SHAPES.

    Raises:
        LocalFault: A value outside its range, or a round that is longer than a block.
    """

    protocol_version: int
    config_id: int
    session_id: int
    sts_index0: int
    responders: int
    ran_multiplier: int
    slots_per_round: int
    chaps_per_slot: int
    pulse_shape: int

    def __post_init__(self) -> None:
        for holds, text in _rules(self):
            if not holds:
                raise LocalFault(text, clause=CLAUSE)

    @property
    def rounds_per_block(self) -> int:
        """N_round: whole rounds that fit one block."""
        return _rounds(self.ran_multiplier, self.chaps_per_slot, self.slots_per_round)

    def to_bytes(self) -> bytes:
        """Encode for the key ladder, 17 bytes."""
        built: bytes = _LAYOUT.build({name: getattr(self, name) for name in self.__slots__})
        return built

    @classmethod
    def parse(cls, data: bytes) -> RangingConfiguration:
        """Decode exactly one configuration.

        Raises:
            WireError: Not 17 bytes, or a value that the rules do not allow.
        """
        try:
            found: Any = _LAYOUT.parse(data)
            return cls(**{name: found[name] for name in cls.__slots__})
        except (c.ConstructError, LocalFault) as exc:
            raise WireError(f"not a ranging configuration: {exc}", clause=CLAUSE) from exc


def _rounds(ran_multiplier: int, chaps: int, slots: int) -> int:
    return BLOCK_CHAPS * ran_multiplier // (chaps * slots)


def _rules(of: RangingConfiguration) -> tuple[tuple[bool, str], ...]:
    """Return the validity rules and whether each holds, in the order of the fields."""
    chaps, slots = of.chaps_per_slot, of.slots_per_round
    sized = chaps in CHAPS_PER_SLOT and slots in SLOTS_PER_ROUND
    return (
        (0 <= of.protocol_version <= 0xFFFF, "a protocol version has 2 bytes"),
        (0 <= of.config_id <= 0xFFFF, "a UWB configuration has 2 bytes"),
        (0 <= of.session_id <= 0xFFFFFFFF, "a session identifier has 4 bytes"),
        (0 <= of.sts_index0 < INDEX_LIMIT, "STS_Index0 is 0..2^31-2"),
        (1 <= of.responders <= RESPONDERS_MAX, f"a round has 1..{RESPONDERS_MAX} responders"),
        (1 <= of.ran_multiplier <= 255, "the RAN multiplier is 1..255"),
        (sized, f"no round has {slots} slots of {chaps} chaps"),
        (
            slots >= of.responders + OVERHEAD_SLOTS,
            f"{of.responders} responders need {of.responders + OVERHEAD_SLOTS} slots, not {slots}",
        ),
        (of.pulse_shape in PULSE_SHAPES, f"no pulse shapes {of.pulse_shape:02X}"),
        (
            sized and _rounds(of.ran_multiplier, chaps, slots) >= 1,
            "a round is longer than its block",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UwbCapabilities:
    """What one side can do.

    Attributes:
        protocol_versions: Such as 0x0100.
        config_ids: UWB configurations.
        pulse_shapes: Of PULSE_SHAPES.
        channels: Of CHANNELS.
        chaps_per_slot: Of CHAPS_PER_SLOT.
        slots_per_round: Of SLOTS_PER_ROUND.
        sync_codes: Of SYNC_CODES.
        ran_multiplier: The lowest that this side can keep up with, 1..255.
        continuous: Whether it can hop in every block.
        adaptive: Whether it can hop after a failed round.
    """

    protocol_versions: frozenset[int] = frozenset({0x0100})
    config_ids: frozenset[int] = frozenset({0})
    pulse_shapes: frozenset[int] = frozenset({0})
    channels: frozenset[int] = frozenset({9})
    chaps_per_slot: frozenset[int] = frozenset(CHAPS_PER_SLOT)
    slots_per_round: frozenset[int] = frozenset(SLOTS_PER_ROUND)
    sync_codes: frozenset[int] = frozenset(range(9, 25))
    ran_multiplier: int = 1
    continuous: bool = True
    adaptive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class UwbSelection:
    """What two sides have in common, one value of each.

    Attributes:
        protocol_version, config_id, pulse_shape, channel, chaps_per_slot, slots_per_round,
        sync_code, ran_multiplier, responders: As in the capabilities.
        continuous: Whether to hop in every block.
        adaptive: Whether to hop after a failed round; never with ``continuous``.
    """

    protocol_version: int
    config_id: int
    pulse_shape: int
    channel: int
    chaps_per_slot: int
    slots_per_round: int
    sync_code: int
    ran_multiplier: int
    responders: int
    continuous: bool
    adaptive: bool

    def configuration(self, *, session_id: int, sts_index0: int) -> RangingConfiguration:
        """Return the configuration of a session with these parameters."""
        return RangingConfiguration(
            protocol_version=self.protocol_version,
            config_id=self.config_id,
            session_id=session_id,
            sts_index0=sts_index0,
            responders=self.responders,
            ran_multiplier=self.ran_multiplier,
            slots_per_round=self.slots_per_round,
            chaps_per_slot=self.chaps_per_slot,
            pulse_shape=self.pulse_shape,
        )


def negotiate(
    vehicle: UwbCapabilities, device: UwbCapabilities, *, responders: int
) -> UwbSelection:
    """Return what both sides use (Aliro 1.0 §11.7.2).

    Shortest common slot, fewest slots that hold the responders, highest common version and
    channel, lowest common code, configuration and pulse shape, slowest RAN multiplier; adaptive
    hopping before continuous.

    Args:
        vehicle: Of the responder.
        device: Of the initiator.
        responders: Anchors of the vehicle, 1..10.

    Raises:
        LocalFault: An impossible number of responders.
        PolicyRefusal: DEVICE_UNSUPPORTED, the sides have nothing in common for one parameter.
    """
    if not 1 <= responders <= RESPONDERS_MAX:
        raise LocalFault(f"a round has 1..{RESPONDERS_MAX} responders", clause=CLAUSE)
    both_slots = vehicle.slots_per_round & device.slots_per_round
    fitting = {slots for slots in both_slots if slots >= responders + OVERHEAD_SLOTS}
    adaptive = vehicle.adaptive and device.adaptive
    ran_multiplier = max(vehicle.ran_multiplier, device.ran_multiplier)
    chaps = min(_common("slot length", vehicle.chaps_per_slot, device.chaps_per_slot))
    slots = min(_common("number of slots", fitting, both_slots))
    if not _rounds(ran_multiplier, chaps, slots):  # with a longer block it fits, 255 at most
        ran_multiplier = -(-chaps * slots // BLOCK_CHAPS)
    return UwbSelection(
        protocol_version=max(
            _common("protocol version", vehicle.protocol_versions, device.protocol_versions)
        ),
        config_id=min(_common("UWB configuration", vehicle.config_ids, device.config_ids)),
        pulse_shape=min(_common("pulse shape", vehicle.pulse_shapes, device.pulse_shapes)),
        channel=max(_common("channel", vehicle.channels, device.channels)),
        chaps_per_slot=chaps,
        slots_per_round=slots,
        sync_code=min(_common("sync code", vehicle.sync_codes, device.sync_codes)),
        ran_multiplier=ran_multiplier,
        responders=responders,
        adaptive=adaptive,
        continuous=not adaptive and vehicle.continuous and device.continuous,
    )


def _common(
    what: str, mine: set[int] | frozenset[int], theirs: set[int] | frozenset[int]
) -> frozenset[int]:
    found = frozenset(mine & theirs)
    if not found:
        raise PolicyRefusal(
            RefusalCode.DEVICE_UNSUPPORTED,
            f"the phone and the vehicle have no {what} in common",
            hint="lock and unlock by touch; UWB ranging is not possible with this phone",
        )
    return found
