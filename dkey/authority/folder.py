"""The authority's state folder: one SQLite file, a vault with the signing key, the admin's token.

Layout, mode 0700::

    authority.db     everything but private keys (SQLite, dkey.lifecycle.durable)
    vault.json       the authority's signing key and the key that seals the ledger
    authority.key    what opens the vault, mode 0600
    admin.token      bearer token of @authority, @dealer and @vehicle, mode 0600
    authority.lock   held while a program runs this authority: rings are in its memory
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from dkey.authority import store_schema
from dkey.authority.accounts import new_token
from dkey.crypto.kdf import hkdf
from dkey.crypto.secret import Secret
from dkey.crypto.vault.files import read_text, replace_file
from dkey.crypto.vault.software import SoftwareVault, create_key_file
from dkey.errors import FileFormatError, LocalFault
from dkey.lifecycle.durable import DurableFile, Layout
from dkey.lifecycle.ledger_schema import (
    LEDGER_COLUMNS,
    LEDGER_GAPS,
    LEDGER_SCHEMA,
    check_ledger,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dkey.crypto.entropy import Entropy
    from dkey.crypto.vault import Vault

__all__ = ["LAYOUT", "SIGNING_KEY", "Folder", "create_folder", "holds_authority", "open_folder"]

SIGNING_KEY: Final = "authority"
"""Name of the signing key in the vault."""
_SEAL: Final = "seal"
_KEY_FILE: Final = "authority.key"
_VAULT: Final = "vault.json"
_DATABASE: Final = "authority.db"
_LOCK: Final = "authority.lock"
_ADMIN: Final = "admin.token"
_TOKEN_SIZE: Final = 64

LAYOUT: Final = Layout(
    what="an authority's store",
    application_id=store_schema.APPLICATION_ID,
    migrations=((*store_schema.STATEMENTS, *LEDGER_SCHEMA),),
    columns={**store_schema.COLUMNS, **LEDGER_COLUMNS},
    gaps=(f"SELECT ({store_schema.GAPS}) + ({LEDGER_GAPS})",),
    restore="keep the file for analysis and restore a backup of the whole state folder",
    checks=(check_ledger,),
)
"""What the authority's file keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """An open state folder.

    Attributes:
        file: Everything but private keys.
        vault: Holds :data:`SIGNING_KEY`.
        seal_key: Seals the ledger, 32 bytes.
        admin_token: What authenticates the principals that are no accounts.
        lock: The open file that keeps other programs away.
    """

    file: DurableFile
    vault: Vault
    seal_key: Secret
    admin_token: Secret
    lock: BinaryIO

    def close(self) -> None:
        """Release the file and the lock; may be called twice."""
        self.file.close()
        self.lock.close()


def holds_authority(folder: Path) -> bool:
    """Return whether there is an authority in ``folder``, sound or damaged."""
    return (folder / _DATABASE).exists()


def create_folder(
    folder: Path, *, entropy: Entropy, clock: Callable[[], float] = time.time
) -> None:
    """Make an authority without accounts in ``folder``; the database comes last and whole.

    Raises:
        LocalFault: The folder holds one already, or cannot be written.
    """
    if holds_authority(folder):
        raise LocalFault(
            f"{folder} holds an authority already", hint="run it, or choose another folder"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise LocalFault(f"{folder}: {exc.strerror}", hint="choose another folder") from exc
    # What a broken attempt left was never used: there was no database.
    for name in (_KEY_FILE, _VAULT):
        with suppress(FileNotFoundError):
            (folder / name).unlink()
    create_key_file(folder / _KEY_FILE, entropy)
    vault = SoftwareVault.create(folder / _VAULT, key_file=folder / _KEY_FILE, entropy=entropy)
    vault.generate(SIGNING_KEY)
    vault.generate(_SEAL)
    replace_file(folder / _ADMIN, f"{new_token(entropy)}\n", mode=0o600)
    now_s = int(clock())
    DurableFile.create(
        folder / _DATABASE, LAYOUT, lambda file: file.put("authority", 1, now_s, now_s, None)
    )


def open_folder(folder: Path, *, entropy: Entropy) -> Folder:
    """Open the authority in ``folder``.

    Raises:
        LocalFault: There is none, another program runs it, or its store, vault or token is damaged.
    """
    if not holds_authority(folder):
        raise LocalFault(
            f"{folder} holds no authority", hint=f"make one: dkey authority init --state {folder}"
        )
    lock = _locked(folder)
    try:
        return _opened(folder, entropy, lock)
    except BaseException:
        lock.close()
        raise


def _opened(folder: Path, entropy: Entropy, lock: BinaryIO) -> Folder:
    vault = SoftwareVault.open(folder / _VAULT, key_file=folder / _KEY_FILE, entropy=entropy)
    point = vault.public(_SEAL)
    seal_key = Secret(hkdf(vault.agree(_SEAL, point).reveal(), b"", b"dkey authority ledger", 32))
    return Folder(
        admin_token=_admin_token(folder / _ADMIN),
        file=DurableFile.open(folder / _DATABASE, LAYOUT),
        vault=vault,
        seal_key=seal_key,
        lock=lock,
    )


def _locked(folder: Path) -> BinaryIO:
    """Keep other programs away: two of them would decide from different rings."""
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise LocalFault(f"{folder}: {exc.strerror}", hint="check its access rights") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(handle)
        raise LocalFault(
            f"another program runs the authority in {folder}",
            hint="ask that one, or end it first",
        ) from exc
    return os.fdopen(handle, "r+b")


def _admin_token(path: Path) -> Secret:
    text = read_text(path).strip()
    if path.stat().st_mode & 0o077:
        raise LocalFault(f"{path} is open to other users", hint=f"chmod 600 {path}")
    if len(text) != _TOKEN_SIZE:
        raise FileFormatError(f"{path} holds no token", hint="restore it from a backup")
    return Secret(text.encode())
