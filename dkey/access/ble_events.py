"""What the sessions of :mod:`dkey.access.ble_session` report to their owners."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkey.access.credential import DeviceEvent
    from dkey.access.session import Session
    from dkey.codec.ble import RkeAction
    from dkey.codec.ble_contents import Content
    from dkey.crypto.secret import Secret
    from dkey.errors import DkeyError

__all__ = [
    "Authenticated",
    "BleEvent",
    "CommandRequested",
    "EndReason",
    "Ended",
    "Established",
    "Exchanged",
    "RangingReceived",
    "RangingUnavailable",
    "ReaderDescribed",
    "StatusReported",
    "ThirdPartyReceived",
    "VerdictReceived",
]


class EndReason(Enum):
    """Why a session is done."""

    REFUSED = "the owner of the session refused the device"
    PEER = "the peer reported an error"
    TIMEOUT = "a reply did not come in time"
    VIOLATION = "the peer broke the protocol or did not prove itself"
    FAILED = "this side failed"
    CLOSED = "closed by this side, or the link is lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """Reader: the device proved its key; ``accept`` or ``refuse`` within the response timeout.

    Attributes:
        transaction: Who it is and the transaction's keys; ``credential`` None is not enrolled.
        remote_only: Whether the device wants no ranging.
    """

    transaction: Session
    remote_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """Reader: an EXCHANGE of the owner is done; the data of its reads, in order."""

    reads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """The encrypted part began.

    Attributes:
        transaction: At the device, what was authenticated; None at the reader.
        state: The reader's state, second byte of a reader status.
        ursk: The ranging secret, 32 bytes; None when ranging is not available.
        session_id: Name of the ranging session: the last 4 bytes of the transaction identifier,
            as a number (Aliro 1.0 §11.7.2).
    """

    transaction: DeviceEvent | None
    state: int
    ursk: Secret | None
    session_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRequested:
    """Reader: the device asks for an action; ``answer`` it within the response timeout."""

    action: RkeAction
    number: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictReceived:
    """Device, vehicle profile: the answer to a request.

    Attributes:
        action: What was asked for.
        code: Why not; None when accepted.
        remaining_s: Seconds until the same request may pass, where time is the reason.
    """

    action: RkeAction
    code: str | None
    remaining_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReported:
    """Device: the reader's state changed; members of StatusSource and second status bytes."""

    source: int
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingReceived:
    """A message of ranging setup, a Ranging notification or a Time Sync."""

    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingUnavailable:
    """The peer has no ranging secret (any more); a new one needs a new connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderDescribed:
    """Device: the reader's descriptor, the complete B5 object."""

    descriptor: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyReceived:
    """A pass-through message that is not of this stack."""

    oui: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The session is done: send what is left in the outbox, then disconnect.

    Attributes:
        reason: Why.
        error: What exactly, for this side's log only.
    """

    reason: EndReason
    error: DkeyError | None = None


BleEvent = (
    Authenticated
    | Exchanged
    | Established
    | CommandRequested
    | VerdictReceived
    | StatusReported
    | RangingReceived
    | RangingUnavailable
    | ReaderDescribed
    | ThirdPartyReceived
    | Ended
)
