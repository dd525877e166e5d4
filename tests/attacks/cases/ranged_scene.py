"""A vehicle with anchors and phones with UWB: real BLE messages, a virtual air, time that jumps."""

from __future__ import annotations

import asyncio
import selectors
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from dkey.ranging.kalman import KalmanFilter
from dkey.ranging.layouts import shipped_layout
from dkey.testing import SeededEntropy
from firmware_mock.ble_desk import BleDesk
from firmware_mock.garage import create_vehicle
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_channel import Car as Metal
from firmware_mock.uwb_channel import Channel
from firmware_mock.uwb_desk import UwbDesk
from firmware_mock.uwb_link import UwbWorld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LAYOUT = shipped_layout("saloon")
FAR_M, DOOR_M, SEAT_M = (3.0, 12.0), (0.3, 1.4), (0.3, 0.35)
STEP_S = 0.096
WALK_M_S = 1.3


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: what would have been waited is added to the loop's time."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is not None:
            self.skipped_s += max(timeout, 0)
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumps = _JumpingSelector()
        super().__init__(self._jumps)

    def time(self) -> float:
        return 1000.0 + self._jumps.skipped_s


def jumped(story: Callable[[], Awaitable[None]]) -> None:
    """Run an async story on a loop whose time jumps to the next deadline."""
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        runner.run(story())  # type: ignore[arg-type]  # a coroutine


class Wire:
    """One end of a message link in memory; ``delay_s`` is what a relay on it takes."""

    def __init__(self, peer: str = "phone") -> None:
        self.mtu = 2048
        self.caps = frozenset({Cap.BLE})
        self.peer = peer
        self.other: Wire | None = None
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.open = True
        self.sent: list[bytes] = []
        self.mangle: Callable[[bytes], bytes | None] = lambda data: data

    async def send(self, data: bytes) -> None:
        if not self.open or self.other is None:
            raise LinkError(LinkReason.CLOSED, "closed")
        self.sent.append(data)
        passed = self.mangle(data)
        if passed is not None:
            self.other.inbox.put_nowait(passed)

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


class Phone:
    """A person with a phone that is enrolled, has BLE and UWB, and walks."""

    def __init__(self, scene: Scene, name: str, role: Role, permission: Permission) -> None:
        self.scene, self.name = scene, name
        self.entropy = SeededEntropy(f"{scene.seed} {name}")
        key = self.entropy.ephemeral()
        self.credential = DeviceCredential(
            profile=VEHICLE,
            vault=MemoryVault(c=key),
            key="c",
            readers={
                scene.vehicle.group_id: TrustedReader(
                    group_id=scene.vehicle.group_id, public_key=scene.vehicle.public_key
                )
            },
        )
        enrolled = scene.vehicle.enrol(name, key.public, role, permission)
        self.credential_id = enrolled.credential_id
        self.station = Station(at_m=FAR_M)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.statuses: list[int] = []
        self.ranging = AgentRanging(
            self.entropy,
            clock=scene.clock,
            on_event=lambda name, values: self.events.append((name, values)),
        )
        self.uwb_link: Any = None
        self.session: AgentSession | None = None
        self.near: Wire | None = None

    async def connect(self, *, uwb: bool = True) -> Phone:
        """Run the transaction; ranging follows by itself."""
        near, far = Wire(self.name), Wire(self.name)
        near.other, far.other = far, near
        self.near = near
        if uwb and self.uwb_link is None:
            self.uwb_link = self.scene.world.open(self.station)
            self.scene.spawn(self.ranging.run(self.uwb_link))
            await asyncio.sleep(0.05)
        self.scene.spawn(self.scene.desk.serve(near))
        applet = BleApplet(self.credential, self.entropy)
        self.session = await AgentSession.open(
            far,
            DeviceBleSession(applet, remote_only=False),
            applet,
            on_status=self.statuses.append,
            ranging=self.ranging if uwb else None,
        )
        self.scene.stack.push_async_callback(self.session.aclose)
        return self

    async def walk(self, *to: tuple[float, float], stay_s: float = 2.0) -> None:
        """Walk there, and stay."""
        for place in to:
            x, y = self.station.at_m[:2]
            dx, dy = place[0] - x, place[1] - y
            steps = max(1, round((dx * dx + dy * dy) ** 0.5 / WALK_M_S / STEP_S))
            for step in range(1, steps + 1):
                await asyncio.sleep(STEP_S)
                self.station.at_m = (x + dx * step / steps, y + dy * step / steps)
        await asyncio.sleep(stay_s)

    def told(self, name: str) -> list[dict[str, Any]]:
        return [values for each, values in self.events if each == name]


class Scene:
    """One vehicle; everything in it follows from the seed."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        stack: AsyncExitStack,
        *,
        mode: ProximityMode = ProximityMode.PASSIVE_APPROACH,
        channel: Channel = Channel.CLEAN,
        features: Any = DK2,
        estimator: Any = None,
    ) -> None:
        self.seed, self.stack = seed, stack
        loop = asyncio.get_running_loop()
        self.clock = loop.time
        self.vehicle = create_vehicle(
            folder / "car",
            entropy=SeededEntropy(f"car {seed}"),
            clock=self.clock,
            wall_clock=lambda: 1.7e9 + self.clock(),
        )
        self.vehicle.features = features
        self.body = self.vehicle.body
        self.reports: list[tuple[str, dict[str, object]]] = []
        self.desk = BleDesk(self.vehicle, report=self._report)
        self.uwb = UwbDesk(
            self.vehicle,
            LAYOUT,
            settings=ProximitySettings(mode=mode),
            report=self._report,
            estimator=estimator or (lambda: KalmanFilter(LAYOUT)),
        )
        self.desk.uwb = self.uwb
        self.air = UwbAir(car=Metal.of(LAYOUT), channel=channel, seed=seed)
        self.world = UwbWorld(self.air)
        self.anchors = self.world.open(raw=True)
        self._tasks: list[asyncio.Task[Any]] = []
        self.spawn(self.world.run())
        self.spawn(self.uwb.run(self.anchors))

    def _report(self, event: str, /, **fields: object) -> None:
        self.reports.append((event, fields))

    def spawn(self, work: Any) -> None:
        """Run something beside the story."""
        self._tasks.append(asyncio.ensure_future(work))

    def phone(
        self,
        name: str = "owner",
        role: Role = Role.OWNER,
        permission: Permission = Permission.ENTRY_AND_START,
    ) -> Phone:
        return Phone(self, name, role, permission)

    def told(self, name: str) -> list[dict[str, object]]:
        return [fields for each, fields in self.reports if each == name]

    @property
    def log(self) -> list[str]:
        return [each.kind for each in self.vehicle.store.events()]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.desk.close()
        self.vehicle.close()


@asynccontextmanager
async def scene(seed: int = 1, **how: Any) -> AsyncIterator[Scene]:
    """Yield a vehicle that is parked, locked, and up."""
    with tempfile.TemporaryDirectory(prefix="dkr") as name:
        async with AsyncExitStack() as stack:
            made = Scene(Path(name), seed, stack, **how)
            stack.push_async_callback(made.close)
            await asyncio.sleep(0.1)
            yield made
