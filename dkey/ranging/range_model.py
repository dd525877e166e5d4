"""What a measured range says about a position: one-sided errors, and where metal is in the way.

A blocked direct path only ever lengthens a range. Whether a link is blocked follows mostly from
where the device is: the body hides the far anchors from a device outside and the outer anchors
from a device inside. So the layout is a map that tells inside from outside by itself
(specs/proximity.md §3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import erfc, exp, pi, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from dkey.ranging.layout import Mount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dkey.ranging.layout import Layout, Polygon
    from dkey.ranging.measurement import AnchorRange

__all__ = ["HALF_SPAN_M", "NO_RANGE_M", "RangeModel", "half_planes", "measured_m"]

NO_RANGE_M: Final = 1e5
"""Stands for a range that was not measured: every position explains it equally well."""
HALF_SPAN_M: Final = 16.0
"""The map covers a square of this half side around the vehicle."""
_MEASURED: Final = frozenset({0x00, 0x1B})
"""UCI statuses with a usable distance: good, and good but negative."""
_CELL_M: Final = 0.05
_BIN_M: Final = 0.01
_REACH_M: Final = 48.0
_SKIN_M: Final = 0.1
"""Anchors sit under the skin of the body: metal begins this far within the outline."""
_CHORD_M: Final = 0.3
"""A link through more of the body than this counts as blocked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mixture:
    """Weights of a clear and of a lengthened range, and the mean of the lengthening."""

    clear: float
    lengthened: float
    mean_m: float
    floor: float = 0.004


_CLEAR: Final = _Mixture(clear=0.85, lengthened=0.15, mean_m=0.6)
_BLOCKED: Final = _Mixture(clear=0.12, lengthened=0.88, mean_m=0.5)


def measured_m(ranges: Sequence[AnchorRange], anchors: int) -> list[float]:
    """Return the good ranges in metres by anchor; :data:`NO_RANGE_M` for every other anchor.

    Negative ranges are kept as they are; whether to use a round at all is the trust gate's
    business (:mod:`dkey.ranging.gate`).
    """
    found = [NO_RANGE_M] * anchors
    for each in ranges:
        if each.status in _MEASURED and each.distance_cm is not None and 0 <= each.anchor < anchors:
            metres = each.distance_cm / 100
            if -_REACH_M < metres < _REACH_M:  # also drops NaN
                found[each.anchor] = metres
    return found


def half_planes(polygon: Polygon) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return outward unit normals (n, 2) and offsets (n, 1): inside is normals @ p <= offsets."""
    corners = np.array(polygon, dtype=np.float64)
    edges = np.roll(corners, -1, axis=0) - corners
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    offsets = (normals * corners).sum(axis=1, keepdims=True)
    return normals.astype(np.float32), offsets.astype(np.float32)


class RangeModel:
    """Likelihood of ranges at positions, for one layout; immutable after construction.

    Attributes:
        count: Anchors.
        anchors: Their x, y, z in metres, shape (n, 3).
        height2: Squared height of each above the devices, m^2, shape (n, 1).
    """

    __slots__ = ("__dict__", "anchors", "count", "height2", "layout", "sd_m")

    def __init__(self, layout: Layout, *, sd_m: float = 0.04) -> None:
        self.layout = layout
        self.sd_m = sd_m
        self.count = len(layout.anchors)
        self.anchors = np.array(
            [(each.x_m, each.y_m, each.z_m) for each in layout.anchors], dtype=np.float32
        )
        self.height2 = (self.anchors[:, 2:3] - np.float32(layout.phone_height_m)) ** 2

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """Likelihood by range error: the bins of a clear link, those of a blocked one, and 1."""
        errors = np.arange(-_REACH_M, _REACH_M, _BIN_M) + _BIN_M / 2
        rows = [[_density(error, each, self.sd_m) for error in errors] for each in _KINDS]
        return np.array([*rows[0], *rows[1], 1.0], dtype=np.float32)

    @cached_property
    def offsets(self) -> NDArray[np.int32]:
        """First bin of each anchor in :attr:`table` by map cell, shape (anchors, cells)."""
        side = round(2 * HALF_SPAN_M / _CELL_M)
        centres = (np.arange(side) + 0.5) * _CELL_M - HALF_SPAN_M
        x, y = np.meshgrid(centres, centres, indexing="ij")
        cells = np.stack([x.ravel(), y.ravel()])
        bins = round(2 * _REACH_M / _BIN_M)
        return np.where(self._blocked(cells), bins, 0).astype(np.int32)

    def _blocked(self, cells: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether metal is between each anchor and each cell (2, cells)."""
        normals, offsets = half_planes(self.layout.cabin)
        in_cabin = (normals @ cells <= offsets).all(axis=0)
        normals, offsets = half_planes(self.layout.outline)
        inner = offsets[:, 0] - _SKIN_M
        blocked = np.empty((self.count, cells.shape[1]), dtype=np.bool_)
        for at, anchor in enumerate(self.layout.anchors):
            start = np.array([anchor.x_m, anchor.y_m])
            way = cells - start[:, None]
            # Clip each straight link to the body, one edge of the outline after the other.
            low, high = np.zeros(cells.shape[1]), np.ones(cells.shape[1])
            for normal, limit in zip(normals, inner, strict=True):
                room, slope = limit - normal @ start, normal @ way
                ratio = room / np.where(slope == 0, 1e-9, slope)
                high = np.where(slope > 0, np.minimum(high, ratio), high)
                low = np.where(slope < 0, np.maximum(low, ratio), low)
                high = np.where((slope == 0) & (room < 0), -1.0, high)
            chord = np.maximum(high - low, 0) * np.hypot(*way)
            inside = anchor.mount is Mount.BODY
            blocked[at] = np.where(in_cabin, inside, chord > _CHORD_M)
        return blocked


_KINDS: Final = (_CLEAR, _BLOCKED)


def _density(error_m: float, kind: _Mixture, sd_m: float) -> float:
    """Density of a range error: Gaussian, Gaussian plus an exponential delay, and a floor."""
    gauss = exp(-0.5 * (error_m / sd_m) ** 2) / (sd_m * sqrt(2 * pi))
    rate = 1 / kind.mean_m
    bend = (sd_m * rate - error_m / sd_m) / sqrt(2)
    # Far left of the peak the product underflows to the floor; do not let exp() overflow first.
    late = 0.0
    if bend < 20:
        late = rate / 2 * exp(0.5 * (sd_m * rate) ** 2 - rate * error_m) * erfc(bend)
    return kind.clear * gauss + kind.lengthened * late + kind.floor
