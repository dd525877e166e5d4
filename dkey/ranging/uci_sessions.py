"""The ranging sessions of a subsystem, as this side knows them: states and plausible data.

A state that the subsystem reports is taken only if a session can get there and this side asked
for it; ranges are taken only from a session that ranges (specs/ranging.md §7).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dkey.codec.uci_params import AppConfig
from dkey.codec.uci_ranging import CccControleeNtf, SessionInfoNtf
from dkey.codec.uci_status import (
    CccStatus,
    Reason,
    SessionState,
    SessionType,
    Status,
    describe_reason,
)
from dkey.ranging.measurement import AnchorRange, RangingRound
from dkey.ranging.uci_events import Fault, FaultKind, RangingData, SessionStateChanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dkey.codec.uci_layout import Parameter
    from dkey.codec.uci_session import SessionStatusNtf
    from dkey.ranging.uci_events import UciEvent

__all__ = ["TRANSITIONS", "SessionTable"]

_NEW = None
TRANSITIONS: Final[Mapping[int | None, frozenset[int]]] = MappingProxyType(
    {
        _NEW: frozenset({SessionState.INIT, SessionState.DEINIT}),
        SessionState.INIT: frozenset({SessionState.INIT, SessionState.IDLE, SessionState.DEINIT}),
        SessionState.IDLE: frozenset({SessionState.IDLE, SessionState.ACTIVE, SessionState.DEINIT}),
        SessionState.ACTIVE: frozenset(
            {SessionState.ACTIVE, SessionState.IDLE, SessionState.DEINIT}
        ),
    }
)
"""Where a session may go from each state; None is a session of which nothing was reported."""

_CCC_STATUS: Final[Mapping[int, Status]] = MappingProxyType(
    {
        CccStatus.OK: Status.OK,
        CccStatus.EXPIRED: Status.RX_TIMEOUT,
        CccStatus.BAD_FRAME: Status.RX_MAC_DECODE,
        CccStatus.LISTENING: Status.RX_TIMEOUT,
        CccStatus.CONTROL_LOST: Status.RX_TIMEOUT,
    }
)
"""Round status of CCC sessions as UCI status; all others are FAILED."""
_KEYED: Final = frozenset({SessionType.CCC, SessionType.ALIRO})


@dataclass(slots=True)
class _Session:
    """One session: what it was made as, where it is, and what it last reported."""

    session_id: int
    keyed: bool
    static_sts: bool
    state: int | None = None
    started: bool = False
    suspended: bool = False
    last_index: int = -1


class SessionTable:
    """All sessions by token.

    Attributes:
        anchors: Index of the anchor with each address, as on the wire.
        own_anchor: Index of the anchor that this subsystem is itself, in CCC and Aliro sessions.
    """

    def __init__(self, anchors: Mapping[bytes, int], own_anchor: int) -> None:
        self.anchors = dict(anchors)
        self.own_anchor = own_anchor
        self._sessions: dict[int, _Session] = {}

    def add(self, token: int, session_id: int, session_type: int) -> list[UciEvent]:
        """Take a new session. One of FiRa runs on static STS until it is configured otherwise."""
        if token in self._sessions:
            text = f"token {token:08X} for a second session"
            return [Fault(kind=FaultKind.UNEXPECTED_STATE, text=text, session_id=session_id)]
        keyed = session_type in _KEYED
        self._sessions[token] = _Session(session_id, keyed=keyed, static_sts=not keyed)
        return []

    def token(self, session_id: int) -> int | None:
        """Return the token of a session, None if there is none."""
        found = (key for key, each in self._sessions.items() if each.session_id == session_id)
        return next(found, None)

    def configured(self, token: int, parameters: Iterable[Parameter]) -> None:
        """Take note of parameters that the subsystem took."""
        session = self._sessions.get(token)
        for each in parameters:
            if session is not None and not session.keyed and each.id == AppConfig.STS_CONFIG:
                session.static_sts = each.number == 0

    def asked(self, token: int, *, start: bool) -> None:
        """Take note that this side asks a session to start or to stop."""
        session = self._sessions.get(token)
        if session is None:
            return
        session.started = start
        if start and not session.keyed:  # FiRa counts its notifications from each start on
            session.last_index = -1

    def clear(self) -> list[UciEvent]:
        """Forget all sessions: the subsystem lost them."""
        gone: list[UciEvent] = [
            SessionStateChanged(
                session_id=each.session_id,
                state=SessionState.DEINIT,
                reason=None,
                text="the subsystem was reset",
            )
            for each in self._sessions.values()
        ]
        self._sessions.clear()
        return gone

    def changed(self, told: SessionStatusNtf) -> UciEvent:
        """Return what a reported state means."""
        session = self._sessions.get(told.token)
        if session is None:
            return _unknown(told.token)
        resumed = session.suspended and told.reason == Reason.RESUMED_IN_BAND
        asked = session.started or session.state == SessionState.ACTIVE or resumed
        reachable = told.state in TRANSITIONS[session.state]
        if not reachable or (told.state == SessionState.ACTIVE and not asked):
            return Fault(
                kind=FaultKind.UNEXPECTED_STATE,
                text=f"state {told.state} from {session.state}, started: {session.started}",
                session_id=session.session_id,
            )
        if session.state == SessionState.ACTIVE and told.state == SessionState.IDLE:
            session.started = False
            session.suspended = told.reason == Reason.SUSPENDED_IN_BAND
        session.state = told.state
        if told.state == SessionState.DEINIT:
            del self._sessions[told.token]
        return SessionStateChanged(
            session_id=session.session_id,
            state=told.state,
            reason=told.reason,
            text=describe_reason(told.reason),
        )

    def measured(self, told: SessionInfoNtf | CccControleeNtf, *, now_s: float) -> UciEvent:
        """Return what reported ranges mean."""
        session = self._sessions.get(told.token)
        if session is None:
            return _unknown(told.token)
        if session.state != SessionState.ACTIVE:
            return Fault(
                kind=FaultKind.DATA_OUT_OF_STATE,
                text=f"ranges in state {session.state}",
                session_id=session.session_id,
            )
        index = told.sequence if isinstance(told, SessionInfoNtf) else told.sts_index
        if index <= session.last_index:
            return Fault(
                kind=FaultKind.STALE_DATA,
                text=f"index {index} after {session.last_index}",
                session_id=session.session_id,
            )
        session.last_index = index
        if isinstance(told, CccControleeNtf):
            return RangingData(round=self._ccc(session, told, now_s))
        return RangingData(round=self._fira(session, told, now_s))

    def _ccc(self, session: _Session, told: CccControleeNtf, now_s: float) -> RangingRound:
        """Return the round of one anchor; its block is not reported and stays 0."""
        # A nibble for each side of the round; the anchor's own comes first.
        code = told.responder_status or told.status & 0x0F
        status = _CCC_STATUS.get(code, Status.FAILED)
        distance = told.distance_cm if status == Status.OK else None
        measured = AnchorRange(anchor=self.own_anchor, status=status, distance_cm=distance)
        return RangingRound(
            session_id=session.session_id,
            block=0,
            round=told.round,
            sts_index=told.sts_index,
            at_s=now_s,
            ranges=(measured,),
            static_sts=session.static_sts,
        )

    def _fira(self, session: _Session, told: SessionInfoNtf, now_s: float) -> RangingRound:
        # No STS index is reported: the number of the notification stands in, which rises as well.
        ranges = [
            AnchorRange(
                anchor=self.anchors[each.address],
                status=each.status,
                distance_cm=each.distance_cm,
                nlos=_nlos(each.nlos),
                rssi_dbm=each.rssi_dbm,
            )
            for each in told.measurements
            if each.address in self.anchors
        ]
        return RangingRound(
            session_id=session.session_id,
            block=told.sequence & 0xFFFF,
            round=0,
            sts_index=told.sequence & 0x7FFFFFFF,
            at_s=now_s,
            ranges=tuple(sorted(ranges, key=lambda each: each.anchor)),
            static_sts=session.static_sts,
        )


def _nlos(raw: int) -> int | None:
    """Return percent: 0 and 1 are FiRa's no and yes, FF its unknown."""
    if raw == 1:
        return 100
    return raw if raw <= 100 else None


def _unknown(token: int) -> Fault:
    return Fault(kind=FaultKind.UNKNOWN_SESSION, text=f"token {token:08X}")
