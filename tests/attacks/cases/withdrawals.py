"""Withdrawn keys: copies, old lists, clocks, days without a network (cases 6, 15, 16, 19, 20)."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from dkey.errors import StoreError
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.policy import DAY_S, FAST_MAX_AGE_DAYS
from tests.durability.delivery_world import World, opened, parcel_of
from tests.durability.powercut import Outage
from tests.scenario.sharing import carry, receipt_of, refusals, signer_of

from .. import Broken, Edit, case
from .parked import HANDLE, Parked
from .shares import friend_of, opens, phone_of, side_of

CUTS = 60
_MEMORY = Path("/dev/shm")


def deliver(parked: Parked, raw: bytes) -> None:
    """Let the owner's phone carry a list to the vehicle."""
    if parked.tap(HANDLE, carry(parked.owner, owner_list=raw)).flow != "standard":
        raise RuntimeError("the owner's phone did not deliver")


@case(
    6,
    "a Kpersistent that was stolen opens nothing once its key was suspended, also not afterwards",
    source="security 1.3, fast.pv F3",
    broken=[
        Broken(
            module="firmware_mock.admission_book",
            old="                writes.forget_kpersistent(each.credential_id)",
            new="                pass",
            why="a suspended key keeps its Kpersistent for later",
        ),
    ],
)
def stolen_kpersistent(seed: int) -> None:
    with Parked(seed) as parked:
        side, friend = side_of(parked), friend_of(parked)
        deliver(parked, side.list(1, suspended=(side.share_id("friend"),)))
        deliver(parked, side.list(2))
        # The thief has what vehicle and phone kept together: only fast transactions rest on it.
        outcome = parked.tap(HANDLE, friend)
        assert outcome.flow != "fast", "a key that was suspended came back with its Kpersistent"


@case(
    15,
    "a list that was put back into a mailbox takes nothing back",
    source="security 5; requirements C18",
    broken=[
        Broken(
            module="dkey.lifecycle.parcel",
            old="        if claims.epoch == taken.epoch"
            " and claims.number > taken.list_number(issuer):",
            new="        if claims.epoch == taken.epoch:",
            why="a list of any number is taken",
            also=(
                Edit(
                    module="dkey.lifecycle.admission",
                    old="        if taken.number < 1 or "
                    "(former is not None and taken.number <= former.number):",
                    new="        if taken.number < 1:",
                ),
            ),
        ),
    ],
)
def list_put_back(seed: int) -> None:
    with Parked(seed) as parked:
        side, friend = side_of(parked), friend_of(parked)
        old, new = side.list(1), side.list(2, suspended=(side.share_id("friend"),))
        deliver(parked, old)
        deliver(parked, new)
        carrier = carry(phone_of(parked, "carrier"), owner_list=old)
        parked.vehicle.share_desk.take(parcel_of(carrier), carrier.public_key, HANDLE)
        assert not opens(parked, friend), "an older list gave a suspended key back"


@case(
    15,
    "a vehicle whose store was put back whole is told so by the phone that saw it later",
    source="security 4.2",
    broken=[
        Broken(
            module="dkey.lifecycle.parcel",
            old="        return told.epoch < seen.epoch\n    return any(",
            new="        return told.epoch < seen.epoch\n    return False and any(",
            why="what the phone remembers is not compared",
        ),
    ],
)
def store_put_back(seed: int) -> None:
    with Parked(seed) as parked:
        side, friend = side_of(parked), friend_of(parked)
        parked.vehicle.close()
        backup = parked.path.with_name("backup.db")
        shutil.copy(parked.path, backup)
        parked.vehicle = parked.opened()
        deliver(parked, side_of(parked).list(1, revoked=(side.share_id("friend"),)))
        told = receipt_of(parked.owner)
        if opens(parked, friend) or told is None:
            raise RuntimeError("the list was not taken")
        parked.vehicle.close()
        shutil.copy(backup, parked.path)
        parked.vehicle = parked.opened()
        news = side_of(parked).list(2, revoked=(side.share_id("friend"),))
        parked.tap(HANDLE, carry(parked.owner, owner_list=news, seen=told))
        assert refusals(parked.vehicle, "ROLLED_BACK"), "nobody noticed that the store went back"
        assert not opens(parked, friend), "the revocation did not come again"


@case(
    16,
    "a friend of whose withdrawal the vehicle never heard has a bounded time of fast taps",
    source="security 5; EP4301020A1",
    broken=[
        Broken(
            module="firmware_mock.bounded_directory",
            old="if self._may(each.name)",
            new="if each",
            why="a fast transaction has no age",
        ),
        Broken(
            module="firmware_mock.key_list",
            old="        return last_s is not None and self.now_s() - last_s"
            " <= FAST_MAX_AGE_DAYS * DAY_S",
            new="        return last_s is not None",
            why="the age of the last standard transaction is not compared",
        ),
    ],
)
def fast_for_ever(seed: int) -> None:
    with Parked(seed) as parked:
        friend = friend_of(parked)
        if parked.tap(HANDLE, friend).flow != "fast":
            raise RuntimeError("the friend has no fast transaction")
        parked.clock.advance(FAST_MAX_AGE_DAYS * DAY_S + 1)
        assert parked.tap(HANDLE, friend).flow != "fast", "a fast tap after a week alone"


@case(
    16,
    "a phone with a newer list delivers it with the next tap, at the handle too",
    source="security 5: the owner's next contact carries it",
    broken=[
        Broken(
            module="dkey.access.device",
            old="            or self._has_news()\n",
            new="",
            why="a phone with news goes on with fast transactions",
        ),
        Broken(
            module="dkey.access.delivery",
            old="    return header is not None and ((introduces and header.chain)"
            " or header.is_news(receipt))",
            new="    return header is not None and introduces and header.chain",
            why="the vehicle takes delivery from new keys only",
        ),
    ],
)
def news_undelivered(seed: int) -> None:
    with Parked(seed) as parked:
        side, friend = side_of(parked), friend_of(parked)
        parked.tap(HANDLE, parked.owner)
        if parked.tap(HANDLE, parked.owner).flow != "fast":
            raise RuntimeError("the owner has no fast transaction")
        news = side.list(1, revoked=(side.share_id("friend"),))
        parked.tap(HANDLE, carry(parked.owner, owner_list=news))
        assert not opens(parked, friend), "a revoked friend came in after the owner's contact"


@case(
    16,
    "a list in the owner's name that somebody else signed withdraws nobody",
    source="security 5",
    broken=[
        Broken(
            module="dkey.lifecycle.withdrawal",
            old="    signed.verify(signer_key)\n",
            new="",
            why="the signature of a list is not verified",
        ),
    ],
)
def forged_list(seed: int) -> None:
    with Parked(seed) as parked:
        side, friend = side_of(parked), friend_of(parked)
        forged = side.list(1, revoked=(side.share_id("friend"),), signer=signer_of(friend))
        parked.tap(HANDLE, carry(parked.owner, owner_list=forged))
        assert opens(parked, friend), "a forged list withdrew a key"


@case(
    19,
    "a delivery that is cut by a power failure is there whole or not at all, rows and ledger",
    source="security 4.1; powerfail.py",
    broken=[
        Broken(
            module="firmware_mock.admission_book",
            old="                self._project(writes, change.state)\n",
            new='                self._store.file.write("COMMIT")\n'
            '                self._store.file.rows("BEGIN IMMEDIATE")\n'
            "                self._project(writes, change.state)\n",
            why="the ledger is committed before the rows that follow from it",
        ),
    ],
)
def delivery_cut(seed: int) -> None:
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        world = World(folder / "vehicle", seed)
        whole = opened(world.copy(folder / "whole"))
        world.take(whole, world.heir)
        after = world.told(whole)
        whole.close()
        for number in range(CUTS):
            copy, acknowledged = world.copy(folder / f"{number}"), False
            with Outage((seed, number), within=70) as outage, contextlib.suppress(StoreError):
                vehicle = opened(copy, outage.connect)
                world.take(vehicle, world.heir)
                acknowledged = True
            told: object = None
            with contextlib.suppress(StoreError):
                again = opened(copy)
                told = world.told(again)
                again.close()
            assert told in (world.before, after), f"cut {number}: half a delivery"
            assert told == after or not acknowledged, f"cut {number}: an answer was lost"


@case(
    20,
    "an expired key stays out with the clock set back, over a power cut too",
    source="Jepsen clock nemesis",
    broken=[
        Broken(
            module="firmware_mock.trusted_clock",
            old="        return self._time.now_s(self._wall_clock(), self._clock())",
            new="        return int(self._wall_clock())",
            why="the wall clock is believed",
        ),
        Broken(
            module="firmware_mock.trusted_clock",
            old="        share_rows.keep_floor(self._file, self._time.floor_s)",
            new="        pass",
            why="the time is forgotten with the power",
        ),
    ],
)
def clock_set_back(seed: int) -> None:
    with Parked(seed) as parked:
        friend = friend_of(parked, not_after_s=side_of(parked).now_s + 100)
        parked.clock.advance(200)
        if opens(parked, friend):
            raise RuntimeError("the key did not expire")
        parked.wall_s -= 200
        assert not opens(parked, friend), "a clock set back revived an expired key"
        parked.power_cycle()
        assert not opens(parked, friend), "a power cut and a clock set back revived a key"


@case(
    20,
    "an issuer's signature moves the time of a vehicle whose clock stands still",
    source="security 5: last-seen signed time",
    broken=[
        Broken(
            module="firmware_mock.key_list",
            old="        with self.book.change() as change:\n            yield change\n"
            "        self.time.seen(self.book.admissions.time_s)\n",
            new="        with self.book.change() as change:\n            yield change\n",
            why="the time of a signature is not taken over",
        ),
    ],
)
def clock_stands(seed: int) -> None:
    with Parked(seed) as parked:
        side = side_of(parked)
        side.provide()
        friend = friend_of(parked, not_after_s=side.now_s + 100)
        parked.wall_s -= 10
        said = side.list(1, issuer=Issuer.AUTHORITY, issued_s=side.now_s + 500)
        parked.vehicle.share_desk.take_list(said)
        assert not opens(parked, friend), "a key lives longer than what was signed since"


@case(
    20,
    "what the owner signed moves the time of shares, and the next owner's shares begin anew",
    source="security 5: last-seen signed time",
    broken=[
        Broken(
            module="firmware_mock.key_list",
            old="        return max(self.time.now_s(), self.book.admissions.owner_time_s)",
            new="        return self.time.now_s()",
            why="the time that the owner signed is not looked at",
        ),
    ],
)
def owners_time(seed: int) -> None:
    with Parked(seed) as parked:
        side = side_of(parked)
        friend = friend_of(parked, not_after_s=side.now_s + 100)
        parked.wall_s -= 10
        deliver(parked, side.list(1, issued_s=side.now_s + 500))
        assert not opens(parked, friend), "a key lives longer than what its owner signed since"
