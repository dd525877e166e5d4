"""The vehicle's durable memory: identity, credentials, card places and the event log.

One durable file (:mod:`dkey.lifecycle.durable`, specs/storage.md): what a transaction committed
survives a power cut, and a damaged file refuses to open. A store restored whole from a backup is
not noticed here: that takes a counter outside the file.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dkey.control.card_rules import EnrolledCard
from dkey.control.touch import Position
from dkey.errors import RefusalCode
from dkey.lifecycle.durable import DurableFile, connect
from dkey.lifecycle.ledger import LedgerStore
from dkey.lifecycle.policy import MAX_FAST_CANDIDATES
from firmware_mock.records import (
    Credential,
    Event,
    FastCandidate,
    Ownership,
    PairingCode,
    ReaderIdentity,
    VehicleIdentity,
    check_identity,
)
from firmware_mock.store_schema import CREDENTIAL_COLUMNS, LAYOUT, MIGRATIONS, credential_of
from firmware_mock.store_transaction import Transaction, find_credential

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "MIGRATIONS",
    "Credential",
    "CredentialStore",
    "Event",
    "FastCandidate",
    "Ownership",
    "PairingCode",
    "ReaderIdentity",
    "Transaction",
    "VehicleIdentity",
]


class CredentialStore(LedgerStore):
    """The open store; made by :meth:`create` or :meth:`open`, used from one thread.

    Several processes may have the same file open: writes take turns, and a writer waits at most
    5 s for another. Reads inside a transaction see its writes.
    """

    @classmethod
    def create(cls, path: Path | str, identity: VehicleIdentity) -> CredentialStore:
        """Make the store of a vehicle that has none, mode 0600, and open it.

        The file appears complete or not at all.

        Raises:
            StoreError: Something is at ``path`` already, or the place cannot be written.
            LocalFault: The identity has a wrong length, a bad key, or two equal readers.
        """
        check_identity(identity)
        target = Path(path)

        def fill(file: DurableFile) -> None:
            file.put("vehicle", 1, identity.group_id)
            for reader in identity.readers:
                file.put("reader", reader.position.value, reader.sub_id, reader.public_key)

        DurableFile.create(target, LAYOUT, fill)
        return cls.open(target)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
        connect: Callable[[Path], sqlite3.Connection] = connect,
    ) -> CredentialStore:
        """Check the whole file, bring it to the newest schema, and open it.

        Args:
            path: A file made by :meth:`create`.
            migrations: The schema history; another one than the default is for its tests.
            connect: Opens the database; a simulated disk comes in here.

        Raises:
            StoreError: Missing, damaged, foreign, readable by others, of a newer program, or on a
                disk that cannot keep what was committed. The content is unchanged.
        """
        layout = replace(LAYOUT, migrations=migrations)
        return cls(DurableFile.open(Path(path), layout, connect=connect))

    def identity(self) -> VehicleIdentity:
        """Return who this vehicle is."""
        readers = self._file.rows(
            "SELECT position, sub_id, public_key FROM reader ORDER BY position"
        )
        return VehicleIdentity(
            group_id=self._file.rows("SELECT group_id FROM vehicle")[0][0],
            readers=tuple(
                ReaderIdentity(position=Position(position), sub_id=sub_id, public_key=public_key)
                for position, sub_id, public_key in readers
            ),
        )

    def credential(self, credential_id: str) -> Credential | None:
        """Return the credential with this id, whatever its state."""
        return find_credential(self._file, "c.id = ?", credential_id)

    def credential_by_x(self, x: bytes) -> Credential | None:
        """Return the credential whose public key has this x-coordinate, 32 bytes."""
        return find_credential(self._file, "c.x = ?", x)

    def credentials(self) -> tuple[Credential, ...]:
        """Return all credentials that were ever enrolled, oldest first."""
        rows = self._file.rows(f"SELECT {CREDENTIAL_COLUMNS} FROM credential c ORDER BY c.rowid")  # noqa: S608 - constant names
        return tuple(credential_of(row) for row in rows)

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
        rows = self._file.rows(
            f"SELECT k.sealed, {CREDENTIAL_COLUMNS} FROM kpersistent k"  # noqa: S608 - constant names
            " JOIN credential c ON c.id = k.credential_id"
            " WHERE k.sub_id = ? ORDER BY k.used_seq DESC LIMIT ?",
            sub_id,
            max(limit, 0),  # SQLite reads a negative limit as none
        )
        return tuple(
            FastCandidate(sealed=row[0], credential=credential_of(row[1:])) for row in rows
        )

    def ownership(self) -> Ownership:
        """Return the owner epoch and the sealed resolving key."""
        epoch, resolving_key = self._file.rows("SELECT epoch, resolving_key FROM ownership")[0]
        return Ownership(epoch=epoch, resolving_key=resolving_key)

    def pairing_codes(self) -> tuple[PairingCode, ...]:
        """Return the codes that are live, or were issued in the last hour, oldest first."""
        rows = self._file.rows(
            "SELECT number, issued_s, salt, sealed, tries, credential_id FROM pairing_code"
            " ORDER BY number"
        )
        return tuple(
            PairingCode(
                number=number,
                issued_s=issued_s,
                salt=salt,
                sealed=sealed,
                tries=tries,
                credential_id=credential_id,
            )
            for number, issued_s, salt, sealed, tries, credential_id in rows
        )

    def events(self, *, after_seq: int = 0) -> tuple[Event, ...]:
        """Return the events with a higher number, oldest first."""
        rows = self._file.rows(
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
        with self._file.transaction():
            writes = Transaction(self._file)
            try:
                yield writes
            finally:
                writes.end()
