"""How ``dkey key`` speaks to an authority: gives the agent its client, and links an account."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from dkey.errors import LinkError, LinkReason, LocalFault, PolicyRefusal, RefusalCode

if TYPE_CHECKING:
    from dkey.cli.key_call import KeyCall

__all__ = ["linked", "port"]

_TERMS: Final = "1"


class _Port:
    """An authority's client as the agent takes it: what is unknown there is a refusal."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def execute(self, vehicle: bytes, command: Any) -> Any:
        """Ask for a command."""
        with _known():
            return self._client.execute(vehicle, command)

    def keys(self, vehicle: bytes, actor: str) -> Any:
        """Return the keys that the actor may see."""
        with _known():
            return self._client.keys(vehicle, actor)

    def bookings(self, vehicle: bytes, actor: str) -> Any:
        """Return the bookings that the actor may see."""
        with _known():
            return self._client.bookings(vehicle, actor)

    def withdrawal_list(self, vehicle: bytes, actor: str) -> Any:
        """Return the newest signed withdrawal list."""
        with _known():
            return self._client.withdrawal_list(vehicle, actor)


@contextlib.contextmanager
def _known() -> Iterator[None]:
    from dkey.authority.accounts import UnknownError  # noqa: PLC0415
    from dkey.authority.core import OutageError  # noqa: PLC0415
    from dkey.authority.http_access import UnauthenticatedError  # noqa: PLC0415

    try:
        yield
    except (OutageError, UnauthenticatedError) as exc:  # nothing was refused: told later
        reason = LinkReason.BUSY if isinstance(exc, OutageError) else LinkReason.DENIED
        raise LinkError(reason, Exception.__str__(exc), hint=exc.hint) from exc
    except UnknownError as exc:
        raise PolicyRefusal(
            RefusalCode.KEY_UNKNOWN,
            f"the authority: {Exception.__str__(exc)}",
            hint="register the vehicle and the account there first",
        ) from exc


@contextlib.contextmanager
def port(url: str, tokens: Mapping[str, str]) -> Iterator[Any]:
    """Give the authority at an address, for one account."""
    with _client(url, tokens) as client:
        yield _Port(client)


def _client(url: str, tokens: Mapping[str, str]) -> Any:
    if not url.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")):
        raise LocalFault("an authority is reached over https", hint="give https://HOST")
    from dkey.authority.client import AuthorityClient  # noqa: PLC0415

    return AuthorityClient(url, tokens)


def linked(call: KeyCall, store: Any, vehicle: bytes) -> None:
    """Link the authority of a vehicle, unless it is linked: with a token, or as a new account.

    Raises:
        LocalFault: The token file is empty, or the account is taken and no token was given.
    """
    from dkey.agent.key_authority import Desk  # noqa: PLC0415
    from dkey.agent.key_records import KeyLink  # noqa: PLC0415

    assert call.authority is not None
    book = store.keys.book(vehicle)
    if book.link is not None and book.link.url == call.authority:
        return
    token = _token(call, book.account)
    with _client(call.authority, {book.account: token}) as client:
        link = KeyLink(url=call.authority, token=token, key=client.public_key.point)
        Desk(store, vehicle, _Port(client), call.entropy).link(link)


def _token(call: KeyCall, account: str) -> str:
    if call.token_file is not None:
        token = call.token_file.read_text(encoding="ascii").strip()
        if not token:
            raise LocalFault(f"{call.token_file} is empty", hint="put the account's token into it")
        return token
    from dkey.authority.accounts import ENROLMENT  # noqa: PLC0415

    agreed = call.agree or (
        not call.as_json
        and click.confirm(
            f"register {account} at {call.authority}, and agree to its terms and to the use of"
            " personal data?",
            err=True,
        )
    )
    if not agreed:
        raise PolicyRefusal(
            RefusalCode.CONSENT_MISSING,
            "nobody agreed to the authority's terms",
            hint="agree with --agree, or give the token of an account with --token-file",
        )
    with _client(call.authority or "", {}) as client:
        token = str(client.register_account(account))
        for purpose in ENROLMENT:
            client.record_consent(account, account, purpose, version=_TERMS, channel="APP")
    return token
