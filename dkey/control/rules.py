"""What every control decision rests on: signals, grants, rules in order, and the verdict.

A rule table is walked from the top; the first rule that holds is the one reason of the refusal. An
unknown signal counts as its worst value (specs/touch.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from dkey.errors import RefusalCode
from dkey.lifecycle.roles import CredentialState, Permission, Role

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Action", "Decision", "Grant", "Rule", "Signals", "Verdict", "state_rules"]

ActionT = TypeVar("ActionT", bound=StrEnum)
CaseT = TypeVar("CaseT")


class Action(StrEnum):
    """What the vehicle shall do."""

    LOCK = "LOCK"
    UNLOCK = "UNLOCK"
    AUTHORISE_START = "AUTHORISE_START"
    """The START button may be pressed; nothing moves yet."""
    START = "START"
    AUTHORISE_CARD = "AUTHORISE_CARD"
    """One card may be paired next (:mod:`dkey.control.card_window`)."""
    ENROL_CARD = "ENROL_CARD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """State of the vehicle body at one moment; None is an unknown signal (requirements A12, A13).

    Attributes:
        speed_kmh: Speed, km/h, negative in reverse.
    """

    locked: bool | None = None
    ignition_on: bool | None = None
    gear_in_park: bool | None = None
    speed_kmh: float | None = None
    doors_closed: bool | None = None
    smartkey_near: bool | None = None
    updating: bool | None = None
    immobilised: bool | None = None
    service_mode: bool | None = None
    valet: bool | None = None

    @property
    def driving(self) -> bool:
        """Moving, or in gear with the ignition on, or not known to be neither (C9)."""
        if self.speed_kmh != 0:  # also None and NaN
            return True
        if self.ignition_on is None or self.gear_in_park is None:
            return True
        return self.ignition_on and not self.gear_in_park


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The credential that a transaction authenticated, with its rights as enrolled now.

    Attributes:
        expired: The time of a shared key is over, or has not come.
    """

    credential_id: str
    name: str
    role: Role
    permission: Permission
    state: CredentialState
    expired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Generic[ActionT]):
    """Either an action or the one reason against it.

    Attributes:
        action: What to do; None when refused.
        code: Why not; None when granted.
        credential_id: The acting key, for the event log (S141); None when there is none.
        remaining_s: Seconds until the same request may pass, where time is the reason.
        text: The rule that refused, in words.
    """

    action: ActionT | None
    code: RefusalCode | None
    credential_id: str | None
    remaining_s: float | None = None
    text: str = ""

    def __post_init__(self) -> None:
        if (self.action is None) == (self.code is None):
            raise ValueError("a verdict has either an action or a code")

    @property
    def granted(self) -> bool:
        """True when there is something to do."""
        return self.action is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Decision[Action]):
    """The decision on a touch or a card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Generic[CaseT]):
    """One row of a rule table.

    Attributes:
        code: What a refusal by this rule says.
        source: Row of the requirements, or *ours*.
        text: The condition in words.
        holds: True when the rule refuses this case.
    """

    code: RefusalCode
    source: str
    text: str
    holds: Callable[[CaseT], bool]


def state_rules(grant_of: Callable[[CaseT], Grant | None]) -> tuple[Rule[CaseT], ...]:
    """Return the rules on the credential's own state, which come before any other reason."""

    def has(case: CaseT, state: CredentialState) -> bool:
        grant = grant_of(case)
        return grant is not None and grant.state is state

    def is_inactive(case: CaseT) -> bool:
        grant = grant_of(case)
        return grant is not None and grant.state is not CredentialState.ACTIVE

    def is_expired(case: CaseT) -> bool:
        grant = grant_of(case)
        return grant is not None and grant.expired

    return (
        Rule(
            code=RefusalCode.KEY_SUSPENDED,
            source="S49",
            text="the credential is suspended",
            holds=lambda case: has(case, CredentialState.SUSPENDED),
        ),
        Rule(
            code=RefusalCode.CARD_BLOCKED,
            source="S25",
            text="the card was replaced by another",
            holds=lambda case: has(case, CredentialState.REPLACED),
        ),
        Rule(
            code=RefusalCode.KEY_REVOKED,
            source="S49, S54",
            text="the credential is revoked",
            holds=is_inactive,
        ),
        Rule(
            code=RefusalCode.KEY_EXPIRED,
            source="S47, S53",
            text="the time of the key is over, or has not come",
            holds=is_expired,
        ),
    )
