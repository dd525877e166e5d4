"""``dkey uwb``: ultra-wideband ranging on the bench."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Any, Final

import click

from dkey.cli.options import as_json, file_path, print_json
from dkey.errors import FileFormatError, LinkError, LinkReason
from dkey.ranging.layout import parse_layout
from dkey.ranging.layouts import SHIPPED, shipped_layout

__all__ = ["cli"]

_CHANNELS: Final = ("clean", "prototype", "pocket", "garage")
_PATHS: Final = ("approach", "pass-by", "sit-in", "back-pocket", "leave")


@click.group()
def cli() -> None:
    """Serve a virtual UWB subsystem to any UCI host."""


@cli.command("serve")
@click.argument("link", default="uci-tcp:127.0.0.1:0")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of all chance.")
@click.option(
    "--layout",
    "layout_file",
    type=file_path,
    metavar="FILE",
    help=f"Anchors and body of the vehicle (TOML)  [default: {SHIPPED[0]}]",
)
@click.option(
    "--pace",
    type=click.Choice(["realtime", "fast"]),
    default="realtime",
    show_default=True,
    help="How fast virtual time runs; fast is 20 times.",
)
@click.option(
    "--channel",
    type=click.Choice(_CHANNELS),
    default="prototype",
    show_default=True,
    help="How hard the radio channel is.",
)
@click.option(
    "--at",
    nargs=2,
    type=float,
    default=(4.0, 3.0),
    show_default=True,
    metavar="X Y",
    help="Where phones are: metres forward and to the left of the middle of the vehicle.",
)
@click.option("--path", type=click.Choice(_PATHS), help="Let phones walk instead, over and over.")
@click.option("--mirror", is_flag=True, help="Let a phone answer whatever a vehicle's host starts.")
@click.option("--uci", type=click.Choice(["1", "2"]), default="1", help="Version of UCI.")
@click.option("--raw", is_flag=True, help="Append clock ratios to ranging notifications.")
@as_json
def serve(
    link: str,
    seed: int,
    layout_file: Path | None,
    pace: str,
    channel: str,
    at: tuple[float, float],
    path: str | None,
    mirror: bool,
    uci: str,
    raw: bool,
    as_json: bool,
) -> None:
    """Be a UWB subsystem on LINK, uci-tcp:127.0.0.1:PORT, until interrupted.

    Each connection is one subsystem; all share one virtual air, so that a phone's host and a
    vehicle's range with each other. Sessions are of type CCC (A0) or Aliro (A2), with the ranging
    secret given by the host (parameter AA). Port 0 takes a free one and prints it.
    """
    host, port = _address(link)
    air_module = importlib.import_module("firmware_mock.uwb_air")
    channels = importlib.import_module("firmware_mock.uwb_channel")
    pacing = importlib.import_module("firmware_mock.uwb_pace")
    server_module = importlib.import_module("firmware_mock.uwb_server")
    air = air_module.UwbAir(
        car=channels.Car.of(_layout(layout_file)),
        channel=getattr(channels.Channel, channel.upper()),
        seed=seed,
    )

    def emit(event: dict[str, object]) -> None:
        print_json({"schema": "dkey.uwb/1", **event}) if as_json else _show(event)

    server = server_module.UwbServer(
        air,
        _stations(air, at, path, seed),
        pace=pacing.FAST if pace == "fast" else pacing.REALTIME,
        mirror=mirror,
        uci_major=int(uci),
        raw=raw,
        emit=emit,
    )
    asyncio.run(server.run(host, port))


def _address(link: str) -> tuple[str, int]:
    scheme, _, rest = link.partition(":")
    host, _, port = rest.rpartition(":")
    if scheme != "uci-tcp" or not host or not port.isdecimal() or int(port) > 65535:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"cannot serve a subsystem on {link}",
            hint="write uci-tcp:127.0.0.1:PORT, with port 0 for a free one",
        )
    return host, int(port)


def _layout(path: Path | None) -> Any:
    if path is None:
        return shipped_layout(SHIPPED[0])
    try:
        return parse_layout(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise FileFormatError(f"cannot read {path}", hint="see specs/proximity.md") from exc


def _stations(air: Any, at: tuple[float, float], path: str | None, seed: int) -> Any:
    """Return what makes the place of each new phone; a walk begins when its phone connects."""
    station = importlib.import_module("firmware_mock.uwb_air").Station
    if path is None:
        return lambda: station(at_m=at)
    paths = importlib.import_module("firmware_mock.uwb_paths")
    numpy = importlib.import_module("numpy")
    walk = paths.walks(paths.PATHS[path][0], 32, numpy.random.default_rng(seed))
    count = iter(range(2**62))
    return lambda: station(walk=walk, track=next(count) % 32, from_s=air.now_ns / 1e9, repeat=True)


def _show(event: dict[str, object]) -> None:
    if event["event"] == "ready":
        click.echo(f"virtual UWB subsystem on {event['link']}")
        click.echo("  each connection is one subsystem; end with Ctrl-C")
        return
    click.echo(f"subsystem {event['subsystem']} {event['event']}")
