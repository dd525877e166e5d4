"""The agent's book of keys: every step is one commit of the ledger, made before anything leaves.

Whoever holds an open store has its book (:attr:`dkey.agent.store.AgentStore.keys`). Several
processes may use one store: a change reads first what the others committed, inside its transaction.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from dkey.access.delivery import BODY_AT, RECEIPT_AT, mailbox_of
from dkey.agent.key_records import (
    BookState,
    Exchange,
    KeyLink,
    Kind,
    VehicleBook,
    fold,
)
from dkey.codec import cbor
from dkey.errors import DkeyError, LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.account import account_form
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.command_codec import encode
from dkey.lifecycle.commands import AUTHORITY, Found, Party, PartyKind
from dkey.lifecycle.flags import Flags
from dkey.lifecycle.ledger import Entry
from dkey.lifecycle.parcel import KeyParcel, VehicleReceipt
from dkey.lifecycle.plain import to_plain
from dkey.lifecycle.ring import apply
from dkey.lifecycle.ring_value import Ring
from dkey.lifecycle.withdrawal import read_withdrawal, sign_withdrawal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dkey.access.mailbox import Mailbox
    from dkey.agent.store import AgentStore
    from dkey.lifecycle.commands import Command
    from dkey.lifecycle.ring_effects import Effect

__all__ = ["DEFAULT_ACCOUNT", "Change", "KeyBook"]

DEFAULT_ACCOUNT: Final = "owner@localhost"
"""The account of an owner who has named none, as without an authority (ours)."""
_SNAPSHOT_EVERY: Final = 100


class Change:
    """One commit in the making; its transaction is open.

    Attributes:
        state: What the book says, with this change.
        now_s: The time of the change, seconds since 1970.
    """

    def __init__(self, store: AgentStore, state: BookState, seq: int, now_s: int) -> None:
        self._store = store
        self.state = state
        self.seq = seq
        self.now_s = now_s

    def add(self, kind: Kind, value: Any) -> int:
        """Append an entry and return its number."""
        body = cbor.encode(value)
        self.seq = self._store.ledger.append(kind, body)
        self.state = fold(self.state, Entry(seq=self.seq, kind=kind, body=body))
        return self.seq

    def book(self, vehicle: bytes) -> VehicleBook:
        """Return the keys of a vehicle.

        Raises:
            LocalFault: This phone has none.
        """
        return _known(self.state, vehicle)

    def command(self, vehicle: bytes, command: Command, *, tell: bool = True) -> tuple[Effect, ...]:
        """Do a command to the keys, sign the list that follows, and keep it for the authority.

        Args:
            vehicle: Whose keys.
            command: What is wanted.
            tell: Whether the authority has to be told, where one is linked.

        Raises:
            PolicyRefusal: A rule says no; nothing was added.
        """
        book = self.book(vehicle)
        _, effects = apply(book.ring, command, at_s=self.now_s)
        self.add(Kind.COMMAND, [vehicle, self.now_s, encode(command)])
        self._sign_list(vehicle)
        if tell and book.link is not None:
            self.wait(vehicle, command)
        return effects

    def wait(self, vehicle: bytes, command: Command) -> None:
        """Keep a command for the authority."""
        self.add(Kind.WAIT, [vehicle, encode(command)])

    def begin(
        self, ring: Ring, account: str, *, chain: Sequence[bytes] = (), root: bytes = b""
    ) -> None:
        """Begin the keys of a vehicle anew."""
        self.add(Kind.RING, [ring.vehicle, account, ring.to_value(), [*chain], root])

    def put(self, exchange: Exchange) -> None:
        """Keep an exchange in place of its last value."""
        self.add(Kind.EXCHANGE, to_plain(exchange))

    def link(self, vehicle: bytes, link: KeyLink) -> None:
        """Remember the authority of a vehicle."""
        self.add(Kind.LINK, [vehicle, to_plain(link)])

    def take_list(self, vehicle: bytes, raw: bytes) -> bool:
        """Keep a verified list where it is newer than the one of its issuer; tell whether it was.

        Raises:
            PolicyRefusal: WRONG_VEHICLE.
        """
        said = read_withdrawal(raw)
        if said.vehicle != vehicle:
            raise PolicyRefusal(RefusalCode.WRONG_VEHICLE, "the list is for another vehicle")
        for each in self.book(vehicle).lists:
            known = (each.epoch, each.number)
            if each.issuer is said.issuer and (said.epoch, said.number) <= known:
                return False
        self.add(Kind.LIST, [vehicle, raw])
        return True

    def _sign_list(self, vehicle: bytes) -> None:
        book = self.book(vehicle)
        held = book.held(Issuer.OWNER)
        number = book.ring.list_number
        if not book.owned or not number or (held is not None and held.number >= number):
            return
        claims = book.ring.withdrawal(Issuer.OWNER, issued_s=self.now_s)
        key = self._store.vehicle(vehicle).key
        self.add(Kind.LIST, [vehicle, sign_withdrawal(claims, self._store.vault, key)])


class KeyBook:
    """The keys of all vehicles of one store.

    Args:
        store: Open, with its ledger.
        clock: Unix seconds.

    Raises:
        StoreError: The ledger is damaged, or says what cannot have happened.
    """

    def __init__(self, store: AgentStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        while True:  # until no other process made a snapshot meanwhile
            self._seq = self._snapshot_seq()
            snapshot, entries = store.ledger.restored()
            if self._seq == self._snapshot_seq():
                break
        self._state = BookState() if snapshot is None else BookState.parse(snapshot)
        for each in entries:
            self._take(each)

    @property
    def state(self) -> BookState:
        """What all processes committed so far."""
        for each in self._store.ledger.replayable(after_seq=self._seq):
            self._take(each)
        return self._state

    @property
    def now_s(self) -> int:
        """The time, seconds since 1970."""
        return int(self._clock())

    @contextmanager
    def change(self) -> Iterator[Change]:
        """Make all that is added in the block one commit; an error undoes it.

        Raises:
            StoreError: It could not be written; nothing of it was.
        """
        with self._store.file.transaction():
            change = self._inside()
            began = change.seq
            yield change
            if change.seq // _SNAPSHOT_EVERY != began // _SNAPSHOT_EVERY:
                self._store.ledger.snapshot(change.state.to_bytes())
        self._state, self._seq = change.state, change.seq

    def save(self) -> None:
        """Keep the state, from which a program with other rules can go on (specs/storage.md §7)."""
        with suppress(DkeyError):  # nothing is lost: the entries say the same
            if not self._store.file.closed and self._store.ledger.unsaved:
                with self._store.file.transaction():
                    self._store.ledger.snapshot(self.state.to_bytes())

    def book(self, vehicle: bytes) -> VehicleBook:
        """Return the keys of a vehicle; those of an owner begin at the first question.

        Raises:
            LocalFault: This phone has no key to it.
        """
        found = self.state.vehicle(vehicle)
        if found is None:
            self.own(vehicle)
            found = _known(self.state, vehicle)
        return found

    def own(
        self,
        vehicle: bytes,
        *,
        account: str | None = None,
        corporate: bool = False,
        flags: Flags | None = None,
    ) -> None:
        """Begin the keys of a vehicle that this phone was paired with as the owner's.

        May be repeated with another account until a first share was made or an authority linked.

        Raises:
            LocalFault: This phone is not paired with it, or it is too late for another account.
        """
        known = self._store.vehicle(vehicle)
        name = account_form(account or DEFAULT_ACCOUNT)
        kind = PartyKind.CORPORATE if corporate else PartyKind.PERSON
        with self.change() as change:
            before = change.state.vehicle(vehicle)
            if before is not None and (not before.owned or before.ring.spent or before.link):
                raise LocalFault(
                    f"the keys of this vehicle are those of {before.account}",
                    hint="forget the vehicle and pair again to begin anew",
                )
            public = self._store.vault.public(known.key)
            epoch = known.vehicle.owner_epoch
            ring = Ring(vehicle=vehicle, flags=flags or Flags())
            change.begin(ring, name, root=public.point)
            found = Found(
                actor=AUTHORITY if corporate else name,
                owner=Party(account=name, kind=kind),
                key_x=public.x,
                epoch=epoch,
            )
            change.command(vehicle, found, tell=False)

    def drop(self, vehicle: bytes) -> None:
        """Forget all of a vehicle's keys, inside an open transaction of the store."""
        change = self._inside()
        known = change.state
        exchanged = any(each.vehicle == vehicle for each in known.exchanges)
        if known.vehicle(vehicle) or known.last_seen(vehicle) or exchanged:
            change.add(Kind.DROPPED, [vehicle])

    # --- what is carried to the vehicle -----------------------------------------------------

    def carried(self, vehicle: bytes) -> Mailbox:
        """Return the mailbox for a vehicle: chain, lists, what it told last."""
        state = self.state
        book, seen = state.vehicle(vehicle), state.last_seen(vehicle)
        lists = {}
        if book is not None:
            held = {issuer: book.held(issuer) for issuer in Issuer}
            lists = {issuer: each.raw for issuer, each in held.items() if each is not None}
        parcel = KeyParcel(
            chain=() if book is None else book.chain,
            lists=lists,
            seen=None if seen is None else VehicleReceipt.parse(seen.highest),
        )
        mailbox = mailbox_of(parcel)
        if seen is not None:
            mailbox.data = mailbox.data[:RECEIPT_AT] + seen.told + mailbox.data[BODY_AT:]
        return mailbox

    def note_receipt(self, vehicle: bytes, receipt: VehicleReceipt) -> bool:
        """Keep what a vehicle told of itself; return whether it lost something it had told."""
        known = self.state.last_seen(vehicle)
        if known is not None and known.told == receipt.to_bytes():
            return False
        with self.change() as change:
            change.add(Kind.RECEIPT, [vehicle, receipt.to_bytes()])
        now = self.state.last_seen(vehicle)
        return now is not None and now.highest != now.told

    # --- the ledger -------------------------------------------------------------------------

    def _inside(self) -> Change:
        self._store.file.require_transaction()
        return Change(self._store, self.state, self._seq, self.now_s)

    def _snapshot_seq(self) -> int:
        query = "SELECT coalesce(max(seq), 0) FROM ledger_snapshot"
        seq: int = self._store.file.rows(query)[0][0]
        return seq

    def _take(self, entry: Entry) -> None:
        self._state, self._seq = fold(self._state, entry), entry.seq


def _known(state: BookState, vehicle: bytes) -> VehicleBook:
    found = state.vehicle(vehicle)
    if found is None:
        raise LocalFault(
            f"this phone has no key to vehicle {vehicle.hex()}",
            hint="`dkey key list` shows the keys that it has",
        )
    return found
