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
from dkey.errors import LocalFault, SequenceError, WireError
from dkey.ranging.setup import (
    Begin,
    Do,
    GoOn,
    PhoneSetup,
    Refuse,
    Send,
    SetupState,
    Stop,
    VehicleSetup,
)
from dkey.ranging.setup_plan import INDEX_END, INDEX_FIRST_END, Ability, SessionPlan
from dkey.testing import SeededEntropy

SESSION = 0x01020304
ABLE = Ability()


def pair(
    vehicle: Ability = ABLE, phone: Ability = ABLE, seed: int = 1
) -> tuple[VehicleSetup, PhoneSetup]:
    return VehicleSetup(vehicle, SESSION), PhoneSetup(phone, SESSION, SeededEntropy(seed))


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


def begun() -> tuple[VehicleSetup, PhoneSetup, SessionPlan]:
    vehicle, phone = pair()
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
    try:
        done = talk(vehicle, phone, vehicle.begin())
    except WireError:
        return
    assert vehicle.plan == phone.plan
    assert vehicle.state is phone.state is SetupState.ACTIVE
    assert [type(each) for each in done] == [Begin, Begin]
    plan = vehicle.plan
    assert plan is not None
    assert plan.slots_per_round >= plan.responders + 4
    assert plan.rounds_per_block >= 1
    assert plan.ran_multiplier >= max(one.min_ran, two.min_ran)
    assert plan.sts_index0 < INDEX_FIRST_END


def test_like_ends_always_agree() -> None:
    vehicle, phone, plan = begun()
    assert vehicle.plan == plan
    assert (plan.channel, plan.chaps_per_slot, plan.slots_per_round) == (9, 3, 12)
    assert phone.state is SetupState.ACTIVE


def test_resume_keeps_the_plan_and_never_reuses_an_index() -> None:
    vehicle, phone, plan = begun()
    for end in (vehicle, phone):
        end.used(plan.sts_index0 + 500)
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
    vehicle, phone, plan = begun()
    vehicle.used(plan.sts_index0 + 500)
    talk(vehicle, phone, vehicle.suspend())
    vehicle.resume()
    with pytest.raises(WireError):
        vehicle.received(ResumeAnswer(sts_index0=plan.sts_index0 + 500, uwb_time0_us=0))


def test_the_vehicle_refuses_an_index_at_the_end_of_the_ursk() -> None:
    vehicle, phone, _ = begun()
    talk(vehicle, phone, vehicle.suspend())
    vehicle.resume()
    with pytest.raises(WireError):
        vehicle.received(ResumeAnswer(sts_index0=INDEX_END, uwb_time0_us=0))


def test_setup_anew_after_a_failure_begins_above_the_used_indices() -> None:
    vehicle, phone, plan = begun()
    for end in (vehicle, phone):
        end.used(plan.sts_index0 + 7)
        end.stopped()
    done = talk(vehicle, phone, vehicle.begin())
    assert [type(each) for each in done] == [Begin, Begin]
    assert vehicle.plan is not None
    assert vehicle.plan.sts_index0 == plan.sts_index0 + 8


@given(st.integers(0, 0xFFFFFFFF))
def test_another_session_gets_no_ranging(other: int) -> None:
    assume(other != SESSION)
    _, phone, _ = begun()
    offer = VehicleSetup(Ability(), other).begin()[0]
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
