"""Parameters of UCI: what each identifier is called, how long its value is, and CCC capabilities.

The tables are data. Identifiers that they do not have are carried byte for byte
(specs/ranging.md §6).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from dkey.codec.uci_layout import Parameter
from dkey.errors import LocalFault, WireError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "APP_CONFIG_SIZES",
    "CHANNELS",
    "CHAPS_PER_SLOT",
    "HOP_ADAPTIVE",
    "HOP_CONTINUOUS",
    "HOP_NONE",
    "HOP_SEQUENCE_AES",
    "HOP_SEQUENCE_DEFAULT",
    "SYNC_CODES",
    "AppConfig",
    "CapId",
    "CccCapabilities",
    "DeviceConfig",
    "HoppingMode",
    "check_app_config",
    "parameter",
    "parse_parameters",
]

CLAUSE: Final = "FiRa UCI, specs/ranging.md §6"


class DeviceConfig(IntEnum):
    """Parameters of the subsystem."""

    DEVICE_STATE = 0x00
    LOW_POWER_MODE = 0x01


class AppConfig(IntEnum):
    """Parameters of a session; A0 to AF are those of CCC and Aliro sessions."""

    DEVICE_TYPE = 0x00
    RANGING_ROUND_USAGE = 0x01
    STS_CONFIG = 0x02
    MULTI_NODE_MODE = 0x03
    CHANNEL_NUMBER = 0x04
    NUMBER_OF_CONTROLEES = 0x05
    DEVICE_MAC_ADDRESS = 0x06
    DST_MAC_ADDRESS = 0x07
    SLOT_DURATION = 0x08
    RANGING_INTERVAL = 0x09
    STS_INDEX = 0x0A
    RANGING_ROUND_CONTROL = 0x0C
    AOA_RESULT_REQ = 0x0D
    SESSION_INFO_NTF_CONFIG = 0x0E
    NEAR_PROXIMITY = 0x0F
    FAR_PROXIMITY = 0x10
    DEVICE_ROLE = 0x11
    RFRAME_CONFIG = 0x12
    RSSI_REPORTING = 0x13
    PREAMBLE_CODE_INDEX = 0x14
    SFD_ID = 0x15
    PSDU_DATA_RATE = 0x16
    PREAMBLE_DURATION = 0x17
    SLOTS_PER_RR = 0x1B
    AOA_BOUND = 0x1D
    PRF_MODE = 0x1F
    SCHEDULE_MODE = 0x22
    KEY_ROTATION = 0x23
    KEY_ROTATION_RATE = 0x24
    SESSION_PRIORITY = 0x25
    MAC_ADDRESS_MODE = 0x26
    VENDOR_ID = 0x27
    STATIC_STS_IV = 0x28
    NUMBER_OF_STS_SEGMENTS = 0x29
    MAX_RR_RETRY = 0x2A
    UWB_INITIATION_TIME = 0x2B
    HOPPING_MODE = 0x2C
    BLOCK_STRIDE = 0x2D
    RESULT_REPORT_CONFIG = 0x2E
    INBAND_TERMINATION = 0x2F
    SUB_SESSION_ID = 0x30
    BPRF_PHR_DATA_RATE = 0x31
    MAX_MEASUREMENTS = 0x32
    STS_LENGTH = 0x35
    SESSION_KEY = 0x45
    SUB_SESSION_KEY = 0x46
    SESSION_TIME_BASE = 0x48
    HOP_MODE_KEY = 0xA0
    UWB_TIME0 = 0xA1
    RESPONDER_SLOT_INDEX = 0xA2
    PROTOCOL_VERSION = 0xA3
    UWB_CONFIG_ID = 0xA4
    PULSESHAPE_COMBO = 0xA5
    URSK_TTL = 0xA6
    LAST_STS_INDEX = 0xA8
    MAC_MODE = 0xA9
    URSK = 0xAA


_ONE: Final = (
    "DEVICE_TYPE RANGING_ROUND_USAGE STS_CONFIG MULTI_NODE_MODE CHANNEL_NUMBER "
    "NUMBER_OF_CONTROLEES RANGING_ROUND_CONTROL AOA_RESULT_REQ SESSION_INFO_NTF_CONFIG "
    "DEVICE_ROLE RFRAME_CONFIG RSSI_REPORTING PREAMBLE_CODE_INDEX SFD_ID PSDU_DATA_RATE "
    "PREAMBLE_DURATION SLOTS_PER_RR PRF_MODE SCHEDULE_MODE KEY_ROTATION KEY_ROTATION_RATE "
    "SESSION_PRIORITY MAC_ADDRESS_MODE NUMBER_OF_STS_SEGMENTS HOPPING_MODE BLOCK_STRIDE "
    "RESULT_REPORT_CONFIG INBAND_TERMINATION BPRF_PHR_DATA_RATE STS_LENGTH "
    "RESPONDER_SLOT_INDEX PULSESHAPE_COMBO MAC_MODE"
)
_OTHER: Final[dict[int, tuple[int, ...]]] = {
    AppConfig.DEVICE_MAC_ADDRESS: (2, 8),
    AppConfig.SLOT_DURATION: (2,),
    AppConfig.RANGING_INTERVAL: (4,),
    AppConfig.STS_INDEX: (4,),
    AppConfig.NEAR_PROXIMITY: (2,),
    AppConfig.FAR_PROXIMITY: (2,),
    AppConfig.AOA_BOUND: (8,),
    AppConfig.VENDOR_ID: (2,),
    AppConfig.STATIC_STS_IV: (6,),
    AppConfig.MAX_RR_RETRY: (2,),
    AppConfig.SUB_SESSION_ID: (4,),
    AppConfig.MAX_MEASUREMENTS: (2,),
    AppConfig.SESSION_KEY: (16, 32),
    AppConfig.SUB_SESSION_KEY: (16, 32),
    AppConfig.SESSION_TIME_BASE: (9,),
    AppConfig.HOP_MODE_KEY: (4, 16),
    AppConfig.UWB_TIME0: (8,),
    AppConfig.PROTOCOL_VERSION: (2,),
    AppConfig.UWB_CONFIG_ID: (2,),
    AppConfig.URSK_TTL: (2,),
    AppConfig.LAST_STS_INDEX: (4,),
    AppConfig.URSK: (32,),
}
APP_CONFIG_SIZES: Final[dict[int, tuple[int, ...]]] = {
    **{AppConfig[name]: (1,) for name in _ONE.split()},
    **_OTHER,
}
"""Lengths that a value may have. UWB_INITIATION_TIME depends on the version, DST_MAC_ADDRESS on
the number of controlees. A hopping key has 16 bytes on some subsystems and 4 on others."""


class HoppingMode(IntEnum):
    """Value of HOPPING_MODE for CCC and Aliro sessions."""

    NONE = 0
    ADAPTIVE_DEFAULT = 2
    CONTINUOUS_DEFAULT = 3
    ADAPTIVE_AES = 4
    CONTINUOUS_AES = 5


def _sizes(number: int, uci_major: int) -> tuple[int, ...] | None:
    if number == AppConfig.UWB_INITIATION_TIME:
        return (4,) if uci_major < 2 else (8,)
    return APP_CONFIG_SIZES.get(number)


def _fits(number: int, size: int, uci_major: int) -> bool:
    if number == AppConfig.DST_MAC_ADDRESS:
        return size > 0 and (size % 2 == 0)
    sizes = _sizes(number, uci_major)
    return sizes is None or size in sizes


def parameter(number: AppConfig, value: int | bytes, *, uci_major: int = 1) -> Parameter:
    """Return one session parameter.

    Args:
        number: Which.
        value: A number, encoded little-endian in the shortest length that the parameter may have;
            or its bytes as on the wire.
        uci_major: Version of the subsystem: UWB_INITIATION_TIME has 4 bytes on UCI 1, 8 on UCI 2.

    Raises:
        LocalFault: The value does not fit the parameter.
    """
    if isinstance(value, int):
        sizes = _sizes(number, uci_major)
        if sizes is None or not 0 <= value < 1 << 8 * sizes[0]:
            raise LocalFault(f"{number.name} cannot be {value}", clause=CLAUSE)
        value = value.to_bytes(sizes[0], "little")
    if not _fits(number, len(value), uci_major):
        raise LocalFault(f"{number.name} cannot have {len(value)} bytes", clause=CLAUSE)
    return Parameter(number, value)


def check_app_config(parameters: Iterable[Parameter], *, uci_major: int = 1) -> None:
    """Check the lengths of all known parameters, and that none stands twice.

    Raises:
        WireError: One has another length, or stands twice.
    """
    seen: set[int] = set()
    for each in parameters:
        if each.id in seen:
            raise WireError(f"parameter {each.id:02X} stands twice", clause=CLAUSE)
        seen.add(each.id)
        if not _fits(each.id, len(each.value), uci_major):
            raise WireError(
                f"parameter {each.id:02X} cannot have {len(each.value)} bytes", clause=CLAUSE
            )


def parse_parameters(data: bytes) -> tuple[Parameter, ...]:
    """Decode a bare list, ``id(1) || length(1) || value`` until the end, without its count.

    Raises:
        WireError: It ends inside a parameter.
    """
    found: list[Parameter] = []
    at = 0
    while at < len(data):
        end = at + 2 + data[at + 1] if at + 1 < len(data) else len(data) + 1
        if end > len(data):
            raise WireError("a list of parameters ends inside one", clause=CLAUSE)
        found.append(Parameter(data[at], data[at + 2 : end]))
        at = end
    return tuple(found)


# --- capabilities -------------------------------------------------------------------------------


class CapId(IntEnum):
    """Capabilities for CCC and Aliro sessions; 00 to 13 are FiRa's."""

    CHAPS_PER_SLOT = 0xA0
    SYNC_CODES = 0xA1
    HOPPING = 0xA2
    CHANNELS = 0xA3
    PROTOCOL_VERSIONS = 0xA4
    UWB_CONFIGS = 0xA5
    PULSE_SHAPES = 0xA6
    RAN_MULTIPLIER = 0xA7
    MAX_SESSIONS = 0xA8
    MIN_INITIATION_TIME = 0xA9


CHAPS_PER_SLOT: Final = (3, 4, 6, 8, 9, 12, 24)
"""Slot lengths in chaps; the place in this table is the bit in a capability bitmask."""
CHANNELS: Final = (5, 9)
"""UWB channels; the place in this table is the bit in a capability bitmask."""
SYNC_CODES: Final = range(1, 33)
"""Preamble codes; code n is bit n-1 of a capability bitmask."""
HOP_NONE: Final = 0x80
HOP_CONTINUOUS: Final = 0x40
HOP_ADAPTIVE: Final = 0x20
HOP_SEQUENCE_DEFAULT: Final = 0x10
HOP_SEQUENCE_AES: Final = 0x08
"""Public sources swap the last two; this reading is AOSP's (specs/ranging.md §6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CccCapabilities:
    """What a subsystem says that it can do in CCC and Aliro sessions.

    Attributes:
        chaps_per_slot: Slot lengths.
        sync_codes: Preamble codes, 1..32.
        hopping: Bitmask of the HOP constants.
        channels: UWB channels.
        protocol_versions: Each 2 bytes as a number, major in the high byte.
        uwb_configs: Configurations.
        pulse_shapes: Initiator's in the high nibble.
        ran_multiplier: The lowest it keeps up with; None where it does not say.
        max_sessions: None where it does not say.
        min_initiation_ms: None where it does not say.
    """

    chaps_per_slot: frozenset[int] = frozenset()
    sync_codes: frozenset[int] = frozenset()
    hopping: int = 0
    channels: frozenset[int] = frozenset()
    protocol_versions: tuple[int, ...] = ()
    uwb_configs: frozenset[int] = frozenset()
    pulse_shapes: frozenset[int] = frozenset()
    ran_multiplier: int | None = None
    max_sessions: int | None = None
    min_initiation_ms: int | None = None

    @classmethod
    def of(cls, capabilities: Iterable[Parameter]) -> CccCapabilities:
        """Read the CCC part of a capability list; all others are ignored."""
        by_id = {each.id: each for each in capabilities}

        def number(which: CapId) -> int:
            return by_id[which].number if which in by_id else 0

        def stated(which: CapId) -> int | None:
            return by_id[which].number if which in by_id else None

        def octets(which: CapId) -> bytes:
            return by_id[which].value if which in by_id else b""

        versions = octets(CapId.PROTOCOL_VERSIONS)
        return cls(
            chaps_per_slot=_bits(number(CapId.CHAPS_PER_SLOT), CHAPS_PER_SLOT),
            sync_codes=_bits(number(CapId.SYNC_CODES), SYNC_CODES),
            hopping=number(CapId.HOPPING),
            channels=_bits(number(CapId.CHANNELS), CHANNELS),
            protocol_versions=tuple(
                int.from_bytes(versions[at : at + 2], "big") for at in range(0, len(versions), 2)
            ),
            uwb_configs=frozenset(octets(CapId.UWB_CONFIGS)),
            pulse_shapes=frozenset(octets(CapId.PULSE_SHAPES)),
            ran_multiplier=stated(CapId.RAN_MULTIPLIER),
            max_sessions=stated(CapId.MAX_SESSIONS),
            min_initiation_ms=stated(CapId.MIN_INITIATION_TIME),
        )


def _bits(mask: int, meanings: range | tuple[int, ...]) -> frozenset[int]:
    return frozenset(each for at, each in enumerate(meanings) if mask >> at & 1)
