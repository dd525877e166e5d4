"""A vehicle's owner, an actual user, a friend and a thief who share keys, for the cases."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import PolicyRefusal, RemoteFault
from dkey.lifecycle.accepting import FriendExchange
from dkey.lifecycle.attestation import sign_attestation, verify_chain
from dkey.lifecycle.claims import NO_SLOT, Issuer, KeyClaims, WithdrawalClaims, holder_ref
from dkey.lifecycle.invitation import Invitation
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.share_messages import VehicleAccess, share_pin
from dkey.lifecycle.sharing import SharerExchange, Signing
from dkey.lifecycle.withdrawal import sign_withdrawal
from dkey.testing import SeededEntropy

NOW_S = 1_800_000_000
DAY_S = 24 * 3600
ACCOUNT = "friend@example.org"


class Family:
    """Everybody's keys, and the statements that they sign."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.entropy = SeededEntropy(seed)
        names = ("owner", "authority", "user", "friend", "thief", "reader")
        self.keys = {name: self.entropy.ephemeral() for name in names}
        self.vault = MemoryVault(**self.keys)
        self.vehicle = self.entropy.random(16)
        self.epoch = self.chance.randrange(2, 100)

    def claims(self, signer: str, holder: str, **changes: Any) -> KeyClaims:
        """Return what ``signer`` says about the key of ``holder``."""
        user = holder == "user"
        claims = KeyClaims(
            vehicle=self.vehicle,
            epoch=self.epoch,
            slot=NO_SLOT if user else 1,
            share_id=self.entropy.random(16),
            holder=holder_ref(self.vehicle, f"{holder}@example.org"),
            public_key=self.keys[holder].public.point,
            role=Role.ACTUAL_USER if user else Role.ASSOCIATE,
            permission=Permission.ENTRY_AND_START if user else Permission.ENTRY,
            not_before_s=NOW_S,
            not_after_s=NOW_S + 7 * DAY_S,
            reshare=user,
            list_number=0,
            issued_s=NOW_S,
            signer=self.keys[signer].public.x,
        )
        return replace(claims, **changes)

    def sign(self, signer: str, holder: str, **changes: Any) -> bytes:
        """Return the attestation of :meth:`claims`."""
        return sign_attestation(self.claims(signer, holder, **changes), self.vault, signer)

    def withdrawal(self, number: int, *, issuer: Issuer = Issuer.OWNER, **changes: Any) -> bytes:
        """Return a withdrawal list with this number."""
        claims = WithdrawalClaims(
            vehicle=self.vehicle,
            epoch=self.epoch,
            issuer=issuer,
            number=number,
            issued_s=NOW_S + number,
        )
        key = "owner" if issuer is Issuer.OWNER else "authority"
        return sign_withdrawal(replace(claims, **changes), self.vault, key)

    def accepts(self, *raws: bytes) -> tuple[KeyClaims, ...]:
        """Return what the vehicle takes a chain for; nothing when it refuses it."""
        roots = {
            self.keys[name].public.x: self.keys[name].public for name in ("owner", "authority")
        }
        try:
            return verify_chain(raws, roots=roots, vehicle=self.vehicle)
        except (RemoteFault, PolicyRefusal):
            return ()


class Offer:
    """One invitation of the owner to the friend, and its way back."""

    def __init__(self, seed: int, *, needs_pin: bool = False) -> None:
        self.family = family = Family(seed)
        self.entropy, self.vault = family.entropy, family.vault
        self.pin = share_pin(self.entropy) if needs_pin else None
        invitation = Invitation(
            share_id=self.entropy.random(16),
            vehicle=family.vehicle,
            vehicle_name="Blue estate",
            account=ACCOUNT,
            role=Role.ASSOCIATE,
            permission=Permission.ENTRY,
            not_before_s=NOW_S,
            not_after_s=NOW_S + 7 * DAY_S,
            expires_s=NOW_S + DAY_S,
            needs_pin=needs_pin,
            sharer=family.keys["owner"].public.point,
            nonce=self.entropy.random(16),
        )
        self.sharer = SharerExchange.invite(
            invitation, pin=self.pin, vault=self.vault, key="owner", entropy=self.entropy
        )
        self.envelope = self.sharer.envelope(self.entropy)
        self.secret = self.sharer.secret

    def opened(self, now_s: int = NOW_S) -> FriendExchange:
        """Open the link, as everybody can whom it reaches."""
        return FriendExchange.open(self.secret, self.envelope, now_s=now_s)

    def ask(
        self, key: str, *, pin: Secret | None = None, vault: MemoryVault | None = None
    ) -> tuple[FriendExchange, bytes]:
        """Ask with a key."""
        return self.opened().request(
            vault=vault or self.vault,
            key=key,
            account=ACCOUNT,
            pin=pin or self.pin,
            now_s=NOW_S,
            entropy=self.entropy,
        )

    def take(self, request: bytes, now_s: int = NOW_S) -> bool:
        """Let the sharer take a request; whether it was taken for a good one."""
        try:
            self.sharer, refused = self.sharer.receive_request(
                request, vault=self.vault, key="owner", now_s=now_s
            )
        except (RemoteFault, PolicyRefusal):
            return False
        return refused is None

    def sign(self) -> bytes:
        """Let the sharer sign the key that it confirmed; return the answer."""
        access = VehicleAccess(
            vehicle=self.family.vehicle,
            reader_key=self.family.keys["reader"].public.point,
            resolving_key=Secret(self.entropy.random(16)),
            features=frozenset(),
        )
        self.sharer = self.sharer.sign(
            Signing(
                slot=1,
                epoch=self.family.epoch,
                list_number=0,
                issued_s=NOW_S,
                access=access,
                root=self.family.keys["owner"].public.point,
            ),
            vault=self.vault,
            key="owner",
            now_s=NOW_S,
            entropy=self.entropy,
        )
        if self.sharer.answer is None:
            raise RuntimeError("signing gave no answer")
        return self.sharer.answer
