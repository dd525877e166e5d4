"""Blocks, rounds and slots: who sends when, and which STS index that is.

All times are whole numbers of RSTU, the ranging time unit: 416 chips of 499.2 MHz, 5/6 us exactly
(specs/ranging.md §3).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from dkey.errors import LocalFault
from dkey.ranging.configuration import BLOCK_CHAPS, OVERHEAD_SLOTS
from dkey.ranging.keys import INDEX_LIMIT

if TYPE_CHECKING:
    from dkey.ranging.configuration import RangingConfiguration

__all__ = ["CHAP_RSTU", "RSTU_PER_MS", "Grid", "Place", "SlotKind", "rstu_to_ns"]

CLAUSE: Final = "specs/ranging.md §3"
CHAP_RSTU: Final = 400
"""A chap, 1/3 ms."""
RSTU_PER_MS: Final = 1200


class SlotKind(IntEnum):
    """What a slot of a round carries."""

    PRE_POLL = 0
    POLL = 1
    RESPONSE = 2
    FINAL = 3
    FINAL_DATA = 4
    UNUSED = 5


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One slot of a session.

    Attributes:
        block: Counted from the start of the session, 0 or more.
        round: 0 up to the rounds of a block.
        slot: 0 up to the slots of a round.
    """

    block: int
    round: int
    slot: int = 0


def rstu_to_ns(rstu: int) -> int:
    """Return whole nanoseconds, rounded down; an RSTU is 2500/3 ns."""
    return rstu * 2500 // 3


class Grid:
    """The slots of one session.

    Attributes:
        sts_index0: STS index of its first slot.
        rounds: Rounds of a block.
        slots: Slots of a round.
        responders: Anchors.
        slot_rstu: Length of a slot.
        round_rstu: Length of a round.
        block_rstu: Length of a block; what no round fills at its end is silent.
    """

    __slots__ = (
        "block_rstu",
        "responders",
        "round_rstu",
        "rounds",
        "slot_rstu",
        "slots",
        "sts_index0",
    )

    def __init__(self, configuration: RangingConfiguration) -> None:
        self.sts_index0 = configuration.sts_index0
        self.rounds = configuration.rounds_per_block
        self.slots = configuration.slots_per_round
        self.responders = configuration.responders
        self.slot_rstu = configuration.chaps_per_slot * CHAP_RSTU
        self.round_rstu = self.slots * self.slot_rstu
        self.block_rstu = configuration.ran_multiplier * BLOCK_CHAPS * CHAP_RSTU

    def sts_index(self, place: Place) -> int:
        """Return the STS index of a slot; it moves on with every slot, used or not.

        Raises:
            LocalFault: No such slot, or the index would be at its limit.
        """
        self._check(place)
        rounds = place.block * self.rounds + place.round
        index = self.sts_index0 + rounds * self.slots + place.slot
        if index >= INDEX_LIMIT:
            raise LocalFault(
                "the STS index of this slot is used up", clause=CLAUSE, hint="connect again"
            )
        return index

    def place(self, sts_index: int) -> Place:
        """Return the slot that has this STS index.

        Raises:
            LocalFault: The index lies before the session or at its limit.
        """
        if not self.sts_index0 <= sts_index < INDEX_LIMIT:
            raise LocalFault(f"STS index {sts_index} is not of this session", clause=CLAUSE)
        rounds, slot = divmod(sts_index - self.sts_index0, self.slots)
        block, round_ = divmod(rounds, self.rounds)
        return Place(block, round_, slot)

    def start_rstu(self, place: Place) -> int:
        """Return when a slot begins, counted from UWB_Time0."""
        self._check(place)
        return (
            place.block * self.block_rstu
            + place.round * self.round_rstu
            + place.slot * self.slot_rstu
        )

    def at(self, rstu: int) -> Place | None:
        """Return the slot that this time, counted from UWB_Time0, lies in.

        None in the silence at the end of a block, and before the session.
        """
        if rstu < 0:
            return None
        block, within = divmod(rstu, self.block_rstu)
        round_, rest = divmod(within, self.round_rstu)
        return Place(block, round_, rest // self.slot_rstu) if round_ < self.rounds else None

    def kind(self, slot: int) -> SlotKind:
        """Return what a slot of a round carries."""
        self._check(Place(0, 0, slot))
        if slot < 2:
            return SlotKind(slot)
        if slot < 2 + self.responders:
            return SlotKind.RESPONSE
        after = slot - self.responders
        return SlotKind(after + 1) if after < OVERHEAD_SLOTS else SlotKind.UNUSED

    def response_slot(self, responder: int) -> int:
        """Return the slot in which the responder with this index, from 0, answers."""
        if not 0 <= responder < self.responders:
            raise LocalFault(f"there is no responder {responder}", clause=CLAUSE)
        return 2 + responder

    def _check(self, place: Place) -> None:
        inside = 0 <= place.round < self.rounds and 0 <= place.slot < self.slots
        if place.block < 0 or not inside:
            raise LocalFault(f"the session has no {place}", clause=CLAUSE)
