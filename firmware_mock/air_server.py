"""Sockets through which other processes, and the kernel, join the virtual air.

Every accepted connection carries HCI (H4 packets) and gets a controller of its own; a connection
that ends is a participant that vanished. There is no encryption and no authentication: the sockets
serve one user on one machine, so they are on 127.0.0.1 or have mode 0600.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

from bumble import hci
from bumble.core import InvalidPacketError
from bumble.transport.common import StreamPacketSink, StreamPacketSource

from dkey.errors import LinkError, LinkReason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from firmware_mock.air import Air
    from firmware_mock.air_controller import AirController

__all__ = ["AirServer", "attach_kernel", "serve_tcp", "serve_unix"]

_log = logging.getLogger(__name__)

_PARTICIPANTS_MAX = 64
_UNREAD_MAX = 1 << 20
_VHCI = "/dev/vhci"


async def serve_tcp(
    air: Air, port: int = 0, *, on_join: Callable[[AirController], None] | None = None
) -> AirServer:
    """Let processes join on a port of 127.0.0.1; 0: any free one.

    ``on_join`` gets every new participant; they are named ``hci1``, ``hci2``, and so on.

    Raises:
        LinkError: BUSY or DENIED.
    """
    joining = _Joining(air, on_join)
    try:
        server = await asyncio.get_running_loop().create_server(joining.protocol, "127.0.0.1", port)
    except OSError as exc:
        raise _cannot_listen(f"port {port}", exc) from exc
    number = server.sockets[0].getsockname()[1]
    return AirServer(server, joining, f"127.0.0.1:{number}", None)


async def serve_unix(
    air: Air, path: Path, *, on_join: Callable[[AirController], None] | None = None
) -> AirServer:
    """Let processes of this user join at a unix socket, made with mode 0600.

    Raises:
        LinkError: BUSY (somebody listens there, or it is another kind of file) or DENIED.
    """
    joining = _Joining(air, on_join)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        server = await asyncio.get_running_loop().create_unix_server(
            joining.protocol, sock=listener
        )
    except OSError as exc:
        listener.close()
        raise _cannot_listen(str(path), exc) from exc
    except LinkError:
        listener.close()
        raise
    return AirServer(server, joining, str(path), path)


async def attach_kernel(air: Air, name: str = "kernel") -> AirController:
    """Give the Linux kernel one more adapter, on this air.

    Raises:
        LinkError: ABSENT or DENIED without a usable ``/dev/vhci``.
    """
    from bumble.transport.vhci import open_vhci_transport  # noqa: PLC0415 - Linux only

    try:
        transport = await open_vhci_transport(None)
    except OSError as exc:
        raise LinkError(
            LinkReason.DENIED if isinstance(exc, PermissionError) else LinkReason.ABSENT,
            f"{_VHCI} cannot be opened: {exc.strerror}",
            hint="load the module hci_vhci and run as root",
        ) from exc
    joined = air.join(name)
    # With either bit set Linux waits for LE_Enhanced_Connection_Complete, never sent here.
    joined.le_features &= ~(
        hci.LeFeatureMask.LL_PRIVACY | hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
    )
    transport.source.set_packet_sink(joined)
    joined.set_packet_sink(transport.sink)
    air.keep(transport)
    return joined


class AirServer:
    """A socket where processes join the air.

    Attributes:
        where: ``127.0.0.1:PORT`` or the path.
    """

    def __init__(
        self, server: asyncio.Server, joining: _Joining, where: str, path: Path | None
    ) -> None:
        self.where = where
        self._server = server
        self._joining = joining
        self._path = path

    async def aclose(self) -> None:
        """Stop listening and throw everybody out who joined here."""
        self._server.close()
        for each in list(self._joining.open):
            each.abort()
        await self._server.wait_closed()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class _Joining:
    """What the connections of one server have in common."""

    def __init__(self, air: Air, on_join: Callable[[AirController], None] | None) -> None:
        self.air = air
        self.on_join = on_join
        self.open: set[_HciConnection] = set()

    def protocol(self) -> _HciConnection:
        return _HciConnection(self)

    def name(self) -> str:
        taken = self.air.participants
        return next(name for n in itertools.count(1) if (name := f"hci{n}") not in taken)


class _HciConnection(StreamPacketSource):
    """One process on the air: H4 packets in both directions."""

    def __init__(self, joining: _Joining) -> None:
        super().__init__()
        self._joining = joining
        self._transport: asyncio.Transport | None = None
        self._controller: AirController | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._joining.open.add(self)
        air = self._joining.air
        if len(air.controllers) >= _PARTICIPANTS_MAX:
            _log.warning("refused a process: %d participants are enough", _PARTICIPANTS_MAX)
            transport.abort()
            return
        self._controller = air.join(self._joining.name())
        self.set_packet_sink(self._controller)
        self._controller.set_packet_sink(_BoundedSink(transport))
        if self._joining.on_join:
            self._joining.on_join(self._controller)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except InvalidPacketError:
            _log.warning("a process sent something else than HCI; its connection is closed")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        _log.debug("a process left: %s", exc)
        self._joining.open.discard(self)
        if self._controller is not None:
            self._joining.air.leave(self._controller.name)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _BoundedSink(StreamPacketSink):
    """Gives up on a process that does not read."""

    def on_packet(self, packet: bytes) -> None:
        if self.transport.get_write_buffer_size() > _UNREAD_MAX:
            _log.warning("a process does not read its packets; its connection is closed")
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.write(packet)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise LinkError(
            LinkReason.BUSY, f"{path} is not a socket", hint="choose another path for the air"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise LinkError(
        LinkReason.BUSY,
        f"another program listens at {path}",
        hint="join that air, or choose another path",
    )


def _cannot_listen(where: str, exc: OSError) -> LinkError:
    reason = LinkReason.DENIED if isinstance(exc, PermissionError) else LinkReason.BUSY
    return LinkError(
        reason, f"cannot listen at {where}: {exc.strerror}", hint="choose another port or path"
    )
