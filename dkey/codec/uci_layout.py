"""What all UCI message bodies have in common: a layout, strict and lenient parsing, TLV lists."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Self

import construct as c

from dkey.errors import LocalFault, WireError

__all__ = ["Body", "IdStatus", "Parameter", "id_list", "id_status_list", "parameter_list"]

CLAUSE: Final = "FiRa UCI, specs/ranging.md §6"
_TAIL: Final = "trailing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Payload of one UCI message; a subclass names its fields and lays them out.

    Attributes:
        trailing: What stood behind the known fields, where lenient parsing let it pass; kept so
            that nothing is lost. Newer subsystems append fields.
    """

    LAYOUT: ClassVar[Any]
    CHECKED: ClassVar[bool] = False
    """Whether the layout has optional parts, which construct leaves out where they do not fit."""

    trailing: bytes = b""

    def to_bytes(self) -> bytes:
        """Encode the payload.

        Raises:
            LocalFault: A field does not fit its place.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        try:
            built: bytes = self.LAYOUT.build(values)
        except (c.ConstructError, TypeError, ValueError, OverflowError) as exc:
            raise LocalFault(
                f"a field of {type(self).__name__} does not fit: {exc}", clause=CLAUSE
            ) from exc
        if self.CHECKED and self.parse(built + self.trailing, strict=False) != self:
            raise LocalFault(f"a field of {type(self).__name__} does not fit", clause=CLAUSE)
        return built + self.trailing

    @classmethod
    def parse(cls, data: bytes, *, strict: bool = True) -> Self:
        """Decode exactly one payload.

        Args:
            data: The payload.
            strict: Refuse bytes behind the known fields; without it they become ``trailing``.

        Raises:
            WireError: The bytes do not have the layout.
        """
        try:
            found = (cls.LAYOUT + _REST).parse(data)
        except (c.ConstructError, ValueError) as exc:
            raise WireError(
                f"the payload is no {cls.__name__}: {str(exc).splitlines()[-1]}", clause=CLAUSE
            ) from exc
        if strict and found[_TAIL]:
            raise WireError(
                f"{len(found[_TAIL])} bytes behind a {cls.__name__}",
                clause=CLAUSE,
                hint="parse leniently if the subsystem is known to append fields",
            )
        return cls(**{each.name: found[each.name] for each in fields(cls)})


_REST: Final = c.Struct(_TAIL / c.GreedyBytes)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a device, a session or a capability list: identifier, length, value.

    Attributes:
        id: 0..255; an unknown one is kept byte for byte.
        value: 0..255 bytes as on the wire, little-endian. It is left out of the repr, because a
            session key is such a value.
    """

    id: int
    value: bytes

    @property
    def number(self) -> int:
        """The value as a little-endian number."""
        return int.from_bytes(self.value, "little")

    def __repr__(self) -> str:
        return f"Parameter({self.id:02X}, {len(self.value)} bytes)"


@dataclass(frozen=True, slots=True)
class IdStatus:
    """Why one parameter was not taken: identifier and status code."""

    id: int
    status: int


def _pairs(kind: Any, layout: Any, *names: str) -> Any:
    """Return a counted list of ``layout`` as a tuple of ``kind``."""
    return c.ExprAdapter(
        c.PrefixedArray(c.Int8ul, layout),
        lambda found, _context: tuple(kind(*(each[name] for name in names)) for each in found),
        lambda values, _context: [{name: getattr(each, name) for name in names} for each in values],
    )


def parameter_list() -> Any:
    """Return the layout ``n(1) || n of id(1), length(1), value``."""
    value = c.Prefixed(c.Int8ul, c.GreedyBytes)
    return _pairs(Parameter, c.Struct("id" / c.Int8ul, "value" / value), "id", "value")


def id_status_list() -> Any:
    """Return the layout ``n(1) || n of id(1), status(1)``."""
    return _pairs(IdStatus, c.Struct("id" / c.Int8ul, "status" / c.Int8ul), "id", "status")


def id_list() -> Any:
    """Return the layout ``n(1) || n of id(1)``, as bytes."""
    return c.Prefixed(c.Int8ul, c.GreedyBytes)
