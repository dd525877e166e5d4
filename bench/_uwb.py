"""What receivers and trust gates are worth against early arrivals: one row for each pair.

Two levels (``_uwb_scene.py``): what chip-level receivers made of some thousand frames is what
happens to the frames of event-level rounds, which then go through the whole chain.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from _report import Figure, progress
from _uwb_scene import AWAY_M, FRAMES, POWERS_DB, Cell, attack, genuine_frames, hear, walk_up

from dkey.ranging.gate import GateSettings
from firmware_mock.uwb_receiver import RECEIVERS

if TYPE_CHECKING:
    from _uwb_scene import Heard

__all__ = ["Sizes", "interval", "print_rows", "uwb_figures", "uwb_rows"]

_NONE = GateSettings(
    session=False, freshness=False, static_sts=False, sts_status=True, plausibility=False,
    agreement=False, speed=False, geometry=False, clock_ratio=False,
)  # fmt: skip
ALL_CHECKS = "all checks"
GATES = {
    "STS status alone": _NONE,
    "and 3 rounds agree": replace(_NONE, agreement=True),
    ALL_CHECKS: GateSettings(),
}
_Z = 1.959964
_LEGEND = """
frame: share of frames taken at least 2.4 m early at the worst power, chip level
unlocked: doors that opened at a hand at the handle; 95 % to: upper end for one decision
believed: rounds with a range at least 2.4 m too short that were trusted and used it
benign, hard: genuine rounds not trusted; hard: first paths through the body 12 dB down, each frame
ms, p95: from the door zone entered to the door open; shut: walks that never open, all frames hit
Event level: each frame draws one of the outcomes that the chip-level receiver measured.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is run.

    Attributes:
        frames: Frames of each power at chip level.
        decisions: Decisions of each receiver with all checks; a fifth without some, not judged.
        walks: Genuine walks to the door, and as many under attack for each power.
    """

    frames: int = 3000
    decisions: int = 100_000
    walks: int = 60


def interval(hits: int, tries: int) -> tuple[float, float]:
    """Return the 95 % interval of a share: Wilson, and Clopper-Pearson at both ends of it."""
    if hits == 0:
        return 0.0, 1 - 0.025 ** (1 / tries)
    if hits == tries:
        return 0.025 ** (1 / tries), 1.0
    share = hits / tries
    middle = (share + _Z**2 / (2 * tries)) / (1 + _Z**2 / tries)
    half = _Z / (1 + _Z**2 / tries) * sqrt(share * (1 - share) / tries + (_Z / (2 * tries)) ** 2)
    return middle - half, middle + half


def uwb_rows(sizes: Sizes, seed: int) -> list[dict[str, Any]]:
    """Return one row for each receiver and gate."""
    heard = hear(sizes.frames, seed)
    rows = []
    for receiver in RECEIVERS:
        per_frame = {power: int(heard.attacked[power][receiver].early.sum()) for power in POWERS_DB}
        worst = max(POWERS_DB, key=lambda power: per_frame[power])
        for name, gate in GATES.items():
            count = sizes.decisions if name == ALL_CHECKS else sizes.decisions // 5
            progress(f"{receiver}, {name}: {count} decisions")
            attacked = attack(heard, receiver, gate, count, seed + 1)
            rows.append(
                {
                    "receiver": receiver,
                    "gate": name,
                    "seed": seed,
                    "frames": sizes.frames,
                    "early_per_frame": {
                        str(power): round(count / sizes.frames, 5)
                        for power, count in per_frame.items()
                    },
                    "worst_power_db": worst,
                    "frame_accept": per_frame[worst] / sizes.frames,
                    "frame_accept_95": interval(per_frame[worst], sizes.frames),
                    "frame_not_right": 1 - float(heard.free[receiver].right.mean()),
                    "frame_not_right_blocked": 1 - float(heard.blocked[receiver].right.mean()),
                    "decisions": attacked.decisions,
                    "false_unlocks": attacked.opened,
                    "decision_accept": attacked.opened / attacked.decisions,
                    "decision_accept_95": interval(attacked.opened, attacked.decisions),
                    "forged_rounds": attacked.forged,
                    "forged_believed": attacked.believed,
                    "suspicious_rounds": attacked.suspicious,
                    **_benign(heard, receiver, gate, sizes.walks, seed + 2),
                    "denied": _denied(heard, receiver, gate, sizes.walks, seed + 3),
                }
            )
    return rows


def _benign(
    heard: Heard, receiver: str, gate: GateSettings, count: int, seed: int
) -> dict[str, Any]:
    """Return what genuine walks to the door suffer, in the usual channel and in the hard one."""
    found: dict[str, Any] = {}
    for name, hard in (("benign", False), ("benign_hard", True)):
        walked = walk_up(
            gate,
            count,
            seed,
            lambda at, rng, hard=hard: genuine_frames(heard, receiver, at, rng, hard=hard),
        )
        after = [each for each in walked.after_ms if np.isfinite(each)]
        found[name] = {
            "rounds": walked.rounds,
            "rejected": walked.doubted / walked.rounds,
            "rejected_95": interval(walked.doubted, walked.rounds),
            "unlocked": len(after) / count,
            "unlock_median_ms": float(np.median(after)) if after else None,
            "unlock_p95_ms": float(np.percentile(after, 95)) if after else None,
        }
    return found


def _denied(
    heard: Heard, receiver: str, gate: GateSettings, count: int, seed: int
) -> dict[str, float]:
    """Return by power how many walks to the door do not open it while all frames are attacked."""
    found = {}
    for power in POWERS_DB:
        cell = Cell(power_db=power, frames=FRAMES, duty=1.0)
        walked = walk_up(
            gate,
            max(count // 3, 4),
            seed,
            lambda at, rng, cell=cell: cell.over(
                genuine_frames(heard, receiver, at, rng), heard, receiver, rng
            ),
        )
        shut = sum(not np.isfinite(each) for each in walked.after_ms)
        found[str(power)] = shut / len(walked.after_ms)
    return found


def uwb_figures(rows: list[dict[str, Any]]) -> list[Figure]:
    """Return the judged figures: with all checks on, nothing opens from 12 m away."""
    judged = [row for row in rows if row["gate"] == ALL_CHECKS]
    opened, made = (sum(row[name] for row in judged) for name in ("false_unlocks", "decisions"))
    low, high = interval(opened, made)
    figures = [
        Figure(
            name="early arrivals, every receiver, all checks",
            value=opened,
            unit="unlocked",
            floor=f"phone {AWAY_M:g} m away, powers up to +{max(POWERS_DB)} dB",
            limit=0,
            samples=made,
            spread=(low * made, high * made),
            note=f"95 % interval of one decision {low:.2g}..{high:.2g}; it costs genuine rounds"
            f" {max(row['benign']['rejected'] for row in judged):.2%} at most",
        )
    ]
    for row in rows:
        low, high = row["decision_accept_95"]
        figures.append(
            Figure(
                name=f"early arrivals, {row['receiver']}, {row['gate']}",
                value=row["false_unlocks"],
                unit="unlocked",
                floor=f"phone {AWAY_M:g} m away, powers up to +{max(POWERS_DB)} dB, chances of each"
                " frame as measured at chip level",
                limit=0 if row["gate"] == ALL_CHECKS else None,
                samples=row["decisions"],
                spread=(low * row["decisions"], high * row["decisions"]),
                note=f"95 % interval of one decision {low:.2g}..{high:.2g}; forged rounds believed"
                f" {row['forged_believed']} of {row['forged_rounds']}; it costs genuine rounds"
                f" {row['benign']['rejected']:.2%}, {row['benign_hard']['rejected']:.1%} where"
                f" first paths through the body are 12 dB down; one frame at"
                f" {row['worst_power_db']} dB is taken early with {row['frame_accept']:.3g}",
            )
        )
    return figures


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print the table for people."""
    counts = Counter(row["receiver"] for row in rows)
    print(
        f"early arrivals from {AWAY_M:g} m, {len(counts)} receivers, chip-level chances of"
        f" {rows[0]['frames']} frames a power, seed {rows[0]['seed']}"
    )
    print(
        f"{'receiver':<19}{'gate':<20}{'frame':>6}{'unlocked':>9}{'of':>8}{'95 % to':>9}"
        f"{'believed':>10}{'of':>7}{'benign':>8}{'hard':>7}{'ms':>6}{'p95':>6}"
        f"{'hard ms':>8}{'p95':>6}{'shut +10':>9}{'+30':>6}"
    )
    for row in rows:
        times = [
            "-" if row[kind][name] is None else f"{row[kind][name]:.0f}"
            for kind in ("benign", "benign_hard")
            for name in ("unlock_median_ms", "unlock_p95_ms")
        ]
        print(
            f"{row['receiver']:<19}{row['gate']:<20}{row['frame_accept']:>6.3f}"
            f"{row['false_unlocks']:>9}{row['decisions']:>8}{row['decision_accept_95'][1]:>9.0e}"
            f"{row['forged_believed']:>10}{row['forged_rounds']:>7}"
            f"{row['benign']['rejected']:>8.2%}{row['benign_hard']['rejected']:>7.1%}"
            f"{times[0]:>6}{times[1]:>6}{times[2]:>8}{times[3]:>6}"
            f"{row['denied']['10']:>9.0%}{row['denied']['30']:>6.0%}"
        )
    print(_LEGEND)
