"""Which states are alike in the exhaustive lifecycle check: those that differ by a swap of people.

``tests/property/test_lifecycle_exhaustive.py`` checks this against a search without it: states that
are alike must have futures that are alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dkey.conformance.lifecycle_state import (
    CARD,
    OWNERS,
    PEOPLE,
    USER,
    WASH,
    key_of,
    mail,
    owner_of,
)
from dkey.lifecycle.claims import WithdrawalClaims, key_ref

if TYPE_CHECKING:
    from dkey.conformance.lifecycle_state import Chain, State
    from dkey.lifecycle.admission_state import Admitted
    from dkey.lifecycle.claims import KeyClaims
    from dkey.lifecycle.ring_state import Held, Share

__all__ = ["signature"]

_REFS: Final = {name: key_ref(key_of(name)) for name in (*PEOPLE, *OWNERS, USER, WASH)}
_OWNER_REFS: Final = tuple(_REFS[name] for name in OWNERS)


def signature(state: State) -> Any:
    """Return what makes a state different: people sorted by all that concerns them."""
    lists = [each for each in state.papers if isinstance(each, WithdrawalClaims)]
    chains = [each for each in state.papers if not isinstance(each, WithdrawalClaims)]
    told: dict[bytes, list[bytes]] = {}
    for mark in state.told:
        head, _, tail = mark.rpartition(b"~")
        told.setdefault(tail, []).append(head)
    of: dict[str, list[Any]] = {}
    for item in sorted(state.ring.spent | {each[-1].share_id for each in chains}):
        signed = [_chain_key(each) for each in chains if each[-1].share_id == item]
        marks = sorted(told.pop(item, ()))
        of.setdefault(owner_of(item), []).append((_item_key(state, item, lists), signed, marks))
    for account in state.ring.vetoes:
        of.setdefault(account.partition("@")[0], []).append("vetoed")
    named = sorted((name, repr(key)) for name, key in of.items() if name not in PEOPLE)
    return (
        tuple(sorted(repr((_ordered(state, name), of[name])) for name in PEOPLE if name in of)),
        tuple(named),
        tuple(sorted((tail, *sorted(heads)) for tail, heads in told.items())),
        _ring_key(state),
        _car_key(state),
        tuple(
            (p.issuer, p.epoch, p.number, p.issued_s, p.immobilised, p.all_suspended, p.corporate)
            for p in lists
        ),
        (state.late, state.wall),
    )


def _ordered(state: State, name: str) -> list[bytes]:
    """Return the provider's keys that somebody ordered."""
    own = mail(name)
    return [each.share_id for each in state.ring.shares if each.grantor == own]


def _ring_key(state: State) -> Any:
    ring = state.ring
    return (
        *(ring.epoch, ring.told_epoch, ring.list_number, ring.owner),
        *(ring.owner_holds, ring.account_holds),
        *(ring.immobilised, ring.clock_s, ring.cards, ring.removal, ring.pause, ring.due),
        *(ring.pauses_used, ring.veto_all, ring.may_pause, ring.closed),
        # What is withdrawn and no share: cards and keys of owners.
        frozenset(each.item for each in ring.withdrawn if each.item not in ring.spent),
    )


def _car_key(state: State) -> Any:
    car = state.car
    return (
        *(car.epoch, car.owner_x, car.immobilised, car.time_s, CARD in car.cards),
        tuple([ref in car.gone for ref in _OWNER_REFS]),
        tuple(
            [
                (
                    *(t.issuer, t.number, t.all_suspended, t.corporate),
                    *[ref in t.suspended for ref in _OWNER_REFS],
                )
                for t in car.taken
            ]
        ),
    )


def _item_key(state: State, item: bytes, lists: list[WithdrawalClaims]) -> Any:
    """Return all that concerns one share or card, without its holder's name."""
    car, ring = state.car, state.ring
    admitted = next((each for each in car.admitted if each.claims.share_id == item), None)
    ref = _REFS.get(owner_of(item))
    return (
        item[-1:],
        _share_key(ring.share(item)),
        _admitted_key(admitted),
        *(item in car.gone, ref in car.gone, item in state.dead),
        [each.until_s for each in ring.withdrawn if each.item == item],
        [(item in each.revoked, item in each.suspended) for each in lists],
        [(item in each.revoked, item in each.suspended) for each in car.taken],
    )


def _share_key(share: Share | None) -> Any:
    if share is None:
        return None
    return (
        *(share.slot, share.state.value, share.ended, share.confirmed, share.key_x is None),
        _name(share.grantor.partition("@")[0]),
        sorted(_held_key(share, each) for each in share.holds),
    )


def _held_key(share: Share, held: Held) -> tuple[str, ...]:
    on = held.on
    if on == share.share_id.hex():
        on = "itself"
    elif "@" not in on and on:
        on = _name(owner_of(bytes.fromhex(on)))
    return (held.kind.value, held.who, on, held.cause.value if held.cause else "")


def _name(name: str) -> str:
    return "somebody" if name in PEOPLE else name


def _claims_key(claims: KeyClaims) -> Any:
    signer = claims.signer
    return (claims.epoch, claims.slot, claims.list_number, claims.issued_s, signer)


def _chain_key(chain: Chain) -> Any:
    parents = [(each.share_id, *_claims_key(each)) for each in chain[:-1]]
    return (_claims_key(chain[-1]), parents)


def _admitted_key(admitted: Admitted | None) -> Any:
    if admitted is None:
        return None
    return (_claims_key(admitted.claims), admitted.parent, admitted.until_s)
