"""What the messages of ranging setup and Time Sync say (Aliro 1.0 §11.7.2, §11.7.4).

Each message is a row of attributes ``id(1) || length(1) || value``, integers big-endian, unknown
ones skipped. Which attributes a message must have is the table :data:`LAYOUTS`; the values are
checked against it and nothing else: whether an offer fits is decided in :mod:`dkey.ranging`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Final, Self

from dkey.codec.ble import Message, MessageType, SupplementaryId, UwbId
from dkey.codec.ble_contents import Opaque, attribute, attributes
from dkey.errors import WireError

__all__ = [
    "LAYOUTS",
    "RangingMessage",
    "RangingOffer",
    "RangingPlan",
    "RangingSelection",
    "RangingStart",
    "ResumeAnswer",
    "ResumeRequest",
    "SuspendAnswer",
    "SuspendRequest",
    "TimeSync",
    "parse_ranging",
]

CLAUSE: Final = "Aliro 1.0 §11.7.2"
_MANY: Final = 64

LAYOUTS: Final[dict[str, tuple[int, int, int]]] = {
    "configs": (0x00, 2, _MANY),
    "pulse_shapes": (0x01, 1, _MANY),
    "session_id": (0x02, 4, 4),
    "channels": (0x03, 1, 1),
    "ran_multiplier": (0x04, 1, 1),
    "slot_mask": (0x05, 1, 1),
    "sync_mask": (0x06, 4, 4),
    "sync_index": (0x07, 1, 1),
    "hopping": (0x08, 1, 1),
    "chaps_per_slot": (0x09, 1, 1),
    "responders": (0x0A, 1, 1),
    "slots_per_round": (0x0B, 1, 1),
    "sts_index0": (0x0C, 4, 4),
    "uwb_time0_us": (0x0D, 8, 8),
    "hop_key": (0x0E, 4, 4),
    "mac_mode": (0x0F, 1, 1),
    "status": (0x11, 1, 1),
    "event_count": (0x00, 8, 8),
    "device_time_us": (0x01, 8, 8),
    "uncertainty": (0x02, 1, 1),
    "skew_available": (0x03, 1, 1),
    "max_ppm": (0x04, 2, 2),
    "success": (0x05, 1, 1),
    "retry_delay_ms": (0x06, 2, 2),
}
"""Attribute of each field: id, least and most bytes."""
_LISTS: Final = {"configs": 2, "pulse_shapes": 1}
"""Fields with several values, and the size of each."""


class _Row:
    """A message whose fields are its attributes, in the order of the fields."""

    __slots__ = ()
    KIND: ClassVar[MessageType] = MessageType.UWB
    ID: ClassVar[int]

    def to_message(self) -> Message:
        """Return the message.

        Raises:
            WireError: A value does not fit its attribute.
        """
        body = bytearray()
        for each in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            number, least, most = LAYOUTS[each.name]
            value = getattr(self, each.name)
            size = _LISTS.get(each.name)
            try:
                if size is None:
                    raw = int(value).to_bytes(least, "big")
                else:
                    raw = b"".join(int(one).to_bytes(size, "big") for one in value)
            except OverflowError as exc:
                raise WireError(f"{each.name} does not fit its attribute", clause=CLAUSE) from exc
            if not least <= len(raw) <= most:
                raise WireError(f"{each.name} has a wrong number of values", clause=CLAUSE)
            body += attribute(number, raw)
        return Message(self.KIND, self.ID, bytes(body))

    def content(self) -> Opaque:
        """Return the message as a session's ``send`` takes it."""
        return Opaque(message=self.to_message())

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Decode the payload of one message in clear.

        Raises:
            WireError: A mandatory attribute is missing, repeated or has another size.
        """
        names = [each.name for each in fields(cls)]  # type: ignore[arg-type]  # as above
        known = {LAYOUTS[name][0]: LAYOUTS[name][1:] for name in names}
        found = attributes(payload, known, CLAUSE)
        values: dict[str, int | tuple[int, ...]] = {}
        for name in names:
            raw = found.get(LAYOUTS[name][0])
            size = _LISTS.get(name)
            if raw is None or (size is not None and len(raw) % size):
                raise WireError(f"{cls.__name__} without a sound {name}", clause=CLAUSE)
            if size is None:
                values[name] = int.from_bytes(raw, "big")
            else:
                values[name] = tuple(
                    int.from_bytes(raw[at : at + size], "big") for at in range(0, len(raw), size)
                )
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingOffer(_Row):
    """M1, reader to device: what the reader can do.

    Attributes:
        configs: UWB configuration identifiers, each 0..65535.
        pulse_shapes: Pulse shape combinations, each initiator nibble then responder nibble.
        channels: Bit 0 channel 5, bit 1 channel 9.
        session_id: Ranging session; the last 4 bytes of the transaction identifier.
    """

    ID: ClassVar[int] = UwbId.M1

    configs: tuple[int, ...]
    pulse_shapes: tuple[int, ...]
    channels: int
    session_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingSelection(_Row):
    """M2, device to reader: one of each, and what the device can do.

    Attributes:
        configs: The one that is selected.
        pulse_shapes: The one that is selected.
        channels: The one that is selected, as a mask of one bit.
        sync_mask: SYNC code indices, bit n - 1 for index n.
        ran_multiplier: Least number of 96 ms in a block.
        slot_mask: Possible chaps per slot, a mask over 3, 4, 6, 8, 9, 12, 24.
        hopping: Possible hopping modes.
    """

    ID: ClassVar[int] = UwbId.M2

    configs: tuple[int, ...]
    pulse_shapes: tuple[int, ...]
    channels: int
    sync_mask: int
    ran_multiplier: int
    slot_mask: int
    hopping: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingPlan(_Row):
    """M3, reader to device: the grid.

    Attributes:
        ran_multiplier: Number of 96 ms in a block.
        chaps_per_slot: 3, 4, 6, 8, 9, 12 or 24 thirds of a millisecond.
        responders: Number of anchors.
        slots_per_round: At least responders + 4.
        sync_mask: SYNC code indices that the reader can do of the device's.
        hopping: The one mode, as a mask.
        mac_mode: Bits 7:6 rounds per block less one, bits 5:0 offset.
    """

    ID: ClassVar[int] = UwbId.M3

    ran_multiplier: int
    chaps_per_slot: int
    responders: int
    slots_per_round: int
    sync_mask: int
    hopping: int
    mac_mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingStart(_Row):
    """M4, device to reader: where ranging begins.

    Attributes:
        sts_index0: First STS index, below 2^30.
        uwb_time0_us: When the first block begins, in the device's UWB time.
        hop_key: Key of the hopping sequence.
        sync_index: The one SYNC code index.
    """

    ID: ClassVar[int] = UwbId.M4

    sts_index0: int
    uwb_time0_us: int
    hop_key: int
    sync_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendRequest(_Row):
    """Suspend RQ, from either side."""

    ID: ClassVar[int] = UwbId.SUSPEND_RQ

    session_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendAnswer(_Row):
    """Suspend RS: 0 accepts, 1 rejects."""

    ID: ClassVar[int] = UwbId.SUSPEND_RS

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest(_Row):
    """Resume RQ, from the reader."""

    ID: ClassVar[int] = UwbId.RESUME_RQ

    session_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeAnswer(_Row):
    """Resume RS, from the device: where ranging goes on; values as in :class:`RangingStart`."""

    ID: ClassVar[int] = UwbId.RESUME_RS

    sts_index0: int
    uwb_time0_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSync(_Row):
    """Time Sync, device to reader: the device's UWB time at a BLE event.

    Attributes:
        event_count: Number of the BLE event.
        device_time_us: The device's UWB time at it, microseconds.
        uncertainty: The time is right within 2^(uncertainty / 8) microseconds.
        skew_available: 1 when ``max_ppm`` holds for this device.
        max_ppm: Greatest deviation of the device's clock.
        success: 1 when the time is valid.
        retry_delay_ms: When to ask again, where it is not.
    """

    KIND: ClassVar[MessageType] = MessageType.SUPPLEMENTARY
    ID: ClassVar[int] = SupplementaryId.TIME_SYNC

    event_count: int
    device_time_us: int
    uncertainty: int
    skew_available: int
    max_ppm: int
    success: int
    retry_delay_ms: int


RangingMessage = (
    RangingOffer
    | RangingSelection
    | RangingPlan
    | RangingStart
    | SuspendRequest
    | SuspendAnswer
    | ResumeRequest
    | ResumeAnswer
    | TimeSync
)

_CLASSES: Final[dict[tuple[MessageType, int], type[_Row]]] = {
    (each.KIND, each.ID): each
    for each in (
        RangingOffer,
        RangingSelection,
        RangingPlan,
        RangingStart,
        SuspendRequest,
        SuspendAnswer,
        ResumeRequest,
        ResumeAnswer,
        TimeSync,
    )
}


def parse_ranging(message: Message) -> RangingMessage:
    """Return what a message of ranging setup or Time Sync says.

    Raises:
        WireError: Not such a message, or malformed.
    """
    found = _CLASSES.get((message.type, message.id))
    if found is None:
        raise WireError(f"{message.name} is no message of ranging", clause=CLAUSE)
    return found.parse(message.payload)  # type: ignore[return-value]  # the table holds only these
