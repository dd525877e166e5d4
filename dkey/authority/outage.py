"""Outages of the authority: what waits for the end of one, and its record (S31, S138)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dkey.lifecycle.durable import DurableFile

__all__ = ["Incident", "Outage", "Waiting"]

_MAX_TEXT: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One outage: report time, actions, resumption (requirements S138).

    Attributes:
        number: From 1.
        reported_s: When it began or was reported.
        reason: Why, in words.
        actions: What was done about it.
        resumed_s: When the service worked again; None while it does not.
    """

    number: int
    reported_s: int
    reason: str
    actions: str
    resumed_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A command that was asked for during an outage.

    Attributes:
        number: From 1, in the order of asking.
        at_s: When it was asked for.
        vehicle: Vehicle identifier.
        command: Encoded, with pseudonyms.
        done_s: When it was carried out or refused; None while it waits.
        code: Why it was refused; None where it was not.
        text: The result in words.
    """

    number: int
    at_s: int
    vehicle: bytes
    command: bytes
    done_s: int | None
    code: str | None
    text: str | None


class Outage:
    """The switch, the queue and the incidents; everything that writes needs an open transaction."""

    def __init__(self, file: DurableFile) -> None:
        self._file = file

    @property
    def open(self) -> bool:
        """Whether the authority is out."""
        return self._number() is not None

    def begin(self, reason: str, now_s: int) -> int:
        """Begin an outage, unless one is open; return its number."""
        if (known := self._number()) is not None:
            return known
        number: int = self._file.rows("SELECT coalesce(max(number), 0) + 1 FROM incident")[0][0]
        self._file.put("incident", number, now_s, reason[:_MAX_TEXT], "", None)
        self._set(number)
        return number

    def end(self, actions: str, now_s: int) -> None:
        """End the outage that is open; its incident is complete then."""
        number = self._number()
        for row in self._file.rows(
            "SELECT number, reported_s, reason FROM incident WHERE number = ?", number
        ):
            self._file.update("incident", *row, actions[:_MAX_TEXT], now_s)
        self._set(None)

    def incidents(self) -> list[Incident]:
        """Return every incident, oldest first."""
        rows = self._file.rows(
            "SELECT number, reported_s, reason, actions, resumed_s FROM incident ORDER BY number"
        )
        names = ("number", "reported_s", "reason", "actions", "resumed_s")
        return [Incident(**dict(zip(names, row, strict=True))) for row in rows]

    def wait(self, vehicle: bytes, command: bytes, now_s: int) -> int:
        """Put a command at the end of the queue; return its number."""
        number: int = self._file.rows("SELECT coalesce(max(number), 0) + 1 FROM waiting")[0][0]
        self._file.put("waiting", number, now_s, vehicle, command, None, None, None)
        return number

    def done(self, waiting: Waiting, now_s: int, *, code: str | None, text: str) -> None:
        """Record what came of a command that waited."""
        row = (waiting.number, waiting.at_s, waiting.vehicle, waiting.command)
        self._file.update("waiting", *row, now_s, code, text[:_MAX_TEXT])

    def purge(self, before_s: int) -> None:
        """Remove results from before a time, oldest first, up to a command that waits."""
        self._file.delete(
            "waiting",
            "at_s < ? AND number < coalesce((SELECT min(w.number) FROM waiting w"
            " WHERE w.done_s IS NULL), number + 1)",
            before_s,
        )

    def queue(self, *, open_only: bool = False) -> list[Waiting]:
        """Return the commands that wait or waited, in order."""
        rows = self._file.rows(
            "SELECT number, at_s, vehicle, command, done_s, code, text FROM waiting"
            " WHERE done_s IS NULL OR NOT ? ORDER BY number",
            int(open_only),
        )
        names = ("number", "at_s", "vehicle", "command", "done_s", "code", "text")
        return [Waiting(**dict(zip(names, row, strict=True))) for row in rows]

    def _number(self) -> int | None:
        number: int | None = self._file.rows("SELECT incident FROM authority")[0][0]
        return number

    def _set(self, incident: int | None) -> None:
        row = self._file.rows("SELECT one, created_s, clock_s FROM authority")[0]
        self._file.update("authority", *row, incident)
