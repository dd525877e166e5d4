"""The virtual UWB subsystem, through its bytes."""

import math

import pytest

from dkey.codec.uci import Packet, PacketType
from dkey.codec.uci_core import DeviceResetCmd, GetConfigCmd, SetConfigCmd
from dkey.codec.uci_layout import Parameter
from dkey.codec.uci_params import AppConfig, CccCapabilities
from dkey.codec.uci_session import SetAppConfigCmd, TokenCmd
from dkey.codec.uci_status import CccStatus, DeviceState, Reason, SessionState, Status
from firmware_mock.uwb_air import UwbAir
from firmware_mock.uwb_attacks import Advance
from firmware_mock.uwb_channel import Car
from firmware_mock.uwb_parameters import MANDATORY
from firmware_mock.uwb_subsystem import OUTBOX_MAX
from uwb_host import ALIRO, SESSION, VALUES, Host, Pair

KEYED = {
    "URSK": bytes(range(1, 33)),
    "NUMBER_OF_CONTROLEES": 7,
    "SLOT_DURATION": 2400,
    "RANGING_INTERVAL": 192,
    "STS_INDEX": 1001,
    "SLOTS_PER_RR": 16,
    "PROTOCOL_VERSION": b"\x01\x01",
    "UWB_CONFIG_ID": 1,
    "PULSESHAPE_COMBO": 0x11,
    "UWB_TIME0": 106_000,
}


@pytest.fixture
def host() -> Host:
    return Host(UwbAir())


@pytest.fixture
def idle(host: Host) -> Host:
    host.ready(initiator=False)
    return host


# --- device -------------------------------------------------------------------------------------


def test_a_subsystem_says_that_it_is_ready(host: Host) -> None:
    assert [each.state for each in host.notified("DEVICE_STATUS")] == [DeviceState.READY]


def test_a_reset_forgets_all_sessions(idle: Host) -> None:
    assert idle.status("DEVICE_RESET", DeviceResetCmd()) == Status.OK
    assert idle.send("GET_COUNT").count == 0
    assert idle.notified("DEVICE_STATUS")[-1].state == DeviceState.READY


def test_the_response_comes_before_what_the_command_caused(host: Host) -> None:
    host.subsystem.feed(bytes.fromhex("2000000100"))
    kinds = [each.type for each in host.read()]
    assert kinds == [PacketType.RESPONSE, PacketType.NOTIFICATION]


def test_capabilities_name_what_a_session_may_use(host: Host) -> None:
    caps = CccCapabilities.of(host.send("GET_CAPS_INFO").capabilities)
    assert caps.channels == {5, 9}
    assert caps.chaps_per_slot == {3, 4, 6, 8, 9, 12, 24}
    assert caps.protocol_versions == (0x0100,)
    assert caps.max_sessions == 8


@pytest.mark.parametrize("major", [1, 2])
def test_the_version_is_told(major: int) -> None:
    host = Host(UwbAir(), uci_major=major)
    assert host.send("GET_DEVICE_INFO").uci_major == major


def test_the_device_has_parameters(host: Host) -> None:
    low_power = Parameter(1, b"\x01")
    assert host.status("SET_CONFIG", SetConfigCmd(parameters=(low_power,))) == Status.OK
    found = host.send("GET_CONFIG", GetConfigCmd(ids=b"\x00\x01"))
    assert found.parameters == (Parameter(0, b"\x01"), low_power)
    refused = host.send("SET_CONFIG", SetConfigCmd(parameters=(Parameter(0, b"\x01"),)))
    assert [each.status for each in refused.rejected] == [Status.READ_ONLY]


def test_the_timestamp_is_the_chips_own_virtual_time() -> None:
    air = UwbAir()
    air.advance(7_000_000_000)
    host = Host(air, boot_ns=2_000_000_000)
    assert host.send("QUERY_UWBS_TIMESTAMP").timestamp_us == 5_000_000


# --- sessions -----------------------------------------------------------------------------------


def test_a_session_goes_through_its_states(host: Host) -> None:
    host.ready(initiator=False)
    host.on("RANGE_START")
    host.on("RANGE_STOP")
    host.on("SESSION_DEINIT")
    states = [each.state for each in host.notified("SESSION_STATUS")]
    assert states == [
        SessionState.INIT,
        SessionState.IDLE,
        SessionState.ACTIVE,
        SessionState.IDLE,
        SessionState.DEINIT,
    ]
    devices = [each.state for each in host.notified("DEVICE_STATUS")]
    assert devices == [DeviceState.READY, DeviceState.ACTIVE, DeviceState.READY]


def test_uci_2_names_sessions_by_handles() -> None:
    host = Host(UwbAir(), uci_major=2)
    handle = host.init().handle
    assert handle != SESSION
    assert host.on("GET_STATE", handle) == Status.OK
    assert host.on("GET_STATE", SESSION) == Status.SESSION_NOT_EXIST


@pytest.mark.parametrize("session_type", [0x00, 0x01, 0xA1, 0xD0])
def test_other_session_types_are_not_served(host: Host, session_type: int) -> None:
    assert host.init(session_type=session_type).status == Status.INVALID_PARAM


def test_a_session_identifier_is_used_once(host: Host) -> None:
    host.init()
    assert host.init().status == Status.SESSION_DUPLICATE


def test_there_is_room_for_eight_sessions(host: Host) -> None:
    found = [host.init(number).status for number in range(9)]
    assert found == [Status.OK] * 8 + [Status.MAX_SESSIONS]


COMMANDS = ["SESSION_DEINIT", "RANGE_START", "RANGE_STOP", "GET_STATE", "GET_RANGING_COUNT"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_session_that_is_not_there_is_told_so(host: Host, name: str) -> None:
    assert host.on(name, 99) == Status.SESSION_NOT_EXIST


@pytest.mark.parametrize("missing", sorted(MANDATORY))
def test_without_a_mandatory_parameter_a_session_does_not_start(host: Host, missing) -> None:
    values = {AppConfig.DEVICE_TYPE: 0, AppConfig.DEVICE_ROLE: 0} | VALUES
    del values[missing]
    host.init()
    assert host.configure(values).status == Status.OK
    assert host.on("RANGE_START") == Status.SESSION_NOT_CONFIGURED


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (Parameter(AppConfig.CHANNEL_NUMBER, b"\x07"), Status.INVALID_RANGE),
        (Parameter(AppConfig.HOPPING_MODE, b"\x05"), Status.INVALID_RANGE),
        (Parameter(AppConfig.SLOT_DURATION, b"\x01\x00"), Status.INVALID_RANGE),
        (Parameter(AppConfig.STS_INDEX, b"\xff\xff\xff\x7f"), Status.INVALID_RANGE),
        (Parameter(AppConfig.MAC_MODE, b"\xc0"), Status.INVALID_RANGE),
        (Parameter(AppConfig.URSK, bytes(16)), Status.INVALID_SIZE),
        (Parameter(AppConfig.LAST_STS_INDEX, bytes(4)), Status.READ_ONLY),
        (Parameter(0x7E, b"\x00"), Status.INVALID_PARAM),
    ],
)
def test_a_wrong_parameter_is_named_and_nothing_is_taken(idle: Host, wrong, status) -> None:
    code = Parameter(AppConfig.PREAMBLE_CODE_INDEX, b"\x0c")
    answer = idle.send("SET_APP_CONFIG", SetAppConfigCmd(token=SESSION, parameters=(code, wrong)))
    assert answer.status == Status.INVALID_PARAM
    assert [(each.id, each.status) for each in answer.rejected] == [(wrong.id, status)]
    kept = idle.configuration(bytes([AppConfig.PREAMBLE_CODE_INDEX])).parameters
    assert kept[0].number == VALUES[AppConfig.PREAMBLE_CODE_INDEX]


def test_values_that_do_not_go_together_are_refused(idle: Host) -> None:
    answer = idle.configure({AppConfig.SLOTS_PER_RR: 6})
    assert answer.status == Status.INVALID_RANGE


def test_a_round_that_32_bit_time_stamps_cannot_span_is_refused(host: Host) -> None:
    host.init()
    long = {"SLOT_DURATION": 24 * 400, "SLOTS_PER_RR": 16, "RANGING_INTERVAL": 192}
    values = {AppConfig.DEVICE_TYPE: 0, AppConfig.DEVICE_ROLE: 0} | VALUES
    values |= {AppConfig[name]: value for name, value in long.items()}
    assert host.configure(values | {AppConfig.NUMBER_OF_CONTROLEES: 8}).status == 0x05
    assert host.configure(values | {AppConfig.NUMBER_OF_CONTROLEES: 7}).status == Status.OK


def test_an_active_session_keeps_its_parameters(idle: Host) -> None:
    idle.on("RANGE_START")
    answer = idle.configure({AppConfig.PREAMBLE_CODE_INDEX: 12})
    assert answer.status == Status.SESSION_ACTIVE


def test_the_ranging_secret_is_never_read_back(idle: Host) -> None:
    found = idle.configuration()
    assert AppConfig.URSK not in {each.id for each in found.parameters}
    assert idle.configuration(bytes([AppConfig.URSK])).parameters == ()


def test_a_start_in_the_past_is_too_old(idle: Host) -> None:
    idle.chip.air.advance(10_000_000)
    assert idle.on("RANGE_START") == Status.INITIATION_TIME_TOO_OLD


def test_starting_twice_and_stopping_twice_are_refused(idle: Host) -> None:
    assert [idle.on("RANGE_START") for _ in range(2)] == [Status.OK, Status.SESSION_ACTIVE]
    assert [idle.on("RANGE_STOP") for _ in range(2)] == [Status.OK, Status.REJECTED]


def test_an_index_is_used_once_for_each_ranging_secret() -> None:
    pair = Pair().start().run()
    for host in (pair.phone, pair.vehicle):
        host.on("RANGE_STOP")
        last = host.configuration(bytes([AppConfig.LAST_STS_INDEX])).parameters[0].number
        time0 = pair.air.now_ns // 1000 + 50_000
        host.configure({AppConfig.UWB_TIME0: time0, AppConfig.STS_INDEX: last})
        assert host.on("RANGE_START") == Status.INVALID_STS_INDEX
        host.configure({AppConfig.STS_INDEX: last + 1})
        assert host.on("RANGE_START") == Status.OK


def test_frame_counters_go_on_in_the_next_session_of_a_ranging_secret() -> None:
    pair = Pair().start().run()
    used = pair.phone.chip.sessions[SESSION].run.session.frame_counter
    pair.phone.on("RANGE_STOP")
    time0 = pair.air.now_ns // 1000 + 50_000
    pair.phone.configure({AppConfig.UWB_TIME0: time0, AppConfig.STS_INDEX: 9000})
    pair.phone.on("RANGE_START")
    assert used == 20
    assert pair.phone.chip.sessions[SESSION].run.session.frame_counter == used


def test_a_suspended_session_resumes_with_a_new_index_and_time() -> None:
    pair = Pair().start().run(0.5)
    for host in (pair.phone, pair.vehicle):
        host.on("RANGE_STOP")
        time0 = pair.air.now_ns // 1000 + 50_000
        host.configure({AppConfig.UWB_TIME0: time0, AppConfig.STS_INDEX: 5000})
        assert host.on("RANGE_RESUME") == Status.OK
    before = len(pair.statuses())
    assert pair.run(0.5).statuses()[before:] == [{Status.OK}] * 4


# --- ranging ------------------------------------------------------------------------------------


def test_a_phone_and_a_vehicle_range() -> None:
    pair = Pair().start().run()
    assert pair.statuses() == [{Status.OK}] * 10
    for each in pair.vehicle.notified("SESSION_INFO")[3].measurements:
        anchor = int.from_bytes(each.address, "little")
        true_m = math.dist((4.0, 3.0, Car.SIX.phone_z_m), Car.SIX.anchors_m[anchor])
        assert each.distance_cm == pytest.approx(100 * true_m, abs=10)
        assert -90 < each.rssi_dbm < -60


def test_a_chip_that_is_one_anchor_reports_as_ccc_chips_do() -> None:
    pair = Pair().start(RESPONDER_SLOT_INDEX=2).run()
    entries = pair.vehicle.notified("RANGE_CCC_DATA")
    assert {each.responder_status for each in entries} == {CccStatus.OK}
    assert len({each.sts_index for each in entries}) == 10
    true_m = math.dist((4.0, 3.0, Car.SIX.phone_z_m), Car.SIX.anchors_m[2])
    assert entries[0].distance_cm == pytest.approx(100 * true_m, abs=10)
    assert {each.responders for each in pair.phone.notified("RANGE_CCC_DATA")} == {0b000100}
    assert not pair.vehicle.notified("SESSION_INFO")


def test_six_chips_of_one_anchor_each_range_in_one_round() -> None:
    pair = Pair().start(RESPONDER_SLOT_INDEX=0)
    others = [Host(pair.air) for _ in range(5)]
    for slot, host in enumerate(others, start=1):
        host.ready(initiator=False, RESPONDER_SLOT_INDEX=slot)
        host.on("RANGE_START")
    pair.run()
    assert {each.responders for each in pair.phone.notified("RANGE_CCC_DATA")} == {0b111111}
    for host in others:
        host.read()
        assert len(host.notified("RANGE_CCC_DATA")) == 10


def test_a_chip_that_is_one_anchor_never_tells_a_negative_distance_as_a_small_one() -> None:
    pair = Pair().start(RESPONDER_SLOT_INDEX=2)
    pair.air.attacks.append(Advance(response_s=100e-9))
    entry = pair.run().vehicle.notified("RANGE_CCC_DATA")[0]
    assert (entry.responder_status, entry.distance_cm) == (CccStatus.BAD_FRAME, None)


def test_the_phone_learns_who_answered_and_no_distance() -> None:
    pair = Pair().start().run()
    entries = pair.phone.notified("RANGE_CCC_DATA")
    assert {each.responders for each in entries} == {0b111111}
    assert not pair.phone.notified("SESSION_INFO")


@pytest.mark.parametrize("field", KEYED)
def test_a_mismatch_of_any_keyed_parameter_fails_the_sts(field: str) -> None:
    pair = Pair().start(**{field: KEYED[field]}).run()
    found = set().union(*pair.statuses())
    assert Status.RX_PHY_STS in found
    assert found <= {Status.RX_PHY_STS, Status.RX_TIMEOUT}
    assert {each.responders for each in pair.phone.notified("RANGE_CCC_DATA")} == {0}


@pytest.mark.parametrize("field", [{"HOP_MODE_KEY": 5}, {"HOPPING_MODE": 0}])
def test_a_mismatch_in_hopping_fails_the_sts_from_the_second_block_on(field: dict) -> None:
    statuses = Pair().start(**field).run().statuses()
    assert statuses[1:] == [{Status.RX_PHY_STS}] * 8  # the last block is not over


@pytest.mark.parametrize("field", [{"CHANNEL_NUMBER": 5}, {"PREAMBLE_CODE_INDEX": 10}])
def test_another_channel_or_code_is_silence(field: dict) -> None:
    pair = Pair().start(**field).run()
    assert set().union(*pair.statuses()) == {Status.RX_TIMEOUT}


def test_a_chip_that_is_one_anchor_says_that_it_heard_nothing() -> None:
    pair = Pair().start(CHANNEL_NUMBER=5, RESPONDER_SLOT_INDEX=1).run()
    last = pair.vehicle.notified("RANGE_CCC_DATA")[-1]
    assert last.responder_status == CccStatus.LISTENING


def test_aliro_and_ccc_frames_do_not_mix() -> None:
    pair = Pair()
    for host, kind in ((pair.phone, 0xA0), (pair.vehicle, ALIRO)):
        host.initiator = host is pair.phone
        host.init(session_type=kind)
        role = int(host.initiator)
        own = {AppConfig.DEVICE_TYPE: role, AppConfig.DEVICE_ROLE: role}
        host.configure(own | VALUES)
        host.on("RANGE_START")
    pair.run()
    assert Status.OK not in set().union(*pair.statuses())


def test_a_negative_distance_is_told_as_one() -> None:
    pair = Pair().start()
    pair.air.attacks.append(Advance(response_s=100e-9))
    nearest = min(
        pair.run().vehicle.notified("SESSION_INFO")[0].measurements,
        key=lambda each: each.distance_cm,
    )
    assert nearest.status == Status.OK_NEGATIVE_DISTANCE
    assert nearest.distance_cm < -500


def test_clock_ratios_come_behind_when_asked_for() -> None:
    info = Pair(raw=True).start().run().vehicle.notified("SESSION_INFO")[0]
    count, ratios = info.trailing[0], info.trailing[1:]
    found = [
        int.from_bytes(ratios[at : at + 4], "little", signed=True)
        for at in range(0, len(ratios), 4)
    ]
    assert count == len(found) == 6
    assert all(abs(each) < 40_000 for each in found)
    assert len(set(found)) == 6


def test_the_rounds_are_counted() -> None:
    pair = Pair().start().run()
    assert pair.vehicle.chip.sessions[SESSION].rounds == 10


def test_a_session_stops_after_its_measurements() -> None:
    pair = Pair().start(MAX_MEASUREMENTS=3).run()
    assert len(pair.statuses()) == 3
    last = pair.vehicle.notified("SESSION_STATUS")[-1]
    assert (last.state, last.reason) == (SessionState.IDLE, Reason.MAX_MEASUREMENTS)


def test_a_session_stops_when_its_index_is_used_up() -> None:
    pair = Pair().start({"STS_INDEX": 2**31 - 400}, STS_INDEX=2**31 - 400).run(2)
    for host in (pair.phone, pair.vehicle):
        assert host.notified("SESSION_STATUS")[-1].reason == Reason.STS_CONFIG


def test_a_session_stops_when_its_secret_has_lived_long_enough() -> None:
    pair = Pair().start(URSK_TTL=1, RANGING_INTERVAL=96 * 50).run(61)
    last = pair.vehicle.notified("SESSION_STATUS")[-1]
    assert (last.state, last.reason) == (SessionState.IDLE, 0x80)


def test_two_sessions_share_the_blocks() -> None:
    pair = Pair().start()
    other = {"URSK": bytes(32), "UWB_TIME0": 34_000, "HOPPING_MODE": 0}
    second = Host(pair.air, at_m=(-6.0, 0.0))
    second.ready(initiator=True, token=9, **other)
    pair.vehicle.ready(initiator=False, token=9, **other)
    assert second.on("RANGE_START", 9) == Status.OK
    assert pair.vehicle.on("RANGE_START", 9) == Status.OK
    pair.run(3)
    good = {SESSION: 0, 9: 0}
    for body in pair.vehicle.notified("SESSION_INFO"):
        good[body.token] += all(each.status == Status.OK for each in body.measurements)
    assert good[SESSION] > 15
    assert good[9] > 15


# --- malformed input and faults -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        ("24000000", "4400000107"),  # no such group
        ("20300000", "4030000108"),  # no such opcode
        ("2000000200ff", "4000000106"),  # a byte too many
        ("2000000101", "4000000104"),  # another kind of reset
        ("200100", ""),  # the rest is awaited
        ("23000000", "4300000107"),  # data control has no commands
        ("210300050403020101", "4103000106"),  # ends inside its list
    ],
)
def test_malformed_commands_get_a_status(host: Host, packet: str, answer: str) -> None:
    host.subsystem.feed(bytes.fromhex(packet))
    assert host.subsystem.take()[:5].hex() == answer


@pytest.mark.parametrize("first", [0x80, 0xE0])
def test_what_is_no_packet_is_dropped_and_complained_about(host: Host, first: int) -> None:
    host.subsystem.feed(bytes([first]) * 40)
    assert host.read()[0].body.status == Status.SYNTAX_ERROR
    assert host.status("DEVICE_RESET", DeviceResetCmd()) == Status.OK


def test_a_command_may_come_byte_by_byte(host: Host) -> None:
    for byte in Packet(type=PacketType.COMMAND, group=0, opcode=2).to_bytes():
        host.subsystem.feed(bytes([byte]))
    assert host.read()[0].name == "GET_DEVICE_INFO"


def test_a_host_that_does_not_read_costs_no_memory(host: Host) -> None:
    command = Packet(type=PacketType.COMMAND, group=0, opcode=2).to_bytes()
    for _ in range(50):
        host.subsystem.feed(command * 1000)
    assert len(host.subsystem.take()) < OUTBOX_MAX + 300
    assert host.subsystem.dropped > 0
    assert host.status("DEVICE_RESET", DeviceResetCmd()) == Status.OK


def test_starting_and_stopping_forever_leaves_no_events(idle: Host) -> None:
    for _ in range(100):
        idle.on("RANGE_START")
        idle.on("RANGE_STOP")
    assert idle.chip.air.next_ns is None


def test_a_stalled_chip_says_nothing() -> None:
    pair = Pair().start().run(0.3)
    pair.vehicle.chip.faults.stall = True
    before = len(pair.vehicle.told)
    pair.vehicle.subsystem.feed(bytes.fromhex("20020000"))
    pair.run()
    assert len(pair.vehicle.told) == before
    pair.vehicle.chip.faults.stall = False
    assert pair.vehicle.send("GET_DEVICE_INFO").status == Status.OK


def test_a_mute_chip_answers_and_tells_nothing() -> None:
    pair = Pair().start().run(0.3)
    pair.vehicle.chip.faults.mute = True
    before = len(pair.statuses())
    assert len(pair.run().statuses()) == before
    assert pair.vehicle.on("GET_STATE") == Status.OK


def test_a_deaf_chip_says_that_it_is_active_and_never_ranges() -> None:
    pair = Pair()
    pair.vehicle.chip.faults.deaf = True
    pair.start().run()
    assert pair.vehicle.notified("SESSION_STATUS")[-1].state == SessionState.ACTIVE
    assert not pair.vehicle.notified("SESSION_INFO")


def test_a_lying_chip_tells_another_state(idle: Host) -> None:
    idle.chip.faults.state = SessionState.ACTIVE
    assert idle.send("GET_STATE", TokenCmd(token=SESSION)).state == SessionState.ACTIVE
    idle.chip.faults.state = None
    assert idle.chip.sessions[SESSION].state is SessionState.IDLE


def test_a_reset_of_its_own_ends_all_sessions() -> None:
    pair = Pair().start().run(0.3)
    pair.vehicle.subsystem.reset()
    before = len(pair.statuses())
    assert len(pair.run().statuses()) == before
    assert pair.vehicle.notified("DEVICE_STATUS")[-1].state == DeviceState.READY
    assert pair.vehicle.on("GET_STATE") == Status.SESSION_NOT_EXIST


def test_the_same_seed_gives_the_same_bytes() -> None:
    def told(seed: int) -> list:
        return Pair(seed=seed).start().run().vehicle.told

    assert told(3) == told(3)
    assert told(3) != told(4)


def test_the_ranging_secret_is_not_in_the_repr_of_a_session(idle: Host) -> None:
    assert bytes(range(32)).hex() not in repr(idle.chip.sessions[SESSION])
    assert repr(bytes(range(32)))[2:-1] not in repr(idle.chip.sessions[SESSION])
