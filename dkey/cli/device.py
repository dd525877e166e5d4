"""``dkey device``: the device role on a link."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dkey.access.applet import AppletHost
from dkey.access.ble_rules import DIALECTS
from dkey.access.device import AccessApplet
from dkey.access.exchange import ReaderStatus
from dkey.agent.credential_file import CredentialFile
from dkey.cli.device_messages import MessagePhone
from dkey.cli.options import file_path, secrets, trace_option, tracing
from dkey.cli.stores import ToldStore
from dkey.codec.ble import RkeAction
from dkey.control.intent import encode_intent
from dkey.control.touch import Intent
from dkey.crypto.entropy import SystemEntropy
from dkey.link.opener import serve, serve_messages

if TYPE_CHECKING:
    from dkey.access.credential import DeviceEvent
    from dkey.trace.tracer import Tracer

__all__ = ["cli"]

_ACTIONS: Final = {
    "lock": RkeAction.LOCK,
    "unlock": RkeAction.UNLOCK,
    "start": RkeAction.REMOTE_START,
    "stop": RkeAction.REMOTE_STOP,
    "horn-on": RkeAction.HORN_ON,
    "horn-off": RkeAction.HORN_OFF,
}


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
    "actions",
    multiple=True,
    type=click.Choice([*_ACTIONS]),
    help="Ask for this: at a touch reader lock or unlock (vehicle profile), over msg-tcp after AP"
    " Completed, in the order given.",
)
@click.option(
    "--remote-only", is_flag=True, help="Over msg-tcp: want no ranging, as with --action."
)
@click.option("--no-user-auth", is_flag=True, help="Act as a phone that the user did not unlock.")
@click.option("--read-only", is_flag=True, help="Do not write to the credential file.")
@click.option("--once", is_flag=True, help="End after one field period.")
@trace_option
@secrets
def serve_command(
    link: str,
    credential: Path,
    actions: tuple[str, ...],
    remote_only: bool,
    no_user_auth: bool,
    read_only: bool,
    once: bool,
    trace: Path | None,
    show_secrets: bool,
) -> None:
    """Answer readers on LINK with the credential in a file.

    LINK is apdu-tcp:127.0.0.1:PORT, nfc:udp:PORT, a PN532 such as nfc:tty:USB0:pn532, or
    msg-tcp:127.0.0.1:PORT for a phone on Bluetooth. PORT 0 picks a free one; the line
    `listening PORT` tells which.
    """
    file = CredentialFile(credential, read_only=read_only)
    if link.startswith("msg-tcp:"):
        _serve_messages(
            link,
            file,
            store=None if read_only else ToldStore(file),
            actions=actions,
            remote_only=remote_only or bool(actions),
            user_authenticated=not no_user_auth,
            once=once,
            trace=trace,
            show_secrets=show_secrets,
        )
        return
    action = _touch_action(actions, file)
    with tracing(trace, show_secrets=show_secrets) as tracer:
        applet = AccessApplet(
            file.credential,
            SystemEntropy(),
            store=None if read_only else ToldStore(file),
            extension=encode_intent(Intent(action.upper()) if action else None),
            user_authenticated=not no_user_auth,
            keep=not read_only,
            on_event=lambda event: _finished(event, tracer),
        )
        asyncio.run(
            serve(link, AppletHost([applet]), once=once, tap=tracer, on_listening=_listening)
        )


def _touch_action(actions: tuple[str, ...], file: CredentialFile) -> str | None:
    """Return what to ask a touch reader for."""
    if not actions:
        return None
    profile = file.credential.profile
    if not profile.intents:
        raise click.UsageError(f"the profile {profile.name} carries no --action")
    if len(actions) > 1 or actions[0] not in ("lock", "unlock"):
        raise click.UsageError("a touch reader takes one --action, lock or unlock")
    return actions[0]


def _serve_messages(
    link: str,
    file: CredentialFile,
    *,
    store: ToldStore | None,
    actions: tuple[str, ...],
    remote_only: bool,
    user_authenticated: bool,
    once: bool,
    trace: Path | None,
    show_secrets: bool,
) -> None:
    wanted = [_ACTIONS[each] for each in actions]
    profile = file.credential.profile.name
    if unknown := [each.name for each in wanted if each not in DIALECTS[profile].actions]:
        raise click.UsageError(f"the profile {profile} has no remote {', '.join(unknown)}")
    with tracing(trace, show_secrets=show_secrets) as tracer:
        phone = MessagePhone(
            file.credential,
            store=store,
            actions=wanted,
            remote_only=remote_only,
            user_authenticated=user_authenticated,
            on_event=lambda event: _finished(event, tracer),
        )
        asyncio.run(
            serve_messages(
                link,
                phone.serve,
                once=once,
                tap=tracer,
                on_listening=lambda port: _listening(str(port)),
            )
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
