"""What a BLE message says: attributes and typed contents (Aliro 1.0 §11.7, §11.7.3).

A payload is an APDU (access protocol) or a row of attributes ``id(1) || length(1) || value``:
unknown ones are skipped, a known one that is repeated is refused. :func:`decode` gives a message
its content, ``to_message`` of a content is the way back. What the ``vehicle`` profile adds is
marked *ours* (specs/ble.md §5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dkey.codec import tlv
from dkey.codec.ble import (
    ApId,
    ErrorReason,
    Message,
    MessageType,
    NotificationId,
    RangingKind,
    ThirdPartyId,
)
from dkey.errors import WireError

__all__ = [
    "VENDOR_OUI",
    "ApCompleted",
    "ApRequest",
    "ApResponse",
    "Busy",
    "Content",
    "GeneralError",
    "InitiateAp",
    "Opaque",
    "PassThrough",
    "Ranging",
    "ReaderDescriptor",
    "ReaderStatusChanged",
    "RkeRequest",
    "Verdict",
    "attribute",
    "attributes",
    "decode",
]

CLAUSE: Final = "Aliro 1.0 §11.7"
CLAUSE_NOTIFICATION: Final = "Aliro 1.0 §11.7.3"
CLAUSE_OURS: Final = "specs/ble.md §5"
VENDOR_OUI: Final = bytes.fromhex("02646B")
"""Our identifier in pass-through messages; the same as in vendor extensions."""
_NUMBER: Final = 0x80
_CODE: Final = re.compile(rb"[A-Z][A-Z0-9_]*")


def attribute(number: int, value: bytes = b"") -> bytes:
    """Return one attribute: id(1), length(1), value(0..255)."""
    if len(value) > 0xFF:
        raise WireError(f"an attribute has at most 255 bytes, not {len(value)}", clause=CLAUSE)
    return bytes((number, len(value))) + value


def attributes(payload: bytes, known: dict[int, tuple[int, int]], clause: str) -> dict[int, bytes]:
    """Return id to value of the known attributes; ``known`` is id to (least, most) bytes.

    Raises:
        WireError: The payload ends inside an attribute, a known one is repeated or has another
            size.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(payload):
        end = at + 2 + payload[at + 1] if at + 1 < len(payload) else len(payload) + 1
        if end > len(payload):
            raise WireError("a message ends inside an attribute", clause=clause)
        number = payload[at]
        if number in known:
            low, high = known[number]
            if number in found or not low <= end - at - 2 <= high:
                raise WireError(
                    f"attribute {number:02X} is repeated or has {end - at - 2} bytes, "
                    f"not {low}..{high}",
                    clause=clause,
                )
            found[number] = payload[at + 2 : end]
        at = end
    return found


def _notification(number: NotificationId, body: bytes) -> Message:
    return Message(MessageType.NOTIFICATION, number, body)


# --- contents ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ApRequest:
    """A command APDU, reader to device."""

    apdu: bytes

    def to_message(self) -> Message:
        """Return the message: the payload is the APDU."""
        return Message(MessageType.AP, ApId.RQ, self.apdu)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApResponse:
    """A response APDU, device to reader."""

    apdu: bytes

    def to_message(self) -> Message:
        """Return the message: the payload is the APDU."""
        return Message(MessageType.AP, ApId.RS, self.apdu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Event attribute 0, empty: the answer takes longer; the peer's timer starts anew."""

    def to_message(self) -> Message:
        """Return the message ``00 00``."""
        return _notification(NotificationId.EVENT, attribute(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralError:
    """Event attribute 1: something failed.

    Attributes:
        reason: A member of ErrorReason, or a value that this version does not know.
        descriptor: Attribute 2 beside it, the complete B5 object; empty without.
    """

    reason: int = ErrorReason.UNKNOWN
    descriptor: bytes = b""

    def to_message(self) -> Message:
        """Return the message ``01 01 reason [02 length B5…]``."""
        body = attribute(1, bytes((self.reason,)))
        if self.descriptor:
            body += attribute(2, self.descriptor)
        return _notification(NotificationId.EVENT, body)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderDescriptor:
    """Event attribute 2: the complete B5 object of the reader."""

    descriptor: bytes

    def to_message(self) -> Message:
        """Return the message ``02 length B5…``."""
        return _notification(NotificationId.EVENT, attribute(2, self.descriptor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranging:
    """A Ranging notification: one empty attribute whose id is the kind."""

    kind: RangingKind

    def to_message(self) -> Message:
        """Return the message ``kind 00``."""
        return _notification(NotificationId.RANGING, attribute(self.kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderStatusChanged:
    """The reader's state changed: attribute 0 is source(1) || state(1).

    Attributes:
        source: A member of StatusSource, or another value.
        state: Second byte of the reader status of the same meaning (Aliro 1.0 table 8-18).
    """

    source: int
    state: int

    def to_message(self) -> Message:
        """Return the message ``00 02 source state``."""
        body = attribute(0, bytes((self.source, self.state)))
        return _notification(NotificationId.STATUS_CHANGED, body)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApCompleted:
    """The access protocol succeeded: attribute 0 is report(bits 15:13) || state(bits 7:0).

    Attributes:
        report: 1 tells every connected device of changes, 2 only the one that caused them.
        state: As in :class:`ReaderStatusChanged`.
    """

    report: int = 1
    state: int

    def to_message(self) -> Message:
        """Return the message ``00 02 report state``."""
        body = attribute(0, bytes((self.report << 5, self.state)))
        return _notification(NotificationId.AP_COMPLETED, body)


@dataclass(frozen=True, slots=True, kw_only=True)
class RkeRequest:
    """The device asks for an action at the vehicle: attribute 0 is the action(1).

    Attributes:
        action: A member of RkeAction, or a value that this version does not know.
        number: Attribute 80, 0..255, which the verdict repeats; None without (ours).
    """

    action: int
    number: int | None = None

    def to_message(self) -> Message:
        """Return the message ``00 01 action [80 01 number]``."""
        body = attribute(0, bytes((self.action,)))
        if self.number is not None:
            body += attribute(_NUMBER, bytes((self.number,)))
        return _notification(NotificationId.RKE_REQUEST, body)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitiateAp:
    """The device's first message: what a SELECT response says on NFC (Aliro 1.0 §11.7.3.7).

    Attributes:
        a5: The complete A5 object as sent, which is key schedule input.
        descriptor: The complete B7 object behind it; empty without.
        rke: Whether only remote control is wanted, without ranging.
    """

    a5: bytes
    descriptor: bytes = b""
    rke: bool = False

    def to_message(self) -> Message:
        """Return the message ``00 length A5… [B7…]``."""
        number = NotificationId.INITIATE_AP_RKE if self.rke else NotificationId.INITIATE_AP
        return _notification(number, attribute(0, self.a5 + self.descriptor))


@dataclass(frozen=True, slots=True, kw_only=True)
class PassThrough:
    """A message of a third party: OUI(3), then its data."""

    oui: bytes
    data: bytes

    def to_message(self) -> Message:
        """Return the message ``OUI data``."""
        return Message(MessageType.THIRD_PARTY, ThirdPartyId.PASS_THROUGH, self.oui + self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The vehicle's answer to an RKE Request, in a pass-through message (ours, specs/ble.md §5).

    Wire, behind our OUI: ``00 01 number || 01 01 action || 02 length code || [03 04 remaining]``;
    the code is the refusal code's name in ASCII and empty when the action was accepted.

    Attributes:
        number: That of the request.
        action: That of the request.
        code: Why not; None when accepted.
        remaining_ms: Milliseconds until the same request may pass, 0..2^32-1; None if not time.
    """

    number: int
    action: int
    code: str | None
    remaining_ms: int | None = None

    def pass_through(self) -> PassThrough:
        """Return the content that carries it."""
        body = attribute(0, bytes((self.number,))) + attribute(1, bytes((self.action,)))
        body += attribute(2, (self.code or "").encode())
        if self.remaining_ms is not None:
            body += attribute(3, self.remaining_ms.to_bytes(4, "big"))
        return PassThrough(oui=VENDOR_OUI, data=body)

    @classmethod
    def parse(cls, data: bytes) -> Verdict:
        """Decode what stands behind our OUI.

        Raises:
            WireError: An attribute is missing, repeated or has another size or form.
        """
        known = {0: (1, 1), 1: (1, 1), 2: (0, 40), 3: (4, 4)}
        found = attributes(data, known, CLAUSE_OURS)
        code = found.get(2, b"?")
        if 0 not in found or 1 not in found or (code and not _CODE.fullmatch(code)):
            raise WireError("a verdict has a number, an action and a code", clause=CLAUSE_OURS)
        return cls(
            number=found[0][0],
            action=found[1][0],
            code=code.decode() or None,
            remaining_ms=int.from_bytes(found[3], "big") if 3 in found else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """A message whose content is not decoded here: ranging setup, time, unknown notifications."""

    message: Message

    def to_message(self) -> Message:
        """Return the message itself."""
        return self.message


Content = (
    ApRequest
    | ApResponse
    | Busy
    | GeneralError
    | ReaderDescriptor
    | Ranging
    | ReaderStatusChanged
    | ApCompleted
    | RkeRequest
    | InitiateAp
    | PassThrough
    | Opaque
)


def decode(message: Message) -> Content:
    """Return the content of one message in clear; one with no known attribute is Opaque.

    Raises:
        WireError: The payload does not have the form of its message.
    """
    payload = message.payload
    match message.type:
        case MessageType.AP:
            if message.id == ApId.RQ:
                return ApRequest(apdu=payload)
            return ApResponse(apdu=payload)
        case MessageType.NOTIFICATION:
            return _decode_notification(message)
        case MessageType.THIRD_PARTY:
            if len(payload) < 3:
                raise WireError("a pass-through message starts with an OUI", clause=CLAUSE)
            return PassThrough(oui=payload[:3], data=payload[3:])
        case _:
            return Opaque(message=message)


def _decode_notification(message: Message) -> Content:  # noqa: PLR0911 - one for each message
    number = NotificationId(message.id)
    found = attributes(message.payload, _KNOWN[number], CLAUSE_NOTIFICATION)
    if 0 not in found and number not in (NotificationId.EVENT, NotificationId.RANGING):
        found = {}
    if not found:
        return Opaque(message=message)
    match number:
        case NotificationId.EVENT:
            return _decode_event(found)
        case NotificationId.RANGING:
            if len(found) > 1:
                raise _crowded()
            return Ranging(kind=RangingKind(next(iter(found))))
        case NotificationId.STATUS_CHANGED:
            return ReaderStatusChanged(source=found[0][0], state=found[0][1])
        case NotificationId.AP_COMPLETED:
            return ApCompleted(report=found[0][0] >> 5, state=found[0][1])
        case NotificationId.RKE_REQUEST:
            asked = found.get(_NUMBER)
            return RkeRequest(action=found[0][0], number=asked[0] if asked else None)
        case _:
            return _decode_initiate(found[0], rke=number is NotificationId.INITIATE_AP_RKE)


_KNOWN: Final[dict[NotificationId, dict[int, tuple[int, int]]]] = {
    NotificationId.EVENT: {0: (0, 0), 1: (1, 1), 2: (2, 255)},
    NotificationId.RANGING: dict.fromkeys(RangingKind, (0, 0)),
    NotificationId.STATUS_CHANGED: {0: (2, 2)},
    NotificationId.AP_COMPLETED: {0: (2, 2)},
    NotificationId.RKE_REQUEST: {0: (1, 1), _NUMBER: (1, 1)},
    NotificationId.INITIATE_AP: {0: (2, 255)},
    NotificationId.INITIATE_AP_RKE: {0: (2, 255)},
}


def _decode_event(found: dict[int, bytes]) -> Content:
    if len(found) > 1 and 0 in found:
        raise _crowded()
    if 1 in found:
        return GeneralError(reason=found[1][0], descriptor=_b5(found.get(2, b"")))
    if 2 in found:
        return ReaderDescriptor(descriptor=_b5(found[2]))
    return Busy()


def _b5(value: bytes) -> bytes:
    if value:
        tlv.single(value, 0xB5)
    return value


def _decode_initiate(value: bytes, *, rke: bool) -> InitiateAp:
    objects = [(tag, value[start:end]) for tag, start, _, end in tlv.items(value)]
    a5, b7 = ([raw for tag, raw in objects if tag == wanted] for wanted in (0xA5, 0xB7))
    if objects[0][0] != 0xA5 or len(a5) != 1 or len(b7) > 1:
        raise WireError(
            "the first message is one A5 object and at most one B7", clause="Aliro 1.0 §11.7.3.7"
        )
    return InitiateAp(a5=a5[0], descriptor=b7[0] if b7 else b"", rke=rke)


def _crowded() -> WireError:
    return WireError("a notification carries one attribute", clause=CLAUSE_NOTIFICATION)
