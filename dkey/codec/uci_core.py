"""UCI groups 0 (core) and C (Android): bodies of commands, responses and notifications."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import construct as c

from dkey.codec.uci_layout import (
    Body,
    IdStatus,
    Parameter,
    id_list,
    id_status_list,
    parameter_list,
)

__all__ = [
    "CapsInfoRsp",
    "CountryCodeCmd",
    "DeviceInfoRsp",
    "DeviceResetCmd",
    "DeviceStatusNtf",
    "Empty",
    "GetConfigCmd",
    "GetConfigRsp",
    "PowerStatsRsp",
    "SetConfigCmd",
    "SetConfigRsp",
    "StatusOnly",
    "TimestampRsp",
]

_EMPTY = c.Struct()
_STATUS = c.Struct("status" / c.Int8ul)


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty(Body):
    """A payload without fields."""

    LAYOUT: ClassVar[Any] = _EMPTY


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusOnly(Body):
    """status(1): the response to most commands, and the generic error notification."""

    LAYOUT: ClassVar[Any] = _STATUS

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceResetCmd(Body):
    """reset_config(1): 0 resets the whole subsystem."""

    LAYOUT: ClassVar[Any] = c.Struct("reset_config" / c.Int8ul)

    reset_config: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatusNtf(Body):
    """state(1), a :class:`~dkey.codec.uci_status.DeviceState` or a vendor's."""

    LAYOUT: ClassVar[Any] = c.Struct("state" / c.Int8ul)

    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfoRsp(Body):
    """status(1) || UCI(2) || MAC(2) || PHY(2) || test version(2) || n(1) || vendor bytes.

    Attributes:
        status: 0 is good.
        uci_version: Major in the low byte, minor and maintenance in the high one.
        mac_version, phy_version, test_version: Likewise.
        vendor: Opaque.
    """

    LAYOUT: ClassVar[Any] = c.Struct(
        "status" / c.Int8ul,
        "uci_version" / c.Int16ul,
        "mac_version" / c.Int16ul,
        "phy_version" / c.Int16ul,
        "test_version" / c.Int16ul,
        "vendor" / c.Prefixed(c.Int8ul, c.GreedyBytes),
    )

    status: int
    uci_version: int
    mac_version: int = 0
    phy_version: int = 0
    test_version: int = 0
    vendor: bytes = b""

    @property
    def uci_major(self) -> int:
        """Major version of UCI: 1 or 2."""
        return self.uci_version & 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class CapsInfoRsp(Body):
    """status(1) || n(1) || n capabilities."""

    LAYOUT: ClassVar[Any] = c.Struct("status" / c.Int8ul, "capabilities" / parameter_list())

    status: int
    capabilities: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConfigCmd(Body):
    """n(1) || n parameters."""

    LAYOUT: ClassVar[Any] = c.Struct("parameters" / parameter_list())

    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConfigRsp(Body):
    """status(1) || n(1) || n of id(1), status(1): the parameters that were not taken."""

    LAYOUT: ClassVar[Any] = c.Struct("status" / c.Int8ul, "rejected" / id_status_list())

    status: int
    rejected: tuple[IdStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GetConfigCmd(Body):
    """n(1) || n identifiers."""

    LAYOUT: ClassVar[Any] = c.Struct("ids" / id_list())

    ids: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GetConfigRsp(Body):
    """status(1) || n(1) || n parameters."""

    LAYOUT: ClassVar[Any] = c.Struct("status" / c.Int8ul, "parameters" / parameter_list())

    status: int
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampRsp(Body):
    """status(1) || subsystem time(8), microseconds."""

    LAYOUT: ClassVar[Any] = c.Struct("status" / c.Int8ul, "timestamp_us" / c.Int64ul)

    status: int
    timestamp_us: int


# --- group C ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerStatsRsp(Body):
    """status(1) || idle(4) || transmit(4) || receive(4) || wake-ups(4); times in milliseconds."""

    LAYOUT: ClassVar[Any] = c.Struct(
        "status" / c.Int8ul,
        "idle_ms" / c.Int32ul,
        "transmit_ms" / c.Int32ul,
        "receive_ms" / c.Int32ul,
        "wake_count" / c.Int32ul,
    )

    status: int
    idle_ms: int
    transmit_ms: int
    receive_ms: int
    wake_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountryCodeCmd(Body):
    """country(2): two ASCII letters, which rules of regulation apply."""

    LAYOUT: ClassVar[Any] = c.Struct("country" / c.Bytes(2))

    country: bytes
