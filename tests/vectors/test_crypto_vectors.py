"""Known answers of RFC, NIST and Wycheproof for what the stack implements.

The files are third-party sets in the shared ``vectors`` folder beside the repository; without it
these tests skip. Counts are asserted, so that an empty or shrunken file does not pass.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from dkey.crypto.channel import SecureChannel
from dkey.crypto.kdf import hkdf, x963
from dkey.crypto.p256 import ORDER, PrivateKey, PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import AuthenticationError, WireError

FOLDER = Path(__file__).parents[2].parent / "shared" / "vectors"


def load(name: str) -> dict[str, Any]:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not there: the shared vectors are not part of the tree")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def cases(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return (group, test) of a Wycheproof file."""
    return [(group, test) for group in load(name)["testGroups"] for test in group["tests"]]


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def point(x: str, y: str) -> bytes:
    return b"\x04" + unhex(x).rjust(32, b"\0") + unhex(y).rjust(32, b"\0")


def scalar(text: str) -> bytes:
    return int(text, 16).to_bytes(32, "big")


def test_ecdh_agrees_with_wycheproof_and_takes_uncompressed_points_only() -> None:
    seen = {"valid": 0, "invalid": 0, "acceptable": 0}
    for _, case in cases("wycheproof_ecdh_secp256r1_ecpoint.json"):
        seen[case["result"]] += 1
        private, public = PrivateKey.from_scalar(scalar(case["private"])), unhex(case["public"])
        if case["result"] == "valid":
            shared = private.agree(PublicKey.parse(public)).reveal()
            assert shared == unhex(case["shared"]), case["tcId"]
        else:
            with pytest.raises(WireError):
                PublicKey.parse(public)
    assert sum(seen.values()) == 355
    assert seen["acceptable"] == 1


def test_the_compressed_point_that_wycheproof_leaves_open_is_refused() -> None:
    every = cases("wycheproof_ecdh_secp256r1_ecpoint.json")
    (case,) = [case for _, case in every if case["result"] == "acceptable"]
    assert "CompressedPoint" in case["flags"]
    with pytest.raises(WireError):
        PublicKey.parse(unhex(case["public"]))


def test_ecdh_agrees_with_nist_and_refuses_its_invalid_points() -> None:
    accepted = refused = 0
    for case in load("nist_kas_ecdh_p256.json")["vectors"]:
        peer = point(case["QsCAVSx"], case["QsCAVSy"])
        ours = PrivateKey.from_scalar(scalar(case["dsIUT"]))
        try:
            shared = ours.agree(PublicKey.parse(peer)).reveal()
        except WireError:
            assert case["result"].startswith("F"), case["why"]
            refused += 1
            continue
        if case["result"].startswith("P"):
            assert shared == unhex(case["Z"])
            assert ours.public.point == point(case["QsIUTx"], case["QsIUTy"])
            accepted += 1
    assert accepted > 0
    assert refused > 0


def verdict(public: PublicKey, verify: str, case: dict[str, Any]) -> bool:
    try:
        getattr(public, verify)(unhex(case["sig"]), unhex(case["msg"]))
    except AuthenticationError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "verify", "count"),
    [
        ("wycheproof_ecdsa_secp256r1_sha256_p1363.json", "verify", 262),
        ("wycheproof_ecdsa_secp256r1_sha256.json", "verify_der", 484),
    ],
)
def test_ecdsa_verdicts_are_those_of_wycheproof(name: str, verify: str, count: int) -> None:
    every = cases(name)
    wrong = []
    for group, case in every:
        public = PublicKey.parse(unhex(group["publicKey"]["uncompressed"]))
        if verdict(public, verify, case) != (case["result"] == "valid"):
            wrong.append((case["tcId"], case["comment"], case["result"]))
    assert not wrong
    assert len(every) == count


def test_the_ecdsa_key_and_signatures_of_rfc_6979_verify() -> None:
    known = load("rfc6979_p256_sha256.json")
    key = PrivateKey.from_scalar(unhex(known["x"]))
    assert key.public.point == point(known["Ux"], known["Uy"])
    assert len(known["vectors"]) == 2
    for case in known["vectors"]:
        message = case["message_ascii"].encode()
        key.public.verify(unhex(case["r"]) + unhex(case["s"]), message)
        key.public.verify(
            unhex(case["r"]) + (ORDER - int(case["s"], 16)).to_bytes(32, "big"), message
        )
        key.public.verify(key.sign(sha256(message).digest()), message)


def test_hkdf_gives_the_outputs_of_rfc_5869() -> None:
    vectors = load("rfc5869_hkdf_sha256.json")["vectors"]
    assert len(vectors) == 3
    for case in vectors:
        out = hkdf(unhex(case["IKM"]), unhex(case["salt"]), unhex(case["info"]), int(case["L"]))
        assert out == unhex(case["OKM"])


def test_hkdf_gives_the_outputs_of_wycheproof_and_refuses_over_255_blocks() -> None:
    every = cases("wycheproof_hkdf_sha256.json")
    assert len(every) == 86
    for _, case in every:
        args = unhex(case["ikm"]), unhex(case["salt"]), unhex(case["info"]), case["size"]
        if case["result"] == "valid":
            assert hkdf(*args) == unhex(case["okm"]), case["tcId"]
        else:
            with pytest.raises(ValueError, match=r"."):
                hkdf(*args)


def test_x963_gives_the_outputs_of_nist() -> None:
    vectors = load("nist_ansx963_sha256.json")["vectors"]
    assert len(vectors) == 20
    for case in vectors:
        size = int(case["key_bits"]) // 8
        assert x963(unhex(case["Z"]), unhex(case["SharedInfo"]), size) == unhex(case["key_data"])
        # The first block is also what the one-block form computes.
        assert (
            x963(unhex(case["Z"]), unhex(case["SharedInfo"]), 32)[:size]
            == unhex(case["key_data"])[:32]
        )


def test_a_channel_takes_no_forged_message_of_wycheproof() -> None:
    # The channel makes its own IVs, so only its refusals can be compared: every ciphertext here
    # belongs to another IV, the modified tags besides.
    tried = 0
    for group, case in cases("wycheproof_aes_gcm.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue
        key = Secret(unhex(case["key"]))
        channel = SecureChannel(key, key, is_reader=False)
        with pytest.raises(AuthenticationError):
            channel.open(unhex(case["ct"] + case["tag"]), unhex(case["aad"]))
        tried += 1
    assert tried == 66


def test_a_channel_message_is_gcm_under_the_stated_iv_for_the_keys_of_wycheproof() -> None:
    # GCM of our IV, computed by the cipher in counter mode from the same key: the keystream of
    # block 2 on (SP 800-38D §7.1).
    for group, case in cases("wycheproof_aes_gcm.json"):
        if group["keySize"] != 256:
            continue
        key, message = unhex(case["key"]), unhex(case["msg"])
        channel = SecureChannel(Secret(key), Secret(key), is_reader=True)
        sealed = channel.seal(message, unhex(case["aad"]))
        assert sealed[:-16] == counter_mode(key, bytes(8) + b"\0\0\0\1", message)


def counter_mode(key: bytes, iv: bytes, message: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.CTR(iv + b"\0\0\0\2")).encryptor()
    return cipher.update(message) + cipher.finalize()
