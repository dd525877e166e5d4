"""The messages of the access transaction (Aliro 1.0 §8.3.3, §10.2).

Each is a frozen value with ``to_bytes`` and ``parse`` for its TLV data; :func:`command` puts the
header before it. SELECT is in :mod:`dkey.access.select`. ``parse`` takes ``minimal`` from the
profile: whether TLV lengths must be in their shortest form.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from dkey.codec import tlv
from dkey.codec.apdu import Command
from dkey.codec.tlv import Field, Layout
from dkey.errors import WireError

__all__ = [
    "CRYPTOGRAM_SIZE",
    "EXTENSION_MAX",
    "Auth0Command",
    "Auth0Response",
    "Auth1Command",
    "Auth1Payload",
    "ControlFlow",
    "CryptogramPayload",
    "Ins",
    "Signaling",
    "command",
    "extension_object",
    "parse_extensions",
    "vendor_extension",
]

CRYPTOGRAM_SIZE: Final = 64
EXTENSION_MAX: Final = 127
_CERTIFICATE_MAX: Final = 1024


class Ins(IntEnum):
    """Instruction bytes."""

    SELECT = 0xA4
    AUTH0 = 0x80
    AUTH1 = 0x81
    LOAD_CERT = 0xD1
    EXCHANGE = 0xC9
    CONTROL_FLOW = 0x3C
    ENVELOPE = 0xC3
    GET_RESPONSE = 0xC0


def command(ins: Ins, data: bytes) -> Command:
    """Return the command APDU value of AUTH0, LOAD CERT, AUTH1, EXCHANGE or CONTROL FLOW."""
    return Command(0x80, ins, 0x00, 0x00, data, None if ins is Ins.CONTROL_FLOW else 256)


# --- vendor extensions ------------------------------------------------------------------------


def vendor_extension(oui: bytes, content: bytes) -> bytes:
    """Return one extension ``30 { 04 03 OUI, content }``; ``content`` is TLV."""
    return tlv.encode(0x30, tlv.encode(0x04, oui) + content)


def extension_object(tag: int, value: bytes) -> bytes:
    """Return the whole B1 or B2 object as the key schedule takes it; empty for an empty value."""
    return tlv.encode(tag, value) if value else b""


def parse_extensions(value: bytes, *, minimal: bool = False) -> dict[bytes, bytes]:
    """Return OUI (3 bytes) to the TLV behind it, for the value of a B1, B2 or B3 object.

    Raises:
        WireError: Not one or more ``30 { 04 03 OUI … }``, or an OUI twice.
    """
    found: dict[bytes, bytes] = {}
    clause = "Aliro 1.0 §8.3.3.2"
    for tag, _, at, end in tlv.items(value, minimal=minimal):
        inner = [*tlv.items(value[at:end], minimal=minimal)]
        if tag != 0x30 or not inner or inner[0][0] != 0x04 or inner[0][3] - inner[0][2] != 3:
            raise WireError("a vendor extension is 30 { 04 03 OUI … }", clause=clause)
        body = value[at:end]
        oui = body[inner[0][2] : inner[0][3]]
        if oui in found:
            raise WireError("a vendor extension is repeated", clause=clause)
        found[oui] = body[inner[0][3] :]
    if not found:
        raise WireError("a vendor extension object is empty", clause=clause)
    return found


# --- AUTH0 -------------------------------------------------------------------------------------

_AUTH0: Final = Layout(
    "AUTH0",
    "Aliro 1.0 §8.3.3.2.1",
    Field(0x41, 1, 1),
    Field(0x42, 1, 1),
    Field(0x5C, 2, 2),
    Field(0x87, 65, 65),
    Field(0x4C, 16, 16),
    Field(0x4D, 32, 32),
    Field(0xB1, 1, EXTENSION_MAX, required=False),
)
_AUTH0_RESPONSE: Final = Layout(
    "AUTH0 response",
    "Aliro 1.0 §8.3.3.2.3",
    Field(0x86, 65, 65),
    Field(0x9D, CRYPTOGRAM_SIZE, CRYPTOGRAM_SIZE, required=False),
    Field(0xB2, 1, EXTENSION_MAX, required=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth0Command:
    """Reader's first message.

    Attributes:
        parameters: Bit 0 asks for a fast transaction; other bits are RFU and ignored.
        policy: 1 device's setting, 2 secure action, 3 force user authentication.
        version: Selected version, 2 bytes.
        reader_ephemeral: 65 bytes, not yet checked.
        transaction_id: 16 random bytes.
        reader_id: Group identifier, then sub-identifier, 32 bytes.
        extension: Value of the B1 object, or empty.
    """

    parameters: int
    policy: int
    version: bytes
    reader_ephemeral: bytes
    transaction_id: bytes
    reader_id: bytes
    extension: bytes = b""

    @property
    def fast(self) -> bool:
        """Whether a fast transaction is asked for."""
        return bool(self.parameters & 1)

    @property
    def extension_object(self) -> bytes:
        """The whole B1 object as the key schedule takes it, or empty."""
        return extension_object(0xB1, self.extension)

    def to_bytes(self) -> bytes:
        """Encode in the prescribed order."""
        return b"".join(
            (
                bytes((0x41, 1, self.parameters, 0x42, 1, self.policy)),
                b"\x5c\x02",
                self.version,
                b"\x87\x41",
                self.reader_ephemeral,
                b"\x4c\x10",
                self.transaction_id,
                b"\x4d\x20",
                self.reader_id,
                self.extension_object,
            )
        )

    @classmethod
    def parse(cls, data: bytes, *, minimal: bool = False) -> Auth0Command:
        """Decode AUTH0 command data; unknown tags are skipped.

        Raises:
            WireError: Malformed, out of order, or an undefined authentication policy.
        """
        found = _AUTH0.parse(data, minimal=minimal)
        policy = found[0x42][0]
        if not 1 <= policy <= 3:
            raise _AUTH0.error(f"authentication policy {policy} is not defined")
        extension = found.get(0xB1, b"")
        if extension:
            parse_extensions(extension, minimal=minimal)
        return cls(
            parameters=found[0x41][0],
            policy=policy,
            version=found[0x5C],
            reader_ephemeral=found[0x87],
            transaction_id=found[0x4C],
            reader_id=found[0x4D],
            extension=extension,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth0Response:
    """Device's first message.

    Attributes:
        device_ephemeral: 65 bytes, not yet checked.
        cryptogram: 64 bytes if fast was asked for, else empty.
        extension: Value of the B2 object, or empty.
    """

    device_ephemeral: bytes
    cryptogram: bytes = b""
    extension: bytes = b""

    @property
    def extension_object(self) -> bytes:
        """The whole B2 object as the key schedule takes it, or empty."""
        return extension_object(0xB2, self.extension)

    def to_bytes(self) -> bytes:
        """Encode in the prescribed order."""
        data = b"\x86\x41" + self.device_ephemeral
        if self.cryptogram:
            data += b"\x9d\x40" + self.cryptogram
        return data + self.extension_object

    @classmethod
    def parse(cls, data: bytes, *, minimal: bool = False) -> Auth0Response:
        """Decode AUTH0 response data; unknown tags are skipped."""
        found = _AUTH0_RESPONSE.parse(data, minimal=minimal)
        extension = found.get(0xB2, b"")
        if extension:
            parse_extensions(extension, minimal=minimal)
        return cls(
            device_ephemeral=found[0x86], cryptogram=found.get(0x9D, b""), extension=extension
        )


# --- signaling, cryptogram ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signaling:
    """The signaling bitmap: two bytes, bit 0 is the least significant (Aliro 1.0 §8.3.3.4.2)."""

    value: int = 0

    MAILBOX_NOT_ZERO = 1 << 3
    MAILBOX_READ = 1 << 4
    MAILBOX_WRITE = 1 << 5

    def to_bytes(self) -> bytes:
        """Encode as two bytes, big-endian."""
        return self.value.to_bytes(2, "big")


_NO_DATE: Final = bytes(20)
_CRYPTOGRAM: Final = Layout(
    "cryptogram",
    "Aliro 1.0 §8.3.3.2.3",
    Field(0x5E, 2, 2),
    Field(0x91, 20, 20),
    Field(0x92, 20, 20),
    skip_unknown=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CryptogramPayload:
    """What a fast AUTH0 response carries encrypted: 48 bytes.

    Attributes:
        signaling: The signaling bitmap.
        access_date: Signed date of the Access Document, 20 characters, or zeros.
        revocation_date: Signed date of the Revocation Document, 20 characters, or zeros.
    """

    signaling: Signaling
    access_date: bytes = _NO_DATE
    revocation_date: bytes = _NO_DATE

    def to_bytes(self) -> bytes:
        """Encode; always 48 bytes."""
        return b"".join(
            (
                b"\x5e\x02",
                self.signaling.to_bytes(),
                b"\x91\x14",
                self.access_date,
                b"\x92\x14",
                self.revocation_date,
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> CryptogramPayload:
        """Decode; nothing but the three objects is accepted."""
        found = _CRYPTOGRAM.parse(data)
        return cls(
            signaling=Signaling(int.from_bytes(found[0x5E], "big")),
            access_date=found[0x91],
            revocation_date=found[0x92],
        )


# --- AUTH1 -------------------------------------------------------------------------------------

_AUTH1: Final = Layout(
    "AUTH1",
    "Aliro 1.0 §8.3.3.4.1",
    Field(0x41, 1, 1),
    Field(0x9E, 64, 64),
    Field(0x90, 1, _CERTIFICATE_MAX, required=False),
)
_AUTH1_PAYLOAD: Final = Layout(
    "AUTH1 response",
    "Aliro 1.0 §8.3.3.4.2",
    Field(0x4E, 8, 8, required=False),
    Field(0x5A, 65, 65, required=False),
    Field(0x9E, 64, 64, required=False),
    Field(0x4B, 0, 65535, required=False),
    Field(0x5E, 2, 2),
    Field(0x91, 20, 20, required=False),
    Field(0x92, 20, 20, required=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth1Command:
    """Reader's proof.

    Attributes:
        want_public_key: Ask for the credential's public key instead of its key slot.
        signature: 64 bytes, r then s.
        certificate: Compressed reader certificate, or empty.
    """

    want_public_key: bool
    signature: bytes
    certificate: bytes = b""

    def to_bytes(self) -> bytes:
        """Encode in the prescribed order."""
        data = bytes((0x41, 1, self.want_public_key)) + b"\x9e\x40" + self.signature
        return data + tlv.encode(0x90, self.certificate) if self.certificate else data

    @classmethod
    def parse(cls, data: bytes, *, minimal: bool = False) -> Auth1Command:
        """Decode AUTH1 command data; unknown tags are skipped."""
        found = _AUTH1.parse(data, minimal=minimal)
        return cls(
            want_public_key=bool(found[0x41][0] & 1),
            signature=found[0x9E],
            certificate=found.get(0x90, b""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth1Payload:
    """Device's proof, the plaintext of the AUTH1 response.

    Attributes:
        key_slot: First 8 bytes of SHA-1 over the credential's public key, or empty.
        public_key: The credential's public key, 65 bytes unchecked, or empty.
        signature: 64 bytes, r then s; empty when the device sent none.
        signaling: The signaling bitmap.
        mailbox: The mailbox subset that the issuer configured; None without one.
    """

    key_slot: bytes = b""
    public_key: bytes = b""
    signature: bytes
    signaling: Signaling
    mailbox: bytes | None = None

    def to_bytes(self) -> bytes:
        """Encode in the prescribed order."""
        parts = [
            b"\x5a\x41" + self.public_key if self.public_key else b"\x4e\x08" + self.key_slot,
            b"\x9e\x40" + self.signature,
        ]
        if self.mailbox is not None:
            parts.append(tlv.encode(0x4B, self.mailbox))
        parts.append(b"\x5e\x02" + self.signaling.to_bytes())
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes, *, minimal: bool = False) -> Auth1Payload:
        """Decode; unknown tags are skipped. Which identity is present is left to the caller."""
        found = _AUTH1_PAYLOAD.parse(data, minimal=minimal)
        return cls(
            key_slot=found.get(0x4E, b""),
            public_key=found.get(0x5A, b""),
            signature=found.get(0x9E, b""),
            signaling=Signaling(int.from_bytes(found[0x5E], "big")),
            mailbox=found.get(0x4B),
        )


# --- CONTROL FLOW ------------------------------------------------------------------------------

_CONTROL_FLOW: Final = Layout(
    "CONTROL FLOW", "Aliro 1.0 §10.2.2", Field(0x41, 1, 1), Field(0x42, 1, 1)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFlow:
    """Reader's notice of failure where no protected channel can carry one.

    Attributes:
        reason: 0 none, 0x27 protocol version not supported.
    """

    reason: int = 0

    NO_COMMON_VERSION = 0x27

    def to_bytes(self) -> bytes:
        """Encode; status 00 (failure) is the only one defined."""
        return bytes((0x41, 1, 0, 0x42, 1, self.reason))

    @classmethod
    def parse(cls, data: bytes, *, minimal: bool = False) -> ControlFlow:
        """Decode; unknown tags are skipped."""
        return cls(reason=_CONTROL_FLOW.parse(data, minimal=minimal)[0x42][0])
