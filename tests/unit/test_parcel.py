"""The key parcel: a header that says what follows, lists that only go forward, and receipts."""

from __future__ import annotations

import pytest
from statement_world import (
    EPOCH,
    KEYS,
    VEHICLE,
    attested,
    chain,
    friend_claims,
    list_claims,
    signed_list,
)

from dkey.codec import cbor
from dkey.errors import AuthenticationError, LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.parcel import (
    HEADER_SIZE,
    MAX_PARCEL,
    KeyParcel,
    ParcelHeader,
    VehicleReceipt,
    lists_to_take,
    rolled_back,
)
from dkey.lifecycle.withdrawal import MAX_WITHDRAWN

SEEN = VehicleReceipt(epoch=EPOCH, owner_list=2, authority_list=4, admissions=5)
KEYS_OF = {Issuer.OWNER: KEYS["owner"].public, Issuer.AUTHORITY: KEYS["authority"].public}


def authority_list(number: int = 9, **changes) -> bytes:
    return signed_list(list_claims(number, issuer=Issuer.AUTHORITY, **changes), "authority")


def full() -> KeyParcel:
    lists = {Issuer.OWNER: signed_list(), Issuer.AUTHORITY: authority_list()}
    return KeyParcel(chain=chain(), lists=lists, seen=SEEN)


def taken(parcel: KeyParcel, state: VehicleReceipt = SEEN, keys=KEYS_OF):
    return lists_to_take(parcel, keys=keys, vehicle=VEHICLE, taken=state)


@pytest.mark.parametrize(
    "parcel",
    [
        full(),
        KeyParcel(lists={}),
        KeyParcel(chain=chain()[:1], lists={}),
        KeyParcel(lists={Issuer.AUTHORITY: authority_list()}),
    ],
)
def test_a_parcel_comes_back(parcel) -> None:
    assert KeyParcel.parse(parcel.to_bytes()) == parcel


def test_the_header_alone_says_what_follows() -> None:
    data = full().to_bytes()
    header = ParcelHeader.parse(data[:HEADER_SIZE])
    assert (HEADER_SIZE, header.total) == (20, len(data))
    assert (header.epoch, header.owner_list, header.authority_list) == (EPOCH, 3, 9)
    assert header.chain
    assert header.seen


def test_the_header_tells_whether_there_may_be_news() -> None:
    header = ParcelHeader.parse(full().to_bytes()[:HEADER_SIZE])
    assert header.is_news(SEEN)
    assert header.is_news(VehicleReceipt(epoch=EPOCH, owner_list=3, authority_list=8))
    assert not header.is_news(VehicleReceipt(epoch=EPOCH, owner_list=3, authority_list=9))
    assert not header.is_news(VehicleReceipt(epoch=EPOCH + 1))


def test_the_largest_statements_fit() -> None:
    many = tuple(number.to_bytes(16, "big") for number in range(MAX_WITHDRAWN))
    lists = {
        Issuer.OWNER: signed_list(list_claims(revoked=many, suspended=())),
        Issuer.AUTHORITY: authority_list(revoked=(), suspended=many),
    }
    data = KeyParcel(chain=chain(), lists=lists, seen=SEEN).to_bytes()
    assert len(data) <= MAX_PARCEL
    assert KeyParcel.parse(data).lists == lists


@pytest.mark.parametrize(
    "parcel",
    [
        KeyParcel(chain=(*chain(), chain()[0]), lists={}),
        KeyParcel(chain=(b"",), lists={}),
        KeyParcel(lists={Issuer.AUTHORITY: signed_list()}),
        KeyParcel(lists={}, seen=VehicleReceipt(epoch=-1)),
    ],
)
def test_what_has_no_form_is_not_packed(parcel) -> None:
    with pytest.raises(LocalFault):
        parcel.to_bytes()


def with_body(change) -> bytes:
    data = full().to_bytes()
    body = cbor.encode(change(cbor.decode(data[HEADER_SIZE:])))
    return data[:6] + len(body).to_bytes(2, "big") + data[8:HEADER_SIZE] + body


@pytest.mark.parametrize(
    "change",
    [
        lambda body: [2, *body[1:]],
        lambda body: [True, *body[1:]],
        lambda body: body[:-1],
        lambda body: [*body, None],
        lambda body: [body[0], None, *body[2:]],
        lambda body: [body[0], [*body[1], body[1][0]], *body[2:]],
        lambda body: [body[0], [1], *body[2:]],
        lambda body: [*body[:2], body[3], body[2], body[4]],
        lambda body: [*body[:2], None, *body[3:]],
        lambda body: [*body[:2], signed_list(list_claims(4)), *body[3:]],
        lambda body: [*body[:4], bytes(15)],
        lambda body: [*body[:4], None],
        lambda body: {},
    ],
)
def test_a_body_of_another_form_or_than_its_header_says_is_malformed(change) -> None:
    assert KeyParcel.parse(with_body(lambda body: body)) == full()
    with pytest.raises(WireError):
        KeyParcel.parse(with_body(change))


@pytest.mark.parametrize("at", range(HEADER_SIZE))
def test_a_header_that_the_body_contradicts_is_malformed(at) -> None:
    data = full().to_bytes()
    with pytest.raises(WireError):
        KeyParcel.parse(data[:at] + bytes((data[at] ^ 0x10,)) + data[at + 1 :])


def test_a_header_that_claims_too_much_is_malformed() -> None:
    header = ParcelHeader(
        size=MAX_PARCEL, epoch=0, owner_list=0, authority_list=0, chain=False, seen=False
    )
    with pytest.raises(WireError):
        ParcelHeader.parse(header.to_bytes())


def test_the_vehicle_takes_newer_lists_only() -> None:
    assert taken(full()) == (
        list_claims(9, issuer=Issuer.AUTHORITY),
        list_claims(3),
    )
    for owner_list, authority in ((3, 8), (4, 8), (2, 9), (2, 10)):
        state = VehicleReceipt(epoch=EPOCH, owner_list=owner_list, authority_list=authority)
        found = {each.issuer for each in taken(full(), state)}
        assert found == ({Issuer.OWNER} if authority >= 9 else {Issuer.AUTHORITY})


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
def test_a_list_of_another_epoch_is_left(epoch) -> None:
    assert taken(full(), VehicleReceipt(epoch=epoch)) == ()


def test_a_list_whose_issuer_the_vehicle_does_not_know_is_left() -> None:
    assert taken(full(), keys={Issuer.OWNER: KEYS["owner"].public}) == (list_claims(3),)


def test_of_a_parcel_with_a_forged_list_nothing_is_taken() -> None:
    forged = signed_list(list_claims(9, issuer=Issuer.AUTHORITY), "stranger")
    parcel = KeyParcel(lists={Issuer.OWNER: signed_list(), Issuer.AUTHORITY: forged})
    with pytest.raises(AuthenticationError):
        taken(parcel)


def test_a_list_of_another_vehicle_is_refused() -> None:
    parcel = KeyParcel(lists={Issuer.OWNER: signed_list(list_claims(vehicle=bytes(16)))})
    with pytest.raises(PolicyRefusal) as caught:
        taken(parcel)
    assert caught.value.code is RefusalCode.WRONG_VEHICLE


def test_a_receipt_has_16_bytes() -> None:
    data = SEEN.to_bytes()
    assert data.hex() == "00000007000000020000000400000005"
    assert VehicleReceipt.parse(data) == SEEN
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(WireError):
            VehicleReceipt.parse(wrong)


@pytest.mark.parametrize(
    ("told", "lost"),
    [
        ((EPOCH, 2, 4, 5), False),
        ((EPOCH, 3, 5, 6), False),
        ((EPOCH, 1, 9, 9), True),
        ((EPOCH, 9, 3, 9), True),
        ((EPOCH, 9, 9, 4), True),
        ((EPOCH + 1, 0, 0, 0), False),
        ((EPOCH - 1, 9, 9, 9), True),
    ],
)
def test_a_vehicle_whose_numbers_fell_was_put_back(told, lost) -> None:
    epoch, owner_list, authority, admissions = told
    now = VehicleReceipt(
        epoch=epoch, owner_list=owner_list, authority_list=authority, admissions=admissions
    )
    assert rolled_back(SEEN, now) is lost


def test_the_epoch_of_the_header_is_that_of_the_key() -> None:
    parcel = KeyParcel(chain=(attested(friend_claims(epoch=2)),), lists={})
    assert ParcelHeader.parse(parcel.to_bytes()[:HEADER_SIZE]).epoch == 2
