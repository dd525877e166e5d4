"""Every order of events up to a depth: the rules keep their promises, and broken ones do not."""

import pytest

from dkey.conformance.lifecycle_check import WEAKENED, check

EXPECTED = {
    "four places in the ledger": (4, "more than three shares live in the ledger"),
    "slots are not exclusive": (5, "the vehicle let two keys into one place"),
    "the owner epoch is not checked": (
        3,
        "a key opens again that the vehicle had taken as ended",
    ),
    "the answer leaves before the commit": (
        2,
        "the ledger counts on a key that the vehicle does not know",
    ),
    "no cascade": (4, "a share outlives the actual user who granted it"),
    "the cascade goes upwards": (3, "a withdrawal took a key that is not below it"),
    "a list may go back": (4, "a key opens that the last acknowledged list suspends"),
    "a factory reset leaves keys behind": (
        2,
        "a key opens again that the vehicle had taken as ended",
    ),
    "the wall clock alone decides": (
        5,
        "a key opens again that the vehicle had taken as ended",
    ),
}


def test_no_order_of_events_breaks_a_promise():
    report = check()
    assert (report.violation, report.trace) == (None, ())
    assert report.states > 30_000


def test_every_broken_variant_is_expected():
    assert set(EXPECTED) == set(WEAKENED)


@pytest.mark.parametrize("weaken", EXPECTED)
def test_broken_rules_give_a_shortest_story(weaken):
    report = check(weaken=weaken)
    assert (len(report.trace), report.violation) == EXPECTED[weaken]


@pytest.mark.parametrize("weaken", EXPECTED)
def test_no_shorter_story_breaks_them(weaken):
    shorter = EXPECTED[weaken][0] - 1
    assert check(depth=shorter, weaken=weaken, busy=False).violation is None
