"""The file under the vehicle's store: its checks at open, its migration, its durability.

Every fault is a StoreError that says what to do with the file.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from dkey.errors import StoreError
from firmware_mock.store_schema import APPLICATION_ID, COLUMNS, digest, know_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "RESTORE",
    "check_content",
    "check_file",
    "check_schema",
    "check_version",
    "connect",
    "make_durable",
    "migrate",
    "roll_back",
    "sync",
]

BUSY_TIMEOUT_S: Final = 5.0
"""How long a write waits for another process's transaction."""
_MAGIC: Final = b"SQLite format 3\0"
RESTORE: Final = (
    "keep the file for analysis, restore a backup, or pair all keys again in a new store"
)
"""What to do with a damaged store."""


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing database; transactions begin and end by statement only."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_S,
    )
    know_digest(db)
    return db


def sync(path: Path) -> None:
    """Bring a file, or the entries of a directory, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def roll_back(db: sqlite3.Connection) -> None:
    """Undo the open transaction, if there is one."""
    with suppress(sqlite3.Error):  # the file is gone or closed: nothing was committed either
        if db.in_transaction:
            db.execute("ROLLBACK")


def check_file(path: Path) -> None:
    """Refuse what is not a private SQLite file, before SQLite touches it."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError as exc:
        raise StoreError(f"there is no store at {path}", hint="create one first") from exc
    except OSError as exc:
        raise StoreError(
            f"{path} cannot be read: {exc}", hint="check the path and its mode"
        ) from exc
    if head != _MAGIC:
        raise StoreError(f"{path} is damaged or is no store of a vehicle", hint=RESTORE)
    if os.name == "posix" and mode & 0o077:
        raise StoreError(f"{path} is open to other users", hint=f"chmod 600 {path}")


def check_version(db: sqlite3.Connection, path: Path, newest: int) -> int:
    """Return the schema version of a file of ours."""
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID:
        raise StoreError(
            f"{path} is a database of another program, or damaged", hint="choose another path"
        )
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > newest:
        raise StoreError(
            f"{path} has schema version {version}, this program knows up to {newest}",
            hint="use the newer program that wrote it",
        )
    if version < 1:
        raise StoreError(f"{path} has no schema version", hint=RESTORE)
    return version


def check_schema(db: sqlite3.Connection, path: Path, history: Sequence[Sequence[str]]) -> None:
    """Refuse a schema that is not exactly what the migrations of its version make."""
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        know_digest(model)
        for statements in history:
            for statement in statements:
                model.execute(statement)
        expected = model.execute(query).fetchall()
    if db.execute(query).fetchall() != expected:
        raise StoreError(f"{path} is damaged: its schema was altered", hint=RESTORE)


def check_content(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a damaged structure, a row whose digest fails, and a set of rows with gaps."""
    found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreError(f"{path} is damaged: {found}", hint=RESTORE)
    if db.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise StoreError(f"{path} is damaged: a row refers to a missing one", hint=RESTORE)
    known = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    for table, columns in COLUMNS.items():
        if table not in known:  # an older schema, which was found whole
            continue
        for *row, found_digest in db.execute(f"SELECT {', '.join(columns)}, digest FROM {table}"):  # noqa: S608 - constant names
            if digest(table, row) != found_digest:
                raise StoreError(f"{path} is damaged: a row of {table} changed", hint=RESTORE)
    vehicles, gaps, strays = db.execute(
        "SELECT (SELECT count(*) FROM vehicle),"
        " (SELECT coalesce(max(seq), 0) - count(*) FROM event),"
        " (SELECT count(*) FROM credential c LEFT JOIN card_slot s ON s.credential_id = c.id"
        "  WHERE (c.role = 'CARD' AND c.state IN ('ACTIVE', 'SUSPENDED')) <> (s.slot NOT NULL))"
    ).fetchone()
    owned = (
        db.execute("SELECT count(*) FROM ownership").fetchone()[0] if "ownership" in known else 1
    )
    if (vehicles, gaps, strays, owned) != (1, 0, 0, 1):
        raise StoreError(f"{path} is damaged: rows are missing", hint=RESTORE)


def migrate(db: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> None:
    """Run the missing migrations as one commit, or none of them."""
    try:
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        for statements in migrations[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(migrations)}")
        db.execute("COMMIT")
    except sqlite3.Error as exc:
        roll_back(db)
        raise StoreError(
            f"{path} could not be brought to schema version {len(migrations)}: {exc}",
            hint="free the disk and try again, or use the older program",
        ) from exc


def make_durable(db: sqlite3.Connection, path: Path) -> None:
    """Set what durability rests on, and refuse a place where it does not hold."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    if sys.platform == "darwin":
        db.execute("PRAGMA fullfsync = ON")
        db.execute("PRAGMA checkpoint_fullfsync = ON")
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    for name, value in wanted.items():
        found = db.execute(f"PRAGMA {name}").fetchone()[0]
        if found != value:
            raise StoreError(
                f"{path} cannot keep commits: {name} is {found}, not {value}",
                hint="keep the store on a local disk, with a current SQLite",
            )
