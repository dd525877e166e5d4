"""Strict deterministic CBOR (RFC 8949 §4.2.1) over the cbor2 library.

What is accepted is exactly what :func:`encode` produces: shortest integers and lengths, map keys
sorted by their encoded bytes, no duplicate keys, no indefinite lengths, no trailing bytes, no
floating point. Anything that a second encoder might write differently is refused, so that signed
bytes have one form.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

import cbor2

from dkey.errors import WireError

__all__ = ["Tag", "decode", "encode"]

CLAUSE: Final = "RFC 8949 §4.2.1"
MAX_SIZE: Final = 1 << 20
MAX_DEPTH: Final = 32

Tag = cbor2.CBORTag
"""A tagged value: ``Tag(number, value)``."""

_SCALARS = (int, bytes, str, bool, type(None), datetime.datetime)


class _Order:
    """Puts every map in key order and refuses what has no deterministic form here.

    Args:
        budget: Most values to visit; a value that is shared counts each time it stands.
    """

    def __init__(self, budget: int) -> None:
        self._left = budget

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return ``value`` in order, made of plain lists and dicts."""
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise ValueError(f"nested deeper than {MAX_DEPTH}, or larger than its encoding")
        if isinstance(value, _SCALARS):
            return value
        if isinstance(value, list | tuple):
            return [self.of(item, depth + 1) for item in value]
        if isinstance(value, Mapping):
            pairs = [(cbor2.dumps(self.of(k, depth + 1)), k, v) for k, v in value.items()]
            pairs.sort(key=lambda pair: pair[0])
            return {k: self.of(v, depth + 1) for _, k, v in pairs}
        if isinstance(value, Tag):
            return Tag(value.tag, self.of(value.value, depth + 1))
        raise TypeError(f"{type(value).__name__} has no place in deterministic CBOR")


def encode(value: Any) -> bytes:
    """Return the deterministic encoding of integers, strings, lists, maps, booleans, null, tags.

    Raises:
        TypeError: Any other type, such as float.
        ValueError: Nested deeper than 32, or over 1 Mi values.
    """
    return cbor2.dumps(_Order(MAX_SIZE).of(value))


def decode(data: bytes) -> Any:
    """Return the one value that ``data`` encodes deterministically.

    Raises:
        WireError: Not CBOR, over 1 MiB, nested too deeply, trailing bytes, a duplicate key, or
            any encoding that is not the deterministic one.
    """
    if len(data) > MAX_SIZE:
        raise WireError(f"CBOR of {len(data)} bytes is over {MAX_SIZE}", clause=CLAUSE)
    try:
        # Every value takes at least one byte, so that a shared one cannot multiply.
        value = _Order(len(data)).of(cbor2.loads(data))
        again = cbor2.dumps(value)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError) as exc:
        raise WireError("not a CBOR value that this stack accepts", clause=CLAUSE) from exc
    if again != data:
        raise WireError("CBOR is not in its deterministic form", clause=CLAUSE)
    return value
