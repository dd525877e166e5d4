"""``dkey demo``: the whole story with no hardware."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dkey.cli import REFUSED
from dkey.cli.options import as_json, print_json, secrets, trace_option, tracing
from dkey.crypto.entropy import SystemEntropy

if TYPE_CHECKING:
    from dkey.trace.tracer import Tracer

__all__ = ["cli"]


@click.command()
@trace_option
@secrets
@as_json
@click.pass_context
def cli(ctx: click.Context, trace: Path | None, show_secrets: bool, as_json: bool) -> None:
    """Watch a phone and a card open, lock and start a mock vehicle.

    Everything is real but the air: nfcpy's own PN532 driver talks to a virtual PN532 on a
    pseudo-terminal, with the phone or the card in its field. The clock is told, not waited for.
    """
    logging.getLogger("nfc").setLevel(logging.CRITICAL)
    with tracing(trace, show_secrets=show_secrets) as tracer:
        began_s = time.perf_counter()
        steps, as_expected = asyncio.run(_play(tracer, quiet=as_json))
        took_s = time.perf_counter() - began_s
    if as_json:
        print_json({"summary": {"steps": steps, "as_expected": as_expected}})
    else:
        colour = "green" if steps == as_expected else "red"
        click.echo()
        click.secho(
            f"{as_expected} of {steps} steps as expected, in {took_s:.1f} s", fg=colour, bold=True
        )
        if trace is not None:
            click.echo(f"next: dkey trace show {trace}")
        else:
            click.echo("next: dkey demo --trace tap.pcapng   (opens in Wireshark)")
            click.echo("      dkey doctor                    (is there a reader on this machine?)")
    ctx.exit(0 if steps == as_expected else REFUSED)


async def _play(tracer: Tracer | None, *, quiet: bool) -> tuple[int, int]:
    """Play the story and print each step as it happens; return (steps, as expected)."""
    # By name: the stack does not import the mock vehicle.
    story: Any = importlib.import_module("firmware_mock.demo")
    steps = as_expected = 0
    chapter = ""
    note = None if tracer is None else tracer.note
    # Closed in time, also where whoever reads the lines has had enough of them.
    async with aclosing(story.tell(SystemEntropy(), tap=tracer, note=note)) as told:
        async for step in told:
            steps += 1
            as_expected += step.as_expected
            if quiet:
                print_json(step.to_json())
                continue
            if step.chapter != chapter:
                chapter = step.chapter
                click.echo()
                click.secho(chapter, bold=True)
            _print(step)
    return steps, as_expected


def _print(step: Any) -> None:
    mark = click.style("✓", fg="green") if step.as_expected else click.style("✗", fg="red")
    outcome = step.code or step.outcome if step.outcome == "refused" else step.outcome
    colour = "yellow" if step.code else "green"
    if not step.as_expected:
        colour, outcome = "red", f"{outcome} (expected: {step.expect})"
    text = click.style(outcome, fg=colour)
    click.echo(f"  {mark} {step.step:<43}{step.medium:<15}{text}")
    if step.detail:
        click.secho(f"      {step.detail}", dim=True)
