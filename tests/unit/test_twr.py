"""Two-way ranging from raw timestamps: scalar, batch, wrap-around, clocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.ranging.twr import RCTU_S, SPEED_OF_LIGHT_M_S, TwrStamps, clock_ratios_ppb, distances_m

NAMES = ("poll_tx", "poll_rx", "response_tx", "response_rx", "final_tx", "final_rx")
PPM = st.floats(-20, 20)
METRES = st.floats(0, 100)
START = st.integers(0, 2**32 - 1)


def stamps(metres, device_ppm=0.0, anchor_ppm=0.0, *, start=(0, 0), slot_s=2e-3, slots=6):
    """The six timestamps of one noiseless round, each clock from its own start."""
    flight = metres / SPEED_OF_LIGHT_M_S
    at = {
        "poll_tx": 0.0,
        "poll_rx": flight,
        "response_tx": flight + slot_s,
        "response_rx": 2 * flight + slot_s,
        "final_tx": slots * slot_s,
        "final_rx": slots * slot_s + flight,
    }
    ours = dict.fromkeys(("poll_tx", "response_rx", "final_tx"), (device_ppm, start[0]))
    rates = ours | dict.fromkeys(("poll_rx", "response_tx", "final_rx"), (anchor_ppm, start[1]))
    return TwrStamps(
        **{
            name: (round(when * (1 + rates[name][0] * 1e-6) / RCTU_S) + rates[name][1]) % 2**32
            for name, when in at.items()
        }
    )


def column(round_):
    return np.array([getattr(round_, name) for name in NAMES], dtype=np.uint32)[:, None]


@given(METRES, PPM, PPM, START, START)
def test_the_distance_is_right_whatever_the_clocks_and_wherever_they_wrap(m, a, b, one, other):
    round_ = stamps(m, a, b, start=(one, other))
    assert round_.distance_m == pytest.approx(m, abs=0.012)


@given(METRES, PPM, PPM, START, START)
def test_the_batch_gives_what_the_scalar_gives(m, a, b, one, other):
    round_ = stamps(m, a, b, start=(one, other))
    assert distances_m(column(round_))[0] == pytest.approx(round_.distance_m, abs=1e-6)
    assert clock_ratios_ppb(column(round_))[0] == pytest.approx(round_.clock_ratio_ppb, abs=1e-6)


@given(PPM, PPM, START)
def test_the_clock_ratio_is_that_of_the_clocks(a, b, start):
    ratio = stamps(10.0, a, b, start=(start, start)).clock_ratio_ppb
    assert ratio == pytest.approx((a - b) * 1000, abs=5)


def test_the_clock_ratio_shows_an_advance_of_one_frame():
    ticks = round(2e-9 / RCTU_S)
    honest = stamps(10.0)
    forged = TwrStamps(
        **{name: getattr(honest, name) - ticks * (name == "final_rx") for name in NAMES}
    )
    assert abs(forged.clock_ratio_ppb - honest.clock_ratio_ppb) > 90


def test_a_negative_distance_stays_negative():
    late = stamps(0.0)
    early = TwrStamps(
        **{name: (getattr(late, name) - 500 * (name == "response_rx")) % 2**32 for name in NAMES}
    )
    assert early.distance_m < -0.5
    assert distances_m(column(early))[0] < -0.5


def test_a_round_without_any_span_has_no_clock_ratio_and_no_distance():
    empty = TwrStamps(**dict.fromkeys(NAMES, 5))
    assert empty.clock_ratio_ppb is None
    assert empty.distance_m == 0.0
    assert np.isnan(clock_ratios_ppb(column(empty))[0])
    assert distances_m(column(empty))[0] == 0.0


def test_two_clocks_20_ppm_off_cost_less_than_a_millimetre_at_20_m():
    """The symmetric formula would be off by metres at this reply time."""
    fine = stamps(20.0, 20.0, 20.0).distance_m
    assert fine == pytest.approx(20.0, abs=0.006)
