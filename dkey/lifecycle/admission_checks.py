"""What keeps a vehicle from letting a key in, beside its own attestation: who signs, what is taken.

Functions of :class:`dkey.lifecycle.admission.Admissions`; each refuses or says nothing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.claims import Issuer, key_ref
from dkey.lifecycle.roles import Permission, Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dkey.lifecycle.admission import Admissions
    from dkey.lifecycle.admission_state import Admitted, Taken
    from dkey.lifecycle.claims import KeyClaims, WithdrawalClaims

__all__ = [
    "check_corporate",
    "check_free",
    "check_lift",
    "check_list_issuer",
    "check_may_issue",
    "check_reference",
    "issuer_of",
]

_X: Final = slice(1, 33)


def check_may_issue(now: Admissions, chain: tuple[KeyClaims, ...], issuer: Issuer) -> None:
    """Refuse a new share whose signer is suspended: who finds a lost phone shares no key (S60).

    Raises:
        PolicyRefusal: KEY_SUSPENDED.
    """
    signers = {each.share_id for each in chain[:-1]}
    if issuer is Issuer.OWNER and now.owner_x is not None:
        signers.add(key_ref(now.owner_x))
    if any(not signers.isdisjoint(each.suspended) for each in now.taken):
        raise PolicyRefusal(
            RefusalCode.KEY_SUSPENDED, "who signed this share is suspended", hint="ask the owner"
        )


def check_corporate(now: Admissions, chain: tuple[KeyClaims, ...], issuer: Issuer) -> None:
    """Refuse an actual user of the owner's making, unless the authority says: a corporation (S40).

    Else a person's modified phone would give a fourth key, as an actual user takes no place (C1).

    Raises:
        PolicyRefusal: NOT_SYNCED before the first list of the authority, NOT_AUTHORISED after it.
    """
    if issuer is Issuer.AUTHORITY or all(each.role is not Role.ACTUAL_USER for each in chain):
        return
    said = next((each for each in now.taken if each.issuer is Issuer.AUTHORITY), None)
    if said is None:
        raise PolicyRefusal(
            RefusalCode.NOT_SYNCED,
            "nobody said yet that the owner of this vehicle is a corporation",
            hint="bring the authority's list first",
        )
    if not said.corporate:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED, "only a corporate owner has an actual user (S40)"
        )


def check_lift(now: Admissions, former: Taken | None, taken: Taken) -> None:
    """Refuse a list by which an owner whom the authority suspended resumes a key (S92).

    Raises:
        PolicyRefusal: KEY_SUSPENDED; the list can be taken once the owner is resumed.
    """
    if former is None or taken.issuer is not Issuer.OWNER or now.owner_x is None:
        return
    owner = key_ref(now.owner_x)
    held = any(
        each.issuer is Issuer.AUTHORITY and (each.all_suspended or owner in each.suspended)
        for each in now.taken
    )
    resumed = former.suspended - taken.suspended - taken.revoked
    if held and (resumed or former.all_suspended > taken.all_suspended):
        raise PolicyRefusal(RefusalCode.KEY_SUSPENDED, "a suspended owner resumes nobody")


def check_free(admitted: Iterable[Admitted], owner_x: bytes | None, x: bytes, now_s: int) -> None:
    """Refuse a key that is somebody's here already; one whose time is over is nobody's.

    Raises:
        PolicyRefusal: REPLAY.
    """
    if x == owner_x or any(each.x == x and each.until_s >= now_s for each in admitted):
        raise PolicyRefusal(RefusalCode.REPLAY, "this key has another share here already")


def check_reference(now: Admissions, share_id: bytes, x: bytes) -> None:
    """Refuse a share that would be taken for the owner's key or a card: both are 16 bytes.

    Else the actual user would sign a share with the owner's reference as its id, and what ends the
    share would end the owner's key (S90).

    Raises:
        PolicyRefusal: REPLAY.
    """
    owner = {key_ref(now.owner_x)} if now.owner_x is not None else set()
    if share_id in now.cards | owner or key_ref(x) in now.cards:
        raise PolicyRefusal(RefusalCode.REPLAY, "this is the reference of another key or card")


def issuer_of(now: Admissions, chain: tuple[KeyClaims, ...]) -> Issuer:
    """Return on whose word the chain rests; each next one is the former holder's.

    Raises:
        PolicyRefusal: NOT_AUTHORISED.
    """
    root = chain[0]
    if now.authority_x is not None and root.signer == now.authority_x:
        issuer = Issuer.AUTHORITY
    elif now.owner_x is not None and root.signer == now.owner_x:
        issuer = Issuer.OWNER
    else:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "nobody here signed this attestation")
    for parent, child in pairwise(chain):
        allowed = (
            parent.reshare
            and parent.role is Role.ACTUAL_USER
            and child.signer == parent.public_key[_X]
            and child.role in (Role.ASSOCIATE, Role.PROVIDER)
            and not (
                parent.permission is Permission.ENTRY
                and child.permission is Permission.ENTRY_AND_START
            )
        )
        if not allowed:
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED, "that key may not give such a key (C17)"
            )
    last = chain[-1]
    if last.reshare and last.role is not Role.ACTUAL_USER:
        raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "only an actual user shares on")
    return issuer


def check_list_issuer(now: Admissions, claims: WithdrawalClaims) -> None:
    """Refuse a list of somebody who issues none here, or may not say this in it.

    Raises:
        PolicyRefusal: NOT_AUTHORISED.
    """
    x = now.owner_x if claims.issuer is Issuer.OWNER else now.authority_x
    withdrawn = claims.issuer is Issuer.OWNER and x is not None and key_ref(x) in now.gone
    beyond = claims.issuer is Issuer.OWNER and (claims.immobilised or claims.corporate)
    if x is None or withdrawn or beyond:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED, "no issuer of this vehicle may give such a list"
        )
