"""The vehicle's durable memory: identity, credentials, card places and the event log.

One SQLite file, WAL with synchronous=FULL: what a transaction committed survives a power cut, and
what it did not commit never happened (reference figures: specs/storage.md). Every row carries a
digest, so a damaged file refuses to open instead of opening with other content; the digest guards
against accident, not against someone who can write the file. A store restored whole from a backup
is not noticed here: that takes a counter outside the file.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
import tempfile
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dkey.control.touch import EnrolledCard, Grant, Position
from dkey.crypto.p256 import PublicKey
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode, StoreError, WireError
from dkey.lifecycle.policy import MAX_FAST_CANDIDATES
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission, Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

__all__ = [
    "MIGRATIONS",
    "Credential",
    "CredentialStore",
    "Event",
    "FastCandidate",
    "ReaderIdentity",
    "Transaction",
    "VehicleIdentity",
]

APPLICATION_ID: Final = 0x646B_6579
"""Marks the file as ours: ``dkey`` in ASCII, in SQLite's application_id."""
BUSY_TIMEOUT_S: Final = 5.0
"""How long a write waits for another process's transaction."""
_MAGIC: Final = b"SQLite format 3\0"
_RESTORE: Final = (
    "keep the file for analysis, restore a backup, or pair all keys again in a new store"
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE vehicle (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            group_id BLOB NOT NULL CHECK (length(group_id) = 16),
            digest BLOB NOT NULL) STRICT""",
        """CREATE TABLE reader (
            position TEXT PRIMARY KEY NOT NULL,
            sub_id BLOB NOT NULL UNIQUE CHECK (length(sub_id) = 16),
            public_key BLOB NOT NULL CHECK (length(public_key) = 65),
            digest BLOB NOT NULL) STRICT""",
        """CREATE TABLE credential (
            id TEXT PRIMARY KEY NOT NULL,
            name TEXT NOT NULL,
            x BLOB NOT NULL UNIQUE CHECK (length(x) = 32),
            public_key BLOB NOT NULL
                CHECK (length(public_key) = 65 AND substr(public_key, 2, 32) = x),
            role TEXT NOT NULL CHECK (role IN ('OWNER', 'ACTUAL_USER', 'ASSOCIATE', 'CARD')),
            permission TEXT NOT NULL CHECK (permission IN ('ENTRY', 'ENTRY_AND_START')),
            state TEXT NOT NULL CHECK (state IN ('ACTIVE', 'SUSPENDED', 'REVOKED', 'REPLACED')),
            provenance TEXT CHECK (provenance IN ('INITIAL', 'PURCHASED')),
            created_s REAL NOT NULL,
            replaced_by TEXT REFERENCES credential (id),
            digest BLOB NOT NULL,
            CHECK ((role = 'CARD') = (provenance IS NOT NULL)),
            CHECK ((state = 'REPLACED') = (replaced_by IS NOT NULL))) STRICT""",
        """CREATE UNIQUE INDEX one_initial_card ON credential (provenance)
            WHERE provenance = 'INITIAL'""",
        """CREATE TABLE card_slot (
            slot INTEGER PRIMARY KEY CHECK (slot BETWEEN 1 AND 2),
            credential_id TEXT NOT NULL UNIQUE REFERENCES credential (id),
            digest BLOB NOT NULL) STRICT""",
        """CREATE TABLE kpersistent (
            sub_id BLOB NOT NULL REFERENCES reader (sub_id),
            credential_id TEXT NOT NULL REFERENCES credential (id),
            sealed BLOB NOT NULL,
            used_seq INTEGER NOT NULL,
            digest BLOB NOT NULL,
            PRIMARY KEY (sub_id, credential_id)) STRICT""",
        "CREATE INDEX kpersistent_recent ON kpersistent (sub_id, used_seq DESC)",
        "CREATE INDEX kpersistent_credential ON kpersistent (credential_id)",
        """CREATE TABLE event (
            seq INTEGER PRIMARY KEY,
            t_s REAL NOT NULL,
            kind TEXT NOT NULL,
            position TEXT,
            credential_id TEXT,
            code TEXT,
            text TEXT NOT NULL,
            digest BLOB NOT NULL) STRICT""",
        """CREATE TRIGGER event_no_update BEFORE UPDATE ON event
            BEGIN SELECT RAISE (ABORT, 'the event log is append-only'); END""",
        """CREATE TRIGGER event_no_delete BEFORE DELETE ON event
            BEGIN SELECT RAISE (ABORT, 'the event log is append-only'); END""",
    ),
)
"""Statements that lead from schema version ``index`` to ``index + 1``. A released entry is final.

The number of card slots is MAX_CARDS at the time of the migration; a change of the policy needs a
new entry.
"""

_SLOTS: Final = frozenset({1, 2})
_Value = str | bytes | int | float | None

# Columns under the digest of a row, in digest order, which never changes.
_COLUMNS: Final = {
    "vehicle": ("one", "group_id"),
    "reader": ("position", "sub_id", "public_key"),
    "credential": (
        *("id", "name", "x", "public_key", "role", "permission", "state", "provenance"),
        *("created_s", "replaced_by"),
    ),
    "card_slot": ("slot", "credential_id"),
    "kpersistent": ("sub_id", "credential_id", "sealed", "used_seq"),
    "event": ("seq", "t_s", "kind", "position", "credential_id", "code", "text"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderIdentity:
    """One reader of the vehicle; its private key is in a vault.

    Attributes:
        sub_id: Reader sub-identifier, 16 bytes.
        public_key: Uncompressed point, 65 bytes.
    """

    position: Position
    sub_id: bytes
    public_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleIdentity:
    """Who this vehicle is. ``group_id``: reader group identifier, 16 bytes."""

    group_id: bytes
    readers: tuple[ReaderIdentity, ...]

    def reader(self, position: Position) -> ReaderIdentity:
        """Return the reader at this position.

        Raises:
            LocalFault: This vehicle has none there.
        """
        for reader in self.readers:
            if reader.position is position:
                return reader
        raise LocalFault(f"this vehicle has no reader at {position}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One enrolled key, of a phone or a card.

    Attributes:
        public_key: Uncompressed point, 65 bytes; its x-coordinate identifies the key.
        provenance: For cards only, and for every card.
        created_s: When it was enrolled, in the caller's clock.
        replaced_by: Credential id of the card that took its place; set by the store.
    """

    credential_id: str
    name: str
    public_key: bytes
    role: Role
    permission: Permission
    created_s: float
    state: CredentialState = CredentialState.ACTIVE
    provenance: CardProvenance | None = None
    replaced_by: str | None = None

    @property
    def x(self) -> bytes:
        """The identity of the key, 32 bytes."""
        return self.public_key[1:33]

    def grant(self) -> Grant:
        """Return the rights of this credential as the deciders take them."""
        return Grant(
            credential_id=self.credential_id,
            name=self.name,
            role=self.role,
            permission=self.permission,
            state=self.state,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FastCandidate:
    """A credential to try in a fast transaction. ``sealed``: its persistent key, as stored."""

    credential: Credential
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of the event log, numbered from 1 without gaps (requirements S141)."""

    seq: int
    t_s: float
    kind: str
    position: Position | None
    credential_id: str | None
    code: RefusalCode | None
    text: str


def _digest(table: str, values: Sequence[_Value]) -> bytes:
    """Return the digest of a row: BLAKE2b-128 over type, length and bytes of each value."""
    state = blake2b(digest_size=16, person=table.encode())
    for value in values:
        match value:
            case None:
                kind, data = b"n", b""
            case bytes():
                kind, data = b"b", value
            case str():
                kind, data = b"t", value.encode()
            case int():
                kind, data = b"i", struct.pack(">q", value)
            case float():
                kind, data = b"f", struct.pack(">d", value)
        state.update(kind + struct.pack(">I", len(data)) + data)
    return state.digest()


def _row(credential: Credential) -> tuple[_Value, ...]:
    """Return the columns of ``credential`` in digest order, as plain SQLite values."""
    provenance = credential.provenance
    return (
        credential.credential_id,
        credential.name,
        credential.x,
        credential.public_key,
        credential.role.value,
        credential.permission.value,
        credential.state.value,
        None if provenance is None else provenance.value,
        float(credential.created_s),
        credential.replaced_by,
    )


def _credential(row: Sequence[Any]) -> Credential:
    credential_id, name, _x, public_key, role, permission, state, provenance, created, by = row
    return Credential(
        credential_id=credential_id,
        name=name,
        public_key=public_key,
        role=Role(role),
        permission=Permission(permission),
        state=CredentialState(state),
        provenance=None if provenance is None else CardProvenance(provenance),
        created_s=created,
        replaced_by=by,
    )


_CREDENTIAL_COLUMNS: Final = ", ".join(f"c.{name}" for name in _COLUMNS["credential"])


class CredentialStore:
    """The open store; made by :meth:`create` or :meth:`open`, used from one thread.

    Several processes may have the same file open: writes take turns, and a writer waits at most
    5 s for another. Reads inside a transaction see its writes.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db: sqlite3.Connection | None = connection

    @classmethod
    def create(cls, path: Path | str, identity: VehicleIdentity) -> CredentialStore:
        """Make the store of a vehicle that has none, mode 0600, and open it.

        The file appears complete or not at all.

        Raises:
            StoreError: Something is at ``path`` already, or the place cannot be written.
            LocalFault: The identity has a wrong length, a bad key, or two equal readers.
        """
        _check_identity(identity)
        target = Path(path)
        if target.with_name(f"{target.name}-wal").exists():
            # SQLite would replay the log of a lost store into the new one.
            raise StoreError(
                f"the log of another store lies at {target}-wal",
                hint="move it away, or choose another path",
            )
        draft: Path | None = None
        try:
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            draft = Path(name)
            os.close(handle)
            with closing(_connect(draft)) as db:
                _build(db, identity)
            _sync(draft)
            os.link(draft, target)  # unlike a rename, this never takes the place of a store
            _sync(target.parent)
        except FileExistsError as exc:
            raise StoreError(
                f"{target} exists already",
                hint="open it, or choose another path",
            ) from exc
        except (OSError, sqlite3.Error) as exc:
            raise StoreError(
                f"cannot create a store at {target}: {exc}",
                hint="choose a writable directory on a local disk",
            ) from exc
        finally:
            if draft is not None:
                draft.unlink(missing_ok=True)
        return cls.open(target)

    @classmethod
    def open(
        cls, path: Path | str, *, migrations: Sequence[Sequence[str]] = MIGRATIONS
    ) -> CredentialStore:
        """Check the whole file, bring it to the newest schema, and open it.

        Args:
            path: A file made by :meth:`create`.
            migrations: The schema history; another one than the default is for its tests.

        Raises:
            StoreError: Missing, damaged, foreign, readable by others, of a newer program, or on a
                disk that cannot keep what was committed. The content is unchanged.
        """
        target = Path(path)
        _check_file(target)
        db: sqlite3.Connection | None = None
        try:
            db = _connect(target)
            version = _check_version(db, target, len(migrations))
            _check_schema(db, target, migrations[:version])
            _check_content(db, target)
            if version < len(migrations):
                _migrate(db, target, migrations)
            _make_durable(db, target)
        except BaseException as exc:
            if db is not None:
                db.close()
            # Damage in a name shows as undecodable text, before SQLite could say what is wrong.
            if not isinstance(exc, (sqlite3.Error, UnicodeError)):
                raise
            if "locked" in str(exc):
                raise StoreError(
                    f"{target} is held by another program", hint="close it and try again"
                ) from exc
            raise StoreError(f"{target} is damaged: {exc}", hint=_RESTORE) from exc
        return cls(db)

    def close(self) -> None:
        """Release the file. May be called twice; an open transaction is rolled back."""
        if self._db is not None:
            self._db.close()
            self._db = None

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
        names = ("journal_mode", "synchronous", "foreign_keys", "user_version")
        return {name: self._rows(f"PRAGMA {name}")[0][0] for name in names}

    def identity(self) -> VehicleIdentity:
        """Return who this vehicle is."""
        readers = self._rows("SELECT position, sub_id, public_key FROM reader ORDER BY position")
        return VehicleIdentity(
            group_id=self._rows("SELECT group_id FROM vehicle")[0][0],
            readers=tuple(
                ReaderIdentity(position=Position(position), sub_id=sub_id, public_key=public_key)
                for position, sub_id, public_key in readers
            ),
        )

    def credential(self, credential_id: str) -> Credential | None:
        """Return the credential with this id, whatever its state."""
        return self._one("c.id = ?", credential_id)

    def credential_by_x(self, x: bytes) -> Credential | None:
        """Return the credential whose public key has this x-coordinate, 32 bytes."""
        return self._one("c.x = ?", x)

    def credentials(self) -> tuple[Credential, ...]:
        """Return all credentials that were ever enrolled, oldest first."""
        rows = self._rows(f"SELECT {_CREDENTIAL_COLUMNS} FROM credential c ORDER BY c.rowid")  # noqa: S608 - constant names
        return tuple(_credential(row) for row in rows)

    def cards(self) -> tuple[EnrolledCard, ...]:
        """Return all cards that were ever enrolled, as the pairing rules take them."""
        return tuple(
            EnrolledCard(credential_id=c.credential_id, provenance=c.provenance, state=c.state)
            for c in self.credentials()
            if c.provenance is not None
        )

    def fast_candidates(
        self, sub_id: bytes, *, limit: int = MAX_FAST_CANDIDATES
    ) -> tuple[FastCandidate, ...]:
        """Return the credentials with a persistent key for this reader, last used first."""
        rows = self._rows(
            f"SELECT k.sealed, {_CREDENTIAL_COLUMNS} FROM kpersistent k"  # noqa: S608 - constant names
            " JOIN credential c ON c.id = k.credential_id"
            " WHERE k.sub_id = ? ORDER BY k.used_seq DESC LIMIT ?",
            sub_id,
            max(limit, 0),  # SQLite reads a negative limit as none
        )
        return tuple(FastCandidate(sealed=row[0], credential=_credential(row[1:])) for row in rows)

    def events(self, *, after_seq: int = 0) -> tuple[Event, ...]:
        """Return the events with a higher number, oldest first."""
        rows = self._rows(
            "SELECT seq, t_s, kind, position, credential_id, code, text FROM event"
            " WHERE seq > ? ORDER BY seq",
            after_seq,
        )
        return tuple(
            Event(
                seq=seq,
                t_s=t_s,
                kind=kind,
                position=None if position is None else Position(position),
                credential_id=credential_id,
                code=None if code is None else RefusalCode(code),
                text=text,
            )
            for seq, t_s, kind, position, credential_id, code, text in rows
        )

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Make all writes of the block one commit; an exception undoes them all and goes on.

        When the block ends without an exception, its writes are on the disk.

        Raises:
            StoreError: Another program held the file for 5 s, or the disk refused the writes.
            LocalFault: A transaction is open already.
        """
        db = self._open_db()
        if db.in_transaction:
            raise LocalFault("a transaction is open already", hint="write within that one")
        try:
            db.execute("BEGIN IMMEDIATE")
            writes = Transaction(self, db)
            try:
                yield writes
            finally:
                writes.end()
            db.execute("COMMIT")
        except sqlite3.Error as exc:
            _roll_back(db)
            raise StoreError(
                f"the store could not be written: {exc}",
                hint="free the disk, or end the other program that uses this store",
            ) from exc
        except BaseException:
            _roll_back(db)
            raise

    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise LocalFault("the store is closed", hint="open it again")
        return self._db

    def _rows(self, sql: str, *values: _Value) -> list[tuple[Any, ...]]:
        try:
            return self._open_db().execute(sql, values).fetchall()
        except sqlite3.Error as exc:
            raise StoreError(f"the store could not be read: {exc}", hint=_RESTORE) from exc

    def _one(self, where: str, value: _Value) -> Credential | None:
        rows = self._rows(f"SELECT {_CREDENTIAL_COLUMNS} FROM credential c WHERE {where}", value)  # noqa: S608 - constant names
        return _credential(rows[0]) if rows else None


class Transaction:
    """The writes of one commit; made by :meth:`CredentialStore.transaction`.

    Each method does all it says or raises and writes nothing.
    """

    def __init__(self, store: CredentialStore, db: sqlite3.Connection) -> None:
        self._store = store
        self._db = db
        self._ended = False

    def add(self, credential: Credential, *, replaces: str | None = None) -> None:
        """Enrol a credential; a card takes a free place, or the place of the card it replaces.

        The replaced card is out of use for good, with its persistent keys.

        Raises:
            PolicyRefusal: CARD_LIMIT, no place is free or the vehicle had its initial card;
                KEY_UNKNOWN or CARD_BLOCKED, the card to replace is unknown or out of use.
            LocalFault: The id or the key is enrolled already, a value is out of its range, or the
                credential is not a new one.
        """
        self._check_new(credential, replaces)
        old = self._replaced(replaces)
        slot = self._place(old) if credential.role is Role.CARD else None
        try:
            self._insert("credential", _row(credential))
        except sqlite3.IntegrityError as exc:
            if "credential.provenance" in str(exc):
                raise PolicyRefusal(
                    RefusalCode.CARD_LIMIT,
                    "the vehicle had its initial card; further cards are purchased ones",
                    hint="pair the card as a purchased one",
                ) from exc
            raise LocalFault(
                f"the credential cannot be enrolled: {exc}",
                hint="look it up by its key before enrolling it",
            ) from exc
        if old is not None:
            self._retire(
                replace(old, state=CredentialState.REPLACED, replaced_by=credential.credential_id)
            )
        if slot is not None:
            self._insert("card_slot", (slot, credential.credential_id))

    def set_state(self, credential_id: str, state: CredentialState) -> None:
        """Suspend, resume or revoke a credential; to revoke frees a card's place.

        Raises:
            PolicyRefusal: KEY_REVOKED or CARD_BLOCKED, it is out of use for good.
            LocalFault: It is not enrolled, or ``state`` is REPLACED.
        """
        old = self._known(credential_id)
        if state is CredentialState.REPLACED:
            raise LocalFault("a card is replaced by adding the other one")
        if old.state is state:
            return
        if old.state is CredentialState.REVOKED:
            raise PolicyRefusal(RefusalCode.KEY_REVOKED, "the credential is revoked for good")
        if old.state is CredentialState.REPLACED:
            raise PolicyRefusal(RefusalCode.CARD_BLOCKED, "the card was replaced for good")
        if state is CredentialState.REVOKED:
            self._retire(replace(old, state=state))
        else:
            self._update(replace(old, state=state))

    def put_kpersistent(self, credential_id: str, sub_id: bytes, sealed: bytes) -> None:
        """Keep the persistent key of a credential at a reader, sealed by the caller.

        It takes the place of an earlier one and counts as used now.

        Raises:
            PolicyRefusal: KEY_REVOKED or CARD_BLOCKED, the credential is out of use for good.
            LocalFault: The credential or the reader is unknown, or ``sealed`` is empty.
        """
        owner = self._known(credential_id)
        if owner.state is CredentialState.REVOKED:
            raise PolicyRefusal(RefusalCode.KEY_REVOKED, "the credential is revoked for good")
        if owner.state is CredentialState.REPLACED:
            raise PolicyRefusal(RefusalCode.CARD_BLOCKED, "the card was replaced for good")
        if not self._store._rows("SELECT 1 FROM reader WHERE sub_id = ?", sub_id):  # noqa: SLF001
            raise LocalFault("this vehicle has no reader with this sub-identifier")
        if not sealed:
            raise LocalFault("a sealed key is not empty")
        rows = self._store._rows(  # noqa: SLF001
            "SELECT coalesce(max(used_seq), 0) + 1 FROM kpersistent WHERE sub_id = ?", sub_id
        )
        self._insert(
            "kpersistent", (sub_id, credential_id, bytes(sealed), rows[0][0]), or_replace=True
        )

    def mark_used(self, credential_id: str, sub_id: bytes) -> None:
        """Make this credential's persistent key the first to be tried at this reader.

        Raises:
            LocalFault: It has none there.
        """
        rows = self._store._rows(  # noqa: SLF001
            "SELECT sealed FROM kpersistent WHERE sub_id = ? AND credential_id = ?",
            sub_id,
            credential_id,
        )
        if not rows:
            raise LocalFault(f"credential {credential_id} has no persistent key at this reader")
        self.put_kpersistent(credential_id, sub_id, rows[0][0])

    def forget_kpersistent(self, credential_id: str) -> None:
        """Erase the persistent keys of a credential; its next transaction is a standard one."""
        self._execute("DELETE FROM kpersistent WHERE credential_id = ?", credential_id)

    def log(  # noqa: PLR0913 - the columns of an event
        self,
        *,
        t_s: float,
        kind: str,
        position: Position | None = None,
        credential_id: str | None = None,
        code: RefusalCode | None = None,
        text: str = "",
    ) -> int:
        """Append to the event log and return the number of the entry."""
        rows = self._store._rows("SELECT coalesce(max(seq), 0) + 1 FROM event")  # noqa: SLF001
        seq = int(rows[0][0])
        plain_position = None if position is None else position.value
        plain_code = None if code is None else code.value
        self._insert(
            "event", (seq, float(t_s), kind, plain_position, credential_id, plain_code, text)
        )
        return seq

    def end(self) -> None:
        """Refuse further writes; called when the block ends."""
        self._ended = True

    def _check_new(self, credential: Credential, replaces: str | None) -> None:
        if credential.state is not CredentialState.ACTIVE or credential.replaced_by is not None:
            raise LocalFault("a new credential is active")
        is_card = credential.role is Role.CARD
        if is_card is (credential.provenance is None):
            raise LocalFault("a card has a provenance, and nothing else has one")
        if replaces is not None and not is_card:
            raise LocalFault("only a card replaces a card")
        try:
            PublicKey.parse(credential.public_key)
        except WireError as exc:
            raise LocalFault(f"the credential's public key is no key: {exc}") from exc

    def _replaced(self, replaces: str | None) -> Credential | None:
        if replaces is None:
            return None
        old = self._store.credential(replaces)
        if old is None or old.role is not Role.CARD:
            raise PolicyRefusal(
                RefusalCode.KEY_UNKNOWN,
                "the card to replace is not enrolled in this vehicle",
                hint="list the paired cards and name one of them",
            )
        if old.state in (CredentialState.REVOKED, CredentialState.REPLACED):
            raise PolicyRefusal(
                RefusalCode.CARD_BLOCKED,
                "the card to replace is already out of use",
                hint="pair the new card into a free place",
            )
        return old

    def _place(self, old: Credential | None) -> int:
        """Return the slot of ``old``, or the lowest free one."""
        taken = dict(self._store._rows("SELECT credential_id, slot FROM card_slot"))  # noqa: SLF001
        if old is not None:
            return int(taken[old.credential_id])
        free = sorted(_SLOTS - set(taken.values()))
        if not free:
            raise PolicyRefusal(
                RefusalCode.CARD_LIMIT,
                f"{len(_SLOTS)} cards are paired already",
                hint="replace a paired card, or revoke one",
            )
        return free[0]

    def _known(self, credential_id: str) -> Credential:
        credential = self._store.credential(credential_id)
        if credential is None:
            raise LocalFault(
                f"no credential {credential_id} is enrolled", hint="list the credentials"
            )
        return credential

    def _retire(self, credential: Credential) -> None:
        self._update(credential)
        self._execute("DELETE FROM card_slot WHERE credential_id = ?", credential.credential_id)
        self.forget_kpersistent(credential.credential_id)

    def _update(self, credential: Credential) -> None:
        row = _row(credential)
        self._execute(
            "UPDATE credential SET state = ?, replaced_by = ?, digest = ? WHERE id = ?",
            credential.state.value,
            credential.replaced_by,
            _digest("credential", row),
            credential.credential_id,
        )

    def _insert(self, table: str, row: Sequence[_Value], *, or_replace: bool = False) -> None:
        if self._ended:
            raise LocalFault("the transaction has ended", hint="open another one")
        _insert(self._db, table, row, or_replace=or_replace)

    def _execute(self, sql: str, *values: _Value) -> None:
        if self._ended:
            raise LocalFault("the transaction has ended", hint="open another one")
        self._db.execute(sql, values)


def _insert(
    db: sqlite3.Connection, table: str, row: Sequence[_Value], *, or_replace: bool = False
) -> None:
    columns = (*_COLUMNS[table], "digest")
    db.execute(
        f"INSERT {'OR REPLACE ' if or_replace else ''}INTO {table} ({', '.join(columns)})"  # noqa: S608 - constant names
        f" VALUES ({', '.join('?' * len(columns))})",
        (*row, _digest(table, row)),
    )


def _roll_back(db: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):  # the file is gone or closed: nothing was committed either
        if db.in_transaction:
            db.execute("ROLLBACK")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_S,
    )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_identity(identity: VehicleIdentity) -> None:
    sub_ids = [reader.sub_id for reader in identity.readers]
    if len(identity.group_id) != 16 or any(len(sub_id) != 16 for sub_id in sub_ids):
        raise LocalFault("a reader group identifier and a reader sub-identifier are 16 bytes")
    positions = {reader.position for reader in identity.readers}
    if len(set(sub_ids)) != len(sub_ids) or len(positions) != len(sub_ids):
        raise LocalFault("each reader has its own position and its own sub-identifier")
    try:
        for reader in identity.readers:
            PublicKey.parse(reader.public_key)
    except WireError as exc:
        raise LocalFault(f"a reader's public key is no key: {exc}") from exc


def _build(db: sqlite3.Connection, identity: VehicleIdentity) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statements in MIGRATIONS:
        for statement in statements:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    _insert(db, "vehicle", (1, identity.group_id))
    for reader in identity.readers:
        _insert(db, "reader", (reader.position.value, reader.sub_id, reader.public_key))
    db.execute("COMMIT")


def _check_file(path: Path) -> None:
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
        raise StoreError(f"{path} is damaged or is no store of a vehicle", hint=_RESTORE)
    if os.name == "posix" and mode & 0o077:
        raise StoreError(f"{path} is open to other users", hint=f"chmod 600 {path}")


def _check_version(db: sqlite3.Connection, path: Path, newest: int) -> int:
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
        raise StoreError(f"{path} has no schema version", hint=_RESTORE)
    return version


def _check_schema(db: sqlite3.Connection, path: Path, history: Sequence[Sequence[str]]) -> None:
    """Refuse a schema that is not exactly what the migrations of its version make."""
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        for statements in history:
            for statement in statements:
                model.execute(statement)
        expected = model.execute(query).fetchall()
    if db.execute(query).fetchall() != expected:
        raise StoreError(f"{path} is damaged: its schema was altered", hint=_RESTORE)


def _check_content(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a damaged structure, a row whose digest fails, and a set of rows with gaps."""
    found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreError(f"{path} is damaged: {found}", hint=_RESTORE)
    if db.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise StoreError(f"{path} is damaged: a row refers to a missing one", hint=_RESTORE)
    for table, columns in _COLUMNS.items():
        for *row, digest in db.execute(f"SELECT {', '.join(columns)}, digest FROM {table}"):  # noqa: S608 - constant names
            if _digest(table, row) != digest:
                raise StoreError(f"{path} is damaged: a row of {table} changed", hint=_RESTORE)
    vehicles, gaps, strays = db.execute(
        "SELECT (SELECT count(*) FROM vehicle),"
        " (SELECT coalesce(max(seq), 0) - count(*) FROM event),"
        " (SELECT count(*) FROM credential c LEFT JOIN card_slot s ON s.credential_id = c.id"
        "  WHERE (c.role = 'CARD' AND c.state IN ('ACTIVE', 'SUSPENDED')) <> (s.slot NOT NULL))"
    ).fetchone()
    if (vehicles, gaps, strays) != (1, 0, 0):
        raise StoreError(f"{path} is damaged: rows are missing", hint=_RESTORE)


def _migrate(db: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> None:
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
        _roll_back(db)
        raise StoreError(
            f"{path} could not be brought to schema version {len(migrations)}: {exc}",
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
