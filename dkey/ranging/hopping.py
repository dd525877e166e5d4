"""Which round of a block a session uses (specs/ranging.md §4).

The default sequence only; the AES sequence has no published formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dkey.errors import LocalFault, WireError

__all__ = ["HopStep", "Hopping", "MacMode", "default_round"]

CLAUSE: Final = "Aliro 1.0 §11.7.2, specs/ranging.md §4"
_PRIME: Final = 65521
_OFFSET_BITS: Final = 0x3F


def default_round(block: int, key: int, rounds: int) -> int:
    """Return the round of a block in the default hopping sequence, 0..rounds-1.

    Args:
        block: Block number, 0 or more.
        key: Hopping key, 4 bytes as a number.
        rounds: Rounds to choose from, 1..65521.
    """
    if block < 0 or not 0 <= key <= 0xFFFFFFFF or not 1 <= rounds <= _PRIME:
        raise LocalFault("no hopping sequence has such parameters", clause=CLAUSE)
    low = block + key & 0xFFFF
    return low * low % _PRIME * rounds >> 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MacMode:
    """How many rounds of a block a session uses: one, or two at a distance.

    Wire, 1 byte: bits 7:6 are 0 for one round and 1 for two; bits 5:0 are the distance, 0 for one.

    Attributes:
        offset: Rounds from the first to the second of a block, 1..63; 0 with one round.
    """

    offset: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= _OFFSET_BITS:
            raise LocalFault("the second round is at most 63 rounds behind", clause=CLAUSE)

    def to_bytes(self) -> bytes:
        """Encode, 1 byte."""
        return bytes((0x40 | self.offset if self.offset else 0,))

    @classmethod
    def parse(cls, data: bytes) -> MacMode:
        """Decode exactly one byte.

        Raises:
            WireError: Another length, more than two rounds, or a distance that contradicts.
        """
        mode = data[0] >> 6 if len(data) == 1 else 2
        offset = data[0] & _OFFSET_BITS if data else 0
        if mode > 1 or bool(offset) is not bool(mode):
            raise WireError("a MAC mode is one round, or two at a distance", clause=CLAUSE)
        return cls(offset=offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopStep:
    """Where the next block ranges; what a Final_Data says.

    Attributes:
        hop: Whether the next block hops, the flag of Final_Data.
        round: First round of the next block.
    """

    hop: bool
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hopping:
    """The round sequence of a session; both sides compute it.

    Attributes:
        key: Hopping key, 0..2^32-1.
        rounds: Rounds of a block.
        mode: MAC mode; its distance is smaller than ``rounds``.
        continuous: Hop in every block.
        adaptive: Hop after a round that failed. Neither: always the first round.
    """

    key: int
    rounds: int
    mode: MacMode = MacMode()
    continuous: bool = False
    adaptive: bool = False

    def __post_init__(self) -> None:
        if self.continuous and self.adaptive:
            raise LocalFault("hopping is continuous or adaptive, not both", clause=CLAUSE)
        if self.mode.offset >= self.rounds:
            raise LocalFault(
                f"the second round does not fit a block of {self.rounds} rounds", clause=CLAUSE
            )
        default_round(0, self.key, self.rounds)

    def hopped(self, block: int) -> int:
        """Return the first round of a block that hops; block 0 never does."""
        if block == 0:
            return 0
        return default_round(block, self.key, self.rounds - self.mode.offset)

    def both(self, first: int) -> tuple[int, ...]:
        """Return the one or two rounds of a block whose first is given."""
        return (first, first + self.mode.offset) if self.mode.offset else (first,)

    def step(self, block: int, first: int, *, good: int) -> HopStep:
        """Return where the block behind this one ranges: the initiator's decision.

        Args:
            block: Number of this block.
            first: Its first round.
            good: How many responses of it were received well.
        """
        if self.continuous or (self.adaptive and good < 1):
            return HopStep(hop=True, round=self.hopped(block + 1))
        return HopStep(hop=False, round=first)

    def follow(self, block: int, first: int, said: HopStep | None) -> HopStep:
        """Return where the block behind this one ranges: the responder's reading of Final_Data.

        Args:
            block: Number of this block.
            first: Its first round.
            said: What the Final_Data of it said; None when it was not received, which counts as
                a failed round.

        Raises:
            WireError: It names a round that the sequence does not have there.
        """
        if said is None:
            return self.step(block, first, good=0)
        expected = self.hopped(block + 1) if said.hop else first
        may_hop = self.adaptive or self.continuous
        if said.round != expected or (said.hop and not may_hop):
            raise WireError(
                f"Final_Data names round {said.round}, the sequence {expected}", clause=CLAUSE
            )
        if self.continuous and not said.hop:
            raise WireError("Final_Data stays in a sequence that always hops", clause=CLAUSE)
        return said
