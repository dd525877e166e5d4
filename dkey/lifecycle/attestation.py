"""Key attestations: who may use which vehicle with which key, signed (specs/lifecycle.md §3).

An attestation is signed by the owner, by the authority, or by an actual user whose own attestation
stands before it; a chain has at most two. How a chain fails, and what the vehicle notes; to the
peer every failure looks the same:

======================================================  =====================================
what is wrong                                            raised
======================================================  =====================================
cut, changed in form, off the curve, no or long chain    WireError
a signature that does not verify                         AuthenticationError
the statements stand in another order                    WireError
the first signer is neither owner nor authority          PolicyRefusal KEY_UNKNOWN
another vehicle                                          PolicyRefusal WRONG_VEHICLE
the second was not signed by the holder of the first     PolicyRefusal NOT_AUTHORISED
the holder of the first may not share                    PolicyRefusal NOT_AUTHORISED
the second is for another actual user                    PolicyRefusal NOT_AUTHORISED
the two are of different owner epochs                    PolicyRefusal KEY_REVOKED
the second permits more than the first                   PolicyRefusal PERMISSION_ENTRY_ONLY
its time is over, or has not come                        PolicyRefusal KEY_EXPIRED, TOO_SOON
======================================================  =====================================

Epoch, slot and list number against the vehicle's own state are decided in
:mod:`dkey.lifecycle.admission`, from the claims that come out here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dkey.crypto.p256 import PublicKey
from dkey.errors import DkeyError, LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.claims import NO_SLOT, KeyClaims
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.statement import FLAG, POINT, TIME, UINT32, Statement, choice, octets, uint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dkey.crypto.vault import Vault
    from dkey.lifecycle.cose import Sign1

__all__ = [
    "ATTESTATION",
    "MAX_CHAIN",
    "Attestation",
    "check_validity",
    "noted_code",
    "read_attestation",
    "sign_attestation",
    "verify_chain",
]

CLAUSE: Final = "specs/lifecycle.md §3.2"
CHAIN_CLAUSE: Final = "specs/lifecycle.md §3.3"
MAX_CHAIN: Final = 2
"""Owner or authority, actual user, friend: two signatures (requirements S41, C17)."""


def _check(values: Mapping[str, Any]) -> None:
    if values["not_before_s"] > values["not_after_s"]:
        raise ValueError("its time ends before it begins")
    role, slot = values["role"], values["slot"]
    if role is Role.ACTUAL_USER and slot != NO_SLOT:
        raise ValueError("an actual user takes no slot")
    if role is Role.ASSOCIATE and slot == NO_SLOT:
        raise ValueError("an associate takes a slot")
    if values["reshare"] and role is not Role.ACTUAL_USER:
        raise ValueError("only an actual user may share")


ATTESTATION: Final = Statement(
    name="key-attestation",
    clause=CLAUSE,
    limit=512,
    fields=MappingProxyType(
        {
            "vehicle": octets(16),
            "epoch": UINT32,
            "slot": uint(NO_SLOT, MAX_SHARES),
            "share_id": octets(16),
            "holder": octets(16),
            "public_key": POINT,
            "role": choice(Role.ACTUAL_USER, Role.ASSOCIATE, Role.PROVIDER),
            "permission": choice(Permission.ENTRY, Permission.ENTRY_AND_START),
            "not_before_s": TIME,
            "not_after_s": TIME,
            "reshare": FLAG,
            "list_number": UINT32,
            "issued_s": TIME,
        }
    ),
    check=_check,
)
"""The signer is not among the fields: it is the protected key id, once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """An attestation that was read and not yet trusted.

    Attributes:
        claims: What it says.
        raw: The signed bytes, to hand on; never an identifier.
    """

    claims: KeyClaims
    raw: bytes


def sign_attestation(claims: KeyClaims, vault: Vault, key: str) -> bytes:
    """Return the attestation of ``claims``, signed with the key named ``key``.

    Raises:
        LocalFault: The claims name another signer, or a value has no form in an attestation.
    """
    values = {name: getattr(claims, name) for name in ATTESTATION.fields}
    data = ATTESTATION.sign(values, vault, key)
    if read_attestation(data).claims != claims:
        raise LocalFault("the claims name another signer than the vault's key", clause=CLAUSE)
    return data


def read_attestation(data: bytes) -> Attestation:
    """Read one attestation; nothing is verified but its form.

    Raises:
        WireError: Not exactly one attestation in its one form, or a key off the curve.
    """
    return Attestation(claims=_read(data)[0], raw=data)


def verify_chain(
    raws: Sequence[bytes], *, roots: Mapping[bytes, PublicKey], vehicle: bytes
) -> tuple[KeyClaims, ...]:
    """Verify a chain and return what it says, the root's statement first, the user's key last.

    Args:
        raws: One or two attestations, the root's first.
        roots: By x-coordinate, the keys whose word counts: the owner's, and the authority's.
        vehicle: Identifier of this vehicle.

    Raises:
        WireError, AuthenticationError, PolicyRefusal: See the table of this module.
    """
    if not 1 <= len(raws) <= MAX_CHAIN:
        raise WireError(f"a chain has 1 to {MAX_CHAIN} attestations", clause=CHAIN_CLAUSE)
    links = [_read(raw) for raw in raws]
    claims = tuple(link[0] for link in links)
    if any(each.vehicle != vehicle for each in claims):
        raise PolicyRefusal(RefusalCode.WRONG_VEHICLE, "a key attestation is for another vehicle")
    root = roots.get(claims[0].signer)
    if root is None:
        if any(each.signer in roots for each in claims):
            raise WireError(
                "the attestations of a chain stand in another order", clause=CHAIN_CLAUSE
            )
        raise PolicyRefusal(
            RefusalCode.KEY_UNKNOWN, "neither the owner nor the authority signed the key"
        )
    links[0][1].verify(root)
    if len(links) > 1:
        _check_handed_on(*claims)
        links[1][1].verify(PublicKey.parse(claims[0].public_key))
    return claims


def check_validity(chain: Sequence[KeyClaims], *, now_s: int) -> None:
    """Check that ``now_s`` lies in the time of every statement, both ends included.

    Args:
        chain: What :func:`verify_chain` returned.
        now_s: The latest time that is known for sure, seconds since 1970: never one that a clock
            was set back to (security 5, case 20).

    Raises:
        PolicyRefusal: KEY_EXPIRED, or TOO_SOON with the time to wait.
        LocalFault: The chain is empty: nothing was verified.
    """
    if not chain:
        raise LocalFault("an empty chain has no time", clause=CHAIN_CLAUSE)
    if any(now_s > each.not_after_s for each in chain):
        raise PolicyRefusal(RefusalCode.KEY_EXPIRED, "the time of the key is over")
    wait_s = max(each.not_before_s for each in chain) - now_s
    if wait_s > 0:
        raise PolicyRefusal(
            RefusalCode.TOO_SOON, "the time of the key has not come", remaining_s=wait_s
        )


def noted_code(error: DkeyError) -> RefusalCode:
    """Return the code that is noted for an error: its own, or NOT_AUTHORISED when it has none."""
    return error.code if isinstance(error, PolicyRefusal) else RefusalCode.NOT_AUTHORISED


def _read(data: bytes) -> tuple[KeyClaims, Sign1]:
    values, signed = ATTESTATION.read(data)
    return KeyClaims(**values, signer=signed.signer), signed


def _check_handed_on(first: KeyClaims, second: KeyClaims) -> None:
    """Check that the holder of ``first`` might sign ``second``; the signature is checked apart."""
    if second.signer != first.public_key[1:33]:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED, "the holder of the first key did not sign the second"
        )
    if not (first.reshare and first.role is Role.ACTUAL_USER):
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "the signer of the key may not share")
    if second.role is Role.ACTUAL_USER:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "an actual user makes no other actual user")
    if second.epoch != first.epoch:
        raise PolicyRefusal(RefusalCode.KEY_REVOKED, "a key attestation is of another owner epoch")
    if (first.permission, second.permission) == (Permission.ENTRY, Permission.ENTRY_AND_START):
        raise PolicyRefusal(
            RefusalCode.PERMISSION_ENTRY_ONLY, "the key may do more than that of its signer"
        )
