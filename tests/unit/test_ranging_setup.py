"""Ranging setup, both ends against each other (Aliro 1.0 §11.1.1, §11.7.2)."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dkey.codec.ble_ranging import (
    RangingSelection,
    RangingStart,
    ResumeAnswer,
    SuspendRequest,
    parse_ranging,
)
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode, SequenceError, WireError
from dkey.ranging.keys import INDEX_LIMIT
from dkey.ranging.setup import PhoneSetup, VehicleSetup
from dkey.ranging.setup_plan import Ability, SessionPlan
from dkey.ranging.setup_steps import Begin, Do, GoOn, Refuse, Send, SetupState, Stop
from dkey.ranging.ursk_life import FIRST_INDEX_LIMIT, UrskLife
from dkey.testing import SeededEntropy

SESSION = 0x01020304
ABLE = Ability()


def life() -> UrskLife:
    return UrskLife(Secret(bytes(32)))


def pair(
    vehicle: Ability = ABLE,
    phone: Ability = ABLE,
    seed: int = 1,
    lives: tuple[UrskLife, UrskLife] | None = None,
) -> tuple[VehicleSetup, PhoneSetup]:
    one, two = lives or (life(), life())
    return VehicleSetup(vehicle, SESSION, one), PhoneSetup(phone, SESSION, two, SeededEntropy(seed))


def talk(vehicle: VehicleSetup, phone: PhoneSetup, first: tuple[Do, ...]) -> list[Do]:
    """Carry messages both ways over the wire until nobody says anything; return the rest."""
    done: list[Do] = []
    to_phone, actions = True, first
    while actions:
        said = [each.message for each in actions if isinstance(each, Send)]
        done += [each for each in actions if not isinstance(each, Send)]
        if not said:
            break
        message = parse_ranging(said[0].to_message())
        actions = (
            phone.received(message, uwb_time_us=1_000_000)
            if to_phone
            else vehicle.received(message)
        )
        to_phone = not to_phone
    return done


def begun(*lives: UrskLife) -> tuple[VehicleSetup, PhoneSetup, SessionPlan]:
    vehicle, phone = pair(lives=(lives[0], lives[1]) if lives else None)
    talk(vehicle, phone, vehicle.begin())
    assert phone.plan is not None
    return vehicle, phone, phone.plan


masks = st.integers(0, 0x7F)
abilities = st.builds(
    Ability,
    configs=st.sampled_from([(0,), (1,), (0, 1), (1, 0)]),
    pulse_shapes=st.sampled_from([(0,), (0x11,), (0, 0x11), (0x22, 0)]),
    channels=st.integers(0, 3),
    sync_mask=st.sampled_from([0, 1 << 8, 0x00FFFF00, 1 << 31]),
    slot_mask=masks,
    hopping=st.sampled_from([0, 0x80, 0x48, 0xC8]),
    min_ran=st.integers(1, 8),
    responders=st.integers(1, 10),
)


@given(abilities, abilities)
def test_two_ends_agree_on_one_plan_or_one_of_them_refuses(one: Ability, two: Ability) -> None:
    vehicle, phone = pair(one, two)
    refused, done = None, []
    try:
        done = talk(vehicle, phone, vehicle.begin())
    except PolicyRefusal as exc:
        refused = exc
    if refused is not None:
        assert refused.code is RefusalCode.DEVICE_UNSUPPORTED
        assert "touch" in (refused.hint or "")
        return
    assert vehicle.plan == phone.plan
    assert vehicle.state is phone.state is SetupState.ACTIVE
    assert [type(each) for each in done] == [Begin, Begin]
    plan = vehicle.plan
    assert plan is not None
    assert plan.slots_per_round >= plan.responders + 4
    assert plan.rounds_per_block >= 1
    assert plan.ran_multiplier >= max(one.min_ran, two.min_ran)
    assert plan.sts_index0 < FIRST_INDEX_LIMIT


def test_like_ends_always_agree() -> None:
    vehicle, phone, plan = begun()
    assert vehicle.plan == plan
    assert (plan.channel, plan.chaps_per_slot, plan.slots_per_round) == (9, 3, 12)
    assert phone.state is SetupState.ACTIVE


def test_resume_keeps_the_plan_and_never_reuses_an_index() -> None:
    lives = life(), life()
    vehicle, phone, plan = begun(*lives)
    for each in lives:
        each.skip_to(plan.sts_index0 + 501, now_s=0)
    assert talk(vehicle, phone, vehicle.suspend()) == [Stop(), Stop()]
    done = talk(vehicle, phone, vehicle.resume())
    assert [type(each) for each in done] == [GoOn, GoOn]
    assert vehicle.plan == phone.plan
    assert vehicle.plan == replace(
        plan,
        sts_index0=plan.sts_index0 + 501,
        uwb_time0_us=vehicle.plan.uwb_time0_us if vehicle.plan else 0,
    )


def test_the_vehicle_refuses_an_index_that_was_used() -> None:
    lives = life(), life()
    vehicle, phone, plan = begun(*lives)
    lives[0].skip_to(plan.sts_index0 + 501, now_s=0)
    talk(vehicle, phone, vehicle.suspend())
    vehicle.resume()
    with pytest.raises(WireError):
        vehicle.received(ResumeAnswer(sts_index0=plan.sts_index0 + 500, uwb_time0_us=0))


def test_the_vehicle_refuses_an_index_at_the_end_of_the_ursk() -> None:
    vehicle, phone, _ = begun()
    talk(vehicle, phone, vehicle.suspend())
    vehicle.resume()
    with pytest.raises(WireError):
        vehicle.received(ResumeAnswer(sts_index0=INDEX_LIMIT, uwb_time0_us=0))


def test_setup_anew_after_a_failure_begins_above_the_used_indices() -> None:
    lives = life(), life()
    vehicle, phone, plan = begun(*lives)
    for each, end in zip(lives, (vehicle, phone), strict=True):
        each.skip_to(plan.sts_index0 + 8, now_s=0)
        end.stopped()
    done = talk(vehicle, phone, vehicle.begin())
    assert [type(each) for each in done] == [Begin, Begin]
    assert vehicle.plan is not None
    assert vehicle.plan.sts_index0 == plan.sts_index0 + 8


@given(st.integers(0, 0xFFFFFFFF))
def test_another_session_gets_no_ranging(other: int) -> None:
    assume(other != SESSION)
    _, phone, _ = begun()
    offer = VehicleSetup(Ability(), other, life()).begin()[0]
    assert isinstance(offer, Send)
    assert phone.received(offer.message, uwb_time_us=0) == (Refuse(),)
    assert phone.received(SuspendRequest(session_id=other), uwb_time_us=0) == (Refuse(),)


def test_after_the_ursk_is_gone_nothing_is_agreed_any_more() -> None:
    vehicle, phone, _ = begun()
    vehicle.close()
    phone.close()
    with pytest.raises(LocalFault):
        vehicle.begin()
    assert phone.received(SuspendRequest(session_id=SESSION), uwb_time_us=0) == (Refuse(),)


@pytest.mark.parametrize(
    "message",
    [
        RangingStart(sts_index0=1, uwb_time0_us=1, hop_key=1, sync_index=9),
        ResumeAnswer(sts_index0=1, uwb_time0_us=1),
    ],
)
def test_a_message_out_of_turn_is_a_sequence_error(message: RangingStart | ResumeAnswer) -> None:
    vehicle, _ = pair()
    vehicle.begin()
    with pytest.raises(SequenceError):
        vehicle.received(message)


def test_the_vehicle_refuses_a_selection_that_it_did_not_offer() -> None:
    vehicle, _ = pair(Ability(configs=(0,)))
    vehicle.begin()
    with pytest.raises(WireError):
        vehicle.received(
            RangingSelection(
                configs=(1,),
                pulse_shapes=(0,),
                channels=2,
                sync_mask=1 << 8,
                ran_multiplier=1,
                slot_mask=1,
                hopping=0xC8,
            )
        )


def test_what_a_phone_did_not_get_offered_it_may_not_choose_in_m4() -> None:
    vehicle, phone = pair()
    offer = vehicle.begin(sync_mask=1 << 11)[0]
    assert isinstance(offer, Send)
    selection = phone.received(offer.message, uwb_time_us=0)[0]
    assert isinstance(selection, Send)
    vehicle.received(selection.message)
    with pytest.raises(WireError):
        vehicle.received(RangingStart(sts_index0=1, uwb_time0_us=1, hop_key=1, sync_index=9))


def test_a_setup_that_was_put_off_leaves_nothing_to_resume() -> None:
    vehicle, phone = pair()
    offer = vehicle.begin()[0]
    assert isinstance(offer, Send)
    selection = phone.received(offer.message, uwb_time_us=0)[0]
    assert isinstance(selection, Send)
    vehicle.received(selection.message)
    vehicle.stopped()
    assert (vehicle.state, vehicle.plan) == (SetupState.IDLE, None)
    with pytest.raises(LocalFault):
        vehicle.resume()


def test_the_plan_is_what_goes_into_the_keys() -> None:
    _, _, plan = begun()
    configuration = plan.configuration()
    assert configuration.rounds_per_block == plan.rounds_per_block == 8
    assert configuration.session_id == SESSION
    assert plan.indices_per_block == 96
