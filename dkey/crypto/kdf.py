"""Key derivation: the ANSI X9.63 KDF and HKDF, both with SHA-256."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

__all__ = ["hkdf", "x963"]

_SHA256: Final = SHA256()


def x963(shared: bytes, shared_info: bytes, length: int) -> bytes:
    """Return ``length`` bytes of the X9.63 KDF over ``shared`` (SEC 1 §3.6.1)."""
    if length == 32:  # one block: the hash itself, three times as fast as the general form
        return sha256(b"".join((shared, b"\x00\x00\x00\x01", shared_info))).digest()
    return X963KDF(_SHA256, length, shared_info).derive(shared)


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Return ``length`` bytes of HKDF-SHA256, extract and expand (RFC 5869)."""
    return HKDF(_SHA256, length, salt, info).derive(key)
