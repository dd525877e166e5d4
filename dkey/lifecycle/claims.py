"""What signed statements about keys say, after their signatures were checked.

The statements themselves (COSE_Sign1) are made and checked in :mod:`dkey.lifecycle.attestation` and
:mod:`dkey.lifecycle.withdrawal`; the rules that act on what they say, in
:mod:`dkey.lifecycle.admission`, take these values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dkey.lifecycle.roles import Permission, Role

__all__ = ["NO_SLOT", "Issuer", "KeyClaims", "WithdrawalClaims", "holder_ref", "key_ref"]

NO_SLOT: Final = 0
"""The slot of a key that counts as no share: an actual user's (requirements C1)."""
_REF: Final = 16


class Issuer(StrEnum):
    """Whose word a list or an attestation chain rests on; each numbers its lists by itself."""

    OWNER = "OWNER"
    """The owner's enrolled key, under the present owner epoch."""
    AUTHORITY = "AUTHORITY"
    """The authority's key, which the vehicle was given when it was made."""


@lru_cache(maxsize=1024)
def key_ref(x: bytes) -> bytes:
    """Return the 16-byte reference of an enrolled key or card: SHA-256(x-coordinate)[:16].

    Shares are referred to by their share id, which has the same size.
    """
    return sha256(b"dkey key ref" + x).digest()[:_REF]


def holder_ref(vehicle: bytes, account: str) -> bytes:
    """Return the 16-byte pseudonym of an account at one vehicle; it names nobody by itself."""
    return sha256(b"dkey holder ref" + vehicle + account.encode()).digest()[:_REF]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyClaims:
    """What a key attestation says (specs/lifecycle.md §3).

    Attributes:
        vehicle: Vehicle identifier, 16 bytes.
        epoch: Owner epoch it was signed in.
        slot: 1..3, or :data:`NO_SLOT`.
        share_id: 16 bytes.
        holder: :func:`holder_ref` of the account, 16 bytes.
        public_key: The friend's key, 65 bytes.
        role: ACTUAL_USER, ASSOCIATE or PROVIDER.
        permission: ENTRY or ENTRY_AND_START.
        not_before_s: First second of validity, since 1970.
        not_after_s: Last second of validity, since 1970.
        reshare: Whether the holder may sign attestations of others (an actual user).
        list_number: Number of the issuer's withdrawal list that the vehicle must have taken before
            it admits this key; 0 for none.
        issued_s: When it was signed.
        signer: x-coordinate of the key that signed it, 32 bytes.
    """

    vehicle: bytes
    epoch: int
    slot: int
    share_id: bytes
    holder: bytes
    public_key: bytes
    role: Role
    permission: Permission
    not_before_s: int
    not_after_s: int
    reshare: bool
    list_number: int
    issued_s: int
    signer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalClaims:
    """What a withdrawal list says: the whole present state of one issuer (specs/lifecycle.md §5).

    Attributes:
        vehicle: Vehicle identifier, 16 bytes.
        epoch: Owner epoch it was signed in.
        issuer: Who signed; each issuer has numbers of its own.
        number: Rises with every list of this issuer and epoch, from 1.
        issued_s: When it was signed, seconds since 1970.
        revoked: Share ids and key references that are withdrawn for good, sorted.
        suspended: The same, withdrawn until a later list leaves them out, sorted.
        all_suspended: Every key and card of the vehicle is suspended (pause, owner suspended).
        immobilised: No key may start (authority only).
        corporate: The owner is a corporation, which alone has an actual user (authority only).
    """

    vehicle: bytes
    epoch: int
    issuer: Issuer
    number: int
    issued_s: int
    revoked: tuple[bytes, ...] = ()
    suspended: tuple[bytes, ...] = ()
    all_suspended: bool = False
    immobilised: bool = False
    corporate: bool = False
