"""The rules of a BLE session as tables: states, times, dialects, ranging turns (specs/ble.md §4).

Both sessions of :mod:`dkey.access.ble_session` walk these tables; nothing here does anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from dkey.access.profile import ALIRO, VEHICLE
from dkey.codec.ble import (
    ApId,
    Message,
    MessageType,
    NotificationId,
    RangingKind,
    RkeAction,
    SupplementaryId,
    ThirdPartyId,
    UwbId,
)
from dkey.errors import LocalFault, SequenceError

__all__ = [
    "DEVICE_TRANSITIONS",
    "DIALECTS",
    "HANDSHAKE_S",
    "READER_TRANSITIONS",
    "RESPONSE_TIMEOUT_S",
    "BleInput",
    "BleState",
    "Dialect",
    "RangingTurn",
]

RESPONSE_TIMEOUT_S: Final = 1.5
"""For every message that has a reply, on both sides (Aliro 1.0 §11.9)."""
HANDSHAKE_S: Final = 10.0
"""From the connection to AP Completed at most (ours; security 5, case 29)."""


class BleState(Enum):
    """States of both sessions."""

    NEW = "not started"
    AWAIT_INITIATE = "waits for the first message"
    ACCESS = "access protocol runs"
    DECIDING = "device authenticated, owner of the session decides"
    REFUSING = "refusal sent"
    ESTABLISHED = "established"
    DONE = "done"


class BleInput(Enum):
    """What moves a session: a message by its header, or a call of the session's owner."""

    INITIATE_AP = "Initiate AP"
    INITIATE_AP_RKE = "Initiate AP RKE"
    AP_RQ = "AP RQ"
    AP_RS = "AP RS"
    AP_COMPLETED = "AP Completed"
    EVENT = "Event"
    RANGING = "Ranging"
    STATUS_CHANGED = "Reader Status Changed"
    RKE_REQUEST = "RKE Request"
    UWB = "ranging setup"
    TIME_SYNC = "Time Sync"
    THIRD_PARTY = "pass-through"
    START = "start"
    ACCEPT = "accept"
    EXCHANGE = "exchange"
    REFUSE = "refuse"

    @classmethod
    def of(cls, message: Message) -> BleInput:
        """Return the input that a message is, by its header alone."""
        if message.type is MessageType.UWB:
            return cls.UWB
        return _INPUTS[message.type, message.id]


_INPUTS: Final[dict[tuple[MessageType, int], BleInput]] = {
    (MessageType.AP, ApId.RQ): BleInput.AP_RQ,
    (MessageType.AP, ApId.RS): BleInput.AP_RS,
    (MessageType.NOTIFICATION, NotificationId.EVENT): BleInput.EVENT,
    (MessageType.NOTIFICATION, NotificationId.RANGING): BleInput.RANGING,
    (MessageType.NOTIFICATION, NotificationId.STATUS_CHANGED): BleInput.STATUS_CHANGED,
    (MessageType.NOTIFICATION, NotificationId.AP_COMPLETED): BleInput.AP_COMPLETED,
    (MessageType.NOTIFICATION, NotificationId.RKE_REQUEST): BleInput.RKE_REQUEST,
    (MessageType.NOTIFICATION, NotificationId.INITIATE_AP): BleInput.INITIATE_AP,
    (MessageType.NOTIFICATION, NotificationId.INITIATE_AP_RKE): BleInput.INITIATE_AP_RKE,
    (MessageType.SUPPLEMENTARY, SupplementaryId.TIME_SYNC): BleInput.TIME_SYNC,
    (MessageType.THIRD_PARTY, ThirdPartyId.PASS_THROUGH): BleInput.THIRD_PARTY,
}

Transitions = dict[tuple[BleState, BleInput], tuple[BleState, ...]]
_S, _I = BleState, BleInput

READER_TRANSITIONS: Final[Transitions] = {
    (_S.NEW, _I.START): (_S.AWAIT_INITIATE,),
    (_S.AWAIT_INITIATE, _I.INITIATE_AP): (_S.ACCESS,),
    (_S.AWAIT_INITIATE, _I.INITIATE_AP_RKE): (_S.ACCESS,),
    (_S.AWAIT_INITIATE, _I.EVENT): (_S.DONE,),
    (_S.ACCESS, _I.AP_RS): (_S.ACCESS, _S.DECIDING, _S.ESTABLISHED),
    (_S.ACCESS, _I.EVENT): (_S.DONE,),
    (_S.DECIDING, _I.EXCHANGE): (_S.ACCESS,),
    (_S.DECIDING, _I.ACCEPT): (_S.ACCESS, _S.ESTABLISHED),
    (_S.DECIDING, _I.REFUSE): (_S.REFUSING,),
    (_S.DECIDING, _I.EVENT): (_S.DONE,),
    (_S.REFUSING, _I.AP_RS): (_S.DONE,),
    (_S.REFUSING, _I.EVENT): (_S.DONE,),
    (_S.ESTABLISHED, _I.RKE_REQUEST): (_S.ESTABLISHED,),
    (_S.ESTABLISHED, _I.RANGING): (_S.ESTABLISHED,),
    (_S.ESTABLISHED, _I.UWB): (_S.ESTABLISHED,),
    (_S.ESTABLISHED, _I.TIME_SYNC): (_S.ESTABLISHED,),
    (_S.ESTABLISHED, _I.THIRD_PARTY): (_S.ESTABLISHED,),
    (_S.ESTABLISHED, _I.EVENT): (_S.ESTABLISHED, _S.DONE),
}
"""Which input each state of the reader's session takes and where it leads. Every other message,
every failure and every expired time leads to ``DONE``."""

DEVICE_TRANSITIONS: Final[Transitions] = {
    (_S.NEW, _I.START): (_S.ACCESS,),
    (_S.ACCESS, _I.AP_RQ): (_S.ACCESS,),
    (_S.ACCESS, _I.AP_COMPLETED): (_S.ESTABLISHED,),
    (_S.ACCESS, _I.EVENT): (_S.DONE,),
    (_S.ESTABLISHED, _I.STATUS_CHANGED): (_S.ESTABLISHED,),
    (_S.ESTABLISHED, _I.RANGING): (_S.ESTABLISHED,),
    (_S.ESTABLISHED, _I.UWB): (_S.ESTABLISHED,),
    (_S.ESTABLISHED, _I.THIRD_PARTY): (_S.ESTABLISHED,),
    (_S.ESTABLISHED, _I.EVENT): (_S.ESTABLISHED, _S.DONE),
}
"""The same for the device's session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between the profiles on BLE.

    Attributes:
        actions: What an RKE Request may ask for.
        verdicts: Whether every request is numbered and answered by a Verdict message, within the
            response timeout and one at a time.
        remote_after_ranging: Whether requests are taken in a session that Initiate AP began, and
            not only after Initiate AP RKE.
    """

    actions: frozenset[RkeAction]
    verdicts: bool
    remote_after_ranging: bool


DIALECTS: Final[dict[str, Dialect]] = {
    ALIRO.name: Dialect(
        actions=frozenset({RkeAction.LOCK, RkeAction.UNLOCK}),
        verdicts=False,
        remote_after_ranging=False,
    ),
    VEHICLE.name: Dialect(actions=frozenset(RkeAction), verdicts=True, remote_after_ranging=True),
}
"""By name of the profile."""

# --- ranging turns -----------------------------------------------------------------------------

RangingMove = UwbId | tuple[RangingKind]
"""A ranging message: of setup, or a Ranging notification (as a tuple, its numbers overlap)."""

_INITIATE: Final = (RangingKind.INITIATE,)
_INITIATE_RESUME: Final = (RangingKind.INITIATE_RESUME,)
_SETUP_LATER: Final = (RangingKind.SETUP_LATER,)
_RESUME_LATER: Final = (RangingKind.RESUME_LATER,)
_FAILED: Final = (RangingKind.SECURE_RANGING_FAILED,)
_SUSPENDED: Final = (RangingKind.SUSPENDED,)

REPLIES: Final[dict[RangingMove, frozenset[RangingMove]]] = {
    _INITIATE: frozenset({UwbId.M1, _SETUP_LATER}),
    _INITIATE_RESUME: frozenset({UwbId.RESUME_RQ, UwbId.M1, _RESUME_LATER}),
    UwbId.M1: frozenset({UwbId.M2, _SETUP_LATER}),
    UwbId.M2: frozenset({UwbId.M3, _SETUP_LATER}),
    UwbId.M3: frozenset({UwbId.M4, _SETUP_LATER}),
    UwbId.SUSPEND_RQ: frozenset({UwbId.SUSPEND_RS}),
    UwbId.RESUME_RQ: frozenset({UwbId.RESUME_RS, _RESUME_LATER}),
}
"""Messages that have a reply, and which (Aliro 1.0 §11.9.1)."""
ONLY_REPLIES: Final[frozenset[RangingMove]] = frozenset(
    {UwbId.M2, UwbId.M3, UwbId.M4, UwbId.SUSPEND_RS, UwbId.RESUME_RS}
)
FROM_READER: Final[frozenset[RangingMove]] = frozenset(
    {
        UwbId.M1,
        UwbId.M3,
        UwbId.SUSPEND_RQ,
        UwbId.SUSPEND_RS,
        UwbId.RESUME_RQ,
        _SETUP_LATER,
        _RESUME_LATER,
        _FAILED,
        _SUSPENDED,
    }
)
FROM_DEVICE: Final[frozenset[RangingMove]] = frozenset(
    {
        UwbId.M2,
        UwbId.M4,
        UwbId.SUSPEND_RQ,
        UwbId.SUSPEND_RS,
        UwbId.RESUME_RS,
        _INITIATE,
        _INITIATE_RESUME,
        _SETUP_LATER,
        _RESUME_LATER,
        _SUSPENDED,
    }
)


class Crossing(Enum):
    """What to do with a message that crosses one's own request."""

    SERVE = "drop the own request and serve the other"
    IGNORE = "ignore the message, the own request stands"


_READER_CROSSINGS: Final[dict[tuple[RangingMove, RangingMove], Crossing]] = {
    (UwbId.M1, _INITIATE): Crossing.IGNORE,
    (UwbId.RESUME_RQ, _INITIATE): Crossing.SERVE,
    (UwbId.RESUME_RQ, UwbId.SUSPEND_RQ): Crossing.SERVE,
    (UwbId.SUSPEND_RQ, _INITIATE): Crossing.SERVE,
    (UwbId.SUSPEND_RQ, _INITIATE_RESUME): Crossing.SERVE,
    (UwbId.SUSPEND_RQ, UwbId.SUSPEND_RQ): Crossing.SERVE,
    # The request on its way is already the reply to this; serving it would send a second one.
    (UwbId.RESUME_RQ, _INITIATE_RESUME): Crossing.IGNORE,
    (UwbId.M1, _SUSPENDED): Crossing.IGNORE,
    (UwbId.M3, _SUSPENDED): Crossing.IGNORE,
    (UwbId.RESUME_RQ, _SUSPENDED): Crossing.IGNORE,
    (UwbId.SUSPEND_RQ, _SUSPENDED): Crossing.IGNORE,
}
_DEVICE_CROSSINGS: Final[dict[tuple[RangingMove, RangingMove], Crossing]] = {
    (_INITIATE, UwbId.RESUME_RQ): Crossing.IGNORE,
    (_INITIATE, UwbId.SUSPEND_RQ): Crossing.IGNORE,
    (_INITIATE_RESUME, UwbId.SUSPEND_RQ): Crossing.IGNORE,
    (UwbId.SUSPEND_RQ, UwbId.RESUME_RQ): Crossing.IGNORE,
    (UwbId.SUSPEND_RQ, UwbId.SUSPEND_RQ): Crossing.IGNORE,
    (_INITIATE, _SUSPENDED): Crossing.IGNORE,
    (_INITIATE_RESUME, _SUSPENDED): Crossing.IGNORE,
    (_INITIATE, _FAILED): Crossing.IGNORE,
    (_INITIATE_RESUME, _FAILED): Crossing.IGNORE,
    (UwbId.SUSPEND_RQ, _FAILED): Crossing.SERVE,
}
"""The device's request wins (Aliro 1.0 §11.9.3). Keys: own request, message that crosses it."""


class RangingTurn:
    """Whose turn it is in ranging setup: one's own open request, and the peer's.

    Args:
        is_reader: Which end this is.
    """

    __slots__ = ("_crossings", "_failed", "_incoming", "_outgoing", "own", "theirs")

    def __init__(self, *, is_reader: bool) -> None:
        self._crossings = _READER_CROSSINGS if is_reader else _DEVICE_CROSSINGS
        self._outgoing = FROM_READER if is_reader else FROM_DEVICE
        self._incoming = FROM_DEVICE if is_reader else FROM_READER
        self._failed = False
        self.own: RangingMove | None = None
        self.theirs: RangingMove | None = None

    @property
    def waiting(self) -> bool:
        """Whether a reply is due from either side."""
        return self.own is not None or self.theirs is not None

    def sent(self, move: RangingMove) -> bool:
        """Take note of an outgoing message; return whether it has a reply.

        Raises:
            LocalFault: This side may not send it, or not now.
        """
        answers = self.theirs is not None and move in REPLIES[self.theirs]
        if move not in self._outgoing or (move in ONLY_REPLIES and not answers):
            raise LocalFault(f"{move} may not be sent now", clause="Aliro 1.0 §11.7.2")
        if self.own is not None and move in REPLIES:
            raise LocalFault("a ranging request is still open", clause="Aliro 1.0 §11.9")
        if answers:
            self.theirs = None
        if move == _FAILED:
            self._failed = True
        elif move in REPLIES:
            self.own = move
        return move in REPLIES

    def received(self, move: RangingMove) -> bool:
        """Take note of an incoming message; return False when it is to be ignored.

        Raises:
            SequenceError: The peer may not send it, or not now.
        """
        if move not in self._incoming:
            raise SequenceError(f"{move} came from the wrong side", clause="Aliro 1.0 §11.7.2")
        if self._failed and move == UwbId.SUSPEND_RQ:
            return False  # what was to be suspended has failed already
        if move in (_INITIATE, _INITIATE_RESUME):
            self._failed = False
        answers = self.own is not None and move in REPLIES[self.own]
        if not answers:
            crossing = None if self.own is None else self._crossings.get((self.own, move))
            if crossing is Crossing.IGNORE:
                return False
            if crossing is Crossing.SERVE:
                self.own = None
            if move in ONLY_REPLIES:
                raise SequenceError(f"{move} answers nothing", clause="Aliro 1.0 §11.9")
        else:
            self.own = None
        if move in REPLIES:
            self.theirs = move
        return True
