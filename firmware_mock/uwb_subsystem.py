"""A virtual UWB subsystem that speaks UCI over a byte stream.

Bytes in, bytes out, no sockets and no clock: the owner feeds what the host wrote, advances the air
and takes what the host shall read. Malformed input gets a status and never ends the subsystem;
what it keeps is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.codec import uci_core as core
from dkey.codec import uci_session as told
from dkey.codec.uci import (
    HEADER_SIZE,
    Group,
    Packet,
    PacketType,
    Reassembler,
    packet_size,
    segments,
)
from dkey.codec.uci_layout import Body
from dkey.codec.uci_messages import MESSAGES, decode
from dkey.codec.uci_ranging import CccControleeNtf, CccControllerNtf, SessionInfoNtf
from dkey.codec.uci_status import DeviceState, Status
from dkey.errors import WireError
from firmware_mock.uwb_chip import UwbChip
from firmware_mock.uwb_commands import COMMANDS

if TYPE_CHECKING:
    from firmware_mock.uwb_air import Station, UwbAir

__all__ = ["OUTBOX_MAX", "UwbSubsystem"]

OUTBOX_MAX: Final = 262_144
"""Bytes kept for a host that does not read; later notifications are dropped and counted."""

_NOTIFIED: Final[dict[type, tuple[int, int]]] = {
    core.DeviceStatusNtf: (Group.CORE, 0x01),
    core.StatusOnly: (Group.CORE, 0x07),
    told.SessionStatusNtf: (Group.SESSION_CONFIG, 0x02),
    SessionInfoNtf: (Group.SESSION_CONTROL, 0x00),
    CccControleeNtf: (Group.SESSION_CONTROL, 0x20),
    CccControllerNtf: (Group.SESSION_CONTROL, 0x20),
}
_GROUPS: Final = frozenset(group for kind, group, _ in MESSAGES if kind is PacketType.COMMAND)


class UwbSubsystem:
    """One chip and its UCI.

    Attributes:
        chip: The chip behind it.
        dropped: Packets that were dropped because the host does not read.
    """

    def __init__(
        self,
        air: UwbAir,
        station: Station,
        *,
        uci_major: int = 1,
        raw: bool = False,
        boot_ns: int = 0,
    ) -> None:
        self.dropped = 0
        self._inbox = b""
        self._outbox = bytearray()
        self._segments = Reassembler()
        self._held: list[Body | SessionInfoNtf] | None = None
        self.chip = UwbChip(
            air, station, self._notify, uci_major=uci_major, raw=raw, boot_ns=boot_ns
        )
        self._notify(core.DeviceStatusNtf(state=DeviceState.READY))

    def reset(self) -> None:
        """Fault: the chip resets by itself; a half-received command is lost."""
        self._inbox = b""
        self._segments.reset()
        self.chip.reset()

    def take(self) -> bytes:
        """Return what the host shall read, and forget it."""
        out = bytes(self._outbox)
        self._outbox.clear()
        return out

    def feed(self, data: bytes) -> None:
        """Take what the host wrote, in pieces of any size; never raises on any bytes."""
        inbox, at = self._inbox + data, 0
        while len(inbox) - at >= HEADER_SIZE:
            try:
                size = packet_size(inbox[at : at + HEADER_SIZE])
            except WireError:
                # Nothing tells where the next packet begins: drop what is there.
                at = len(inbox)
                self._notify(core.StatusOnly(status=Status.SYNTAX_ERROR))
                break
            if len(inbox) - at < size:
                break
            self._packet(inbox[at : at + size])
            at += size
        self._inbox = inbox[at:]

    def _packet(self, data: bytes) -> None:
        if len(self._outbox) > OUTBOX_MAX:
            self.dropped += 1  # a host that does not read gets no answers either
            return
        try:
            packet = Packet.parse(data)
            message = self._segments.add(packet)
        except WireError:
            self._complain(data)
            return
        if message is None:
            return
        if message.type is not PacketType.COMMAND:
            self._notify(core.StatusOnly(status=Status.SYNTAX_ERROR))
            return
        if self.chip.faults.stall:
            return
        self._held = []
        answer = self._answer(message)
        self._send(PacketType.RESPONSE, message.group, message.opcode, answer.to_bytes())
        # A command is answered before what it caused is told.
        held, self._held = self._held, None
        for body in held:
            self._notify(body)

    def _complain(self, data: bytes) -> None:
        """Answer a packet that could not be read."""
        if data[0] >> 5 == PacketType.COMMAND and not self.chip.faults.stall:
            status = core.StatusOnly(status=Status.SYNTAX_ERROR).to_bytes()
            self._send(PacketType.RESPONSE, data[0] & 0x0F, data[1] & 0x3F, status)
        else:
            self._notify(core.StatusOnly(status=Status.SYNTAX_ERROR))

    def _answer(self, message: Packet) -> Body:
        if message.group not in _GROUPS:
            return core.StatusOnly(status=Status.UNKNOWN_GID)
        name, _ = MESSAGES.get((message.type, message.group, message.opcode), ("", None))
        if not name:
            return core.StatusOnly(status=Status.UNKNOWN_OID)
        try:
            body = decode(message, strict=False, uci_major=self.chip.uci_major).body
        except WireError:
            return core.StatusOnly(status=Status.INVALID_SIZE)
        if not isinstance(body, Body) or body.trailing:
            return core.StatusOnly(status=Status.INVALID_SIZE)
        handler = COMMANDS.get(name)
        if handler is None:
            return core.StatusOnly(status=Status.NOT_APPLICABLE)
        return handler(self.chip, body)

    # --- out ------------------------------------------------------------------------------------

    def _notify(self, body: Body | SessionInfoNtf) -> None:
        if self.chip.faults.stall or self.chip.faults.mute:
            return
        if self._held is not None:
            self._held.append(body)
            return
        if len(self._outbox) > OUTBOX_MAX:
            self.dropped += 1
            return
        if isinstance(body, told.SessionStatusNtf) and self.chip.faults.state is not None:
            body = told.SessionStatusNtf(
                token=body.token, state=self.chip.faults.state, reason=body.reason
            )
        group, opcode = _NOTIFIED[type(body)]
        self._send(PacketType.NOTIFICATION, group, opcode, body.to_bytes())

    def _send(self, kind: PacketType, group: int, opcode: int, payload: bytes) -> None:
        message = Packet(type=kind, group=group, opcode=opcode, payload=payload)
        for packet in segments(message):
            self._outbox += packet.to_bytes()
