"""Doubles for tests of programs that use dkey: scripted randomness, a clock that one sets."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from dkey.crypto.p256 import ORDER, PrivateKey

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FakeClock", "ScriptedEntropy", "SeededEntropy"]


class ScriptedEntropy:
    """Returns the given ephemeral keys and bytes, in order; for known-answer tests.

    Args:
        ephemerals: Private scalars, 32 bytes each.
        randoms: What ``random`` returns; each must have the size that is asked for.
    """

    def __init__(self, ephemerals: Iterable[bytes] = (), randoms: Iterable[bytes] = ()) -> None:
        self._ephemerals = iter([*ephemerals])
        self._randoms = iter([*randoms])

    def ephemeral(self) -> PrivateKey:
        """Return the next scripted key."""
        return PrivateKey.from_scalar(next(self._ephemerals))

    def random(self, size: int) -> bytes:
        """Return the next scripted bytes."""
        value = next(self._randoms)
        if len(value) != size:
            raise ValueError(f"scripted {len(value)} random bytes, asked for {size}")
        return value


class SeededEntropy:
    """An endless source that is the same for the same seed. Never for real keys."""

    def __init__(self, seed: int | str) -> None:
        self._state = hashlib.sha256(repr(seed).encode()).digest()

    def ephemeral(self) -> PrivateKey:
        """Return the next key."""
        number = int.from_bytes(self.random(32), "big") % (ORDER - 1) + 1
        return PrivateKey.from_scalar(number.to_bytes(32, "big"))

    def random(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        self._state = hashlib.sha256(self._state).digest()
        return hashlib.shake_128(self._state).digest(size)


class FakeClock:
    """A monotonic clock in seconds that moves only when it is told to."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Move on."""
        self.now_s += seconds
