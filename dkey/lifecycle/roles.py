"""Who holds a credential, what it permits, and whether it is usable."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["CardProvenance", "CredentialState", "Permission", "Role"]


class Role(StrEnum):
    """What the holder of a credential is to the vehicle."""

    OWNER = "OWNER"
    """Full member: exactly one per vehicle (requirements S38, S39)."""
    ACTUAL_USER = "ACTUAL_USER"
    """Received use and sharing from a corporate owner: at most one (requirements S40)."""
    ASSOCIATE = "ASSOCIATE"
    """Anyone else, by an accepted share; may not share on (requirements S41, C17)."""
    PROVIDER = "PROVIDER"
    """A partner's key for one booking, with the least rights (requirements S107, S114)."""
    CARD = "CARD"
    """An NFC card: auxiliary to the owner's phone, key function only (requirements S34, S35)."""


class Permission(StrEnum):
    """What a credential may do; the vehicle enforces it offline (requirements S43, S47)."""

    ENTRY = "ENTRY"
    """Lock and unlock."""
    ENTRY_AND_START = "ENTRY_AND_START"
    """Lock, unlock and start."""


class CardProvenance(StrEnum):
    """Where a card came from (requirements S34)."""

    INITIAL = "INITIAL"
    """Given once, at vehicle purchase: at most one per vehicle, ever."""
    PURCHASED = "PURCHASED"
    """Bought later from the service centre."""


class CredentialState(StrEnum):
    """Whether a credential is usable (requirements S49, S25)."""

    ACTIVE = "ACTIVE"
    """Usable."""
    SUSPENDED = "SUSPENDED"
    """Temporarily withdrawn; can become ACTIVE again. A suspended card keeps its place."""
    REVOKED = "REVOKED"
    """Withdrawn for good."""
    REPLACED = "REPLACED"
    """Cards only: another card took its place, for good (requirements S25)."""
