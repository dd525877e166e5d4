"""``dkey walk``: text, JSON, files, plots, and what it refuses."""

import io
import json
import sys
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from rich.console import Console

from dkey.cli.walk import cli
from dkey.cli.walk_screen import Screen
from dkey.errors import FileFormatError, LocalFault
from dkey.ranging.layout import format_layout
from dkey.ranging.layouts import shipped_layout
from firmware_mock.scenarios import SHIPPED, shipped_scenario
from firmware_mock.walk_run import runs

SCENARIO = """
format = "dkey.scenario/1"
name = "short"
title = "A short way"
duration_s = 2.0
[expect]
unlock = EXPECTED
[[person]]
name = "owner"
[[person.waypoint]]
at = [1.0, 4.0]
spread_m = 0.0
[[person.waypoint]]
at = [0.3, 1.4]
spread_m = 0.0
[variation]
speed = 0.0
"""


def run(*words: str):
    return CliRunner().invoke(cli, [*words], catch_exceptions=True)


@pytest.fixture
def short(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(SCENARIO.replace("EXPECTED", "true"))
    return str(path)


def test_a_walk_in_text_says_zones_trust_decisions_and_a_summary(short):
    found = run(short)
    assert found.exit_code == 0, found.output
    for text in ("short: A short way", "DOOR_DRIVER", "trusted", "UNLOCK for owner",
                 "1 of 1 runs as expected", "position error"):  # fmt: skip
        assert text in found.output


def test_the_json_is_one_object_a_run_and_a_summary_last(short):
    found = run(short, "--json", "--repeat", "2")
    *runs, summary = (json.loads(line) for line in found.stdout.splitlines())
    assert [(each["schema"], each["event"], each["run"]) for each in runs] == [
        ("dkey.walk/1", "run", 0),
        ("dkey.walk/1", "run", 1),
    ]
    assert (summary["event"], summary["runs"], summary["scenario"]) == ("summary", 2, "short")


def test_the_same_seed_prints_the_same(short):
    assert run(short, "--json", "--seed", "4").stdout == run(short, "--json", "--seed", "4").stdout
    assert run(short, "--json", "--seed", "4").stdout != run(short, "--json", "--seed", "5").stdout


def test_a_walk_that_ends_otherwise_than_expected_exits_with_1(tmp_path):
    path = tmp_path / "other.toml"
    path.write_text(SCENARIO.replace("EXPECTED", "false"))
    assert run(str(path)).exit_code == 1
    assert run("--scenario", str(path)).exit_code == 1


def test_without_a_scenario_the_demo_is_played():
    found = run("--json")
    assert json.loads(found.stdout.splitlines()[-1])["scenario"] == "demo"


def test_the_record_holds_every_block_and_says_that_it_is_simulated(short, tmp_path):
    path = tmp_path / "walk.jsonl"
    assert run(short, "--jsonl", str(path)).exit_code == 0
    head, *blocks = (json.loads(line) for line in path.read_text().splitlines())
    assert (head["schema"], head["simulated"]) == ("dkey.walk-record/1", True)
    assert [each["block"] for each in blocks] == [*range(21)]
    assert {*blocks[5]["people"][0]} == {
        "key", "true_m", "position_m", "sd_m", "inside", "zone", "trust", "reasons", "ranges",
    }  # fmt: skip


def test_without_a_record_no_position_is_printed(short):
    assert "position_m" not in run(short, "--json").stdout
    assert "true_m" not in run(short, "--json").stdout


def test_a_png_is_drawn(short, tmp_path):
    path = tmp_path / "walk.png"
    found = run(short, "--plot", str(path))
    assert f"wrote {path}" in found.output
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(data) > 20_000


def test_an_svg_is_drawn(short, tmp_path):
    path = tmp_path / "walk.svg"
    assert run(short, "--plot", str(path)).exit_code == 0
    assert ET.fromstring(path.read_text()).tag.endswith("svg")


@pytest.mark.parametrize("name", ["two-phones", "early-arrival-30db", "relay"])
def test_attacks_and_several_people_are_drawn(name, tmp_path):
    path = tmp_path / "walk.png"
    assert run(name, "--json", "--plot", str(path)).exit_code == 0
    assert path.stat().st_size > 20_000


def test_a_plot_of_another_kind_is_refused_before_anybody_walks(short):
    found = run(short, "--plot", "walk.doc")
    assert found.exit_code == 2
    assert ".png or .svg" in found.output


def test_without_matplotlib_the_extra_is_named(short, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.delitem(sys.modules, "firmware_mock.walk_plot", raising=False)
    found = run(short, "--plot", "walk.png").exception
    assert isinstance(found, LocalFault)
    assert "dkey[walk]" in str(found.hint)


def test_a_file_that_cannot_be_written_is_a_local_fault(short, tmp_path):
    missing = tmp_path / "nowhere"
    for option, name in (("--plot", "a.png"), ("--jsonl", "a.jsonl")):
        found = run(short, option, str(missing / name)).exception
        assert isinstance(found, LocalFault), option


def test_a_layout_file_is_walked_around(short, tmp_path):
    path = tmp_path / "suv.toml"
    path.write_text(format_layout(shipped_layout("suv")))
    found = run(short, "--json", "--layout", str(path))
    assert json.loads(found.stdout.splitlines()[-1])["layout"] == "suv"


@pytest.mark.parametrize("option", ["--scenario", "--layout"])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"format = 3", b"x" * (1 << 20) + b"y"])
def test_a_file_that_is_none_is_a_format_error(option, content, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_bytes(content)
    assert isinstance(run(option, str(path)).exception, FileFormatError)


def test_a_file_that_is_missing_is_a_format_error(tmp_path):
    assert isinstance(run(str(tmp_path / "none.toml")).exception, FileFormatError)


@pytest.mark.parametrize(("option", "name"), [("--scenario", "nap"), ("--layout", "tank")])
def test_an_unknown_name_is_refused_with_those_there_are(option, name):
    found = run(option, name).exception
    assert isinstance(found, LocalFault)
    assert "take one of" in str(found.hint)


def test_a_scenario_given_twice_is_refused(short):
    assert run(short, "--scenario", "leave").exit_code == 2


def test_all_scenarios_are_listed():
    names = [line.split()[0] for line in run("--list").output.splitlines()]
    assert names == [*SHIPPED]
    listed = [json.loads(line) for line in run("--list", "--json").stdout.splitlines()]
    assert [each["name"] for each in listed] == [*SHIPPED]


def test_live_pace_waits_for_the_walk(short, monkeypatch):
    waited = []
    monkeypatch.setattr("dkey.cli.walk.time.sleep", waited.append)
    monkeypatch.setattr("dkey.cli.walk.time.monotonic", lambda: 100.0)
    assert run(short, "--pace", "live").exit_code == 0
    assert waited == pytest.approx([0.096 * block for block in range(21)])


def test_the_live_view_shows_car_people_and_decisions():
    layout, scenario = shipped_layout("saloon"), shipped_scenario("two-phones")
    out = io.StringIO()
    console = Console(file=out, width=110, force_terminal=True, color_system=None)
    with Screen(scenario, layout, console=console) as screen:
        for moment in next(iter(runs(scenario, layout, 1, 1))).moments():
            screen.show(moment)
    last = out.getvalue()
    for text in (
        "■",
        "◆",
        "●",
        "friend",
        "CABIN",
        "DOOR_PASSENGER",
        "doors open",
        "START for owner",
    ):
        assert text in last
