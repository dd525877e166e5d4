"""Properties of the codecs: total on any bytes, canonical, and both ends of a chain agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dkey.access.certificate import ReaderCertificate
from dkey.codec import cbor
from dkey.codec.apdu import (
    GET_RESPONSE,
    SW,
    Assembler,
    Command,
    Limits,
    Response,
    Splitter,
    exchange,
)
from dkey.codec.tlv import Field, Layout, encode, items, single
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

TAGS = st.integers(0, 0xFF).filter(lambda tag: tag & 0x1F != 0x1F) | st.builds(
    lambda first, second: first << 8 | second,
    st.integers(0, 7).map(lambda high: high << 5 | 0x1F),
    st.integers(0, 0x7F),
)
VALUES = st.binary(max_size=40) | st.integers(120, 300).map(bytes)
LAYOUT = Layout(
    "L", "clause", Field(0x80, 0, 8), Field(0x5F2C, 0, 300), Field(0x81, 1, 9), skip_unknown=False
)
TOLERANT = Layout("T", "clause", Field(0x80, 0, 8), Field(0x81, 1, 9, required=False))
PARSERS: dict[str, Callable[[bytes], object]] = {
    "items": lambda data: [*items(data)],
    "minimal items": lambda data: [*items(data, minimal=True)],
    "single": lambda data: single(data, 0x30),
    "layout": LAYOUT.parse,
    "tolerant layout": TOLERANT.parse,
    "command": Command.parse,
    "response": Response.parse,
    "cbor": cbor.decode,
    "point": PublicKey.parse,
    "certificate": ReaderCertificate.expand,
    "x509": ReaderCertificate.from_x509,
}


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=300))
def test_a_parser_raises_nothing_but_a_wire_error(name: str, data: bytes) -> None:
    try:
        PARSERS[name](data)
    except WireError as exc:
        assert exc.clause  # noqa: PT017 - most inputs raise, some do not


SUBJECT = PrivateKey.from_scalar(bytes(31) + b"\x06").public
ISSUER = PrivateKey.from_scalar(bytes(31) + b"\x05").public
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
TIMES = st.sampled_from(["200101000000Z", "20491231235959Z", "490101000000Z", "251224180000Z"])
CERTIFICATES = st.builds(
    ReaderCertificate,
    serial=st.binary(min_size=1, max_size=20),
    issuer=NAMES | st.just("issuer"),
    not_before=TIMES,
    not_after=TIMES,
    subject=NAMES | st.just("subject"),
    public_key=st.just(SUBJECT),
    signature_der=st.binary(min_size=8, max_size=72),
)


@given(certificate=CERTIFICATES)
def test_a_certificate_is_the_same_after_the_wire_and_after_x509(
    certificate: ReaderCertificate,
) -> None:
    wire = certificate.compress()
    assert ReaderCertificate.expand(wire) == certificate
    assert ReaderCertificate.expand(wire).compress() == wire
    assert ReaderCertificate.from_x509(certificate.to_x509(ISSUER)) == certificate


@given(certificate=CERTIFICATES, data=st.data())
def test_a_changed_certificate_is_refused_or_is_another_certificate(
    certificate: ReaderCertificate, data: st.DataObject
) -> None:
    wire = bytearray(certificate.compress())
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = ReaderCertificate.expand(bytes(wire))
    except WireError:
        return
    assert changed != certificate


@given(st.lists(st.tuples(TAGS, VALUES), max_size=12))
def test_objects_come_back_as_they_were_written(objects: list[tuple[int, bytes]]) -> None:
    data = b"".join(encode(tag, value) for tag, value in objects)
    found = [(tag, data[at:end]) for tag, _, at, end in items(data, minimal=True)]
    assert found == objects


@given(st.binary(max_size=200))
def test_minimal_objects_have_one_encoding(data: bytes) -> None:
    try:
        found = [*items(data, minimal=True)]
    except WireError:
        return
    assert b"".join(encode(tag, data[at:end]) for tag, _, at, end in found) == data


@given(st.lists(st.tuples(TAGS, VALUES), min_size=1, max_size=6), st.data())
def test_objects_cut_inside_are_refused(
    objects: list[tuple[int, bytes]], draw: st.DataObject
) -> None:
    parts = [encode(tag, value) for tag, value in objects]
    whole = b"".join(parts)
    borders = {sum(map(len, parts[:n])) for n in range(len(parts) + 1)}
    size = draw.draw(st.sampled_from([n for n in range(len(whole)) if n not in borders]))
    with pytest.raises(WireError):
        [*items(whole[:size])]


@given(st.permutations([0x80, 0x5F2C, 0x81]))
def test_a_layout_takes_its_fields_in_one_order_only(order: list[int]) -> None:
    wire = b"".join(encode(tag, b"x") for tag in order)
    if order == [0x80, 0x5F2C, 0x81]:
        assert set(LAYOUT.parse(wire)) == set(order)
    else:
        with pytest.raises(WireError):
            LAYOUT.parse(wire)


@given(st.lists(st.sampled_from([0x80, 0x5F2C, 0x81]), max_size=8))
def test_a_layout_takes_each_field_at_most_once(order: list[int]) -> None:
    wire = b"".join(encode(tag, b"x") for tag in order)
    if order == [0x80, 0x5F2C, 0x81]:
        return
    with pytest.raises(WireError):
        LAYOUT.parse(wire)


@given(st.lists(st.tuples(TAGS, VALUES), max_size=4), st.lists(st.tuples(TAGS, VALUES), max_size=4))
def test_what_a_tolerant_layout_skips_changes_nothing(
    before: list[tuple[int, bytes]], behind: list[tuple[int, bytes]]
) -> None:
    def wire(objects: list[tuple[int, bytes]]) -> bytes:
        return b"".join(encode(t, v) for t, v in objects if t not in (0x80, 0x81))

    message = encode(0x80, b"a") + wire(before) + encode(0x81, b"b")
    assert TOLERANT.parse(wire(behind) + message + wire(before)) == {0x80: b"a", 0x81: b"b"}


COMMANDS = st.builds(
    Command,
    *(st.integers(0, 255) for _ in range(4)),
    st.binary(max_size=20) | st.integers(250, 600).map(bytes),
    st.none() | st.integers(1, 65536),
    st.booleans(),
)


@given(COMMANDS)
@example(Command(0, 0, 0, 0, bytes(255), 256))
@example(Command(0, 0, 0, 0, bytes(65535), 65536))
def test_a_command_comes_back_as_it_was_written(command: Command) -> None:
    again = Command.parse(command.to_bytes())
    assert (again.cla, again.ins, again.p1, again.p2) == (
        command.cla,
        command.ins,
        command.p1,
        command.p2,
    )
    assert (again.data, again.le) == (command.data, command.le)
    assert again.to_bytes() == command.to_bytes()


@given(
    st.binary(min_size=4, max_size=20)
    | st.binary(min_size=2, max_size=9).map(b"\0\0\0\0\0".__add__)
)
def test_a_parsed_command_has_one_encoding(data: bytes) -> None:
    try:
        command = Command.parse(data)
    except WireError:
        return
    assert command.to_bytes() == data


@given(st.binary(max_size=300), st.integers(0, 0xFFFF))
def test_a_response_comes_back_as_it_was_written(data: bytes, sw: int) -> None:
    assert Response.parse(Response(data, sw).to_bytes()) == Response(data, sw)


class Device:
    """A device made of :class:`Assembler` and :class:`Splitter` that answers what it is given."""

    def __init__(self, answer: bytes, *, wants: int | None = None) -> None:
        self.heard: list[Command] = []
        self.largest = 0
        self._answer = answer
        self._wants = wants
        self._assembler, self._splitter = Assembler(limit=65536), Splitter()

    def respond(self, apdu: bytes) -> bytes:
        self.largest = max(self.largest, len(apdu))
        command = Command.parse(apdu)
        if command.ins == GET_RESPONSE:
            return self._splitter.next(command.le).to_bytes()
        whole = self._assembler.feed(command)
        if whole is None:
            return Response().to_bytes()
        self.heard.append(whole)
        if self._wants is not None and whole.le != self._wants:
            return Response(b"", 0x6C00 | (self._wants & 0xFF)).to_bytes()
        return self._splitter.first(Response(self._answer), whole.le).to_bytes()


def drive(procedure: Generator[bytes, bytes, Response], device: Device) -> Response:
    try:
        apdu = next(procedure)
        while True:
            apdu = procedure.send(device.respond(apdu))
    except StopIteration as end:
        result: Response = end.value
        return result


SIZES = st.integers(0, 2000) | st.sampled_from([254, 255, 256, 257, 510, 511, 512, 765])


@given(
    question=SIZES,
    answer=SIZES,
    le=st.integers(1, 256),
    command=st.sampled_from([261, 262, 300, 1000, 65544]),
)
def test_both_ends_of_chaining_agree_for_any_sizes(
    question: int, answer: int, le: int, command: int
) -> None:
    data = bytes(n % 251 for n in range(question))
    device = Device(bytes(n % 241 for n in range(answer)))
    result = drive(exchange(Command(0x80, 1, 2, 3, data, le), Limits(command=command)), device)
    assert device.heard == [
        Command(0x80, 1, 2, 3, data, le, device.heard[0].extended),
    ]
    assert result == Response(bytes(n % 241 for n in range(answer)), SW.OK)
    assert device.largest <= command


@given(question=st.integers(0, 255), answer=SIZES, wants=st.integers(1, 256))
def test_a_device_that_insists_on_its_le_is_followed(
    question: int, answer: int, wants: int
) -> None:
    device = Device(bytes(answer), wants=wants)
    command = Command(0x80, 1, 2, 3, bytes(question), 256)
    assert drive(exchange(command), device) == Response(bytes(answer), SW.OK)
    assert device.heard[-1].data == command.data


SCALARS = (
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=30)
)
PLAIN = st.recursive(
    SCALARS | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(2, 500) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_a_value_comes_back_from_its_one_encoding(value: Any) -> None:
    wire = cbor.encode(value)
    assert cbor.decode(wire) == value
    assert cbor.encode(cbor.decode(wire)) == wire


@given(PLAIN, st.data())
def test_a_map_written_in_any_order_has_one_encoding(value: Any, draw: st.DataObject) -> None:
    mapping = {1: value, "k": 2, b"z": [value]}
    shuffled = dict(draw.draw(st.permutations(list(mapping.items()))))
    assert cbor.encode(shuffled) == cbor.encode(mapping)


@given(PLAIN, st.binary(min_size=1, max_size=3))
def test_trailing_bytes_are_refused(value: Any, tail: bytes) -> None:
    with pytest.raises(WireError):
        cbor.decode(cbor.encode(value) + tail)


@given(PLAIN, st.data())
def test_a_truncated_value_is_refused(value: Any, draw: st.DataObject) -> None:
    wire = cbor.encode(value)
    with pytest.raises(WireError):
        cbor.decode(wire[: draw.draw(st.integers(0, len(wire) - 1))])
