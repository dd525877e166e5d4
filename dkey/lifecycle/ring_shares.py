"""Shares from the invitation to the first use (requirements A6, A14; C1, C16, C17, C21, C22)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.changed import changed
from dkey.lifecycle.claims import NO_SLOT
from dkey.lifecycle.commands import PartyKind
from dkey.lifecycle.policy import MAX_ACCOUNT, PROVIDER_GRACE_MIN
from dkey.lifecycle.ring_effects import (
    KeyAccepted,
    KeyConfirmed,
    KeyOffered,
    NoticeKind,
    OwnerNotified,
)
from dkey.lifecycle.ring_rules import Who, authorise
from dkey.lifecycle.ring_state import Ended, Share, ShareState
from dkey.lifecycle.ring_withdrawal import keep_the_will
from dkey.lifecycle.roles import Permission, Role

if TYPE_CHECKING:
    from dkey.lifecycle.commands import Accept, Activate, Approve, Booking, Decline, Invite
    from dkey.lifecycle.ring_draft import Draft

__all__ = ["accept", "activate", "approve", "check_open", "decline", "invite", "take_key"]


def invite(draft: Draft, command: Invite) -> None:
    """Offer a key; it takes its place at once (S10, C1)."""
    who = authorise(draft, command, command.role)
    if draft.flags.touch_only and not draft.flags.touch_profile_sharing:
        raise PolicyRefusal(RefusalCode.FEATURE_NOT_SUPPORTED, "this vehicle shares no keys")
    if command.share_id in draft.spent or command.share_id == draft.owner_item:
        # A share id and a key's reference look alike: who revokes the one would revoke the other.
        raise PolicyRefusal(RefusalCode.REPLAY, "this share id was used before")
    _check_account(draft, command.account)
    if draft.veto_all or command.account in draft.vetoes:
        raise PolicyRefusal(RefusalCode.VETOED_BY_OWNER, "the owner forbids this sharing")
    begins_s, ends_s = command.not_before_s, command.not_after_s
    if command.role is Role.PROVIDER:
        begins_s, ends_s = _provider_window(draft, command)
    _check_grant(draft, command, begins_s, ends_s)
    if command.role is Role.ACTUAL_USER:
        _take_actual_users_place(draft, command)
    if draft.share_of(command.account) is not None:
        raise PolicyRefusal(
            RefusalCode.ALREADY_LINKED,
            f"{command.account} has a key of this vehicle",
            hint="revoke it first",
        )
    ordered = who is Who.ASSOCIATE
    slot = _free_slot(draft, command.role)
    if not draft.has_room():
        raise PolicyRefusal(
            RefusalCode.SHARE_LIMIT,
            "the withdrawal list could not name one more key",
            hint="wait until withdrawn keys have expired",
        )
    share = Share(
        share_id=command.share_id,
        account=command.account,
        role=command.role,
        permission=command.permission,
        not_before_s=begins_s,
        not_after_s=ends_s,
        slot=slot,
        grantor=draft.owner_account if who is Who.REPRESENTATIVE else command.actor,
        granted_s=draft.now_s,
        booking=command.booking,
        holds=frozenset([each for each in draft.account_holds if each.on == command.account]),
        approved=not (ordered and draft.flags.owner_approval_required),
    )
    draft.shares.append(share)
    draft.forget_oldest()
    draft.spent |= {share.share_id}
    if share.holds:
        draft.listed()
    if command.booking is not None:
        _notify_owner(draft, share, command.booking, command.actor)
    draft.effects.append(
        KeyOffered(item=share.share_id, account=share.account, role=share.role, slot=share.slot)
    )


def _check_grant(draft: Draft, command: Invite, begins_s: int, ends_s: int) -> None:
    if ends_s < max(begins_s, draft.now_s):
        raise PolicyRefusal(RefusalCode.KEY_EXPIRED, "the key would never be valid")
    grantor = draft.share_of(command.actor)
    if grantor is not None and grantor.permission is Permission.ENTRY != command.permission:
        raise PolicyRefusal(
            RefusalCode.PERMISSION_ENTRY_ONLY, "nobody grants more than they were granted"
        )
    if command.booking is not None and command.role is not Role.PROVIDER:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "a booking is for a provider's key only")
    if command.replaces is not None and command.role is not Role.ACTUAL_USER:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "only an actual user replaces another")


def check_open(draft: Draft, account: str) -> None:
    """Check that a key goes to an account that is open (S42).

    Raises:
        PolicyRefusal: NOT_AUTHORISED.
    """
    name, at, domain = account.partition("@")
    formed = name and at and domain and account.isprintable()
    if not formed or len(account.encode()) > MAX_ACCOUNT or account in draft.closed:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED, f"{account!r} is no open account: keys go to accounts only"
        )


def _check_account(draft: Draft, account: str) -> None:
    check_open(draft, account)
    if account == draft.owner_account:
        raise PolicyRefusal(RefusalCode.ALREADY_LINKED, "the owner needs no share")


def _provider_window(draft: Draft, command: Invite) -> tuple[int, int]:
    """Return the window of a provider's key: that of the booking and the grace after it (C22)."""
    booking = command.booking
    if not draft.flags.remote_handover or (booking is not None and booking.iphone):
        raise PolicyRefusal(
            RefusalCode.IN_PERSON_ONLY,
            "no key goes to a provider here",
            hint="open the vehicle yourself, or hand over a card",
        )
    orderer = draft.share_of(command.actor)
    if orderer is not None and orderer.permission is Permission.ENTRY:
        raise PolicyRefusal(
            RefusalCode.PERMISSION_ENTRY_ONLY, "only a sharee who may start orders services"
        )
    if booking is None or booking.provider != command.account:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "a provider's key needs its booking")
    if not booking.third_party_consent:
        raise PolicyRefusal(
            RefusalCode.CONSENT_MISSING,
            "nobody agreed that data goes to the provider",
            hint="agree to it in the order",
        )
    if booking.needs_start != (command.permission is Permission.ENTRY_AND_START):
        code = (
            RefusalCode.PERMISSION_ENTRY_ONLY if booking.needs_start else RefusalCode.NOT_AUTHORISED
        )
        raise PolicyRefusal(code, "a provider gets what the job needs and no more")
    return (
        max(command.not_before_s, booking.begins_s),
        min(command.not_after_s, booking.ends_s + PROVIDER_GRACE_MIN * 60),
    )


def _notify_owner(draft: Draft, share: Share, booking: Booking, actor: str) -> None:
    draft.effects.append(
        OwnerNotified(
            to=draft.owner_account,
            kind=NoticeKind.PROVIDER_KEY,
            item=share.share_id,
            ordered_by=actor,
            recipient=booking.provider,
            purpose=booking.purpose,
            at_s=draft.now_s,
        )
    )


def _take_actual_users_place(draft: Draft, command: Invite) -> None:
    """Make room for an actual user; the former one falls in the same step (S40, S68)."""
    if draft.owner is None or draft.owner.kind is not PartyKind.CORPORATE:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED, "only a corporate owner has an actual user (S40)"
        )
    former = next((each for each in draft.live if each.role is Role.ACTUAL_USER), None)
    if command.replaces is None:
        if former is not None:
            raise PolicyRefusal(
                RefusalCode.SHARE_LIMIT, "there is an actual user", hint="replace that one"
            )
        return
    if former is None or former.share_id != command.replaces:
        raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, "that is not the actual user")
    draft.end(former, Ended.REVOKED)


def _free_slot(draft: Draft, role: Role) -> int:
    if role is Role.ACTUAL_USER or (role is Role.PROVIDER and not draft.flags.provider_counts):
        return NO_SLOT
    taken = {each.slot for each in draft.live}
    for slot in range(1, draft.places + 1):
        if slot not in taken:
            return slot
    raise PolicyRefusal(
        RefusalCode.SHARE_LIMIT,
        f"{draft.places} people have a key of this vehicle",
        hint="revoke one of them first",
    )


def take_key(draft: Draft, key_x: bytes) -> None:
    """Check that a key is nobody else's here.

    Raises:
        PolicyRefusal: REPLAY.
    """
    if key_x == draft.owner_key_x or key_x in [each.key_x for each in draft.live]:
        raise PolicyRefusal(RefusalCode.REPLAY, "this key is enrolled at this vehicle already")


def _living(draft: Draft, share_id: bytes) -> Share:
    share = draft.invited(share_id)
    if share.ended is not None:
        expired = share.ended is Ended.EXPIRED
        raise PolicyRefusal(
            RefusalCode.KEY_EXPIRED if expired else RefusalCode.KEY_REVOKED,
            f"this share has {share.ended.value.lower()}" if expired else "this share was ended",
            hint="ask for a new invitation",
        )
    return share


def accept(draft: Draft, command: Accept) -> None:
    """Take an offered key; the same answer again changes nothing."""
    share = draft.invited(command.share_id)
    authorise(draft, command, share.role, share)
    share = _living(draft, command.share_id)
    if share.state is ShareState.ACTIVE:
        if share.key_x != command.key_x:
            raise PolicyRefusal(RefusalCode.REPLAY, "this share has another key already")
        return
    if share.holds:
        raise PolicyRefusal(RefusalCode.KEY_SUSPENDED, "this share is suspended")
    if not share.approved:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED, "the owner has not approved this key yet", hint="wait"
        )
    take_key(draft, command.key_x)
    draft.put(changed(share, state=ShareState.ACTIVE, key_x=command.key_x))
    draft.effects.append(KeyAccepted(item=share.share_id, account=share.account))


def approve(draft: Draft, command: Approve) -> None:
    """Agree to a provider's key (C21)."""
    share = draft.invited(command.share_id)
    authorise(draft, command, share.role, share)
    draft.put(changed(_living(draft, command.share_id), approved=True))


def activate(draft: Draft, command: Activate) -> None:
    """Note that the vehicle saw the key; the same report again changes nothing (S79)."""
    share = draft.invited(command.share_id)
    authorise(draft, command, share.role, share)
    share = _living(draft, command.share_id)
    if share.state is ShareState.PENDING:
        raise PolicyRefusal(RefusalCode.PENDING_ACTIVATION, "nobody accepted this share yet")
    if not share.confirmed:
        draft.put(changed(share, confirmed=True))
        draft.effects.append(KeyConfirmed(item=share.share_id))


def decline(draft: Draft, command: Decline) -> None:
    """Do not take the key, or give it back; the same answer again changes nothing."""
    share = draft.invited(command.share_id)
    authorise(draft, command, share.role, share)
    keep_the_will(draft, share)
    draft.end(share, Ended.DECLINED)
