"""Guesses at the owner's pairing code: counted, one at a time, and worth nothing unproved."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dkey.control.owner_window import ATTEMPT_TIMEOUT_S
from dkey.crypto.p256 import ORDER, PublicKey
from dkey.crypto.secret import Secret
from dkey.crypto.spake2plus import Registration
from dkey.crypto.vault import MemoryVault
from dkey.errors import DkeyError, LinkError, LinkReason, PolicyRefusal
from dkey.lifecycle.features import Capabilities
from dkey.link.base import Cap
from dkey.pairing.owner import OwnerPairingDevice, Stretch, from_sdu, parse_code, to_sdu
from dkey.pairing.owner_messages import Confirm, Kind, Proof
from dkey.testing import FakeClock, SeededEntropy
from firmware_mock.garage import create_vehicle, open_vehicle
from firmware_mock.owner_desk import OwnerDesk

from .. import Broken, Edit, case

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SECURITY = "security 5"
PHONE = Capabilities(nfc=True, ble=True, uwb=True, os="android 14")
GUESSES = 8


def stretched(stretch: Stretch, code: Secret) -> Registration:
    """Stand in for scrypt, which no attack here is about."""
    halves = (hashlib.sha512(w + stretch.salt + code.reveal()).digest() for w in (b"0", b"1"))
    scalars = [int.from_bytes(half, "big") % (ORDER - 1) + 1 for half in halves]
    w0, w1 = (Secret(scalar.to_bytes(32, "big")) for scalar in scalars)
    return Registration(w0=w0, w1=w1)


class Cabin:
    """A parked vehicle with a code on its head unit; it can be cut from power at any time."""

    def __init__(self, seed: int) -> None:
        self._place = tempfile.TemporaryDirectory()
        self.entropy, self.clock = SeededEntropy(seed), FakeClock(1000.0)
        self._start(create_vehicle)
        self.code = self.new_code()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.vehicle.close()
        self._place.cleanup()

    def _start(self, how: Callable[..., Any]) -> None:
        folder = Path(self._place.name) / "vehicle"
        clock = self.clock
        self.vehicle = how(folder, entropy=self.entropy, clock=clock, wall_clock=clock)
        self.vehicle.body.ignition_on = True
        self.desk = OwnerDesk(self.vehicle, stretch=stretched)

    def power_cycle(self) -> None:
        self.vehicle.close()
        self._start(open_vehicle)

    def new_code(self) -> Secret:
        return parse_code(asyncio.run(self.desk.open_window()).code)

    def wrong(self, number: int) -> Secret:
        right = int(self.code.reveal())
        return Secret(f"{(right + 1 + number) % 10**8:08d}".encode())

    def meet(self, phone: Peer) -> None:
        asyncio.run(self.serve(phone))

    async def serve(self, phone: Peer) -> None:
        await self.desk.serve(phone, phone.first)

    @property
    def tries(self) -> int:
        return self.vehicle.store.pairing_codes()[-1].tries

    @property
    def enrolled(self) -> int:
        return len(self.vehicle.store.credentials())


class Peer:
    """A phone on a message link.

    Attributes:
        heard: Kinds of the vehicle's messages.
        change: Alters what the phone says.
        before: Happens before the phone hears anything; it gives its first answer afterwards.
    """

    mtu = 2048
    caps = frozenset({Cap.BLE})

    def __init__(self, cabin: Cabin, code: Secret, *, leaves_at: Kind | None = None) -> None:
        self.device = OwnerPairingDevice(
            vault=MemoryVault(key=cabin.entropy.ephemeral()),
            key="key",
            capabilities=PHONE,
            entropy=cabin.entropy,
        )
        self.code = code
        self.leaves_at = leaves_at
        self.first = to_sdu(self.device.begin())
        self.heard: list[Kind] = []
        self.change: Callable[[bytes], bytes] = bytes
        self.before: Callable[[], Awaitable[None]] | None = None
        self._answers: deque[bytes] = deque()

    async def send(self, data: bytes) -> None:
        if self.before is not None and not self.heard:
            await self.before()
        message = from_sdu(data)
        self.heard.append(Kind(message[0]))
        if message[0] == self.leaves_at:
            raise LinkError(LinkReason.LOST, "the phone left")
        try:
            answer = self.device.step(message)
            if isinstance(answer, Stretch):
                answer = self.device.stretched(stretched(answer, self.code))
        except DkeyError:
            return
        if answer is not None:
            self._answers.append(to_sdu(self.change(answer)))

    async def recv(self) -> bytes:
        if self._answers:
            return self._answers.popleft()
        raise LinkError(LinkReason.LOST, "the phone left")

    async def present(self) -> bool:
        return True

    async def aclose(self) -> None:
        self._answers.clear()


@case(
    25,
    "a guess is counted on the disk before its answer leaves, whatever the phone does next",
    source=f"{SECURITY}, case 25; matter.js #1894",
    broken=[
        Broken(
            module="dkey.pairing.owner_vehicle",
            old="        self._register.count_try()\n",
            new="",
            also=(
                Edit(
                    module="dkey.pairing.owner_vehicle",
                    old="        self._verifier.verify(message.confirmation)\n",
                    new="        self._register.count_try()\n"
                    "        self._verifier.verify(message.confirmation)\n",
                ),
            ),
            why="a try is counted when the phone confirms, which a guesser does not do",
        ),
        Broken(
            module="firmware_mock.owner_attempt",
            old="            tries = writes.count_try(self._code)",
            new="            tries = 1",
            why="tries are counted in memory only, and a power cycle forgets them",
        ),
    ],
)
def guess_and_leave(seed: int) -> None:
    with Cabin(seed) as cabin:
        for number in range(2):
            peer = Peer(cabin, cabin.wrong(number), leaves_at=Kind.PROOF)
            cabin.meet(peer)
            cabin.power_cycle()
            assert cabin.tries == number + 1, "a guess was answered and not counted"


@case(
    25,
    "the third wrong code ends it for good, across power cycles, and the right one comes too late",
    source=f"{SECURITY}, case 25; chip #16420",
    broken=[
        Broken(
            module="firmware_mock.store_transaction",
            old="(*row[:4], tries + 1, *row[5:])",
            new="(*row[:4], min(tries + 1, 2), *row[5:])",
            why="the counter stops before its limit",
        ),
    ],
)
def guess_on(seed: int) -> None:
    with Cabin(seed) as cabin:
        told = 0
        for number in range(GUESSES):
            peer = Peer(cabin, cabin.wrong(number))
            cabin.meet(peer)
            told += Kind.PROOF in peer.heard
            cabin.power_cycle()
        assert told <= 3, f"{told} guesses at one code were answered"
        cabin.meet(Peer(cabin, cabin.code))
        assert not cabin.enrolled, "a code that is locked out enrolled a phone"


@case(
    25,
    "an hour has four codes, so twelve guesses, power cycles or not",
    source=f"{SECURITY}, case 25; C23",
    broken=[
        Broken(
            module="dkey.control.owner_window",
            old="        if len(recent) > CODE_RESENDS_PER_HOUR:",
            new="        if not len(recent) >= 0:",
            why="new codes are not limited",
        ),
    ],
)
def guess_at_many_codes(seed: int) -> None:
    with Cabin(seed) as cabin:
        codes = 1
        for _ in range(GUESSES):
            cabin.power_cycle()
            try:
                cabin.new_code()
            except PolicyRefusal:
                continue
            codes += 1
        assert codes <= 4, f"{codes} codes were issued within the hour"


@case(
    26,
    "while one attempt runs, another gets no answer to its guess",
    source=f"{SECURITY}, case 26",
    broken=[
        Broken(
            module="dkey.control.owner_window",
            old="    (_S.BUSY, _I.TRY): (_S.BUSY,),\n",
            new="    (_S.BUSY, _I.TRY): (_S.BUSY,),\n    (_S.BUSY, _I.BEGIN): (_S.BUSY,),\n",
            why="several phones may try at the same time",
        ),
    ],
)
def guess_in_parallel(seed: int) -> None:
    with Cabin(seed) as cabin:
        first, *rest = (Peer(cabin, cabin.wrong(number)) for number in range(3))

        async def crowd() -> None:
            for peer in rest:
                await cabin.serve(peer)

        first.before = crowd
        cabin.meet(first)
        told = [Kind.PROOF in peer.heard for peer in (first, *rest)]
        assert sum(told) <= 1, "guesses were answered in parallel"


@case(
    26,
    "an attempt that was put out by the next cannot go on beside it",
    source=f"{SECURITY}, cases 26 and 29",
    broken=[
        Broken(
            module="dkey.control.owner_window",
            old="        if self.state is not _S.BUSY or attempt != self.attempt or late:",
            new="        if self.state is not _S.BUSY or late:",
            why="any attempt may go on as long as one is running",
        ),
    ],
)
def come_back_late(seed: int) -> None:
    with Cabin(seed) as cabin:
        first, second = (Peer(cabin, cabin.wrong(number)) for number in range(2))

        async def both() -> None:
            begun, over = asyncio.Event(), asyncio.Event()
            running: list[asyncio.Task[None]] = []

            async def dawdle() -> None:
                begun.set()
                await over.wait()

            async def put_out() -> None:
                cabin.clock.advance(ATTEMPT_TIMEOUT_S + 1)
                running.append(asyncio.create_task(cabin.serve(second)))
                await begun.wait()

            first.before, second.before = put_out, dawdle
            await cabin.serve(first)
            over.set()
            await asyncio.gather(*running)

        asyncio.run(both())
        assert Kind.PROOF not in first.heard, "an attempt that was over was answered"


UNVERIFIED = Broken(
    module="dkey.crypto.spake2plus",
    old="        if not hmac.compare_digest(self._suite.mac(key, share), confirmation):",
    new="        if False:",
    why="a confirmation is not verified",
)


@case(
    27,
    "without the phone's confirmation its key is not enrolled, though it is sealed",
    source=f"{SECURITY}, case 27; models, mut9",
    broken=[UNVERIFIED],
)
def strip_confirmation(seed: int) -> None:
    with Cabin(seed) as cabin:
        peer = Peer(cabin, cabin.code)

        def strip(message: bytes) -> bytes:
            if message[0] != Kind.CONFIRM:
                return message
            return Confirm(confirmation=bytes(32), sealed=Confirm.parse(message).sealed).to_bytes()

        peer.change = strip
        cabin.meet(peer)
        assert Kind.GRANT not in peer.heard, "the vehicle granted without a confirmation"
        assert not cabin.enrolled, "a key was enrolled without a confirmation"


@case(
    27,
    "the phone shows its key to no vehicle that has not proved the code",
    source=f"{SECURITY}, case 27; models, mut9",
    broken=[UNVERIFIED],
)
def pose_as_vehicle(seed: int) -> None:
    with Cabin(seed) as cabin:
        peer = Peer(cabin, cabin.code)
        offer = b"\xa1\x5c\x02\x01\x00\x80\x10" + bytes(16) + b"\x81\x03\x0f\x08\x01"
        fake = Proof(share=cabin.entropy.ephemeral().public.point, confirmation=bytes(32))
        said: list[bytes] = []

        async def lure() -> None:
            for message in (offer, fake.to_bytes()):
                await peer.send(to_sdu(message))
                try:
                    said.append(from_sdu(await peer.recv()))
                except LinkError:
                    break

        asyncio.run(lure())
        assert [Kind(message[0]) for message in said] == [Kind.SHARE], "the phone showed its key"


@case(
    27,
    "a phone that knows the code enrols no key that it does not hold",
    source=f"{SECURITY}, case 27",
    broken=[
        Broken(
            module="dkey.pairing.owner_vehicle",
            old="device.public_key.verify(device.proof, signed_data(self._transcript, device))",
            new="pass",
            why="the proof of possession is not verified",
        ),
    ],
)
def enrol_a_foreign_key(seed: int) -> None:
    with Cabin(seed) as cabin:
        foreign = cabin.entropy.ephemeral().public

        class Thief(MemoryVault):
            def public(self, key: str) -> PublicKey:
                return foreign

        peer = Peer(cabin, cabin.code)
        peer.device = OwnerPairingDevice(
            vault=Thief(key=cabin.entropy.ephemeral()),
            key="key",
            capabilities=PHONE,
            entropy=cabin.entropy,
        )
        peer.device.begin()
        cabin.meet(peer)
        assert not cabin.enrolled, "a key was enrolled that the phone does not hold"
