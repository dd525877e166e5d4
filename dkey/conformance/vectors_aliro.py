"""Known answers of the Aliro profile: transactions, certificates, BLE, small messages."""

from __future__ import annotations

from functools import partial
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

from dkey.access.certificate import ReaderCertificate
from dkey.access.exchange import SUCCESS, parse_response
from dkey.access.messages import Auth0Response
from dkey.access.profile import ALIRO
from dkey.access.schedule import ble_keys
from dkey.access.select import SelectResponse
from dkey.codec import tlv
from dkey.codec.ble import split_sdu
from dkey.codec.ble_advert import dynamic_tag
from dkey.codec.ble_contents import decode
from dkey.conformance.vectors_transaction import (
    check_fast,
    check_published,
    check_standard,
    published_reader,
)
from dkey.crypto.kdf import hkdf
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import DkeyError, FileFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dkey.conformance.vectors_case import Case, Tally

    Check = Callable[[Case, Tally, Mapping[str, Case]], None]

__all__ = ["KINDS", "check_aliro"]

INFORMAL: Final = (
    "id",
    "kind",
    "source",
    "licence",
    "recomputed",
    "note",
    "meaning",
    "after",
    "interface",
    "issuer_private_key_source",
)
_ROOT: Final = Secret(bytes(range(32)))


def check_aliro(cases: Sequence[Case], tally: Tally) -> None:
    """Check the entries of one file; a fast one may name the standard one it came after.

    A field that no check reads counts as not implemented, except text for people and what is
    marked as outdated.
    """
    by_id = {case.text("id"): case for case in cases}
    if len(by_id) != len(cases):
        raise cases[0].error("id", "stands twice in the file")
    for case in cases:
        check = KINDS.get(case.text("kind"))
        if check is not None:
            try:
                check(case, tally, by_id)
            except FileFormatError:
                raise
            except DkeyError as exc:
                tally.failures.append((case.name, str(exc)))
        unread = case.unread(*INFORMAL)
        tally.not_yet(len([name for name in unread if not name.endswith("_OUTDATED")]))


# --- certificates -----------------------------------------------------------------------------


def _certificate(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    fields = case.section("fields")
    if not fields.has("public_key_bitstring"):
        tally.not_yet()  # a sketch without the wire form: nothing to compare with
        return
    point, signature = fields.hex("public_key_bitstring", 66), fields.hex("signature_bitstring")
    parts: dict[str, Any] = {
        name: fields.hex(name).decode("latin-1")
        for name in ("issuer", "not_before", "not_after", "subject")
        if fields.has(name)
    }
    if fields.has("serial"):
        parts["serial"] = fields.hex("serial")
    key = PublicKey.parse(point[1:])
    own = ReaderCertificate(public_key=key, signature_der=signature[1:], **parts)
    tally.judge(case, "unused bits are not 00", ok=point[:1] + signature[:1] == b"\x00\x00")
    compressed = case.hex("compressed")
    tally.same(case, "compressed", own.compress, compressed)
    tally.same(case, "expanded", lambda: ReaderCertificate.expand(compressed), own)
    if not case.has("issuer_public_key"):
        return
    issuer = PublicKey.parse(case.hex("issuer_public_key", 65))
    tally.accepts(case, "issuer's signature", lambda: own.verify(issuer))
    if case.has("issuer_private_key"):
        scalar = case.hex("issuer_private_key", 32)
        tally.same(case, "issuer key", lambda: PrivateKey.from_scalar(scalar).public, issuer)
    if case.has("x509_der"):
        der = case.hex("x509_der")
        tally.same(case, "x509_der", lambda: own.to_x509(issuer), der)
        tally.same(case, "fields of x509_der", lambda: ReaderCertificate.from_x509(der), own)


def _x509(case: Case, tally: Tally, by_id: Mapping[str, Case]) -> None:
    """Check an X.509 form; its issuer is the reader of a transaction in the same file."""
    der, scalar = case.hex("x509_der"), case.hex("private_key", 32)
    own = ReaderCertificate.from_x509(der)
    tally.same(case, "certified key", lambda: PrivateKey.from_scalar(scalar).public, own.public_key)
    tally.same(case, "expanded", lambda: ReaderCertificate.expand(own.compress()), own)
    readers = [reader for each in by_id.values() if (reader := published_reader(each))]
    if not readers:
        tally.not_yet()
        return
    issuers = [r for r in readers if sha1(r.point, usedforsecurity=False).digest() in der]
    tally.judge(case, "authority key identifier is of no known issuer", ok=bool(issuers))
    for issuer in issuers[:1]:
        tally.same(case, "x509_der", partial(own.to_x509, issuer), der)
        tally.accepts(case, "issuer's signature", partial(own.verify, issuer))


# --- small messages ---------------------------------------------------------------------------


def _ble_salt(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    supported, selected = case.hex("reader_supported_versions"), case.hex("selected_version")
    salt = case.hex("salt")
    labels = (b"BleSKReader", b"BleSKDevice")
    expected = tuple(hkdf(_ROOT.reveal(), salt, label, 32) for label in labels)
    tally.same(
        case,
        "BLE key salt",
        lambda: tuple(key.reveal() for key in ble_keys(_ROOT, supported, selected)),
        expected,
    )


def _exchange_success(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    plain = case.hex("plain")
    tally.same(case, "plain", lambda: SUCCESS, plain)
    tally.same(case, "parsed", lambda: parse_response(plain), ((), 0))


def _select(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    """Check that a SELECT response with these values is read, and a version found in it."""
    value = case.raw("versions")
    if isinstance(value, str):
        listed = case.hex("versions")
    elif isinstance(value, list) and all(isinstance(each, str) for each in value):
        try:
            listed = bytes.fromhex("".join(value))
        except ValueError as exc:
            raise case.error("versions", "expected hex digits") from exc
    else:
        raise case.error("versions", "expected hex digits")
    kind = case.hex("app_type", 2) if case.has("app_type") else bytes(2)
    inner = tlv.encode(0x80, kind) + tlv.encode(0x5C, listed)
    sizes = None
    if case.has("max_command"):
        sizes = case.number("max_command"), case.number("max_response")
        if max(sizes) > 0xFFFF:
            raise case.error("max_command", "expected two bytes")
        inner += tlv.encode(
            0x7F66, b"".join(tlv.encode(0x02, size.to_bytes(2, "big")) for size in sizes)
        )
    a5 = tlv.encode(0xA5, inner)
    fci = tlv.encode(0x6F, tlv.encode(0x84, ALIRO.access_aid) + a5)

    def read() -> tuple[object, ...]:
        found = SelectResponse.parse(fci)
        return (
            b"".join(found.versions), found.application_type, found.a5, found.encode_a5(),
            bool(set(found.versions) & set(ALIRO.versions)),
        )  # fmt: skip

    tally.same(case, "SELECT response", read, (listed, kind, a5, a5, True))
    if sizes is not None:
        tally.same(
            case,
            "extended lengths",
            lambda: (SelectResponse.parse(fci).max_command, SelectResponse.parse(fci).max_response),
            sizes,
        )


def _auth0(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    reader, device = case.hex("reader_epubk", 65), case.hex("device_epubk", 65)
    cryptogram = case.hex("cryptogram")
    tally.accepts(case, "reader's point", lambda: PublicKey.parse(reader))
    tally.accepts(case, "device's point", lambda: PublicKey.parse(device))
    answer = Auth0Response(device_ephemeral=device, cryptogram=cryptogram)
    tally.same(case, "AUTH0 response", lambda: Auth0Response.parse(answer.to_bytes()), answer)


def _log(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    """Check a partial log of a real device: only its keys are complete."""
    if case.has("reader_public_key"):
        scalar, point = case.hex("reader_private_key", 32), case.hex("reader_public_key", 65)
        tally.same(case, "reader key", lambda: PrivateKey.from_scalar(scalar).public.point, point)
    for name in ("reader_epubk", "endpoint_public_key"):
        if case.has(name):
            known = case.hex(name, 65)
            tally.accepts(case, name, partial(PublicKey.parse, known))


def _dynamic_tag(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    key, address = case.hex("group_resolving_key", 16), case.hex("advertising_address", 6)
    expiry = int.from_bytes(case.hex("expiry_timestamp", 4), "big")
    wanted = case.hex("dynamic_tag", 7)
    tally.same(case, "dynamic_tag", lambda: dynamic_tag(key, address, expiry), wanted)


def _message(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    """Take a plain BLE message apart and put it together again."""
    plain = case.hex("plain")

    def again() -> bytes:
        (message,) = split_sdu(plain)
        return decode(message).to_message().to_bytes()

    tally.same(case, "plain", again, plain)


def _initiate(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    """Check the A5 object that a real phone sent: it is what ours sends."""
    sent = case.hex("proprietary_tlv")
    ours = SelectResponse(
        aid=ALIRO.access_aid, versions=ALIRO.versions, application_type=ALIRO.application_type
    )
    tally.same(case, "proprietary_tlv", ours.encode_a5, sent)


KINDS: Final[dict[str, Check]] = {
    "standard": check_standard,
    "fast": check_fast,
    "expedited_standard_transaction": check_published,
    "reader_cert_profile0000": _certificate,
    "reader_cert_x509": _x509,
    "ble_dynamic_tag": _dynamic_tag,
    "ble_initiate_access_protocol": _initiate,
    "ble_key_salt": _ble_salt,
    "ble_message_plain": _message,
    "exchange_response_plain": _exchange_success,
    "select_response": _select,
    "select_capabilities": _select,
    "auth0_example": _auth0,
    "real_device_log_partial": _log,
}
"""The kinds of entries that a check knows; fields of other kinds are not implemented."""
