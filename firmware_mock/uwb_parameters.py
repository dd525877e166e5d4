"""What a host tells a virtual UWB subsystem about a CCC or Aliro session, as UCI parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.codec.uci_layout import IdStatus, Parameter
from dkey.codec.uci_params import APP_CONFIG_SIZES, AppConfig, HoppingMode
from dkey.codec.uci_status import SessionType, Status
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault
from dkey.ranging.configuration import CHANNELS, SYNC_CODES, RangingConfiguration
from dkey.ranging.frames import ALIRO_OUI, VEHICLE_OUI
from dkey.ranging.hopping import MacMode
from firmware_mock.uwb_session import SessionParameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["INITIATOR", "MANDATORY", "OUI", "WRITE_ONLY", "check", "complete", "session_parameters"]

INITIATOR: Final = 1
_CHAP_RSTU: Final = 400
_BLOCK_MS: Final = 96
_STAMPS_RSTU: Final = 2**32 // (416 * 128)
"""67 ms: what a 32-bit count of 15.65 ps holds, in units of 416 chips of 128 ticks."""
_START_MS: Final = 20
"""A session without a start time begins this long after its start command (ours)."""

OUI: Final = {SessionType.CCC: VEHICLE_OUI, SessionType.ALIRO: ALIRO_OUI}
"""Session types that are served, and which profile's SP0 frames they send."""

MANDATORY: Final = frozenset(
    {
        AppConfig.DEVICE_TYPE,
        AppConfig.DEVICE_ROLE,
        AppConfig.CHANNEL_NUMBER,
        AppConfig.NUMBER_OF_CONTROLEES,
        AppConfig.SLOT_DURATION,
        AppConfig.RANGING_INTERVAL,
        AppConfig.STS_INDEX,
        AppConfig.PREAMBLE_CODE_INDEX,
        AppConfig.SLOTS_PER_RR,
        AppConfig.HOPPING_MODE,
        AppConfig.PROTOCOL_VERSION,
        AppConfig.UWB_CONFIG_ID,
        AppConfig.PULSESHAPE_COMBO,
        AppConfig.URSK,
    }
)
"""A session with all of these is IDLE, one without is INIT."""

WRITE_ONLY: Final = frozenset({AppConfig.URSK, AppConfig.SESSION_KEY, AppConfig.SUB_SESSION_KEY})
"""Secrets, which GET_APP_CONFIG never returns."""

_HOPPING: Final = {  # continuous, adaptive
    HoppingMode.NONE: (False, False),
    HoppingMode.ADAPTIVE_DEFAULT: (False, True),
    HoppingMode.CONTINUOUS_DEFAULT: (True, False),
}
"""The AES sequence has no published formula."""

_VALUES: Final[Mapping[int, range | tuple[int, ...]]] = {
    AppConfig.DEVICE_TYPE: (0, 1),
    AppConfig.DEVICE_ROLE: (0, INITIATOR),
    AppConfig.CHANNEL_NUMBER: CHANNELS,
    AppConfig.NUMBER_OF_CONTROLEES: range(1, 11),
    AppConfig.SLOT_DURATION: range(_CHAP_RSTU, 25 * _CHAP_RSTU, _CHAP_RSTU),
    AppConfig.RANGING_INTERVAL: range(_BLOCK_MS, 256 * _BLOCK_MS, _BLOCK_MS),
    AppConfig.PREAMBLE_CODE_INDEX: SYNC_CODES,
    AppConfig.HOPPING_MODE: tuple(_HOPPING),
    AppConfig.STS_INDEX: range(2**31 - 1),
    AppConfig.RESPONDER_SLOT_INDEX: range(10),
}


def check(
    parameters: Iterable[Parameter], *, session_type: int, uci_major: int
) -> tuple[IdStatus, ...]:
    """Return which parameters are not taken, and why."""
    wrong: list[IdStatus] = []
    seen: set[int] = set()
    for each in parameters:
        status = _status(each, session_type, uci_major)
        if each.id in seen:
            status = Status.INVALID_PARAM
        seen.add(each.id)
        if status is not Status.OK:
            wrong.append(IdStatus(each.id, status))
    return tuple(wrong)


def _status(each: Parameter, session_type: int, uci_major: int) -> Status:
    sizes = APP_CONFIG_SIZES.get(each.id)
    if each.id == AppConfig.UWB_INITIATION_TIME:
        sizes = (4,) if uci_major < 2 else (8,)
    if sizes is None:
        return Status.INVALID_PARAM
    if each.id == AppConfig.LAST_STS_INDEX:
        return Status.READ_ONLY
    if len(each.value) not in sizes:
        return Status.INVALID_SIZE
    if each.id == AppConfig.MAC_MODE and each.value[0] >> 6 > 1:
        return Status.INVALID_RANGE
    allowed = _VALUES.get(each.id)
    ok = session_type in OUI and (allowed is None or each.number in allowed)
    return Status.OK if ok else Status.INVALID_RANGE


def complete(values: Mapping[int, Parameter]) -> bool:
    """Return whether all mandatory parameters are there."""
    return values.keys() >= MANDATORY


def session_parameters(
    values: Mapping[int, Parameter],
    *,
    session_id: int,
    session_type: int,
    now_ns: int,
    boot_ns: int = 0,
) -> SessionParameters:
    """Return what the chip makes of a complete set.

    Args:
        values: Parameters by identifier, each checked alone.
        session_id: From SESSION_INIT.
        session_type: From SESSION_INIT.
        now_ns: Time of the air.
        boot_ns: Time of the air at which this chip's own clock was zero.

    Raises:
        LocalFault: The values do not go together.
    """

    def number(which: AppConfig, default: int = 0) -> int:
        return values[which].number if which in values else default

    continuous, adaptive = _HOPPING[HoppingMode(number(AppConfig.HOPPING_MODE))]
    hop_key = values.get(AppConfig.HOP_MODE_KEY)
    mode = values.get(AppConfig.MAC_MODE)
    configuration = RangingConfiguration(
        protocol_version=int.from_bytes(values[AppConfig.PROTOCOL_VERSION].value, "big"),
        config_id=number(AppConfig.UWB_CONFIG_ID),
        session_id=session_id,
        sts_index0=number(AppConfig.STS_INDEX),
        responders=number(AppConfig.NUMBER_OF_CONTROLEES),
        ran_multiplier=number(AppConfig.RANGING_INTERVAL) // _BLOCK_MS,
        slots_per_round=number(AppConfig.SLOTS_PER_RR),
        chaps_per_slot=number(AppConfig.SLOT_DURATION) // _CHAP_RSTU,
        pulse_shape=number(AppConfig.PULSESHAPE_COMBO),
    )
    mac = MacMode(offset=mode.value[0] & 0x3F) if mode and mode.value[0] >> 6 else MacMode()
    if mac.offset >= configuration.rounds_per_block:
        raise LocalFault("the second round does not fit the block")
    final_rstu = (configuration.responders + 1) * configuration.chaps_per_slot * _CHAP_RSTU
    if final_rstu > _STAMPS_RSTU:
        raise LocalFault("from POLL to FINAL is longer than 32-bit time stamps can say")
    return SessionParameters(
        ursk=Secret(values[AppConfig.URSK].value),
        configuration=configuration,
        time0_ns=_time0(values, now_ns, boot_ns),
        channel=number(AppConfig.CHANNEL_NUMBER),
        sync_code=number(AppConfig.PREAMBLE_CODE_INDEX),
        hop_key=0 if hop_key is None else int.from_bytes(hop_key.value[:4], "little"),
        continuous=continuous,
        adaptive=adaptive,
        mode=mac,
        oui=OUI[SessionType(session_type)],
    )


def _time0(values: Mapping[int, Parameter], now_ns: int, boot_ns: int) -> int:
    """Return when block 0 begins: UWB_TIME0, else the initiation time, else soon."""
    if AppConfig.UWB_TIME0 in values:
        return boot_ns + values[AppConfig.UWB_TIME0].number * 1000
    initiation = values.get(AppConfig.UWB_INITIATION_TIME)
    if initiation is None:
        return now_ns + _START_MS * 1_000_000
    if len(initiation.value) == 4:
        return now_ns + initiation.number * 1_000_000
    return boot_ns + initiation.number * 1000
