"""The vehicles that the authority serves: number, market, profile, key, service mode."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dkey.authority.accounts import UnknownError, token_hash
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.flags import Flags
from dkey.lifecycle.telematic import TelematicProfile
from dkey.lifecycle.vehicle_number import check_vin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.crypto.secret import Secret
    from dkey.lifecycle.durable import DurableFile

__all__ = ["PROFILE_FLAGS", "VehicleRecord", "Vehicles"]

_NUMBER_SIZE: Final = 16
PROFILE_FLAGS: Final[Mapping[str, Flags]] = MappingProxyType(
    {
        "DK1": Flags(remote_handover=True),
        "DK2": Flags(),
        "DK2_TOUCH": Flags(),
        **{profile.value: Flags() for profile in TelematicProfile},
    }
)
"""What kinds of vehicles are served, and how their keys are governed.

Only a first-generation vehicle hands a key to a provider (requirements S7, S109, C34).
"""
_COLUMNS: Final = (
    "vehicle, vin, market, profile, public_key, token_hash, service_mode, registered_s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleRecord:
    """One vehicle.

    Attributes:
        vehicle: Vehicle identifier, 16 bytes; another head unit is another vehicle (S132).
        vin: Vehicle identification number.
        market: Where it was built for.
        profile: A key of :data:`PROFILE_FLAGS`.
        public_key: The vehicle's reader key, 65 bytes.
        service_mode: Whether it is in service mode (S73).
        registered_s: When it was registered, seconds since 1970.
    """

    vehicle: bytes
    vin: str
    market: str
    profile: str
    public_key: bytes
    service_mode: bool
    registered_s: int

    @property
    def flags(self) -> Flags:
        """How its keys are governed."""
        return PROFILE_FLAGS[self.profile]

    def check_service_mode(self) -> None:
        """Check that the vehicle can be enrolled now.

        Raises:
            PolicyRefusal: SERVICE_MODE.
        """
        if self.service_mode:
            raise PolicyRefusal(
                RefusalCode.SERVICE_MODE,
                "the vehicle is in service mode",
                hint="the authority has to take it out of service mode",
            )


class Vehicles:
    """The table of vehicles; everything that writes needs an open transaction."""

    def __init__(self, file: DurableFile) -> None:
        self._file = file

    def register(self, record: VehicleRecord, token: Secret) -> None:
        """Take in a vehicle, with the token that it authenticates itself with.

        Raises:
            LocalFault: An unknown profile or a malformed identifier.
            PolicyRefusal: WRONG_VIN, WRONG_MARKET, SERVICE_MODE; ALREADY_LINKED for an identifier
                or number that is taken.
        """
        if len(record.vehicle) != _NUMBER_SIZE:
            raise LocalFault("a vehicle identifier has 16 bytes", hint="give its group identifier")
        if record.profile not in PROFILE_FLAGS:
            raise LocalFault(
                f"there is no profile {record.profile!r}", hint=f"use: {', '.join(PROFILE_FLAGS)}"
            )
        check_vin(record.vin, record.market)
        record.check_service_mode()
        taken = self._file.rows(
            "SELECT 1 FROM vehicle WHERE vehicle = ? OR vin = ?", record.vehicle, record.vin
        )
        if taken:
            raise PolicyRefusal(
                RefusalCode.ALREADY_LINKED,
                "the vehicle is registered already",
                hint="use it as it is, or check the number",
            )
        self._put(record, token_hash(token.reveal().decode()))

    def find(self, vehicle: bytes) -> VehicleRecord:
        """Return one vehicle.

        Raises:
            UnknownError: It is not registered.
        """
        record, _ = self._row(vehicle)
        return record

    def all(self) -> list[VehicleRecord]:
        """Return every vehicle, in the order of registration."""
        rows = self._file.rows(f"SELECT {_COLUMNS} FROM vehicle ORDER BY rowid")  # noqa: S608 - names of this module
        return [_record(row) for row in rows]

    def authenticates(self, vehicle: bytes, token: str) -> bool:
        """Return whether ``token`` is that of the vehicle, in constant time."""
        try:
            _, kept = self._row(vehicle)
        except UnknownError:
            return False
        return hmac.compare_digest(kept, token_hash(token))

    def set_service_mode(self, vehicle: bytes, *, on: bool) -> None:
        """Record that a vehicle went into, or came out of, service mode."""
        record, kept = self._row(vehicle)
        self._file.update("vehicle", *_columns(record, kept)[:6], int(on), record.registered_s)

    def _put(self, record: VehicleRecord, kept: bytes) -> None:
        self._file.put("vehicle", *_columns(record, kept))

    def _row(self, vehicle: bytes) -> tuple[VehicleRecord, bytes]:
        rows = self._file.rows(f"SELECT {_COLUMNS} FROM vehicle WHERE vehicle = ?", vehicle)  # noqa: S608 - names of this module
        if not rows:
            raise UnknownError(
                f"there is no vehicle {vehicle.hex()} here", hint="register it first"
            )
        return _record(rows[0]), bytes(rows[0][5])


def _record(row: tuple[object, ...]) -> VehicleRecord:
    names = [name for name in _COLUMNS.split(", ") if name != "token_hash"]
    values = dict(zip(names, (*row[:5], bool(row[6]), row[7]), strict=True))
    return VehicleRecord(**values)  # type: ignore[arg-type]


def _columns(record: VehicleRecord, kept: bytes) -> tuple[str | bytes | int, ...]:
    return (
        record.vehicle,
        record.vin,
        record.market,
        record.profile,
        record.public_key,
        kept,
        int(record.service_mode),
        record.registered_s,
    )
