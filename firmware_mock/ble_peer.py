"""One phone that is connected to the vehicle's radio, as a message link.

A peer is half-open until it selects a bearer: an L2CAP channel, or notifications of the TX
characteristic. Every state has a deadline, every byte it makes us hold is counted, and whatever
it does wrong ends its own connection and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, Protocol

from bumble import core, l2cap

from dkey.errors import LinkError, LinkReason, LocalFault
from dkey.link.base import Cap
from dkey.link.fragment import Fragmenter, Reassembler
from firmware_mock.ble_limits import PeerStage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bumble.device import Connection
    from bumble.gatt import Characteristic

    from dkey.codec.ble_advert import DeviceChoice
    from firmware_mock.ble_limits import RadioLimits

__all__ = ["PeerLink", "RadioPort"]

_log = logging.getLogger(__name__)

_ATT_HEADER: Final = 3
_ATT_VALUE_MAX: Final = 512
_COC_MIN: Final = 23  # Core 5.4 Vol 3 Part A §4.22: smallest MTU and MPS
_HELD_EXTRA: Final = 64  # what a message costs besides its bytes: many small ones count, too
_IN_FLIGHT: Final = 4  # notifications of one peer between two looks at its queue
_CLOSE_S: Final = 2.0
_RECONNECT: Final = "close the connection and connect again"


class RadioPort(Protocol):
    """What a peer needs of its radio."""

    limits: RadioLimits

    def ended(self, link: PeerLink) -> None:
        """Called once, when the link ended; then or later calls :meth:`PeerLink.released`."""

    def make_room(self, link: PeerLink) -> bool:
        """Whether ``link`` may hold what it now holds; others may be evicted for it."""


class PeerLink:
    """A :class:`~dkey.link.base.Link` to one phone.

    Attributes:
        peer: The phone's address now, text for logs; it says nothing about who it is.
        bearer: ``coc`` or ``gatt``; None while half-open.
        choice: What the phone wrote into the choice characteristic; None before it did.
        authenticated: Set by the owner once the peer proved a key; protects from eviction.
        mtu: Longest message that :meth:`send` takes, bytes.
    """

    caps: frozenset[Cap] = frozenset({Cap.BLE})

    def __init__(
        self, radio: RadioPort, connection: Connection, *, since: float | None = None
    ) -> None:
        self.peer = connection.peer_address.to_string(with_type_qualifier=False)
        self.bearer: Literal["coc", "gatt"] | None = None
        self.choice: DeviceChoice | None = None
        self.authenticated = False
        self.mtu = radio.limits.message_bytes
        self.connection = connection
        self.since = asyncio.get_running_loop().time() if since is None else since
        self._radio = radio
        self._limits = radio.limits
        self._heard = False
        self._mark = self.since  # when its stage, or its silence, began
        self._begun: float | None = None  # when the unfinished message began
        self._partial = 0
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._fault: LinkError | None = None
        self._wake = asyncio.Event()  # arrival, flow, or the end
        self._flow = asyncio.Event()
        self._gone = asyncio.Event()
        self._sending = asyncio.Lock()
        self._transmit: Callable[[bytes], Awaitable[None]] | None = None
        self._reassembler = Reassembler(
            max_message=self._limits.message_bytes, max_pending=self._limits.pending_bytes
        )
        self._timer: asyncio.TimerHandle | None = None
        self._at_end: list[Callable[[], None]] = []
        self._watch()

    # -- the link

    async def send(self, data: bytes) -> None:
        """Send one whole message; returns when the radio's own queue has taken it.

        Raises:
            LinkError: The link ended, or TIMEOUT: the peer does not take the message, which
                ends the link.
            LocalFault: The message is empty or longer than ``mtu``.
        """
        if not 1 <= len(data) <= self.mtu:
            raise LocalFault(f"a message has 1..{self.mtu} bytes, not {len(data)}")
        try:
            async with asyncio.timeout(self._limits.send_s), self._sending:
                self._check()
                if self._transmit is None:
                    raise LocalFault("the peer has not selected a bearer yet")
                await self._transmit(bytes(data))
        except TimeoutError as exc:
            late = LinkError(
                LinkReason.TIMEOUT, "the phone does not take a message", hint=_RECONNECT
            )
            self.end(late)
            raise late from exc

    async def recv(self) -> bytes:
        """Return the next whole message. Deadlines are the radio's: they end the link.

        Raises:
            LinkError: The link ended; what came whole before a LOST is returned first.
        """
        while not self._inbox:
            self._check()
            self._wake.clear()
            await self._wake.wait()
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message) + _HELD_EXTRA
        return message

    async def present(self) -> bool:
        """Whether the phone is connected."""
        return self._fault is None

    async def aclose(self) -> None:
        """Disconnect."""
        self.end(LinkError(LinkReason.CLOSED, "the link was closed by this side"))
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._gone.wait()
        except TimeoutError:
            _log.warning("the controller did not confirm the end of a connection")

    # -- state

    @property
    def stage(self) -> PeerStage:
        """How far the peer is."""
        if self.authenticated:
            return PeerStage.AUTHENTICATED
        if self.bearer is None:
            return PeerStage.CONNECTED
        return PeerStage.SPEAKING if self._heard else PeerStage.SELECTED

    @property
    def pending(self) -> int:
        """Bytes that the peer makes this side hold, with the surcharge for messages."""
        return self._inbox_bytes + self._partial

    @property
    def fault(self) -> LinkError | None:
        """Why the link ended; None while it lives."""
        return self._fault

    def _check(self) -> None:
        if self._fault is not None:
            raise LinkError(self._fault.reason, str(self._fault), hint=self._fault.hint)

    # -- what the radio tells

    def use_channel(self, channel: l2cap.LeCreditBasedChannel) -> bool:
        """Take ``channel`` as the bearer; False: refused, and the link ended."""
        if self._fault is not None:
            return False
        if self.bearer is not None:
            self._broken("a second bearer")
            return False
        if min(channel.peer_mtu, channel.peer_mps) < _COC_MIN:
            self._broken("an MTU or MPS below 23")
            return False
        self.mtu = min(self._limits.message_bytes, channel.peer_mtu)
        arrived, credited = channel.on_pdu, channel.on_credits

        def on_pdu(pdu: bytes) -> None:
            if self._fault is None:
                arrived(pdu)
                self._partial = len(channel.in_sdu or b"")
                if channel.state != channel.State.CONNECTED:
                    self._broken("an SDU longer than the MTU, or longer than it said")
                else:
                    self._advance(begun=bool(self._partial))

        def on_credits(credits: int) -> None:  # noqa: A002 - Bumble's name
            credited(credits)
            self._flow.set()

        def sink(sdu: bytes) -> None:
            self._partial = 0
            self._begun = None
            self._deliver(sdu)

        async def transmit(message: bytes) -> None:
            await self._flushed(channel)  # a cancelled send may have left its rest
            channel.write(message)
            await self._flushed(channel)

        # Bumble tells of whole SDUs alone; deadlines need their beginnings.
        channel.on_pdu = on_pdu  # type: ignore[method-assign]
        channel.on_credits = on_credits  # type: ignore[method-assign]
        channel.sink = sink
        channel.on(channel.EVENT_CLOSE, self.lost)
        self._select("coc", transmit)
        return True

    def use_notifications(self, tx: Characteristic[bytes]) -> None:
        """Take GATT as the bearer: the peer subscribed to ``tx``."""
        if self.bearer is not None or self._fault is not None:
            return
        self.mtu = self._limits.message_bytes
        device = self.connection.device
        fragmenter: Fragmenter | None = None

        async def transmit(message: bytes) -> None:
            nonlocal fragmenter
            if fragmenter is None:  # only now, as the ATT MTU may grow before
                room = min(self.connection.att_mtu - _ATT_HEADER, _ATT_VALUE_MAX)
                fragmenter = Fragmenter(room)
            chunks = fragmenter.split(message)
            try:
                while chunks:
                    part, chunks = chunks[:_IN_FLIGHT], chunks[_IN_FLIGHT:]
                    for chunk in part:
                        await device.notify_subscriber(self.connection, tx, chunk, force=True)
                    await self._drained()
                    self._check()
            finally:
                if chunks:  # the phone has half a message: nothing may follow it
                    self.end(LinkError(LinkReason.CLOSED, "a message was cut in two"))

        self._select("gatt", transmit)

    def take_chunk(self, chunk: bytes) -> None:
        """Take one chunk that the peer wrote to RX."""
        if self._fault is not None:
            return
        if self.bearer != "gatt":
            self._broken("a chunk without notifications, or beside a channel")
            return
        reassembler = self._reassembler
        try:
            reassembler.feed(chunk, asyncio.get_running_loop().time())
        except LinkError as exc:
            self.end(exc)
            return
        while (message := reassembler.take()) is not None:
            self._begun = None
            self._deliver(message)
        self._partial = reassembler.pending
        self._advance(begun=reassembler.started_at is not None)

    def on_end(self, call: Callable[[], None]) -> None:
        """Have ``call`` made when the link ends; at once if it did."""
        if self._fault is None:
            self._at_end.append(call)
        else:
            call()

    def lost(self, *_reason: object) -> None:
        """Say that the phone left: the connection or the bearer ended."""
        self.end(LinkError(LinkReason.LOST, "the phone left", hint=_RECONNECT))

    def released(self) -> None:
        """Say that nothing is left to be done for the end."""
        self._gone.set()

    def end(self, fault: LinkError) -> None:
        """End the link for the reason ``fault``; only the first one counts."""
        if self._fault is not None:
            return
        self._fault = fault
        _log.debug("peer %s ends: %s", self.peer, fault)
        if fault.reason is not LinkReason.LOST:
            self._inbox.clear()
            self._inbox_bytes = 0
        self._partial = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake.set()
        self._flow.set()
        self._radio.ended(self)
        for call in self._at_end:
            call()
        self._at_end.clear()

    # -- messages and deadlines

    def _select(
        self, bearer: Literal["coc", "gatt"], transmit: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self.bearer = bearer
        self._transmit = transmit
        self._mark = asyncio.get_running_loop().time()
        self._watch()

    def _deliver(self, message: bytes) -> None:
        if self._fault is not None:
            return
        if not message:
            self._broken("a message without bytes")
            return
        if self.choice is None:
            self._broken("a message before the device's choice")
            return
        self._inbox.append(message)
        self._inbox_bytes += len(message) + _HELD_EXTRA
        self._heard = True
        self._mark = asyncio.get_running_loop().time()
        self._wake.set()

    def _advance(self, *, begun: bool) -> None:
        """Look at caps and deadlines after bytes came."""
        if self._fault is not None:
            return
        if begun and self._begun is None:
            self._begun = asyncio.get_running_loop().time()
        elif not begun:
            self._begun = None
        if self.pending > self._limits.pending_bytes:
            self._broken(f"more than {self._limits.pending_bytes} bytes are pending")
        elif not self._radio.make_room(self):
            self._broken("all peers together have too much pending")
        else:
            self._watch()

    def _deadline(self) -> tuple[float, str] | None:
        limits = self._limits
        due: list[tuple[float, str]] = []
        if self._begun is not None:
            due.append((self._begun + limits.fragment_s, "did not finish a message"))
        match self.stage:
            case PeerStage.CONNECTED:
                due.append((self._mark + limits.bearer_s, "selected no bearer"))
            case PeerStage.SELECTED:
                due.append((self._mark + limits.first_message_s, "sent no message"))
            case PeerStage.SPEAKING:
                due.append((self._mark + limits.idle_s, "is not authenticated and silent"))
            case PeerStage.AUTHENTICATED:
                pass
        return min(due, default=None)

    def _watch(self) -> None:
        """Have the timer fire at the deadline, or before it: then it is set again."""
        due = self._deadline()
        if due is None or self._fault is not None:
            return
        if self._timer is not None:
            if self._timer.when() <= due[0]:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due[0], self._look)

    def _look(self) -> None:
        self._timer = None
        due = self._deadline()
        if due is not None and due[0] <= asyncio.get_running_loop().time():
            self.end(LinkError(LinkReason.TIMEOUT, f"the phone {due[1]} in time", hint=_RECONNECT))
        else:
            self._watch()

    def _broken(self, text: str) -> None:
        self.end(LinkError(LinkReason.PROTOCOL, f"the phone sent {text}", hint=_RECONNECT))

    # -- sending

    async def _flushed(self, channel: l2cap.LeCreditBasedChannel) -> None:
        # Not channel.drain(): that also waits for credits beyond the last packet, and for ever.
        while channel.out_sdu is not None or channel.out_queue:
            self._check()
            self._flow.clear()
            await self._flow.wait()
        self._check()

    async def _drained(self) -> None:
        queue = self.connection.device.host.get_data_packet_queue(self.connection.handle)
        if queue is None:
            self._check()
            raise LinkError(LinkReason.LOST, "the phone left", hint=_RECONNECT)
        try:
            await queue.drain(self.connection.handle)
        except (ValueError, core.BaseBumbleError) as exc:
            raise LinkError(LinkReason.LOST, "the phone left", hint=_RECONNECT) from exc
