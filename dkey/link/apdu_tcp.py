"""``apdu-tcp:HOST:PORT``: APDUs over TCP, both directions a 2-byte big-endian length first.

The reader connects, the device listens. One connection is one field-on period; closing it is
field-off. A length of zero is malformed. There is no encryption and no peer authentication here:
both are the business of the access protocol above.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING

from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.base import FrameTap, Link, Responder

__all__ = ["ApduTcpInitiator", "serve_apdu_tcp"]

_log = logging.getLogger(__name__)

_MTU = 0xFFFF
_RETRY_S = 0.05
_CLOSE_S = 1.0
_WAITING_MAX = 4


class ApduTcpInitiator:
    """The reader side: connects to a device that listens."""

    def __init__(
        self, host: str, port: int, *, tap: FrameTap | None = None, answer_s: float = 5.0
    ) -> None:
        """Take the device's address.

        Args:
            host: Name or address.
            port: 1..65535.
            tap: Receives field events and APDUs.
            answer_s: Deadline of one ``send`` and of one ``recv`` on the links, seconds.
        """
        self._host = host
        self._port = port
        self._tap = tap
        self._answer_s = answer_s
        self._closed = False
        self._connecting: asyncio.Task[Link] | None = None
        self._link: _ApduTcpLink | None = None

    async def sense(self, *, timeout_s: float) -> Link | None:
        """Connect, trying again until ``timeout_s`` is over.

        Raises:
            LinkError: ABSENT when nobody listens, CLOSED when ``aclose`` was called.
        """
        if self._closed:
            raise _closed()
        task = asyncio.create_task(self._connect(timeout_s))
        self._connecting = task
        try:
            await asyncio.wait({task})
        finally:
            self._connecting = None
            task.cancel()
        if task.cancelled():
            raise _closed()
        return task.result()

    async def aclose(self) -> None:
        """End a pending ``sense`` and the last link."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            await self._link.aclose()

    async def _connect(self, timeout_s: float) -> Link:
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
                hint=f"start `dkey device serve apdu-tcp:{self._host}:{self._port}` first",
                transient=True,
            ) from cause or exc
        _no_delay(writer)
        self._link = _ApduTcpLink(reader, writer, self._tap, self._answer_s)
        return self._link


class _ApduTcpLink:
    """One connection in the reader role."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tap: FrameTap | None,
        answer_s: float,
    ) -> None:
        self.mtu = _MTU
        self.caps = frozenset({Cap.APDU})
        self._reader = reader
        self._writer = writer
        self._tap = tap
        self._answer_s = answer_s
        self._closed = False
        self._broken: LinkReason | None = None
        if tap is not None:
            tap.field(on=True)

    async def send(self, data: bytes) -> None:
        """Send one command APDU, 1 to ``mtu`` bytes."""
        self._check_usable()
        if not 0 < len(data) <= self.mtu:
            raise LinkError(
                LinkReason.UNSUPPORTED,
                f"a message has 1 to {self.mtu} bytes, not {len(data)}",
                hint="split the command (command chaining)",
            )
        if self._tap is not None:
            self._tap.apdu(from_reader=True, data=data)
        try:
            async with asyncio.timeout(self._answer_s):
                await _write(self._writer, data)
        except TimeoutError as exc:
            raise self._timeout("the device does not take the command") from exc
        except OSError as exc:
            raise self._lost() from exc

    async def recv(self) -> bytes:
        """Return one response APDU that is complete within the answer deadline."""
        self._check_usable()
        try:
            async with asyncio.timeout(self._answer_s):
                data = await _read(self._reader)
        except TimeoutError as exc:
            raise self._timeout("the device does not answer") from exc
        except (OSError, asyncio.IncompleteReadError) as exc:
            raise self._lost() from exc
        if not data:
            self._broken = LinkReason.PROTOCOL
            raise LinkError(
                LinkReason.PROTOCOL,
                "the device sent a message of length 0",
                hint="check that the program on this port speaks apdu-tcp",
            )
        if self._tap is not None:
            self._tap.apdu(from_reader=False, data=data)
        return data

    async def present(self) -> bool:
        """Return whether the device keeps the connection open."""
        return not (self._closed or self._broken or self._reader.at_eof())

    async def aclose(self) -> None:
        """Close the connection, which is field-off for the device."""
        if self._closed:
            return
        self._closed = True
        await _close(self._writer)
        if self._tap is not None:
            self._tap.field(on=False)

    def _check_usable(self) -> None:
        if self._closed:
            raise _closed()
        if self._broken is not None:
            # A message may have been cut in two: lengths no longer line up.
            raise LinkError(
                self._broken, "the link broke at an earlier message", hint="sense again"
            )

    def _timeout(self, what: str) -> LinkError:
        self._broken = LinkReason.TIMEOUT
        return LinkError(
            LinkReason.TIMEOUT,
            f"{what} within {self._answer_s:g} s",
            hint="check that the device program still runs and is not busy with another reader",
        )

    def _lost(self) -> LinkError:
        if self._closed:
            return _closed()
        self._broken = LinkReason.LOST
        return LinkError(
            LinkReason.LOST,
            "the device closed the connection",
            hint="look at the device program's output, then sense again",
        )


async def serve_apdu_tcp(
    host: str,
    port: int,
    responder: Responder,
    *,
    once: bool = False,
    tap: FrameTap | None = None,
    on_listening: Callable[[int], None],
    idle_s: float = 60.0,
) -> None:
    """Be the device: listen on ``host`` and answer one reader after the other until cancelled.

    While one reader is connected up to four more wait their turn; further ones are closed at
    once. A connection whose next whole command does not come within ``idle_s`` seconds, or is
    malformed, is closed. Each connection ends with ``responder.field_off()``.

    Args:
        host: A loopback address, or any other address of this machine given on purpose.
        port: 0 for one that the system chooses.
        responder: The device.
        once: Return after the first connection.
        tap: Receives field events and APDUs.
        on_listening: Called once with the port.
        idle_s: Idle deadline of a connection, seconds.

    Raises:
        LinkError: UNSUPPORTED for a wildcard address, BUSY when the port is taken, DENIED or
            ABSENT when the address cannot be bound.
    """
    waiting: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    waiting = asyncio.Queue(_WAITING_MAX)

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            waiting.put_nowait((reader, writer))
        except asyncio.QueueFull:
            writer.close()

    listener = await _listen(host, port)
    server = await asyncio.start_server(on_connection, sock=listener)
    try:
        on_listening(listener.getsockname()[1])
        while True:
            reader, writer = await waiting.get()
            await _serve_connection(reader, writer, responder, tap, idle_s)
            if once:
                return
    finally:
        server.close()
        while not waiting.empty():
            await _close(waiting.get_nowait()[1])


async def _serve_connection(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    responder: Responder,
    tap: FrameTap | None,
    idle_s: float,
) -> None:
    """Answer one reader from field-on to field-off."""
    if tap is not None:
        tap.field(on=True)
    try:
        _no_delay(writer)
        while True:
            async with asyncio.timeout(idle_s):
                command = await _read(reader)
            if not command:
                _log.warning("closing a connection that sent a message of length 0")
                return
            if tap is not None:
                tap.apdu(from_reader=True, data=command)
            answer = responder.answer(command)
            if tap is not None:
                tap.apdu(from_reader=False, data=answer)
            if not 0 < len(answer) <= _MTU:
                _log.error("an answer of %d bytes does not fit apdu-tcp; closing", len(answer))
                return
            async with asyncio.timeout(idle_s):
                await _write(writer, answer)
    except (OSError, asyncio.IncompleteReadError) as exc:  # TimeoutError is an OSError
        _log.debug("connection ended: %r", exc)
    finally:
        responder.field_off()
        if tap is not None:
            tap.field(on=False)
        await _close(writer)


async def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket on the first address of ``host``."""
    try:
        # Python reads an empty host as every network; :: makes that plain.
        found = await asyncio.get_running_loop().getaddrinfo(
            host or "::", port, type=socket.SOCK_STREAM
        )
    except OSError as exc:
        raise LinkError(LinkReason.ABSENT, f"{host!r} is no address", hint="use 127.0.0.1") from exc
    family, kind, protocol, _, address = found[0]
    if _is_wildcard(str(address[0])):
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"{host!r} would listen on every network of this machine",
            hint="use 127.0.0.1, or the one address that the reader shall reach",
        )
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


def _is_wildcard(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return parsed.is_unspecified or (mapped is not None and mapped.is_unspecified)


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Return one message; empty for the malformed length 0."""
    size = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(size)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(len(data).to_bytes(2, "big") + data)
    await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close within a second, dropping what the peer does not take."""
    writer.close()
    try:
        async with asyncio.timeout(_CLOSE_S):
            await writer.wait_closed()
    except OSError:  # reset by the peer, or the deadline
        writer.transport.abort()


def _no_delay(writer: asyncio.StreamWriter) -> None:
    """Send small messages at once: with Nagle's algorithm an APDU may cost 40 ms."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _closed() -> LinkError:
    return LinkError(LinkReason.CLOSED, "this side closed the link", hint="sense again")
