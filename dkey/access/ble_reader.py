"""The reader's end of a BLE session: it runs the transaction, and its owner decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from dkey.access.ble_applet import over_ble
from dkey.access.ble_events import (
    Authenticated,
    BleEvent,
    CommandRequested,
    EndReason,
    Established,
    Exchanged,
    ThirdPartyReceived,
)
from dkey.access.ble_rules import (
    DIALECTS,
    READER_TRANSITIONS,
    RESPONSE_TIMEOUT_S,
    BleInput,
    BleState,
    Transitions,
)
from dkey.access.ble_session import BleSession, Topic
from dkey.access.enrolled import EnrolledCredential, Flow
from dkey.access.exchange import ExchangeRequest, ReaderStatus
from dkey.codec.ble import RkeAction
from dkey.codec.ble_contents import (
    VENDOR_OUI,
    ApCompleted,
    ApRequest,
    ApResponse,
    Content,
    InitiateAp,
    PassThrough,
    ReaderDescriptor,
    ReaderStatusChanged,
    RkeRequest,
    Verdict,
)
from dkey.errors import LocalFault, SequenceError, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from dkey.access.reader import AccessReader
    from dkey.access.session import Session

__all__ = ["ReaderBleSession"]

V1_0: Final = b"\x01\x00"


class ReaderBleSession(BleSession):
    """The reader's end: one connection, at most one transaction.

    Args:
        reader: Who the reader is and whom it knows; made with Interface.BLE.
        ranging: Whether the ranging secret is released to devices that want it.
        flow: Which transaction to run where ranging follows; without, it is a standard one.
        supported: The reader's versions as in its GATT value.
        selected: The version that the device wrote.
    """

    transitions: ClassVar[Transitions] = READER_TRANSITIONS

    def __init__(
        self,
        reader: AccessReader,
        *,
        ranging: bool = True,
        flow: Flow = Flow.AUTO,
        supported: bytes = V1_0,
        selected: bytes = V1_0,
    ) -> None:
        profile = reader.identity.profile
        super().__init__(
            DIALECTS[profile.name], is_reader=True, supported=supported, selected=selected
        )
        self._reader = reader
        self._offers_ranging = ranging
        self._flow = flow
        self._remote_only = False
        self._transaction: Session | None = None
        self._procedure: Generator[bytes, bytes, Any] | None = None
        self._then: Callable[[Any, float], Iterable[BleEvent]] = self._authenticated
        self._asked: CommandRequested | None = None
        self._reported: tuple[int, int] | None = None

    def start(self, now: float) -> None:
        """The connection is there; the device speaks first."""
        self._begin(BleState.AWAIT_INITIATE, now)

    # --- decisions of the owner -------------------------------------------------------------

    def accept(
        self,
        state: ReaderStatus,
        now: float,
        *,
        report: int = 1,
        credential: EnrolledCredential | None = None,
    ) -> tuple[BleEvent, ...]:
        """Let the authenticated device in; what must outlast this is durable before the call.

        Args:
            state: The reader's state, SECURE or another that tells no failure.
            now: The time.
            report: 1 to report every change to this device, 2 only those that it caused.
            credential: The credential, for a key that was enrolled since the transaction began.

        Raises:
            LocalFault: Nobody waits for a decision, or the device's key is not enrolled.
        """
        if late := self.tick(now):
            return late
        transaction = self._decide()
        if not state.success or (credential or transaction.credential) is None:
            raise LocalFault(
                "only an enrolled key is accepted, with a state that tells no failure",
                hint="call refuse with the reader status that fits",
            )

        def complete(_reads: object, now: float) -> Iterable[BleEvent]:
            return self._complete(transaction, ApCompleted(report=report, state=state & 0xFF), now)

        if self._remote_only or not self._offers_ranging:
            return self._owner(lambda: complete((), now))
        release = ExchangeRequest(release_ursk=True)
        return self._owner(lambda: self._run(transaction.exchange(release), complete, now))

    def refuse(self, status: ReaderStatus, now: float) -> tuple[BleEvent, ...]:
        """Turn the authenticated device away: EXCHANGE with ``status``, then an error."""
        if late := self.tick(now):
            return late
        transaction = self._decide()
        self.state = BleState.REFUSING
        return self._owner(lambda: self._run(transaction.fail(status), self._refused, now))

    def exchange(self, request: ExchangeRequest, now: float) -> tuple[BleEvent, ...]:
        """Send one EXCHANGE before the decision; Exchanged tells its result."""
        if late := self.tick(now):
            return late
        transaction = self._decide()
        return self._owner(lambda: self._run(transaction.exchange(request), self._exchanged, now))

    def answer(
        self,
        request: CommandRequested,
        now: float,
        *,
        code: str | None = None,
        remaining_s: float | None = None,
    ) -> tuple[BleEvent, ...]:
        """Tell the verdict on a command; the aliro profile has no message for it.

        Args:
            request: The event that asked.
            now: The time.
            code: Why not; None when accepted.
            remaining_s: Seconds until the same request may pass, where time is the reason.

        Raises:
            LocalFault: This request does not wait for an answer (any more): do not act on it.
        """
        if late := self.tick(now):
            return late
        self._require_established()
        if not self._dialect.verdicts:
            return ()
        if request is not self._asked or request.number is None:
            raise LocalFault("this request waits for no answer", hint="answer each request once")
        self._asked = None
        self._timers.pop(Topic.COMMAND, None)
        verdict = Verdict(
            number=request.number,
            action=request.action,
            code=code,
            remaining_ms=None if remaining_s is None else max(0, round(remaining_s * 1000)),
        )
        return self._owner(lambda: self._send(verdict.pass_through()))

    def report(self, source: int, state: ReaderStatus) -> tuple[BleEvent, ...]:
        """Tell the device of a change; the same report is not sent twice in a row."""
        self._require_established()
        change = source, state & 0xFF
        if change == self._reported:
            return ()
        self._reported = change
        content = ReaderStatusChanged(source=change[0], state=change[1])
        return self._owner(lambda: self._send(content))

    # --- messages ---------------------------------------------------------------------------

    def _may_send(self, content: Content) -> bool:
        return isinstance(content, PassThrough | ReaderDescriptor)

    def _handle(self, kind: BleInput, content: Content, now: float) -> Iterable[BleEvent]:
        match content:
            case InitiateAp():
                return self._initiated(content, now)
            case ApResponse():
                return self._resume(content.apdu, now)
            case RkeRequest():
                return self._requested(content, now)
            case PassThrough() if content.oui != VENDOR_OUI:
                return (ThirdPartyReceived(oui=content.oui, data=content.data),)
            case _:
                raise WireError(f"{kind.value} without its content", clause="Aliro 1.0 §11.7.3")

    def _initiated(self, first: InitiateAp, now: float) -> Iterable[BleEvent]:
        self.state = BleState.ACCESS
        self._remote_only = first.rke
        # A fast transaction needs the EXCHANGE that releases the ranging secret behind it.
        standard = first.rke or not self._offers_ranging
        procedure = self._reader.authenticate(Flow.STANDARD if standard else self._flow)
        aid = self._reader.identity.profile.access_aid
        return self._run(procedure, self._authenticated, now, aid, first.a5)

    def _run(
        self,
        procedure: Generator[bytes, bytes, Any],
        then: Callable[[Any, float], Iterable[BleEvent]],
        now: float,
        aid: bytes = b"",
        a5: bytes = b"",
    ) -> Iterable[BleEvent]:
        """Run a procedure of the reader inside AP RQ and AP RS; ``then`` gets its result."""
        if self.state is BleState.DECIDING:
            self.state = BleState.ACCESS
        self._procedure, self._then = over_ble(procedure, aid, a5), then
        return self._resume(None, now)

    def _resume(self, response: bytes | None, now: float) -> Iterable[BleEvent]:
        if self._procedure is None:
            raise SequenceError("a response to no command", clause="Aliro 1.0 §11.1")
        try:
            proceed = self._procedure
            request = next(proceed) if response is None else proceed.send(response)
        except StopIteration as end:
            self._procedure = None
            self._timers.pop(Topic.ACCESS, None)
            return self._then(end.value, now)
        self._timers[Topic.ACCESS] = now + RESPONSE_TIMEOUT_S
        self._send(ApRequest(apdu=request))
        return ()

    def _authenticated(self, transaction: Session, now: float) -> Iterable[BleEvent]:
        self._transaction = transaction
        self._wait_for_owner(now)
        return (Authenticated(transaction=transaction, remote_only=self._remote_only),)

    def _exchanged(self, reads: tuple[bytes, ...], now: float) -> Iterable[BleEvent]:
        self._wait_for_owner(now)
        return (Exchanged(reads=reads),)

    def _wait_for_owner(self, now: float) -> None:
        self.state = BleState.DECIDING
        self._timers[Topic.ACCESS] = now + RESPONSE_TIMEOUT_S

    def _refused(self, _result: object, _now: float) -> Iterable[BleEvent]:
        self._say_error()
        return self._end(EndReason.REFUSED)

    def _complete(
        self, transaction: Session, message: ApCompleted, _now: float
    ) -> Iterable[BleEvent]:
        self._unlock_channel(transaction.keys)
        self._establish()
        self._send(message)
        released = self._offers_ranging and not self._remote_only
        ursk = transaction.keys.ursk if released else None
        self._transaction = None
        session_id = int.from_bytes(transaction.transaction_id[-4:], "big")
        return (
            Established(transaction=None, state=message.state, ursk=ursk, session_id=session_id),
        )

    def _requested(self, request: RkeRequest, now: float) -> Iterable[BleEvent]:
        if not self._remote_only and not self._dialect.remote_after_ranging:
            raise SequenceError("a command after ranging began", clause="Aliro 1.0 §11.1.2")
        if request.action not in self._dialect.actions:
            raise WireError(f"action {request.action:02X} is not defined", clause="specs/ble.md §5")
        number = request.number if self._dialect.verdicts else None
        asked = CommandRequested(action=RkeAction(request.action), number=number)
        if self._dialect.verdicts:
            if number is None or self._asked is not None:
                raise SequenceError("one numbered request at a time", clause="specs/ble.md §5")
            self._asked = asked
            self._timers[Topic.COMMAND] = now + RESPONSE_TIMEOUT_S
        return (asked,)

    def _decide(self) -> Session:
        if self.state is not BleState.DECIDING or self._transaction is None:
            raise LocalFault(
                f"no device waits for a decision, the session is {self.state.value}",
                hint="decide when Authenticated or Exchanged is reported, within its time",
            )
        return self._transaction

    def _cleared(self) -> None:
        if self._procedure is not None:
            self._procedure.close()
        self._procedure = self._transaction = self._asked = None
