"""Whole UCI packets over a byte stream, which their own headers frame.

What :mod:`dkey.link.uci_serial` and :mod:`dkey.link.uci_tcp` have in common.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from dkey.codec.uci import HEADER_SIZE, packet_size
from dkey.errors import WireError
from dkey.link.base import Cap
from dkey.link.message_link import FRAGMENT_S, MessageLink

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["UciLink"]

_CLOSE_S: Final = 1.0


class UciLink(MessageLink):
    """Whole UCI packets in order, or LinkError; implements :class:`~dkey.link.base.Link`.

    A packet is 4 to 4096 bytes, header included. What is no packet ends the link with reason
    PROTOCOL: there is no way to find the next header in a stream that lost its place. It takes no
    tap: packets to the subsystem hold ranging keys in clear.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        release: Callable[[], None] | None = None,
        idle_s: float = 60.0,
    ) -> None:
        """Make a link on an open stream.

        Args:
            reader: From the subsystem.
            writer: To the subsystem.
            release: Called once when the link ends, to let go of what the streams do not hold.
            idle_s: Deadline of one ``recv``, seconds.
        """
        super().__init__(is_reader=True, idle_s=idle_s)
        self.caps = frozenset({Cap.UCI})
        self._reader = reader
        self._writer = writer
        self._let_go_of = release
        self._reading = asyncio.create_task(self._read())

    async def _write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            self._lost("the UWB subsystem is gone")

    async def _release(self) -> None:
        self._reading.cancel()
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._writer.wait_closed()
        except OSError:  # reset by the peer, or the deadline
            self._abort()
        finally:
            if self._let_go_of is not None:
                self._let_go_of()
            await asyncio.sleep(0)  # the loop closes descriptors in its next round

    def _abort(self) -> None:
        with contextlib.suppress(AttributeError):  # a pipe transport that is closed has no loop
            self._writer.transport.abort()

    async def _read(self) -> None:
        try:
            while True:
                await self._wait_for_room()
                first = await self._reader.readexactly(1)
                async with asyncio.timeout(FRAGMENT_S):
                    header = first + await self._reader.readexactly(HEADER_SIZE - 1)
                    size = packet_size(header)
                    rest = await self._reader.readexactly(size - HEADER_SIZE)
                self._arrived(header + rest)
        except WireError as exc:
            self._broken(f"the UWB subsystem sent what is no UCI packet: {exc}")
        except TimeoutError:  # before OSError, which it is
            self._broken(f"a UCI packet was not whole after {FRAGMENT_S:g} s")
        except (OSError, asyncio.IncompleteReadError):
            self._lost("the UWB subsystem is gone")
