"""UCI ranging notifications, diagnostics and data messages.

A distance is two bytes of centimetres, FFFF where there is none. With status
OK_NEGATIVE_DISTANCE it is below zero: sign and magnitude are kept apart on some subsystems and a
two's complement on others, so a magnitude below 8000 is negated and anything else is read as two's
complement (ours). It is never clamped: a negative distance is evidence of an attack.
"""

from __future__ import annotations

import struct
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


_MEASURED: Final = "BBHhBhBhBhBBB"
_MEASUREMENTS: Final = {
    form: struct.Struct(f"<{size}s{_MEASURED}{_RESERVED_SIZES[form]}s")
    for form, size in _ADDRESS_SIZES.items()
}
"""Layout of one measurement with a short or an extended address. A vehicle reads hundreds of them
a second for each phone, which is why this is not construct."""


@dataclass(frozen=True, slots=True)
class TwrMeasurement:
    """What one responder's answer gave, 31 bytes in either form of address. Fields in wire order.

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


def _measurements(data: bytes, form: int) -> tuple[TwrMeasurement, ...]:
    """Return the measurements of whole entries."""
    return tuple(TwrMeasurement(*entry) for entry in _MEASUREMENTS[form].iter_unpack(data))


def _packed(each: TwrMeasurement, form: int) -> bytes:
    values = [getattr(each, name) for name in TwrMeasurement.__slots__]
    address, spare = values[0], bytes(_RESERVED_SIZES[form])
    reserved = spare if each.reserved is None else each.reserved
    if len(address) != _ADDRESS_SIZES[form] or len(reserved) != len(spare):
        raise struct.error("an address or reserved bytes of another length")
    return _MEASUREMENTS[form].pack(*values[:-1], reserved)


_INFO_HEAD: Final = struct.Struct("<IIBIBsB8s")


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
            if len(self.reserved) != 1 or len(self.reserved_more) != 8:
                raise struct.error("reserved bytes of another length")
            built = _INFO_HEAD.pack(
                self.sequence,
                self.token,
                self.rcr,
                self.interval_ms,
                self.ranging_type,
                self.reserved,
                self.address_form,
                self.reserved_more,
            )
            if self._two_way:
                built += bytes((len(self.measurements),)) + b"".join(
                    _packed(each, self.address_form) for each in self.measurements
                )
        except (struct.error, ValueError) as exc:
            raise LocalFault(f"a field of SessionInfoNtf does not fit: {exc}") from exc
        return built + self.opaque + self.trailing

    @property
    def _two_way(self) -> bool:
        return self.ranging_type == TWO_WAY and self.address_form in _MEASUREMENTS

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
        if len(data) < _INFO_HEAD.size:
            raise WireError("the payload is no SessionInfoNtf", clause=CLAUSE)
        sequence, token, rcr, interval_ms, kind, reserved, form, more = _INFO_HEAD.unpack_from(data)
        rest = data[_INFO_HEAD.size :]
        measurements: tuple[TwrMeasurement, ...] = ()
        opaque = trailing = b""
        layout = _MEASUREMENTS.get(form) if kind == TWO_WAY else None
        if layout is None:
            opaque = rest
        else:
            end = 1 + rest[0] * layout.size if rest else 1
            if len(rest) < end:
                raise WireError("the payload is no SessionInfoNtf", clause=CLAUSE)
            measurements, trailing = _measurements(rest[1:end], form), rest[end:]
        strange = kind == TWO_WAY and layout is None
        if strict and (trailing or any(reserved + more) or strange):
            raise WireError("reserved or further bytes in a SessionInfoNtf", clause=CLAUSE)
        return cls(
            sequence=sequence,
            token=token,
            rcr=rcr,
            interval_ms=interval_ms,
            ranging_type=kind,
            address_form=form,
            measurements=measurements,
            opaque=opaque,
            reserved=reserved,
            reserved_more=more,
            trailing=trailing,
        )


_CCC: Final = struct.Struct("<IBIHHBB8s")
_CCC_FIELDS: Final = (
    "token",
    "status",
    "sts_index",
    "round",
    "distance",
    "anchor_fom",
    "initiator_fom",
    "tag",
)

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

    @classmethod
    def parse(cls, data: bytes, *, strict: bool = True) -> CccControleeNtf:
        """Decode exactly one payload; by hand, one comes of each anchor in each round.

        Raises:
            WireError: The bytes do not have the layout.
        """
        if len(data) != _CCC.size:
            return super(CccControleeNtf, cls).parse(data, strict=strict)
        values = dict(zip(_CCC_FIELDS, _CCC.unpack(data), strict=True))
        return cls(**values)

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
