"""Every refusal of the ring, and that a refusal changes nothing."""

import pytest

from dkey.errors import PolicyRefusal
from dkey.errors import RefusalCode as R
from dkey.lifecycle import commands as c
from dkey.lifecycle.flags import CardFollowsPhone
from dkey.lifecycle.ring import apply
from dkey.lifecycle.ring_rules import RIGHTS, Who
from dkey.lifecycle.roles import CardProvenance, Role
from ring_world import (
    DAY,
    ENTRY,
    OWNER,
    START,
    T0,
    World,
    card,
    mail,
    refused,
    share_id,
    x_of,
)

INITIAL = CardProvenance.INITIAL


def leased(**flags):
    world = World(corporate=True, **flags)
    world.share("user", role=Role.ACTUAL_USER)
    world.share("anna", by=mail("user"))
    return world


def shared(**flags):
    world = World(**flags)
    world.share("anna")
    return world


def test_the_table_names_every_command_but_the_first():
    named = {each.operation for each in RIGHTS}
    every = {name for name in c.__all__ if name[0].isupper() and name in vars(c)}
    every = {n for n in every if isinstance(vars(c)[n], type) and issubclass(vars(c)[n], c.Command)}
    assert every - named == {"Command", "Found"}


def test_no_right_of_the_table_stands_twice():
    rows = [(each.operation, each.who) for each in RIGHTS]
    assert len(rows) == len(set(rows))


def test_nobody_below_the_owner_has_a_right_over_the_owners_key():
    for right in RIGHTS:
        if Role.OWNER in right.targets:
            assert right.who in (Who.OWNER, Who.AUTHORITY)


def test_an_actual_user_has_no_right_over_an_actual_user_and_may_not_transfer():
    mine = [each for each in RIGHTS if each.who is Who.ACTUAL_USER]
    assert all(Role.ACTUAL_USER not in each.targets for each in mine)
    assert "Transfer" not in {each.operation for each in mine}


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda w: w.invite("anna2", account=mail("anna")), R.ALREADY_LINKED),
        (lambda w: w.invite("x", account=OWNER), R.ALREADY_LINKED),
        (lambda w: w.invite("x", account="nobody"), R.NOT_AUTHORISED),
        (lambda w: w.invite("x", account=c.AUTHORITY), R.NOT_AUTHORISED),
        (lambda w: w.invite("anna", account=mail("other")), R.REPLAY),
        (lambda w: w.invite("x", role=Role.ACTUAL_USER), R.NOT_AUTHORISED),
        (lambda w: w.invite("x", role=Role.OWNER), R.NOT_AUTHORISED),
        (lambda w: w.invite("x", role=Role.CARD), R.NOT_AUTHORISED),
        (lambda w: w.invite("x", not_after_s=T0 - 1), R.KEY_EXPIRED),
        (lambda w: w.invite("x", not_before_s=T0 + 9, not_after_s=T0 + 8), R.KEY_EXPIRED),
        (lambda w: w.invite("x", replaces=share_id("anna")), R.NOT_AUTHORISED),
        (lambda w: w.invite("x", by="stranger@example.org"), R.NOT_AUTHORISED),
        (lambda w: w.invite("x", by=c.AUTHORITY), R.NOT_AUTHORISED),
        (lambda w: w.invite("x", by=c.DEALER), R.NOT_AUTHORISED),
        (lambda w: w.do(c.Revoke(actor=OWNER, item=b"?" * 16)), R.KEY_UNKNOWN),
        (
            lambda w: w.do(
                c.Accept(actor=mail("anna"), share_id=share_id("anna"), key_x=x_of("?"))
            ),
            R.REPLAY,
        ),
        (
            lambda w: w.do(c.Accept(actor=OWNER, share_id=share_id("anna"), key_x=x_of("?"))),
            R.NOT_AUTHORISED,
        ),
        (lambda w: w.do(c.Suspend(actor=OWNER, item=w.owner_item)), R.NOT_AUTHORISED),
        (lambda w: w.do(c.Decline(actor=OWNER, share_id=share_id("anna"))), R.NOT_AUTHORISED),
        (lambda w: w.do(c.Tick(actor=OWNER)), R.NOT_AUTHORISED),
        (lambda w: w.do(c.PowerCycle(actor=OWNER)), R.NOT_AUTHORISED),
        (lambda w: w.do(c.Immobilise(actor=OWNER, on=True)), R.NOT_AUTHORISED),
        (lambda w: w.do(c.Transfer(actor=mail("anna"))), R.NOT_AUTHORISED),
        (lambda w: w.do(c.Cleared(actor=c.VEHICLE, side=c.Side.ACCOUNT)), R.NOT_AUTHORISED),
        (
            lambda w: w.do(
                c.Hold(actor=c.AUTHORITY, account="no@example.org", cause=c.HoldCause.CLONING)
            ),
            R.KEY_UNKNOWN,
        ),
        (lambda w: w.do(c.CloseAccount(actor=OWNER, account=mail("anna"))), R.NOT_AUTHORISED),
    ],
)
def test_a_refusal_has_its_code_and_changes_nothing(make, code):
    world = shared()
    before = world.ring
    with refused(code):
        make(world)
    assert world.ring is before


def test_two_invitees_may_not_take_the_same_key():
    world = shared()
    item = world.invite("bob")
    with refused(R.REPLAY):
        world.do(c.Accept(actor=mail("bob"), share_id=item, key_x=x_of("anna")))


def test_a_share_that_ended_is_never_accepted_or_activated_again():
    world = World()
    item = world.invite("anna")
    world.do(c.Decline(actor=mail("anna"), share_id=item))
    with refused(R.KEY_REVOKED):
        world.do(c.Accept(actor=mail("anna"), share_id=item, key_x=x_of("anna")))
    with refused(R.KEY_REVOKED):
        world.do(c.Activate(actor=c.VEHICLE, share_id=item))
    with refused(R.REPLAY):
        world.invite("anna")


def test_a_share_is_not_activated_before_somebody_accepted_it():
    world = World()
    item = world.invite("anna")
    with refused(R.PENDING_ACTIVATION):
        world.do(c.Activate(actor=c.VEHICLE, share_id=item))
    assert world.usable(item) is R.PENDING_ACTIVATION


def test_an_actual_user_shares_only_after_the_vehicle_saw_the_key():
    world = World(corporate=True)
    item = world.invite("user", role=Role.ACTUAL_USER)
    world.do(c.Accept(actor=mail("user"), share_id=item, key_x=x_of("user")))
    with refused(R.NOT_SYNCED):
        world.invite("anna", by=mail("user"))


def test_an_actual_user_who_may_enter_only_grants_no_start():
    world = World(corporate=True)
    world.share("user", role=Role.ACTUAL_USER, permission=ENTRY)
    with refused(R.PERMISSION_ENTRY_ONLY):
        world.invite("anna", by=mail("user"), permission=START)


def test_a_second_actual_user_needs_to_replace_the_first_who_falls_with_the_associates():
    world = leased()
    with refused(R.SHARE_LIMIT):
        world.invite("next", role=Role.ACTUAL_USER)
    with refused(R.KEY_UNKNOWN):
        world.invite("next", role=Role.ACTUAL_USER, replaces=share_id("anna"))
    world.share("next", role=Role.ACTUAL_USER, replaces=share_id("user"))
    assert [each.account for each in world.ring.live] == [mail("next")]


def test_a_suspended_or_paused_owner_grants_nothing_and_may_still_take_away():
    world = shared()
    world.do(c.Pause(actor=OWNER, days=5))
    for grant in (
        lambda: world.invite("bob"),
        lambda: world.do(c.Resume(actor=OWNER, item=share_id("anna"))),
        lambda: world.do(c.Pause(actor=OWNER, days=5)),
        world.add_card,
    ):
        with refused(R.KEY_SUSPENDED):
            grant()
    world.do(c.Revoke(actor=OWNER, item=share_id("anna")))


def test_nobody_lifts_what_a_higher_role_suspended():
    world = leased()
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    with refused(R.NOT_AUTHORISED):
        world.do(c.Resume(actor=mail("user"), item=share_id("anna")))
    world.do(c.Resume(actor=OWNER, item=share_id("anna")))
    assert world.usable(share_id("anna")) is None


def test_stacked_suspensions_are_lifted_one_by_one():
    world = leased()
    world.do(c.Suspend(actor=mail("user"), item=share_id("anna")))
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    world.do(c.Resume(actor=OWNER, item=share_id("anna")))
    assert world.usable(share_id("anna")) is R.KEY_SUSPENDED
    world.do(c.Resume(actor=OWNER, item=share_id("anna")))
    assert world.usable(share_id("anna")) is None


def test_resuming_does_not_lift_a_hold_of_the_authority():
    world = shared()
    world.do(c.Hold(actor=c.AUTHORITY, account=mail("anna"), cause=c.HoldCause.RADIO_LAW))
    with refused(R.NOT_AUTHORISED):
        world.do(c.Resume(actor=OWNER, item=share_id("anna")))
    assert world.usable(world.owner_item) is None


def test_without_the_automatic_cascade_a_suspension_takes_its_own_key_only():
    world = leased(cascade_automatic=False)
    world.do(c.Hold(actor=c.AUTHORITY, account=mail("user"), cause=c.HoldCause.CLONING))
    world.do(c.Hold(actor=c.AUTHORITY, account=OWNER, cause=c.HoldCause.CLONING))
    assert world.usable(share_id("anna")) is None
    assert not world.list().all_suspended


def test_cards_are_limited_and_only_one_is_initial():
    world = World()
    world.add_card(1, INITIAL)
    with refused(R.CARD_LIMIT):
        world.add_card(2, INITIAL)
    world.add_card(2)
    with refused(R.CARD_LIMIT):
        world.add_card(3)
    world.add_card(3, replaces=card(1))
    assert world.usable(card(1)) is R.KEY_REVOKED
    with refused(R.REPLAY):
        world.add_card(1, replaces=card(2))
    with refused(R.KEY_UNKNOWN):
        world.add_card(4, replaces=card(9))
    with refused(R.KEY_REVOKED):
        world.add_card(4, replaces=card(1))


def test_a_pause_leaves_cards_alone_where_the_flag_says_so():
    world = World(pause_affects_cards=False)
    world.add_card()
    world.do(c.Pause(actor=OWNER, days=5))
    assert world.usable(card(1)) is None
    world.deliver()
    assert world.verdict(card(1)) is None


def test_a_card_follows_a_phone_that_is_off_where_the_flag_says_so():
    world = World(card_follows_phone=CardFollowsPhone.ALWAYS)
    world.add_card()
    assert world.usable(card(1), phone_off=True) is R.CARD_BLOCKED


@pytest.mark.parametrize(
    ("booking", "code"),
    [
        ({"third_party_consent": False}, R.CONSENT_MISSING),
        ({"iphone": True}, R.IN_PERSON_ONLY),
        ({"provider": "another@example.org"}, R.NOT_AUTHORISED),
        ({"needs_start": True}, R.PERMISSION_ENTRY_ONLY),
    ],
)
def test_a_providers_key_needs_consent_the_right_booking_and_the_least_rights(booking, code):
    world = World(remote_handover=True)
    with refused(code):
        world.order(by=OWNER, **booking)


def test_a_provider_gets_no_start_that_the_job_does_not_need():
    world = World(remote_handover=True)
    with refused(R.NOT_AUTHORISED):
        world.order(by=OWNER, start=True, needs_start=False)


def test_a_provider_counts_as_one_of_three_unless_the_flag_says_otherwise():
    for counts, places in ((True, 3), (False, 2)):
        world = World(remote_handover=True, provider_counts=counts)
        world.share("anna")
        world.share("bob")
        world.order(by=OWNER)
        assert world.ring.places_taken == places


def test_where_approval_is_needed_a_providers_key_waits_for_the_owner():
    world = shared(remote_handover=True, owner_approval_required=True)
    item = world.order(by=mail("anna"))
    accept = c.Accept(actor=mail("wash"), share_id=item, key_x=x_of("wash"))
    with refused(R.NOT_AUTHORISED):
        world.do(accept)
    world.do(c.Approve(actor=OWNER, share_id=item))
    world.do(accept)


def test_the_orderer_revokes_the_own_order_only_and_it_falls_with_the_orderer():
    world = shared(remote_handover=True)
    world.share("bob")
    item = world.order(by=mail("anna"))
    with refused(R.NOT_AUTHORISED):
        world.do(c.Revoke(actor=mail("bob"), item=item))
    world.do(c.Revoke(actor=OWNER, item=share_id("anna")))
    assert world.usable(item) is R.KEY_REVOKED


def test_a_veto_on_all_sharing_ends_associates_and_leaves_the_actual_user():
    world = leased()
    world.do(c.Veto(actor=OWNER))
    assert [each.account for each in world.ring.live] == [mail("user")]
    with refused(R.VETOED_BY_OWNER):
        world.invite("bob", by=mail("user"))
    world.do(c.LiftVeto(actor=OWNER))
    assert world.usable(share_id("anna")) is R.KEY_REVOKED
    world.invite("bob", by=mail("user"))


@pytest.mark.parametrize("reason", list(c.EndReason))
def test_an_owner_who_ends_takes_everybody_along(reason):
    world = leased()
    world.add_card(by=c.AUTHORITY)
    world.do(c.EndOwner(actor=OWNER, reason=reason))
    assert world.ring.keys() == ()
    assert len(world.list().revoked) == 4


def test_the_company_ends_a_contract_14_days_after_its_notice():
    world = shared()
    world.do(c.EndOwner(actor=c.AUTHORITY, reason=c.EndReason.TERMINATED))
    world.pass_days(13.9)
    assert world.usable(share_id("anna")) is None
    world.pass_days(0.2)
    assert world.ring.owner is None


def test_an_expired_actual_user_takes_the_associates_along():
    world = World(corporate=True)
    world.share("user", role=Role.ACTUAL_USER, not_after_s=T0 + DAY)
    world.share("anna", by=mail("user"))
    world.pass_days(1.1)
    assert world.usable(share_id("anna")) is R.KEY_REVOKED


def test_time_set_back_revives_nothing_and_frees_a_place_only_by_expiry():
    world = World()
    item = world.share("anna", not_after_s=T0 + DAY)
    world.pass_days(2)
    world.now = T0
    assert world.usable(item) is R.KEY_EXPIRED
    assert world.ring.places_taken == 0


def test_friends_survive_a_change_of_owner_only_where_the_flag_says_so():
    party = c.Party(account="heir@example.org")
    for survive, left in ((False, 0), (True, 1)):
        world = shared(friends_survive_owner_change=survive)
        world.do(c.ChangeOwner(actor=OWNER, owner=party, key_x=x_of("heir")))
        assert (len(world.ring.live), world.ring.epoch) == (left, 0)
        assert world.ring.usable(world.owner_item, T0) in (R.KEY_REVOKED, R.KEY_UNKNOWN)


def test_a_change_of_owner_is_no_unpairing():
    world = shared()
    world.do(c.ChangeOwner(actor=OWNER, owner=c.Party(account=OWNER), key_x=x_of("new phone")))
    assert world.ring.removal is None
    world = shared()
    world.do(c.Unpair(actor=OWNER))
    assert world.ring.half_removed is c.Side.VEHICLE


def test_list_numbers_rise_with_every_change_and_expired_entries_are_pruned():
    world = World()
    item = world.share("anna", not_after_s=T0 + DAY)
    assert world.ring.list_number == 0
    world.do(c.Suspend(actor=OWNER, item=item))
    world.do(c.Revoke(actor=OWNER, item=item))
    assert (world.ring.list_number, world.list().revoked) == (2, (item,))
    world.pass_days(2)
    assert (world.ring.list_number, world.list().revoked) == (3, ())


def test_ended_shares_are_forgotten_after_six_months_and_their_ids_are_not():
    world = shared()
    world.do(c.Revoke(actor=OWNER, item=share_id("anna")))
    world.pass_days(184)
    assert world.ring.share(share_id("anna")) is None
    with refused(R.REPLAY):
        world.invite("anna")


def test_unknown_commands_are_refused():
    with pytest.raises(PolicyRefusal):
        apply(World().ring, c.Command(actor=OWNER), at_s=T0)


def test_a_loss_is_released_by_the_owner_or_the_authority_and_not_by_the_finder():
    world = shared()
    world.do(c.ReportLost(actor=mail("anna"), item=share_id("anna")))
    with refused(R.NOT_AUTHORISED):
        world.do(c.ReleaseLost(actor=mail("anna"), item=share_id("anna")))
    world.do(c.ReleaseLost(actor=OWNER, item=share_id("anna")))
    assert world.usable(share_id("anna")) is None
    world.do(c.ReportLost(actor=OWNER, item=world.owner_item))
    with refused(R.NOT_AUTHORISED):
        world.do(c.ReleaseLost(actor=OWNER, item=world.owner_item))


def test_a_suspended_account_is_not_freed_by_a_new_share():
    world = shared()
    hold = {"actor": c.AUTHORITY, "account": mail("anna"), "cause": c.HoldCause.CLONING}
    world.do(c.Hold(**hold))
    world.do(c.Revoke(actor=OWNER, item=share_id("anna")))
    item = world.invite("again", account=mail("anna"))
    with refused(R.KEY_SUSPENDED):
        world.do(c.Accept(actor=mail("anna"), share_id=item, key_x=x_of("anna")))
    world.do(c.Release(**hold))
    world.do(c.Accept(actor=mail("anna"), share_id=item, key_x=x_of("anna")))


def test_a_touch_only_vehicle_shares_unless_the_flag_says_otherwise():
    World(touch_only=True).invite("anna")
    with refused(R.FEATURE_NOT_SUPPORTED):
        World(touch_only=True, touch_profile_sharing=False).invite("anna")


def test_every_factory_reset_raises_the_epoch_and_a_repeated_report_does_not():
    world = World()
    world.do(c.Unpair(actor=OWNER))
    world.do(c.FactoryReset(actor=c.VEHICLE))
    world.do(c.FactoryReset(actor=c.VEHICLE))
    assert world.ring.epoch == 2
    world = World()
    world.do(c.FactoryReset(actor=c.VEHICLE))
    world.do(c.Cleared(actor=c.VEHICLE, side=c.Side.VEHICLE))
    assert world.ring.epoch == 1


def test_pairing_takes_the_vehicles_epoch_and_never_an_older_one():
    world = World(found=False)
    world.do(c.FactoryReset(actor=c.VEHICLE))
    party = c.Party(account=OWNER)
    with refused(R.REPLAY):
        world.do(c.Found(actor=OWNER, owner=party, key_x=x_of("o"), epoch=0))
    world.do(c.Found(actor=OWNER, owner=party, key_x=x_of("o"), epoch=4))
    assert (world.ring.epoch, world.ring.list_number) == (4, 0)


def test_a_closed_sharee_account_gets_no_new_key():
    world = shared()
    world.do(c.CloseAccount(actor=mail("anna"), account=mail("anna")))
    assert world.usable(share_id("anna")) is R.KEY_REVOKED
    with refused(R.NOT_AUTHORISED):
        world.invite("again", account=mail("anna"))


def test_what_time_did_is_lost_with_a_refusal_and_comes_again():
    world = World()
    item = world.share("anna", not_after_s=T0 + DAY)
    world.now += 2 * DAY
    with refused(R.NOT_AUTHORISED):
        world.do(c.Pause(actor=mail("anna"), days=1))
    ended = [each.item for each in world.do(c.Tick(actor=c.VEHICLE))]
    assert ended == [item]
