"""The GATT bearer, phone's end: write without response and notify (specs/ble.md §3)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from bleak.exc import BleakError

from dkey.errors import LinkError, LinkReason
from dkey.link.ble_link import BleLink
from dkey.link.fragment import MIN_CHUNK, Fragmenter, Reassembler
from dkey.link.message_link import FRAGMENT_S, MESSAGE_MAX

if TYPE_CHECKING:
    from bleak.backends.characteristic import BleakGATTCharacteristic

    from dkey.link.ble_link import Connected, ServiceIds

__all__ = ["CHUNK_MAX", "GattLink", "open_gatt"]

CHUNK_MAX = 512
"""Longest attribute value, bytes."""


async def open_gatt(connected: Connected, ids: ServiceIds) -> GattLink:
    """Subscribe and return the link.

    Raises:
        LinkError: UNSUPPORTED when the reader has no such characteristics.
        BleakError: Subscribing failed.
    """
    services = connected.client.services
    rx = services.get_characteristic(ids.rx) if ids.rx else None
    tx = services.get_characteristic(ids.tx) if ids.tx else None
    if rx is None or tx is None:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            "the vehicle takes messages over an L2CAP channel only, which cannot be opened here",
            hint="use Linux with its own adapter, or a ble-sim: link",
        )
    link = GattLink(connected, rx)
    try:
        # Before the first write, so that no answer is missed.
        await connected.client.start_notify(tx, link.on_chunk)
    except BaseException:
        await link.aclose()
        raise
    return link


class GattLink(BleLink):
    """Messages in chunks; both directions count for themselves."""

    bearer: ClassVar[str] = "gatt"

    def __init__(self, connected: Connected, rx: BleakGATTCharacteristic) -> None:
        super().__init__(connected)
        self._rx = rx
        # Never mtu_size, which is always 23 on BlueZ.
        size = min(rx.max_write_without_response_size, CHUNK_MAX)
        self._fragmenter = Fragmenter(max(size, MIN_CHUNK))
        self._reassembler = Reassembler(max_message=MESSAGE_MAX)
        self._deadline: asyncio.TimerHandle | None = None

    def on_chunk(self, _characteristic: BleakGATTCharacteristic, chunk: bytearray) -> None:
        """Take one notification."""
        if self._fault is not None:
            return
        loop = asyncio.get_running_loop()
        try:
            self._reassembler.feed(bytes(chunk), loop.time())
        except LinkError as exc:
            self._broken(str(exc))
            return
        while (message := self._reassembler.take()) is not None:
            self._arrived(message)
        if self._reassembler.started_at is None:
            self._stop_deadline()
        elif self._deadline is None:
            # Counted from the first chunk: pieces that drip in do not prolong it.
            self._deadline = loop.call_later(FRAGMENT_S, self._late)

    async def _write(self, data: bytes) -> None:
        whole = False
        try:
            for chunk in self._fragmenter.split(data):
                await self._client.write_gatt_char(self._rx, chunk, response=False)
            whole = True
        except (BleakError, OSError, EOFError) as exc:
            if isinstance(exc, TimeoutError):
                raise
            self._lost("the connection to the vehicle is lost")
        finally:
            if not whole:  # the vehicle has half a message: nothing may follow it
                self._lost("a message was cut in two")

    async def _release(self) -> None:
        self._stop_deadline()
        await super()._release()

    def _late(self) -> None:
        self._deadline = None
        self._broken(f"a message was not whole after {FRAGMENT_S:g} s")

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
