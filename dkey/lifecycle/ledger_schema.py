"""The ledger's tables, for the migrations of a store, and the check of its chain at open.

``running`` of an entry is SHA-256 over ``running`` of the one before (32 zero bytes before the
first), the length of kind (4 bytes, big-endian), kind in UTF-8, and ``sealed``. It has no key:
alone it guards against accident. The seals, bound to it, guard against more
(:mod:`dkey.lifecycle.ledger`).
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "BEFORE_FIRST",
    "LEDGER_COLUMNS",
    "LEDGER_GAPS",
    "LEDGER_SCHEMA",
    "PEER_COLUMNS",
    "PEER_SCHEMA",
    "SLOT_COLUMNS",
    "SLOT_SCHEMA",
    "check_ledger",
    "next_running",
]

LEDGER_SCHEMA: Final = (
    """CREATE TABLE ledger (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        id BLOB NOT NULL CHECK (length(id) = 16),
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE ledger_entry (
        seq INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        sealed BLOB NOT NULL,
        running BLOB NOT NULL) STRICT""",
    """CREATE TRIGGER ledger_entry_no_update BEFORE UPDATE ON ledger_entry
        BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_entry_no_delete BEFORE DELETE ON ledger_entry
        BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END""",
    """CREATE TABLE ledger_snapshot (
        seq INTEGER PRIMARY KEY,
        sealed BLOB NOT NULL,
        digest BLOB NOT NULL) STRICT""",
)
"""Statements of the migration that brings the ledger into a store. Released: final."""
LEDGER_COLUMNS: Final = {"ledger": ("one", "id"), "ledger_snapshot": ("seq", "sealed")}
"""The tables under row digests; entries have :func:`check_ledger`."""
LEDGER_GAPS: Final = (
    "SELECT (EXISTS (SELECT 1 FROM ledger_entry) OR EXISTS (SELECT 1 FROM ledger_snapshot))"
    " AND NOT EXISTS (SELECT 1 FROM ledger)"
)
"""Not 0 where a ledger lost its identity."""

SLOT_SCHEMA: Final = (
    """CREATE TABLE share_slot (
        slot INTEGER PRIMARY KEY CHECK (slot BETWEEN 1 AND 3),
        share_id BLOB NOT NULL UNIQUE,
        digest BLOB NOT NULL) STRICT""",
)
"""One row for each share that is granted; 3 is MAX_SHARES at the time of the migration."""
SLOT_COLUMNS: Final = {"share_slot": ("slot", "share_id")}

PEER_SCHEMA: Final = (
    """CREATE TABLE peer_seen (
        peer BLOB PRIMARY KEY NOT NULL,
        epoch INTEGER NOT NULL CHECK (epoch >= 0),
        number INTEGER NOT NULL CHECK (number >= 0),
        digest BLOB NOT NULL) STRICT""",
)
"""How far each peer was when it was last seen."""
PEER_COLUMNS: Final = {"peer_seen": ("peer", "epoch", "number")}

BEFORE_FIRST: Final = bytes(32)
"""What stands for ``running`` before the first entry."""


class _Names(dict[str, bytes]):
    """Kind to its bytes in the chain; there are few kinds and many entries."""

    def __missing__(self, kind: str) -> bytes:
        self[kind] = _named(kind)
        return self[kind]


def _named(kind: str) -> bytes:
    name = kind.encode()
    return len(name).to_bytes(4, "big") + name


def next_running(running: bytes, kind: str, sealed: bytes) -> bytes:
    """Return the running digest after one more entry."""
    return sha256(b"".join((running, _named(kind), sealed))).digest()


def check_ledger(db: sqlite3.Connection) -> str | None:
    """Return what is wrong with the chain, naming the first bad entry; None where nothing is.

    Finds a changed, swapped or moved entry and one missing before the last. Not the loss of the
    last ones, unless a snapshot is of a later entry: a peer that saw them can tell
    (:func:`dkey.lifecycle.slots.remember_peer`). Reads every entry, opens none.
    """
    known = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "ledger_entry" not in known:
        return None  # a later migration makes it
    names, running, expected = _Names(), BEFORE_FIRST, 0
    rows = db.execute("SELECT seq, kind, sealed, running FROM ledger_entry ORDER BY seq")
    for seq, kind, sealed, kept in rows:
        expected += 1
        if seq != expected:
            return f"entry {expected} of the ledger is missing"
        # As next_running, without the call: a store opens with 100,000 entries in it.
        running = sha256(b"".join((running, names[kind], sealed))).digest()
        if running != kept:
            return f"entry {seq} of the ledger changed"
    (of_entry,) = db.execute("SELECT coalesce(max(seq), 0) FROM ledger_snapshot").fetchone()
    if of_entry > expected:
        return f"entry {expected + 1} of the ledger is missing: a snapshot is of entry {of_entry}"
    return None
