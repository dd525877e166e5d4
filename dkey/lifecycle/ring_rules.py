"""Who may do what to whose key: the table, and the one function that reads it.

The table is drawn into specs/lifecycle.md. An operation that is not in it is not allowed; what must
hold besides (places, vetoes, quotas) is decided by the rule of the operation itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.commands import AUTHORITY, DEALER, VEHICLE, PartyKind
from dkey.lifecycle.ring_state import ShareState
from dkey.lifecycle.roles import Role

if TYPE_CHECKING:
    from dkey.lifecycle.commands import Command
    from dkey.lifecycle.ring_draft import Draft
    from dkey.lifecycle.ring_state import Share

__all__ = ["RANK", "RIGHTS", "Right", "Who", "authorise"]


class Who(StrEnum):
    """What an actor is in relation to the vehicle and to the key in question."""

    OWNER = "OWNER"
    ACTUAL_USER = "ACTUAL_USER"
    ASSOCIATE = "ASSOCIATE"
    PROVIDER = "PROVIDER"
    HOLDER = "HOLDER"
    """Whose key it is, from the invitation on."""
    ORDERER = "ORDERER"
    """Who ordered this provider's key."""
    REPRESENTATIVE = "REPRESENTATIVE"
    """The authority on behalf of a corporate owner, who needs no phone (C31)."""
    AUTHORITY = "AUTHORITY"
    DEALER = "DEALER"
    VEHICLE = "VEHICLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One row: an actor may do an operation to keys of these roles.

    Attributes:
        standing: The actor's own key must be usable: what gives rights needs it, what takes them
            away does not.
    """

    operation: str
    who: Who
    targets: frozenset[Role]
    standing: bool
    source: str


_NONE: Final[frozenset[Role]] = frozenset()
_SHARES: Final = frozenset({Role.ACTUAL_USER, Role.ASSOCIATE, Role.PROVIDER})
_BELOW_AU: Final = frozenset({Role.ASSOCIATE, Role.PROVIDER})
_PROVIDER: Final = frozenset({Role.PROVIDER})
_OWNED: Final = _SHARES | {Role.CARD}
_ALL: Final = _OWNED | {Role.OWNER}


def _right(
    operation: str, who: Who, targets: frozenset[Role], source: str, *, standing: bool = False
) -> Right:
    return Right(operation=operation, who=who, targets=targets, standing=standing, source=source)


RIGHTS: Final[tuple[Right, ...]] = (
    _right("ChangeOwner", Who.OWNER, _NONE, "S127", standing=True),
    _right("ChangeOwner", Who.AUTHORITY, _NONE, "S50"),
    _right("BeginEpoch", Who.VEHICLE, _NONE, "S127, S70"),
    _right("EndOwner", Who.OWNER, _NONE, "S58"),
    _right("EndOwner", Who.AUTHORITY, _NONE, "S50, S52, S59"),
    _right("Unpair", Who.OWNER, _NONE, "S61"),
    _right("Unpair", Who.REPRESENTATIVE, _NONE, "S61, C31"),
    _right("Transfer", Who.OWNER, _NONE, "S55"),
    _right("Transfer", Who.AUTHORITY, _NONE, "S56"),
    _right("Invite", Who.OWNER, _SHARES, "S46, S40, S108", standing=True),
    _right("Invite", Who.ACTUAL_USER, _BELOW_AU, "S46", standing=True),
    _right("Invite", Who.ASSOCIATE, _PROVIDER, "S108, C17", standing=True),
    _right("Invite", Who.REPRESENTATIVE, _SHARES, "C31", standing=True),
    _right("Accept", Who.HOLDER, _SHARES, "S41, S42"),
    _right("Decline", Who.HOLDER, _SHARES, "S10"),
    _right("Approve", Who.OWNER, _PROVIDER, "C21", standing=True),
    _right("Approve", Who.REPRESENTATIVE, _PROVIDER, "C21, C31", standing=True),
    _right("Activate", Who.VEHICLE, _SHARES, "S79"),
    _right("Activate", Who.AUTHORITY, _SHARES, "S79"),
    _right("Suspend", Who.OWNER, _OWNED, "S49, C32"),
    _right("Suspend", Who.ACTUAL_USER, _BELOW_AU, "S49"),
    _right("Suspend", Who.AUTHORITY, _OWNED, "S23"),
    _right("Resume", Who.OWNER, _OWNED, "C15", standing=True),
    _right("Resume", Who.ACTUAL_USER, _BELOW_AU, "C15", standing=True),
    _right("Resume", Who.AUTHORITY, _OWNED, "S23, C15"),
    _right("Revoke", Who.OWNER, _OWNED, "S49, C32"),
    _right("Revoke", Who.ACTUAL_USER, _BELOW_AU, "S49"),
    _right("Revoke", Who.ORDERER, _PROVIDER, "C38"),
    _right("Revoke", Who.AUTHORITY, _OWNED, "S23, C31"),
    _right("Veto", Who.OWNER, _NONE, "S46, C16"),
    _right("Veto", Who.REPRESENTATIVE, _NONE, "S46, C31"),
    _right("LiftVeto", Who.OWNER, _NONE, "C16", standing=True),
    _right("LiftVeto", Who.REPRESENTATIVE, _NONE, "C16, C31", standing=True),
    _right("Pause", Who.OWNER, _NONE, "S83", standing=True),
    _right("Pause", Who.ACTUAL_USER, _NONE, "S86, when delegated", standing=True),
    _right("Pause", Who.REPRESENTATIVE, _NONE, "S83, C31", standing=True),
    _right("EndPause", Who.OWNER, _NONE, "C11"),
    _right("EndPause", Who.ACTUAL_USER, _NONE, "C11, S86, the own pause"),
    _right("EndPause", Who.AUTHORITY, _NONE, "C11"),
    _right("DelegatePause", Who.OWNER, _NONE, "S86", standing=True),
    _right("DelegatePause", Who.REPRESENTATIVE, _NONE, "S86, C31", standing=True),
    _right("Hold", Who.AUTHORITY, _NONE, "S89"),
    _right("Release", Who.AUTHORITY, _NONE, "S92"),
    _right("ReportLost", Who.OWNER, _ALL, "S60"),
    _right("ReportLost", Who.ACTUAL_USER, _BELOW_AU, "S60, S49"),
    _right("ReportLost", Who.HOLDER, _SHARES, "S60"),
    _right("ReportLost", Who.AUTHORITY, _ALL, "S60"),
    _right("ReleaseLost", Who.OWNER, _OWNED, "S60", standing=True),
    _right("ReleaseLost", Who.AUTHORITY, _ALL, "S60"),
    _right("CloseAccount", Who.AUTHORITY, _NONE, "S57"),
    _right("Immobilise", Who.AUTHORITY, _NONE, "S101"),
    _right("AddCard", Who.OWNER, _NONE, "C32", standing=True),
    _right("AddCard", Who.REPRESENTATIVE, _NONE, "C32, C31", standing=True),
    _right("AddCard", Who.VEHICLE, _NONE, "C32, the owner is present", standing=True),
    _right("Cleared", Who.AUTHORITY, _NONE, "S61"),
    _right("Cleared", Who.VEHICLE, _NONE, "S61, S62, its own side"),
    _right("FactoryReset", Who.VEHICLE, _NONE, "S62, S122"),
    _right("PowerCycle", Who.VEHICLE, _NONE, "S123"),
    _right("Tick", Who.AUTHORITY, _NONE, "S54, S84"),
    _right("Tick", Who.VEHICLE, _NONE, "S54, S84"),
)
"""The whole table. Found is not in it: before it there is nobody to hold a right (S38, S125). An
account may always close itself (S57)."""

_BY_OPERATION: Final = {
    name: {right.who: right for right in RIGHTS if right.operation == name}
    for name in dict.fromkeys(right.operation for right in RIGHTS)
}

RANK: Final = {Role.OWNER: 0, Role.ACTUAL_USER: 1, Role.ASSOCIATE: 2, Role.PROVIDER: 3}
"""Cascades go to a higher number only (S90)."""

_PRINCIPALS: Final = {DEALER: (Who.DEALER,), VEHICLE: (Who.VEHICLE,)}


def _is(draft: Draft, actor: str, share: Share | None) -> tuple[Who, ...]:
    if actor == AUTHORITY:
        corporate = draft.owner is not None and draft.owner.kind is PartyKind.CORPORATE
        return (Who.REPRESENTATIVE, Who.AUTHORITY) if corporate else (Who.AUTHORITY,)
    if actor in _PRINCIPALS:
        return _PRINCIPALS[actor]
    if actor in draft.closed:
        return ()
    if draft.owner is not None and draft.owner.account == actor:
        return (Who.OWNER,)
    found: list[Who] = []
    own = draft.share_of(actor)
    if own is not None and own.state is ShareState.ACTIVE:
        found.append(Who(own.role.value))
    if share is not None and share.account == actor:
        found.append(Who.HOLDER)
    if share is not None and share.role is Role.PROVIDER and share.grantor == actor:
        found.append(Who.ORDERER)
    return tuple(found)


def authorise(
    draft: Draft, command: Command, target: Role | None = None, share: Share | None = None
) -> Who:
    """Return as what the actor may do this.

    Args:
        draft: The ring.
        command: What is wanted.
        target: Role of the key that it concerns; None where it concerns no single key.
        share: That key, if it is a share that exists.

    Raises:
        PolicyRefusal: NOT_AUTHORISED, or why the actor's own key is not usable.
    """
    rows = _BY_OPERATION[type(command).__name__]
    for who in _is(draft, command.actor, share):
        right = rows.get(who)
        if right is not None and (target is None or target in right.targets):
            if right.standing:
                _check_standing(draft, who, command.actor)
            return who
    raise PolicyRefusal(
        RefusalCode.NOT_AUTHORISED,
        f"{command.actor} may not do {type(command).__name__}"
        + (f" to a key of role {target.value}" if target else ""),
        hint="ask the owner",
    )


def _check_standing(draft: Draft, who: Who, actor: str) -> None:
    if who in (Who.OWNER, Who.REPRESENTATIVE, Who.VEHICLE):
        if draft.owner is None:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "the vehicle has no owner")
        if draft.owner_holds:
            raise PolicyRefusal(RefusalCode.KEY_SUSPENDED, "the owner is suspended or paused")
        return
    own = draft.share_of(actor)
    if own is None:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, f"{actor} holds no key")
    if own.holds:
        raise PolicyRefusal(RefusalCode.KEY_SUSPENDED, f"the key of {actor} is suspended")
    if draft.now_s < own.not_before_s:
        raise PolicyRefusal(RefusalCode.KEY_EXPIRED, f"the key of {actor} is not valid yet")
    if not own.confirmed:
        raise PolicyRefusal(
            RefusalCode.NOT_SYNCED,
            f"the vehicle has not seen the key of {actor} yet",
            hint="use the key at the vehicle first",
        )
