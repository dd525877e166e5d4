"""What the agent's ledger says about keys, folded to one immutable value (specs/agent.md §5).

Each entry of the ledger is one fact; :func:`fold` gives the state after it. Secrets in it are
sealed by the ledger as a whole, those of an exchange once more for their own place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dkey.codec import cbor
from dkey.errors import PolicyRefusal, StoreError, WireError
from dkey.lifecycle.claims import Issuer  # noqa: TC001 - read by from_plain
from dkey.lifecycle.command_codec import decode
from dkey.lifecycle.parcel import VehicleReceipt, rolled_back
from dkey.lifecycle.plain import from_plain, to_plain
from dkey.lifecycle.ring import apply
from dkey.lifecycle.ring_value import Ring
from dkey.lifecycle.roles import Role
from dkey.lifecycle.withdrawal import read_withdrawal

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.lifecycle.ledger import Entry

__all__ = [
    "BookState",
    "Changed",
    "End",
    "Exchange",
    "HeldList",
    "KeyLink",
    "Kind",
    "Post",
    "Refused",
    "Seen",
    "Theirs",
    "VehicleBook",
    "Waiting",
    "fold",
]

T = TypeVar("T")
_VERSION: Final = 1
_RESTORE: Final = "restore the whole folder from a backup"


class End(StrEnum):
    """Which end of an exchange this phone is."""

    SHARER = "SHARER"
    FRIEND = "FRIEND"


class Kind(StrEnum):
    """Kinds of ledger entries, with what stands in each."""

    RING = "ring"
    """``[vehicle, account, ring, chain, root]``: the keys of a vehicle as this phone begins."""
    COMMAND = "command"
    """``[vehicle, seconds, command]``: something was done to them."""
    LIST = "list"
    """``[vehicle, signed list]``: a newer list of its issuer to carry."""
    RECEIPT = "receipt"
    """``[vehicle, receipt]``: what the vehicle said of itself."""
    EXCHANGE = "exchange"
    """An :class:`Exchange`, in place of the one before."""
    LINK = "link"
    """``[vehicle, link]``: the authority that holds this vehicle's account."""
    WAIT = "wait"
    """``[vehicle, command]``: a command for the authority."""
    ANSWERED = "answered"
    """``[vehicle, entry that waited, code or null, text]``: the authority answered it."""
    THEIRS = "theirs"
    """``[vehicle, seconds, [[item, role, state, account]...]]``: the keys as the authority says."""
    DROPPED = "dropped"
    """``[vehicle]``: this phone has no key there any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldList:
    """The newest withdrawal list of one issuer that this phone carries."""

    issuer: Issuer
    epoch: int
    number: int
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The number of the own list that says the present state of a key."""

    item: bytes
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLink:
    """The authority of a vehicle, and how this phone speaks to it.

    Attributes:
        url: Where it answers.
        token: The account's bearer token.
        key: Its public key, 65 bytes.
    """

    url: str
    token: str = field(repr=False)
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A command that the authority has not answered yet.

    Attributes:
        number: Of the ledger entry.
        command: In the form of :mod:`dkey.lifecycle.command_codec`.
    """

    number: int
    command: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A command that was done here and refused by the authority."""

    command: bytes
    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """One key as the authority says."""

    item: bytes
    role: str
    state: str
    account: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a vehicle told of itself.

    Attributes:
        told: Its last receipt, 16 bytes.
        highest: The last one before it lost something; the same as ``told`` otherwise.
        rolled_back: Whether it lost something that it had told.
    """

    vehicle: bytes
    told: bytes
    highest: bytes
    rolled_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """A mailbox of a relay.

    Attributes:
        base: The relay.
        claim: This device's secret claim to the mailbox, 16 bytes.
        mailbox: Its identifier, 16 bytes; None until the relay gave one.
    """

    base: str
    claim: bytes = field(repr=False)
    mailbox: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One key on its way between two phones.

    Attributes:
        value: CBOR of what the exchange itself keeps; its secrets are sealed.
        envelope: What was sent last, or is to be; sent again as the same bytes.
        slot: The place that the authority gave; None where the own ring decides.
        post: The mailbox; None when files go by hand.
    """

    share_id: bytes
    vehicle: bytes
    end: End
    value: bytes
    envelope: bytes
    slot: int | None = None
    post: Post | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleBook:
    """The keys of one vehicle as this phone knows them.

    Attributes:
        account: Whose phone this is.
        ring: The keys; on a friend's phone the own one only.
        chain: The own attestations; none on the owner's phone.
        root: Public key of who signed the first, or the own one, 65 bytes.
    """

    vehicle: bytes
    account: str
    ring: Ring
    chain: tuple[bytes, ...] = ()
    root: bytes = b""
    lists: tuple[HeldList, ...] = ()
    changed: tuple[Changed, ...] = ()
    link: KeyLink | None = None
    waiting: tuple[Waiting, ...] = ()
    refused: tuple[Refused, ...] = ()
    theirs: tuple[Theirs, ...] | None = None
    theirs_s: int = 0

    @property
    def owned(self) -> bool:
        """Whether this is the owner's phone, which signs lists."""
        return not self.chain

    @property
    def role(self) -> Role:
        """What this phone's holder is to the vehicle."""
        for share in self.ring.shares:
            if not self.owned and share.account == self.account:
                return share.role
        return Role.OWNER

    def held(self, issuer: Issuer) -> HeldList | None:
        """Return the list of an issuer in the present epoch."""
        for each in self.lists:
            if each.issuer is issuer and each.epoch == self.ring.epoch:
                return each
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class BookState:
    """All that the ledger says."""

    vehicles: tuple[VehicleBook, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    seen: tuple[Seen, ...] = ()

    def vehicle(self, vehicle: bytes) -> VehicleBook | None:
        """Return the keys of one vehicle."""
        return next((each for each in self.vehicles if each.vehicle == vehicle), None)

    def shared(self, vehicle: bytes) -> bool:
        """Whether the key to a vehicle was handed to this phone by somebody."""
        found = self.vehicle(vehicle)
        return found is not None and not found.owned

    def exchange(self, share_id: bytes, end: End) -> Exchange | None:
        """Return one exchange."""
        for each in self.exchanges:
            if each.share_id == share_id and each.end is end:
                return each
        return None

    def last_seen(self, vehicle: bytes) -> Seen | None:
        """Return what a vehicle told of itself."""
        return next((each for each in self.seen if each.vehicle == vehicle), None)

    def to_bytes(self) -> bytes:
        """Return the state for a snapshot."""
        return cbor.encode([_VERSION, to_plain(self)])

    @classmethod
    def parse(cls, data: bytes) -> BookState:
        """Return what :meth:`to_bytes` gave.

        Raises:
            StoreError: Not exactly such a snapshot.
        """
        try:
            version, value = cbor.decode(data)
            if version != _VERSION:
                raise ValueError("of another version")
            return from_plain(cls, value)
        except (WireError, ValueError, TypeError) as exc:
            raise StoreError("the snapshot of the keys is damaged", hint=_RESTORE) from exc


def fold(state: BookState, entry: Entry) -> BookState:
    """Return the state after one entry; kinds of other modules change nothing.

    Raises:
        StoreError: The entry says what cannot have happened.
    """
    step = _STEPS.get(entry.kind)
    if step is None:
        return state
    try:
        return step(state, cbor.decode(entry.body), entry.seq)
    except (WireError, PolicyRefusal, ValueError, TypeError, KeyError) as exc:
        raise StoreError(
            f"entry {entry.seq} of the ledger cannot be repeated: {exc}", hint=_RESTORE
        ) from exc


def _begin(state: BookState, value: Any, _seq: int) -> BookState:
    vehicle, account, ring, chain, root = value
    book = VehicleBook(
        vehicle=vehicle,
        account=account,
        ring=Ring.from_value(ring),
        chain=tuple(chain),
        root=root,
    )
    others = tuple(each for each in state.vehicles if each.vehicle != vehicle)
    return replace(state, vehicles=(*others, book))


def _command(state: BookState, value: Any, _seq: int) -> BookState:
    vehicle, at_s, command = value
    book = _of(state, vehicle)
    ring, effects = apply(book.ring, decode(command), at_s=at_s)
    changed = {each.item: each.number for each in book.changed}
    if (ring.epoch, ring.list_number) != (book.ring.epoch, book.ring.list_number):
        for each in effects:
            item = getattr(each, "item", None)
            if item is not None:
                changed[item] = ring.list_number
    kept = tuple(Changed(item=item, number=number) for item, number in sorted(changed.items()))
    return _with(state, replace(book, ring=ring, changed=kept))


def _list(state: BookState, value: Any, _seq: int) -> BookState:
    vehicle, raw = value
    book, said = _of(state, vehicle), read_withdrawal(raw)
    held = HeldList(issuer=said.issuer, epoch=said.epoch, number=said.number, raw=raw)
    others = tuple(each for each in book.lists if each.issuer is not said.issuer)
    return _with(state, replace(book, lists=(*others, held)))


def _receipt(state: BookState, value: Any, _seq: int) -> BookState:
    vehicle, raw = value
    told, known = VehicleReceipt.parse(raw), state.last_seen(vehicle)
    if known is None:
        now = Seen(vehicle=vehicle, told=raw, highest=raw)
    else:
        lost = rolled_back(VehicleReceipt.parse(known.highest), told)
        now = Seen(
            vehicle=vehicle,
            told=raw,
            highest=known.highest if lost else raw,
            rolled_back=known.rolled_back or lost,
        )
    others = tuple(each for each in state.seen if each.vehicle != vehicle)
    return replace(state, seen=(*others, now))


def _exchange(state: BookState, value: Any, _seq: int) -> BookState:
    now = from_plain(Exchange, value)
    others = tuple(
        each for each in state.exchanges if (each.share_id, each.end) != (now.share_id, now.end)
    )
    return replace(state, exchanges=(*others, now))


def _link(state: BookState, value: Any, _seq: int) -> BookState:
    vehicle, link = value
    known = _of(state, vehicle)
    return _with(state, replace(known, link=from_plain(KeyLink, link)))


def _wait(state: BookState, value: Any, seq: int) -> BookState:
    vehicle, command = value
    book = _of(state, vehicle)
    waiting = Waiting(number=seq, command=command)
    return _with(state, replace(book, waiting=(*book.waiting, waiting)))


def _answered(state: BookState, value: Any, _seq: int) -> BookState:
    vehicle, number, code, text = value
    book = _of(state, vehicle)
    (done,) = (each for each in book.waiting if each.number == number)
    refused = book.refused
    if code is not None:
        refused = (*refused, Refused(command=done.command, code=code, text=text))
    left = tuple(each for each in book.waiting if each is not done)
    return _with(state, replace(book, waiting=left, refused=refused))


def _theirs(state: BookState, value: Any, _seq: int) -> BookState:
    vehicle, at_s, rows = value
    theirs = tuple(from_plain(Theirs, row) for row in rows)
    return _with(state, replace(_of(state, vehicle), theirs=theirs, theirs_s=at_s))


def _dropped(state: BookState, value: Any, _seq: int) -> BookState:
    (vehicle,) = value
    return replace(
        state,
        vehicles=tuple(each for each in state.vehicles if each.vehicle != vehicle),
        exchanges=tuple(each for each in state.exchanges if each.vehicle != vehicle),
        seen=tuple(each for each in state.seen if each.vehicle != vehicle),
    )


def _of(state: BookState, vehicle: bytes) -> VehicleBook:
    found = state.vehicle(vehicle)
    if found is None:
        raise ValueError("of a vehicle without keys")
    return found


def _with(state: BookState, book: VehicleBook) -> BookState:
    return replace(
        state,
        vehicles=tuple(book if each.vehicle == book.vehicle else each for each in state.vehicles),
    )


_STEPS: Final[dict[str, Callable[[BookState, Any, int], BookState]]] = {
    Kind.RING: _begin,
    Kind.COMMAND: _command,
    Kind.LIST: _list,
    Kind.RECEIPT: _receipt,
    Kind.EXCHANGE: _exchange,
    Kind.LINK: _link,
    Kind.WAIT: _wait,
    Kind.ANSWERED: _answered,
    Kind.THEIRS: _theirs,
    Kind.DROPPED: _dropped,
}
