"""The pcapng writer and reader: what is written comes back, what is damaged is refused."""

from __future__ import annotations

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.errors import WireError
from dkey.trace.pcapng import (
    LINKTYPE_ISO_14443,
    MAX_BLOCK,
    Event,
    Packet,
    crc_a,
    encode_event,
    encode_packet,
    encode_preamble,
    parse_event,
    read_packets,
)

times_ns = st.integers(0, (1 << 64) - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
packets = st.lists(
    st.builds(
        lambda t_ns, data, comments: Packet(
            t_ns=t_ns,
            link_type=LINKTYPE_ISO_14443,
            data=data,
            interface="nfc",
            comments=tuple(comments),
        ),
        times_ns,
        st.binary(max_size=40),
        st.lists(texts, max_size=2),
    ),
    max_size=5,
)


def written(items: list[Packet]) -> bytes:
    return encode_preamble(interface="nfc") + b"".join(
        encode_packet(t_ns=item.t_ns, data=item.data, comments=item.comments) for item in items
    )


def read(data: bytes) -> list[Packet]:
    return list(read_packets(io.BytesIO(data)))


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    total = len(body) + 12
    return struct.pack(order + "II", kind, total) + body + struct.pack(order + "I", total)


def section(order: str = "<", major: int = 1) -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, -1), order)


def interface(order: str = "<", options: bytes = b"", link: int = 264) -> bytes:
    return block(1, struct.pack(order + "HHI", link, 0, 0) + options, order)


def packet(ticks: int, data: bytes, order: str = "<", options: bytes = b"") -> bytes:
    head = struct.pack(order + "IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(6, head + data + bytes(-len(data) % 4) + options, order)


EXAMPLE = [
    Packet(t_ns=1, link_type=264, data=b"\x00\xfc\x00\x00", interface="nfc"),
    Packet(t_ns=2, link_type=264, data=b"\x00\xfa\x00\x01\x26", interface="nfc", comments=("a",)),
]


@given(packets)
def test_what_is_written_is_read_back(items: list[Packet]) -> None:
    assert read(written(items)) == items


def test_every_cut_is_an_error_or_falls_between_two_blocks() -> None:
    whole = written(EXAMPLE)
    ends = {len(written(EXAMPLE[:count])): count for count in range(len(EXAMPLE) + 1)}
    header = len(section()) + 12  # the section header, which carries one option
    ends[header] = 0
    ends[(header + len(written([]))) // 2] = 0  # between two interfaces of the same size
    for cut in range(len(whole)):
        if cut in ends:
            assert read(whole[:cut]) == EXAMPLE[: ends[cut]]
        else:
            with pytest.raises(WireError):
                read(whole[:cut])


@given(packets, st.data())
def test_a_damaged_file_reads_or_raises_a_wire_error_and_nothing_else(
    items: list[Packet], data: st.DataObject
) -> None:
    raw = bytearray(written(items))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        read(bytes(raw))


def test_an_error_says_what_to_try() -> None:
    with pytest.raises(WireError) as caught:
        read(written(EXAMPLE)[:-1])
    assert caught.value.hint


@given(st.binary(max_size=200))
def test_random_bytes_are_no_pcapng(raw: bytes) -> None:
    with pytest.raises(WireError):
        read(raw)


def test_packets_before_the_damage_are_delivered() -> None:
    stream = read_packets(io.BytesIO(written(EXAMPLE)[:-1]))
    assert next(stream) == EXAMPLE[0]
    with pytest.raises(WireError):
        next(stream)


def test_times_are_kept_to_the_nanosecond() -> None:
    assert read(written([EXAMPLE[0]]))[0].t_ns == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(order: str) -> None:
    raw = section(order) + interface(order) + packet(5, b"abc", order)
    assert [(item.t_ns, item.data) for item in read(raw)] == [(5000, b"abc")]


@pytest.mark.parametrize(
    ("option", "ticks", "t_ns"),
    [
        (struct.pack("<HHB3x", 9, 1, 3), 7, 7_000_000),
        (struct.pack("<HHB3x", 9, 1, 0x81), 3, 1_500_000_000),
        (struct.pack("<HHq", 14, 8, 2), 1, 2_000_001_000),
    ],
    ids=["milliseconds", "half seconds", "offset"],
)
def test_other_time_resolutions_are_read(option: bytes, ticks: int, t_ns: int) -> None:
    raw = section() + interface(options=option) + packet(ticks, b"")
    assert [item.t_ns for item in read(raw)] == [t_ns]


def test_unknown_blocks_are_passed_over() -> None:
    raw = section() + interface() + block(5, bytes(20)) + packet(1, b"")
    assert len(read(raw)) == 1


def test_a_second_section_starts_with_no_interfaces() -> None:
    with pytest.raises(WireError, match="not described"):
        read(section() + interface() + section() + packet(1, b""))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "cut short"),
        (section(major=2), "version"),
        (section() + packet(1, b""), "not described"),
        (section() + interface() + block(3, bytes(8)), "old kind"),
        (section() + interface(options=b"\x02\x00\x09\x00aaaa"), "longer than its block"),
        (section() + interface(options=bytes(4) + b"aaaa"), "follow the end"),
        (section() + interface(options=b"\x02\x00\x01\x00\xff\x00\x00\x00"), "UTF-8"),
        (section() + interface(options=b"\x09\x00\x02\x00\x01\x01\x00\x00"), "tsresol"),
        (section() + struct.pack("<II", 6, MAX_BLOCK + 4), "claims"),
        (section() + interface() * 257, "interfaces"),
        (section() + interface()[:-4] + struct.pack("<I", 24), "lengths differ"),
        (
            section() + interface(options=struct.pack("<HHq", 14, 8, -9)) + packet(1, b""),
            "does not fit",
        ),
    ],
)
def test_a_malformed_block_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        read(raw)


@pytest.mark.parametrize(
    ("magic", "t_ns"), [(0xA1B2C3D4, 3_000_007_000), (0xA1B23C4D, 3_000_000_007)]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_classic_pcap_is_read(order: str, magic: int, t_ns: int) -> None:
    raw = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 264)
    raw += struct.pack(order + "IIII", 3, 7, 2, 2) + b"ab"
    assert read(raw) == [Packet(t_ns=t_ns, link_type=264, data=b"ab")]
    for cut in set(range(len(raw))) - {24}:
        with pytest.raises(WireError):
            read(raw[:cut])


def test_a_time_that_does_not_fit_is_not_written() -> None:
    with pytest.raises(ValueError, match="64-bit"):
        encode_packet(t_ns=1 << 64, data=b"")


def test_a_packet_that_the_reader_would_refuse_is_not_written() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        encode_packet(t_ns=0, data=bytes(MAX_BLOCK))


@given(st.sampled_from([Event.READER_NO_CRC, Event.DEVICE_NO_CRC]), st.binary(max_size=300))
def test_an_event_is_read_back(event: Event, frame: bytes) -> None:
    assert parse_event(encode_event(event, frame)) == (event, frame)


@given(st.binary(min_size=1, max_size=50))
def test_a_right_crc_is_dropped(frame: bytes) -> None:
    assert parse_event(encode_event(Event.READER, frame + crc_a(frame)))[1] == frame


def test_crc_a_is_that_of_the_standard() -> None:
    # ISO/IEC 14443-3 annex B: CRC_A of 12 34 is sent as 26 CF.
    assert crc_a(b"\x12\x34") == b"\x26\xcf"


def test_a_frame_without_crc_keeps_its_last_bytes() -> None:
    assert parse_event(encode_event(Event.DEVICE, b"\x04\x00"))[1] == b"\x04\x00"


@pytest.mark.parametrize(
    "raw", [b"", b"\x00\xfa\x00", b"\x01\xfa\x00\x00", b"\x00\x11\x00\x00", b"\x00\xfa\x00\x02a"]
)
def test_a_bad_pseudo_header_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        parse_event(raw)


def test_a_field_event_carries_nothing() -> None:
    with pytest.raises(WireError):
        parse_event(b"\x00\xfc\x00\x01a")


def test_a_frame_too_long_for_its_length_field_is_not_written() -> None:
    with pytest.raises(ValueError, match="16-bit"):
        encode_event(Event.READER_NO_CRC, bytes(0x10000))
