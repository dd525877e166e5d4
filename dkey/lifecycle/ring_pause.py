"""Pauses, holds of the authority, closed accounts, and the passing of time (A10, A11, S57)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.commands import HoldCause
from dkey.lifecycle.policy import (
    DAY_S,
    PAUSE_DAYS,
    PAUSE_EXT_DAYS,
    PAUSE_NOTICE_DAYS,
    PAUSE_PER_YEAR,
    SUSPEND_NOTICE_DAYS,
    YEAR_DAYS,
)
from dkey.lifecycle.ring_effects import NoticeDue, NoticeKind, PauseChanged, StartForbidden
from dkey.lifecycle.ring_rules import Who, authorise
from dkey.lifecycle.ring_state import (
    PHONE_CAUSES,
    Due,
    DueKind,
    Ended,
    Held,
    HoldKind,
    PauseStage,
    PauseState,
)

if TYPE_CHECKING:
    from dkey.lifecycle.commands import (
        CloseAccount,
        DelegatePause,
        EndPause,
        Hold,
        Immobilise,
        Pause,
        Release,
    )
    from dkey.lifecycle.ring_draft import Draft

__all__ = [
    "close_account",
    "delegate_pause",
    "end_pause",
    "hold",
    "immobilise",
    "pause",
    "pause_lapses",
    "release",
    "suspend_account",
]

_PAUSE_NOTICES = frozenset({NoticeKind.PAUSE_ENDS, NoticeKind.PAUSE_TERMINABLE})


def pause(draft: Draft, command: Pause) -> None:
    """Pause every key of the vehicle (S83, S85 to S87, C11, C13)."""
    who = authorise(draft, command)
    if who is Who.ACTUAL_USER and not draft.may_pause:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED, "the owner did not delegate the pause (S86)"
        )
    if not 1 <= command.days <= PAUSE_DAYS:
        raise PolicyRefusal(RefusalCode.PAUSE_QUOTA, f"a pause lasts 1 to {PAUSE_DAYS} days")
    if not draft.pauses_used or draft.now_s >= draft.pauses_from_s + YEAR_DAYS * DAY_S:
        draft.pauses_from_s, draft.pauses_used = draft.now_s, 0
    if draft.pauses_used >= PAUSE_PER_YEAR:
        again_s = draft.pauses_from_s + YEAR_DAYS * DAY_S
        raise PolicyRefusal(
            RefusalCode.PAUSE_QUOTA,
            f"{PAUSE_PER_YEAR} pauses were requested in a year",
            remaining_s=float(again_s - draft.now_s),
        )
    draft.pauses_used += 1
    until_s = draft.now_s + command.days * DAY_S
    draft.pause = PauseState(stage=PauseStage.PAUSED, by=command.actor, until_s=until_s)
    held = Held(kind=HoldKind.PAUSE, who=command.actor, on="")
    draft.hold_owner(held)
    draft.hold_shares(draft.live, held)
    if draft.flags.pause_affects_cards:
        draft.hold_cards(draft.cards, held)
    draft.effects.append(PauseChanged(state=PauseStage.PAUSED.value, until_s=until_s))
    _notice(draft, NoticeKind.PAUSE_ENDS, until_s)


def _notice(draft: Draft, kind: NoticeKind, until_s: int) -> None:
    at_s = max(draft.now_s, until_s - PAUSE_NOTICE_DAYS * DAY_S)
    due = Due(kind=DueKind.NOTICE, at_s=at_s, account=draft.owner_account, notice=kind)
    draft.due = (*draft.due, due)


def pause_lapses(draft: Draft) -> None:
    """Extend a pause that nobody ended, once; then it may be terminated (S84, C11, C12)."""
    state = draft.pause
    if state is None or not state.until_s:
        return
    if state.stage is PauseStage.PAUSED:
        until_s = state.until_s + PAUSE_EXT_DAYS * DAY_S
        draft.pause = PauseState(stage=PauseStage.PAUSED_EXT, by=state.by, until_s=until_s)
        _notice(draft, NoticeKind.PAUSE_TERMINABLE, until_s)
    else:
        draft.pause = PauseState(stage=PauseStage.TERMINABLE, by=state.by, until_s=0)
    draft.effects.append(PauseChanged(state=draft.pause.stage.value, until_s=draft.pause.until_s))


def end_pause(draft: Draft, command: EndPause) -> None:
    """End the pause; what else suspends a key stays (C11, S92)."""
    who = authorise(draft, command)
    if draft.pause is None:
        return
    if who is Who.ACTUAL_USER and draft.pause.by != command.actor:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "the owner paused, and ends it")
    draft.pause = None
    draft.due = tuple(each for each in draft.due if each.notice not in _PAUSE_NOTICES)
    draft.lift(lambda held: held.kind is HoldKind.PAUSE)
    draft.effects.append(PauseChanged(state=None, until_s=draft.now_s))


def delegate_pause(draft: Draft, command: DelegatePause) -> None:
    """Let the actual user pause, or not any more (S86)."""
    authorise(draft, command)
    draft.may_pause = command.allowed


def hold(draft: Draft, command: Hold) -> None:
    """Suspend an account: at once, or for unpaid fees after the notice (S89, S91)."""
    authorise(draft, command)
    if command.cause is not HoldCause.UNPAID:
        suspend_account(draft, command.account, command.cause)
        return
    at_s = draft.now_s + SUSPEND_NOTICE_DAYS * DAY_S
    coming = Due(kind=DueKind.HOLD, at_s=at_s, account=command.account, cause=command.cause)
    if any(_same_hold(each, coming) for each in draft.due):
        return
    draft.due = (*draft.due, coming)
    draft.effects.append(NoticeDue(to=command.account, kind=NoticeKind.SUSPENSION, due_s=at_s))


def _same_hold(one: Due, other: Due) -> bool:
    return (one.kind, one.account, one.cause) == (other.kind, other.account, other.cause)


def suspend_account(draft: Draft, account: str, cause: HoldCause) -> None:
    """Suspend an account's keys, its cards, and downwards what stands on it (S22, S51, S90)."""
    held = Held(kind=HoldKind.ACCOUNT, who="@authority", on=account, cause=cause)
    draft.account_holds |= {held}
    cascades = draft.flags.cascade_automatic and cause not in PHONE_CAUSES
    if account == draft.owner_account:
        draft.hold_owner(held)
        draft.hold_cards(draft.cards, held)
        if cascades:
            draft.hold_shares(draft.live, held)
        return
    share = draft.share_of(account)
    if share is None:
        raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, f"{account} holds no key of this vehicle")
    below = draft.beneath(share) if cascades else draft.signed_by(share)
    draft.hold_shares((share, *below), held)


def release(draft: Draft, command: Release) -> None:
    """Lift what one hold took, and only that; or take back a hold that was announced (S92)."""
    authorise(draft, command)
    draft.due = tuple(
        each
        for each in draft.due
        if each.kind is not DueKind.HOLD
        or (each.account, each.cause) != (command.account, command.cause)
    )
    gone = frozenset(
        held
        for held in draft.account_holds
        if (held.on, held.cause) == (command.account, command.cause)
    )
    draft.account_holds -= gone
    draft.lift(lambda held: held in gone)


def close_account(draft: Draft, command: CloseAccount) -> None:
    """End an account: its phone keys are unusable for good; cards and the contract stay (S57)."""
    if command.actor != command.account:
        authorise(draft, command)
    if command.account in draft.closed:
        return
    share = draft.share_of(command.account)
    if share is None and command.account != draft.owner_account:
        raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, f"{command.account} holds no key here")
    draft.closed |= {command.account}
    if share is not None:
        draft.end(share, Ended.REVOKED)
    elif draft.owner_item is not None:
        draft.withdraw(draft.owner_item, 0)


def immobilise(draft: Draft, command: Immobilise) -> None:
    """Forbid starting to every key, or permit it again (S101)."""
    authorise(draft, command)
    if draft.immobilised != command.on:
        draft.immobilised = command.on
        draft.listed()
        draft.effects.append(StartForbidden(on=command.on))
