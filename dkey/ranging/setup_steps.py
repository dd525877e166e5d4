"""Where ranging setup stands, and what it asks its owner to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dkey.codec.ble_ranging import RangingMessage  # noqa: TC001 - part of the public signature
from dkey.ranging.setup_plan import SessionPlan  # noqa: TC001 - part of the public signature

__all__ = ["Begin", "Do", "GoOn", "Refuse", "Send", "SetupState", "Stop"]


class SetupState(Enum):
    """Where ranging setup stands, at both ends."""

    IDLE = "nothing is agreed"
    OFFERED = "M1 is out"
    SELECTED = "M2 is out"
    PLANNED = "M3 is out"
    ACTIVE = "ranging"
    SUSPENDING = "Suspend RQ is out"
    SUSPENDED = "suspended"
    RESUMING = "Resume RQ is out"
    CLOSED = "no URSK any more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send this message."""

    message: RangingMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Start ranging by this plan."""

    plan: SessionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOn:
    """Resume ranging: the same plan with a new first index and time."""

    plan: SessionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Stop ranging; the plan stays for a resume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Tell the peer that there is no URSK: a General Error with reason URSK unavailable."""


Do = Send | Begin | GoOn | Stop | Refuse
