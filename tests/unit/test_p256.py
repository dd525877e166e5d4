"""P-256 keys: one accepted form of a point, strict signatures, no way round the checks."""

from __future__ import annotations

from hashlib import sha256

import pytest

from dkey.crypto.p256 import ORDER, PrivateKey, PublicKey
from dkey.errors import AuthenticationError, LocalFault, WireError

PRIME = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
KEY = PrivateKey.from_scalar(bytes(31) + b"\x07")
POINT = KEY.public.point
X, Y = POINT[1:33], POINT[33:]
DATA = b"signed"
SIGNATURE = KEY.sign_data(DATA)


def number(value: int) -> bytes:
    return value.to_bytes(32, "big")


def test_a_point_is_its_65_bytes_and_its_identity_is_x() -> None:
    key = PublicKey.parse(POINT)
    assert key.point == POINT
    assert key.x == X
    assert key == KEY.public
    assert hash(key) == hash(KEY.public)


@pytest.mark.parametrize(
    "point",
    [
        b"",
        b"\x00",  # infinity
        b"\x00" + bytes(64),
        b"\x04" + bytes(64),  # 0, 0 is not on the curve
        bytes((2 + (Y[-1] & 1),)) + X,  # compressed
        bytes((6 + (Y[-1] & 1),)) + X + Y,  # hybrid
        X + Y,  # no tag
        POINT[:-1],
        POINT + b"\x00",
        b"\x04" + X + number(int.from_bytes(Y, "big") ^ 1),  # x kept, y replaced
        b"\x04" + X + bytes(32),
        b"\x04" + number(PRIME) + Y,  # coordinate not reduced
        b"\x04" + X + number(PRIME + 1),
        b"\x04" + b"\xff" * 64,
    ],
)
def test_any_other_form_of_a_point_is_refused(point: bytes) -> None:
    with pytest.raises(WireError) as caught:
        PublicKey.parse(point)
    assert caught.value.clause


def test_the_mirrored_point_has_the_same_identity_but_is_another_key() -> None:
    mirrored = PublicKey.parse(b"\x04" + X + number(PRIME - int.from_bytes(Y, "big")))
    assert mirrored.x == KEY.public.x
    assert mirrored != KEY.public


def test_both_sides_agree_on_the_same_secret() -> None:
    ours, theirs = PrivateKey.generate(), PrivateKey.generate()
    assert ours.agree(theirs.public) == theirs.agree(ours.public)
    assert len(ours.agree(theirs.public)) == 32


def test_a_signature_verifies() -> None:
    KEY.public.verify(SIGNATURE, DATA)


def test_a_digest_and_its_data_give_signatures_over_the_same_thing() -> None:
    KEY.public.verify(KEY.sign(sha256(DATA).digest()), DATA)


def test_the_mirrored_signature_verifies_too() -> None:
    s = ORDER - int.from_bytes(SIGNATURE[32:], "big")
    KEY.public.verify(SIGNATURE[:32] + number(s), DATA)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        bytes(64),
        SIGNATURE[:63],
        SIGNATURE + b"\x00",
        SIGNATURE[32:] + SIGNATURE[:32],
        bytes(32) + SIGNATURE[32:],  # r = 0
        SIGNATURE[:32] + bytes(32),  # s = 0
        number(ORDER) + SIGNATURE[32:],
        SIGNATURE[:32] + number(ORDER),
        b"\xff" * 64,
        SIGNATURE[:-1] + bytes((SIGNATURE[-1] ^ 1,)),
    ],
)
def test_any_other_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(AuthenticationError):
        KEY.public.verify(signature, DATA)


def test_a_signature_does_not_verify_over_other_data() -> None:
    with pytest.raises(AuthenticationError):
        KEY.public.verify(SIGNATURE, DATA + b".")


def test_a_signature_does_not_verify_with_another_key() -> None:
    with pytest.raises(AuthenticationError):
        PrivateKey.generate().public.verify(SIGNATURE, DATA)


@pytest.mark.parametrize("signature", [b"", b"\x30\x00", SIGNATURE])
def test_a_malformed_der_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(AuthenticationError):
        KEY.public.verify_der(signature, DATA)


@pytest.mark.parametrize(
    "scalar", [b"", bytes(32), number(ORDER), b"\xff" * 32, b"\x01", bytes(33)]
)
def test_a_scalar_outside_the_group_is_refused(scalar: bytes) -> None:
    with pytest.raises(LocalFault):
        PrivateKey.from_scalar(scalar)


@pytest.mark.parametrize("scalar", [number(1), number(ORDER - 1)])
def test_the_first_and_last_scalar_are_keys(scalar: bytes) -> None:
    assert PrivateKey.from_scalar(scalar).scalar().reveal() == scalar


def test_no_text_form_of_a_private_key_shows_the_scalar() -> None:
    key = PrivateKey.generate()
    assert key.scalar().reveal().hex()[:8] not in repr(key) + str(key)
