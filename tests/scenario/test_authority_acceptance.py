"""The acceptance list of the requirements (G), by number, through the HTTP API of a process."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from authority_process import Process
from authority_world import DAY, OWNER, START

from dkey.authority.accounts import Purpose
from dkey.authority.audit import Basis
from dkey.authority.notifications import Channel, Topic
from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.claims import Issuer, key_ref
from dkey.lifecycle.commands import (
    AUTHORITY,
    VEHICLE,
    AddCard,
    Cleared,
    DelegatePause,
    EndPause,
    FactoryReset,
    Found,
    Hold,
    HoldCause,
    Invite,
    Party,
    Pause,
    Release,
    Revoke,
    Side,
    Suspend,
    Transfer,
    Veto,
)
from dkey.lifecycle.roles import CardProvenance, Permission, Role
from dkey.lifecycle.telematic import TelematicState, TelematicVerb
from dkey.lifecycle.withdrawal import verify_withdrawal

ANN, BOB, CAROL, DAN = (f"{name}@example.org" for name in ("ann", "bob", "carol", "dan"))
USER = "user@example.org"
LIVE = {"PENDING", "NOT_SYNCED", "ACTIVE"}


@pytest.fixture
def running(tmp_path):
    with Process(tmp_path / "authority") as process:
        yield process


@pytest.fixture
def world(running):
    return running.world()


def with_actual_user(world):
    """A corporate vehicle whose actual user shares it with one associate."""
    vehicle = world.owned(corporate=True)
    user = world.share(vehicle, USER, role=Role.ACTUAL_USER)
    return vehicle, user, world.share(vehicle, BOB, actor=USER)


def test_g1_the_fourth_share_is_refused_until_one_is_revoked(world):
    vehicle = world.owned()
    first, *_ = [world.share(vehicle, name) for name in (ANN, BOB, CAROL)]
    assert world.refused(vehicle, world.invitation(DAN)) is RefusalCode.SHARE_LIMIT
    world.do(vehicle, Revoke(actor=OWNER, item=first))
    world.share(vehicle, DAN)


def test_g1_of_two_parallel_invitations_for_the_last_place_one_wins(world, running):
    vehicle = world.owned()
    world.share(vehicle, ANN)
    world.share(vehicle, BOB)
    commands = [world.invitation(CAROL), world.invitation(DAN)]

    def invite(command: Invite) -> RefusalCode | None:
        try:
            running.client.execute(vehicle, command)
        except PolicyRefusal as refusal:
            return refusal.code
        return None

    with ThreadPoolExecutor(2) as pool:
        codes = [*pool.map(invite, commands)]
    assert sorted(codes, key=str) == [None, RefusalCode.SHARE_LIMIT]


def test_g4_what_a_hold_of_the_owner_took_comes_back_and_nothing_else(world):
    vehicle = world.owned()
    kept, own = world.share(vehicle, ANN), world.share(vehicle, BOB)
    world.do(vehicle, Suspend(actor=OWNER, item=own))
    how = {"actor": AUTHORITY, "account": OWNER, "cause": HoldCause.CLONING}
    world.do(vehicle, Hold(**how))
    keys = world.authority.keys(vehicle, AUTHORITY).keys
    assert {entry.state for entry in keys} == {"SUSPENDED"}
    world.do(vehicle, Release(**how))
    assert world.state(vehicle, kept) == "ACTIVE"
    assert world.state(vehicle, own) == "SUSPENDED"


def test_g5_an_associate_may_neither_share_nor_pause_nor_revoke(world):
    vehicle = world.owned()
    world.share(vehicle, ANN)
    other = world.share(vehicle, BOB)
    for command in (
        world.invitation(CAROL, actor=ANN),
        Pause(actor=ANN, days=10),
        Revoke(actor=ANN, item=other),
    ):
        assert world.refused(vehicle, command) is RefusalCode.NOT_AUTHORISED


def test_g6_a_veto_of_the_owner_ends_a_share_and_forbids_another(world):
    vehicle, _, share = with_actual_user(world)
    world.do(vehicle, Veto(actor=OWNER, account=BOB))
    assert world.state(vehicle, share) == "REVOKED"
    again = world.invitation(BOB, actor=USER)
    assert world.refused(vehicle, again) is RefusalCode.VETOED_BY_OWNER


def test_g8_a_transfer_with_one_side_cleared_is_reported_as_half_removed(world):
    vehicle = world.owned()
    world.share(vehicle, ANN)
    world.do(vehicle, Transfer(actor=OWNER))
    world.do(vehicle, Cleared(actor=AUTHORITY, side=Side.ACCOUNT))
    assert world.authority.keys(vehicle, AUTHORITY).half_removed == "VEHICLE"
    stranger = world.person("new@example.org")
    party = Party(account=stranger)
    found = Found(actor=stranger, owner=party, key_x=secrets.token_bytes(32))
    assert world.refused(vehicle, found) is RefusalCode.ALREADY_LINKED
    world.do(vehicle, Cleared(actor=VEHICLE, side=Side.VEHICLE))
    after = world.authority.keys(vehicle, AUTHORITY)
    assert (after.half_removed, after.count, after.linked) == (None, 0, False)
    world.do(vehicle, found)


def test_g15_a_pause_of_91_days_and_a_third_in_a_year_are_refused(world):
    vehicle = world.owned()
    assert world.refused(vehicle, Pause(actor=OWNER, days=91)) is RefusalCode.PAUSE_QUOTA
    for _ in range(2):
        world.do(vehicle, Pause(actor=OWNER, days=90))
        world.do(vehicle, EndPause(actor=OWNER))
    assert world.refused(vehicle, Pause(actor=OWNER, days=1)) is RefusalCode.PAUSE_QUOTA


def test_g15_seven_days_before_a_pause_ends_the_owner_is_told_on_two_channels(world):
    vehicle = world.owned()
    world.do(vehicle, Pause(actor=OWNER, days=90))

    def told():
        return {n.channel for n in world.authority.notices(OWNER) if n.kind is Topic.PAUSE_ENDING}

    world.authority.advance(83 * DAY - 1)
    assert told() == set()
    world.authority.advance(1)
    assert told() == {Channel.HEAD_UNIT, Channel.SMS}


def test_g15_a_pause_that_nobody_ends_is_extended(world):
    vehicle = world.owned()
    item = world.share(vehicle, ANN)
    world.do(vehicle, Pause(actor=OWNER, days=90))
    world.authority.advance(91 * DAY)
    assert world.state(vehicle, item) == "SUSPENDED"


def test_g15_the_actual_user_pauses_when_the_right_was_delegated(world):
    vehicle, _, _ = with_actual_user(world)
    assert world.refused(vehicle, Pause(actor=BOB, days=5)) is RefusalCode.NOT_AUTHORISED
    assert world.refused(vehicle, Pause(actor=USER, days=5)) is RefusalCode.NOT_AUTHORISED
    world.do(vehicle, DelegatePause(actor=OWNER, allowed=True))
    world.do(vehicle, Pause(actor=USER, days=5))


def test_g20_a_second_account_cannot_take_over_before_a_reset_in_the_vehicle(world):
    vehicle = world.owned()
    eve = world.person("eve@example.org")
    found = Found(actor=eve, owner=Party(account=eve), key_x=secrets.token_bytes(32))
    assert world.refused(vehicle, found) is RefusalCode.ALREADY_LINKED
    world.do(vehicle, FactoryReset(actor=VEHICLE))
    world.do(vehicle, found)


def active_unit(world):
    vehicle = world.owned(profile="mobikey-light", market="RU")
    world.authority.link_unit(vehicle, hardware_id="m-1")
    world.authority.confirm_unit(vehicle)
    return vehicle


def test_g21_a_deactivated_unit_refuses_at_once_and_only_a_dealer_brings_it_back(world):
    vehicle, authority = active_unit(world), world.authority
    assert authority.ask_unit(vehicle, OWNER, TelematicVerb.LOCK).state is TelematicState.ACTIVE
    assert authority.deactivate_unit(vehicle, OWNER, confirmed=True).state == "DEACTIVATED"
    with pytest.raises(PolicyRefusal) as refused:
        authority.ask_unit(vehicle, OWNER, TelematicVerb.LOCK)
    assert refused.value.code is RefusalCode.DEACTIVATED
    with pytest.raises(PolicyRefusal) as refused:
        authority.link_unit(vehicle, OWNER, hardware_id="m-1")
    assert refused.value.code is RefusalCode.NOT_AUTHORISED
    authority.advance(DAY)
    assert authority.telematic_unit(vehicle).state is TelematicState.ASLEEP
    authority.link_unit(vehicle, hardware_id="m-1")
    assert authority.confirm_unit(vehicle).state is TelematicState.ACTIVE


def test_g21_after_the_deactivation_nothing_but_changes_of_state_is_logged(world):
    vehicle, authority = active_unit(world), world.authority
    authority.deactivate_unit(vehicle, OWNER, confirmed=True)
    before = len(authority.audit_log(vehicle))
    for verb in TelematicVerb:
        with pytest.raises(PolicyRefusal):
            authority.ask_unit(vehicle, OWNER, verb)
    assert len(authority.audit_log(vehicle)) == before


def test_a_vehicle_of_another_market_or_in_service_mode_gets_no_unit(world):
    korean = world.owned(profile="mobikey-light")
    with pytest.raises(PolicyRefusal) as refused:
        world.authority.link_unit(korean, hardware_id="m-1")
    assert refused.value.code is RefusalCode.WRONG_MARKET
    served = world.owned(profile="mobikey-light", market="RU")
    world.authority.set_service_mode(served, on=True)
    with pytest.raises(PolicyRefusal) as refused:
        world.authority.link_unit(served, hardware_id="m-1")
    assert refused.value.code is RefusalCode.SERVICE_MODE


def order(world, actor, **how):
    """An order of a wash; its key ends with the booking."""
    return world.invitation(
        "wash@example.org",
        actor=actor,
        role=Role.PROVIDER,
        permission=Permission.ENTRY,
        booking=world.booking("wash@example.org", **how),
        until_s=START + 3600 + 15 * 60,
    )


def test_g22_a_sharee_without_start_may_not_order(world):
    vehicle = world.owned()
    world.share(vehicle, ANN, permission=Permission.ENTRY)
    assert world.refused(vehicle, order(world, ANN)) in {
        RefusalCode.PERMISSION_ENTRY_ONLY,
        RefusalCode.NOT_AUTHORISED,
    }


def test_g22_a_sharee_with_start_orders_the_owner_is_told_and_the_key_ends(world):
    vehicle = world.owned()
    world.share(vehicle, ANN)
    command = order(world, ANN)
    world.do(vehicle, command)
    told = [n for n in world.authority.notices(OWNER) if n.kind is Topic.PROVIDER_SHARE]
    assert {n.channel for n in told} == {Channel.APP_PUSH, Channel.SMS}
    booked = world.authority.bookings(vehicle, OWNER)
    assert [(b.booking_id, b.ordered_by, b.state) for b in booked] == [("B-1", ANN, "PENDING")]
    world.authority.advance(3600 + 15 * 60 + 1)
    assert world.state(vehicle, command.share_id) == "EXPIRED"


@pytest.mark.parametrize(("profile", "iphone"), [("DK2", False), ("DK1", True)])
def test_g22_dk2_vehicles_and_iphones_are_in_person_only(world, profile, iphone):
    vehicle = world.owned(profile=profile)
    world.share(vehicle, ANN)
    command = order(world, ANN, iphone=iphone)
    assert world.refused(vehicle, command) is RefusalCode.IN_PERSON_ONLY


def test_g22_without_the_consent_to_third_parties_no_provider_gets_a_key(world):
    vehicle = world.owned()
    world.authority.withdraw_consent(OWNER, OWNER, Purpose.THIRD_PARTY)
    assert world.refused(vehicle, order(world, OWNER)) is RefusalCode.CONSENT_MISSING


def test_g23_an_associate_sees_the_own_key_and_how_many_there_are(world):
    vehicle = world.owned()
    own = world.share(vehicle, ANN)
    world.share(vehicle, BOB)
    world.do(
        vehicle,
        AddCard(actor=OWNER, card=key_ref(bytes(32)), provenance=CardProvenance.INITIAL),
    )
    seen = world.authority.keys(vehicle, ANN)
    assert [entry.item for entry in seen.keys] == [own.hex()]
    assert seen.count == 4
    assert OWNER not in str(seen)
    assert BOB not in str(seen)
    assert len(world.authority.keys(vehicle, OWNER).keys) == 4


def test_g23_a_stranger_sees_nothing(world):
    vehicle, eve = world.owned(), world.person("eve@example.org")
    with pytest.raises(PolicyRefusal) as refused:
        world.authority.keys(vehicle, eve)
    assert refused.value.code is RefusalCode.NOT_AUTHORISED


def test_g24_entries_older_than_six_months_are_purged_unless_a_dispute_holds_them(world):
    disputed, other = world.owned(), world.owned()
    dispute = world.authority.open_dispute("a bill", vehicle=disputed)
    world.authority.advance(184 * DAY)
    assert world.authority.audit_log(other) == []
    assert world.authority.audit_log(disputed)
    world.authority.end_dispute(dispute)
    world.authority.advance(184 * DAY)
    assert world.authority.audit_log(disputed) == []


def test_g24_a_withdrawn_consent_purges_what_rests_on_it(world):
    vehicle = world.owned()
    world.do(vehicle, order(world, OWNER))
    assert world.authority.withdraw_consent(OWNER, OWNER, Purpose.THIRD_PARTY) == 1
    bases = {record.basis for record in world.authority.audit_log(vehicle)}
    assert Basis.THIRD_PARTY not in bases


def test_g24_a_person_under_dispute_is_not_erased(world):
    vehicle = world.owned()
    world.share(vehicle, ANN)
    dispute = world.authority.open_dispute("a bill", account=ANN)
    with pytest.raises(PolicyRefusal):
        world.authority.erase(ANN, ANN)
    world.authority.end_dispute(dispute)
    assert world.authority.erase(ANN, ANN) > 0
    assert ANN not in str(world.authority.keys(vehicle, OWNER))


def test_the_withdrawal_list_verifies_and_names_what_was_revoked(world):
    vehicle = world.owned()
    item = world.share(vehicle, ANN)
    world.do(vehicle, Revoke(actor=OWNER, item=item))
    said = verify_withdrawal(
        world.authority.withdrawal_list(vehicle),
        world.authority.public_key,
        issuer=Issuer.AUTHORITY,
        vehicle=vehicle,
    )
    assert said.revoked == (item,)


def test_a_closed_account_has_no_usable_key_and_the_owner_goes_on(world):
    vehicle = world.owned()
    item = world.share(vehicle, ANN)
    world.authority.close_account(ANN, ANN)
    assert world.state(vehicle, item) not in LIVE
    world.share(vehicle, BOB)


def test_offers_can_be_switched_off_by_the_person_only(world):
    world.person(ANN)
    world.person(BOB)
    world.authority.set_offers(ANN, ANN, wanted=True)
    with pytest.raises(PolicyRefusal):
        world.authority.set_offers(BOB, ANN, wanted=True)
