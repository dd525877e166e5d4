"""How people walk around a car with a phone: paths as data, sampled at ranging blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from firmware_mock.uwb_channel import Where

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["PATHS", "Path", "Variation", "Walk", "Waypoint", "walks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waypoint:
    """A place to walk to, and how long to stay there.

    Attributes:
        at_m: (x, y) in the car's frame: x forward, y left, origin in the middle.
        speed_m_s: Speed of the walk to it; of no meaning for the first one.
        dwell_s: Time spent at it.
        spread_m: How far from it people really go, standard deviation; zero keeps a doorway.
    """

    at_m: tuple[float, float]
    speed_m_s: float = 1.3
    dwell_s: float = 0.0
    spread_m: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One person's way, and where the phone is on them.

    Attributes:
        points: At least two.
        back_pocket: Whether the carrier's body is in front of the phone as they walk.
    """

    points: tuple[Waypoint, ...]
    back_pocket: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """How people differ, drawn once for each walk.

    Attributes:
        speed: Relative standard deviation of the speed, held within a factor of two.
        dwell: The same for times spent.
        start_rad: Standard deviation of the direction they come from.
    """

    speed: float = 0.15
    dwell: float = 0.3
    start_rad: float = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Sampled walks of many tracks.

    Attributes:
        at_s: (K,) time of each block.
        at_m: (K, T, 2) where each track's phone is.
        carrier: (K, T, 2) unit vector from each phone into its carrier; zero with a free view.
        arrived_s: (P, T) when each track arrives at each waypoint.
        done_s: (T,) when each track has spent its time at the last one.
    """

    at_s: Floats
    at_m: Floats
    carrier: Floats
    arrived_s: Floats
    done_s: Floats

    def where(self, block: int) -> Where:
        """Return all tracks in one block, as the channel takes them."""
        return Where(at_m=self.at_m[block], carrier=self.carrier[block])


_DOOR: Final = (0.3, 1.45)
_SEAT: Final = (0.2, 0.4)
_SIT: Final = (
    Waypoint(at_m=(0.3, 1.35), dwell_s=1.5, spread_m=0.05),
    Waypoint(at_m=_SEAT, speed_m_s=0.8, dwell_s=6.0, spread_m=0.03),
)

PATHS: Final[dict[str, tuple[Path, ...]]] = {
    "approach": (
        Path(points=(Waypoint(at_m=(3.0, 9.0)), Waypoint(at_m=_DOOR, dwell_s=4.0, spread_m=0.05))),
    ),
    "pass-by": (
        Path(points=(Waypoint(at_m=(-9.0, 4.0)), Waypoint(at_m=(9.0, 4.0), spread_m=0.3))),
    ),
    "sit-in": (Path(points=(Waypoint(at_m=(3.0, 8.0)), *_SIT)),),
    "back-pocket": (Path(points=(Waypoint(at_m=(3.0, 8.0)), *_SIT), back_pocket=True),),
    "two-phones": (
        Path(points=(Waypoint(at_m=(3.0, 8.0)), *_SIT)),
        Path(
            points=(
                Waypoint(at_m=(1.0, -8.0)),
                Waypoint(at_m=(0.3, -1.45), speed_m_s=1.1, dwell_s=8.0, spread_m=0.05),
            )
        ),
    ),
    "leave": (
        Path(
            points=(
                Waypoint(at_m=_SEAT, dwell_s=2.0, spread_m=0.03),
                Waypoint(at_m=_DOOR, speed_m_s=0.8, dwell_s=1.5, spread_m=0.05),
                Waypoint(at_m=(4.0, 10.0), dwell_s=2.0),
            )
        ),
    ),
}
"""Name of a scene to the ways of all who take part in it."""


def walks(
    path: Path,
    tracks: int,
    rng: np.random.Generator,
    *,
    block_s: float = 0.192,
    blocks: int | None = None,
    variation: Variation | None = None,
) -> Walk:
    """Return ``tracks`` people on one path, each in their own manner, sampled at each block.

    ``blocks`` defaults to what the slowest needs. Whoever arrived stays.
    """
    vary = variation or Variation()
    stations, times = _plan(path.points, tracks, rng, vary)
    if blocks is None:
        blocks = int(np.ceil(times[-1].max() / block_s)) + 1
    at_s: Floats = np.multiply(np.arange(blocks), block_s)
    at = np.empty((blocks, tracks, 2))
    carrier = np.zeros_like(at)
    for track in range(tracks):
        for axis in (0, 1):
            at[:, track, axis] = np.interp(at_s, times[:, track], stations[:, track, axis])
        if path.back_pocket:
            carrier[:, track] = _facing(at_s, times[:, track], stations[:, track])
    return Walk(at_s=at_s, at_m=at, carrier=carrier, arrived_s=times[::2], done_s=times[-1])


def _plan(
    points: Sequence[Waypoint], tracks: int, rng: np.random.Generator, vary: Variation
) -> tuple[Floats, Floats]:
    """Return where (2P, T, 2) each track arrives and leaves, and when (2P, T)."""
    pace = np.clip(rng.normal(1, vary.speed, tracks), 0.5, 2)
    patience = np.clip(rng.normal(1, vary.dwell, tracks), 0.5, 2)
    turn = rng.normal(0, vary.start_rad, tracks)
    stations = np.empty((2 * len(points), tracks, 2))
    times = np.zeros((2 * len(points), tracks))
    now = np.zeros(tracks)
    for index, point in enumerate(points):
        place = np.tile(point.at_m, (tracks, 1)) + rng.normal(0, point.spread_m, (tracks, 2))
        if np.hypot(*point.at_m) > 5:
            place = _turned(place, turn)
        if index:
            way = np.hypot(*(place - stations[2 * index - 1]).T)
            now = now + way / (point.speed_m_s * pace)
        stations[2 * index : 2 * index + 2] = place
        times[2 * index] = now
        now = now + point.dwell_s * patience
        times[2 * index + 1] = now
    return stations, times


def _turned(place: Floats, angle: Floats) -> Floats:
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = place.T
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)


def _facing(at_s: Floats, times: Floats, stations: Floats) -> Floats:
    """Return the way the carrier faces (K, 2): that of the last walk; the phone is behind."""
    steps = stations[2::2] - stations[1:-1:2]
    length = np.hypot(*steps.T)
    ways = steps / np.maximum(length, 1e-9)[:, None]
    leg = np.searchsorted(times[2:-1:2], at_s, side="right")
    facing: Floats = ways[np.minimum(leg, len(ways) - 1)]
    return facing
