"""``dkey device``: the device role on a link."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dkey.access.applet import AppletHost
from dkey.access.device import AccessApplet, DeviceEvent
from dkey.access.exchange import ReaderStatus
from dkey.agent.credential_file import CredentialFile
from dkey.cli.options import file_path, secrets, trace_option, tracing
from dkey.cli.stores import ToldStore
from dkey.control.intent import encode_intent
from dkey.control.touch import Intent
from dkey.crypto.entropy import SystemEntropy
from dkey.link.opener import serve

if TYPE_CHECKING:
    from dkey.trace.tracer import Tracer

__all__ = ["cli"]


@click.group()
def cli() -> None:
    """Serve the device role, for someone else's reader or for `dkey tap`."""


@cli.command("serve")
@click.argument("link")
@click.option(
    "--credential", "credential", type=file_path, required=True, help="Credential file (JSON)."
)
@click.option(
    "--action",
    type=click.Choice(["lock", "unlock"]),
    help="Ask a vehicle for this instead of toggling (vehicle profile).",
)
@click.option("--no-user-auth", is_flag=True, help="Act as a phone that the user did not unlock.")
@click.option("--read-only", is_flag=True, help="Do not write to the credential file.")
@click.option("--once", is_flag=True, help="End after one field period.")
@trace_option
@secrets
def serve_command(
    link: str,
    credential: Path,
    action: str | None,
    no_user_auth: bool,
    read_only: bool,
    once: bool,
    trace: Path | None,
    show_secrets: bool,
) -> None:
    """Answer readers on LINK with the credential in a file.

    LINK is apdu-tcp:127.0.0.1:PORT, nfc:udp:PORT, or a PN532 such as nfc:tty:USB0:pn532.
    PORT 0 picks a free one; the line `listening PORT` tells which.
    """
    file = CredentialFile(credential, read_only=read_only)
    profile = file.credential.profile
    if action and not profile.intents:
        raise click.UsageError(f"the profile {profile.name} carries no --action")
    with tracing(trace, show_secrets=show_secrets) as tracer:
        applet = AccessApplet(
            file.credential,
            SystemEntropy(),
            store=None if read_only else ToldStore(file),
            extension=encode_intent(Intent(action.upper()) if action else None),
            user_authenticated=not no_user_auth,
            on_event=lambda event: _finished(event, tracer),
        )
        asyncio.run(
            serve(link, AppletHost([applet]), once=once, tap=tracer, on_listening=_listening)
        )


def _finished(event: DeviceEvent, tracer: Tracer | None) -> None:
    """Tell of a finished transaction, on standard error."""
    flow = "fast" if event.fast else "standard"
    try:
        status = ReaderStatus(event.status).name.lower().replace("_", " ")
    except ValueError:
        status = "unknown status"
    click.echo(f"{flow} transaction, reader says {event.status:04X} ({status})", err=True)
    if tracer is not None:
        keys = {"exchange_reader": event.keys.exchange_reader}
        keys |= {"exchange_device": event.keys.exchange_device, "ble": event.keys.ble}
        keys |= {"ursk": event.keys.ursk}
        tracer.keys({name: key.reveal() for name, key in keys.items()})


def _listening(port: str) -> None:
    click.echo(f"listening {port}")
