"""Sealed boxes: AES-GCM under a shared key, and to the holder of a P-256 key.

Pure: nonces and ephemeral keys are arguments, each for one box only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dkey.crypto.channel import open_once, seal_once
from dkey.crypto.kdf import hkdf
from dkey.crypto.p256 import PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import AuthenticationError

if TYPE_CHECKING:
    from dkey.crypto.p256 import PrivateKey
    from dkey.crypto.vault import Vault

__all__ = ["NONCE_SIZE", "open_box", "open_from", "seal_box", "seal_to"]

NONCE_SIZE: Final = 12
_TAG: Final = 16
_POINT: Final = 65
_LABEL: Final = b"dkey box to key"


def seal_box(key: Secret, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return ``nonce(12) || ciphertext || tag(16)``.

    Args:
        key: 16 or 32 bytes.
        nonce: 12 bytes, never used before with this key.
        plaintext: What is kept secret.
        aad: What is bound to it and known to both sides.
    """
    return nonce + AESGCM(key.reveal()).encrypt(nonce, plaintext, aad)


def open_box(key: Secret, box: bytes, aad: bytes) -> bytes:
    """Return the plaintext of :func:`seal_box`.

    Raises:
        AuthenticationError: Cut, changed, sealed under another key or bound to something else.
    """
    try:
        return AESGCM(key.reveal()).decrypt(box[:NONCE_SIZE], box[NONCE_SIZE:], aad)
    except (InvalidTag, ValueError) as exc:
        raise _refused() from exc


def seal_to(peer: PublicKey, ephemeral: PrivateKey, plaintext: bytes, info: bytes) -> bytes:
    """Seal to the holder of ``peer``: ``ephemeral point(65) || ciphertext || tag(16)``.

    It does not say who sealed it: what is inside has to be signed.

    Args:
        peer: The recipient's key.
        ephemeral: A key made for this box and forgotten after it.
        plaintext: What is kept secret.
        info: What the box is for; goes into its key.
    """
    key = _key(ephemeral.agree(peer), ephemeral.public, peer, info)
    return ephemeral.public.point + seal_once(key, plaintext)


def open_from(vault: Vault, name: str, box: bytes, info: bytes) -> bytes:
    """Return the plaintext of :func:`seal_to` with the private key ``name`` of ``vault``.

    Raises:
        AuthenticationError: Cut, changed, sealed to another key or for something else.
        WireError: The ephemeral key is not on the curve.
    """
    if len(box) < _POINT + _TAG:
        raise _refused()
    ephemeral = PublicKey.parse(box[:_POINT])
    key = _key(vault.agree(name, ephemeral), ephemeral, vault.public(name), info)
    plaintext = open_once(key, box[_POINT:])
    if plaintext is None:
        raise _refused()
    return plaintext


def _key(shared: Secret, ephemeral: PublicKey, peer: PublicKey, info: bytes) -> Secret:
    """Return the key of one box; both whole points are in it, since ECDH gives x alone."""
    context = _LABEL + ephemeral.point + peer.point + info
    return Secret(hkdf(shared.reveal(), b"", context, 32))


def _refused() -> AuthenticationError:
    return AuthenticationError("a sealed box does not open")
