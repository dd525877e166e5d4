"""What bleak's errors mean, as :class:`~dkey.errors.LinkError` with a text of what to do next."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
)

from dkey.errors import LinkError, LinkReason

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "HINT_BLUETOOTHD",
    "HINT_DBUS",
    "HINT_DENIED",
    "HINT_NO_ADAPTER",
    "HINT_POWER",
    "link_error",
    "translated",
]

HINT_NO_ADAPTER: Final = "plug in a Bluetooth LE adapter, or use a ble-sim: link"
HINT_POWER: Final = "switch Bluetooth on: `bluetoothctl power on`, or in the system's settings"
HINT_DBUS: Final = "install and start D-Bus and BlueZ (Debian: `sudo apt install bluez`)"
HINT_BLUETOOTHD: Final = "start bluetoothd: `sudo systemctl start bluetooth`"
HINT_DENIED: Final = "allow this program to use Bluetooth: on Linux join the group `bluetooth`, on macOS see Privacy & Security"  # noqa: E501
_HINT_CLOSER: Final = "go closer to the vehicle and see that it is switched on"
_HINT_AGAIN: Final = "connect again"

_UNAVAILABLE: Final = {
    BleakBluetoothNotAvailableReason.NO_BLUETOOTH: (
        LinkReason.ABSENT,
        "there is no Bluetooth adapter",
        HINT_NO_ADAPTER,
    ),
    BleakBluetoothNotAvailableReason.NO_BLE_CENTRAL_ROLE: (
        LinkReason.UNSUPPORTED,
        "the Bluetooth adapter has no LE central role",
        HINT_NO_ADAPTER,
    ),
    BleakBluetoothNotAvailableReason.POWERED_OFF: (
        LinkReason.ABSENT,
        "Bluetooth is switched off",
        HINT_POWER,
    ),
    BleakBluetoothNotAvailableReason.UNKNOWN: (
        LinkReason.ABSENT,
        "Bluetooth is not available",
        HINT_POWER,
    ),
}
_DBUS: Final = {
    "org.freedesktop.DBus.Error.ServiceUnknown": (
        LinkReason.ABSENT,
        "bluetoothd does not run",
        HINT_BLUETOOTHD,
    ),
    "org.freedesktop.DBus.Error.NameHasNoOwner": (
        LinkReason.ABSENT,
        "bluetoothd does not run",
        HINT_BLUETOOTHD,
    ),
    "org.freedesktop.DBus.Error.AccessDenied": (
        LinkReason.DENIED,
        "D-Bus denies access to bluetoothd",
        HINT_DENIED,
    ),
    "org.freedesktop.DBus.Error.NoReply": (
        LinkReason.TIMEOUT,
        "bluetoothd does not answer",
        "restart it: `sudo systemctl restart bluetooth`",
    ),
    "org.freedesktop.DBus.Error.UnknownObject": (
        LinkReason.TIMEOUT,
        "the vehicle is no longer in range",
        _HINT_CLOSER,
    ),
    "org.bluez.Error.NotReady": (LinkReason.ABSENT, "Bluetooth is switched off", HINT_POWER),
    "org.bluez.Error.NotAuthorized": (
        LinkReason.DENIED,
        "bluetoothd denies access",
        HINT_DENIED,
    ),
    "org.bluez.Error.NotPermitted": (LinkReason.DENIED, "bluetoothd denies access", HINT_DENIED),
    "org.bluez.Error.InProgress": (
        LinkReason.BUSY,
        "the Bluetooth adapter is busy",
        "wait a moment, or end other programs that scan or connect",
    ),
}


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn bleak's errors in the block into LinkError; ``doing`` begins the text of the others."""
    try:
        yield
    except (BleakError, OSError, EOFError) as exc:  # TimeoutError is an OSError
        raise link_error(exc, doing) from exc


def link_error(exc: Exception, doing: str) -> LinkError:
    """Return what ``exc``, raised by bleak while ``doing``, means.

    ABSENT: no adapter, switched off, no D-Bus, no bluetoothd, told apart by text and hint. DENIED:
    the system or the vehicle refuses. TIMEOUT: not in range. BUSY. LOST: everything else that ends
    a connection.
    """
    reason, text, hint = _meaning(exc, doing)
    return LinkError(reason, text, hint=hint, transient=reason in _TRANSIENT)


_TRANSIENT: Final = frozenset({LinkReason.TIMEOUT, LinkReason.LOST, LinkReason.BUSY})


def _meaning(  # noqa: PLR0911 - one for each kind of error
    exc: Exception, doing: str
) -> tuple[LinkReason, str, str]:
    match exc:
        case BleakBluetoothNotAvailableError():
            if known := _UNAVAILABLE.get(exc.reason):
                return known
            return LinkReason.DENIED, "the system denies the use of Bluetooth", HINT_DENIED
        case BleakDeviceNotFoundError():
            return LinkReason.TIMEOUT, "the vehicle is no longer in range", _HINT_CLOSER
        case BleakGATTProtocolError():
            return LinkReason.DENIED, f"{doing}: the vehicle refuses: {exc}", _HINT_AGAIN
        case BleakDBusError():
            return _DBUS.get(exc.dbus_error, (LinkReason.LOST, f"{doing}: {exc}", _HINT_AGAIN))
        case TimeoutError():
            return LinkReason.TIMEOUT, f"{doing}: the vehicle does not answer", _HINT_CLOSER
        case FileNotFoundError() | ConnectionRefusedError():
            return LinkReason.ABSENT, "there is no D-Bus system bus", HINT_DBUS
        case PermissionError():
            return LinkReason.DENIED, "no permission to use the D-Bus system bus", HINT_DENIED
        case EOFError():
            return LinkReason.ABSENT, "the D-Bus system bus went away", HINT_DBUS
        case _:
            return LinkReason.LOST, f"{doing}: {exc or type(exc).__name__}", _HINT_AGAIN
