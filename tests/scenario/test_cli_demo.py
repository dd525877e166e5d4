"""``dkey demo`` in this process: the story, its JSON, and that it notices a broken vehicle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from dkey.cli.demo import cli
from dkey.control.rules import Action, Verdict
from dkey.errors import RefusalCode

if TYPE_CHECKING:
    from pathlib import Path

STEP = {"step", "medium", "expect", "outcome", "code"}
MEDIA = {
    *("NFC phone", "NFC card", "Bluetooth", "UWB", "button", "head unit"),
    *("phone to phone", "owner's phone"),
}


def demo(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def played(result: Result) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the steps and the summary, if every line is as documented."""
    *steps, last = (json.loads(line) for line in result.stdout.splitlines())
    assert {*last} == {"summary"}
    assert {*last["summary"]} == {"steps", "as_expected"}
    codes = {None, *(code.value for code in RefusalCode)}
    for step in steps:
        assert {*step} == STEP
        assert step["medium"] in MEDIA
        assert step["code"] in codes
        assert (step["code"] is None) is (not step["outcome"].startswith("refused"))
    return steps, last["summary"]


@pytest.fixture
def always_unlock(monkeypatch):
    """A vehicle that unlocks for everyone who comes to the handle."""

    def decide(grant: Any, **_: Any) -> Verdict:
        return Verdict(
            action=Action.UNLOCK,
            code=None,
            credential_id=None if grant is None else grant.credential_id,
        )

    monkeypatch.setattr("firmware_mock.vehicle.decide_handle", decide)


def test_every_line_is_a_step_the_last_one_the_summary_and_all_is_as_expected():
    result = demo("--json")
    steps, summary = played(result)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert summary == {"steps": len(steps), "as_expected": len(steps)}


def test_a_refusal_was_expected_with_its_code():
    steps, _ = played(demo("--json"))
    refusals = [step for step in steps if step["code"]]
    assert len(refusals) > 10
    assert all(step["expect"] == f"refused {step['code']}" for step in refusals)


def test_phone_card_and_button_all_have_their_scenes():
    steps, _ = played(demo("--json"))
    assert {step["medium"] for step in steps} >= {"NFC phone", "NFC card", "button"}


def test_the_story_is_the_same_each_time():
    assert demo("--json").stdout == demo("--json").stdout


def test_for_people_every_step_is_a_line_with_a_mark_and_the_sum_is_told():
    result = demo()
    steps, _ = played(demo("--json"))
    assert result.exit_code == 0
    marked = [line for line in result.stdout.splitlines() if line.strip().startswith("✓")]
    assert len(marked) == len(steps)
    assert "✗" not in result.stdout
    assert f"{len(steps)} of {len(steps)} steps as expected" in result.stdout


@pytest.mark.usefixtures("always_unlock")
def test_a_vehicle_that_always_unlocks_is_exit_1_and_the_summary_shows_it():
    result = demo("--json")
    assert result.exit_code == 1
    steps, summary = played(result)
    wrong = [
        step
        for step in steps
        if step["expect"] != f"{step['outcome']} {step['code'] or ''}".strip()
    ]
    assert summary["steps"] == len(steps)
    assert summary["as_expected"] == len(steps) - len(wrong)
    assert {"taps again at once", "taps while driving", "friend taps, suspended"} <= {
        step["step"] for step in wrong
    }


@pytest.mark.usefixtures("always_unlock")
def test_a_vehicle_that_always_unlocks_is_told_to_people_with_what_was_expected():
    result = demo()
    assert result.exit_code == 1
    bad = [line for line in result.stdout.splitlines() if line.strip().startswith("✗")]
    assert bad
    assert all("(expected: " in line for line in bad)


def test_a_trace_holds_frames_and_every_step_and_no_keys(tmp_path: Path):
    trace = tmp_path / "demo.pcapng"
    result = demo("--json", "--trace", trace)
    steps, _ = played(result)
    assert trace.read_bytes().startswith(b"\x0a\x0d\x0d\x0a")
    header, *records = map(json.loads, trace.with_suffix(".jsonl").read_text().splitlines())
    assert header["secrets"] is False
    layers = {record["layer"] for record in records}
    assert {"frame", "field", "note"} <= layers
    assert "keys" not in layers
    notes = [record["note"] for record in records if record["layer"] == "note"]
    assert [note for note in notes if ": " in note] == [
        f"{step['step']}: {step['outcome']}" for step in steps
    ]


def test_a_trace_that_cannot_be_written_stops_the_demo(tmp_path: Path):
    result = demo("--json", "--trace", tmp_path / "no" / "demo.pcapng")
    assert result.exit_code != 0
    assert result.stdout == ""
