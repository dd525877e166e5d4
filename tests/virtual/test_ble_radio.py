"""The vehicle's BLE radio on the virtual air: bearers, caps, deadlines, privacy, bad peers."""

from __future__ import annotations

import asyncio
import logging
import random
import socket

import pytest

pytest.importorskip("bumble")

from bleak import BleakClient, BleakScanner
from bumble import core, hci, l2cap
from bumble.device import DeviceConfiguration, Peer

from dkey.access.profile import ALIRO, VEHICLE
from dkey.codec.ble_advert import (
    ALIRO_CHOICE_UUID,
    ALIRO_INFO_UUID,
    EXPIRY_UNAVAILABLE,
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
from dkey.crypto.secret import Secret
from dkey.errors import LinkError, LinkReason, LocalFault
from dkey.link.base import Cap, Link
from dkey.link.ble import Central, bumble_radio
from dkey.link.ble_bumble import backends
from dkey.link.fragment import Fragmenter, Reassembler
from firmware_mock.air import Air
from firmware_mock.air_server import serve_unix
from firmware_mock.ble_limits import RadioLimits
from firmware_mock.ble_radio import VehicleRadio

KEY = Secret(bytes(range(16)))
OTHER_KEY = Secret(bytes(16))
GROUP, SUB = bytes(range(16, 32)), bytes(range(32, 48))
TIMEOUT_S = 10
SHORT_S = 0.1
CHOICE = DeviceChoice().to_bytes()
ADVERT_DATA_AT = 21  # flags, and length, type and UUID of the service data


class Desk:
    """Who the radio hands its links to; echoes unless told otherwise."""

    def __init__(self, *, authenticates=False, echoes=True):
        self.authenticates = authenticates
        self.echoes = echoes
        self.links = []
        self.ends = asyncio.Queue()
        self.arrived = asyncio.Condition()

    async def __call__(self, link):
        link.authenticated = self.authenticates
        self.links.append(link)
        async with self.arrived:
            self.arrived.notify_all()
        try:
            while self.echoes:
                await link.send(await link.recv())
            await asyncio.Event().wait()
        except LinkError as exc:
            self.ends.put_nowait(exc.reason)
            raise

    async def link(self, number=0):
        async with asyncio.timeout(TIMEOUT_S), self.arrived:
            await self.arrived.wait_for(lambda: len(self.links) > number)
        return self.links[number]

    async def end(self):
        async with asyncio.timeout(TIMEOUT_S):
            return await self.ends.get()


class Phone:
    """A central of the virtual air that may misbehave."""

    def __init__(self, air, name):
        self.device = air.device(name)
        self.heard = asyncio.Queue()

    async def connect(self, radio, *, mtu=247):
        self.gone = asyncio.get_running_loop().create_future()
        self.reassembler = Reassembler()
        self.fragmenter = Fragmenter(244)
        self.channel = None
        if not self.device.powered_on:
            await self.device.power_on()
        async with asyncio.timeout(TIMEOUT_S):
            self.connection = await self.device.connect_le(hci.Address(radio.address))
            self.connection.once("disconnection", self.gone.set_result)
            self.peer = Peer(self.connection)
            if mtu:
                await self.peer.request_mtu(mtu)
            await self.peer.discover_all()
        return self

    def value(self, uuid):
        return self.peer.get_characteristics_by_uuid(core.UUID(uuid))[0]

    async def choose(self, choice=CHOICE, uuid=VEHICLE_CHOICE_UUID):
        async with asyncio.timeout(TIMEOUT_S):
            await self.value(uuid).write_value(choice, with_response=True)
        return self

    async def subscribe(self):
        def hear(chunk):
            self.reassembler.feed(chunk, 0)
            while (message := self.reassembler.take()) is not None:
                self.heard.put_nowait(message)

        async with asyncio.timeout(TIMEOUT_S):
            await self.value(VEHICLE_TX_UUID).subscribe(hear)
        return self

    async def open(self, *, mtu=4096, initial=16):
        spec = l2cap.LeCreditBasedChannelSpec(psm=0x80, mtu=mtu, mps=247, max_credits=initial)
        async with asyncio.timeout(TIMEOUT_S):
            self.channel = await self.connection.create_l2cap_channel(spec)
        self.channel.sink = self.heard.put_nowait
        return self

    async def select(self, bearer, **options):
        await self.choose()
        return await (self.open(**options) if bearer == "coc" else self.subscribe())

    async def chunk(self, chunk):
        await self.value(VEHICLE_RX_UUID).write_value(chunk, with_response=False)

    async def send(self, message):
        if self.channel is not None:
            self.channel.write(message)
            return
        for chunk in self.fragmenter.split(message):
            await self.chunk(chunk)

    async def hear(self):
        async with asyncio.timeout(TIMEOUT_S):
            return await self.heard.get()

    async def echo(self, message=b"hello"):
        await self.send(message)
        return await self.hear()

    async def left(self):
        async with asyncio.timeout(TIMEOUT_S):
            return await asyncio.shield(self.gone)


@pytest.fixture
async def air():
    made = Air(supervision_s=SHORT_S)
    yield made
    made.close()


@pytest.fixture
async def start(air):
    radios = []

    async def begin(on_peer, *, where=None, profile=VEHICLE, key=KEY, **options):
        limits = RadioLimits(**options.pop("limits", {}))
        radio = VehicleRadio(
            where or air.device(f"car{len(radios)}"),
            profile=profile,
            resolving_key=key,
            on_peer=on_peer,
            limits=limits,
            interval_ms=20,
            **options,
        )
        radios.append(radio)
        await radio.start()
        return radio

    yield begin
    for each in radios:
        await each.aclose()


ANY = VehicleAdvert(ranging=False, remote=False, nonce=bytes(4), tag=bytes(5))


async def adverts(air, name, count):
    """Return the first ``count`` different advertisements, as (address, data)."""
    device = air.device(name)
    await device.power_on()
    seen, full = {}, asyncio.Event()

    def look(report):
        if report.data_bytes:  # not a scan response alone
            seen.setdefault((bytes(report.address), report.data_bytes))
            if len(seen) >= count:
                full.set()

    device.on("advertisement", look)
    await device.start_scanning(active=False)
    async with asyncio.timeout(TIMEOUT_S):
        await full.wait()
    await device.stop_scanning()
    return list(seen)


# -- bearers


@pytest.mark.parametrize("bearer", ["coc", "gatt"])
@pytest.mark.parametrize("size", [1, 243, 244, 4096])
async def test_whole_messages_pass_both_ways(air, start, bearer, size):
    radio = await start(Desk())
    phone = await (await Phone(air, "phone").connect(radio)).select(bearer)
    message = bytes(n & 0xFF for n in range(size))
    assert [await phone.echo(message) for _ in range(3)] == [message] * 3


async def test_the_smallest_mtu_and_pieces_of_one_byte_are_enough(air, start):
    radio = await start(Desk())
    phone = await (await Phone(air, "phone").connect(radio, mtu=None)).select("gatt")
    phone.fragmenter = Fragmenter(4)
    assert await phone.echo(bytes(range(100))) == bytes(range(100))


async def test_many_messages_without_waiting_stay_whole_and_in_order_on_few_credits(air, start):
    """Bumble would join what waits for credits into one SDU."""
    sent = [bytes([n]) * 600 for n in range(8)]

    async def talk(link):
        await link.recv()
        await asyncio.gather(*(link.send(each) for each in sent))

    radio = await start(talk)
    phone = await (await Phone(air, "phone").connect(radio)).select("coc", initial=1)
    await phone.send(b"go")
    assert [await phone.hear() for _ in sent] == sent


async def test_a_message_whose_sender_gave_up_on_the_channel_stays_whole(air, start):
    desk = Desk(echoes=False)
    radio = await start(desk, limits={"wind_up_s": SHORT_S})
    phone = await (await Phone(air, "phone").connect(radio)).select("coc", initial=1)
    link = await desk.link()
    take, held = phone.channel.on_pdu, []
    phone.channel.on_pdu = held.append
    given_up = [asyncio.ensure_future(link.send(each * 3000)) for each in (b"a", b"b")]
    for each in given_up:
        await asyncio.wait([each], timeout=SHORT_S)  # without credits it cannot be through
        each.cancel()
    last = asyncio.ensure_future(link.send(b"c" * 3000))
    await asyncio.wait([last], timeout=SHORT_S)
    phone.channel.on_pdu = take
    for pdu in held:
        take(pdu)
    assert [await phone.hear(), await phone.hear()] == [b"a" * 3000, b"c" * 3000]
    await last


async def test_a_message_whose_sender_gave_up_between_notifications_ends_the_link(air, start):
    desk = Desk(echoes=False)
    radio = await start(desk, limits={"wind_up_s": SHORT_S})
    phone = await (await Phone(air, "phone").connect(radio, mtu=None)).select("gatt")
    link = await desk.link()
    sending = asyncio.ensure_future(link.send(bytes(4000)))
    async with asyncio.timeout(TIMEOUT_S):
        while phone.reassembler.started_at is None:
            await asyncio.sleep(0)
    sending.cancel()
    await phone.left()
    assert phone.heard.empty()


@pytest.mark.parametrize("bearer", ["coc", "gatt"])
async def test_the_owner_gets_a_message_link_that_says_what_the_phone_chose(air, start, bearer):
    desk = Desk()
    radio = await start(desk)
    phone = await (await Phone(air, "phone").connect(radio)).select(bearer)
    link = await desk.link()
    assert isinstance(link, Link)
    assert (link.bearer, link.caps, link.mtu) == (bearer, frozenset({Cap.BLE}), 4096)
    assert link.choice == DeviceChoice()
    assert link.peer == str(phone.device.random_address).split("/", maxsplit=1)[0]
    assert await link.present()


async def test_a_message_over_the_mtu_is_refused_here_and_the_link_lives(air, start):
    desk = Desk()
    radio = await start(desk)
    phone = await (await Phone(air, "phone").connect(radio)).select("coc", mtu=100)
    link = await desk.link()
    with pytest.raises(LocalFault):
        await link.send(bytes(101))
    assert await phone.echo() == b"hello"


async def test_plain_bleak_finds_the_vehicle_by_service_and_reads_what_it_offers(air, start):
    radio = await start(Desk())
    device = air.device("phone")
    await device.power_on()
    scanner, client = backends(device)
    found = await BleakScanner.find_device_by_filter(
        lambda _device, data: VEHICLE_SERVICE_UUID in data.service_uuids,
        backend=scanner,
        timeout=TIMEOUT_S,
    )
    assert found is not None
    async with BleakClient(found, backend=client) as phone:
        info = ReaderInfo.parse(bytes(await phone.read_gatt_char(VEHICLE_INFO_UUID)))
    assert info == radio.info
    assert 0x80 <= info.spsm <= 0xFF


async def test_the_aliro_profile_has_the_published_values_and_the_channel_alone(air, start):
    radio = await start(Desk(), profile=ALIRO, group_id=GROUP, sub_id=SUB)
    phone = await Phone(air, "phone").connect(radio)
    info = ReaderInfo.parse(await phone.value(ALIRO_INFO_UUID).read_value())
    assert info.versions == b"\x01\x00"
    await phone.choose(uuid=ALIRO_CHOICE_UUID)
    await phone.open()
    assert await phone.echo() == b"hello"
    assert not phone.peer.get_characteristics_by_uuid(core.UUID(VEHICLE_RX_UUID))


async def test_a_phone_comes_back_on_either_bearer(air, start):
    radio = await start(Desk())
    phone = Phone(air, "phone")
    for bearer in ("coc", "gatt", "coc"):
        await (await phone.connect(radio)).select(bearer)
        assert await phone.echo() == b"hello"
        await phone.connection.disconnect()
        await phone.left()


@pytest.mark.parametrize("bearer", ["coc", "gatt"])
async def test_a_phone_opens_its_bearer_again_on_the_same_connection(air, start, bearer):
    """BlueZ keeps a connection for two seconds after the program that used it."""
    desk = Desk()
    radio = await start(desk)
    phone = await (await Phone(air, "phone").connect(radio)).select(bearer)
    for _ in range(3):
        assert await phone.echo() == b"hello"
        if bearer == "coc":
            await phone.channel.disconnect()
        else:
            await phone.value(VEHICLE_TX_UUID).unsubscribe()
            phone.reassembler, phone.fragmenter = Reassembler(), Fragmenter(244)
        assert await desk.end() is LinkReason.LOST
        await (phone.open() if bearer == "coc" else phone.subscribe())  # the choice stands
    assert await phone.echo() == b"hello"
    assert not phone.gone.done()


# -- the phone side of this stack


@pytest.mark.parametrize(
    ("bearer", "profile"), [("coc", VEHICLE), ("gatt", VEHICLE), ("coc", ALIRO)]
)
async def test_our_own_phone_side_exchanges_the_longest_messages(air, start, bearer, profile):
    desk = Desk()
    await start(desk, profile=profile, group_id=GROUP, sub_id=SUB)
    device = air.device("phone")
    await device.power_on()
    central = Central(lambda: bumble_radio(device), bearers=(bearer,))
    for turn in range(2):
        sighting = await central.find(lambda _sighting: True, timeout_s=TIMEOUT_S)
        link = await central.connect(sighting, timeout_s=TIMEOUT_S)
        assert link.bearer == (await desk.link(turn)).bearer == bearer
        for size in (1, 500, min(link.mtu, desk.links[turn].mtu)):
            await link.send(bytes(size))
            async with asyncio.timeout(TIMEOUT_S):
                assert await link.recv() == bytes(size)
        await link.aclose()
        assert await desk.end() is LinkReason.LOST
    await central.aclose()


# -- many phones


async def test_fifty_phones_talk_at_once(air, start):
    desk = Desk(authenticates=True)
    radio = await start(desk)
    all_here = asyncio.Barrier(50)

    async def one(number):
        phone = await Phone(air, f"phone{number}").connect(radio)
        await phone.select("coc" if number % 2 else "gatt")
        await all_here.wait()
        return [await phone.echo(bytes([number]) * 700) for _ in range(3)]

    answers = await asyncio.gather(*(one(number) for number in range(50)))
    assert answers == [[bytes([number]) * 700] * 3 for number in range(50)]
    assert len(radio.peers) == 50


async def test_a_phone_that_takes_nothing_does_not_hold_up_another(air, start):
    desk = Desk()
    radio = await start(desk, limits={"send_s": TIMEOUT_S})
    stalled = await (await Phone(air, "stalled").connect(radio)).select("coc", initial=1)
    stalled.channel.on_pdu = lambda _pdu: None  # takes the packet, gives no credit back
    await stalled.send(bytes(1000))
    await desk.link()
    other = await (await Phone(air, "other").connect(radio)).select("coc")
    for _ in range(20):
        assert await other.echo(bytes(1000)) == bytes(1000)
    assert not stalled.gone.done()


async def test_the_newest_phone_takes_the_place_of_the_least_advanced(air, start):
    """Half-open ones leave before silent ones, those before speakers; the oldest of equals."""
    desk = Desk()
    radio = await start(desk, limits={"connections": 4})
    proved = await (await Phone(air, "proved").connect(radio)).select("coc")
    (await desk.link()).authenticated = True
    speaks = await (await Phone(air, "speaks").connect(radio)).select("coc")
    await speaks.echo()
    silent = await (await Phone(air, "silent").connect(radio)).select("coc")
    opened = await Phone(air, "opened").connect(radio)
    left = []
    for name in ("opened", "silent", "speaks"):
        {"opened": opened, "silent": silent, "speaks": speaks}[name].gone.add_done_callback(
            lambda _gone, name=name: left.append(name)
        )
    for number, victim in enumerate((opened, silent, speaks)):
        newcomer = await (await Phone(air, f"new{number}").connect(radio)).select("coc")
        await newcomer.echo()
        (await desk.link(len(desk.links) - 1)).authenticated = True
        await victim.left()
    assert left == ["opened", "silent", "speaks"]
    assert await proved.echo() == b"hello"


async def test_authenticated_phones_are_never_evicted_and_a_newcomer_is_turned_away(air, start):
    radio = await start(Desk(authenticates=True), limits={"connections": 2})
    inside = [await (await Phone(air, n).connect(radio)).select("coc") for n in ("one", "two")]
    assert [await each.echo() for each in inside] == [b"hello"] * 2
    late = air.device("late")
    await late.power_on()
    gone = asyncio.get_running_loop().create_future()
    connection = await late.connect_le(hci.Address(radio.address))
    connection.once("disconnection", gone.set_result)
    async with asyncio.timeout(TIMEOUT_S):
        assert await gone == hci.HCI_ErrorCode(0x14)
    assert [await each.echo() for each in inside] == [b"hello"] * 2


async def test_half_open_phones_have_a_cap_of_their_own(air, start):
    radio = await start(Desk(), limits={"half_open": 2})
    first, second, third = [await Phone(air, n).connect(radio) for n in ("a", "b", "c")]
    await first.left()
    assert (second.gone.done(), third.gone.done()) == (False, False)


# -- deadlines


@pytest.mark.parametrize("bearer", ["coc", "gatt"])
async def test_a_phone_that_selects_but_says_nothing_is_ended(air, start, bearer):
    desk = Desk()
    radio = await start(desk, limits={"first_message_s": SHORT_S})
    phone = await (await Phone(air, "phone").connect(radio)).select(bearer)
    await phone.left()
    assert await desk.end() is LinkReason.TIMEOUT


async def test_a_phone_that_selects_no_bearer_is_ended(air, start):
    radio = await start(Desk(), limits={"bearer_s": 4 * SHORT_S})
    phone = Phone(air, "phone")
    await phone.connect(radio)
    await phone.choose()
    await phone.left()
    assert radio.peers == ()


@pytest.mark.parametrize("authenticated", [False, True])
@pytest.mark.parametrize("bearer", ["coc", "gatt"])
async def test_a_message_that_never_ends_ends_the_link(air, start, bearer, authenticated):
    desk = Desk(authenticates=authenticated)
    radio = await start(desk, limits={"fragment_s": SHORT_S})
    phone = await (await Phone(air, "phone").connect(radio)).select(bearer)
    await phone.echo()
    if bearer == "coc":
        phone.channel.send_pdu(b"\x10\x00begun")
    else:
        await phone.chunk(phone.fragmenter.split(bytes(300))[0])
    await phone.left()
    assert await desk.end() is LinkReason.TIMEOUT


async def test_pieces_in_time_do_not_move_the_deadline_of_their_message(air, start):
    desk = Desk()
    radio = await start(desk, limits={"fragment_s": 4 * SHORT_S})
    phone = await (await Phone(air, "phone").connect(radio)).select("coc")
    phone.channel.send_pdu(b"\x00\x10")

    def trickle():
        if not phone.gone.done():
            phone.channel.send_pdu(b"x")
            asyncio.get_running_loop().call_later(SHORT_S, trickle)

    trickle()
    await phone.left()
    assert await desk.end() is LinkReason.TIMEOUT


async def test_a_silent_phone_is_ended_unless_it_is_authenticated(air, start):
    desk = Desk()
    radio = await start(desk, limits={"idle_s": SHORT_S})
    proved = await (await Phone(air, "proved").connect(radio)).select("coc")
    (await desk.link()).authenticated = True
    await proved.echo()
    unknown = await (await Phone(air, "unknown").connect(radio)).select("coc")
    await unknown.echo()
    await unknown.left()
    assert await desk.end() is LinkReason.TIMEOUT
    assert await proved.echo() == b"hello"


async def test_a_phone_that_gives_no_credit_is_ended(air, start):
    desk = Desk()
    radio = await start(desk, limits={"send_s": SHORT_S})
    phone = await (await Phone(air, "phone").connect(radio)).select("coc", initial=1)
    phone.channel.on_pdu = lambda _pdu: None
    await phone.send(bytes(1000))
    await phone.left()
    assert await desk.end() is LinkReason.TIMEOUT


# -- ends


@pytest.mark.parametrize("bearer", ["coc", "gatt"])
async def test_a_phone_that_leaves_is_a_lost_link(air, start, bearer):
    desk = Desk()
    radio = await start(desk)
    phone = await (await Phone(air, "phone").connect(radio)).select(bearer)
    link = await desk.link()
    await phone.connection.disconnect()
    assert await desk.end() is LinkReason.LOST
    assert not await link.present()
    assert radio.peers == ()
    with pytest.raises(LinkError):
        await link.send(b"late")


async def test_a_phone_out_of_range_is_a_lost_link(air, start):
    desk = Desk()
    radio = await start(desk)
    await (await Phone(air, "phone").connect(radio)).select("coc")
    await desk.link()
    air.set_rssi("car0", "phone", None)
    assert await desk.end() is LinkReason.LOST


@pytest.mark.parametrize("bearer", ["coc", "gatt"])
async def test_a_phone_that_only_leaves_its_bearer_must_select_one_in_time(air, start, bearer):
    desk = Desk()
    radio = await start(desk, limits={"bearer_s": 4 * SHORT_S})
    phone = await (await Phone(air, "phone").connect(radio)).select(bearer)
    if bearer == "coc":
        await phone.channel.disconnect()
    else:
        await phone.value(VEHICLE_TX_UUID).unsubscribe()
    assert await desk.end() is LinkReason.LOST
    await phone.left()
    assert radio.peers == ()


async def test_what_came_whole_before_the_loss_can_be_read(air, start):
    got = asyncio.get_running_loop().create_future()
    gone = asyncio.Event()

    async def late_reader(link):
        await gone.wait()
        first = await link.recv()
        try:
            await link.recv()
        except LinkError as exc:
            got.set_result((first, exc.reason))

    radio = await start(late_reader)
    phone = await (await Phone(air, "phone").connect(radio)).select("coc")
    await phone.send(b"last words")
    await phone.connection.disconnect()
    gone.set()
    async with asyncio.timeout(TIMEOUT_S):
        assert await got == (b"last words", LinkReason.LOST)


async def test_the_link_ends_when_its_task_returns(air, start):
    async def once(link):
        await link.send(await link.recv())

    radio = await start(once)
    phone = await (await Phone(air, "phone").connect(radio)).select("coc")
    assert await phone.echo() == b"hello"
    await phone.left()


async def test_a_task_that_fails_ends_its_own_link_alone(air, start, caplog):
    async def fragile(link):
        while True:
            message = await link.recv()
            if message == b"crash":
                raise ZeroDivisionError
            await link.send(message)

    caplog.set_level(logging.CRITICAL, "firmware_mock.ble_radio")
    radio = await start(fragile)
    phone = await (await Phone(air, "phone").connect(radio)).select("coc")
    other = await (await Phone(air, "other").connect(radio)).select("gatt")
    await phone.send(b"crash")
    await phone.left()
    assert await other.echo() == b"hello"


async def test_a_task_that_ignores_the_end_is_cancelled(air, start):
    cancelled = asyncio.Event()
    begun = asyncio.Event()

    async def deaf(_link):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    radio = await start(deaf, limits={"wind_up_s": SHORT_S})
    phone = await (await Phone(air, "phone").connect(radio)).select("coc")
    await begun.wait()
    await phone.connection.disconnect()
    async with asyncio.timeout(TIMEOUT_S):
        await cancelled.wait()


async def test_closing_a_link_disconnects_and_ends_a_pending_recv(air, start):
    desk = Desk()
    radio = await start(desk)
    phone = await (await Phone(air, "phone").connect(radio)).select("coc")
    link = await desk.link()
    await link.aclose()
    await link.aclose()
    await phone.left()
    assert await desk.end() is LinkReason.CLOSED


async def test_closing_the_radio_ends_everything(air, start):
    desk = Desk()
    radio = await start(desk)
    phone = await (await Phone(air, "phone").connect(radio)).select("coc")
    half_open = await Phone(air, "half").connect(radio)
    await radio.aclose()
    await radio.aclose()
    await phone.left()
    await half_open.left()
    assert await desk.end() is LinkReason.CLOSED


# -- bad phones

MALFORMED = {
    "gap": [b"\x80\x00\x05ab", b"\x02cd"],
    "no beginning": [b"\x40abc"],
    "no data": [b"\xc0\x00\x01"],
    "empty": [b""],
    "64 KiB claimed": [b"\x80\xff\xffa"],
    "more than claimed": [b"\xc0\x00\x01ab"],
    "less than claimed": [b"\xc0\x00\x09ab"],
    "begun twice": [b"\x80\x00\x09ab", b"\x81\x00\x09ab"],
    "repeated": [b"\x80\x00\x09ab", b"\x80\x00\x09ab"],
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_chunk_ends_that_phone_alone(air, start, name):
    desk = Desk()
    radio = await start(desk)
    other = await (await Phone(air, "other").connect(radio)).select("gatt")
    bad = await (await Phone(air, "bad").connect(radio)).select("gatt")
    for chunk in MALFORMED[name]:
        await bad.chunk(chunk)
    await bad.left()
    assert await desk.end() is LinkReason.PROTOCOL
    assert await other.echo() == b"hello"


def shaken(chance, chunks):
    """Drop, repeat, swap or truncate one chunk."""
    at = chance.randrange(len(chunks))
    match chance.randrange(4):
        case 0:
            return chunks[:at] + chunks[at + 1 :]
        case 1:
            return chunks[: at + 1] + chunks[at:]
        case 2:
            other = chance.randrange(len(chunks))
            swapped = list(chunks)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            return swapped
        case _:
            return [
                *chunks[:at],
                chunks[at][: chance.randrange(len(chunks[at]))],
                *chunks[at + 1 :],
            ]


async def test_whatever_happens_to_chunks_only_what_was_sent_arrives(air, start):
    chance = random.Random(1)
    came, ended = [], asyncio.Queue()

    async def collect(link):
        try:
            while True:
                came.append(await link.recv())
        except LinkError as exc:
            ended.put_nowait(exc.reason)

    soon = dict.fromkeys(("fragment_s", "first_message_s", "idle_s"), SHORT_S)
    radio = await start(collect, limits=soon)
    for number in range(30):
        phone = await (await Phone(air, f"phone{number}").connect(radio)).select("gatt")
        phone.fragmenter = Fragmenter(chance.randrange(4, 60))
        messages = [chance.randbytes(chance.randrange(1, 200)) for _ in range(3)]
        chunks = [each for message in messages for each in phone.fragmenter.split(message)]
        for chunk in shaken(chance, chunks):
            await phone.chunk(chunk)
        await phone.left()
        async with asyncio.timeout(TIMEOUT_S):
            await ended.get()
        assert came == messages[: len(came)]
        came.clear()


@pytest.mark.parametrize("pdu", [b"\x01\x10", b"\x03\x00abcd", b"\xff\xffa", b"\x00\x00"])
async def test_a_bad_sdu_ends_that_phone_alone(air, start, pdu):
    desk = Desk()
    radio = await start(desk)
    other = await (await Phone(air, "other").connect(radio)).select("coc")
    bad = await (await Phone(air, "bad").connect(radio)).select("coc")
    bad.channel.send_pdu(pdu)
    await bad.left()
    assert await desk.end() is LinkReason.PROTOCOL
    assert await other.echo() == b"hello"


@pytest.mark.parametrize("bearer", ["coc", "gatt"])
async def test_a_message_before_the_choice_ends_the_link(air, start, bearer):
    desk = Desk()
    radio = await start(desk)
    phone = await Phone(air, "phone").connect(radio)
    await (phone.open() if bearer == "coc" else phone.subscribe())
    await phone.send(b"hello")
    assert await desk.end() is LinkReason.PROTOCOL


async def test_a_chunk_without_a_subscription_ends_the_connection(air, start):
    radio = await start(Desk())
    phone = await (await Phone(air, "phone").connect(radio)).choose()
    await phone.chunk(b"\xc0\x00\x01a")
    await phone.left()


async def test_a_malformed_choice_ends_the_connection(air, start):
    radio = await start(Desk())
    phone = await Phone(air, "phone").connect(radio)
    with pytest.raises(core.BaseBumbleError):
        await phone.choose(b"\x01\x00\x09")
    await phone.left()


async def test_an_unknown_version_is_refused_and_another_may_be_chosen(air, start):
    radio = await start(Desk())
    phone = await Phone(air, "phone").connect(radio)
    with pytest.raises(core.BaseBumbleError):
        await phone.choose(DeviceChoice(version=b"\x09\x00").to_bytes())
    await phone.select("coc")
    assert await phone.echo() == b"hello"


@pytest.mark.parametrize("first", ["coc", "gatt"])
async def test_a_second_bearer_ends_the_connection(air, start, first):
    radio = await start(Desk())
    phone = await (await Phone(air, "phone").connect(radio)).select(first)
    await phone.echo()
    await phone.open()
    await phone.left()


async def test_a_second_choice_on_a_bearer_is_refused(air, start):
    desk = Desk()
    radio = await start(desk)
    phone = await (await Phone(air, "phone").connect(radio)).select("coc")
    with pytest.raises(core.BaseBumbleError):
        await phone.choose(DeviceChoice(features=b"\x07").to_bytes())
    assert (await desk.link()).choice == DeviceChoice()


@pytest.mark.parametrize("size", [1, 1000])
async def test_a_phone_that_floods_ends_at_its_cap(air, start, size):
    desk = Desk(echoes=False)
    radio = await start(desk, limits={"pending_bytes": 4096, "wind_up_s": SHORT_S})
    phone = await (await Phone(air, "phone").connect(radio)).select("gatt")
    link = await desk.link()
    for _ in range(4096 // (size + 64)):
        await phone.send(bytes(size))
    other = await Phone(air, "other").connect(radio)  # by now all that was sent has come
    assert (link.fault, 0 < link.pending <= 4096) == (None, True)
    await phone.send(bytes(size))
    await phone.left()
    assert link.fault.reason is LinkReason.PROTOCOL
    assert link.pending == 0
    assert not other.gone.done()


async def test_when_all_together_hold_too_much_the_unauthenticated_hoarder_leaves(air, start):
    desk = Desk(echoes=False)
    radio = await start(desk, limits={"pending_total_bytes": 4096, "wind_up_s": SHORT_S})
    hoarder = await (await Phone(air, "hoarder").connect(radio)).select("coc")
    await hoarder.send(bytes(2000))
    small = await (await Phone(air, "small").connect(radio)).select("coc")
    await small.send(bytes(100))
    proved = await (await Phone(air, "proved").connect(radio)).select("coc")
    (await desk.link(2)).authenticated = True
    await proved.send(bytes(2000))
    await hoarder.left()
    assert (small.gone.done(), proved.gone.done()) == (False, False)
    assert sum(each.pending for each in radio.peers) <= 4096


async def test_no_phone_can_bond(air, start):
    radio = await start(Desk())
    phone = await Phone(air, "phone").connect(radio)
    with pytest.raises(core.BaseBumbleError):
        async with asyncio.timeout(TIMEOUT_S):
            await phone.connection.pair()


# -- privacy


def common(one, other, size=3):
    pieces = [{text[at : at + size] for at in range(len(text) - size + 1)} for text in (one, other)]
    return pieces[0] & pieces[1]


async def test_two_periods_share_nothing_but_what_all_vehicles_say(air, start):
    radio = await start(Desk())
    [(address, data)] = await adverts(air, "one", 1)
    await radio.rotate()
    [(later_address, later)] = await adverts(air, "two", 1)
    head = ADVERT_DATA_AT + 1
    assert data[:head] == later[:head] == ANY.to_bytes()[:ADVERT_DATA_AT] + data[21:22]
    assert common(address + data[head:], later_address + later[head:]) == set()
    assert common(address + data[head:], address + data[head:])  # the check can fail


async def test_only_the_resolving_key_tells_whose_vehicle_it_is(air, start):
    radio = await start(Desk())
    for name in ("one", "two"):
        [(address, data)] = await adverts(air, name, 1)
        advert = VehicleAdvert.parse(data)
        assert advert.resolves(KEY.reveal())
        assert not advert.resolves(OTHER_KEY.reveal())
        assert address[5] >> 6 == 0b01  # resolvable private, least significant byte first
        await radio.rotate()


def nameless(air, number):
    return air.device(f"vehicle{number}", config=DeviceConfiguration(name="dkey"))


async def test_what_a_stranger_reads_is_the_same_on_all_vehicles(air, start):
    values = []
    for key in (KEY, OTHER_KEY):
        radio = await start(Desk(), key=key, where=nameless(air, len(values)))
        phone = await Phone(air, f"phone{len(values)}").connect(radio)
        read = {}
        for service in phone.peer.services:
            for each in service.characteristics:
                if each.properties & each.properties.READ:
                    read[str(each.uuid)] = bytes(await each.read_value())
        values.append(read)
    assert values[0] == values[1]
    assert len(values[0]) >= 2


async def test_rotation_does_not_touch_links(air, start):
    radio = await start(Desk())
    phones = [await (await Phone(air, b).connect(radio)).select(b) for b in ("coc", "gatt")]
    before = radio.address
    await radio.rotate()
    assert radio.address != before
    assert [await each.echo() for each in phones] == [b"hello"] * 2
    newcomer = await (await Phone(air, "new").connect(radio)).select("coc")
    assert await newcomer.echo() == b"hello"
    assert [await each.echo() for each in phones] == [b"hello"] * 2


async def test_rotation_comes_by_itself_and_with_phones_connected(air, start):
    radio = await start(Desk(), rotation_s=SHORT_S)
    phone = await (await Phone(air, "phone").connect(radio)).select("coc")
    seen = await adverts(air, "watcher", 4)
    assert len({address for address, _ in seen}) == 4
    assert all(VehicleAdvert.parse(data).resolves(KEY.reveal()) for _, data in seen)
    assert await phone.echo() == b"hello"


async def test_an_open_pairing_is_advertised_under_a_new_name(air, start):
    radio = await start(Desk())
    before = radio.address
    await radio.offer(pairing=True, resolving_key=OTHER_KEY)
    [(_, data)] = await adverts(air, "one", 1)
    advert = VehicleAdvert.parse(data)
    assert (advert.pairing, advert.remote) == (True, True)
    assert advert.resolves(OTHER_KEY.reveal())
    assert radio.address != before


@pytest.mark.parametrize("now", [None, 1_700_000_000.0])
async def test_the_aliro_tag_stands_for_address_and_expiry(air, start, now):
    radio = await start(Desk(), profile=ALIRO, group_id=GROUP, sub_id=SUB, rotation_s=900)
    await radio.rotate(now)
    [(address, data)] = await adverts(air, "one", 1)
    advert = Advert.parse(data)
    assert advert.expiry == (EXPIRY_UNAVAILABLE if now is None else 1_700_000_900)
    assert advert.resolves(KEY.reveal(), address[::-1])
    assert not advert.resolves(OTHER_KEY.reveal(), address[::-1])


async def test_the_aliro_profile_needs_to_know_the_reader(air):
    with pytest.raises(LocalFault):
        VehicleRadio(air.device("car"), profile=ALIRO, resolving_key=KEY, on_peer=Desk())


# -- controllers by name


async def test_a_vehicle_of_another_process_joins_the_air_by_socket(air, start, tmp_path):
    server = await serve_unix(air, tmp_path / "air.sock")
    desk = Desk()
    radio = await start(desk, where=f"ble-sim:{server.where}")
    phone = await (await Phone(air, "phone").connect(radio)).select("gatt")
    assert await phone.echo() == b"hello"
    await radio.aclose()
    await phone.left()
    await server.aclose()


async def test_a_controller_that_vanishes_ends_the_links(air, start, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    server = await serve_unix(air, tmp_path / "air.sock")
    desk = Desk()
    radio = await start(desk, where=f"unix-client:{server.where}")
    await (await Phone(air, "phone").connect(radio)).select("gatt")
    await desk.link()
    await server.aclose()
    async with asyncio.timeout(TIMEOUT_S):
        await radio.wait_lost()
    assert await desk.end() is LinkReason.LOST


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("unix-client:/nonexistent/air.sock", LinkReason.ABSENT),
        ("ble-sim:/nonexistent/air.sock", LinkReason.ABSENT),
        ("tcp-client:127.0.0.1:{port}", LinkReason.ABSENT),
        ("serial:/dev/nonexistent,1000000", LinkReason.ABSENT),
        ("carrier-pigeon:1", LinkReason.UNSUPPORTED),
        ("usb", LinkReason.UNSUPPORTED),
        ("ble-sim:nowhere", LinkReason.UNSUPPORTED),
    ],
)
async def test_a_controller_that_cannot_be_had_is_told_with_what_to_do(where, reason):
    name = where.format(port=closed_port())
    radio = VehicleRadio(name, profile=VEHICLE, resolving_key=KEY, on_peer=Desk())
    with pytest.raises(LinkError) as caught:
        await radio.start()
    assert caught.value.reason is reason
    assert caught.value.hint


async def test_a_socket_without_a_controller_behind_it_times_out():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        radio = VehicleRadio(
            f"tcp-client:127.0.0.1:{mute.getsockname()[1]}",
            profile=VEHICLE,
            resolving_key=KEY,
            on_peer=Desk(),
            open_s=SHORT_S,
        )
        with pytest.raises(LinkError) as caught:
            await radio.start()
    assert caught.value.reason is LinkReason.TIMEOUT
