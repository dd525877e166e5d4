"""``apdu-tcp:HOST:PORT``: APDUs over TCP, both directions a 2-byte big-endian length first.

The reader connects, the device listens. One connection is one field-on period; closing it is
field-off. A length of zero is malformed. There is no encryption and no peer authentication here:
both are the business of the access protocol above.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap
from dkey.link.length_prefixed import (
    LENGTH_MAX,
    TcpInitiator,
    close,
    closed_error,
    read,
    serve_connections,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.base import FrameTap, Responder

__all__ = ["ApduTcpInitiator", "serve_apdu_tcp"]

_log = logging.getLogger(__name__)


class ApduTcpInitiator(TcpInitiator["_ApduTcpLink"]):
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
        make = partial(_ApduTcpLink, tap=tap, answer_s=answer_s)
        super().__init__(host, port, make, scheme="apdu-tcp")


class _ApduTcpLink:
    """One connection in the reader role."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tap: FrameTap | None,
        answer_s: float,
    ) -> None:
        self.mtu = LENGTH_MAX
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
                await write(self._writer, data)
        except TimeoutError as exc:
            raise self._timeout("the device does not take the command") from exc
        except OSError as exc:
            raise self._lost() from exc

    async def recv(self) -> bytes:
        """Return one response APDU that is complete within the answer deadline."""
        self._check_usable()
        try:
            async with asyncio.timeout(self._answer_s):
                data = await read(self._reader)
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
        await close(self._writer)
        if self._tap is not None:
            self._tap.field(on=False)

    def _check_usable(self) -> None:
        if self._closed:
            raise closed_error()
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
            return closed_error()
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

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve_connection(reader, writer, responder, tap, idle_s)

    await serve_connections(host, port, one, once=once, on_listening=on_listening)


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
        while True:
            async with asyncio.timeout(idle_s):
                command = await read(reader)
            if not command:
                _log.warning("closing a connection that sent a message of length 0")
                return
            if tap is not None:
                tap.apdu(from_reader=True, data=command)
            answer = responder.answer(command)
            if tap is not None:
                tap.apdu(from_reader=False, data=answer)
            if not 0 < len(answer) <= LENGTH_MAX:
                _log.error("an answer of %d bytes does not fit apdu-tcp; closing", len(answer))
                return
            async with asyncio.timeout(idle_s):
                await write(writer, answer)
    except (OSError, asyncio.IncompleteReadError) as exc:  # TimeoutError is an OSError
        _log.debug("connection ended: %r", exc)
    finally:
        responder.field_off()
        if tap is not None:
            tap.field(on=False)
        await close(writer)
