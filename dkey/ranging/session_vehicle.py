"""Ranging at the vehicle: setup, ranging secrets and the anchors' UWB subsystem as one.

Sans-IO. In come the BLE contents of ranging that the phones' BLE sessions let pass, UCI packets
and time; out come events (:mod:`dkey.ranging.session_events`), of which
:class:`~dkey.ranging.session_events.Tell` is what to send, and UCI packets. The order
of messages and who wins when two cross is the business of the BLE session's RangingTurn
(specs/ranging.md §8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.codec.ble import RangingKind
from dkey.codec.ble_contents import Content, Opaque, Ranging
from dkey.codec.ble_ranging import (
    RangingSelection,
    RangingStart,
    ResumeAnswer,
    TimeSync,
    parse_ranging,
)
from dkey.codec.uci_status import SessionType, Status
from dkey.errors import LocalFault, PolicyRefusal, SequenceError, WireError
from dkey.ranging.allocation import Allocation
from dkey.ranging.chip_session import ChipChange
from dkey.ranging.secret_session import SecretSession
from dkey.ranging.session_events import (
    Measured,
    RangingEvent,
    Trouble,
    TroubleKind,
    Unavailable,
    Violated,
)
from dkey.ranging.setup import VehicleSetup
from dkey.ranging.setup_plan import Ability
from dkey.ranging.setup_steps import SetupState
from dkey.ranging.subsystem_end import SubsystemEnd
from dkey.ranging.uci_events import RangingData, RoundTaken
from dkey.ranging.ursk_life import UrskLife
from dkey.ranging.uwb_time import PeerClock

if TYPE_CHECKING:
    from dkey.crypto.secret import Secret
    from dkey.ranging.chip_session import ChipReport, ChipSession
    from dkey.ranging.uci_host import UciHost

__all__ = ["RangingVehicle"]

_RECEIVED: Final = frozenset({Status.OK, Status.OK_NEGATIVE_DISTANCE})
STS_ROUNDS: Final = 5
"""So many rounds on end that were heard with a wrong STS, and none well, are a failure (ours)."""
_ADRIFT_US: Final = 10_000_000
"""A first block that is further away than this is none (ours)."""


class _VehicleSession(SecretSession):
    """One phone at the vehicle."""

    def __init__(self, session_id: int, life: UrskLife, chip: ChipSession) -> None:
        self.setup = VehicleSetup(Ability(), session_id, life)
        super().__init__(session_id, life, self.setup, chip)
        self.peer = PeerClock()
        self.offered = False
        self.wrong_sts = 0


class RangingVehicle(SubsystemEnd):
    """The vehicle's end: one subsystem that is all anchors, and any number of phones.

    Args:
        host: Of the anchors' subsystem, down; told of their addresses.
        responders: Number of anchors, 1..10.
        session_type: CCC in the vehicle profile, ALIRO in the aliro profile.
    """

    def __init__(
        self, host: UciHost, *, responders: int, session_type: SessionType = SessionType.CCC
    ) -> None:
        super().__init__(host, responders=responders, session_type=session_type)
        self.allocation = Allocation()
        self._phones: dict[int, _VehicleSession] = {}

    def open(self, session_id: int, ursk: Secret, now_s: float) -> tuple[RangingEvent, ...]:
        """A phone is let in, with its ranging secret; setup begins at its first Time Sync."""
        if session_id in self._phones:
            text = "another phone's session has the same name"
            return (Unavailable(session_id=session_id, text=text),)
        self._now_s = now_s
        session = _VehicleSession(session_id, UrskLife(ursk), self._chip(session_id))
        self._phones[session_id] = session
        return ()

    def leave(self, session_id: int, now_s: float) -> tuple[RangingEvent, ...]:
        """A phone is gone, and its ranging secret with it."""
        session = self._phones.get(session_id)
        if session is None:
            return ()
        events = self._release(session, now_s)
        self.allocation.leave(session_id)
        del self._phones[session_id]
        return tuple(events)

    def state(self, session_id: int) -> SetupState:
        """Return where setup with a phone stands."""
        session = self._phones.get(session_id)
        return SetupState.CLOSED if session is None else session.setup.state

    def suspend(self, session_id: int, now_s: float) -> tuple[RangingEvent, ...]:
        """Ask a phone to suspend.

        Raises:
            LocalFault: It does not range.
        """
        session = self._named(session_id)
        return tuple(session.carry_out(session.setup.suspend(), time0_us=None, now_s=now_s))

    def resume(self, session_id: int, now_s: float) -> tuple[RangingEvent, ...]:
        """Ask a phone to go on.

        Raises:
            LocalFault: It is not suspended.
        """
        return tuple(self._resume(self._named(session_id), now_s))

    def received(self, session_id: int, content: Content, now_s: float) -> tuple[RangingEvent, ...]:
        """Take a content of ranging that a phone's BLE session let pass; never raises."""
        self._now_s = now_s
        session = self._phones.get(session_id)
        if session is None:
            return ()
        events = session.tick(now_s)
        if session.life.death is not None:
            gone = Unavailable(session_id=session_id, text=session.life.death.value)
            return tuple(events or [gone])
        try:
            events += self._take(session, content, now_s)
        except PolicyRefusal as exc:
            events += [*self._put_off(session, now_s), *self._refused(session, exc)]
        except (WireError, SequenceError) as exc:
            events += session.halt("the phone broke the protocol", now_s)
            events.append(Violated(session_id=session_id, error=exc))
        return tuple(events)

    # --- what a phone says --------------------------------------------------------------------

    def _take(self, session: _VehicleSession, content: Content, now_s: float) -> list[RangingEvent]:
        if isinstance(content, Ranging):
            return self._notified(session, RangingKind(content.kind), now_s)
        if not isinstance(content, Opaque):
            return []
        message = parse_ranging(content.message)
        if isinstance(message, TimeSync):
            session.peer.told(message, now_s)
            first = self.up and not session.offered and session.peer.known
            return self._offer(session, now_s) if first else []
        if isinstance(message, RangingSelection) and not session.peer.known:
            self._put_off(session, now_s)
            return [
                *session.not_started("the phone's UWB time is not known"),
                session.say(RangingKind.SETUP_LATER),
            ]
        time0_us = None
        if isinstance(message, RangingStart | ResumeAnswer):
            time0_us = self._own_time_us(session, message.uwb_time0_us, now_s)
        actions = session.setup.received(message)
        events = session.carry_out(actions, time0_us=time0_us, now_s=now_s)
        if session.setup.state is SetupState.ACTIVE and not session.life.running:
            events += self._fail(session, TroubleKind.NOT_STARTED, "it cannot begin", now_s)
        return events

    def _notified(
        self, session: _VehicleSession, kind: RangingKind, now_s: float
    ) -> list[RangingEvent]:
        match kind:
            case RangingKind.INITIATE:
                return self._asked(session, RangingKind.SETUP_LATER, now_s)
            case RangingKind.INITIATE_RESUME:
                if session.setup.state is SetupState.SUSPENDED and self.up:
                    return self._resume(session, now_s)
                return self._asked(session, RangingKind.RESUME_LATER, now_s)
            case _:  # put off, or suspended by the phone alone
                return self._put_off(session, now_s)

    def _asked(
        self, session: _VehicleSession, later: RangingKind, now_s: float
    ) -> list[RangingEvent]:
        """The phone wants setup: offer, or say that it comes later."""
        if not self.up:
            return [*self._put_off(session, now_s), session.say(later)]
        if not session.may_try(now_s):
            text = "ranging with this phone failed too often"
            trouble = Trouble(kind=TroubleKind.GAVE_UP, text=text, session_id=session.session_id)
            return [*self._put_off(session, now_s), trouble, session.say(later)]
        return self._offer(session, now_s, later)

    def _offer(
        self,
        session: _VehicleSession,
        now_s: float,
        later: RangingKind = RangingKind.SETUP_LATER,
    ) -> list[RangingEvent]:
        """Send M1, unless there is no room; ``later`` is what the phone is told then."""
        assert self.ability is not None
        events = session.halt("setup begins anew", now_s)
        place = self.allocation.take(session.session_id, self.ability)
        if place is None:
            session.offered = True
            session.setup.stopped()
            text = f"{len(self.allocation)} phones range already"
            events.append(Trouble(kind=TroubleKind.FULL, text=text, session_id=session.session_id))
            return [*events, session.say(later)]
        session.offered, session.wrong_sts = True, 0
        session.setup.ability = self.ability
        ran, sync_mask = place
        actions = session.setup.begin(ran_multiplier=ran, sync_mask=sync_mask)
        return [*events, *session.carry_out(actions, time0_us=None, now_s=now_s)]

    def _resume(self, session: _VehicleSession, now_s: float) -> list[RangingEvent]:
        return session.carry_out(session.setup.resume(), time0_us=None, now_s=now_s)

    def _put_off(self, session: _VehicleSession, now_s: float) -> list[RangingEvent]:
        events = session.halt("put off", now_s)
        session.setup.stopped()
        if session.setup.state is SetupState.IDLE:
            self.allocation.leave(session.session_id)
        return events

    def _refused(
        self, session: _VehicleSession, refusal: PolicyRefusal
    ) -> tuple[RangingEvent, ...]:
        trouble = Trouble(
            kind=TroubleKind.UNSUPPORTED, text=str(refusal), session_id=session.session_id
        )
        return (trouble, session.say(RangingKind.SETUP_LATER))

    def _own_time_us(
        self, session: _VehicleSession, device_time_us: int, now_s: float
    ) -> int | None:
        """Return when it is that time at the phone, in the time of the anchors."""
        at_s, now_us = session.peer.at_s(device_time_us, now_s), self.clock.now_us(now_s)
        if at_s is None or now_us is None or abs(at_s - now_s) * 1e6 > _ADRIFT_US:
            return None
        return max(0, now_us + round((at_s - now_s) * 1e6))

    # --- what the subsystem says --------------------------------------------------------------

    def _sessions(self) -> tuple[_VehicleSession, ...]:
        return tuple(self._phones.values())

    def _came_up(self, now_s: float) -> list[RangingEvent]:
        self.allocation.phones = self.max_sessions
        events: list[RangingEvent] = []
        for each in self._sessions():
            if each.life.death is not None:
                continue
            if not each.offered and each.peer.known:
                events += self._offer(each, now_s)
            elif each.offered and each.setup.state in (SetupState.IDLE, SetupState.SUSPENDED):
                events.append(each.say(RangingKind.SECURE_RANGING_FAILED))
        return events

    def _reported(
        self, session: SecretSession, report: ChipReport, now_s: float
    ) -> list[RangingEvent]:
        phone = self._phones[session.session_id]
        if report.change is ChipChange.STARTED or not phone.life.running:
            return []
        return self._fail(phone, TroubleKind.NOT_STARTED, report.text, now_s)

    def _fail(
        self, session: _VehicleSession, kind: TroubleKind, text: str, now_s: float
    ) -> list[RangingEvent]:
        """Ranging failed here: stop, and tell the phone, which asks for setup again."""
        events = session.halt(text, now_s)
        events.append(Trouble(kind=kind, text=text, session_id=session.session_id))
        session.wrong_sts = 0
        session.failed(now_s)
        if session.setup.state is SetupState.ACTIVE:
            session.setup.stopped()
            if self.up:  # else the phone is told when the subsystem is up again
                events.append(session.say(RangingKind.SECURE_RANGING_FAILED))
        return events

    def _ranged(self, event: RangingData | RoundTaken, now_s: float) -> list[RangingEvent]:
        if isinstance(event, RoundTaken):
            return []
        session = self._phones.get(event.round.session_id)
        if session is None:
            return []
        if event.round.static_sts:
            text = "its ranges are not used"
            return self._fail(session, TroubleKind.STATIC_STS, text, now_s)
        measured = session.in_order(event.round, numbered=event.numbered)
        if measured is None:
            text = "a round of no session, or from the future"
            return [Trouble(kind=TroubleKind.SUBSYSTEM, text=text, session_id=session.session_id)]
        events: list[RangingEvent] = [Measured(session_id=session.session_id, round=measured)]
        heard = {each.status for each in measured.ranges} - {Status.RX_TIMEOUT}
        if heard & _RECEIVED:
            session.heard(now_s)
            session.wrong_sts = 0
        elif heard:
            session.wrong_sts += 1
            if session.wrong_sts >= STS_ROUNDS:
                text = f"{STS_ROUNDS} rounds on end with a wrong STS"
                events += self._fail(session, TroubleKind.STS_FAILED, text, now_s)
        return events

    def _stopped_for_good(self, session: SecretSession, now_s: float) -> list[RangingEvent]:
        phone = self._phones[session.session_id]
        ranged = phone.setup.state is SetupState.ACTIVE
        events = self._put_off(phone, now_s)
        return [*events, phone.say(RangingKind.SUSPENDED)] if ranged else events

    # --- what the owner asks for --------------------------------------------------------------

    def _named(self, session_id: int) -> _VehicleSession:
        session = self._phones.get(session_id)
        if session is None:
            raise LocalFault(f"there is no ranging session {session_id:08X}")
        return session
