"""The messages of the access transaction: exact bytes, order, sizes, unknown tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.access.messages import (
    Auth0Command,
    Auth0Response,
    Auth1Command,
    Auth1Payload,
    ControlFlow,
    CryptogramPayload,
    Ins,
    Signaling,
    command,
    parse_extensions,
    vendor_extension,
)
from dkey.access.profile import ALIRO
from dkey.access.select import SelectResponse, select_command
from dkey.errors import WireError

FCI = bytes.fromhex("6F158409A000000909ACCE5501A508800200005C020100")
POINT = b"\x04" + bytes(range(64))
EXTENSION = vendor_extension(b"\x4a\x19\x1b", b"\x80\x01\x07")
AUTH0 = Auth0Command(
    parameters=1,
    policy=2,
    version=b"\x01\x00",
    reader_ephemeral=POINT,
    transaction_id=bytes(range(16)),
    reader_id=bytes(range(32)),
    extension=EXTENSION,
)
UNKNOWN = b"\xdf\x01\x02\xab\xcd"
"""A tag of no message."""

sized = st.binary


@given(
    st.builds(
        Auth0Command,
        parameters=st.integers(0, 255),
        policy=st.integers(1, 3),
        version=sized(min_size=2, max_size=2),
        reader_ephemeral=sized(min_size=65, max_size=65),
        transaction_id=sized(min_size=16, max_size=16),
        reader_id=sized(min_size=32, max_size=32),
        extension=st.sampled_from([b"", EXTENSION]),
    )
)
def test_an_auth0_command_comes_back_as_it_went(message: Auth0Command) -> None:
    assert Auth0Command.parse(message.to_bytes(), minimal=True) == message


@given(sized(min_size=65, max_size=65), st.booleans(), st.sampled_from([b"", EXTENSION]))
def test_an_auth0_response_comes_back_as_it_went(point: bytes, fast: bool, more: bytes) -> None:
    message = Auth0Response(
        device_ephemeral=point, cryptogram=bytes(64) if fast else b"", extension=more
    )
    assert Auth0Response.parse(message.to_bytes(), minimal=True) == message


@given(st.booleans(), sized(min_size=64, max_size=64), sized(max_size=300))
def test_an_auth1_command_comes_back_as_it_went(key: bool, proof: bytes, cert: bytes) -> None:
    message = Auth1Command(want_public_key=key, signature=proof, certificate=cert)
    assert Auth1Command.parse(message.to_bytes(), minimal=True) == message


@given(st.none() | sized(max_size=300), st.integers(0, 0xFFFF), st.booleans())
def test_an_auth1_payload_comes_back_as_it_went(
    mailbox: bytes | None, bits: int, slot: bool
) -> None:
    message = Auth1Payload(
        key_slot=bytes(8) if slot else b"",
        public_key=b"" if slot else POINT,
        signature=bytes(64),
        signaling=Signaling(bits),
        mailbox=mailbox,
    )
    assert Auth1Payload.parse(message.to_bytes(), minimal=True) == message


@given(sized(max_size=200))
def test_no_parser_fails_with_anything_but_a_wire_error(data: bytes) -> None:
    for parser in (
        SelectResponse.parse,
        Auth0Command.parse,
        Auth0Response.parse,
        Auth1Command.parse,
        Auth1Payload.parse,
        CryptogramPayload.parse,
        ControlFlow.parse,
        parse_extensions,
    ):
        try:
            parser(data)
        except WireError:
            continue


# --- SELECT -----------------------------------------------------------------------------------


def test_select_names_the_application() -> None:
    assert select_command(ALIRO.access_aid).to_bytes().hex() == "00a4040009a000000909acce550100"


def test_the_minimal_select_response_is_written_byte_for_byte() -> None:
    own = SelectResponse(aid=ALIRO.access_aid, versions=(b"\x01\x00",))
    assert own.to_bytes() == FCI


def test_a_select_response_keeps_its_a5_object_as_sent() -> None:
    long_form = bytes.fromhex("6F168409A000000909ACCE5501A58108800200005C020100")
    found = SelectResponse.parse(long_form)
    assert found.a5.hex() == "a58108800200005c020100"


def test_a_length_that_could_be_shorter_is_refused_where_the_profile_says_so() -> None:
    long_form = bytes.fromhex("6F168409A000000909ACCE5501A58108800200005C020100")
    with pytest.raises(WireError):
        SelectResponse.parse(long_form, minimal=True)


def test_a_select_response_lists_versions_lengths_and_skips_what_it_does_not_know() -> None:
    inner = bytes.fromhex("800200005C04010000097F660802020E0002020E00DF010155")
    aid = b"\x84\x09" + ALIRO.access_aid
    a5 = b"\xa5" + bytes((len(inner),)) + inner
    device = bytes.fromhex("B705040301020380")[:7]
    fci = aid + a5 + device
    found = SelectResponse.parse(b"\x6f" + bytes((len(fci),)) + fci)
    assert found.versions == (b"\x01\x00", b"\x00\x09")
    assert (found.max_command, found.max_response) == (3584, 3584)
    assert found.a5 == a5


@pytest.mark.parametrize(
    "fci",
    [
        "",
        "6F00",
        "6F0A84058000000000A50180",
        "6F138409A000000909ACCE5501A506800200005C00",  # no version
        "6F148409A000000909ACCE5501A507800200005C0101",  # half a version
        "6F118409A000000909ACCE5501A5045C020100",  # no type
        "6F15A508800200005C0201008409A000000909ACCE5501",  # out of order
        "6F158409A000000909ACCE5501A508800200005C02010000",  # bytes behind
        "6F158409A000000909ACCE5501A508800200005C0201",  # cut
        "6F208409A000000909ACCE5501A513800200005C0201007F66080203000E0002010E",
    ],
)
def test_a_malformed_select_response_is_refused(fci: str) -> None:
    with pytest.raises(WireError):
        SelectResponse.parse(bytes.fromhex(fci))


def test_extended_lengths_are_written_as_they_are_read() -> None:
    own = SelectResponse(
        aid=ALIRO.access_aid, versions=(b"\x01\x00",), max_command=600, max_response=700
    )
    found = SelectResponse.parse(own.to_bytes())
    assert (found.max_command, found.max_response, found.a5) == (600, 700, own.encode_a5())


# --- AUTH0 ------------------------------------------------------------------------------------


def test_auth0_is_written_in_the_prescribed_order() -> None:
    data = AUTH0.to_bytes()
    tags = [data.index(bytes.fromhex(h)) for h in ("410101", "420102", "5c02", "8741", "4c10")]
    assert tags == sorted(tags)
    assert data.endswith(b"\xb1" + bytes((len(EXTENSION),)) + EXTENSION)


def test_protocol_commands_have_class_80_and_le_but_control_flow() -> None:
    assert command(Ins.AUTH0, b"\x01").to_bytes() == bytes.fromhex("80800000010100")
    assert command(Ins.CONTROL_FLOW, b"\x01").to_bytes() == bytes.fromhex("803c00000101")


def test_an_unknown_tag_anywhere_in_auth0_is_skipped() -> None:
    data = AUTH0.to_bytes()
    for at in (0, 3, 6, 10):
        assert Auth0Command.parse(data[:at] + UNKNOWN + data[at:]) == AUTH0


def test_rfu_bits_of_the_parameters_are_kept_and_do_not_mean_fast() -> None:
    data = bytearray(AUTH0.to_bytes())
    data[2] = 0xFE
    found = Auth0Command.parse(bytes(data))
    assert found.parameters == 0xFE
    assert not found.fast


@pytest.mark.parametrize("policy", [0, 4, 255])
def test_an_undefined_authentication_policy_is_refused(policy: int) -> None:
    data = bytearray(AUTH0.to_bytes())
    data[5] = policy
    with pytest.raises(WireError):
        Auth0Command.parse(bytes(data))


def objects(data: bytes) -> list[bytes]:
    """Cut short-form objects apart."""
    found, at = [], 0
    while at < len(data):
        end = at + 2 + data[at + 1]
        found.append(data[at:end])
        at = end
    return found


def test_auth0_without_a_mandatory_object_is_refused() -> None:
    parts = objects(AUTH0.to_bytes())
    for missing in range(6):
        with pytest.raises(WireError):
            Auth0Command.parse(b"".join(parts[:missing] + parts[missing + 1 :]))


def test_auth0_with_two_objects_swapped_or_one_twice_is_refused() -> None:
    parts = objects(AUTH0.to_bytes())
    for at in range(len(parts) - 1):
        swapped = [*parts[:at], parts[at + 1], parts[at], *parts[at + 2 :]]
        for wrong in (swapped, [*parts[:at], parts[at], *parts[at:]]):
            with pytest.raises(WireError):
                Auth0Command.parse(b"".join(wrong))


def test_an_object_of_the_wrong_size_is_refused() -> None:
    for part in objects(AUTH0.to_bytes())[:6]:
        longer = bytes((part[0], part[1] + 1)) + part[2:] + b"\0"
        with pytest.raises(WireError):
            Auth0Command.parse(AUTH0.to_bytes().replace(part, longer))


# --- vendor extensions ------------------------------------------------------------------------


def test_vendor_extensions_are_found_by_oui() -> None:
    both = EXTENSION + vendor_extension(b"\x01\x02\x03", b"")
    assert parse_extensions(both) == {b"\x4a\x19\x1b": b"\x80\x01\x07", b"\x01\x02\x03": b""}


@pytest.mark.parametrize("value", ["", "3000", "30040402AABB", "8000", "04030102033000"])
def test_a_vendor_extension_of_another_form_is_refused(value: str) -> None:
    with pytest.raises(WireError):
        parse_extensions(bytes.fromhex(value))


def test_a_vendor_extension_stands_once() -> None:
    with pytest.raises(WireError):
        parse_extensions(EXTENSION + EXTENSION)


# --- cryptogram, AUTH1, CONTROL FLOW ----------------------------------------------------------


def test_a_cryptogram_payload_is_always_48_bytes() -> None:
    assert len(CryptogramPayload(signaling=Signaling(0x1234)).to_bytes()) == 48


def test_a_cryptogram_payload_takes_nothing_but_its_three_objects() -> None:
    data = CryptogramPayload(signaling=Signaling(1)).to_bytes()
    assert CryptogramPayload.parse(data).signaling == Signaling(1)
    with pytest.raises(WireError):
        CryptogramPayload.parse(data + UNKNOWN)
    with pytest.raises(WireError):
        CryptogramPayload.parse(data[:26])


def test_auth1_takes_the_certificate_length_of_the_worked_example() -> None:
    # Aliro 1.0 §14.2 encodes tag 90 with 82 00 99: a length that could be shorter.
    proof = b"\x41\x01\x01\x9e\x40" + bytes(64)
    certificate = bytes(0x99)
    found = Auth1Command.parse(proof + b"\x90\x82\x00\x99" + certificate)
    assert found.certificate == certificate
    with pytest.raises(WireError):
        Auth1Command.parse(proof + b"\x90\x82\x00\x99" + certificate, minimal=True)


def test_an_auth1_payload_may_carry_document_dates() -> None:
    data = Auth1Payload(
        public_key=POINT, signature=bytes(64), signaling=Signaling(3), mailbox=b"m"
    ).to_bytes()
    dates = b"\x91\x14" + b"2026-01-31T10:00:00Z" + b"\x92\x14" + b"2026-01-31T10:00:00Z"
    assert Auth1Payload.parse(data + dates).signaling == Signaling(3)


def test_an_auth1_payload_needs_its_two_byte_bitmap() -> None:
    whole = Auth1Payload(public_key=POINT, signature=bytes(64), signaling=Signaling(0)).to_bytes()
    for wrong in (whole[:-4], whole[:-4] + b"\x5e\x01\x00"):
        with pytest.raises(WireError):
            Auth1Payload.parse(wrong)


def test_control_flow_says_failure_and_a_reason() -> None:
    assert ControlFlow(reason=0x27).to_bytes().hex() == "410100420127"
    assert ControlFlow.parse(ControlFlow(reason=0x27).to_bytes()).reason == 0x27


def test_control_flow_may_carry_a_reader_descriptor() -> None:
    data = bytes.fromhex("4101004201006307B5050403010203")
    assert ControlFlow.parse(data).reason == 0
