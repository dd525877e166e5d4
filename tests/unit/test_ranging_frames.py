"""Pre-POLL and Final_Data: layout, protection, replay."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.crypto.secret import Secret
from dkey.errors import AuthenticationError, LocalFault, RemoteFault, ReplayError, WireError
from dkey.ranging.frames import (
    ALIRO_OUI,
    MHR_SIZE,
    VEHICLE_OUI,
    FinalData,
    FrameId,
    FrameReceiver,
    FrameSender,
    Mhr,
    PrePoll,
    ResponderTime,
)
from dkey.ranging.keys import UwbAddresses

KEY = Secret(bytes.fromhex("8130793f00b6f71bf39deb342347806b"))
ADDRESSES = UwbAddresses(
    key_source=bytes.fromhex("deadbeef"),
    dest_short=bytes.fromhex("1234"),
    src_long=bytes.fromhex("1122334455667788"),
)
PRE_POLL = PrePoll(session_id=0x01020304, poll_sts_index=6, block=2, hop=True, round=3)

pre_polls = st.builds(
    PrePoll,
    session_id=st.integers(0, 2**32 - 1),
    poll_sts_index=st.integers(1, 2**32 - 1),
    block=st.integers(0, 0xFFFF),
    hop=st.booleans(),
    round=st.integers(0, 0xFFFF),
)
u32 = st.integers(0, 2**32 - 1)
times = st.builds(
    ResponderTime,
    responder=st.integers(0, 255),
    response_delta=u32,
    uncertainty=st.integers(0, 255),
    status=st.integers(0, 255),
)
final_data = st.builds(
    FinalData,
    session_id=u32,
    block=st.integers(0, 0xFFFF),
    next_hop=st.booleans(),
    next_round=st.integers(0, 0xFFFF),
    final_sts_index=u32,
    final_delta=u32,
    responders=st.lists(times, max_size=10, unique_by=lambda each: each.responder).map(tuple),
)


def sender(oui: int = ALIRO_OUI, counter: int = 1) -> FrameSender:
    return FrameSender(ADDRESSES, oui, counter=counter)


def receiver(oui: int = ALIRO_OUI) -> FrameReceiver:
    return FrameReceiver(ADDRESSES, oui)


def test_a_pre_poll_gives_the_known_answer():
    frame = sender(0x04DF69).seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes())
    assert frame[:MHR_SIZE].hex() == "492b34121601000000deadbeefaa050069df04010d803f"
    assert frame[MHR_SIZE:].hex() == "7464c1539de11c53a418ce30dfea8c5cb70cc4c81f"


@pytest.mark.parametrize(("oui", "on_air"), [(ALIRO_OUI, "1b194a"), (VEHICLE_OUI, "6b6402")])
def test_each_profile_has_its_own_oui_on_the_air(oui, on_air):
    frame = sender(oui).seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes())
    assert frame[16:19].hex() == on_air


@given(pre_polls)
def test_a_pre_poll_comes_back_from_its_bytes(message):
    data = message.to_bytes()
    assert len(data) == 13
    assert PrePoll.parse(data) == message


@given(final_data)
def test_a_final_data_comes_back_from_its_bytes(message):
    data = message.to_bytes()
    assert len(data) == 18 + 7 * len(message.responders)
    assert FinalData.parse(data) == message


@given(st.binary(max_size=100))
def test_any_payload_is_a_message_or_a_wire_error(data):
    for kind in (PrePoll, FinalData, Mhr):
        with contextlib.suppress(WireError):
            assert kind.parse(data).to_bytes() == data


@given(st.binary(max_size=140))
def test_any_frame_is_refused_as_a_fault_of_the_peer(data):
    with pytest.raises(RemoteFault):
        receiver().open(KEY, FrameId.PRE_POLL, data)


@given(final_data)
def test_what_is_sealed_opens(message):
    frame = sender().seal(KEY, FrameId.FINAL_DATA, message.to_bytes())
    assert FinalData.parse(receiver().open(KEY, FrameId.FINAL_DATA, frame)) == message
    assert len(frame) + 2 <= 127


@given(st.integers(0, 8 * 44 - 1))
def test_no_changed_bit_gets_through(bit):
    frame = bytearray(sender().seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes()))
    assert len(frame) == 44
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteFault):
        receiver().open(KEY, FrameId.PRE_POLL, bytes(frame))


def test_another_key_opens_nothing():
    frame = sender().seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes())
    with pytest.raises(AuthenticationError):
        receiver().open(Secret(bytes(16)), FrameId.PRE_POLL, frame)


def test_a_frame_that_comes_twice_is_a_replay():
    frame = sender().seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes())
    taker = receiver()
    taker.open(KEY, FrameId.PRE_POLL, frame)
    with pytest.raises(ReplayError):
        taker.open(KEY, FrameId.PRE_POLL, frame)


def test_an_older_frame_that_was_held_back_is_a_replay():
    origin, taker = sender(), receiver()
    held = origin.seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes())
    taker.open(KEY, FrameId.PRE_POLL, origin.seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes()))
    with pytest.raises(ReplayError):
        taker.open(KEY, FrameId.PRE_POLL, held)


def test_a_forged_counter_does_not_lock_the_sender_out():
    forged = bytearray(sender(counter=2**31).seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes()))
    forged[-1] ^= 1
    taker = receiver()
    with pytest.raises(AuthenticationError):
        taker.open(KEY, FrameId.PRE_POLL, bytes(forged))
    taker.open(KEY, FrameId.PRE_POLL, sender().seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes()))


def test_a_frame_of_another_profile_or_kind_is_refused():
    frame = sender(VEHICLE_OUI).seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes())
    with pytest.raises(WireError):
        receiver(ALIRO_OUI).open(KEY, FrameId.PRE_POLL, frame)
    with pytest.raises(WireError):
        receiver(VEHICLE_OUI).open(KEY, FrameId.FINAL_DATA, frame)


def test_the_counter_of_the_sender_moves_on_with_every_frame_and_ends():
    origin = sender(counter=0xFFFFFFFE)
    origin.seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes())
    with pytest.raises(LocalFault):
        origin.seal(KEY, FrameId.PRE_POLL, PRE_POLL.to_bytes())


@pytest.mark.parametrize("data", ["00" * 13, "01" * 10 + "02" + "0000"])
def test_a_pre_poll_without_an_earlier_index_or_with_a_strange_flag_is_malformed(data):
    with pytest.raises(WireError):
        PrePoll.parse(bytes.fromhex(data))


def test_a_final_data_that_names_an_anchor_twice_is_malformed():
    twice = FinalData(
        session_id=1,
        block=1,
        next_hop=False,
        next_round=0,
        final_sts_index=1,
        final_delta=1,
        responders=(ResponderTime(responder=1, response_delta=1),) * 2,
    )
    with pytest.raises(WireError):
        FinalData.parse(twice.to_bytes())


def test_fields_that_do_not_fit_are_faults_of_this_side():
    many = tuple(ResponderTime(responder=at, response_delta=1) for at in range(11))
    with pytest.raises(LocalFault):
        FinalData(
            session_id=1,
            block=1,
            next_hop=False,
            next_round=0,
            final_sts_index=1,
            final_delta=1,
            responders=many,
        ).to_bytes()
    with pytest.raises(LocalFault):
        PrePoll(session_id=2**32, poll_sts_index=1, block=0, hop=False, round=0).to_bytes()
    with pytest.raises(LocalFault):
        sender().seal(KEY, FrameId.FINAL_DATA, bytes(95))
