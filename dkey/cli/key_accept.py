"""``dkey key accept``: take a key that somebody shares, or a list to carry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dkey.cli.key_call import KeyCall, key_command, waiting_until
from dkey.cli.key_files import read_small, write_private
from dkey.cli.options import Seconds
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode, WireError

__all__ = ["accept"]

_out = click.Path(dir_okay=False, path_type=Path)


@click.command()
@key_command
@click.argument("what", metavar="FILE|URL|TEXT", required=False)
@click.option("--pin", help="The PIN that the sharer told.")
@click.option("--out", type=_out, help="Write the request, or the receipt, to this file.")
@click.option("--answer", type=_out, help="What the sharer sent back; import the key in it.")
@click.option("--wait", is_flag=True, help="Stay until the key is here.")
@click.option("--timeout", "timeout_s", type=Seconds(), default=600.0, show_default=True)
def accept(call: KeyCall, what: str | None, **how: Any) -> None:
    """Accept an invitation: a file, the link to a mailbox, or the text of a QR code.

    - reads link or text from standard input, where no other user of the computer can see it.
    A withdrawal list that `dkey key show --list` wrote is taken too, to be carried to the vehicle.
    """
    with call.opened(create=True) as store:
        if how["answer"] is not None:
            _import(call, store, how)
        elif what is None:
            raise click.UsageError("what? give FILE, URL or TEXT, or --answer FILE")
        else:
            _accept(call, store, what, how)


def _accept(call: KeyCall, store: Any, what: str, how: dict[str, Any]) -> None:
    from dkey.agent.key_accepting import Friend  # noqa: PLC0415
    from dkey.lifecycle.invitation import ShareLink  # noqa: PLC0415

    friend = Friend(store, call.entropy)
    if what == "-":
        what = sys.stdin.readline()
    if _is_file(what):
        content = read_small(Path(what))
        if content[:1] == b"\xd2":  # a signed statement: tag 18
            _carry(call, store, friend, content)
            return
        link = _link_of(content)
    else:
        link = ShareLink.parse_text(what)
    if link.url is not None:
        _accept_relayed(call, store, friend, link, how)
        return
    exchange = friend.open(link.secret, link.envelope)
    exchange = _request(call, friend, exchange, how)
    fingerprint = friend.fingerprint(exchange)
    shown = {
        "id": exchange.share_id.hex(),
        "fingerprint": fingerprint,
        "request": None if how["out"] else exchange.envelope.decode("ascii"),
    }
    if how["out"] is not None:
        write_private(how["out"], exchange.envelope)
    where = how["out"] or exchange.envelope.decode("ascii")
    say = f"request {where}\ntell the sharer: {fingerprint}"
    call.tell(store, "waiting", say=f"{say}\nnext: dkey key accept --answer FILE", share=shown)


def _is_file(what: str) -> bool:
    if what.startswith(("dkey:", "http://", "https://")):
        return False
    if not Path(what).is_file():
        raise LocalFault(
            f"{what[:80]!r} is neither a file nor a link",
            hint="give the whole link that the sharer sent, in quotes, or the file",
        )
    return True


def _link_of(content: bytes) -> Any:
    from dkey.lifecycle.invitation import ShareLink  # noqa: PLC0415

    try:
        return ShareLink.parse_file(content)
    except WireError as exc:
        try:
            return ShareLink.parse_text(content.decode("ascii"))
        except UnicodeDecodeError:
            raise LocalFault(
                "the file is no invitation", hint="give the file that the sharer sent"
            ) from exc


def _request(call: KeyCall, friend: Any, exchange: Any, how: dict[str, Any]) -> Any:
    """Accept with a key; a PIN that is needed is asked for."""
    from dkey.crypto.secret import Secret  # noqa: PLC0415
    from dkey.lifecycle.share_states import ShareState  # noqa: PLC0415

    value = friend.value(exchange)
    pin = how["pin"]
    asks = value.invitation.needs_pin and value.state is ShareState.INVITED and pin is None
    if asks and not call.as_json:
        pin = str(click.prompt("PIN that the sharer told", err=True))
    secret = None if pin is None else Secret(pin.encode("ascii", "replace"))
    return friend.request(exchange.share_id, account=call.account, pin=secret)


def _accept_relayed(call: KeyCall, store: Any, friend: Any, link: Any, how: dict[str, Any]) -> None:
    from dkey.agent.key_post import FriendPost, Progress, claim_of  # noqa: PLC0415
    from dkey.agent.key_records import Post  # noqa: PLC0415
    from dkey.cli.key_relay import mailbox_of_url, relayed  # noqa: PLC0415

    base, mailbox_id = mailbox_of_url(link.url)
    own = store.vault.agree("seal", store.vault.public("seal")).reveal()
    post = Post(base=base, claim=claim_of(link.secret, own), mailbox=mailbox_id)
    with relayed(post, call.entropy) as mailbox:
        known = [each for each in friend.exchanges() if each.post == post]
        if known:
            exchange = known[0]
        else:
            exchange = friend.open(link.secret, mailbox.read(mailbox_id), post=post)
        exchange = _request(call, friend, exchange, how)
        box = FriendPost(friend, exchange.share_id, mailbox)
        box.ask()
        fingerprint = friend.fingerprint(exchange)
        shown = {"id": exchange.share_id.hex(), "fingerprint": fingerprint}
        progress = box.step()
        if progress is not Progress.DONE and not how["wait"]:
            say = f"asked for the key; tell the sharer: {fingerprint}"
            call.tell(store, "waiting", say=f"{say}\nnext: dkey key accept --wait URL", share=shown)
            return
        if progress is not Progress.DONE:
            click.echo(f"tell the sharer: {fingerprint}", err=True)
            _wait(box, how)
    _done(call, store, exchange, shown)


def _wait(box: Any, how: dict[str, Any]) -> None:
    from dkey.agent.key_post import Progress  # noqa: PLC0415

    for _left_s in waiting_until(how["timeout_s"], "waiting for the sharer"):
        if box.step() is Progress.DONE:
            return
    raise PolicyRefusal(
        RefusalCode.CODE_TIMEOUT,
        "the sharer did not answer in time",
        hint="accept the same link again; nothing is lost",
    )


def _import(call: KeyCall, store: Any, how: dict[str, Any]) -> None:
    from dkey.agent.key_accepting import Friend  # noqa: PLC0415

    friend = Friend(store, call.entropy)
    data = read_small(how["answer"])
    exchange = friend.answer(friend.find(data).share_id, data)
    if how["out"] is not None:
        write_private(how["out"], exchange.envelope)
    shown = {
        "id": exchange.share_id.hex(),
        "receipt": None if how["out"] else exchange.envelope.decode("ascii"),
    }
    _done(call, store, exchange, shown)


def _done(call: KeyCall, store: Any, exchange: Any, shown: dict[str, Any]) -> None:
    """Tell that the key is here; the authority too, where --authority links one."""
    call.vehicle = exchange.vehicle.hex()
    call.account = None
    vehicle = call.chosen(store)
    call.sync(store, vehicle)
    call.tell(
        store,
        say=f"the key to vehicle {vehicle.hex()} is here\nnext: dkey agent status, in range of it",
        share=shown,
    )


def _carry(call: KeyCall, store: Any, friend: Any, content: bytes) -> None:
    news = friend.carry(content)
    said = "it goes to the vehicle with this phone" if news else "this phone has one as new"
    call.tell(store, say=f"a withdrawal list: {said}", news=news)
