"""The card pairing decision: who may pair which card with the vehicle in which state.

Pure, like every decision: :data:`CARD_PAIRING_RULES` is walked from the top, and the first rule
that holds is the one reason of the refusal (specs/card-keys.md §4). The order of the steps around
it is in :mod:`dkey.control.card_window`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dkey.control.rules import Grant, Rule, Signals, state_rules
from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.policy import INITIAL_CARDS, MAX_CARDS
from dkey.lifecycle.roles import CardProvenance, CredentialState, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CARD_PAIRING_RULES", "CardPairingCase", "EnrolledCard", "decide_card_pairing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledCard:
    """One card that the vehicle knows or knew."""

    credential_id: str
    provenance: CardProvenance
    state: CredentialState

    @property
    def holds_place(self) -> bool:
        """Active, or suspended and so able to become active again."""
        return self.state in (CredentialState.ACTIVE, CredentialState.SUSPENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPairingCase:
    """What the card pairing rules look at; ``replaces`` is a credential id."""

    owner: Grant | None
    signals: Signals
    cards: Sequence[EnrolledCard]
    provenance: CardProvenance
    replaces: str | None
    fast: bool

    @property
    def replaced(self) -> EnrolledCard | None:
        """The card to be replaced, if it is known."""
        return next((c for c in self.cards if c.credential_id == self.replaces), None)

    @property
    def places_taken(self) -> int:
        """Places of the cards that stay."""
        return sum(c.holds_place and c.credential_id != self.replaces for c in self.cards)

    @property
    def initial_cards(self) -> int:
        """Initial cards that this vehicle ever had."""
        return sum(c.provenance is CardProvenance.INITIAL for c in self.cards)


CARD_PAIRING_RULES: Final[tuple[Rule[CardPairingCase], ...]] = (
    *state_rules(lambda case: case.owner),
    Rule(
        code=RefusalCode.NOT_AUTHORISED,
        source="C32; security 5, case 24",
        text="no credential of the owner is present",
        holds=lambda case: case.owner is None or case.owner.role is not Role.OWNER,
    ),
    Rule(
        code=RefusalCode.NOT_AUTHORISED,
        source="security 5, cases 5 and 24",
        text="the owner authenticated by a fast transaction, which authorises no pairing",
        holds=lambda case: case.fast is not False,
    ),
    Rule(
        code=RefusalCode.IGNITION_OFF,
        source="C32",
        text="the ignition is off, or not known to be on",
        holds=lambda case: case.signals.ignition_on is not True,
    ),
    Rule(
        code=RefusalCode.DRIVING,
        source="S98, C9",
        text="the vehicle is driving, or not known to stand",
        holds=lambda case: case.signals.driving,
    ),
    Rule(
        code=RefusalCode.SERVICE_MODE,
        source="S73",
        text="the vehicle is in service mode, or not known to be out of it",
        holds=lambda case: case.signals.service_mode is not False,
    ),
    Rule(
        code=RefusalCode.VALET,
        source="S103",
        text="the vehicle is in valet mode, or not known to be out of it",
        holds=lambda case: case.signals.valet is not False,
    ),
    Rule(
        code=RefusalCode.KEY_UNKNOWN,
        source="ours",
        text="the card to replace is not enrolled in this vehicle",
        holds=lambda case: case.replaces is not None and case.replaced is None,
    ),
    Rule(
        code=RefusalCode.CARD_BLOCKED,
        source="S25",
        text="the card to replace is already out of use",
        holds=lambda case: case.replaced is not None and not case.replaced.holds_place,
    ),
    Rule(
        code=RefusalCode.CARD_LIMIT,
        source="S34, C32",
        text=f"{MAX_CARDS} cards are paired already",
        holds=lambda case: case.places_taken >= MAX_CARDS,
    ),
    Rule(
        code=RefusalCode.CARD_LIMIT,
        source="S34",
        text="the vehicle had its initial card; further cards are purchased ones",
        holds=lambda case: (
            case.provenance is CardProvenance.INITIAL and case.initial_cards >= INITIAL_CARDS
        ),
    ),
)
"""Refusals of pairing a card, in order."""

_PAIRING_HINTS: Final = {
    RefusalCode.NOT_AUTHORISED: "lay the owner's phone on the console pad first",
    RefusalCode.IGNITION_OFF: "switch the ignition on and stay parked",
    RefusalCode.DRIVING: "park the vehicle",
    RefusalCode.SERVICE_MODE: "end the service mode",
    RefusalCode.VALET: "end the valet mode",
    RefusalCode.KEY_UNKNOWN: "list the paired cards and name one of them",
    RefusalCode.CARD_LIMIT: "replace a paired card by a purchased one, or revoke one",
}


def decide_card_pairing(
    owner: Grant | None,
    *,
    signals: Signals | None,
    cards: Sequence[EnrolledCard],
    provenance: CardProvenance,
    replaces: str | None,
    fast: bool,
) -> None:
    """Return if a card may be paired now, by :data:`CARD_PAIRING_RULES` (C32).

    Args:
        owner: The credential that authenticated on the pad; None when there is none.
        signals: The body now; None when nothing is known.
        cards: Every card this vehicle ever had, whatever its state.
        provenance: Where the new card came from.
        replaces: Credential id of the card whose place it takes; None when it takes a free one.
        fast: Whether ``owner`` authenticated by a fast transaction.

    Raises:
        PolicyRefusal: With the code of the first rule that holds.
    """
    case = CardPairingCase(
        owner=owner,
        signals=signals or Signals(),
        cards=cards,
        provenance=provenance,
        replaces=replaces,
        fast=fast,
    )
    for rule in CARD_PAIRING_RULES:
        if rule.holds(case):
            raise PolicyRefusal(rule.code, rule.text, hint=_PAIRING_HINTS.get(rule.code))
