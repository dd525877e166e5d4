"""Shared keys at a vehicle without a network, on real drivers (requirements G2 to G4, G7, G16)."""

import pytest

from dkey.control.rules import Action
from dkey.errors import RefusalCode
from dkey.lifecycle.claims import Issuer, key_ref
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.lifecycle.slots import slots
from firmware_mock.stage import Phone
from tests.scenario.sharing import DAY_S, Desk, carry, receipt_of, refusals, signer_of


@pytest.fixture
def desk(scene):
    made = Desk(scene.vehicle, signer_of(scene.owner))
    made.provide()
    return made


def friend_of(scene, name="friend"):
    return Phone(name, scene.vehicle, scene.entropy)


async def admitted(scene, desk, name="friend", slot=1, **claims):
    friend = friend_of(scene, name)
    carry(friend, desk.attest(friend, slot, **claims))
    outcome = await scene.handle(friend)
    assert outcome.action is not None, outcome
    return friend


# --- first use ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["handle", "pad"])
async def test_a_friend_is_let_in_by_the_first_tap_with_nobody_to_ask(scene, desk, at):
    friend = friend_of(scene)
    carry(friend, desk.attest(friend))
    outcome = await getattr(scene, at)(friend)
    assert outcome.action is {"handle": Action.UNLOCK, "pad": Action.AUTHORISE_START}[at]
    assert outcome.flow == "standard"
    assert slots(scene.vehicle.store.file) == {1: desk.share_id("friend")}
    known = scene.vehicle.store.credential_by_x(friend.public_key.x)
    assert (known.role, known.state) == (Role.ASSOCIATE, CredentialState.ACTIVE)
    assert receipt_of(friend).admissions == 1


async def test_the_second_tap_of_a_friend_is_fast_and_takes_no_delivery(scene, desk):
    friend = await admitted(scene, desk)
    outcome = await scene.handle(friend)
    assert (outcome.action, outcome.flow) == (Action.LOCK, "fast")
    assert scene.vehicle.keys.book.receipt().admissions == 1


async def test_a_friend_without_an_attestation_is_unknown(scene, desk):
    friend = carry(friend_of(scene))
    assert (await scene.handle(friend)).code is RefusalCode.KEY_UNKNOWN
    assert (await scene.handle(friend_of(scene, "other"))).code is RefusalCode.KEY_UNKNOWN


async def test_an_attestation_of_another_key_lets_nobody_in(scene, desk):
    friend, thief = friend_of(scene), friend_of(scene, "thief")
    carry(thief, desk.attest(friend))
    assert (await scene.handle(thief)).code is RefusalCode.KEY_UNKNOWN
    assert refusals(scene.vehicle) == [RefusalCode.KEY_UNKNOWN]
    assert slots(scene.vehicle.store.file) == {}


async def test_a_stranger_signs_for_nobody(scene, desk):
    friend, stranger = friend_of(scene), friend_of(scene, "stranger")
    carry(friend, desk.attest(friend, signer=signer_of(stranger)))
    assert (await scene.handle(friend)).code is RefusalCode.KEY_UNKNOWN
    assert refusals(scene.vehicle) == [RefusalCode.KEY_UNKNOWN]


async def test_what_is_refused_looks_the_same_to_the_phone(scene, desk):
    told = set()
    for number, changes in enumerate(
        ({"vehicle": bytes(16)}, {"epoch": 9}, {"not_after_s": desk.now_s - 1}, {"list_number": 4})
    ):
        friend = friend_of(scene, f"friend {number}")
        carry(friend, desk.attest(friend, **changes))
        assert (await scene.handle(friend)).code is RefusalCode.KEY_UNKNOWN
        told.add(friend.applet.events[-1].status)
    assert len(told) == 1
    assert refusals(scene.vehicle) == [
        RefusalCode.WRONG_VEHICLE,
        RefusalCode.KEY_REVOKED,
        RefusalCode.KEY_EXPIRED,
        RefusalCode.NOT_SYNCED,
    ]


async def test_the_fourth_friend_finds_no_place(scene, desk):
    for slot in (1, 2, 3):
        await admitted(scene, desk, f"friend {slot}", slot)
    fourth = friend_of(scene, "fourth")
    carry(fourth, desk.attest(fourth, 3))
    assert (await scene.handle(fourth)).code is RefusalCode.KEY_UNKNOWN
    assert refusals(scene.vehicle) == [RefusalCode.SHARE_LIMIT]
    assert len(slots(scene.vehicle.store.file)) == 3


async def test_an_actual_user_and_a_friend_of_theirs_come_in_by_a_chain(scene, desk):
    desk.corporate()
    user, friend = friend_of(scene, "user"), friend_of(scene)
    mine = desk.user_attest(user)
    carry(friend, mine, desk.attest(friend, signer=signer_of(user)))
    assert (await scene.handle(friend)).action is Action.UNLOCK
    carry(user, mine)
    assert (await scene.handle(user)).action is Action.LOCK


async def test_a_person_s_phone_makes_no_actual_user_beside_three_shares(scene, desk):
    for slot in (1, 2, 3):
        await admitted(scene, desk, f"friend {slot}", slot)
    desk.provide()
    user = friend_of(scene, "user")
    for says, code in ((None, RefusalCode.NOT_SYNCED), (1, RefusalCode.NOT_AUTHORISED)):
        news = None if says is None else desk.list(says, issuer=Issuer.AUTHORITY)
        carry(user, desk.user_attest(user), authority_list=news)
        assert (await scene.handle(user)).code is RefusalCode.KEY_UNKNOWN
        assert refusals(scene.vehicle)[-1] is code


async def test_the_list_that_says_corporation_may_come_with_the_actual_user(scene, desk):
    desk.provide()
    user = friend_of(scene, "user")
    news = desk.list(1, issuer=Issuer.AUTHORITY, corporate=True)
    carry(user, desk.user_attest(user), authority_list=news)
    assert (await scene.handle(user)).action is Action.UNLOCK


# --- permissions and windows ---------------------------------------------------------------------


async def test_an_entry_key_opens_and_does_not_start(scene, desk):
    friend = await admitted(scene, desk, permission=Permission.ENTRY)
    assert (await scene.stage.lay_on_pad(friend)).code is RefusalCode.PERMISSION_ENTRY_ONLY
    assert scene.vehicle.press_start().code is not None
    await scene.stage.take_off_pad()


async def test_an_expired_key_stays_out_with_the_clock_set_back(scene, desk):
    friend = await admitted(scene, desk, not_after_s=desk.now_s + 100)
    scene.clock.advance(200)
    assert (await scene.handle(friend)).code is RefusalCode.KEY_EXPIRED
    scene.clock.advance(-190)
    assert (await scene.handle(friend)).code is RefusalCode.KEY_EXPIRED
    again = scene.reopened()
    assert again.grant(again.store.credential_by_x(friend.public_key.x).credential_id).expired


async def test_a_key_that_lies_on_the_pad_starts_nothing_after_its_time(scene, desk):
    friend = await admitted(scene, desk, not_after_s=desk.now_s + 100)
    await scene.stage.lay_on_pad(friend)
    scene.clock.advance(200)
    assert scene.vehicle.press_start().code is RefusalCode.KEY_EXPIRED
    await scene.stage.take_off_pad()


async def test_a_fast_tap_of_a_friend_needs_a_standard_one_within_seven_days(scene, desk):
    friend = await admitted(scene, desk)
    scene.clock.advance(7 * DAY_S - 10)
    assert (await scene.handle(friend)).flow == "fast"
    scene.clock.advance(20)
    assert (await scene.handle(friend)).flow == "standard"
    assert (await scene.handle(friend)).flow == "fast"
    await scene.handle(scene.owner)
    scene.clock.advance(30 * DAY_S)
    assert (await scene.handle(scene.owner)).flow == "fast"


# --- withdrawal -----------------------------------------------------------------------------------


async def test_a_friend_is_revoked_by_the_list_that_another_friend_carries(scene, desk):
    falls = await admitted(scene, desk, "falls", 1)
    carrier = await admitted(scene, desk, "carrier", 2)
    news = desk.list(1, revoked=(desk.share_id("falls"),))
    seen = receipt_of(carrier)
    carry(carrier, desk.attest(carrier, 2), owner_list=news, seen=seen)
    assert (await scene.handle(carrier)).flow == "standard"
    assert receipt_of(carrier).owner_list == 1
    assert (await scene.handle(falls)).code is RefusalCode.KEY_REVOKED
    assert (await scene.handle(carrier)).flow == "fast"
    assert slots(scene.vehicle.store.file) == {2: desk.share_id("carrier")}


async def test_the_owners_phone_delivers_a_list_and_no_key_of_the_revoked_is_left(scene, desk):
    friend = await admitted(scene, desk)
    carry(scene.owner, owner_list=desk.list(1, revoked=(desk.share_id("friend"),)))
    await scene.handle(scene.owner)
    kept = [
        each.credential.name
        for reader in scene.vehicle.store.identity().readers
        for each in scene.vehicle.store.fast_candidates(reader.sub_id)
    ]
    assert kept == ["owner"]
    again = carry(friend, desk.attest(friend))
    assert (await scene.handle(again)).code is RefusalCode.KEY_REVOKED


async def test_an_older_list_is_refused_and_one_that_is_carried_is_left(scene, desk):
    issuer = Issuer.AUTHORITY
    old, new = (desk.list(n, issuer=issuer, suspended=(bytes(16),) * (n < 2)) for n in (1, 2))
    assert scene.vehicle.share_desk.take_list(new)
    with pytest.raises(Exception, match="newer list") as refused:
        scene.vehicle.share_desk.take_list(old)
    assert refused.value.code is RefusalCode.REPLAY
    assert not scene.vehicle.share_desk.take_list(new)
    carry(scene.owner, authority_list=old)
    await scene.handle(scene.owner)
    assert scene.vehicle.keys.book.receipt().authority_list == 2


async def test_a_list_that_is_not_signed_by_its_issuer_is_noted_and_nothing_else(scene, desk):
    stranger = signer_of(friend_of(scene, "stranger"))
    before = scene.vehicle.keys.book.state
    carry(scene.owner, owner_list=desk.list(1, all_suspended=True, signer=stranger))
    assert (await scene.handle(scene.owner)).action is Action.UNLOCK
    assert scene.vehicle.keys.book.state == before
    assert refusals(scene.vehicle, "LIST_REFUSED") == [RefusalCode.NOT_AUTHORISED]


async def test_what_suspends_the_owner_suspends_all_and_gives_back_only_that(scene, desk):
    friend = await admitted(scene, desk)
    own = desk.list(1, suspended=(desk.share_id("friend"),))
    carry(scene.owner, owner_list=own)
    await scene.handle(scene.owner)
    assert (await scene.handle(friend)).code is RefusalCode.KEY_SUSPENDED
    take = scene.vehicle.share_desk.take_list
    take(desk.list(1, issuer=Issuer.AUTHORITY, all_suspended=True))
    assert (await scene.handle(scene.owner)).code is RefusalCode.KEY_SUSPENDED
    take(desk.list(2, issuer=Issuer.AUTHORITY))
    assert (await scene.handle(scene.owner)).action is not None
    assert (await scene.handle(friend)).code is RefusalCode.KEY_SUSPENDED


async def test_an_owner_who_paused_everything_can_end_that(scene, desk):
    friend = await admitted(scene, desk)
    await scene.handle(carry(scene.owner, owner_list=desk.list(1, all_suspended=True)))
    assert (await scene.handle(friend)).code is RefusalCode.KEY_SUSPENDED
    late = friend_of(scene, "late")
    assert (await scene.handle(carry(late, desk.attest(late, 2)))).code is RefusalCode.KEY_UNKNOWN
    carry(scene.owner, owner_list=desk.list(2), seen=receipt_of(scene.owner))
    assert (await scene.handle(scene.owner)).action is not None
    assert (await scene.handle(friend)).action is not None


async def test_a_lost_owners_phone_lets_nobody_in(scene, desk):
    lost = key_ref(scene.owner.public_key.x)
    take = scene.vehicle.share_desk.take_list
    take(desk.list(1, issuer=Issuer.AUTHORITY, suspended=(lost,)))
    friend = friend_of(scene)
    carry(friend, desk.attest(friend))
    assert (await scene.handle(friend)).code is RefusalCode.KEY_UNKNOWN
    take(desk.list(2, issuer=Issuer.AUTHORITY))
    assert (await scene.handle(friend)).action is not None


async def test_the_actual_users_friend_falls_with_the_actual_user_and_the_owner_stays(scene, desk):
    desk.corporate()
    user, friend = friend_of(scene, "user"), friend_of(scene)
    mine = desk.user_attest(user)
    carry(friend, mine, desk.attest(friend, signer=signer_of(user)))
    await scene.handle(friend)
    await scene.handle(carry(user, mine))
    take = scene.vehicle.share_desk.take_list
    take(desk.list(2, issuer=Issuer.AUTHORITY, suspended=(desk.share_id("user"),)))
    assert (await scene.handle(friend)).code is RefusalCode.KEY_SUSPENDED
    assert (await scene.handle(scene.owner)).action is not None
    take(desk.list(3, issuer=Issuer.AUTHORITY, revoked=(desk.share_id("user"),)))
    assert (await scene.handle(user)).code is RefusalCode.KEY_REVOKED
    assert (await scene.handle(friend)).code is RefusalCode.KEY_REVOKED
    assert (await scene.handle(scene.owner)).action is not None


async def test_a_lost_card_is_suspended_by_its_reference_and_comes_back(scene, desk):
    card = scene.blank_card()
    await scene.pair(card)
    ref = key_ref(card.public_key.x)
    take = scene.vehicle.share_desk.take_list
    take(desk.list(1, issuer=Issuer.AUTHORITY, suspended=(ref,)))
    assert (await scene.handle(card)).code is RefusalCode.KEY_SUSPENDED
    take(desk.list(2, issuer=Issuer.AUTHORITY))
    assert (await scene.handle(card)).action is not None


async def test_immobilised_by_the_authority_nothing_starts_whatever_the_sensors_say(scene, desk):
    take = scene.vehicle.share_desk.take_list
    take(desk.list(1, issuer=Issuer.AUTHORITY, immobilised=True))
    assert (await scene.pad(scene.owner)).code is RefusalCode.IMMOBILISED
    assert (await scene.handle(scene.owner)).action is not None
    assert scene.reopened().body.signals().immobilised is True
    take(desk.list(2, issuer=Issuer.AUTHORITY))
    assert (await scene.pad(scene.owner)).action is Action.AUTHORISE_START


async def test_a_place_is_free_again_once_the_list_is_there(scene, desk):
    for slot in (1, 2, 3):
        await admitted(scene, desk, f"friend {slot}", slot)
    heir = friend_of(scene, "heir")
    news = desk.list(1, revoked=(desk.share_id("friend 2"),))
    carry(heir, desk.attest(heir, 2, list_number=1), owner_list=news)
    assert (await scene.handle(heir)).action is not None
    assert slots(scene.vehicle.store.file)[2] == desk.share_id("heir")
    stale = Phone("friend 2", scene.vehicle, scene.entropy)
    carry(stale, desk.attest(stale, 2))
    assert (await scene.handle(stale)).code is RefusalCode.KEY_UNKNOWN
    assert refusals(scene.vehicle) == [RefusalCode.KEY_REVOKED]


async def test_a_memory_of_a_later_state_is_noted(scene, desk):
    friend = await admitted(scene, desk)
    told = receipt_of(friend)
    later = type(told)(epoch=told.epoch, owner_list=5, admissions=9)
    carry(scene.owner, owner_list=desk.list(1), seen=later)
    await scene.handle(scene.owner)
    assert refusals(scene.vehicle, "ROLLED_BACK") == [RefusalCode.REPLAY]


# --- what survives --------------------------------------------------------------------------------


async def test_power_off_keeps_every_admission_list_and_suspension(scene, desk):
    await admitted(scene, desk, "one", 1)
    await admitted(scene, desk, "two", 2)
    scene.vehicle.share_desk.take_list(
        desk.list(1, issuer=Issuer.AUTHORITY, revoked=(desk.share_id("one"),))
    )
    scene.vehicle.set_state(scene.id_named(scene.vehicle, "share 2"), CredentialState.SUSPENDED)
    again = scene.reopened()
    assert again.keys.book.state == scene.vehicle.keys.book.state
    states = {each.name: each.state for each in again.store.credentials()}
    assert states == {
        "owner": CredentialState.ACTIVE,
        "share 1": CredentialState.REVOKED,
        "share 2": CredentialState.SUSPENDED,
    }


# --- torn away ------------------------------------------------------------------------------------


async def test_a_friend_torn_away_at_any_frame_has_a_whole_key_or_none(scene, desk):
    friend = friend_of(scene)
    carry(friend, desk.attest(friend))
    let_in = []
    for frames in range(3, 80):
        outcome = await scene.handle(friend, tear_after_frames=frames)
        inside = scene.vehicle.store.credential_by_x(friend.public_key.x) is not None
        assert bool(slots(scene.vehicle.store.file)) is inside
        assert scene.reopened().keys.book.state == scene.vehicle.keys.book.state
        let_in.append(inside)
        if outcome.code is None:
            break
        assert scene.body.locked is True
    assert let_in == sorted(let_in)
    assert {*let_in} == {True, False}
    assert outcome.action is Action.UNLOCK


async def test_a_carrier_torn_away_leaves_a_list_taken_whole_or_not_at_all(scene, desk):
    friend = await admitted(scene, desk)
    news = desk.list(1, revoked=(desk.share_id("friend"),))
    carry(scene.owner, owner_list=news)
    for frames in range(3, 80):
        outcome = await scene.handle(scene.owner, tear_after_frames=frames)
        taken = scene.vehicle.keys.book.receipt().owner_list == 1
        assert (slots(scene.vehicle.store.file) == {}) is taken
        if outcome.code is None:
            break
    assert outcome.code is None
    assert (await scene.handle(friend)).code is RefusalCode.KEY_REVOKED
