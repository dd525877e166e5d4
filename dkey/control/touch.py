"""Touch decisions: what a key held to the door handle or laid on the console pad may do.

Pure: signals and monotonic seconds come in, a verdict comes out. Every decision walks one of
three tables (:data:`HANDLE_RULES`, :data:`START_RULES`, :data:`CARD_PAIRING_RULES`) from the top;
the first rule that holds is the one reason of the refusal. An unknown signal counts as its worst
value, so it may let a door lock, and never lets one unlock or an engine start (specs/touch.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.policy import INITIAL_CARDS, MAX_CARDS, PAD_GRACE_S, TAP_DEBOUNCE_S
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

CaseT = TypeVar("CaseT")


class Position(StrEnum):
    """Where a reader sits; what a transaction may do depends on it (requirements S11, S12)."""

    DOOR_HANDLE = "DOOR_HANDLE"
    CONSOLE_PAD = "CONSOLE_PAD"


class Intent(StrEnum):
    """What the device asks for at the handle; a bare tap carries none (requirements C35)."""

    LOCK = "LOCK"
    UNLOCK = "UNLOCK"


class Action(StrEnum):
    """What the vehicle shall do."""

    LOCK = "LOCK"
    UNLOCK = "UNLOCK"
    AUTHORISE_START = "AUTHORISE_START"
    """The START button may be pressed; nothing moves yet."""
    START = "START"


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
    """The credential that a transaction authenticated, with its rights as enrolled now."""

    credential_id: str
    name: str
    role: Role
    permission: Permission
    state: CredentialState


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledCard:
    """One card that the vehicle knows or knew."""

    credential_id: str
    provenance: CardProvenance
    state: CredentialState

    @property
    def holds_place(self) -> bool:
        """Active, or suspended and so able to become active again."""
        return self.state in (CredentialState.ACTIVE, CredentialState.SUSPENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Either an action or the one reason against it.

    Attributes:
        action: What to do; None when refused.
        code: Why not; None when granted.
        credential_id: The acting key, for the event log (S141); None when there is none.
        remaining_s: Seconds until the same request may pass, where time is the reason.
        text: The rule that refused, in words.
    """

    action: Action | None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPairingCase:
    """What the card pairing rules look at; ``replaces`` is a credential id."""

    owner: Grant | None
    signals: Signals
    cards: Sequence[EnrolledCard]
    provenance: CardProvenance
    replaces: str | None
    fast: bool

    @property
    def replaced(self) -> EnrolledCard | None:
        """The card to be replaced, if it is known."""
        return next((c for c in self.cards if c.credential_id == self.replaces), None)

    @property
    def places_taken(self) -> int:
        """Places of the cards that stay."""
        return sum(c.holds_place and c.credential_id != self.replaces for c in self.cards)

    @property
    def initial_cards(self) -> int:
        """Initial cards that this vehicle ever had."""
        return sum(c.provenance is CardProvenance.INITIAL for c in self.cards)


def _state_rules(grant_of: Callable[[CaseT], Grant | None]) -> tuple[Rule[CaseT], ...]:
    """Return the rules on the credential's own state, which come before any other reason."""

    def has(case: CaseT, state: CredentialState) -> bool:
        grant = grant_of(case)
        return grant is not None and grant.state is state

    def is_inactive(case: CaseT) -> bool:
        grant = grant_of(case)
        return grant is not None and grant.state is not CredentialState.ACTIVE

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
    )


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
    *_state_rules(lambda case: case.grant),
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
    *_state_rules(lambda case: case.grant),
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

CARD_PAIRING_RULES: Final[tuple[Rule[CardPairingCase], ...]] = (
    *_state_rules(lambda case: case.owner),
    Rule(
        code=RefusalCode.NOT_AUTHORISED,
        source="C32; security 5, case 24",
        text="no credential of the owner is present",
        holds=lambda case: case.owner is None or case.owner.role is not Role.OWNER,
    ),
    Rule(
        code=RefusalCode.NOT_AUTHORISED,
        source="security 5, cases 5 and 24",
        text="the owner authenticated by a fast transaction, which authorises no pairing",
        holds=lambda case: case.fast is not False,
    ),
    Rule(
        code=RefusalCode.IGNITION_OFF,
        source="C32",
        text="the ignition is off, or not known to be on",
        holds=lambda case: case.signals.ignition_on is not True,
    ),
    Rule(
        code=RefusalCode.DRIVING,
        source="S98, C9",
        text="the vehicle is driving, or not known to stand",
        holds=lambda case: case.signals.driving,
    ),
    Rule(
        code=RefusalCode.SERVICE_MODE,
        source="S73",
        text="the vehicle is in service mode, or not known to be out of it",
        holds=lambda case: case.signals.service_mode is not False,
    ),
    Rule(
        code=RefusalCode.VALET,
        source="S103",
        text="the vehicle is in valet mode, or not known to be out of it",
        holds=lambda case: case.signals.valet is not False,
    ),
    Rule(
        code=RefusalCode.KEY_UNKNOWN,
        source="ours",
        text="the card to replace is not enrolled in this vehicle",
        holds=lambda case: case.replaces is not None and case.replaced is None,
    ),
    Rule(
        code=RefusalCode.CARD_BLOCKED,
        source="S25",
        text="the card to replace is already out of use",
        holds=lambda case: case.replaced is not None and not case.replaced.holds_place,
    ),
    Rule(
        code=RefusalCode.CARD_LIMIT,
        source="S34, C32",
        text=f"{MAX_CARDS} cards are paired already",
        holds=lambda case: case.places_taken >= MAX_CARDS,
    ),
    Rule(
        code=RefusalCode.CARD_LIMIT,
        source="S34",
        text="the vehicle had its initial card; further cards are purchased ones",
        holds=lambda case: (
            case.provenance is CardProvenance.INITIAL and case.initial_cards >= INITIAL_CARDS
        ),
    ),
)
"""Refusals of pairing a card, in order."""

_PAIRING_HINTS: Final = {
    RefusalCode.NOT_AUTHORISED: "lay the owner's phone on the console pad first",
    RefusalCode.IGNITION_OFF: "switch the ignition on and stay parked",
    RefusalCode.DRIVING: "park the vehicle",
    RefusalCode.SERVICE_MODE: "end the service mode",
    RefusalCode.VALET: "end the valet mode",
    RefusalCode.KEY_UNKNOWN: "list the paired cards and name one of them",
    RefusalCode.CARD_LIMIT: "replace a paired card by a purchased one, or revoke one",
}


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


def decide_handle(  # noqa: PLR0913 - a decision takes all it looks at
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


def decide_card_pairing(  # noqa: PLR0913 - a decision takes all it looks at
    owner: Grant | None,
    *,
    signals: Signals | None,
    cards: Sequence[EnrolledCard],
    provenance: CardProvenance,
    replaces: str | None,
    fast: bool,
) -> None:
    """Return if a card may be paired now, by :data:`CARD_PAIRING_RULES` (C32).

    Args:
        owner: The credential that authenticated on the pad; None when there is none.
        signals: The body now; None when nothing is known.
        cards: Every card this vehicle ever had, whatever its state.
        provenance: Where the new card came from.
        replaces: Credential id of the card whose place it takes; None when it takes a free one.
        fast: Whether ``owner`` authenticated by a fast transaction.

    Raises:
        PolicyRefusal: With the code of the first rule that holds.
    """
    case = CardPairingCase(
        owner=owner,
        signals=signals or Signals(),
        cards=cards,
        provenance=provenance,
        replaces=replaces,
        fast=fast,
    )
    for rule in CARD_PAIRING_RULES:
        if rule.holds(case):
            raise PolicyRefusal(rule.code, rule.text, hint=_PAIRING_HINTS.get(rule.code))
