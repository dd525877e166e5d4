"""Key derivation: the ANSI X9.63 KDF and HKDF with SHA-256, and the counter KDF of SP 800-108."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from dkey.crypto.cmac import aes_cmac
from dkey.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["hkdf", "kdf_ctr", "kdf_ctr_cmac", "x963"]

_SHA256: Final = SHA256()


def x963(shared: bytes, shared_info: bytes, length: int) -> bytes:
    """Return ``length`` bytes of the X9.63 KDF over ``shared`` (SEC 1 §3.6.1)."""
    if length == 32:  # one block: the hash itself, three times as fast as the general form
        return sha256(b"".join((shared, b"\x00\x00\x00\x01", shared_info))).digest()
    return X963KDF(_SHA256, length, shared_info).derive(shared)


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Return ``length`` bytes of HKDF-SHA256, extract and expand (RFC 5869)."""
    return HKDF(_SHA256, length, salt, info).derive(key)


def kdf_ctr_cmac(key: bytes, fixed: bytes, length: int, *, counter_size: int = 4) -> bytes:
    """Return ``length`` bytes of :func:`kdf_ctr` with AES-CMAC under ``key``."""
    return kdf_ctr(partial(aes_cmac, key), fixed, length, counter_size=counter_size)


def kdf_ctr(
    prf: Callable[[bytes], bytes], fixed: bytes, length: int, *, counter_size: int = 4
) -> bytes:
    """Return ``length`` bytes of the KDF in counter mode (NIST SP 800-108r1 §4.1).

    Args:
        prf: The keyed function; its output is one block.
        fixed: Label, separator, context and length as the caller lays them out.
        length: At least 1.
        counter_size: Bytes of the big-endian counter before ``fixed``; it starts at 1.

    Raises:
        LocalFault: No output is asked for, or more than the counter can number.
    """
    if length < 1:
        raise LocalFault(f"{length} bytes cannot be derived")
    found = b""
    for at in range(1, 1 << 8 * counter_size):
        found += prf(at.to_bytes(counter_size, "big") + fixed)
        if len(found) >= length:
            return found[:length]
    raise LocalFault(f"a counter of {counter_size} bytes does not lead to {length} bytes")
