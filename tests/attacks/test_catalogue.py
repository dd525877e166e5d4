"""Every attack fails against the stack, and succeeds against each build broken for it."""

from __future__ import annotations

import pytest

from . import REQUIRED, Broken, load
from .broken import Foundry, source_of

SEEDS = (1, 2, 3)
CASES = load()
BUILDS = [
    pytest.param(case, broken, id=f"{case.name}-{number}")
    for case in CASES
    for number, broken in enumerate(case.broken, 1)
]


@pytest.fixture(scope="module")
def foundry():
    with Foundry() as running:
        yield running


def stands(case):
    """Return the case as a parameter; one with an open finding is expected to fail, until not."""
    marks = []
    if case.finding:
        marks = [pytest.mark.xfail(strict=True, raises=AssertionError, reason=case.finding)]
    return pytest.param(case, id=case.name, marks=marks)


def test_every_required_number_has_a_case_that_holds():
    assert {case.number for case in CASES if not case.finding} >= set(REQUIRED)


def test_every_case_names_a_broken_build():
    assert [case.name for case in CASES if not case.broken and not case.finding] == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", [stands(case) for case in CASES])
def test_the_attack_fails_against_the_stack(case, seed):
    case.run(seed)


@pytest.mark.parametrize(("case", "broken"), BUILDS)
def test_the_source_that_a_broken_build_replaces_is_there_once(case, broken):
    for edit in broken.edits:
        found = source_of(edit.module).read_text(encoding="utf-8").count(edit.old)
        assert found == 1, (
            f"update the broken build of {case.name} ({broken.why}): its old text is"
            f" {found} times in {edit.module}:\n{edit.old}"
        )


@pytest.mark.parametrize(("case", "broken"), BUILDS)
def test_the_attack_succeeds_against_the_broken_build(case, broken, foundry):
    outcome = foundry.run(case, broken)
    assert outcome.red, f"{case.name}, where {broken.why}: {outcome.text}"


def test_a_build_that_is_not_broken_turns_no_case_red(foundry):
    same = Broken(
        module="dkey.crypto.channel",
        old="self._in_count = count + 1",
        new="self._in_count = 1 + count",
        why="nothing is wrong with it",
    )
    case = next(each for each in CASES if same.module in {b.module for b in each.broken})
    outcome = foundry.run(case, same)
    assert not outcome.red
    assert "cannot fail" in outcome.text


def test_a_broken_build_whose_source_is_gone_says_so(foundry):
    gone = Broken(module="dkey.crypto.channel", old="no such line", new="", why="out of date")
    case = next(each for each in CASES if gone.module in {b.module for b in each.broken})
    outcome = foundry.run(case, gone)
    assert not outcome.red
    assert "update the broken build" in outcome.text


def test_a_case_that_crashes_is_not_red(foundry):
    crash = Broken(
        module="dkey.crypto.channel",
        old="COUNTER_LIMIT: Final = 0xFFFF",
        new="raise RuntimeError('no attack did this')",
        why="it does not work at all",
    )
    case = next(each for each in CASES if each.run.__name__ == "repeated_command")
    outcome = foundry.run(case, crash)
    assert not outcome.red
    assert "no attack did this" in outcome.text


def test_builds_do_not_see_each_other(foundry):
    case = next(each for each in CASES if each.run.__name__ == "repeated_command")
    whole = Broken(
        module="dkey.crypto.channel",
        old="self._in_count = count + 1",
        new="self._in_count = 1 + count",
        why="nothing is wrong with it",
    )
    assert foundry.run(case, case.broken[0]).red
    assert not foundry.run(case, whole).red
