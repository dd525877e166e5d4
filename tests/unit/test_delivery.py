"""Delivery of a parcel: what lies in the mailbox, when it is read, what is left behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.access.delivery import (
    BODY_AT,
    RECEIPT_AT,
    announced,
    carries_news,
    deliver,
    is_due,
    mailbox_of,
    receipt_in,
    receipt_write,
)
from dkey.access.exchange import ExchangeRequest, Read, Write
from dkey.access.messages import Signaling
from dkey.errors import WireError
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.parcel import HEADER_SIZE, KeyParcel, ParcelHeader, VehicleReceipt
from tests.unit.statement_world import (
    EPOCH,
    attested,
    chain,
    friend_claims,
    list_claims,
    signed_list,
)

LISTS = {Issuer.OWNER: signed_list(list_claims(3))}
KNOWN = VehicleReceipt(epoch=EPOCH, owner_list=3, admissions=1)
numbers = st.integers(0, 5)
receipts = st.builds(
    VehicleReceipt,
    epoch=st.integers(EPOCH - 1, EPOCH + 1),
    owner_list=numbers,
    authority_list=numbers,
    admissions=numbers,
)
parcels = st.builds(
    KeyParcel,
    chain=st.sampled_from([(), (attested(friend_claims()),), chain()]),
    lists=st.sampled_from([{}, LISTS]),
    seen=st.none() | receipts,
)


class Taker:
    """A vehicle that notes what it takes."""

    def __init__(self, receipt: VehicleReceipt) -> None:
        self.now = receipt
        self.taken: list[KeyParcel] = []

    def receipt(self) -> VehicleReceipt:
        return self.now

    def take(self, parcel: KeyParcel) -> None:
        self.taken.append(parcel)
        self.now = KNOWN


class Carried:
    """What a session tells of a device with this mailbox."""

    def __init__(self, mailbox) -> None:
        self.mailbox = mailbox.auth1_part
        self.signaling = Signaling(mailbox.signaling)


def run(procedure, mailbox):
    """Let a procedure read and write a mailbox; return its requests."""
    requests, reads = [], None
    try:
        while True:
            request = procedure.send(reads)
            requests.append(request)
            reads = mailbox.stage(request.mailbox)
            mailbox.commit()
    except StopIteration:
        return requests


def delivered(parcel, receipt, *, introduces):
    mailbox, taker = mailbox_of(parcel), Taker(receipt)
    header = announced(Carried(mailbox))
    requests = run(deliver(header, taker, introduces=introduces), mailbox)
    return mailbox, taker, requests


@given(parcels, receipts, st.booleans())
def test_a_vehicle_takes_exactly_what_is_news_and_always_leaves_its_receipt(
    parcel, receipt, introduces
):
    mailbox, taker, requests = delivered(parcel, receipt, introduces=introduces)
    header = ParcelHeader.parse(parcel.to_bytes()[:HEADER_SIZE])
    due = is_due(header, receipt, introduces=introduces)
    assert taker.taken == ([parcel] if due else [])
    assert receipt_in(mailbox.data) == taker.now
    assert requests[-1] == ExchangeRequest(mailbox=(receipt_write(taker.now),))
    assert len(requests) == 1 or due


@given(parcels, receipts)
def test_what_was_delivered_is_no_news_any_more(parcel, receipt):
    mailbox, _, _ = delivered(parcel, receipt, introduces=True)
    told = receipt_in(mailbox.data)
    header = announced(Carried(mailbox))
    assert not is_due(header, told, introduces=False) or told == receipt
    if told == KNOWN:
        assert not carries_news(mailbox.data)


@given(parcels)
def test_a_phone_without_a_receipt_has_news_if_it_has_anything(parcel):
    content = mailbox_of(parcel).data
    assert receipt_in(content) is None
    assert carries_news(content) is bool(parcel.chain or parcel.lists)


@pytest.mark.parametrize(
    ("receipt", "news"),
    [
        (VehicleReceipt(epoch=EPOCH, owner_list=2), True),
        (VehicleReceipt(epoch=EPOCH, owner_list=3), False),
        (VehicleReceipt(epoch=EPOCH, owner_list=4), False),
        (VehicleReceipt(epoch=EPOCH - 1, owner_list=4), True),
        (VehicleReceipt(epoch=EPOCH + 1), False),
    ],
)
def test_a_list_is_news_until_a_receipt_of_its_epoch_tells_its_number(receipt, news):
    mailbox = mailbox_of(KeyParcel(lists=LISTS))
    mailbox.stage((receipt_write(receipt),))
    mailbox.commit()
    assert carries_news(mailbox.data) is news


@pytest.mark.parametrize("content", [b"", bytes(100), b"dkp1" + bytes(96), b"\xff" * 40])
def test_a_mailbox_without_a_parcel_carries_nothing(content):
    assert not carries_news(content)


@pytest.mark.parametrize("right", ["readable", "writable"])
def test_a_mailbox_that_is_closed_to_the_vehicle_announces_nothing(right):
    mailbox = mailbox_of(KeyParcel(lists=LISTS))
    assert announced(Carried(mailbox)) is not None
    setattr(mailbox, right, False)
    assert announced(Carried(mailbox)) is None


def test_without_a_header_nothing_is_asked_of_the_phone():
    assert run(deliver(None, Taker(KNOWN), introduces=True), None) == []


def test_the_body_is_read_in_parts_that_every_reader_takes():
    parcel = KeyParcel(chain=chain(), lists=LISTS)
    _, taker, requests = delivered(parcel, VehicleReceipt(epoch=EPOCH), introduces=True)
    assert taker.taken == [parcel]
    reads = [op for request in requests for op in request.mailbox if isinstance(op, Read)]
    assert max(op.length for op in reads) <= 1024
    assert reads[0].offset == BODY_AT
    assert isinstance(requests[-1].mailbox[0], Write)
    assert requests[-1].mailbox[0].offset == RECEIPT_AT


@given(st.data())
def test_a_parcel_that_was_changed_anywhere_is_refused_whole_or_is_well_formed(data):
    parcel = KeyParcel(chain=chain(), lists=LISTS)
    content = bytearray(mailbox_of(parcel).data)
    at = data.draw(st.integers(BODY_AT, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    mailbox, taker = mailbox_of(parcel), Taker(VehicleReceipt(epoch=EPOCH))
    mailbox.data = bytes(content)
    header = announced(Carried(mailbox))
    try:
        run(deliver(header, taker, introduces=True), mailbox)
    except WireError:
        assert taker.taken == []
        assert receipt_in(mailbox.data) is None
    else:
        assert taker.taken[0].to_bytes()[HEADER_SIZE:] == bytes(content[BODY_AT:])


@pytest.mark.parametrize("reads", [(), (b"",), (b"x", b"y"), (b"short",)])
def test_a_device_that_gives_other_reads_than_asked_is_refused(reads):
    header = announced(Carried(mailbox_of(KeyParcel(lists=LISTS))))
    procedure = deliver(header, Taker(VehicleReceipt(epoch=EPOCH)), introduces=False)
    next(procedure)
    with pytest.raises(WireError):
        procedure.send(reads)
