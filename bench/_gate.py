"""What each check of the trust gate is worth: forged rounds trusted, genuine rounds not trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from _channel import CHANNELS, SESSION, as_round, clocks_of, measure
from _report import Figure, progress, spread

from dkey.ranging.gate import GateSettings, TrustGate, TrustLevel
from dkey.ranging.layouts import shipped_layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.ranging.measurement import AnchorRange, RangingRound

__all__ = ["gate_rows"]

BLOCK_S = 0.096
SUCCESS = 0.04
"""Share of rounds in which the attacker succeeds: the most that Ghost Peak reports."""
AWAY = (8.0, 9.0)
PARTS = 4
_OFF = GateSettings(
    session=False,
    freshness=False,
    static_sts=False,
    plausibility=False,
    agreement=False,
    speed=False,
    geometry=False,
    clock_ratio=False,
)
ROWS = {
    "STS status alone": _OFF,
    "and agreement": replace(_OFF, agreement=True),
    "and speed": replace(_OFF, speed=True),
    "and geometry": replace(_OFF, geometry=True),
    "and clock ratio": replace(_OFF, clock_ratio=True),
    "all checks": GateSettings(),
}


@dataclass(slots=True)
class Outcome:
    """Rounds that were forged and trusted, forged, genuine and not trusted, genuine."""

    accepted: int = 0
    forged: int = 0
    rejected: int = 0
    genuine: int = 0


def _all_shorter(each: AnchorRange, _: np.random.Generator) -> AnchorRange:
    """Early FINAL frames at every anchor, each by its own 33 to 41 chips (12 m to 2 m or less)."""
    assert each.distance_cm is not None
    return replace(each, distance_cm=each.distance_cm - 1000)


def _one_shorter(each: AnchorRange, chance: np.random.Generator) -> AnchorRange:
    """An early frame at one anchor, which shows in its clock ratio."""
    if each.anchor != 0:
        return each
    assert each.distance_cm is not None
    advance_ns = 2.003 * float(chance.integers(33, 42))
    ratio = None if each.clock_ratio_ppb is None else each.clock_ratio_ppb + advance_ns / 12e-3
    return replace(each, distance_cm=each.distance_cm - 1000, clock_ratio_ppb=ratio)


ATTACKS: dict[str, Callable[[AnchorRange, np.random.Generator], AnchorRange]] = {
    "all anchors 10 m shorter": _all_shorter,
    "one anchor 10 m shorter": _one_shorter,
}


def _rounds(blocks: int, chance: np.random.Generator) -> list[RangingRound]:
    layout = shipped_layout("saloon")
    at = np.tile(np.array(AWAY), (blocks, 1))
    ours, theirs = clocks_of(layout, 1, chance)
    clocks = np.repeat(ours, blocks, 0), np.repeat(theirs, blocks, 0)
    still = np.zeros(blocks)
    metres, ratios = measure(layout, CHANNELS["plain"], at, still, still + 1.0, clocks, chance)
    return [as_round(n, n * BLOCK_S, metres[n], ratios[n]) for n in range(blocks)]


def _play(
    settings: GateSettings,
    forge: Callable[[AnchorRange, np.random.Generator], AnchorRange],
    rounds: list[RangingRound],
    chance: np.random.Generator,
) -> Outcome:
    """Play one attack; whoever raised suspicion steps up at once, so that each try counts."""
    gate, outcome, since = TrustGate(shipped_layout("saloon"), SESSION, settings), Outcome(), 0
    for measured in rounds:
        forged = chance.random() < SUCCESS
        shown = measured
        if forged:
            ranges = tuple(
                each if each.distance_cm is None else forge(each, chance)
                for each in measured.ranges
            )
            shown = replace(measured, ranges=ranges)
        trust = gate.update(shown)
        changed = {a.anchor for a, b in zip(shown.ranges, measured.ranges, strict=True) if a != b}
        trusted = trust.level is TrustLevel.TRUSTED
        if changed:
            outcome.forged += 1
            outcome.accepted += trusted and not changed.isdisjoint(trust.anchors)
            since = 0
        else:
            since += 1
            if since > settings.window:  # what an attack left behind is not the genuine rounds'
                outcome.genuine += 1
                outcome.rejected += not trusted
        if trust.level is TrustLevel.SUSPICIOUS:
            gate.stepped_up(standard=True, user_action=True)
    return outcome


def gate_rows(blocks: int) -> list[Figure]:
    """Return one figure for each attack and setting; the rows of all checks are judged."""
    progress(f"trust gate: {len(ROWS)} settings, {len(ATTACKS)} attacks, {blocks} blocks each")
    figures = []
    parts = [_rounds(blocks // PARTS, np.random.default_rng(41 + part)) for part in range(PARTS)]
    for attack, forge in ATTACKS.items():
        for name, settings in ROWS.items():
            played = [
                _play(settings, forge, rounds, np.random.default_rng(51 + part))
                for part, rounds in enumerate(parts)
            ]
            forged = sum(each.forged for each in played)
            genuine = sum(each.genuine for each in played)
            rejected = sum(each.rejected for each in played)
            figures.append(
                Figure(
                    name=f"gate, {attack}: {name}",
                    value=sum(each.accepted for each in played) / forged,
                    unit="share",
                    floor="forged rounds that were trusted and moved the position",
                    limit=0.0 if name == "all checks" else None,
                    samples=forged,
                    spread=spread([each.accepted / each.forged for each in played]),
                    note=f"genuine rounds not trusted: {rejected} of {genuine}",
                )
            )
    return figures
