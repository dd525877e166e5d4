"""``dkey vectors``: known-answer files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from dkey.cli import REFUSED, USAGE, explain
from dkey.cli.options import as_json, file_path, print_json
from dkey.conformance.vectors import check_file
from dkey.errors import FileFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from dkey.conformance.vectors import VectorReport

__all__ = ["cli"]

SCHEMA: Final = "dkey.vectors/1"


@click.group()
def cli() -> None:
    """Check known-answer files."""


@cli.command()
@click.argument("files", nargs=-1, required=True, type=file_path, metavar="FILE...")
@as_json
@click.pass_context
def check(ctx: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Compare the stack with known-answer files: Aliro, RFC, NIST and Wycheproof.

    Exit codes: 0 nothing disagrees, 1 something does, 2 a file is damaged or not understood.
    Values that the stack does not compute yet are counted apart and are no failure.
    """
    code = 0
    width = max(len(file.name) for file in files)
    if not as_json:
        click.echo(f"{'':<{width}}  {'agreed':>8} {'disagreed':>9} {'not yet':>8}")
    for file in files:
        try:
            report = check_file(file)
        except FileFormatError as exc:
            click.echo(explain(exc), err=True)
            code = USAGE
            continue
        if as_json:
            print_json(_to_json(report))
        else:
            _print(report, width)
        if report.disagreed and not code:
            code = REFUSED
    ctx.exit(code)


def _to_json(report: VectorReport) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "file": str(report.path),
        "agreed": report.agreed,
        "disagreed": report.disagreed,
        "not_implemented": report.not_implemented,
        "failures": [{"id": name, "what": what} for name, what in report.failures],
    }


def _print(report: VectorReport, width: int) -> None:
    row = f"{report.agreed:>8} {report.disagreed:>9} {report.not_implemented:>8}"
    click.echo(f"{report.path.name:<{width}}  {row}")
    for name, what in report.failures:
        click.echo(f"  {name}: {what}")
