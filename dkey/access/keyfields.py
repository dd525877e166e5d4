"""Key fields of our JSON files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.access.profile import PROFILES
from dkey.crypto.p256 import PublicKey
from dkey.crypto.vault import MemoryVault
from dkey.errors import DkeyError

if TYPE_CHECKING:
    from dkey.access.profile import Profile
    from dkey.codec.hexjson import Record

__all__ = ["private_key", "profile", "public_key"]


def profile(record: Record, name: str) -> Profile:
    """Return the field as a wire profile.

    Raises:
        FileFormatError: No profile has this name.
    """
    value = record.raw(name)
    if isinstance(value, str) and value in PROFILES:
        return PROFILES[value]
    known = " or ".join(f'"{each}"' for each in PROFILES)
    raise record.error(name, f"expected {known}")


def public_key(record: Record, name: str) -> PublicKey:
    """Return the field as a public key, 65 bytes on P-256.

    Raises:
        FileFormatError: It is anything else.
    """
    point = record.hex(name, 65)
    try:
        return PublicKey.parse(point)
    except DkeyError as exc:
        raise record.error(name, str(exc)) from exc


def private_key(record: Record, name: str, key: str) -> MemoryVault:
    """Return a vault that holds the field, a private scalar of 32 bytes, under the name ``key``.

    Raises:
        FileFormatError: Not a private key of P-256.
    """
    scalar = record.hex(name, 32)
    try:
        return MemoryVault.of(key, scalar)
    except DkeyError as exc:
        raise record.error(name, str(exc)) from exc
