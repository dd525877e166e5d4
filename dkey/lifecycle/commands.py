"""Everything that can be done to the keys of a vehicle, each as one value.

A command is what the ledger keeps, what the authority's API takes and what the exhaustive check
enumerates. :func:`dkey.lifecycle.ring.apply` decides whether it may be done and what follows. Each
one names its actor: an account, or one of the principals below.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dkey.lifecycle.roles import CardProvenance, Permission, Role

__all__ = [
    "AUTHORITY",
    "DEALER",
    "VEHICLE",
    "Accept",
    "Activate",
    "AddCard",
    "Approve",
    "BeginEpoch",
    "Booking",
    "ChangeOwner",
    "Cleared",
    "CloseAccount",
    "Command",
    "Decline",
    "DelegatePause",
    "EndOwner",
    "EndPause",
    "EndReason",
    "FactoryReset",
    "Found",
    "Hold",
    "HoldCause",
    "Immobilise",
    "Invite",
    "LiftVeto",
    "Party",
    "PartyKind",
    "Pause",
    "PowerCycle",
    "Release",
    "ReleaseLost",
    "ReportLost",
    "Resume",
    "Revoke",
    "Side",
    "Suspend",
    "Tick",
    "Transfer",
    "Unpair",
    "Veto",
]

AUTHORITY: Final = "@authority"
"""The company that runs the service (requirements S4)."""
DEALER: Final = "@dealer"
"""An official dealer (requirements S81)."""
VEHICLE: Final = "@vehicle"
"""Somebody present in the vehicle, at its head unit (requirements S62)."""


class PartyKind(StrEnum):
    """What an owner is (requirements S40, C31)."""

    PERSON = "PERSON"
    CORPORATE = "CORPORATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """An owner: an account (requirements S5) and what it is.

    Attributes:
        account: Account id, in the form of an e-mail address.
        kind: A person, or a corporation, which alone may have an actual user.
    """

    account: str
    kind: PartyKind = PartyKind.PERSON


class HoldCause(StrEnum):
    """Why the authority holds an account's keys back (requirements S22, S23, S60, S89)."""

    THIRD_PARTY_USE = "THIRD_PARTY_USE"
    RADIO_LAW = "RADIO_LAW"
    IDENTITY_THEFT = "IDENTITY_THEFT"
    CLONING = "CLONING"
    UNPAID = "UNPAID"
    PHONE_UNSUPPORTED = "PHONE_UNSUPPORTED"
    PHONE_BLOCKED = "PHONE_BLOCKED"
    ADMINISTRATIVE = "ADMINISTRATIVE"


class EndReason(StrEnum):
    """Why an owner's contract ends (requirements S50, S52, S53, S59)."""

    TERMINATED = "TERMINATED"
    EXPIRED = "EXPIRED"
    TITLE_OWNER_WITHDREW = "TITLE_OWNER_WITHDREW"
    FEE_CONSENT_MISSING = "FEE_CONSENT_MISSING"


class Side(StrEnum):
    """The two places that a transfer must clear (requirements S61)."""

    ACCOUNT = "ACCOUNT"
    VEHICLE = "VEHICLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """What a provider's key is for (requirements S107 to S115).

    Attributes:
        booking_id: The provider's number of the booking.
        provider: Account of the provider.
        purpose: In words, for the owner's notification.
        begins_s: Begin of the booking, seconds since 1970.
        ends_s: End of the booking; the key ends PROVIDER_GRACE_MIN later.
        needs_start: Whether the job needs the engine (pick-up), or entry only (wash).
        third_party_consent: Whether the orderer agreed that data goes to the provider (S113).
        iphone: Whether the orderer uses an iPhone: in-person services only (S109).
    """

    booking_id: str
    provider: str
    purpose: str
    begins_s: int
    ends_s: int
    needs_start: bool
    third_party_consent: bool
    iphone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Something somebody wants done.

    Attributes:
        actor: Account of who wants it, or AUTHORITY, DEALER or VEHICLE.
    """

    actor: str


# --- the owner ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Command):
    """The first owner pairs; the actor is the owner's account, or AUTHORITY for a corporation.

    Attributes:
        epoch: Owner epoch that the vehicle stated at pairing; None where it was not asked.
    """

    owner: Party
    key_x: bytes | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeOwner(Command):
    """The owner hands over to another account or a new key; friends survive or not, by policy.

    The epoch stays until the vehicle says that it began another one (:class:`BeginEpoch`).
    """

    owner: Party
    key_x: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginEpoch(Command):
    """The vehicle began an owner epoch for an owner's other account or phone; cards stay.

    Attributes:
        epoch: Owner epoch that began with it, as the vehicle says; None where it does not say.
    """

    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOwner(Command):
    """The owner's contract ends, and with it every other key."""

    reason: EndReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpair(Command):
    """The owner removes the vehicle from the account: everything falls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Command):
    """The vehicle goes to somebody else: terminate, and clear both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared(Command):
    """One side reports that it holds nothing any more.

    Attributes:
        epoch: Of the vehicle's side, the owner epoch that began with it, as the vehicle says: a
            report that comes late or twice is known by it. None where it does not say.
    """

    side: Side
    epoch: int | None = None


# --- shares ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite(Command):
    """Offer a key to an account; it takes its slot at once.

    Attributes:
        share_id: 16 bytes, never used before.
        account: Who shall have it.
        role: ACTUAL_USER, ASSOCIATE or PROVIDER.
        permission: What it may do.
        not_before_s: First second of validity, since 1970.
        not_after_s: Last second of validity.
        booking: For a provider only.
        replaces: Share id of the actual user whose place it takes (S68); None without.
    """

    share_id: bytes
    account: str
    role: Role
    permission: Permission
    not_before_s: int
    not_after_s: int
    booking: Booking | None = None
    replaces: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept(Command):
    """The invited account takes the key, with the x-coordinate of its own."""

    share_id: bytes
    key_x: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Approve(Command):
    """The owner agrees to a provider's key that a sharee ordered, where that is needed (C21)."""

    share_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate(Command):
    """The vehicle confirmed the key in its first standard transaction (S79)."""

    share_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline(Command):
    """The invited account does not want the key, or gives it back."""

    share_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend(Command):
    """Withdraw a share or a card until the same or a higher role resumes it (S49, C15)."""

    item: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Command):
    """Lift the actor's own suspension, or a lower role's; others stay (S92, C15)."""

    item: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke(Command):
    """Withdraw a share or a card for good (S49)."""

    item: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Veto(Command):
    """The owner forbids sharing: with one account, or at all when ``account`` is None (C16)."""

    account: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftVeto(Command):
    """The owner takes such a veto back; keys that it ended stay ended."""

    account: str | None = None


# --- pause, holds, loss ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Command):
    """Pause all keys of the vehicle for some days (S83 to S87)."""

    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndPause(Command):
    """End the pause; the keys work again (C11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegatePause(Command):
    """The owner lets the actual user pause, or not any more (S86)."""

    allowed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold(Command):
    """The authority suspends an account: its keys, and downwards what stands on it (S89, S90)."""

    account: str
    cause: HoldCause


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Command):
    """The cause of a hold is gone; only what that hold took comes back (S92)."""

    account: str
    cause: HoldCause


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLost(Command):
    """A phone or a card is lost: suspended at once (S60)."""

    item: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseLost(Command):
    """It was found (S60)."""

    item: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAccount(Command):
    """The account ends: its phone keys are unusable for good; cards stay (S57)."""

    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Immobilise(Command):
    """Forbid starting to every key, or permit it again (S101)."""

    on: bool


# --- cards and the vehicle ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AddCard(Command):
    """A card was paired at the vehicle, for the owner (C32).

    Attributes:
        card: Key reference of the card, 16 bytes.
        provenance: Initial or purchased.
        replaces: Key reference of the damaged card whose place it takes; None without.
    """

    card: bytes
    provenance: CardProvenance
    replaces: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryReset(Command):
    """Somebody in the vehicle erased everything (S62, S122).

    Attributes:
        epoch: Owner epoch that began with it, as the vehicle says; None where it does not say.
    """

    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCycle(Command):
    """The vehicle lost and regained power: nothing changes (S123)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Command):
    """Time passed: what is due happens (expiry, end and extension of a pause, notices)."""
