"""Early arrivals from chips to decisions: attacks on phones far away, walks to the door.

Two levels, because 100,000 decisions are millions of frames. The chip-level receiver
(``firmware_mock.uwb_receiver``) takes a few thousand frames of each power, and what it made of
them (early, late, right, no fix) is what happens to the frames of the event-level rounds: each
frame of each anchor draws one of the measured outcomes. The rounds then go through the whole
chain: gate, position, zones, decision at the handle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from _report import progress

from dkey.control.proximity import KeyPresence, Proximity, ProximityMode, ProximitySettings
from dkey.control.rules import Action, Grant, Signals
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.ranging.gate import GateSettings, TrustLevel
from dkey.ranging.layout import DOORS, Zone
from dkey.ranging.layouts import shipped_layout
from dkey.ranging.particles import ParticleFilter
from dkey.ranging.range_model import RangeModel
from dkey.ranging.tracker import DeviceTracker
from firmware_mock.uwb_attacks import CHIP_S
from firmware_mock.uwb_channel import Car, Channel, Clocks, Tampering, Where, simulate
from firmware_mock.uwb_paths import Path, Waypoint, walks
from firmware_mock.uwb_receiver import NO_FIX, Air, Result, trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dkey.ranging.measurement import RangingRound
    from firmware_mock.uwb_rounds import Rounds

    Firsts = NDArray[np.int64]

__all__ = [
    "AWAY_M",
    "FRAMES",
    "POWERS_DB",
    "Cell",
    "Heard",
    "attack",
    "genuine_frames",
    "hear",
    "walk_up",
]

POWERS_DB = (10, 14, 18, 20, 24, 30)
FRAMES = ("poll", "response", "final")
REACH = {
    "by the phone": ("response",),
    "by the car": ("poll", "final"),
    "everywhere": FRAMES,
}
"""Where the attacker stands, and the frames that are received there."""
DUTIES = (1.0, 0.25)
"""Share of rounds that are attacked: always, and now and then, so that trust can grow between."""
BLOCK_S = 0.096
AWAY_M = 12.0
EARLY_M = 2.4
WARM = 12
"""Genuine rounds before an attack begins."""
AT_DOOR_S = 4.0
SESSION = 1
PARKED = Signals(
    locked=True, ignition_on=False, gear_in_park=True, speed_kmh=0.0, doors_closed=True,
    smartkey_near=False, updating=False, immobilised=False, service_mode=False, valet=False,
)  # fmt: skip
OWNER = Grant(
    credential_id="owner",
    name="phone",
    role=Role.OWNER,
    permission=Permission.ENTRY_AND_START,
    state=CredentialState.ACTIVE,
)
LAYOUT = shipped_layout("saloon")
CAR = Car.of(LAYOUT)
# ---- chip level ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What every receiver made of frames, by name: without an attacker, and at each power.

    Attributes:
        free: Line of sight, no attacker.
        blocked: The first path 12 dB under the strongest, no attacker.
        attacked: By power, dB.
    """

    free: dict[str, Result]
    blocked: dict[str, Result]
    attacked: dict[int, dict[str, Result]]


def hear(frames: int, seed: int) -> Heard:
    """Send frames through the chip-level receivers."""
    rng = np.random.default_rng(seed)
    attacked = {}
    for power_db in POWERS_DB:
        progress(f"chip level: {frames} frames under {power_db} dB")
        attacked[power_db] = trial(Air(attacker_db=power_db), frames, rng)
    progress(f"chip level: {frames} frames without an attacker, twice")
    return Heard(
        free=trial(Air(), frames, rng),
        blocked=trial(Air(blocked=True), frames, rng),
        attacked=attacked,
    )


# ---- event level ---------------------------------------------------------------------------------


def _late_s(firsts: Firsts) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return how much later frames are taken than they came, and which were not taken at all."""
    lost = firsts == NO_FIX
    return np.where(lost, 0, firsts) * CHIP_S, lost


def genuine_frames(
    heard: Heard, receiver: str, at: NDArray[np.float64], rng: Any, *, hard: bool = False
) -> Tampering:
    """Return what the receiver itself makes of frames that nobody attacks.

    The extra paths of blocked links are the channel's. With ``hard`` the first path of each link
    through the body is 12 dB under the strongest besides, anew in each frame: the receiver that
    misses it in one frame of three shifts one time stamp by 5 chips.
    """
    anchors = np.asarray(CAR.anchors_m)
    x = at[:, :1] + 0.6 * (anchors[:, 0] - at[:, :1])
    y = at[:, 1:2] + 0.6 * (anchors[:, 1] - at[:, 1:2])
    inner = (np.abs(x) < CAR.half_length_m - 0.1) & (np.abs(y) < CAR.half_width_m - 0.1)
    late, lost = {}, np.zeros(inner.shape, bool)
    for frame in FRAMES:
        free = rng.choice(heard.free[receiver].first, inner.shape)
        blocked = rng.choice(heard.blocked[receiver].first, inner.shape)
        late[frame], gone = _late_s(np.where(inner & hard, blocked, free))
        lost |= gone
    return Tampering(
        poll_s=late["poll"], response_s=late["response"], final_s=late["final"], lost=lost
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One manner of attack; the frames that it reaches hear the attacker, the others do not."""

    power_db: int
    frames: tuple[str, ...]
    duty: float

    def over(self, genuine: Tampering, heard: Heard, receiver: str, rng: Any) -> Tampering:
        """Return the genuine frames of some rounds with the attack over them."""
        shape = np.shape(genuine.poll_s)
        now = rng.random((shape[0], 1)) < self.duty
        firsts = heard.attacked[self.power_db][receiver].first
        late = {name: getattr(genuine, f"{name}_s") for name in FRAMES}
        lost = np.array(genuine.lost)
        for frame in self.frames:
            shifted, gone = _late_s(rng.choice(firsts, shape))
            late[frame] = np.where(now, shifted, late[frame])
            lost = np.where(now, lost | gone, lost)
        return Tampering(
            poll_s=late["poll"], response_s=late["response"], final_s=late["final"], lost=lost
        )


def _stacked(parts: list[Tampering]) -> Tampering:
    return Tampering(
        **{
            name: np.concatenate([np.asarray(getattr(each, name)) for each in parts])
            for name in ("poll_s", "response_s", "final_s", "lost")
        }
    )


@cache
def _model() -> RangeModel:
    return RangeModel(LAYOUT)


class Vehicle:
    """One vehicle and the phone that it ranges."""

    def __init__(self, gate: GateSettings, seed: int) -> None:
        chance = np.random.default_rng(seed)
        estimator = ParticleFilter(LAYOUT, chance, model=_model())
        self.tracker = DeviceTracker(LAYOUT, SESSION, estimator, gate)
        self.proximity = Proximity(ProximitySettings(mode=ProximityMode.PASSIVE_APPROACH))
        self.suspicious = 0
        self.trusted = False
        self.used: frozenset[int] = frozenset()

    def decide(self, measured: RangingRound, *, pull: bool) -> bool:
        """Take a round and return whether the doors open; with ``pull`` for a hand at a handle.

        The hand is at the door where the phone seems to be. Who raised suspicion steps up at
        once, so that every attempt counts.
        """
        trust = self.tracker.update(measured)
        zone = self.tracker.zone(measured.at_s)
        key = KeyPresence(grant=OWNER, zone=zone, trust=trust, standard=True, consent=True)
        handle = None
        if pull:
            handle = zone.zone if zone.zone in DOORS else Zone.DOOR_DRIVER
        doors = self.proximity.update(
            [key], signals=PARKED, now_s=measured.at_s, handle=handle
        ).doors
        self.trusted = trust.level is TrustLevel.TRUSTED
        self.used = trust.anchors if self.trusted else frozenset()
        if trust.level is TrustLevel.SUSPICIOUS:
            self.suspicious += 1
            self.tracker.gate.stepped_up(standard=True, user_action=True)
        return doors is not None and doors.action is Action.UNLOCK


def _round(rounds: Rounds, track: int, block: int) -> RangingRound:
    return rounds.round(
        track, block=block & 0xFFFF, at_s=block * BLOCK_S, sts_index=block * 16, session_id=SESSION
    )


@dataclass(slots=True)
class Attacked:
    """What an attack came to.

    Attributes:
        opened: Doors that opened.
        decisions: Hands at a handle, one for each round.
        forged: Rounds with a range that is at least 2.4 m too short.
        believed: Those of them that were trusted and moved the position by such a range.
        suspicious: Rounds that raised suspicion.
    """

    opened: int = 0
    decisions: int = 0
    forged: int = 0
    believed: int = 0
    suspicious: int = 0


def attack(heard: Heard, receiver: str, gate: GateSettings, decisions: int, seed: int) -> Attacked:
    """Attack vehicles from all sides with all powers, phones 12 m away."""
    rng = np.random.default_rng(seed)
    cells = [
        Cell(power_db=power, frames=frames, duty=duty)
        for power in POWERS_DB
        for frames in REACH.values()
        for duty in DUTIES
    ]
    each = 2
    tracks = each * len(cells)
    angle = rng.uniform(0, 2 * np.pi, tracks)
    at = AWAY_M * np.stack([np.cos(angle), np.sin(angle)], 1)
    clocks = Clocks.draw(Channel.PROTOTYPE, tracks, len(CAR.anchors_m), rng)
    vehicles = [Vehicle(gate, seed + track) for track in range(tracks)]
    found = Attacked()
    for block in range(WARM + -(-decisions // tracks)):
        clocks = clocks.later(Channel.PROTOTYPE, BLOCK_S, rng)
        tampering = genuine = genuine_frames(heard, receiver, at, rng)
        if block >= WARM:
            rows = [slice(n * each, (n + 1) * each) for n in range(len(cells))]
            tampering = _stacked(
                [
                    cell.over(genuine.rows(part, tracks), heard, receiver, rng)
                    for cell, part in zip(cells, rows, strict=True)
                ]
            )
        rounds = simulate(Channel.PROTOTYPE, CAR, Where(at_m=at), clocks, rng, tampering=tampering)
        short = rounds.path_m - rounds.distance_m >= EARLY_M
        for track, vehicle in enumerate(vehicles):
            opens = vehicle.decide(_round(rounds, track, block), pull=block >= WARM)
            if block < WARM:
                continue
            forged = np.flatnonzero(short[track])
            found.opened += opens
            found.decisions += 1
            found.forged += len(forged) > 0
            found.believed += not vehicle.used.isdisjoint(forged.tolist())
    found.suspicious = sum(each.suspicious for each in vehicles)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """What walks to the door came to.

    Attributes:
        rounds: Rounds after the first three, which agree with nothing before them.
        doubted: Those of them that were not trusted.
        after_ms: Time from the door zone entered to the door open; inf for one that stays shut.
    """

    rounds: int
    doubted: int
    after_ms: list[float]


_TO_THE_DOOR = Path(
    points=(
        Waypoint(at_m=(2.0, 7.0)),
        Waypoint(at_m=(0.3, 1.35), speed_m_s=1.4, dwell_s=AT_DOOR_S, spread_m=0.05),
    )
)


def walk_up(
    gate: GateSettings,
    count: int,
    seed: int,
    frames: Callable[[NDArray[np.float64], Any], Tampering],
) -> Walked:
    """Walk to the driver's door; ``frames`` says what happens to frames from a place."""
    rng = np.random.default_rng(seed)
    walk = walks(_TO_THE_DOOR, count, rng, block_s=BLOCK_S)
    clocks = Clocks.draw(Channel.PROTOTYPE, count, len(CAR.anchors_m), rng)
    vehicles = [Vehicle(gate, seed + track) for track in range(count)]
    driver = LAYOUT.doors[0]
    away = np.hypot(walk.at_m[..., 0] - driver.x_m, walk.at_m[..., 1] - driver.y_m)
    due = (away <= LAYOUT.zones.door_enter_m).argmax(axis=0)
    opened = np.full(count, np.inf)
    total = doubted = 0
    for block in range(len(walk.at_s)):
        clocks = clocks.later(Channel.PROTOTYPE, BLOCK_S, rng)
        at = walk.at_m[block]
        rounds = simulate(
            Channel.PROTOTYPE, CAR, walk.where(block), clocks, rng, tampering=frames(at, rng)
        )
        for track, vehicle in enumerate(vehicles):
            if vehicle.decide(_round(rounds, track, block), pull=False):
                opened[track] = min(opened[track], block)
            if block >= 3:
                total += 1
                doubted += not vehicle.trusted
    return Walked(
        rounds=total, doubted=doubted, after_ms=((opened - due) * BLOCK_S * 1000).tolist()
    )
