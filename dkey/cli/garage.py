"""How commands reach a mock vehicle, which the stack itself never imports."""

from __future__ import annotations

import importlib
import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dkey.errors import LinkError, LinkReason
from dkey.link.opener import open_initiator

if TYPE_CHECKING:
    from dkey.control.touch import Position
    from dkey.link.base import FrameTap, Link

__all__ = [
    "folder",
    "open_vehicle",
    "outcome_json",
    "print_outcome",
    "set_signals",
    "signal_option",
    "tap_once",
]

folder = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
signal_option = click.option(
    "--signal", "signals", multiple=True, metavar="NAME=VALUE", help="State of the body."
)


def module() -> Any:
    """Return :mod:`firmware_mock.garage`."""
    return importlib.import_module("firmware_mock.garage")


def open_vehicle(path: Path) -> Any:
    """Return the vehicle in ``path``."""
    return module().open_vehicle(path)


def set_signals(vehicle: Any, signals: tuple[str, ...]) -> None:
    """Set body signals given as NAME=VALUE.

    Raises:
        click.UsageError: No such signal, or a value that does not fit it.
    """
    for text in signals:
        name, _, value = text.partition("=")
        known = [field.name for field in fields(vehicle.body.signals())]
        if name not in known:
            names = ", ".join(known)
            raise click.UsageError(f"there is no signal {name!r}; there are {names}")
        try:
            setattr(vehicle.body, name, _speed(value) if name == "speed_kmh" else _flag(value))
        except ValueError as exc:
            raise click.UsageError(f"{name} takes no value {value!r}") from exc


def _speed(value: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _flag(value: str) -> bool:
    words = {"on": True, "true": True, "yes": True, "1": True}
    words |= {"off": False, "false": False, "no": False, "0": False}
    if value.lower() not in words:
        raise ValueError(value)
    return words[value.lower()]


async def tap_once(
    vehicle: Any,
    position: Position,
    text: str,
    *,
    timeout_s: float,
    trace: FrameTap | None = None,
) -> Any:
    """Wait for a device on a link, run one tap, release the link; return the outcome."""
    initiator = open_initiator(text, tap=trace)
    try:
        link: Link | None = await initiator.sense(timeout_s=timeout_s)
        if link is None:
            raise LinkError(
                LinkReason.TIMEOUT,
                f"no device came to {text} within {timeout_s:g} s",
                hint="hold the phone or card on the reader; `dkey doctor` checks the reader",
            )
        try:
            return await vehicle.tap(position, link)
        finally:
            await link.aclose()
    finally:
        await initiator.aclose()


def outcome_json(outcome: Any) -> dict[str, object]:
    """Return the object of schema ``dkey.outcome/1``."""
    return {
        "schema": "dkey.outcome/1",
        "position": outcome.position,
        "credential": outcome.name,
        "flow": outcome.flow,
        "action": outcome.action,
        "code": outcome.code,
        "text": outcome.text,
    }


def print_outcome(outcome: Any) -> None:
    """Print an outcome on one line."""
    who = outcome.name or "nobody"
    where = outcome.position.lower().replace("_", " ")
    if outcome.code:
        click.secho(f"{where}: {who} refused, {outcome.code}", fg="yellow", bold=True, nl=False)
        click.echo(f"  {outcome.text}")
    else:
        flow = f"  ({outcome.flow})" if outcome.flow else ""
        done = str(outcome.action).lower().replace("_", " ")
        click.secho(f"{where}: {who}: {done}", fg="green", bold=True, nl=False)
        click.echo(flow)
