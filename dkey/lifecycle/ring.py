"""Every lifecycle rule in one call: a ring, a command and the time give the next ring.

:func:`apply` is the only way to change a ring. What time itself does (expiry, the end of a notice,
a pause that lapses) is done first, so that no command ever sees a state that is out of date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle import commands as c
from dkey.lifecycle import ring_owner, ring_pause, ring_shares, ring_withdrawal
from dkey.lifecycle.account import check_accounts
from dkey.lifecycle.policy import DAY_S, LOG_RETENTION_MONTHS, MONTH_DAYS
from dkey.lifecycle.ring_draft import Draft
from dkey.lifecycle.ring_effects import NoticeDue
from dkey.lifecycle.ring_rules import authorise
from dkey.lifecycle.ring_state import DueKind, Ended, ShareState
from dkey.lifecycle.ring_value import Ring

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.lifecycle.ring_effects import Effect
    from dkey.lifecycle.ring_state import Due

__all__ = ["Ring", "apply"]

_KEEP_S: Final = int(LOG_RETENTION_MONTHS * MONTH_DAYS * DAY_S)


def apply(
    ring: Ring, command: c.Command, *, at_s: int, draft_type: type[Draft] = Draft
) -> tuple[Ring, tuple[Effect, ...]]:
    """Return the ring after a command, and what happened.

    Args:
        ring: The keys as they are.
        command: What somebody wants done.
        at_s: When, seconds since 1970; earlier than the ring has seen counts as that time.
        draft_type: For the exhaustive check only, which puts broken rules in.

    Raises:
        PolicyRefusal: A rule says no; nothing was changed.
    """
    rule = _RULES.get(type(command))
    if rule is None:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, f"{type(command).__name__} is no command")
    check_accounts(command)
    draft = draft_type(ring, at_s)
    _catch_up(draft)
    rule(draft, command)
    return draft.done(), tuple(draft.effects)


def _catch_up(draft: Draft) -> None:
    """Do what is due, in the order in which it became due."""
    now_s = draft.now_s
    while (first_s := _first_due_s(draft)) <= now_s:
        # Each thing happens at its own time, however late it is noticed.
        draft.now_s = first_s
        _happens(draft, first_s)
        draft.now_s = now_s


def _first_due_s(draft: Draft) -> int:
    """Return when the next thing is due that is not done yet; the time after now for nothing."""
    first_s = draft.now_s + 1
    for share in draft.shares:
        if share.not_after_s + 1 < first_s and share.state is not ShareState.ENDED:
            first_s = share.not_after_s + 1
    for each in draft.due:
        first_s = min(first_s, each.at_s)
    if draft.pause is not None and 0 < draft.pause.until_s < first_s:
        first_s = draft.pause.until_s
    return first_s


def _happens(draft: Draft, first_s: int) -> None:
    for share in draft.live:
        if share.not_after_s < first_s:
            draft.end(draft.invited(share.share_id), Ended.EXPIRED)
    coming = [each for each in draft.due if each.at_s <= first_s]
    draft.due = tuple(each for each in draft.due if each.at_s > first_s)
    for each in coming:
        _comes(draft, each)
    if draft.pause is not None and 0 < draft.pause.until_s <= first_s:
        ring_pause.pause_lapses(draft)


def _comes(draft: Draft, due: Due) -> None:
    if due.kind is DueKind.NOTICE and due.notice is not None:
        draft.effects.append(NoticeDue(to=due.account, kind=due.notice, due_s=due.at_s))
    elif due.kind is DueKind.HOLD and due.cause is not None:
        if due.account == draft.owner_account or draft.share_of(due.account) is not None:
            ring_pause.suspend_account(draft, due.account, due.cause)
    elif due.kind is DueKind.END_OWNER and draft.owner is not None:
        ring_owner.end_owner_now(draft)


def _tick(draft: Draft, command: c.Tick) -> None:
    """Forget what ended long ago, and take from the list what is expired anyway (S151)."""
    authorise(draft, command)
    now_s = draft.now_s
    draft.shares = [
        each
        for each in draft.shares
        if each.state is not ShareState.ENDED or each.ended_s + _KEEP_S > now_s
    ]
    draft.forget_expired()


def _power_cycle(draft: Draft, command: c.PowerCycle) -> None:
    """Change nothing (S123)."""
    authorise(draft, command)


_RULES: Final[dict[type[c.Command], Callable[[Draft, Any], None]]] = {
    c.Found: ring_owner.found,
    c.ChangeOwner: ring_owner.change_owner,
    c.BeginEpoch: ring_owner.begin_epoch,
    c.EndOwner: ring_owner.end_owner,
    c.Unpair: ring_owner.unpair,
    c.Transfer: ring_owner.transfer,
    c.Cleared: ring_owner.cleared,
    c.Invite: ring_shares.invite,
    c.Accept: ring_shares.accept,
    c.Approve: ring_shares.approve,
    c.Activate: ring_shares.activate,
    c.Decline: ring_shares.decline,
    c.Suspend: ring_withdrawal.suspend,
    c.Resume: ring_withdrawal.resume,
    c.Revoke: ring_withdrawal.revoke,
    c.Veto: ring_withdrawal.veto,
    c.LiftVeto: ring_withdrawal.lift_veto,
    c.Pause: ring_pause.pause,
    c.EndPause: ring_pause.end_pause,
    c.DelegatePause: ring_pause.delegate_pause,
    c.Hold: ring_pause.hold,
    c.Release: ring_pause.release,
    c.ReportLost: ring_withdrawal.report_lost,
    c.ReleaseLost: ring_withdrawal.release_lost,
    c.CloseAccount: ring_pause.close_account,
    c.Immobilise: ring_pause.immobilise,
    c.AddCard: ring_owner.add_card,
    c.FactoryReset: ring_owner.factory_reset,
    c.PowerCycle: _power_cycle,
    c.Tick: _tick,
}
"""Every command and its rule."""
