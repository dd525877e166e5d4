"""NIST P-256 keys: the one curve of the stack.

A public key is accepted in one form only: 65 bytes, ``04 || x || y``, on the curve. The check is
load-bearing, because the key schedule authenticates x alone (CVE-2018-5383 is x kept, y
replaced). A key's identity is its x-coordinate.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dkey.crypto.secret import Secret
from dkey.errors import AuthenticationError, LocalFault, WireError

__all__ = ["ORDER", "PrivateKey", "PublicKey"]

ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
CLAUSE: Final = "SEC 1 §2.3.4"
_CURVE: Final = ec.SECP256R1()
_ECDH: Final = ec.ECDH()
_ECDSA: Final = ec.ECDSA(SHA256())
_ECDSA_DIGEST: Final = ec.ECDSA(utils.Prehashed(SHA256()))
_X962: Final = Encoding.X962
_UNCOMPRESSED: Final = PublicFormat.UncompressedPoint


class PublicKey:
    """A valid point of the curve.

    Attributes:
        point: 65 bytes, ``04 || x || y``.
        x: The x-coordinate, 32 bytes big-endian; the identity of the key.
    """

    __slots__ = ("_key", "point", "x")

    def __init__(self, key: ec.EllipticCurvePublicKey, point: bytes) -> None:
        self._key = key
        self.point = point
        self.x = point[1:33]

    @classmethod
    def parse(cls, point: bytes) -> PublicKey:
        """Decode and check an uncompressed point.

        Raises:
            WireError: Not 65 bytes, not tag 04, or not on the curve.
        """
        if len(point) != 65 or point[0] != 0x04:
            raise WireError("a public key is 65 bytes and starts with 04", clause=CLAUSE)
        try:
            return cls(ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point), point)
        except ValueError as exc:
            raise WireError("the point is not on P-256", clause=CLAUSE) from exc

    def verify(self, signature: bytes, data: bytes) -> None:
        """Check an ECDSA-SHA256 signature over ``data``.

        Both s and n - s are accepted, as standard signers emit either; signature bytes are
        therefore never an identifier.

        Args:
            signature: 64 bytes, r then s, big-endian.
            data: What was signed.

        Raises:
            AuthenticationError: Wrong length, r or s outside 1..n-1, or not this key's signature.
        """
        if len(signature) != 64:
            raise AuthenticationError("the signature does not verify")
        r = int.from_bytes(signature[:32], "big")
        s = int.from_bytes(signature[32:], "big")
        if not (0 < r < ORDER and 0 < s < ORDER):
            raise AuthenticationError("the signature does not verify")
        self.verify_der(utils.encode_dss_signature(r, s), data)

    def verify_der(self, signature: bytes, data: bytes) -> None:
        """Check an ECDSA-SHA256 signature in its DER form (certificates only).

        Raises:
            AuthenticationError: It does not verify.
        """
        try:
            self._key.verify(signature, data, _ECDSA)
        except InvalidSignature as exc:
            raise AuthenticationError("the signature does not verify") from exc

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.point == other.point

    def __hash__(self) -> int:
        return hash(self.point)

    def __repr__(self) -> str:
        return f"PublicKey({self.x[:4].hex()}…)"


class PrivateKey:
    """A private scalar held in memory: for ephemeral keys, and inside software vaults.

    Attributes:
        public: The matching public key.
    """

    __slots__ = ("_key", "public")

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        public = key.public_key()
        self.public = PublicKey(public, public.public_bytes(_X962, _UNCOMPRESSED))

    @classmethod
    def generate(cls) -> PrivateKey:
        """Return a fresh key from the random source of the crypto library."""
        return cls(ec.generate_private_key(_CURVE))

    @classmethod
    def from_scalar(cls, scalar: bytes) -> PrivateKey:
        """Return the key with this private scalar, 32 bytes big-endian.

        Raises:
            LocalFault: Not 32 bytes, zero, or not below the curve's order.
        """
        number = int.from_bytes(scalar, "big")
        if len(scalar) != 32 or not 0 < number < ORDER:
            raise LocalFault(
                "a private key is 32 bytes between 1 and the curve's order minus 1",
                clause="SEC 1 §3.2.1",
            )
        return cls(ec.derive_private_key(number, _CURVE))

    def scalar(self) -> Secret:
        """Return the private scalar, 32 bytes big-endian, to seal it."""
        return Secret(self._key.private_numbers().private_value.to_bytes(32, "big"))

    def agree(self, peer: PublicKey) -> Secret:
        """Return the ECDH shared x-coordinate, 32 bytes."""
        return Secret(self._key.exchange(_ECDH, peer._key))  # noqa: SLF001

    def sign(self, digest: bytes) -> bytes:
        """Return the ECDSA signature over a SHA-256 ``digest``: 64 bytes, r then s."""
        r, s = utils.decode_dss_signature(self._key.sign(digest, _ECDSA_DIGEST))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def sign_data(self, data: bytes) -> bytes:
        """Return the ECDSA-SHA256 signature over ``data``: 64 bytes, r then s."""
        return self.sign(sha256(data).digest())

    def __repr__(self) -> str:
        return f"PrivateKey(of {self.public!r})"
