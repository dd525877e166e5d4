"""Says which Bluetooth adapters there are and what stands in their way. Reads only."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dkey.errors import LinkReason

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AdapterFinding", "find_adapters"]

_POWER: Final = "switch Bluetooth on: `bluetoothctl power on`"
_UNBLOCK: Final = "unblock it: `rfkill unblock bluetooth`"
_SWITCH: Final = "switch the radio on with the switch or key of this machine"
_ADAPTER: Final = "plug in a Bluetooth LE adapter, or use a ble-sim: link"
_BLUEZ: Final = "install and start D-Bus and BlueZ (Debian: `sudo apt install bluez`)"
_DAEMON: Final = "start it: `sudo systemctl start bluetooth`"
_GROUP: Final = "join the group `bluetooth`: `sudo usermod -aG bluetooth $USER`, then log in again"
_PIP: Final = "run the interpreter of this program with -m pip install bleak"
_BUS: Final = "unix:path=/run/dbus/system_bus_socket"
_WAIT_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFinding:
    """One adapter, or one circumstance that decides whether BLE works.

    Attributes:
        link: Link string that uses it; empty for a circumstance.
        name: What it is, for people.
        status: Why it cannot be used; None when nothing speaks against it.
        hint: What to do next; None when nothing needs doing.
    """

    link: str
    name: str
    status: LinkReason | None = None
    hint: str | None = None


def find_adapters(*, root: Path = Path("/"), bus: str | None = None) -> list[AdapterFinding]:
    """List Bluetooth adapters and circumstances that matter; never raises, waits at most 3 s.

    On systems other than Linux only the program's own parts can be looked at.

    Args:
        root: Where ``sys`` is found.
        bus: D-Bus address of the system bus; None: the usual one.
    """
    address = bus or os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _BUS
    parts: list[Callable[[], list[AdapterFinding]]] = [_bleak]
    if sys.platform == "linux":
        parts += [lambda: _linux(root, address), _channels]
    findings: list[AdapterFinding] = []
    for part in parts:
        try:
            findings += part()
        except Exception as exc:  # noqa: BLE001 - a diagnosis goes on where a part of it fails
            findings += _circumstance(f"Bluetooth search: {exc}", LinkReason.UNSUPPORTED)
    return findings


def _circumstance(
    name: str, status: LinkReason | None = None, hint: str | None = None
) -> list[AdapterFinding]:
    return [AdapterFinding(link="", name=name, status=status, hint=hint)]


def _bleak() -> list[AdapterFinding]:
    if importlib.util.find_spec("bleak") is None:
        return _circumstance("bleak is missing", LinkReason.UNSUPPORTED, _PIP)
    return _circumstance("bleak is installed")


# -- adapters


def _linux(root: Path, address: str) -> list[AdapterFinding]:
    daemon = _daemon(address)
    folder = root / "sys/class/bluetooth"
    names = {
        each.name
        for each in (folder.iterdir() if folder.is_dir() else ())
        if each.name.startswith("hci") and ":" not in each.name  # hci0:64 is a connection
    }
    adapters = [
        _adapter(folder / name, powered=daemon.powered.get(name))
        for name in sorted(names | daemon.powered.keys())
    ]
    if not adapters:
        adapters = _circumstance("no Bluetooth adapter", LinkReason.ABSENT, _ADAPTER)
    return [*adapters, daemon.finding]


def _adapter(folder: Path, *, powered: bool | None) -> AdapterFinding:
    blocks = sorted(folder.glob("rfkill*"))
    trouble, hint = "", None
    if any(_flag(block / "hard") for block in blocks):
        trouble, hint = " is switched off by a hardware switch", _SWITCH
    elif any(_flag(block / "soft") for block in blocks):
        trouble, hint = " is blocked by rfkill", _UNBLOCK
    elif powered is False:
        trouble, hint = " is switched off", _POWER
    return AdapterFinding(
        link="ble:",
        name=f"Bluetooth adapter {folder.name}{trouble}",
        status=LinkReason.ABSENT if trouble else None,
        hint=hint,
    )


def _flag(path: Path) -> bool:
    try:
        return path.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


# -- D-Bus and bluetoothd


class _Daemon(NamedTuple):
    """What the system bus says: one finding, and which adapters are powered."""

    finding: AdapterFinding
    powered: dict[str, bool]


def _daemon(address: str) -> _Daemon:
    # A thread of its own, because the caller may be inside an event loop.
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(asyncio.run, _ask(address)).result()
        except PermissionError:
            return _no_daemon("the D-Bus system bus may not be used", LinkReason.DENIED, _GROUP)
        except (FileNotFoundError, ConnectionRefusedError):
            return _no_daemon("no D-Bus system bus", LinkReason.ABSENT, _BLUEZ)
        except TimeoutError:
            return _no_daemon("the D-Bus system bus does not answer", LinkReason.TIMEOUT, _BLUEZ)
        except Exception as exc:  # noqa: BLE001 - whatever a library says of a broken bus
            return _no_daemon(f"the D-Bus system bus: {exc!r}", LinkReason.UNSUPPORTED, _BLUEZ)


def _no_daemon(name: str, status: LinkReason, hint: str) -> _Daemon:
    return _Daemon(AdapterFinding(link="", name=name, status=status, hint=hint), {})


async def _ask(address: str) -> _Daemon:
    """Ask who owns org.bluez, and it for its adapters; starts nothing."""
    from dbus_fast import Message, MessageFlag, MessageType  # noqa: PLC0415 - Linux only
    from dbus_fast.aio import MessageBus  # noqa: PLC0415

    async with asyncio.timeout(_WAIT_S):
        bus = MessageBus(bus_address=address)
        try:
            await bus.connect()
            reply = await bus.call(
                Message(
                    destination="org.freedesktop.DBus",
                    path="/org/freedesktop/DBus",
                    interface="org.freedesktop.DBus",
                    member="NameHasOwner",
                    signature="s",
                    body=["org.bluez"],
                )
            )
            if reply is None or reply.body != [True]:
                return _no_daemon("bluetoothd does not run", LinkReason.ABSENT, _DAEMON)
            reply = await bus.call(
                Message(
                    destination="org.bluez",
                    path="/",
                    interface="org.freedesktop.DBus.ObjectManager",
                    member="GetManagedObjects",
                    flags=MessageFlag.NO_AUTOSTART,
                )
            )
        finally:
            bus.disconnect()
    if reply is None or reply.message_type is MessageType.ERROR:
        return _no_daemon("bluetoothd denies access", LinkReason.DENIED, _GROUP)
    powered = {
        path.rpartition("/")[2]: bool(parts["org.bluez.Adapter1"]["Powered"].value)
        for path, parts in reply.body[0].items()
        if "org.bluez.Adapter1" in parts
    }
    return _Daemon(AdapterFinding(link="", name="bluetoothd runs"), powered)


def _channels() -> list[AdapterFinding]:
    af_bluetooth = 31
    try:
        socket.socket(af_bluetooth, socket.SOCK_SEQPACKET, 0).close()
    except OSError:
        return _circumstance(
            "the kernel gives no Bluetooth sockets: messages go over GATT, which is slower"
        )
    return _circumstance("the kernel gives L2CAP channels")
