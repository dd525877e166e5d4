"""The one form of an account id: who writes it otherwise is the same person (requirements S5).

Else a veto, a hold or the count of keys would be dodged by another spelling. Doors, where people
type, bring it into the form; what decides refuses anything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import normalize

from dkey.errors import PolicyRefusal, RefusalCode

if TYPE_CHECKING:
    from dkey.lifecycle.commands import Command

__all__ = ["account_form", "check_accounts"]


def account_form(account: str) -> str:
    """Return an account id in its one form: case folded, in Unicode's composed form (NFC)."""
    if account.isascii():
        return account.lower()
    return normalize("NFC", normalize("NFD", account).casefold())


def check_accounts(command: Command) -> None:
    """Check that a command names every account in its one form.

    Raises:
        PolicyRefusal: NOT_AUTHORISED.
    """
    owner, booking = getattr(command, "owner", None), getattr(command, "booking", None)
    named = (
        command.actor,
        getattr(command, "account", None),
        None if owner is None else owner.account,
        None if booking is None else booking.provider,
    )
    for each in named:
        if each is not None and each != (form := account_form(each)):
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                f"{each!r} is not the one form of an account",
                hint=f"write {form}",
            )
