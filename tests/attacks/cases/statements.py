"""Stale, forwarded, redeemed twice, put back: shares and what phones carry (15, 17, 20, 28)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import PolicyRefusal, RemoteFault
from dkey.lifecycle.attestation import check_validity
from dkey.lifecycle.claims import Issuer, WithdrawalClaims
from dkey.lifecycle.parcel import KeyParcel, VehicleReceipt, lists_to_take, rolled_back
from dkey.lifecycle.policy import CODE_MAX_TRIES
from dkey.lifecycle.share_messages import fingerprint, open_answer
from dkey.lifecycle.share_states import ShareState
from dkey.lifecycle.withdrawal import sign_withdrawal, verify_withdrawal

from .. import Broken, Edit, case
from .share_scene import ACCOUNT, DAY_S, NOW_S, Family, Offer

if TYPE_CHECKING:
    from dkey.crypto.p256 import PublicKey

SECURITY = "security 5"
UNSIGNED = Broken(
    module="dkey.lifecycle.attestation",
    old="    links[0][1].verify(root)\n",
    new="",
    why="the root's signature is not verified",
)


# --- 15 an older state, put back ------------------------------------------------------------------


@case(
    15,
    "a parcel that was put back to an older one takes back no withdrawal",
    source=f"{SECURITY}, case 15; security 4.2",
    broken=[
        Broken(
            module="dkey.lifecycle.parcel",
            old="claims.epoch == taken.epoch and claims.number > taken.list_number(issuer)",
            new="claims.epoch == taken.epoch",
            why="any list of the present epoch is taken",
        ),
        Broken(
            module="dkey.lifecycle.parcel",
            old="claims.number > taken.list_number(issuer)",
            new="claims.number > taken.list_number(Issuer.AUTHORITY)",
            why="the issuers are taken to number their lists together",
        ),
    ],
)
def put_back_parcel(seed: int) -> None:
    family = Family(seed)
    number = family.chance.randrange(2, 1000)
    keys = {Issuer.OWNER: family.keys["owner"].public}
    state = VehicleReceipt(epoch=family.epoch, owner_list=number)
    for older in (number, number - 1, 1):
        parcel = KeyParcel.parse(
            KeyParcel(lists={Issuer.OWNER: family.withdrawal(older)}).to_bytes()
        )
        took = lists_to_take(parcel, keys=keys, vehicle=family.vehicle, taken=state)
        assert not took, "the vehicle took a list that is not newer"


@case(
    15,
    "a list of an older owner epoch is not taken, however high its number",
    source=f"{SECURITY}, cases 15 and 17",
    broken=[
        Broken(
            module="dkey.lifecycle.parcel",
            old="claims.epoch == taken.epoch and claims.number > taken.list_number(issuer)",
            new="claims.number > taken.list_number(issuer)",
            why="the owner epoch of a list is not looked at",
        ),
    ],
)
def list_of_an_older_owner(seed: int) -> None:
    family = Family(seed)
    parcel = KeyParcel(lists={Issuer.OWNER: family.withdrawal(9, epoch=family.epoch - 1)})
    took = lists_to_take(
        parcel,
        keys={Issuer.OWNER: family.keys["owner"].public},
        vehicle=family.vehicle,
        taken=VehicleReceipt(epoch=family.epoch, owner_list=1),
    )
    assert not took, "the vehicle took a list of an older owner epoch"


@case(
    15,
    "the owner's key does not sign in the authority's name",
    source=f"{SECURITY}, case 15",
    broken=[
        Broken(
            module="dkey.lifecycle.withdrawal",
            old="    if claims.issuer is not issuer:",
            new="    if False:",
            why="the issuer that a list names is not compared with its key",
        ),
    ],
)
def list_in_another_name(seed: int) -> None:
    family = Family(seed)
    forged = WithdrawalClaims(
        vehicle=family.vehicle,
        epoch=family.epoch,
        issuer=Issuer.AUTHORITY,
        number=6,
        issued_s=NOW_S,
        immobilised=True,
    )
    owner = family.keys["owner"].public
    raw = sign_withdrawal(forged, family.vault, "owner")
    try:
        verify_withdrawal(raw, owner, issuer=Issuer.OWNER, vehicle=family.vehicle)
    except RemoteFault:
        return
    raise AssertionError("the owner's list passed for the authority's")


@case(
    15,
    "a phone notices that the vehicle's state was put back, and the vehicle by the phone's memory",
    source="security 4.2",
    broken=[
        Broken(
            module="dkey.lifecycle.parcel",
            old="return any(now < then",
            new="return all(now < then",
            why="a state counts as put back only when everything in it fell",
        ),
        Broken(
            module="dkey.lifecycle.parcel",
            old="        return told.epoch < seen.epoch",
            new="        return False",
            why="another owner epoch is news, an older one also",
        ),
    ],
)
def put_back_vehicle(seed: int) -> None:
    chance = Family(seed).chance
    numbers = ("owner_list", "authority_list", "admissions")
    seen = VehicleReceipt(epoch=7, **{name: chance.randrange(1, 99) for name in numbers})
    for name in ("epoch", *numbers):
        restored = replace(seen, **{name: getattr(seen, name) - 1})
        assert rolled_back(seen, restored), f"a lower {name} was not noticed"


# --- 17 stale friends -----------------------------------------------------------------------------


@case(
    17,
    "a stale friend cannot move its attestation to another slot or to the present owner epoch",
    source=f"{SECURITY}, case 17; share.pv",
    broken=[
        UNSIGNED,
        Broken(
            module="dkey.lifecycle.cose",
            old='return cbor.encode(["Signature1", protected, b"", payload])',
            new='return cbor.encode(["Signature1", protected, b"", payload[:16]])',
            why="the signature covers only part of the statement",
        ),
    ],
)
def moved_attestation(seed: int) -> None:
    family = Family(seed)
    for stale, moved in (
        ({"slot": 1}, {"slot": 2}),
        ({"epoch": family.epoch - 1}, {"epoch": family.epoch}),
    ):
        share_id = family.entropy.random(16)
        old = family.sign("owner", "friend", share_id=share_id, **stale)
        forged = _with_payload_of(
            old,
            family.sign("owner", "friend", share_id=share_id, **moved),
        )
        assert not family.accepts(forged), "an attestation was changed after it was signed"


def _with_payload_of(signed: bytes, other: bytes) -> bytes:
    """Return ``signed`` with the payload of ``other`` in the place of its own."""
    return other[: len(other) - 64] + signed[-64:]


@case(
    17,
    "a friend of an older owner epoch is not carried over by an actual user of the present one",
    source=f"{SECURITY}, case 17; life_bfs",
    broken=[
        Broken(
            module="dkey.lifecycle.attestation",
            old="    if second.epoch != first.epoch:",
            new="    if False:",
            why="the owner epochs of a chain are not compared",
        ),
    ],
)
def friend_of_an_older_owner(seed: int) -> None:
    family = Family(seed)
    stale = family.sign("user", "friend", epoch=family.epoch - 1)
    renewed = family.sign("owner", "user")
    if not family.accepts(renewed, family.sign("user", "friend")):
        raise RuntimeError("the scene's own chain is refused")
    assert not family.accepts(renewed, stale), "a friend of an older owner epoch was accepted"


@case(
    17,
    "a friend cannot hand its key on, and nobody hands on more than it has",
    source=f"{SECURITY}, case 17; requirements C17, S41",
    broken=[
        Broken(
            module="dkey.lifecycle.attestation",
            old="    if not (first.reshare and first.role is Role.ACTUAL_USER):",
            new="    if False:",
            why="the right to share is not looked at",
        ),
        Broken(
            module="dkey.lifecycle.attestation",
            old="    if second.signer != first.public_key[1:33]:",
            new="    if False:",
            also=(
                Edit(
                    module="dkey.lifecycle.attestation",
                    old="        links[1][1].verify(PublicKey.parse(claims[0].public_key))\n",
                    new="",
                ),
            ),
            why="anybody's signature counts behind an actual user's attestation",
        ),
    ],
)
def handed_on(seed: int) -> None:
    family = Family(seed)
    friend = family.sign("owner", "friend")
    assert not family.accepts(friend, family.sign("friend", "thief")), "a friend handed its key on"
    user = family.sign("owner", "user")
    assert not family.accepts(user, family.sign("thief", "thief")), "a thief signed for itself"


# --- 20 expired shares ----------------------------------------------------------------------------


@case(
    20,
    "a share is over when the key of its signer is, whatever its own time says",
    source=f"{SECURITY}, case 20; requirements S54",
    broken=[
        Broken(
            module="dkey.lifecycle.attestation",
            old="    if any(now_s > each.not_after_s for each in chain):",
            new="    if now_s > chain[-1].not_after_s:",
            why="only the last statement's time is looked at",
        ),
        Broken(
            module="dkey.lifecycle.attestation",
            old="    if any(now_s > each.not_after_s for each in chain):",
            new="    if all(now_s > each.not_after_s for each in chain):",
            why="a chain counts while any of its statements is valid",
        ),
    ],
)
def outlived_signer(seed: int) -> None:
    family = Family(seed)
    chain = family.accepts(
        family.sign("owner", "user", not_after_s=NOW_S + DAY_S), family.sign("user", "friend")
    )
    check_validity(chain, now_s=NOW_S + DAY_S)
    try:
        check_validity(chain, now_s=NOW_S + DAY_S + 1)
    except PolicyRefusal:
        return
    raise AssertionError("a share outlived the key of its signer")


# --- 28 forwarded links ---------------------------------------------------------------------------


@case(
    28,
    "a key that came over a forwarded link is not confirmed by the friend's fingerprint",
    source=f"{SECURITY}, case 28; share.pv mut8",
    broken=[
        Broken(
            module="dkey.lifecycle.sharing",
            old="        if not hmac.compare_digest(compared.encode(), self.fingerprint.encode()):",
            new="        if False:",
            why="what the sharer compared is not compared with the key",
        ),
        Broken(
            module="dkey.lifecycle.share_messages",
            old="said = invitation.share_id + invitation.nonce + invitation.sharer + public_key\n",
            new="said = invitation.share_id + invitation.nonce + invitation.sharer\n",
            why="the fingerprint is not one of the key",
        ),
    ],
)
def forwarded_offer(seed: int) -> None:
    offer = Offer(seed)
    _, stolen = offer.ask("thief")
    if not offer.take(stolen):
        raise RuntimeError("whoever has the link may ask")
    key = offer.family.keys["friend"].public
    friends = fingerprint(offer.secret, offer.sharer.invitation, key.point)
    try:
        offer.sharer.confirm(friends, now_s=NOW_S)
    except PolicyRefusal:
        return
    raise AssertionError("the thief's key was confirmed by the friend's fingerprint")


@case(
    28,
    "an invitation is redeemed once: a second key is refused, before and after signing",
    source=f"{SECURITY}, case 28",
    broken=[
        Broken(
            module="dkey.lifecycle.sharing",
            old="        if self.friend is not None:\n",
            new="        if False:\n",
            why="the last key that came is the one that is signed",
        ),
    ],
)
def redeemed_twice(seed: int) -> None:
    offer = Offer(seed)
    _, request = offer.ask("friend")
    _, stolen = offer.ask("thief")
    if not offer.take(request):
        raise RuntimeError("the friend's own request is refused")
    assert not offer.take(stolen), "a second key was taken"
    offer.sharer = offer.sharer.confirm(offer.sharer.fingerprint, now_s=NOW_S)
    assert not offer.take(stolen), "a second key was taken after the first was confirmed"
    offer.sign()
    assert not offer.take(stolen), "a second key was taken after the first was signed"


@case(
    28,
    "nobody has a key attested that it does not hold",
    source=f"{SECURITY}, case 28; design rule (d)",
    broken=[
        Broken(
            module="dkey.lifecycle.share_messages",
            old='    signed.verify(PublicKey.parse(values["public_key"]))\n',
            new="",
            why="the proof of possession is not verified",
        ),
    ],
)
def foreign_key(seed: int) -> None:
    offer = Offer(seed)
    victim = offer.family.keys["friend"].public

    class Thief(MemoryVault):
        def public(self, key: str) -> PublicKey:
            return victim

    _, request = offer.ask("thief", vault=Thief(thief=offer.family.keys["thief"]))
    assert not offer.take(request), "a key was taken whose holder did not ask"


@case(
    28,
    "nothing is signed before the sharer confirmed the key",
    source=f"{SECURITY}, case 28; design rule (d)",
    broken=[
        Broken(
            module="dkey.lifecycle.share_states",
            old="    (_S.REQUESTED, _I.CONFIRM): (_S.CONFIRMED,),\n",
            new="    (_S.REQUESTED, _I.CONFIRM): (_S.CONFIRMED,),\n"
            "    (_S.REQUESTED, _I.SIGN): (_S.SIGNED,),\n",
            why="a key that was sent is signed at once",
        ),
    ],
)
def signed_unconfirmed(seed: int) -> None:
    offer = Offer(seed)
    _, request = offer.ask("thief")
    offer.take(request)
    try:
        offer.sign()
    except PolicyRefusal:
        return
    raise AssertionError("a key was signed that nobody confirmed")


@case(
    28,
    "who has the link does not read the answer",
    source=f"{SECURITY}, case 28",
    broken=[
        Broken(
            module="dkey.crypto.box",
            old="Secret(hkdf(shared.reveal(),",
            new='Secret(hkdf(b"",',
            why="the key of a box does not come from the key agreement",
        ),
    ],
)
def read_with_the_link(seed: int) -> None:
    offer = Offer(seed)
    _, request = offer.ask("friend")
    offer.take(request)
    offer.sharer = offer.sharer.confirm(offer.sharer.fingerprint, now_s=NOW_S)
    answer = offer.sign()
    friend = offer.family.keys["friend"].public

    class Thief(MemoryVault):
        def public(self, key: str) -> PublicKey:
            return friend

    try:
        open_answer(
            answer,
            secret=offer.secret,
            invitation=offer.sharer.invitation,
            vault=Thief(thief=offer.family.keys["thief"]),
            key="thief",
        )
    except RemoteFault:
        return
    raise AssertionError("the answer was read with the link alone")


@case(
    28,
    "an answer that another one signed is not the sharer's",
    source=f"{SECURITY}, case 28",
    broken=[
        Broken(
            module="dkey.lifecycle.share_messages",
            old="    signed.verify(PublicKey.parse(invitation.sharer))\n",
            new="",
            also=(
                Edit(
                    module="dkey.lifecycle.accepting",
                    old="        if claims != offered:\n",
                    new="        if False:\n",
                ),
            ),
            why="neither the answer's signer nor what it offers is compared with the invitation",
        ),
    ],
)
def answer_of_a_thief(seed: int) -> None:
    offer = Offer(seed)
    friend, _ = offer.ask("friend")
    family, keys = offer.family, offer.family.keys
    thief = Offer(seed + 1)
    thief.family, thief.secret = family, offer.secret
    thief.vault = MemoryVault(owner=keys["thief"], friend=keys["friend"])
    own = replace(offer.sharer.invitation, sharer=keys["thief"].public.point)
    thief.sharer = replace(
        offer.sharer,
        invitation=own,
        friend=keys["friend"].public.point,
        state=ShareState.CONFIRMED,
    )
    family.keys = {**keys, "owner": keys["thief"]}
    answer = thief.sign()
    try:
        friend.receive_answer(answer, vault=offer.vault, now_s=NOW_S, entropy=offer.entropy)
    except (RemoteFault, PolicyRefusal):
        return
    raise AssertionError("the friend took a thief's answer for the sharer's")


@case(
    28,
    "a forwarded link is worth three guesses at its PIN",
    source=f"{SECURITY}, cases 25 and 28; requirements S64",
    broken=[
        Broken(
            module="dkey.lifecycle.sharing",
            old="        tries = self.tries + 1\n",
            new="        tries = 1\n",
            why="wrong PINs are not added up",
        ),
        Broken(
            module="dkey.lifecycle.sharing",
            old="        return hmac.compare_digest(right, given.pin_proof)",
            new="        return True",
            why="any PIN is a right one",
        ),
    ],
)
def guessed_pin(seed: int) -> None:
    offer = Offer(seed, needs_pin=True)
    if offer.pin is None:
        raise RuntimeError("the offer has no PIN")
    right = int(offer.pin.reveal())
    for step in range(CODE_MAX_TRIES):
        wrong = Secret(f"{(right + 1 + step) % 10**6:06d}".encode())
        _, request = offer.ask("thief", pin=wrong)
        assert not offer.take(request), "a wrong PIN was taken for the right one"
    _, request = offer.ask("thief")
    assert not offer.take(request), "a guess too many was taken"


@case(
    28,
    "an old link is worth nothing",
    source=f"{SECURITY}, case 28; public facts 4.1",
    broken=[
        Broken(
            module="dkey.lifecycle.share_states",
            old="    if now_s > expires_s and (state, _I.TIMEOUT) in table:",
            new="    if False:",
            why="an invitation has no end",
        ),
    ],
)
def old_link(seed: int) -> None:
    offer = Offer(seed)
    _, request = offer.ask("thief")
    late_s = offer.sharer.invitation.expires_s + 1
    assert not offer.take(request, now_s=late_s), f"{ACCOUNT} was late and was taken"
