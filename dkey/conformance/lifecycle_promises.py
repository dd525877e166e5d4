"""What must hold in every state of the exhaustive lifecycle check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.conformance.lifecycle_state import EVERYTHING, OWNERS, USER, mail, opens
from dkey.lifecycle.claims import WithdrawalClaims
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.roles import Role

if TYPE_CHECKING:
    from dkey.conformance.lifecycle_state import State

__all__ = ["broken"]

_OWNER_ACCOUNTS: Final = frozenset(mail(each) for each in OWNERS)


def broken(state: State) -> str | None:
    """Return the promise that does not hold in this state."""
    return (
        _epochs(state) or _places(state) or _family(state) or _refused(state) or _confirmed(state)
    )


def _epochs(state: State) -> str | None:
    if state.ring.epoch > state.car.epoch:
        return "the lists are of an epoch that the vehicle has not begun"
    return None


def _places(state: State) -> str | None:
    ring = [each.slot for each in state.ring.live if each.slot]
    if len(ring) > MAX_SHARES:
        return "more than three shares live in the ledger"
    car = [each.claims.slot for each in state.car.admitted if each.claims.slot]
    if len(car) > MAX_SHARES or len(set(car)) < len(car):
        return "the vehicle let two keys into one place"
    return None


def _family(state: State) -> str | None:
    ring = state.ring
    live = ring.live
    if any(each.account in ring.vetoes for each in live):
        return "a share outlives the veto against its holder"
    accounts = {each.account for each in live}
    orderers = {each.grantor for each in live if each.role is Role.PROVIDER}
    if orderers - accounts - _OWNER_ACCOUNTS:
        return "a provider's key outlives that of whoever ordered it"
    if mail(USER) not in accounts and any(each.grantor == mail(USER) for each in live):
        return "a share outlives the actual user who granted it"
    return None


def _refused(state: State) -> str | None:
    for item in state.dead:
        if opens(state, item):
            return "a key opens again that the vehicle had taken as ended"
    for item in state.told:
        if item.startswith(b"~"):
            if _suspended_opens(state, item):
                return "a key opens that the last acknowledged list suspends"
        elif opens(state, item):
            return "a key opens although the vehicle acknowledged its revocation"
    return None


def _suspended_opens(state: State, mark: bytes) -> bool:
    """Whether a key opens that an acknowledged list suspends, and no later list resumed."""
    _, issuer, epoch, number, rest = mark.split(b"~", 4)
    if int(epoch) != state.car.epoch:
        return False
    for paper in state.papers:
        if (
            isinstance(paper, WithdrawalClaims)
            and paper.epoch == int(epoch)
            and paper.number > int(number)
            and paper.issuer.value.encode() == issuer
        ):
            still = paper.all_suspended if rest == EVERYTHING else rest in paper.suspended
            if not still:
                return False
    items = (*state.ring.spent,) if rest == EVERYTHING else (rest,)
    return any(opens(state, each) for each in items)


def _confirmed(state: State) -> str | None:
    spent = state.ring.spent
    if any(each.claims.share_id not in spent for each in state.car.admitted):
        return "the vehicle let in a key that the ledger does not know"
    if state.ring.epoch != state.car.epoch:
        return None
    known = {each.claims.share_id for each in state.car.admitted} | state.car.gone
    for share in state.ring.live:
        if share.confirmed and share.share_id not in known:
            return "the ledger counts on a key that the vehicle does not know"
    return None
