"""Shows the vehicle's BLE messages to a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkey.link.base import Cap, Link
    from dkey.link.message_link import MessageTap

__all__ = ["TappedLink"]


class TappedLink:
    """A message link that copies what passes to a tap.

    Args:
        link: What carries the messages; this side is the reader.
        tap: Receives a copy of each.
    """

    def __init__(self, link: Link, tap: MessageTap) -> None:
        self.mtu: int = link.mtu
        self.caps: frozenset[Cap] = link.caps
        self._link = link
        self._tap = tap

    async def send(self, data: bytes) -> None:
        """Send one whole message."""
        self._tap.message(from_reader=True, data=data)
        await self._link.send(data)

    async def recv(self) -> bytes:
        """Return the next whole message."""
        data = await self._link.recv()
        self._tap.message(from_reader=False, data=data)
        return data

    async def present(self) -> bool:
        """Return whether the peer is still there."""
        return await self._link.present()

    async def aclose(self) -> None:
        """Release the transport."""
        await self._link.aclose()
