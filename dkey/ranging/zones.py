"""From positions to zones: separate thresholds to enter and to leave, dwell, and staleness.

The cabin goes by posterior mass, the rest by distance. CABIN counts at once, so that a device that
was carried in is not locked in; every other zone must be seen for a while (specs/proximity.md §4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import hypot
from typing import TYPE_CHECKING, Final

from dkey.ranging.layout import Zone

if TYPE_CHECKING:
    from dkey.ranging.layout import Layout, Polygon
    from dkey.ranging.position import Estimate

__all__ = ["MAX_LATE_M", "ZoneState", "ZoneTracker", "outline_distance_m"]

MAX_LATE_M: Final = 3.0
"""A position for which every range is longer by more than this is none (ours)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneState:
    """Where a device is.

    Attributes:
        zone: None while it is unknown: nothing measured yet, or too long ago.
        since_s: Since when, monotonic s.
        measured_s: Time of the last measurement; None before the first.
        last: The last zone that was known, also while it is unknown now.
    """

    zone: Zone | None = None
    since_s: float = 0.0
    measured_s: float | None = None
    last: Zone | None = None


class ZoneTracker:
    """Follows one device."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rules = layout.zones
        self._state = ZoneState()
        self._candidate: Zone | None = None
        self._candidate_s = 0.0

    def state(self, now_s: float) -> ZoneState:
        """Return where the device is as of now."""
        state = self._state
        if state.measured_s is None or state.zone is None:
            return state
        if 0 <= now_s - state.measured_s <= self._rules.stale_s:
            return state
        return ZoneState(
            zone=None,
            since_s=state.measured_s + self._rules.stale_s,
            measured_s=state.measured_s,
            last=state.zone,
        )

    def update(self, estimate: Estimate | None, now_s: float) -> ZoneState:
        """Take the estimate of one round; None, from an estimator that lost it, changes nothing."""
        before = self.state(now_s)
        if estimate is None:
            return before
        if estimate.early_m > self._rules.max_early_m:
            # Measured, but at no position: the zone stays, and nothing is on its way to the next.
            self._candidate = None
            self._state = replace(before, measured_s=now_s)
            return self._state
        if estimate.late_m > MAX_LATE_M:
            # The estimator holds on to a place where the device is not: nobody knows where it is.
            self._candidate = None
            self._state = ZoneState(
                zone=None, since_s=now_s, measured_s=now_s, last=before.zone or before.last
            )
            return self._state
        seen = self._seen(estimate, before.zone)
        if seen is not self._candidate:
            self._candidate, self._candidate_s = seen, now_s
        zone, since_s = before.zone, before.since_s
        if seen is not zone and now_s - self._candidate_s >= self._dwell_s(seen, before.last):
            zone, since_s = seen, now_s
        self._state = ZoneState(
            zone=zone,
            since_s=since_s,
            measured_s=now_s,
            last=zone or before.last,
        )
        return self._state

    def _dwell_s(self, seen: Zone, last: Zone | None) -> float:
        if seen is Zone.CABIN:
            return 0.0
        if seen is Zone.FAR and last is not None:
            return self._rules.far_dwell_s
        return self._rules.dwell_s

    def _seen(self, estimate: Estimate, zone: Zone | None) -> Zone:
        """Return the zone of this estimate; the present zone keeps it a little longer."""
        rules = self._rules
        mass = rules.cabin_leave if zone is Zone.CABIN else rules.cabin_enter
        if estimate.inside >= mass:
            return Zone.CABIN
        door = self._door(estimate, zone)
        if door is not None:
            return door
        near_m = rules.near_enter_m
        if zone is not None and zone is not Zone.FAR:
            near_m = rules.near_leave_m
        away_m = outline_distance_m(self._layout.outline, estimate.x_m, estimate.y_m)
        return Zone.NEAR if away_m <= near_m else Zone.FAR

    def _door(self, estimate: Estimate, zone: Zone | None) -> Zone | None:
        rules = self._rules
        nearest: tuple[float, Zone] | None = None
        for door in self._layout.doors:
            away_m = hypot(estimate.x_m - door.x_m, estimate.y_m - door.y_m)
            stays = zone is door.zone
            if away_m > (rules.door_leave_m if stays else rules.door_enter_m):
                continue
            if not stays and estimate.sd_m > rules.max_sd_m:
                continue
            if nearest is None or away_m < nearest[0]:
                nearest = (away_m, door.zone)
        return None if nearest is None else nearest[1]


def outline_distance_m(outline: Polygon, x_m: float, y_m: float) -> float:
    """Return the distance of a point to a convex polygon with its corners counter-clockwise."""
    nearest, outside = float("inf"), False
    ax, ay = outline[-1]
    for bx, by in outline:
        ex, ey = bx - ax, by - ay
        px, py = x_m - ax, y_m - ay
        outside |= ex * py - ey * px < 0
        along = max(0.0, min(1.0, (px * ex + py * ey) / (ex * ex + ey * ey)))
        nearest = min(nearest, hypot(px - along * ex, py - along * ey))
        ax, ay = bx, by
    return nearest if outside else 0.0
