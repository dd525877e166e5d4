"""The friend's end of a share: accept an invitation, check what comes back.

Pure, like :mod:`dkey.lifecycle.sharing`. The friend trusts the link that brought the invitation and
by it the sharer's key; everything after that has to agree with the invitation. See
specs/lifecycle.md §6.6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from dkey.crypto.p256 import PublicKey
from dkey.errors import AuthenticationError, LocalFault, PolicyRefusal, RefusalCode, StoreError
from dkey.lifecycle.attestation import verify_chain
from dkey.lifecycle.claims import KeyClaims, holder_ref, key_ref
from dkey.lifecycle.envelope import Direction, open_envelope
from dkey.lifecycle.invitation import read_invitation
from dkey.lifecycle.roles import Role
from dkey.lifecycle.share_messages import (
    ShareRequest,
    Step,
    fingerprint,
    open_answer,
    pin_proof,
    seal_receipt,
    seal_request,
)
from dkey.lifecycle.share_states import (
    FRIEND_TRANSITIONS,
    ShareInput,
    ShareState,
    allow,
    at,
    keep,
    restore,
)
from dkey.lifecycle.withdrawal import WITHDRAWAL, verify_withdrawal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.crypto.entropy import Entropy
    from dkey.crypto.seal import Seal
    from dkey.crypto.secret import Secret
    from dkey.crypto.vault import Vault
    from dkey.lifecycle.claims import Issuer
    from dkey.lifecycle.invitation import Invitation
    from dkey.lifecycle.share_messages import ShareAnswer, VehicleAccess

__all__ = ["FriendExchange", "ReceivedKey"]

CLAUSE: Final = "specs/lifecycle.md §6.4"
_SIDE: Final = "friend"
_S, _I = ShareState, ShareInput


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedKey:
    """A key that a friend received and checked.

    Attributes:
        claims: What the friend's own attestation says.
        chain: The attestations to carry to the vehicle.
        lists: The lists to carry to the vehicle.
        access: The vehicle.
    """

    claims: KeyClaims
    chain: tuple[bytes, ...]
    lists: Mapping[Issuer, bytes]
    access: VehicleAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class FriendExchange:
    """The friend's end of one share; each input returns the next value.

    Attributes:
        invitation: What is offered.
        signed: The signed invitation.
        secret: The secret of the link.
        state: Where it stands.
        key: Name of the friend's key in its vault, once one was sent.
    """

    invitation: Invitation
    signed: bytes
    secret: Secret
    state: ShareState = ShareState.INVITED
    key: str | None = None

    @classmethod
    def open(cls, secret: Secret, envelope: bytes, *, now_s: int) -> FriendExchange:
        """Open an invitation with the secret of its link.

        Raises:
            WireError, AuthenticationError: It is no invitation, or does not open.
            PolicyRefusal: CODE_TIMEOUT, it is too old.
        """
        direction = Direction.TO_FRIEND
        signed = open_envelope(secret, envelope, direction=direction, sequence=Step.INVITATION)
        found = cls(invitation=read_invitation(signed), signed=signed, secret=secret)
        allow(found.tick(now_s).state, _I.REQUEST, FRIEND_TRANSITIONS)
        return found

    def request(
        self,
        *,
        vault: Vault,
        key: str,
        account: str,
        pin: Secret | None = None,
        now_s: int,
        entropy: Entropy,
    ) -> tuple[FriendExchange, bytes]:
        """Accept with a key; return the next value, to be kept first, and the envelope to send.

        Asking again is possible, with the same key: after a wrong PIN, or when nothing came back.

        Raises:
            PolicyRefusal: CODE_TIMEOUT; NOT_AUTHORISED for another account.
            LocalFault: No PIN where one is needed, or another key than before.
        """
        allow(self.tick(now_s).state, _I.REQUEST, FRIEND_TRANSITIONS)
        offer = self.invitation
        if account != offer.account:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "the invitation is for another account")
        if self.key not in (None, key):
            raise LocalFault("another key was sent for this invitation already", clause=CLAUSE)
        if offer.needs_pin and pin is None:
            raise LocalFault(
                "the invitation needs a PIN", clause=CLAUSE, hint="ask the sharer for it"
            )
        point = vault.public(key).point
        proof = None if pin is None else pin_proof(self.secret, pin, offer, point)
        asked = ShareRequest(
            share_id=offer.share_id,
            vehicle=offer.vehicle,
            nonce=offer.nonce,
            sharer=offer.sharer[1:33],
            public_key=point,
            account=account,
            pin_proof=proof if offer.needs_pin else None,
        )
        sealed = seal_request(
            asked,
            secret=self.secret,
            sharer=PublicKey.parse(offer.sharer),
            vault=vault,
            key=key,
            entropy=entropy,
        )
        return replace(self, state=_S.REQUESTED, key=key), sealed

    def fingerprint(self, vault: Vault) -> str:
        """Return what the friend tells the sharer, over a way on which each knows the other.

        Raises:
            PolicyRefusal: NOT_AUTHORISED before a key was sent.
        """
        return fingerprint(self.secret, self.invitation, vault.public(self._key()).point)

    def receive_answer(
        self, data: bytes, *, vault: Vault, now_s: int, entropy: Entropy
    ) -> tuple[FriendExchange, ReceivedKey, bytes]:
        """Check the answer; return the next value, the key, both to be kept, and the receipt.

        The answer may be read again after it was imported: its receipt may have been lost.

        Raises:
            WireError, AuthenticationError, PolicyRefusal: It is not what was offered, does not
                verify, or the key is withdrawn or out of time already.
        """
        allow(self.state, _I.ANSWER, FRIEND_TRANSITIONS)
        key, offer = self._key(), self.invitation
        answer = open_answer(data, secret=self.secret, invitation=offer, vault=vault, key=key)
        root = PublicKey.parse(answer.root)
        chain = verify_chain(answer.chain, roots={root.x: root}, vehicle=offer.vehicle)
        self._check_offered(chain[-1], vault.public(key))
        if now_s > min(each.not_after_s for each in chain):
            raise PolicyRefusal(RefusalCode.KEY_EXPIRED, "the time of the key is over")
        _check_lists(answer, chain, root)
        received = ReceivedKey(
            claims=chain[-1], chain=answer.chain, lists=answer.lists, access=answer.access
        )
        receipt = seal_receipt(offer, secret=self.secret, vault=vault, key=key, entropy=entropy)
        return replace(self, state=_S.IMPORTED), received, receipt

    def decline(self) -> FriendExchange:
        """The friend does not want the key."""
        allow(self.state, _I.DECLINE, FRIEND_TRANSITIONS)
        return replace(self, state=_S.DECLINED)

    def tick(self, now_s: int) -> FriendExchange:
        """Return the value at this time."""
        state = at(self.state, self.invitation.expires_s, now_s, FRIEND_TRANSITIONS)
        return self if state is self.state else replace(self, state=state)

    def to_value(self, seal: Seal) -> dict[str, Any]:
        """Return plain values for a store; ``seal`` closes the secret in it."""
        return keep(_SIDE, self.state, self.signed, self.secret, seal) | {"key": self.key}

    @classmethod
    def from_value(cls, value: Mapping[str, Any], seal: Seal) -> FriendExchange:
        """Return what :meth:`to_value` wrote.

        Raises:
            StoreError: Not such a value.
            VaultError: The secret was sealed by another seal, or for another exchange.
        """
        key = value.get("key")
        if not (key is None or isinstance(key, str)):
            raise StoreError("a kept share of the friend is damaged", clause=CLAUSE)
        return cls(**restore(_SIDE, value, seal), key=key)

    def _key(self) -> str:
        if self.key is None:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "no key was sent yet")
        return self.key

    def _check_offered(self, claims: KeyClaims, own: PublicKey) -> None:
        """Check that the friend's attestation says what the invitation offered, of the own key."""
        offer = self.invitation
        offered = replace(
            claims,
            share_id=offer.share_id,
            holder=holder_ref(offer.vehicle, offer.account),
            public_key=own.point,
            role=offer.role,
            permission=offer.permission,
            not_before_s=offer.not_before_s,
            not_after_s=offer.not_after_s,
            reshare=offer.role is Role.ACTUAL_USER,
            signer=offer.sharer[1:33],
        )
        if claims != offered:
            raise AuthenticationError("the key is not what was offered", clause=CLAUSE)


def _check_lists(answer: ShareAnswer, chain: tuple[KeyClaims, ...], root: PublicKey) -> None:
    """Check the lists that came along, as far as the friend can.

    The list of the root is verified. The key of the other issuer is not known to the friend; only
    the vehicle can verify that list, and does.
    """
    own = {each for claims in chain for each in (claims.share_id, key_ref(claims.public_key[1:33]))}
    for issuer, raw in answer.lists.items():
        signer = WITHDRAWAL.read(raw)[1].signer
        if signer != root.x:
            continue
        said = verify_withdrawal(raw, root, issuer=issuer, vehicle=answer.access.vehicle)
        if said.epoch == chain[-1].epoch and not own.isdisjoint(said.revoked):
            raise PolicyRefusal(RefusalCode.KEY_REVOKED, "the key was withdrawn already")
