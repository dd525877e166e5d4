"""The phone's UWB beside its key agent: ranges with whatever vehicle the agent is connected to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from dkey.codec.uci_status import SessionType
from dkey.errors import DkeyError
from dkey.link.session_driver import SessionDriver
from dkey.ranging.session_events import (
    Began,
    Ceased,
    RangingEvent,
    Tell,
    Trouble,
    TroubleKind,
    Unavailable,
    Violated,
)
from dkey.ranging.session_phone import RangingPhone
from dkey.ranging.uci_host import UciHost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from dkey.codec.ble_contents import Content
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret
    from dkey.link.base import Link

__all__ = ["AgentRanging", "RangedVehicle", "keep_near"]

_RETRY_S: Final = 5.0
_WATCH_S: Final = 1.0


class RangedVehicle(Protocol):
    """The connection to a vehicle, as ranging needs it."""

    def say(self, content: Content) -> None:
        """Send a content of ranging."""

    def no_secret(self) -> None:
        """Tell the vehicle that the ranging secret is gone, and end the connection."""

    def violated(self, error: DkeyError) -> None:
        """End the connection to a vehicle that broke the protocol."""


class AgentRanging:
    """Ranges with one vehicle at a time.

    Args:
        entropy: Source of the first STS index and the hopping key.
        clock: Monotonic seconds; the one of the connection.
        on_event: Told what happens: a name and plain values.

    Attributes:
        end: The phone's end of ranging.
    """

    def __init__(
        self,
        entropy: Entropy,
        *,
        clock: Callable[[], float],
        on_event: Callable[[str, dict[str, Any]], None] = lambda _name, _values: None,
    ) -> None:
        self.end = RangingPhone(UciHost(initiator=True), entropy, session_type=SessionType.CCC)
        self._clock = clock
        self._on_event = on_event
        self._vehicle: RangedVehicle | None = None
        self._driver: SessionDriver[RangingEvent] | None = None

    async def run(self, link: Link) -> None:
        """Serve the phone's subsystem until its link is lost; closes the link."""
        self._driver = SessionDriver(self.end, link, clock=self._clock, take=self._take)
        self.end.start(self._clock())
        try:
            fault = await self._driver.run()
            self._tell("uwb_lost", text=str(fault or "the UWB subsystem is gone"))
        finally:
            await link.aclose()

    def joined(self, vehicle: RangedVehicle, session_id: int, ursk: Secret) -> None:
        """A vehicle let the phone in and released the ranging secret."""
        self._vehicle = vehicle
        self._take(self.end.open(session_id, ursk, self._clock()))
        self._wake()

    def received(self, vehicle: RangedVehicle, content: Content) -> None:
        """Take a content of ranging."""
        if vehicle is self._vehicle:
            self._take(self.end.received(content, self._clock()))
            self._wake()

    def unavailable(self, vehicle: RangedVehicle) -> None:
        """The vehicle has no ranging secret (any more)."""
        if vehicle is self._vehicle:
            self._take(self.end.unavailable(self._clock()))
            self._wake()

    def left(self, vehicle: RangedVehicle) -> None:
        """The connection is over."""
        if vehicle is self._vehicle:
            self._vehicle = None
            self._take(self.end.leave(self._clock()))
            self._wake()

    def _tell(self, name: str, **values: Any) -> None:
        self._on_event(name, values)

    def _wake(self) -> None:
        if self._driver is not None:
            self._driver.wake()

    def _take(self, events: Iterable[RangingEvent]) -> None:
        for event in events:
            vehicle = self._vehicle
            match event:
                case Tell() if vehicle is not None:
                    vehicle.say(event.content)
                case Unavailable() if vehicle is not None:
                    vehicle.no_secret()
                case Violated() if vehicle is not None:
                    vehicle.violated(event.error)
                case Began():
                    self._tell("ranging", ran=event.plan.ran_multiplier)
                case Ceased():
                    self._tell("ranging_ended", text=event.text)
                case Trouble():
                    text = f"{event.kind.value}: {event.text}"
                    self._tell("ranging_trouble", text=text, hint=event.hint)
                    if event.kind is TroubleKind.EXPIRED and vehicle is not None:
                        vehicle.no_secret()
                case _:
                    pass


async def keep_near(
    follow: Callable[[], Awaitable[bool]], on_event: Callable[[str, dict[str, Any]], None]
) -> None:
    """Stay connected for ranging until cancelled: connect, watch, connect again.

    Args:
        follow: Connects where there is no connection that may range; returns whether one was made.
        on_event: Told of failures, each once until one succeeds.
    """

    def _tell(name: str, **values: Any) -> None:
        on_event(name, values)

    said = ""
    while True:
        try:
            await follow()
            said, wait_s = "", _WATCH_S
        except DkeyError as exc:
            if str(exc) != said:
                said = str(exc)
                _tell("not_near", text=said)
            wait_s = _RETRY_S
        await asyncio.sleep(wait_s)
