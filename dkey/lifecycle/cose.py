"""COSE_Sign1 with ES256: the one form of every signed statement (RFC 9052 §4.2).

Wire: tag 18 of ``[protected, {}, payload, signature]`` in deterministic CBOR. Protected is the
encoded map ``{1: -7, 3: content type, 4: signer}``, where the signer (COSE's ``kid``) is the whole
x-coordinate of the key, 32 bytes; the unprotected map is empty. The signature is r then s, 64
bytes, over ``["Signature1", protected, h'', payload]``.

ECDSA lets anybody turn s into n - s, and standard signers emit both, so both are accepted. The
bytes of a statement are therefore no identifier: what it *says* is compared, never its signature.
See specs/lifecycle.md §3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from dkey.codec import cbor
from dkey.errors import AuthenticationError, LocalFault, WireError

if TYPE_CHECKING:
    from dkey.crypto.p256 import PublicKey
    from dkey.crypto.vault import Vault

__all__ = ["SIGNER_SIZE", "Sign1", "parse_sign1", "sign1"]

CLAUSE: Final = "specs/lifecycle.md §3.1"
SIGNER_SIZE: Final = 32
_TAG: Final = 18
_ALGORITHM, _CONTENT_TYPE, _KEY_ID = 1, 3, 4
_ES256: Final = -7
_SIGNATURE_SIZE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """One signed message, read and not yet trusted.

    Attributes:
        signer: x-coordinate of the key that it names as its signer, 32 bytes.
        payload: What was signed.
        signature: r then s, 64 bytes.
        protected: The encoded protected header.
    """

    signer: bytes
    payload: bytes
    signature: bytes
    protected: bytes

    def verify(self, key: PublicKey) -> None:
        """Check that ``key`` is the signer and made the signature.

        Raises:
            AuthenticationError: Another key, r or s out of range, or not its signature.
        """
        if key.x != self.signer:
            raise AuthenticationError("the statement names another signer", clause=CLAUSE)
        key.verify(self.signature, _signed_bytes(self.protected, self.payload))


def sign1(payload: bytes, content_type: str, *, vault: Vault, key: str) -> bytes:
    """Return ``payload`` signed with the key named ``key`` of ``vault``."""
    protected = _protected(content_type, vault.public(key).x)
    digest = sha256(_signed_bytes(protected, payload)).digest()
    signature = vault.sign(key, digest)
    if len(signature) != _SIGNATURE_SIZE:
        raise LocalFault("the vault returned no signature of 64 bytes", clause=CLAUSE)
    return cbor.encode(cbor.Tag(_TAG, [protected, {}, payload, signature]))


def parse_sign1(data: bytes, content_type: str, *, limit: int) -> Sign1:
    """Read one signed message of a content type, without trust.

    Args:
        data: Exactly one message.
        content_type: What it has to be; another one is refused, so that no statement stands for
            one of another kind.
        limit: Most bytes of it.

    Raises:
        WireError: Over the limit, or any other form than the one that :func:`sign1` makes.
    """
    if len(data) > limit:
        raise WireError(f"a signed statement of {len(data)} bytes is over {limit}", clause=CLAUSE)
    outer = cbor.decode(data)
    if not isinstance(outer, cbor.Tag) or outer.tag != _TAG:
        raise _malformed("is no COSE_Sign1")
    parts = outer.value
    if not isinstance(parts, list) or len(parts) != 4 or parts[1] != {}:
        raise _malformed("has not the four parts, or an unprotected header")
    protected, _, payload, signature = parts
    if not all(isinstance(part, bytes) for part in (protected, payload, signature)):
        raise _malformed("has parts of the wrong type")
    if len(signature) != _SIGNATURE_SIZE:
        raise _malformed("has no signature of 64 bytes")
    return Sign1(
        signer=_signer(protected, content_type),
        payload=payload,
        signature=signature,
        protected=protected,
    )


def _signer(protected: bytes, content_type: str) -> bytes:
    header: Any = cbor.decode(protected)
    signer = header.get(_KEY_ID) if isinstance(header, dict) else None
    if not isinstance(signer, bytes) or len(signer) != SIGNER_SIZE:
        raise _malformed("names no signer")
    if protected != _protected(content_type, signer):
        raise _malformed("is of another type or algorithm")
    return signer


def _protected(content_type: str, signer: bytes) -> bytes:
    return cbor.encode({_ALGORITHM: _ES256, _CONTENT_TYPE: content_type, _KEY_ID: signer})


def _signed_bytes(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, b"", payload])


def _malformed(what: str) -> WireError:
    return WireError(f"a signed statement {what}", clause=CLAUSE)
