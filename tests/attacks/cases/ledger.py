"""What a side remembers: old rows put back, and power cut in a cascade (cases 15, 19)."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from dkey.errors import PolicyRefusal, StoreError
from dkey.lifecycle.slots import PeerSeen, free_slot, remember_peer, slots, take_slot
from tests.durability.powercut import Outage
from tests.durability.side import Side, copy, make, tamper

from .. import Broken, Edit, case

SECURITY = "security 4.2"
CUTS = 40
CASCADE = (b"revoke 1", b"revoke 2", b"revoke 3")
_MEMORY = Path("/dev/shm")

UNBOUND = Broken(
    module="dkey.lifecycle.ledger",
    old='return b"".join((what, self._id, seq.to_bytes(8, "big"), head.digest, kind.encode()))',
    new='return b""',
    why="a seal is bound to no place",
)
ONLY_NUMBERED = Broken(
    module="dkey.lifecycle.ledger",
    old='seq.to_bytes(8, "big"), head.digest, kind',
    new='seq.to_bytes(8, "big"), kind',
    why="a seal is bound to its number, and not to what came before",
)


def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)


def opens(path: Path) -> bool:
    try:
        with Side(path) as side:
            side.ledger.verify()
    except StoreError:
        return False
    return True


@case(
    15,
    "two entries of the ledger that change places do not open, even with the chain mended",
    source=SECURITY,
    broken=[UNBOUND],
)
def entries_swapped(seed: int) -> None:
    with folder() as name:
        path = make(Path(name) / "side.db", seed=seed)
        with Side(path, seed=seed) as side:
            side.append(b"share 1", b"share 2", b"share 3")
        tamper(
            path,
            "UPDATE ledger_entry SET sealed = (SELECT o.sealed FROM ledger_entry o"
            " WHERE o.seq = 4 - ledger_entry.seq) WHERE seq IN (1, 3)",
            rechain=True,
        )
        assert not opens(path), "a swapped entry was taken"


@case(
    15,
    "an entry of an older state of the same ledger does not open in its place",
    source=SECURITY,
    broken=[UNBOUND, ONLY_NUMBERED],
)
def stale_entry(seed: int) -> None:
    with folder() as name:
        path = make(Path(name) / "side.db", seed=seed)
        with Side(path, seed=(seed, 1)) as side:
            side.append(b"share 1")
        backup = copy(path, Path(name) / "backup.db")
        with Side(backup, seed=(seed, 2)) as side:
            side.append(b"share 2", b"resume 1")
            ((stale,),) = side.file.rows("SELECT sealed FROM ledger_entry WHERE seq = 3")
        with Side(path, seed=(seed, 3)) as side:
            side.append(b"suspend 1", b"revoke 1")
        statement = f"UPDATE ledger_entry SET sealed = x'{stale.hex()}' WHERE seq = 3"
        tamper(path, statement, rechain=True)
        assert not opens(path), "an entry of another history was taken"


@case(
    15,
    "a side put back whole from a backup is told by the peer that saw it later",
    source=SECURITY,
    broken=[
        Broken(
            module="dkey.lifecycle.slots",
            old="if known is not None and seen < known:",
            new="if False:",
            why="what a peer was last seen at may go back",
        )
    ],
)
def whole_file_put_back(seed: int) -> None:
    with folder() as name:
        path = make(Path(name) / "phone.db", seed=seed)
        backup = copy(path, Path(name) / "backup.db")
        with Side(make(Path(name) / "vehicle.db", seed=seed + 1)) as vehicle:
            for file in (path, backup):
                with Side(file, seed=(seed, file.name)) as phone:
                    if file == path:
                        phone.append(b"share 1", b"revoke 1")
                    at = PeerSeen(epoch=1, number=phone.ledger.head.seq)
                try:
                    with vehicle.file.transaction():
                        remember_peer(vehicle.file, b"phone", at)
                except PolicyRefusal:
                    assert file == backup
                    return
    raise AssertionError("the peer did not notice")


@case(
    19,
    "a cascade cut by a power failure is done whole or not at all, and stays once acknowledged",
    source="security 4.1",
    broken=[
        Broken(
            module="dkey.lifecycle.durable",
            old="        return self._writable().execute(sql, values).rowcount\n",
            new="        db = self._writable()\n        count = db.execute(sql, values).rowcount\n"
            '        db.execute("COMMIT")\n        db.execute("BEGIN IMMEDIATE")\n'
            "        return count\n",
            why="each entry of a cascade is a commit of its own",
        ),
        Broken(
            module="dkey.lifecycle.durable",
            old='db.execute("PRAGMA synchronous = FULL")',
            new='db.execute("PRAGMA synchronous = NORMAL")',
            why="a commit is acknowledged before it is on the disk",
            also=(
                Edit(
                    module="dkey.lifecycle.durable",
                    old='"synchronous": 2,',
                    new='"synchronous": 1,',
                ),
            ),
        ),
    ],
)
def cascade_cut(seed: int) -> None:
    shares = {1: b"share 1", 2: b"share 2", 3: b"share 3"}
    with folder() as name:
        template = make(Path(name) / "template.db", seed=seed)
        with Side(template, seed=seed) as side, side.file.transaction():
            for slot, share in shares.items():
                take_slot(side.file, share, slot)
                side.ledger.append("share", share)
        for number in range(CUTS):
            path = copy(template, Path(name) / f"{number}.db")
            acknowledged = False
            with Outage((seed, number), within=45) as outage, contextlib.suppress(StoreError):
                side = Side(path, seed=(seed, number), connect=outage.connect)
                with side.file.transaction():
                    for share, entry in zip(shares.values(), CASCADE, strict=True):
                        side.ledger.append("revoke", entry)
                        free_slot(side.file, share)
                acknowledged = True
            with Side(path) as side:
                entries, left = side.bodies(), dict(slots(side.file))
            done = (entries[3:], left) == ([*CASCADE], {})
            untouched = (entries[3:], left) == ([], shares)
            assert done or untouched, f"cut {number}: {entries} beside {left}"
            assert done or not acknowledged, f"cut {number}: an acknowledged cascade is gone"
