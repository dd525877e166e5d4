"""bleak's client on a Bumble host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from bleak.assigned_numbers import gatt_char_props_to_strs
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
from bumble import att, core, hci
from bumble.core import UUID
from bumble.device import Peer

from dkey.link.ble_bumble_radio import (
    check_radio,
    error_text,
    not_available,
    shared_of,
    uuid_text,
)
from dkey.link.ble_bumble_scanner import BumbleScanner

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from bleak.args import SizedBuffer
    from bleak.backends.client import NotifyCallback
    from bleak.backends.scanner import AdvertisementData
    from bumble.device import Connection, Device
    from bumble.gatt_client import CharacteristicProxy

__all__ = ["BumbleClient"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ATT_MTU = 517  # what BlueZ asks for: a 512-byte value and its header
_ATT_MTU_MIN = 23
_ATT_HEADER = 3
_UNSENT_MAX = 64  # packets waiting in the host before a write command waits, too
_CANCEL_S = 2.0
_CLOSE_S = 2.0


class BumbleClient(BaseBleakClient):
    """bleak's client; see :func:`backends`."""

    device: Device

    def __init__(
        self,
        address_or_ble_device: BLEDevice | str,
        services: set[str] | None = None,
        *,
        disconnected_callback: Callable[[], None] | None = None,
        timeout: float = 30,
        **_kwargs: Any,
    ) -> None:
        super().__init__(
            address_or_ble_device, disconnected_callback=disconnected_callback, timeout=timeout
        )
        self._target = address_or_ble_device
        self._wanted = services
        self._connection: Connection | None = None
        self._peer: Peer | None = None
        self._gone: asyncio.Future[None] | None = None
        self._announced = False
        self._subscriptions: dict[int, Callable[[bytes], None]] = {}
        self._exchanges: set[asyncio.Task[Any]] = set()

    @property
    def name(self) -> str:
        """Name from advertising, or the address with dashes."""
        known = self._target.name if isinstance(self._target, BLEDevice) else None
        return known or self.address.replace(":", "-")

    @property
    def mtu_size(self) -> int:
        """ATT MTU of the connection; 23 without one."""
        return self._connection.att_mtu if self._connection else _ATT_MTU_MIN

    @property
    def is_connected(self) -> bool:
        """Whether the link is up."""
        return self._connection is not None

    @property
    def connection(self) -> Connection | None:
        """Bumble's connection, for what bleak has not: channels, RSSI, security."""
        return self._connection

    async def connect(self, pair: bool, **_kwargs: Any) -> None:
        """Connect, agree on an MTU and discover, all within the client's timeout.

        A timeout or a cancellation ends the controller's attempt as well, so that the next
        connect finds it idle.

        Raises:
            TimeoutError: the peer did not come, or did not answer.
            BleakDeviceNotFoundError: the address was given as text and nobody advertises it.
            BleakError: any other failure.
        """
        if self._connection is not None:
            raise BleakError("already connected")
        check_radio(self.device)
        try:
            async with asyncio.timeout(self._timeout):
                self._adopt(await _dial(self.device, await self._find()))
                if pair:
                    await self.pair()
                await self._discover()
        except BaseException as exc:
            with contextlib.suppress(BleakError):
                await self.disconnect()
            if isinstance(exc, core.BaseBumbleError):
                raise BleakError(error_text(exc)) from exc
            raise
        self._announced = True

    async def disconnect(self) -> None:
        """Disconnect; does nothing without a connection."""
        connection, gone = self._connection, self._gone
        if connection is None or gone is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                with contextlib.suppress(core.BaseBumbleError):  # it went by itself meanwhile
                    await connection.disconnect()
                await asyncio.shield(gone)
        except TimeoutError:
            _log.warning("the controller did not confirm the end of a connection")
            self._on_disconnection(0)

    async def pair(self, *_args: Any, **_kwargs: Any) -> None:
        """Pair; keys go to the host's key store."""
        await self._exchange(self._linked().pair)

    async def unpair(self) -> None:
        """Forget the keys of this peer and disconnect."""
        connection = self._linked()
        if self.device.keystore is not None:
            with contextlib.suppress(KeyError):
                await self.device.keystore.delete(str(connection.peer_address))
        await self.disconnect()

    async def read_gatt_char(
        self, characteristic: BleakGATTCharacteristic, *, use_cached: bool = False, **_kwargs: Any
    ) -> bytearray:
        """Read a value, longer than the MTU if need be."""
        return await self._read(characteristic.obj, use_cached=use_cached)

    async def read_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, *, use_cached: bool = False, **_kwargs: Any
    ) -> bytearray:
        """Read a descriptor."""
        return await self._read(descriptor.obj, use_cached=use_cached)

    async def write_gatt_char(
        self,
        characteristic: BleakGATTCharacteristic,
        data: SizedBuffer,
        response: bool,
    ) -> None:
        """Write with response, or without; the latter waits while many packets are unsent.

        Raises:
            BleakError: without response and longer than the MTU less 3.
        """
        value = bytes(data)
        if response:
            await self._exchange(
                lambda: self._server().write_value(characteristic.obj, value, True)
            )
            return
        server = self._server()
        if len(value) > self.mtu_size - _ATT_HEADER:
            raise BleakError(
                f"{len(value)} bytes do not fit: at most {self.mtu_size - _ATT_HEADER}"
            )
        await self._drain()
        await server.write_value(characteristic.obj, value, with_response=False)

    async def write_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, data: SizedBuffer
    ) -> None:
        """Write a descriptor, with response."""
        value = bytes(data)
        await self._exchange(lambda: self._server().write_value(descriptor.obj, value, True))

    async def start_notify(
        self, characteristic: BleakGATTCharacteristic, callback: NotifyCallback, **_kwargs: Any
    ) -> None:
        """Subscribe; notifications are preferred to indications.

        Raises:
            BleakError: the characteristic has neither, or is subscribed already.
        """
        if not {"notify", "indicate"} & set(characteristic.properties):
            raise BleakError(f"characteristic {characteristic.uuid} cannot notify or indicate")
        if characteristic.handle in self._subscriptions:
            raise BleakError(f"characteristic {characteristic.uuid} is subscribed already")

        def deliver(value: bytes) -> None:
            callback(bytearray(value))

        self._subscriptions[characteristic.handle] = deliver
        try:
            await self._exchange(lambda: self._server().subscribe(characteristic.obj, deliver))
        except BaseException:
            self._subscriptions.pop(characteristic.handle, None)
            raise

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        """Unsubscribe; does nothing without a subscription."""
        deliver = self._subscriptions.pop(characteristic.handle, None)
        if deliver is not None:
            await self._exchange(lambda: self._server().unsubscribe(characteristic.obj, deliver))

    # -- the link

    async def _find(self) -> hci.Address:
        """Return the peer's address with its type, which only advertising tells."""
        if isinstance(self._target, BLEDevice):
            address: hci.Address = self._target.details
            return address
        wanted = self._target.lower()
        found: asyncio.Future[hci.Address] = asyncio.get_running_loop().create_future()

        def look(seen: BLEDevice, _data: AdvertisementData) -> None:
            if seen.address.lower() == wanted and not found.done():
                found.set_result(seen.details)

        scanner = type("BumbleScanner", (BumbleScanner,), {"device": self.device})(look, None)
        await scanner.start()
        try:
            async with asyncio.timeout(self._timeout / 2):
                return await found
        except TimeoutError as exc:
            raise BleakDeviceNotFoundError(
                self._target, f"nobody in range advertises as {self._target}"
            ) from exc
        finally:
            await scanner.stop()

    def _adopt(self, connection: Connection) -> None:
        self._connection = connection
        self._gone = asyncio.get_running_loop().create_future()
        self._announced = False
        connection.on(connection.EVENT_DISCONNECTION, self._on_disconnection)
        if self.device.connections.get(connection.handle) is not connection:
            self._on_disconnection(0)  # it ended before anybody listened
            raise BleakError("disconnected")

    def _on_disconnection(self, _reason: int) -> None:
        if self._connection is None:
            return
        self._connection.remove_listener(
            self._connection.EVENT_DISCONNECTION, self._on_disconnection
        )
        self._connection = self._peer = self.services = None
        self._subscriptions.clear()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if self._announced and self._disconnected_callback is not None:
            self._disconnected_callback()

    async def _discover(self) -> None:
        self._peer = peer = Peer(self._linked())
        with contextlib.suppress(BleakGATTProtocolError):  # a server may keep the smallest MTU
            await self._exchange(lambda: peer.request_mtu(_ATT_MTU))
        wanted = [UUID(each) for each in self._wanted or ()]
        self.services = await self._exchange(lambda: self._collect(peer, wanted))

    async def _collect(self, peer: Peer, wanted: list[UUID]) -> BleakGATTServiceCollection:
        services = BleakGATTServiceCollection()
        for found in await peer.discover_services(wanted):
            service = BleakGATTService(found, found.handle, uuid_text(found.uuid))
            services.add_service(service)
            for each in await found.discover_characteristics():
                characteristic = self._characteristic(each, service)
                services.add_characteristic(characteristic)
                for item in await each.discover_descriptors():
                    services.add_descriptor(
                        BleakGATTDescriptor(item, item.handle, uuid_text(item.type), characteristic)
                    )
        return services

    def _characteristic(
        self, found: CharacteristicProxy[bytes], service: BleakGATTService
    ) -> BleakGATTCharacteristic:
        return BleakGATTCharacteristic(
            found,
            found.handle,
            uuid_text(found.uuid),
            sorted(gatt_char_props_to_strs(int(found.properties))),
            lambda: self.mtu_size - _ATT_HEADER,
            service,
        )

    # -- exchanges

    def _linked(self) -> Connection:
        if self._connection is None:
            raise BleakError("Not connected")
        return self._connection

    def _server(self) -> Peer:
        if self._peer is None:
            raise BleakError("Not connected")
        return self._peer

    async def _read(self, attribute: Any, *, use_cached: bool) -> bytearray:
        server = self._server()
        cached = server.gatt_client.cached_values.get(attribute.handle) if use_cached else None
        if cached is not None:
            return bytearray(cached[1])
        return bytearray(await self._exchange(lambda: server.read_value(attribute)))

    async def _exchange(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run one exchange to its end even if the caller is cancelled, and translate its errors.

        A cancelled ATT request would leave its response on the way, and Bumble would take that
        for the response to the next request.
        """
        self._linked()
        task = asyncio.ensure_future(start())
        self._exchanges.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            caller = asyncio.current_task()
            if task.cancelled() and not (caller and caller.cancelling()):
                # Bumble cancels what is pending when the link goes.
                raise BleakError("disconnected") from exc
            raise
        except att.ATT_Error as exc:
            raise BleakGATTProtocolError(exc.error_code) from exc
        except (core.BaseBumbleError, AssertionError) as exc:
            raise BleakError(error_text(exc)) from exc

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._exchanges.discard(task)
        if not task.cancelled():
            task.exception()  # reported to the caller, if there still is one

    async def _drain(self) -> None:
        connection = self._linked()
        queue = self.device.host.get_data_packet_queue(connection.handle)
        while queue is not None and queue.pending > _UNSENT_MAX:
            try:
                await queue.drain(connection.handle)
            except ValueError as exc:
                raise BleakError("disconnected") from exc


async def _dial(device: Device, address: hci.Address) -> Connection:
    """Return a link to ``address``; when cancelled, leave no attempt behind in the controller."""
    async with shared_of(device).dialling:
        attempt = asyncio.ensure_future(device.connect_le(address, timeout=None))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError as exc:
            if attempt.cancelled():
                raise not_available("the radio was lost") from exc
            await _hang_up(device, attempt)
            raise


async def _hang_up(device: Device, attempt: asyncio.Task[Connection]) -> None:
    try:
        async with asyncio.timeout(_CANCEL_S):
            # Refused if the link came up just now: then it is there to be closed.
            with contextlib.suppress(core.BaseBumbleError):
                await device.send_sync_command(hci.HCI_LE_Create_Connection_Cancel_Command())
            await asyncio.wait({attempt})
            if not attempt.cancelled() and attempt.exception() is None:
                await attempt.result().disconnect()
    except (TimeoutError, core.BaseBumbleError):
        _log.warning("the controller did not confirm a cancelled connect")
    finally:
        attempt.cancel()
