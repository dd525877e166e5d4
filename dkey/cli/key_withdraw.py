"""``dkey key suspend``, ``resume``, ``revoke``, ``veto`` and ``transfer``."""

from __future__ import annotations

from typing import Any

import click

from dkey.cli.key_call import KeyCall, in_words, item_of, key_command
from dkey.errors import LinkError, LocalFault, PolicyRefusal

__all__ = ["resume", "revoke", "suspend", "transfer", "veto"]


@click.command()
@key_command
@click.argument("key_id", metavar="ID")
def suspend(call: KeyCall, key_id: str) -> None:
    """Suspend the key ID until it is resumed."""
    _withdraw(call, key_id, "Suspend")


@click.command()
@key_command
@click.argument("key_id", metavar="ID")
def resume(call: KeyCall, key_id: str) -> None:
    """Let the key ID work again; suspensions of others stay."""
    _withdraw(call, key_id, "Resume")


@click.command()
@key_command
@click.argument("key_id", metavar="ID")
def revoke(call: KeyCall, key_id: str) -> None:
    """Withdraw the key ID for good, or take its invitation back."""
    _withdraw(call, key_id, "Revoke")


@click.command()
@key_command
@click.argument("whom", metavar="ACCOUNT", required=False)
@click.option("--all", "everybody", is_flag=True, help="Forbid every share.")
@click.option("--lift", is_flag=True, help="Take the veto back; what it ended stays ended.")
def veto(call: KeyCall, whom: str | None, everybody: bool, lift: bool) -> None:
    """Forbid that this vehicle is shared with ACCOUNT, or with anybody; a share there is ends."""
    from dkey.lifecycle.account import account_form  # noqa: PLC0415
    from dkey.lifecycle.commands import LiftVeto, Veto  # noqa: PLC0415

    if (whom is None) is not everybody:
        raise click.UsageError("give ACCOUNT or --all")
    with call.opened() as store:
        vehicle = call.chosen(store)
        kind = LiftVeto if lift else Veto
        with store.keys.change() as change:
            actor = change.book(vehicle).account
            account = None if whom is None else account_form(whom)
            change.command(vehicle, kind(actor=actor, account=account))
        call.sync(store, vehicle)
        call.tell(store, say="lifted" if lift else "forbidden; what was shared is revoked")


@click.command()
@key_command
@click.option("--yes", is_flag=True, help="Do not ask.")
def transfer(call: KeyCall, yes: bool) -> None:
    """End every key of the vehicle, for its next owner. This cannot be taken back."""
    from dkey.lifecycle.commands import AUTHORITY, Cleared, Side, Transfer  # noqa: PLC0415

    with call.opened() as store:
        vehicle = call.chosen(store)
        if not yes and (
            call.as_json or not click.confirm("end all keys, yours too, for good?", err=True)
        ):
            raise LocalFault("nothing was done", hint="say --yes")
        with store.keys.change() as change:
            book = change.book(vehicle)
            change.command(vehicle, Transfer(actor=book.account))
            if book.link is None:  # there is no other account to clear than this phone's
                account = Cleared(actor=AUTHORITY, side=Side.ACCOUNT)
                change.command(vehicle, account, tell=False)
        call.sync(store, vehicle)
        call.tell(
            store,
            say="every key is ended here; the vehicle still holds them until it is cleared\n"
            "next: dkey agent status in range of the vehicle, then clear it at its head unit",
        )


def _withdraw(call: KeyCall, key_id: str, name: str) -> None:
    """Do one command to one key, here at once and at the authority when it is reached."""
    from dkey.agent.key_sharing import Sharer  # noqa: PLC0415
    from dkey.agent.key_views import vehicle_line  # noqa: PLC0415
    from dkey.lifecycle import commands  # noqa: PLC0415

    with call.opened() as store:
        vehicle = call.chosen(store, item=key_id)
        item = item_of(store, vehicle, key_id)
        book = store.keys.book(vehicle)
        kind = getattr(commands, name)
        with store.keys.change() as change:
            change.command(vehicle, kind(actor=book.account, item=item))
            if not book.owned and book.link is None:
                raise LocalFault(
                    "only the owner's phone signs lists of what is withdrawn",
                    hint="link the authority with --authority, or do it at the head unit",
                )
            if name == "Revoke":
                Sharer(store, call.entropy).stop(change, item)
        if name == "Revoke":
            _close_mailbox(call, store, item)
        call.sync(store, vehicle)
        key = next(each for each in vehicle_line(store, vehicle).keys if each.item == item)
        call.tell(store, say=_said(key), key=key.to_json())


def _said(key: Any) -> str:
    words = f"{key.account or key.item.hex()[:8]}: {in_words(key)}"
    if key.vehicle_knows is False:
        words += "\nnext: dkey agent status in range of the vehicle; any phone of it may tell it"
    return words


def _close_mailbox(call: KeyCall, store: Any, item: bytes) -> None:
    """Delete the mailbox of an invitation; a relay that is away forgets it by itself."""
    from dkey.agent.key_post import SharerPost  # noqa: PLC0415
    from dkey.agent.key_records import End  # noqa: PLC0415
    from dkey.agent.key_sharing import Sharer  # noqa: PLC0415
    from dkey.cli.key_relay import relayed  # noqa: PLC0415

    exchange = store.keys.state.exchange(item, End.SHARER)
    if exchange is None or exchange.post is None or exchange.post.mailbox is None:
        return
    try:
        with relayed(exchange.post, call.entropy) as mailbox:
            SharerPost(Sharer(store, call.entropy), item, mailbox).withdraw()
    except (LinkError, PolicyRefusal) as exc:
        click.echo(f"the mailbox stays until it expires: {Exception.__str__(exc)}", err=True)
