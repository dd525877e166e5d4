"""Paths around the car."""

import numpy as np
import pytest

from firmware_mock.uwb_channel import Car
from firmware_mock.uwb_paths import PATHS, Path, Variation, Waypoint, walks

SAME = Variation(speed=0, dwell=0, start_rad=0)


def walk(name: str, *, person: int = 0, seed: int = 1, tracks: int = 50, **how):
    return walks(PATHS[name][person], tracks, np.random.default_rng(seed), **how)


def ends_inside(name: str) -> float:
    there = walk(name)
    return Car.SIX.inside(there.at_m[-1]).mean()


@pytest.mark.parametrize("name", ["sit-in", "back-pocket", "two-phones"])
def test_who_sits_in_ends_inside(name: str) -> None:
    assert ends_inside(name) == 1


@pytest.mark.parametrize("name", ["approach", "pass-by", "leave"])
def test_who_does_not_sit_in_ends_outside(name: str) -> None:
    assert ends_inside(name) == 0


def test_who_leaves_begins_inside() -> None:
    assert Car.SIX.inside(walk("leave").at_m[0]).all()


def test_who_passes_by_never_comes_near_the_door() -> None:
    there = walk("pass-by")
    assert np.hypot(*(there.at_m - [0.3, 0.95]).reshape(-1, 2).T).min() > 1.2


def test_the_second_phone_stays_outside() -> None:
    there = walk("two-phones", person=1)
    assert not Car.SIX.inside(there.at_m.reshape(-1, 2)).any()


def test_nobody_runs() -> None:
    there = walk("sit-in", block_s=0.096)
    steps = np.hypot(*np.diff(there.at_m, axis=0).reshape(-1, 2).T)
    assert steps.max() < 2 * 1.3 * 0.096 + 1e-9


def test_a_waypoint_is_reached_at_its_speed_and_kept_for_its_dwell() -> None:
    path = Path(
        points=(
            Waypoint(at_m=(0, 4), spread_m=0, dwell_s=1),
            Waypoint(at_m=(0, 0), spread_m=0, speed_m_s=2, dwell_s=1),
        )
    )
    there = walks(path, 1, np.random.default_rng(0), block_s=1.0, variation=SAME)
    assert there.at_m[:, 0, 1] == pytest.approx([4, 4, 2, 0, 0])


def test_a_phone_in_the_back_pocket_has_its_carrier_in_front() -> None:
    there = walk("back-pocket")
    towards = np.einsum("ti,ti->t", there.carrier[10], -there.at_m[10])
    assert (towards > 0).all()
    assert np.hypot(*there.carrier[10].T) == pytest.approx(1)


def test_a_phone_in_the_hand_has_a_free_view() -> None:
    assert not walk("sit-in").carrier.any()


def test_each_person_walks_differently_and_each_seed_repeats() -> None:
    first, again, other = (walk("approach", seed=seed, blocks=60) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.at_m, again.at_m)
    assert not np.allclose(first.at_m, other.at_m)
    assert first.at_m[0].std(axis=0).min() > 0.5
