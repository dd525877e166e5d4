"""``uci:/dev/ttyACM0``: a UWB subsystem that speaks raw UCI on a serial port.

Bridges that wrap UCI in a framing of their own (NXP PnP) are not supported: no public document
states it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Final

from dkey.errors import LinkError, LinkReason
from dkey.link.uci_link import UciLink

if TYPE_CHECKING:
    from serial import Serial

__all__ = ["open_uci_serial"]

_BAUD: Final = 115200
_REASONS: Final = {
    errno.EACCES: (LinkReason.DENIED, "add yourself to the group that owns the port"),
    errno.EPERM: (LinkReason.DENIED, "add yourself to the group that owns the port"),
    errno.EBUSY: (LinkReason.BUSY, "close the other program that uses the port"),
    errno.EAGAIN: (LinkReason.BUSY, "close the other program that uses the port"),
}


async def open_uci_serial(
    path: str,
    *,
    baud: int = _BAUD,
    idle_s: float = 60.0,
) -> UciLink:
    """Open a serial port; what it had received before is thrown away.

    Args:
        path: Device file.
        baud: Speed; ports on USB ignore it.
        idle_s: Deadline of one ``recv`` on the link.

    Raises:
        LinkError: ABSENT, BUSY or DENIED as the operating system says.
    """
    port = await asyncio.to_thread(_opened, path, baud)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    # The port keeps its own descriptor, and with it the lock; each transport closes its copy.
    taking = os.fdopen(os.dup(port.fileno()), "rb", buffering=0)
    giving = os.fdopen(os.dup(port.fileno()), "wb", buffering=0)
    try:
        incoming, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), taking
        )
        outgoing, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), giving
        )
    except BaseException:  # cancelled: the port must not stay locked
        for each in (taking, giving, port):
            each.close()
        raise
    writer = asyncio.StreamWriter(outgoing, protocol, None, loop)

    def release() -> None:
        incoming.close()
        port.close()

    return UciLink(reader, writer, release=release, idle_s=idle_s)


def _opened(path: str, baud: int) -> Serial:
    # Loaded late: only this link needs pyserial.
    from serial import Serial, SerialException  # noqa: PLC0415

    try:
        port = Serial(path, baud, timeout=0, exclusive=True)
        port.reset_input_buffer()
    except (SerialException, OSError) as exc:
        reason, hint = _REASONS.get(
            exc.errno or 0, (LinkReason.ABSENT, "plug the board in; `ls /dev/tty*` shows the ports")
        )
        raise LinkError(reason, f"{path} cannot be opened: {exc}", hint=hint) from exc
    return port
