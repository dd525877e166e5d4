"""Immutable values as plain lists that CBOR can carry, and back, strictly.

A dataclass is the list of its fields in their order, an enum its value, a frozenset a sorted list.
The form follows from the types alone, so that a field added to a value is never forgotten here.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from dkey.codec import cbor
from dkey.errors import WireError
from dkey.lifecycle import commands, roles

__all__ = ["from_plain", "to_plain"]

T = TypeVar("T")
CLAUSE: Final = "specs/storage.md §7"
_NAMES: Final = {**vars(roles), **vars(commands)}
_SCALARS: Final = (int, bytes, str, bool, NoneType)


def to_plain(value: Any) -> Any:
    """Return ``value`` made of lists, integers, strings, booleans and None only.

    Raises:
        TypeError: A type that has no such form.
    """
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return [to_plain(getattr(value, each.name)) for each in fields(value)]
    if isinstance(value, frozenset):
        return sorted((to_plain(each) for each in value), key=cbor.encode)
    if isinstance(value, tuple):
        return [to_plain(each) for each in value]
    if isinstance(value, _SCALARS):
        return value
    raise TypeError(f"{type(value).__name__} has no plain form")


def from_plain(cls: type[T], value: Any) -> T:
    """Return the value of type ``cls`` that :func:`to_plain` made ``value`` of.

    Raises:
        WireError: Not exactly such a form.
    """
    made: T = _made(cls, value)
    return made


@cache
def _types(cls: type) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(cls, localns=_NAMES)
    return tuple((each.name, hints[each.name]) for each in fields(cls))


def _made(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if origin is UnionType:
        return _optional(kind, value)
    if origin in (tuple, frozenset):
        return _collection(origin, get_args(kind)[0], value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _member(kind, value)
    if is_dataclass(kind):
        return _record(kind, value)
    if kind in _SCALARS and type(value) is kind:
        return value
    raise _malformed(f"a {getattr(kind, '__name__', kind)} was expected")


def _optional(kind: Any, value: Any) -> Any:
    others = [each for each in get_args(kind) if each is not NoneType]
    if value is None and len(others) < len(get_args(kind)):
        return None
    for each in others[:-1]:
        if type(value) is each:
            return value
    return _made(others[-1], value)


def _collection(origin: Any, kind: Any, value: Any) -> Any:
    if not isinstance(value, list):
        raise _malformed("a list was expected")
    made = origin(_made(kind, each) for each in value)
    if len(made) != len(value) or (origin is frozenset and to_plain(made) != value):
        raise _malformed("a set is not sorted, or has an entry twice")
    return made


def _member(kind: type[Enum], value: Any) -> Enum:
    try:
        return kind(value)
    except ValueError as exc:
        raise _malformed(f"no such {kind.__name__}") from exc


def _record(kind: Any, value: Any) -> Any:
    types = _types(kind)
    if not isinstance(value, list) or len(value) != len(types):
        raise _malformed(f"{kind.__name__} has {len(types)} fields")
    return kind(**{name: _made(t, each) for (name, t), each in zip(types, value, strict=True)})


def _malformed(text: str) -> WireError:
    return WireError(f"not a stored lifecycle value: {text}", clause=CLAUSE)
