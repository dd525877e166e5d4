"""Plain bleak code on a Bumble host, against a small GATT server on the virtual air.

Run as a program (``test_bleak_bumble.py UNIX_SOCKET``), this file is that server.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys

import pytest

pytest.importorskip("bumble")

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakCharacteristicNotFoundError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
    BleakGATTProtocolErrorCode,
)
from bumble import att, hci
from bumble.core import UUID, AdvertisingData
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.snoop import Snooper

from dkey.link.ble_bumble import backends, open_sim
from firmware_mock.air import Air
from firmware_mock.air_server import serve_tcp

CAR = "F0:F1:F2:F3:F4:F5"
PHONE = "C0:C1:C2:C3:C4:C5"
SERVICE = "d3b5a130-9e23-4b3a-8be4-6b1ee5f98000"
RX = "d3b5a130-9e23-4b3a-8be4-6b1ee5f98001"
TX = "d3b5a130-9e23-4b3a-8be4-6b1ee5f98002"
FACTS = "d3b5a130-9e23-4b3a-8be4-6b1ee5f98003"
LOCKED = "d3b5a130-9e23-4b3a-8be4-6b1ee5f98004"
MUTE = "d3b5a130-9e23-4b3a-8be4-6b1ee5f98005"
LONG_FACT = bytes(range(256)) * 2
TIMEOUT_S = 10
SUPERVISION_S = 0.02


class EchoServer:
    """Notifies on TX what was written to RX; holds a few more characteristics to go wrong."""

    def __init__(self, device, *, services=True):
        self.device = device
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        properties = Characteristic.Properties
        self.tx = Characteristic(TX, properties.NOTIFY, Characteristic.READABLE, b"")
        self.service = Service(
            SERVICE,
            [
                Characteristic(
                    RX,
                    properties.WRITE | properties.WRITE_WITHOUT_RESPONSE,
                    Characteristic.WRITEABLE,
                    CharacteristicValue(write=self._echo),
                ),
                self.tx,
                Characteristic(FACTS, properties.READ, Characteristic.READABLE, LONG_FACT),
                Characteristic(
                    LOCKED,
                    properties.READ,
                    Characteristic.READABLE,
                    CharacteristicValue(read=self._refuse),
                ),
                Characteristic(
                    MUTE,
                    properties.READ,
                    Characteristic.READABLE,
                    CharacteristicValue(read=self._wait),
                ),
            ],
        )
        if services:
            device.add_service(self.service)

    async def _echo(self, connection, value):
        await self.device.notify_subscriber(connection, self.tx, bytes(value))

    def _refuse(self, _connection):
        raise att.ATT_Error(att.ErrorCode.INSUFFICIENT_AUTHORIZATION)

    async def _wait(self, _connection):
        self.asked.set()
        await self.answer.wait()
        return b"late"

    async def start(self):
        await self.device.start_advertising(
            auto_restart=True,
            advertising_interval_min=20,
            advertising_interval_max=20,
            advertising_data=bytes(
                AdvertisingData(
                    [
                        (
                            AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
                            UUID(SERVICE).to_bytes(),
                        )
                    ]
                )
            ),
            scan_response_data=bytes(
                AdvertisingData([(AdvertisingData.COMPLETE_LOCAL_NAME, b"Mock vehicle")])
            ),
        )
        return self


class PacketWatch(Snooper):
    """Tells when a packet of one kind passed between host and controller."""

    def __init__(self, kind):
        self.kind = kind
        self.seen = asyncio.Event()

    def snoop(self, hci_packet, direction):
        if isinstance(hci.HCI_Packet.from_bytes(hci_packet), self.kind):
            self.seen.set()


@pytest.fixture
async def air():
    made = Air(supervision_s=SUPERVISION_S)
    yield made
    made.close()


@pytest.fixture
async def car(air):
    device = air.device("car", address=CAR)
    server = EchoServer(device)
    await device.power_on()
    return await server.start()


@pytest.fixture
async def phone(air):
    return await phone_on(air)


async def phone_on(air, name="phone", address=PHONE):
    device = air.device(name, address=address)
    await device.power_on()
    return device


async def found(phone):
    device = await BleakScanner.find_device_by_filter(
        lambda _, data: SERVICE in data.service_uuids,
        timeout=TIMEOUT_S,
        backend=backends(phone)[0],
    )
    assert device is not None
    return device


def client(phone, device, **options):
    return BleakClient(device, backend=backends(phone)[1], **{"timeout": TIMEOUT_S} | options)


@contextlib.asynccontextmanager
async def connected(phone, **options):
    async with client(phone, await found(phone), **options) as opened:
        yield opened


@contextlib.asynccontextmanager
async def echoing(opened):
    """Subscribe to TX; give a coroutine that writes and returns the echo."""
    echoes = asyncio.Queue()
    await opened.start_notify(TX, lambda _, data: echoes.put_nowait(bytes(data)))

    async def echo(data, *, response=False):
        await opened.write_gatt_char(RX, data, response=response)
        async with asyncio.timeout(TIMEOUT_S):
            return await echoes.get()

    yield echo
    if opened.is_connected:
        await opened.stop_notify(TX)


async def test_the_scanner_gives_name_services_and_strength(air, car, phone):
    air.set_rssi("car", "phone", -61)
    scanner_type, _ = backends(phone)
    async with BleakScanner(backend=scanner_type) as scanner, asyncio.timeout(TIMEOUT_S):
        async for device, data in scanner.advertisement_data():
            assert (device.address, device.name) == (CAR, "Mock vehicle")
            assert (data.local_name, data.service_uuids) == ("Mock vehicle", [SERVICE])
            assert data.rssi == -61
            break


async def test_a_passive_scan_gets_no_scan_response(car, phone):
    scanner_type, _ = backends(phone)
    async with (
        BleakScanner(scanning_mode="passive", backend=scanner_type) as scanner,
        asyncio.timeout(TIMEOUT_S),
    ):
        async for _, data in scanner.advertisement_data():
            assert (data.local_name, data.service_uuids) == (None, [SERVICE])
            break


async def test_a_scanner_that_wants_other_services_gets_nothing(car, phone):
    scanner_type, _ = backends(phone)
    unwanted = []
    async with BleakScanner(
        lambda device, _: unwanted.append(device),
        service_uuids=["0000fff0-0000-1000-8000-00805f9b34fb"],
        backend=scanner_type,
    ):
        await found(phone)
    assert unwanted == []


async def test_one_scanner_stopping_leaves_the_other_scanning(car, phone):
    scanner_type, _ = backends(phone)
    async with BleakScanner(backend=scanner_type) as scanner:
        await found(phone)
        async with asyncio.timeout(TIMEOUT_S):
            async for device, _ in scanner.advertisement_data():
                assert device.address == CAR
                break
        assert phone.is_scanning
    assert not phone.is_scanning


async def test_nobody_in_range_is_nobody_found(air, car, phone):
    air.set_rssi("car", "phone", None)
    assert await BleakScanner.find_device_by_name("x", 0.1, backend=backends(phone)[0]) is None


async def test_services_and_properties_are_discovered(car, phone):
    async with connected(phone) as opened:
        service = opened.services.get_service(SERVICE)
        assert {each.uuid: sorted(each.properties) for each in service.characteristics} == {
            RX: ["write", "write-without-response"],
            TX: ["notify"],
            FACTS: ["read"],
            LOCKED: ["read"],
            MUTE: ["read"],
        }
        descriptors = service.get_characteristic(TX).descriptors
        assert [each.uuid[4:8] for each in descriptors] == ["2902"]


async def test_only_the_services_asked_for_are_discovered(car, phone):
    async with connected(phone, services=[SERVICE]) as opened:
        assert [each.uuid for each in opened.services] == [SERVICE]


async def test_the_mtu_is_agreed_on(car, phone):
    async with connected(phone) as opened:
        assert opened.mtu_size == 517
        rx = opened.services.get_characteristic(RX)
        assert rx.max_write_without_response_size == 514


@pytest.mark.parametrize("response", [True, False])
@pytest.mark.parametrize("size", [0, 1, 20, 182, 244, 500, 512])
async def test_a_write_comes_back_as_a_notification(car, phone, size, response):
    async with connected(phone) as opened, echoing(opened) as echo:
        data = bytes(each & 0xFF for each in range(size))
        assert await echo(data, response=response) == data


async def test_many_write_commands_keep_their_order_and_do_not_pile_up(car, phone):
    async with connected(phone) as opened:
        echoes = asyncio.Queue()
        await opened.start_notify(TX, lambda _, data: echoes.put_nowait(bytes(data)))
        (link,) = phone.connections.values()
        queue = phone.host.get_data_packet_queue(link.handle)
        sent = [each.to_bytes(2, "big") * 100 for each in range(200)]
        unsent = []
        for data in sent:
            await opened.write_gatt_char(RX, data, response=False)
            unsent.append(queue.pending)
        async with asyncio.timeout(TIMEOUT_S):
            assert [await echoes.get() for _ in sent] == sent
        assert max(unsent) < 100


async def test_a_value_longer_than_a_packet_is_read_whole(car, phone):
    async with connected(phone) as opened:
        assert await opened.read_gatt_char(FACTS) == LONG_FACT


async def test_a_refused_read_carries_the_peers_code(car, phone):
    async with connected(phone) as opened:
        with pytest.raises(BleakGATTProtocolError) as caught:
            await opened.read_gatt_char(LOCKED)
        assert caught.value.code is BleakGATTProtocolErrorCode.INSUFFICIENT_AUTHORIZATION


async def test_too_long_a_write_command_is_refused_here(car, phone):
    async with connected(phone) as opened:
        with pytest.raises(BleakError, match="at most 514"):
            await opened.write_gatt_char(RX, bytes(515), response=False)


async def test_an_unknown_characteristic_is_not_found(car, phone):
    async with connected(phone) as opened:
        with pytest.raises(BleakCharacteristicNotFoundError):
            await opened.read_gatt_char(SERVICE)


async def test_a_characteristic_without_notify_cannot_be_subscribed(car, phone):
    async with connected(phone) as opened:
        with pytest.raises(BleakError, match="cannot notify"):
            await opened.start_notify(RX, lambda *_: None)


async def test_a_second_subscription_is_refused(car, phone):
    async with connected(phone) as opened:
        await opened.start_notify(TX, lambda *_: None)
        with pytest.raises(BleakError, match="already"):
            await opened.start_notify(TX, lambda *_: None)


async def test_after_unsubscribing_nothing_arrives(car, phone):
    async with connected(phone) as opened:
        async with echoing(opened) as echo:
            assert await echo(b"first") == b"first"
        heard = []
        assert await opened.write_gatt_char(RX, b"second", response=True) is None
        await opened.start_notify(TX, lambda _, data: heard.append(bytes(data)))
        await opened.write_gatt_char(RX, b"third", response=True)
        assert heard == [b"third"]


async def test_two_centrals_are_served_at_once_each_with_its_own_echoes(air, car, phone):
    other = await phone_on(air, "other", "C0:00:00:00:00:02")
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(connected(phone))
        await car.start()  # a connection ended the advertising
        second = await stack.enter_async_context(connected(other))
        ask_one = await stack.enter_async_context(echoing(first))
        ask_two = await stack.enter_async_context(echoing(second))
        for number in range(10):
            one, two = bytes([1, number]) * 100, bytes([2, number]) * 100
            assert await asyncio.gather(ask_one(one), ask_two(two)) == [one, two]


async def test_two_clients_of_one_phone_connect_one_after_the_other(air, car, phone):
    device = air.device("van", address="F0:00:00:00:00:01")
    van = EchoServer(device)
    await device.power_on()
    await van.start()
    targets = [BLEDevice(each, None, hci.Address(each)) for each in (CAR, "F0:00:00:00:00:01")]
    clients = [client(phone, each) for each in targets]
    await asyncio.gather(*(each.connect() for each in clients))
    assert [await each.read_gatt_char(FACTS) for each in clients] == [LONG_FACT] * 2
    for each in clients:
        await each.disconnect()


async def test_an_address_as_text_is_enough(car, phone):
    async with client(phone, CAR.lower()) as opened:
        assert await opened.read_gatt_char(FACTS) == LONG_FACT


async def test_an_address_that_nobody_uses_is_not_found(car, phone):
    with pytest.raises(BleakDeviceNotFoundError):
        await client(phone, "F0:00:00:00:00:99", timeout=0.1).connect()


async def test_a_timed_out_connect_leaves_the_radio_free_for_the_next(car, phone):
    ghost = BLEDevice("F0:00:00:00:00:99", None, hci.Address("F0:00:00:00:00:99"))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await client(phone, ghost, timeout=0.05).connect()
    async with connected(phone) as opened:
        assert opened.is_connected


async def test_a_cancelled_connect_leaves_the_radio_free_for_the_next(air, car, phone):
    device = await found(phone)
    air.set_rssi("car", "phone", None)
    watch = phone.host.snooper = PacketWatch(hci.HCI_LE_Create_Connection_Command)
    attempt = asyncio.ensure_future(client(phone, device).connect())
    async with asyncio.timeout(TIMEOUT_S):
        await watch.seen.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    air.set_rssi("car", "phone", -50)
    async with client(phone, device) as opened:
        assert opened.is_connected
    assert phone.connections == {}


async def test_a_connect_cancelled_as_the_link_comes_up_closes_it(car, phone):
    device = await found(phone)
    watch = phone.host.snooper = PacketWatch(hci.HCI_LE_Connection_Complete_Event)
    attempt = asyncio.ensure_future(client(phone, device).connect())
    async with asyncio.timeout(TIMEOUT_S):
        await watch.seen.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
    assert phone.connections == {}
    async with client(phone, device) as opened:
        assert opened.is_connected


async def test_twenty_reconnects_leave_no_link_behind(car, phone):
    device = await found(phone)
    for number in range(20):
        async with client(phone, device) as opened, echoing(opened) as echo:
            assert await echo(bytes([number])) == bytes([number])
    assert phone.connections == {}


async def test_one_client_may_connect_and_subscribe_again(car, phone):
    opened = client(phone, await found(phone))
    for number in range(3):
        async with opened:
            heard = []
            await opened.start_notify(TX, lambda _, data, to=heard: to.append(bytes(data)))
            await opened.write_gatt_char(RX, bytes([number]), response=True)
            assert heard == [bytes([number])]


async def test_the_callback_comes_once_when_the_vehicle_hangs_up(car, phone):
    calls = asyncio.Queue()
    async with connected(phone, disconnected_callback=calls.put_nowait) as opened:
        (link,) = car.device.connections.values()
        await link.disconnect()
        async with asyncio.timeout(TIMEOUT_S):
            assert await calls.get() is opened
        assert not opened.is_connected
        with pytest.raises(BleakError):
            await opened.read_gatt_char(FACTS)
    assert calls.empty()


async def test_a_vanished_vehicle_is_a_disconnect(air, car, phone):
    gone = asyncio.Event()
    async with connected(phone, disconnected_callback=lambda _: gone.set()) as opened:
        air.leave("car")
        async with asyncio.timeout(TIMEOUT_S):
            await gone.wait()
        assert not opened.is_connected


async def test_a_pending_read_ends_with_an_error_when_the_link_goes(air, car, phone):
    async with connected(phone) as opened:
        read = asyncio.ensure_future(opened.read_gatt_char(MUTE))
        async with asyncio.timeout(TIMEOUT_S):
            await car.asked.wait()
            air.set_rssi("car", "phone", None)
            with pytest.raises(BleakError, match="disconnected"):
                await read


async def test_the_late_answer_to_a_cancelled_read_is_not_taken_for_the_next(car, phone):
    async with connected(phone) as opened:
        async with asyncio.timeout(TIMEOUT_S):
            first = asyncio.ensure_future(opened.read_gatt_char(MUTE))
            await car.asked.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            second = asyncio.ensure_future(opened.read_gatt_char(FACTS))
            car.answer.set()
            assert await second == LONG_FACT


async def test_a_peer_that_never_answers_discovery_is_a_timeout(air, phone):
    device = air.device("deaf", address=CAR)
    await device.power_on()
    server = EchoServer(device, services=False)
    device.l2cap_channel_manager.register_fixed_channel(att.ATT_CID, lambda *_: None)
    await server.start()
    calls = []
    device = await found(phone)
    with pytest.raises(TimeoutError):
        await client(phone, device, timeout=0.1, disconnected_callback=calls.append).connect()
    assert phone.connections == {}
    assert calls == []  # it never was connected


async def test_connecting_twice_is_an_error(car, phone):
    async with connected(phone) as opened:
        with pytest.raises(BleakError, match="already connected"):
            await opened.connect()


async def test_pairing_encrypts_the_link_and_unpairing_ends_it(car, phone):
    async with connected(phone) as opened:
        await opened.pair()
        (link,) = phone.connections.values()
        assert link.is_encrypted
        await opened.unpair()
        assert not opened.is_connected


async def test_a_lost_air_is_no_bluetooth(air, car):
    server = await serve_tcp(air)
    device = await open_sim(server.where)
    gone = asyncio.Event()
    opened = client(device, await found(device), disconnected_callback=lambda _: gone.set())
    await opened.connect()
    await server.aclose()
    async with asyncio.timeout(TIMEOUT_S):
        await gone.wait()
    for start in (opened.connect, BleakScanner(backend=backends(device)[0]).start):
        with pytest.raises(BleakBluetoothNotAvailableError):
            await start()
    await device.aclose()


def test_importing_dkey_and_its_links_imports_neither_bumble_nor_bleak():
    program = (
        "import sys, dkey, dkey.link.base, dkey.link.opener\n"
        "sys.exit(any(each in sys.modules for each in ('bumble', 'bleak')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@contextlib.asynccontextmanager
async def process(*arguments):
    """Run Python; give the process once it wrote its first line."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            assert await running.stdout.readline()
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def test_air_vehicle_and_phone_are_three_processes(tmp_path):
    path = str(tmp_path / "air")
    async with process("-m", "firmware_mock.air", "--unix", path):
        device = await open_sim(f"ble-sim:{path}")
        for _ in range(2):  # the second time after the vehicle's crash
            gone = asyncio.Event()
            async with process(__file__, path) as vehicle:
                opened = client(
                    device, await found(device), disconnected_callback=lambda _, e=gone: e.set()
                )
                async with opened, echoing(opened) as echo:
                    for size in (20, 240, 500):
                        assert await echo(bytes(size)) == bytes(size)
                    vehicle.kill()
                    async with asyncio.timeout(TIMEOUT_S):
                        await gone.wait()
        await device.aclose()


async def serve_forever(path):
    async with asyncio.timeout(60):
        device = await open_sim(path, own_address=CAR)
        server = EchoServer(device)
        await server.start()
        print("advertising", flush=True)  # noqa: T201 - the parent waits for it
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(serve_forever(sys.argv[1]))
