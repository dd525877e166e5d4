"""The sharer's phone: offers a key, confirms the friend's, signs, and withdraws.

Each function is one commit of the book; what it returns may leave then, and not before. Asked again
after a crash, it returns the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

from dkey.agent.key_records import End, Exchange, Post
from dkey.codec import cbor
from dkey.crypto.secret import Secret
from dkey.errors import AuthenticationError, LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.account import account_form
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.commands import AUTHORITY, Accept, Invite, Revoke
from dkey.lifecycle.envelope import Direction, open_envelope
from dkey.lifecycle.features import PERMITTED, Feature
from dkey.lifecycle.invitation import Invitation, ShareLink
from dkey.lifecycle.policy import INVITATION_TTL_H
from dkey.lifecycle.roles import Role
from dkey.lifecycle.share_messages import Step, VehicleAccess, share_pin
from dkey.lifecycle.share_states import ShareState
from dkey.lifecycle.sharing import SharerExchange, Signing

if TYPE_CHECKING:
    from dkey.agent.key_book import Change
    from dkey.agent.key_records import VehicleBook
    from dkey.agent.store import AgentStore
    from dkey.crypto.entropy import Entropy
    from dkey.lifecycle.commands import Booking
    from dkey.lifecycle.roles import Permission

__all__ = ["Offer", "Sharer", "mailbox_url"]

_OPEN: Final = (ShareState.INVITED, ShareState.REQUESTED, ShareState.CONFIRMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What is offered to whom.

    Attributes:
        relay: The relay that passes the messages on; None when files go by hand.
        share_id: Of an order that the authority took already; None for a new share.
    """

    account: str
    role: Role
    permission: Permission
    not_before_s: int
    not_after_s: int
    pin: bool = False
    vehicle_name: str | None = None
    relay: str | None = None
    booking: Booking | None = None
    share_id: bytes | None = None


class Sharer:
    """The sharer's part of one store."""

    def __init__(self, store: AgentStore, entropy: Entropy) -> None:
        self._store = store
        self._book = store.keys
        self._entropy = entropy

    def value(self, exchange: Exchange) -> SharerExchange:
        """Return the exchange itself."""
        return SharerExchange.from_value(cbor.decode(exchange.value), self._store.seal)

    def current(self, exchange: Exchange) -> SharerExchange:
        """Return the exchange as it is at this time."""
        return self.value(exchange).tick(self._book.now_s)

    def exchanges(self, vehicle: bytes | None = None) -> tuple[Exchange, ...]:
        """Return the exchanges in which this phone shares."""
        return tuple(
            each
            for each in self._book.state.exchanges
            if each.end is End.SHARER and vehicle in (None, each.vehicle)
        )

    def find(self, share_id: bytes) -> Exchange:
        """Return one of them.

        Raises:
            PolicyRefusal: KEY_UNKNOWN.
        """
        found = self._book.state.exchange(share_id, End.SHARER)
        if found is None:
            raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, "this phone has sent no such invitation")
        return found

    def link(self, exchange: Exchange) -> ShareLink:
        """Return what is handed to the friend."""
        value = self.value(exchange)
        post = exchange.post
        if post is not None and post.mailbox is not None:
            return ShareLink(secret=value.secret, url=mailbox_url(post), envelope=exchange.envelope)
        return value.link(exchange.envelope)

    def invite(self, vehicle: bytes, offer: Offer) -> Exchange:
        """Offer a key: its place is taken, and the invitation signed, in one commit.

        Raises:
            PolicyRefusal: A rule says no, with SHARE_LIMIT for the fourth share.
        """
        self._book.book(vehicle)
        key = self._store.vehicle(vehicle).key
        with self._book.change() as change:
            share_id = self._offer(change, vehicle, offer)
            share = change.book(vehicle).ring.share(share_id)
            assert share is not None
            invitation = Invitation(
                share_id=share_id,
                vehicle=vehicle,
                vehicle_name=offer.vehicle_name or f"vehicle {vehicle.hex()[:8]}",
                account=share.account,
                role=share.role,
                permission=share.permission,
                not_before_s=share.not_before_s,
                not_after_s=share.not_after_s,
                expires_s=min(change.now_s + INVITATION_TTL_H * 3600, share.not_after_s),
                needs_pin=offer.pin,
                sharer=self._store.vault.public(key).point,
                nonce=self._entropy.random(16),
                mailbox=offer.relay,
            )
            value = SharerExchange.invite(
                invitation,
                pin=share_pin(self._entropy) if offer.pin else None,
                vault=self._store.vault,
                key=key,
                entropy=self._entropy,
            )
            post = None
            if offer.relay is not None:
                post = Post(base=offer.relay, claim=self._entropy.random(16))
            exchange = Exchange(
                share_id=share_id,
                vehicle=vehicle,
                end=End.SHARER,
                value=b"",
                envelope=value.envelope(self._entropy),
                post=post,
            )
            return self._put(change, exchange, value)

    def order(self, vehicle: bytes, offer: Offer) -> bytes:
        """Order a provider's key, which the owner's side hands over; return its share id.

        Raises:
            PolicyRefusal: A rule says no.
            LocalFault: There is no authority to order it from.
        """
        with self._book.change() as change:
            share_id = self._offer(change, vehicle, offer)
            if change.book(vehicle).link is None:
                raise LocalFault(
                    "a sharee orders a service from the authority",
                    hint="link it with --authority, or ask the owner to order",
                )
        return share_id

    def posted(self, share_id: bytes, mailbox: bytes) -> Exchange:
        """Remember the mailbox that a relay gave."""
        with self._book.change() as change:
            exchange = self._in(change, share_id)
            assert exchange.post is not None
            exchange = replace(exchange, post=replace(exchange.post, mailbox=mailbox))
            change.put(exchange)
        return exchange

    def placed(self, change: Change, share_id: bytes, slot: int) -> None:
        """Remember the place that the authority gave to an invitation of this phone."""
        exchange = change.state.exchange(share_id, End.SHARER)
        if exchange is not None:
            change.put(replace(exchange, slot=slot))

    def take(self, data: bytes) -> Exchange:
        """Take a request or a receipt for any open invitation; return its exchange as it is now.

        Raises:
            PolicyRefusal: A wrong PIN, which was counted; another account or key; too late.
            AuthenticationError: It is for none of the invitations.
        """
        for exchange in self.exchanges():
            secret = self.value(exchange).secret
            if _opens(secret, data, Step.REQUEST):
                return self.take_request(exchange.share_id, data)
            if _opens(secret, data, Step.RECEIPT):
                return self.take_receipt(exchange.share_id, data)
        raise AuthenticationError("this is an answer to none of this phone's invitations")

    def take_request(self, share_id: bytes, data: bytes) -> Exchange:
        """Take a friend's request for one invitation.

        Raises:
            PolicyRefusal, AuthenticationError, WireError: As :meth:`take`.
        """
        with self._book.change() as change:
            exchange = self._in(change, share_id)
            key = self._store.vehicle(exchange.vehicle).key
            value, code = self.value(exchange).receive_request(
                data, vault=self._store.vault, key=key, now_s=change.now_s
            )
            exchange = self._put(change, exchange, value)
        if code is not None:  # counted: the commit stands
            raise PolicyRefusal(
                code,
                "the PIN was wrong"
                if code is RefusalCode.NOT_AUTHORISED
                else "the PIN was wrong too often",
                hint="tell the friend the PIN again, over another way than the link",
            )
        return exchange

    def sign(self, share_id: bytes, compared: str) -> Exchange:
        """Confirm the friend's key, note it as taken, and sign its attestation, in one commit.

        A key that was signed already gives the same answer again.

        Args:
            share_id: Which share.
            compared: The fingerprint that both people see.

        Raises:
            PolicyRefusal: Another key was compared, or the share was withdrawn meanwhile.
        """
        with self._book.change() as change:
            exchange = self._in(change, share_id)
            value = self.value(exchange)
            if value.answer is not None:
                return exchange
            value = value.confirm(compared, now_s=change.now_s)
            assert value.friend is not None
            offer = value.invitation
            accepted = Accept(actor=offer.account, share_id=share_id, key_x=value.friend[1:33])
            change.command(exchange.vehicle, accepted, tell=False)
            value = value.sign(
                self._signing(change, exchange),
                vault=self._store.vault,
                key=self._store.vehicle(exchange.vehicle).key,
                now_s=change.now_s,
                entropy=self._entropy,
            )
            assert value.answer is not None
            return self._put(change, replace(exchange, envelope=value.answer), value)

    def stop(self, change: Change, share_id: bytes) -> None:
        """Take an invitation back that is not signed yet."""
        exchange = change.state.exchange(share_id, End.SHARER)
        if exchange is None:
            return
        value = self.value(exchange)
        if value.state in _OPEN:
            self._put(change, exchange, value.decline())

    def expire(self, share_id: bytes) -> None:
        """Give the place of an invitation back that was not used in time or was locked."""
        with self._book.change() as change:
            exchange = self._in(change, share_id)
            value = self.value(exchange).tick(change.now_s)
            book = change.book(exchange.vehicle)
            share = book.ring.share(share_id)
            if value.state in (ShareState.EXPIRED, ShareState.LOCKED):
                self._put(change, exchange, value)
                if share is not None and share.ended is None:
                    actor = book.account if share.grantor == book.account else AUTHORITY
                    change.command(exchange.vehicle, Revoke(actor=actor, item=share_id))

    def take_receipt(self, share_id: bytes, data: bytes) -> Exchange:
        """Take the friend's word that the signed key arrived.

        Raises:
            AuthenticationError, WireError: It is not this friend's receipt.
        """
        with self._book.change() as change:
            exchange = self._in(change, share_id)
            return self._put(change, exchange, self.value(exchange).receive_receipt(data))

    def _offer(self, change: Change, vehicle: bytes, offer: Offer) -> bytes:
        share_id = offer.share_id or self._entropy.random(16)
        booking = offer.booking
        if booking is not None:
            booking = replace(booking, provider=account_form(booking.provider))
        command = Invite(
            actor=change.book(vehicle).account,
            share_id=share_id,
            account=account_form(offer.account),
            role=offer.role,
            permission=offer.permission,
            not_before_s=offer.not_before_s,
            not_after_s=offer.not_after_s,
            booking=booking,
        )
        change.command(vehicle, command, tell=offer.share_id is None)
        return share_id

    def _signing(self, change: Change, exchange: Exchange) -> Signing:
        book = change.book(exchange.vehicle)
        share = book.ring.share(exchange.share_id)
        assert share is not None
        held = book.held(Issuer.OWNER)
        lists = {i: each.raw for i in Issuer if (each := book.held(i)) is not None}
        return Signing(
            slot=share.slot if exchange.slot is None else exchange.slot,
            epoch=book.ring.epoch,
            list_number=0 if held is None else held.number,
            issued_s=change.now_s,
            access=self._access(book, share.permission, share.role),
            root=book.root,
            chain=book.chain,
            lists=lists,
        )

    def _access(self, book: VehicleBook, permission: Permission, role: Role) -> VehicleAccess:
        vehicle = self._store.vehicle(book.vehicle).vehicle
        may = PERMITTED[permission]
        if role is not Role.ACTUAL_USER:
            may -= {Feature.SHARING}
        return VehicleAccess(
            vehicle=vehicle.group_id,
            reader_key=vehicle.public_key.point,
            resolving_key=Secret(vehicle.resolving_key.reveal()),
            features=vehicle.features & may,
        )

    def _in(self, change: Change, share_id: bytes) -> Exchange:
        found = change.state.exchange(share_id, End.SHARER)
        if found is None:
            raise LocalFault("this phone has sent no such invitation")
        return found

    def _put(self, change: Change, exchange: Exchange, value: SharerExchange) -> Exchange:
        kept = replace(exchange, value=cbor.encode(value.to_value(self._store.seal)))
        change.put(kept)
        return kept


def mailbox_url(post: Post) -> str:
    """Return the address of a mailbox at its relay."""
    assert post.mailbox is not None
    return f"{post.base.rstrip('/')}/v1/m/{UUID(bytes=post.mailbox)}"


def _opens(secret: Secret, data: bytes, step: int) -> bool:
    """Whether an envelope is the friend's at this step, whatever else is wrong with it."""
    try:
        open_envelope(secret, data, direction=Direction.TO_SHARER, sequence=step)
    except (AuthenticationError, WireError):
        return False
    return True
