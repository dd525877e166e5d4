"""The phone side of BLE: find readers, connect to one, and carry whole messages.

Plain bleak; on a simulated radio bleak runs on Bumble. The bearer is chosen by capability: an LE
credit-based channel where the platform has one and the reader grants it, else GATT.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bleak import BleakClient, BleakScanner
from bleak.exc import BleakError

from dkey.codec.ble_advert import Advert, DeviceChoice, ReaderInfo, VehicleAdvert
from dkey.errors import LinkError, LinkReason, WireError
from dkey.link.ble_coc import open_coc
from dkey.link.ble_errors import translated
from dkey.link.ble_gatt import open_gatt
from dkey.link.ble_link import ALIRO, SERVICES, VEHICLE, BleLink, Connected, ServiceIds
from dkey.link.message_link import MessageTap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bleak.backends.client import BaseBleakClient
    from bleak.backends.device import BLEDevice
    from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
    from bumble.device import Device

    from dkey.link.base import FrameTap

__all__ = [
    "BleLink",
    "Central",
    "MessageTap",
    "Radio",
    "Sighting",
    "bumble_radio",
    "read_info",
    "sim_radio",
]

V1_0: Final = b"\x01\x00"
_START_S: Final = 10.0
_STOP_S: Final = 5.0
_READ_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One advertisement of a reader.

    Attributes:
        address: The address as the platform names it; on macOS not the real one.
        rssi_dbm: Signal strength.
        advert: What it said, of either profile.
        name: Local name, if it has one.
        device: bleak's ``BLEDevice``, for :meth:`Central.connect`.
    """

    address: str
    rssi_dbm: int
    advert: VehicleAdvert | Advert
    name: str | None
    device: BLEDevice = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    """What bleak runs on; the default is the operating system's adapter.

    Attributes:
        scanner: Type for ``BleakScanner(backend=...)``.
        client: Type for ``BleakClient(backend=...)``.
        lost: Whether it is gone for good, so that it has to be opened again.
        aclose: Lets it go.
    """

    scanner: type[BaseBleakScanner] | None = None
    client: type[BaseBleakClient] | None = None
    lost: Callable[[], bool] | None = None
    aclose: Callable[[], Awaitable[None]] | None = None


async def _system_radio() -> Radio:
    return Radio()


async def bumble_radio(device: Device) -> Radio:
    """Return a Bumble host as a radio; it stays the caller's to close."""
    from dkey.link.ble_bumble import backends  # noqa: PLC0415 - Bumble takes long to import

    scanner, client = backends(device)
    return Radio(scanner=scanner, client=client)


async def sim_radio(address: str) -> Radio:
    """Join the virtual air at ``HOST:PORT`` or a unix socket's path; LinkError as ``open_sim``."""
    from dkey.link.ble_bumble import backends, open_sim  # noqa: PLC0415

    device = await open_sim(address)
    scanner, client = backends(device)
    return Radio(scanner=scanner, client=client, lost=lambda: device.lost, aclose=device.aclose)


class Central:
    """Finds readers and connects to them; opens its radio with the first call.

    Several connections may be open at once. Every failure is a LinkError with a hint: ABSENT (no
    adapter, switched off, no D-Bus, no bluetoothd, no virtual air, told apart by text and hint),
    DENIED (no permission, or the vehicle refuses), UNSUPPORTED, BUSY, TIMEOUT (not in range), LOST,
    PROTOCOL.
    """

    def __init__(
        self,
        open_radio: Callable[[], Awaitable[Radio]] = _system_radio,
        *,
        address: str | None = None,
        tap: FrameTap | MessageTap | None = None,
        bearers: tuple[str, ...] = ("coc", "gatt"),
        idle_s: float = 60.0,
    ) -> None:
        """Make a central that has not touched its radio yet.

        Args:
            open_radio: Opens it; called again after it was lost.
            address: Find nobody else; None: anybody.
            tap: Told of each message if it has a method ``message``.
            bearers: Which of ``coc`` and ``gatt`` may be used; a channel is tried first.
            idle_s: Deadline of one ``recv`` on the links, seconds.
        """
        self._open_radio = open_radio
        self._address = address.lower() if address else None
        self._tap = tap
        self._bearers = bearers
        self._idle_s = idle_s
        self._radio: Radio | None = None
        self._opening = asyncio.Lock()
        self._links: set[BleLink] = set()
        self._closed = False

    async def find(
        self, wanted: Callable[[Sighting], bool], *, timeout_s: float
    ) -> Sighting | None:
        """Scan until ``wanted`` says yes, or return None when ``timeout_s`` is over.

        ``wanted`` is called for every advertisement of either profile, from the event loop; what
        it raises is raised here.
        """
        radio = await self._opened()
        found: asyncio.Future[Sighting] = asyncio.get_running_loop().create_future()

        def seen(device: BLEDevice, data: AdvertisementData) -> None:
            if found.done() or (sighting := self._sighting(device, data)) is None:
                return
            try:
                if wanted(sighting):
                    found.set_result(sighting)
            except Exception as exc:  # noqa: BLE001 - bleak would only log it
                found.set_exception(exc)

        with translated("scan"):
            scanner = BleakScanner(seen, backend=radio.scanner)
            async with asyncio.timeout(_START_S):
                await scanner.start()
        try:
            async with asyncio.timeout(timeout_s):
                return await found
        except TimeoutError:
            if radio.lost is not None and radio.lost():
                raise _air_lost() from None
            return None
        finally:
            with contextlib.suppress(BleakError, OSError, EOFError):
                async with asyncio.timeout(_STOP_S):
                    await scanner.stop()

    async def connect(self, sighting: Sighting, *, timeout_s: float = 10.0) -> BleLink:
        """Connect, tell the reader what this device selects, and open a bearer.

        The link's ``info`` and ``choice`` go into the session. A failed or cancelled connect
        leaves no connection behind.
        """
        radio = await self._opened()
        ids = VEHICLE if isinstance(sighting.advert, VehicleAdvert) else ALIRO
        connected = Connected(tap=self._tap, idle_s=self._idle_s)
        client = BleakClient(
            sighting.device,
            connected.on_disconnected,
            [ids.service],
            timeout=timeout_s,
            backend=radio.client,
        )
        connected.client = client
        try:
            with translated("connect"):
                async with asyncio.timeout(timeout_s):
                    await client.connect()
                    connected.info = await read_info(client)
                    connected.choice = _choice(connected.info)
                    await client.write_gatt_char(
                        ids.choice, connected.choice.to_bytes(), response=True
                    )
                    link = await self._bearer(connected, sighting.device, ids)
                    if not client.is_connected:
                        raise BleakError("the vehicle ended the connection")
        except BaseException:
            if connected.link is not None:
                await connected.link.aclose()
            else:
                await _hang_up(client)
            raise
        self._links = {each for each in self._links if not each.over}
        self._links.add(link)
        return link

    async def aclose(self) -> None:
        """Close every link and let the radio go. May be called twice."""
        self._closed = True
        links, self._links = self._links, set()
        await asyncio.gather(*(link.aclose() for link in links))
        radio, self._radio = self._radio, None
        if radio is not None and radio.aclose is not None:
            await radio.aclose()

    async def _opened(self) -> Radio:
        async with self._opening:
            if self._closed:
                raise LinkError(
                    LinkReason.CLOSED, "this side closed the radio", hint="open it again"
                )
            if self._radio is not None and self._radio.lost is not None and self._radio.lost():
                if self._radio.aclose is not None:
                    await self._radio.aclose()
                self._radio = None
            if self._radio is None:
                self._radio = await self._open_radio()
            return self._radio

    def _sighting(self, device: BLEDevice, data: AdvertisementData) -> Sighting | None:
        if self._address is not None and device.address.lower() != self._address:
            return None
        advert = _advert(data)
        if advert is None:
            return None
        return Sighting(
            address=device.address,
            rssi_dbm=data.rssi,
            advert=advert,
            name=data.local_name or device.name,
            device=device,
        )

    async def _bearer(self, connected: Connected, peer: BLEDevice, ids: ServiceIds) -> BleLink:
        refusal: LinkError | None = None
        if "coc" in self._bearers:
            try:
                link = await open_coc(connected, peer)
            except LinkError as exc:
                refusal = exc
            else:
                if link is not None:
                    return link
        if not connected.client.is_connected:
            raise BleakError("the vehicle ended the connection")
        if "gatt" in self._bearers and ids.rx is not None:
            return await open_gatt(connected, ids)
        raise refusal or LinkError(
            LinkReason.UNSUPPORTED,
            "no L2CAP channel can be opened on this platform, and the vehicle offers nothing else",
            hint="use Linux with its own adapter, or a ble-sim: link",
        )


def _advert(data: AdvertisementData) -> VehicleAdvert | Advert | None:
    """Return what a reader of either profile said; None for everybody else and for nonsense."""
    with contextlib.suppress(WireError):
        if (ours := data.service_data.get(VEHICLE.service)) is not None:
            return VehicleAdvert.from_service_data(ours)
        if (aliro := data.service_data.get(ALIRO.service)) is not None:
            return Advert.from_service_data(aliro)
    return None


async def read_info(client: BleakClient) -> ReaderInfo:
    """Return what the reader of either profile offers: channel number, versions, features.

    Raises:
        LinkError: UNSUPPORTED when the peer is no reader, PROTOCOL when the value is malformed.
        BleakError: Reading failed.
    """
    for ids in SERVICES:
        characteristic = client.services.get_characteristic(ids.info)
        if characteristic is not None:
            break
    else:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"{client.address} has no service of a reader",
            hint="check which device advertises there",
        )
    async with asyncio.timeout(_READ_S):  # BlueZ waits for ever on some refusals
        value = await client.read_gatt_char(characteristic)
    try:
        return ReaderInfo.parse(bytes(value))
    except WireError as exc:
        raise LinkError(
            LinkReason.PROTOCOL,
            f"the reader's description is malformed: {exc}",
            hint="report it to whoever made the reader",
        ) from exc


def _choice(info: ReaderInfo) -> DeviceChoice:
    """Select the highest version that both sides know, and no optional feature."""
    offered = {info.versions[at : at + 2] for at in range(0, len(info.versions), 2)}
    if V1_0 not in offered:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"the reader speaks versions {info.versions.hex(' ', 2)}, this device 0100",
            hint="update dkey, or the reader",
        )
    return DeviceChoice(version=V1_0)


async def _hang_up(client: BleakClient) -> None:
    with contextlib.suppress(BleakError, OSError, EOFError, AssertionError):
        async with asyncio.timeout(_STOP_S):
            await client.disconnect()


def _air_lost() -> LinkError:
    return LinkError(
        LinkReason.ABSENT,
        "the virtual air is gone",
        hint="start it again: python -m firmware_mock.air",
        transient=True,
    )
