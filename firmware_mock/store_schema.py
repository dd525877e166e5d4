"""The tables of the vehicle's store, their history, and how a row becomes a record.

Every row carries a digest over its other columns, so a damaged file is noticed at open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dkey.lifecycle import durable
from dkey.lifecycle.ledger_schema import (
    LEDGER_COLUMNS,
    LEDGER_GAPS,
    LEDGER_SCHEMA,
    PEER_COLUMNS,
    PEER_SCHEMA,
    SLOT_COLUMNS,
    SLOT_SCHEMA,
    check_ledger,
)
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission, Role
from firmware_mock.records import Credential

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from dkey.lifecycle.durable import Value

__all__ = [
    "APPLICATION_ID",
    "COLUMNS",
    "CREDENTIAL_COLUMNS",
    "LAYOUT",
    "MIGRATIONS",
    "credential_of",
    "credential_row",
    "insert",
]

APPLICATION_ID: Final = 0x646B_6579
"""Marks the file as ours: ``dkey`` in ASCII, in SQLite's application_id."""
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
    (
        """CREATE TABLE first_use (
            credential_id TEXT PRIMARY KEY NOT NULL REFERENCES credential (id),
            digest BLOB NOT NULL) STRICT""",
        """CREATE TABLE pairing_code (
            number INTEGER PRIMARY KEY,
            issued_s REAL NOT NULL,
            salt BLOB NOT NULL CHECK (length(salt) = 16),
            sealed BLOB,
            tries INTEGER NOT NULL CHECK (tries BETWEEN 0 AND 3),
            state TEXT NOT NULL CHECK (state IN ('OPEN', 'PAIRED', 'CLOSED')),
            credential_id TEXT REFERENCES credential (id),
            digest BLOB NOT NULL,
            CHECK ((state = 'PAIRED') = (credential_id IS NOT NULL)),
            CHECK ((state = 'CLOSED') = (sealed IS NULL))) STRICT""",
        "CREATE UNIQUE INDEX one_code ON pairing_code (sealed IS NULL) WHERE sealed IS NOT NULL",
        "CREATE INDEX pairing_code_credential ON pairing_code (credential_id)",
        """CREATE TABLE ownership (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            epoch INTEGER NOT NULL CHECK (epoch >= 1),
            resolving_key BLOB,
            digest BLOB NOT NULL) STRICT""",
        "INSERT INTO ownership SELECT 1, 1, NULL, row_digest ('ownership', 1, 1, NULL)",
    ),
    (*LEDGER_SCHEMA, *SLOT_SCHEMA, *PEER_SCHEMA),
)
"""Statements that lead from schema version ``index`` to ``index + 1``. A released entry is final.

The number of card slots and of tries are MAX_CARDS and CODE_MAX_TRIES at the time of the migration;
a change of the policy needs a new entry.
"""

COLUMNS: Final = {
    "vehicle": ("one", "group_id"),
    "reader": ("position", "sub_id", "public_key"),
    "credential": (
        *("id", "name", "x", "public_key", "role", "permission", "state", "provenance"),
        *("created_s", "replaced_by"),
    ),
    "card_slot": ("slot", "credential_id"),
    "kpersistent": ("sub_id", "credential_id", "sealed", "used_seq"),
    "event": ("seq", "t_s", "kind", "position", "credential_id", "code", "text"),
    "ownership": ("one", "epoch", "resolving_key"),
    "first_use": ("credential_id",),
    "pairing_code": ("number", "issued_s", "salt", "sealed", "tries", "state", "credential_id"),
    **LEDGER_COLUMNS,
    **SLOT_COLUMNS,
    **PEER_COLUMNS,
}
"""Columns under the digest of a row, in digest order, which never changes."""

LAYOUT: Final = durable.Layout(
    what="a vehicle's store",
    application_id=APPLICATION_ID,
    migrations=MIGRATIONS,
    columns=COLUMNS,
    gaps=(
        (
            "SELECT ((SELECT count(*) FROM vehicle) <> 1)"
            " + (SELECT coalesce(max(seq), 0) <> count(*) FROM event)"
            " + (SELECT count(*) FROM credential c"
            "  LEFT JOIN card_slot s ON s.credential_id = c.id"
            "  WHERE (c.role = 'CARD' AND c.state IN ('ACTIVE', 'SUSPENDED'))"
            "  <> (s.slot NOT NULL))"
        ),
        "SELECT (SELECT count(*) FROM ownership) <> 1",
        LEDGER_GAPS,
    ),
    checks=(check_ledger,),
    restore="keep the file for analysis, restore a backup, or pair all keys again in a new store",
)
"""What the vehicle's store keeps."""

CREDENTIAL_COLUMNS: Final = ", ".join(
    (
        *(f"c.{name}" for name in COLUMNS["credential"]),
        "EXISTS (SELECT 1 FROM first_use f WHERE f.credential_id = c.id)",
    )
)
"""The columns of a credential, for :func:`credential_of`; its table is ``c`` in the query."""


def credential_row(credential: Credential) -> tuple[Value, ...]:
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


def credential_of(row: Sequence[Any]) -> Credential:
    """Return the credential in a row of :data:`CREDENTIAL_COLUMNS`."""
    credential_id, name, _x, public_key, role, permission, state, provenance, created, *rest = row
    replaced_by, first_use = rest
    return Credential(
        credential_id=credential_id,
        name=name,
        public_key=public_key,
        role=Role(role),
        permission=Permission(permission),
        state=CredentialState(state),
        provenance=None if provenance is None else CardProvenance(provenance),
        created_s=created,
        replaced_by=replaced_by,
        first_use=bool(first_use),
    )


def insert(db: sqlite3.Connection, table: str, row: Sequence[Value]) -> None:
    """Write one row, with its digest, into a file of any version that is made by hand."""
    durable.insert(db, LAYOUT, table, row, replace=False)
