"""dkey's own UCI host and link against the virtual subsystem, over loopback TCP."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager, suppress

import pytest

from dkey.codec.uci_messages import command
from dkey.codec.uci_params import AppConfig, CccCapabilities, parameter
from dkey.codec.uci_session import SessionInitCmd, SetAppConfigCmd, TokenCmd
from dkey.codec.uci_status import SessionState, Status
from dkey.link.opener import open_uci
from dkey.ranging.uci_events import (
    Answered,
    CommandFailed,
    DeviceReady,
    Fault,
    FaultKind,
    RangingData,
    SessionStateChanged,
)
from dkey.ranging.uci_host import UciHost
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_channel import Car, Channel
from firmware_mock.uwb_pace import FAST
from firmware_mock.uwb_server import UwbServer

DEADLINE_S = 20
SESSION = 0x01020304
AT_M = (4.0, 3.0)
ANCHORS = {n.to_bytes(2, "little"): n for n in range(6)}
VALUES = {
    AppConfig.CHANNEL_NUMBER: 9,
    AppConfig.NUMBER_OF_CONTROLEES: 6,
    AppConfig.SLOT_DURATION: 1200,
    AppConfig.RANGING_INTERVAL: 96,
    AppConfig.STS_INDEX: 1000,
    AppConfig.PREAMBLE_CODE_INDEX: 9,
    AppConfig.SLOTS_PER_RR: 12,
    AppConfig.HOPPING_MODE: 3,
    AppConfig.HOP_MODE_KEY: 0xCC5DD79F,
    AppConfig.PROTOCOL_VERSION: b"\x01\x00",
    AppConfig.UWB_CONFIG_ID: 0,
    AppConfig.PULSESHAPE_COMBO: 0,
    AppConfig.URSK: bytes(range(32)),
}


class Driver:
    """A UciHost on its link; events are kept in order."""

    def __init__(self, link, *, role: int) -> None:
        self.link, self.role = link, role
        self.host = UciHost(anchors=ANCHORS)
        self.events: asyncio.Queue = asyncio.Queue()
        self.faults: list[Fault] = []
        self._loop = asyncio.get_running_loop()
        self._reading = self._loop.create_task(self._read())

    async def _flush(self) -> None:
        for packet in self.host.outbox():
            await self.link.send(packet)

    async def _read(self) -> None:
        while True:
            packet = await self.link.recv()
            for event in self.host.receive(packet, now_s=self._loop.time()):
                if isinstance(event, Fault):
                    self.faults.append(event)
                self.events.put_nowait(event)
            await self._flush()

    async def until(self, kind, holds=lambda _event: True):
        while True:
            event = await self.events.get()
            if isinstance(event, kind) and holds(event):
                return event

    async def up(self) -> DeviceReady:
        self.host.start(now_s=self._loop.time())
        await self._flush()
        return await self.until(DeviceReady)

    async def ask(self, name: str, body=None):
        """Return the body of the answer, or the failure."""
        self.host.send(command(name, body), now_s=self._loop.time())
        await self._flush()
        found = await self.until(Answered | CommandFailed)
        return found.answer.body if isinstance(found, Answered) else found

    async def begin(self, time0_us: int, **changed):
        """Make, configure and start a session; return the answer to the start."""
        roles = {AppConfig.DEVICE_TYPE: self.role, AppConfig.DEVICE_ROLE: self.role}
        over = {AppConfig[name]: value for name, value in changed.items()}
        values = roles | VALUES | {AppConfig.UWB_TIME0: time0_us} | over
        await self.ask("SESSION_INIT", SessionInitCmd(session_id=SESSION, session_type=0xA2))
        token = self.host.token(SESSION)
        taken = tuple(
            parameter(which, value, uci_major=self.host.uci_major)
            for which, value in values.items()
        )
        await self.ask("SET_APP_CONFIG", SetAppConfigCmd(token=token, parameters=taken))
        return await self.ask("RANGE_START", TokenCmd(token=token))

    async def close(self) -> None:
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading
        await self.link.aclose()


@asynccontextmanager
async def hosts(*, uci_major: int = 1):
    """Yield a phone's and a vehicle's host that are up, and the server."""
    ready = asyncio.get_running_loop().create_future()

    def emit(event) -> None:
        if event["event"] == "ready":
            ready.set_result(event["link"])

    server = UwbServer(
        UwbAir(channel=Channel.CLEAN, seed=1),
        lambda: Station(at_m=AT_M),
        pace=FAST,
        uci_major=uci_major,
        emit=emit,
    )
    serving = asyncio.create_task(server.run("127.0.0.1", 0))
    drivers: list[Driver] = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            for role in (1, 0):
                drivers.append(Driver(await open_uci(await ready), role=role))
                await drivers[-1].up()
            yield (*drivers, server)
    finally:
        for driver in drivers:
            await driver.close()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        await asyncio.sleep(0)


async def soon_us(driver: Driver) -> int:
    found = await driver.ask("QUERY_UWBS_TIMESTAMP")
    return found.timestamp_us + 20_000_000  # one second at this pace


@pytest.mark.parametrize("uci_major", [1, 2])
async def test_two_hosts_range_and_the_vehicle_learns_the_distances(uci_major: int) -> None:
    async with hosts(uci_major=uci_major) as (phone, vehicle, _):
        assert vehicle.host.uci_major == uci_major
        time0 = await soon_us(phone)
        assert (await phone.begin(time0)).status == Status.OK
        assert (await vehicle.begin(time0)).status == Status.OK
        found = (await vehicle.until(RangingData)).round
        assert found.session_id == SESSION
        for each in found.ranges:
            true_m = math.dist((*AT_M, Car.SIX.phone_z_m), Car.SIX.anchors_m[each.anchor])
            assert each.status == Status.OK
            assert each.distance_cm == pytest.approx(100 * true_m, abs=10)
        assert len(found.ranges) == 6
        assert phone.faults == vehicle.faults == []


async def test_a_vehicle_with_another_secret_sees_failed_sts_and_no_distance() -> None:
    async with hosts() as (phone, vehicle, _):
        time0 = await soon_us(phone)
        await phone.begin(time0)
        await vehicle.begin(time0, URSK=bytes(32))
        for _ in range(3):
            found = (await vehicle.until(RangingData)).round
            assert {each.status for each in found.ranges} == {Status.RX_PHY_STS}
            assert all(each.distance_cm is None for each in found.ranges)


async def test_a_chip_that_is_one_anchor_is_understood() -> None:
    async with hosts() as (phone, vehicle, _):
        time0 = await soon_us(phone)
        await phone.begin(time0)
        await vehicle.begin(time0, RESPONDER_SLOT_INDEX=0)
        first, second = [(await vehicle.until(RangingData)).round for _ in range(2)]
        assert first.ranges[0].status == Status.OK
        assert first.sts_index < second.sts_index
        assert vehicle.faults == []


async def test_a_start_that_is_too_late_is_told() -> None:
    async with hosts() as (phone, _, __):
        failed = await phone.begin(1)
        assert failed.status == Status.INITIATION_TIME_TOO_OLD


async def test_a_session_is_stopped_and_taken_away() -> None:
    async with hosts() as (phone, _, __):
        await phone.begin(await soon_us(phone))
        await phone.ask("RANGE_STOP", TokenCmd(token=SESSION))
        await phone.until(SessionStateChanged, lambda each: each.state == SessionState.IDLE)
        await phone.ask("SESSION_DEINIT", TokenCmd(token=SESSION))
        await phone.until(SessionStateChanged, lambda each: each.state == SessionState.DEINIT)
        assert phone.faults == []


async def test_the_capabilities_are_understood() -> None:
    async with hosts() as (phone, _, __):
        caps = CccCapabilities.of((await phone.ask("GET_CAPS_INFO")).capabilities)
        assert caps.channels == {5, 9}


async def test_a_lie_about_the_state_is_not_believed() -> None:
    async with hosts() as (phone, _, server):
        for subsystem in server.subsystems:
            subsystem.chip.faults.state = SessionState.ACTIVE
        await phone.begin(await soon_us(phone))
        assert phone.faults[0].kind is FaultKind.UNEXPECTED_STATE
