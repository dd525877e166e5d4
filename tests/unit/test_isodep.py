"""The block protocol of ISO/IEC 14443-4, frame by frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.errors import LinkError, LinkReason
from dkey.link.isodep import IsoDepInitiator, activate
from dkey.link.isodep_blocks import FSC_SIZES, Ats
from dkey.link.isodep_target import IsoDepTarget

H = bytes.fromhex
APDU = H("00A4040000")
OK = H("9000")


def run(procedure, answer):
    """Drive ``procedure`` with ``answer(frame)``; return its result and what it sent."""
    sent = []
    try:
        transmit = next(procedure)
        while True:
            sent.append(transmit)
            assert len(sent) < 5000, "the procedure does not end"
            transmit = procedure.send(answer(transmit.frame))
    except StopIteration as finished:
        return finished.value, sent


def scripted(*frames):
    """Answer with one frame of the script after the other; ``""`` is silence."""
    script = [H(frame) or None for frame in frames]
    return lambda _frame: script.pop(0)


def initiator(ats="0578808002", **limits):
    return IsoDepInitiator(Ats.parse(H(ats)), **limits)


def failure(procedure, answer):
    with pytest.raises(LinkError) as caught:
        run(procedure, answer)
    assert caught.value.hint
    return caught.value.reason


def target(answer=lambda _apdu: OK, *, rats="E080", **options):
    made = IsoDepTarget(answer, **options)
    made.receive(H(rats))
    return made


# Ats


@given(
    st.builds(
        Ats,
        fsc=st.sampled_from(FSC_SIZES),
        fwi=st.integers(0, 14),
        sfgi=st.integers(0, 14),
        ta=st.integers(0, 255),
        cid=st.booleans(),
        nad=st.booleans(),
        historical=st.binary(max_size=15),
    )
)
def test_every_ats_survives_the_wire(ats):
    assert Ats.parse(ats.to_bytes()) == ats


@given(st.binary(max_size=24))
def test_any_bytes_are_an_ats_or_a_protocol_error(data):
    reason = LinkReason.PROTOCOL
    try:
        assert Ats.parse(data).fsc in FSC_SIZES
    except LinkError as error:
        reason = error.reason
    assert reason is LinkReason.PROTOCOL


@pytest.mark.parametrize(
    ("data", "fsc", "fwi", "historical"),
    [
        ("01", 32, 4, ""),
        ("0208", 256, 4, ""),
        ("032080", 16, 8, ""),
        ("032880", 256, 8, ""),
        ("04288031", 256, 8, "31"),
        ("04188031", 256, 4, "31"),
        ("0578807002", 256, 7, ""),
        ("0328F0", 256, 4, ""),
        ("020F", 256, 4, ""),
    ],
)
def test_short_ats_are_read_with_the_defaults_of_the_standard(data, fsc, fwi, historical):
    ats = Ats.parse(H(data))
    assert (ats.fsc, ats.fwi, ats.historical) == (fsc, fwi, H(historical))


@pytest.mark.parametrize("data", ["", "00", "02", "0278", "047880", "0578807002FF", "0288"])
def test_an_ats_that_is_cut_or_too_long_is_a_protocol_error(data):
    with pytest.raises(LinkError) as caught:
        Ats.parse(H(data))
    assert caught.value.reason is LinkReason.PROTOCOL


def test_waiting_and_guard_times_follow_the_tb_byte():
    ats = Ats.parse(H("032881"))
    assert ats.fwt_s == pytest.approx(0.0773, rel=1e-3)
    assert ats.sfgt_s == pytest.approx(0.000604, rel=1e-3)
    assert initiator("032881").sfgt_s == ats.sfgt_s
    assert Ats().sfgt_s == 0


# activate


@pytest.mark.parametrize(("max_frame", "rats"), [(256, "E080"), (252, "E070"), (64, "E050")])
def test_rats_announces_the_largest_frame_of_the_reader(max_frame, rats):
    _, sent = run(activate(max_frame=max_frame), scripted("0578808002"))
    assert [(s.frame, s.timeout_s) for s in sent] == [(H(rats), 0.1)]


def test_a_lost_ats_is_asked_for_once_more():
    made, sent = run(activate(), scripted("", "0208"))
    assert made.ats.fsc == 256
    assert len(sent) == 2


def test_two_lost_ats_are_a_timeout():
    assert failure(activate(), scripted("", "")) is LinkReason.TIMEOUT


def test_an_answer_that_is_no_ats_is_a_protocol_error():
    assert failure(activate(), scripted("0278")) is LinkReason.PROTOCOL


# initiator


def test_one_block_each_way_carries_a_short_apdu_and_numbers_alternate():
    made = initiator()
    response, sent = run(made.transceive(APDU), scripted("029000"))
    assert (response, sent[0].frame) == (OK, b"\x02" + APDU)
    _, sent = run(made.transceive(APDU), scripted("039000"))
    assert sent[0].frame == b"\x03" + APDU


@pytest.mark.parametrize(("size", "blocks"), [(12, 1), (13, 1), (14, 2), (26, 2), (27, 3)])
def test_a_command_is_cut_at_the_frame_size_of_the_device(size, blocks):
    made = target(lambda apdu: apdu, fsci=0)
    made_for_16 = IsoDepInitiator(Ats(fsc=16))
    response, sent = run(made_for_16.transceive(bytes(size)), made.receive)
    assert response == bytes(size)
    assert len(sent) == blocks


def test_a_wtx_between_response_blocks_is_granted():
    response, sent = run(initiator().transceive(APDU), scripted("12AABB", "F205", "03CC9000"))
    assert response == H("AABBCC9000")
    assert sent[2].frame == H("F205")
    assert sent[2].timeout_s == pytest.approx(5 * 0.0773, rel=0.1)


def test_a_wtx_during_the_command_chain_is_granted():
    made = IsoDepInitiator(Ats(fsc=16))
    response, _ = run(made.transceive(bytes(20)), scripted("F201", "A2", "039000"))
    assert response == OK


def test_silence_after_a_wtx_is_repaired_by_rnak():
    response, sent = run(initiator().transceive(APDU), scripted("F201", "", "029000"))
    assert response == OK
    assert sent[2].frame == H("B2")


def test_silence_in_a_response_chain_is_repaired_by_rack():
    response, sent = run(initiator().transceive(APDU), scripted("12AA", "", "039000"))
    assert response == H("AA9000")
    assert [s.frame for s in sent[1:]] == [H("A3"), H("A3")]


def test_rack_with_the_other_number_after_rnak_repeats_the_iblock():
    response, sent = run(initiator().transceive(APDU), scripted("", "A3", "029000"))
    assert response == OK
    assert [s.frame for s in sent] == [b"\x02" + APDU, H("B2"), b"\x02" + APDU]


def test_a_late_rack_never_repeats_an_iblock():
    _, sent = run(initiator().transceive(APDU), scripted("A3", "029000"))
    assert [s.frame for s in sent] == [b"\x02" + APDU, H("B2")]


def test_a_late_iblock_of_the_last_apdu_is_not_the_answer():
    made = initiator()
    run(made.transceive(APDU), scripted("026A82"))
    response, _ = run(made.transceive(APDU), scripted("026A82", "039000"))
    assert response == OK


def test_no_timeout_exceeds_what_the_reader_can_wait():
    made = initiator("0328E0", max_wtx_total_s=10)
    _, sent = run(made.transceive(APDU), scripted("F23B", "F201", "029000"))
    assert max(s.timeout_s for s in sent) <= 3.2


@pytest.mark.parametrize("wtxm", ["F200", "F23C", "F23F"])
def test_a_wtx_multiplier_outside_1_to_59_is_a_protocol_error(wtxm):
    assert failure(initiator().transceive(APDU), lambda _: H(wtxm)) is LinkReason.PROTOCOL


def test_endless_wtx_ends_by_the_time_granted():
    assert failure(initiator().transceive(APDU), lambda _: H("F20A")) is LinkReason.TIMEOUT


def test_endless_wtx_ends_by_their_count():
    made = initiator("032800", max_wtx=7, max_wtx_total_s=1e9)
    seen = []

    def storm(frame):
        seen.append(frame)
        return H("F201")

    assert failure(made.transceive(APDU), storm) is LinkReason.TIMEOUT
    assert len(seen) == 8


def test_the_wtx_cap_starts_afresh_with_each_apdu():
    made = initiator(max_wtx=1)
    run(made.transceive(APDU), scripted("F201", "029000"))
    assert run(made.transceive(APDU), scripted("F201", "039000"))[0] == OK


def test_a_silent_device_is_lost_after_the_retries():
    assert failure(initiator(retries=1).transceive(APDU), scripted("", "")) is LinkReason.LOST


@pytest.mark.parametrize("block", ["B2", "C2", "FF", "0A9000", "069000", "A20000", "039000"])
def test_a_device_that_only_sends_strange_blocks_breaks_the_protocol(block):
    assert failure(initiator().transceive(APDU), lambda _: H(block)) is LinkReason.PROTOCOL


def test_an_answer_to_half_a_command_is_a_protocol_error():
    made = IsoDepInitiator(Ats(fsc=16))
    assert failure(made.transceive(bytes(20)), scripted("029000")) is LinkReason.PROTOCOL


def test_an_acknowledgement_of_a_whole_command_is_a_protocol_error():
    assert failure(initiator().transceive(APDU), scripted("A2")) is LinkReason.PROTOCOL


def test_an_endless_chain_of_empty_blocks_is_a_protocol_error():
    answers = iter([H("12AA"), *[H("13"), H("12")] * 10])
    assert failure(initiator().transceive(APDU), lambda _: next(answers)) is LinkReason.PROTOCOL


def test_a_response_over_the_cap_is_a_protocol_error():
    made = target(lambda _: bytes(101))
    limited = initiator(max_response=100)
    assert failure(limited.transceive(APDU), made.receive) is LinkReason.PROTOCOL


def test_a_frame_longer_than_the_reader_announced_is_a_protocol_error():
    made = initiator(max_frame=16)
    assert failure(made.transceive(APDU), lambda _: bytes([2]) + bytes(14)) is LinkReason.PROTOCOL


def test_after_an_error_the_activation_cannot_be_used():
    made = initiator()
    failure(made.transceive(APDU), lambda _: None)
    assert failure(made.transceive(APDU), scripted("029000")) is LinkReason.LOST


def test_an_abandoned_exchange_ends_the_activation():
    made = initiator()
    abandoned = made.transceive(APDU)
    next(abandoned)
    abandoned.close()
    assert failure(made.transceive(APDU), scripted("029000")) is LinkReason.LOST


def test_presence_is_asked_between_apdus_without_disturbing_them():
    made, device = initiator(), target()
    for _ in range(3):
        assert run(made.present(), device.receive)[0] is True
        assert run(made.transceive(APDU), device.receive)[0] == OK
    assert run(made.present(), lambda _: None)[0] is False


def test_deselect_is_confirmed_by_the_device():
    made, device = initiator(), target()
    assert run(made.deselect(), device.receive)[0] is True
    assert not device.active
    assert run(made.deselect(), lambda _: None)[0] is False


# target


def test_the_target_is_silent_before_rats():
    made = IsoDepTarget(lambda _: OK)
    assert made.receive(b"\x02" + APDU) is None
    assert not made.active


def test_the_ats_is_repeated_until_the_first_block():
    made = target()
    assert made.receive(H("E080")) == made.ats
    made.receive(b"\x02" + APDU)
    assert made.receive(H("E080")) is None


def test_a_repeated_iblock_is_neither_run_nor_answered():
    runs = []
    made = target(lambda apdu: runs.append(apdu) or OK)
    assert made.receive(b"\x02" + APDU) == H("029000")
    assert made.receive(b"\x02" + APDU) is None
    assert runs == [APDU]


def test_a_repeated_block_of_a_command_chain_is_taken_once():
    runs = []
    made = target(lambda apdu: runs.append(apdu) or OK)
    assert made.receive(H("1201")) == H("A2")
    assert made.receive(H("1201")) is None
    assert made.receive(H("0302")) == H("039000")
    assert runs == [H("0102")]


def test_rnak_with_the_current_number_repeats_the_answer_without_running_again():
    runs = []
    made = target(lambda apdu: runs.append(apdu) or OK)
    made.receive(b"\x02" + APDU)
    assert made.receive(H("B2")) == H("029000")
    assert runs == [APDU]


def test_rnak_with_the_other_number_is_acknowledged():
    made = target()
    assert made.receive(H("B2")) == H("A3")


def test_a_long_response_is_chained_at_the_frame_size_of_the_reader():
    made = target(lambda _: bytes(range(30)), rats="E000")
    assert made.receive(b"\x02" + APDU) == H("12") + bytes(range(13))
    assert made.receive(H("A3")) == H("13") + bytes(range(13, 26))
    assert made.receive(H("A3")) == H("13") + bytes(range(13, 26))
    assert made.receive(H("A2")) == H("02") + bytes(range(26, 30))
    assert made.receive(H("A3")) is None


def slow(_apdu):
    yield 3
    yield 59
    return OK


def test_a_generator_asks_for_time_and_then_answers():
    made = target(slow)
    assert made.receive(b"\x02" + APDU) == H("F203")
    assert made.receive(H("F204")) is None
    assert made.receive(H("B2")) == H("F203")
    assert made.receive(H("F203")) == H("F23B")
    assert made.receive(H("F23B")) == H("029000")
    assert made.receive(H("F23B")) is None


def test_deselect_during_a_request_for_time_ends_the_command():
    made = target(slow)
    made.receive(b"\x02" + APDU)
    assert made.receive(H("C2")) == H("C2")
    made.receive(H("E080"))
    assert made.receive(H("F203")) is None


def test_a_multiplier_of_zero_is_a_mistake_of_the_device_program():
    def wrong(_apdu):
        yield 0
        return OK

    with pytest.raises(ValueError, match="WTXM 0"):
        target(wrong).receive(b"\x02" + APDU)


@pytest.mark.parametrize(
    ("request_", "answer"), [("D001", "D0"), ("D01100", "D0"), ("D01105", ""), ("D1", "")]
)
def test_pps_confirms_only_the_rate_in_use(request_, answer):
    assert (target().receive(H(request_)) or b"") == H(answer)


def test_pps_is_over_with_the_first_block():
    made = target()
    made.receive(b"\x02" + APDU)
    assert made.receive(H("D001")) is None


def test_an_oversized_chain_silences_the_target_until_deselect():
    made = target(max_command=10)
    assert made.receive(b"\x12" + bytes(10)) == H("A2")
    assert made.receive(b"\x13" + bytes(1)) is None
    assert made.receive(H("B3")) is None
    assert made.receive(H("B2")) is None
    assert made.receive(H("C2")) == H("C2")
    made.receive(H("E080"))
    assert made.receive(b"\x02" + APDU) == H("029000")


@pytest.mark.parametrize("frame", ["", "0A019000", "0600", "AA00", "A200", "F2", "FF", "C201"])
def test_frames_outside_the_protocol_are_ignored(frame):
    runs = []
    made = target(lambda apdu: runs.append(apdu) or OK)
    assert made.receive(H(frame)) is None
    assert runs == []


def test_a_frame_over_the_announced_size_is_ignored():
    made = target(fsci=0)
    assert made.receive(b"\x02" + bytes(14)) is None
    assert made.receive(b"\x02" + bytes(13)) == H("029000")


@given(st.lists(st.binary(max_size=20), max_size=30))
def test_no_frames_make_the_target_fail(frames):
    made = target(slow, max_command=20)
    for frame in frames:
        answer = made.receive(frame)
        assert answer is None or 0 < len(answer) <= 254
