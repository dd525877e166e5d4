"""The audit log: who asked for what, with which key, when, and what came of it.

Entries are numbered and never change. One goes only with a reason that stays in its place: its time
is over, its consent was withdrawn, or its person was erased (requirements S142, S145, S151, S153,
S154). A dispute about a person or a vehicle keeps every entry that concerns it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dkey.lifecycle.policy import LOG_RETENTION_MONTHS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dkey.lifecycle.durable import DurableFile, Value

__all__ = ["RETENTION_S", "Audit", "AuditEntry", "Basis", "GoneReason"]

RETENTION_S: Final = LOG_RETENTION_MONTHS * 61 // 2 * 86_400
"""Six months are 183 days (requirements S145)."""
_COLUMNS: Final = "number, at_s, vehicle, actor, subject, key_id, action, code, basis, text"
_DISPUTED: Final = (
    "EXISTS (SELECT 1 FROM dispute d WHERE d.ended_s IS NULL"
    " AND (d.person IN (a.actor, a.subject) OR d.vehicle = a.vehicle))"
)
_MAX_TEXT: Final = 500


class Basis(StrEnum):
    """The consent that an entry rests on; it goes when that consent is withdrawn (S145, S148)."""

    PERSONAL_DATA = "PERSONAL_DATA"
    LOCATION = "LOCATION"
    THIRD_PARTY = "THIRD_PARTY"
    NONE = "NONE"
    """About nobody: outages, purges, the authority's own doing."""


class GoneReason(StrEnum):
    """Why an entry is not there any more."""

    RETENTION = "RETENTION"
    CONSENT = "CONSENT"
    ERASURE = "ERASURE"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One entry.

    Attributes:
        number: From 1; a missing number has its reason in the file.
        at_s: When, seconds since 1970.
        vehicle: Vehicle identifier; None for what concerns no vehicle.
        actor: Pseudonym of who asked, or one of the named principals.
        subject: Pseudonym of whom it concerns besides.
        key_id: Share id, or reference of the key or card that it is about (S141).
        action: Name of the command.
        code: Why it was refused; None when it was done.
        basis: Consent that the entry rests on.
        text: In words.
    """

    number: int
    at_s: int
    vehicle: bytes | None
    actor: str
    subject: str | None
    key_id: bytes | None
    action: str
    code: str | None
    basis: Basis
    text: str


class Audit:
    """The log in the authority's file; everything that writes needs an open transaction."""

    def __init__(self, file: DurableFile) -> None:
        self._file = file

    def append(
        self,
        *,
        at_s: int,
        actor: str,
        action: str,
        vehicle: bytes | None = None,
        subject: str | None = None,
        key_id: bytes | None = None,
        code: str | None = None,
        basis: Basis = Basis.PERSONAL_DATA,
        text: str = "",
    ) -> int:
        """Add an entry and return its number."""
        number: int = self._file.rows(
            "SELECT coalesce(max(number), 0) + 1 FROM"
            " (SELECT max(number) AS number FROM audit"
            "  UNION ALL SELECT max(number) FROM audit_gone)"
        )[0][0]
        row = (number, at_s, vehicle, actor, subject, key_id, action, code, basis.value)
        self._file.put("audit", *row, text[:_MAX_TEXT])
        return number

    def entries(self, *, vehicle: bytes | None = None) -> list[AuditEntry]:
        """Return all entries, or those of one vehicle, in order."""
        if vehicle is None:
            return self._found("1")
        return self._found("a.vehicle = ?", vehicle)

    def export(self, person: str) -> list[AuditEntry]:
        """Return what concerns a person, in order (requirements S153)."""
        return self._found("? IN (a.actor, a.subject)", person)

    def purge(self, now_s: int) -> int:
        """Remove what is older than six months; return how many entries went."""
        return self._remove(GoneReason.RETENTION, now_s, "a.at_s < ?", now_s - RETENTION_S)

    def withdraw_consent(self, person: str, basis: Basis, now_s: int) -> int:
        """Remove what rests on a consent that the person withdrew; return how many entries."""
        return self._remove(
            GoneReason.CONSENT,
            now_s,
            "? IN (a.actor, a.subject) AND a.basis = ?",
            person,
            basis.value,
        )

    def erase(self, person: str, now_s: int) -> int:
        """Remove what concerns a person; return how many entries went (requirements S142)."""
        return self._remove(GoneReason.ERASURE, now_s, "? IN (a.actor, a.subject)", person)

    def gone(self) -> list[tuple[int, int, GoneReason]]:
        """Return number, time and reason of every entry that went."""
        rows = self._file.rows("SELECT number, at_s, reason FROM audit_gone ORDER BY number")
        return [(number, at_s, GoneReason(reason)) for number, at_s, reason in rows]

    def disputed(self, person: str) -> bool:
        """Return whether a dispute about this person is open."""
        return bool(
            self._file.rows("SELECT 1 FROM dispute WHERE person = ? AND ended_s IS NULL", person)
        )

    def open_dispute(
        self, now_s: int, reason: str, *, person: str | None = None, vehicle: bytes | None = None
    ) -> int:
        """Keep all that concerns a person or a vehicle from now on; return the dispute's number."""
        number: int = self._file.rows("SELECT coalesce(max(number), 0) + 1 FROM dispute")[0][0]
        self._file.put("dispute", number, person, vehicle, now_s, reason[:_MAX_TEXT], None)
        return number

    def end_dispute(self, number: int, now_s: int) -> bool:
        """End a dispute; return whether it was open."""
        rows = self._file.rows(
            "SELECT number, person, vehicle, since_s, reason FROM dispute"
            " WHERE number = ? AND ended_s IS NULL",
            number,
        )
        for row in rows:
            self._file.update("dispute", *row, now_s)
        return bool(rows)

    def _found(self, condition: str, *values: Value) -> list[AuditEntry]:
        columns = ", ".join(f"a.{name}" for name in _COLUMNS.split(", "))
        rows = self._file.rows(
            f"SELECT {columns} FROM audit a WHERE {condition} ORDER BY a.number",  # noqa: S608 - conditions of this module
            *values,
        )
        return [_entry(row) for row in rows]

    def _remove(self, reason: GoneReason, now_s: int, condition: str, *values: Value) -> int:
        rows = self._file.rows(
            f"SELECT a.number FROM audit a WHERE {condition} AND NOT {_DISPUTED}",  # noqa: S608 - conditions of this module
            *values,
        )
        for (number,) in rows:
            self._file.put("audit_gone", number, now_s, reason.value)
            self._file.delete("audit", "number = ?", number)
        return len(rows)


def _entry(row: Sequence[Value]) -> AuditEntry:
    names = _COLUMNS.split(", ")
    fields = {**dict(zip(names, row, strict=True))}
    fields["basis"] = Basis(str(fields["basis"]))
    return AuditEntry(**fields)  # type: ignore[arg-type]
