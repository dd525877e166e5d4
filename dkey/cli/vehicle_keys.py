"""``dkey vehicle keys``: the key menu in the head unit of a running vehicle."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import click

from dkey.cli import REFUSED, USAGE
from dkey.cli.options import as_json, print_json
from dkey.cli.vehicle_run import ask, state_option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["keys"]


@click.command("keys")
@state_option
@click.option("--suspend", "suspend", metavar="ID", help="Suspend a key, at once.")
@click.option("--resume", "resume", metavar="ID", help="Lift that again.")
@click.option("--revoke", "revoke", metavar="ID", help="Revoke a key for good, at once.")
@as_json
@click.pass_context
def keys(
    ctx: click.Context,
    state: Path | None,
    suspend: str | None,
    resume: str | None,
    revoke: str | None,
    as_json: bool,
) -> None:
    """Show the keys of a running vehicle, or withdraw one.

    The owner's key on the console pad shows and withdraws all of them. Anyone else sees the key
    that lies there, and how many there are.
    """
    wanted = {"suspend": suspend, "resume": resume, "revoke": revoke}
    asked = {verb: key for verb, key in wanted.items() if key is not None}
    if len(asked) > 1:
        raise click.UsageError("give one of --suspend, --resume and --revoke")
    answer = ask(state, {"keys": asked or True})
    if as_json:
        print_json(answer)
    elif answer.get("ok"):
        _show(answer)
    else:
        click.echo(f"error: {answer.get('error')}", err=True)
        if answer.get("hint"):
            click.echo(f"  try: {answer['hint']}", err=True)
    if not answer.get("ok"):
        ctx.exit(REFUSED if answer.get("code") else USAGE)


def _show(answer: dict[str, Any]) -> None:
    count = answer["count"]
    click.secho(f"{count} key{'s' if count != 1 else ''} in use", bold=True)
    for key in answer["keys"]:
        until = ""
        if key["until_s"] is not None:
            when = datetime.datetime.fromtimestamp(key["until_s"], datetime.UTC)
            until = f"until {when:%Y-%m-%d %H:%M} UTC"
        own = "  (on the pad)" if key["own"] else ""
        click.echo(
            f"  {key['id']}  {key['name']:<14}{key['role']:<13}{key['permission']:<17}"
            f"{key['state']:<11}{until}{own}"
        )
