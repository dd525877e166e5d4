"""The air that virtual UWB chips share: virtual time, places, the channel, collisions, attackers.

Nothing here looks at a wall clock: the owner advances the time. Of two rounds that overlap on one
channel and preamble code, neither is received.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Final

import numpy as np

from firmware_mock.uwb_attacks import Attack, Replay
from firmware_mock.uwb_channel import (
    RX_TIMEOUT,
    Car,
    Channel,
    Clocks,
    Rounds,
    Tampering,
    Where,
    simulate,
)
from firmware_mock.uwb_run import RECEIVED, InitiatorRound

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_mock.uwb_paths import Walk
    from firmware_mock.uwb_run import Event, Initiating, Responding
    from firmware_mock.uwb_session import Opening

__all__ = ["Burst", "Station", "UwbAir"]

_RECORDED: Final = 64


@dataclass(slots=True, kw_only=True)
class Station:
    """Where one radio is. The vehicle's anchors are in the air's ``car``.

    Attributes:
        at_m: (x, y) or (x, y, z), metres in the car's frame.
        carrier: Unit vector from it into the body of whoever carries it; zero with a free view.
        walk: If set, the way it takes instead, with ``track`` and the time ``from_s`` of its start.
        repeat: Whether it walks the way over and over.
    """

    at_m: tuple[float, ...] = (5.0, 0.0)
    carrier: tuple[float, float] = (0.0, 0.0)
    walk: Walk | None = None
    track: int = 0
    from_s: float = 0.0
    repeat: bool = False
    ppm: float | None = field(default=None, init=False)
    ppm_ns: int = field(default=0, init=False)

    def where(self, now_s: float) -> Where:
        """Return the place as the channel takes it."""
        if self.walk is None:
            return Where(at_m=np.array([self.at_m]), carrier=np.array([self.carrier]))
        walked_s = now_s - self.from_s
        if self.repeat:
            walked_s %= float(self.walk.at_s[-1]) + 1.0
        block = int(np.searchsorted(self.walk.at_s, walked_s, side="right")) - 1
        block = min(max(block, 0), len(self.walk.at_s) - 1)
        one = slice(self.track, self.track + 1)
        return Where(at_m=self.walk.at_m[block, one], carrier=self.walk.carrier[block, one])


@dataclass(eq=False, slots=True, kw_only=True)
class Burst:
    """One round on the air."""

    start_ns: int
    end_ns: int
    radio: tuple[int, int]
    collided: bool = False


class UwbAir:
    """One car, the people around it, and what disturbs them.

    Attributes:
        car: Anchors and metal.
        channel: Channel model; may be changed at any time.
        attacks: Who is on the air now; may be changed at any time.
        now_ns: Virtual time.
    """

    def __init__(
        self, *, car: Car = Car.SIX, channel: Channel = Channel.PROTOTYPE, seed: int = 0
    ) -> None:
        self.car = car
        self.channel = channel
        self.attacks: list[Attack] = []
        self.now_ns = 0
        self._rng = np.random.default_rng(seed)
        self._anchor_ppm = Clocks.draw(channel, 1, len(car.anchors_m), self._rng).anchor_ppm
        self._drifted_ns = 0
        self._events: list[tuple[int, int, int, Callable[[], object], object]] = []
        self._order = count()
        self._bursts: list[Burst] = []
        self._listeners: list[Responding] = []
        self._recorded: deque[Opening] = deque(maxlen=_RECORDED)

    @property
    def next_ns(self) -> int | None:
        """Return when the next event is due; None when nothing is under way."""
        return self._events[0][0] if self._events else None

    def advance(self, to_ns: int) -> None:
        """Let everything happen that is due up to ``to_ns``; a time in the past does nothing."""
        while self._events and self._events[0][0] <= to_ns:
            when, _, _, call, _ = heapq.heappop(self._events)
            self.now_ns = max(self.now_ns, when)
            call()
        self.now_ns = max(self.now_ns, to_ns)

    def schedule(
        self, when_ns: int, kind: Event, call: Callable[[], object], *, owner: object = None
    ) -> None:
        """Call ``call`` at a virtual time, unless :meth:`forget` is told of its owner before."""
        heapq.heappush(self._events, (when_ns, kind, next(self._order), call, owner))

    def forget(self, owner: object) -> None:
        """Drop the events of an owner."""
        self._events = [each for each in self._events if each[4] is not owner]
        heapq.heapify(self._events)

    def listen(self, listener: Responding) -> None:
        """Let a responder hear what is sent."""
        self._listeners.append(listener)

    def leave(self, listener: Responding) -> None:
        """Let it hear nothing more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def burst(self, start_ns: int, end_ns: int, radio: tuple[int, int]) -> Burst:
        """Occupy the air for one round; whoever overlaps collides with it."""
        self._bursts = [each for each in self._bursts if each.end_ns > start_ns]
        new = Burst(start_ns=start_ns, end_ns=end_ns, radio=radio)
        for other in self._bursts:
            if other.radio == radio:
                other.collided = new.collided = True
        self._bursts.append(new)
        return new

    def exchange(self, run: Initiating, round_: int, burst: Burst) -> InitiatorRound:
        """Carry out one round that was on the air, and tell all who heard it."""
        session = run.session
        opening = self._on_air(session.open(round_))
        measured = self._measure(run)
        status = measured.status[0]
        answering: list[Responding] = []
        for listener in self._hearing(opening, burst):
            if all(status[n] == RX_TIMEOUT for n in listener.anchors):
                continue
            if listener.session.hear(opening, burst.start_ns):
                answering.append(listener)
            else:
                listener.failed(measured)
        sent: list[bytes | None] = [None] * session.grid.responders
        for listener in answering:
            for n in listener.anchors:
                if n < len(sent) and status[n] in RECEIVED:
                    sent[n] = listener.session.respond(n)
        round1 = [
            int(measured.round1[0, n]) if good else None
            for n, good in enumerate(session.accept(sent))
        ]
        slot_ticks = replace(self.channel, slot_s=session.slot_ns / 1e9).slot_ticks
        closing = session.close(round1, slot_ticks * (session.grid.responders + 1))
        for listener in answering:
            listener.finished(closing, measured, slot_ticks)
        return InitiatorRound(
            block=session.block,
            round=round_,
            sts_index=session.poll_index,
            responders=sum(1 << n for n, ticks in enumerate(round1) if ticks is not None),
        )

    def _on_air(self, opening: Opening) -> Opening:
        """Return what is heard: the frames sent, or old ones that an attacker sends over them."""
        recorded = [*self._recorded]
        self._recorded.append(opening)
        if recorded and any(isinstance(each, Replay) for each in self.attacks):
            return recorded[-1]
        return opening

    def _hearing(self, opening: Opening, burst: Burst) -> list[Responding]:
        """Return who takes the round for its own: by its addresses, or else by its time."""
        if burst.collided:
            return []
        tuned = [each for each in self._listeners if each.radio == burst.radio]
        tuned = [each for each in tuned if each.open_at(burst.start_ns)]
        mine = [each for each in tuned if each.session.knows(opening.pre_poll)]
        receivers = [each.receiver for each in mine]
        strange = [
            each
            for each in tuned
            if each.receiver not in receivers and each.session.expects(burst.start_ns)
        ]
        return mine + strange

    def _measure(self, run: Initiating) -> Rounds:
        """Return what the channel and the attackers make of a round with all anchors."""
        slot_s = run.session.slot_ns / 1e9
        anchors = len(self.car.anchors_m)
        tampering = Tampering()
        for attack in self.attacks:
            if not isinstance(attack, Replay):  # its frames are really sent, see _on_air
                tampering += attack.tampering(1, anchors, self._rng, slot_s=slot_s)
        return simulate(
            replace(self.channel, slot_s=slot_s),
            self.car,
            run.station.where(self.now_ns / 1e9),
            self._clocks(run.station),
            self._rng,
            tampering=tampering,
            final_slots=run.session.grid.responders + 1,
        )

    def _clocks(self, station: Station) -> Clocks:
        """Return the clocks as they run now, each drifted since it was last looked at."""
        limit = self.channel.clock_ppm
        if station.ppm is None:
            station.ppm, station.ppm_ns = float(self._rng.uniform(-limit, limit)), self.now_ns
        walked = [
            self.channel.drift_ppm_s * (self.now_ns - since_ns) / 1e9
            for since_ns in (station.ppm_ns, self._drifted_ns)
        ]
        station.ppm += float(self._rng.normal(0, walked[0]))
        self._anchor_ppm = self._anchor_ppm + self._rng.normal(0, walked[1], self._anchor_ppm.shape)
        station.ppm_ns = self._drifted_ns = self.now_ns
        return Clocks(phone_ppm=np.array([[station.ppm]]), anchor_ppm=self._anchor_ppm)
