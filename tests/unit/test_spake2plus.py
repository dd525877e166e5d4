"""SPAKE2+: the published answers, the arithmetic against another one, and every way to go wrong."""

from __future__ import annotations

import hashlib
import hmac
import json
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkey.conformance.vectors_case import Case, Tally
from dkey.conformance.vectors_spake import COMPUTED, check_spake2plus
from dkey.crypto.p256 import ORDER, PrivateKey, PublicKey
from dkey.crypto.p256_group import Group
from dkey.crypto.secret import Secret
from dkey.crypto.spake2plus import (
    TRANSITIONS,
    Parties,
    Prover,
    Record,
    Registration,
    SessionInput,
    SessionState,
    Verifier,
    derive_w0_w1,
)
from dkey.crypto.spake2plus_suite import SUITE, SUITES
from dkey.errors import (
    AuthenticationError,
    DkeyError,
    FileFormatError,
    LocalFault,
    SequenceError,
    WireError,
)
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "rfc9383_spake2plus_p256.json"

# --- another P-256: affine, plain, from the curve's equation ------------------------------------

PRIME = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Affine = tuple[int, int]


def root(x: int) -> int:
    return pow(x**3 - 3 * x + B, (PRIME + 1) // 4, PRIME)


def lift(compressed: str) -> Affine:
    """Decompress; RFC 9383 §4 gives M and N in this form."""
    x = int.from_bytes(bytes.fromhex(compressed)[1:], "big")
    y = root(x)
    return (x, y) if y % 2 == int(compressed[:2], 16) % 2 else (x, PRIME - y)


M = lift("02886e2f97ace46e55ba9dd7242579f2993b64e16ef3dcab95afd497333d8fa12f")
N = lift("03d8bbd6c639c62937b04d997f38c3770719c629d7014d49a24b4f98baa1292b49")


def plus(a: Affine | None, b: Affine | None) -> Affine | None:
    if a is None or b is None:
        return b if a is None else a
    if a[0] == b[0]:
        if (a[1] + b[1]) % PRIME == 0:
            return None
        slope = (3 * a[0] ** 2 - 3) * pow(2 * a[1], -1, PRIME)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, PRIME)
    x = (slope**2 - a[0] - b[0]) % PRIME
    return x, (slope * (a[0] - x) - a[1]) % PRIME


def times(k: int, point: Affine) -> Affine | None:
    total: Affine | None = None
    for bit in f"{k:b}":
        total = plus(total, total)
        if bit == "1":
            total = plus(total, point)
    return total


def wire(point: Affine | None) -> bytes:
    assert point is not None
    return b"\x04" + point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")


def public(point: Affine | None) -> PublicKey:
    return PublicKey.parse(wire(point))


def scalar(value: int) -> Secret:
    return Secret(value.to_bytes(32, "big"))


def number(value: Secret | PrivateKey) -> int:
    secret = value.scalar() if isinstance(value, PrivateKey) else value
    return int.from_bytes(secret.reveal(), "big")


def minus(a: Affine | None, b: Affine | None) -> Affine | None:
    assert b is not None
    return plus(a, (b[0], PRIME - b[1]))


# --- a pairing ----------------------------------------------------------------------------------

PARTIES = Parties(context=b"dkey test v1", id_prover=b"phone", id_verifier=b"vehicle")
CODE = Registration(w0=scalar(0x1234567890), w1=scalar(ORDER // 3))
OTHER_CODE = Registration(w0=scalar(0x1234567891), w1=scalar(ORDER // 5))


def pair(
    phone: Registration = CODE,
    vehicle: Registration = CODE,
    *,
    phone_parties: Parties = PARTIES,
    vehicle_parties: Parties = PARTIES,
    seed: int = 0,
) -> tuple[Prover, Verifier]:
    return (
        Prover(phone, parties=phone_parties, entropy=SeededEntropy(f"phone {seed}")),
        Verifier(
            vehicle.record(), parties=vehicle_parties, entropy=SeededEntropy(f"vehicle {seed}")
        ),
    )


def shared(phone: Prover, vehicle: Verifier) -> tuple[Secret, Secret]:
    vehicle.verify(phone.confirm(*vehicle.respond(phone.share())))
    return phone.shared_key(), vehicle.shared_key()


def confirmed() -> tuple[Prover, Verifier]:
    phone, vehicle = pair()
    vehicle.verify(phone.confirm(*vehicle.respond(phone.share())))
    return phone, vehicle


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def said(error: DkeyError) -> tuple[type[DkeyError], str, str | None, str | None]:
    return type(error), str(error), error.clause, error.hint


def assert_ended_without_key(session: Prover | Verifier) -> None:
    assert session.state is SessionState.ENDED
    with pytest.raises(LocalFault):
        session.shared_key()


# --- published answers --------------------------------------------------------------------------


def entries() -> list[dict[str, Any]]:
    if not VECTORS.exists():
        pytest.skip(f"{VECTORS.name} is not there: the shared vectors are not part of the tree")
    found: list[dict[str, Any]] = json.loads(VECTORS.read_text())["vectors"]
    return found


def tally(entry: dict[str, Any]) -> Tally:
    result = Tally()
    check_spake2plus(Case(entry, VECTORS.name, "entry"), result)
    return result


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_every_value_of_the_rfc_comes_out_in_both_roles(suite: Any) -> None:
    (entry,) = [each for each in entries() if suite.name in each["context"]]
    result = tally(entry)
    assert (result.agreed, result.failures, result.not_implemented) == (len(COMPUTED), [], 0)


@pytest.mark.parametrize("name", COMPUTED)
def test_a_changed_answer_is_a_disagreement(name: str) -> None:
    entry = entries()[0]
    result = tally({**entry, name: flipped(bytes.fromhex(entry[name]), 70).hex()})
    assert result.failures == [("entry", f"{name} differs")]


@pytest.mark.parametrize("name", ["w0", "w1", "x", "y", "idProver", "idVerifier"])
def test_a_changed_input_is_a_disagreement(name: str) -> None:
    entry = entries()[0]
    assert tally({**entry, name: "00" * 31 + "07"}).failures


def test_a_scalar_of_zero_in_a_file_is_a_disagreement_and_a_damaged_one_is_an_error() -> None:
    entry = entries()[0]
    assert tally({**entry, "w0": "00" * 32}).failures
    with pytest.raises(FileFormatError):
        tally({**entry, "w0": "not hex"})


def test_a_suite_on_another_curve_is_not_implemented() -> None:
    entry = {**entries()[0], "context": "SPAKE2+-P384-SHA256-HKDF-SHA256-HMAC-SHA256"}
    result = tally(entry)
    assert (result.agreed, result.failures, result.not_implemented) == (0, [], len(COMPUTED))


# --- arithmetic ---------------------------------------------------------------------------------

EDGES = [1, 2, 3, 4, ORDER // 2, ORDER // 2 + 1, ORDER - 3, ORDER - 2, ORDER - 1]
GROUP = Group(SeededEntropy("blinds"))


@pytest.mark.parametrize("k", EDGES)
@pytest.mark.parametrize("point", [BASE, M, N], ids=["P", "M", "N"])
def test_multiplication_is_right_at_the_edges_of_the_scalar(k: int, point: Affine) -> None:
    assert GROUP.multiply(scalar(k), public(point)).point == wire(times(k, point))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, ORDER - 1), st.integers(1, ORDER - 1))
def test_multiplication_agrees_with_plain_affine_arithmetic(k: int, at: int) -> None:
    point = PrivateKey.from_scalar(at.to_bytes(32, "big")).public
    x, y = int.from_bytes(point.x, "big"), int.from_bytes(point.point[33:], "big")
    assert GROUP.multiply(scalar(k), point).point == wire(times(k, (x, y)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_addition_agrees_with_plain_affine_arithmetic_also_where_it_doubles(i: int, j: int) -> None:
    a, b = times(i, M), times(j, M)
    assert GROUP.add(public(a), public(b)).point == wire(times(i + j, M))


def test_a_point_and_its_negative_have_no_sum() -> None:
    point = public(M)
    with pytest.raises(AuthenticationError):
        GROUP.add(point, GROUP.negate(point))


@pytest.mark.parametrize("k", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_a_scalar_outside_of_1_to_n_minus_1_is_refused(k: int) -> None:
    with pytest.raises(LocalFault):
        GROUP.multiply(scalar(k), public(M))


@pytest.mark.parametrize("byte", [0x00, 0x5A, 0xFF])
def test_the_blinding_changes_no_result(byte: int) -> None:
    class Fixed:
        def ephemeral(self) -> PrivateKey:
            raise NotImplementedError

        def random(self, size: int) -> bytes:
            return bytes([byte]) * size

    assert Group(Fixed()).multiply(scalar(77), public(N)).point == wire(times(77, N))


@pytest.mark.parametrize("seed", range(8))
def test_a_session_agrees_with_one_computed_by_plain_arithmetic(seed: int) -> None:
    chance = Random(seed)
    w0, w1 = (chance.randrange(1, ORDER) for _ in "ab")
    code = Registration(w0=scalar(w0), w1=scalar(w1))
    phone, vehicle = pair(code, code, seed=seed)
    # The sessions draw their ephemeral key first.
    x, y = (number(SeededEntropy(f"{who} {seed}").ephemeral()) for who in ("phone", "vehicle"))
    share_p, share_v = plus(times(x, BASE), times(w0, M)), plus(times(y, BASE), times(w0, N))
    base = minus(share_v, times(w0, N))
    z, v = times(x, base or BASE), times(w1, base or BASE)
    parts = [PARTIES.context, PARTIES.id_prover, PARTIES.id_verifier]
    parts += [*map(wire, (M, N, share_p, share_v, z, v)), w0.to_bytes(32, "big")]
    tt = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    pseudo = hmac.digest(bytes(32), hashlib.sha256(tt).digest(), "sha256")
    expected = hmac.digest(pseudo, b"SharedKey\x01", "sha256")
    assert phone.share() == wire(share_p)
    sent = vehicle.respond(wire(share_p))
    assert sent[0] == wire(share_v)
    vehicle.verify(phone.confirm(*sent))
    assert phone.shared_key().reveal() == vehicle.shared_key().reveal() == expected


# --- the exchange -------------------------------------------------------------------------------


def test_both_sides_get_the_same_32_bytes_and_the_messages_have_their_sizes() -> None:
    phone, vehicle = pair()
    share_p = phone.share()
    share_v, confirm_v = vehicle.respond(share_p)
    confirm_p = phone.confirm(share_v, confirm_v)
    vehicle.verify(confirm_p)
    assert [*map(len, (share_p, share_v, confirm_v, confirm_p))] == [65, 65, 32, 32]
    ours, theirs = phone.shared_key(), vehicle.shared_key()
    assert ours == theirs
    assert len(ours) == 32


def test_each_session_has_another_key() -> None:
    assert len({shared(*pair(seed=seed))[0].reveal() for seed in range(4)}) == 4


@pytest.mark.parametrize(
    "code",
    [
        OTHER_CODE,
        Registration(w0=OTHER_CODE.w0, w1=CODE.w1),
        Registration(w0=CODE.w0, w1=OTHER_CODE.w1),
    ],
    ids=["both", "w0", "w1"],
)
def test_a_wrong_code_is_refused_by_the_phone_before_it_confirms(code: Registration) -> None:
    phone, vehicle = pair(code)
    sent = vehicle.respond(phone.share())
    with pytest.raises(AuthenticationError):
        phone.confirm(*sent)
    assert_ended_without_key(phone)


def test_a_wrong_code_is_refused_by_the_vehicle() -> None:
    # A phone that skips its own check: its twin vehicle holds the same wrong code.
    phone, vehicle = pair(OTHER_CODE)
    twin = Verifier(OTHER_CODE.record(), parties=PARTIES, entropy=SeededEntropy("twin"))
    share_p = phone.share()
    vehicle.respond(share_p)
    confirm_p = phone.confirm(*twin.respond(share_p))
    with pytest.raises(AuthenticationError):
        vehicle.verify(confirm_p)
    assert_ended_without_key(vehicle)


OTHER_PARTIES = [
    Parties(context=b"dkey test v2", id_prover=b"phone", id_verifier=b"vehicle"),
    Parties(context=b"dkey test v1", id_prover=b"phonf", id_verifier=b"vehicle"),
    Parties(context=b"dkey test v1", id_prover=b"phone", id_verifier=b"vehicld"),
    Parties(context=b"dkey test v1", id_prover=b"vehicle", id_verifier=b"phone"),
    Parties(context=b"dkey test v1", id_prover=b"phonev", id_verifier=b"ehicle"),
]


@pytest.mark.parametrize(
    "parties", OTHER_PARTIES, ids=["context", "prover", "verifier", "swapped", "boundary"]
)
def test_another_context_or_identity_fails(parties: Parties) -> None:
    phone, vehicle = pair(phone_parties=parties)
    sent = vehicle.respond(phone.share())
    with pytest.raises(AuthenticationError):
        phone.confirm(*sent)


def failure(action: Callable[[], object]) -> DkeyError:
    with pytest.raises(DkeyError) as caught:
        action()
    return caught.value


def phone_failures() -> list[DkeyError]:
    found = []
    for code, parties in [(OTHER_CODE, PARTIES), *((CODE, each) for each in OTHER_PARTIES)]:
        phone, vehicle = pair(code, phone_parties=parties)
        found.append(failure(partial(phone.confirm, *vehicle.respond(phone.share()))))
    phone, vehicle = pair()
    share_v, confirm_v = vehicle.respond(phone.share())
    found.append(failure(lambda: phone.confirm(share_v, flipped(confirm_v, 9))))
    phone, _ = pair()
    phone.share()
    # T is infinity
    found.append(failure(lambda: phone.confirm(wire(times(number(CODE.w0), N)), bytes(32))))
    return found


def test_all_failures_look_the_same() -> None:
    assert len({said(error) for error in phone_failures()}) == 1


def test_a_failure_shows_no_secret() -> None:
    secrets = {number(CODE.w0), number(CODE.w1), number(OTHER_CODE.w0), number(OTHER_CODE.w1)}
    for error in phone_failures():
        text = repr(error) + str(error) + str(error.hint)
        assert not any(f"{value:x}" in text or str(value) in text for value in secrets)


def test_what_the_sides_hold_shows_no_secret() -> None:
    record = CODE.record()
    text = repr(record) + repr(CODE) + repr(Prover(CODE, parties=PARTIES, entropy=SeededEntropy(0)))
    for secret in (CODE.w0.reveal(), CODE.w1.reveal(), record.point.x[:4]):
        assert secret.hex() not in text


def test_a_share_that_cancels_against_the_code_is_refused_by_the_vehicle_as_a_wrong_code() -> None:
    _, vehicle = pair()
    error = failure(lambda: vehicle.respond(wire(times(number(CODE.w0), M))))
    assert said(error) == said(phone_failures()[0])
    assert_ended_without_key(vehicle)


def test_the_phone_refuses_its_own_share_reflected() -> None:
    phone, vehicle = pair()
    share_p = phone.share()
    _, confirm_v = vehicle.respond(share_p)
    with pytest.raises(AuthenticationError):
        phone.confirm(share_p, confirm_v)
    assert_ended_without_key(phone)


def test_the_vehicle_refuses_its_own_confirmation_reflected() -> None:
    phone, vehicle = pair()
    _, confirm_v = vehicle.respond(phone.share())
    with pytest.raises(AuthenticationError):
        vehicle.verify(confirm_v)
    assert_ended_without_key(vehicle)


def test_a_recorded_confirmation_does_not_serve_again() -> None:
    phone, first = pair()
    share_p = phone.share()
    confirm_p = phone.confirm(*first.respond(share_p))
    _, second = pair(seed=1)
    second.respond(share_p)
    with pytest.raises(AuthenticationError):
        second.verify(confirm_p)


@pytest.mark.parametrize("bit", range(0, 256, 17))
def test_one_wrong_bit_in_either_confirmation_fails(bit: int) -> None:
    phone, vehicle = pair()
    share_v, confirm_v = vehicle.respond(phone.share())
    with pytest.raises(AuthenticationError):
        phone.confirm(share_v, flipped(confirm_v, bit))
    phone, vehicle = pair()
    confirm_p = phone.confirm(*vehicle.respond(phone.share()))
    with pytest.raises(AuthenticationError):
        vehicle.verify(flipped(confirm_p, bit))


def test_another_valid_point_in_place_of_either_share_fails() -> None:
    point = wire(times(5, BASE))
    phone, vehicle = pair()
    _, confirm_v = vehicle.respond(phone.share())
    with pytest.raises(AuthenticationError):
        phone.confirm(point, confirm_v)
    phone, vehicle = pair()
    phone.share()
    sent = vehicle.respond(point)
    with pytest.raises(AuthenticationError):
        phone.confirm(*sent)


# --- malformed messages -------------------------------------------------------------------------

SMALL_X, SMALL_Y = 5, root(5)  # also x + p fits in 32 bytes
BAD_POINTS = {
    "empty": b"",
    "infinity": b"\x00",
    "infinity, 65 bytes": bytes(65),
    "zero": b"\x04" + bytes(64),
    "y is zero": wire((M[0], 0)),
    "not on the curve": wire((M[0], M[1] ^ 1)),
    "compressed": bytes((2 + M[1] % 2,)) + M[0].to_bytes(32, "big"),
    "hybrid": bytes((6 + M[1] % 2,)) + wire(M)[1:],
    "compressed tag, 65 bytes": b"\x02" + wire(M)[1:],
    "short": wire(M)[:-1],
    "long": wire(M) + b"\x00",
    "x not reduced": wire((SMALL_X + PRIME, SMALL_Y)),
}


def test_the_point_with_a_reduced_x_is_on_the_curve() -> None:
    assert public((SMALL_X, SMALL_Y)).x == SMALL_X.to_bytes(32, "big")


@pytest.mark.parametrize("point", BAD_POINTS.values(), ids=BAD_POINTS.keys())
def test_the_vehicle_refuses_what_is_no_point(point: bytes) -> None:
    _, vehicle = pair()
    with pytest.raises(WireError):
        vehicle.respond(point)
    assert_ended_without_key(vehicle)


@pytest.mark.parametrize("point", BAD_POINTS.values(), ids=BAD_POINTS.keys())
def test_the_phone_refuses_what_is_no_point(point: bytes) -> None:
    phone, _ = pair()
    phone.share()
    with pytest.raises(WireError):
        phone.confirm(point, bytes(32))
    assert_ended_without_key(phone)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_confirmation_of_another_size_is_refused(size: int) -> None:
    phone, vehicle = pair()
    share_v, confirm_v = vehicle.respond(phone.share())
    with pytest.raises(WireError):
        phone.confirm(share_v, (confirm_v * 2)[:size])
    assert_ended_without_key(phone)
    phone, vehicle = pair()
    confirm_p = phone.confirm(*vehicle.respond(phone.share()))
    with pytest.raises(WireError):
        vehicle.verify((confirm_p * 2)[:size])
    assert_ended_without_key(vehicle)


# --- order and single use -----------------------------------------------------------------------


def prover_at(state: SessionState) -> tuple[Prover, dict[SessionInput, Callable[[], object]]]:
    """Return a phone in ``state`` and each input, valid but for its order."""
    phone, vehicle = pair()
    sent = wire(M), bytes(32)
    if state is not SessionState.READY:
        sent = vehicle.respond(phone.share())
    if state in (SessionState.CONFIRMED, SessionState.ENDED):
        phone.confirm(*sent)
    if state is SessionState.ENDED:
        phone.shared_key()
    return phone, {
        SessionInput.SHARE: phone.share,
        SessionInput.CONFIRM: lambda: phone.confirm(*sent),
        SessionInput.TAKE: phone.shared_key,
    }


def verifier_at(state: SessionState) -> tuple[Verifier, dict[SessionInput, Callable[[], object]]]:
    """Return a vehicle in ``state`` and each input, valid but for its order."""
    phone, vehicle = pair()
    share_p, confirm_p = phone.share(), bytes(32)
    if state is not SessionState.READY:
        confirm_p = phone.confirm(*vehicle.respond(share_p))
    if state in (SessionState.CONFIRMED, SessionState.ENDED):
        vehicle.verify(confirm_p)
    if state is SessionState.ENDED:
        vehicle.shared_key()
    return vehicle, {
        SessionInput.SHARE: lambda: vehicle.respond(share_p),
        SessionInput.CONFIRM: lambda: vehicle.verify(confirm_p),
        SessionInput.TAKE: vehicle.shared_key,
    }


ROLES = [prover_at, verifier_at]
PAIRS = [*product(SessionState, SessionInput)]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("state", "event"), [each for each in PAIRS if each in TRANSITIONS])
def test_a_listed_input_leads_to_the_listed_state(
    role: Any, state: SessionState, event: SessionInput
) -> None:
    session, inputs = role(state)
    assert session.state is state
    inputs[event]()
    assert session.state is TRANSITIONS[state, event]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("state", "event"), [each for each in PAIRS if each not in TRANSITIONS])
def test_any_other_input_is_refused_and_ends_the_session(
    role: Any, state: SessionState, event: SessionInput
) -> None:
    session, inputs = role(state)
    # A message out of order is the peer's fault, a call out of order is our own.
    local = event is SessionInput.TAKE or (event is SessionInput.SHARE and role is prover_at)
    with pytest.raises(LocalFault if local else SequenceError):
        inputs[event]()
    assert_ended_without_key(session)


def test_the_vehicle_gives_no_key_before_the_phone_is_confirmed() -> None:
    phone, vehicle = pair()
    confirm_p = phone.confirm(*vehicle.respond(phone.share()))
    with pytest.raises(LocalFault):
        vehicle.shared_key()
    with pytest.raises(SequenceError):  # nor afterwards
        vehicle.verify(confirm_p)


def test_a_second_try_within_one_session_is_refused_even_with_the_right_confirmation() -> None:
    phone, vehicle = pair()
    confirm_p = phone.confirm(*vehicle.respond(phone.share()))
    with pytest.raises(AuthenticationError):
        vehicle.verify(bytes(32))
    with pytest.raises(SequenceError):
        vehicle.verify(confirm_p)


@pytest.mark.parametrize("side", [0, 1])
def test_the_key_is_given_out_once(side: int) -> None:
    session = confirmed()[side]
    session.shared_key()
    assert_ended_without_key(session)


def test_the_vehicle_makes_no_ephemeral_key_for_a_malformed_share() -> None:
    class Refusing(SeededEntropy):
        def ephemeral(self) -> PrivateKey:
            raise AssertionError("an ephemeral key was made")

    vehicle = Verifier(CODE.record(), parties=PARTIES, entropy=Refusing(0))
    with pytest.raises(WireError):
        vehicle.respond(wire((M[0], 0)))


# --- the code -----------------------------------------------------------------------------------

SALT = bytes(range(16))
stretch = partial(derive_w0_w1, Secret(b"12345678"), SALT, b"phone", b"vehicle")


def test_w0_and_w1_are_80_bytes_of_scrypt_reduced_by_the_order() -> None:
    fields = (b"12345678", b"phone", b"vehicle")
    password = b"".join(len(part).to_bytes(8, "little") + part for part in fields)
    output = hashlib.scrypt(password, salt=SALT, n=16, r=2, p=3, dklen=80)
    found = stretch(n=16, r=2, p=3)
    assert number(found.w0) == int.from_bytes(output[:40], "big") % ORDER
    assert number(found.w1) == int.from_bytes(output[40:], "big") % ORDER


def test_the_cost_is_32768_8_1_unless_stated() -> None:
    assert stretch() == stretch(n=32768, r=8, p=1)
    assert stretch() != stretch(n=16384)


@pytest.mark.parametrize(
    "other",
    [
        partial(derive_w0_w1, Secret(b"12345679"), SALT, b"phone", b"vehicle"),
        partial(derive_w0_w1, Secret(b"12345678"), bytes(16), b"phone", b"vehicle"),
        partial(derive_w0_w1, Secret(b"12345678"), SALT, b"phonev", b"ehicle"),
        partial(derive_w0_w1, Secret(b"12345678"), SALT, b"vehicle", b"phone"),
        partial(stretch, r=4),
        partial(stretch, p=2),
    ],
    ids=["code", "salt", "boundary", "swapped", "r", "p"],
)
def test_each_input_of_scrypt_matters(other: Callable[..., Registration]) -> None:
    ours, theirs = stretch(n=16), other(n=16)
    assert ours.w0 != theirs.w0
    assert ours.w1 != theirs.w1


@pytest.mark.parametrize(
    "cost",
    [
        {"n": 0},
        {"n": 1},
        {"n": 3},
        {"n": -16},
        {"r": 0},
        {"p": 0},
        {"n": 1 << 18, "r": 8},
        {"n": 1 << 70},
        {"p": 1 << 30},
    ],
    ids=str,
)
def test_a_cost_out_of_range_is_refused_before_memory_is_taken(cost: dict[str, int]) -> None:
    with pytest.raises(LocalFault):
        stretch(**{"n": 16, **cost})


@pytest.mark.parametrize(("code", "salt"), [(b"", SALT), (b"12345678", SALT[:15])])
def test_an_empty_code_and_a_short_salt_are_refused(code: bytes, salt: bytes) -> None:
    with pytest.raises(LocalFault):
        derive_w0_w1(Secret(code), salt, b"phone", b"vehicle", n=16)


@pytest.mark.parametrize(
    "bad", [b"", bytes(32), b"\x01" * 31, b"\x01" * 33, ORDER.to_bytes(32, "big")], ids=len
)
def test_scalars_out_of_range_are_refused(bad: bytes) -> None:
    with pytest.raises(LocalFault):
        Registration(w0=Secret(bad), w1=CODE.w1)
    with pytest.raises(LocalFault):
        Registration(w0=CODE.w0, w1=Secret(bad))
    with pytest.raises(LocalFault):
        Record(w0=Secret(bad), point=public(M))


@pytest.mark.parametrize("missing", ["context", "id_prover", "id_verifier"])
def test_context_and_identities_are_never_empty(missing: str) -> None:
    names = {"context": b"c", "id_prover": b"p", "id_verifier": b"v"}
    with pytest.raises(LocalFault):
        Parties(**{**names, missing: b""})


def test_the_record_is_w0_and_l() -> None:
    record = CODE.record()
    assert record.w0 == CODE.w0
    assert record.point.point == wire(times(number(CODE.w1), BASE))


def test_the_suite_of_the_stack_is_the_first_of_the_rfc() -> None:
    assert SUITE.name == "P256-SHA256-HKDF-SHA256-HMAC-SHA256"
    assert SUITE is SUITES[0]
