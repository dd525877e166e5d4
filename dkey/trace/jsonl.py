"""Traces as JSON lines: one header line, then one record a line.

Header: ``{"schema": "dkey.trace/1", ...}``; further members are free. Record members, in this
order, the last three only when they apply:

====== ======================================================================================
t      seconds since the Unix epoch as text with exactly 9 decimals, so that no digit is lost
dir    who sent it: ``"reader"``, ``"device"`` or null
layer  ``"frame"``, ``"apdu"``, ``"field"``, ``"note"`` or ``"keys"``
hex    the bytes, upper-case hex (frame, apdu, keys)
note   ``"on"`` or ``"off"`` (field), the text (note), the name of the key (keys)
synthetic  true when the record was made up so that a frame viewer has something to show
====== ======================================================================================
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO

from dkey.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "MAX_LINE",
    "SCHEMA",
    "Layer",
    "TraceRecord",
    "encode_header",
    "encode_record",
    "read_records",
]

SCHEMA = "dkey.trace/1"
MAX_LINE = 1 << 20
"""Longest line that the reader takes, bytes."""

_TIME = re.compile(r"([0-9]{1,11})\.([0-9]{9})")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")
_MEMBERS = {"t", "dir", "layer", "hex", "note", "synthetic"}
_REQUIRED = {"t", "dir", "layer"}
_HINT = "record the trace again, or remove the broken lines at the end of the file"


class Layer(StrEnum):
    """What a record holds."""

    FRAME = "frame"
    """One ISO 14443 frame without its CRC."""
    APDU = "apdu"
    """One whole command or response APDU."""
    MESSAGE = "message"
    """One whole BLE message."""
    FIELD = "field"
    """The field went on or off."""
    NOTE = "note"
    """A remark of the program that wrote the trace."""
    KEYS = "keys"
    """A secret, written only on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRecord:
    """One thing that happened.

    Attributes:
        t_ns: Time since the Unix epoch, nanoseconds.
        layer: What the record holds.
        from_reader: True for the reader, False for the device; None for field, note and keys.
        data: The bytes (frame, apdu, keys), otherwise None.
        note: ``on``/``off`` (field), text (note), name (keys), otherwise None.
        synthetic: The frame never existed; it shows an APDU of a link without frames.
    """

    t_ns: int
    layer: Layer
    from_reader: bool | None = None
    data: bytes | None = None
    note: str | None = None
    synthetic: bool = False


def encode_header(members: Mapping[str, str | bool] | None = None) -> bytes:
    """Return the header line with ``members`` after the schema."""
    return (json.dumps({"schema": SCHEMA, **(members or {})}) + "\n").encode()


def encode_record(record: TraceRecord) -> bytes:
    """Return one line, ASCII only, ended by a line feed."""
    seconds, rest = divmod(record.t_ns, 1_000_000_000)
    senders = {True: "reader", False: "device", None: None}
    line: dict[str, object] = {
        "t": f"{seconds}.{rest:09d}",
        "dir": senders[record.from_reader],
        "layer": record.layer.value,
    }
    if record.data is not None:
        line["hex"] = record.data.hex().upper()
    if record.note is not None:
        line["note"] = record.note
    if record.synthetic:
        line["synthetic"] = True
    return (json.dumps(line) + "\n").encode()


def read_records(stream: BinaryIO) -> Iterator[TraceRecord]:
    """Yield the records of a file of ours, in file order; hold one line in memory.

    Raises:
        FileFormatError: A line is not what this module writes; the message counts lines from 1.
    """
    header = _members(_line(stream, 1), 1)
    if header.get("schema") != SCHEMA:
        raise FileFormatError(
            f"line 1: the schema is {header.get('schema')!r}, not {SCHEMA!r}",
            hint="give a trace written by this program",
        )
    number = 2
    while line := _line(stream, number):
        yield _parse(_members(line, number), number)
        number += 1


def _broken(number: int, why: str) -> FileFormatError:
    return FileFormatError(f"line {number}: {why}", hint=_HINT)


def _line(stream: BinaryIO, number: int) -> bytes:
    line = stream.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE:
        raise _broken(number, f"longer than {MAX_LINE} bytes")
    if (line or number == 1) and not line.endswith(b"\n"):
        raise _broken(number, "cut short")
    return line


def _members(line: bytes, number: int) -> dict[str, object]:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise _broken(number, "a member appears twice")
        return members

    try:
        value = json.loads(line.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as exc:
        raise _broken(number, "not JSON") from exc
    if not isinstance(value, dict):
        raise _broken(number, "not a JSON object")
    return value


def _parse(line: dict[str, object], number: int) -> TraceRecord:
    if not _REQUIRED <= line.keys() <= _MEMBERS:
        wrong = sorted(_REQUIRED - line.keys() | line.keys() - _MEMBERS)
        raise _broken(number, f"missing or unknown member {wrong[0]!r}")
    senders: dict[object, bool | None] = {"reader": True, "device": False, None: None}
    sender, layer = line["dir"], line["layer"]
    if not (sender is None or isinstance(sender, str)) or sender not in senders:
        raise _broken(number, "dir is not reader, device or null")
    if layer not in list(Layer):
        raise _broken(number, "unknown layer")
    synthetic = line.get("synthetic", False)
    if not isinstance(synthetic, bool):
        raise _broken(number, "synthetic is not a boolean")
    record = TraceRecord(
        t_ns=_parse_time(line["t"], number),
        layer=Layer(str(layer)),
        from_reader=senders[sender],
        data=_parse_hex(line["hex"], number) if "hex" in line else None,
        note=_parse_note(line["note"], number) if "note" in line else None,
        synthetic=synthetic,
    )
    _check_shape(record, number)
    return record


def _parse_time(value: object, number: int) -> int:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _broken(number, "t is not a text of seconds with 9 decimals")
    t_ns = int(match[1]) * 1_000_000_000 + int(match[2])
    if t_ns >= 1 << 64:
        raise _broken(number, "t does not fit 64 bits of nanoseconds")
    return t_ns


def _parse_hex(value: object, number: int) -> bytes:
    if not isinstance(value, str) or _HEX.fullmatch(value) is None:
        raise _broken(number, "hex is not a text of whole hex bytes")
    return bytes.fromhex(value)


def _parse_note(value: object, number: int) -> str:
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        raise _broken(number, "note is not a text")
    return value


def _check_shape(record: TraceRecord, number: int) -> None:
    """Check which members the layer has."""
    carried = record.layer in (Layer.FRAME, Layer.APDU, Layer.MESSAGE)
    if carried != (record.from_reader is not None):
        raise _broken(number, f"dir does not go with layer {record.layer}")
    if (carried or record.layer is Layer.KEYS) != (record.data is not None):
        raise _broken(number, f"hex does not go with layer {record.layer}")
    if not carried and record.note is None:
        raise _broken(number, f"layer {record.layer} needs a note")
    if record.layer is Layer.FIELD and record.note not in ("on", "off"):
        raise _broken(number, "a field is on or off")
