"""What a device knows: its credential, the readers it trusts, and where changes are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dkey.access.mailbox import Mailbox
    from dkey.access.profile import Profile
    from dkey.access.schedule import SessionKeys
    from dkey.crypto.p256 import PublicKey
    from dkey.crypto.secret import Secret
    from dkey.crypto.vault import Vault

__all__ = ["DeviceCredential", "DeviceEvent", "DeviceStore", "TrustedReader", "key_slot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedReader:
    """A reader group that the device trusts.

    Attributes:
        group_id: Reader group identifier, 16 bytes.
        public_key: Key of the reader that shows no certificate.
        issuer_key: Key of the issuer whose certificates are accepted; None without.
    """

    group_id: bytes
    public_key: PublicKey
    issuer_key: PublicKey | None = None


@dataclass(slots=True, kw_only=True)
class DeviceCredential:
    """One credential on the device and the readers it works with.

    Attributes:
        profile: Wire profile.
        vault: Holds the private key.
        key: Name of the private key in the vault.
        readers: Group identifier to trusted reader; any number of groups.
        kpersistent: (group identifier, sub-identifier) to the stored Kpersistent, 32 bytes.
        mailbox: The mailbox, or None.
    """

    profile: Profile
    vault: Vault
    key: str
    readers: dict[bytes, TrustedReader]
    kpersistent: dict[tuple[bytes, bytes], Secret] = field(default_factory=dict)
    mailbox: Mailbox | None = None


class DeviceStore(Protocol):
    """Where the device makes changes durable; called before the reader gets its answer."""

    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        """Keep Kpersistent for one reader, replacing an older one."""

    def save_mailbox(self, data: bytes) -> None:
        """Keep the mailbox content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent:
    """What a finished transaction meant to the device.

    Attributes:
        group_id: Reader group, 16 bytes.
        sub_id: The one reader, 16 bytes.
        fast: Whether it was a fast transaction.
        status: Reader status of the final EXCHANGE.
        keys: The session keys, for tools that are told to show secrets.
        kpersistent: Kpersistent of a standard transaction; None after a fast one.
        transaction_id: 16 bytes; its last 4 name the ranging session.
    """

    group_id: bytes
    sub_id: bytes
    fast: bool
    status: int
    keys: SessionKeys
    kpersistent: Secret | None
    transaction_id: bytes = field(default=bytes(16), repr=False)


def key_slot(public: PublicKey) -> bytes:
    """Return the key slot, 8 bytes: the head of SHA-1 over the point (Aliro 1.0 §8.3.3.4.2)."""
    return sha1(public.point, usedforsecurity=False).digest()[:8]
