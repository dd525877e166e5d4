"""STS segments: AES-128 in counter mode, one bit for one pulse (IEEE 802.15.4z §15.2.9).

Bit 0 is pulse +1, bit 1 is pulse -1. The counter is the low 32 bits of the block and wraps alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import ECB

from dkey.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dkey.crypto.secret import Secret

__all__ = ["SEGMENT_BLOCKS", "sts_bytes", "sts_pulses", "sts_pulses_batch"]

CLAUSE: Final = "IEEE 802.15.4z §15.2.9"
SEGMENT_BLOCKS: Final = 32
"""AES blocks of a segment of 64 units at base pulse rate: 4096 pulses."""
_BLOCKS_MAX: Final = 4096


def sts_bytes(key: Secret, block: Secret, blocks: int = SEGMENT_BLOCKS) -> bytes:
    """Return the STS as packed bits, 16 bytes for each AES block.

    Args:
        key: dURSK, 16 bytes.
        block: First counter block, 16 bytes (:func:`dkey.ranging.keys.sts_v`).
        blocks: How many AES blocks, 1..4096.
    """
    return _encrypt(key, _counters([block], blocks))


def sts_pulses(key: Secret, block: Secret, blocks: int = SEGMENT_BLOCKS) -> NDArray[np.int8]:
    """Return the pulses of one segment, each +1 or -1, shape (128 * blocks,)."""
    bits = np.unpackbits(np.frombuffer(sts_bytes(key, block, blocks), np.uint8))
    return 1 - 2 * bits.astype(np.int8)


def sts_pulses_batch(
    key: Secret, first: Sequence[Secret], blocks: int = SEGMENT_BLOCKS
) -> NDArray[np.int8]:
    """Return the pulses of many segments under one key, shape (segments, 128 * blocks)."""
    stream = _encrypt(key, _counters(first, blocks))
    bits = np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(len(first), 128 * blocks)
    return 1 - 2 * bits.astype(np.int8)


def _counters(first: Sequence[Secret], blocks: int) -> bytes:
    if any(len(each) != 16 for each in first):
        raise LocalFault("a counter block has 16 bytes", clause=CLAUSE)
    if not 1 <= blocks <= _BLOCKS_MAX:
        raise LocalFault(f"a segment has 1..{_BLOCKS_MAX} blocks, not {blocks}", clause=CLAUSE)
    starts = np.frombuffer(b"".join(each.reveal() for each in first), ">u4").reshape(-1, 4)
    counters = np.repeat(starts[:, None, :], blocks, axis=1)
    steps = np.arange(blocks, dtype=np.uint32)
    counters[..., 3] = starts[:, 3].astype(np.uint32)[:, None] + steps  # modulo 2^32 by its type
    return counters.tobytes()


def _encrypt(key: Secret, counters: bytes) -> bytes:
    if len(key) != 16:
        raise LocalFault("an STS key has 16 bytes", clause=CLAUSE)
    # Each counter block stands once: ECB over them is counter mode with a 32-bit counter.
    encryptor = Cipher(AES128(key.reveal()), ECB()).encryptor()  # noqa: S305
    return encryptor.update(counters) + encryptor.finalize()
