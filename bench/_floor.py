"""The crypto floor of the access transaction: its bare operations, and nothing else."""

from __future__ import annotations

import os
from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dkey.access.enrolled import Flow
from dkey.access.exchange import SUCCESS, ExchangeRequest, ReaderStatus
from dkey.access.messages import Auth1Payload, CryptogramPayload, Signaling
from dkey.access.profile import VEHICLE, Interface
from dkey.access.schedule import DEVICE_USAGE, READER_USAGE, Context
from dkey.access.select import SelectResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["STATUS", "Floor"]

STATUS = ReaderStatus.UNSECURE
"""What every transaction ends with, the floor's and the product's."""

_CURVE = ec.SECP256R1()
_ECDH = ec.ECDH()
_SHA256 = SHA256()
_ECDSA = ec.ECDSA(_SHA256)
_ECDSA_DIGEST = ec.ECDSA(utils.Prehashed(_SHA256))
_IV_READER, _IV_DEVICE, _IV_DEVICE_2 = (
    bytes.fromhex(f"{iv:024x}") for iv in (1, 1 << 32 | 1, 1 << 32 | 2)
)
_IV_ONCE = bytes(12)


def _encode(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _decode(point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)


def _hkdf(key: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    return HKDF(_SHA256, size, salt, info).derive(key)


class Floor:
    """The cryptographic operations of one transaction, called directly, and nothing else.

    No TLV, no APDU, no state, no checks. Salts, infos, signed data and plaintexts have the real
    sizes and are made beforehand; keys, signatures and ciphertexts are real in every round.
    :meth:`standard` and :meth:`fast` yield at the end of each turn, reader and device alternately,
    SELECT first: so the same operations can be run where the product runs them.
    """

    def __init__(self) -> None:
        self.reader = ec.generate_private_key(_CURVE)
        self.device = ec.generate_private_key(_CURVE)
        self.reader_public, self.device_public = self.reader.public_key(), self.device.public_key()
        self.device_point = _encode(self.device)
        x = self.device_point[1:33]
        context = Context(
            group_key_x=os.urandom(32),
            reader_id=os.urandom(32),
            interface=Interface.NFC,
            version=VEHICLE.versions[0],
            reader_ephemeral_x=os.urandom(32),
            device_ephemeral_x=os.urandom(32),
            transaction_id=os.urandom(16),
            parameters=0,
            policy=1,
            a5=SelectResponse(aid=VEHICLE.access_aid, versions=VEHICLE.versions).encode_a5(),
        )
        self.info = context.info
        self.salt = context.salt(b"Volatile****")
        self.salt_persistent = context.salt(b"Persistent**", x)
        self.salt_fast = context.salt(b"VolatileFast", x)
        self.by_reader = context.signed_data(READER_USAGE)
        self.by_device = context.signed_data(DEVICE_USAGE)
        self.kpersistent = os.urandom(32)
        proof = Auth1Payload(
            public_key=self.device_point, signature=bytes(64), signaling=Signaling()
        )
        self.proof_head = proof.to_bytes()[:69]
        self.proof_tail = proof.to_bytes()[-4:]
        self.cryptogram = CryptogramPayload(signaling=Signaling()).to_bytes()
        self.request = ExchangeRequest(status=STATUS).to_bytes()

    def turns(self, flow: Flow) -> Iterator[None]:
        """Return the turns of one transaction."""
        return self.standard() if flow is Flow.STANDARD else self.fast()

    def run(self, flow: Flow) -> None:
        """Run one transaction at once."""
        deque(self.turns(flow), maxlen=0)

    def standard(self) -> Iterator[None]:
        """Two key pairs, three points, two signatures made and verified, two ECDH, the rest."""
        yield  # SELECT: nothing to compute
        yield
        reader_ephemeral = ec.generate_private_key(_CURVE)
        reader_point = _encode(reader_ephemeral)
        transaction_id = os.urandom(16)
        yield  # the device's AUTH0
        device_ephemeral = ec.generate_private_key(_CURVE)
        at_device = _decode(reader_point)
        device_point = _encode(device_ephemeral)
        yield  # the reader's AUTH1
        at_reader = _decode(device_point)
        signature = self._sign(self.reader, self.by_reader)
        kdh = self._agree(reader_ephemeral, at_reader, transaction_id)
        block = _hkdf(kdh, self.salt, self.info, 160)
        reader_out, reader_in = AESGCM(block[:32]), AESGCM(block[32:64])
        yield  # the device's AUTH1
        self._verify(self.reader_public, signature, self.by_reader)
        kdh_device = self._agree(device_ephemeral, at_device, transaction_id)
        block = _hkdf(kdh_device, self.salt, self.info, 160)
        device_in, device_out = AESGCM(block[:32]), AESGCM(block[32:64])
        _hkdf(kdh_device, self.salt_persistent, self.info, 32)
        proof = self.proof_head + self._sign(self.device, self.by_device) + self.proof_tail
        sealed = device_out.encrypt(_IV_DEVICE, proof, None)
        yield  # the reader's EXCHANGE
        plain = reader_in.decrypt(_IV_DEVICE, sealed, None)
        _decode(plain[2:67])
        self._verify(self.device_public, plain[69:133], self.by_device)
        _hkdf(kdh, self.salt_persistent, self.info, 32)
        sealed = reader_out.encrypt(_IV_READER, self.request, None)
        yield  # the device's EXCHANGE
        device_in.decrypt(_IV_READER, sealed, None)
        sealed = device_out.encrypt(_IV_DEVICE_2, SUCCESS, None)
        yield  # the reader's end
        reader_in.decrypt(_IV_DEVICE_2, sealed, None)

    def fast(self) -> Iterator[None]:
        """Two key pairs, two points, two key blocks, the cryptogram, one EXCHANGE."""
        yield  # SELECT: nothing to compute
        yield
        reader_point = _encode(ec.generate_private_key(_CURVE))
        os.urandom(16)
        yield  # the device's AUTH0
        _decode(reader_point)
        device_point = _encode(ec.generate_private_key(_CURVE))
        block = _hkdf(self.kpersistent, self.salt_fast, self.info, 160)
        device_in, device_out = AESGCM(block[32:64]), AESGCM(block[64:96])
        cryptogram = AESGCM(block[:32]).encrypt(_IV_ONCE, self.cryptogram, None)
        yield  # the reader's EXCHANGE
        _decode(device_point)
        block = _hkdf(self.kpersistent, self.salt_fast, self.info, 160)
        AESGCM(block[:32]).decrypt(_IV_ONCE, cryptogram, None)
        reader_out, reader_in = AESGCM(block[32:64]), AESGCM(block[64:96])
        sealed = reader_out.encrypt(_IV_READER, self.request, None)
        yield  # the device's EXCHANGE
        device_in.decrypt(_IV_READER, sealed, None)
        sealed = device_out.encrypt(_IV_DEVICE, SUCCESS, None)
        yield  # the reader's end
        reader_in.decrypt(_IV_DEVICE, sealed, None)

    @staticmethod
    def _agree(
        own: ec.EllipticCurvePrivateKey, peer: ec.EllipticCurvePublicKey, transaction_id: bytes
    ) -> bytes:
        shared = own.exchange(_ECDH, peer)
        return sha256(shared + b"\x00\x00\x00\x01" + transaction_id).digest()

    @staticmethod
    def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
        der = key.sign(sha256(data).digest(), _ECDSA_DIGEST)
        r, s = utils.decode_dss_signature(der)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    @staticmethod
    def _verify(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key.verify(utils.encode_dss_signature(r, s), data, _ECDSA)
