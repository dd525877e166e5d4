"""ISO/IEC 14443-4 half-duplex block protocol, both ends, without IO.

Frames here carry no CRC: the layer below adds and checks it. The reader's side is a set of
generators that yield a :class:`Transmit` and are sent the frame that answered it, or None when
nothing valid came (silence and a CRC error look alike and are recovered alike). The device's side
is a function from frame to frame.

Blocks, one PCB byte first; this build neither sends nor takes CID and NAD bytes:

=============  ===========================================
I-block        ``02|03``, chaining ``12|13``, then INF
R(ACK), R(NAK) ``A2|A3``, ``B2|B3``
S(DESELECT)    ``C2``
S(WTX)         ``F2``, then WTXM 1..59 in the low six bits
=============  ===========================================

Bit 0 of I- and R-blocks is the block number. Frame sizes FSC and FSD count PCB, INF and two CRC
bytes. Rules A to E and 1 to 13 are those of ISO/IEC 14443-4 §7.5.4 and §7.5.5.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from dkey.errors import LinkError, LinkReason

__all__ = ["FSC_SIZES", "Ats", "IsoDepInitiator", "IsoDepTarget", "Transmit", "activate"]

FSC_SIZES = (16, 24, 32, 40, 48, 64, 96, 128, 256)
"""Frame sizes by FSCI or FSDI, bytes including two of CRC."""

_CLAUSE = "ISO/IEC 14443-4 §7.5"
_UNIT_S = 4096 / 13.56e6
_MARGIN_S = 0.01  # covers the standard's 3.6 ms on top of FWT, and a reader's host interface
_LONGEST_S = 3.2  # nfcpy's PN53x driver stops waiting at 3.28 s whatever it is asked for
_RATS_S = 0.1
_WTXM_MAX = 59


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


@dataclass(frozen=True, slots=True)
class Transmit:
    """One frame to send, without CRC, and how long to wait for the frame that answers it.

    Attributes:
        frame: PCB and INF.
        timeout_s: At most 3.2 seconds.
    """

    frame: bytes
    timeout_s: float


def activate(*, max_frame: int = 256) -> Generator[Transmit, bytes | None, IsoDepInitiator]:
    """Send RATS, once more if nothing valid answers, and return the initiator for the device.

    ``max_frame`` is the largest frame that the reader can send and receive, bytes with CRC.

    Raises:
        LinkError: TIMEOUT when there is no answer, PROTOCOL when it is no ATS.
    """
    rats = bytes([0xE0, _fsdi(max_frame) << 4])
    for _ in range(2):
        frame = yield Transmit(rats, _RATS_S)
        if frame:
            return IsoDepInitiator(Ats.parse(frame), max_frame=max_frame)
    raise LinkError(
        LinkReason.TIMEOUT,
        "the device was selected but does not answer RATS",
        clause="ISO/IEC 14443-4 §5.6.1",
        hint="hold the phone or card still on the reader and tap again",
    )


class IsoDepInitiator:
    """The reader's end of one activation: carries APDUs, repairs lost frames.

    After an error, or a generator that was not run to its end, the block numbers of the two ends
    may differ, so every later ``transceive`` raises LinkError(LOST): activate again.

    Attributes:
        ats: What the device said of itself.
        sfgt_s: Wait this long after activation before the first APDU, seconds.
    """

    def __init__(  # noqa: PLR0913 - each is a limit of its own, all keyword-only
        self,
        ats: Ats,
        *,
        max_frame: int = 256,
        retries: int = 3,
        max_wtx: int = 128,
        max_wtx_total_s: float = 5.0,
        max_response: int = 65_538,
    ) -> None:
        """Take the limits.

        Args:
            ats: The device's ATS.
            max_frame: Largest frame of the reader, bytes with CRC, 16 or more.
            retries: Invalid or missing answers in a row that are repaired.
            max_wtx: S(WTX) granted for one APDU.
            max_wtx_total_s: Sum of the times granted for one APDU, seconds.
            max_response: Largest response APDU, bytes.
        """
        self.ats = ats
        self.sfgt_s = ats.sfgt_s
        self._send_size = min(ats.fsc, max_frame) - 3
        self._receive_limit = FSC_SIZES[_fsdi(max_frame)] - 2
        self._fwt_s = min(ats.fwt_s + _MARGIN_S, _LONGEST_S)
        self._retries = retries
        self._max_wtx = max_wtx
        self._max_wtx_total_s = max_wtx_total_s
        self._max_response = max_response
        self._number = 0  # rule A
        self._in_step = True
        self._wtx_count = 0
        self._wtx_total_s = 0.0

    def transceive(self, apdu: bytes) -> Generator[Transmit, bytes | None, bytes]:
        """Carry one command APDU to the device and return its response APDU.

        Raises:
            LinkError: LOST when no valid frame came after all retries, TIMEOUT when the device
                asked for more time than the caps allow, PROTOCOL when it broke the rules.
        """
        if not self._in_step:
            raise LinkError(
                LinkReason.LOST,
                "this activation ended with an earlier error",
                hint="sense the device again",
            )
        self._in_step = False
        self._wtx_count, self._wtx_total_s = 0, 0.0
        reply = yield from self._send_command(apdu)
        response = yield from self._collect_response(reply)
        self._in_step = True
        return response

    def present(self) -> Generator[Transmit, bytes | None, bool]:
        """Return whether the device still answers, between two APDUs (R(NAK), rule 12)."""
        for _ in range(2):
            frame = yield Transmit(bytes([0xB2 | self._number]), self._fwt_s)
            if frame:
                return True
        return False

    def deselect(self) -> Generator[Transmit, bytes | None, bool]:
        """End the activation; return whether the device confirmed (rule 8: asked twice)."""
        self._in_step = False
        for _ in range(2):
            frame = yield Transmit(b"\xc2", self._fwt_s)
            if frame == b"\xc2":
                return True
        return False

    def _send_command(self, apdu: bytes) -> Generator[Transmit, bytes | None, bytes]:
        """Send the command's blocks; return the first I-block of the response."""
        size = self._send_size
        last = max(0, (len(apdu) - 1) // size * size)
        for at in range(0, last, size):
            block = bytes([0x12 | self._number]) + apdu[at : at + size]
            reply = yield from self._exchange(block)
            if not _is_r_block(reply):
                raise self._protocol("the device answered before the command was complete", reply)
            self._number ^= 1  # rule B
        return (yield from self._exchange(bytes([0x02 | self._number]) + apdu[last:]))

    def _collect_response(self, reply: bytes) -> Generator[Transmit, bytes | None, bytes]:
        """Join the response's blocks, of which ``reply`` is the first."""
        response = bytearray()
        while True:
            if not _is_i_block(reply):
                raise self._protocol("the device acknowledged instead of answering", reply)
            response += memoryview(reply)[1:]
            self._number ^= 1  # rule B
            if len(response) > self._max_response:
                raise self._protocol(f"the response exceeds {self._max_response} bytes", reply)
            if not reply[0] & 0x10:
                return bytes(response)
            if len(reply) == 1:  # legal to read, but a chain of these would never end
                raise self._protocol("the device chains an empty block", reply)
            reply = yield from self._exchange(bytes([0xA2 | self._number]))

    def _exchange(self, block: bytes) -> Generator[Transmit, bytes | None, bytes]:
        """Send one block; return the I-block or R(ACK) with the current number that answers it.

        Any other valid block is an old one that came late or twice, and is treated as invalid.
        """
        number = self._number
        repair = block if _is_r_block(block) else bytes([0xB2 | number])  # rule 5, rule 4
        send, timeout_s = block, self._fwt_s
        errors, strange = 0, b""
        while True:
            frame = yield Transmit(send, timeout_s)
            if frame and len(frame) <= self._receive_limit:
                if _is_s_wtx(frame):
                    send, timeout_s = self._grant(frame)
                    errors = 0
                    continue
                if _is_i_block(frame) or _is_r_block(frame):
                    if frame[0] & 1 == number:
                        return frame
                    # Rule 6, only as the answer to our R(NAK): repeating an I-block on a late
                    # R(ACK) would make a device that does not check numbers run it twice.
                    if frame[0] == 0xA2 | number ^ 1 and send[0] & 0xF0 == 0xB0:
                        send, timeout_s = block, self._fwt_s
                        continue
            if frame:
                strange = frame
            errors += 1
            if errors > self._retries:
                if strange:
                    raise self._protocol("the device keeps sending blocks out of turn", strange)
                raise LinkError(
                    LinkReason.LOST,
                    f"the device stopped answering ({errors} frames without a valid answer)",
                    clause=_CLAUSE,
                    hint="hold the phone or card on the reader until it signals the end",
                )
            send, timeout_s = repair, self._fwt_s

    def _grant(self, request: bytes) -> tuple[bytes, float]:
        """Return the S(WTX) response to ``request`` and the time it grants, within the caps."""
        multiplier = request[1] & 0x3F
        if not 1 <= multiplier <= _WTXM_MAX:
            raise self._protocol(f"S(WTX) asks for {multiplier} times the waiting time", request)
        granted_s = min(multiplier * self.ats.fwt_s + _MARGIN_S, _LONGEST_S)
        self._wtx_count += 1
        self._wtx_total_s += granted_s
        if self._wtx_count > self._max_wtx or self._wtx_total_s > self._max_wtx_total_s:
            raise LinkError(
                LinkReason.TIMEOUT,
                f"the device asked for more time {self._wtx_count} times without answering",
                clause="ISO/IEC 14443-4 §7.3",
                hint="wake or unlock the phone and tap again",
            )
        return bytes([0xF2, multiplier]), granted_s

    @staticmethod
    def _protocol(message: str, block: bytes) -> LinkError:
        return LinkError(
            LinkReason.PROTOCOL,
            f"{message} (block {block[:4].hex().upper()})",
            clause=_CLAUSE,
            hint="tap again; if it repeats, record a trace with --trace and look at the blocks",
        )


class IsoDepTarget:
    """The device's end: frame in, frame out, or None to stay silent.

    Each command runs once however often its blocks or answers are lost or repeated: an I-block
    that carries the number of the last one taken is a repetition and is ignored (note to rule D),
    and what was last sent is repeated on request (rule 11).

    Attributes:
        active: Whether RATS was answered and the reader has not deselected since.
    """

    def __init__(  # noqa: PLR0913 - the fields of the ATS, all keyword-only
        self,
        answer: Callable[[bytes], bytes | Generator[int, None, bytes]],
        *,
        fsci: int = 8,
        fwi: int = 8,
        sfgi: int = 0,
        historical: bytes = b"",
        max_command: int = 65_544,
    ) -> None:
        """Take the device's parameters.

        Args:
            answer: Called once for each command APDU. Returns the response APDU, or a generator
                that yields WTXM values 1..59 to ask for time and returns it.
            fsci: Index into FSC_SIZES of the largest frame taken.
            fwi: Frame waiting time integer, 0..14.
            sfgi: Start-up frame guard time integer, 0..14.
            historical: Historical bytes of the ATS.
            max_command: Largest command APDU, bytes; after a longer one the target is silent
                until it is deselected or reset.
        """
        self._ats = Ats(fsc=FSC_SIZES[fsci], fwi=fwi, sfgi=sfgi, cid=False, historical=historical)
        self._answer = answer
        self._max_command = max_command
        self._waiting: Generator[int, None, bytes] | None = None
        self.reset()

    @property
    def ats(self) -> bytes:
        """The ATS as sent."""
        return self._ats.to_bytes()

    def reset(self) -> None:
        """Forget everything, as at field-off."""
        if self._waiting is not None:
            self._waiting.close()
        self._waiting = None
        self._wtxm = 0
        self.active = False
        self._first = False  # no block seen yet: RATS and PPS are still allowed
        self._deaf = False
        self._number = 1  # rule C
        self._block_size = 0
        self._command = bytearray()
        self._response = b""
        self._last: bytes | None = None

    def receive(self, frame: bytes) -> bytes | None:  # noqa: PLR0911 - one return for each block kind
        """Return the answer to one frame of the reader; both without CRC."""
        if not frame or len(frame) > self._ats.fsc - 2:
            return None
        if not self.active or (self._first and frame[0] == 0xE0):
            return self._on_rats(frame)
        pcb = frame[0]
        if pcb == 0xC2 and len(frame) == 1:
            self.reset()
            return frame
        if self._first and pcb & 0xF0 == 0xD0:
            # PPS: only the bit rate in use, 106 kbit/s, can be confirmed.
            return frame[:1] if frame in (b"\xd0\x01", b"\xd0\x11\x00") else None
        if self._deaf:
            return None
        if _is_i_block(frame):
            return self._on_i_block(frame)
        if pcb & 0xEE == 0xA2 and len(frame) == 1:
            return self._on_r_block(pcb)
        if _is_s_wtx(frame) and self._waiting is not None and frame[1] & 0x3F == self._wtxm:
            return self._resume()
        return None

    def _on_rats(self, frame: bytes) -> bytes | None:
        # A repeated RATS is answered until the first block: the ATS may have been lost.
        if len(frame) != 2 or frame[0] != 0xE0 or frame[1] & 15 == 15:
            return None
        self.active = self._first = True
        self._block_size = FSC_SIZES[min(frame[1] >> 4, 8)] - 3
        return self.ats

    def _on_i_block(self, frame: bytes) -> bytes | None:
        if frame[0] & 1 == self._number or self._waiting is not None or self._response:
            return None  # repeated, or the reader did not wait for the whole answer
        self._first = False
        self._command += memoryview(frame)[1:]
        if len(self._command) > self._max_command:
            self._deaf = True
            self._command.clear()
            return None
        self._number ^= 1  # rule D
        if frame[0] & 0x10:
            return self._remember(bytes([0xA2 | self._number]))  # rule 2
        command = bytes(self._command)
        self._command.clear()
        answer = self._answer(command)
        if isinstance(answer, Generator):
            self._waiting = answer
            return self._resume()
        self._response = answer
        return self._send_response()

    def _on_r_block(self, pcb: int) -> bytes | None:
        self._first = False
        if pcb & 1 == self._number:
            return self._last  # rule 11
        if pcb & 0x10:
            return bytes([0xA2 | self._number])  # rule 12; not kept: rule 11 never asks for it
        if self._response:
            self._number ^= 1  # rule E
            return self._send_response()  # rule 13
        return None

    def _resume(self) -> bytes:
        """Run the pending answer to its next request for time, or to its end."""
        assert self._waiting is not None  # callers check
        try:
            self._wtxm = next(self._waiting)
        except StopIteration as finished:
            self._waiting = None
            self._response = finished.value
            return self._send_response()
        if not 1 <= self._wtxm <= _WTXM_MAX:
            raise ValueError(f"WTXM {self._wtxm} is not in 1..{_WTXM_MAX}")
        return self._remember(bytes([0xF2, self._wtxm]))

    def _send_response(self) -> bytes:
        size = self._block_size
        part, self._response = self._response[:size], self._response[size:]
        return self._remember(bytes([(0x12 if self._response else 0x02) | self._number]) + part)

    def _remember(self, block: bytes) -> bytes:
        self._last = block
        return block


def _is_i_block(frame: bytes) -> bool:
    return frame[0] & 0xEE == 0x02


def _is_r_block(frame: bytes) -> bool:
    """Whether ``frame`` is an R(ACK), the only R-block that a device may send."""
    return frame[0] & 0xFE == 0xA2 and len(frame) == 1


def _is_s_wtx(frame: bytes) -> bool:
    return frame[0] == 0xF2 and len(frame) == 2


def _fsdi(max_frame: int) -> int:
    """Return the index of the largest standard frame size within ``max_frame`` bytes."""
    if max_frame < FSC_SIZES[0]:
        raise ValueError(f"a reader must take frames of {FSC_SIZES[0]} bytes, not {max_frame}")
    return max(index for index, size in enumerate(FSC_SIZES) if size <= max_frame)


def _bad_ats(why: str, data: bytes) -> LinkError:
    return LinkError(
        LinkReason.PROTOCOL,
        f"the answer to RATS is no ATS: {why} ({data[:20].hex().upper()})",
        clause="ISO/IEC 14443-4 §5.2",
        hint="tap again; if it repeats, this card or phone does not follow the standard",
    )
