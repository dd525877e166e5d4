"""A peripheral on the virtual air that echoes: GATT writes as notifications, channel SDUs as SDUs.

python echo_vehicle.py AIR_SOCKET OWN_ADDRESS
"""

from __future__ import annotations

import asyncio
import sys

from bumble.core import UUID, AdvertisingData
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.l2cap import LeCreditBasedChannel, LeCreditBasedChannelSpec
from events import tell

from dkey.link.ble_bumble import open_sim

SERVICE = "5e7a0001-6465-6b65-792d-626c75657a21"
RX = "5e7a0002-6465-6b65-792d-626c75657a21"
TX = "5e7a0003-6465-6b65-792d-626c75657a21"
SPSM = "5e7a0004-6465-6b65-792d-626c75657a21"
CHANNEL = 0x80


async def main(air: str, own_address: str) -> None:
    """Advertise and echo until killed."""
    vehicle = await open_sim(f"ble-sim:{air}", own_address=own_address)
    properties = Characteristic.Properties
    tx = Characteristic(TX, properties.NOTIFY, Characteristic.Permissions(0), b"")

    async def echo(connection, value):
        await vehicle.notify_subscriber(connection, tx, value)

    rx = Characteristic(
        RX,
        properties.WRITE | properties.WRITE_WITHOUT_RESPONSE,
        Characteristic.WRITEABLE,
        CharacteristicValue(write=echo),
    )
    spsm = Characteristic(
        SPSM, properties.READ, Characteristic.READABLE, CHANNEL.to_bytes(2, "little")
    )
    vehicle.add_service(Service(SERVICE, [rx, tx, spsm]))

    def accept(channel: LeCreditBasedChannel) -> None:
        channel.sink = channel.write

    vehicle.create_l2cap_server(
        LeCreditBasedChannelSpec(psm=CHANNEL, mtu=2048, mps=247, max_credits=64), accept
    )
    advert = AdvertisingData(
        [
            (AdvertisingData.FLAGS, b"\x06"),
            (
                AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
                bytes(UUID(SERVICE)),
            ),
        ]
    )
    await vehicle.start_advertising(
        advertising_data=bytes(advert),
        advertising_interval_min=32,
        advertising_interval_max=32,
        auto_restart=True,
    )
    tell("ready")
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
