"""Every kind of decision on a full ring, for ``lifecycle.py``.

The ring is the largest one that the rules allow: a corporate owner, an actual user, three
associates in the three places, two cards. Kinds that need another beginning have it made from this
one. Each command is granted: a refusal is cheaper than what it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator

from dkey.lifecycle import commands as c
from dkey.lifecycle.claims import key_ref
from dkey.lifecycle.flags import Flags
from dkey.lifecycle.policy import YEAR_DAYS
from dkey.lifecycle.ring import Ring, apply
from dkey.lifecycle.roles import CardProvenance, Permission, Role

__all__ = ["Decision", "decisions"]

Decision = tuple[str, Ring, c.Command, int]
"""What it is called, the ring before, the command, and when."""
NOW_S = 1_700_000_000
LATER_S = NOW_S + 2 * YEAR_DAYS * 86_400
OWNER, USER, ANNA, BOB, CARL, WASH = (
    f"{name}@example.org" for name in ("owner", "user", "anna", "bob", "carl", "wash")
)
CORPORATE = c.Party(account=OWNER, kind=c.PartyKind.CORPORATE)
OWNER_X = b"o" * 32
CARDS = (b"1" * 16, b"2" * 16)
FLAGS = Flags(remote_handover=True, owner_approval_required=True)


def _item(account: str) -> bytes:
    return account.encode().ljust(16, b".")[:16]


def _key(account: str) -> bytes:
    return account.encode().ljust(32, b"x")


def _invite(account: str, role: Role, by: str, **more: object) -> c.Invite:
    return c.Invite(
        actor=by,
        share_id=_item(account),
        account=account,
        role=role,
        permission=Permission.ENTRY_AND_START,
        not_before_s=NOW_S,
        not_after_s=NOW_S + YEAR_DAYS * 86_400,
        **more,  # type: ignore[arg-type] - booking or replaces
    )


def _accept(account: str) -> c.Accept:
    return c.Accept(actor=account, share_id=_item(account), key_x=_key(account))


def _activate(account: str) -> c.Activate:
    return c.Activate(actor=c.VEHICLE, share_id=_item(account))


def _after(ring: Ring, *commands: c.Command) -> Ring:
    for command in commands:
        ring, _ = apply(ring, command, at_s=NOW_S)
    return ring


def _card(number: int) -> c.AddCard:
    return c.AddCard(actor=OWNER, card=CARDS[number], provenance=CardProvenance.PURCHASED)


def _people() -> Ring:
    """Return a ring with an actual user, three associates and no card."""
    ring = _after(
        Ring(vehicle=b"V" * 16, flags=FLAGS),
        c.Found(actor=c.AUTHORITY, owner=CORPORATE, key_x=OWNER_X),
    )
    givers = {USER: OWNER, ANNA: USER, BOB: OWNER, CARL: USER}
    for account, by in givers.items():
        role = Role.ACTUAL_USER if account == USER else Role.ASSOCIATE
        ring = _after(ring, _invite(account, role, by), _accept(account), _activate(account))
    return ring


def decisions() -> list[Decision]:
    """Return every kind of decision: all commands, and both ends of what cascades."""
    full = _after(_people(), _card(0), _card(1))
    return [
        (name, ring, command, NOW_S)
        for kinds in (_sharing, _withdrawing, _suspending, _owning)
        for name, ring, command in kinds(full)
    ] + [
        ("Tick, nothing due", full, c.Tick(actor=c.AUTHORITY), NOW_S),
        ("Tick, every share expires", full, c.Tick(actor=c.AUTHORITY), LATER_S),
    ]


Kinds = Iterator[tuple[str, Ring, c.Command]]


def _sharing(full: Ring) -> Kinds:
    free = _after(full, c.Revoke(actor=OWNER, item=_item(CARL)))
    booking = c.Booking(
        booking_id="1",
        provider=WASH,
        purpose="pick-up",
        begins_s=NOW_S,
        ends_s=NOW_S + 3600,
        needs_start=True,
        third_party_consent=True,
    )
    order = _invite(WASH, Role.PROVIDER, ANNA, booking=booking)
    friend = "dora@example.org"
    invite = _invite(friend, Role.ASSOCIATE, OWNER)
    offered = _after(free, invite)
    yield "Invite", free, invite
    yield "Invite a provider", free, order
    yield "Approve", _after(free, order), c.Approve(actor=OWNER, share_id=_item(WASH))
    yield "Accept", offered, _accept(friend)
    yield "Activate", _after(offered, _accept(friend)), _activate(friend)
    yield "Decline", offered, c.Decline(actor=friend, share_id=_item(friend))
    instead = _invite(friend, Role.ACTUAL_USER, OWNER, replaces=_item(USER))
    yield "Invite in the actual user's place", full, instead


def _withdrawing(full: Ring) -> Kinds:
    yield "Revoke an associate", full, c.Revoke(actor=USER, item=_item(ANNA))
    yield "Revoke the actual user", full, c.Revoke(actor=OWNER, item=_item(USER))
    yield "Revoke a card", full, c.Revoke(actor=OWNER, item=CARDS[0])
    for what, item in (("an associate", _item(ANNA)), ("the actual user", _item(USER))):
        suspend = c.Suspend(actor=OWNER, item=item)
        yield f"Suspend {what}", full, suspend
        yield f"Resume {what}", _after(full, suspend), c.Resume(actor=OWNER, item=item)
    yield "Veto one account", full, c.Veto(actor=OWNER, account=ANNA)
    yield "Veto all sharing", full, c.Veto(actor=OWNER)
    yield "LiftVeto", _after(full, c.Veto(actor=OWNER)), c.LiftVeto(actor=OWNER)
    phone = key_ref(OWNER_X)
    lost = c.ReportLost(actor=OWNER, item=phone)
    yield "ReportLost, the owner's phone", full, lost
    yield "ReleaseLost", _after(full, lost), c.ReleaseLost(actor=c.AUTHORITY, item=phone)


def _suspending(full: Ring) -> Kinds:
    pause = c.Pause(actor=OWNER, days=30)
    yield "Pause", full, pause
    yield "EndPause", _after(full, pause), c.EndPause(actor=OWNER)
    yield "DelegatePause", full, c.DelegatePause(actor=OWNER, allowed=True)
    for what, account in (("the actual user", USER), ("the owner", OWNER)):
        cause = c.HoldCause.CLONING
        hold = c.Hold(actor=c.AUTHORITY, account=account, cause=cause)
        release = c.Release(actor=c.AUTHORITY, account=account, cause=cause)
        yield f"Hold {what}", full, hold
        yield f"Release {what}", _after(full, hold), release
    yield "CloseAccount, the actual user's", full, c.CloseAccount(actor=USER, account=USER)
    yield "Immobilise", full, c.Immobilise(actor=c.AUTHORITY, on=True)


def _owning(full: Ring) -> Kinds:
    found = c.Found(actor=c.AUTHORITY, owner=CORPORATE, key_x=OWNER_X)
    yield "Found", Ring(vehicle=b"V" * 16, flags=FLAGS), found
    heir = c.Party(account="heir@example.org", kind=c.PartyKind.CORPORATE)
    yield "ChangeOwner", full, c.ChangeOwner(actor=OWNER, owner=heir, key_x=b"h" * 32)
    yield "BeginEpoch", full, c.BeginEpoch(actor=c.VEHICLE)
    end = c.EndOwner(actor=OWNER, reason=c.EndReason.TERMINATED)
    yield "EndOwner", full, end
    yield "Cleared", _after(full, end), c.Cleared(actor=c.VEHICLE, side=c.Side.VEHICLE)
    yield "Unpair", full, c.Unpair(actor=OWNER)
    yield "Transfer", full, c.Transfer(actor=OWNER)
    yield "FactoryReset", full, c.FactoryReset(actor=c.VEHICLE)
    yield "PowerCycle", full, c.PowerCycle(actor=c.VEHICLE)
    yield "AddCard", _after(_people(), _card(0)), _card(1)
