"""The key ladder of secure ranging, from the ranging secret to what a round uses.

Every step is AES-256-CMAC in counter mode with a label of its own; both sides compute all of it
alone. A parameter on which they disagree gives another STS: the radios hear nothing. The formulas
are public observations, not a published standard; known answers are in ``uwb_public.json``
(specs/ranging.md §1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dkey.crypto.cmac import aes_cmac
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault

__all__ = [
    "INDEX_LIMIT",
    "URSK_SIZE",
    "RangingKeys",
    "RoundKeys",
    "UwbAddresses",
    "dudsk",
    "dursk",
    "mupsk1",
    "mupsk2",
    "mursk",
    "salt",
    "salted_hash",
    "sts_v",
    "ursk_kt",
]

CLAUSE: Final = "specs/ranging.md §1"
URSK_SIZE: Final = 32
INDEX_LIMIT: Final = 2**31 - 1
"""The ranging secret is dead when the STS index gets here (Aliro 1.0 §11.1.1.4)."""

_NO_CONTEXT: Final = bytes(3)
_RESERVED_SHORT: Final = (0xFFFF, 0xFFFE)


def _kdf(key: bytes, label: bytes, context: bytes, bits: int, first: int = 1) -> bytes:
    """Return the blocks from ``first`` on that ``bits`` needs; each is a CMAC of 16 bytes."""
    tail = label + b"\x00" + context + bits.to_bytes(4, "big")
    last = bits // 128
    return b"".join(aes_cmac(key, at.to_bytes(4, "big") + tail) for at in range(first, last + 1))


def _checked(key: Secret, size: int, what: str) -> bytes:
    if len(key) != size:
        raise LocalFault(f"{what} has {size} bytes, not {len(key)}", clause=CLAUSE)
    return key.reveal()


def _index(index: int) -> int:
    if not 0 <= index < INDEX_LIMIT:
        raise LocalFault(f"an STS index is 0..2^31-2, not {index}", clause=CLAUSE)
    return index


def mupsk1(ursk: Secret) -> Secret:
    """Return the CCM* key of all Pre-POLLs of the session, 16 bytes."""
    key = _checked(ursk, URSK_SIZE, "a ranging secret")
    return Secret(_kdf(key, b"UPSK", _NO_CONTEXT, 384)[:16])


def mupsk2(ursk: Secret) -> Secret:
    """Return the seed of the session's addresses, 32 bytes."""
    key = _checked(ursk, URSK_SIZE, "a ranging secret")
    return Secret(_kdf(key, b"UPSK", _NO_CONTEXT, 384, first=2))


def mursk(ursk: Secret) -> Secret:
    """Return the root of the round keys, 32 bytes."""
    return Secret(_kdf(_checked(ursk, URSK_SIZE, "a ranging secret"), b"URSK", _NO_CONTEXT, 256))


def salt(ursk: Secret) -> Secret:
    """Return the salt of the configuration's hash, 16 bytes."""
    return Secret(_kdf(_checked(ursk, URSK_SIZE, "a ranging secret"), b"SALT", _NO_CONTEXT, 128))


def salted_hash(ursk: Secret, configuration: bytes) -> Secret:
    """Return the salted hash of the encoded RangingConfiguration, 16 bytes."""
    return Secret(aes_cmac(bytes(16) + salt(ursk).reveal(), configuration))


def ursk_kt(root: Secret, index: int) -> Secret:
    """Return the key of the round whose Pre-POLL has this STS index, 32 bytes.

    Args:
        root: mURSK.
        index: 0..2^31-2; each of its 32 bits is one byte of the context, highest first.
    """
    _index(index)
    context = bytes(index >> bit & 1 for bit in range(31, -1, -1))
    return Secret(_kdf(_checked(root, 32, "mURSK"), b"URSK_KT", context, 256))


def dursk(round_root: Secret, hashed: Secret) -> Secret:
    """Return the STS key of the round, 16 bytes, from URSK_KT and the salted hash."""
    return _round_key(round_root, b"URSK", hashed)


def dudsk(round_root: Secret, hashed: Secret) -> Secret:
    """Return the CCM* key of the round's Final_Data, 16 bytes."""
    return _round_key(round_root, b"UDSK", hashed)


def _round_key(round_root: Secret, label: bytes, hashed: Secret) -> Secret:
    context = _checked(hashed, 16, "a salted hash") + _NO_CONTEXT
    return Secret(_kdf(_checked(round_root, 32, "URSK_KT"), label, context, 128))


def sts_v(hashed: Secret, index: int) -> Secret:
    """Return the first counter block of the STS with this index, 16 bytes.

    The big-endian word at bytes 8..11 of the salted hash is increased by the index, modulo 2^32;
    the word behind it is where the block counter starts.
    """
    block = _checked(hashed, 16, "a salted hash")
    word = int.from_bytes(block[8:12], "big") + _index(index) & 0xFFFFFFFF
    return Secret(block[:8] + word.to_bytes(4, "big") + block[12:])


@dataclass(frozen=True, slots=True, kw_only=True)
class UwbAddresses:
    """Addresses of a session's SP0 frames, which tell a stranger nothing.

    Attributes:
        key_source: 4 bytes, low half first.
        dest_short: Destination, 2 bytes, most significant first; never FFFF or FFFE.
        src_long: Source in the CCM* nonce, 8 bytes, most significant first; never all ones.
    """

    key_source: bytes
    dest_short: bytes
    src_long: bytes

    @classmethod
    def derive(cls, seed: Secret, sts_index0: int) -> UwbAddresses:
        """Return the addresses of the session that starts at this STS index.

        Wire: KeySourceLow(2) || KeySourceHigh(2) || DestShort(2) || SrcLong(8) || unused(2) of
        the derived block. A reserved value has its highest bit cleared.

        Args:
            seed: mUPSK2.
            sts_index0: 0..2^31-2.
        """
        context = _index(sts_index0).to_bytes(4, "big")
        return cls.from_block(_kdf(_checked(seed, 32, "mUPSK2"), b"UAD", context, 128))

    @classmethod
    def from_block(cls, block: bytes) -> UwbAddresses:
        """Cut the addresses from the derived 16 bytes."""
        return cls(
            key_source=_allowed(block[:2]) + _allowed(block[2:4]),
            dest_short=_allowed(block[4:6]),
            src_long=_allowed(block[6:14]),
        )


def _allowed(address: bytes) -> bytes:
    """Return the address with its highest bit cleared if the value is reserved."""
    reserved = address == b"\xff" * len(address) or (
        len(address) == 2 and int.from_bytes(address, "big") in _RESERVED_SHORT
    )
    return bytes((address[0] & 0x7F,)) + address[1:] if reserved else address


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundKeys:
    """What one round uses.

    Attributes:
        sts: dURSK, STS key of all its slots, 16 bytes.
        data: dUDSK, CCM* key of its Final_Data, 16 bytes.
    """

    sts: Secret
    data: Secret


class RangingKeys:
    """The ladder of one session: what stays the same in it, and the keys of any round.

    Attributes:
        pre_poll: mUPSK1.
        hashed: The salted hash.
        addresses: Addresses of the session's frames.
    """

    __slots__ = ("_root", "addresses", "hashed", "pre_poll")

    def __init__(self, ursk: Secret, configuration: bytes, sts_index0: int) -> None:
        """Derive what does not change from round to round.

        Args:
            ursk: Ranging secret, 32 bytes.
            configuration: The encoded RangingConfiguration.
            sts_index0: STS index at which the session starts.
        """
        self.pre_poll = mupsk1(ursk)
        self.hashed = salted_hash(ursk, configuration)
        self.addresses = UwbAddresses.derive(mupsk2(ursk), sts_index0)
        self._root = mursk(ursk)

    def round(self, pre_poll_index: int) -> RoundKeys:
        """Return the keys of the round whose Pre-POLL has this STS index."""
        round_root = ursk_kt(self._root, pre_poll_index)
        return RoundKeys(sts=dursk(round_root, self.hashed), data=dudsk(round_root, self.hashed))

    def sts_block(self, index: int) -> Secret:
        """Return the first counter block of the STS with this index."""
        return sts_v(self.hashed, index)

    def __repr__(self) -> str:
        return "<keys of a ranging session>"
