"""Draws one run: the way around the car from above, and distance, zone and trust over time.

Needs matplotlib (extra ``walk``); writes PNG or SVG without a display. Colours are those of Okabe
and Ito, which the colour-blind can tell apart; zones differ in lightness as well.
"""

from __future__ import annotations

from math import hypot
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon

from dkey.errors import LocalFault
from dkey.ranging.gate import TrustLevel
from dkey.ranging.layout import Mount, Zone

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dkey.ranging.layout import Layout
    from firmware_mock.walk_run import Decided, Moment
    from firmware_mock.walk_scenario import Scenario

__all__ = ["draw"]

_ZONES: Final[dict[Zone | None, tuple[str, str]]] = {
    Zone.CABIN: ("#D55E00", "cabin"),
    Zone.DOOR_DRIVER: ("#009E73", "driver's door"),
    Zone.DOOR_PASSENGER: ("#CC79A7", "passenger's door"),
    Zone.TRUNK: ("#E69F00", "trunk"),
    Zone.NEAR: ("#56B4E9", "near"),
    Zone.FAR: ("#999999", "far"),
    None: ("#E8E8E8", "not located"),
}
_TRUST: Final = {
    TrustLevel.TRUSTED: ("#0072B2", "trusted"),
    TrustLevel.DOUBTFUL: ("#F0E442", "doubtful"),
    TrustLevel.SUSPICIOUS: ("#000000", "suspicious"),
}
_INK: Final = "#222222"
_BODY: Final = "#F2F2F2"
_STYLES: Final = ("-", "--", ":", "-.")
_MARGIN_M: Final = 1.5
_MARKS: Final = 6
"""Decisions that are labelled; more would cover one another."""


def draw(scenario: Scenario, layout: Layout, moments: Sequence[Moment], path: Path) -> None:
    """Write the picture of one run to ``path``, a PNG or SVG file.

    Raises:
        LocalFault: The file cannot be written.
    """
    figure = Figure(figsize=(12.5, 7.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    title = "\n".join(wrap(f"{scenario.name}: {scenario.title}", 95))
    figure.suptitle(title, fontsize=13, fontweight="bold", color=_INK)
    shown = _marks(moments)
    grid = figure.add_gridspec(3, 2, width_ratios=(1, 1.25), height_ratios=(3.2, 1, 1))
    _above(figure.add_subplot(grid[:, 0]), scenario, layout, moments, shown)
    distance = figure.add_subplot(grid[0, 1])
    _distance(distance, scenario, layout, moments, shown)
    zones = figure.add_subplot(grid[1, 1], sharex=distance)
    trust = figure.add_subplot(grid[2, 1], sharex=distance)
    _bands(zones, trust, scenario, moments)
    figure.legend(handles=_key(layout, moments), loc="outside lower center", ncols=6, fontsize=9)
    try:
        figure.savefig(path)
    except OSError as exc:
        raise LocalFault(f"cannot write {path}", hint="give --plot another place") from exc


def _marks(moments: Sequence[Moment]) -> list[tuple[int, Moment, Decided]]:
    """Return the decisions to label, numbered: all that were carried out, and first refusals."""
    found: list[tuple[Moment, Decided]] = []
    refused: set[object] = set()
    for moment in moments:
        for each in moment.decided:
            key = (each.asked, each.verdict.code)
            if each.moved or (not each.verdict.granted and key not in refused):
                refused.add(key)
                found.append((moment, each))
    return [(at, *each) for at, each in enumerate(found[:_MARKS], start=1)]


def _text(decided: Decided) -> str:
    if decided.verdict.granted:
        return str(decided.asked).replace("AUTHORISE_", "")
    return f"{decided.asked} refused"


# ---- from above ----------------------------------------------------------------------------------


def _above(
    axes: Any,
    scenario: Scenario,
    layout: Layout,
    moments: Sequence[Moment],
    shown: list[tuple[int, Moment, Decided]],
) -> None:
    axes.add_patch(Polygon(layout.outline, facecolor=_BODY, edgecolor=_INK, lw=1.5, zorder=1))
    axes.add_patch(
        Polygon(layout.cabin, facecolor="none", edgecolor=_INK, lw=0.8, ls=(0, (2, 2)), zorder=2)
    )
    for door in layout.doors:
        colour = _ZONES[door.zone][0]
        reach = Circle(
            (door.x_m, door.y_m), layout.zones.door_enter_m, facecolor=colour, alpha=0.13, zorder=0
        )
        axes.add_patch(reach)
        axes.plot(door.x_m, door.y_m, "_", color=colour, ms=9, mew=3, zorder=3)
    for anchor in layout.anchors:
        marker = "s" if anchor.mount is Mount.BODY else "D"
        axes.plot(anchor.x_m, anchor.y_m, marker, color=_INK, ms=5, zorder=3)
    for at, person in enumerate(scenario.people):
        _way(axes, moments, at)
        x, y = moments[0].people[at].at_m
        axes.annotate(
            person.name, (x, y), xytext=(0, 9), textcoords="offset points", fontsize=9, color=_INK
        )
    for number, moment, decided in shown:
        at = next((n for n, one in enumerate(moment.people) if one.name == decided.who), 0)
        _bubble(axes, moment.people[at].at_m, number, decided)
    far = [one.at_m for moment in moments for one in moment.people]
    corners = [*layout.outline, *far]
    reach_x, reach_y = ([each[axis] for each in corners] for axis in (0, 1))
    axes.set_xlim(min(reach_x) - _MARGIN_M, max(reach_x) + _MARGIN_M)
    axes.set_ylim(min(reach_y) - _MARGIN_M, max(reach_y) + _MARGIN_M)
    axes.set_aspect("equal")
    axes.set_xlabel("forward, m   (front of the car on the right)")
    axes.set_ylabel("to the left, m")
    axes.set_title("From above", fontsize=11, loc="left")
    _quiet(axes)


def _key(layout: Layout, moments: Sequence[Moment]) -> list[Any]:
    """Return what the colours and marks mean: those that are there."""
    seen = {one.zone.zone for moment in moments for one in moment.people}
    places = {each.mount for each in layout.anchors}
    marks = ((Mount.BODY, "s", "anchor on the body"), (Mount.CABIN, "D", "anchor in the cabin"))
    return [
        Line2D([], [], color=_INK, lw=1, label="where the phone is"),
        *(
            Line2D([], [], color=colour, marker="o", ls="", label=f"seen: {name}")
            for zone, (colour, name) in _ZONES.items()
            if zone in seen and zone is not None
        ),
        *(
            Line2D([], [], color=_INK, marker=marker, ls="", ms=5, label=name)
            for mount, marker, name in marks
            if mount in places
        ),
        Line2D([], [], color=_INK, lw=0.8, ls=(0, (2, 2)), label="cabin"),
    ]


def _way(axes: Any, moments: Sequence[Moment], at: int) -> None:
    true = [moment.people[at].at_m for moment in moments]
    axes.plot(*zip(*true, strict=True), color=_INK, lw=1, ls=_STYLES[at], zorder=4)
    by_zone: dict[Zone | None, list[tuple[float, float]]] = {}
    for moment in moments:
        one = moment.people[at]
        if one.estimate is not None and one.zone.zone is not None:
            place = (one.estimate.x_m, one.estimate.y_m)
            by_zone.setdefault(one.zone.zone, []).append(place)
    for zone, places in by_zone.items():
        x, y = zip(*places, strict=True)
        axes.scatter(x, y, s=14, color=_ZONES[zone][0], lw=0, alpha=0.85, zorder=5)


def _bubble(axes: Any, at: tuple[float, float], number: int, decided: Decided) -> None:
    good = decided.verdict.granted
    # Numbers stand around the place, so that several at one place can be read.
    offset = ((16, 12), (-18, 12), (16, -14), (-18, -14), (24, 0), (-26, 0))[(number - 1) % 6]
    axes.annotate(
        str(number),
        at,
        xytext=offset,
        textcoords="offset points",
        fontsize=9,
        fontweight="bold",
        color="white" if good else _INK,
        ha="center",
        va="center",
        bbox={
            "boxstyle": "circle,pad=0.25",
            "facecolor": _INK if good else "white",
            "edgecolor": _INK,
        },
        arrowprops={"arrowstyle": "-", "color": _INK, "lw": 0.8},
        zorder=7,
    )


# ---- over time -----------------------------------------------------------------------------------


def _distance(
    axes: Any,
    scenario: Scenario,
    layout: Layout,
    moments: Sequence[Moment],
    shown: list[tuple[int, Moment, Decided]],
) -> None:
    def away(place: tuple[float, float]) -> float:
        return min(hypot(place[0] - each.x_m, place[1] - each.y_m) for each in layout.doors)

    at_s = [moment.at_s for moment in moments]
    highest = 0.0
    for at, person in enumerate(scenario.people):
        true = [away(moment.people[at].at_m) for moment in moments]
        axes.plot(at_s, true, color=_INK, lw=1, ls=_STYLES[at], label=f"{person.name}, true")
        found = [
            (moment.at_s, away((one.estimate.x_m, one.estimate.y_m)), _ZONES[one.zone.zone][0])
            for moment in moments
            if (one := moment.people[at]).estimate is not None and one.zone.zone is not None
        ]
        if found:
            x, y, colours = zip(*found, strict=True)
            axes.scatter(x, y, s=9, c=colours, lw=0, zorder=3)
        highest = max(highest, *true)
    enter_m = layout.zones.door_enter_m
    axes.axhspan(0, enter_m, color="#009E73", alpha=0.13, lw=0, label="door zone")
    axes.set_ylim(0, highest * 1.32 + 0.5)
    axes.set_xlim(at_s[0], at_s[-1])
    for attack in scenario.attacks:
        axes.axvspan(
            attack.from_s, min(attack.until_s, at_s[-1]), facecolor="none", hatch="//",
            edgecolor="#E0E0E0", lw=0, zorder=0, label=f"attack: {attack.kind}",
        )  # fmt: skip
    lines = []
    for number, moment, decided in shown:
        axes.axvline(moment.at_s, color=_INK, lw=0.8, ls="-" if decided.moved else ":", zorder=2)
        axes.annotate(
            str(number),
            # Two heights, so that two at one time can be told apart.
            (moment.at_s, 0.98 - 0.09 * (number % 2)),
            xycoords=("data", "axes fraction"),
            fontsize=9,
            fontweight="bold",
            ha="center",
            va="top",
            color="white" if decided.moved else _INK,
            bbox={
                "boxstyle": "circle,pad=0.2",
                "edgecolor": _INK,
                "facecolor": _INK if decided.moved else "white",
            },
        )
        lines.append(f"{number}  {_text(decided)} at {moment.at_s:.1f} s{_why(decided)}")
    axes.set_ylabel("to the nearest handle, m")
    title = "\n".join(lines) if lines else "No decision fell."
    axes.set_title(title, fontsize=9.5, loc="left", color=_INK)
    axes.legend(fontsize=8.5, loc="center right", frameon=True, framealpha=1, edgecolor="#CCCCCC")
    axes.tick_params(labelbottom=False)
    _quiet(axes)


def _why(decided: Decided) -> str:
    if not decided.verdict.granted:
        return f", {decided.verdict.code}"
    if decided.nearest_m == 0:
        return ", key in the cabin"
    return f", key {decided.nearest_m:.1f} m from the handle"


def _bands(zones: Any, trust: Any, scenario: Scenario, moments: Sequence[Moment]) -> None:
    """Draw who is where, and how far that is trusted: one row for each person."""
    count = len(scenario.people)
    block_s = scenario.block_s
    seen: dict[int, dict[str, str]] = {0: {}, 1: {}}
    for at in range(count):
        row = count - 1 - at
        for which, axes in enumerate((zones, trust)):
            for start_s, long_s, colour, name in _spells(moments, at, which, block_s):
                axes.broken_barh([(start_s, long_s)], (row + 0.1, 0.8), facecolors=colour)
                seen[which].setdefault(name, colour)
    for which, (axes, title) in enumerate(((zones, "Zone"), (trust, "Trust"))):
        axes.set_ylim(0, count)
        axes.set_yticks([n + 0.5 for n in range(count)])
        axes.set_yticklabels([each.name for each in reversed(scenario.people)])
        axes.set_title(title, fontsize=10, loc="left")
        axes.legend(
            handles=[
                Patch(facecolor=colour, edgecolor=_INK, lw=0.4, label=name)
                for name, colour in seen[which].items()
            ],
            fontsize=8.5, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=6, frameon=False,
            borderpad=0, handlelength=1.2, columnspacing=1.2,
        )  # fmt: skip
        _quiet(axes)
        axes.grid(visible=False)
    zones.tick_params(labelbottom=False)
    trust.set_xlabel("time, s")


def _spells(
    moments: Sequence[Moment], at: int, which: int, block_s: float
) -> list[tuple[float, float, str, str]]:
    """Return the spells of one zone (0) or trust level (1): start, length, colour, name."""
    found: list[tuple[float, float, str, str]] = []
    for moment in moments:
        one = moment.people[at]
        colour, name = _ZONES[one.zone.zone] if which == 0 else _TRUST[one.trust.level]
        if found and found[-1][3] == name:
            start_s = found[-1][0]
            found[-1] = (start_s, moment.at_s + block_s - start_s, colour, name)
        else:
            found.append((moment.at_s, block_s, colour, name))
    return found


def _quiet(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#E4E4E4", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
