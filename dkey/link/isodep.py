"""The reader's end of the ISO/IEC 14443-4 half-duplex block protocol, without IO.

Frames here carry no CRC: the layer below adds and checks it. The procedures are generators that
yield a :class:`Transmit` and are sent the frame that answered it, or None when nothing valid came
(silence and a CRC error look alike and are recovered alike).

The blocks and the ATS are in :mod:`dkey.link.isodep_blocks`, the device's end is in
:mod:`dkey.link.isodep_target`. Rules A to E and 1 to 13 are those of ISO/IEC 14443-4 §7.5.4 and
§7.5.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dkey.errors import LinkError, LinkReason
from dkey.link.isodep_blocks import FSC_SIZES, WTXM_MAX, Ats, is_i_block, is_r_block, is_s_wtx
from dkey.link.isodep_target import IsoDepTarget

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["FSC_SIZES", "Ats", "IsoDepInitiator", "IsoDepTarget", "Transmit", "activate"]

_CLAUSE = "ISO/IEC 14443-4 §7.5"
_MARGIN_S = 0.01  # covers the standard's 3.6 ms on top of FWT, and a reader's host interface
_LONGEST_S = 3.2  # nfcpy's PN53x driver stops waiting at 3.28 s whatever it is asked for
_RATS_S = 0.1


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

    def __init__(
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
            if not is_r_block(reply):
                raise self._protocol("the device answered before the command was complete", reply)
            self._number ^= 1  # rule B
        return (yield from self._exchange(bytes([0x02 | self._number]) + apdu[last:]))

    def _collect_response(self, reply: bytes) -> Generator[Transmit, bytes | None, bytes]:
        """Join the response's blocks, of which ``reply`` is the first."""
        response = bytearray()
        while True:
            if not is_i_block(reply):
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
        repair = block if is_r_block(block) else bytes([0xB2 | number])  # rule 5, rule 4
        send, timeout_s = block, self._fwt_s
        errors, strange = 0, b""
        while True:
            frame = yield Transmit(send, timeout_s)
            if frame and len(frame) <= self._receive_limit:
                if is_s_wtx(frame):
                    send, timeout_s = self._grant(frame)
                    errors = 0
                    continue
                if is_i_block(frame) or is_r_block(frame):
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
        if not 1 <= multiplier <= WTXM_MAX:
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


def _fsdi(max_frame: int) -> int:
    """Return the index of the largest standard frame size within ``max_frame`` bytes."""
    if max_frame < FSC_SIZES[0]:
        raise ValueError(f"a reader must take frames of {FSC_SIZES[0]} bytes, not {max_frame}")
    return max(index for index, size in enumerate(FSC_SIZES) if size <= max_frame)
