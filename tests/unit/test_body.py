"""The mock body shows what was set and moves what it is told to."""

from __future__ import annotations

from dataclasses import fields

import pytest

from dkey.control.rules import Signals
from dkey.errors import LocalFault
from firmware_mock.body import Body

NAMES = [item.name for item in fields(Signals)]


def test_a_new_body_is_parked_and_locked_and_knows_every_signal():
    signals = Body().signals()
    assert signals.locked is True
    assert signals.ignition_on is False
    assert signals.driving is False
    assert None not in [getattr(signals, name) for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_each_signal_shows_what_was_set(name):
    body = Body()
    value = 12.5 if name == "speed_kmh" else not getattr(body, name)
    setattr(body, name, value)
    assert getattr(body.signals(), name) == value


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_signal_is_unknown_until_repaired_and_alone(name):
    body = Body()
    body.fail(name)
    assert [other for other in NAMES if getattr(body.signals(), other) is None] == [name]
    body.repair()
    assert body.signals() == Body().signals()


def test_the_actuators_work_behind_a_failed_signal():
    body = Body()
    body.fail("locked")
    body.unlock()
    assert body.signals().locked is None
    body.repair()
    assert body.signals().locked is False


def test_a_misspelt_signal_is_refused_and_fails_nothing():
    body = Body()
    with pytest.raises(LocalFault, match="lokced"):
        body.fail("valet", "lokced")
    assert body.signals().valet is False


def test_lock_and_unlock_move_the_lock_alone():
    body = Body()
    before = body.signals()
    body.unlock()
    assert body.signals().locked is False
    body.lock()
    assert body.signals() == before


def test_start_and_stop_switch_the_ignition_alone():
    body = Body()
    before = body.signals()
    body.start()
    assert body.signals().ignition_on is True
    body.stop()
    assert body.signals() == before


def test_signals_taken_earlier_do_not_change_with_the_body():
    body = Body()
    earlier = body.signals()
    body.unlock()
    assert earlier.locked is True
