"""What a command did to the keys of a vehicle, for the audit log and for notices.

:func:`dkey.lifecycle.ring.apply` returns these beside the new ring, in the order in which they
happened. An effect is a report: whoever ignores it changes nothing about who holds a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkey.lifecycle.commands import Party, Side
    from dkey.lifecycle.ring_state import Ended, HoldKind
    from dkey.lifecycle.roles import Role

__all__ = [
    "CardAdded",
    "Effect",
    "Erased",
    "HalfRemoved",
    "KeyAccepted",
    "KeyConfirmed",
    "KeyEnded",
    "KeyHeld",
    "KeyLifted",
    "KeyOffered",
    "Linked",
    "NoticeDue",
    "NoticeKind",
    "OwnerNotified",
    "PauseChanged",
    "StartForbidden",
]


class NoticeKind(StrEnum):
    """What a notice says (requirements A16)."""

    PAUSE_ENDS = "PAUSE_ENDS"
    """The pause ends in 7 days and is extended unless somebody ends it (S84)."""
    PAUSE_TERMINABLE = "PAUSE_TERMINABLE"
    """The extended pause ends in 7 days; the contract may be ended then (S84)."""
    SUSPENSION = "SUSPENSION"
    """Keys are suspended in 7 days for unpaid fees (S91)."""
    TERMINATION = "TERMINATION"
    """The company ends the contract in 14 days (S59)."""
    TRANSFERRED = "TRANSFERRED"
    """The contract was ended for a transfer; due within a month (S56)."""
    PROVIDER_KEY = "PROVIDER_KEY"
    """A provider is given a key: who, when and what for (S111, S147)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Something that happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOffered(Effect):
    """A share was offered and took its place."""

    item: bytes
    account: str
    role: Role
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAccepted(Effect):
    """The invited account took the key."""

    item: bytes
    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyConfirmed(Effect):
    """The vehicle saw the key for the first time."""

    item: bytes


@dataclass(frozen=True, kw_only=True)  # no slots: see dkey.lifecycle.changed
class KeyEnded(Effect):
    """A key or card is withdrawn for good.

    Attributes:
        item: Share id, or key reference of an owner's key or card.
        account: Whose it was.
        role: Its holder's role; CARD for a card.
        reason: How it ended.
    """

    item: bytes
    account: str
    role: Role
    reason: Ended


@dataclass(frozen=True, kw_only=True)  # no slots: see dkey.lifecycle.changed
class KeyHeld(Effect):
    """A key or card is suspended for one more cause."""

    item: bytes
    account: str
    kind: HoldKind
    who: str


@dataclass(frozen=True, kw_only=True)  # no slots: see dkey.lifecycle.changed
class KeyLifted(Effect):
    """One cause of a suspension is gone.

    Attributes:
        usable: No other cause is left.
    """

    item: bytes
    account: str
    kind: HoldKind
    usable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CardAdded(Effect):
    """A card was paired."""

    card: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeDue(Effect):
    """Somebody must be told.

    Attributes:
        to: Account.
        kind: What the notice says.
        due_s: When it must have been sent, seconds since 1970.
    """

    to: str
    kind: NoticeKind
    due_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerNotified(Effect):
    """The owner must be told of a provider's key before it is issued (S111, S147)."""

    to: str
    kind: NoticeKind
    item: bytes
    ordered_by: str
    recipient: str
    purpose: str
    at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseChanged(Effect):
    """A pause began, was extended, became terminable or ended (``state`` None)."""

    state: str | None
    until_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartForbidden(Effect):
    """Starting is forbidden to every key, or permitted again (S101)."""

    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked(Effect):
    """The vehicle has an owner from here on."""

    owner: Party
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfRemoved(Effect):
    """One side was cleared and the other was not (S61)."""

    missing: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased(Effect):
    """Both sides are clear: no key, no card and no name is left (S55)."""
