"""The tables of the authority's file, and how persons appear in them.

Every table but ``account`` names people by a random pseudonym (``person``). Erasing a person
empties the one row that knows the account, so that ledger, audit log and notifications name nobody
any more and stay whole (specs/authority.md §5).
"""

from __future__ import annotations

from typing import Final

from dkey.lifecycle import durable

__all__ = ["APPLICATION_ID", "COLUMNS", "GAPS", "STATEMENTS"]

APPLICATION_ID: Final = 0x646B_6175
"""Marks the file as ours: ``dkau`` in ASCII."""

STATEMENTS: Final[tuple[str, ...]] = (
    """CREATE TABLE authority (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        created_s INTEGER NOT NULL,
        clock_s INTEGER NOT NULL,
        incident INTEGER,
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE account (
        person TEXT PRIMARY KEY NOT NULL,
        account TEXT UNIQUE,
        token_hash BLOB CHECK (length(token_hash) = 32),
        sms TEXT,
        app INTEGER NOT NULL CHECK (app IN (0, 1)),
        offers INTEGER NOT NULL CHECK (offers IN (0, 1)),
        state TEXT NOT NULL CHECK (state IN ('OPEN', 'CLOSED', 'ERASED')),
        created_s INTEGER NOT NULL,
        digest BLOB NOT NULL,
        CHECK ((state = 'ERASED') = (account IS NULL))) STRICT""",
    """CREATE TABLE consent (
        number INTEGER PRIMARY KEY,
        person TEXT NOT NULL REFERENCES account (person),
        purpose TEXT NOT NULL,
        version TEXT NOT NULL,
        channel TEXT NOT NULL,
        given_s INTEGER NOT NULL,
        withdrawn_s INTEGER,
        digest BLOB NOT NULL) STRICT""",
    "CREATE INDEX consent_person ON consent (person, purpose)",
    """CREATE TABLE vehicle (
        vehicle BLOB PRIMARY KEY NOT NULL CHECK (length(vehicle) = 16),
        vin TEXT NOT NULL UNIQUE,
        market TEXT NOT NULL,
        profile TEXT NOT NULL,
        public_key BLOB NOT NULL CHECK (length(public_key) = 65),
        token_hash BLOB NOT NULL CHECK (length(token_hash) = 32),
        service_mode INTEGER NOT NULL CHECK (service_mode IN (0, 1)),
        registered_s INTEGER NOT NULL,
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE withdrawal (
        vehicle BLOB PRIMARY KEY NOT NULL REFERENCES vehicle (vehicle),
        epoch INTEGER NOT NULL,
        number INTEGER NOT NULL CHECK (number >= 1),
        content BLOB NOT NULL CHECK (length(content) = 32),
        signed BLOB NOT NULL,
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE telematic (
        vehicle BLOB PRIMARY KEY NOT NULL REFERENCES vehicle (vehicle),
        unit TEXT NOT NULL,
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE notification (
        number INTEGER PRIMARY KEY,
        at_s INTEGER NOT NULL,
        vehicle BLOB,
        recipient TEXT NOT NULL,
        kind TEXT NOT NULL,
        purpose TEXT NOT NULL,
        channel TEXT NOT NULL,
        delivered INTEGER NOT NULL CHECK (delivered IN (0, 1)),
        digest BLOB NOT NULL) STRICT""",
    "CREATE INDEX notification_recipient ON notification (recipient, number)",
    """CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        at_s INTEGER NOT NULL,
        vehicle BLOB,
        actor TEXT NOT NULL,
        subject TEXT,
        key_id BLOB,
        action TEXT NOT NULL,
        code TEXT,
        basis TEXT NOT NULL,
        text TEXT NOT NULL,
        digest BLOB NOT NULL) STRICT""",
    "CREATE INDEX audit_time ON audit (at_s)",
    """CREATE TABLE audit_gone (
        number INTEGER PRIMARY KEY,
        at_s INTEGER NOT NULL,
        reason TEXT NOT NULL CHECK (reason IN ('RETENTION', 'CONSENT', 'ERASURE')),
        digest BLOB NOT NULL) STRICT""",
    """CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
        BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END""",
    """CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
        WHEN NOT EXISTS (SELECT 1 FROM audit_gone g WHERE g.number = old.number)
        BEGIN SELECT RAISE (ABORT, 'an audit entry goes only with a reason'); END""",
    """CREATE TABLE dispute (
        number INTEGER PRIMARY KEY,
        person TEXT,
        vehicle BLOB,
        since_s INTEGER NOT NULL,
        reason TEXT NOT NULL,
        ended_s INTEGER,
        digest BLOB NOT NULL,
        CHECK ((person IS NULL) <> (vehicle IS NULL))) STRICT""",
    """CREATE TABLE waiting (
        number INTEGER PRIMARY KEY,
        at_s INTEGER NOT NULL,
        vehicle BLOB NOT NULL REFERENCES vehicle (vehicle),
        command BLOB NOT NULL,
        done_s INTEGER,
        code TEXT,
        text TEXT,
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE incident (
        number INTEGER PRIMARY KEY,
        reported_s INTEGER NOT NULL,
        reason TEXT NOT NULL,
        actions TEXT NOT NULL,
        resumed_s INTEGER,
        digest BLOB NOT NULL) STRICT""",
)
"""Statements of schema version 1, without those of the ledger."""

COLUMNS: Final = {
    "authority": ("one", "created_s", "clock_s", "incident"),
    "account": (
        *("person", "account", "token_hash", "sms", "app", "offers", "state", "created_s"),
    ),
    "consent": ("number", "person", "purpose", "version", "channel", "given_s", "withdrawn_s"),
    "vehicle": (
        *("vehicle", "vin", "market", "profile", "public_key", "token_hash"),
        *("service_mode", "registered_s"),
    ),
    "withdrawal": ("vehicle", "epoch", "number", "content", "signed"),
    "telematic": ("vehicle", "unit"),
    "notification": (
        *("number", "at_s", "vehicle", "recipient", "kind", "purpose", "channel", "delivered"),
    ),
    "audit": (
        *("number", "at_s", "vehicle", "actor", "subject", "key_id", "action"),
        *("code", "basis", "text"),
    ),
    "audit_gone": ("number", "at_s", "reason"),
    "dispute": ("number", "person", "vehicle", "since_s", "reason", "ended_s"),
    "waiting": ("number", "at_s", "vehicle", "command", "done_s", "code", "text"),
    "incident": ("number", "reported_s", "reason", "actions", "resumed_s"),
}
"""Columns under the digest of a row, in digest order, which never changes."""

GAPS: Final = (
    "SELECT ((SELECT count(*) FROM authority) <> 1)"
    " + ((SELECT coalesce(max(number), 0) FROM ("
    "  SELECT number FROM audit UNION ALL SELECT number FROM audit_gone))"
    "  <> (SELECT count(*) FROM audit) + (SELECT count(*) FROM audit_gone))"
    " + (SELECT coalesce(max(number) - min(number) + 1, 0) <> count(*) FROM notification)"
    " + (SELECT coalesce(max(number) - min(number) + 1, 0) <> count(*) FROM waiting)"
)
"""A query of one number, 0 unless rows are missing; old notices and results go oldest first."""

EMPTY_LAYOUT: Final = durable.Layout(
    what="an authority's store",
    application_id=APPLICATION_ID,
    migrations=(STATEMENTS,),
    columns=COLUMNS,
    gaps=(GAPS,),
    restore="keep the file for analysis and restore a backup of the whole state folder",
)
"""The authority's tables alone."""
