"""Exhaustive check of the lifecycle rules themselves: every order of events up to a depth.

It runs :func:`dkey.lifecycle.ring.apply` and :class:`dkey.lifecycle.admission.Admissions`, not a
model of them, breadth first, so that what it finds is a shortest story. Broken variants of the
rules, :data:`WEAKENED`, show that it can find something.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dkey.conformance.lifecycle_world import (
    CARD,
    EVERYTHING,
    PEOPLE,
    USER,
    Policy,
    State,
    Violation,
    begin,
    begin_busy,
    opens,
    owner_of,
    steps,
)
from dkey.lifecycle.admission import Admissions
from dkey.lifecycle.claims import WithdrawalClaims
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.ring_draft import Draft
from dkey.lifecycle.ring_state import ShareState
from dkey.lifecycle.roles import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.lifecycle.admission_state import Admitted, Taken
    from dkey.lifecycle.claims import KeyClaims
    from dkey.lifecycle.ring_state import Share

__all__ = ["DEFAULT_DEPTH", "WEAKENED", "Report", "check"]

DEFAULT_DEPTH: Final = 5
"""Events in a row, at most; deeper takes about eight times as long each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the check found.

    Attributes:
        states: Different states that were visited, people swapped counting as one.
        depth: Events in a row that were looked at.
        violation: The promise that was broken; None when all hold.
        trace: A shortest story that leads there, one event a line.
    """

    states: int
    depth: int
    violation: str | None
    trace: tuple[str, ...] = ()


# --- broken variants ---------------------------------------------------------------------------


class _FourPlaces(Draft):
    places = MAX_SHARES + 1


class _NoCascade(Draft):
    def beneath(self, share: Share) -> tuple[Share, ...]:  # noqa: ARG002 - the same signature
        return ()


class _UpwardCascade(Draft):
    def beneath(self, share: Share) -> tuple[Share, ...]:
        return tuple(each for each in self.live if each.share_id != share.share_id)


class _SharedSlots(Admissions):
    __slots__ = ()

    def _place(self, claims: KeyClaims, now_s: int) -> Admitted | None:  # noqa: ARG002
        return None


class _NoEpoch(Admissions):
    __slots__ = ()

    def _check_epoch(self, chain: tuple[KeyClaims, ...]) -> None:
        """Take an attestation of any owner's time."""


class _OlderList(Admissions):
    __slots__ = ()

    def _check_newer(self, former: Taken | None, taken: Taken) -> None:
        """Take a list of any number."""


class _Remembers(Admissions):
    __slots__ = ()

    def factory_reset(self) -> Admissions:
        reset: Admissions = replace(self, epoch=self.epoch + 1, owner_x=None)
        return reset


class _WallClock(Admissions):
    __slots__ = ()

    def _now(self, now_s: int) -> int:
        return now_s


WEAKENED: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        "four places in the ledger": Policy(draft=_FourPlaces),
        "slots are not exclusive": Policy(admissions=_SharedSlots),
        "the owner epoch is not checked": Policy(admissions=_NoEpoch),
        "the answer leaves before the commit": Policy(commit_first=False),
        "no cascade": Policy(draft=_NoCascade),
        "the cascade goes upwards": Policy(draft=_UpwardCascade),
        "a list may go back": Policy(admissions=_OlderList),
        "a factory reset leaves keys behind": Policy(admissions=_Remembers),
        "the wall clock alone decides": Policy(admissions=_WallClock),
    }
)
"""Rules with one thing broken each; the check finds a story against every one."""


# --- promises ----------------------------------------------------------------------------------


def _broken(state: State) -> str | None:
    """Return the promise that does not hold in this state."""
    return _places(state) or _family(state) or _refused(state) or _confirmed(state)


def _places(state: State) -> str | None:
    ring = [each.slot for each in state.ring.live if each.slot]
    if len(ring) > MAX_SHARES:
        return "more than three shares live in the ledger"
    car = [each.claims.slot for each in state.car.admitted if each.claims.slot]
    if len(car) > MAX_SHARES or len(set(car)) < len(car):
        return "the vehicle let two keys into one place"
    return None


def _family(state: State) -> str | None:
    live = state.ring.live
    if any(each.role is Role.ACTUAL_USER for each in live):
        return None
    if any(owner_of_account(each.grantor) == USER for each in live):
        return "a share outlives the actual user who granted it"
    return None


def owner_of_account(account: str) -> str:
    """Return the name in an account."""
    return account.partition("@")[0]


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
    _, epoch, number, rest = mark.split(b"~", 3)
    if int(epoch) != state.car.epoch:
        return False
    for paper in state.papers:
        if isinstance(paper, WithdrawalClaims) and paper.epoch == int(epoch):
            still = paper.all_suspended if rest == EVERYTHING else rest in paper.suspended
            if paper.number > int(number) and not still:
                return False
    items = (*state.ring.spent,) if rest == EVERYTHING else (rest,)
    return any(opens(state, each) for each in items)


def _confirmed(state: State) -> str | None:
    if state.ring.epoch != state.car.epoch:
        return None
    known = {each.claims.share_id for each in state.car.admitted} | state.car.gone
    for share in state.ring.live:
        if share.confirmed and share.share_id not in known:
            return "the ledger counts on a key that the vehicle does not know"
    return None


# --- states that are alike ---------------------------------------------------------------------


def _key(state: State) -> Any:
    """Return what makes a state different: people sorted by all that concerns them."""
    ring, car = state.ring, state.car
    items: dict[str, list[bytes]] = {}
    for item in sorted(ring.spent):
        items.setdefault(owner_of(item), []).append(item)
    lists = [each for each in state.papers if isinstance(each, WithdrawalClaims)]
    chains = [each for each in state.papers if not isinstance(each, WithdrawalClaims)]
    of = {
        name: repr([_item_key(state, item, lists, chains) for item in mine])
        for name, mine in items.items()
    }
    return (
        tuple(sorted(key for name, key in of.items() if name in PEOPLE)),
        of.get(USER),
        (ring.epoch, ring.list_number, ring.owner is None, ring.immobilised, ring.clock_s),
        (ring.card(CARD), CARD in ring.spent, ring.removal, ring.owner_holds),
        (car.epoch, car.owner_x, car.immobilised, car.time_s, CARD in car.cards, CARD in car.gone),
        tuple((each.number, each.all_suspended) for each in car.taken),
        tuple(
            (p.epoch, p.number, p.issued_s, p.immobilised, p.all_suspended, CARD in p.revoked)
            for p in lists
        ),
        frozenset(each for each in state.told if each.endswith((EVERYTHING, CARD))),
        (CARD in state.dead, state.late, state.wall),
    )


def _item_key(
    state: State, item: bytes, lists: list[WithdrawalClaims], chains: list[tuple[KeyClaims, ...]]
) -> Any:
    """Return all that concerns one share, without its holder's name."""
    car = state.car
    admitted = next((each for each in car.admitted if each.claims.share_id == item), None)
    signed = [
        (each[-1].epoch, each[-1].slot, each[-1].list_number, each[-1].issued_s, len(each))
        for each in chains
        if each[-1].share_id == item
    ]
    return (
        item[-1:],
        _share_key(state.ring.share(item)),
        _admitted_key(admitted),
        item in car.gone,
        item in state.dead,
        sorted(mark.rpartition(b"~")[0] for mark in state.told if mark.endswith(item)),
        signed,
        [(item in each.revoked, item in each.suspended) for each in lists],
        [item in taken.suspended for taken in car.taken],
    )


def _share_key(share: Share | None) -> Any:
    if share is None:
        return None
    own = share.share_id.hex()
    holds = sorted((each.kind.value, each.on == own) for each in share.holds)
    ended = share.state is ShareState.ENDED
    by_user = owner_of_account(share.grantor) == USER
    return (share.slot, share.ended, ended, share.confirmed, by_user, holds)


def _admitted_key(admitted: Admitted | None) -> Any:
    if admitted is None:
        return None
    claims = admitted.claims
    return (claims.slot, claims.epoch, claims.list_number, admitted.parent, admitted.until_s)


# --- the search --------------------------------------------------------------------------------


def check(depth: int = DEFAULT_DEPTH, weaken: str | None = None, *, busy: bool = True) -> Report:
    """Visit every state near both beginnings and return the first broken promise.

    The search begins twice: at a vehicle that was just paired, ``depth`` events deep, and at one
    with an actual user, three associates and a card, all used already, ``depth - 1`` events deep.

    Args:
        depth: Events in a row.
        weaken: A key of :data:`WEAKENED`, to check broken rules instead.
        busy: Begin at the busy vehicle too.
    """
    policy = WEAKENED[weaken] if weaken is not None else Policy()
    fresh = _search(policy, begin(policy), depth, ())
    if fresh.violation is not None or not busy:
        return fresh
    story, first = begin_busy(policy)
    later = _search(policy, first, depth - 1, story)
    return replace(later, states=fresh.states + later.states, depth=max(fresh.depth, later.depth))


def _search(policy: Policy, first: State, depth: int, story: tuple[str, ...]) -> Report:
    """Search breadth first; ``story`` tells how ``first`` came about."""
    came: dict[Any, tuple[Any, str]] = {_key(first): (None, "")}
    queue = deque([(first, _key(first), 0)])
    while queue:
        state, key, at = queue.popleft()
        if at == depth:
            continue
        try:
            for text, after in steps(policy, state):
                next_key = _key(after)
                if next_key in came:
                    continue
                came[next_key] = (key, text)
                broken = _broken(after)
                if broken is not None:
                    trace = (*story, *_story(came, next_key))
                    return Report(states=len(came), depth=len(trace), violation=broken, trace=trace)
                queue.append((after, next_key, at + 1))
        except Violation as exc:
            trace = (*story, *_story(came, key), exc.event)
            return Report(states=len(came), depth=len(trace), violation=str(exc), trace=trace)
    return Report(states=len(came), depth=len(story) + depth, violation=None)


def _story(came: Mapping[Any, tuple[Any, str]], key: Any) -> tuple[str, ...]:
    lines: list[str] = []
    while key is not None:
        key, text = came[key]
        lines.append(text)
    return tuple(line for line in reversed(lines) if line)
