"""Two virtual radios that must agree on everything, and what shows when they do not."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dkey.crypto.secret import Secret
from dkey.ranging.hopping import MacMode
from firmware_mock.uwb_air import Station
from firmware_mock.uwb_attacks import Advance, Jamming, Relay, Replay
from firmware_mock.uwb_channel import OK, RX_TIMEOUT, STS_FAILED, Car, Channel
from firmware_mock.uwb_paths import PATHS, walks
from firmware_mock.uwb_session import ResponderSession
from uwb_world import CONFIGURATION, PARAMETERS, World, changed

LATE = replace(PARAMETERS, ursk=Secret(bytes(range(1, 33))))
MAC_DECODE = 0x25
HOPPING = {"continuous": True}
MISMATCHES = {
    "ursk": LATE,
    "protocol_version": changed(protocol_version=0x0101),
    "config_id": changed(config_id=1),
    "session_id": changed(session_id=0x01020305),
    "sts_index0": changed(sts_index0=1001),
    "responders": changed(responders=7),
    "ran_multiplier": changed(ran_multiplier=2),
    "slots_per_round": changed(slots_per_round=16),
    "chaps_per_slot": changed(chaps_per_slot=6),
    "pulse_shape": changed(pulse_shape=0x11),
    "time0_ns": changed(time0_ns=PARAMETERS.time0_ns - 96_000_000),
}


def true_m(at_m: tuple[float, float], anchor: int) -> float:
    return math.dist((*at_m, Car.SIX.phone_z_m), Car.SIX.anchors_m[anchor])


def test_ends_that_agree_range_in_every_block() -> None:
    world = World().run()
    assert world.statuses() == [{OK}] * 10
    assert [entry.block for entry in world.rounds] == [*range(10)]
    assert {each.responders for each in world.sent} == {0b111111}


def test_the_vehicle_measures_the_true_distance() -> None:
    for each in World().run().rounds[5].ranges:
        assert each.distance_cm == pytest.approx(100 * true_m((4.0, 3.0), each.anchor), abs=10)


@pytest.mark.parametrize("chaps", [3, 4, 6, 8, 9, 12, 24])
@pytest.mark.parametrize("responders", [2, 6, 7])
def test_every_slot_length_and_number_of_responders_measures_the_truth(chaps, responders) -> None:
    told = changed(
        chaps_per_slot=chaps, responders=responders, slots_per_round=12, ran_multiplier=2
    )
    world = World(told).run()
    assert len(world.rounds[0].ranges) == min(responders, 6)
    for each in world.rounds[0].ranges:
        assert each.distance_cm == pytest.approx(100 * true_m((4.0, 3.0), each.anchor), abs=12)


def test_both_ends_name_the_same_index_and_it_always_rises() -> None:
    world = World(changed(**HOPPING)).run()
    indices = [entry.sts_index for entry in world.rounds]
    assert indices == [each.sts_index for each in world.sent]
    assert indices == sorted(set(indices))


def test_every_parameter_of_the_configuration_is_in_the_list_of_mismatches() -> None:
    assert set(CONFIGURATION.__slots__) < set(MISMATCHES)


@pytest.mark.parametrize("wrong", ["phone", "vehicle"])
@pytest.mark.parametrize("field", MISMATCHES)
def test_a_mismatch_shows_as_a_failed_sts_and_never_as_a_distance(field: str, wrong: str) -> None:
    pair = [MISMATCHES[field], PARAMETERS]
    world = World(*(pair if wrong == "phone" else pair[::-1])).run()
    assert {STS_FAILED} in world.statuses()
    assert set().union(*world.statuses()) <= {STS_FAILED, RX_TIMEOUT}
    assert all(each.responders == 0 for each in world.sent)


@pytest.mark.parametrize("field", ["session_id", "pulse_shape", "ran_multiplier"])
def test_a_vehicle_that_does_not_check_the_sts_would_not_notice(field: str, monkeypatch) -> None:
    monkeypatch.setattr(ResponderSession, "_is_mine", lambda *_: True)
    world = World(MISMATCHES[field], PARAMETERS).run()
    assert STS_FAILED not in set().union(*world.statuses())


@pytest.mark.parametrize("field", [{"hop_key": 5}, {"continuous": False}])
def test_a_mismatch_in_hopping_fails_from_the_block_where_the_rounds_differ(field: dict) -> None:
    agreed = changed(**HOPPING)
    world = World(agreed, changed(agreed, **field)).run()
    first, *rest = world.statuses()
    assert first == {MAC_DECODE}  # Final_Data names a round that the sequence does not have
    assert rest == [{STS_FAILED}] * 8  # the last block is not over


def test_an_adaptive_vehicle_follows_a_phone_that_always_hops() -> None:
    agreed = changed(**HOPPING)
    world = World(agreed, changed(agreed, continuous=False, adaptive=True)).run()
    assert world.statuses() == [{OK}] * 10


def test_a_second_round_that_the_vehicle_does_not_expect_is_not_told() -> None:
    world = World(changed(mode=MacMode(offset=3)), PARAMETERS).run()
    assert {each for found in world.statuses() for each in found} == {OK}


def test_a_second_round_that_the_phone_does_not_send_is_missed() -> None:
    world = World(PARAMETERS, changed(mode=MacMode(offset=3))).run()
    assert world.statuses()[:4] == [{OK}, {RX_TIMEOUT}] * 2


@pytest.mark.parametrize("field", [{"channel": 5}, {"sync_code": 12}])
def test_on_another_channel_or_code_nothing_is_heard(field: dict) -> None:
    world = World(changed(**field), PARAMETERS).run()
    assert set().union(*world.statuses()) == {RX_TIMEOUT}


def test_frames_of_another_profile_give_no_distance() -> None:
    world = World(changed(oui=0x4A191B), PARAMETERS).run()
    assert set().union(*world.statuses()) == {MAC_DECODE}
    assert all(each.distance_cm is None for each in world.rounds[0].ranges)


@pytest.mark.parametrize("hops", [{}, {"continuous": True}, {"adaptive": True}])
@pytest.mark.parametrize("mode", [MacMode(), MacMode(offset=2)])
def test_agreed_hopping_survives_a_hard_channel(hops: dict, mode: MacMode) -> None:
    world = World(changed(**hops, mode=mode), channel=Channel.GARAGE).run(20)
    good = [OK in statuses for statuses in world.statuses()]
    assert np.mean(good) > 0.9
    assert STS_FAILED not in set().union(*world.statuses()) or hops == {"adaptive": True}


def test_an_adaptive_session_finds_itself_again_after_jamming() -> None:
    world = World(changed(adaptive=True))
    world.run(0.5).air.attacks.append(Jamming(share=1.0))
    world.run(0.5).air.attacks.clear()
    assert world.run(1.0).statuses()[-5:] == [{OK}] * 5


def test_a_replayed_round_fails_the_sts_check() -> None:
    world = World().run(0.3)
    world.air.attacks.append(Replay())
    before = len(world.rounds)
    assert set().union(*world.run(0.5).statuses()[before:]) == {STS_FAILED}


def test_a_relay_lengthens_what_the_vehicle_measures() -> None:
    world = World()
    world.air.attacks.append(Relay(path_m=20, delay_s=0))
    first = world.run().rounds[0].ranges[0]
    assert first.distance_cm == pytest.approx(100 * true_m((4.0, 3.0), 0) + 2000, abs=10)


def test_an_advance_reaches_the_reported_clock_ratio() -> None:
    world = World().run(0.5)
    world.air.attacks.append(Advance(final_s=33e-9))
    world.run(0.5)
    before, after = (world.rounds[n].ranges[0].clock_ratio_ppb for n in (2, -2))
    assert after - before > 3000


def test_two_phones_in_rounds_of_their_own_both_range() -> None:
    world = World()
    other = changed(LATE, session_id=9, time0_ns=PARAMETERS.time0_ns + 24_000_000)
    rounds: list = []
    world.respond(other, rounds)
    world.initiate(other, Station(at_m=(-5.0, 1.0)), [])
    world.run()
    assert world.statuses() == [{OK}] * 10
    assert {each.status for entry in rounds for each in entry.ranges} == {OK}
    nearest = min(rounds[0].ranges, key=lambda each: each.distance_cm)
    assert nearest.anchor in (2, 3)


def test_two_phones_in_the_same_round_do_not_hear_each_other() -> None:
    world = World()
    other = changed(LATE, session_id=9, time0_ns=PARAMETERS.time0_ns + 2_000_000)
    world.initiate(other, Station(), [])
    assert set().union(*world.run().statuses()) == {RX_TIMEOUT}


def test_a_strange_phone_does_not_disturb_a_session_in_another_round() -> None:
    world = World()
    other = changed(LATE, time0_ns=PARAMETERS.time0_ns + 24_000_000)
    world.initiate(other, Station(), [])
    assert world.run().statuses() == [{OK}] * 10


def test_a_session_ends_when_its_index_is_used_up() -> None:
    world = World(changed(sts_index0=2**31 - 400)).run(2)
    assert sorted(world.faults) == ["phone", "vehicle"]
    assert all(entry.sts_index < 2**31 - 1 for entry in world.rounds)


def test_a_session_that_stopped_says_nothing_more() -> None:
    world = World().run(0.5)
    world.phone.stop()
    world.vehicle.stop()
    before = len(world.rounds), len(world.sent)
    world.run()
    assert (len(world.rounds), len(world.sent)) == before


def test_a_walk_is_followed() -> None:
    world = World()
    walk = walks(PATHS["approach"][0], 3, np.random.default_rng(1))
    world.station.walk, world.station.track = walk, 2
    world.run(8)
    start, end = (world.rounds[n].ranges[0].distance_cm for n in (0, -1))
    assert start > 700
    assert end < 300


def test_the_same_seed_gives_the_same_measurements() -> None:
    first, again, other = (
        World(channel=Channel.GARAGE, seed=seed).run().rounds for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_secrets_do_not_show_in_what_describes_a_session() -> None:
    assert bytes(range(32)).hex() not in repr(PARAMETERS)
