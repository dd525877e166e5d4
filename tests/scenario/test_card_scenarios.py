"""Card keys: pairing, use, limits, replacement (requirements S25, S34 to S37, C32)."""

import pytest

from dkey.control.rules import Action
from dkey.control.touch import Position
from dkey.errors import RefusalCode
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission
from firmware_mock.stage import Recorder, Replayer

INITIAL, PURCHASED = CardProvenance.INITIAL, CardProvenance.PURCHASED


async def test_a_paired_card_opens_locks_and_starts(scene):
    card = scene.blank_card(INITIAL)
    assert (await scene.pair(card)).action is Action.ENROL_CARD
    assert (await scene.handle(card)).action is Action.UNLOCK
    assert (await scene.handle(card)).action is Action.LOCK
    assert (await scene.stage.lay_on_pad(card)).action is Action.AUTHORISE_START
    assert scene.vehicle.press_start().action is Action.START
    await scene.stage.take_off_pad()


async def test_a_blank_card_opens_nothing(scene):
    before = scene.everything()
    assert (await scene.handle(scene.blank_card())).code is RefusalCode.NOT_AUTHORISED
    assert scene.everything() == before


async def test_no_card_is_paired_without_the_head_unit(scene):
    scene.body.ignition_on = True
    await scene.pad(scene.owner)
    assert (await scene.pad(scene.blank_card())).code is RefusalCode.NOT_AUTHORISED
    assert scene.vehicle.store.cards() == ()


async def test_no_card_is_paired_without_the_owner(scene):
    scene.body.ignition_on = True
    friend = scene.phone("friend")
    scene.vehicle.open_card_window()
    for device in (friend, scene.stranger()):
        assert (await scene.pad(device)).code in (
            RefusalCode.NOT_AUTHORISED,
            RefusalCode.KEY_UNKNOWN,
        )
    assert (await scene.pad(scene.blank_card())).code is not None
    assert scene.vehicle.store.cards() == ()


@pytest.mark.parametrize(
    ("signal", "value", "code"),
    [
        ("ignition_on", False, RefusalCode.IGNITION_OFF),
        ("speed_kmh", 8.0, RefusalCode.DRIVING),
        ("gear_in_park", False, RefusalCode.DRIVING),
        ("service_mode", True, RefusalCode.SERVICE_MODE),
        ("valet", True, RefusalCode.VALET),
    ],
)
async def test_the_body_must_permit_pairing_when_the_card_comes_too(scene, signal, value, code):
    scene.body.ignition_on = True
    scene.vehicle.open_card_window()
    assert (await scene.pad(scene.owner)).action is Action.AUTHORISE_CARD
    setattr(scene.body, signal, value)
    assert (await scene.pad(scene.blank_card())).code is code
    assert scene.vehicle.store.cards() == ()


async def test_the_window_closes_by_itself_after_sixty_seconds(scene):
    scene.body.ignition_on = True
    scene.vehicle.open_card_window()
    await scene.pad(scene.owner)
    scene.clock.advance(60.1)
    assert (await scene.pad(scene.blank_card())).code is RefusalCode.NOT_AUTHORISED
    assert scene.vehicle.store.cards() == ()


async def test_one_authorisation_pairs_one_card(scene):
    scene.body.ignition_on = True
    scene.vehicle.open_card_window()
    await scene.pad(scene.owner)
    assert (await scene.pad(scene.blank_card())).action is Action.ENROL_CARD
    assert (await scene.pad(scene.blank_card())).code is RefusalCode.NOT_AUTHORISED
    assert len(scene.vehicle.store.cards()) == 1


async def test_an_owner_suspended_meanwhile_no_longer_authorises(scene):
    scene.body.ignition_on = True
    scene.vehicle.open_card_window()
    await scene.pad(scene.owner)
    scene.vehicle.set_state(scene.id_of(scene.owner), CredentialState.SUSPENDED)
    assert (await scene.pad(scene.blank_card())).code is not None
    assert scene.vehicle.store.cards() == ()


async def test_a_third_card_is_refused(scene):
    for _ in range(2):
        assert (await scene.pair(scene.blank_card())).action is Action.ENROL_CARD
    assert (await scene.pair(scene.blank_card())).code is RefusalCode.CARD_LIMIT
    assert len(scene.vehicle.store.cards()) == 2


async def test_a_vehicle_has_one_initial_card_ever(scene):
    await scene.pair(scene.blank_card(INITIAL))
    assert (await scene.pair(scene.blank_card(INITIAL))).code is RefusalCode.CARD_LIMIT
    assert (await scene.pair(scene.blank_card(PURCHASED))).action is Action.ENROL_CARD


async def test_replacing_a_damaged_card_disables_it(scene):
    old, new = scene.blank_card(INITIAL), scene.blank_card(PURCHASED)
    await scene.pair(old)
    await scene.handle(old)
    outcome = await scene.pair(new, replaces=scene.id_of(old))
    assert outcome.action is Action.ENROL_CARD
    assert (await scene.handle(old)).code is RefusalCode.CARD_BLOCKED
    assert (await scene.pad(old)).code is RefusalCode.CARD_BLOCKED
    assert (await scene.handle(new)).action is not None


async def test_a_replaced_card_is_never_paired_again(scene):
    old = scene.blank_card()
    await scene.pair(old)
    await scene.pair(scene.blank_card(), replaces=scene.id_of(old))
    assert (await scene.pair(old)).code is RefusalCode.ALREADY_LINKED


async def test_a_card_of_another_vehicle_is_not_paired(scene):
    card = scene.blank_card()
    await scene.pair(card)
    (group_id,) = card.credential.readers
    card.credential.readers[b"another vehicle!"] = card.credential.readers.pop(group_id)
    scene.vehicle.set_state(scene.id_of(card), CredentialState.REVOKED)
    assert (await scene.pair(card)).code is RefusalCode.NOT_AUTHORISED


async def test_a_card_gets_the_rights_of_a_card_and_no_more(scene):
    card = scene.blank_card()
    await scene.pair(card)
    scene.body.ignition_on = True
    scene.vehicle.open_card_window()
    assert (await scene.pad(card)).code is RefusalCode.NOT_AUTHORISED
    known = scene.vehicle.store.credential(scene.id_of(card))
    assert known.permission is Permission.ENTRY_AND_START


async def test_a_copy_of_what_a_card_said_is_no_card(scene):
    card = scene.blank_card()
    recorded = Recorder(card)
    await scene.pair(card)
    await scene.handle(recorded)
    before = scene.everything()
    assert (await scene.handle(Replayer(recorded.answers))).code is RefusalCode.REPLAY
    assert scene.everything() == before


async def test_a_device_that_is_no_card_is_told_so(scene):
    class StaticTag:
        def answer(self, command):
            return b"\x6a\x82"

        def field_off(self):
            pass

    scene.body.ignition_on = True
    scene.vehicle.open_card_window()
    await scene.pad(scene.owner)
    outcome = await scene.stage.tap(Position.CONSOLE_PAD, StaticTag())
    assert outcome.code is RefusalCode.DEVICE_UNSUPPORTED
