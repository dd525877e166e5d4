"""Share places and what peers were last seen at: small tables beside the ledger.

All writes stand inside an open transaction of the file, so that they are one commit with the
ledger's entry, and so that two writers cannot both read the same free place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.policy import MAX_SHARES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.lifecycle.durable import DurableFile

__all__ = ["PeerSeen", "free_slot", "peer_last_seen", "remember_peer", "slots", "take_slot"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PeerSeen:
    """How far a peer was: the later of two is the greater.

    Attributes:
        epoch: Its owner epoch.
        number: Its last number within the epoch, such as of its ledger or its revocation list.
    """

    epoch: int
    number: int


def slots(file: DurableFile) -> Mapping[int, bytes]:
    """Return the taken places with the id of the share in each, lowest place first."""
    return dict(file.rows("SELECT slot, share_id FROM share_slot ORDER BY slot"))


def take_slot(file: DurableFile, share_id: bytes, slot: int | None = None) -> int:
    """Give a share a place and return it; a share that has one keeps it.

    Args:
        file: With a transaction open.
        share_id: Which share.
        slot: The place it must have, from 1; None for the lowest free one.

    Raises:
        PolicyRefusal: SHARE_LIMIT: all places are taken, or this one is.
        LocalFault: There is no such place, or the share has another one.
    """
    if slot is not None and not 1 <= slot <= MAX_SHARES:
        raise LocalFault(f"there is no place {slot}", hint=f"places are 1 to {MAX_SHARES}")
    file.require_transaction()
    taken = slots(file)
    for place, holder in taken.items():
        if holder == share_id:
            if slot in (None, place):
                return place
            raise LocalFault(f"the share has place {place}", hint="free that one first")
    free = [place for place in range(1, MAX_SHARES + 1) if place not in taken]
    if not free or (slot is not None and slot not in free):
        raise PolicyRefusal(
            RefusalCode.SHARE_LIMIT,
            f"{len(taken)} of {MAX_SHARES} shares are taken",
            hint="withdraw a share first",
        )
    place = free[0] if slot is None else slot
    file.put("share_slot", place, share_id)
    return place


def free_slot(file: DurableFile, share_id: bytes) -> None:
    """Take a share's place from it, if it has one; a transaction is open."""
    file.delete("share_slot", "share_id = ?", share_id)


def peer_last_seen(file: DurableFile, peer: bytes) -> PeerSeen | None:
    """Return how far the peer was when it was last seen; None for a new one."""
    rows = file.rows("SELECT epoch, number FROM peer_seen WHERE peer = ?", peer)
    return PeerSeen(epoch=rows[0][0], number=rows[0][1]) if rows else None


def remember_peer(file: DurableFile, peer: bytes, seen: PeerSeen) -> None:
    """Keep how far a peer is; it never goes back. A transaction is open.

    Raises:
        PolicyRefusal: REPLAY: the peer was further before, as one whose store was put back from a
            backup. What was kept stays.
    """
    file.require_transaction()
    known = peer_last_seen(file, peer)
    if known is not None and seen < known:
        raise PolicyRefusal(
            RefusalCode.REPLAY,
            f"the peer is at {seen.epoch}.{seen.number}, it was at {known.epoch}.{known.number}",
            hint="its memory went back: pair or share again",
        )
    if seen != known:
        file.put("peer_seen", peer, seen.epoch, seen.number, replace=True)
