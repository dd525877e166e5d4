"""ISO/IEC 7816-4 command and response APDUs, short and extended, and their chaining.

:class:`Command` and :class:`Response` are values. :func:`exchange` is the reader's end of
command chaining, ``61xx``/GET RESPONSE and ``6Cxx``; :class:`Assembler` and :class:`Splitter` are
the device's end. All of it is pure: bytes in, bytes out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from dkey.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "CHAIN",
    "GET_RESPONSE",
    "SW",
    "Assembler",
    "Command",
    "Limits",
    "Response",
    "Splitter",
    "exchange",
]

CLAUSE: Final = "ISO/IEC 7816-4 §5"
CHAIN: Final = 0x10
"""Class bit of every block of a command chain but the last."""
GET_RESPONSE: Final = 0xC0
SHORT_DATA: Final = 255
SHORT_RESPONSE: Final = 256


class SW(IntEnum):
    """Status words that this stack sends (Aliro 1.0 §8.3.2.3 fixes success only)."""

    OK = 0x9000
    WRONG_LENGTH = 0x6700
    SECURITY = 0x6982
    CONDITIONS = 0x6985
    WRONG_DATA = 0x6A80
    NOT_FOUND = 0x6A82
    WRONG_P1P2 = 0x6A86
    INS_UNKNOWN = 0x6D00
    CLA_UNKNOWN = 0x6E00
    GENERAL = 0x6400


@dataclass(frozen=True, slots=True)
class Command:
    """A command APDU.

    Attributes:
        cla: Class byte.
        ins: Instruction byte.
        p1: First parameter byte.
        p2: Second parameter byte.
        data: 0..65535 bytes.
        le: Expected response size 1..65536, or None when no response data is expected.
        extended: Force three-byte lengths even where one byte would do.
    """

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    le: int | None = None
    extended: bool = False

    def to_bytes(self) -> bytes:
        """Encode as case 1, 2, 3 or 4, short where that is possible and not ``extended``."""
        head = bytes((self.cla, self.ins, self.p1, self.p2))
        size, le = len(self.data), self.le
        if size > SHORT_DATA or (le is not None and le > SHORT_RESPONSE) or self.extended:
            return head + self._extended_tail()
        if size:
            head += bytes((size,)) + self.data
        return head if le is None else head + bytes((le & 0xFF,))

    def _extended_tail(self) -> bytes:
        size, le = len(self.data), self.le
        tail = b"\x00" + size.to_bytes(2, "big") + self.data if size else b""
        if le is None:
            return tail
        return tail + (b"" if size else b"\x00") + (le & 0xFFFF).to_bytes(2, "big")

    @classmethod
    def parse(cls, apdu: bytes) -> Command:
        """Decode exactly one command APDU.

        Raises:
            WireError: Fewer than four bytes, or lengths that contradict each other.
        """
        size = len(apdu)
        if size < 4:
            raise WireError(f"a command APDU has at least 4 bytes, not {size}", clause=CLAUSE)
        cla, ins, p1, p2 = apdu[0], apdu[1], apdu[2], apdu[3]
        if size == 4:
            return cls(cla, ins, p1, p2)
        lc = apdu[4]
        if size == 5:
            return cls(cla, ins, p1, p2, b"", lc or SHORT_RESPONSE)
        if lc:
            if size == 5 + lc:
                return cls(cla, ins, p1, p2, apdu[5:])
            if size == 6 + lc:
                return cls(cla, ins, p1, p2, apdu[5:-1], apdu[-1] or SHORT_RESPONSE)
            raise WireError(f"Lc {lc} does not fit an APDU of {size} bytes", clause=CLAUSE)
        return cls._parse_extended(apdu)

    @classmethod
    def _parse_extended(cls, apdu: bytes) -> Command:
        cla, ins, p1, p2 = apdu[:4]
        size = len(apdu)
        if size == 7:
            le = int.from_bytes(apdu[5:7], "big") or 65536
            return cls(cla, ins, p1, p2, b"", le, extended=True)
        lc = int.from_bytes(apdu[5:7], "big")
        if lc and size == 7 + lc:
            return cls(cla, ins, p1, p2, apdu[7:], extended=True)
        if lc and size == 9 + lc:
            le = int.from_bytes(apdu[-2:], "big") or 65536
            return cls(cla, ins, p1, p2, apdu[7:-2], le, extended=True)
        raise WireError(f"extended Lc {lc} does not fit an APDU of {size} bytes", clause=CLAUSE)


@dataclass(frozen=True, slots=True)
class Response:
    """A response APDU: ``data`` (0..65536 bytes) and the status word ``sw``."""

    data: bytes = b""
    sw: int = SW.OK

    def to_bytes(self) -> bytes:
        """Encode as data, then two status bytes."""
        return self.data + self.sw.to_bytes(2, "big")

    @classmethod
    def parse(cls, apdu: bytes) -> Response:
        """Decode exactly one response APDU.

        Raises:
            WireError: Fewer than two bytes.
        """
        if len(apdu) < 2:
            raise WireError(f"a response APDU has at least 2 bytes, not {len(apdu)}", clause=CLAUSE)
        return cls(apdu[:-2], apdu[-2] << 8 | apdu[-1])


@dataclass(frozen=True, slots=True)
class Limits:
    """What the peer takes in one APDU.

    Attributes:
        command: Largest command APDU, bytes; over 261 means extended lengths are allowed.
        response: Largest Ne to ask for.
        total: Cap on an assembled response, bytes.
    """

    command: int = 261
    response: int = SHORT_RESPONSE
    total: int = 65536

    @property
    def extended(self) -> bool:
        """Whether extended lengths may be used at all."""
        return self.command > 261


SHORT: Final = Limits()


def exchange(command: Command, limits: Limits = SHORT) -> Generator[bytes, bytes, Response]:
    """Send one command of any size and collect its whole response (the reader's end).

    Yields command APDUs and receives response APDUs. Data that does not fit the peer's limits is
    chained; ``61xx`` is followed by GET RESPONSE with class 00, ``6Cxx`` by the same command with
    the right Le.

    Raises:
        WireError: A response under two bytes, more data than ``limits.total``, a chain that never
            ends, or ``6Cxx`` twice.
    """
    command = _within(command, limits)
    if len(command.data) <= SHORT_DATA:
        answer = Response.parse((yield command.to_bytes()))
    else:
        answer = yield from _send(command, limits)
    if answer.sw == SW.OK:
        return answer
    if answer.sw >> 8 == 0x6C and not answer.data:
        answer = yield from _send(replace(command, le=answer.sw & 0xFF or SHORT_RESPONSE), limits)
        if answer.sw >> 8 == 0x6C:
            raise WireError("the device answered 6Cxx twice", clause="ISO/IEC 7816-4 §5.6")
    if answer.sw >> 8 == 0x61:
        answer = yield from _collect(answer, limits)
    return answer


def _within(command: Command, limits: Limits) -> Command:
    """Return the command in the form that the peer takes: extended only where it may be."""
    if not command.extended and (command.le is None or command.le <= SHORT_RESPONSE):
        return command
    fits = limits.extended and len(command.data) + 9 <= limits.command
    most = limits.response if fits else SHORT_RESPONSE
    le = None if command.le is None else min(command.le, most)
    if le == command.le and (fits or not command.extended):
        return command
    return replace(command, le=le, extended=fits and command.extended)


def _send(command: Command, limits: Limits) -> Generator[bytes, bytes, Response]:
    """Send one command as it is, or in a chain when its data fits no single APDU of the peer."""
    if len(command.data) <= SHORT_DATA or len(command.data) + 9 <= limits.command:
        return Response.parse((yield command.to_bytes()))
    return (yield from _send_chained(command))


def _send_chained(command: Command) -> Generator[bytes, bytes, Response]:
    data = command.data
    last = (len(data) - 1) // SHORT_DATA * SHORT_DATA
    for at in range(0, last, SHORT_DATA):
        block = Command(
            command.cla | CHAIN, command.ins, command.p1, command.p2, data[at : at + SHORT_DATA]
        )
        answer = Response.parse((yield block.to_bytes()))
        if answer.sw != SW.OK:
            return answer
        if answer.data:
            raise WireError("a command chain block was answered with data", clause=CLAUSE)
    le = None if command.le is None else min(command.le, SHORT_RESPONSE)
    final = Command(command.cla, command.ins, command.p1, command.p2, data[last:], le)
    return Response.parse((yield final.to_bytes()))


def _collect(answer: Response, limits: Limits) -> Generator[bytes, bytes, Response]:
    parts, total = [answer.data], len(answer.data)
    while answer.sw >> 8 == 0x61:
        ask = Command(0x00, GET_RESPONSE, 0x00, 0x00, b"", answer.sw & 0xFF or SHORT_RESPONSE)
        answer = Response.parse((yield ask.to_bytes()))
        if answer.sw >> 8 == 0x6C and not answer.data:
            ask = replace(ask, le=answer.sw & 0xFF or SHORT_RESPONSE)
            answer = Response.parse((yield ask.to_bytes()))
        total += len(answer.data)
        if total > limits.total or (not answer.data and answer.sw >> 8 == 0x61):
            raise WireError("the response chain does not end", clause=CLAUSE)
        parts.append(answer.data)
    if answer.sw != SW.OK:
        return Response(b"", answer.sw)
    return Response(b"".join(parts), answer.sw)


class Assembler:
    """The device's end of command chaining.

    Args:
        limit: Cap on the assembled command data, bytes; Aliro 1.0 §8.3.2.2 asks for at least
            2000.
    """

    __slots__ = ("_head", "_limit", "_parts", "_size")

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Forget a begun chain."""
        self._head: tuple[int, int, int, int] | None = None
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def open(self) -> bool:
        """Whether a chain was begun and its last block has not come."""
        return self._head is not None

    def feed(self, command: Command) -> Command | None:
        """Take one command; return the whole command, or None when more blocks must come.

        Raises:
            WireError: A block of another command inside a chain, an empty chain block, or more
                data than the limit. The chain is forgotten.
        """
        more = bool(command.cla & CHAIN)
        if self._head is None and not more:
            return command
        head = (command.cla & ~CHAIN, command.ins, command.p1, command.p2)
        if (self._head not in (None, head)) or (more and not command.data):
            self.reset()
            raise WireError("a command chain was broken by another command", clause=CLAUSE)
        self._head = head
        self._size += len(command.data)
        if self._size > self._limit:
            self.reset()
            raise WireError(f"a command chain is over {self._limit} bytes", clause=CLAUSE)
        self._parts.append(command.data)
        if more:
            return None
        data = b"".join(self._parts)
        self.reset()
        return Command(*head, data, command.le, command.extended)


class Splitter:
    """The device's end of response chaining: keeps what did not fit for GET RESPONSE."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def reset(self) -> None:
        """Forget what is left."""
        self._rest = b""

    @property
    def pending(self) -> bool:
        """Whether GET RESPONSE would return data."""
        return bool(self._rest)

    def first(self, response: Response, le: int | None) -> Response:
        """Return the part of ``response`` that fits ``le`` and keep the rest."""
        self._rest = b""
        room = SHORT_RESPONSE if le is None else le
        if response.sw != SW.OK or len(response.data) <= room:
            return response
        return self._cut(response.data, room)

    def next(self, le: int | None) -> Response:
        """Return the next part for a GET RESPONSE with ``le``."""
        rest, self._rest = self._rest, b""
        return self._cut(rest, SHORT_RESPONSE if le is None else le)

    def _cut(self, data: bytes, room: int) -> Response:
        if len(data) <= room:
            return Response(data)
        self._rest = data[room:]
        left = len(self._rest)
        return Response(data[:room], 0x6100 | (left if left < 256 else 0))
