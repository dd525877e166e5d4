"""Ranging configuration, its negotiation, the grid of slots, and hopping."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.errors import LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.ranging.configuration import (
    BLOCK_CHAPS,
    CHAPS_PER_SLOT,
    PULSE_SHAPES,
    RESPONDERS_MAX,
    SLOTS_PER_ROUND,
    RangingConfiguration,
    UwbCapabilities,
    negotiate,
)
from dkey.ranging.grid import RSTU_PER_MS, Grid, Place, SlotKind, rstu_to_ns
from dkey.ranging.hopping import Hopping, HopStep, MacMode, default_round
from dkey.ranging.keys import INDEX_LIMIT

CONFIGURATION = RangingConfiguration(
    protocol_version=0x0100,
    config_id=0,
    session_id=0x01020304,
    sts_index0=0x11223344,
    responders=5,
    ran_multiplier=2,
    slots_per_round=12,
    chaps_per_slot=6,
    pulse_shape=0,
)


@st.composite
def configurations(draw):
    chaps, slots = draw(st.sampled_from(CHAPS_PER_SLOT)), draw(st.sampled_from(SLOTS_PER_ROUND))
    return RangingConfiguration(
        protocol_version=draw(st.integers(0, 0xFFFF)),
        config_id=draw(st.integers(0, 0xFFFF)),
        session_id=draw(st.integers(0, 0xFFFFFFFF)),
        sts_index0=draw(st.integers(0, 2**30 - 1)),
        responders=draw(st.integers(1, min(RESPONDERS_MAX, slots - 4))),
        ran_multiplier=draw(st.integers(-(-chaps * slots // BLOCK_CHAPS), 255)),
        slots_per_round=slots,
        chaps_per_slot=chaps,
        pulse_shape=draw(st.sampled_from(sorted(PULSE_SHAPES))),
    )


# --- configuration ------------------------------------------------------------------------------


def test_a_configuration_has_17_bytes_big_endian():
    assert CONFIGURATION.to_bytes().hex() == "0100000001020304112233440502" + "0c0600"


@given(configurations())
def test_a_configuration_comes_back_from_its_bytes(configuration):
    assert RangingConfiguration.parse(configuration.to_bytes()) == configuration


@given(st.binary(max_size=20))
def test_any_bytes_are_a_configuration_or_a_wire_error(data):
    with contextlib.suppress(WireError):
        assert RangingConfiguration.parse(data).to_bytes() == data


@pytest.mark.parametrize(
    "change",
    [
        {"chaps_per_slot": 5},
        {"slots_per_round": 10},
        {"slots_per_round": 8},
        {"responders": 0},
        {"responders": 11, "slots_per_round": 16},
        {"ran_multiplier": 0},
        {"ran_multiplier": 256},
        {"pulse_shape": 0x03},
        {"sts_index0": INDEX_LIMIT},
        {"session_id": -1},
        {"config_id": 0x10000},
        {"protocol_version": 0x10000},
        {"slots_per_round": 96, "chaps_per_slot": 24, "ran_multiplier": 7},
    ],
)
def test_a_configuration_outside_the_rules_cannot_be_made(change):
    with pytest.raises(LocalFault):
        replace(CONFIGURATION, **change)


def test_as_many_slots_as_responders_and_overhead_are_enough():
    assert replace(CONFIGURATION, responders=8).slots_per_round == 12
    with pytest.raises(LocalFault, match="13"):
        replace(CONFIGURATION, responders=9)


@pytest.mark.parametrize(
    ("chaps", "slots", "rounds"), [(6, 6, 8), (6, 12, 4), (6, 16, 3), (3, 6, 16)]
)
def test_a_block_holds_the_published_number_of_rounds(chaps, slots, rounds):
    of = replace(
        CONFIGURATION, responders=2, ran_multiplier=1, chaps_per_slot=chaps, slots_per_round=slots
    )
    assert of.rounds_per_block == rounds


# --- negotiation --------------------------------------------------------------------------------

sets = {
    "chaps_per_slot": st.frozensets(st.sampled_from(CHAPS_PER_SLOT), min_size=1),
    "slots_per_round": st.frozensets(st.sampled_from(SLOTS_PER_ROUND), min_size=1),
    "sync_codes": st.frozensets(st.integers(1, 32), min_size=1),
    "channels": st.frozensets(st.sampled_from((5, 9)), min_size=1),
    "ran_multiplier": st.integers(1, 255),
    "continuous": st.booleans(),
    "adaptive": st.booleans(),
}
capabilities = st.builds(UwbCapabilities, **sets)


@given(capabilities, capabilities, st.integers(1, RESPONDERS_MAX))
def test_what_is_agreed_lies_within_both_sides_and_is_valid(vehicle, device, responders):
    try:
        agreed = negotiate(vehicle, device, responders=responders)
    except PolicyRefusal:
        return
    for side in (vehicle, device):
        assert agreed.chaps_per_slot in side.chaps_per_slot
        assert agreed.slots_per_round in side.slots_per_round
        assert agreed.sync_code in side.sync_codes
        assert agreed.channel in side.channels
        assert agreed.ran_multiplier >= side.ran_multiplier
        assert side.adaptive >= agreed.adaptive
        assert side.continuous >= agreed.continuous
    assert not (agreed.adaptive and agreed.continuous)
    assert agreed.configuration(session_id=1, sts_index0=2).rounds_per_block >= 1


def test_the_order_of_the_sides_does_not_matter():
    one = UwbCapabilities(sync_codes=frozenset({9, 12}), ran_multiplier=2)
    other = UwbCapabilities(sync_codes=frozenset({12, 10}), continuous=False)
    assert negotiate(one, other, responders=6) == negotiate(other, one, responders=6)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": frozenset({5})},
        {"sync_codes": frozenset({1})},
        {"slots_per_round": frozenset({6})},
        {"chaps_per_slot": frozenset()},
        {"pulse_shapes": frozenset({0x11})},
        {"config_ids": frozenset({1})},
        {"protocol_versions": frozenset({0x0200})},
    ],
)
def test_nothing_in_common_is_a_refusal_that_names_the_way_out(change):
    with pytest.raises(PolicyRefusal) as caught:
        negotiate(UwbCapabilities(), UwbCapabilities(**change), responders=6)
    assert caught.value.code is RefusalCode.DEVICE_UNSUPPORTED
    assert "touch" in caught.value.hint


# --- grid ---------------------------------------------------------------------------------------


def places(grid: Grid):
    return st.builds(
        Place,
        st.integers(0, 1000),
        st.integers(0, grid.rounds - 1),
        st.integers(0, grid.slots - 1),
    )


@given(configurations(), st.data())
def test_every_slot_has_one_index_and_one_time_of_its_own(configuration, data):
    grid = Grid(configuration)
    place = data.draw(places(grid))
    assert grid.place(grid.sts_index(place)) == place
    start = grid.start_rstu(place)
    assert grid.at(start) == grid.at(start + grid.slot_rstu - 1) == place
    assert start + grid.slot_rstu <= (place.block + 1) * grid.block_rstu


@given(configurations(), st.data())
def test_later_slots_have_higher_indices(configuration, data):
    grid = Grid(configuration)
    one, other = data.draw(places(grid)), data.draw(places(grid))
    assert (one < other) == (grid.sts_index(one) < grid.sts_index(other))


def test_the_published_durations_hold():
    grid = Grid(CONFIGURATION)
    assert grid.slot_rstu == 2 * RSTU_PER_MS
    assert grid.round_rstu == 24 * RSTU_PER_MS
    assert grid.block_rstu == 192 * RSTU_PER_MS
    assert rstu_to_ns(grid.block_rstu) == 192_000_000


def test_the_index_of_a_slot_counts_rounds_and_slots():
    grid = Grid(CONFIGURATION)
    assert grid.rounds == 8
    assert grid.sts_index(Place(3, 2, 1)) == 0x11223344 + (3 * 8 + 2) * 12 + 1


def test_a_round_is_pre_poll_poll_responses_final_and_its_data():
    grid = Grid(CONFIGURATION)
    assert [grid.kind(slot) for slot in range(grid.slots)] == [
        SlotKind.PRE_POLL,
        SlotKind.POLL,
        *[SlotKind.RESPONSE] * 5,
        SlotKind.FINAL,
        SlotKind.FINAL_DATA,
        *[SlotKind.UNUSED] * 3,
    ]
    assert grid.response_slot(4) == 6


def test_the_end_of_a_block_that_no_round_fills_is_silent():
    grid = Grid(replace(CONFIGURATION, ran_multiplier=1, slots_per_round=16, chaps_per_slot=8))
    assert grid.rounds == 2
    assert grid.at(2 * grid.round_rstu) is None
    assert grid.at(grid.block_rstu) == Place(1, 0, 0)
    assert grid.at(-1) is None


@pytest.mark.parametrize("place", [Place(-1, 0), Place(0, 8), Place(0, 0, 12), Place(0, -1)])
def test_a_slot_outside_the_grid_has_no_index(place):
    with pytest.raises(LocalFault):
        Grid(CONFIGURATION).sts_index(place)


def test_an_index_at_the_limit_is_of_no_slot():
    grid = Grid(replace(CONFIGURATION, sts_index0=INDEX_LIMIT - 12))
    assert grid.sts_index(Place(0, 0, 11)) == INDEX_LIMIT - 1
    with pytest.raises(LocalFault):
        grid.sts_index(Place(0, 1, 0))
    for index in (INDEX_LIMIT, INDEX_LIMIT - 13):
        with pytest.raises(LocalFault):
            grid.place(index)


def test_there_is_no_response_slot_for_an_anchor_that_is_not_there():
    with pytest.raises(LocalFault):
        Grid(CONFIGURATION).response_slot(5)


# --- hopping ------------------------------------------------------------------------------------


def test_the_default_sequence_gives_the_known_answers():
    assert [default_round(block, 0xCC5DD79F, 80) for block in (1, 2)] == [62, 37]
    assert default_round(5, 0x12345678, 8) == 7


@given(st.integers(0, 2**32), st.integers(0, 2**32 - 1), st.integers(1, 96))
def test_the_default_sequence_stays_in_the_block(block, key, rounds):
    assert 0 <= default_round(block, key, rounds) < rounds


def test_block_0_never_hops():
    assert Hopping(key=0xCC5DD79F, rounds=80, continuous=True).hopped(0) == 0


@given(st.integers(0, 2**16), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_two_rounds_at_a_distance_both_lie_in_the_block(block, key, offset):
    hopping = Hopping(key=key, rounds=41, mode=MacMode(offset=offset), continuous=True)
    first, second = hopping.both(hopping.hopped(block))
    assert second - first == offset
    assert second < 41


def test_a_distance_that_leaves_no_round_is_refused():
    with pytest.raises(LocalFault):
        Hopping(key=1, rounds=4, mode=MacMode(offset=4))


@given(st.integers(0, 63))
def test_a_mac_mode_comes_back_from_its_byte(offset):
    assert MacMode.parse(MacMode(offset=offset).to_bytes()) == MacMode(offset=offset)


@pytest.mark.parametrize("data", [b"", b"\x00\x00", b"\x40", b"\x01", b"\x81", b"\xc0"])
def test_a_mac_mode_that_contradicts_itself_is_malformed(data):
    with pytest.raises(WireError):
        MacMode.parse(data)


def test_continuous_and_adaptive_exclude_each_other():
    with pytest.raises(LocalFault):
        Hopping(key=1, rounds=4, adaptive=True, continuous=True)


ADAPTIVE = Hopping(key=0xCC5DD79F, rounds=80, adaptive=True)


def test_adaptive_hopping_stays_after_a_good_round_and_leaves_after_a_failed_one():
    assert ADAPTIVE.step(0, 0, good=1) == HopStep(hop=False, round=0)
    assert ADAPTIVE.step(0, 0, good=0) == HopStep(hop=True, round=62)
    assert ADAPTIVE.step(1, 62, good=3) == HopStep(hop=False, round=62)


def test_a_session_without_hopping_never_leaves_its_round():
    assert Hopping(key=1, rounds=80).step(4, 0, good=0) == HopStep(hop=False, round=0)


def test_a_missing_final_data_counts_as_a_hop():
    assert ADAPTIVE.follow(0, 0, None) == HopStep(hop=True, round=62)


@given(st.integers(0, 500), st.integers(0, 3), st.sampled_from(["continuous", "adaptive", "none"]))
def test_a_responder_follows_what_the_initiator_decides(block, good, kind):
    hopping = Hopping(
        key=0x12345678,
        rounds=80,
        continuous=kind == "continuous",
        adaptive=kind == "adaptive",
    )
    first = hopping.hopped(block)
    said = hopping.step(block, first, good=good)
    assert hopping.follow(block, first, said) == said


@pytest.mark.parametrize(
    ("hopping", "said"),
    [
        (ADAPTIVE, HopStep(hop=True, round=61)),
        (ADAPTIVE, HopStep(hop=False, round=62)),
        (Hopping(key=1, rounds=80), HopStep(hop=True, round=default_round(1, 1, 80))),
        (Hopping(key=1, rounds=80, continuous=True), HopStep(hop=False, round=0)),
    ],
)
def test_a_final_data_that_contradicts_the_sequence_is_malformed(hopping, said):
    with pytest.raises(WireError):
        hopping.follow(0, 0, said)
