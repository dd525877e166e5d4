"""Ranging setup between vehicle and phone: what is agreed, in which order, by whom.

Aliro 1.0 §11.1.1, §11.7.2: the vehicle offers (M1), the phone selects (M2), the vehicle plans the
grid (M3), the phone says where it begins (M4). Suspend and resume keep the plan; resume goes on at
a higher STS index under the same URSK. Whose turn it is, which requests cross and how long a reply
may take is the business of the BLE session (:mod:`dkey.access.ble_rules`); these machines are fed
the messages that it lets pass, and return what to send and what to do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dkey.codec.ble_ranging import (
    RangingOffer,
    RangingPlan,
    RangingSelection,
    RangingStart,
    ResumeAnswer,
    ResumeRequest,
    SuspendAnswer,
    SuspendRequest,
)
from dkey.errors import LocalFault, SequenceError, WireError
from dkey.ranging.configuration import (
    BLOCK_CHAPS,
    CHAPS_PER_SLOT,
    OVERHEAD_SLOTS,
    RESPONDERS_MAX,
    SLOTS_PER_ROUND,
)
from dkey.ranging.keys import INDEX_LIMIT
from dkey.ranging.setup_plan import (
    DEFAULT_HOPPING,
    NO_HOPPING,
    SessionPlan,
    channel_of,
    grid_of,
    hopping_of,
    least_chaps_of,
    nothing_common,
    one_of,
)
from dkey.ranging.setup_steps import Begin, Do, GoOn, Refuse, Send, SetupState, Stop
from dkey.ranging.ursk_life import FIRST_INDEX_LIMIT

if TYPE_CHECKING:
    from dkey.codec.ble_ranging import RangingMessage
    from dkey.crypto.entropy import Entropy
    from dkey.ranging.setup_plan import Ability
    from dkey.ranging.ursk_life import UrskLife

__all__ = [
    "PhoneSetup",
    "VehicleSetup",
]

CLAUSE: Final = "Aliro 1.0 §11.7.2"


_AGREED: Final = frozenset(
    {
        SetupState.ACTIVE,
        SetupState.SUSPENDING,
        SetupState.SUSPENDED,
        SetupState.RESUMING,
    }
)
"""States in which the plan is one that a resume may go on with."""


class _Setup:
    """What both ends have in common.

    Attributes:
        state: Where setup stands.
        plan: What is agreed; None before M3.
        ability: What this end is able to; used from the next M1 on.
    """

    def __init__(self, ability: Ability, session_id: int, life: UrskLife) -> None:
        self.state = SetupState.IDLE
        self.plan: SessionPlan | None = None
        self.ability = ability
        self._session_id = session_id
        self._life = life

    def close(self) -> None:
        """The URSK is gone: nothing is agreed any more, and nothing will be."""
        self.state = SetupState.CLOSED
        self.plan = None

    def stopped(self) -> None:
        """Ranging stopped on this side, or the peer said so by itself (Suspended, Later)."""
        if self.state in _AGREED:
            self.state = SetupState.SUSPENDED
        elif self.state is not SetupState.CLOSED:
            self.state = SetupState.IDLE
            self.plan = None

    def _planned(self) -> SessionPlan:
        if self.plan is None:
            raise SequenceError("nothing is agreed yet", clause=CLAUSE)
        return self.plan

    def _require(self, *states: SetupState) -> None:
        if self.state not in states:
            raise SequenceError(f"a ranging message while {self.state.value}", clause=CLAUSE)

    def _known(self, session_id: int) -> bool:
        return session_id == self._session_id and self.state is not SetupState.CLOSED

    def _answer_suspend(self, request: SuspendRequest) -> tuple[Do, ...]:
        if not self._known(request.session_id):
            return (Refuse(),)
        self._require(SetupState.ACTIVE, SetupState.SUSPENDING, SetupState.RESUMING)
        self.state = SetupState.SUSPENDED
        return Stop(), Send(message=SuspendAnswer(status=0))

    def _suspend_answered(self, answer: SuspendAnswer) -> tuple[Do, ...]:
        self._require(SetupState.SUSPENDING)
        if answer.status:
            self.state = SetupState.ACTIVE
            return ()
        self.state = SetupState.SUSPENDED
        return (Stop(),)

    def suspend(self) -> tuple[Do, ...]:
        """Ask the peer to suspend.

        Raises:
            LocalFault: Nothing ranges.
        """
        if self.state is not SetupState.ACTIVE:
            raise LocalFault(f"nothing to suspend, {self.state.value}")
        self.state = SetupState.SUSPENDING
        return (Send(message=SuspendRequest(session_id=self._session_id)),)

    def _fresh(self, index: int) -> int:
        """Return ``index`` if this URSK may range from it on.

        Raises:
            WireError: It was used, or is beyond the life of the URSK.
        """
        least = self._life.next_index
        fits = 0 <= index < FIRST_INDEX_LIMIT if least is None else least <= index < INDEX_LIMIT
        if not fits:
            raise WireError("an STS index comes again, or too late", clause="Aliro 1.0 §11.1.1.4")
        return index


class VehicleSetup(_Setup):
    """The vehicle's end: it offers and plans.

    Args:
        ability: What the anchors are able to.
        session_id: Last 4 bytes of the transaction identifier.
        life: Of the ranging secret.
    """

    def __init__(self, ability: Ability, session_id: int, life: UrskLife) -> None:
        super().__init__(ability, session_id, life)
        self._ran = 1
        self._sync = 0

    def begin(self, *, ran_multiplier: int = 1, sync_mask: int | None = None) -> tuple[Do, ...]:
        """Offer, for the first time or anew after a failure or a wish of the phone.

        Args:
            ran_multiplier: Wanted number of 96 ms in a block.
            sync_mask: SYNC codes for this phone; None leaves all that the anchors are able to.

        Raises:
            LocalFault: The URSK is gone.
        """
        if self.state is SetupState.CLOSED:
            raise LocalFault("the ranging secret is gone", hint="a new one needs a new connection")
        self.state = SetupState.OFFERED
        self._ran = ran_multiplier
        self._sync = self.ability.sync_mask if sync_mask is None else sync_mask
        able = self.ability
        offer = RangingOffer(
            configs=able.configs,
            pulse_shapes=able.pulse_shapes,
            channels=able.channels,
            session_id=self._session_id,
        )
        return (Send(message=offer),)

    def resume(self) -> tuple[Do, ...]:
        """Ask the phone to go on.

        Raises:
            LocalFault: Nothing is suspended.
        """
        if self.state is not SetupState.SUSPENDED or self.plan is None:
            raise LocalFault(f"nothing to resume, {self.state.value}")
        self.state = SetupState.RESUMING
        return (Send(message=ResumeRequest(session_id=self._session_id)),)

    def received(self, message: RangingMessage) -> tuple[Do, ...]:
        """Act on one message of the phone.

        Raises:
            WireError: It does not fit what was offered, or reuses an STS index.
            PolicyRefusal: DEVICE_UNSUPPORTED, the ends have nothing in common.
            SequenceError: It does not come in this state.
        """
        match message:
            case RangingSelection():
                return self._selected(message)
            case RangingStart():
                return self._started(message)
            case SuspendRequest():
                return self._answer_suspend(message)
            case SuspendAnswer():
                return self._suspend_answered(message)
            case ResumeAnswer():
                return self._resumed(message)
            case _:
                raise SequenceError(f"{type(message).__name__} came to a vehicle", clause=CLAUSE)

    def _selected(self, said: RangingSelection) -> tuple[Do, ...]:
        self._require(SetupState.OFFERED)
        able = self.ability
        config = one_of(said.configs, able.configs, "configuration")
        shape = one_of(said.pulse_shapes, able.pulse_shapes, "pulse shape")
        channel = channel_of(said.channels & able.channels, said.channels)
        sync = said.sync_mask & able.sync_mask & self._sync
        chaps = least_chaps_of(said.slot_mask & able.slot_mask)
        hopping = hopping_of(said.hopping & able.hopping)
        if not sync:
            raise nothing_common("SYNC code")
        ran = max(self._ran, able.min_ran, said.ran_multiplier, 1)
        slots, ran = grid_of(able.responders, chaps, ran)
        self._sync = sync
        self.plan = SessionPlan(
            session_id=self._session_id,
            config=config,
            pulse_shape=shape,
            channel=channel,
            ran_multiplier=ran,
            chaps_per_slot=chaps,
            responders=able.responders,
            slots_per_round=slots,
            hopping=hopping,
            mac_mode=0,
        )
        self.state = SetupState.PLANNED
        plan = RangingPlan(
            ran_multiplier=ran,
            chaps_per_slot=chaps,
            responders=able.responders,
            slots_per_round=slots,
            sync_mask=sync,
            hopping=hopping,
            mac_mode=0,
        )
        return (Send(message=plan),)

    def _started(self, said: RangingStart) -> tuple[Do, ...]:
        self._require(SetupState.PLANNED)
        if not (1 <= said.sync_index <= 32) or not self._sync >> said.sync_index - 1 & 1:
            raise WireError("a SYNC code that was not offered", clause=CLAUSE)
        self.plan = replace(
            self._planned(),
            sync_index=said.sync_index,
            hop_key=said.hop_key,
            sts_index0=self._fresh(said.sts_index0),
            uwb_time0_us=said.uwb_time0_us,
        )
        self.state = SetupState.ACTIVE
        return (Begin(plan=self.plan),)

    def _resumed(self, said: ResumeAnswer) -> tuple[Do, ...]:
        self._require(SetupState.RESUMING)
        self.plan = replace(
            self._planned(),
            sts_index0=self._fresh(said.sts_index0),
            uwb_time0_us=said.uwb_time0_us,
        )
        self.state = SetupState.ACTIVE
        return (GoOn(plan=self.plan),)


class PhoneSetup(_Setup):
    """The phone's end: it selects, and says where ranging begins.

    Args:
        ability: What the phone's UWB subsystem is able to.
        session_id: Last 4 bytes of the transaction identifier.
        life: Of the ranging secret.
        entropy: Source of the first STS index and the hopping key.
        lead_us: How long after M4 or Resume RS the first block begins: time for the message, and
            for the vehicle to tell its subsystem.

    Attributes:
        lead_us: As given; may be changed.
    """

    def __init__(
        self,
        ability: Ability,
        session_id: int,
        life: UrskLife,
        entropy: Entropy,
        *,
        lead_us: int = 200_000,
    ) -> None:
        super().__init__(ability, session_id, life)
        self._entropy = entropy
        self.lead_us = lead_us
        self._selection: RangingSelection | None = None

    def received(self, message: RangingMessage, *, uwb_time_us: int) -> tuple[Do, ...]:
        """Act on one message of the vehicle.

        Args:
            message: The message.
            uwb_time_us: The phone's UWB time now.

        Raises:
            WireError: It is not what was selected.
            PolicyRefusal: DEVICE_UNSUPPORTED, it offers nothing that this phone can do.
            SequenceError: It does not come in this state.
        """
        match message:
            case RangingOffer():
                return self._offered(message)
            case RangingPlan():
                return self._planned_by(message, uwb_time_us)
            case SuspendRequest():
                return self._answer_suspend(message)
            case SuspendAnswer():
                return self._suspend_answered(message)
            case ResumeRequest():
                return self._resume(message, uwb_time_us)
            case _:
                raise SequenceError(f"{type(message).__name__} came to a phone", clause=CLAUSE)

    def _offered(self, said: RangingOffer) -> tuple[Do, ...]:
        if not self._known(said.session_id):
            return (Refuse(),)
        stop: tuple[Do, ...] = (Stop(),) if self.state is SetupState.ACTIVE else ()
        able = self.ability
        config = next((each for each in able.configs if each in said.configs), None)
        shape = next((each for each in able.pulse_shapes if each in said.pulse_shapes), None)
        common = said.channels & able.channels
        if config is None or shape is None or not common & 0b11:
            raise nothing_common("configuration, pulse shape or channel")
        selection = RangingSelection(
            configs=(config,),
            pulse_shapes=(shape,),
            channels=0b10 if common & 0b10 else 0b01,
            sync_mask=able.sync_mask,
            ran_multiplier=able.min_ran,
            slot_mask=able.slot_mask,
            hopping=able.hopping,
        )
        self._selection = selection
        self.state = SetupState.SELECTED
        return (*stop, Send(message=selection))

    def _planned_by(self, said: RangingPlan, uwb_time_us: int) -> tuple[Do, ...]:
        self._require(SetupState.SELECTED)
        chosen, able = self._selection, self.ability
        if chosen is None:
            raise SequenceError("M3 before M2", clause=CLAUSE)
        chaps = said.chaps_per_slot
        fits = (
            chaps in CHAPS_PER_SLOT
            and bool(able.slot_mask >> CHAPS_PER_SLOT.index(chaps) & 1)
            and said.slots_per_round in SLOTS_PER_ROUND
            and 1 <= said.responders <= RESPONDERS_MAX
            and said.slots_per_round >= said.responders + OVERHEAD_SLOTS
            and said.ran_multiplier >= max(able.min_ran, 1)
            and chaps * said.slots_per_round <= BLOCK_CHAPS * said.ran_multiplier
            and said.hopping in (NO_HOPPING, DEFAULT_HOPPING)
            and said.hopping & able.hopping == said.hopping
            and said.mac_mode == 0
        )
        sync = said.sync_mask & able.sync_mask
        if not fits or not sync:
            raise WireError("the plan does not fit what this phone can do", clause=CLAUSE)
        start = RangingStart(
            sts_index0=self._index(),
            uwb_time0_us=uwb_time_us + self.lead_us,
            hop_key=int.from_bytes(self._entropy.random(4), "big"),
            sync_index=(sync & -sync).bit_length(),
        )
        self.plan = SessionPlan(
            session_id=self._session_id,
            config=chosen.configs[0],
            pulse_shape=chosen.pulse_shapes[0],
            channel=9 if chosen.channels == 0b10 else 5,
            ran_multiplier=said.ran_multiplier,
            chaps_per_slot=chaps,
            responders=said.responders,
            slots_per_round=said.slots_per_round,
            hopping=said.hopping,
            mac_mode=said.mac_mode,
            sync_index=start.sync_index,
            hop_key=start.hop_key,
            sts_index0=start.sts_index0,
            uwb_time0_us=start.uwb_time0_us,
        )
        self.state = SetupState.ACTIVE
        return Send(message=start), Begin(plan=self.plan)

    def _resume(self, said: ResumeRequest, uwb_time_us: int) -> tuple[Do, ...]:
        if not self._known(said.session_id):
            return (Refuse(),)
        self._require(SetupState.SUSPENDED)
        index, time0_us = self._index(), uwb_time_us + self.lead_us
        self.plan = replace(self._planned(), sts_index0=index, uwb_time0_us=time0_us)
        self.state = SetupState.ACTIVE
        answer = ResumeAnswer(sts_index0=index, uwb_time0_us=time0_us)
        return Send(message=answer), GoOn(plan=self.plan)

    def _index(self) -> int:
        """Return a first STS index: random for a new URSK, then the lowest that was never used."""
        index = self._life.next_index
        if index is None:
            index = int.from_bytes(self._entropy.random(4), "big") % FIRST_INDEX_LIMIT
        return self._fresh(index)
