"""``dkey key``: who has a key of this phone's vehicles, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dkey.cli.key_accept import accept
from dkey.cli.key_call import KeyCall, in_words, item_of, key_command
from dkey.cli.key_files import write_private
from dkey.cli.key_share import share
from dkey.cli.key_withdraw import resume, revoke, suspend, transfer, veto
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode

__all__ = ["cli"]


@click.group()
def cli() -> None:
    """Keys: list, share, accept, suspend, revoke, transfer.

    Keys lie in the folder --store, which a running `dkey agent run` may use at the same time. What
    is withdrawn travels to the vehicle with any phone that comes by; without an authority too.
    """


@cli.command("list")
@key_command
def list_keys(call: KeyCall) -> None:
    """List the keys of this phone's vehicles, and where phone, vehicle and authority differ."""
    from dkey.agent.key_settling import settle  # noqa: PLC0415
    from dkey.agent.key_views import vehicle_lines  # noqa: PLC0415

    with call.opened() as store:
        if call.group_id is not None or call.account is not None or call.authority is not None:
            call.sync(store, call.chosen(store))
        else:
            settle(store, call.entropy)
            for group in [each.group_id for each in store.vehicles()]:
                call.sync(store, group)
        call.tell(store)
        if call.as_json:
            return
        lines = vehicle_lines(store)
        for each in lines:
            if call.group_id in (None, each.vehicle):
                _echo_vehicle(each)
        if not lines:
            click.echo("no keys\nnext: dkey agent pair, or dkey key accept")


def _echo_vehicle(line: Any) -> None:
    click.echo(f"vehicle {line.vehicle.hex()}  {line.account}")
    if line.half_removed is not None:
        click.echo(f"  half removed: the {line.half_removed.lower()} side still holds keys")
    if line.rolled_back:
        click.echo("  warning: the vehicle was put back to an older state")
    if line.waiting:
        click.echo(f"  {line.waiting} waiting for the authority {line.authority}")
    for key in line.keys:
        own = "*" if key.own else " "
        who = key.account or "-"
        may = {"ENTRY": "entry", "ENTRY_AND_START": "entry, start"}.get(key.permission or "", "-")
        role = key.role.lower().replace("_", " ")
        click.echo(f" {own}{key.item.hex()[:8]}  {role:<11} {may:<12} {who}  {in_words(key)}")


@cli.command()
@key_command
@click.argument("key_id", metavar="ID")
@click.option("--attestation", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--list", "list_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--invitation", type=click.Path(dir_okay=False, path_type=Path))
def show(
    call: KeyCall,
    key_id: str,
    attestation: Path | None,
    list_file: Path | None,
    invitation: Path | None,
) -> None:
    """Show one key, and write what is signed about it to files for others.

    --attestation is this phone's own signed key, --list the newest withdrawal list that it
    carries, --invitation the invitation again.
    """
    from dkey.agent.key_views import vehicle_line  # noqa: PLC0415

    with call.opened() as store:
        vehicle = call.chosen(store, item=key_id)
        call.sync(store, vehicle)
        item = item_of(store, vehicle, key_id)
        key = next(k for k in vehicle_line(store, vehicle).keys if k.item == item)
        for path, content in (
            (attestation, _attestation),
            (list_file, _list),
            (invitation, _invitation),
        ):
            if path is not None:
                write_private(path, content(call, store, vehicle, item))
        call.tell(store, key=key.to_json(), **_seen(store, vehicle))
        if call.as_json:
            return
        for name, value in key.to_json().items():
            if value is not None:
                click.echo(f"{name:<14} {value}")
        click.echo(f"in words       {in_words(key)}")


def _seen(store: Any, vehicle: bytes) -> dict[str, Any]:
    from dkey.lifecycle.parcel import VehicleReceipt  # noqa: PLC0415

    seen = store.keys.state.last_seen(vehicle)
    told = None if seen is None else VehicleReceipt.parse(seen.told)
    names = ("epoch", "owner_list", "authority_list", "admissions")
    return {"told": None if told is None else {name: getattr(told, name) for name in names}}


def _attestation(_call: KeyCall, store: Any, vehicle: bytes, item: bytes) -> bytes:
    from dkey.lifecycle.attestation import read_attestation  # noqa: PLC0415

    for raw in store.keys.book(vehicle).chain:
        if read_attestation(raw).claims.share_id == item:
            return bytes(raw)
    raise LocalFault(
        "this phone does not hold the attestation of that key",
        hint="it was sealed to the friend's phone, which can show it",
    )


def _list(_call: KeyCall, store: Any, vehicle: bytes, _item: bytes) -> bytes:
    from dkey.lifecycle.claims import Issuer  # noqa: PLC0415

    book = store.keys.book(vehicle)
    for issuer in Issuer:
        held = book.held(issuer)
        if held is not None:
            return bytes(held.raw)
    raise PolicyRefusal(RefusalCode.NOT_SYNCED, "nothing was withdrawn at this vehicle yet")


def _invitation(call: KeyCall, store: Any, _vehicle: bytes, item: bytes) -> bytes:
    from dkey.agent.key_sharing import Sharer  # noqa: PLC0415

    sharer = Sharer(store, call.entropy)
    exchange = sharer.find(item)
    if sharer.value(exchange).answer is not None:
        raise PolicyRefusal(RefusalCode.ALREADY_LINKED, "that invitation was used already")
    return bytes(sharer.link(exchange).to_file())


@cli.command()
@key_command
@click.option("--corporate", is_flag=True, help="The owner is a corporation, with one phone.")
@click.option("--handover", is_flag=True, help="The vehicle may hand keys to providers remotely.")
def own(call: KeyCall, corporate: bool, handover: bool) -> None:
    """Say who owns the vehicle that this phone was paired with, before the first share."""
    from dkey.lifecycle.flags import Flags  # noqa: PLC0415

    with call.opened() as store:
        groups = [each.group_id for each in store.vehicles()]
        group = call.group_id or (groups[0] if len(groups) == 1 else None)
        if group is None:
            raise LocalFault("which vehicle is not clear", hint="choose one with --vehicle")
        store.keys.own(
            group,
            account=call.account,
            corporate=corporate,
            flags=Flags(remote_handover=handover),
        )
        call.link_authority(store, group)
        call.sync(store, group)
        account = store.keys.book(group).account
        call.tell(store, say=f"the owner is {account}\nnext: dkey key share ACCOUNT")


@cli.command()
@key_command
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
def export(call: KeyCall, file: Path | None) -> None:
    """Export all that is kept about this phone's keys, without secrets."""
    with call.opened() as store:
        events = [
            {
                "seq": each.seq,
                "t": each.t_s,
                "kind": each.kind,
                "vehicle": None if each.group_id is None else each.group_id.hex(),
                "code": each.code,
                "text": each.text,
            }
            for each in store.events(limit=10_000)
        ]
        if file is not None:
            values = {"schema": "dkey.keys/1", **call.keys(store), "events": events}
            write_private(file, (json.dumps(values, indent=1) + "\n").encode())
            call.tell(store, say=f"wrote {file}", file=str(file))
        elif call.as_json:
            call.tell(store, events=events)
        else:
            values = {"schema": "dkey.keys/1", **call.keys(store), "events": events}
            click.echo(json.dumps(values, indent=1))


for _command in (share, accept, suspend, resume, revoke, veto, transfer):
    cli.add_command(_command)
