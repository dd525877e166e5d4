"""What proximity may do: every rule, several keys, lost ranging, and doubtful data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkey.control.proximity import (
    KeyPresence,
    Notice,
    NoticeKind,
    Proximity,
    ProximityMode,
    ProximitySettings,
)
from dkey.control.proximity_rules import PROXIMITY_START_RULES, PROXIMITY_UNLOCK_RULES
from dkey.control.rules import Action, Grant, Signals
from dkey.control.touch import decide_handle
from dkey.errors import RefusalCode as Code
from dkey.lifecycle.policy import ABSENT_HOLD_S, LOST_LOCK_S, START_DWELL_S
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.ranging.gate import Trust, TrustLevel
from dkey.ranging.layout import Zone
from dkey.ranging.zones import ZoneState

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
OPEN = replace(PARKED, locked=False)
NOW = 1000.0
TRUSTED = Trust(level=TrustLevel.TRUSTED)
DOUBTFUL = Trust(level=TrustLevel.DOUBTFUL)
SUSPICIOUS = Trust(level=TrustLevel.SUSPICIOUS)
PASSIVE = ProximitySettings(mode=ProximityMode.PASSIVE_APPROACH)


def grant(
    name="k1",
    *,
    permission=Permission.ENTRY_AND_START,
    role=Role.OWNER,
    state="ACTIVE",
    expired=False,
):
    return Grant(
        credential_id=name,
        name="phone",
        role=role,
        permission=permission,
        state=CredentialState(state),
        expired=expired,
    )


def key(zone, name="k1", *, trust=TRUSTED, standard=True, consent=True, since_s=0.0, **rights):
    return KeyPresence(
        grant=grant(name, **rights),
        zone=ZoneState(zone=zone, since_s=since_s, measured_s=NOW, last=zone),
        trust=trust,
        standard=standard,
        consent=consent,
    )


def lost(last, name="k1", *, measured_s=NOW):
    return replace(
        key(None, name, trust=DOUBTFUL),
        zone=ZoneState(zone=None, measured_s=measured_s, last=last),
    )


def handle(*keys, signals=PARKED, door=Zone.DOOR_DRIVER, settings=None):
    return Proximity(settings).update(keys, signals=signals, now_s=NOW, handle=door).doors


def start(*keys, signals=OPEN, settings=None):
    return Proximity(settings).update(keys, signals=signals, now_s=NOW, start_pressed=True).start


def walk(proximity, *moments, signals=PARKED):
    """Update with each list of keys, 0.1 s apart; return the door verdicts that there were."""
    verdicts = []
    for step, keys in enumerate(moments):
        found = proximity.update(keys, signals=signals, now_s=NOW + 0.1 * step).doors
        if found is not None:
            verdicts.append(found)
    return verdicts


def actions(verdicts):
    return [each.action for each in verdicts]


# ---- the handle ----------------------------------------------------------------------------------


def test_a_hand_at_the_handle_opens_with_a_key_at_that_door():
    verdict = handle(key(Zone.DOOR_DRIVER))
    assert (verdict.action, verdict.credential_id) == (Action.UNLOCK, "k1")


@pytest.mark.parametrize("zone", [z for z in Zone if z is not Zone.DOOR_DRIVER])
def test_a_key_anywhere_else_opens_nothing(zone):
    assert handle(key(zone)).code is Code.OUT_OF_ZONE


def test_nobody_near_is_out_of_zone():
    assert handle().code is Code.OUT_OF_ZONE
    assert start().code is Code.OUT_OF_ZONE


REFUSALS = [
    ({"role": Role.CARD}, Code.FEATURE_NOT_SUPPORTED),
    ({"state": "SUSPENDED"}, Code.KEY_SUSPENDED),
    ({"state": "REVOKED"}, Code.KEY_REVOKED),
    ({"expired": True}, Code.KEY_EXPIRED),
    ({"consent": False}, Code.CONSENT_MISSING),
    ({"trust": SUSPICIOUS}, Code.STANDARD_REQUIRED),
    ({"trust": DOUBTFUL}, Code.OUT_OF_ZONE),
]


@pytest.mark.parametrize(("fields", "code"), REFUSALS)
def test_this_key_neither_opens_nor_starts(fields, code):
    assert handle(key(Zone.DOOR_DRIVER, **fields)).code is code
    assert start(key(Zone.CABIN, **fields)).code is code


def test_a_credential_that_is_not_enrolled_does_nothing():
    unknown = replace(key(Zone.DOOR_DRIVER), grant=None)
    assert handle(unknown).code is Code.KEY_UNKNOWN
    assert start(replace(key(Zone.CABIN), grant=None)).code is Code.KEY_UNKNOWN


def test_a_touch_only_vehicle_has_no_proximity():
    off = ProximitySettings(supported=False)
    assert handle(key(Zone.DOOR_DRIVER), settings=off).code is Code.FEATURE_NOT_SUPPORTED
    assert start(key(Zone.CABIN), settings=off).code is Code.FEATURE_NOT_SUPPORTED


def test_a_device_that_said_it_has_no_uwb_has_no_proximity():
    here = replace(key(Zone.DOOR_DRIVER), able=False)
    assert handle(here).code is Code.FEATURE_NOT_SUPPORTED
    inside = replace(key(Zone.CABIN), able=False)
    assert start(inside).code is Code.FEATURE_NOT_SUPPORTED


@pytest.mark.parametrize(
    "moving",
    [{"speed_kmh": 3.0}, {"speed_kmh": None}, {"ignition_on": True, "gear_in_park": False}],
)
def test_a_driving_vehicle_does_neither(moving):
    signals = replace(PARKED, **moving)
    assert handle(key(Zone.DOOR_DRIVER), signals=signals).code is Code.DRIVING
    assert start(key(Zone.CABIN), signals=signals).code is Code.DRIVING


def test_without_any_signal_nothing_opens_or_starts():
    assert not handle(key(Zone.DOOR_DRIVER), signals=None).granted
    assert not start(key(Zone.CABIN), signals=None).granted


def test_an_unknown_lock_state_lets_nothing_open():
    signals = replace(PARKED, locked=None)
    assert handle(key(Zone.DOOR_DRIVER), signals=signals).code is Code.DOOR_NOT_LOCKED


def test_the_ignition_is_no_reason_against_opening():
    assert handle(key(Zone.DOOR_DRIVER), signals=replace(PARKED, ignition_on=True)).granted


def test_consent_withdrawn_leaves_touch_as_it_was():
    denied = key(Zone.DOOR_DRIVER, consent=False)
    touched = decide_handle(
        denied.grant, intent=None, fast=True, signals=PARKED, last_action_s=None, now_s=NOW
    )
    assert handle(denied).code is Code.CONSENT_MISSING
    assert touched.action is Action.UNLOCK


def test_the_key_that_may_opens_when_another_may_not():
    verdict = handle(key(Zone.DOOR_DRIVER, "a", state="SUSPENDED"), key(Zone.DOOR_DRIVER, "b"))
    assert (verdict.action, verdict.credential_id) == (Action.UNLOCK, "b")


def test_a_verdict_tells_the_zone_and_no_distance():
    assert handle(key(Zone.NEAR)).text.endswith("(zone NEAR)")
    assert "NEAR" not in handle(key(Zone.NEAR, consent=False)).text
    texts = [handle(key(zone)).text for zone in Zone] + [start(key(zone)).text for zone in Zone]
    assert not any(character.isdigit() for text in texts for character in text)


# ---- start ---------------------------------------------------------------------------------------


def test_a_key_in_the_cabin_starts():
    verdict = start(key(Zone.CABIN))
    assert (verdict.action, verdict.credential_id) == (Action.START, "k1")


@pytest.mark.parametrize("zone", [z for z in Zone if z is not Zone.CABIN])
def test_a_key_outside_never_starts(zone):
    assert start(key(zone)).code is Code.OUT_OF_ZONE


def test_a_key_starts_only_after_some_time_in_the_cabin():
    assert start(key(Zone.CABIN, since_s=NOW - START_DWELL_S)).granted
    assert start(key(Zone.CABIN, since_s=NOW - START_DWELL_S + 0.01)).code is Code.OUT_OF_ZONE


def test_the_permission_of_the_key_inside_decides_whoever_is_outside():
    inside = key(Zone.CABIN, "friend", permission=Permission.ENTRY, role=Role.ASSOCIATE)
    verdict = start(key(Zone.DOOR_DRIVER, "owner"), inside)
    assert (verdict.code, verdict.credential_id) == (Code.PERMISSION_ENTRY_ONLY, "friend")


def test_of_two_keys_inside_the_one_that_may_start_does():
    inside = key(Zone.CABIN, "friend", permission=Permission.ENTRY, role=Role.ASSOCIATE)
    assert start(inside, key(Zone.CABIN, "owner")).credential_id == "owner"


def test_without_a_standard_transaction_in_the_session_nothing_starts():
    assert start(key(Zone.CABIN, standard=False)).code is Code.STANDARD_REQUIRED
    assert handle(key(Zone.DOOR_DRIVER, standard=False)).granted


@pytest.mark.parametrize(
    ("signal", "code"), [("immobilised", Code.IMMOBILISED), ("updating", Code.UPDATE_IN_PROGRESS)]
)
@pytest.mark.parametrize("value", [True, None])
def test_a_vehicle_that_must_not_start_does_not(signal, code, value):
    assert start(key(Zone.CABIN), signals=replace(OPEN, **{signal: value})).code is code


def test_a_start_that_nobody_pressed_is_not_decided():
    assert Proximity().update([key(Zone.CABIN)], signals=OPEN, now_s=NOW).start is None


# ---- approach ------------------------------------------------------------------------------------


def test_coming_to_a_door_opens_it_once():
    proximity = Proximity(PASSIVE)
    moments = [[key(Zone.FAR)], [key(Zone.NEAR)], *[[key(Zone.DOOR_DRIVER)]] * 5]
    assert actions(walk(proximity, *moments)) == [Action.UNLOCK]


def test_by_default_coming_to_a_door_opens_nothing():
    moments = [[key(Zone.FAR)], [key(Zone.NEAR)], *[[key(Zone.DOOR_DRIVER)]] * 5]
    assert walk(Proximity(), *moments) == []


def test_a_key_first_seen_at_the_door_opens_nothing_by_itself():
    assert walk(Proximity(PASSIVE), *[[key(Zone.DOOR_DRIVER)]] * 5) == []


def test_a_door_locked_by_hand_opens_again_only_for_who_left_and_came_back():
    proximity = Proximity(PASSIVE)
    there, away = [key(Zone.DOOR_DRIVER)], [key(Zone.NEAR)]
    assert actions(walk(proximity, away, there, there, there)) == [Action.UNLOCK]
    assert actions(walk(proximity, there, away, there)) == [Action.UNLOCK]


def test_a_refused_approach_is_reported_once_and_opens_when_trust_comes():
    proximity = Proximity(PASSIVE)
    unsure = [key(Zone.DOOR_DRIVER, trust=DOUBTFUL)]
    found = walk(proximity, [key(Zone.NEAR)], unsure, unsure, unsure, [key(Zone.DOOR_DRIVER)])
    assert [each.code for each in found] == [Code.OUT_OF_ZONE, None]


def test_an_open_vehicle_is_not_opened_again_by_an_approach():
    moments = [[key(Zone.NEAR)], [key(Zone.DOOR_DRIVER)]]
    assert walk(Proximity(PASSIVE), *moments, signals=OPEN) == []


# ---- walk-away lock ------------------------------------------------------------------------------

AT, GONE, IN = [key(Zone.DOOR_DRIVER)], [key(Zone.FAR)], [key(Zone.CABIN)]


def test_leaving_locks_once():
    found = walk(Proximity(), IN, AT, GONE, GONE, GONE, signals=OPEN)
    assert actions(found) == [Action.LOCK]
    assert found[0].credential_id == "k1"


def test_walk_away_lock_can_be_switched_off():
    off = ProximitySettings(walk_away_lock=False)
    assert walk(Proximity(off), AT, GONE, signals=OPEN) == []


def test_a_key_that_never_was_at_the_vehicle_locks_nothing():
    assert walk(Proximity(), GONE, GONE, signals=OPEN) == []


def test_a_key_inside_keeps_the_vehicle_open_and_its_holder_is_told_once():
    proximity = Proximity()
    inside = key(Zone.CABIN, "left")
    proximity.update([key(Zone.DOOR_DRIVER), inside], signals=OPEN, now_s=NOW)
    notices = []
    for step in range(4):
        found = proximity.update([key(Zone.FAR), inside], signals=OPEN, now_s=NOW + step)
        assert found.doors is None
        notices += found.notices
    assert notices == [Notice(kind=NoticeKind.KEY_INSIDE, credential_id="left")]


def test_another_key_at_the_door_keeps_the_vehicle_open():
    other = key(Zone.NEAR, "other")
    assert walk(Proximity(), [*AT, other], [*GONE, other], signals=OPEN) == []


def test_doubtful_data_may_lock():
    found = walk(Proximity(), AT, [key(Zone.FAR, trust=DOUBTFUL)], signals=OPEN)
    assert actions(found) == [Action.LOCK]


def test_a_suspicious_device_inside_holds_nothing_open():
    inside = key(Zone.CABIN, "forged", trust=SUSPICIOUS)
    found = walk(Proximity(), [*AT, inside], [*GONE, inside], signals=OPEN)
    assert actions(found) == [Action.LOCK]


@pytest.mark.parametrize("changed", [{"speed_kmh": 5.0}, {"doors_closed": False}])
def test_a_moving_vehicle_or_an_open_door_is_not_locked(changed):
    assert walk(Proximity(), AT, GONE, signals=replace(OPEN, **changed)) == []


def test_an_unknown_lock_state_locks():
    assert actions(walk(Proximity(), AT, GONE, signals=replace(OPEN, locked=None))) == [Action.LOCK]


def test_who_left_a_locked_vehicle_does_not_lock_it_under_the_next_driver():
    proximity = Proximity()
    assert walk(proximity, AT, GONE, signals=PARKED) == []
    assert walk(proximity, GONE, GONE, signals=OPEN) == []


def test_a_device_that_fell_silent_outside_locks_after_its_time():
    proximity = Proximity()
    proximity.update(AT, signals=OPEN, now_s=NOW)
    silent = [lost(Zone.DOOR_DRIVER)]
    before = proximity.update(silent, signals=OPEN, now_s=NOW + LOST_LOCK_S - 0.1)
    assert before.doors is None
    assert before.notices == (Notice(kind=NoticeKind.USE_TOUCH, credential_id="k1"),)
    after = proximity.update(silent, signals=OPEN, now_s=NOW + LOST_LOCK_S)
    assert after.doors.action is Action.LOCK
    assert after.notices == ()


def test_a_device_that_fell_silent_inside_holds_while_its_session_lasts():
    proximity = Proximity()
    other = "other"
    proximity.update([*IN, key(Zone.DOOR_DRIVER, other)], signals=OPEN, now_s=NOW)
    silent = [lost(Zone.CABIN), key(Zone.FAR, other)]
    assert proximity.update(silent, signals=OPEN, now_s=NOW + 500).doors is None
    gone = [key(Zone.FAR, other)]
    held = proximity.update(gone, signals=OPEN, now_s=NOW + 500 + ABSENT_HOLD_S - 1)
    assert held.doors is None
    over = proximity.update(gone, signals=OPEN, now_s=NOW + 500 + ABSENT_HOLD_S)
    assert over.doors.action is Action.LOCK


def test_without_consent_no_place_is_remembered():
    proximity = Proximity()
    proximity.update(AT, signals=OPEN, now_s=NOW)
    withdrawn = [key(Zone.FAR, consent=False)]
    assert proximity.update(withdrawn, signals=OPEN, now_s=NOW + 1).doors is None
    assert proximity.update(GONE, signals=OPEN, now_s=NOW + 2).doors is None


# ---- lost and suspicious -------------------------------------------------------------------------


def test_a_lost_device_opens_and_starts_nothing_and_its_holder_is_sent_to_touch():
    proximity = Proximity()
    proximity.update(IN, signals=OPEN, now_s=NOW)
    found = proximity.update(
        [lost(Zone.CABIN)],
        signals=OPEN,
        now_s=NOW + 5,
        handle=Zone.DOOR_DRIVER,
        start_pressed=True,
    )
    assert found.doors.code is Code.OUT_OF_ZONE
    assert found.start.code is Code.OUT_OF_ZONE
    assert "touch" in found.start.text
    assert found.notices == (Notice(kind=NoticeKind.USE_TOUCH, credential_id="k1"),)


def test_a_suspicion_is_told_once():
    proximity = Proximity()
    odd = [key(Zone.DOOR_DRIVER, trust=SUSPICIOUS)]
    notices = [proximity.update(odd, signals=PARKED, now_s=NOW + n).notices for n in range(3)]
    assert notices == [(Notice(kind=NoticeKind.STEP_UP, credential_id="k1"),), (), ()]


def test_every_rule_of_both_tables_has_a_code_and_a_source():
    for rules in (PROXIMITY_UNLOCK_RULES, PROXIMITY_START_RULES):
        assert all(rule.source and rule.text and rule.code in Code for rule in rules)


# ---- whatever the sequence -----------------------------------------------------------------------

UNTRUSTED = st.sampled_from([DOUBTFUL, SUSPICIOUS])
ZONES = st.sampled_from([*Zone, None])
TRI = st.sampled_from([True, False, None])


def presences(trust):
    return st.builds(
        lambda zone, name, trust, standard, consent, state: (
            key(zone, name, trust=trust, standard=standard, consent=consent, state=state)
            if zone
            else replace(lost(Zone.CABIN, name), consent=consent)
        ),
        ZONES,
        st.sampled_from("ab"),
        trust,
        st.booleans(),
        st.booleans(),
        st.sampled_from(["ACTIVE", "SUSPENDED", "REVOKED"]),
    )


BODIES = st.builds(
    lambda locked, ignition, park, speed: replace(
        PARKED, locked=locked, ignition_on=ignition, gear_in_park=park, speed_kmh=speed
    ),
    TRI,
    TRI,
    TRI,
    st.sampled_from([0.0, 0.0, 4.0, None]),
)


def moments(trust):
    keys = st.lists(presences(trust), max_size=3, unique_by=lambda each: each.grant.credential_id)
    doors = st.sampled_from([None, Zone.DOOR_DRIVER, Zone.DOOR_PASSENGER])
    return st.lists(st.tuples(keys, BODIES, doors, st.booleans()), max_size=12)


MODES = st.sampled_from(ProximityMode)


@settings(max_examples=80, deadline=None)
@given(MODES, moments(UNTRUSTED))
def test_doubtful_data_never_unlocks_or_starts_whatever_the_sequence(mode, sequence):
    proximity = Proximity(ProximitySettings(mode=mode))
    for step, (keys, body, door, pressed) in enumerate(sequence):
        found = proximity.update(
            keys, signals=body, now_s=NOW + step, handle=door, start_pressed=pressed
        )
        assert found.doors is None or found.doors.action in (None, Action.LOCK)
        assert found.start is None or not found.start.granted


@settings(max_examples=80, deadline=None)
@given(MODES, moments(st.sampled_from([TRUSTED, DOUBTFUL, SUSPICIOUS])))
def test_whatever_is_granted_rests_on_a_key_that_may(mode, sequence):
    proximity = Proximity(ProximitySettings(mode=mode))
    for step, (keys, body, door, pressed) in enumerate(sequence):
        found = proximity.update(
            keys, signals=body, now_s=NOW + step, handle=door, start_pressed=pressed
        )
        for verdict in (found.doors, found.start):
            if verdict is None or verdict.action in (None, Action.LOCK):
                continue
            acting = next(k for k in keys if k.grant.credential_id == verdict.credential_id)
            assert acting.trust is TRUSTED
            assert acting.consent
            assert acting.grant.state is CredentialState.ACTIVE
            assert not body.driving
            if verdict.action is Action.START:
                assert acting.zone.zone is Zone.CABIN
                assert acting.standard
            else:
                assert acting.zone.zone in (Zone.DOOR_DRIVER, Zone.DOOR_PASSENGER, Zone.TRUNK)
        if found.doors is not None and found.doors.action is Action.LOCK:
            held = [
                k.zone.zone is Zone.CABIN
                and k.consent
                and k.trust is not SUSPICIOUS
                and k.grant.state is CredentialState.ACTIVE
                for k in keys
            ]
            assert not any(held), "locked with a key inside"


@pytest.mark.parametrize("rules", [PROXIMITY_UNLOCK_RULES, PROXIMITY_START_RULES])
def test_the_specification_has_the_rules_as_they_are_walked(rules):
    page = Path(__file__).resolve().parents[2].joinpath("specs", "proximity.md").read_text("utf-8")
    rows = "\n".join(
        f"| {at} | `{rule.code}` | {rule.text} | {rule.source} |"
        for at, rule in enumerate(rules, 1)
    )
    assert rows in page
