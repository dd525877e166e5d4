"""GATT framing: whole messages from chunks of any size, and an end to everything else."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.errors import LinkError, LinkReason, LocalFault
from dkey.link.fragment import FIRST, LAST, MAX_MESSAGE, Fragmenter, Reassembler


def joined(chunks: list[bytes], **caps: int) -> list[bytes]:
    reassembler = Reassembler(**caps)
    found = []
    for chunk in chunks:
        reassembler.feed(chunk, 0.0)
        if (message := reassembler.take()) is not None:
            found.append(message)
    return found


@given(st.lists(st.binary(min_size=1, max_size=600), max_size=5), st.integers(4, 520))
def test_what_was_cut_is_put_together_again(messages: list[bytes], size: int) -> None:
    fragmenter = Fragmenter(size)
    chunks = [chunk for message in messages for chunk in fragmenter.split(message)]
    assert all(len(chunk) <= size for chunk in chunks)
    assert joined(chunks) == messages


@given(st.lists(st.binary(max_size=12), max_size=40))
def test_no_bytes_crash_the_reassembler_or_exceed_its_caps(chunks: list[bytes]) -> None:
    reassembler = Reassembler(max_message=16, max_pending=24)
    with suppress(LinkError):
        for chunk in chunks:
            reassembler.feed(chunk, 0.0)
    assert reassembler.pending <= 24


@pytest.mark.parametrize("size", [20, 182, 244, 512])
def test_usual_chunk_sizes_carry_the_longest_message(size: int) -> None:
    message = bytes(range(256)) * 255 + bytes(255)
    assert joined(Fragmenter(size).split(message), max_message=65535, max_pending=65535) == [
        message
    ]


def test_one_message_may_come_in_pieces_of_one_byte() -> None:
    message = bytes(range(200))
    chunks = [bytes((FIRST, 0, len(message), message[0]))]
    chunks += [bytes((at & 0x3F, byte)) for at, byte in enumerate(message[1:], 1)]
    chunks[-1] = bytes((chunks[-1][0] | LAST,)) + chunks[-1][1:]
    assert joined(chunks) == [message]


def test_the_sequence_runs_on_across_messages() -> None:
    fragmenter = Fragmenter(20)
    assert [fragmenter.split(b"x")[0][0] & 0x3F for _ in range(66)] == [*range(64), 0, 1]


@pytest.mark.parametrize(
    ("name", "chunks"),
    [
        ("nothing", [""]),
        ("a header alone", ["c0"]),
        ("a length alone", ["c00001"]),
        ("half a length", ["c000"]),
        ("a gap at the start", ["c1000161"]),
        ("a gap inside", ["80000361", "0262"]),
        ("a repeated chunk", ["80000361", "80000361"]),
        ("an empty chunk inside", ["80000361", "01"]),
        ("a continuation of nothing", ["4061"]),
        ("a message inside another", ["80000361", "81000361"]),
        ("more than claimed", ["8000016162"]),
        ("more than claimed, later", ["80000261", "416263"]),
        ("less than claimed", ["c0000361"]),
        ("whole without an end", ["80000161"]),
        ("a claim of nothing", ["c0000061"]),
        ("a claim over the cap", ["8010016161"]),
        ("a claim of 64 KiB", ["80ffff61"]),
    ],
)
def test_a_broken_frame_ends_the_link(name: str, chunks: list[str]) -> None:
    reassembler = Reassembler(max_message=4096)
    *good, bad = (bytes.fromhex(chunk) for chunk in chunks)
    for chunk in good:
        reassembler.feed(chunk, 0.0)
    with pytest.raises(LinkError) as failure:
        reassembler.feed(bad, 0.0)
    assert failure.value.reason is LinkReason.PROTOCOL, name


def test_messages_that_nobody_takes_are_capped() -> None:
    reassembler = Reassembler(max_message=10, max_pending=25)
    fragmenter = Fragmenter(20)
    for _ in range(2):
        reassembler.feed(fragmenter.split(bytes(10))[0], 0.0)
    with pytest.raises(LinkError):
        reassembler.feed(fragmenter.split(bytes(10))[0], 0.0)


def test_taking_a_message_makes_room() -> None:
    reassembler = Reassembler(max_message=10, max_pending=10)
    fragmenter = Fragmenter(20)
    for _ in range(3):
        reassembler.feed(fragmenter.split(bytes(10))[0], 0.0)
        assert reassembler.take() == bytes(10)
    assert (reassembler.pending, reassembler.take()) == (0, None)


def test_memory_grows_with_what_came_not_with_what_was_claimed() -> None:
    tracemalloc.start()
    try:
        held = [Reassembler(max_message=MAX_MESSAGE, max_pending=MAX_MESSAGE) for _ in range(50)]
        before, _ = tracemalloc.get_traced_memory()
        for reassembler in held:
            reassembler.feed(b"\x80\xff\xffx", 0.0)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50 * 1024


def test_the_owner_sees_since_when_a_message_is_unfinished() -> None:
    reassembler = Reassembler()
    assert reassembler.started_at is None
    reassembler.feed(bytes.fromhex("80000361"), 5.0)
    reassembler.feed(bytes.fromhex("0162"), 9.0)
    assert reassembler.started_at == 5.0
    reassembler.feed(bytes.fromhex("4263"), 9.5)
    assert reassembler.started_at is None


@pytest.mark.parametrize("size", [0, 65536])
def test_a_message_that_has_no_length_field_is_refused(size: int) -> None:
    with pytest.raises(LocalFault):
        Fragmenter(20).split(bytes(size))


def test_a_chunk_too_small_for_its_header_is_refused() -> None:
    with pytest.raises(LocalFault):
        Fragmenter(3)
