"""``dkey card``: emulate, pair, list and replace card keys."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dkey.access.applet import AppletHost
from dkey.access.device import AccessApplet
from dkey.agent.card_file import CardFile
from dkey.cli import REFUSED, garage
from dkey.cli.options import Seconds, as_json, print_json, trace_option, tracing
from dkey.cli.stores import ToldCardStore
from dkey.control.touch import Position
from dkey.crypto.entropy import SystemEntropy
from dkey.errors import LocalFault
from dkey.lifecycle.roles import CardProvenance
from dkey.link.opener import serve
from dkey.pairing.card import CardApplet

if TYPE_CHECKING:
    from dkey.link.base import FrameTap

__all__ = ["cli"]

_link_options = (
    click.option("--owner", "owner", required=True, metavar="LINK", help="Pad: owner's phone."),
    click.option("--card", "card", required=True, metavar="LINK", help="Pad: the new card."),
    click.option(
        "--signal",
        "signals",
        multiple=True,
        metavar="NAME=VALUE",
        help="State of the body besides ignition_on=on.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=Seconds(),
        default=30.0,
        show_default=True,
        help="Seconds to wait for each device.",
    ),
)


def _on_the_pad(command: Any) -> Any:
    for option in reversed(_link_options):
        command = option(command)
    return command


@click.group()
def cli() -> None:
    """Card keys: emulate one, pair it with a mock vehicle, list and replace them."""


@cli.command("serve")
@click.argument("link")
@click.option(
    "--card",
    "card",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Card file; a blank card is made if there is none.",
)
@click.option(
    "--provenance",
    type=click.Choice([each.value.lower() for each in CardProvenance]),
    default="purchased",
    show_default=True,
    help="What a new blank card is.",
)
@click.option("--read-only", is_flag=True, help="Do not write to the card file.")
@click.option("--once", is_flag=True, help="End after one field period.")
@trace_option
def serve_command(
    link: str, card: Path, provenance: str, read_only: bool, once: bool, trace: Path | None
) -> None:
    """Be a card key on LINK: apdu-tcp:127.0.0.1:PORT, nfc:udp:PORT, or a PN532."""
    entropy = SystemEntropy()
    if not card.exists():
        CardFile.create(card, CardProvenance(provenance.upper()), entropy)
        click.echo(f"new blank card in {card}", err=True)
    file = CardFile(card, read_only=read_only)
    store = None if read_only else ToldCardStore(file)
    host = AppletHost(
        [
            AccessApplet(file.credential, entropy, store=store, keep=not read_only),
            CardApplet(file.credential, file.provenance, entropy, store=store),
        ]
    )
    with tracing(trace) as tracer:
        asyncio.run(
            serve(
                link,
                host,
                once=once,
                tap=tracer,
                on_listening=lambda p: click.echo(f"listening {p}"),
            )
        )


@cli.command("pair")
@garage.folder
@_on_the_pad
@trace_option
@as_json
def pair(folder: Path, trace: Path | None, as_json: bool, **pad: Any) -> None:
    """Pair a card with the vehicle in FOLDER: the owner's phone on the pad, then the card."""
    click.get_current_context().exit(_pair(folder, None, trace, as_json=as_json, **pad))


@cli.command("replace")
@garage.folder
@click.argument("old")
@_on_the_pad
@trace_option
@as_json
def replace(folder: Path, old: str, trace: Path | None, as_json: bool, **pad: Any) -> None:
    """Pair a card in the place of the damaged card OLD (its name or id), which is disabled."""
    click.get_current_context().exit(_pair(folder, old, trace, as_json=as_json, **pad))


def _pair(
    folder: Path,
    old: str | None,
    trace: Path | None,
    *,
    owner: str,
    card: str,
    signals: tuple[str, ...],
    timeout_s: float,
    as_json: bool,
) -> int:
    vehicle = garage.open_vehicle(folder)
    try:
        replaces = None if old is None else _card_named(vehicle, old)
        vehicle.body.ignition_on = True
        garage.set_signals(vehicle, signals)
        vehicle.open_card_window(replaces=replaces)
        with tracing(trace) as tracer:
            outcome = asyncio.run(
                _on_pad(vehicle, (owner, card), timeout_s=timeout_s, trace=tracer, quiet=as_json)
            )
    finally:
        vehicle.close()
    if as_json:
        print_json(garage.outcome_json(outcome))
    elif outcome.code is None:
        click.echo(f"next: dkey card list {folder}")
    return REFUSED if outcome.code else 0


async def _on_pad(
    vehicle: Any, links: tuple[str, str], *, timeout_s: float, trace: FrameTap | None, quiet: bool
) -> Any:
    outcome = None
    for what, link in zip(("the owner's phone", "the new card"), links, strict=True):
        if not quiet:
            click.echo(f"lay {what} on the pad ({link})", err=True)
        outcome = await garage.tap_once(
            vehicle, Position.CONSOLE_PAD, link, timeout_s=timeout_s, trace=trace
        )
        if not quiet:
            garage.print_outcome(outcome)
        if outcome.code:
            break
    return outcome


def _card_named(vehicle: Any, text: str) -> str:
    for each in vehicle.store.credentials():
        if each.provenance is not None and text in (each.name, each.credential_id):
            return str(each.credential_id)
    raise LocalFault(f"the vehicle has no card {text!r}", hint="`dkey card list FOLDER` lists them")


@cli.command("list")
@garage.folder
@as_json
def list_command(folder: Path, as_json: bool) -> None:
    """List the cards that the vehicle in FOLDER knows or knew."""
    vehicle = garage.open_vehicle(folder)
    try:
        cards = [each for each in vehicle.store.credentials() if each.provenance is not None]
    finally:
        vehicle.close()
    if as_json:
        print_json(
            {
                "schema": "dkey.cards/1",
                "cards": [
                    {
                        "id": each.credential_id,
                        "name": each.name,
                        "provenance": each.provenance,
                        "state": each.state,
                        "replaced_by": each.replaced_by,
                    }
                    for each in cards
                ],
            }
        )
        return
    for each in cards:
        by = f"  replaced by {each.replaced_by}" if each.replaced_by else ""
        click.echo(f"{each.credential_id}  {each.name:<10}{each.provenance:<11}{each.state}{by}")
    if not cards:
        click.echo("no cards; `dkey card pair` pairs one")
