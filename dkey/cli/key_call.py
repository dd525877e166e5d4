"""What every ``dkey key`` command has: options, store, authority, and how it tells the keys."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from dkey.cli import exit_code
from dkey.cli.agent_call import AgentCall
from dkey.errors import DkeyError, LocalFault, PolicyRefusal
from dkey.lifecycle.account import account_form

__all__ = ["SCHEMA", "KeyCall", "in_words", "item_of", "key_command", "waiting_until"]

SCHEMA: Final = "dkey.key/1"
_POLL_S: Final = 1.5
_IN_WORDS: Final = {
    "PENDING": "invited",
    "NOT_SYNCED": "accepted, not used at the vehicle yet",
    "ACTIVE": "usable",
    "SUSPENDED": "suspended",
    "REVOKED": "revoked",
    "DECLINED": "declined",
    "EXPIRED": "expired",
    "REPLACED": "replaced",
    "FORGOTTEN": "forgotten by the vehicle",
}


class KeyCall(AgentCall):
    """One invocation of ``dkey key``."""

    def __init__(
        self,
        *,
        store: Path | None,
        passphrase_file: Path | None,
        vehicle: str | None,
        account: str | None,
        authority: str | None,
        token_file: Path | None,
        agree: bool,
        as_json: bool,
    ) -> None:
        super().__init__(
            store=store,
            passphrase_file=passphrase_file,
            vehicle=vehicle,
            link=None,
            timeout_s=10.0,
            as_json=as_json,
            trace=None,
        )
        self.account = None if account is None else account_form(account)
        self.authority = authority
        self.token_file = token_file
        self.agree = agree
        self._about: bytes | None = None
        self._reached: Any = None

    def chosen(self, store: Any, *, item: str | None = None) -> bytes:
        """Return the vehicle that the command is about, with its keys up to date.

        Args:
            store: Open.
            item: A key of it, as typed, where several vehicles are known.

        Raises:
            LocalFault: None, or several and none was chosen.
        """
        from dkey.agent.key_settling import settle  # noqa: PLC0415

        groups = [each.group_id for each in store.vehicles()]
        if self.group_id is not None:
            groups = [each for each in groups if each == self.group_id]
        if item is not None and len(groups) > 1:
            groups = [each for each in groups if _matches(store.keys.book(each), item)] or groups
        if not groups:
            raise LocalFault(
                "this phone has no key to a vehicle",
                hint="`dkey agent pair` pairs one, `dkey key accept` takes a shared key",
            )
        if len(groups) > 1:
            names = ", ".join(each.hex() for each in groups)
            raise LocalFault(f"several vehicles: {names}", hint="choose one with --vehicle")
        self._about = groups[0]
        known = store.keys.state.vehicle(groups[0])
        if known is None or self.account not in (None, known.account):
            store.keys.own(groups[0], account=self.account)
        settle(store, self.entropy)
        self.link_authority(store, groups[0])
        group: bytes = groups[0]
        return group

    @property
    def entropy(self) -> Any:
        """The system's random source."""
        from dkey.crypto.entropy import SystemEntropy  # noqa: PLC0415

        return SystemEntropy()

    # --- the authority ------------------------------------------------------------------------

    def link_authority(self, store: Any, vehicle: bytes) -> None:
        """Remember the authority that ``--authority`` names."""
        if self.authority is None:
            return
        from dkey.cli.key_authority import linked  # noqa: PLC0415

        linked(self, store, vehicle)

    def sync(self, store: Any, vehicle: bytes) -> Any:
        """Tell the authority what waits and take its word; None without one.

        Raises:
            PolicyRefusal: It refused what was just done.
        """
        book = store.keys.book(vehicle)
        if book.link is None:
            return None
        from dkey.agent.key_authority import Desk  # noqa: PLC0415
        from dkey.cli.key_authority import port  # noqa: PLC0415

        with port(book.link.url, {book.account: book.link.token}) as asked:
            self._reached = Desk(store, vehicle, asked, self.entropy).sync()
        if self._reached.refused:
            raise self._reached.refused[0]
        return self._reached

    # --- telling ------------------------------------------------------------------------------

    def tell(self, store: Any, result: str = "ok", *, say: str | None = None, **more: Any) -> None:
        """Print what came of the command: one JSON object, or words."""
        if self.as_json:
            self.print_object(store, result, None, **more)
        elif say is not None:
            click.echo(say)
        reached = self._reached
        if not self.as_json and reached is not None and not reached.reached:
            click.echo(
                f"the authority was not reached ({reached.text}); it is told later", err=True
            )

    def print_object(self, store: Any, result: str, code: str | None, **more: Any) -> None:
        """Print the one JSON object of a command."""
        click.echo(
            json.dumps({"schema": SCHEMA, "result": result, "code": code} | self.keys(store) | more)
        )

    def keys(self, store: Any) -> dict[str, Any]:
        """Return the keys that the command concerns, for JSON."""
        from dkey.agent.key_views import vehicle_lines  # noqa: PLC0415

        lines = () if store is None else vehicle_lines(store)
        about = self._about or self.group_id
        lines = tuple(each for each in lines if about in (None, each.vehicle))
        reached = None if self._reached is None else self._reached.reached
        return {
            "vehicles": [
                {
                    "vehicle": each.vehicle.hex(),
                    "account": each.account,
                    "key": each.paired.value,
                    "authority": each.authority,
                    "reached": reached,
                    "waiting": each.waiting,
                    "half_removed": each.half_removed,
                    "rolled_back": each.rolled_back,
                }
                for each in lines
            ],
            "keys": [
                {"vehicle": each.vehicle.hex(), **key.to_json()}
                for each in lines
                for key in each.keys
            ],
        }

    def failed(self, exc: DkeyError) -> None:
        """Print an error as JSON, with the keys as they are now."""
        from dkey.agent.api import error_json  # noqa: PLC0415

        code = exc.code.value if isinstance(exc, PolicyRefusal) else None
        result = {1: "refused", 3: "unreachable"}.get(exit_code(exc), "failed")
        try:
            with self.opened() as store:
                self.print_object(store, result, code, error=error_json(exc))
        except DkeyError:
            self.print_object(None, result, code, error=error_json(exc))


def in_words(key: Any) -> str:
    """Return the state of a key in words."""
    here = _IN_WORDS.get(key.here or "", "unknown to this phone")
    if key.state == "DISAGREES":
        theirs = _IN_WORDS.get(key.authority or "", "unknown")
        return f"DISAGREES: {here} here, {theirs} at the authority"
    words = str(_IN_WORDS.get(key.state, key.state))
    if key.here is None:
        return f"{words}, says the authority"
    if key.vehicle_knows is False:
        words += ", the vehicle does not know yet"
    if key.waiting:
        words += ", the authority does not know yet"
    return words


def waiting_until(timeout_s: float, what: str) -> Any:
    """Yield until the time is over, with a pause and a line of progress each time."""
    end_s = time.monotonic() + timeout_s
    told_s = 0.0
    while (left_s := end_s - time.monotonic()) > 0:
        yield left_s
        if time.monotonic() - told_s > 10:
            told_s = time.monotonic()
            click.echo(f"{what}; {max(end_s - told_s, 0):.0f} s left", err=True)
        time.sleep(min(_POLL_S, max(end_s - time.monotonic(), 0)))


def item_of(store: Any, vehicle: bytes, text: str) -> bytes:
    """Return the key that is meant: its id, the beginning of it, or its account.

    Raises:
        LocalFault: None, or several.
    """
    from dkey.agent.key_views import vehicle_line  # noqa: PLC0415

    keys = vehicle_line(store, vehicle).keys
    found = [k for k in keys if k.account == account_form(text)] or [
        k for k in keys if len(text) >= 4 and k.item.hex().startswith(text.lower())
    ]
    over = ("REVOKED", "DECLINED", "EXPIRED", "REPLACED")
    live = [each for each in found if each.here not in over]
    for chosen in (live, found):
        if len(chosen) == 1:
            item: bytes = chosen[0].item
            return item
    raise LocalFault(
        f"no key is named {text!r}" if not found else f"several keys are named {text!r}",
        hint="`dkey key list` shows their ids; 4 digits of one are enough",
    )


def _matches(book: Any, text: str) -> bool:
    return any(
        each.account == account_form(text) or each.item.hex().startswith(text.lower())
        for each in book.ring.keys(None)
    )


def key_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has; give them as one value."""

    @functools.wraps(command)
    def called(**values: Any) -> Any:
        names = (
            *("store", "passphrase_file", "vehicle"),
            *("account", "authority", "token_file", "agree", "as_json"),
        )
        call = KeyCall(**{name: values.pop(name) for name in names})
        try:
            return command(call, **values)
        except DkeyError as exc:
            if call.as_json:
                call.failed(exc)
            elif isinstance(exc, PolicyRefusal):
                hint = f"\n  try: {exc.hint}" if exc.hint else ""
                text = Exception.__str__(exc)
                click.echo(f"error: {text}\n  why: {exc.code.value}{hint}", err=True)
            else:
                raise
            return click.get_current_context().exit(exit_code(exc))

    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--agree", is_flag=True, help="Agree to the authority's terms."),
        click.option("--token-file", type=file, help="The account's token at the authority."),
        click.option("--authority", metavar="URL", help="Link this authority; it is remembered."),
        click.option("--account", help="Whose phone this is, in the form of an e-mail address."),
        click.option("--vehicle", metavar="ID", help="Which vehicle, if there are several."),
        click.option(
            "--passphrase-file", type=file, help="The vault's passphrase is in this file."
        ),
        click.option(
            "--store",
            type=click.Path(file_okay=False, path_type=Path),
            envvar="DKEY_AGENT_STORE",
            help="Folder of keys (default: the user's data folder).",
        ),
    ):
        called = option(called)
    return called
