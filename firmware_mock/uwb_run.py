"""Sessions in the air's events: a phone's, which initiates, and a vehicle's, which responds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from dkey.errors import LocalFault
from dkey.ranging.measurement import AnchorRange, RangingRound
from dkey.ranging.twr import TwrStamps
from firmware_mock.uwb_channel import NEGATIVE_DISTANCE, OK, RX_TIMEOUT, STS_FAILED

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_mock.uwb_air import Station, UwbAir
    from firmware_mock.uwb_channel import Rounds
    from firmware_mock.uwb_session import Closing, InitiatorSession, ResponderSession

__all__ = ["RECEIVED", "Event", "Initiating", "InitiatorRound", "Responding"]

RECEIVED: Final = (OK, NEGATIVE_DISTANCE)
"""Status codes that come with a distance."""
_MAC_DECODE: Final = 0x25


class Event(IntEnum):
    """What happens first on the same nanosecond."""

    EXCHANGE = 0
    BLOCK_END = 1
    START = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class InitiatorRound:
    """What the phone's end knows of a round: that it took place, and who answered.

    Attributes:
        block: Ranging block.
        round: Round within it.
        sts_index: STS index of the POLL.
        responders: Bit n is set when the response of responder n was good.
    """

    block: int
    round: int
    sts_index: int
    responders: int


class _Run:
    """A session that takes part in the air's events until it is stopped."""

    def __init__(self, air: UwbAir, on_fault: Callable[[], None]) -> None:
        self.air = air
        self.running = False
        self._on_fault = on_fault

    def _guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            if not self.running:
                return
            try:
                work()
            except LocalFault:  # the STS index is used up
                self.running = False
                self._on_fault()

        return call


class Initiating(_Run):
    """A phone's session on the air."""

    def __init__(
        self,
        air: UwbAir,
        station: Station,
        session: InitiatorSession,
        report: Callable[[InitiatorRound], None],
        on_fault: Callable[[], None],
    ) -> None:
        super().__init__(air, on_fault)
        self.station = station
        self.session = session
        self._report = report
        told = session.parameters
        self.radio = (told.channel, told.sync_code)

    def start(self) -> None:
        """Begin with block 0."""
        self.running = True
        self._plan()

    def stop(self) -> None:
        """Send nothing more."""
        self.running = False
        self.air.forget(self)

    def _plan(self) -> None:
        starts = self.session.starts_ns()
        for round_, start_ns in starts:
            last = round_ == starts[-1][0]
            begin = partial(self._go, round_, start_ns, last=last)
            self.air.schedule(start_ns, Event.START, self._guarded(begin), owner=self)

    def _go(self, round_: int, start_ns: int, *, last: bool) -> None:
        end_ns = start_ns + self.session.round_ns
        burst = self.air.burst(start_ns, end_ns, self.radio)

        def finish() -> None:
            self._report(self.air.exchange(self, round_, burst))
            if last and self.running:  # whoever was told may have stopped it
                self.session.next_block()
                self._plan()

        self.air.schedule(end_ns, Event.EXCHANGE, self._guarded(finish), owner=self)


class Responding(_Run):
    """A vehicle's session on the air.

    Attributes:
        anchors: Index of each anchor that takes part through this chip.
        receiver: The chip; it knows which frames belong to another of its sessions.
    """

    def __init__(
        self,
        air: UwbAir,
        session: ResponderSession,
        report: Callable[[RangingRound], None],
        on_fault: Callable[[], None],
        *,
        anchor: int | None = None,
        receiver: object = None,
    ) -> None:
        """Make a run that does not listen yet.

        Args:
            air: The air.
            session: This end.
            report: Told of each round.
            on_fault: Called when the STS index is used up.
            anchor: The one anchor that this chip is; by default it is all of the car's.
            receiver: The chip; by default one of its own.
        """
        super().__init__(air, on_fault)
        self.session = session
        every = range(min(len(air.car.anchors_m), session.grid.responders))
        self.anchors = tuple(each for each in every if anchor in (None, each))
        self.receiver = receiver or self
        self._report = report
        told = session.parameters
        self.radio = (told.channel, told.sync_code)
        self._told = 0
        self._wrong: tuple[AnchorRange, ...] | None = None

    def start(self) -> None:
        """Listen from block 0 on."""
        self.running = True
        self.air.listen(self)
        self._plan()

    def stop(self) -> None:
        """Hear nothing more."""
        self.running = False
        self.air.forget(self)
        self.air.leave(self)

    def open_at(self, start_ns: int) -> bool:
        """Return whether the receiver is on when a round begins."""
        return start_ns >= self.session.parameters.time0_ns - self.session.slot_ns // 2

    def failed(self, measured: Rounds) -> None:
        """Remember a POLL without the STS expected: it may be somebody else's.

        It is what the block comes to, unless a round of this session is heard yet: a chip tells of
        each round once.
        """
        self._wrong = tuple(
            AnchorRange(
                anchor=n,
                status=RX_TIMEOUT if measured.status[0, n] == RX_TIMEOUT else STS_FAILED,
            )
            for n in self.anchors
        )

    def finished(self, closing: Closing, measured: Rounds, slot_ticks: int) -> None:
        """Report a round, with distances from both ends' time stamps."""
        data = self.session.finish(closing)
        times = {} if data is None else {each.responder: each for each in data.responders}
        found = []
        physics = measured.ranges(0)
        for n in self.anchors:
            physical, time = physics[n], times.get(n)
            status = physical.status
            if data is None and status in RECEIVED:
                found.append(AnchorRange(anchor=n, status=_MAC_DECODE))
            elif data is None or time is None or status not in RECEIVED:
                lost = RX_TIMEOUT if status in RECEIVED else status
                found.append(AnchorRange(anchor=n, status=lost))
            else:
                stamps = TwrStamps(
                    poll_tx=0,
                    poll_rx=0,
                    response_tx=slot_ticks * (n + 1),
                    response_rx=time.response_delta,
                    final_tx=data.final_delta,
                    final_rx=int(measured.span[0, n]),
                )
                found.append(
                    replace(
                        physical,
                        distance_cm=stamps.distance_m * 100,
                        clock_ratio_ppb=stamps.clock_ratio_ppb,
                    )
                )
        self._tell(tuple(found))

    def _tell(self, ranges: tuple[AnchorRange, ...]) -> None:
        self._told += 1
        session = self.session
        self._report(
            RangingRound(
                session_id=session.parameters.configuration.session_id,
                block=session.block & 0xFFFF,
                round=session.round,
                sts_index=session.poll_index,
                at_s=self.air.now_ns / 1e9,
                ranges=ranges,
            )
        )

    def _plan(self) -> None:
        session = self.session
        end_ns = session.block_end_ns + session.slot_ns // 2
        self.air.schedule(end_ns, Event.BLOCK_END, self._guarded(self._block_end), owner=self)

    def _block_end(self) -> None:
        silence = tuple(AnchorRange(anchor=n, status=RX_TIMEOUT) for n in self.anchors)
        rounds = self.session.starts_ns()
        for round_, _ in rounds[self._told :]:
            self.session.miss(round_)
            self._tell(self._wrong or silence)
            if not self.running:  # whoever was told may have stopped it
                return
        self._told, self._wrong = 0, None
        self.session.next_block()
        self._plan()
