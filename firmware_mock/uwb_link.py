"""Virtual UWB subsystems in this process: one air, a link to each subsystem, time from a clock.

What :mod:`firmware_mock.uwb_server` does over TCP, without sockets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from dkey.codec.uci import HEADER_SIZE, packet_size
from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_pace import keep_pace
from firmware_mock.uwb_subsystem import UwbSubsystem

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
    """One air that runs with the loop's time.

    Args:
        air: Places, channel, attackers.
    """

    def __init__(self, air: UwbAir) -> None:
        self.air = air
        self._links: list[VirtualUciLink] = []

    def open(self, station: Station | None = None, *, raw: bool = False) -> VirtualUciLink:
        """Return a link to a new subsystem; a vehicle's needs no station."""
        made = VirtualUciLink(self, UwbSubsystem(self.air, station or Station(), raw=raw))
        self._links.append(made)
        return made

    def forget(self, link: VirtualUciLink) -> None:
        """Leave a closed link alone."""
        self._links.remove(link)

    async def run(self) -> None:
        """Let time pass until cancelled."""
        await keep_pace(self.air, after=self._pump)

    def _pump(self) -> None:
        for link in self._links:
            link.pump()
