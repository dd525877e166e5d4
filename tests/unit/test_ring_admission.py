"""What the vehicle lets in by itself, with every refusal, and its time."""

import dataclasses

import pytest

from dkey.codec import cbor
from dkey.errors import RefusalCode as R
from dkey.errors import WireError
from dkey.lifecycle import commands as c
from dkey.lifecycle.admission import Admissions
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.ring import Ring
from dkey.lifecycle.roles import Role
from dkey.lifecycle.trusted_time import TrustedTime
from ring_world import (
    AUTHORITY_X,
    DAY,
    ENTRY,
    OWNER,
    OWNER_X,
    START,
    T0,
    World,
    card,
    mail,
    refused,
    share_id,
    x_of,
)


def shared(*names):
    world = World()
    for name in names or ("anna",):
        world.share(name)
    return world


def leased(**flags):
    world = World(corporate=True, **flags)
    world.share("user", role=Role.ACTUAL_USER)
    world.share("anna", by=mail("user"))
    return world


def child(world, name="anna", **more):
    return world.claims("user", signer=AUTHORITY_X), world.claims(name, signer=x_of("user"), **more)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"vehicle": b"W" * 16}, R.WRONG_VEHICLE),
        ({"epoch": 1}, R.KEY_REVOKED),
        ({"signer": x_of("mallory")}, R.NOT_AUTHORISED),
        ({"not_before_s": T0 + 1}, R.KEY_EXPIRED),
        ({"not_after_s": T0 - 1}, R.KEY_EXPIRED),
        ({"list_number": 1}, R.NOT_SYNCED),
        ({"slot": 4}, R.NOT_AUTHORISED),
        ({"slot": 0}, R.NOT_AUTHORISED),
        ({"reshare": True}, R.NOT_AUTHORISED),
        ({"public_key": b"\4" + OWNER_X + bytes(32)}, R.REPLAY),
    ],
)
def test_an_attestation_is_refused_for_each_thing_that_is_wrong_with_it(changed, code):
    world = shared()
    before = world.car
    with refused(code):
        world.admit(world.claims("anna", **changed))
    assert world.car is before


def test_an_attestation_of_somebody_elses_key_is_refused():
    world = shared()
    with refused(R.KEY_UNKNOWN):
        world.admit(world.claims("anna"), x=x_of("mallory"))


def test_the_same_attestation_again_changes_nothing():
    world = shared()
    claims = world.claims("anna")
    world.admit(claims)
    before = world.car
    world.admit(claims)
    assert world.car is before


def test_another_key_for_a_share_that_was_let_in_is_refused():
    world = shared()
    world.admit(world.claims("anna"))
    with refused(R.REPLAY):
        world.admit(world.claims("anna", public_key=b"\4" + x_of("mallory") + bytes(32)))


def test_a_taken_slot_is_freed_by_the_list_and_by_expiry_only():
    world = shared("anna", "bob")
    world.admit(world.claims("anna"))
    with refused(R.SHARE_LIMIT):
        world.admit(world.claims("bob", slot=1))
    world.do(c.Revoke(actor=OWNER, item=share_id("anna")))
    world.share("carl")
    with refused(R.NOT_SYNCED):
        world.admit(world.claims("carl"))
    world.deliver(Issuer.OWNER)
    world.admit(world.claims("carl"))
    assert world.verdict(x_of("carl")) is None


def test_an_expired_share_gives_its_place_and_never_comes_back():
    world = World()
    world.share("anna", not_after_s=T0 + DAY)
    claims = world.claims("anna")
    world.admit(claims)
    world.pass_days(2)
    assert world.verdict(x_of("anna")) is R.KEY_EXPIRED
    world.share("bob")
    world.admit(world.claims("bob"))
    world.now = T0
    assert world.verdict(share_id("anna")) is R.KEY_REVOKED
    with refused(R.KEY_REVOKED):
        world.admit(claims)


def test_a_clock_set_back_does_not_revive_an_expired_share():
    world = World()
    world.share("anna", not_after_s=T0 + DAY)
    claims = world.claims("anna")
    world.admit(claims)
    world.car = world.car.at(T0 + 2 * DAY)
    assert world.verdict(x_of("anna")) is R.KEY_EXPIRED
    with refused(R.KEY_EXPIRED):
        world.admit(claims)


def test_a_suspended_share_is_not_let_in():
    world = shared()
    claims = world.claims("anna")
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    world.deliver(Issuer.OWNER)
    with refused(R.KEY_SUSPENDED):
        world.admit(claims)


def test_an_actual_users_friend_is_let_in_by_the_chain_and_falls_with_the_actual_user():
    world = leased()
    world.admit(*child(world))
    assert world.verdict(x_of("anna")) is None
    world.do(c.Suspend(actor=OWNER, item=share_id("user")))
    world.deliver()
    assert world.verdict(x_of("anna")) is R.KEY_SUSPENDED
    world.do(c.Revoke(actor=OWNER, item=share_id("user")))
    world.deliver()
    assert world.car.admitted == ()


def test_a_child_that_no_list_names_falls_with_its_parent_all_the_same():
    world = leased()
    world.admit(*child(world))
    world.do(c.Revoke(actor=OWNER, item=share_id("user")))
    claims = world.list()
    world.car = world.car.take_list(dataclasses.replace(claims, revoked=(share_id("user"),)))
    assert world.verdict(x_of("anna")) is R.KEY_REVOKED


@pytest.mark.parametrize(
    "changed",
    [{"signer": x_of("mallory")}, {"role": Role.ACTUAL_USER, "slot": 0}, {"reshare": True}],
)
def test_a_chain_is_refused_where_its_last_key_was_not_the_actual_users_to_give(changed):
    world = leased()
    parent, last = child(world)
    with refused(R.NOT_AUTHORISED):
        world.admit(parent, dataclasses.replace(last, **changed))


def test_an_associate_who_signs_on_is_refused():
    world = shared("anna", "bob")
    with refused(R.NOT_AUTHORISED):
        world.admit(world.claims("anna"), world.claims("bob", signer=x_of("anna")))


def test_an_actual_user_who_may_only_enter_gives_no_start():
    world = leased()
    parent = world.claims("user", signer=AUTHORITY_X, permission=ENTRY)
    with refused(R.NOT_AUTHORISED):
        world.admit(parent, world.claims("anna", signer=x_of("user"), permission=START))


def test_no_chain_and_a_chain_of_three_are_refused():
    world = leased()
    with refused(R.NOT_AUTHORISED):
        world.car.admit((), x_of("anna"), T0)
    parent, last = child(world)
    with refused(R.NOT_AUTHORISED):
        world.admit(parent, parent, last)


def test_lists_are_numbered_by_issuer_and_never_go_back():
    world = shared()
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    first = world.list()
    world.do(c.Resume(actor=OWNER, item=share_id("anna")))
    world.deliver()
    with refused(R.REPLAY):
        world.car.take_list(first)
    world.deliver(Issuer.OWNER)
    before = world.car
    world.deliver(Issuer.OWNER)
    assert world.car is before


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"suspended": (b"x" * 16,)}, R.REPLAY),
        ({"vehicle": b"W" * 16, "number": 9}, R.WRONG_VEHICLE),
        ({"epoch": 1, "number": 9}, R.REPLAY),
        ({"number": 0}, R.REPLAY),
        ({"issuer": Issuer.OWNER, "immobilised": True, "number": 9}, R.NOT_AUTHORISED),
    ],
)
def test_a_list_that_is_not_the_next_one_of_an_issuer_here_is_refused(changed, code):
    world = shared()
    world.do(c.Revoke(actor=OWNER, item=share_id("anna")))
    world.deliver()
    with refused(code):
        world.car.take_list(dataclasses.replace(world.list(), **changed))


def test_a_revoked_owners_list_counts_for_nothing():
    world = shared()
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    late = world.list(Issuer.OWNER)
    world.do(c.EndOwner(actor=OWNER, reason=c.EndReason.EXPIRED))
    world.deliver()
    with refused(R.NOT_AUTHORISED):
        world.car.take_list(late)


def test_a_fast_transaction_authorises_no_start():
    world = World()
    assert world.car.verdict(OWNER_X, T0).may_start
    assert not world.car.verdict(OWNER_X, T0, fast=True).may_start


def test_immobilisation_outlives_a_factory_reset():
    world = World()
    world.do(c.Immobilise(actor=c.AUTHORITY, on=True))
    world.deliver()
    again = world.car.factory_reset().enrol_owner(x_of("thief"))
    assert not again.verdict(x_of("thief"), T0).may_start


def test_a_withdrawn_card_is_refused_and_not_paired_again():
    world = World()
    world.add_card()
    world.do(c.Revoke(actor=OWNER, item=card(1)))
    world.deliver()
    assert world.verdict(card(1)) is R.KEY_REVOKED
    with refused(R.KEY_REVOKED):
        world.car.enrol_card(card(1))
    full = world.car.enrol_card(card(2)).enrol_card(card(3))
    with refused(R.CARD_LIMIT):
        full.enrol_card(card(4))


def test_at_a_change_of_owner_only_named_keys_stay_and_old_attestations_are_dead():
    world = shared("anna", "bob")
    old = world.claims("bob")
    world.admit(world.claims("anna"))
    world.admit(old)
    world.car = world.car.change_owner(x_of("heir"), shares=[share_id("anna")])
    assert world.verdict(x_of("anna")) is None
    assert world.verdict(OWNER_X) is R.KEY_UNKNOWN
    with refused(R.NOT_AUTHORISED):
        world.admit(world.claims("bob", epoch=1))
    with refused(R.KEY_REVOKED):
        world.admit(old)


def test_values_round_trip_and_damaged_ones_are_refused():
    world = leased(remote_handover=True)
    world.admit(*child(world))
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    world.deliver()
    for cls, value in ((Admissions, world.car), (Ring, world.ring)):
        plain = cbor.decode(cbor.encode(value.to_value()))
        assert cls.from_value(plain) == value
        version, parts = plain
        shapes = [version + 1, parts], [version, parts[:-1]], [version, [*parts, 0]]
        for damaged in (None, [], *shapes, parts):
            with pytest.raises(WireError):
                cls.from_value(damaged)


def test_trusted_time_is_the_latest_of_wall_signed_and_elapsed_time():
    time = TrustedTime().advanced(1000.0, 5.0)
    assert time.now_s(900.0, 5.0) == 1000
    assert time.now_s(900.0, 15.5) == 1010
    assert time.now_s(2000.0, 5.0) == 2000
    assert time.seen(3000, 900.0, 6.0).now_s(0.0, 7.0) == 3001
    assert time.power_cycled().now_s(10.0, 1.0) == 1000


def test_trusted_time_loses_no_fraction_however_often_it_is_read():
    time = TrustedTime().advanced(1000.0, 0.0)
    for step in range(1, 101):
        time = time.advanced(0.0, step * 0.3)
    assert time.floor_s == 1030
    assert TrustedTime.from_value(time.to_value()) == time


def test_a_signed_time_lets_a_vehicle_whose_clock_is_behind_keep_up():
    world = World()
    world.share("anna", not_after_s=T0 + DAY)
    world.admit(world.claims("anna"))
    world.pass_days(2)
    world.share("bob")
    claims = world.claims("bob")
    world.now = T0
    world.admit(claims)
    assert world.verdict(x_of("bob")) is None
    assert (world.car.time_s, world.car.owner_time_s) == (T0, T0 + 2 * DAY)


def test_a_friend_who_is_invited_again_with_the_same_phone_opens_again():
    world = shared("anna")
    world.admit(world.claims("anna"))
    world.do(c.Revoke(actor=OWNER, item=share_id("anna")))
    world.deliver(Issuer.OWNER)
    item = world.invite("again", account=mail("anna"))
    world.do(c.Accept(actor=mail("anna"), share_id=item, key_x=x_of("anna")))
    world.admit(world.claims("again", public_key=b"\4" + x_of("anna") + bytes(32)))
    assert world.verdict(x_of("anna")) is None
    assert world.verdict(share_id("anna")) is R.KEY_REVOKED


def test_admissions_of_the_first_version_are_read_with_lists_that_know_no_corporation():
    world = shared()
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    world.deliver()
    version, plain = world.car.to_value()
    assert version == 2
    first = [*plain[:7], [each[:-1] for each in plain[7]], *plain[8:]]
    assert Admissions.from_value([1, first]) == world.car
    for damaged in ([1, plain], [1, first[:-1]], [1, None], [2, first], [3, plain]):
        with pytest.raises(WireError):
            Admissions.from_value(damaged)
