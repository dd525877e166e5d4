"""ISO/IEC 14443-3 Type A, device side, without IO: anticollision, select, halt.

Below :mod:`dkey.link.isodep`. Frames carry their CRC here wherever the standard has one.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.isodep_target import IsoDepTarget

__all__ = ["TypeATarget", "crc_a"]

_REQA, _WUPA = b"\x26", b"\x52"
_SELECT = (0x93, 0x95, 0x97)
_CASCADE_TAG = 0x88
_KNOWN_COMMANDS: Final = frozenset({0x26, 0x52, *_SELECT, 0x50, 0xE0})


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc_a(data: bytes) -> bytes:
    """Return the two CRC_A bytes of ``data``, least significant first (ISO/IEC 14443-3 annex B)."""
    crc, table = 0x6363, _CRC_TABLE
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


class _State(Enum):
    """States of ISO/IEC 14443-3 §6.3; the starred ones are told apart by ``_was_halted``."""

    IDLE = "idle"
    READY = "ready"
    ACTIVE = "active"
    PROTOCOL = "protocol"
    HALT = "halt"


class TypeATarget:
    """A Type A device with one ISO-DEP application in it.

    Anticollision answers whole-byte prefixes of the UID; a prefix that ends inside a byte (what a
    reader sends after a collision) is not answered, since one simulated device never collides.
    """

    def __init__(
        self,
        uid: bytes,
        isodep: IsoDepTarget,
        *,
        atqa: bytes | None = None,
        sak: int = 0x20,
        gate: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Take the device's identity.

        Args:
            uid: 4, 7 or 10 bytes.
            isodep: Takes over after RATS.
            atqa: Answer to REQA, two bytes as on the wire; None derives it from the UID size.
            sak: SAK of the last cascade level; 20h says ISO-DEP, bit 2 must be clear.
            gate: When given, REQA and WUPA are not answered until the reader has sent, in this
                field period, a polling frame for whose body (without CRC) it returns True.

        Raises:
            ValueError: The UID, ATQA or SAK cannot exist.
        """
        if len(uid) not in (4, 7, 10) or (len(uid) == 4 and uid[0] == _CASCADE_TAG):
            raise ValueError(f"a UID has 4, 7 or 10 bytes and does not start 88h: {uid.hex()}")
        if not 0 <= sak <= 255 or sak & 0x04:
            raise ValueError(f"SAK {sak:02X} says that the UID is not complete")
        if atqa is None:
            atqa = bytes([0x04 | (len(uid) - 4) // 3 << 6, 0x00])
        if len(atqa) != 2:
            raise ValueError("an ATQA has two bytes")
        self._levels = _cascade(uid)
        self._isodep = isodep
        self._atqa = atqa
        self._sak = sak
        self._gate = gate
        self._state = _State.IDLE
        self._level = 0
        self._forget()

    def field_on(self) -> None:
        """A field period begins; the first frame after field-off implies it."""
        self._forget()

    def field_off(self) -> None:
        """The field ended: all state is forgotten."""
        self._forget()

    def receive(self, frame: bytes, bits: int = 8) -> bytes | None:
        """Return the answer to one frame, or None to stay silent.

        ``bits`` is the number of valid bits in the last byte: 7 for REQA and WUPA, else 8. Frames
        carry their CRC, both ways, except REQA, WUPA, ATQA and the anticollision ones.
        """
        state = self._state
        if state is _State.PROTOCOL:
            return self._on_block(frame) if bits == 8 else None
        self._fall_back()
        if bits == 7 and frame in (_REQA, _WUPA):
            return self._on_request(frame, state)
        if bits != 8 or not frame:
            return None
        if state is _State.READY and frame[0] == _SELECT[self._level]:
            return self._on_select(frame)
        if _crc_holds(frame):
            if state is _State.ACTIVE and frame[0] == 0xE0:
                self._state = _State.PROTOCOL
                return self._on_block(frame)
            self._on_silent(frame[:-2], state)
        return None

    def _forget(self) -> None:
        self._isodep.reset()
        self._state = _State.IDLE
        self._was_halted = False
        self._gate_open = self._gate is None
        self._level = 0

    def _fall_back(self) -> None:
        """Go where REQA or WUPA found the device: what is unexpected ends there (§6.3)."""
        self._state = _State.HALT if self._was_halted else _State.IDLE

    def _on_request(self, frame: bytes, state: _State) -> bytes | None:
        if state in (_State.READY, _State.ACTIVE) or not self._gate_open:
            return None
        if state is _State.HALT and frame == _REQA:
            return None
        self._state, self._level = _State.READY, 0
        return self._atqa

    def _on_select(self, frame: bytes) -> bytes | None:
        """Answer ANTICOLLISION (NVB 20h..60h) or SELECT (NVB 70h) of the current level."""
        part = self._levels[self._level]
        nvb, known = frame[1:2], frame[2:]
        if nvb != b"\x70":
            if nvb != bytes([len(frame) << 4 & 0xFF]) or not part.startswith(known):
                return None
            self._state = _State.READY
            return part[len(known) :]
        if frame[2:-2] != part or not _crc_holds(frame):
            return None
        self._level += 1
        complete = self._level == len(self._levels)
        self._state = _State.ACTIVE if complete else _State.READY
        sak = bytes([self._sak if complete else 0x04])
        return sak + crc_a(sak)

    def _on_silent(self, body: bytes, state: _State) -> None:
        """Take HLTA or a polling frame, which have no answer."""
        if body == b"\x50\x00":
            if state is _State.ACTIVE:
                self._state, self._was_halted = _State.HALT, True
        elif self._gate is not None and body[0] not in _KNOWN_COMMANDS and self._gate(body):
            self._gate_open = True

    def _on_block(self, frame: bytes) -> bytes | None:
        answer = self._isodep.receive(frame[:-2]) if _crc_holds(frame) else None
        if not self._isodep.active:
            if answer is not None:
                self._was_halted = True  # S(DESELECT); without an answer it was no RATS
            self._fall_back()
        return None if answer is None else answer + crc_a(answer)


def _crc_holds(frame: bytes) -> bool:
    return len(frame) >= 3 and crc_a(frame[:-2]) == frame[-2:]


def _cascade(uid: bytes) -> tuple[bytes, ...]:
    """Return UID CLn and its check byte for each cascade level, 5 bytes each."""
    tag = bytes([_CASCADE_TAG])
    parts: list[bytes] = []
    while len(uid) > 4:
        parts.append(tag + uid[:3])
        uid = uid[3:]
    parts.append(uid)
    return tuple(part + bytes([part[0] ^ part[1] ^ part[2] ^ part[3]]) for part in parts)
