"""Opening a Bluetooth controller by name, with errors that say what to do."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Final

from bumble.transport import open_transport

from dkey.errors import LinkError, LinkReason

if TYPE_CHECKING:
    from bumble.transport.common import Transport

__all__ = ["open_controller"]

_OPEN_S: Final = 10.0


async def open_controller(where: str) -> Transport:
    """Open ``ble-sim:HOST:PORT``, ``ble-sim:/PATH``, or Bumble's name of a transport.

    Raises:
        LinkError: ABSENT, BUSY, DENIED or UNSUPPORTED.
    """
    name = where
    if where.startswith("ble-sim:"):
        place = where.removeprefix("ble-sim:")
        name = f"unix-client:{place}" if "/" in place else f"tcp-client:{place}"
    try:
        async with asyncio.timeout(_OPEN_S):
            return await open_transport(name)
    except Exception as exc:  # Bumble, libusb, pyserial and the system raise theirs
        raise _unusable(where, exc) from exc


def _unusable(where: str, exc: Exception) -> LinkError:
    kind = type(exc).__name__
    number = exc.errno if isinstance(exc, OSError) else None
    if isinstance(exc, ValueError | AssertionError):  # Bumble's words for a name it cannot read
        return LinkError(
            LinkReason.UNSUPPORTED,
            f"{where!r} names no Bluetooth controller",
            hint="write usb:0, serial:/dev/ttyACM0,1000000, hci-socket:1 or ble-sim:HOST:PORT",
        )
    if number in (errno.EACCES, errno.EPERM) or kind == "USBErrorAccess":
        return LinkError(
            LinkReason.DENIED,
            f"{where} may not be used: {exc}",
            hint="allow this user in a udev rule, or for hci-socket give CAP_NET_ADMIN",
        )
    if number in (errno.EBUSY, errno.EALREADY) or kind == "USBErrorBusy":
        return LinkError(
            LinkReason.BUSY,
            f"{where} is in use: {exc}",
            hint="take it from the system first: btmgmt --index N power off",
        )
    return LinkError(
        LinkReason.ABSENT,
        f"there is no controller at {where}: {str(exc) or kind}",
        hint="plug it in, load its driver, or start the virtual air that it names",
    )
