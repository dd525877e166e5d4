"""bleak's scanner on a Bumble host."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bumble import core
from bumble.core import UUID, AdvertisingData

from dkey.link.ble_bumble_radio import (
    check_radio,
    error_text,
    not_available,
    radio_lost,
    shared_of,
    uuid_text,
)

if TYPE_CHECKING:
    from bumble.device import Advertisement, Device

__all__ = ["BumbleScanner"]


class BumbleScanner(BaseBleakScanner):
    """bleak's scanner; see :func:`backends`. ``BLEDevice.details`` is Bumble's address."""

    device: Device

    def __init__(
        self,
        detection_callback: Any = None,
        service_uuids: list[str] | None = None,
        scanning_mode: str = "active",
        **_kwargs: Any,
    ) -> None:
        super().__init__(detection_callback, service_uuids)
        self._active = scanning_mode == "active"

    async def start(self) -> None:
        """Start scanning.

        Raises:
            BleakBluetoothNotAvailableError: the radio is gone or refuses.
        """
        check_radio(self.device)
        shared = shared_of(self.device)
        self.seen_devices.clear()
        async with shared.toggling:
            if not shared.scanners:
                try:
                    await self.device.start_scanning(active=self._active)
                except (core.BaseBumbleError, TimeoutError) as exc:
                    raise not_available(f"the radio does not scan: {error_text(exc)}") from exc
            shared.scanners.add(self)
            self.device.on(self.device.EVENT_ADVERTISEMENT, self._hear)

    async def stop(self) -> None:
        """Stop scanning; the radio goes on for other scanners."""
        shared = shared_of(self.device)
        async with shared.toggling:
            if self not in shared.scanners:
                return
            shared.scanners.remove(self)
            self.device.remove_listener(self.device.EVENT_ADVERTISEMENT, self._hear)
            if not shared.scanners and not radio_lost(self.device):
                with contextlib.suppress(core.BaseBumbleError, TimeoutError):
                    await self.device.stop_scanning()

    def _hear(self, advertisement: Advertisement) -> None:
        data = _advertisement_data(advertisement)
        if self.is_allowed_uuid(data.service_uuids):
            address = advertisement.address.to_string(with_type_qualifier=False)
            found = self.create_or_update_device(
                address, address, data.local_name, advertisement.address, data
            )
            self.call_detection_callbacks(found, data)


def _advertisement_data(advertisement: Advertisement) -> AdvertisementData:
    name: str | None = None
    tx_power: int | None = None
    manufacturer: dict[int, bytes] = {}
    service_data: dict[str, bytes] = {}
    uuids: list[str] = []
    # Not data_bytes: that is empty in a report that holds a scan response only.
    for kind, value in advertisement.data.ad_structures:
        if kind in (AdvertisingData.COMPLETE_LOCAL_NAME, AdvertisingData.SHORTENED_LOCAL_NAME):
            name = value.decode("utf-8", "replace")
        elif kind == AdvertisingData.TX_POWER_LEVEL and value:
            tx_power = int.from_bytes(value[:1], "little", signed=True)
        elif kind == AdvertisingData.MANUFACTURER_SPECIFIC_DATA and len(value) >= 2:
            manufacturer[int.from_bytes(value[:2], "little")] = bytes(value[2:])
        elif (size := _SERVICE_DATA.get(kind, 0)) and len(value) >= size:
            service_data[uuid_text(UUID.from_bytes(value[:size]))] = bytes(value[size:])
        elif size := _SERVICE_UUIDS.get(kind, 0):
            starts = range(0, len(value) - size + 1, size)
            uuids.extend(uuid_text(UUID.from_bytes(value[at : at + size])) for at in starts)
    unique = list(dict.fromkeys(uuids))
    return AdvertisementData(
        name, manufacturer, service_data, unique, tx_power, advertisement.rssi, (advertisement,)
    )


_SERVICE_DATA: dict[int, int] = {
    AdvertisingData.SERVICE_DATA_16_BIT_UUID: 2,
    AdvertisingData.SERVICE_DATA_32_BIT_UUID: 4,
    AdvertisingData.SERVICE_DATA_128_BIT_UUID: 16,
}
_SERVICE_UUIDS: dict[int, int] = {
    AdvertisingData.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS: 2,
    AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS: 2,
    AdvertisingData.INCOMPLETE_LIST_OF_32_BIT_SERVICE_CLASS_UUIDS: 4,
    AdvertisingData.COMPLETE_LIST_OF_32_BIT_SERVICE_CLASS_UUIDS: 4,
    AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS: 16,
    AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS: 16,
}
