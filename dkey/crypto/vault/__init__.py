"""Vaults: who holds private keys.

A private key does not leave its vault. Procedures hold a vault and a key's name, and ask for a
signature or a shared secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dkey.crypto.p256 import PrivateKey
from dkey.errors import VaultError

if TYPE_CHECKING:
    from dkey.crypto.p256 import PublicKey
    from dkey.crypto.secret import Secret

__all__ = ["MemoryVault", "Vault"]


class Vault(Protocol):
    """Holds named P-256 private keys."""

    def sign(self, key: str, digest: bytes) -> bytes:
        """Return the ECDSA signature of ``key`` over a SHA-256 digest: 64 bytes, r then s."""

    def agree(self, key: str, peer: PublicKey) -> Secret:
        """Return the ECDH shared x-coordinate of ``key`` and ``peer``, 32 bytes."""

    def public(self, key: str) -> PublicKey:
        """Return the public half of ``key``.

        Raises:
            VaultError: No key has this name.
        """


class MemoryVault:
    """Keys that live as long as the process: for given key files, tests and benchmarks."""

    def __init__(self, **keys: PrivateKey) -> None:
        self._keys = dict(keys)

    @classmethod
    def of(cls, key: str, scalar: bytes) -> MemoryVault:
        """Return a vault with one key, given by its private scalar (32 bytes)."""
        return cls(**{key: PrivateKey.from_scalar(scalar)})

    def sign(self, key: str, digest: bytes) -> bytes:
        """Return the signature of ``key`` over a SHA-256 digest: 64 bytes, r then s."""
        return self._get(key).sign(digest)

    def agree(self, key: str, peer: PublicKey) -> Secret:
        """Return the ECDH shared x-coordinate, 32 bytes."""
        return self._get(key).agree(peer)

    def public(self, key: str) -> PublicKey:
        """Return the public half of ``key``."""
        return self._get(key).public

    def _get(self, key: str) -> PrivateKey:
        try:
            return self._keys[key]
        except KeyError as exc:
            raise VaultError(f"the vault holds no key named {key!r}") from exc

    def __repr__(self) -> str:
        return f"MemoryVault({', '.join(sorted(self._keys))})"
