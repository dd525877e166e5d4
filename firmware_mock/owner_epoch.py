"""The end of an owner's time at the vehicle: factory reset, transfer, unpairing.

Each begins a new owner epoch, with a resolving key of its own, in one commit: what was signed in
the time before counts no more (requirements S55, S62, S122).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.crypto.secret import Secret
from dkey.lifecycle.roles import CredentialState
from firmware_mock import share_rows

if TYPE_CHECKING:
    from firmware_mock.vehicle import Vehicle

__all__ = ["erase_owner", "resolving_place", "unpair_owner"]

_RESOLVING_KEY: Final = 16
_OUT: Final = (CredentialState.REVOKED, CredentialState.REPLACED)


def erase_owner(vehicle: Vehicle, kind: str) -> tuple[int, Secret]:
    """Erase all keys, cards, codes and names; return the new epoch and its resolving key.

    What the authority ordered stays: its key, and immobilisation, which a thief would like to lose.

    Args:
        vehicle: The vehicle.
        kind: As the event log says it: FACTORY_RESET or TRANSFERRED.
    """
    key, epoch, sealed = _next(vehicle)
    with vehicle.keys.change() as change:
        change.writes.factory_reset(resolving_key=sealed)
        change.apply("RESET")
        vehicle.keys.log(change.writes, kind, text=f"owner epoch {epoch}")
    return epoch, key


def unpair_owner(vehicle: Vehicle) -> tuple[int, Secret]:
    """End the owner's key with all shared keys and cards; the log keeps what happened.

    Return the new epoch and its resolving key.
    """
    key, epoch, sealed = _next(vehicle)
    with vehicle.keys.change() as change:
        for each in vehicle.store.credentials():
            if each.state not in _OUT:
                change.writes.set_state(each.credential_id, CredentialState.REVOKED)
        share_rows.set_epoch(vehicle.store.file, epoch, resolving_key=sealed)
        change.apply("EPOCH")
        vehicle.keys.log(change.writes, "UNPAIRED", text=f"owner epoch {epoch}")
    return epoch, key


def resolving_place(epoch: int) -> bytes:
    """Return what the seal of a resolving key is bound to."""
    return b"resolving key/" + epoch.to_bytes(4, "big")


def _next(vehicle: Vehicle) -> tuple[Secret, int, bytes]:
    epoch = vehicle.store.ownership().epoch + 1
    key = Secret(vehicle.entropy.random(_RESOLVING_KEY))
    return key, epoch, vehicle.seal.close(key, resolving_place(epoch))
