"""BLE sessions under attack: changed, replayed, held open, made to work (2, 4, 14, 29, 34)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dkey.access.ble_applet import BleApplet
from dkey.access.ble_device import DeviceBleSession
from dkey.access.ble_events import Authenticated, BleEvent, CommandRequested
from dkey.access.ble_reader import ReaderBleSession
from dkey.access.ble_rules import BleState
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential
from dkey.access.exchange import ReaderStatus
from dkey.access.messages import Ins
from dkey.access.profile import Interface
from dkey.codec.ble import Message, MessageType, NotificationId, RkeAction, split_sdu
from dkey.codec.ble_contents import ApResponse, Busy, PassThrough, RkeRequest
from dkey.lifecycle.policy import MAX_FAST_CANDIDATES

from .. import Broken, Edit, case
from .privacy import _Counted
from .scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.access.credential import DeviceCredential
    from dkey.access.reader import AccessReader

    Change = Callable[[bool, bytes], list[bytes]]

SESSION, READER, RULES, DEVICE = (
    f"dkey.access.ble_{name}" for name in ("session", "reader", "rules", "device")
)
SCHEDULE, CHANNEL = "dkey.access.schedule", "dkey.crypto.channel"
V1_0 = b"\x01\x00"


def bad(why: str, module: str, old: str, new: str, *rest: str) -> Broken:
    """Return the broken build of one module in which each old text becomes the new one."""
    pairs = zip(rest[::2], rest[1::2], strict=True)
    also = tuple(Edit(module=module, old=was, new=becomes) for was, becomes in pairs)
    return Broken(module=module, old=old, new=new, why=why, also=also)


class Between:
    """A vehicle's and a phone's session; what passes is kept and may be changed on the way.

    Attributes:
        log: What was sent, before any change: whether up to the vehicle, and the SDU.
        acted: What the vehicle carried out.
        events: What both sessions reported.
    """

    def __init__(
        self,
        scene: Scene,
        *,
        reader: AccessReader | None = None,
        credential: DeviceCredential | None = None,
        remote: bool = True,
        change: Change | None = None,
        seen: tuple[bytes, bytes] = (V1_0, V1_0),
        had: tuple[bytes, bytes] = (V1_0, V1_0),
    ) -> None:
        access = reader or scene.reader(interface=Interface.BLE)
        applet = BleApplet(credential or scene.phone().credential, scene.entropy)
        self.vehicle = ReaderBleSession(access, supported=had[0], selected=had[1])
        self.phone = DeviceBleSession(
            applet, remote_only=remote, supported=seen[0], selected=seen[1]
        )
        self.change: Change = change or (lambda _up, sdu: [sdu])
        self.log: list[tuple[bool, bytes]] = []
        self.acted: list[RkeAction] = []
        self.events: list[BleEvent] = []

    def meet(self) -> Between:
        self.vehicle.start(0.0)
        self.phone.start(0.0)
        return self.pump()

    def pump(self) -> Between:
        """Carry messages until both are silent."""
        while True:
            moves = [(True, sdu) for sdu in self.phone.outbox()]
            moves += [(False, sdu) for sdu in self.vehicle.outbox()]
            if not moves:
                return self
            self.log += moves
            for up, sent in moves:
                for sdu in self.change(up, sent):
                    if up:
                        self.hear(self.vehicle.receive(sdu, 0.0))
                    else:
                        self.events += self.phone.receive(sdu, 0.0)

    def hear(self, events: Iterable[BleEvent]) -> None:
        """Decide as a vehicle does."""
        for event in events:
            self.events.append(event)
            if isinstance(event, Authenticated):
                if event.transaction.credential is None:
                    self.vehicle.refuse(ReaderStatus.KEY_NOT_FOUND, 0.0)
                else:
                    self.events += self.vehicle.accept(ReaderStatus.SECURE, 0.0)
            elif isinstance(event, CommandRequested):
                self.acted.append(event.action)
                self.vehicle.answer(event, 0.0)

    def inject(self, sdu: bytes) -> None:
        self.hear(self.vehicle.receive(sdu, 0.0))

    def ask(self, action: RkeAction) -> bytes:
        """Let the phone ask for an action; return the SDU that asked."""
        self.phone.request(action, 0.0)
        at = len(self.log)
        return next(sdu for up, sdu in self.pump().log[at:] if up)

    @property
    def instructions(self) -> list[int]:
        """Instructions of the commands that the vehicle sent."""
        messages = [each for up, sdu in self.log if not up for each in split_sdu(sdu)]
        return [each.payload[1] for each in messages if each.type is MessageType.AP]

    @property
    def established(self) -> bool:
        """Whether both ends take messages of the encrypted part."""
        return self.vehicle.state is self.phone.state is BleState.ESTABLISHED


def honest(scene: Scene, **options: Any) -> Between:
    """Return two ends that met undisturbed."""
    if not (met := Between(scene, **options).meet()).established:
        raise RuntimeError("an undisturbed session was not established")
    return met


_SALT = "ble.reveal(), supported + selected"


@case(
    4,
    "BLE versions that were changed in the GATT value or in the choice give other keys",
    source="TLS downgrades; Aliro 1.0 §11.8.1",
    broken=[
        bad("BLE keys depend on the offer alone", SCHEDULE, _SALT, "ble.reveal(), supported"),
        bad("BLE keys depend on the choice alone", SCHEDULE, _SALT, "ble.reveal(), selected"),
    ],
)
def changed_ble_version(seed: int) -> None:
    newer, both = b"\x01\x01", b"\x01\x01\x01\x00"
    for had, seen in (((both, V1_0), (V1_0, V1_0)), ((both, V1_0), (both, newer))):
        met = Between(Scene(seed), had=had, seen=seen).meet()
        reached = met.phone.state is BleState.ESTABLISHED
        assert not reached, "the two sides agreed on an older version than they could"


_IN_CLEAR = "if size < 1:\n            return message\n        if size < 1:"


@case(
    4,
    "a wish to lock cannot be turned into a wish to unlock, nor a message into another",
    source="security 5, case 4; Aliro 1.0 §11.8",
    broken=[
        bad("too short to be encrypted is in clear", SESSION, "if size < 1:", _IN_CLEAR),
        bad(
            "the header is not authenticated",
            SESSION,
            "channel.open(message.payload, message.header(size))",
            "channel.open(message.payload)",
            "self._channel.seal(message.payload, aad)",
            "self._channel.seal(message.payload)",
        ),
    ],
)
def changed_wish(seed: int) -> None:
    clear = RkeRequest(action=RkeAction.UNLOCK, number=1).to_message().to_bytes()

    def action(sdu: bytes) -> bytes:  # header, attribute, its size, then the action
        return sdu[:6] + bytes((sdu[6] ^ RkeAction.LOCK ^ RkeAction.UNLOCK,)) + sdu[7:]

    for change in (action, lambda _: clear, lambda sdu: bytes((sdu[0] ^ 0x40,)) + sdu[1:]):
        met = honest(Scene(seed))
        met.change = lambda up, sdu, new=change: [new(sdu) if up else sdu]
        met.ask(RkeAction.LOCK)
        assert not met.acted, "the vehicle acted on a wish that was changed on the way"


def fast_scene(seed: int, **options: Any) -> Between:
    """Return a vehicle and a phone that may run fast transactions over BLE; not met yet."""
    scene = Scene(seed)
    phone, directory = scene.phone(), scene.directory()
    scene.know(phone, directory)
    reader = scene.reader(directory, interface=Interface.BLE)
    return Between(scene, reader=reader, credential=phone.credential, **options)


@case(
    4,
    "a fast flag that was stripped on the way over BLE ends the session",
    source="ProVerif mut1; security 5, case 4",
    broken=[
        bad("the salt lacks flags", SCHEDULE, "bytes((self.parameters, self.policy)),", "b'',"),
    ],
)
def stripped_fast_flag(seed: int) -> None:
    if Ins.AUTH1 in fast_scene(seed, remote=False).meet().instructions:
        raise RuntimeError("an undisturbed transaction was not fast")
    noise = b"\x9d\x40" + Scene(seed).chance.randbytes(64)

    def strip(up: bool, sdu: bytes) -> list[bytes]:
        [message] = split_sdu(sdu)
        body = message.payload
        if not up and body[1] == Ins.AUTH0:
            body = body.replace(b"\x41\x01\x01", b"\x41\x01\x00", 1)
        elif up and body[:2] == b"\x86\x41":
            body = body[:-2] + noise + body[-2:]
        return [Message(message.type, message.id, body).to_bytes()]

    met = fast_scene(seed, remote=False, change=strip).meet()
    if Ins.AUTH1 not in met.instructions:
        raise RuntimeError("the attacker did not get the vehicle to a standard transaction")
    assert not met.established, "the fast flag was stripped and nobody noticed"


@case(
    4,
    "a phone that connects for remote control is not led into a fast transaction",
    source="security 5, cases 4 and 5",
    broken=[bad("fast is taken", DEVICE, "if self._remote_only and transaction.fast:", "if 0:")],
)
def remote_made_fast(seed: int) -> None:
    rke = bytes((MessageType.NOTIFICATION, NotificationId.INITIATE_AP_RKE))
    new = bytes((MessageType.NOTIFICATION, NotificationId.INITIATE_AP))
    met = fast_scene(seed, change=lambda _, sdu: [sdu.replace(rke, new, 1)]).meet()
    downgraded = met.established and Ins.AUTH1 not in met.instructions
    assert not downgraded, "a session for remote control began with a fast transaction"


_OUT = ("_out_count = count + 1", "_out_count = count")
_WINDOW = bad(
    "a window of counters is taken, old ones too",
    CHANNEL,
    'return self._in.decrypt(self._in_iv + count.to_bytes(4, "big"), message, aad)',
    """for at in range(max(1, count - 4), count + 4):
                try:
                    plain = self._in.decrypt(self._in_iv + at.to_bytes(4, "big"), message, aad)
                except InvalidTag:
                    continue
                self._in_count = max(count, at) + 1
                return plain
            raise InvalidTag""",
)


@case(
    14,
    "protected BLE messages count once, in order, in their own session, and end it otherwise",
    source="SP 800-38D; SCP03; CVE-2022-37709; security 5, cases 2 and 14",
    broken=[
        _WINDOW,
        bad("counters stand still", CHANNEL, "_in_count = count + 1", "_in_count = count", *_OUT),
        bad("all sessions have the same keys", SCHEDULE, _SALT, "bytes(32), supported + selected"),
        bad(
            "what does not verify is ignored, and the attacker may go on trying",
            SESSION,
            "            events += self._fail(exc)\n        return tuple",
            "            log.debug('ignored: %s', quiet(exc))\n        return tuple",
        ),
    ],
)
def replayed_ble_command(seed: int) -> None:
    scene = Scene(seed)
    met = honest(scene)
    asked = met.ask(RkeAction.UNLOCK)
    met.inject(asked)
    assert met.acted == [RkeAction.UNLOCK], "a replayed command was carried out"
    assert met.vehicle.done, "the session goes on after a replayed command"
    other = honest(scene)
    other.inject(asked)
    assert not other.acted, "a command of another session was carried out"
    third = honest(scene)
    third.ask(RkeAction.LOCK)
    third.inject(next(sdu for up, sdu in reversed(third.log) if not up))
    assert third.vehicle.done, "the vehicle took its own message back"
    for order in ((1,), (1, 0), (0, 0), (0, 1, 0)):
        met = honest(Scene(seed))
        for data in (b"one", b"two"):
            met.phone.send(PassThrough(oui=b"\0\0\1", data=data), 0.0)
        kept = met.phone.outbox()
        for at in order:
            met.inject(kept[at])
        assert met.vehicle.done, f"messages in the order {order} were taken"


_AGAIN = bad(
    "the first message may come again in the middle of a transaction",
    RULES,
    "    (_S.ACCESS, _I.AP_RS):",
    "    (_S.ACCESS, _I.INITIATE_AP): (_S.ACCESS,),\n    (_S.ACCESS, _I.AP_RS):",
)


@case(
    29,
    "a first message that is repeated does not make the vehicle work again",
    source="CVE-2024-3297 (Matter Sigma1 replay)",
    broken=[_AGAIN],
)
def repeated_first_message(seed: int) -> None:
    met = Between(Scene(seed), remote=False)
    met.vehicle.start(0.0)
    assert not met.vehicle.outbox(), "the vehicle worked for a connection that said nothing"
    met.phone.start(0.0)
    [first] = met.phone.outbox()
    for _ in range(20):
        met.inject(first)
    begun = [sdu for sdu in met.vehicle.outbox() if sdu[:2] == b"\0\0"]
    assert len(begun) == 1, f"one connection made the vehicle begin {len(begun)} times"


_EVERY_S = 1.4
_TRICKLE = ApResponse(apdu=b"\0\x61\x01").to_message().to_bytes()
_BUSY = Busy().to_message().to_bytes()


def _held_s(met: Between, stop: BleState, said: bytes | None) -> float:
    """Return how long a phone holds the vehicle at ``stop`` by saying one thing or nothing."""
    met.vehicle.start(0.0)
    met.phone.start(0.0)
    while met.vehicle.state is not stop:
        if met.vehicle.state is BleState.DECIDING:
            met.vehicle.refuse(ReaderStatus.KEY_NOT_FOUND, 0.0)
            continue
        for sdu in met.phone.outbox():
            met.vehicle.receive(sdu, 0.0)
        for sdu in [] if met.vehicle.state is stop else met.vehicle.outbox():
            met.phone.receive(sdu, 0.0)
    now = 0.0
    while not met.vehicle.done and now < 30.0:
        now += _EVERY_S
        met.vehicle.tick(now)
        if said is not None:
            met.vehicle.receive(said, now)
    return now


@case(
    29,
    "no state before the session is established can be held, by silence, drips or Busy in clear",
    source="security 5, case 29",
    broken=[
        bad("no time for the handshake", RULES, "HANDSHAKE_S: Final = 10.0", "HANDSHAKE_S = 1e9"),
        bad(
            "Busy is believed in clear and gives all times anew",
            SESSION,
            'raise SequenceError("only an error may come in clear"',
            'return self._restart(now) or ()\n            raise SequenceError("no"',
        ),
    ],
)
def held_sessions(seed: int) -> None:
    for stop in (BleState.AWAIT_INITIATE, BleState.ACCESS, BleState.DECIDING, BleState.REFUSING):
        for said in (None, _BUSY, _TRICKLE):
            held_s = _held_s(Between(Scene(seed)), stop, said)
            assert held_s <= 10.0 + _EVERY_S, f"a phone held the vehicle while {stop.value}"


@case(
    34,
    "one BLE connection makes the vehicle try no more keys than one transaction may",
    source="HomeKey-ESP32 #5",
    broken=[
        _AGAIN,
        bad("no cap", "dkey.access.reader", "self.identity.profile.max_fast_candidates", "10**6"),
    ],
)
def bounded_trials_over_ble(seed: int) -> None:
    scene = Scene(seed)
    keys = [_Counted(scene.entropy.random(32)) for _ in range(scene.chance.randrange(40, 60))]
    directory = MemoryDirectory(
        EnrolledCredential(name="key", public_key=scene.entropy.ephemeral().public, kpersistent=key)
        for key in keys
    )
    reader = scene.reader(directory, interface=Interface.BLE)
    met = Between(scene, reader=reader, remote=False)
    met.vehicle.start(0.0)
    for _ in range(3):  # as different phones on the same connection
        again = Between(scene, remote=False)
        again.phone.start(0.0)
        for _ in range(2):  # the first message and the answer to AUTH0, with its cryptogram
            for sdu in again.phone.outbox():
                met.inject(sdu)
            for sdu in met.vehicle.outbox():
                again.phone.receive(sdu, 0.0)
    tried = sum(key.uses for key in keys)
    if not tried:
        raise RuntimeError("the vehicle tried no key at all")
    assert tried <= MAX_FAST_CANDIDATES, f"{tried} keys were tried on one connection"
