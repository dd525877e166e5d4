"""A person with a phone walks up, gets in, drives off and leaves: BLE, UWB, rules and body."""

from __future__ import annotations

import asyncio
import functools

import pytest

from attacks.cases.ranged_scene import DOOR_M, FAR_M, LAYOUT, SEAT_M, jumped, scene
from dkey.codec.ble import Message, MessageType, RkeAction, StatusSource, SupplementaryId
from dkey.codec.ble_contents import Opaque
from dkey.codec.uci_params import AppConfig, parameter
from dkey.codec.uci_status import SessionState
from dkey.control.proximity import ProximityMode
from dkey.control.rules import Action
from dkey.errors import RefusalCode
from dkey.lifecycle.features import DK2_TOUCH
from dkey.lifecycle.policy import LOST_LOCK_S
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.ranging import chip_session, ursk_life
from dkey.ranging.gate import TrustLevel
from dkey.ranging.layout import Zone
from dkey.ranging.setup_steps import SetupState
from firmware_mock.uwb_channel import Channel
from firmware_mock.uwb_desk import UwbDesk


def story(test):
    @functools.wraps(test)
    def called(**fixtures):
        jumped(lambda: test(**fixtures))

    return called


@story
async def test_walking_up_unlocks_sitting_in_starts_leaving_locks():
    async with scene() as car:
        owner = await car.phone().connect()
        await owner.walk(DOOR_M)
        assert car.body.locked is False
        await owner.walk(SEAT_M)
        start = car.uwb.press_start()
        assert start is not None
        assert start.action is Action.START
        assert car.body.ignition_on
        car.body.stop()
        await owner.walk(DOOR_M, FAR_M, stay_s=6.0)
        assert car.body.locked is True
        acted = [each for each in car.log if each.startswith("PROXIMITY")]
        assert acted == ["PROXIMITY_UNLOCK", "PROXIMITY_START", "PROXIMITY_LOCK"]


@story
async def test_what_ranging_does_is_told_to_its_phone_as_its_own():
    async with scene() as car:
        sources = []
        owner = await car.phone().connect()
        peer = next(iter(car.desk._peers))
        report = peer._session.report
        peer._session.report = lambda source, state: (
            sources.append(source),
            report(source, state),
        )[1]
        await owner.walk(DOOR_M)
        assert sources == [StatusSource.THIS_DEVICE_RANGING]


@story
async def test_with_the_handle_mode_a_hand_is_needed_at_the_door_where_the_key_is():
    async with scene(mode=ProximityMode.ON_HANDLE_ACTION) as car:
        owner = await car.phone().connect()
        await owner.walk(DOOR_M)
        assert car.body.locked is True
        wrong = car.uwb.touch_handle(Zone.DOOR_PASSENGER)
        assert wrong is not None
        assert wrong.code is RefusalCode.OUT_OF_ZONE
        assert car.body.locked is True
        car.uwb.touch_handle(Zone.DOOR_DRIVER)
        assert car.body.locked is False


@story
async def test_a_friend_without_the_right_to_start_unlocks_and_does_not_start():
    async with scene() as car:
        car.phone()
        friend = await car.phone("friend", Role.ASSOCIATE, Permission.ENTRY).connect()
        await friend.walk(DOOR_M, SEAT_M)
        assert car.body.locked is False
        start = car.uwb.press_start()
        assert start is not None
        assert start.code is RefusalCode.PERMISSION_ENTRY_ONLY
        assert not car.body.ignition_on


@story
async def test_a_key_that_was_suspended_while_it_ranges_opens_nothing():
    async with scene() as car:
        car.phone()
        friend = await car.phone("friend", Role.ASSOCIATE).connect()
        car.vehicle.set_state(friend.credential_id, CredentialState.SUSPENDED)
        await friend.walk(DOOR_M)
        assert car.body.locked is True


@story
async def test_without_consent_nothing_is_located_and_touch_remains():
    async with scene() as car:
        owner = await car.phone().connect()
        car.uwb.set_consent(on=False)
        await owner.walk(DOOR_M)
        assert car.body.locked is True
        assert all(tracked.tracker.estimate is None for tracked in car.uwb._phones.values())
        refused = car.uwb.touch_handle(Zone.DOOR_DRIVER)
        assert refused is not None
        assert refused.code is RefusalCode.CONSENT_MISSING
        assert owner.session is not None
        verdict = await owner.session.request(RkeAction.UNLOCK, answer_s=5)
        assert verdict.code is None
        assert car.body.locked is False
        car.body.lock()
        car.vehicle.changed()
        car.uwb.set_consent(on=True)
        await owner.walk(FAR_M, DOOR_M)
        assert car.body.locked is False


@story
async def test_a_withdrawn_consent_outlasts_a_restart():
    async with scene() as car:
        owner = car.phone()
        car.uwb.set_consent(on=False)
        car.uwb.set_consent(on=False, credential_id=owner.credential_id)
        car.uwb.set_consent(on=True)
        again = UwbDesk(car.vehicle, LAYOUT, report=lambda _event, **_fields: None)
        assert not again.consent.of(owner.credential_id)
        assert again.consent.of("somebody else")


@story
async def test_a_touch_only_vehicle_gives_no_ranging_secret_and_refuses():
    async with scene(features=DK2_TOUCH) as car:
        owner = await car.phone().connect()
        await owner.walk(DOOR_M)
        assert car.body.locked is True
        assert owner.ranging.end.state is SetupState.CLOSED
        refused = car.uwb.touch_handle(Zone.DOOR_DRIVER)
        assert refused is not None
        assert refused.code is RefusalCode.OUT_OF_ZONE
        assert car.uwb.press_start() is None


@story
async def test_a_phone_without_uwb_has_bluetooth_and_no_proximity():
    async with scene() as car:
        owner = await car.phone().connect(uwb=False)
        await owner.walk(DOOR_M)
        assert car.body.locked is True
        assert owner.session is not None
        assert (await owner.session.request(RkeAction.UNLOCK, answer_s=5)).code is None


MISMATCHES = {
    AppConfig.URSK: bytes(32),
    AppConfig.STS_INDEX: 12345,
    AppConfig.PULSESHAPE_COMBO: 0x11,
    AppConfig.UWB_CONFIG_ID: 1,
    AppConfig.PROTOCOL_VERSION: b"\x02\x00",
    AppConfig.NUMBER_OF_CONTROLEES: 5,
    AppConfig.SLOTS_PER_RR: 16,
    AppConfig.SLOT_DURATION: 1600,
    AppConfig.RANGING_INTERVAL: 192,
    AppConfig.HOP_MODE_KEY: 1,
    AppConfig.CHANNEL_NUMBER: 5,
    AppConfig.PREAMBLE_CODE_INDEX: 20,
}


@pytest.mark.parametrize("which", MISMATCHES, ids=lambda which: which.name)
@story
async def test_anchors_that_were_told_anything_else_than_the_phone_never_unlock(which, monkeypatch):
    right = chip_session.session_parameters

    def bent(plan, ursk, *, initiator, **how):
        told = right(plan, ursk, initiator=initiator, **how)
        wrong = parameter(which, MISMATCHES[which])
        return told if initiator else tuple(wrong if each.id == which else each for each in told)

    monkeypatch.setattr(chip_session, "session_parameters", bent)
    async with scene() as car:
        owner = await car.phone().connect()
        await owner.walk(DOOR_M, stay_s=4.0)
        assert car.body.locked is True
        assert all(
            tracked.tracker.trust(car.clock()).level is not TrustLevel.TRUSTED
            for tracked in car.uwb._phones.values()
        )
        assert owner.told("ranging_trouble") or car.told("uwb_trouble")


# --- when UWB fails -------------------------------------------------------------------------------


@story
async def test_uwb_that_is_lost_at_the_door_unlocks_nothing_and_says_use_touch():
    async with scene() as car:
        owner = await car.phone().connect()
        await owner.walk((2.0, 6.0))
        owner.uwb_link.subsystem.chip.faults.deaf = True
        owner.uwb_link.subsystem.reset()
        await owner.walk(DOOR_M, stay_s=5.0)
        assert car.body.locked is True
        hints = [each["hint"] for each in owner.told("ranging_trouble")]
        assert any("handle" in each for each in hints)


@story
async def test_anchors_that_reset_come_back_and_unlock():
    async with scene() as car:
        owner = await car.phone().connect()
        await owner.walk((2.0, 8.0), stay_s=1.0)
        car.anchors.subsystem.reset()
        await owner.walk((2.0, 8.0), stay_s=6.0)
        assert len(owner.told("ranging")) >= 2
        await owner.walk(DOOR_M)
        assert car.body.locked is False


@story
async def test_anchors_that_are_unplugged_leave_bluetooth_and_touch():
    async with scene() as car:
        owner = await car.phone().connect()
        await owner.walk((2.0, 8.0))
        await car.anchors.aclose()
        await owner.walk(DOOR_M)
        assert car.body.locked is True
        assert car.told("uwb_lost")
        assert owner.session is not None
        assert (await owner.session.request(RkeAction.UNLOCK, answer_s=5)).code is None


@story
async def test_anchors_that_lie_about_their_state_unlock_nothing():
    async with scene() as car:
        car.anchors.subsystem.chip.faults.state = SessionState.INIT
        owner = await car.phone().connect()
        await owner.walk(DOOR_M)
        assert car.body.locked is True


@story
async def test_a_secret_whose_time_is_over_needs_a_new_connection_and_gets_it(monkeypatch):
    monkeypatch.setattr(ursk_life, "URSK_TTL_S", 5.0)
    async with scene() as car:
        owner = await car.phone().connect()
        await owner.walk((3.0, 9.0), stay_s=6.0)
        assert owner.session is not None
        assert not await owner.session.alive()
        assert any("new connection" in each["hint"] for each in owner.told("ranging_trouble"))
        count = len(owner.told("ranging"))
        monkeypatch.setattr(ursk_life, "URSK_TTL_S", 3600.0)
        await owner.connect()
        await owner.walk(DOOR_M)
        assert len(owner.told("ranging")) > count
        assert car.body.locked is False


@story
async def test_a_phone_that_leaves_without_a_word_locks_the_vehicle_behind_it():
    async with scene() as car:
        owner = await car.phone().connect()
        await owner.walk(DOOR_M)
        assert car.body.locked is False
        assert owner.near is not None
        await owner.near.aclose()
        await asyncio.sleep(LOST_LOCK_S + 1)
        assert car.body.locked is True


@story
async def test_a_malformed_message_of_ranging_ends_the_connection_and_leaves_nothing_behind():
    async with scene() as car:
        owner = await car.phone().connect()
        await owner.walk((3.0, 9.0), stay_s=1.0)
        assert car.anchors.subsystem.chip.sessions
        assert owner.session is not None
        garbage = Message(MessageType.SUPPLEMENTARY, SupplementaryId.TIME_SYNC, b"\x00\x01\x00")
        owner.session.say(Opaque(message=garbage))
        await asyncio.sleep(1.0)
        assert not await owner.session.alive()
        assert car.desk.phones == ()
        assert car.anchors.subsystem.chip.sessions == {}
        assert owner.uwb_link.subsystem.chip.sessions == {}
        await owner.connect()
        await owner.walk(DOOR_M)
        assert car.body.locked is False


@story
async def test_a_store_that_fails_leaves_the_body_alone(monkeypatch):
    async with scene() as car:
        owner = await car.phone().connect()
        await owner.walk((2.0, 8.0))
        car.vehicle.store.close()
        await owner.walk(DOOR_M)
        assert car.body.locked is True


@pytest.mark.parametrize("seed", [1, 2, 3])
@story
async def test_it_works_on_a_radio_that_loses_and_bends(seed):
    async with scene(seed=seed, channel=Channel.PROTOTYPE) as car:
        owner = await car.phone().connect()
        await owner.walk(DOOR_M, stay_s=4.0)
        assert car.body.locked is False


@story
async def test_two_keys_one_inside_keeps_the_vehicle_open():
    async with scene() as car:
        owner = await car.phone().connect()
        friend = await car.phone("friend", Role.ASSOCIATE).connect()
        await owner.walk(DOOR_M, SEAT_M)
        await friend.walk((0.3, -1.4), FAR_M, stay_s=6.0)
        assert car.body.locked is False
        assert [each["text"] for each in car.told("notice")].count("KEY_INSIDE") == 1
