"""What a touch may do: every rule, every combination."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.control.card_rules import CARD_PAIRING_RULES
from dkey.control.rules import Action, Grant, Signals, Verdict
from dkey.control.touch import (
    HANDLE_RULES,
    START_RULES,
    Intent,
    StartAuthorisation,
    decide_handle,
)
from dkey.errors import RefusalCode as Code
from dkey.lifecycle.policy import PAD_GRACE_S, TAP_DEBOUNCE_S
from dkey.lifecycle.roles import CredentialState, Permission, Role

PARKED = {
    "locked": True,
    "ignition_on": False,
    "gear_in_park": True,
    "speed_kmh": 0.0,
    "doors_closed": True,
    "smartkey_near": False,
    "updating": False,
    "immobilised": False,
    "service_mode": False,
    "valet": False,
}
TRI = (True, False, None)
NOW = 1000.0


def signals(**changed):
    return Signals(**{**PARKED, **changed})


def grant(
    state=CredentialState.ACTIVE, permission=Permission.ENTRY_AND_START, role=Role.OWNER, name="k1"
):
    return Grant(credential_id=name, name="phone", role=role, permission=permission, state=state)


def handle(key=None, *, intent=None, fast=True, body=None, last=None, now=NOW):
    return decide_handle(key, intent=intent, fast=fast, signals=body, last_action_s=last, now_s=now)


def on_pad(key=None, *, fast=False):
    return StartAuthorisation().present(key, fast=fast, now_s=NOW)


GRANTS = (
    None,
    *(grant(state, permission) for state in CredentialState for permission in Permission),
)
BODIES = tuple(
    signals(
        locked=locked,
        ignition_on=ignition,
        gear_in_park=park,
        speed_kmh=speed,
        updating=updating,
        immobilised=immobilised,
    )
    for locked, ignition, park, speed, updating, immobilised in product(
        TRI, TRI, TRI, (0.0, 5.0, None), TRI, TRI
    )
)


def known_to_stand(body):
    """The vehicle stands and is not about to move: written without the code under test."""
    return (body.speed_kmh, body.ignition_on, body.gear_in_park) in (
        (0.0, False, True),
        (0.0, False, False),
        (0.0, True, True),
    )


def test_the_handle_acts_exactly_when_every_rule_passes_in_every_combination():
    for key, body, fast, intent, last in product(
        GRANTS, BODIES, (True, False), (None, *Intent), (None, NOW - 1.0, NOW - 2.0)
    ):
        verdict = handle(key, intent=intent, fast=fast, body=body, last=last)
        bare_wish = Intent.UNLOCK if body.locked is True else Intent.LOCK
        wish = intent or bare_wish
        passes = (
            key is not None
            and key.state is CredentialState.ACTIVE
            and known_to_stand(body)
            and not (wish is Intent.UNLOCK and body.locked is None)
            and not (intent is None and last == NOW - 1.0)
        )
        assert verdict.action == (Action(wish.value) if passes else None), (key, body, intent, last)
        assert (verdict.code is None) is passes


def test_start_is_granted_exactly_when_every_rule_passes_in_every_combination():
    for key, fast, pad in product(GRANTS, (True, False), ("never", "lies", "grace", "gone")):
        value = StartAuthorisation() if pad == "never" else on_pad(key, fast=fast)
        if pad in ("grace", "gone"):
            value = value.removed(now_s=NOW - (30.0 if pad == "grace" else 30.001))
        for body in BODIES:
            passes = (
                pad in ("lies", "grace")
                and key == grant()
                and not fast
                and body.immobilised is False
                and body.updating is False
                and known_to_stand(body)
            )
            start = value.start(signals=body, now_s=NOW)
            assert start.action is (Action.START if passes else None), (pad, key, fast, body)
            may = value.authorised(now_s=NOW, signals=body)
            assert may.action is (Action.AUTHORISE_START if passes else None)
            assert may.code == start.code


def test_the_handle_never_yields_a_start_or_its_authorisation():
    seen = {
        handle(key, intent=intent, fast=fast, body=body).action
        for key, intent, fast, body in product(GRANTS, (None, *Intent), (True, False), BODIES)
    }
    assert seen == {Action.LOCK, Action.UNLOCK, None}


@pytest.mark.parametrize("name", ["locked", "ignition_on", "gear_in_park", "speed_kmh"])
def test_one_unknown_signal_never_lets_a_door_unlock(name):
    for intent in (None, Intent.UNLOCK):
        verdict = handle(grant(), intent=intent, body=signals(**{name: None}))
        assert verdict.action is not Action.UNLOCK


@pytest.mark.parametrize(
    "name", ["ignition_on", "gear_in_park", "speed_kmh", "updating", "immobilised"]
)
def test_one_unknown_signal_never_lets_the_engine_start(name):
    verdict = on_pad(grant()).start(signals=signals(**{name: None}), now_s=NOW)
    assert not verdict.granted


@pytest.mark.parametrize("body", [None, Signals()])
def test_without_any_signal_nothing_is_granted(body):
    for intent in (None, *Intent):
        assert handle(grant(), intent=intent, body=body).code is Code.DRIVING
    assert on_pad(grant()).start(signals=body, now_s=NOW).code is Code.IMMOBILISED


HANDLE_TABLE = [
    (Code.KEY_UNKNOWN, {"key": None}),
    (Code.KEY_SUSPENDED, {"key": grant(CredentialState.SUSPENDED)}),
    (Code.CARD_BLOCKED, {"key": grant(CredentialState.REPLACED, role=Role.CARD)}),
    (Code.KEY_REVOKED, {"key": grant(CredentialState.REVOKED)}),
    (Code.KEY_EXPIRED, {"key": replace(grant(), expired=True)}),
    (Code.DRIVING, {"body": signals(speed_kmh=3.0)}),
    (Code.DOOR_NOT_LOCKED, {"body": signals(locked=None), "intent": Intent.UNLOCK}),
    (Code.TOO_SOON, {"last": NOW - 0.5}),
]


@pytest.mark.parametrize(("code", "case"), HANDLE_TABLE)
def test_each_handle_rule_alone_refuses_with_its_own_code(code, case):
    assert handle(**{"key": grant(), "body": signals(), **case}).code is code


def test_the_handle_table_of_this_file_covers_every_rule_in_order():
    assert [code for code, _ in HANDLE_TABLE] == [rule.code for rule in HANDLE_RULES]


START_TABLE = [
    (Code.NO_KEY_ON_PAD, {"pad": StartAuthorisation()}),
    (Code.KEY_UNKNOWN, {"pad": on_pad(None)}),
    (Code.KEY_SUSPENDED, {"pad": on_pad(grant(CredentialState.SUSPENDED))}),
    (Code.CARD_BLOCKED, {"pad": on_pad(grant(CredentialState.REPLACED))}),
    (Code.KEY_REVOKED, {"pad": on_pad(grant(CredentialState.REVOKED))}),
    (Code.KEY_EXPIRED, {"pad": on_pad(replace(grant(), expired=True))}),
    (Code.PERMISSION_ENTRY_ONLY, {"pad": on_pad(grant(permission=Permission.ENTRY))}),
    (Code.STANDARD_REQUIRED, {"pad": on_pad(grant(), fast=True)}),
    (Code.IMMOBILISED, {"body": signals(immobilised=True)}),
    (Code.UPDATE_IN_PROGRESS, {"body": signals(updating=True)}),
    (Code.DRIVING, {"body": signals(speed_kmh=-3.0)}),
]


@pytest.mark.parametrize(("code", "case"), START_TABLE)
def test_each_start_rule_alone_refuses_with_its_own_code(code, case):
    case = {"pad": on_pad(grant()), "body": signals(), **case}
    assert case["pad"].start(signals=case["body"], now_s=NOW).code is code


def test_the_start_table_of_this_file_covers_every_rule_in_order():
    assert [code for code, _ in START_TABLE] == [rule.code for rule in START_RULES]


def test_a_dead_credential_is_the_reason_whatever_else_is_wrong():
    wreck = signals(speed_kmh=90.0, immobilised=True, updating=True, ignition_on=True)
    dead = {
        CredentialState.SUSPENDED: Code.KEY_SUSPENDED,
        CredentialState.REVOKED: Code.KEY_REVOKED,
        CredentialState.REPLACED: Code.CARD_BLOCKED,
    }
    for state, code in dead.items():
        key = grant(state, Permission.ENTRY)
        assert handle(key, body=wreck, last=NOW).code is code
        assert on_pad(key, fast=True).start(signals=wreck, now_s=NOW).code is code


def test_every_rule_has_a_source_and_a_text():
    for rule in (*HANDLE_RULES, *START_RULES, *CARD_PAIRING_RULES):
        assert rule.source
        assert rule.text


def test_a_bare_tap_unlocks_a_locked_door_and_locks_an_unlocked_one():
    assert handle(grant(), body=signals(locked=True)).action is Action.UNLOCK
    assert handle(grant(), body=signals(locked=False)).action is Action.LOCK


def test_a_bare_tap_locks_when_the_lock_state_is_unknown():
    assert handle(grant(), body=signals(locked=None)).action is Action.LOCK


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("intent", Intent)
def test_an_explicit_intent_sets_the_state_however_soon_it_comes(locked, intent):
    verdict = handle(grant(), intent=intent, body=signals(locked=locked), last=NOW)
    assert verdict.action is Action(intent.value)


def test_a_bare_tap_passes_at_the_end_of_the_debounce_and_not_just_before():
    last = 7.3
    assert handle(grant(), body=signals(), last=last, now=last + TAP_DEBOUNCE_S).granted
    early = handle(grant(), body=signals(), last=last, now=last + 1.25)
    assert early.code is Code.TOO_SOON
    assert early.remaining_s == pytest.approx(0.25)


def test_the_debounce_counts_from_an_action_at_time_zero():
    assert handle(grant(), body=signals(), last=0.0, now=1.0).code is Code.TOO_SOON


@pytest.mark.parametrize("now", [nan, -inf, NOW - 500.0])
def test_a_clock_that_is_broken_or_went_back_does_not_end_the_debounce(now):
    assert handle(grant(), body=signals(), last=NOW, now=now).code is Code.TOO_SOON


@given(last=st.floats(0, 1e9), early=st.floats(0.001, TAP_DEBOUNCE_S))
def test_the_remaining_time_of_a_debounce_is_never_more_than_one_debounce(last, early):
    verdict = handle(grant(), body=signals(), last=last, now=last + TAP_DEBOUNCE_S - early)
    assert verdict.granted or 0 < verdict.remaining_s <= TAP_DEBOUNCE_S


@given(removed=st.floats(0, 1e9))
def test_the_grace_includes_its_last_moment_at_any_time_of_day(removed):
    value = on_pad(grant()).removed(now_s=removed)
    assert value.start(signals=signals(), now_s=removed + PAD_GRACE_S).granted
    late = value.start(signals=signals(), now_s=removed + PAD_GRACE_S + 0.001)
    assert late.code is Code.NO_KEY_ON_PAD
    assert late.credential_id is None


def test_a_key_may_lie_on_the_pad_for_days():
    assert on_pad(grant()).start(signals=signals(), now_s=NOW + 1e6).granted


def test_a_second_report_of_removal_does_not_prolong_the_grace():
    value = on_pad(grant()).removed(now_s=NOW).removed(now_s=NOW + 20.0)
    assert value.deadline_s == NOW + PAD_GRACE_S


def test_removing_nothing_authorises_nothing():
    value = StartAuthorisation().removed(now_s=NOW)
    assert value.start(signals=signals(), now_s=NOW).code is Code.NO_KEY_ON_PAD


@pytest.mark.parametrize("now", [nan, NOW - 1.0, inf])
def test_a_clock_that_is_broken_or_went_back_ends_the_grace(now):
    value = on_pad(grant()).removed(now_s=NOW)
    assert value.start(signals=signals(), now_s=now).code is Code.NO_KEY_ON_PAD


def test_a_stranger_laid_on_the_pad_ends_the_grace_of_the_key_before():
    value = on_pad(grant()).removed(now_s=NOW).present(None, fast=False, now_s=NOW + 1.0)
    assert value.start(signals=signals(), now_s=NOW + 1.0).code is Code.KEY_UNKNOWN


def test_a_key_laid_back_on_the_pad_has_no_deadline():
    value = on_pad(grant()).removed(now_s=NOW).present(grant(), fast=False, now_s=NOW + 1.0)
    assert value.deadline_s is None
    assert value.start(signals=signals(), now_s=NOW + 99.0).granted


def test_a_credential_revoked_while_it_lies_on_the_pad_starts_nothing():
    value = on_pad(grant()).updated(grant(CredentialState.REVOKED))
    assert value.start(signals=signals(), now_s=NOW).code is Code.KEY_REVOKED


def test_a_change_of_another_credential_leaves_the_pad_alone():
    value = on_pad(grant())
    assert value.updated(grant(CredentialState.REVOKED, name="k2")) is value


def test_no_action_stops_an_engine():
    assert not [action for action in Action if "STOP" in action.value]


@pytest.mark.parametrize("state", [{"updating": True}, {"immobilised": True}])
def test_updating_and_immobilised_neither_deny_nor_grant_an_unlock(state):
    assert handle(grant(), body=signals(**state)).action is Action.UNLOCK
    assert handle(None, body=signals(**state)).code is Code.KEY_UNKNOWN


@pytest.mark.parametrize("role", Role)
def test_an_immobilised_vehicle_starts_for_no_role(role):
    value = on_pad(grant(role=role))
    verdict = value.start(signals=signals(immobilised=True), now_s=NOW)
    assert verdict.code is Code.IMMOBILISED


@pytest.mark.parametrize("role", Role)
def test_phone_and_card_of_every_role_open_and_start_alike(role):
    assert handle(grant(role=role), body=signals()).action is Action.UNLOCK
    assert on_pad(grant(role=role)).start(signals=signals(), now_s=NOW).action is Action.START


def test_the_door_opens_while_the_engine_idles_in_park():
    assert handle(grant(), body=signals(ignition_on=True)).action is Action.UNLOCK


@pytest.mark.parametrize(
    ("ignition", "park", "speed", "driving"),
    [
        (False, True, 0.0, False),
        (False, False, 0.0, False),
        (True, True, 0.0, False),
        (True, False, 0.0, True),
        (False, True, 0.1, True),
        (True, True, -1.0, True),
        (True, True, nan, True),
        (False, True, None, True),
        (None, True, 0.0, True),
        (False, None, 0.0, True),
    ],
)
def test_driving_is_speed_or_gear_with_ignition_or_doubt(ignition, park, speed, driving):
    body = signals(ignition_on=ignition, gear_in_park=park, speed_kmh=speed)
    assert body.driving is driving


def test_every_verdict_names_the_acting_key():
    assert handle(grant(name="k7"), body=signals()).credential_id == "k7"
    assert handle(grant(CredentialState.REVOKED, name="k7")).credential_id == "k7"
    assert handle(None).credential_id is None


@pytest.mark.parametrize(("action", "code"), [(None, None), (Action.LOCK, Code.DRIVING)])
def test_a_verdict_is_an_action_or_a_reason_and_never_both_or_none(action, code):
    with pytest.raises(ValueError, match="either"):
        Verdict(action=action, code=code, credential_id=None)


def test_this_file_knows_every_signal():
    assert set(PARKED) == {item.name for item in fields(Signals)}
