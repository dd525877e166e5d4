"""A mock vehicle in a temporary folder, its owner's phone, and a clock that one sets."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dkey.access.applet import AppletHost
from dkey.access.credential import DeviceCredential
from dkey.access.device import AccessApplet
from dkey.access.profile import VEHICLE
from dkey.control.rules import Action
from dkey.control.touch import Position
from dkey.crypto.seal import Seal
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.lifecycle.roles import CardProvenance, Permission, Role
from dkey.link.loopback import loopback
from dkey.pairing.card import CardApplet
from dkey.testing import FakeClock, SeededEntropy
from firmware_mock.body import Body
from firmware_mock.stage import Card, Phone
from firmware_mock.store import CredentialStore, ReaderIdentity, VehicleIdentity
from firmware_mock.vehicle import READER_KEY, TapOutcome, Vehicle

if TYPE_CHECKING:
    from dkey.crypto.p256 import PrivateKey, PublicKey
    from dkey.link.base import Responder

HANDLE, PAD = Position.DOOR_HANDLE, Position.CONSOLE_PAD


class Parked:
    """A parked vehicle with the ignition on and one owner; a context manager."""

    def __init__(self, seed: int) -> None:
        self.entropy = SeededEntropy(seed)
        self.clock = FakeClock(1000.0)
        self._folder = tempfile.TemporaryDirectory()
        key = self.entropy.ephemeral()
        identity = VehicleIdentity(
            group_id=self.entropy.random(16),
            readers=tuple(
                ReaderIdentity(
                    position=position,
                    sub_id=self.entropy.random(16),
                    public_key=key.public.point,
                )
                for position in Position
            ),
        )
        self.path = Path(self._folder.name) / "vehicle.db"
        self.wall_s = 1.7e9
        self._key = key
        self._secrets = Secret(self.entropy.random(32)), Secret(self.entropy.random(32))
        CredentialStore.create(self.path, identity).close()
        self.vehicle = self.opened()
        self.owner = self.phone("owner", Role.OWNER)

    def opened(self) -> Vehicle:
        """Return the vehicle as its store says it is."""
        seal, ledger = self._secrets
        store = CredentialStore.open(self.path)
        store.open_ledger(ledger, self.entropy)
        return Vehicle(
            store=store,
            vault=MemoryVault(**{READER_KEY: self._key}),
            seal=Seal(seal, self.entropy),
            body=Body(ignition_on=True),
            entropy=self.entropy,
            clock=self.clock,
            wall_clock=lambda: self.clock() + self.wall_s,
        )

    def power_cycle(self) -> None:
        """Cut the power and give it back: the monotonic clock begins anew."""
        self.vehicle.close()
        self.wall_s += self.clock.now_s - 5.0
        self.clock.now_s = 5.0
        self.vehicle = self.opened()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.vehicle.close()
        self._folder.cleanup()

    def phone(self, name: str, role: Role) -> Phone:
        """Enrol a phone that may lock, unlock and start."""
        phone = Phone(name, self.vehicle, self.entropy)
        self.vehicle.enrol(name, phone.public_key, role, Permission.ENTRY_AND_START)
        return phone

    def card(self) -> Card:
        """Return a blank card."""
        return Card(CardProvenance.PURCHASED, self.entropy)

    def tap(self, position: Position, device: Responder) -> TapOutcome:
        """Hold a device to a reader and take it away."""

        async def once() -> TapOutcome:
            link = loopback(device)
            try:
                return await self.vehicle.tap(position, link)
            finally:
                await link.aclose()

        self.clock.advance(2.0)
        return asyncio.run(once())

    def authorise(self) -> None:
        """Open the card window and let the owner authorise one card."""
        self.vehicle.open_card_window()
        outcome = self.tap(PAD, self.owner)
        if outcome.action is not Action.AUTHORISE_CARD:
            raise RuntimeError(f"the owner could not authorise a card: {outcome.text}")

    def paired_card(self) -> Card:
        """Return a card that was paired as it should be."""
        card = self.card()
        self.authorise()
        outcome = self.tap(PAD, card)
        if outcome.action is not Action.ENROL_CARD:
            raise RuntimeError(f"the card was not paired: {outcome.text}")
        return card

    @property
    def cards(self) -> int:
        """How many cards the vehicle enrolled."""
        return len(self.vehicle.store.cards())


class ClonedVault:
    """Shows another one's public key and signs with its own: all that a copy can know."""

    def __init__(self, genuine: PublicKey, own: PrivateKey) -> None:
        self.genuine = genuine
        self.own = own

    def sign(self, key: str, digest: bytes) -> bytes:
        return self.own.sign(digest)

    def agree(self, key: str, peer: PublicKey) -> Secret:
        return self.own.agree(peer)

    def public(self, key: str) -> PublicKey:
        return self.genuine


def clone(parked: Parked, card: Card) -> AppletHost:
    """Return an emulated card with everything of ``card`` that is not its private key."""
    credential = DeviceCredential(
        profile=VEHICLE,
        vault=ClonedVault(card.public_key, parked.entropy.ephemeral()),
        key="key",
        readers=dict(card.credential.readers),
    )
    return AppletHost(
        [
            AccessApplet(credential, parked.entropy),
            CardApplet(credential, CardProvenance.PURCHASED, parked.entropy),
        ]
    )
