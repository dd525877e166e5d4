"""Power cuts under the ledger: nothing acknowledged is lost, nothing is half there."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from dkey.errors import StoreError
from dkey.lifecycle.durable import DurableFile
from dkey.lifecycle.slots import free_slot, slots, take_slot
from firmware_mock.store_schema import LAYOUT as VEHICLE

from .powercut import Outage
from .side import Side, copy

OLD = Path(__file__).parent.parent / "fixtures" / "stores" / "vehicle_v2.db"
BLOCKS, CUTS = 10, 300


def clear(path):
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


@dataclass
class Outcome:
    """What a cut left: commits that were acknowledged, and commits that are there."""

    acknowledged: int
    found: int


def live(outage, path, states, acknowledged):
    """Append until the power is gone; ``states`` gains what each commit would leave."""
    chance = outage.chance
    entries, taken = [], {}
    with contextlib.suppress(StoreError, sqlite3.Error):
        side = Side(path, seed=chance.random(), connect=outage.connect)
        acknowledged.append(0)
        while True:
            share = len(entries).to_bytes(4, "big")
            new = [chance.randbytes(chance.randrange(1500)) for _ in range(chance.randrange(1, 4))]
            with contextlib.ExitStack() as stack:
                stack.enter_context(side.file.transaction())
                for body in new:
                    side.ledger.append("share", body)
                entries = entries + new
                if len(taken) == 3:
                    gone = chance.choice(sorted(taken))
                    free_slot(side.file, taken[gone])
                    taken = {slot: each for slot, each in taken.items() if slot != gone}
                taken = {**taken, take_slot(side.file, share): share}
                if chance.random() < 0.3:
                    side.ledger.snapshot(b"state %d" % len(entries))
                states.append((entries, taken))
            acknowledged[0] = len(states) - 1
    assert outage.disk.dead, "nothing but the cut ends a life"


def outcome(template, path, seed, **how):
    """Play one cut; an AssertionError or StoreError means that the store is damaged by it."""
    copy(template, path)
    states, acknowledged = [([], {})], []
    with Outage(seed, **how) as outage:
        live(outage, path, states, acknowledged)
    with Side(path) as side:
        side.ledger.verify()
        state, after = side.ledger.restored()
        found = side.bodies(), dict(slots(side.file))
    assert found in states, "a commit is there in part"
    assert state is None or state == b"state %d" % (len(found[0]) - len(after))
    clear(path)
    return Outcome(acknowledged=max(acknowledged, default=0), found=states.index(found))


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_acknowledged_commit_is_lost_and_none_is_there_in_part(memory, template, block):
    commits = 0
    for number in range(block * CUTS, (block + 1) * CUTS):
        left = outcome(template, memory / f"{block}.db", number)
        assert left.acknowledged <= left.found <= left.acknowledged + 1, f"seed {number}"
        commits += left.acknowledged
    assert commits > CUTS, "the cuts come late enough to try something"


def test_a_build_that_does_not_sync_each_commit_loses_some(memory, template):
    """The control: the disk does forget, so the test above could have failed."""
    left = [outcome(template, memory / "n.db", seed, synchronous="NORMAL") for seed in range(100)]
    assert sum(each.found < each.acknowledged for each in left) >= 10


def test_a_migration_that_is_cut_is_done_whole_or_not_at_all(memory):
    path = memory / "old.db"
    versions = set()
    for seed in range(200):
        copy(OLD, path)
        path.chmod(0o600)
        with Outage(seed, within=60) as outage, contextlib.suppress(StoreError):
            DurableFile.open(path, VEHICLE, connect=outage.connect)
        with closing(sqlite3.connect(path)) as db:
            versions.add(db.execute("PRAGMA user_version").fetchone()[0])
            assert db.execute("SELECT count(*) FROM event").fetchone() == (40,)
        DurableFile.open(path, VEHICLE).close()  # checks that the schema is that of its version
        clear(path)
    assert versions == {2, 4}
