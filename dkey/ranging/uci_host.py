"""The host side of UCI: brings a UWB subsystem up, keeps it in step, believes no impossible state.

Sans-IO: packets and time come in, packets, events and a deadline come out. One command is under
way at a time. A subsystem that does not answer has lost its place: it is reset, and given up when
that does not help (specs/ranging.md §7).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from dkey.codec import uci_session
from dkey.codec.uci import Packet, PacketType, Reassembler, segments
from dkey.codec.uci_core import DeviceInfoRsp, DeviceResetCmd, DeviceStatusNtf, StatusOnly
from dkey.codec.uci_messages import command, decode, encode
from dkey.codec.uci_ranging import CccControleeNtf, CccControllerNtf, SessionInfoNtf
from dkey.codec.uci_status import DeviceState, Status, describe
from dkey.errors import LocalFault, WireError
from dkey.ranging.uci_events import (
    Answered,
    CommandFailed,
    DeviceReady,
    Fault,
    FaultKind,
    Notified,
)
from dkey.ranging.uci_sessions import SessionTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.codec.uci_messages import Message
    from dkey.ranging.uci_events import UciEvent

__all__ = ["HostState", "UciHost"]

CLAUSE: Final = "specs/ranging.md §7"
ANSWER_S: Final = 1.0
"""A command is answered within this time (ours)."""
BOOT_S: Final = 3.0
"""A subsystem that was reset is ready within this time (ours)."""
TRIES: Final = 4
"""How often a command is sent that the subsystem asks for again (ours)."""
RETRY_S: Final = 0.01
"""Pause before the second try; it doubles with each one (ours)."""
RECOVERIES: Final = 3
"""Resets after a failure within RECOVERY_S, before it is given up (ours)."""
RECOVERY_S: Final = 60.0
QUEUE_MAX: Final = 64


class HostState(Enum):
    """What the host is doing."""

    DOWN = "not started"
    RESETTING = "waiting for the answer to the reset, then for READY"
    ASKING = "asking what the subsystem is"
    READY = "taking commands"
    GIVEN_UP = "the subsystem does not recover"


_BRINGING_UP: Final = frozenset({HostState.RESETTING, HostState.ASKING})
_BOOTING: Final = frozenset({DeviceState.BOOT, DeviceState.BOOT_LATE})
_STARTS: Final = frozenset({"RANGE_START", "RANGE_RESUME"})


@dataclass(slots=True)
class _Sent:
    """The command under way.

    Attributes:
        message: Which.
        tries: How often it was sent.
        until_s: When its answer is overdue, or when to send it again.
        again: Whether it waits to be sent again.
    """

    message: Message
    tries: int
    until_s: float
    again: bool = False


class UciHost:
    """One subsystem and all its sessions.

    Attributes:
        state: What the host is doing.
        uci_major: Version of the subsystem, known when it is READY.
    """

    def __init__(
        self,
        *,
        anchors: Mapping[bytes, int] | None = None,
        own_anchor: int = 0,
        initiator: bool = False,
        strict: bool = False,
    ) -> None:
        """Make a host that is down.

        Args:
            anchors: Index of the anchor with each address, as on the wire.
            own_anchor: Index of the anchor that the subsystem is itself in CCC and Aliro sessions.
            initiator: Whether the subsystem is a phone's, whose notifications have other fields.
            strict: Refuse messages with more fields than are known.
        """
        self.state = HostState.DOWN
        self.uci_major = 1
        self._strict = strict
        self._initiator = initiator
        self._sessions = SessionTable(anchors or {}, own_anchor)
        self._parts = Reassembler()
        self._queue: deque[Message] = deque()
        self._sent: _Sent | None = None
        self._boot_until_s: float | None = None
        self._reset_answered = False
        self._seen_ready = False
        self._recovered_s: list[float] = []
        self._out: list[bytes] = []

    # -- the owner's side

    def start(self, *, now_s: float) -> None:
        """Reset the subsystem and bring it up; whatever was under way is forgotten."""
        self._recovered_s.clear()
        self._sessions.clear()
        self._bring_up(now_s)

    def send(self, message: Message, *, now_s: float) -> None:
        """Queue a command (:func:`dkey.codec.uci_messages.command`).

        Raises:
            LocalFault: The subsystem is not READY, too much is queued, or a field does not fit.
        """
        if self.state is not HostState.READY:
            raise LocalFault(
                f"the UWB subsystem takes no commands: {self.state.value}",
                clause=CLAUSE,
                hint="wait for DeviceReady",
            )
        if len(self._queue) >= QUEUE_MAX:
            raise LocalFault("too many UCI commands wait", clause=CLAUSE)
        encode(message)  # a field that does not fit is the caller's, at once
        self._queue.append(message)
        self._next(now_s)

    def token(self, session_id: int) -> int | None:
        """Return how commands name a session, None if the subsystem does not have it."""
        return self._sessions.token(session_id)

    def outbox(self) -> list[bytes]:
        """Return the packets to send now; each comes once."""
        out, self._out = self._out, []
        return out

    @property
    def deadline(self) -> float | None:
        """When :meth:`tick` has something to do; None while nothing is waited for."""
        times = [self._boot_until_s] if self._boot_until_s is not None else []
        if self._sent is not None:
            times.append(self._sent.until_s)
        return min(times, default=None)

    def tick(self, *, now_s: float) -> list[UciEvent]:
        """Let time pass."""
        sent = self._sent
        if sent is not None and now_s >= sent.until_s:
            if not sent.again:
                return self._recover(FaultKind.NO_ANSWER, sent.message.name, now_s)
            self._transmit(sent.message, sent.tries + 1, now_s)
        elif self._boot_until_s is not None and now_s >= self._boot_until_s:
            return self._recover(FaultKind.NO_ANSWER, "no READY after the reset", now_s)
        return []

    def receive(self, packet: bytes, *, now_s: float) -> list[UciEvent]:
        """Take one packet from the subsystem; never raises."""
        if self.state in {HostState.DOWN, HostState.GIVEN_UP}:
            return []
        try:
            whole = self._parts.add(Packet.parse(packet, strict=self._strict))
            if whole is None:
                return []
            message = decode(
                whole,
                strict=self._strict,
                uci_major=self.uci_major,
                initiator=self._initiator,
            )
        except WireError as exc:
            return [Fault(kind=FaultKind.MALFORMED, text=str(exc))]
        if message.type is PacketType.RESPONSE:
            return self._answered(message, now_s)
        if message.type is PacketType.COMMAND:
            return [Fault(kind=FaultKind.MALFORMED, text="a subsystem sends no commands")]
        return self._notified(message, now_s)

    # -- bringing it up, and back

    def _bring_up(self, now_s: float) -> None:
        self._queue.clear()
        self._parts.reset()
        self._out.clear()
        self._seen_ready = self._reset_answered = False
        self.uci_major = 1
        self.state = HostState.RESETTING
        self._boot_until_s = now_s + BOOT_S
        self._transmit(command("DEVICE_RESET", DeviceResetCmd()), 1, now_s)

    def _recover(self, kind: FaultKind, text: str, now_s: float) -> list[UciEvent]:
        """Report a failure, fail what is under way, and reset unless that was tried enough."""
        events: list[UciEvent] = [Fault(kind=kind, text=text)]
        waiting = [*self._queue]
        if self._sent is not None and self.state is HostState.READY:
            waiting.insert(0, self._sent.message)
        events += [
            CommandFailed(command=each, status=None, text="the subsystem is reset")
            for each in waiting
        ]
        events += self._sessions.clear()
        self._recovered_s = [at for at in self._recovered_s if at > now_s - RECOVERY_S]
        if len(self._recovered_s) < RECOVERIES:
            self._recovered_s.append(now_s)
            self._bring_up(now_s)
            return events
        self._queue.clear()
        self._out.clear()
        self._sent = self._boot_until_s = None
        self.state = HostState.GIVEN_UP
        text = f"{RECOVERIES} resets within {RECOVERY_S:g} s did not help"
        return [*events, Fault(kind=FaultKind.GIVEN_UP, text=text)]

    def _came_up(self, now_s: float) -> None:
        """Go on when the reset is answered and READY was reported, in either order."""
        if self.state is HostState.RESETTING and self._reset_answered and self._seen_ready:
            self.state = HostState.ASKING
            self._boot_until_s = None
            self._transmit(command("GET_DEVICE_INFO"), 1, now_s)

    def _transmit(self, message: Message, tries: int, now_s: float) -> None:
        self._out += [part.to_bytes() for part in segments(encode(message))]
        self._sent = _Sent(message, tries, now_s + ANSWER_S)

    def _next(self, now_s: float) -> None:
        if self._sent is None and self._queue:
            message = self._queue.popleft()
            token = getattr(message.body, "token", None)
            if message.name in _STARTS and token is not None:
                self._sessions.asked(token, start=True)
            self._transmit(message, 1, now_s)

    # -- answers

    def _answered(self, answer: Message, now_s: float) -> list[UciEvent]:
        sent = self._sent
        if (
            sent is None
            or sent.again
            or (answer.group, answer.opcode) != (sent.message.group, sent.message.opcode)
        ):
            return [Fault(kind=FaultKind.UNEXPECTED_ANSWER, text=answer.name)]
        status = getattr(answer.body, "status", Status.OK)
        if status == Status.RETRY:
            return self._again(sent, answer, now_s)
        self._sent = None
        if self.state in _BRINGING_UP:
            return self._brought(answer, status, now_s)
        events: list[UciEvent] = []
        if status == Status.OK:
            events += self._noted(sent.message, answer)
            events.append(Answered(command=sent.message, answer=answer))
        else:
            self._refused(sent.message)
            text = describe(status)
            events.append(
                CommandFailed(command=sent.message, status=status, text=text, answer=answer)
            )
            if status == Status.SESSION_NOT_EXIST:
                events += self._sessions.unknown(getattr(sent.message.body, "token", -1))
        self._next(now_s)
        return events

    def _again(self, sent: _Sent, answer: Message | None, now_s: float) -> list[UciEvent]:
        """Send a command again after a pause, or fail it when that was done often enough."""
        if sent.tries < TRIES:
            sent.again = True
            sent.until_s = now_s + RETRY_S * 2 ** (sent.tries - 1)
            return []
        if self.state in _BRINGING_UP:
            return self._recover(FaultKind.NO_ANSWER, "it asks again and again", now_s)
        self._sent = None
        self._refused(sent.message)
        failed = CommandFailed(
            command=sent.message,
            status=Status.RETRY,
            text=describe(Status.RETRY),
            answer=answer,
        )
        self._next(now_s)
        return [failed]

    def _brought(self, answer: Message, status: int, now_s: float) -> list[UciEvent]:
        if status != Status.OK:
            return self._recover(
                FaultKind.DEVICE_ERROR, f"{answer.name}: {describe(status)}", now_s
            )
        if self.state is HostState.RESETTING:
            self._reset_answered = True
            self._came_up(now_s)
            return []
        info = answer.body
        if not isinstance(info, DeviceInfoRsp) or info.uci_major not in (1, 2):
            return self._recover(FaultKind.DEVICE_ERROR, "a version of UCI that is unknown", now_s)
        self.uci_major = info.uci_major
        self.state = HostState.READY
        return [DeviceReady(info=info, uci_major=self.uci_major)]

    def _noted(self, asked: Message, answer: Message) -> list[UciEvent]:
        """Take over what a command changed."""
        body, said = asked.body, answer.body
        if isinstance(body, uci_session.SessionInitCmd):
            handle = said.handle if isinstance(said, uci_session.SessionInitRsp) else None
            token = body.session_id if handle is None else handle
            return self._sessions.add(token, body.session_id, body.session_type)
        if isinstance(body, uci_session.SetAppConfigCmd):
            self._sessions.configured(body.token, body.parameters)
        if isinstance(body, uci_session.TokenCmd) and asked.name == "RANGE_STOP":
            # Not when it is sent: that the session is ACTIVE may still be on its way.
            self._sessions.asked(body.token, start=False)
        return []

    def _refused(self, asked: Message) -> None:
        """A start that was refused gives the subsystem no leave to range."""
        token = getattr(asked.body, "token", None)
        if asked.name in _STARTS and token is not None:
            self._sessions.asked(token, start=False)

    # -- notifications

    def _notified(self, message: Message, now_s: float) -> list[UciEvent]:
        body = message.body
        if isinstance(body, DeviceStatusNtf):
            return self._device_state(body.state, now_s)
        if isinstance(body, StatusOnly):  # GENERIC_ERROR is the only such notification
            if body.status == Status.RETRY and self._sent is not None and not self._sent.again:
                return self._again(self._sent, None, now_s)
            return [Fault(kind=FaultKind.GENERIC_ERROR, text=describe(body.status))]
        if self.state is not HostState.READY:
            return [Fault(kind=FaultKind.UNEXPECTED_STATE, text=f"{message.name} while it starts")]
        event: UciEvent = Notified(message=message)
        if isinstance(body, uci_session.SessionStatusNtf):
            event = self._sessions.changed(body)
        elif isinstance(body, SessionInfoNtf | CccControleeNtf | CccControllerNtf):
            event = self._sessions.measured(body, now_s=now_s)
        return [event]

    def _device_state(self, state: int, now_s: float) -> list[UciEvent]:
        if state == DeviceState.ERROR:
            return self._recover(FaultKind.DEVICE_ERROR, "device state ERROR", now_s)
        if state in _BOOTING:
            if self.state is HostState.RESETTING:
                return []
            return self._recover(FaultKind.REBOOTED, f"device state {state:02X}", now_s)
        if state == DeviceState.READY:
            self._seen_ready = True
            self._came_up(now_s)
            return []
        if state == DeviceState.ACTIVE and self.state is HostState.READY:
            return []
        return [Fault(kind=FaultKind.UNEXPECTED_STATE, text=f"device state {state:02X}")]
