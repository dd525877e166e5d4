"""Commands as bytes: ``[name, fields...]`` in deterministic CBOR, strictly one form each."""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from dkey.codec import cbor
from dkey.errors import WireError
from dkey.lifecycle import commands as _commands
from dkey.lifecycle.commands import Command
from dkey.lifecycle.plain import CLAUSE, from_plain, to_plain

__all__ = ["COMMANDS", "decode", "encode"]

COMMANDS: Final[dict[str, type[Command]]] = {
    name: each
    for name, each in sorted(vars(_commands).items())
    if isinstance(each, type) and issubclass(each, Command) and each is not Command
}
"""Every command by its name."""
_SIZES: Final = {"share_id": 16, "item": 16, "card": 16, "replaces": 16, "key_x": 32}


def encode(command: Command) -> bytes:
    """Return the command as bytes.

    Raises:
        WireError: An identifier has the wrong size.
    """
    _check(command)
    return cbor.encode([type(command).__name__, *to_plain(command)])


def decode(data: bytes) -> Command:
    """Return the one command that ``data`` encodes.

    Raises:
        WireError: Not exactly what :func:`encode` makes.
    """
    value = cbor.decode(data)
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise WireError("a command is a list that begins with its name", clause=CLAUSE)
    kind = COMMANDS.get(value[0])
    if kind is None:
        raise WireError(f"no such command: {value[0][:32]!r}", clause=CLAUSE)
    command = from_plain(kind, value[1:])
    _check(command)
    return command


def _check(command: Command) -> None:
    for each in fields(command):
        value, size = getattr(command, each.name), _SIZES.get(each.name)
        if size is not None and value is not None and len(value) != size:
            raise WireError(f"{each.name} has {len(value)} bytes, not {size}", clause=CLAUSE)
