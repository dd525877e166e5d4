"""The mailbox: a small store on the device that readers and issuer share (Aliro 1.0 §8.3.3.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dkey.access.exchange import Fault, MailboxOp, Read, Set, Write
from dkey.access.messages import Signaling
from dkey.errors import RemoteFault

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Mailbox", "MailboxFault"]

CLAUSE: Final = "Aliro 1.0 §8.3.3.5"
MAX_STAGED: Final = 1 << 16
"""Cap on the bytes that one atomic session may stage."""


class MailboxFault(RemoteFault):
    """A mailbox command is out of bounds or not permitted; nothing of it was done."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text, clause=CLAUSE)
        self.fault = fault


@dataclass(slots=True)
class Mailbox:
    """Content, rights and a session of staged changes.

    Reads return what was committed before the command, also in the command that commits.

    Attributes:
        data: Content; its length is the mailbox's size, at most 65535 bytes.
        readable: Whether readers may read.
        writable: Whether readers may write and set.
        subset: (offset, length) of the part that AUTH1 carries; None when it carries none.
    """

    data: bytes
    readable: bool = True
    writable: bool = True
    subset: tuple[int, int] | None = None
    _staged: list[Write | Set] = field(default_factory=list, repr=False)
    _staged_size: int = field(default=0, repr=False)
    _open: bool = field(default=False, repr=False)

    @property
    def session_open(self) -> bool:
        """Whether an atomic session waits for its closing command."""
        return self._open

    @property
    def signaling(self) -> int:
        """This mailbox's bits of the signaling bitmap."""
        bits = Signaling.MAILBOX_NOT_ZERO if any(self.data) else 0
        bits |= Signaling.MAILBOX_READ if self.readable else 0
        return bits | (Signaling.MAILBOX_WRITE if self.writable else 0)

    @property
    def auth1_part(self) -> bytes | None:
        """The subset that an AUTH1 response carries."""
        if self.subset is None:
            return None
        offset, length = self.subset
        return self.data[offset : offset + length]

    def discard(self) -> None:
        """Forget a session that was not closed."""
        self._staged.clear()
        self._staged_size = 0
        self._open = False

    def stage(self, ops: Iterable[MailboxOp]) -> tuple[bytes, ...]:
        """Check and stage one command's changes; return its reads.

        Raises:
            MailboxFault: Any one is out of bounds or not permitted: none was staged.
        """
        reads: list[bytes] = []
        changes: list[Write | Set] = []
        size = self._staged_size
        for op in ops:
            self._check(op)
            if isinstance(op, Read):
                reads.append(self.data[op.offset : op.offset + op.length])
            else:
                changes.append(op)
                size += len(op.data) if isinstance(op, Write) else 8
        if size > MAX_STAGED:
            raise MailboxFault(Fault.BOUNDS, f"a session stages more than {MAX_STAGED} bytes")
        self._staged += changes
        self._staged_size = size
        self._open = True
        return tuple(reads)

    def preview(self) -> bytes | None:
        """Return the content with the staged changes made, or None when there are none."""
        if not self._staged:
            return None
        content = bytearray(self.data)
        for op in self._staged:
            if isinstance(op, Write):
                content[op.offset : op.offset + len(op.data)] = op.data
            else:
                content[op.offset : op.offset + op.length] = bytes((op.value,)) * op.length
        return bytes(content)

    def commit(self) -> None:
        """Make the staged changes and close the session."""
        content = self.preview()
        if content is not None:
            self.data = content
        self.discard()

    def _check(self, op: MailboxOp) -> None:
        length = len(op.data) if isinstance(op, Write) else op.length
        if op.offset + length > len(self.data):
            raise MailboxFault(Fault.BOUNDS, "a mailbox command is out of bounds")
        if not (self.readable if isinstance(op, Read) else self.writable):
            raise MailboxFault(Fault.RIGHTS, "a mailbox command is not permitted")
