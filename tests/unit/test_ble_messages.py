"""BLE messages, advertising data and GATT values: bytes both ways, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.codec.ble import (
    ErrorReason,
    Message,
    MessageType,
    NotificationId,
    RangingKind,
    RkeAction,
    StatusSource,
    split_sdu,
)
from dkey.codec.ble_advert import (
    ADVERT_SIZE,
    Advert,
    DeviceChoice,
    ReaderInfo,
    VehicleAdvert,
    dynamic_tag,
    vehicle_tag,
)
from dkey.codec.ble_contents import (
    VENDOR_OUI,
    ApCompleted,
    ApRequest,
    ApResponse,
    Busy,
    Content,
    GeneralError,
    InitiateAp,
    Opaque,
    PassThrough,
    Ranging,
    ReaderDescriptor,
    ReaderStatusChanged,
    RkeRequest,
    Verdict,
    decode,
)
from dkey.control.intent import OUI
from dkey.control.remote import RemoteAction
from dkey.errors import LocalFault, WireError

PUBLIC = Path(__file__).resolve().parents[3] / "shared/vectors/aliro_public.json"
A5 = bytes.fromhex("a508800200005c020100")
B5 = bytes.fromhex("B503800101")
B7 = bytes.fromhex("B703800101")
GRK = bytes(range(16))

CONTENTS: list[tuple[Content, str]] = [
    (ApRequest(apdu=b"\x80\x80"), "000000028080"),
    (ApResponse(apdu=b"\x90\x00"), "000100029000"),
    (Busy(), "020000020000"),
    (GeneralError(), "02000003010100"),
    (GeneralError(reason=ErrorReason.URSK_UNAVAILABLE), "02000003010103"),
    (GeneralError(reason=9, descriptor=B5), "0200000a0101090205b503800101"),
    (ReaderDescriptor(descriptor=B5), "020000070205b503800101"),
    (Ranging(kind=RangingKind.INITIATE), "020100020000"),
    (Ranging(kind=RangingKind.SUSPENDED), "020100020500"),
    (ReaderStatusChanged(source=StatusSource.THIS_DEVICE_RANGING, state=1), "0202000400020401"),
    (ApCompleted(report=1, state=0), "0203000400022000"),
    (ApCompleted(report=2, state=0x82), "0203000400024082"),
    (RkeRequest(action=RkeAction.UNLOCK), "02040003000101"),
    (RkeRequest(action=RkeAction.HORN_OFF, number=7), "02040006000183800107"),
    (InitiateAp(a5=A5), "0205000c000a" + A5.hex()),
    (InitiateAp(a5=A5, descriptor=B7, rke=True), "02060011000f" + A5.hex() + B7.hex()),
    (PassThrough(oui=b"abc", data=b"d"), "0400000461626364"),
    (PassThrough(oui=b"abc", data=b""), "04000003616263"),
]


def public(kind: str) -> list[dict[str, str]]:
    if not PUBLIC.is_file():
        pytest.skip(f"{PUBLIC} is not here")
    entries = json.loads(PUBLIC.read_text(encoding="utf-8"))["vectors"]
    return [entry for entry in entries if entry["kind"] == kind]


# --- messages ----------------------------------------------------------------------------------


@given(st.binary(max_size=80))
def test_an_sdu_is_refused_or_comes_back_byte_for_byte(data: bytes) -> None:
    try:
        messages = split_sdu(data)
    except WireError:
        return
    assert b"".join(message.to_bytes() for message in messages) == data


@given(st.sampled_from([*NotificationId]), st.binary(min_size=1, max_size=60))
def test_a_notification_is_refused_or_decoded_never_worse(number: int, payload: bytes) -> None:
    message = Message(MessageType.NOTIFICATION, number, payload)
    try:
        decode(message).to_message().to_bytes()
    except WireError:
        return


@given(st.data())
def test_many_messages_in_one_sdu_are_all_found(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(CONTENTS), min_size=1, max_size=8))
    sdu = b"".join(bytes.fromhex(wire) for _, wire in chosen)
    assert [decode(message) for message in split_sdu(sdu)] == [content for content, _ in chosen]


@pytest.mark.parametrize(("content", "wire"), CONTENTS)
def test_a_content_and_its_bytes(content: Content, wire: str) -> None:
    assert content.to_message().to_bytes().hex() == wire
    assert [decode(message) for message in split_sdu(bytes.fromhex(wire))] == [content]


def test_public_plain_messages_are_read_alike() -> None:
    found = {entry["id"]: entry["plain"] for entry in public("ble_message_plain")}
    wires = {wire for _, wire in CONTENTS}
    assert found["ble-apcompleted-plain"] in wires
    assert found["ble-readerstatuschanged-plain"] in wires


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("nothing", ""),
        ("half a header", "0000"),
        ("no payload", "00000000"),
        ("a length too long", "0000000380"),
        ("a trailing byte", "000000018000"),
        ("an unknown type", "0500000100"),
        ("an unknown identifier", "0207000100"),
        ("a good message, then none", "020000020000" + "00000000"),
    ],
)
def test_a_malformed_sdu_is_refused(name: str, wire: str) -> None:
    with pytest.raises(WireError):
        split_sdu(bytes.fromhex(wire))


N = NotificationId


@pytest.mark.parametrize(
    ("name", "number", "payload"),
    [
        ("an attribute without a length", N.EVENT, "00"),
        ("an attribute that ends early", N.EVENT, "0102aa"),
        ("an unknown attribute that ends early", N.EVENT, "00007001"),
        ("Busy with a value", N.EVENT, "000100"),
        ("Busy beside an error", N.EVENT, "0000010100"),
        ("an error twice", N.EVENT, "010100010100"),
        ("an error of two bytes", N.EVENT, "01020000"),
        ("a descriptor that is no B5", N.EVENT, "0203b60101"),
        ("two kinds of ranging", N.RANGING, "00000100"),
        ("a ranging kind with a value", N.RANGING, "000101"),
        ("a status of one byte", N.STATUS_CHANGED, "000104"),
        ("a completion of three bytes", N.AP_COMPLETED, "0003200000"),
        ("an action of two bytes", N.RKE_REQUEST, "00020101"),
        ("an action twice", N.RKE_REQUEST, "000101000100"),
        ("a number of two bytes", N.RKE_REQUEST, "00010180020000"),
        ("a first message that is no A5", N.INITIATE_AP, "0003840100"),
        ("a first message with two A5", N.INITIATE_AP, "0004a500a500"),
        ("a first message that is cut", N.INITIATE_AP, "0002a508"),
        ("a first message with B7 first", N.INITIATE_AP_RKE, "0004b700a500"),
    ],
)
def test_a_malformed_content_is_refused(name: str, number: int, payload: str) -> None:
    with pytest.raises(WireError):
        decode(Message(MessageType.NOTIFICATION, number, bytes.fromhex(payload)))


def test_a_pass_through_without_an_oui_is_refused() -> None:
    with pytest.raises(WireError):
        decode(Message(MessageType.THIRD_PARTY, 0, b"ab"))


def test_unknown_attributes_are_skipped() -> None:
    (message,) = split_sdu(bytes.fromhex("020400087003aabbcc000101"))
    assert decode(message) == RkeRequest(action=RkeAction.UNLOCK)


@pytest.mark.parametrize("wire", ["020000027000", "020100027000", "020200027000", "02050003700101"])
def test_a_notification_without_a_known_attribute_is_opaque(wire: str) -> None:
    (message,) = split_sdu(bytes.fromhex(wire))
    assert decode(message) == Opaque(message=message)


def test_reserved_bits_of_the_type_are_kept_for_authentication() -> None:
    (message,) = split_sdu(bytes.fromhex("c20000020000"))
    assert (message.type, message.reserved) == (MessageType.NOTIFICATION, 3)
    assert message.header(2).hex() == "c2000002"


@pytest.mark.parametrize("size", [0, 65536])
def test_a_payload_that_has_no_length_field_is_not_sent(size: int) -> None:
    with pytest.raises(WireError):
        Message(MessageType.AP, 0, bytes(size)).to_bytes()


@given(
    st.integers(0, 255),
    st.sampled_from([*RkeAction]),
    st.none() | st.from_regex(r"[A-Z][A-Z0-9_]{0,39}", fullmatch=True),
    st.none() | st.integers(0, 2**32 - 1),
)
def test_a_verdict_comes_back(
    number: int, action: int, code: str | None, remaining_ms: int | None
) -> None:
    verdict = Verdict(number=number, action=action, code=code, remaining_ms=remaining_ms)
    carried = verdict.pass_through()
    assert carried.oui == VENDOR_OUI
    assert Verdict.parse(carried.data) == verdict


@pytest.mark.parametrize(
    "data",
    ["", "000101", "000101010100", "0001010101000201 61", "00010101010002010 0", "00010001010200"],
)
def test_a_malformed_verdict_is_refused(data: str) -> None:
    with pytest.raises(WireError):
        Verdict.parse(bytes.fromhex(data.replace(" ", "")))


def test_our_identifier_is_the_one_of_vendor_extensions() -> None:
    assert VENDOR_OUI == OUI


def test_actions_on_the_wire_and_in_decisions_have_the_same_names() -> None:
    assert [action.name for action in RkeAction] == [action.name for action in RemoteAction]


# --- advertising -------------------------------------------------------------------------------


def test_the_public_dynamic_tags_come_out() -> None:
    entries = public("ble_dynamic_tag")
    assert len(entries) == 3
    for entry in entries:
        tag = dynamic_tag(
            bytes.fromhex(entry["group_resolving_key"]),
            bytes.fromhex(entry["advertising_address"]),
            int(entry["expiry_timestamp"], 16),
        )
        assert tag.hex() == entry["dynamic_tag"]


def aliro_advert(**fields: int) -> Advert:
    return Advert(
        ranging=True,
        ble_only=False,
        tx_power_dbm=fields.get("power", -8),
        notice=fields.get("notice", 2),
        group_prefix=bytes(range(8)),
        sub_prefix=b"\xaa\xbb",
        expiry=0x7A4B8500,
        tag=bytes(range(7)),
    )


def test_the_advertising_data_has_31_bytes_of_the_published_layout() -> None:
    data = aliro_advert().to_bytes()
    assert data.hex() == (
        "020106" + "1b16f2ff" + "90" + "f8" + "0001020304050607" + "aabb" + "7a4b8500" + "00"
        "00010203040506"
    )
    assert len(data) == ADVERT_SIZE
    assert Advert.parse(data) == aliro_advert()


def test_reserved_bits_of_the_advertising_data_are_ignored() -> None:
    data = bytearray(aliro_advert().to_bytes())
    data[7] |= 0x20
    data[23] = 0xFF
    assert Advert.parse(bytes(data)) == aliro_advert()


@given(st.binary(max_size=40))
def test_any_advertising_data_is_parsed_or_refused(data: bytes) -> None:
    head = bytes.fromhex("0201061B16F2FF")
    for raw in (data, head + data):
        try:
            assert len(Advert.parse(raw).to_bytes()) == ADVERT_SIZE
        except WireError:
            continue


@pytest.mark.parametrize(
    ("at", "value"), [(0, 3), (3, 0x1A), (5, 0xF3), (7, 0x91), (8, 21), (8, 155)]
)
def test_other_advertising_data_is_refused(at: int, value: int) -> None:
    data = bytearray(aliro_advert().to_bytes())
    data[at] = value
    with pytest.raises(WireError):
        Advert.parse(bytes(data))


@pytest.mark.parametrize("fields", [{"power": 21}, {"power": -101}, {"notice": 4}])
def test_a_field_that_does_not_fit_is_not_advertised(fields: dict[str, int]) -> None:
    with pytest.raises(LocalFault):
        aliro_advert(**fields).to_bytes()


def test_only_the_holder_of_the_key_resolves_an_advert() -> None:
    address, expiry = bytes(range(6)), 0x7A4B8500
    advert = Advert(
        ranging=True,
        ble_only=True,
        group_prefix=bytes(8),
        sub_prefix=bytes(2),
        expiry=expiry,
        tag=dynamic_tag(GRK, address, expiry),
    )
    assert advert.resolves(GRK, address)
    assert not advert.resolves(bytes(16), address)
    assert not advert.resolves(GRK, bytes(6))


def vehicle_advert(nonce: bytes) -> VehicleAdvert:
    return VehicleAdvert(ranging=True, remote=True, nonce=nonce, tag=vehicle_tag(GRK, nonce))


def test_the_vehicle_advert_has_31_bytes_and_comes_back() -> None:
    advert = vehicle_advert(b"abcd")
    data = advert.to_bytes()
    assert (len(data), data[3:5].hex(), data[21]) == (ADVERT_SIZE, "1b21", 0xC0)
    assert VehicleAdvert.parse(data) == advert
    assert len(advert.scan_response) == 18
    assert advert.resolves(GRK)
    assert not advert.resolves(bytes(16))


def test_two_vehicle_adverts_share_nothing_that_names_the_vehicle() -> None:
    one, two = (vehicle_advert(nonce).service_data[1:] for nonce in (b"abcd", b"wxyz"))
    assert not set(zip(range(9), one, strict=True)) & set(zip(range(9), two, strict=True))


@pytest.mark.parametrize(("at", "value"), [(3, 0x1A), (5, 0), (21, 0xC1)])
def test_another_vehicle_advert_is_refused(at: int, value: int) -> None:
    data = bytearray(vehicle_advert(b"abcd").to_bytes())
    data[at] = value
    with pytest.raises(WireError):
        VehicleAdvert.parse(bytes(data))


# --- GATT values -------------------------------------------------------------------------------


def test_the_reader_info_and_the_choice_have_the_published_layout() -> None:
    info = ReaderInfo(spsm=0x0080, versions=bytes.fromhex("01000009"), features=b"\x03")
    assert info.to_bytes().hex() == "0080" + "04" + "01000009" + "01" + "03"
    assert ReaderInfo.parse(info.to_bytes()) == info
    choice = DeviceChoice(features=b"\x03")
    assert choice.to_bytes().hex() == "0100" + "01" + "03"
    assert DeviceChoice.parse(choice.to_bytes()) == choice


@pytest.mark.parametrize(
    "wire",
    [
        "",
        "0080",
        "007f0201000100",
        "01000201000100",
        "00800001 00",
        "0080030100000100",
        "0080020100010000",
        "00800201000500",
    ],
)
def test_a_malformed_reader_info_is_refused(wire: str) -> None:
    with pytest.raises(WireError):
        ReaderInfo.parse(bytes.fromhex(wire.replace(" ", "")))


@pytest.mark.parametrize("wire", ["", "01", "0100", "010002ff", "010001ffff"])
def test_a_malformed_choice_is_refused(wire: str) -> None:
    with pytest.raises(WireError):
        DeviceChoice.parse(bytes.fromhex(wire))
