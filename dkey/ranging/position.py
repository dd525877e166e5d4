"""Where a device is: what every position estimator takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dkey.ranging.measurement import AnchorRange

__all__ = ["Estimate", "Estimator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Position and velocity of a device after one round.

    Attributes:
        x_m: Forward of the middle of the vehicle.
        y_m: To the left.
        vx_m_s: Velocity forward.
        vy_m_s: Velocity to the left.
        covariance_m2: xx, xy and yy of the position.
        inside: Posterior mass in the cabin, 0..1.
        residuals_m: Measured minus expected range by anchor; None for one that measured nothing.
    """

    x_m: float
    y_m: float
    vx_m_s: float
    vy_m_s: float
    covariance_m2: tuple[float, float, float]
    inside: float
    residuals_m: tuple[float | None, ...]

    @property
    def sd_m(self) -> float:
        """Standard deviation of the position over both axes, m."""
        return sqrt(max(0.0, self.covariance_m2[0] + self.covariance_m2[2]))

    @property
    def early_m(self) -> float:
        """How far the shortest range, against the position, is too short; m, 0 or more.

        Paths only ever get longer, so a range that is too short contradicts the position.
        """
        return -min((each for each in self.residuals_m if each is not None and each < 0), default=0)

    @property
    def late_m(self) -> float:
        """How far the least lengthened range is too long for the position; m, 0 or more.

        Obstacles lengthen ranges, but not all of them by metres: then the device is elsewhere. 0
        where fewer than three anchors measured.
        """
        measured = [each for each in self.residuals_m if each is not None]
        return max(0.0, min(measured)) if len(measured) >= 3 else 0.0

    @property
    def speed_m_s(self) -> float:
        """Speed over ground."""
        return hypot(self.vx_m_s, self.vy_m_s)


class Estimator(Protocol):
    """One device's position, round by round."""

    def update(self, ranges: Sequence[AnchorRange], dt_s: float) -> Estimate | None:
        """Take one round, ``dt_s`` after the one before; None until there is a position."""
        ...
