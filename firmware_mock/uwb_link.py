"""Virtual UWB subsystems in this process: one air, a link to each subsystem, time from a clock.

What :mod:`firmware_mock.uwb_server` does over TCP, without sockets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from dkey.codec.uci import HEADER_SIZE, packet_size
from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_subsystem import UwbSubsystem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["UwbWorld", "VirtualUciLink"]

_MTU: Final = 4096


class VirtualUciLink:
    """A link to one subsystem: whole UCI packets."""

    def __init__(self, world: UwbWorld, subsystem: UwbSubsystem) -> None:
        self.mtu = _MTU
        self.caps = frozenset({Cap.UCI})
        self.subsystem = subsystem
        self._world = world
        self._packets: deque[bytes] = deque()
        self._partial = b""
        self._changed = asyncio.Event()
        self._open = True

    async def send(self, data: bytes) -> None:
        """Give one packet to the subsystem."""
        if not self._open:
            raise LinkError(LinkReason.CLOSED, "the link to the UWB subsystem is closed")
        self.subsystem.feed(data)
        self._world.wake()

    async def recv(self) -> bytes:
        """Return the next packet of the subsystem."""
        while not self._packets:
            if not self._open:
                raise LinkError(LinkReason.LOST, "the UWB subsystem is gone")
            self._changed.clear()
            await self._changed.wait()
        return self._packets.popleft()

    async def present(self) -> bool:
        """Whether the subsystem is there."""
        return self._open

    async def aclose(self) -> None:
        """Take the subsystem away; its sessions leave the air."""
        if self._open:
            self._open = False
            self.subsystem.chip.reset()
            self._world.forget(self)
        self._changed.set()

    def pump(self) -> None:
        """Take over what the subsystem has to say."""
        data = self._partial + self.subsystem.take()
        while len(data) >= HEADER_SIZE and len(data) >= packet_size(data[:HEADER_SIZE]):
            size = packet_size(data[:HEADER_SIZE])
            self._packets.append(data[:size])
            data = data[size:]
        self._partial = data
        if self._packets:
            self._changed.set()


class UwbWorld:
    """One air that runs with a clock.

    Args:
        air: Places, channel, attackers.
        clock: Monotonic seconds; the air's time is what went by since :meth:`run` began.
    """

    def __init__(self, air: UwbAir, *, clock: Callable[[], float]) -> None:
        self.air = air
        self._clock = clock
        self._links: list[VirtualUciLink] = []
        self._woken = asyncio.Event()

    def open(self, station: Station | None = None, *, raw: bool = False) -> VirtualUciLink:
        """Return a link to a new subsystem; a vehicle's needs no station."""
        made = VirtualUciLink(self, UwbSubsystem(self.air, station or Station(), raw=raw))
        self._links.append(made)
        self.wake()
        return made

    def forget(self, link: VirtualUciLink) -> None:
        """Leave a closed link alone."""
        self._links.remove(link)

    def wake(self) -> None:
        """Somebody said something to a subsystem."""
        self._woken.set()

    async def run(self) -> None:
        """Let time pass until cancelled."""
        began_s, began_ns = self._clock(), self.air.now_ns
        while True:
            self.air.advance(began_ns + round((self._clock() - began_s) * 1e9))
            for link in [*self._links]:
                link.pump()
            next_ns = self.air.next_ns
            wait_s = None
            if next_ns is not None:
                wait_s = max(0.0, (next_ns - began_ns) / 1e9 - (self._clock() - began_s))
            try:
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
