"""What the authority answers: the same values in process and over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Booked", "Health", "KeyEntry", "KeyList", "Outcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a command that was not refused.

    Attributes:
        queued: The authority is out: the command waits and is carried out, or refused, later.
        number: Number of its ledger entry, or of its place in the queue.
        effects: What it did, as objects with ``effect`` and the fields of
            :mod:`dkey.lifecycle.ring_effects`; accounts that the actor may not know are null.
    """

    queued: bool
    number: int
    effects: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """One key as a viewer may see it.

    Attributes:
        item: Share id, or reference of a key or card, in hex.
        role: OWNER, ACTUAL_USER, ASSOCIATE, PROVIDER or CARD.
        permission: ENTRY or ENTRY_AND_START.
        state: PENDING, NOT_SYNCED, ACTIVE, SUSPENDED, REVOKED, DECLINED, EXPIRED or REPLACED.
        account: Whose it is.
        slot: Place of the three; 0 for none.
        not_after_s: Last second of validity, since 1970.
        booking_id: Booking of a provider's key.
    """

    item: str
    role: str
    permission: str
    state: str
    account: str | None
    slot: int
    not_after_s: int | None
    booking_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyList:
    """The keys of a vehicle for one viewer (requirements S140, C29, C38).

    Attributes:
        count: Keys and cards that live, whoever holds them.
        keys: Those that the viewer may see.
        linked: Whether the vehicle has an owner.
        half_removed: Side that still holds something of the last owner; None for neither.
        outage: The authority is out: commands that wait are not in this list.
    """

    count: int
    keys: tuple[KeyEntry, ...]
    linked: bool
    half_removed: str | None
    outage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """One provider's key with its booking (requirements S115).

    Attributes:
        share_id: In hex.
        booking_id: The provider's number.
        provider: Account of the provider.
        purpose: In words.
        begins_s: Begin, seconds since 1970.
        ends_s: End.
        state: State of the key.
        ordered_by: Account that ordered it.
    """

    share_id: str
    booking_id: str
    provider: str
    purpose: str
    begins_s: int
    ends_s: int
    state: str
    ordered_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the authority is.

    Attributes:
        time_s: Its time, seconds since 1970.
        outage: Whether it is out.
        waiting: Commands that wait for the end of the outage.
        vehicles: Vehicles that it serves.
        entries: Entries of the ledger.
    """

    time_s: int
    outage: bool
    waiting: int
    vehicles: int
    entries: int
