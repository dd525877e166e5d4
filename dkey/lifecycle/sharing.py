"""The sharer's end of handing a key to a friend (specs/lifecycle.md §6.6).

Pure: bytes, time and randomness come in, the next value and bytes to send come out. The caller
keeps the next value durably before it sends or shows anything. The friend's end is
:mod:`dkey.lifecycle.accepting`.

The answer is sealed to the friend's own key, inside the envelope that the link's secret opens. The
link alone, forwarded or read by the relay, is then not enough to learn anything of the vehicle; nor
is the key alone. The friend's vault does the key agreement, so that no further secret has to be
kept while the friend waits.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from dkey.crypto.p256 import PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import (
    LocalFault,
    PolicyRefusal,
    RefusalCode,
    StoreError,
    WireError,
)
from dkey.lifecycle.attestation import sign_attestation, verify_chain
from dkey.lifecycle.claims import KeyClaims, holder_ref
from dkey.lifecycle.envelope import SECRET_SIZE, Direction, seal_envelope
from dkey.lifecycle.invitation import ShareLink, sign_invitation
from dkey.lifecycle.policy import CODE_MAX_TRIES
from dkey.lifecycle.roles import Role
from dkey.lifecycle.share_messages import (
    ShareAnswer,
    ShareRequest,
    Step,
    fingerprint,
    open_receipt,
    open_request,
    pin_proof,
    seal_answer,
)
from dkey.lifecycle.share_states import (
    SHARER_TRANSITIONS,
    ShareInput,
    ShareState,
    allow,
    at,
    keep,
    restore,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.crypto.entropy import Entropy
    from dkey.crypto.seal import Seal
    from dkey.crypto.vault import Vault
    from dkey.lifecycle.claims import Issuer
    from dkey.lifecycle.invitation import Invitation
    from dkey.lifecycle.share_messages import VehicleAccess

__all__ = ["SharerExchange", "Signing"]

CLAUSE: Final = "specs/lifecycle.md §6.6"
_SIDE: Final = "sharer"
_S, _I = ShareState, ShareInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """What a sharer adds to an invitation when it signs.

    Attributes:
        slot: Slot of the share; 0 for an actual user.
        epoch: Present owner epoch of the vehicle.
        list_number: Number of the issuer's list that the vehicle must have taken before.
        issued_s: Now, seconds since 1970.
        access: What the friend has to know of the vehicle.
        root: Public key of who signs the first attestation, 65 bytes: the owner or the authority.
        chain: The sharer's own attestation, where the sharer is an actual user.
        lists: The latest withdrawal list of each issuer.
    """

    slot: int
    epoch: int
    list_number: int
    issued_s: int
    access: VehicleAccess
    root: bytes
    chain: tuple[bytes, ...] = ()
    lists: Mapping[Issuer, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharerExchange:
    """The sharer's end of one share; each input returns the next value.

    Attributes:
        invitation: What is offered.
        signed: The signed invitation.
        secret: The secret of the link.
        pin: The PIN, when one is needed.
        state: Where it stands.
        tries: Wrong PINs so far.
        friend: The key that was sent, 65 bytes; the first one with a right PIN is the only one.
        answer: The answer's envelope once signed, to send it again.
    """

    invitation: Invitation
    signed: bytes
    secret: Secret
    pin: Secret | None = None
    state: ShareState = ShareState.INVITED
    tries: int = 0
    friend: bytes | None = None
    answer: bytes | None = None

    @classmethod
    def invite(
        cls,
        invitation: Invitation,
        *,
        pin: Secret | None,
        vault: Vault,
        key: str,
        entropy: Entropy,
    ) -> SharerExchange:
        """Begin with a fresh secret.

        Raises:
            LocalFault: The invitation has no form, or says something else about the PIN.
        """
        if invitation.needs_pin is (pin is None):
            raise LocalFault("an invitation that needs a PIN comes with one", clause=CLAUSE)
        signed = sign_invitation(invitation, vault, key)
        secret = Secret(entropy.random(SECRET_SIZE))
        if pin is not None:
            pin_proof(secret, pin, invitation, invitation.sharer)  # refuses a PIN of another form
        return cls(invitation=invitation, signed=signed, secret=secret, pin=pin)

    def envelope(self, entropy: Entropy) -> bytes:
        """Return the sealed invitation, for the mailbox or the link."""
        return seal_envelope(
            self.secret,
            self.signed,
            direction=Direction.TO_FRIEND,
            sequence=Step.INVITATION,
            entropy=entropy,
        )

    def link(self, envelope: bytes) -> ShareLink:
        """Return what is handed to the friend."""
        return ShareLink(secret=self.secret, url=self.invitation.mailbox, envelope=envelope)

    @property
    def fingerprint(self) -> str:
        """What the sharer compares with the friend before confirming.

        Raises:
            PolicyRefusal: NOT_AUTHORISED before a key was sent.
        """
        return fingerprint(self.secret, self.invitation, self._friend().point)

    def receive_request(
        self, data: bytes, *, vault: Vault, key: str, now_s: int
    ) -> tuple[SharerExchange, RefusalCode | None]:
        """Take a request; return the next value, to be kept first, and why it was refused.

        A request that does not open, or is not its key's own, changes nothing. A wrong PIN counts.
        The same key may ask again at any time; after a right PIN, no other key may.

        Args:
            data: The envelope.
            vault: Holds the sharer's key.
            key: Name of the sharer's key.
            now_s: Seconds since 1970.

        Raises:
            WireError, AuthenticationError: It is no request for this invitation.
            PolicyRefusal: CODE_TIMEOUT, CODE_LOCKED_OUT, NOT_AUTHORISED for another account or
                without a PIN, ALREADY_LINKED for another key.
        """
        self._check(_I.REQUEST, now_s)
        given = open_request(
            data, secret=self.secret, invitation=self.invitation, vault=vault, key=key
        )
        if given.account != self.invitation.account:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "the invitation is for another account")
        if self.friend is not None:
            if given.public_key[1:33] != self.friend[1:33]:
                raise PolicyRefusal(
                    RefusalCode.ALREADY_LINKED, "another key was sent for this invitation already"
                )
            return self, None
        if not self._pin_right(given):
            return self._wrong_pin()
        return replace(self, state=_S.REQUESTED, friend=given.public_key), None

    def confirm(self, compared: str, *, now_s: int) -> SharerExchange:
        """The sharer says that the friend sees the same fingerprint.

        Args:
            compared: The fingerprint that the sharer was shown and compared.
            now_s: Seconds since 1970.

        Raises:
            PolicyRefusal: NOT_AUTHORISED when it is another key's.
        """
        self._check(_I.CONFIRM, now_s)
        if not hmac.compare_digest(compared.encode(), self.fingerprint.encode()):
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "another key was compared")
        return replace(self, state=_S.CONFIRMED)

    def sign(
        self, signing: Signing, *, vault: Vault, key: str, now_s: int, entropy: Entropy
    ) -> SharerExchange:
        """Sign the friend's key, with what was offered, and return the value with the answer.

        Raises:
            LocalFault: The vault's key is not the sharer's, or a value has no form.
            PolicyRefusal: Not confirmed, or too late; what the sharer may not sign, as the
                vehicle would find it in the chain.
        """
        self._check(_I.SIGN, now_s)
        friend, offer = self._friend(), self.invitation
        claims = KeyClaims(
            vehicle=offer.vehicle,
            epoch=signing.epoch,
            slot=signing.slot,
            share_id=offer.share_id,
            holder=holder_ref(offer.vehicle, offer.account),
            public_key=friend.point,
            role=offer.role,
            permission=offer.permission,
            not_before_s=offer.not_before_s,
            not_after_s=offer.not_after_s,
            reshare=offer.role is Role.ACTUAL_USER,
            list_number=signing.list_number,
            issued_s=signing.issued_s,
            signer=offer.sharer[1:33],
        )
        chain = (*signing.chain, sign_attestation(claims, vault, key))
        root = PublicKey.parse(signing.root)
        verify_chain(chain, roots={root.x: root}, vehicle=offer.vehicle)
        answer = ShareAnswer(
            share_id=offer.share_id,
            friend=friend.x,
            chain=chain,
            root=root.point,
            lists=signing.lists,
            access=signing.access,
        )
        sealed = seal_answer(
            answer, secret=self.secret, friend=friend, vault=vault, key=key, entropy=entropy
        )
        return replace(self, state=_S.SIGNED, answer=sealed)

    def receive_receipt(self, data: bytes) -> SharerExchange:
        """The friend's key says that it has the answer.

        Raises:
            WireError, AuthenticationError: It is not this friend's receipt.
        """
        self._check(_I.RECEIPT)
        open_receipt(data, secret=self.secret, invitation=self.invitation, friend=self._friend())
        return replace(self, state=_S.IMPORTED)

    def decline(self) -> SharerExchange:
        """The sharer does not want it any more; not after it signed."""
        self._check(_I.DECLINE)
        return replace(self, state=_S.DECLINED)

    def tick(self, now_s: int) -> SharerExchange:
        """Return the value at this time."""
        state = at(self.state, self.invitation.expires_s, now_s, SHARER_TRANSITIONS)
        return self if state is self.state else replace(self, state=state)

    def to_value(self, seal: Seal) -> dict[str, Any]:
        """Return plain values for a store; ``seal`` closes the secrets in it."""
        kept = keep(_SIDE, self.state, self.signed, self.secret, seal)
        pin = None if self.pin is None else seal.close(self.pin, self._pin_place)
        return kept | {
            "pin": pin,
            "tries": self.tries,
            "friend": self.friend,
            "answer": self.answer,
        }

    @classmethod
    def from_value(cls, value: Mapping[str, Any], seal: Seal) -> SharerExchange:
        """Return what :meth:`to_value` wrote.

        Raises:
            StoreError: Not such a value.
            VaultError: A secret was sealed by another seal, or for another exchange.
        """
        found = cls(**restore(_SIDE, value, seal))
        try:
            friend, answer, pin = value["friend"], value["answer"], value["pin"]
            if value["tries"] not in range(CODE_MAX_TRIES + 1):
                raise ValueError("tries out of range")
            if friend is not None:
                PublicKey.parse(friend)
            whole = replace(found, tries=value["tries"], friend=friend, answer=answer)
            if pin is None and not found.invitation.needs_pin:
                return whole
            return replace(whole, pin=seal.open(pin, found._pin_place))
        except (KeyError, TypeError, ValueError, WireError) as exc:
            raise StoreError("a kept share of the sharer is damaged", clause=CLAUSE) from exc

    @property
    def _pin_place(self) -> bytes:
        return b"dkey share pin " + self.invitation.share_id

    def _check(self, given: ShareInput, now_s: int | None = None) -> None:
        state = self.state if now_s is None else self.tick(now_s).state
        allow(state, given, SHARER_TRANSITIONS)

    def _friend(self) -> PublicKey:
        if self.friend is None:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "no key was sent yet")
        return PublicKey.parse(self.friend)

    def _pin_right(self, given: ShareRequest) -> bool:
        if self.pin is None:
            return True
        if given.pin_proof is None:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "the invitation needs its PIN")
        right = pin_proof(self.secret, self.pin, self.invitation, given.public_key)
        return hmac.compare_digest(right, given.pin_proof)

    def _wrong_pin(self) -> tuple[SharerExchange, RefusalCode]:
        tries = self.tries + 1
        if tries >= CODE_MAX_TRIES:
            return replace(self, tries=tries, state=_S.LOCKED), RefusalCode.CODE_LOCKED_OUT
        return replace(self, tries=tries), RefusalCode.NOT_AUTHORISED
