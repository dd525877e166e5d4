"""Envelopes for a relay that stores and forwards and can read nothing (specs/lifecycle.md §6.2).

Wire: the JSON object ``{"type":"AEAD_AES_256_GCM","data":base64(IV(12) || ciphertext || tag(16))}``
in exactly this form, or the same with 128. The key is derived from the secret of one exchange, for
each type apart. Direction and sequence number are bound as associated data, so that an envelope
cannot be sent back to its sender, or stand for another one of the exchange.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from enum import Enum
from typing import TYPE_CHECKING, Final

from dkey.crypto.box import open_box, seal_box
from dkey.crypto.kdf import hkdf
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, WireError

if TYPE_CHECKING:
    from dkey.crypto.entropy import Entropy

__all__ = ["MAX_ENVELOPE", "SECRET_SIZE", "Cipher", "Direction", "open_envelope", "seal_envelope"]

CLAUSE: Final = "specs/lifecycle.md §6.2"
MAX_ENVELOPE: Final = 32 * 1024
SECRET_SIZE: Final = 32
_IV: Final = 12
_LABEL: Final = b"dkey envelope 1 "


class Cipher(Enum):
    """The ciphers; the value is the key's size in bytes."""

    AEAD_AES_128_GCM = 16
    AEAD_AES_256_GCM = 32


class Direction(Enum):
    """Who wrote an envelope; the value is its byte in the associated data."""

    TO_FRIEND = 0
    TO_SHARER = 1


def seal_envelope(
    secret: Secret,
    plaintext: bytes,
    *,
    direction: Direction,
    sequence: int,
    entropy: Entropy,
    cipher: Cipher = Cipher.AEAD_AES_256_GCM,
) -> bytes:
    """Return the envelope with ``plaintext``.

    Args:
        secret: The secret of one exchange, 32 bytes.
        plaintext: What the relay shall not read.
        direction: Who writes.
        sequence: Place in the exchange, 0..2^32-1.
        entropy: Source of the IV.
        cipher: Size of the key.

    Raises:
        LocalFault: The secret has another size, or the envelope would have over 32 KiB.
    """
    sealed = seal_box(
        _key(secret, cipher), entropy.random(_IV), plaintext, _bound(direction, sequence)
    )
    data = _form(cipher, sealed)
    if len(data) > MAX_ENVELOPE:
        raise LocalFault(f"an envelope has at most {MAX_ENVELOPE} bytes", clause=CLAUSE)
    return data


def open_envelope(secret: Secret, data: bytes, *, direction: Direction, sequence: int) -> bytes:
    """Return the plaintext of exactly one envelope.

    Raises:
        WireError: Not an envelope in its one form.
        AuthenticationError: Changed, of another exchange, direction or place.
    """
    cipher, sealed = _parse(data)
    return open_box(_key(secret, cipher), sealed, _bound(direction, sequence))


def _parse(data: bytes) -> tuple[Cipher, bytes]:
    if len(data) > MAX_ENVELOPE:
        raise WireError(f"an envelope of {len(data)} bytes is too large", clause=CLAUSE)
    try:
        found = json.loads(data)
        cipher, sealed = Cipher[found["type"]], b64decode(found["data"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise WireError("this is no envelope", clause=CLAUSE) from exc
    if _form(cipher, sealed) != data:
        raise WireError("an envelope is not in its one form", clause=CLAUSE)
    return cipher, sealed


def _form(cipher: Cipher, sealed: bytes) -> bytes:
    text = {"type": cipher.name, "data": b64encode(sealed).decode("ascii")}
    return json.dumps(text, separators=(",", ":")).encode("ascii")


def _key(secret: Secret, cipher: Cipher) -> Secret:
    if len(secret) != SECRET_SIZE:
        raise LocalFault("the secret of an exchange has 32 bytes", clause=CLAUSE)
    return Secret(hkdf(secret.reveal(), b"", _LABEL + cipher.name.encode(), cipher.value))


def _bound(direction: Direction, sequence: int) -> bytes:
    if not 0 <= sequence < 1 << 32:
        raise LocalFault("a sequence number has four bytes", clause=CLAUSE)
    return _LABEL + bytes((direction.value,)) + sequence.to_bytes(4, "big")
