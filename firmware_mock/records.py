"""What the vehicle's store keeps, as values: identity, credentials, fast candidates, events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dkey.control.rules import Grant
from dkey.crypto.p256 import PublicKey
from dkey.errors import LocalFault, RefusalCode, WireError
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission, Role

if TYPE_CHECKING:
    from dkey.control.touch import Position

__all__ = [
    "Credential",
    "Event",
    "FastCandidate",
    "Ownership",
    "PairingCode",
    "ReaderIdentity",
    "VehicleIdentity",
    "check_identity",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderIdentity:
    """One reader of the vehicle; its private key is in a vault.

    Attributes:
        sub_id: Reader sub-identifier, 16 bytes.
        public_key: Uncompressed point, 65 bytes.
    """

    position: Position
    sub_id: bytes
    public_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleIdentity:
    """Who this vehicle is. ``group_id``: reader group identifier, 16 bytes."""

    group_id: bytes
    readers: tuple[ReaderIdentity, ...]

    def reader(self, position: Position) -> ReaderIdentity:
        """Return the reader at this position.

        Raises:
            LocalFault: This vehicle has none there.
        """
        for reader in self.readers:
            if reader.position is position:
                return reader
        raise LocalFault(f"this vehicle has no reader at {position}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One enrolled key, of a phone or a card.

    Attributes:
        public_key: Uncompressed point, 65 bytes; its x-coordinate identifies the key.
        provenance: For cards only, and for every card.
        created_s: When it was enrolled, in the caller's clock.
        replaced_by: Credential id of the card that took its place; set by the store.
        first_use: Whether it still waits for its first standard transaction, before which it
            counts for nothing.
    """

    credential_id: str
    name: str
    public_key: bytes
    role: Role
    permission: Permission
    created_s: float
    state: CredentialState = CredentialState.ACTIVE
    provenance: CardProvenance | None = None
    replaced_by: str | None = None
    first_use: bool = False

    @property
    def x(self) -> bytes:
        """The identity of the key, 32 bytes."""
        return self.public_key[1:33]

    def grant(self) -> Grant:
        """Return the rights of this credential as the deciders take them."""
        return Grant(
            credential_id=self.credential_id,
            name=self.name,
            role=self.role,
            permission=self.permission,
            state=self.state,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FastCandidate:
    """A credential to try in a fast transaction. ``sealed``: its persistent key, as stored."""

    credential: Credential
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of the event log, numbered from 1 without gaps (requirements S141)."""

    seq: int
    t_s: float
    kind: str
    position: Position | None
    credential_id: str | None
    code: RefusalCode | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Whose vehicle it is, in numbers.

    Attributes:
        epoch: Rises with each factory reset, from 1; what an earlier owner signed counts no more.
        resolving_key: Resolves the vehicle's adverts, as sealed; None before it is made.
    """

    epoch: int
    resolving_key: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingCode:
    """One code that the head unit issued for owner pairing.

    Attributes:
        number: From 1, in order of issue.
        issued_s: When, in the caller's wall clock.
        salt: With which it is stretched, 16 bytes.
        sealed: The code and its SPAKE2+ record, sealed; None when it is closed.
        tries: How often it was tried.
        credential_id: The credential that it enrolled, while that waits for its first use.
    """

    number: int
    issued_s: float
    salt: bytes
    sealed: bytes | None
    tries: int
    credential_id: str | None

    @property
    def closed(self) -> bool:
        """Whether it is cancelled, replaced, too old, or done."""
        return self.sealed is None


def check_identity(identity: VehicleIdentity) -> None:
    """Raise LocalFault for a wrong length, a bad key, or two equal readers."""
    sub_ids = [reader.sub_id for reader in identity.readers]
    if len(identity.group_id) != 16 or any(len(sub_id) != 16 for sub_id in sub_ids):
        raise LocalFault("a reader group identifier and a reader sub-identifier are 16 bytes")
    positions = {reader.position for reader in identity.readers}
    if len(set(sub_ids)) != len(sub_ids) or len(positions) != len(sub_ids):
        raise LocalFault("each reader has its own position and its own sub-identifier")
    try:
        for reader in identity.readers:
            PublicKey.parse(reader.public_key)
    except WireError as exc:
        raise LocalFault(f"a reader's public key is no key: {exc}") from exc
