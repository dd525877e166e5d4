"""Where randomness comes from: an argument everywhere, so that a test can decide it."""

from __future__ import annotations

import os
from typing import Protocol

from dkey.crypto.p256 import PrivateKey

__all__ = ["Entropy", "SystemEntropy"]


class Entropy(Protocol):
    """A source of fresh keys and bytes."""

    def ephemeral(self) -> PrivateKey:
        """Return a P-256 key that was never used before."""

    def random(self, size: int) -> bytes:
        """Return ``size`` unpredictable bytes."""


class SystemEntropy:
    """The operating system's random source."""

    def ephemeral(self) -> PrivateKey:
        """Return a fresh P-256 key."""
        return PrivateKey.generate()

    def random(self, size: int) -> bytes:
        """Return ``size`` bytes of the system's random source."""
        return os.urandom(size)
