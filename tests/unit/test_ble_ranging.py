"""Messages of ranging setup and Time Sync (Aliro 1.0 §11.7.2, §11.7.4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.codec.ble import Message, MessageType, NotificationId, UwbId
from dkey.codec.ble_ranging import (
    RangingMessage,
    RangingOffer,
    RangingPlan,
    RangingSelection,
    RangingStart,
    ResumeAnswer,
    ResumeRequest,
    SuspendAnswer,
    SuspendRequest,
    TimeSync,
    parse_ranging,
)
from dkey.errors import WireError


def u(size: int) -> st.SearchStrategy[int]:
    return st.integers(0, 256**size - 1)


some = st.lists(u(2), min_size=1, max_size=4).map(tuple)
shapes = st.lists(u(1), min_size=1, max_size=4).map(tuple)
messages: st.SearchStrategy[RangingMessage] = st.one_of(
    st.builds(RangingOffer, configs=some, pulse_shapes=shapes, channels=u(1), session_id=u(4)),
    st.builds(
        RangingSelection,
        configs=some,
        pulse_shapes=shapes,
        channels=u(1),
        sync_mask=u(4),
        ran_multiplier=u(1),
        slot_mask=u(1),
        hopping=u(1),
    ),
    st.builds(
        RangingPlan,
        ran_multiplier=u(1),
        chaps_per_slot=u(1),
        responders=u(1),
        slots_per_round=u(1),
        sync_mask=u(4),
        hopping=u(1),
        mac_mode=u(1),
    ),
    st.builds(RangingStart, sts_index0=u(4), uwb_time0_us=u(8), hop_key=u(4), sync_index=u(1)),
    st.builds(SuspendRequest, session_id=u(4)),
    st.builds(SuspendAnswer, status=u(1)),
    st.builds(ResumeRequest, session_id=u(4)),
    st.builds(ResumeAnswer, sts_index0=u(4), uwb_time0_us=u(8)),
    st.builds(
        TimeSync,
        event_count=u(8),
        device_time_us=u(8),
        uncertainty=u(1),
        skew_available=u(1),
        max_ppm=u(2),
        success=u(1),
        retry_delay_ms=u(2),
    ),
)


@given(messages)
def test_every_message_comes_back_as_it_was_sent(said: RangingMessage) -> None:
    assert parse_ranging(said.to_message()) == said


@given(messages, st.integers(0, 200))
def test_a_message_cut_short_is_malformed(said: RangingMessage, at: int) -> None:
    whole = said.to_message()
    cut = whole.payload[: at % len(whole.payload)]
    with pytest.raises(WireError):
        parse_ranging(Message(whole.type, whole.id, cut))


@given(st.sampled_from(UwbId), st.binary(max_size=60))
def test_arbitrary_bytes_parse_or_are_refused(kind: UwbId, payload: bytes) -> None:
    try:
        said = parse_ranging(Message(MessageType.UWB, kind, payload))
    except WireError:
        return
    assert parse_ranging(said.to_message()) == said


@given(messages)
def test_an_unknown_attribute_is_skipped_and_a_repeated_one_is_not(said: RangingMessage) -> None:
    whole = said.to_message()
    more = Message(
        whole.type,
        whole.id,
        whole.payload + bytes.fromhex("100302466b00"),
    )
    with pytest.raises(WireError):
        parse_ranging(more)
    vendor = Message(whole.type, whole.id, whole.payload + bytes.fromhex("100302466b"))
    assert parse_ranging(vendor) == said
    with pytest.raises(WireError):
        parse_ranging(Message(whole.type, whole.id, whole.payload * 2))


def test_the_order_on_the_wire_is_the_published_one() -> None:
    offer = RangingOffer(configs=(1,), pulse_shapes=(0x11,), channels=2, session_id=0x01020304)
    assert offer.to_message().to_bytes().hex() == "0100001000020001010111030102020401020304"


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(WireError):
        SuspendAnswer(status=256).to_message()
    with pytest.raises(WireError):
        RangingOffer(configs=(), pulse_shapes=(0,), channels=1, session_id=1).to_message()


def test_another_message_is_no_message_of_ranging() -> None:
    with pytest.raises(WireError):
        parse_ranging(Message(MessageType.NOTIFICATION, NotificationId.RANGING, b"\x00\x00"))
