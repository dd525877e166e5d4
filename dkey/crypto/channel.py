"""AES-256-GCM in two directions with counters (Aliro 1.0 §8.3.1.6 to §8.3.1.9).

Each direction has its own key and its own counter, which starts at 1 and rises by one with each
message, also when a message does not verify. IV = direction (8 bytes: 0 reader to device, 1
device to reader) || counter (4 bytes, big-endian). A message is ciphertext || tag (16 bytes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dkey.errors import AuthenticationError, LocalFault

if TYPE_CHECKING:
    from dkey.crypto.secret import Secret

__all__ = ["COUNTER_LIMIT", "TAG_SIZE", "SecureChannel", "open_once", "seal_once"]

CLAUSE: Final = "Aliro 1.0 §8.3.1.6"
COUNTER_LIMIT: Final = 0xFFFF
"""A channel ends before a counter would reach this value (Aliro 1.0 §8.3.3.5.4)."""
TAG_SIZE: Final = 16
_READER_TO_DEVICE: Final = bytes(8)
_DEVICE_TO_READER: Final = bytes(7) + b"\x01"
_ZERO_IV: Final = bytes(12)


class SecureChannel:
    """One end of a channel.

    Args:
        reader_key: Key of the direction reader to device, 32 bytes.
        device_key: Key of the direction device to reader, 32 bytes.
        is_reader: Which end this is.
    """

    __slots__ = ("_in", "_in_count", "_in_iv", "_out", "_out_count", "_out_iv")

    def __init__(self, reader_key: Secret, device_key: Secret, *, is_reader: bool) -> None:
        if len(reader_key) != 32 or len(device_key) != 32:
            raise LocalFault("channel keys have 32 bytes")
        reader, device = AESGCM(reader_key.reveal()), AESGCM(device_key.reveal())
        self._out: AESGCM | None = reader if is_reader else device
        self._in: AESGCM | None = device if is_reader else reader
        self._out_iv = _READER_TO_DEVICE if is_reader else _DEVICE_TO_READER
        self._in_iv = _DEVICE_TO_READER if is_reader else _READER_TO_DEVICE
        self._out_count = self._in_count = 1

    @property
    def alive(self) -> bool:
        """Whether the keys are still held."""
        return self._out is not None

    @property
    def counters(self) -> tuple[int, int]:
        """The next counter values (sending, receiving)."""
        return self._out_count, self._in_count

    def seal(self, plaintext: bytes, aad: bytes | None = None) -> bytes:
        """Encrypt the next message; the result is 16 bytes longer.

        Raises:
            AuthenticationError: The keys are gone, or the counter is used up.
        """
        count = self._out_count
        if self._out is None or count >= COUNTER_LIMIT:
            raise self._ended()
        self._out_count = count + 1
        return self._out.encrypt(self._out_iv + count.to_bytes(4, "big"), plaintext, aad)

    def open(self, message: bytes, aad: bytes | None = None) -> bytes:
        """Verify and decrypt the next message. The counter rises whether it verifies or not.

        Raises:
            AuthenticationError: It does not verify, the keys are gone, or the counter is used up.
        """
        count = self._in_count
        if self._in is None or count >= COUNTER_LIMIT:
            raise self._ended()
        self._in_count = count + 1
        try:
            return self._in.decrypt(self._in_iv + count.to_bytes(4, "big"), message, aad)
        except (InvalidTag, ValueError) as exc:
            raise AuthenticationError("a protected message does not verify", clause=CLAUSE) from exc

    def destroy(self) -> None:
        """Drop both keys; every later call fails."""
        self._out = self._in = None

    def _ended(self) -> AuthenticationError:
        self.destroy()
        return AuthenticationError("the secure channel has ended", clause=CLAUSE)


def seal_once(key: Secret, plaintext: bytes) -> bytes:
    """Encrypt the only message that ``key`` ever protects: IV zero, no associated data."""
    return AESGCM(key.reveal()).encrypt(_ZERO_IV, plaintext, None)


def open_once(key: Secret, message: bytes) -> bytes | None:
    """Return the plaintext of the only message under ``key``, or None if it does not verify."""
    try:
        return AESGCM(key.reveal()).decrypt(_ZERO_IV, message, None)
    except (InvalidTag, ValueError):
        return None
