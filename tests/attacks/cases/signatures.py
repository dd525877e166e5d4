"""Signatures that are out of form (case 11)."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from dkey.access.messages import Auth1Payload, Signaling
from dkey.access.schedule import DEVICE_USAGE
from dkey.crypto.p256 import ORDER, PrivateKey
from dkey.errors import AuthenticationError

from .. import Broken, case
from .scene import Impostor, Scene, refusal, transact

if TYPE_CHECKING:
    from dkey.access.schedule import Context


def _small_s(scene: Scene, data: bytes) -> tuple[PrivateKey, int, int]:
    """Return a key and (r, s) with s < 2^64 that verify over ``data``: the signer chooses s."""
    nonce = scene.entropy.ephemeral()
    k = int.from_bytes(nonce.scalar().reveal(), "big")
    r = int.from_bytes(nonce.public.x, "big") % ORDER
    s = scene.chance.getrandbits(63) + 1
    digest = int.from_bytes(sha256(data).digest(), "big")
    d = (s * k - digest) * pow(r, -1, ORDER) % ORDER
    return PrivateKey.from_scalar(d.to_bytes(32, "big")), r, s


def _wide(number: int) -> bytes:
    return number.to_bytes(32, "big")


@case(
    11,
    "r and s outside 1..n-1 are refused, not reduced",
    source="Wycheproof; CVE-2022-21449",
    broken=[
        Broken(
            module="dkey.crypto.p256",
            old="""        if not (0 < r < ORDER and 0 < s < ORDER):
            raise AuthenticationError("the signature does not verify")
        self.verify_der(utils.encode_dss_signature(r, s), data)""",
            new="        self.verify_der(utils.encode_dss_signature(r % ORDER, s % ORDER), data)",
            why="r and s are reduced modulo n",
        ),
        Broken(
            module="dkey.crypto.p256",
            old="""        if not (0 < r < ORDER and 0 < s < ORDER):
            raise AuthenticationError("the signature does not verify")""",
            new="""        if not (0 < r < ORDER and 0 < s < ORDER):
            return""",
            why="a signature out of range is passed over instead of refused",
        ),
    ],
)
def signature_range(seed: int) -> None:
    scene = Scene(seed)
    data = scene.entropy.random(100)
    key, r, s = _small_s(scene, data)
    key.public.verify(_wide(r) + _wide(s), data)  # the honest form
    bad = [(r, s + ORDER), (0, s), (r, 0), (0, 0), (ORDER, s), (r, ORDER), (ORDER, ORDER), (1, 1)]
    for wrong_r, wrong_s in bad:
        refused = refusal(key.public.verify, _wide(wrong_r) + _wide(wrong_s), data)
        assert isinstance(refused, AuthenticationError), f"({wrong_r:x}, {wrong_s:x}) verifies"


@case(
    11,
    "a signature is 64 bytes, neither padded nor cut",
    source="Wycheproof",
    broken=[
        Broken(
            module="dkey.crypto.p256",
            old="        if len(signature) != 64:",
            new="        if False:",
            why="the length of a signature is not checked",
        ),
        Broken(
            module="dkey.crypto.p256",
            old="        if len(signature) != 64:",
            new="        if len(signature) < 64:",
            why="only short signatures are refused",
        ),
    ],
)
def signature_length(seed: int) -> None:
    scene = Scene(seed)
    data = scene.entropy.random(100)
    key, r, s = _small_s(scene, data)
    wide_r, wide_s = _wide(r), _wide(s)
    for bad in (wide_r + b"\x00" + wide_s, wide_r + wide_s[1:], wide_r + wide_s[24:], b""):
        refused = refusal(key.public.verify, bad, data)
        assert isinstance(refused, AuthenticationError), f"{len(bad)} bytes are a signature"


@case(
    11,
    "the high and the low form of a signature prove the same identity, once",
    source="signature malleability",
    broken=[
        Broken(
            module="dkey.access.reader",
            old="            kpersistent=None if public_key is None else"
            " context.persistent(kdh, public_key.x),",
            new="            kpersistent=None if public_key is None else"
            " context.persistent(kdh, payload.signature[32:]),",
            why="signature bytes identify the credential in the key schedule",
        ),
    ],
)
def malleable_signature(seed: int) -> None:
    scene = Scene(seed)
    kept: list[object] = []
    contexts: list[Context] = []

    def payload(context: Context, *, high: bool) -> bytes:
        contexts.append(context)
        signature = scene.owner_key.sign_data(context.signed_data(DEVICE_USAGE))
        s = int.from_bytes(signature[32:], "big")
        if (s > ORDER // 2) is not high:
            s = ORDER - s
        return Auth1Payload(
            public_key=scene.owner_key.public.point,
            signature=signature[:32] + _wide(s),
            signaling=Signaling(),
        ).to_bytes()

    for high in (True, False):
        # The same randomness twice: only the form of the signature differs.
        twin = Scene(seed)
        device = Impostor(twin, lambda context, _, high=high: payload(context, high=high))
        kept.append(transact(twin.reader(), device.answer).kpersistent)
    if contexts[0] != contexts[1]:
        raise RuntimeError("the two transactions are not the same")
    assert kept[0] == kept[1], "the form of a signature changes the identity"
