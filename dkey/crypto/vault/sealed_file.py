"""The file of a software vault, and the key file beside it: form, bounds, durable replacement.

File, mode 0600 (hex in lower case)::

    {"schema": "dkey.vault/1",
     "kek": {"kind": "scrypt", "n": 32768, "r": 8, "p": 1, "salt": 16 B}
          | {"kind": "keyfile", "salt": 16 B},
     "check": {"nonce": 12 B, "sealed": 16 B},
     "keys": [{"name": text, "public": 65 B, "nonce": 12 B, "sealed": 48 B}]}

The KEK is scrypt(passphrase, salt) or HKDF-SHA256(key file, salt, info = schema), 32 bytes.
``check`` is the seal of nothing, bound to ``schema`` and ``kek``; it tells a wrong passphrase from
a damaged key, also in an empty vault. Each ``sealed`` is the scalar (32 bytes) and the tag (16),
bound to schema, name and public key, so that a swapped, renamed or altered entry does not open.

Not detected: an entry that was removed, or a whole older file put back. Nothing inside the file
can tell that; a store or a peer that remembers a key's epoch can (specs/threat-model.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dkey.crypto.kdf import hkdf
from dkey.crypto.secret import Secret
from dkey.crypto.vault.files import sync_directory
from dkey.errors import VaultError

if TYPE_CHECKING:
    from dkey.crypto.entropy import Entropy

__all__ = [
    "NONCE_SIZE",
    "RESTORE",
    "SCRYPT_N",
    "SCRYPT_P",
    "SCRYPT_R",
    "Entry",
    "Image",
    "check_aad",
    "create_key_file",
    "derive",
    "fingerprint",
    "key_aad",
    "read",
    "read_key_file",
    "unreadable",
    "unwritable",
    "write",
]

SCHEMA: Final = "dkey.vault/1"
KEY_FILE_SIZE: Final = 32
NONCE_SIZE: Final = 12
SCRYPT_N: Final = 32768
SCRYPT_R: Final = 8
SCRYPT_P: Final = 1
RESTORE: Final = "restore the vault file from a backup, or pair again to get new keys"
_MAX_MEMORY: Final = 64 << 20
_MAX_R: Final = 32
_MAX_P: Final = 4
_MAX_FILE: Final = 1 << 20
_HEX: Final = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One sealed key.

    Attributes:
        public: 65 bytes.
        nonce: 12 bytes.
        sealed: 48 bytes.
    """

    public: bytes
    nonce: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Image:
    """One state of the vault file.

    Attributes:
        kek: How the KEK is derived, as in the file.
        check: Nonce (12 bytes) and seal (16) of nothing.
        keys: Name to entry, in file order.
    """

    kek: dict[str, Any]
    check: tuple[bytes, bytes]
    keys: dict[str, Entry]


def create_key_file(path: Path, entropy: Entropy) -> None:
    """Write a new key file: 32 random bytes, mode 0600. Keep a copy apart from the vault.

    Raises:
        VaultError: The file exists or cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(entropy.random(KEY_FILE_SIZE))
            file.flush()
            os.fsync(file.fileno())
        sync_directory(Path(path).parent)
    except OSError as exc:
        raise VaultError(
            f"the key file {path} cannot be created: {exc.strerror}",
            hint="choose a new file name in a directory that you may write to",
        ) from exc


def derive(kek: dict[str, Any], passphrase: Secret | None, key_file: Path | None) -> AESGCM:
    """Return the cipher under the KEK that ``kek`` describes.

    Raises:
        VaultError: Not exactly one of passphrase and key file, the wrong one of them, an empty
            passphrase, or an unusable key file.
    """
    if (passphrase is None) == (key_file is None):
        raise VaultError(
            "a vault needs a passphrase or a key file, exactly one of them",
            hint="give one; there is no default",
        )
    salt = bytes.fromhex(kek["salt"])
    if kek["kind"] == "keyfile":
        if key_file is None:
            raise VaultError("this vault is sealed with a key file", hint="give its key file")
        return AESGCM(hkdf(read_key_file(key_file).reveal(), salt, SCHEMA.encode(), 32))
    if passphrase is None:
        raise VaultError("this vault is sealed with a passphrase", hint="give its passphrase")
    if not len(passphrase):
        raise VaultError("an empty passphrase protects nothing", hint="give at least one character")
    try:
        kek_bytes = hashlib.scrypt(
            passphrase.reveal(),
            salt=salt,
            n=kek["n"],
            r=kek["r"],
            p=kek["p"],
            maxmem=_MAX_MEMORY + (1 << 20),  # OpenSSL counts some blocks of its own
            dklen=32,
        )
    except ValueError as exc:
        raise VaultError("scrypt does not take the parameters in the file", hint=RESTORE) from exc
    return AESGCM(kek_bytes)


def read_key_file(path: Path) -> Secret:
    """Return the 32 bytes of a key file that only its owner can read.

    Raises:
        VaultError: It is missing, open to others, or not a key file.
    """
    try:
        with Path(path).open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(KEY_FILE_SIZE + 1)
    except OSError as exc:
        raise VaultError(
            f"the key file {path} cannot be read: {exc.strerror}",
            hint="check the path, or create a key file for a new vault",
        ) from exc
    if mode & 0o077:
        raise VaultError(
            f"the key file {path} is open to others (mode {mode:04o})", hint=f"chmod 600 {path}"
        )
    if len(data) != KEY_FILE_SIZE:
        raise VaultError(
            f"the key file {path} is not {KEY_FILE_SIZE} bytes long",
            hint="give the file that was made together with the vault",
        )
    return Secret(data)


def check_aad(kek: dict[str, Any]) -> bytes:
    """Return what the check is bound to."""
    return json.dumps([SCHEMA, "check", kek], sort_keys=True).encode()


def key_aad(key: str, public: bytes) -> bytes:
    """Return what a sealed key is bound to."""
    return json.dumps([SCHEMA, "key", key, public.hex()]).encode()


def fingerprint(found: os.stat_result) -> tuple[int, int, int]:
    """Return what changes whenever :func:`write` replaces the file."""
    return found.st_ino, found.st_mtime_ns, found.st_size


def read(path: Path) -> tuple[Image, tuple[int, int, int]]:
    """Return the state of the file and its fingerprint; nothing is unsealed.

    Raises:
        VaultError: The file cannot be read, or does not have the form above.
    """
    try:
        with path.open("rb") as file:
            seen = fingerprint(os.fstat(file.fileno()))
            data = file.read(_MAX_FILE + 1)
    except OSError as exc:
        raise unreadable(path, exc) from exc
    if len(data) > _MAX_FILE:
        raise _malformed(path, f"it is over {_MAX_FILE} bytes")
    try:
        return _from_json(json.loads(data, object_pairs_hook=_unique)), seen
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise _malformed(path, str(exc) or type(exc).__name__) from exc


def write(path: Path, image: Image, *, after_ns: int) -> tuple[int, int, int]:
    """Replace the file durably and return its fingerprint. The caller holds the lock.

    Args:
        path: The vault file.
        image: What to write.
        after_ns: Modification time of the file that is replaced; the new one is given a later
            one, so that a reader sees the change even where the clock is coarse.

    Raises:
        VaultError: The file cannot be written; the old one is untouched.
    """
    text = json.dumps(_to_json(image), indent=1).encode() + b"\n"
    new = path.with_name(path.name + ".new")
    try:
        new.unlink(missing_ok=True)  # left by a power cut
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            at_ns = max(os.fstat(handle).st_mtime_ns, after_ns + 1)
            os.utime(handle, ns=(at_ns, at_ns))
            os.fsync(handle)
            seen = fingerprint(os.fstat(handle))
        new.replace(path)
        sync_directory(path.parent)
    except OSError as exc:
        raise unwritable(path, exc) from exc
    return seen


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _to_json(image: Image) -> dict[str, Any]:
    nonce, sealed = image.check
    return {
        "schema": SCHEMA,
        "kek": image.kek,
        "check": {"nonce": nonce.hex(), "sealed": sealed.hex()},
        "keys": [
            {
                "name": name,
                "public": entry.public.hex(),
                "nonce": entry.nonce.hex(),
                "sealed": entry.sealed.hex(),
            }
            for name, entry in image.keys.items()
        ],
    }


def _from_json(document: Any) -> Image:
    """Check the form of a vault file; raises ValueError, KeyError or TypeError."""
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']!r} is not {SCHEMA!r}")
    _exactly(document, {"schema", "kek", "check", "keys"})
    check = document["check"]
    _exactly(check, {"nonce", "sealed"})
    if not isinstance(document["keys"], list):
        raise TypeError("expected a list of keys")
    keys: dict[str, Entry] = {}
    for item in document["keys"]:
        _exactly(item, {"name", "public", "nonce", "sealed"})
        name = item["name"]
        if not isinstance(name, str) or name in keys:
            raise ValueError(f"the name {name!r} is not a text or comes twice")
        keys[name] = Entry(
            _bytes(item["public"], 65),
            _bytes(item["nonce"], NONCE_SIZE),
            _bytes(item["sealed"], 48),
        )
    opening = _bytes(check["nonce"], NONCE_SIZE), _bytes(check["sealed"], 16)
    return Image(_kek_of(document["kek"]), opening, keys)


def _kek_of(kek: Any) -> dict[str, Any]:
    """Check the KEK parameters before they cost anything."""
    if kek["kind"] == "keyfile":
        _exactly(kek, {"kind", "salt"})
    elif kek["kind"] == "scrypt":
        _exactly(kek, {"kind", "n", "r", "p", "salt"})
        n, r, p = (kek[name] for name in "nrp")
        if not all(type(value) is int and value > 0 for value in (n, r, p)) or n < 2 or n & (n - 1):
            raise ValueError("the scrypt parameters are not whole numbers that scrypt takes")
        if n * r * 128 > _MAX_MEMORY or r > _MAX_R or p > _MAX_P:
            raise ValueError("the scrypt parameters ask for over 64 MiB, r over 32 or p over 4")
    else:
        raise ValueError(f"unknown kind of KEK {kek['kind']!r}")
    _bytes(kek["salt"], 16)
    return dict(kek)


def _exactly(mapping: Any, names: set[str]) -> None:
    if not isinstance(mapping, dict) or set(mapping) != names:
        raise ValueError(f"expected exactly the members {', '.join(sorted(names))}")


def _bytes(text: Any, size: int) -> bytes:
    if not isinstance(text, str) or len(text) != 2 * size or not _HEX.fullmatch(text):
        raise ValueError(f"expected {size} bytes in lower-case hex")
    return bytes.fromhex(text)


def _malformed(path: Path, why: str) -> VaultError:
    return VaultError(
        f"{path} is not a vault file that this program reads: {why}",
        hint=f"a newer dkey may have written it; otherwise {RESTORE}",
    )


def unreadable(path: Path, exc: OSError) -> VaultError:
    """Return the error for a vault file that cannot be read."""
    return VaultError(
        f"the vault {path} cannot be read: {exc.strerror}",
        hint="check the path, or create the vault first",
    )


def unwritable(path: Path, exc: OSError) -> VaultError:
    """Return the error for a vault file that cannot be written."""
    return VaultError(
        f"the vault {path} cannot be written: {exc.strerror}",
        hint="check that the directory exists, is yours and has room",
    )
