"""Proximity decisions: unlock at the door, lock on leaving, start from the cabin.

Pure: where the keys are, the vehicle's signals and monotonic seconds come in, verdicts come out.
The tables are in :mod:`dkey.control.proximity_rules`; this is the memory between two updates: which
key came from afar, which one was left inside, what was already said (specs/proximity.md §6).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dkey.control.proximity_rules import (
    PROXIMITY_START_RULES,
    PROXIMITY_UNLOCK_RULES,
    KeyPresence,
    ProximityCase,
    best_verdict,
)
from dkey.control.rules import Action, Signals, Verdict
from dkey.lifecycle.policy import ABSENT_HOLD_S, LOST_LOCK_S
from dkey.lifecycle.roles import CredentialState
from dkey.ranging.gate import TrustLevel
from dkey.ranging.layout import DOORS, Zone

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "KeyPresence",
    "Notice",
    "NoticeKind",
    "Proximity",
    "ProximityMode",
    "ProximitySettings",
    "Verdicts",
]

_OUTSIDE: Final = DOORS | {Zone.NEAR}


class ProximityMode(StrEnum):
    """What unlocks (C36)."""

    PASSIVE_APPROACH = "PASSIVE_APPROACH"
    """Coming to a door."""
    ON_HANDLE_ACTION = "ON_HANDLE_ACTION"
    """Touching its handle while the key is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProximitySettings:
    """How this vehicle does it (C36).

    Attributes:
        mode: What unlocks.
        walk_away_lock: Whether leaving locks.
        supported: False for a vehicle that works by touch only (S16).
    """

    mode: ProximityMode = ProximityMode.ON_HANDLE_ACTION
    walk_away_lock: bool = True
    supported: bool = True


class NoticeKind(StrEnum):
    """What to tell the holder."""

    USE_TOUCH = "USE_TOUCH"
    """The device is not located: hold it to the handle, or lay it on the pad."""
    KEY_INSIDE = "KEY_INSIDE"
    """The vehicle stays unlocked because a key is inside."""
    STEP_UP = "STEP_UP"
    """Ranging was suspicious: a standard transaction and an action at the device are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One message about one key."""

    kind: NoticeKind
    credential_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What one update decided.

    Attributes:
        doors: LOCK, UNLOCK or a refusal; None when there was nothing to decide.
        start: START or a refusal; None unless START was pressed.
        notices: What to tell, each once until it changes.
    """

    doors: Verdict | None = None
    start: Verdict | None = None
    notices: tuple[Notice, ...] = ()


@dataclass(slots=True)
class _Memory:
    """What is remembered of one key.

    Attributes:
        last: The last zone that it was known in.
        seen_s: When its session last took part in an update.
        armed: Whether it was seen away from the doors since it last unlocked.
        close: Whether it was at the vehicle, outside, since the doors were last locked.
        told: What was last said about it.
    """

    last: Zone | None = None
    seen_s: float = 0.0
    armed: bool = False
    close: bool = False
    told: NoticeKind | None = None
    refused: str | None = None


class Proximity:
    """Decides for one vehicle and all its keys."""

    def __init__(self, settings: ProximitySettings | None = None) -> None:
        self.settings = settings or ProximitySettings()
        self._memory: dict[str, _Memory] = {}

    def update(
        self,
        keys: Sequence[KeyPresence],
        *,
        signals: Signals | None,
        now_s: float,
        handle: Zone | None = None,
        start_pressed: bool = False,
    ) -> Verdicts:
        """Decide one moment.

        Args:
            keys: Every key with a session, once, as of now.
            signals: The body now; None when nothing is known.
            now_s: Monotonic time.
            handle: The door whose handle is touched now.
            start_pressed: Whether START is pressed now, with the engine off.
        """
        known = signals or Signals()
        self._remember(keys, now_s)
        doors = None
        if handle is not None:
            doors = self._unlock(keys, handle, known, now_s)
        elif self.settings.mode is ProximityMode.PASSIVE_APPROACH and known.locked is not False:
            doors = self._approach(keys, known, now_s)
        notices = [*self._tell(keys)]
        if doors is None and self.settings.walk_away_lock and self.settings.supported:
            doors = self._leave(keys, known, now_s, notices)
        start = None
        if start_pressed:
            inside = [key for key in keys if _is_at(key, Zone.CABIN)]
            # The permission of the key inside decides, whoever else is near (C37).
            cases = [
                self._case(Action.START, key, Zone.CABIN, known, now_s) for key in inside or keys
            ]
            start = best_verdict(PROXIMITY_START_RULES, cases)
        if doors is not None and doors.granted:
            self._acted(doors)
        return Verdicts(doors=doors, start=start, notices=tuple(notices))

    def _case(
        self, wanted: Action, key: KeyPresence, at: Zone, signals: Signals, now_s: float
    ) -> ProximityCase:
        return ProximityCase(
            wanted=wanted,
            key=key,
            at=at,
            signals=signals,
            now_s=now_s,
            supported=self.settings.supported,
        )

    def _remember(self, keys: Sequence[KeyPresence], now_s: float) -> None:
        for key in keys:
            if key.grant is None:
                continue
            if not _counts(key):
                # Without consent nothing of where it was stays (S146, S148).
                self._memory.pop(key.grant.credential_id, None)
                continue
            memory = self._memory.setdefault(key.grant.credential_id, _Memory())
            memory.seen_s = now_s
            zone = key.zone.zone
            if zone is None:
                continue
            memory.last = zone
            memory.close |= zone in _OUTSIDE
            if zone is Zone.CABIN:
                memory.armed = False
            elif zone not in DOORS:
                memory.armed, memory.refused = True, None

    def _unlock(
        self, keys: Sequence[KeyPresence], handle: Zone, signals: Signals, now_s: float
    ) -> Verdict:
        """Decide a hand at the handle: a key has to be at that very door."""
        cases = [self._case(Action.UNLOCK, key, handle, signals, now_s) for key in keys]
        return best_verdict(PROXIMITY_UNLOCK_RULES, cases)

    def _approach(
        self, keys: Sequence[KeyPresence], signals: Signals, now_s: float
    ) -> Verdict | None:
        """Decide keys that came to a door from further away; the same refusal is said once."""
        cases = []
        for key in keys:
            zone = key.zone.zone
            if key.grant is None or zone not in DOORS:
                continue
            memory = self._memory.get(key.grant.credential_id)
            if memory is not None and memory.armed:
                cases.append(self._case(Action.UNLOCK, key, zone, signals, now_s))
        if not cases:
            return None
        verdict = best_verdict(PROXIMITY_UNLOCK_RULES, cases)
        if not verdict.granted and verdict.credential_id is not None:
            memory = self._memory[verdict.credential_id]
            if memory.refused == verdict.text:
                return None
            memory.refused = verdict.text
        return verdict

    def _leave(
        self,
        keys: Sequence[KeyPresence],
        signals: Signals,
        now_s: float,
        notices: list[Notice],
    ) -> Verdict | None:
        """Lock when the last key that was at the vehicle is gone, and none is inside."""
        here = {key.grant.credential_id: key for key in keys if key.grant is not None}
        if signals.locked is True:
            # Who left a locked vehicle has left: it must not lock in whoever opens it next.
            for credential_id, memory in self._memory.items():
                if self._gone(memory, here.get(credential_id), now_s):
                    memory.close = False
            return None
        if signals.driving or signals.doors_closed is False:
            return None
        leaving = self._leaver(here, now_s)
        if leaving is None:
            return None
        for credential_id, memory in self._memory.items():
            if _inside(memory, here.get(credential_id), now_s):
                if memory.told is not NoticeKind.KEY_INSIDE:
                    memory.told = NoticeKind.KEY_INSIDE
                    notices.append(Notice(kind=memory.told, credential_id=credential_id))
                return None
        return Verdict(
            action=Action.LOCK, code=None, credential_id=leaving, text="no key is at the vehicle"
        )

    def _leaver(self, here: dict[str, KeyPresence], now_s: float) -> str | None:
        """Return a key that was at the vehicle and is gone; None while another is outside of it."""
        leaving = None
        for credential_id, memory in self._memory.items():
            if self._gone(memory, here.get(credential_id), now_s):
                leaving = credential_id if memory.close else leaving
            elif memory.last is not None and memory.last is not Zone.CABIN:
                return None
        return leaving

    @staticmethod
    def _gone(memory: _Memory, key: KeyPresence | None, now_s: float) -> bool:
        """Whether a key is away, or was outside and has not been measured for long."""
        if memory.last is Zone.FAR:
            return True
        if memory.last is Zone.CABIN:
            return False
        if key is None:
            return now_s - memory.seen_s >= LOST_LOCK_S
        measured_s = key.zone.measured_s
        return (
            key.zone.zone is None and measured_s is not None and now_s - measured_s >= LOST_LOCK_S
        )

    def _acted(self, verdict: Verdict) -> None:
        """Remember what is about to be done."""
        if verdict.action is Action.LOCK:
            for memory in self._memory.values():
                memory.close = False
                memory.told = None
        else:
            for memory in self._memory.values():
                memory.armed = False

    def _tell(self, keys: Sequence[KeyPresence]) -> list[Notice]:
        """Return what changed for the holders since it was last said."""
        notices = []
        for key in keys:
            memory = None if key.grant is None else self._memory.get(key.grant.credential_id)
            if key.grant is None or memory is None:
                continue
            kind = None
            if key.trust.level is TrustLevel.SUSPICIOUS:
                kind = NoticeKind.STEP_UP
            elif key.zone.zone is None and memory.last in _OUTSIDE | {Zone.CABIN}:
                kind = NoticeKind.USE_TOUCH
            if kind is None:
                if memory.told is not NoticeKind.KEY_INSIDE or memory.last is not Zone.CABIN:
                    memory.told = None
            elif memory.told is not kind:
                memory.told = kind
                notices.append(Notice(kind=kind, credential_id=key.grant.credential_id))
        return notices


def _counts(key: KeyPresence) -> bool:
    """Whether the key is usable and its place may be used."""
    grant = key.grant
    if key.consent is not True or grant is None:
        return False
    return grant.state is CredentialState.ACTIVE and not grant.expired


def _is_at(key: KeyPresence, zone: Zone) -> bool:
    return key.consent is True and key.zone.zone is zone


def _inside(memory: _Memory, key: KeyPresence | None, now_s: float) -> bool:
    """Whether a key holds the lock open: in the cabin, or last seen there.

    A device that ranging suspects holds nothing open: the safe state is locked.
    """
    if memory.last is not Zone.CABIN:
        return False
    if key is None:
        return now_s - memory.seen_s < ABSENT_HOLD_S
    return key.trust.level is not TrustLevel.SUSPICIOUS
