"""Sharing through a relay: what each phone does with the one mailbox of an exchange.

The relay is somebody else's program; :class:`Mailbox` is what is used of it. Each message is
committed in the book before it is left there, and left there again after a crash, with the same
request number, so that the relay carries it out once.
"""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol

from dkey.crypto.kdf import hkdf
from dkey.errors import AuthenticationError, PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.envelope import Direction, open_envelope
from dkey.lifecycle.share_messages import Step
from dkey.lifecycle.share_states import SHARER_TRANSITIONS, ShareInput, ShareState, allow

if TYPE_CHECKING:
    from dkey.agent.key_accepting import Friend
    from dkey.agent.key_records import Exchange
    from dkey.agent.key_sharing import Sharer
    from dkey.crypto.secret import Secret

__all__ = ["FriendPost", "Mailbox", "Progress", "SharerPost", "claim_of"]


_OVER: Final = (ShareState.EXPIRED, ShareState.LOCKED, ShareState.DECLINED)


class Mailbox(Protocol):
    """One mailbox, for the device that made it or received it."""

    def create(self, envelope: bytes, *, expires_s: int, request: bytes) -> bytes:
        """Leave the first message in a new mailbox; return its identifier, 16 bytes."""

    def read(self, mailbox: bytes) -> bytes:
        """Return the envelope that lies there."""

    def update(self, mailbox: bytes, envelope: bytes, *, request: bytes) -> None:
        """Put an envelope in the place of the last one."""

    def delete(self, mailbox: bytes, *, request: bytes) -> None:
        """Delete the mailbox."""


class Progress(StrEnum):
    """Where an exchange stands, for who waits for it."""

    WAITING = "waiting"
    """The other side has to do something."""
    COMPARE = "compare"
    """The sharer has to compare the fingerprint and confirm."""
    DONE = "done"


def claim_of(secret: Secret, own: bytes) -> bytes:
    """Return the claim of a friend's device to a mailbox, 16 bytes: the same again after a crash.

    Args:
        secret: The secret of the link.
        own: Something that only this store has.
    """
    return hkdf(secret.reveal(), own, b"dkey relay claim 1", 16)


def _request(share_id: bytes, step: str) -> bytes:
    return sha256(b"dkey relay request" + share_id + step.encode()).digest()[:16]


def _is(secret: Secret, data: bytes, direction: Direction, step: int) -> bool:
    with suppress(AuthenticationError, WireError):
        open_envelope(secret, data, direction=direction, sequence=step)
        return True
    return False


class SharerPost:
    """The sharer's mailbox of one exchange."""

    def __init__(self, sharer: Sharer, share_id: bytes, mailbox: Mailbox) -> None:
        self._sharer = sharer
        self._share_id = share_id
        self._mailbox = mailbox

    def leave(self) -> Exchange:
        """Leave the invitation in a mailbox, once.

        Raises:
            LinkError, PolicyRefusal: The relay does not take it.
        """
        exchange = self._sharer.find(self._share_id)
        assert exchange.post is not None
        if exchange.post.mailbox is not None:
            return exchange
        offer = self._sharer.value(exchange).invitation
        mailbox = self._mailbox.create(
            exchange.envelope,
            expires_s=offer.expires_s - 60,  # the relay's clock may be a little behind
            request=_request(self._share_id, "create"),
        )
        return self._sharer.posted(self._share_id, mailbox)

    def step(self) -> Progress:
        """Look into the mailbox and take what is there.

        Raises:
            PolicyRefusal: A wrong PIN, which was counted; the invitation lies there again.
                CODE_TIMEOUT, CODE_LOCKED_OUT, NOT_AUTHORISED: it is over, or was taken back.
            LinkError: The relay is away.
        """
        exchange = self.leave()
        value = self._sharer.current(exchange)
        if value.state in _OVER:
            allow(value.state, ShareInput.REQUEST, SHARER_TRANSITIONS)
        if value.state is ShareState.IMPORTED:
            return Progress.DONE
        if value.state is ShareState.REQUESTED:
            return Progress.COMPARE
        data = self._mailbox.read(self._id(exchange))
        if _is(value.secret, data, Direction.TO_SHARER, Step.RECEIPT):
            self._sharer.take_receipt(self._share_id, data)
            self._mailbox.delete(self._id(exchange), request=_request(self._share_id, "delete"))
            return Progress.DONE
        if _is(value.secret, data, Direction.TO_SHARER, Step.REQUEST):
            return self._asked(exchange, data)
        return Progress.WAITING

    def answer(self) -> None:
        """Leave the signed key in the mailbox."""
        exchange = self._sharer.find(self._share_id)
        self._mailbox.update(
            self._id(exchange), exchange.envelope, request=_request(self._share_id, "answer")
        )

    def withdraw(self) -> None:
        """Delete the mailbox of an invitation that is taken back."""
        exchange = self._sharer.find(self._share_id)
        if exchange.post is not None and exchange.post.mailbox is not None:
            self._mailbox.delete(exchange.post.mailbox, request=_request(self._share_id, "delete"))

    def _asked(self, exchange: Exchange, data: bytes) -> Progress:
        value = self._sharer.value(exchange)
        if value.state is ShareState.SIGNED:
            self.answer()
            return Progress.WAITING
        try:
            self._sharer.take_request(self._share_id, data)
        except PolicyRefusal:
            tries = self._sharer.value(self._sharer.find(self._share_id)).tries
            self._mailbox.update(
                self._id(exchange),
                exchange.envelope,
                request=_request(self._share_id, f"again {tries}"),
            )
            raise
        return Progress.COMPARE

    def _id(self, exchange: Exchange) -> bytes:
        assert exchange.post is not None
        assert exchange.post.mailbox is not None
        return exchange.post.mailbox


class FriendPost:
    """The friend's side of the mailbox."""

    def __init__(self, friend: Friend, share_id: bytes, mailbox: Mailbox) -> None:
        self._friend = friend
        self._share_id = share_id
        self._mailbox = mailbox

    def ask(self) -> None:
        """Leave the request in the mailbox where the invitation lies, and nothing later."""
        exchange = self._exchange()
        value = self._friend.value(exchange)
        if value.state is not ShareState.REQUESTED:
            return
        data = self._mailbox.read(self._id(exchange))
        if _is(value.secret, data, Direction.TO_FRIEND, Step.INVITATION):
            number = "request " + sha256(exchange.envelope).hexdigest()
            self._mailbox.update(
                self._id(exchange), exchange.envelope, request=_request(self._share_id, number)
            )

    def step(self) -> Progress:
        """Look into the mailbox; import the signed key where it lies there.

        Raises:
            PolicyRefusal: NOT_AUTHORISED, the invitation lies there again: the PIN was wrong.
            LinkError: The relay is away.
        """
        exchange = self._exchange()
        value = self._friend.value(exchange)
        if value.state is ShareState.IMPORTED:
            self.thank()
            return Progress.DONE
        data = self._mailbox.read(self._id(exchange))
        if _is(value.secret, data, Direction.TO_FRIEND, Step.ANSWER):
            self._friend.answer(self._share_id, data)
            self.thank()
            return Progress.DONE
        if _is(value.secret, data, Direction.TO_FRIEND, Step.INVITATION):
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                "the sharer did not take the request: the PIN was wrong",
                hint="ask the sharer for the PIN and accept again",
            )
        return Progress.WAITING

    def thank(self) -> None:
        """Leave the receipt; the sharer may have deleted the mailbox already."""
        exchange = self._exchange()
        with suppress(PolicyRefusal):
            self._mailbox.update(
                self._id(exchange), exchange.envelope, request=_request(self._share_id, "receipt")
            )

    def _exchange(self) -> Exchange:
        found = next(
            (each for each in self._friend.exchanges() if each.share_id == self._share_id), None
        )
        assert found is not None
        return found

    def _id(self, exchange: Exchange) -> bytes:
        assert exchange.post is not None
        assert exchange.post.mailbox is not None
        return exchange.post.mailbox
