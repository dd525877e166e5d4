"""``dkey walk``: people with phones walk around a simulated vehicle, and it decides."""

from __future__ import annotations

import importlib
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dkey.cli import REFUSED
from dkey.cli.options import as_json, print_json
from dkey.errors import FileFormatError, LocalFault
from dkey.ranging.layout import parse_layout
from dkey.ranging.layouts import SHIPPED, shipped_layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.ranging.layout import Layout

    Watcher = Callable[[int, Any], None]

__all__ = ["cli"]

_DEMO: Final = "demo"
_MAX_FILE: Final = 1 << 20
_TELL_EVERY_S: Final = 2.0


@click.command()
@click.argument("name", metavar="[SCENARIO]", default="")
@click.option(
    "--scenario", "scenario_file", metavar="FILE|NAME", help="Another way to give the scenario."
)
@click.option(
    "--layout",
    default=SHIPPED[0],
    show_default=True,
    metavar="FILE|NAME",
    help=f"Anchors, doors and body of the vehicle: a TOML file, or {', '.join(SHIPPED)}.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of all chance.")
@click.option(
    "--repeat", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Runs."
)
@click.option(
    "--pace",
    type=click.Choice(["fast", "live"]),
    help="As fast as it goes, or as fast as people walk.  [default: live on a terminal]",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|svg",
    help="Draw the first run.",
)
@click.option(
    "--jsonl",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Record every block of every run. A simulation's record: it holds positions.",
)
@click.option("--list", "listed", is_flag=True, help="List the shipped scenarios.")
@as_json
@click.pass_context
def cli(
    ctx: click.Context,
    name: str,
    scenario_file: str | None,
    layout: str,
    seed: int,
    repeat: int,
    pace: str | None,
    plot: Path | None,
    jsonl: Path | None,
    listed: bool,
    as_json: bool,
) -> None:
    """Walk up to a simulated vehicle with a phone, and watch what it decides.

    SCENARIO is a TOML file or one of the shipped names (--list). Ranging is simulated; trust gate,
    position, zones and decisions are those of a vehicle. Exit code 1 when a run ends otherwise
    than its scenario expects.
    """
    if listed:
        _list(as_json=as_json)
        return
    if name and scenario_file:
        raise click.UsageError("give the scenario once")
    scenario = _scenario(scenario_file or name or _DEMO)
    vehicle = _layout(layout)
    draw = _plotter(plot)
    screen = None if as_json else _screen(scenario, vehicle, repeat)
    live = (pace or ("fast" if screen is None else "live")) == "live"
    first: list[Any] = []
    with ExitStack() as stack:
        watchers: list[Watcher] = []
        if draw is not None:
            watchers.append(lambda run, moment: first.append(moment) if run == 0 else None)
        if jsonl is not None:
            watchers.append(_recorder(stack, jsonl, scenario, vehicle, seed))
        if screen is not None:
            stack.enter_context(screen)
            watchers.append(lambda _, moment: screen.show(moment))
        elif not as_json and repeat == 1:
            click.echo(f"{scenario.name}: {scenario.title}")
            teller = importlib.import_module("dkey.cli.walk_text").Teller()
            watchers.append(lambda _, moment: teller.tell(moment))
        summary = _play(
            scenario, vehicle, seed=seed, repeat=repeat, live=live, watchers=watchers,
            as_json=as_json,
        )  # fmt: skip
    if draw is not None:
        draw(scenario, vehicle, first, plot)
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary, [each for each in (plot, jsonl) if each is not None])
    ctx.exit(0 if summary["as_expected"] == summary["runs"] else REFUSED)


def _play(
    scenario: Any,
    layout: Layout,
    *,
    seed: int,
    repeat: int,
    live: bool,
    watchers: list[Watcher],
    as_json: bool,
) -> dict[str, Any]:
    """Play ``repeat`` runs, show them to the watchers, and return the summary."""
    walking = importlib.import_module("firmware_mock.walk_run")
    record = importlib.import_module("firmware_mock.walk_record")
    summary = record.Summary(scenario, layout, seed)
    told_s = time.monotonic()
    for run in walking.runs(scenario, layout, seed, repeat):
        report = record.RunReport(run)
        began_s = time.monotonic()
        for moment in run.moments():
            report.take(moment)
            if live:
                time.sleep(max(0.0, began_s + moment.at_s - time.monotonic()))
            for watch in watchers:
                watch(run.number, moment)
        summary.take(report)
        if as_json:
            print_json(report.to_json())
        if repeat > 1 and time.monotonic() - told_s >= _TELL_EVERY_S:
            told_s = time.monotonic()
            click.echo(f"{run.number + 1} of {repeat} runs", err=True)
    found: dict[str, Any] = summary.to_json()
    return found


def _recorder(stack: ExitStack, path: Path, scenario: Any, layout: Layout, seed: int) -> Watcher:
    """Return what writes the record, block by block."""
    record = importlib.import_module("firmware_mock.walk_record")
    try:
        file = stack.enter_context(path.open("w", encoding="utf-8"))
    except OSError as exc:
        raise LocalFault(f"cannot write {path}", hint="give --jsonl another place") from exc
    file.write(json.dumps(record.record_head(scenario, layout, seed)) + "\n")

    def write(run: int, moment: Any) -> None:
        file.write(json.dumps(record.moment_json(run, moment)) + "\n")

    return write


def _read(path: str, what: str, page: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise FileFormatError(f"{path} is too long for a {what}", hint=f"see {page}")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise FileFormatError(f"cannot read {path} as a {what}", hint=f"see {page}") from exc


def _is_file(given: str) -> bool:
    return given.endswith(".toml") or "/" in given


def _scenario(given: str) -> Any:
    # By name: the stack does not import the mock vehicle.
    if _is_file(given):
        parse = importlib.import_module("firmware_mock.walk_scenario").parse_scenario
        return parse(_read(given, "scenario", "specs/formats.md §17"))
    return importlib.import_module("firmware_mock.scenarios").shipped_scenario(given)


def _layout(given: str) -> Layout:
    if _is_file(given):
        return parse_layout(_read(given, "layout", "specs/proximity.md §1"))
    return shipped_layout(given)


def _list(*, as_json: bool) -> None:
    scenarios = importlib.import_module("firmware_mock.scenarios")
    for name in scenarios.SHIPPED:
        title = scenarios.shipped_scenario(name).title
        if as_json:
            print_json({"schema": "dkey.walk/1", "event": "scenario", "name": name, "title": title})
        else:
            click.echo(f"{name:<24}{title}")


def _plotter(path: Path | None) -> Callable[..., None] | None:
    """Return what draws; refused before anybody walks when it could not be drawn."""
    if path is None:
        return None
    if path.suffix not in (".png", ".svg"):
        raise click.UsageError("--plot takes a file that ends with .png or .svg")
    try:
        draw: Callable[..., None] = importlib.import_module("firmware_mock.walk_plot").draw
    except ModuleNotFoundError as exc:
        raise LocalFault(
            f"--plot needs {exc.name}", hint="install the extra: pip install 'dkey[walk]'"
        ) from exc
    return draw


def _screen(scenario: Any, layout: Layout, repeat: int) -> Any:
    """Return the live view; None when output is no terminal, rich is missing, or runs are many."""
    if repeat > 1 or not sys.stdout.isatty():
        return None
    try:
        return importlib.import_module("dkey.cli.walk_screen").Screen(scenario, layout)
    except ModuleNotFoundError:
        return None


def _print_summary(summary: dict[str, Any], written: list[Path]) -> None:
    runs, good = summary["runs"], summary["as_expected"]
    click.echo()
    colour = "green" if good == runs else "red"
    click.secho(f"{good} of {runs} runs as expected", fg=colour, bold=True)
    rows = [
        ("doors unlocked, locked, engine started", "unlocked", "locked", "started"),
        ("unlocked with no key near", "false_unlocks"),
        ("seen inside while inside", "inside_rate"),
        ("seen inside while outside", "outside_judged_inside_rate"),
        ("position error, median and p95, cm", "error_median_cm", "error_p95_cm"),
        ("door zone entered to unlocked, median and p95, ms", "unlock_median_ms", "unlock_p95_ms"),
    ]
    for text, *names in rows:
        values = ["-" if summary[each] is None else f"{summary[each]:g}" for each in names]
        click.echo(f"  {text:<52}{', '.join(values)}")
    refused = ", ".join(f"{code} {count}" for code, count in summary["denials"].items())
    click.echo(f"  {'refused':<52}{refused or 'nothing'}")
    for path in written:
        click.echo(f"wrote {path}")
