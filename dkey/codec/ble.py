"""BLE messages: the header, its identifiers, and one SDU cut into messages (Aliro 1.0 §11.7).

Wire: ``type(1: bits 5:0, 7:6 reserved) || id(1) || length(2) || payload(1..65535)``, integers
big-endian. What a payload means is in :mod:`dkey.codec.ble_contents`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from dkey.errors import WireError

__all__ = [
    "HEADER_SIZE",
    "ApId",
    "ErrorReason",
    "Message",
    "MessageType",
    "NotificationId",
    "RangingKind",
    "RkeAction",
    "StatusSource",
    "SupplementaryId",
    "ThirdPartyId",
    "UwbId",
    "split_sdu",
]

CLAUSE: Final = "Aliro 1.0 §11.7"
HEADER_SIZE: Final = 4
_TYPE_BITS: Final = 0x3F


class MessageType(IntEnum):
    """First byte of the header, bits 5:0."""

    AP = 0
    UWB = 1
    NOTIFICATION = 2
    SUPPLEMENTARY = 3
    THIRD_PARTY = 4


class ApId(IntEnum):
    """Messages of the access protocol: a command APDU, a response APDU."""

    RQ = 0
    RS = 1


class UwbId(IntEnum):
    """Messages of ranging setup; their attributes are not decoded here (Aliro 1.0 §11.7.2)."""

    M1 = 0
    M2 = 1
    M3 = 2
    M4 = 3
    SUSPEND_RQ = 4
    SUSPEND_RS = 5
    RESUME_RQ = 6
    RESUME_RS = 7


class NotificationId(IntEnum):
    """Notifications (Aliro 1.0 §11.7.3)."""

    EVENT = 0
    RANGING = 1
    STATUS_CHANGED = 2
    AP_COMPLETED = 3
    RKE_REQUEST = 4
    INITIATE_AP = 5
    INITIATE_AP_RKE = 6


class SupplementaryId(IntEnum):
    """Supplementary services."""

    TIME_SYNC = 0


class ThirdPartyId(IntEnum):
    """Messages of third parties."""

    PASS_THROUGH = 0


class ErrorReason(IntEnum):
    """Reason of a General Error (Aliro 1.0 §11.7.3.1.2)."""

    UNKNOWN = 0
    RESOURCE = 1
    WRONG_PARAMETERS = 2
    URSK_UNAVAILABLE = 3


class RangingKind(IntEnum):
    """What a Ranging notification says (Aliro 1.0 §11.7.3.2)."""

    INITIATE = 0
    INITIATE_RESUME = 1
    SETUP_LATER = 2
    RESUME_LATER = 3
    SECURE_RANGING_FAILED = 4
    SUSPENDED = 5


class StatusSource(IntEnum):
    """What changed the reader's state (Aliro 1.0 §11.7.3.3)."""

    UNSPECIFIED = 0
    MANUAL = 1
    AUTOMATIC = 2
    SCHEDULE = 3
    THIS_DEVICE_RANGING = 4
    THIS_DEVICE_NFC = 5
    THIS_DEVICE_BLE = 6
    OTHER_NETWORK = 7


class RkeAction(IntEnum):
    """Attribute 0 of an RKE Request. Values from 80 are ours (specs/ble.md §5)."""

    LOCK = 0x00
    """Secure."""
    UNLOCK = 0x01
    """Unsecure."""
    REMOTE_START = 0x80
    REMOTE_STOP = 0x81
    HORN_ON = 0x82
    HORN_OFF = 0x83


_IDS: Final[dict[MessageType, type[IntEnum]]] = {
    MessageType.AP: ApId,
    MessageType.UWB: UwbId,
    MessageType.NOTIFICATION: NotificationId,
    MessageType.SUPPLEMENTARY: SupplementaryId,
    MessageType.THIRD_PARTY: ThirdPartyId,
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message, its payload in clear or encrypted.

    Attributes:
        type: What kind of message.
        id: Which one of the kind; a member of the enum of its type.
        payload: 1..65535 bytes.
        reserved: Bits 7:6 of the first byte, 0..3, kept because they are authenticated.
    """

    type: MessageType
    id: int
    payload: bytes
    reserved: int = 0

    def header(self, size: int) -> bytes:
        """Return the header with ``size`` as length; with the plain length it is the AAD."""
        return bytes((self.reserved << 6 | self.type, self.id)) + size.to_bytes(2, "big")

    def to_bytes(self) -> bytes:
        """Encode header and payload."""
        if not 1 <= len(self.payload) <= 0xFFFF:
            raise WireError(f"a payload has 1..65535 bytes, not {len(self.payload)}", clause=CLAUSE)
        return self.header(len(self.payload)) + self.payload

    @property
    def name(self) -> str:
        """Its name for people and logs."""
        return f"{self.type.name} {_IDS[self.type](self.id).name}"


def split_sdu(data: bytes) -> list[Message]:
    """Return the messages of one SDU, at least one.

    Raises:
        WireError: Nothing at all, an unknown type or identifier, an empty payload, or lengths
            that do not add up to the SDU.
    """
    found: list[Message] = []
    at = 0
    while at < len(data) or not found:
        start = at + HEADER_SIZE
        if start > len(data):
            raise WireError("an SDU ends inside a message header", clause=CLAUSE)
        size = data[at + 2] << 8 | data[at + 3]
        end = start + size
        if not size:
            raise WireError("a message without payload", clause=CLAUSE)
        if end > len(data):
            raise WireError(
                f"a message claims {size} bytes, {len(data) - start} are left", clause=CLAUSE
            )
        try:
            kind = MessageType(data[at] & _TYPE_BITS)
            number = _IDS[kind](data[at + 1])
        except ValueError as exc:
            raise WireError(
                f"message type {data[at] & _TYPE_BITS} id {data[at + 1]} is not defined",
                clause=CLAUSE,
            ) from exc
        found.append(Message(kind, number, data[start:end], data[at] >> 6))
        at = end
    return found
