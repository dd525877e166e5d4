"""A virtual UWB chip: its sessions and their states, and what it has to report.

A vehicle's chip is all anchors of the car and reports SESSION_INFO, or, when the host gives it a
RESPONDER_SLOT_INDEX, it is that one anchor and reports RANGE_CCC_DATA.

States are those of UCI: INIT until the mandatory parameters are there, then IDLE, ACTIVE while it
ranges. The chip knows no bytes of UCI packets; :mod:`firmware_mock.uwb_subsystem` does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from dkey.codec.uci_core import DeviceStatusNtf
from dkey.codec.uci_layout import IdStatus, Parameter
from dkey.codec.uci_params import AppConfig, DeviceConfig
from dkey.codec.uci_ranging import CccControleeNtf, CccControllerNtf, SessionInfoNtf, TwrMeasurement
from dkey.codec.uci_session import SessionStatusNtf
from dkey.codec.uci_status import CccStatus, DeviceState, Reason, SessionState, Status
from dkey.errors import LocalFault
from firmware_mock.uwb_parameters import (
    INITIATOR,
    OUI,
    WRITE_ONLY,
    check,
    complete,
    session_parameters,
)
from firmware_mock.uwb_run import RECEIVED, Event, Initiating, InitiatorRound, Responding
from firmware_mock.uwb_session import InitiatorSession, ResponderSession, SessionParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dkey.codec.uci_layout import Body
    from dkey.ranging.measurement import AnchorRange, RangingRound
    from firmware_mock.uwb_air import Station, UwbAir

    Notification = Body | SessionInfoNtf

__all__ = ["SESSIONS_MAX", "Faults", "UwbChip", "UwbSession"]

SESSIONS_MAX: Final = 8
NO_DISTANCE: Final = 0xFFFF
NO_RATIO: Final = -(2**31)
URSK_EXPIRED: Final = 0x80
"""Reason of the vendor range: the time to live of the URSK is over."""
_URSKS_MAX: Final = 4096
"""Ranging secrets whose used indices are remembered."""
_NS_PER_MINUTE: Final = 60_000_000_000


@dataclass(slots=True, kw_only=True)
class Faults:
    """What a tester can break; all may be set at any time.

    Attributes:
        stall: Commands are swallowed and nothing is told.
        mute: Commands are answered, no notification leaves.
        deaf: A session starts, says so, and never ranges.
        state: What is said about the state of every session, whatever it is; None for the truth.
    """

    stall: bool = False
    mute: bool = False
    deaf: bool = False
    state: SessionState | None = None


@dataclass(slots=True, kw_only=True)
class UwbSession:
    """One session of the chip.

    Attributes:
        id: From the host.
        type: CCC or Aliro.
        token: What later commands name it by.
        state: Of UCI.
        values: Parameters by identifier; never shown, for one is the URSK.
        rounds: Ranging rounds reported since its start.
        last_index: Highest STS index used; None before the first round.
        run: Its part in the air while it is ACTIVE.
    """

    id: int
    type: int
    token: int
    state: SessionState = SessionState.INIT
    values: dict[int, Parameter] = field(default_factory=dict, repr=False)
    rounds: int = 0
    sequence: int = 0
    last_index: int | None = None
    run: Initiating | Responding | None = field(default=None, repr=False)
    peer: Initiating | None = field(default=None, repr=False)


class UwbChip:
    """A chip at one place on the air.

    Attributes:
        station: Where it is, when it initiates; its anchors are the car's when it responds.
        sessions: By token.
        uci_major: 1, or 2 with session handles.
        raw: Whether ranging notifications end with the clock ratios, ours: n(1) || n of signed
            parts per 10^9 (4, little-endian, -2^31 for none).
        config: Parameters of the device.
        faults: What is broken.
        mirror: If set, a phone at this place begins with whatever parameters a vehicle's session
            starts with, for a tester who has no second host.
    """

    def __init__(
        self,
        air: UwbAir,
        station: Station,
        notify: Callable[[Notification], None],
        *,
        uci_major: int = 1,
        raw: bool = False,
        boot_ns: int = 0,
    ) -> None:
        self.air = air
        self.station = station
        self.uci_major = uci_major
        self.raw = raw
        self.faults = Faults()
        self.mirror: Station | None = None
        self.config = {DeviceConfig.LOW_POWER_MODE: Parameter(DeviceConfig.LOW_POWER_MODE, b"\x00")}
        self.sessions: dict[int, UwbSession] = {}
        self._notify = notify
        self._boot_ns = boot_ns
        self._handles = 0
        self._used: dict[bytes, int] = {}
        self._counters: dict[bytes, int] = {}

    @property
    def now_us(self) -> int:
        """Return the chip's own time."""
        return (self.air.now_ns - self._boot_ns) // 1000

    @property
    def state(self) -> DeviceState:
        """Return the state of the device."""
        active = any(each.state is SessionState.ACTIVE for each in self.sessions.values())
        return DeviceState.ACTIVE if active else DeviceState.READY

    def reset(self) -> None:
        """Forget all sessions and say that the device is ready."""
        for session in self.sessions.values():
            _stop(session)
        self.sessions.clear()
        self._notify(DeviceStatusNtf(state=DeviceState.READY))

    def init(self, session_id: int, session_type: int) -> tuple[Status, int]:
        """Make a session; return its token too."""
        if session_type not in OUI:
            return Status.INVALID_PARAM, 0
        if any(each.id == session_id for each in self.sessions.values()):
            return Status.SESSION_DUPLICATE, 0
        if len(self.sessions) >= SESSIONS_MAX:
            return Status.MAX_SESSIONS, 0
        self._handles += 1
        token = session_id if self.uci_major < 2 else self._handles
        session = UwbSession(id=session_id, type=session_type, token=token)
        self.sessions[token] = session
        self._changed(session, SessionState.INIT)
        return Status.OK, token

    def deinit(self, token: int) -> Status:
        """Stop and forget a session."""
        session = self.sessions.get(token)
        if session is None:
            return Status.SESSION_NOT_EXIST
        before = self.state
        _stop(session)
        del self.sessions[token]
        self._changed(session, SessionState.DEINIT)
        self._device_changed(before)
        return Status.OK

    def configure(
        self, token: int, parameters: Sequence[Parameter]
    ) -> tuple[Status, tuple[IdStatus, ...]]:
        """Take parameters, all or none; return the ones that are wrong too."""
        session = self.sessions.get(token)
        if session is None:
            return Status.SESSION_NOT_EXIST, ()
        if session.state is SessionState.ACTIVE:
            return Status.SESSION_ACTIVE, ()
        wrong = check(parameters, session_type=session.type, uci_major=self.uci_major)
        if wrong:
            return Status.INVALID_PARAM, wrong
        values = session.values | {each.id: each for each in parameters}
        if complete(values):
            try:
                self._told(session, values)
            except LocalFault:
                return Status.INVALID_RANGE, ()
        session.values = values
        if complete(values) and session.state is SessionState.INIT:
            self._changed(session, SessionState.IDLE)
        return Status.OK, ()

    def configuration(self, token: int, ids: bytes) -> tuple[Status, tuple[Parameter, ...]]:
        """Return parameters, all without ``ids``; never a secret."""
        session = self.sessions.get(token)
        if session is None:
            return Status.SESSION_NOT_EXIST, ()
        values = {id_: each for id_, each in session.values.items() if id_ not in WRITE_ONLY}
        if session.last_index is not None:
            last = session.last_index.to_bytes(4, "little")
            values[AppConfig.LAST_STS_INDEX] = Parameter(AppConfig.LAST_STS_INDEX, last)
        if not ids:
            return Status.OK, tuple(values.values())
        status = Status.OK if {*ids} <= values.keys() else Status.INVALID_PARAM
        return status, tuple(values[each] for each in dict.fromkeys(ids) if each in values)

    def start(self, token: int) -> Status:
        """Begin to range, at the time that was configured."""
        session = self.sessions.get(token)
        if session is None:
            return Status.SESSION_NOT_EXIST
        if session.state is SessionState.ACTIVE:
            return Status.SESSION_ACTIVE
        if session.state is not SessionState.IDLE:
            return Status.SESSION_NOT_CONFIGURED
        told = self._told(session, session.values)
        if told.time0_ns <= self.air.now_ns:
            return Status.INITIATION_TIME_TOO_OLD
        if told.configuration.sts_index0 <= self._used.get(_name(told), -1):
            return Status.INVALID_STS_INDEX
        before = self.state
        session.rounds = session.sequence = 0
        session.run = self._run(session, told)
        if not self.faults.deaf:
            session.run.start()
            self._mirror(session, told)
        self._limit_life(session)
        self._changed(session, SessionState.ACTIVE)
        self._device_changed(before)
        return Status.OK

    def stop(self, token: int, reason: int = Reason.MANAGEMENT_COMMAND) -> Status:
        """End ranging; the session keeps its parameters."""
        session = self.sessions.get(token)
        if session is None:
            return Status.SESSION_NOT_EXIST
        if session.state is not SessionState.ACTIVE:
            return Status.REJECTED
        before = self.state
        _stop(session)
        self._changed(session, SessionState.IDLE, reason)
        self._device_changed(before)
        return Status.OK

    # --- what happens on the air ----------------------------------------------------------------

    def _told(self, session: UwbSession, values: dict[int, Parameter]) -> SessionParameters:
        return session_parameters(
            values,
            session_id=session.id,
            session_type=session.type,
            now_ns=self.air.now_ns,
            boot_ns=self._boot_ns,
        )

    def _run(self, session: UwbSession, told: SessionParameters) -> Initiating | Responding:
        key = _name(told)
        slot = session.values.get(AppConfig.RESPONDER_SLOT_INDEX)

        def exhausted() -> None:
            self.stop(session.token, Reason.STS_CONFIG)

        def initiated(found: InitiatorRound) -> None:
            _remember(self._counters, key, phone.frame_counter)
            self._spend(session, key, found.sts_index, told)
            self._report(session, _controller(session, found))

        def measured(found: RangingRound) -> None:
            self._spend(session, key, found.sts_index, told)
            one = slot is not None
            self._report(session, _controlee(session, found) if one else self._info(session, found))

        if session.values[AppConfig.DEVICE_ROLE].number == INITIATOR:
            phone = InitiatorSession(told, frame_counter=self._counters.get(key, 0))
            return Initiating(self.air, self.station, phone, initiated, exhausted)
        return Responding(
            self.air,
            ResponderSession(told),
            measured,
            exhausted,
            anchor=None if slot is None else slot.number,
            receiver=self,
        )

    def _mirror(self, session: UwbSession, told: SessionParameters) -> None:
        if self.mirror is not None and isinstance(session.run, Responding):
            phone = InitiatorSession(told)
            session.peer = Initiating(
                self.air, self.mirror, phone, lambda _round: None, lambda: None
            )
            session.peer.start()

    def _spend(self, session: UwbSession, key: bytes, poll: int, told: SessionParameters) -> None:
        last = poll + told.configuration.slots_per_round - 2
        session.last_index = last
        _remember(self._used, key, max(last, self._used.get(key, -1)))

    def _report(self, session: UwbSession, notification: Notification) -> None:
        self._notify(notification)
        session.rounds += 1
        limit = session.values.get(AppConfig.MAX_MEASUREMENTS)
        if limit is not None and 0 < limit.number <= session.rounds:
            self.stop(session.token, Reason.MAX_MEASUREMENTS)

    def _info(self, session: UwbSession, found: RangingRound) -> SessionInfoNtf:
        session.sequence += 1
        ratios = b"".join(_ratio(each).to_bytes(4, "little", signed=True) for each in found.ranges)
        return SessionInfoNtf(
            sequence=session.sequence,
            token=session.token,
            interval_ms=session.values[AppConfig.RANGING_INTERVAL].number,
            measurements=tuple(_measurement(each) for each in found.ranges),
            trailing=bytes([len(found.ranges)]) + ratios if self.raw else b"",
        )

    def _limit_life(self, session: UwbSession) -> None:
        ttl = session.values.get(AppConfig.URSK_TTL)
        if ttl is not None and ttl.number:
            end_ns = self.air.now_ns + ttl.number * _NS_PER_MINUTE
            expire = partial(self.stop, session.token, URSK_EXPIRED)
            self.air.schedule(end_ns, Event.START, expire, owner=session.run)

    def _changed(
        self, session: UwbSession, state: SessionState, reason: int = Reason.MANAGEMENT_COMMAND
    ) -> None:
        session.state = state
        self._notify(SessionStatusNtf(token=session.token, state=state, reason=reason))

    def _device_changed(self, before: DeviceState) -> None:
        if self.state is not before:
            self._notify(DeviceStatusNtf(state=self.state))


def _stop(session: UwbSession) -> None:
    for run in (session.run, session.peer):
        if run is not None:
            run.stop()
    session.run = session.peer = None


def _name(told: SessionParameters) -> bytes:
    """Return what a ranging secret is remembered by: indices of a secret are used once."""
    return hashlib.sha256(told.ursk.reveal()).digest()


def _remember(table: dict[bytes, int], key: bytes, value: int) -> None:
    """Keep the value of a ranging secret; the secret used longest ago makes room."""
    table.pop(key, None)
    table[key] = value
    while len(table) > _URSKS_MAX:
        del table[next(iter(table))]


def _controller(session: UwbSession, found: InitiatorRound) -> CccControllerNtf:
    return CccControllerNtf(
        token=session.token,
        status=CccStatus.OK if found.responders else CccStatus.LISTENING,
        sts_index=found.sts_index,
        round=found.round,
        responders=found.responders,
    )


def _controlee(session: UwbSession, found: RangingRound) -> CccControleeNtf:
    """Return what a chip that is one anchor reports; no field of it can say a negative distance."""
    each = found.ranges[0] if found.ranges else None
    status, distance = CccStatus.BAD_FRAME, NO_DISTANCE
    if each is None or each.status == Status.RX_TIMEOUT:
        status = CccStatus.LISTENING
    elif each.distance_cm is not None and round(each.distance_cm) >= 0:
        status, distance = CccStatus.OK, min(round(each.distance_cm), NO_DISTANCE - 1)
    return CccControleeNtf(
        token=session.token,
        status=status << 4,
        sts_index=found.sts_index,
        round=found.round,
        distance=distance,
        anchor_fom=100 if status is CccStatus.OK else 0,
    )


def _measurement(each: AnchorRange) -> TwrMeasurement:
    distance = NO_DISTANCE
    status = each.status
    if each.distance_cm is not None and status in RECEIVED:
        whole = round(each.distance_cm)
        # A distance that rounds to nothing below zero is zero, and one below is told as such.
        status = Status.OK_NEGATIVE_DISTANCE if whole < 0 else Status.OK
        distance = max(min(whole, 0x7FFF), -0x8000) & 0xFFFF
        if distance == NO_DISTANCE:  # -1 cm cannot be told
            distance -= 1
    return TwrMeasurement(
        address=each.anchor.to_bytes(2, "little"),
        status=status,
        distance=distance,
        slot=each.anchor + 2,
        rssi=0 if each.rssi_dbm is None else min(max(round(-2 * each.rssi_dbm), 1), 255),
    )


def _ratio(each: AnchorRange) -> int:
    return NO_RATIO if each.clock_ratio_ppb is None else round(each.clock_ratio_ppb)
