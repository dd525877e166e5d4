"""The target role of the virtual PN532: card emulation, seen from another reader's field."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dkey.link.type_a import crc_a
from firmware_mock.pn532_host import Command, RfStatus

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EmulatedDevice"]

_ANSWER_WAIT_S = 1.0


class EmulatedDevice:
    """A chip in the target role, as a device in another reader's field.

    The chip answers REQA, anticollision and select by itself; every later frame goes to its host,
    which has 1 s to respond. Called from the other reader's thread.
    """

    def __init__(self, tell_host: Callable[[Command, bytes], None]) -> None:
        """Take what carries a late answer (command, data after the code) to the chip's host."""
        self._answer_host = tell_host
        self._changed = threading.Condition()
        self._identity: tuple[bytes, bytes, int] | None = None
        self._awaited: Command | None = None
        self._selected = False
        self._heard: bytes | None = None
        self._response: bytes | None = None

    # ---- the chip's host ------------------------------------------------------------------

    def expect_activation(self, *, atqa: bytes, uid: bytes, sak: int) -> None:
        """TgInitAsTarget: become a device; the first frame after select answers it."""
        with self._changed:
            self._identity = (atqa, uid, sak)
            self._selected, self._heard, self._response = False, None, None
            self._awaited = Command.TG_INIT_AS_TARGET

    def expect_command(self) -> bytes | None:
        """TgGetInitiatorCommand: return the frame that waits, or answer when one comes."""
        with self._changed:
            if self._identity is None:
                return bytes([RfStatus.NOT_ACCEPTABLE])
            if not self._selected:
                return bytes([RfStatus.RELEASED])
            if self._heard is not None:
                heard, self._heard = self._heard, None
                return bytes([RfStatus.OK]) + heard
            self._awaited = Command.TG_GET_INITIATOR_COMMAND
            return None

    def respond(self, data: bytes) -> bytes:
        """TgResponseToInitiator: put ``data`` on the air."""
        with self._changed:
            if not self._selected:
                return bytes([RfStatus.RELEASED])
            self._response = data
            self._changed.notify_all()
            return bytes([RfStatus.OK])

    def abort(self) -> None:
        """The host gave up the command in progress."""
        with self._changed:
            if self._awaited is Command.TG_INIT_AS_TARGET:
                self._identity = None
            self._awaited = None

    # ---- the other reader's field -----------------------------------------------------------

    def field_on(self) -> None:
        """The other reader's field came up."""

    def field_off(self) -> None:
        """The other reader's field went down: the host learns that it was released."""
        with self._changed:
            self._selected, self._heard = False, None
            if self._awaited is Command.TG_GET_INITIATOR_COMMAND:
                self._tell_host(bytes([RfStatus.RELEASED]))

    def receive(self, frame: bytes, bits: int = 8) -> bytes | None:
        """Answer one frame of the other reader."""
        with self._changed:
            if self._identity is None:
                return None
            if bits != 8:
                atqa, _uid, _sak = self._identity
                return atqa if self._awaited is Command.TG_INIT_AS_TARGET else None
            if not self._selected:
                return self._anticollision(frame)
            if frame[-2:] != crc_a(frame[:-2]):
                return None
            return self._ask_host(frame[:-2])

    def _anticollision(self, frame: bytes) -> bytes | None:
        assert self._identity is not None
        _atqa, uid, sak = self._identity
        part = uid + bytes([uid[0] ^ uid[1] ^ uid[2] ^ uid[3]])
        if frame == b"\x93\x20":
            return part
        request = b"\x93\x70" + part
        if frame == request + crc_a(request):
            self._selected = True
            return bytes([sak]) + crc_a(bytes([sak]))
        return None

    def _ask_host(self, heard: bytes) -> bytes | None:
        self._response = None
        if self._awaited is Command.TG_INIT_AS_TARGET:
            self._tell_host(b"\x08" + heard)  # mode: 106 kbit/s, ISO/IEC 14443-4 device
        elif self._awaited is Command.TG_GET_INITIATOR_COMMAND:
            self._tell_host(bytes([RfStatus.OK]) + heard)
        else:
            self._heard = heard
        self._changed.wait_for(lambda: self._response is not None, _ANSWER_WAIT_S)
        response, self._response = self._response, None
        return None if response is None else response + crc_a(response)

    def _tell_host(self, result: bytes) -> None:
        assert self._awaited is not None
        command, self._awaited = self._awaited, None
        self._answer_host(command, result)
