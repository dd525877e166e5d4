"""The device's end of a BLE session: it speaks first, answers, then asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from dkey.access.applet import AppletHost
from dkey.access.ble_events import (
    BleEvent,
    Established,
    ReaderDescribed,
    StatusReported,
    ThirdPartyReceived,
    VerdictReceived,
)
from dkey.access.ble_rules import (
    DEVICE_TRANSITIONS,
    DIALECTS,
    RESPONSE_TIMEOUT_S,
    BleInput,
    BleState,
    Transitions,
)
from dkey.access.ble_session import BleSession, Topic
from dkey.access.exchange import ReaderStatus
from dkey.access.messages import Ins
from dkey.access.select import SelectResponse, select_command
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
    from collections.abc import Iterable

    from dkey.access.ble_applet import BleApplet
    from dkey.codec.ble import Message

__all__ = ["DeviceBleSession"]

V1_0: Final = b"\x01\x00"


_ACCESS_COMMANDS: Final = frozenset(
    {Ins.AUTH0, Ins.LOAD_CERT, Ins.AUTH1, Ins.EXCHANGE, Ins.ENVELOPE, Ins.GET_RESPONSE}
)


class DeviceBleSession(BleSession):
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
        if self._remote_only and transaction.fast:
            # Which of the two Initiate APs was sent stands in the clear: it may have been changed.
            raise SequenceError("a fast transaction without ranging", clause="specs/ble.md §4")
        self._establish()
        if ursk is None and not self._remote_only:
            self._send(GeneralError(reason=ErrorReason.URSK_UNAVAILABLE))
        session_id = int.from_bytes(transaction.transaction_id[-4:], "big")
        return (
            Established(
                transaction=transaction, state=message.state, ursk=ursk, session_id=session_id
            ),
        )

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
