"""What the UCI host tells its owner."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dkey.codec.uci_core import DeviceInfoRsp  # noqa: TC001 - part of the public signature
from dkey.codec.uci_messages import Message  # noqa: TC001 - part of the public signature
from dkey.ranging.measurement import RangingRound  # noqa: TC001 - part of the public signature

__all__ = [
    "Answered",
    "CommandFailed",
    "DeviceReady",
    "Fault",
    "FaultKind",
    "Notified",
    "RangingData",
    "SessionStateChanged",
    "UciEvent",
]


class FaultKind(StrEnum):
    """What is wrong with the subsystem."""

    MALFORMED = "it sent bytes that are no UCI"
    NO_ANSWER = "it did not answer in time"
    UNEXPECTED_ANSWER = "it answered what was not asked"
    UNEXPECTED_STATE = "it reported a state that cannot be"
    UNKNOWN_SESSION = "it reported on a session that is not there"
    DATA_OUT_OF_STATE = "it reported ranges of a session that does not range"
    STALE_DATA = "it reported a round again"
    DEVICE_ERROR = "it reported an error of its own"
    GENERIC_ERROR = "it could not process something"
    REBOOTED = "it started again by itself"
    GIVEN_UP = "it does not recover"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReady:
    """The subsystem is reset, identified and takes commands.

    Attributes:
        info: What it says it is.
        uci_major: 1 or 2.
    """

    info: DeviceInfoRsp
    uci_major: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A command was carried out."""

    command: Message
    answer: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFailed:
    """A command was not carried out.

    Attributes:
        command: Which.
        status: UCI status; None when there was no answer.
        text: The same in words.
        answer: What it said; None without an answer.
    """

    command: Message
    status: int | None
    text: str
    answer: Message | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStateChanged:
    """A session is in this state now.

    Attributes:
        session_id: As given to SESSION_INIT.
        state: A :class:`~dkey.codec.uci_status.SessionState`.
        reason: Reason code; None when this side concludes it, after a reset.
        text: The reason in words.
    """

    session_id: int
    state: int
    reason: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingData:
    """What a round measured."""

    round: RangingRound


@dataclass(frozen=True, slots=True, kw_only=True)
class Notified:
    """A notification or data message that the host has no use for."""

    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The subsystem does not behave; what it said with it was not believed.

    Attributes:
        kind: How.
        text: Details, for the log.
        session_id: The session it is about, if any.
    """

    kind: FaultKind
    text: str
    session_id: int | None = None


UciEvent = (
    DeviceReady | Answered | CommandFailed | SessionStateChanged | RangingData | Notified | Fault
)
