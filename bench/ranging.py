"""Position, zones and proximity decisions on simulated ranges.

    python bench/ranging.py [--walks 400] [--ups 1000] [--passes 10000] [--blocks 8000] [--json]

Seeded; the channel is in ``_channel.py``. Positions and zones are judged update by update against
the truth, without leaving out any band around the cabin's edge: the first update inside counts.
The cabin is what its layout says, 20 cm and 10 cm within the outline of the saloon.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from _channel import (
    CHANNELS,
    SESSION,
    Channel,
    as_round,
    clocks_of,
    inside_box,
    measure,
    walks_by,
    walks_in,
    walks_up,
)
from _gate import gate_rows
from _ranging_sessions import session_figures
from _report import Figure, progress, report, slice_medians, spread

from dkey.control.proximity import KeyPresence, Proximity, ProximityMode, ProximitySettings
from dkey.control.rules import Action, Grant, Signals
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.ranging.gate import TrustLevel
from dkey.ranging.kalman import KalmanFilter
from dkey.ranging.layout import Zone
from dkey.ranging.layouts import shipped_layout
from dkey.ranging.particles import ParticleFilter
from dkey.ranging.range_model import RangeModel
from dkey.ranging.tracker import DeviceTracker
from dkey.ranging.zones import ZoneTracker
from firmware_mock.uwb_channel import rounds_per_second

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dkey.ranging.layout import Layout
    from dkey.ranging.measurement import RangingRound
    from dkey.ranging.position import Estimator

PARTS = 4
"""A run is cut into so many parts for its spread."""
SCENES = (
    ("saloon", "plain"),
    ("saloon", "more NLOS"),
    ("saloon", "34 % loss"),
    ("saloon", "two bodies"),
    ("saloon", "back pocket"),
    ("suv", "plain"),
    ("coupe-4anchor", "plain"),
)
STEPS, DT_S = 70, 0.192
BLOCK_S = 0.096
HAND_M = 0.7
"""The hand is at the handle when the device is this close to it."""
NEAR_M = 4.0
PARKED = Signals(
    locked=True,
    ignition_on=False,
    gear_in_park=True,
    speed_kmh=0.0,
    doors_closed=True,
    smartkey_near=False,
    updating=False,
    immobilised=False,
    service_mode=False,
    valet=False,
)
OWNER = Grant(
    credential_id="owner",
    name="phone",
    role=Role.OWNER,
    permission=Permission.ENTRY_AND_START,
    state=CredentialState.ACTIVE,
)


@dataclass(slots=True)
class Walks:
    """Rounds of many walks, and the truth: paths are of shape (steps, trials, 2)."""

    layout: Layout
    path: NDArray[np.float64]
    dt_s: float
    metres: NDArray[np.float64]
    ratios: NDArray[np.float64]

    @classmethod
    def through(
        cls,
        layout: Layout,
        channel: Channel,
        paths: tuple[NDArray[np.float64], NDArray[np.float64]],
        dt_s: float,
        chance: np.random.Generator,
    ) -> Walks:
        """Measure all walks of ``paths`` through a channel."""
        path, heading = paths
        trials = path.shape[1]
        height = layout.phone_height_m + channel.height_sd_m * chance.standard_normal(trials)
        clocks = clocks_of(layout, trials, chance)
        rounds = [
            measure(layout, channel, at, faces, height, clocks, chance)
            for at, faces in zip(path, heading, strict=True)
        ]
        metres, ratios = (np.stack(each) for each in zip(*rounds, strict=True))
        return cls(layout, path, dt_s, metres, ratios)

    def rounds(self, trial: int) -> Iterator[RangingRound]:
        """Return the rounds of one walk in order."""
        for step in range(len(self.path)):
            yield as_round(
                step, step * self.dt_s, self.metres[step, trial], self.ratios[step, trial]
            )


# ---- positions and zones -----------------------------------------------------------------------


def scene(layout: Layout, channel: str, walks: int, kind: str) -> list[Figure]:
    """Judge one estimator on walks to the driver's door and in."""
    progress(f"{layout.name}, {channel}, {kind}: {walks} walks")
    chance = np.random.default_rng(7)
    paths = walks_in(layout, walks, STEPS, DT_S, chance)
    run = Walks.through(layout, CHANNELS[channel], paths, DT_S, chance)
    model = RangeModel(layout)
    error = np.full((STEPS, walks), np.inf)
    inside = np.zeros((STEPS, walks), dtype=bool)
    for trial in range(walks):
        estimator: Estimator = (
            KalmanFilter(layout)
            if kind == "Kalman"
            else ParticleFilter(layout, np.random.default_rng(trial), model=model)
        )
        zones = ZoneTracker(layout)
        for step, measured in enumerate(run.rounds(trial)):
            found = estimator.update(measured.ranges, DT_S)
            if found is not None:
                error[step, trial] = np.hypot(*(run.path[step, trial] - (found.x_m, found.y_m)))
            inside[step, trial] = zones.update(found, measured.at_s).zone is Zone.CABIN
    truth = inside_box(layout, run.path)
    outside = ~truth & (np.linalg.norm(run.path, axis=2) < NEAR_M)
    centimetres = error * 100

    def figure(
        name: str, unit: str, limit: float, of: Callable[[slice], float], samples: int, **more: str
    ) -> Figure:
        parts = [of(slice(at, None, PARTS)) for at in range(PARTS)]
        return Figure(
            name=f"{layout.name}, {channel}, {kind}: {name}",
            value=of(slice(None)),
            unit=unit,
            floor="the truth of the simulated walk",
            limit=limit,
            better="higher" if more else "lower",
            samples=samples,
            spread=spread(parts),
            note=f"{walks} walks of {STEPS} updates each {DT_S * 1000:.0f} ms",
        )

    return [
        figure(
            "median error", "cm", 6, lambda s: float(np.median(centimetres[:, s])), error.size
        ),
        figure(
            "95th percentile", "cm", 25,
            lambda s: float(np.percentile(centimetres[:, s], 95)), error.size,
        ),
        figure(
            "inside seen", "share", 0.985,
            lambda s: float(inside[:, s][truth[:, s]].mean()), int(truth.sum()), better="higher",
        ),
        figure(
            "outside taken for inside", "share", 3e-4,
            lambda s: float(inside[:, s][outside[:, s]].mean()), int(outside.sum()),
        ),
    ]  # fmt: skip


# ---- speed -------------------------------------------------------------------------------------


def speeds(updates: int) -> list[Figure]:
    """Time one update of one device, six anchors, nothing lost."""
    layout = shipped_layout("saloon")
    chance = np.random.default_rng(11)
    walks = updates // STEPS
    paths = walks_in(layout, walks, STEPS, DT_S, chance)
    run = Walks.through(layout, Channel(loss=0, blocked_loss=0), paths, DT_S, chance)
    rounds = [list(run.rounds(trial)) for trial in range(walks)]
    model = RangeModel(layout)
    figures = []
    for name, limit, make in (
        (
            "particle filter, 600",
            150.0,
            lambda: ParticleFilter(layout, np.random.default_rng(1), model=model).update,
        ),
        ("Kalman filter", 150.0, lambda: KalmanFilter(layout).update),
        ("with trust gate and zones", None, lambda: _whole(layout, model)),
    ):
        progress(f"speed: {name}")
        times = []
        for walk in rounds:
            update = make()
            for measured in walk:
                began = perf_counter()
                update(measured.ranges, DT_S) if limit else update(measured)
                times.append((perf_counter() - began) * 1e6)
        figures.append(
            Figure(
                name=f"one update of one device: {name}",
                value=median(times),
                unit="us",
                floor="150 us on this machine",
                limit=limit,
                samples=len(times),
                spread=spread(slice_medians(times)),
                note=f"9 of 10 take at most {quantiles(times, n=10)[-1]:.0f} us",
            )
        )
    return figures


def simulation(parts: int = 9) -> Figure:
    """Time the event-level simulation of rounds: six anchors, all effects on, one core."""
    progress("speed: batched simulation")
    found = [rounds_per_second(seed=part + 1) / 1e6 for part in range(parts)]
    return Figure(
        name="batched simulation of rounds with six anchors",
        value=median(found),
        unit="M/s",
        floor="1.5 million rounds in a second of one core's time",
        limit=1.5,
        better="higher",
        samples=parts * 200_000,
        spread=spread(found),
        note="processor time; a neighbour on the same core's caches still slows it",
    )


def _whole(layout: Layout, model: RangeModel) -> Callable[[RangingRound], object]:
    return _tracker(layout, model, 1).update


def _tracker(layout: Layout, model: RangeModel, seed: int) -> DeviceTracker:
    filter_ = ParticleFilter(layout, np.random.default_rng(seed), model=model)
    return DeviceTracker(layout, SESSION, filter_)


# ---- decisions ---------------------------------------------------------------------------------


def _unlocked_at(run: Walks, trial: int, model: RangeModel) -> tuple[int | None, int, int]:
    """Return the step that unlocked, and the rounds that were doubtful and suspicious."""
    tracker = _tracker(run.layout, model, trial)
    proximity = Proximity(ProximitySettings(mode=ProximityMode.PASSIVE_APPROACH))
    doubtful = suspicious = 0
    unlocked = None
    for step, measured in enumerate(run.rounds(trial)):
        trust = tracker.update(measured)
        doubtful += trust.level is TrustLevel.DOUBTFUL
        suspicious += trust.level is TrustLevel.SUSPICIOUS
        key = KeyPresence(
            grant=OWNER, zone=tracker.zone(measured.at_s), trust=trust, standard=True, consent=True
        )
        doors = proximity.update([key], signals=PARKED, now_s=measured.at_s).doors
        if doors is not None and doors.action is Action.UNLOCK:
            unlocked = step if unlocked is None else unlocked
    return unlocked, doubtful, suspicious


def walk_up(channel: str, walks: int, limit: float | None) -> list[Figure]:
    """Judge whether the door opens before the hand is at the handle."""
    progress(f"walking up, {channel}: {walks} walks")
    layout = shipped_layout("saloon")
    chance = np.random.default_rng(21)
    steps = 45
    run = Walks.through(
        layout, CHANNELS[channel], walks_up(layout, walks, steps, BLOCK_S, chance), BLOCK_S, chance
    )
    model = RangeModel(layout)
    driver = layout.doors[0]
    away = np.linalg.norm(run.path - np.array([driver.x_m, driver.y_m]), axis=2)
    early, spare, doubtful, suspicious = [], [], 0, 0
    for trial in range(walks):
        step, unsure, odd = _unlocked_at(run, trial, model)
        metres = 0.0 if step is None else float(away[step, trial])
        early.append(metres >= HAND_M)
        spare.append((metres - HAND_M) / 1.4 * 1000)
        doubtful += unsure
        suspicious += odd
    parts = [sum(early[at::PARTS]) / len(early[at::PARTS]) for at in range(PARTS)]
    rounds = walks * steps
    return [
        Figure(
            name=f"walk-up, {channel}: unlocked before the hand arrives",
            value=sum(early) / walks,
            unit="share",
            floor=f"the device {HAND_M} m from the handle, 1.4 m/s, a block each 96 ms",
            limit=limit,
            better="higher",
            samples=walks,
            spread=spread(parts),
            note=f"median time to spare {median(spare):.0f} ms",
        ),
        Figure(
            name=f"walk-up, {channel}: genuine rounds not trusted",
            value=(doubtful + suspicious) / rounds,
            unit="share",
            floor="no attack; the first two rounds of each walk can agree with none before them",
            samples=rounds,
            spread=((doubtful + suspicious) / rounds,) * 2,
            note=f"suspicious {suspicious} of {rounds}",
        ),
    ]


def pass_by(walks: int) -> Figure:
    """Count the doors that open for somebody who walks past."""
    progress(f"walking past at 2 m: {walks} walks")
    layout = shipped_layout("saloon")
    chance = np.random.default_rng(31)
    steps = 42
    paths = walks_by(layout, walks, steps, BLOCK_S, chance)
    run = Walks.through(layout, CHANNELS["plain"], paths, BLOCK_S, chance)
    model = RangeModel(layout)
    opened = [_unlocked_at(run, trial, model)[0] is not None for trial in range(walks)]
    return Figure(
        name="walking past at 2 m: unlocked",
        value=sum(opened),
        unit="walks",
        floor="nobody came to the door",
        limit=0,
        samples=walks,
        spread=spread([sum(opened[at::PARTS]) for at in range(PARTS)]),
        note="PASSIVE_APPROACH; the other mode opens at a touch of the handle alone",
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--walks", type=int, default=400, help="for each layout and channel")
    parser.add_argument("--ups", type=int, default=1_000, help="walks up to the door")
    parser.add_argument("--passes", type=int, default=10_000, help="walks past the vehicle")
    parser.add_argument("--updates", type=int, default=5_000, help="timed updates of each kind")
    parser.add_argument("--session-s", type=float, default=30.0, help="virtual time of sessions")
    parser.add_argument("--blocks", type=int, default=8_000, help="for each row of the gate")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    figures = [simulation(), *session_figures(options.session_s), *speeds(options.updates)]
    for name, channel in SCENES:
        figures += scene(shipped_layout(name), channel, options.walks, "particles")
    figures += scene(shipped_layout("saloon"), "plain", options.walks, "Kalman")
    figures += walk_up("plain", options.ups, 0.99)
    figures += walk_up("34 % loss", options.ups, 0.99)
    figures += walk_up("back pocket", options.ups, None)
    figures.append(pass_by(options.passes))
    figures += gate_rows(options.blocks)
    report("ranging", figures, as_json=options.json)


if __name__ == "__main__":
    main()
