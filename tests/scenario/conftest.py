from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dkey.control.touch import Position
from dkey.lifecycle.roles import CardProvenance, Permission, Role
from dkey.testing import FakeClock, SeededEntropy
from firmware_mock.garage import open_vehicle
from firmware_mock.stage import Card, Phone, Stage


class Scene:
    """A stage with an owner, and short words for what a scenario does."""

    def __init__(
        self, stage: Stage, clock: FakeClock, entropy: SeededEntropy, folder: Path
    ) -> None:
        self.stage = stage
        self.folder = folder
        self._opened = []
        self.vehicle = stage.vehicle
        self.body = stage.vehicle.body
        self.clock = clock
        self.entropy = entropy
        self.owner = self.phone("owner", Role.OWNER)

    def phone(
        self,
        name: str,
        role: Role = Role.ASSOCIATE,
        permission: Permission = Permission.ENTRY_AND_START,
    ) -> Phone:
        phone = Phone(name, self.vehicle, self.entropy)
        self.vehicle.enrol(name, phone.public_key, role, permission)
        return phone

    def stranger(self) -> Phone:
        return Phone("stranger", self.vehicle, self.entropy)

    def blank_card(self, provenance: CardProvenance = CardProvenance.PURCHASED) -> Card:
        return Card(provenance, self.entropy)

    def id_of(self, device: Phone | Card) -> str:
        known = self.vehicle.store.credential_by_x(device.public_key.x)
        assert known is not None
        return known.credential_id

    async def handle(self, device, **how):
        self.clock.advance(2)
        return await self.stage.tap(Position.DOOR_HANDLE, device, **how)

    async def pad(self, device, **how):
        return await self.stage.tap(Position.CONSOLE_PAD, device, **how)

    async def pair(self, card: Card, *, replaces: str | None = None):
        """Pair a card with the ignition on and the owner's consent."""
        was_on, self.body.ignition_on = self.body.ignition_on, True
        self.vehicle.open_card_window(replaces=replaces)
        authorised = await self.pad(self.owner)
        outcome = await self.pad(card) if authorised.code is None else authorised
        self.vehicle.cancel_card_window()
        self.body.ignition_on = was_on
        return outcome

    def id_named(self, vehicle, name):
        return next(c.credential_id for c in vehicle.store.credentials() if c.name == name)

    def reopened(self):
        """The vehicle as it is after its power was lost: the same folder, opened anew."""
        again = open_vehicle(
            self.folder / "vehicle",
            entropy=SeededEntropy("again"),
            clock=self.clock,
            wall_clock=self.vehicle.wall_clock,
        )
        self._opened.append(again)
        return again

    def close(self) -> None:
        for each in self._opened:
            each.close()

    def everything(self):
        """All that a refusal or a torn transaction must leave as it was."""
        readers = [r.sub_id for r in self.vehicle.store.identity().readers]
        return (
            self.body.signals(),
            self.vehicle.store.credentials(),
            [self.vehicle.store.fast_candidates(sub_id) for sub_id in readers],
        )


@pytest.fixture
async def scene(tmp_path) -> AsyncIterator[Scene]:
    clock, entropy = FakeClock(1000.0), SeededEntropy("scenario")
    stage = Stage(
        entropy=entropy, clock=clock, wall_clock=lambda: 1.7e9 + clock.now_s, folder=tmp_path
    )
    async with stage:
        made = Scene(stage, clock, entropy, tmp_path)
        yield made
        made.close()
