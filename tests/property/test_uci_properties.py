"""UCI: everything that can be said comes back, and no bytes break the codec."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkey.codec import uci_core as core
from dkey.codec import uci_ranging as ranging
from dkey.codec import uci_session as session
from dkey.codec.uci import (
    CONTROL_PAYLOAD_MAX,
    DATA_PAYLOAD_MAX,
    MESSAGE_MAX,
    Packet,
    PacketType,
    Reassembler,
    packet_size,
    segments,
)
from dkey.codec.uci_layout import IdStatus, Parameter
from dkey.codec.uci_messages import MESSAGES, Message, Opaque, decode, encode, name_of
from dkey.errors import WireError

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
s16 = st.integers(-(2**15), 2**15 - 1)
few = st.binary(max_size=30)
parameters = st.lists(
    st.builds(Parameter, u8, st.binary(max_size=40)), max_size=5, unique_by=lambda x: x.id
).map(tuple)
rejected = st.lists(st.builds(IdStatus, u8, u8), max_size=5).map(tuple)
outcomes = st.lists(st.builds(session.ControleeStatus, u16, u8), max_size=5).map(tuple)


@st.composite
def multicast(draw):
    action = draw(u8)
    size = {2: 16, 3: 32}.get(action)
    key = st.binary(min_size=size, max_size=size) if size else st.none()
    controlees = st.lists(st.builds(session.Controlee, u16, u32, key), max_size=4).map(tuple)
    return session.MulticastCmd(token=draw(u32), action=action, controlees=draw(controlees))


@st.composite
def session_info(draw):
    form = draw(st.sampled_from([0, 1]))
    address = st.binary(min_size=8, max_size=8) if form else st.binary(min_size=2, max_size=2)
    spare = 5 if form else 11
    numbers = dict.fromkeys(("status", "nlos", "slot", "rssi"), u8) | {"distance": u16}
    for side in ("azimuth", "elevation", "far_azimuth", "far_elevation"):
        numbers |= {side: s16, f"{side}_fom": u8}
    reserved = st.binary(min_size=spare, max_size=spare)
    one = st.builds(ranging.TwrMeasurement, address=address, reserved=reserved, **numbers)
    return ranging.SessionInfoNtf(
        sequence=draw(u32),
        token=draw(u32),
        rcr=draw(u8),
        interval_ms=draw(u32),
        address_form=form,
        measurements=tuple(draw(st.lists(one, max_size=10))),
    )


BODIES = {
    core.Empty: st.just(core.Empty()),
    core.StatusOnly: st.builds(core.StatusOnly, status=u8),
    core.DeviceResetCmd: st.builds(core.DeviceResetCmd, reset_config=u8),
    core.DeviceStatusNtf: st.builds(core.DeviceStatusNtf, state=u8),
    core.DeviceInfoRsp: st.builds(
        core.DeviceInfoRsp,
        status=u8,
        uci_version=u16,
        mac_version=u16,
        phy_version=u16,
        test_version=u16,
        vendor=few,
    ),
    core.CapsInfoRsp: st.builds(core.CapsInfoRsp, status=u8, capabilities=parameters),
    core.SetConfigCmd: st.builds(core.SetConfigCmd, parameters=parameters),
    core.SetConfigRsp: st.builds(core.SetConfigRsp, status=u8, rejected=rejected),
    core.GetConfigCmd: st.builds(core.GetConfigCmd, ids=few),
    core.GetConfigRsp: st.builds(core.GetConfigRsp, status=u8, parameters=parameters),
    core.TimestampRsp: st.builds(core.TimestampRsp, status=u8, timestamp_us=u64),
    core.PowerStatsRsp: st.builds(
        core.PowerStatsRsp,
        status=u8,
        idle_ms=u32,
        transmit_ms=u32,
        receive_ms=u32,
        wake_count=u32,
    ),
    core.CountryCodeCmd: st.builds(core.CountryCodeCmd, country=st.binary(min_size=2, max_size=2)),
    session.TokenCmd: st.builds(session.TokenCmd, token=u32),
    session.SessionInitCmd: st.builds(session.SessionInitCmd, session_id=u32, session_type=u8),
    session.SessionInitRsp: st.builds(session.SessionInitRsp, status=u8, handle=st.none() | u32),
    session.SessionStatusNtf: st.builds(session.SessionStatusNtf, token=u32, state=u8, reason=u8),
    session.SetAppConfigCmd: st.builds(session.SetAppConfigCmd, token=u32, parameters=parameters),
    session.SetAppConfigRsp: st.builds(session.SetAppConfigRsp, status=u8, rejected=rejected),
    session.GetAppConfigCmd: st.builds(session.GetAppConfigCmd, token=u32, ids=few),
    session.AppConfigRsp: st.builds(session.AppConfigRsp, status=u8, parameters=parameters),
    session.CountRsp: st.builds(session.CountRsp, status=u8, count=u8),
    session.SessionStateRsp: st.builds(session.SessionStateRsp, status=u8, state=u8),
    session.RangingCountRsp: st.builds(session.RangingCountRsp, status=u8, count=u32),
    session.DataSizeRsp: st.builds(session.DataSizeRsp, token=u32, size=u16),
    session.MulticastCmd: multicast(),
    session.MulticastRsp: st.builds(session.MulticastRsp, status=u8, outcomes=st.none() | outcomes),
    session.MulticastNtf: st.builds(session.MulticastNtf, token=u32, outcomes=outcomes),
    session.ResumeCmd: st.builds(session.ResumeCmd, token=u32, rest=few),
    session.DataCreditNtf: st.builds(session.DataCreditNtf, token=u32, credit=u8),
    session.DataTransferNtf: st.builds(
        session.DataTransferNtf, token=u32, sequence=u16, status=u8, transmissions=u8
    ),
    ranging.SessionInfoNtf: session_info(),
    ranging.CccControleeNtf: st.builds(
        ranging.CccControleeNtf,
        token=u32,
        status=u8,
        sts_index=u32,
        round=u16,
        distance=u16,
        anchor_fom=u8,
        initiator_fom=u8,
        tag=st.binary(min_size=8, max_size=8),
    ),
    ranging.DiagnosticsNtf: st.builds(ranging.DiagnosticsNtf, token=u32, sequence=u32, reports=few),
    ranging.DataSend: st.builds(
        ranging.DataSend, token=u32, destination=u64, sequence=u16, data=few
    ),
    ranging.DataReceived: st.builds(
        ranging.DataReceived, token=u32, status=u8, source=u64, sequence=u16, data=few
    ),
}


def test_every_message_has_a_strategy_here():
    assert {layout for _, layout in MESSAGES.values()} == {*BODIES}


@st.composite
def messages(draw):
    kind, group, opcode = draw(st.sampled_from(sorted(MESSAGES)))
    body = draw(BODIES[MESSAGES[kind, group, opcode][1]])
    return Message(type=kind, group=group, opcode=opcode, body=body)


@settings(max_examples=400)
@given(messages())
def test_a_message_comes_back_from_its_packet(message):
    found = decode(encode(message), strict=False)
    if not (message.type is PacketType.RESPONSE and len(message.body.to_bytes()) == 1):
        assert found == message
    assert encode(found) == encode(message)


@settings(max_examples=400)
@given(st.sampled_from(PacketType), st.integers(0, 15), st.integers(0, 63), st.binary(max_size=80))
def test_any_payload_is_a_message_or_a_wire_error(kind, group, opcode, payload):
    opcode = 0 if kind is PacketType.DATA else opcode
    packet = Packet(type=kind, group=group, opcode=opcode, payload=payload)
    for strict in (True, False):
        with contextlib.suppress(WireError):
            assert encode(decode(packet, strict=strict)) == packet


@settings(max_examples=600)
@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=80), st.booleans())
def test_any_payload_of_a_known_message_is_kept_or_a_wire_error(key, payload, initiator):
    packet = Packet(type=key[0], group=key[1], opcode=key[2], payload=payload)
    for strict in (True, False):
        with contextlib.suppress(WireError):
            assert encode(decode(packet, strict=strict, initiator=initiator)) == packet


@given(messages(), st.binary(min_size=1, max_size=8))
def test_what_a_vendor_appends_is_kept_where_it_is_let_pass(message, more):
    appended = encode(message).payload + more
    packet = Packet(type=message.type, group=message.group, opcode=message.opcode, payload=appended)
    with contextlib.suppress(WireError):
        assert encode(decode(packet, strict=False)) == packet


@given(st.binary(max_size=40))
def test_any_bytes_are_a_packet_or_a_wire_error(data):
    with contextlib.suppress(WireError):
        assert Packet.parse(data).to_bytes() == data
    with contextlib.suppress(WireError):
        Packet.parse(data, strict=False)
    with contextlib.suppress(WireError):
        assert 4 <= packet_size(data) <= 4096


whole = st.builds(
    Packet,
    type=st.sampled_from([PacketType.COMMAND, PacketType.RESPONSE, PacketType.NOTIFICATION]),
    group=st.integers(0, 15),
    opcode=st.integers(0, 63),
    payload=st.binary(max_size=1200),
)


@given(whole, st.integers(1, 300))
def test_a_message_of_any_length_comes_back_from_its_segments(message, limit):
    parts = segments(message, limit=limit)
    assert all(len(part.payload) <= min(limit, CONTROL_PAYLOAD_MAX) for part in parts)
    taker = Reassembler()
    found = [taker.add(Packet.parse(part.to_bytes())) for part in parts]
    assert found == [None] * (len(parts) - 1) + [message]


@given(st.lists(st.binary(min_size=4, max_size=300), max_size=200))
def test_a_reassembler_holds_a_bounded_amount(pieces):
    taker = Reassembler()
    for piece in pieces:
        with contextlib.suppress(WireError):
            taker.add(Packet.parse(piece, strict=False))
        assert sum(len(payload) for _, _, payload in taker._parts.values()) <= 4 * MESSAGE_MAX


def test_a_message_that_gets_too_long_is_dropped_whole():
    taker = Reassembler()
    part = Packet(type=PacketType.NOTIFICATION, group=2, payload=bytes(255), more=True)
    for _ in range(MESSAGE_MAX // 255):
        assert taker.add(part) is None
    with pytest.raises(WireError):
        taker.add(part)
    last = Packet(type=PacketType.NOTIFICATION, group=2, payload=b"x")
    assert taker.add(last) == last


def test_data_packets_have_a_little_endian_length_of_two_bytes():
    packet = Packet(type=PacketType.DATA, group=1, payload=bytes(0x102))
    assert packet.to_bytes()[:4].hex() == "01000201"
    assert packet_size(bytes.fromhex("01000201")) == 4 + 0x102
    with pytest.raises(WireError):
        packet_size(bytes.fromhex("0100") + (DATA_PAYLOAD_MAX + 1).to_bytes(2, "little"))


def test_an_unknown_message_is_kept_byte_for_byte():
    packet = Packet(type=PacketType.NOTIFICATION, group=0xE, opcode=0x2F, payload=b"\x01\x02\xff")
    message = decode(packet)
    assert message.body == Opaque(payload=b"\x01\x02\xff")
    assert encode(message) == packet
    assert name_of(PacketType.NOTIFICATION, 0xE, 0x2F) == "NOTIFICATION E:2F"
