"""How several phones share the blocks: a RAN multiplier and a SYNC code for each (ours).

Phones begin when they like and hop each by its own sequence, so that rounds of two may meet; a code
of its own for each keeps them apart on the air. The anchors are one receiver all the same: the
share of the time in which somebody ranges is the budget, and a further phone gets at most half of
what is left of it, with longer blocks if need be. Who does not fit is put off (Setup Later).
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final

from dkey.ranging.configuration import BLOCK_CHAPS
from dkey.ranging.setup_plan import grid_of, least_chaps_of

if TYPE_CHECKING:
    from dkey.ranging.setup_plan import Ability

__all__ = ["BUDGET", "RAN_STEPS", "Allocation", "Place"]

BUDGET: Final = Fraction(1, 2)
"""Share of the rounds of a block in which somebody may range (ours)."""
RAN_STEPS: Final = (1, 2, 4, 8)
"""RAN multipliers that are tried; a slower one locates nobody in time (ours)."""

Place = tuple[int, int]
"""RAN multiplier, and the mask of the one SYNC code."""


class Allocation:
    """Who has which place.

    Attributes:
        phones: At most so many at once, as the subsystem is able to.
    """

    def __init__(self, *, phones: int = 8) -> None:
        self.phones = phones
        self._places: dict[int, tuple[Place, Fraction]] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def load(self) -> Fraction:
        """Share of the rounds that is given away."""
        return sum((load for _, load in self._places.values()), Fraction(0))

    def take(self, session_id: int, ability: Ability) -> Place | None:
        """Return a place for a session, or the one that it has; None when all is full."""
        if session_id in self._places:
            return self._places[session_id][0]
        taken = 0
        for (_, sync), _ in self._places.values():
            taken |= sync
        free = ability.sync_mask & ~taken
        if len(self._places) >= self.phones or not free or not ability.slot_mask:
            return None
        chaps = least_chaps_of(ability.slot_mask)
        left = BUDGET - self.load
        for wanted in RAN_STEPS:
            slots, ran = grid_of(ability.responders, chaps, max(wanted, ability.min_ran))
            load = Fraction(1, BLOCK_CHAPS * ran // (chaps * slots))
            if 2 * load <= left:
                place = ran, free & -free
                self._places[session_id] = place, load
                return place
        return None

    def leave(self, session_id: int) -> None:
        """Give a place back."""
        self._places.pop(session_id, None)
