"""The trust gate: may the decisions believe what ranging says?

One gate watches one ranging session, round by round. Every check can be switched off by itself, so
that a bench can show what each is worth. What a check finds makes an anchor useless for this round,
the round doubtful, or the session suspicious. Suspicion stays until the key ran a standard
transaction and its holder acted (specs/proximity.md §5).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from math import inf, isfinite
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dkey.ranging.layout import Layout
    from dkey.ranging.measurement import AnchorRange, RangingRound

__all__ = ["STS_FAILURES", "GateSettings", "Reason", "Trust", "TrustGate", "TrustLevel"]

GOOD: Final = 0x00
NEGATIVE: Final = 0x1B
"""Good, but the distance is negative (FiRa UCI)."""
STS_FAILURES: Final = frozenset({0x24, 0xE1})
"""RX_PHY_STS_FAILED, and a vendor's failed STS consistency check."""


class TrustLevel(IntEnum):
    """How far the measurements may carry a decision."""

    SUSPICIOUS = 0
    """Signs of an attack: nothing but locking until the key stepped up."""
    DOUBTFUL = 1
    """Too little to go by: may lock, never unlock or start."""
    TRUSTED = 2


class Reason(StrEnum):
    """What a check found."""

    NO_ROUND = "NO_ROUND"
    """Nothing was measured yet."""
    STALE = "STALE"
    STATIC_STS = "STATIC_STS"
    WRONG_SESSION = "WRONG_SESSION"
    REPLAYED = "REPLAYED"
    """An STS index or block came again, or went back."""
    CLOCK_WENT_BACK = "CLOCK_WENT_BACK"
    STS_FAILED = "STS_FAILED"
    IMPLAUSIBLE = "IMPLAUSIBLE"
    """A negative distance, one beyond any radio's reach, or an anchor that is not there."""
    JUMP = "JUMP"
    """The device came closer faster than anyone moves."""
    INCONSISTENT = "INCONSISTENT"
    """One anchor is too close for what the others measure."""
    CLOCK_RATIO = "CLOCK_RATIO"
    """A frame arrived too early by the two clocks."""
    NO_AGREEMENT = "NO_AGREEMENT"
    """Too few consecutive rounds agree."""
    FEW_ANCHORS = "FEW_ANCHORS"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Which checks run, and their thresholds; all of them *ours* (specs/proximity.md §5).

    Attributes:
        session: Refuse rounds of another session.
        freshness: STS indices and blocks must rise.
        static_sts: A static STS is never trusted.
        sts_status: Heed failed STS checks.
        plausibility: Distances must be possible.
        agreement: Consecutive rounds must agree.
        speed: Nobody moves faster than ``max_speed_m_s``.
        geometry: Anchors must agree with one another.
        clock_ratio: Heed the ratio of clocks.
        rounds: So many consecutive rounds must agree.
        min_anchors: Good anchors that a round needs.
        max_age_s: A round older than this carries no decision.
        hold_s: For this long after a trusted round, one with too few anchors, or one that does not
            agree, is left out and no reason to doubt.
        min_distance_cm: More negative than noise and calibration explain.
        max_distance_cm: Beyond this there is no UWB link.
        max_speed_m_s: Of a device.
        step_m: By how much a range may differ beyond that speed, and still agree.
        jump_m: By how much the device or an anchor's range may come closer before it is an attack.
        slack_m: By how much two anchors may contradict each other.
        clock_sd_ppb: Noise of one clock ratio (200 ps over 12 ms).
        clock_sigmas: Threshold in units of that.
        clock_weight: Weight of a new ratio in the running mean.
        window: Rounds over which failures are counted.
        failures: So many rounds with failures within the window are suspicious.
    """

    session: bool = True
    freshness: bool = True
    static_sts: bool = True
    sts_status: bool = True
    plausibility: bool = True
    agreement: bool = True
    speed: bool = True
    geometry: bool = True
    clock_ratio: bool = True
    rounds: int = 3
    min_anchors: int = 3
    max_age_s: float = 1.0
    hold_s: float = 0.3
    min_distance_cm: float = -30.0
    max_distance_cm: float = 10_000.0
    max_speed_m_s: float = 3.0
    step_m: float = 0.5
    jump_m: float = 4.0
    slack_m: float = 0.5
    clock_sd_ppb: float = 18.0
    clock_sigmas: float = 5.0
    clock_weight: float = 0.3
    window: int = 20
    failures: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The gate's word on the last round.

    Attributes:
        reasons: Why it is not trusted, or what was found while it is; in the order of the checks.
        anchors: Anchors whose ranges may be used for a position.
    """

    level: TrustLevel
    reasons: tuple[Reason, ...] = ()
    anchors: frozenset[int] = frozenset()


UNMEASURED: Final = Trust(level=TrustLevel.DOUBTFUL, reasons=(Reason.NO_ROUND,))


class TrustGate:
    """Watches one session of one device.

    Args:
        layout: The vehicle.
        session_id: The session that the transaction's ranging key opened.
        settings: Checks and thresholds.
    """

    def __init__(
        self, layout: Layout, session_id: int, settings: GateSettings | None = None
    ) -> None:
        self.settings = settings or GateSettings()
        self._session_id = session_id
        self._places = [(each.x_m, each.y_m, each.z_m) for each in layout.anchors]
        self._apart = [[_distance(a, b) for b in self._places] for a in self._places]
        self._suspicions: list[Reason] = []
        self._trust = UNMEASURED
        self._last: RangingRound | None = None
        self._forget()

    def _forget(self) -> None:
        count = len(self._places)
        self._ranges: list[tuple[float, float] | None] = [None] * count
        self._medians: deque[tuple[float, float]] = deque(maxlen=3)
        self._clock: list[float | None] = [None] * count
        self._clock_rounds = [0] * count
        self._nearer = False
        self._failed: deque[bool] = deque(maxlen=self.settings.window)
        self._agreed = 0
        self._trusted_s = -inf

    @property
    def suspicions(self) -> tuple[Reason, ...]:
        """What made the session suspicious since the key last stepped up, each once."""
        return tuple(self._suspicions)

    def trust(self, now_s: float) -> Trust:
        """Return the word on the last round as of now: a stale one is doubtful."""
        last = self._last
        if last is None or self._trust.level is not TrustLevel.TRUSTED:
            return self._trust
        if not 0 <= now_s - last.at_s <= self.settings.max_age_s:
            return Trust(level=TrustLevel.DOUBTFUL, reasons=(*self._trust.reasons, Reason.STALE))
        return self._trust

    def stepped_up(self, *, standard: bool, user_action: bool) -> bool:
        """End the suspicion if both happened since it began; ranging then begins anew."""
        if not (standard and user_action):
            return False
        self._suspicions.clear()
        self._forget()
        self._trust = UNMEASURED
        return True

    def update(self, measured: RangingRound) -> Trust:
        """Take the next round and return the word on it."""
        found: dict[Reason, None] = {}  # a set that keeps its order
        self._nearer = False
        if self._admissible(measured, found):
            good = self._good(measured, found)
            good = self._consistent(good, found)
            few = len(good) < self.settings.min_anchors
            if not few and self._approach(good, measured.at_s, found):
                good = self._agree(good, measured.at_s, found)
            if Reason.JUMP in found:
                good = {}
            if few:
                # Says nothing against the rounds before, which carry on for a moment.
                found[Reason.FEW_ANCHORS] = None
                good = {}
            # Where no anchor verifies, the ends lost one another, or somebody jams.
            verified = any(each.status in (GOOD, NEGATIVE) for each in measured.ranges)
            self._failed.append((Reason.STS_FAILED in found and verified) or self._nearer)
            if sum(self._failed) >= self.settings.failures:
                self._suspect(
                    Reason.STS_FAILED if Reason.STS_FAILED in found else Reason.CLOCK_RATIO
                )
            self._last = measured
        else:
            good = {}
            self._agreed, self._trusted_s = 0, -inf
        self._trust = self._judge(found, good, measured.at_s)
        return self._trust

    def _judge(self, found: dict[Reason, None], good: dict[int, float], at_s: float) -> Trust:
        level = TrustLevel.TRUSTED
        if self._suspicions:
            level = TrustLevel.SUSPICIOUS
        elif not found.keys().isdisjoint(_DOUBTS):
            level = TrustLevel.DOUBTFUL
        elif Reason.FEW_ANCHORS in found or Reason.NO_AGREEMENT in found:
            if not self._held(at_s):
                level = TrustLevel.DOUBTFUL
        else:
            self._trusted_s = at_s
        reasons = dict.fromkeys([*self._suspicions, *found])
        return Trust(level=level, reasons=tuple(reasons), anchors=frozenset(good))

    def _suspect(self, reason: Reason) -> None:
        if reason not in self._suspicions:
            self._suspicions.append(reason)

    # ---- the round as a whole -------------------------------------------------------------------

    def _admissible(self, measured: RangingRound, found: dict[Reason, None]) -> bool:
        """Whether the round may be looked into at all."""
        settings, last = self.settings, self._last
        if settings.session and measured.session_id != self._session_id:
            found[Reason.WRONG_SESSION] = None
            self._suspect(Reason.WRONG_SESSION)
            return False
        if settings.static_sts and measured.static_sts:
            found[Reason.STATIC_STS] = None
        if last is None:
            return True
        if settings.freshness:
            ahead = (measured.block - last.block) & 0xFFFF
            later = 0 < ahead < 0x8000 or (ahead == 0 and measured.round > last.round)
            if not later or measured.sts_index <= last.sts_index:
                found[Reason.REPLAYED] = None
                self._suspect(Reason.REPLAYED)
                return False
        if not measured.at_s > last.at_s:
            found[Reason.CLOCK_WENT_BACK] = None
            return False
        return True

    # ---- each anchor by itself ------------------------------------------------------------------

    def _good(self, measured: RangingRound, found: dict[Reason, None]) -> dict[int, float]:
        """Return the usable distances in metres by anchor."""
        good: dict[int, float] = {}
        seen: set[int] = set()
        for each in measured.ranges:
            if not 0 <= each.anchor < len(self._places) or each.anchor in seen:
                found[Reason.IMPLAUSIBLE] = None
                self._suspect(Reason.IMPLAUSIBLE)
                continue
            seen.add(each.anchor)
            if self._sound(each, measured.at_s, found):
                assert each.distance_cm is not None
                good[each.anchor] = each.distance_cm / 100
        return good

    def _sound(self, each: AnchorRange, at_s: float, found: dict[Reason, None]) -> bool:
        settings = self.settings
        failed = each.status in STS_FAILURES
        if failed and settings.sts_status:
            found[Reason.STS_FAILED] = None
            return False
        if each.distance_cm is None or (each.status not in (GOOD, NEGATIVE) and not failed):
            return False
        if not isfinite(each.distance_cm):
            found[Reason.IMPLAUSIBLE] = None
            return False
        if settings.plausibility and not (
            settings.min_distance_cm <= each.distance_cm <= settings.max_distance_cm
        ):
            # Attack evidence is never clamped to something possible.
            found[Reason.IMPLAUSIBLE] = None
            self._suspect(Reason.IMPLAUSIBLE)
            return False
        if not settings.clock_ratio or self._in_step(each, found):
            return True
        self._nearer |= self._clock_rounds[each.anchor] > 1 and self._closer(each, at_s)
        return False

    def _closer(self, each: AnchorRange, at_s: float) -> bool:
        """Whether a range is shorter than a walk since the last one explains.

        A first path that was missed in one frame bends the clock ratio as well, but lengthens the
        range: that costs the anchor, and is no sign of an attack.
        """
        assert each.distance_cm is not None
        before, settings = self._ranges[each.anchor], self.settings
        if before is None:
            return True
        return each.distance_cm / 100 < before[1] - settings.max_speed_m_s * (at_s - before[0])

    def _in_step(self, each: AnchorRange, found: dict[Reason, None]) -> bool:
        """Whether the clocks ran as before; an odd ratio leaves the running mean alone."""
        ratio, at, settings = each.clock_ratio_ppb, each.anchor, self.settings
        if ratio is None:
            return True
        base = self._clock[at]
        if not isfinite(ratio):
            found[Reason.CLOCK_RATIO] = None
            return False
        if base is None:
            self._clock[at], self._clock_rounds[at] = ratio, 1
            return True
        rounds = self._clock_rounds[at]
        # The mean of a few rounds is itself uncertain.
        limit = settings.clock_sigmas * settings.clock_sd_ppb * (1 + 1 / rounds) ** 0.5
        if abs(ratio - base) > limit:
            found[Reason.CLOCK_RATIO] = None
            if rounds == 1:
                # Either of the two may be the odd one: the next is compared with this one.
                self._clock[at] = ratio
            return False
        self._clock_rounds[at] = rounds + 1
        weight = max(settings.clock_weight, 1 / (rounds + 1))
        self._clock[at] = base + weight * (ratio - base)
        return True

    # ---- anchors against one another ------------------------------------------------------------

    def _consistent(self, good: dict[int, float], found: dict[Reason, None]) -> dict[int, float]:
        """Drop every anchor that is too close for at least half of the others.

        The difference of two distances cannot exceed the distance of the anchors. A blocked path
        lengthens one range, which then contradicts the others one by one; a shortened range is
        contradicted by most.
        """
        if not self.settings.geometry or len(good) < 3:
            return good
        slack = self.settings.slack_m
        kept = {}
        for at, metres in good.items():
            apart = self._apart[at]
            against = sum(other - metres > apart[i] + slack for i, other in good.items())
            if against and 2 * against >= len(good) - 1:
                found[Reason.INCONSISTENT] = None
            else:
                kept[at] = metres
        return kept

    # ---- rounds against one another -------------------------------------------------------------

    def _approach(self, good: dict[int, float], at_s: float, found: dict[Reason, None]) -> bool:
        """Whether the device came no faster than anyone moves; remembers the middle distance."""
        settings = self.settings
        if not settings.speed:
            return True
        middle = median(good.values())
        slow = True
        if self._medians:
            # The least of the last distances: one lengthened round is no jump back.
            when_s, before = min(self._medians, key=lambda each: each[1])
            nearer = before - middle - settings.max_speed_m_s * (at_s - when_s)
            if nearer > settings.jump_m:
                found[Reason.JUMP] = None
                self._suspect(Reason.JUMP)
                slow = False
            elif nearer > 2 * settings.step_m:
                found[Reason.JUMP] = None
                slow = False
        self._medians.append((at_s, middle))
        if not slow:
            self._agreed, self._trusted_s = 0, -inf
        return slow

    def _agree(
        self, good: dict[int, float], at_s: float, found: dict[Reason, None]
    ) -> dict[int, float]:
        """Count consecutive rounds in which enough anchors agree with what they measured before.

        Return what may be used. For a moment after a trusted round, one that does not agree is
        left out as if it had not been; then agreement begins anew with it.
        """
        settings = self.settings
        if not settings.agreement:
            return good
        agreeing = sum(
            _agrees(metres, at_s, self._ranges[at], settings) for at, metres in good.items()
        )
        if agreeing >= settings.min_anchors:
            self._agreed += 1
        elif self._held(at_s):
            found[Reason.NO_AGREEMENT] = None
            return {}
        else:
            self._agreed = 1
        for at, metres in good.items():
            self._ranges[at] = (at_s, metres)
        if self._agreed < settings.rounds:
            found[Reason.NO_AGREEMENT] = None
        return good

    def _held(self, at_s: float) -> bool:
        """Whether the last trusted round still carries."""
        return at_s - self._trusted_s <= self.settings.hold_s


_DOUBTS: Final = frozenset(
    {
        Reason.STATIC_STS,
        Reason.WRONG_SESSION,
        Reason.REPLAYED,
        Reason.CLOCK_WENT_BACK,
        Reason.JUMP,
    }
)
"""What makes the whole round doubtful; the rest costs single anchors."""


def _agrees(
    metres: float, at_s: float, before: tuple[float, float] | None, settings: GateSettings
) -> bool:
    """Whether a range is within a walk of the last one of its anchor."""
    if before is None or at_s - before[0] > settings.max_age_s:
        return False
    walk_m = settings.step_m + settings.max_speed_m_s * (at_s - before[0])
    return abs(metres - before[1]) <= walk_m


def _distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return float(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5)
