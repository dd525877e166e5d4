"""Every UCI message that the stack knows: which body belongs to which group and opcode.

:func:`decode` never fails on a message that it does not know: that one comes back as
:class:`Opaque`, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dkey.codec import uci_core as core
from dkey.codec import uci_ranging as ranging
from dkey.codec import uci_session as session
from dkey.codec.uci import Group, Packet, PacketType
from dkey.codec.uci_layout import Body
from dkey.codec.uci_params import check_app_config
from dkey.codec.uci_status import Status
from dkey.errors import WireError

__all__ = ["MESSAGES", "Message", "Opaque", "command", "decode", "encode", "name_of"]

CLAUSE: Final = "FiRa UCI, specs/ranging.md §6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """The payload of a message that is not known here, kept as it is."""

    payload: bytes

    def to_bytes(self) -> bytes:
        """Return the payload."""
        return self.payload


Content = Body | ranging.SessionInfoNtf | Opaque
Kind = type[Body] | type[ranging.SessionInfoNtf]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One whole message.

    Attributes:
        type: Command, response, notification or data.
        group: Group, or format of a data packet.
        opcode: 0 for data.
        body: What it says.
    """

    type: PacketType
    group: int
    opcode: int
    body: Content

    @property
    def name(self) -> str:
        """Its name for people and logs."""
        return name_of(self.type, self.group, self.opcode)


_C, _R, _N, _D = (
    PacketType.COMMAND,
    PacketType.RESPONSE,
    PacketType.NOTIFICATION,
    PacketType.DATA,
)


def _exchange(
    group: int, opcode: int, name: str, asked: Kind, answered: Kind
) -> dict[tuple[PacketType, int, int], tuple[str, Kind]]:
    return {(_C, group, opcode): (name, asked), (_R, group, opcode): (name, answered)}


_CORE, _CONFIG, _CONTROL, _ANDROID = (
    Group.CORE,
    Group.SESSION_CONFIG,
    Group.SESSION_CONTROL,
    Group.ANDROID,
)
_STATUS, _TOKEN, _EMPTY = core.StatusOnly, session.TokenCmd, core.Empty
MESSAGES: Final[dict[tuple[PacketType, int, int], tuple[str, Kind]]] = {
    **_exchange(_CORE, 0x00, "DEVICE_RESET", core.DeviceResetCmd, _STATUS),
    (_N, _CORE, 0x01): ("DEVICE_STATUS", core.DeviceStatusNtf),
    **_exchange(_CORE, 0x02, "GET_DEVICE_INFO", _EMPTY, core.DeviceInfoRsp),
    **_exchange(_CORE, 0x03, "GET_CAPS_INFO", _EMPTY, core.CapsInfoRsp),
    **_exchange(_CORE, 0x04, "SET_CONFIG", core.SetConfigCmd, core.SetConfigRsp),
    **_exchange(_CORE, 0x05, "GET_CONFIG", core.GetConfigCmd, core.GetConfigRsp),
    (_N, _CORE, 0x07): ("GENERIC_ERROR", _STATUS),
    **_exchange(_CORE, 0x08, "QUERY_UWBS_TIMESTAMP", _EMPTY, core.TimestampRsp),
    **_exchange(_CONFIG, 0x00, "SESSION_INIT", session.SessionInitCmd, session.SessionInitRsp),
    **_exchange(_CONFIG, 0x01, "SESSION_DEINIT", _TOKEN, _STATUS),
    (_N, _CONFIG, 0x02): ("SESSION_STATUS", session.SessionStatusNtf),
    **_exchange(_CONFIG, 0x03, "SET_APP_CONFIG", session.SetAppConfigCmd, session.SetAppConfigRsp),
    **_exchange(_CONFIG, 0x04, "GET_APP_CONFIG", session.GetAppConfigCmd, session.AppConfigRsp),
    **_exchange(_CONFIG, 0x05, "GET_COUNT", _EMPTY, session.CountRsp),
    **_exchange(_CONFIG, 0x06, "GET_STATE", _TOKEN, session.SessionStateRsp),
    **_exchange(_CONFIG, 0x07, "UPDATE_MULTICAST_LIST", session.MulticastCmd, session.MulticastRsp),
    (_N, _CONFIG, 0x07): ("UPDATE_MULTICAST_LIST", session.MulticastNtf),
    **_exchange(_CONFIG, 0x0B, "QUERY_DATA_SIZE", _TOKEN, session.DataSizeRsp),
    **_exchange(_CONTROL, 0x00, "RANGE_START", _TOKEN, _STATUS),
    (_N, _CONTROL, 0x00): ("SESSION_INFO", ranging.SessionInfoNtf),
    **_exchange(_CONTROL, 0x01, "RANGE_STOP", _TOKEN, _STATUS),
    **_exchange(_CONTROL, 0x03, "GET_RANGING_COUNT", _TOKEN, session.RangingCountRsp),
    (_N, _CONTROL, 0x04): ("DATA_CREDIT", session.DataCreditNtf),
    (_N, _CONTROL, 0x05): ("DATA_TRANSFER_STATUS", session.DataTransferNtf),
    (_N, _CONTROL, 0x20): ("RANGE_CCC_DATA", ranging.CccControleeNtf),
    **_exchange(_CONTROL, 0x21, "RANGE_RESUME", session.ResumeCmd, _STATUS),
    **_exchange(_ANDROID, 0x00, "GET_POWER_STATS", _EMPTY, core.PowerStatsRsp),
    **_exchange(_ANDROID, 0x01, "SET_COUNTRY_CODE", core.CountryCodeCmd, _STATUS),
    (_N, _ANDROID, 0x02): ("RANGE_DIAGNOSTICS", ranging.DiagnosticsNtf),
    (_D, 1, 0): ("DATA_SEND", ranging.DataSend),
    (_D, 2, 0): ("DATA_RECEIVED", ranging.DataReceived),
}
"""Name and body of each message by packet type, group and opcode."""

_COMMANDS: Final = {
    name: (group, opcode) for (kind, group, opcode), (name, _) in MESSAGES.items() if kind is _C
}


def name_of(kind: PacketType, group: int, opcode: int) -> str:
    """Return the name of a message, or its numbers where it has none."""
    known = MESSAGES.get((kind, group, opcode))
    return known[0] if known else f"{kind.name} {group:X}:{opcode:02X}"


def command(name: str, body: Content | None = None) -> Message:
    """Return the command of this name, such as ``RANGE_START``.

    Args:
        name: As in :data:`MESSAGES`.
        body: Its content; none for a command without fields.
    """
    group, opcode = _COMMANDS[name]
    return Message(type=_C, group=group, opcode=opcode, body=body or core.Empty())


def encode(message: Message) -> Packet:
    """Return the message as one packet; :func:`dkey.codec.uci.segments` cuts a long one.

    Raises:
        LocalFault: A field does not fit.
    """
    return Packet(
        type=message.type,
        group=message.group,
        opcode=message.opcode,
        payload=message.body.to_bytes(),
    )


def decode(
    packet: Packet, *, strict: bool = True, uci_major: int = 1, initiator: bool = False
) -> Message:
    """Return what a whole message says.

    A response that is a single status other than OK is taken for any command: subsystems leave
    out the rest when they refuse.

    Args:
        packet: From :class:`dkey.codec.uci.Reassembler`.
        strict: Refuse bytes behind the known fields, and known parameters of wrong lengths.
        uci_major: Version of the subsystem, for those lengths.
        initiator: Whether this side is the initiator, whose CCC notification has other fields of
            the same length.

    Raises:
        WireError: A known message that does not have its layout.
    """
    kind, group, opcode, data = packet.type, packet.group, packet.opcode, packet.payload
    known = MESSAGES.get((kind, group, opcode))
    if packet.more:
        raise WireError("a UCI segment is no whole message", clause=CLAUSE)
    if known is None:
        return Message(type=kind, group=group, opcode=opcode, body=Opaque(payload=data))
    layout = known[1]
    if kind is _R and len(data) == 1 and data[0] != Status.OK:
        layout = core.StatusOnly
    elif layout is ranging.CccControleeNtf and initiator:
        layout = ranging.CccControllerNtf
    body = layout.parse(data, strict=strict)
    if strict and isinstance(body, session.SetAppConfigCmd | session.AppConfigRsp):
        check_app_config(body.parameters, uci_major=uci_major)
    return Message(type=kind, group=group, opcode=opcode, body=body)
