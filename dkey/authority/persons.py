"""Commands with pseudonyms in place of accounts, and what comes back with accounts again.

The ledger keeps pseudonyms only, so that erasing a person needs no change of what was signed and
chained (specs/authority.md §5).
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dkey.authority.accounts import PERSON_DOMAIN
from dkey.lifecycle.commands import AUTHORITY, DEALER, VEHICLE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NAMED", "accounts_in", "outward_text", "outward_value", "renamed"]

NAMED: Final = frozenset({AUTHORITY, DEALER, VEHICLE})
"""Actors that are no accounts."""
_FIELDS: Final = frozenset({"actor", "account", "provider"})
_PERSON: Final = re.compile(r"[0-9a-f]{16}@" + re.escape(PERSON_DOMAIN))

T = TypeVar("T")


def renamed(value: T, name: Callable[[str], str]) -> T:
    """Return a command or a part of one with every account in it put through ``name``."""
    changes: dict[str, Any] = {}
    for each in fields(value):  # type: ignore[arg-type]
        held = getattr(value, each.name)
        if each.name in _FIELDS and isinstance(held, str) and held not in NAMED:
            changes[each.name] = name(held)
        elif is_dataclass(held) and not isinstance(held, type):
            changes[each.name] = renamed(held, name)
    return replace(value, **changes) if changes else value  # type: ignore[type-var]


def accounts_in(value: object) -> set[str]:
    """Return every account, or pseudonym, that a command names."""
    found: set[str] = set()

    def note(account: str) -> str:
        found.add(account)
        return account

    renamed(value, note)
    return found


def outward_text(text: str, account: Callable[[str], str]) -> str:
    """Return a text with every pseudonym in it put through ``account``."""
    return _PERSON.sub(lambda found: account(found.group()), text)


def outward_value(value: object, account: Callable[[str], str | None]) -> object:
    """Return a JSON value with every pseudonym in it put through ``account``."""
    if isinstance(value, dict):
        return {name: outward_value(each, account) for name, each in value.items()}
    if isinstance(value, list):
        return [outward_value(each, account) for each in value]
    if isinstance(value, str) and _PERSON.fullmatch(value):
        return account(value)
    return value
