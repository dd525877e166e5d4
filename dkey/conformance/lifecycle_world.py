"""The world of the exhaustive lifecycle check: one ledger, one vehicle, and what is in between.

Everything that may be lost, late, repeated or out of order is a paper: every list that was ever
published and every attestation that was ever signed stays in somebody's hands, and any of them may
be shown to the vehicle at any time. The vehicle itself may crash between any two of its writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dkey.errors import PolicyRefusal
from dkey.lifecycle import commands as c
from dkey.lifecycle.admission import Admissions
from dkey.lifecycle.claims import Issuer, KeyClaims, WithdrawalClaims, holder_ref
from dkey.lifecycle.ring import Ring, apply
from dkey.lifecycle.ring_draft import Draft
from dkey.lifecycle.ring_effects import KeyEnded, KeyHeld
from dkey.lifecycle.ring_rules import RANK
from dkey.lifecycle.ring_state import Ended
from dkey.lifecycle.roles import CardProvenance, Permission, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CARD",
    "EVERYTHING",
    "PEOPLE",
    "USER",
    "Policy",
    "State",
    "Violation",
    "begin",
    "begin_busy",
    "opens",
    "owner_of",
    "steps",
]

PEOPLE: Final = ("anna", "bob", "carl", "dora")
"""Associates; they are alike, so that states that differ by a swap of them are one."""
USER: Final = "user"
OWNER: Final = "owner@example.org"
HEIR: Final = "heir@example.org"
VEHICLE: Final = b"V" * 16
EVERYTHING: Final = b"*"
"""Stands for every key and card where a list suspends them all."""
CARD: Final = b"card".ljust(16, b".")
AUTHORITY_X: Final = b"@" * 32
NOON_S: Final = 1000
EVENING_S: Final = 2000
_SHORT_S: Final = 1500
_LONG_S: Final = 9000
_TIMES: Final = (NOON_S, EVENING_S)

Chain = tuple[KeyClaims, ...]
Paper = WithdrawalClaims | Chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules under test; a broken variant differs in one attribute.

    Attributes:
        draft: What the ledger's commands change.
        admissions: What the vehicle remembers.
        commit_first: The vehicle commits before it answers.
    """

    draft: type[Draft] = Draft
    admissions: type[Admissions] = Admissions
    commit_first: bool = True


class Violation(Exception):
    """A promise was broken; the text says which.

    Attributes:
        event: What broke it, in words.
    """

    def __init__(self, promise: str, event: str) -> None:
        super().__init__(promise)
        self.event = event


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One state of the whole world.

    Attributes:
        ring: The ledger, durable.
        car: The vehicle, durable.
        papers: Lists and attestations, in the order in which they were made.
        told: Items that the ledger knows the vehicle refuses: it acknowledged a list with them.
        dead: Items that the vehicle once took as revoked, expired or of another epoch.
        late: It is evening: short shares are over.
        wall: What the vehicle's wall clock shows: 0 noon, 1 evening.
    """

    ring: Ring
    car: Admissions
    papers: tuple[Paper, ...] = ()
    told: frozenset[bytes] = frozenset()
    dead: frozenset[bytes] = frozenset()
    late: int = 0
    wall: int = 0

    @property
    def now_s(self) -> int:
        """The true time."""
        return _TIMES[self.late]


def share_id(name: str, number: int, *, short: bool = False) -> bytes:
    """Return the id of somebody's n-th share; the last byte says whether it is short."""
    return f"{name}{number}".encode().ljust(15, b".") + (b"s" if short else b".")


def owner_of(item: bytes) -> str:
    """Return whose share it is."""
    return item.rstrip(b".s").rstrip(b"0123456789").decode()


def _mail(name: str) -> str:
    return f"{name}@example.org"


def _key(name: str) -> bytes:
    return name.encode().ljust(32, b"x")


def begin(policy: Policy) -> State:
    """Return the first state: a corporate owner, whose vehicle is paired."""
    ring, _ = apply(Ring(vehicle=VEHICLE), _found(OWNER), at_s=NOON_S, draft_type=policy.draft)
    car = policy.admissions(vehicle=VEHICLE, authority_x=AUTHORITY_X)
    return State(ring=ring, car=car.enrol_owner(_key(OWNER)))


def _found(account: str) -> c.Found:
    party = c.Party(account=account, kind=c.PartyKind.CORPORATE)
    return c.Found(actor=c.AUTHORITY, owner=party, key_x=_key(account))


def opens(state: State, item: bytes) -> bool:
    """Whether a share or card opens the vehicle as its clock stands."""
    return state.car.verdict(item, _TIMES[state.wall]).refusal is None


def _owner(state: State) -> str:
    return state.ring.owner.account if state.ring.owner else OWNER


def begin_busy(policy: Policy) -> tuple[tuple[str, ...], State]:
    """Return a state with every place taken, and what happened until then."""
    story = (
        "the owner shares with user",
        "user shows the attestation and opens",
        "the actual user shares with anna",
        "the owner shares with bob",
        "the owner shares with carl",
        "anna shows the attestation and opens",
        "bob shows the attestation and opens",
        "carl shows the attestation and opens",
        "the owner pairs a card",
    )
    state = begin(policy)
    for event in story:
        state = next(after for text, after in steps(policy, state) if text == event)
    return story, state


# --- the ledger --------------------------------------------------------------------------------


def _command(policy: Policy, state: State, command: c.Command) -> State:
    """Apply one command; a list that it changed is published at once."""
    ring, effects = apply(state.ring, command, at_s=state.now_s, draft_type=policy.draft)
    target = getattr(command, "item", None)
    share = state.ring.share(target) if target is not None else None
    if share is not None:
        for each in effects:
            if isinstance(each, KeyEnded | KeyHeld) and each.item != target:
                other = state.ring.share(each.item)
                expired = isinstance(each, KeyEnded) and each.reason is Ended.EXPIRED
                role = other.role if other is not None else Role.OWNER
                if not expired and RANK[role] <= RANK[share.role]:
                    event = f"{type(command).__name__} of {owner_of(share.share_id)}"
                    raise Violation("a withdrawal took a key that is not below it", event)
    papers = state.papers
    if ring.list_number and (ring.epoch, ring.list_number) != (
        state.ring.epoch,
        state.ring.list_number,
    ):
        papers = (*papers, ring.withdrawal(Issuer.AUTHORITY, issued_s=state.now_s))
    return replace(state, ring=ring, papers=papers)


def _give(policy: Policy, state: State, name: str, by: str, *, short: bool = False) -> State:
    """Invite, accept and sign the attestation."""
    number = sum(1 for each in state.ring.spent if owner_of(each) == name) + 1
    item = share_id(name, number, short=short)
    user = name == USER
    state = _command(
        policy,
        state,
        c.Invite(
            actor=by,
            share_id=item,
            account=_mail(name),
            role=Role.ACTUAL_USER if user else Role.ASSOCIATE,
            permission=Permission.ENTRY_AND_START,
            not_before_s=0,
            not_after_s=_SHORT_S if short else _LONG_S,
        ),
    )
    take = c.Accept(actor=_mail(name), share_id=item, key_x=_key(name))
    state = _command(policy, state, take)
    return replace(state, papers=(*state.papers, _chain(state, item, by)))


def _chain(state: State, item: bytes, by: str) -> Chain:
    share = state.ring.share(item)
    assert share is not None
    parents: Chain = ()
    if by == _mail(USER):
        parents = next(
            each
            for each in reversed(state.papers)
            if isinstance(each, tuple) and owner_of(each[-1].share_id) == USER
        )
    name = owner_of(item)
    return (
        *parents,
        KeyClaims(
            vehicle=VEHICLE,
            epoch=state.ring.epoch,
            slot=share.slot,
            share_id=item,
            holder=holder_ref(VEHICLE, share.account),
            public_key=b"\4" + _key(name) + bytes(32),
            role=share.role,
            permission=share.permission,
            not_before_s=share.not_before_s,
            not_after_s=share.not_after_s,
            reshare=share.role is Role.ACTUAL_USER,
            list_number=state.ring.list_number,
            issued_s=state.now_s,
            signer=_key(USER) if parents else AUTHORITY_X,
        ),
    )


def _ledger(policy: Policy, state: State) -> Iterator[tuple[str, State]]:
    owner = _owner(state)
    known = {owner_of(each) for each in state.ring.spent}
    # Those to whom nothing ever happened are alike: it is enough to begin with one of them.
    fresh = [name for name in PEOPLE if name not in known]
    people = [name for name in PEOPLE if name in known] + fresh[:1]
    gives = [(name, owner, False) for name in (*people, USER)]
    gives += [(name, _mail(USER), False) for name in people]
    if not any(each.endswith(b"s") for each in state.ring.spent) and not state.late:
        gives += [(name, owner, True) for name in people]
    for name, by, short in gives:
        giver = "the actual user" if by == _mail(USER) else "the owner"
        text = f"{giver} shares with {name}" + (" until the afternoon" if short else "")
        try:
            yield text, _give(policy, state, name, by, short=short)
        except PolicyRefusal:
            continue
    wanted: list[tuple[str, c.Command]] = []
    for share in state.ring.live:
        name, item = owner_of(share.share_id), share.share_id
        wanted.append((f"the owner revokes {name}", c.Revoke(actor=owner, item=item)))
        if share.holds:
            wanted.append((f"the owner resumes {name}", c.Resume(actor=owner, item=item)))
        else:
            wanted.append((f"the owner suspends {name}", c.Suspend(actor=owner, item=item)))
    card = state.ring.card(CARD)
    if card is not None and card.ended is None:
        wanted.append(("the owner revokes the card", c.Revoke(actor=owner, item=CARD)))
    wanted += _of_the_authority(state, owner)
    for text, command in wanted:
        try:
            yield text, _command(policy, state, command)
        except PolicyRefusal:
            continue


def _of_the_authority(state: State, owner: str) -> Iterator[tuple[str, c.Command]]:
    cause = c.HoldCause.IDENTITY_THEFT
    if state.ring.owner_holds:
        release = c.Release(actor=c.AUTHORITY, account=owner, cause=cause)
        yield "the authority releases the owner", release
    elif state.ring.owner is not None:
        hold = c.Hold(actor=c.AUTHORITY, account=owner, cause=cause)
        yield "the authority suspends the owner", hold
    on = not state.ring.immobilised
    text = "the authority forbids start" if on else "the authority permits start"
    yield text, c.Immobilise(actor=c.AUTHORITY, on=on)


# --- the vehicle -------------------------------------------------------------------------------


def _writes(
    policy: Policy, committed: State, answered: State, both: State
) -> Iterator[tuple[str, State]]:
    """Yield what is left after each write: a crash may come between any two."""
    yield "", both
    if policy.commit_first:
        yield ", and crashes after the commit, before the answer", committed
    else:
        yield ", and crashes after the answer, before the commit", answered


def _takes(policy: Policy, state: State, claims: WithdrawalClaims) -> Iterator[tuple[str, State]]:
    try:
        car = state.car.take_list(claims)
    except PolicyRefusal:
        return
    dead = state.dead | frozenset(claims.revoked)
    told = state.told | frozenset(claims.revoked) | _suspended_mark(claims)
    told = frozenset(each for each in told if not _newer_mark(each, claims))
    committed = replace(state, car=car, dead=dead)
    answered = replace(state, told=told)
    for text, after in _writes(policy, committed, answered, replace(committed, told=told)):
        yield f"the vehicle gets list {claims.number}{text}", after


def _suspended_mark(claims: WithdrawalClaims) -> frozenset[bytes]:
    """Return the items that this list suspends, marked with its epoch and number."""
    mark = b"~%d~%d~" % (claims.epoch, claims.number)
    every = (EVERYTHING,) if claims.all_suspended else ()
    return frozenset(mark + each for each in (*claims.suspended, *every))


def _newer_mark(each: bytes, claims: WithdrawalClaims) -> bool:
    """Whether a mark is of an older list of this epoch, or of another epoch."""
    if not each.startswith(b"~"):
        return False
    _, epoch, number, _ = each.split(b"~", 3)
    return int(epoch) != claims.epoch or int(number) < claims.number


def _shows(policy: Policy, state: State, chain: Chain) -> Iterator[tuple[str, State]]:
    claims = chain[-1]
    name = owner_of(claims.share_id)
    try:
        car = state.car.admit(chain, claims.public_key[1:33], _TIMES[state.wall])
    except PolicyRefusal:
        return
    committed = replace(state, car=car)
    try:
        activate = c.Activate(actor=c.VEHICLE, share_id=claims.share_id)
        answered = _command(policy, state, activate)
    except PolicyRefusal:
        answered = state
    both = replace(answered, car=car)
    for text, after in _writes(policy, committed, answered, both):
        yield f"{name} shows the attestation and opens{text}", after


def _vehicle(policy: Policy, state: State) -> Iterator[tuple[str, State]]:
    for paper in state.papers:
        if isinstance(paper, WithdrawalClaims):
            yield from _takes(policy, state, paper)
        else:
            yield from _shows(policy, state, paper)
    if not state.late:
        yield "it becomes evening", replace(state, late=1)
    if state.late and not state.wall:
        short = frozenset(each for each in state.ring.spent if each.endswith(b"s"))
        yield (
            "the vehicle's clock shows the evening",
            replace(state, wall=1, car=state.car.at(EVENING_S), dead=state.dead | short),
        )
    if state.wall:
        yield "the vehicle's clock is set back to noon", replace(state, wall=0)
    yield from _owner_present(policy, state)


def _owner_present(policy: Policy, state: State) -> Iterator[tuple[str, State]]:
    if state.car.epoch == 0:
        dead = state.dead | state.ring.spent
        reset = replace(state, car=state.car.factory_reset(), dead=dead)
        yield "somebody factory-resets the vehicle", reset
    elif state.ring.epoch == 0:
        told = _command(policy, state, c.FactoryReset(actor=c.VEHICLE))
        yield (
            "the vehicle reports the reset",
            replace(told, dead=told.dead | state.ring.spent),
        )
    elif state.car.owner_x is None:
        try:
            linked = _command(policy, state, _found(HEIR))
        except PolicyRefusal:
            return
        yield "the next owner pairs", replace(linked, car=state.car.enrol_owner(_key(HEIR)))
    if CARD not in state.ring.spent and state.car.owner_x is not None:
        pair = c.AddCard(actor=_owner(state), card=CARD, provenance=CardProvenance.INITIAL)
        try:
            paired = _command(policy, state, pair)
            yield "the owner pairs a card", replace(paired, car=state.car.enrol_card(CARD))
        except PolicyRefusal:
            return


def steps(policy: Policy, state: State) -> Iterator[tuple[str, State]]:
    """Yield everything that can happen next, in words, with the state after it.

    Raises:
        Violation: A command took what is not below it.
    """
    yield from _ledger(policy, state)
    yield from _vehicle(policy, state)
