"""The friend's phone: accepts a key, imports what comes back, carries lists for others.

Each function is one commit of the book; what it returns may leave then, and not before. An
invitation that was accepted once stays accepted, with the same key and the same bytes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dkey.agent.key_records import End, Exchange, Post
from dkey.codec import cbor
from dkey.crypto.p256 import PublicKey
from dkey.errors import AuthenticationError, LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.accepting import FriendExchange
from dkey.lifecycle.account import account_form
from dkey.lifecycle.attestation import read_attestation
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.commands import Party, PartyKind
from dkey.lifecycle.envelope import Direction, open_envelope
from dkey.lifecycle.flags import Flags
from dkey.lifecycle.ring_state import Share
from dkey.lifecycle.ring_state import ShareState as Lives
from dkey.lifecycle.ring_value import Ring
from dkey.lifecycle.roles import Role
from dkey.lifecycle.share_messages import Step
from dkey.lifecycle.share_states import ShareState
from dkey.lifecycle.withdrawal import read_withdrawal, verify_withdrawal
from dkey.pairing.owner import PairedVehicle

if TYPE_CHECKING:
    from dkey.agent.key_book import Change
    from dkey.agent.store import AgentStore
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret
    from dkey.lifecycle.accepting import ReceivedKey
    from dkey.lifecycle.claims import KeyClaims

__all__ = ["OWNER", "Friend"]

OWNER: Final = "@owner"
"""The owner, whose account a friend's phone does not know."""


class Friend:
    """The friend's part of one store."""

    def __init__(self, store: AgentStore, entropy: Entropy) -> None:
        self._store = store
        self._book = store.keys
        self._entropy = entropy

    def value(self, exchange: Exchange) -> FriendExchange:
        """Return the exchange itself."""
        return FriendExchange.from_value(cbor.decode(exchange.value), self._store.seal)

    def exchanges(self) -> tuple[Exchange, ...]:
        """Return the exchanges in which this phone gets a key."""
        return tuple(each for each in self._book.state.exchanges if each.end is End.FRIEND)

    def fingerprint(self, exchange: Exchange) -> str:
        """Return what the friend tells the sharer before the sharer confirms."""
        return self.value(exchange).fingerprint(self._store.vault)

    def open(self, secret: Secret, envelope: bytes, *, post: Post | None = None) -> Exchange:
        """Open an invitation and keep it; one that is known already is returned as it stands.

        Raises:
            WireError, AuthenticationError: It is no invitation, or does not open.
            PolicyRefusal: CODE_TIMEOUT, it is too old; ALREADY_LINKED, this phone is the owner's.
        """
        with self._book.change() as change:
            opened = FriendExchange.open(secret, envelope, now_s=change.now_s)
            offer = opened.invitation
            known = change.state.exchange(offer.share_id, End.FRIEND)
            if known is not None:
                return known
            self._check_place(change, offer.vehicle)
            exchange = Exchange(
                share_id=offer.share_id,
                vehicle=offer.vehicle,
                end=End.FRIEND,
                value=b"",
                envelope=b"",
                post=post,
            )
            return self._put(change, exchange, opened)

    def request(
        self, share_id: bytes, *, account: str | None = None, pin: Secret | None = None
    ) -> Exchange:
        """Accept with a key of this phone's vault; its envelope is what goes to the sharer.

        Asked again without a PIN, it is the same envelope.

        Args:
            share_id: Which invitation.
            account: Whose phone this is; None for whom it is for.
            pin: What the sharer told over another way.

        Raises:
            PolicyRefusal: CODE_TIMEOUT; NOT_AUTHORISED for another account.
            LocalFault: The invitation needs a PIN.
        """
        name = f"share-{share_id.hex()}"
        if name not in self._store.vault.names():
            self._store.vault.generate(name)
        with self._book.change() as change:
            exchange = self._in(change, share_id)
            value = self.value(exchange)
            again = value.state is ShareState.REQUESTED and pin is None
            if again or value.state is ShareState.IMPORTED:
                return exchange
            value, envelope = value.request(
                vault=self._store.vault,
                key=name,
                account=account_form(account or value.invitation.account),
                pin=pin,
                now_s=change.now_s,
                entropy=self._entropy,
            )
            return self._put(change, replace(exchange, envelope=envelope), value)

    def find(self, data: bytes) -> Exchange:
        """Return the exchange that an answer belongs to.

        Raises:
            AuthenticationError: None of this phone's.
        """
        for exchange in self.exchanges():
            secret = self.value(exchange).secret
            with suppress(AuthenticationError, WireError):
                open_envelope(secret, data, direction=Direction.TO_FRIEND, sequence=Step.ANSWER)
                return exchange
        raise AuthenticationError(
            "this answers none of the invitations that were accepted here",
            hint="accept the invitation first, with this phone",
        )

    def answer(self, share_id: bytes, data: bytes) -> Exchange:
        """Import the signed key; its envelope is then the receipt.

        The vehicle, its chain and its lists are kept in the same commit.

        Raises:
            WireError, AuthenticationError, PolicyRefusal: It is not what was offered.
        """
        with self._book.change() as change:
            exchange = self._in(change, share_id)
            value = self.value(exchange)
            if value.state is ShareState.IMPORTED:
                return exchange
            old = self._check_place(change, exchange.vehicle)
            value, received, receipt = value.receive_answer(
                data, vault=self._store.vault, now_s=change.now_s, entropy=self._entropy
            )
            assert value.key is not None
            self._store.keep(_paired(received), value.key, "received")
            change.begin(
                _ring(received, value.invitation.account),
                value.invitation.account,
                chain=received.chain,
                root=received.root,
            )
            for raw in received.lists.values():
                change.take_list(exchange.vehicle, raw)
            exchange = self._put(change, replace(exchange, envelope=receipt), value)
        if old is not None and old != value.key:
            self._store.vault.delete(old)
        return exchange

    def carry(self, raw: bytes) -> bool:
        """Keep a withdrawal list to carry to its vehicle; return whether it was news.

        The list of the own root is verified here, any other by the vehicle.

        Raises:
            WireError, AuthenticationError, PolicyRefusal: Forged, or for another vehicle.
            LocalFault: This phone has no key to that vehicle.
        """
        said = read_withdrawal(raw)
        self._book.book(said.vehicle)
        with self._book.change() as change:
            book = change.book(said.vehicle)
            keys = {Issuer.OWNER: book.root}
            if book.chain and read_attestation(book.chain[0]).claims.signer != book.root[1:33]:
                keys = {}
            if book.link is not None:
                keys[Issuer.AUTHORITY] = book.link.key
            key = keys.get(said.issuer)
            if key is not None:
                verify_withdrawal(
                    raw, PublicKey.parse(key), issuer=said.issuer, vehicle=said.vehicle
                )
            return change.take_list(said.vehicle, raw)

    # --- inside -----------------------------------------------------------------------------

    def _check_place(self, change: Change, vehicle: bytes) -> str | None:
        """Return the key of an older share of the same vehicle; the owner's phone needs none."""
        for each in self._store.vehicles():
            if each.group_id == vehicle:
                if not change.state.shared(vehicle):
                    raise PolicyRefusal(
                        RefusalCode.ALREADY_LINKED,
                        "this phone is paired with the vehicle as its owner's",
                        hint="accept with another phone, or another --store",
                    )
                return each.key
        return None

    def _in(self, change: Change, share_id: bytes) -> Exchange:
        found = change.state.exchange(share_id, End.FRIEND)
        if found is None:
            raise LocalFault("this phone has accepted no such invitation")
        return found

    def _put(self, change: Change, exchange: Exchange, value: FriendExchange) -> Exchange:
        kept = replace(exchange, value=cbor.encode(value.to_value(self._store.seal)))
        change.put(kept)
        return kept


def _paired(received: ReceivedKey) -> PairedVehicle:
    access, claims = received.access, received.claims
    return PairedVehicle(
        group_id=access.vehicle,
        public_key=PublicKey.parse(access.reader_key),
        resolving_key=access.resolving_key,
        owner_epoch=claims.epoch,
        features=access.features,
        key_name=f"share-{claims.share_id.hex()[:8]}",
    )


def _ring(received: ReceivedKey, account: str) -> Ring:
    """Return the keys as far as a friend knows them: the own one, and that there is an owner.

    What a provider may get is decided by the owner's side, so that this phone does not forbid it.
    """
    claims = received.claims
    first = read_attestation(received.chain[0]).claims
    corporate = first.role is Role.ACTUAL_USER
    return Ring(
        vehicle=claims.vehicle,
        flags=Flags(remote_handover=True),
        epoch=claims.epoch,
        clock_s=claims.issued_s,
        owner=Party(account=OWNER, kind=PartyKind.CORPORATE if corporate else PartyKind.PERSON),
        shares=(_share(claims, account),),
        spent=frozenset({claims.share_id}),
    )


def _share(claims: KeyClaims, account: str) -> Share:
    return Share(
        share_id=claims.share_id,
        account=account,
        role=claims.role,
        permission=claims.permission,
        not_before_s=claims.not_before_s,
        not_after_s=claims.not_after_s,
        slot=claims.slot,
        grantor=OWNER,
        granted_s=claims.issued_s,
        state=Lives.ACTIVE,
        key_x=claims.public_key[1:33],
    )
