"""What tshark, which shares no code with us, makes of our traces."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from dkey.trace.jsonl import Layer, read_records
from dkey.trace.tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TSHARK = shutil.which("tshark")
pytestmark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed (apt: tshark)")

START_NS = 1_700_000_000_123_456_789


def clock() -> Iterator[int]:
    now_ns = START_NS
    while True:
        yield now_ns
        now_ns += 1_250_001


def tshark(path: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(TSHARK), "-n", "-r", str(path), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def infos(path: Path) -> list[str]:
    return tshark(path, "-T", "fields", "-e", "_ws.col.Info").splitlines()


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the trace of a link without frames."""
    path = tmp_path_factory.mktemp("made_up") / "tap.pcapng"
    times = clock()
    with Tracer(path, clock_ns=lambda: next(times)) as tracer:
        tracer.field(on=True)
        tracer.note("door handle")
        for size in (7, 253, 254, 600):
            tracer.apdu(from_reader=True, data=bytes(range(256))[:4] + bytes(size - 4))
            tracer.apdu(from_reader=False, data=bytes(size - 2) + b"\x90\x00")
        tracer.field(on=False)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the trace of a link with frames: WTX, a block asked for again, deselect."""
    path = tmp_path_factory.mktemp("real") / "tap.pcapng"
    times = clock()
    script = (
        "> 26|< 0400|> 9320|< 08646b797e|> 937008646b797e|< 20|> e080|< 0578807002|"
        "> 0200a4040007f0646b6579010100|< f201|> f201|< 029000|> b2|< 029000|"
        "> 1380300000|< a3|> 020000|< 029000|> c2|< c2|> 5000"
    )
    with Tracer(path, clock_ns=lambda: next(times)) as tracer:
        tracer.field(on=True)
        for line in script.split("|"):
            sender, text = line.split()
            tracer.frame(from_reader=sender == ">", data=bytes.fromhex(text))
        tracer.field(on=False)
    return path


def test_the_activation_that_was_made_up_is_recognised(made_up: Path) -> None:
    assert infos(made_up)[:9] == [
        "Field on", "REQA", "ATQA", "Anticollision", "UID", "Select", "SAK", "RATS", "ATS",
    ]  # fmt: skip


def test_each_apdu_that_was_made_into_blocks_is_put_together_again(made_up: Path) -> None:
    text = tshark(made_up, "-V")
    for size in (254, 600):
        assert text.count(f"[Reassembled apdu length: {size}]") == 2


def test_every_block_that_was_made_up_is_recognised(made_up: Path) -> None:
    blocks = infos(made_up)[9:-1]
    assert all(info.startswith(("I-block", "R-block, ACK")) for info in blocks)
    assert infos(made_up)[-1] == "Field off"


def test_real_frames_are_recognised(real: Path) -> None:
    names = [
        "Field on", "REQA", "ATQA", "Anticollision", "UID", "Select", "SAK", "RATS", "ATS",
        "I-block", "S-block, WTX", "S-block, WTX", "I-block", "R-block, NAK", "I-block",
        "I-block, Chaining", "R-block, ACK", "I-block", "I-block", "S-block, Deselect",
        "S-block, Deselect", "HLTA", "Field off",
    ]  # fmt: skip
    for info, name in zip(infos(real), names, strict=True):
        assert info.startswith(name)


@pytest.mark.parametrize("which", ["made_up", "real"])
def test_nothing_is_malformed_and_no_crc_is_wrong(
    which: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(which)
    found = tshark(path, "-Y", "_ws.malformed || _ws.expert.severity >= 0x400000").splitlines()
    # tshark (4.0.17) looks for a power byte that S(DESELECT) does not have, with CRC and without.
    assert [line for line in found if "S-block, Deselect" not in line] == []
    assert "[Bad]" not in tshark(path, "-V")


@pytest.mark.parametrize("which", ["made_up", "real"])
def test_time_stamps_are_those_of_the_json_lines(
    which: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(which)
    with path.with_suffix(".jsonl").open("rb") as stream:
        expected = [
            record.t_ns
            for record in read_records(stream)
            if record.layer in (Layer.FRAME, Layer.FIELD)
        ]
    seen = tshark(path, "-T", "fields", "-e", "frame.time_epoch").splitlines()
    assert [int(time.replace(".", "")) for time in seen] == expected


def test_a_note_is_a_comment_and_made_up_frames_say_so(made_up: Path) -> None:
    comments = tshark(made_up, "-T", "fields", "-e", "frame.comment").splitlines()
    assert comments[0] == ""
    assert comments[1].startswith("door handle")
    assert all("dkey: synthetic frame" in comment for comment in comments[1:-1])


def test_the_interface_has_a_name(real: Path) -> None:
    names = tshark(real, "-T", "fields", "-e", "frame.interface_name").splitlines()
    assert set(names) == {"nfc"}
