"""BLE sessions of both roles: access in clear, then commands and ranging under BLE keys.

Flow (Aliro 1.0 §11.1, specs/ble.md §4): the device sends Initiate AP with its A5 object; the
reader runs the access transaction in AP RQ and AP RS; its AP Completed is the first encrypted
message. A standard transaction takes Initiate AP, AUTH0, AUTH1, AP Completed: nothing is sent that
the protocol does not need. States are the tables of :mod:`dkey.access.ble_rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from dkey.access.applet import AppletHost
from dkey.access.ble_applet import BleApplet, over_ble
from dkey.access.ble_endpoint import Endpoint, Topic
from dkey.access.ble_events import (
    Authenticated,
    BleEvent,
    CommandRequested,
    EndReason,
    Established,
    Exchanged,
    ReaderDescribed,
    StatusReported,
    ThirdPartyReceived,
    VerdictReceived,
)
from dkey.access.ble_rules import (
    DEVICE_TRANSITIONS,
    DIALECTS,
    READER_TRANSITIONS,
    RESPONSE_TIMEOUT_S,
    BleInput,
    BleState,
    Transitions,
)
from dkey.access.exchange import ExchangeRequest, ReaderStatus
from dkey.access.messages import Ins, SelectResponse, select_command
from dkey.access.reader import AccessReader, EnrolledCredential, Flow
from dkey.codec.apdu import Response
from dkey.codec.ble import ErrorReason, RkeAction
from dkey.codec.ble_contents import (
    VENDOR_OUI,
    ApCompleted,
    ApRequest,
    ApResponse,
    Content,
    GeneralError,
    InitiateAp,
    Opaque,
    PassThrough,
    ReaderDescriptor,
    ReaderStatusChanged,
    RkeRequest,
    Verdict,
)
from dkey.errors import LocalFault, SequenceError, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from dkey.access.reader import Session
    from dkey.codec.ble import Message

__all__ = ["DeviceBleSession", "ReaderBleSession"]

V1_0: Final = b"\x01\x00"


class ReaderBleSession(Endpoint):
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
        return (Established(transaction=None, state=message.state, ursk=ursk),)

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


_ACCESS_COMMANDS: Final = frozenset(
    {Ins.AUTH0, Ins.LOAD_CERT, Ins.AUTH1, Ins.EXCHANGE, Ins.ENVELOPE, Ins.GET_RESPONSE}
)


class DeviceBleSession(Endpoint):
    """The device's end: one connection, one transaction, then requests.

    Args:
        applet: The applet of the credential, for this connection alone.
        remote_only: Whether no ranging is wanted.
        supported: The reader's versions as read from its GATT value.
        selected: The version that this device wrote.
    """

    transitions: ClassVar[Transitions] = DEVICE_TRANSITIONS

    def __init__(
        self,
        applet: BleApplet,
        *,
        remote_only: bool = False,
        supported: bytes = V1_0,
        selected: bytes = V1_0,
    ) -> None:
        profile = applet.credential.profile
        super().__init__(
            DIALECTS[profile.name], is_reader=False, supported=supported, selected=selected
        )
        self._applet = applet
        self._host = AppletHost([applet])
        self._remote_only = remote_only
        self._number = 0
        self._wanted: RkeAction | None = None

    def start(self, now: float) -> None:
        """Send Initiate AP: what the answer to SELECT says on NFC."""
        self._begin(BleState.ACCESS, now)
        select = select_command(self._applet.aid)
        answer = Response.parse(self._host.answer(select.to_bytes()))
        a5 = SelectResponse.parse(answer.data).a5
        self._send(InitiateAp(a5=a5, rke=self._remote_only))
        self._timers[Topic.ACCESS] = now + RESPONSE_TIMEOUT_S

    def request(self, action: RkeAction, now: float) -> tuple[BleEvent, ...]:
        """Ask for an action. In the vehicle profile a Verdict follows, one request at a time.

        Raises:
            LocalFault: Not established, not an action of the profile, or a request is open.
        """
        if late := self.tick(now):
            return late
        self._require_established()
        after_ranging = not self._remote_only and not self._dialect.remote_after_ranging
        if action not in self._dialect.actions or after_ranging or self._wanted is not None:
            raise LocalFault(
                f"{action.name} may not be requested now",
                clause="specs/ble.md §5",
                hint="wait for the verdict before it, or connect for remote control",
            )
        if not self._dialect.verdicts:
            return self._owner(lambda: self._send(RkeRequest(action=action)))
        self._number = (self._number + 1) & 0xFF
        self._wanted = action
        self._timers[Topic.COMMAND] = now + RESPONSE_TIMEOUT_S
        content = RkeRequest(action=action, number=self._number)
        return self._owner(lambda: self._send(content))

    def _take(self, message: Message, now: float) -> Iterable[BleEvent]:
        if self.state is BleState.ACCESS and BleInput.of(message) is BleInput.AP_COMPLETED:
            keys = self._applet.session_keys
            if keys is None:
                raise SequenceError("AP Completed before the keys", clause="Aliro 1.0 §11.1.1")
            self._unlock_channel(keys)
        return super()._take(message, now)

    def _handle(  # noqa: PLR0911 - one for each content
        self, kind: BleInput, content: Content, now: float
    ) -> Iterable[BleEvent]:
        match content:
            case ApRequest():
                return self._commanded(content.apdu, now)
            case ApCompleted():
                return self._completed(content)
            case ReaderStatusChanged():
                return (StatusReported(source=content.source, state=content.state),)
            case ReaderDescriptor():
                return (ReaderDescribed(descriptor=content.descriptor),)
            case PassThrough() if content.oui == VENDOR_OUI and self._dialect.verdicts:
                return self._judged(Verdict.parse(content.data))
            case PassThrough():
                return (ThirdPartyReceived(oui=content.oui, data=content.data),)
            case Opaque() if self.state is BleState.ESTABLISHED:
                return ()
            case _:
                raise WireError(f"{kind.value} without its content", clause="Aliro 1.0 §11.7.3")

    def _commanded(self, apdu: bytes, now: float) -> Iterable[BleEvent]:
        if len(apdu) < 2 or apdu[1] not in _ACCESS_COMMANDS:
            raise SequenceError("not a command of BLE", clause="Aliro 1.0 §11.1")
        self._send(ApResponse(apdu=self._host.answer(apdu)))
        self._timers[Topic.ACCESS] = now + RESPONSE_TIMEOUT_S
        return ()

    def _completed(self, message: ApCompleted) -> Iterable[BleEvent]:
        transaction, ursk = self._applet.complete(ReaderStatus.SECURE | message.state)
        self._establish()
        if ursk is None and not self._remote_only:
            self._send(GeneralError(reason=ErrorReason.URSK_UNAVAILABLE))
        return (Established(transaction=transaction, state=message.state, ursk=ursk),)

    def _judged(self, verdict: Verdict) -> Iterable[BleEvent]:
        wanted = self._wanted
        if wanted is None or (verdict.number, verdict.action) != (self._number, wanted):
            raise SequenceError("a verdict on no request", clause="specs/ble.md §5")
        self._wanted = None
        self._timers.pop(Topic.COMMAND, None)
        remaining_s = None if verdict.remaining_ms is None else verdict.remaining_ms / 1000
        return (VerdictReceived(action=wanted, code=verdict.code, remaining_s=remaining_s),)

    def _cleared(self) -> None:
        self._host.field_off()
        self._wanted = None
