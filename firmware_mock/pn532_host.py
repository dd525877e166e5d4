"""The PN532's host interface (UM0701-02 §6.2, §7, §8.6): codes, and frames in a byte stream."""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "ACK",
    "ERROR_FRAME",
    "NACK",
    "Command",
    "HostFrames",
    "Register",
    "RfStatus",
    "host_frame",
]

ACK = bytes.fromhex("0000ff00ff00")
NACK = bytes.fromhex("0000ffff0000")
ERROR_FRAME = bytes.fromhex("0000ff01ff7f8100")
_MAX_BODY = 265


class Command(IntEnum):
    """Host command codes (UM0701-02 §7.1)."""

    DIAGNOSE = 0x00
    GET_FIRMWARE_VERSION = 0x02
    READ_REGISTER = 0x06
    WRITE_REGISTER = 0x08
    SET_SERIAL_BAUD_RATE = 0x10
    SET_PARAMETERS = 0x12
    SAM_CONFIGURATION = 0x14
    POWER_DOWN = 0x16
    RF_CONFIGURATION = 0x32
    IN_COMMUNICATE_THRU = 0x42
    IN_LIST_PASSIVE_TARGET = 0x4A
    TG_GET_INITIATOR_COMMAND = 0x88
    TG_INIT_AS_TARGET = 0x8C
    TG_RESPONSE_TO_INITIATOR = 0x90


class Register(IntEnum):
    """Contactless interface registers that change what this model does (UM0701-02 §8.6)."""

    TX_MODE = 0x6302
    """Bit 7: append CRC_A to every sent frame."""
    RX_MODE = 0x6303
    """Bit 7: check and strip the CRC_A of every received frame."""
    FIFO_DATA = 0x6339
    BIT_FRAMING = 0x633D
    """Bits 2..0: valid bits of the last sent byte, 0 for all eight."""


class RfStatus(IntEnum):
    """First byte of an answer to an RF command (UM0701-02 §7.1)."""

    OK = 0x00
    TIMEOUT = 0x01
    CRC_ERROR = 0x02
    NOT_ACCEPTABLE = 0x27
    RELEASED = 0x29


def host_frame(body: bytes) -> bytes:
    """Return ``body`` (TFI and data, 1..265 bytes) as a normal or extended information frame.

    Normal: 00 00FF LEN LCS body DCS 00. Extended, above 255 bytes: 00 00FF FFFF LENM LENL LCS body
    DCS 00 (UM0701-02 §6.2.1).
    """
    size = len(body)
    if size <= 0xFF:
        head = bytes([size, -size & 0xFF])
    else:
        length = size.to_bytes(2, "big")
        head = b"\xff\xff" + length + bytes([-sum(length) & 0xFF])
    return b"\x00\x00\xff" + head + body + bytes([-sum(body) & 0xFF, 0x00])


class HostFrames:
    """Finds host frames in a byte stream that may be split anywhere."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the complete frames: :data:`ACK`, :data:`NACK` or a body (TFI and data).

        A frame whose length or data checksum is wrong is skipped without an answer, as the host
        then sees no ACK and sends again (UM0701-02 §6.2.2).
        """
        self._buffer += data
        frames: list[bytes] = []
        while True:
            start = self._buffer.find(b"\x00\xff")
            if start < 0:
                del self._buffer[:-1]
                return frames
            del self._buffer[:start]
            size, found = self._parse()
            if size is None:
                return frames
            del self._buffer[:size]
            if found is not None:
                frames.append(found)

    def _parse(self) -> tuple[int | None, bytes | None]:
        """Return the bytes to consume (None: more needed) and the frame found in them."""
        data = self._buffer
        head = bytes(data[2:4])
        if head in (b"\x00\xff", b"\xff\x00"):
            return 4, ACK if head[0] == 0x00 else NACK
        offset = 7 if head == b"\xff\xff" else 4
        if len(data) < offset:
            return None, None
        size = data[2] if offset == 4 else int.from_bytes(data[4:6], "big")
        if sum(data[2 if offset == 4 else 4 : offset]) & 0xFF or not 1 <= size <= _MAX_BODY:
            return 2, None
        end = offset + size + 1
        if len(data) < end:
            return None, None
        intact = sum(data[offset:end]) & 0xFF == 0
        return end, bytes(data[offset : end - 1]) if intact else None
