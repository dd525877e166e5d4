"""The UCI host against a scripted subsystem, one that obeys and many that do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.codec import uci_session as session
from dkey.codec.uci import Packet, PacketType
from dkey.codec.uci_messages import command
from dkey.codec.uci_params import AppConfig, parameter
from dkey.codec.uci_ranging import CccControleeNtf, SessionInfoNtf, TwrMeasurement
from dkey.codec.uci_status import SessionState, SessionType, Status
from dkey.errors import LocalFault
from dkey.ranging.uci_events import (
    Answered,
    CommandFailed,
    DeviceReady,
    Fault,
    FaultKind,
    Notified,
    RangingData,
    SessionStateChanged,
)
from dkey.ranging.uci_host import ANSWER_S, BOOT_S, QUEUE_MAX, RECOVERIES, TRIES, HostState, UciHost

RESET_OK = bytes.fromhex("4000000100")
READY = bytes.fromhex("6001000101")
ERROR = bytes.fromhex("60010001ff")
BOOT = bytes.fromhex("60010001fe")
RETRY = bytes.fromhex("400300010a")
ANCHORS = {b"\x01\x00": 0, b"\x02\x00": 1}


def info(major: int) -> bytes:
    return bytes.fromhex(f"4002000a00{major:02x}0000000000000000")


def up(major: int = 1) -> UciHost:
    """Return a host whose subsystem is READY."""
    host = UciHost(anchors=ANCHORS)
    host.start(now_s=0.0)
    for packet in (RESET_OK, READY, info(major)):
        host.receive(packet, now_s=0.1)
    host.outbox()
    assert host.state is HostState.READY
    return host


def answer(host: UciHost, wire: str, now_s: float = 1.0) -> list:
    return host.receive(bytes.fromhex(wire), now_s=now_s)


def status(host: UciHost, state: int, reason: int = 0, token: int = 7) -> list:
    body = session.SessionStatusNtf(token=token, state=state, reason=reason).to_bytes()
    packet = Packet(type=PacketType.NOTIFICATION, group=1, opcode=2, payload=body)
    return host.receive(packet.to_bytes(), now_s=1.0)


def ranges(host: UciHost, sequence: int = 1, token: int = 7, **measured) -> list:
    one = TwrMeasurement(**{"address": b"\x01\x00", "status": 0, "distance": 150} | measured)
    body = SessionInfoNtf(sequence=sequence, token=token, measurements=(one,)).to_bytes()
    packet = Packet(type=PacketType.NOTIFICATION, group=2, opcode=0, payload=body)
    return host.receive(packet.to_bytes(), now_s=2.0)


def ccc(host: UciHost, index: int = 100, code: int = 0, distance: int = 200) -> list:
    body = CccControleeNtf(token=7, status=code, sts_index=index, round=3, distance=distance)
    packet = Packet(type=PacketType.NOTIFICATION, group=2, opcode=0x20, payload=body.to_bytes())
    return host.receive(packet.to_bytes(), now_s=2.0)


def init(host: UciHost, kind: int = SessionType.FIRA_RANGING) -> None:
    body = session.SessionInitCmd(session_id=7, session_type=kind)
    host.send(command("SESSION_INIT", body), now_s=1.0)
    answer(host, "4100000100")
    status(host, SessionState.INIT)
    status(host, SessionState.IDLE)


def active(kind: int = SessionType.FIRA_RANGING) -> UciHost:
    host = up()
    init(host, kind)
    host.send(command("RANGE_START", session.TokenCmd(token=7)), now_s=1.0)
    answer(host, "4200000100")
    status(host, SessionState.ACTIVE)
    host.outbox()
    return host


def kinds(events: list) -> list:
    return [event.kind for event in events if isinstance(event, Fault)]


# --- coming up ----------------------------------------------------------------------------------


def test_a_subsystem_is_reset_then_asked_what_it_is():
    host = UciHost()
    assert (host.state, host.deadline, host.outbox()) == (HostState.DOWN, None, [])
    host.start(now_s=0.0)
    assert host.outbox() == [bytes.fromhex("2000000100")]
    assert host.receive(RESET_OK, now_s=0.1) == []
    assert host.outbox() == []
    assert host.receive(READY, now_s=0.2) == []
    assert host.outbox() == [bytes.fromhex("20020000")]
    (ready,) = host.receive(info(2), now_s=0.3)
    assert isinstance(ready, DeviceReady)
    assert (ready.uci_major, host.uci_major, host.deadline) == (2, 2, None)


def test_ready_may_come_before_the_answer_to_the_reset_and_boot_states_are_passed():
    host = UciHost()
    host.start(now_s=0.0)
    for packet in (BOOT, READY, RESET_OK):
        assert host.receive(packet, now_s=0.1) == []
    assert host.state is HostState.ASKING


def test_no_command_is_taken_before_the_subsystem_is_ready():
    host = UciHost()
    host.start(now_s=0.0)
    with pytest.raises(LocalFault):
        host.send(command("GET_CAPS_INFO"), now_s=0.0)


def test_a_version_that_is_unknown_is_reported_and_tried_again():
    host = UciHost()
    host.start(now_s=0.0)
    host.receive(RESET_OK, now_s=0.1)
    host.receive(READY, now_s=0.1)
    assert kinds(host.receive(info(9), now_s=0.2)) == [FaultKind.DEVICE_ERROR]
    assert host.state is HostState.RESETTING


def test_a_subsystem_that_never_gets_ready_is_given_up():
    host, now, seen = UciHost(), 0.0, []
    host.start(now_s=now)
    for _ in range(RECOVERIES + 1):
        host.receive(RESET_OK, now_s=now)
        assert host.deadline == now + BOOT_S
        now = host.deadline
        seen += host.tick(now_s=now)
    assert kinds(seen) == [FaultKind.NO_ANSWER] * (RECOVERIES + 1) + [FaultKind.GIVEN_UP]
    assert (host.state, host.deadline, host.outbox()) == (HostState.GIVEN_UP, None, [])
    assert host.receive(READY, now_s=now) == []


def test_a_host_that_gave_up_can_be_started_again():
    host = UciHost()
    host.start(now_s=0.0)
    for at in range(RECOVERIES + 1):
        host.receive(ERROR, now_s=float(at))
    assert host.state is HostState.GIVEN_UP
    host.start(now_s=10.0)
    assert host.outbox() == [bytes.fromhex("2000000100")]


# --- commands -----------------------------------------------------------------------------------


def test_one_command_is_under_way_at_a_time():
    host = up()
    host.send(command("GET_CAPS_INFO"), now_s=1.0)
    host.send(command("GET_COUNT"), now_s=1.0)
    assert host.outbox() == [bytes.fromhex("20030000")]
    (event,) = answer(host, "400300020000")
    assert isinstance(event, Answered)
    assert event.command.name == "GET_CAPS_INFO"
    assert host.outbox() == [bytes.fromhex("21050000")]


def test_a_refused_command_is_reported_in_words_and_the_next_one_goes_out():
    host = up()
    host.send(command("GET_CAPS_INFO"), now_s=1.0)
    host.send(command("GET_COUNT"), now_s=1.0)
    (event,) = answer(host, "4003000103")
    assert isinstance(event, CommandFailed)
    assert (event.status, event.text) == (3, "the subsystem cannot read the packet")
    assert len(host.outbox()) == 2


def test_a_command_that_is_asked_for_again_is_sent_again_after_a_pause():
    host = up()
    host.send(command("GET_CAPS_INFO"), now_s=1.0)
    (first,) = host.outbox()
    assert host.receive(RETRY, now_s=1.0) == []
    assert host.outbox() == []
    assert host.tick(now_s=host.deadline) == []
    assert host.outbox() == [first]
    assert isinstance(answer(host, "400300020000")[0], Answered)


def test_a_command_is_not_sent_again_for_ever():
    host, sent, now = up(), 0, 1.0
    host.send(command("GET_CAPS_INFO"), now_s=now)
    for _ in range(TRIES):
        sent += len(host.outbox())
        events = host.receive(RETRY, now_s=now)
        now = host.deadline or now
        host.tick(now_s=now)
    assert sent == TRIES
    assert [event.status for event in events] == [Status.RETRY]
    assert host.state is HostState.READY


def test_a_generic_error_that_asks_again_counts_as_the_answer():
    host = up()
    host.send(command("GET_CAPS_INFO"), now_s=1.0)
    host.outbox()
    assert answer(host, "600700010a") == []
    host.tick(now_s=host.deadline)
    assert host.outbox() == [bytes.fromhex("20030000")]


def test_a_command_without_an_answer_fails_with_all_behind_it_and_the_subsystem_is_reset():
    host = active()
    host.send(command("GET_CAPS_INFO"), now_s=5.0)
    host.send(command("GET_COUNT"), now_s=5.0)
    host.outbox()
    assert host.deadline == 5.0 + ANSWER_S
    assert host.tick(now_s=5.0 + ANSWER_S - 0.001) == []
    events = host.tick(now_s=5.0 + ANSWER_S)
    assert kinds(events) == [FaultKind.NO_ANSWER]
    failed = [event.command.name for event in events if isinstance(event, CommandFailed)]
    assert failed == ["GET_CAPS_INFO", "GET_COUNT"]
    gone = [event for event in events if isinstance(event, SessionStateChanged)]
    assert [(event.session_id, event.state) for event in gone] == [(7, SessionState.DEINIT)]
    assert host.outbox() == [bytes.fromhex("2000000100")]


@pytest.mark.parametrize("asked", [False, True])
def test_an_answer_to_what_was_not_asked_is_a_fault(asked):
    host = up()
    if asked:
        host.send(command("GET_COUNT"), now_s=1.0)
    assert kinds(answer(host, "400300020000")) == [FaultKind.UNEXPECTED_ANSWER]


def test_a_field_that_does_not_fit_is_refused_before_anything_is_sent():
    host = up()
    with pytest.raises(LocalFault):
        host.send(command("RANGE_START", session.TokenCmd(token=-1)), now_s=1.0)
    assert host.outbox() == []


def test_a_queue_has_an_end():
    host = up()
    for _ in range(1 + QUEUE_MAX):
        host.send(command("GET_COUNT"), now_s=1.0)
    with pytest.raises(LocalFault):
        host.send(command("GET_COUNT"), now_s=1.0)


# --- device state -------------------------------------------------------------------------------


@pytest.mark.parametrize(("packet", "kind"), [(ERROR, "DEVICE_ERROR"), (BOOT, "REBOOTED")])
def test_an_error_or_a_reboot_ends_all_sessions_and_resets_the_subsystem(packet, kind):
    host = active()
    events = host.receive(packet, now_s=3.0)
    assert kinds(events) == [FaultKind[kind]]
    assert [event.state for event in events[1:]] == [SessionState.DEINIT]
    assert host.token(7) is None
    assert host.state is HostState.RESETTING


def test_a_state_that_is_not_defined_is_a_fault():
    assert kinds(answer(up(), "6001000155")) == [FaultKind.UNEXPECTED_STATE]


def test_a_generic_error_is_reported_in_words():
    (event,) = answer(up(), "6007000107")
    assert (event.kind, event.text) == (
        FaultKind.GENERIC_ERROR,
        "the subsystem does not know this group of commands",
    )


# --- sessions -----------------------------------------------------------------------------------


def test_a_session_is_named_by_its_identifier_on_uci_1_and_by_its_handle_on_uci_2():
    for major, wire, token in ((1, "4100000100", 7), (2, "41000005000b000000", 11)):
        host = up(major)
        body = session.SessionInitCmd(session_id=7, session_type=SessionType.ALIRO)
        host.send(command("SESSION_INIT", body), now_s=1.0)
        answer(host, wire)
        assert host.token(7) == token
        (event,) = status(host, SessionState.INIT, token=token)
        assert event.session_id == 7


def test_the_whole_life_of_a_session_is_told():
    host = active()
    (event,) = status(host, SessionState.IDLE, reason=1)
    assert event.text == "too many rounds failed in a row"
    (event,) = status(host, SessionState.DEINIT)
    assert event.state == SessionState.DEINIT
    assert host.token(7) is None


def test_a_session_that_ranges_unasked_is_not_believed():
    host = up()
    init(host)
    assert kinds(status(host, SessionState.ACTIVE)) == [FaultKind.UNEXPECTED_STATE]
    assert kinds(ranges(host)) == [FaultKind.DATA_OUT_OF_STATE]


def test_a_refused_start_gives_no_leave_to_range():
    host = up()
    init(host)
    host.send(command("RANGE_START", session.TokenCmd(token=7)), now_s=1.0)
    answer(host, "4200000115")
    assert kinds(status(host, SessionState.ACTIVE)) == [FaultKind.UNEXPECTED_STATE]


def test_a_session_that_stopped_does_not_start_again_by_itself():
    host = active()
    status(host, SessionState.IDLE)
    assert kinds(status(host, SessionState.ACTIVE, reason=4)) == [FaultKind.UNEXPECTED_STATE]


def test_a_session_that_was_suspended_in_band_may_be_resumed_in_band():
    host = active()
    status(host, SessionState.IDLE, reason=3)
    (event,) = status(host, SessionState.ACTIVE, reason=4)
    assert isinstance(event, SessionStateChanged)


@pytest.mark.parametrize("state", [SessionState.ACTIVE, SessionState.IDLE, 9])
def test_a_new_session_cannot_skip_its_first_state(state):
    host = up()
    body = session.SessionInitCmd(session_id=7, session_type=0)
    host.send(command("SESSION_INIT", body), now_s=1.0)
    answer(host, "4100000100")
    assert kinds(status(host, state)) == [FaultKind.UNEXPECTED_STATE]


def test_reports_on_a_session_that_is_not_there_are_faults():
    host = up()
    assert kinds(status(host, SessionState.INIT)) == [FaultKind.UNKNOWN_SESSION]
    assert kinds(ranges(host)) == [FaultKind.UNKNOWN_SESSION]


def test_a_handle_that_is_taken_already_is_a_fault():
    host = up(2)
    for session_id, faults in ((7, []), (8, [FaultKind.UNEXPECTED_STATE])):
        body = session.SessionInitCmd(session_id=session_id, session_type=0)
        host.send(command("SESSION_INIT", body), now_s=1.0)
        assert kinds(answer(host, "41000005000b000000")) == faults
    assert (host.token(7), host.token(8)) == (11, None)


# --- ranges -------------------------------------------------------------------------------------


def test_a_round_of_a_fira_session_is_told_by_anchor():
    host = active()
    (event,) = ranges(host, sequence=5, address=b"\x02\x00", rssi=160, nlos=1)
    assert isinstance(event, RangingData)
    (measured,) = event.round.ranges
    assert (measured.anchor, measured.distance_cm, measured.rssi_dbm) == (1, 150, -80.0)
    assert measured.nlos == 100
    assert (event.round.session_id, event.round.sts_index, event.round.at_s) == (7, 5, 2.0)


def test_an_address_that_is_no_anchor_is_left_out():
    (event,) = ranges(active(), address=b"\x09\x00")
    assert event.round.ranges == ()


def test_a_negative_distance_stays_negative_and_none_stays_none():
    host = active()
    (event,) = ranges(host, sequence=1, distance=30, status=0x1B)
    assert event.round.ranges[0].distance_cm == -30
    (event,) = ranges(host, sequence=2, distance=0xFFFF, status=0x21)
    assert event.round.ranges[0].distance_cm is None


def test_a_round_that_is_told_again_is_stale():
    host = active()
    assert isinstance(ranges(host, sequence=5)[0], RangingData)
    assert kinds(ranges(host, sequence=5)) == [FaultKind.STALE_DATA]
    assert kinds(ranges(host, sequence=4)) == [FaultKind.STALE_DATA]
    assert isinstance(ranges(host, sequence=6)[0], RangingData)


def test_a_fira_session_is_static_until_it_is_configured_otherwise():
    assert ranges(active())[0].round.static_sts
    host = active()
    config = session.SetAppConfigCmd(token=7, parameters=(parameter(AppConfig.STS_CONFIG, 1),))
    host.send(command("SET_APP_CONFIG", config), now_s=1.0)
    answer(host, "410300020000")
    assert not ranges(host)[0].round.static_sts


def test_an_aliro_round_carries_its_sts_index_and_is_keyed():
    (event,) = ccc(active(SessionType.ALIRO))
    assert (event.round.sts_index, event.round.round, event.round.static_sts) == (100, 3, False)
    assert event.round.ranges[0].distance_cm == 200


def test_an_sts_index_is_stale_even_over_a_new_start():
    host = active(SessionType.ALIRO)
    ccc(host, index=100)
    status(host, SessionState.IDLE)
    host.send(command("RANGE_START", session.TokenCmd(token=7)), now_s=3.0)
    answer(host, "4200000100")
    status(host, SessionState.ACTIVE)
    assert kinds(ccc(host, index=100)) == [FaultKind.STALE_DATA]


@pytest.mark.parametrize(
    ("code", "status_"), [(0x20, 0x21), (0x30, 0x25), (0x0F, 0x21), (0x10, 0x02), (0x70, 0x02)]
)
def test_a_failed_aliro_round_has_no_distance(code, status_):
    (event,) = ccc(active(SessionType.ALIRO), code=code)
    (measured,) = event.round.ranges
    assert (measured.status, measured.distance_cm) == (status_, None)


# --- anything else ------------------------------------------------------------------------------


def test_notifications_that_the_host_has_no_use_for_are_handed_on():
    (event,) = answer(up(), "6e010001aa")
    assert isinstance(event, Notified)


@pytest.mark.parametrize("wire", ["60010000", "ff000000", "20030000", "6001000201", ""])
def test_what_is_no_uci_is_a_fault_and_nothing_more(wire):
    host = up()
    assert kinds(answer(host, wire)) == [FaultKind.MALFORMED]
    assert host.state is HostState.READY


@given(st.lists(st.binary(max_size=40), max_size=20), st.booleans())
def test_no_bytes_break_the_host(packets, ranging):
    host = active() if ranging else up()
    for packet in packets:
        host.receive(packet, now_s=3.0)
        host.tick(now_s=3.0)
    assert len(host.outbox()) <= 4 + RECOVERIES


groups = st.sampled_from([0x40, 0x41, 0x42, 0x60, 0x61, 0x62])


@given(
    st.lists(
        st.tuples(groups, st.integers(0, 8), st.binary(max_size=12), st.floats(0, 2)), max_size=30
    )
)
def test_no_story_makes_the_host_believe_ranges_that_were_not_asked_for(story):
    host, now = up(), 1.0
    init(host)
    for first, opcode, payload, pause in story:
        now += pause
        packet = bytes((first, opcode, 0, len(payload))) + payload
        events = host.receive(packet, now_s=now) + host.tick(now_s=now)
        assert not any(isinstance(event, RangingData) for event in events)
