"""pcapng files of ISO 14443 frames (link type 264) and BLE messages: writer and strict reader.

Only what a trace needs: one section, interfaces with a name and nanosecond times, enhanced packet
blocks with comments. The reader also takes what other programs write (either byte order, other
time resolutions, unknown blocks) and classic pcap files. It holds one block in memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, BinaryIO

from dkey.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "LINKTYPE_ISO_14443",
    "LINKTYPE_MESSAGE",
    "MAX_BLOCK",
    "Event",
    "Packet",
    "crc_a",
    "encode_event",
    "encode_packet",
    "encode_preamble",
    "parse_event",
    "read_packets",
]

LINKTYPE_ISO_14443 = 264
LINKTYPE_MESSAGE = 147
"""USER0: one BLE message behind one byte of direction, 00 from the device, 01 from the reader."""
MAX_BLOCK = 1 << 20
"""Largest block or record that the reader takes, bytes. Ours stay below 140 000."""

_MAX_INTERFACES = 256
_SHB, _IDB, _OPB, _SPB, _EPB = 0x0A0D0D0A, 1, 2, 3, 6
_MAGIC = 0x1A2B3C4D
_PCAP_UNITS_NS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
_OPT_END, _OPT_COMMENT, _OPT_IF_NAME, _OPT_USER_APPL = 0, 1, 2, 4
_OPT_IF_TSRESOL, _OPT_IF_TSOFFSET = 9, 14
_CLAUSE = "draft-ietf-opsawg-pcapng"
_HINT = "record the trace again, or open it in Wireshark, which shows what precedes the damage"


class Event(IntEnum):
    """Event byte of the ISO 14443 pseudo header."""

    READER_NO_CRC = 0xFA
    DEVICE_NO_CRC = 0xFB
    FIELD_ON = 0xFC
    FIELD_OFF = 0xFD
    READER = 0xFE
    DEVICE = 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One captured packet.

    Attributes:
        t_ns: Time since the Unix epoch, nanoseconds.
        link_type: Link type of its interface; 264 for ISO 14443.
        data: Captured bytes, pseudo header included.
        interface: Name of its interface, empty when the file states none.
        comments: Comments on this packet, in file order.
    """

    t_ns: int
    link_type: int
    data: bytes
    interface: str = ""
    comments: tuple[str, ...] = ()


def encode_preamble(*, interface: str, application: str = "dkey") -> bytes:
    """Return section header and interface descriptions: how every file of ours begins.

    Interface 0 carries ISO 14443 frames, interface 1 BLE messages. Little-endian; the length of
    the section is unknown (-1), so that a file is complete after each block.
    """
    section = struct.pack("<IHHq", _MAGIC, 1, 0, -1)
    section += _options([(_OPT_USER_APPL, application.encode())])
    links = b""
    for link_type, name in ((LINKTYPE_ISO_14443, interface), (LINKTYPE_MESSAGE, "ble")):
        link = struct.pack("<HHI", link_type, 0, 0)
        link += _options([(_OPT_IF_NAME, name.encode()), (_OPT_IF_TSRESOL, b"\x09")])
        links += _block(_IDB, link)
    return _block(_SHB, section) + links


def encode_packet(
    *, t_ns: int, data: bytes, comments: Sequence[str] = (), interface: int = 0
) -> bytes:
    """Return one enhanced packet block.

    Raises:
        ValueError: ``t_ns`` does not fit 64 bits, or ``data`` or a comment is too long.
    """
    if not 0 <= t_ns < 1 << 64:
        raise ValueError(f"time {t_ns} ns does not fit an unsigned 64-bit number")
    texts = [(_OPT_COMMENT, text.encode()) for text in comments]
    head = struct.pack("<IIIII", interface, t_ns >> 32, t_ns & 0xFFFFFFFF, len(data), len(data))
    block = _block(_EPB, head + _padded(data) + (_options(texts) if texts else b""))
    if len(block) > MAX_BLOCK:
        raise ValueError(f"a packet block of {len(block)} bytes exceeds {MAX_BLOCK}")
    return block


def encode_event(event: Event, data: bytes = b"") -> bytes:
    """Return pseudo header ``00 | event | length (2, big-endian)`` and ``data`` (0..65535 bytes).

    Raises:
        ValueError: ``data`` is longer than its length field can say.
    """
    if len(data) > 0xFFFF:
        raise ValueError(f"a frame of {len(data)} bytes does not fit the 16-bit length")
    return struct.pack(">BBH", 0, event, len(data)) + data


def parse_event(packet: bytes) -> tuple[Event, bytes]:
    """Return event and frame of one packet of link type 264, the frame without its CRC.

    With the events that carry a CRC the last two bytes are dropped when they are the right CRC_A;
    short frames and anticollision have none.

    Raises:
        WireError: Unknown version or event, or the length is not that of the rest.
    """
    if len(packet) < 4:
        raise WireError("ISO 14443 pseudo header cut short", clause="LINKTYPE 264", hint=_HINT)
    version, code, length = struct.unpack_from(">BBH", packet)
    frame = packet[4:]
    if version != 0 or length != len(frame):
        raise WireError(
            f"ISO 14443 pseudo header version {version}, length {length} before {len(frame)} bytes",
            clause="LINKTYPE 264",
            hint=_HINT,
        )
    try:
        event = Event(code)
    except ValueError as exc:
        raise WireError(
            f"unknown ISO 14443 event {code:02X}", clause="LINKTYPE 264", hint=_HINT
        ) from exc
    if event in (Event.FIELD_ON, Event.FIELD_OFF) and frame:
        raise WireError(f"field event with {len(frame)} bytes", clause="LINKTYPE 264", hint=_HINT)
    if event in (Event.READER, Event.DEVICE) and len(frame) > 2 and frame[-2:] == crc_a(frame[:-2]):
        frame = frame[:-2]
    return event, frame


def read_packets(stream: BinaryIO) -> Iterator[Packet]:
    """Yield the packets of a pcapng or pcap file, in file order.

    A file cut between two blocks is a shorter file and reads without complaint; any other cut or
    damage ends the iteration with an error after the packets before it.

    Raises:
        WireError: The bytes are not a pcapng or pcap file, or the file is damaged.
    """
    magic = _exactly(stream, 4, "the file header")
    for order in ("<", ">"):
        (number,) = struct.unpack(order + "I", magic)
        if number in _PCAP_UNITS_NS:
            yield from _read_pcap(stream, order, _PCAP_UNITS_NS[number])
            return
    if magic != struct.pack("<I", _SHB):
        raise _damaged("the file is neither pcapng nor pcap")
    yield from _read_pcapng(stream, magic)


# Writing -----------------------------------------------------------------------------------------


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(items: Sequence[tuple[int, bytes]]) -> bytes:
    out = bytearray()
    for code, value in items:
        if len(value) > 0xFFFF:
            raise ValueError(f"an option of {len(value)} bytes does not fit its 16-bit length")
        out += struct.pack("<HH", code, len(value)) + _padded(value)
    return bytes(out) + struct.pack("<HH", _OPT_END, 0)


def _block(kind: int, body: bytes) -> bytes:
    total = len(body) + 12
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


# Reading -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Interface:
    link_type: int
    name: str
    ticks_per_s: int
    offset_s: int

    def time_ns(self, ticks: int) -> int:
        t_ns = ticks * 1_000_000_000 // self.ticks_per_s + self.offset_s * 1_000_000_000
        if not 0 <= t_ns < 1 << 64:
            raise _damaged("a packet's time does not fit 64 bits of nanoseconds")
        return t_ns


def _damaged(why: str) -> WireError:
    return WireError(why, clause=_CLAUSE, hint=_HINT)


def _exactly(stream: BinaryIO, size: int, what: str) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise _damaged(f"{what} is cut short: {len(data)} of {size} bytes")
    return data


def _read_pcapng(stream: BinaryIO, first: bytes) -> Iterator[Packet]:
    order = "<"
    interfaces: list[_Interface] = []
    raw_kind = first
    while raw_kind:
        if len(raw_kind) != 4:
            raise _damaged("a block header is cut short")
        if raw_kind == first:  # the section header reads the same in both byte orders
            order, body = _section(stream)
            interfaces = []
            _parse_options(body[16:], order)
        else:
            (kind,) = struct.unpack(order + "I", raw_kind)
            body = _body(stream, _exactly(stream, 4, "a block header"), order)
            if kind == _IDB:
                if len(interfaces) == _MAX_INTERFACES:
                    raise _damaged(f"more than {_MAX_INTERFACES} interfaces")
                interfaces.append(_parse_interface(body, order))
            elif kind == _EPB:
                yield _parse_packet(body, order, interfaces)
            elif kind in (_OPB, _SPB):
                raise _damaged("a packet block of an old kind, without a usable time")
        raw_kind = stream.read(4)


def _section(stream: BinaryIO) -> tuple[str, bytes]:
    """Read the rest of a section header; return byte order and body (magic first)."""
    raw_total = _exactly(stream, 4, "the section header")
    raw_magic = _exactly(stream, 4, "the section header")
    for order in ("<", ">"):
        if struct.unpack(order + "I", raw_magic)[0] == _MAGIC:
            body = _body(stream, raw_total, order, head=raw_magic)
            if len(body) < 16:
                raise _damaged("the section header is too small")
            if struct.unpack_from(order + "H", body, 4)[0] != 1:
                raise _damaged("the section has an unknown major version")
            return order, body
    raise _damaged("the section header has no byte-order magic")


def _body(stream: BinaryIO, raw_total: bytes, order: str, head: bytes = b"") -> bytes:
    """Read the rest of a block after its length; return its body, which begins with ``head``."""
    (total,) = struct.unpack(order + "I", raw_total)
    if total < 12 + len(head) or total % 4 or total > MAX_BLOCK:
        raise _damaged(f"a block claims {total} bytes")
    rest = _exactly(stream, total - 8 - len(head), "a block")
    if rest[-4:] != raw_total:
        raise _damaged("a block's two lengths differ")
    return head + rest[:-4]


def _parse_options(data: bytes, order: str) -> list[tuple[int, bytes]]:
    options: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if len(data) - at < 4:
            raise _damaged("an option is cut short")
        code, length = struct.unpack_from(order + "HH", data, at)
        value = data[at + 4 : at + 4 + length]
        if len(value) != length:
            raise _damaged("an option is longer than its block")
        at += 4 + length + -length % 4
        if code == _OPT_END:
            if length or at != len(data):
                raise _damaged("bytes follow the end of the options")
            break
        options.append((code, value))
    return options


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise _damaged("a text option is not UTF-8") from exc


def _parse_interface(body: bytes, order: str) -> _Interface:
    if len(body) < 8:
        raise _damaged("an interface description is too small")
    name, ticks_per_s, offset_s = "", 1_000_000, 0
    for code, value in _parse_options(body[8:], order):
        if code == _OPT_IF_NAME:
            name = _text(value)
        elif code == _OPT_IF_TSRESOL:
            if len(value) != 1:
                raise _damaged("if_tsresol is not one byte")
            ticks_per_s = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        elif code == _OPT_IF_TSOFFSET:
            if len(value) != 8:
                raise _damaged("if_tsoffset is not eight bytes")
            (offset_s,) = struct.unpack(order + "q", value)
    (link_type,) = struct.unpack_from(order + "H", body)
    return _Interface(link_type=link_type, name=name, ticks_per_s=ticks_per_s, offset_s=offset_s)


def _parse_packet(body: bytes, order: str, interfaces: list[_Interface]) -> Packet:
    if len(body) < 20:
        raise _damaged("a packet block is too small")
    index, high, low, captured, original = struct.unpack_from(order + "IIIII", body)
    if index >= len(interfaces):
        raise _damaged(f"a packet names interface {index}, which is not described")
    end = 20 + captured + -captured % 4
    if end > len(body) or captured > original:
        raise _damaged(f"a packet claims {captured} of {original} bytes in a block of {len(body)}")
    interface = interfaces[index]
    return Packet(
        t_ns=interface.time_ns(high << 32 | low),
        link_type=interface.link_type,
        data=body[20 : 20 + captured],
        interface=interface.name,
        comments=tuple(
            _text(value)
            for code, value in _parse_options(body[end:], order)
            if code == _OPT_COMMENT
        ),
    )


def _read_pcap(stream: BinaryIO, order: str, unit_ns: int) -> Iterator[Packet]:
    head = _exactly(stream, 20, "the pcap header")
    major, _minor, _zone, _sigfigs, _snaplen, link = struct.unpack(order + "HHiIII", head)
    if major != 2:
        raise _damaged(f"pcap version {major}")
    while raw := stream.read(16):
        if len(raw) != 16:
            raise _damaged("a pcap record header is cut short")
        seconds, fraction, captured, original = struct.unpack(order + "IIII", raw)
        if captured > min(original, MAX_BLOCK):
            raise _damaged(f"a pcap record claims {captured} of {original} bytes")
        yield Packet(
            t_ns=seconds * 1_000_000_000 + fraction * unit_ns,
            link_type=link & 0xFFFF,
            data=_exactly(stream, captured, "a pcap record"),
        )


def crc_a(frame: bytes) -> bytes:
    """Return the CRC_A of ``frame`` as sent, two bytes (ISO/IEC 14443-3 §6.2.4)."""
    crc = 0x6363
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
    return crc.to_bytes(2, "little")
