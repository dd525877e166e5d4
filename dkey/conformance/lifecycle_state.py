"""The world that the exhaustive lifecycle check walks through, and the rules under test.

Everything that may be lost, late, repeated or out of order is a paper: every list that was ever
published and every attestation that was ever signed stays in somebody's hands, and any of them may
be shown to the vehicle at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

from dkey.lifecycle import commands as c
from dkey.lifecycle.admission import Admissions
from dkey.lifecycle.claims import Issuer, KeyClaims, WithdrawalClaims
from dkey.lifecycle.flags import Flags
from dkey.lifecycle.ring import Ring
from dkey.lifecycle.ring_draft import Draft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "AUTHORITY_X",
    "CARD",
    "EVENING_S",
    "EVERYTHING",
    "LONG_S",
    "NOON_S",
    "OWNERS",
    "PEOPLE",
    "SHORT_S",
    "USER",
    "VEHICLE",
    "WASH",
    "Chain",
    "Policy",
    "Scene",
    "State",
    "Violation",
    "World",
    "key_of",
    "mail",
    "opens",
    "owner_account",
    "owner_of",
    "share_id",
]

PEOPLE: Final = ("anna", "bob", "carl", "dora")
"""Associates; they are alike, so that states that differ by a swap of them are one."""
USER: Final = "user"
WASH: Final = "wash"
OWNERS: Final = ("owner", "heir")
"""Whose turn it is to own the vehicle, by parity of the owner epoch."""
VEHICLE: Final = b"V" * 16
EVERYTHING: Final = b"*"
"""Stands for every key and card where a list suspends them all."""
CARD: Final = b"card".ljust(16, b".")
AUTHORITY_X: Final = b"@" * 32
NOON_S: Final = 1000
EVENING_S: Final = 2000
SHORT_S: Final = 1500
LONG_S: Final = 9000

Chain = tuple[KeyClaims, ...]
Paper = WithdrawalClaims | Chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules under test; a broken variant differs in one attribute.

    Attributes:
        draft: What the ledger's commands change.
        admissions: What the vehicle remembers.
        commit_first: The vehicle commits before it answers.
        write_first: The authority writes before it answers.
    """

    draft: type[Draft] = Draft
    admissions: type[Admissions] = Admissions
    commit_first: bool = True
    write_first: bool = True


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
        return (NOON_S, EVENING_S)[self.late]

    @property
    def wall_s(self) -> int:
        """The time on the vehicle's clock."""
        return (NOON_S, EVENING_S)[self.wall]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where a search begins, and what can happen there.

    Attributes:
        name: For ``--world``.
        about: What it looks for, in words.
        depth: Events in a row that are looked at by default.
        sources: What can happen.
        story: What happened before the search begins.
        past: What could happen then.
        flags: The choices of the deployment.
        corporate: The owner is a corporation, so that there may be an actual user.
        issuers: Who publishes each list.
        owner_signs: The owner's phone signs attestations, not the authority.
        crashes: The authority may crash between its write and its answer.
        resets: Factory resets, at most.
    """

    name: str
    about: str
    depth: int
    sources: tuple[Source, ...]
    story: tuple[str, ...] = ()
    past: tuple[Source, ...] = ()
    flags: Flags = field(default_factory=Flags)
    corporate: bool = True
    issuers: tuple[Issuer, ...] = (Issuer.AUTHORITY,)
    owner_signs: bool = False
    crashes: bool = False
    resets: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A world under certain rules.

    Attributes:
        reduced: Of those to whom nothing ever happened only the first one is looked at.
    """

    world: World
    policy: Policy
    reduced: bool = True

    def begin(self) -> State:
        """Return the state before the story: an owner, whose vehicle is paired."""
        owner_x = key_of(OWNERS[0])
        kind = c.PartyKind.CORPORATE if self.world.corporate else c.PartyKind.PERSON
        ring = Ring(
            vehicle=VEHICLE,
            flags=self.world.flags,
            clock_s=NOON_S,
            owner=c.Party(account=mail(OWNERS[0]), kind=kind),
            owner_key_x=owner_x,
        )
        car = self.policy.admissions(
            vehicle=VEHICLE, flags=self.world.flags, authority_x=AUTHORITY_X
        )
        return State(ring=ring, car=car.enrol_owner(owner_x))

    def steps(self, state: State, sources: tuple[Source, ...] | None = None) -> Steps:
        """Yield everything that can happen next, in words, with the state after it.

        Raises:
            Violation: A command took what is not below it.
        """
        for source in self.world.sources if sources is None else sources:
            yield from source(self, state)

    def told(self) -> State:
        """Return the state after the world's story.

        Raises:
            ValueError: Such a story cannot happen.
        """
        state = self.begin()
        for event in self.world.story:
            after = dict(self.steps(state, self.world.past))
            if event not in after:
                raise ValueError(f"{event!r} cannot happen there")
            state = after[event]
        return state


if TYPE_CHECKING:
    Steps = Iterator[tuple[str, State]]
    Source = Callable[[Scene, State], Steps]


def share_id(name: str, number: int, *, short: bool = False) -> bytes:
    """Return the id of somebody's n-th share; the last byte says whether it is short."""
    return f"{name}{number}".encode().ljust(15, b".") + (b"s" if short else b".")


@cache
def owner_of(item: bytes) -> str:
    """Return whose share it is."""
    return item.rstrip(b".s").rstrip(b"0123456789").decode()


def mail(name: str) -> str:
    """Return somebody's account."""
    return f"{name}@example.org"


def key_of(name: str) -> bytes:
    """Return the x-coordinate of somebody's key."""
    return name.encode().ljust(32, b"x")


def owner_account(state: State) -> str:
    """Return the owner's account; the first owner's where there is none."""
    return state.ring.owner.account if state.ring.owner else mail(OWNERS[0])


def opens(state: State, item: bytes) -> bool:
    """Whether a share or card opens the vehicle as its clock stands."""
    return state.car.verdict(item, state.wall_s).refusal is None
