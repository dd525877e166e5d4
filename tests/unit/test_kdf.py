"""The key derivation functions against their definitions."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest

from dkey.crypto.cmac import aes_cmac
from dkey.crypto.kdf import hkdf, kdf_ctr, kdf_ctr_cmac, x963
from dkey.errors import LocalFault

SHARED = bytes(range(32))


def x963_by_definition(shared: bytes, info: bytes, length: int) -> bytes:
    blocks = (sha256(shared + n.to_bytes(4, "big") + info).digest() for n in range(1, 10))
    return b"".join(blocks)[:length]


def hkdf_by_definition(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    pseudo = hmac.digest(salt or bytes(32), key, "sha256")
    out = block = b""
    for n in range(1, 10):
        block = hmac.digest(pseudo, block + info + bytes((n,)), "sha256")
        out += block
    return out[:length]


@pytest.mark.parametrize("length", [1, 16, 31, 32, 33, 64, 160])
@pytest.mark.parametrize("info", [b"", b"info", bytes(200)])
def test_x963_is_the_counter_mode_of_its_definition(length: int, info: bytes) -> None:
    assert x963(SHARED, info, length) == x963_by_definition(SHARED, info, length)


@pytest.mark.parametrize("length", [1, 16, 32, 33, 64, 160, 250])
@pytest.mark.parametrize("salt", [b"", b"salt", bytes(32), bytes(100)])
def test_hkdf_is_extract_and_expand(length: int, salt: bytes) -> None:
    assert hkdf(SHARED, salt, b"info", length) == hkdf_by_definition(SHARED, salt, b"info", length)


def test_an_empty_hkdf_salt_equals_32_zero_bytes() -> None:
    assert hkdf(SHARED, b"", b"i", 32) == hkdf(SHARED, bytes(32), b"i", 32)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 40])
@pytest.mark.parametrize("counter_size", [1, 2, 4])
def test_the_counter_kdf_numbers_its_blocks_from_1(length: int, counter_size: int) -> None:
    blocks = (
        aes_cmac(SHARED, n.to_bytes(counter_size, "big") + b"label\0context") for n in (1, 2, 3)
    )
    found = kdf_ctr_cmac(SHARED, b"label\0context", length, counter_size=counter_size)
    assert found == b"".join(blocks)[:length]


def test_the_counter_kdf_never_uses_a_counter_twice() -> None:
    assert len(kdf_ctr(lambda block: block[:1], b"", 255, counter_size=1)) == 255
    with pytest.raises(LocalFault):
        kdf_ctr(lambda block: block[:1], b"", 256, counter_size=1)


@pytest.mark.parametrize("length", [0, -1])
def test_the_counter_kdf_gives_at_least_one_byte(length: int) -> None:
    with pytest.raises(LocalFault):
        kdf_ctr_cmac(SHARED, b"", length)


@pytest.mark.parametrize("size", [0, 15, 17, 33])
def test_a_key_that_is_none_of_aes_is_refused(size: int) -> None:
    with pytest.raises(LocalFault):
        aes_cmac(bytes(size), b"")
