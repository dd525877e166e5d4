"""The choices of requirements section C that a deployment may make otherwise, with their defaults.

One value, given to a ring when its vehicle is founded and to the vehicle's admission rules. Sources
S and C are rows of the requirements; *ours* marks a choice that no document makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dkey.lifecycle.policy import MAX_CARDS

__all__ = ["CardFollowsPhone", "CascadeScope", "Flags"]


class CascadeScope(StrEnum):
    """Whose keys fall with the actual user (requirements C3)."""

    VEHICLE = "VEHICLE"
    """Every associate and provider of the vehicle: the literal text (K267)."""
    GRANT_CHAIN = "GRANT_CHAIN"
    """Only those that the actual user granted, and providers that these ordered."""


class CardFollowsPhone(StrEnum):
    """Which trouble with the holder's phone binds the holder's cards (requirements S22, C5)."""

    ADMIN_ONLY = "ADMIN_ONLY"
    """A restriction somebody imposed: suspended, unsupported, blocked, lost."""
    ALWAYS = "ALWAYS"
    """Also a phone that is merely off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """How one vehicle's keys are governed where the requirements leave a choice.

    Attributes:
        provider_counts: A provider's key takes one of the three places (C1: conservative).
        cascade_scope: Whose keys fall with the actual user (C3: the literal text).
        cascade_automatic: Suspending an owner or actual user suspends downwards by itself, without
            a decision of the authority (C4: the general rule K92, and safer). Ends always cascade.
        card_follows_phone: Which trouble with the phone binds the holder's cards (C5).
        pause_affects_cards: A pause suspends cards too (C11: literal, S85).
        touch_only: The vehicle offers touch functions only (S16).
        touch_profile_sharing: A touch-only vehicle shares keys (C14).
        owner_approval_required: A provider's key that a sharee ordered waits for the owner (C21).
        friends_survive_owner_change: Shares outlive a change of owner or of the owner's key (S127:
            shares need to be confirmed anew, so not by default).
        remote_handover: A provider may get a key; False is an in-person vehicle, as every DK2
            vehicle is (S7, S109, C34).
        max_cards: Cards that are active or suspended at a time (C32).
    """

    provider_counts: bool = True
    cascade_scope: CascadeScope = CascadeScope.VEHICLE
    cascade_automatic: bool = True
    card_follows_phone: CardFollowsPhone = CardFollowsPhone.ADMIN_ONLY
    pause_affects_cards: bool = True
    touch_only: bool = False
    touch_profile_sharing: bool = True
    owner_approval_required: bool = False
    friends_survive_owner_change: bool = False
    remote_handover: bool = False
    max_cards: int = MAX_CARDS
