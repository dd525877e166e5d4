"""A review of owners with an attacker's eyes: whose word counts, and when it stops to count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle import commands as c
from dkey.lifecycle.account import account_form
from dkey.lifecycle.claims import NO_SLOT, Issuer, KeyClaims, key_ref
from dkey.lifecycle.policy import MAX_UNTOLD_EPOCHS
from dkey.lifecycle.roles import Role
from ring_world import AUTHORITY_X, OWNER, OWNER_X, World, mail, refused, share_id, x_of

MINE = c.Party(account=mail("mine"))


def changed(world: World) -> c.ChangeOwner:
    return c.ChangeOwner(actor=OWNER, owner=MINE, key_x=x_of("new"))


def with_anna(**flags) -> World:
    world = World(**flags)
    world.share("anna")
    world.admit(world.claims("anna"))
    return world


# --- a person is no corporation ----------------------------------------------------------------


def fourth(world: World, **more) -> KeyClaims:
    """Return an actual user whom the owner's modified phone made up."""
    made_up = {
        "share_id": b"4" * 16,
        "slot": NO_SLOT,
        "role": Role.ACTUAL_USER,
        "reshare": True,
        "public_key": b"\4" + x_of("dora") + bytes(32),
    }
    return replace(world.claims("anna"), **{**made_up, **more})


def full() -> World:
    world = World()
    for name in ("anna", "bob", "carl"):
        world.share(name)
        world.admit(world.claims(name))
    return world


def test_a_person_makes_no_actual_user_beside_three_associates() -> None:
    world = full()
    with pytest.raises(PolicyRefusal):
        world.admit(fourth(world))


def test_a_persons_actual_user_is_refused_with_the_authoritys_list_too() -> None:
    world = full()
    world.do(c.Suspend(actor=OWNER, item=share_id("carl")))
    world.deliver()
    with refused(RefusalCode.NOT_AUTHORISED):
        world.admit(fourth(world, list_number=0))


def test_what_a_persons_actual_user_signs_is_refused_too() -> None:
    world = full()
    child = replace(
        world.claims("anna"),
        share_id=b"5" * 16,
        public_key=b"\4" + x_of("eve") + bytes(32),
        signer=x_of("dora"),
    )
    with refused(RefusalCode.NOT_SYNCED):
        world.admit(fourth(world), child)


def test_the_owner_does_not_say_that_the_owner_is_a_corporation() -> None:
    world = full()
    world.do(c.Suspend(actor=OWNER, item=share_id("carl")))
    with refused(RefusalCode.NOT_AUTHORISED):
        world.car.take_list(replace(world.list(Issuer.OWNER), corporate=True))


def test_a_corporations_actual_user_waits_for_the_list_of_the_present_epoch() -> None:
    world = World(corporate=True)
    world.do(c.FactoryReset(actor=c.VEHICLE, epoch=1))
    world.car = world.car.factory_reset().enrol_owner(OWNER_X)
    party = c.Party(account=OWNER, kind=c.PartyKind.CORPORATE)
    world.do(c.Found(actor=c.AUTHORITY, owner=party, key_x=OWNER_X, epoch=1))
    world.share("user", role=Role.ACTUAL_USER)
    with refused(RefusalCode.NOT_SYNCED):
        world.admit(world.claims("user", list_number=0))
    world.deliver()
    world.admit(world.claims("user", list_number=0))
    assert world.verdict(x_of("user")) is None


def test_an_actual_user_by_the_authoritys_own_word_needs_no_list() -> None:
    world = World(corporate=True)
    world.car = replace(world.car, taken=())
    world.share("user", role=Role.ACTUAL_USER)
    world.admit(world.claims("user", signer=AUTHORITY_X, list_number=0))
    assert world.verdict(x_of("user")) is None


# --- a change of owner -------------------------------------------------------------------------


def test_who_lost_the_key_by_a_change_of_owner_can_be_refused_by_a_list() -> None:
    world = with_anna()
    world.do(changed(world))
    try:
        world.deliver()
    except PolicyRefusal as refusal:
        pytest.fail(f"no list that the vehicle takes: {refusal.code}")
    assert world.verdict(share_id("anna")) is not None


@pytest.mark.parametrize("issuer", list(Issuer))
def test_the_last_list_before_a_change_ends_the_former_owner_too(issuer) -> None:
    world = with_anna()
    world.share("bob")
    signed_before = world.claims("bob")
    world.do(changed(world))
    world.deliver(issuer)
    assert world.verdict(OWNER_X) is RefusalCode.KEY_REVOKED
    with refused(RefusalCode.KEY_REVOKED):
        world.admit(replace(signed_before, share_id=b"!" * 16))


def test_the_epoch_follows_on_the_vehicles_word_and_needs_a_new_confirmation() -> None:
    world = with_anna(friends_survive_owner_change=True)
    world.do(changed(world))
    assert (world.ring.epoch, world.usable(share_id("anna"))) == (0, None)
    world.car = world.car.change_owner(x_of("new"))
    world.do(c.BeginEpoch(actor=c.VEHICLE, epoch=1))
    assert (world.ring.epoch, world.usable(share_id("anna"))) == (1, RefusalCode.NOT_SYNCED)
    world.deliver()


def test_an_epoch_that_is_told_late_or_twice_began_once() -> None:
    world = with_anna()
    for _ in range(2):
        world.do(c.BeginEpoch(actor=c.VEHICLE, epoch=1))
    assert world.ring.epoch == 1
    world.do(c.FactoryReset(actor=c.VEHICLE, epoch=2))
    world.do(c.BeginEpoch(actor=c.VEHICLE, epoch=1))
    assert world.ring.epoch == 2


@pytest.mark.parametrize("actor", [OWNER, mail("anna"), c.AUTHORITY, c.DEALER])
def test_nobody_but_the_vehicle_says_that_its_epoch_began(actor) -> None:
    world = with_anna()
    with refused(RefusalCode.NOT_AUTHORISED):
        world.do(c.BeginEpoch(actor=actor, epoch=1))


def test_a_reset_after_a_change_of_owner_leaves_both_in_one_epoch() -> None:
    world = with_anna()
    world.do(changed(world))
    world.car = world.car.factory_reset()
    world.do(c.FactoryReset(actor=c.VEHICLE, epoch=world.car.epoch))
    assert world.ring.epoch == world.car.epoch


def test_a_former_owners_key_does_not_come_back_in_the_same_epoch() -> None:
    world = with_anna()
    world.do(changed(world))
    with refused(RefusalCode.REPLAY):
        world.do(c.ChangeOwner(actor=MINE.account, owner=c.Party(account=OWNER), key_x=OWNER_X))


def test_where_the_ring_was_ahead_its_numbers_go_on() -> None:
    world = with_anna()
    world.do(c.Cleared(actor=c.AUTHORITY, side=c.Side.VEHICLE))  # by word of mouth
    world.do(c.Found(actor=OWNER, owner=c.Party(account=OWNER), key_x=OWNER_X))
    world.share("bob")
    world.do(c.Revoke(actor=OWNER, item=share_id("bob")))
    before = (world.ring.epoch, world.ring.list_number)
    world.do(c.FactoryReset(actor=c.VEHICLE, epoch=1))
    assert (world.ring.epoch, world.ring.list_number) > before
    assert share_id("bob") in world.list().revoked


# --- what is said at pairing -------------------------------------------------------------------


def test_who_pairs_is_not_believed_an_epoch_far_ahead() -> None:
    world = World(found=False)
    ahead = c.Found(actor=OWNER, owner=c.Party(account=OWNER), key_x=OWNER_X)
    with refused(RefusalCode.NOT_SYNCED):
        world.do(replace(ahead, epoch=MAX_UNTOLD_EPOCHS + 1))
    world.do(replace(ahead, epoch=MAX_UNTOLD_EPOCHS))
    world.do(c.FactoryReset(actor=c.VEHICLE, epoch=MAX_UNTOLD_EPOCHS + 1))
    assert (world.ring.owner, world.ring.epoch) == (None, MAX_UNTOLD_EPOCHS + 1)


# --- whom the authority suspended --------------------------------------------------------------


@pytest.mark.parametrize("cause", [c.HoldCause.CLONING, c.HoldCause.UNPAID])
def test_a_suspended_account_does_not_get_out_of_it_by_a_factory_reset(cause) -> None:
    world = World()
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=cause))
    world.do(c.FactoryReset(actor=c.VEHICLE, epoch=1))
    world.do(c.Found(actor=OWNER, owner=c.Party(account=OWNER), key_x=OWNER_X, epoch=1))
    world.pass_days(8)
    assert world.usable(key_ref(OWNER_X)) is RefusalCode.KEY_SUSPENDED
    assert world.list().all_suspended
    world.do(c.Release(actor=c.AUTHORITY, account=OWNER, cause=cause))
    assert world.usable(key_ref(OWNER_X)) is None


def test_a_suspended_owner_who_hands_over_is_suspended_as_a_friend() -> None:
    world = World()
    cause = c.HoldCause.CLONING
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=cause))
    world.do(c.ChangeOwner(actor=c.AUTHORITY, owner=MINE, key_x=x_of("new")))
    assert world.usable(key_ref(x_of("new"))) is None
    item = world.invite("friend", by=MINE.account, account=OWNER)
    assert world.ring.share(item).holds


# --- accounts ----------------------------------------------------------------------------------


def test_a_veto_holds_for_another_spelling_of_the_account() -> None:
    world = World(corporate=True)
    world.share("user", role=Role.ACTUAL_USER)
    world.do(c.Veto(actor=OWNER, account=mail("anna")))
    with pytest.raises(PolicyRefusal):
        world.invite("anna", by=mail("user"), account=mail("anna").upper())


@pytest.mark.parametrize(
    "other",
    ["Anna@example.org", "a@EXAMPLE.org", "stra\u00dfe@example.org", "e\u0301@example.org"],
)
def test_no_account_is_taken_in_another_spelling(other) -> None:
    world = World()
    form = account_form(other)
    assert form != other
    assert account_form(form) == form
    for account in (other, form):
        commands = (
            c.Veto(actor=OWNER, account=account),
            c.ChangeOwner(actor=OWNER, owner=c.Party(account=account), key_x=x_of("new")),
        )
        for command in commands:
            if account == form:
                world.do(command)
            else:
                with refused(RefusalCode.NOT_AUTHORISED):
                    world.do(command)


@given(st.text(max_size=12))
def test_the_form_of_an_account_is_its_own_form(text) -> None:
    form = account_form(text)
    assert account_form(form) == form


# --- phones in trouble -------------------------------------------------------------------------

BLOCKED = c.Hold(actor=c.AUTHORITY, account=mail("user"), cause=c.HoldCause.PHONE_BLOCKED)
FREED = c.Release(actor=c.AUTHORITY, account=mail("user"), cause=c.HoldCause.PHONE_BLOCKED)
LOST = c.ReportLost(actor=OWNER, item=share_id("user"))
FOUND = c.ReleaseLost(actor=OWNER, item=share_id("user"))


def let_in(**flags) -> World:
    """Return a world with an actual user, whom that one let in, and a friend of the owner's."""
    world = World(corporate=True, **flags)
    world.share("user", role=Role.ACTUAL_USER)
    world.share("anna", by=mail("user"))
    world.share("bob")
    world.admit(world.claims("user"))
    world.admit(world.claims("user"), world.claims("anna", signer=x_of("user")))
    world.admit(world.claims("bob"))
    return world


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize(("trouble", "over"), [(LOST, FOUND), (BLOCKED, FREED)])
def test_ring_and_vehicle_say_the_same_of_whom_a_troubled_phone_let_in(trouble, over, automatic):
    world = let_in(cascade_automatic=automatic)
    for command, user, anna in ((trouble, False, not automatic), (over, True, True)):
        world.do(command)
        world.deliver()
        for name, good in (("user", user), ("anna", anna), ("bob", True)):
            here, there = world.usable(share_id(name)), world.verdict(x_of(name))
            assert (here is None, there is None) == (good, good), name
