"""The agent and the authority of a vehicle: what waits is told, the two sides are compared.

The authority itself is somebody else's program; :class:`AuthorityPort` is what is used of it.
Nothing here guesses: where the sides differ, both are kept and shown (specs/agent.md §5).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from dkey.agent.key_records import KeyLink, Kind
from dkey.agent.key_sharing import Offer, Sharer
from dkey.crypto.p256 import PublicKey
from dkey.errors import LinkError, PolicyRefusal, RefusalCode, RemoteFault
from dkey.lifecycle.attestation import read_attestation
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.command_codec import decode
from dkey.lifecycle.commands import (
    AUTHORITY,
    VEHICLE,
    Accept,
    Activate,
    AddCard,
    Booking,
    Found,
    Invite,
    PartyKind,
    Revoke,
)
from dkey.lifecycle.policy import PROVIDER_GRACE_MIN
from dkey.lifecycle.ring_state import ShareState
from dkey.lifecycle.roles import CardProvenance, Permission, Role
from dkey.lifecycle.withdrawal import verify_withdrawal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dkey.agent.key_book import Change
    from dkey.agent.key_records import VehicleBook, Waiting
    from dkey.agent.store import AgentStore
    from dkey.crypto.entropy import Entropy
    from dkey.lifecycle.commands import Command

__all__ = ["AuthorityPort", "Desk", "Reached"]


class _Outcome(Protocol):
    @property
    def effects(self) -> Iterable[Mapping[str, Any]]:
        """What the command did."""


class _Key(Protocol):
    @property
    def item(self) -> str:
        """In hex."""

    @property
    def role(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def account(self) -> str | None: ...


class _Keys(Protocol):
    @property
    def keys(self) -> Iterable[_Key]:
        """Those that the actor may see."""


class _Booked(Protocol):
    @property
    def share_id(self) -> str:
        """In hex."""

    @property
    def booking_id(self) -> str: ...

    @property
    def provider(self) -> str: ...

    @property
    def purpose(self) -> str: ...

    @property
    def begins_s(self) -> int: ...

    @property
    def ends_s(self) -> int: ...


class AuthorityPort(Protocol):
    """One authority, as the account of this phone may ask it."""

    def execute(self, vehicle: bytes, command: Command) -> _Outcome:
        """Ask for a command; PolicyRefusal when a rule says no, LinkError without an answer."""

    def keys(self, vehicle: bytes, actor: str) -> _Keys:
        """Return the keys that the actor may see; PolicyRefusal to one who has none."""

    def withdrawal_list(self, vehicle: bytes, actor: str) -> bytes:
        """Return the newest signed withdrawal list."""

    def bookings(self, vehicle: bytes, actor: str) -> Iterable[_Booked]:
        """Return the bookings that the actor may see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How it went with the authority.

    Attributes:
        reached: Whether it answered.
        text: Why not.
        refused: What it refused just now, by the entry that waited.
        effects: What it did just now.
    """

    reached: bool
    text: str = ""
    refused: tuple[PolicyRefusal, ...] = ()
    effects: tuple[Mapping[str, Any], ...] = ()


_DONE: Final = (RefusalCode.REPLAY, RefusalCode.ALREADY_LINKED)
"""What a command is refused with that was carried out before its answer was lost."""


class Desk:
    """What this phone has to do with the authority of one vehicle."""

    def __init__(
        self, store: AgentStore, vehicle: bytes, port: AuthorityPort, entropy: Entropy
    ) -> None:
        self._store = store
        self._book = store.keys
        self._vehicle = vehicle
        self._port = port
        self._sharer = Sharer(store, entropy)

    def link(self, link: KeyLink) -> None:
        """Remember the authority; it is told of an owner whom it does not know, or of a taken key.

        Raises:
            LinkError: It did not answer.
        """
        PublicKey.parse(link.key)
        book = self._book.book(self._vehicle)
        news = self._accepted(book) if not book.owned else self._founded(book)
        with self._book.change() as change:
            change.link(self._vehicle, link)
            if news is not None:
                change.wait(self._vehicle, news)

    def _founded(self, book: VehicleBook) -> Command | None:
        """Return what makes a person the owner there; a corporation's owner it knows by itself."""
        owner = book.ring.owner
        if owner is None or owner.kind is PartyKind.CORPORATE or self._member(owner.account):
            return None
        epoch = self._store.vehicle(self._vehicle).vehicle.owner_epoch
        return Found(actor=owner.account, owner=owner, key_x=book.ring.owner_key_x, epoch=epoch)

    def _accepted(self, book: VehicleBook) -> Command:
        """Return what tells that this phone took its key; the same word again changes nothing."""
        claims = read_attestation(book.chain[-1]).claims
        key_x = claims.public_key[1:33]
        return Accept(actor=book.account, share_id=claims.share_id, key_x=key_x)

    def ordered(self, share_id: bytes, permission: Permission) -> Offer:
        """Return what somebody ordered for a provider, for the owner's side to hand over.

        Raises:
            PolicyRefusal: KEY_UNKNOWN, there is no such order.
            LinkError: The authority did not answer.
        """
        account = self._book.book(self._vehicle).account
        for each in self._port.bookings(self._vehicle, account):
            if each.share_id == share_id.hex():
                booking = Booking(
                    booking_id=each.booking_id,
                    provider=each.provider,
                    purpose=each.purpose,
                    begins_s=each.begins_s,
                    ends_s=each.ends_s,
                    needs_start=permission is Permission.ENTRY_AND_START,
                    third_party_consent=True,  # or the authority had not taken the order
                )
                return Offer(
                    account=each.provider,
                    role=Role.PROVIDER,
                    permission=permission,
                    not_before_s=each.begins_s,
                    not_after_s=each.ends_s + PROVIDER_GRACE_MIN * 60,
                    booking=booking,
                    share_id=share_id,
                )
        raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, "nobody ordered such a key")

    def sync(self) -> Reached:
        """Tell what waits, then take the authority's keys and its list."""
        refused: list[PolicyRefusal] = []
        effects: list[Mapping[str, Any]] = []
        try:
            for waiting in self._book.book(self._vehicle).waiting:
                self._tell(waiting, refused, effects)
            self._take_keys()
            self._take_list()
        except (LinkError, RemoteFault) as exc:  # what does not verify is no answer
            return Reached(
                reached=False,
                text=Exception.__str__(exc),
                refused=tuple(refused),
                effects=tuple(effects),
            )
        return Reached(reached=True, refused=tuple(refused), effects=tuple(effects))

    def _tell(
        self,
        waiting: Waiting,
        refused: list[PolicyRefusal],
        effects: list[Mapping[str, Any]],
    ) -> None:
        command = decode(waiting.command)
        try:
            done = tuple(self._port.execute(self._vehicle, command).effects)
        except PolicyRefusal as exc:
            if exc.code in _DONE and self._was_done(command):
                self._answered(waiting, command, None)
                return
            refused.append(exc)
            self._answered(waiting, command, exc)
            return
        effects.extend(done)
        self._answered(waiting, command, None, done)

    def _answered(
        self,
        waiting: Waiting,
        command: Command,
        refusal: PolicyRefusal | None,
        effects: tuple[Mapping[str, Any], ...] = (),
    ) -> None:
        """Note the answer; an invitation that was refused is taken back in the same commit."""
        code = None if refusal is None else refusal.code.value
        text = "" if refusal is None else Exception.__str__(refusal)
        with self._book.change() as change:
            if all(each.number != waiting.number for each in change.book(self._vehicle).waiting):
                return  # another process was faster
            change.add(Kind.ANSWERED, [self._vehicle, waiting.number, code, text])
            if isinstance(command, Invite):
                self._invited(change, command, refused=refusal is not None, effects=effects)

    def _invited(
        self,
        change: Change,
        command: Invite,
        *,
        refused: bool,
        effects: tuple[Mapping[str, Any], ...],
    ) -> None:
        book = change.book(self._vehicle)
        share = book.ring.share(command.share_id)
        if refused and share is not None and share.ended is None:
            taken_back = Revoke(actor=book.account, item=command.share_id)
            change.command(self._vehicle, taken_back, tell=False)
            self._sharer.stop(change, command.share_id)
        for each in effects:
            if each.get("effect") == "KeyOffered" and each.get("item") == command.share_id.hex():
                self._sharer.placed(change, command.share_id, int(each["slot"]))

    def _was_done(self, command: Command) -> bool:
        """Whether a refused command had been carried out before its answer was lost."""
        if isinstance(command, Found):
            return self._member(command.actor)
        if isinstance(command, Invite):
            found = self._port.keys(self._vehicle, command.actor).keys
            return any(each.item == command.share_id.hex() for each in found)
        return False

    def _member(self, account: str) -> bool:
        try:
            self._port.keys(self._vehicle, account)
        except PolicyRefusal:
            return False
        return True

    def _take_keys(self) -> None:
        book = self._book.book(self._vehicle)
        try:
            found = tuple(self._port.keys(self._vehicle, book.account).keys)
        except PolicyRefusal:
            found = ()
        rows = [[bytes.fromhex(k.item), str(k.role), str(k.state), k.account] for k in found]
        known = (
            []
            if book.theirs is None
            else [[each.item, each.role, each.state, each.account] for each in book.theirs]
        )
        with self._book.change() as change:
            if book.theirs is None or rows != known:
                change.add(Kind.THEIRS, [self._vehicle, change.now_s, rows])
            self._follow(change)

    def _follow(self, change: Change) -> None:
        """Take what only the vehicle and the authority can know: first uses, and cards."""
        book = change.book(self._vehicle)
        for each in book.theirs or ():
            share = book.ring.share(each.item)
            if (
                share is not None
                and share.state is ShareState.ACTIVE
                and not share.confirmed
                and each.state == "ACTIVE"
            ):
                done = Activate(actor=AUTHORITY, share_id=each.item)
                change.command(self._vehicle, done, tell=False)
            card = (each.role, each.state) == ("CARD", "ACTIVE")
            if card and book.owned and each.item not in book.ring.spent:
                added = AddCard(actor=VEHICLE, card=each.item, provenance=CardProvenance.PURCHASED)
                with suppress(PolicyRefusal):  # one card more than this phone can hold
                    change.command(self._vehicle, added, tell=False)

    def _take_list(self) -> None:
        book = self._book.book(self._vehicle)
        if book.link is None:
            return
        try:
            raw = self._port.withdrawal_list(self._vehicle, book.account)
        except PolicyRefusal:
            return
        key = PublicKey.parse(book.link.key)
        verify_withdrawal(raw, key, issuer=Issuer.AUTHORITY, vehicle=self._vehicle)
        with self._book.change() as change:
            change.take_list(self._vehicle, raw)
