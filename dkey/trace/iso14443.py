"""Names of ISO 14443 frames, and the frames that would have carried an APDU.

Frames have no CRC here (ISO/IEC 14443-3 §6, ISO/IEC 14443-4 §5 to §7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SHORT_FRAMES", "FrameKind", "FrameNames", "FrameSynthesis"]

SHORT_FRAMES = (b"\x26", b"\x52")
"""REQA and WUPA: frames of seven bits, without a CRC."""

_MAX_INF = 253
"""Information bytes in a block at FSC 256: less one PCB and two CRC bytes."""

# A random UID (first byte 08, ISO/IEC 14443-3 §6.5.4) that spells "dky".
_UID = bytes.fromhex("08646B79")
_UID_BCC = _UID + bytes([_UID[0] ^ _UID[1] ^ _UID[2] ^ _UID[3]])
_ACTIVATION = (
    (True, bytes.fromhex("26")),
    (False, bytes.fromhex("0400")),
    (True, bytes.fromhex("9320")),
    (False, _UID_BCC),
    (True, bytes.fromhex("9370") + _UID_BCC),
    (False, bytes.fromhex("20")),
    (True, bytes.fromhex("E080")),
    (False, bytes.fromhex("0578807002")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameKind:
    """What one ISO 14443-3/-4 frame is.

    Attributes:
        name: Name for people, such as ``RATS`` or ``I-block 0``.
        inf: Offset of the information field; None for everything but an I-block.
        chained: More blocks of the same APDU follow.
        number: Block number of an I- or R-block.
        restarts: Block numbers and chains before this frame no longer count.
    """

    name: str
    inf: int | None = None
    chained: bool = False
    number: int = 0
    restarts: bool = False


class FrameNames:
    """Names frames without CRC in the order they passed (ISO/IEC 14443-3 §6, 14443-4 §5 to §7)."""

    def __init__(self) -> None:
        self._answer: str | None = None

    def kind(self, *, from_reader: bool, data: bytes) -> FrameKind:
        """Return what the next frame is; a frame that fits nothing is ``unknown``."""
        if from_reader:
            kind, self._answer = _reader_frame(data)
            return kind or _block(data)
        answer, self._answer = self._answer, None
        return FrameKind(name=answer) if answer else _block(data)


def _reader_frame(data: bytes) -> tuple[FrameKind | None, str | None]:
    """Return (kind, name of the device's answer); (None, None) for what can only be a block."""
    name: str
    answer: str | None = None
    first = data[:1].hex()
    if data in SHORT_FRAMES:
        name, answer = "REQA" if first == "26" else "WUPA", "ATQA"
    elif first in ("93", "95", "97") and len(data) >= 2:
        level = f"CL{'357'.index(first[1]) + 1}"
        whole = data[1] == 0x70
        name = f"{'select' if whole else 'anticollision'} {level}"
        answer = "SAK" if whole else f"UID {level}"
    elif data == b"\x50\x00":
        name = "HLTA"
    elif first == "e0" and len(data) == 2:
        name, answer = "RATS", "ATS"
    elif first.startswith("d") and len(data) in (2, 3):
        name, answer = "PPS", "PPS answer"
    elif first == "6a":
        name = "ECP"
    else:
        return None, None
    return FrameKind(name=name, restarts=name != "PPS"), answer


def _block(data: bytes) -> FrameKind:
    """Return the kind of an ISO 14443-4 block; CID and NAD, if announced, precede the rest."""
    if not data:
        return FrameKind(name="empty frame")
    pcb = data[0]
    number = pcb & 1
    cid = 1 if pcb & 0x08 else 0
    if pcb & 0xE2 == 0x02:
        chained = bool(pcb & 0x10)
        return FrameKind(
            name=f"I-block {number}{', more follows' if chained else ''}",
            inf=min(len(data), 1 + cid + (1 if pcb & 0x04 else 0)),
            chained=chained,
            number=number,
        )
    if pcb & 0xE6 == 0xA2:
        return FrameKind(name=f"R({'NAK' if pcb & 0x10 else 'ACK'}) {number}", number=number)
    if pcb & 0xF7 == 0xC2:
        return FrameKind(name="S(DESELECT)", restarts=True)
    if pcb & 0xF7 == 0xF2 and len(data) > 1 + cid:
        return FrameKind(name=f"S(WTX) {data[1 + cid] & 0x3F}")
    return FrameKind(name="unknown")


class FrameSynthesis:
    """Makes up the frames that would have carried APDUs: FSC 256, no CID, no errors, no WTX.

    Each field-on period begins with an activation (REQA to ATS) of a fixed UID; the block numbers
    follow ISO/IEC 14443-4 §7.5.4.
    """

    def __init__(self) -> None:
        self._active = False
        self._number = 0
        self._unanswered = False

    def restart(self) -> None:
        """The field went on or off: the next APDU needs an activation first."""
        self._active = False
        self._number = 0
        self._unanswered = False

    def frames(self, *, from_reader: bool, apdu: bytes) -> Iterator[tuple[bool, bytes]]:
        """Yield (from the reader, frame) for one APDU, activation included where it is due."""
        if not self._active:
            self._active = True
            yield from _ACTIVATION
        if from_reader and self._unanswered:
            self._number ^= 1  # else the block would look like the last one sent again
        parts = [apdu[at : at + _MAX_INF] for at in range(0, len(apdu), _MAX_INF)] or [b""]
        for part in parts[:-1]:
            yield from_reader, bytes([0x12 | self._number]) + part
            if not from_reader:
                self._number ^= 1
            yield not from_reader, bytes([0xA2 | self._number])
            if from_reader:
                self._number ^= 1
        yield from_reader, bytes([0x02 | self._number]) + parts[-1]
        if not from_reader:
            self._number ^= 1
        self._unanswered = from_reader
