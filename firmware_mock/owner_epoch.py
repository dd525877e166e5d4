"""The end of an owner's time at the vehicle: factory reset, transfer, unpairing.

Each begins a new owner epoch, with a resolving key of its own, in one commit: what was signed in
the time before counts no more (requirements S55, S62, S122).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.crypto.secret import Secret
from dkey.lifecycle.claims import key_ref
from dkey.lifecycle.roles import CredentialState, Role
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


def unpair_owner(vehicle: Vehicle, *, same_person: bool = False) -> tuple[int, Secret]:
    """End the owner's key with all shared keys and cards; the log keeps what happened.

    Return the new epoch and its resolving key.

    Args:
        vehicle: The vehicle.
        same_person: The owner comes back with another account or phone, so that the cards stay;
            shares need to be confirmed anew all the same (requirements S127).
    """
    key, epoch, sealed = _next(vehicle)
    stay: list[bytes] = []
    with vehicle.keys.change() as change:
        for each in vehicle.store.credentials():
            if same_person and each.role is Role.CARD and each.state not in _OUT:
                stay.append(key_ref(each.x))
            elif each.state not in _OUT:
                change.writes.set_state(each.credential_id, CredentialState.REVOKED)
        share_rows.set_epoch(vehicle.store.file, epoch, resolving_key=sealed)
        if same_person:
            change.apply("EPOCH", *stay)
        else:
            change.apply("UNPAIR")
        kind = "OWNER_CHANGED" if same_person else "UNPAIRED"
        vehicle.keys.log(change.writes, kind, text=f"owner epoch {epoch}")
    return epoch, key


def resolving_place(epoch: int) -> bytes:
    """Return what the seal of a resolving key is bound to."""
    return b"resolving key/" + epoch.to_bytes(4, "big")


def _next(vehicle: Vehicle) -> tuple[Secret, int, bytes]:
    epoch = vehicle.store.ownership().epoch + 1
    key = Secret(vehicle.entropy.random(_RESOLVING_KEY))
    return key, epoch, vehicle.seal.close(key, resolving_place(epoch))
