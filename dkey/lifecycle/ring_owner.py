"""Owners and their cards: linking, change, the end, what clears a vehicle (A7, A15, C28, C32)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.changed import changed
from dkey.lifecycle.claims import key_ref
from dkey.lifecycle.commands import AUTHORITY, EndReason, PartyKind, Side
from dkey.lifecycle.policy import (
    DAY_S,
    INITIAL_CARDS,
    MAX_UNTOLD_EPOCHS,
    MONTH_DAYS,
    TERMINATE_NOTICE_DAYS,
    TRANSFER_NOTICE_MONTHS,
)
from dkey.lifecycle.ring_effects import (
    CardAdded,
    Erased,
    HalfRemoved,
    KeyEnded,
    Linked,
    NoticeDue,
    NoticeKind,
)
from dkey.lifecycle.ring_pause import suspend_account
from dkey.lifecycle.ring_rules import Who, authorise
from dkey.lifecycle.ring_shares import check_open, take_key
from dkey.lifecycle.ring_state import CardKey, Due, DueKind, Ended, HoldKind, PauseStage
from dkey.lifecycle.ring_value import is_corporate
from dkey.lifecycle.roles import CardProvenance, Role

if TYPE_CHECKING:
    from dkey.lifecycle.commands import (
        AddCard,
        BeginEpoch,
        ChangeOwner,
        Cleared,
        EndOwner,
        FactoryReset,
        Found,
        Party,
        Transfer,
        Unpair,
    )
    from dkey.lifecycle.ring_draft import Draft

__all__ = [
    "add_card",
    "begin_epoch",
    "change_owner",
    "cleared",
    "end_owner",
    "end_owner_now",
    "factory_reset",
    "found",
    "transfer",
    "unpair",
]


def found(draft: Draft, command: Found) -> None:
    """Link the first owner, or the next one after the vehicle was cleared (S38, S62, S125)."""
    party = command.owner
    corporate = party.kind is PartyKind.CORPORATE
    if command.actor != (AUTHORITY if corporate else party.account):
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED,
            "a person links the vehicle in person, a corporation by the authority",
        )
    waiting = draft.removal is not None and Side.VEHICLE not in draft.removal
    if draft.owner is not None or waiting:
        raise PolicyRefusal(
            RefusalCode.ALREADY_LINKED,
            "the vehicle is linked to an account",
            hint="factory-reset it in the vehicle first",
        )
    check_open(draft, party.account)
    _check_owner_key(draft, command.key_x)
    _check_stated(draft, command.epoch)
    _erase(draft)
    draft.owner, draft.owner_key_x = party, command.key_x
    if command.epoch is not None:
        # Resets that were never reported: what the vehicle said at pairing counts.
        if command.epoch > draft.epoch:
            _next_epoch(draft, keep=False)
        draft.epoch = draft.told_epoch = command.epoch
    draft.removal = None
    _hold_heir(draft)
    draft.effects.append(Linked(owner=party, epoch=draft.epoch))


def _check_stated(draft: Draft, epoch: int | None) -> None:
    """Check an epoch that no vehicle's own word proves, only that of who paired with it.

    Reports of resets up to it count as known, so that a false one may not be far ahead.
    """
    if epoch is not None and epoch < draft.epoch:
        raise PolicyRefusal(RefusalCode.REPLAY, "that epoch of the vehicle is over")
    if epoch is not None and epoch > draft.epoch + MAX_UNTOLD_EPOCHS:
        raise PolicyRefusal(
            RefusalCode.NOT_SYNCED,
            "the vehicle has not told of that many resets",
            hint="let the vehicle reach the authority, then try again",
        )


def change_owner(draft: Draft, command: ChangeOwner) -> None:
    """Hand over to another account or key; shares survive by flag (S127, S70).

    The vehicle is still in the epoch in which it let everybody in, and refuses lists of any other:
    what does not survive is withdrawn in that one. The epoch follows on the vehicle's word.
    """
    who = authorise(draft, command)
    party = command.owner
    former, key = _check_change(draft, command, who).account, draft.owner_item
    heir = draft.share_of(party.account)
    if heir is not None:
        draft.end(heir, Ended.REPLACED)
    if command.key_x is not None:
        take_key(draft, command.key_x)
    _end_owner_key(draft, key, Ended.REPLACED)
    if not draft.flags.friends_survive_owner_change:
        draft.end_shares(Ended.REVOKED)
    else:
        _survive(draft, party)
    if party.account != former:
        _forget_account(draft, former)
        _hand_over(draft, former, party.account, follows=who is Who.OWNER)
    lost = key.hex() if key is not None else ""
    draft.lift(lambda held: held.kind is HoldKind.LOST and held.on == lost)
    draft.owner, draft.owner_key_x = party, command.key_x
    _hold_heir(draft)
    draft.effects.append(Linked(owner=party, epoch=draft.epoch))


def begin_epoch(draft: Draft, command: BeginEpoch) -> None:
    """Follow the vehicle into the epoch of an owner's other account or phone (S127, S70).

    It let nobody in yet: every share is confirmed anew, under an attestation of the new epoch.
    """
    authorise(draft, command)
    if command.epoch is not None and command.epoch <= draft.told_epoch:
        return
    for share in draft.live:
        draft.put(changed(share, confirmed=False))
    _follow(draft, command.epoch, keep=draft.flags.friends_survive_owner_change)


def _follow(draft: Draft, epoch: int | None, *, keep: bool) -> None:
    """Go to the epoch that the vehicle says; where the ring was ahead of it, numbers go on."""
    if epoch is None or epoch > draft.epoch:
        _next_epoch(draft, keep=keep)
    if epoch is not None:
        draft.epoch, draft.told_epoch = max(draft.epoch, epoch), epoch


def _survive(draft: Draft, party: Party) -> None:
    """Keep the shares under another owner; only a corporate one has an actual user (S40)."""
    for share in draft.live:
        if share.role is Role.ACTUAL_USER and party.kind is not PartyKind.CORPORATE:
            draft.end(share, Ended.REVOKED)


def _forget_account(draft: Draft, account: str) -> None:
    """End the cards of a former owner and all that was decided by that account.

    What the authority suspended for is the account's: it stays there, and takes no key of others.
    """
    for card in draft.cards:
        draft.end_card(card, Ended.REVOKED)
    draft.lift(lambda held: held.kind is HoldKind.ACCOUNT and held.on == account)
    draft.vetoes, draft.veto_all, draft.may_pause = frozenset(), False, False


def _check_change(draft: Draft, command: ChangeOwner, who: Who) -> Party:
    """Return the former owner, where the next one may take the place."""
    party, former = command.owner, draft.owner
    if former is None:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "the vehicle has no owner to change")
    check_open(draft, party.account)
    _check_owner_key(draft, command.key_x)
    item = None if command.key_x is None else key_ref(command.key_x)
    if any(each.item == item for each in draft.withdrawn):
        raise PolicyRefusal(
            RefusalCode.REPLAY, "this key was withdrawn here", hint="make another key"
        )
    if not draft.has_room():
        raise PolicyRefusal(
            RefusalCode.SHARE_LIMIT,
            "the withdrawal list could not name one more key",
            hint="wait until withdrawn keys have expired, or factory-reset the vehicle",
        )
    grows = party.kind is PartyKind.CORPORATE and former.kind is not PartyKind.CORPORATE
    if grows and who is Who.OWNER:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED, "a corporation is linked by the authority (S40)"
        )
    return former


def _hold_heir(draft: Draft) -> None:
    """Suspend an owner whose account was suspended as another's before (S92)."""
    account = draft.owner_account
    for held in draft.account_holds:
        if held.on == account and held.cause is not None:
            suspend_account(draft, held.on, held.cause)


def _check_owner_key(draft: Draft, key_x: bytes | None) -> None:
    item = None if key_x is None else key_ref(key_x)
    if item in draft.spent:
        raise PolicyRefusal(
            RefusalCode.REPLAY, "a share or card has the reference of this key", hint="make another"
        )


def _hand_over(draft: Draft, former: str, heir: str, *, follows: bool) -> None:
    """Put another owner's account in the place of the former one's.

    Args:
        draft: The ring.
        former: Account of the former owner.
        heir: Account of the next one.
        follows: What was announced to the owner follows: the owner changed accounts alone (S127).
    """
    draft.due = tuple(
        [
            replace(each, account=heir) if each.account == former else each
            for each in draft.due
            if follows or each.account != former
        ]
    )
    # What the former owner suspended, the next one alone may resume (C15).
    for share in draft.live:
        if share.holds:
            holds = [
                replace(each, who=heir)
                if each.kind is HoldKind.WITHDRAWN and each.who == former
                else each
                for each in share.holds
            ]
            draft.put(share.held_by(frozenset(holds)))


def _next_epoch(draft: Draft, *, keep: bool) -> None:
    """Begin an owner epoch: what ended before has no place in its list, unless it is kept."""
    draft.epoch += 1
    if not keep:
        draft.withdrawn = ()
    draft.list_number = 0
    if (
        draft.withdrawn
        or draft.owner_holds
        or draft.immobilised
        or draft.pause
        or is_corporate(draft.owner)
        or any(each.holds for each in draft.shares)
        or any(each.holds for each in draft.cards)
    ):
        draft.listed()
    else:
        draft.unlisted()


def _end_owner_key(draft: Draft, item: bytes | None, reason: Ended) -> None:
    if item is not None:
        if draft.owner_account not in draft.closed:  # else it is withdrawn already
            draft.withdraw(item, 0)
        draft.effects.append(
            KeyEnded(item=item, account=draft.owner_account, role=Role.OWNER, reason=reason)
        )


def _everything_falls(draft: Draft) -> None:
    """End every key and card, and forget the owner (S51, S53, S54, S55)."""
    draft.end_everything()
    _end_owner_key(draft, draft.owner_item, Ended.REVOKED)
    _erase(draft)


def _erase(draft: Draft) -> None:
    """Forget every name; only what must stay refused is remembered, by number.

    Whom the authority suspended stays suspended here, until it releases the account (S89, S92).
    """
    draft.owner, draft.owner_key_x = None, None
    draft.owner_holds = frozenset()
    draft.may_pause = draft.veto_all = False
    draft.shares, draft.cards = [], []
    draft.vetoes = draft.closed = frozenset()
    draft.pause, draft.pauses_from_s, draft.pauses_used = None, 0, 0
    draft.due = tuple([each for each in draft.due if each.kind is DueKind.HOLD])


def _remove(draft: Draft, *sides: Side) -> None:
    draft.removal = frozenset(sides) | (draft.removal or frozenset())
    if draft.removal == frozenset(Side):
        draft.removal = None
        draft.effects.append(Erased())
        return
    for side in Side:
        if draft.removal and side not in draft.removal:
            draft.effects.append(HalfRemoved(missing=side))


def end_owner(draft: Draft, command: EndOwner) -> None:
    """End the owner's contract: at once, or 14 days after the company's notice (S52, S58, S59)."""
    who = authorise(draft, command)
    _check_linked(draft.owner)
    terminable = draft.pause is not None and draft.pause.stage is PauseStage.TERMINABLE
    if who is Who.OWNER or command.reason is not EndReason.TERMINATED or terminable:
        end_owner_now(draft)
        return
    if any(each.kind is DueKind.END_OWNER for each in draft.due):
        return
    at_s = draft.now_s + TERMINATE_NOTICE_DAYS * DAY_S
    account = draft.owner_account
    coming = Due(kind=DueKind.END_OWNER, at_s=at_s, account=account, reason=command.reason)
    draft.due = (*draft.due, coming)
    draft.effects.append(NoticeDue(to=account, kind=NoticeKind.TERMINATION, due_s=at_s))


def end_owner_now(draft: Draft) -> None:
    """End the owner's contract; the vehicle itself still has to be cleared (S61)."""
    _everything_falls(draft)
    _remove(draft, Side.ACCOUNT)


def unpair(draft: Draft, command: Unpair) -> None:
    """Take the vehicle out of the account; the vehicle itself still has to be cleared (S61)."""
    authorise(draft, command)
    _check_linked(draft.owner)
    end_owner_now(draft)


def transfer(draft: Draft, command: Transfer) -> None:
    """End everything for the next owner; both sides report when they are clear (S55, S56)."""
    who = authorise(draft, command)
    _check_linked(draft.owner)
    account = draft.owner_account
    _everything_falls(draft)
    draft.removal = frozenset()
    if who is not Who.OWNER:
        due_s = draft.now_s + int(TRANSFER_NOTICE_MONTHS * MONTH_DAYS * DAY_S)
        draft.effects.append(NoticeDue(to=account, kind=NoticeKind.TRANSFERRED, due_s=due_s))


def _check_linked(owner: Party | None) -> None:
    if owner is None:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "the vehicle has no owner")


def cleared(draft: Draft, command: Cleared) -> None:
    """Take the report that one side is clear; each alone is half removed (S61)."""
    who = authorise(draft, command)
    if who is Who.VEHICLE and command.side is not Side.VEHICLE:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "the vehicle clears its own side only")
    if command.side is Side.VEHICLE:
        known = draft.removal is not None and Side.VEHICLE in draft.removal
        if draft.owner is not None or not known or command.epoch is not None:
            _told_clear(draft, command.epoch)
    elif draft.owner is not None:
        end_owner_now(draft)
    elif draft.removal is not None:
        _remove(draft, Side.ACCOUNT)


def factory_reset(draft: Draft, command: FactoryReset) -> None:
    """Take note that somebody in the vehicle erased everything there (S62, S122, C28)."""
    authorise(draft, command)
    _told_clear(draft, command.epoch)


def _told_clear(draft: Draft, epoch: int | None) -> None:
    """Take the vehicle's report; it may be of several erasures, and come late or twice."""
    if epoch is not None and epoch <= draft.told_epoch:
        return
    if draft.owner is not None:
        _everything_falls(draft)
        draft.removal = frozenset()
    _follow(draft, epoch, keep=False)
    if draft.removal is not None:
        _remove(draft, Side.VEHICLE)


def add_card(draft: Draft, command: AddCard) -> None:
    """Add a card of the owner, at a free place or at that of a damaged one (S25, S34, C32)."""
    authorise(draft, command)
    if command.card in draft.spent:
        raise PolicyRefusal(RefusalCode.REPLAY, "this card was paired here before")
    if command.card == draft.owner_item:
        raise PolicyRefusal(RefusalCode.REPLAY, "this is the owner's key, no card")
    if not draft.has_room():
        raise PolicyRefusal(
            RefusalCode.CARD_LIMIT, "the withdrawal list could not name one more card"
        )
    former = None
    if command.replaces is not None:
        former = next((c for c in draft.cards if c.card == command.replaces), None)
        if former is None:
            raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, "there is no such card to replace")
        if former.ended is not None:
            raise PolicyRefusal(RefusalCode.KEY_REVOKED, "the card to replace was ended already")
    initial = command.provenance is CardProvenance.INITIAL
    if initial and draft.initial_cards >= INITIAL_CARDS:
        raise PolicyRefusal(RefusalCode.CARD_LIMIT, "the initial card was given already")
    places = sum(1 for each in draft.cards if each.ended is None and each is not former)
    if places >= draft.flags.max_cards:
        raise PolicyRefusal(
            RefusalCode.CARD_LIMIT,
            f"{draft.flags.max_cards} cards are paired",
            hint="revoke or replace one of them",
        )
    if former is not None:
        draft.end_card(former, Ended.REPLACED)
    draft.initial_cards += initial
    draft.spent |= {command.card}
    draft.cards.append(CardKey(card=command.card, provenance=command.provenance))
    draft.effects.append(CardAdded(card=command.card))
