"""The byte examples of specs/lifecycle.md: made again, read again, verified again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from share_world import ACCOUNT, NOW_S, PIN, Share, offer
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
    user_claims,
)

from dkey.codec import cbor
from dkey.crypto.secret import Secret
from dkey.lifecycle.accepting import FriendExchange
from dkey.lifecycle.attestation import ATTESTATION, verify_chain
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.envelope import Direction, open_envelope, seal_envelope
from dkey.lifecycle.invitation import INVITATION, sign_invitation
from dkey.lifecycle.parcel import KeyParcel, VehicleReceipt
from dkey.lifecycle.share_messages import ANSWER, RECEIPT, REQUEST, fingerprint, pin_proof
from dkey.lifecycle.share_states import FRIEND_TRANSITIONS, SHARER_TRANSITIONS
from dkey.lifecycle.withdrawal import WITHDRAWAL, verify_withdrawal
from dkey.testing import ScriptedEntropy

PAGE = (Path(__file__).resolve().parents[2] / "specs" / "lifecycle.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- bytes: ([a-z0-9-]+) -->\n```\n(.*?)```", re.DOTALL)
SECRET = Secret(bytes(range(128, 160)))
IV = bytes(range(12))
SEEN = VehicleReceipt(epoch=7, owner_list=2, admissions=5)


def written() -> dict[str, bytes]:
    """Return the examples that the page has."""
    return {
        name: bytes.fromhex(re.sub(r"\s", "", hex_text)) for name, hex_text in BLOCK.findall(PAGE)
    }


def made() -> dict[str, bytes]:
    """Return the examples, made from the keys that the page names."""
    invitation = offer(needs_pin=True)
    signed = sign_invitation(invitation, VAULT, "owner")
    first, second = chain()
    parcel = KeyParcel(chain=(first, second), lists={Issuer.OWNER: signed_list()}, seen=SEEN)
    share = Share("example", needs_pin=True)
    share.sharer = type(share.sharer)(
        invitation=invitation, signed=signed, secret=SECRET, pin=share.pin
    )
    share.invitation = seal_envelope(
        SECRET,
        signed,
        direction=Direction.TO_FRIEND,
        sequence=0,
        entropy=ScriptedEntropy(randoms=[IV]),
    )
    share.friend = share.opened()
    request = share.ask()
    share.take(request)
    share.confirm()
    answer = share.sign()
    return {
        "attestation": attested(friend_claims()),
        "chain-first": first,
        "chain-second": second,
        "parcel": parcel.to_bytes(),
        "receipt": SEEN.to_bytes(),
        "withdrawal-list": signed_list(),
        "invitation": signed,
        "pin-proof": pin_proof(SECRET, PIN, invitation, public("friend")),
        "invitation-envelope": share.invitation,
        "request-envelope": request,
        "answer-envelope": answer,
    }


@pytest.mark.parametrize("name", sorted(made()))
def test_an_example_is_what_the_code_makes(name) -> None:
    assert written()[name] == made()[name]


def test_the_page_has_no_other_example() -> None:
    assert written().keys() == made().keys()


def test_the_attestations_of_the_page_verify() -> None:
    page = written()
    assert verify_chain([page["attestation"]], roots=ROOTS, vehicle=VEHICLE) == (friend_claims(),)
    both = verify_chain([page["chain-first"], page["chain-second"]], roots=ROOTS, vehicle=VEHICLE)
    assert both == (user_claims(), friend_claims("user"))


def test_the_list_and_the_parcel_of_the_page_verify() -> None:
    page, key = written(), KEYS["owner"].public
    said = verify_withdrawal(page["withdrawal-list"], key, issuer=Issuer.OWNER, vehicle=VEHICLE)
    assert said == list_claims()
    parcel = KeyParcel.parse(page["parcel"])
    assert parcel.chain == (page["chain-first"], page["chain-second"])
    assert parcel.lists == {Issuer.OWNER: page["withdrawal-list"]}
    assert parcel.seen == VehicleReceipt.parse(page["receipt"])


def test_the_exchange_of_the_page_can_be_followed() -> None:
    page = written()
    place = {"direction": Direction.TO_FRIEND, "sequence": 0}
    assert open_envelope(SECRET, page["invitation-envelope"], **place) == page["invitation"]
    friend = FriendExchange.open(SECRET, page["invitation-envelope"], now_s=NOW_S)
    assert friend.invitation.account == ACCOUNT
    share = Share("followed", needs_pin=True)
    share.sharer = type(share.sharer)(
        invitation=friend.invitation, signed=friend.signed, secret=SECRET, pin=PIN
    )
    share.friend = friend
    share.ask()
    assert share.take(page["request-envelope"]) is None
    received, _ = share.receive(page["answer-envelope"])
    assert received.claims == friend_claims()
    seen = fingerprint(SECRET, friend.invitation, public("friend"))
    assert f"`{seen}`" in PAGE


@pytest.mark.parametrize(
    "statement", [ATTESTATION, WITHDRAWAL, INVITATION, REQUEST, ANSWER, RECEIPT]
)
def test_the_page_has_the_fields_of_every_statement_in_order(statement) -> None:
    table = PAGE.partition(f"<!-- fields: {statement.name} -->")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", table, re.MULTILINE)
    assert rows == [(str(n), name) for n, name in enumerate(statement.fields, 3)]
    assert f"`{statement.content_type}`" in PAGE


@pytest.mark.parametrize(
    ("heading", "table"),
    [("The sharer's end", SHARER_TRANSITIONS), ("The friend's end", FRIEND_TRANSITIONS)],
)
def test_the_page_has_every_transition(heading, table) -> None:
    block = PAGE.partition(f"{heading}:")[2].strip().partition("\n\n")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", block, re.MULTILINE)[1:]
    drawn = [
        (state.value, given.value, " or ".join(each.value for each in after))
        for (state, given), after in table.items()
    ]
    assert [row for row in rows if "---" not in row[0]] == drawn


def test_every_payload_of_the_page_is_a_map_with_its_name() -> None:
    page = written()
    for name, kind in (("attestation", ATTESTATION), ("invitation", INVITATION)):
        payload = cbor.decode(cbor.decode(page[name]).value[2])
        assert (payload[1], payload[2]) == (kind.name, 1)
