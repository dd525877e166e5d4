"""One BLE session in the reader role, over any message link, with a report of every step.

The device speaks first (Initiate AP), the transaction runs in AP RQ and AP RS, AP Completed begins
the encrypted part; then the reader tells its state once and takes remote requests until the device
is silent or leaves (Aliro 1.0 §11.1). Every request is granted: this is a bench, not a vehicle.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dkey.access.ble_events import (
    Authenticated,
    BleEvent,
    CommandRequested,
    Ended,
    EndReason,
    Established,
    Exchanged,
)
from dkey.access.ble_reader import ReaderBleSession
from dkey.access.ble_rules import BleInput
from dkey.access.enrolled import Flow
from dkey.access.exchange import ReaderStatus
from dkey.access.profile import Interface
from dkey.access.reader import AccessReader
from dkey.bench_reader.steps import Step, StepLog
from dkey.bench_reader.tap import TapReport, verdict_of
from dkey.codec.ble import ApId, Message, MessageType, RkeAction, StatusSource, split_sdu
from dkey.errors import DkeyError, LinkError, LinkReason, PolicyRefusal, RefusalCode, WireError
from dkey.link.session_driver import SessionDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.access.exchange import ExchangeRequest
    from dkey.bench_reader.reader_file import ReaderFile
    from dkey.crypto.entropy import Entropy
    from dkey.link.base import Cap, Link

__all__ = ["MessageReport", "message_tap"]

_STATES: Final = {RkeAction.LOCK: ReaderStatus.SECURE, RkeAction.UNLOCK: ReaderStatus.UNSECURE}


@dataclass(slots=True)
class MessageReport(TapReport):
    """What one session came to; ``steps`` are named by message, access commands by instruction.

    Attributes:
        state: The state that the device was told last, in words; None when not established.
        commands: Names of the remote requests, in order.
    """

    state: str | None = None
    commands: list[str] = field(default_factory=list)

    def to_json(self, *, show_secrets: bool = False) -> dict[str, object]:
        """Return the object of schema ``dkey.tap/1`` (specs/formats.md §4)."""
        document = TapReport.to_json(self, show_secrets=show_secrets)
        return document | {"state": self.state, "commands": self.commands}


async def message_tap(
    link: Link,
    reader_file: ReaderFile,
    *,
    flow: Flow,
    entropy: Entropy,
    clock: Callable[[], float],
    status: ReaderStatus = ReaderStatus.UNSECURE,
    mailbox: ExchangeRequest | None = None,
    read_only: bool = False,
    linger_s: float = 1.0,
) -> MessageReport:
    """Run one session over ``link`` and report it; failures are in the report.

    Args:
        link: A connected message link; the caller closes it.
        reader_file: Who the reader is and whom it knows; updated after a standard transaction.
        flow: Which transaction to ask a device for that wants ranging; another runs a standard one.
        entropy: Source of ephemeral keys and identifiers.
        clock: Monotonic seconds, for the steps and the session.
        status: The state that AP Completed and the first reader status tell.
        mailbox: An EXCHANGE to send before AP Completed, or None.
        read_only: Leave the reader file as it is.
        linger_s: End this long after the last message of an established session, seconds.
    """
    tap = _MessageTap(
        link,
        reader_file,
        flow=flow,
        entropy=entropy,
        clock=clock,
        status=status,
        mailbox=mailbox,
        read_only=read_only,
    )
    await tap.run(linger_s)
    return tap.report


class _MessageTap:
    """One session: decides as its reader's owner and notes what happens."""

    def __init__(
        self,
        link: Link,
        reader_file: ReaderFile,
        *,
        flow: Flow,
        entropy: Entropy,
        clock: Callable[[], float],
        status: ReaderStatus,
        mailbox: ExchangeRequest | None,
        read_only: bool,
    ) -> None:
        self._file = reader_file
        self._clock = clock
        self._status = status
        self._mailbox = mailbox
        self._read_only = read_only
        steps = StepLog(clock)
        self.report = MessageReport(steps=steps.steps)
        reader = AccessReader(
            reader_file.identity, reader_file.directory, entropy, interface=Interface.BLE
        )
        # A fast transaction needs the EXCHANGE that releases the ranging secret behind it.
        self._session = ReaderBleSession(reader, ranging=flow is not Flow.STANDARD, flow=flow)
        self._driver: SessionDriver[BleEvent] = SessionDriver(
            self._session, _Noted(link, steps, clock), clock=clock, take=self._take
        )
        self._heard = asyncio.Event()
        self._established = False

    async def run(self, linger_s: float) -> None:
        self._session.start(self._clock())
        lingering = asyncio.create_task(self._linger(linger_s))
        try:
            fault = await self._driver.run()
        except DkeyError as exc:
            self._fail(exc)
            return
        finally:
            lingering.cancel()
            await asyncio.gather(lingering, return_exceptions=True)
        if not self._established and self.report.failure is None:
            self._fail(fault or LinkError(LinkReason.LOST, "the device left"))
        elif self.report.failure is None:
            self.report.result = "ok"

    async def _linger(self, linger_s: float) -> None:
        """Close an established session once the device has been silent for a while."""
        await self._heard.wait()
        while True:
            self._heard.clear()
            try:
                async with asyncio.timeout(linger_s):
                    await self._heard.wait()
            except TimeoutError:
                self._take(self._session.close())
                self._driver.wake()
                return

    # --- events -------------------------------------------------------------------------------

    def _take(self, events: Iterable[BleEvent]) -> None:
        for event in events:
            match event:
                case Authenticated():
                    self._authenticated(event)
                case Exchanged():
                    self.report.reads = event.reads
                    self._accept()
                case Established():
                    self._established = True
                    self._tell(StatusSource.UNSPECIFIED, self._status)
                    self._heard.set()
                case CommandRequested():
                    self._requested(event)
                    self._heard.set()
                case Ended():
                    self._ended(event)
                case _:
                    self._heard.set()

    def _authenticated(self, event: Authenticated) -> None:
        session, report = event.transaction, self.report
        report.flow, report.keys = session.flow.value, session.keys
        report.kpersistent = session.kpersistent
        credential = session.credential
        if credential is None:
            key = session.public_key
            report.credential = None if key is None else key.point.hex()
            self._fail(
                PolicyRefusal(
                    RefusalCode.KEY_UNKNOWN,
                    "the device proved a key that is not in the reader file",
                    hint='add it under "credentials" to let it in',
                )
            )
            self._take(self._session.refuse(ReaderStatus.KEY_NOT_FOUND, self._clock()))
            return
        report.credential = credential.name
        if report.kpersistent is None:
            report.kpersistent = credential.kpersistent
        if session.kpersistent is not None and not self._read_only:
            self._file.save_kpersistent(credential.public_key, session.kpersistent)
        if self._mailbox is not None:
            self._take(self._session.exchange(self._mailbox, self._clock()))
        else:
            self._accept()

    def _accept(self) -> None:
        self._take(self._session.accept(self._status, self._clock()))

    def _requested(self, request: CommandRequested) -> None:
        self.report.commands.append(request.action.name)
        self._take(self._session.answer(request, self._clock()))
        self._tell(StatusSource.THIS_DEVICE_BLE, _STATES.get(request.action, self._status))

    def _tell(self, source: StatusSource, state: ReaderStatus) -> None:
        if self._session.done:
            return
        self._status = state
        self.report.state = state.name.lower()
        self._take(self._session.report(source, state))

    def _ended(self, event: Ended) -> None:
        if event.reason in (EndReason.REFUSED, EndReason.CLOSED) or event.error is None:
            return  # a refusal is noted; a lost link is what the driver returns
        self._fail(event.error)

    def _fail(self, exc: DkeyError) -> None:
        if self.report.failure is None:
            self.report.failure = exc
            self.report.result, self.report.code = verdict_of(exc)


class _Noted:
    """A message link that notes every message as a step."""

    def __init__(self, link: Link, steps: StepLog, clock: Callable[[], float]) -> None:
        self.mtu: int = link.mtu
        self.caps: frozenset[Cap] = link.caps
        self._link = link
        self._steps = steps
        self._clock = clock
        self._last_s = clock()
        self._asked = False

    async def send(self, data: bytes) -> None:
        for message in split_sdu(data):
            if (message.type, message.id) == (MessageType.AP, ApId.RQ):
                self._steps.sent(message.payload)
                self._asked = True
            else:
                self._note(message)
        await self._link.send(data)

    async def recv(self) -> bytes:
        data = await self._link.recv()
        try:
            messages = split_sdu(data)
        except WireError:
            return data  # the session says what is wrong with it
        for message in messages:
            if self._asked and (message.type, message.id) == (MessageType.AP, ApId.RS):
                self._asked = False
                self._steps.received(message.payload)
                self._last_s = self._clock()
            else:
                self._note(message)
        return data

    async def present(self) -> bool:
        return await self._link.present()

    async def aclose(self) -> None:
        await self._link.aclose()

    def _note(self, message: Message) -> None:
        now_s = self._clock()
        elapsed_ms = (now_s - self._last_s) * 1000
        self._last_s = now_s
        name = BleInput.of(message).value
        self._steps.steps.append(Step(name=name, sw=None, ms=elapsed_ms))
