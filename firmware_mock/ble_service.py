"""The GATT service of the vehicle's radio, for both profiles (Aliro 1.0 §11.5, specs/ble.md §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.pairing import PairingDelegate

from dkey.codec.ble_advert import (
    ALIRO_CHOICE_UUID,
    ALIRO_INFO_UUID,
    ALIRO_SERVICE_UUID,
    VEHICLE_CHOICE_UUID,
    VEHICLE_INFO_UUID,
    VEHICLE_RX_UUID,
    VEHICLE_SERVICE_UUID,
    VEHICLE_TX_UUID,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bumble.device import Connection

    from dkey.codec.ble_advert import ReaderInfo

    Written = Callable[[Connection, bytes], None]
    Subscribed = Callable[[Connection, bool], None]

__all__ = ["NoBonds", "aliro_service", "vehicle_service"]

_Properties = Characteristic.Properties


class NoBonds(PairingDelegate):
    """Refuses Bluetooth's own pairing."""

    async def accept(self) -> bool:
        """Refuse."""
        return False


def aliro_service(info: ReaderInfo, *, choice: Written) -> Service:
    """Return the published service: a value to read, and one to write."""
    return Service(ALIRO_SERVICE_UUID, _values(ALIRO_INFO_UUID, ALIRO_CHOICE_UUID, info, choice))


def vehicle_service(
    info: ReaderInfo, *, choice: Written, chunk: Written, subscribed: Subscribed
) -> tuple[Service, Characteristic[bytes]]:
    """Return our service, which adds the GATT bearer, and its TX characteristic."""
    rx: Characteristic[bytes] = Characteristic(
        VEHICLE_RX_UUID,
        _Properties.WRITE_WITHOUT_RESPONSE,
        Characteristic.WRITEABLE,
        CharacteristicValue(write=chunk),
    )
    tx = Characteristic(VEHICLE_TX_UUID, _Properties.NOTIFY, Characteristic.READABLE, b"")

    def on_subscription(connection: Connection, notify: bool, _indicate: bool) -> None:
        subscribed(connection, notify)

    tx.on(tx.EVENT_SUBSCRIPTION, on_subscription)
    values = _values(VEHICLE_INFO_UUID, VEHICLE_CHOICE_UUID, info, choice)
    return Service(VEHICLE_SERVICE_UUID, [*values, rx, tx]), tx


def _values(
    info_uuid: str, choice_uuid: str, info: ReaderInfo, choice: Written
) -> list[Characteristic[Any]]:
    return [
        Characteristic(info_uuid, _Properties.READ, Characteristic.READABLE, info.to_bytes()),
        Characteristic(
            choice_uuid,
            _Properties.WRITE,
            Characteristic.WRITEABLE,
            CharacteristicValue(write=choice),
        ),
    ]
