"""dkey trace show, convert and redact, run as a click group of its own."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from dkey.cli.trace import cli
from dkey.trace.tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

AUTH0 = bytes.fromhex("80800000814101014201015C0201008741") + b"\x04" + b"\x5a" * 64
AUTH0 += b"\x4c\x10" + b"\x22" * 16 + b"\x4d\x20" + b"\x33" * 32 + b"\x00"
TOUCH = [
    (True, bytes.fromhex("00A4040007F0646B6579010100")),
    (False, bytes.fromhex("6F098407F0646B657901019000")),
    (True, AUTH0),
    (False, b"\x9d\x40" + b"\xc3" * 64 + b"\x90\x00"),
    (True, b"\x80\xc9\0\0\0\x02\x58" + bytes(600) + b"\0\0"),
    (False, bytes(300) + b"\x90\x00"),
    (True, bytes.fromhex("803C000003410100")),
    (False, bytes.fromhex("6985")),
]


@pytest.fixture
def touch(tmp_path: Path) -> Path:
    """Return the .pcapng of a trace whose .jsonl stands beside it."""
    path = tmp_path / "tap.pcapng"
    times = iter(range(1_700_000_000_000_000_000, 1_700_000_001_000_000_000, 2_500_000))
    with Tracer(path, clock_ns=lambda: next(times), show_secrets=True) as tracer:
        tracer.field(on=True)
        tracer.note("door handle")
        for from_reader, data in TOUCH:
            tracer.apdu(from_reader=from_reader, data=data)
        tracer.keys({"session": b"\xab" * 16})
        tracer.field(on=False)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def lines_with(text: str, result: Result) -> list[str]:
    return [line for line in result.output.splitlines() if text in line]


@pytest.mark.parametrize("suffix", [".pcapng", ".jsonl"])
def test_show_names_commands_and_status_words(touch: Path, suffix: str) -> None:
    result = run("show", touch.with_suffix(suffix))
    assert result.exit_code == 0
    assert lines_with("-> apdu", result)[0].split()[-2:] == ["access", "F0646B65790101"]
    assert lines_with("AUTH0", result)[0].endswith("fast")
    assert lines_with("EXCHANGE", result)[1].endswith("9000 ok, 300 bytes of data")
    assert lines_with("CONTROL FLOW", result)[1].endswith("6985 conditions not satisfied")
    assert lines_with("door handle", result)


def test_show_counts_milliseconds_from_the_first_record(touch: Path) -> None:
    result = run("show", touch.with_suffix(".jsonl"))
    assert lines_with("<- apdu", result)[0].split()[:2] == ["7.500", "+2.500"]


@pytest.mark.parametrize("suffix", [".pcapng", ".jsonl"])
@pytest.mark.parametrize("option", ["", "--all"])
def test_show_fits_100_columns(touch: Path, suffix: str, option: str) -> None:
    result = run("show", touch.with_suffix(suffix), *filter(None, [option]))
    assert max(map(len, result.output.splitlines())) <= 100


def test_show_hides_made_up_frames_and_says_so(touch: Path) -> None:
    result = run("show", touch)
    assert not lines_with("RATS", result)
    assert lines_with("made-up frames not shown", result)


@pytest.mark.parametrize("suffix", [".pcapng", ".jsonl"])
def test_show_all_names_every_frame(touch: Path, suffix: str) -> None:
    result = run("show", "--all", touch.with_suffix(suffix))
    for name in ("REQA", "ATQA", "RATS", "ATS", "I-block 0, more follows", "R(ACK) 1"):
        assert lines_with(name, result), name


def test_show_names_the_frames_that_a_reader_really_sends(tmp_path: Path) -> None:
    script = [
        (True, "52", "WUPA"),
        (False, "4403", "ATQA"),
        (True, "9520", "anticollision CL2"),
        (False, "0102030404", "UID CL2"),
        (True, "6a02c3020002ffff", "ECP"),
        (True, "e080", "RATS"),
        (False, "0278", "ATS"),
        (True, "d01100", "PPS"),
        (False, "d0", "PPS answer"),
        (True, "0a0100a40400", "I-block 0"),
        (False, "f201", "S(WTX) 1"),
        (True, "f201", "S(WTX) 1"),
        (True, "b2", "R(NAK) 0"),
        (True, "c2", "S(DESELECT)"),
        (False, "c2", "S(DESELECT)"),
        (True, "5000", "HLTA"),
        (True, "ff", "unknown"),
    ]
    with Tracer(tmp_path / "a", clock_ns=lambda: 0) as tracer:
        for from_reader, text, _name in script:
            tracer.frame(from_reader=from_reader, data=bytes.fromhex(text))
    shown = json.loads(run("show", "--json", tmp_path / "a.pcapng").output)["records"]
    frames = [record["name"] for record in shown if record["layer"] == "frame"]
    assert frames == [name for _from_reader, _text, name in script]


def test_show_json_has_a_schema_and_the_meaning_of_each_record(touch: Path) -> None:
    shown = json.loads(run("show", "--json", touch).output)
    assert shown["schema"] == "dkey.trace.show/1"
    apdus = [record for record in shown["records"] if record["layer"] == "apdu"]
    assert [record["name"] for record in apdus[::2]] == [
        "SELECT", "AUTH0", "EXCHANGE", "CONTROL FLOW",
    ]  # fmt: skip
    assert apdus[-1]["status"] == "6985"
    assert apdus[0]["hex"] == TOUCH[0][1].hex().upper()


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [("6110", "16 more bytes wait"), ("6C00", "256 would fit"), ("63C2", "2 tries left"),
     ("6A82", "application not found"), ("6FFF", "6FFF"), ("90", "cut short")],
)  # fmt: skip
def test_show_explains_status_words(tmp_path: Path, answer: str, meaning: str) -> None:
    with Tracer(tmp_path / "a", clock_ns=lambda: 0) as tracer:
        tracer.apdu(from_reader=True, data=bytes.fromhex("80300000"))
        tracer.apdu(from_reader=False, data=bytes.fromhex(answer))
    assert lines_with(meaning, run("show", tmp_path / "a.jsonl"))


def test_show_does_not_let_a_note_steer_the_terminal(tmp_path: Path) -> None:
    with Tracer(tmp_path / "a", clock_ns=lambda: 0) as tracer:
        tracer.note("\x1b[2Jgone\n")
    result = run("show", tmp_path / "a.jsonl")
    assert "\x1b" not in result.output
    assert lines_with(r"\x1b[2Jgone\n", result)


def test_show_prints_what_precedes_the_damage_and_exits_2(touch: Path) -> None:
    touch.write_bytes(touch.read_bytes()[:-5])
    result = run("show", touch)
    assert result.exit_code == 2
    assert lines_with("6985", result)
    assert lines_with("why:", result)
    assert lines_with("try:", result)


def test_show_of_an_empty_trace_is_no_error(tmp_path: Path) -> None:
    with Tracer(tmp_path / "a", clock_ns=lambda: 0):
        pass
    assert run("show", tmp_path / "a.pcapng").exit_code == 0


def test_pcapng_to_jsonl_and_back_is_the_same_file(touch: Path, tmp_path: Path) -> None:
    run("convert", touch, tmp_path / "b.jsonl")
    run("convert", tmp_path / "b.jsonl", tmp_path / "c.pcapng")
    assert (tmp_path / "c.pcapng").read_bytes() == touch.read_bytes()


def test_jsonl_to_pcapng_is_what_the_tracer_wrote(touch: Path, tmp_path: Path) -> None:
    result = run("convert", touch.with_suffix(".jsonl"), tmp_path / "b.pcapng")
    assert result.exit_code == 0
    assert (tmp_path / "b.pcapng").read_bytes() == touch.read_bytes()


@pytest.mark.parametrize("suffix", [".pcapng", ".jsonl"])
def test_an_apdu_script_has_the_commands_only(touch: Path, tmp_path: Path, suffix: str) -> None:
    run("convert", touch.with_suffix(suffix), tmp_path / "b.txt")
    script = (tmp_path / "b.txt").read_text().splitlines()
    assert script == [data.hex().upper() for from_reader, data in TOUCH if from_reader]


def test_an_apdu_script_becomes_frames_and_a_script_again(tmp_path: Path) -> None:
    script = tmp_path / "a.txt"
    script.write_text("# select\n00 A4 04 00  # access\n\n80300000\n80300000\n")
    run("convert", script, tmp_path / "b.pcapng")
    run("convert", tmp_path / "b.pcapng", tmp_path / "c.txt")
    assert (tmp_path / "c.txt").read_text() == "00A40400\n80300000\n80300000\n"


def test_a_converted_file_is_private(touch: Path, tmp_path: Path) -> None:
    run("convert", touch, tmp_path / "b.jsonl")
    assert stat.S_IMODE((tmp_path / "b.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("suffix", [".pcapng", ".jsonl"])
def test_redact_strict_leaves_no_key_no_cryptogram(
    touch: Path, tmp_path: Path, suffix: str
) -> None:
    result = run("redact", "--strict", touch.with_suffix(suffix), tmp_path / "b.jsonl")
    assert result.exit_code == 0
    text = (tmp_path / "b.jsonl").read_text()
    assert [part for part in ("5A" * 8, "C3" * 8, "AB" * 8) if part in text] == []
    assert "22" * 16 in text


def test_redact_leaves_cryptograms_without_strict(touch: Path, tmp_path: Path) -> None:
    run("redact", touch.with_suffix(".jsonl"), tmp_path / "b.jsonl")
    text = (tmp_path / "b.jsonl").read_text()
    assert "C3" * 64 in text
    assert "AB" * 8 not in text


def test_a_redacted_trace_shows_the_same_story(touch: Path, tmp_path: Path) -> None:
    run("redact", "--strict", touch, tmp_path / "b.pcapng")
    assert run("show", tmp_path / "b.pcapng").output == run("show", touch).output


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("tap.pcapng", "b.doc", "unknown suffix"),
        ("tap.doc", "b.jsonl", "unknown suffix"),
        ("tap.pcapng", "tap.pcapng", "another name"),
        ("absent.pcapng", "b.jsonl", "does not exist"),
        ("bad.txt", "b.jsonl", "line 1"),
        ("bad.jsonl", "b.pcapng", "line 1"),
        ("bad.pcap", "b.jsonl", "neither pcapng nor pcap"),
    ],
)
def test_a_bad_file_or_name_exits_2_with_the_reason(
    touch: Path, source: str, target: str, why: str
) -> None:
    folder = touch.parent
    (folder / "tap.doc").write_bytes(b"")
    for name in ("bad.txt", "bad.jsonl", "bad.pcap"):
        (folder / name).write_bytes(b"no trace at all\n")
    before = touch.read_bytes()
    result = run("convert", folder / source, folder / target)
    assert result.exit_code == 2
    assert why in result.output
    assert touch.read_bytes() == before
    assert not (folder / target).exists() or target == source


def test_a_damaged_file_is_not_converted(touch: Path, tmp_path: Path) -> None:
    touch.write_bytes(touch.read_bytes()[:-5])
    assert run("convert", touch, tmp_path / "b.jsonl").exit_code == 2
    assert not (tmp_path / "b.jsonl").exists()
