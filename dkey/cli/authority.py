"""``dkey authority``: the back-end that holds accounts, roles and shares."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dkey.cli.options import as_json, print_json
from dkey.errors import LocalFault

if TYPE_CHECKING:
    from dkey.authority.serve import Listening

__all__ = ["cli"]

_LISTEN: Final = "127.0.0.1:8460"
_SCHEMA: Final = "dkey.authority/1"


def _default_state() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "dkey" / "authority"


_state = click.option(
    "--state",
    "state",
    envvar="DKEY_AUTHORITY",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the authority  [default: $DKEY_AUTHORITY, or dkey/authority in the state"
    " folder]",
)


def _extra(name: str) -> Any:
    """Return a module that needs the packages of the extra ``authority``."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name not in {"fastapi", "uvicorn", "pydantic", "starlette"}:
            raise
        raise LocalFault(
            f"the package {exc.name} is not installed", hint="pip install 'dkey[authority]'"
        ) from exc


@click.group()
def cli() -> None:
    """The back-end: accounts, roles and shares of vehicles, over HTTP.

    It is a prototype's: whoever asks gets an account, nobody proves who they are. It listens on
    this machine only, unless told otherwise, and speaks no TLS.
    """


@cli.command()
@_state
@as_json
def init(state: Path | None, as_json: bool) -> None:
    """Make an authority without accounts."""
    folder = importlib.import_module("dkey.authority.folder")
    entropy = importlib.import_module("dkey.crypto.entropy").SystemEntropy()
    place = (state or _default_state()).absolute()
    folder.create_folder(place, entropy=entropy)
    if as_json:
        print_json({"schema": _SCHEMA, "event": "created", "state": str(place)})
        return
    click.echo(f"made an authority in {place}")
    click.echo(f"  the token of @authority and @dealer is in {place / 'admin.token'}")
    click.echo(f"next: dkey authority run --state {place}")


@cli.command()
@_state
@click.option("--listen", default=_LISTEN, show_default=True, metavar="HOST:PORT")
@click.option(
    "--fake-clock",
    type=click.IntRange(0, 2**40),
    metavar="SECONDS",
    help="Begin at this time (seconds since 1970) and move only by POST /v1/clock.",
)
@as_json
def run(state: Path | None, listen: str, fake_clock: int | None, as_json: bool) -> None:
    """Serve the authority until interrupted. Port 0 takes a free port; the first line tells it.

    The folder is made where there is none.
    """
    serve = _extra("dkey.authority.serve")
    folder = importlib.import_module("dkey.authority.folder")
    place = (state or _default_state()).absolute()
    where = serve.parse_listen(listen)
    if not folder.holds_authority(place):
        entropy = importlib.import_module("dkey.crypto.entropy").SystemEntropy()
        folder.create_folder(place, entropy=entropy)
    clock = None
    if fake_clock is not None:
        clock = importlib.import_module("dkey.testing").FakeClock(float(fake_clock))

    def ready(listening: Listening) -> None:
        _announce(listening, place, as_json=as_json)

    asyncio = importlib.import_module("asyncio")
    asyncio.run(serve.serve(place, where, ready=ready, fake_clock=clock))


@cli.command()
def openapi() -> None:
    """Print the API document (OpenAPI 3.1, JSON)."""
    import json  # noqa: PLC0415 - only this command needs it
    import tempfile  # noqa: PLC0415 - only this command needs it

    http = _extra("dkey.authority.http")
    authority = importlib.import_module("dkey.authority.service").Authority
    with (
        tempfile.TemporaryDirectory() as name,
        authority.open(Path(name) / "authority", create=True) as nobody,
    ):
        click.echo(json.dumps(http.api_document(nobody), indent=2))


def _announce(listening: Listening, state: Path, *, as_json: bool) -> None:
    if not listening.local:
        click.echo(
            "warning: other machines reach this; it speaks no TLS and is no identity service",
            err=True,
        )
    if as_json:
        print_json(
            {
                "schema": _SCHEMA,
                "event": "ready",
                "url": listening.url,
                "public_key": listening.public_key.hex(),
                "state": str(state),
            }
        )
        return
    click.secho(f"authority {listening.url}", bold=True)
    click.echo(f"  public key  {listening.public_key.hex()}")
    click.echo(f"  state       {state}")
    click.echo(f"next: curl {listening.url}/openapi.json")
