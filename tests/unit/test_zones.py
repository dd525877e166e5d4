"""Zones: thresholds to enter and to leave, dwell, staleness."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ranging_world import SALOON

from dkey.ranging.layout import Zone
from dkey.ranging.position import Estimate
from dkey.ranging.zones import ZoneTracker, outline_distance_m


def estimate(x, y, *, inside=0.0, sd=0.05, early=0.0):
    return Estimate(
        x_m=x,
        y_m=y,
        vx_m_s=0.0,
        vy_m_s=0.0,
        covariance_m2=(sd * sd / 2, 0.0, sd * sd / 2),
        inside=inside,
        residuals_m=(-early, None, 0.2),
    )


def tracked(*steps, dt_s=0.1, start_s=0.0):
    """Feed (estimate, times) pairs; return the tracker, the states and the time."""
    tracker, states, now_s = ZoneTracker(SALOON), [], start_s
    for found, times in steps:
        for _ in range(times):
            now_s += dt_s
            states.append(tracker.update(found, now_s))
    return tracker, states, now_s


FAR, NEAR = estimate(9.0, 3.0), estimate(-2.0, 2.5)
DRIVER, CABIN = estimate(0.3, 1.6), estimate(0.2, 0.4, inside=0.99)


def zone_after(*steps):
    return tracked(*steps)[1][-1].zone


def test_before_any_measurement_the_zone_is_unknown():
    assert ZoneTracker(SALOON).state(5.0).zone is None
    assert ZoneTracker(SALOON).update(None, 5.0).zone is None


@pytest.mark.parametrize(
    ("found", "zone"),
    [
        (FAR, Zone.FAR),
        (NEAR, Zone.NEAR),
        (DRIVER, Zone.DOOR_DRIVER),
        (estimate(0.3, -1.6), Zone.DOOR_PASSENGER),
        (estimate(-3.0, 0.2), Zone.TRUNK),
        (CABIN, Zone.CABIN),
    ],
)
def test_a_place_seen_for_long_is_its_zone(found, zone):
    assert zone_after((found, 15)) is zone


def test_the_cabin_counts_at_once_and_a_door_at_the_second_sight():
    assert zone_after((FAR, 15), (CABIN, 1)) is Zone.CABIN
    assert zone_after((FAR, 15), (DRIVER, 1)) is Zone.FAR
    assert zone_after((FAR, 15), (DRIVER, 2)) is Zone.DOOR_DRIVER


def test_a_single_odd_position_between_is_forgotten():
    assert zone_after((FAR, 15), (DRIVER, 1), (FAR, 1), (DRIVER, 1)) is Zone.FAR


def test_the_cabin_is_left_below_a_lower_mass_than_it_is_entered_at():
    doubtful = estimate(0.2, 0.8, inside=0.5)
    assert zone_after((CABIN, 3), (doubtful, 5)) is Zone.CABIN
    assert zone_after((DRIVER, 3), (doubtful, 5)) is Zone.DOOR_DRIVER


def test_a_door_zone_is_left_further_out_than_it_is_entered():
    between = estimate(0.3, 0.95 + 1.6)
    assert zone_after((DRIVER, 3), (between, 5)) is Zone.DOOR_DRIVER
    assert zone_after((NEAR, 3), (between, 5)) is Zone.NEAR


def test_near_is_left_further_out_than_it_is_entered():
    between = estimate(0.3, 0.95 + 2.2)
    assert zone_after((NEAR, 3), (between, 15)) is Zone.NEAR
    assert zone_after((FAR, 15), (between, 15)) is Zone.FAR


def test_far_takes_a_second():
    assert zone_after((NEAR, 3), (FAR, 10)) is Zone.NEAR
    assert zone_after((NEAR, 3), (FAR, 12)) is Zone.FAR


def test_an_unsure_position_enters_no_door():
    assert zone_after((NEAR, 3), (estimate(0.3, 1.6, sd=0.5), 5)) is Zone.NEAR


@pytest.mark.parametrize("inside", [0.0, 1.0])
def test_a_contradicted_position_enters_nothing(inside):
    contradicted = estimate(0.3, 1.0, inside=inside, early=0.4)
    assert zone_after((FAR, 15), (contradicted, 9)) is Zone.FAR


def test_an_old_zone_is_unknown_but_remembered():
    tracker, _, now_s = tracked((CABIN, 3))
    assert tracker.state(now_s + 1.0).zone is Zone.CABIN
    stale = tracker.state(now_s + 1.1)
    assert (stale.zone, stale.last, stale.measured_s) == (None, Zone.CABIN, now_s)
    assert tracker.state(now_s - 1.0).zone is None, "the clock went back"


def test_since_is_when_the_zone_was_entered():
    _, states, _ = tracked((FAR, 15), (CABIN, 5))
    assert {each.since_s for each in states[-5:]} == {states[-5].measured_s}


def test_the_distance_to_the_outline_is_zero_within():
    assert outline_distance_m(SALOON.outline, 0.0, 0.0) == 0.0
    assert outline_distance_m(SALOON.outline, 3.3, 0.0) == pytest.approx(1.0)
    assert outline_distance_m(SALOON.outline, 5.3, 4.95) == pytest.approx(5.0)


def test_a_place_for_which_all_ranges_are_far_too_long_is_none():
    zones = ZoneTracker(SALOON)
    here = estimate(0.3, 0.3, inside=1.0)
    assert zones.update(here, 1.0).zone is Zone.CABIN
    lost = replace(here, residuals_m=(8.0, 9.0, 3.5, None))
    assert zones.update(lost, 1.1).zone is None
    assert zones.update(here, 1.2).zone is Zone.CABIN


def test_one_range_that_fits_keeps_the_place():
    zones = ZoneTracker(SALOON)
    here = estimate(0.3, 0.3, inside=1.0)
    zones.update(here, 1.0)
    blocked = replace(here, residuals_m=(8.0, 9.0, 0.1, None))
    assert zones.update(blocked, 1.1).zone is Zone.CABIN
