"""The ring of every vehicle, event-sourced: what the ledger says is what happened.

One entry for each accepted command, ``[vehicle, at_s, command]``, and one for each vehicle that was
taken in, ``[vehicle, flags]``, in deterministic CBOR. A snapshot of all rings every
:data:`SNAPSHOT_EVERY` entries bounds what a restart replays.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dkey.authority.folder import SIGNING_KEY
from dkey.codec import cbor
from dkey.errors import DkeyError, PolicyRefusal, StoreError, WireError
from dkey.lifecycle.claims import Issuer, WithdrawalClaims
from dkey.lifecycle.command_codec import decode, encode
from dkey.lifecycle.flags import Flags
from dkey.lifecycle.plain import from_plain, to_plain
from dkey.lifecycle.ring import Ring, apply
from dkey.lifecycle.withdrawal import sign_withdrawal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.crypto.vault import Vault
    from dkey.lifecycle.commands import Command
    from dkey.lifecycle.durable import DurableFile
    from dkey.lifecycle.ledger import Entry, Ledger
    from dkey.lifecycle.ring_effects import Effect

__all__ = ["SNAPSHOT_EVERY", "Rings", "Step"]

SNAPSHOT_EVERY: Final = 500
"""Entries between two snapshots (ours)."""
_VEHICLE: Final = "vehicle"
_COMMAND: Final = "command"
_SIZE: Final = 4
_RESTORE: Final = "restore a backup of the whole state folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One applied command; it holds once its transaction is committed.

    Attributes:
        ring: The ring after it.
        effects: What it did.
        number: Number of its ledger entry.
    """

    ring: Ring
    effects: tuple[Effect, ...]
    number: int


class Rings:
    """The rings, the ledger that they follow from, and their signed withdrawal lists.

    Raises:
        StoreError: The ledger says what cannot have happened.
    """

    def __init__(self, file: DurableFile, ledger: Ledger, vault: Vault) -> None:
        self._file = file
        self._ledger = ledger
        self._vault = vault
        state, entries = ledger.restored()
        self._rings = _unpack(state) if state is not None else {}
        for entry in entries:
            self._replay(entry)

    def ring(self, vehicle: bytes) -> Ring:
        """Return the present ring of a vehicle that was taken in."""
        return self._rings[vehicle]

    @property
    def head(self) -> int:
        """Number of the last ledger entry."""
        return self._ledger.head.seq

    def save(self) -> None:
        """Keep the state, from which a program with other rules can go on (specs/storage.md §7)."""
        with suppress(DkeyError):  # nothing is lost: the entries say the same
            if not self._file.closed and self._ledger.unsaved:
                with self._file.transaction():
                    self._ledger.snapshot(_pack(self._rings))

    def take_in(self, vehicle: bytes, flags: Flags) -> Step:
        """Begin the ring of a vehicle, inside an open transaction."""
        ring = Ring(vehicle=vehicle, flags=flags)
        number = self._ledger.append(_VEHICLE, cbor.encode([vehicle, to_plain(flags)]))
        return self._stepped(ring, (), number)

    def step(self, vehicle: bytes, command: Command, at_s: int) -> Step:
        """Apply a command and record it, inside an open transaction.

        Raises:
            PolicyRefusal: The ring says no; nothing was recorded.
        """
        ring, effects = apply(self._rings[vehicle], command, at_s=at_s)
        body = cbor.encode([vehicle, at_s, encode(command)])
        return self._stepped(ring, effects, self._ledger.append(_COMMAND, body))

    def would_change(self, vehicle: bytes, command: Command, at_s: int) -> bool:
        """Return whether a command would do more than move the ring's clock."""
        ring = self._rings[vehicle]
        after, effects = apply(ring, command, at_s=at_s)
        return bool(effects) or replace(after, clock_s=ring.clock_s) != ring

    def keep(self, step: Step) -> None:
        """Go on from a step whose transaction is committed."""
        self._rings[step.ring.vehicle] = step.ring

    def signed_list(self, ring: Ring, at_s: int) -> bytes:
        """Return the newest signed withdrawal list of a ring, inside an open transaction.

        Its number rises with its content and with nothing else, within an owner epoch.
        """
        claims = _claims(ring, at_s)
        content = hashlib.sha256(
            cbor.encode(
                [
                    claims.epoch,
                    [*claims.revoked],
                    [*claims.suspended],
                    claims.all_suspended,
                    claims.immobilised,
                    claims.corporate,
                ]
            )
        ).digest()
        rows = self._file.rows(
            "SELECT epoch, number, content, signed FROM withdrawal WHERE vehicle = ?", ring.vehicle
        )
        number = 1
        if rows:
            epoch, known, kept, signed = rows[0]
            if kept == content:
                return bytes(signed)
            number = known + 1 if epoch == ring.epoch else 1
        signed = sign_withdrawal(replace(claims, number=number), self._vault, SIGNING_KEY)
        row = (ring.vehicle, ring.epoch, number, content, signed)
        self._file.put("withdrawal", *row, replace=True)
        return signed

    def _stepped(self, ring: Ring, effects: tuple[Effect, ...], number: int) -> Step:
        if number % SNAPSHOT_EVERY == 0:
            self._ledger.snapshot(_pack({**self._rings, ring.vehicle: ring}))
        return Step(ring=ring, effects=effects, number=number)

    def _replay(self, entry: Entry) -> None:
        try:
            values = cbor.decode(entry.body)
            if entry.kind == _VEHICLE:
                vehicle, flags = values
                self._rings[vehicle] = Ring(vehicle=vehicle, flags=from_plain(Flags, flags))
            else:
                vehicle, at_s, command = values
                ring, _ = apply(self._rings[vehicle], decode(command), at_s=at_s)
                self._rings[vehicle] = ring
        except (WireError, PolicyRefusal, ValueError, KeyError, TypeError) as exc:
            raise StoreError(
                f"entry {entry.seq} of the ledger cannot be repeated: {exc}", hint=_RESTORE
            ) from exc


def _claims(ring: Ring, at_s: int) -> WithdrawalClaims:
    """Return what the authority's list says; before the first change it says nothing."""
    if ring.list_number:
        return ring.withdrawal(Issuer.AUTHORITY, issued_s=at_s)
    return WithdrawalClaims(
        vehicle=ring.vehicle, epoch=ring.epoch, issuer=Issuer.AUTHORITY, number=1, issued_s=at_s
    )


def _pack(rings: Mapping[bytes, Ring]) -> bytes:
    """Return all rings as bytes: size (4) and value of each."""
    values = [cbor.encode(ring.to_value()) for ring in rings.values()]
    return b"".join(len(value).to_bytes(_SIZE, "big") + value for value in values)


def _unpack(data: bytes) -> dict[bytes, Ring]:
    found: dict[bytes, Ring] = {}
    while data:
        size = int.from_bytes(data[:_SIZE], "big")
        value, data = data[_SIZE : _SIZE + size], data[_SIZE + size :]
        try:
            ring = Ring.from_value(cbor.decode(value))
        except WireError as exc:
            raise StoreError(f"a snapshot holds no ring: {exc}", hint=_RESTORE) from exc
        found[ring.vehicle] = ring
    return found
