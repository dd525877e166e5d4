"""What a run says: one JSON object a run, a summary of all, and a record of every block.

The record is of a simulation: unlike a vehicle's log it holds positions and ranges
(specs/formats.md §18, §19).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import hypot
from typing import TYPE_CHECKING, Final

import numpy as np

from dkey.control.rules import Action
from dkey.ranging.layout import Zone
from firmware_mock.walk_run import nearest_m

if TYPE_CHECKING:
    from dkey.ranging.layout import Layout
    from firmware_mock.walk_run import Decided, Moment, Run
    from firmware_mock.walk_scenario import Scenario

__all__ = ["RECORD_SCHEMA", "SCHEMA", "RunReport", "Summary", "moment_json", "record_head"]

SCHEMA: Final = "dkey.walk/1"
RECORD_SCHEMA: Final = "dkey.walk-record/1"
_BESIDE_M: Final = 4.0
"""Who is outside within this distance of the middle could be taken for inside."""


@dataclass(slots=True)
class RunReport:
    """What happened in one run; fed with its moments in order."""

    run: Run
    decided: list[Decided] = field(default_factory=list)
    errors_m: list[float] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)
    beside: list[bool] = field(default_factory=list)
    at_door_s: float | None = None
    notices: list[str] = field(default_factory=list)
    locked: bool = True
    engine: bool = False

    def take(self, moment: Moment) -> None:
        """Take the next block."""
        layout = self.run.layout
        self.decided += moment.decided
        self.notices += moment.notices
        self.locked, self.engine = moment.locked, moment.engine
        for seen in moment.people:
            x, y = seen.at_m
            in_cabin = seen.zone.zone is Zone.CABIN
            away_m = nearest_m(layout, [seen.at_m])
            if self.at_door_s is None and away_m <= layout.zones.door_enter_m:
                self.at_door_s = moment.at_s
            if away_m == 0:
                self.inside.append(in_cabin)
            elif hypot(x, y) < _BESIDE_M:
                self.beside.append(in_cabin)
            if seen.estimate is not None and seen.zone.zone is not None:
                self.errors_m.append(hypot(seen.estimate.x_m - x, seen.estimate.y_m - y))

    def happened(self, action: Action) -> bool:
        """Whether the body did this at least once."""
        return self._first(action) is not None

    def _first(self, action: Action) -> Decided | None:
        return next((each for each in self.decided if each.moved and each.asked is action), None)

    @property
    def false_unlocks(self) -> int:
        """Doors that opened while no key was within the leave distance of any handle."""
        limit_m = self.run.layout.zones.door_leave_m
        return sum(
            each.moved and each.asked is Action.UNLOCK and each.nearest_m > limit_m
            for each in self.decided
        )

    @property
    def unlock_ms(self) -> float | None:
        """Time from the door zone truly entered to the unlocking; negative is earlier."""
        first = self._first(Action.UNLOCK)
        if first is None or self.at_door_s is None:
            return None
        return round((first.at_s - self.at_door_s) * 1000, 1)

    @property
    def refusals(self) -> Counter[str]:
        """Refusal code to how often."""
        return Counter(str(each.verdict.code) for each in self.decided if not each.verdict.granted)

    @property
    def as_expected(self) -> bool:
        """Whether the run did what its scenario expects."""
        expected = self.run.scenario.expected
        return all(
            wanted is None or wanted == self.happened(action)
            for wanted, action in (
                (expected.unlock, Action.UNLOCK),
                (expected.lock, Action.LOCK),
                (expected.start, Action.START),
            )
        )

    def to_json(self) -> dict[str, object]:
        """Return the run as one object; refusals that repeat between two deeds are counted."""
        decisions: list[dict[str, object]] = []
        since: dict[tuple[object, ...], int] = {}
        for each in self.decided:
            same = (each.asked, each.verdict.code, each.who, each.zone)
            if each.verdict.granted:
                since.clear()
            elif same in since:
                decisions[since[same]]["times"] = 1 + int(str(decisions[since[same]]["times"]))
                continue
            else:
                since[same] = len(decisions)
            decisions.append(_decision_json(each))
        return {
            "schema": SCHEMA,
            "event": "run",
            "run": self.run.number,
            "as_expected": self.as_expected,
            "decisions": decisions,
            "notices": self.notices,
            "unlock_ms": self.unlock_ms,
            "false_unlocks": self.false_unlocks,
            "locked": self.locked,
            "engine": self.engine,
        }


def _decision_json(decided: Decided) -> dict[str, object]:
    return {
        "at_s": round(decided.at_s, 3),
        "action": str(decided.asked),
        "granted": decided.verdict.granted,
        "code": None if decided.verdict.code is None else str(decided.verdict.code),
        "key": decided.who,
        "zone": None if decided.zone is None else str(decided.zone),
        "nearest_m": round(decided.nearest_m, 2),
        "moved": decided.moved,
        "times": 1,
    }


class Summary:
    """What many runs of one scenario came to."""

    def __init__(self, scenario: Scenario, layout: Layout, seed: int) -> None:
        self._scenario, self._layout, self._seed = scenario, layout, seed
        self._runs = self._expected = self._false = 0
        self._did: Counter[Action] = Counter()
        self._refused: Counter[str] = Counter()
        self._errors_m: list[float] = []
        self._unlock_ms: list[float] = []
        self._inside = [0, 0]
        self._beside = [0, 0]

    def take(self, report: RunReport) -> None:
        """Take one run that was played."""
        self._runs += 1
        self._expected += report.as_expected
        self._false += report.false_unlocks
        self._did.update(each for each in Action if report.happened(each))
        self._refused += report.refusals
        self._errors_m += report.errors_m
        if report.unlock_ms is not None:
            self._unlock_ms.append(report.unlock_ms)
        for total, part in ((self._inside, report.inside), (self._beside, report.beside)):
            total[0] += sum(part)
            total[1] += len(part)

    def to_json(self) -> dict[str, object]:
        """Return the summary; rates over nothing are null."""
        return {
            "schema": SCHEMA,
            "event": "summary",
            "scenario": self._scenario.name,
            "layout": self._layout.name,
            "seed": self._seed,
            "runs": self._runs,
            "as_expected": self._expected,
            "unlocked": self._did[Action.UNLOCK],
            "locked": self._did[Action.LOCK],
            "started": self._did[Action.START],
            "false_unlocks": self._false,
            "denials": dict(sorted(self._refused.items())),
            "inside_rate": _rate(self._inside),
            "outside_judged_inside_rate": _rate(self._beside),
            "error_median_cm": _percentile(self._errors_m, 50, 100),
            "error_p95_cm": _percentile(self._errors_m, 95, 100),
            "unlock_median_ms": _percentile(self._unlock_ms, 50, 1),
            "unlock_p95_ms": _percentile(self._unlock_ms, 95, 1),
        }


def _rate(counts: list[int]) -> float | None:
    return None if counts[1] == 0 else round(counts[0] / counts[1], 6)


def _percentile(values: list[float], share: float, scale: float) -> float | None:
    return round(float(np.percentile(values, share)) * scale, 1) if values else None


def record_head(scenario: Scenario, layout: Layout, seed: int) -> dict[str, object]:
    """Return the first line of a record."""
    return {
        "schema": RECORD_SCHEMA,
        "event": "head",
        "simulated": True,
        "scenario": scenario.name,
        "layout": layout.name,
        "seed": seed,
        "block_s": scenario.block_s,
    }


def moment_json(run: int, moment: Moment) -> dict[str, object]:
    """Return one line of a record: a block with the truth and all that was measured."""
    return {
        "event": "block",
        "run": run,
        "block": moment.block,
        "at_s": round(moment.at_s, 3),
        "people": [
            {
                "key": seen.name,
                "true_m": [round(each, 3) for each in seen.at_m],
                "position_m": None
                if seen.estimate is None
                else [round(seen.estimate.x_m, 3), round(seen.estimate.y_m, 3)],
                "sd_m": None if seen.estimate is None else round(seen.estimate.sd_m, 3),
                "inside": None if seen.estimate is None else round(seen.estimate.inside, 4),
                "zone": None if seen.zone.zone is None else str(seen.zone.zone),
                "trust": seen.trust.level.name,
                "reasons": [str(each) for each in seen.trust.reasons],
                "ranges": [
                    [
                        each.anchor,
                        each.status,
                        None if each.distance_cm is None else round(each.distance_cm, 1),
                    ]
                    for each in seen.measured.ranges
                ],
            }
            for seen in moment.people
        ],
        "deeds": [str(each) for each in moment.deeds],
        "decisions": [_decision_json(each) for each in moment.decided],
        "notices": list(moment.notices),
        "locked": moment.locked,
        "engine": moment.engine,
    }
