"""The device's store for one vehicle: Kpersistent, and the receipts that the vehicle writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.access.delivery import receipt_in
from dkey.errors import LocalFault

if TYPE_CHECKING:
    from dkey.agent.store import AgentStore
    from dkey.crypto.secret import Secret

__all__ = ["CarriedStore"]


class CarriedStore:
    """A :class:`~dkey.access.credential.DeviceStore` of one vehicle of an agent's store."""

    def __init__(self, store: AgentStore, group_id: bytes) -> None:
        self._store = store
        self._group_id = group_id

    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        """Keep Kpersistent for one reader, replacing an older one."""
        self._store.save_kpersistent(group_id, sub_id, key)

    def save_mailbox(self, data: bytes) -> None:
        """Keep the receipt that the vehicle wrote; nothing else in a parcel is the vehicle's.

        Raises:
            LocalFault: Something else was written.
            WireError: It is no receipt.
        """
        receipt = receipt_in(data)
        if receipt is None:
            raise LocalFault("the vehicle writes its receipt, and nothing else")
        if self._store.keys.note_receipt(self._group_id, receipt):
            self._store.record(
                "rolled back",
                group_id=self._group_id,
                text="the vehicle has an older state than it told before",
            )
