"""The virtual PN532: host framing, and the field behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.link.isodep_target import IsoDepTarget
from dkey.link.type_a import TypeATarget, crc_a
from firmware_mock.pn532 import Command, Register, VirtualPn532
from firmware_mock.pn532_host import ACK, ERROR_FRAME, NACK, HostFrames, host_frame

bodies = st.binary(min_size=1, max_size=265)


def request(command: int, data: bytes = b"") -> bytes:
    return host_frame(bytes([0xD4, command]) + data)


def answer_to(chip: VirtualPn532, command: Command, data: bytes = b"") -> bytes:
    output = chip.host(request(command, data))
    assert output.startswith(ACK)
    (body,) = HostFrames().feed(output[len(ACK) :])
    assert body[:2] == bytes([0xD5, command + 1])
    return body[2:]


def device(uid: str = "04112233445566") -> TypeATarget:
    return TypeATarget(bytes.fromhex(uid), IsoDepTarget(lambda command: command + b"\x90\x00"))


def poll(chip: VirtualPn532) -> bytes:
    return answer_to(chip, Command.IN_LIST_PASSIVE_TARGET, b"\x01\x00")


@given(bodies)
def test_a_frame_that_was_made_is_found_again(body: bytes) -> None:
    assert HostFrames().feed(host_frame(body)) == [body]


@given(st.lists(st.one_of(bodies.map(host_frame), st.sampled_from([ACK, NACK]))), st.data())
def test_frames_are_found_wherever_the_stream_is_split(wire: list[bytes], data: st.DataObject):
    stream = b"".join(wire)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    frames, found = HostFrames(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += frames.feed(stream[start:end])
    assert found == HostFrames().feed(stream)
    assert len(found) == len(wire)


@pytest.mark.parametrize("size", [1, 200, 255, 256, 265])
def test_every_split_of_one_frame_gives_the_frame(size: int) -> None:
    body = bytes(i % 251 for i in range(size))
    wire = bytes(10) + host_frame(body)
    for at in range(len(wire) + 1):
        frames = HostFrames()
        assert frames.feed(wire[:at]) + frames.feed(wire[at:]) == [body]


@given(bodies, st.data())
def test_a_flipped_bit_in_the_body_hides_the_frame_and_not_the_next_one(
    body: bytes, data: st.DataObject
) -> None:
    wire = bytearray(host_frame(body))
    at = data.draw(st.integers(len(wire) - 2 - len(body), len(wire) - 2))
    wire[at] ^= 1 << data.draw(st.integers(0, 7))
    assert HostFrames().feed(bytes(wire) + host_frame(b"\xd4\x02")) == [b"\xd4\x02"]


def test_a_wrong_length_checksum_hides_the_frame() -> None:
    wire = bytearray(request(Command.GET_FIRMWARE_VERSION))
    wire[4] ^= 0x01
    assert VirtualPn532().host(bytes(wire)) == b""


def test_a_wrong_extended_length_checksum_hides_the_frame() -> None:
    wire = bytearray(request(Command.DIAGNOSE, bytes(262)))
    wire[7] ^= 0x01
    assert VirtualPn532().host(bytes(wire)) == b""


def test_a_body_of_256_bytes_is_framed_extended() -> None:
    assert host_frame(bytes(256))[:8] == bytes.fromhex("0000ffffff0100ff")


def test_a_command_is_acknowledged_and_answered() -> None:
    output = VirtualPn532().host(request(Command.GET_FIRMWARE_VERSION))
    assert output == ACK + host_frame(bytes.fromhex("d50332010607"))


def test_nack_brings_the_last_answer_again() -> None:
    chip = VirtualPn532()
    first = chip.host(request(Command.GET_FIRMWARE_VERSION))
    assert ACK + chip.host(NACK) == first


@pytest.mark.parametrize("body", ["d4", "d4fe", "d502", "d44a01"])
def test_a_body_that_is_no_command_gets_the_error_frame(body: str) -> None:
    assert VirtualPn532().host(host_frame(bytes.fromhex(body))) == ACK + ERROR_FRAME


def test_the_line_test_echoes_the_longest_frame() -> None:
    data = bytes(i & 0xFF for i in range(262))
    assert answer_to(VirtualPn532(), Command.DIAGNOSE, b"\x00" + data) == b"\x00" + data


@given(st.dictionaries(st.integers(0x6300, 0x633F), st.integers(0, 255), min_size=1, max_size=20))
def test_registers_read_back_what_was_written(values: dict[int, int]) -> None:
    chip = VirtualPn532()
    written = b"".join(a.to_bytes(2, "big") + bytes([v]) for a, v in values.items())
    answer_to(chip, Command.WRITE_REGISTER, written)
    addresses = b"".join(address.to_bytes(2, "big") for address in values)
    assert answer_to(chip, Command.READ_REGISTER, addresses) == bytes(values.values())


def test_a_poll_of_an_empty_field_leaves_the_request_in_the_fifo() -> None:
    chip = VirtualPn532()
    assert poll(chip) == b"\x00"
    fifo = Register.FIFO_DATA.to_bytes(2, "big")
    assert answer_to(chip, Command.READ_REGISTER, fifo) == b"\x26"


@pytest.mark.parametrize("uid", ["04112233", "04112233445566", "04112233445566778899"])
def test_a_poll_finds_uids_of_every_size(uid: str) -> None:
    found = poll(VirtualPn532(device(uid)))
    assert found[4:] == bytes([0x20, len(uid) // 2]) + bytes.fromhex(uid)


def test_crc_is_added_and_stripped_after_activation() -> None:
    chip = VirtualPn532(device())
    poll(chip)
    answer = answer_to(chip, Command.IN_COMMUNICATE_THRU, b"\xe0\x80")
    assert answer == b"\x00\x05\x78\x00\x80\x00"


def test_a_frame_to_nobody_times_out() -> None:
    assert answer_to(VirtualPn532(), Command.IN_COMMUNICATE_THRU, b"\xe0\x80") == b"\x01"


def test_a_corrupted_answer_is_a_crc_error() -> None:
    chip = VirtualPn532(device())
    poll(chip)
    chip.faults.corrupt_answers = {chip.rf_frames + 1}
    assert answer_to(chip, Command.IN_COMMUNICATE_THRU, b"\xe0\x80") == b"\x02"


@pytest.mark.parametrize("fault", ["drop_answers", "drop_commands"])
def test_a_dropped_frame_is_a_timeout(fault: str) -> None:
    chip = VirtualPn532(device())
    poll(chip)
    setattr(chip.faults, fault, {chip.rf_frames + 1})
    assert answer_to(chip, Command.IN_COMMUNICATE_THRU, b"\xe0\x80") == b"\x01"


def test_a_device_leaves_after_the_given_number_of_frames() -> None:
    chip = VirtualPn532(device())
    poll(chip)
    chip.tear_after_frames = 1
    assert answer_to(chip, Command.IN_COMMUNICATE_THRU, b"\xe0\x80")[0] == 0x00
    assert answer_to(chip, Command.IN_COMMUNICATE_THRU, b"\x02\x00") == b"\x01"
    assert chip.target is None


def test_a_device_taken_out_loses_the_field() -> None:
    chip = VirtualPn532(device())
    poll(chip)
    first = chip.target
    chip.target = None
    chip.target = first
    assert answer_to(chip, Command.IN_COMMUNICATE_THRU, b"\xe0\x80") == b"\x01"


def test_the_second_request_reaches_a_device_that_missed_the_first() -> None:
    chip = VirtualPn532(device())
    answer_to(chip, Command.RF_CONFIGURATION, b"\x05\x01\x00\x01")
    chip.faults.drop_commands = {1}
    assert poll(chip)[0] == 1


def test_after_a_failed_request_frames_have_seven_bits_until_the_host_says_otherwise() -> None:
    opened = []
    gated = TypeATarget(
        bytes(4),
        IsoDepTarget(lambda command: command),
        gate=lambda frame: opened.append(frame) or True,
    )
    chip = VirtualPn532(gated)
    poll(chip)
    frame = b"\x6a\x01" + crc_a(b"\x6a\x01")
    answer_to(chip, Command.IN_COMMUNICATE_THRU, frame)
    assert opened == []
    answer_to(chip, Command.WRITE_REGISTER, Register.BIT_FRAMING.to_bytes(2, "big") + b"\x00")
    answer_to(chip, Command.IN_COMMUNICATE_THRU, frame)
    assert opened == [b"\x6a\x01"]
