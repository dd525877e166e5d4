"""Touch decisions: what a key held to the door handle or laid on the console pad may do.

Pure: signals and monotonic seconds come in, a verdict comes out. Every decision walks one of
two tables (:data:`HANDLE_RULES`, :data:`START_RULES`) from the top; the first rule that holds is
the one reason of the refusal. An unknown signal counts as its worst value, so it may let a door
lock, and never lets one unlock or an engine start (specs/touch.md). Card pairing, the other thing
that a touch may do, is decided in :mod:`dkey.control.card_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dkey.control.card_rules import (
    CARD_PAIRING_RULES,
    CardPairingCase,
    EnrolledCard,
    decide_card_pairing,
)
from dkey.control.rules import Action, Grant, Rule, Signals, Verdict, state_rules
from dkey.errors import RefusalCode
from dkey.lifecycle.policy import PAD_GRACE_S, TAP_DEBOUNCE_S
from dkey.lifecycle.roles import Permission

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CARD_PAIRING_RULES",
    "HANDLE_RULES",
    "START_RULES",
    "Action",
    "CardPairingCase",
    "EnrolledCard",
    "Grant",
    "Intent",
    "Position",
    "Rule",
    "Signals",
    "StartAuthorisation",
    "TouchCase",
    "Verdict",
    "decide_card_pairing",
    "decide_handle",
]


class Position(StrEnum):
    """Where a reader sits; what a transaction may do depends on it (requirements S11, S12)."""

    DOOR_HANDLE = "DOOR_HANDLE"
    CONSOLE_PAD = "CONSOLE_PAD"
    BLE = "BLE"
    """No place: the vehicle's Bluetooth radio, which runs no touch transactions."""


class Intent(StrEnum):
    """What the device asks for at the handle; a bare tap carries none (requirements C35)."""

    LOCK = "LOCK"
    UNLOCK = "UNLOCK"


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchCase:
    """What the handle and start rules look at.

    Attributes:
        wanted: The action in question.
        on_pad: A key lies on the pad or left it within the grace; always False at the handle.
        ready_s: At the handle, when a bare tap may act again, s; None when it may at once.
    """

    wanted: Action
    grant: Grant | None
    fast: bool
    signals: Signals
    now_s: float
    on_pad: bool = False
    ready_s: float | None = None


_UNKNOWN: Final[Rule[TouchCase]] = Rule(
    code=RefusalCode.KEY_UNKNOWN,
    source="S2, S122",
    text="the credential is not enrolled in this vehicle",
    holds=lambda case: case.grant is None,
)
_DRIVING: Final[Rule[TouchCase]] = Rule(
    code=RefusalCode.DRIVING,
    source="C7, C9",
    text="the vehicle is driving, or not known to stand",
    holds=lambda case: case.signals.driving,
)

HANDLE_RULES: Final[tuple[Rule[TouchCase], ...]] = (
    _UNKNOWN,
    *state_rules(lambda case: case.grant),
    _DRIVING,
    Rule(
        code=RefusalCode.DOOR_NOT_LOCKED,
        source="ours (design 4: doubtful data may lock, never unlock)",
        text="the lock state is unknown, so nothing but locking passes",
        holds=lambda case: case.wanted is Action.UNLOCK and case.signals.locked is None,
    ),
    Rule(
        code=RefusalCode.TOO_SOON,
        source="C35",
        text=f"a bare tap within {TAP_DEBOUNCE_S} s of the last touch action",
        holds=lambda case: case.ready_s is not None and not case.now_s >= case.ready_s,
    ),
)
"""Refusals at the door handle, in order. Immobilised and updating are no reasons here (S100, S101).

Fast and standard transactions, and both permissions, may lock and unlock.
"""

START_RULES: Final[tuple[Rule[TouchCase], ...]] = (
    Rule(
        code=RefusalCode.NO_KEY_ON_PAD,
        source="S12, C24",
        text=f"no key on the console pad, nor within the last {PAD_GRACE_S:g} s",
        holds=lambda case: not case.on_pad,
    ),
    _UNKNOWN,
    *state_rules(lambda case: case.grant),
    Rule(
        code=RefusalCode.PERMISSION_ENTRY_ONLY,
        source="S43, S47",
        text="the credential may lock and unlock, not start",
        holds=lambda case: (
            case.grant is not None and case.grant.permission is not Permission.ENTRY_AND_START
        ),
    ),
    Rule(
        code=RefusalCode.STANDARD_REQUIRED,
        source="security 5, case 5",
        text="a fast transaction never authorises start",
        holds=lambda case: case.fast is not False,
    ),
    Rule(
        code=RefusalCode.IMMOBILISED,
        source="S101",
        text="the vehicle is immobilised for every key, or not known to be free",
        holds=lambda case: case.signals.immobilised is not False,
    ),
    Rule(
        code=RefusalCode.UPDATE_IN_PROGRESS,
        source="S100",
        text="a software update is running, or not known to be over",
        holds=lambda case: case.signals.updating is not False,
    ),
    _DRIVING,
)
"""Refusals of start, in order; asked when a key is laid on the pad and again at the START button.

NO_KEY_ON_PAD comes first because a key that is gone has no state to report.
"""


def _verdict(rules: Sequence[Rule[TouchCase]], case: TouchCase) -> Verdict:
    """Return the first refusal of the table, or the wanted action."""
    credential_id = case.grant.credential_id if case.grant is not None else None
    for rule in rules:
        if rule.holds(case):
            remaining_s = None
            if rule.code is RefusalCode.TOO_SOON and case.ready_s is not None:
                # A clock that went back must not promise more than one whole debounce.
                remaining_s = min(case.ready_s - case.now_s, TAP_DEBOUNCE_S)
            return Verdict(
                action=None,
                code=rule.code,
                credential_id=credential_id,
                remaining_s=remaining_s,
                text=rule.text,
            )
    return Verdict(action=case.wanted, code=None, credential_id=credential_id)


def decide_handle(
    grant: Grant | None,
    *,
    intent: Intent | None,
    fast: bool,
    signals: Signals | None,
    last_action_s: float | None,
    now_s: float,
) -> Verdict:
    """Decide one tap at the door handle by :data:`HANDLE_RULES`; never grants a start (S11, C35).

    Args:
        grant: The authenticated credential; None when it is not enrolled.
        intent: LOCK or UNLOCK as sent, repeatable at will; None for a bare tap, which toggles
            (and locks when the lock state is unknown).
        fast: Whether the transaction was a fast one.
        signals: The body now; None when nothing is known.
        last_action_s: When touch last locked or unlocked this vehicle, by any key; None if never.
        now_s: Monotonic time.
    """
    known = signals or Signals()
    if intent is None:
        wanted = Action.UNLOCK if known.locked is True else Action.LOCK
    else:
        wanted = Action.LOCK if intent is Intent.LOCK else Action.UNLOCK
    ready_s = None
    if intent is None and last_action_s is not None:
        ready_s = last_action_s + TAP_DEBOUNCE_S
    return _verdict(
        HANDLE_RULES,
        TouchCase(
            wanted=wanted,
            grant=grant,
            fast=fast,
            signals=known,
            now_s=now_s,
            ready_s=ready_s,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAuthorisation:
    """The key on the console pad, as an immutable value; a new one knows of no key (S12, C24).

    It concerns START alone: there is no action that stops an engine, so taking the key away from
    a running one changes nothing.

    Attributes:
        presented: Whether a key was laid down since the value was made.
        grant: Its credential; None when it is not enrolled.
        fast: Whether it authenticated by a fast transaction.
        removed_s: When it left, monotonic s; None while it lies there.
    """

    presented: bool = False
    grant: Grant | None = None
    fast: bool = True
    removed_s: float | None = None

    @property
    def deadline_s(self) -> float | None:
        """Last moment at which START passes, s; None while a key lies there, or none ever did."""
        return None if self.removed_s is None else self.removed_s + PAD_GRACE_S

    def present(self, grant: Grant | None, *, fast: bool, now_s: float) -> StartAuthorisation:
        """Return the value after a transaction on the pad; the key before it counts no more."""
        del now_s  # presence has no age; the argument keeps the transitions alike
        return StartAuthorisation(presented=True, grant=grant, fast=fast)

    def removed(self, *, now_s: float) -> StartAuthorisation:
        """Return the value after the key left; the grace runs from the first such report."""
        if not self.presented or self.removed_s is not None:
            return self
        return replace(self, removed_s=now_s)

    def updated(self, grant: Grant) -> StartAuthorisation:
        """Return the value after this credential's rights changed; another one changes nothing."""
        if self.grant is None or self.grant.credential_id != grant.credential_id:
            return self
        return replace(self, grant=grant)

    def authorised(self, *, now_s: float, signals: Signals | None) -> Verdict:
        """Say whether START may be pressed now: AUTHORISE_START or a refusal."""
        return self._decide(Action.AUTHORISE_START, now_s=now_s, signals=signals)

    def start(self, *, signals: Signals | None, now_s: float) -> Verdict:
        """Decide the START button with the engine off: START or a refusal."""
        return self._decide(Action.START, now_s=now_s, signals=signals)

    def _on_pad(self, now_s: float) -> bool:
        if not self.presented or self.removed_s is None:
            return self.presented
        return self.removed_s <= now_s <= self.removed_s + PAD_GRACE_S

    def _decide(self, wanted: Action, *, now_s: float, signals: Signals | None) -> Verdict:
        on_pad = self._on_pad(now_s)
        return _verdict(
            START_RULES,
            TouchCase(
                wanted=wanted,
                grant=self.grant if on_pad else None,
                fast=self.fast,
                signals=signals or Signals(),
                now_s=now_s,
                on_pad=on_pad,
            ),
        )
