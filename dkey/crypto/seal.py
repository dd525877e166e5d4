"""Sealing small secrets for storage: AES-256-GCM under one key, bound to where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dkey.crypto.secret import Secret
from dkey.errors import VaultError

if TYPE_CHECKING:
    from dkey.crypto.entropy import Entropy

__all__ = ["Seal"]

_NONCE: Final = 12


class Seal:
    """Seals secrets with random nonces; wire: nonce(12), ciphertext, tag(16).

    Args:
        key: 32 bytes.
        entropy: Source of nonces.
    """

    def __init__(self, key: Secret, entropy: Entropy) -> None:
        self._cipher = AESGCM(key.reveal())
        self._entropy = entropy

    def close(self, secret: Secret, place: bytes) -> bytes:
        """Return the sealed secret; it opens only with the same ``place``."""
        nonce = self._entropy.random(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret.reveal(), place)

    def open(self, sealed: bytes, place: bytes) -> Secret:
        """Return the secret.

        Raises:
            VaultError: Sealed under another key or for another place, or changed.
        """
        try:
            return Secret(self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], place))
        except (InvalidTag, ValueError) as exc:
            raise VaultError(
                "a sealed secret does not open",
                hint="restore the store and its key file from the same backup",
            ) from exc
