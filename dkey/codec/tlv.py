"""BER-TLV data objects: tag, length, value (ISO/IEC 8825-1; Aliro 1.0 §8.3.2.4).

Tags are one or two bytes and are written as one number (``0x5C``, ``0x7F66``). Lengths are
definite, at most three bytes behind ``83``. Nothing here recurses: a nested object is parsed by
its own call, so that hostile nesting costs no depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dkey.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Field", "Layout", "encode", "items", "single"]

CLAUSE: Final = "ISO/IEC 8825-1 §8.1"
_MORE_TAG: Final = 0x1F
_LONG: Final = 0x80


def encode(tag: int, value: bytes) -> bytes:
    """Return the data object with the shortest length form; ``value`` is at most 16 MiB - 1."""
    size = len(value)
    head = bytes((tag,)) if tag < 0x100 else tag.to_bytes(2, "big")
    if size < 0x80:
        return head + bytes((size,)) + value
    if size < 0x100:
        return head + bytes((0x81, size)) + value
    if size < 0x10000:
        return head + b"\x82" + size.to_bytes(2, "big") + value
    return head + b"\x83" + size.to_bytes(3, "big") + value


def _long_length(data: bytes, at: int, *, minimal: bool) -> tuple[int, int]:
    """Read a length that starts with 80..FF at ``at``; return (length, offset of the value)."""
    count = data[at] & 0x7F
    if not 1 <= count <= 3:
        raise WireError(f"length byte {data[at]:02X} is not a definite length", clause=CLAUSE)
    after = at + 1 + count
    if after > len(data):
        raise WireError("the data ends inside a length", clause=CLAUSE)
    size = int.from_bytes(data[at + 1 : after], "big")
    if minimal and (size < 0x80 or size < 1 << (8 * (count - 1))):
        raise WireError(f"length {size} is not in its shortest form", clause=CLAUSE)
    return size, after


def _header(data: bytes, at: int, *, minimal: bool) -> tuple[int, int, int]:
    """Read the object that starts at ``at``; return (tag, offset of the value, end)."""
    stop = len(data)
    tag = data[at]
    at += 1
    if tag & _MORE_TAG == _MORE_TAG:
        if at >= stop:
            raise WireError("the data ends inside a tag", clause=CLAUSE)
        if data[at] & 0x80:
            raise WireError("a tag has more than two bytes", clause=CLAUSE)
        tag = tag << 8 | data[at]
        at += 1
    if at >= stop:
        raise WireError(f"tag {tag:02X} has no length", clause=CLAUSE)
    size = data[at]
    if size < _LONG:
        at += 1
    else:
        size, at = _long_length(data, at, minimal=minimal)
    if at + size > stop:
        raise WireError(f"tag {tag:02X} claims {size} bytes, {stop - at} are left", clause=CLAUSE)
    return tag, at, at + size


def items(data: bytes, *, minimal: bool = False) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(tag, start, value_start, end)`` of each data object, in order.

    Offsets are into ``data``: the whole object is ``data[start:end]``, its value
    ``data[value_start:end]``. With ``minimal`` a length that could be shorter is refused.

    Raises:
        WireError: The data ends inside an object, a length is indefinite or over three bytes, or
            a tag has more than two bytes.
    """
    at = 0
    while at < len(data):
        start = at
        tag, value, at = _header(data, at, minimal=minimal)
        yield tag, start, value, at


def single(data: bytes, tag: int, *, minimal: bool = False) -> bytes:
    """Return the value of the one object with ``tag`` that ``data`` consists of.

    Raises:
        WireError: Another tag, or bytes before or behind the object.
    """
    found = [*items(data, minimal=minimal)]
    if len(found) != 1 or found[0][0] != tag:
        raise WireError(f"expected exactly one object with tag {tag:02X}", clause=CLAUSE)
    return data[found[0][2] :]


@dataclass(frozen=True, slots=True)
class Field:
    """One place in a layout: its tag, the sizes its value may have (bytes), and if it must be."""

    tag: int
    low: int
    high: int
    required: bool = True


class Layout:
    """The prescribed order of data objects in one message.

    Objects must come in the order of ``fields``, each at most once. Unknown tags are skipped
    when the protocol says so (``skip_unknown``) and refused otherwise.

    Args:
        name: Name of the message, for errors.
        clause: Source clause of the layout.
        fields: Fields in wire order.
        skip_unknown: Whether tags that are in no field are passed over.
    """

    __slots__ = ("_bounds", "_fields", "_required", "_skip", "clause", "name")

    def __init__(self, name: str, clause: str, *fields: Field, skip_unknown: bool = True) -> None:
        self.name = name
        self.clause = clause
        self._bounds = {f.tag: (place, f.low, f.high) for place, f in enumerate(fields)}
        self._required = [f.tag for f in fields if f.required]
        self._fields = len(fields)
        self._skip = skip_unknown

    def parse(self, data: bytes, *, minimal: bool = False) -> dict[int, bytes]:
        """Return tag to value for the known fields of exactly one message.

        Raises:
            WireError: Malformed TLV, a field twice or out of order, a wrong size, a required
                field missing, or an unknown tag where none is tolerated.
        """
        found: dict[int, bytes] = {}
        bounds = self._bounds
        last = -1
        at, stop = 0, len(data)
        while at < stop:
            tag, start, at = _header(data, at, minimal=minimal)
            bound = bounds.get(tag)
            if bound is None:
                if self._skip:
                    continue
                raise self.error(f"tag {tag:02X} is not expected")
            place, low, high = bound
            if place <= last:
                raise self.error(f"tag {tag:02X} is repeated or out of order")
            last = place
            if not low <= at - start <= high:
                raise self.error(f"tag {tag:02X} has {at - start} bytes, not {low}..{high}")
            found[tag] = data[start:at]
        if len(found) == self._fields:
            return found
        for tag in self._required:
            if tag not in found:
                raise self.error(f"tag {tag:02X} is missing")
        return found

    def error(self, text: str) -> WireError:
        """Return the error for a violation of this layout."""
        return WireError(f"{self.name}: {text}", clause=self.clause)
