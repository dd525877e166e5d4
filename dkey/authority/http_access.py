"""Who may send a request: bearer tokens, and what a principal or a member may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dkey.authority.json_form import to_json
from dkey.authority.persons import NAMED
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.commands import AUTHORITY, DEALER, VEHICLE

if TYPE_CHECKING:
    from dkey.authority.outage import Waiting
    from dkey.authority.service import Authority

__all__ = ["Access", "UnauthenticatedError"]

_SCHEME = "bearer "


class UnauthenticatedError(LocalFault):
    """The token is not the actor's."""


class Access:
    """Checks of requests to one authority.

    Attributes:
        authority: What the requests are for.
    """

    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    def check(self, actor: str, bearer: str | None, vehicle: bytes | None = None) -> None:
        """Check that a request is the actor's.

        Raises:
            UnauthenticatedError: No token, or another's.
        """
        text = bearer or ""
        token = text[len(_SCHEME) :] if text.lower().startswith(_SCHEME) else ""
        known = token.isascii() and self.authority.authenticates(actor, token, vehicle)
        if not (token and known):
            raise UnauthenticatedError(
                "the token is not the actor's",
                hint="send `Authorization: Bearer` with the token of the actor",
            )

    def principal(self, actor: str, bearer: str | None) -> None:
        """Check that the authority itself, or a dealer, asks.

        Raises:
            UnauthenticatedError: See :meth:`check`.
            PolicyRefusal: NOT_AUTHORISED.
        """
        self.check(actor, bearer)
        if actor not in {AUTHORITY, DEALER}:
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                "this is for the authority and its dealers",
                hint="ask the authority to do it",
            )

    def own(self, actor: str, bearer: str | None, account: str) -> None:
        """Check that a person asks about the own account, or the authority does.

        Raises:
            UnauthenticatedError: See :meth:`check`.
            PolicyRefusal: NOT_AUTHORISED.
        """
        self.check(actor, bearer)
        if actor == account or (actor in NAMED and actor != VEHICLE):
            return
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED, "this account is somebody else's", hint="use your own"
        )

    def member(self, vehicle: str, actor: str, bearer: str | None) -> bytes:
        """Check that the actor has a key of a vehicle; return the vehicle's identifier.

        Raises:
            UnauthenticatedError: See :meth:`check`.
            PolicyRefusal: NOT_AUTHORISED.
        """
        number = bytes.fromhex(vehicle)
        self.check(actor, bearer, number)
        if not self.authority.holds_key(number, actor):
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED, "you have no key of this vehicle", hint="ask the owner"
            )
        return number

    def waiting(self, one: Waiting) -> dict[str, Any]:
        """Return a command that waited, without its content: that is sealed elsewhere."""
        form: dict[str, Any] = to_json(one)
        del form["command"]
        return form
