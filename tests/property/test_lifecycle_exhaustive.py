"""Every order of events up to a depth: the rules keep their promises, and broken ones do not."""

import json

import pytest

from dkey.conformance import lifecycle_check
from dkey.conformance.lifecycle_alike import signature
from dkey.conformance.lifecycle_check import WEAKENED, WORLDS, check, main
from dkey.conformance.lifecycle_promises import broken
from dkey.conformance.lifecycle_state import Policy, Scene

ENDED = "a key opens again that the vehicle had taken as ended"
NOT_BELOW = "a withdrawal took a key that is not below it"
SUSPENDED = "a key opens that the last acknowledged list suspends"
EXPECTED = {
    "four places in the ledger": (4, "more than three shares live in the ledger"),
    "slots are not exclusive": (5, "the vehicle let two keys into one place"),
    "the owner epoch is not checked": (3, ENDED),
    "the answer leaves before the commit": (
        2,
        "the ledger counts on a key that the vehicle does not know",
    ),
    "no cascade": (4, "a share outlives the actual user who granted it"),
    "the cascade goes upwards": (3, NOT_BELOW),
    "a list may go back": (4, SUSPENDED),
    "a factory reset leaves keys behind": (2, ENDED),
    "the wall clock alone decides": (5, ENDED),
    "the grant chain is not looked at": (1, NOT_BELOW),
    "the authority answers before it writes": (
        2,
        "the vehicle let in a key that the ledger does not know",
    ),
    "a restart forgets the lists": (4, ENDED),
    "a pending invitation takes no place": (4, "more than three shares live in the ledger"),
    "the other issuer's list lifts a suspension": (5, SUSPENDED),
    "a change of owner begins an epoch by itself": (
        1,
        "the lists are of an epoch that the vehicle has not begun",
    ),
    "a person has an actual user": (
        2,
        "the vehicle let in a key that the ledger does not know",
    ),
    "a veto leaves the key": (2, "a share outlives the veto against its holder"),
    "a change of owner leaves keys behind": (2, ENDED),
}
"""Broken variant to events after the world's story, and the promise that breaks."""


@pytest.mark.parametrize("world", WORLDS)
def test_no_order_of_events_breaks_a_promise(world):
    report = check(world=world)
    assert (report.violation, report.trace) == (None, ())
    assert report.states > 3_000


def test_every_broken_variant_is_expected():
    assert set(EXPECTED) == set(WEAKENED)


@pytest.mark.parametrize("weaken", EXPECTED)
def test_broken_rules_give_a_shortest_story(weaken):
    report = check(weaken=weaken)
    length = len(report.trace) - report.worlds[-1].begins
    assert (length, report.violation) == EXPECTED[weaken]


@pytest.mark.parametrize("weaken", EXPECTED)
def test_no_shorter_story_breaks_them(weaken):
    shorter = EXPECTED[weaken][0] - 1
    assert check(depth=shorter, weaken=weaken).violation is None


def unlike_futures(world, depth, alike):
    """Search without any reduction; return the states that are alike and whose futures are not."""
    whole = Scene(world=WORLDS[world], policy=Policy(), reduced=False)
    reduced = Scene(world=WORLDS[world], policy=Policy())

    def seen_of(state):
        return alike(state), broken(state), len(state.told), len(state.dead)

    level = [whole.told()]
    seen = set(level)
    futures = {}
    unlike = []
    for _ in range(depth + 1):
        coming = []
        for state in level:
            afters = [after for _, after in whole.steps(state)]
            future = {seen_of(after) for after in afters}
            if future != {seen_of(each) for _, each in reduced.steps(state)}:
                unlike.append(state)
            if futures.setdefault(alike(state), future) != future:
                unlike.append(state)
            coming += [each for each in afters if each not in seen]
            seen.update(afters)
        level = [*dict.fromkeys(coming)]
    assert len(seen) > 2 * len(futures)
    return unlike


@pytest.mark.parametrize("world", sorted(set(WORLDS) - {"crashes", "crashes-busy", "busy"}))
def test_states_that_count_as_one_have_one_future_in_a_search_without_reduction(world):
    assert unlike_futures(world, 2, signature) == []


@pytest.mark.parametrize("world", ["crashes", "crashes-busy", "busy"])
def test_the_same_holds_in_the_larger_worlds(world):
    assert unlike_futures(world, 1, signature) == []


@pytest.mark.parametrize(
    "left_out", range(len(signature(Scene(world=WORLDS["fresh"], policy=Policy()).begin())))
)
def test_a_reduction_that_forgets_something_is_found(left_out):
    def coarse(state):
        parts = signature(state)
        return (*parts[:left_out], *parts[left_out + 1 :])

    assert any(unlike_futures(world, 2, coarse) for world in ("pause", "fresh", "handover"))


def test_the_program_tells_a_counter_example_in_words(capsys):
    assert main(["--weaken", "a veto leaves the key"]) == 1
    told = capsys.readouterr()
    assert "broken: a share outlives the veto against its holder" in told.out
    assert "  1. the owner shares with anna\n  2. the owner vetoes anna" in told.out
    assert "vetoes" in told.err


def test_the_program_gives_json_for_machines(capsys):
    assert main(["--world", "pause", "--depth", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "dkey.lifecycle-check/1"
    assert told["worlds"][0]["depth"] == 2
    assert told["violation"] is None


def test_a_world_with_a_story_that_cannot_happen_is_no_world():
    world = lifecycle_check.WORLDS["vetoes"]
    with pytest.raises(ValueError, match="cannot happen"):
        Scene(
            world=type(world)(name="x", about="", depth=1, sources=(), story=("x",)),
            policy=Policy(),
        ).told()
