"""The vehicle's admissions: kept in its ledger, and in the tables that its readers are fed from.

One change is one commit: the entries of the ledger, the credentials with their states, places and
persistent keys, and the event that tells of it. At start the state is restored from the ledger and
compared with the tables; a difference refuses to open (specs/lifecycle.md §8).
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from dkey.codec import cbor
from dkey.errors import DkeyError, StoreError
from dkey.lifecycle.admission import Admissions
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.flags import Flags
from dkey.lifecycle.parcel import VehicleReceipt
from dkey.lifecycle.roles import CredentialState, Role
from dkey.lifecycle.slots import free_slot, slots, take_slot
from firmware_mock import share_rows
from firmware_mock.admission_state import AdmissionState, applied, founded, replayed, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from firmware_mock.records import Credential
    from firmware_mock.store import CredentialStore
    from firmware_mock.store_transaction import Transaction

__all__ = ["SNAPSHOT_EVERY", "AdmissionBook", "Change"]

SNAPSHOT_EVERY: Final = 64
"""Entries between two snapshots: what a restart replays at most."""
_RESTORE: Final = "keep the file for analysis, restore a backup, or factory-reset a new store"


class Change:
    """The entries of one commit, in order.

    Attributes:
        writes: The open transaction of the store.
        state: What the entries so far add up to.
        entries: How many there are.
        touched: Whether rows were written that the ledger has its say on.
    """

    def __init__(self, store: CredentialStore, writes: Transaction, state: AdmissionState) -> None:
        self.writes = writes
        self.state = state
        self.entries = 0
        self.touched = False
        self._store = store

    @property
    def admissions(self) -> Admissions:
        """Who may open the vehicle, after the entries so far."""
        return self.state.admissions

    def apply(self, kind: str, *body: Any) -> None:
        """Add one entry, as of :func:`~firmware_mock.admission_state.applied`.

        Raises:
            PolicyRefusal: A rule says no; nothing was added.
        """
        after = applied(self.state, kind, list(body))
        if after != self.state:
            self._store.ledger.append(kind, cbor.encode(list(body)))
            self.state = after
            self.entries += 1


class AdmissionBook:
    """The ledger of one vehicle and what follows from it.

    Args:
        store: The open store, with the key to its ledger.
        flags: The choices of this deployment, for a vehicle that begins.

    Attributes:
        state: What was committed last.

    Raises:
        StoreError: The ledger does not add up, or the tables say something else; it is named.
    """

    def __init__(self, store: CredentialStore, *, flags: Flags | None = None) -> None:
        self._store = store
        begun = Admissions(vehicle=store.identity().group_id, flags=flags or Flags())
        snapshot, entries = store.ledger.restored()
        if snapshot is None and not entries:
            self.state = founded(store, begun)
            with store.transaction():
                store.ledger.snapshot(self.state.to_bytes())
        else:
            self.state = (
                AdmissionState(admissions=begun)
                if snapshot is None
                else AdmissionState.parse(snapshot)
            )
            for entry in entries:
                self.state = replayed(self.state, entry)
        self._seq = store.ledger.head.seq
        self._since_snapshot = len(entries)
        if (wrong := self._difference()) is not None:
            raise StoreError(
                f"the ledger and the tables of the vehicle differ: {wrong}", hint=_RESTORE
            )

    @property
    def admissions(self) -> Admissions:
        """Who may open the vehicle."""
        return self.state.admissions

    def receipt(self) -> VehicleReceipt:
        """Return the vehicle's present state as phones keep it."""
        now = self.admissions
        return VehicleReceipt(
            epoch=now.epoch,
            owner_list=now.number(Issuer.OWNER),
            authority_list=now.number(Issuer.AUTHORITY),
            admissions=self.state.count,
        )

    @contextmanager
    def change(self) -> Iterator[Change]:
        """Make entries, the rows that follow from them and other writes of the block one commit.

        Raises:
            StoreError: Nothing was committed.
        """
        with self._store.transaction() as writes:
            self.catch_up()
            change = Change(self._store, writes, self.state)
            yield change
            if change.entries or change.touched:
                self._project(writes, change.state)
            due = self._since_snapshot + change.entries >= SNAPSHOT_EVERY
            if due:
                self._store.ledger.snapshot(change.state.to_bytes())
        self.state = change.state
        self._seq += change.entries
        self._since_snapshot = 0 if due else self._since_snapshot + change.entries

    def catch_up(self) -> None:
        """Take over entries that another process committed."""
        if self._store.ledger.head.seq == self._seq:
            return
        for entry in self._store.ledger.replayable(after_seq=self._seq):
            self.state = replayed(self.state, entry)
            self._seq = entry.seq
            self._since_snapshot += 1

    def save(self) -> None:
        """Keep the state, from which a program with other rules can go on (specs/storage.md §7)."""
        with suppress(DkeyError):  # nothing is lost: the entries say the same
            if not self._store.file.closed and self._store.ledger.unsaved:
                with self._store.transaction():
                    self.catch_up()
                    self._store.ledger.snapshot(self.state.to_bytes())

    def _project(self, writes: Transaction, state: AdmissionState) -> None:
        """Bring credentials, persistent keys and places in line with the state."""
        file = self._store.file
        shares = share_rows.shares(file)
        for each in self._store.credentials():
            wanted = state_of(state, each, shares)
            if wanted is not each.state:
                writes.set_state(each.credential_id, wanted)
            if wanted is not CredentialState.ACTIVE:
                writes.forget_kpersistent(each.credential_id)
        wanted_slots = _slots_of(state)
        for share_id in set(slots(file).values()) - set(wanted_slots.values()):
            free_slot(file, share_id)
        for slot, share_id in wanted_slots.items():
            take_slot(file, share_id, slot)

    def _difference(self) -> str | None:
        """Return what the tables say otherwise than the ledger; None where nothing is."""
        store, state = self._store, self.state
        if store.ownership().epoch != state.admissions.epoch:
            return f"the owner epoch, {store.ownership().epoch} and {state.admissions.epoch}"
        authority = share_rows.authority_key(store.file)
        if (None if authority is None else authority.x) != state.admissions.authority_x:
            return "the authority's key"
        if dict(slots(store.file)) != _slots_of(state):
            return "the places of shares"
        shares = share_rows.shares(store.file)
        known = {each.x: each for each in store.credentials()}
        for each in known.values():
            if each.state is not state_of(state, each, shares):
                return f"credential {each.credential_id} is {each.state}"
        return _missing(state, shares, known)


def _missing(
    state: AdmissionState, shares: Mapping[str, bytes], known: Mapping[bytes, Credential]
) -> str | None:
    """Return an admitted key or an owner that no credential stands for."""
    for each in state.admissions.admitted:
        row = known.get(each.x)
        if (
            row is None
            or shares.get(row.credential_id) != each.claims.share_id
            or (row.role, row.permission) != (each.claims.role, each.claims.permission)
        ):
            return f"share {each.claims.share_id.hex()} has no credential of its kind"
    owner = state.admissions.owner_x
    if owner is not None and (owner not in known or known[owner].role is not Role.OWNER):
        return "the owner's key has no credential"
    return None


def _slots_of(state: AdmissionState) -> dict[int, bytes]:
    return {
        each.claims.slot: each.claims.share_id
        for each in state.admissions.admitted
        if each.claims.slot
    }
