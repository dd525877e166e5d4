"""What a peer learns that may not: tracking, oracles, the trial loop (cases 32, 33, 34)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from dkey.access.credential import key_slot
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow
from dkey.access.messages import Ins, command
from dkey.access.profile import VEHICLE
from dkey.access.schedule import DEVICE_USAGE
from dkey.codec.tlv import items
from dkey.crypto.secret import Secret
from dkey.lifecycle.policy import MAX_FAST_CANDIDATES

from .. import Broken, case
from .scene import (
    Impostor,
    Phone,
    Scene,
    Wire,
    attempt,
    proof,
    transact,
)
from .signed import certified_reader

# --- 32 tracking ----------------------------------------------------------------------------------


def _shape(response: bytes) -> tuple[object, ...]:
    """Return what an observer without keys can tell of a response: status, size, tags."""
    data = response[:-2]
    tags = tuple((tag, end - at) for tag, _, at, end in items(data)) if data else ()
    return response[-2:], len(data), tags


def _seen_by(scene: Scene, phone: Phone, flow: Flow, *, known: bool) -> list[tuple[object, ...]]:
    """Return the shapes of a phone's answers to an attacker's readers.

    The attacker knows the vehicle's group identifier or makes one up; it has no key of the vehicle.
    """
    own = scene.entropy.ephemeral()
    names: dict[str, Any] = {
        "group_id": scene.group_id if known else scene.entropy.random(16),
        "sub_id": scene.sub_id if known else scene.entropy.random(16),
    }
    wire = Wire(phone.answer)
    for reader in (
        scene.reader(identity=scene.identity(private_key=own, **names)),
        certified_reader(scene, issuer=own, private_key=own, **names),
        certified_reader(scene, forged=True, private_key=own, **names),
    ):
        attempt(reader.authenticate(flow), wire)
    if wire.count(Ins.AUTH0) != 3:
        raise RuntimeError("the attacker's readers did not get as far as AUTH0")
    for first in (Ins.SELECT, Ins.AUTH0):  # and go on with a protected command, without keys
        wire(wire.command(first))
    wire(command(Ins.EXCHANGE, scene.chance.randbytes(20)).to_bytes())
    return [(c[1], *_shape(r)) for c, r in wire.log]


_LEAKS = [
    Broken(
        module="dkey.access.device",
        old="self._cryptogram(now) if command.fast else",
        new="self._cryptogram(now) if command.fast and reader is not None else",
        why="an unknown reader gets no cryptogram",
    ),
    Broken(
        module="dkey.access.device",
        old="        ReaderCertificate.expand(data)\n        self._transaction()",
        new="        ReaderCertificate.expand(data)\n"
        "        if self._transaction().reader is None:\n"
        '            raise AuthenticationError("the group is not known")\n'
        "        self._transaction()",
        why="LOAD CERT tells whether the group is known",
    ),
    Broken(
        module="dkey.access.device",
        old="        key, group_key = self._decoy_reader, context.group_key_x\n",
        new="        key, group_key = self._decoy_reader, context.group_key_x\n"
        "        if reader is None:\n"
        '            raise WireError("the group is not known")\n',
        why="AUTH1 of an unknown group has a status of its own",
    ),
    Broken(
        module="dkey.access.device",
        old="        reader = self.credential.readers.get(command.reader_id[:16])\n",
        new="        reader = self.credential.readers.get(command.reader_id[:16])\n"
        "        if reader is None:\n"
        '            raise SequenceError("the group is not known")\n',
        why="AUTH0 refuses an unknown group",
    ),
]


@case(
    32,
    "a reader without keys cannot tell whether the phone knows the vehicle it names",
    source="kormax/aliro: bogus data; Apple",
    broken=_LEAKS,
)
def same_answers_to_strangers(seed: int) -> None:
    for flow in (Flow.FAST, Flow.AUTO, Flow.STANDARD):
        scene = Scene(seed)
        for phone in (scene.phone(), scene.phone(certified=True), scene.fast()[1]):
            known = _seen_by(scene, phone, flow, known=True)
            unknown = _seen_by(scene, phone, flow, known=False)
            assert known == unknown, "the phone's answers tell which vehicles it knows"


@case(
    32,
    "nothing that names the phone leaves it before the reader is authenticated",
    source="kormax/aliro; Apple Platform Security",
    broken=[
        Broken(
            module="dkey.access.device",
            old="            application_type=profile.application_type,",
            new="            application_type=self._public.x[:2],",
            why="the SELECT response differs from phone to phone",
        ),
        Broken(
            module="dkey.access.device",
            old="            extension=self.extension,\n        )\n        self._now = now",
            new="            extension=self.extension or "
            'b"\\x30\\x0d\\x04\\x03\\x02\\x64\\x6b\\x81\\x06" + self._public.x[:6],\n'
            "        )\n        self._now = now",
            why="the AUTH0 response carries an identifier",
        ),
        Broken(
            module="dkey.access.device",
            old="        ephemeral = self._entropy.ephemeral()\n"
            "        self._fresh.require(ephemeral.public.x)\n",
            new="        if not hasattr(self, '_one'):\n"
            "            self._one = self._entropy.ephemeral()\n"
            "        ephemeral = self._one\n",
            why="the device keeps one ephemeral key",
        ),
    ],
)
def no_identifier(seed: int) -> None:
    scene = Scene(seed)
    said: list[list[bytes]] = []
    for phone in (scene.phone(), scene.phone(key=scene.entropy.ephemeral())):
        for _ in range(2):
            wire = Wire(phone.answer)
            stranger = scene.reader(
                identity=scene.identity(
                    group_id=scene.entropy.random(16), private_key=scene.entropy.ephemeral()
                )
            )
            attempt(stranger.authenticate(Flow.AUTO), wire)
            attempt(stranger.authenticate(Flow.FAST), wire)
            said.append([r for _, r in wire.log])
            marks = (phone.key.public.x[:6], key_slot(phone.key.public)[:6], scene.group_id[:6])
            text = b"".join(said[-1])
            assert not [m for m in marks if m in text], "the phone named itself to a stranger"
    for one, other in pairwise(said):
        assert one[0] == other[0], "the SELECT response tells phones apart"
        fixed = one[0] + bytes(8)
        windows = {
            r[at : at + 8]
            for r in one[1:]
            for at in range(len(r) - 7)
            if r[at : at + 8] not in fixed
        }
        again = [w for w in windows for r in other[1:] if w in r]
        assert not again, "two transactions have something in common"


# --- 33 oracles -----------------------------------------------------------------------------------


@case(
    33,
    "the phone gives one status for every reader that it does not trust",
    source="status word oracles",
    broken=[
        Broken(
            module="dkey.access.device",
            old='            raise AuthenticationError("the reader is not trusted"',
            new='            raise SequenceError("the reader is not trusted"',
            why="a locked phone tells a genuine reader from a forged one",
        ),
        Broken(
            module="dkey.access.device",
            old="        except AuthenticationError:\n            return self._decoy_reader\n",
            new="        except AuthenticationError as exc:\n"
            '            raise WireError("the certificate is not trusted") from exc\n',
            why="an untrusted certificate has a status of its own",
        ),
        _LEAKS[2],
    ],
)
def one_status_on_the_phone(seed: int) -> None:
    scene = Scene(seed)
    stranger = scene.entropy.ephemeral()
    answers = set()
    for phone, reader in (
        (scene.phone(), scene.reader(identity=scene.identity(private_key=stranger))),
        (scene.phone(), scene.reader(identity=scene.identity(group_id=bytes(16)))),
        (scene.phone(user_authenticated=False), scene.reader(policy=3)),
        (scene.phone(), certified_reader(scene)),
        (scene.phone(certified=True), certified_reader(scene, issuer=stranger)),
        (scene.phone(certified=True), certified_reader(scene, private_key=stranger, forged=True)),
    ):
        wire = Wire(phone.answer)
        if attempt(reader.authenticate(Flow.STANDARD), wire) is None:
            raise RuntimeError("a reader that should be refused was not")
        answers.add(wire.response(Ins.AUTH1))
    assert len(answers) == 1, f"the phone tells the reasons apart: {answers}"


@case(
    33,
    "a device without a valid proof cannot tell what the vehicle disliked",
    source="status word oracles",
    broken=[
        Broken(
            module="dkey.access.reader",
            old="yield from fail_protected(channel, status, limits)\n            raise\n",
            new="yield from control_flow(ControlFlow(reason=status))\n            raise\n",
            why="the reader tells its reason in the clear",
        ),
    ],
)
def one_refusal_by_the_vehicle(seed: int) -> None:
    scene = Scene(seed)
    other = scene.entropy.ephemeral()
    point = scene.owner_key.public.point
    payloads = (
        lambda c, _: proof(public_key=point, signature=other.sign_data(c.signed_data(b"none"))),
        lambda c, _: proof(
            public_key=point, signature=other.sign_data(c.signed_data(DEVICE_USAGE))
        ),
        lambda c, _: proof(public_key=other.public.point, signature=bytes(64)),
        lambda _c, _s: b"\x00",
        lambda _c, sig: proof(key_slot=bytes(8), signature=sig),
    )
    observed = []
    for payload in payloads:
        device = Impostor(scene, payload)
        if attempt(scene.reader().authenticate(Flow.STANDARD), device.answer) is None:
            raise RuntimeError("a device that should be refused was not")
        # The first notice is protected; an observer has its size. What follows must be the same.
        head = device.notices[0]
        observed.append((head[:5], len(head), device.notices[1:]))
    assert observed == observed[:1] * len(observed), (
        "the vehicle tells its reasons apart to an observer"
    )
    assert observed[0][0][1] != Ins.CONTROL_FLOW, "it tells its reasons in the clear"


class _Counted(Secret):
    """A secret that counts how often it was used."""

    __slots__ = ("uses",)

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self.uses = 0

    def reveal(self) -> bytes:
        self.uses += 1
        return super().reveal()


def _trials(scene: Scene, size: int, place: int | None) -> int:
    """Return how many stored keys a fast transaction tried, the phone's at ``place``."""
    phone = scene.phone()
    secrets = [_Counted(scene.entropy.random(32)) for _ in range(size)]
    keys = [scene.entropy.ephemeral().public for _ in range(size)]
    if place is not None:
        keys[place] = phone.key.public
        value = secrets[place].reveal()
        phone.credential.kpersistent[scene.group_id, scene.sub_id] = Secret(value)
        secrets[place].uses = 0
    directory = MemoryDirectory(
        EnrolledCredential(name=f"key {at}", public_key=key, kpersistent=secret)
        for at, (key, secret) in enumerate(zip(keys, secrets, strict=True))
    )
    reader = scene.reader(directory)
    if place is not None and place >= size - scene.profile.max_fast_candidates:
        transact(reader, phone.answer, Flow.FAST)
    else:
        attempt(reader.authenticate(Flow.FAST), phone.answer)
    return sum(secret.uses for secret in secrets)


@case(
    33,
    "the work of a fast transaction does not depend on whose key matches",
    source="security 5, case 33: 55 against 185 us by position",
    broken=[
        Broken(
            module="dkey.access.reader",
            old="                match = candidate, keys, plain\n",
            new="                match = candidate, keys, plain\n                break\n",
            why="the trial loop stops at the first match",
        ),
    ],
)
def same_work_at_every_place(seed: int) -> None:
    scene = Scene(seed)
    size = scene.chance.randrange(5, VEHICLE.max_fast_candidates + 1)
    middle = scene.chance.randrange(1, size - 1)
    work = {place: _trials(scene, size, place) for place in (0, middle, size - 1, None)}
    assert set(work.values()) == {size}, f"keys tried by place of the match: {work}"


# --- 34 the trial loop ----------------------------------------------------------------------------


@case(
    34,
    "many enrolled keys do not make a fast transaction longer than the profile allows",
    source="HomeKey-ESP32 #5",
    broken=[
        Broken(
            module="dkey.access.directory",
            old="        return have[-limit:]",
            new="        return have",
            why="the directory returns every key it has",
        ),
        Broken(
            module="dkey.access.reader",
            old="            most = self.identity.profile.max_fast_candidates\n",
            new="            most = 10**6\n",
            why="the reader does not ask the profile",
        ),
        Broken(
            module="dkey.access.profile",
            old="    max_fast_candidates=MAX_FAST_CANDIDATES,",
            new="    max_fast_candidates=64,",
            why="the vehicle profile allows more holders than there can be",
        ),
    ],
)
def bounded_trial_loop(seed: int) -> None:
    scene = Scene(seed)
    size = scene.chance.randrange(80, 120)
    for place in (0, size - 1, None):
        tried = _trials(scene, size, place)
        assert tried <= MAX_FAST_CANDIDATES, f"{tried} keys were tried in one transaction"


@case(
    34,
    "a profile that allows no fast transaction has none tried",
    source="HomeKey-ESP32 #5",
    broken=(
        Broken(
            module="dkey.access.directory",
            old="have[-limit:] if limit > 0 else []",
            new="have[-limit:]",
            why="the last none of a list is all of it",
        ),
    ),
)
def no_trials_allowed(seed: int) -> None:
    scene = Scene(seed, profile=replace(VEHICLE, max_fast_candidates=0))
    tried = _trials(scene, scene.chance.randrange(5, 50), None)
    assert tried == 0, f"{tried} keys were tried where none may be"
