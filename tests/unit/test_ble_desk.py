"""The vehicle's Bluetooth desk: who is let in, what a command does, what the others are told."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import pytest

from dkey.access.ble_applet import BleApplet
from dkey.access.ble_device import DeviceBleSession
from dkey.access.ble_events import Ended, EndReason, Established, StatusReported, VerdictReceived
from dkey.access.ble_rules import BleInput
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.exchange import ReaderStatus
from dkey.access.profile import VEHICLE
from dkey.codec.ble import RkeAction, StatusSource, split_sdu
from dkey.codec.ble_contents import RkeRequest
from dkey.control.touch import Position
from dkey.crypto.vault import MemoryVault
from dkey.errors import LinkError, LinkReason, StoreError
from dkey.lifecycle.features import DK2, DK2_TOUCH
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.link.base import Cap
from dkey.link.session_driver import SessionDriver
from dkey.testing import FakeClock, SeededEntropy
from firmware_mock.ble_desk import BleDesk
from firmware_mock.garage import create_vehicle, open_vehicle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from dkey.access.ble_events import BleEvent
    from dkey.crypto.secret import Secret
    from dkey.lifecycle.features import FeatureProfile

E = TypeVar("E")
SOON_S = 5.0


class End:
    """One end of a message link in memory."""

    def __init__(self, peer: str = "phone") -> None:
        self.mtu = 2048
        self.caps = frozenset({Cap.BLE})
        self.peer = peer
        self.bearer = "coc"
        self.authenticated = False
        self.other: End | None = None
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.open = True

    async def send(self, data: bytes) -> None:
        if not self.open or self.other is None:
            raise LinkError(LinkReason.CLOSED, "closed")
        self.other.inbox.put_nowait(data)

    async def recv(self) -> bytes:
        data = await self.inbox.get()
        if data is None:
            self.inbox.put_nowait(None)
            raise LinkError(LinkReason.LOST if self.open else LinkReason.CLOSED, "the other left")
        return data

    async def present(self) -> bool:
        return self.open

    async def aclose(self) -> None:
        self.open = False
        self.inbox.put_nowait(None)
        if self.other is not None:
            self.other.inbox.put_nowait(None)


def pair(peer: str = "phone") -> tuple[End, End]:
    vehicle, phone = End(peer), End(peer)
    vehicle.other, phone.other = phone, vehicle
    return vehicle, phone


class Phone:
    """A phone with one credential; each connection is a session of its own."""

    def __init__(self, name: str, car: Car) -> None:
        self.name, self.car = name, car
        self.entropy = SeededEntropy(name)
        key = self.entropy.ephemeral()
        self.public_key = key.public
        group = car.vehicle.group_id
        self.credential = DeviceCredential(
            profile=VEHICLE,
            vault=MemoryVault(c=key),
            key="c",
            readers={group: TrustedReader(group_id=group, public_key=car.vehicle.public_key)},
        )

    @asynccontextmanager
    async def connected(self, *, remote_only: bool = True) -> AsyncIterator[Connection]:
        near, far = pair(self.name)
        serving = asyncio.create_task(self.car.desk.serve(near))
        connection = Connection(self, far, remote_only=remote_only)
        try:
            yield connection
        finally:
            await far.aclose()
            await connection.ended()
            async with asyncio.timeout(SOON_S):
                await serving


class Connection:
    """The phone's side of one connection."""

    def __init__(self, phone: Phone, link: End, *, remote_only: bool) -> None:
        self.phone, self.link = phone, link
        self.events: list[BleEvent] = []
        self.changed = asyncio.Event()
        applet = BleApplet(phone.credential, phone.entropy)
        self.session = DeviceBleSession(applet, remote_only=remote_only)
        self.session.start(phone.car.clock())
        self.driver: SessionDriver[BleEvent] = SessionDriver(
            self.session, link, clock=phone.car.clock, take=self.take
        )
        self.task = asyncio.create_task(self.driver.run())

    def take(self, events: Iterable[BleEvent]) -> None:
        self.events += events
        self.changed.set()

    async def ended(self) -> None:
        async with asyncio.timeout(SOON_S):
            await self.task

    async def wait_for(self, kind: type[E], at: int = 0) -> E:
        async with asyncio.timeout(SOON_S):
            while True:
                found = [event for event in self.events[at:] if isinstance(event, kind)]
                if found:
                    return found[0]
                self.changed.clear()
                await self.changed.wait()

    async def in_(self) -> Established:
        return await self.wait_for(Established)

    async def ask(self, action: RkeAction) -> VerdictReceived:
        at = len(self.events)
        self.session.request(action, self.phone.car.clock())
        self.driver.wake()
        return await self.wait_for(VerdictReceived, at)


class Car:
    """A vehicle with a desk, its owner's phone and what the desk reported."""

    def __init__(self, folder: Path, features: FeatureProfile = DK2) -> None:
        self.folder = folder / "car"
        self.clock = FakeClock(1000.0)
        self.vehicle = create_vehicle(
            self.folder,
            entropy=SeededEntropy("car"),
            clock=self.clock,
            wall_clock=lambda: 1.7e9 + self.clock.now_s,
        )
        self.reports: list[tuple[str, dict[str, object]]] = []
        self.vehicle.features = features
        self.desk = BleDesk(self.vehicle, report=self.report)
        self.body = self.vehicle.body
        self.owner = self.phone("owner", Role.OWNER)

    def report(self, event: str, /, **fields: object) -> None:
        self.reports.append((event, fields))

    def phone(
        self,
        name: str,
        role: Role = Role.ASSOCIATE,
        permission: Permission = Permission.ENTRY_AND_START,
    ) -> Phone:
        phone = Phone(name, self)
        self.vehicle.enrol(name, phone.public_key, role, permission)
        return phone

    def id_of(self, phone: Phone) -> str:
        known = self.vehicle.store.credential_by_x(phone.public_key.x)
        assert known is not None
        return known.credential_id

    def set_state(self, phone: Phone, state: CredentialState) -> None:
        self.vehicle.set_state(self.id_of(phone), state)

    @property
    def log(self) -> list[tuple[str, Position | None, str | None]]:
        names = {c.credential_id: c.name for c in self.vehicle.store.credentials()}
        return [
            (each.kind, each.position, names.get(each.credential_id or ""))
            for each in self.vehicle.store.events()
        ]


@pytest.fixture
def car(tmp_path):
    made = Car(tmp_path)
    yield made
    made.desk.close()
    made.vehicle.close()


# ---- who is let in ------------------------------------------------------------------------------


async def test_an_enrolled_phone_is_let_in_and_told_the_state_of_the_doors(car):
    async with car.owner.connected() as phone:
        assert (await phone.in_()).state == ReaderStatus.SECURE & 0xFF
        assert car.desk.phones == (car.id_of(car.owner),)
    assert car.desk.phones == ()


async def test_use_and_kpersistent_are_committed_before_the_phone_is_let_in(car):
    async with car.owner.connected() as phone:
        await phone.in_()
        assert car.log[-1] == ("CONNECTED", Position.BLE, "owner")
        sub_id = car.vehicle.keys.sub_id(Position.BLE)
        assert len(car.vehicle.store.fast_candidates(sub_id)) == 1


async def test_a_phone_that_wants_ranging_comes_back_by_a_fast_transaction(car):
    for fast in (False, True):
        async with car.owner.connected(remote_only=False) as phone:
            transaction = (await phone.in_()).transaction
            assert transaction is not None
            assert transaction.fast is fast
            kept: Secret | None = transaction.kpersistent
        if kept is not None:
            place = (car.vehicle.group_id, car.vehicle.keys.sub_id(Position.BLE))
            car.owner.credential.kpersistent.setdefault(place, kept)


async def test_a_stranger_is_refused_and_noted(car):
    async with Phone("stranger", car).connected() as phone:
        ended = await phone.wait_for(Ended)
    assert ended.reason is not EndReason.CLOSED
    assert not any(isinstance(event, Established) for event in phone.events)
    assert car.log[-1] == ("REFUSED", Position.BLE, None)
    assert ("refused", "KEY_UNKNOWN") in [(name, f.get("code")) for name, f in car.reports]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (CredentialState.SUSPENDED, "KEY_SUSPENDED"),
        (CredentialState.REVOKED, "KEY_REVOKED"),
    ],
)
async def test_a_key_that_is_withdrawn_is_not_let_in(car, state, code):
    car.set_state(car.owner, state)
    async with car.owner.connected() as phone:
        await phone.wait_for(Ended)
    assert not any(isinstance(event, Established) for event in phone.events)
    assert code in [fields.get("code") for _, fields in car.reports]


async def test_the_radio_is_told_who_proved_a_key(car):
    near, far = pair()
    serving = asyncio.create_task(car.desk.serve(near))
    connection = Connection(car.owner, far, remote_only=True)
    await connection.in_()
    assert near.authenticated
    await far.aclose()
    await connection.ended()
    await serving


async def test_a_phone_that_says_nothing_is_given_up(car, monkeypatch):
    monkeypatch.setattr("firmware_mock.ble_desk.HANDSHAKE_S", 0.01)
    near, far = pair()
    async with asyncio.timeout(SOON_S):
        await car.desk.serve(near)
    assert not near.open
    await far.aclose()


# ---- commands -----------------------------------------------------------------------------------


async def test_unlock_opens_the_doors_and_names_the_acting_key(car):
    async with car.owner.connected() as phone:
        await phone.in_()
        assert (await phone.ask(RkeAction.UNLOCK)).code is None
        assert car.body.locked is False
        assert car.log[-1] == ("UNLOCK", Position.BLE, "owner")


async def test_a_command_is_on_the_disk_before_its_verdict_leaves(car):
    async with car.owner.connected() as phone:
        await phone.in_()
        await phone.ask(RkeAction.UNLOCK)
        with sqlite3.connect(car.folder / "vehicle.db") as other:
            kinds = [kind for (kind,) in other.execute("SELECT kind FROM event ORDER BY seq")]
        other.close()
        assert kinds[-1] == "UNLOCK"


async def test_what_cannot_be_committed_is_not_carried_out(car, monkeypatch):
    async with car.owner.connected() as phone:
        await phone.in_()

        def full(*_args: object, **_fields: object) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(car.vehicle.keys, "note", full)
        phone.session.request(RkeAction.UNLOCK, car.clock())
        phone.driver.wake()
        await phone.wait_for(Ended)
        assert car.body.locked is True
        assert not any(isinstance(event, VerdictReceived) for event in phone.events)


async def test_a_commit_that_outlasts_the_phones_patience_moves_nothing(car, monkeypatch):
    async with car.owner.connected() as phone:
        await phone.in_()
        note = car.vehicle.keys.note

        def slow(*args, **fields) -> None:
            note(*args, **fields)
            car.clock.advance(2.0)

        monkeypatch.setattr(car.vehicle.keys, "note", slow)
        phone.session.request(RkeAction.UNLOCK, car.clock())
        phone.driver.wake()
        await phone.wait_for(Ended)
    assert car.body.locked is True
    assert car.log[-1][0] == "DROPPED"


async def test_two_phones_share_the_repeat_timer(car):
    friend = car.phone("friend")
    async with car.owner.connected() as one, friend.connected() as two:
        await one.in_()
        await two.in_()
        assert (await one.ask(RkeAction.UNLOCK)).code is None
        car.clock.advance(29.999)
        refused = await two.ask(RkeAction.LOCK)
        assert refused.code == "TOO_SOON"
        assert refused.remaining_s == pytest.approx(0.001)
        car.clock.advance(0.001)
        assert (await two.ask(RkeAction.LOCK)).code is None
    assert car.body.locked is True


async def test_a_restart_does_not_shorten_the_repeat_timer(car):
    async with car.owner.connected() as phone:
        await phone.in_()
        await phone.ask(RkeAction.UNLOCK)
    car.clock.advance(10)
    again = BleDesk(car.vehicle)
    assert again.history.ready_s == pytest.approx(car.clock() + 20)


async def test_remote_start_runs_the_engine_and_remote_stop_stops_it(car):
    async with car.owner.connected() as phone:
        await phone.in_()
        assert (await phone.ask(RkeAction.REMOTE_START)).code is None
        assert (car.body.ignition_on, car.body.remote_running) == (True, True)
        car.clock.advance(30)
        assert (await phone.ask(RkeAction.REMOTE_STOP)).code is None
        assert (car.body.ignition_on, car.body.remote_running) == (False, False)


async def test_remote_stop_leaves_an_engine_alone_that_a_driver_took_over(car):
    async with car.owner.connected() as phone:
        await phone.in_()
        await phone.ask(RkeAction.REMOTE_START)
        car.body.start()
        car.clock.advance(30)
        assert (await phone.ask(RkeAction.REMOTE_STOP)).code == "IGNITION_ON"
    assert car.body.ignition_on is True


@pytest.mark.parametrize(
    ("signal", "value", "code"),
    [
        ("speed_kmh", 3.0, "DRIVING"),
        ("ignition_on", True, "IGNITION_ON"),
        ("gear_in_park", False, "GEAR_NOT_P"),
        ("locked", False, "DOOR_NOT_LOCKED"),
        ("smartkey_near", True, "SMARTKEY_NEARBY"),
        ("fob_lock_s", 999.0, "SMARTKEY_LOCK_COOLDOWN"),
        ("updating", True, "UPDATE_IN_PROGRESS"),
        ("immobilised", True, "IMMOBILISED"),
        ("service_mode", True, "SERVICE_MODE"),
    ],
)
async def test_a_gate_refuses_remote_start_with_its_own_code(car, signal, value, code):
    setattr(car.body, signal, value)
    running = car.body.ignition_on
    async with car.owner.connected() as phone:
        await phone.in_()
        assert (await phone.ask(RkeAction.REMOTE_START)).code == code
    assert car.body.ignition_on is running
    assert car.log[-1] == ("REFUSED", Position.BLE, "owner")


async def test_a_fast_session_never_starts_the_engine(car):
    place = (car.vehicle.group_id, car.vehicle.keys.sub_id(Position.BLE))
    async with car.owner.connected(remote_only=False) as phone:
        transaction = (await phone.in_()).transaction
        assert transaction is not None
        assert transaction.kpersistent is not None
        car.owner.credential.kpersistent[place] = transaction.kpersistent
    async with car.owner.connected(remote_only=False) as phone:
        transaction = (await phone.in_()).transaction
        assert transaction is not None
        assert transaction.fast
        assert (await phone.ask(RkeAction.REMOTE_START)).code == "STANDARD_REQUIRED"
        assert (await phone.ask(RkeAction.UNLOCK)).code is None


async def test_an_entry_only_friend_unlocks_and_does_not_start(car):
    friend = car.phone("friend", permission=Permission.ENTRY)
    async with friend.connected() as phone:
        await phone.in_()
        assert (await phone.ask(RkeAction.REMOTE_START)).code == "PERMISSION_ENTRY_ONLY"
        assert (await phone.ask(RkeAction.UNLOCK)).code is None


async def test_a_key_that_is_revoked_while_connected_commands_no_more(car):
    async with car.owner.connected() as phone:
        await phone.in_()
        car.set_state(car.owner, CredentialState.REVOKED)
        assert (await phone.ask(RkeAction.UNLOCK)).code == "KEY_REVOKED"
    assert car.body.locked is True


async def test_a_touch_only_vehicle_refuses_every_command(tmp_path):
    car = Car(tmp_path, DK2_TOUCH)
    async with car.owner.connected() as phone:
        await phone.in_()
        codes = {(await phone.ask(action)).code for action in RkeAction}
    assert codes == {"FEATURE_NOT_SUPPORTED"}
    car.vehicle.close()


async def test_the_horn_stops_by_itself_after_30_s(car):
    async with car.owner.connected() as phone:
        await phone.in_()
        assert (await phone.ask(RkeAction.HORN_ON)).code is None
    assert car.body.horn is True
    car.clock.advance(29.9)
    car.desk.tick()
    assert car.body.horn is True
    car.clock.advance(0.1)
    car.desk.tick()
    assert car.body.horn is False


async def test_anybody_silences_the_horn_at_once(car):
    friend = car.phone("friend")
    async with car.owner.connected() as one, friend.connected() as two:
        await one.in_()
        await two.in_()
        await one.ask(RkeAction.HORN_ON)
        assert (await two.ask(RkeAction.HORN_OFF)).code is None
    assert car.body.horn is False


# ---- what the others are told -------------------------------------------------------------------


async def test_every_phone_is_told_of_a_change_and_who_caused_it(car):
    friend = car.phone("friend")
    async with car.owner.connected() as one, friend.connected() as two:
        await one.in_()
        await two.in_()
        await one.ask(RkeAction.UNLOCK)
        told = [await each.wait_for(StatusReported) for each in (one, two)]
    assert [each.state for each in told] == [ReaderStatus.UNSECURE & 0xFF] * 2
    assert [each.source for each in told] == [
        StatusSource.THIS_DEVICE_BLE,
        StatusSource.UNSPECIFIED,
    ]


async def test_a_change_by_hand_is_reported_once(car):
    async with car.owner.connected() as phone:
        await phone.in_()
        car.body.fob_unlock()
        car.vehicle.changed()
        car.vehicle.changed()
        await phone.wait_for(StatusReported)
        await phone.ask(RkeAction.HORN_OFF)
        told = [each for each in phone.events if isinstance(each, StatusReported)]
    assert [(each.source, each.state) for each in told] == [(StatusSource.MANUAL, 0x01)]


@pytest.mark.parametrize("junk", [b"", b"\x00", b"\xff" * 40, b"\x02\x05\x00\x01\x00"])
async def test_a_malformed_phone_ends_alone(car, junk):
    async with car.owner.connected() as phone:
        await phone.in_()
        near, far = pair("evil")
        serving = asyncio.create_task(car.desk.serve(near))
        await far.send(junk)
        if junk == b"":  # no message at all, so the link has to go
            await far.aclose()
        async with asyncio.timeout(SOON_S):
            await serving
        said = []
        with suppress(LinkError):
            while True:
                said.append(await far.recv())
        assert len(said) <= 1
        assert (await phone.ask(RkeAction.UNLOCK)).code is None


async def test_a_trace_sees_every_message_in_order_and_no_plain_command(car):
    passed: list[tuple[bool, bytes]] = []

    class Tap:
        def message(self, *, from_reader: bool, data: bytes) -> None:
            passed.append((from_reader, data))

    car.desk = BleDesk(car.vehicle, tap=Tap())
    async with car.owner.connected() as phone:
        await phone.in_()
        await phone.ask(RkeAction.UNLOCK)
    names = [(who, BleInput.of(m).value) for who, data in passed for m in split_sdu(data)]
    assert names[:6] == [
        (False, "Initiate AP RKE"),
        (True, "AP RQ"),
        (False, "AP RS"),
        (True, "AP RQ"),
        (False, "AP RS"),
        (True, "AP Completed"),
    ]
    assert names[6] == (False, "RKE Request")
    plain = RkeRequest(action=RkeAction.UNLOCK, number=1).to_message().payload
    assert not any(plain in data for _, data in passed)


async def test_a_phone_that_vanishes_leaves_nothing_behind(car):
    near, far = pair()
    serving = asyncio.create_task(car.desk.serve(near))
    connection = Connection(car.owner, far, remote_only=True)
    await connection.in_()
    await near.aclose()
    async with asyncio.timeout(SOON_S):
        await serving
    await connection.ended()
    assert car.desk.phones == ()
    assert car.reports[-1][0] == "ble_lost"


async def test_twenty_phones_unlock_in_turn(car):
    phones = [car.phone(f"phone {n}") for n in range(20)]
    for phone in phones:
        async with phone.connected() as connection:
            await connection.in_()
            assert (await connection.ask(RkeAction.UNLOCK)).code is None
        car.clock.advance(30)
    assert [name for kind, _, name in car.log if kind == "UNLOCK"] == [p.name for p in phones]


async def test_the_key_list_after_a_restart_is_what_phones_were_let_in_with(car):
    async with car.owner.connected() as phone:
        await phone.in_()
    car.vehicle.close()
    again = open_vehicle(car.folder, entropy=SeededEntropy("again"), clock=car.clock)
    assert len(again.store.fast_candidates(again.keys.sub_id(Position.BLE))) == 1
    again.close()
