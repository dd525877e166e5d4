"""An extended Kalman filter for positions, in plain floats: cheap, and blind to mirror images.

Each range is one scalar update. Errors are one-sided: a range that is somewhat too long counts
less, one that is much too long not at all (specs/proximity.md §3).
"""

from __future__ import annotations

from math import cos, erf, pi, sin, sqrt
from typing import TYPE_CHECKING, Final

from dkey.ranging.position import Estimate
from dkey.ranging.range_model import NO_RANGE_M, half_planes, measured_m

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dkey.ranging.layout import Layout
    from dkey.ranging.measurement import AnchorRange

__all__ = ["KalmanFilter"]

_LATE_SD: Final = 3.5
"""A range longer than expected by more than this is taken for a reflection and dropped."""
_EARLY_SD: Final = 6.0
_SLOW_SD: Final = 2.0
"""From here on a range that is too long counts a quarter."""
_LOST_ROUNDS: Final = 5
_MAX_DT_S: Final = 0.5
_DIRECTIONS: Final = 24


class KalmanFilter:
    """Implements :class:`dkey.ranging.position.Estimator`.

    Args:
        layout: The vehicle.
        sd_m: Standard deviation of a clear range.
        acceleration: Standard deviation of the acceleration, m/s^2.
    """

    def __init__(self, layout: Layout, *, sd_m: float = 0.08, acceleration: float = 1.5) -> None:
        self._anchors = [
            (each.x_m, each.y_m, (each.z_m - layout.phone_height_m) ** 2) for each in layout.anchors
        ]
        normals, limits = half_planes(layout.cabin)
        self._walls = [
            (float(x), float(y), float(limit))
            for (x, y), limit in zip(normals.tolist(), limits[:, 0].tolist(), strict=True)
        ]
        self._noise = sd_m * sd_m
        self._drift = acceleration * acceleration
        self._mean: list[float] = []
        self._cov: list[list[float]] = []
        self._lost = 0

    def update(self, ranges: Sequence[AnchorRange], dt_s: float) -> Estimate | None:
        """Take one round; None until three anchors measured at once."""
        found = measured_m(ranges, len(self._anchors))
        have = [at for at, metres in enumerate(found) if metres != NO_RANGE_M]
        if not self._mean:
            if len(have) < 3:
                return None
            self._start(found, have)
        else:
            self._predict(min(max(dt_s, 0.0), _MAX_DT_S))
        used = sum(self._correct(at, found[at]) for at in have)
        self._lost = self._lost + 1 if 2 * used < len(have) else 0
        if self._lost >= _LOST_ROUNDS and len(have) >= 3:
            self._start(found, have)
        return self._estimate(found)

    def _expected(self, at: int, x: float, y: float) -> float:
        ax, ay, height2 = self._anchors[at]
        return sqrt((x - ax) ** 2 + (y - ay) ** 2 + height2) + 1e-9

    def _start(self, found: list[float], have: list[int]) -> None:
        """Take the best point on a circle around the nearest anchor, then descend from there."""
        near = min(have, key=lambda at: found[at])
        ax, ay, height2 = self._anchors[near]
        radius = sqrt(max(found[near] ** 2 - height2, 0.01))

        def cost(point: tuple[float, float]) -> float:
            errors = [found[at] - self._expected(at, *point) for at in have]
            return sum(min(e, 1.0) if e > 0 else min(-3 * e, 3.0) for e in errors)

        turns = [2 * pi * turn / _DIRECTIONS for turn in range(_DIRECTIONS)]
        x, y = min(((ax + radius * cos(t), ay + radius * sin(t)) for t in turns), key=cost)
        for _ in range(8):
            x, y = self._descend(x, y, found, have)
        self._mean = [x, y, 0.0, 0.0]
        self._cov = [[0.5 * (a == b) + 0.5 * (a == b > 1) for b in range(4)] for a in range(4)]
        self._lost = 0

    def _descend(
        self, x: float, y: float, found: list[float], have: list[int]
    ) -> tuple[float, float]:
        hxx = hyy = 1e-3
        hxy = gx = gy = 0.0
        for at in have:
            expected = self._expected(at, x, y)
            error = found[at] - expected
            jx, jy = (x - self._anchors[at][0]) / expected, (y - self._anchors[at][1]) / expected
            weight = min(1.0, 0.15 / max(abs(error), 1e-6))
            hxx += weight * jx * jx
            hyy += weight * jy * jy
            hxy += weight * jx * jy
            gx += weight * jx * error
            gy += weight * jy * error
        det = hxx * hyy - hxy * hxy
        dx, dy = (hyy * gx - hxy * gy) / det, (hxx * gy - hxy * gx) / det
        return x + max(-1.0, min(1.0, dx)), y + max(-1.0, min(1.0, dy))

    def _predict(self, dt_s: float) -> None:
        mean, cov = self._mean, self._cov
        for axis in (0, 1):
            mean[axis] += mean[axis + 2] * dt_s
        for axis in (0, 1):  # F P
            for column in range(4):
                cov[axis][column] += dt_s * cov[axis + 2][column]
        for row in cov:  # (F P) F'
            row[0] += dt_s * row[2]
            row[1] += dt_s * row[3]
        place, mixed = self._drift * dt_s**4 / 4, self._drift * dt_s**3 / 2
        speed = self._drift * dt_s * dt_s
        for axis in (0, 1):
            cov[axis][axis] += place
            cov[axis][axis + 2] += mixed
            cov[axis + 2][axis] += mixed
            cov[axis + 2][axis + 2] += speed

    def _correct(self, at: int, metres: float) -> bool:
        """Take one range; return whether it was used."""
        mean, cov = self._mean, self._cov
        expected = self._expected(at, mean[0], mean[1])
        hx = (mean[0] - self._anchors[at][0]) / expected
        hy = (mean[1] - self._anchors[at][1]) / expected
        gain = [row[0] * hx + row[1] * hy for row in cov]
        spread = hx * gain[0] + hy * gain[1] + self._noise
        error = metres - expected
        sigmas = error / sqrt(spread)
        if not -_EARLY_SD < sigmas < _LATE_SD:
            return False
        if sigmas > _SLOW_SD:
            spread += 3 * self._noise
        for row in range(4):
            share = gain[row] / spread
            mean[row] += share * error
            line = cov[row]
            for column in range(4):
                line[column] -= share * gain[column]
        return True

    def _estimate(self, found: list[float]) -> Estimate:
        x, y, vx, vy = self._mean
        cov = self._cov
        xx, xy, yy = cov[0][0], cov[0][1], cov[1][1]
        inside = 1.0
        for nx, ny, limit in self._walls:
            sd = sqrt(max(nx * nx * xx + 2 * nx * ny * xy + ny * ny * yy, 1e-9))
            # The walls are taken as independent: exact for one wall, close for a box.
            inside *= 0.5 * (1 + erf((limit - nx * x - ny * y) / (sd * sqrt(2))))
        residuals = tuple(
            None if metres == NO_RANGE_M else metres - self._expected(at, x, y)
            for at, metres in enumerate(found)
        )
        return Estimate(
            x_m=x,
            y_m=y,
            vx_m_s=vx,
            vy_m_s=vy,
            covariance_m2=(xx, xy, yy),
            inside=inside,
            residuals_m=residuals,
        )
