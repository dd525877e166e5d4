"""A message link over one BLE connection, whatever its bearer."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from bleak.exc import BleakError

from dkey.codec.ble_advert import (
    ALIRO_CHOICE_UUID,
    ALIRO_INFO_UUID,
    ALIRO_SERVICE_UUID,
    VEHICLE_CHOICE_UUID,
    VEHICLE_INFO_UUID,
    VEHICLE_RX_UUID,
    VEHICLE_SERVICE_UUID,
    VEHICLE_TX_UUID,
    DeviceChoice,
    ReaderInfo,
)
from dkey.link.message_link import MESSAGE_MAX, MessageLink

if TYPE_CHECKING:
    from bleak import BleakClient

    from dkey.link.base import FrameTap
    from dkey.link.message_link import MessageTap

__all__ = ["ALIRO", "SERVICES", "VEHICLE", "BleLink", "Connected", "ServiceIds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceIds:
    """UUIDs of a profile's GATT service; ``rx`` and ``tx`` are None if only a channel will do."""

    service: str
    info: str
    choice: str
    rx: str | None = None
    tx: str | None = None


VEHICLE: Final = ServiceIds(
    service=VEHICLE_SERVICE_UUID,
    info=VEHICLE_INFO_UUID,
    choice=VEHICLE_CHOICE_UUID,
    rx=VEHICLE_RX_UUID,
    tx=VEHICLE_TX_UUID,
)
ALIRO: Final = ServiceIds(
    service=ALIRO_SERVICE_UUID, info=ALIRO_INFO_UUID, choice=ALIRO_CHOICE_UUID
)
SERVICES: Final = (VEHICLE, ALIRO)


class Connected:
    """One connection before and while it carries a link.

    Attributes:
        client: The connected client, once there is one.
        info: What the reader offers.
        choice: What this device selected.
        tap: Told of each message.
        idle_s: Deadline of one ``recv``, seconds.
        link: The link that it carries.
    """

    client: BleakClient
    info: ReaderInfo
    choice: DeviceChoice

    def __init__(self, *, tap: FrameTap | MessageTap | None, idle_s: float) -> None:
        self.tap = tap
        self.idle_s = idle_s
        self.link: BleLink | None = None

    def on_disconnected(self, _client: BleakClient) -> None:
        """Tell the link, if there is one yet."""
        if self.link is not None:
            self.link.connection_lost()


class BleLink(MessageLink):
    """The phone's end of one BLE connection; closing it disconnects.

    Attributes:
        bearer: ``coc`` or ``gatt``.
        info: What the reader offers; its versions go into the key schedule.
        choice: What this device selected.
        address: Address of the reader as the platform names it.
    """

    bearer: ClassVar[str]

    def __init__(self, connected: Connected, *, mtu: int = MESSAGE_MAX) -> None:
        super().__init__(is_reader=False, mtu=mtu, tap=connected.tap, idle_s=connected.idle_s)
        self.info = connected.info
        self.choice = connected.choice
        self.address = connected.client.address
        self._client = connected.client
        connected.link = self

    def connection_lost(self) -> None:
        """End the link: the platform says that the connection is over."""
        self._lost("the connection to the vehicle is lost")

    async def _release(self) -> None:
        # EOFError: bleak's D-Bus connection ended. AssertionError: bleak's own race in disconnect.
        with contextlib.suppress(BleakError, OSError, EOFError, AssertionError):
            await self._client.disconnect()
