"""The touch part of the acceptance list (requirements G2, G9, G17 to G19, G25), on real drivers."""

import pytest

from dkey.control.rules import Action
from dkey.control.touch import Intent, Position
from dkey.errors import RefusalCode
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.testing import FakeClock, SeededEntropy
from firmware_mock.garage import open_vehicle
from firmware_mock.stage import Phone, Recorder, Replayer, Stage

HANDLE_ACTIONS = (Action.UNLOCK, Action.LOCK, Action.UNLOCK)


async def test_bare_taps_at_the_handle_toggle_the_lock(scene):
    for expected in HANDLE_ACTIONS:
        outcome = await scene.handle(scene.owner)
        assert outcome.action is expected
        assert scene.body.locked is (expected is Action.LOCK)


async def test_the_first_tap_is_standard_and_the_next_is_fast(scene):
    assert (await scene.handle(scene.owner)).flow == "standard"
    assert (await scene.handle(scene.owner)).flow == "fast"


@pytest.mark.parametrize("intent", [Intent.LOCK, Intent.UNLOCK])
async def test_an_explicit_intent_sets_the_lock_however_often_it_comes(scene, intent):
    for _ in range(3):
        outcome = await scene.handle(scene.owner.wanting(intent))
        assert outcome.action == intent.value
        assert scene.body.locked is (intent is Intent.LOCK)


async def test_a_bare_tap_within_the_debounce_changes_nothing(scene):
    await scene.handle(scene.owner)
    scene.clock.advance(-0.6)
    before = scene.everything()
    outcome = await scene.stage.tap(Position.DOOR_HANDLE, scene.owner)
    assert outcome.code is RefusalCode.TOO_SOON
    assert scene.everything() == before


async def test_a_handle_tap_never_authorises_start(scene):
    await scene.handle(scene.owner)
    assert scene.vehicle.press_start().code is RefusalCode.NO_KEY_ON_PAD
    assert scene.body.ignition_on is False


async def test_the_pad_authorises_start_while_the_phone_lies_there(scene):
    outcome = await scene.stage.lay_on_pad(scene.owner)
    assert (outcome.action, outcome.flow) == (Action.AUTHORISE_START, "standard")
    scene.clock.advance(3600)
    assert scene.vehicle.press_start().action is Action.START
    await scene.stage.take_off_pad()


@pytest.mark.parametrize(("after_s", "code"), [(30.0, None), (30.01, RefusalCode.NO_KEY_ON_PAD)])
async def test_the_grace_after_the_pad_is_thirty_seconds(scene, after_s, code):
    await scene.stage.lay_on_pad(scene.owner)
    await scene.stage.take_off_pad()
    scene.clock.advance(after_s)
    assert scene.vehicle.press_start().code is code


async def test_taking_the_phone_away_does_not_stop_the_engine(scene):
    await scene.stage.lay_on_pad(scene.owner)
    scene.vehicle.press_start()
    await scene.stage.take_off_pad()
    scene.clock.advance(3600)
    assert scene.body.ignition_on is True


async def test_an_entry_only_credential_opens_but_never_starts(scene):
    friend = scene.phone("friend", permission=Permission.ENTRY)
    assert (await scene.handle(friend)).action is Action.UNLOCK
    assert (await scene.stage.lay_on_pad(friend)).code is RefusalCode.PERMISSION_ENTRY_ONLY
    assert scene.vehicle.press_start().code is not None
    assert scene.body.ignition_on is False
    await scene.stage.take_off_pad()


async def test_an_update_keeps_the_engine_off_and_the_doors_usable(scene):
    scene.body.updating = True
    assert (await scene.handle(scene.owner)).action is Action.UNLOCK
    assert (await scene.pad(scene.owner)).code is RefusalCode.UPDATE_IN_PROGRESS


async def test_immobilised_refuses_start_to_every_key(scene):
    await scene.stage.lay_on_pad(scene.owner)
    scene.body.immobilised = True
    assert scene.vehicle.press_start().code is RefusalCode.IMMOBILISED
    await scene.stage.take_off_pad()


@pytest.mark.parametrize("speed_kmh", [5.0, -1.0])
async def test_touch_is_refused_while_driving(scene, speed_kmh):
    scene.body.speed_kmh = speed_kmh
    before = scene.everything()
    assert (await scene.handle(scene.owner)).code is RefusalCode.DRIVING
    assert scene.everything() == before


async def test_an_unknown_speed_counts_as_driving(scene):
    scene.body.fail("speed_kmh")
    assert (await scene.handle(scene.owner)).code is RefusalCode.DRIVING


async def test_driving_off_between_decision_and_action_is_refused(scene):
    class DrivesOff(Recorder):
        def answer(self, command):
            response = super().answer(command)
            if command[1] == 0xC9:  # the final EXCHANGE: decided, not yet done
                scene.body.speed_kmh = 10.0
            return response

    outcome = await scene.handle(DrivesOff(scene.owner))
    assert outcome.code is RefusalCode.DRIVING
    assert scene.body.locked is True


async def test_a_stranger_changes_nothing(scene):
    before = scene.everything()
    assert (await scene.handle(scene.stranger())).code is RefusalCode.KEY_UNKNOWN
    assert (await scene.pad(scene.stranger())).code is RefusalCode.KEY_UNKNOWN
    assert scene.everything() == before


async def test_a_key_of_vehicle_a_is_refused_by_vehicle_b(scene, tmp_path):
    clock, entropy = FakeClock(1000.0), SeededEntropy("another vehicle")
    folder = tmp_path / "b"
    async with Stage(entropy=entropy, clock=clock, wall_clock=clock, folder=folder) as other:
        outcome = await other.tap(Position.DOOR_HANDLE, scene.owner)
        assert outcome.code is RefusalCode.NOT_AUTHORISED
        assert other.vehicle.body.locked is True


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (CredentialState.SUSPENDED, RefusalCode.KEY_SUSPENDED),
        (CredentialState.REVOKED, RefusalCode.KEY_REVOKED),
    ],
)
async def test_a_withdrawn_key_is_refused_at_once_at_both_readers(scene, state, code):
    friend = scene.phone("friend")
    await scene.handle(friend)
    scene.vehicle.set_state(scene.id_of(friend), state)
    assert (await scene.handle(friend)).code is code
    assert (await scene.pad(friend)).code is code


async def test_withdrawing_the_key_on_the_pad_ends_its_authorisation(scene):
    friend = scene.phone("friend")
    await scene.stage.lay_on_pad(friend)
    scene.vehicle.set_state(scene.id_of(friend), CredentialState.SUSPENDED)
    assert scene.vehicle.press_start().code is RefusalCode.KEY_SUSPENDED
    await scene.stage.take_off_pad()


async def test_a_replayed_tap_is_told_as_replay_and_changes_nothing(scene):
    recorded = Recorder(scene.owner)
    await scene.handle(recorded)
    before = scene.everything()
    outcome = await scene.handle(Replayer(recorded.answers))
    assert outcome.code is RefusalCode.REPLAY
    assert scene.everything() == before


async def test_every_event_names_the_acting_key(scene):
    await scene.handle(scene.owner)
    await scene.stage.lay_on_pad(scene.owner)
    scene.vehicle.press_start()
    await scene.stage.take_off_pad()
    owner = scene.id_of(scene.owner)
    events = scene.vehicle.store.events()[-3:]
    assert [event.kind for event in events] == ["UNLOCK", "AUTHORISE_START", "START"]
    assert {event.credential_id for event in events} == {owner}


async def test_a_power_cycle_keeps_keys_and_revocations(scene, tmp_path):
    friend = scene.phone("friend")
    await scene.handle(scene.owner)
    scene.vehicle.set_state(scene.id_of(friend), CredentialState.REVOKED)
    before = scene.vehicle.store.credentials()
    again = open_vehicle(tmp_path / "vehicle", clock=scene.clock, wall_clock=scene.clock)
    try:
        assert again.store.credentials() == before
        assert again.body.locked is True
    finally:
        again.close()


async def test_the_vehicle_has_one_owner(scene):
    with pytest.raises(Exception, match="owner already") as refusal:
        scene.phone("second owner", Role.OWNER)
    assert refusal.value.code is RefusalCode.ALREADY_LINKED


async def test_a_phone_that_is_enrolled_twice_is_refused(scene):
    phone = Phone("twin", scene.vehicle, scene.entropy)
    scene.vehicle.enrol("twin", phone.public_key, Role.ASSOCIATE, Permission.ENTRY)
    with pytest.raises(Exception, match="cannot be enrolled"):
        scene.vehicle.enrol("twin", phone.public_key, Role.ASSOCIATE, Permission.ENTRY)


async def test_the_key_laid_down_last_displaces_the_one_before_it(scene):
    friend = scene.phone("friend", permission=Permission.ENTRY)
    await scene.stage.lay_on_pad(scene.owner)
    await scene.stage.take_off_pad()
    await scene.stage.lay_on_pad(friend)
    assert scene.vehicle.press_start().code is RefusalCode.PERMISSION_ENTRY_ONLY
    await scene.stage.take_off_pad()


async def test_an_undefined_intent_ends_the_transaction_and_changes_nothing(scene):
    before = scene.everything()
    scene.owner.applet.extension = bytes.fromhex("3008040302646b810103")
    outcome = await scene.handle(scene.owner)
    assert outcome.code is RefusalCode.CARD_DAMAGED
    assert scene.everything() == before


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (CredentialState.SUSPENDED, RefusalCode.KEY_SUSPENDED),
        (CredentialState.REVOKED, RefusalCode.KEY_REVOKED),
    ],
)
async def test_the_cards_follow_a_restriction_of_their_holder(scene, state, code):
    card = scene.blank_card()
    await scene.pair(card)
    await scene.handle(card)
    scene.vehicle.set_state(scene.id_of(scene.owner), state)
    assert (await scene.handle(card)).code is code
    assert (await scene.pad(card)).code is code
