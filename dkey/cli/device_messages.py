"""The phone of ``dkey device serve msg-tcp:…``: one BLE session for each reader that connects."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import click

from dkey.access.ble_applet import BleApplet
from dkey.access.ble_device import DeviceBleSession
from dkey.access.ble_events import (
    BleEvent,
    Ended,
    EndReason,
    Established,
    StatusReported,
    VerdictReceived,
)
from dkey.access.exchange import ReaderStatus
from dkey.cli import explain
from dkey.codec.ble import StatusSource
from dkey.crypto.entropy import SystemEntropy
from dkey.link.session_driver import SessionDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dkey.access.credential import DeviceCredential, DeviceEvent, DeviceStore
    from dkey.codec.ble import RkeAction
    from dkey.link.base import Link

__all__ = ["MessagePhone"]

E = TypeVar("E")
_PAUSE_S = 0.5


class MessagePhone:
    """Answers one reader after the other and asks each for the same actions.

    Args:
        credential: Whose phone it is.
        store: Where it keeps what a transaction makes; None keeps nothing.
        actions: Remote requests after AP Completed, in order.
        remote_only: Whether to connect for remote control alone.
        user_authenticated: Whether the user unlocked the phone.
        on_event: Told of each finished transaction.
    """

    def __init__(
        self,
        credential: DeviceCredential,
        *,
        store: DeviceStore | None,
        actions: Sequence[RkeAction],
        remote_only: bool,
        user_authenticated: bool,
        on_event: Callable[[DeviceEvent], None],
    ) -> None:
        self._credential = credential
        self._store = store
        self._actions = actions
        self._remote_only = remote_only
        self._user_authenticated = user_authenticated
        self._on_event = on_event
        self._verdicts = credential.profile.name == "vehicle"

    async def serve(self, link: Link) -> None:
        """Run one session until the reader leaves or it fails; the caller closes the link."""
        clock = asyncio.get_running_loop().time
        applet = BleApplet(
            self._credential,
            SystemEntropy(),
            store=self._store,
            user_authenticated=self._user_authenticated,
        )
        session = DeviceBleSession(applet, remote_only=self._remote_only)
        arrived: asyncio.Queue[BleEvent] = asyncio.Queue()

        def take(events: Iterable[BleEvent]) -> None:
            for event in events:
                self._tell(event)
                arrived.put_nowait(event)

        driver: SessionDriver[BleEvent] = SessionDriver(session, link, clock=clock, take=take)
        session.start(clock())
        asking = asyncio.create_task(self._ask(session, driver, arrived, clock))
        try:
            await driver.run()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(
        self,
        session: DeviceBleSession,
        driver: SessionDriver[BleEvent],
        arrived: asyncio.Queue[BleEvent],
        clock: Callable[[], float],
    ) -> None:
        """Make the requests, one at a time: after the verdict, or the status, of the one before."""
        await _next(arrived, Established)
        for action in self._actions:
            if session.done:
                return
            session.request(action, clock())
            driver.wake()
            if self._verdicts:
                await _next(arrived, VerdictReceived)
            else:
                try:
                    async with asyncio.timeout(_PAUSE_S):
                        await _next(arrived, StatusReported)
                except TimeoutError:
                    continue  # a reader need not report what did not change

    def _tell(self, event: BleEvent) -> None:
        """Tell the user what happened, on standard error."""
        match event:
            case Established():
                if event.transaction is not None:
                    self._on_event(event.transaction)
            case StatusReported():
                source = _named(StatusSource, event.source)
                click.echo(f"reader status: {_state(event.state)} ({source})", err=True)
            case VerdictReceived():
                wait = "" if event.remaining_s is None else f", {event.remaining_s:.1f} s to wait"
                click.echo(f"{event.action.name}: {event.code or 'accepted'}{wait}", err=True)
            case Ended() if event.reason is not EndReason.CLOSED:
                text = event.reason.value if event.error is None else explain(event.error)
                click.echo(text, err=True)
            case _:
                pass


async def _next(arrived: asyncio.Queue[BleEvent], kind: type[E]) -> E:
    while True:
        event = await arrived.get()
        if isinstance(event, kind):
            return event


def _state(second: int) -> str:
    return _named(ReaderStatus, ReaderStatus.SECURE & 0xFF00 | second)


def _named(kind: type[ReaderStatus | StatusSource], value: int) -> str:
    try:
        return kind(value).name.lower().replace("_", " ")
    except ValueError:
        return f"{value:02X}"
