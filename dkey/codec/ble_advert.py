"""What a reader advertises and its GATT values, for both profiles (Aliro 1.0 §11.3, §11.5).

Identifiers and layouts of the ``vehicle`` profile are ours (specs/ble.md §2). A device tells its
own readers by the dynamic tag, which only holders of the group resolving key can compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import construct as c
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import ECB

from dkey.errors import LocalFault, WireError

__all__ = [
    "ADVERT_SIZE",
    "ALIRO_CHOICE_UUID",
    "ALIRO_INFO_UUID",
    "ALIRO_SERVICE_UUID",
    "EXPIRY_UNAVAILABLE",
    "TAG_SIZE",
    "VEHICLE_CHOICE_UUID",
    "VEHICLE_INFO_UUID",
    "VEHICLE_RX_UUID",
    "VEHICLE_SERVICE_UUID",
    "VEHICLE_TX_UUID",
    "Advert",
    "DeviceChoice",
    "ReaderInfo",
    "VehicleAdvert",
    "dynamic_tag",
    "vehicle_tag",
]

CLAUSE: Final = "Aliro 1.0 §11.3"
CLAUSE_GATT: Final = "Aliro 1.0 §11.5"
CLAUSE_OURS: Final = "specs/ble.md §2"
ADVERT_SIZE: Final = 31
TAG_SIZE: Final = 7
NONCE_SIZE: Final = 4
VEHICLE_TAG_SIZE: Final = 5
EXPIRY_UNAVAILABLE: Final = 0xFFFFFFFF

ALIRO_SERVICE_UUID: Final = "0000fff2-0000-1000-8000-00805f9b34fb"
ALIRO_INFO_UUID: Final = "d3b5a130-9e23-4b3a-8be4-6b1ee5f980a3"
"""Read: SPSM, versions, features of the reader."""
ALIRO_CHOICE_UUID: Final = "bd4b9502-3f54-11ec-b919-0242ac120005"
"""Write: version and features that the device selects."""

VEHICLE_SERVICE_UUID: Final = "a0b699ab-062c-433a-9950-bed57e86db52"
VEHICLE_INFO_UUID: Final = "0e78f1ab-e453-4a7f-9c92-822b84ec6b24"
VEHICLE_CHOICE_UUID: Final = "e065d9f0-aff8-4047-a897-1428d95010d2"
VEHICLE_RX_UUID: Final = "f8fe0e8b-86cc-45e0-9c7e-0ce529cffd5e"
"""Write without response: chunks, device to reader (specs/ble.md §3)."""
VEHICLE_TX_UUID: Final = "264a797b-9ea8-44e3-a8dd-369768365aec"
"""Notify: chunks, reader to device (specs/ble.md §3)."""

_ALIRO_HEAD: Final = bytes.fromhex("0201061B16F2FF")
_VEHICLE_UUID: Final = bytes.fromhex(VEHICLE_SERVICE_UUID.replace("-", ""))[::-1]
_VEHICLE_HEAD: Final = bytes.fromhex("0201061B21") + _VEHICLE_UUID


def dynamic_tag(grk: bytes, address: bytes, expiry: int) -> bytes:
    """Return the dynamic tag, 7 bytes (Aliro 1.0 §11.3).

    Args:
        grk: Group resolving key, 16 bytes.
        address: Advertising address, 6 bytes, most significant first.
        expiry: The advertised expiry, unix seconds, 0..2^32-1.
    """
    if len(address) != 6:
        raise LocalFault("an advertising address has 6 bytes", clause=CLAUSE)
    return _encrypt(grk, bytes(6) + address + expiry.to_bytes(4, "big"))[:TAG_SIZE]


def vehicle_tag(grk: bytes, nonce: bytes) -> bytes:
    """Return the dynamic tag of the vehicle profile, 5 bytes (ours).

    It stands for a nonce and not for the address, which some platforms hide from a program.

    Args:
        grk: Group resolving key, 16 bytes.
        nonce: The advertised nonce, 4 bytes.
    """
    if len(nonce) != NONCE_SIZE:
        raise LocalFault(f"a nonce has {NONCE_SIZE} bytes", clause=CLAUSE_OURS)
    return _encrypt(grk, b"dkey vehicle" + nonce)[:VEHICLE_TAG_SIZE]


def _encrypt(grk: bytes, block: bytes) -> bytes:
    if len(grk) != 16:
        raise LocalFault("a group resolving key has 16 bytes", clause=CLAUSE)
    # One block under a key of its own: ECB is the bare block cipher that the clause asks for.
    encryptor = Cipher(AES128(grk), ECB()).encryptor()  # noqa: S305
    return encryptor.update(block) + encryptor.finalize()


# --- profile aliro -----------------------------------------------------------------------------

_ALIRO_DATA: Final = c.Struct(
    "flags"
    / c.BitStruct(
        "ranging" / c.Flag,
        "ble_only" / c.Flag,
        "reserved" / c.BitsInteger(1),
        "notice" / c.BitsInteger(2),
        "version" / c.BitsInteger(3),
    ),
    "tx_power_dbm" / c.Int8sb,
    "group_prefix" / c.Bytes(8),
    "sub_prefix" / c.Bytes(2),
    "expiry" / c.Int32ub,
    "reserved" / c.Int8ub,
    "tag" / c.Bytes(TAG_SIZE),
    c.Terminated,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """Advertising data of the aliro profile, 31 bytes.

    Wire: ``02 01 06 | 1B 16 F2 FF`` then flags(1) || power(1) || group(8) || sub(2) || expiry(4)
    || 00 || tag(7). Flags: 7 ranging, 6 BLE-only, 5 reserved, 4:3 notice, 2:0 version 0.

    Attributes:
        ranging: Whether the flow with ranging is offered.
        ble_only: Whether the flow without ranging is offered.
        notice: 0 none, 1 unknown error, 2 low battery, 3 sensor.
        tx_power_dbm: Transmit power at the antenna, -100..20 dBm.
        group_prefix: First 8 bytes of the reader group identifier.
        sub_prefix: First 2 bytes of the reader sub-identifier.
        expiry: Unix seconds at which the tag is renewed, or EXPIRY_UNAVAILABLE.
        tag: Dynamic tag, 7 bytes.
    """

    ranging: bool
    ble_only: bool
    notice: int = 0
    tx_power_dbm: int = 0
    group_prefix: bytes
    sub_prefix: bytes
    expiry: int = EXPIRY_UNAVAILABLE
    tag: bytes

    @property
    def service_data(self) -> bytes:
        """The 24 bytes behind the service UUID.

        Raises:
            LocalFault: A field does not fit its place.
        """
        if not -100 <= self.tx_power_dbm <= 20:
            raise LocalFault("the transmit power is -100..20 dBm", clause=CLAUSE)
        flags = {"ranging": self.ranging, "ble_only": self.ble_only, "notice": self.notice}
        fields = {name: getattr(self, name) for name in _ALIRO_FIELDS}
        fields |= {"flags": flags | {"reserved": 0, "version": 0}, "reserved": 0}
        try:
            built: bytes = _ALIRO_DATA.build(fields)
        except c.ConstructError as exc:
            raise LocalFault(f"a field of the advertising data does not fit: {exc}") from exc
        return built

    def to_bytes(self) -> bytes:
        """Encode the whole advertising data, 31 bytes."""
        return _ALIRO_HEAD + self.service_data

    @classmethod
    def parse(cls, data: bytes) -> Advert:
        """Decode the whole advertising data.

        Raises:
            WireError: Not 31 bytes of this layout, another version, or an impossible power.
        """
        if data[: len(_ALIRO_HEAD)] != _ALIRO_HEAD:
            raise WireError("not the advertising data of an Aliro reader", clause=CLAUSE)
        return cls.from_service_data(data[len(_ALIRO_HEAD) :])

    @classmethod
    def from_service_data(cls, data: bytes) -> Advert:
        """Decode the service data alone, as scanning programs get it; reserved bits are ignored.

        Raises:
            WireError: As in :meth:`parse`.
        """
        found = _parsed(_ALIRO_DATA, data, CLAUSE)
        if found.flags.version or not -100 <= found.tx_power_dbm <= 20:
            raise WireError("another advertising version, or impossible power", clause=CLAUSE)
        return cls(
            ranging=found.flags.ranging,
            ble_only=found.flags.ble_only,
            notice=int(found.flags.notice),
            **{name: found[name] for name in _ALIRO_FIELDS},
        )

    def resolves(self, grk: bytes, address: bytes) -> bool:
        """Whether a reader of the group with this resolving key advertises from ``address``."""
        return dynamic_tag(grk, address, self.expiry) == self.tag


_ALIRO_FIELDS: Final = ("tx_power_dbm", "group_prefix", "sub_prefix", "expiry", "tag")


# --- profile vehicle ---------------------------------------------------------------------------

_VEHICLE_DATA: Final = c.Struct(
    "flags"
    / c.BitStruct(
        "ranging" / c.Flag,
        "remote" / c.Flag,
        "pairing" / c.Flag,
        "reserved" / c.BitsInteger(2),
        "version" / c.BitsInteger(3),
    ),
    "nonce" / c.Bytes(NONCE_SIZE),
    "tag" / c.Bytes(VEHICLE_TAG_SIZE),
    c.Terminated,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleAdvert:
    """Advertising data of the vehicle profile, 31 bytes (ours, specs/ble.md §2).

    Wire: ``02 01 06 | 1B 21 UUID(16, little-endian)`` then flags(1) || nonce(4) || tag(5). Flags:
    7 ranging, 6 remote control, 5 owner pairing open, 4:3 reserved, 2:0 version 0. The scan
    response ``11 07 UUID`` lets platforms filter by service. Nothing stays the same for one
    vehicle: nonce and tag are renewed together with the random address.

    Attributes:
        ranging: Whether ranging is offered.
        remote: Whether remote control is offered.
        pairing: Whether an owner pairing is open at the head unit.
        nonce: 4 random bytes.
        tag: :func:`vehicle_tag` of it.
    """

    ranging: bool
    remote: bool
    pairing: bool = False
    nonce: bytes
    tag: bytes

    @property
    def service_data(self) -> bytes:
        """The 10 bytes behind the service UUID."""
        flags = {
            "ranging": self.ranging,
            "remote": self.remote,
            "pairing": self.pairing,
            "reserved": 0,
            "version": 0,
        }
        fields = {"flags": flags, "nonce": self.nonce, "tag": self.tag}
        try:
            built: bytes = _VEHICLE_DATA.build(fields)
        except c.ConstructError as exc:
            raise LocalFault(f"a field of the advertising data does not fit: {exc}") from exc
        return built

    def to_bytes(self) -> bytes:
        """Encode the whole advertising data, 31 bytes."""
        return _VEHICLE_HEAD + self.service_data

    @property
    def scan_response(self) -> bytes:
        """The scan response, 18 bytes: the complete list of one 128-bit service UUID."""
        return b"\x11\x07" + _VEHICLE_UUID

    @classmethod
    def parse(cls, data: bytes) -> VehicleAdvert:
        """Decode the whole advertising data.

        Raises:
            WireError: Not 31 bytes of this layout, or another version.
        """
        if data[: len(_VEHICLE_HEAD)] != _VEHICLE_HEAD:
            raise WireError("not the advertising data of a vehicle", clause=CLAUSE_OURS)
        return cls.from_service_data(data[len(_VEHICLE_HEAD) :])

    @classmethod
    def from_service_data(cls, data: bytes) -> VehicleAdvert:
        """Decode the service data alone; reserved bits are ignored."""
        found = _parsed(_VEHICLE_DATA, data, CLAUSE_OURS)
        if found.flags.version:
            raise WireError("another advertising version", clause=CLAUSE_OURS)
        return cls(
            ranging=found.flags.ranging,
            remote=found.flags.remote,
            pairing=found.flags.pairing,
            nonce=found.nonce,
            tag=found.tag,
        )

    def resolves(self, grk: bytes) -> bool:
        """Whether the vehicle with this group resolving key advertises."""
        return vehicle_tag(grk, self.nonce) == self.tag


# --- GATT values -------------------------------------------------------------------------------

_INFO: Final = c.Struct(
    "spsm" / c.Int16ub,
    "versions" / c.Prefixed(c.Int8ub, c.GreedyBytes),
    "features" / c.Prefixed(c.Int8ub, c.GreedyBytes),
    c.Terminated,
)
_CHOICE: Final = c.Struct(
    "version" / c.Bytes(2), "features" / c.Prefixed(c.Int8ub, c.GreedyBytes), c.Terminated
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderInfo:
    """What a device reads before it connects a channel (Aliro 1.0 §11.5).

    Wire: SPSM(2) || length(1) || versions(2 each, highest first) || length(1) || features.

    Attributes:
        spsm: L2CAP channel of the reader, 0080..00FF.
        versions: Supported versions as they stand on the wire: BLE key schedule input.
        features: Big-endian bitmap; bits 0, 1 time procedures, 2 coded PHY.
    """

    spsm: int
    versions: bytes = b"\x01\x00"
    features: bytes = b"\x00"

    def to_bytes(self) -> bytes:
        """Encode for the characteristic."""
        fields = {"spsm": self.spsm, "versions": self.versions, "features": self.features}
        built: bytes = _INFO.build(fields)
        return built

    @classmethod
    def parse(cls, data: bytes) -> ReaderInfo:
        """Decode exactly one value.

        Raises:
            WireError: Lengths that do not add up, an SPSM outside its range, no version.
        """
        found = _parsed(_INFO, data, CLAUSE_GATT)
        if not 0x80 <= found.spsm <= 0xFF or not found.versions or len(found.versions) % 2:
            raise WireError("the SPSM is 0080..00FF, versions have two bytes", clause=CLAUSE_GATT)
        return cls(spsm=found.spsm, versions=found.versions, features=found.features)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChoice:
    """What a device writes: version(2) || length(1) || features (Aliro 1.0 §11.5)."""

    version: bytes = b"\x01\x00"
    features: bytes = b"\x00"

    def to_bytes(self) -> bytes:
        """Encode for the characteristic."""
        built: bytes = _CHOICE.build({"version": self.version, "features": self.features})
        return built

    @classmethod
    def parse(cls, data: bytes) -> DeviceChoice:
        """Decode exactly one value.

        Raises:
            WireError: Lengths that do not add up.
        """
        found = _parsed(_CHOICE, data, CLAUSE_GATT)
        return cls(version=found.version, features=found.features)


def _parsed(layout: Any, data: bytes, clause: str) -> Any:
    """Parse exactly ``data``; every failure is a WireError."""
    try:
        return layout.parse(data)
    except c.ConstructError as exc:
        raise WireError("the bytes do not have the layout of the clause", clause=clause) from exc
