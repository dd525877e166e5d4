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

from dkey.access.ble_events import (
    Authenticated,
    BleEvent,
    CommandRequested,
    Ended,
    Established,
    Exchanged,
    RangingReceived,
)
from dkey.access.ble_reader import ReaderBleSession
from dkey.access.ble_rules import HANDSHAKE_S
from dkey.access.delivery import announced, deliver
from dkey.access.enrolled import Flow
from dkey.access.exchange import ReaderStatus
from dkey.access.profile import VEHICLE
from dkey.codec.ble import RangingKind, StatusSource
from dkey.codec.ble_contents import Ranging
from dkey.control.remote import RemoteAction, RemoteHistory, RemoteVerdict, decide_remote
from dkey.control.touch import Position
from dkey.errors import (
    DkeyError,
    LinkError,
    LinkReason,
    RefusalCode,
    RemoteFault,
)
from dkey.lifecycle.features import Feature
from dkey.lifecycle.roles import CredentialState, Role
from dkey.link.session_driver import SessionDriver
from firmware_mock.outcome import status_of
from firmware_mock.tapped_link import TappedLink
from firmware_mock.uwb_peer import UwbPeer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from dkey.access.enrolled import EnrolledCredential
    from dkey.access.exchange import ExchangeRequest
    from dkey.access.session import Session
    from dkey.control.rules import Grant
    from dkey.link.base import Link
    from dkey.link.message_link import MessageTap
    from firmware_mock.uwb_desk import UwbDesk
    from firmware_mock.vehicle import Vehicle

__all__ = ["BleDesk", "PairingDesk", "Report"]

log = logging.getLogger(__name__)

V1_0: Final = b"\x01\x00"
_SUPPORTED: Final = b"".join(VEHICLE.versions)
_LATER: Final = {
    RangingKind.INITIATE: RangingKind.SETUP_LATER,
    RangingKind.INITIATE_RESUME: RangingKind.RESUME_LATER,
}


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
        self._peers: set[_Peer] = set()
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
        peer = _Peer(self, link, messages)
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


class _Peer:
    """One phone: its link, its session, and who it proved to be."""

    def __init__(self, desk: BleDesk, link: Link, messages: Link) -> None:
        self.grant: Grant | None = None
        self.ended = ""
        self.name = str(getattr(link, "peer", "phone"))
        self._desk = desk
        self._vehicle = desk.vehicle
        self._link = link
        choice = getattr(link, "choice", None)
        self._session = ReaderBleSession(
            desk.vehicle.reader(Position.BLE),
            ranging=desk.ranging,
            # A start from the cabin needs a standard transaction, and no phone waits for this one.
            flow=Flow.AUTO if desk.uwb is None else Flow.STANDARD,
            supported=desk.supported,
            selected=V1_0 if choice is None else choice.version,
        )
        self._driver: SessionDriver[BleEvent] = SessionDriver(
            self._session, messages, clock=self._vehicle.clock, take=self._take
        )
        self._uwb: UwbPeer | None = None
        if desk.uwb is not None:
            self._uwb = UwbPeer(desk.uwb, self._session, self._driver, self._take)
        self._fast = False
        self._transaction: Session | None = None
        self._delivery: Generator[ExchangeRequest, tuple[bytes, ...], None] | None = None
        self._established = False
        self._known: ReaderStatus | None = None

    @property
    def credential(self) -> str | None:
        """Name of the credential that was let in; None before."""
        return None if self.grant is None else self.grant.name

    async def run(self, first: bytes) -> None:
        self._session.start(self._vehicle.clock())
        await self._driver.run(first)

    def tell(self, state: ReaderStatus, position: Position | None, by: str | None) -> None:
        """Report the state of the doors when this phone knows another one."""
        if not self._established or self._session.done or state is self._known:
            return
        if self.grant is None or _admission(self._vehicle.grant(self.grant.credential_id)):
            return  # withdrawn since it connected
        self._known = state
        self._take(self._session.report(self._source(position, by), state))
        self._driver.wake()

    def _source(self, position: Position | None, by: str | None) -> StatusSource:
        if position is None:
            return StatusSource.MANUAL
        if self.grant is None or by != self.grant.credential_id:
            return StatusSource.UNSPECIFIED
        if self._desk.uwb is not None and self._desk.uwb.acting:
            return StatusSource.THIS_DEVICE_RANGING
        ble = position is Position.BLE
        return StatusSource.THIS_DEVICE_BLE if ble else StatusSource.THIS_DEVICE_NFC

    # --- events of the session ----------------------------------------------------------------

    def _take(self, events: Iterable[BleEvent]) -> None:
        for event in events:
            match event:
                case Authenticated():
                    self._authenticated(event)
                case Exchanged():
                    self._deliver(event.reads)
                case Established():
                    self._established = True
                case CommandRequested():
                    self._requested(event)
                case RangingReceived():
                    self._ranging(event)
                case Ended():
                    self._established = False
                    self.ended = event.reason.value
                case _:
                    pass
            if self._uwb is not None:
                self._uwb.note(event, self.grant, standard=not self._fast)

    def _authenticated(self, event: Authenticated) -> None:
        transaction, desk = event.transaction, self._vehicle.share_desk
        header, known = announced(transaction), transaction.credential is not None
        if header is None or transaction.public_key is None:
            self._admit(transaction, transaction.credential)
            return
        taker = desk.taker(transaction.public_key, Position.BLE)
        self._transaction = transaction
        self._delivery = deliver(header, taker, introduces=not known)
        self._deliver(None)

    def _deliver(self, reads: tuple[bytes, ...] | None) -> None:
        """Take the next step of a delivery; behind the last one, decide on the key."""
        delivery, transaction = self._delivery, self._transaction
        if delivery is None or transaction is None or transaction.public_key is None:
            return
        now = self._vehicle.clock()
        try:
            request = next(delivery) if reads is None else delivery.send(reads)
        except StopIteration:
            self._delivery = None
            self._admit(transaction, self._vehicle.keys.enrolled(transaction.public_key.x))
        except RemoteFault as exc:
            self._delivery = None
            self._refused(RefusalCode.CARD_DAMAGED, None, text=str(exc))
            self._take(self._session.refuse(ReaderStatus.BAD_FORMAT, now))
        else:
            self._take(self._session.exchange(request, now))

    def _admit(self, transaction: Session, credential: EnrolledCredential | None) -> None:
        """Let a phone in, or turn it away."""
        grant = self._vehicle.keys.acting(credential, transaction.flow)
        code = _admission(grant)
        flow = transaction.flow.value
        if code is not None or grant is None:
            self._refused(code or RefusalCode.KEY_UNKNOWN, grant, flow=flow)
            status = status_of(code or RefusalCode.KEY_UNKNOWN)
            self._take(self._session.refuse(status, self._vehicle.clock()))
            return
        self._vehicle.commit_use(
            Position.BLE, grant, "CONNECTED", kpersistent=transaction.kpersistent
        )
        self.grant, self._fast = grant, transaction.flow is Flow.FAST
        self._known = self._desk.lock_state()
        if hasattr(self._link, "authenticated"):
            self._link.authenticated = True  # the radio evicts others first
        self._desk.report("authenticated", peer=self.name, credential=grant.name, flow=flow)
        self._take(self._session.accept(self._known, self._vehicle.clock(), credential=credential))

    def _requested(self, request: CommandRequested) -> None:
        wanted = RemoteAction[request.action.name]
        grant = None if self.grant is None else self._vehicle.grant(self.grant.credential_id)
        verdict = self._desk.decide(wanted, grant, fast=self._fast)
        if verdict.code is not None:
            self._refused(
                verdict.code,
                grant,
                action=wanted.value,
                text=verdict.text,
                remaining_s=verdict.remaining_s,
            )
        elif not self._carried_out(wanted, verdict.credential_id):
            return
        self._take(
            self._session.answer(
                request,
                self._vehicle.clock(),
                code=verdict.code,
                remaining_s=verdict.remaining_s,
            )
        )

    def _carried_out(self, action: RemoteAction, credential_id: str | None) -> bool:
        """Commit and act, unless the commit took so long that the phone waits no more."""
        keys = self._vehicle.keys
        keys.note(action.value, position=Position.BLE, credential_id=credential_id)
        if late := self._session.tick(self._vehicle.clock()):
            keys.note(
                "DROPPED",
                position=Position.BLE,
                credential_id=credential_id,
                text=f"{action.value} was not carried out: the store took too long",
            )
            self._take(late)
            return False
        self._desk.carry_out(action, credential_id)
        self._desk.report("command", credential=self.credential, action=action.value)
        return True

    def _refused(
        self, code: RefusalCode, grant: Grant | None, *, text: str = "", **fields: object
    ) -> None:
        credential_id = None if grant is None else grant.credential_id
        self._vehicle.keys.note(
            "REFUSED", position=Position.BLE, credential_id=credential_id, code=code, text=text
        )
        name = None if grant is None else grant.name
        self._desk.report("refused", credential=name, code=code.value, text=text, **fields)

    def _ranging(self, event: RangingReceived) -> None:
        """Range, or put off ranging that nobody here does."""
        content = event.content
        if self._uwb is not None and self._uwb.received(content):
            return
        if isinstance(content, Ranging) and content.kind in _LATER:
            later = Ranging(kind=_LATER[RangingKind(content.kind)])
            self._take(self._session.send(later, self._vehicle.clock()))


def _remembered(vehicle: Vehicle) -> RemoteHistory:
    """Return the history after a restart: the repeat timer goes on, from the event log."""
    kinds = {each.value for each in RemoteAction if each is not RemoteAction.HORN_OFF}
    for event in reversed(vehicle.store.events()):
        if event.position is Position.BLE and event.kind in kinds:
            age_s = max(0.0, vehicle.wall_clock() - event.t_s)  # a clock set back makes nothing old
            return RemoteHistory(executed_s=vehicle.clock() - age_s)
    return RemoteHistory()


def _admission(grant: Grant | None) -> RefusalCode | None:
    """Return why an authenticated key is not let in by Bluetooth; None when it is."""
    if grant is None:
        return RefusalCode.KEY_UNKNOWN
    if grant.role is Role.CARD:
        return RefusalCode.FEATURE_NOT_SUPPORTED
    if grant.state is CredentialState.SUSPENDED:
        return RefusalCode.KEY_SUSPENDED
    if grant.state is not CredentialState.ACTIVE:
        return RefusalCode.KEY_REVOKED
    return RefusalCode.KEY_EXPIRED if grant.expired else None


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
