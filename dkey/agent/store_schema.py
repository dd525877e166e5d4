"""The tables of the agent's store, their history, and their records (specs/storage.md).

A resolving key and a Kpersistent stand in it sealed, bound to their place, so that a row that was
moved does not open.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dkey.lifecycle.durable import Layout
from dkey.lifecycle.ledger_schema import (
    LEDGER_COLUMNS,
    LEDGER_GAPS,
    LEDGER_SCHEMA,
    PEER_COLUMNS,
    PEER_SCHEMA,
    check_ledger,
)

if TYPE_CHECKING:
    from dkey.pairing.owner import PairedVehicle

__all__ = ["LAYOUT", "AgentEvent", "KeyState", "VehicleKey", "kpersistent_place", "resolving_place"]


class KeyState(StrEnum):
    """How far a key is set up (requirements S20, S79)."""

    NONE = "NONE"
    """No vehicle is paired."""
    REGISTERED = "REGISTERED"
    """Paired; the vehicle has not confirmed the key by a standard transaction yet."""
    SYNCED = "SYNCED"
    """Usable."""
    FORGOTTEN = "FORGOTTEN"
    """The vehicle, having proved who it is, said that it does not know the key (any more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleKey:
    """One vehicle that the agent is paired with, and the key to it.

    Attributes:
        vehicle: What the vehicle granted.
        key: Name of the private key in the vault.
        state: How far it is set up; never NONE.
        created_s: When it was paired, unix seconds.
    """

    vehicle: PairedVehicle
    key: str
    state: KeyState
    created_s: float

    @property
    def group_id(self) -> bytes:
        """The vehicle's identifier, 16 bytes."""
        return self.vehicle.group_id


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEvent:
    """One line of the history.

    Attributes:
        seq: Number; later is higher.
        t_s: Unix seconds.
        kind: What happened: ``paired``, ``synced``, ``command``, ``refused``, ``forgotten``...
        group_id: The vehicle; None where none was known.
        code: Refusal code or kind of trouble; None without.
        text: In words, without secrets.
    """

    seq: int
    t_s: float
    kind: str
    group_id: bytes | None
    code: str | None
    text: str


def resolving_place(group_id: bytes) -> bytes:
    """Return what a sealed resolving key is bound to."""
    return b"dkey.agent/1 resolving" + group_id


def kpersistent_place(group_id: bytes, sub_id: bytes) -> bytes:
    """Return what a sealed Kpersistent is bound to."""
    return b"dkey.agent/1 kpersistent" + group_id + sub_id


LAYOUT: Final = Layout(
    what="an agent's store",
    application_id=0x646B_6167,  # dkag
    migrations=(
        (
            """CREATE TABLE agent (
                one INTEGER PRIMARY KEY CHECK (one = 1),
                seal_key BLOB NOT NULL CHECK (length(seal_key) = 65),
                digest BLOB NOT NULL) STRICT""",
            """CREATE TABLE vehicle (
                group_id BLOB PRIMARY KEY NOT NULL CHECK (length(group_id) = 16),
                public_key BLOB NOT NULL CHECK (length(public_key) = 65),
                resolving_key BLOB NOT NULL,
                owner_epoch INTEGER NOT NULL CHECK (owner_epoch >= 0),
                features TEXT NOT NULL,
                key_name TEXT NOT NULL,
                key TEXT NOT NULL UNIQUE,
                state TEXT NOT NULL CHECK (state IN ('REGISTERED', 'SYNCED', 'FORGOTTEN')),
                created_s REAL NOT NULL,
                digest BLOB NOT NULL) STRICT""",
            """CREATE TABLE kpersistent (
                group_id BLOB NOT NULL REFERENCES vehicle (group_id),
                sub_id BLOB NOT NULL CHECK (length(sub_id) = 16),
                sealed BLOB NOT NULL,
                digest BLOB NOT NULL,
                PRIMARY KEY (group_id, sub_id)) STRICT""",
            """CREATE TABLE event (
                seq INTEGER PRIMARY KEY,
                t_s REAL NOT NULL,
                kind TEXT NOT NULL,
                group_id BLOB,
                code TEXT,
                text TEXT NOT NULL,
                digest BLOB NOT NULL) STRICT""",
            """CREATE TRIGGER event_no_update BEFORE UPDATE ON event
                BEGIN SELECT RAISE (ABORT, 'the history is not changed'); END""",
        ),
        (*LEDGER_SCHEMA, *PEER_SCHEMA),
    ),
    columns={
        "agent": ("one", "seal_key"),
        "vehicle": (
            *("group_id", "public_key", "resolving_key", "owner_epoch", "features"),
            *("key_name", "key", "state", "created_s"),
        ),
        "kpersistent": ("group_id", "sub_id", "sealed"),
        "event": ("seq", "t_s", "kind", "group_id", "code", "text"),
        **LEDGER_COLUMNS,
        **PEER_COLUMNS,
    },
    # Old events leave from the front, so what is left has no gap.
    gaps=(
        (
            "SELECT ((SELECT count(*) FROM agent) <> 1)"
            " + (SELECT coalesce(max(seq) - min(seq) + 1, 0) <> count(*) FROM event)"
        ),
        LEDGER_GAPS,
    ),
    checks=(check_ledger,),
    restore="restore the whole folder from a backup, or move it away and pair again",
)
