"""Telematic units: the whole table, and the gates of linking and of commands."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.telematic import (
    PRO_ONLY,
    TRANSITIONS,
    By,
    TelematicEvent,
    TelematicProfile,
    TelematicState,
    TelematicUnit,
    TelematicVerb,
    command,
    happen,
    settled,
)
from dkey.lifecycle.vehicle_number import check_vin

DAY = 86_400
NOW = 1_800_000_000
NEW = TelematicUnit(
    profile=TelematicProfile.LIGHT, hardware_id="m-1", pro_hardware=False, market="RU"
)


def unit(state=TelematicState.ACTIVE, **how):
    return replace(NEW, state=state, since_s=NOW, used_s=NOW, **how)


def code_of(call, *args, **how):
    with pytest.raises(PolicyRefusal) as refused:
        call(*args, **how)
    return refused.value.code


@given(st.sampled_from(TelematicState), st.sampled_from(TelematicEvent), st.sampled_from(By))
def test_nothing_happens_that_the_table_does_not_have(state, event, by):
    row = TRANSITIONS.get((state, event))
    if row is not None and row[0] is by:
        assert happen(unit(state), event, by, now_s=NOW).state is row[1]
    else:
        code_of(happen, unit(state), event, by, now_s=NOW)


@given(st.lists(st.tuples(st.sampled_from(TelematicEvent), st.sampled_from(By)), max_size=12))
def test_a_deactivated_unit_is_active_again_only_through_a_dealer(steps):
    now, dealt = unit(TelematicState.DEACTIVATED), False
    for event, by in steps:
        try:
            now = happen(now, event, by, now_s=NOW)
        except PolicyRefusal:
            continue
        dealt = dealt or by is By.DEALER
    assert dealt or now.state is not TelematicState.ACTIVE


def test_a_deactivated_unit_is_asleep_after_24_hours_and_not_before():
    gone = happen(unit(), TelematicEvent.DEACTIVATE, By.OWNER, now_s=NOW)
    assert settled(gone, NOW + DAY - 1).state is TelematicState.DEACTIVATED
    assert settled(gone, NOW + DAY).state is TelematicState.ASLEEP


def test_deactivation_needs_a_confirmation():
    how = {"now_s": NOW, "confirmed": False}
    code = code_of(happen, unit(), TelematicEvent.DEACTIVATE, By.OWNER, **how)
    assert code is RefusalCode.CONSENT_MISSING


@pytest.mark.parametrize(
    ("before", "how", "code"),
    [
        ({"market": "KR"}, {}, RefusalCode.WRONG_MARKET),
        ({}, {"service_mode": True}, RefusalCode.SERVICE_MODE),
        ({}, {"consent": False}, RefusalCode.CONSENT_MISSING),
        ({"profile": TelematicProfile.PRO}, {}, RefusalCode.FEATURE_NOT_SUPPORTED),
    ],
)
def test_a_dealer_cannot_link_past_a_gate(before, how, code):
    fresh = replace(NEW, **before)
    assert code_of(happen, fresh, TelematicEvent.LINK, By.DEALER, now_s=NOW, **how) is code


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ({"state": TelematicState.NONE}, RefusalCode.PENDING_ACTIVATION),
        ({"state": TelematicState.PENDING_ACTIVATION}, RefusalCode.PENDING_ACTIVATION),
        ({"state": TelematicState.DEACTIVATED}, RefusalCode.DEACTIVATED),
        ({"state": TelematicState.ASLEEP}, RefusalCode.DEACTIVATED),
        ({"state": TelematicState.EXPIRED}, RefusalCode.MODULE_EXPIRED),
        ({"entitled": False}, RefusalCode.ENTITLEMENT),
        ({"market": "KR"}, RefusalCode.WRONG_MARKET),
    ],
)
@pytest.mark.parametrize("verb", TelematicVerb)
def test_a_unit_that_may_not_answer_refuses_every_verb(before, code, verb):
    assert code_of(command, replace(unit(), **before), verb, now_s=NOW) is code


@pytest.mark.parametrize("verb", sorted(PRO_ONLY))
def test_a_pro_contract_without_the_pro_hardware_opens_no_pro_verb(verb):
    only_paid = unit(profile=TelematicProfile.PRO)
    assert code_of(command, only_paid, verb, now_s=NOW) is RefusalCode.FEATURE_NOT_SUPPORTED
    fitted = unit(profile=TelematicProfile.PRO, pro_hardware=True)
    assert command(fitted, verb, now_s=NOW).used_s == NOW


def test_after_a_week_without_use_the_unit_sleeps_and_status_still_answers():
    assert command(unit(), TelematicVerb.LOCK, now_s=NOW + 7 * DAY).used_s == NOW + 7 * DAY
    late = {"now_s": NOW + 7 * DAY + 1}
    assert code_of(command, unit(), TelematicVerb.LOCK, **late) is RefusalCode.ASLEEP
    assert command(unit(), TelematicVerb.STATUS, **late) == unit()


def test_an_expired_unit_can_never_be_activated_again():
    gone = settled(unit(expires_s=NOW + 1), NOW + 1)
    assert gone.state is TelematicState.EXPIRED
    for event in TelematicEvent:
        for by in By:
            assert code_of(happen, gone, event, by, now_s=NOW) is RefusalCode.MODULE_EXPIRED


@pytest.mark.parametrize(
    "vin", ["", "KNA12345678901234X", "KNAI2345678901234", "kna12345678901234"]
)
def test_a_malformed_vehicle_number_is_a_wrong_vin(vin):
    assert code_of(check_vin, vin, "KR") is RefusalCode.WRONG_VIN


@pytest.mark.parametrize(
    ("vin", "market"), [("KNA12345678901234", "RU"), ("XWE12345678901234", "KR")]
)
def test_a_vehicle_of_another_market_is_refused(vin, market):
    assert code_of(check_vin, vin, market) is RefusalCode.WRONG_MARKET


def test_a_vehicle_of_its_market_passes():
    check_vin("Z9412345678901234", "RU")
    check_vin("KNA12345678901234", "KR")
