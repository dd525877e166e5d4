"""What both ends of ISO/IEC 14443-4 share: kinds of blocks, frame sizes and the ATS.

Blocks, one PCB byte first; this build neither sends nor takes CID and NAD bytes:

=============  ===========================================
I-block        ``02|03``, chaining ``12|13``, then INF
R(ACK), R(NAK) ``A2|A3``, ``B2|B3``
S(DESELECT)    ``C2``
S(WTX)         ``F2``, then WTXM 1..59 in the low six bits
=============  ===========================================

Bit 0 of I- and R-blocks is the block number. Frame sizes FSC and FSD count PCB, INF and two CRC
bytes (ISO/IEC 14443-4 §7.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from dkey.errors import LinkError, LinkReason

__all__ = ["FSC_SIZES", "WTXM_MAX", "Ats", "is_i_block", "is_r_block", "is_s_wtx"]

FSC_SIZES = (16, 24, 32, 40, 48, 64, 96, 128, 256)
"""Frame sizes by FSCI or FSDI, bytes including two of CRC."""
WTXM_MAX = 59
"""Largest multiplier of the waiting time in an S(WTX)."""

_UNIT_S = 4096 / 13.56e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Ats:
    """Answer to select: what the device can take, and how long it may think.

    Wire: ``TL T0 [TA] [TB] [TC] historical``, TL counts itself (ISO/IEC 14443-4 §5.2). The field
    defaults are those that the standard gives for an absent byte.

    Attributes:
        fsc: Largest frame that the device takes, bytes with CRC; one of FSC_SIZES.
        fwi: Frame waiting time integer, 0..14.
        sfgi: Start-up frame guard time integer, 0..14.
        ta: Bit rate capabilities, as on the wire; 0 is 106 kbit/s only.
        cid: Whether blocks with a card identifier are taken.
        nad: Whether blocks with a node address are taken.
        historical: Historical bytes, up to 15.
    """

    fsc: int = 32
    fwi: int = 4
    sfgi: int = 0
    ta: int = 0
    cid: bool = True
    nad: bool = False
    historical: bytes = b""

    def __post_init__(self) -> None:
        """Raise ValueError for what no ATS can say."""
        if (
            self.fsc not in FSC_SIZES
            or not 0 <= self.fwi <= 14
            or not 0 <= self.sfgi <= 14
            or not 0 <= self.ta <= 255
            or len(self.historical) > 15
        ):
            raise ValueError(f"no ATS can carry {self!r}")

    @classmethod
    def parse(cls, data: bytes) -> Ats:
        """Return the ATS in ``data``; LinkError(PROTOCOL) when it is not exactly one."""
        if not data or data[0] != len(data):
            raise _bad_ats("its length byte is wrong", data)
        if len(data) == 1:
            return cls()
        t0, at = data[1], 2
        if t0 & 0x80 or len(data) < 2 + (t0 & 0x70).bit_count():
            raise _bad_ats("interface bytes are missing", data)
        ta, tb, tc = 0, 0x40, 0x02
        if t0 & 0x10:
            ta, at = data[at], at + 1
        if t0 & 0x20:
            tb, at = data[at], at + 1
        if t0 & 0x40:
            tc, at = data[at], at + 1
        if len(data) - at > 15:
            raise _bad_ats("it has more than 15 historical bytes", data)
        fwi, sfgi = tb >> 4, tb & 15
        return cls(
            fsc=FSC_SIZES[min(t0 & 15, 8)],
            fwi=4 if fwi == 15 else fwi,  # §5.2.5: 15 is reserved and read as the default
            sfgi=0 if sfgi == 15 else sfgi,
            ta=ta,
            cid=bool(tc & 2),
            nad=bool(tc & 1),
            historical=data[at:],
        )

    def to_bytes(self) -> bytes:
        """Return the wire form with all three interface bytes."""
        t0 = 0x70 | FSC_SIZES.index(self.fsc)
        body = bytes([t0, self.ta, self.fwi << 4 | self.sfgi, self.cid << 1 | self.nad])
        return bytes([len(body) + len(self.historical) + 1]) + body + self.historical

    @property
    def fwt_s(self) -> float:
        """Frame waiting time: how long the device may take to begin an answer, seconds."""
        return _UNIT_S * float(1 << self.fwi)

    @property
    def sfgt_s(self) -> float:
        """Guard time that the device wants after this ATS before the first block, seconds."""
        return _UNIT_S * float(1 << self.sfgi) if self.sfgi else 0.0


def is_i_block(frame: bytes) -> bool:
    """Whether ``frame`` is an I-block; it is not empty."""
    return frame[0] & 0xEE == 0x02


def is_r_block(frame: bytes) -> bool:
    """Whether ``frame`` is an R(ACK), the only R-block that a device may send."""
    return frame[0] & 0xFE == 0xA2 and len(frame) == 1


def is_s_wtx(frame: bytes) -> bool:
    """Whether ``frame`` is an S(WTX) request or response."""
    return frame[0] == 0xF2 and len(frame) == 2


def _bad_ats(why: str, data: bytes) -> LinkError:
    return LinkError(
        LinkReason.PROTOCOL,
        f"the answer to RATS is no ATS: {why} ({data[:20].hex().upper()})",
        clause="ISO/IEC 14443-4 §5.2",
        hint="tap again; if it repeats, this card or phone does not follow the standard",
    )
