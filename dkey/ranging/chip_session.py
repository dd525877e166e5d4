"""One ranging session inside a UWB subsystem: made, configured, started and taken away by UCI.

Its owner says what it wants, :meth:`ChipSession.begin` or :meth:`ChipSession.end`; each answer of
the subsystem leads one command further towards that. A session is made anew for every start, so
that nothing of an earlier one stays in the subsystem.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from dkey.codec.uci_messages import command
from dkey.codec.uci_params import AppConfig, HoppingMode, parameter
from dkey.codec.uci_session import SessionInitCmd, SetAppConfigCmd, TokenCmd
from dkey.codec.uci_status import SessionState, SessionType, describe
from dkey.errors import LocalFault
from dkey.ranging.configuration import BLOCK_CHAPS
from dkey.ranging.grid import CHAP_RSTU
from dkey.ranging.setup_plan import BLOCK_S
from dkey.ranging.uci_events import Answered, CommandFailed, SessionStateChanged
from dkey.ranging.uci_host import HostState
from dkey.ranging.ursk_life import URSK_TTL_S

if TYPE_CHECKING:
    from dkey.codec.uci_layout import Parameter
    from dkey.crypto.secret import Secret
    from dkey.ranging.setup_plan import SessionPlan
    from dkey.ranging.uci_events import UciEvent
    from dkey.ranging.uci_host import UciHost

__all__ = ["ChipChange", "ChipReport", "ChipSession", "session_parameters"]

_BLOCK_MS: Final = round(BLOCK_S * 1000)
_PROTOCOL_VERSION: Final = b"\x01\x00"
_DYNAMIC_STS: Final = 1
_ONE_TO_MANY: Final = 1

assert BLOCK_CHAPS * CHAP_RSTU * 5 == _BLOCK_MS * 6000, "a block is 96 ms of 5/6 us each RSTU"


class ChipChange(Enum):
    """What became of a session in the subsystem."""

    STARTED = "it ranges"
    REFUSED = "a command was refused"
    GONE = "it stopped, or was lost, by itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipReport:
    """One change, and why in words."""

    change: ChipChange
    text: str


class _Step(Enum):
    """How far the session is, by the answers."""

    ABSENT = "not there"
    MADE = "made"
    CONFIGURED = "configured"
    STARTED = "started"
    STOPPED = "stopped"


@dataclass(eq=False, slots=True)
class _Wanted:
    """One start that is wanted.

    Attributes:
        parameters: What the subsystem is told; among them the secret, so only until it is told.
    """

    parameters: tuple[Parameter, ...] = field(repr=False)


_NEXT: Final = {
    "SESSION_INIT": _Step.MADE,
    "SET_APP_CONFIG": _Step.CONFIGURED,
    "RANGE_START": _Step.STARTED,
    "RANGE_STOP": _Step.STOPPED,
    "SESSION_DEINIT": _Step.ABSENT,
}


def session_parameters(
    plan: SessionPlan, ursk: Secret, *, initiator: bool, time0_us: int, uci_major: int = 1
) -> tuple[Parameter, ...]:
    """Return what a subsystem is told of a session.

    Args:
        plan: Complete.
        ursk: The ranging secret; the subsystem derives all keys from it.
        initiator: True at the phone.
        time0_us: When the first block begins, in this subsystem's own time.
        uci_major: Version of UCI.
    """
    hopping = HoppingMode.CONTINUOUS_DEFAULT if plan.continuous else HoppingMode.NONE
    values: dict[AppConfig, int | bytes] = {
        AppConfig.DEVICE_TYPE: int(initiator),
        AppConfig.DEVICE_ROLE: int(initiator),
        AppConfig.MULTI_NODE_MODE: _ONE_TO_MANY,
        AppConfig.STS_CONFIG: _DYNAMIC_STS,
        AppConfig.CHANNEL_NUMBER: plan.channel,
        AppConfig.NUMBER_OF_CONTROLEES: plan.responders,
        AppConfig.SLOT_DURATION: plan.chaps_per_slot * CHAP_RSTU,
        AppConfig.RANGING_INTERVAL: _BLOCK_MS * plan.ran_multiplier,
        AppConfig.STS_INDEX: plan.sts_index0,
        AppConfig.PREAMBLE_CODE_INDEX: plan.sync_index,
        AppConfig.SLOTS_PER_RR: plan.slots_per_round,
        AppConfig.HOPPING_MODE: hopping,
        AppConfig.HOP_MODE_KEY: plan.hop_key,
        AppConfig.PROTOCOL_VERSION: _PROTOCOL_VERSION,
        AppConfig.UWB_CONFIG_ID: plan.config,
        AppConfig.PULSESHAPE_COMBO: plan.pulse_shape,
        AppConfig.URSK_TTL: round(URSK_TTL_S / 60),
        AppConfig.URSK: ursk.reveal(),
        AppConfig.UWB_TIME0: time0_us,
    }
    return tuple(parameter(which, value, uci_major=uci_major) for which, value in values.items())


class ChipSession:
    """One session of a subsystem.

    Args:
        host: The subsystem's host; shared by all its sessions.
        session_id: Name of the session.
        initiator: True at the phone.
        session_type: CCC or ALIRO.

    Attributes:
        ranges: Whether the subsystem was asked to range and said that it does.
    """

    def __init__(
        self,
        host: UciHost,
        session_id: int,
        *,
        initiator: bool,
        session_type: SessionType = SessionType.CCC,
    ) -> None:
        if session_type not in (SessionType.CCC, SessionType.ALIRO):
            raise LocalFault(
                "only CCC and Aliro sessions have an STS of a secret",
                clause="specs/ranging.md §8",
                hint="a static STS proves nothing",
            )
        self.ranges = False
        self._host = host
        self._session_id = session_id
        self._initiator = initiator
        self._type = session_type
        self._step = _Step.ABSENT
        self._want: _Wanted | None = None
        self._has: _Wanted | None = None
        self._token = session_id
        self._asked: str | None = None

    def __repr__(self) -> str:
        return f"<UWB session {self._session_id:08X}: {self._step.value}>"

    def begin(self, plan: SessionPlan, ursk: Secret, *, time0_us: int, now_s: float) -> None:
        """Range by this plan; a session before it is taken away first."""
        self._forget()
        self._want = _Wanted(
            session_parameters(
                plan,
                ursk,
                initiator=self._initiator,
                time0_us=time0_us,
                uci_major=self._host.uci_major,
            )
        )
        self._go_on(now_s)

    def end(self, *, now_s: float) -> None:
        """Range no more."""
        self._forget()
        self.ranges = False
        self._go_on(now_s)

    @property
    def absent(self) -> bool:
        """Whether nothing of it is in the subsystem, or under way there."""
        return self._step is _Step.ABSENT and self._asked is None and self._want is None

    def check(self, *, now_s: float) -> None:
        """Ask the subsystem whether it has the session still; it may have lost it in silence."""
        started = self._step is _Step.STARTED and self._asked is None
        if started and self._host.state is HostState.READY:
            self._send("GET_STATE", TokenCmd(token=self._token), now_s)

    def taken(self, event: UciEvent, *, now_s: float) -> tuple[ChipReport, ...]:
        """Take an event of the host that may be about this session."""
        match event:
            case Answered() if self._is_mine(event.command.name, event.command.body):
                return self._answered(event, now_s)
            case CommandFailed() if self._is_mine(event.command.name, event.command.body):
                return self._failed(event, now_s)
            case SessionStateChanged() if event.session_id == self._session_id:
                return self._changed(event, now_s)
            case _:
                return ()

    def _forget(self) -> None:
        """Want nothing, and keep no secret."""
        for each in (self._want, self._has):
            if each is not None:
                each.parameters = ()
        self._want = None

    def _is_mine(self, name: str, body: object) -> bool:
        if name != self._asked:
            return False
        if isinstance(body, SessionInitCmd):
            return body.session_id == self._session_id
        return getattr(body, "token", None) == self._token

    # --- towards what is wanted -------------------------------------------------------------

    def _go_on(self, now_s: float) -> None:
        """Send the next command, unless one is under way."""
        if self._asked is not None or self._host.state is not HostState.READY:
            return
        fresh = self._want is not None and self._want is not self._has
        match self._step:
            case _Step.ABSENT if self._want is not None:
                self._has = self._want
                body = SessionInitCmd(session_id=self._session_id, session_type=self._type)
                self._send("SESSION_INIT", body, now_s)
            case _Step.MADE if self._want is not None and not fresh:
                configured = SetAppConfigCmd(token=self._token, parameters=self._want.parameters)
                self._want.parameters = ()
                self._send("SET_APP_CONFIG", configured, now_s)
            case _Step.CONFIGURED if self._want is not None and not fresh:
                self._send("RANGE_START", TokenCmd(token=self._token), now_s)
            case _Step.STARTED if self._want is None or fresh:
                self._send("RANGE_STOP", TokenCmd(token=self._token), now_s)
            case _Step.MADE | _Step.CONFIGURED | _Step.STOPPED:
                self._send("SESSION_DEINIT", TokenCmd(token=self._token), now_s)
            case _:
                pass

    def _send(
        self, name: str, body: SessionInitCmd | SetAppConfigCmd | TokenCmd, now_s: float
    ) -> None:
        self._asked = name
        self._host.send(command(name, body), now_s=now_s)

    # --- what the subsystem says ------------------------------------------------------------

    def _answered(self, event: Answered, now_s: float) -> tuple[ChipReport, ...]:
        self._asked = None
        if event.command.name == "GET_STATE":
            self._go_on(now_s)
            return ()
        self._step = _NEXT[event.command.name]
        if self._step is _Step.MADE:
            token = self._host.token(self._session_id)
            self._token = self._session_id if token is None else token
        self._go_on(now_s)
        return ()

    def _failed(self, event: CommandFailed, now_s: float) -> tuple[ChipReport, ...]:
        name, self._asked = event.command.name, None
        if name == "GET_STATE":
            self._go_on(now_s)
            return ()  # that the subsystem does not have it is an event of its own
        if name in ("RANGE_STOP", "SESSION_DEINIT"):
            # It has stopped already, or is not there: either way nothing ranges.
            self._step = _NEXT[name]
            self._go_on(now_s)
            return ()
        why = f"{name}: {event.text}"
        if event.status is not None:
            why = f"{name}: {describe(event.status)}"
        if self._want is None or self._want is not self._has:
            self._go_on(now_s)  # what was refused is wanted no more
            return ()
        self._forget()
        self._go_on(now_s)
        return (ChipReport(change=ChipChange.REFUSED, text=why),)

    def _changed(self, event: SessionStateChanged, now_s: float) -> tuple[ChipReport, ...]:
        wanted = self._want is not None and self._want is self._has
        if event.state == SessionState.ACTIVE:
            self.ranges = wanted
            ok = ChipReport(change=ChipChange.STARTED, text="it ranges")
            return (ok,) if wanted else ()
        if event.state == SessionState.DEINIT and self._asked == "SESSION_INIT":
            return ()  # of the session before, which was taken away
        if event.state == SessionState.DEINIT:
            self._step, self._asked = _Step.ABSENT, None
        elif event.state == SessionState.IDLE and self.ranges and wanted:
            self._step = _Step.STOPPED
        else:
            return ()
        self.ranges = False
        if wanted:
            self._forget()
        self._go_on(now_s)
        return (ChipReport(change=ChipChange.GONE, text=event.text),) if wanted else ()
