"""The parameters of a ranging session that go into its keys, and what they may be.

The encoded RangingConfiguration is input of every key (specs/ranging.md §2), so that a parameter
on which the sides disagree leads to silence and never to a wrong distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import construct as c

from dkey.codec.uci_params import CHANNELS, CHAPS_PER_SLOT, SYNC_CODES
from dkey.errors import LocalFault, WireError
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
