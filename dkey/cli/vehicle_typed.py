"""A vehicle in this terminal: its readers, and commands that are typed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from dkey.cli import garage
from dkey.errors import PolicyRefusal
from dkey.link.opener import open_initiator

if TYPE_CHECKING:
    from dkey.control.touch import Position

__all__ = ["run_readers"]


async def run_readers(vehicle: Any, links: dict[Position, str], tracer: Any) -> None:
    """Serve the readers until ``quit`` is typed or a reader is lost."""
    initiators = {where: open_initiator(text, tap=tracer) for where, text in links.items()}
    for where, text in links.items():
        click.echo(f"{where.lower().replace('_', ' ')}: {text}")
    tasks = [
        asyncio.create_task(vehicle.serve(where, initiator, garage.print_outcome))
        for where, initiator in initiators.items()
    ]
    tasks.append(asyncio.create_task(_commands(vehicle)))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for initiator in initiators.values():
            await initiator.aclose()


async def _commands(vehicle: Any) -> None:
    """Read commands from standard input until ``quit``; the end of the input only ends reading."""
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    protocol = asyncio.StreamReaderProtocol(lines)
    with click.open_file("-", "rb") as stream:
        try:
            transport, _ = await loop.connect_read_pipe(lambda: protocol, stream)
        except (ValueError, OSError):  # a plain file or /dev/null: nobody types there
            await asyncio.Event().wait()
            return
        try:
            while line := await lines.readline():
                word = line.decode(errors="replace").strip()
                if word == "quit":
                    return
                if word:
                    _obey(vehicle, word)
            await asyncio.Event().wait()
        finally:
            transport.close()


def _obey(vehicle: Any, word: str) -> None:
    try:
        match word:
            case "start":
                verdict = vehicle.press_start()
                click.echo(f"START: {verdict.code or 'started'}")
            case "stop":
                vehicle.body.stop()
            case "pair":
                vehicle.open_card_window()
                click.echo("lay the owner's phone on the pad, then the card")
            case "cancel":
                vehicle.cancel_card_window()
            case "show":
                click.echo(vehicle.body.signals())
            case _:
                garage.set_signals(vehicle, (word,))
    except (click.UsageError, PolicyRefusal) as exc:
        click.secho(str(exc), fg="yellow")
