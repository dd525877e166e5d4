"""Attestations and withdrawal lists: one form, one signer, and a code for each way to be wrong."""

from __future__ import annotations

import pytest
from statement_world import (
    BEGIN_S,
    END_S,
    EPOCH,
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
    x_of,
)

from dkey.codec import cbor
from dkey.crypto.p256 import ORDER
from dkey.errors import AuthenticationError, LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.attestation import (
    check_validity,
    noted_code,
    read_attestation,
    sign_attestation,
    verify_chain,
)
from dkey.lifecycle.claims import NO_SLOT, Issuer
from dkey.lifecycle.cose import parse_sign1, sign1
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.withdrawal import (
    MAX_WITHDRAWN,
    read_withdrawal,
    sign_withdrawal,
    verify_withdrawal,
)

KIND = "application/dkey-test+cbor"


def verified(*raws: bytes, vehicle: bytes = VEHICLE):
    return verify_chain(raws, roots=ROOTS, vehicle=vehicle)


def refused(*raws: bytes, vehicle: bytes = VEHICLE) -> RefusalCode:
    with pytest.raises(PolicyRefusal) as caught:
        verified(*raws, vehicle=vehicle)
    return caught.value.code


def parts(data: bytes) -> list:
    return list(cbor.decode(data).value)


def sign1_of(protected, unprotected, payload, signature, tag: int = 18) -> bytes:
    return cbor.encode(cbor.Tag(tag, [protected, unprotected, payload, signature]))


def with_payload(data: bytes, change) -> bytes:
    """Return a statement whose changed payload is signed by the owner."""
    values = dict(cbor.decode(parts(data)[2]))
    change(values)
    header = cbor.decode(parts(data)[0])
    return sign1(cbor.encode(values), header[3], vault=VAULT, key="owner")


def list_verified(data: bytes, key: str = "owner", issuer=Issuer.OWNER, vehicle=VEHICLE):
    return verify_withdrawal(data, KEYS[key].public, issuer=issuer, vehicle=vehicle)


# --- COSE_Sign1 -----------------------------------------------------------------------------------


def test_a_signed_message_comes_back_and_verifies() -> None:
    signed = parse_sign1(sign1(b"said", KIND, vault=VAULT, key="owner"), KIND, limit=500)
    signed.verify(KEYS["owner"].public)
    assert (signed.payload, signed.signer) == (b"said", x_of("owner"))


def test_the_signature_is_over_the_structure_of_rfc_9052() -> None:
    data = sign1(b"said", KIND, vault=VAULT, key="owner")
    protected, unprotected, payload, signature = parts(data)
    assert unprotected == {}
    assert cbor.decode(protected) == {1: -7, 3: KIND, 4: x_of("owner")}
    structure = cbor.encode(["Signature1", protected, b"", payload])
    KEYS["owner"].public.verify(signature, structure)


def test_another_key_is_not_the_signer() -> None:
    signed = parse_sign1(sign1(b"said", KIND, vault=VAULT, key="owner"), KIND, limit=500)
    with pytest.raises(AuthenticationError):
        signed.verify(KEYS["user"].public)


def test_a_signer_who_only_names_another_key_does_not_verify() -> None:
    protected, _, payload, signature = parts(sign1(b"said", KIND, vault=VAULT, key="user"))
    named = protected.replace(x_of("user"), x_of("owner"))
    signed = parse_sign1(sign1_of(named, {}, payload, signature), KIND, limit=500)
    with pytest.raises(AuthenticationError):
        signed.verify(KEYS["owner"].public)


def test_a_signature_does_not_count_under_another_name() -> None:
    protected = cbor.encode({1: -7, 3: KIND, 4: x_of("owner")})
    structure = cbor.encode(["Signature1", protected, b"", b"said"])
    data = sign1_of(protected, {}, b"said", KEYS["user"].sign_data(structure))
    with pytest.raises(AuthenticationError):
        parse_sign1(data, KIND, limit=500).verify(KEYS["user"].public)


def test_both_halves_of_s_are_accepted_as_the_same_statement() -> None:
    protected, _, payload, signature = parts(attested(friend_claims()))
    s = ORDER - int.from_bytes(signature[32:], "big")
    other = sign1_of(protected, {}, payload, signature[:32] + s.to_bytes(32, "big"))
    assert verified(other) == verified(attested(friend_claims()))


@pytest.mark.parametrize("number", [0, ORDER, (1 << 256) - 1])
@pytest.mark.parametrize("half", [0, 1])
def test_r_and_s_out_of_range_do_not_verify(half, number) -> None:
    protected, _, payload, signature = parts(attested(friend_claims()))
    halves = [signature[:32], signature[32:]]
    halves[half] = number.to_bytes(32, "big")
    with pytest.raises(AuthenticationError):
        verified(sign1_of(protected, {}, payload, b"".join(halves)))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: sign1_of(*p, tag=98),
        cbor.encode,
        lambda p: sign1_of(p[0], {4: b"owner"}, *p[2:]),
        lambda p: sign1_of(p[0], [], *p[2:]),
        lambda p: sign1_of(p[0], {}, None, p[3]),
        lambda p: sign1_of(p[0], {}, p[2], p[3][:-1]),
        lambda p: sign1_of(p[0], {}, p[2], p[3] + b"\0"),
        lambda p: sign1_of(b"", {}, p[2], p[3]),
        lambda p: sign1_of(p[0].replace(b"\x01\x26", b"\x01\x27"), {}, p[2], p[3]),
        lambda p: sign1_of(p[0].replace(b"\xa3\x01", b"\xa3\xf5"), {}, p[2], p[3]),
        lambda p: cbor.encode(cbor.Tag(18, [*p, b""])),
    ],
)
def test_any_other_form_is_malformed(change) -> None:
    data = attested(friend_claims())
    with pytest.raises(WireError):
        read_attestation(change(parts(data)))
    assert read_attestation(sign1_of(*parts(data))).raw == data


# --- attestations ---------------------------------------------------------------------------------


def test_an_attestation_says_what_was_signed() -> None:
    claims = friend_claims()
    assert read_attestation(attested(claims)).claims == claims


@pytest.mark.parametrize("signer", ["owner", "authority"])
def test_the_word_of_a_root_counts(signer) -> None:
    assert verified(attested(friend_claims(signer))) == (friend_claims(signer),)


def test_the_word_of_an_actual_user_counts_behind_the_owners() -> None:
    assert verified(*chain()) == (user_claims(), friend_claims("user"))


@pytest.mark.parametrize(
    "claims",
    [
        friend_claims(slot=NO_SLOT),
        friend_claims(slot=4),
        friend_claims(role=Role.OWNER),
        friend_claims(role=Role.CARD),
        friend_claims(reshare=True),
        user_claims(slot=1),
        friend_claims(not_before_s=END_S + 1),
        friend_claims(epoch=-1),
        friend_claims(epoch=1 << 32),
        friend_claims(share_id=bytes(15)),
        friend_claims(public_key=b"\x04" + bytes(64)),
        friend_claims(public_key=public("friend")[:33]),
        friend_claims(list_number=True),
        friend_claims(reshare=0),
    ],
)
def test_claims_that_have_no_form_are_not_signed(claims) -> None:
    with pytest.raises(LocalFault):
        sign_attestation(claims, VAULT, "owner")


def test_claims_that_name_another_signer_are_not_signed() -> None:
    with pytest.raises(LocalFault):
        sign_attestation(friend_claims("user"), VAULT, "owner")


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update({2: 2}),
        lambda v: v.update({2: True}),
        lambda v: v.update({1: "withdrawal-list"}),
        lambda v: v.update({16: 0}),
        lambda v: v.pop(15),
        lambda v: v.update({5: NO_SLOT}),
        lambda v: v.update({13: True}),
        lambda v: v.update({9: 3}),
        lambda v: v.update({8: b"\x04" + x_of("friend") + bytes(32)}),
        lambda v: v.update({8: b"\x02" + x_of("friend")}),
        lambda v: v.update({4: "7"}),
    ],
)
def test_a_malformed_payload_is_refused_though_its_signature_is_right(change) -> None:
    data = attested(friend_claims())
    assert verified(with_payload(data, lambda _: None)), "it is the change that is refused"
    with pytest.raises(WireError):
        verified(with_payload(data, change))


def test_a_forged_signature_is_an_authentication_error_and_noted_as_not_authorised() -> None:
    forged = attested(friend_claims("stranger")).replace(x_of("stranger"), x_of("owner"))
    with pytest.raises(AuthenticationError) as caught:
        verified(forged)
    assert noted_code(caught.value) is RefusalCode.NOT_AUTHORISED


def test_a_forged_second_signature_is_noticed() -> None:
    first, _ = chain()
    forged = attested(friend_claims("stranger")).replace(x_of("stranger"), x_of("user"))
    with pytest.raises(AuthenticationError):
        verified(first, forged)


def test_nobodys_word_counts_for_nothing() -> None:
    assert refused(attested(friend_claims("stranger"))) is RefusalCode.KEY_UNKNOWN


def test_the_second_of_a_chain_alone_is_worth_nothing() -> None:
    assert refused(chain()[1]) is RefusalCode.KEY_UNKNOWN


def test_a_chain_in_another_order_is_malformed() -> None:
    with pytest.raises(WireError, match="another order"):
        verified(*reversed(chain()))


@pytest.mark.parametrize("length", [0, 3])
def test_a_chain_has_one_or_two_attestations(length) -> None:
    with pytest.raises(WireError):
        verified(*(chain() + chain())[:length])


def test_a_key_of_another_vehicle_is_refused() -> None:
    other = bytes(16)
    assert refused(attested(friend_claims(vehicle=other))) is RefusalCode.WRONG_VEHICLE
    second = attested(friend_claims("user", vehicle=other))
    assert refused(chain()[0], second) is RefusalCode.WRONG_VEHICLE
    assert refused(*chain(), vehicle=other) is RefusalCode.WRONG_VEHICLE


def test_a_chain_whose_parts_do_not_follow_is_refused() -> None:
    first = attested(user_claims(public_key=public("stranger")))
    assert refused(first, chain()[1]) is RefusalCode.NOT_AUTHORISED


def test_two_statements_of_the_owner_are_no_chain() -> None:
    assert refused(chain()[0], attested(friend_claims())) is RefusalCode.NOT_AUTHORISED


def test_an_associate_hands_nothing_on() -> None:
    first = attested(friend_claims(public_key=public("user")))
    assert refused(first, chain()[1]) is RefusalCode.NOT_AUTHORISED


def test_an_actual_user_without_the_right_hands_nothing_on() -> None:
    first = attested(user_claims(reshare=False))
    assert refused(first, chain()[1]) is RefusalCode.NOT_AUTHORISED


def test_an_actual_user_makes_no_other_actual_user() -> None:
    second = attested(user_claims("user", public_key=public("friend")))
    assert refused(chain()[0], second) is RefusalCode.NOT_AUTHORISED


def test_a_chain_over_two_owner_epochs_is_refused() -> None:
    second = attested(friend_claims("user", epoch=EPOCH + 1))
    assert refused(chain()[0], second) is RefusalCode.KEY_REVOKED


def test_nobody_permits_more_than_is_permitted() -> None:
    first = attested(user_claims(permission=Permission.ENTRY))
    second = attested(friend_claims("user", permission=Permission.ENTRY_AND_START))
    assert refused(first, second) is RefusalCode.PERMISSION_ENTRY_ONLY
    assert verified(chain()[0], second)


def test_a_key_is_valid_from_its_first_to_its_last_second() -> None:
    said = [friend_claims()]
    for now_s in (BEGIN_S, END_S):
        check_validity(said, now_s=now_s)
    with pytest.raises(PolicyRefusal) as caught:
        check_validity(said, now_s=END_S + 1)
    assert caught.value.code is RefusalCode.KEY_EXPIRED
    with pytest.raises(PolicyRefusal) as caught:
        check_validity(said, now_s=BEGIN_S - 5)
    assert (caught.value.code, caught.value.remaining_s) == (RefusalCode.TOO_SOON, 5)


def test_no_chain_is_valid_at_no_time() -> None:
    with pytest.raises(LocalFault):
        check_validity((), now_s=BEGIN_S)


def test_a_key_does_not_outlive_the_key_of_its_signer() -> None:
    said = [user_claims(not_after_s=END_S - 10), friend_claims("user")]
    with pytest.raises(PolicyRefusal):
        check_validity(said, now_s=END_S)


# --- withdrawal lists -----------------------------------------------------------------------------


def test_a_list_says_what_was_signed() -> None:
    assert list_verified(signed_list()) == read_withdrawal(signed_list()) == list_claims()


@pytest.mark.parametrize(
    "claims",
    [
        list_claims(number=0),
        list_claims(revoked=(bytes(16), bytes(16))),
        list_claims(revoked=(b"\x01" * 16, bytes(16))),
        list_claims(suspended=(b"\x01" * 16, bytes(16))),
        list_claims(revoked=(bytes(16),), suspended=(bytes(16),)),
        list_claims(revoked=(bytes(15),)),
        list_claims(immobilised=True),
        list_claims(revoked=tuple(n.to_bytes(16, "big") for n in range(MAX_WITHDRAWN))),
    ],
)
def test_a_list_that_has_no_form_is_not_signed(claims) -> None:
    with pytest.raises(LocalFault):
        sign_withdrawal(claims, VAULT, "owner")


def test_the_largest_list_is_signed_and_read() -> None:
    references = tuple(n.to_bytes(16, "big") for n in range(MAX_WITHDRAWN))
    claims = list_claims(revoked=references, suspended=())
    assert list_verified(signed_list(claims)) == claims


def test_a_list_of_another_signer_is_refused() -> None:
    with pytest.raises(AuthenticationError):
        list_verified(signed_list(key="stranger"))


def test_the_owner_does_not_speak_for_the_authority() -> None:
    with pytest.raises(AuthenticationError):
        list_verified(signed_list(list_claims(issuer=Issuer.AUTHORITY)))


def test_only_the_authority_immobilises() -> None:
    claims = list_claims(issuer=Issuer.AUTHORITY, immobilised=True)
    said = list_verified(signed_list(claims, "authority"), "authority", Issuer.AUTHORITY)
    assert said.immobilised
    unlawful = with_payload(signed_list(), lambda values: values.update({11: True}))
    with pytest.raises(WireError):
        list_verified(unlawful)


def test_a_list_of_another_vehicle_is_refused() -> None:
    with pytest.raises(PolicyRefusal) as caught:
        list_verified(signed_list(), vehicle=bytes(16))
    assert caught.value.code is RefusalCode.WRONG_VEHICLE


def test_no_statement_stands_for_one_of_another_kind() -> None:
    with pytest.raises(WireError):
        read_withdrawal(attested(friend_claims()))
    with pytest.raises(WireError):
        read_attestation(signed_list())
