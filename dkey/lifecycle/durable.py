"""A durable store in one SQLite file: made whole or not at all, checked whenever it opens.

WAL with synchronous=FULL: what a transaction committed survives a power cut, and what it did not
commit never happened (specs/storage.md). Every row carries a digest, so a damaged file refuses to
open instead of opening with other content; the digest guards against accident, not against someone
who can write the file. What the tables mean is a :class:`Layout` of the store that uses this.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dkey.errors import LocalFault, StoreError
from dkey.lifecycle.layout import Layout, Value, digest, insert

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

__all__ = ["DurableFile", "DurableStore", "Layout", "Value", "connect", "digest", "insert"]

BUSY_TIMEOUT_S: Final = 5.0
"""How long a write waits for another process's transaction."""
_MAGIC: Final = b"SQLite format 3\0"


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing database; transactions begin and end by statement only."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_S,
    )


class DurableFile:
    """An open store file, used from one thread; made by :meth:`create` or :meth:`open`.

    Several processes may have the same file open: writes take turns, and a writer waits at most
    5 s for another. Reads inside a transaction see its writes.
    """

    def __init__(self, connection: sqlite3.Connection, layout: Layout) -> None:
        self._db: sqlite3.Connection | None = connection
        self._layout = layout
        self.rollbacks = 0
        """How many transactions were undone: what was remembered of them never was."""

    @classmethod
    def create(cls, path: Path, layout: Layout, fill: Callable[[DurableFile], None]) -> None:
        """Make the file, mode 0600, complete or not at all.

        Args:
            path: Nothing is there yet; its directory is.
            layout: What it keeps.
            fill: Writes the first rows, inside the one commit that makes the file.

        Raises:
            StoreError: Something is at ``path`` already, or the place cannot be written.
        """
        if path.with_name(f"{path.name}-wal").exists():
            # SQLite would replay the log of a lost store into the new one.
            raise StoreError(
                f"the log of another store lies at {path}-wal",
                hint="move it away, or choose another place",
            )
        draft: Path | None = None
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            draft = Path(name)
            os.close(handle)
            with closing(connect(draft)) as db:
                _know_digest(db)
                _build(db, layout, fill)
            _sync(draft)
            os.link(draft, path)  # unlike a rename, this never takes the place of a store
            _sync(path.parent)
        except FileExistsError as exc:
            raise StoreError(
                f"{path} exists already", hint="open it, or choose another place"
            ) from exc
        except (OSError, sqlite3.Error) as exc:
            raise StoreError(
                f"cannot create a store at {path}: {exc}",
                hint="choose a writable directory on a local disk",
            ) from exc
        finally:
            if draft is not None:
                draft.unlink(missing_ok=True)

    @classmethod
    def open(
        cls,
        path: Path,
        layout: Layout,
        *,
        connect: Callable[[Path], sqlite3.Connection] = connect,
    ) -> DurableFile:
        """Check the whole file, bring it to the newest schema, and open it.

        Args:
            path: A file made by :meth:`create`.
            layout: What it keeps.
            connect: Opens the database; a simulated disk comes in here.

        Raises:
            StoreError: Missing, damaged, foreign, readable by others, of a newer program, or on a
                disk that cannot keep what was committed. The content is unchanged.
        """
        _check_file(path, layout)
        db: sqlite3.Connection | None = None
        try:
            db = connect(path)
            _know_digest(db)
            version = _check_version(db, path, layout)
            _check_schema(db, path, layout, version)
            _check_content(db, path, layout, version)
            if version < len(layout.migrations):
                _migrate(db, path, layout)
            _make_durable(db, path)
        except BaseException as exc:
            if db is not None:
                db.close()
            # Damage in a name shows as undecodable text, before SQLite could say what is wrong.
            if not isinstance(exc, (sqlite3.Error, UnicodeError)):
                raise
            if "locked" in str(exc):
                raise StoreError(
                    f"{path} is held by another program", hint="close it and try again"
                ) from exc
            raise StoreError(f"{path} is damaged: {exc}", hint=layout.restore) from exc
        return cls(db, layout)

    def close(self) -> None:
        """Release the file. May be called twice; an open transaction is rolled back."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def closed(self) -> bool:
        """Whether the file was released."""
        return self._db is None

    @property
    def settings(self) -> dict[str, str | int]:
        """What SQLite reports of the settings that durability rests on."""
        names = ("journal_mode", "synchronous", "foreign_keys", "user_version")
        return {name: self.rows(f"PRAGMA {name}")[0][0] for name in names}

    def rows(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """Return what a query finds.

        Raises:
            StoreError: The file could not be read.
        """
        try:
            return self._open().execute(sql, values).fetchall()
        except sqlite3.Error as exc:
            raise StoreError(
                f"the store could not be read: {exc}", hint=self._layout.restore
            ) from exc

    def transaction(self) -> AbstractContextManager[None]:
        """Make all writes of the block one commit; an exception undoes them all and goes on.

        When the block ends without an exception, its writes are on the disk.

        Raises:
            StoreError: Another program held the file for 5 s, or the disk refused the writes.
            LocalFault: A transaction is open already.
        """
        return _Transaction(self)

    def put(self, table: str, *row: Value, replace: bool = False) -> None:
        """Write one row with its digest; ``row`` is in the order of the layout's columns."""
        insert(self._writable(), self._layout, table, row, replace=replace)

    def update(self, table: str, *row: Value) -> None:
        """Change the row with the first column of ``row``, with its digest; it keeps its place."""
        key, *columns = self._layout.columns[table]
        changes = ", ".join(f"{name} = ?" for name in (*columns, "digest"))
        self._writable().execute(
            f"UPDATE {table} SET {changes} WHERE {key} = ?",  # noqa: S608 - names of the layout
            (*row[1:], digest(table, row), row[0]),
        )

    def write(self, sql: str, *values: Value) -> int:
        """Run one statement on a table that carries its own check; return how many rows it met."""
        return self._writable().execute(sql, values).rowcount

    def delete(self, table: str, condition: str, *values: Value) -> None:
        """Remove the rows of ``table`` that meet the condition, such as ``id = ?``."""
        self._writable().execute(f"DELETE FROM {table} WHERE {condition}", values)  # noqa: S608 - names of the layout

    def require_transaction(self) -> None:
        """Refuse to go on where none is open, before something is read that a write rests on.

        Raises:
            LocalFault: No transaction is open.
        """
        self._writable()

    def _writable(self) -> sqlite3.Connection:
        db = self._open()
        if not db.in_transaction:
            raise LocalFault("nothing is written outside a transaction", hint="open one")
        return db

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise LocalFault("the store is closed", hint="open it again")
        return self._db


class _Transaction:
    """The block of :meth:`DurableFile.transaction`.

    A class, as a generator would be a good part of what a short commit costs beside the disk.
    """

    __slots__ = ("_db", "_file")

    def __init__(self, file: DurableFile) -> None:
        self._file = file

    def __enter__(self) -> None:
        self._db = self._file._open()  # noqa: SLF001 - one thing in two classes
        if self._db.in_transaction:
            raise LocalFault("a transaction is open already", hint="write within that one")
        self._run("BEGIN IMMEDIATE")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._run("COMMIT")
            return
        self._undo()
        if isinstance(error, sqlite3.Error):
            raise _unwritten(error) from error

    def _run(self, statement: str) -> None:
        try:
            self._db.execute(statement)
        except BaseException as exc:
            self._undo()
            if isinstance(exc, sqlite3.Error):
                raise _unwritten(exc) from exc
            raise

    def _undo(self) -> None:
        _roll_back(self._db)
        self._file.rollbacks += 1


def _unwritten(error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"the store could not be written: {error}",
        hint="free the disk, or end the other program that uses this store",
    )


class DurableStore:
    """What the stores on a :class:`DurableFile` have in common; ``with`` closes them."""

    def __init__(self, file: DurableFile) -> None:
        self._file = file

    @property
    def file(self) -> DurableFile:
        """The file itself, for what stands beside the store's own tables."""
        return self._file

    def close(self) -> None:
        """Release the file. May be called twice; an open transaction is rolled back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def settings(self) -> dict[str, str | int]:
        """What SQLite reports of the settings that durability rests on."""
        return self._file.settings


def _know_digest(db: sqlite3.Connection) -> None:
    """Let a connection run migrations that write rows."""
    db.create_function(
        "row_digest", -1, lambda table, *values: digest(table, values), deterministic=True
    )


def _build(db: sqlite3.Connection, layout: Layout, fill: Callable[[DurableFile], None]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.execute(f"PRAGMA application_id = {layout.application_id}")
    for statements in layout.migrations:
        for statement in statements:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(layout.migrations)}")
    fill(DurableFile(db, layout))
    db.execute("COMMIT")


def _sync(path: Path) -> None:
    """Bring a file, or the entries of a directory, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _roll_back(db: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):  # the file is gone or closed: nothing was committed either
        if db.in_transaction:
            db.execute("ROLLBACK")


def _check_file(path: Path, layout: Layout) -> None:
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
        raise StoreError(f"{path} is damaged or is not {layout.what}", hint=layout.restore)
    if os.name == "posix" and mode & 0o077:
        raise StoreError(f"{path} is open to other users", hint=f"chmod 600 {path}")


def _check_version(db: sqlite3.Connection, path: Path, layout: Layout) -> int:
    """Return the schema version of a file of ours."""
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    if application_id != layout.application_id:
        raise StoreError(
            f"{path} is not {layout.what} but a database of another program, or it is damaged",
            hint="choose another place",
        )
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > len(layout.migrations):
        raise StoreError(
            f"{path} has schema version {version}, this program knows up to "
            f"{len(layout.migrations)}",
            hint="use the newer program that wrote it",
        )
    if version < 1:
        raise StoreError(f"{path} has no schema version", hint=layout.restore)
    return version


def _check_schema(db: sqlite3.Connection, path: Path, layout: Layout, version: int) -> None:
    """Refuse a schema that is not exactly what the migrations of its version make."""
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        _know_digest(model)
        for statements in layout.migrations[:version]:
            for statement in statements:
                model.execute(statement)
        expected = model.execute(query).fetchall()
    if db.execute(query).fetchall() != expected:
        raise StoreError(f"{path} is damaged: its schema was altered", hint=layout.restore)


def _check_content(db: sqlite3.Connection, path: Path, layout: Layout, version: int) -> None:
    """Refuse a damaged structure, a row whose digest fails, and a set of rows with gaps."""
    found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreError(f"{path} is damaged: {found}", hint=layout.restore)
    if db.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise StoreError(f"{path} is damaged: a row refers to a missing one", hint=layout.restore)
    present = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
    for table, columns in layout.columns.items():
        if table not in present:
            continue  # a later migration makes it
        for *row, kept in db.execute(f"SELECT {', '.join(columns)}, digest FROM {table}"):  # noqa: S608 - names of the layout
            if digest(table, row) != kept:
                raise StoreError(
                    f"{path} is damaged: a row of {table} changed", hint=layout.restore
                )
    for check in layout.checks:
        if (wrong := check(db)) is not None:
            raise StoreError(f"{path} is damaged: {wrong}", hint=layout.restore)
    if any(db.execute(query).fetchone()[0] for query in layout.gaps[:version]):
        raise StoreError(f"{path} is damaged: rows are missing", hint=layout.restore)


def _migrate(db: sqlite3.Connection, path: Path, layout: Layout) -> None:
    """Run the missing migrations as one commit, or none of them."""
    try:
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        for statements in layout.migrations[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(layout.migrations)}")
        db.execute("COMMIT")
    except sqlite3.Error as exc:
        _roll_back(db)
        raise StoreError(
            f"{path} could not be brought to schema version {len(layout.migrations)}: {exc}",
            hint="free the disk and try again, or use the older program",
        ) from exc


def _make_durable(db: sqlite3.Connection, path: Path) -> None:
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
