"""Somebody on the air between two BLE sessions, byte by byte; and any message in any order.

What must hold in every run: when both sides are established they hold the same keys for the same
transaction, and every command that the vehicle acts on was asked for by the device, in that
session, in that order.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from dkey.access.ble_applet import BleApplet
from dkey.access.ble_device import DeviceBleSession
from dkey.access.ble_events import Authenticated, CommandRequested, Established, VerdictReceived
from dkey.access.ble_reader import ReaderBleSession
from dkey.access.ble_rules import BleState
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, ReaderIdentity
from dkey.access.exchange import ReaderStatus
from dkey.access.profile import ALIRO, VEHICLE, Interface
from dkey.access.reader import AccessReader
from dkey.codec.ble import RkeAction
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.access.ble_events import BleEvent
    from dkey.access.ble_session import BleSession
    from dkey.access.profile import Profile

READER, PHONE_A, PHONE_B = (PrivateKey.from_scalar(bytes(31) + bytes((n,))) for n in (2, 3, 4))
GROUP, SUB = bytes(range(16)), bytes(range(16, 32))
KEYS = {PHONE_A: Secret(b"\x4a" * 32), PHONE_B: Secret(b"\x4b" * 32)}
SESSIONS = 300
"""Seeded sessions for each kind of attack."""
KINDS = ("drop", "duplicate", "reorder", "flip", "truncate", "splice", "inject", "mix")
ROUNDS = 40


class Side:
    """One vehicle and one phone on one connection, and what each of them believes."""

    def __init__(self, key: PrivateKey, profile: Profile, dice: Random, *, stored: bool) -> None:
        seed = str(dice.random())
        kept = {(GROUP, SUB): KEYS[key]} if stored else {}
        applet = BleApplet(
            DeviceCredential(
                profile=profile,
                vault=MemoryVault(c=key),
                key="c",
                readers={GROUP: TrustedReader(group_id=GROUP, public_key=READER.public)},
                kpersistent=kept,
            ),
            SeededEntropy(seed),
        )
        known = [
            EnrolledCredential(
                name=str(number), public_key=each.public, kpersistent=KEYS[each] if stored else None
            )
            for number, each in enumerate((PHONE_A, PHONE_B))
        ]
        identity = ReaderIdentity(
            profile=profile, group_id=GROUP, sub_id=SUB, vault=MemoryVault(r=READER), key="r"
        )
        access = AccessReader(
            identity,
            MemoryDirectory(known),
            SeededEntropy(seed + "r"),
            interface=Interface.BLE,
        )
        self.remote_only = profile is ALIRO or dice.random() < 0.5
        self.reader = ReaderBleSession(access)
        self.device = DeviceBleSession(applet, remote_only=self.remote_only)
        self.dice = dice
        self.key = key
        self.profile = profile
        self.asked: list[RkeAction] = []
        self.acted: list[RkeAction] = []
        self.answered: list[tuple[RkeAction, str | None]] = []
        self.told: list[tuple[RkeAction, str | None]] = []
        self.transaction: Authenticated | None = None
        self.established: dict[str, Established] = {}
        self.reader.start(0.0)
        self.device.start(0.0)

    def deliver(self, data: bytes, *, to_reader: bool) -> None:
        receiver: BleSession = self.reader if to_reader else self.device
        for event in receiver.receive(data, 0.0):
            (self.at_reader if to_reader else self.at_device)(event)

    def at_reader(self, event: BleEvent) -> None:
        if isinstance(event, Authenticated):
            self.transaction = event
            for more in self.reader.accept(ReaderStatus.SECURE, 0.0):
                self.at_reader(more)
        elif isinstance(event, Established):
            self.established["reader"] = event
        elif isinstance(event, CommandRequested):
            self.acted.append(event.action)
            code = self.dice.choice([None, "TOO_SOON"])
            self.answered.append((event.action, code))
            self.reader.answer(event, 0.0, code=code)

    def at_device(self, event: BleEvent) -> None:
        if isinstance(event, Established):
            self.established["device"] = event
        elif isinstance(event, VerdictReceived):
            self.told.append((event.action, event.code))

    def ask(self) -> None:
        """Let the device ask for something when it may."""
        ready = self.profile is ALIRO or len(self.asked) == len(self.told)
        if self.device.state is BleState.ESTABLISHED and ready and len(self.asked) < 3:
            wish = [*RkeAction] if self.profile is VEHICLE else [RkeAction.LOCK, RkeAction.UNLOCK]
            action = self.dice.choice(wish)
            self.asked.append(action)
            self.device.request(action, 0.0)

    def check(self) -> None:
        """The rules that hold whatever happens on the air."""
        assert self.acted == self.asked[: len(self.acted)]
        assert self.told == self.answered[: len(self.told)]
        device = self.established.get("device")
        if device is None:
            assert not self.acted
            return
        # The device's belief implies the reader's: AP Completed can come from nobody else.
        assert "reader" in self.established
        assert self.transaction is not None
        assert device.transaction is not None
        ours = self.transaction.transaction
        assert ours.public_key == self.key.public
        assert ours.keys.ble == device.transaction.keys.ble
        assert device.ursk in (None, self.established["reader"].ursk)
        assert device.state == self.established["reader"].state


class Air:
    """Carries what both sides of two connections send, and attacks some of it."""

    def __init__(self, kind: str, dice: Random) -> None:
        self.dice = dice
        profile = dice.choice([ALIRO, VEHICLE])
        stored = dice.random() < 0.4
        keys = [PHONE_A, dice.choice([PHONE_A, PHONE_B])]
        wide = kind in ("splice", "mix")
        self.sides = [Side(key, profile, dice, stored=stored) for key in keys[: 1 + wide]]
        self.kind = kind
        self.targets = set(dice.sample(range(10), dice.randint(1, 3))) if kind != "none" else set()
        self.step = 0
        self.struck = False
        self.seen: list[bytes] = []
        self.waiting: list[tuple[Side, bytes, bool]] = []

    def run(self) -> None:
        for _ in range(ROUNDS):
            moved = False
            for side in self.sides:
                side.ask()
                for session, to_reader in ((side.device, True), (side.reader, False)):
                    for sdu in session.outbox():
                        moved = True
                        self.carry(side, sdu, to_reader=to_reader)
                side.check()
            if not moved and not self.waiting:
                return
            if not moved:
                self.flush()

    def carry(self, side: Side, sdu: bytes, *, to_reader: bool) -> None:
        attack = self.step in self.targets
        self.step += 1
        self.seen.append(sdu)
        if not attack:
            side.deliver(sdu, to_reader=to_reader)
            self.flush()
            return
        self.struck = True
        kind = self.kind if self.kind != "mix" else self.dice.choice(KINDS[:-1])
        strike: Callable[[Side, bytes, bool], None] = getattr(self, kind)
        strike(side, sdu, to_reader)

    def flush(self) -> None:
        """Let through what was held back."""
        waiting, self.waiting = self.waiting, []
        for side, sdu, to_reader in waiting:
            side.deliver(sdu, to_reader=to_reader)

    def drop(self, side: Side, sdu: bytes, to_reader: bool) -> None:
        pass

    def duplicate(self, side: Side, sdu: bytes, to_reader: bool) -> None:
        side.deliver(sdu, to_reader=to_reader)
        side.deliver(sdu, to_reader=to_reader)

    def reorder(self, side: Side, sdu: bytes, to_reader: bool) -> None:
        self.waiting.append((side, sdu, to_reader))

    def flip(self, side: Side, sdu: bytes, to_reader: bool) -> None:
        at = self.dice.randrange(len(sdu))
        bit = 1 << self.dice.randrange(8)
        side.deliver(sdu[:at] + bytes((sdu[at] ^ bit,)) + sdu[at + 1 :], to_reader=to_reader)

    def truncate(self, side: Side, sdu: bytes, to_reader: bool) -> None:
        side.deliver(sdu[: self.dice.randrange(len(sdu))], to_reader=to_reader)

    def splice(self, side: Side, sdu: bytes, to_reader: bool) -> None:
        """Deliver into the other connection instead, or as well."""
        if self.dice.random() < 0.5:
            side.deliver(sdu, to_reader=to_reader)
        for other in self.sides:
            if other is not side:
                other.deliver(sdu, to_reader=to_reader)

    def inject(self, side: Side, sdu: bytes, to_reader: bool) -> None:
        """Deliver something seen before, to either end, around the message."""
        side.deliver(self.dice.choice(self.seen), to_reader=self.dice.random() < 0.5)
        side.deliver(sdu, to_reader=to_reader)


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_on_the_air_makes_the_sides_disagree(kind: str) -> None:
    struck = 0
    for seed in range(SESSIONS):
        air = Air(kind, Random(f"{kind} {seed}"))
        air.run()
        for side in air.sides:
            side.check()
        struck += air.struck
    assert struck > SESSIONS * 0.8


def test_without_an_attack_every_session_is_established_and_every_command_answered() -> None:
    for seed in range(60):
        air = Air("none", Random(f"none {seed}"))
        air.run()
        (side,) = air.sides
        side.check()
        assert set(side.established) == {"reader", "device"}
        assert side.acted == side.asked
        assert len(side.asked) == 3
        if side.profile is VEHICLE:
            assert side.told == side.answered


def test_the_check_notices_a_command_that_nobody_asked_for() -> None:
    air = Air("none", Random("broken"))
    air.run()
    (side,) = air.sides
    side.acted.append(RkeAction.UNLOCK)
    with pytest.raises(AssertionError):
        side.check()


def test_the_check_notices_keys_that_differ() -> None:
    one, two = (Air("none", Random(f"broken {n}")) for n in range(2))
    one.run()
    two.run()
    one.sides[0].established["device"] = two.sides[0].established["device"]
    with pytest.raises(AssertionError):
        one.sides[0].check()


@pytest.mark.parametrize("seed", range(200))
def test_no_bytes_crash_a_session(seed: int) -> None:
    dice = Random(f"noise {seed}")
    air = Air("none", dice)
    (side,) = air.sides
    for _ in range(dice.randrange(4)):
        for session, to_reader in ((side.device, True), (side.reader, False)):
            for sdu in session.outbox():
                side.deliver(sdu, to_reader=to_reader)
    for session in (side.device, side.reader):
        kind, number = dice.choice([(0, 0), (0, 1), (1, 0), (2, dice.randrange(8)), (3, 0), (4, 0)])
        body = dice.randbytes(dice.randrange(1, 40))
        session.receive(bytes((kind, number)) + len(body).to_bytes(2, "big") + body, 0.0)
        session.receive(dice.randbytes(dice.randrange(30)), 0.0)
        session.outbox()
        assert session.done
    side.check()
