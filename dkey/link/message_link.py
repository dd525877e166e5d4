"""What all links that carry whole BLE messages have in common: an inbox, deadlines and an end.

A transport calls :meth:`MessageLink._arrived` for each message that came and
:meth:`MessageLink._end` once when it is over, and says how to write and how to let go.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap

if TYPE_CHECKING:
    from dkey.link.base import FrameTap

__all__ = ["FRAGMENT_S", "MESSAGE_MAX", "MessageLink", "MessageTap"]

MESSAGE_MAX: Final = 4096
"""Longest message of any link here, bytes."""
FRAGMENT_S: Final = 1.5
"""A message that has begun to arrive is whole after this time, or the link ends."""

_MESSAGES_MAX: Final = 32
_BYTES_MAX: Final = 4 * MESSAGE_MAX
_CLOSE_S: Final = 4.0


@runtime_checkable
class MessageTap(Protocol):
    """Receives a copy of the messages that pass, for traces. Must not raise."""

    def message(self, *, from_reader: bool, data: bytes) -> None:
        """One whole BLE message, or several that travelled in one SDU."""


class MessageLink(ABC):
    """Whole BLE messages in order; implements :class:`~dkey.link.base.Link`.

    ``recv`` may be cancelled at any time: no message is lost by it. A ``recv`` that times out
    leaves the link usable; every other failure ends it for good. After LOST, what arrived before
    is still handed out; after PROTOCOL and CLOSED it is not.

    Attributes:
        mtu: Largest message that :meth:`send` takes, bytes.
        caps: ``{Cap.BLE}``.
    """

    def __init__(
        self,
        *,
        is_reader: bool,
        mtu: int = MESSAGE_MAX,
        tap: FrameTap | MessageTap | None = None,
        idle_s: float = 60.0,
        send_s: float = 5.0,
    ) -> None:
        """Make a link that is open.

        Args:
            is_reader: Whether this side is the reader, for the tap.
            mtu: Largest message that the peer takes, bytes.
            tap: Told of each message if it has a method ``message``.
            idle_s: Deadline of one ``recv``, seconds.
            send_s: Deadline of one ``send``, seconds.
        """
        self.mtu = mtu
        self.caps = frozenset({Cap.BLE})
        self._is_reader = is_reader
        self._tap = tap if isinstance(tap, MessageTap) else None
        self._idle_s = idle_s
        self._send_s = send_s
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._sending = asyncio.Lock()
        self._fault: LinkError | None = None
        self._releasing: asyncio.Task[None] | None = None

    # -- the link

    async def send(self, data: bytes) -> None:
        """Send one whole message of 1 to ``mtu`` bytes.

        Raises:
            LinkError: UNSUPPORTED for an impossible size (the link stays usable); TIMEOUT when the
                peer does not take it; what ended the link.
        """
        self._check()
        if not 1 <= len(data) <= self.mtu:
            raise LinkError(
                LinkReason.UNSUPPORTED,
                f"a message has 1 to {self.mtu} bytes, not {len(data)}",
                hint="send fewer or shorter messages at a time",
            )
        try:
            async with asyncio.timeout(self._send_s), self._sending:
                self._check()
                if self._tap is not None:
                    self._tap.message(from_reader=self._is_reader, data=data)
                await self._write(data)
        except TimeoutError as exc:
            self._end(
                LinkReason.TIMEOUT,
                f"the peer does not take a message within {self._send_s:g} s",
                "check that the peer's program still runs, then connect again",
            )
            raise self._error() from exc
        self._check()

    async def recv(self) -> bytes:
        """Return the next whole message.

        Raises:
            LinkError: TIMEOUT when none came within the idle deadline: call again to go on
                waiting; else what ended the link.
        """
        try:
            async with asyncio.timeout(self._idle_s):
                while not self._inbox:
                    self._check()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as exc:
            if not self._inbox:
                self._check()
                raise LinkError(
                    LinkReason.TIMEOUT,
                    f"no message came within {self._idle_s:g} s",
                    hint="go on waiting, or close the link",
                ) from exc
        data = self._inbox.popleft()
        self._inbox_bytes -= len(data)
        self._room.set()
        if self._tap is not None:
            self._tap.message(from_reader=not self._is_reader, data=data)
        return data

    @property
    def over(self) -> bool:
        """Whether the link ended, for whatever reason."""
        return self._fault is not None

    async def present(self) -> bool:
        """Return whether the connection is up."""
        return not self.over

    async def aclose(self) -> None:
        """Close the connection within 5 s."""
        self._end(LinkReason.CLOSED, "this side closed the link", "connect again")
        if self._releasing is not None:
            await asyncio.shield(self._releasing)

    # -- for transports

    @abstractmethod
    async def _write(self, data: bytes) -> None:
        """Put one message on its way; called for one at a time."""

    @abstractmethod
    async def _release(self) -> None:
        """Let the connection go, whatever state it is in; called once."""

    @property
    def _full(self) -> bool:
        return len(self._inbox) >= _MESSAGES_MAX or self._inbox_bytes >= _BYTES_MAX

    async def _wait_for_room(self) -> None:
        """Wait until the inbox takes one more message; for transports that can be held."""
        while self._full:
            self._room.clear()
            await self._room.wait()

    def _arrived(self, data: bytes) -> None:
        """Take one message that came."""
        if self._fault is not None:
            return
        if not 1 <= len(data) <= MESSAGE_MAX:
            self._broken(f"a message of {len(data)} bytes")
        elif self._full:
            self._broken("more messages than are waited for")
        else:
            self._inbox.append(data)
            self._inbox_bytes += len(data)
            self._changed.set()

    def _broken(self, text: str) -> None:
        """End the link because the peer broke the framing."""
        self._end(
            LinkReason.PROTOCOL,
            text,
            "check that the peer's program speaks this protocol, then connect again",
        )

    def _lost(self, text: str = "the peer is gone") -> None:
        """End the link because the connection is over."""
        self._end(LinkReason.LOST, text, "go closer, see that the peer runs, then connect again")

    def _end(self, reason: LinkReason, text: str, hint: str) -> None:
        """End the link, the first time it is called; wakes whoever waits and lets go."""
        if self._fault is not None:
            if reason is LinkReason.CLOSED:
                self._inbox.clear()
            return
        self._fault = LinkError(reason, text, hint=hint)
        if reason is not LinkReason.LOST:
            self._inbox.clear()
        self._changed.set()
        self._room.set()
        self._releasing = asyncio.create_task(self._let_go())

    async def _let_go(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._release()
        except TimeoutError:
            pass  # the operating system ends it when this program does

    def _error(self) -> LinkError:
        fault = self._fault
        assert fault is not None
        return LinkError(fault.reason, str(fault), hint=fault.hint)

    def _check(self) -> None:
        if self._fault is not None:
            raise self._error()
