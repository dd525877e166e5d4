"""What ``dkey walk`` plays: people, what they do, the channel and who attacks; as TOML text.

The format is fixed in specs/formats.md §17. Layouts are files of their own, so that every scenario
runs on every vehicle.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dkey.control.proximity import ProximityMode
from dkey.lifecycle.roles import Permission
from dkey.ranging.layout import DOORS, Zone
from firmware_mock.uwb_attacks import (
    EARLY_CHANCE,
    Advance,
    EarlyInjection,
    Jamming,
    MixDown,
    Relay,
    Replay,
)
from firmware_mock.uwb_channel import Channel
from firmware_mock.uwb_paths import Path, Variation, Waypoint
from firmware_mock.walk_tables import Table, bad

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_mock.uwb_attacks import Attack

__all__ = [
    "FORMAT",
    "Deed",
    "Event",
    "Expected",
    "OnAir",
    "Person",
    "Scenario",
    "parse_scenario",
]

FORMAT: Final = "dkey.scenario/1"
MAX_PEOPLE: Final = 4
_MAX_S: Final = 600.0
_USUAL: Final = Variation()
_FRAMES: Final = ("poll", "response", "final")
_PRESETS: Final = {
    "clean": Channel.CLEAN,
    "prototype": Channel.PROTOTYPE,
    "pocket": Channel.POCKET,
    "garage": Channel.GARAGE,
}


class Deed(StrEnum):
    """What somebody does at the vehicle."""

    TOUCH_HANDLE = "TOUCH_HANDLE"
    OPEN_DOOR = "OPEN_DOOR"
    """Pulls a door open; a locked one stays shut."""
    CLOSE_DOOR = "CLOSE_DOOR"
    PRESS_START = "PRESS_START"
    STOP_ENGINE = "STOP_ENGINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something done at the vehicle, at a time or when somebody has come to a place.

    Attributes:
        deed: What.
        door: Whose handle, with TOUCH_HANDLE.
        person: Number of the person to wait for; None for a time of the scenario.
        waypoint: The one they have come to.
        after_s: Seconds after that, or after the beginning.
        every_s: Again and again with this period; None for once.
    """

    deed: Deed
    door: Zone | None = None
    person: int | None = None
    waypoint: int = 0
    after_s: float = 0.0
    every_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with a phone that has a key.

    Attributes:
        standard: Whether the session was opened by a standard transaction.
        consent: Whether they consent to being located.
    """

    name: str
    path: Path
    permission: Permission = Permission.ENTRY_AND_START
    standard: bool = True
    consent: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OnAir:
    """An attack and the time in which it runs."""

    attack: Attack
    kind: str
    from_s: float = 0.0
    until_s: float = _MAX_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What should happen at least once in a run, or never; None for either."""

    unlock: bool | None = None
    lock: bool | None = None
    start: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scene.

    Attributes:
        title: What happens, in one line.
        locked: Whether the vehicle is locked in the beginning.
        block_s: Time of a ranging block.
        duration_s: When it ends; None for when everybody has gone their way.
    """

    name: str
    title: str
    people: tuple[Person, ...]
    mode: ProximityMode = ProximityMode.PASSIVE_APPROACH
    locked: bool = True
    block_s: float = 0.096
    duration_s: float | None = None
    channel: Channel = Channel.PROTOTYPE
    variation: Variation = _USUAL
    events: tuple[Event, ...] = ()
    attacks: tuple[OnAir, ...] = ()
    expected: Expected = Expected()


def parse_scenario(text: str) -> Scenario:
    """Return the scenario in a TOML text.

    Raises:
        FileFormatError: The text is no TOML, or not what specs/formats.md §17 prescribes.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise bad(f"the scenario is no TOML: {exc}") from exc
    top = Table(document, "the scenario")
    if "format" not in top or top.one_of("format", [FORMAT]) != FORMAT:
        raise bad(f"the scenario is not of format {FORMAT}")
    people = tuple(_person(each) for each in top.tables("person", MAX_PEOPLE))
    if not people:
        raise bad("the scenario has no person")
    if len({each.name for each in people}) != len(people):
        raise bad("two people have the same name")
    scenario = Scenario(
        name=top.name("name"),
        title=top.line("title"),
        people=people,
        mode=top.choice("mode", ProximityMode, ProximityMode.PASSIVE_APPROACH),
        locked=top.flag("locked", default=True),
        block_s=top.number("block_s", 0.048, 1.0, 0.096),
        duration_s=top.maybe("duration_s", 1, _MAX_S),
        channel=_channel(top.table("channel"), top.table("clocks")),
        variation=_variation(top.table("variation")),
        events=tuple(_event(each, people) for each in top.tables("event", 32)),
        attacks=tuple(_attack(each) for each in top.tables("attack", 8)),
        expected=_expected(top.table("expect")),
    )
    top.end()
    return scenario


def _person(table: Table) -> Person:
    points = tuple(_waypoint(each) for each in table.tables("waypoint", 32))
    if len(points) < 2:
        raise table.wrong("waypoint", "is needed at least twice")
    person = Person(
        name=table.name("name"),
        path=Path(points=points, back_pocket=table.flag("back_pocket", default=False)),
        permission=table.choice("permission", Permission, Permission.ENTRY_AND_START),
        standard=table.flag("standard", default=True),
        consent=table.flag("consent", default=True),
    )
    table.end()
    return person


def _waypoint(table: Table) -> Waypoint:
    x_m, y_m = table.numbers("at", -100, 100, least=2, most=2)
    point = Waypoint(
        at_m=(x_m, y_m),
        speed_m_s=table.number("speed_m_s", 0.1, 5, 1.3),
        dwell_s=table.number("dwell_s", 0, _MAX_S, 0.0),
        spread_m=table.number("spread_m", 0, 5, 0.1),
    )
    table.end()
    return point


def _event(table: Table, people: tuple[Person, ...]) -> Event:
    deed = table.choice("do", Deed)
    door = None
    if deed is Deed.TOUCH_HANDLE:
        door = Zone(table.one_of("door", sorted(DOORS)))
    event = Event(deed=deed, door=door)
    if "person" in table:
        names = [each.name for each in people]
        person = names.index(table.one_of("person", names))
        points = len(people[person].path.points)
        event = replace(
            event,
            person=person,
            waypoint=table.whole("waypoint", 1, points) - 1,
            after_s=table.number("after_s", 0, _MAX_S, 0.0),
        )
    else:
        event = replace(event, after_s=table.number("at_s", 0, _MAX_S))
    event = replace(event, every_s=table.maybe("every_s", 0.05, _MAX_S))
    table.end()
    return event


def _channel(table: Table, clocks: Table) -> Channel:
    base = _PRESETS[table.one_of("preset", _PRESETS, "prototype")]
    changed = replace(
        base,
        blocked_m=table.number("blocked_m", 0, 10, base.blocked_m),
        body_share=table.number("body_share", 0, 1, base.body_share),
        body_m=table.number("body_m", 0, 10, base.body_m),
        pocket_m=table.number("pocket_m", 0, 10, base.pocket_m),
        pocket_db=table.number("pocket_db", 0, 60, base.pocket_db),
        loss=table.number("loss", 0, 1, base.loss),
        loss_blocked=table.number("loss_blocked", 0, 1, base.loss_blocked),
        loss_pocket=table.number("loss_pocket", 0, 1, base.loss_pocket),
        outage=table.number("outage", 0, 1, base.outage),
        stamp_noise_s=clocks.number("stamp_noise_ps", 0, 10_000, base.stamp_noise_s, scale=1e-12),
        clock_ppm=clocks.number("ppm", 0, 100, base.clock_ppm),
        drift_ppm_s=clocks.number("drift_ppm_s", 0, 10, base.drift_ppm_s),
        slot_s=clocks.number("slot_ms", 0.3, 6, base.slot_s, scale=1e-3),
    )
    table.end()
    clocks.end()
    return changed


def _variation(table: Table) -> Variation:
    base = _USUAL
    found = Variation(
        speed=table.number("speed", 0, 1, base.speed),
        dwell=table.number("dwell", 0, 1, base.dwell),
        start_rad=table.number("start_rad", 0, 3.2, base.start_rad),
    )
    table.end()
    return found


def _expected(table: Table) -> Expected:
    found = Expected(
        unlock=table.maybe_flag("unlock"),
        lock=table.maybe_flag("lock"),
        start=table.maybe_flag("start"),
    )
    table.end()
    return found


# ---- attacks -------------------------------------------------------------------------------------


def _anchors(table: Table) -> frozenset[int] | None:
    if "anchors" not in table:
        return None
    found = table.numbers("anchors", 0, 9, least=1, most=10)
    if any(each != int(each) for each in found):
        raise table.wrong("anchors", "is no list of whole numbers")
    return frozenset(int(each) for each in found)


def _relay(table: Table) -> Attack:
    return Relay(
        path_m=table.number("path_m", 0, 100_000),
        delay_s=table.number("delay_ns", 0, 1e9, 20e-9, scale=1e-9),
    )


def _early(table: Table) -> Attack:
    default = "first path > 25 %"
    frames = table.words("frames", _FRAMES) if "frames" in table else frozenset(_FRAMES)
    return EarlyInjection(
        power_db=table.number("power_db", -20, 30),
        receiver=table.one_of("receiver", EARLY_CHANCE, default),
        frames=frames,
        anchors=_anchors(table),
    )


def _advance(table: Table) -> Attack:
    poll, response, final = (
        table.number(f"{frame}_ns", -1000, 1000, 0.0, scale=1e-9) for frame in _FRAMES
    )
    return Advance(poll_s=poll, response_s=response, final_s=final, anchors=_anchors(table))


def _replay(table: Table) -> Attack:
    other = table.flag("other_ursk", default=False)
    return Replay(
        index_back=table.whole("index_back", 0 if other else 1, 2**31 - 1, 12), other_ursk=other
    )


def _skew(table: Table) -> Attack:
    return MixDown(
        skew_ppm=table.number("skew_ppm", -1000, 1000),
        response_only=table.flag("response_only", default=False),
    )


def _jamming(table: Table) -> Attack:
    return Jamming(
        share=table.number("share", 0, 1),
        whole_rounds=table.flag("whole_rounds", default=False),
    )


_ATTACKS: Final[dict[str, Callable[[Table], Attack]]] = {
    "relay": _relay,
    "early-arrival": _early,
    "advance": _advance,
    "sts-replay": _replay,
    "clock-skew": _skew,
    "jamming": _jamming,
}


def _attack(table: Table) -> OnAir:
    kind = table.one_of("kind", _ATTACKS)
    from_s = table.number("from_s", 0, _MAX_S, 0.0)
    until_s = table.number("until_s", from_s, _MAX_S, _MAX_S)
    found = OnAir(attack=_ATTACKS[kind](table), kind=kind, from_s=from_s, until_s=until_s)
    table.end()
    return found
