"""What the cases share: a vehicle's reader, a phone, a wire between them, and attackers' parts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dkey.access.applet import AppletHost
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.device import AccessApplet
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.messages import (
    Auth0Command,
    Auth0Response,
    Auth1Command,
    Auth1Payload,
    Ins,
    Signaling,
)
from dkey.access.profile import VEHICLE, Interface, Profile
from dkey.access.reader import AccessReader
from dkey.access.schedule import Context, diffie_hellman_key
from dkey.access.select import SelectResponse
from dkey.codec.apdu import SW, Command, Response
from dkey.crypto.channel import SecureChannel
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import DkeyError
from dkey.link.driver import run_blocking
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dkey.access.session import Session

FIELD_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
OWNER = "owner"


@dataclass(slots=True)
class Phone:
    """A device and its APDU front."""

    key: PrivateKey
    credential: DeviceCredential
    applet: AccessApplet
    host: AppletHost

    def answer(self, command: bytes) -> bytes:
        return self.host.answer(command)


class Scene:
    """One vehicle with one reader; everything in it follows from the seed."""

    def __init__(self, seed: int, *, profile: Profile = VEHICLE) -> None:
        self.chance = random.Random(seed)
        self.entropy = SeededEntropy(seed)
        self.profile = profile
        self.group_id = self.entropy.random(16)
        self.sub_id = self.entropy.random(16)
        self.reader_key = self.entropy.ephemeral()
        self.owner_key = self.entropy.ephemeral()
        self.issuer_key = self.entropy.ephemeral()

    def phone(self, *, key: PrivateKey | None = None, **options: Any) -> Phone:
        """Return a phone that trusts the vehicle; the owner's unless another key is given."""
        key = key or self.owner_key
        issuer = self.issuer_key.public if options.pop("certified", False) else None
        trusted = TrustedReader(
            group_id=self.group_id, public_key=self.reader_key.public, issuer_key=issuer
        )
        credential = DeviceCredential(
            profile=self.profile,
            vault=MemoryVault(key=key),
            key="key",
            readers={self.group_id: trusted},
            mailbox=options.pop("mailbox", None),
        )
        entropy = options.pop("entropy", None) or self.entropy
        applet = AccessApplet(credential, entropy, **options)
        return Phone(key, credential, applet, AppletHost([applet]))

    def directory(self, *keys: PublicKey) -> MemoryDirectory:
        """Return what the vehicle enrolled: the owner, then others by number."""
        names = [OWNER, *(f"guest {number}" for number in range(1, len(keys)))]
        return MemoryDirectory(
            EnrolledCredential(name=name, public_key=key)
            for name, key in zip(names, keys or (self.owner_key.public,), strict=False)
        )

    def identity(self, **changes: Any) -> ReaderIdentity:
        """Return the reader's identity; changes make another reader of it."""
        values: dict[str, Any] = {
            "profile": self.profile,
            "group_id": self.group_id,
            "sub_id": self.sub_id,
            "vault": MemoryVault(key=changes.pop("private_key", self.reader_key)),
            "key": "key",
        }
        return ReaderIdentity(**{**values, **changes})

    def reader(self, directory: MemoryDirectory | None = None, **options: Any) -> AccessReader:
        """Return the vehicle's reader."""
        identity = options.pop("identity", None) or self.identity()
        entropy = options.pop("entropy", None) or self.entropy
        return AccessReader(
            identity, self.directory() if directory is None else directory, entropy, **options
        )

    def know(self, phone: Phone, directory: MemoryDirectory) -> Secret:
        """Let phone and vehicle have a Kpersistent in common, as after a standard transaction."""
        kpersistent = Secret(self.entropy.random(32))
        phone.credential.kpersistent[self.group_id, self.sub_id] = kpersistent
        directory.store_kpersistent(phone.key.public.x, kpersistent)
        return kpersistent

    def fast(self, **options: Any) -> tuple[AccessReader, Phone]:
        """Return a reader and the owner's phone that can run fast transactions."""
        phone, directory = self.phone(**options), self.directory()
        self.know(phone, directory)
        return self.reader(directory), phone


class Wire:
    """Carries APDUs to a device and keeps them; the attacker may change both directions."""

    def __init__(
        self,
        answer: Callable[[bytes], bytes],
        *,
        commands: Callable[[bytes], bytes] | None = None,
        responses: Callable[[bytes, bytes], bytes] | None = None,
    ) -> None:
        self.answer = answer
        self.commands = commands
        self.responses = responses
        self.log: list[tuple[bytes, bytes]] = []

    def __call__(self, command: bytes) -> bytes:
        sent = self.commands(command) if self.commands else command
        response = self.answer(sent)
        if self.responses:
            response = self.responses(command, response)
        self.log.append((sent, response))
        return response

    def command(self, ins: Ins) -> bytes:
        """Return the last command with this instruction."""
        return next(c for c, _ in reversed(self.log) if c[1] == ins)

    def response(self, ins: Ins) -> bytes:
        """Return the answer to the last command with this instruction."""
        return next(r for c, r in reversed(self.log) if c[1] == ins)

    def count(self, ins: Ins) -> int:
        """Return how many commands had this instruction."""
        return sum(c[1] == ins for c, _ in self.log)


def transact(
    reader: AccessReader, answer: Callable[[bytes], bytes], flow: Flow = Flow.STANDARD
) -> Session:
    """Run a transaction that must succeed: the honest part of a case."""
    return run_blocking(reader.authenticate(flow), answer)


def attempt(
    procedure: Generator[bytes, bytes, Any], answer: Callable[[bytes], bytes]
) -> DkeyError | None:
    """Run a transaction under attack; return why it was refused, or None if it went through."""
    try:
        run_blocking(procedure, answer)
    except DkeyError as exc:
        return exc
    return None


def refusal(call: Callable[..., object], *arguments: object, **named: object) -> DkeyError | None:
    """Return the error of ours that ``call`` raises, or None if it takes its arguments."""
    try:
        call(*arguments, **named)
    except DkeyError as exc:
        return exc
    return None


def changed_command(ins: Ins, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return a hook for :class:`Wire` that changes the data of one command."""

    def hook(apdu: bytes) -> bytes:
        if apdu[1] != ins:
            return apdu
        old = Command.parse(apdu)
        return Command(old.cla, old.ins, old.p1, old.p2, change(old.data), old.le).to_bytes()

    return hook


def changed_response(ins: Ins, change: Callable[[bytes], bytes]) -> Callable[[bytes, bytes], bytes]:
    """Return a hook for :class:`Wire` that changes the data of the answer to one command."""

    def hook(command: bytes, response: bytes) -> bytes:
        return change(response[:-2]) + response[-2:] if command[1] == ins else response

    return hook


def failed(response: bytes) -> bool:
    """Whether a device refused: an error status and no data."""
    return len(response) == 2 and response != b"\x90\x00"


def flipped(point: bytes) -> bytes:
    """Return the other point with the same x."""
    y = FIELD_PRIME - int.from_bytes(point[33:], "big")
    return point[:33] + y.to_bytes(32, "big")


def offline(data: bytes) -> Callable[[bytes], bytes]:
    """Return a device that says the same to everything."""
    return lambda _: data


class Impostor:
    """A device in the attacker's hands: correct up to AUTH1, whose content the attacker chooses.

    Args:
        scene: The vehicle under attack.
        payload: Returns the plaintext of the AUTH1 response, from the context and the
            reader's signature.
    """

    def __init__(self, scene: Scene, payload: Callable[[Context, bytes], bytes]) -> None:
        self.scene = scene
        self.payload = payload
        self.notices: list[bytes] = []
        """What the reader sent after AUTH1, as it stood on the wire."""
        self._a5 = b""
        self._context: Context | None = None
        self._reader: PublicKey | None = None
        self._key: PrivateKey | None = None

    def answer(self, apdu: bytes) -> bytes:
        command = Command.parse(apdu)
        if command.ins == Ins.SELECT:
            profile = self.scene.profile
            fci = SelectResponse(aid=profile.access_aid, versions=profile.versions)
            self._a5 = fci.encode_a5()
            return Response(fci.to_bytes()).to_bytes()
        if command.ins == Ins.AUTH0:
            return Response(self._auth0(Auth0Command.parse(command.data))).to_bytes()
        if command.ins == Ins.AUTH1:
            return Response(self._auth1(Auth1Command.parse(command.data))).to_bytes()
        self.notices.append(apdu)
        return Response(sw=SW.OK).to_bytes()

    def _auth0(self, command: Auth0Command) -> bytes:
        self._key = self.scene.entropy.ephemeral()
        self._reader = PublicKey.parse(command.reader_ephemeral)
        self._context = Context(
            group_key_x=self.scene.reader_key.public.x,
            reader_id=command.reader_id,
            interface=Interface.NFC,
            version=command.version,
            reader_ephemeral_x=self._reader.x,
            device_ephemeral_x=self._key.public.x,
            transaction_id=command.transaction_id,
            parameters=command.parameters,
            policy=command.policy,
            a5=self._a5,
        )
        return Auth0Response(
            device_ephemeral=self._key.public.point,
            cryptogram=self.scene.entropy.random(64) if command.fast else b"",
        ).to_bytes()

    def _auth1(self, command: Auth1Command) -> bytes:
        if self._context is None or self._key is None or self._reader is None:
            raise RuntimeError("AUTH1 before AUTH0")
        kdh = diffie_hellman_key(self._key.agree(self._reader), self._context.transaction_id)
        keys = self._context.standard(kdh)
        channel = SecureChannel(keys.exchange_reader, keys.exchange_device, is_reader=False)
        return channel.seal(self.payload(self._context, command.signature))


def proof(**fields: Any) -> bytes:
    """Return an AUTH1 payload without mailbox and signaling bits."""
    return Auth1Payload(signaling=Signaling(), **fields).to_bytes()
