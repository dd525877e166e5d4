"""What the agent tells of an action and of its key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dkey.agent.store_schema import KeyState, VehicleKey
    from dkey.codec.ble import RkeAction
    from dkey.errors import DkeyError

__all__ = ["Outcome", "Status", "doors_text"]

_DOORS: Final = {
    0x00: "locked",
    0x01: "unlocked",
    0x02: "jammed",
    0x80: "locking",
    0x81: "unlocking",
}


def doors_text(state: int | None) -> str:
    """Return the second byte of a reader status in words."""
    return _DOORS.get(-1 if state is None else state, "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An action that the vehicle accepted.

    Attributes:
        action: What was asked for.
        fast: Whether the connection began with a fast transaction.
        doors: The lock, by this action or as last reported by the vehicle.
        elapsed_s: From the call to the verdict, seconds.
    """

    action: RkeAction
    fast: bool
    doors: str
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the agent knows.

    Attributes:
        state: How far the key is set up.
        known: The vehicle and its key; None for NONE.
        actions: What may be asked for now; empty before SYNCED and without near-range control.
        reached: Whether the vehicle was reached just now; None when nobody tried.
        error: Why not.
        doors: The lock as last reported.
        fast: How the present connection began; None without one.
    """

    state: KeyState
    known: VehicleKey | None
    actions: tuple[RkeAction, ...]
    reached: bool | None = None
    error: DkeyError | None = None
    doors: str = "unknown"
    fast: bool | None = None
