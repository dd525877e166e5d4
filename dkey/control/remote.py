"""Near-range remote control: what a device may ask for over BLE, without ranging.

Pure, like :mod:`dkey.control.touch`: signals and monotonic seconds come in, a verdict comes out.
One table (:data:`REMOTE_RULES`) is walked from the top; each rule says for which actions it
counts. An unknown signal counts as its worst value. :class:`RemoteHistory` is the memory that all
keys of a vehicle share: when a command was last executed, and when the horn stops by itself
(specs/remote.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dkey.control.rules import Decision, Grant, Rule, Signals, state_rules
from dkey.errors import RefusalCode
from dkey.lifecycle.policy import HORN_AUTO_OFF_S, REMOTE_REPEAT_S, SMARTKEY_LOCK_COOLDOWN_S
from dkey.lifecycle.roles import Permission, Role

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "REMOTE_RULES",
    "RemoteAction",
    "RemoteCase",
    "RemoteHistory",
    "RemoteVerdict",
    "decide_remote",
]


class RemoteAction(StrEnum):
    """What a device may ask for; names as in :class:`dkey.codec.ble.RkeAction`."""

    LOCK = "LOCK"
    UNLOCK = "UNLOCK"
    REMOTE_START = "REMOTE_START"
    REMOTE_STOP = "REMOTE_STOP"
    HORN_ON = "HORN_ON"
    HORN_OFF = "HORN_OFF"


_ALL: Final = frozenset(RemoteAction)
_NOT_HORN_OFF: Final = _ALL - {RemoteAction.HORN_OFF}
_START: Final = frozenset({RemoteAction.REMOTE_START})
_ENGINE: Final = _START | {RemoteAction.REMOTE_STOP}
_DOORS: Final = frozenset({RemoteAction.LOCK, RemoteAction.UNLOCK})


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteHistory:
    """What the vehicle remembers of remote control, for all keys together (C8).

    Attributes:
        executed_s: When a command other than HORN_OFF was last executed, monotonic s; None never.
        horn_until_s: When the horn stops by itself, s; None while it is silent.
        remote_running: Whether the engine runs by REMOTE_START, and nobody has taken over.
    """

    executed_s: float | None = None
    horn_until_s: float | None = None
    remote_running: bool = False

    def executed(self, action: RemoteAction, *, now_s: float) -> RemoteHistory:
        """Return the history after an accepted command was executed; a refused one never is."""
        if action is RemoteAction.HORN_OFF:
            return replace(self, horn_until_s=None)
        after = replace(self, executed_s=now_s)
        if action is RemoteAction.HORN_ON:
            return replace(after, horn_until_s=now_s + HORN_AUTO_OFF_S)
        if action in _ENGINE:
            return replace(after, remote_running=action is RemoteAction.REMOTE_START)
        return after

    def taken_over(self) -> RemoteHistory:
        """Return the history after a driver took the engine over, or it stopped by itself."""
        return replace(self, remote_running=False)

    def tick(self, *, now_s: float) -> RemoteHistory:
        """Return the history at this time: the horn is silent once its time is over (C25)."""
        if self.horn_until_s is not None and now_s >= self.horn_until_s:
            return replace(self, horn_until_s=None)
        return self

    @property
    def ready_s(self) -> float | None:
        """When the next command may pass, s; None at once."""
        return None if self.executed_s is None else self.executed_s + REMOTE_REPEAT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCase:
    """What the rules look at.

    Attributes:
        wanted: The action in question.
        supported: Whether this vehicle has near-range remote control at all.
        fob_ready_s: When a remote start may pass after the smart key locked the doors, s; None
            when it did not since the engine was switched off.
    """

    wanted: RemoteAction
    grant: Grant | None
    fast: bool
    signals: Signals
    now_s: float
    history: RemoteHistory
    supported: bool
    fob_ready_s: float | None


def _rule(
    code: RefusalCode,
    source: str,
    actions: frozenset[RemoteAction],
    text: str,
    holds: Callable[[RemoteCase], bool],
) -> Rule[RemoteCase]:
    """Return a rule that counts for these actions alone."""
    return Rule(
        code=code,
        source=source,
        text=text,
        holds=lambda case: case.wanted in actions and holds(case),
    )


def _waits(case: RemoteCase, ready_s: float | None) -> bool:
    """Whether a time has not come; one that cannot be compared (NaN) has not."""
    return ready_s is not None and not case.now_s >= ready_s


def _for_actions(
    rules: tuple[Rule[RemoteCase], ...], actions: frozenset[RemoteAction]
) -> tuple[Rule[RemoteCase], ...]:
    return tuple(_rule(r.code, r.source, actions, r.text, r.holds) for r in rules)


REMOTE_RULES: Final[tuple[Rule[RemoteCase], ...]] = (
    _rule(
        RefusalCode.FEATURE_NOT_SUPPORTED,
        "S16, S17",
        _ALL,
        "this vehicle works by touch only",
        lambda case: not case.supported,
    ),
    _rule(
        RefusalCode.KEY_UNKNOWN,
        "S2, S122",
        _ALL,
        "the credential is not enrolled in this vehicle",
        lambda case: case.grant is None,
    ),
    _rule(
        RefusalCode.FEATURE_NOT_SUPPORTED,
        "S34, S35",
        _ALL,
        "a card has no remote control",
        lambda case: case.grant is not None and case.grant.role is Role.CARD,
    ),
    *_for_actions(state_rules(lambda case: case.grant), _NOT_HORN_OFF),
    _rule(
        RefusalCode.PERMISSION_ENTRY_ONLY,
        "S43, S47",
        _ENGINE,
        "the credential may lock and unlock, not start or stop",
        lambda case: (
            case.grant is not None and case.grant.permission is not Permission.ENTRY_AND_START
        ),
    ),
    _rule(
        RefusalCode.STANDARD_REQUIRED,
        "security 5, case 5",
        _START,
        "a fast transaction never authorises start",
        lambda case: case.fast is not False,
    ),
    _rule(
        RefusalCode.IMMOBILISED,
        "S101",
        _START,
        "the vehicle is immobilised for every key, or not known to be free",
        lambda case: case.signals.immobilised is not False,
    ),
    _rule(
        RefusalCode.UPDATE_IN_PROGRESS,
        "S100",
        _START,
        "a software update is running, or not known to be over",
        lambda case: case.signals.updating is not False,
    ),
    _rule(
        RefusalCode.SERVICE_MODE,
        "S73",
        _START,
        "the vehicle is in service mode, or not known not to be",
        lambda case: case.signals.service_mode is not False,
    ),
    _rule(
        RefusalCode.DRIVING,
        "S93, C7, C9",
        _NOT_HORN_OFF,
        "the vehicle is driving, or not known to stand",
        lambda case: case.signals.driving,
    ),
    _rule(
        RefusalCode.IGNITION_ON,
        "S93, C7, C10",
        _DOORS | _START,
        "the ignition is on, or not known to be off",
        lambda case: case.signals.ignition_on is not False,
    ),
    _rule(
        RefusalCode.IGNITION_ON,
        "ours (C24: no key stops an engine that a driver runs)",
        frozenset({RemoteAction.REMOTE_STOP}),
        "the engine was not started by remote control",
        lambda case: case.signals.ignition_on is not False and not case.history.remote_running,
    ),
    _rule(
        RefusalCode.GEAR_NOT_P,
        "S94, C7",
        _START,
        "the gear is not in park, or not known to be",
        lambda case: case.signals.gear_in_park is not True,
    ),
    _rule(
        RefusalCode.DOOR_NOT_LOCKED,
        "S94, C7",
        _START,
        "the doors are not locked, or not known to be",
        lambda case: case.signals.locked is not True,
    ),
    _rule(
        RefusalCode.DOOR_NOT_LOCKED,
        "ours (design 4: doubtful data may lock, never unlock)",
        frozenset({RemoteAction.UNLOCK}),
        "the lock state is unknown, so nothing but locking passes",
        lambda case: case.signals.locked is None,
    ),
    _rule(
        RefusalCode.SMARTKEY_NEARBY,
        "S94, C7",
        _START,
        "the smart key is close to the vehicle, or not known to be away",
        lambda case: case.signals.smartkey_near is not False,
    ),
    _rule(
        RefusalCode.SMARTKEY_LOCK_COOLDOWN,
        "S94, C7",
        _START,
        f"the smart key locked the doors within the last {SMARTKEY_LOCK_COOLDOWN_S:g} s",
        lambda case: _waits(case, case.fob_ready_s),
    ),
    _rule(
        RefusalCode.TOO_SOON,
        "S93, C8",
        _NOT_HORN_OFF,
        f"a remote command was executed within the last {REMOTE_REPEAT_S:g} s",
        lambda case: _waits(case, case.history.ready_s),
    ),
)
"""Refusals of remote control, in order.

HORN_OFF passes for every enrolled phone, whatever its state and the vehicle's: silence is safe
(C8). The hours after ignition-off (S95) bind cellular remote control alone (C7).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteVerdict(Decision[RemoteAction]):
    """The decision on a remote command."""


def decide_remote(
    wanted: RemoteAction,
    grant: Grant | None,
    *,
    fast: bool,
    signals: Signals | None,
    history: RemoteHistory,
    fob_lock_s: float | None,
    now_s: float,
    supported: bool = True,
) -> RemoteVerdict:
    """Decide one request by :data:`REMOTE_RULES`.

    After executing what was granted, keep :meth:`RemoteHistory.executed`; a refusal changes
    nothing.

    Args:
        wanted: The action that the device asks for.
        grant: The authenticated credential; None when it is not enrolled.
        fast: Whether the session began with a fast transaction.
        signals: The body now; None when nothing is known.
        history: What was executed before, by any key.
        fob_lock_s: When the smart key locked the doors after the engine was switched off,
            monotonic s; None when it did not.
        now_s: Monotonic time.
        supported: False for a vehicle that works by touch only.
    """
    case = RemoteCase(
        wanted=wanted,
        grant=grant,
        fast=fast,
        signals=signals or Signals(),
        now_s=now_s,
        history=history,
        supported=supported,
        fob_ready_s=None if fob_lock_s is None else fob_lock_s + SMARTKEY_LOCK_COOLDOWN_S,
    )
    credential_id = grant.credential_id if grant is not None else None
    for rule in REMOTE_RULES:
        if rule.holds(case):
            return RemoteVerdict(
                action=None,
                code=rule.code,
                credential_id=credential_id,
                remaining_s=_remaining(rule.code, case),
                text=rule.text,
            )
    return RemoteVerdict(action=wanted, code=None, credential_id=credential_id)


def _remaining(code: RefusalCode, case: RemoteCase) -> float | None:
    """Return the rest of the time that refused; a clock that went back promises one whole time."""
    if code is RefusalCode.TOO_SOON and case.history.ready_s is not None:
        return min(case.history.ready_s - case.now_s, REMOTE_REPEAT_S)
    if code is RefusalCode.SMARTKEY_LOCK_COOLDOWN and case.fob_ready_s is not None:
        return min(case.fob_ready_s - case.now_s, SMARTKEY_LOCK_COOLDOWN_S)
    return None
