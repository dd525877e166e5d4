"""One connection to a vehicle: a link, the device's BLE session on it, the task between them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

from dkey.access.ble_device import DeviceBleSession
from dkey.access.ble_events import (
    BleEvent,
    Ended,
    EndReason,
    Established,
    RangingReceived,
    RangingUnavailable,
    StatusReported,
    VerdictReceived,
)
from dkey.access.exchange import ReaderStatus
from dkey.agent.advice import Trouble, refusal, trouble, unreachable
from dkey.errors import DkeyError, LinkError, LinkReason, LocalFault, RefusalCode, RemoteFault
from dkey.link.session_driver import SessionDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.access.ble_applet import BleApplet
    from dkey.access.credential import DeviceEvent
    from dkey.agent.agent_ranging import AgentRanging
    from dkey.codec.ble import RkeAction
    from dkey.codec.ble_contents import Content
    from dkey.link.base import Link

__all__ = ["AgentSession", "session_over", "turned_away"]

E = TypeVar("E", Established, VerdictReceived)
_EVENTS: Final = 64
_V1_0: Final = b"\x01\x00"

_REFUSED: Final = {
    ReaderStatus.KEY_NOT_FOUND: RefusalCode.KEY_UNKNOWN,
    ReaderStatus.KEY_EXPIRED: RefusalCode.KEY_EXPIRED,
    ReaderStatus.KEY_NOT_TRUSTED: RefusalCode.KEY_REVOKED,
    ReaderStatus.ACCESS_RIGHTS: RefusalCode.KEY_SUSPENDED,
}
"""What a vehicle says in the encrypted EXCHANGE with which it turns a device away."""
_TROUBLE: Final = {
    EndReason.TIMEOUT: (Trouble.TIMED_OUT, LinkReason.TIMEOUT),
    EndReason.CLOSED: (Trouble.LOST, LinkReason.LOST),
}


def session_over(link: Link, applet: BleApplet, *, remote_only: bool) -> DeviceBleSession:
    """Return the device's session for a link, with the versions that its radio negotiated."""
    info, choice = getattr(link, "info", None), getattr(link, "choice", None)
    return DeviceBleSession(
        applet,
        remote_only=remote_only,
        supported=_V1_0 if info is None else info.versions,
        selected=_V1_0 if choice is None else choice.version,
    )


class AgentSession:
    """A connection in use. Made by :meth:`open`, ended by :meth:`aclose` or by the vehicle.

    Attributes:
        doors: Second byte of the vehicle's last reader status; None before the first.
    """

    def __init__(
        self,
        link: Link,
        session: DeviceBleSession,
        applet: BleApplet,
        on_status: Callable[[int], None],
        on_end: Callable[[], None],
        ranging: AgentRanging | None = None,
    ) -> None:
        self._ranging = ranging
        self._link = link
        self._session = session
        self._applet = applet
        self._on_status = on_status
        self._on_end = on_end
        self._clock = asyncio.get_running_loop().time
        self._driver = SessionDriver[BleEvent](session, link, clock=self._clock, take=self._took)
        self._running: asyncio.Task[None] | None = None
        self._events: deque[BleEvent] = deque(maxlen=_EVENTS)
        self._changed = asyncio.Event()
        self._ended: Ended | None = None
        self._fault: Exception | None = None
        self._fast = False
        self.doors: int | None = None

    @classmethod
    async def open(
        cls,
        link: Link,
        session: DeviceBleSession,
        applet: BleApplet,
        on_status: Callable[[int], None] = lambda _state: None,
        on_end: Callable[[], None] = lambda: None,
        ranging: AgentRanging | None = None,
    ) -> AgentSession:
        """Run the transaction on a fresh link; the link is closed when it fails.

        Args:
            link: Message link to the vehicle.
            session: Not started yet.
            applet: The one that the session answers with.
            on_status: Told of each state that the vehicle reports later.
            on_end: Told when the connection ended other than by :meth:`aclose`.
            ranging: The phone's UWB; None without.

        Raises:
            Unreachable: The link broke, or the vehicle did not answer in time.
            PolicyRefusal: The vehicle turned the key away.
            RemoteFault: The peer is not the vehicle, or broke the protocol.
            LocalFault: The store could not keep what it has to.
        """
        made = cls(link, session, applet, on_status, on_end, ranging)
        try:
            session.start(made._clock())
            made._running = asyncio.create_task(made._run(), name="dkey agent session")
            made._running.add_done_callback(lambda _: made._changed.set())
            established = await made._next(Established)
        except BaseException:
            await made.aclose()
            raise
        made._fast = established.transaction is not None and established.transaction.fast
        made.doors = established.state
        return made

    @property
    def fast(self) -> bool:
        """Whether the transaction was a fast one."""
        return self._fast

    async def alive(self) -> bool:
        """Return whether requests can be made."""
        return not self._over and await self._link.present()

    async def request(self, action: RkeAction, *, answer_s: float) -> VerdictReceived:
        """Ask for an action and return the verdict; one request at a time.

        Raises:
            Unreachable: LOST when it was over before; UNCERTAIN when the link broke or nothing
                came: it may be done or not.
            RemoteFault: The peer broke the protocol.
            LocalFault: The action is not of the profile, or a request is open.
        """
        if self._over:
            raise self._why() from self._fault
        try:
            async with asyncio.timeout(answer_s):
                self._took(self._session.request(action, self._clock()))
                self._driver.wake()
                return await self._next(VerdictReceived)
        except (LinkError, TimeoutError) as exc:
            self._took(self._session.close())
            self._driver.wake()
            reason = exc.reason if isinstance(exc, LinkError) else LinkReason.TIMEOUT
            raise trouble(Trouble.UNCERTAIN, reason) from exc

    # --- ranging, for the phone's UWB -----------------------------------------------------------

    def say(self, content: Content) -> None:
        """Send a content of ranging; one that is out of turn ends the session."""
        if not self._session.done:
            try:
                self._took(self._session.send(content, self._clock()))
            except LocalFault as exc:
                self._took(self._session.reject(exc))
            self._driver.wake()

    def no_secret(self) -> None:
        """End the connection: a new ranging secret needs a new one."""
        self._took(self._session.close())
        self._driver.wake()

    def violated(self, error: DkeyError) -> None:
        """End the connection to a vehicle that broke the protocol."""
        self._took(self._session.reject(error))
        self._driver.wake()

    # --- the end --------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End session and link, within some seconds. May be called twice."""
        self._took(self._session.close())
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        await self._link.aclose()

    @property
    def _over(self) -> bool:
        return self._ended is not None or self._fault is not None

    async def _run(self) -> None:
        try:
            self._fault = await self._driver.run()
            self._on_end()
        except Exception as exc:  # noqa: BLE001 - whoever waits for an event raises it
            self._fault = exc

    def _took(self, events: Iterable[BleEvent]) -> None:
        for event in events:
            match event:
                case StatusReported():
                    self.doors = event.state
                    self._on_status(event.state)
                case Ended():
                    self._ended = event
                    if self._ranging is not None:
                        self._ranging.left(self)
                case Established():
                    self._events.append(event)
                    if self._ranging is not None and event.ursk is not None:
                        self._ranging.joined(self, event.session_id, event.ursk)
                case VerdictReceived():
                    self._events.append(event)
                case RangingReceived() if self._ranging is not None:
                    self._ranging.received(self, event.content)
                case RangingUnavailable() if self._ranging is not None:
                    self._ranging.unavailable(self)
                case _:
                    pass  # descriptors and third parties have no use here yet
        self._changed.set()

    async def _next(self, kind: type[E]) -> E:
        """Return the next event of this kind, or raise why there will be none.

        The driver ends the session when its deadline has come, so this wait ends.
        """
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, kind):
                    return event
            # The driver's result says more than the end of the session that comes with it.
            if self._running is None or self._running.done():
                raise self._why() from self._fault
            self._changed.clear()
            await self._changed.wait()

    def _why(self) -> Exception:
        """Return what ended this connection, as the agent's callers know it."""
        if (said := self._turned_away()) is not None:
            return said
        if self._fault is not None:
            return unreachable(self._fault) if isinstance(self._fault, LinkError) else self._fault
        error = self._session.error
        reason = EndReason.CLOSED if self._ended is None else self._ended.reason
        if reason in _TROUBLE:
            return trouble(*_TROUBLE[reason])
        if reason is EndReason.FAILED:
            return LocalFault(
                f"this side failed: {error}",
                hint=(error and error.hint) or "check that the store's disk has room",
            )
        return RemoteFault(
            f"the vehicle ended the connection: {error or reason.value}",
            hint="try again; if it stays so, pair again at the head unit",
        )

    def _turned_away(self) -> DkeyError | None:
        """Return the refusal in the reader status that came encrypted, if one did."""
        events = self._applet.events
        return turned_away(events[-1]) if events else None


def turned_away(event: DeviceEvent) -> DkeyError | None:
    """Return the refusal in the reader status of a finished transaction; None for a state."""
    try:
        status = ReaderStatus(event.status)
    except ValueError:
        return None
    return None if status.success else refusal(_REFUSED.get(status, RefusalCode.NOT_AUTHORISED))
