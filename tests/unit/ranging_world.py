"""Rounds of a device at known places, for tests of ranging: exact, seeded, no clock."""

from __future__ import annotations

from math import sqrt

from dkey.ranging.layouts import shipped_layout
from dkey.ranging.measurement import AnchorRange, RangingRound

SALOON = shipped_layout("saloon")
SESSION = 7
BLOCK_S = 0.096


def true_cm(at, layout=SALOON):
    """Distances from (x, y) to all anchors, whole centimetres."""
    return [
        float(
            round(
                100
                * sqrt(
                    (at[0] - a.x_m) ** 2
                    + (at[1] - a.y_m) ** 2
                    + (layout.phone_height_m - a.z_m) ** 2
                )
            )
        )
        for a in layout.anchors
    ]


def ranges(distances_cm, **changes):
    """One entry for each anchor; ``changes`` maps ``a3`` to replaced fields of anchor 3."""
    made = []
    for at, distance_cm in enumerate(distances_cm):
        fields = {"anchor": at, "distance_cm": distance_cm, "clock_ratio_ppb": 1000.0}
        made.append(AnchorRange(**(fields | changes.get(f"a{at}", {}))))
    return tuple(made)


def a_round(number, at=(9.0, 6.0), *, distances_cm=None, anchors=None, **fields):
    """Round ``number`` of a device at (x, y); fields replace those of the round."""
    made = ranges(distances_cm or true_cm(at), **(anchors or {}))
    return RangingRound(
        **(
            {
                "session_id": SESSION,
                "block": number,
                "round": 0,
                "sts_index": number * 100,
                "at_s": number * BLOCK_S,
                "ranges": made,
            }
            | fields
        )
    )
