"""Messages of owner pairing, the same over NFC and BLE (specs/pairing.md §3).

A message is ``kind(1) || data``. Over BLE it travels behind our OUI in a pass-through message; over
NFC the vehicle's kinds are instruction bytes, and a response carries the data alone. Data are
objects in a fixed order with lengths in their shortest form; an unknown or repeated one is
malformed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from dkey.codec import tlv
from dkey.codec.ble import split_sdu
from dkey.codec.ble_contents import VENDOR_OUI, PassThrough, decode
from dkey.codec.tlv import Field, Layout
from dkey.crypto.p256 import PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import RefusalCode, WireError
from dkey.lifecycle.features import Capabilities, Feature, pack_features, parse_features

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CLAUSE",
    "CONFIRMED",
    "OWNER_AID",
    "VERSION",
    "Begin",
    "Confirm",
    "Cost",
    "DeviceKey",
    "Kind",
    "Offer",
    "PairedVehicle",
    "Proof",
    "Refused",
    "Share",
    "failure",
    "from_sdu",
    "is_owner_pairing",
    "kind_of",
    "to_sdu",
]

OWNER_AID: Final = bytes.fromhex("F0646B65790201")
"""Application identifier of owner pairing (specs/vehicle-profile.md §2)."""
CLAUSE: Final = "specs/pairing.md §3"
VERSION: Final = b"\x01\x00"
CONFIRMED: Final = b"\x98\x00"
"""Plaintext of ACCEPT and DONE."""
SIZE_MAX: Final = 1024
"""Longest message that is looked at, bytes."""


class Kind(IntEnum):
    """First byte of a message. None is the first attribute of a Verdict (specs/ble.md §5)."""

    BEGIN = 0xA0
    OFFER = 0xA1
    SHARE = 0xA2
    PROOF = 0xA3
    CONFIRM = 0xA4
    GRANT = 0xA5
    ACCEPT = 0xA6
    DONE = 0xA7
    REFUSED = 0xA8
    FAILED = 0xAF


def _layout(name: str, *fields: Field) -> Layout:
    return Layout(name, CLAUSE, *fields, skip_unknown=False)


_BEGIN: Final = _layout("BEGIN", Field(0x5C, 2, 16))
_OFFER: Final = _layout("OFFER", Field(0x5C, 2, 2), Field(0x80, 16, 32), Field(0x81, 3, 3))
_SHARE: Final = _layout("SHARE", Field(0x86, 65, 65))
_PROOF: Final = _layout("PROOF", Field(0x87, 65, 65), Field(0x88, 32, 32))
_CONFIRM: Final = _layout("CONFIRM", Field(0x88, 32, 32), Field(0x89, 16, 512))
_DEVICE: Final = _layout("device key", Field(0x5A, 65, 65), Field(0x8A, 4, 33), Field(0x9E, 64, 64))
_GRANT: Final = _layout(
    "GRANT",
    Field(0x4D, 16, 16),
    Field(0x5A, 65, 65),
    Field(0x8B, 16, 16),
    Field(0x8C, 4, 4),
    Field(0x8D, 1, 1),
    Field(0x8E, 1, 32),
)
_REFUSED: Final = _layout("REFUSED", Field(0x8F, 1, 40), Field(0x90, 0, 200))
_FAILED: Final = _layout("FAILED", Field(0x8F, 1, 40, required=False))
_NAME: Final = re.compile(r"[!-~]{1,32}")


def kind_of(message: bytes) -> Kind:
    """Return the kind of a message.

    Raises:
        WireError: Empty, over 1 KiB, or of no known kind.
    """
    if not 0 < len(message) <= SIZE_MAX:
        raise WireError(f"a message has 1..{SIZE_MAX} bytes, not {len(message)}", clause=CLAUSE)
    try:
        return Kind(message[0])
    except ValueError as exc:
        raise WireError(f"message kind {message[0]:02X} is not defined", clause=CLAUSE) from exc


def body(message: bytes, kind: Kind) -> bytes:
    """Return the data of a message that must be of this kind; WireError if it is not."""
    if kind_of(message) is not kind:
        raise WireError(f"expected {kind.name}, not {Kind(message[0]).name}", clause=CLAUSE)
    return message[1:]


def failure(code: RefusalCode | None = None) -> bytes:
    """Return FAILED: ``AF``, the one error of a pairing; ``[8F code]`` only in answer to BEGIN."""
    data = b"" if code is None else tlv.encode(0x8F, code.value.encode())
    return bytes((Kind.FAILED,)) + data


def failure_code(message: bytes) -> RefusalCode | None:
    """Return the code of FAILED, if there is one; WireError for one that is not known."""
    found = _FAILED.parse(body(message, Kind.FAILED), minimal=True)
    return _code(found[0x8F]) if 0x8F in found else None


def _code(data: bytes) -> RefusalCode:
    try:
        return RefusalCode(data.decode("ascii"))
    except ValueError as exc:  # UnicodeDecodeError is one
        raise WireError("unknown refusal code", clause=CLAUSE) from exc


def _message(kind: Kind, objects: Iterable[tuple[int, bytes]]) -> bytes:
    return bytes((kind,)) + b"".join(tlv.encode(tag, value) for tag, value in objects)


# --- in clear ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Device to vehicle: ``A0 5C versions(2n)``. Over NFC the answer to SELECT stands for it."""

    versions: tuple[bytes, ...] = (VERSION,)

    def to_bytes(self) -> bytes:
        """Encode."""
        return _message(Kind.BEGIN, [(0x5C, b"".join(self.versions))])

    @classmethod
    def parse(cls, message: bytes) -> Begin:
        """Decode."""
        listed = _BEGIN.parse(body(message, Kind.BEGIN), minimal=True)[0x5C]
        if len(listed) % 2:
            raise _BEGIN.error("the version list has an odd number of bytes")
        return cls(versions=tuple(listed[at : at + 2] for at in range(0, len(listed), 2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of scrypt. Wire: ``log2 n(1) || r(1) || p(1)``."""

    log_n: int = 15
    r: int = 8
    p: int = 1

    @property
    def n(self) -> int:
        """Scrypt's n."""
        return 1 << self.log_n

    @property
    def acceptable(self) -> bool:
        """Whether a device stretches a code at this cost (specs/pairing.md §3.2)."""
        return 15 <= self.log_n <= 17 and self.r == 8 and self.p == 1

    def to_bytes(self) -> bytes:
        """Encode as three bytes."""
        return bytes((self.log_n, self.r, self.p))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Vehicle to device: ``A1 5C version(2) 80 salt(16..32) 81 cost(3)``."""

    version: bytes = VERSION
    salt: bytes
    cost: Cost

    def to_bytes(self) -> bytes:
        """Encode."""
        objects = [(0x5C, self.version), (0x80, self.salt), (0x81, self.cost.to_bytes())]
        return _message(Kind.OFFER, objects)

    @classmethod
    def parse(cls, message: bytes) -> Offer:
        """Decode; whether the cost is acceptable is for the caller to ask."""
        found = _OFFER.parse(body(message, Kind.OFFER), minimal=True)
        log_n, r, p = found[0x81]
        return cls(version=found[0x5C], salt=found[0x80], cost=Cost(log_n=log_n, r=r, p=p))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Device to vehicle: ``A2 86 shareP(65)``."""

    share: bytes

    def to_bytes(self) -> bytes:
        """Encode."""
        return _message(Kind.SHARE, [(0x86, self.share)])

    @classmethod
    def parse(cls, message: bytes) -> Share:
        """Decode; the share is a point of the curve."""
        share = _SHARE.parse(body(message, Kind.SHARE), minimal=True)[0x86]
        PublicKey.parse(share)
        return cls(share=share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Vehicle to device: ``A3 87 shareV(65) 88 confirmV(32)``."""

    share: bytes
    confirmation: bytes

    def to_bytes(self) -> bytes:
        """Encode."""
        return _message(Kind.PROOF, [(0x87, self.share), (0x88, self.confirmation)])

    @classmethod
    def parse(cls, message: bytes) -> Proof:
        """Decode."""
        found = _PROOF.parse(body(message, Kind.PROOF), minimal=True)
        return cls(share=found[0x87], confirmation=found[0x88])


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """Device to vehicle: ``A4 88 confirmP(32) 89 sealed device key``."""

    confirmation: bytes
    sealed: bytes

    def to_bytes(self) -> bytes:
        """Encode."""
        return _message(Kind.CONFIRM, [(0x88, self.confirmation), (0x89, self.sealed)])

    @classmethod
    def parse(cls, message: bytes) -> Confirm:
        """Decode; nothing is verified."""
        found = _CONFIRM.parse(body(message, Kind.CONFIRM), minimal=True)
        return cls(confirmation=found[0x88], sealed=found[0x89])


# --- under the channel -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKey:
    """Plaintext of CONFIRM: ``5A public key(65) 8A capabilities(4..33) 9E proof(64)``.

    Attributes:
        proof: Signature of the key over the transcript, this key and these capabilities.
    """

    public_key: PublicKey
    capabilities: Capabilities
    proof: bytes = b""

    def said(self) -> bytes:
        """Return what the proof covers besides the transcript."""
        point, capabilities = self.public_key.point, self.capabilities.to_bytes()
        return tlv.encode(0x5A, point) + tlv.encode(0x8A, capabilities)

    def to_bytes(self) -> bytes:
        """Encode."""
        return self.said() + tlv.encode(0x9E, self.proof)

    @classmethod
    def parse(cls, plaintext: bytes) -> DeviceKey:
        """Decode; the proof is not verified."""
        found = _DEVICE.parse(plaintext, minimal=True)
        return cls(
            public_key=PublicKey.parse(found[0x5A]),
            capabilities=Capabilities.parse(found[0x8A]),
            proof=found[0x9E],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedVehicle:
    """What a device keeps of its vehicle; the plaintext of GRANT.

    Wire: ``4D group identifier(16) 5A reader key(65) 8B resolving key(16) 8C owner epoch(4)
    8D features(1) 8E key name(1..32, printable ASCII without space)``.

    Attributes:
        group_id: The vehicle's identifier, 16 bytes.
        public_key: Key of all its readers.
        resolving_key: Resolves its adverts (specs/ble.md §2), 16 bytes.
        owner_epoch: Counts the owners of the vehicle, from 1.
        features: What this key may do here.
        key_name: The vehicle's name for this key.
    """

    group_id: bytes
    public_key: PublicKey
    resolving_key: Secret
    owner_epoch: int
    features: frozenset[Feature]
    key_name: str

    def to_bytes(self) -> bytes:
        """Encode."""
        objects = (
            (0x4D, self.group_id),
            (0x5A, self.public_key.point),
            (0x8B, self.resolving_key.reveal()),
            (0x8C, self.owner_epoch.to_bytes(4, "big")),
            (0x8D, pack_features(self.features)),
            (0x8E, self.key_name.encode()),
        )
        return b"".join(tlv.encode(tag, value) for tag, value in objects)

    @classmethod
    def parse(cls, plaintext: bytes) -> PairedVehicle:
        """Decode."""
        found = _GRANT.parse(plaintext, minimal=True)
        name = found[0x8E].decode("latin-1")
        if not _NAME.fullmatch(name):
            raise _GRANT.error("the key's name is not printable")
        return cls(
            group_id=found[0x4D],
            public_key=PublicKey.parse(found[0x5A]),
            resolving_key=Secret(found[0x8B]),
            owner_epoch=int.from_bytes(found[0x8C], "big"),
            features=parse_features(found[0x8D]),
            key_name=name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Plaintext of REFUSED: ``8F code(ASCII) 90 text(0..200, UTF-8)``."""

    code: RefusalCode
    text: str = ""

    def to_bytes(self) -> bytes:
        """Encode; a long text is cut."""
        text = self.text.encode()[:200].decode("utf-8", "ignore").encode()
        return tlv.encode(0x8F, self.code.value.encode()) + tlv.encode(0x90, text)

    @classmethod
    def parse(cls, plaintext: bytes) -> Refused:
        """Decode."""
        found = _REFUSED.parse(plaintext, minimal=True)
        text = found[0x90].decode("utf-8", "replace")
        return cls(code=_code(found[0x8F]), text=text)


# --- over BLE ----------------------------------------------------------------------------------


def to_sdu(message: bytes) -> bytes:
    """Return the BLE SDU with one message: ``04 00 length(2) || 02646B || message``."""
    return PassThrough(oui=VENDOR_OUI, data=message).to_message().to_bytes()


def from_sdu(sdu: bytes) -> bytes:
    """Return the one message of an SDU.

    Raises:
        WireError: Anything else.
    """
    found = split_sdu(sdu)
    content = decode(found[0])
    if len(found) != 1 or found[0].reserved or not isinstance(content, PassThrough):
        raise WireError("not one pass-through message", clause=CLAUSE)
    if content.oui != VENDOR_OUI:
        raise WireError("a pass-through message of somebody else", clause=CLAUSE)
    kind_of(content.data)
    return content.data


def is_owner_pairing(sdu: bytes) -> bool:
    """Return whether the first SDU of a connection begins owner pairing. Never raises."""
    try:
        return kind_of(from_sdu(sdu)) is Kind.BEGIN
    except WireError:
        return False
