"""The event-level UWB channel: what it measures, and how it is disturbed."""

import numpy as np
import pytest

from dkey.ranging.layouts import SHIPPED, shipped_layout
from firmware_mock.uwb_channel import (
    NEGATIVE_DISTANCE,
    OK,
    RX_TIMEOUT,
    STS_FAILED,
    Car,
    Channel,
    Clocks,
    Rounds,
    Tampering,
    Where,
    rounds_per_second,
    simulate,
)
from firmware_mock.uwb_paths import PATHS, walks

TRACKS = 20_000


def positions(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-10, 10, (TRACKS, 2))


def run(channel: Channel, where: Where, *, seed: int = 1, tampering=None) -> Rounds:
    rng = np.random.default_rng(seed)
    clocks = Clocks.draw(channel, len(where.at_m), 6, rng)
    return simulate(channel, Car.SIX, where, clocks, rng, tampering=tampering)


def error_m(rounds: Rounds) -> np.ndarray:
    return rounds.distance_m - rounds.path_m


def test_a_clean_channel_has_the_published_error() -> None:
    error = error_m(run(Channel.CLEAN, Where(at_m=positions())))
    assert 0.0185 < error.std() < 0.0195
    assert np.abs(error).max() < 0.10
    assert abs(error.mean()) < 0.0005


def test_obstacles_only_lengthen() -> None:
    error = error_m(run(Channel.PROTOTYPE, Where(at_m=positions())))
    error = error[~np.isnan(error)]
    assert error.min() > -0.10
    assert np.percentile(error, 95) > 0.5


def test_the_prototype_loses_a_quarter_of_blocked_exchanges() -> None:
    rounds = run(Channel.PROTOTYPE, Where(at_m=np.tile([[0.2, 0.4]], (TRACKS, 1))))
    lost = (rounds.status == RX_TIMEOUT).mean(axis=0)
    assert lost[:4] == pytest.approx([0.25] * 4, abs=0.02)
    assert lost[4:] == pytest.approx([0.03] * 2, abs=0.01)
    assert np.isnan(rounds.distance_m[rounds.status == RX_TIMEOUT]).all()


def test_each_preset_is_harder_than_the_one_before() -> None:
    where = Where(at_m=positions(), carrier=np.tile([[1.0, 0.0]], (TRACKS, 1)))
    presets = (Channel.CLEAN, Channel.PROTOTYPE, Channel.POCKET, Channel.GARAGE)
    lost = [(run(channel, where).status == RX_TIMEOUT).mean() for channel in presets]
    assert lost == sorted(lost)
    assert lost[0] == 0


def test_a_phone_in_the_pocket_ranges_long_and_quiet_through_its_carrier() -> None:
    channel = Channel(body_share=0, probes=(), loss=0, loss_pocket=0)
    at = np.tile([[6.0, 0.0]], (TRACKS, 1))
    free = run(channel, Where(at_m=at))
    carried = run(channel, Where(at_m=at, carrier=np.tile([[-1.0, 0.0]], (TRACKS, 1))))
    assert error_m(carried).mean() == pytest.approx(0.82, abs=0.02)
    assert (free.rssi_dbm - carried.rssi_dbm).mean() == pytest.approx(10)


def test_the_clock_ratio_is_that_of_the_clocks() -> None:
    rng = np.random.default_rng(4)
    clocks = Clocks.draw(Channel.CLEAN, TRACKS, 6, rng)
    rounds = simulate(Channel.CLEAN, Car.SIX, Where(at_m=positions()), clocks, rng)
    expected = (clocks.phone_ppm - clocks.anchor_ppm) * 1e3
    assert np.abs(rounds.clock_ratio_ppb - expected).max() < 100


def test_clocks_drift_apart_slowly() -> None:
    rng = np.random.default_rng(4)
    clocks = Clocks.draw(Channel.PROTOTYPE, 1000, 6, rng)
    later = clocks.later(Channel.PROTOTYPE, 1.0, rng)
    assert (later.phone_ppm - clocks.phone_ppm).std() == pytest.approx(0.005, rel=0.1)


@pytest.mark.parametrize(
    ("tampering", "expected_m"),
    [
        (Tampering(poll_s=10e-9, response_s=10e-9, final_s=10e-9), 10e-9 * 299792458),
        (Tampering(response_s=-10e-9), -5e-9 * 299792458),
    ],
)
def test_a_shifted_frame_moves_the_range_by_its_share(tampering, expected_m) -> None:
    where = Where(at_m=positions())
    moved = run(Channel.CLEAN, where, tampering=tampering)
    assert np.nanmean(error_m(moved)) == pytest.approx(expected_m, abs=0.002)


def test_poll_and_final_share_the_other_half() -> None:
    where = Where(at_m=positions())
    poll = run(Channel.CLEAN, where, tampering=Tampering(poll_s=-10e-9))
    final = run(Channel.CLEAN, where, tampering=Tampering(final_s=-10e-9))
    share = error_m(poll).mean(axis=0) + error_m(final).mean(axis=0)
    assert share == pytest.approx([-5e-9 * 299792458] * 6, abs=0.002)
    assert np.abs(poll.clock_ratio_ppb - final.clock_ratio_ppb).min() > 1000


def test_a_negative_distance_is_told_and_not_clamped() -> None:
    where = Where(at_m=np.tile([[0.2, 0.4]], (10, 1)))
    rounds = run(Channel.CLEAN, where, tampering=Tampering(response_s=-100e-9))
    assert (rounds.status == NEGATIVE_DISTANCE).all()
    assert rounds.ranges(0)[0].distance_cm < -1000


def test_a_wrong_sts_gives_a_status_and_no_distance() -> None:
    wrong = np.zeros((TRACKS, 6), bool)
    wrong[:, 2] = True
    rounds = run(Channel.CLEAN, Where(at_m=positions()), tampering=Tampering(sts_failed=wrong))
    assert (rounds.status[:, 2] == STS_FAILED).all()
    assert (np.delete(rounds.status, 2, axis=1) == OK).all()
    entry = rounds.ranges(TRACKS - 1)[2]
    assert (entry.distance_cm, entry.clock_ratio_ppb, entry.rssi_dbm) == (None, None, None)


def test_tampering_adds_up() -> None:
    lost = np.zeros((TRACKS, 6), bool)
    lost[:, 0] = True
    both = Tampering(poll_s=1e-9, lost=lost) + Tampering(poll_s=2e-9, final_s=1e-9)
    assert (both.poll_s, both.final_s) == (pytest.approx(3e-9), 1e-9)
    rounds = run(Channel.CLEAN, Where(at_m=positions()), tampering=both)
    assert (rounds.status[:, 0] == RX_TIMEOUT).all()


def test_the_same_seed_gives_the_same_rounds() -> None:
    where = Where(at_m=positions())
    first, again, other = (run(Channel.GARAGE, where, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.distance_m, again.distance_m)
    assert not np.array_equal(first.distance_m, other.distance_m, equal_nan=True)


def test_a_round_reads_as_the_vehicle_takes_it() -> None:
    rounds = run(Channel.PROTOTYPE, Where(at_m=positions()))
    entry = rounds.round(5, block=7, at_s=1.5, sts_index=99, session_id=3)
    assert (entry.block, entry.at_s, entry.sts_index, entry.session_id) == (7, 1.5, 99, 3)
    assert [each.anchor for each in entry.ranges] == [*range(6)]
    assert all((each.distance_cm is None) == (each.status == RX_TIMEOUT) for each in entry.ranges)


def test_the_speed_can_be_measured() -> None:
    assert rounds_per_second(1) > 0


def test_the_saloon_is_the_car_of_the_published_figures() -> None:
    assert Car.of(shipped_layout("saloon")) == Car.SIX


@pytest.mark.parametrize("name", SHIPPED)
def test_each_shipped_layout_makes_a_car(name: str) -> None:
    layout = shipped_layout(name)
    car = Car.of(layout)
    assert len(car.anchors_m) == len(car.cabin) == len(layout.anchors)
    assert car.inside(np.array([[0.0, 0.0], [0.0, 1.2], [3.5, 0.0]])).tolist() == [
        True,
        False,
        False,
    ]


def test_the_prototype_preset_has_the_published_range_errors() -> None:
    rng = np.random.default_rng(7)
    walk = walks(PATHS["sit-in"][0], 400, rng, blocks=70)
    clocks = Clocks.draw(Channel.PROTOTYPE, 400, 6, rng)
    errors = np.concatenate(
        [
            error_m(simulate(Channel.PROTOTYPE, Car.SIX, walk.where(block), clocks, rng)).ravel()
            for block in range(70)
        ]
    )
    assert np.nanmedian(errors) == pytest.approx(0.026, abs=0.004)
    assert np.nanpercentile(errors, 95) == pytest.approx(1.00, abs=0.05)
