"""The virtual air: who hears whom, what a link survives, and joining from other processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import stat
import struct
import sys
from pathlib import Path

import pytest

pytest.importorskip("bumble")

from bumble import hci
from bumble.core import AdvertisingData

from dkey.errors import LinkError, LinkReason
from dkey.link.ble_bumble import open_sim
from firmware_mock.air import Air
from firmware_mock.air_server import attach_kernel, serve_tcp, serve_unix

CAR = "F0:F1:F2:F3:F4:F5"
PHONE = "C0:C1:C2:C3:C4:C5"
NAME_AD = bytes([4, AdvertisingData.COMPLETE_LOCAL_NAME]) + b"car"
TIMEOUT_S = 10
SUPERVISION_S = 0.02
CID = 0x3E  # a fixed channel that nothing else uses


@pytest.fixture
async def air():
    made = Air(supervision_s=SUPERVISION_S)
    yield made
    made.close()


async def advertising(air, name="car", address=CAR, **options):
    car = air.device(name, address=address)
    await car.power_on()
    await car.start_advertising(
        advertising_data=NAME_AD,
        auto_restart=True,
        advertising_interval_min=20,
        advertising_interval_max=20,
        **options,
    )
    return car


async def powered(air, name="phone", address=PHONE):
    device = air.device(name, address=address)
    await device.power_on()
    return device


async def first_advert(device, wanted=lambda advertisement: True):
    found = asyncio.get_running_loop().create_future()

    def look(advertisement):
        if not found.done() and wanted(advertisement):
            found.set_result(advertisement)

    device.on("advertisement", look)
    await device.start_scanning()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await found
    finally:
        device.remove_listener("advertisement", look)
        await device.stop_scanning()


def event(emitter, name):
    """Return a future that has the event's first argument once it is emitted."""
    future = asyncio.get_running_loop().create_future()
    emitter.once(name, lambda *args: future.set_result(args[0] if args else None))
    return future


async def linked(air):
    """Return both devices and both ends of a link between them."""
    car, phone = await advertising(air), await powered(air)
    arrived = event(car, "connection")
    async with asyncio.timeout(TIMEOUT_S):
        near = await phone.connect_le(hci.Address(CAR))
        return car, phone, await arrived, near


@pytest.mark.parametrize("rssi_dbm", [-33, -88])
async def test_the_scanner_sees_the_strength_set_for_the_pair(air, rssi_dbm):
    air.set_rssi("car", "phone", rssi_dbm)
    await advertising(air)
    assert (await first_advert(await powered(air))).rssi == rssi_dbm


async def test_a_change_of_strength_shows_in_the_next_adverts(air):
    await advertising(air)
    phone = await powered(air)
    await first_advert(phone)
    air.set_rssi("car", "phone", -91)
    assert (await first_advert(phone, lambda seen: seen.rssi != -50)).rssi == -91


async def test_a_model_gives_each_receiver_its_own_strength():
    air = Air(model=lambda receiver, sender: {"near": -40, "far": -80}[receiver])
    await advertising(air)
    near, far = await powered(air, "near"), await powered(air, "far", "C0:00:00:00:00:01")
    assert [(await first_advert(each)).rssi for each in (near, far)] == [-40, -80]
    air.close()


async def test_the_strength_of_a_link_can_be_read(air):
    _, _, _, near = await linked(air)
    air.set_rssi("car", "phone", -66)
    assert await near.get_rssi() == -66


async def test_out_of_range_nothing_is_heard(air):
    await advertising(air)
    await advertising(air, "other", "F0:F1:F2:F3:F4:00")
    phone = await powered(air)
    air.set_rssi("car", "phone", None)
    heard = []
    phone.on("advertisement", lambda seen: heard.append(str(seen.address)))
    # The other car's third advert marks that the first car had its chance.
    await first_advert(phone, lambda seen: heard.count("F0:F1:F2:F3:F4:00") == 3)
    assert CAR not in heard


async def test_a_link_dies_by_supervision_timeout_on_leaving_range(air):
    _, _, far, near = await linked(air)
    ends = [event(each, "disconnection") for each in (far, near)]
    air.set_rssi("car", "phone", None)
    async with asyncio.timeout(TIMEOUT_S):
        reasons = await asyncio.gather(*ends)
    assert reasons == [hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR] * 2


async def test_a_link_survives_a_short_absence_and_loses_nothing():
    air = Air(supervision_s=TIMEOUT_S)
    car, _, _, near = await linked(air)
    lost, arrived = event(near, "disconnection"), asyncio.Queue()
    car.l2cap_channel_manager.register_fixed_channel(CID, lambda _, pdu: arrived.put_nowait(pdu))
    air.set_rssi("car", "phone", None)
    for number in range(3):
        near.send_l2cap_pdu(CID, bytes([number]))
    air.set_rssi("car", "phone", -70)
    near.send_l2cap_pdu(CID, b"\x03")
    async with asyncio.timeout(TIMEOUT_S):
        assert [await arrived.get() for _ in range(4)] == [b"\0", b"\1", b"\2", b"\3"]
    assert not lost.done()
    air.close()


async def test_a_move_that_nobody_announced_keeps_the_order_of_packets():
    strength = {"dbm": -50}
    air = Air(model=lambda *_: strength["dbm"], supervision_s=TIMEOUT_S)
    car, _, _, near = await linked(air)
    arrived = asyncio.Queue()
    car.l2cap_channel_manager.register_fixed_channel(CID, lambda _, pdu: arrived.put_nowait(pdu))
    for strength["dbm"], pdu in ((None, b"1"), (None, b"2"), (-50, b"3")):
        near.send_l2cap_pdu(CID, pdu)
    async with asyncio.timeout(TIMEOUT_S):
        assert [await arrived.get() for _ in range(3)] == [b"1", b"2", b"3"]
    air.close()


async def test_what_is_sent_out_of_range_dies_with_the_link(air):
    car, _, far, near = await linked(air)
    lost, arrived = event(far, "disconnection"), []
    car.l2cap_channel_manager.register_fixed_channel(CID, lambda _, pdu: arrived.append(pdu))
    air.set_rssi("car", "phone", None)
    near.send_l2cap_pdu(CID, b"too far")
    async with asyncio.timeout(TIMEOUT_S):
        await lost
    assert arrived == []


async def test_a_participant_that_leaves_is_a_lost_link_for_its_peer(air):
    _, _, _, near = await linked(air)
    lost = event(near, "disconnection")
    air.leave("car")
    async with asyncio.timeout(TIMEOUT_S):
        assert await lost == hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR
    assert air.participants == ["phone"]


async def test_of_two_centrals_that_hear_the_same_advert_one_waits_for_the_next(air):
    car = await advertising(air)
    one, two = await powered(air, "one", PHONE), await powered(air, "two", "C0:00:00:00:00:02")
    arrivals = []
    both = asyncio.Event()

    def arrived(connection):
        arrivals.append(str(connection.peer_address))
        if len(arrivals) == 2:
            both.set()
        else:
            again.append(asyncio.ensure_future(car.start_advertising(auto_restart=True)))

    again = []
    car.on("connection", arrived)
    async with asyncio.timeout(TIMEOUT_S):
        links = await asyncio.gather(*(each.connect_le(hci.Address(CAR)) for each in (one, two)))
        await both.wait()
        await asyncio.gather(*again)
    assert sorted(arrivals) == sorted([PHONE, "C0:00:00:00:00:02"])
    assert [await each.get_rssi() for each in links] == [-50, -50]


async def test_a_name_is_on_the_air_once(air):
    air.device("car")
    with pytest.raises(ValueError, match="already"):
        air.device("car")


async def test_a_device_powered_on_again_has_left_its_links(air):
    car, _, _, near = await linked(air)
    lost = event(near, "disconnection")
    await car.power_on()
    async with asyncio.timeout(TIMEOUT_S):
        assert await lost == hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR


async def test_every_participant_has_a_btsnoop_log(tmp_path):
    air = Air(btsnoop_dir=tmp_path)
    await linked(air)
    air.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["car.btsnoop", "phone.btsnoop"]
    for each in tmp_path.iterdir():
        log = each.read_bytes()
        assert log.startswith(b"btsnoop\0" + struct.pack(">LL", 1, 1002))
        at, directions = 16, set()
        while at < len(log):
            size, included, flags, _, _ = struct.unpack_from(">IIIIQ", log, at)
            assert size == included
            directions.add(flags & 1)
            at += 24 + size
        assert at == len(log)
        assert directions == {0, 1}


async def test_a_host_whose_controller_left_gets_no_answer_and_does_no_harm(tmp_path):
    air = Air(btsnoop_dir=tmp_path)
    car = await advertising(air)
    air.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await car.stop_advertising()


async def test_a_process_joins_over_tcp_and_is_heard(air):
    server = await serve_tcp(air)
    car = await open_sim(f"ble-sim:{server.where}", own_address=CAR)
    assert air.participants == ["hci1"]
    await car.start_advertising(
        advertising_data=NAME_AD, advertising_interval_min=20, advertising_interval_max=20
    )
    assert str((await first_advert(await powered(air))).address) == CAR
    await car.aclose()
    assert car.lost
    await server.aclose()


async def test_a_unix_socket_is_for_its_user_only_and_goes_with_the_server(air, tmp_path):
    path = tmp_path / "air"
    server = await serve_unix(air, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    device = await open_sim(f"ble-sim:{path}")
    await device.aclose()
    await server.aclose()
    assert not path.exists()


async def test_a_stale_socket_is_replaced(air, tmp_path):
    path = tmp_path / "air"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = await serve_unix(air, path)
    await (await open_sim(str(path))).aclose()
    await server.aclose()


async def test_a_living_air_and_a_plain_file_are_left_alone(air, tmp_path):
    path, file = tmp_path / "air", tmp_path / "file"
    file.write_text("precious")
    server = await serve_unix(air, path)
    for taken in (path, file):
        with pytest.raises(LinkError) as caught:
            await serve_unix(air, taken)
        assert caught.value.reason is LinkReason.BUSY
    assert file.read_text() == "precious"
    await (await open_sim(str(path))).aclose()
    await server.aclose()


async def test_a_process_that_speaks_something_else_is_thrown_out(air):
    server = await serve_tcp(air)
    host, port = server.where.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(TIMEOUT_S):
        with contextlib.suppress(ConnectionResetError):  # as good as a clean end
            assert await reader.read() == b""
    writer.close()
    await server.aclose()
    assert air.participants == []


@pytest.mark.skipif(Path("/dev/vhci").exists(), reason="this kernel takes virtual adapters")
async def test_a_kernel_without_virtual_adapters_is_an_absent_link(air):
    with pytest.raises(LinkError) as caught:
        await attach_kernel(air)
    assert caught.value.reason is LinkReason.ABSENT
    assert air.participants == []


async def test_no_air_is_an_absent_link(tmp_path):
    with pytest.raises(LinkError) as caught:
        await open_sim(f"ble-sim:{tmp_path}/nothing")
    assert caught.value.reason is LinkReason.ABSENT
    assert caught.value.transient


@pytest.mark.parametrize("address", ["ble-sim:", "ble-sim:9000", "ble-sim:host:port", "car"])
async def test_an_address_that_names_no_air_is_unsupported(address):
    with pytest.raises(LinkError) as caught:
        await open_sim(address)
    assert caught.value.reason is LinkReason.UNSUPPORTED


async def test_the_server_may_end_first_and_the_device_knows(air):
    server = await serve_tcp(air)
    device = await open_sim(server.where)
    flushed = event(device, "flush")
    await server.aclose()
    async with asyncio.timeout(TIMEOUT_S):
        await flushed
    assert device.lost
    await device.aclose()


@contextlib.asynccontextmanager
async def program(*arguments):
    """Run ``python -m firmware_mock.air``; give the process and what it listens on."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "firmware_mock.air", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            line = (await process.stdout.readline()).decode()
        yield process, line.removeprefix("listening ").strip()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.communicate()


async def test_the_program_says_where_it_listens_and_ends_on_sigterm(tmp_path):
    async with program("--tcp", "127.0.0.1:0", "--btsnoop", str(tmp_path)) as (process, where):
        assert where.startswith("ble-sim:127.0.0.1:")
        await (await open_sim(where)).aclose()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.wait() == 0
    assert [each.name for each in tmp_path.iterdir()] == ["hci1.btsnoop"]


@pytest.mark.parametrize("bind", ["0.0.0.0:9000", "localhost:9000", "127.0.0.1:99999", "9000"])
async def test_the_program_listens_on_loopback_only(bind):
    async with program("--tcp", bind) as (process, where):
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.wait() == 2
        assert where == ""
