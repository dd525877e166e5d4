"""Command and response APDUs, and both ends of their chaining."""

from __future__ import annotations

import pytest

from dkey.codec.apdu import CHAIN, SW, Assembler, Command, Limits, Response, Splitter, exchange
from dkey.errors import WireError


def run(
    command: Command, *answers: str, limits: Limits | None = None
) -> tuple[list[bytes], Response | None]:
    """Feed the answers; return the APDUs that were sent and the result, if there is one."""
    procedure = exchange(command, limits) if limits else exchange(command)
    sent = [next(procedure)]
    try:
        for answer in answers:
            sent.append(procedure.send(bytes.fromhex(answer)))
    except StopIteration as end:
        return sent, end.value
    return sent, None


@pytest.mark.parametrize(
    ("command", "wire"),
    [
        (Command(0x80, 0x80, 1, 2), "80800102"),
        (Command(0, 0xA4, 4, 0, b"", 256), "00a4040000"),
        (Command(0, 0xA4, 4, 0, b"", 5), "00a4040005"),
        (Command(0, 0xA4, 4, 0, b"ab"), "00a40400026162"),
        (Command(0, 0xA4, 4, 0, b"ab", 256), "00a4040002616200"),
        (Command(0, 0xA4, 4, 0, b"", 257), "00a40400000101"),
        (Command(0, 0xA4, 4, 0, b"", 65536), "00a40400000000"),
        (Command(0, 0xA4, 4, 0, b"ab", None, extended=True), "00a404000000026162"),
        (Command(0, 0xA4, 4, 0, b"ab", 65536, extended=True), "00a4040000000261620000"),
        (Command(0, 0xA4, 4, 0, b"ab", 256, extended=True), "00a4040000000261620100"),
    ],
)
def test_a_command_of_each_case_has_its_form(command: Command, wire: str) -> None:
    assert command.to_bytes().hex() == wire


def test_data_over_255_bytes_forces_extended_lengths() -> None:
    assert Command(0, 1, 2, 3, bytes(256)).to_bytes()[4:7] == b"\x00\x01\x00"


@pytest.mark.parametrize(
    "wire",
    [
        "",
        "00a404",
        "00a404000261",  # Lc too large
        "00a4040002616263 00",  # two bytes too many
        "00a404000001",  # extended, cut
        "00a4040000000000",  # extended Lc 0 with more bytes
        "00a404000000036162",  # extended Lc too large
        "00a40400000001616263 64",  # extended, three bytes too many
    ],
)
def test_a_command_whose_lengths_contradict_is_refused(wire: str) -> None:
    with pytest.raises(WireError) as caught:
        Command.parse(bytes.fromhex(wire))
    assert caught.value.clause


def test_a_response_is_data_and_two_status_bytes() -> None:
    assert Response.parse(bytes.fromhex("01029000")) == Response(b"\x01\x02", 0x9000)


@pytest.mark.parametrize("wire", [b"", b"\x90"])
def test_a_response_under_two_bytes_is_refused(wire: bytes) -> None:
    with pytest.raises(WireError):
        Response.parse(wire)


def test_a_short_command_goes_out_as_it_is() -> None:
    sent, answer = run(Command(0x80, 1, 0, 0, b"ab", 256), "aa9000")
    assert (sent, answer) == ([bytes.fromhex("8001000002616200")], Response(b"\xaa"))


def test_long_data_is_chained_for_a_short_device() -> None:
    sent, answer = run(Command(0x80, 1, 0, 0, bytes(600), 256), "9000", "9000", "019000")
    assert [apdu[0] for apdu in sent] == [0x80 | CHAIN, 0x80 | CHAIN, 0x80]
    assert [apdu[4] for apdu in sent] == [255, 255, 90]
    assert answer == Response(b"\x01")


def test_data_of_exactly_255_bytes_is_not_chained() -> None:
    sent, _ = run(Command(0x80, 1, 0, 0, bytes(255)))
    assert sent[0][0] == 0x80


def test_long_data_goes_in_one_extended_apdu_when_it_fits() -> None:
    sent, _ = run(Command(0x80, 1, 0, 0, bytes(600), 256), limits=Limits(command=700))
    assert len(sent[0]) == 609


def test_long_data_is_chained_when_even_extended_does_not_fit() -> None:
    sent, _ = run(Command(0x80, 1, 0, 0, bytes(600), 256), limits=Limits(command=608))
    assert sent[0][0] == 0x80 | CHAIN


def test_an_error_inside_a_chain_ends_it() -> None:
    sent, answer = run(Command(0x80, 1, 0, 0, bytes(600)), "6a80")
    assert (len(sent), answer) == (1, Response(b"", 0x6A80))


def test_data_in_answer_to_a_chain_block_is_refused() -> None:
    with pytest.raises(WireError):
        run(Command(0x80, 1, 0, 0, bytes(600)), "aa9000")


def test_more_data_is_fetched_with_class_00_and_the_announced_size() -> None:
    sent, answer = run(Command(0x80, 1, 0, 0, b"", 256), "aa6103", "bb6100", "cc9000")
    assert [apdu.hex() for apdu in sent[1:]] == ["00c0000003", "00c0000000"]
    assert answer == Response(b"\xaa\xbb\xcc")


def test_a_response_chain_without_data_does_not_run_forever() -> None:
    with pytest.raises(WireError, match="does not end"):
        run(Command(0x80, 1, 0, 0, b"", 256), "6101", "6101")


def test_a_response_over_the_cap_is_refused() -> None:
    with pytest.raises(WireError, match="does not end"):
        run(Command(0x80, 1, 0, 0), "aabb6100", "ccdd6100", limits=Limits(total=3))


def test_an_error_inside_a_response_chain_gives_no_data() -> None:
    _, answer = run(Command(0x80, 1, 0, 0, b"", 256), "aa6103", "6f00")
    assert answer == Response(b"", 0x6F00)


def test_a_wrong_le_is_repeated_once_with_the_right_one() -> None:
    sent, answer = run(Command(0x80, 1, 0, 0, b"ab", 256), "6c05", "01020304059000")
    assert sent[1].hex() == "8001000002616205"
    assert answer == Response(bytes.fromhex("0102030405"))


def test_a_wrong_le_twice_is_refused() -> None:
    with pytest.raises(WireError, match="6Cxx"):
        run(Command(0x80, 1, 0, 0, b"", 256), "6c05", "6c06")


def test_a_wrong_le_with_more_data_is_followed() -> None:
    _, answer = run(Command(0x80, 1, 0, 0, b"", 256), "6c02", "01026101", "039000")
    assert answer == Response(b"\x01\x02\x03")


def test_a_wrong_le_after_an_extended_command_repeats_all_its_data() -> None:
    data = bytes(range(255)) + b"tail"
    sent, _ = run(Command(0x80, 1, 0, 0, data, 256), "6c05", limits=Limits(command=2000))
    assert Command.parse(sent[1]).data == data


def test_a_wrong_le_after_a_chain_never_repeats_other_bytes_than_were_sent() -> None:
    data = bytes(range(255)) + b"tail"
    sent, _ = run(Command(0x80, 1, 0, 0, data, 256), "9000", "6c05")
    assert Command.parse(sent[2]).data in (data[:255], b"tail")


def test_a_short_device_never_gets_extended_lengths() -> None:
    sent, _ = run(Command(0x80, 1, 0, 0, b"ab", 65536))
    assert sent[0].hex() == "8001000002616200"


def test_the_assembler_passes_an_unchained_command_through() -> None:
    command = Command(0x80, 1, 0, 0, b"ab", 256)
    assembler = Assembler()
    assert assembler.feed(command) is command
    assert not assembler.open


def test_the_assembler_joins_the_blocks_and_takes_the_last_le() -> None:
    assembler = Assembler()
    assert assembler.feed(Command(0x90, 1, 2, 3, b"ab")) is None
    assert assembler.open
    assert assembler.feed(Command(0x80, 1, 2, 3, b"c", 9)) == Command(0x80, 1, 2, 3, b"abc", 9)
    assert not assembler.open


@pytest.mark.parametrize(
    "second",
    [
        Command(0x80, 2, 2, 3, b"c"),  # another instruction
        Command(0x80, 1, 9, 3, b"c"),  # another parameter
        Command(0x00, 1, 2, 3, b"c"),  # another class
        Command(0x90, 1, 2, 3, b""),  # an empty block that asks for more
    ],
)
def test_a_broken_chain_is_refused_and_forgotten(second: Command) -> None:
    assembler = Assembler()
    assembler.feed(Command(0x90, 1, 2, 3, b"ab"))
    with pytest.raises(WireError):
        assembler.feed(second)
    assert not assembler.open
    after = Command(0x80, 1, 2, 3, b"new")
    assert assembler.feed(after) is after


def test_a_chain_over_the_limit_is_refused_and_forgotten() -> None:
    assembler = Assembler(limit=400)
    assembler.feed(Command(0x90, 1, 2, 3, bytes(200)))
    assembler.feed(Command(0x90, 1, 2, 3, bytes(200)))
    with pytest.raises(WireError, match="400"):
        assembler.feed(Command(0x80, 1, 2, 3, b"x"))
    assert not assembler.open


def test_the_splitter_announces_what_is_left() -> None:
    splitter = Splitter()
    assert splitter.first(Response(bytes(300)), 256) == Response(bytes(256), 0x612C)
    assert splitter.pending
    assert splitter.next(0x2C) == Response(bytes(44))
    assert not splitter.pending


def test_the_splitter_announces_256_or_more_as_00() -> None:
    assert Splitter().first(Response(bytes(600)), 256).sw == 0x6100


def test_the_splitter_sends_an_error_as_it_is() -> None:
    splitter = Splitter()
    splitter.first(Response(bytes(300)), 256)
    assert splitter.first(Response(b"", SW.SECURITY), 1) == Response(b"", SW.SECURITY)
    assert not splitter.pending


def test_a_reset_splitter_has_nothing_left() -> None:
    splitter = Splitter()
    splitter.first(Response(bytes(300)), 256)
    splitter.reset()
    assert splitter.next(256) == Response(b"")
