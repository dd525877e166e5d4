"""One phone at the vehicle's Bluetooth: its link, its session, and who it proved to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
from dkey.access.delivery import announced, deliver
from dkey.access.enrolled import Flow
from dkey.access.exchange import ReaderStatus
from dkey.codec.ble import RangingKind, StatusSource
from dkey.codec.ble_contents import Ranging
from dkey.control.remote import RemoteAction
from dkey.control.touch import Position
from dkey.errors import RefusalCode, RemoteFault
from dkey.lifecycle.roles import CredentialState, Role
from dkey.link.session_driver import SessionDriver
from firmware_mock.outcome import status_of
from firmware_mock.uwb_peer import UwbPeer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from dkey.access.enrolled import EnrolledCredential
    from dkey.access.exchange import ExchangeRequest
    from dkey.access.session import Session
    from dkey.control.rules import Grant
    from dkey.link.base import Link
    from firmware_mock.ble_desk import BleDesk

__all__ = ["BlePhone"]

V1_0: Final = b"\x01\x00"
_LATER: Final = {
    RangingKind.INITIATE: RangingKind.SETUP_LATER,
    RangingKind.INITIATE_RESUME: RangingKind.RESUME_LATER,
}


class BlePhone:
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
        """Serve the phone until it is gone, from its first message on."""
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
            self._happened(event)
            if self._uwb is not None:
                self._uwb.note(event, self.grant, standard=not self._fast)

    def _happened(self, event: BleEvent) -> None:
        match event:
            case Authenticated():
                self._authenticated(event)
            case Exchanged():
                self._deliver(event.reads)
            case Established():
                self._established = True
            case Ended():
                self._established = False
                self.ended = event.reason.value
            case CommandRequested():
                self._requested(event)
            case RangingReceived():
                self._ranging(event)
            case _:
                pass

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
