"""The UWB table of ``bench/attacks.py``: intervals, and that an attack that works is counted."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dkey.ranging.gate import GateSettings
from dkey.ranging.position import Estimate
from firmware_mock.uwb_receiver import NO_FIX, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import _uwb
import _uwb_scene as scene


def heard(chips):
    """What a receiver that always takes attacked frames ``chips`` from the truth hears."""
    right, wrong = Result(first=np.zeros(4, np.int64)), Result(first=np.full(4, chips, np.int64))
    return scene.Heard(
        free={"r": right},
        blocked={"r": right},
        attacked={power: {"r": wrong} for power in scene.POWERS_DB},
    )


@pytest.mark.parametrize(
    ("hits", "tries", "low", "high"),
    [(0, 100_000, 0, 3.689e-5), (0, 10, 0, 0.3085), (10, 10, 0.6915, 1), (5, 10, 0.2366, 0.7634)],
)
def test_intervals_are_those_of_the_tables(hits, tries, low, high):
    found = _uwb.interval(hits, tries)
    assert found == pytest.approx((low, high), rel=2e-3)
    assert found[0] <= hits / tries <= found[1]


def test_nothing_opens_from_afar_when_every_attacked_frame_comes_early():
    found = scene.attack(heard(-18), "r", GateSettings(), 72, 1)
    assert (found.opened, found.decisions) == (0, 72)
    assert found.forged
    assert found.suspicious


def test_a_vehicle_that_believes_the_nearest_range_is_seen_to_open(monkeypatch):
    class Believer:
        def __init__(self, layout, chance, *, model):
            self.anchors = len(layout.anchors)

        def update(self, ranges, dt_s):
            near = min((each.distance_cm for each in ranges if each.distance_cm), default=1e4)
            return Estimate(
                x_m=0.3, y_m=0.95 + abs(near) / 100, vx_m_s=0, vy_m_s=0, covariance_m2=(0, 0, 0),
                inside=0.0, residuals_m=(None,) * self.anchors,
            )  # fmt: skip

    monkeypatch.setattr(scene, "ParticleFilter", Believer)
    found = scene.attack(heard(-18), "r", _uwb.GATES["STS status alone"], 216, 1)
    assert found.opened
    assert found.believed


def test_frames_without_a_fix_keep_the_door_shut():
    cell = scene.Cell(power_db=30, frames=scene.FRAMES, duty=1.0)
    lost = heard(NO_FIX)

    def jammed(at, rng):
        return cell.over(scene.genuine_frames(lost, "r", at, rng), lost, "r", rng)

    walked = scene.walk_up(GateSettings(), 2, 1, jammed)
    assert walked.after_ms == [np.inf, np.inf]
    genuine = scene.walk_up(
        GateSettings(), 2, 1, lambda at, rng: scene.genuine_frames(lost, "r", at, rng)
    )
    assert max(genuine.after_ms) < 400
