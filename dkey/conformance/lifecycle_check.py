"""Exhaustive check of the lifecycle rules themselves: every order of events up to a depth.

It runs :func:`dkey.lifecycle.ring.apply` and :class:`dkey.lifecycle.admission.Admissions`, not a
model of them, breadth first, so that what it finds is a shortest story. Broken variants of the
rules, :data:`WEAKENED`, show that it can find something.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dkey.conformance.lifecycle_world import (
    CARD,
    PEOPLE,
    USER,
    Policy,
    State,
    Violation,
    begin,
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


class _Forgets(Admissions):
    __slots__ = ()

    def _check_newer(self, former: Taken | None, taken: Taken) -> None:
        """Take a list of any number."""

    def _gone_with(self, taken: Taken) -> frozenset[bytes]:
        return taken.revoked


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
        "an older list makes revocations forgotten": Policy(admissions=_Forgets),
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
            _, epoch, number, rest = item.split(b"~", 3)
            present = int(epoch) == state.car.epoch
            if present and opens(state, rest):
                return f"a key opens that the acknowledged list {int(number)} suspends"
        elif opens(state, item):
            return "a key opens although the vehicle acknowledged its revocation"
    return None


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
    people = sorted(repr(_of(state, name)) for name in PEOPLE)
    ring, car = state.ring, state.car
    world = (
        _of(state, USER),
        (ring.epoch, ring.list_number, ring.owner is None, ring.immobilised, ring.clock_s),
        (ring.card(CARD), CARD in ring.spent, ring.removal),
        (car.epoch, car.owner_x, car.immobilised, car.time_s, CARD in car.cards, CARD in car.gone),
        tuple((each.issuer, each.number) for each in car.taken),
        tuple(
            (p.epoch, p.number, p.issued_s, p.immobilised, CARD in p.revoked)
            for p in state.papers
            if isinstance(p, WithdrawalClaims)
        ),
        (CARD in state.told, CARD in state.dead, state.late, state.wall),
    )
    return repr(world), tuple(people)


def _of(state: State, name: str) -> Any:
    """Return all that concerns one person, without the name."""
    ids = sorted(each for each in state.ring.spent if owner_of(each) == name)
    shares = {each.share_id: each for each in state.ring.shares}
    admitted = {each.claims.share_id: each for each in state.car.admitted}
    return tuple(
        (
            each[-1:],
            _share_key(shares.get(each)),
            _admitted_key(admitted.get(each)),
            each in state.car.gone,
            each in state.dead,
            sorted(mark.rpartition(b"~")[0] for mark in state.told if mark.endswith(each)),
            _papers_key(state, each),
            tuple(each in taken.suspended for taken in state.car.taken),
        )
        for each in ids
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


def _papers_key(state: State, item: bytes) -> Any:
    lists, chains = [], []
    for paper in state.papers:
        if isinstance(paper, WithdrawalClaims):
            lists.append((item in paper.revoked, item in paper.suspended))
        elif paper[-1].share_id == item:
            last = paper[-1]
            chains.append((last.epoch, last.slot, last.list_number, last.issued_s, len(paper)))
    return lists, chains


# --- the search --------------------------------------------------------------------------------


def check(depth: int = DEFAULT_DEPTH, weaken: str | None = None) -> Report:
    """Visit every state within ``depth`` events and return the first broken promise.

    Args:
        depth: Events in a row.
        weaken: A key of :data:`WEAKENED`, to check broken rules instead.
    """
    policy = WEAKENED[weaken] if weaken is not None else Policy()
    first = begin(policy)
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
                    return Report(
                        states=len(came),
                        depth=at + 1,
                        violation=broken,
                        trace=_story(came, next_key),
                    )
                queue.append((after, next_key, at + 1))
        except Violation as exc:
            story = (*_story(came, key), "somebody is withdrawn")
            return Report(states=len(came), depth=at + 1, violation=str(exc), trace=story)
    return Report(states=len(came), depth=depth, violation=None)


def _story(came: Mapping[Any, tuple[Any, str]], key: Any) -> tuple[str, ...]:
    lines: list[str] = []
    while key is not None:
        key, text = came[key]
        lines.append(text)
    return tuple(line for line in reversed(lines) if line)
