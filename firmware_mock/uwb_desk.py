"""The vehicle's side of ranging: phones by Bluetooth and UWB, where they are, what that does.

One desk for all phones: it carries what phones and anchors say to each other, follows every phone
with a trust gate and a position, asks the proximity rules, and lets the body act. What a verdict
does is on the disk before it is done; a store that fails leaves the body alone.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from dkey.codec.uci_status import SessionType
from dkey.control.proximity import KeyPresence, Proximity, ProximitySettings
from dkey.control.rules import Action
from dkey.control.touch import Position
from dkey.errors import DkeyError, RefusalCode
from dkey.lifecycle.features import Feature
from dkey.link.session_driver import SessionDriver
from dkey.ranging.gate import Trust, TrustLevel
from dkey.ranging.particles import ParticleFilter
from dkey.ranging.range_model import RangeModel
from dkey.ranging.session_events import (
    USE_TOUCH,
    Began,
    Ceased,
    Measured,
    RangingEvent,
    Tell,
    Trouble,
    Unavailable,
    Violated,
)
from dkey.ranging.session_vehicle import RangingVehicle
from dkey.ranging.tracker import DeviceTracker
from dkey.ranging.uci_host import UciHost
from dkey.ranging.zones import ZoneState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.access.ble_events import Established
    from dkey.codec.ble_contents import Content
    from dkey.control.proximity import Verdicts
    from dkey.control.rules import Grant, Verdict
    from dkey.link.base import Link
    from dkey.ranging.layout import Layout, Zone
    from dkey.ranging.position import Estimator
    from firmware_mock.vehicle import Vehicle

__all__ = ["RangedPeer", "UwbDesk"]

log = logging.getLogger(__name__)

DECIDE_S: Final = 0.25
"""How often is decided while nothing is measured: leaving is silence (ours)."""
_KINDS: Final = {
    Action.LOCK: "PROXIMITY_LOCK",
    Action.UNLOCK: "PROXIMITY_UNLOCK",
    Action.START: "PROXIMITY_START",
}
_CONSENT: Final = {True: "LOCATION_CONSENT_GIVEN", False: "LOCATION_CONSENT_WITHDRAWN"}
"""How the event log says it."""
_LOCATED: Final = Trust(level=TrustLevel.DOUBTFUL)


class RangedPeer(Protocol):
    """A phone's connection, as this desk needs it."""

    grant: Grant | None
    standard: bool
    """Whether it ran a standard transaction."""

    def say(self, content: Content) -> None:
        """Send a content of ranging."""

    def no_secret(self) -> None:
        """Tell that the ranging secret is gone."""

    def violated(self, error: DkeyError) -> None:
        """End the connection of a phone that broke the protocol."""


class _Quiet(Protocol):
    def __call__(self, event: str, /, **fields: object) -> None: ...


@dataclass(slots=True)
class _Ranged:
    """A phone that has a ranging secret."""

    peer: RangedPeer
    tracker: DeviceTracker
    zone: Zone | None = None
    level: TrustLevel | None = None


@dataclass(slots=True)
class _Consent:
    """Who consents to being located (requirements S148)."""

    everybody: bool = True
    withheld: set[str] = field(default_factory=set)

    @classmethod
    def remembered(cls, vehicle: Vehicle) -> _Consent:
        """Return what was said last, from the event log: a restart consents to nothing."""
        made = cls()
        for event in vehicle.store.events():
            if event.kind in _CONSENT.values():
                made.give(on=event.kind == _CONSENT[True], credential_id=event.credential_id)
        return made

    def give(self, *, on: bool, credential_id: str | None) -> None:
        """Let one holder, or all, consent or not."""
        if credential_id is None:
            self.everybody = on
        elif on:
            self.withheld.discard(credential_id)
        else:
            self.withheld.add(credential_id)

    def of(self, credential_id: str) -> bool:
        return self.everybody and credential_id not in self.withheld


class UwbDesk:
    """Ranges every phone that Bluetooth let in.

    Args:
        vehicle: The vehicle.
        layout: Its anchors, cabin and doors.
        settings: How proximity works; ``supported`` follows the vehicle's features.
        report: Is told of rounds that change a zone, of troubles, verdicts and notices.
        estimator: Makes the position estimator of a phone; a particle filter by default.

    Attributes:
        end: The vehicle's end of ranging.
        proximity: The decider.
        acting: Whether the body is moved by ranging right now.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        layout: Layout,
        *,
        settings: ProximitySettings | None = None,
        report: _Quiet,
        estimator: Callable[[], Estimator] | None = None,
    ) -> None:
        self.vehicle = vehicle
        self.layout = layout
        self.acting = False
        self.report = report
        self.consent = _Consent.remembered(vehicle)
        supported = Feature.PROXIMITY_LOCK in vehicle.features.features
        wanted = settings or ProximitySettings()
        self.proximity = Proximity(
            ProximitySettings(
                mode=wanted.mode,
                walk_away_lock=wanted.walk_away_lock,
                supported=wanted.supported and supported,
            )
        )
        anchors = {n.to_bytes(2, "little"): n for n in range(len(layout.anchors))}
        self.end = RangingVehicle(
            UciHost(anchors=anchors),
            responders=len(layout.anchors),
            session_type=SessionType.CCC,
        )
        self._model: RangeModel | None = None
        self._estimator = estimator or self._particles
        self._phones: dict[int, _Ranged] = {}
        self._driver: SessionDriver[RangingEvent] | None = None
        vehicle.on_change.append(self._touched)

    @property
    def supported(self) -> bool:
        """Whether this vehicle has proximity at all."""
        return self.proximity.settings.supported

    def _particles(self) -> ParticleFilter:
        if self._model is None:
            self._model = RangeModel(self.layout)
        seed = int.from_bytes(self.vehicle.entropy.random(8), "big")
        return ParticleFilter(self.layout, np.random.default_rng(seed), model=self._model)

    # --- the anchors --------------------------------------------------------------------------

    async def run(self, link: Link) -> None:
        """Serve the anchors' subsystem until its link is lost, and decide; closes the link."""
        clock = self.vehicle.clock
        self._driver = SessionDriver(self.end, link, clock=clock, take=self._take)
        self.end.start(clock())
        deciding = asyncio.create_task(self._keep_deciding())
        try:
            fault = await self._driver.run()
            self.report("uwb_lost", text=str(fault or "the UWB subsystem is gone"))
            # Keys that were near are not any more, by what is known: let that be decided.
            await deciding
        finally:
            deciding.cancel()
            await asyncio.gather(deciding, return_exceptions=True)
            await link.aclose()

    async def _keep_deciding(self) -> None:
        while True:
            await asyncio.sleep(DECIDE_S)
            self.decide()

    def _wake(self) -> None:
        if self._driver is not None:
            self._driver.wake()

    # --- phones -------------------------------------------------------------------------------

    def joined(self, peer: RangedPeer, established: Established) -> None:
        """A phone was let in; without a ranging secret it is not ranged."""
        if established.ursk is None or not self.supported or peer.grant is None:
            return
        session_id = established.session_id
        if session_id in self._phones:  # one in four thousand million: not worth more
            peer.no_secret()
            return
        tracker = DeviceTracker(self.layout, session_id, self._estimator())
        self._phones[session_id] = _Ranged(peer, tracker)
        self._take(self.end.open(session_id, established.ursk, self.vehicle.clock()))
        self._wake()

    def received(self, peer: RangedPeer, content: Content) -> bool:
        """Take a content of ranging; return False when this phone is not ranged."""
        session_id = self._session_of(peer)
        if session_id is None:
            return False
        self._take(self.end.received(session_id, content, self.vehicle.clock()))
        self._wake()
        return True

    def left(self, peer: RangedPeer) -> None:
        """A phone is gone, or has no ranging secret any more."""
        session_id = self._session_of(peer)
        if session_id is None:
            return
        self._take(self.end.leave(session_id, self.vehicle.clock()))
        self._phones.pop(session_id, None)
        self._wake()

    def _session_of(self, peer: RangedPeer) -> int | None:
        found = (key for key, each in self._phones.items() if each.peer is peer)
        return next(found, None)

    def _take(self, events: Iterable[RangingEvent]) -> None:
        for event in events:
            phone = self._phones.get(getattr(event, "session_id", None) or 0)
            match event:
                case Measured() if phone is not None:
                    self._measured(phone, event)
                case Tell() if phone is not None:
                    phone.peer.say(event.content)
                case Unavailable() if phone is not None:
                    self.report("ranging_unavailable", credential=_name(phone), text=event.text)
                    phone.peer.no_secret()
                case Violated() if phone is not None:
                    phone.peer.violated(event.error)
                case Began():
                    self.report("ranging", credential=_name(phone))
                case Ceased():
                    self.report("ranging_ended", credential=_name(phone), text=event.text)
                case Trouble():
                    text = f"{event.kind.value}: {event.text}"
                    self.report("uwb_trouble", credential=_name(phone), text=text, hint=event.hint)
                case _:
                    pass

    def _measured(self, phone: _Ranged, event: Measured) -> None:
        grant = phone.peer.grant
        if grant is None or not self.consent.of(grant.credential_id):
            return  # where somebody is that does not consent is not even computed
        phone.tracker.update(event.round)
        self.decide()

    # --- decisions ----------------------------------------------------------------------------

    def decide(
        self, *, handle: Zone | None = None, start_pressed: bool = False, act: bool = True
    ) -> Verdicts:
        """Decide this moment and let the body act.

        Args:
            handle: The door whose handle is touched now.
            start_pressed: Whether START is pressed now.
            act: Whether granted verdicts are carried out.
        """
        now_s = self.vehicle.clock()
        keys = [self._presence(each, now_s) for each in self._phones.values()]
        verdicts = self.proximity.update(
            keys,
            signals=self.vehicle.body.signals(),
            now_s=now_s,
            handle=handle,
            start_pressed=start_pressed,
        )
        for notice in verdicts.notices:
            grant = self.vehicle.grant(notice.credential_id)
            name = None if grant is None else grant.name
            self.report("notice", credential=name, text=notice.kind.value)
        for verdict in (verdicts.doors, verdicts.start) if act else ():
            if verdict is not None:
                self._settle(verdict)
        return verdicts

    def touch_handle(self, zone: Zone) -> Verdict | None:
        """A hand touches the handle of a door: unlock if a key is there (C36)."""
        return self.decide(handle=zone).doors

    def press_start(self) -> Verdict | None:
        """START is pressed: start if a key is inside; None when no key is ranged at all."""
        return self.decide(start_pressed=True).start if self._phones else None

    def _presence(self, phone: _Ranged, now_s: float) -> KeyPresence:
        # The rights are asked for anew each time: they may have gone since the phone was let in.
        let_in = phone.peer.grant
        grant = None if let_in is None else self.vehicle.grant(let_in.credential_id)
        consent = grant is not None and self.consent.of(grant.credential_id)
        presence = KeyPresence(
            grant=grant,
            zone=phone.tracker.zone(now_s) if consent else ZoneState(),
            trust=phone.tracker.trust(now_s) if consent else _LOCATED,
            standard=phone.peer.standard,
            consent=consent,
            able=grant is None or self.vehicle.offers(Feature.PROXIMITY_LOCK, grant.credential_id),
        )
        if (presence.zone.zone, presence.trust.level) != (phone.zone, phone.level):
            phone.zone, phone.level = presence.zone.zone, presence.trust.level
            self.report(
                "zone",
                credential=_name(phone),
                text=f"{phone.zone or 'unknown'}, {phone.level.name.lower()}",
            )
        return presence

    def _settle(self, verdict: Verdict) -> None:
        """Commit a verdict, then carry it out; a store that fails leaves the body alone."""
        keys, kind = self.vehicle.keys, "REFUSED"
        if verdict.action is not None and verdict.code is None:
            kind = _KINDS[verdict.action]
        try:
            keys.note(
                kind,
                position=Position.BLE,
                credential_id=verdict.credential_id,
                code=verdict.code,
                text=verdict.text,
            )
        except DkeyError as exc:
            self.report(
                "uwb_trouble",
                credential=None,
                text=f"nothing was done: {exc}",
                hint=exc.hint or USE_TOUCH,
            )
            return
        grant = None if verdict.credential_id is None else self.vehicle.grant(verdict.credential_id)
        name = None if grant is None else grant.name
        if verdict.action is None or verdict.code is not None:
            code = verdict.code or RefusalCode.NOT_AUTHORISED
            self.report("refused", credential=name, code=code.value, text=verdict.text)
            return
        body = self.vehicle.body
        match verdict.action:
            case Action.LOCK:
                body.lock()
            case Action.UNLOCK:
                body.unlock()
            case _:
                body.start()
        self.report("proximity", credential=name, action=verdict.action.value)
        self.acting = True
        try:
            self.vehicle.changed(Position.BLE, verdict.credential_id)
        finally:
            self.acting = False

    # --- the holder ---------------------------------------------------------------------------

    def set_consent(self, *, on: bool, credential_id: str | None = None) -> None:
        """Let one holder, or all, consent to being located or not; what is known is forgotten.

        Raises:
            StoreError: It could not be kept; nothing changed.
        """
        self.vehicle.keys.note(_CONSENT[on], credential_id=credential_id)
        self.consent.give(on=on, credential_id=credential_id)
        for session_id, phone in self._phones.items():
            grant = phone.peer.grant
            if grant is not None and not self.consent.of(grant.credential_id):
                phone.tracker = DeviceTracker(self.layout, session_id, self._estimator())
        self.decide()

    def _touched(self, position: Position | None, credential_id: str | None) -> None:
        """An action at a reader, after a standard transaction, ends the suspicion of a phone."""
        if position in (Position.DOOR_HANDLE, Position.CONSOLE_PAD) and credential_id is not None:
            for phone in self._phones.values():
                grant = phone.peer.grant
                if grant is not None and grant.credential_id == credential_id:
                    phone.tracker.gate.stepped_up(standard=phone.peer.standard, user_action=True)


def _name(phone: _Ranged | None) -> str | None:
    return None if phone is None or phone.peer.grant is None else phone.peer.grant.name
