"""What a vehicle remembers: keys it let in, lists it took, and its verdict on a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dkey.errors import RefusalCode  # noqa: TC001 - read by from_plain
from dkey.lifecycle.claims import Issuer, KeyClaims  # noqa: TC001 - read by from_plain
from dkey.lifecycle.roles import Permission, Role  # noqa: TC001 - read by from_plain

if TYPE_CHECKING:
    from dkey.lifecycle.claims import WithdrawalClaims

__all__ = ["Admitted", "Taken", "Verdict", "with_corporate"]
_TAKEN: Final = 7
"""Place of what was taken, in the plain form of admissions of version 1."""


def with_corporate(plain: Any) -> Any:
    """Return admissions of version 1, whose lists said nothing of corporations, as version 2."""
    if not isinstance(plain, list) or not isinstance(plain[_TAKEN : _TAKEN + 1], list):
        return plain
    lists = [
        [[*each, False] for each in taken if isinstance(each, list)]
        for taken in plain[_TAKEN : _TAKEN + 1]
        if isinstance(taken, list)
    ]
    return [*plain[:_TAKEN], *lists, *plain[_TAKEN + 1 :]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A key that the vehicle let in.

    Attributes:
        claims: What its attestation says.
        x: x-coordinate of the key.
        parent: Share id of the actual user that signed it; empty for none.
        until_s: Last second of validity of its whole chain.
    """

    claims: KeyClaims
    x: bytes
    parent: bytes
    until_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The latest withdrawal list of one issuer.

    Attributes:
        corporate: Its authority says that the owner is a corporation.
    """

    issuer: Issuer
    number: int
    revoked: frozenset[bytes]
    suspended: frozenset[bytes]
    all_suspended: bool
    immobilised: bool
    corporate: bool

    @classmethod
    def of(cls, claims: WithdrawalClaims) -> Taken:
        """Return what is remembered of a list."""
        return cls(
            issuer=claims.issuer,
            number=claims.number,
            revoked=frozenset(claims.revoked),
            suspended=frozenset(claims.suspended),
            all_suspended=claims.all_suspended,
            immobilised=claims.immobilised,
            corporate=claims.corporate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a key is good, and for what.

    Attributes:
        refusal: Why it is not; None when it is.
        item: Share id or key reference.
        may_start: It may start too: permission, no immobilisation, and no fast transaction.
    """

    refusal: RefusalCode | None
    item: bytes | None = None
    role: Role | None = None
    permission: Permission | None = None
    may_start: bool = False
