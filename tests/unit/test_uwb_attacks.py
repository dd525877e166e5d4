"""Attacks on ranging, seen in what the anchors measure."""

import numpy as np
import pytest

from firmware_mock.uwb_attacks import (
    CHIP_S,
    EARLY_CHANCE,
    Advance,
    Attack,
    EarlyInjection,
    Jamming,
    MixDown,
    Relay,
    Replay,
)
from firmware_mock.uwb_channel import (
    LIGHT_M_S,
    OK,
    RX_TIMEOUT,
    STS_FAILED,
    Car,
    Channel,
    Clocks,
    Rounds,
    Where,
    simulate,
)

TRACKS = 4000


def attacked(attack: Attack | None, *, seed: int = 1) -> Rounds:
    rng = np.random.default_rng(seed)
    channel = Channel.CLEAN
    clocks = Clocks.draw(channel, TRACKS, 6, rng)
    where = Where(at_m=np.tile([[12.0, 0.0]], (TRACKS, 1)))
    tampering = attack and attack.tampering(TRACKS, 6, rng, slot_s=channel.slot_s)
    return simulate(channel, Car.SIX, where, clocks, rng, tampering=tampering)


def error_m(rounds: Rounds) -> np.ndarray:
    return rounds.distance_m - rounds.path_m


def test_a_relay_adds_its_way_and_never_shortens() -> None:
    error = error_m(attacked(Relay(path_m=30, delay_s=20e-9)))
    assert error.mean() == pytest.approx(36, abs=0.01)
    assert error.min() > 35


def test_advancing_all_frames_shortens_the_range_and_leaves_the_clocks_alone() -> None:
    advance = 8 / LIGHT_M_S
    rounds = attacked(Advance(poll_s=advance, response_s=advance, final_s=advance))
    assert error_m(rounds).mean() == pytest.approx(-8, abs=0.01)
    change = rounds.clock_ratio_ppb - attacked(None).clock_ratio_ppb
    assert np.abs(change).max() < 100


def test_advancing_final_alone_shows_in_the_clock_ratio() -> None:
    rounds = attacked(Advance(final_s=33e-9))
    change = rounds.clock_ratio_ppb - attacked(None).clock_ratio_ppb
    assert change.min() > 1000


def test_only_the_anchors_in_reach_are_fooled() -> None:
    error = error_m(attacked(Advance(response_s=33e-9, anchors=frozenset({2}))))
    assert error.mean(axis=0) == pytest.approx([0, 0, -16.5e-9 * LIGHT_M_S, 0, 0, 0], abs=0.01)


@pytest.mark.parametrize("receiver", EARLY_CHANCE)
@pytest.mark.parametrize("power_db", [10, 18, 24])
def test_early_injection_succeeds_as_often_as_the_receiver_lets_it(receiver, power_db) -> None:
    attack = EarlyInjection(power_db=power_db, receiver=receiver)
    early = (error_m(attacked(attack)) < -1).mean()
    chance = EARLY_CHANCE[receiver][power_db]
    assert early == pytest.approx(chance, abs=4 * (chance * (1 - chance) / (TRACKS * 6)) ** 0.5)


def test_early_injection_moves_by_chips_within_the_back_search() -> None:
    attack = EarlyInjection(power_db=30, receiver="first path > 25 %")
    tampering = attack.tampering(TRACKS, 6, np.random.default_rng(1), slot_s=2e-3)
    chips = -tampering.response_s / CHIP_S
    hit = chips[chips > 0]
    assert (hit.min(), hit.max()) == (pytest.approx(4), pytest.approx(64))
    assert tampering.poll_s == tampering.final_s == 0


def test_a_chance_between_measured_powers_lies_between() -> None:
    at = [EarlyInjection(power_db=power).frame_chance for power in (14, 16, 18, 40)]
    assert at[0] < at[1] < at[2]
    assert at[3] == 0.998


@pytest.mark.parametrize("attack", [Replay(), Replay(index_back=0, other_ursk=True)])
def test_a_replay_fails_the_sts_check(attack) -> None:
    assert (attacked(attack).status == STS_FAILED).all()


def test_mix_down_shortens_ranges_and_shows_in_the_clock_ratio() -> None:
    clean, bent = attacked(None), attacked(MixDown(skew_ppm=10))
    assert (bent.clock_ratio_ppb - clean.clock_ratio_ppb).mean() == pytest.approx(1e4, rel=0.01)
    hidden = attacked(MixDown(skew_ppm=10, response_only=True))
    assert np.abs(hidden.clock_ratio_ppb - clean.clock_ratio_ppb).max() < 100
    assert error_m(hidden).mean(axis=0)[5] == pytest.approx(-5e-6 * 12e-3 * LIGHT_M_S, rel=0.01)


@pytest.mark.parametrize("whole_rounds", [False, True])
def test_jamming_loses_its_share_and_changes_no_range(whole_rounds) -> None:
    rounds = attacked(Jamming(share=0.4, whole_rounds=whole_rounds))
    lost = rounds.status == RX_TIMEOUT
    assert lost.mean() == pytest.approx(0.4, abs=0.03)
    assert (lost.all(axis=1) | ~lost.any(axis=1)).all() == whole_rounds
    assert np.nanmax(np.abs(error_m(rounds))) < 0.15
    assert (rounds.status[~lost] == OK).all()
