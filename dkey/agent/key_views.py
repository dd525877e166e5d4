"""The keys of a vehicle as they are shown: this phone's word, the vehicle's, the authority's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dkey.agent.store_schema import KeyState
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.command_codec import decode
from dkey.lifecycle.parcel import VehicleReceipt
from dkey.lifecycle.roles import Role
from dkey.lifecycle.withdrawal import read_withdrawal

if TYPE_CHECKING:
    from dkey.agent.key_records import BookState, Theirs, VehicleBook
    from dkey.agent.store import AgentStore
    from dkey.lifecycle.ring_state import KeyView

__all__ = ["DISAGREES", "KeyLine", "VehicleLine", "vehicle_line", "vehicle_lines"]

DISAGREES: Final = "DISAGREES"
"""The state of a key about which this phone and the authority say different things."""
_WITHDRAWN: Final = ("SUSPENDED", "REVOKED")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLine:
    """One key.

    Attributes:
        item: Share id, or reference of a key or card.
        own: Whether it is this phone's.
        role: OWNER, ACTUAL_USER, ASSOCIATE, PROVIDER or CARD.
        permission: ENTRY or ENTRY_AND_START; None where only the authority knows.
        account: Whose it is, where this phone may know it.
        state: What this phone says, or DISAGREES.
        here: What this phone says; None when only the authority knows the key.
        authority: What the authority said last; None without one, or when it knows no such key.
        waiting: Whether the authority has not been told of all that was done here.
        vehicle_knows: Whether the vehicle has taken the list that says so; None when no list is
            needed for it.
        slot: Place of the three; 0 for none.
        not_after_s: Last second; None for no end.
        booking_id: Of a provider's key.
    """

    item: bytes
    own: bool
    role: str
    permission: str | None
    account: str | None
    state: str
    here: str | None
    authority: str | None
    waiting: bool
    vehicle_knows: bool | None
    slot: int
    not_after_s: int | None
    booking_id: str | None

    def to_json(self) -> dict[str, Any]:
        """Return it as specs/formats.md says."""
        names = [name for name in self.__dataclass_fields__ if name != "item"]
        return {"id": self.item.hex(), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleLine:
    """One vehicle and the keys of it that this phone knows.

    Attributes:
        paired: How far this phone's own key is set up.
        waiting: How many commands the authority has not answered.
        half_removed: The side that still holds something after a transfer.
        rolled_back: Whether the vehicle has an older state than it told before.
    """

    vehicle: bytes
    account: str
    paired: KeyState
    authority: str | None
    waiting: int
    half_removed: str | None
    rolled_back: bool
    keys: tuple[KeyLine, ...]


def vehicle_lines(store: AgentStore) -> tuple[VehicleLine, ...]:
    """Return all vehicles of a store; those that were never shared have their owner's key."""
    groups = {each.group_id: each for each in store.vehicles()}
    for group_id in groups:
        store.keys.book(group_id)
    state = store.keys.state
    return tuple(vehicle_line(store, each.vehicle) for each in state.vehicles)


def vehicle_line(store: AgentStore, vehicle: bytes) -> VehicleLine:
    """Return one vehicle."""
    state = store.keys.state
    book = store.keys.book(vehicle)
    paired = next(
        (each.state for each in store.vehicles() if each.group_id == vehicle), KeyState.NONE
    )
    seen, half = state.last_seen(vehicle), book.ring.half_removed
    return VehicleLine(
        vehicle=vehicle,
        account=book.account,
        paired=paired,
        authority=None if book.link is None else book.link.url,
        waiting=len(book.waiting),
        half_removed=None if half is None else half.value,
        rolled_back=seen is not None and seen.rolled_back,
        keys=tuple(_lines(state, book, paired)),
    )


def _lines(state: BookState, book: VehicleBook, paired: KeyState) -> list[KeyLine]:
    theirs = {each.item: each for each in book.theirs or ()}
    viewer = None if book.owned else book.account
    if not book.owned and any(s.role is Role.ACTUAL_USER for s in book.ring.live):
        viewer = None
    views = [each for each in book.ring.keys(viewer) if book.owned or each.role is not Role.OWNER]
    found = [_line(state, book, view, theirs.pop(view.item, None), paired) for view in views]
    return [*found, *(_unknown(each, book) for each in theirs.values())]


def _line(
    state: BookState, book: VehicleBook, view: KeyView, theirs: Theirs | None, paired: KeyState
) -> KeyLine:
    own = view.role is Role.OWNER or (not book.owned and view.account == book.account)
    here = _here(book, view, paired, own=own)
    waiting = any(_concerns(each.command, view.item) for each in book.waiting)
    said = None if theirs is None else theirs.state
    if theirs is None and book.theirs is not None and view.account is not None:
        differs = here not in ("REVOKED", "DECLINED", "EXPIRED", "REPLACED")
    else:
        owner_waits = view.role is Role.OWNER and here == "NOT_SYNCED"
        differs = said is not None and said != (view.state if owner_waits else here)
    return KeyLine(
        item=view.item,
        own=own,
        role=view.role.value,
        permission=view.permission.value,
        account=view.account,
        state=DISAGREES if differs and not waiting and book.theirs is not None else here,
        here=here,
        authority=said,
        waiting=waiting,
        vehicle_knows=_vehicle_knows(state, book, view.item),
        slot=view.slot,
        not_after_s=view.not_after_s,
        booking_id=view.booking_id,
    )


def _unknown(theirs: Theirs, book: VehicleBook) -> KeyLine:
    """Return a key that the authority alone knows.

    The owner's phone knows every key that lives; others know their own and what they shared.
    """
    over = theirs.state in ("REVOKED", "DECLINED", "EXPIRED", "REPLACED")
    return KeyLine(
        item=theirs.item,
        own=theirs.account == book.account,
        role=theirs.role,
        permission=None,
        account=theirs.account,
        state=DISAGREES if book.owned and not over else theirs.state,
        here=None,
        authority=theirs.state,
        waiting=False,
        vehicle_knows=None,
        slot=0,
        not_after_s=None,
        booking_id=None,
    )


def _here(book: VehicleBook, view: KeyView, paired: KeyState, *, own: bool) -> str:
    """Return the state as this phone knows it: its own key by the vehicle and the lists also."""
    if not own or view.state in ("REVOKED", "EXPIRED"):
        return view.state
    for issuer in Issuer:
        held = book.held(issuer)
        if held is not None and view.item in read_withdrawal(held.raw).revoked:
            return "REVOKED"
    for issuer in Issuer:
        held = book.held(issuer)
        if held is not None:
            said = read_withdrawal(held.raw)
            if said.all_suspended or view.item in said.suspended:
                return "SUSPENDED"
    if paired is KeyState.FORGOTTEN:
        return paired.value
    return "NOT_SYNCED" if paired is not KeyState.SYNCED else view.state


def _concerns(command: bytes, item: bytes) -> bool:
    found = decode(command)
    return item in (getattr(found, "item", None), getattr(found, "share_id", None))


def _vehicle_knows(state: BookState, book: VehicleBook, item: bytes) -> bool | None:
    """Return whether the vehicle has the list that says the present state of a key."""
    share = book.ring.share(item)
    number = next((each.number for each in book.changed if each.item == item), None)
    if number is None or (share is not None and share.key_x is None):
        return None
    seen = state.last_seen(book.vehicle)
    if seen is None:
        return False
    told = VehicleReceipt.parse(seen.told)
    if told.epoch != book.ring.epoch:
        return told.epoch > book.ring.epoch
    held = book.held(Issuer.AUTHORITY)
    if held is not None and told.authority_list >= held.number:
        said = read_withdrawal(held.raw)
        holds = share is not None and bool(share.holds)
        if item in said.revoked or (holds and item in said.suspended):
            return True
    return book.owned and told.owner_list >= number
