"""The credentials a reader knows, in memory, with the look-ups that a transaction needs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dkey.access.credential import key_slot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dkey.access.enrolled import EnrolledCredential
    from dkey.crypto.secret import Secret

__all__ = ["MemoryDirectory"]


class MemoryDirectory:
    """Credentials by identity. The most recently used ones are tried first in a fast transaction.

    Args:
        credentials: In the order of use, oldest first.
    """

    def __init__(self, credentials: Iterable[EnrolledCredential] = ()) -> None:
        self._by_x = {each.public_key.x: each for each in credentials}
        self._slots: dict[bytes, bytes] | None = None

    def __iter__(self) -> Iterator[EnrolledCredential]:
        return iter(self._by_x.values())

    def __len__(self) -> int:
        return len(self._by_x)

    def by_x(self, x: bytes) -> EnrolledCredential | None:
        """Return the credential with this x-coordinate."""
        return self._by_x.get(x)

    def by_key_slot(self, key_slot_value: bytes) -> EnrolledCredential | None:
        """Return the credential with this key slot."""
        if self._slots is None:
            self._slots = {key_slot(c.public_key): x for x, c in self._by_x.items()}
        x = self._slots.get(key_slot_value)
        return None if x is None else self._by_x.get(x)

    def fast_candidates(self, limit: int) -> Sequence[EnrolledCredential]:
        """Return the last ``limit`` credentials that have a Kpersistent."""
        have = [each for each in self._by_x.values() if each.kpersistent is not None]
        return have[-limit:] if limit > 0 else []

    def store_kpersistent(self, x: bytes, key: Secret) -> None:
        """Keep Kpersistent for one credential and make it the most recently used."""
        credential = self._by_x.pop(x)
        self._by_x[x] = replace(credential, kpersistent=key)
