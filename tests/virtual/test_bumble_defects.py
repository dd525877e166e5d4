"""Each defect of Bumble 0.0.236 that we work around, shown on the original and gone on ours.

A test that fails at :func:`still` is good news: the original was repaired, and the named
workaround can go.
"""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("bumble")

from bleak import BleakClient
from bleak.backends.device import BLEDevice
from bumble import hci, l2cap
from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData, ProtocolError
from bumble.device import Device, DeviceConfiguration, Peer
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.link import LocalLink
from bumble.snoop import Snooper

from dkey.link.ble_bumble import backends
from firmware_mock.air import Air
from firmware_mock.air_controller import AirDevice

CAR = "F0:F1:F2:F3:F4:F5"
PHONE = "C0:C1:C2:C3:C4:C5"
OTHER = "C0:00:00:00:00:02"
GHOST = "F0:00:00:00:00:99"
PUBLIC = "00:BB:1E:00:00:01"
SLOW = "d3b5a130-9e23-4b3a-8be4-6b1ee5f98001"
PLAIN = "d3b5a130-9e23-4b3a-8be4-6b1ee5f98002"
NAME = bytes(AdvertisingData([(AdvertisingData.COMPLETE_LOCAL_NAME, b"car")]))
ANSWER = bytes(AdvertisingData([(AdvertisingData.TX_POWER_LEVEL, b"\x04")]))
PSM = 0x80
TIMEOUT_S = 10
QUICK_S = 0.4  # for what never comes


def still(broken, workaround):
    assert broken, f"this Bumble is repaired: {workaround} can go"


class Tape(Snooper):
    """Keeps a host's HCI packets, parsed."""

    def __init__(self):
        self.packets = []
        self.heard = asyncio.Event()

    def snoop(self, hci_packet, direction):
        self.packets.append(hci.HCI_Packet.from_bytes(hci_packet))
        self.heard.set()

    def all(self, kind):
        return [each for each in self.packets if isinstance(each, kind)]

    async def first(self, kind):
        async with asyncio.timeout(TIMEOUT_S):
            while not (found := self.all(kind)):
                self.heard.clear()
                await self.heard.wait()
        return found[0]


class Stock:
    """Bumble as it is."""

    device_type = Device

    def __init__(self):
        self.link = LocalLink()

    def controller(self, name, public=None):
        return Controller(name, link=self.link, public_address=public and f"{public}/P")

    async def device(self, name, address, controller=None, **options):
        controller = controller or self.controller(name)
        config = DeviceConfiguration(name=name, address=hci.Address(address), **options)
        device = self.device_type.from_config_with_hci(config, controller, controller)
        device.host.snooper = Tape()
        await device.power_on()
        return device

    async def advertising(self, name="car", address=CAR, controller=None, **options):
        car = await self.device(name, address, controller, **options)
        await advertise(car)
        return car


class Ours(Stock):
    """Bumble with our repairs."""

    device_type = AirDevice

    def __init__(self):
        self.link = Air(supervision_s=0.02)

    def controller(self, name, public=None):
        return self.link.join(name, public_address=public)


async def advertise(device):
    await device.start_advertising(
        advertising_interval_min=20,
        advertising_interval_max=20,
        advertising_data=NAME,
        scan_response_data=ANSWER,
    )


async def linked(world, address=CAR, phone_controller=None, **options):
    """Return both devices and both ends of a link."""
    car = await world.advertising(address=address)
    phone = await world.device("phone", PHONE, phone_controller)
    arrived = asyncio.get_running_loop().create_future()
    car.on("connection", lambda link: arrived.done() or arrived.set_result(link))
    async with asyncio.timeout(TIMEOUT_S):
        near = await phone.connect_le(hci.Address(address), **options)
        return car, phone, await arrived, near


@pytest.fixture
async def stock():
    return Stock()


@pytest.fixture
async def ours():
    world = Ours()
    yield world
    world.link.close()


async def test_the_enhanced_connection_complete_event_is_never_sent(stock):
    _, phone, _, _ = await linked(stock)
    (mask,) = phone.host.snooper.all(hci.HCI_LE_Set_Event_Mask_Command)
    wanted = int.from_bytes(mask.le_event_mask, "little") & 1 << 9
    assert wanted, "the host asks for the event by bit 9, Core 5.4 Vol 4 Part E §7.8.1"
    enhanced = phone.host.snooper.all(hci.HCI_LE_Enhanced_Connection_Complete_Event)
    still(not enhanced, "masking LL_PRIVACY and LE_EXTENDED_ADVERTISING in attach_kernel")


async def public_echo(world):
    """Return whether data from a link made with a public address arrives."""
    controller = world.controller("phone", PUBLIC)
    car, _, _, near = await linked(
        world, phone_controller=controller, own_address_type=hci.OwnAddressType.PUBLIC
    )
    arrived = asyncio.Event()
    car.l2cap_channel_manager.register_fixed_channel(0x3E, lambda *_: arrived.set())
    near.send_l2cap_pdu(0x3E, b"hello")
    try:
        async with asyncio.timeout(QUICK_S):
            return await arrived.wait()
    except TimeoutError:
        return False


async def test_data_on_a_link_with_a_public_address_gets_lost(stock, ours):
    assert await public_echo(ours)
    still(not await public_echo(stock), "Air.send_acl_data")


async def reopen_channel(world):
    """Return whether a channel can be opened a second time on the same link."""
    car, _, _, near = await linked(world)
    closed = asyncio.Event()
    spec = l2cap.LeCreditBasedChannelSpec(psm=PSM)
    car.create_l2cap_server(spec, lambda channel: channel.on("close", closed.set))
    async with asyncio.timeout(TIMEOUT_S):
        first = await near.create_l2cap_channel(spec)
        await first.disconnect()
        await closed.wait()
        try:
            await near.create_l2cap_channel(spec)
        except ProtocolError:
            return False
    return True


async def test_a_closed_channel_blocks_its_number_until_the_link_drops(stock, ours):
    assert await reopen_channel(ours)
    still(not await reopen_channel(stock), "AirDevice.create_l2cap_server")


async def legacy_interval_s(world):
    """Return the pause between adverts for an interval of 1600 slots, which is 1 s."""
    advertiser = world.controller("car").le_legacy_advertiser
    advertiser.advertising_interval_min = 1600
    advertiser.start()
    loop = asyncio.get_running_loop()
    fired = asyncio.Event()
    loop.call_soon(fired.set)  # queued after the first advert
    await fired.wait()
    pause_s = advertiser.timer_handle.when() - loop.time()
    advertiser.stop()
    return round(pause_s, 1)


async def test_the_legacy_interval_is_taken_for_milliseconds(stock, ours):
    assert await legacy_interval_s(ours) == 1.0
    still(await legacy_interval_s(stock) == 1.6, "_LegacyAdvertiser in air_controller.py")


async def scan_responses(world, *, active):
    """Return the data of the first scan response, None if an advert came twice without one."""
    await world.advertising()
    phone = await world.device("phone", PHONE)
    tape = phone.host.snooper
    await phone.start_scanning(active=active)
    event = hci.HCI_LE_Extended_Advertising_Report_Event
    reports = []
    async with asyncio.timeout(TIMEOUT_S):
        while len(reports) < 3:
            tape.heard.clear()
            await tape.heard.wait()
            reports = [each.reports[0] for each in tape.all(event)]
    await phone.stop_scanning()
    answers = [each.data for each in reports if each.event_type & event.EventType.SCAN_RESPONSE]
    return answers[0] if answers else None


async def test_the_scan_response_repeats_the_advertising_data(stock, ours):
    assert await scan_responses(ours, active=True) == ANSWER
    still(await scan_responses(stock, active=True) == NAME, "AirController._report")


async def test_a_passive_scan_is_answered(stock, ours):
    assert await scan_responses(ours, active=False) is None
    still(
        await scan_responses(stock, active=False) is not None,
        "AirController.on_hci_le_set_extended_scan_parameters_command",
    )


async def connect_after_cancel(world):
    """Return whether a connect works after one that was cancelled by its timeout."""
    await world.advertising()
    phone = await world.device("phone", PHONE)
    attempt = asyncio.ensure_future(phone.connect_le(hci.Address(GHOST), timeout=None))
    await phone.host.snooper.first(hci.HCI_Command_Status_Event)
    await phone.send_sync_command(hci.HCI_LE_Create_Connection_Cancel_Command())
    await asyncio.wait({attempt}, timeout=QUICK_S)
    answered = attempt.done()
    attempt.cancel()
    await asyncio.wait({attempt})
    assert answered is not attempt.cancelled()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await phone.connect_le(hci.Address(CAR))
    except hci.HCI_Error:
        return False
    return answered


async def test_a_cancelled_connect_stays_armed_in_the_controller(stock, ours):
    assert await connect_after_cancel(ours)
    still(
        not await connect_after_cancel(stock),
        "AirController.on_hci_le_create_connection_cancel_command",
    )


async def test_cancelling_the_hosts_connect_does_not_tell_the_controller(stock, ours):
    cancel = hci.HCI_LE_Create_Connection_Cancel_Command
    phone = await ours.device("phone", PHONE)
    ghost = BLEDevice(GHOST, None, hci.Address(GHOST))
    with pytest.raises(TimeoutError):
        await BleakClient(ghost, timeout=QUICK_S, backend=backends(phone)[1]).connect()
    assert phone.host.snooper.all(cancel)

    phone = await stock.device("phone", PHONE)
    attempt = asyncio.ensure_future(phone.connect_le(hci.Address(GHOST), timeout=None))
    await phone.host.snooper.first(hci.HCI_Command_Status_Event)
    await phone.send_sync_command(hci.HCI_LE_Rand_Command())  # now it waits for the connection
    attempt.cancel()
    await asyncio.wait({attempt})
    await phone.send_sync_command(hci.HCI_LE_Rand_Command())  # whatever was queued is out now
    still(not phone.host.snooper.all(cancel), "_hang_up in ble_bumble_client.py")


async def advert_rssi(world):
    await world.advertising()
    phone = await world.device("phone", PHONE)
    await phone.start_scanning()
    event = await phone.host.snooper.first(hci.HCI_LE_Extended_Advertising_Report_Event)
    await phone.stop_scanning()
    return event.reports[0].rssi


async def test_the_strength_of_adverts_is_a_constant(stock, ours):
    ours.link.set_rssi("car", "phone", -77)
    assert await advert_rssi(ours) == -77
    still(await advert_rssi(stock) == -50, "the RSSI of Air, if it became a function")


async def link_rssi(world):
    _, _, _, near = await linked(world)
    try:
        return await near.get_rssi()
    except hci.HCI_Error as exc:
        return exc.error_code


async def test_the_strength_of_a_link_cannot_be_read(stock, ours):
    ours.link.set_rssi("car", "phone", -77)
    assert await link_rssi(ours) == -77
    unknown = hci.HCI_ErrorCode.UNKNOWN_HCI_COMMAND_ERROR
    still(await link_rssi(stock) == unknown, "AirController.on_hci_read_rssi_command")


async def rotated(world):
    """Return whether host and controller agree on a new private address."""
    controller = world.controller("car")
    car = await world.device(
        "car", CAR, controller, le_privacy_enabled=True, le_rpa_timeout=0, irk=bytes(range(16))
    )
    before = car.random_address
    assert await car.update_rpa()
    return before != car.random_address == controller.random_address


async def test_a_new_private_address_does_not_reach_the_controller(stock, ours):
    assert await rotated(ours)
    still(not await rotated(stock), "AirDevice.update_rpa")


async def heard_after_reset(world):
    """Return whether a car still advertises after its controller was reset."""
    car = await world.advertising()
    phone = await world.device("phone", PHONE)
    await car.host.send_sync_command(hci.HCI_Reset_Command())
    heard = asyncio.Event()
    phone.on("advertisement", lambda _: heard.set())
    await phone.start_scanning()
    try:
        async with asyncio.timeout(QUICK_S):
            return await heard.wait()
    except TimeoutError:
        return False


async def test_a_reset_does_not_end_advertising(stock, ours):
    assert not await heard_after_reset(ours)
    still(await heard_after_reset(stock), "AirController.on_hci_reset_command")


async def winners(world):
    """Return how many of two centrals believe that they got one advertiser."""
    car = await world.device("car", CAR)
    phones = [await world.device("one", PHONE), await world.device("two", OTHER)]
    attempts = [asyncio.ensure_future(each.connect_le(hci.Address(CAR))) for each in phones]
    for each in phones:
        await each.host.snooper.first(hci.HCI_Command_Status_Event)
    await advertise(car)
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait(attempts, timeout=QUICK_S)
    done = sum(each.done() for each in attempts)
    for each in attempts:
        each.cancel()
    await asyncio.wait(attempts)
    assert len(car.connections) == 1
    return done


async def test_two_centrals_get_one_advertiser(stock, ours):
    assert await winners(ours) == 1
    still(await winners(stock) == 2, "the check in AirController.hear and Air.request_link")


async def disconnect_from_nobody(world, vanish):
    """Return whether a link can be closed whose peer's controller vanished."""
    _, _, _, near = await linked(world)
    vanish()
    try:
        async with asyncio.timeout(QUICK_S):
            await near.disconnect()
    except (TimeoutError, ValueError):
        return False
    return True


async def test_a_vanished_peer_cannot_be_disconnected(stock, ours):
    assert await disconnect_from_nobody(ours, lambda: ours.link.leave("car"))

    def vanish():
        (car,) = [each for each in stock.link.controllers if each.name == "car"]
        stock.link.remove_controller(car)

    still(
        not await disconnect_from_nobody(stock, vanish),
        "the silence of Air.send_ll_control_pdu, if links also time out",
    )


class SlowServer:
    """Answers a read of SLOW when told, and of PLAIN at once."""

    def __init__(self):
        self.asked, self.answer = asyncio.Event(), asyncio.Event()
        flags = Characteristic.Properties.READ, Characteristic.READABLE
        slow = Characteristic(SLOW, *flags, CharacteristicValue(read=self._read))
        self.service = Service("FFF0", [slow, Characteristic(PLAIN, *flags, b"plain")])

    async def _read(self, _link):
        self.asked.set()
        await self.answer.wait()
        return b"slow"


async def test_the_answer_to_a_cancelled_request_is_taken_for_the_next_one(stock):
    car, _, _, near = await linked(stock)
    server = SlowServer()
    car.add_service(server.service)
    peer = Peer(near)
    async with asyncio.timeout(TIMEOUT_S):
        await peer.discover_all()
        slow, plain = (peer.get_characteristics_by_uuid(each)[0] for each in _uuids(SLOW, PLAIN))
        first = asyncio.ensure_future(slow.read_value())
        await server.asked.wait()
        first.cancel()
        await asyncio.wait({first})
        second = asyncio.ensure_future(plain.read_value())
        server.answer.set()
        got = await second
    still(got == b"slow", "the shield in BumbleClient._exchange")


async def test_a_request_that_the_link_loss_ended_looks_like_a_cancellation(stock):
    car, _, far, near = await linked(stock)
    server = SlowServer()
    car.add_service(server.service)
    peer = Peer(near)
    async with asyncio.timeout(TIMEOUT_S):
        await peer.discover_all()
        read = asyncio.ensure_future(
            peer.get_characteristics_by_uuid(*_uuids(SLOW))[0].read_value()
        )
        await server.asked.wait()
        await far.disconnect()
        await asyncio.wait({read})
    still(read.cancelled(), "the translation of CancelledError in BumbleClient._exchange")


def _uuids(*texts):
    return [UUID(each) for each in texts]
