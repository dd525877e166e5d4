"""The key menu, and the end of an owner's time (requirements G2, G7, G8, G19, G20, G23, G25)."""

import pytest

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.roles import CredentialState, Permission, Role
from firmware_mock.head_unit import HeadUnit
from firmware_mock.owner_desk import OwnerDesk
from firmware_mock.stage import Phone
from tests.scenario.sharing import Desk, carry, refusals, signer_of


@pytest.fixture
def desk(scene):
    made = Desk(scene.vehicle, signer_of(scene.owner))
    made.provide()
    return made


@pytest.fixture
def menu(scene):
    return HeadUnit(scene.vehicle, OwnerDesk(scene.vehicle))


async def admitted(scene, desk, name="friend", slot=1, **claims):
    friend = Phone(name, scene.vehicle, scene.entropy)
    carry(friend, desk.attest(friend, slot, **claims))
    assert (await scene.handle(friend)).action is not None
    return friend


async def laid(scene, phone):
    """Lay a phone on the pad, as it is there while the menu is used."""
    await scene.stage.take_off_pad()
    await scene.stage.lay_on_pad(phone)


# --- who sees what --------------------------------------------------------------------------------


async def test_without_a_key_on_the_pad_only_the_number_of_keys_is_shown(scene, desk, menu):
    await admitted(scene, desk)
    assert menu.keys() == {"session": None, "count": 2, "keys": []}


async def test_a_friend_sees_the_own_key_and_how_many_there_are(scene, desk, menu):
    friend = await admitted(scene, desk)
    await admitted(scene, desk, "other", 2)
    await laid(scene, friend)
    shown = menu.keys()
    assert (shown["session"], shown["count"]) == ("ASSOCIATE", 3)
    assert [each["id"] for each in shown["keys"]] == [scene.id_of(friend)]
    await scene.stage.take_off_pad()


async def test_the_owner_sees_all_and_nobody_once_the_phone_is_gone(scene, desk, menu):
    await admitted(scene, desk, permission=Permission.ENTRY)
    await laid(scene, scene.owner)
    shown = menu.keys()
    assert [(each["role"], each["slot"], each["own"]) for each in shown["keys"]] == [
        ("OWNER", None, True),
        ("ASSOCIATE", 1, False),
    ]
    await scene.stage.take_off_pad()
    assert menu.keys()["keys"] == []


# --- withdrawal here and now ----------------------------------------------------------------------


async def test_the_owner_suspends_a_key_at_once_and_it_stays_so_without_power(scene, desk, menu):
    friend = await admitted(scene, desk)
    await laid(scene, scene.owner)
    menu.withdraw("suspend", scene.id_of(friend))
    assert (await scene.handle(friend)).code is RefusalCode.KEY_SUSPENDED
    again = scene.reopened()
    assert again.grant(scene.id_of(friend)).state is CredentialState.SUSPENDED
    menu.withdraw("resume", scene.id_of(friend))
    assert (await scene.handle(friend)).action is not None
    await scene.stage.take_off_pad()


async def test_what_a_list_suspends_the_head_unit_does_not_give_back(scene, desk, menu):
    friend = await admitted(scene, desk)
    scene.vehicle.share_desk.take_list(
        desk.list(1, issuer=Issuer.AUTHORITY, suspended=(desk.share_id("friend"),))
    )
    await laid(scene, scene.owner)
    menu.withdraw("suspend", scene.id_of(friend))
    menu.withdraw("resume", scene.id_of(friend))
    assert (await scene.handle(friend)).code is RefusalCode.KEY_SUSPENDED
    scene.vehicle.share_desk.take_list(desk.list(2, issuer=Issuer.AUTHORITY))
    assert (await scene.handle(friend)).action is not None
    await scene.stage.take_off_pad()


async def test_a_key_revoked_at_the_head_unit_never_comes_back(scene, desk, menu):
    friend = await admitted(scene, desk)
    await laid(scene, scene.owner)
    menu.withdraw("revoke", scene.id_of(friend))
    await scene.stage.take_off_pad()
    assert (await scene.handle(friend)).code is RefusalCode.KEY_REVOKED
    with pytest.raises(PolicyRefusal):
        scene.vehicle.set_state(scene.id_of(friend), CredentialState.ACTIVE)
    heir = await admitted(scene, desk, "heir", 1)
    assert (await scene.handle(heir)).action is not None


async def test_an_actual_user_withdraws_the_keys_below_and_no_other(scene, desk, menu):
    desk.corporate()
    user = Phone("user", scene.vehicle, scene.entropy)
    await scene.handle(carry(user, desk.user_attest(user)))
    friend = await admitted(scene, desk)
    await laid(scene, user)
    with pytest.raises(PolicyRefusal) as refused:
        menu.withdraw("revoke", scene.id_of(scene.owner))
    assert refused.value.code is RefusalCode.NOT_AUTHORISED
    with pytest.raises(PolicyRefusal):
        menu.transfer()
    menu.withdraw("suspend", scene.id_of(friend))
    assert (await scene.handle(friend)).code is RefusalCode.KEY_SUSPENDED
    await scene.stage.take_off_pad()


@pytest.mark.parametrize("who", ["friend", "nobody"])
async def test_nobody_else_withdraws_a_key(scene, desk, menu, who):
    friend = await admitted(scene, desk)
    if who == "friend":
        await laid(scene, friend)
    for attempt in (
        lambda: menu.withdraw("revoke", scene.id_of(scene.owner)),
        menu.transfer,
        menu.unpair,
    ):
        with pytest.raises(PolicyRefusal) as refused:
            attempt()
        assert refused.value.code is RefusalCode.NOT_AUTHORISED
    await scene.stage.take_off_pad()


@pytest.mark.parametrize(
    ("signal", "value", "code"),
    [("speed_kmh", 9.0, RefusalCode.DRIVING), ("valet", True, RefusalCode.VALET)],
)
async def test_the_menu_is_closed_while_driving_and_in_valet_mode(
    scene, desk, menu, signal, value, code
):
    friend = await admitted(scene, desk)
    await laid(scene, scene.owner)
    setattr(scene.body, signal, value)
    with pytest.raises(PolicyRefusal) as refused:
        menu.withdraw("suspend", scene.id_of(friend))
    assert refused.value.code is code
    await scene.stage.take_off_pad()


# --- the end of an owner's time -------------------------------------------------------------------


async def test_a_transfer_leaves_no_key_no_card_no_name_and_everybody_is_refused(scene, desk, menu):
    friend, card = await admitted(scene, desk), scene.blank_card()
    await scene.pair(card)
    await laid(scene, scene.owner)
    assert menu.transfer() == 2
    await scene.stage.take_off_pad()
    store = scene.vehicle.store
    assert store.credentials() == ()
    assert menu.keys()["count"] == 0
    told = [each for each in store.events() if each.kind != "TRANSFERRED"]
    assert {(each.text, each.credential_id) for each in told} == {("", None)}
    for device in (scene.owner, friend, card):
        assert (await scene.handle(device)).code is RefusalCode.KEY_UNKNOWN
    heir = scene.phone("heir", Role.OWNER)
    assert (await scene.handle(heir)).action is not None
    assert (await scene.handle(friend)).code is RefusalCode.KEY_UNKNOWN
    assert refusals(scene.vehicle)[-1] is not None


async def test_a_stale_friend_of_the_former_owner_is_refused_by_the_epoch(scene, desk, menu):
    friend = Phone("friend", scene.vehicle, scene.entropy)
    stale = desk.attest(friend)
    menu._owners.factory_reset()
    # The former owner's key owns the vehicle anew; the attestation of the time before is void.
    scene.vehicle.enrol("owner", scene.owner.public_key, Role.OWNER, Permission.ENTRY_AND_START)
    assert (await scene.handle(carry(friend, stale))).code is RefusalCode.KEY_UNKNOWN
    assert refusals(scene.vehicle) == [RefusalCode.KEY_REVOKED]
    assert (await scene.handle(carry(friend, desk.attest(friend)))).action is not None


async def test_a_factory_reset_erases_what_a_power_cut_keeps_but_not_the_authoritys_order(
    scene, desk, menu
):
    await admitted(scene, desk)
    scene.vehicle.share_desk.take_list(desk.list(3, issuer=Issuer.AUTHORITY, immobilised=True))
    kept = scene.reopened()
    assert len(kept.keys.book.admissions.admitted) == 1
    menu._owners.factory_reset()
    after = scene.reopened()
    assert after.keys.book.admissions.admitted == ()
    assert after.keys.book.receipt().authority_list == 0
    assert after.body.signals().immobilised is True


async def test_a_second_owner_is_refused_until_the_vehicle_is_reset(scene, desk, menu):
    with pytest.raises(PolicyRefusal) as refused:
        scene.phone("second", Role.OWNER)
    assert refused.value.code is RefusalCode.ALREADY_LINKED
    menu._owners.factory_reset()
    scene.phone("third", Role.OWNER)


@pytest.mark.parametrize("same_person", [True, False])
async def test_unpairing_ends_every_key_and_a_change_of_phone_leaves_the_cards(
    scene, desk, menu, same_person
):
    friend, card = await admitted(scene, desk), scene.blank_card()
    await scene.pair(card)
    await laid(scene, scene.owner)
    menu.unpair(same_person=same_person)
    await scene.stage.take_off_pad()
    for device in (scene.owner, friend, card):
        assert (await scene.handle(device)).code is RefusalCode.KEY_REVOKED
    heir = scene.phone("owner again", Role.OWNER)
    assert (await scene.handle(heir)).action is not None
    outcome = await scene.handle(card)
    assert (outcome.code is None) is same_person
    assert scene.reopened().keys.book.admissions.epoch == 2


async def test_the_authority_of_an_owned_vehicle_is_not_exchanged(scene, desk):
    other = scene.entropy.ephemeral().public
    with pytest.raises(PolicyRefusal) as refused:
        scene.vehicle.provide_authority(other)
    assert refused.value.code is RefusalCode.ALREADY_LINKED


async def test_a_key_for_one_vehicle_is_refused_by_another(scene, desk):
    friend = Phone("friend", scene.vehicle, scene.entropy)
    carry(friend, desk.attest(friend, vehicle=bytes(range(16))))
    assert (await scene.handle(friend)).code is RefusalCode.KEY_UNKNOWN
    assert refusals(scene.vehicle) == [RefusalCode.WRONG_VEHICLE]
