"""The bearer with an LE credit-based channel, phone's end: one SDU is one message.

bleak has no channels, so the platform below it is asked: Bumble's connection, or the Linux kernel,
which adds a channel to the connection that bluetoothd holds. Where neither is there, no channel
can be had, and that is no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final

from dkey.errors import LinkError, LinkReason
from dkey.link.ble_link import BleLink
from dkey.link.message_link import FRAGMENT_S, MESSAGE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bleak import BleakClient
    from bleak.backends.device import BLEDevice
    from bumble.device import Connection
    from bumble.l2cap import LeCreditBasedChannel

    from dkey.link.ble_link import Connected

__all__ = ["BumbleCocLink", "KernelCocLink", "bumble_connection", "open_coc", "socket_address"]

_OPEN_S: Final = 3.0
_CLOSE_S: Final = 1.0
_MPS: Final = 512
_CREDITS: Final = 16

# <bluetooth/bluetooth.h>, <bluetooth/l2cap.h>; Python's own constants depend on how it was built.
_AF_BLUETOOTH: Final = 31
_BTPROTO_L2CAP: Final = 0
_SOL_BLUETOOTH: Final = 274
_BT_SNDMTU: Final = 12
_BT_RCVMTU: Final = 13
_LE_TYPES: Final = {"public": 1, "random": 2}
_ANY: Final = "00:00:00:00:00:00"


async def open_coc(connected: Connected, peer: BLEDevice) -> BleLink | None:
    """Open the channel that the reader names, or return None if the platform has none.

    Raises:
        LinkError: The reader refuses the channel, or does not answer within 3 s.
    """
    connection = bumble_connection(connected.client)
    try:
        if connection is not None:
            async with asyncio.timeout(_OPEN_S):
                return await _open_bumble(connected, connection)
        kind = _LE_TYPES.get(_address_type(peer), 0)
        if kind and _kernel_has_bluetooth():
            async with asyncio.timeout(_OPEN_S):
                channel = await _open_kernel(peer.address, kind, connected.info.spsm)
            return KernelCocLink(connected, channel, _sending_mtu(channel))
    except TimeoutError as exc:
        raise _refused(f"no answer within {_OPEN_S:g} s") from exc
    except OSError as exc:
        raise _refused(exc.strerror or str(exc)) from exc
    return None


def _refused(why: str) -> LinkError:
    return LinkError(
        LinkReason.DENIED,
        f"the L2CAP channel does not open: {why}",
        hint="connect again later: the vehicle may have no room for another phone",
    )


# -- Bumble


def bumble_connection(client: BleakClient) -> Connection | None:
    """Return Bumble's connection if ``client`` runs on it: the one look below bleak's interface."""
    found = getattr(client._backend, "connection", None)  # noqa: SLF001 - bleak has no channels
    return found if hasattr(found, "create_l2cap_channel") else None


async def _open_bumble(connected: Connected, connection: Connection) -> BumbleCocLink:
    from bumble.core import BaseBumbleError  # noqa: PLC0415 - loaded already, if it gets here
    from bumble.l2cap import LeCreditBasedChannelSpec  # noqa: PLC0415

    spec = LeCreditBasedChannelSpec(
        psm=connected.info.spsm, mtu=MESSAGE_MAX, mps=_MPS, max_credits=_CREDITS
    )
    # Not cancelled with the caller: Bumble would fail on the answer that comes later.
    opening = asyncio.ensure_future(connection.create_l2cap_channel(spec))
    try:
        with _quiet("bumble.l2cap"):
            channel = await asyncio.shield(opening)
    except BaseBumbleError as exc:
        raise _refused(str(exc) or type(exc).__name__) from exc
    except asyncio.CancelledError as exc:
        opening.add_done_callback(_forget_channel)
        caller = asyncio.current_task()
        if opening.cancelled() and not (caller and caller.cancelling()):
            raise _refused("the connection is lost") from exc  # Bumble cancels what is pending
        raise
    return BumbleCocLink(connected, channel)


def _forget_channel(opening: asyncio.Future[LeCreditBasedChannel]) -> None:
    """Abort a channel that opened when nobody waited any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Hold back Bumble's traceback of a refused channel, which is reported as an error of ours."""

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    logging.getLogger(logger).addFilter(keep)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(keep)


class BumbleCocLink(BleLink):
    """A channel on a Bumble host."""

    bearer: ClassVar[str] = "coc"

    def __init__(self, connected: Connected, channel: LeCreditBasedChannel) -> None:
        super().__init__(connected, mtu=min(channel.peer_mtu, MESSAGE_MAX))
        self._channel = channel
        self._deadline: asyncio.TimerHandle | None = None
        self._take_pdu = channel.on_pdu
        channel.sink = self._arrived
        channel.on_pdu = self._on_pdu  # type: ignore[method-assign]
        channel.on(channel.EVENT_CLOSE, self._on_closed)
        if channel.state != channel.State.CONNECTED:
            self._on_closed()

    async def _write(self, data: bytes) -> None:
        if self._channel.state != self._channel.State.CONNECTED:
            self._on_closed()
            return
        self._channel.write(data)
        # Bumble joins what waits for credits into one SDU, so one message waits at a time.
        await self._channel.drain()

    async def _release(self) -> None:
        channel = self._channel
        self._stop_deadline()
        channel.remove_listener(channel.EVENT_CLOSE, self._on_closed)
        channel.drained.set()  # Bumble leaves whoever waits for it
        if channel.state == channel.State.CONNECTED and self._client.is_connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await channel.disconnect()
        await super()._release()

    def _on_closed(self) -> None:
        self._lost("the vehicle closed the channel")

    def _on_pdu(self, pdu: bytes) -> None:
        """Give Bumble a piece of an SDU, and watch what it makes of it."""
        if self._fault is not None:
            return
        channel = self._channel
        self._take_pdu(pdu)
        if channel.state == channel.State.DISCONNECTING:
            self._broken("an SDU overran its length, or the largest one agreed")
        elif channel.in_sdu is None:
            self._stop_deadline()
        elif self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(FRAGMENT_S, self._late)

    def _late(self) -> None:
        self._deadline = None
        self._broken(f"a message was not whole after {FRAGMENT_S:g} s")

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


# -- the Linux kernel


def _address_type(peer: BLEDevice) -> str:
    """Return ``public`` or ``random`` if BlueZ found the peer, else an empty text."""
    details = peer.details
    props: Any = details.get("props", {}) if isinstance(details, dict) else {}
    return str(props.get("AddressType", ""))


def _kernel_has_bluetooth() -> bool:
    if sys.platform != "linux":
        return False
    try:
        socket.socket(_AF_BLUETOOTH, socket.SOCK_SEQPACKET, _BTPROTO_L2CAP).close()
    except OSError:
        return False
    return True


def socket_address(address: str, psm: int, kind: int) -> bytes:
    """Return Linux's ``struct sockaddr_l2``, 14 bytes.

    Wire: family(2, native) || PSM(2, little-endian) || address(6, least significant first) ||
    CID(2) || type(1: 1 LE public, 2 LE random) || padding(1).
    """
    raw = bytes.fromhex(address.replace(":", ""))[::-1]
    return struct.pack("=H", _AF_BLUETOOTH) + struct.pack("<H6sHBx", psm, raw, 0, kind)


async def _open_kernel(address: str, kind: int, psm: int) -> socket.socket:
    """Open a channel on the connection that bluetoothd holds, or raise OSError."""
    channel = socket.socket(_AF_BLUETOOTH, socket.SOCK_SEQPACKET, _BTPROTO_L2CAP)
    try:
        channel.setblocking(False)
        # The LE type in bind makes it an LE channel; Python cannot say it before 3.14.
        _call("bind", channel, socket_address(_ANY, 0, _LE_TYPES["public"]))
        channel.setsockopt(_SOL_BLUETOOTH, _BT_RCVMTU, struct.pack("=H", MESSAGE_MAX))
        try:
            _call("connect", channel, socket_address(address, psm, kind))
        except OSError as exc:
            if exc.errno != errno.EINPROGRESS:
                raise
        await _writable(channel)
        if code := channel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
    except BaseException:
        channel.close()
        raise
    return channel


def _call(name: str, channel: socket.socket, address: bytes) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(channel.fileno(), address, len(address)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


async def _writable(channel: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(channel, tell)
    try:
        await ready
    finally:
        loop.remove_writer(channel)


def _sending_mtu(channel: socket.socket) -> int:
    raw = channel.getsockopt(_SOL_BLUETOOTH, _BT_SNDMTU, 2)
    return int.from_bytes(raw, sys.byteorder)


class KernelCocLink(BleLink):
    """A channel of the Linux kernel; ``channel`` is a connected, non-blocking SEQPACKET socket.

    The kernel puts SDUs together and holds at most one that is not whole.
    """

    bearer: ClassVar[str] = "coc"

    def __init__(self, connected: Connected, channel: socket.socket, sending_mtu: int) -> None:
        super().__init__(connected, mtu=min(sending_mtu, MESSAGE_MAX))
        self._channel = channel
        self._reading = asyncio.create_task(self._read())

    async def _write(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._channel, data)
        except TimeoutError:
            raise
        except OSError:
            self._lost("the vehicle closed the channel")

    async def _release(self) -> None:
        self._reading.cancel()
        await asyncio.wait({self._reading})
        self._channel.close()
        await super()._release()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wait_for_room()
                data = await loop.sock_recv(self._channel, MESSAGE_MAX + 1)
                if not data:
                    self._lost("the vehicle closed the channel")
                    return
                self._arrived(data)
        except OSError:
            self._lost("the vehicle closed the channel")
