"""Runs the calls of a blocking reader library, one after the other, on one daemon thread."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dkey.errors import LinkError, LinkReason

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Job", "ReaderThread", "closed"]

T = TypeVar("T")

_CLOSE_S = 4.5


def closed() -> LinkError:
    """Return the error of a wait that this side ended."""
    return LinkError(LinkReason.CLOSED, "this side closed the link", hint="sense again")


class Job(Generic[T]):
    """One call that the worker thread makes for a coroutine."""

    def __init__(self, call: Callable[[threading.Event], T]) -> None:
        self.stop = threading.Event()
        self._call = call
        self._loop = asyncio.get_running_loop()
        # Holds (value, error): an error that nobody awaits must not be logged by asyncio.
        self._outcome: asyncio.Future[tuple[T | None, BaseException | None]] = (
            self._loop.create_future()
        )

    async def result(self) -> T:
        """Await the call; cancelling tells it to stop."""
        try:
            value, error = await self._outcome
        except asyncio.CancelledError:
            self.stop.set()
            raise
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    async def finished(self, timeout_s: float) -> bool:
        """Wait for the end of a call that must happen even if nobody can wait for it.

        Return whether it ended in time; its error, if any, is dropped. Neither cancelling nor the
        timeout stops the call.
        """
        done, _ = await asyncio.wait([self._outcome], timeout=timeout_s)
        return bool(done)

    def abandon(self) -> None:
        """Tell the call to stop, and end the wait for it with reason CLOSED."""
        self.stop.set()
        self._settle((None, closed()))

    def run(self) -> None:
        """Make the call, on the worker thread."""
        value: T | None = None
        error: BaseException | None = None
        try:
            if self.stop.is_set():
                error = closed()
            else:
                value = self._call(self.stop)
        except BaseException as exc:  # noqa: BLE001 - whoever waits must learn of it
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
            self._loop.call_soon_threadsafe(self._settle, (value, error))

    def _settle(self, outcome: tuple[T | None, BaseException | None]) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    @property
    def done(self) -> bool:
        """Whether the wait is over (the call may still run)."""
        return self._outcome.done()


class ReaderThread:
    """A daemon thread that runs jobs one after the other; it never holds up interpreter exit."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._jobs: set[Job[Any]] = set()
        self._finished = False
        self._thread = threading.Thread(target=self._serve, name="nfc-reader", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[threading.Event], T]) -> Job[T]:
        """Queue ``call``; it is given an event that says "stop soon"."""
        if self._finished:
            raise closed()
        job = Job(call)
        self._jobs = {other for other in self._jobs if not other.done}
        self._jobs.add(job)
        self._queue.put(job)
        return job

    def abandon_all(self) -> None:
        """Tell every job to stop and end every wait."""
        for job in self._jobs:
            job.abandon()

    async def finish(self, last: Callable[[], None]) -> None:
        """Stop all jobs, run ``last`` and end the thread, within 4.5 s."""
        self.abandon_all()
        closing = self.submit(lambda _stop: last())
        self._finished = True
        self._queue.put(None)
        if await closing.finished(_CLOSE_S):
            self._thread.join(1.0)

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            job.run()
            del job  # do not keep its result until the next one comes
