"""One tap on the wire: authentication, what the phone delivers, the decision, the last word.

Where nothing is delivered all of it is one procedure that runs wherever the link's driver runs, and
reads only memory. A delivery goes step by step, because what it changes is committed in between.
Nothing here acts: the vehicle does, when the device confirmed the end of the transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dkey.access.delivery import announced, deliver, is_due, receipt_write
from dkey.access.enrolled import Flow
from dkey.access.exchange import ReaderStatus
from dkey.access.profile import VEHICLE
from dkey.control.intent import parse_intent
from dkey.control.rules import Action, Grant, Verdict
from dkey.control.touch import Intent, Position
from dkey.errors import RemoteFault, WireError
from dkey.link.driver import run
from firmware_mock.outcome import status_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from dkey.access.enrolled import EnrolledCredential
    from dkey.access.session import Session
    from dkey.crypto.secret import Secret
    from dkey.lifecycle.parcel import ParcelHeader
    from dkey.link.base import Link
    from firmware_mock.key_list import KeyList
    from firmware_mock.share_desk import ShareDesk

__all__ = ["Decided", "Decider", "TouchTap"]


@dataclass(slots=True)
class Decided:
    """A tap whose transaction ended; nothing of it is kept yet."""

    verdict: Verdict
    credential: EnrolledCredential | None
    intent: Intent | None
    flow: Flow
    kpersistent: Secret | None


@dataclass(slots=True)
class _Due:
    """A tap in which the phone proved its key, and what it carries."""

    session: Session
    intent: Intent | None
    header: ParcelHeader | None
    introduces: bool


class Decider(Protocol):
    """Says what a tap may do, from memory alone."""

    def __call__(
        self, position: Position, grant: Grant | None, intent: Intent | None, flow: Flow, /
    ) -> Verdict:
        """Decide as things stand now."""


class TouchTap:
    """Runs taps at the touch readers of one vehicle.

    Args:
        keys: The key list, with the readers.
        shares: Takes what is delivered.
        decide: Decides; may be called from a reader's thread.
    """

    def __init__(self, keys: KeyList, shares: ShareDesk, decide: Decider) -> None:
        self._keys = keys
        self._shares = shares
        self._decide = decide

    async def run(self, position: Position, link: Link) -> Decided:
        """Run one transaction up to its last word.

        Raises:
            RemoteFault, LinkError: It came to nothing; what was delivered before stays.
        """
        found = await run(self._transaction(position), link)
        return await self._delivered(position, found, link) if isinstance(found, _Due) else found

    def _transaction(self, position: Position) -> Generator[bytes, bytes, Decided | _Due]:
        """Authenticate, decide and tell the device; stop before where a delivery is due.

        All of it reads only memory, so that it runs in one go on the reader's thread.
        """
        reader = self._keys.reader(position)
        handle = position is Position.DOOR_HANDLE
        session = yield from reader.authenticate(Flow.AUTO if handle else Flow.STANDARD)
        try:
            intent = parse_intent(session.extension) if VEHICLE.intents else None
        except RemoteFault:
            yield from session.fail(ReaderStatus.BAD_FORMAT)
            raise
        due = _Due(session, intent, announced(session), session.credential is None)
        if is_due(due.header, self._shares.receipt(), introduces=due.introduces):
            return due
        return (yield from self._told(position, due, session.credential, receipt=True))

    def _told(
        self,
        position: Position,
        due: _Due,
        credential: EnrolledCredential | None,
        *,
        receipt: bool,
    ) -> Generator[bytes, bytes, Decided]:
        """Decide and tell the device; leave the receipt too where a phone waits for it."""
        session = due.session
        grant = self._keys.acting(credential, session.flow)
        verdict = self._decide(position, grant, due.intent, session.flow)
        if verdict.code is not None:
            yield from session.fail(status_of(verdict.code))
        else:
            status = ReaderStatus.UNSECURE
            if verdict.action is Action.LOCK:
                status = ReaderStatus.SECURE
            left = (receipt_write(self._shares.receipt()),) if due.header and receipt else None
            yield from session.complete(status, mailbox=left)
        return Decided(verdict, credential, due.intent, session.flow, session.kpersistent)

    async def _delivered(self, position: Position, due: _Due, link: Link) -> Decided:
        """Take the delivery step by step, committing here, and go on with what it made of the key.

        Raises:
            RemoteFault, LinkError: What was committed stays; the tap came to nothing.
        """
        session = due.session
        if session.public_key is None:
            raise WireError("a delivery without a key", clause="specs/lifecycle.md §8")
        taker = self._shares.taker(session.public_key, position)
        procedure = deliver(due.header, taker, introduces=due.introduces)
        try:
            request = next(procedure)
            while True:
                reads = await run(session.exchange(request), link)
                request = procedure.send(reads)
        except StopIteration:
            pass
        except RemoteFault:
            await run(session.fail(ReaderStatus.BAD_FORMAT), link)
            raise
        finally:
            procedure.close()
        credential = self._keys.enrolled(session.public_key.x)
        return await run(self._told(position, due, credential, receipt=False), link)
