"""The two ends of a CCC/Aliro ranging session inside a virtual UWB chip.

Each end derives keys, addresses, hopping and the STS of every frame alone, from its own ranging
secret and configuration. Nothing is shared but what goes over the air: bytes of SP0 frames, and
the bits of the STS, which the receiver compares with its own.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dkey.crypto.secret import Secret  # noqa: TC001 - part of the public signature
from dkey.errors import AuthenticationError, ReplayError, WireError
from dkey.ranging.configuration import RangingConfiguration  # noqa: TC001
from dkey.ranging.frames import (
    MHR_SIZE,
    VEHICLE_OUI,
    FinalData,
    FrameId,
    FrameReceiver,
    FrameSender,
    Mhr,
    PrePoll,
    ResponderTime,
)
from dkey.ranging.grid import Grid, Place, rstu_to_ns
from dkey.ranging.hopping import Hopping, HopStep, MacMode
from dkey.ranging.keys import RangingKeys, RoundKeys
from dkey.ranging.sts import sts_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Closing",
    "InitiatorSession",
    "Opening",
    "ResponderSession",
    "SessionParameters",
]

_FRAME_FAULTS: Final = (WireError, AuthenticationError, ReplayError)
_SLOTS_BEFORE_RESPONSES: Final = 2
_ONE_ROUND: Final = MacMode()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParameters:
    """All that one end was told about a session.

    Attributes:
        ursk: Ranging secret, 32 bytes.
        configuration: What goes into the keys.
        time0_ns: When block 0 begins, on the clock of the air.
        channel: UWB channel; ends on different ones do not hear each other.
        sync_code: Preamble code; the same.
        hop_key: Hopping key, 4 bytes as a number.
        continuous: Whether every block hops.
        adaptive: Whether a block hops after a round that failed.
        mode: One or two rounds in a block.
        oui: Of the profile's SP0 frames.
    """

    ursk: Secret
    configuration: RangingConfiguration
    time0_ns: int
    channel: int = 9
    sync_code: int = 9
    hop_key: int = 0
    continuous: bool = False
    adaptive: bool = False
    mode: MacMode = _ONE_ROUND
    oui: int = VEHICLE_OUI


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What the initiator sends first: the Pre-POLL frame and the POLL's STS."""

    pre_poll: bytes
    poll: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What it sends last: the FINAL's STS and the Final_Data frame."""

    final: bytes
    final_data: bytes


class _End:
    """What both ends compute alike.

    Attributes:
        parameters: What this end was told.
        grid: Slots and indices.
        block: The block that this end is in.
        first: First round of that block.
        hopped: Whether that round was hopped to.
    """

    def __init__(self, parameters: SessionParameters) -> None:
        configuration = parameters.configuration
        self.parameters = parameters
        self.grid = Grid(configuration)
        self.hopping = Hopping(
            key=parameters.hop_key,
            rounds=configuration.rounds_per_block,
            mode=parameters.mode,
            continuous=parameters.continuous,
            adaptive=parameters.adaptive,
        )
        self.keys = RangingKeys(parameters.ursk, configuration.to_bytes(), configuration.sts_index0)
        self.block = 0
        self.first = 0
        self.hopped = False
        self._keys: RoundKeys | None = None
        self._place = Place(0, 0)

    @property
    def round(self) -> int:
        """Return the round that was opened last."""
        return self._place.round

    @property
    def poll_index(self) -> int:
        """Return the STS index of the POLL of the round that was opened last."""
        return self._index(1)

    def starts_ns(self) -> tuple[tuple[int, int], ...]:
        """Return the rounds of this block, each with the time at which it begins."""
        return tuple((each, self.time_ns(each)) for each in self.hopping.both(self.first))

    def time_ns(self, round_: int) -> int:
        """Return when a round of this block begins."""
        place = Place(self.block, round_)
        return self.parameters.time0_ns + rstu_to_ns(self.grid.start_rstu(place))

    @property
    def block_end_ns(self) -> int:
        """Return when this block is over."""
        whole = (self.block + 1) * self.grid.block_rstu
        return self.parameters.time0_ns + rstu_to_ns(whole)

    @property
    def round_ns(self) -> int:
        """Return how long a round takes."""
        return rstu_to_ns(self.grid.round_rstu)

    @property
    def slot_ns(self) -> int:
        """Return how long a slot takes."""
        return rstu_to_ns(self.grid.slot_rstu)

    def _enter(self, place: Place) -> None:
        """Derive the keys of a round."""
        self._keys = self.keys.round(self.grid.sts_index(place))
        self._place = place

    def _index(self, slot: int) -> int:
        return self.grid.sts_index(Place(self._place.block, self._place.round, slot))

    @property
    def _final_slot(self) -> int:
        return _SLOTS_BEFORE_RESPONSES + self.grid.responders

    def _sts(self, slot: int) -> bytes:
        assert self._keys is not None
        return sts_bytes(self._keys.sts, self.keys.sts_block(self._index(slot)))

    def _is_mine(self, sts: bytes, slot: int) -> bool:
        return hmac.compare_digest(sts, self._sts(slot))


class InitiatorSession(_End):
    """The phone's end: decides when, and tells its time stamps in Final_Data."""

    def __init__(self, parameters: SessionParameters, *, frame_counter: int = 0) -> None:
        """Make a session at its first block.

        Args:
            parameters: What this end was told.
            frame_counter: Where an earlier session under the same ranging secret stopped.
        """
        super().__init__(parameters)
        self._sender = FrameSender(self.keys.addresses, parameters.oui, counter=frame_counter)
        self._good = 0

    @property
    def frame_counter(self) -> int:
        """Return the counter of the next SP0 frame; none comes twice under a ranging secret."""
        return self._sender.counter

    def open(self, round_: int) -> Opening:
        """Begin a round of this block.

        Raises:
            LocalFault: The STS index is used up.
        """
        self._enter(Place(self.block, round_))
        announced = PrePoll(
            session_id=self.parameters.configuration.session_id,
            poll_sts_index=self._index(1),
            block=self.block & 0xFFFF,
            hop=self.hopped,
            round=round_,
        )
        frame = self._sender.seal(self.keys.pre_poll, FrameId.PRE_POLL, announced.to_bytes())
        return Opening(pre_poll=frame, poll=self._sts(1))

    def accept(self, responses: Sequence[bytes | None]) -> tuple[bool, ...]:
        """Return which of the responses received, by responder, carry the STS expected of them."""
        return tuple(
            sts is not None and self._is_mine(sts, self.grid.response_slot(responder))
            for responder, sts in enumerate(responses[: self.grid.responders])
        )

    def close(self, round1: Sequence[int | None], span: int) -> Closing:
        """End the round.

        Args:
            round1: Ticks from POLL's departure to each good RESPONSE's arrival, None for the rest.
            span: Ticks from POLL's departure to FINAL's.
        """
        assert self._keys is not None
        times = tuple(
            ResponderTime(responder=responder, response_delta=ticks & 0xFFFFFFFF)
            for responder, ticks in enumerate(round1)
            if ticks is not None
        )
        self._good += len(times)
        step = self._step()
        data = FinalData(
            session_id=self.parameters.configuration.session_id,
            block=self.block & 0xFFFF,
            next_hop=step.hop,
            next_round=step.round,
            final_sts_index=self._index(self._final_slot),
            final_delta=span & 0xFFFFFFFF,
            responders=times,
        )
        frame = self._sender.seal(self._keys.data, FrameId.FINAL_DATA, data.to_bytes())
        return Closing(final=self._sts(self._final_slot), final_data=frame)

    def next_block(self) -> None:
        """Move on to the next block."""
        step = self._step()
        self.block, self.first, self.hopped = self.block + 1, step.round, step.hop
        self._good = 0

    def _step(self) -> HopStep:
        return self.hopping.step(self.block, self.first, good=self._good)


class ResponderSession(_End):
    """The vehicle's end: follows, and is the only one that learns distances."""

    def __init__(self, parameters: SessionParameters) -> None:
        super().__init__(parameters)
        self._receiver = FrameReceiver(self.keys.addresses, parameters.oui)
        self._said: HopStep | None = None
        self._spent = -1

    def knows(self, pre_poll: bytes) -> bool:
        """Return whether the clear header of a Pre-POLL carries this session's addresses."""
        try:
            header = Mhr.parse(pre_poll[:MHR_SIZE])
        except WireError:
            return False
        mine = self.keys.addresses
        return header.key_source == mine.key_source and header.dest_short == int.from_bytes(
            mine.dest_short, "big"
        )

    def expects(self, at_ns: int) -> bool:
        """Return whether a round that this end expects begins within half a slot of ``at_ns``."""
        half = self.slot_ns // 2
        return any(abs(at_ns - start) <= half for _, start in self.starts_ns())

    def hear(self, opening: Opening, at_ns: int) -> bool:
        """Return whether the POLL carries the STS that this end computes for the place.

        The place is this end's own: its block by its own time, its round by its own hopping. A
        Pre-POLL that verifies may correct the round to one that the sequence allows.
        """
        nearest = min(self.starts_ns(), key=lambda each: abs(each[1] - at_ns))
        self._enter(Place(self.block, self._announced(opening.pre_poll, nearest[0])))
        if self._index(1) <= self._spent or not self._is_mine(opening.poll, 1):
            return False
        self._spent = self._index(self.grid.slots - 1)
        return True

    def _announced(self, frame: bytes, own: int) -> int:
        try:
            opened = self._receiver.open(self.keys.pre_poll, FrameId.PRE_POLL, frame)
            said = PrePoll.parse(opened)
        except _FRAME_FAULTS:
            return own
        rounds = self.hopping.both(self.hopping.hopped(self.block))
        may_hop = self.hopping.adaptive or self.hopping.continuous
        here = (self.parameters.configuration.session_id, self.block & 0xFFFF)
        allowed = may_hop and said.hop and said.round in rounds
        if (said.session_id, said.block) != here or not allowed:
            return own
        self.first = rounds[0]
        return said.round

    def miss(self, round_: int) -> None:
        """Note that a round of this block was not heard; its indices are spent all the same."""
        self._place = Place(self.block, round_)
        self._spent = max(self._spent, self._index(self.grid.slots - 1))

    def respond(self, responder: int) -> bytes:
        """Return the STS of one anchor's RESPONSE."""
        return self._sts(self.grid.response_slot(responder))

    def finish(self, closing: Closing) -> FinalData | None:
        """Return what the phone measured, or None when FINAL or Final_Data is not its own."""
        assert self._keys is not None
        if not self._is_mine(closing.final, self._final_slot):
            return None
        try:
            opened = self._receiver.open(self._keys.data, FrameId.FINAL_DATA, closing.final_data)
            data = FinalData.parse(opened)
            said = HopStep(hop=data.next_hop, round=data.next_round)
            self.hopping.follow(self.block, self.first, said)
        except _FRAME_FAULTS:
            return None
        self._said = said
        return data

    def next_block(self) -> None:
        """Move on to the next block, to the round that was announced or else to be expected."""
        step = self.hopping.follow(self.block, self.first, self._said)
        self.block, self.first, self.hopped = self.block + 1, step.round, step.hop
        self._said = None
