"""Withdrawal lists: the present state of one issuer, signed, numbered (specs/lifecycle.md §5).

A list replaces the one before it. Its number rises, for each issuer and owner epoch by itself; a
vehicle takes a higher number only, from whoever carries it.
"""

from __future__ import annotations

from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dkey.errors import AuthenticationError, PolicyRefusal, RefusalCode
from dkey.lifecycle.claims import Issuer, WithdrawalClaims
from dkey.lifecycle.policy import MAX_WITHDRAWN
from dkey.lifecycle.statement import FLAG, TIME, UINT32, Statement, choice, many, octets, uint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dkey.crypto.p256 import PublicKey
    from dkey.crypto.vault import Vault
    from dkey.lifecycle.cose import Sign1

__all__ = [
    "MAX_WITHDRAWN",
    "WITHDRAWAL",
    "read_withdrawal",
    "sign_withdrawal",
    "verify_withdrawal",
]

CLAUSE: Final = "specs/lifecycle.md §5"


def _rising(references: Sequence[bytes]) -> bool:
    return all(one < next_one for one, next_one in pairwise(references))


def _check(values: Mapping[str, Any]) -> None:
    revoked, suspended = values["revoked"], values["suspended"]
    if not (_rising(revoked) and _rising(suspended)):
        raise ValueError("its references are not sorted, or one stands twice")
    if not set(revoked).isdisjoint(suspended):
        raise ValueError("one reference is revoked and suspended")
    if len(revoked) + len(suspended) > MAX_WITHDRAWN:
        raise ValueError(f"it has over {MAX_WITHDRAWN} references")
    if values["immobilised"] and values["issuer"] is not Issuer.AUTHORITY:
        raise ValueError("only the authority immobilises")
    if values["corporate"] and values["issuer"] is not Issuer.AUTHORITY:
        raise ValueError("only the authority says that an owner is a corporation")


_REFERENCES: Final = many(octets(16), MAX_WITHDRAWN)
WITHDRAWAL: Final = Statement(
    name="withdrawal-list",
    clause=CLAUSE,
    limit=5 * 1024,
    fields=MappingProxyType(
        {
            "vehicle": octets(16),
            "epoch": UINT32,
            "issuer": choice(Issuer.OWNER, Issuer.AUTHORITY),
            "number": uint(1, 0xFFFFFFFF),
            "issued_s": TIME,
            "revoked": _REFERENCES,
            "suspended": _REFERENCES,
            "all_suspended": FLAG,
            "immobilised": FLAG,
            "corporate": FLAG,
        }
    ),
    check=_check,
)


def sign_withdrawal(claims: WithdrawalClaims, vault: Vault, key: str) -> bytes:
    """Return the withdrawal list of ``claims``, signed with the key named ``key``.

    Raises:
        LocalFault: A value has no form in a list: unsorted, twice, too many.
    """
    return WITHDRAWAL.sign({name: getattr(claims, name) for name in WITHDRAWAL.fields}, vault, key)


def read_withdrawal(data: bytes) -> WithdrawalClaims:
    """Read one list; nothing is verified but its form.

    Raises:
        WireError: Not exactly one list in its one form.
    """
    return _read(data)[0]


def verify_withdrawal(
    data: bytes, signer_key: PublicKey, *, issuer: Issuer, vehicle: bytes
) -> WithdrawalClaims:
    """Verify one list and return what it says.

    Args:
        data: The signed list.
        signer_key: The issuer's key, as the vehicle knows it.
        issuer: Whose key that is: a list in another issuer's name is refused.
        vehicle: Identifier of this vehicle.

    Raises:
        WireError: Not exactly one list in its one form.
        AuthenticationError: Another signer, another issuer's name, or a forged signature.
        PolicyRefusal: WRONG_VEHICLE.
    """
    claims, signed = _read(data)
    signed.verify(signer_key)
    if claims.issuer is not issuer:
        raise AuthenticationError("a withdrawal list speaks for another issuer", clause=CLAUSE)
    if claims.vehicle != vehicle:
        raise PolicyRefusal(RefusalCode.WRONG_VEHICLE, "a withdrawal list is for another vehicle")
    return claims


def _read(data: bytes) -> tuple[WithdrawalClaims, Sign1]:
    values, signed = WITHDRAWAL.read(data)
    return WithdrawalClaims(**values), signed
