"""The vehicle's side of Bluetooth: sessions with phones, their commands, what all of them are told.

Every phone has a link and a session of its own; what one of them does wrong ends that one. The
memory of remote control is shared by all (:class:`~dkey.control.remote.RemoteHistory`). What a
phone is told is on the disk before it is told: its use and Kpersistent before it is let in, each
command before the verdict.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from dkey.access.ble_rules import HANDSHAKE_S
from dkey.access.exchange import ReaderStatus
from dkey.access.profile import VEHICLE
from dkey.control.remote import RemoteAction, RemoteHistory, RemoteVerdict, decide_remote
from dkey.control.touch import Position
from dkey.errors import (
    DkeyError,
    LinkError,
    LinkReason,
)
from dkey.lifecycle.features import Feature
from firmware_mock.ble_phone import BlePhone
from firmware_mock.tapped_link import TappedLink

if TYPE_CHECKING:
    from dkey.control.rules import Grant
    from dkey.link.base import Link
    from dkey.link.message_link import MessageTap
    from firmware_mock.uwb_desk import UwbDesk
    from firmware_mock.vehicle import Vehicle

__all__ = ["BleDesk", "PairingDesk", "Report"]

log = logging.getLogger(__name__)

_SUPPORTED: Final = b"".join(VEHICLE.versions)


class Report(Protocol):
    """Is told what happened, for people and machines that watch the vehicle."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """``event`` and its fields as in specs/formats.md."""


class PairingDesk(Protocol):
    """Takes over a link whose first message asks for owner pairing."""

    def begins(self, first: bytes) -> bool:
        """Whether this message is the first of a pairing."""

    async def serve(self, link: Link, first: bytes) -> object:
        """Run the pairing; never raises for what the phone does."""


class BleDesk:
    """Serves every phone that is connected to the vehicle by Bluetooth.

    Args:
        vehicle: The vehicle; the desk listens to its changes.
        report: Is told of connections, commands and refusals.
        pairing: Takes over links that ask for owner pairing; None refuses them.
        supported: Protocol versions as in the radio's GATT value.
        tap: Receives a copy of every message, for traces.

    Attributes:
        history: What remote control did, for all keys together.
        uwb: Ranges the phones; None in a vehicle without anchors.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        *,
        report: Report | None = None,
        pairing: PairingDesk | None = None,
        supported: bytes = _SUPPORTED,
        tap: MessageTap | None = None,
    ) -> None:
        self.history = _remembered(vehicle)
        self.pairing = pairing
        self.uwb: UwbDesk | None = None
        self.vehicle = vehicle
        self.report: Report = report or _quiet
        self.supported = supported
        self._tap = tap
        self._peers: set[BlePhone] = set()
        self._silence: asyncio.TimerHandle | None = None
        vehicle.on_change.append(self._told)

    @property
    def ranging(self) -> bool:
        """Whether phones may have the ranging secret: the vehicle knows proximity."""
        return Feature.PROXIMITY_LOCK in self.vehicle.features.features

    @property
    def phones(self) -> tuple[str, ...]:
        """Credential ids of the phones that are let in, in no order."""
        return tuple(peer.grant.credential_id for peer in self._peers if peer.grant is not None)

    async def serve(self, link: Link) -> None:
        """Serve one phone until it is gone; closes the link. Never raises for what it does."""
        messages: Link = link if self._tap is None else TappedLink(link, self._tap)
        peer = BlePhone(self, link, messages)
        self.report("ble_connected", peer=peer.name, bearer=getattr(link, "bearer", None))
        try:
            first = await _first(messages)
            if self.pairing is not None and self.pairing.begins(first):
                await self.pairing.serve(messages, first)
            else:
                self._peers.add(peer)
                await peer.run(first)
        except DkeyError as exc:
            log.info("phone %s: %s", peer.name, exc)
        finally:
            self._peers.discard(peer)
            await link.aclose()
            self.report("ble_lost", peer=peer.name, credential=peer.credential, text=peer.ended)

    def tick(self) -> None:
        """Let time pass: the horn falls silent when its time is over."""
        self.history = self.history.tick(now_s=self.vehicle.clock())
        sounding = self.history.horn_until_s is not None
        if self.vehicle.body.horn and not sounding:
            self.vehicle.body.horn = False
            self.vehicle.changed()
        self._wait_for_silence()

    def close(self) -> None:
        """Forget the timer of the horn, which is silent from here on."""
        self.vehicle.body.horn = False
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    # --- commands ---------------------------------------------------------------------------

    def decide(self, wanted: RemoteAction, grant: Grant | None, *, fast: bool) -> RemoteVerdict:
        """Decide one request as things stand now."""
        body, now_s = self.vehicle.body, self.vehicle.clock()
        return decide_remote(
            wanted,
            grant,
            fast=fast,
            signals=body.signals(),
            history=self._current(now_s),
            fob_lock_s=body.fob_lock_s,
            now_s=now_s,
            supported=self._has_remote(grant),
        )

    def _has_remote(self, grant: Grant | None) -> bool:
        if grant is None:
            return Feature.REMOTE in self.vehicle.features.features
        return self.vehicle.offers(Feature.REMOTE, grant.credential_id)

    def carry_out(self, action: RemoteAction, credential_id: str | None) -> None:
        """Let the body do what was granted and committed; every phone is told."""
        body, now_s = self.vehicle.body, self.vehicle.clock()
        self.history = self._current(now_s).executed(action, now_s=now_s)
        match action:
            case RemoteAction.LOCK:
                body.lock()
            case RemoteAction.UNLOCK:
                body.unlock()
            case RemoteAction.REMOTE_START:
                body.start(remote=True)
            case RemoteAction.REMOTE_STOP:
                body.stop()
            case RemoteAction.HORN_ON | RemoteAction.HORN_OFF:
                body.horn = action is RemoteAction.HORN_ON
                self._wait_for_silence()
        self.vehicle.changed(Position.BLE, credential_id)

    def _current(self, now_s: float) -> RemoteHistory:
        history = self.history.tick(now_s=now_s)
        body = self.vehicle.body
        running = body.remote_running and body.ignition_on
        return history if running else history.taken_over()

    def _wait_for_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        until_s = self.history.horn_until_s
        if until_s is not None:
            remaining_s = max(0.01, until_s - self.vehicle.clock())
            self._silence = asyncio.get_running_loop().call_later(remaining_s, self.tick)

    # --- what phones are told ---------------------------------------------------------------

    def lock_state(self) -> ReaderStatus:
        """Return the state of the doors as phones are told it."""
        locked = self.vehicle.body.signals().locked
        if locked is None:
            return ReaderStatus.UNKNOWN_STATE
        return ReaderStatus.SECURE if locked else ReaderStatus.UNSECURE

    def _told(self, position: Position | None, credential_id: str | None) -> None:
        state = self.lock_state()
        for peer in self._peers:
            peer.tell(state, position, credential_id)


def _remembered(vehicle: Vehicle) -> RemoteHistory:
    """Return the history after a restart: the repeat timer goes on, from the event log."""
    kinds = {each.value for each in RemoteAction if each is not RemoteAction.HORN_OFF}
    for event in reversed(vehicle.store.events()):
        if event.position is Position.BLE and event.kind in kinds:
            age_s = max(0.0, vehicle.wall_clock() - event.t_s)  # a clock set back makes nothing old
            return RemoteHistory(executed_s=vehicle.clock() - age_s)
    return RemoteHistory()


async def _first(link: Link) -> bytes:
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            return await link.recv()
    except TimeoutError as exc:
        raise LinkError(
            LinkReason.TIMEOUT,
            "the phone said nothing",
            hint="the device speaks first: Initiate AP or the begin of a pairing",
        ) from exc


def _quiet(event: str, /, **fields: object) -> None:
    del event, fields
