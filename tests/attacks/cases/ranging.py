"""Distance: relays and shortened ranges against the trust gate and the decisions (cases 21, 22).

Pure: rounds of a genuine device whose ranges an attacker changes on the way. What the attacker
does to the radio itself is played elsewhere; here he has already succeeded with it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from math import hypot
from typing import TYPE_CHECKING

from dkey.control.proximity import KeyPresence, Proximity, ProximityMode, ProximitySettings
from dkey.control.rules import Grant, Signals
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.ranging.gate import TrustLevel
from dkey.ranging.kalman import KalmanFilter
from dkey.ranging.layout import Zone
from dkey.ranging.layouts import shipped_layout
from dkey.ranging.measurement import AnchorRange, RangingRound
from dkey.ranging.tracker import DeviceTracker

from .. import Broken, Edit, case

if TYPE_CHECKING:
    from collections.abc import Callable

GATE, RULES = "dkey.ranging.gate", "dkey.control.proximity_rules"
LAYOUT = shipped_layout("saloon")
SESSION = 7
BLOCK_S = 0.096
GRANT = Grant(
    credential_id="owner",
    name="owner",
    role=Role.OWNER,
    permission=Permission.ENTRY_AND_START,
    state=CredentialState.ACTIVE,
)
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
_LAST_LINE = Edit(
    module=RULES,
    old="        holds=lambda case: case.key.trust.level is not TrustLevel.TRUSTED,",
    new="        holds=lambda case: False,",
)
_UNSUSPECTED = Edit(
    module=RULES,
    old="        holds=lambda case: case.key.trust.level is TrustLevel.SUSPICIOUS,",
    new="        holds=lambda case: False,",
)


class Radio:
    """A vehicle that decides on what its anchors measure of one device."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.block = 0
        self.tracker = DeviceTracker(LAYOUT, SESSION, KalmanFilter(LAYOUT))
        self.proximity = Proximity(ProximitySettings(mode=ProximityMode.PASSIVE_APPROACH))
        self.acted: list[str] = []

    def genuine(self, x_m: float, y_m: float) -> RangingRound:
        """Return the next round of a device at this place."""
        self.block += 1
        ranges = []
        for at, anchor in enumerate(LAYOUT.anchors):
            flat = hypot(x_m - anchor.x_m, y_m - anchor.y_m)
            metres = hypot(flat, LAYOUT.phone_height_m - anchor.z_m) + self.chance.gauss(0, 0.02)
            ratio = 1000.0 + self.chance.gauss(0, 18)
            ranges.append(
                AnchorRange(anchor=at, distance_cm=round(100 * metres), clock_ratio_ppb=ratio)
            )
        return RangingRound(
            session_id=SESSION,
            block=self.block,
            round=0,
            sts_index=100 * self.block,
            at_s=self.block * BLOCK_S,
            ranges=tuple(ranges),
        )

    def take(self, measured: RangingRound) -> TrustLevel:
        """Measure, decide, and have hands at the handle and on START at every moment."""
        level = self.tracker.update(measured).level
        now_s = self.block * BLOCK_S
        key = KeyPresence(
            grant=GRANT,
            zone=self.tracker.zone(now_s),
            trust=self.tracker.trust(now_s),
            standard=True,
            consent=True,
        )
        for handle in (None, Zone.DOOR_DRIVER):
            found = self.proximity.update(
                [key], signals=PARKED, now_s=now_s, handle=handle, start_pressed=True
            )
            for verdict in (found.doors, found.start):
                if verdict is not None and verdict.action is not None:
                    self.acted.append(verdict.action.value)
        return level

    def settle(self, x_m: float, y_m: float, rounds: int = 12) -> None:
        """Let the device stand far away for a while."""
        for _ in range(rounds):
            self.take(self.genuine(x_m, y_m))
        if self.tracker.trust(self.block * BLOCK_S).level is not TrustLevel.TRUSTED:
            raise RuntimeError("not even genuine rounds are trusted: the case shows nothing")

    def walk_in(self) -> None:
        """Check that the scene can be won at all: the genuine holder comes, and sits down."""
        other = Radio(random.Random(1))
        for step in range(90):
            other.take(other.genuine(0.3, max(1.5, 8.0 - 0.12 * step)))
        for _ in range(30):
            other.take(other.genuine(0.2, 0.3))
        if not {"UNLOCK", "START"} <= set(other.acted):
            raise RuntimeError(f"the genuine holder gets {other.acted}: the case shows nothing")


def at_the_door(radio: Radio) -> RangingRound:
    """What the attacker wants the vehicle to measure."""
    return radio.genuine(0.3, 1.4)


def no_action(radio: Radio, what: str) -> None:
    assert not radio.acted, f"{what}: {', '.join(dict.fromkeys(radio.acted))}"


# --- 5 fast transactions --------------------------------------------------------------------------


@case(
    5,
    "a key in the cabin starts nothing after a fast transaction alone",
    source="Apple Platform Security: standard is mandatory for engine start",
    broken=[
        Broken(
            module=RULES,
            old="        holds=lambda case: case.key.standard is not True,",
            new="        holds=lambda case: False,",
            why="the rules of proximity start do not look at the flow",
        ),
    ],
)
def fast_start_by_proximity(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.walk_in()
    for _ in range(30):
        radio.tracker.update(radio.genuine(0.2, 0.3))
    now_s = radio.block * BLOCK_S
    key = KeyPresence(
        grant=GRANT, zone=radio.tracker.zone(now_s), trust=radio.tracker.trust(now_s), consent=True
    )
    found = radio.proximity.update([key], signals=PARKED, now_s=now_s, start_pressed=True)
    assert not found.start.granted, "a fast transaction started the engine"


# --- 21 relay -------------------------------------------------------------------------------------


@case(
    21,
    "a relay lengthens every range: a key that is answered for from afar stays far",
    source="NCC Group 2022 (BLE relay); distance bounding",
    broken=[
        Broken(
            module=RULES,
            old="        holds=lambda case: case.key.zone.zone is not case.at,",
            new="        holds=lambda case: False,",
            why="a live session is enough, wherever ranging places the device",
        ),
    ],
)
def relayed_ranges(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.walk_in()
    # The attacker's box stands at the door; the device answers through it, 8 ms and more later.
    metres = radio.chance.uniform(30.0, 90.0)
    for _ in range(40):
        measured = at_the_door(radio)
        ranges = tuple(
            replace(each, distance_cm=each.distance_cm + 100 * metres) for each in measured.ranges
        )
        radio.take(replace(measured, ranges=ranges))
    no_action(radio, "a relayed device")


@case(
    21,
    "a relay that only carries the session, and no ranging, opens and starts nothing",
    source="NCC Group 2022: BLE latency alone must not grant entry",
    broken=[
        Broken(
            module=RULES,
            old="        holds=lambda case: case.key.zone.zone is None,",
            new="        holds=lambda case: False,",
            why="without a position the device counts as being where it is needed",
            also=(
                Edit(
                    module=RULES,
                    old="        holds=lambda case: case.key.zone.zone is not case.at,",
                    new="        holds=lambda case: case.key.zone.zone not in (case.at, None),",
                ),
                _LAST_LINE,
            ),
        ),
    ],
)
def relayed_session(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.walk_in()
    key = KeyPresence(grant=GRANT, standard=True, consent=True)
    for step in range(20):
        found = radio.proximity.update(
            [key], signals=PARKED, now_s=float(step), handle=Zone.DOOR_DRIVER, start_pressed=True
        )
        assert not found.doors.granted, "a device that was never ranged opened a door"
        assert not found.start.granted, "a device that was never ranged started the engine"


# --- 22 shortened distances -----------------------------------------------------------------------


def shortened(
    seed: int, forge: Callable[[Radio, RangingRound], RangingRound], what: str, rounds: int = 30
) -> Radio:
    """A device 12 m away whose rounds are forged; nothing may open or start."""
    radio = Radio(random.Random(seed))
    radio.walk_in()
    radio.settle(8.0, 9.0)
    for _ in range(rounds):
        radio.take(forge(radio, radio.genuine(8.0, 9.0)))
    no_action(radio, what)
    return radio


@case(
    22,
    "all ranges shortened from 12 m to the door in one block: nothing opens",
    source="Ghost Peak (2111.05313)",
    broken=[
        Broken(
            module=GATE,
            old="            if nearer > settings.jump_m:",
            new="            if nearer > 1000 * settings.jump_m:",
            why="a device may come closer at any speed, and agreement is all that is asked for",
        ),
    ],
)
def ghost_peak_on_all(seed: int) -> None:
    def forge(radio: Radio, measured: RangingRound) -> RangingRound:
        radio.block -= 1
        return at_the_door(radio)

    radio = shortened(seed, forge, "shortened ranges")
    trust = radio.tracker.trust(radio.block * BLOCK_S)
    assert trust.level is TrustLevel.SUSPICIOUS, "a jump of 10 m left no suspicion"


@case(
    22,
    "single rounds shortened now and then: nothing opens",
    source="Ghost Peak: up to 4 % of the attempts succeed",
    broken=[
        Broken(
            module=GATE,
            old="            if nearer > settings.jump_m:",
            new="            if nearer > 1000 * settings.jump_m:",
            why="no speed gate and no agreement: each round speaks for itself",
            also=(
                Edit(
                    module=GATE,
                    old="            elif nearer > 2 * settings.step_m:",
                    new="            elif nearer > 1000 * settings.jump_m:",
                ),
                Edit(
                    module=GATE,
                    old="        if not settings.agreement:",
                    new="        if settings.agreement:",
                ),
                Edit(
                    module="dkey.ranging.kalman",
                    old="_LOST_ROUNDS: Final = 5",
                    new="_LOST_ROUNDS: Final = 1",
                ),
                Edit(
                    module="dkey.ranging.zones",
                    old="        return self._rules.dwell_s\n",
                    new="        return 0.0\n",
                ),
            ),
        ),
    ],
)
def ghost_peak_now_and_then(seed: int) -> None:
    def forge(radio: Radio, measured: RangingRound) -> RangingRound:
        if radio.chance.random() > 0.2:
            return measured
        radio.block -= 1
        return at_the_door(radio)

    shortened(seed, forge, "a single shortened round", rounds=60)


@case(
    22,
    "a single anchor shortened for as long as it takes moves no position",
    source="uwb 5: an attacker near one anchor",
    broken=[
        Broken(
            module=GATE,
            old="            if against and 2 * against >= len(good) - 1:",
            new="            if against and 2 * against >= 2 * len(good):",
            why="anchors are not held against one another",
        ),
    ],
)
def one_anchor(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.settle(8.0, 9.0)
    for _ in range(20):
        measured = radio.genuine(8.0, 9.0)
        first, *rest = measured.ranges
        near = replace(first, distance_cm=first.distance_cm - 700)
        radio.take(replace(measured, ranges=(near, *rest)))
        trust = radio.tracker.trust(radio.block * BLOCK_S)
        assert 0 not in trust.anchors, "a shortened range was used for the position"
    no_action(radio, "one shortened anchor")


@case(
    22,
    "an STS index that was used before is refused, and the session is suspicious",
    source="security 5, case 22: STS replay",
    broken=[
        Broken(
            module=GATE,
            old="            if not later or measured.sts_index <= last.sts_index:",
            new="            if not later and measured.sts_index < 0:",
            why="rounds may come twice",
        ),
    ],
)
def sts_replay(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.walk_in()
    # From where the device stands now: nothing but the index tells that they are old.
    recorded = [radio.genuine(8.0, 9.0) for _ in range(6)]
    radio.settle(8.0, 9.0)
    for number in range(len(recorded)):
        radio.block += 1
        radio.take(replace(recorded[number], at_s=radio.block * BLOCK_S))
    trust = radio.tracker.trust(radio.block * BLOCK_S)
    assert trust.level is TrustLevel.SUSPICIOUS, "recorded rounds were taken"
    no_action(radio, "recorded rounds")


@case(
    22,
    "rounds of another session do not count for this one",
    source="security 5, case 22: URSK of another session",
    broken=[
        Broken(
            module=GATE,
            old="        if settings.session and measured.session_id != self._session_id:",
            new="        if settings.session and measured.session_id < 0:",
            why="any session's rounds are taken",
        ),
    ],
)
def another_session(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.walk_in()
    for step in range(90):
        measured = radio.genuine(0.3, max(1.4, 8.0 - 0.12 * step))
        radio.take(replace(measured, session_id=SESSION + 1 + seed))
    no_action(radio, "the attacker's own session")


@case(
    22,
    "ranging whose STS failed opens nothing, whatever distance it reports",
    source="uwb 5: reject rounds whose STS or its consistency check failed",
    broken=[
        Broken(
            module=GATE,
            old="        if failed and settings.sts_status:",
            new="        if failed and not settings.sts_status:",
            why="the status of the STS is not looked at",
            also=(
                Edit(
                    module="dkey.ranging.range_model",
                    old="_MEASURED: Final = frozenset({0x00, 0x1B})",
                    new="_MEASURED: Final = frozenset({0x00, 0x1B, 0x24, 0xE1})",
                ),
            ),
        ),
    ],
)
def failed_sts(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.walk_in()
    for step in range(90):
        measured = radio.genuine(0.3, max(1.4, 8.0 - 0.12 * step))
        ranges = tuple(
            replace(each, status=radio.chance.choice((0x24, 0xE1))) for each in measured.ranges
        )
        radio.take(replace(measured, ranges=ranges))
    no_action(radio, "ranges without a good STS")


@case(
    22,
    "a session on static STS opens nothing",
    source="uwb 5: a static STS proves nothing",
    broken=[
        Broken(
            module=GATE,
            old="        if settings.static_sts and measured.static_sts:",
            new="        if settings.static_sts and not measured.at_s:",
            why="a static STS is as good as any",
        ),
    ],
)
def static_sts(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.walk_in()
    for step in range(90):
        measured = radio.genuine(0.3, max(1.4, 8.0 - 0.12 * step))
        radio.take(replace(measured, static_sts=True))
    no_action(radio, "a static STS")


@case(
    22,
    "an early frame shows in the ratio of the clocks, and costs its anchor",
    source="uwb 6.4: clock-ratio consistency",
    broken=[
        Broken(
            module=GATE,
            old="        if abs(ratio - base) > limit:",
            new="        if abs(ratio - base) > 1000 * limit:",
            why="the clocks are not looked at",
        ),
    ],
)
def early_frame(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.settle(8.0, 9.0)
    measured = radio.genuine(8.0, 9.0)
    victim = radio.chance.randrange(len(measured.ranges))
    advance_ns = radio.chance.uniform(4.0, 33.0)  # of FINAL alone, over a span of 12 ms
    ranges = tuple(
        replace(each, clock_ratio_ppb=each.clock_ratio_ppb + advance_ns / 12e-3)
        if each.anchor == victim
        else each
        for each in measured.ranges
    )
    radio.take(replace(measured, ranges=ranges))
    trust = radio.tracker.trust(radio.block * BLOCK_S)
    assert victim not in trust.anchors, "a frame that came early was used"


@case(
    22,
    "a negative distance is evidence of an attack, not a device at the anchor",
    source="uwb 5: never clamp",
    broken=[
        Broken(
            module=GATE,
            old="            self._suspect(Reason.IMPLAUSIBLE)\n            return False",
            new="            return False",
            why="what is impossible is dropped without a word",
        ),
        Broken(
            module=GATE,
            old="        if settings.plausibility and not (",
            new="        if not settings.plausibility and not (",
            why="any number is a distance",
        ),
    ],
)
def negative_distance(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.settle(8.0, 9.0)
    measured = radio.genuine(8.0, 9.0)
    ranges = tuple(
        replace(each, status=0x1B, distance_cm=radio.chance.uniform(-900, -40))
        if each.anchor == 2
        else each
        for each in measured.ranges
    )
    level = radio.take(replace(measured, ranges=ranges))
    assert level is TrustLevel.SUSPICIOUS, "a negative distance raised no suspicion"


@case(
    22,
    "after a suspicion the device's own genuine rounds open nothing until it stepped up",
    source="security 5, case 22: hold-down; design 2",
    broken=[
        Broken(
            module=GATE,
            old="        if self._suspicions:\n            level = TrustLevel.SUSPICIOUS",
            new="        if self._suspicions and found:\n            level = TrustLevel.SUSPICIOUS",
            why="suspicion lasts one round",
        ),
        Broken(
            module=GATE,
            old="        if not (standard and user_action):",
            new="        if not (standard or user_action):",
            why="either a transaction or an action ends the suspicion",
        ),
        Broken(
            module=_UNSUSPECTED.module,
            old=_UNSUSPECTED.old,
            new=_UNSUSPECTED.new,
            why="the rules do not look at the trust gate",
            also=(_LAST_LINE,),
        ),
    ],
)
def hold_down(seed: int) -> None:
    radio = Radio(random.Random(seed))
    radio.walk_in()
    radio.settle(0.3, 8.0)
    radio.take(replace(radio.genuine(0.3, 8.0), session_id=99))
    radio.tracker.gate.stepped_up(standard=False, user_action=True)
    radio.tracker.gate.stepped_up(standard=True, user_action=False)
    for step in range(90):
        radio.take(radio.genuine(0.3, max(1.4, 8.0 - 0.12 * step)))
    no_action(radio, "a suspicious session")
