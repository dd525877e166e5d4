"""Messages over TCP, each with a 2-byte big-endian length first; the device listens.

What :mod:`dkey.link.apdu_tcp` and :mod:`dkey.link.msg_tcp` have in common: making and taking
connections, and reading, writing and closing them. A length of zero is malformed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from dkey.errors import LinkError, LinkReason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dkey.link.base import Link

__all__ = [
    "LENGTH_MAX",
    "TcpInitiator",
    "close",
    "closed_error",
    "no_delay",
    "read",
    "serve_connections",
    "write",
]

LENGTH_MAX = 0xFFFF
"""Longest message that the length can state, bytes."""

_RETRY_S = 0.05
_CLOSE_S = 1.0
_WAITING_MAX = 4


class _Closable(Protocol):
    async def aclose(self) -> None:
        """Release the transport."""


L = TypeVar("L", bound="Link")


class TcpInitiator(Generic[L]):
    """The reader side: connects to a device that listens; a transport says what a link is."""

    def __init__(
        self,
        host: str,
        port: int,
        make: Callable[[asyncio.StreamReader, asyncio.StreamWriter], L],
        *,
        scheme: str,
    ) -> None:
        """Take the device's address.

        Args:
            host: Name or address.
            port: 1..65535.
            make: Returns the link of a connection.
            scheme: First part of the link string, for hints.
        """
        self._host = host
        self._port = port
        self._make = make
        self._scheme = scheme
        self._closed = False
        self._connecting: asyncio.Task[L] | None = None
        self._link: _Closable | None = None

    async def sense(self, *, timeout_s: float) -> L | None:
        """Connect, trying again until ``timeout_s`` is over.

        Raises:
            LinkError: ABSENT when nobody listens, CLOSED when ``aclose`` was called.
        """
        if self._closed:
            raise closed_error()
        task = asyncio.create_task(self._connect(timeout_s))
        self._connecting = task
        try:
            await asyncio.wait({task})
        finally:
            self._connecting = None
            task.cancel()
        if task.cancelled():
            raise closed_error()
        return task.result()

    async def aclose(self) -> None:
        """End a pending ``sense`` and the last link."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            await self._link.aclose()

    async def _connect(self, timeout_s: float) -> L:
        cause: OSError | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        reader, writer = await asyncio.open_connection(self._host, self._port)
                    except OSError as exc:
                        cause = exc
                        await asyncio.sleep(_RETRY_S)
                    else:
                        break
        except TimeoutError as exc:
            raise LinkError(
                LinkReason.ABSENT,
                f"nobody listens on {self._host} port {self._port} within {timeout_s:g} s",
                hint=f"start `dkey device serve {self._scheme}:{self._host}:{self._port}` first",
                transient=True,
            ) from cause or exc
        no_delay(writer)
        link = self._make(reader, writer)
        self._link = link
        return link


async def serve_connections(
    host: str,
    port: int,
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    once: bool,
    on_listening: Callable[[int], None],
    loopback_only: bool = False,
) -> None:
    """Be the device: listen and ``serve`` one connection after the other until cancelled.

    While one reader is connected up to four more wait their turn; further ones are closed at
    once. ``serve`` closes its connection.

    Args:
        host: A loopback address, or any other address of this machine given on purpose.
        port: 0 for one that the system chooses.
        serve: Serves one connection.
        once: Return after the first connection.
        on_listening: Called once with the port.
        loopback_only: Refuse every address that other machines can reach.

    Raises:
        LinkError: UNSUPPORTED for a wildcard address or one that is not allowed, BUSY when the
            port is taken, DENIED or ABSENT when the address cannot be bound.
    """
    waiting: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    waiting = asyncio.Queue(_WAITING_MAX)

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            waiting.put_nowait((reader, writer))
        except asyncio.QueueFull:
            writer.close()

    listener = await _listen(host, port, loopback_only=loopback_only)
    server = await asyncio.start_server(on_connection, sock=listener)
    try:
        on_listening(listener.getsockname()[1])
        while True:
            reader, writer = await waiting.get()
            no_delay(writer)
            await serve(reader, writer)
            if once:
                return
    finally:
        server.close()
        while not waiting.empty():
            await close(waiting.get_nowait()[1])


async def _listen(host: str, port: int, *, loopback_only: bool) -> socket.socket:
    """Return a bound socket on the first address of ``host``."""
    try:
        # Python reads an empty host as every network; :: makes that plain.
        found = await asyncio.get_running_loop().getaddrinfo(
            host or "::", port, type=socket.SOCK_STREAM
        )
    except OSError as exc:
        raise LinkError(LinkReason.ABSENT, f"{host!r} is no address", hint="use 127.0.0.1") from exc
    family, kind, protocol, _, address = found[0]
    _check_reach(host, str(address[0]), loopback_only=loopback_only)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as exc:
        listener.close()
        reasons = {errno.EADDRINUSE: LinkReason.BUSY, errno.EACCES: LinkReason.DENIED}
        raise LinkError(
            reasons.get(exc.errno or 0, LinkReason.ABSENT),
            f"cannot listen on {host} port {port}: {exc.strerror}",
            hint="choose another port, or 0 to let the system choose",
        ) from exc
    return listener


def _check_reach(host: str, address: str, *, loopback_only: bool) -> None:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    if mapped.is_unspecified:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"{host!r} would listen on every network of this machine",
            hint="use 127.0.0.1, or the one address that the reader shall reach",
        )
    if loopback_only and not mapped.is_loopback:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"{host!r} can be reached from other machines",
            hint="use 127.0.0.1; forward the port with ssh if the reader is elsewhere",
        )


async def read(reader: asyncio.StreamReader) -> bytes:
    """Return one message; empty for the malformed length 0."""
    size = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(size)


async def write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write one message and wait until the peer's buffers take it."""
    writer.write(len(data).to_bytes(2, "big") + data)
    await writer.drain()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close within a second, dropping what the peer does not take."""
    writer.close()
    try:
        async with asyncio.timeout(_CLOSE_S):
            await writer.wait_closed()
    except OSError:  # reset by the peer, or the deadline
        writer.transport.abort()


def no_delay(writer: asyncio.StreamWriter) -> None:
    """Send small messages at once: with Nagle's algorithm an APDU may cost 40 ms."""
    with contextlib.suppress(OSError):  # the peer is gone already; reading will tell
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def closed_error() -> LinkError:
    """Return the error for a link or a reader that this side closed."""
    return LinkError(LinkReason.CLOSED, "this side closed the link", hint="sense again")
