"""Statements as tables: a name and an ordered list of fields, each with its one form on the wire.

The payload of a statement is a map with integer keys: 1 is its name, 2 its version, 3 and on are
the fields of its table in order. All of them are there; an optional one is null when absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dkey.codec import cbor
from dkey.crypto.p256 import PublicKey
from dkey.errors import LocalFault, WireError
from dkey.lifecycle.cose import Sign1, parse_sign1, sign1

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import Enum

    from dkey.crypto.vault import Vault

__all__ = [
    "FLAG",
    "POINT",
    "TIME",
    "UINT32",
    "Field",
    "Statement",
    "choice",
    "many",
    "octets",
    "optional",
    "text",
    "uint",
]

_NAME, _VERSION, _FIRST = 1, 2, 3
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Field:
    """The form of one value.

    Attributes:
        load: Returns the value of what was decoded, or raises ValueError.
        dump: Returns what is encoded for a value.
    """

    load: Callable[[Any], Any]
    dump: Callable[[Any], Any] = lambda value: value


def uint(low: int, high: int) -> Field:
    """A whole number of a range, both ends included."""

    def load(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"no whole number from {low} to {high}")
        return value

    return Field(load)


def octets(low: int, high: int | None = None) -> Field:
    """Bytes of one length, or of a range of lengths."""

    def load(value: Any) -> bytes:
        if not isinstance(value, bytes) or not low <= len(value) <= (high or low):
            raise ValueError(f"not {low} to {high or low} bytes")
        return value

    return Field(load)


def text(low: int, high: int) -> Field:
    """Printable text of a range of lengths in UTF-8 bytes."""

    def load(value: Any) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError("no printable text")
        if not low <= len(value.encode()) <= high:
            raise ValueError(f"text not of {low} to {high} bytes")
        return value

    return Field(load)


def choice(*members: Enum) -> Field:
    """One of the members; its place among them is what is encoded."""

    def load(value: Any) -> Enum:
        if type(value) is not int or not 0 <= value < len(members):
            raise ValueError("an unknown choice")
        return members[value]

    def dump(value: Any) -> int:
        return members.index(value)

    return Field(load, dump)


def many(item: Field, most: int) -> Field:
    """A list of at most ``most`` items; a tuple in the code."""

    def load(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"no list of at most {most}")
        return tuple(item.load(each) for each in value)

    def dump(value: Any) -> list[Any]:
        return [item.dump(each) for each in value]

    return Field(load, dump)


def optional(item: Field) -> Field:
    """A value or None."""
    return Field(
        lambda value: None if value is None else item.load(value),
        lambda value: None if value is None else item.dump(value),
    )


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("no boolean")
    return value


def _point(value: Any) -> bytes:
    return PublicKey.parse(octets(65).load(value)).point


FLAG: Final = Field(_flag)
"""A boolean."""
POINT: Final = Field(_point)
"""A public key: 65 bytes, on the curve."""
UINT32: Final = uint(0, 0xFFFFFFFF)
"""A number of four bytes."""
TIME: Final = uint(0, (1 << 40) - 1)
"""Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One kind of signed statement.

    Attributes:
        name: Its name, in the payload and in the content type: a statement of one kind can stand
            for no other.
        clause: Where it is specified.
        limit: Most bytes of it, signature included.
        fields: Name and form of each value, in the order of their numbers from 3.
        check: Raises ValueError where single values are right and do not fit together.
    """

    name: str
    clause: str
    limit: int
    fields: Mapping[str, Field]
    check: Callable[[Mapping[str, Any]], None] | None = None

    @property
    def content_type(self) -> str:
        """The content type of the protected header."""
        return f"application/dkey-{self.name}+cbor"

    def sign(self, values: Mapping[str, Any], vault: Vault, key: str) -> bytes:
        """Return the statement of these values, signed with a key of a vault.

        Raises:
            LocalFault: A value has no form here.
        """
        try:
            payload = self._encode(values)
            if self._decode(payload) != {name: values[name] for name in self.fields}:
                raise ValueError("a value would be read as another one")
        except (KeyError, TypeError, ValueError, WireError) as exc:
            raise LocalFault(f"this is no {self.name}: {exc}", clause=self.clause) from exc
        data = sign1(payload, self.content_type, vault=vault, key=key)
        if len(data) > self.limit:
            raise LocalFault(f"a {self.name} has at most {self.limit} bytes", clause=self.clause)
        return data

    def read(self, data: bytes) -> tuple[dict[str, Any], Sign1]:
        """Return the values and the signed message that they stand in, without trust.

        Raises:
            WireError: Not exactly one statement of this kind in its one form.
        """
        signed = parse_sign1(data, self.content_type, limit=self.limit)
        try:
            return self._decode(signed.payload), signed
        except ValueError as exc:
            raise WireError(f"a malformed {self.name}: {exc}", clause=self.clause) from exc

    def _encode(self, values: Mapping[str, Any]) -> bytes:
        numbered = enumerate(self.fields.items(), _FIRST)
        fields = {number: form.dump(values[name]) for number, (name, form) in numbered}
        return cbor.encode({_NAME: self.name, _VERSION: VERSION, **fields})

    def _decode(self, payload: bytes) -> dict[str, Any]:
        found = cbor.decode(payload)
        if not isinstance(found, dict) or found.get(_NAME) != self.name:
            raise ValueError("its payload is of another kind")
        if found.get(_VERSION) != VERSION:
            raise ValueError("its version is not known")
        if set(found) != set(range(_NAME, _FIRST + len(self.fields))):
            raise ValueError("it has not the fields of its kind")
        numbered = enumerate(self.fields.items(), _FIRST)
        values = {name: form.load(found[number]) for number, (name, form) in numbered}
        if self._encode(values) != payload:  # true in the place of 1, say
            raise ValueError("it is not in its one form")
        if self.check is not None:
            self.check(values)
        return values
