"""Signed statements under every small change: they come back as they were, or are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from share_world import Share, offer
from statement_world import (
    KEYS,
    ROOTS,
    VAULT,
    VEHICLE,
    attested,
    chain,
    friend_claims,
    list_claims,
    public,
    signed_list,
)

from dkey.crypto.secret import Secret
from dkey.errors import DkeyError, PolicyRefusal, RemoteFault, WireError
from dkey.lifecycle.attestation import read_attestation, sign_attestation, verify_chain
from dkey.lifecycle.claims import NO_SLOT, Issuer
from dkey.lifecycle.envelope import Cipher, Direction, open_envelope, seal_envelope
from dkey.lifecycle.invitation import ShareLink, read_invitation, sign_invitation
from dkey.lifecycle.parcel import KeyParcel, VehicleReceipt, lists_to_take, rolled_back
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.withdrawal import read_withdrawal, sign_withdrawal, verify_withdrawal
from dkey.testing import SeededEntropy

REFERENCE = st.binary(min_size=16, max_size=16)
UINT32 = st.integers(0, (1 << 32) - 1)
TIME = st.integers(0, (1 << 40) - 1)
RECEIPT = st.builds(
    VehicleReceipt, epoch=UINT32, owner_list=UINT32, authority_list=UINT32, admissions=UINT32
)


@st.composite
def key_claims(draw):
    role = draw(st.sampled_from([Role.ACTUAL_USER, Role.ASSOCIATE, Role.PROVIDER]))
    slots = {Role.ACTUAL_USER: (NO_SLOT,), Role.ASSOCIATE: (1, 2, 3), Role.PROVIDER: (0, 1, 2, 3)}
    begin_s, end_s = sorted((draw(TIME), draw(TIME)))
    return friend_claims(
        vehicle=draw(REFERENCE),
        epoch=draw(UINT32),
        slot=draw(st.sampled_from(slots[role])),
        share_id=draw(REFERENCE),
        holder=draw(REFERENCE),
        public_key=public(draw(st.sampled_from([*KEYS]))),
        role=role,
        permission=draw(st.sampled_from(Permission)),
        not_before_s=begin_s,
        not_after_s=end_s,
        reshare=role is Role.ACTUAL_USER and draw(st.booleans()),
        list_number=draw(UINT32),
        issued_s=draw(TIME),
    )


@st.composite
def withdrawals(draw):
    references = draw(st.sets(REFERENCE, max_size=12))
    suspended = draw(st.sets(st.sampled_from(sorted(references)))) if references else set()
    issuer = draw(st.sampled_from(Issuer))
    return list_claims(
        draw(st.integers(1, (1 << 32) - 1)),
        vehicle=draw(REFERENCE),
        epoch=draw(UINT32),
        issuer=issuer,
        issued_s=draw(TIME),
        revoked=tuple(sorted(references - suspended)),
        suspended=tuple(sorted(suspended)),
        all_suspended=draw(st.booleans()),
        immobilised=issuer is Issuer.AUTHORITY and draw(st.booleans()),
    )


@given(key_claims())
def test_every_attestation_says_what_was_signed(claims) -> None:
    data = sign_attestation(claims, VAULT, "owner")
    assert read_attestation(data).claims == claims
    assert verify_chain([data], roots=ROOTS, vehicle=claims.vehicle) == (claims,)


@given(withdrawals())
def test_every_list_says_what_was_signed(claims) -> None:
    data = sign_withdrawal(claims, VAULT, "owner")
    assert read_withdrawal(data) == claims
    said = verify_withdrawal(
        data, KEYS["owner"].public, issuer=claims.issuer, vehicle=claims.vehicle
    )
    assert said == claims


def bits(data: bytes):
    """Return the data with each single bit flipped."""
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]


def test_no_bit_of_a_chain_can_be_flipped() -> None:
    first, second = chain()
    for flipped in bits(first):
        with pytest.raises(DkeyError):
            verify_chain([flipped, second], roots=ROOTS, vehicle=VEHICLE)
    for flipped in bits(second):
        with pytest.raises(DkeyError):
            verify_chain([first, flipped], roots=ROOTS, vehicle=VEHICLE)


def test_no_bit_of_a_list_can_be_flipped() -> None:
    for flipped in bits(signed_list()):
        with pytest.raises(DkeyError):
            verify_withdrawal(flipped, KEYS["owner"].public, issuer=Issuer.OWNER, vehicle=VEHICLE)


def test_no_statement_can_be_cut_or_followed_by_anything() -> None:
    data, listed = attested(friend_claims()), signed_list()
    for size in range(len(data)):
        with pytest.raises(WireError):
            read_attestation(data[:size])
    for size in range(len(listed)):
        with pytest.raises(WireError):
            read_withdrawal(listed[:size])
    for read, whole in ((read_attestation, data), (read_withdrawal, listed)):
        with pytest.raises(WireError):
            read(whole + b"\0")


def test_no_parcel_can_be_cut() -> None:
    data = KeyParcel(chain=chain(), lists={Issuer.OWNER: signed_list()}).to_bytes()
    for size in range(len(data)):
        with pytest.raises(WireError):
            KeyParcel.parse(data[:size])


@given(st.binary(max_size=300))
def test_nothing_else_is_a_statement_or_a_parcel(data) -> None:
    for read in (read_attestation, read_withdrawal, KeyParcel.parse, ShareLink.parse_file):
        with pytest.raises(WireError):
            read(data)


@given(st.permutations([attested(friend_claims()), *chain()]), st.integers(1, 3))
def test_a_chain_of_any_other_order_is_refused(raws, length) -> None:
    good = [[raw] for raw in (attested(friend_claims()), chain()[0])] + [[*chain()]]
    taken = raws[:length]
    if taken in good:
        assert verify_chain(taken, roots=ROOTS, vehicle=VEHICLE)
    else:
        with pytest.raises((RemoteFault, PolicyRefusal)):
            verify_chain(taken, roots=ROOTS, vehicle=VEHICLE)


@given(
    st.lists(st.tuples(st.sampled_from(Issuer), st.integers(1, 9)), max_size=12),
)
def test_numbers_of_a_vehicle_never_fall_whatever_phones_carry(carried) -> None:
    state = VehicleReceipt(epoch=7)
    for issuer, number in carried:
        key = "owner" if issuer is Issuer.OWNER else "authority"
        raw = signed_list(list_claims(number, issuer=issuer), key)
        keys = {issuer: KEYS[key].public}
        news = lists_to_take(
            KeyParcel(lists={issuer: raw}), keys=keys, vehicle=VEHICLE, taken=state
        )
        before = state
        for each in news:
            name = "owner_list" if each.issuer is Issuer.OWNER else "authority_list"
            state = replace(state, **{name: each.number})
        assert bool(news) is (number > before.list_number(issuer))
        assert not rolled_back(before, state)


@given(RECEIPT, RECEIPT)
def test_of_two_different_states_of_a_vehicle_one_is_behind(one, other) -> None:
    assert VehicleReceipt.parse(one.to_bytes()) == one
    assert not rolled_back(one, one)
    if one != other:
        assert rolled_back(one, other) or rolled_back(other, one)


@given(st.binary(max_size=200), st.sampled_from(Direction), UINT32, st.sampled_from(Cipher))
def test_an_envelope_comes_back_and_no_bit_of_it_can_be_flipped(
    plaintext, direction, sequence, cipher
) -> None:
    secret, place = Secret(bytes(range(32))), {"direction": direction, "sequence": sequence}
    data = seal_envelope(secret, plaintext, entropy=SeededEntropy(1), cipher=cipher, **place)
    assert open_envelope(secret, data, **place) == plaintext
    for at in range(0, len(data), 7):
        flipped = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        with pytest.raises(RemoteFault):
            open_envelope(secret, flipped, **place)


@given(
    name=st.text("abcxyzäß 123", min_size=1, max_size=16),
    account=st.from_regex(r"[a-z]{1,20}@[a-z]{1,20}\.org", fullmatch=True),
    times=st.tuples(TIME, TIME).map(sorted),
    needs_pin=st.booleans(),
    mailbox=st.none() | st.from_regex(r"https://[a-z.]{1,20}/v1/m/[0-9a-f-]{36}", fullmatch=True),
)
def test_every_invitation_comes_back(name, account, times, needs_pin, mailbox) -> None:
    invitation = offer(
        vehicle_name=name,
        account=account,
        not_before_s=times[0],
        not_after_s=times[1],
        needs_pin=needs_pin,
        mailbox=mailbox,
    )
    assert read_invitation(sign_invitation(invitation, VAULT, "owner")) == invitation


@settings(max_examples=30)
@given(st.integers(0, 2), st.integers(0), st.integers(0, 7))
def test_no_bit_of_an_exchange_can_be_flipped(step, at, bit) -> None:
    share = Share()
    request = share.ask()
    share.take(request)
    share.confirm()
    answer = share.sign()
    data = (request, answer, share.receive(answer)[1])[step]
    at %= len(data)
    flipped = data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]
    fresh = Share()
    fresh.ask()
    takers = (fresh.take, share.receive, share.sharer.receive_receipt)
    with pytest.raises(RemoteFault):
        takers[step](flipped)
