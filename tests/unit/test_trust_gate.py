"""The trust gate: each check catches what it is for, and only while it is switched on."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranging_world import BLOCK_S, SALOON, SESSION, a_round, true_cm

from dkey.ranging.gate import GateSettings, Reason, Trust, TrustGate, TrustLevel

HERE = (9.0, 6.0)
SETTLED = 6


def gate(**settings):
    return TrustGate(SALOON, SESSION, GateSettings(**settings))


def settled(**settings):
    """A gate after genuine rounds 1 to 6 of a device that stands still."""
    made = gate(**settings)
    for number in range(1, SETTLED + 1):
        word = made.update(a_round(number))
    assert word.level is TrustLevel.TRUSTED, word
    return made


def after(number=SETTLED + 1, *, settings=None, **fields):
    return settled(**(settings or {})).update(a_round(number, **fields))


def shifted(metres, *only):
    """The true distances, those of ``only`` (or all) shifted."""
    return [cm + 100 * metres * (not only or at in only) for at, cm in enumerate(true_cm(HERE))]


def test_the_third_of_three_agreeing_rounds_is_trusted_and_none_before():
    made = gate()
    levels = [made.update(a_round(number)).level for number in range(1, 5)]
    assert [each is TrustLevel.TRUSTED for each in levels] == [False, False, True, True]


def test_before_any_round_there_is_no_trust():
    assert gate().trust(0.0).reasons == (Reason.NO_ROUND,)


def test_a_trusted_round_becomes_stale():
    made = settled()
    at_s = SETTLED * BLOCK_S
    assert made.trust(at_s + 1.0).level is TrustLevel.TRUSTED
    assert Reason.STALE in made.trust(at_s + 1.01).reasons
    assert made.trust(at_s + 1.01).level is TrustLevel.DOUBTFUL
    assert made.trust(at_s - 1).level is TrustLevel.DOUBTFUL, "the clock went back"
    assert made.trust(nan).level is TrustLevel.DOUBTFUL


ATTACKS = {
    "another session's round": ("session", Reason.WRONG_SESSION, {"session_id": SESSION + 1}),
    "a repeated STS index": ("freshness", Reason.REPLAYED, {"sts_index": SETTLED * 100}),
    "an older STS index": ("freshness", Reason.REPLAYED, {"sts_index": 100}),
    "a repeated block": ("freshness", Reason.REPLAYED, {"block": SETTLED}),
    "an older block": ("freshness", Reason.REPLAYED, {"block": 2}),
    "a negative distance": (
        "plausibility",
        Reason.IMPLAUSIBLE,
        {"anchors": {"a1": {"distance_cm": -31.0}}},
    ),
    "a distance beyond reach": (
        "plausibility",
        Reason.IMPLAUSIBLE,
        {"anchors": {"a1": {"distance_cm": 10_001.0}}},
    ),
    "12 m to 2 m in one block": ("speed", Reason.JUMP, {"distances_cm": shifted(-5.5)}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_this_makes_the_session_suspicious(name):
    _, reason, fields = ATTACKS[name]
    word = after(**fields)
    assert word.level is TrustLevel.SUSPICIOUS
    assert reason in word.reasons


@pytest.mark.parametrize("name", ATTACKS)
def test_with_its_check_switched_off_it_passes(name):
    check, reason, fields = ATTACKS[name]
    word = after(settings={check: False}, **fields)
    assert word.level is not TrustLevel.SUSPICIOUS
    assert reason not in word.reasons


@pytest.mark.parametrize("status", [0x24, 0xE1])
def test_an_anchor_whose_sts_failed_is_not_used(status):
    fields = {"anchors": {"a2": {"status": status}}}
    word = after(**fields)
    assert word.level is TrustLevel.TRUSTED
    assert word.reasons == (Reason.STS_FAILED,)
    assert word.anchors == {0, 1, 3, 4, 5}
    assert 2 in after(settings={"sts_status": False}, **fields).anchors


def test_repeated_sts_failures_are_suspicious():
    made = settled()
    words = [
        made.update(a_round(SETTLED + n, anchors={"a2": {"status": 0x24}})).level
        for n in range(1, 4)
    ]
    assert words == [TrustLevel.TRUSTED, TrustLevel.TRUSTED, TrustLevel.SUSPICIOUS]


def test_rounds_in_which_no_anchor_verifies_are_doubtful_and_no_sign_of_an_attack():
    made = settled()
    nobody = {f"a{n}": {"status": 0x24} for n in range(6)}
    for n in range(1, 30):
        word = made.update(a_round(SETTLED + n, anchors=nobody))
    assert word.level is TrustLevel.DOUBTFUL
    assert made.suspicions == ()
    for n in range(30, 36):
        word = made.update(a_round(SETTLED + n))
    assert word.level is TrustLevel.TRUSTED


def test_failures_that_lie_further_apart_than_the_window_are_not():
    made = settled()
    for n in range(1, 80):
        failed = {"a2": {"status": 0x24}} if n % 15 == 0 else {}
        word = made.update(a_round(SETTLED + n, anchors=failed))
    assert word.level is TrustLevel.TRUSTED


def test_a_slightly_negative_distance_is_noise_and_kept_as_it_is():
    word = after(
        anchors={"a2": {"distance_cm": -30.0, "status": 0x1B}}, settings={"geometry": False}
    )
    assert word.level is TrustLevel.TRUSTED
    assert 2 in word.anchors


@pytest.mark.parametrize("distance_cm", [nan, inf, -inf])
def test_a_distance_that_is_no_number_is_never_used(distance_cm):
    for checks in ({}, {"plausibility": False}):
        word = after(anchors={"a2": {"distance_cm": distance_cm}}, settings=checks)
        assert 2 not in word.anchors


def test_one_shortened_range_contradicts_the_others():
    word = after(distances_cm=shifted(-3.0, 1))
    assert word.anchors == {0, 2, 3, 4, 5}
    assert Reason.INCONSISTENT in word.reasons
    assert 1 in after(distances_cm=shifted(-3.0, 1), settings={"geometry": False}).anchors


def test_one_lengthened_range_contradicts_nobody():
    assert after(distances_cm=shifted(4.0, 1)).anchors == frozenset(range(6))


def test_a_static_sts_is_never_trusted():
    made = gate()
    words = [made.update(a_round(n, static_sts=True)) for n in range(1, 9)]
    assert {each.level for each in words} == {TrustLevel.DOUBTFUL}
    assert all(Reason.STATIC_STS in each.reasons for each in words)
    loose = gate(static_sts=False)
    assert [loose.update(a_round(n, static_sts=True)).level for n in range(1, 9)][-1] == 2


def test_rounds_that_do_not_agree_are_doubtful():
    made, loose = gate(), gate(agreement=False)
    spots = [(4.0, 3.0), (5.5, 4.5), (4.0, 3.0), (5.5, 4.5)]
    levels, unguarded = [], []
    for number, spot in enumerate(spots, 1):
        levels.append(made.update(a_round(number, spot)).level)
        unguarded.append(loose.update(a_round(number, (9.0 - number, 3.0))).level)
    assert levels[1] is TrustLevel.DOUBTFUL
    assert unguarded[0] is TrustLevel.TRUSTED


def test_a_step_nearer_than_anyone_walks_is_doubtful_and_moves_no_position():
    word = after(distances_cm=shifted(-2.0))
    assert word.level is TrustLevel.DOUBTFUL
    assert Reason.JUMP in word.reasons
    assert not word.anchors


def test_walking_at_3_m_per_s_passes():
    made = gate()
    levels = [made.update(a_round(n, (8.0 - 3.0 * BLOCK_S * n, 3.0))).level for n in range(1, 20)]
    assert set(levels[2:]) == {TrustLevel.TRUSTED}


def test_a_round_that_does_not_agree_is_left_out_for_a_moment_and_then_agreement_begins_anew():
    made = settled()
    words = [made.update(a_round(SETTLED + n, distances_cm=shifted(6.0))) for n in range(1, 8)]
    levels = [each.level is TrustLevel.TRUSTED for each in words]
    assert levels == [True, True, True, False, False, True, True]
    assert [bool(each.anchors) for each in words[:4]] == [False, False, False, True]


def test_after_a_round_that_does_not_agree_the_next_genuine_one_counts():
    made = settled()
    assert not made.update(a_round(SETTLED + 1, distances_cm=shifted(6.0))).anchors
    word = made.update(a_round(SETTLED + 2))
    assert word == Trust(level=TrustLevel.TRUSTED, anchors=frozenset(range(6)))


def test_a_refused_round_ends_trust_at_once():
    made = settled()
    made.update(a_round(SETTLED + 1, at_s=SETTLED * BLOCK_S))
    word = made.update(a_round(SETTLED + 2, anchors=lost(0, 1, 2, 3)))
    assert word.level is TrustLevel.DOUBTFUL


def lost(*gone):
    return {f"a{at}": {"status": 0x21, "distance_cm": None} for at in gone}


def test_too_few_anchors_carry_on_for_a_moment_and_then_are_doubtful():
    made = settled()
    words = [made.update(a_round(SETTLED + n, anchors=lost(0, 1, 2, 3))) for n in range(1, 6)]
    assert [each.level is TrustLevel.TRUSTED for each in words] == [True, True, True, False, False]
    assert all(not each.anchors for each in words)


def test_too_few_anchors_from_the_start_are_never_trusted():
    made = gate()
    words = [made.update(a_round(n, anchors=lost(0, 1, 2, 3))) for n in range(1, 9)]
    assert {each.level for each in words} == {TrustLevel.DOUBTFUL}


def test_a_frame_that_came_early_by_the_clocks_costs_its_anchor():
    fields = {"anchors": {"a2": {"clock_ratio_ppb": 1000.0 + 170}}}  # 2 ns over 12 ms
    word = after(**fields)
    assert Reason.CLOCK_RATIO in word.reasons
    assert 2 not in word.anchors
    assert 2 in after(settings={"clock_ratio": False}, **fields).anchors


def odd(number, metres, ppb=170.0):
    """Round ``number`` with a clock ratio off at anchor 2, its range changed by ``metres``."""
    anchors = {"a2": {"clock_ratio_ppb": 1000.0 + ppb}}
    return a_round(number, distances_cm=shifted(metres, 2), anchors=anchors)


def test_an_odd_clock_ratio_does_not_become_the_norm():
    made = settled()
    for n in range(1, 8):
        word = made.update(odd(SETTLED + n, 0.0, 170.0 * n))
    assert 2 not in word.anchors
    assert made.update(a_round(SETTLED + 8)).anchors == frozenset(range(6))


@pytest.mark.parametrize(("metres", "suspicious"), [(-3.0, True), (0.0, False), (1.5, False)])
def test_odd_clock_ratios_are_an_attack_when_they_bring_the_device_closer(metres, suspicious):
    made = settled()
    levels = {made.update(odd(SETTLED + n, metres)).level for n in range(1, 4)}
    assert (TrustLevel.SUSPICIOUS in levels) is suspicious


def test_odd_ranges_that_only_a_run_explains_are_an_attack():
    made = settled()
    for n in range(1, 4):
        word = made.update(odd(SETTLED + n, -3.1 * BLOCK_S * n))
    assert word.level is TrustLevel.SUSPICIOUS


def test_an_odd_clock_ratio_at_the_beginning_costs_its_anchor_a_round_only():
    made = gate()
    made.update(odd(1, 1.5, 700.0))
    assert 2 not in made.update(a_round(2)).anchors
    assert made.update(a_round(3)).anchors == frozenset(range(6))


def test_a_clock_that_drifts_slowly_passes():
    made = gate()
    for n in range(1, 200):
        drift = {f"a{at}": {"clock_ratio_ppb": 1000.0 + 5 * n} for at in range(6)}
        word = made.update(a_round(n, anchors=drift))
    assert word == Trust(level=TrustLevel.TRUSTED, anchors=frozenset(range(6)))


def test_the_block_number_may_wrap():
    made = gate()
    for n in range(1, 7):
        word = made.update(a_round(n, block=(65_532 + n) % 65_536))
    assert word.level is TrustLevel.TRUSTED


def test_two_rounds_in_one_block_are_in_order():
    made = settled()
    at_s = (SETTLED + 1) * BLOCK_S
    assert made.update(a_round(SETTLED + 1)).level is TrustLevel.TRUSTED
    second = a_round(SETTLED + 1, round=1, sts_index=750, at_s=at_s + 0.02)
    assert made.update(second).level is TrustLevel.TRUSTED
    assert made.update(replace(second, sts_index=760)).level is TrustLevel.SUSPICIOUS


def test_time_that_went_back_is_doubtful():
    word = after(at_s=SETTLED * BLOCK_S)
    assert word.level is TrustLevel.DOUBTFUL
    assert Reason.CLOCK_WENT_BACK in word.reasons


def test_an_anchor_that_does_not_exist_or_reports_twice_is_suspicious():
    good = a_round(SETTLED + 1)
    for extra in (replace(good.ranges[0], anchor=6), good.ranges[0]):
        made = settled()
        word = made.update(replace(good, ranges=(*good.ranges, extra)))
        assert word.level is TrustLevel.SUSPICIOUS


def test_suspicion_stays_until_a_standard_transaction_and_an_action():
    made = settled()
    made.update(a_round(SETTLED + 1, session_id=99))
    for n in range(2, 30):
        assert made.update(a_round(SETTLED + n)).level is TrustLevel.SUSPICIOUS
    assert not made.stepped_up(standard=True, user_action=False)
    assert not made.stepped_up(standard=False, user_action=True)
    assert made.trust(40 * BLOCK_S).level is TrustLevel.SUSPICIOUS
    assert made.suspicions == (Reason.WRONG_SESSION,)
    assert made.stepped_up(standard=True, user_action=True)
    assert made.trust(40 * BLOCK_S).level is TrustLevel.DOUBTFUL
    levels = [made.update(a_round(n)).level for n in range(41, 44)]
    assert levels == [TrustLevel.DOUBTFUL, TrustLevel.DOUBTFUL, TrustLevel.TRUSTED]


def test_after_a_step_up_an_old_round_is_still_a_replay():
    made = settled()
    made.update(a_round(SETTLED + 1, session_id=99))
    made.stepped_up(standard=True, user_action=True)
    assert made.update(a_round(SETTLED)).level is TrustLevel.SUSPICIOUS


ANY_CM = st.one_of(st.none(), st.floats(-500, 20_000), st.sampled_from([nan, inf]))


@given(st.lists(st.lists(ANY_CM, min_size=6, max_size=6), max_size=12))
def test_whatever_is_measured_only_plausible_distances_pass_and_suspicion_never_falls(rounds):
    made = gate()
    worst = TrustLevel.TRUSTED
    for number, distances_cm in enumerate(rounds, 1):
        word = made.update(a_round(number, distances_cm=distances_cm))
        assert all(-30 <= distances_cm[at] <= 10_000 for at in word.anchors)
        if worst is TrustLevel.SUSPICIOUS:
            assert word.level is TrustLevel.SUSPICIOUS
        worst = min(worst, word.level)
        if number < 3:
            assert word.level is not TrustLevel.TRUSTED
