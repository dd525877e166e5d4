"""Takes out of a trace what should not leave the bench; joins frames into APDUs to find it.

What redaction does, and no more:

* always: records of layer ``keys`` become zero bytes of the same length;
* ``strict``: in APDUs, and in the frames that carry them, zero bytes of the same length replace
  the cryptogram (AUTH0, tag 9D), signatures (9E), public keys (86, 87, 5A), certificates (tag 90
  and the data of LOAD CERT), every other primitive value of 64 or 65 bytes, and all data of a
  command this module does not know that is not TLV, and of a chain that breaks off. A block that
  was sent again loses all its data, its status word included.

What stays: lengths, tags, status words, times, notes, identifiers of readers, transactions and
chips, and the ciphertext of AUTH1, EXCHANGE and ENVELOPE, which only the session keys open. A
redacted trace can therefore still be linked to a vehicle and to a time. It is not anonymous.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dkey.trace.iso14443 import FrameKind, FrameNames
from dkey.trace.jsonl import Layer, TraceRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["join_apdus", "redact"]

_HIDDEN_TAGS = {0x9D, 0x9E, 0x86, 0x87, 0x5A, 0x90}
_KEY_OR_SIGNATURE = (64, 65)
_LOAD_CERT, _AUTH1 = 0xD1, 0x81
_SELECT, _ENVELOPE, _GET_RESPONSE, _EXCHANGE = 0xA4, 0xC3, 0xC0, 0xC9
_MAX_DEPTH = 8


def redact(records: Iterable[TraceRecord], *, strict: bool = False) -> list[TraceRecord]:
    """Return the records with the sensitive bytes zeroed (see the module docstring)."""
    kept = list(records)
    buffers = [bytearray(record.data or b"") for record in kept]
    for record, buffer in zip(kept, buffers, strict=True):
        if record.layer is Layer.KEYS:
            buffer[:] = bytes(len(buffer))
    if strict:
        frames, apdus = _Exchange(), _Exchange()
        for apdu in _joined(kept, buffers):
            frames.scrub(apdu)
        frames.close()
        for record, buffer in zip(kept, buffers, strict=True):
            if record.layer is Layer.FIELD:
                apdus.close()
            elif record.layer is Layer.APDU:
                whole = _View([(buffer, 0, len(buffer))])
                apdus.scrub(_Apdu(view=whole, from_reader=bool(record.from_reader)))
        apdus.close()
    return [
        record if record.data is None else replace(record, data=bytes(buffer))
        for record, buffer in zip(kept, buffers, strict=True)
    ]


def join_apdus(records: Iterable[TraceRecord]) -> list[TraceRecord]:
    """Return the records with an ``apdu`` record after each I-block that completes one.

    Blocks sent again are counted once; chains that break off give no APDU.
    """
    kept = list(records)
    buffers = [bytearray(record.data or b"") for record in kept]
    whole = {apdu.end: apdu for apdu in _joined(kept, buffers) if apdu.complete}
    out: list[TraceRecord] = []
    for index, record in enumerate(kept):
        out.append(record)
        if index in whole and (data := whole[index].view.data()):
            out.append(replace(record, layer=Layer.APDU, data=data, synthetic=False))
    return out


class _View:
    """Bytes that lie in pieces of several buffers, read and zeroed as if they were one."""

    def __init__(self, pieces: list[tuple[bytearray, int, int]]) -> None:
        self.pieces = pieces

    def data(self) -> bytes:
        return b"".join(bytes(buffer[start:end]) for buffer, start, end in self.pieces)

    def part(self, start: int, end: int) -> _View:
        """Return the view of bytes ``start`` to ``end`` of this one."""
        pieces = []
        at = 0
        for buffer, first, last in self.pieces:
            low, high = max(start - at, 0), min(end - at, last - first)
            if low < high:
                pieces.append((buffer, first + low, first + high))
            at += last - first
        return _View(pieces)

    def zero(self) -> None:
        for buffer, start, end in self.pieces:
            buffer[start:end] = bytes(end - start)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Apdu:
    """One APDU; ``end`` is the index of its last record, ``complete`` whether its chain ended."""

    view: _View
    from_reader: bool
    end: int = -1
    complete: bool = True


def _joined(records: list[TraceRecord], buffers: list[bytearray]) -> Iterator[_Apdu]:
    """Yield what the I-blocks carry; a block sent again is yielded again, as incomplete.

    Incomplete APDUs are what strict redaction zeroes whole.
    """
    names = FrameNames()
    numbers = _BlockNumbers()
    chains: dict[bool, list[tuple[bytearray, int, int]]] = {True: [], False: []}
    for index, record in enumerate(records):
        restarts = record.layer is Layer.FIELD
        if record.layer is Layer.FRAME:
            sender = bool(record.from_reader)
            kind = names.kind(from_reader=sender, data=bytes(buffers[index]))
            restarts = kind.restarts
            again = numbers.is_again(kind, from_reader=sender)
            if kind.inf is not None:
                piece = (buffers[index], kind.inf, len(buffers[index]))
                if again:
                    yield _Apdu(view=_View([piece]), from_reader=sender, end=index, complete=False)
                    continue
                chains[sender].append(piece)
                if not kind.chained:
                    view, chains[sender] = _View(chains[sender]), []
                    yield _Apdu(view=view, from_reader=sender, end=index)
        if restarts:
            yield from _broken_off(chains, index)
            numbers = _BlockNumbers()
    yield from _broken_off(chains, len(records))


class _BlockNumbers:
    """Tells a new I-block from one sent again (ISO/IEC 14443-4 §7.5.4, rules B, D, 11 to 13).

    An I-block with the number of the same sender's last one is that one again, unless the other
    side moved on in between: by an I-block, or by an R(ACK) that takes the last one.
    """

    def __init__(self) -> None:
        self._last: dict[bool, int | None] = {True: None, False: None}
        self._taken = {True: False, False: False}

    def is_again(self, kind: FrameKind, *, from_reader: bool) -> bool:
        """Follow one frame; return whether it is an I-block sent again."""
        peer = not from_reader
        if kind.inf is not None:
            if self._last[from_reader] == kind.number and not self._taken[from_reader]:
                return True
            self._last[from_reader] = kind.number
            self._taken = {from_reader: False, peer: True}
        elif kind.name.startswith("R(ACK)"):
            # The reader asks for the device's next block, the device confirms the reader's last.
            same = self._last[peer] == kind.number
            if same != from_reader:
                self._taken[peer] = True
        return False


def _broken_off(
    chains: dict[bool, list[tuple[bytearray, int, int]]], index: int
) -> Iterator[_Apdu]:
    for sender, pieces in chains.items():
        if pieces:
            view, chains[sender] = _View(pieces), []
            yield _Apdu(view=view, from_reader=sender, end=index, complete=False)


class _Exchange:
    """Follows commands and responses, and zeroes what strict redaction names.

    Data of chained commands (CLA bit 10) and of responses continued with GET RESPONSE (61xx) is
    looked at only when it is whole: a value may begin in one APDU and end in the next.
    """

    def __init__(self) -> None:
        self._ins: int | None = None
        self._command: list[tuple[bytearray, int, int]] = []
        self._response: list[tuple[bytearray, int, int]] = []

    def scrub(self, apdu: _Apdu) -> None:
        if not apdu.complete:
            apdu.view.zero()
        elif apdu.from_reader:
            self._scrub_command(apdu.view)
        else:
            self._scrub_response(apdu.view)

    def close(self) -> None:
        """Nothing more belongs to this exchange: what is not whole goes."""
        _View([*self._command, *self._response]).zero()
        self._ins, self._command, self._response = None, [], []

    def _scrub_command(self, view: _View) -> None:
        head = view.data()[:7]
        if len(head) < 4:
            return
        if head[1] == _GET_RESPONSE:
            return
        if self._response or (self._command and head[1] != self._ins):
            self.close()
        self._ins = head[1]
        self._command += view.part(*_command_data(view.data())).pieces
        if not head[0] & 0x10:
            whole, self._command = _View(self._command), []
            _scrub_data(whole, self._ins, from_reader=True)

    def _scrub_response(self, view: _View) -> None:
        data = view.data()
        if len(data) < 2:
            return
        self._response += view.part(0, len(data) - 2).pieces
        if data[-2] != 0x61:
            whole, self._response = _View(self._response), []
            _scrub_data(whole, self._ins, from_reader=False)


def _command_data(apdu: bytes) -> tuple[int, int]:
    """Return start and end of a command's data field, short or extended (ISO 7816-4 §5.2).

    When Lc does not fit the APDU, everything after the header counts as data.
    """
    if len(apdu) <= 5 or (len(apdu) == 7 and apdu[4] == 0):
        return 4, 4
    start, length = (7, int.from_bytes(apdu[5:7])) if apdu[4] == 0 else (5, apdu[4])
    if len(apdu) - start - length in (0, 1, 2):
        return start, start + length
    return 4, len(apdu)


def _scrub_data(view: _View, ins: int | None, *, from_reader: bool) -> None:
    if ins == _LOAD_CERT:
        view.zero()
        return
    if ins in (_SELECT, _EXCHANGE, _ENVELOPE) or (ins == _AUTH1 and not from_reader):
        return
    found = _sensitive(view.data(), 0, 0)
    if found is None:
        view.zero()
        return
    for start, end in found:
        view.part(start, end).zero()


def _sensitive(data: bytes, base: int, depth: int) -> list[tuple[int, int]] | None:
    """Return the spans of sensitive values in BER-TLV ``data``; None when it is not TLV."""
    spans: list[tuple[int, int]] = []
    at = 0
    while at < len(data):
        header = _tlv_header(data, at)
        if header is None:
            return None
        tag, start, end = header
        span = (base + start, base + end)
        if tag in _HIDDEN_TAGS:
            spans.append(span)
        elif data[at] & 0x20:
            inner = None
            if depth < _MAX_DEPTH:
                inner = _sensitive(data[start:end], base + start, depth + 1)
            spans += [span] if inner is None else inner
        elif end - start in _KEY_OR_SIGNATURE:
            spans.append(span)
        at = end
    return spans


def _tlv_header(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return (tag, start, end of the value) of the TLV at ``at``; None when it is not whole."""
    tag_end = at + 1
    if data[at] & 0x1F == 0x1F:
        while tag_end < len(data) and data[tag_end] & 0x80:
            tag_end += 1
        tag_end += 1
    if tag_end >= len(data):
        return None
    start, length = tag_end + 1, data[tag_end]
    if length & 0x80:
        size = length & 0x7F
        start += size
        if not 1 <= size <= 3 or start > len(data):
            return None
        length = int.from_bytes(data[tag_end + 1 : start])
    if start + length > len(data):
        return None
    return int.from_bytes(data[at:tag_end]), start, start + length
