"""One attempt to pair the owner's phone: what its procedure asks for is decided and kept here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.features import enrolment
from dkey.lifecycle.policy import CODE_MAX_TRIES
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.pairing.owner import Cost, DeviceKey, OwnerPairingVehicle, PairedVehicle
from firmware_mock import share_rows

if TYPE_CHECKING:
    from dkey.control.owner_window import OwnerWindow
    from dkey.crypto.p256 import PublicKey
    from dkey.crypto.secret import Secret
    from dkey.crypto.spake2plus import Record
    from dkey.lifecycle.features import Enrolment, Feature
    from firmware_mock.owner_desk import OwnerDesk
    from firmware_mock.records import Credential
    from firmware_mock.vehicle import Vehicle

__all__ = ["LiveCode", "OwnerAttempt"]

_NAME: Final = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCode:
    """The code in force, from memory."""

    number: int
    code: Secret
    salt: bytes
    record: Record


class OwnerAttempt:
    """One attempt: what its procedure asks for is decided and kept here (a PairingRegister).

    Args:
        desk: Holds the window.
        vehicle: The vehicle.
        live: The code.
        number: Of this attempt in the window.
        cost: At which the code was stretched.

    Attributes:
        number: As given.
        procedure: The vehicle's end.
    """

    def __init__(
        self, desk: OwnerDesk, vehicle: Vehicle, live: LiveCode, number: int, cost: Cost
    ) -> None:
        self.number = number
        self.procedure = OwnerPairingVehicle(
            record=live.record, salt=live.salt, cost=cost, register=self, entropy=vehicle.entropy
        )
        self._desk = desk
        self._vehicle = vehicle
        self._code = live.number
        self._tried = False
        self._granted: Enrolment | None = None
        self._credential: Credential | None = None
        self._able: frozenset[Feature] | None = None

    @property
    def guessed(self) -> bool:
        """Whether a try was counted and the phone has not proved the code since."""
        return self._tried and self._granted is None

    @property
    def granted(self) -> Enrolment:
        """What the phone got."""
        if self._granted is None:
            raise LocalFault("nothing is granted yet")
        return self._granted

    @property
    def enrolled(self) -> Credential:
        """The phone's credential."""
        if self._credential is None:
            raise LocalFault("nothing is enrolled yet")
        return self._credential

    def count_try(self) -> None:
        """Count one try: first on the disk, then in the window, then the answer may leave."""
        window = self._desk.window.count(
            self.number,
            self._desk.case(),
            now_s=self._vehicle.clock(),
        )
        with self._vehicle.store.transaction() as writes:
            tries = writes.count_try(self._code)
            text = f"try {tries} of {CODE_MAX_TRIES} of code {self._code}"
            self._vehicle.keys.log(writes, "PAIRING_TRY", text=text)
        self._desk.window = window
        self._tried = True

    def admit(self, device: DeviceKey) -> PairedVehicle:
        """Say what this phone would get; keeps nothing."""
        granted = enrolment(self._desk.profile, device.capabilities, Permission.ENTRY_AND_START)
        credential = self._known(device.public_key) or replace(
            self._vehicle.keys.new_credential(
                _NAME, device.public_key, Role.OWNER, Permission.ENTRY_AND_START
            ),
            first_use=True,
        )
        self._next(credential)
        self._granted, self._credential = granted, credential
        self._able = device.capabilities.features
        return PairedVehicle(
            group_id=self._vehicle.group_id,
            public_key=self._vehicle.public_key,
            resolving_key=self._desk.resolving_key,
            owner_epoch=self._desk.owner_epoch,
            features=granted.features,
            key_name=credential.credential_id,
        )

    def enrol(self) -> None:
        """Keep the key; another one that waits for its first use makes place."""
        credential, store = self.enrolled, self._vehicle.store
        window = self._next(credential)
        with self._vehicle.keys.change() as change:
            writes = change.writes
            for other in store.credentials():
                waits = other.first_use and other.role is Role.OWNER
                if waits and other.credential_id != credential.credential_id:
                    writes.set_state(other.credential_id, CredentialState.REVOKED)
            if store.credential(credential.credential_id) is None:
                writes.add(credential)
            if self._able is not None:
                share_rows.keep_feature_set(store.file, credential.credential_id, self._able)
            writes.pair_code(self._code, credential.credential_id)
            self._vehicle.keys.log(
                writes, "OWNER_PAIRED", credential_id=credential.credential_id, text=_NAME
            )
        self._desk.window = window
        self._vehicle.reload()

    def _next(self, credential: Credential) -> OwnerWindow:
        """Return the window with this key enrolled, if that may be.

        Raises:
            PolicyRefusal: By the rules of the window.
        """
        return self._desk.window.pair(
            self.number,
            self._desk.case(),
            credential_id=credential.credential_id,
            now_s=self._vehicle.clock(),
        )

    def _known(self, public_key: PublicKey) -> Credential | None:
        """Return the credential of a phone that was torn away before it learned of it."""
        known = self._vehicle.store.credential_by_x(public_key.x)
        if known is None or (known.first_use and known.role is Role.OWNER):
            return known
        raise PolicyRefusal(
            RefusalCode.ALREADY_LINKED,
            "this key is enrolled here already",
            hint="pair with a new key",
        )
