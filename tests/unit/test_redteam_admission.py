"""What a modified or stolen phone might get out of a vehicle that nobody can ask."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dkey.errors import RefusalCode
from dkey.lifecycle import commands as c
from dkey.lifecycle.claims import Issuer, KeyClaims, key_ref
from dkey.lifecycle.roles import Role
from ring_world import (
    AUTHORITY_X,
    DAY,
    OWNER,
    OWNER_X,
    T0,
    YEAR,
    World,
    card,
    mail,
    refused,
    share_id,
    x_of,
)

FAR_S = (1 << 40) - 1
USER = mail("user")


def with_user() -> World:
    world = World(corporate=True)
    world.share("user", role=Role.ACTUAL_USER)
    world.admit(world.claims("user"))
    return world


def forged(world: World, item: bytes, name: str = "eve", **more) -> tuple[KeyClaims, KeyClaims]:
    """Return a chain whose second attestation the actual user made up."""
    parent = world.claims("user")
    child = replace(
        parent,
        share_id=item,
        slot=1,
        role=Role.ASSOCIATE,
        reshare=False,
        public_key=b"\4" + x_of(name) + bytes(32),
        signer=x_of("user"),
    )
    return parent, replace(child, **more)


# --- references --------------------------------------------------------------------------------


def test_a_share_does_not_take_the_reference_of_the_owners_key() -> None:
    world = with_user()
    with refused(RefusalCode.REPLAY):
        world.admit(*forged(world, world.owner_item, not_after_s=world.now))
    assert world.verdict(OWNER_X) is None


def test_a_share_does_not_take_the_reference_of_a_card() -> None:
    world = with_user()
    world.add_card()
    with refused(RefusalCode.REPLAY):
        world.admit(*forged(world, card(1)))
    assert world.verdict(card(1)) is None


def test_a_card_does_not_take_the_reference_of_a_share_or_of_the_owner() -> None:
    world = with_user()
    world.admit(*forged(world, card(1)))
    for ref in (card(1), world.owner_item):
        with refused(RefusalCode.REPLAY):
            world.car.enrol_card(ref)


def test_a_cards_key_is_no_share() -> None:
    world = with_user()
    world.car = world.car.enrol_card(key_ref(x_of("eve")))
    with refused(RefusalCode.REPLAY):
        world.admit(*forged(world, b"e" * 16))


@pytest.mark.parametrize("change", [False, True])
def test_an_owners_key_does_not_take_the_reference_of_a_share(change) -> None:
    world = with_user()
    heir = x_of("heir")
    if change:
        world.admit(*forged(world, key_ref(heir)))
        stay = (share_id("user"), key_ref(heir))
        assert key_ref(heir) not in {
            each.claims.share_id for each in world.car.change_owner(heir, shares=stay).admitted
        }
        return
    world.car = replace(world.car, owner_x=None)
    chain = forged(world, key_ref(heir))
    world.admit(replace(chain[0], signer=AUTHORITY_X), chain[1])
    with refused(RefusalCode.REPLAY):
        world.car.enrol_owner(heir)


# --- a stolen phone ----------------------------------------------------------------------------


def test_who_finds_the_owners_lost_phone_shares_no_key() -> None:
    world = World()
    world.share("anna")
    world.admit(world.claims("anna"))
    world.invite("eve")
    signed = world.claims("eve")
    world.do(c.ReportLost(actor=OWNER, item=world.owner_item))
    world.deliver()
    with refused(RefusalCode.KEY_SUSPENDED):
        world.admit(signed)
    world.admit(world.claims("anna", list_number=0, issued_s=T0))
    assert world.verdict(x_of("anna")) is None


def test_who_finds_the_actual_users_lost_phone_shares_no_key_whatever_cascades() -> None:
    world = World(corporate=True, cascade_automatic=False)
    world.share("user", role=Role.ACTUAL_USER)
    chain = forged(world, b"e" * 16)
    world.do(c.ReportLost(actor=USER, item=share_id("user")))
    world.deliver()
    with refused(RefusalCode.KEY_SUSPENDED):
        world.admit(*chain)


def test_a_suspended_owner_resumes_nobody_and_may_still_withdraw() -> None:
    world = World()
    item = world.share("anna")
    world.do(c.Suspend(actor=OWNER, item=item))
    world.deliver(Issuer.OWNER)
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=c.HoldCause.IDENTITY_THEFT))
    world.deliver()
    said = replace(world.list(Issuer.OWNER), number=99, all_suspended=False)
    with refused(RefusalCode.KEY_SUSPENDED):
        world.car.take_list(replace(said, suspended=()))
    taken = world.car.take_list(replace(said, suspended=(), revoked=(item,)))
    assert item in taken.gone
    world.do(c.Release(actor=c.AUTHORITY, account=OWNER, cause=c.HoldCause.IDENTITY_THEFT))
    world.deliver()
    world.car = world.car.take_list(replace(said, suspended=()))


# --- time --------------------------------------------------------------------------------------


def test_what_an_owner_signs_ahead_of_time_does_not_outlive_the_owner() -> None:
    world = World()
    world.share("anna")
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    world.car = world.car.take_list(replace(world.list(Issuer.OWNER), issued_s=FAR_S))
    world.do(c.FactoryReset(actor=c.VEHICLE))
    world.car = world.car.factory_reset()
    world.found()
    world.share("bob")
    world.admit(world.claims("bob"))
    assert world.verdict(x_of("bob")) is None


def test_within_an_epoch_what_the_owner_signed_counts_against_a_clock_that_is_behind() -> None:
    world = World()
    world.share("anna", not_after_s=T0 + DAY)
    world.admit(world.claims("anna"))
    world.do(c.Immobilise(actor=c.AUTHORITY, on=True))
    late = replace(world.list(Issuer.OWNER), issued_s=T0 + 2 * DAY)
    world.car = world.car.take_list(late)
    assert world.verdict(x_of("anna")) is RefusalCode.KEY_EXPIRED
    stay = world.car.change_owner(x_of("heir"), shares=(share_id("anna"),))
    assert stay.verdict(x_of("anna"), T0).refusal is not None


def test_the_time_of_an_actual_users_statement_counts_for_nothing() -> None:
    world = with_user()
    world.admit(*forged(world, b"e" * 16, issued_s=FAR_S))
    assert world.car.at(T0).time_s < FAR_S
    assert world.verdict(x_of("user")) is None


# --- the same phone again ----------------------------------------------------------------------


@pytest.mark.parametrize("slot", [1, 2])
def test_a_phone_whose_share_expired_is_let_in_with_a_new_one(slot) -> None:
    world = World()
    world.share("anna", not_after_s=T0 + 10)
    world.admit(world.claims("anna"))
    world.now += 20
    world.invite("anna2", account=mail("anna"))
    key = b"\4" + x_of("anna") + bytes(32)
    world.admit(world.claims("anna2", public_key=key, slot=slot))
    assert world.verdict(x_of("anna")) is None
    assert [each.claims.share_id for each in world.car.admitted] == [share_id("anna2")]
    with refused(RefusalCode.KEY_REVOKED):
        world.admit(world.claims("anna", not_after_s=world.now + YEAR))


def test_a_phone_with_a_share_is_not_let_in_with_another_one() -> None:
    world = World()
    world.share("anna")
    world.admit(world.claims("anna"))
    world.invite("bob")
    with refused(RefusalCode.REPLAY):
        world.admit(world.claims("bob", public_key=b"\4" + x_of("anna") + bytes(32)))
