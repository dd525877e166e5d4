"""Known answers for the cryptographic building blocks: RFC, NIST and Wycheproof files.

Only what a function of the stack computes is compared. AES-GCM is reachable with the initial
values that the stack makes itself, so other initial values count as not implemented.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from dkey.conformance.vectors_spake import check_spake2plus
from dkey.conformance.vectors_uwb import check_uwb
from dkey.crypto.channel import open_once, seal_once
from dkey.crypto.cmac import aes_cmac
from dkey.crypto.kdf import hkdf, kdf_ctr, x963
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.secret import Secret
from dkey.crypto.spake2plus_suite import SUITE
from dkey.errors import AuthenticationError, DkeyError, LocalFault, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.conformance.vectors_case import Case, Tally

__all__ = ["TABLES", "WYCHEPROOF", "check_ecdsa_key"]

_ZERO_IV: Final = bytes(12)


def _point(case: Case, x: str, y: str) -> bytes:
    return b"\x04" + case.scalar(x) + case.scalar(y)


# --- tables: RFC and NIST ---------------------------------------------------------------------


def _hkdf(case: Case, tally: Tally) -> None:
    if case.has("Hash") and case.text("Hash") != "SHA-256":
        tally.not_yet()
        return
    key, salt, info = case.hex("IKM"), case.hex("salt"), case.hex("info")
    size, expected = case.number("L"), case.hex("OKM")
    tally.same(case, "OKM", lambda: hkdf(key, salt, info, size), expected)
    tally.not_yet(int(case.has("PRK")))  # an intermediate that no function returns


def _x963(case: Case, tally: Tally) -> None:
    shared, info = case.hex("Z"), case.hex("SharedInfo")
    size, expected = case.number("key_bits") // 8, case.hex("key_data")
    tally.same(case, "key_data", lambda: x963(shared, info, size), expected)
    blocks = b""
    while case.has(f"K{len(blocks) // 32 + 1}"):
        number = len(blocks) // 32 + 1
        blocks += case.hex(f"K{number}", 32)
        tally.same(case, f"K{number}", partial(x963, shared, info, len(blocks)), blocks)


def _kas_ecdh(case: Case, tally: Tally) -> None:
    verdict = case.text("result")[:1]
    own, peer = case.scalar("dsIUT"), _point(case, "QsCAVSx", "QsCAVSy")
    own_point, known = _point(case, "QsIUTx", "QsIUTy"), case.hex("Z")
    hashed = case.hex("CAVSHashZZ")

    def valid() -> bool:
        """Whether everything that the file states of this exchange holds."""
        key = PrivateKey.from_scalar(own)
        shared = key.agree(PublicKey.parse(peer)).reveal()
        return (key.public.point, shared, sha256(shared).digest()) == (own_point, known, hashed)

    try:
        ours = "P" if valid() else "F"
    except WireError:
        ours = "F"
    tally.judge(case, f"verdict is {ours}, not {verdict}", ok=ours == verdict)


def check_ecdsa_key(case: Case, tally: Tally, x: bytes, y: bytes) -> None:
    """Check one RFC 6979 entry: its signature verifies under the key with this x and y."""
    signature = case.hex("r", 32) + case.hex("s", 32)
    message = case.text("message_ascii").encode()
    tally.accepts(
        case,
        "signature",
        lambda: PublicKey.parse(b"\x04" + x + y).verify(signature, message),
    )


def _aes_cmac(case: Case, tally: Tally) -> None:
    key, message, known = case.hex("KEY"), case.hex("MESSAGE"), case.hex("OUTPUT")
    tally.same(case, "OUTPUT", lambda: aes_cmac(key, message), known)


def _hmac(key: bytes, message: bytes) -> bytes:
    return SUITE.mac(Secret(key), message)


_COUNTERS: Final = {"8_BITS": 1, "16_BITS": 2, "24_BITS": 3, "32_BITS": 4}
_PRFS: Final = {"CMAC_AES128": aes_cmac, "CMAC_AES256": aes_cmac, "HMAC_SHA256": _hmac}


def _kdf_ctr(case: Case, tally: Tally) -> None:
    prf = _PRFS.get(case.text("prf"))
    counter = _COUNTERS.get(case.text("rlen"))
    if prf is None or counter is None or case.text("ctrlocation") != "BEFORE_FIXED":
        tally.not_yet()
        return
    key, fixed, known = case.hex("KI"), case.hex("FixedInputData"), case.hex("KO")
    size = case.number("L") // 8
    tally.same(
        case,
        "KO",
        lambda: kdf_ctr(partial(prf, key), fixed, size, counter_size=counter),
        known,
    )


TABLES: Final[tuple[tuple[frozenset[str], Callable[[Case, Tally], None]], ...]] = (
    (frozenset({"IKM", "salt", "info", "L", "OKM"}), _hkdf),
    (frozenset({"Z", "SharedInfo", "key_data", "key_bits"}), _x963),
    (frozenset({"dsIUT", "QsCAVSx", "QsCAVSy", "Z", "result"}), _kas_ecdh),
    (frozenset({"prf", "KI", "FixedInputData", "KO"}), _kdf_ctr),
    (frozenset({"KEY", "MESSAGE", "OUTPUT", "aes"}), _aes_cmac),
    (frozenset({"w0", "w1", "shareP", "shareV", "confirmP"}), check_spake2plus),
    (frozenset({"name", "inputs", "outputs"}), check_uwb),
)
"""Which fields the entries of a table have, and how one is checked: HKDF, X9.63, ECDH,
SP 800-108, AES-CMAC, SPAKE2+, UWB."""


# --- Wycheproof -------------------------------------------------------------------------------


def _ecdh(_group: Case, case: Case, tally: Tally) -> None:
    scalar, point = case.scalar("private"), case.hex("public")

    def agree() -> Secret:
        return PrivateKey.from_scalar(scalar).agree(PublicKey.parse(point))

    if case.text("result") == "valid":
        tally.same(case, "shared secret", agree, case.hex("shared"))
    else:  # "acceptable" is a compressed point, a form that the stack does not take
        tally.refuses(case, f"point ({case.text('comment')})", lambda: PublicKey.parse(point))


def _ecdsa(group: Case, case: Case, tally: Tally) -> None:
    if group.text("sha") != "SHA-256" or group.section("publicKey").text("curve") != "secp256r1":
        tally.not_yet()
        return
    point = group.section("publicKey").hex("uncompressed", 65)
    message, signature = case.hex("msg"), case.hex("sig")
    der = group.text("type") == "EcdsaVerify"
    ours = "valid"
    try:
        public = PublicKey.parse(point)
        (public.verify_der if der else public.verify)(signature, message)
    except AuthenticationError:
        ours = "invalid"
    except DkeyError as exc:
        ours = str(exc)
    known = case.text("result")
    tally.judge(case, f"{case.text('comment')}: {ours}, not {known}", ok=ours == known)


def _wycheproof_hkdf(_group: Case, case: Case, tally: Tally) -> None:
    key, salt, info = case.hex("ikm"), case.hex("salt"), case.hex("info")
    size, known = case.number("size"), case.hex("okm")
    ours: bytes | None
    try:
        ours = hkdf(key, salt, info, size)
    except ValueError:  # over 255 blocks; no caller passes a size from outside
        ours = None
    wanted = known if case.text("result") == "valid" else None
    tally.judge(case, f"okm ({case.text('comment')}) differs", ok=ours == wanted)


def _gcm(_group: Case, case: Case, tally: Tally) -> None:
    key, aad = case.hex("key"), case.hex("aad")
    if len(key) != 32 or aad or case.hex("iv") != _ZERO_IV:
        tally.not_yet()
        return
    message, sealed = case.hex("msg"), case.hex("ct") + case.hex("tag")
    valid = case.text("result") == "valid"
    opened = message if valid else None
    tally.same(case, "opened message", lambda: open_once(Secret(key), sealed), opened)
    if valid:
        tally.same(case, "sealed message", lambda: seal_once(Secret(key), message), sealed)


def _mac(mac: Callable[[bytes, bytes], bytes], group: Case, case: Case, tally: Tally) -> None:
    key, message, tag = case.hex("key"), case.hex("msg"), case.hex("tag")
    size, known = group.number("tagSize") // 8, case.text("result")
    try:
        ours = "valid" if mac(key, message)[:size] == tag else "invalid"
    except LocalFault:  # a key of a size that AES does not have
        ours = "invalid"
    tally.judge(case, f"tag ({case.text('comment')}) is {ours}, not {known}", ok=ours == known)


WYCHEPROOF: Final[dict[str, Callable[[Case, Case, Tally], None]]] = {
    "AES-CMAC": partial(_mac, aes_cmac),
    "AES-GCM": _gcm,
    "ECDH": _ecdh,
    "ECDSA": _ecdsa,
    "HKDF-SHA-256": _wycheproof_hkdf,
    "HMACSHA256": partial(_mac, _hmac),
}
"""The ``algorithm`` of a Wycheproof file, and how one test of a group is checked."""
