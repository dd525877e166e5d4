"""A walk as it happens, on a terminal: the car from above, who is where, and what is decided."""

from __future__ import annotations

from math import hypot
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dkey.cli.walk_text import decision_text
from dkey.ranging.layout import Mount, Zone
from dkey.ranging.zones import outline_distance_m

if TYPE_CHECKING:
    from types import TracebackType

    from dkey.ranging.layout import Layout

__all__ = ["Screen", "canvas"]

_COLUMNS, _ROWS = 61, 25
_REACH_M: Final = 6.0
"""The picture shows this far ahead of and behind the middle; who is farther stands at its edge."""
_LINES: Final = 7
_REFRESH: Final = 12
_ZONES: Final = {
    Zone.CABIN: "bold red",
    Zone.DOOR_DRIVER: "bold green",
    Zone.DOOR_PASSENGER: "bold magenta",
    Zone.TRUNK: "bold yellow",
    Zone.NEAR: "bold cyan",
    Zone.FAR: "white",
    None: "dim",
}
_TRUST: Final = {"TRUSTED": "green", "DOUBTFUL": "yellow", "SUSPICIOUS": "bold white on red"}


def _cell(x_m: float, y_m: float) -> tuple[int, int]:
    """Return row and column of a place; the front of the car is on the right."""
    # A character is twice as high as wide.
    metre = (_COLUMNS - 1) / (2 * _REACH_M)
    column = round((_COLUMNS - 1) / 2 + x_m * metre)
    row = round((_ROWS - 1) / 2 - y_m * metre / 2)
    return max(0, min(_ROWS - 1, row)), max(0, min(_COLUMNS - 1, column))


def _place(row: int, column: int) -> tuple[float, float]:
    metre = (_COLUMNS - 1) / (2 * _REACH_M)
    return (column - (_COLUMNS - 1) / 2) / metre, ((_ROWS - 1) / 2 - row) * 2 / metre


def _ground(layout: Layout) -> list[list[tuple[str, str]]]:
    """Return the picture without people: body, zones, anchors, handles."""
    rows: list[list[tuple[str, str]]] = []
    for row in range(_ROWS):
        line = []
        for column in range(_COLUMNS):
            x_m, y_m = _place(row, column)
            mark = (" ", "")
            if outline_distance_m(layout.outline, x_m, y_m) == 0:
                inside = outline_distance_m(layout.cabin, x_m, y_m) == 0
                mark = ("░", "dim") if inside else ("▓", "dim")
            else:
                for door in layout.doors:
                    if hypot(x_m - door.x_m, y_m - door.y_m) <= layout.zones.door_enter_m:
                        mark = ("·", _ZONES[door.zone].removeprefix("bold "))
            line.append(mark)
        rows.append(line)
    for door in layout.doors:
        row, column = _cell(door.x_m, door.y_m)
        rows[row][column] = ("═", _ZONES[door.zone])
    for anchor in layout.anchors:
        row, column = _cell(anchor.x_m, anchor.y_m)
        rows[row][column] = ("■" if anchor.mount is Mount.BODY else "◆", "blue")
    return rows


def canvas(layout: Layout, moment: Any, *, ground: Any = None) -> Text:
    """Return the car from above: ``●`` is where a device is seen, ``○`` where it really is."""
    rows = [[*line] for line in (ground or _ground(layout))]
    for seen in moment.people:
        row, column = _cell(*seen.at_m)
        rows[row][column] = ("○", "white")
        if seen.estimate is not None and seen.zone.zone is not None:
            row, column = _cell(seen.estimate.x_m, seen.estimate.y_m)
            rows[row][column] = ("●", _ZONES[seen.zone.zone])
    text = Text()
    for line in rows:
        for mark, style in line:
            text.append(mark, style)
        text.append("\n")
    text.rstrip()
    return text


class Screen:
    """The live view; a context in which it is shown."""

    def __init__(self, scenario: Any, layout: Layout, *, console: Any = None) -> None:
        self._scenario, self._layout = scenario, layout
        self._ground = _ground(layout)
        self._lines: list[Text] = []
        self._told: set[str] = set()
        self._slowest_us = 0.0
        self._live = Live(console=console, refresh_per_second=_REFRESH, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def show(self, moment: Any) -> None:
        """Show the next block."""
        for each in moment.decided:
            text = decision_text(each)
            if each.verdict.granted:
                self._told.clear()
            if text not in self._told:
                style = "green" if each.verdict.granted else "yellow"
                self._lines.append(Text(f"{moment.at_s:6.2f} s  {text}", style))
            self._told.add(text)
        for notice in moment.notices:
            self._lines.append(Text(f"{moment.at_s:6.2f} s  notice: {notice}", "magenta"))
        del self._lines[:-_LINES]
        self._slowest_us = max(self._slowest_us, moment.compute_us)
        self._live.update(self._picture(moment))

    def _picture(self, moment: Any) -> Group:
        people = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("key", "position, m", "± m", "zone", "trust", "why"):
            people.add_column(name)
        for seen in moment.people:
            level = seen.trust.level.name
            place, unsure = "-", "-"
            if seen.estimate is not None:
                place = f"{seen.estimate.x_m:6.2f} {seen.estimate.y_m:6.2f}"
                unsure = f"{seen.estimate.sd_m:.2f}"
            people.add_row(
                seen.name,
                place,
                unsure,
                Text(seen.zone.zone or "not located", _ZONES[seen.zone.zone]),
                Text(level.lower(), _TRUST[level]),
                ", ".join(each.lower() for each in seen.trust.reasons),
            )
        doors = Text("doors locked", "bold") if moment.locked else Text("doors open", "bold green")
        engine = "engine on" if moment.engine else "engine off"
        state = Text.assemble(
            f"{moment.at_s:6.2f} s   ",
            doors,
            f"   {engine}   decided in {moment.compute_us / 1000:.1f} ms "
            f"(slowest {self._slowest_us / 1000:.1f})",
        )
        key = Text("● seen  ○ true  ■ anchor, body  ◆ anchor, cabin  ═ handle", "dim")
        picture = Panel(
            canvas(self._layout, moment, ground=self._ground),
            title=f"{self._scenario.name}: {self._scenario.title}",
            subtitle=key,
            expand=False,
        )
        return Group(picture, state, people, *self._lines)
