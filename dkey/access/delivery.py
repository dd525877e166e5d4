"""Delivery of a key parcel: the vehicle takes it from the phone's mailbox (specs/lifecycle.md §7).

The mailbox of a phone begins with the header of its parcel, which rides in every AUTH1 response.
Behind it lie 16 bytes that the vehicle writes its receipt to, then the parcel's body. The vehicle
reads the body only when it is news (:func:`is_due`): the key is not admitted yet, or a list is
newer than its own. It leaves its receipt in every standard transaction, so that the phone knows
what the vehicle knew last. Where nothing is due, the receipt rides in the last EXCHANGE.

The procedure is a generator of EXCHANGE requests that is sent the data of their reads, so that one
code runs over NFC (:func:`over_session`) and over BLE, where requests travel as messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from dkey.access.exchange import ExchangeRequest, Read, Write
from dkey.access.mailbox import Mailbox
from dkey.access.messages import Signaling
from dkey.errors import WireError
from dkey.lifecycle.parcel import HEADER_SIZE, KeyParcel, ParcelHeader, VehicleReceipt

if TYPE_CHECKING:
    from collections.abc import Generator

    from dkey.access.session import Session

__all__ = [
    "BODY_AT",
    "RECEIPT_AT",
    "RECEIPT_SIZE",
    "Taker",
    "announced",
    "carries_news",
    "deliver",
    "is_due",
    "mailbox_of",
    "over_session",
    "receipt_in",
    "receipt_write",
]

T = TypeVar("T")
CLAUSE: Final = "specs/lifecycle.md §7"
RECEIPT_AT: Final = HEADER_SIZE
RECEIPT_SIZE: Final = 16
BODY_AT: Final = RECEIPT_AT + RECEIPT_SIZE
_PART: Final = 1024
"""Bytes of one read, so that a response fits every reader's limits."""


class Taker(Protocol):
    """Who takes what phones deliver: the vehicle's key list."""

    def receipt(self) -> VehicleReceipt:
        """Return the vehicle's present state."""

    def take(self, parcel: KeyParcel) -> None:
        """Verify and commit what is in a parcel; what does not verify is noted, never raised."""


def mailbox_of(parcel: KeyParcel) -> Mailbox:
    """Return the mailbox of a phone that carries ``parcel``; a receipt is written beside it."""
    raw = parcel.to_bytes()
    head, body = raw[:HEADER_SIZE], raw[HEADER_SIZE:]
    return Mailbox(head + bytes(RECEIPT_SIZE) + body, subset=(0, HEADER_SIZE))


def receipt_in(content: bytes) -> VehicleReceipt | None:
    """Return the receipt that a vehicle wrote into a mailbox; None when none was written."""
    written = content[RECEIPT_AT:BODY_AT]
    return VehicleReceipt.parse(written) if any(written) else None


def carries_news(content: bytes) -> bool:
    """Whether a phone with this mailbox has something that its vehicle did not confirm.

    Such a phone offers no Kpersistent, so that its next transaction is a standard one, in which the
    vehicle takes delivery (security 5, case 16). A mailbox without a parcel carries nothing.
    """
    try:
        header = ParcelHeader.parse(content[:HEADER_SIZE])
        receipt = receipt_in(content)
    except WireError:
        return False
    if receipt is None:
        return header.chain or bool(header.owner_list or header.authority_list)
    return header.epoch > receipt.epoch or header.is_news(receipt)


def announced(session: Session) -> ParcelHeader | None:
    """Return the header that came with AUTH1; None when the device carries no parcel.

    A parcel lies in a mailbox that the vehicle may read and write.
    """
    open_to_us = Signaling.MAILBOX_READ | Signaling.MAILBOX_WRITE
    if session.mailbox is None or session.signaling.value & open_to_us != open_to_us:
        return None
    try:
        return ParcelHeader.parse(session.mailbox)
    except WireError:
        return None


def is_due(header: ParcelHeader | None, receipt: VehicleReceipt, *, introduces: bool) -> bool:
    """Whether the vehicle has to read the body of the parcel.

    Args:
        header: As :func:`announced` told.
        receipt: The vehicle's present state.
        introduces: Whether the vehicle does not know this key yet, and its chain may tell.
    """
    return header is not None and ((introduces and header.chain) or header.is_news(receipt))


def receipt_write(receipt: VehicleReceipt) -> Write:
    """Return the mailbox command that leaves the receipt."""
    return Write(RECEIPT_AT, receipt.to_bytes())


def deliver(
    header: ParcelHeader | None, taker: Taker, *, introduces: bool
) -> Generator[ExchangeRequest, tuple[bytes, ...], None]:
    """Take a parcel where it is news, commit it, and leave the receipt.

    Args:
        header: As :func:`announced` told.
        taker: Takes the parcel.
        introduces: Whether the vehicle does not know this key yet, and its chain may tell.

    Raises:
        WireError: The parcel has not its form; nothing of it was taken.
    """
    if header is None:
        return
    if is_due(header, taker.receipt(), introduces=introduces):
        body = yield from _read(header.size)
        taker.take(KeyParcel.parse(header.to_bytes() + body))
    yield ExchangeRequest(mailbox=(receipt_write(taker.receipt()),))


def _read(size: int) -> Generator[ExchangeRequest, tuple[bytes, ...], bytes]:
    body = bytearray()
    while len(body) < size:
        length = min(_PART, size - len(body))
        reads = yield ExchangeRequest(mailbox=(Read(BODY_AT + len(body), length),))
        if len(reads) != 1 or len(reads[0]) != length:
            raise WireError("the mailbox is shorter than its header says", clause=CLAUSE)
        body += reads[0]
    return bytes(body)


def over_session(
    procedure: Generator[ExchangeRequest, tuple[bytes, ...], T], session: Session
) -> Generator[bytes, bytes, T]:
    """Run a procedure of EXCHANGE requests in a transaction of the reader."""
    try:
        request = next(procedure)
        while True:
            request = procedure.send((yield from session.exchange(request)))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        procedure.close()
