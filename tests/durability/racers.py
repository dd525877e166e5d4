"""Processes that race for the last place; imported by each of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkey.errors import PolicyRefusal
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.slots import take_slot

from .side import Side

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

WAIT_S = 60.0


def product(path: Path, share: bytes, start: Any) -> str:
    """Take a place as the product does, and note it in the ledger."""
    with Side(path, seed=share) as side:
        start.wait(WAIT_S)
        try:
            with side.file.transaction():
                slot = take_slot(side.file, share)
                side.ledger.append("share", share)
        except PolicyRefusal as refusal:
            return refusal.code.value
    return f"place {slot}"


def in_turn(path: Path, share: bytes, start: Any) -> str:
    """Append twenty entries, while others do the same."""
    with Side(path, seed=share) as side:
        start.wait(WAIT_S)
        for number in range(20):
            side.append(share + b" %d" % number)
    return "done"


def naive(path: Path, share: bytes, start: Any) -> str:
    """Take a place as a broken build would: look first, write later."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=WAIT_S)) as db:
        (taken,) = db.execute("SELECT count(*) FROM share").fetchone()
        start.wait(WAIT_S)  # everyone has looked: the worst moment, on purpose
        if taken >= MAX_SHARES:
            return "SHARE_LIMIT"
        db.execute("INSERT INTO share VALUES (?)", (share,))
        return f"place {taken + 1}"


def racer(number: int, orders: Connection, start: Any) -> None:
    """Race once for each order, a way and a file, until there are no more."""
    ways = {"product": product, "in turn": in_turn, "naive": naive}
    while (order := orders.recv()) is not None:
        way, path = order
        try:
            orders.send(ways[way](Path(path), b"racer %d" % number, start))
        except BaseException as exc:  # noqa: BLE001 - the test tells it
            start.abort()
            orders.send(f"{type(exc).__name__}: {exc}")
