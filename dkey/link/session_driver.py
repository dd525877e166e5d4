"""Drives a session over a message link: the one place where BLE messages meet waiting.

A session takes messages and time and gives messages and a deadline; it knows no transport. One
task owns it: what it has to say leaves in order, what comes is given to it, and its clock ticks
when its deadline has come.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from dkey.errors import LinkError, LinkReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.link.base import Link

__all__ = ["DrivenSession", "SessionDriver"]

EventT = TypeVar("EventT")
EventT_co = TypeVar("EventT_co", covariant=True)
_LAST_WORDS_S = 1.0


class DrivenSession(Protocol[EventT_co]):
    """What is driven: :class:`dkey.access.ble_session.BleSession` and alike."""

    @property
    def done(self) -> bool:
        """Whether the session is over; its outbox may still hold messages."""

    @property
    def deadline(self) -> float | None:
        """When ``tick`` must be called at the latest, by the driver's clock."""

    def outbox(self) -> list[bytes]:
        """Return the messages to send and forget them."""

    def receive(self, data: bytes, now: float) -> tuple[EventT_co, ...]:
        """Take one message."""

    def tick(self, now: float) -> tuple[EventT_co, ...]:
        """Let time pass."""

    def close(self) -> tuple[EventT_co, ...]:
        """End the session; the link is lost."""


class SessionDriver(Generic[EventT]):
    """Runs one started session over one link.

    Args:
        session: Started already.
        link: A message link; the caller closes it.
        clock: Monotonic seconds, the session's time.
        take: Called with the events of each input, in order, within the driver's task. What it
            makes the session say is sent when it returns.
    """

    def __init__(
        self,
        session: DrivenSession[EventT],
        link: Link,
        *,
        clock: Callable[[], float],
        take: Callable[[Iterable[EventT]], None],
    ) -> None:
        self._session = session
        self._link = link
        self._clock = clock
        self._take = take
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """The session has something to say, or a new deadline, that no input caused."""
        self._woken.set()

    async def run(self, first: bytes | None = None) -> LinkError | None:
        """Drive the session until it is done; what it said last is sent before this returns.

        Args:
            first: A message that was read from the link already, or None.

        Returns:
            The failure of the link that ended it, or None.
        """
        receiving: asyncio.Future[Any] = asyncio.ensure_future(self._link.recv())
        waking: asyncio.Future[Any] = asyncio.ensure_future(self._woken.wait())
        session = self._session
        try:
            if first is not None:
                self._take(session.receive(first, self._clock()))
            while True:
                await self._flush()
                if session.done:
                    return None
                await asyncio.wait(
                    {receiving, waking},
                    timeout=self._remaining_s(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if waking.done():
                    self._woken.clear()
                    waking = asyncio.ensure_future(self._woken.wait())
                if receiving.done():
                    data = await self._received(receiving)
                    receiving = asyncio.ensure_future(self._link.recv())
                    if data is not None:
                        self._take(session.receive(data, self._clock()))
                        continue
                self._take(session.tick(self._clock()))
        except LinkError as exc:
            return exc
        finally:
            await _ended(receiving, waking)
            if not session.done:
                self._take(session.close())
            with suppress(LinkError, TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._flush()

    async def _received(self, receiving: asyncio.Future[bytes]) -> bytes | None:
        """Return what came; None when the link was silent and lives on."""
        try:
            return receiving.result()
        except LinkError as exc:
            if exc.reason is not LinkReason.TIMEOUT or not await self._link.present():
                raise
            return None

    def _remaining_s(self) -> float | None:
        deadline = self._session.deadline
        return None if deadline is None else max(0.0, deadline - self._clock())

    async def _flush(self) -> None:
        for message in self._session.outbox():
            await self._link.send(message)


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still waits, and let none of it warn of a result that nobody wanted."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
