"""The interfaces that every transport implements, one for each side, and the tap for traces."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BlockingLink", "Cap", "FrameTap", "Initiator", "Link", "Responder"]

T = TypeVar("T")


class Cap(Enum):
    """What a link can do beyond carrying messages."""

    APDU = "apdu"
    """Messages are ISO 7816-4 APDUs in lock-step: one command, one response."""
    BLE = "ble"
    """Messages are whole BLE messages in either direction."""
    NFC = "nfc"
    """The peer is in an NFC field (real or virtual); tapping and tearing away are possible."""
    UCI = "uci"
    """Messages are whole UCI packets of a UWB subsystem in either direction."""


@runtime_checkable
class Link(Protocol):
    """Whole messages, in order, or :class:`~dkey.errors.LinkError`.

    A link never retries on its own and never waits without a deadline. ``aclose`` may be called
    twice, ends every pending ``recv`` with reason CLOSED and returns within 5 s.

    Attributes:
        mtu: Largest message that :meth:`send` takes, bytes.
        caps: Capabilities of this link.
    """

    mtu: int
    caps: frozenset[Cap]

    async def send(self, data: bytes) -> None:
        """Send one whole message of at most ``mtu`` bytes."""

    async def recv(self) -> bytes:
        """Return the next whole message."""

    async def present(self) -> bool:
        """Return whether the peer is still there; costs it at most one empty exchange."""

    async def aclose(self) -> None:
        """Release the transport; for NFC this is field-off."""


@runtime_checkable
class BlockingLink(Protocol):
    """A link whose driver blocks, and that can run a whole exchange on its own thread."""

    async def run_blocking(self, work: Callable[[Callable[[bytes], bytes]], T]) -> T:
        """Run ``work(exchange)`` on that thread, where ``exchange(command)`` returns the response.

        ``exchange`` raises LinkError; ``work``'s result or exception is this call's.
        """


class Initiator(Protocol):
    """The reader side of a link string: it makes the field and waits for a device in it."""

    async def sense(self, *, timeout_s: float) -> Link | None:
        """Return a link to the device that came within ``timeout_s``, or None if nobody came.

        One returned link is one field-on period; closing the link ends it. A socket to which
        nobody listens when the time is over is LinkError ABSENT.
        """

    async def aclose(self) -> None:
        """Release the reader. May be called twice; ends a pending ``sense`` within 0.5 s."""


class Responder(Protocol):
    """The device side: answers one command APDU at a time. Called from one thread only."""

    def answer(self, command: bytes) -> bytes:
        """Return the response APDU (data, then two status bytes) to ``command``; never raises."""

    def field_off(self) -> None:
        """The reader's field ended: forget the transaction."""


class FrameTap(Protocol):
    """Receives a copy of what passes, for traces. Must not raise and must not keep the link.

    A link that has frames reports them from the first one of a field period on.
    """

    def frame(self, *, from_reader: bool, data: bytes) -> None:
        """One ISO 14443 frame without its CRC."""

    def field(self, *, on: bool) -> None:
        """The field went on or off."""

    def apdu(self, *, from_reader: bool, data: bytes) -> None:
        """One whole APDU, on transports that have no frames (TCP, loopback) or above them."""
