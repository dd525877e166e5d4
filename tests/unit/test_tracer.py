"""The tracer: two files with the same times, frames made up where a link has none, redaction."""

from __future__ import annotations

import io
import itertools
import os
import stat
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.errors import FileFormatError, LocalFault
from dkey.trace.iso14443 import FrameNames
from dkey.trace.jsonl import (
    MAX_LINE,
    Layer,
    TraceRecord,
    encode_header,
    encode_record,
    read_records,
)
from dkey.trace.pcapng import encode_preamble, read_packets
from dkey.trace.redact import join_apdus, redact
from dkey.trace.tracer import Tracer, packet_blocks, records_of, synthesised

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dkey.link.base import FrameTap

START_NS = 1_700_000_000_000_000_001
COMMAND = bytes.fromhex("00A4040007F0646B6579010100")
POINT, SIGNATURE = b"\x04" + b"\x5a" * 64, b"\xc3" * 64
AUTH0 = (
    bytes.fromhex("80800000814101014201015C0201008741") + POINT
    + b"\x4c\x10" + b"\x22" * 16 + b"\x4d\x20" + b"\x33" * 32 + b"\x00"
)  # fmt: skip
AUTH0_ANSWER = b"\x86\x41" + POINT + b"\x9d\x40" + SIGNATURE + b"\x90\x00"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
times_ns = st.integers(0, (1 << 64) - 1)
carried = st.builds(
    TraceRecord,
    t_ns=times_ns,
    layer=st.sampled_from([Layer.FRAME, Layer.APDU]),
    from_reader=st.booleans(),
    data=st.binary(max_size=300),
    synthetic=st.booleans(),
)
remarks = st.one_of(
    st.builds(TraceRecord, t_ns=times_ns, layer=st.just(Layer.NOTE), note=texts),
    st.builds(
        TraceRecord, t_ns=times_ns, layer=st.just(Layer.FIELD), note=st.sampled_from(["on", "off"])
    ),
    st.builds(TraceRecord, t_ns=times_ns, layer=st.just(Layer.KEYS), note=texts, data=st.binary()),
)
records = st.lists(st.one_of(carried, remarks), max_size=12)


class Clock:
    """Advances 1.25 ms and 1 ns a call."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        self.now_ns += 1_250_001
        return self.now_ns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tap.pcapng"


def of_jsonl(path: Path) -> list[TraceRecord]:
    with path.with_suffix(".jsonl").open("rb") as stream:
        return list(read_records(stream))


def of_pcapng(path: Path) -> list[TraceRecord]:
    with path.with_suffix(".pcapng").open("rb") as stream:
        return list(records_of(read_packets(stream)))


def apdu(data: bytes, *, from_reader: bool, t_ns: int = 0) -> TraceRecord:
    return TraceRecord(t_ns=t_ns, layer=Layer.APDU, from_reader=from_reader, data=data)


def frame(text: str, *, from_reader: bool) -> TraceRecord:
    return TraceRecord(t_ns=0, layer=Layer.FRAME, from_reader=from_reader, data=bytes.fromhex(text))


def frames_only(items: Iterable[TraceRecord]) -> list[TraceRecord]:
    return [item for item in items if item.layer in (Layer.FRAME, Layer.FIELD)]


def apdus_only(items: Iterable[TraceRecord]) -> list[TraceRecord]:
    return [item for item in items if item.layer is Layer.APDU]


# JSON lines


@given(records)
def test_json_lines_read_back_what_was_written(items: list[TraceRecord]) -> None:
    raw = encode_header({"interface": "nfc"}) + b"".join(map(encode_record, items))
    assert list(read_records(io.BytesIO(raw))) == items


def test_a_json_lines_file_cut_within_a_line_is_refused() -> None:
    raw = encode_header() + encode_record(apdu(COMMAND, from_reader=True))
    for cut in set(range(len(raw))) - {len(encode_header())}:
        with pytest.raises(FileFormatError):
            list(read_records(io.BytesIO(raw[:cut])))


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        "[" * 100_000,
        '{"t": 1.5, "dir": null, "layer": "note", "note": "x"}',
        '{"t": "1.5", "dir": null, "layer": "note", "note": "x"}',
        '{"t": "99999999999.000000000", "dir": null, "layer": "note", "note": "x"}',
        '{"t": "1.000000000", "dir": null, "layer": "note"}',
        '{"t": "1.000000000", "dir": null, "layer": "note", "note": "\\ud800"}',
        '{"t": "1.000000000", "dir": null, "layer": "note", "note": "x", "more": 1}',
        '{"t": "1.000000000", "dir": null, "layer": "note", "note": "x", "note": "y"}',
        '{"t": "1.000000000", "dir": null, "layer": "note", "note": "x", "synthetic": 1}',
        '{"t": "1.000000000", "dir": "reader", "layer": "note", "note": "x"}',
        '{"t": "1.000000000", "dir": "car", "layer": "frame", "hex": "26"}',
        '{"t": "1.000000000", "dir": ["reader"], "layer": "frame", "hex": "26"}',
        '{"t": "1.000000000", "dir": null, "layer": "frame", "hex": "26"}',
        '{"t": "1.000000000", "dir": "reader", "layer": "frame"}',
        '{"t": "1.000000000", "dir": "reader", "layer": "frame", "hex": "2"}',
        '{"t": "1.000000000", "dir": "reader", "layer": "frame", "hex": "2 6"}',
        '{"t": "1.000000000", "dir": null, "layer": "field", "note": "maybe"}',
        '{"t": "1.000000000", "dir": null, "layer": "keys", "note": "k"}',
        '{"t": "1.000000000", "dir": null, "layer": "dance", "note": "k"}',
        '{"t": "1.000000000", "dir": null, "layer": ["note"], "note": "k"}',
        '{"dir": null, "layer": "note", "note": "k"}',
    ],
)
def test_a_line_of_another_form_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(FileFormatError, match="line 2"):
        list(read_records(io.BytesIO(encode_header() + line.encode() + b"\n")))


def test_a_line_without_end_is_refused_before_it_fills_memory() -> None:
    with pytest.raises(FileFormatError, match="longer"):
        list(read_records(io.BytesIO(encode_header() + b" " * (MAX_LINE + 1))))


def test_a_file_of_another_schema_is_refused() -> None:
    with pytest.raises(FileFormatError, match="schema"):
        list(read_records(io.BytesIO(b'{"schema": "dkey.trace/2"}\n')))


# Tracer


def test_a_tracer_is_a_frame_tap(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        tap: FrameTap = tracer
        tap.field(on=True)
    assert of_jsonl(path)[0].note == "on"


@pytest.mark.parametrize("name", ["tap", "tap.pcapng", "tap.jsonl", "tap.v2"])
def test_both_files_stand_beside_each_other(tmp_path: Path, name: str) -> None:
    stem = name.removesuffix(".pcapng").removesuffix(".jsonl")
    with Tracer(tmp_path / name, clock_ns=Clock()):
        assert {item.name for item in tmp_path.iterdir()} == {stem + ".pcapng", stem + ".jsonl"}


def test_the_files_are_private_even_if_they_were_not_before(path: Path) -> None:
    path.write_bytes(b"old")
    path.chmod(0o644)
    with Tracer(path, clock_ns=Clock()):
        modes = {stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()}
    assert modes == {0o600}
    assert of_pcapng(path) == []


def test_frames_and_fields_have_the_same_times_in_both_files(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        tracer.field(on=True)
        tracer.frame(from_reader=True, data=b"\x26")
        tracer.frame(from_reader=False, data=b"\x04\x00")
        tracer.field(on=False)
    assert of_pcapng(path) == of_jsonl(path)


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=900)), max_size=6))
def test_apdus_of_a_link_without_frames_can_be_joined_from_the_frames_made_up(
    passed: list[tuple[bool, bytes]],
) -> None:
    given_apdus = [
        apdu(data, from_reader=from_reader, t_ns=index)
        for index, (from_reader, data) in enumerate(passed)
    ]
    made_up = frames_only(synthesised(given_apdus))
    assert all(item.synthetic for item in made_up)
    # Two answers in a row are no exchange: the second looks like the first sent again.
    answers = [from_reader for from_reader, _ in passed]
    if all(a or b for a, b in itertools.pairwise(answers)) and answers[:1] != [False]:
        assert apdus_only(join_apdus(made_up)) == given_apdus


def test_a_link_without_frames_gets_an_activation_at_each_field_on(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        for _ in range(2):
            tracer.field(on=True)
            tracer.apdu(from_reader=True, data=COMMAND)
            tracer.apdu(from_reader=False, data=b"\x90\x00")
            tracer.field(on=False)
    names = FrameNames()
    seen = [
        names.kind(from_reader=bool(item.from_reader), data=item.data or b"").name
        for item in of_pcapng(path)
        if item.layer is Layer.FRAME
    ]
    once = ["REQA", "ATQA", "anticollision CL1", "UID CL1", "select CL1", "SAK", "RATS", "ATS"]
    once += ["I-block 0", "I-block 0"]
    assert seen == once * 2


def test_frames_made_up_are_marked_and_the_apdu_is_not(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        tracer.apdu(from_reader=True, data=COMMAND)
    assert all(item.synthetic for item in of_pcapng(path))
    assert [item.layer for item in of_jsonl(path) if not item.synthetic] == [Layer.APDU]


def test_frames_made_up_stay_within_256_bytes_with_their_crc(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        tracer.apdu(from_reader=True, data=bytes(2000))
    assert max(len(item.data or b"") for item in of_pcapng(path)) == 254


def test_a_link_with_frames_gets_none_made_up(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        tracer.field(on=True)
        tracer.frame(from_reader=True, data=b"\x26")
        tracer.field(on=False)
        tracer.field(on=True)
        tracer.apdu(from_reader=True, data=COMMAND)
    assert not any(item.synthetic for item in of_jsonl(path))
    assert len(of_pcapng(path)) == 4
    assert apdus_only(of_jsonl(path))[0].data == COMMAND


def test_keys_are_not_written_unless_asked_for(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        tracer.keys({"session": b"\xab" * 16})
    assert of_jsonl(path) == []


def test_keys_are_written_to_the_json_lines_only_when_asked_for(path: Path) -> None:
    with Tracer(path, clock_ns=Clock(), show_secrets=True) as tracer:
        tracer.keys({"session": b"\xab" * 16})
        tracer.field(on=True)
    assert (of_jsonl(path)[0].note, of_jsonl(path)[0].data) == ("session", b"\xab" * 16)
    assert b"\xab" * 16 not in path.read_bytes()


def test_a_note_is_a_record_and_a_comment_on_the_next_packet(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        tracer.note("door handle")
        tracer.field(on=True)
    assert [item.note for item in of_jsonl(path)] == ["door handle", "on"]
    with path.open("rb") as stream:
        assert next(read_packets(stream)).comments == ("door handle",)


def test_any_text_can_be_a_note(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        tracer.note("\ud800" + "€" * 10_000)
        tracer.field(on=True)
    assert (of_jsonl(path)[0].note or "").startswith("?€€")


def test_many_notes_never_stop_the_trace(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        for _ in range(200):
            tracer.note("€" * 4000)
        tracer.field(on=True)
    assert of_pcapng(path)[-1].note == "on"


def test_every_record_is_in_the_files_at_once(path: Path) -> None:
    tracer = Tracer(path, clock_ns=Clock())
    for count in range(1, 4):
        tracer.field(on=True)
        assert (len(of_pcapng(path)), len(of_jsonl(path))) == (count, count)
    tracer.close()


def test_times_never_fall_when_the_clock_is_set_back(path: Path) -> None:
    clock = iter([10, 5, 12])
    with Tracer(path, clock_ns=lambda: next(clock)) as tracer:
        for _ in range(3):
            tracer.field(on=True)
    assert [item.t_ns for item in of_pcapng(path)] == [10, 10, 12]


def test_a_closed_tracer_drops_what_comes_late(path: Path) -> None:
    tracer = Tracer(path, clock_ns=Clock())
    tracer.close()
    tracer.close()
    tracer.frame(from_reader=True, data=b"\x26")
    assert of_jsonl(path) == []


def test_a_frame_too_long_for_the_format_is_left_out_of_both_files(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:
        tracer.frame(from_reader=True, data=bytes(70_000))
        tracer.frame(from_reader=True, data=b"\x26")
    assert of_pcapng(path) == of_jsonl(path)
    assert len(of_jsonl(path)) == 1


def test_a_full_disk_stops_the_trace_without_an_error_and_keeps_it_readable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def half(fd: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(fd, data[: len(data) - 10])

    with Tracer(path, clock_ns=Clock()) as tracer:
        tracer.field(on=True)
        monkeypatch.setattr(os, "write", half)
        tracer.frame(from_reader=True, data=b"\x26")
        monkeypatch.undo()
        tracer.frame(from_reader=True, data=b"\x26")
        assert tracer.failure == "the trace stopped: No space left on device"
    assert of_pcapng(path) == of_jsonl(path)
    assert len(of_jsonl(path)) == 1


def test_a_place_that_cannot_be_written_is_a_local_fault_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match="cannot write") as caught:
        Tracer(tmp_path / "absent" / "tap.pcapng", clock_ns=Clock())
    assert caught.value.hint


def test_records_of_several_threads_stay_whole(path: Path) -> None:
    with Tracer(path, clock_ns=Clock()) as tracer:

        def run() -> None:
            for _ in range(50):
                tracer.apdu(from_reader=True, data=COMMAND)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(apdus_only(of_jsonl(path))) == 200
    assert len(of_pcapng(path)) == 1 + 8 + 200


@given(records)
def test_packets_read_back_as_the_frames_and_fields_they_were_made_of(
    items: list[TraceRecord],
) -> None:
    # One reader byte that is no short frame travels with its CRC; the reader takes it off again.
    raw = encode_preamble(interface="nfc") + b"".join(packet_blocks(items))
    assert frames_only(records_of(read_packets(io.BytesIO(raw)))) == frames_only(items)


# Joining and redaction


def test_a_block_sent_again_is_joined_once() -> None:
    exchange = [
        frame("0280800000", from_reader=True),
        frame("029000", from_reader=False),
        frame("b2", from_reader=True),
        frame("029000", from_reader=False),
        frame("0380810000", from_reader=True),
        frame("b3", from_reader=True),
        frame("a2", from_reader=False),
        frame("0380810000", from_reader=True),
        frame("039000", from_reader=False),
    ]
    joined = [item.data for item in apdus_only(join_apdus(exchange))]
    assert joined == [b"\x80\x80\0\0", b"\x90\0", b"\x80\x81\0\0", b"\x90\0"]


def test_a_chain_that_breaks_off_gives_no_apdu() -> None:
    torn = [frame("1280800000", from_reader=True), frame("e080", from_reader=True)]
    assert apdus_only(join_apdus(torn)) == []


def test_cid_and_nad_are_not_part_of_the_apdu() -> None:
    joined = apdus_only(join_apdus([frame("0e01029000", from_reader=False)]))
    assert [item.data for item in joined] == [b"\x90\x00"]


@given(records, st.booleans())
def test_redaction_keeps_everything_but_bytes(items: list[TraceRecord], strict: bool) -> None:
    redacted = redact(items, strict=strict)
    blank = [replace(item, data=None) for item in items]
    assert [replace(item, data=None) for item in redacted] == blank
    assert [item.data and len(item.data) for item in redacted] == [
        item.data and len(item.data) for item in items
    ]


@given(records)
def test_plain_redaction_changes_keys_and_only_keys(items: list[TraceRecord]) -> None:
    for before, after in zip(items, redact(items), strict=True):
        if before.layer is Layer.KEYS:
            assert after.data == bytes(len(before.data or b""))
        else:
            assert after == before


@given(records)
def test_strict_redaction_twice_is_strict_redaction_once(items: list[TraceRecord]) -> None:
    once = redact(items, strict=True)
    assert redact(once, strict=True) == once


SECRET_EXCHANGES = {
    "AUTH0": [(True, AUTH0), (False, AUTH0_ANSWER)],
    "AUTH0 answer in two parts": [
        (True, AUTH0),
        (False, AUTH0_ANSWER[:100] + b"\x61\x21"),
        (True, bytes.fromhex("00C0000021")),
        (False, AUTH0_ANSWER[100:]),
    ],
    "AUTH0 command in two parts": [
        (True, b"\x90\x80\0\0\x40" + AUTH0[5:69]),
        (False, b"\x90\x00"),
        (True, b"\x80\x80\0\0\x41" + AUTH0[69:]),
        (False, AUTH0_ANSWER),
    ],
    "AUTH1": [(True, bytes.fromhex("80810000454101019E40") + SIGNATURE + b"\x00")],
    "LOAD CERT": [(True, bytes.fromhex("80D100004630448542") + b"\x00" + POINT + b"\x00")],
    "LOAD CERT, extended": [(True, bytes.fromhex("80D10000000043") + POINT + b"\x00\x00\x00\x00")],
    "unknown command with a nested key": [
        (True, bytes.fromhex("80300000457F4942B041")[:9] + POINT)
    ],
    "unknown command that is not TLV": [(True, b"\x80\x30\0\0\x41" + POINT)],
    "answer without a command": [(False, POINT + b"\x90\x00")],
    "chain of commands that breaks off": [(True, b"\x90\x80\0\0\x41" + POINT)],
    "wrong Lc": [(True, b"\x80\x80\0\0\x05" + POINT)],
}


@pytest.mark.parametrize("exchange", SECRET_EXCHANGES.values(), ids=list(SECRET_EXCHANGES))
def test_strict_redaction_leaves_no_key_and_no_signature(
    exchange: list[tuple[bool, bytes]],
) -> None:
    given_apdus = [apdu(data, from_reader=from_reader) for from_reader, data in exchange]
    both_layers = list(synthesised(given_apdus))
    before = b"".join(item.data or b"" for item in both_layers)
    after = b"".join(item.data or b"" for item in redact(both_layers, strict=True))
    # The test can fail: the bytes are there before.
    assert POINT[1:9] in before or SIGNATURE[:8] in before
    assert POINT[1:9] not in after
    assert SIGNATURE[:8] not in after


def test_strict_redaction_keeps_status_words_tags_and_identifiers() -> None:
    given_apdus = [apdu(AUTH0, from_reader=True), apdu(AUTH0_ANSWER, from_reader=False)]
    command, answer = redact(given_apdus, strict=True)
    assert command.data == AUTH0.replace(POINT, bytes(65))
    assert answer.data == b"\x86\x41" + bytes(65) + b"\x9d\x40" + bytes(64) + b"\x90\x00"


def test_strict_redaction_of_data_in_two_parts_is_that_of_the_whole() -> None:
    parts = [
        apdu(b"\x90\x80\0\0\x40" + AUTH0[5:69], from_reader=True),
        apdu(b"\x90\x00", from_reader=False),
        apdu(b"\x80\x80\0\0\x41" + AUTH0[69:], from_reader=True),
        apdu(AUTH0_ANSWER[:100] + b"\x61\x21", from_reader=False),
        apdu(bytes.fromhex("00C0000021"), from_reader=True),
        apdu(AUTH0_ANSWER[100:], from_reader=False),
    ]
    whole = [apdu(AUTH0, from_reader=True), apdu(AUTH0_ANSWER, from_reader=False)]
    command, answer = (item.data or b"" for item in redact(whole, strict=True))
    seen = [item.data or b"" for item in redact(parts, strict=True)]
    assert seen[0][5:] + seen[2][5:] == command[5:]
    assert seen[3][:-2] + seen[5] == answer


def test_strict_redaction_covers_chains_that_break_off_and_blocks_sent_again() -> None:
    torn = [
        frame("128080000045", from_reader=True),
        frame("1286" + POINT.hex(), from_reader=False),
        frame("b2", from_reader=True),
        frame("1286" + POINT.hex(), from_reader=False),
    ]
    after = b"".join(item.data or b"" for item in redact(torn, strict=True))
    assert POINT[1:9] not in after


def test_ciphertext_of_exchange_stays() -> None:
    exchange = [
        apdu(b"\x80\xc9\0\0\x41" + POINT + b"\0", from_reader=True),
        apdu(POINT + b"\x90\0", from_reader=False),
    ]
    assert redact(exchange, strict=True) == exchange
