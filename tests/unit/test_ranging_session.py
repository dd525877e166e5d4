"""Ranging over a session, both ends on one virtual air: setup, recovery, sharing, the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dkey.codec.ble import RangingKind
from dkey.codec.ble_contents import Ranging
from dkey.codec.uci_status import SessionState, SessionType
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault
from dkey.ranging.chip_session import ChipSession
from dkey.ranging.configuration import RESPONDERS_MAX
from dkey.ranging.secret_session import FAILURES_MAX, FAILURES_S, SILENT_S
from dkey.ranging.session_events import Began, Ceased, Measured, Tell, Trouble, TroubleKind
from dkey.ranging.session_phone import AGAIN_S
from dkey.ranging.setup_plan import BLOCK_S, SessionPlan
from dkey.ranging.setup_steps import SetupState
from dkey.ranging.uci_events import RangingData
from dkey.ranging.uci_host import UciHost
from dkey.ranging.ursk_life import URSK_TTL_S
from ranging_session_world import Phone, World

OTHER = Secret(b"\x55" * 32)


def ranging(**how) -> tuple[World, Phone]:
    world = World(**how)
    phone = world.phone()
    world.settle()
    phone.connect()
    world.run(0.6)
    assert len(world.good()) >= 3
    return world, phone


def plans(events) -> list[SessionPlan]:
    return [each.plan for each in events if isinstance(each, Began)]


def said(events, kind: RangingKind) -> bool:
    return any(isinstance(each, Tell) and each.content == Ranging(kind=kind) for each in events)


@pytest.mark.parametrize("uci_major", [1, 2])
def test_a_phone_that_is_let_in_is_ranged_in_every_block(uci_major):
    world, phone = ranging(uci_major=uci_major)
    before = len(world.good())
    world.run(10 * BLOCK_S)
    assert len(world.good()) - before == 10
    assert plans(world.events) == plans(phone.events)
    assert phone.broken == []


def test_rounds_rise_in_block_and_index():
    world, _ = ranging()
    rounds = [each.round for each in world.rounds]
    assert [each.block for each in rounds] == sorted({each.block for each in rounds})
    assert [each.sts_index for each in rounds] == sorted({each.sts_index for each in rounds})


def test_three_phones_range_at_96_ms_and_are_told_apart():
    world = World()
    phones = [world.phone(at) for at in ((4.0, 3.0), (-5.0, 2.0), (0.0, -8.0))]
    world.settle()
    for each in phones:
        each.connect()
    world.run(1.0)
    world.rounds.clear()
    world.run(20 * BLOCK_S)
    found = {each.session_id: [] for each in phones}
    for each in world.good():
        found[each.session_id].append(each.round.ranges[0].distance_cm)
    assert {plan.ran_multiplier for plan in plans(world.events)} == {1}
    assert all(19 <= len(each) <= 21 for each in found.values())
    assert len({round(each[0] / 50) for each in found.values()}) == 3


def test_who_does_not_fit_is_put_off_and_comes_in_when_there_is_room():
    world = World()
    phones = [world.phone() for _ in range(8)]
    world.settle()
    for each in phones:
        each.connect()
        world.run(0.2)
    served = [each for each in phones if each.end.state is SetupState.ACTIVE]
    assert 5 <= len(served) < len(phones)
    assert TroubleKind.FULL in world.troubles()
    late = phones[-1]
    assert said(world.events, RangingKind.SETUP_LATER)
    for each in served:
        each.disconnect()
    world.run(AGAIN_S + 0.5)
    assert late.end.state is SetupState.ACTIVE


def test_more_phones_get_longer_blocks():
    world = World()
    for _ in range(5):
        phone = world.phone()
        world.settle()
        phone.connect()
        world.run(0.2)
    assert [each.ran_multiplier for each in plans(world.events)] == [1, 1, 1, 2, 4]
    assert len({each.sync_index for each in plans(world.events)}) == 5


def test_setup_anew_while_it_ranges_is_no_trouble():
    world, phone = ranging()
    for _ in range(3):
        phone.take(phone.end.initiate(world.now_s))
        world.run(0.5)
    assert world.troubles() == phone.troubles() == set()
    assert len(plans(world.events)) == len(plans(phone.events)) == 4


def test_a_vehicle_that_is_slow_is_given_more_time():
    world = World()
    phone = world.phone()
    world.settle()
    waiting = world.subsystem.feed
    late: list[tuple[float, bytes]] = []
    world.subsystem.feed = lambda data: late.append((world.now_s + 0.15, data))
    phone.connect()
    for _ in range(400):
        world.run(0.01)
        for at_s, data in [each for each in late if each[0] <= world.now_s]:
            late.remove((at_s, data))
            waiting(data)
    assert TroubleKind.NOT_STARTED in world.troubles()
    assert len(world.good()) > 3


# --- suspend and resume ---------------------------------------------------------------------------


@pytest.mark.parametrize("by_phone", [True, False])
def test_suspend_and_resume_go_on_with_indices_that_were_never_used(by_phone):
    world, phone = ranging()
    last = world.rounds[-1].round.sts_index
    if by_phone:
        phone.take(phone.end.suspend(world.now_s))
    else:
        world.take(world.end.suspend(phone.session_id, world.now_s))
    world.settle()
    assert phone.end.state is world.end.state(phone.session_id) is SetupState.SUSPENDED
    count = len(world.rounds)
    world.run(2.0)
    assert len(world.rounds) == count
    if by_phone:
        phone.take(phone.end.resume(world.now_s))
    else:
        world.take(world.end.resume(phone.session_id, world.now_s))
    world.run(1.0)
    assert len(world.good()) > count
    first, second = plans(world.events)
    assert second.sts_index0 > last
    assert second.hop_key == first.hop_key
    assert world.rounds[-1].round.block > world.rounds[count - 1].round.block


def test_nothing_is_resumed_that_is_not_suspended():
    world, phone = ranging()
    with pytest.raises(LocalFault):
        phone.end.resume(world.now_s)
    with pytest.raises(LocalFault):
        world.end.resume(phone.session_id, world.now_s)


# --- what goes wrong ------------------------------------------------------------------------------


def test_ends_with_different_secrets_never_get_a_distance_and_give_up():
    world = World()
    phone = world.phone()
    world.settle()
    phone.connect(vehicle_ursk=OTHER)
    world.run(FAILURES_S / 2)
    assert world.good() == []
    assert world.rounds
    assert TroubleKind.STS_FAILED in world.troubles()
    assert TroubleKind.GAVE_UP in phone.troubles()
    assert len(plans(world.events)) <= FAILURES_MAX + 1
    indices = [each.sts_index0 for each in plans(phone.events)]
    assert indices == sorted(set(indices))


def test_a_round_on_a_static_sts_is_not_used_and_ends_ranging():
    world, phone = ranging()
    proved = world.rounds[-1].round
    fake = replace(proved, sts_index=10_000, at_s=world.now_s, static_sts=True)
    told = world.end._ranged(RangingData(round=fake, numbered=True), world.now_s)
    assert not any(isinstance(each, Measured) for each in told)
    assert TroubleKind.STATIC_STS in {each.kind for each in told if isinstance(each, Trouble)}
    assert world.end.state(phone.session_id) is not SetupState.ACTIVE


def test_a_subsystem_that_counts_faster_than_time_is_not_believed():
    world, phone = ranging()
    fake = replace(world.rounds[-1].round, sts_index=10_000, at_s=world.now_s)
    told = world.end._ranged(RangingData(round=fake, numbered=True), world.now_s)
    assert not any(isinstance(each, Measured) for each in told)
    assert phone.broken == []


@pytest.mark.parametrize("whose", ["vehicle", "phone"])
def test_a_subsystem_that_resets_by_itself_is_brought_back_above_all_used_indices(whose):
    world, phone = ranging()
    last = world.rounds[-1].round.sts_index
    (world if whose == "vehicle" else phone).subsystem.chip.reset()
    world.run(6.0)
    before = len(world.good())
    world.run(1.0)
    assert len(world.good()) - before >= 9
    assert plans(world.events)[-1].sts_index0 > last
    assert phone.broken == []


@pytest.mark.parametrize("whose", ["vehicle", "phone"])
def test_a_subsystem_that_is_restarted_by_its_host_is_brought_back(whose):
    world, phone = ranging()
    last = world.rounds[-1].round.sts_index
    end = world.end if whose == "vehicle" else phone.end
    subsystem = world.subsystem if whose == "vehicle" else phone.subsystem
    subsystem.chip.faults.stall = True
    end._ask_time(world.now_s)
    world.run(1.2)
    subsystem.chip.faults.stall = False
    world.run(8.0)
    before = len(world.good())
    world.run(1.0)
    assert len(world.good()) - before >= 9
    assert plans(world.events)[-1].sts_index0 > last


def test_a_subsystem_that_stays_silent_is_given_up_in_words_and_the_phone_is_told():
    world, phone = ranging()
    world.subsystem.chip.faults.stall = True
    world.run(60.0, step_s=0.05)
    assert TroubleKind.SUBSYSTEM_LOST in world.troubles()
    assert world.end.state(phone.session_id) is not SetupState.ACTIVE
    phone.take(phone.end.initiate(world.now_s))
    world.settle()
    assert said(world.events, RangingKind.SETUP_LATER)
    hints = [each.hint for each in world.events if isinstance(each, Trouble)]
    assert all("handle" in each for each in hints)


def test_a_subsystem_that_says_it_ranges_and_does_not_is_noticed():
    world = World()
    phone = world.phone()
    world.subsystem.chip.faults.deaf = True
    world.settle()
    phone.connect()
    world.run(SILENT_S + 1)
    assert world.rounds == []
    assert TroubleKind.UWB_LOST in world.troubles()
    assert TroubleKind.UWB_LOST in phone.troubles()


def test_ranges_of_a_subsystem_that_lies_about_its_state_are_not_believed():
    world = World()
    phone = world.phone()
    world.subsystem.chip.faults.state = SessionState.INIT
    world.settle()
    phone.connect()
    world.run(2.0)
    assert world.rounds == []
    assert TroubleKind.SUBSYSTEM in world.troubles()


def test_a_subsystem_that_babbles_is_complained_of_once_in_a_while():
    world, _ = ranging()
    for _ in range(500):
        world.take(world.end.receive(b"\xff\xff\xff", world.now_s))
    complaints = [each for each in world.events if isinstance(each, Trouble)]
    assert [each.kind for each in complaints] == [TroubleKind.SUBSYSTEM]


def test_a_link_to_the_subsystem_that_is_lost_leaves_touch():
    world, phone = ranging()
    world.take(world.end.close())
    world.settle()
    assert said(world.events, RangingKind.SUSPENDED)
    assert phone.end.state is SetupState.SUSPENDED
    assert "handle" in next(each.hint for each in world.events if isinstance(each, Trouble))


def test_uwb_that_is_lost_at_the_phone_is_found_again():
    world, phone = ranging()
    phone.subsystem.chip.faults.mute = True
    world.run(SILENT_S + 1)
    assert TroubleKind.UWB_LOST in phone.troubles()
    phone.subsystem.chip.faults.mute = False
    world.run(1.0)
    assert phone.end.anchors == 6


def test_only_sessions_with_an_sts_of_a_secret_are_made():
    with pytest.raises(LocalFault):
        ChipSession(UciHost(), 1, initiator=True, session_type=SessionType.FIRA_RANGING)


# --- the end of the secret ------------------------------------------------------------------------


def test_after_12_hours_the_secret_is_dead_at_both_ends_and_a_new_connection_is_needed():
    world, phone = ranging()
    world.air.now_ns += round(URSK_TTL_S * 1e9)
    world.take(world.end.tick(world.now_s))
    world.run(0.1)
    assert TroubleKind.EXPIRED in world.troubles()
    assert TroubleKind.EXPIRED in phone.troubles()
    count = len(world.good())
    world.run(1.0)
    assert len(world.good()) == count
    hints = [each.hint for each in phone.events if isinstance(each, Trouble)]
    assert "new connection" in hints[-1]


def test_a_phone_that_leaves_takes_its_place_and_its_secret_with_it():
    world, phone = ranging()
    phone.disconnect()
    count = len(world.rounds)
    world.run(1.0)
    assert len(world.rounds) == count
    assert len(world.end.allocation) == 0
    assert isinstance(world.events[-1], Ceased | Measured)
    assert world.subsystem.chip.sessions == {}
    assert phone.subsystem.chip.sessions == {}


def test_a_phone_that_comes_back_ranges_under_its_new_secret():
    world, phone = ranging()
    phone.disconnect()
    world.run(0.2)
    count = len(world.good())
    phone.session_id += 0x100
    phone.turn, phone.turn_there = (
        type(phone.turn)(is_reader=False),
        type(phone.turn)(is_reader=True),
    )
    phone.connect(OTHER)
    world.run(1.0)
    assert len(world.good()) > count + 5


def test_no_more_anchors_are_planned_than_a_round_holds():
    world, _ = ranging()
    assert all(each.responders <= RESPONDERS_MAX for each in plans(world.events))


def test_the_secret_is_in_no_repr():
    world, phone = ranging()
    secret = phone.session_id.to_bytes(4, "big") * 2
    shown = repr(world.events) + repr(phone.events) + repr(world.end) + repr(phone.end)
    assert secret.hex() not in shown
    assert repr(secret)[2:-1] not in shown
