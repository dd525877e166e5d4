"""Which functions a vehicle, a device and a permission have in common (requirements S9, S16, S17).

The profiles are data. What a key may do is the intersection of three sets: what the vehicle has,
what the device is able to, and what its permission allows. Enrolment tells the device the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dkey.errors import PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.roles import Permission

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DK2",
    "DK2_TOUCH",
    "NEEDS",
    "PERMITTED",
    "PROFILES",
    "SYSTEMS",
    "Capabilities",
    "Enrolment",
    "Feature",
    "FeatureProfile",
    "effective",
    "enrolment",
    "pack_features",
    "parse_features",
]

CLAUSE: Final = "specs/pairing.md §5"
_OS_SIZE: Final = 32


class Feature(StrEnum):
    """A function of the key, on or off by itself (requirements S9)."""

    SHARING = "SHARING"
    TOUCH_LOCK = "TOUCH_LOCK"
    TOUCH_START = "TOUCH_START"
    PROXIMITY_LOCK = "PROXIMITY_LOCK"
    PROXIMITY_START = "PROXIMITY_START"
    REMOTE = "REMOTE"


class _Radio(StrEnum):
    NFC = "NFC"
    BLE = "BLE"
    UWB = "UWB"


NEEDS: Final[Mapping[Feature, frozenset[str]]] = MappingProxyType(
    {
        Feature.SHARING: frozenset(),
        Feature.TOUCH_LOCK: frozenset({_Radio.NFC}),
        Feature.TOUCH_START: frozenset({_Radio.NFC}),
        Feature.PROXIMITY_LOCK: frozenset({_Radio.BLE, _Radio.UWB}),
        Feature.PROXIMITY_START: frozenset({_Radio.BLE, _Radio.UWB}),
        Feature.REMOTE: frozenset({_Radio.BLE}),
    }
)
"""What a device must have for each function (requirements S11 to S15, S21)."""

_EVERYTHING: Final = frozenset(Feature)
PERMITTED: Final[Mapping[Permission, frozenset[Feature]]] = MappingProxyType(
    {
        Permission.ENTRY: _EVERYTHING - {Feature.TOUCH_START, Feature.PROXIMITY_START},
        Permission.ENTRY_AND_START: _EVERYTHING,
    }
)
"""What each permission allows (requirements S43). Who may share is a matter of roles (S46)."""

SYSTEMS: Final[Mapping[str, int]] = MappingProxyType(
    {"android": 12, "ios": 16, "linux": 5, "macos": 12, "windows": 10}
)
"""Operating systems that are served, each from this major version on (ours; S21)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureProfile:
    """What a kind of vehicle offers.

    Attributes:
        name: As people call it.
        features: Its functions.
        systems: Operating systems that it serves, with the least major version of each.
    """

    name: str
    features: frozenset[Feature]
    systems: Mapping[str, int] = field(default_factory=lambda: SYSTEMS, hash=False)

    def without(self, *features: Feature) -> FeatureProfile:
        """Return the profile with these functions switched off (requirements S27, C14)."""
        return replace(self, features=self.features - frozenset(features))


DK2: Final = FeatureProfile(name="DK2", features=_EVERYTHING)
DK2_TOUCH: Final = FeatureProfile(
    name="DK2_TOUCH",
    features=frozenset({Feature.SHARING, Feature.TOUCH_LOCK, Feature.TOUCH_START}),
)
"""Touch only; sharing is a lifecycle service and stays (requirements S16, C14)."""
PROFILES: Final[Mapping[str, FeatureProfile]] = MappingProxyType(
    {each.name: each for each in (DK2, DK2_TOUCH)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a device says of itself at enrolment (requirements S21).

    Wire: ``radios(1: bit 0 NFC, bit 1 BLE, bit 2 UWB, others 0) || system(3..32, ASCII)``.

    Attributes:
        os: Name and major version of the operating system, such as ``android 14``.
    """

    nfc: bool
    ble: bool
    uwb: bool
    os: str

    @property
    def radios(self) -> frozenset[str]:
        """The radios that it has."""
        has = {_Radio.NFC: self.nfc, _Radio.BLE: self.ble, _Radio.UWB: self.uwb}
        return frozenset(radio for radio, there in has.items() if there)

    @property
    def features(self) -> frozenset[Feature]:
        """The functions that it is able to."""
        return frozenset(f for f, needs in NEEDS.items() if needs <= self.radios)

    def to_bytes(self) -> bytes:
        """Encode.

        Raises:
            WireError: The system's name does not fit.
        """
        data = bytes((self.nfc | self.ble << 1 | self.uwb << 2,)) + self.os.encode("ascii", "?")
        if self.parse(data) != self:
            raise _malformed()
        return data

    @classmethod
    def parse(cls, data: bytes) -> Capabilities:
        """Decode exactly one value.

        Raises:
            WireError: A reserved bit, or no printable name of 3 to 32 bytes.
        """
        if not 4 <= len(data) <= 1 + _OS_SIZE or data[0] >> 3:
            raise _malformed()
        if any(not 0x20 <= byte < 0x7F for byte in data[1:]):
            raise _malformed()
        bits = data[0]
        return cls(
            nfc=bool(bits & 1), ble=bool(bits & 2), uwb=bool(bits & 4), os=data[1:].decode("ascii")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a device gets at enrolment.

    Attributes:
        features: Vehicle and device and permission.
        missing: Each function of the vehicle that the device does not get, with the reason.
    """

    features: frozenset[Feature]
    missing: Mapping[Feature, str]


def effective(
    vehicle: frozenset[Feature], device: frozenset[Feature], permission: Permission
) -> frozenset[Feature]:
    """Return what a key may do: what all three have in common (requirements S17)."""
    return vehicle & device & PERMITTED[permission]


def enrolment(vehicle: FeatureProfile, device: Capabilities, permission: Permission) -> Enrolment:
    """Check a device at enrolment (requirements S21).

    Raises:
        PolicyRefusal: DEVICE_UNSUPPORTED with the reason: the operating system is not served, or
            the device would have no function at the vehicle itself.
    """
    _check_system(vehicle, device.os)
    features = effective(vehicle.features, device.features, permission)
    missing = {
        feature: _reason(feature, device, permission)
        for feature in Feature
        if feature in vehicle.features - features
    }
    if not features - {Feature.SHARING}:
        reasons = "; ".join(sorted(set(missing.values()))) or "it offers none"
        raise PolicyRefusal(
            RefusalCode.DEVICE_UNSUPPORTED,
            f"the device can use no function of this vehicle: {reasons}",
            hint="use a device that has what is missing",
        )
    return Enrolment(features=features, missing=MappingProxyType(missing))


def _check_system(vehicle: FeatureProfile, system: str) -> None:
    name, _, version = system.lower().partition(" ")
    least = vehicle.systems.get(name)
    major = version.partition(".")[0]
    if least is None:
        raise PolicyRefusal(
            RefusalCode.DEVICE_UNSUPPORTED,
            f"the operating system {system!r} is not served",
            hint=f"use one of: {', '.join(sorted(vehicle.systems))}",
        )
    if not (major.isascii() and major.isdigit()) or int(major) < least:
        raise PolicyRefusal(
            RefusalCode.DEVICE_UNSUPPORTED,
            f"{system!r} is too old: {name} is served from version {least} on",
            hint="update the operating system",
        )


def _reason(feature: Feature, device: Capabilities, permission: Permission) -> str:
    lacks = sorted(NEEDS[feature] - device.radios)
    if lacks:
        return f"the device has no {' and no '.join(lacks)}"
    return f"the permission {permission.value} does not allow it"


def pack_features(features: frozenset[Feature]) -> bytes:
    """Return a set as one byte: bit n is the n-th function of :class:`Feature`, from 0."""
    return bytes((sum(1 << at for at, each in enumerate(Feature) if each in features),))


def parse_features(data: bytes) -> frozenset[Feature]:
    """Decode one byte of :func:`pack_features`.

    Raises:
        WireError: Not one byte, or a reserved bit.
    """
    if len(data) != 1 or data[0] >> len(Feature):
        raise WireError("a feature set is one byte without reserved bits", clause=CLAUSE)
    return frozenset(each for at, each in enumerate(Feature) if data[0] >> at & 1)


def _malformed() -> WireError:
    return WireError("capabilities are malformed", clause=CLAUSE)
