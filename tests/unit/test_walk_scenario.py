"""Scenario files: what is read, what is refused and how clearly, what is shipped."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkey.control.proximity import ProximityMode
from dkey.errors import FileFormatError, LocalFault
from dkey.lifecycle.roles import Permission
from dkey.ranging.layout import Zone
from firmware_mock.scenarios import ATTACKS, SHIPPED, shipped_scenario
from firmware_mock.uwb_attacks import EarlyInjection, MixDown
from firmware_mock.uwb_channel import Channel
from firmware_mock.walk_scenario import Deed, parse_scenario

MINIMAL = """
format = "dkey.scenario/1"
name = "mine"
title = "Somebody comes"

[[person]]
name = "owner"

[[person.waypoint]]
at = [3, 9]

[[person.waypoint]]
at = [0.3, 1.4]
"""


def test_what_is_not_given_has_its_documented_default():
    found = parse_scenario(MINIMAL)
    assert (found.mode, found.locked, found.block_s) == (
        ProximityMode.PASSIVE_APPROACH, True, 0.096,
    )  # fmt: skip
    assert found.channel == Channel.PROTOTYPE
    (person,) = found.people
    assert (person.permission, person.standard, person.consent) == (
        Permission.ENTRY_AND_START, True, True,
    )  # fmt: skip
    assert person.path.points[0].at_m == (3.0, 9.0)


def test_channel_and_clocks_change_their_preset_in_their_own_units():
    text = MINIMAL + '[channel]\npreset = "garage"\nloss = 0.5\n'
    text += "[clocks]\nppm = 5\nstamp_noise_ps = 50\nslot_ms = 1\n"
    found = parse_scenario(text).channel
    assert (found.loss, found.clock_ppm) == (0.5, 5)
    assert found.stamp_noise_s == pytest.approx(50e-12)
    assert found.slot_s == pytest.approx(1e-3)
    assert found.outage == Channel.GARAGE.outage


def test_events_wait_for_a_time_or_for_somebody_at_a_waypoint():
    text = MINIMAL + (
        '[[event]]\ndo = "TOUCH_HANDLE"\ndoor = "TRUNK"\nat_s = 2\nevery_s = 0.5\n'
        '[[event]]\ndo = "PRESS_START"\nperson = "owner"\nwaypoint = 2\nafter_s = 1\n'
    )
    touch, press = parse_scenario(text).events
    assert (touch.deed, touch.door, touch.after_s, touch.every_s, touch.person) == (
        Deed.TOUCH_HANDLE, Zone.TRUNK, 2, 0.5, None,
    )  # fmt: skip
    assert (press.person, press.waypoint, press.after_s) == (0, 1, 1)


def test_attacks_are_read_with_their_time_and_their_anchors():
    text = MINIMAL + (
        '[[attack]]\nkind = "early-arrival"\npower_db = 20\nframes = ["final"]\nanchors = [0, 2]\n'
        'from_s = 1\nuntil_s = 3\n[[attack]]\nkind = "clock-skew"\nskew_ppm = 20\n'
    )
    early, skew = parse_scenario(text).attacks
    assert early.attack == EarlyInjection(
        power_db=20, frames=frozenset({"final"}), anchors=frozenset({0, 2})
    )
    assert (early.from_s, early.until_s) == (1, 3)
    assert skew.attack == MixDown(skew_ppm=20)


WRONG = {
    "no TOML": ("name =", "no TOML"),
    "another format": (MINIMAL.replace("scenario/1", "scenario/2"), "format is none of"),
    "no format": (MINIMAL.replace('format = "dkey.scenario/1"', ""), "not of format"),
    "unknown entry": (MINIMAL.replace("title", "tittle"), "title is no line"),
    "unknown table": (MINIMAL + "[weather]\nrain = true\n", "unknown entry 'weather'"),
    "unknown entry of a waypoint": (
        MINIMAL + "speed = 3\n",
        "person 1, waypoint 2 has the unknown entry 'speed'",
    ),
    "nobody": ('format = "dkey.scenario/1"\nname = "a"\ntitle = "b"\n', "no person"),
    "one waypoint": (MINIMAL.rpartition("[[")[0], "person 1: waypoint is needed at least twice"),
    "the same name twice": (
        MINIMAL + MINIMAL[MINIMAL.index("[[person]]") :],
        "two people have the same name",
    ),
    "a place that is none": (MINIMAL.replace("[3, 9]", "[3]"), "waypoint 1: at is no list of 2"),
    "a text for a number": (MINIMAL.replace("[3, 9]", '["a", 9]'), "waypoint 1: at is no number"),
    "a speed of nobody": (
        MINIMAL + "speed_m_s = 90\n",
        "waypoint 2: speed_m_s is not within 0.1..5",
    ),
    "infinity": (MINIMAL + "dwell_s = inf\n", "dwell_s is not within"),
    "not a number": (MINIMAL + "dwell_s = nan\n", "dwell_s is not within"),
    "true for a number": (MINIMAL + "dwell_s = true\n", "dwell_s is no number"),
    "an unknown preset": (MINIMAL + '[channel]\npreset = "fog"\n', "preset is none of"),
    "a share above one": (MINIMAL + "[channel]\nloss = 2\n", "channel: loss is not within 0..1"),
    "an unknown deed": (MINIMAL + '[[event]]\ndo = "SING"\nat_s = 1\n', "event 1: do is none of"),
    "no time": (MINIMAL + '[[event]]\ndo = "PRESS_START"\n', "event 1: at_s is missing"),
    "no door": (MINIMAL + '[[event]]\ndo = "TOUCH_HANDLE"\nat_s = 1\n', "door is none of"),
    "a person that is not there": (
        MINIMAL + '[[event]]\ndo = "PRESS_START"\nperson = "cat"\nwaypoint = 1\n',
        "person is none of owner",
    ),
    "a waypoint that is not there": (
        MINIMAL + '[[event]]\ndo = "PRESS_START"\nperson = "owner"\nwaypoint = 3\n',
        "waypoint is not within 1..2",
    ),
    "half a waypoint": (
        MINIMAL + '[[event]]\ndo = "PRESS_START"\nperson = "owner"\nwaypoint = 1.5\n',
        "waypoint is no whole number",
    ),
    "an unknown attack": (MINIMAL + '[[attack]]\nkind = "magic"\n', "attack 1: kind is none of"),
    "an attack without its figure": (
        MINIMAL + '[[attack]]\nkind = "relay"\n',
        "attack 1: path_m is missing",
    ),
    "an entry of another attack": (
        MINIMAL + '[[attack]]\nkind = "jamming"\nshare = 1\npower_db = 3\n',
        "attack 1 has the unknown entry 'power_db'",
    ),
    "an unknown frame": (
        MINIMAL + '[[attack]]\nkind = "early-arrival"\npower_db = 3\nframes = ["pre-poll"]\n',
        "frames is no list of",
    ),
    "half an anchor": (
        MINIMAL + '[[attack]]\nkind = "advance"\nanchors = [0.5]\n',
        "anchors is no list of whole numbers",
    ),
    "power beyond what was measured": (
        MINIMAL + '[[attack]]\nkind = "early-arrival"\npower_db = 31\n',
        "power_db is not within -20..30",
    ),
    "an end before the beginning": (
        MINIMAL + '[[attack]]\nkind = "jamming"\nshare = 1\nfrom_s = 5\nuntil_s = 4\n',
        "until_s is not within 5..600",
    ),
    "an expectation that is no yes or no": (MINIMAL + '[expect]\nunlock = "no"\n', "neither true"),
    "five people": (
        MINIMAL + "".join(
            MINIMAL[MINIMAL.index("[[person]]") :].replace("owner", f"p{n}") for n in range(4)
        ),
        "person has more than 4",
    ),
    "a table for a list": (MINIMAL + "[event]\n", "event is no array of tables"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_scenario_is_refused_and_told_where(name):
    text, told = WRONG[name]
    with pytest.raises(FileFormatError, match=re.escape(told)) as found:
        parse_scenario(text)
    assert found.value.clause == "specs/formats.md §17"
    assert found.value.hint


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, len(MINIMAL)), junk=st.text(max_size=20))
def test_any_text_is_a_scenario_or_a_format_error(cut, junk):
    try:
        parse_scenario(MINIMAL[:cut] + junk + MINIMAL[cut:])
    except FileFormatError:
        return


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_scenario_carries_its_own_name(name):
    assert shipped_scenario(name).name == name


def test_a_scenario_that_is_not_shipped_is_refused_with_the_names():
    with pytest.raises(LocalFault) as found:
        shipped_scenario("../relay")
    assert "approach" in str(found.value.hint)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_shipped_attack_attacks_and_expects_no_unlocking(name):
    scenario = shipped_scenario(name)
    assert scenario.attacks
    assert scenario.expected.unlock is False
