"""UCI groups 1 and 2 without ranging data: bodies of session commands and their answers.

A *token* is the session identifier on UCI 1 and the handle from SESSION_INIT on UCI 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar, Final

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
    "AppConfigRsp",
    "Controlee",
    "ControleeStatus",
    "CountRsp",
    "DataCreditNtf",
    "DataSizeRsp",
    "DataTransferNtf",
    "GetAppConfigCmd",
    "MulticastAction",
    "MulticastCmd",
    "MulticastNtf",
    "MulticastRsp",
    "RangingCountRsp",
    "ResumeCmd",
    "SessionInitCmd",
    "SessionInitRsp",
    "SessionStateRsp",
    "SessionStatusNtf",
    "SetAppConfigCmd",
    "SetAppConfigRsp",
    "TokenCmd",
]

_STATUS: Final = "status" / c.Int8ul
_TOKEN: Final = "token" / c.Int32ul


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCmd(Body):
    """token(4): every command that names a session and nothing else."""

    LAYOUT: ClassVar[Any] = c.Struct(_TOKEN)

    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInitCmd(Body):
    """session identifier(4) || type(1)."""

    LAYOUT: ClassVar[Any] = c.Struct("session_id" / c.Int32ul, "session_type" / c.Int8ul)

    session_id: int
    session_type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInitRsp(Body):
    """status(1) || [handle(4)]: the handle on UCI 2 only.

    Attributes:
        status: 0 is good.
        handle: Token of the session; None on UCI 1, whose token is the session identifier.
    """

    LAYOUT: ClassVar[Any] = c.Struct(_STATUS, "handle" / c.Optional(c.Int32ul))
    CHECKED: ClassVar[bool] = True

    status: int
    handle: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatusNtf(Body):
    """token(4) || state(1) || reason(1)."""

    LAYOUT: ClassVar[Any] = c.Struct(_TOKEN, "state" / c.Int8ul, "reason" / c.Int8ul)

    token: int
    state: int
    reason: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAppConfigCmd(Body):
    """token(4) || n(1) || n parameters."""

    LAYOUT: ClassVar[Any] = c.Struct(_TOKEN, "parameters" / parameter_list())

    token: int
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAppConfigRsp(Body):
    """status(1) || n(1) || n of id(1), status(1): the parameters that were not taken."""

    LAYOUT: ClassVar[Any] = c.Struct(_STATUS, "rejected" / id_status_list())

    status: int
    rejected: tuple[IdStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GetAppConfigCmd(Body):
    """token(4) || n(1) || n identifiers; none asks for all."""

    LAYOUT: ClassVar[Any] = c.Struct(_TOKEN, "ids" / id_list())

    token: int
    ids: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfigRsp(Body):
    """status(1) || n(1) || n parameters."""

    LAYOUT: ClassVar[Any] = c.Struct(_STATUS, "parameters" / parameter_list())

    status: int
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRsp(Body):
    """status(1) || number of sessions(1)."""

    LAYOUT: ClassVar[Any] = c.Struct(_STATUS, "count" / c.Int8ul)

    status: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStateRsp(Body):
    """status(1) || state(1)."""

    LAYOUT: ClassVar[Any] = c.Struct(_STATUS, "state" / c.Int8ul)

    status: int
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangingCountRsp(Body):
    """status(1) || ranging rounds(4)."""

    LAYOUT: ClassVar[Any] = c.Struct(_STATUS, "count" / c.Int32ul)

    status: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSizeRsp(Body):
    """token(4) || largest data payload(2)."""

    LAYOUT: ClassVar[Any] = c.Struct(_TOKEN, "size" / c.Int16ul)

    token: int
    size: int


# --- multicast list -----------------------------------------------------------------------------


class MulticastAction(IntEnum):
    """What to do with the controlees of a list."""

    ADD = 0
    REMOVE = 1
    ADD_WITH_KEY_16 = 2
    ADD_WITH_KEY_32 = 3


@dataclass(frozen=True, slots=True)
class Controlee:
    """One controlee: address(2), sub-session(4), and a key where the action says so.

    Attributes:
        address: 0..65535.
        sub_session: 0..2^32-1.
        key: Sub-session key, 16 or 32 bytes; never shown.
    """

    address: int
    sub_session: int
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ControleeStatus:
    """What became of one controlee: address(2), status(1)."""

    address: int
    status: int


_KEY: Final = c.Switch(
    lambda this: this._._.action,  # the list of controlees is a context of its own
    {
        MulticastAction.ADD_WITH_KEY_16.value: c.Bytes(16),
        MulticastAction.ADD_WITH_KEY_32.value: c.Bytes(32),
    },
    default=c.Pass,
)
_CONTROLEES: Final = c.ExprAdapter(
    c.PrefixedArray(
        c.Int8ul, c.Struct("address" / c.Int16ul, "sub_session" / c.Int32ul, "key" / _KEY)
    ),
    lambda found, _context: tuple(Controlee(x.address, x.sub_session, x.key) for x in found),
    lambda values, _context: [
        {"address": x.address, "sub_session": x.sub_session, "key": x.key} for x in values
    ],
)
_OUTCOMES: Final = c.ExprAdapter(
    c.PrefixedArray(c.Int8ul, c.Struct("address" / c.Int16ul, "status" / c.Int8ul)),
    lambda found, _context: tuple(ControleeStatus(x.address, x.status) for x in found),
    lambda values, _context: [{"address": x.address, "status": x.status} for x in values],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MulticastCmd(Body):
    """token(4) || action(1) || n(1) || n controlees."""

    LAYOUT: ClassVar[Any] = c.Struct(_TOKEN, "action" / c.Int8ul, "controlees" / _CONTROLEES)
    CHECKED: ClassVar[bool] = True

    token: int
    action: int
    controlees: tuple[Controlee, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MulticastRsp(Body):
    """status(1) || [n(1) || n of address(2), status(1)]: the list on UCI 2 only."""

    LAYOUT: ClassVar[Any] = c.Struct(_STATUS, "outcomes" / c.Optional(_OUTCOMES))
    CHECKED: ClassVar[bool] = True

    status: int
    outcomes: tuple[ControleeStatus, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MulticastNtf(Body):
    """token(4) || n(1) || n of address(2), status(1)."""

    LAYOUT: ClassVar[Any] = c.Struct(_TOKEN, "outcomes" / _OUTCOMES)

    token: int
    outcomes: tuple[ControleeStatus, ...]


# --- group 2 ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeCmd(Body):
    """token(4) || what the vendor appends: RANGE_RESUME of CCC sessions.

    Attributes:
        token: The session.
        rest: Opaque: no public document states it.
    """

    LAYOUT: ClassVar[Any] = c.Struct(_TOKEN, "rest" / c.GreedyBytes)

    token: int
    rest: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCreditNtf(Body):
    """token(4) || credit(1): whether the next data packet may be sent."""

    LAYOUT: ClassVar[Any] = c.Struct(_TOKEN, "credit" / c.Int8ul)

    token: int
    credit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTransferNtf(Body):
    """token(4) || sequence number(2) || status(1) || transmissions(1)."""

    LAYOUT: ClassVar[Any] = c.Struct(
        _TOKEN, "sequence" / c.Int16ul, _STATUS, "transmissions" / c.Int8ul
    )

    token: int
    sequence: int
    status: int
    transmissions: int
