"""Codes of UCI as enums, and what they say in words.

FiRa UCI; vendor codes as public code has them (specs/ranging.md §6). A message keeps each code as
the number that came: an unknown one is no error.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = [
    "CccStatus",
    "DeviceState",
    "Reason",
    "SessionState",
    "SessionType",
    "Status",
    "describe",
    "describe_reason",
]


class Status(IntEnum):
    """Status of a response, of a session, or of one measurement."""

    OK = 0x00
    REJECTED = 0x01
    FAILED = 0x02
    SYNTAX_ERROR = 0x03
    INVALID_PARAM = 0x04
    INVALID_RANGE = 0x05
    INVALID_SIZE = 0x06
    UNKNOWN_GID = 0x07
    UNKNOWN_OID = 0x08
    READ_ONLY = 0x09
    RETRY = 0x0A
    NOT_APPLICABLE = 0x0C
    SESSION_NOT_EXIST = 0x11
    SESSION_DUPLICATE = 0x12
    SESSION_ACTIVE = 0x13
    MAX_SESSIONS = 0x14
    SESSION_NOT_CONFIGURED = 0x15
    ACTIVE_ONGOING = 0x16
    MULTICAST_FULL = 0x17
    INITIATION_TIME_TOO_OLD = 0x1A
    OK_NEGATIVE_DISTANCE = 0x1B
    INVALID_STS_INDEX = 0x1C
    TX_FAILED = 0x20
    RX_TIMEOUT = 0x21
    RX_PHY_DECODE = 0x22
    RX_PHY_TOA = 0x23
    RX_PHY_STS = 0x24
    RX_MAC_DECODE = 0x25
    RX_IE_DECODE = 0x26
    RX_IE_MISSING = 0x27
    CCC_SE_BUSY = 0x50
    CCC_LIFECYCLE = 0x51
    CCC_SESSION_CONFLICT = 0x52
    CCC_REGULATION = 0x53
    CONSISTENCY_CHECK_FAILED = 0xE1


_STATUS: Final[dict[int, str]] = {
    Status.OK: "done",
    Status.REJECTED: "the subsystem rejects this in its present state",
    Status.FAILED: "failed, the subsystem gives no cause",
    Status.SYNTAX_ERROR: "the subsystem cannot read the packet",
    Status.INVALID_PARAM: "a parameter is unknown or not supported",
    Status.INVALID_RANGE: "a value is outside its range",
    Status.INVALID_SIZE: "a payload has a wrong length",
    Status.UNKNOWN_GID: "the subsystem does not know this group of commands",
    Status.UNKNOWN_OID: "the subsystem does not know this command",
    Status.READ_ONLY: "a parameter can only be read",
    Status.RETRY: "the subsystem asks for the command again",
    Status.NOT_APPLICABLE: "not applicable to this session",
    Status.SESSION_NOT_EXIST: "there is no such session",
    Status.SESSION_DUPLICATE: "a session with this identifier is there already",
    Status.SESSION_ACTIVE: "the session is active",
    Status.MAX_SESSIONS: "the subsystem has no room for another session",
    Status.SESSION_NOT_CONFIGURED: "the session lacks mandatory parameters",
    Status.ACTIVE_ONGOING: "sessions are active",
    Status.MULTICAST_FULL: "the list of controlees is full",
    Status.INITIATION_TIME_TOO_OLD: "the start time has passed; set a later one",
    Status.OK_NEGATIVE_DISTANCE: "received, with a negative distance: attack or bad calibration",
    Status.INVALID_STS_INDEX: "the STS index was used or is out of range",
    Status.TX_FAILED: "a frame could not be sent",
    Status.RX_TIMEOUT: "nothing was received: out of range, or the parameters differ",
    Status.RX_PHY_DECODE: "a frame could not be decoded",
    Status.RX_PHY_TOA: "the time of arrival could not be found",
    Status.RX_PHY_STS: "the STS does not match: other keys or parameters, or an attack",
    Status.RX_MAC_DECODE: "the MAC could not decode or verify a frame",
    Status.RX_IE_DECODE: "an information element could not be decoded",
    Status.RX_IE_MISSING: "an information element is missing",
    Status.CCC_SE_BUSY: "the secure element is busy",
    Status.CCC_LIFECYCLE: "the ranging key is not in a state to be used",
    Status.CCC_SESSION_CONFLICT: "the session conflicts with another one",
    Status.CCC_REGULATION: "local regulation does not allow UWB here",
    Status.CONSISTENCY_CHECK_FAILED: "the subsystem found the round inconsistent: attack evidence",
}


def describe(status: int) -> str:
    """Return what a status code says, in words; also for an unknown one."""
    return _STATUS.get(status) or _unknown("status", status, vendor=0x50)


class Reason(IntEnum):
    """Why a session changed its state."""

    MANAGEMENT_COMMAND = 0x00
    MAX_ROUND_RETRIES = 0x01
    MAX_MEASUREMENTS = 0x02
    SUSPENDED_IN_BAND = 0x03
    RESUMED_IN_BAND = 0x04
    STOPPED_IN_BAND = 0x05
    SLOT_LENGTH = 0x20
    TOO_FEW_SLOTS = 0x21
    RANGING_DURATION = 0x23
    STS_CONFIG = 0x24
    SESSION_KEY_NOT_FOUND = 0x2A
    PREAMBLE_CODE = 0x2C


_REASONS: Final[dict[int, str]] = {
    Reason.MANAGEMENT_COMMAND: "a command of the host",
    Reason.MAX_ROUND_RETRIES: "too many rounds failed in a row",
    Reason.MAX_MEASUREMENTS: "all measurements that were asked for are made",
    Reason.SUSPENDED_IN_BAND: "the controller suspended the session",
    Reason.RESUMED_IN_BAND: "the controller resumed the session",
    Reason.STOPPED_IN_BAND: "the controller stopped the session",
    Reason.SLOT_LENGTH: "the slot length is not supported",
    Reason.TOO_FEW_SLOTS: "a round has too few slots for its responders",
    Reason.RANGING_DURATION: "the ranging interval does not hold a round",
    Reason.STS_CONFIG: "the STS configuration is not supported",
    Reason.SESSION_KEY_NOT_FOUND: "the session has no key",
    Reason.PREAMBLE_CODE: "the preamble code is not supported",
}


def describe_reason(reason: int) -> str:
    """Return what a reason code says, in words; also for an unknown one."""
    return _REASONS.get(reason) or _unknown("reason", reason, vendor=0x80)


def _unknown(what: str, code: int, *, vendor: int) -> str:
    origin = "vendor" if code >= vendor else "unknown"
    return f"{origin} {what} {code:02X}"


class DeviceState(IntEnum):
    """State of the subsystem."""

    READY = 0x01
    ACTIVE = 0x02
    BOOT = 0x80
    """Start-up, on some chips."""
    BOOT_LATE = 0xFE
    """Start-up, on other chips."""
    ERROR = 0xFF


class SessionState(IntEnum):
    """State of a session."""

    INIT = 0
    DEINIT = 1
    ACTIVE = 2
    IDLE = 3


class SessionType(IntEnum):
    """Type of a session."""

    FIRA_RANGING = 0x00
    FIRA_RANGING_AND_DATA = 0x01
    FIRA_DATA = 0x02
    CCC = 0xA0
    RADAR = 0xA1
    ALIRO = 0xA2
    TEST = 0xD0


class CccStatus(IntEnum):
    """Status of a round in a CCC ranging notification, one nibble."""

    OK = 0x0
    OVERFLOW = 0x1
    EXPIRED = 0x2
    BAD_FRAME = 0x3
    LISTENING = 0xD
    CONTROL_LOST = 0xF
