"""BLE sessions: messages in and out, times, encryption, one way to fail, for both roles.

Flow (Aliro 1.0 §11.1, specs/ble.md §4): the device sends Initiate AP with its A5 object; the
reader runs the access transaction in AP RQ and AP RS; its AP Completed is the first encrypted
message. A standard transaction takes Initiate AP, AUTH0, AUTH1, AP Completed: nothing is sent that
the protocol does not need. States are the tables of :mod:`dkey.access.ble_rules`; the roles are
:mod:`dkey.access.ble_reader` and :mod:`dkey.access.ble_device`.

Sans-IO: whoever owns a session feeds it what the link brings, sends what :meth:`BleSession.outbox`
returns, and calls :meth:`BleSession.tick` when :attr:`BleSession.deadline` has come.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from dkey.access.applet import quiet
from dkey.access.ble_events import (
    BleEvent,
    Ended,
    EndReason,
    RangingReceived,
    RangingUnavailable,
)
from dkey.access.ble_rules import (
    HANDSHAKE_S,
    RESPONSE_TIMEOUT_S,
    BleInput,
    BleState,
    Dialect,
    RangingMove,
    RangingTurn,
    Transitions,
)
from dkey.access.schedule import ble_keys
from dkey.codec.ble import ErrorReason, Message, MessageType, UwbId, split_sdu
from dkey.codec.ble_contents import (
    Busy,
    Content,
    GeneralError,
    Opaque,
    PassThrough,
    Ranging,
    decode,
)
from dkey.crypto.channel import TAG_SIZE, SecureChannel
from dkey.errors import AuthenticationError, DkeyError, LocalFault, SequenceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.access.schedule import SessionKeys

__all__ = ["BleSession", "Topic"]

log = logging.getLogger(__name__)


class Topic(Enum):
    """What a running time waits for."""

    HANDSHAKE = "AP Completed"
    ACCESS = "the next message of the access protocol"
    RANGING = "a reply in ranging setup"
    COMMAND = "the verdict on a command"


class BleSession:
    """One end of a BLE connection; the roles are ReaderBleSession and DeviceBleSession.

    Args:
        dialect: What the profile makes different.
        is_reader: Which end this is.
        supported: The reader's versions as in its GATT value.
        selected: The version that the device wrote, 2 bytes.

    Attributes:
        state: Where the session stands.
        error: What ended it, or None; for this side's log only.
    """

    transitions: ClassVar[Transitions]

    def __init__(
        self, dialect: Dialect, *, is_reader: bool, supported: bytes, selected: bytes
    ) -> None:
        self.state = BleState.NEW
        self.error: DkeyError | None = None
        self._dialect = dialect
        self._is_reader = is_reader
        self._versions = supported, selected
        self._channel: SecureChannel | None = None
        self._timers: dict[Topic, float] = {}
        self._turn = RangingTurn(is_reader=is_reader)
        self._out: list[bytes] = []

    # --- the session interface --------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the session is over; what is in the outbox may still be sent."""
        return self.state is BleState.DONE

    @property
    def deadline(self) -> float | None:
        """When :meth:`tick` must be called at the latest; None when nothing is waited for."""
        return min(self._timers.values(), default=None)

    @property
    def counters(self) -> tuple[int, int] | None:
        """The next message counters (sending, receiving); None before encryption."""
        return None if self._channel is None else self._channel.counters

    def outbox(self) -> list[bytes]:
        """Return the SDUs to send, in order, and forget them."""
        out, self._out = self._out, []
        return out

    def receive(self, data: bytes, now: float) -> tuple[BleEvent, ...]:
        """Take one SDU; return what it meant. Never raises on what the peer sends."""
        events: list[BleEvent] = [*self.tick(now)]
        try:
            for message in () if self.done else split_sdu(data):
                if self.state is not BleState.DONE:
                    events += self._take(message, now)
        except DkeyError as exc:
            events += self._fail(exc)
        return tuple(events)

    def tick(self, now: float) -> tuple[BleEvent, ...]:
        """Let time pass: an expired one ends the session (Aliro 1.0 §11.9)."""
        late = [topic for topic, at in self._timers.items() if now >= at]
        if not late or self.done:
            return ()
        text = f"{late[0].value} did not come in time"
        return self._end(EndReason.TIMEOUT, SequenceError(text, clause="Aliro 1.0 §11.9"))

    def close(self) -> tuple[BleEvent, ...]:
        """End the session on this side, also when the link is lost; nothing is sent."""
        return () if self.done else self._end(EndReason.CLOSED)

    def busy(self, now: float) -> tuple[BleEvent, ...]:
        """Tell the peer that a reply takes longer; the times of both sides start anew."""
        self._require_established()
        return self._owner(lambda: self._delay(now))

    def send(self, content: Content, now: float) -> tuple[BleEvent, ...]:
        """Send a message of ranging setup, a Ranging notification, Time Sync or pass-through.

        Raises:
            LocalFault: The session is not established, or this content may not be sent now.
        """
        if late := self.tick(now):
            return late
        self._require_established()
        move = _move(content)
        if move is not None:
            before = self._turn.own, self._turn.theirs
            self._turn.sent(move)
            self._time_ranging(before, now)
        elif not self._may_send(content):
            raise LocalFault("this content has a method of its own", clause="specs/ble.md §4")
        return self._owner(lambda: self._send(content))

    def unavailable(self, now: float) -> tuple[BleEvent, ...]:
        """Tell the peer that there is no ranging secret (any more); the session goes on.

        A new ranging secret needs a new connection (Aliro 1.0 §11.1.1.4).
        """
        if late := self.tick(now):
            return late
        self._require_established()
        self._turn = RangingTurn(is_reader=self._is_reader)
        self._timers.pop(Topic.RANGING, None)
        return self._owner(lambda: self._send(GeneralError(reason=ErrorReason.URSK_UNAVAILABLE)))

    def reject(self, error: DkeyError) -> tuple[BleEvent, ...]:
        """End the session for what the peer said in a message that only its owner understands."""
        return () if self.done else self._fail(error)

    # --- for the two roles ------------------------------------------------------------------

    def _begin(self, state: BleState, now: float) -> None:
        if self.state is not BleState.NEW:
            raise LocalFault("a session starts once", hint="make a new session")
        self.state = state
        self._timers[Topic.HANDSHAKE] = now + HANDSHAKE_S

    def _handle(self, kind: BleInput, content: Content, now: float) -> Iterable[BleEvent]:
        """Act on one message that the state allows."""
        raise NotImplementedError

    def _cleared(self) -> None:
        """The session is over: forget what the role holds."""

    def _may_send(self, content: Content) -> bool:
        """Whether the owner may send this content, which is not of ranging."""
        return isinstance(content, PassThrough | Opaque)

    def _unlock_channel(self, keys: SessionKeys) -> None:
        """Derive the BLE keys; from here on everything is encrypted (Aliro 1.0 §11.8)."""
        reader, device = ble_keys(keys.ble, *self._versions)
        self._channel = SecureChannel(reader, device, is_reader=self._is_reader)

    def _establish(self) -> None:
        self.state = BleState.ESTABLISHED
        self._timers.clear()

    def _require_established(self) -> None:
        if self.state is not BleState.ESTABLISHED:
            raise LocalFault(
                f"the session is {self.state.value}",
                clause="specs/ble.md §4",
                hint="wait for Established, or connect again",
            )

    def _owner(self, act: Callable[[], Iterable[BleEvent] | None]) -> tuple[BleEvent, ...]:
        """Run what the owner asked for; a channel that is used up ends the session."""
        try:
            return tuple(act() or ())
        except DkeyError as exc:
            return self._fail(exc)

    # --- messages ---------------------------------------------------------------------------

    def _send(self, content: Content) -> None:
        message = content.to_message()
        if self._channel is not None:
            aad = message.header(len(message.payload))
            sealed = self._channel.seal(message.payload, aad)
            message = Message(message.type, message.id, sealed)
        self._out.append(message.to_bytes())

    def _take(self, message: Message, now: float) -> Iterable[BleEvent]:
        kind = BleInput.of(message)
        if (self.state, kind) not in self.transitions:
            raise SequenceError(
                f"{message.name} came while {self.state.value}", clause="specs/ble.md §4"
            )
        if self._channel is not None:
            message = self._open(self._channel, message)
        content = decode(message)
        if kind is BleInput.EVENT:
            return self._event(content, now)
        if kind in (BleInput.UWB, BleInput.RANGING, BleInput.TIME_SYNC):
            return self._ranging(content, now)
        return self._handle(kind, content, now)

    def _open(self, channel: SecureChannel, message: Message) -> Message:
        """Decrypt one message; the header with the plain length is authenticated."""
        size = len(message.payload) - TAG_SIZE
        if size < 1:
            raise AuthenticationError("an encrypted message is too short", clause="Aliro 1.0 §11.8")
        plain = channel.open(message.payload, message.header(size))
        return Message(message.type, message.id, plain, message.reserved)

    def _event(self, content: Content, now: float) -> Iterable[BleEvent]:
        if isinstance(content, GeneralError):
            unavailable = content.reason == ErrorReason.URSK_UNAVAILABLE
            if unavailable and self._channel is not None and self._turn.own is None:
                return (RangingUnavailable(),)
            error = SequenceError(f"the peer reports error {content.reason}")
            return self._end(EndReason.PEER, error)
        if self._channel is None:
            raise SequenceError("only an error may come in clear", clause="Aliro 1.0 §11.1.3")
        if isinstance(content, Busy):
            self._restart(now)
            return ()
        if isinstance(content, Opaque):
            return ()
        return self._handle(BleInput.EVENT, content, now)

    def _ranging(self, content: Content, now: float) -> Iterable[BleEvent]:
        move = _move(content)
        if move is not None:
            before = self._turn.own, self._turn.theirs
            if not self._turn.received(move):
                return ()
            self._time_ranging(before, now)
        return (RangingReceived(content=content),)

    def _time_ranging(self, before: tuple[object, object], now: float) -> None:
        """Start, keep or stop the time of ranging; what changes no turn touches no time."""
        if (self._turn.own, self._turn.theirs) == before:
            return
        if self._turn.waiting:
            self._timers[Topic.RANGING] = now + RESPONSE_TIMEOUT_S
        else:
            self._timers.pop(Topic.RANGING, None)

    def _delay(self, now: float) -> None:
        self._send(Busy())
        self._restart(now)

    def _restart(self, now: float) -> None:
        for topic in self._timers:
            self._timers[topic] = now + RESPONSE_TIMEOUT_S

    # --- the end ----------------------------------------------------------------------------

    def _fail(self, exc: DkeyError) -> tuple[BleEvent, ...]:
        """One General Error, then nothing more (Aliro 1.0 §8.3.3.1, §11.8.2)."""
        log.debug("BLE session failed: %s", quiet(exc))
        local = isinstance(exc, LocalFault)
        self._say_error()
        return self._end(EndReason.FAILED if local else EndReason.VIOLATION, exc)

    def _say_error(self) -> None:
        try:
            self._send(GeneralError())
        except AuthenticationError:
            log.debug("the channel is used up, nothing can be said")

    def _end(self, reason: EndReason, error: DkeyError | None = None) -> tuple[BleEvent, ...]:
        self.state = BleState.DONE
        self.error = error
        self._timers.clear()
        if self._channel is not None:
            self._channel.destroy()
        self._cleared()
        return (Ended(reason=reason, error=error),)


def _move(content: Content) -> RangingMove | None:
    """Return what a content means for the turns of ranging; None when nothing."""
    if isinstance(content, Ranging):
        return (content.kind,)
    if isinstance(content, Opaque) and content.message.type is MessageType.UWB:
        return UwbId(content.message.id)
    return None
