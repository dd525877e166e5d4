"""What people might try with their own rights to get more, and what would jam a ring for good."""

from __future__ import annotations

import pytest

from dkey.errors import RefusalCode
from dkey.lifecycle import commands as c
from dkey.lifecycle.claims import Issuer, key_ref
from dkey.lifecycle.policy import MAX_ENDED_SHARES, MAX_WITHDRAWN
from dkey.lifecycle.ring_state import DueKind, Ended
from dkey.lifecycle.roles import CardProvenance, Role
from ring_world import (
    DAY,
    ENTRY,
    OWNER,
    OWNER_X,
    YEAR,
    World,
    card,
    mail,
    refused,
    share_id,
    x_of,
)

USER = mail("user")


def corporate(**flags) -> World:
    world = World(corporate=True, **flags)
    world.share("user", role=Role.ACTUAL_USER)
    return world


def invitation(world: World, item: bytes, *, by: str, account: str = "eve") -> c.Invite:
    return c.Invite(
        actor=by,
        share_id=item,
        account=mail(account),
        role=Role.ASSOCIATE,
        permission=ENTRY,
        not_before_s=world.now,
        not_after_s=world.now + DAY,
    )


def party(account: str, kind: c.PartyKind = c.PartyKind.PERSON) -> c.Party:
    return c.Party(account=account, kind=kind)


# --- references --------------------------------------------------------------------------------


def test_a_share_id_that_is_the_reference_of_the_owners_key_is_refused() -> None:
    world = corporate()
    with refused(RefusalCode.REPLAY):
        world.do(invitation(world, world.owner_item, by=USER))


@pytest.mark.parametrize("change", [False, True])
def test_no_owners_key_has_a_reference_that_is_a_share_id(change) -> None:
    world = World(corporate=True, friends_survive_owner_change=True)
    world.share("user", role=Role.ACTUAL_USER)
    world.do(invitation(world, key_ref(x_of("next")), by=USER))
    if not change:
        world.do(c.FactoryReset(actor=c.VEHICLE))
    heir, actor = party(mail("heir"), c.PartyKind.CORPORATE), c.AUTHORITY
    kind = c.ChangeOwner if change else c.Found
    with refused(RefusalCode.REPLAY):
        world.do(kind(actor=actor, owner=heir, key_x=x_of("next")))


# --- owners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("account", [OWNER, mail("mine")])
def test_a_person_does_not_become_a_corporation_alone(account) -> None:
    world = World()
    wanted = party(account, c.PartyKind.CORPORATE)
    with refused(RefusalCode.NOT_AUTHORISED):
        world.do(c.ChangeOwner(actor=OWNER, owner=wanted, key_x=x_of("new")))
    world.do(c.ChangeOwner(actor=c.AUTHORITY, owner=wanted, key_x=x_of("new")))


def test_a_corporation_stays_one_with_another_account() -> None:
    world = corporate()
    wanted = party(mail("branch"), c.PartyKind.CORPORATE)
    world.do(c.ChangeOwner(actor=OWNER, owner=wanted, key_x=x_of("new")))
    assert world.ring.owner == wanted


@pytest.mark.parametrize("name", [c.AUTHORITY, c.VEHICLE, c.DEALER, "", "somebody", "a@"])
def test_an_owner_is_an_account(name) -> None:
    world = World()
    with refused(RefusalCode.NOT_AUTHORISED):
        world.do(c.ChangeOwner(actor=OWNER, owner=party(name), key_x=x_of("new")))
    world = World(found=False)
    with refused(RefusalCode.NOT_AUTHORISED):
        world.do(c.Found(actor=name, owner=party(name), key_x=x_of("new")))


def test_what_was_announced_to_an_owner_follows_to_the_other_account() -> None:
    world = World()
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=c.HoldCause.UNPAID))
    world.do(c.EndOwner(actor=c.AUTHORITY, reason=c.EndReason.TERMINATED))
    mine = party(mail("mine"))
    world.do(c.ChangeOwner(actor=OWNER, owner=mine, key_x=x_of("new")))
    assert {each.account for each in world.ring.due} == {mine.account}
    world.pass_days(8)
    assert world.usable(key_ref(x_of("new"))) is RefusalCode.KEY_SUSPENDED
    world.pass_days(7)
    assert world.ring.owner is None


def test_another_owner_by_the_authority_begins_without_announcements() -> None:
    world = World()
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=c.HoldCause.UNPAID))
    heir = party(mail("heir"))
    world.do(c.ChangeOwner(actor=c.AUTHORITY, owner=heir, key_x=x_of("new")))
    assert not [each for each in world.ring.due if each.kind is DueKind.HOLD]


def test_a_suspended_account_stays_suspended_as_an_owner() -> None:
    world = World()
    world.share("anna")
    anna, cause = mail("anna"), c.HoldCause.CLONING
    world.do(c.Hold(actor=c.AUTHORITY, account=anna, cause=cause))
    world.do(c.ChangeOwner(actor=OWNER, owner=party(anna), key_x=x_of("new")))
    assert world.usable(key_ref(x_of("new"))) is RefusalCode.KEY_SUSPENDED
    assert world.list().all_suspended
    world.do(c.Release(actor=c.AUTHORITY, account=anna, cause=cause))
    assert world.usable(key_ref(x_of("new"))) is None


# --- the list ----------------------------------------------------------------------------------


def test_an_item_that_is_revoked_is_not_listed_as_suspended_too() -> None:
    world = World()
    cause = c.HoldCause.IDENTITY_THEFT
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=cause))
    world.do(c.CloseAccount(actor=OWNER, account=OWNER))
    for issuer in Issuer:
        said = world.list(issuer)
        assert world.owner_item in said.revoked
        assert not set(said.revoked) & set(said.suspended)


def stuffed() -> World:
    """Return a world whose actual user invited and revoked for as long as it was possible."""
    world = corporate()
    world.add_card()
    for number in range(MAX_WITHDRAWN - 3):  # the owner's key, the user's and the card stay
        world.invite(f"e{number}", by=USER, account=mail(f"e{number}"))
        world.do(c.Revoke(actor=USER, item=share_id(f"e{number}")))
    with refused(RefusalCode.SHARE_LIMIT):
        world.invite("last", by=USER)
    return world


def test_no_list_gets_too_long_to_be_signed() -> None:
    world = stuffed()
    world.do(c.Revoke(actor=OWNER, item=card(1)))
    world.do(c.Revoke(actor=OWNER, item=share_id("user")))
    world.do(c.EndOwner(actor=OWNER, reason=c.EndReason.TERMINATED))
    assert len(world.list().revoked) <= MAX_WITHDRAWN
    assert world.owner_item in world.list().revoked


def test_a_full_list_has_room_for_suspensions_and_takes_no_card() -> None:
    world = stuffed()
    world.do(c.Pause(actor=OWNER, days=5))
    said = world.list()
    assert len(said.revoked) + len(said.suspended) <= MAX_WITHDRAWN
    world.do(c.EndPause(actor=OWNER))
    with refused(RefusalCode.CARD_LIMIT):
        world.do(c.AddCard(actor=OWNER, card=card(2), provenance=CardProvenance.PURCHASED))


def test_an_expired_entry_makes_room_again() -> None:
    world = stuffed()
    world.now += 2 * YEAR
    world.share("user2", role=Role.ACTUAL_USER)
    world.invite("late", by=OWNER)
    assert len(world.list().revoked) < 9


def test_no_ring_grows_without_end_however_often_somebody_invites() -> None:
    world = corporate()
    for number in range(MAX_ENDED_SHARES + 20):
        ends_s = world.now + 1
        world.invite(f"e{number}", by=USER, account=mail(f"e{number}"), not_after_s=ends_s)
        world.do(c.Decline(actor=mail(f"e{number}"), share_id=share_id(f"e{number}")))
        world.now += 2
    assert len(world.ring.shares) <= MAX_ENDED_SHARES + 2
    assert world.usable(share_id("e0")) is RefusalCode.KEY_REVOKED
    with refused(RefusalCode.REPLAY):
        world.invite("e0", by=USER)


@pytest.mark.parametrize("account", ["a" * 254 + "@x", "a\u202e@x", "a\n@x"])
def test_an_account_is_short_and_printable(account) -> None:
    world = World()
    with refused(RefusalCode.NOT_AUTHORISED):
        world.invite("anna", account=account)


# --- actual users ------------------------------------------------------------------------------


def test_the_right_to_pause_is_not_inherited_by_the_next_actual_user() -> None:
    world = corporate()
    world.do(c.DelegatePause(actor=OWNER, allowed=True))
    world.share("next", role=Role.ACTUAL_USER, replaces=share_id("user"))
    with refused(RefusalCode.NOT_AUTHORISED):
        world.do(c.Pause(actor=mail("next"), days=5))


def test_an_actual_user_who_may_not_start_orders_no_services() -> None:
    world = World(corporate=True, remote_handover=True)
    world.share("user", role=Role.ACTUAL_USER, permission=ENTRY)
    with refused(RefusalCode.PERMISSION_ENTRY_ONLY):
        world.order(by=USER)


def test_an_invited_actual_user_sees_the_own_key_only() -> None:
    world = World(corporate=True)
    world.share("anna")
    world.invite("user", role=Role.ACTUAL_USER)
    assert [each.account for each in world.ring.keys(USER)] == [USER]


def test_an_actual_user_does_not_resume_what_a_former_owner_suspended() -> None:
    world = World(corporate=True, friends_survive_owner_change=True)
    world.share("user", role=Role.ACTUAL_USER)
    world.share("anna", by=USER)
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    heir = party(mail("heir"), c.PartyKind.CORPORATE)
    world.do(c.ChangeOwner(actor=c.AUTHORITY, owner=heir, key_x=x_of("new")))
    world.do(c.Activate(actor=c.VEHICLE, share_id=share_id("user")))
    with refused(RefusalCode.NOT_AUTHORISED):
        world.do(c.Resume(actor=USER, item=share_id("anna")))
    world.do(c.Resume(actor=heir.account, item=share_id("anna")))
    assert not world.ring.share(share_id("anna")).holds


@pytest.mark.parametrize("give_back", [False, True])
def test_an_actual_user_gives_no_new_key_in_place_of_one_that_the_owner_suspended(
    give_back,
) -> None:
    world = corporate()
    item = world.share("anna")
    world.do(c.Suspend(actor=OWNER, item=item))
    if give_back:
        world.do(c.Decline(actor=mail("anna"), share_id=item))
    else:
        world.do(c.Revoke(actor=USER, item=item))
    assert world.ring.share(item).ended in (Ended.REVOKED, Ended.DECLINED)
    with refused(RefusalCode.VETOED_BY_OWNER):
        world.invite("anna2", by=USER, account=mail("anna"))
    world.do(c.LiftVeto(actor=OWNER, account=mail("anna")))
    world.invite("anna2", by=USER, account=mail("anna"))


def test_an_actual_user_who_gives_the_key_back_is_not_vetoed() -> None:
    world = corporate()
    world.do(c.Suspend(actor=OWNER, item=share_id("user")))
    world.do(c.Decline(actor=USER, share_id=share_id("user")))
    assert world.invite("user2", role=Role.ACTUAL_USER, account=USER)


def test_the_owner_replaces_a_key_that_the_owner_suspended() -> None:
    world = corporate()
    item = world.share("anna")
    world.do(c.Suspend(actor=OWNER, item=item))
    world.do(c.Revoke(actor=OWNER, item=item))
    assert world.invite("anna2", account=mail("anna"))


# --- resets ------------------------------------------------------------------------------------


def reset(kind: str, epoch: int) -> c.Command:
    if kind == "reset":
        return c.FactoryReset(actor=c.VEHICLE, epoch=epoch)
    return c.Cleared(actor=c.VEHICLE, side=c.Side.VEHICLE, epoch=epoch)


@pytest.mark.parametrize("kind", ["reset", "cleared"])
def test_an_erasure_that_is_reported_twice_or_late_is_one(kind) -> None:
    world = World()
    world.do(reset(kind, 1))
    world.do(reset(kind, 1))
    assert world.ring.epoch == 1
    world.do(c.Found(actor=OWNER, owner=party(OWNER), key_x=OWNER_X, epoch=1))
    world.do(reset(kind, 1))
    assert world.ring.owner is not None
    world.do(reset(kind, 2))
    assert world.ring.owner is None


@pytest.mark.parametrize("kind", ["reset", "cleared"])
def test_erasures_that_were_never_reported_count_with_the_next_one(kind) -> None:
    world = World()
    world.share("anna")
    world.do(reset(kind, 4))
    assert (world.ring.epoch, world.ring.owner) == (4, None)
    world.do(reset(kind, 6))
    assert world.ring.epoch == 6
