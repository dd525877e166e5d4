"""What happened to keys while nobody asked: time passed, the vehicle confirmed or forgot a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.agent.key_sharing import Sharer
from dkey.agent.store_schema import KeyState
from dkey.lifecycle.commands import VEHICLE, Activate, Cleared, Side, Tick
from dkey.lifecycle.ring_state import ShareState as Lives
from dkey.lifecycle.share_states import ShareState

if TYPE_CHECKING:
    from dkey.agent.key_records import VehicleBook
    from dkey.agent.store import AgentStore
    from dkey.crypto.entropy import Entropy
    from dkey.lifecycle.commands import Command

__all__ = ["settle"]

_DEAD: Final = (ShareState.EXPIRED, ShareState.LOCKED)


def settle(store: AgentStore, entropy: Entropy) -> None:
    """Bring the book up to date; a second call changes nothing.

    Raises:
        StoreError: It could not be written.
    """
    now_s = store.keys.now_s
    states = {each.group_id: each.state for each in store.vehicles()}
    for book in store.keys.state.vehicles:
        for command in _due(book, states.get(book.vehicle), now_s):
            with store.keys.change() as change:
                change.command(book.vehicle, command, tell=False)
    sharer = Sharer(store, entropy)
    for exchange in sharer.exchanges():
        before = sharer.value(exchange)
        share = store.keys.book(exchange.vehicle).ring.share(exchange.share_id)
        lives = share is not None and share.state is Lives.PENDING
        if before.tick(now_s).state in _DEAD and (lives or before.state not in _DEAD):
            sharer.expire(exchange.share_id)


def _due(book: VehicleBook, state: KeyState | None, now_s: int) -> list[Command]:
    due: list[Command] = []
    ring = book.ring
    if ring.next_due_s is not None and ring.next_due_s <= now_s:
        due.append(Tick(actor=VEHICLE))
    if state is KeyState.SYNCED and not book.owned:
        due += [
            Activate(actor=VEHICLE, share_id=each.share_id)
            for each in ring.live
            if each.account == book.account and not each.confirmed and each.not_after_s >= now_s
        ]
    cleared = ring.removal is not None and Side.VEHICLE not in ring.removal
    if state is KeyState.FORGOTTEN and cleared:
        due.append(Cleared(actor=VEHICLE, side=Side.VEHICLE))
    return due
