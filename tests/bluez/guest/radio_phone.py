"""The phone side of ``ble:`` links: messages over the kernel's channel and over GATT.

Prints JSON events; ends with 1 if a message does not come back as it was.
"""

from __future__ import annotations

import asyncio
import sys
import time

from events import ms_since, tell

from dkey.errors import LinkError
from dkey.link.ble import BleLink, Central
from dkey.link.opener import open_central

_SIZES = (1, 64, 256, 1024, 2048)
_ROUNDS = 10


async def link_to(central: Central) -> BleLink:
    """Find a vehicle and connect."""
    sighting = await central.find(lambda _sighting: True, timeout_s=20)
    if sighting is None:
        sys.exit("the vehicle is not heard")
    started = time.perf_counter()
    link = await central.connect(sighting, timeout_s=20)
    tell("linked", bearer=link.bearer, mtu=link.mtu, address=sighting.address, ms=ms_since(started))
    return link


async def echo(link: BleLink) -> None:
    """Exchange messages of all sizes."""
    rates = {}
    for size in _SIZES:
        started = time.perf_counter()
        for turn in range(_ROUNDS):
            data = bytes((turn + at) & 0xFF for at in range(size))
            await link.send(data)
            if await link.recv() != data:
                sys.exit(f"a message of {size} B came back changed")
        rates[f"{size} B"] = round(_ROUNDS / (time.perf_counter() - started), 1)
    tell("echoed", bearer=link.bearer, **rates)


async def main() -> None:
    """GATT, then what the platform offers, then a lost link and another one."""
    gatt = Central(bearers=("gatt",))
    link = await link_to(gatt)
    await echo(link)
    await link.aclose()
    await gatt.aclose()
    central = open_central("ble:")
    link = await link_to(central)
    await echo(link)
    tell("idle")
    try:
        await link.recv()
    except LinkError as exc:
        tell("lost", reason=exc.reason.name)
    await link.aclose()
    link = await link_to(central)
    await echo(link)
    await central.aclose()
    tell("done")


if __name__ == "__main__":
    asyncio.run(main())
