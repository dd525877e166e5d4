"""A central: unmodified bleak on bluetoothd, and the kernel's LE channel. Prints JSON events."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from bleak import BleakClient, BleakScanner
from echo_vehicle import RX, SERVICE, SPSM, TX
from events import ms_since, tell
from le_channel import open_channel

if TYPE_CHECKING:
    from bleak.backends.device import BLEDevice

_SIZES = (1, 20, 240, 500)
_SDUS = (1, 240, 1024, 2048)
_ROUNDS = 20


async def find() -> BLEDevice:
    """Scan for the vehicle's service."""
    started = time.perf_counter()
    found = await BleakScanner.find_device_by_filter(
        lambda _device, advert: SERVICE in advert.service_uuids, timeout=20
    )
    if found is None:
        sys.exit("the vehicle is not heard")
    tell("found", address=found.address, ms=ms_since(started))
    return found


async def echo_notifications(client: BleakClient) -> dict[str, float]:
    """Write with and without response; every write must come back; return round trips a second."""
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    await client.start_notify(TX, lambda _sender, data: answers.put_nowait(bytes(data)))
    rates = {}
    for response in (True, False):
        for size in _SIZES:
            started = time.perf_counter()
            for turn in range(_ROUNDS):
                data = bytes((turn + at) & 0xFF for at in range(size))
                await client.write_gatt_char(RX, data, response=response)
                async with asyncio.timeout(5):
                    answer = await answers.get()
                if answer != data:
                    sys.exit(f"{size} B came back as {len(answer)} B, or changed")
            kind = "request" if response else "command"
            rates[f"{kind} {size} B"] = round(_ROUNDS / (time.perf_counter() - started), 1)
    return rates


def echo_channel(address: str, spsm: int) -> dict[str, float]:
    """Send SDUs over the kernel's channel; every one must come back whole."""
    started = time.perf_counter()
    rates = {}
    with open_channel(address, spsm) as channel:
        rates["open ms"] = ms_since(started)
        for size in _SDUS:
            started = time.perf_counter()
            for turn in range(_ROUNDS):
                data = bytes((turn + at) & 0xFF for at in range(size))
                channel.send(data)
                if channel.recv(4096) != data:
                    sys.exit(f"an SDU of {size} B came back changed")
            rates[f"SDU {size} B"] = round(_ROUNDS / (time.perf_counter() - started), 1)
    return rates


async def main() -> None:
    """Link, echo, wait for the loss, link and echo again."""
    lost = asyncio.Event()
    vehicle = await find()
    started = time.perf_counter()
    async with BleakClient(vehicle, disconnected_callback=lambda _client: lost.set()) as client:
        writable = client.services.get_characteristic(RX).max_write_without_response_size
        tell("connected", ms=ms_since(started), backend=str(client.backend_id), write_size=writable)
        spsm = int.from_bytes(await client.read_gatt_char(SPSM), "little")
        tell("gatt", **await echo_notifications(client))
        tell("channel", **await asyncio.to_thread(echo_channel, vehicle.address, spsm))
        tell("idle")
        async with asyncio.timeout(30):
            await lost.wait()
        tell("lost", connected=client.is_connected)
    vehicle = await find()
    started = time.perf_counter()
    async with BleakClient(vehicle) as client:
        tell("connected", ms=ms_since(started))
        await echo_notifications(client)
        await asyncio.to_thread(echo_channel, vehicle.address, spsm)
    tell("done")


if __name__ == "__main__":
    asyncio.run(main())
