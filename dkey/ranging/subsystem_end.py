"""A UWB subsystem and the ranging sessions on it: what phone and vehicle do alike with it.

Brings the subsystem up, asks what it is able to and what time it has, gives its events to the
sessions, and says in words what is wrong with it. Has the shape of a session of
:class:`dkey.link.session_driver.SessionDriver`, whose messages are UCI packets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.codec.uci_core import CapsInfoRsp, TimestampRsp
from dkey.codec.uci_messages import command
from dkey.codec.uci_params import CccCapabilities
from dkey.codec.uci_status import SessionType
from dkey.errors import LocalFault
from dkey.ranging.chip_session import ChipSession
from dkey.ranging.session_events import RangingEvent, Trouble, TroubleKind
from dkey.ranging.setup_plan import Ability
from dkey.ranging.uci_events import (
    Answered,
    CommandFailed,
    DeviceReady,
    Fault,
    FaultKind,
    RangingData,
    RoundTaken,
)
from dkey.ranging.uci_host import HostState
from dkey.ranging.uwb_time import SubsystemClock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dkey.ranging.chip_session import ChipReport
    from dkey.ranging.secret_session import SecretSession
    from dkey.ranging.uci_events import UciEvent
    from dkey.ranging.uci_host import UciHost

__all__ = ["SubsystemEnd"]

COMPLAINT_S: Final = 1.0
"""A subsystem that misbehaves is complained of once in this time (ours)."""
ASK_TIME_S: Final = 30.0
"""How often the subsystem is asked for its time (ours)."""


class SubsystemEnd:
    """One subsystem.

    Args:
        host: Down; made with ``initiator`` at the phone.
        responders: Anchors of the vehicle; any number at the phone.
        session_type: CCC in the vehicle profile, ALIRO in the aliro profile.

    Attributes:
        ability: What the subsystem says that it is able to; None until it is up.
        done: Whether the link to the subsystem is lost.
    """

    def __init__(
        self, host: UciHost, *, responders: int = 1, session_type: SessionType = SessionType.CCC
    ) -> None:
        self.ability: Ability | None = None
        self.done = False
        self.clock = SubsystemClock()
        self._host = host
        self._responders = responders
        self._type = session_type
        self._initiator = False
        self._capabilities: CccCapabilities | None = None
        self._ask_s: float | None = None
        self._now_s = 0.0
        self._complained_s = float("-inf")
        self._leaving: list[ChipSession] = []

    @property
    def up(self) -> bool:
        """Whether sessions can be started now."""
        ready = self._host.state is HostState.READY and self.ability is not None
        return ready and self.clock.now_us(self._now_s) is not None

    @property
    def max_sessions(self) -> int:
        """How many sessions the subsystem says that it can have; a few where it does not say."""
        told = None if self._capabilities is None else self._capabilities.max_sessions
        return told or _SESSIONS

    # --- the shape of a driven session --------------------------------------------------------

    def start(self, now: float) -> None:
        """Reset the subsystem and bring it up."""
        self._now_s = now
        self._host.start(now_s=now)

    @property
    def deadline(self) -> float | None:
        """When :meth:`tick` has something to do."""
        times = [self._host.deadline, self._ask_s, *(each.deadline for each in self._sessions())]
        return min((each for each in times if each is not None), default=None)

    def outbox(self) -> list[bytes]:
        """Return the UCI packets to send now; each comes once."""
        return self._host.outbox()

    def receive(self, data: bytes, now: float) -> tuple[RangingEvent, ...]:
        """Take one UCI packet of the subsystem; never raises."""
        self._now_s = now
        return tuple(self._host_told(self._host.receive(data, now_s=now), now))

    def tick(self, now: float) -> tuple[RangingEvent, ...]:
        """Let time pass."""
        self._now_s = now
        events = self._host_told(self._host.tick(now_s=now), now)
        if self._ask_s is not None and now >= self._ask_s:
            self._ask_time(now)
        for each in self._sessions():
            events += each.tick(now)
        return (*events, *self._passed(now))

    def close(self) -> tuple[RangingEvent, ...]:
        """The link to the subsystem is lost; nothing ranges any more."""
        if self.done:
            return ()
        self.done, self.ability, self._ask_s = True, None, None
        self.clock.lose()
        events: list[RangingEvent] = [
            Trouble(kind=TroubleKind.SUBSYSTEM_LOST, text="the link to it is lost")
        ]
        for each in self._sessions():
            events += self._stopped_for_good(each, self._now_s)
        return tuple(events)

    # --- for the two ends ---------------------------------------------------------------------

    def _sessions(self) -> tuple[SecretSession, ...]:
        """Return all sessions."""
        raise NotImplementedError

    def _came_up(self, now_s: float) -> list[RangingEvent]:
        """The subsystem is up, for the first time or again."""
        raise NotImplementedError

    def _reported(
        self, session: SecretSession, report: ChipReport, now_s: float
    ) -> list[RangingEvent]:
        """The subsystem says what became of a session."""
        raise NotImplementedError

    def _ranged(self, event: RangingData | RoundTaken, now_s: float) -> list[RangingEvent]:
        """A round took place."""
        raise NotImplementedError

    def _stopped_for_good(self, session: SecretSession, now_s: float) -> list[RangingEvent]:
        """There is no subsystem any more for a session."""
        raise NotImplementedError

    def _passed(self, now_s: float) -> list[RangingEvent]:
        """Time went by."""
        del now_s
        return []

    def _release(self, session: SecretSession, now_s: float) -> list[RangingEvent]:
        """Let a session go whose BLE link is lost; the subsystem's end of it follows."""
        events = session.lose_link(now_s)
        self._leaving = [each for each in self._leaving if not each.absent]
        self._leaving.append(session.chip)
        return events

    def _chip(self, session_id: int) -> ChipSession:
        return ChipSession(
            self._host, session_id, initiator=self._initiator, session_type=self._type
        )

    # --- the subsystem ------------------------------------------------------------------------

    def _host_told(self, told: Iterable[UciEvent], now_s: float) -> list[RangingEvent]:
        events: list[RangingEvent] = []
        for event in told:
            if isinstance(event, RangingData | RoundTaken):
                events += self._ranged(event, now_s)
                continue
            events += self._subsystem(event, now_s)
            for leaving in self._leaving:
                leaving.taken(event, now_s=now_s)
            for session in self._sessions():
                for report in session.chip.taken(event, now_s=now_s):
                    events += self._reported(session, report, now_s)
        return events

    def _subsystem(self, event: UciEvent, now_s: float) -> list[RangingEvent]:
        match event:
            case DeviceReady():
                self._host.send(command("GET_CAPS_INFO"), now_s=now_s)
                self._ask_time(now_s)
            case Answered():
                return self._answered(event, now_s)
            case CommandFailed() if event.command.name in ("GET_CAPS_INFO", _TIMESTAMP):
                text = f"{event.command.name}: {event.text}"
                return [Trouble(kind=TroubleKind.SUBSYSTEM, text=text)]
            case Fault():
                return self._fault(event, now_s)
            case _:
                pass
        return []

    def _answered(self, event: Answered, now_s: float) -> list[RangingEvent]:
        said, was_up = event.answer.body, self.up
        if isinstance(said, CapsInfoRsp):
            self._capabilities = CccCapabilities.of(said.capabilities)
            self.ability = Ability.of(self._capabilities, responders=self._responders)
        elif isinstance(said, TimestampRsp):
            self.clock.answered(said.timestamp_us, now_s)
        return self._came_up(now_s) if self.up and not was_up else []

    def _fault(self, fault: Fault, now_s: float) -> list[RangingEvent]:
        if self._host.state is not HostState.READY:
            self.ability, self._ask_s = None, None
            self.clock.lose()
        text = f"{fault.kind.value}: {fault.text}"
        if fault.kind is not FaultKind.GIVEN_UP:
            return self._complaint(text, now_s, session_id=fault.session_id)
        events: list[RangingEvent] = [Trouble(kind=TroubleKind.SUBSYSTEM_LOST, text=text)]
        for each in self._sessions():
            events += self._stopped_for_good(each, now_s)
        return events

    def _complaint(self, text: str, now_s: float, *, session_id: int | None) -> list[RangingEvent]:
        """Return the trouble with the subsystem, unless one was told a moment ago."""
        if now_s < self._complained_s + COMPLAINT_S:
            return []
        self._complained_s = now_s
        return [Trouble(kind=TroubleKind.SUBSYSTEM, text=text, session_id=session_id)]

    def _ask_time(self, now_s: float) -> None:
        self._ask_s = now_s + ASK_TIME_S
        if self._host.state is not HostState.READY:
            return
        try:
            self._host.send(command(_TIMESTAMP), now_s=now_s)
        except LocalFault:
            return  # too much waits for it; asked again later
        self.clock.asked(now_s)


_SESSIONS: Final = 8
_TIMESTAMP: Final = "QUERY_UWBS_TIMESTAMP"
