"""The device's end of the ISO/IEC 14443-4 half-duplex block protocol, without IO.

A function from frame to frame; frames carry no CRC, which the layer below adds and checks. The
blocks are in :mod:`dkey.link.isodep_blocks`. Rules A to E and 1 to 13 are those of ISO/IEC 14443-4
§7.5.4 and §7.5.5.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from dkey.link.isodep_blocks import FSC_SIZES, WTXM_MAX, Ats, is_i_block, is_s_wtx

__all__ = ["IsoDepTarget"]


class IsoDepTarget:
    """The device's end: frame in, frame out, or None to stay silent.

    Each command runs once however often its blocks or answers are lost or repeated: an I-block
    that carries the number of the last one taken is a repetition and is ignored (note to rule D),
    and what was last sent is repeated on request (rule 11).

    Attributes:
        active: Whether RATS was answered and the reader has not deselected since.
    """

    def __init__(
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
        if is_i_block(frame):
            return self._on_i_block(frame)
        if pcb & 0xEE == 0xA2 and len(frame) == 1:
            return self._on_r_block(pcb)
        if is_s_wtx(frame) and self._waiting is not None and frame[1] & 0x3F == self._wtxm:
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
        if not 1 <= self._wtxm <= WTXM_MAX:
            raise ValueError(f"WTXM {self._wtxm} is not in 1..{WTXM_MAX}")
        return self._remember(bytes([0xF2, self._wtxm]))

    def _send_response(self) -> bytes:
        size = self._block_size
        part, self._response = self._response[:size], self._response[size:]
        return self._remember(bytes([(0x12 if self._response else 0x02) | self._number]) + part)

    def _remember(self, block: bytes) -> bytes:
        self._last = block
        return block
