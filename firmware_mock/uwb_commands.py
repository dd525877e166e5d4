"""What a virtual UWB chip answers to each UCI command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dkey.codec import uci_core as core
from dkey.codec import uci_session as told
from dkey.codec.uci_layout import IdStatus, Parameter
from dkey.codec.uci_params import CapId, DeviceConfig
from dkey.codec.uci_status import Status
from firmware_mock.uwb_chip import SESSIONS_MAX, UwbChip

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.codec.uci_layout import Body

__all__ = ["CAPABILITIES", "COMMANDS"]

_LITTLE_ENDIAN_BITS: Final = (
    (CapId.CHAPS_PER_SLOT, 0x7F, 1),
    (CapId.SYNC_CODES, 0x00FFFF00, 4),
    (CapId.HOPPING, 0x80 | 0x40 | 0x20 | 0x10, 1),
    (CapId.CHANNELS, 0b11, 1),
)
CAPABILITIES: Final = (
    *(Parameter(id_, value.to_bytes(size, "little")) for id_, value, size in _LITTLE_ENDIAN_BITS),
    Parameter(CapId.PROTOCOL_VERSIONS, b"\x01\x00"),
    Parameter(CapId.UWB_CONFIGS, b"\x00\x01"),
    Parameter(CapId.PULSE_SHAPES, bytes((0x00, 0x11, 0x22))),
    Parameter(CapId.RAN_MULTIPLIER, b"\x01"),
    Parameter(CapId.MAX_SESSIONS, bytes((SESSIONS_MAX,))),
)


def _reset(chip: UwbChip, cmd: Any) -> Body:
    if cmd.reset_config:
        return core.StatusOnly(status=Status.INVALID_PARAM)
    chip.reset()
    return core.StatusOnly(status=Status.OK)


def _device_info(chip: UwbChip, _cmd: Any) -> Body:
    return core.DeviceInfoRsp(
        status=Status.OK,
        uci_version=chip.uci_major,
        mac_version=1,
        phy_version=1,
        test_version=1,
    )


def _caps(_chip: UwbChip, _cmd: Any) -> Body:
    return core.CapsInfoRsp(status=Status.OK, capabilities=CAPABILITIES)


def _set_config(chip: UwbChip, cmd: Any) -> Body:
    wrong = tuple(
        IdStatus(each.id, Status.READ_ONLY if each.id == 0 else Status.INVALID_PARAM)
        for each in cmd.parameters
        if each.id != DeviceConfig.LOW_POWER_MODE or each.value not in (b"\x00", b"\x01")
    )
    if not wrong:
        chip.config |= {each.id: each for each in cmd.parameters}
    return core.SetConfigRsp(status=Status.INVALID_PARAM if wrong else Status.OK, rejected=wrong)


def _get_config(chip: UwbChip, cmd: Any) -> Body:
    state = Parameter(DeviceConfig.DEVICE_STATE, bytes((chip.state,)))
    known = {**chip.config, DeviceConfig.DEVICE_STATE: state}
    found = tuple(known[each] for each in dict.fromkeys(cmd.ids) if each in known)
    status = Status.OK if {*cmd.ids} <= known.keys() else Status.INVALID_PARAM
    return core.GetConfigRsp(status=status, parameters=found)


def _timestamp(chip: UwbChip, _cmd: Any) -> Body:
    return core.TimestampRsp(status=Status.OK, timestamp_us=chip.now_us)


def _init(chip: UwbChip, cmd: Any) -> Body:
    status, token = chip.init(cmd.session_id, cmd.session_type)
    handle = token if chip.uci_major > 1 and status is Status.OK else None
    return told.SessionInitRsp(status=status, handle=handle)


def _deinit(chip: UwbChip, cmd: Any) -> Body:
    return core.StatusOnly(status=chip.deinit(cmd.token))


def _configure(chip: UwbChip, cmd: Any) -> Body:
    status, wrong = chip.configure(cmd.token, cmd.parameters)
    return told.SetAppConfigRsp(status=status, rejected=wrong)


def _configuration(chip: UwbChip, cmd: Any) -> Body:
    status, found = chip.configuration(cmd.token, cmd.ids)
    return told.AppConfigRsp(status=status, parameters=found)


def _count(chip: UwbChip, _cmd: Any) -> Body:
    return told.CountRsp(status=Status.OK, count=len(chip.sessions))


def _state(chip: UwbChip, cmd: Any) -> Body:
    session = chip.sessions.get(cmd.token)
    if session is None:
        return core.StatusOnly(status=Status.SESSION_NOT_EXIST)
    said = session.state if chip.faults.state is None else chip.faults.state
    return told.SessionStateRsp(status=Status.OK, state=said)


def _start(chip: UwbChip, cmd: Any) -> Body:
    return core.StatusOnly(status=chip.start(cmd.token))


def _stop(chip: UwbChip, cmd: Any) -> Body:
    return core.StatusOnly(status=chip.stop(cmd.token))


def _rounds(chip: UwbChip, cmd: Any) -> Body:
    session = chip.sessions.get(cmd.token)
    if session is None:
        return core.StatusOnly(status=Status.SESSION_NOT_EXIST)
    return told.RangingCountRsp(status=Status.OK, count=session.rounds)


COMMANDS: Final[dict[str, Callable[[UwbChip, Any], Body]]] = {
    "DEVICE_RESET": _reset,
    "GET_DEVICE_INFO": _device_info,
    "GET_CAPS_INFO": _caps,
    "SET_CONFIG": _set_config,
    "GET_CONFIG": _get_config,
    "QUERY_UWBS_TIMESTAMP": _timestamp,
    "SESSION_INIT": _init,
    "SESSION_DEINIT": _deinit,
    "SET_APP_CONFIG": _configure,
    "GET_APP_CONFIG": _configuration,
    "GET_COUNT": _count,
    "GET_STATE": _state,
    "RANGE_START": _start,
    "RANGE_STOP": _stop,
    "GET_RANGING_COUNT": _rounds,
    "RANGE_RESUME": _start,
}
"""Name of a command to what answers it; it may let the chip notify."""
