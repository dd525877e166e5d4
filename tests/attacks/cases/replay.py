"""Old bytes: recorded messages, repeated randomness (cases 1, 2, 8)."""

from __future__ import annotations

from dkey.access.enrolled import Flow
from dkey.access.exchange import ExchangeRequest
from dkey.access.messages import Auth0Response, Ins
from dkey.errors import EntropyError, ReplayError
from dkey.link.driver import run_blocking
from dkey.testing import ScriptedEntropy

from .. import Broken, Edit, case
from .scene import (
    Scene,
    Wire,
    attempt,
    changed_response,
    failed,
    flipped,
    transact,
)

NO_MEMORY = Edit(
    module="dkey.access.reader",
    old="        if not self._seen.first_time(device_ephemeral.x):",
    new="        if False:",
)
DRAW_ONCE = Broken(
    module="dkey.access.reader",
    old="""        ephemeral = self._entropy.ephemeral()
        transaction_id = self._entropy.random(16)
        self._fresh.require(ephemeral.public.x)
        self._fresh.require(transaction_id)
""",
    new="""        if not hasattr(self, "_drawn"):
            self._drawn = self._entropy.ephemeral(), self._entropy.random(16)
        ephemeral, transaction_id = self._drawn
""",
    why="the reader draws its ephemeral key and identifier once, and does not remember answers",
    also=(NO_MEMORY,),
)
_IN_COUNT_STANDS = Broken(
    module="dkey.crypto.channel",
    old="self._in_count = count + 1",
    new="self._in_count = count",
    why="the receiving counter is never raised",
)


@case(
    1,
    "answers recorded in an old session open nothing in a new one",
    source="CVE-2022-37709",
    broken=[DRAW_ONCE],
)
def recorded_standard_answers(seed: int) -> None:
    scene = Scene(seed)
    wire, reader = Wire(scene.phone().answer), scene.reader()
    transact(reader, wire)
    old = {c[1]: r for c, r in wire.log}
    refused = attempt(reader.authenticate(Flow.STANDARD), lambda c: old.get(c[1], b"\x90\x00"))
    assert refused is not None, "the vehicle accepted answers of an old session"


@case(
    1,
    "a fast answer recorded in an old session matches nothing in a new one",
    source="CVE-2022-37709",
    broken=[
        DRAW_ONCE,
        Broken(
            module="dkey.access.schedule",
            old="""                self.reader_ephemeral_x,
                self.transaction_id,
                bytes((""",
            new="                bytes((",
            why="the salt takes nothing that the reader made fresh, and answers are not remembered",
            also=(NO_MEMORY,),
        ),
    ],
)
def recorded_fast_answers(seed: int) -> None:
    scene = Scene(seed)
    reader, phone = scene.fast()
    wire = Wire(phone.answer)
    transact(reader, wire, Flow.FAST)
    old = {c[1]: r for c, r in wire.log}
    refused = attempt(reader.authenticate(Flow.FAST), lambda c: old.get(c[1], b"\x90\x00"))
    assert refused is not None, "the vehicle accepted a cryptogram of an old session"


@case(
    1,
    "a repeated AUTH0 answer is known for a replay before the reader signs anything",
    source="CVE-2022-37709",
    broken=[
        Broken(
            module=NO_MEMORY.module,
            old=NO_MEMORY.old,
            new=NO_MEMORY.new,
            why="the reader does not remember the devices' ephemeral keys",
        ),
    ],
)
def repeated_auth0_answer(seed: int) -> None:
    scene = Scene(seed)
    reader, wire = scene.reader(), Wire(scene.phone().answer)
    transact(reader, wire)
    for change in (bytes, flipped):
        point = change(Auth0Response.parse(wire.response(Ins.AUTH0)[:-2]).device_ephemeral)
        answer = Auth0Response(device_ephemeral=point).to_bytes()
        again = Wire(wire.answer, responses=changed_response(Ins.AUTH0, lambda _, a=answer: a))
        refused = attempt(reader.authenticate(Flow.STANDARD), again)
        assert isinstance(refused, ReplayError), "the reader did not notice the replay"
        assert not again.count(Ins.AUTH1), "the reader signed for a replayed answer"


@case(
    1,
    "commands recorded from the vehicle's reader get no proof out of the phone",
    source="CVE-2022-37709",
    broken=[
        Broken(
            module="dkey.access.schedule",
            old="""                b"\\x86\\x20",
                self.device_ephemeral_x,
""",
            new="",
            why="the signatures do not cover the device's ephemeral key",
        ),
        Broken(
            module="dkey.access.device",
            old="        key.verify(signature, context.signed_data(READER_USAGE))\n",
            new="",
            why="the device does not verify the reader's signature",
        ),
    ],
)
def recorded_reader_commands(seed: int) -> None:
    scene = Scene(seed)
    phone = scene.phone()
    wire = Wire(phone.answer)
    transact(scene.reader(), wire)
    answers = {c[1]: phone.answer(c) for c, _ in [*wire.log]}
    assert failed(answers[Ins.AUTH1]), "the phone proved itself to a recording"


@case(
    2,
    "a protected command is not carried out twice in its session",
    source="SCP03; Aliro 1.0 §8.3.1.6",
    broken=[_IN_COUNT_STANDS],
)
def repeated_command(seed: int) -> None:
    reader, phone = Scene(seed).fast()
    wire = Wire(phone.answer)
    session = transact(reader, wire, Flow.FAST)
    run_blocking(session.exchange(ExchangeRequest()), wire)
    again = phone.answer(wire.command(Ins.EXCHANGE))
    assert failed(again), "the phone took the same protected command twice"
    later = attempt(session.exchange(ExchangeRequest()), phone.answer)
    assert later is not None, "the session outlived a replayed command"


@case(
    2,
    "a protected command of one session is refused in another",
    source="SCP03; Aliro 1.0 §8.3.1.6",
    broken=[
        Broken(
            module="dkey.access.schedule",
            old="hkdf(kpersistent.reveal(), self.salt(_FAST, credential_x), self.info, _BLOCK)",
            new="hkdf(kpersistent.reveal(), _FAST, credential_x, _BLOCK)",
            why="the fast keys follow from Kpersistent alone",
        )
    ],
)
def command_of_another_session(seed: int) -> None:
    reader, phone = Scene(seed).fast()
    wire = Wire(phone.answer)
    session = transact(reader, wire, Flow.FAST)
    run_blocking(session.exchange(ExchangeRequest()), wire)
    old = wire.command(Ins.EXCHANGE)
    transact(reader, phone.answer, Flow.FAST)
    assert failed(phone.answer(old)), "the phone took a protected command of an old session"


@case(
    2,
    "the answer to one protected command is not taken for the answer to the next",
    source="SCP03; Aliro 1.0 §8.3.1.6",
    broken=[_IN_COUNT_STANDS],
)
def repeated_answer(seed: int) -> None:
    reader, phone = Scene(seed).fast()
    wire = Wire(phone.answer)
    session = transact(reader, wire, Flow.FAST)
    run_blocking(session.exchange(ExchangeRequest()), wire)
    old = wire.response(Ins.EXCHANGE)
    refused = attempt(session.exchange(ExchangeRequest()), lambda _: old)
    assert refused is not None, "the reader took an old answer for a new one"


class _Cycle:
    """A random source that starts over: a stuck generator, a snapshot restored again and again."""

    def __init__(self, scene: Scene, *, ephemerals: int | None = None, randoms: int | None = None):
        self.scene = scene
        self.ephemerals = [scene.entropy.ephemeral() for _ in range(ephemerals or 0)]
        self.randoms = [scene.entropy.random(16) for _ in range(randoms or 0)]

    def ephemeral(self):
        if not self.ephemerals:
            return self.scene.entropy.ephemeral()
        self.ephemerals.append(self.ephemerals.pop(0))
        return self.ephemerals[-1]

    def random(self, size: int) -> bytes:
        if not self.randoms or size != 16:
            return self.scene.entropy.random(size)
        self.randoms.append(self.randoms.pop(0))
        return self.randoms[-1]


def _reader_notices(scene: Scene, entropy: _Cycle, period: int) -> bool:
    """Whether a reader stops before AUTH0 when its random source has gone round once."""
    reader, wire = scene.reader(entropy=entropy), Wire(scene.phone().answer)
    for _ in range(period):
        transact(reader, wire)
    refused = attempt(reader.authenticate(Flow.STANDARD), wire)
    return isinstance(refused, EntropyError) and wire.count(Ins.AUTH0) == period


_NO_DETECTOR = Broken(
    module="dkey.access.freshness",
    old="        if value in self._seen:",
    new="        if False:",
    why="the detector of repeated randomness is switched off",
)


@case(
    8,
    "a reader whose random source repeats a key sends nothing more",
    source="Debian OpenSSL 2008",
    broken=[
        _NO_DETECTOR,
        Broken(
            module="dkey.access.freshness",
            old="        self._depth = depth\n",
            new="        self._depth = 1\n",
            why="only the very last value is remembered",
        ),
    ],
)
def stuck_reader_key(seed: int) -> None:
    for period in (1, 4):
        scene = Scene(seed)
        entropy = _Cycle(scene, ephemerals=period)
        assert _reader_notices(scene, entropy, period), "the reader used an ephemeral key twice"


@case(
    8,
    "a reader whose random source repeats a transaction identifier sends nothing more",
    source="Debian OpenSSL 2008",
    broken=[
        _NO_DETECTOR,
        Broken(
            module="dkey.access.reader",
            old="        self._fresh.require(transaction_id)\n",
            new="",
            why="transaction identifiers are not watched",
        ),
    ],
)
def stuck_reader_identifier(seed: int) -> None:
    scene = Scene(seed)
    entropy = _Cycle(scene, randoms=1)
    assert _reader_notices(scene, entropy, 1), "the reader used a transaction identifier twice"


@case(
    8,
    "a phone whose random source repeats a key answers nothing more",
    source="Debian OpenSSL 2008",
    broken=[
        _NO_DETECTOR,
        Broken(
            module="dkey.access.device",
            old="        self._fresh.require(ephemeral.public.x)\n",
            new="",
            why="the device does not watch its ephemeral keys",
        ),
    ],
)
def stuck_phone_key(seed: int) -> None:
    scene = Scene(seed)
    decoy, key = (scene.entropy.ephemeral().scalar().reveal() for _ in range(2))
    phone = scene.phone(entropy=ScriptedEntropy([decoy, key, key], [scene.entropy.random(32)]))
    reader, wire = scene.reader(), Wire(phone.answer)
    transact(reader, wire)
    attempt(reader.authenticate(Flow.STANDARD), wire)
    assert failed(wire.response(Ins.AUTH0)), "the phone used an ephemeral key twice"
