"""A vehicle at the other end of a message link, a phone's radio, and a clock that jumps."""

from __future__ import annotations

import asyncio
import functools
import random
import selectors
from collections import deque
from dataclasses import dataclass

from dkey.access.ble_events import Authenticated, CommandRequested
from dkey.access.ble_reader import ReaderBleSession
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, ReaderIdentity
from dkey.access.exchange import ReaderStatus
from dkey.access.profile import VEHICLE, Interface
from dkey.access.reader import AccessReader
from dkey.agent.agent import Agent
from dkey.agent.finding import Patience
from dkey.agent.store import AgentStore, KeyState
from dkey.codec.ble import RkeAction, StatusSource
from dkey.codec.ble_advert import VehicleAdvert, vehicle_tag
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import LinkError, LinkReason, PolicyRefusal, RemoteFault
from dkey.lifecycle.features import Capabilities, Feature
from dkey.link.base import Cap
from dkey.pairing.owner import (
    Cost,
    OwnerPairingVehicle,
    PairedVehicle,
    Stretch,
    failure,
    from_sdu,
    is_owner_pairing,
    to_sdu,
)
from dkey.testing import SeededEntropy

GROUP, SUB = bytes(range(16)), bytes(range(16, 32))
READER = PrivateKey.from_scalar(bytes(31) + b"\x02")
RESOLVING = Secret(b"resolving key 16")
PHONE = Capabilities(nfc=True, ble=True, uwb=False, os="linux 6")
CODE, SALT = Secret(b"12345678"), b"salt of the code"
SOON = Patience(attempts=3, find_s=10, connect_s=10, backoff_s=0.5, answer_s=10)


# --- time that jumps ---------------------------------------------------------------------------


class JumpingSelector(selectors.DefaultSelector):
    """Never waits: what would have been waited is added to the loop's time."""

    skipped_s = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("the test waits for nothing, for ever")
        if not ready:
            self.skipped_s += max(timeout, 0)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self._jumps = JumpingSelector()
        super().__init__(self._jumps)

    def time(self):
        return super().time() + self._jumps.skipped_s


def jumping(test):
    """Run an async test on a loop whose time jumps to the next deadline."""

    @functools.wraps(test)
    def called(**fixtures):
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(test(**fixtures))

    return called


# --- the vehicle at the other end --------------------------------------------------------------


class Vehicle:
    """A vehicle that answers at once; what tests change are its attributes."""

    def __init__(self) -> None:
        self.directory: dict[bytes, EnrolledCredential] = {}
        self.answers: dict[RkeAction, tuple[str, float | None]] = {}
        self.asked: list[RkeAction] = []
        self.flows: list[str] = []
        self.refuses: ReaderStatus | None = None
        self.doors = ReaderStatus.SECURE
        self.ranging = True
        self.features = frozenset({Feature.REMOTE, Feature.TOUCH_LOCK})
        self.pairing = False
        self.links: list[VehicleLink] = []
        self.key = READER
        self.pairs_with = CODE
        self.tries = 0
        self.refusal: PolicyRefusal | None = None
        self.granted_key = None

    def reader(self) -> AccessReader:
        identity = ReaderIdentity(
            profile=VEHICLE, group_id=GROUP, sub_id=SUB, vault=MemoryVault(r=self.key), key="r"
        )
        known = MemoryDirectory(self.directory.values())
        return AccessReader(
            identity, known, SeededEntropy(random.random()), interface=Interface.BLE
        )

    def enrol(self, public_key, kpersistent=None) -> None:
        self.directory[public_key.x] = EnrolledCredential(
            name="phone", public_key=public_key, kpersistent=kpersistent
        )

    def paired(self) -> PairedVehicle:
        return PairedVehicle(
            group_id=GROUP,
            public_key=READER.public,
            resolving_key=RESOLVING,
            owner_epoch=1,
            features=self.features,
            key_name="owner-1",
        )

    @property
    def advert(self) -> VehicleAdvert:
        return VehicleAdvert(
            ranging=True,
            remote=True,
            pairing=self.pairing,
            nonce=b"once",
            tag=vehicle_tag(RESOLVING.reveal(), b"once"),
        )

    # PairingRegister

    def count_try(self) -> None:
        self.tries += 1

    def admit(self, device):
        if self.refusal is not None:
            raise self.refusal
        self.granted_key = device.public_key
        return self.paired()

    def enrol_granted(self) -> None:
        self.enrol(self.granted_key)


class Register:
    def __init__(self, vehicle: Vehicle) -> None:
        self.count_try, self.admit = vehicle.count_try, vehicle.admit
        self.enrol = vehicle.enrol_granted


@functools.cache
def record_of(code: bytes):
    return Stretch(salt=SALT, cost=Cost()).run(Secret(code)).record()


class VehicleLink:
    """The phone's end of a link; the vehicle answers within ``send``.

    Attributes:
        lose_after: The link is lost instead of the message with this number, from 0.
        mute_after: From this message on the vehicle says nothing.
        lose_answer: The link is lost after the message with this number reached the vehicle.
    """

    def __init__(self, vehicle, *, lose_after=None, mute_after=None, lose_answer=None) -> None:
        self.mtu, self.caps = 4096, frozenset({Cap.BLE})
        self.vehicle = vehicle
        self.lose_after, self.mute_after = lose_after, mute_after
        self.lose_answer = lose_answer
        self.session: ReaderBleSession | None = None
        self.owner: OwnerPairingVehicle | None = None
        self.sent = 0
        self.open = True
        self.closed = False
        self._inbox: deque[bytes] = deque()
        self._changed = asyncio.Event()

    async def send(self, data: bytes) -> None:
        number, self.sent = self.sent, self.sent + 1
        if number == self.lose_after:
            self.lose()
        self._check()
        self.take(data)
        if number == self.lose_answer:
            self._inbox.clear()
            self.lose()
        if self.mute_after is not None and number >= self.mute_after:
            self._inbox.clear()

    async def recv(self) -> bytes:
        while not self._inbox:
            self._check()
            self._changed.clear()
            try:
                async with asyncio.timeout(60):
                    await self._changed.wait()
            except TimeoutError as exc:
                raise LinkError(LinkReason.TIMEOUT, "nothing came") from exc
        return self._inbox.popleft()

    async def present(self) -> bool:
        return self.open

    async def aclose(self) -> None:
        self.closed = True
        self.lose()

    def lose(self) -> None:
        self.open = False
        self._changed.set()

    def push(self, data: bytes) -> None:
        self._inbox.append(data)
        self._changed.set()

    def report(self, state: ReaderStatus) -> None:
        """Let the vehicle tell that its doors changed."""
        self.session.report(StatusSource.MANUAL, state)
        self.flush()

    def flush(self) -> None:
        for each in self.session.outbox():
            self.push(each)

    def take(self, data: bytes) -> None:
        if self.owner is not None or is_owner_pairing(data):
            self.pair(data)
            return
        now = asyncio.get_running_loop().time()
        if self.session is None:
            self.session = ReaderBleSession(self.vehicle.reader(), ranging=self.vehicle.ranging)
            self.session.start(now)
        for event in self.session.receive(data, now):
            self.decide(event, now)
        self.flush()

    def decide(self, event, now) -> None:
        vehicle, session = self.vehicle, self.session
        if isinstance(event, Authenticated):
            found = event.transaction
            vehicle.flows.append(found.flow.value)
            if vehicle.refuses is not None or found.credential is None:
                session.refuse(vehicle.refuses or ReaderStatus.KEY_NOT_FOUND, now)
                return
            kept = found.kpersistent or found.credential.kpersistent
            vehicle.enrol(found.credential.public_key, kept)
            session.accept(vehicle.doors, now)
        elif isinstance(event, CommandRequested):
            vehicle.asked.append(event.action)
            code, remaining_s = vehicle.answers.get(event.action, (None, None))
            session.answer(event, now, code=code, remaining_s=remaining_s)

    def pair(self, data: bytes) -> None:
        if self.owner is None:
            self.owner = OwnerPairingVehicle(
                record=record_of(self.vehicle.pairs_with.reveal()),
                salt=SALT,
                cost=Cost(),
                register=Register(self.vehicle),
                entropy=SeededEntropy(random.random()),
            )
        try:
            self.push(to_sdu(self.owner.step(from_sdu(data))))
        except (RemoteFault, PolicyRefusal):
            self.push(to_sdu(failure()))

    def _check(self) -> None:
        if not self.open:
            reason = LinkReason.CLOSED if self.closed else LinkReason.LOST
            raise LinkError(reason, "the link is over")


@dataclass
class Seen:
    address: str
    rssi_dbm: int
    advert: VehicleAdvert


class Air:
    """The phone's radio; each connect takes the next of ``faults``."""

    def __init__(self, vehicle: Vehicle) -> None:
        self.vehicle = vehicle
        self.faults: list[dict | LinkError] = []
        self.find_error: LinkError | None = None
        self.in_range = True
        self.searches = 0
        self.closed = False

    async def find(self, wanted, *, timeout_s):
        self.searches += 1
        if self.find_error is not None:
            raise self.find_error
        seen = Seen("C0:00:00:00:00:01", -60, self.vehicle.advert)
        if self.in_range and wanted(seen):
            return seen
        await asyncio.sleep(timeout_s)
        return None

    async def connect(self, sighting, *, timeout_s):
        fault = self.faults.pop(0) if self.faults else {}
        if isinstance(fault, LinkError):
            raise fault
        link = VehicleLink(self.vehicle, **fault)
        self.vehicle.links.append(link)
        return link

    async def aclose(self) -> None:
        self.closed = True


class World:
    """A vehicle, a phone's store and its agent."""

    def __init__(self, store: AgentStore) -> None:
        self.store = store
        self.vehicle = Vehicle()
        self.air = Air(self.vehicle)
        self.told: list[tuple[str, dict]] = []

    @property
    def agent(self) -> Agent:
        """A fresh agent, as a process that starts."""
        return Agent(
            self.store,
            self.air,
            entropy=SeededEntropy(random.random()),
            patience=SOON,
            on_event=lambda name, values: self.told.append((name, values)),
        )

    def registered(self) -> None:
        """Be paired, without the vehicle's confirmation yet."""
        key = self.store.new_key()
        self.store.add(self.vehicle.paired(), key)
        self.vehicle.enrol(self.store.vault.public(key))

    def synced(self) -> World:
        self.registered()
        self.store.set_state(GROUP, KeyState.SYNCED)
        return self

    @property
    def state(self) -> KeyState:
        vehicles = self.store.vehicles()
        return vehicles[0].state if vehicles else KeyState.NONE

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]

    def history(self) -> list[tuple[str, str | None, str]]:
        return [(each.kind, each.code, each.text) for each in self.store.events()]
