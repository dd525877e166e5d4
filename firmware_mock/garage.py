"""Where mock vehicles are kept: a folder with a key file, a vault and a store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from dkey.control.touch import Position
from dkey.crypto.entropy import SystemEntropy
from dkey.crypto.kdf import hkdf
from dkey.crypto.seal import Seal
from dkey.crypto.secret import Secret
from dkey.crypto.vault.software import SoftwareVault, create_key_file, read_key_file
from dkey.errors import LocalFault
from dkey.lifecycle.durable import connect
from firmware_mock.body import Body
from firmware_mock.store import CredentialStore, ReaderIdentity, VehicleIdentity
from firmware_mock.vehicle import READER_KEY, Vehicle

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from dkey.crypto.entropy import Entropy

__all__ = ["create_vehicle", "holds_vehicle", "open_vehicle"]

KEY_FILE: Final = "vehicle.key"
VAULT: Final = "vault.json"
STORE: Final = "vehicle.db"


def holds_vehicle(folder: Path) -> bool:
    """Return whether there is a vehicle in ``folder``, sound or damaged."""
    return (folder / STORE).exists()


def create_vehicle(
    folder: Path,
    *,
    entropy: Entropy | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
) -> Vehicle:
    """Make a vehicle that nobody owns yet in ``folder`` (mode 0700) and open it.

    Raises:
        LocalFault: The folder holds a vehicle already, or cannot be written.
    """
    source = entropy or SystemEntropy()
    if holds_vehicle(folder):
        raise LocalFault(
            f"{folder} holds a vehicle already", hint="use it, or choose another folder"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise LocalFault(f"{folder}: {exc.strerror}", hint="choose another folder") from exc
    key_file = folder / KEY_FILE
    create_key_file(key_file, source)
    vault = SoftwareVault.create(folder / VAULT, key_file=key_file, entropy=source)
    public = vault.generate(READER_KEY).point
    readers = tuple(
        ReaderIdentity(position=position, sub_id=source.random(16), public_key=public)
        for position in Position
    )
    identity = VehicleIdentity(group_id=source.random(16), readers=readers)
    CredentialStore.create(folder / STORE, identity).close()
    return open_vehicle(folder, entropy=source, clock=clock, wall_clock=wall_clock)


def open_vehicle(
    folder: Path,
    *,
    entropy: Entropy | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    connect: Callable[[Path], sqlite3.Connection] = connect,
) -> Vehicle:
    """Open the vehicle in ``folder``, parked and locked.

    Args:
        folder: Where it is kept.
        entropy: Random source.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970.
        connect: Opens the database; a simulated disk comes in here.

    Raises:
        LocalFault: There is none, or its store or vault is damaged.
    """
    if not holds_vehicle(folder):
        raise LocalFault(f"{folder} holds no vehicle", hint=f"make one: dkey vehicle init {folder}")
    source = entropy or SystemEntropy()
    key_file = folder / KEY_FILE
    vault = SoftwareVault.open(folder / VAULT, key_file=key_file, entropy=source)
    secret = read_key_file(key_file).reveal()
    seal_key, ledger_key = (
        Secret(hkdf(secret, b"", label, 32))
        for label in (b"dkey vehicle store", b"dkey vehicle ledger")
    )
    store = CredentialStore.open(folder / STORE, connect=connect)
    try:
        store.open_ledger(ledger_key, source)
        return Vehicle(
            store=store,
            vault=vault,
            seal=Seal(seal_key, source),
            body=Body(),
            entropy=source,
            clock=clock,
            wall_clock=wall_clock,
        )
    except BaseException:
        store.close()
        raise
