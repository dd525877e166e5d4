"""The rule tables of proximity: what a key's zone lets it do (specs/proximity.md §6).

As at touch: a table is walked from the top, the first rule that holds is the one reason of the
refusal, and an unknown signal counts as its worst value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dkey.control.rules import Action, Grant, Rule, Signals, Verdict, state_rules
from dkey.errors import RefusalCode
from dkey.lifecycle.policy import START_DWELL_S
from dkey.lifecycle.roles import Permission, Role
from dkey.ranging.gate import Trust, TrustLevel
from dkey.ranging.zones import ZoneState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dkey.ranging.layout import Zone

__all__ = [
    "PROXIMITY_START_RULES",
    "PROXIMITY_UNLOCK_RULES",
    "KeyPresence",
    "ProximityCase",
    "best_verdict",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPresence:
    """One key whose device has a session with the vehicle.

    Attributes:
        grant: The credential that the session authenticated; None when it is not enrolled.
        zone: Where ranging places it, as of now.
        trust: What the trust gate thinks of that, as of now.
        standard: Whether a standard transaction was run in this session.
        consent: Whether its holder consents to being located (S148).
        able: Whether the device said at its enrolment that it is able to this (S17, S21).
    """

    grant: Grant | None
    zone: ZoneState = field(default_factory=ZoneState)
    trust: Trust = field(default_factory=lambda: Trust(level=TrustLevel.DOUBTFUL))
    standard: bool = False
    consent: bool = False
    able: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProximityCase:
    """What the rules look at.

    Attributes:
        wanted: UNLOCK or START.
        at: The zone that the action needs.
        supported: Whether this vehicle has proximity at all.
    """

    wanted: Action
    key: KeyPresence
    at: Zone
    signals: Signals
    now_s: float
    supported: bool = True


_COMMON: Final[tuple[Rule[ProximityCase], ...]] = (
    Rule(
        code=RefusalCode.FEATURE_NOT_SUPPORTED,
        source="S16, S17",
        text="this vehicle, or this device, works by touch only",
        holds=lambda case: case.supported is not True or case.key.able is not True,
    ),
    Rule(
        code=RefusalCode.KEY_UNKNOWN,
        source="S2, S122",
        text="the credential is not enrolled in this vehicle",
        holds=lambda case: case.key.grant is None,
    ),
    Rule(
        code=RefusalCode.FEATURE_NOT_SUPPORTED,
        source="S13",
        text="a card has no proximity function",
        holds=lambda case: case.key.grant is not None and case.key.grant.role is Role.CARD,
    ),
    *state_rules(lambda case: case.key.grant),
    Rule(
        code=RefusalCode.CONSENT_MISSING,
        source="S148",
        text="the holder does not consent to being located; touch works",
        holds=lambda case: case.key.consent is not True,
    ),
    Rule(
        code=RefusalCode.STANDARD_REQUIRED,
        source="security 5, case 22",
        text="ranging was suspicious: run a standard transaction, then act at the device",
        holds=lambda case: case.key.trust.level is TrustLevel.SUSPICIOUS,
    ),
    Rule(
        code=RefusalCode.OUT_OF_ZONE,
        source="S24, ours",
        text="the device is not located; touch works",
        holds=lambda case: case.key.zone.zone is None,
    ),
    Rule(
        code=RefusalCode.OUT_OF_ZONE,
        source="S13, S14",
        text="the device is not in the zone that this needs",
        holds=lambda case: case.key.zone.zone is not case.at,
    ),
    Rule(
        code=RefusalCode.OUT_OF_ZONE,
        source="ours (design 4: doubtful data may lock, never unlock or start)",
        text="the device's position is in doubt; touch works",
        holds=lambda case: case.key.trust.level is not TrustLevel.TRUSTED,
    ),
)
_DRIVING: Final[Rule[ProximityCase]] = Rule(
    code=RefusalCode.DRIVING,
    source="C7, C9",
    text="the vehicle is driving, or not known to stand",
    holds=lambda case: case.signals.driving,
)

PROXIMITY_UNLOCK_RULES: Final[tuple[Rule[ProximityCase], ...]] = (
    *_COMMON,
    _DRIVING,
    Rule(
        code=RefusalCode.DOOR_NOT_LOCKED,
        source="ours (design 4: doubtful data may lock, never unlock)",
        text="the lock state is unknown, so nothing but locking passes",
        holds=lambda case: case.signals.locked is None,
    ),
)
"""Refusals of unlocking by proximity, in order. Ignition on is no reason against it (C10)."""

PROXIMITY_START_RULES: Final[tuple[Rule[ProximityCase], ...]] = (
    *_COMMON,
    Rule(
        code=RefusalCode.OUT_OF_ZONE,
        source="ours (S14)",
        text=f"the device is in the cabin for less than {START_DWELL_S:g} s",
        holds=lambda case: not case.now_s >= case.key.zone.since_s + START_DWELL_S,
    ),
    Rule(
        code=RefusalCode.PERMISSION_ENTRY_ONLY,
        source="S43, S47, C37",
        text="the credential may lock and unlock, not start",
        holds=lambda case: (
            case.key.grant is not None
            and case.key.grant.permission is not Permission.ENTRY_AND_START
        ),
    ),
    Rule(
        code=RefusalCode.STANDARD_REQUIRED,
        source="security 5, case 5",
        text="a fast transaction never authorises start",
        holds=lambda case: case.key.standard is not True,
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
"""Refusals of starting by proximity, in order."""


def best_verdict(rules: Sequence[Rule[ProximityCase]], cases: Sequence[ProximityCase]) -> Verdict:
    """Return the first granted case, or the refusal of the case that came furthest.

    The text carries the coarse zone and nothing else of what was measured (S146).
    """
    furthest: tuple[int, Verdict] | None = None
    for case in cases:
        grant, zone = case.key.grant, case.key.zone.zone
        credential_id = grant.credential_id if grant is not None else None
        # Where somebody is that does not consent to being located is nobody's business.
        place = f" (zone {zone})" if zone is not None and case.key.consent is True else ""
        for step, rule in enumerate(rules):
            if rule.holds(case):
                if furthest is None or step > furthest[0]:
                    refusal = Verdict(
                        action=None,
                        code=rule.code,
                        credential_id=credential_id,
                        text=rule.text + place,
                    )
                    furthest = step, refusal
                break
        else:
            return Verdict(
                action=case.wanted, code=None, credential_id=credential_id, text=place.strip(" ()")
            )
    if furthest is not None:
        return furthest[1]
    return Verdict(
        action=None, code=RefusalCode.OUT_OF_ZONE, credential_id=None, text="no key is near"
    )
