"""Near-range remote control: the rule table, the shared repeat timer, the horn."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from dkey.control.remote import (
    REMOTE_RULES,
    RemoteAction,
    RemoteHistory,
    RemoteVerdict,
    decide_remote,
)
from dkey.control.rules import Grant, Signals
from dkey.errors import RefusalCode
from dkey.lifecycle.roles import CredentialState, Permission, Role

OWNER = Grant(
    credential_id="c1",
    name="phone",
    role=Role.OWNER,
    permission=Permission.ENTRY_AND_START,
    state=CredentialState.ACTIVE,
)
PARKED = Signals(
    locked=True,
    ignition_on=False,
    gear_in_park=True,
    speed_kmh=0.0,
    doors_closed=True,
    smartkey_near=False,
    updating=False,
    immobilised=False,
    service_mode=False,
    valet=False,
)
A = RemoteAction
OTHERS = [action for action in RemoteAction if action is not A.HORN_OFF]
NOT_START = [action for action in RemoteAction if action is not A.REMOTE_START]


def decide(action: RemoteAction, **changed: Any) -> RemoteVerdict:
    """Decide for an owner's phone at a parked vehicle, with some of it changed."""
    names = set(Signals.__dataclass_fields__)
    signals = replace(PARKED, **{k: v for k, v in changed.items() if k in names})
    given: dict[str, Any] = {
        "fast": False,
        "signals": signals,
        "history": RemoteHistory(),
        "fob_lock_s": None,
        "now_s": 1000.0,
        **{k: v for k, v in changed.items() if k not in names},
    }
    grant = given.pop("grant", OWNER)
    return decide_remote(action, grant, **given)


# --- properties --------------------------------------------------------------------------------


def test_an_unknown_signal_never_lets_pass_what_a_known_one_refuses() -> None:
    values: dict[str, tuple[Any, ...]] = {
        "locked": (True, False),
        "ignition_on": (True, False),
        "gear_in_park": (True, False),
        "speed_kmh": (0.0, 5.0),
        "smartkey_near": (True, False),
        "updating": (True, False),
        "immobilised": (True, False),
        "service_mode": (True, False),
    }
    for action, known in product(RemoteAction, product(*values.values())):
        signals = replace(PARKED, **dict(zip(values, known, strict=True)))
        for name, options in values.items():
            doubtful = decide(action, signals=replace(signals, **{name: None}))
            if doubtful.granted:
                for option in options:
                    sure = decide(action, signals=replace(signals, **{name: option}))
                    assert sure.granted, (action, name, option)


@pytest.mark.parametrize("action", [*RemoteAction])
def test_everything_passes_at_a_parked_and_locked_vehicle(action: RemoteAction) -> None:
    assert decide(action) == RemoteVerdict(action=action, code=None, credential_id="c1")


@pytest.mark.parametrize("action", OTHERS)
def test_with_nothing_known_nothing_but_silence_passes(action: RemoteAction) -> None:
    assert not decide(action, signals=None).granted
    assert decide(A.HORN_OFF, signals=None).granted


# --- the repeat timer --------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [*product(OTHERS, OTHERS)])
def test_all_commands_share_one_timer(first: RemoteAction, second: RemoteAction) -> None:
    history = RemoteHistory().executed(first, now_s=1000.0)
    early = decide(second, history=history, now_s=1029.999)
    assert early.code is RefusalCode.TOO_SOON
    assert early.remaining_s == pytest.approx(0.001)
    assert decide(second, history=history, now_s=1030.0).granted


def test_a_refused_command_does_not_restart_the_timer() -> None:
    history = RemoteHistory().executed(A.LOCK, now_s=1000.0)
    assert not decide(A.UNLOCK, history=history, now_s=1029.0).granted
    assert decide(A.UNLOCK, history=history, now_s=1030.0).granted


@pytest.mark.parametrize("now_s", [1000.0, 1000.1, 1015.0, 1030.0])
def test_the_horn_may_be_silenced_at_any_time(now_s: float) -> None:
    history = RemoteHistory().executed(A.HORN_ON, now_s=1000.0)
    assert decide(A.HORN_OFF, history=history, now_s=now_s).granted


def test_silencing_the_horn_does_not_move_the_timer() -> None:
    history = RemoteHistory().executed(A.HORN_ON, now_s=1000.0).executed(A.HORN_OFF, now_s=1020.0)
    assert decide(A.LOCK, history=history, now_s=1030.0).granted


@pytest.mark.parametrize("now_s", [999.0, 0.0, math.nan])
def test_a_clock_that_went_back_refuses(now_s: float) -> None:
    history = RemoteHistory().executed(A.LOCK, now_s=1000.0)
    verdict = decide(A.LOCK, history=history, now_s=now_s)
    assert verdict.code is RefusalCode.TOO_SOON
    if now_s == 0.0:
        assert verdict.remaining_s == 30.0


# --- rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "changed", "refused"),
    [
        (RefusalCode.FEATURE_NOT_SUPPORTED, {"supported": False}, [*RemoteAction]),
        (RefusalCode.KEY_UNKNOWN, {"grant": None}, [*RemoteAction]),
        (
            RefusalCode.FEATURE_NOT_SUPPORTED,
            {"grant": replace(OWNER, role=Role.CARD)},
            [*RemoteAction],
        ),
        (
            RefusalCode.KEY_SUSPENDED,
            {"grant": replace(OWNER, state=CredentialState.SUSPENDED)},
            OTHERS,
        ),
        (RefusalCode.KEY_REVOKED, {"grant": replace(OWNER, state=CredentialState.REVOKED)}, OTHERS),
        (RefusalCode.KEY_EXPIRED, {"grant": replace(OWNER, expired=True)}, OTHERS),
        (
            RefusalCode.PERMISSION_ENTRY_ONLY,
            {"grant": replace(OWNER, permission=Permission.ENTRY)},
            [A.REMOTE_START, A.REMOTE_STOP],
        ),
        (RefusalCode.STANDARD_REQUIRED, {"fast": True}, [A.REMOTE_START]),
        (RefusalCode.IMMOBILISED, {"immobilised": True}, [A.REMOTE_START]),
        (RefusalCode.UPDATE_IN_PROGRESS, {"updating": True}, [A.REMOTE_START]),
        (RefusalCode.SERVICE_MODE, {"service_mode": True}, [A.REMOTE_START]),
        (RefusalCode.DRIVING, {"speed_kmh": 0.1}, OTHERS),
        (RefusalCode.DRIVING, {"speed_kmh": -1.0}, OTHERS),
        (RefusalCode.DRIVING, {"speed_kmh": math.nan}, OTHERS),
        (RefusalCode.DRIVING, {"speed_kmh": None}, OTHERS),
        (RefusalCode.DRIVING, {"ignition_on": True, "gear_in_park": False}, OTHERS),
        (
            RefusalCode.IGNITION_ON,
            {"ignition_on": True},
            [A.LOCK, A.UNLOCK, A.REMOTE_START, A.REMOTE_STOP],
        ),
        (RefusalCode.GEAR_NOT_P, {"gear_in_park": False}, [A.REMOTE_START]),
        (RefusalCode.DOOR_NOT_LOCKED, {"locked": False}, [A.REMOTE_START]),
        (RefusalCode.DOOR_NOT_LOCKED, {"locked": None}, [A.REMOTE_START, A.UNLOCK]),
        (RefusalCode.SMARTKEY_NEARBY, {"smartkey_near": True}, [A.REMOTE_START]),
        (RefusalCode.SMARTKEY_LOCK_COOLDOWN, {"fob_lock_s": 970.001}, [A.REMOTE_START]),
    ],
)
def test_a_rule_refuses_its_actions_and_no_other(
    code: RefusalCode, changed: dict[str, Any], refused: list[RemoteAction]
) -> None:
    for action in RemoteAction:
        verdict = decide(action, **changed)
        assert verdict.code is (code if action in refused else None), action


def test_the_smart_key_cooldown_ends_after_30_s() -> None:
    verdict = decide(A.REMOTE_START, fob_lock_s=990.0)
    assert (verdict.code, verdict.remaining_s) == (RefusalCode.SMARTKEY_LOCK_COOLDOWN, 20.0)
    assert decide(A.REMOTE_START, fob_lock_s=970.0).granted


def test_a_smart_key_lock_at_time_zero_counts() -> None:
    assert not decide(A.REMOTE_START, fob_lock_s=0.0, now_s=10.0).granted


def test_an_engine_that_was_started_remotely_may_be_stopped_remotely() -> None:
    history = RemoteHistory().executed(A.REMOTE_START, now_s=0.0)
    assert decide(A.REMOTE_STOP, history=history, ignition_on=True).granted


def test_an_engine_that_a_driver_took_over_may_not_be_stopped() -> None:
    history = RemoteHistory().executed(A.REMOTE_START, now_s=0.0).taken_over()
    verdict = decide(A.REMOTE_STOP, history=history, ignition_on=True)
    assert verdict.code is RefusalCode.IGNITION_ON


def test_a_moving_vehicle_is_never_stopped_by_remote_control() -> None:
    history = RemoteHistory().executed(A.REMOTE_START, now_s=0.0)
    verdict = decide(A.REMOTE_STOP, history=history, ignition_on=True, speed_kmh=30.0)
    assert verdict.code is RefusalCode.DRIVING


def test_the_first_rule_that_holds_is_the_reason() -> None:
    history = RemoteHistory().executed(A.LOCK, now_s=999.0)
    verdict = decide(A.REMOTE_START, history=history, speed_kmh=5.0, locked=False, fast=True)
    assert verdict.code is RefusalCode.STANDARD_REQUIRED


def test_every_rule_names_its_source_and_its_reason() -> None:
    assert all(rule.source and rule.text for rule in REMOTE_RULES)


# --- the horn ----------------------------------------------------------------------------------


def test_the_horn_stops_by_itself_after_30_s() -> None:
    history = RemoteHistory().executed(A.HORN_ON, now_s=1000.0)
    assert history.horn_until_s == 1030.0
    assert history.tick(now_s=1029.999).horn_until_s == 1030.0
    assert history.tick(now_s=1030.0).horn_until_s is None


def test_the_horn_stops_when_it_is_told_to() -> None:
    history = RemoteHistory().executed(A.HORN_ON, now_s=1000.0)
    assert history.executed(A.HORN_OFF, now_s=1001.0).horn_until_s is None


def test_a_verdict_has_either_an_action_or_a_code() -> None:
    with pytest.raises(ValueError, match="either"):
        RemoteVerdict(action=None, code=None, credential_id=None)
