"""A vehicle in a folder with two friends, and a parcel that changes three rows at once."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from dkey.access.delivery import BODY_AT, RECEIPT_AT
from dkey.control.touch import Position
from dkey.lifecycle.parcel import KeyParcel
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.slots import slots
from dkey.testing import FakeClock, SeededEntropy
from firmware_mock.garage import create_vehicle, open_vehicle
from firmware_mock.stage import Phone
from tests.scenario.sharing import Desk, carry, signer_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from firmware_mock.vehicle import Vehicle

AT_S = 1_700_000_000.0


def opened(folder: Path, connect: Callable[[Path], Any] | None = None) -> Vehicle:
    """Return the vehicle as it is when its power comes back."""
    more = {} if connect is None else {"connect": connect}
    return open_vehicle(
        folder,
        entropy=SeededEntropy(str(folder)),
        clock=FakeClock(5.0),
        wall_clock=lambda: AT_S,
        **more,
    )


def parcel_of(phone: Phone) -> KeyParcel:
    """Return what lies in a phone's mailbox."""
    data = phone.credential.mailbox.data
    return KeyParcel.parse(data[:RECEIPT_AT] + data[BODY_AT:])


class World:
    """The template, and a delivery that revokes one friend and lets another into the place.

    Args:
        folder: Where the template vehicle is made.
        seed: Of all keys.
    """

    def __init__(self, folder: Path, seed: object = 1) -> None:
        self.folder = folder
        entropy = SeededEntropy(f"world {seed}")
        vehicle = create_vehicle(
            folder, entropy=entropy, clock=FakeClock(5.0), wall_clock=lambda: AT_S
        )
        self.owner = Phone("owner", vehicle, entropy)
        vehicle.enrol("owner", self.owner.public_key, Role.OWNER, Permission.ENTRY_AND_START)
        self.desk = Desk(vehicle, signer_of(self.owner))
        self.desk.corporate()
        self.user, self.friend, self.heir = (
            Phone(name, vehicle, entropy) for name in ("user", "friend", "heir")
        )
        mine = self.desk.user_attest(self.user)
        carry(self.user, mine)
        carry(self.friend, mine, self.desk.attest(self.friend, 1, signer=signer_of(self.user)))
        for phone in (self.user, self.friend):
            self.take(vehicle, phone)
        # The actual user falls, and the friend with the user; the heir takes the friend's place.
        news = self.desk.list(1, revoked=(self.desk.share_id("user"),))
        carry(self.heir, self.desk.attest(self.heir, 1, list_number=1), owner_list=news)
        self.before = self.told(vehicle)
        vehicle.close()

    def take(self, vehicle: Vehicle, phone: Phone) -> None:
        """Let the vehicle take what a phone carries, as in its transaction."""
        vehicle.share_desk.take(parcel_of(phone), phone.public_key, Position.DOOR_HANDLE)

    def copy(self, place: Path) -> Path:
        """Return a copy of the template."""
        return shutil.copytree(self.folder, place)

    def told(self, vehicle: Vehicle) -> object:
        """Return everything that a delivery changes."""
        return (
            vehicle.keys.book.state,
            [(each.name, each.x, each.state) for each in vehicle.store.credentials()],
            dict(slots(vehicle.store.file)),
            [each.kind for each in vehicle.store.events()],
        )

    def usable(self, vehicle: Vehicle) -> set[str]:
        """Return the names of those who may still open the vehicle."""
        return {each.name for each in vehicle.keys.grants() if each.state.value == "ACTIVE"}
