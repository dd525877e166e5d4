"""How phones share the blocks, how the clocks are told, how long indices last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.codec.ble_ranging import TimeSync
from dkey.codec.uci_params import CccCapabilities
from dkey.crypto.secret import Secret
from dkey.ranging.allocation import BUDGET, RAN_STEPS, Allocation
from dkey.ranging.keys import INDEX_LIMIT
from dkey.ranging.setup_plan import DEFAULT_HOPPING, NO_HOPPING, Ability
from dkey.ranging.ursk_life import URSK_TTL_S, UrskDeath, UrskLife
from dkey.ranging.uwb_time import PeerClock, SubsystemClock

# --- places ---------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40),
    st.integers(1, 10),
    st.integers(1, 8),
)
def test_places_never_exceed_the_budget_and_no_two_have_a_code_in_common(
    moves: list[tuple[bool, int]], responders: int, phones: int
) -> None:
    allocation, able = Allocation(phones=phones), Ability(responders=responders)
    held = {}
    for comes, session_id in moves:
        if comes:
            place = allocation.take(session_id, able)
            if place is not None:
                held[session_id] = place
        else:
            allocation.leave(session_id)
            held.pop(session_id, None)
        assert allocation.load <= BUDGET
        assert len(allocation) == len(held) <= phones
        codes = [sync for _, sync in held.values()]
        assert len({*codes}) == len(codes)
        assert all(code.bit_count() == 1 for code in codes)
        assert all(ran in RAN_STEPS for ran, _ in held.values())


def test_the_first_three_phones_range_at_96_ms():
    allocation = Allocation()
    places = [allocation.take(n, Ability()) for n in range(7)]
    assert [None if each is None else each[0] for each in places] == [1, 1, 1, 2, 4, 8, None]


def test_a_place_is_kept_until_it_is_given_back():
    allocation = Allocation(phones=1)
    first = allocation.take(1, Ability())
    assert allocation.take(1, Ability()) == first
    assert allocation.take(2, Ability()) is None
    allocation.leave(1)
    assert allocation.take(2, Ability()) == first


def test_anchors_without_a_code_or_a_slot_have_no_place():
    assert Allocation().take(1, Ability(sync_mask=0)) is None
    assert Allocation().take(1, Ability(slot_mask=0)) is None


def test_a_subsystem_without_the_default_sequence_is_not_asked_to_hop():
    told = CccCapabilities(hopping=0x80 | 0x40 | 0x08, channels=frozenset({9}))
    assert Ability.of(told).hopping == NO_HOPPING
    told = CccCapabilities(hopping=0x80 | 0x40 | 0x10, channels=frozenset({5, 9}))
    assert Ability.of(told).hopping == NO_HOPPING | DEFAULT_HOPPING
    assert Ability.of(told).channels == 0b11


# --- clocks ---------------------------------------------------------------------------------------


def sync(device_time_us: int, *, success: int = 1) -> TimeSync:
    return TimeSync(
        event_count=0,
        device_time_us=device_time_us,
        uncertainty=80,
        skew_available=1,
        max_ppm=20,
        success=success,
        retry_delay_ms=0,
    )


def test_the_answer_was_true_in_the_middle_of_the_wait():
    clock = SubsystemClock()
    assert clock.now_us(5.0) is None
    clock.asked(5.0)
    clock.answered(1_000_000, 5.2)
    assert clock.now_us(5.1) == 1_000_000
    told = clock.sync(6.1, 3)
    assert told is not None
    assert (told.device_time_us, told.event_count) == (2_000_000, 3)
    clock.lose()
    assert clock.sync(6.2, 4) is None


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=8))
def test_a_vehicle_is_never_early_and_as_late_as_the_quickest_message(delays: list[float]) -> None:
    clock, offset_s = PeerClock(), 100.0
    for n, delay_s in enumerate(delays):
        clock.told(sync(round(n * 1e6)), offset_s + n + delay_s)
    at_s = clock.at_s(20_000_000, offset_s + 8.2)
    assert at_s is not None
    assert at_s - (offset_s + 20) == pytest.approx(min(delays), abs=1e-5)


def test_old_or_failed_time_syncs_say_nothing():
    clock = PeerClock()
    clock.told(sync(0, success=0), 0.0)
    assert not clock.known
    clock.told(sync(0), 0.0)
    assert clock.known
    assert clock.at_s(0, 61.0) is None


# --- indices --------------------------------------------------------------------------------------


def test_indices_that_went_by_never_come_back():
    life = UrskLife(Secret(bytes(32)))
    life.skip_to(100, now_s=0.0)
    life.skip_to(50, now_s=0.0)
    assert life.next_index == 100


def test_a_secret_whose_indices_went_by_is_dead():
    life = UrskLife(Secret(bytes(32)))
    assert life.skip_to(INDEX_LIMIT - 1, now_s=0.0) is None
    assert life.skip_to(INDEX_LIMIT, now_s=0.0) is UrskDeath.EXHAUSTED


def test_time_kills_before_indices_are_counted():
    life = UrskLife(Secret(bytes(32)))
    life.begin(7, now_s=0.0)
    assert life.skip_to(9, now_s=URSK_TTL_S) is UrskDeath.EXPIRED
