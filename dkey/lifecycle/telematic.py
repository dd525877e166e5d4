"""Telematic units (``mobikey-light``, ``mobikey-pro``): who activates them and when they answer.

A pure state machine (requirements A15). The unit hangs on a cellular link, not on BLE, NFC or UWB:
only a dealer activates it, deactivation is final for everybody else, and it falls asleep within a
day after that. :data:`TRANSITIONS` is the whole table; what is not in it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.policy import MOBIKEY_SLEEP_H, TELEMATIC_IDLE_DAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MARKETS",
    "PRO_ONLY",
    "REFUSALS",
    "TRANSITIONS",
    "By",
    "TelematicEvent",
    "TelematicProfile",
    "TelematicState",
    "TelematicUnit",
    "TelematicVerb",
    "command",
    "happen",
    "settled",
]


class TelematicState(StrEnum):
    """Where a unit stands."""

    NONE = "NONE"
    """Fitted to nothing we know of."""
    PENDING_ACTIVATION = "PENDING_ACTIVATION"
    """A dealer linked it; the unit has not confirmed yet (S81)."""
    ACTIVE = "ACTIVE"
    DEACTIVATED = "DEACTIVATED"
    """Refuses commands at once; still to fall asleep (S116)."""
    ASLEEP = "ASLEEP"
    """Not reachable any more (S116)."""
    EXPIRED = "EXPIRED"
    """Its SIM ended for good (S130)."""


class TelematicEvent(StrEnum):
    """What can happen to a unit."""

    LINK = "LINK"
    CONFIRM = "CONFIRM"
    DEACTIVATE = "DEACTIVATE"
    SLEEP = "SLEEP"
    EXPIRE = "EXPIRE"


class By(StrEnum):
    """Who makes it happen."""

    DEALER = "DEALER"
    OWNER = "OWNER"
    UNIT = "UNIT"
    TIME = "TIME"


class TelematicVerb(StrEnum):
    """What can be asked of an active unit."""

    STATUS = "STATUS"
    LOCK = "LOCK"
    UNLOCK = "UNLOCK"
    REMOTE_START = "REMOTE_START"
    HORN = "HORN"


class TelematicProfile(StrEnum):
    """The two products (S8)."""

    LIGHT = "mobikey-light"
    PRO = "mobikey-pro"


PRO_ONLY: Final = frozenset({TelematicVerb.REMOTE_START, TelematicVerb.HORN})
"""Verbs that need the PRO hardware (S117; which ones is ours)."""
MARKETS: Final = frozenset({"RU"})
"""Markets that have telematic profiles (S131)."""

_S, _E = TelematicState, TelematicEvent
TRANSITIONS: Final[Mapping[tuple[TelematicState, TelematicEvent], tuple[By, TelematicState]]] = (
    MappingProxyType(
        {
            (_S.NONE, _E.LINK): (By.DEALER, _S.PENDING_ACTIVATION),
            (_S.PENDING_ACTIVATION, _E.CONFIRM): (By.UNIT, _S.ACTIVE),
            (_S.ACTIVE, _E.DEACTIVATE): (By.OWNER, _S.DEACTIVATED),
            (_S.DEACTIVATED, _E.SLEEP): (By.TIME, _S.ASLEEP),
            (_S.DEACTIVATED, _E.LINK): (By.DEALER, _S.PENDING_ACTIVATION),
            (_S.ASLEEP, _E.LINK): (By.DEALER, _S.PENDING_ACTIVATION),
            (_S.PENDING_ACTIVATION, _E.EXPIRE): (By.TIME, _S.EXPIRED),
            (_S.ACTIVE, _E.EXPIRE): (By.TIME, _S.EXPIRED),
            (_S.DEACTIVATED, _E.EXPIRE): (By.TIME, _S.EXPIRED),
            (_S.ASLEEP, _E.EXPIRE): (By.TIME, _S.EXPIRED),
        }
    )
)
"""State and event to who alone may do it, and the next state."""

REFUSALS: Final[Mapping[TelematicState, tuple[RefusalCode, str, str]]] = MappingProxyType(
    {
        _S.NONE: (
            RefusalCode.PENDING_ACTIVATION,
            "no telematic unit is linked to this vehicle",
            "let an official dealer fit and link one",
        ),
        _S.PENDING_ACTIVATION: (
            RefusalCode.PENDING_ACTIVATION,
            "the unit has not confirmed its activation yet",
            "wait for the confirmation",
        ),
        _S.DEACTIVATED: (
            RefusalCode.DEACTIVATED,
            "the unit was deactivated",
            "only an official dealer can activate it again",
        ),
        _S.ASLEEP: (
            RefusalCode.DEACTIVATED,
            "the unit was deactivated and is asleep",
            "only an official dealer can activate it again",
        ),
        _S.EXPIRED: (
            RefusalCode.MODULE_EXPIRED,
            "the connection of the unit has ended for good",
            "let an official dealer fit another unit",
        ),
    }
)
"""What a command, or an event that does not fit, is answered in each state but ACTIVE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelematicUnit:
    """One unit in one vehicle.

    Attributes:
        profile: Which product the contract names.
        hardware_id: Number of the fitted unit; the PRO verbs are bound to it.
        pro_hardware: Whether that unit is the PRO kind.
        market: Market of the vehicle.
        state: Where it stands.
        since_s: When it came there, seconds since 1970.
        used_s: When the vehicle was last used or answered a command.
        expires_s: When its SIM ends; None while unknown.
        entitled: Whether the contract is valid (S118).
    """

    profile: TelematicProfile
    hardware_id: str
    pro_hardware: bool
    market: str
    state: TelematicState = TelematicState.NONE
    since_s: int = 0
    used_s: int = 0
    expires_s: int | None = None
    entitled: bool = True


def settled(unit: TelematicUnit, now_s: int) -> TelematicUnit:
    """Return the unit after what is due by ``now_s``: asleep by 24 h, expired at its date."""
    sleeps_s = unit.since_s + MOBIKEY_SLEEP_H * 3600
    if unit.state is TelematicState.DEACTIVATED and now_s >= sleeps_s:
        unit = happen(unit, TelematicEvent.SLEEP, By.TIME, now_s=sleeps_s)
    may_end = (unit.state, TelematicEvent.EXPIRE) in TRANSITIONS
    if unit.expires_s is not None and now_s >= unit.expires_s and may_end:
        unit = happen(unit, TelematicEvent.EXPIRE, By.TIME, now_s=unit.expires_s)
    return unit


def happen(
    unit: TelematicUnit,
    event: TelematicEvent,
    by: By,
    *,
    now_s: int,
    confirmed: bool = True,
    consent: bool = True,
    service_mode: bool = False,
) -> TelematicUnit:
    """Return the unit after an event.

    Args:
        unit: The unit before.
        event: What happens.
        by: Who does it.
        now_s: Seconds since 1970.
        confirmed: Whether the person said so a second time; deactivation needs it (S116).
        consent: Whether the owner's written consent lies with the dealer (S157).
        service_mode: Whether the vehicle is in service mode (S73).

    Raises:
        PolicyRefusal: WRONG_MARKET, SERVICE_MODE, CONSENT_MISSING, NOT_AUTHORISED, or the code of
            a state in which this cannot happen.
    """
    row = TRANSITIONS.get((unit.state, event))
    if row is None:
        raise _refusal(unit.state, event)
    who, state = row
    if by is not who:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED,
            f"only the {who.value.lower()} may {event.value.lower()} a telematic unit here",
            hint=REFUSALS[unit.state][2] if unit.state in REFUSALS else None,
        )
    if event is TelematicEvent.LINK:
        _check_link(unit, consent=consent, service_mode=service_mode)
    if event is TelematicEvent.DEACTIVATE and not confirmed:
        raise PolicyRefusal(
            RefusalCode.CONSENT_MISSING,
            "deactivation was not confirmed; only a dealer can undo it",
            hint="confirm that the unit shall be deactivated",
        )
    used_s = now_s if event is TelematicEvent.CONFIRM else unit.used_s
    return replace(unit, state=state, since_s=now_s, used_s=used_s)


def command(unit: TelematicUnit, verb: TelematicVerb, *, now_s: int) -> TelematicUnit:
    """Return the unit after a command that it takes.

    Raises:
        PolicyRefusal: The code of its state; ENTITLEMENT, WRONG_MARKET, FEATURE_NOT_SUPPORTED
            without the PRO hardware, or ASLEEP after a week without use (S124, C27).
    """
    if unit.state is not TelematicState.ACTIVE:
        code, text, hint = REFUSALS[unit.state]
        raise PolicyRefusal(code, text, hint=hint)
    _check_market(unit)
    if not unit.entitled:
        raise PolicyRefusal(
            RefusalCode.ENTITLEMENT, "the contract is not valid", hint="renew the contract"
        )
    if verb in PRO_ONLY and not (unit.profile is TelematicProfile.PRO and unit.pro_hardware):
        raise PolicyRefusal(
            RefusalCode.FEATURE_NOT_SUPPORTED,
            f"{verb.value} needs the PRO unit, and {unit.hardware_id} is not used as one",
            hint="let an official dealer fit the PRO unit",
        )
    if verb is TelematicVerb.STATUS:
        return unit
    if now_s - unit.used_s > TELEMATIC_IDLE_DAYS * 86_400:
        raise PolicyRefusal(
            RefusalCode.ASLEEP,
            f"the vehicle was not used for over {TELEMATIC_IDLE_DAYS} days",
            hint="open it with the mechanical key",
        )
    return replace(unit, used_s=now_s)


def _check_link(unit: TelematicUnit, *, consent: bool, service_mode: bool) -> None:
    _check_market(unit)
    if service_mode:
        raise PolicyRefusal(
            RefusalCode.SERVICE_MODE,
            "the vehicle is in service mode",
            hint="the authority has to take it out of service mode",
        )
    if not consent:
        raise PolicyRefusal(
            RefusalCode.CONSENT_MISSING,
            "the owner's consent to personal data processing is not recorded",
            hint="record the consent first",
        )
    if unit.profile is TelematicProfile.PRO and not unit.pro_hardware:
        raise PolicyRefusal(
            RefusalCode.FEATURE_NOT_SUPPORTED,
            f"{unit.hardware_id} is no PRO unit",
            hint="fit the PRO unit, or link as mobikey-light",
        )


def _check_market(unit: TelematicUnit) -> None:
    if unit.market not in MARKETS:
        raise PolicyRefusal(
            RefusalCode.WRONG_MARKET,
            f"telematic units do not work in vehicles of market {unit.market}",
            hint="use the digital key of the vehicle",
        )


def _refusal(state: TelematicState, event: TelematicEvent) -> PolicyRefusal:
    """Return why ``event`` cannot happen in ``state``."""
    if state in REFUSALS:
        code, text, hint = REFUSALS[state]
        return PolicyRefusal(code, text, hint=hint)
    return PolicyRefusal(
        RefusalCode.ALREADY_LINKED,
        f"the unit is active: {event.value.lower()} does not fit",
        hint="deactivate it first",
    )
