"""Between a phone's Bluetooth session and the desk that ranges it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.access.ble_events import Ended, Established, RangingUnavailable
from dkey.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.access.ble_events import BleEvent
    from dkey.access.ble_reader import ReaderBleSession
    from dkey.codec.ble_contents import Content
    from dkey.control.rules import Grant
    from dkey.errors import DkeyError
    from dkey.link.session_driver import SessionDriver
    from firmware_mock.uwb_desk import UwbDesk

__all__ = ["UwbPeer"]


class UwbPeer:
    """Implements :class:`firmware_mock.uwb_desk.RangedPeer`.

    Args:
        uwb: The desk.
        session: The phone's.
        driver: Of that session.
        take: Takes the events of what this makes the session do.

    Attributes:
        grant: Who was let in; None before.
        standard: Whether it ran a standard transaction.
    """

    def __init__(
        self,
        uwb: UwbDesk,
        session: ReaderBleSession,
        driver: SessionDriver[BleEvent],
        take: Callable[[Iterable[BleEvent]], None],
    ) -> None:
        self.grant: Grant | None = None
        self.standard = False
        self._uwb = uwb
        self._session = session
        self._driver = driver
        self._take = take

    def note(self, event: BleEvent, grant: Grant | None, *, standard: bool) -> None:
        """Take note of an event that its owner has dealt with."""
        match event:
            case Established():
                self.grant, self.standard = grant, standard
                self._uwb.joined(self, event)
            case Ended() | RangingUnavailable():
                self._uwb.left(self)
            case _:
                pass

    def received(self, content: Content) -> bool:
        """Take a content of ranging; return False when this phone is not ranged."""
        return self._uwb.received(self, content)

    def say(self, content: Content) -> None:
        """Send a content of ranging; one that is out of turn ends the session."""
        if self._session.done:
            return
        try:
            self._take(self._session.send(content, self._uwb.vehicle.clock()))
        except LocalFault as exc:
            self._take(self._session.reject(exc))
        self._driver.wake()

    def no_secret(self) -> None:
        """Tell that the ranging secret is gone."""
        if not self._session.done:
            self._take(self._session.unavailable(self._uwb.vehicle.clock()))
            self._driver.wake()

    def violated(self, error: DkeyError) -> None:
        """End the connection of a phone that broke the protocol."""
        self._take(self._session.reject(error))
        self._driver.wake()
