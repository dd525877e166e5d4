"""Framing of whole messages over GATT, where no L2CAP channel can be had (specs/ble.md §3).

Wire, one chunk: ``header(1) || [length(2, big-endian)] || data(1..)``. Header bits: 80 FIRST, 40
LAST, 5:0 a sequence number that starts at 0 with the connection and rises by one with each chunk,
modulo 64, also across messages. Only a FIRST chunk carries the length, that of the whole message.
One message is on its way at a time in each direction. Anything else ends the link: there is no
resynchronisation.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from dkey.errors import LinkError, LinkReason, LocalFault

__all__ = ["FIRST", "LAST", "MAX_MESSAGE", "MIN_CHUNK", "Fragmenter", "Reassembler"]

CLAUSE: Final = "specs/ble.md §3"
FIRST: Final = 0x80
LAST: Final = 0x40
_SEQUENCE: Final = 0x3F
MIN_CHUNK: Final = 4
"""Header, length and one byte."""
MAX_MESSAGE: Final = 0xFFFF


class Fragmenter:
    """Cuts messages into chunks; one for each direction of a connection.

    Args:
        chunk_size: Most bytes of a chunk: 20, 182, 244 or 512 are usual; at least MIN_CHUNK.
    """

    __slots__ = ("_room", "_sequence")

    def __init__(self, chunk_size: int) -> None:
        if chunk_size < MIN_CHUNK:
            raise LocalFault(
                f"a chunk has at least {MIN_CHUNK} bytes, not {chunk_size}",
                clause=CLAUSE,
                hint="pass the characteristic's largest write without response",
            )
        self._room = chunk_size - 1
        self._sequence = 0

    def split(self, message: bytes) -> list[bytes]:
        """Return the chunks of one message of 1..65535 bytes.

        Raises:
            LocalFault: The message is empty or too long.
        """
        size = len(message)
        if not 1 <= size <= MAX_MESSAGE:
            raise LocalFault(f"a message has 1..{MAX_MESSAGE} bytes, not {size}", clause=CLAUSE)
        data = size.to_bytes(2, "big") + message
        chunks: list[bytes] = []
        for at in range(0, len(data), self._room):
            flags = (0 if at else FIRST) | (LAST if at + self._room >= len(data) else 0)
            chunks.append(bytes((flags | self._sequence,)) + data[at : at + self._room])
            self._sequence = (self._sequence + 1) & _SEQUENCE
        return chunks


class Reassembler:
    """Puts chunks together; one for each direction of a connection.

    What is held grows with what came, never with what a chunk claims. The owner takes finished
    messages with :meth:`take` and ends a connection whose message never finishes:
    :attr:`started_at` says since when it waits.

    Args:
        max_message: Longest message, bytes.
        max_pending: Most bytes held at a time: finished messages not taken yet, and the one that
            is not finished.

    Attributes:
        started_at: Time of the first chunk of the unfinished message; None when there is none.
    """

    __slots__ = (
        "_finished",
        "_held",
        "_max_message",
        "_max_pending",
        "_part",
        "_sequence",
        "_size",
        "started_at",
    )

    def __init__(self, *, max_message: int = 4096, max_pending: int = 8192) -> None:
        self._max_message = max_message
        self._max_pending = max_pending
        self._finished: deque[bytes] = deque()
        self._held = 0
        self._part = bytearray()
        self._size = 0
        self._sequence = 0
        self.started_at: float | None = None

    @property
    def pending(self) -> int:
        """Bytes held now."""
        return self._held

    def take(self) -> bytes | None:
        """Return the next finished message, or None."""
        if not self._finished:
            return None
        message = self._finished.popleft()
        self._held -= len(message)
        return message

    def feed(self, chunk: bytes, now: float) -> None:
        """Take one chunk.

        Raises:
            LinkError: PROTOCOL: a gap in the sequence, an empty chunk, a claimed length over the
                cap, more or fewer bytes than claimed, a message inside another, or too much held.
                Close the connection; nothing that is held may be used.
        """
        at = 3 if chunk and chunk[0] & FIRST else 1
        if len(chunk) <= at:
            raise _broken("a chunk without data")
        if chunk[0] & _SEQUENCE != self._sequence:
            raise _broken(f"chunk {chunk[0] & _SEQUENCE} came instead of {self._sequence}")
        self._sequence = (self._sequence + 1) & _SEQUENCE
        if (at == 3) is not (self.started_at is None):
            raise _broken("a message begins inside another, or was not begun")
        if at == 3:
            self._begin(chunk[1] << 8 | chunk[2], now)
        arrived = len(chunk) - at
        if len(self._part) + arrived > self._size:
            raise _broken(f"more bytes than the {self._size} that were claimed")
        if self._held + arrived > self._max_pending:
            raise _broken(f"more than {self._max_pending} bytes are pending")
        self._part += chunk[at:]
        self._held += arrived
        if chunk[0] & LAST:
            self._finish()
        elif len(self._part) == self._size:
            raise _broken("a message is whole without a last chunk")

    def _begin(self, claimed: int, now: float) -> None:
        if not 1 <= claimed <= self._max_message:
            raise _broken(f"a message of {claimed} bytes is over the cap of {self._max_message}")
        self._size = claimed
        self.started_at = now

    def _finish(self) -> None:
        if len(self._part) != self._size:
            raise _broken(f"{len(self._part)} bytes came of the {self._size} that were claimed")
        self._finished.append(bytes(self._part))
        self._part = bytearray()
        self.started_at = None


def _broken(text: str) -> LinkError:
    return LinkError(
        LinkReason.PROTOCOL, text, clause=CLAUSE, hint="close the connection and connect again"
    )
