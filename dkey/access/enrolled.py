"""What a reader knows: who it is, the credentials enrolled with it, the flows it may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dkey.access.profile import Profile
    from dkey.crypto.p256 import PublicKey
    from dkey.crypto.secret import Secret
    from dkey.crypto.vault import Vault

__all__ = ["CredentialDirectory", "EnrolledCredential", "Flow", "ReaderIdentity"]


class Flow(Enum):
    """Which transaction the reader asks for."""

    STANDARD = "standard"
    FAST = "fast"
    """Fast only: no match ends the transaction."""
    AUTO = "auto"
    """Fast where a Kpersistent is stored, and standard when it does not match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderIdentity:
    """Who the reader is.

    Attributes:
        profile: Wire profile.
        group_id: Reader group identifier, 16 bytes.
        sub_id: Reader sub-identifier, 16 bytes.
        vault: Holds the reader's private key.
        key: Name of that key in the vault.
        certificate: Compressed reader certificate, or empty.
        issuer_key: Key of the certificate's issuer; needed with a certificate.
    """

    profile: Profile
    group_id: bytes
    sub_id: bytes
    vault: Vault
    key: str
    certificate: bytes = b""
    issuer_key: PublicKey | None = None

    @property
    def group_key(self) -> PublicKey:
        """The key that the group is bound to (Aliro 1.0 §6.2)."""
        return self.issuer_key or self.vault.public(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledCredential:
    """A credential that the reader knows.

    Attributes:
        name: Its name for people and logs.
        public_key: Its public key.
        kpersistent: Stored Kpersistent for this reader, or None.
    """

    name: str
    public_key: PublicKey
    kpersistent: Secret | None = None


class CredentialDirectory(Protocol):
    """The credentials a reader knows."""

    def by_x(self, x: bytes) -> EnrolledCredential | None:
        """Return the credential with this x-coordinate (32 bytes)."""

    def by_key_slot(self, key_slot: bytes) -> EnrolledCredential | None:
        """Return the credential with this key slot (8 bytes)."""

    def fast_candidates(self, limit: int) -> Sequence[EnrolledCredential]:
        """Return at most ``limit`` credentials that have a Kpersistent for this reader."""
