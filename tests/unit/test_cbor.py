"""Deterministic CBOR: one form for each value, everything else refused."""

from __future__ import annotations

import time
from typing import Any

import cbor2
import pytest

from dkey.codec import cbor
from dkey.errors import WireError


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (-1, "20"),
        (1 << 32, "1b0000000100000000"),
        (b"\x01", "4101"),
        ("ü", "62c3bc"),
        ([1, [2]], "82018102"),
        ({"b": 1, "a": 2, 10: 3, -1: 4}, "a40a032004616102616201"),
        ({"aa": 1, "b": 2}, "a261620262616101"),
        (True, "f5"),
        (None, "f6"),
        (cbor.Tag(18, b""), "d240"),
    ],
)
def test_a_value_has_its_one_encoding(value: Any, wire: str) -> None:
    assert cbor.encode(value).hex() == wire
    assert cbor.decode(bytes.fromhex(wire)) == value


def test_a_tagged_list_with_a_map_comes_back() -> None:
    wire = cbor.encode(cbor.Tag(18, [b"", {1: 2}, b"payload", b"signature"]))
    protected, unprotected, payload, signature = cbor.decode(wire).value
    assert (protected, dict(unprotected), payload, signature) == (
        b"",
        {1: 2},
        b"payload",
        b"signature",
    )


def test_maps_are_sorted_at_every_depth() -> None:
    assert cbor.encode([{2: {4: 0, 3: 0}, 1: 0}]).hex() == "81a2010002a203000400"


@pytest.mark.parametrize(
    "wire",
    [
        "",
        "18",  # truncated
        "1817",  # 23 in two bytes
        "190017",
        "5801ff",  # length in two bytes
        "a2020001 00",  # keys not sorted
        "a2010001 00",  # duplicate key
        "9f01ff",  # indefinite array
        "5f4101ff",  # indefinite string
        "bf0101ff",
        "0000",  # trailing byte
        "f90000",  # floats
        "fa00000000",
        "fb0000000000000000",
        "f7",  # undefined
        "f0",  # unassigned simple value
        "f801",
        "62c328",  # not UTF-8
        "1c",  # reserved
        "ff",  # break without a start
        "c24101",  # 1 as a bignum
        "c11a00000000",  # time as a number
        "d81c80",  # shared value
        "d90100 82 61 61 61 61",  # string references
        "d9010280",  # set
        "9b7fffffffffffffff",  # a claimed size
        "5b7fffffffffffffff",
    ],
)
def test_anything_but_the_deterministic_form_is_refused(wire: str) -> None:
    with pytest.raises(WireError) as caught:
        cbor.decode(bytes.fromhex(wire))
    assert caught.value.clause


@pytest.mark.parametrize("value", [1.0, {1, 2}, object(), bytearray(b"x"), [1.5]])
def test_a_value_without_a_deterministic_form_is_not_encoded(value: Any) -> None:
    with pytest.raises(TypeError):
        cbor.encode(value)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_up_to_32_is_accepted() -> None:
    assert cbor.decode(cbor.encode(nested(32))) == nested(32)


def test_deeper_nesting_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="32"):
        cbor.encode(nested(33))


@pytest.mark.parametrize("depth", [33, 1000, 100_000])
def test_deeper_nesting_is_refused(depth: int) -> None:
    with pytest.raises(WireError):
        cbor.decode(b"\x81" * depth + b"\x00")


def test_a_value_over_one_mebibyte_is_refused() -> None:
    with pytest.raises(WireError, match="1048576"):
        cbor.decode(cbor2.dumps(bytes(1 << 20)))


def test_shared_values_do_not_multiply() -> None:
    # Each level holds the one below twice: 166 bytes stand for 2**18 empty lists.
    levels = [b"\xd8\x1c\x80"]
    for index in range(18):
        reference = b"\xd8\x1d" + cbor2.dumps(index)
        levels.append(b"\xd8\x1c\x82" + reference * 2)
    bomb = bytes((0x80 | len(levels),)) + b"".join(levels)
    start = time.process_time()
    with pytest.raises(WireError):
        cbor.decode(bomb)
    assert time.process_time() - start < 0.25
