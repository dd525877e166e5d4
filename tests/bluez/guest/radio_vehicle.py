"""The mock vehicle's radio alone: every message of a phone goes back to it. Prints JSON events.

python radio_vehicle.py AIR_SOCKET
"""

from __future__ import annotations

import asyncio
import sys

from events import tell

from dkey.access.profile import VEHICLE
from dkey.crypto.secret import Secret
from dkey.errors import LinkError
from firmware_mock.ble_radio import PeerLink, VehicleRadio


async def echo(link: PeerLink) -> None:
    """Send back what comes, until the phone is gone."""
    tell("peer", bearer=link.bearer)
    try:
        while True:
            await link.send(await link.recv())
    except LinkError as exc:
        tell("gone", reason=exc.reason.name)


async def main(air: str) -> None:
    """Serve until killed."""
    radio = VehicleRadio(
        f"ble-sim:{air}", profile=VEHICLE, resolving_key=Secret(bytes(16)), on_peer=echo
    )
    async with radio:
        tell("ready")
        await radio.wait_lost()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
