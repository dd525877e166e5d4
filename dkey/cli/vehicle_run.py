"""``dkey vehicle run``, ``set`` and ``press``: a running vehicle, and its knobs from outside."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from dkey.cli import REFUSED, USAGE, garage
from dkey.cli.options import as_json, file_path, print_json, trace_option, tracing
from dkey.cli.uwb import read_layout
from dkey.cli.vehicle_authority import authority_port
from dkey.cli.vehicle_typed import run_readers
from dkey.control.touch import Position
from dkey.errors import LinkError, LinkReason
from dkey.lifecycle.features import PROFILES
from dkey.ranging.layouts import SHIPPED

__all__ = ["ask", "press", "run", "set_command", "state_option"]

_ANSWER_S: Final = 10.0
_ANSWER_MAX: Final = 65_536


def _default_state() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "dkey" / "vehicle"


state_option = click.option(
    "--state",
    "state",
    envvar="DKEY_VEHICLE",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the vehicle  [default: $DKEY_VEHICLE, or dkey/vehicle in the state folder]",
)


@click.command("run")
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@state_option
@click.option("--handle", "handle", metavar="LINK", help="Reader at the door handle.")
@click.option("--pad", "pad", metavar="LINK", help="Reader in the console pad.")
@click.option(
    "--ble", "ble", metavar="MONIKER", help="Bluetooth controller such as usb:0, or none."
)
@click.option(
    "--uwb", "uwb", metavar="LINK", help="UWB anchors: uci:PATH, uci-tcp:HOST:PORT, or sim:."
)
@click.option(
    "--layout",
    "layout",
    type=file_path,
    metavar="FILE",
    help=f"Where the anchors are (TOML)  [default: {SHIPPED[0]}]",
)
@click.option("--passive", is_flag=True, help="A key that comes to a door unlocks it untouched.")
@click.option(
    "--features",
    "features",
    type=click.Choice([*PROFILES], case_sensitive=False),
    help="What kind of vehicle it is.",
)
@click.option(
    "--authority", "authority", metavar="URL", help="Authority to take withdrawal lists from."
)
@click.option(
    "--authority-token",
    "token",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token that the authority gave for this vehicle.",
)
@garage.signal_option
@click.option(
    "--btsnoop",
    "btsnoop",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder for a capture of the virtual air, one file for each participant.",
)
@trace_option
@as_json
def run(
    folder: Path | None,
    state: Path | None,
    handle: str | None,
    pad: str | None,
    ble: str | None,
    uwb: str | None,
    layout: Path | None,
    passive: bool,
    features: str | None,
    authority: str | None,
    token: Path | None,
    signals: tuple[str, ...],
    btsnoop: Path | None,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Run a mock vehicle until interrupted: readers, Bluetooth, body and head unit.

    It is kept in the folder of --state and made there, with no owner, if there is none. Without
    --ble it hosts a virtual air; without --handle and --pad it reserves two local ports on which
    a phone's program may listen. The first line tells all links.

    With FOLDER, only the readers that are named run, and commands are read from standard input:
    start, stop, pair, cancel, show, NAME=VALUE for a signal, quit.
    """
    if folder is not None:
        _run_typed(
            folder, {Position.DOOR_HANDLE: handle, Position.CONSOLE_PAD: pad}, signals, trace
        )
        return
    process = importlib.import_module("firmware_mock.process")
    settings = process.Settings(
        state=(state or _default_state()).absolute(),
        ble=ble,
        handle=handle,
        pad=pad,
        features=PROFILES[features] if features else None,
        knobs=_pairs(signals),
        btsnoop=btsnoop,
        authority=authority_port(authority, token) if authority else None,
        uwb=uwb,
        layout=None if layout is None else read_layout(layout),
        passive=passive,
    )
    with tracing(trace) as tracer:
        asyncio.run(_run(process, settings, tracer, as_json=as_json))


async def _run(process: Any, settings: Any, tracer: Any, *, as_json: bool) -> None:
    def emit(event: dict[str, object]) -> None:
        try:
            print_json(event) if as_json else _show(event)
        except BrokenPipeError:
            vehicle.stop()  # nobody reads any more

    vehicle = process.VehicleProcess(settings, emit=emit, tap=tracer)
    await vehicle.run()


def _run_typed(
    folder: Path,
    readers: dict[Position, str | None],
    signals: tuple[str, ...],
    trace: Path | None,
) -> None:
    links = {position: link for position, link in readers.items() if link}
    if not links:
        raise click.UsageError("give --handle LINK, --pad LINK or both")
    vehicle = garage.open_vehicle(folder)
    try:
        garage.set_signals(vehicle, signals)
        with tracing(trace) as tracer, suppress(asyncio.CancelledError):
            asyncio.run(run_readers(vehicle, links, tracer))
    finally:
        vehicle.close()


# ---- the head unit in text -----------------------------------------------------------------------


def _show(event: dict[str, object]) -> None:
    match event["event"]:
        case "ready":
            click.secho(f"vehicle {event['group_id']}, {event['features']}", bold=True)
            for name in ("handle", "pad", "ble", "uwb", "api"):
                click.echo(f"  {name:<8}{event.get(name) or 'off'}")
            click.echo("next: dkey vehicle set ignition=on   dkey vehicle press pair-owner")
        case "pairing_code":
            click.secho(f"  pairing code  {event['code']}", bold=True)
            click.echo(_qr(str(event["qr"])))
            click.echo(f"  {event['qr']}")
        case "state":
            click.echo(f"  {_doors(event)}")
        case name:
            _show_other(str(name), event)


def _qr(text: str) -> str:
    """Draw a QR code with half blocks, for a dark terminal; scanners read the inverse too."""
    import segno  # noqa: PLC0415 - only a vehicle that shows a code needs it

    rows = [[0, *row, 0] for row in segno.make(text, micro=False).matrix_iter(border=1)]
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    blocks = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    lines = (
        "".join(blocks[bool(upper), bool(lower)] for upper, lower in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    )
    return "\n".join(f"  {line}" for line in lines)


def _show_other(name: str, event: dict[str, object]) -> None:
    who = event.get("credential") or event.get("peer") or ""
    code, said = event.get("code"), event.get("action") or event.get("text") or ""
    words = [name.replace("_", " "), str(who), str(code or ""), str(said)]
    click.secho("  ".join(word for word in words if word), fg="yellow" if code else None)


def _doors(event: dict[str, object]) -> str:
    words = {True: "on", False: "off", None: "?"}
    locked = {True: "locked", False: "unlocked", None: "lock state unknown"}[
        event["locked"]  # type: ignore[index]
    ]
    ignition, horn = words[event["ignition_on"]], words[event["horn"]]  # type: ignore[index]
    running = ", started by remote control" if event["remote_running"] else ""
    return f"{locked}, ignition {ignition}{running}, horn {horn}"


# ---- knobs from outside --------------------------------------------------------------------------


@click.command("set")
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE...")
@state_option
@as_json
@click.pass_context
def set_command(
    ctx: click.Context, values: tuple[str, ...], state: Path | None, as_json: bool
) -> None:
    """Change body signals of a running vehicle.

    KEY is ignition (on/off), gear (P/R/N/D), speed (km/h), doors (closed/open), fob (near/away),
    update, immobilised, service_mode, valet (on/off), or a signal by its own name. The value
    `unknown` lets a sensor fail.
    """
    answer = ask(state, {"set": _pairs(values)})
    ctx.exit(_tell(answer, as_json=as_json))


@click.command("press")
@click.argument("name")
@state_option
@as_json
@click.pass_context
def press(ctx: click.Context, name: str, state: Path | None, as_json: bool) -> None:
    """Press a button of a running vehicle.

    NAME is start, stop, pair-owner, pair-card, factory-reset, fob-lock, fob-unlock or cancel; with
    the owner's key on the pad also transfer, unpair or change-owner; with anchors also handle,
    handle-passenger, handle-trunk, consent-off, consent-on.
    """
    answer = ask(state, {"press": name})
    ctx.exit(_tell(answer, as_json=as_json))


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.UsageError(f"a setting is KEY=VALUE, not {text!r}")
        found[name] = value
    return found


def ask(state: Path | None, request: dict[str, object]) -> dict[str, Any]:
    """Send one request to the vehicle that runs in a folder and return its answer.

    Raises:
        LinkError: None answers there.
    """
    path = (state or _default_state()).absolute() / "control.sock"
    hint = f"start it: dkey vehicle run --state {path.parent}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_ANSWER_S)
            client.connect(str(path))
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as lines:
                answer = json.loads(lines.readline(_ANSWER_MAX))
    except (OSError, ValueError) as exc:
        raise LinkError(
            LinkReason.ABSENT, f"no vehicle answers at {path}: {exc}", hint=hint
        ) from exc
    if not isinstance(answer, dict):
        raise LinkError(LinkReason.PROTOCOL, f"{path} is not a vehicle's", hint=hint)
    return answer


def _tell(answer: dict[str, Any], *, as_json: bool) -> int:
    """Print an answer; return the exit code."""
    code = answer.get("code")
    if as_json:
        print_json(answer)
    elif not answer.get("ok"):
        click.echo(f"error: {answer.get('error')}", err=True)
        if answer.get("hint"):
            click.echo(f"  try: {answer['hint']}", err=True)
    elif code:
        click.secho(f"refused, {code}  {answer.get('text') or ''}", fg="yellow", bold=True)
    else:
        for key in ("qr", "pairing_code", "text"):
            if answer.get(key):
                click.echo(f"{key.replace('_', ' ')}: {answer[key]}")
        click.echo(_doors(answer["state"]))
    if code:
        return REFUSED
    return 0 if answer.get("ok") else USAGE
