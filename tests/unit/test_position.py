"""Position estimators: exact ranges, one-sided errors, recovery, and what never happens."""

from __future__ import annotations

from math import hypot, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranging_world import SALOON, ranges, true_cm

from dkey.ranging.kalman import KalmanFilter
from dkey.ranging.layouts import SHIPPED, shipped_layout
from dkey.ranging.particles import ParticleFilter
from dkey.ranging.range_model import RangeModel

MODELS = {name: RangeModel(shipped_layout(name)) for name in SHIPPED}
DT_S = 0.1


def particles(seed=1, layout=SALOON):
    return ParticleFilter(layout, np.random.default_rng(seed), model=MODELS[layout.name])


MAKERS = {"particles": particles, "Kalman": lambda: KalmanFilter(SALOON)}


@pytest.fixture(params=MAKERS)
def estimator(request):
    return MAKERS[request.param]()


def off(found, at):
    return hypot(found.x_m - at[0], found.y_m - at[1])


def stand(estimator, at, rounds=15, distances_cm=None):
    for _ in range(rounds):
        found = estimator.update(ranges(distances_cm or true_cm(at)), DT_S)
    return found


@pytest.mark.parametrize("at", [(6.0, 4.0), (0.3, 1.35), (0.2, 0.4), (-5.0, -3.0), (-1.0, -3.0)])
def test_exact_ranges_give_the_position(estimator, at):
    assert off(stand(estimator, at), at) < 0.1


def test_inside_is_likely_in_the_cabin_and_unlikely_at_the_door(estimator):
    assert stand(estimator, (0.2, 0.4)).inside > 0.99
    for _ in range(3):
        left = stand(estimator, (0.3, 1.35))
    assert left.inside < 0.01


def test_one_long_range_hardly_moves_the_position(estimator):
    at = (3.0, 3.0)
    stand(estimator, at)
    late = true_cm(at)
    late[3] += 300
    assert off(stand(estimator, at, 5, late), at) < 0.15


def test_before_three_anchors_measured_at_once_there_is_no_position(estimator):
    few = ranges(true_cm((3.0, 3.0)))[:2]
    assert estimator.update(few, DT_S) is None
    assert estimator.update((), DT_S) is None
    assert estimator.update(ranges(true_cm((3.0, 3.0))), DT_S) is not None


def test_a_device_that_is_suddenly_elsewhere_is_found_again(estimator):
    stand(estimator, (6.0, 5.0))
    assert off(stand(estimator, (-4.0, -4.0), 25), (-4.0, -4.0)) < 0.2


def test_a_walk_is_followed_with_its_velocity(estimator):
    for step in range(60):
        at = (8.0 - 1.3 * DT_S * step, 2.0)
        found = estimator.update(ranges(true_cm(at)), DT_S)
    assert off(found, at) < 0.15
    assert found.vx_m_s == pytest.approx(-1.3, abs=0.4)
    assert found.speed_m_s == pytest.approx(1.3, abs=0.4)


def test_failed_and_missing_ranges_are_left_out(estimator):
    at = (3.0, 3.0)
    bad = {"a0": {"status": 0x24, "distance_cm": 10.0}, "a1": {"distance_cm": None}}
    for _ in range(15):
        found = estimator.update(ranges(true_cm(at), a2={"distance_cm": nan}, **bad), DT_S)
    assert off(found, at) < 0.15
    assert found.residuals_m[:3] == (None, None, None)


def test_a_range_that_is_too_short_shows_as_early(estimator):
    at = (5.0, 3.0)
    stand(estimator, at)
    short = true_cm(at)
    short[1] -= 200
    found = estimator.update(ranges(short), DT_S)
    assert found.early_m > 1.0
    assert stand(MAKERS["Kalman"](), at).early_m < 0.1


def test_the_same_seed_and_rounds_give_the_same_estimates():
    one, other = particles(5), particles(5)
    for step in range(10):
        measured = ranges(true_cm((5.0 - 0.1 * step, 2.0)))
        assert one.update(measured, DT_S) == other.update(measured, DT_S)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_map_blocks_body_anchors_for_the_cabin_and_the_far_side_for_the_driver(name):
    layout = shipped_layout(name)
    blocked = MODELS[name]._blocked(np.array([[0.0, 0.0, 0.0], [0.0, 3.0, -3.0]]))
    for at, anchor in enumerate(layout.anchors):
        assert blocked[at, 0] == (anchor.mount == "BODY")
        if anchor.mount == "BODY":
            assert blocked[at, 1] == (anchor.y_m < 0)
            assert blocked[at, 2] == (anchor.y_m > 0)


ANY_CM = st.one_of(st.none(), st.floats(-500, 20_000), st.sampled_from([nan, 1e30]))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(MAKERS)),
    st.lists(st.tuples(st.lists(ANY_CM, min_size=6, max_size=6), st.floats(-1, 100)), max_size=8),
)
def test_whatever_is_measured_an_estimate_is_finite_and_inside_is_a_probability(kind, rounds):
    estimator = MAKERS[kind]()
    for distances_cm, dt_s in rounds:
        found = estimator.update(ranges(distances_cm), dt_s)
        if found is None:
            continue
        assert np.isfinite([found.x_m, found.y_m, found.vx_m_s, found.vy_m_s, found.sd_m]).all()
        assert 0 <= found.inside <= 1
        assert found.early_m >= 0


@settings(max_examples=25, deadline=None)
@given(st.floats(-7, 7), st.floats(-7, 7), st.integers(0, 100))
def test_with_exact_ranges_the_particles_find_any_place(x, y, seed):
    assert off(stand(particles(seed), (x, y)), (x, y)) < 0.3
