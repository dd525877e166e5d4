"""``msg-tcp:HOST:PORT``: whole BLE messages over TCP, a 2-byte big-endian length first.

The device listens, the reader connects; the device speaks first (initiate access). One message is
what would travel in one SDU, header included, 1..4096 bytes. One connection is one BLE connection.
There is no encryption and no peer authentication here: both are the business of the access
protocol above (specs/formats.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING

from dkey.errors import DkeyError
from dkey.link.length_prefixed import TcpInitiator, close, serve_connections, write
from dkey.link.message_link import FRAGMENT_S, MESSAGE_MAX, MessageLink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dkey.link.base import FrameTap, Link
    from dkey.link.message_link import MessageTap

__all__ = ["MsgTcpInitiator", "serve_messages_tcp"]

_log = logging.getLogger(__name__)


class MsgTcpInitiator(TcpInitiator["_MsgTcpLink"]):
    """The reader side: connects to a device that listens."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tap: FrameTap | MessageTap | None = None,
        idle_s: float = 60.0,
    ) -> None:
        """Take the device's address.

        Args:
            host: Name or address.
            port: 1..65535.
            tap: Told of each message if it has a method ``message``.
            idle_s: Deadline of one ``recv`` on the links, seconds.
        """
        make = partial(_MsgTcpLink, is_reader=True, tap=tap, idle_s=idle_s)
        super().__init__(host, port, make, scheme="msg-tcp")


class _MsgTcpLink(MessageLink):
    """One connection, in either role."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_reader: bool,
        tap: FrameTap | MessageTap | None,
        idle_s: float,
    ) -> None:
        super().__init__(is_reader=is_reader, tap=tap, idle_s=idle_s)
        self._reader = reader
        self._writer = writer
        self._reading = asyncio.create_task(self._read())

    async def _write(self, data: bytes) -> None:
        try:
            await write(self._writer, data)
        except OSError:
            self._lost("the peer closed the connection")

    async def _release(self) -> None:
        self._reading.cancel()
        await close(self._writer)

    async def _read(self) -> None:
        try:
            while True:
                await self._wait_for_room()
                first = await self._reader.readexactly(1)
                async with asyncio.timeout(FRAGMENT_S):
                    size = int.from_bytes(first + await self._reader.readexactly(1), "big")
                    if not 1 <= size <= MESSAGE_MAX:
                        self._broken(f"the peer announced a message of {size} bytes")
                        return
                    self._arrived(await self._reader.readexactly(size))
        except TimeoutError:  # before OSError, which it is
            self._broken(f"a message was not whole after {FRAGMENT_S:g} s")
        except (OSError, asyncio.IncompleteReadError):
            self._lost("the peer closed the connection")


async def serve_messages_tcp(
    host: str,
    port: int,
    on_link: Callable[[Link], Awaitable[None]],
    *,
    once: bool = False,
    tap: FrameTap | MessageTap | None = None,
    on_listening: Callable[[int], None],
    idle_s: float = 60.0,
) -> None:
    """Be the device: listen and hand one reader's link after the other to ``on_link``.

    While one reader is connected up to four more wait their turn; further ones are closed at
    once. The link is closed when ``on_link`` returns or fails; a failure that is a DkeyError ends
    this link alone.

    Args:
        host: A loopback address.
        port: 0 for one that the system chooses.
        on_link: Speaks first, and until the connection shall end.
        once: Return after the first connection.
        tap: Told of each message if it has a method ``message``.
        on_listening: Called once with the port.
        idle_s: Deadline of one ``recv`` on the links, seconds.

    Raises:
        LinkError: UNSUPPORTED for an address that is not loopback, BUSY when the port is taken,
            DENIED or ABSENT when it cannot be bound.
    """

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _MsgTcpLink(reader, writer, is_reader=False, tap=tap, idle_s=idle_s)
        async with contextlib.aclosing(link):
            try:
                await on_link(link)
            except DkeyError as exc:
                _log.warning("a connection ended: %s", exc)

    await serve_connections(
        host, port, one, once=once, on_listening=on_listening, loopback_only=True
    )
