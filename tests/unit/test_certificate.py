"""The reader certificate of profile 0000: compressed form, rebuilt X.509, issue and verify."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from dkey.access.certificate import ReaderCertificate
from dkey.codec.tlv import encode
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.vault import MemoryVault
from dkey.errors import AuthenticationError, LocalFault, VaultError, WireError

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors"

ISSUER = PrivateKey.from_scalar(bytes(31) + b"\x05")
SUBJECT = PrivateKey.from_scalar(bytes(31) + b"\x06").public
VAULT = MemoryVault(ca=ISSUER)
PLAIN = ReaderCertificate.issue(VAULT, "ca", ISSUER.public, SUBJECT)
FULL = ReaderCertificate.issue(
    VAULT,
    "ca",
    ISSUER.public,
    SUBJECT,
    serial=bytes(range(1, 21)),
    issuer="i" * 32,
    not_before="20240101000000Z",
    not_after="20660101000000Z",
    subject="ü" * 16,
)


def vector(file: str, name: str) -> dict[str, Any]:
    path = VECTORS / file
    if not path.exists():
        pytest.skip(f"{file} is not there: the shared vectors are not part of the tree")
    found: dict[str, Any] = next(
        v for v in json.loads(path.read_text())["vectors"] if v["id"] == name
    )
    return found


def fields(inner: bytes, profile: bytes = bytes(2)) -> bytes:
    return encode(0x30, encode(0x04, profile) + encode(0x30, inner))


KEY = encode(0x85, b"\x00" + SUBJECT.point)
KEY_ID = sha1(ISSUER.public.point).digest()
SIGNATURE = encode(0x86, b"\x00" + PLAIN.signature_der)


@pytest.mark.parametrize("name", ["cert-default", "cert-custom"])
def test_a_published_certificate_matches_in_every_form(name: str) -> None:
    known = vector("aliro_public.json", name)
    issuer = PublicKey.parse(bytes.fromhex(known["issuer_public_key"]))
    certificate = ReaderCertificate.expand(bytes.fromhex(known["compressed"]))
    assert certificate.compress().hex() == known["compressed"]
    assert certificate.to_x509(issuer).hex() == known["x509_der"]
    assert ReaderCertificate.from_x509(bytes.fromhex(known["x509_der"])) == certificate
    certificate.verify(issuer)


@pytest.mark.parametrize("name", ["cert-default", "cert-custom"])
def test_a_published_certificate_has_the_published_fields(name: str) -> None:
    known = vector("aliro_public.json", name)
    certificate = ReaderCertificate.expand(bytes.fromhex(known["compressed"]))
    texts = {key: bytes.fromhex(value) for key, value in known["fields"].items()}
    assert certificate.serial == texts["serial"]
    assert certificate.issuer == texts["issuer"].decode()
    assert certificate.not_before == texts["not_before"].decode()
    assert certificate.not_after == texts["not_after"].decode()
    assert certificate.subject == texts["subject"].decode()
    assert certificate.public_key.point == texts["public_key_bitstring"][1:]
    assert certificate.signature_der == texts["signature_bitstring"][1:]


def test_the_published_defaults_are_left_out() -> None:
    known = vector("aliro_public.json", "cert-defaults-compress")
    texts = {key: bytes.fromhex(value) for key, value in known["fields"].items()}
    certificate = ReaderCertificate(
        public_key=PublicKey.parse(texts["public_key_bitstring"][1:]),
        signature_der=texts["signature_bitstring"][1:],
    )
    assert certificate.compress().hex() == known["compressed"]


def test_the_published_reader_certificate_verifies_with_its_issuer() -> None:
    known = vector("aliro_public.json", "cert-reader-1")
    issuer = vector("aliro_public.json", "std-nfc-1")
    certificate = ReaderCertificate.from_x509(bytes.fromhex(known["x509_der"]))
    subject = PrivateKey.from_scalar(bytes.fromhex(known["private_key"])).public
    assert certificate.public_key == subject
    key = load_pem_private_key(issuer["reader_priv_pem"].encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    ca = PrivateKey(key).public
    certificate.verify(ca)
    assert certificate.to_x509(ca).hex() == known["x509_der"]


def test_a_documented_sketch_is_a_certificate_once_it_has_the_unused_bits_byte() -> None:
    known = vector("aliro_public.json", "cert-kormax-doc")["fields"]
    texts = {key: bytes.fromhex(value) for key, value in known.items()}
    head = b"".join(
        encode(0x80 + at, texts[name])
        for at, name in enumerate(("serial", "issuer", "not_before", "not_after", "subject"))
    )
    sketch = fields(head + encode(0x85, texts["public_key"]) + encode(0x86, texts["signature_der"]))
    with pytest.raises(WireError):
        ReaderCertificate.expand(sketch)
    whole = fields(
        head
        + encode(0x85, b"\0" + texts["public_key"])
        + encode(0x86, b"\0" + texts["signature_der"])
    )
    assert ReaderCertificate.expand(whole).compress() == whole


def test_a_certificate_of_another_implementation_verifies() -> None:
    known = vector("aliro_generated.json", "nfc-certificate")
    scalar = bytes.fromhex(known["inputs"]["issuer_private_key"])
    issuer = PrivateKey.from_scalar(scalar).public
    certificate = ReaderCertificate.expand(bytes.fromhex(known["certificate_compressed"]))
    certificate.verify(issuer)
    assert (certificate.serial, certificate.issuer) == (b"\x2a", "fleet")
    assert certificate.subject == "door left"
    assert certificate.to_x509(issuer).hex() == known["certificate_x509"]
    assert certificate.compress().hex() == known["certificate_compressed"]


@pytest.mark.parametrize("certificate", [PLAIN, FULL])
def test_an_issued_certificate_survives_the_wire_and_verifies(
    certificate: ReaderCertificate,
) -> None:
    again = ReaderCertificate.expand(certificate.compress())
    assert again == certificate
    again.verify(ISSUER.public)
    der = certificate.to_x509(ISSUER.public)
    assert ReaderCertificate.from_x509(der) == certificate


def test_the_largest_certificate_fits_into_279_bytes() -> None:
    assert len(replace(FULL, signature_der=bytes(72)).compress()) == 279


@pytest.mark.parametrize("certificate", [PLAIN, FULL])
def test_the_rebuilt_x509_is_what_a_general_library_reads(certificate: ReaderCertificate) -> None:
    parsed = x509.load_der_x509_certificate(certificate.to_x509(ISSUER.public))
    assert parsed.version is x509.Version.v3
    assert parsed.serial_number == int.from_bytes(certificate.serial, "big")
    assert parsed.issuer.rfc4514_string() == f"CN={certificate.issuer}"
    assert parsed.subject.rfc4514_string() == f"CN={certificate.subject}"
    century = "" if len(certificate.not_before) == 15 else "20"
    moments = (certificate.not_before, certificate.not_after)
    assert [
        f"{t:%Y%m%d%H%M%SZ}" for t in (parsed.not_valid_before_utc, parsed.not_valid_after_utc)
    ] == [century + t for t in moments]
    key = parsed.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) == SUBJECT.point


def test_the_rebuilt_x509_has_the_three_extensions_in_order() -> None:
    parsed = x509.load_der_x509_certificate(PLAIN.to_x509(ISSUER.public))
    identifier, constraints, usage = parsed.extensions
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), ISSUER.public.point)
    assert identifier.value == x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    assert isinstance(usage.value, x509.KeyUsage)
    assert usage.value.digital_signature
    assert [e.critical for e in parsed.extensions] == [False, True, True]


def test_a_general_library_verifies_the_signature() -> None:
    parsed = x509.load_der_x509_certificate(FULL.to_x509(ISSUER.public))
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), ISSUER.public.point)
    assert parsed.signature_hash_algorithm is not None
    key.verify(
        parsed.signature,
        parsed.tbs_certificate_bytes,
        ec.ECDSA(parsed.signature_hash_algorithm),
    )


def test_a_field_that_equals_its_default_may_be_sent() -> None:
    wire = fields(encode(0x80, b"\x01") + encode(0x84, b"subject") + KEY + SIGNATURE)
    certificate = ReaderCertificate.expand(wire)
    assert certificate == PLAIN
    assert certificate.compress() == fields(KEY + SIGNATURE)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(fields(KEY + SIGNATURE, b"\x00\x01"), id="other profile"),
        pytest.param(fields(KEY + SIGNATURE, b"\x00"), id="short profile"),
        pytest.param(fields(KEY + SIGNATURE) + b"\x00", id="trailing byte"),
        pytest.param(fields(KEY + SIGNATURE) * 2, id="two certificates"),
        pytest.param(encode(0x30, encode(0x30, KEY + SIGNATURE)), id="no profile"),
        pytest.param(
            encode(0x30, encode(0x04, bytes(2)) + encode(0x30, KEY + SIGNATURE) + b"\x05\x00"),
            id="object behind the fields",
        ),
        pytest.param(fields(KEY), id="no signature"),
        pytest.param(fields(SIGNATURE), id="no key"),
        pytest.param(fields(SIGNATURE + KEY), id="wrong order"),
        pytest.param(fields(KEY + KEY + SIGNATURE), id="repeated"),
        pytest.param(fields(KEY + SIGNATURE + encode(0x87, b"")), id="unknown tag 87"),
        pytest.param(fields(encode(0x04, b"x") + KEY + SIGNATURE), id="universal tag inside"),
        pytest.param(fields(encode(0x80, b"") + KEY + SIGNATURE), id="serial 0"),
        pytest.param(fields(encode(0x80, bytes(21)) + KEY + SIGNATURE), id="serial 21"),
        pytest.param(fields(encode(0x81, b"") + KEY + SIGNATURE), id="issuer 0"),
        pytest.param(fields(encode(0x81, b"i" * 33) + KEY + SIGNATURE), id="issuer 33"),
        pytest.param(fields(encode(0x84, b"s" * 33) + KEY + SIGNATURE), id="subject 33"),
        pytest.param(fields(encode(0x84, b"\xff") + KEY + SIGNATURE), id="subject not UTF-8"),
        pytest.param(fields(encode(0x82, b"2401010000Z") + KEY + SIGNATURE), id="time 11"),
        pytest.param(fields(encode(0x82, b"2024010100000Z") + KEY + SIGNATURE), id="time 14"),
        pytest.param(fields(encode(0x83, b"240101000000+") + KEY + SIGNATURE), id="time zone"),
        pytest.param(fields(encode(0x83, b"241301000000Z") + KEY + SIGNATURE), id="month 13"),
        pytest.param(fields(encode(0x85, SUBJECT.point) + SIGNATURE), id="key 65"),
        pytest.param(fields(encode(0x85, b"\1" + SUBJECT.point) + SIGNATURE), id="unused bits"),
        pytest.param(
            fields(encode(0x85, b"\0" + SUBJECT.point[:-1] + b"\0") + SIGNATURE), id="off curve"
        ),
        pytest.param(fields(KEY + encode(0x86, b"\1" + bytes(70))), id="signature unused bits"),
        pytest.param(fields(KEY + encode(0x86, bytes(8))), id="signature short"),
        pytest.param(fields(KEY + encode(0x86, bytes(74))), id="signature long"),
        pytest.param(b"\x30\x81\x04\x04\x02\x00\x00", id="length not shortest"),
    ],
)
def test_a_malformed_compressed_certificate_is_refused_with_its_clause(wire: bytes) -> None:
    with pytest.raises(WireError) as caught:
        ReaderCertificate.expand(wire)
    assert caught.value.clause


def test_a_compressed_certificate_cut_at_any_byte_is_refused() -> None:
    wire = FULL.compress()
    for size in range(len(wire)):
        with pytest.raises(WireError):
            ReaderCertificate.expand(wire[:size])


def test_an_x509_cut_at_any_byte_is_refused() -> None:
    der = PLAIN.to_x509(ISSUER.public)
    for size in range(len(der)):
        with pytest.raises(WireError):
            ReaderCertificate.from_x509(der[:size])


def test_an_x509_with_any_byte_changed_is_refused_or_no_longer_verifies() -> None:
    der = PLAIN.to_x509(ISSUER.public)
    for at in range(len(der)):
        changed = bytearray(der)
        changed[at] ^= 0x01
        try:
            certificate = ReaderCertificate.from_x509(bytes(changed))
        except WireError:
            continue
        if certificate == PLAIN:  # the issuer's key identifier is no field
            assert der.index(KEY_ID) <= at < der.index(KEY_ID) + len(KEY_ID)
            continue
        with pytest.raises(AuthenticationError):
            certificate.verify(ISSUER.public)


@pytest.mark.parametrize(
    "change",
    [
        {"serial": b"\x02"},
        {"issuer": "other"},
        {"subject": "other"},
        {"not_before": "210101000000Z"},
        {"not_after": "20490101000000Z"},  # the same moment in the other form
        {"public_key": ISSUER.public},
        {"signature_der": FULL.signature_der},
        {"signature_der": b"\x30\x00" * 5},
    ],
)
def test_a_certificate_with_any_field_changed_does_not_verify(change: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationError):
        replace(PLAIN, **change).verify(ISSUER.public)


def test_a_certificate_does_not_verify_with_another_issuer() -> None:
    with pytest.raises(AuthenticationError):
        PLAIN.verify(SUBJECT)


@pytest.mark.parametrize(
    "now", ["200101000000Z", "20200101000000Z", "260615120000Z", "490101000000Z"]
)
def test_a_certificate_is_in_force_from_its_first_to_its_last_moment(now: str) -> None:
    PLAIN.verify(ISSUER.public, now=now)


@pytest.mark.parametrize(
    "now", ["191231235959Z", "490101000001Z", "20500101000000Z", "500101000000Z"]
)
def test_a_certificate_is_not_in_force_outside(now: str) -> None:
    with pytest.raises(AuthenticationError):
        PLAIN.verify(ISSUER.public, now=now)


def test_two_digit_years_from_50_are_of_the_last_century() -> None:
    old = ReaderCertificate.issue(VAULT, "ca", ISSUER.public, SUBJECT, not_before="500101000000Z")
    old.verify(ISSUER.public, now="19500101000000Z")
    old.verify(ISSUER.public, now="260101000000Z")


def test_without_a_time_validity_is_not_checked() -> None:
    expired = ReaderCertificate.issue(
        VAULT, "ca", ISSUER.public, SUBJECT, not_after="210101000000Z"
    )
    expired.verify(ISSUER.public)


@pytest.mark.parametrize("now", ["", "now", "2026-01-01", "20260101000000", "\uff1260101000000Z"])
def test_a_malformed_time_is_a_local_fault(now: str) -> None:
    with pytest.raises(LocalFault):
        PLAIN.verify(ISSUER.public, now=now)


@pytest.mark.parametrize(
    "field",
    [
        {"serial": b""},
        {"serial": bytes(21)},
        {"serial": b"\x80"},
        {"serial": b"\x00\x01"},
        {"issuer": ""},
        {"issuer": "ü" * 17},
        {"subject": "s" * 33},
        {"subject": "\ud800"},
        {"not_before": "yesterday"},
        {"not_after": "190101000000Z"},
    ],
)
def test_a_field_outside_the_profile_is_not_issued(field: dict[str, Any]) -> None:
    with pytest.raises(LocalFault):
        ReaderCertificate.issue(VAULT, "ca", ISSUER.public, SUBJECT, **field)


def test_a_vault_key_that_is_not_the_issuer_is_refused() -> None:
    with pytest.raises(VaultError):
        ReaderCertificate.issue(VAULT, "ca", SUBJECT, SUBJECT)


def test_a_key_that_the_vault_does_not_hold_is_refused() -> None:
    with pytest.raises(VaultError):
        ReaderCertificate.issue(VAULT, "none", ISSUER.public, SUBJECT)
