"""The vehicle's radio and its neighbours under attack: hoarders, pieces, trackers (29 to 35)."""

from __future__ import annotations

import asyncio
import functools
import logging
import selectors
from itertools import combinations
from typing import TYPE_CHECKING, Any

from bumble import core, hci
from bumble.device import DeviceConfiguration, Peer

from dkey.access.ble_events import Authenticated
from dkey.access.profile import VEHICLE
from dkey.access.schedule import ble_keys
from dkey.codec import ble_advert
from dkey.codec.ble import RkeAction
from dkey.codec.ble_contents import ApResponse, Busy, GeneralError
from dkey.crypto.secret import Secret
from dkey.link.fragment import Fragmenter
from firmware_mock.air import Air
from firmware_mock.ble_limits import PeerStage, RadioLimits
from firmware_mock.ble_radio import VehicleRadio

from .. import case
from . import owner as pairing
from .ble_session import READER, SESSION, V1_0, Between, bad, honest
from .parked import ClonedVault
from .scene import Scene
from .secrecy import _Everything, _found

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PEER, RADIO, ADVERTISER = (f"firmware_mock.ble_{name}" for name in ("peer", "radio", "advertiser"))
FRAGMENT, ADVERT = "dkey.link.fragment", "dkey.codec.ble_advert"
ERROR = GeneralError().to_message().to_bytes()
LIMITS = RadioLimits(connections=5, half_open=3, pending_total_bytes=20_000)


class _Skip(selectors.SelectSelector):
    """Lets time pass instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("the case waits for what never comes")
        self.now += 0.0 if ready else max(0.0, timeout or 0.0)
        return ready


def _loop() -> asyncio.AbstractEventLoop:
    """Return an event loop in a time of its own, in which waiting takes none."""
    skip = _Skip()
    loop = asyncio.SelectorEventLoop(skip)
    loop.time = lambda: skip.now  # type: ignore[method-assign]
    return loop


class World:
    """A vehicle on the air that lets everybody in who says "owner", and phones near it."""

    def __init__(self, seed: int) -> None:
        self.scene, self.air = Scene(seed), Air(supervision_s=1.0)
        self.key = Secret(self.scene.entropy.random(16))
        self.came: list[bytes] = []
        self.takes, self.devices = True, 0
        self.radio = self.vehicle(self.key)

    def device(self, **options: Any) -> Any:
        self.devices += 1
        return self.air.device(f"device{self.devices}", **options)

    def vehicle(self, key: Secret) -> VehicleRadio:
        return VehicleRadio(
            self.device(config=DeviceConfiguration(name="dkey")),
            profile=VEHICLE,
            resolving_key=key,
            on_peer=self.serve,
            limits=LIMITS,
            chance=self.scene.entropy.random,
        )

    async def serve(self, link: Any) -> None:
        while True:
            self.came.append(await link.recv())
            link.authenticated |= self.came[-1] == b"owner"
            if link.authenticated and not self.takes:
                await asyncio.Event().wait()

    async def phone(self, radio: Any = None, *, select: bool = True, says: bytes = b"") -> Phone:
        phone = Phone()
        await phone.connect(self.device(), radio or self.radio, select=select)
        if says:
            await phone.say(*phone.fragmenter.split(says))
        return phone


def staged(plot: Callable[[World], Awaitable[None]]) -> Callable[[int], None]:
    """Return a plot as a case: it is played in a world of its own."""

    async def act(seed: int) -> None:
        world = World(seed)
        async with world.radio:
            await plot(world)
        world.air.close()

    @functools.wraps(plot)
    def run(seed: int) -> None:
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(act(seed))

    return run


class Phone:
    """A phone that says what it likes, in chunks of its own."""

    gone = False

    async def connect(self, device: Any, radio: VehicleRadio, *, select: bool) -> None:
        await device.power_on()
        connection = await device.connect_le(hci.Address(radio.address))
        connection.once("disconnection", lambda _: setattr(self, "gone", True))
        self.peer, self.fragmenter = Peer(connection), Fragmenter(20)
        await asyncio.sleep(0.1)
        if not self.gone:
            await self.peer.discover_all()
        choice = ble_advert.DeviceChoice().to_bytes()
        if select and not self.gone:
            await self.value("CHOICE").write_value(choice, with_response=True)
            await self.value("TX").subscribe(print)

    def value(self, name: str) -> Any:
        uuid = core.UUID(getattr(ble_advert, f"VEHICLE_{name}_UUID"))
        return self.peer.get_characteristics_by_uuid(uuid)[0]

    async def say(self, *chunks: bytes) -> None:
        for chunk in chunks:
            if not self.gone:
                await self.value("RX").write_value(chunk, with_response=False)
        await asyncio.sleep(0.1)


@case(
    29,
    "who hoards connections does not get past the caps, nor past the deadline of any state",
    source="security 5, case 29; CVE-2024-3297",
    broken=[
        bad("no cap", RADIO, "if len(self._peers) >= self.limits.connections:", "if False:"),
        bad("no cap on half-open", RADIO, "if len(half_open) >= self.limits.half_open:", "if 0:"),
        bad("oldest leave", RADIO, "min(self.peers, key=lambda each: each.stage)", "self.peers[0]"),
        bad("bearer: no deadline", PEER, "self._mark + limits.bearer_s", "1e9"),
        bad("first message: no deadline", PEER, "self._mark + limits.first_message_s", "1e9"),
        bad("silence: no deadline", PEER, "self._mark + limits.idle_s", "1e9"),
    ],
)
@staged
async def hoarded_connections(world: World) -> None:
    owner = await world.phone(says=b"owner")
    plans: list[dict[str, Any]] = [{"select": False}, {}, {"says": b"hello"}]
    crowd = plans * 3
    world.scene.chance.shuffle(crowd)
    for options in [plans[0]] * 4 + crowd:
        await world.phone(**options)
        stages = [each.stage for each in world.radio.peers]
        assert len(stages) <= LIMITS.connections, "the vehicle serves more than its cap"
        assert stages.count(PeerStage.CONNECTED) <= LIMITS.half_open, "too many are half-open"
    newcomer = await world.phone(says=b"owner")
    assert not newcomer.gone, "hoarders keep the owner's second phone out"
    await asyncio.sleep(60.0)
    for options in plans:
        await world.phone(**options)
        await asyncio.sleep(40.0)
        assert len(world.radio.peers) == 2, "a phone that proved nothing held its connection"
    assert [owner.gone, newcomer.gone] == [False] * 2, "an authenticated phone had to leave"


@case(
    29,
    "a phone cannot hold its connection by selecting a bearer and leaving it, again and again",
    source="security 5, case 29",
    broken=[bad("fresh deadlines", RADIO, "None if link.authenticated else link.since", "None")],
)
@staged
async def bearer_left_again(world: World) -> None:
    phone = await world.phone()
    for _ in range(60):
        if not phone.gone:
            await phone.value("TX").unsubscribe()
            await asyncio.sleep(4.0)
        if not phone.gone:
            await phone.value("TX").subscribe(print)
    assert phone.gone, "a phone held a connection for minutes without saying anything"


_MALFORMED = (
    (b"\x80\xff\xffa",),  # 64 KiB claimed
    (b"\x80\x00\x09ab", b"\x81\x00\x09ab"),  # begun inside another
    (b"\x80\x00\x03ab", b"\x01cd"),  # overlaps its end, and goes on
    (b"\x80\x00\x09ab", b"\x02cd"),  # a gap
    (b"\xc0\x00\x09ab",),  # shorter than claimed
)


@case(
    30,
    "pieces that overlap, lie about their length or never end cost the vehicle next to nothing",
    source="SweynTooth",
    broken=[
        bad("a claim is believed", FRAGMENT, "1 <= claimed <= self._max_message", "1 <= claimed"),
        bad("a second beginning", FRAGMENT, "(at == 3) is not (self.started_at is None)", "False"),
        bad("overlapping", FRAGMENT, "if len(self._part) + arrived > self._size:", "if False:"),
        bad("a gap", FRAGMENT, "if chunk[0] & _SEQUENCE != self._sequence:", "if False:"),
        bad("never ends", PEER, "self._begun + limits.fragment_s", "1e9"),
    ],
)
@staged
async def bad_pieces(world: World) -> None:
    owner = await world.phone(says=b"owner")
    message = world.scene.chance.randbytes(40)
    await (await world.phone()).say(*Fragmenter(4).split(message))
    assert world.came[-1] == message, "small pieces of one message were not put together"
    for chunks in _MALFORMED:
        phone = await world.phone()
        await phone.say(*chunks)
        assert phone.gone, f"the vehicle goes on after {chunks}"
    assert not owner.gone, "one phone's pieces ended another's link"
    assert not any(each.pending for each in world.radio.peers), "useless bytes are held"
    await owner.say(b"\x81\x10\x00a")  # behind "owner", which was chunk 0
    for number in range(2, 12):
        await asyncio.sleep(0.5)
        await owner.say(bytes((number,)) + b"a")
    assert owner.gone, "a message that never ends holds the link of an authenticated phone"


@case(
    30,
    "what a phone has pending is bounded, in bytes and in messages, and so is that of all together",
    source="SweynTooth; security 5, case 30",
    broken=[
        bad("small messages are free", PEER, "_HELD_EXTRA: Final = 64", "_HELD_EXTRA: Final = 0"),
        bad("a peer has no cap", PEER, "self.pending > self._limits.pending_bytes", "False"),
        bad("all: no cap", RADIO, "pending for each in self.peers", "pending for each in ()"),
    ],
)
@staged
async def hoarded_bytes(world: World) -> None:
    world.takes = False
    for size, count in ((1, 200), (1000, 200), *[(1000, 6)] * 4):
        phone = await world.phone(says=b"owner")
        for _ in range(count):
            await phone.say(*phone.fragmenter.split(bytes(size)))
        assert phone.gone or count < 200, f"messages of {size} bytes pile up without end"
        pending = sum(each.pending for each in world.radio.peers)
        assert pending <= LIMITS.pending_total_bytes, "all phones together hold too much"


async def _seen(world: World, radio: VehicleRadio) -> bytes:
    """Return what a listener hears of a vehicle now: address, then advertising data."""
    device = world.device()
    heard: dict[str, bytes] = {}
    await device.power_on()
    device.on("advertisement", lambda ad: heard.setdefault(str(ad.address)[:17], ad.data_bytes))
    await device.start_scanning(active=False)
    await asyncio.sleep(1.0)
    await device.stop_scanning()
    return bytes(hci.Address(radio.address)) + heard[radio.address]


@case(
    32,
    "no two periods of a vehicle's advertising have anything in common that other vehicles lack",
    source="security 5, case 32; Core 5.4 Vol 3 Part C §10.7",
    broken=[
        bad("one nonce", ADVERTISER, "= self._chance(4)", "= self._nonce or self._chance(4)"),
        bad("one address", ADVERTISER, "if not await host.update_rpa():", "if False:"),
        bad("tags for all", ADVERT, '_encrypt(grk, b"dkey', '_encrypt(bytes(16), b"dkey'),
        bad("any key resolves", ADVERT, "vehicle_tag(grk, self.nonce) == self.tag", "True"),
        bad("a mark", RADIO, 'b"".join(profile.versions)', "resolving_key.reveal()[:2]"),
    ],
)
@staged
async def tracked_vehicle(world: World) -> None:
    key = Secret(world.scene.entropy.random(16))
    async with world.vehicle(key) as other:
        seen: list[tuple[VehicleRadio, bytes]] = []
        for _ in range(3):
            for radio in (world.radio, other):
                seen.append((radio, await _seen(world, radio)))
                await radio.rotate()
        told = [await _told(world, radio) for radio in (world.radio, other)]
    for (_, one), (_, two) in combinations(seen, 2):
        assert one[6:28] == two[6:28], "what all vehicles say differs"
        pieces = [{t[at : at + 4] for at in (0, 1, 2, *range(28, 34))} for t in (one, two)]
        assert not pieces[0] & pieces[1], "two periods can be linked"
    for radio, heard in seen:
        advert = ble_advert.VehicleAdvert.parse(heard[6:])
        resolved = [advert.resolves(each.reveal()) for each in (world.key, key)]
        assert resolved == [radio is world.radio, radio is other], "a foreign key resolves a tag"
    assert told[0] == told[1], "what a stranger reads tells vehicles apart"


async def _told(world: World, radio: VehicleRadio) -> list[tuple[str, bytes]]:
    """Return what a stranger reads from a vehicle."""
    phone = await world.phone(radio, select=False)
    values = [each for service in phone.peer.services for each in service.characteristics]
    readable = [each for each in values if each.properties & each.properties.READ]
    return [(str(each.uuid), bytes(await each.read_value())) for each in readable]


_SAY, _NOTICE = "self._say_error()", "yield from fail_protected(channel, status, limits)"
_REASON = 'self._send(GeneralError(reason=2 * (type(exc).__name__ == "WireError")))'


def _answers(scene: Scene, fault: bytes) -> set[tuple[bytes, ...]]:
    """Return what a vehicle and a phone say to ``fault`` in the middle of a transaction."""
    met = Between(scene)
    met.vehicle.start(0.0)
    met.phone.start(0.0)
    met.inject(met.phone.outbox()[0])
    met.vehicle.outbox()
    met.inject(fault)
    met.phone.receive(fault, 0.0)
    return {tuple(met.vehicle.outbox()), tuple(met.phone.outbox())}


@case(
    33,
    "over BLE every fault in clear has one and the same General Error, and bad proofs look alike",
    source="status word oracles; Aliro 1.0 §11.7.3.1.2",
    broken=[
        bad("a reason", SESSION, _SAY, _REASON),
        bad("no notice", "dkey.access.reader", _NOTICE, "yield from ()"),
        bad("twice", READER, _SAY, "self._say_error() or self._say_error()"),
    ],
)
def one_error_over_ble(seed: int) -> None:
    scene = Scene(seed)
    junk = scene.chance.randbytes(scene.chance.randrange(5, 40))
    contents = (ApResponse(apdu=b"\x69\x85"), ApResponse(apdu=junk), Busy())
    faults = [each.to_message().to_bytes() for each in contents]
    faults += [b"", junk[:3], b"\x3f" + junk, b"\0\0\xff\xff" + junk, b"\x02\x05\0\1\0"]
    said = set().union(*(_answers(scene, fault) for fault in faults))
    assert said == {(ERROR,)}, f"reasons are told apart: {said}"
    own = scene.entropy.ephemeral()
    stranger, cloned = scene.phone(key=own).credential, scene.phone().credential
    cloned.vault = ClonedVault(scene.owner_key.public, own)
    logs = [Between(scene, credential=each).meet().log for each in (stranger, cloned)]
    shapes = [[(up, sdu[:2], len(sdu)) for up, sdu in log] for log in logs]
    assert shapes[0] == shapes[1], "an unknown key looks different from a bad signature"
    assert logs[0][-1] == logs[1][-1] == (False, ERROR), "a refusal ends otherwise"


_URSK = "transaction.keys.ursk if released"
_DERIVE = "reader, device = ble_keys(keys.ble, *self._versions)"


@case(
    35,
    "no log line, text or event of a BLE session and of an owner pairing shows a secret",
    source="kormax README: raw logs",
    broken=[
        bad("a log", SESSION, _DERIVE, _DERIVE + "; log.debug('%s', device.reveal().hex())"),
        bad("an event", READER, _URSK, "transaction.keys.ursk.reveal() if released"),
        bad(
            "a record",
            "firmware_mock.owner_attempt",
            "{tries} of",
            "{self._desk.shown and self._desk.shown.code} of",
        ),
    ],
)
def secrets_over_ble(seed: int) -> None:
    root, handler, level = logging.getLogger(), _Everything(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(1)
    try:
        with pairing.Cabin(seed) as cabin:
            phones = [pairing.Peer(cabin, code) for code in (cabin.wrong(0), cabin.code)]
            any(map(cabin.meet, phones))
            shown: list[object] = [*cabin.vehicle.store.events(), vars(cabin.desk)]
            shown += [vars(phone.device) for phone in phones]
            secrets, code = {"key": cabin.desk.resolving_key.reveal()}, cabin.code.reveal()
            if not cabin.enrolled:
                raise RuntimeError("no phone was paired")
        for remote in (False, True):
            met = honest(Scene(seed), remote=remote)
            met.ask(RkeAction.LOCK)
            met.inject(b"\3\xff\0\1\0")
            shown += [*met.events, vars(met.vehicle), vars(met.phone), met.vehicle.error]
            keys = next(e.transaction.keys for e in met.events if isinstance(e, Authenticated))
            found = (*ble_keys(keys.ble, V1_0, V1_0), keys.ble, keys.ursk, keys.exchange_device)
            secrets |= {f"{remote} {at}": each.reveal() for at, each in enumerate(found)}
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    text = "\n".join((*handler.lines, *map(repr, shown), *map(str, shown))).encode()
    leaks = _found(secrets, [("what is seen", text)])
    assert not leaks, f"secrets are visible: {leaks}"
    assert not any(form in text for form in (code, code[:4] + b" " + code[4:])), "the code is seen"
