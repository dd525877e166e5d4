"""BER-TLV data objects: what is accepted, what is refused, and at what cost."""

from __future__ import annotations

import time

import pytest

from dkey.codec.tlv import Field, Layout, encode, items, single
from dkey.errors import WireError

STRICT = Layout(
    "STRICT",
    "clause 1",
    Field(0x80, 1, 2),
    Field(0x5F2C, 0, 300, required=False),
    Field(0x81, 3, 3),
    skip_unknown=False,
)
TOLERANT = Layout("TOLERANT", "clause 2", Field(0x80, 1, 2), Field(0x81, 3, 3))
MESSAGE = encode(0x80, b"a") + encode(0x5F2C, b"b" * 200) + encode(0x81, b"ccc")


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, "5c00"),
        (127, "5c7f"),
        (128, "5c8180"),
        (255, "5c81ff"),
        (256, "5c820100"),
        (65535, "5c82ffff"),
        (65536, "5c83010000"),
    ],
)
def test_a_length_takes_its_shortest_form(size: int, head: str) -> None:
    assert encode(0x5C, bytes(size)) == bytes.fromhex(head) + bytes(size)


def test_a_two_byte_tag_is_written_as_one_number() -> None:
    assert encode(0x7F66, b"\x01") == bytes.fromhex("7f660101")


def test_items_give_the_offsets_of_object_and_value() -> None:
    data = encode(0x80, b"ab") + encode(0x7F66, bytes(128))
    assert [*items(data)] == [(0x80, 0, 2, 4), (0x7F66, 4, 8, 136)]


@pytest.mark.parametrize(
    "wire",
    [
        "80",  # no length
        "1f",  # inside a tag
        "7f",
        "7f66",  # two-byte tag, no length
        "7f8001",  # three-byte tag
        "80 80 0000",  # indefinite length
        "80 84 00000000",  # four-byte length
        "80 ff",  # reserved
        "80 81",  # inside a length
        "80 82 01",
        "80 02 00",  # inside a value
        "80 83 ffffff 00",  # claims 16 MiB
    ],
)
def test_a_malformed_object_is_refused(wire: str) -> None:
    with pytest.raises(WireError) as caught:
        [*items(bytes.fromhex(wire))]
    assert caught.value.clause


@pytest.mark.parametrize(
    "wire", ["80 81 01 00", "80 82 0080" + "00" * 128, "80 83 000100" + "00" * 256]
)
def test_a_longer_length_form_is_taken_only_where_it_may_be(wire: str) -> None:
    data = bytes.fromhex(wire)
    assert len([*items(data)]) == 1
    with pytest.raises(WireError, match="shortest"):
        [*items(data, minimal=True)]


def test_single_returns_the_value_of_the_one_object() -> None:
    assert single(encode(0x30, b"abc"), 0x30) == b"abc"


@pytest.mark.parametrize("wire", ["", "310100", "30010030 00", "3001 00 00"])
def test_single_refuses_anything_else(wire: str) -> None:
    with pytest.raises(WireError):
        single(bytes.fromhex(wire), 0x30)


def test_a_layout_returns_the_fields_it_knows() -> None:
    assert STRICT.parse(MESSAGE) == {0x80: b"a", 0x5F2C: b"b" * 200, 0x81: b"ccc"}


def test_an_optional_field_may_be_absent() -> None:
    assert STRICT.parse(encode(0x80, b"a") + encode(0x81, b"ccc")) == {0x80: b"a", 0x81: b"ccc"}


@pytest.mark.parametrize(
    "wire",
    [
        encode(0x80, b"a") * 2 + encode(0x81, b"ccc"),  # repeated
        encode(0x81, b"ccc") + encode(0x80, b"a"),  # wrong order
        encode(0x80, b"a"),  # missing
        encode(0x80, b"") + encode(0x81, b"ccc"),  # too short
        encode(0x80, b"abc") + encode(0x81, b"ccc"),  # too long
        encode(0x80, b"a") + encode(0x82, b"") + encode(0x81, b"ccc"),  # unknown
        b"",
    ],
)
def test_a_strict_layout_refuses_what_it_does_not_prescribe(wire: bytes) -> None:
    with pytest.raises(WireError, match="STRICT") as caught:
        STRICT.parse(wire)
    assert caught.value.clause == "clause 1"


@pytest.mark.parametrize("unknown", [0x82, 0x5F2C, 0x00])
def test_a_tolerant_layout_skips_an_unknown_field_anywhere(unknown: int) -> None:
    extra = encode(unknown, b"xyz")
    wire = extra + encode(0x80, b"a") + extra + encode(0x81, b"ccc") + extra
    assert TOLERANT.parse(wire) == {0x80: b"a", 0x81: b"ccc"}


@pytest.mark.parametrize("size", range(len(MESSAGE)))
def test_a_message_cut_at_any_byte_is_refused(size: int) -> None:
    with pytest.raises(WireError):
        STRICT.parse(MESSAGE[:size])


def test_deep_nesting_costs_no_depth() -> None:
    bomb = b"\x30\x83\x0f\xff\xff" * 1000
    data = encode(0x30, bomb)
    assert single(data, 0x30) == bomb


def test_the_cost_of_parsing_grows_with_the_size_only() -> None:
    def cost_s(count: int) -> float:
        data, best = b"\x82\x00" * count, 9.0
        for _ in range(3):
            start = time.process_time()
            TOLERANT_EMPTY.parse(data)
            best = min(best, time.process_time() - start)
        return best

    # 16 times the bytes: linear is 16, quadratic would be 256.
    assert cost_s(160_000) < 80 * max(cost_s(10_000), 1e-4)


TOLERANT_EMPTY = Layout("EMPTY", "clause 3")
