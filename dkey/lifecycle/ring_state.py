"""The parts of a ring: shares, cards, the causes that hold them back, pauses, and what is due.

All are immutable. A key is referred to by its item, 16 bytes: a share by its share id, an owner's
phone and a card by :func:`dkey.lifecycle.claims.key_ref`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dkey.lifecycle.changed import changed, made_of
from dkey.lifecycle.commands import Booking, EndReason, HoldCause
from dkey.lifecycle.ring_effects import NoticeKind  # noqa: TC001 - read by from_plain
from dkey.lifecycle.roles import CardProvenance, Permission, Role  # noqa: TC001 - the same

__all__ = [
    "PHONE_CAUSES",
    "CardKey",
    "Due",
    "DueKind",
    "Ended",
    "Held",
    "HoldKind",
    "KeyView",
    "PauseStage",
    "PauseState",
    "Share",
    "ShareState",
    "Withdrawn",
]

PHONE_CAUSES: Final = frozenset({HoldCause.PHONE_UNSUPPORTED, HoldCause.PHONE_BLOCKED})
"""Restrictions of a phone, not of a contract: they bind the holder's keys and cards, and what an
actual user's phone signed."""


class ShareState(StrEnum):
    """How far a share got."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    ENDED = "ENDED"


class Ended(StrEnum):
    """How a key or card ended, for good."""

    REVOKED = "REVOKED"
    DECLINED = "DECLINED"
    EXPIRED = "EXPIRED"
    REPLACED = "REPLACED"


class HoldKind(StrEnum):
    """Which rule suspends a key."""

    WITHDRAWN = "WITHDRAWN"
    """Somebody entitled withdrew it, or the actual user above it, for a time (S49)."""
    ACCOUNT = "ACCOUNT"
    """The authority suspended an account (S89)."""
    PAUSE = "PAUSE"
    """All keys of the vehicle are paused (S85)."""
    LOST = "LOST"
    """The phone or card is reported lost (S60)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One cause that suspends a key; causes stack, and each lifts what it took only (S92).

    Attributes:
        kind: Which rule.
        who: Who decided it.
        on: What was suspended: an account, the item in hex, or nothing for a pause. Where it is
            not the key itself, the key was taken by a cascade.
        cause: For ACCOUNT only.
    """

    kind: HoldKind
    who: str
    on: str
    cause: HoldCause | None = None


@dataclass(frozen=True, kw_only=True)  # no slots: see dkey.lifecycle.changed
class Share:
    """One key of somebody who is not the owner.

    Attributes:
        share_id: 16 bytes, never used for another share.
        slot: 1..3, or NO_SLOT.
        grantor: Account that granted it (S44).
        granted_s: When.
        state: PENDING until accepted.
        ended: How it ended; None while it lives.
        ended_s: When; 0 while it lives.
        key_x: x-coordinate of the holder's key once accepted.
        confirmed: The vehicle saw its first use (S79).
        approved: The owner agreed, or did not need to (C21).
        holds: Every cause that suspends it.
    """

    share_id: bytes
    account: str
    role: Role
    permission: Permission
    not_before_s: int
    not_after_s: int
    slot: int
    grantor: str
    granted_s: int
    state: ShareState = ShareState.PENDING
    ended: Ended | None = None
    ended_s: int = 0
    key_x: bytes | None = None
    confirmed: bool = False
    approved: bool = True
    booking: Booking | None = None
    holds: frozenset[Held] = frozenset()

    def held_by(self, holds: frozenset[Held]) -> Share:
        """Return the share with these causes."""
        return changed(self, holds=holds)

    def ended_as(self, reason: Ended, at_s: int) -> Share:
        """Return the share ended for good."""
        end = {"state": ShareState.ENDED, "ended": reason, "ended_s": at_s, "holds": frozenset()}
        return made_of(Share, {**self.__dict__, **end})


@dataclass(frozen=True, kw_only=True)  # no slots: see dkey.lifecycle.changed
class CardKey:
    """One card; it belongs to the owner (requirements C32)."""

    card: bytes
    provenance: CardProvenance
    ended: Ended | None = None
    holds: frozenset[Held] = frozenset()


class PauseStage(StrEnum):
    """How far a pause got (requirements S84)."""

    PAUSED = "PAUSED"
    PAUSED_EXT = "PAUSED_EXT"
    TERMINABLE = "TERMINABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseState:
    """A pause that runs; ``until_s`` is the end of the present stage."""

    stage: PauseStage
    by: str
    until_s: int


class DueKind(StrEnum):
    """What happens at a time that is already fixed."""

    NOTICE = "NOTICE"
    HOLD = "HOLD"
    END_OWNER = "END_OWNER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Something that happens when its time comes, unless it is taken back before."""

    kind: DueKind
    at_s: int
    account: str
    notice: NoticeKind | None = None
    cause: HoldCause | None = None
    reason: EndReason | None = None


@dataclass(frozen=True, kw_only=True)  # no slots: see dkey.lifecycle.changed
class Withdrawn:
    """One entry of the withdrawal list; after ``until_s`` it is expired anyway (0: never)."""

    item: bytes
    until_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyView:
    """One line of a key listing (requirements S115, S140).

    Attributes:
        state: PENDING, NOT_SYNCED, ACTIVE, SUSPENDED, REVOKED, DECLINED, EXPIRED or REPLACED.
        account: None where the viewer may not know it.
        booking_id: For a provider's key.
    """

    item: bytes
    role: Role
    permission: Permission
    state: str
    account: str | None
    slot: int
    not_after_s: int | None = None
    booking_id: str | None = None
