"""What every ``dkey agent`` command has: its options, its store and radio, how it tells events."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import click

from dkey.cli import exit_code
from dkey.cli.options import Seconds, trace_option, tracing
from dkey.errors import DkeyError

__all__ = ["AgentCall", "agent_command", "group_id_of"]

_SOCKET: Final = "agent.sock"
_PROGRESS: Final = {
    "searching": "looking for the vehicle",
    "connected": "connected to {address} ({rssi_dbm} dBm)",
    "authenticated": "authenticated ({flow} transaction)",
    "retry": "attempt {attempt}, because {text}",
    "code": "stretching the code",
    "paired": "paired with vehicle {vehicle}",
    "synced": "the vehicle confirmed the key",
    "forgotten": "the vehicle does not know this key any more",
    "listening": "waiting for the vehicle's reader on {where}",
    "disconnected": "the connection to the vehicle ended",
    "ranging": "ranging with the vehicle, a round every {ran} x 96 ms",
    "ranging_ended": "ranging ended: {text}",
    "ranging_trouble": "no ranging: {text}; {hint}",
    "uwb_lost": "the UWB subsystem is lost: {text}",
    "not_near": "not connected for ranging: {text}",
    "history_failed": "the history could not be written: {text}",
    "ready": "serving {api}; stop with Ctrl-C",
}


def _data_folder() -> Path:
    """Return where programs of this user keep their data."""
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/dkey/agent"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local/share") / "dkey/agent"


class AgentCall:
    """One invocation: its options, and how it tells what happens."""

    def __init__(
        self,
        *,
        store: Path | None,
        passphrase_file: Path | None,
        vehicle: str | None,
        link: str | None,
        timeout_s: float,
        as_json: bool,
        trace: Path | None,
    ) -> None:
        self.folder = store or _data_folder()
        self.passphrase_file = passphrase_file
        self.vehicle = vehicle
        self.link = link
        self.timeout_s = timeout_s
        self.as_json = as_json
        self.trace = trace

    @property
    def socket(self) -> Path:
        """Where `dkey agent run` serves by default."""
        return self.folder / _SOCKET

    def event(self, name: str, values: dict[str, Any]) -> None:
        """Tell what happened: a JSON line on standard output, or words on standard error."""
        if self.as_json:
            click.echo(json.dumps({"t": round(time.time(), 3), "event": name, **values}))
        elif name in _PROGRESS:
            click.echo(_PROGRESS[name].format_map(values), err=True)

    def result(self, values: dict[str, Any]) -> None:
        """Print the last JSON line of a command."""
        from dkey.agent.api import SCHEMA  # noqa: PLC0415

        self.event("result", {"schema": SCHEMA, **values})

    def passphrase(self) -> Any:
        """Return the passphrase in its file, without the line's end; None without a file."""
        if self.passphrase_file is None:
            return None
        from dkey.crypto.secret import Secret  # noqa: PLC0415

        return Secret(self.passphrase_file.read_bytes().rstrip(b"\r\n"))

    @contextlib.contextmanager
    def opened(self, *, create: bool = False) -> Any:
        """Open the store."""
        from dkey.agent.store import AgentStore  # noqa: PLC0415
        from dkey.crypto.entropy import SystemEntropy  # noqa: PLC0415

        with AgentStore.open(
            self.folder, passphrase=self.passphrase(), entropy=SystemEntropy(), create=create
        ) as store:
            yield store

    @contextlib.asynccontextmanager
    async def agent(self, *, create: bool = False, uwb: str | None = None) -> Any:
        """Open store and radio, and the UWB subsystem if there is one, and give the agent."""
        from dkey.agent.agent import Agent  # noqa: PLC0415
        from dkey.agent.finding import Patience  # noqa: PLC0415
        from dkey.crypto.entropy import SystemEntropy  # noqa: PLC0415
        from dkey.link.opener import open_central  # noqa: PLC0415

        patience = Patience(find_s=self.timeout_s, connect_s=self.timeout_s)
        async with contextlib.AsyncExitStack() as stack:
            tracer = stack.enter_context(tracing(self.trace))
            store = stack.enter_context(self.opened(create=create))
            ranging = None if uwb is None else await self._ranging(uwb, stack)
            agent = Agent(
                store,
                open_central(self.link or "ble:", tap=tracer),
                entropy=SystemEntropy(),
                group_id=self.group_id,
                patience=patience,
                tap=tracer,
                on_event=self.event,
                ranging=ranging,
            )
            try:
                yield agent
            finally:
                await agent.aclose()

    async def _ranging(self, uwb: str, stack: contextlib.AsyncExitStack) -> Any:
        """Open the phone's UWB subsystem and range with it until the stack ends."""
        from dkey.agent.agent_ranging import AgentRanging  # noqa: PLC0415
        from dkey.crypto.entropy import SystemEntropy  # noqa: PLC0415
        from dkey.link.opener import open_uci  # noqa: PLC0415

        clock = asyncio.get_running_loop().time
        ranging = AgentRanging(SystemEntropy(), clock=clock, on_event=self.event)
        link = await open_uci(uwb)
        await stack.enter_async_context(_beside(ranging.run(link)))
        return ranging

    @contextlib.asynccontextmanager
    async def near(self, agent: Any, *, wanted: bool) -> Any:
        """Keep the agent connected for ranging, where that is wanted."""
        from dkey.agent.agent_ranging import keep_near  # noqa: PLC0415

        if not wanted:
            yield
            return
        async with _beside(keep_near(agent.follow, self.event)):
            yield

    @property
    def group_id(self) -> bytes | None:
        """The vehicle that was chosen."""
        return None if self.vehicle is None else group_id_of(self.vehicle)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> Any:
    """Run something beside a block, and end it with that."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def group_id_of(text: str) -> bytes:
    """Return the identifier of a vehicle from its hex digits."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 16:
        raise click.UsageError("a vehicle is named by 32 hex digits; `dkey agent status` shows it")
    return found


def agent_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has; give them as one value."""

    @functools.wraps(command)
    def called(**values: Any) -> Any:
        names = ("store", "passphrase_file", "vehicle", "link", "timeout_s", "as_json", "trace")
        call = AgentCall(**{name: values.pop(name) for name in names})
        try:
            return command(call, **values)
        except DkeyError as exc:
            if not call.as_json:
                raise
            from dkey.agent.api import error_json  # noqa: PLC0415

            call.result({"ok": False, "error": error_json(exc)})
            return click.get_current_context().exit(exit_code(exc))

    folder = click.Path(file_okay=False, path_type=Path)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line."),
        trace_option,
        click.option(
            "--timeout",
            "timeout_s",
            type=Seconds(),
            default=10.0,
            show_default=True,
            help="Seconds to look for the vehicle, and to connect.",
        ),
        click.option(
            "--link",
            metavar="LINK",
            help="ble: or ble:ADDRESS (the adapter of this computer, the default), "
            "ble-sim:HOST:PORT or ble-sim:/PATH (a simulated radio).",
        ),
        click.option("--vehicle", metavar="ID", help="Which vehicle, if several are paired."),
        click.option(
            "--passphrase-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The vault's passphrase is in this file, instead of a key file in the store.",
        ),
        click.option(
            "--store",
            type=folder,
            envvar="DKEY_AGENT_STORE",
            help="Folder of keys (default: the user's data folder).",
        ),
    ):
        called = option(called)
    return called
