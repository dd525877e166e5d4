"""UCI: examples worked out from the tables, versions 1 and 2, codes in words."""

from __future__ import annotations

import pytest

from dkey.codec import uci_core as core
from dkey.codec import uci_session as session
from dkey.codec import uci_status as codes
from dkey.codec.uci import Group, Packet, PacketType, Reassembler, segments
from dkey.codec.uci_layout import IdStatus, Parameter
from dkey.codec.uci_messages import command, decode, encode
from dkey.codec.uci_params import (
    APP_CONFIG_SIZES,
    AppConfig,
    CapId,
    CccCapabilities,
    check_app_config,
    parameter,
    parse_parameters,
)
from dkey.codec.uci_ranging import (
    CccControleeNtf,
    CccControllerNtf,
    SessionInfoNtf,
    TwrMeasurement,
    distance_cm,
)
from dkey.codec.uci_status import Reason, SessionType, Status, describe, describe_reason
from dkey.errors import LocalFault, WireError


def sent(name: str, body=None) -> str:
    return encode(command(name, body)).to_bytes().hex()


def taken(text: str, **options):
    return decode(Packet.parse(bytes.fromhex(text)), **options).body


# --- commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "wire"),
    [
        ("DEVICE_RESET", core.DeviceResetCmd(), ("2000000100")),
        ("GET_DEVICE_INFO", None, "20020000"),
        ("GET_CAPS_INFO", None, "20030000"),
        ("SET_CONFIG", core.SetConfigCmd(parameters=(Parameter(1, b"\1"),)), ("2004000401010101")),
        ("GET_CONFIG", core.GetConfigCmd(ids=b"\0\1"), ("20050003020001")),
        ("QUERY_UWBS_TIMESTAMP", None, "20080000"),
        (
            "SESSION_INIT",
            session.SessionInitCmd(session_id=0x01020304, session_type=SessionType.ALIRO),
            ("2100000504030201a2"),
        ),
        ("SESSION_DEINIT", session.TokenCmd(token=5), ("2101000405000000")),
        (
            "SET_APP_CONFIG",
            session.SetAppConfigCmd(token=5, parameters=(Parameter(4, b"\x09"),)),
            ("210300080500000001040109"),
        ),
        ("GET_APP_CONFIG", session.GetAppConfigCmd(token=5), ("210400050500000000")),
        ("GET_COUNT", None, "21050000"),
        ("GET_STATE", session.TokenCmd(token=5), ("2106000405000000")),
        (
            "UPDATE_MULTICAST_LIST",
            session.MulticastCmd(token=5, action=0, controlees=(session.Controlee(0x1234, 7),)),
            ("2107000c050000000001341207000000"),
        ),
        ("QUERY_DATA_SIZE", session.TokenCmd(token=5), ("210b000405000000")),
        ("RANGE_START", session.TokenCmd(token=5), ("2200000405000000")),
        ("RANGE_STOP", session.TokenCmd(token=5), ("2201000405000000")),
        ("GET_RANGING_COUNT", session.TokenCmd(token=5), ("2203000405000000")),
        ("RANGE_RESUME", session.ResumeCmd(token=5, rest=b"\1"), ("222100050500000001")),
        ("GET_POWER_STATS", None, "2c000000"),
        ("SET_COUNTRY_CODE", core.CountryCodeCmd(country=b"KR"), ("2c0100024b52")),
    ],
)
def test_a_command_has_the_bytes_of_the_tables(name, body, wire):
    assert sent(name, body) == wire
    assert encode(decode(Packet.parse(bytes.fromhex(wire)))).to_bytes().hex() == wire


# --- responses and notifications ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (("4000000100"), core.StatusOnly(status=0)),
        (("60010001ff"), core.DeviceStatusNtf(state=0xFF)),
        (
            ("4002000c00020001031103010002aabb"),
            core.DeviceInfoRsp(
                status=0,
                uci_version=2,
                mac_version=0x0301,
                phy_version=0x0311,
                test_version=1,
                vendor=b"\xaa\xbb",
            ),
        ),
        (
            ("400300050001a00111"),
            core.CapsInfoRsp(status=0, capabilities=(Parameter(0xA0, b"\x11"),)),
        ),
        (("600700010a"), core.StatusOnly(status=Status.RETRY)),
        (("40080009000100000000000000"), core.TimestampRsp(status=0, timestamp_us=1)),
        (("61020006050000000300"), session.SessionStatusNtf(token=5, state=3, reason=0)),
        (("4103000404010404"), session.SetAppConfigRsp(status=4, rejected=(IdStatus(4, 4),))),
        (("410500020003"), session.CountRsp(status=0, count=3)),
        (("410600020002"), session.SessionStateRsp(status=0, state=2)),
        (
            ("610700080500000001341200"),
            session.MulticastNtf(token=5, outcomes=(session.ControleeStatus(0x1234, 0),)),
        ),
        (("410b000605000000f401"), session.DataSizeRsp(token=5, size=500)),
        (("420300050007000000"), session.RangingCountRsp(status=0, count=7)),
        (("620400050500000001"), session.DataCreditNtf(token=5, credit=1)),
    ],
)
def test_an_answer_reads_as_the_tables_say(wire, body):
    assert taken(wire) == body


def test_both_versions_of_the_answer_to_session_init_are_read():
    assert taken("4100000100") == session.SessionInitRsp(status=0, handle=None)
    assert taken("410000050078563412") == session.SessionInitRsp(status=0, handle=0x12345678)


def test_both_versions_of_the_answer_to_a_multicast_update_are_read():
    assert taken("4107000100").outcomes is None
    assert taken("410700050001341200").outcomes == (session.ControleeStatus(0x1234, 0),)


@pytest.mark.parametrize("wire", ["4002000111", "4008000102", "4103000103"])
def test_a_refusal_may_leave_everything_but_its_status_out(wire):
    assert taken(wire) == core.StatusOnly(status=int(wire[-2:], 16))


def test_a_good_answer_may_not_leave_anything_out():
    with pytest.raises(WireError):
        taken("4002000100")


def test_further_bytes_are_refused_strictly_and_kept_leniently():
    with pytest.raises(WireError):
        taken("4000000300abcd")
    body = taken("4000000300abcd", strict=False)
    assert body.trailing == b"\xab\xcd"
    assert body.to_bytes() == b"\x00\xab\xcd"


def test_a_segment_alone_is_no_message():
    with pytest.raises(WireError):
        taken("5000000100")


def test_reserved_bits_are_refused_strictly_and_ignored_leniently():
    for wire in ("2042000000", "20020100"):
        data = bytes.fromhex(wire)[:4]
        with pytest.raises(WireError):
            Packet.parse(data)
        assert Packet.parse(data, strict=False).opcode == 2


def test_packet_types_that_are_not_defined_are_malformed():
    with pytest.raises(WireError):
        Packet.parse(bytes.fromhex("80000000"))


def test_a_notification_may_stand_between_the_segments_of_a_response():
    taker = Reassembler()
    parts = segments(Packet(type=PacketType.RESPONSE, group=0, opcode=3, payload=bytes(300)))
    between = Packet(type=PacketType.NOTIFICATION, group=0, opcode=1, payload=b"\1")
    assert taker.add(parts[0]) is None
    assert taker.add(between) == between
    assert len(taker.add(parts[1]).payload) == 300


def test_another_response_between_segments_is_malformed():
    taker = Reassembler()
    taker.add(Packet(type=PacketType.RESPONSE, group=0, opcode=3, payload=b"x", more=True))
    with pytest.raises(WireError):
        taker.add(Packet(type=PacketType.RESPONSE, group=0, opcode=4, payload=b"y"))


def test_fields_that_do_not_fit_are_faults_of_this_side():
    for body in (
        core.StatusOnly(status=256),
        session.SessionInitRsp(status=0, handle=2**32),
        session.MulticastCmd(token=1, action=0, controlees=(session.Controlee(1, 2, bytes(16)),)),
        session.MulticastCmd(token=1, action=2, controlees=(session.Controlee(1, 2),)),
        core.SetConfigCmd(parameters=(Parameter(1, bytes(256)),)),
    ):
        with pytest.raises(LocalFault):
            body.to_bytes()
    with pytest.raises(LocalFault):
        Packet(type=PacketType.COMMAND, group=Group.CORE, payload=bytes(256)).to_bytes()


# --- ranging data -------------------------------------------------------------------------------


def test_a_round_of_six_short_addresses_has_215_bytes():
    rounds = SessionInfoNtf(
        sequence=1,
        token=2,
        measurements=tuple(TwrMeasurement(address=bytes((at, 0)), status=0) for at in range(6)),
    )
    payload = rounds.to_bytes()
    assert len(payload) + 4 == 215
    assert payload[:25].hex() == "01000000020000000000000000010000" + "00" * 8 + "06"


def test_extended_addresses_fit_the_same_31_bytes():
    one = TwrMeasurement(address=bytes(8), status=0)
    payload = SessionInfoNtf(sequence=1, token=2, address_form=1, measurements=(one,)).to_bytes()
    assert len(payload) == 25 + 31
    assert SessionInfoNtf.parse(payload).measurements[0].address == bytes(8)


def test_angles_are_signed_128ths_of_a_degree():
    one = TwrMeasurement(address=b"\1\0", status=0, azimuth=-128, elevation=64)
    payload = SessionInfoNtf(sequence=1, token=2, measurements=(one,)).to_bytes()
    assert payload[25 : 25 + 31].hex().startswith("01000000ffff80ff004000")


def test_vendor_bytes_behind_the_measurements_are_kept_leniently():
    payload = SessionInfoNtf(sequence=1, token=2).to_bytes() + b"\x01\x02"
    with pytest.raises(WireError):
        SessionInfoNtf.parse(payload)
    assert SessionInfoNtf.parse(payload, strict=False).trailing == b"\x01\x02"


def test_other_ranging_types_are_carried_opaquely():
    payload = bytearray(SessionInfoNtf(sequence=1, token=2).to_bytes() + b"\x05")
    payload[13] = 2
    found = SessionInfoNtf.parse(bytes(payload))
    assert found.measurements == ()
    assert found.opaque == b"\x00\x05"
    assert found.to_bytes() == payload


@pytest.mark.parametrize(
    ("raw", "status", "cm"),
    [
        (0, 0, 0),
        (250, 0, 250),
        (0xFFFE, 0, 65534),
        (0xFFFF, 0, None),
        (0xFFFF, 0x1B, None),
        (30, 0x1B, -30),
        (0xFFE2, 0x1B, -30),
    ],
)
def test_a_distance_is_signed_and_ffff_is_none(raw, status, cm):
    assert distance_cm(raw, status) == cm


def test_power_is_half_dbm_below_zero_and_0_is_not_measured():
    assert TwrMeasurement(address=bytes(2), status=0, rssi=161).rssi_dbm == -80.5
    assert TwrMeasurement(address=bytes(2), status=0).rssi_dbm is None


def test_the_ccc_notification_of_a_responder_has_a_distance():
    wire = "62200017050000002d070000000300fa0001020102030405060708"
    body = taken(wire)
    assert isinstance(body, CccControleeNtf)
    assert (body.sts_index, body.round, body.distance_cm, body.responder_status) == (7, 3, 250, 2)


def test_the_ccc_notification_of_an_initiator_has_none():
    wire = "6220001705000000000700000003003f0000000102030405060708"
    body = taken(wire, initiator=True)
    assert isinstance(body, CccControllerNtf)
    assert body.responders == 0x3F


# --- parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("major", "size"), [(1, 4), (2, 8)])
def test_the_initiation_time_is_longer_on_uci_2(major, size):
    one = parameter(AppConfig.UWB_INITIATION_TIME, 1, uci_major=major)
    assert len(one.value) == size
    check_app_config([one], uci_major=major)
    with pytest.raises(WireError):
        check_app_config([one], uci_major=3 - major)


def test_a_hopping_key_may_have_4_or_16_bytes():
    check_app_config([Parameter(0xA0, bytes(4))])
    check_app_config([Parameter(0xA0, bytes(16))])
    with pytest.raises(WireError):
        check_app_config([Parameter(0xA0, bytes(8))])


def test_every_parameter_has_a_length_or_a_reason_to_have_none():
    assert {*AppConfig} - {*APP_CONFIG_SIZES} == {
        AppConfig.UWB_INITIATION_TIME,
        AppConfig.DST_MAC_ADDRESS,
    }


def test_unknown_parameters_are_kept_byte_for_byte():
    unknown = Parameter(0xE9, bytes.fromhex("0102ff"))
    cmd = session.SetAppConfigCmd(token=1, parameters=(unknown,))
    assert session.SetAppConfigCmd.parse(cmd.to_bytes()) == cmd
    check_app_config([unknown])


def test_a_known_parameter_of_a_wrong_length_is_refused_strictly_only():
    wire = "21030009050000000104020900"
    with pytest.raises(WireError):
        taken(wire)
    assert taken(wire, strict=False).parameters == (Parameter(4, b"\x09\x00"),)


def test_a_parameter_that_stands_twice_is_refused():
    with pytest.raises(WireError):
        check_app_config([Parameter(4, b"\x09"), Parameter(4, b"\x05")])


def test_a_value_that_does_not_fit_is_a_fault_of_this_side():
    for number, value in (
        (AppConfig.CHANNEL_NUMBER, 256),
        (AppConfig.CHANNEL_NUMBER, -1),
        (AppConfig.URSK, bytes(16)),
        (AppConfig.DST_MAC_ADDRESS, 5),
        (AppConfig.DST_MAC_ADDRESS, b"\1\2\3"),
    ):
        with pytest.raises(LocalFault):
            parameter(number, value)


def test_a_parameter_does_not_show_its_value():
    key = Parameter(AppConfig.URSK, b"\xab" * 32)
    message = command("SET_APP_CONFIG", session.SetAppConfigCmd(token=1, parameters=(key,)))
    for shown in (key, message, encode(message)):
        assert "\\xab" not in repr(shown)
    assert "\\xab" not in repr(session.Controlee(1, 2, b"\xab" * 16))


def test_a_bare_list_that_ends_inside_a_parameter_is_malformed():
    assert parse_parameters(bytes.fromhex("04010905010a")) == (
        Parameter(4, b"\x09"),
        Parameter(5, b"\x0a"),
    )
    for text in ("04", "0402", "040209"):
        with pytest.raises(WireError):
            parse_parameters(bytes.fromhex(text))


def test_capabilities_that_are_not_stated_are_none():
    found = CccCapabilities.of([Parameter(CapId.CHANNELS, b"\x02"), Parameter(0x00, b"\x01")])
    assert found.channels == {9}
    assert found.max_sessions is None
    assert found.chaps_per_slot == frozenset()


# --- codes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [*Status])
def test_every_status_has_words(status):
    assert len(describe(status)) >= 4
    assert "unknown status" not in describe(status)
    assert "vendor status" not in describe(status)


@pytest.mark.parametrize("reason", [*Reason])
def test_every_reason_has_words(reason):
    assert "reason" not in describe_reason(reason)


def test_unknown_codes_have_words_too():
    assert describe(0x0B) == "unknown status 0B"
    assert describe(0xFE) == "vendor status FE"
    assert describe_reason(0x10) == "unknown reason 10"
    assert describe_reason(0x81) == "vendor reason 81"


def test_an_attack_is_called_an_attack():
    for status in (codes.Status.CONSISTENCY_CHECK_FAILED, codes.Status.RX_PHY_STS):
        assert "attack" in describe(status)
