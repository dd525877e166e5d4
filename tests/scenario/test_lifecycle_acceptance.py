"""The lifecycle part of the acceptance list (requirements G), by its numbers, on the pure rules."""

from dkey.errors import RefusalCode as R
from dkey.lifecycle import commands as c
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.flags import CascadeScope
from dkey.lifecycle.ring_effects import HalfRemoved, NoticeDue, NoticeKind, OwnerNotified
from dkey.lifecycle.roles import CardProvenance, Role
from ring_world import (
    DAY,
    ENTRY,
    OWNER,
    OWNER_X,
    START,
    World,
    card,
    mail,
    refused,
    share_id,
    x_of,
)


def leased(**flags):
    """A corporate vehicle with an actual user, who shared with anna; the owner shared with bob."""
    world = World(corporate=True, **flags)
    world.share("user", role=Role.ACTUAL_USER)
    world.share("anna", by=mail("user"))
    world.share("bob")
    return world


def test_01_three_shares_pass_and_the_fourth_is_refused_until_one_is_revoked():
    world = World()
    for name in ("anna", "bob", "carl"):
        world.share(name)
    with refused(R.SHARE_LIMIT):
        world.invite("dora")
    world.do(c.Revoke(actor=OWNER, item=share_id("bob")))
    world.share("dora")
    assert world.usable(share_id("dora")) is None


def test_01_of_two_invitations_for_the_last_place_one_wins():
    world = World()
    for name in ("anna", "bob", "carl"):
        world.invite(name)
    with refused(R.SHARE_LIMIT):
        world.invite("dora")
    assert world.ring.places_taken == 3


def test_02_an_entry_only_key_opens_and_does_not_start_and_the_vehicle_decides_alone():
    world = World()
    world.share("anna", permission=ENTRY)
    world.admit(world.claims("anna"))
    verdict = world.car.verdict(x_of("anna"), world.now)
    assert (verdict.refusal, verdict.may_start) == (None, False)
    assert world.usable(share_id("anna"), start=True) is R.PERMISSION_ENTRY_ONLY


def test_03_revoking_the_actual_user_ends_the_associates_at_the_next_contact_and_not_the_owner():
    world = leased()
    for name in ("anna", "bob"):
        world.admit(world.claims(name))
    world.do(c.Revoke(actor=OWNER, item=share_id("user")))
    assert world.verdict(x_of("anna")) is None  # the vehicle was not told yet
    world.deliver()
    assert world.verdict(x_of("anna")) is R.KEY_REVOKED
    assert world.verdict(share_id("anna")) is R.KEY_REVOKED
    assert world.verdict(share_id("bob")) is R.KEY_REVOKED
    assert world.verdict(OWNER_X) is None


def test_03_suspending_the_actual_user_leaves_the_owner_alone():
    world = leased()
    world.do(c.Suspend(actor=OWNER, item=share_id("user")))
    assert world.usable(share_id("anna")) is R.KEY_SUSPENDED
    assert world.usable(world.owner_item) is None


def test_03_in_the_grant_chain_scope_an_associate_of_the_owner_stays():
    world = leased(cascade_scope=CascadeScope.GRANT_CHAIN)
    world.do(c.Revoke(actor=OWNER, item=share_id("user")))
    assert world.usable(share_id("anna")) is R.KEY_REVOKED
    assert world.usable(share_id("bob")) is None


def test_04_suspending_the_owner_suspends_all_and_the_release_restores_only_what_it_took():
    world = World()
    world.add_card()
    for name in ("anna", "bob"):
        world.share(name)
        world.admit(world.claims(name))
    world.do(c.Suspend(actor=OWNER, item=share_id("bob")))
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=c.HoldCause.CLONING))
    world.deliver()
    for key in (OWNER_X, x_of("anna"), x_of("bob"), card(1)):
        assert world.verdict(key) is R.KEY_SUSPENDED
    world.do(c.Release(actor=c.AUTHORITY, account=OWNER, cause=c.HoldCause.CLONING))
    world.deliver()
    assert [world.verdict(k) for k in (OWNER_X, x_of("anna"), card(1))] == [None] * 3
    assert world.verdict(x_of("bob")) is R.KEY_SUSPENDED


def test_05_an_associate_may_not_share_pause_or_revoke():
    world = World()
    world.share("anna")
    world.share("bob")
    for command in (
        c.Pause(actor=mail("anna"), days=1),
        c.Revoke(actor=mail("anna"), item=share_id("bob")),
        c.Suspend(actor=mail("anna"), item=share_id("bob")),
    ):
        with refused(R.NOT_AUTHORISED):
            world.do(command)
    with refused(R.NOT_AUTHORISED):
        world.invite("carl", by=mail("anna"))


def test_06_the_actual_user_may_not_share_after_a_veto_and_the_earlier_share_is_revoked():
    world = leased()
    world.do(c.Veto(actor=OWNER, account=mail("anna")))
    assert world.usable(share_id("anna")) is R.KEY_REVOKED
    with refused(R.VETOED_BY_OWNER):
        world.invite("again", by=mail("user"), account=mail("anna"))
    assert world.usable(share_id("bob")) is None


def test_07_after_a_transfer_no_key_no_card_and_no_name_is_left_and_a_new_owner_pairs():
    world = World()
    world.add_card()
    world.share("anna")
    world.admit(world.claims("anna"))
    old = world.claims("anna")
    world.do(c.Transfer(actor=OWNER))
    assert world.ring.keys() == ()
    assert "example.org" not in str(world.ring.to_value())
    world.deliver()
    for key in (OWNER_X, x_of("anna"), share_id("anna"), card(1)):
        assert world.verdict(key) in (R.KEY_REVOKED, R.KEY_UNKNOWN)
    with refused(R.ALREADY_LINKED):
        world.found("next@example.org", x_of("next"))
    world.do(c.Cleared(actor=c.AUTHORITY, side=c.Side.ACCOUNT))
    world.do(c.FactoryReset(actor=c.VEHICLE))
    world.car = world.car.factory_reset()
    world.found("next@example.org", x_of("next"))
    assert world.verdict(x_of("next")) is None
    with refused(R.KEY_REVOKED):
        world.admit(old)


def test_08_to_clear_one_side_only_is_reported_as_half_removed():
    world = World()
    assert HalfRemoved(missing=c.Side.VEHICLE) in world.do(c.Unpair(actor=OWNER))
    assert world.ring.half_removed is c.Side.VEHICLE
    world.do(c.Cleared(actor=c.VEHICLE, side=c.Side.VEHICLE))
    assert world.ring.half_removed is None

    world = World()
    world.do(c.FactoryReset(actor=c.VEHICLE))
    assert world.ring.half_removed is c.Side.ACCOUNT


def test_15_a_pause_of_91_days_and_a_third_one_in_a_year_are_refused():
    world = World()
    with refused(R.PAUSE_QUOTA):
        world.do(c.Pause(actor=OWNER, days=91))
    for _ in range(2):
        world.do(c.Pause(actor=OWNER, days=90))
        world.do(c.EndPause(actor=OWNER))
        world.pass_days(10)
    with refused(R.PAUSE_QUOTA):
        world.do(c.Pause(actor=OWNER, days=1))
    world.pass_days(345)
    world.do(c.Pause(actor=OWNER, days=1))


def test_15_a_pause_gives_notice_a_week_before_is_extended_once_and_is_terminable_then():
    world = World()
    world.do(c.Pause(actor=OWNER, days=90))
    assert world.pass_days(82) == ()
    noticed = [e.kind for e in world.pass_days(1) if isinstance(e, NoticeDue)]
    assert noticed == [NoticeKind.PAUSE_ENDS]
    world.pass_days(7)
    assert world.ring.pause.stage == "PAUSED_EXT"
    noticed = [e.kind for e in world.pass_days(83) if isinstance(e, NoticeDue)]
    assert noticed == [NoticeKind.PAUSE_TERMINABLE]
    world.pass_days(7)
    assert world.ring.pause.stage == "TERMINABLE"
    assert world.usable(world.owner_item) is R.KEY_SUSPENDED
    world.do(c.EndOwner(actor=c.AUTHORITY, reason=c.EndReason.TERMINATED))
    assert world.ring.owner is None


def test_15_an_associate_is_denied_and_the_actual_user_may_pause_when_delegated_only():
    world = leased()
    for name in ("anna", "user"):
        with refused(R.NOT_AUTHORISED):
            world.do(c.Pause(actor=mail(name), days=5))
    world.do(c.DelegatePause(actor=OWNER, allowed=True))
    world.do(c.Pause(actor=mail("user"), days=5))
    assert world.usable(share_id("anna")) is R.KEY_SUSPENDED


def test_16_a_restricted_holders_card_is_refused_and_one_whose_phone_is_off_works():
    world = World()
    world.add_card()
    assert world.usable(card(1), phone_off=True) is None
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=c.HoldCause.PHONE_BLOCKED))
    assert world.usable(card(1)) is R.CARD_BLOCKED


def test_18_an_immobilised_vehicle_starts_with_no_key_and_opens_with_every_one():
    world = World()
    world.share("anna")
    world.admit(world.claims("anna"))
    world.do(c.Immobilise(actor=c.AUTHORITY, on=True))
    world.deliver()
    for key in (OWNER_X, x_of("anna")):
        verdict = world.car.verdict(key, world.now)
        assert (verdict.refusal, verdict.may_start) == (None, False)
    assert world.usable(share_id("anna"), start=True) is R.IMMOBILISED


def test_19_a_power_cycle_keeps_revocations_and_a_factory_reset_erases_all():
    world = World()
    world.share("anna")
    world.admit(world.claims("anna"))
    world.do(c.Revoke(actor=OWNER, item=share_id("anna")))
    world.deliver()
    world.car = type(world.car).from_value(world.car.power_cycle().to_value())
    assert world.verdict(share_id("anna")) is R.KEY_REVOKED
    before = world.ring
    world.do(c.PowerCycle(actor=c.VEHICLE))
    assert world.ring == before
    world.car = world.car.factory_reset()
    assert world.verdict(OWNER_X) is R.KEY_UNKNOWN


def test_20_a_second_account_is_refused_until_somebody_resets_the_vehicle():
    world = World()
    with refused(R.ALREADY_LINKED):
        world.found("thief@example.org", x_of("thief"))
    with refused(R.ALREADY_LINKED):
        world.car.enrol_owner(x_of("thief"))
    with refused(R.NOT_AUTHORISED):
        world.do(c.FactoryReset(actor="thief@example.org"))
    world.do(c.FactoryReset(actor=c.VEHICLE))
    world.car = world.car.factory_reset()
    world.found("next@example.org", x_of("next"))


def test_22_a_sharee_without_start_may_not_order_and_with_it_the_owner_is_notified():
    world = World(remote_handover=True)
    world.share("anna", permission=ENTRY)
    world.share("bob", permission=START)
    with refused(R.PERMISSION_ENTRY_ONLY):
        world.order(by=mail("anna"))
    world.order(by=mail("bob"))
    told = next(e for e in world.effects if isinstance(e, OwnerNotified))
    assert (told.to, told.ordered_by, told.recipient) == (OWNER, mail("bob"), mail("wash"))


def test_22_in_a_dk2_vehicle_and_from_an_iphone_services_are_in_person_only():
    with refused(R.IN_PERSON_ONLY):
        World().order(by=OWNER)
    with refused(R.IN_PERSON_ONLY):
        World(remote_handover=True).order(by=OWNER, iphone=True)


def test_22_a_providers_key_ends_with_its_booking_and_the_grace_after_it():
    world = World(remote_handover=True)
    item = world.order(by=OWNER)
    world.do(c.Accept(actor=mail("wash"), share_id=item, key_x=x_of("wash")))
    world.do(c.Activate(actor=c.VEHICLE, share_id=item))
    world.now += 3600 + 15 * 60
    assert world.usable(item) is None
    world.now += 1
    assert world.usable(item) is R.KEY_EXPIRED
    world.do(c.Tick(actor=c.AUTHORITY))
    assert world.ring.places_taken == 0


def test_23_an_associate_sees_the_own_key_only():
    world = World()
    world.add_card(1, CardProvenance.INITIAL)
    world.share("anna")
    world.share("bob")
    seen = world.ring.keys(mail("anna"))
    assert [each.account for each in seen] == [mail("anna")]
    assert len(world.ring.keys(OWNER)) == 4


def test_25_a_key_of_one_vehicle_is_refused_by_another():
    world = World()
    world.share("anna")
    with refused(R.WRONG_VEHICLE):
        world.admit(world.claims("anna", vehicle=b"W" * 16))


def test_a_lost_phone_is_suspended_at_once_and_comes_back_when_released():
    world = World()
    world.add_card()
    world.do(c.ReportLost(actor=OWNER, item=world.owner_item))
    assert world.usable(world.owner_item) is R.KEY_SUSPENDED
    assert world.usable(card(1)) is R.CARD_BLOCKED
    world.do(c.ReleaseLost(actor=c.AUTHORITY, item=world.owner_item))
    assert [world.usable(world.owner_item), world.usable(card(1))] == [None, None]


def test_a_closed_account_loses_its_phone_key_and_the_card_stays():
    world = World()
    world.add_card()
    world.do(c.CloseAccount(actor=OWNER, account=OWNER))
    world.deliver(Issuer.AUTHORITY)
    assert world.verdict(OWNER_X) is R.KEY_REVOKED
    assert world.verdict(card(1)) is None


def test_an_unpaid_fee_suspends_after_a_week_of_notice():
    world = World()
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=c.HoldCause.UNPAID))
    assert world.usable(world.owner_item) is None
    world.now += 7 * DAY
    world.do(c.Tick(actor=c.AUTHORITY))
    assert world.usable(world.owner_item) is R.KEY_SUSPENDED
