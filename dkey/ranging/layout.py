"""Where a vehicle's anchors, cabin and door handles are; the TOML format of that (a value).

Coordinates are metres on level ground: origin in the middle of the vehicle, x forward, y to the
left, z up. Polygons are convex, corners in counter-clockwise order (specs/proximity.md §1).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from enum import StrEnum
from math import isfinite
from typing import Final

from dkey.errors import FileFormatError

__all__ = [
    "Anchor",
    "Door",
    "Layout",
    "Mount",
    "Zone",
    "ZoneRules",
    "format_layout",
    "parse_layout",
]

CLAUSE: Final = "specs/proximity.md §1"
FORMAT: Final = "dkey.layout/1"
MAX_ANCHORS: Final = 10
"""A CCC round has at most this many responders."""
_LIMIT_M: Final = 20.0
_MIN_ANCHORS: Final = 3

Point = tuple[float, float]
Polygon = tuple[Point, ...]


class Zone(StrEnum):
    """Where a device is, as coarse as the decisions need it."""

    CABIN = "CABIN"
    DOOR_DRIVER = "DOOR_DRIVER"
    DOOR_PASSENGER = "DOOR_PASSENGER"
    TRUNK = "TRUNK"
    NEAR = "NEAR"
    """Close to the vehicle, at no door."""
    FAR = "FAR"


DOORS: Final = frozenset({Zone.DOOR_DRIVER, Zone.DOOR_PASSENGER, Zone.TRUNK})


class Mount(StrEnum):
    """What an anchor is fixed to; decides which positions see it past no metal."""

    BODY = "BODY"
    CABIN = "CABIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """One anchor; its index in :attr:`Layout.anchors` is its number in measurements."""

    name: str
    mount: Mount
    x_m: float
    y_m: float
    z_m: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A door zone: the disc around the point of a handle, outside of the cabin."""

    zone: Zone
    x_m: float
    y_m: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneRules:
    """When a zone is entered and left; each has its own threshold so that none flickers.

    Attributes:
        cabin_enter: Posterior mass in the cabin from which a device is inside.
        cabin_leave: Posterior mass below which it is inside no more.
        door_enter_m: Distance to the handle at which its zone is entered.
        door_leave_m: Distance to the handle beyond which it is left.
        near_enter_m: Distance to the outline at which NEAR is entered.
        near_leave_m: Distance to the outline beyond which it is left.
        dwell_s: How long a zone other than CABIN must be seen before it counts.
        far_dwell_s: The same for FAR, which locks.
        max_sd_m: A position less sure than this enters no door zone.
        max_early_m: A position that a range contradicts by more than this enters no zone.
        stale_s: Without a measurement for this long, the zone is unknown.
    """

    cabin_enter: float = 0.75
    cabin_leave: float = 0.3
    door_enter_m: float = 1.5
    door_leave_m: float = 1.75
    near_enter_m: float = 2.0
    near_leave_m: float = 2.5
    dwell_s: float = 0.09
    far_dwell_s: float = 1.0
    max_sd_m: float = 0.4
    max_early_m: float = 0.3
    stale_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One vehicle as ranging sees it.

    Attributes:
        phone_height_m: Height above ground at which devices are assumed.
        outline: The body, seen from above; metal within it blocks the direct path.
        cabin: Where a device counts as inside.
    """

    name: str
    phone_height_m: float
    outline: Polygon
    cabin: Polygon
    anchors: tuple[Anchor, ...]
    doors: tuple[Door, ...]
    zones: ZoneRules = ZoneRules()


def parse_layout(text: str) -> Layout:
    """Return the layout in a TOML text.

    Raises:
        FileFormatError: The text is no TOML, or not what specs/proximity.md §1 prescribes.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _bad(f"the layout is no TOML: {exc}") from exc
    _only(
        document,
        "the layout",
        {"format", "name", "phone_height_m", "outline", "cabin", "anchor", "door", "zones"},
    )
    if document.get("format") != FORMAT:
        raise _bad(f"the layout is not of format {FORMAT}")
    anchors = tuple(_anchor(each) for each in _tables(document, "anchor"))
    if not _MIN_ANCHORS <= len(anchors) <= MAX_ANCHORS:
        raise _bad(f"a layout has {_MIN_ANCHORS} to {MAX_ANCHORS} anchors, not {len(anchors)}")
    doors = tuple(_door(each) for each in _tables(document, "door"))
    if len({each.zone for each in doors}) != len(doors):
        raise _bad("two doors have the same zone")
    if len({each.name for each in anchors}) != len(anchors):
        raise _bad("two anchors have the same name")
    return Layout(
        name=_text(document, "name"),
        phone_height_m=_number(document.get("phone_height_m"), "phone_height_m"),
        outline=_polygon(document.get("outline"), "outline"),
        cabin=_polygon(document.get("cabin"), "cabin"),
        anchors=anchors,
        doors=doors,
        zones=_zones(document.get("zones", {})),
    )


def format_layout(layout: Layout) -> str:
    """Return the TOML text of a layout, which :func:`parse_layout` takes back unchanged."""

    def points(polygon: Polygon) -> str:
        return "[" + ", ".join(f"[{x!r}, {y!r}]" for x, y in polygon) + "]"

    lines = [
        f'format = "{FORMAT}"',
        f'name = "{layout.name}"',
        f"phone_height_m = {layout.phone_height_m!r}",
        f"outline = {points(layout.outline)}",
        f"cabin = {points(layout.cabin)}",
    ]
    for anchor in layout.anchors:
        at = f"[{anchor.x_m!r}, {anchor.y_m!r}, {anchor.z_m!r}]"
        lines += ["", "[[anchor]]", f'name = "{anchor.name}"', f'mount = "{anchor.mount}"']
        lines.append(f"at = {at}")
    for door in layout.doors:
        lines += ["", "[[door]]", f'zone = "{door.zone}"', f"handle = [{door.x_m!r}, {door.y_m!r}]"]
    lines += ["", "[zones]"]
    lines += [f"{each.name} = {getattr(layout.zones, each.name)!r}" for each in fields(ZoneRules)]
    return "\n".join(lines) + "\n"


def _bad(text: str) -> FileFormatError:
    return FileFormatError(text, clause=CLAUSE, hint="compare it with one of the shipped layouts")


def _only(table: dict[str, object], where: str, known: set[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise _bad(f"{where} has the unknown entry {unknown[0]!r}")


def _tables(document: dict[str, object], name: str) -> list[dict[str, object]]:
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _bad(f"{name} is no array of tables")
    return found


def _text(table: dict[str, object], name: str) -> str:
    value = table.get(name)
    # A name goes into messages and back into TOML: no quotes, no control characters.
    if not isinstance(value, str) or not value or not value.replace("-", "").isalnum():
        raise _bad(f"{name} is no text of letters, digits and hyphens")
    return value


def _number(value: object, where: str, limit: float = _LIMIT_M) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(f"{where} is no number")
    if not isfinite(value) or abs(value) > limit:
        raise _bad(f"{where} is not within {limit:g}")
    return float(value)


def _numbers(value: object, count: int, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise _bad(f"{where} is no list of {count} numbers")
    return tuple(_number(each, where) for each in value)


def _polygon(value: object, where: str) -> Polygon:
    if not isinstance(value, list) or not 3 <= len(value) <= 16:
        raise _bad(f"{where} is no list of 3 to 16 corners")
    corners = [_numbers(each, 2, where) for each in value]
    for at, (bx, by) in enumerate(corners):
        ax, ay = corners[at - 1]
        cx, cy = corners[(at + 1) % len(corners)]
        if not (bx - ax) * (cy - by) - (by - ay) * (cx - bx) > 0:
            raise _bad(f"{where} is not convex with its corners counter-clockwise")
    return tuple((x, y) for x, y in corners)


def _anchor(table: dict[str, object]) -> Anchor:
    _only(table, "an anchor", {"name", "mount", "at"})
    x_m, y_m, z_m = _numbers(table.get("at"), 3, "at of an anchor")
    try:
        mount = Mount(_text(table, "mount"))
    except ValueError as exc:
        raise _bad("mount of an anchor is neither BODY nor CABIN") from exc
    return Anchor(name=_text(table, "name"), mount=mount, x_m=x_m, y_m=y_m, z_m=z_m)


def _door(table: dict[str, object]) -> Door:
    _only(table, "a door", {"zone", "handle"})
    x_m, y_m = _numbers(table.get("handle"), 2, "handle of a door")
    name = table.get("zone")
    if name not in DOORS:
        raise _bad(f"zone of a door is none of {', '.join(sorted(DOORS))}")
    return Door(zone=Zone(str(name)), x_m=x_m, y_m=y_m)


def _zones(value: object) -> ZoneRules:
    if not isinstance(value, dict):
        raise _bad("zones is no table")
    known = {each.name for each in fields(ZoneRules)}
    _only(value, "zones", known)
    rules = ZoneRules(**{name: _number(each, name) for name, each in value.items()})
    ordered = (
        0 < rules.cabin_leave <= rules.cabin_enter < 1
        and 0 < rules.door_enter_m <= rules.door_leave_m
        and 0 < rules.near_enter_m <= rules.near_leave_m
        and min(rules.dwell_s, rules.far_dwell_s) >= 0
        and min(rules.max_sd_m, rules.max_early_m, rules.stale_s) > 0
    )
    if not ordered:
        raise _bad("zones: each leave threshold must lie outside of its enter threshold")
    return rules
