"""A link to a device in the same process: no sockets, no frames, one APDU at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap

if TYPE_CHECKING:
    from dkey.link.base import FrameTap, Link, Responder

__all__ = ["LoopbackInitiator", "loopback"]

_MTU = 65_544  # the longest extended command APDU
_ANSWER_S = 5.0


def loopback(
    responder: Responder, *, tap: FrameTap | None = None, answer_s: float = _ANSWER_S
) -> Link:
    """Return a link to ``responder``; closing it is field-off.

    ``send`` runs the responder. ``recv`` without a command before it waits ``answer_s`` seconds
    and raises LinkError(TIMEOUT), as a silent device would make it.
    """
    return _LoopbackLink(responder, tap, answer_s)


class LoopbackInitiator:
    """A reader on which one device in the same process lies: each ``sense`` taps it."""

    def __init__(self, responder: Responder, *, tap: FrameTap | None = None) -> None:
        """Take the device that every ``sense`` finds."""
        self._responder = responder
        self._tap = tap
        self._link: _LoopbackLink | None = None
        self._closed = False

    async def sense(self, *, timeout_s: float) -> Link | None:  # noqa: ARG002 - never waits
        """Return a link at once.

        Raises:
            LinkError: BUSY while the link of the last ``sense`` is open, CLOSED after ``aclose``.
        """
        if self._closed:
            raise _closed()
        if self._link is not None and not self._link.closed:
            raise LinkError(
                LinkReason.BUSY,
                "the device is already in the field",
                hint="close the link of the last sense first",
            )
        self._link = _LoopbackLink(self._responder, self._tap, _ANSWER_S)
        return self._link

    async def aclose(self) -> None:
        """End the field period, if one is on, and refuse further ones."""
        self._closed = True
        if self._link is not None:
            await self._link.aclose()


class _LoopbackLink:
    """Carries commands to a responder by calling it."""

    def __init__(self, responder: Responder, tap: FrameTap | None, answer_s: float) -> None:
        self.mtu = _MTU
        self.caps = frozenset({Cap.APDU})
        self.closed = False
        self._responder = responder
        self._tap = tap
        self._answer_s = answer_s
        self._answers: deque[bytes] = deque()
        self._changed = asyncio.Event()
        if tap is not None:
            tap.field(on=True)

    async def send(self, data: bytes) -> None:
        """Run the responder on one command APDU."""
        if self.closed:
            raise _closed()
        if not 0 < len(data) <= self.mtu:
            raise LinkError(
                LinkReason.UNSUPPORTED,
                f"a message has 1 to {self.mtu} bytes, not {len(data)}",
                hint="split the command (command chaining)",
            )
        if self._tap is not None:
            self._tap.apdu(from_reader=True, data=data)
        answer = self._responder.answer(data)
        if self._tap is not None:
            self._tap.apdu(from_reader=False, data=answer)
        self._answers.append(answer)
        self._changed.set()

    async def present(self) -> bool:
        """Return whether the link is open: the device is always there."""
        return not self.closed

    async def recv(self) -> bytes:
        """Return the oldest answer that was not yet taken."""
        if not self._answers and not self.closed:
            self._changed.clear()
            try:
                async with asyncio.timeout(self._answer_s):
                    await self._changed.wait()
            except TimeoutError as exc:
                raise LinkError(
                    LinkReason.TIMEOUT,
                    f"no answer within {self._answer_s} s",
                    hint="send a command before waiting for its answer",
                ) from exc
        if self.closed:
            raise _closed()
        return self._answers.popleft()

    async def aclose(self) -> None:
        """Turn the field off and end a pending ``recv``."""
        if self.closed:
            return
        self.closed = True
        self._answers.clear()
        self._changed.set()
        self._responder.field_off()
        if self._tap is not None:
            self._tap.field(on=False)


def _closed() -> LinkError:
    return LinkError(LinkReason.CLOSED, "this side closed the link", hint="sense again")
