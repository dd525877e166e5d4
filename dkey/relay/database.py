"""The tables of the relay, and how its database is opened so that it keeps what it commits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dkey.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Connection, Engine

__all__ = ["MAILBOXES", "REQUESTS", "SCHEMA", "erase_log", "open_database", "sqlite_url"]

_VERSION: Final = 1
_BUSY_S: Final = 5
_LOCK: Final = 0x646B6579
"""Held in PostgreSQL while tables are made: "dkey" in ASCII."""

_METADATA: Final = MetaData()
SCHEMA: Final = Table("relay_schema", _METADATA, Column("version", Integer, nullable=False))
MAILBOXES: Final = Table(
    "relay_mailboxes",
    _METADATA,
    Column("id", String(36), primary_key=True),
    Column("algorithm", String(32), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("rights", String(3), nullable=False),
    Column("display", Text),
    Column("expires_s", BigInteger, nullable=False, index=True),
    Column("sender", LargeBinary(32), nullable=False),
    Column("receiver", LargeBinary(32)),
    Column("answered", Boolean, nullable=False),
)
REQUESTS: Final = Table(
    "relay_requests",
    _METADATA,
    Column("device", LargeBinary(32), primary_key=True),
    Column("request_id", String(36), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("mailbox_id", String(36), nullable=False),
    Column("expires_s", Float, nullable=False, index=True),
)


def sqlite_url(folder: Path) -> str:
    """Make the folder, mode 0700, and the file in it, mode 0600; return the database's URL.

    Raises:
        StoreError: The place cannot be written, or the file is open to other users.
    """
    path = folder.absolute() / "relay.db"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        shared = os.name == "posix" and path.stat().st_mode & 0o077
    except OSError as exc:
        raise StoreError(
            f"cannot keep mailboxes in {folder}: {exc.strerror}",
            hint="choose a writable directory on a local disk",
        ) from exc
    if shared:
        raise StoreError(f"{path} is open to other users", hint=f"chmod 600 {path}")
    return f"sqlite:///{path}"


def open_database(text: str) -> Engine:
    """Connect, check that commits will be kept, and make the tables if there are none.

    Raises:
        StoreError: Not an URL of SQLite or PostgreSQL, not reachable, or of a newer program. The
            error does not show the URL, which may hold a password.
    """
    url = _parse(text)
    try:
        # hide_parameters: no exception and no log line may carry a payload.
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=True)
    except ImportError as exc:
        raise StoreError(
            "the driver for PostgreSQL is not installed", hint="pip install 'dkey[postgres]'"
        ) from exc
    sqlite = url.get_backend_name() == "sqlite"
    event.listen(engine, "connect", _set_up_sqlite if sqlite else _set_up_postgresql)
    if sqlite:
        event.listen(engine, "begin", _begin_immediate)
    try:
        with engine.begin() as db:
            _prepare(db)
    except BaseException as exc:
        engine.dispose()
        if not isinstance(exc, SQLAlchemyError):
            raise
        raise StoreError(
            f"the relay's database does not open: {type(exc).__name__}",
            hint="check that it runs, its address, its password, and that it is the relay's",
        ) from exc
    return engine


def erase_log(engine: Engine) -> None:
    """Empty SQLite's log, which holds what was deleted until then; nothing to do elsewhere.

    Raises:
        SQLAlchemyError: The database failed. A log that is in use is left for the next time.
    """
    if engine.dialect.name != "sqlite":
        return
    # Not inside a transaction: the raw connection does not begin one.
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    finally:
        connection.close()


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except ArgumentError as exc:
        raise StoreError("that is not the URL of a database", hint="see --help") from exc
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite" or not url.database or url.database == ":memory:":
        raise StoreError(
            "mailboxes are kept in a file of SQLite or in PostgreSQL only",
            hint="give postgresql://USER@HOST/NAME, or a folder with --state",
        )
    return url


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin by _begin_immediate only
    for name, value in (
        ("busy_timeout", _BUSY_S * 1000),
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("secure_delete", 1),  # what was deleted does not stay readable in the file
    ):
        connection.execute(f"PRAGMA {name} = {value}")
    for name, wanted in (("journal_mode", "wal"), ("synchronous", 2)):
        found = connection.execute(f"PRAGMA {name}").fetchone()[0]
        if found != wanted:
            raise StoreError(
                f"the relay's database cannot keep commits: {name} is {found}",
                hint="keep it on a local disk",
            )


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _set_up_postgresql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")
    connection.commit()


def _prepare(db: Connection) -> None:
    if db.dialect.name == "postgresql":
        db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    if not inspect(db).has_table(SCHEMA.name):
        _METADATA.create_all(db)
        db.execute(insert(SCHEMA).values(version=_VERSION))
    versions = [row.version for row in db.execute(select(SCHEMA.c.version))]
    if versions != [_VERSION]:
        raise StoreError(
            f"the relay's database has schema version {versions}, this program knows {_VERSION}",
            hint="use the program that wrote it",
        )
