"""Withdrawal for a time and for good, vetoes, and loss (requirements A7; C15, C16, S60)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.commands import AUTHORITY
from dkey.lifecycle.ring_rules import Who, authorise
from dkey.lifecycle.ring_state import Ended, Held, HoldKind
from dkey.lifecycle.roles import Role

if TYPE_CHECKING:
    from dkey.lifecycle.commands import (
        LiftVeto,
        ReleaseLost,
        ReportLost,
        Resume,
        Revoke,
        Suspend,
        Veto,
    )
    from dkey.lifecycle.ring_draft import Draft
    from dkey.lifecycle.ring_state import CardKey, Share

__all__ = [
    "keep_the_will",
    "lift_veto",
    "release_lost",
    "report_lost",
    "resume",
    "revoke",
    "suspend",
    "veto",
]


def _check_living(share: Share | None, card: CardKey | None) -> None:
    ended = share.ended if share is not None else card.ended if card is not None else None
    if ended is not None:
        code = RefusalCode.KEY_EXPIRED if ended is Ended.EXPIRED else RefusalCode.KEY_REVOKED
        raise PolicyRefusal(code, "this key was ended for good", hint="invite again")


def suspend(draft: Draft, command: Suspend) -> None:
    """Suspend a share or card, and below an actual user by cascade (S49, S90, C4)."""
    role, share, card = draft.find(command.item)
    authorise(draft, command, role, share)
    _check_living(share, card)
    held = Held(kind=HoldKind.WITHDRAWN, who=command.actor, on=command.item.hex())
    if card is not None:
        draft.hold_cards((card,), held)
    if share is not None:
        below = draft.beneath(share) if draft.flags.cascade_automatic else ()
        draft.hold_shares((share, *below), held)


def _authority_rank(draft: Draft, account: str) -> int:
    """Return how high who withdrew a key stands: 0 the authority, 1 the owner, 2 anyone else."""
    if account == AUTHORITY:
        return 0
    return 1 if account == draft.owner_account else 2


def resume(draft: Draft, command: Resume) -> None:
    """Lift the actor's own suspension, or else lower ones; others stay (S92, C15)."""
    role, share, card = draft.find(command.item)
    authorise(draft, command, role, share)
    _check_living(share, card)
    on = command.item.hex()
    holds = share.holds if share is not None else card.holds if card is not None else frozenset()
    placed = {each.who for each in holds if each.kind is HoldKind.WITHDRAWN and each.on == on}
    if not placed:
        if any(each.kind is not HoldKind.PAUSE for each in holds):
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED, "another rule suspends this key, which this cannot lift"
            )
        return
    mine = _authority_rank(draft, command.actor)
    whose = {command.actor} & placed or {
        each for each in placed if _authority_rank(draft, each) >= mine
    }
    if not whose:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED,
            "a higher role suspended this key",
            hint="ask who suspended it",
        )
    draft.lift(lambda held: held.kind is HoldKind.WITHDRAWN and held.on == on and held.who in whose)


def revoke(draft: Draft, command: Revoke) -> None:
    """End a share or card for good; to do it twice changes nothing (S49, S54)."""
    role, share, card = draft.find(command.item)
    who = authorise(draft, command, role, share)
    if share is not None:
        if who is Who.ACTUAL_USER:
            keep_the_will(draft, share)
        draft.end(share, Ended.REVOKED)
    if card is not None:
        draft.end_card(card, Ended.REVOKED)


def keep_the_will(draft: Draft, share: Share) -> None:
    """Veto an account whose key somebody above the actual user suspended and somebody else ends.

    Else the actual user could give it another key, which nobody suspended (S46, C15).
    """
    if share.role is Role.ACTUAL_USER:  # who gives no key to itself
        return
    on = share.share_id.hex()
    above = any(
        each.kind is HoldKind.WITHDRAWN and each.on == on and _authority_rank(draft, each.who) < 2
        for each in share.holds
    )
    if above and any(each.role is Role.ACTUAL_USER for each in draft.live):
        draft.vetoes |= {share.account}


def veto(draft: Draft, command: Veto) -> None:
    """Forbid sharing with one account, or at all; a share that exists is revoked (S46, C16)."""
    authorise(draft, command)
    if command.account is None:
        draft.veto_all = True
        falls = [each for each in draft.live if each.role is not Role.ACTUAL_USER]
    else:
        draft.vetoes |= {command.account}
        falls = [each for each in draft.live if each.account == command.account]
    for each in falls:
        draft.end(draft.invited(each.share_id), Ended.REVOKED)


def lift_veto(draft: Draft, command: LiftVeto) -> None:
    """Take a veto back; what it ended stays ended."""
    authorise(draft, command)
    if command.account is None:
        draft.veto_all = False
    else:
        draft.vetoes -= {command.account}


def report_lost(draft: Draft, command: ReportLost) -> None:
    """Suspend a lost phone or card; the cards of a phone's holder with it (S60, S22, C5).

    With an actual user's phone whom it let in: the vehicle lets nobody open by a suspended signer's
    word, whatever suspends it (S90, C4).
    """
    role, share, card = draft.find(command.item)
    authorise(draft, command, role, share)
    _check_living(share, card)
    held = Held(kind=HoldKind.LOST, who=command.actor, on=command.item.hex())
    if share is not None:
        draft.hold_shares((share, *draft.signed_by(share)), held)
    elif card is not None:
        draft.hold_cards((card,), held)
    else:
        draft.hold_owner(held)
        draft.hold_cards(draft.cards, held)


def release_lost(draft: Draft, command: ReleaseLost) -> None:
    """Restore what the loss took, and only that (S60, S92)."""
    role, share, card = draft.find(command.item)
    authorise(draft, command, role, share)
    _check_living(share, card)
    on = command.item.hex()
    draft.lift(lambda held: held.kind is HoldKind.LOST and held.on == on)
