"""The agent's durable memory: a folder with the paired vehicles, their keys, and the history.

The folder, mode 0700::

    agent.db      paired vehicles, sealed resolving keys and Kpersistent, history (SQLite)
    vault.json    private keys (dkey.crypto.vault.software)
    vault.key     what opens the vault, mode 0600; not there when a passphrase does

Secrets in ``agent.db`` are sealed under a key that only the vault can give: HKDF over the ECDH of
the vault's key ``seal`` with itself. Folder and vault therefore belong together.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.delivery import carries_news
from dkey.access.profile import VEHICLE
from dkey.agent.key_book import KeyBook
from dkey.agent.store_schema import (
    LAYOUT,
    AgentEvent,
    KeyState,
    VehicleKey,
    kpersistent_place,
    resolving_place,
)
from dkey.crypto.kdf import hkdf
from dkey.crypto.p256 import PublicKey
from dkey.crypto.seal import Seal
from dkey.crypto.secret import Secret
from dkey.crypto.vault.software import SoftwareVault, create_key_file
from dkey.errors import LocalFault, StoreError
from dkey.lifecycle.durable import DurableFile
from dkey.lifecycle.features import Feature
from dkey.lifecycle.ledger import LedgerStore
from dkey.lifecycle.policy import LOG_RETENTION_MONTHS
from dkey.pairing.owner import PairedVehicle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dkey.crypto.entropy import Entropy

__all__ = ["AgentEvent", "AgentStore", "KeyState", "VehicleKey"]

_DATABASE: Final = "agent.db"
_VAULT: Final = "vault.json"
_KEY_FILE: Final = "vault.key"
_SEAL: Final = "seal"
_RETENTION_S: Final = LOG_RETENTION_MONTHS * 31 * 86400.0
_MAX_EVENTS: Final = 10_000
_MAX_TEXT: Final = 500


class AgentStore(LedgerStore):
    """The open store; a :class:`~dkey.access.credential.DeviceStore`. Used from one thread.

    Several processes may use one folder, as ``dkey agent run`` and a single command do.
    """

    _keys: KeyBook | None = None

    def __init__(
        self,
        file: DurableFile,
        vault: SoftwareVault,
        seal: Seal,
        entropy: Entropy,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(file)
        self._seal = seal
        self._entropy = entropy
        self._clock = clock
        self.vault = vault

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        passphrase: Secret | None = None,
        entropy: Entropy,
        create: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> AgentStore:
        """Open the store in ``folder``.

        Args:
            folder: Where it lies.
            passphrase: Opens the vault, in place of the key file in the folder.
            entropy: Source of keys and nonces.
            create: Make what is missing, where nothing is yet.
            clock: Unix seconds, for the history.

        Raises:
            StoreError: No store, a damaged one, or one that lost a part; it is not changed.
            VaultError: The passphrase or key file does not open the vault.
        """
        path = folder / _DATABASE
        if not path.exists() and not create:
            raise StoreError(
                f"there is no agent's store in {folder}",
                hint="`dkey agent pair` makes one and pairs a vehicle",
            )
        if create and not path.exists():
            _make_folder(folder)
        vault = _open_vault(folder, passphrase, entropy, may_create=not path.exists())
        seal_key = vault.public(_SEAL).point
        if not path.exists():
            if vault.names() != [_SEAL]:
                raise StoreError(
                    f"{folder} has keys in its vault, but {_DATABASE} is gone",
                    hint=LAYOUT.restore,
                )
            DurableFile.create(path, LAYOUT, lambda file: file.put("agent", 1, seal_key))
        file = DurableFile.open(path, LAYOUT)
        try:
            if file.rows("SELECT seal_key FROM agent") != [(seal_key,)]:
                raise StoreError(
                    f"{_DATABASE} and {_VAULT} in {folder} do not belong together",
                    hint=LAYOUT.restore,
                )
            seal = Seal(_seal_secret(vault, b"dkey.agent/1 seal"), entropy)
            store = cls(file, vault, seal, entropy, clock)
            store.open_ledger(_seal_secret(vault, b"dkey.agent/1 ledger"), entropy)
            store.vehicles()  # a resolving key that does not open shows now, not at the vehicle
            store._keys = KeyBook(store, clock)
        except BaseException:
            file.close()
            raise
        return store

    def close(self) -> None:
        """Keep the state of the keys and release the file. May be called twice."""
        if self._keys is not None:
            self._keys.save()
        super().close()

    @property
    def keys(self) -> KeyBook:
        """What is shared, withdrawn and carried."""
        assert self._keys is not None, "opened by open()"
        return self._keys

    @property
    def seal(self) -> Seal:
        """Seals secrets that stand in this store, each for its place."""
        return self._seal

    # --- keys -------------------------------------------------------------------------------

    def new_key(self) -> str:
        """Make a private key for a pairing and return its name; :meth:`drop_key` undoes it."""
        name = f"key-{self._entropy.random(4).hex()}"
        self.vault.generate(name)
        return name

    def drop_key(self, key: str) -> None:
        """Delete a private key that belongs to no vehicle.

        Raises:
            LocalFault: It belongs to one.
        """
        if key == _SEAL or self._file.rows("SELECT 1 FROM vehicle WHERE key = ?", key):
            raise LocalFault("this key is in use", hint="forget its vehicle instead")
        self.vault.delete(key)

    # --- vehicles ---------------------------------------------------------------------------

    def vehicles(self) -> tuple[VehicleKey, ...]:
        """Return all paired vehicles, first paired first.

        Raises:
            VaultError: A resolving key does not open.
        """
        columns = ", ".join(LAYOUT.columns["vehicle"])
        rows = self._file.rows(f"SELECT {columns} FROM vehicle ORDER BY created_s, rowid")  # noqa: S608 - constant names
        return tuple(self._vehicle_of(row) for row in rows)

    def vehicle(self, group_id: bytes) -> VehicleKey:
        """Return one paired vehicle.

        Raises:
            LocalFault: It is not paired.
        """
        for each in self.vehicles():
            if each.group_id == group_id:
                return each
        raise LocalFault(
            f"no vehicle {group_id.hex()} is paired", hint="`dkey agent status` lists them"
        )

    def add(self, vehicle: PairedVehicle, key: str) -> VehicleKey:
        """Keep a newly paired vehicle as REGISTERED, in place of an older key to the same one.

        Args:
            vehicle: What the vehicle granted.
            key: Name of the private key, made by :meth:`new_key`.

        Raises:
            VaultError: The vault has no such key.
        """
        old = [each.key for each in self.vehicles() if each.group_id == vehicle.group_id]
        with self._file.transaction():
            self.keys.drop(vehicle.group_id)
            added = self.keep(vehicle, key, "paired")
        for name in old:
            if name != key:
                self.vault.delete(name)
        return added

    def keep(self, vehicle: PairedVehicle, key: str, kind: str) -> VehicleKey:
        """Keep a vehicle as REGISTERED in place of an older key to it; a transaction is open.

        Args:
            vehicle: What was granted.
            key: Name of the private key.
            kind: How it came, for the history.

        Raises:
            VaultError: The vault has no such key.
        """
        self.vault.public(key)
        added = VehicleKey(
            vehicle=vehicle, key=key, state=KeyState.REGISTERED, created_s=float(self._clock())
        )
        self._remove(vehicle.group_id)
        self._put(added)
        self._log(kind, vehicle.group_id, None, f"owner epoch {vehicle.owner_epoch}")
        return added

    def set_state(self, group_id: bytes, state: KeyState, text: str = "") -> None:
        """Change how far a key is set up, and tell it in the history.

        Raises:
            LocalFault: The vehicle is not paired, or the state is NONE.
        """
        if state is KeyState.NONE:
            raise LocalFault("a paired vehicle has a state", hint="forget the vehicle instead")
        with self._file.transaction():
            self._put(replace(self.vehicle(group_id), state=state))
            if state is KeyState.FORGOTTEN:  # what the vehicle has forgotten can resume nothing
                self._file.delete("kpersistent", "group_id = ?", group_id)
            self._log(state.value.lower(), group_id, None, text)

    def forget(self, group_id: bytes) -> None:
        """Remove a vehicle, its keys and secrets; the history stays.

        Raises:
            LocalFault: It is not paired.
        """
        old = self.vehicle(group_id)
        with self._file.transaction():
            self.keys.drop(group_id)
            self._remove(group_id)
            self._log("removed", group_id, None, "")
        self.vault.delete(old.key)

    def credential(self, group_id: bytes) -> DeviceCredential:
        """Return the credential for one vehicle, as the access applet takes it.

        While the mailbox has something that the vehicle did not confirm, no Kpersistent is given,
        so that the next transaction is a standard one and takes delivery.

        Raises:
            LocalFault: It is not paired.
            VaultError: A Kpersistent does not open.
        """
        known = self.vehicle(group_id)
        mailbox = self.keys.carried(group_id)
        rows = self._file.rows(
            "SELECT sub_id, sealed FROM kpersistent WHERE group_id = ?", group_id
        )
        if carries_news(mailbox.data):
            rows = []
        return DeviceCredential(
            profile=VEHICLE,
            vault=self.vault,
            key=known.key,
            readers={
                group_id: TrustedReader(group_id=group_id, public_key=known.vehicle.public_key)
            },
            kpersistent={
                (group_id, sub_id): self._seal.open(sealed, kpersistent_place(group_id, sub_id))
                for sub_id, sealed in rows
            },
            mailbox=mailbox,
        )

    # --- DeviceStore ------------------------------------------------------------------------

    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        """Keep Kpersistent for one reader, replacing an older one."""
        sealed = self._seal.close(key, kpersistent_place(group_id, sub_id))
        with self._file.transaction():
            self._file.put("kpersistent", group_id, sub_id, sealed, replace=True)

    def save_mailbox(self, data: bytes) -> None:
        """Refuse: which vehicle wrote is known to :class:`dkey.agent.carried.CarriedStore`."""
        raise LocalFault(f"no mailbox keeps these {len(data)} bytes")

    # --- history ----------------------------------------------------------------------------

    def record(
        self, kind: str, *, group_id: bytes | None = None, code: str | None = None, text: str = ""
    ) -> None:
        """Add a line to the history; the oldest leave after the time that logs are kept."""
        with self._file.transaction():
            self._log(kind, group_id, code, text)

    def events(self, *, after_seq: int = 0, limit: int = 100) -> tuple[AgentEvent, ...]:
        """Return the last ``limit`` events with a higher number, oldest first."""
        rows = self._file.rows(
            "SELECT seq, t_s, kind, group_id, code, text FROM event"
            " WHERE seq > ? ORDER BY seq DESC LIMIT ?",
            after_seq,
            max(limit, 0),  # SQLite reads a negative limit as none
        )
        names = ("seq", "t_s", "kind", "group_id", "code", "text")
        return tuple(AgentEvent(**dict(zip(names, row, strict=True))) for row in reversed(rows))

    def _log(self, kind: str, group_id: bytes | None, code: str | None, text: str) -> None:
        now_s = float(self._clock())
        ((last,),) = self._file.rows("SELECT coalesce(max(seq), 0) FROM event")
        self._file.put("event", last + 1, now_s, kind, group_id, code, text[:_MAX_TEXT])
        # Up to the newest line that is too old: a clock that went back leaves no gap.
        self._file.delete(
            "event",
            "seq <= max(?, (SELECT coalesce(max(seq), 0) FROM event WHERE t_s < ? AND seq <= ?))",
            last + 1 - _MAX_EVENTS,
            now_s - _RETENTION_S,
            last,
        )

    # --- rows -------------------------------------------------------------------------------

    def _put(self, known: VehicleKey) -> None:
        vehicle = known.vehicle
        self._file.put(
            "vehicle",
            vehicle.group_id,
            vehicle.public_key.point,
            self._seal.close(vehicle.resolving_key, resolving_place(vehicle.group_id)),
            vehicle.owner_epoch,
            ",".join(sorted(vehicle.features)),
            vehicle.key_name,
            known.key,
            known.state.value,
            known.created_s,
            replace=True,
        )

    def _remove(self, group_id: bytes) -> None:
        for table in ("kpersistent", "vehicle"):
            self._file.delete(table, "group_id = ?", group_id)

    def _vehicle_of(self, row: tuple[Any, ...]) -> VehicleKey:
        group_id, point, sealed, epoch, features, key_name, key, state, created_s = row
        return VehicleKey(
            vehicle=PairedVehicle(
                group_id=group_id,
                public_key=PublicKey.parse(point),
                resolving_key=self._seal.open(sealed, resolving_place(group_id)),
                owner_epoch=epoch,
                features=frozenset(Feature(name) for name in features.split(",") if name),
                key_name=key_name,
            ),
            key=key,
            state=KeyState(state),
            created_s=created_s,
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StoreError(
            f"the folder {folder} cannot be made: {exc.strerror}",
            hint="choose another with --store",
        ) from exc


def _open_vault(
    folder: Path, passphrase: Secret | None, entropy: Entropy, *, may_create: bool
) -> SoftwareVault:
    """Open the vault; make it, its key file and the key ``seal`` where nothing is yet."""
    path, key_file = folder / _VAULT, folder / _KEY_FILE
    how: dict[str, Any] = {"entropy": entropy, "passphrase": passphrase}
    if passphrase is None:
        how["key_file"] = key_file
    if not path.exists():
        if not may_create:
            raise StoreError(f"{path} is gone: the keys went with it", hint=LAYOUT.restore)
        if passphrase is None and not key_file.exists():
            create_key_file(key_file, entropy)
        vault = SoftwareVault.create(path, **how)
    else:
        vault = SoftwareVault.open(path, **how)
    if may_create and not vault.names():
        vault.generate(_SEAL)
    return vault


def _seal_secret(vault: SoftwareVault, label: bytes) -> Secret:
    """Return a key that seals what the database keeps, 32 bytes, one for each label."""
    public = vault.public(_SEAL)
    shared = vault.agree(_SEAL, public)
    return Secret(hkdf(shared.reveal(), public.point, label, 32))
