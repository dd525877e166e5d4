"""The owner pairing window: when a code is issued, tried, locked out, used (specs/pairing.md §2).

The head unit opens it and shows a one-time code; phones try the code, one at a time, over any
transport; the third try that does not pair locks the code out for good. Pure: the caller keeps the
number of tries durably before an answer leaves, and restores the window after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, NoReturn

from dkey.control.rules import Rule, Signals
from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.policy import CODE_MAX_TRIES, CODE_RESENDS_PER_HOUR, CODE_TIMEOUT_MIN

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ATTEMPT_TIMEOUT_S",
    "CODE_TIMEOUT_S",
    "OWNER_PAIRING_RULES",
    "TRANSITIONS",
    "OwnerCase",
    "OwnerInput",
    "OwnerState",
    "OwnerWindow",
]

CODE_TIMEOUT_S: Final = CODE_TIMEOUT_MIN * 60.0
"""A code that nobody began to use within this time is dead (ours; C23)."""
ATTEMPT_TIMEOUT_S: Final = 20.0
"""An attempt that takes longer makes place for the next (ours; security 5, case 29)."""
_HOUR_S: Final = 3600.0


class OwnerState(Enum):
    """States of the window."""

    CLOSED = "closed"
    OPEN = "shows a code"
    BUSY = "an attempt runs"
    PAIRED = "waits for the first use of the key"
    LOCKED = "the code is locked out"
    EXPIRED = "the code was not entered in time"


class OwnerInput(Enum):
    """What moves the window."""

    ISSUE = "a code is issued"
    BEGIN = "an attempt begins"
    TRY = "a try is counted"
    END = "the attempt ends"
    PAIR = "a key is enrolled"
    USED = "the key is used"
    CANCEL = "cancelled"
    TIMEOUT = "time is up"


_S, _I = OwnerState, OwnerInput
TRANSITIONS: Final[dict[tuple[OwnerState, OwnerInput], tuple[OwnerState, ...]]] = {
    (_S.CLOSED, _I.ISSUE): (_S.OPEN,),
    (_S.OPEN, _I.ISSUE): (_S.OPEN,),
    (_S.OPEN, _I.BEGIN): (_S.BUSY,),
    (_S.OPEN, _I.CANCEL): (_S.CLOSED,),
    (_S.OPEN, _I.TIMEOUT): (_S.EXPIRED,),
    (_S.BUSY, _I.TRY): (_S.BUSY,),
    (_S.BUSY, _I.PAIR): (_S.PAIRED,),
    (_S.BUSY, _I.END): (_S.OPEN, _S.PAIRED, _S.LOCKED),
    (_S.BUSY, _I.TIMEOUT): (_S.OPEN, _S.PAIRED, _S.LOCKED),
    (_S.BUSY, _I.CANCEL): (_S.CLOSED,),
    (_S.PAIRED, _I.BEGIN): (_S.BUSY,),
    (_S.PAIRED, _I.ISSUE): (_S.OPEN,),
    (_S.PAIRED, _I.USED): (_S.CLOSED,),
    (_S.PAIRED, _I.CANCEL): (_S.CLOSED,),
    (_S.PAIRED, _I.TIMEOUT): (_S.CLOSED,),
    (_S.LOCKED, _I.ISSUE): (_S.OPEN,),
    (_S.LOCKED, _I.CANCEL): (_S.CLOSED,),
    (_S.EXPIRED, _I.ISSUE): (_S.OPEN,),
    (_S.EXPIRED, _I.CANCEL): (_S.CLOSED,),
}
"""Every pair that is not listed is refused and changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerCase:
    """What the rules look at.

    Attributes:
        linked: An owner's key was used since the last factory reset, and was not revoked.
        signals: The body now; None when nothing is known.
    """

    linked: bool
    signals: Signals | None

    @property
    def known(self) -> Signals:
        """The signals, unknown ones included."""
        return self.signals or Signals()


OWNER_PAIRING_RULES: Final[tuple[Rule[OwnerCase], ...]] = (
    Rule(
        code=RefusalCode.ALREADY_LINKED,
        source="S38, S125",
        text="the vehicle has an owner; a factory reset at the head unit releases it",
        holds=lambda case: case.linked,
    ),
    Rule(
        code=RefusalCode.IGNITION_OFF,
        source="S80",
        text="the ignition is off, or not known to be on",
        holds=lambda case: case.known.ignition_on is not True,
    ),
    Rule(
        code=RefusalCode.DRIVING,
        source="S98, C9",
        text="the vehicle is driving, or not known to stand",
        holds=lambda case: case.known.driving,
    ),
    Rule(
        code=RefusalCode.SERVICE_MODE,
        source="S73",
        text="the vehicle is in service mode, or not known to be out of it",
        holds=lambda case: case.known.service_mode is not False,
    ),
    Rule(
        code=RefusalCode.VALET,
        source="S103",
        text="the vehicle is in valet mode, or not known to be out of it",
        holds=lambda case: case.known.valet is not False,
    ),
)
"""Refusals in order; asked when a code is issued, an attempt begins, a try counts, a key comes."""


def _check(case: OwnerCase) -> None:
    for rule in OWNER_PAIRING_RULES:
        if rule.holds(case):
            raise PolicyRefusal(rule.code, rule.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerWindow:
    """An immutable window; each input returns the next one.

    Attributes:
        state: Where the pairing stands.
        tries: How many tries of this code were counted.
        deadline_s: Monotonic time at which the code, or the wait, is over; None when there is none.
        attempt: Number of the last attempt; it makes a late one harmless.
        attempt_deadline_s: Monotonic time at which the attempt is over; None when none runs.
        paired: Credential id that this code enrolled; None before.
    """

    state: OwnerState = OwnerState.CLOSED
    tries: int = 0
    deadline_s: float | None = None
    attempt: int = 0
    attempt_deadline_s: float | None = None
    paired: str | None = None

    @classmethod
    def restored(cls, *, tries: int, age_s: float, paired: str | None, now_s: float) -> OwnerWindow:
        """Return the window of a code that was neither cancelled nor replaced, after a restart.

        Args:
            tries: As kept.
            age_s: Time since the code was issued; below zero when the clock went back, which
                ends the code.
            paired: As kept.
            now_s: Monotonic time.
        """
        fresh = 0.0 <= age_s <= CODE_TIMEOUT_S
        window = cls(tries=tries, deadline_s=now_s + CODE_TIMEOUT_S - age_s, paired=paired)
        if paired is not None:
            return replace(window, state=_S.PAIRED) if fresh else cls()
        if tries >= CODE_MAX_TRIES:
            return replace(window, state=_S.LOCKED, deadline_s=None)
        if not fresh:
            return replace(window, state=_S.EXPIRED, deadline_s=None)
        return replace(window, state=_S.OPEN)

    def issue(self, case: OwnerCase, *, ages_s: Sequence[float], now_s: float) -> OwnerWindow:
        """Issue a code at the head unit's request; it takes the place of an earlier one.

        Args:
            case: The vehicle now.
            ages_s: Time since each earlier code was issued; below zero counts as just now.
            now_s: Monotonic time.

        Raises:
            PolicyRefusal: By the rules; NOT_AUTHORISED while an attempt runs; TOO_SOON, the hour
                has had its codes.
        """
        _check(case)
        self._require(_I.ISSUE)
        recent = sorted(max(0.0, age) for age in ages_s if not age >= _HOUR_S)
        if len(recent) > CODE_RESENDS_PER_HOUR:
            raise PolicyRefusal(
                RefusalCode.TOO_SOON,
                f"{len(recent)} codes were issued within the hour",
                remaining_s=_HOUR_S - recent[CODE_RESENDS_PER_HOUR],
            )
        return OwnerWindow(state=_S.OPEN, deadline_s=now_s + CODE_TIMEOUT_S, attempt=self.attempt)

    def begin(self, case: OwnerCase, *, now_s: float) -> OwnerWindow:
        """Let a phone begin an attempt; the number of the returned window is its own.

        Raises:
            PolicyRefusal: By the rules and the state; the window stays as it is.
        """
        if case.linked:
            _check(case)
        self._require(_I.BEGIN)
        _check(case)
        if self.tries >= CODE_MAX_TRIES:
            raise _locked_out()
        return replace(
            self,
            state=_S.BUSY,
            attempt=self.attempt + 1,
            attempt_deadline_s=now_s + ATTEMPT_TIMEOUT_S,
        )

    def count(self, attempt: int, case: OwnerCase, *, now_s: float) -> OwnerWindow:
        """Count a try; the caller keeps it before the answer leaves.

        Raises:
            PolicyRefusal: The attempt is over, the code is locked out or too old, or by the rules.
        """
        self._require_current(attempt, _I.TRY, case, now_s)
        if self.tries >= CODE_MAX_TRIES:
            raise _locked_out()
        if self.deadline_s is None or now_s > self.deadline_s:
            raise _timed_out()
        return replace(self, tries=self.tries + 1)

    def pair(
        self, attempt: int, case: OwnerCase, *, credential_id: str, now_s: float
    ) -> OwnerWindow:
        """Enrol a key whose holder proved the code.

        The code stays good for this one key until its time is up, for a phone that was torn away
        before it learned of its luck.

        Raises:
            PolicyRefusal: The attempt is over, the code enrolled another key, or by the rules.
        """
        self._require_current(attempt, _I.PAIR, case, now_s)
        if self.paired not in (None, credential_id):
            raise PolicyRefusal(
                RefusalCode.ALREADY_LINKED,
                "this code has enrolled another key",
                hint="let the head unit issue a new code",
            )
        return replace(self, state=_S.PAIRED, attempt_deadline_s=None, paired=credential_id)

    def end(self, attempt: int) -> OwnerWindow:
        """End an attempt that did not pair; one that is over already changes nothing."""
        if self.state is not _S.BUSY or attempt != self.attempt:
            return self
        if self.paired is not None:
            return replace(self, state=_S.PAIRED, attempt_deadline_s=None)
        if self.tries >= CODE_MAX_TRIES:
            return replace(self, state=_S.LOCKED, attempt_deadline_s=None, deadline_s=None)
        return replace(self, state=_S.OPEN, attempt_deadline_s=None)

    def used(self) -> OwnerWindow:
        """The enrolled key was used: the window closes."""
        return OwnerWindow(attempt=self.attempt) if self.state is _S.PAIRED else self

    def cancel(self) -> OwnerWindow:
        """Close at the head unit; a closed window stays closed."""
        return self if self.state is _S.CLOSED else OwnerWindow(attempt=self.attempt)

    def tick(self, *, now_s: float) -> OwnerWindow:
        """Return the window at this time."""
        window = self
        if window.attempt_deadline_s is not None and now_s > window.attempt_deadline_s:
            window = window.end(window.attempt)
        if window.deadline_s is None or now_s <= window.deadline_s:
            return window
        if window.state is _S.OPEN:
            return replace(window, state=_S.EXPIRED, deadline_s=None)
        return OwnerWindow(attempt=self.attempt) if window.state is _S.PAIRED else window

    def _require_current(
        self, attempt: int, event: OwnerInput, case: OwnerCase, now_s: float
    ) -> None:
        late = self.attempt_deadline_s is None or now_s > self.attempt_deadline_s
        if self.state is not _S.BUSY or attempt != self.attempt or late:
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                f"{event.value}, but this attempt is over",
                hint="begin a new pairing",
            )
        _check(case)

    def _require(self, event: OwnerInput) -> None:
        if (self.state, event) not in TRANSITIONS:
            self._refuse(event)

    def _refuse(self, event: OwnerInput) -> NoReturn:
        if self.state is _S.LOCKED:
            raise _locked_out()
        if self.state is _S.EXPIRED:
            raise _timed_out()
        text = "no pairing window is open" if self.state is _S.CLOSED else self.state.value
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED,
            f"{event.value}, but {text}",
            hint="open the window at the head unit, one phone at a time",
        )


def _locked_out() -> PolicyRefusal:
    return PolicyRefusal(
        RefusalCode.CODE_LOCKED_OUT,
        f"the code was tried {CODE_MAX_TRIES} times",
        hint="let the head unit issue a new code",
    )


def _timed_out() -> PolicyRefusal:
    return PolicyRefusal(
        RefusalCode.CODE_TIMEOUT,
        f"the code was not entered within {CODE_TIMEOUT_S:g} s",
        hint="let the head unit issue a new code",
    )
