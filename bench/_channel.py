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
from dkey.ranging.measurement import AnchorRange, RangingRound
from dkey.ranging.twr import RCTU_S, SPEED_OF_LIGHT_M_S, clock_ratios_ppb, distances_m

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dkey.ranging.layout import Layout

__all__ = [
    "CHANNELS",
    "SESSION",
    "Channel",
    "as_round",
    "clocks_of",
    "inside_box",
    "measure",
    "walks_by",
    "walks_in",
    "walks_up",
]

SLOT_S = 2e-3
STAMP_SD_S = 100e-12
SESSION = 7
LOST = 0x21
"""Status of an anchor that received no response (RX_TIMEOUT)."""
Clocks = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


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
    clocks: Clocks,
    chance: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return measured distances in metres, NaN where lost, and clock ratios in 10^-9.

    Both are of shape (trials, anchors).

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
    metres, ratios = _ranging(distance, late, clocks, chance)
    return np.where(lost, np.nan, metres), ratios


def _ranging(
    distance: NDArray[np.float64],
    late: NDArray[np.float64],
    clocks: Clocks,
    chance: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run the rounds of all trials: six timestamps for each link, then two-way ranging."""
    count = distance.shape[1]
    flight = (distance + late) / SPEED_OF_LIGHT_M_S
    ours, theirs = clocks
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
    return distances_m(stamps), clock_ratios_ppb(stamps)


def clocks_of(layout: Layout, trials: int, chance: np.random.Generator) -> Clocks:
    """Return the rates of the devices' and of the anchors' clocks, one draw for a whole walk."""
    return (
        1 + chance.uniform(-20e-6, 20e-6, (trials, 1)),
        1 + chance.uniform(-20e-6, 20e-6, (trials, len(layout.anchors))),
    )


def as_round(
    block: int, at_s: float, metres: NDArray[np.float64], ratios: NDArray[np.float64]
) -> RangingRound:
    """Return one trial's round as an UWB subsystem reports it: whole centimetres."""
    ranges = tuple(
        AnchorRange(anchor=at, status=LOST)
        if isnan(away)
        else AnchorRange(anchor=at, distance_cm=float(round(away * 100)), clock_ratio_ppb=ratio)
        for at, (away, ratio) in enumerate(zip(metres.tolist(), ratios.tolist(), strict=True))
    )
    return RangingRound(
        session_id=SESSION,
        block=block,
        round=0,
        sts_index=block * 100,
        at_s=at_s,
        ranges=ranges,
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


def walks_up(
    layout: Layout, trials: int, steps: int, dt_s: float, chance: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return walks (steps, trials, 2) straight to the driver's handle at 1.4 m/s, and headings.

    They begin 6 m away, from any direction within 60 degrees of straight ahead, at any moment
    within a block, and end at the handle.
    """
    driver = layout.doors[0]
    angle = np.pi / 2 + chance.uniform(-np.pi / 3, np.pi / 3, trials)
    way = np.stack([np.cos(angle), np.sin(angle)], 1)
    at_s = np.arange(steps)[:, None] * dt_s + chance.uniform(0, dt_s, trials)
    away = np.maximum(6.0 - 1.4 * at_s, 0.0)
    path = np.array([driver.x_m, driver.y_m]) + away[..., None] * way
    return path, np.broadcast_to(angle + np.pi, (steps, trials))


def walks_by(
    layout: Layout, trials: int, steps: int, dt_s: float, chance: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return walks past the driver's side, 2 m from the body at 1.4 m/s, either way."""
    way = np.where(chance.random(trials) < 0.5, 1.0, -1.0)
    at_s = (np.arange(steps) - steps / 2)[:, None] * dt_s + chance.uniform(0, dt_s, trials)
    across = _box(layout.outline)[3] + 2.0
    path = np.stack([layout.doors[0].x_m + way * 1.4 * at_s, np.full_like(at_s, across)], 2)
    return path, np.broadcast_to(np.where(way > 0, 0.0, np.pi), (steps, trials))
