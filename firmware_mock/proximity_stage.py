"""A vehicle with anchors, and people with phones who walk: Bluetooth messages and UWB for real.

The messages of both sides are the ones that go over Bluetooth, the UWB subsystems speak UCI and
derive their STS, the air has places and a channel. Only the bearer of the messages is a queue, so
that the story can run on a loop whose time jumps (:mod:`firmware_mock.jumping_loop`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from dkey.access.ble_applet import BleApplet
from dkey.access.ble_device import DeviceBleSession
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.profile import VEHICLE
from dkey.agent.agent_ranging import AgentRanging
from dkey.agent.agent_session import AgentSession
from dkey.control.proximity import ProximityMode, ProximitySettings
from dkey.crypto.vault import MemoryVault
from dkey.errors import LinkError, LinkReason
from dkey.lifecycle.features import DK2
from dkey.lifecycle.roles import Permission, Role
from dkey.link.base import Cap
from dkey.ranging.layouts import shipped_layout
from firmware_mock.ble_desk import BleDesk
from firmware_mock.garage import create_vehicle
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_channel import Car as Metal
from firmware_mock.uwb_channel import Channel
from firmware_mock.uwb_desk import UwbDesk
from firmware_mock.uwb_link import UwbWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AsyncExitStack
    from pathlib import Path

    from dkey.crypto.entropy import Entropy
    from dkey.lifecycle.features import FeatureProfile
    from dkey.ranging.layout import Layout
    from dkey.ranging.position import Estimator

__all__ = ["DOOR_M", "FAR_M", "SEAT_M", "ProximityStage", "Walker", "Wire"]

FAR_M: Final = (3.0, 12.0)
DOOR_M: Final = (0.3, 1.4)
SEAT_M: Final = (0.3, 0.35)
_STEP_S: Final = 0.096
_WALK_M_S: Final = 1.3
_EPOCH_S: Final = 1.7e9


class Wire:
    """One end of a message link in memory.

    Attributes:
        sent: Everything that was sent here.
        mangle: What an attacker on the way makes of a message; None swallows it.
    """

    def __init__(self, peer: str = "phone") -> None:
        self.mtu = 2048
        self.caps = frozenset({Cap.BLE})
        self.peer = peer
        self.other: Wire | None = None
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.open = True
        self.sent: list[bytes] = []
        self.mangle: Callable[[bytes], bytes | None] = lambda data: data

    @classmethod
    def pair(cls, peer: str) -> tuple[Wire, Wire]:
        """Return both ends."""
        near, far = cls(peer), cls(peer)
        near.other, far.other = far, near
        return near, far

    async def send(self, data: bytes) -> None:
        """Send one message.

        Raises:
            LinkError: CLOSED.
        """
        if not self.open or self.other is None:
            raise LinkError(LinkReason.CLOSED, "the link is closed")
        self.sent.append(data)
        passed = self.mangle(data)
        if passed is not None:
            self.other.inbox.put_nowait(passed)

    async def recv(self) -> bytes:
        """Return the next message.

        Raises:
            LinkError: LOST, the other end left; CLOSED.
        """
        data = await self.inbox.get()
        if data is None:
            self.inbox.put_nowait(None)
            raise LinkError(LinkReason.LOST if self.open else LinkReason.CLOSED, "the other left")
        return data

    async def present(self) -> bool:
        """Whether it is open."""
        return self.open

    async def aclose(self) -> None:
        """Close both ends."""
        self.open = False
        self.inbox.put_nowait(None)
        if self.other is not None:
            self.other.inbox.put_nowait(None)


class Walker:
    """A person with a phone that is enrolled, has Bluetooth and UWB, and walks.

    Attributes:
        station: Where the phone is.
        events: What its ranging told: names and values.
        statuses: What the vehicle told of its doors.
    """

    def __init__(
        self, stage: ProximityStage, name: str, role: Role, permission: Permission
    ) -> None:
        self._stage, self.name = stage, name
        self.entropy = stage.entropy(name)
        key = self.entropy.ephemeral()
        vehicle = stage.vehicle
        trusted = TrustedReader(group_id=vehicle.group_id, public_key=vehicle.public_key)
        self.credential = DeviceCredential(
            profile=VEHICLE,
            vault=MemoryVault(c=key),
            key="c",
            readers={vehicle.group_id: trusted},
        )
        self.credential_id = vehicle.enrol(name, key.public, role, permission).credential_id
        self.station = Station(at_m=FAR_M)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.statuses: list[int] = []
        self.ranging = AgentRanging(
            self.entropy,
            clock=stage.clock,
            on_event=lambda name, values: self.events.append((name, values)),
        )
        self.uwb_link: Any = None
        self.session: AgentSession | None = None
        self.near: Wire | None = None

    async def connect(self, *, uwb: bool = True) -> Walker:
        """Run the transaction; ranging follows by itself."""
        self.near, far = Wire.pair(self.name)
        if uwb and self.uwb_link is None:
            self.uwb_link = self._stage.world.open(self.station)
            self._stage.spawn(self.ranging.run(self.uwb_link))
            await asyncio.sleep(0.05)
        self._stage.spawn(self._stage.desk.serve(self.near))
        applet = BleApplet(self.credential, self.entropy)
        self.session = await AgentSession.open(
            far,
            DeviceBleSession(applet, remote_only=False),
            applet,
            on_status=self.statuses.append,
            ranging=self.ranging if uwb else None,
        )
        self._stage.stack.push_async_callback(self.session.aclose)
        return self

    async def walk(self, *to: tuple[float, float], stay_s: float = 2.0) -> None:
        """Walk to these places, in metres, and stay at the last."""
        for place in to:
            x, y = self.station.at_m[:2]
            dx, dy = place[0] - x, place[1] - y
            steps = max(1, round((dx * dx + dy * dy) ** 0.5 / _WALK_M_S / _STEP_S))
            for step in range(1, steps + 1):
                await asyncio.sleep(_STEP_S)
                self.station.at_m = (x + dx * step / steps, y + dy * step / steps)
        await asyncio.sleep(stay_s)

    def told(self, name: str) -> list[dict[str, Any]]:
        """Return the values of what its ranging told under a name."""
        return [values for each, values in self.events if each == name]


class ProximityStage:
    """One vehicle with anchors, parked and locked.

    Args:
        folder: Where it is kept.
        entropy: Makes the random source of whom it is given the name.
        stack: Ends everything.
        seed: Of the air.
        mode: What unlocks.
        channel: Between phones and anchors.
        features: What this kind of vehicle offers.
        estimator: Makes the filter that follows one phone; None takes the desk's own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        entropy: Callable[[str], Entropy],
        stack: AsyncExitStack,
        seed: int = 1,
        mode: ProximityMode = ProximityMode.PASSIVE_APPROACH,
        channel: Channel = Channel.CLEAN,
        features: FeatureProfile = DK2,
        estimator: Callable[[], Estimator] | None = None,
    ) -> None:
        self.entropy, self.stack, self.seed = entropy, stack, seed
        self.layout: Layout = shipped_layout("saloon")
        loop = asyncio.get_running_loop()
        self.clock = loop.time
        self.vehicle = create_vehicle(
            folder / "car",
            entropy=entropy("car"),
            clock=self.clock,
            wall_clock=lambda: _EPOCH_S + self.clock(),
        )
        self.vehicle.features = features
        self.body = self.vehicle.body
        self.reports: list[tuple[str, dict[str, object]]] = []
        self.desk = BleDesk(self.vehicle, report=self._report)
        self.uwb = UwbDesk(
            self.vehicle,
            self.layout,
            settings=ProximitySettings(mode=mode),
            report=self._report,
            estimator=estimator,
        )
        self.desk.uwb = self.uwb
        self.air = UwbAir(car=Metal.of(self.layout), channel=channel, seed=seed)
        self.world = UwbWorld(self.air)
        self.anchors = self.world.open(raw=True)
        self._tasks: list[asyncio.Task[Any]] = []
        stack.push_async_callback(self._close)
        self.spawn(self.world.run())
        self.spawn(self.uwb.run(self.anchors))

    def _report(self, event: str, /, **fields: object) -> None:
        self.reports.append((event, fields))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something beside the story."""
        self._tasks.append(asyncio.ensure_future(work))

    def phone(
        self,
        name: str = "owner",
        role: Role = Role.OWNER,
        permission: Permission = Permission.ENTRY_AND_START,
    ) -> Walker:
        """Return somebody with an enrolled phone, far away."""
        return Walker(self, name, role, permission)

    def told(self, name: str) -> list[dict[str, object]]:
        """Return the fields of what the vehicle reported under a name."""
        return [fields for each, fields in self.reports if each == name]

    @property
    def log(self) -> list[str]:
        """The kinds of the vehicle's events, oldest first."""
        return [each.kind for each in self.vehicle.store.events()]

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.desk.close()
        self.vehicle.close()
