"""``dkey key share``: offer a key, compare, sign, hand it over."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from dkey.cli.key_call import KeyCall, item_of, key_command, waiting_until
from dkey.cli.key_files import WHEN, draw_qr, read_small, write_private
from dkey.cli.options import Seconds
from dkey.errors import AuthenticationError, LocalFault, PolicyRefusal, RefusalCode

__all__ = ["share"]

_DEFAULT_DAYS: Final = 365
_ROLES: Final = {"actual-user": "ACTUAL_USER", "associate": "ASSOCIATE", "provider": "PROVIDER"}
_PERMISSIONS: Final = {"entry": "ENTRY", "start": "ENTRY_AND_START"}
_out = click.Path(dir_okay=False, path_type=Path)


@click.command()
@key_command
@click.argument("to", metavar="ACCOUNT", required=False)
@click.option("--permission", type=click.Choice([*_PERMISSIONS]), default="start")
@click.option("--from", "begins_s", type=WHEN, help="First moment: +12h, 2026-12-31T18:00 (UTC).")
@click.option("--until", "ends_s", type=WHEN, help="Last moment: +30d; a year without.")
@click.option("--role", type=click.Choice([*_ROLES]), default="associate", show_default=True)
@click.option("--name", "vehicle_name", help="What the friend sees as the vehicle's name.")
@click.option("--pin", is_flag=True, help="Ask for a PIN that goes another way than the link.")
@click.option("--out", type=_out, help="Write the invitation, or the answer, to this file.")
@click.option("--qr", is_flag=True, help="Draw the invitation as a QR code.")
@click.option("--relay", metavar="URL", help="Leave the invitation in a mailbox there.")
@click.option("--wait", is_flag=True, help="Stay until the friend has the key.")
@click.option("--timeout", "timeout_s", type=Seconds(), default=600.0, show_default=True)
@click.option("--request", "request", type=_out, help="What the friend sent; sign the key in it.")
@click.option("--compared", help="The 12 digits that the friend told; asked for without.")
@click.option("--yes", is_flag=True, help="Do not ask to compare: the way to the friend is safe.")
@click.option("--booking", help="A provider's booking number.")
@click.option("--purpose", default="a service", show_default=True, help="Of the booking.")
@click.option("--consent", is_flag=True, help="Agree that the provider gets data (provider only).")
@click.option("--iphone", is_flag=True, help="The order comes from an iPhone.")
def share(call: KeyCall, to: str | None, **how: Any) -> None:
    """Offer a key to ACCOUNT; or with --request, sign the key that a friend sent.

    The id of an invitation in place of ACCOUNT goes on with that one; the id of a service that a
    sharee ordered hands over its key. A sharee's own order goes to the owner, by the authority.
    """
    with call.opened() as store:
        if how["request"] is not None:
            _sign_file(call, store, how)
            return
        if to is None:
            raise click.UsageError("whom? give ACCOUNT, or --request FILE")
        item = None if "@" in to else to
        vehicle = call.chosen(store, item=item)
        if item is not None:
            share_id = _known(call, store, vehicle, item, how)
        elif _orders(store, vehicle, how):
            _order(call, store, vehicle, to, how)
            return
        else:
            offer = _offer(to, how)
            share_id = _invite(call, store, vehicle, offer)
        _hand_over(call, store, share_id, how)


def _known(call: KeyCall, store: Any, vehicle: bytes, text: str, how: dict[str, Any]) -> bytes:
    """Return the share that is gone on with; one that a sharee ordered is offered now."""
    from dkey.agent.key_authority import Desk  # noqa: PLC0415
    from dkey.cli.key_authority import port  # noqa: PLC0415
    from dkey.lifecycle.roles import Permission  # noqa: PLC0415

    call.sync(store, vehicle)
    item = item_of(store, vehicle, text)
    book = store.keys.book(vehicle)
    if book.link is None or book.ring.share(item) is not None:
        return item
    permission = Permission(_PERMISSIONS[how["permission"]])
    with port(book.link.url, {book.account: book.link.token}) as asked:
        offer = Desk(store, vehicle, asked, call.entropy).ordered(item, permission)
    return _invite(call, store, vehicle, replace(offer, pin=how["pin"], relay=how["relay"]))


def _orders(store: Any, vehicle: bytes, how: dict[str, Any]) -> bool:
    """Whether this is a sharee's order, which the owner's side hands over."""
    from dkey.lifecycle.roles import Role  # noqa: PLC0415

    return how["role"] == "provider" and store.keys.book(vehicle).role is Role.ASSOCIATE


def _order(call: KeyCall, store: Any, vehicle: bytes, to: str, how: dict[str, Any]) -> None:
    from dkey.agent.key_sharing import Sharer  # noqa: PLC0415

    share_id = Sharer(store, call.entropy).order(vehicle, _offer(to, how))
    reached = call.sync(store, vehicle)
    told = [each for each in reached.effects if each.get("effect") == "OwnerNotified"]
    say = "ordered, and the owner was told" if told else "ordered; the owner is told later"
    call.tell(
        store,
        "waiting",
        say=f"{say}\nnext: the owner runs `dkey key share {share_id.hex()[:8]}`",
        share={"id": share_id.hex(), "owner_notified": bool(told)},
    )


def _invite(call: KeyCall, store: Any, vehicle: bytes, offer: Any) -> bytes:
    """Offer a key, here and at the authority; return its share id."""
    from dkey.agent.key_sharing import Sharer  # noqa: PLC0415

    exchange = Sharer(store, call.entropy).invite(vehicle, offer)
    call.sync(store, vehicle)
    return bytes(exchange.share_id)


def _offer(to: str, how: dict[str, Any]) -> Any:
    """Return what the options offer."""
    from dkey.agent.key_sharing import Offer  # noqa: PLC0415
    from dkey.lifecycle.roles import Permission, Role  # noqa: PLC0415

    now_s = int(time.time())
    begins_s = how["begins_s"] or now_s
    ends_s = how["ends_s"] or now_s + _DEFAULT_DAYS * 86_400
    role = Role(_ROLES[how["role"]])
    permission = Permission(_PERMISSIONS[how["permission"]])
    return Offer(
        account=to,
        role=role,
        permission=permission,
        not_before_s=begins_s,
        not_after_s=ends_s,
        pin=how["pin"],
        vehicle_name=how["vehicle_name"],
        relay=how["relay"],
        booking=_booking(to, permission, begins_s, ends_s, how),
    )


def _booking(to: str, permission: Any, begins_s: int, ends_s: int, how: dict[str, Any]) -> Any:
    from dkey.lifecycle.commands import Booking  # noqa: PLC0415
    from dkey.lifecycle.roles import Permission  # noqa: PLC0415

    if how["booking"] is None:
        return None
    return Booking(
        booking_id=how["booking"],
        provider=to,
        purpose=how["purpose"],
        begins_s=begins_s,
        ends_s=ends_s,
        needs_start=permission is Permission.ENTRY_AND_START,
        third_party_consent=how["consent"],
        iphone=how["iphone"],
    )


def _hand_over(call: KeyCall, store: Any, share_id: bytes, how: dict[str, Any]) -> None:
    """Give the invitation to the sharer as it was asked for, and wait where that was wished."""
    from dkey.agent.key_post import SharerPost  # noqa: PLC0415
    from dkey.agent.key_sharing import Sharer  # noqa: PLC0415
    from dkey.cli.key_relay import relayed  # noqa: PLC0415

    sharer = Sharer(store, call.entropy)
    exchange = sharer.find(share_id)
    if exchange.post is not None:
        with relayed(exchange.post, call.entropy) as mailbox:
            exchange = SharerPost(sharer, share_id, mailbox).leave()
    value, link = sharer.value(exchange), sharer.link(exchange)
    shown: dict[str, Any] = {
        "id": share_id.hex(),
        "link": link.to_text(),
        "pin": None if value.pin is None else value.pin.reveal().decode("ascii"),
        "expires_s": value.invitation.expires_s,
    }
    if how["out"] is not None:
        write_private(how["out"], link.to_file())
    if how["wait"] and exchange.post is not None:
        _echo_invitation(call, shown, how, err=True)
        _wait(call, store, share_id, how)
        call.sync(store, exchange.vehicle)
        call.tell(store, say="the friend has the key", share=shown)
        return
    if not call.as_json:
        _echo_invitation(call, shown, how, err=False)
        _echo_next(exchange.post is not None, share_id, how)
    call.tell(store, "waiting", share=shown)


def _echo_invitation(
    call: KeyCall, shown: dict[str, Any], how: dict[str, Any], *, err: bool
) -> None:
    """Show link and PIN; while a JSON object is waited for, on standard error."""
    if how["qr"] and not call.as_json:
        draw_qr(shown["link"])
    if how["out"] is not None:
        click.echo(f"invitation {how['out']}", err=err)
    else:
        click.echo(f"invitation {shown['link']}", err=err)
    if shown["pin"] is not None:
        click.echo(f"PIN        {shown['pin']}  (tell it another way than the link)", err=err)


def _echo_next(relayed: bool, share_id: bytes, how: dict[str, Any]) -> None:
    words = share_id.hex()[:8]
    if how["out"] is None:
        click.echo("whoever has the link can ask for the key; send it to the friend only")
    if relayed:
        click.echo(f"next: dkey key share {words} --wait")
    else:
        click.echo("next: the friend runs `dkey key accept`, then dkey key share --request FILE")


def _wait(call: KeyCall, store: Any, share_id: bytes, how: dict[str, Any]) -> None:
    """Wait at the relay until the friend has the signed key.

    Raises:
        PolicyRefusal: CODE_TIMEOUT, the friend did not come; CODE_LOCKED_OUT.
    """
    from dkey.agent.key_post import Progress, SharerPost  # noqa: PLC0415
    from dkey.agent.key_sharing import Sharer  # noqa: PLC0415
    from dkey.cli.key_relay import relayed  # noqa: PLC0415

    sharer = Sharer(store, call.entropy)
    exchange = sharer.find(share_id)
    assert exchange.post is not None
    with relayed(exchange.post, call.entropy) as mailbox:
        post = SharerPost(sharer, share_id, mailbox)
        for _left_s in waiting_until(how["timeout_s"], "waiting for the friend"):
            try:
                progress = post.step()
            except PolicyRefusal as exc:
                if exc.code is not RefusalCode.NOT_AUTHORISED:
                    raise
                click.echo(f"{Exception.__str__(exc)}; waiting for another try", err=True)
                continue
            if progress is Progress.DONE:
                return
            if progress is Progress.COMPARE:
                value = sharer.value(sharer.find(share_id))
                _compare(call, value.invitation.account, value.fingerprint, how)
                sharer.sign(share_id, value.fingerprint)
                post.answer()
    raise PolicyRefusal(
        RefusalCode.CODE_TIMEOUT,
        "the friend did not finish in time",
        hint=f"go on with `dkey key share {share_id.hex()[:8]} --wait`",
    )


def _compare(call: KeyCall, account: str, fingerprint: str, how: dict[str, Any]) -> None:
    """Let the sharer say that both see the same digits.

    Raises:
        PolicyRefusal: NOT_AUTHORISED, they see others.
    """
    if how["compared"] is not None:
        same = how["compared"].replace(" ", "") == fingerprint.replace(" ", "")
    elif how["yes"]:
        same = True
    elif call.as_json:
        raise LocalFault(
            f"the digits are {fingerprint}: compare them with the friend",
            hint="say that they are the same with --compared DIGITS or --yes",
        )
    else:
        click.echo(f"{account} asks for the key. Compare on the phone: {fingerprint}", err=True)
        same = click.confirm("does the friend see the same digits?", err=True)
    if not same:
        raise PolicyRefusal(
            RefusalCode.NOT_AUTHORISED,
            "the friend sees other digits: somebody else asked for the key",
            hint="revoke the invitation, and make a new one",
        )


def _sign_file(call: KeyCall, store: Any, how: dict[str, Any]) -> None:
    """Sign the key in a request's file, and write the answer; or take a receipt."""
    from dkey.agent.key_settling import settle  # noqa: PLC0415
    from dkey.agent.key_sharing import Sharer  # noqa: PLC0415
    from dkey.lifecycle.share_states import ShareState  # noqa: PLC0415

    settle(store, call.entropy)
    sharer = Sharer(store, call.entropy)
    try:
        exchange = sharer.take(read_small(how["request"]))
    except AuthenticationError as exc:
        raise PolicyRefusal(
            RefusalCode.KEY_UNKNOWN,
            Exception.__str__(exc),
            hint="give the file that the friend's `dkey key accept --out` wrote",
        ) from exc
    call.vehicle = call.vehicle or exchange.vehicle.hex()
    vehicle = call.chosen(store)
    value = sharer.value(exchange)
    if value.state is ShareState.IMPORTED:
        call.tell(store, say="the friend has the key", share={"id": exchange.share_id.hex()})
        return
    fingerprint = value.fingerprint
    if value.answer is None:
        _compare(call, value.invitation.account, fingerprint, how)
        exchange = sharer.sign(exchange.share_id, fingerprint)
    if how["out"] is not None:
        write_private(how["out"], exchange.envelope)
    call.sync(store, vehicle)
    shown = {
        "id": exchange.share_id.hex(),
        "fingerprint": fingerprint,
        "answer": None if how["out"] is not None else exchange.envelope.decode("ascii"),
    }
    where = how["out"] or exchange.envelope.decode("ascii")
    say = f"signed for {value.invitation.account}\nanswer {where}"
    call.tell(
        store, say=f"{say}\nnext: the friend runs `dkey key accept --answer FILE`", share=shown
    )
