"""Values as JSON objects and back: bytes in hex, enums by name, a dataclass as an object.

The form follows from the field types, so that a field added to a command is never forgotten in the
API. :mod:`dkey.authority.http_models` makes the schemas from the same types.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_type_hints

from dkey.errors import WireError
from dkey.lifecycle import commands, roles

__all__ = ["SIZES", "field_types", "from_json", "to_json"]

T = TypeVar("T")
CLAUSE: Final = "specs/authority.md §2"
SIZES: Final = {
    **dict.fromkeys(("share_id", "item", "card", "replaces", "vehicle"), 16),
    "key_x": 32,
}
"""Bytes of every binary field of a command."""
_NAMES: Final = {**vars(roles), **vars(commands)}


def to_json(value: Any) -> Any:
    """Return ``value`` made of what JSON has."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, frozenset):
        return sorted(to_json(each) for each in value)
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    return value


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Return the type of every field of a command or a part of one."""
    hints = get_type_hints(cls, localns=_NAMES)
    return {each.name: hints[each.name] for each in fields(cls)}


def from_json(cls: type[T], value: Any) -> T:
    """Return the value of type ``cls`` in a JSON object.

    Raises:
        WireError: A field is missing, unknown, or not of its form.
    """
    if not isinstance(value, dict):
        raise _malformed("an object was expected")
    types: dict[str, Any] = field_types(cls)  # type: ignore[arg-type]
    unknown = value.keys() - types.keys()
    if unknown:
        raise _malformed(f"{cls.__name__} has no field {min(unknown)!r}")
    needed = {f.name for f in fields(cls) if f.default is MISSING}  # type: ignore[arg-type]
    if missing := needed - value.keys():
        raise _malformed(f"{cls.__name__} needs the field {min(missing)!r}")
    return cls(**{name: _made(name, types[name], each) for name, each in value.items()})


def _made(name: str, kind: Any, value: Any) -> Any:
    if isinstance(kind, UnionType):
        if value is None:
            return None
        kind = next(each for each in get_args(kind) if each is not NoneType)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError as exc:
            names = ", ".join(each.value for each in kind)
            raise _malformed(f"{name} is one of {names}") from exc
    if is_dataclass(kind):
        return from_json(kind, value)  # type: ignore[arg-type]
    if kind is bytes:
        return _octets(name, value)
    if type(value) is not kind:
        raise _malformed(f"{name} is not of type {kind.__name__}")
    return value


def _octets(name: str, value: Any) -> bytes:
    size = SIZES[name]
    try:
        data = bytes.fromhex(value) if isinstance(value, str) and len(value) == 2 * size else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise _malformed(f"{name} is {2 * size} hex digits")
    return data


def _malformed(text: str) -> WireError:
    return WireError(text, clause=CLAUSE)
