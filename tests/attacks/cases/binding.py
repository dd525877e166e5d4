"""Genuine parts in wrong places: reflection, splicing, flipped points (3, 7, 10)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dkey.access.enrolled import Flow
from dkey.access.exchange import ExchangeRequest
from dkey.access.messages import (
    Auth0Command,
    Auth0Response,
    Auth1Payload,
    Ins,
    command,
)
from dkey.access.schedule import DEVICE_USAGE
from dkey.crypto.channel import SecureChannel
from dkey.crypto.p256 import ORDER, PrivateKey
from dkey.errors import AuthenticationError
from dkey.link.driver import run_blocking
from dkey.testing import ScriptedEntropy

from .. import Broken, case
from .scene import (
    OWNER,
    Impostor,
    Scene,
    Wire,
    attempt,
    changed_command,
    changed_response,
    failed,
    flipped,
    proof,
    transact,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.access.schedule import Context

_ONE_KEY = Broken(
    module="dkey.crypto.channel",
    old="""        reader, device = AESGCM(reader_key.reveal()), AESGCM(device_key.reveal())
        self._out: AESGCM | None = reader if is_reader else device
        self._in: AESGCM | None = device if is_reader else reader
        self._out_iv = _READER_TO_DEVICE if is_reader else _DEVICE_TO_READER
        self._in_iv = _DEVICE_TO_READER if is_reader else _READER_TO_DEVICE
""",
    new="""        self._out = self._in = AESGCM(reader_key.reveal())
        self._out_iv = self._in_iv = _READER_TO_DEVICE
""",
    why="both directions use the same key and the same IVs",
)
NO_PROOF = Broken(
    module="dkey.access.reader",
    old="                public_key.verify(payload.signature, context.signed_data(DEVICE_USAGE))",
    new="                pass",
    why="the reader does not verify the device's signature",
)


# --- 3 reflection -------------------------------------------------------------------------------


@case(
    3,
    "the reader's own signature is no device's proof, even with one key in both roles",
    source="reflection without usage words",
    broken=[
        Broken(
            module="dkey.access.schedule",
            old='DEVICE_USAGE: Final = bytes.fromhex("4E887B4C")',
            new='DEVICE_USAGE: Final = bytes.fromhex("415D9569")',
            why="both roles sign under the same usage word",
        )
    ],
)
def reflected_signature(seed: int) -> None:
    scene = Scene(seed)
    both = scene.reader_key.public
    mirror = Impostor(scene, lambda _, sig: proof(public_key=both.point, signature=sig))
    reader = scene.reader(scene.directory(both))
    refused = attempt(reader.authenticate(Flow.STANDARD), mirror.answer)
    assert refused is not None, "the vehicle accepted itself as a device"


@case(
    3,
    "the phone's AUTH1 answer, sent back to it, is no command",
    source="reflection without directional keys",
    broken=[_ONE_KEY],
)
def reflected_answer(seed: int) -> None:
    scene = Scene(seed)
    phone = scene.phone()
    wire = Wire(phone.answer)
    transact(scene.reader(), wire)
    own = wire.response(Ins.AUTH1)[:-2]
    assert failed(phone.answer(command(Ins.EXCHANGE, own).to_bytes())), "it obeyed itself"
    assert not phone.credential.kpersistent, "the phone kept keys without a reader's confirmation"


@case(
    3,
    "the reader's command, sent back to it, is no answer",
    source="reflection without directional keys",
    broken=[_ONE_KEY],
)
def reflected_command(seed: int) -> None:
    reader, phone = Scene(seed).fast()
    session = transact(reader, phone.answer, Flow.FAST)

    def mirror(apdu: bytes) -> bytes:
        return apdu[5:-1] + b"\x90\x00"

    refused = attempt(session.exchange(ExchangeRequest(status=0x0101)), mirror)
    assert isinstance(refused, AuthenticationError), "the reader decrypted its own command"


@case(
    3,
    "a device that returns the reader's ephemeral key is refused at once",
    source="reflection of the key share",
    broken=[
        Broken(
            module="dkey.access.reader",
            old="        if device_ephemeral.x == ephemeral.public.x:",
            new="        if False:",
            why="the reader does not compare the two ephemeral keys",
        ),
        Broken(
            module="dkey.access.reader",
            old="        if device_ephemeral.x == ephemeral.public.x:",
            new="        if device_ephemeral == ephemeral.public:",
            why="the comparison takes y in, which an attacker may flip",
        ),
    ],
)
def reflected_ephemeral(seed: int) -> None:
    for change in (bytes, flipped):
        scene = Scene(seed)
        wire = Wire(scene.phone().answer)

        def mirror(
            apdu: bytes, response: bytes, change: Callable[[bytes], bytes] = change
        ) -> bytes:
            if apdu[1] != Ins.AUTH0:
                return response
            point = change(Auth0Command.parse(apdu[5:-1]).reader_ephemeral)
            return Auth0Response(device_ephemeral=point).to_bytes() + b"\x90\x00"

        wire.responses = mirror
        attempt(scene.reader().authenticate(Flow.STANDARD), wire)
        assert not wire.count(Ins.AUTH1), "the reader signed over its own ephemeral key twice"


# --- 7 unknown key share, misbinding --------------------------------------------------------------


@case(
    7,
    "an insider cannot prove itself under another one's name",
    source="SIGMA identity misbinding",
    broken=[NO_PROOF],
)
def borrowed_name(seed: int) -> None:
    scene = Scene(seed)
    insider = scene.entropy.ephemeral()

    def payload(context: Context, _: bytes) -> bytes:
        own = insider.sign_data(context.signed_data(DEVICE_USAGE))
        return proof(public_key=scene.owner_key.public.point, signature=own)

    directory = scene.directory(scene.owner_key.public, insider.public)
    refused = attempt(
        scene.reader(directory).authenticate(Flow.STANDARD), Impostor(scene, payload).answer
    )
    assert refused is not None, "a guest was taken for the owner"


@case(
    7,
    "a proof that a phone gave to the insider's reader is worth nothing at the vehicle",
    source="unknown key share; SIGMA",
    broken=[
        Broken(
            module="dkey.access.schedule",
            old="""                b"\\x4d\\x20",
                self.reader_id,
                b"\\x86\\x20",
                self.device_ephemeral_x,
                b"\\x87\\x20",
                self.reader_ephemeral_x,
                b"\\x4c\\x10",
""",
            new="""                b"\\x4c\\x10",
""",
            why="the signatures cover the transaction identifier only",
        ),
        NO_PROOF,
    ],
)
def spliced_proof(seed: int) -> None:
    scene = Scene(seed)
    phone = scene.phone()
    insider = Scene(seed + 1_000_000)
    phone.credential.readers[insider.group_id] = replace(
        phone.credential.readers[scene.group_id],
        group_id=insider.group_id,
        public_key=insider.reader_key.public,
    )

    def payload(context: Context, _: bytes) -> bytes:
        scalar = insider.entropy.ephemeral().scalar().reveal()
        reader = insider.reader(entropy=ScriptedEntropy([scalar], [context.transaction_id]))
        wire = Wire(phone.answer)
        keys = transact(reader, wire).keys
        channel = SecureChannel(keys.exchange_reader, keys.exchange_device, is_reader=True)
        plain = channel.open(wire.response(Ins.AUTH1)[:-2])
        given = Auth1Payload.parse(plain)
        return proof(public_key=given.public_key, signature=given.signature)

    refused = attempt(scene.reader().authenticate(Flow.STANDARD), Impostor(scene, payload).answer)
    assert refused is not None, "a proof made for another reader opened the vehicle"


# --- 10 flipped y -------------------------------------------------------------------------------


@case(
    10,
    "ephemeral keys with flipped y end in the same identity and the same stored keys",
    source="CVE-2018-5383; model std_xonly",
    broken=[
        Broken(
            module="dkey.access.device",
            old="        self.credential.kpersistent[group_id, sub_id] = now.kpersistent\n",
            new="        self.credential.kpersistent[group_id, sub_id"
            " + now.reader_ephemeral.point[-1:]] = now.kpersistent\n",
            why="the stored key is filed under raw point bytes",
        ),
        Broken(
            module="dkey.access.directory",
            old="""        credential = self._by_x.pop(x)
        self._by_x[x] = replace(credential, kpersistent=key)
""",
            new="""        credential = self._by_x[x]
        self._by_x[x + key.reveal()] = replace(credential, kpersistent=key)
""",
            why="the directory keeps an entry for each key it saw, not for each identity",
        ),
    ],
)
def flipped_ephemerals(seed: int) -> None:
    scene = Scene(seed)
    phone, directory = scene.phone(), scene.directory()
    reader = scene.reader(directory)
    mirror = Wire(
        phone.answer,
        commands=_flip_reader,
        responses=changed_response(
            Ins.AUTH0,
            lambda data: replace(
                Auth0Response.parse(data),
                device_ephemeral=flipped(Auth0Response.parse(data).device_ephemeral),
            ).to_bytes(),
        ),
    )
    for answer in (phone.answer, mirror):
        session = transact(reader, answer)
        run_blocking(session.exchange(ExchangeRequest()), phone.answer)
        if session.public_key is None or session.kpersistent is None:
            raise RuntimeError("a standard transaction names a key")
        directory.store_kpersistent(session.public_key.x, session.kpersistent)
        assert session.credential is not None, "a flipped y hid the owner"
        assert session.credential.name == OWNER, "a flipped y gave another identity"
    assert len(directory) == 1, "a flipped y made a second credential"
    assert list(phone.credential.kpersistent) == [(scene.group_id, scene.sub_id)], (
        "a flipped y made a second stored key"
    )


def _flip_reader(apdu: bytes) -> bytes:
    return changed_command(
        Ins.AUTH0,
        lambda data: replace(
            Auth0Command.parse(data),
            reader_ephemeral=flipped(Auth0Command.parse(data).reader_ephemeral),
        ).to_bytes(),
    )(apdu)


@case(
    10,
    "an enrolled key named with flipped y is the same key, and its negative proves nothing",
    source="CVE-2018-5383; design rule (a) of the models",
    broken=[
        Broken(
            module="dkey.access.reader",
            old="        named = PublicKey.parse(payload.public_key)\n",
            new="        named, enrolled = PublicKey.parse(payload.public_key), None\n",
            why="the identity is the whole point",
        ),
        Broken(
            module="dkey.access.reader",
            old="        return enrolled, named if enrolled is None else enrolled.public_key\n",
            new="        return enrolled, named\n",
            why="the signature is checked with the key as sent, not as enrolled",
        ),
    ],
)
def flipped_credential(seed: int) -> None:
    scene = Scene(seed)
    number = int.from_bytes(scene.owner_key.scalar().reveal(), "big")
    negative = PrivateKey.from_scalar((ORDER - number).to_bytes(32, "big"))
    point = flipped(scene.owner_key.public.point)

    def named(signer: PrivateKey) -> Impostor:
        return Impostor(
            scene,
            lambda context, _: proof(
                public_key=point, signature=signer.sign_data(context.signed_data(DEVICE_USAGE))
            ),
        )

    refused = attempt(scene.reader().authenticate(Flow.STANDARD), named(negative).answer)
    assert refused is not None, "the negative of an enrolled key was accepted"
    session = transact(scene.reader(), named(scene.owner_key).answer)
    assert session.credential is not None, "a flipped y hid the owner"
    assert session.public_key == scene.owner_key.public, "the identity is not the enrolled key"
