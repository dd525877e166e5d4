"""Virtual UWB subsystems over loopback TCP, with nothing but bytes on the other side."""

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager, suppress

import pytest

from dkey.codec.uci import HEADER_SIZE, Packet, PacketType, packet_size
from dkey.codec.uci_messages import command, decode, encode
from dkey.codec.uci_params import AppConfig, parameter
from dkey.codec.uci_session import SessionInitCmd, SetAppConfigCmd, TokenCmd
from dkey.codec.uci_status import Status
from dkey.errors import LinkError, LinkReason
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_channel import Channel
from firmware_mock.uwb_pace import FAST
from firmware_mock.uwb_server import UwbServer

SESSION = 7
DEADLINE_S = 20


class Host:
    """A few lines of UCI host."""

    def __init__(self, reader, writer) -> None:
        self.reader, self.writer, self.told = reader, writer, []

    async def next(self, **how):
        header = await self.reader.readexactly(HEADER_SIZE)
        rest = await self.reader.readexactly(packet_size(header) - HEADER_SIZE)
        return decode(Packet.parse(header + rest), **how)

    async def ask(self, name: str, body=None):
        self.writer.write(encode(command(name, body)).to_bytes())
        while True:
            message = await self.next()
            if message.type is PacketType.RESPONSE:
                assert message.name == name
                return message.body
            self.told.append(message)

    async def range(self, *, initiator: bool, time0_us: int) -> int:
        """Configure and start a session."""
        values = {
            AppConfig.DEVICE_TYPE: int(initiator),
            AppConfig.DEVICE_ROLE: int(initiator),
            AppConfig.CHANNEL_NUMBER: 9,
            AppConfig.NUMBER_OF_CONTROLEES: 6,
            AppConfig.SLOT_DURATION: 1200,
            AppConfig.RANGING_INTERVAL: 96,
            AppConfig.STS_INDEX: 5,
            AppConfig.PREAMBLE_CODE_INDEX: 9,
            AppConfig.SLOTS_PER_RR: 12,
            AppConfig.HOPPING_MODE: 3,
            AppConfig.HOP_MODE_KEY: 77,
            AppConfig.PROTOCOL_VERSION: b"\x01\x00",
            AppConfig.UWB_CONFIG_ID: 0,
            AppConfig.PULSESHAPE_COMBO: 0,
            AppConfig.URSK: bytes(32),
            AppConfig.UWB_TIME0: time0_us,
        }
        await self.ask("SESSION_INIT", SessionInitCmd(session_id=SESSION, session_type=0xA2))
        parameters = tuple(parameter(which, value) for which, value in values.items())
        await self.ask("SET_APP_CONFIG", SetAppConfigCmd(token=SESSION, parameters=parameters))
        return (await self.ask("RANGE_START", TokenCmd(token=SESSION))).status

    async def measured(self):
        """Return the next ranging data of a vehicle."""
        while True:
            message = await self.next()
            if message.name == "SESSION_INFO":
                return message.body


@asynccontextmanager
async def serving(**how):
    ready = asyncio.get_running_loop().create_future()
    events: list = []

    def emit(event) -> None:
        events.append(event)
        if event["event"] == "ready":
            ready.set_result(int(event["link"].rpartition(":")[2]))

    air = UwbAir(channel=Channel.CLEAN, seed=1)
    server = UwbServer(air, lambda: Station(at_m=(4.0, 3.0)), pace=FAST, emit=emit, **how)
    task = asyncio.create_task(server.run("127.0.0.1", 0))
    writers = []

    async def connect() -> Host:
        reader, writer = await asyncio.open_connection("127.0.0.1", await ready)
        writers.append(writer)
        return Host(reader, writer)

    try:
        async with asyncio.timeout(DEADLINE_S):
            yield connect, events
    finally:
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)


async def soon_us(host: Host) -> int:
    now = (await host.ask("QUERY_UWBS_TIMESTAMP")).timestamp_us
    return now + 20_000_000  # one second of the fast pace, for slow machines


async def test_two_hosts_on_one_port_range_with_each_other() -> None:
    async with serving() as (connect, _):
        phone, vehicle = await connect(), await connect()
        time0 = await soon_us(phone)
        assert await phone.range(initiator=True, time0_us=time0) == Status.OK
        assert await vehicle.range(initiator=False, time0_us=time0) == Status.OK
        found = [await vehicle.measured() for _ in range(3)]
        assert {each.status for body in found for each in body.measurements} == {Status.OK}


async def test_a_lone_vehicle_finds_a_phone_with_the_mirror() -> None:
    async with serving(mirror=True) as (connect, _):
        vehicle = await connect()
        await vehicle.range(initiator=False, time0_us=await soon_us(vehicle))
        assert {each.status for each in (await vehicle.measured()).measurements} == {Status.OK}


async def test_a_host_that_goes_away_leaves_the_others_alone() -> None:
    async with serving() as (connect, events):
        first, second = await connect(), await connect()
        await first.ask("GET_DEVICE_INFO")
        first.writer.write(b"\xff" * 100)
        first.writer.close()
        assert (await second.ask("GET_DEVICE_INFO")).status == Status.OK
        while {"event": "closed", "subsystem": 1} not in events:
            await second.ask("GET_DEVICE_INFO")


async def test_only_loopback_is_served() -> None:
    server = UwbServer(UwbAir(), Station, emit=lambda _event: None)
    with pytest.raises(LinkError) as caught:
        await server.run("0.0.0.0", 0)
    assert caught.value.reason is LinkReason.UNSUPPORTED


async def test_a_port_that_is_taken_is_told_so() -> None:
    async with serving() as (connect, _):
        host = await connect()
        port = host.writer.get_extra_info("peername")[1]
        with pytest.raises(LinkError) as caught:
            await UwbServer(UwbAir(), Station, emit=lambda _event: None).run("127.0.0.1", port)
        assert caught.value.reason is LinkReason.BUSY


async def test_the_command_serves_until_it_is_interrupted() -> None:
    words = ["-m", "dkey", "uwb", "serve", "uci-tcp:127.0.0.1:0", "--pace", "fast", "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_S):
        event = json.loads(await process.stdout.readline())
        assert (event["schema"], event["event"]) == ("dkey.uwb/1", "ready")
        port = int(event["link"].rpartition(":")[2])
        host = Host(*await asyncio.open_connection("127.0.0.1", port))
        assert (await host.ask("GET_DEVICE_INFO")).status == Status.OK
        process.send_signal(signal.SIGINT)
        await process.wait()
        host.writer.close()
