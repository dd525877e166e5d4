"""Plays a scenario: people walk, frames fly, and the whole chain decides, block by block.

Channel -> rounds -> trust gate -> position -> zones -> proximity decisions -> body. The channel of
64 runs is simulated at once; run k of a seed is the same however many runs are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import hypot
from time import perf_counter
from typing import TYPE_CHECKING, Final

import numpy as np

from dkey.control.proximity import Proximity, ProximitySettings
from dkey.control.proximity_rules import KeyPresence
from dkey.control.rules import Action, Grant
from dkey.lifecycle.roles import CredentialState, Role
from dkey.ranging.particles import ParticleFilter
from dkey.ranging.range_model import RangeModel
from dkey.ranging.tracker import DeviceTracker
from firmware_mock.body import Body
from firmware_mock.uwb_channel import Car, Clocks, Tampering, simulate
from firmware_mock.uwb_paths import walks
from firmware_mock.walk_scenario import Deed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkey.control.proximity import Verdicts
    from dkey.control.rules import Verdict
    from dkey.ranging.gate import Trust
    from dkey.ranging.layout import Layout, Zone
    from dkey.ranging.measurement import RangingRound
    from dkey.ranging.position import Estimate
    from dkey.ranging.zones import ZoneState
    from firmware_mock.uwb_paths import Walk
    from firmware_mock.uwb_rounds import Rounds
    from firmware_mock.walk_scenario import Event, Person, Scenario

__all__ = ["BATCH", "Decided", "Moment", "Run", "Seen", "nearest_m", "runs"]

BATCH: Final = 64
"""Runs whose channel is simulated at once."""
_TAIL_S: Final = 2.0
"""A run goes on for this long after everybody has gone their way, so that the last lock falls."""
_STAGGER_S: Final = 0.02
"""Rounds of several phones follow one another within a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One person in one block: the truth, and what the vehicle makes of it.

    Attributes:
        at_m: Where the phone is.
        measured: The round.
        estimate: Position after it; None before there is one.
    """

    name: str
    at_m: tuple[float, float]
    measured: RangingRound
    trust: Trust
    estimate: Estimate | None
    zone: ZoneState


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """One verdict, and where things really were.

    Attributes:
        asked: UNLOCK, LOCK or START.
        who: Name of the key that it is about; None when none is near.
        nearest_m: True distance of the nearest key to the nearest handle; 0 in the cabin.
        moved: Whether the body did something; a granted unlock of open doors does nothing.
    """

    at_s: float
    asked: Action
    verdict: Verdict
    who: str | None
    zone: Zone | None
    nearest_m: float
    moved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One ranging block of one run.

    Attributes:
        deeds: What somebody did at the vehicle.
        notices: What holders are told, as ``KIND who``.
        compute_us: Processor time that the chain took; differs from run to run.
    """

    block: int
    at_s: float
    people: tuple[Seen, ...]
    decided: tuple[Decided, ...]
    deeds: tuple[Deed, ...]
    notices: tuple[str, ...]
    locked: bool
    engine: bool
    compute_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Walks and rounds of :data:`BATCH` runs, by person; rounds also by block."""

    walks: tuple[Walk, ...]
    rounds: tuple[tuple[Rounds, ...], ...]


def runs(scenario: Scenario, layout: Layout, seed: int, count: int) -> Iterator[Run]:
    """Return ``count`` runs; the same seed gives the same runs."""
    model = RangeModel(layout)
    _ = model.table, model.offsets  # made at first use: not within the first round
    for first in range(0, count, BATCH):
        batch = _simulated(scenario, layout, np.random.default_rng((seed, first // BATCH)))
        for track in range(min(BATCH, count - first)):
            yield Run(scenario, layout, model, batch, track, seed=seed, number=first + track)


def _simulated(scenario: Scenario, layout: Layout, rng: np.random.Generator) -> _Batch:
    """Walk all people and range all their phones."""
    car, channel, block_s = Car.of(layout), scenario.channel, scenario.block_s
    lengths = [
        walks(each.path, BATCH, rng, block_s=block_s, variation=scenario.variation)
        for each in scenario.people
    ]
    last_s = scenario.duration_s or max(float(each.done_s.max()) for each in lengths) + _TAIL_S
    blocks = int(last_s / block_s) + 1
    found = tuple(_extended(each, blocks, block_s) for each in lengths)
    rounds = []
    for walk in found:
        clocks = Clocks.draw(channel, BATCH, len(layout.anchors), rng)
        mine = []
        for block in range(blocks):
            clocks = clocks.later(channel, block_s, rng)
            bad = _tampering(scenario, block * block_s, len(layout.anchors), rng)
            mine.append(simulate(channel, car, walk.where(block), clocks, rng, tampering=bad))
        rounds.append(tuple(mine))
    return _Batch(walks=found, rounds=tuple(rounds))


def _extended(walk: Walk, blocks: int, block_s: float) -> Walk:
    """Return the walk over ``blocks`` blocks; whoever arrived stays."""
    rows = np.minimum(np.arange(blocks), len(walk.at_s) - 1)
    at_s = np.arange(blocks, dtype=np.float64) * block_s
    return replace(walk, at_s=at_s, at_m=walk.at_m[rows], carrier=walk.carrier[rows])


def _tampering(
    scenario: Scenario, at_s: float, anchors: int, rng: np.random.Generator
) -> Tampering | None:
    done = None
    for each in scenario.attacks:
        if each.from_s <= at_s <= each.until_s:
            one = each.attack.tampering(BATCH, anchors, rng, slot_s=scenario.channel.slot_s)
            done = one if done is None else done + one
    return done


class Run:
    """One run of a scenario. :meth:`moments` plays it, once.

    Attributes:
        number: Counted from 0.
        moments_count: How many blocks it has.
    """

    def __init__(
        self,
        scenario: Scenario,
        layout: Layout,
        model: RangeModel,
        batch: _Batch,
        track: int,
        *,
        seed: int,
        number: int,
    ) -> None:
        self.scenario, self.layout, self.number = scenario, layout, number
        self._batch, self._track = batch, track
        last_s = scenario.duration_s
        if last_s is None:
            last_s = max(float(each.done_s[track]) for each in batch.walks) + _TAIL_S
        self.moments_count = min(int(last_s / scenario.block_s) + 1, len(batch.rounds[0]))
        self.body = Body(locked=scenario.locked)
        self._trackers = [
            DeviceTracker(
                layout,
                person + 1,
                ParticleFilter(layout, np.random.default_rng((seed, number, person)), model=model),
            )
            for person in range(len(scenario.people))
        ]
        self._grants = [_grant(each, first=at == 0) for at, each in enumerate(scenario.people)]
        self._proximity = Proximity(ProximitySettings(mode=scenario.mode))
        self._due = [(self._when_s(each), each) for each in scenario.events]

    def _when_s(self, event: Event) -> float:
        if event.person is None:
            return event.after_s
        arrived_s = self._batch.walks[event.person].arrived_s[event.waypoint, self._track]
        return float(arrived_s) + event.after_s

    def moments(self) -> Iterator[Moment]:
        """Play the run block by block."""
        for block in range(self.moments_count):
            yield self._play(block)

    def _play(self, block: int) -> Moment:
        at_s = block * self.scenario.block_s
        rounds = [
            mine[block].round(
                self._track,
                block=block & 0xFFFF,
                at_s=at_s + person * _STAGGER_S,
                sts_index=block * 16,
                session_id=person + 1,
            )
            for person, mine in enumerate(self._batch.rounds)
        ]
        deeds = self._deeds(at_s)
        now_s = rounds[-1].at_s
        began = perf_counter()
        for tracker, measured in zip(self._trackers, rounds, strict=True):
            tracker.update(measured)
        keys = [
            KeyPresence(
                grant=grant,
                zone=tracker.zone(now_s),
                trust=tracker.trust(now_s),
                standard=person.standard,
                consent=person.consent,
            )
            for grant, tracker, person in zip(
                self._grants, self._trackers, self.scenario.people, strict=True
            )
        ]
        pressed = any(each.deed is Deed.PRESS_START for each in deeds)
        handle = next((each.door for each in deeds if each.deed is Deed.TOUCH_HANDLE), None)
        verdicts = self._proximity.update(
            keys,
            signals=self.body.signals(),
            now_s=now_s,
            handle=handle,
            start_pressed=pressed and not self.body.ignition_on,
        )
        compute_us = (perf_counter() - began) * 1e6
        at = [
            (float(each.at_m[block, self._track, 0]), float(each.at_m[block, self._track, 1]))
            for each in self._batch.walks
        ]
        decided = self._act(verdicts, keys, now_s, nearest_m(self.layout, at), handle is not None)
        return Moment(
            block=block,
            at_s=at_s,
            people=tuple(
                Seen(
                    name=person.name,
                    at_m=where,
                    measured=measured,
                    trust=key.trust,
                    estimate=tracker.estimate,
                    zone=key.zone,
                )
                for person, where, measured, key, tracker in zip(
                    self.scenario.people, at, rounds, keys, self._trackers, strict=True
                )
            ),
            decided=decided,
            deeds=tuple(each.deed for each in deeds),
            notices=tuple(f"{each.kind} {each.credential_id}" for each in verdicts.notices),
            locked=self.body.locked,
            engine=self.body.ignition_on,
            compute_us=compute_us,
        )

    def _deeds(self, at_s: float) -> list[Event]:
        """Return what is done by now; doors and the engine's end need no decision."""
        done, later = [], []
        for when_s, event in self._due:
            if when_s > at_s:
                later.append((when_s, event))
                continue
            done.append(event)
            if event.every_s is not None:
                later.append((when_s + event.every_s, event))
        self._due = later
        for event in done:
            if event.deed is Deed.OPEN_DOOR and not self.body.locked:
                self.body.doors_closed = False
            elif event.deed is Deed.CLOSE_DOOR:
                self.body.doors_closed = True
            elif event.deed is Deed.STOP_ENGINE:
                self.body.stop()
        return done

    def _act(
        self,
        verdicts: Verdicts,
        keys: list[KeyPresence],
        now_s: float,
        nearest_m: float,
        touched: bool,
    ) -> tuple[Decided, ...]:
        """Let the body do what was granted."""
        found = []
        for verdict, asked in ((verdicts.doors, None), (verdicts.start, Action.START)):
            if verdict is None:
                continue
            # A refusal names no action: at the doors only unlocking is ever refused.
            wanted = verdict.action or asked or Action.UNLOCK
            moved = verdict.granted and self._moved(wanted)
            if wanted is Action.UNLOCK and verdict.granted and not moved and not touched:
                continue
            zone = next(
                (
                    key.zone.zone
                    for key in keys
                    if key.grant is not None and key.grant.credential_id == verdict.credential_id
                ),
                None,
            )
            found.append(
                Decided(
                    at_s=now_s,
                    asked=wanted,
                    verdict=verdict,
                    who=verdict.credential_id,
                    zone=zone,
                    nearest_m=nearest_m,
                    moved=moved,
                )
            )
        return tuple(found)

    def _moved(self, wanted: Action) -> bool:
        body = self.body
        before = (body.locked, body.ignition_on)
        if wanted is Action.UNLOCK:
            body.unlock()
        elif wanted is Action.LOCK:
            body.lock()
        elif wanted is Action.START:
            body.start()
        return (body.locked, body.ignition_on) != before


def _grant(person: Person, *, first: bool) -> Grant:
    return Grant(
        credential_id=person.name,
        name=person.name,
        role=Role.OWNER if first else Role.ACTUAL_USER,
        permission=person.permission,
        state=CredentialState.ACTIVE,
    )


def nearest_m(layout: Layout, at: list[tuple[float, float]]) -> float:
    """Return the true distance of the nearest phone to the nearest handle; 0 in the cabin."""
    cabin_x, cabin_y = zip(*layout.cabin, strict=True)
    nearest = float("inf")
    for x, y in at:
        if min(cabin_x) < x < max(cabin_x) and min(cabin_y) < y < max(cabin_y):
            return 0.0
        for door in layout.doors:
            nearest = min(nearest, hypot(x - door.x_m, y - door.y_m))
    return nearest
