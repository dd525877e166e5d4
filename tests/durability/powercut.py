"""A disk whose power goes away, under the real store.

SQLite's file calls go through an APSW VFS. What was written to a file stays in a volatile cache
until that file is synced. At the cut, each write that was not synced is kept, lost or torn at a
sector of 512 bytes, by itself: the order in which writes reach the platter is not that in which
they were made. Deletion of a file is durable at once, which SQLite's WAL does not rest on.

:class:`Connection` has the part of :class:`sqlite3.Connection` that a durable file uses, so that
the code under test is the product's own, from ``BEGIN IMMEDIATE`` to the checks at open.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECTOR = 512
_numbers = count()


def torn_at(data: bytes, chance: random.Random) -> bytes:
    """Return the sectors that made it; less than one, as a header, is cut anywhere."""
    step = SECTOR if len(data) > SECTOR else 1
    return data[: chance.randrange(0, len(data) + 1, step)]


@dataclass
class Platter:
    """One file as the disk holds it, and what the cache has besides."""

    synced: bytearray
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Offset and data of a write; size and None of a truncation."""

    def sync(self) -> None:
        for offset, data in self.pending:
            self._apply(offset, data)
        self.pending.clear()

    def after_cut(self, chance: random.Random) -> bytes:
        """Return what is found when the power is back."""
        for offset, data in self.pending:
            fate = chance.choice(("kept", "kept", "lost", "torn"))
            if fate == "lost":
                continue
            torn = fate == "torn" and data is not None
            self._apply(offset, torn_at(data, chance) if torn else data)
        self.pending.clear()
        return bytes(self.synced)

    def _apply(self, offset: int, data: bytes | None) -> None:
        if data is None:
            del self.synced[offset:]
            return
        self.synced.extend(bytes(max(0, offset - len(self.synced))))
        self.synced[offset : offset + len(data)] = data


class Disk(apsw.VFS):
    """A VFS that goes dead at its ``cut_at``-th write, sync, truncation or deletion."""

    def __init__(self, cut_at: int) -> None:
        self.name = f"power-cut-{next(_numbers)}"
        self.left = cut_at
        self.platters: dict[str, Platter] = {}
        super().__init__(self.name, "")

    @property
    def dead(self) -> bool:
        return self.left <= 0

    def tick(self) -> None:
        self.left -= 1
        if self.dead:
            raise apsw.IOError("the power is cut")

    def xOpen(self, name: Any, flags: list[int]) -> File:
        return File(self, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        self.tick()
        super().xDelete(name, syncdir)
        self.platters.pop(name, None)

    def power_back(self, chance: random.Random) -> None:
        """Put what the disk kept in the place of the files."""
        for name, platter in self.platters.items():
            Path(name).write_bytes(platter.after_cut(chance))
        self.unregister()


class File(apsw.VFSFile):
    """A file on a :class:`Disk`."""

    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        path = name.filename() if hasattr(name, "filename") else str(name)
        if path not in disk.platters:
            disk.platters[path] = Platter(bytearray(Path(path).read_bytes()))
        self._disk, self._platter = disk, disk.platters[path]

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.tick()
        super().xWrite(data, offset)
        self._platter.pending.append((offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        self._disk.tick()
        super().xTruncate(size)
        self._platter.pending.append((size, None))

    def xSync(self, flags: int) -> None:
        self._disk.tick()
        super().xSync(flags)
        self._platter.sync()


class Rows:
    """What a statement found."""

    def __init__(self, rows: list[tuple[Any, ...]], changed: int = 0) -> None:
        self._rows = iter(rows)
        self.rowcount = changed

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)


class Connection:
    """The part of :class:`sqlite3.Connection` that a durable file uses, on a :class:`Disk`.

    Args:
        path: An existing database.
        disk: Where it lies.
        synchronous: Taken in place of every ``PRAGMA synchronous = FULL``, while FULL is told:
            another value is a broken build.
    """

    def __init__(self, path: Path, disk: Disk, *, synchronous: str = "FULL") -> None:
        self._synchronous = synchronous
        self._db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=disk.name)
        # Shared memory is no part of an APSW file: WAL works without it when nobody else may come.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA wal_autocheckpoint = 16")  # checkpoints are cut too

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        if self._synchronous != "FULL":
            if sql == "PRAGMA synchronous":
                return Rows([(2,)])
            sql = sql.replace("synchronous = FULL", f"synchronous = {self._synchronous}")
        try:
            before = self._db.total_changes()
            rows = self._db.execute(sql, tuple(values)).fetchall()
            return Rows(rows, self._db.total_changes() - before)
        except apsw.Error as exc:
            raise sqlite3.OperationalError(str(exc)) from exc

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def create_function(self, name: str, count: int, function: Any, *, deterministic: bool) -> None:
        self._db.create_scalar_function(name, function, count, deterministic=deterministic)

    def close(self) -> None:
        with contextlib.suppress(apsw.Error):
            self._db.close()


class Outage:
    """One life of a store on a disk until its power is cut; the block is what happens in it.

    The power is cut at one of the first ``within`` writes and syncs, at the latest when the
    block ends, without a chance to close. Then the files are what the disk kept.
    """

    def __init__(self, seed: object, *, within: int = 200, synchronous: str = "FULL") -> None:
        self.chance = random.Random(repr(seed))
        self.disk = Disk(self.chance.randrange(1, within))
        self._synchronous = synchronous
        self._open: list[Connection] = []

    def connect(self, path: Path) -> Any:
        connection = Connection(path, self.disk, synchronous=self._synchronous)
        self._open.append(connection)
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.disk.left = 0  # nothing reaches the disk any more, not even a close
        for connection in self._open:
            connection.close()
        self.disk.power_back(self.chance)
