"""``dkey relay``: run a mailbox server for key invitations."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dkey.cli.options import as_json, file_path, print_json
from dkey.errors import LocalFault

__all__ = ["cli"]


@click.group()
def cli() -> None:
    """Run a mailbox server for key invitations; it never sees what they say."""


def _default_state() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "dkey" / "relay"


def _address(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter("is HOST:PORT, such as 127.0.0.1:0")
    return host.removeprefix("[").removesuffix("]"), int(port)


@cli.command("run")
@click.option(
    "--listen",
    "listen",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    callback=_address,
    help="Where to listen; port 0 is any free one.",
)
@click.option(
    "--state",
    "state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the mailboxes  [default: dkey/relay in the state folder]",
)
@click.option(
    "--database",
    "database",
    metavar="URL",
    envvar="DKEY_RELAY_DATABASE",
    help="Keep the mailboxes in PostgreSQL: postgresql://USER@HOST/NAME.",
)
@click.option("--certificate", "certificate", type=file_path, help="PEM chain: serve TLS.")
@click.option("--key", "key", type=file_path, help="PEM private key of the certificate.")
@click.option("--proxy", "proxy", metavar="ADDRESS", help="A proxy in front, whose word is taken.")
@as_json
def run(
    listen: tuple[str, int],
    state: Path | None,
    database: str | None,
    certificate: Path | None,
    key: Path | None,
    proxy: str | None,
    as_json: bool,
) -> None:
    """Serve mailboxes until interrupted. The first line tells the address.

    A mailbox holds one sealed message for at most 48 h. Where other machines can reach the relay,
    it serves TLS or it does not start.
    """
    if state is not None and database is not None:
        raise click.UsageError("give --state or --database, not both")
    try:
        from dkey.relay.database import sqlite_url  # noqa: PLC0415 - help needs no server
        from dkey.relay.process import Settings, run_relay  # noqa: PLC0415
    except ImportError as exc:
        raise LocalFault(
            f"the relay needs a package that is not installed: {exc.name}",
            hint="pip install 'dkey[authority]'",
        ) from exc
    from dkey.crypto.entropy import SystemEntropy  # noqa: PLC0415

    host, port = listen

    def ready(scheme: str, port: int) -> None:
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        if as_json:
            print_json({"schema": "dkey.relay/1", "event": "ready", "url": url, "port": port})
        else:
            click.echo(f"listening {url}")

    run_relay(
        Settings(
            host=host,
            port=port,
            database=database or sqlite_url(state or _default_state()),
            certificate=certificate,
            key=key,
            proxy=proxy,
        ),
        entropy=SystemEntropy(),
        ready=ready,
    )
