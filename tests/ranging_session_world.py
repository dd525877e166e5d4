"""Phones and a vehicle that range over UCI on one virtual air, in virtual time, without sockets.

BLE messages go as bytes through whoever's turn it is, as in a BLE session; nothing else of BLE.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dkey.access.ble_rules import RangingTurn
from dkey.codec.ble import MessageType, UwbId, split_sdu
from dkey.codec.ble_contents import Content, Opaque, Ranging, decode
from dkey.codec.uci import HEADER_SIZE, packet_size
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, SequenceError
from dkey.ranging.session_events import (
    Measured,
    RangingEvent,
    Tell,
    Trouble,
    TroubleKind,
    Unavailable,
    Violated,
)
from dkey.ranging.session_phone import RangingPhone
from dkey.ranging.session_vehicle import RangingVehicle
from dkey.ranging.uci_host import UciHost
from dkey.testing import SeededEntropy
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_channel import Car, Channel
from firmware_mock.uwb_subsystem import UwbSubsystem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dkey.ranging.subsystem_end import SubsystemEnd

ANCHORS = {n.to_bytes(2, "little"): n for n in range(6)}
STEP_S = 0.001


def split(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = packet_size(data[:HEADER_SIZE])
        found.append(data[:size])
        data = data[size:]
    return found


def move_of(content: Content):
    if isinstance(content, Ranging):
        return (content.kind,)
    if isinstance(content, Opaque) and content.message.type is MessageType.UWB:
        return UwbId(content.message.id)
    return None


class Phone:
    """One phone, its subsystem, and the BLE connection to the vehicle."""

    def __init__(self, world: World, number: int, at_m: tuple[float, float]) -> None:
        self.world = world
        self.session_id = 0x1000 + number
        self.station = Station(at_m=at_m)
        self.subsystem = UwbSubsystem(world.air, self.station, uci_major=world.uci_major)
        self.end = RangingPhone(UciHost(initiator=True), SeededEntropy(number))
        self.turn, self.turn_there = RangingTurn(is_reader=False), RangingTurn(is_reader=True)
        self.to_vehicle: deque[bytes] = deque()
        self.to_phone: deque[bytes] = deque()
        self.events: list[RangingEvent] = []
        self.broken: list[str] = []
        self.connected = False
        self.end.start(world.now_s)

    def connect(self, ursk: Secret | None = None, vehicle_ursk: Secret | None = None) -> Phone:
        now_s, vehicle = self.world.now_s, self.world.end
        ursk = ursk or Secret(self.session_id.to_bytes(4, "big") * 8)
        self.connected = True
        self.world.take(vehicle.open(self.session_id, vehicle_ursk or ursk, now_s))
        self.take(self.end.open(self.session_id, ursk, now_s))
        return self

    def disconnect(self) -> None:
        self.connected = False
        self.to_vehicle.clear()
        self.to_phone.clear()
        self.world.take(self.world.end.leave(self.session_id, self.world.now_s))
        self.take(self.end.leave(self.world.now_s))

    def take(self, events: Iterable[RangingEvent]) -> None:
        """Do as a BLE session does with what this end wants to send."""
        for event in events:
            self.events.append(event)
            if isinstance(event, Tell) and self.connected:
                self.sent(event.content, self.turn, self.to_vehicle, "phone")
            elif isinstance(event, Unavailable) and self.connected:
                self.to_vehicle.clear()
                self.disconnect()
            elif isinstance(event, Violated):
                self.broken.append(f"phone: {event.error}")
                self.disconnect()

    def sent(self, content: Content, turn: RangingTurn, queue: deque[bytes], who: str) -> None:
        move = move_of(content)
        if move is not None:
            try:
                turn.sent(move)
            except LocalFault as exc:
                self.broken.append(f"{who} out of turn: {exc}")
                self.disconnect()
                return
        queue.append(content.to_message().to_bytes())

    def arrived(self, data: bytes, turn: RangingTurn, who: str) -> Content | None:
        content = decode(split_sdu(data)[0])
        move = move_of(content)
        if move is None:
            return content
        try:
            return content if turn.received(move) else None
        except SequenceError as exc:
            self.broken.append(f"{who} refused: {exc}")
            self.disconnect()
            return None

    def deliver(self) -> bool:
        """Carry one message each way; return whether there was any."""
        moved = False
        if self.to_vehicle:
            moved = True
            data = self.to_vehicle.popleft()
            content = self.arrived(data, self.turn_there, "vehicle")
            if content is not None:
                end = self.world.end
                self.world.take(end.received(self.session_id, content, self.world.now_s))
        if self.to_phone:
            moved = True
            content = self.arrived(self.to_phone.popleft(), self.turn, "phone")
            if content is not None:
                self.take(self.end.received(content, self.world.now_s))
        return moved

    def troubles(self) -> set[TroubleKind]:
        return {each.kind for each in self.events if isinstance(each, Trouble)}


class World:
    """One vehicle, its anchors, any number of phones."""

    def __init__(
        self, *, channel: Channel = Channel.CLEAN, seed: int = 1, uci_major: int = 1
    ) -> None:
        self.air = UwbAir(car=Car.SIX, channel=channel, seed=seed)
        self.uci_major = uci_major
        self.subsystem = UwbSubsystem(self.air, Station(), uci_major=uci_major)
        self.end = RangingVehicle(UciHost(anchors=ANCHORS), responders=6)
        self.phones: list[Phone] = []
        self.events: list[RangingEvent] = []
        self.rounds: list[Measured] = []
        self.end.start(self.now_s)

    @property
    def now_s(self) -> float:
        return self.air.now_ns / 1e9

    def phone(self, at_m: tuple[float, float] = (4.0, 3.0)) -> Phone:
        self.phones.append(Phone(self, len(self.phones), at_m))
        return self.phones[-1]

    def take(self, events: Iterable[RangingEvent]) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event, Measured):
                self.rounds.append(event)
            phone = self._phone(getattr(event, "session_id", None))
            if phone is None or not phone.connected:
                continue
            if isinstance(event, Tell):
                phone.sent(event.content, phone.turn_there, phone.to_phone, "vehicle")
            elif isinstance(event, Unavailable):
                phone.to_phone.clear()
                phone.take(phone.end.unavailable(self.now_s))
            elif isinstance(event, Violated):
                phone.broken.append(f"vehicle: {event.error}")
                phone.disconnect()

    def _phone(self, session_id: int | None) -> Phone | None:
        return next((each for each in self.phones if each.session_id == session_id), None)

    def pump(self) -> bool:
        """Carry what waits on UCI and BLE; return whether there was anything."""
        moved = False
        ends = [(self.end, self.subsystem, self.take)]
        ends += [(each.end, each.subsystem, each.take) for each in self.phones]
        for end, subsystem, take in ends:
            moved |= self._uci(end, subsystem, take)
        for phone in self.phones:
            moved |= phone.deliver()
        return moved

    def _uci(self, end: SubsystemEnd, subsystem: UwbSubsystem, take) -> bool:
        moved = False
        for packet in end.outbox():
            subsystem.feed(packet)
            moved = True
        for packet in split(subsystem.take()):
            take(end.receive(packet, self.now_s))
            moved = True
        if end.deadline is not None and end.deadline <= self.now_s:
            take(end.tick(self.now_s))
        return moved

    def settle(self) -> World:
        for _ in range(200):
            if not self.pump():
                return self
        raise AssertionError("it never comes to rest")

    def run(self, seconds: float = 1.0, *, step_s: float = STEP_S * 5) -> World:
        end_ns = self.air.now_ns + round(seconds * 1e9)
        while self.air.now_ns < end_ns:
            self.settle()
            self.air.advance(min(end_ns, self.air.now_ns + round(step_s * 1e9)))
        return self.settle()

    def good(self) -> list[Measured]:
        return [
            each
            for each in self.rounds
            if any(one.distance_cm is not None for one in each.round.ranges)
        ]

    def troubles(self) -> set[TroubleKind]:
        return {each.kind for each in self.events if isinstance(each, Trouble)}
