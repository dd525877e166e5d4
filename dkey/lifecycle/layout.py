"""What one kind of durable store keeps, and the digest of its rows."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Layout", "Value", "digest", "insert"]

Value = str | bytes | int | float | None
"""What a column holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What one kind of store keeps.

    Attributes:
        what: Its name in errors, such as ``an agent's store``.
        application_id: Marks the file as of this kind, in SQLite's header.
        migrations: Statements that lead from schema version ``index`` to ``index + 1``. They may
            call ``row_digest (table, values...)``, which is :func:`digest`.
        columns: Table to its columns under the row's digest, in digest order, the key first.
        gaps: For schema version ``index + 1`` and later, a query of one number, 0 unless rows are
            missing.
        restore: What to do with a damaged file.
        checks: What is wrong, in words, with tables that carry a check of their own and have no
            place in ``columns``; None where all is well. Each must do with a missing table.
    """

    what: str
    application_id: int
    migrations: Sequence[Sequence[str]]
    columns: Mapping[str, tuple[str, ...]]
    gaps: tuple[str, ...]
    restore: str
    checks: Sequence[Callable[[sqlite3.Connection], str | None]] = ()


def digest(table: str, values: Sequence[Value]) -> bytes:
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


def insert(
    db: sqlite3.Connection, layout: Layout, table: str, row: Sequence[Value], *, replace: bool
) -> None:
    """Write one row with its digest; ``row`` is in the order of the layout's columns."""
    columns = (*layout.columns[table], "digest")
    db.execute(
        f"INSERT {'OR REPLACE ' if replace else ''}INTO {table} ({', '.join(columns)})"  # noqa: S608 - names of the layout
        f" VALUES ({', '.join('?' * len(columns))})",
        (*row, digest(table, row)),
    )
