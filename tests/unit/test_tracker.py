"""One ranged device from rounds to zones."""

from __future__ import annotations

import numpy as np
import pytest
from ranging_world import BLOCK_S, SALOON, SESSION, a_round, true_cm

from dkey.ranging.gate import TrustLevel
from dkey.ranging.kalman import KalmanFilter
from dkey.ranging.layout import Zone
from dkey.ranging.particles import ParticleFilter
from dkey.ranging.tracker import DeviceTracker

MAKERS = {
    "particles": lambda: ParticleFilter(SALOON, np.random.default_rng(1)),
    "Kalman": lambda: KalmanFilter(SALOON),
}


@pytest.fixture(params=MAKERS)
def tracker(request):
    return DeviceTracker(SALOON, SESSION, MAKERS[request.param]())


def test_a_walk_to_the_seat_passes_the_zones_in_order_and_is_trusted(tracker):
    seen, levels = [], []
    for number in range(1, 130):
        if number < 70:
            at = (0.3, max(8.0 - 0.12 * number, 1.5))
        else:
            at = (0.3, max(1.5 - 0.08 * (number - 70), 0.4))
        levels.append(tracker.update(a_round(number, at)).level)
        zone = tracker.zone(number * BLOCK_S).zone
        if zone is not None and seen[-1:] != [zone]:
            seen.append(zone)
    assert seen == [Zone.FAR, Zone.NEAR, Zone.DOOR_DRIVER, Zone.CABIN]
    assert set(levels[3:]) == {TrustLevel.TRUSTED}


def test_a_range_that_the_gate_drops_moves_no_position(tracker):
    at = (6.0, 5.0)
    for number in range(1, 20):
        tracker.update(a_round(number, at))
    before = tracker.estimate
    near = true_cm(at)
    near[0] -= 400
    for number in range(20, 30):
        tracker.update(a_round(number, at, distances_cm=near))
    after = tracker.estimate
    assert (after.x_m, after.y_m) == pytest.approx((before.x_m, before.y_m), abs=0.1)


def test_a_silent_device_is_neither_trusted_nor_anywhere(tracker):
    for number in range(1, 20):
        tracker.update(a_round(number, (0.2, 0.3)))
    now_s = 19 * BLOCK_S
    assert tracker.zone(now_s).zone is Zone.CABIN
    assert tracker.zone(now_s + 1.1).zone is None
    assert tracker.trust(now_s + 1.1).level is TrustLevel.DOUBTFUL
