"""AES-CMAC (NIST SP 800-38B, RFC 4493)."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from dkey.errors import LocalFault

__all__ = ["MAC_SIZE", "aes_cmac"]

MAC_SIZE: Final = 16
_KEY_SIZES: Final = (16, 24, 32)


def aes_cmac(key: bytes, message: bytes) -> bytes:
    """Return the AES-CMAC of ``message``, 16 bytes.

    Args:
        key: 16, 24 or 32 bytes.
        message: Any length.

    Raises:
        LocalFault: No AES key has this length.
    """
    if len(key) not in _KEY_SIZES:
        raise LocalFault(f"an AES key has 16, 24 or 32 bytes, not {len(key)}")
    mac = CMAC(AES(key))
    mac.update(message)
    return mac.finalize()
