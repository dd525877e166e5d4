"""``dkey vehicle``: the mock vehicle on the bench."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from dkey.cli import REFUSED, garage
from dkey.cli.options import Seconds, as_json, print_json, trace_option, tracing
from dkey.cli.vehicle_authority import authority_key
from dkey.cli.vehicle_keys import keys
from dkey.cli.vehicle_run import press, run, set_command
from dkey.control.touch import Position
from dkey.crypto.entropy import SystemEntropy
from dkey.crypto.vault.files import replace_file
from dkey.errors import DkeyError, FileFormatError
from dkey.lifecycle.roles import Permission, Role

__all__ = ["cli"]

_READERS = {"handle": Position.DOOR_HANDLE, "pad": Position.CONSOLE_PAD}


@click.group()
def cli() -> None:
    """Create a mock vehicle in a folder, and tap phones and cards on it."""


def _enrol(vehicle: Any, path: Path, name: str, role: Role, permission: Permission) -> None:
    """Make a credential file for a new phone and enrol its key as the factory does."""
    if path.exists():
        raise FileFormatError(f"{path} exists already", hint="choose another file name")
    key = SystemEntropy().ephemeral()
    trusted = {"group_id": vehicle.group_id.hex(), "public_key": vehicle.public_key.point.hex()}
    document: dict[str, Any] = {
        "profile": "vehicle",
        "private_key": key.scalar().reveal().hex(),
        "readers": [trusted],
        "kpersistent": [],
    }
    replace_file(path, json.dumps(document, indent=1) + "\n", mode=0o600)
    try:
        vehicle.enrol(name, key.public, role, permission)
    except DkeyError:
        path.unlink()
        raise


@cli.command("init")
@garage.folder
@click.option(
    "--owner",
    "owner",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where to write the owner's credential file.",
)
@click.option(
    "--authority-key",
    "authority",
    metavar="FILE|URL",
    help="Key of the authority whose withdrawal lists and attestations count.",
)
def init(folder: Path, owner: Path, authority: str | None) -> None:
    """Create a vehicle in FOLDER and enrol an owner's phone, as a factory would."""
    trusted = None if authority is None else authority_key(authority)
    if owner.exists():
        raise FileFormatError(f"{owner} exists already", hint="choose another file name")
    place = owner.resolve().parent
    if not place.is_dir() and place not in (folder.resolve(), *folder.resolve().parents):
        raise FileFormatError(f"{owner}: no such folder", hint="make the folder first")
    vehicle = garage.module().create_vehicle(folder)
    try:
        if trusted is not None:
            vehicle.provide_authority(trusted)
        _enrol(vehicle, owner, "owner", Role.OWNER, Permission.ENTRY_AND_START)
    finally:
        vehicle.close()
    click.echo(f"vehicle in {folder}, owner's credential in {owner}")
    click.echo(f"next: dkey device serve apdu-tcp:127.0.0.1:7001 --credential {owner}")
    click.echo(f"      dkey vehicle tap {folder} handle apdu-tcp:127.0.0.1:7001")


@cli.command("add")
@garage.folder
@click.argument("credential", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Name in the event log.")
@click.option("--entry-only", is_flag=True, help="May lock and unlock, not start.")
def add(folder: Path, credential: Path, name: str, entry_only: bool) -> None:
    """Enrol one more phone and write its CREDENTIAL file."""
    permission = Permission.ENTRY if entry_only else Permission.ENTRY_AND_START
    vehicle = garage.open_vehicle(folder)
    try:
        _enrol(vehicle, credential, name, Role.ASSOCIATE, permission)
    finally:
        vehicle.close()
    click.echo(f"{name} may {'enter' if entry_only else 'enter and start'}: {credential}")


@cli.command("show")
@garage.folder
@click.option("--events", "count", type=click.IntRange(0), default=10, show_default=True)
@as_json
def show(folder: Path, count: int, as_json: bool) -> None:
    """Show who is enrolled and the last events."""
    vehicle = garage.open_vehicle(folder)
    try:
        group_id, credentials = vehicle.group_id.hex(), vehicle.store.credentials()
        log = vehicle.store.events()
        events = log[len(log) - count :] if count < len(log) else log
    finally:
        vehicle.close()
    names = {each.credential_id: each.name for each in credentials}
    if as_json:
        print_json(
            {
                "schema": "dkey.vehicle/1",
                "group_id": group_id,
                "credentials": [
                    {
                        "id": each.credential_id,
                        "name": each.name,
                        "role": each.role,
                        "permission": each.permission,
                        "state": each.state,
                    }
                    for each in credentials
                ],
                "events": [
                    {
                        "seq": each.seq,
                        "t_s": each.t_s,
                        "kind": each.kind,
                        "position": each.position,
                        "credential": names.get(each.credential_id),
                        "code": each.code,
                        "text": each.text,
                    }
                    for each in events
                ],
            }
        )
        return
    click.secho(f"vehicle {group_id}", bold=True)
    for each in credentials:
        click.echo(f"  {each.name:<22}{each.role:<12}{each.permission:<17}{each.state}")
    click.secho("events", bold=True)
    for each in events:
        who = names.get(each.credential_id, "-")
        click.echo(f"  {each.seq:>4}  {each.kind:<16}{who:<22}{each.code or '':<24}{each.text}")


@cli.command("tap")
@garage.folder
@click.argument("reader", type=click.Choice([*_READERS]))
@click.argument("link")
@garage.signal_option
@click.option("--start", is_flag=True, help="Press START while the device lies on the pad.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(),
    default=15.0,
    show_default=True,
    help="Seconds to wait for a device.",
)
@trace_option
@as_json
@click.pass_context
def tap(
    ctx: click.Context,
    folder: Path,
    reader: str,
    link: str,
    signals: tuple[str, ...],
    start: bool,
    timeout_s: float,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Let LINK be the handle or the pad of the vehicle in FOLDER for one tap."""
    vehicle = garage.open_vehicle(folder)
    code = None
    try:
        garage.set_signals(vehicle, signals)
        with tracing(trace) as tracer:
            outcome = asyncio.run(
                garage.tap_once(vehicle, _READERS[reader], link, timeout_s=timeout_s, trace=tracer)
            )
        code = outcome.code
        print_json(garage.outcome_json(outcome)) if as_json else garage.print_outcome(outcome)
        if start and code is None:
            verdict = vehicle.press_start()
            code = verdict.code
            text = f"START: {verdict.code or 'started'}"
            print_json({"start": verdict.code or "ok"}) if as_json else click.echo(text)
    finally:
        vehicle.close()
    ctx.exit(REFUSED if code else 0)


for _command in (run, set_command, press, keys):
    cli.add_command(_command)
