"""The event-level ranging channel of the ranging benchmark, and the walks through it.

A port of the model in which the methods were first ranked: blocked links are lengthened by an
exponential delay, any link may be lengthened by a body, some ranges are lost, clocks are off by up
to 20 ppm, received timestamps carry noise. Its blocking rule is its own, not that of
``dkey.ranging.range_model``: the estimator must not know the channel it is measured on. The
channel is invented: figures rank methods, they are no claim about cars.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING

import numpy as np

from dkey.ranging.layout import Mount
from dkey.ranging.measurement import AnchorRange
from dkey.ranging.twr import RCTU_S, SPEED_OF_LIGHT_M_S, distances_m

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dkey.ranging.layout import Layout

__all__ = ["CHANNELS", "Channel", "as_ranges", "inside_box", "measure", "walks_in"]

SLOT_S = 2e-3
STAMP_SD_S = 100e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Parameters of one channel.

    Attributes:
        blocked_m: Mean lengthening of a blocked link.
        body_share: Share of links that a body lengthens in any round.
        body_m: Mean of that.
        loss: Share of lost ranges of clear links.
        blocked_loss: The same of blocked links.
        shadow_m: Lengthening by the bearer's body, and by that and one more in front of it.
        shadow_deg: Width of the sector that the bearer's body covers.
        height_sd_m: How far the height of the device differs from walk to walk.
    """

    blocked_m: float = 0.35
    body_share: float = 0.15
    body_m: float = 0.5
    loss: float = 0.03
    blocked_loss: float = 0.25
    shadow_m: tuple[float, ...] = ()
    shadow_deg: float = 120.0
    height_sd_m: float = 0.0


CHANNELS = {
    "plain": Channel(),
    "more NLOS": Channel(blocked_m=0.6, body_share=0.3, body_m=0.7),
    "34 % loss": Channel(loss=0.34, blocked_loss=0.45),
    "two bodies": Channel(shadow_m=(0.82, 1.27), shadow_deg=90.0),
    "back pocket": Channel(
        shadow_m=(0.82,), shadow_deg=160.0, loss=0.15, blocked_loss=0.34, height_sd_m=0.1
    ),
}


def _box(polygon: tuple[tuple[float, float], ...]) -> tuple[float, float, float, float]:
    xs, ys = zip(*polygon, strict=True)
    return min(xs), max(xs), min(ys), max(ys)


def inside_box(layout: Layout, at: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Truth: whether positions (..., 2) are in the cabin, which is a box in shipped layouts."""
    x0, x1, y0, y1 = _box(layout.cabin)
    return (at[..., 0] > x0) & (at[..., 0] < x1) & (at[..., 1] > y0) & (at[..., 1] < y1)


def measure(
    layout: Layout,
    channel: Channel,
    at: NDArray[np.float64],
    heading: NDArray[np.float64],
    height: NDArray[np.float64],
    chance: np.random.Generator,
) -> NDArray[np.float64]:
    """Return measured distances (trials, anchors) in metres, NaN where lost.

    ``at`` are positions (trials, 2), ``heading`` is where the bearers face, rad, ``height`` that of
    their devices. A shadow is ahead of the bearer: the device is in a back pocket, and all
    anchors in the sector are behind the body.
    """
    anchors = np.array([(a.x_m, a.y_m, a.z_m) for a in layout.anchors])
    way = anchors[None, :, :2] - at[:, None, :]
    distance = np.sqrt((way**2).sum(2) + (height[:, None] - anchors[None, :, 2]) ** 2)
    middle = at[:, None, :] + way * 0.6
    x0, x1, y0, y1 = _box(layout.outline)
    blocked = (
        (middle[..., 0] > x0 + 0.1)
        & (middle[..., 0] < x1 - 0.1)
        & (middle[..., 1] > y0 + 0.1)
        & (middle[..., 1] < y1 - 0.1)
    )
    on_body = np.array([a.mount is Mount.BODY for a in layout.anchors])
    blocked = np.where(inside_box(layout, at)[:, None], on_body, blocked)
    shape = distance.shape
    late = np.where(blocked, chance.exponential(channel.blocked_m, shape), 0.0)
    late += np.where(
        chance.random(shape) < channel.body_share, chance.exponential(channel.body_m, shape), 0.0
    )
    if channel.shadow_m:
        bearing = np.arctan2(way[..., 1], way[..., 0]) - heading[:, None]
        aside = np.abs((bearing + np.pi) % (2 * np.pi) - np.pi)
        shadow = np.zeros(shape)
        # The body of the bearer covers the whole sector, one more in front of it half of that.
        for bodies, metres in enumerate(channel.shadow_m):
            sector = np.radians(channel.shadow_deg) / 2 / (1 + bodies)
            shadow = np.where(aside < sector, metres, shadow)
        late += shadow
    lost = chance.random(shape) < np.where(blocked, channel.blocked_loss, channel.loss)
    return np.where(lost, np.nan, _ranging(distance, late, chance))


def _ranging(
    distance: NDArray[np.float64], late: NDArray[np.float64], chance: np.random.Generator
) -> NDArray[np.float64]:
    """Run the rounds of all trials: six timestamps for each link, then two-way ranging."""
    trials, count = distance.shape
    flight = (distance + late) / SPEED_OF_LIGHT_M_S
    ours = 1 + chance.uniform(-20e-6, 20e-6, (trials, 1))
    theirs = 1 + chance.uniform(-20e-6, 20e-6, (trials, count))
    poll_rx = flight
    reply = (1 + np.arange(count)) * SLOT_S / theirs
    response_rx = poll_rx + reply + flight
    final_tx = (count + 1) * SLOT_S / ours
    final_rx = final_tx + flight

    def stamp(at_s: NDArray[np.float64], rate: NDArray[np.float64], sd_s: float) -> object:
        ticks = (at_s * rate + chance.normal(0, sd_s, distance.shape)) / RCTU_S
        return np.rint(ticks).astype(np.int64).astype(np.uint32)

    zero = np.zeros_like(distance)
    stamps = np.stack(
        [
            stamp(zero, ours, 0.0),
            stamp(poll_rx, theirs, STAMP_SD_S),
            stamp(poll_rx + reply, theirs, 0.0),
            stamp(response_rx, ours, STAMP_SD_S),
            stamp(zero + final_tx, ours, 0.0),
            stamp(final_rx, theirs, STAMP_SD_S),
        ]
    )
    return distances_m(stamps)


def as_ranges(row: NDArray[np.float64]) -> tuple[AnchorRange, ...]:
    """Return one trial's distances as an UWB subsystem reports them: whole centimetres."""
    return tuple(
        AnchorRange(anchor=at, distance_cm=float(round(metres * 100)))
        if not isnan(metres)
        else AnchorRange(anchor=at, status=0x21)
        for at, metres in enumerate(row.tolist())
    )


def walks_in(
    layout: Layout, trials: int, steps: int, dt_s: float, chance: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return walks (steps, trials, 2) and headings: to the driver's door, a stop, in, sit down."""
    driver = layout.doors[0]
    angle = chance.uniform(0, 2 * np.pi, trials)
    start = np.stack([8 * np.cos(angle), np.abs(8 * np.sin(angle)) + driver.y_m + 0.25], 1)
    door = np.array([driver.x_m, driver.y_m + 0.4])
    seat = np.array([driver.x_m - 0.1, driver.y_m - 0.55])
    walking_s = np.linalg.norm(door - start, axis=1) / 1.3
    at_s = np.arange(steps)[:, None] * dt_s
    walked = np.clip(at_s / walking_s, 0, 1)[..., None]
    entered = np.clip((at_s - walking_s - 1.5) / 1.2, 0, 1)[..., None]
    path = start + (door - start) * walked + (seat - door) * entered
    to_door = np.arctan2(*(door - start).T[::-1])
    heading = np.where(entered[..., 0] > 0.5, 0.0, to_door)
    return path, heading
