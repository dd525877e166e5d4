"""A vault in one JSON file: each private key sealed with AES-256-GCM under one key.

The key-encryption key (KEK) comes from a passphrase through scrypt, or from a key file of mode
0600. There is no way to make or open a vault without one of the two. The file is described in
:mod:`dkey.crypto.vault.sealed_file`.

A key is unsealed at its first use and then kept in memory while its entry stays the same.
Unsealing it for each use would cost a point multiplication a transaction and protect little,
because the KEK has to stay in memory for that.

Several processes may use one vault. Each change takes an advisory lock on ``<file>.lock``, reads
the file afresh, changes one entry and replaces the file (written, fsynced, renamed, directory
fsynced), so that no writer loses another's keys. Each use looks whether the file was replaced.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag

from dkey.crypto.p256 import PrivateKey
from dkey.crypto.vault.sealed_file import (
    NONCE_SIZE,
    RESTORE,
    SCRYPT_N,
    SCRYPT_P,
    SCRYPT_R,
    Entry,
    Image,
    check_aad,
    create_key_file,
    derive,
    fingerprint,
    key_aad,
    read,
    read_key_file,
    unreadable,
    unwritable,
    write,
)
from dkey.errors import EntropyError, VaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from dkey.crypto.entropy import Entropy
    from dkey.crypto.p256 import PublicKey
    from dkey.crypto.secret import Secret

__all__ = ["SoftwareVault", "create_key_file", "read_key_file"]

_LOCK_POLL_S: Final = 0.01


class SoftwareVault:
    """Named P-256 private keys, sealed in a file. Made by :meth:`create` or :meth:`open`."""

    def __init__(
        self, path: Path, kek: AESGCM, image: Image, entropy: Entropy, lock_wait_s: float
    ) -> None:
        self._path = path
        self._kek = kek
        self._image = image
        self._entropy = entropy
        self._lock_wait_s = lock_wait_s
        self._open_keys: dict[str, PrivateKey] = {}
        self._seen: tuple[int, int, int] | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        passphrase: Secret | None = None,
        key_file: Path | None = None,
        entropy: Entropy,
        lock_wait_s: float = 5.0,
    ) -> SoftwareVault:
        """Write a new, empty vault file under a passphrase or a key file (exactly one of them).

        Args:
            path: The vault file; it must not exist, its directory must.
            passphrase: At least one byte.
            key_file: A file made by :func:`create_key_file`.
            entropy: Source of salt, nonces and keys.
            lock_wait_s: How long a change waits for another process.

        Raises:
            VaultError: Both or neither were given, the file exists, or it cannot be written.
        """
        kek: dict[str, Any]
        salt = entropy.random(16).hex()
        if key_file is not None:
            kek = {"kind": "keyfile", "salt": salt}
        else:
            kek = {"kind": "scrypt", "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "salt": salt}
        cipher = derive(kek, passphrase, key_file)
        nonce = entropy.random(NONCE_SIZE)
        image = Image(kek, (nonce, cipher.encrypt(nonce, b"", check_aad(kek))), {})
        vault = cls(Path(path).resolve(), cipher, image, entropy, lock_wait_s)
        with vault._lock():
            if vault._path.exists():
                raise VaultError(
                    f"{path} exists already", hint="open it, or choose another file name"
                )
            vault._write(image)
        return vault

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        passphrase: Secret | None = None,
        key_file: Path | None = None,
        entropy: Entropy,
        lock_wait_s: float = 5.0,
    ) -> SoftwareVault:
        """Open the vault file at ``path``; the arguments are those of :meth:`create`.

        Raises:
            VaultError: The file is missing, malformed or from a newer program, asks for more
                than 64 MiB of scrypt memory, or the passphrase or key file is not its own.
        """
        place = Path(path).resolve()
        image, seen = read(place)
        cipher = derive(image.kek, passphrase, key_file)
        try:
            cipher.decrypt(*image.check, check_aad(image.kek))
        except InvalidTag as exc:
            what = "passphrase" if passphrase is not None else "key file"
            raise VaultError(
                f"the {what} does not open the vault {path}",
                hint=f"give the {what} that the vault was created with; if it is right, "
                f"the head of the file is damaged: {RESTORE}",
            ) from exc
        vault = cls(place, cipher, image, entropy, lock_wait_s)
        vault._seen = seen
        return vault

    def generate(self, key: str) -> PublicKey:
        """Make a new private key named ``key`` and return its public half.

        Raises:
            VaultError: The name is taken or unusable, or the file cannot be written.
        """
        return self._add(key, self._entropy.ephemeral())

    def import_scalar(self, key: str, scalar: Secret) -> PublicKey:
        """Take in a private key, 32 bytes big-endian, and return its public half.

        Raises:
            LocalFault: The scalar is not one of P-256.
            VaultError: The name is taken or unusable, or the file cannot be written.
        """
        return self._add(key, PrivateKey.from_scalar(scalar.reveal()))

    def names(self) -> list[str]:
        """Return the names of all keys, sorted."""
        return sorted(self._current().keys)

    def delete(self, key: str) -> None:
        """Forget the private key; a copy may remain in backups and in freed disk blocks.

        Raises:
            VaultError: No key has this name, or the file cannot be written.
        """

        def remove(keys: dict[str, Entry]) -> None:
            if keys.pop(key, None) is None:
                raise self._unknown(key)

        self._change(remove)

    def sign(self, key: str, digest: bytes) -> bytes:
        """Return the ECDSA signature of ``key`` over a SHA-256 digest: 64 bytes, r then s."""
        return self._unsealed(key).sign(digest)

    def agree(self, key: str, peer: PublicKey) -> Secret:
        """Return the ECDH shared x-coordinate of ``key`` and ``peer``, 32 bytes."""
        return self._unsealed(key).agree(peer)

    def public(self, key: str) -> PublicKey:
        """Return the public half of ``key``.

        Raises:
            VaultError: No key has this name, or its seal does not open.
        """
        return self._unsealed(key).public

    def _unsealed(self, key: str) -> PrivateKey:
        entry = self._current().keys.get(key)
        if entry is None:
            raise self._unknown(key)
        held = self._open_keys.get(key)
        if held is not None:
            return held
        try:
            scalar = self._kek.decrypt(entry.nonce, entry.sealed, key_aad(key, entry.public))
        except InvalidTag as exc:
            raise VaultError(
                f"the seal of the key {key!r} does not open: its entry was damaged, renamed or "
                "swapped",
                hint=RESTORE,
            ) from exc
        private = PrivateKey.from_scalar(scalar)
        self._open_keys[key] = private
        return private

    def _add(self, key: str, private: PrivateKey) -> PublicKey:
        if not (0 < len(key) <= 64 and key.isprintable()):
            raise VaultError(f"{key!r} cannot name a key", hint="use 1 to 64 printable characters")
        public = private.public
        nonce = self._entropy.random(NONCE_SIZE)
        sealed = self._kek.encrypt(nonce, private.scalar().reveal(), key_aad(key, public.point))

        def insert(keys: dict[str, Entry]) -> None:
            if key in keys:
                raise VaultError(
                    f"the vault has a key named {key!r} already",
                    hint="delete it first, or choose another name",
                )
            if nonce == self._image.check[0] or any(nonce == e.nonce for e in keys.values()):
                raise EntropyError("the random source repeated a nonce; nothing was written")
            keys[key] = Entry(public.point, nonce, sealed)

        self._change(insert)
        return public

    def _unknown(self, key: str) -> VaultError:
        return VaultError(
            f"the vault {self._path} holds no key named {key!r}",
            hint=f"it holds: {', '.join(sorted(self._image.keys)) or 'no keys yet'}",
        )

    def _current(self) -> Image:
        """Return the present state of the file; reads it only if it was replaced."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 - half the time of Path.stat, on the hot path
        except OSError as exc:
            raise unreadable(self._path, exc) from exc
        if fingerprint(found) != self._seen:
            image, seen = read(self._path)
            if (image.kek, image.check) != (self._image.kek, self._image.check):
                raise VaultError(
                    f"the vault {self._path} was replaced by another one",
                    hint="open it again, with the passphrase or key file of the new one",
                )
            self._adopt(image, seen)
        return self._image

    def _change(self, edit: Callable[[dict[str, Entry]], None]) -> None:
        with self._lock():
            image = self._current()
            keys = dict(image.keys)
            edit(keys)
            self._write(Image(image.kek, image.check, keys))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        path = self._path.with_name(self._path.name + ".lock")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise unwritable(self._path, exc) from exc
        try:
            deadline = time.monotonic() + self._lock_wait_s
            while not _try_lock(handle):
                if time.monotonic() >= deadline:
                    raise VaultError(
                        f"another process has been changing the vault for {self._lock_wait_s} s",
                        hint=f"end the program that holds {path}",
                    )
                time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(handle)  # releases the lock

    def _write(self, image: Image) -> None:
        """Replace the file; the lock must be held."""
        seen = write(self._path, image, after_ns=self._seen[1] if self._seen else 0)
        self._adopt(image, seen)

    def _adopt(self, image: Image, seen: tuple[int, int, int]) -> None:
        """Take ``image`` as the present state; forget unsealed keys whose entry is another."""
        before, self._image, self._seen = self._image, image, seen
        for key in [*self._open_keys]:
            if image.keys.get(key) != before.keys[key]:
                del self._open_keys[key]

    def __repr__(self) -> str:
        return f"SoftwareVault({str(self._path)!r}, {len(self._image.keys)} keys)"


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
