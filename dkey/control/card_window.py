"""The card pairing window: who must do what, in which order and how fast (specs/card-keys.md §2).

The head unit opens it, the owner's device authorises exactly one card on the pad by a standard
transaction, the card is paired, the window closes. A tap that authorises start opens nothing: to
enrol needs the owner's explicit wish (attack catalogue, case 24).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from dkey.control.card_rules import EnrolledCard, decide_card_pairing
from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.policy import CARD_PAIRING_WINDOW_S
from dkey.lifecycle.roles import CardProvenance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dkey.control.rules import Grant, Signals

__all__ = ["TRANSITIONS", "CardWindow", "WindowInput", "WindowState"]


class WindowState(Enum):
    """States of the window."""

    CLOSED = "closed"
    AWAIT_OWNER = "waits for the owner"
    AWAIT_CARD = "waits for the card"


class WindowInput(Enum):
    """What moves the window."""

    OPEN = "opened at the head unit"
    OWNER = "owner authenticated on the pad"
    CARD = "card paired"
    CANCEL = "cancelled"
    TIMEOUT = "time is up"


TRANSITIONS: Final[dict[tuple[WindowState, WindowInput], WindowState]] = {
    (WindowState.CLOSED, WindowInput.OPEN): WindowState.AWAIT_OWNER,
    (WindowState.AWAIT_OWNER, WindowInput.OWNER): WindowState.AWAIT_CARD,
    (WindowState.AWAIT_OWNER, WindowInput.CANCEL): WindowState.CLOSED,
    (WindowState.AWAIT_OWNER, WindowInput.TIMEOUT): WindowState.CLOSED,
    (WindowState.AWAIT_CARD, WindowInput.CARD): WindowState.CLOSED,
    (WindowState.AWAIT_CARD, WindowInput.CANCEL): WindowState.CLOSED,
    (WindowState.AWAIT_CARD, WindowInput.TIMEOUT): WindowState.CLOSED,
}
"""Every pair that is not listed is refused with NOT_AUTHORISED and changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardWindow:
    """An immutable window; each input returns the next one.

    Attributes:
        state: Where the pairing stands.
        deadline_s: Monotonic time at which the window closes by itself; None when closed.
        replaces: Credential id of the card whose place the new one takes, or None.
        owner: The owner who authorised; None before.
    """

    state: WindowState = WindowState.CLOSED
    deadline_s: float | None = None
    replaces: str | None = None
    owner: Grant | None = None

    def open(self, *, replaces: str | None, now_s: float) -> CardWindow:
        """Open at the head unit's request; an open window is refused."""
        state = self._next(WindowInput.OPEN)
        return CardWindow(state=state, deadline_s=now_s + CARD_PAIRING_WINDOW_S, replaces=replaces)

    def authorise(
        self,
        owner: Grant | None,
        *,
        fast: bool,
        signals: Signals | None,
        cards: Sequence[EnrolledCard],
        now_s: float,
    ) -> CardWindow:
        """Let the owner's standard transaction on the pad authorise one card.

        Raises:
            PolicyRefusal: By the pairing rules; the window stays as it is.
        """
        state = self._next(WindowInput.OWNER)
        decide_card_pairing(
            owner,
            signals=signals,
            cards=cards,
            provenance=CardProvenance.PURCHASED,  # the card's own is checked when it comes
            replaces=self.replaces,
            fast=fast,
        )
        deadline_s = now_s + CARD_PAIRING_WINDOW_S
        return replace(self, state=state, deadline_s=deadline_s, owner=owner)

    def admit(
        self,
        provenance: CardProvenance,
        *,
        owner: Grant | None,
        signals: Signals | None,
        cards: Sequence[EnrolledCard],
    ) -> CardWindow:
        """Check the card itself, and the owner and the vehicle as they are now.

        Args:
            provenance: What the card proved to be.
            owner: The authorising credential with its rights as enrolled now.
            signals: The body now.
            cards: Every card this vehicle ever had.

        Raises:
            PolicyRefusal: By the pairing rules; the window stays as it is.
        """
        state = self._next(WindowInput.CARD)
        if self.owner is None or owner is None or owner.credential_id != self.owner.credential_id:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "no owner has authorised a card")
        decide_card_pairing(
            owner,
            signals=signals,
            cards=cards,
            provenance=provenance,
            replaces=self.replaces,
            fast=False,
        )
        return CardWindow(state=state)

    def cancel(self) -> CardWindow:
        """Close at the head unit; a closed window stays closed."""
        return self if self.state is WindowState.CLOSED else CardWindow()

    def tick(self, *, now_s: float) -> CardWindow:
        """Return the window at this time: closed once its deadline has passed."""
        if self.deadline_s is not None and now_s > self.deadline_s:
            return CardWindow(state=self._next(WindowInput.TIMEOUT))
        return self

    def _next(self, event: WindowInput) -> WindowState:
        try:
            return TRANSITIONS[self.state, event]
        except KeyError as exc:
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                f"{event.value}, but the card pairing window {self.state.value}"
                if self.state is not WindowState.CLOSED
                else "no card pairing window is open",
                hint="open the window at the head unit, then lay the owner's phone on the pad",
            ) from exc
