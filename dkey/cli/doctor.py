"""``dkey doctor``: what is there, what is in the way, and the fix."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import click

from dkey.cli.options import as_json, print_json
from dkey.link.ble_adapters import find_adapters
from dkey.link.nfc_readers import find_readers

__all__ = ["cli"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """One line: what was looked at, whether it is fine, and what to do if not."""

    area: str
    name: str
    status: str
    hint: str | None = None

    @property
    def fine(self) -> bool:
        return self.status == "ok"


def _software() -> list[_Finding]:
    found = [_Finding(area="software", name=f"Python {platform.python_version()}", status="ok")]
    for package in ("dkey", "cryptography", "nfcpy", "bleak", "construct"):
        try:
            text = f"{package} {version(package)}"
            found.append(_Finding(area="software", name=text, status="ok"))
        except PackageNotFoundError:
            found.append(
                _Finding(
                    area="software",
                    name=package,
                    status="absent",
                    hint=f"{sys.executable} -m pip install {package}",
                )
            )
    tshark = shutil.which("tshark")
    found.append(
        _Finding(
            area="software",
            name="tshark (optional, dissects captures)",
            status="ok" if tshark else "absent",
            hint=None if tshark else "sudo apt install tshark",
        )
    )
    return found


def _nfc(*, probe: bool) -> list[_Finding]:
    readers = find_readers(probe=probe)
    found = [
        _Finding(
            area="nfc",
            name=f"{each.link}  {each.name}" if each.link else each.name,
            status=each.status.value if each.status else "ok",
            hint=each.hint,
        )
        for each in readers
    ]
    if not any(each.link for each in readers):
        found.append(
            _Finding(
                area="nfc",
                name="no NFC reader found",
                status="absent",
                hint="plug one in (a PN532 on USB serial is the usual choice), or use `dkey demo`",
            )
        )
    return found


def _ble() -> list[_Finding]:
    return [
        _Finding(
            area="ble",
            name=f"{each.link}  {each.name}" if each.link else each.name,
            status=each.status.value if each.status else "ok",
            hint=each.hint,
        )
        for each in find_adapters()
    ]


@click.command()
@click.option("--probe", is_flag=True, help="Open each serial candidate to see what it is.")
@as_json
def cli(probe: bool, as_json: bool) -> None:
    """Check software, NFC readers and Bluetooth: what keeps them from working, and the fix."""
    findings = [*_software(), *_nfc(probe=probe), *_ble()]
    if as_json:
        print_json(
            {
                "schema": "dkey.doctor/1",
                "findings": [
                    {"area": f.area, "name": f.name, "status": f.status, "hint": f.hint}
                    for f in findings
                ],
            }
        )
        return
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            click.secho(area, bold=True)
        mark = click.style("✓", fg="green") if finding.fine else click.style("✗", fg="yellow")
        status = "" if finding.fine else f"  [{finding.status}]"
        click.echo(f"  {mark} {finding.name}{status}")
        if finding.hint:
            click.echo(f"      try: {finding.hint}")
