"""A side with nothing but the ledger's tables."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Self

from dkey.crypto.secret import Secret
from dkey.lifecycle.durable import DurableFile, Layout, connect
from dkey.lifecycle.ledger import Ledger
from dkey.lifecycle.ledger_schema import (
    LEDGER_COLUMNS,
    LEDGER_GAPS,
    LEDGER_SCHEMA,
    PEER_COLUMNS,
    PEER_SCHEMA,
    SLOT_COLUMNS,
    SLOT_SCHEMA,
    check_ledger,
    next_running,
)
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from pathlib import Path

KEY = Secret(b"the key that seals the ledger...")
LAYOUT = Layout(
    what="a side's store",
    application_id=0x646B_7473,
    migrations=((*LEDGER_SCHEMA, *SLOT_SCHEMA, *PEER_SCHEMA),),
    columns={**LEDGER_COLUMNS, **SLOT_COLUMNS, **PEER_COLUMNS},
    gaps=(LEDGER_GAPS,),
    restore="restore a backup",
    checks=(check_ledger,),
)


class Side:
    """An open file with its ledger; leaving the block closes it."""

    def __init__(self, path: Path, *, seed: object = 1, key: Secret = KEY, connect=connect):
        self.path = path
        self.file = DurableFile.open(path, LAYOUT, connect=connect)
        try:
            self.ledger = Ledger(self.file, key, SeededEntropy(seed))
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def append(self, *bodies: bytes, kind: str = "share") -> None:
        with self.file.transaction():
            for body in bodies:
                self.ledger.append(kind, body)

    def bodies(self) -> list[bytes]:
        return [entry.body for entry in self.ledger.entries()]


def make(path: Path, *, seed: object = 1) -> Path:
    """Make the file of a new side, with the ledger's id in it, closed."""
    DurableFile.create(path, LAYOUT, lambda _: None)
    with Side(path, seed=seed):
        return path


def copy(source: Path, target: Path) -> Path:
    shutil.copy(source, target)
    return target


def tamper(path: Path, *statements: str, rechain: bool = False) -> None:
    """Change entries behind the back of the ledger; ``rechain`` mends the running digests too."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        triggers = triggers.fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
        if rechain:
            running = bytes(32)
            rows = db.execute("SELECT seq, kind, sealed FROM ledger_entry ORDER BY seq").fetchall()
            for seq, kind, sealed in rows:
                running = next_running(running, kind, sealed)
                db.execute("UPDATE ledger_entry SET running = ? WHERE seq = ?", (running, seq))
        for _, sql in triggers:
            db.execute(sql)
