"""What the two ends of ranging, :mod:`dkey.ranging.session`, tell their owners."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dkey.codec.ble_contents import Content  # noqa: TC001 - part of the public signature
from dkey.errors import DkeyError  # noqa: TC001 - part of the public signature
from dkey.ranging.measurement import RangingRound  # noqa: TC001 - part of the public signature
from dkey.ranging.setup_plan import SessionPlan  # noqa: TC001 - part of the public signature

__all__ = [
    "USE_TOUCH",
    "Began",
    "Ceased",
    "Measured",
    "RangingEvent",
    "Tell",
    "Trouble",
    "TroubleKind",
    "Unavailable",
    "Violated",
]

USE_TOUCH: Final = "hold the phone to the door handle, or lay it on the pad"
"""What always works when ranging does not."""


class TroubleKind(StrEnum):
    """Why there is no ranging, or less of it."""

    SUBSYSTEM = "the UWB subsystem does not behave"
    SUBSYSTEM_LOST = "the UWB subsystem does not recover"
    NOT_STARTED = "the UWB subsystem did not start the session"
    STS_FAILED = "the two ends do not hear each other's secret"
    UWB_LOST = "nothing is heard by UWB"
    UNSUPPORTED = "the two ends have nothing in common"
    FULL = "no more phone can range now"
    EXPIRED = "the ranging secret is dead"
    GAVE_UP = "ranging failed too often"
    STATIC_STS = "the subsystem ranges on a static STS, which proves nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Send this content over the BLE session of ``session_id``."""

    session_id: int
    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """Tell the peer that the ranging secret is gone; a new one needs a new connection."""

    session_id: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Violated:
    """End the BLE session: what the peer said breaks the protocol."""

    session_id: int
    error: DkeyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """The subsystem ranges by this plan."""

    session_id: int
    plan: SessionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceased:
    """The subsystem does not range any more."""

    session_id: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Vehicle: what a round measured. Block and STS index rise for the life of the secret."""

    session_id: int
    round: RangingRound


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A fault in words.

    Attributes:
        session_id: The session it is about; None for the whole subsystem.
    """

    kind: TroubleKind
    text: str
    hint: str = USE_TOUCH
    session_id: int | None = None


RangingEvent = Tell | Unavailable | Violated | Began | Ceased | Measured | Trouble
