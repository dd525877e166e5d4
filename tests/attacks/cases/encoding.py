"""Bytes that mean something else to somebody: points and TLV (cases 9, 12, 13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.access.enrolled import Flow
from dkey.access.exchange import ExchangeRequest
from dkey.access.messages import Auth0Command, Auth0Response, CryptogramPayload, Ins, Signaling
from dkey.access.profile import ALIRO
from dkey.access.schedule import DEVICE_USAGE
from dkey.access.select import SelectResponse
from dkey.codec import cbor, tlv
from dkey.crypto.p256 import PublicKey
from dkey.errors import WireError

from .. import Broken, case
from .scene import (
    FIELD_PRIME,
    Impostor,
    Scene,
    Wire,
    attempt,
    changed_command,
    changed_response,
    failed,
    refusal,
    transact,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# --- 9 points -----------------------------------------------------------------------------------


def _bad_points(point: bytes) -> list[bytes]:
    """Return what is no uncompressed point of the curve, made from one that is."""
    x, y = point[1:33], int.from_bytes(point[33:], "big")
    parity = y & 1
    return [
        b"\x00",
        b"",
        point[:64],
        point + b"\x00",
        bytes((2 + parity,)) + x,
        bytes((6 + parity,)) + point[1:],
        b"\x05" + point[1:],
        point[:33] + bytes(32),
        point[:33] + ((y + 1) % FIELD_PRIME).to_bytes(32, "big"),
        b"\x04" + FIELD_PRIME.to_bytes(32, "big") + point[33:],
        b"\x04" + bytes(64),
        b"\x04" + b"\xff" * 64,
        bytes(65),
    ]


_Y_IGNORED = Broken(
    module="dkey.crypto.p256",
    old="from_encoded_point(_CURVE, point), point)",
    new="from_encoded_point(_CURVE, bytes((2 + (point[64] & 1),)) + point[1:33]), point)",
    why="y is computed from x instead of being checked (CVE-2018-5383)",
)


@case(
    9,
    "only 65 bytes with tag 04 on the curve are a public key",
    source="CVE-2018-5383; SEC 1 §2.3.4",
    broken=[
        _Y_IGNORED,
        Broken(
            module="dkey.crypto.p256",
            old="        if len(point) != 65 or point[0] != 0x04:",
            new="        if not point:",
            why="whatever the library decodes is a key, compressed points as well",
        ),
    ],
)
def foreign_points(seed: int) -> None:
    for bad in _bad_points(Scene(seed).owner_key.public.point):
        refused = refusal(PublicKey.parse, bad)
        assert isinstance(refused, WireError), f"{bad.hex()} was taken for a public key"


@case(
    9,
    "neither side goes on with an ephemeral key that is no point",
    source="CVE-2018-5383",
    broken=[_Y_IGNORED],
)
def foreign_ephemerals(seed: int) -> None:
    scene = Scene(seed)
    phone, reader = scene.phone(), scene.reader()
    for bad in _bad_points(scene.entropy.ephemeral().public.point):

        def to_device(data: bytes, bad: bytes = bad) -> bytes:
            genuine = tlv.encode(0x87, Auth0Command.parse(data).reader_ephemeral)
            return data.replace(genuine, tlv.encode(0x87, bad))

        wire = Wire(phone.answer, commands=changed_command(Ins.AUTH0, to_device))
        attempt(reader.authenticate(Flow.STANDARD), wire)
        assert failed(wire.response(Ins.AUTH0)), f"the phone went on with {bad.hex()}"
        wire = Wire(
            phone.answer,
            responses=changed_response(Ins.AUTH0, lambda _, bad=bad: tlv.encode(0x86, bad)),
        )
        attempt(reader.authenticate(Flow.STANDARD), wire)
        assert not wire.count(Ins.AUTH1), f"the reader went on with {bad.hex()}"


@case(
    9,
    "the vehicle takes no credential key that is no point",
    source="CVE-2018-5383",
    broken=[
        _Y_IGNORED,
    ],
)
def foreign_credential(seed: int) -> None:
    scene = Scene(seed)
    for bad in _bad_points(scene.owner_key.public.point):
        device = Impostor(
            scene,
            lambda context, _, bad=bad: b"".join(
                (
                    tlv.encode(0x5A, bad),
                    tlv.encode(0x9E, scene.owner_key.sign_data(context.signed_data(DEVICE_USAGE))),
                    b"\x5e\x02\x00\x00",
                )
            ),
        )
        refused = attempt(scene.reader().authenticate(Flow.STANDARD), device.answer)
        assert refused is not None, f"the vehicle took {bad.hex()} for the owner's key"


# --- 12, 13 TLV ---------------------------------------------------------------------------------


def _auth0(scene: Scene) -> bytes:
    """Return the data of a well-formed AUTH0 command."""
    wire = Wire(scene.phone().answer)
    transact(scene.reader(), wire)
    return wire.command(Ins.AUTH0)[5:-1]


def _fields(data: bytes) -> list[bytes]:
    return [data[start:end] for _, start, _, end in tlv.items(data)]


def _refused_by_phone(scene: Scene, data: bytes) -> bool:
    """Whether a phone refuses these AUTH0 data."""
    phone = scene.phone()
    wire = Wire(phone.answer, commands=changed_command(Ins.AUTH0, lambda _: data))
    attempt(scene.reader().authenticate(Flow.STANDARD), wire)
    return failed(wire.response(Ins.AUTH0))


@case(
    12,
    "an AUTH0 command that ends early, anywhere, is refused",
    source="SweynTooth length errors",
    broken=[
        Broken(
            module="dkey.codec.tlv",
            old="    if at + size > stop:",
            new="    if False:",
            why="a length is not held against what is there",
        ),
    ],
)
def truncated_objects(seed: int) -> None:
    scene = Scene(seed)
    data = _auth0(scene)
    for size in range(len(data)):
        refused = refusal(Auth0Command.parse, data[:size], minimal=True)
        assert isinstance(refused, WireError), f"{size} of {len(data)} bytes are a whole AUTH0"
        assert refusal(lambda d: [*tlv.items(d)], data[:size]) is not None or size in _ends(data), (
            "an object that ends early was read"
        )
    cut = scene.chance.randrange(1, len(data))
    assert _refused_by_phone(scene, data[:cut]), "the phone went on with a cut AUTH0"


def _ends(data: bytes) -> set[int]:
    return {0, *(end for *_, end in tlv.items(data))}


@case(
    12,
    "indefinite, overlong and not minimal lengths are refused",
    source="SweynTooth length errors; ISO/IEC 8825-1 §8.1.3",
    broken=[
        Broken(
            module="dkey.codec.tlv",
            old="    if not 1 <= count <= 3:",
            new="    if not count <= 3:",
            why="an indefinite length is read as zero",
        ),
        Broken(
            module="dkey.codec.tlv",
            old="    if not 1 <= count <= 3:",
            new="    if not 1 <= count:",
            why="a length may have any number of bytes",
        ),
        Broken(
            module="dkey.codec.tlv",
            old="    if minimal and (",
            new="    if False and (",
            why="lengths need not be in their shortest form",
        ),
    ],
)
def strange_lengths(seed: int) -> None:
    scene = Scene(seed)
    data = _auth0(scene)
    at = next(start for tag, start, *_ in tlv.items(data) if tag == 0x4C)
    for length in (b"\x81\x10", b"\x82\x00\x10", b"\x83\x00\x00\x10", b"\x84\x00\x00\x00\x10"):
        changed = data[: at + 1] + length + data[at + 2 :]
        assert _refused_by_phone(scene, changed), f"length {length.hex()} was taken for 10"
    for tail in (
        b"\x01\x80",
        b"\x01\x80\x00\x00",
        b"\x01\x84\x00\x00\x00\x00",
        b"\x01\x83\xff\xff\xff",
    ):
        for any_form in (scene, Scene(seed, profile=ALIRO)):
            assert _refused_by_phone(any_form, data + tail), f"{tail.hex()} was taken"


@case(
    12,
    "deep nesting and large claims cost neither stack nor memory",
    source="depth bombs",
    broken=[
        Broken(
            module="dkey.codec.cbor",
            old="        if depth > MAX_DEPTH or self._left < 0:",
            new="        if False:",
            why="CBOR may be nested at will",
        ),
    ],
)
def depth_bomb(seed: int) -> None:
    scene = Scene(seed)
    nested = b""
    while len(nested) < 8000:
        nested = tlv.encode(0x30, nested)
    refusal(Auth0Command.parse, _auth0(scene) + tlv.encode(0xB1, nested), minimal=True)
    refusal(SelectResponse.parse, tlv.encode(0x6F, nested), minimal=True)
    depth = scene.chance.randrange(33, 200)
    for bomb in (b"\x81" * depth + b"\x00", b"\x81" * 100_000 + b"\x00", b"\x9b" + b"\xff" * 8):
        assert isinstance(refusal(cbor.decode, bomb), WireError), "a CBOR bomb was decoded"


@case(
    13,
    "objects that come twice or in another order are refused",
    source="first-wins and last-wins parsers",
    broken=[
        Broken(
            module="dkey.codec.tlv",
            old="            if place <= last:",
            new="            if place < last:",
            why="an object may come twice; the last one wins",
        ),
        Broken(
            module="dkey.codec.tlv",
            old="            if place <= last:",
            new="            if False:",
            why="objects may come in any order",
        ),
    ],
)
def repeated_objects(seed: int) -> None:
    scene = Scene(seed)
    fields = _fields(_auth0(scene))
    for at in range(len(fields)):
        twice = b"".join(fields[: at + 1] + fields[at:])
        assert _refused_by_phone(scene, twice), "an object came twice and was taken"
    for at in range(len(fields) - 1):
        swapped = [*fields[:at], fields[at + 1], fields[at], *fields[at + 2 :]]
        assert _refused_by_phone(scene, b"".join(swapped)), "two objects were swapped"


@case(
    13,
    "bytes behind a message are refused",
    source="parser differentials",
    broken=[
        Broken(
            module="dkey.codec.tlv",
            old="    if len(found) != 1 or found[0][0] != tag:",
            new="    if found[0][0] != tag:",
            why="what follows the one object is taken as part of it",
        ),
    ],
)
def trailing_bytes(seed: int) -> None:
    scene = Scene(seed)
    wire = Wire(scene.phone().answer)
    transact(scene.reader(), wire)
    fci = wire.response(Ins.SELECT)[:-2]
    for tail in (b"\x00", b"\x05\x00", fci, scene.chance.randbytes(5) + b"\x80"):
        refused = refusal(SelectResponse.parse, fci + tail, minimal=True)
        assert isinstance(refused, WireError), "bytes behind a SELECT response were taken"
    assert _refused_by_phone(scene, wire.command(Ins.AUTH0)[5:-1] + b"\x05"), "a stray byte passed"


@case(
    13,
    "an unknown object in the cryptogram, or two starts of a mailbox, are refused",
    source="parser differentials; Aliro 1.0 §8.3.3.2.3",
    broken=[
        Broken(
            module="dkey.codec.tlv",
            old="                if self._skip:",
            new="                if True:",
            why="unknown objects are passed over everywhere",
        ),
    ],
)
def unknown_objects(seed: int) -> None:
    scene = Scene(seed)
    plain = CryptogramPayload(signaling=Signaling()).to_bytes()
    stray = tlv.encode(0x93, scene.chance.randbytes(4))
    for bad in (plain + stray, stray + plain):
        refused = refusal(CryptogramPayload.parse, bad)
        assert isinstance(refused, WireError), "an unknown object in a cryptogram was passed over"
    mailbox: Callable[[bytes], bytes] = lambda inner: tlv.encode(0xBA, inner)  # noqa: E731
    for inner in (b"\x8c\x01\x00\x8c\x01\x01", b"\x87\x04\x00\x00\x00\x01\x8c\x01\x00", b""):
        refused = refusal(ExchangeRequest.parse, mailbox(inner), minimal=True)
        assert isinstance(refused, WireError), "a mailbox container began twice or not at all"
    answer = Auth0Response(device_ephemeral=scene.owner_key.public.point).to_bytes()
    refused = refusal(Auth0Response.parse, answer + b"\xb2\x02\x30\x00")
    assert isinstance(refused, WireError), "a vendor extension without a vendor was taken"
