"""Power is cut while a vehicle takes a delivery: all of it is there afterwards, or nothing."""

from __future__ import annotations

import contextlib

import pytest

from dkey.errors import StoreError
from dkey.lifecycle.durable import DurableFile

from .delivery_world import World, opened
from .powercut import Outage

CUTS = 80


class Cut(BaseException):
    """The process ends here, as by a kill."""


@pytest.fixture(scope="module")
def world(memory):
    return World(memory / "vehicle")


def test_a_delivery_that_is_cut_is_there_whole_or_not_at_all(world, memory):
    whole = opened(world.copy(memory / "whole"))
    world.take(whole, world.heir)
    after, users = world.told(whole), world.usable(whole)
    whole.close()
    assert users == {"owner", "share 1"}
    found = {"before": 0, "after": 0}
    for number in range(CUTS):
        folder, acknowledged = world.copy(memory / f"cut {number}"), False
        with Outage(("share", number), within=90) as outage, contextlib.suppress(StoreError):
            vehicle = opened(folder, outage.connect)
            world.take(vehicle, world.heir)
            acknowledged = True
        again = opened(folder)  # compares the ledger with the tables itself
        told = world.told(again)
        again.close()
        expected = {"before": world.before, "after": after}
        state = next((name for name, value in expected.items() if told == value), None)
        assert state is not None, f"cut {number}: {told}"
        assert state == "after" or not acknowledged
        found[state] += 1
    assert min(found.values()) > 5, found


WRITES = ("put", "update", "write", "delete")


@pytest.mark.parametrize("number", range(1, 40))
def test_a_vehicle_that_is_killed_between_any_two_writes_has_nothing_half(
    world, memory, number, monkeypatch
):
    folder = world.copy(memory / f"kill {number}")
    vehicle = opened(folder)
    made = 0

    def counting(original):
        def write(self, *args, **options):
            nonlocal made
            made += 1
            if made == number:
                raise Cut
            return original(self, *args, **options)

        return write

    with monkeypatch.context() as patch, contextlib.suppress(Cut):
        for name in WRITES:
            patch.setattr(DurableFile, name, counting(getattr(DurableFile, name)))
        world.take(vehicle, world.heir)
    ended_whole = made < number
    vehicle.close()
    again = opened(folder)
    users, told = world.usable(again), world.told(again)
    again.close()
    if ended_whole:
        assert users == {"owner", "share 1"}
    else:
        assert told == world.before
