"""The world of ``ble.py``: vehicle and phones on one air, and the bare flow they are held against.

The bare flow is bleak's scan and connect on an air of its own, an L2CAP channel, and the messages
of a recorded unlock, byte for byte, to a responder that answers from the record.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic, perf_counter, process_time
from typing import TYPE_CHECKING, Any

from _floor import Floor
from _pair import ENTROPY
from bleak import BleakClient, BleakScanner
from bumble.hci import OwnAddressType
from bumble.l2cap import LeCreditBasedChannelSpec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dkey.access.enrolled import Flow
from dkey.access.profile import VEHICLE as PROFILE
from dkey.agent.agent import Agent
from dkey.agent.store import AgentStore
from dkey.agent.store_schema import KeyState
from dkey.codec.ble_advert import ReaderInfo, VehicleAdvert, vehicle_tag
from dkey.lifecycle.features import Feature
from dkey.lifecycle.roles import Permission, Role
from dkey.link.ble import Central, bumble_radio
from dkey.link.ble_bumble import backends
from dkey.link.ble_coc import bumble_connection
from dkey.link.ble_link import VEHICLE
from dkey.pairing.owner import PairedVehicle
from firmware_mock.air import Air
from firmware_mock.ble_desk import BleDesk
from firmware_mock.ble_radio import VehicleRadio
from firmware_mock.ble_service import vehicle_service
from firmware_mock.garage import create_vehicle
from firmware_mock.owner_desk import OwnerDesk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from firmware_mock.air_controller import AirController, AirDevice

__all__ = ["ADVERT_MS", "BareWorld", "BleFloor", "Clock", "Exchange", "Phone", "Record", "World"]

ADVERT_MS = 100.0
"""How often the vehicle advertises where nothing else is said."""
_PATIENCE_S = 10.0
_CHANNEL = LeCreditBasedChannelSpec(psm=0x0080, mtu=4096, mps=512, max_credits=16)
_COOL_DOWN_S = 60.0


class Clock:
    """The vehicle's monotonic time, which the bench moves on between two unlocks."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> float:
        return monotonic() + self._ahead_s

    def cool_down(self) -> None:
        """Let the repeat timer of remote commands run out."""
        self._ahead_s += _COOL_DOWN_S


# ---- the radio's waiting ---------------------------------------------------------------------


def _controller(air: Air, name: str) -> AirController:
    return next(each for each in air.controllers if each.name == name)


def _adverts(controller: AirController) -> list[Callable[[], None]]:
    """Return what sends one advertisement each, of the advertisers that are on the air."""
    sets = controller.advertising_sets.values()
    found = [each.send_extended_advertising_data for each in sets if each.enabled]
    legacy = controller.le_legacy_advertiser
    return [*found, legacy.send_advertising_data] if legacy.enabled else found


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not true():  # noqa: ASYNC110 - Bumble's controller tells nobody
            await asyncio.sleep(0.0005)


class Ether:
    """What the bench knows of an air with one advertiser and one phone.

    Args:
        air: The air.
        mouth: Name of the advertiser.
        phone: The phone's host.
        ear: Name of the phone.
    """

    def __init__(self, air: Air, mouth: str, phone: AirDevice, ear: str) -> None:
        self._mouth, self._ear = _controller(air, mouth), _controller(air, ear)
        self._spoke = asyncio.Event()
        self.prompt = False
        carry, scan, take = air.broadcast, phone.start_scanning, self._ear.on_packet

        def broadcast(sender: AirController, advert: Any) -> None:
            carry(sender, advert)
            self._spoke.set()

        async def start_scanning(*args: Any, **options: Any) -> None:
            await scan(*args, **options)
            self._speak()  # not before: bleak listens from here on

        def on_packet(packet: bytes) -> None:
            waited = self._ear.pending_le_connection
            take(packet)
            if waited is None and self._ear.pending_le_connection is not None:
                self._speak()

        air.broadcast = broadcast  # type: ignore[method-assign]
        phone.start_scanning = start_scanning  # type: ignore[method-assign]
        self._ear.on_packet = on_packet  # type: ignore[method-assign]

    async def quiet(self) -> None:
        """Wait until nobody is connected and the advertiser is on the air again."""
        await _until(lambda: bool(_adverts(self._mouth)) and not self._mouth.le_connections)

    async def after_advert(self, phase_s: float) -> None:
        """Return ``phase_s`` after an advertisement."""
        self._spoke.clear()
        await self._spoke.wait()
        await asyncio.sleep(phase_s)

    def _speak(self) -> None:
        """Advertise now, where advertisements come as soon as somebody waits for one."""
        if self.prompt:
            for send in _adverts(self._mouth):
                asyncio.get_running_loop().call_soon(send)


# ---- the product -----------------------------------------------------------------------------


@dataclass(slots=True)
class Record:
    """The messages of one unlock, as a :class:`~dkey.link.ble.MessageTap` sees them."""

    messages: list[tuple[bool, bytes]] = field(default_factory=list)

    def message(self, *, from_reader: bool, data: bytes) -> None:
        """Note one message."""
        self.messages.append((from_reader, data))

    @property
    def exchanges(self) -> list[Exchange]:
        """Each message of the phone, with the answers that came before its next one."""
        found: list[Exchange] = []
        for from_reader, data in self.messages:
            if from_reader:
                found[-1].answers.append(data)
            else:
                found.append(Exchange(request=data))
        return found


@dataclass(slots=True)
class Exchange:
    """One message round trip."""

    request: bytes
    answers: list[bytes] = field(default_factory=list)


class Phone:
    """A phone with its store and its radio; each wish gets a fresh agent.

    Attributes:
        marks: When the present agent last told what.
        doors: What the vehicle last reported of its doors; None before the first report.
    """

    def __init__(self, world: World, name: str, folder: Path) -> None:
        self.name = name
        self.device = world.air.device(name)
        self.store = AgentStore.open(folder, entropy=ENTROPY, create=True)
        self.marks: dict[str, float] = {}
        self.doors: str | None = None
        self._world = world

    def enrol(self, role: Role) -> None:
        """Get a key as by a pairing that is finished."""
        world, key = self._world, self.store.new_key()
        vehicle = world.vehicle
        paired = PairedVehicle(
            group_id=vehicle.group_id,
            public_key=vehicle.public_key,
            resolving_key=world.owner.resolving_key,
            owner_epoch=1,
            features=frozenset({Feature.REMOTE, Feature.TOUCH_LOCK}),
            key_name=self.name,
        )
        self.store.add(paired, key)
        self.store.set_state(vehicle.group_id, KeyState.SYNCED)
        vehicle.enrol(self.name, self.store.vault.public(key), role, Permission.ENTRY_AND_START)

    def forget_fast(self) -> None:
        """Lose what a fast transaction needs, so that the next one is a standard one."""
        for state in (KeyState.FORGOTTEN, KeyState.SYNCED):
            self.store.set_state(self._world.vehicle.group_id, state)

    def agent(self, tap: Record | None = None) -> Agent:
        """Return an agent that has no connection."""
        self.marks, self.doors = {}, None
        central = Central(lambda: bumble_radio(self.device), tap=tap)
        return Agent(self.store, central, entropy=ENTROPY, on_event=self._told)

    def _told(self, name: str, values: dict[str, Any]) -> None:
        self.marks[name] = perf_counter()
        if name == "doors":
            self.doors = values["state"]


class World:
    """A vehicle with its radio and desk on an air, and phones.

    Use as made by :meth:`running`.

    Attributes:
        commits_s: What durable writes took on both sides since this was set to 0, seconds.
    """

    air: Air
    radio: VehicleRadio
    desk: BleDesk

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.vehicle = create_vehicle(folder / "vehicle", clock=self.clock)
        self.owner = OwnerDesk(self.vehicle)
        self.phones: list[Phone] = []
        self.commits_s = 0.0

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, phones: int) -> AsyncIterator[World]:
        """Give a world with so many phones; the first one's key is the owner's."""
        async with AsyncExitStack() as stack:
            world = cls(folder)
            stack.callback(world.vehicle.close)
            world.air = Air()
            stack.callback(world.air.close)
            world.desk = BleDesk(world.vehicle, pairing=world.owner)
            stack.callback(world.desk.close)
            world.radio = VehicleRadio(
                world.air.device("vehicle"),
                profile=PROFILE,
                resolving_key=world.owner.resolving_key,
                on_peer=world.desk.serve,
                interval_ms=ADVERT_MS,
                ranging=world.desk.ranging,
            )
            await stack.enter_async_context(world.radio)
            for number in range(phones):
                phone = Phone(world, f"phone-{number}", folder / f"phone-{number}")
                stack.callback(phone.store.close)
                phone.enrol(Role.ASSOCIATE if number else Role.OWNER)
                await phone.device.power_on()
                world.phones.append(phone)
            world.watch_commits()
            yield world

    def watch_commits(self) -> None:
        """Time every durable write of an unlock."""

        def timed(work: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **fields: Any) -> Any:
                began = perf_counter()
                try:
                    return work(*args, **fields)
                finally:
                    self.commits_s += perf_counter() - began

            return run

        self.vehicle.commit_use = timed(self.vehicle.commit_use)  # type: ignore[method-assign]
        self.vehicle.keys.note = timed(self.vehicle.keys.note)  # type: ignore[method-assign]
        for each in self.phones:
            each.store.record = timed(each.store.record)  # type: ignore[method-assign]
            each.store.save_kpersistent = timed(  # type: ignore[method-assign]
                each.store.save_kpersistent
            )

    async def told(self, state: str) -> None:
        """Wait until no phone believes anything else of the doors."""
        await _until(lambda: all(each.doors in (None, state) for each in self.phones))

    def lock(self) -> None:
        """Lock the doors by hand and let the repeat timer run out."""
        self.clock.cool_down()
        self.vehicle.body.lock()
        self.vehicle.changed()


# ---- the floor -------------------------------------------------------------------------------


class BleFloor(Floor):
    """The crypto floor of an unlock over BLE: that of the transaction, and the channel's.

    The base class has one sealed exchange after the keys; over BLE it stands for AP Completed and
    the request. What comes on top are the BLE keys on both sides, and the report and the verdict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._root, self._aad = os.urandom(32), bytes(4)

    def ble_turns(self, flow: Flow) -> Iterator[None]:
        """Return the turns, phone first: what is computed before each message leaves."""
        turns = self.turns(flow)
        next(turns)  # the reader's SELECT, which BLE does not have
        yield from turns
        sealing = [AESGCM(key) for key in self._ble_keys()]
        sealed = self._seal_two(sealing[0])
        yield
        opening = [AESGCM(key) for key in self._ble_keys()]
        self._open_two(opening[0], sealed)
        if flow is Flow.FAST:  # its exchange releases the ranging secret, and stands for nothing
            sealed[0] = opening[1].encrypt(bytes(12), bytes(4), self._aad)
            yield
            self._open_two(sealing[1], sealed[:1])
            sealed = self._seal_two(sealing[0])
            yield
            self._open_two(opening[0], sealed)
        yield

    def _seal_two(self, cipher: AESGCM) -> list[bytes]:
        return [cipher.encrypt(bytes(12), bytes(size), self._aad) for size in (4, 24)]

    def _open_two(self, cipher: AESGCM, sealed: list[bytes]) -> None:
        for each in sealed:
            cipher.decrypt(bytes(12), each, self._aad)

    def _ble_keys(self) -> list[bytes]:
        return [
            HKDF(SHA256(), 32, b"\x01\x00\x01\x00", info).derive(self._root)
            for info in (b"BleSKReader", b"BleSKDevice")
        ]


class BareWorld:
    """A responder and a phone on an air of their own, with nothing of ours above bleak."""

    def __init__(self) -> None:
        self.air = Air()
        self.responder = self.air.device("vehicle")
        self.phone = self.air.device("phone-0")
        self._turns: Iterator[None] = iter(())
        self._answers: Iterator[Exchange] = iter(())

    async def start(self) -> None:
        """Advertise, with the service that the vehicle has."""
        info = ReaderInfo(spsm=_CHANNEL.psm or 0, versions=b"".join(PROFILE.versions))
        service, _ = vehicle_service(info, choice=_ignored, chunk=_ignored, subscribed=_ignored)
        self.responder.add_service(service)
        self.responder.create_l2cap_server(_CHANNEL, self._opened)
        await self.responder.power_on()
        await self.phone.power_on()
        nonce = os.urandom(4)
        advert = VehicleAdvert(
            ranging=True, remote=True, pairing=False, nonce=nonce, tag=vehicle_tag(bytes(16), nonce)
        )
        await self.responder.start_advertising(
            advertising_data=advert.to_bytes(),
            scan_response_data=advert.scan_response,
            advertising_interval_min=ADVERT_MS,
            advertising_interval_max=ADVERT_MS,
            own_address_type=OwnAddressType.RANDOM,
            auto_restart=True,
        )
        self._scanner, self._client = backends(self.phone)

    def close(self) -> None:
        """Take both off the air."""
        self.air.close()

    async def unlock(self, record: list[Exchange], turns: Iterator[None]) -> tuple[float, float]:
        """Scan, connect, open a channel, exchange the record; return seconds and CPU seconds."""
        self._turns, self._answers = turns, iter(record)
        began, began_cpu = perf_counter(), process_time()
        found = await BleakScanner.find_device_by_filter(
            lambda _device, data: VEHICLE.service in data.service_data,
            timeout=_PATIENCE_S,
            backend=self._scanner,
        )
        assert found is not None
        client = BleakClient(found, services=[VEHICLE.service], backend=self._client)
        await client.connect()
        connection = bumble_connection(client)
        assert connection is not None
        channel = await connection.create_l2cap_channel(_CHANNEL)
        inbox: asyncio.Queue[bytes] = asyncio.Queue()
        channel.sink = inbox.put_nowait
        for each in record:
            next(turns, None)
            channel.write(each.request)
            due = sum(map(len, each.answers))  # Bumble may join two that wait for credits
            while due > 0:
                due -= len(await inbox.get())
        next(turns, None)
        taken = perf_counter() - began, process_time() - began_cpu
        await client.disconnect()
        return taken

    def _opened(self, channel: Any) -> None:
        def answer(_request: bytes) -> None:
            next(self._turns, None)
            for each in next(self._answers).answers:
                channel.write(each)

        channel.sink = answer


def _ignored(*_args: object) -> None:
    pass
