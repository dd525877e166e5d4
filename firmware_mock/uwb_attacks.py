"""Attacks on UWB ranging, each at the layer where it acts on the events of a round.

What delays, advances or destroys a frame becomes a :class:`~firmware_mock.uwb_channel.Tampering`.
An attacker without the key knows no STS: an early pulse is accepted with the chance that the
chip-level receiver shows (:mod:`firmware_mock.uwb_receiver`), and a replay fails the STS check.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import numpy as np

from firmware_mock.uwb_channel import LIGHT_M_S, Tampering

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "CHIP_S",
    "EARLY_CHANCE",
    "Advance",
    "Attack",
    "EarlyInjection",
    "Jamming",
    "MixDown",
    "Relay",
    "Replay",
]

CHIP_S: Final = 1 / 499.2e6
"""One chip, 2.003 ns: 0.6 m of path."""
_EARLIEST_CHIPS: Final = 64
_LEAST_CHIPS: Final = 4

EARLY_CHANCE: Final[dict[str, dict[int, float]]] = {
    "first path > 25 %": {10: 0, 14: 0.032, 18: 0.343, 20: 0.622, 24: 0.949, 30: 0.998},
    "first path > 40 %": {10: 0, 14: 0, 18: 0.018, 20: 0.109, 24: 0.584, 30: 0.968},
    "first path > 50 %": {10: 0, 14: 0, 18: 0.002, 20: 0.020, 24: 0.304, 30: 0.903},
    "peak quality": {10: 0, 14: 0.032, 18: 0.299, 20: 0.537, 24: 0.789, 30: 0.506},
    "coherence": {10: 0, 14: 0.0003, 18: 0.0057, 20: 0.0063, 24: 0.0067, 30: 0.0073},
    "normalised": {10: 0, 14: 0, 18: 0, 20: 0, 24: 0, 30: 0},
}
"""Receiver to attacker's power over the victim (dB) to the chance that one frame is accepted early.

Measured at chip level, 3000 frames a point; see specs/virtual-uwb.md.
"""


class Attack(Protocol):
    """Somebody on the air."""

    def tampering(
        self, tracks: int, anchors: int, rng: np.random.Generator, *, slot_s: float
    ) -> Tampering:
        """Return what is done to the next round of each of ``tracks``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Carries frames both ways between distant places; it can only add time.

    Attributes:
        path_m: Length of the relayed way, one direction.
        delay_s: What the relay's electronics add, one direction.
    """

    path_m: float
    delay_s: float = 20e-9

    def tampering(
        self,
        tracks: int,  # noqa: ARG002 - one value for all
        anchors: int,  # noqa: ARG002
        rng: np.random.Generator,  # noqa: ARG002
        *,
        slot_s: float,  # noqa: ARG002
    ) -> Tampering:
        """Return every frame late by the way and the delay."""
        late = self.path_m / LIGHT_M_S + self.delay_s
        return Tampering(poll_s=late, response_s=late, final_s=late)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """Makes frames arrive early by given times, as an attacker who knows the STS could.

    The tool that measures what a decision does with an advance, whoever achieved it. A time of
    one frame only breaks the agreement of the clocks; all three alike do not.
    """

    poll_s: float = 0.0
    response_s: float = 0.0
    final_s: float = 0.0
    anchors: frozenset[int] | None = None
    """Anchors that are fooled; None for all."""

    def tampering(
        self,
        tracks: int,  # noqa: ARG002 - one value for all
        anchors: int,
        rng: np.random.Generator,  # noqa: ARG002
        *,
        slot_s: float,  # noqa: ARG002
    ) -> Tampering:
        """Return the frames early."""
        fooled = np.array([[self.anchors is None or n in self.anchors for n in range(anchors)]])
        return Tampering(
            poll_s=-self.poll_s * fooled,
            response_s=-self.response_s * fooled,
            final_s=-self.final_s * fooled,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyInjection:
    """Random pulses over a frame (Ghost Peak): sometimes one is taken for the first path.

    Attributes:
        power_db: Attacker's power over the victim's, at the receiver.
        receiver: A key of ``chance``.
        frames: Which frames are attacked; "poll" and "final" are received by the anchors,
            "response" by the phone.
        anchors: Anchors whose exchange is attacked; None for all. Each received frame is a chance
            of its own.
        chance: Receiver to power to the chance of one frame; measured when not given.
    """

    power_db: float
    receiver: str = "first path > 25 %"
    frames: frozenset[str] = frozenset({"response"})
    anchors: frozenset[int] | None = None
    chance: Mapping[str, Mapping[int, float]] = field(default_factory=lambda: EARLY_CHANCE)

    GHOST_PEAK: ClassVar[EarlyInjection]
    """A cheap chip beside the phone: a few frames in a hundred."""

    @property
    def frame_chance(self) -> float:
        """Return the chance of one frame, between the measured powers on a straight line."""
        table = self.chance[self.receiver]
        powers = sorted(table)
        return float(np.interp(self.power_db, powers, [table[power] for power in powers]))

    def tampering(
        self,
        tracks: int,
        anchors: int,
        rng: np.random.Generator,
        *,
        slot_s: float,  # noqa: ARG002 - frames are hit one by one
    ) -> Tampering:
        """Return frames early by 4 to 64 chips where the chance came true."""
        reach = np.array([[self.anchors is None or n in self.anchors for n in range(anchors)]])

        def early(frame: str) -> NDArray[np.float64] | float:
            if frame not in self.frames:
                return 0.0
            hit = (rng.random((tracks, anchors)) < self.frame_chance) & reach
            chips = rng.integers(_LEAST_CHIPS, _EARLIEST_CHIPS + 1, (tracks, anchors))
            advance: NDArray[np.float64] = hit * chips * -CHIP_S
            return advance

        return Tampering(poll_s=early("poll"), response_s=early("response"), final_s=early("final"))


EarlyInjection.GHOST_PEAK = EarlyInjection(power_db=14.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Sends recorded frames of an older round: their STS belongs to another index or key.

    Attributes:
        index_back: How many STS indices ago the frames were recorded; 0 only under ``other_ursk``.
        other_ursk: Whether they were recorded under another session's URSK.
    """

    index_back: int = 12
    other_ursk: bool = False

    def tampering(
        self,
        tracks: int,
        anchors: int,
        rng: np.random.Generator,  # noqa: ARG002 - a replay leaves nothing to chance
        *,
        slot_s: float,  # noqa: ARG002
    ) -> Tampering:
        """Return frames whose STS does not correlate, unless they are the round's own."""
        wrong = self.index_back != 0 or self.other_ursk
        return Tampering(sts_failed=np.full((tracks, anchors), wrong))


@dataclass(frozen=True, slots=True, kw_only=True)
class MixDown:
    """Shifts the phone's carrier so that its clock seems to run at another rate.

    Every frame comes early in proportion to the time since POLL: RESPONSE as if its anchor replied
    quicker, FINAL as if the phone had.

    Attributes:
        skew_ppm: Apparent change of rate; positive shortens the range.
        response_only: Whether only RESPONSE is bent, which no anchor can see in its clock ratio.
    """

    skew_ppm: float
    response_only: bool = False

    def tampering(
        self,
        tracks: int,  # noqa: ARG002 - one value for all
        anchors: int,
        rng: np.random.Generator,  # noqa: ARG002
        *,
        slot_s: float,
    ) -> Tampering:
        """Return RESPONSE and FINAL early by the skew over the time that passed."""
        skew = self.skew_ppm * 1e-6
        response: NDArray[np.float64] = np.multiply(-skew * slot_s, 1 + np.arange(anchors))
        final = 0.0 if self.response_only else -skew * slot_s * (anchors + 1)
        return Tampering(response_s=response[None], final_s=final)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jamming:
    """Destroys frames.

    Attributes:
        share: Share of exchanges destroyed.
        whole_rounds: Whether all anchors lose the same rounds.
    """

    share: float
    whole_rounds: bool = False

    def tampering(
        self,
        tracks: int,
        anchors: int,
        rng: np.random.Generator,
        *,
        slot_s: float,  # noqa: ARG002 - jammed is jammed
    ) -> Tampering:
        """Return exchanges lost."""
        lost = rng.random((tracks, 1 if self.whole_rounds else anchors)) < self.share
        return Tampering(lost=np.broadcast_to(lost, (tracks, anchors)))
