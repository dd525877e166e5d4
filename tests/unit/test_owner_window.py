"""The owner pairing window: tries, times, codes, and everything that may not happen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dkey.control.owner_window import (
    ATTEMPT_TIMEOUT_S,
    CODE_TIMEOUT_S,
    OWNER_PAIRING_RULES,
    TRANSITIONS,
    OwnerCase,
    OwnerInput,
    OwnerState,
    OwnerWindow,
)
from dkey.control.rules import Signals
from dkey.errors import PolicyRefusal
from dkey.errors import RefusalCode as Code
from dkey.lifecycle.policy import CODE_MAX_TRIES, CODE_RESENDS_PER_HOUR
from dkey.pairing.owner_keys import DEVICE_TRANSITIONS, VEHICLE_TRANSITIONS

READY = Signals(ignition_on=True, gear_in_park=True, speed_kmh=0.0, service_mode=False, valet=False)
FREE = OwnerCase(linked=False, signals=READY)


def opened(now_s=0.0):
    return OwnerWindow().issue(FREE, ages_s=(), now_s=now_s)


def begun(window=None, now_s=0.0):
    return (window or opened()).begin(FREE, now_s=now_s)


def tried(window, now_s=0.0):
    """One wrong try."""
    window = begun(window, now_s)
    return window.count(window.attempt, FREE, now_s=now_s).end(window.attempt)


def paired(name="phone"):
    window = begun()
    window = window.count(window.attempt, FREE, now_s=0.0)
    return window.pair(window.attempt, FREE, credential_id=name, now_s=0.0)


def refused(code, what, *args, **named):
    with pytest.raises(PolicyRefusal) as caught:
        what(*args, **named)
    assert caught.value.code is code
    return caught.value


class Windows(RuleBasedStateMachine):
    """Whatever happens in whatever order: three tries for a code, and a step of the table."""

    def __init__(self):
        super().__init__()
        self.window = OwnerWindow()
        self.now_s = 0.0
        self.issued = []
        self.tries = 0

    def move(self, after, *events):
        before, self.window = self.window, after
        if after.state is not before.state:
            reached = {s for event in events for s in TRANSITIONS.get((before.state, event), ())}
            assert after.state in reached

    def attempt(self, what, *events):
        try:
            self.move(what(), *events)
        except PolicyRefusal:
            return False
        return True

    @rule(seconds=st.sampled_from((0.5, 15.0, 25.0, 200.0, 1800.0)))
    def time_passes(self, seconds):
        self.now_s += seconds
        ticked = self.window.tick(now_s=self.now_s)
        if ticked.state is not self.window.state:
            both = self.window.state is OwnerState.BUSY
            assert both or (self.window.state, OwnerInput.TIMEOUT) in TRANSITIONS
        self.window = ticked

    @rule()
    def a_code_is_issued(self):
        ages = [self.now_s - at for at in self.issued]
        if self.attempt(
            lambda: self.window.issue(FREE, ages_s=ages, now_s=self.now_s), OwnerInput.ISSUE
        ):
            self.issued.append(self.now_s)
            self.tries = 0

    @rule()
    def a_phone_begins(self):
        self.attempt(lambda: self.window.begin(FREE, now_s=self.now_s), OwnerInput.BEGIN)

    @rule(late=st.booleans())
    def a_try_is_counted(self, late):
        number = self.window.attempt - late
        if self.attempt(lambda: self.window.count(number, FREE, now_s=self.now_s), OwnerInput.TRY):
            assert not late
            self.tries += 1

    @rule()
    def the_attempt_ends(self):
        self.move(self.window.end(self.window.attempt), OwnerInput.END)

    @precondition(lambda self: self.tries)
    @rule(name=st.sampled_from(("phone", "other")))
    def a_key_is_enrolled(self, name):
        self.attempt(
            lambda: self.window.pair(
                self.window.attempt, FREE, credential_id=name, now_s=self.now_s
            ),
            OwnerInput.PAIR,
        )

    @rule()
    def the_key_is_used(self):
        self.move(self.window.used(), OwnerInput.USED)

    @rule()
    def the_driver_cancels(self):
        self.move(self.window.cancel(), OwnerInput.CANCEL)

    @invariant()
    def no_code_has_more_tries_than_allowed(self):
        assert self.tries <= CODE_MAX_TRIES
        assert self.window.tries in (self.tries, 0)

    @invariant()
    def no_hour_has_more_codes_than_allowed(self):
        for at in self.issued:
            near = [each for each in self.issued if at <= each < at + 3600.0]
            assert len(near) <= 1 + CODE_RESENDS_PER_HOUR


Windows.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_any_order_of_events = Windows.TestCase


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ignition_on": False}, Code.IGNITION_OFF),
        ({"ignition_on": None}, Code.IGNITION_OFF),
        ({"speed_kmh": 3.0}, Code.DRIVING),
        ({"speed_kmh": None}, Code.DRIVING),
        ({"gear_in_park": False}, Code.DRIVING),
        ({"service_mode": True}, Code.SERVICE_MODE),
        ({"service_mode": None}, Code.SERVICE_MODE),
        ({"valet": True}, Code.VALET),
        ({"valet": None}, Code.VALET),
    ],
)
def test_each_condition_is_asked_at_every_step(change, code):
    case = replace(FREE, signals=replace(READY, **change))
    refused(code, OwnerWindow().issue, case, ages_s=(), now_s=0.0)
    refused(code, opened().begin, case, now_s=0.0)
    window = begun()
    refused(code, window.count, window.attempt, case, now_s=0.0)
    refused(code, window.pair, window.attempt, case, credential_id="phone", now_s=0.0)


def test_nothing_known_of_the_body_opens_nothing():
    case = OwnerCase(linked=False, signals=None)
    refused(Code.IGNITION_OFF, OwnerWindow().issue, case, ages_s=(), now_s=0.0)


def test_a_linked_vehicle_says_so_before_anything_else():
    case = OwnerCase(linked=True, signals=None)
    refused(Code.ALREADY_LINKED, OwnerWindow().issue, case, ages_s=(), now_s=0.0)
    refused(Code.ALREADY_LINKED, OwnerWindow().begin, case, now_s=0.0)
    assert OWNER_PAIRING_RULES[0].code is Code.ALREADY_LINKED


def test_without_a_window_nobody_begins():
    refused(Code.NOT_AUTHORISED, OwnerWindow().begin, FREE, now_s=0.0)


def test_a_second_phone_waits_for_the_first():
    refused(Code.NOT_AUTHORISED, begun().begin, FREE, now_s=1.0)


def test_the_third_try_locks_the_code_for_good():
    window = tried(tried(opened()))
    assert window.state is OwnerState.OPEN
    window = tried(window)
    assert window.state is OwnerState.LOCKED
    refused(Code.CODE_LOCKED_OUT, window.begin, FREE, now_s=1.0)
    later = window.tick(now_s=1e9)
    refused(Code.CODE_LOCKED_OUT, later.begin, FREE, now_s=1e9)


def test_a_new_code_has_its_own_tries():
    window = tried(tried(tried(opened()))).issue(FREE, ages_s=(0.0,), now_s=1.0)
    assert (window.state, window.tries) == (OwnerState.OPEN, 0)


def test_a_code_that_nobody_enters_expires():
    window = opened().tick(now_s=CODE_TIMEOUT_S)
    assert window.state is OwnerState.OPEN
    window = opened().tick(now_s=CODE_TIMEOUT_S + 0.001)
    assert window.state is OwnerState.EXPIRED
    refused(Code.CODE_TIMEOUT, window.begin, FREE, now_s=CODE_TIMEOUT_S + 1)


def test_a_try_after_the_code_expired_is_not_counted():
    window = begun(opened(), CODE_TIMEOUT_S - 1)
    refused(Code.CODE_TIMEOUT, window.count, window.attempt, FREE, now_s=CODE_TIMEOUT_S + 1)


def test_an_attempt_that_takes_too_long_makes_place_and_cannot_come_back():
    first = begun()
    now_s = ATTEMPT_TIMEOUT_S + 0.001
    second = first.tick(now_s=now_s).begin(FREE, now_s=now_s)
    refused(Code.NOT_AUTHORISED, second.count, first.attempt, FREE, now_s=now_s)
    assert second.end(first.attempt) == second
    assert second.count(second.attempt, FREE, now_s=now_s).tries == 1


def test_an_attempt_of_an_earlier_code_cannot_go_on_under_the_next():
    first = begun()
    window = first.end(first.attempt).issue(FREE, ages_s=(0.0,), now_s=1.0)
    second = window.begin(FREE, now_s=1.0)
    refused(Code.NOT_AUTHORISED, second.count, first.attempt, FREE, now_s=1.0)


def test_no_new_code_while_an_attempt_runs():
    refused(Code.NOT_AUTHORISED, begun().issue, FREE, ages_s=(0.0,), now_s=1.0)


def test_the_fifth_code_of_an_hour_must_wait():
    ages = (3000.0, 2000.0, 1000.0, 10.0)
    found = refused(Code.TOO_SOON, OwnerWindow().issue, FREE, ages_s=ages, now_s=0.0)
    assert found.remaining_s == pytest.approx(600.0)
    assert OwnerWindow().issue(FREE, ages_s=(3600.0, *ages[1:]), now_s=0.0)


def test_a_clock_that_went_back_gives_no_further_codes():
    refused(Code.TOO_SOON, OwnerWindow().issue, FREE, ages_s=(-9e6,) * 4, now_s=0.0)


def test_a_right_third_try_pairs():
    window = begun(tried(tried(opened())))
    window = window.count(window.attempt, FREE, now_s=0.0)
    window = window.pair(window.attempt, FREE, credential_id="phone", now_s=0.0)
    assert (window.state, window.paired) == (OwnerState.PAIRED, "phone")


def test_a_torn_phone_pairs_again_with_its_code_and_nobody_else_does():
    again = begun(paired("phone"))
    again = again.count(again.attempt, FREE, now_s=1.0)
    refused(Code.ALREADY_LINKED, again.pair, again.attempt, FREE, credential_id="other", now_s=1.0)
    assert again.pair(again.attempt, FREE, credential_id="phone", now_s=1.0).paired == "phone"
    assert again.end(again.attempt).state is OwnerState.PAIRED


def test_a_torn_phone_has_no_more_tries_than_anybody():
    window = paired()
    for _ in range(CODE_MAX_TRIES - 1):
        window = tried(window)
    refused(Code.CODE_LOCKED_OUT, window.begin, FREE, now_s=1.0)


def test_the_first_use_closes_the_window():
    assert paired().used().state is OwnerState.CLOSED
    assert opened().used().state is OwnerState.OPEN


def test_a_key_that_is_not_used_in_time_closes_the_window():
    assert paired().tick(now_s=CODE_TIMEOUT_S + 1).state is OwnerState.CLOSED


@pytest.mark.parametrize("make", [opened, begun, paired])
def test_the_driver_cancels(make):
    assert make().cancel().state is OwnerState.CLOSED


@pytest.mark.parametrize(
    ("tries", "age_s", "kept", "state"),
    [
        (0, 0.0, None, OwnerState.OPEN),
        (2, 299.0, None, OwnerState.OPEN),
        (2, 301.0, None, OwnerState.EXPIRED),
        (2, -0.1, None, OwnerState.EXPIRED),
        (3, 1.0, None, OwnerState.LOCKED),
        (3, 1e9, None, OwnerState.LOCKED),
        (3, -1e9, None, OwnerState.LOCKED),
        (1, 1.0, "phone", OwnerState.PAIRED),
        (1, 301.0, "phone", OwnerState.CLOSED),
    ],
)
def test_a_restart_gives_nothing_back(tries, age_s, kept, state):
    window = OwnerWindow.restored(tries=tries, age_s=age_s, paired=kept, now_s=50.0)
    assert window.state is state
    if state is OwnerState.OPEN:
        assert window.tries == tries
        assert window.deadline_s == 50.0 + CODE_TIMEOUT_S - age_s


def test_the_specification_shows_the_tables_as_they_are():
    page = (Path(__file__).parents[2] / "specs" / "pairing.md").read_text(encoding="utf-8")
    rows = [
        f"| {state.value} | {event.value} | {' or '.join(each.value for each in after)} |"
        for (state, event), after in TRANSITIONS.items()
    ]
    rows += [
        f"| {at} | `{rule.code}` | {rule.text} | {rule.source} |"
        for at, rule in enumerate(OWNER_PAIRING_RULES, 1)
    ]
    rows += [
        f"| {state.value} | {kind.name} | {' or '.join(each.value for each in after)} |"
        for table in (VEHICLE_TRANSITIONS, DEVICE_TRANSITIONS)
        for (state, kind), after in table.items()
    ]
    assert "\n".join(rows[: len(TRANSITIONS)]) in page
    assert [row for row in rows if row not in page] == []
