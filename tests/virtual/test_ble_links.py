"""The phone's BLE links, over both bearers, against a small reader on the virtual air."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("bumble")

from bleak.backends.device import BLEDevice
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
)
from bumble import att
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.l2cap import LeCreditBasedChannelSpec

from dkey.codec.ble_advert import (
    ALIRO_CHOICE_UUID,
    ALIRO_INFO_UUID,
    ALIRO_SERVICE_UUID,
    VEHICLE_CHOICE_UUID,
    VEHICLE_INFO_UUID,
    VEHICLE_RX_UUID,
    VEHICLE_SERVICE_UUID,
    VEHICLE_TX_UUID,
    Advert,
    DeviceChoice,
    ReaderInfo,
    VehicleAdvert,
)
from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap, Link
from dkey.link.ble import BleLink, Central, bumble_radio
from dkey.link.ble_coc import KernelCocLink, open_coc, socket_address
from dkey.link.ble_errors import link_error
from dkey.link.ble_gatt import GattLink
from dkey.link.ble_link import Connected
from dkey.link.fragment import FIRST, LAST, Fragmenter, Reassembler
from dkey.link.opener import open_central
from firmware_mock.air import Air
from firmware_mock.air_server import serve_unix

PSM = 0x80
FRAGMENT_S = 1.5
SUPERVISION_S = 0.05
TIMEOUT_S = 10
ADVERT = VehicleAdvert(ranging=False, remote=True, nonce=b"\x01\x02\x03\x04", tag=bytes(5))
ALIRO_ADVERT = Advert(
    ranging=False, ble_only=True, group_prefix=bytes(8), sub_prefix=bytes(2), tag=bytes(7)
)
BEARERS = ("coc", "gatt")
each_bearer = pytest.mark.parametrize("bearer", BEARERS)


class Car:
    """A reader that sends back each message, and that a test can make misbehave."""

    def __init__(
        self,
        device,
        *,
        coc=True,
        spsm=PSM,
        info=None,
        refuse_choice=False,
        aliro=False,
        att_mtu=517,
    ):
        self.device = device
        device.gatt_server.max_mtu = att_mtu
        device.on("connection", self._connected)
        self.advert = ALIRO_ADVERT if aliro else ADVERT
        self.choices = []
        self.bearers = []
        self.echo = True
        self.channel = None
        self.subscribed = None
        self.received = asyncio.Queue()
        self.refuse_choice = refuse_choice
        self.peers = {}
        properties = Characteristic.Properties
        value = ReaderInfo(spsm=spsm).to_bytes() if info is None else info
        self.tx = Characteristic(VEHICLE_TX_UUID, properties.NOTIFY, Characteristic.READABLE, b"")
        characteristics = [
            Characteristic(
                ALIRO_INFO_UUID if aliro else VEHICLE_INFO_UUID,
                properties.READ,
                Characteristic.READABLE,
                value,
            ),
            Characteristic(
                ALIRO_CHOICE_UUID if aliro else VEHICLE_CHOICE_UUID,
                properties.WRITE,
                Characteristic.WRITEABLE,
                CharacteristicValue(write=self._chosen),
            ),
        ]
        if not aliro:
            characteristics += [
                Characteristic(
                    VEHICLE_RX_UUID,
                    properties.WRITE_WITHOUT_RESPONSE,
                    Characteristic.WRITEABLE,
                    CharacteristicValue(write=self._chunk),
                ),
                self.tx,
            ]
        uuid = ALIRO_SERVICE_UUID if aliro else VEHICLE_SERVICE_UUID
        device.add_service(Service(uuid, characteristics))
        if coc:
            spec = LeCreditBasedChannelSpec(psm=PSM, mtu=4096, mps=247, max_credits=16)
            device.create_l2cap_server(spec, self._opened)

    def _connected(self, _connection):
        self.restarting = asyncio.ensure_future(self.advertise())

    async def advertise(self):
        await self.device.start_advertising(
            advertising_interval_min=20,
            advertising_interval_max=20,
            advertising_data=self.advert.to_bytes(),
        )

    def _chosen(self, connection, value):
        if self.refuse_choice:
            raise att.ATT_Error(att.ErrorCode.VALUE_NOT_ALLOWED)
        self.choices.append(DeviceChoice.parse(value))

    # channel

    def _opened(self, channel):
        assert self.choices, "a channel before the choice"
        self.bearers.append("coc")
        self.channel = channel
        channel.sink = self._sdu

    def _sdu(self, data):
        self.received.put_nowait(data)
        if self.echo:
            self.channel.write(data)

    # GATT

    async def _chunk(self, connection, value):
        assert self.choices, "a message before the choice"
        peer = self.peers.get(connection)
        if peer is None:
            size = min(connection.att_mtu - 3, 512)
            peer = self.peers[connection] = (Reassembler(), Fragmenter(size))
            self.bearers.append("gatt")
        reassembler, fragmenter = peer
        reassembler.feed(bytes(value), 0.0)
        while (message := reassembler.take()) is not None:
            self.received.put_nowait(message)
            if self.echo:
                for chunk in fragmenter.split(message):
                    await self.notify(connection, chunk)

    async def notify(self, connection, chunk):
        await self.device.notify_subscriber(connection, self.tx, chunk)

    @property
    def connection(self):
        return next(iter(self.device.connections.values()))

    async def say(self, bearer, raw):
        """Send ``raw`` PDUs: chunks on GATT, information payloads of K-frames on the channel."""
        for piece in raw:
            if bearer == "coc":
                self.channel.send_pdu(piece)
            else:
                await self.notify(self.connection, piece)


@asynccontextmanager
async def scene(*, phones=1, air=None, **options):
    """Give an air, a car on it and one powered-on host for each phone."""
    air = air or Air(supervision_s=SUPERVISION_S)
    car_device = air.device("car", address="F0:F1:F2:F3:F4:F5")
    car = Car(car_device, **options)
    await car_device.power_on()
    await car.advertise()
    hosts = []
    for n in range(phones):
        host = air.device(f"phone{n}")
        await host.power_on()
        hosts.append(host)
    try:
        yield air, car, hosts
    finally:
        air.close()


def central(host, bearer=None, **options):
    bearers = BEARERS if bearer is None else (bearer,)
    return Central(lambda: bumble_radio(host), bearers=bearers, **options)


@asynccontextmanager
async def linked(bearer=None, *, tap=None, idle_s=60.0, **options):
    async with scene(**options) as (air, car, (host,)), asyncio.timeout(TIMEOUT_S):
        phone = central(host, bearer, tap=tap, idle_s=idle_s)
        try:
            yield air, car, await link_of(phone)
        finally:
            await phone.aclose()


async def link_of(phone):
    sighting = await phone.find(lambda _: True, timeout_s=5)
    assert sighting is not None
    return await phone.connect(sighting, timeout_s=5)


class StandInClient:
    """A connected bleak client that only can be hung up."""

    address = "F0:F1:F2:F3:F4:F5"
    is_connected = True
    _backend = None

    def __init__(self):
        self.hung_up = False

    async def disconnect(self):
        self.hung_up = True


def stand_in(client):
    connected = Connected(tap=None, idle_s=5)
    connected.client = client
    connected.info, connected.choice = ReaderInfo(spsm=PSM), DeviceChoice()
    return connected


async def failure(awaitable):
    with pytest.raises(LinkError) as caught:
        await awaitable
    assert caught.value.hint
    return caught.value.reason


# Messages


@each_bearer
async def test_messages_of_every_size_pass_both_ways_whole_and_in_order(bearer):
    async with linked(bearer) as (_, car, link):
        assert link.bearer == bearer
        for size in (1, 2, 19, 20, 21, 243, 244, 245, 508, 509, 510, 511, 512, 1022, 1999, 2000):
            message = bytes(n * size % 251 for n in range(size))
            await link.send(message)
            assert await car.received.get() == message
            assert await link.recv() == message


@each_bearer
async def test_messages_sent_back_to_back_stay_apart(bearer):
    async with linked(bearer) as (_, car, link):
        car.echo = False
        messages = [bytes([n]) * (300 + n) for n in range(40)]
        await asyncio.gather(*(link.send(message) for message in messages))
        assert [await car.received.get() for _ in messages] == messages


@each_bearer
async def test_a_link_says_what_it_is(bearer):
    async with linked(bearer) as (_, car, link):
        assert isinstance(link, Link)
        assert link.caps == {Cap.BLE}
        assert link.mtu >= 2048
        assert await link.present()
        assert link.info == ReaderInfo(spsm=PSM)
        assert car.choices == [link.choice] == [DeviceChoice()]


@each_bearer
@pytest.mark.parametrize("size", [0, 4097])
async def test_a_message_of_impossible_size_is_refused_and_the_link_lives(bearer, size):
    async with linked(bearer) as (_, _, link):
        assert await failure(link.send(bytes(size))) is LinkReason.UNSUPPORTED
        await link.send(b"x")
        assert await link.recv() == b"x"


@each_bearer
async def test_a_tap_sees_who_sent_what(bearer):
    class Tape:
        def __init__(self):
            self.seen = []

        def message(self, *, from_reader, data):
            self.seen.append((from_reader, data))

    tape = Tape()
    async with linked(bearer, tap=tape) as (_, _, link):
        await link.send(b"ask")
        await link.recv()
    assert tape.seen == [(False, b"ask"), (True, b"ask")]


# Choice of the bearer


async def test_a_channel_is_preferred():
    async with linked() as (_, car, link):
        await link.send(b"x")
        await link.recv()
        assert (link.bearer, car.bearers) == ("coc", ["coc"])


@pytest.mark.parametrize("options", [{"coc": False}, {"spsm": 0x81}], ids=["none", "wrong number"])
async def test_without_a_channel_the_link_falls_back_to_gatt_quietly(options, caplog):
    async with linked(**options) as (_, car, link):
        await link.send(b"x")
        assert await link.recv() == b"x"
        assert (link.bearer, car.bearers) == ("gatt", ["gatt"])
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_a_channel_that_is_not_answered_in_time_falls_back_to_gatt_for_good():
    async with scene() as (_, car, (host,)), asyncio.timeout(TIMEOUT_S):
        manager = car.device.l2cap_channel_manager
        answer = manager.on_l2cap_le_credit_based_connection_request
        asked = []
        manager.on_l2cap_le_credit_based_connection_request = lambda *args: asked.append(args)
        phone = central(host)
        sighting = await phone.find(lambda _: True, timeout_s=5)
        link = await phone.connect(sighting, timeout_s=8)
        assert link.bearer == "gatt"
        answer(*asked[0])
        for _ in range(3):
            await link.send(b"x")
            assert await link.recv() == b"x"
        await phone.aclose()


async def test_an_aliro_reader_is_found_and_spoken_to_over_its_channel():
    async with linked(aliro=True) as (_, _, link):
        await link.send(b"x")
        assert await link.recv() == b"x"
        assert link.bearer == "coc"


async def test_an_aliro_reader_without_a_channel_cannot_be_spoken_to():
    async with scene(aliro=True, coc=False) as (_, car, (host,)):
        phone = central(host)
        assert await failure(link_of(phone)) in (LinkReason.DENIED, LinkReason.UNSUPPORTED)
        assert not car.device.connections
        await phone.aclose()


# Broken framing


GATT_FAULTS = {
    "gap": [bytes([FIRST]) + b"\x00\x09abc", b"\x02def"],
    "overrun": [bytes([FIRST]) + b"\x00\x02ab", b"\x01c"],
    "64 KiB": [bytes([FIRST]) + b"\xff\xffa"],
    "empty message": [bytes([FIRST | LAST]) + b"\x00\x00a"],
    "empty chunk": [b"\x80"],
    "inside another": [bytes([FIRST]) + b"\x00\x09abc", bytes([FIRST | 1]) + b"\x00\x02de"],
}
COC_FAULTS = {
    "overrun": [b"\x02\x00abc"],
    "64 KiB": [b"\xff\xffa"],
    "empty message": [b"\x00\x00"],
}


@pytest.mark.parametrize(
    ("bearer", "name"), [("gatt", name) for name in GATT_FAULTS] + [("coc", n) for n in COC_FAULTS]
)
async def test_broken_framing_ends_the_link_and_the_connection_at_once(bearer, name):
    async with linked(bearer) as (_, car, link):
        await link.send(b"x")
        await link.recv()
        faults = GATT_FAULTS if bearer == "gatt" else COC_FAULTS
        pieces = faults[name]
        if bearer == "gatt":  # the echo was chunk 0
            pieces = [bytes([piece[0] + 1]) + piece[1:] for piece in pieces]
        gone = asyncio.Event()
        car.connection.on("disconnection", lambda _: gone.set())
        async with asyncio.timeout(FRAGMENT_S / 2):
            await car.say(bearer, pieces)
            assert await failure(link.recv()) is LinkReason.PROTOCOL
            await gone.wait()


@each_bearer
async def test_a_message_that_never_ends_ends_the_link_within_its_deadline(bearer):
    async with linked(bearer) as (_, car, link):
        await link.send(b"x")
        await link.recv()
        start = bytes([FIRST | 1]) + b"\x07\xd0a" if bearer == "gatt" else b"\xd0\x07a"
        began = asyncio.get_running_loop().time()

        async def drip():
            for n in range(2, 1900):
                await asyncio.sleep(0.1)
                piece = bytes([n & 0x3F]) + b"a" if bearer == "gatt" else b"a"
                with contextlib.suppress(Exception):
                    await car.say(bearer, [piece])

        await car.say(bearer, [start])
        dripping = asyncio.create_task(drip())
        assert await failure(link.recv()) is LinkReason.PROTOCOL
        dripping.cancel()
        assert asyncio.get_running_loop().time() - began < FRAGMENT_S + 0.5


@each_bearer
async def test_a_message_in_pieces_of_one_byte_arrives_whole(bearer):
    message = bytes(n % 251 for n in range(500))
    async with linked(bearer) as (_, car, link):
        await link.send(b"x")
        await link.recv()
        if bearer == "gatt":
            fragmenter = Fragmenter(4)
            fragmenter.split(b"x")
            pieces = fragmenter.split(message)
        else:
            data = struct.pack("<H", len(message)) + message
            pieces = [data[at : at + 1] for at in range(len(data))]
        await car.say(bearer, pieces)
        assert await link.recv() == message


@each_bearer
async def test_a_flood_nobody_reads_ends_the_link_at_its_cap(bearer):
    async with linked(bearer) as (_, car, link):
        await link.send(b"x")
        await link.recv()
        fragmenter = Fragmenter(500)
        fragmenter.split(b"x")
        with contextlib.suppress(Exception):
            for _ in range(64):
                message = bytes(400)
                pieces = (
                    fragmenter.split(message)
                    if bearer == "gatt"
                    else [struct.pack("<H", 200) + message[:200]]
                )
                await car.say(bearer, pieces)
                await asyncio.sleep(0)
        while await link.present():
            await asyncio.sleep(0)
        assert await failure(link.recv()) is LinkReason.PROTOCOL


# The end of a link


@each_bearer
async def test_a_vehicle_that_hangs_up_is_lost(bearer):
    async with linked(bearer) as (_, car, link):
        await link.send(b"x")
        await link.recv()
        await car.connection.disconnect()
        assert await failure(link.recv()) is LinkReason.LOST
        assert await failure(link.send(b"x")) is LinkReason.LOST
        assert not await link.present()


@each_bearer
async def test_leaving_the_range_is_lost_and_the_way_back_works(bearer):
    async with scene() as (air, _, (host,)), asyncio.timeout(TIMEOUT_S):
        phone = central(host, bearer)
        link = await link_of(phone)
        waiting = asyncio.create_task(link.recv())
        air.set_rssi("car", "phone0", None)
        assert await failure(waiting) is LinkReason.LOST
        air.set_rssi("car", "phone0", -60)
        again = await link_of(phone)
        await again.send(b"x")
        assert await again.recv() == b"x"
        await phone.aclose()


async def test_a_channel_that_the_vehicle_closes_is_lost():
    async with linked("coc") as (_, car, link):
        await link.send(b"x")
        await link.recv()
        await car.channel.disconnect()
        assert await failure(link.recv()) is LinkReason.LOST


async def test_a_vehicle_that_gives_no_credits_back_is_given_up_and_lost_at_its_end():
    async with linked("coc") as (_, car, link):
        car.channel.on_pdu = lambda _: None

        async def flood():
            while True:
                await link.send(bytes(2000))

        flooding = asyncio.create_task(flood())
        for _ in range(50):
            await asyncio.sleep(0)
        await car.connection.disconnect()
        assert await failure(flooding) is LinkReason.LOST


@each_bearer
async def test_closing_ends_a_pending_wait_and_disconnects(bearer):
    async with linked(bearer) as (_, car, link):
        waiting = asyncio.create_task(link.recv())
        await asyncio.sleep(0)
        async with asyncio.timeout(1):
            await link.aclose()
        assert await failure(waiting) is LinkReason.CLOSED
        assert await failure(link.send(b"x")) is LinkReason.CLOSED
        while car.device.connections:
            await asyncio.sleep(0)
        await link.aclose()


@each_bearer
async def test_a_wait_that_times_out_leaves_the_link_usable(bearer):
    async with linked(bearer, idle_s=0.05) as (_, _, link):
        assert await failure(link.recv()) is LinkReason.TIMEOUT
        await link.send(b"x")
        assert await link.recv() == b"x"


async def test_messages_pass_with_the_smallest_mtu():
    async with linked("gatt", att_mtu=23) as (_, _, link):
        await link.send(bytes(2000))
        assert await link.recv() == bytes(2000)


async def test_half_a_message_that_was_cancelled_ends_the_link():
    class Slow(StandInClient):
        async def write_gatt_char(self, _characteristic, chunk, *, response):
            assert not response
            assert len(chunk) <= 20
            self.chunks = [*getattr(self, "chunks", []), chunk]
            if len(self.chunks) == 2:
                await asyncio.Event().wait()

    class Rx:
        max_write_without_response_size = 20

    connected = stand_in(Slow())
    link = GattLink(connected, Rx())
    sending = asyncio.create_task(link.send(bytes(100)))
    for _ in range(5):
        await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await failure(link.send(b"x")) is LinkReason.LOST
    await link.aclose()
    assert connected.client.hung_up
    assert len(connected.client.chunks) == 2


# Finding and connecting


async def test_find_asks_about_each_sighting_and_returns_the_one_that_is_wanted():
    async with scene() as (_, _, (host,)):
        phone = central(host)
        asked = []

        def wanted(sighting):
            asked.append(sighting)
            return len(asked) == 3

        found = await phone.find(wanted, timeout_s=5)
        assert found is asked[-1]
        assert found.advert == ADVERT
        assert found.rssi_dbm == -50
        assert found.address == "F0:F1:F2:F3:F4:F5"
        await phone.aclose()


async def test_find_returns_none_when_nobody_wanted_comes():
    async with scene() as (_, _, (host,)):
        phone = central(host)
        assert await phone.find(lambda _: False, timeout_s=0.1) is None
        await phone.aclose()


async def test_find_raises_what_the_question_raises():
    async with scene() as (_, _, (host,)):
        phone = central(host)
        with pytest.raises(ZeroDivisionError):
            await phone.find(lambda _: bool(1 // 0), timeout_s=5)
        assert await phone.find(lambda _: True, timeout_s=5)
        await phone.aclose()


async def test_a_central_for_one_address_passes_over_the_others():
    async with scene() as (_, _, (host,)):
        stranger = central(host, address="C0:00:00:00:00:01")
        assert await stranger.find(lambda _: True, timeout_s=0.1) is None
        known = central(host, address="f0:f1:f2:f3:f4:f5")
        assert await known.find(lambda _: True, timeout_s=5)


async def test_a_vehicle_that_left_before_the_connect_is_a_timeout():
    async with scene() as (air, _, (host,)):
        phone = central(host)
        sighting = await phone.find(lambda _: True, timeout_s=5)
        air.set_rssi("car", "phone0", None)
        assert await failure(phone.connect(sighting, timeout_s=0.2)) is LinkReason.TIMEOUT
        air.set_rssi("car", "phone0", -50)
        await (await link_of(phone)).aclose()
        await phone.aclose()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"refuse_choice": True}, LinkReason.DENIED),
        ({"info": b"nonsense"}, LinkReason.PROTOCOL),
        ({"info": ReaderInfo(spsm=PSM, versions=b"\x02\x00").to_bytes()}, LinkReason.UNSUPPORTED),
    ],
    ids=["refused", "malformed", "version"],
)
async def test_a_reader_that_cannot_be_spoken_to_is_told_and_hung_up(options, reason):
    async with scene(**options) as (_, car, (host,)):
        phone = central(host)
        assert await failure(link_of(phone)) is reason
        while car.device.connections:
            await asyncio.sleep(0)
        await phone.aclose()


@pytest.mark.parametrize("steps", [0, 5, 20, 60, 120, 200, 300])
async def test_a_cancelled_connect_ends_quickly_and_leaves_no_connection(steps):
    async with scene() as (_, car, (host,)), asyncio.timeout(TIMEOUT_S):
        phone = central(host)
        sighting = await phone.find(lambda _: True, timeout_s=5)
        connecting = asyncio.create_task(phone.connect(sighting, timeout_s=5))
        for _ in range(steps):
            await asyncio.sleep(0)
        connecting.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait({connecting})
        if not connecting.cancelled():
            await connecting.result().aclose()
        while car.device.connections or host.connections:
            await asyncio.sleep(0)
        link = await link_of(phone)
        await link.send(b"x")
        assert await link.recv() == b"x"
        await phone.aclose()


@each_bearer
async def test_twenty_reconnects_leave_nothing_behind(bearer):
    async with scene() as (_, _, (host,)), asyncio.timeout(TIMEOUT_S):
        phone = central(host, bearer)
        for _ in range(2):
            await (await link_of(phone)).aclose()
        gc.collect()
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            link = await link_of(phone)
            await link.send(b"x")
            assert await link.recv() == b"x"
            await link.aclose()
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0)
        del link
        gc.collect()
        left = [each for each in gc.get_objects() if isinstance(each, BleLink)]
        assert len(left) <= 1
        assert not host.connections
        await phone.aclose()


@each_bearer
async def test_two_phones_at_once_do_not_disturb_each_other(bearer):
    async with scene(phones=2) as (_, car, hosts), asyncio.timeout(TIMEOUT_S):
        channels = []
        inner = car._opened

        def opened(channel):
            inner(channel)
            channel.sink = channel.write
            channels.append(channel)

        car.device.l2cap_channel_manager.le_coc_servers[PSM].handler = opened
        phones = [central(host, bearer) for host in hosts]
        links = [await link_of(phone) for phone in phones]

        async def talk(link, sign):
            for n in range(1, 60):
                await link.send(sign * n * 10)
                assert await link.recv() == sign * n * 10

        await asyncio.gather(talk(links[0], b"a"), talk(links[1], b"b"))
        await links[0].aclose()
        await talk(links[1], b"c")
        for phone in phones:
            await phone.aclose()


async def test_a_closed_central_closes_its_links_and_opens_no_more():
    async with scene() as (_, _, (host,)):
        phone = central(host)
        link = await link_of(phone)
        await phone.aclose()
        assert await failure(link.recv()) is LinkReason.CLOSED
        assert await failure(phone.find(lambda _: True, timeout_s=1)) is LinkReason.CLOSED


# Link strings


async def test_the_sim_strings_reach_the_vehicle(tmp_path):
    async with scene() as (air, _, (host,)), asyncio.timeout(TIMEOUT_S):
        server = await serve_unix(air, tmp_path / "air")
        for phone in (
            open_central(f"ble-sim:{server.where}"),
            open_central("sim:", device=host),
        ):
            link = await link_of(phone)
            await link.send(b"x")
            assert await link.recv() == b"x"
            await phone.aclose()
        await server.aclose()


async def test_a_lost_air_is_absent_and_joined_again_when_it_is_back(tmp_path):
    async with scene() as (air, _, _), asyncio.timeout(TIMEOUT_S):
        server = await serve_unix(air, tmp_path / "air")
        phone = open_central(f"ble-sim:{server.where}")
        link = await link_of(phone)
        await server.aclose()
        assert await failure(link.recv()) is LinkReason.LOST
        assert await failure(phone.find(lambda _: True, timeout_s=1)) is LinkReason.ABSENT
        server = await serve_unix(air, tmp_path / "air")
        await (await link_of(phone)).aclose()
        await phone.aclose()
        await server.aclose()


@pytest.mark.parametrize("text", ["ble", "ble-sim:", "ble-sim:host", "sim:", "msg-tcp:h:1", "x:"])
def test_other_strings_are_no_central(text):
    with pytest.raises(LinkError) as caught:
        open_central(text)
    assert caught.value.reason is LinkReason.UNSUPPORTED
    assert "ble-sim:" in str(caught.value)


# Errors of the platform


@pytest.mark.parametrize(
    ("fault", "reason", "text", "hint"),
    [
        (("NO_BLUETOOTH",), LinkReason.ABSENT, "no Bluetooth adapter", "plug in"),
        (("POWERED_OFF",), LinkReason.ABSENT, "switched off", "bluetoothctl power on"),
        (("DENIED_BY_SYSTEM",), LinkReason.DENIED, "denies", "allow"),
        (("NO_BLE_CENTRAL_ROLE",), LinkReason.UNSUPPORTED, "central", "plug in"),
        (FileNotFoundError(2, "no"), LinkReason.ABSENT, "no D-Bus", "bluez"),
        (PermissionError(13, "no"), LinkReason.DENIED, "no permission", "allow"),
        (
            BleakDBusError("org.freedesktop.DBus.Error.ServiceUnknown", []),
            LinkReason.ABSENT,
            "bluetoothd does not run",
            "systemctl start",
        ),
        (
            BleakDBusError("org.bluez.Error.NotReady", []),
            LinkReason.ABSENT,
            "switched off",
            "power on",
        ),
        (BleakDBusError("org.bluez.Error.InProgress", []), LinkReason.BUSY, "busy", "wait"),
        (
            BleakDBusError("org.bluez.Error.Failed", ["le-connection-abort-by-local"]),
            LinkReason.LOST,
            "abort-by-local",
            "again",
        ),
        (BleakDeviceNotFoundError("F0"), LinkReason.TIMEOUT, "no longer in range", "closer"),
        (TimeoutError(), LinkReason.TIMEOUT, "does not answer", "closer"),
        (BleakError("disconnected"), LinkReason.LOST, "disconnected", "again"),
    ],
)
def test_faults_of_the_platform_are_told_apart(fault, reason, text, hint):
    if isinstance(fault, tuple):
        fault = BleakBluetoothNotAvailableError("-", BleakBluetoothNotAvailableReason[fault[0]])
    error = link_error(fault, "connect")
    assert error.reason is reason
    assert text in str(error)
    assert hint in error.hint


# The kernel's channel


def test_a_kernel_address_has_the_layout_of_sockaddr_l2():
    packed = socket_address("F0:F1:F2:F3:F4:F5", 0x80, 2)
    assert packed[:2] == struct.pack("=H", 31)
    assert packed[2:] == bytes.fromhex("8000 F5F4F3F2F1F0 0000 02 00")


@asynccontextmanager
async def kernel_link():
    """Give a link over a socket pair, which like the kernel's channel keeps messages apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    connected = stand_in(StandInClient())
    link = KernelCocLink(connected, ours, 2048)
    try:
        yield link, theirs, connected.client
    finally:
        await link.aclose()
        theirs.close()


async def test_a_kernel_channel_carries_messages_both_ways():
    loop = asyncio.get_running_loop()
    async with kernel_link() as (link, peer, _):
        assert link.mtu == 2048
        for size in (1, 20, 2000):
            await link.send(bytes(size))
            assert await loop.sock_recv(peer, 4096) == bytes(size)
            await loop.sock_sendall(peer, bytes(size))
            assert await link.recv() == bytes(size)


async def test_a_kernel_channel_that_is_closed_is_lost_and_the_connection_with_it():
    async with kernel_link() as (link, peer, client):
        peer.close()
        assert await failure(link.recv()) is LinkReason.LOST
        await link.aclose()
        assert client.hung_up


async def test_a_kernel_channel_with_a_message_over_the_cap_ends():
    async with kernel_link() as (link, peer, _):
        peer.send(bytes(4097))
        assert await failure(link.recv()) is LinkReason.PROTOCOL


async def test_closing_a_kernel_channel_ends_a_pending_wait():
    async with kernel_link() as (link, _, client):
        waiting = asyncio.create_task(link.recv())
        await asyncio.sleep(0)
        await link.aclose()
        assert await failure(waiting) is LinkReason.CLOSED
        assert client.hung_up


async def test_a_platform_without_channels_says_so_without_an_error():
    connected = stand_in(StandInClient())
    assert await open_coc(connected, BLEDevice("F0:F1:F2:F3:F4:F5", None, "a handle")) is None
