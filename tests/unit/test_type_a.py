"""ISO/IEC 14443-3 Type A: CRC, anticollision, select, halt, polling gate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.link.isodep_target import IsoDepTarget
from dkey.link.type_a import TypeATarget, crc_a

H = bytes.fromhex
UIDS = ["08010203", "04112233445566", "04112233445566778899"]
UID = UIDS[0]
ATQA = H("0400")


def with_crc(text):
    return H(text) + crc_a(H(text))


def device(uid=UID, **options):
    return TypeATarget(H(uid), IsoDepTarget(lambda apdu: apdu + H("9000")), **options)


def wake(made, request="52"):
    return made.receive(H(request), 7)


def select(made):
    """Run the anticollision loop; return the UID that a reader finds and the last SAK."""
    uid = b""
    for command in (0x93, 0x95, 0x97):
        part = made.receive(bytes([command, 0x20]))
        frame = bytes([command, 0x70]) + part
        sak = made.receive(frame + crc_a(frame))
        assert sak[1:] == crc_a(sak[:1])
        if not sak[0] & 4:
            return uid + part[:4], sak[0]
        assert part[0] == 0x88
        uid += part[1:4]
    raise AssertionError


@pytest.mark.parametrize(
    ("data", "crc"), [("0000", "A01E"), ("1234", "26CF"), ("5000", "57CD"), ("E080", "3173")]
)
def test_crc_a_gives_known_values(data, crc):
    assert crc_a(H(data)) == H(crc)


@given(st.binary(max_size=64), st.integers(0, 511), st.integers(0, 7))
def test_crc_a_notices_every_single_bit_error(data, at, bit):
    frame = bytearray(data + crc_a(data))
    frame[at % len(frame)] ^= 1 << bit
    assert crc_a(bytes(frame[:-2])) != frame[-2:]


@pytest.mark.parametrize(("uid", "atqa"), list(zip(UIDS, ["0400", "4400", "8400"], strict=True)))
def test_a_reader_finds_the_whole_uid(uid, atqa):
    made = device(uid)
    assert wake(made, "26") == H(atqa)
    assert select(made) == (H(uid), 0x20)


@pytest.mark.parametrize("nvb", [0x20, 0x30, 0x40, 0x50, 0x60])
def test_anticollision_answers_the_rest_of_a_matching_prefix(nvb):
    made = device()
    wake(made)
    whole = H(UID) + bytes([8 ^ 1 ^ 2 ^ 3])
    known = whole[: (nvb >> 4) - 2]
    assert made.receive(bytes([0x93, nvb]) + known) == whole[len(known) :]


@pytest.mark.parametrize("frame", ["9330FF", "9320FF", "9310", "93", "9324", "9370", "95200000"])
def test_a_wrong_anticollision_frame_is_not_answered_and_ends_ready(frame):
    made = device()
    wake(made)
    assert made.receive(H(frame)) is None
    assert made.receive(H("9320")) is None
    assert wake(made) == ATQA


def test_select_of_another_uid_is_not_answered():
    made = device()
    wake(made)
    assert made.receive(with_crc("93700801020308")) is not None
    wake(made)
    wake(made)
    assert made.receive(with_crc("93700801020400")) is None


def test_select_with_a_wrong_crc_is_not_answered():
    made = device()
    wake(made)
    assert made.receive(H("937008010203080000")) is None


def test_a_full_byte_frame_is_no_request():
    assert device().receive(H("26"), 8) is None


def activated():
    made = device()
    wake(made)
    select(made)
    assert made.receive(with_crc("E080")) is not None
    return made


def test_blocks_pass_with_their_crc_after_rats():
    assert activated().receive(with_crc("0200A4")) == with_crc("0200A49000")


def test_a_block_with_a_wrong_crc_is_not_answered():
    assert activated().receive(H("0200A40000")) is None


def test_an_activated_device_ignores_requests():
    made = activated()
    assert wake(made) is None
    assert made.receive(with_crc("0200A4")) is not None


def test_blocks_before_rats_are_not_answered():
    made = device()
    wake(made)
    select(made)
    assert made.receive(with_crc("0200A4")) is None


@pytest.mark.parametrize("via", ["hlta", "deselect"])
def test_a_halted_device_answers_wupa_only(via):
    if via == "hlta":
        made = device()
        wake(made)
        select(made)
        assert made.receive(with_crc("5000")) is None
    else:
        made = activated()
        assert made.receive(with_crc("C2")) == with_crc("C2")
    assert wake(made, "26") is None
    assert wake(made, "52") == ATQA
    assert select(made)[0] == H(UID)


def test_a_halted_device_that_was_woken_falls_back_to_halt():
    made = activated()
    made.receive(with_crc("C2"))
    wake(made)
    made.receive(H("9330FF"))
    assert wake(made, "26") is None


def test_field_off_forgets_the_activation():
    made = activated()
    made.field_off()
    made.field_on()
    assert made.receive(with_crc("0200A4")) is None
    assert wake(made, "26") == ATQA


def gated():
    return device(gate=lambda body: body == H("6A01AABB"))


def test_a_gated_device_waits_for_its_polling_frame():
    made = gated()
    assert wake(made) is None
    made.receive(with_crc("6A01CCDD"))
    assert wake(made) is None
    assert made.receive(with_crc("6A01AABB")) is None
    assert wake(made) == ATQA
    assert select(made)[0] == H(UID)


def test_a_polling_frame_with_a_wrong_crc_does_not_open_the_gate():
    made = gated()
    made.receive(H("6A01AABB0000"))
    assert wake(made) is None


def test_the_gate_closes_with_the_field():
    made = gated()
    made.receive(with_crc("6A01AABB"))
    made.field_off()
    assert wake(made) is None


@pytest.mark.parametrize("first", ["93", "95", "97", "50", "E0", "26", "52"])
def test_a_type_a_command_is_no_polling_frame(first):
    made = device(gate=lambda _body: True)
    made.receive(with_crc(first + "AABB"))
    assert wake(made) is None


@pytest.mark.parametrize("uid", ["", "0801", "88010203", "0811223344556677"])
def test_an_impossible_uid_is_refused(uid):
    with pytest.raises(ValueError, match="UID"):
        device(uid)


def test_a_sak_that_promises_more_uid_is_refused():
    with pytest.raises(ValueError, match="SAK"):
        device(sak=0x24)


@given(st.lists(st.tuples(st.binary(max_size=12), st.sampled_from([7, 8])), max_size=30))
def test_no_frames_make_the_device_fail(frames):
    made = device()
    for frame, bits in frames:
        answer = made.receive(frame, bits)
        assert answer is None or answer
