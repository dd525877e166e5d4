"""The chip-level STS receiver against the published table, and its properties."""

from functools import cache

import numpy as np
import pytest

from dkey.crypto.secret import Secret
from firmware_mock.uwb_attacks import EARLY_CHANCE, EarlyInjection
from firmware_mock.uwb_receiver import (
    NO_FIX,
    PULSES,
    RECEIVERS,
    Air,
    Result,
    early_chances,
    pulses,
    trial,
)

FRAMES = 300
PUBLISHED_FRAMES = 3000
BENIGN = {  # (dB, blocked): receiver to the share of right first paths
    (-18, False): {"first path > 25 %": 0.996, "normalised": 0.996},
    (-10, True): {
        "first path > 25 %": 0.90,
        "coherence": 0.84,
        "normalised": 0.71,
        "first path > 40 %": 0.54,
        "first path > 50 %": 0.38,
    },
    (-18, True): {"first path > 25 %": 0.42, "coherence": 0.24, "normalised": 0.12},
}


@cache
def tried(snr_db: float = -10, *, blocked: bool = False, attacker_db: float | None = None):
    air = Air(snr_db=snr_db, blocked=blocked, attacker_db=attacker_db)
    return trial(air, FRAMES, np.random.default_rng(20))


def spread(share: float, *, published_frames: int = PUBLISHED_FRAMES) -> float:
    """Four standard deviations of the difference of two measured shares."""
    kept = np.clip(share, 0.003, 0.997)
    return 4 * (kept * (1 - kept) * (1 / FRAMES + 1 / published_frames)) ** 0.5


@pytest.mark.parametrize("power_db", [10, 14, 18, 20, 24, 30])
@pytest.mark.parametrize("receiver", RECEIVERS)
def test_random_pulses_succeed_as_often_as_published(receiver: str, power_db: int) -> None:
    share = EARLY_CHANCE[receiver][power_db]
    # The published trials of the quality test share 30 chip phases among them.
    frames = 30 if receiver == "peak quality" else PUBLISHED_FRAMES
    early = tried(attacker_db=power_db)[receiver].early.mean()
    assert early == pytest.approx(share, abs=spread(share, published_frames=frames))


def test_the_normalised_threshold_is_never_early() -> None:
    for power_db in (10, 14, 18, 20, 24, 30):
        assert not tried(attacker_db=power_db)["normalised"].early.any()


def test_the_normalised_threshold_pays_with_lost_fixes() -> None:
    assert 0.2 < 1 - tried(attacker_db=30)["normalised"].fixed.mean() < 0.4


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_every_receiver_is_right_on_a_free_path(receiver: str) -> None:
    assert tried()[receiver].right.all()


@pytest.mark.parametrize(
    ("snr_db", "blocked", "receiver", "share"),
    [
        (snr_db, blocked, receiver, share)
        for (snr_db, blocked), row in BENIGN.items()
        for receiver, share in row.items()
    ],
)
def test_a_benign_frame_is_right_as_often_as_published(snr_db, blocked, receiver, share) -> None:
    right = tried(snr_db, blocked=blocked)[receiver].right.mean()
    assert right == pytest.approx(share, abs=spread(share))


@pytest.mark.parametrize("offset", [1, -1, 12])
def test_a_frame_with_another_index_gives_no_fix(offset: int) -> None:
    found = trial(Air(), 30, np.random.default_rng(2), expected_offset=offset)
    for result in found.values():
        assert not result.fixed.any()


def test_the_pulses_are_the_sts_of_the_index() -> None:
    key, hashed = Secret(bytes(16)), Secret(bytes(range(16)))
    first, again, other = pulses(key, hashed, np.array([5, 5, 6]))
    assert first.shape == (PULSES,)
    assert set(np.unique(first)) == {-1, 1}
    np.testing.assert_array_equal(first, again)
    assert abs(int((first.astype(int) * other).sum())) < 5 * PULSES**0.5


def test_the_same_seed_gives_the_same_trials() -> None:
    air = Air(attacker_db=20)
    first, again = (trial(air, 20, np.random.default_rng(9)) for _ in range(2))
    for name in RECEIVERS:
        np.testing.assert_array_equal(first[name].first, again[name].first)


def test_early_right_and_fixed_are_told_apart() -> None:
    result = Result(first=np.array([-64, -4, -3, 0, 1, 2, NO_FIX]))
    assert result.early.tolist() == [True, True, False, False, False, False, False]
    assert result.right.tolist() == [False, False, False, True, True, False, False]
    assert result.fixed.tolist() == [True] * 6 + [False]


def test_measured_chances_feed_the_attack_on_events() -> None:
    measured = early_chances([10, 24], 40, np.random.default_rng(1))
    attack = EarlyInjection(power_db=24, receiver="first path > 25 %", chance=measured)
    assert attack.frame_chance > 0.7
    assert EarlyInjection(power_db=24, receiver="normalised", chance=measured).frame_chance == 0
