"""Keys and claims that the tests of signed statements share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

from dkey.crypto.p256 import PrivateKey
from dkey.crypto.vault import MemoryVault
from dkey.lifecycle.attestation import sign_attestation
from dkey.lifecycle.claims import NO_SLOT, Issuer, KeyClaims, WithdrawalClaims, holder_ref, key_ref
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.withdrawal import sign_withdrawal

VEHICLE = bytes.fromhex("3d6c2a0e51f84b7c9a10e2d4c6b8fa01")
EPOCH = 7
BEGIN_S, END_S, ISSUED_S = 1_800_000_000, 1_800_604_800, 1_799_999_900


class DeterministicVault(MemoryVault):
    """Signs as RFC 6979 says, so that a signature can stand in a specification."""

    def sign(self, key: str, digest: bytes) -> bytes:
        scheme = ec.ECDSA(utils.Prehashed(SHA256()), deterministic_signing=True)
        der = self._get(key)._key.sign(digest, scheme)
        r, s = utils.decode_dss_signature(der)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def scalar(number: int) -> bytes:
    return number.to_bytes(32, "big")


KEYS = {
    name: PrivateKey.from_scalar(scalar(0x1111 * number))
    for number, name in enumerate(("owner", "authority", "user", "friend", "stranger"), 1)
}
VAULT = DeterministicVault(**KEYS)
ROOTS = {KEYS[name].public.x: KEYS[name].public for name in ("owner", "authority")}


def public(name: str) -> bytes:
    return KEYS[name].public.point


def x_of(name: str) -> bytes:
    return KEYS[name].public.x


def friend_claims(signer: str = "owner", **changes: Any) -> KeyClaims:
    """Return what a signer says about the friend's key."""
    claims = KeyClaims(
        vehicle=VEHICLE,
        epoch=EPOCH,
        slot=2,
        share_id=bytes(range(16)),
        holder=holder_ref(VEHICLE, "friend@example.org"),
        public_key=public("friend"),
        role=Role.ASSOCIATE,
        permission=Permission.ENTRY,
        not_before_s=BEGIN_S,
        not_after_s=END_S,
        reshare=False,
        list_number=3,
        issued_s=ISSUED_S,
        signer=x_of(signer),
    )
    return replace(claims, **changes)


def user_claims(signer: str = "owner", **changes: Any) -> KeyClaims:
    """Return what a signer says about the actual user's key."""
    values: dict[str, Any] = {
        "slot": NO_SLOT,
        "share_id": bytes(range(16, 32)),
        "holder": holder_ref(VEHICLE, "user@example.org"),
        "public_key": public("user"),
        "role": Role.ACTUAL_USER,
        "permission": Permission.ENTRY_AND_START,
        "reshare": True,
    }
    return friend_claims(signer, **{**values, **changes})


def attested(claims: KeyClaims) -> bytes:
    """Return the claims signed by whom they name."""
    name = next(name for name in KEYS if x_of(name) == claims.signer)
    return sign_attestation(claims, VAULT, name)


def chain() -> tuple[bytes, bytes]:
    """Return a chain of two: the owner's word about the user, the user's about the friend."""
    return attested(user_claims()), attested(friend_claims("user"))


def list_claims(number: int = 3, **changes: Any) -> WithdrawalClaims:
    """Return a list of the owner with one key of each kind."""
    claims = WithdrawalClaims(
        vehicle=VEHICLE,
        epoch=EPOCH,
        issuer=Issuer.OWNER,
        number=number,
        issued_s=ISSUED_S,
        revoked=(key_ref(x_of("stranger")),),
        suspended=(bytes(range(16, 32)),),
    )
    return replace(claims, **changes)


def signed_list(claims: WithdrawalClaims | None = None, key: str = "owner") -> bytes:
    return sign_withdrawal(claims or list_claims(), VAULT, key)
