"""Wire profiles as data: what differs between ``aliro`` and ``vehicle`` stands here alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from dkey.lifecycle.policy import MAX_FAST_CANDIDATES

__all__ = ["ALIRO", "PROFILES", "VEHICLE", "Interface", "Profile"]


class Interface(Enum):
    """The interface byte of the key schedule (Aliro 1.0 §8.3.1.12)."""

    NFC = b"\x5e"
    BLE = b"\xc3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One wire profile.

    Attributes:
        name: Its name in files and on the command line.
        access_aid: Application identifier of the access applet, 5..16 bytes.
        versions: Protocol versions, two bytes each, highest first.
        application_type: Value of tag 80 in the SELECT response, two bytes.
        minimal_lengths: Whether a TLV length that could be shorter is refused.
        max_fast_candidates: Most stored Kpersistent that a reader tries in one transaction.
        intents: Whether a device may ask for LOCK or UNLOCK in its vendor extension
            (specs/vehicle-profile.md §4).
    """

    name: str
    access_aid: bytes
    versions: tuple[bytes, ...]
    application_type: bytes
    minimal_lengths: bool
    max_fast_candidates: int
    intents: bool


ALIRO: Final = Profile(
    name="aliro",
    access_aid=bytes.fromhex("A000000909ACCE5501"),
    versions=(b"\x01\x00",),
    application_type=b"\x00\x00",
    minimal_lengths=False,
    max_fast_candidates=64,
    intents=False,
)
"""The published Aliro 1.0 access protocol (Aliro 1.0 §10.2.1)."""

VEHICLE: Final = Profile(
    name="vehicle",
    access_aid=bytes.fromhex("F0646B65790101"),
    versions=(b"\x01\x00",),
    application_type=b"\x00\x00",
    minimal_lengths=True,
    max_fast_candidates=MAX_FAST_CANDIDATES,
    intents=True,
)
"""The same transaction under an identifier of ours (specs/vehicle-profile.md §2)."""

PROFILES: Final = {profile.name: profile for profile in (ALIRO, VEHICLE)}
