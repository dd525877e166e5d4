"""A particle filter for positions: mirror images, one-sided errors and the map of the body.

All particles and anchors are one array; everything is float32 in buffers that are kept.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from dkey.ranging.position import Estimate
from dkey.ranging.range_model import HALF_SPAN_M, NO_RANGE_M, RangeModel, half_planes, measured_m

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dkey.ranging.layout import Layout
    from dkey.ranging.measurement import AnchorRange

__all__ = ["ParticleFilter"]

_SEEDS: Final = 4096
"""Candidate positions at the first round and after the filter lost the device."""
_LOST: Final = 0.1
"""Mean likelihood per range, m^-1, below which the particles do not explain the round."""
_LOST_ROUNDS: Final = 3
_EARLY_M: Final = 0.3
"""A range this much shorter than the position allows contradicts it."""
_EARLY_ROUNDS: Final = 2
_CLOSE_M: Final = 0.15
"""A range supports a position when it fits it this well."""
_ALONE_ROUNDS: Final = 3
"""After so many rounds in which one range at most supported the position, it is reconsidered."""
_MIRRORED: Final = 100
"""One of so many particles is tried on the other side of the vehicle at a resampling."""
_ACROSS: Final = np.float32(-1)
_DAMPING: Final = 0.98
_MAX_DT_S: Final = 0.5
"""Longer gaps spread the particles no further; a device that is elsewhere is found anew."""


class ParticleFilter:
    """Implements :class:`dkey.ranging.position.Estimator`.

    Args:
        layout: The vehicle.
        chance: Source of randomness; the same seed and rounds give the same estimates.
        particles: How many.
        acceleration: Standard deviation of the acceleration, m/s^2.
        model: The layout's range model, to share its tables between filters.
    """

    def __init__(
        self,
        layout: Layout,
        chance: np.random.Generator,
        *,
        particles: int = 600,
        acceleration: float = 1.5,
        model: RangeModel | None = None,
    ) -> None:
        self._model = model or RangeModel(layout)
        self._chance = chance
        self._count = particles
        self._acceleration = acceleration
        self._ax = np.ascontiguousarray(self._model.anchors[:, 0:1])
        self._ay = np.ascontiguousarray(self._model.anchors[:, 1:2])
        self._anchors = [tuple(map(float, each)) for each in self._model.anchors]
        self._height2 = [float(each) for each in self._model.height2[:, 0]]
        self._normals, self._limits = half_planes(layout.cabin)
        self._bodies = _Buffers(self._model.count, particles)
        self._seeds = _Buffers(self._model.count, _SEEDS)
        self._state = np.zeros((4, particles), dtype=np.float32)
        self._weights = np.full(particles, 1 / particles, dtype=np.float32)
        self._comb = np.arange(particles, dtype=np.float32)
        self._noise = np.empty((2, particles), dtype=np.float32)
        self._step = np.empty((2, particles), dtype=np.float32)
        self._walls = np.empty((len(self._limits), particles), dtype=np.float32)
        self._every = _MIRRORED
        self._ready = False
        self._lost = 0
        self._early = 0
        self._alone = 0

    def update(self, ranges: Sequence[AnchorRange], dt_s: float) -> Estimate | None:
        """Take one round; None until three anchors measured at once."""
        found = measured_m(ranges, self._model.count)
        have = self._model.count - found.count(NO_RANGE_M)
        column = np.array(found, dtype=np.float32)[:, None]
        if not self._ready:
            if have < 3:
                return None
            self._seed(found, column)
        else:
            self._move(min(max(dt_s, 0.0), _MAX_DT_S))
        weights = self._weights
        if have:
            weights *= self._likelihood(self._bodies, self._state, column)
            total = float(weights.sum())
            self._lost = self._lost + 1 if total < _LOST**have and have >= 3 else 0
            if (
                self._lost >= _LOST_ROUNDS
                or (self._early >= _EARLY_ROUNDS and have >= 3)
                or not total > 1e-30
            ):
                self._ready = have >= 3
                if not self._ready:
                    return None
                self._seed(found, column)
                weights *= self._likelihood(self._bodies, self._state, column)
                total = max(float(weights.sum()), 1e-30)
            weights *= np.float32(1 / total)
        estimate = self._estimate(found)
        self._early = self._early + 1 if estimate.early_m > _EARLY_M else 0
        if float(weights @ weights) * self._count > 2:
            self._resample()
        if have >= 3:
            self._reconsider(estimate, found, column)
        return estimate

    def _reconsider(
        self, estimate: Estimate, found: list[float], column: NDArray[np.float32]
    ) -> None:
        """Replace half of the particles when only one anchor speaks for all of them.

        One clear range and an excuse for every other fit a whole circle, along which a wrong
        position can follow a walking device for seconds.
        """
        support = sum(each is not None and abs(each) < _CLOSE_M for each in estimate.residuals_m)
        self._alone = self._alone + 1 if support < 2 else 0
        if self._alone >= _ALONE_ROUNDS:
            if self._weights[0] != self._weights[-1]:
                self._resample()
            self._seed(found, column, every=2)

    def _move(self, dt_s: float) -> None:
        state, noise = self._state, self._noise
        self._chance.standard_normal(dtype=np.float32, out=noise)
        noise *= np.float32(self._acceleration * dt_s)
        velocity = state[2:]
        velocity += noise
        velocity *= np.float32(_DAMPING)
        np.multiply(velocity, np.float32(dt_s), out=self._step)
        state[:2] += self._step

    def _likelihood(
        self, into: _Buffers, state: NDArray[np.float32], column: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the likelihood of the round at each position; one pass over all anchors."""
        dx, dy, index = into.dx, into.dy, into.index
        np.subtract(state[0], self._ax, out=dx)
        np.multiply(dx, dx, out=dx)
        np.subtract(state[1], self._ay, out=dy)
        np.multiply(dy, dy, out=dy)
        dx += dy
        dx += self._model.height2
        np.sqrt(dx, out=dx)
        np.subtract(column, dx, out=dx)
        # Range errors become bins of 1 cm in the table of a clear or of a blocked link.
        dx *= np.float32(100)
        dx += np.float32(4800)
        np.copyto(index, dx, casting="unsafe")
        np.multiply(state[:2], np.float32(20), out=into.cells)
        into.cells += np.float32(20 * HALF_SPAN_M)
        np.maximum(into.cells, np.float32(0), out=into.cells)
        np.minimum(into.cells, np.float32(40 * HALF_SPAN_M - 1), out=into.cells)
        np.copyto(into.cell_index, into.cells, casting="unsafe")
        row = into.cell_index[0]
        row *= int(40 * HALF_SPAN_M)
        row += into.cell_index[1]
        self._model.offsets.take(row, axis=1, out=into.offsets, mode="clip")
        index += into.offsets
        self._model.table.take(index, out=dy, mode="clip")
        return np.multiply.reduce(dy, axis=0, out=into.product)

    def _seed(self, found: list[float], column: NDArray[np.float32], *, every: int = 1) -> None:
        """Draw candidates on circles around the anchors, and keep those that explain the round.

        They replace one of ``every`` particles.
        """
        chance = self._chance
        have = np.flatnonzero(column[:, 0] < NO_RANGE_M)
        pick = have[chance.integers(0, len(have), _SEEDS)]
        radius = np.array(found)[pick] + chance.normal(0.0, 0.05, _SEEDS)
        radius -= np.where(chance.random(_SEEDS) < 0.5, chance.exponential(0.5, _SEEDS), 0.0)
        flat = np.sqrt(np.maximum(radius * radius - self._model.height2[pick, 0], 0.0))
        angle = chance.random(_SEEDS) * (2 * np.pi)
        state = np.empty((2, _SEEDS), dtype=np.float32)
        state[0] = self._model.anchors[pick, 0] + flat * np.cos(angle)
        state[1] = self._model.anchors[pick, 1] + flat * np.sin(angle)
        weights = self._likelihood(self._seeds, state, column).astype(np.float64)
        # Half the power keeps mirror images alive until a second round has spoken.
        weights = np.sqrt(weights)
        edges = np.cumsum(weights)
        fresh = self._state[:, ::every]
        count = fresh.shape[1]
        aims = (np.arange(count) + chance.random()) * (edges[-1] / count)
        kept = np.minimum(np.searchsorted(edges, aims), _SEEDS - 1)
        fresh[:2] = state[:, kept]
        fresh[2:] = chance.normal(0.0, 0.8, (2, count))
        self._weights.fill(1 / self._count)
        self._ready, self._lost, self._early, self._alone = True, 0, 0, 0

    def _resample(self) -> None:
        """Keep each particle in proportion to its weight (systematic resampling)."""
        edges = np.add.accumulate(self._weights)
        aims = self._comb + np.float32(self._chance.random())
        aims *= edges[-1] / np.float32(self._count)
        kept = edges.searchsorted(aims)
        self._state = self._state.take(kept, axis=1, mode="clip")
        # The kept particles are in order of their ancestors: every so many is a fair sample of
        # them. A vehicle is nearly symmetric, and so are its anchors: a filter that took the
        # mirror image for the device finds back when a few particles try the other side.
        self._state[1::2, :: self._every] *= _ACROSS
        self._weights.fill(1 / self._count)

    def _estimate(self, found: list[float]) -> Estimate:
        state, weights = self._state, self._weights
        x, y, vx, vy = (state @ weights).tolist()
        np.multiply(state[:2], weights, out=self._step)
        xx, xy, _, yy = (self._step @ state[:2].T).ravel().tolist()
        np.matmul(self._normals, state[:2], out=self._walls)
        within = np.logical_and.reduce(self._walls <= self._limits, axis=0)
        inside = float(weights @ within)
        residuals = tuple(
            None
            if metres == NO_RANGE_M
            else metres - sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2 + height2)
            for metres, at, height2 in zip(found, self._anchors, self._height2, strict=True)
        )
        return Estimate(
            x_m=x,
            y_m=y,
            vx_m_s=vx,
            vy_m_s=vy,
            covariance_m2=(xx - x * x, xy - x * y, yy - y * y),
            inside=min(inside, 1.0),
            residuals_m=residuals,
        )


class _Buffers:
    """Room for one pass over all anchors and ``count`` positions."""

    __slots__ = ("cell_index", "cells", "dx", "dy", "index", "offsets", "product")

    def __init__(self, anchors: int, count: int) -> None:
        self.dx = np.empty((anchors, count), dtype=np.float32)
        self.dy = np.empty((anchors, count), dtype=np.float32)
        self.index = np.empty((anchors, count), dtype=np.int32)
        self.offsets = np.empty((anchors, count), dtype=np.int32)
        self.cells = np.empty((2, count), dtype=np.float32)
        self.cell_index = np.empty((2, count), dtype=np.int32)
        self.product = np.empty(count, dtype=np.float32)
