"""Holding the phone to a reader of the vehicle: the access applet on an NFC or apdu-tcp link."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from dkey.access.applet import AppletHost
from dkey.access.device import AccessApplet
from dkey.agent.advice import Trouble, Unreachable, unreachable
from dkey.agent.agent_session import turned_away
from dkey.agent.carried import CarriedStore
from dkey.errors import LinkError, LinkReason
from dkey.link.opener import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.access.applet import Applet
    from dkey.access.credential import DeviceEvent
    from dkey.agent.store import AgentStore
    from dkey.agent.store_schema import VehicleKey
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret
    from dkey.link.base import FrameTap

__all__ = ["Ending", "HomeThread", "serve_until", "touch"]

T = TypeVar("T")
_STORE_S: Final = 10.0
_LEAVE_S: Final = 2.0


class HomeThread:
    """The thread of the event loop, to which a store belongs; links may answer on another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._home = threading.get_ident()

    def run(self, work: Callable[[], object]) -> None:
        """Run ``work`` there, from any thread, and wait for it."""
        if threading.get_ident() == self._home:
            work()
            return
        done: Future[None] = Future()

        def there() -> None:
            try:
                work()
                done.set_result(None)
            except BaseException as exc:  # noqa: BLE001 - the waiting thread raises it
                done.set_exception(exc)

        self._loop.call_soon_threadsafe(there)
        done.result(_STORE_S)


class Ending(Generic[T]):
    """How something ends that a reader drives, on whatever thread its commands are answered.

    Attributes:
        future: The result, for the event loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()

    def done(self, result: T) -> None:
        """It succeeded."""
        self._loop.call_soon_threadsafe(self._set, lambda: self.future.set_result(result))

    def failed(self, error: BaseException) -> None:
        """It failed."""
        self._loop.call_soon_threadsafe(self._set, lambda: self.future.set_exception(error))

    def _set(self, how: Callable[[], None]) -> None:
        if not self.future.done():
            how()


async def serve_until(
    ending: Ending[T],
    link: str,
    applet: Applet,
    *,
    tell: Callable[..., None],
    timeout_s: float,
    tap: FrameTap | None = None,
) -> T:
    """Be a device with one applet on a link until the ending, and return its result.

    Raises:
        Unreachable: Nothing ended within ``timeout_s``; or what the link says.
        DkeyError: What the ending failed with.
    """

    def stopped(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            ending.failed(error)

    host = _Host(applet)
    serving = asyncio.create_task(
        serve(
            link,
            host,
            tap=tap,
            on_listening=lambda where: tell("listening", where=where),
        )
    )
    serving.add_done_callback(stopped)
    try:
        async with asyncio.timeout(timeout_s):
            result = await ending.future
        await host.left(_LEAVE_S)  # the last answer is on its way yet
        return result  # noqa: TRY300 - what follows is only for this block
    except TimeoutError as exc:
        raise Unreachable(
            Trouble.NOT_IN_RANGE,
            f"no reader finished on {link} within {timeout_s:g} s",
            reason=LinkReason.TIMEOUT,
            hint="hold the phone to the vehicle's reader, and keep it there",
        ) from exc
    except LinkError as exc:
        raise unreachable(exc) from exc
    finally:
        serving.cancel()
        await asyncio.wait([serving])


class _Host(AppletHost):
    """Answers for one applet, and tells when the reader let go."""

    def __init__(self, applet: Applet) -> None:
        super().__init__([applet])
        self._loop = asyncio.get_running_loop()
        self._left = asyncio.Event()

    def field_off(self) -> None:
        """The field ended: forget everything about the transaction."""
        super().field_off()
        self._loop.call_soon_threadsafe(self._left.set)

    async def left(self, within_s: float) -> None:
        """Wait for the end of the present field period, but not longer than this."""
        self._left.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._left.wait()


class _HomeStore:
    """A device's store whose changes run on its home thread."""

    def __init__(self, store: CarriedStore, home: HomeThread) -> None:
        self._store = store
        self._home = home

    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        """Keep Kpersistent for one reader, replacing an older one."""
        self._home.run(lambda: self._store.save_kpersistent(group_id, sub_id, key))

    def save_mailbox(self, data: bytes) -> None:
        """Keep what the vehicle wrote."""
        self._home.run(lambda: self._store.save_mailbox(data))


async def touch(
    store: AgentStore,
    known: VehicleKey,
    link: str,
    *,
    entropy: Entropy,
    tell: Callable[..., None],
    timeout_s: float,
    tap: FrameTap | None = None,
) -> DeviceEvent:
    """Answer one transaction of a reader with the key to a vehicle; return what it was.

    Raises:
        PolicyRefusal: The vehicle turned the key away.
        Unreachable: No reader came within ``timeout_s``.
    """
    ending: Ending[DeviceEvent] = Ending()
    applet = AccessApplet(
        store.credential(known.group_id),
        entropy,
        store=_HomeStore(CarriedStore(store, known.group_id), HomeThread()),
        on_event=ending.done,
    )
    event = await serve_until(ending, link, applet, tell=tell, timeout_s=timeout_s, tap=tap)
    refused = turned_away(event)
    if refused is not None:
        raise refused
    return event
