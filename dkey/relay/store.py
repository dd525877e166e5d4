"""The relay's mailboxes, in SQLite or PostgreSQL (specs/relay.md §3).

What a call returned is durable: SQLite runs with WAL and synchronous=FULL, PostgreSQL with
synchronous_commit. Claims of devices are kept as SHA-256 only, since whoever knows one can act as
that device. The store may be used from several threads, and by several relays on one PostgreSQL.
"""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from dkey.errors import DkeyError, StoreError, WireError
from dkey.relay.database import MAILBOXES, REQUESTS, SCHEMA, erase_log, open_database
from dkey.relay.messages import Display, Opened, Payload, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any
    from uuid import UUID

    from sqlalchemy import Connection, Engine, Row

    from dkey.crypto.entropy import Entropy
    from dkey.relay.limits import Limits
    from dkey.relay.messages import Create

__all__ = ["Caller", "RelayRefusal", "RelayStore"]

_TRIES: Final = 3


class RelayRefusal(DkeyError):
    """The relay says no; nothing was changed.

    Attributes:
        status: The HTTP status of the answer.
        retry_s: Seconds until the same request may pass, where time is the reason.
    """

    def __init__(self, status: int, message: str, *, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_s = retry_s


def unknown() -> RelayRefusal:
    """Return the one answer for a mailbox that never was, has expired or was deleted."""
    return RelayRefusal(404, "there is no such mailbox")


def forbidden() -> RelayRefusal:
    """Return the one answer for a device that may not do this."""
    return RelayRefusal(403, "this device may not do this")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and what makes a repeated request known.

    Attributes:
        claim: The device's claim, a secret between it and the relay.
        request_id: Its own number of this request; None: a repetition is a new request.
        digest: SHA-256 over method, path and body.
    """

    claim: UUID
    request_id: UUID | None
    digest: bytes

    @property
    def device(self) -> bytes:
        """What the store keeps of the claim."""
        return sha256(b"device claim" + self.claim.bytes).digest()


class RelayStore:
    """Open mailboxes. ``clock`` gives seconds since 1970."""

    def __init__(
        self, engine: Engine, *, clock: Callable[[], float], entropy: Entropy, limits: Limits
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._entropy = entropy
        self._limits = limits

    @classmethod
    def open(
        cls, url: str, *, clock: Callable[[], float], entropy: Entropy, limits: Limits
    ) -> RelayStore:
        """Open the database at an SQLAlchemy URL and make its tables if there are none.

        Raises:
            StoreError: It cannot be reached, is of a newer program, or cannot keep commits.
        """
        return cls(open_database(url), clock=clock, entropy=entropy, limits=limits)

    def close(self) -> None:
        """Close all connections. May be called twice."""
        self._engine.dispose()

    def create(self, caller: Caller, request: Create) -> UUID:
        """Keep a new mailbox of this sender and return its identifier, a UUID of version 4.

        Raises:
            WireError: The expiration is past, or later than the relay keeps anything.
            RelayRefusal: The relay is full, or the request id was used for another request.
        """

        def act(db: Connection, now_s: float) -> str:
            left_s = request.expires_s - now_s
            if not 0 < left_s <= self._limits.ttl_s:
                raise WireError(
                    f"expiration is not within {self._limits.ttl_s:.0f} s from now",
                    clause="specs/relay.md §3.1",
                )
            db.execute(select(SCHEMA.c.version).with_for_update())  # one counts at a time
            self._purge(db, now_s)
            held = db.execute(select(func.count()).select_from(MAILBOXES)).scalar_one()
            if held >= self._limits.mailboxes:
                raise RelayRefusal(503, "the relay is full", retry_s=3600)
            mailbox_id = str(uuid.UUID(bytes=self._entropy.random(16), version=4))
            db.execute(
                insert(MAILBOXES).values(
                    id=mailbox_id,
                    algorithm=request.payload.algorithm,
                    data=request.payload.data,
                    rights=request.rights,
                    display=json.dumps(request.display.to_json()) if request.display else None,
                    expires_s=request.expires_s,
                    sender=caller.device,
                    receiver=None,
                    answered=False,
                )
            )
            return mailbox_id

        return uuid.UUID(self._once(caller, act))

    def read(self, caller: Caller, mailbox_id: UUID) -> Opened:
        """Return what lies there; the first device that is not the sender binds as receiver.

        Raises:
            RelayRefusal: No such mailbox, or bound to another device.
        """
        with self._transaction() as (db, now_s):
            row = self._find(db, mailbox_id, now_s)
            if not compare_digest(row.sender, caller.device):
                if row.receiver is None:
                    db.execute(
                        update(MAILBOXES)
                        .where(MAILBOXES.c.id == row.id)
                        .values(receiver=caller.device)
                    )
                elif not compare_digest(row.receiver, caller.device):
                    raise forbidden()
        return Opened(
            payload=Payload(algorithm=row.algorithm, data=bytes(row.data)),
            expires_s=row.expires_s,
        )

    def display(self, mailbox_id: UUID) -> Shown:
        """Return what anybody may see. Binds nothing.

        Raises:
            RelayRefusal: No such mailbox.
        """
        with self._transaction() as (db, now_s):
            row = self._find(db, mailbox_id, now_s)
        shown = None if row.display is None else Display.from_json(json.loads(row.display))
        return Shown(display=shown, expires_s=row.expires_s)

    def update(self, caller: Caller, mailbox_id: UUID, payload: Payload) -> None:
        """Put a message in the place of the last one.

        Raises:
            RelayRefusal: No such mailbox, or the device may not write here.
        """

        def act(db: Connection, now_s: float) -> str:
            row = self._find(db, mailbox_id, now_s)
            answered = _permit(row, caller, "W") or row.answered
            db.execute(
                update(MAILBOXES)
                .where(MAILBOXES.c.id == row.id)
                .values(algorithm=payload.algorithm, data=payload.data, answered=answered)
            )
            return str(mailbox_id)

        self._once(caller, act)

    def delete(self, caller: Caller, mailbox_id: UUID) -> None:
        """Forget a mailbox for good, as after its redemption.

        Raises:
            RelayRefusal: No such mailbox, or the device may not delete it.
        """

        def act(db: Connection, now_s: float) -> str:
            row = self._find(db, mailbox_id, now_s)
            _permit(row, caller, "D")
            db.execute(delete(MAILBOXES).where(MAILBOXES.c.id == row.id))
            return str(mailbox_id)

        self._once(caller, act)

    def relinquish(self, caller: Caller, mailbox_id: UUID) -> None:
        """Let another device become the receiver, as long as this one has written nothing.

        Raises:
            RelayRefusal: No such mailbox, not its receiver, or the receiver has answered.
        """

        def act(db: Connection, now_s: float) -> str:
            row = self._find(db, mailbox_id, now_s)
            if not _permit(row, caller, "R") or row.answered:
                raise forbidden()
            db.execute(update(MAILBOXES).where(MAILBOXES.c.id == row.id).values(receiver=None))
            return str(mailbox_id)

        self._once(caller, act)

    def purge(self) -> int:
        """Forget what has expired, and all that was deleted; return how many had expired.

        Raises:
            StoreError: The database failed.
        """
        with self._transaction() as (db, now_s):
            expired = self._purge(db, now_s)
        with _told_without_values():
            erase_log(self._engine)
        return expired

    # ---- inside a transaction --------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Connection, float]]:
        """Make the block one commit."""
        with _told_without_values(), self._engine.begin() as db:
            yield db, self._clock()

    def _once(self, caller: Caller, act: Callable[[Connection, float], str]) -> str:
        """Do it, unless this very request was done already; return the mailbox's identifier."""
        for _ in range(_TRIES):
            try:
                with self._transaction() as (db, now_s):
                    known = self._known(db, caller, now_s)
                    if known is not None:
                        return known
                    mailbox_id = act(db, now_s)
                    self._remember(db, caller, mailbox_id, now_s)
                    return mailbox_id
            except IntegrityError:  # the same request came twice at once: the other one is done
                continue
        raise StoreError("the relay's database takes no new row", hint="check the database")

    def _known(self, db: Connection, caller: Caller, now_s: float) -> str | None:
        if caller.request_id is None:
            return None
        row = db.execute(
            select(REQUESTS).where(
                REQUESTS.c.device == caller.device,
                REQUESTS.c.request_id == str(caller.request_id),
                REQUESTS.c.expires_s > now_s,
            )
        ).first()
        if row is None:
            return None
        if not compare_digest(row.digest, caller.digest):
            raise RelayRefusal(409, "this request id was used for another request")
        return str(row.mailbox_id)

    def _remember(self, db: Connection, caller: Caller, mailbox_id: str, now_s: float) -> None:
        if caller.request_id is None:
            return
        db.execute(
            delete(REQUESTS).where(
                REQUESTS.c.device == caller.device,
                REQUESTS.c.request_id == str(caller.request_id),
                REQUESTS.c.expires_s <= now_s,
            )
        )
        db.execute(
            insert(REQUESTS).values(
                device=caller.device,
                request_id=str(caller.request_id),
                digest=caller.digest,
                mailbox_id=mailbox_id,
                expires_s=now_s + self._limits.request_memory_s,
            )
        )

    def _find(self, db: Connection, mailbox_id: UUID, now_s: float) -> Row[Any]:
        row = db.execute(
            select(MAILBOXES)
            .where(MAILBOXES.c.id == str(mailbox_id), MAILBOXES.c.expires_s > now_s)
            .with_for_update()
        ).first()
        if row is None:
            raise unknown()
        return row

    def _purge(self, db: Connection, now_s: float) -> int:
        db.execute(delete(REQUESTS).where(REQUESTS.c.expires_s <= now_s))
        return db.execute(delete(MAILBOXES).where(MAILBOXES.c.expires_s <= now_s)).rowcount


@contextmanager
def _told_without_values() -> Iterator[None]:
    """Turn a failure of the database into a StoreError without a value: it could be a payload."""
    try:
        yield
    except IntegrityError:
        raise
    except SQLAlchemyError as exc:
        raise StoreError(
            f"the relay's database failed: {type(exc).__name__}",
            hint="check the disk, or the database server",
        ) from exc


def _permit(row: Row[Any], caller: Caller, right: str) -> bool:
    """Refuse a device without the right; return whether it is the receiver."""
    if compare_digest(row.sender, caller.device):
        return False
    bound = row.receiver is not None and compare_digest(row.receiver, caller.device)
    if not bound or right not in row.rights:
        raise forbidden()
    return True
