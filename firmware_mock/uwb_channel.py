"""The virtual UWB channel, event by event: where frames arrive, not how they look.

One call simulates many one-to-many DS-TWR rounds (POLL, one RESPONSE for each anchor, FINAL) for
many tracks at once. Arrays are shaped (T tracks, N anchors). The channel models are ours: they
rank methods and say nothing about a real car (specs/virtual-uwb.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from time import process_time
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from dkey.ranging.layout import Mount
from firmware_mock.uwb_rounds import (
    NEGATIVE_DISTANCE,
    OK,
    RX_TIMEOUT,
    STS_FAILED,
    Rounds,
    Tampering,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dkey.ranging.layout import Layout

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

__all__ = [
    "LIGHT_M_S",
    "NEGATIVE_DISTANCE",
    "OK",
    "RX_TIMEOUT",
    "STS_FAILED",
    "TICK_S",
    "Car",
    "Channel",
    "Clocks",
    "Rounds",
    "Tampering",
    "Where",
    "rounds_per_second",
    "simulate",
]

LIGHT_M_S: Final = 299_792_458.0
TICK_S: Final = 1 / (499.2e6 * 128)
"""Resolution of a time stamp, 15.65 ps (IEEE 802.15.4 ranging counter)."""

_CHUNK: Final = 1536
"""Rounds worked on at a time, so that all their arrays stay in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Car:
    """Where the anchors are and which box of metal is in the way; x forward, y left, z up.

    Attributes:
        anchors_m: (x, y, z) of each anchor, metres from the middle of the car on the ground.
        cabin: For each anchor, whether it is inside the cabin.
        half_length_m: Half the length of the body.
        half_width_m: Half the width of the body.
        cabin_m: The cabin's rear and front end and its half width.
        phone_z_m: Height of a phone whose position is given as (x, y).
    """

    anchors_m: tuple[tuple[float, float, float], ...]
    cabin: tuple[bool, ...]
    half_length_m: float = 2.3
    half_width_m: float = 0.95
    cabin_m: tuple[float, float, float] = (-2.1, 2.1, 0.85)
    phone_z_m: float = 1.0

    SIX: ClassVar[Car]
    """Four corners and two in the cabin."""

    def inside(self, at_m: Floats) -> Flags:
        """Return which of the positions (T, 2 or 3) are in the cabin."""
        rear, front, half_width = self.cabin_m
        x, y = at_m[:, 0], at_m[:, 1]
        inside: Flags = (x > rear) & (x < front) & (np.abs(y) < half_width)
        return inside

    @classmethod
    def of(cls, layout: Layout) -> Car:
        """Return the boxes around what a layout describes."""
        length, width = (max(abs(each[axis]) for each in layout.outline) for axis in (0, 1))
        along, across = zip(*layout.cabin, strict=True)
        return cls(
            anchors_m=tuple((each.x_m, each.y_m, each.z_m) for each in layout.anchors),
            cabin=tuple(each.mount is Mount.CABIN for each in layout.anchors),
            half_length_m=length,
            half_width_m=width,
            cabin_m=(min(along), max(along), max(map(abs, across))),
            phone_z_m=layout.phone_height_m,
        )


Car.SIX = Car(
    anchors_m=(
        (2.2, 0.9, 0.55),
        (2.2, -0.9, 0.55),
        (-2.2, 0.9, 0.55),
        (-2.2, -0.9, 0.55),
        (0.3, 0.0, 1.25),
        (-1.0, 0.0, 1.25),
    ),
    cabin=(False, False, False, False, True, True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """How clocks, receivers, the car's body and people disturb a round; one-sided where physics is.

    Attributes:
        stamp_noise_s: Standard deviation of a receive time stamp.
        clock_ppm: Clocks are drawn uniformly within plus or minus this.
        drift_ppm_s: Random walk of a clock in one second, standard deviation.
        slot_s: Length of a slot.
        probes: Where along a link, as fractions from the phone, the car's body is looked for.
        blocked_m: Mean extra path of a link that the car's body blocks, exponential.
        body_share: Share of links that somebody stands in, at random.
        body_m: Mean extra path of those, exponential.
        pocket_m: Mean extra path of a link that leaves through the carrier, exponential.
        pocket_db: What the carrier's body takes away.
        loss: Share of exchanges lost on a free link.
        loss_blocked: Share lost on a link that the car's body blocks.
        loss_pocket: Share lost on a link that leaves through the carrier.
        outage: Share of rounds in which nobody hears anything.
    """

    stamp_noise_s: float = 100e-12
    clock_ppm: float = 20.0
    drift_ppm_s: float = 0.005
    slot_s: float = 2e-3
    probes: tuple[float, ...] = (0.6,)
    blocked_m: float = 0.35
    body_share: float = 0.15
    body_m: float = 0.5
    pocket_m: float = 0.82
    pocket_db: float = 10.0
    loss: float = 0.03
    loss_blocked: float = 0.25
    loss_pocket: float = 0.10
    outage: float = 0.0

    @property
    def slot_ticks(self) -> int:
        """Return a slot in ticks: the anchor with index n answers n + 1 of them after POLL."""
        return round(self.slot_s / TICK_S)

    CLEAN: ClassVar[Channel]
    """Clocks and time stamps only: nothing in the way, nothing lost."""
    PROTOTYPE: ClassVar[Channel]
    """The channel on which the published figures of specs/virtual-uwb.md were measured."""
    POCKET: ClassVar[Channel]
    """Harder: two bodies in the way of a phone in a back pocket, a third of its frames lost."""
    GARAGE: ClassVar[Channel]
    """Harder: walls and neighbours: longer detours, noisier stamps, whole rounds lost."""


Channel.CLEAN = Channel(
    probes=(), body_share=0.0, pocket_m=0.0, loss=0.0, loss_blocked=0.0, loss_pocket=0.0
)
Channel.PROTOTYPE = Channel()
Channel.POCKET = Channel(pocket_m=1.27, loss_pocket=0.34, body_share=0.20, loss_blocked=0.35)
Channel.GARAGE = Channel(
    stamp_noise_s=200e-12,
    drift_ppm_s=0.05,
    probes=(0.3, 0.6, 0.85),
    blocked_m=0.8,
    body_share=0.30,
    body_m=0.8,
    loss=0.10,
    loss_blocked=0.40,
    loss_pocket=0.34,
    outage=0.02,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Clocks, in parts per million too fast: ``phone_ppm`` (T, 1), ``anchor_ppm`` (T, N)."""

    phone_ppm: Floats
    anchor_ppm: Floats

    @classmethod
    def draw(cls, channel: Channel, tracks: int, anchors: int, rng: np.random.Generator) -> Clocks:
        """Return clocks as a factory delivers them."""
        limit = channel.clock_ppm
        return cls(
            phone_ppm=rng.uniform(-limit, limit, (tracks, 1)),
            anchor_ppm=rng.uniform(-limit, limit, (tracks, anchors)),
        )

    def later(self, channel: Channel, elapsed_s: float, rng: np.random.Generator) -> Clocks:
        """Return the clocks after ``elapsed_s``, each drifted on its own."""
        walk = channel.drift_ppm_s * elapsed_s
        return Clocks(
            phone_ppm=self.phone_ppm + rng.normal(0, walk, self.phone_ppm.shape),
            anchor_ppm=self.anchor_ppm + rng.normal(0, walk, self.anchor_ppm.shape),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where the phones are in one round.

    Attributes:
        at_m: (T, 2) or (T, 3); with two columns the height is the car's ``phone_z_m``.
        carrier: (T, 2) unit vector from the phone into the carrier's body, zero where nobody is in
            the way; None for all zero.
    """

    at_m: Floats
    carrier: Floats | None = None


def simulate(
    channel: Channel,
    car: Car,
    where: Where,
    clocks: Clocks,
    rng: np.random.Generator,
    *,
    tampering: Tampering | None = None,
    final_slots: int | None = None,
) -> Rounds:
    """Return one ranging round of each of T tracks with all N anchors.

    The same arguments and the same state of ``rng`` give the same values.

    Args:
        channel: What disturbs.
        car: Anchors and metal.
        where: The phones.
        clocks: Of the phones and the anchors.
        rng: All chance comes from it.
        tampering: What somebody does to the frames.
        final_slots: Slots from POLL to FINAL; N + 1 when not given.
    """
    tracks, anchors = len(where.at_m), len(car.anchors_m)
    out = Rounds(
        distance_m=np.empty((tracks, anchors)),
        status=np.empty((tracks, anchors), np.uint8),
        clock_ratio_ppb=np.empty((tracks, anchors)),
        round1=np.empty((tracks, anchors)),
        span=np.empty((tracks, anchors)),
        path_m=np.empty((tracks, anchors)),
        shadow_db=np.zeros((tracks, anchors)),
    )
    for start in range(0, tracks, _CHUNK):
        rows = slice(start, min(start + _CHUNK, tracks))
        part = None if tampering is None else tampering.rows(rows, tracks)
        _simulate(channel, car, where, clocks, rng, part, final_slots or anchors + 1, rows, out)
    return out


def _simulate(
    channel: Channel,
    car: Car,
    where: Where,
    clocks: Clocks,
    rng: np.random.Generator,
    tampering: Tampering | None,
    final_slots: int,
    rows: slice,
    out: Rounds,
) -> None:
    at = where.at_m[rows]
    anchors = np.asarray(car.anchors_m)
    count = len(anchors)
    dx, dy = anchors[:, 0] - at[:, :1].repeat(count, 1), anchors[:, 1] - at[:, 1:2].repeat(count, 1)
    dz = anchors[:, 2] - (at[:, 2:3] if at.shape[1] > 2 else car.phone_z_m)
    distance = np.multiply(dx, dx, out=out.path_m[rows])
    distance += dy * dy
    distance += dz * dz
    np.sqrt(distance, out=distance)
    extra, shadow, loss = _obstacles(channel, car, where, rows, (dx, dy), rng)
    # From here on in ticks, out and back.
    extra += distance
    extra *= 2 / (LIGHT_M_S * TICK_S)
    gap = None
    if tampering is not None:
        extra += (tampering.poll_s + tampering.response_s) * (1 / TICK_S)
        gap = (tampering.final_s - np.asarray(tampering.poll_s)) * (1 / TICK_S)
    ranged, ratio = out.distance_m[rows], out.clock_ratio_ppb[rows]
    _exchange(
        channel,
        extra,
        gap,
        clocks.phone_ppm[rows],
        clocks.anchor_ppm[rows],
        rng,
        final_slots,
        _Stamps(round1=out.round1[rows], span=out.span[rows], metres=ranged, ratio=ratio),
    )
    lost = rng.random(loss.shape, dtype=np.float32) < loss
    if channel.outage:
        lost |= rng.random((len(at), 1), dtype=np.float32) < channel.outage
    status = out.status[rows]
    np.multiply(ranged < 0, np.uint8(NEGATIVE_DISTANCE), out=status)
    if tampering is not None:
        lost |= tampering.lost
        wrong = np.broadcast_to(tampering.sts_failed, status.shape)
        status[wrong] = STS_FAILED
        np.copyto(ranged, np.nan, where=wrong)
        np.copyto(ratio, np.nan, where=wrong)
    np.putmask(status, lost, np.uint8(RX_TIMEOUT))
    np.putmask(ranged, lost, np.nan)
    np.putmask(ratio, lost, np.nan)
    if shadow is not None:
        out.shadow_db[rows] = shadow


def _obstacles(
    channel: Channel,
    car: Car,
    where: Where,
    rows: slice,
    to_anchor: tuple[Floats, Floats],
    rng: np.random.Generator,
) -> tuple[Floats, Floats | None, NDArray[np.float32]]:
    """Return the extra path (m), the shadow (dB) and the loss of each link."""
    at = where.at_m[rows]
    dx, dy = to_anchor
    shape = dx.shape
    loss = np.full(shape, channel.loss, np.float32)
    extra = np.zeros(shape)
    if channel.probes:
        blocked = np.zeros(shape, bool)
        length, width = car.half_length_m - 0.1, car.half_width_m - 0.1
        for share in channel.probes:
            along, across = dx * share, dy * share
            along += at[:, :1]
            across += at[:, 1:2]
            blocked |= (np.abs(along, out=along) < length) & (np.abs(across, out=across) < width)
        inside = car.inside(at)
        if inside.any():
            blocked[inside] = ~np.asarray(car.cabin)
        np.multiply(blocked, rng.standard_exponential(shape, dtype=np.float32), out=extra)
        extra *= channel.blocked_m
        loss += blocked * np.float32(channel.loss_blocked - channel.loss)
    if channel.body_share:
        # One uniform draw decides both whether somebody stands there and how far the detour is.
        chance = rng.random(shape, dtype=np.float32)
        stands = np.flatnonzero(chance < channel.body_share)
        with np.errstate(divide="ignore"):
            detour = -np.log(chance.ravel()[stands] / np.float32(channel.body_share))
        extra.ravel()[stands] += channel.body_m * np.minimum(detour, np.float32(20))
    shadow: Floats | None = None
    if where.carrier is not None:
        carrier = where.carrier[rows]
        through = carrier[:, :1] * dx + carrier[:, 1:2] * dy > 0
        extra += through * rng.exponential(channel.pocket_m, shape)
        loss[through] = np.maximum(loss[through], channel.loss_pocket)
        shadow = np.where(through, channel.pocket_db, 0.0)
    return extra, shadow, loss


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stamps:
    """Where one exchange puts its results; each (T, N)."""

    round1: Floats
    span: Floats
    metres: Floats
    ratio: Floats


def _exchange(
    channel: Channel,
    out_and_back: Floats,
    gap: Floats | None,
    phone_ppm: Floats,
    anchor_ppm: Floats,
    rng: np.random.Generator,
    final_slots: int,
    into: _Stamps,
) -> None:
    """Put distance (m), clock ratio (ppb), and the ticks of phone and anchors in their places.

    Local times are counted in ticks. RESPONSE leaves a whole number of slots after the stamp of
    POLL in the anchor's clock, FINAL after POLL in the phone's; only arrivals are noisy.

    Args:
        channel: Noise and slots.
        out_and_back: Flight of POLL and RESPONSE together, ticks.
        gap: How much longer FINAL flies than POLL, ticks; None for no difference.
        phone_ppm: (T, 1).
        anchor_ppm: (T, N).
        rng: All chance comes from it.
        final_slots: Slots from POLL to FINAL.
        into: The places.
    """
    slot = channel.slot_ticks
    reply1 = slot * (1.0 + np.arange(out_and_back.shape[1]))
    span = slot * float(final_slots)
    phone = 1 + phone_ppm * 1e-6
    ratio = anchor_ppm * 1e-6
    ratio += 1
    ratio *= 1 / phone
    # POLL's stamp is late by p, RESPONSE is sent so much late and stamped late by r, FINAL by f.
    # Only p + r and f - p are ever seen: two normal variables of twice the variance of one stamp,
    # correlated by -1/2, which are made of two independent ones.
    late, early = rng.standard_normal((2, *out_and_back.shape), dtype=np.float32)
    late *= np.float32(channel.stamp_noise_s / TICK_S * sqrt(2))
    early *= np.float32(channel.stamp_noise_s / TICK_S * sqrt(1.5))
    round1 = np.multiply(out_and_back, phone, out=into.round1)
    round1 += late
    late *= np.float32(0.5)
    early -= late
    anchor_span = np.multiply(ratio, span, out=into.span)
    anchor_span += early
    if gap is not None:
        anchor_span += gap * (1 + anchor_ppm * 1e-6)
    np.rint(anchor_span, out=anchor_span)
    round1 += np.divide(reply1, ratio, out=ratio)
    np.rint(round1, out=round1)
    # round1 * round2 - reply1 * reply2 with round2 = anchor_span - reply1, reply2 = span - round1.
    flight = np.multiply(round1, anchor_span, out=into.metres)
    flight -= reply1 * span
    flight /= np.add(anchor_span, span, out=ratio)
    flight *= TICK_S * LIGHT_M_S
    faster = np.divide(span * 1e9, anchor_span, out=into.ratio)
    faster -= 1e9


def rounds_per_second(batches: int = 10, *, seed: int = 1) -> float:
    """Return how many rounds with six anchors one core simulates in a second, all effects on."""
    rng = np.random.default_rng(seed)
    channel, car, tracks = Channel.PROTOTYPE, Car.SIX, 20_000
    where = Where(at_m=rng.uniform(-10, 10, (tracks, 2)))
    clocks = Clocks.draw(channel, tracks, len(car.anchors_m), rng)
    simulate(channel, car, where, clocks, rng)
    start = process_time()
    for _ in range(batches):
        simulate(channel, car, where, clocks, rng)
    return batches * tracks / (process_time() - start)
