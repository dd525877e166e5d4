"""UCI packets: the header, segments, and the byte stream they travel in (specs/ranging.md §6).

Wire of a control packet: ``type(3 bits) more(1) group(4) || opcode(6, 2 reserved) || 00 ||
length(1) || payload``. Of a data packet: ``type 0(3) more(1) format(4) || 00 || length(2) ||
payload``. Integers are little-endian. What payloads mean is in :mod:`dkey.codec.uci_messages`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from dkey.errors import LocalFault, WireError

__all__ = [
    "CONTROL_PAYLOAD_MAX",
    "DATA_PAYLOAD_MAX",
    "HEADER_SIZE",
    "MESSAGE_MAX",
    "Group",
    "Packet",
    "PacketType",
    "Reassembler",
    "packet_size",
    "segments",
]

CLAUSE: Final = "FiRa UCI, specs/ranging.md §6"
HEADER_SIZE: Final = 4
CONTROL_PAYLOAD_MAX: Final = 255
DATA_PAYLOAD_MAX: Final = 4096 - HEADER_SIZE
"""Payload of a data packet that is taken (ours); the length field could state 65535."""
MESSAGE_MAX: Final = 16384
"""Longest message that is put together from segments, bytes (ours)."""


class PacketType(IntEnum):
    """First three bits of a packet."""

    DATA = 0
    COMMAND = 1
    RESPONSE = 2
    NOTIFICATION = 3


class Group(IntEnum):
    """Group identifiers of control packets that the codec knows; others are carried opaquely."""

    CORE = 0x0
    SESSION_CONFIG = 0x1
    SESSION_CONTROL = 0x2
    DATA_CONTROL = 0x3
    ANDROID = 0xC
    TEST = 0xD


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One packet on the wire, or one message whose segments were put together.

    Attributes:
        type: What kind of packet.
        group: Group identifier of a control packet, data packet format of a data packet, 0..15.
        opcode: 0..63; 0 in a data packet.
        payload: At most 255 bytes in one control packet, 4092 in one data packet. It is left out
            of the repr: a session key may stand in it.
        more: Whether segments follow.
    """

    type: PacketType
    group: int
    opcode: int = 0
    payload: bytes = field(default=b"", repr=False)
    more: bool = False

    def to_bytes(self) -> bytes:
        """Encode one packet.

        Raises:
            LocalFault: A field does not fit; see :func:`segments` for longer payloads.
        """
        data = self.type is PacketType.DATA
        limit = DATA_PAYLOAD_MAX if data else CONTROL_PAYLOAD_MAX
        opcodes = 0 if data else 0x3F
        if not 0 <= self.group <= 15 or not 0 <= self.opcode <= opcodes:
            raise LocalFault("a UCI group is 0..15, an opcode 0..63", clause=CLAUSE)
        if len(self.payload) > limit:
            raise LocalFault(f"a UCI packet carries at most {limit} bytes", clause=CLAUSE)
        first = self.type << 5 | self.more << 4 | self.group
        size = len(self.payload).to_bytes(2, "little" if data else "big")
        return bytes((first, self.opcode)) + size + self.payload

    @classmethod
    def parse(cls, data: bytes, *, strict: bool = True) -> Packet:
        """Decode exactly one packet.

        Args:
            data: Header and payload.
            strict: Refuse reserved bits that are set; without it they are ignored.

        Raises:
            WireError: Too short, a length that does not add up, an unknown packet type.
        """
        if packet_size(data[:HEADER_SIZE]) != len(data):
            raise WireError("a UCI packet is not as long as its header says", clause=CLAUSE)
        kind = PacketType(data[0] >> 5)
        plain = kind is PacketType.DATA
        reserved = data[1] if plain else data[1] & 0xC0 | data[2]
        if strict and reserved:
            raise WireError("reserved bits of a UCI header are set", clause=CLAUSE)
        return cls(
            type=kind,
            group=data[0] & 0x0F,
            opcode=0 if plain else data[1] & 0x3F,
            payload=data[HEADER_SIZE:],
            more=bool(data[0] & 0x10),
        )


def packet_size(header: bytes) -> int:
    """Return the length of the packet, header included, that starts with these 4 bytes.

    Raises:
        WireError: Not 4 bytes, an unknown packet type, or a data packet that is too long.
    """
    if len(header) != HEADER_SIZE:
        raise WireError("a UCI packet ends inside its header", clause=CLAUSE)
    if header[0] >> 5 > PacketType.NOTIFICATION:
        raise WireError(f"UCI packet type {header[0] >> 5} is not defined", clause=CLAUSE)
    if header[0] >> 5 != PacketType.DATA:
        return HEADER_SIZE + header[3]
    size = int.from_bytes(header[2:4], "little")
    if size > DATA_PAYLOAD_MAX:
        raise WireError(f"a UCI data packet of {size} bytes is too long", clause=CLAUSE)
    return HEADER_SIZE + size


def segments(message: Packet, *, limit: int | None = None) -> list[Packet]:
    """Return the packets that carry a message, at least one.

    Args:
        message: Its payload may be longer than one packet's.
        limit: Longest payload of one packet; by default what the packet type allows.

    Raises:
        LocalFault: Longer than MESSAGE_MAX, or a limit below 1.
    """
    most = DATA_PAYLOAD_MAX if message.type is PacketType.DATA else CONTROL_PAYLOAD_MAX
    most = most if limit is None else min(limit, most)
    if most < 1 or len(message.payload) > MESSAGE_MAX:
        raise LocalFault(f"a UCI message has at most {MESSAGE_MAX} bytes", clause=CLAUSE)
    total = len(message.payload)
    return [
        Packet(
            type=message.type,
            group=message.group,
            opcode=message.opcode,
            payload=message.payload[at : at + most],
            more=at + most < total,
        )
        for at in range(0, max(total, 1), most)
    ]


class Reassembler:
    """Puts segments together; each packet type has at most one message under way."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[PacketType, tuple[int, int, bytes]] = {}

    def add(self, packet: Packet) -> Packet | None:
        """Take one packet; return the whole message, or None while segments are missing.

        Raises:
            WireError: A segment of another message in between, or a message that gets too long.
                What had arrived of that packet type is dropped.
        """
        started = self._parts.pop(packet.type, None)
        before = b""
        if started is not None:
            group, opcode, before = started
            if (group, opcode) != (packet.group, packet.opcode):
                raise WireError("another message stands between UCI segments", clause=CLAUSE)
        payload = before + packet.payload
        if len(payload) > MESSAGE_MAX:
            raise WireError(f"a UCI message of more than {MESSAGE_MAX} bytes", clause=CLAUSE)
        if packet.more:
            if not packet.payload:
                raise WireError("an empty UCI segment that is not the last", clause=CLAUSE)
            self._parts[packet.type] = (packet.group, packet.opcode, payload)
            return None
        return Packet(type=packet.type, group=packet.group, opcode=packet.opcode, payload=payload)

    def reset(self) -> None:
        """Forget what is under way."""
        self._parts.clear()
