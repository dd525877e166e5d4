"""One ranged device: trust gate, estimator and zones, fed round by round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.ranging.gate import GateSettings, Trust, TrustGate
from dkey.ranging.zones import ZoneState, ZoneTracker

if TYPE_CHECKING:
    from dkey.ranging.layout import Layout
    from dkey.ranging.measurement import RangingRound
    from dkey.ranging.position import Estimate, Estimator

__all__ = ["DeviceTracker"]


class DeviceTracker:
    """Follows the device of one ranging session.

    Args:
        layout: The vehicle.
        session_id: The session that the transaction's ranging key opened.
        estimator: Fresh, of the same layout.
        settings: Of the trust gate.

    Attributes:
        gate: Its trust gate.
        estimate: Position after the last round that gave one; kept in memory only (S146).
    """

    def __init__(
        self,
        layout: Layout,
        session_id: int,
        estimator: Estimator,
        settings: GateSettings | None = None,
    ) -> None:
        self.gate = TrustGate(layout, session_id, settings)
        self.estimate: Estimate | None = None
        self._estimator = estimator
        self._zones = ZoneTracker(layout)
        self._last_s: float | None = None

    def update(self, measured: RangingRound) -> Trust:
        """Take one round; only the anchors that the gate lets pass move the position."""
        trust = self.gate.update(measured)
        if trust.anchors:
            dt_s = 0.0 if self._last_s is None else measured.at_s - self._last_s
            self._last_s = measured.at_s
            ranges = [each for each in measured.ranges if each.anchor in trust.anchors]
            self.estimate = self._estimator.update(ranges, dt_s)
            self._zones.update(self.estimate, measured.at_s)
        return trust

    def trust(self, now_s: float) -> Trust:
        """Return the gate's word as of now."""
        return self.gate.trust(now_s)

    def zone(self, now_s: float) -> ZoneState:
        """Return the zone as of now."""
        return self._zones.state(now_s)
