"""What ranging costs the vehicle's computer: three phones, six anchors, a block every 96 ms.

Phones and anchors are virtual subsystems that speak UCI; only the vehicle's own work is timed: UCI
packets in and out, ranging sessions, trust gate, position, zones, proximity rules.
"""

from __future__ import annotations

from collections import deque
from time import process_time
from typing import TYPE_CHECKING

import numpy as np
from _report import Figure, progress, slice_medians, spread

from dkey.codec.ble import split_sdu
from dkey.codec.ble_contents import decode
from dkey.codec.uci import HEADER_SIZE, packet_size
from dkey.control.proximity import KeyPresence, Proximity
from dkey.control.rules import Grant, Signals
from dkey.crypto.secret import Secret
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.ranging.layouts import shipped_layout
from dkey.ranging.particles import ParticleFilter
from dkey.ranging.range_model import RangeModel
from dkey.ranging.session_events import Began, Measured, RangingEvent, Tell
from dkey.ranging.session_phone import RangingPhone
from dkey.ranging.session_vehicle import RangingVehicle
from dkey.ranging.tracker import DeviceTracker
from dkey.ranging.uci_host import UciHost
from dkey.testing import SeededEntropy
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_channel import Car, Channel
from firmware_mock.uwb_subsystem import UwbSubsystem

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["session_figures"]

PHONES_AT_M = ((4.0, 3.0), (0.3, 1.4), (-5.0, -3.0))
BLOCK_S = 0.096
STEP_NS = 4_000_000
PARKED = Signals(locked=True, ignition_on=False, gear_in_park=True, speed_kmh=0.0)


def _packets(data: bytes) -> Iterable[bytes]:
    while data:
        size = packet_size(data[:HEADER_SIZE])
        yield data[:size]
        data = data[size:]


class _Bench:
    """One vehicle and its phones in virtual time; ``spent_s`` is the vehicle's CPU time."""

    def __init__(self) -> None:
        self.layout = shipped_layout("saloon")
        anchors = len(self.layout.anchors)
        self.air = UwbAir(car=Car.of(self.layout), channel=Channel.PROTOTYPE, seed=3)
        names = {n.to_bytes(2, "little"): n for n in range(anchors)}
        self.vehicle = RangingVehicle(UciHost(anchors=names), responders=anchors)
        self.chip = UwbSubsystem(self.air, Station(), raw=True)
        self.phones = [
            (
                RangingPhone(UciHost(initiator=True), SeededEntropy(n)),
                UwbSubsystem(self.air, Station(at_m=at)),
            )
            for n, at in enumerate(PHONES_AT_M)
        ]
        model = RangeModel(self.layout)
        self.trackers = {
            n: DeviceTracker(
                self.layout,
                n,
                ParticleFilter(self.layout, np.random.default_rng(n), model=model),
            )
            for n in range(len(PHONES_AT_M))
        }
        self.proximity = Proximity()
        self.plans: list[int] = []
        self.rounds = 0
        self.spent_s = 0.0
        self._deadline_s: float | None = None
        self._mailed = True
        self._mail: deque[tuple[int, bool, bytes]] = deque()

    def start(self) -> None:
        self.vehicle.start(0.0)
        for end, _ in self.phones:
            end.start(0.0)
        self._settle()
        for n, (end, _) in enumerate(self.phones):
            ursk = Secret(bytes((n,)) * 32)
            self._told(self.vehicle.open(n, ursk, self._now_s))
            self._said(n, end.open(n, ursk, self._now_s))

    def run(self, seconds: float) -> None:
        until_ns = self.air.now_ns + round(seconds * 1e9)
        while self.air.now_ns < until_ns:
            self._settle()
            self.air.advance(self.air.now_ns + STEP_NS)

    @property
    def _now_s(self) -> float:
        return self.air.now_ns / 1e9

    def _settle(self) -> None:
        moved = True
        while moved:
            moved = self._anchors()
            for n, (end, chip) in enumerate(self.phones):
                for packet in end.outbox():
                    chip.feed(packet)
                for packet in _packets(chip.take()):
                    self._said(n, end.receive(packet, self._now_s))
                    moved = True
            while self._mail:
                moved = True
                n, to_vehicle, data = self._mail.popleft()
                content = decode(split_sdu(data)[0])
                if to_vehicle:
                    self._mailed = True
                    self._told(self.vehicle.received(n, content, self._now_s))
                else:
                    self._said(n, self.phones[n][0].received(content, self._now_s))

    def _anchors(self) -> bool:
        """Do what a driver does when something comes, or the deadline; nothing in between."""
        packets = [*_packets(self.chip.take())]
        now_s = self._now_s
        late = self._deadline_s is not None and self._deadline_s <= now_s
        if not packets and not late and not self._mailed:
            return False
        self._mailed = False
        began_s = process_time()
        for packet in packets:
            self._told(self.vehicle.receive(packet, now_s))
        if late:
            self._told(self.vehicle.tick(now_s))
        out = self.vehicle.outbox()
        self._deadline_s = self.vehicle.deadline
        self.spent_s += process_time() - began_s
        for packet in out:
            self.chip.feed(packet)
        return bool(packets or out)

    def _told(self, events: Iterable[RangingEvent]) -> None:
        for event in events:
            if isinstance(event, Measured):
                self._measured(event)
            elif isinstance(event, Tell):
                data = event.content.to_message().to_bytes()
                self._mail.append((event.session_id, False, data))
            elif isinstance(event, Began):
                self.plans.append(event.plan.ran_multiplier)

    def _said(self, n: int, events: Iterable[RangingEvent]) -> None:
        for event in events:
            if isinstance(event, Tell):
                self._mail.append((n, True, event.content.to_message().to_bytes()))

    def _measured(self, event: Measured) -> None:
        self.rounds += 1
        now_s = event.round.at_s
        self.trackers[event.session_id].update(event.round)
        keys = [
            KeyPresence(
                grant=_grant(n),
                zone=each.zone(now_s),
                trust=each.trust(now_s),
                standard=True,
                consent=True,
            )
            for n, each in self.trackers.items()
        ]
        self.proximity.update(keys, signals=PARKED, now_s=now_s)


def _grant(n: int) -> Grant:
    return Grant(
        credential_id=f"key {n}",
        name=f"phone {n}",
        role=Role.OWNER,
        permission=Permission.ENTRY_AND_START,
        state=CredentialState.ACTIVE,
    )


def session_figures(seconds: float) -> list[Figure]:
    """Measure the share of a core that the vehicle's end takes, in ``seconds`` of virtual time."""
    progress(f"ranging sessions: {len(PHONES_AT_M)} phones, {seconds:g} s of virtual time")
    bench = _Bench()
    bench.start()
    bench.run(1.0)
    if bench.plans != [1, 1, 1]:
        raise SystemExit(f"not every phone ranges at 96 ms: {bench.plans}")
    shares, parts = [], 10
    first = bench.rounds
    for _ in range(parts):
        before_s = bench.spent_s
        bench.run(seconds / parts)
        shares.append((bench.spent_s - before_s) / (seconds / parts) * 100)
    rounds = bench.rounds - first
    per_round_us = sum(shares) / parts / 100 * seconds / rounds * 1e6
    return [
        Figure(
            name="ranging sessions: 3 phones, 6 anchors, 96 ms",
            value=sum(shares) / parts,
            unit="percent",
            floor="one core: CPU time of the vehicle's end over virtual time",
            limit=2.0,
            samples=rounds,
            spread=spread(slice_medians(shares)),
            note=f"{per_round_us:.0f} us a round: UCI, gate, particle filter, zones, rules",
        )
    ]
