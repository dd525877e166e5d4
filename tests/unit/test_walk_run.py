"""Walks through the whole chain: decisions, figures, records, and that all is repeatable."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import firmware_mock.walk_run as walk_run
from dkey.control.rules import Action
from dkey.lifecycle.roles import Permission
from dkey.ranging.gate import GateSettings, TrustLevel
from dkey.ranging.layout import Zone
from dkey.ranging.layouts import SHIPPED as LAYOUTS
from dkey.ranging.layouts import shipped_layout
from dkey.ranging.position import Estimate
from firmware_mock.scenarios import ATTACKS, shipped_scenario
from firmware_mock.uwb_attacks import Advance
from firmware_mock.walk_record import RunReport, Summary, moment_json
from firmware_mock.walk_run import runs
from firmware_mock.walk_scenario import Deed, Event, OnAir

SALOON = shipped_layout("saloon")


def play(scenario, *, seed=1, count=1, layout=SALOON):
    """Return the reports of ``count`` runs and all moments of the first."""
    reports, first = [], []
    for run in runs(scenario, layout, seed, count):
        report = RunReport(run)
        for moment in run.moments():
            report.take(moment)
            if run.number == 0:
                first.append(moment)
        reports.append(report)
    return reports, first


@cache
def shipped(name, count=1, layout="saloon"):
    return play(shipped_scenario(name), count=count, layout=shipped_layout(layout))


def did(report):
    return [each.asked for each in report.decided if each.moved]


def test_the_demo_opens_starts_and_locks_in_this_order():
    reports, moments = shipped("demo", 4)
    for report in reports:
        assert did(report) == [Action.UNLOCK, Action.START, Action.LOCK]
    assert (moments[-1].locked, moments[-1].engine) == (True, False)


@pytest.mark.parametrize("name", ["approach", "pass-by", "sit-in", "two-phones", "leave"])
def test_genuine_walks_end_as_their_scenario_expects(name):
    reports, _ = shipped(name, 4)
    assert [report.as_expected for report in reports] == [True] * 4
    assert [report.false_unlocks for report in reports] == [0] * 4


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_unlocks_or_starts(name):
    reports, _ = shipped(name, 6)
    for report in reports:
        assert report.as_expected
        assert not {Action.UNLOCK, Action.START} & {*did(report)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_can_be_walked_up_to(layout):
    (report,), _ = shipped("approach", 1, layout)
    assert did(report) == [Action.UNLOCK]


def test_without_gate_and_estimator_an_attack_is_seen_to_unlock(monkeypatch):
    """The same judgement on a vehicle that believes whatever it is told."""

    class Believer:
        def __init__(self, layout, chance, *, model):
            self.anchors = len(layout.anchors)

        def update(self, ranges, dt_s):
            near = min((each.distance_cm for each in ranges if each.distance_cm), default=1e4)
            return Estimate(
                x_m=0.3, y_m=0.95 + near / 100, vx_m_s=0, vy_m_s=0, covariance_m2=(0, 0, 0),
                inside=0.0, residuals_m=(None,) * self.anchors,
            )  # fmt: skip

    off = dict.fromkeys(("plausibility", "agreement", "speed", "geometry", "clock_ratio"), False)
    tracker = walk_run.DeviceTracker
    monkeypatch.setattr(walk_run, "ParticleFilter", Believer)
    monkeypatch.setattr(
        walk_run, "DeviceTracker", lambda *given: tracker(*given, GateSettings(**off))
    )
    scenario = shipped_scenario("frame-advance-all")
    (report,), _ = play(scenario)
    assert Action.UNLOCK in did(report)
    assert report.false_unlocks
    assert not report.as_expected


def test_the_same_seed_gives_the_same_runs():
    scenario = shipped_scenario("sit-in")

    def told(seed):
        reports, moments = play(scenario, seed=seed, count=2)
        return [each.to_json() for each in reports], [moment_json(0, each) for each in moments]

    assert told(3) == told(3)
    assert told(3) != told(4)


def test_a_run_is_the_same_however_many_are_asked_for():
    alone, _ = play(shipped_scenario("approach"), seed=5)
    many, _ = play(shipped_scenario("approach"), seed=5, count=3)
    assert alone[0].to_json() == many[0].to_json()
    assert many[0].to_json() != many[1].to_json()


def test_runs_go_on_beyond_one_batch(monkeypatch):
    monkeypatch.setattr(walk_run, "BATCH", 2)
    reports, _ = play(shipped_scenario("relay"), count=5)
    assert [each.run.number for each in reports] == [0, 1, 2, 3, 4]


def test_a_key_that_may_not_start_is_refused_in_the_cabin():
    scenario = shipped_scenario("sit-in")
    guest = replace(scenario.people[0], permission=Permission.ENTRY)
    (report,), _ = play(replace(scenario, people=(guest,)))
    assert did(report) == [Action.UNLOCK]
    assert report.refusals == {"PERMISSION_ENTRY_ONLY": 1}
    assert not report.as_expected


def test_nobody_without_consent_is_let_in_by_proximity():
    scenario = shipped_scenario("approach")
    shy = replace(scenario.people[0], consent=False)
    touch = Event(deed=Deed.TOUCH_HANDLE, door=Zone.DOOR_DRIVER, person=0, waypoint=1, after_s=1.0)
    (report,), _ = play(replace(scenario, people=(shy,), events=(touch,)))
    assert did(report) == []
    assert report.refusals == {"CONSENT_MISSING": 1}


def test_a_locked_door_stays_shut():
    scenario = shipped_scenario("approach")
    early = Event(deed=Deed.OPEN_DOOR, after_s=0.5)
    run = next(iter(runs(replace(scenario, events=(early,)), SALOON, 1, 1)))
    for moment in run.moments():
        if moment.at_s > 1:
            break
    assert run.body.doors_closed


def test_an_event_that_repeats_comes_with_its_period():
    scenario = shipped_scenario("relay")
    _, moments = play(scenario)
    pressed = [each.at_s for each in moments if Deed.PRESS_START in each.deeds]
    assert np.diff(pressed) == pytest.approx(1.0, abs=scenario.block_s)


def test_an_attack_acts_within_its_time_only():
    scenario = shipped_scenario("frame-advance-all")
    early = OnAir(attack=Advance(poll_s=34e-9, response_s=34e-9, final_s=34e-9),
                  kind="advance", from_s=3.0, until_s=4.0)  # fmt: skip
    _, moments = play(replace(scenario, attacks=(early,)))

    def middle_m(moment):
        found = [each.distance_cm for each in moment.people[0].measured.ranges if each.distance_cm]
        return float(np.median(found)) / 100

    for moment in moments:
        if moment.at_s < 20:
            assert (middle_m(moment) < 6) == (3.0 <= moment.at_s <= 4.0)


def test_a_suspicious_key_is_sent_to_a_step_up():
    (report, *_), moments = shipped("frame-advance-all", 6)
    assert report.notices == ["STEP_UP owner"]
    assert moments[-1].people[0].trust.level is TrustLevel.SUSPICIOUS


def test_the_summary_counts_what_the_runs_did():
    scenario = shipped_scenario("sit-in")
    reports, _ = shipped("sit-in", 4)
    summary = Summary(scenario, SALOON, 1)
    for report in reports:
        summary.take(report)
    found = summary.to_json()
    assert (found["runs"], found["as_expected"], found["false_unlocks"]) == (4, 4, 0)
    assert (found["unlocked"], found["started"], found["locked"]) == (4, 4, 0)
    assert found["inside_rate"] > 0.9
    assert 0 < found["error_median_cm"] < found["error_p95_cm"] < 60
    assert 0 <= found["unlock_median_ms"] <= 400


def test_rates_over_nothing_are_null():
    summary = Summary(shipped_scenario("relay"), SALOON, 1)
    found = summary.to_json()
    assert found["inside_rate"] is found["error_median_cm"] is found["unlock_median_ms"] is None


def test_refusals_that_repeat_are_counted_between_deeds():
    (report, *_), _ = shipped("relay", 6)
    listed = report.to_json()["decisions"]
    assert len(listed) == len({(each["action"], each["code"]) for each in listed})
    assert sum(each["times"] for each in listed) == len(report.decided)
