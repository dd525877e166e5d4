"""``dkey agent``: the phone's key to a vehicle."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dkey.cli import INTERNAL, LINK, REFUSED, USAGE
from dkey.cli.agent_call import AgentCall, agent_command, group_id_of

if TYPE_CHECKING:
    from dkey.agent.agent import Agent
    from dkey.agent.agent_status import Status

__all__ = ["cli"]

_ANSWER_S: Final = 60.0
_PAIR_S: Final = 60.0
_DONE: Final = {
    "LOCK": "locked",
    "UNLOCK": "unlocked",
    "REMOTE_START": "engine started",
    "REMOTE_STOP": "engine stopped",
    "HORN_ON": "the horn sounds, for 30 s at most",
    "HORN_OFF": "the horn is silent",
}
_NEXT: Final = {
    "LOCK": "dkey agent start",
    "UNLOCK": "dkey agent lock",
    "REMOTE_START": "dkey agent stop",
    "HORN_ON": "dkey agent horn off",
}
_REFUSALS: Final = frozenset({"refused", "forgotten", "untrusted"})
_LOCAL: Final = frozenset({"store", "not_paired", "request", "busy"})


@click.group()
def cli() -> None:
    """The phone's key: pair with a vehicle, lock, unlock, start, sound the horn.

    Keys lie in the folder --store. While `dkey agent run` serves that folder, the other commands
    go through it, unless --link is given.
    """


# --- commands ----------------------------------------------------------------------------------


@cli.command()
@agent_command
@click.option(
    "--api",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Socket of the local API (default: agent.sock in the store).",
)
@click.option("--uwb", metavar="LINK", help="The phone's UWB: uci:PATH or uci-tcp:HOST:PORT.")
def run(call: AgentCall, api: Path | None, uwb: str | None) -> None:
    """Keep the agent running and serve the local API to other programs.

    With --uwb it stays connected to the vehicle and is ranged: doors and start by proximity.
    """
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(call, api or call.socket, uwb))


async def _run(call: AgentCall, api: Path, uwb: str | None) -> None:
    from dkey.agent.api import SCHEMA, serve_api  # noqa: PLC0415

    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    async with call.agent(create=True, uwb=uwb) as agent, serve_api(agent, api):
        ready = {"schema": SCHEMA, "api": str(api), "state": agent.state.value}
        call.event("ready", ready)
        async with call.near(agent, wanted=uwb is not None):
            await stop.wait()
    call.event("stopped", {})


@cli.command()
@agent_command
@click.option("--code", help="The 8 digits at the head unit; - reads them from standard input.")
@click.option("--qr", help="The text of the head unit's QR, in place of --code.")
@click.option(
    "--nfc",
    metavar="LINK",
    help="Pair on the console pad instead: nfc:udp:PORT, apdu-tcp:HOST:PORT, or a PN532.",
)
@click.option("--no-ble", is_flag=True, help="Say that this device has no BLE.")
@click.option("--uwb", is_flag=True, help="Say that this device has UWB.")
def pair(
    call: AgentCall, code: str | None, qr: str | None, nfc: str | None, no_ble: bool, uwb: bool
) -> None:
    """Pair as the owner, with the code that the head unit shows.

    The vehicle shows it with the ignition on, from the cabin. Without --code and --qr the code is
    asked for.
    """
    from dkey.agent.enrolment import this_device  # noqa: PLC0415
    from dkey.pairing.owner import parse_code  # noqa: PLC0415

    if code is not None and qr is not None:
        raise click.UsageError("give --code or --qr, not both")
    secret = parse_code(qr or _typed(code))
    able = this_device(ble=not no_ble, uwb=uwb)

    async def work(agent: Agent) -> Status:
        if nfc is None:
            return await agent.pair(secret, able)
        return await agent.pair_nfc(secret, able, nfc, timeout_s=_PAIR_S)

    _report(call, asyncio.run(_with_agent(call, work, create=True)), what="paired")


def _typed(code: str | None) -> str:
    if code == "-":
        return sys.stdin.readline()
    if code is None:
        return str(click.prompt("code at the head unit", err=True))
    return code


@cli.command()
@agent_command
@click.argument("reader")
def touch(call: AgentCall, reader: str) -> None:
    """Hold the phone to a reader of the vehicle, once.

    READER is nfc:udp:PORT, apdu-tcp:HOST:PORT, or a PN532 that emulates a card.
    """

    async def work(agent: Agent) -> Status:
        return await agent.touch(reader, timeout_s=_PAIR_S)

    _report(call, asyncio.run(_with_agent(call, work)), what="touched")


@cli.command()
@agent_command
@click.option("--offline", is_flag=True, help="Do not reach for the vehicle.")
def status(call: AgentCall, offline: bool) -> None:
    """Show what the key can do now; finishes its setup where the vehicle is in range."""
    if not (call.folder / "agent.db").exists():
        from dkey.agent.agent_status import Status  # noqa: PLC0415
        from dkey.agent.store_schema import KeyState  # noqa: PLC0415

        _report(call, Status(state=KeyState.NONE, known=None, actions=()))
        return

    async def work(agent: Agent) -> Status:
        return await agent.status(connect=not offline)

    answer = _through_api(call, "status", connect=not offline)
    if answer is not None:
        _report_json(call, answer)
        return
    _report(call, asyncio.run(_with_agent(call, work)))


@cli.command()
@agent_command
@click.argument("vehicle_id", metavar="ID")
def forget(call: AgentCall, vehicle_id: str) -> None:
    """Delete the key to the vehicle ID from this device; the vehicle is not told."""
    with call.opened() as store:
        store.forget(group_id_of(vehicle_id))
    if call.as_json:
        call.result({"ok": True, "forgotten": vehicle_id})
    else:
        click.echo(f"the key to {vehicle_id} is deleted")


def _action(name: str, text: str, do: str, **members: Any) -> Callable[..., None]:
    """Return a command that asks for one action."""

    def asked(call: AgentCall) -> None:
        if do == "start" and not call.as_json:
            click.echo("see that nobody is endangered by a starting engine", err=True)
        answer = _through_api(call, do, **members)
        if answer is None:
            answer = asyncio.run(_with_agent(call, lambda agent: _perform(agent, do, members)))
        _said(call, answer)

    asked.__doc__ = text
    asked.__name__ = name
    return agent_command(asked)


async def _perform(agent: Agent, do: str, members: dict[str, Any]) -> dict[str, Any]:
    from dkey.agent.api import outcome_json  # noqa: PLC0415

    return {"ok": True, **outcome_json(await getattr(agent, do)(**members))}


for _name, _text in (
    ("unlock", "Unlock the doors."),
    ("lock", "Lock the doors."),
    ("start", "Start the engine, by near-range remote control."),
    ("stop", "Stop the engine that `start` started."),
):
    cli.command(_name)(_action(_name, _text, _name))


@cli.group()
def horn() -> None:
    """Sound or silence the horn."""


horn.command("on")(_action("on", "Sound the horn; it stops by itself after 30 s.", "horn", on=True))
horn.command("off")(_action("off", "Silence the horn.", "horn", on=False))


# --- how it is done and told -------------------------------------------------------------------


async def _with_agent(
    call: AgentCall, work: Callable[[Any], Awaitable[Any]], *, create: bool = False
) -> Any:
    async with call.agent(create=create) as agent:
        return await work(agent)


def _through_api(call: AgentCall, do: str, **members: Any) -> dict[str, Any] | None:
    """Ask the agent that serves this store; None when none does, or --link wants another way."""
    if call.link is not None or not call.socket.exists():
        return None
    from dkey.agent.api import call as ask  # noqa: PLC0415
    from dkey.errors import LinkError, LinkReason  # noqa: PLC0415

    try:
        return asyncio.run(ask(call.socket, do, timeout_s=_ANSWER_S, **members))
    except LinkError as exc:
        if exc.reason is LinkReason.ABSENT:
            return None
        raise


def _said(call: AgentCall, answer: dict[str, Any]) -> None:
    """Print the answer on an action, from this process or through the API, and end."""
    answer.pop("id", None)
    error = answer.get("error")
    if call.as_json:
        call.result(answer)
    elif error is not None:
        _echo_error(error)
    else:
        click.echo(f"{_DONE[answer['action']]} ({answer['flow']}, {answer['seconds']:.2f} s)")
        if (then := _NEXT.get(answer["action"])) is not None:
            click.echo(f"next: {then}")
    if error is not None:
        click.get_current_context().exit(_code_of(error["kind"]))


def _echo_error(error: dict[str, Any]) -> None:
    why = f"\n  why: {error['code']}" if error["code"] else ""
    hint = f"\n  try: {error['try']}" if error["try"] else ""
    click.echo(f"error: {error['text']}{why}{hint}", err=True)


def _code_of(kind: str) -> int:
    if kind in _REFUSALS:
        return REFUSED
    if kind in _LOCAL:
        return USAGE
    return INTERNAL if kind == "internal" else LINK


def _report(call: AgentCall, status: Status, *, what: str = "") -> None:
    from dkey.agent.api import status_json  # noqa: PLC0415

    values = {"ok": True, **({"done": what} if what else {}), **status_json(status)}
    _report_json(call, values)


def _report_json(call: AgentCall, values: dict[str, Any]) -> None:
    """Print a status; its error decides the exit code."""
    values.pop("id", None)
    error = values.get("error")
    if call.as_json:
        call.result(values)
    elif not values["ok"]:
        _echo_error(values["error"])
    else:
        _echo_status(values)
    if error is not None:
        click.get_current_context().exit(_code_of(error["kind"]))


def _echo_status(values: dict[str, Any]) -> None:
    click.echo(f"key        {values['state']}")
    if values["vehicle"]:
        click.echo(f"vehicle    {values['vehicle']} ({values['key_name']})")
        click.echo(f"features   {', '.join(values['features']).lower()}")
        click.echo(f"functions  {', '.join(values['functions']).lower() or 'none by BLE now'}")
    if values["reached"]:
        click.echo(f"doors      {values['doors']}")
    if values["error"] is not None:
        _echo_error(values["error"])
    elif values["state"] == "NONE":
        click.echo("next: dkey agent pair")
    elif values["functions"]:
        click.echo("next: dkey agent unlock")
    elif values["state"] == "REGISTERED":
        click.echo("next: dkey agent status, in range of the vehicle")
