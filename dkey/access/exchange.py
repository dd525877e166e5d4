"""The plaintext of EXCHANGE: mailbox commands, notices, reader status (Aliro 1.0 §8.3.3.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from dkey.codec import tlv
from dkey.codec.tlv import Field, Layout
from dkey.errors import WireError

__all__ = [
    "SUCCESS",
    "ExchangeRequest",
    "Fault",
    "MailboxOp",
    "Read",
    "ReaderStatus",
    "Set",
    "Write",
    "failure",
    "parse_response",
]

CLAUSE: Final = "Aliro 1.0 §8.3.3.5.1"
SUCCESS: Final = b"\x00\x02\x00\x00"
"""The end of every successful EXCHANGE response."""


class ReaderStatus(IntEnum):
    """Values of tags 97 and 82 (Aliro 1.0 table 8-18)."""

    KEY_NOT_FOUND = 0x0001
    KEY_EXPIRED = 0x0002
    KEY_NOT_TRUSTED = 0x0003
    BAD_DEVICE_SIGNATURE = 0x0004
    BAD_FORMAT = 0x0006
    BAD_CONTENT = 0x0007
    STATUS_WORD = 0x0020
    NO_KEY_SLOT = 0x0021
    NO_PUBLIC_KEY = 0x0022
    NO_SIGNATURE = 0x0023
    ACCESS_RIGHTS = 0x0025
    HARDWARE = 0x0026
    SECURE = 0x0100
    UNSECURE = 0x0101
    JAMMED = 0x0102
    ENTERING_SECURE = 0x0180
    ENTERING_UNSECURE = 0x0181
    UNKNOWN_STATE = 0x0182

    @property
    def success(self) -> bool:
        """Whether this status tells a state rather than a failure."""
        return self >= ReaderStatus.SECURE


class Fault(IntEnum):
    """Our values of B1B2 in a failed EXCHANGE response; any value but 0 is allowed."""

    BOUNDS = 0x0001
    RIGHTS = 0x0002
    FORMAT = 0x0003
    UNSUPPORTED = 0x0004
    STORAGE = 0x0005


@dataclass(frozen=True, slots=True)
class Read:
    """Read ``length`` bytes of the mailbox at ``offset``."""

    offset: int
    length: int

    def to_bytes(self) -> bytes:
        """Encode as tag 87: offset(2), length(2)."""
        return b"\x87\x04" + self.offset.to_bytes(2, "big") + self.length.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Write:
    """Write ``data`` into the mailbox at ``offset``."""

    offset: int
    data: bytes

    def to_bytes(self) -> bytes:
        """Encode as tag 8A: offset(2), data."""
        return tlv.encode(0x8A, self.offset.to_bytes(2, "big") + self.data)


@dataclass(frozen=True, slots=True)
class Set:
    """Fill ``length`` bytes of the mailbox at ``offset`` with ``value``."""

    offset: int
    length: int
    value: int

    def to_bytes(self) -> bytes:
        """Encode as tag 95: offset(2), length(2), value(1)."""
        return b"\x95\x05" + b"".join(
            (self.offset.to_bytes(2, "big"), self.length.to_bytes(2, "big"), bytes((self.value,)))
        )


MailboxOp = Read | Write | Set

_NOTICE_MAX: Final = 250
_PLAINTEXT: Final = Layout(
    "EXCHANGE",
    CLAUSE,
    Field(0xBA, 0, 65535, required=False),
    Field(0xAE, 0, _NOTICE_MAX, required=False),
    Field(0x97, 2, 2, required=False),
    Field(0x98, 0, 0, required=False),
    Field(0x81, 0, 65535, required=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRequest:
    """One EXCHANGE command.

    Attributes:
        mailbox: Mailbox commands in order; None when the command carries no container.
        keep_session: Open or continue an atomic mailbox session; False closes it.
        notice: Value of the AE object (reader error, descriptor, notification); None without.
        status: Reader status, which ends the transaction; None when more commands follow.
        release_ursk: Make the ranging secret available (BLE only, once).
        document_update: Value of the update_doc object; None without.
    """

    mailbox: tuple[MailboxOp, ...] | None = None
    keep_session: bool = False
    notice: bytes | None = None
    status: int | None = None
    release_ursk: bool = False
    document_update: bytes | None = None

    def to_bytes(self) -> bytes:
        """Encode in the prescribed order."""
        parts = []
        if self.mailbox is not None:
            ops = b"".join(op.to_bytes() for op in self.mailbox)
            parts.append(tlv.encode(0xBA, bytes((0x8C, 1, self.keep_session)) + ops))
        if self.notice is not None:
            parts.append(tlv.encode(0xAE, self.notice))
        if self.status is not None:
            parts.append(b"\x97\x02" + self.status.to_bytes(2, "big"))
        if self.release_ursk:
            parts.append(b"\x98\x00")
        if self.document_update is not None:
            parts.append(tlv.encode(0x81, self.document_update))
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes, *, minimal: bool = False) -> ExchangeRequest:
        """Decode the plaintext of one EXCHANGE command; unknown outer tags are skipped.

        Raises:
            WireError: Malformed, out of order, or a mailbox container without exactly one 8C.
        """
        found = _PLAINTEXT.parse(data, minimal=minimal)
        keep, ops = False, None
        if 0xBA in found:
            keep, ops = _parse_mailbox(found[0xBA], minimal=minimal)
        return cls(
            mailbox=ops,
            keep_session=keep,
            notice=found.get(0xAE),
            status=int.from_bytes(found[0x97], "big") if 0x97 in found else None,
            release_ursk=0x98 in found,
            document_update=found.get(0x81),
        )


def _parse_mailbox(value: bytes, *, minimal: bool) -> tuple[bool, tuple[MailboxOp, ...]]:
    keep: bool | None = None
    ops: list[MailboxOp] = []
    for tag, _, at, end in tlv.items(value, minimal=minimal):
        size = end - at
        if tag == 0x8C:
            if keep is not None or ops or size != 1:
                raise WireError("a mailbox container starts with exactly one 8C", clause=CLAUSE)
            keep = bool(value[at] & 1)
            continue
        if keep is None:
            raise WireError("a mailbox container starts with exactly one 8C", clause=CLAUSE)
        offset = int.from_bytes(value[at : at + 2], "big")
        length = int.from_bytes(value[at + 2 : at + 4], "big")
        if tag == 0x87 and size == 4:
            ops.append(Read(offset, length))
        elif tag == 0x8A and size >= 2:
            ops.append(Write(offset, value[at + 2 : end]))
        elif tag == 0x95 and size == 5:
            ops.append(Set(offset, length, value[at + 4]))
        else:
            raise WireError(f"mailbox command {tag:02X} of {size} bytes", clause=CLAUSE)
    if keep is None:
        raise WireError("a mailbox container starts with exactly one 8C", clause=CLAUSE)
    return keep, tuple(ops)


_NOTICE: Final = Layout(
    "EXCHANGE notice",
    CLAUSE,
    Field(0x82, 2, 2, required=False),
    Field(0xB5, 0, _NOTICE_MAX, required=False),
)


def parse_notice(value: bytes, *, minimal: bool = False) -> int | None:
    """Return the reader error (tag 82) of an AE object, or None.

    Raises:
        WireError: Malformed, or a notification (9Fxx), which needs a back end or bound app.
    """
    for tag, *_ in tlv.items(value, minimal=minimal):
        if tag >> 8 == 0x9F:
            raise WireError("this device takes no notifications", clause="Aliro 1.0 table 8-19")
    found = _NOTICE.parse(value, minimal=minimal)
    return int.from_bytes(found[0x82], "big") if 0x82 in found else None


def failure(fault: Fault) -> bytes:
    """Return the whole plaintext of a failed EXCHANGE response."""
    return b"\x00\x02" + fault.to_bytes(2, "big")


def parse_response(data: bytes) -> tuple[tuple[bytes, ...], int]:
    """Return the read results and B1B2 (0 for success) of a response plaintext.

    Wire: for each read in request order length(2) and data, then ``0002 B1 B2``.

    Raises:
        WireError: Lengths that do not add up, or a failure with anything before it.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise WireError("an EXCHANGE response ends early", clause="Aliro 1.0 §8.3.3.5.5")
        parts.append(data[at + 2 : end])
        at = end
    if not parts or len(parts[-1]) != 2:
        raise WireError("an EXCHANGE response has no result", clause="Aliro 1.0 §8.3.3.5.5")
    result = int.from_bytes(parts.pop(), "big")
    if result and parts:
        raise WireError("a failed EXCHANGE returned data", clause="Aliro 1.0 §8.3.3.5.5")
    return tuple(parts), result
