"""The messages that follow an invitation: request, answer, receipt (specs/lifecycle.md §6.3).

Each is a signed statement. Request and answer are sealed to the other side's key first and lie
then in an envelope under the secret of the link, so that the link alone reads neither: whoever
has it can not try PINs against the request, and not learn what the vehicle's radio is called.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dkey.crypto.box import open_from, seal_to
from dkey.crypto.kdf import hkdf
from dkey.crypto.p256 import PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import AuthenticationError, LocalFault
from dkey.lifecycle.attestation import MAX_CHAIN
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.envelope import Direction, open_envelope, seal_envelope
from dkey.lifecycle.features import Feature, pack_features, parse_features
from dkey.lifecycle.invitation import ACCOUNT
from dkey.lifecycle.statement import POINT, Statement, many, octets, optional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.crypto.entropy import Entropy
    from dkey.crypto.vault import Vault
    from dkey.lifecycle.invitation import Invitation

__all__ = [
    "PIN_DIGITS",
    "ShareAnswer",
    "ShareRequest",
    "Step",
    "VehicleAccess",
    "fingerprint",
    "open_answer",
    "open_receipt",
    "open_request",
    "pin_proof",
    "seal_answer",
    "seal_receipt",
    "seal_request",
    "share_pin",
]

CLAUSE: Final = "specs/lifecycle.md §6"
PIN_DIGITS: Final = 6
_PINS: Final = 10**PIN_DIGITS
_FINGERPRINT_DIGITS: Final = 12
_LIST: Final = optional(octets(1, 5 * 1024))


class Step(IntEnum):
    """Sequence numbers of the envelopes of one exchange."""

    INVITATION = 0
    REQUEST = 1
    ANSWER = 2
    RECEIPT = 3


REQUEST: Final = Statement(
    name="share-request",
    clause="specs/lifecycle.md §6.3",
    limit=1024,
    fields=MappingProxyType(
        {
            "share_id": octets(16),
            "vehicle": octets(16),
            "nonce": octets(16),
            "sharer": octets(32),
            "public_key": POINT,
            "account": ACCOUNT,
            "pin_proof": optional(octets(32)),
        }
    ),
)
ANSWER: Final = Statement(
    name="share-answer",
    clause="specs/lifecycle.md §6.4",
    limit=12 * 1024,
    fields=MappingProxyType(
        {
            "share_id": octets(16),
            "friend": octets(32),
            "chain": many(octets(1, 512), MAX_CHAIN),
            "root": POINT,
            "owner_list": _LIST,
            "authority_list": _LIST,
            "vehicle": octets(16),
            "reader_key": POINT,
            "resolving_key": octets(16),
            "features": octets(1),
        }
    ),
)
RECEIPT: Final = Statement(
    name="share-receipt",
    clause="specs/lifecycle.md §6.5",
    limit=512,
    fields=MappingProxyType({"share_id": octets(16), "vehicle": octets(16)}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRequest:
    """What a friend asks to have signed; its signature proves that the friend holds the key.

    Attributes:
        share_id: Of the invitation.
        vehicle: Of the invitation.
        nonce: Of the invitation.
        sharer: x-coordinate of the sharer, 32 bytes.
        public_key: The friend's key, 65 bytes.
        account: The friend's account.
        pin_proof: :func:`pin_proof`, 32 bytes; None without.
    """

    share_id: bytes
    vehicle: bytes
    nonce: bytes
    sharer: bytes
    public_key: bytes
    account: str
    pin_proof: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleAccess:
    """What a phone has to know of a vehicle to use a key there.

    Attributes:
        vehicle: Vehicle identifier; the reader group identifier also.
        reader_key: Public key of its readers, 65 bytes.
        resolving_key: Finds the vehicle in Bluetooth LE advertisements, 16 bytes.
        features: What the key may do there.
    """

    vehicle: bytes
    reader_key: bytes
    resolving_key: Secret
    features: frozenset[Feature]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareAnswer:
    """What a friend gets.

    Attributes:
        share_id: Of the invitation.
        friend: x-coordinate of the friend's key, 32 bytes.
        chain: Attestations as signed, the root's first, the friend's last.
        root: Public key of who signed the first, 65 bytes.
        lists: The latest withdrawal list of each issuer, as signed.
        access: The vehicle.
    """

    share_id: bytes
    friend: bytes
    chain: tuple[bytes, ...]
    root: bytes
    lists: Mapping[Issuer, bytes]
    access: VehicleAccess


def share_pin(entropy: Entropy) -> Secret:
    """Return a fresh PIN: 6 ASCII digits, each of the million as likely as any other."""
    below = (1 << 32) // _PINS * _PINS
    while True:
        number = int.from_bytes(entropy.random(4), "big")
        if number < below:
            return Secret(f"{number % _PINS:0{PIN_DIGITS}d}".encode())


def pin_proof(secret: Secret, pin: Secret, invitation: Invitation, public_key: bytes) -> bytes:
    """Return the proof of a PIN for one key and one invitation, 32 bytes; the PIN is not sent.

    Raises:
        LocalFault: The PIN is not six digits.
    """
    if len(pin) != PIN_DIGITS or not pin.reveal().isdigit():
        raise LocalFault("the PIN of an invitation has 6 digits", clause=CLAUSE)
    key = hkdf(secret.reveal(), b"", b"dkey share pin 1", 32)
    said = invitation.share_id + invitation.vehicle + invitation.nonce + public_key + pin.reveal()
    return hmac.digest(key, said, "sha256")


def fingerprint(secret: Secret, invitation: Invitation, public_key: bytes) -> str:
    """Return what both people compare before the sharer confirms: ``1234 5678 9012``.

    Twelve digits, so that a key with a given fingerprint is not found by trying; who lacks the
    secret of the link cannot even begin.
    """
    said = invitation.share_id + invitation.nonce + invitation.sharer + public_key
    number = int.from_bytes(hkdf(secret.reveal(), b"", b"dkey share compare 1" + said, 16), "big")
    digits = f"{number % 10**_FINGERPRINT_DIGITS:0{_FINGERPRINT_DIGITS}d}"
    return f"{digits[:4]} {digits[4:8]} {digits[8:]}"


def seal_request(
    request: ShareRequest,
    *,
    secret: Secret,
    sharer: PublicKey,
    vault: Vault,
    key: str,
    entropy: Entropy,
) -> bytes:
    """Return the envelope with a request, signed by the friend and sealed to the sharer."""
    data = REQUEST.sign({n: getattr(request, n) for n in REQUEST.fields}, vault, key)
    box = seal_to(sharer, entropy.ephemeral(), data, _info("request", request.share_id))
    return _enclose(secret, box, Direction.TO_SHARER, Step.REQUEST, entropy)


def open_request(
    data: bytes, *, secret: Secret, invitation: Invitation, vault: Vault, key: str
) -> ShareRequest:
    """Return a request for this invitation; its signer holds the key that it shows.

    Raises:
        WireError: Another form, or a key off the curve.
        AuthenticationError: It does not open, is for another invitation, or is not signed by the
            key that it shows.
    """
    box = open_envelope(secret, data, direction=Direction.TO_SHARER, sequence=Step.REQUEST)
    values, signed = REQUEST.read(open_from(vault, key, box, _info("request", invitation.share_id)))
    signed.verify(PublicKey.parse(values["public_key"]))
    request = ShareRequest(**values)
    asked = (request.share_id, request.vehicle, request.nonce, request.sharer)
    sharer = invitation.sharer[1:33]
    if asked != (invitation.share_id, invitation.vehicle, invitation.nonce, sharer):
        raise AuthenticationError("the request is for another invitation", clause=CLAUSE)
    return request


def seal_answer(
    answer: ShareAnswer,
    *,
    secret: Secret,
    friend: PublicKey,
    vault: Vault,
    key: str,
    entropy: Entropy,
) -> bytes:
    """Return the envelope with an answer, signed by the sharer and sealed to the friend."""
    access = answer.access
    values: dict[str, Any] = {
        "share_id": answer.share_id,
        "friend": answer.friend,
        "chain": answer.chain,
        "root": answer.root,
        "owner_list": answer.lists.get(Issuer.OWNER),
        "authority_list": answer.lists.get(Issuer.AUTHORITY),
        "vehicle": access.vehicle,
        "reader_key": access.reader_key,
        "resolving_key": access.resolving_key.reveal(),
        "features": pack_features(access.features),
    }
    data = ANSWER.sign(values, vault, key)
    box = seal_to(friend, entropy.ephemeral(), data, _info("answer", answer.share_id))
    return _enclose(secret, box, Direction.TO_FRIEND, Step.ANSWER, entropy)


def open_answer(
    data: bytes, *, secret: Secret, invitation: Invitation, vault: Vault, key: str
) -> ShareAnswer:
    """Return what the sharer answered to the friend's key; the statements in it are not verified.

    Raises:
        WireError: Another form.
        AuthenticationError: It does not open, is for another invitation, key or vehicle, or the
            sharer did not sign it.
    """
    box = open_envelope(secret, data, direction=Direction.TO_FRIEND, sequence=Step.ANSWER)
    values, signed = ANSWER.read(open_from(vault, key, box, _info("answer", invitation.share_id)))
    signed.verify(PublicKey.parse(invitation.sharer))
    given = (values["share_id"], values["vehicle"], values["friend"])
    if given != (invitation.share_id, invitation.vehicle, vault.public(key).x):
        raise AuthenticationError("the answer is for another invitation or key", clause=CLAUSE)
    lists = {Issuer.OWNER: values["owner_list"], Issuer.AUTHORITY: values["authority_list"]}
    access = VehicleAccess(
        vehicle=values["vehicle"],
        reader_key=values["reader_key"],
        resolving_key=Secret(values["resolving_key"]),
        features=parse_features(values["features"]),
    )
    return ShareAnswer(
        share_id=values["share_id"],
        friend=values["friend"],
        chain=values["chain"],
        root=values["root"],
        lists={issuer: raw for issuer, raw in lists.items() if raw is not None},
        access=access,
    )


def seal_receipt(
    invitation: Invitation, *, secret: Secret, vault: Vault, key: str, entropy: Entropy
) -> bytes:
    """Return the envelope in which the friend's key says that it has the answer."""
    values = {"share_id": invitation.share_id, "vehicle": invitation.vehicle}
    data = RECEIPT.sign(values, vault, key)
    return _enclose(secret, data, Direction.TO_SHARER, Step.RECEIPT, entropy)


def open_receipt(data: bytes, *, secret: Secret, invitation: Invitation, friend: PublicKey) -> None:
    """Check a receipt.

    Raises:
        WireError: Another form.
        AuthenticationError: It does not open, is for another invitation, or of another key.
    """
    plain = open_envelope(secret, data, direction=Direction.TO_SHARER, sequence=Step.RECEIPT)
    values, signed = RECEIPT.read(plain)
    signed.verify(friend)
    if values != {"share_id": invitation.share_id, "vehicle": invitation.vehicle}:
        raise AuthenticationError("the receipt is for another invitation", clause=CLAUSE)


def _info(what: str, share_id: bytes) -> bytes:
    return f"dkey share {what} 1 ".encode() + share_id


def _enclose(
    secret: Secret, data: bytes, direction: Direction, sequence: int, entropy: Entropy
) -> bytes:
    return seal_envelope(secret, data, direction=direction, sequence=sequence, entropy=entropy)
