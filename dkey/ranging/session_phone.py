"""Ranging at the phone: setup, the ranging secret and its UWB subsystem as one.

The other end of :mod:`dkey.ranging.session_vehicle`, of the same shape. The phone learns no
distance: only that rounds took place, and how many anchors answered (specs/ranging.md §8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.codec.ble import RangingKind
from dkey.codec.ble_contents import Content, Opaque, Ranging
from dkey.codec.ble_ranging import RangingOffer, ResumeRequest, TimeSync, parse_ranging
from dkey.codec.uci_status import SessionType
from dkey.errors import LocalFault, PolicyRefusal, SequenceError, WireError
from dkey.ranging.chip_session import ChipChange
from dkey.ranging.secret_session import FAILURES_S, SecretSession
from dkey.ranging.session_events import RangingEvent, Tell, Trouble, TroubleKind, Violated
from dkey.ranging.setup import PhoneSetup
from dkey.ranging.setup_plan import Ability
from dkey.ranging.setup_steps import SetupState
from dkey.ranging.subsystem_end import SubsystemEnd
from dkey.ranging.uci_events import RoundTaken
from dkey.ranging.ursk_life import UrskLife

if TYPE_CHECKING:
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret
    from dkey.ranging.chip_session import ChipReport, ChipSession
    from dkey.ranging.uci_events import RangingData
    from dkey.ranging.uci_host import UciHost

__all__ = ["RangingPhone"]

AGAIN_S: Final = 5.0
"""A phone that was put off asks again after this time (ours)."""
LEAD_MAX_US: Final = 2_000_000
"""The first block begins later after each failure, up to this: the vehicle may be slow (ours)."""
_MARGIN_BLOCKS: Final = 2
"""The phone counts so many blocks more than went by: its next index is fresh at the vehicle too,
whose clock differs."""


class _PhoneSession(SecretSession):
    """The one session of the phone."""

    def __init__(
        self, session_id: int, life: UrskLife, chip: ChipSession, entropy: Entropy
    ) -> None:
        self.setup = PhoneSetup(Ability(), session_id, life, entropy)
        super().__init__(session_id, life, self.setup, chip, margin=_MARGIN_BLOCKS)
        self.again_s: float | None = None
        self.answered = 0

    @property
    def deadline(self) -> float | None:
        times = [each for each in (super().deadline, self.again_s) if each is not None]
        return min(times, default=None)


class RangingPhone(SubsystemEnd):
    """The phone's end: its subsystem, and the session with one vehicle.

    Args:
        host: Of the phone's subsystem, down, made with ``initiator``.
        entropy: Source of the first STS index and the hopping key.
        session_type: CCC in the vehicle profile, ALIRO in the aliro profile.

    Attributes:
        anchors: How many anchors answered in the last round.
    """

    def __init__(
        self, host: UciHost, entropy: Entropy, *, session_type: SessionType = SessionType.CCC
    ) -> None:
        super().__init__(host, session_type=session_type)
        self.anchors = 0
        self._initiator = True
        self._entropy = entropy
        self._session: _PhoneSession | None = None
        self._syncs = 0

    @property
    def state(self) -> SetupState:
        """Where setup with the vehicle stands."""
        return SetupState.CLOSED if self._session is None else self._session.setup.state

    def open(self, session_id: int, ursk: Secret, now_s: float) -> tuple[RangingEvent, ...]:
        """A vehicle let this phone in and released the ranging secret."""
        self._now_s = now_s
        events = self.leave(now_s)
        self._session = _PhoneSession(
            session_id, UrskLife(ursk), self._chip(session_id), self._entropy
        )
        return (*events, *self._sync(self._session, now_s))

    def leave(self, now_s: float) -> tuple[RangingEvent, ...]:
        """The vehicle is gone, and the ranging secret with it."""
        session, self._session = self._session, None
        return () if session is None else tuple(self._release(session, now_s))

    def unavailable(self, now_s: float) -> tuple[RangingEvent, ...]:
        """The vehicle said that it has no ranging secret (any more): connect again."""
        if self._session is None:
            return ()
        trouble = Trouble(
            kind=TroubleKind.EXPIRED,
            text="the vehicle has no ranging secret any more",
            hint="connect again; a new ranging secret needs a new connection",
            session_id=self._session.session_id,
        )
        return (*self.leave(now_s), trouble)

    def initiate(self, now_s: float) -> tuple[RangingEvent, ...]:
        """Ask the vehicle for setup, anew or again."""
        return tuple(self._initiate(self._open(), now_s))

    def suspend(self, now_s: float) -> tuple[RangingEvent, ...]:
        """Ask the vehicle to suspend.

        Raises:
            LocalFault: Nothing ranges.
        """
        session = self._open()
        return tuple(session.carry_out(session.setup.suspend(), time0_us=None, now_s=now_s))

    def resume(self, now_s: float) -> tuple[RangingEvent, ...]:
        """Ask the vehicle to go on.

        Raises:
            LocalFault: Nothing is suspended.
        """
        session = self._open()
        if session.setup.state is not SetupState.SUSPENDED:
            raise LocalFault(f"nothing to resume, {session.setup.state.value}")
        session.again_s = now_s + AGAIN_S
        return (*self._sync(session, now_s), session.say(RangingKind.INITIATE_RESUME))

    def received(self, content: Content, now_s: float) -> tuple[RangingEvent, ...]:
        """Take a content of ranging that the BLE session let pass; never raises."""
        self._now_s = now_s
        session = self._session
        if session is None:
            return ()
        events = session.tick(now_s)
        if session.life.death is not None:
            return tuple(events)
        try:
            events += self._take(session, content, now_s)
        except PolicyRefusal as exc:
            session.setup.stopped()
            session.again_s = None
            trouble = Trouble(
                kind=TroubleKind.UNSUPPORTED, text=str(exc), session_id=session.session_id
            )
            events += [trouble, session.say(RangingKind.SETUP_LATER)]
        except (WireError, SequenceError) as exc:
            events += session.halt("the vehicle broke the protocol", now_s)
            events.append(Violated(session_id=session.session_id, error=exc))
        return tuple(events)

    # --- what the vehicle says ----------------------------------------------------------------

    def _take(self, session: _PhoneSession, content: Content, now_s: float) -> list[RangingEvent]:
        if isinstance(content, Ranging):
            return self._notified(session, RangingKind(content.kind), now_s)
        if not isinstance(content, Opaque):
            return []
        message = parse_ranging(content.message)
        if isinstance(message, TimeSync):
            raise SequenceError("Time Sync came to a phone", clause="Aliro 1.0 §11.7.4")
        session.again_s = None
        now_us = self.clock.now_us(now_s)
        if isinstance(message, RangingOffer | ResumeRequest):
            if now_us is None or self.ability is None:
                return self._later(session, message, now_s)
            session.setup.ability = self.ability
        session.pass_time(now_s)
        if session.life.death is not None:
            return session.died(now_s)
        events = self._sync(session, now_s)
        actions = session.setup.received(message, uwb_time_us=now_us or 0)
        plan = session.setup.plan
        return [
            *events,
            *session.carry_out(
                actions, time0_us=None if plan is None else plan.uwb_time0_us, now_s=now_s
            ),
        ]

    def _later(
        self, session: _PhoneSession, message: RangingOffer | ResumeRequest, now_s: float
    ) -> list[RangingEvent]:
        """The subsystem is not up: put the vehicle off."""
        events = session.halt("the UWB subsystem is not up", now_s)
        session.setup.stopped()
        resume = isinstance(message, ResumeRequest)
        return [
            *events,
            session.say(RangingKind.RESUME_LATER if resume else RangingKind.SETUP_LATER),
        ]

    def _notified(
        self, session: _PhoneSession, kind: RangingKind, now_s: float
    ) -> list[RangingEvent]:
        session.again_s = None
        events = session.halt(f"the vehicle: {kind.name.lower().replace('_', ' ')}", now_s)
        session.setup.stopped()
        if kind is RangingKind.SECURE_RANGING_FAILED:
            return [*events, *self._try_again(session, now_s)]
        if kind in (RangingKind.SETUP_LATER, RangingKind.RESUME_LATER):
            session.again_s = now_s + AGAIN_S
        return events

    # --- what the subsystem says --------------------------------------------------------------

    def _sessions(self) -> tuple[_PhoneSession, ...]:
        return () if self._session is None else (self._session,)

    def _came_up(self, now_s: float) -> list[RangingEvent]:
        session = self._session
        if session is None or session.life.death is not None:
            return []
        events = self._sync(session, now_s)
        if session.again_s is not None:
            events += self._initiate(session, now_s)
        return events

    def _reported(
        self, session: SecretSession, report: ChipReport, now_s: float
    ) -> list[RangingEvent]:
        phone = self._session
        if phone is not session or phone is None or not phone.life.running:
            return []
        if report.change is ChipChange.STARTED:
            return []
        events = phone.halt(report.text, now_s)
        events += phone.not_started(report.text)
        if phone.setup.state is not SetupState.ACTIVE:
            return events  # a request is on its way; its answer finds the session stopped
        phone.setup.stopped()
        return [*events, *self._try_again(phone, now_s)]

    def _ranged(self, event: RangingData | RoundTaken, now_s: float) -> list[RangingEvent]:
        session = self._session
        if not isinstance(event, RoundTaken) or session is None:
            return []
        if event.session_id == session.session_id:
            self.anchors = event.responders.bit_count()
            if self.anchors:
                session.heard(now_s)
        return []

    def _stopped_for_good(self, session: SecretSession, now_s: float) -> list[RangingEvent]:
        phone = self._session
        if phone is None or phone is not session:
            return []
        ranged = phone.setup.state is SetupState.ACTIVE
        events = phone.halt("there is no UWB subsystem any more", now_s)
        phone.setup.stopped()
        phone.again_s = None
        return [*events, phone.say(RangingKind.SUSPENDED)] if ranged else events

    def _passed(self, now_s: float) -> list[RangingEvent]:
        session = self._session
        if session is None or session.again_s is None or now_s < session.again_s:
            return []
        session.again_s = None
        if session.setup.state not in (SetupState.IDLE, SetupState.SUSPENDED):
            return []
        if not self.up:
            session.again_s = now_s + AGAIN_S
            return []
        return self._initiate(session, now_s)

    # --- asking the vehicle -------------------------------------------------------------------

    def _try_again(self, session: _PhoneSession, now_s: float) -> list[RangingEvent]:
        """Ask for setup again at once, or later when ranging failed too often."""
        session.setup.lead_us = min(2 * session.setup.lead_us, LEAD_MAX_US)
        if session.failed(now_s):
            session.again_s = now_s + FAILURES_S
            text = "ranging with this vehicle failed too often"
            return [Trouble(kind=TroubleKind.GAVE_UP, text=text, session_id=session.session_id)]
        if not self.up:
            session.again_s = now_s + AGAIN_S
            return []
        return self._initiate(session, now_s)

    def _initiate(self, session: _PhoneSession, now_s: float) -> list[RangingEvent]:
        session.again_s = None
        return [*self._sync(session, now_s), session.say(RangingKind.INITIATE)]

    def _sync(self, session: _PhoneSession, now_s: float) -> list[RangingEvent]:
        """Tell the vehicle what time it is here, where that is known."""
        sync = self.clock.sync(now_s, self._syncs)
        if sync is None or not self.up:
            return []
        self._syncs += 1
        return [Tell(session_id=session.session_id, content=sync.content())]

    def _open(self) -> _PhoneSession:
        if self._session is None:
            raise LocalFault("there is no ranging session", hint="connect to the vehicle first")
        return self._session
