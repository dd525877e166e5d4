"""The ciphersuites of SPAKE2+ on P-256 and their key schedule (RFC 9383 §3.4, §4)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dkey.crypto.secret import Secret

__all__ = ["SUITE", "SUITES", "Suite", "SuiteKeys", "derive_keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A ciphersuite of RFC 9383 §4 on P-256.

    Attributes:
        name: As in the table of the RFC.
        digest: Hash of the transcript and of HKDF.
        cmac: Whether the confirmations are AES-128-CMAC rather than HMAC with ``digest``.
    """

    name: str
    digest: hashes.HashAlgorithm
    cmac: bool = False

    @property
    def mac_size(self) -> int:
        """Size of a confirmation, and of its key, in bytes."""
        return 16 if self.cmac else self.digest.digest_size

    def mac(self, key: Secret, data: bytes) -> bytes:
        """Return the confirmation MAC over ``data``."""
        if not self.cmac:
            return hmac.digest(key.reveal(), data, self.digest.name)
        state = CMAC(AES(key.reveal()))
        state.update(data)
        return state.finalize()


SUITE: Final = Suite(name="P256-SHA256-HKDF-SHA256-HMAC-SHA256", digest=hashes.SHA256())
"""The one suite of the stack."""
SUITES: Final = (
    SUITE,
    Suite(name="P256-SHA512-HKDF-SHA512-HMAC-SHA512", digest=hashes.SHA512()),
    Suite(name="P256-SHA256-HKDF-SHA256-CMAC-AES-128", digest=hashes.SHA256(), cmac=True),
    Suite(name="P256-SHA512-HKDF-SHA512-CMAC-AES-128", digest=hashes.SHA512(), cmac=True),
)
"""All suites on P-256; those other than :data:`SUITE` exist for known answers, never on a wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteKeys:
    """The keys of one session (RFC 9383 §3.4).

    Attributes:
        main: Hash of the transcript.
        confirm_p: Key of the prover's confirmation.
        confirm_v: Key of the verifier's confirmation.
        shared: The session's result.
    """

    main: Secret
    confirm_p: Secret
    confirm_v: Secret
    shared: Secret


def derive_keys(tt: Secret, suite: Suite = SUITE) -> SuiteKeys:
    """Return the keys of a transcript."""
    main = hashlib.new(suite.digest.name, tt.reveal()).digest()
    size = suite.mac_size
    confirm = HKDF(suite.digest, 2 * size, None, b"ConfirmationKeys").derive(main)
    shared = HKDF(suite.digest, suite.digest.digest_size, None, b"SharedKey").derive(main)
    return SuiteKeys(
        main=Secret(main),
        confirm_p=Secret(confirm[:size]),
        confirm_v=Secret(confirm[size:]),
        shared=Secret(shared),
    )
