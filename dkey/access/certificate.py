"""The compressed reader certificate, profile 0000 (Aliro 1.0 §6.3.1, §13.3).

A reader may be certified by its system's issuer instead of being known by its own key. What is
signed is an X.509 v3 certificate of fixed form; what travels is only what varies in it. This
module rebuilds the signed bytes from the variable fields, without a general X.509 parser, so that
exactly one certificate matches one compressed form.

Wire layout (DER, shortest lengths, each context value is raw bytes)::

    30 { 04 02 0000
         30 { [80 serial 1..20] [81 issuer 1..32] [82 not before 13|15] [83 not after 13|15]
              [84 subject 1..32] 85 = 00 || point (66) 86 = 00 || DER signature (9..73) } }
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from hashlib import sha1, sha256
from typing import TYPE_CHECKING, Final

from dkey.codec.tlv import Field, Layout, encode, items
from dkey.crypto.p256 import PublicKey
from dkey.errors import AuthenticationError, LocalFault, VaultError, WireError

if TYPE_CHECKING:
    from dkey.crypto.vault import Vault

__all__ = ["ReaderCertificate"]

CLAUSE: Final = "Aliro 1.0 §13.3"
_PROFILE: Final = bytes(2)
_SERIAL: Final = b"\x01"
_ISSUER: Final = "issuer"
_NOT_BEFORE: Final = "200101000000Z"
_NOT_AFTER: Final = "490101000000Z"
_SUBJECT: Final = "subject"

_INTEGER: Final = 0x02
_BITS: Final = 0x03
_OCTETS: Final = 0x04
_SEQUENCE: Final = 0x30
_VERSION_3: Final = bytes.fromhex("a003020102")
_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_COMMON_NAME: Final = bytes.fromhex("0603550403")
_P256_SPKI: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_EXTENSIONS_HEAD: Final = bytes.fromhex("a341303f301f0603551d23041830168014")
"""The extensions as far as the issuer's key identifier, their only variable part (20 bytes)."""
_EXTENSIONS_TAIL: Final = bytes.fromhex(
    "300c0603551d130101ff04023000300e0603551d0f0101ff040403020780"
)
_KEY_ID_AT: Final = len(_EXTENSIONS_HEAD) - 2

_WHOLE: Final = Layout("reader certificate", CLAUSE, Field(_SEQUENCE, 0, 300), skip_unknown=False)
_PARTS: Final = Layout(
    "reader certificate", CLAUSE, Field(_OCTETS, 2, 2), Field(_SEQUENCE, 0, 300), skip_unknown=False
)
_FIELDS: Final = Layout(
    "reader certificate",
    CLAUSE,
    Field(0x80, 1, 20, required=False),
    Field(0x81, 1, 32, required=False),
    Field(0x82, 13, 15, required=False),
    Field(0x83, 13, 15, required=False),
    Field(0x84, 1, 32, required=False),
    Field(0x85, 66, 66),
    Field(0x86, 9, 73),
    skip_unknown=False,
)
_TIME: Final = re.compile(
    rb"(?:\d\d)?\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d[0-5]\dZ"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderCertificate:
    """What varies in a reader certificate of profile 0000.

    Attributes:
        serial: Contents of the serial number INTEGER, 1..20 bytes, kept as they are.
        issuer: Common name of the issuer, 1..32 bytes of UTF-8.
        not_before: Start of validity, ``YYMMDDhhmmssZ`` (UTCTime) or ``YYYYMMDDhhmmssZ``.
        not_after: End of validity, the same.
        subject: Common name of the reader, 1..32 bytes of UTF-8.
        public_key: The certified reader key.
        signature_der: The issuer's ECDSA-SHA256 signature in DER, 8..72 bytes. It is kept as it
            came; only :meth:`verify` judges it.
    """

    serial: bytes = _SERIAL
    issuer: str = _ISSUER
    not_before: str = _NOT_BEFORE
    not_after: str = _NOT_AFTER
    subject: str = _SUBJECT
    public_key: PublicKey
    signature_der: bytes

    @classmethod
    def expand(cls, compressed: bytes) -> ReaderCertificate:
        """Decode exactly one compressed certificate.

        A field that is sent although it equals its default is accepted: it means the same signed
        bytes. That the certificate is well-formed says nothing about trust, see :meth:`verify`.

        Raises:
            WireError: Another profile, a malformed, unknown, repeated or misplaced field, a
                wrong size, a key that is not on the curve, or bytes behind the certificate.
        """
        whole = _WHOLE.parse(compressed, minimal=True)
        parts = _PARTS.parse(whole[_SEQUENCE], minimal=True)
        if parts[_OCTETS] != _PROFILE:
            raise _WHOLE.error(f"profile {parts[_OCTETS].hex()} is not 0000")
        found = _FIELDS.parse(parts[_SEQUENCE], minimal=True)
        if found[0x85][0] or found[0x86][0]:
            raise _WHOLE.error("a key or signature does not start with 00 (no unused bits)")
        not_before, not_after = found.get(0x82), found.get(0x83)
        issuer, subject = found.get(0x81), found.get(0x84)
        return cls(
            serial=found.get(0x80, _SERIAL),
            issuer=_ISSUER if issuer is None else _name(issuer),
            not_before=_NOT_BEFORE if not_before is None else _time(not_before),
            not_after=_NOT_AFTER if not_after is None else _time(not_after),
            subject=_SUBJECT if subject is None else _name(subject),
            public_key=PublicKey.parse(found[0x85][1:]),
            signature_der=found[0x86][1:],
        )

    @classmethod
    def from_x509(cls, der: bytes) -> ReaderCertificate:
        """Take the fields out of an X.509 certificate that has exactly the form of the profile.

        The issuer's key identifier is checked for its form only; it is not a field.

        Raises:
            WireError: The certificate has any other form, so that its signature would not
                survive compression.
        """
        (whole,) = _children(der, _SEQUENCE)
        tbs, _, signature = _children(whole, _SEQUENCE, _SEQUENCE, _BITS)
        _, serial, _, issuer, validity, subject, spki, extensions = _children(
            tbs, 0xA0, _INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE, 0xA3
        )
        _, point = _children(spki, _SEQUENCE, _BITS)
        times = [validity[at:end] for _, _, at, end in items(validity, minimal=True)]
        if len(times) != 2 or point[:1] != b"\x00" or signature[:1] != b"\x00":
            raise _not_of_profile()
        found = cls(
            serial=serial,
            issuer=_name(_common_name(issuer)),
            not_before=_time(times[0]),
            not_after=_time(times[1]),
            subject=_name(_common_name(subject)),
            public_key=PublicKey.parse(point[1:]),
            signature_der=signature[1:],
        )
        key_id = extensions[_KEY_ID_AT : _KEY_ID_AT + 20]
        if found._x509(key_id) != der or cls.expand(found.compress()) != found:
            raise _not_of_profile()
        return found

    @classmethod
    def issue(
        cls,
        vault: Vault,
        issuer_key_name: str,
        issuer_public: PublicKey,
        subject_public: PublicKey,
        *,
        serial: bytes = _SERIAL,
        issuer: str = _ISSUER,
        not_before: str = _NOT_BEFORE,
        not_after: str = _NOT_AFTER,
        subject: str = _SUBJECT,
    ) -> ReaderCertificate:
        """Certify ``subject_public`` with the issuer key that ``vault`` holds.

        Raises:
            VaultError: The vault has no such key, or its public half is not ``issuer_public``.
            LocalFault: A field does not fit the profile.
        """
        if vault.public(issuer_key_name) != issuer_public:
            raise VaultError(
                f"the vault's key {issuer_key_name!r} is not the given issuer key",
                hint="pass the issuer's public key that belongs to this key name",
            )
        if (
            len(serial) not in range(1, 21)
            or serial[0] & 0x80
            or (len(serial) > 1 and serial[0] == 0 and not serial[1] & 0x80)
        ):
            raise LocalFault(
                "a certificate serial is a positive INTEGER in 1..20 bytes, shortest form",
                clause="RFC 5280 §4.1.2.2",
                hint="drop leading zeros, or put one 00 before a first byte over 7F",
            )
        draft = cls(
            serial=serial,
            issuer=issuer,
            not_before=not_before,
            not_after=not_after,
            subject=subject,
            public_key=subject_public,
            signature_der=bytes(72),
        )
        try:
            cls.expand(draft.compress())
        except (WireError, UnicodeEncodeError) as exc:
            raise LocalFault(
                f"the certificate cannot be issued: {exc}",
                clause=CLAUSE,
                hint="names are 1..32 bytes, times are YYMMDDhhmmssZ or YYYYMMDDhhmmssZ",
            ) from exc
        if _moment(not_before) > _moment(not_after):
            raise LocalFault("the certificate would end before it begins", clause=CLAUSE)
        signature = vault.sign(issuer_key_name, sha256(draft._tbs(issuer_public)).digest())
        return replace(draft, signature_der=_der_signature(signature))

    def compress(self) -> bytes:
        """Encode for the wire; fields that equal their default are left out."""
        inner = b""
        if self.serial != _SERIAL:
            inner += encode(0x80, self.serial)
        if self.issuer != _ISSUER:
            inner += encode(0x81, self.issuer.encode())
        if self.not_before != _NOT_BEFORE:
            inner += encode(0x82, self.not_before.encode())
        if self.not_after != _NOT_AFTER:
            inner += encode(0x83, self.not_after.encode())
        if self.subject != _SUBJECT:
            inner += encode(0x84, self.subject.encode())
        inner += encode(0x85, b"\x00" + self.public_key.point)
        inner += encode(0x86, b"\x00" + self.signature_der)
        return encode(_SEQUENCE, encode(_OCTETS, _PROFILE) + encode(_SEQUENCE, inner))

    def to_x509(self, issuer: PublicKey) -> bytes:
        """Return the whole X.509 v3 certificate in DER, as ``issuer`` signed it."""
        return self._x509(_key_id(issuer.point))

    def verify(self, issuer: PublicKey, *, now: str | None = None) -> None:
        """Check that ``issuer`` signed this certificate and, with ``now``, that it is in force.

        Whoever answers a peer must not let it see this failure at LOAD CERT: an untrusted
        certificate fails at AUTH1 (Aliro 1.0 §8.3.3.3).

        Args:
            issuer: The reader system issuer's key that is stored for the reader group.
            now: The time as ``YYMMDDhhmmssZ`` or ``YYYYMMDDhhmmssZ``; None skips the check, for
                a device with no trusted clock (the check is a SHOULD, Aliro 1.0 §6.3.1).

        Raises:
            AuthenticationError: It is not the issuer's signature, or the time is outside.
            LocalFault: ``now`` has another form.
        """
        issuer.verify_der(self.signature_der, self._tbs(issuer))
        if now is None:
            return
        if not _TIME.fullmatch(now.encode()):
            raise LocalFault(
                f"{now!r} is not a time", hint="pass YYYYMMDDhhmmssZ, for example 20260131235959Z"
            )
        if not _moment(self.not_before) <= _moment(now) <= _moment(self.not_after):
            raise AuthenticationError("the reader certificate is not in force", clause=CLAUSE)

    def _tbs(self, issuer: PublicKey) -> bytes:
        return self._signed_part(_key_id(issuer.point))

    def _x509(self, key_id: bytes) -> bytes:
        signature = encode(_BITS, b"\x00" + self.signature_der)
        return encode(_SEQUENCE, self._signed_part(key_id) + _ECDSA_SHA256 + signature)

    def _signed_part(self, key_id: bytes) -> bytes:
        return encode(
            _SEQUENCE,
            b"".join(
                (
                    _VERSION_3,
                    encode(_INTEGER, self.serial),
                    _ECDSA_SHA256,
                    _encode_name(self.issuer),
                    encode(_SEQUENCE, _encode_time(self.not_before) + _encode_time(self.not_after)),
                    _encode_name(self.subject),
                    _P256_SPKI,
                    self.public_key.point,
                    _EXTENSIONS_HEAD,
                    key_id,
                    _EXTENSIONS_TAIL,
                )
            ),
        )


def _key_id(point: bytes) -> bytes:
    """Return the authority key identifier: SHA-1 of the 65-byte point (RFC 5280 §4.2.1.2)."""
    return sha1(point, usedforsecurity=False).digest()


def _encode_name(name: str) -> bytes:
    attribute = _COMMON_NAME + encode(0x0C, name.encode())
    return encode(_SEQUENCE, encode(0x31, encode(_SEQUENCE, attribute)))


def _encode_time(time: str) -> bytes:
    return encode(0x17 if len(time) == 13 else 0x18, time.encode())


def _moment(time: str) -> str:
    """Return the time with four digits of year; such texts sort by time (RFC 5280 §4.1.2.5.1)."""
    if len(time) == 15:
        return time
    return ("20" if time < "50" else "19") + time


def _name(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise WireError("reader certificate: a name is not UTF-8", clause=CLAUSE) from exc


def _time(value: bytes) -> str:
    if not _TIME.fullmatch(value):
        raise WireError("reader certificate: malformed time", clause=CLAUSE)
    return value.decode()


def _children(data: bytes, *tags: int) -> list[bytes]:
    """Return the values of the objects in ``data``, which must have exactly these tags."""
    found = [*items(data, minimal=True)]
    if [tag for tag, *_ in found] != [*tags]:
        raise _not_of_profile()
    return [data[at:end] for _, _, at, end in found]


def _common_name(name: bytes) -> bytes:
    (group,) = _children(name, 0x31)
    (attribute,) = _children(group, _SEQUENCE)
    return _children(attribute, 0x06, 0x0C)[1]


def _not_of_profile() -> WireError:
    return WireError(
        "the X.509 certificate does not have the form of profile 0000",
        clause=CLAUSE,
        hint="issue it with one UTF8String common name, P-256, ECDSA-SHA256 and three extensions",
    )


def _der_signature(signature: bytes) -> bytes:
    """Return r then s (64 bytes) as a DER SEQUENCE of two INTEGERs (RFC 3279 §2.2.3)."""
    return encode(
        _SEQUENCE,
        b"".join(
            encode(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))
            for number in (
                int.from_bytes(signature[:32], "big"),
                int.from_bytes(signature[32:], "big"),
            )
        ),
    )
