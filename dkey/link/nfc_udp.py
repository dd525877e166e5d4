"""``nfc:udp:PORT``, device side: a simulated NFC field in UDP datagrams.

The wire format is that of nfcpy's ``udp`` driver, which is the reader side: one datagram is
``106A HEX``, one frame without CRC; ``RFOFF`` is field-off. Only 127.0.0.1 is bound and only
loopback peers are heard, since anyone who reaches the port can tap the device.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
from typing import TYPE_CHECKING

from dkey.errors import LinkError, LinkReason
from dkey.link.isodep_target import IsoDepTarget
from dkey.link.type_a import TypeATarget, crc_a

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.base import FrameTap, Responder

__all__ = ["serve_nfc_udp"]

_log = logging.getLogger(__name__)

_DATAGRAM_MAX = 5 + 2 * 260
_DEFAULT_UID = bytes.fromhex("08010203")  # 08h: a random UID, which phones show


async def serve_nfc_udp(
    port: int,
    responder: Responder,
    *,
    once: bool = False,
    uid: bytes = _DEFAULT_UID,
    gate: Callable[[bytes], bool] | None = None,
    tap: FrameTap | None = None,
    on_listening: Callable[[int], None],
) -> None:
    """Be a Type A device on 127.0.0.1 until cancelled.

    Args:
        port: 0 for one that the system chooses.
        responder: The device.
        once: Return at the first field-off after at least one command.
        uid: 4, 7 or 10 bytes; nfcpy's reader fails with 10.
        gate: See :class:`~dkey.link.type_a.TypeATarget`.
        tap: Receives field events and frames.
        on_listening: Called once with the port.

    Raises:
        LinkError: BUSY when the port is taken, DENIED or ABSENT when it cannot be bound.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    air = _Air(responder, done, once=once, uid=uid, gate=gate, tap=tap)
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: air, local_addr=("127.0.0.1", port)
        )
    except OSError as exc:
        reasons = {errno.EADDRINUSE: LinkReason.BUSY, errno.EACCES: LinkReason.DENIED}
        raise LinkError(
            reasons.get(exc.errno or 0, LinkReason.ABSENT),
            f"cannot listen on UDP port {port}: {exc.strerror}",
            hint="choose another port, or 0 to let the system choose",
        ) from exc
    try:
        on_listening(transport.get_extra_info("sockname")[1])
        await done
    finally:
        transport.close()
        air.field_off()


class _Air(asyncio.DatagramProtocol):
    """The field between one reader and the device.

    A field period belongs to the address that began it. A request (REQA or WUPA) from another
    address begins a new one, since a reader that died never says RFOFF; other frames from
    strangers are ignored.
    """

    def __init__(
        self,
        responder: Responder,
        done: asyncio.Future[None],
        *,
        once: bool,
        uid: bytes,
        gate: Callable[[bytes], bool] | None,
        tap: FrameTap | None,
    ) -> None:
        self._responder = responder
        self._done = done
        self._once = once
        self._tap = tap
        self._device = TypeATarget(uid, IsoDepTarget(self._answer), gate=gate)
        self._peer: tuple[str, int] | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._commands = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(data) > _DATAGRAM_MAX or not ipaddress.ip_address(addr[0]).is_loopback:
            return
        kind, _, text = data.partition(b" ")
        if kind == b"RFOFF":
            if addr == self._peer:
                self.field_off()
            return
        try:
            frame = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            return
        if kind != b"106A" or not frame:
            return
        short = frame in (b"\x26", b"\x52")
        if addr != self._peer:
            # A polling frame may come before the first request of a period.
            if self._peer is not None and not short:
                return
            self._field_on(addr)
        answer = self._exchange(frame, short=short)
        if answer is not None and self._transport is not None:
            self._transport.sendto(b"106A " + answer.hex().encode("ascii"), addr)

    def error_received(self, exc: Exception) -> None:
        # ICMP says that the reader's port is gone: the same as RFOFF.
        _log.debug("the reader is gone: %r", exc)
        self.field_off()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            if exc is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(
                    LinkError(
                        LinkReason.LOST, f"the socket failed: {exc}", hint="start serving again"
                    )
                )

    def field_off(self) -> None:
        """End the field period, if one is on."""
        if self._peer is None:
            return
        self._peer = None
        self._device.field_off()
        self._responder.field_off()
        if self._tap is not None:
            self._tap.field(on=False)
        if self._once and self._commands and not self._done.done():
            self._done.set_result(None)

    def _field_on(self, addr: tuple[str, int]) -> None:
        self.field_off()
        self._peer = addr
        self._device.field_on()
        if self._tap is not None:
            self._tap.field(on=True)

    def _exchange(self, frame: bytes, *, short: bool) -> bytes | None:
        """Pass one frame to the device with the CRC that the datagram left out."""
        if self._tap is not None:
            self._tap.frame(from_reader=True, data=frame)
        # ANTICOLLISION has no CRC either way; SELECT (NVB 70h) has.
        bare = short or (frame[0] in (0x93, 0x95, 0x97) and frame[1:2] != b"\x70")
        answer = self._device.receive(frame if bare else frame + crc_a(frame), 7 if short else 8)
        if answer is not None and not bare:
            answer = answer[:-2]
        if answer is not None and self._tap is not None:
            self._tap.frame(from_reader=False, data=answer)
        return answer

    def _answer(self, command: bytes) -> bytes:
        self._commands += 1
        return self._responder.answer(command)
