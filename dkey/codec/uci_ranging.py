"""UCI ranging notifications, diagnostics and data messages.

A distance is two bytes of centimetres, FFFF where there is none. With status
OK_NEGATIVE_DISTANCE it is below zero: sign and magnitude are kept apart on some subsystems and a
two's complement on others, so a magnitude below 8000 is negated and anything else is read as two's
complement (ours). It is never clamped: a negative distance is evidence of an attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import construct as c

from dkey.codec.uci_layout import Body
from dkey.codec.uci_status import Status
from dkey.errors import LocalFault, WireError

__all__ = [
    "CccControleeNtf",
    "CccControllerNtf",
    "DataReceived",
    "DataSend",
    "DiagnosticsNtf",
    "SessionInfoNtf",
    "TwrMeasurement",
    "distance_cm",
]

CLAUSE: Final = "FiRa UCI, specs/ranging.md §6"
NO_DISTANCE: Final = 0xFFFF
TWO_WAY: Final = 1
"""Ranging type of two-way ranging; the measurements of other types are carried opaquely."""
_SHORT, _EXTENDED = 0, 1
_ADDRESS_SIZES: Final = {_SHORT: 2, _EXTENDED: 8}
_RESERVED_SIZES: Final = {_SHORT: 11, _EXTENDED: 5}


def distance_cm(raw: int, status: int) -> int | None:
    """Return the signed distance in centimetres, None without one."""
    if raw == NO_DISTANCE:
        return None
    if status != Status.OK_NEGATIVE_DISTANCE:
        return raw
    return raw - 0x10000 if raw >= 0x8000 else -raw


_MEASURED: Final = c.Struct(
    "status" / c.Int8ul,
    "nlos" / c.Int8ul,
    "distance" / c.Int16ul,
    "azimuth" / c.Int16sl,
    "azimuth_fom" / c.Int8ul,
    "elevation" / c.Int16sl,
    "elevation_fom" / c.Int8ul,
    "far_azimuth" / c.Int16sl,
    "far_azimuth_fom" / c.Int8ul,
    "far_elevation" / c.Int16sl,
    "far_elevation_fom" / c.Int8ul,
    "slot" / c.Int8ul,
    "rssi" / c.Int8ul,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwrMeasurement:
    """What one responder's answer gave, 31 bytes in either form of address.

    Wire: address(2 or 8) || status(1) || NLOS(1) || distance(2) || azimuth(2), figure of merit(1)
    || elevation(2), fom(1) || the same two of the far side || slot(1) || RSSI(1) ||
    reserved(11 or 5).

    Attributes:
        address: 2 or 8 bytes as on the wire, little-endian.
        status: UCI status.
        nlos: As the subsystem encodes it, 0..255.
        distance: Raw; see :attr:`distance_cm`.
        azimuth, elevation, far_azimuth, far_elevation: Degrees in 1/128, two's complement.
        azimuth_fom, elevation_fom, far_azimuth_fom, far_elevation_fom: 0..100.
        slot: Slot of the round.
        rssi: Raw; see :attr:`rssi_dbm`.
        reserved: 11 or 5 bytes, kept.
    """

    address: bytes
    status: int
    nlos: int = 0
    distance: int = NO_DISTANCE
    azimuth: int = 0
    azimuth_fom: int = 0
    elevation: int = 0
    elevation_fom: int = 0
    far_azimuth: int = 0
    far_azimuth_fom: int = 0
    far_elevation: int = 0
    far_elevation_fom: int = 0
    slot: int = 0
    rssi: int = 0
    reserved: bytes | None = None

    @property
    def distance_cm(self) -> int | None:
        """Signed distance in centimetres, None without one."""
        return distance_cm(self.distance, self.status)

    @property
    def rssi_dbm(self) -> float | None:
        """Received power; half dBm below zero on the wire, 0 where it is not measured."""
        return -self.rssi / 2 if self.rssi else None


def _measurement(form: int) -> Any:
    """Return the layout of one measurement with a short or an extended address."""
    spare = _RESERVED_SIZES[form]
    layout = (
        c.Struct("address" / c.Bytes(_ADDRESS_SIZES[form]))
        + _MEASURED
        + c.Struct("reserved" / c.Bytes(spare))
    )
    names = TwrMeasurement.__slots__
    return c.ExprAdapter(
        layout,
        lambda found, _context: TwrMeasurement(**{name: found[name] for name in names}),
        lambda value, _context: (
            {name: getattr(value, name) for name in names}
            | {"reserved": bytes(spare) if value.reserved is None else value.reserved}
        ),
    )


_INFO_HEAD: Final = c.Struct(
    "sequence" / c.Int32ul,
    "token" / c.Int32ul,
    "rcr" / c.Int8ul,
    "interval_ms" / c.Int32ul,
    "ranging_type" / c.Int8ul,
    "reserved" / c.Bytes(1),
    "address_form" / c.Int8ul,
    "reserved_more" / c.Bytes(8),
)
_TWR: Final = {form: c.PrefixedArray(c.Int8ul, _measurement(form)) for form in _ADDRESS_SIZES}
_REST: Final = c.Struct("trailing" / c.GreedyBytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfoNtf:
    """What a round of a FiRa session measured: 25 bytes, then 31 for each responder.

    Wire: sequence(4) || token(4) || rcr(1) || interval(4) || ranging type(1) || reserved(1) ||
    address form(1) || reserved(8) || n(1) || n measurements || what the vendor appends.

    Attributes:
        sequence: Number of the notification.
        token: The session.
        rcr: Ranging control, opaque.
        interval_ms: Ranging interval in use.
        ranging_type: 1 is two-way ranging.
        address_form: 0 short, 1 extended.
        measurements: Of two-way ranging.
        opaque: What stands behind the head for another ranging type.
        reserved, reserved_more: 1 and 8 bytes, kept.
        trailing: What the vendor appended; lenient parsing only.
    """

    sequence: int
    token: int
    rcr: int = 0
    interval_ms: int = 0
    ranging_type: int = TWO_WAY
    address_form: int = _SHORT
    measurements: tuple[TwrMeasurement, ...] = ()
    opaque: bytes = b""
    reserved: bytes = bytes(1)
    reserved_more: bytes = bytes(8)
    trailing: bytes = b""

    def to_bytes(self) -> bytes:
        """Encode the payload.

        Raises:
            LocalFault: A field does not fit its place.
        """
        try:
            built: bytes = _INFO_HEAD.build(
                {each.name: getattr(self, each.name) for each in _INFO_HEAD.subcons}
            )
            if self._two_way:
                built += _TWR[self.address_form].build(self.measurements)
        except c.ConstructError as exc:
            raise LocalFault(f"a field of SessionInfoNtf does not fit: {exc}") from exc
        return built + self.opaque + self.trailing

    @property
    def _two_way(self) -> bool:
        return self.ranging_type == TWO_WAY and self.address_form in _TWR

    @classmethod
    def parse(cls, data: bytes, *, strict: bool = True) -> SessionInfoNtf:
        """Decode exactly one payload.

        Args:
            data: The payload.
            strict: Refuse bytes behind the measurements, an unknown address form and reserved
                bytes that are set.

        Raises:
            WireError: The bytes do not have the layout.
        """
        try:
            head: Any = (_INFO_HEAD + _REST).parse(data)
            values = {each.name: head[each.name] for each in _INFO_HEAD.subcons}
            two_way = head.ranging_type == TWO_WAY and head.address_form in _TWR
            body: Any = c.Struct(
                "found" / (_TWR[head.address_form] if two_way else c.GreedyBytes), *_REST.subcons
            ).parse(head.trailing)
        except c.ConstructError as exc:
            raise WireError("the payload is no SessionInfoNtf", clause=CLAUSE) from exc
        spare = head.reserved + head.reserved_more
        strange = head.ranging_type == TWO_WAY and not two_way
        if strict and (body.trailing or any(spare) or strange):
            raise WireError("reserved or further bytes in a SessionInfoNtf", clause=CLAUSE)
        found = {"measurements": tuple(body.found)} if two_way else {"opaque": body.found}
        return cls(**values, **found, trailing=body.trailing)


# --- CCC ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CccControleeNtf(Body):
    """What the responder of a CCC or Aliro session measured, 23 bytes.

    Wire: token(4) || status(1: responder in the high nibble, initiator in the low one) || STS
    index(4) || round(2) || distance(2) || anchor's fom(1) || initiator's fom(1) || tag(8).
    """

    LAYOUT: ClassVar[Any] = c.Struct(
        "token" / c.Int32ul,
        "status" / c.Int8ul,
        "sts_index" / c.Int32ul,
        "round" / c.Int16ul,
        "distance" / c.Int16ul,
        "anchor_fom" / c.Int8ul,
        "initiator_fom" / c.Int8ul,
        "tag" / c.Bytes(8),
    )

    token: int
    status: int
    sts_index: int
    round: int
    distance: int
    anchor_fom: int = 0
    initiator_fom: int = 0
    tag: bytes = bytes(8)

    @property
    def responder_status(self) -> int:
        """A :class:`~dkey.codec.uci_status.CccStatus`, or an unknown nibble."""
        return self.status >> 4

    @property
    def distance_cm(self) -> int | None:
        """Distance in centimetres, None without one."""
        return distance_cm(self.distance, Status.OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class CccControllerNtf(Body):
    """What the initiator of a CCC session learns, 23 bytes: no distance.

    Wire: token(4) || status(1) || STS index(4) || round(2) || responders(4, a bit each) || tag(8).
    """

    LAYOUT: ClassVar[Any] = c.Struct(
        "token" / c.Int32ul,
        "status" / c.Int8ul,
        "sts_index" / c.Int32ul,
        "round" / c.Int16ul,
        "responders" / c.Int32ul,
        "tag" / c.Bytes(8),
    )

    token: int
    status: int
    sts_index: int
    round: int
    responders: int
    tag: bytes = bytes(8)


# --- diagnostics and data -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosticsNtf(Body):
    """token(4) || sequence(4) || reports for each frame, opaque (Android)."""

    LAYOUT: ClassVar[Any] = c.Struct(
        "token" / c.Int32ul, "sequence" / c.Int32ul, "reports" / c.GreedyBytes
    )

    token: int
    sequence: int
    reports: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSend(Body):
    """Data packet format 1: token(4) || destination(8) || sequence(2) || length(2) || data."""

    LAYOUT: ClassVar[Any] = c.Struct(
        "token" / c.Int32ul,
        "destination" / c.Int64ul,
        "sequence" / c.Int16ul,
        "data" / c.Prefixed(c.Int16ul, c.GreedyBytes),
    )

    token: int
    destination: int
    sequence: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReceived(Body):
    """Data packet format 2: as format 1, with status(1) || source(8) for the destination."""

    LAYOUT: ClassVar[Any] = c.Struct(
        "token" / c.Int32ul,
        "status" / c.Int8ul,
        "source" / c.Int64ul,
        "sequence" / c.Int16ul,
        "data" / c.Prefixed(c.Int16ul, c.GreedyBytes),
    )

    token: int
    status: int
    source: int
    sequence: int
    data: bytes
