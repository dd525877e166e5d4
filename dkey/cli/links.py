"""``dkey links``: every link string, and the readers that are there now."""

from __future__ import annotations

import click

from dkey.cli.options import as_json, print_json
from dkey.link.nfc_readers import find_readers
from dkey.link.opener import KNOWN_LINKS

__all__ = ["cli"]


@click.command()
@as_json
def cli(as_json: bool) -> None:
    """List every form of link string, and the NFC readers found on this machine."""
    found = [reader for reader in find_readers() if reader.link]
    if as_json:
        print_json(
            {
                "schema": "dkey.links/1",
                "forms": [link._asdict() for link in KNOWN_LINKS],
                "readers": [
                    {
                        "link": reader.link,
                        "name": reader.name,
                        "status": reader.status.value if reader.status else "ok",
                        "hint": reader.hint,
                    }
                    for reader in found
                ],
            }
        )
        return
    click.secho("Link strings", bold=True)
    for link in KNOWN_LINKS:
        later = "" if link.usable else "  (not in this build)"
        click.secho(f"  {link.form:<24}{link.meaning}{later}", dim=not link.usable)
    click.echo()
    click.secho("Readers on this machine", bold=True)
    for reader in found:
        status = f"  [{reader.status.value}: {reader.hint}]" if reader.status else ""
        click.echo(f"  {reader.link:<24}{reader.name}{status}")
    if not found:
        click.echo("  none found; `dkey doctor` says what to check, `dkey demo` needs none")
