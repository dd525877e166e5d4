"""Both roles replayed against one known transaction.

The reader is fed the known responses and the device the known commands, so that each role is
compared with the file and not with the other role. Signatures are randomised: each vault returns
the known signature, and the other side verifies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dkey.access.applet import AppletHost
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.device import AccessApplet
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.exchange import ExchangeRequest
from dkey.access.profile import ALIRO, Interface
from dkey.access.reader import AccessReader
from dkey.access.schedule import Context
from dkey.access.select import select_command
from dkey.errors import AuthenticationError, VaultError
from dkey.testing import ScriptedEntropy

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import TypeVar

    from dkey.access.session import Session
    from dkey.crypto.p256 import PrivateKey, PublicKey
    from dkey.crypto.secret import Secret

    T = TypeVar("T")

__all__ = ["Transaction", "device_answers", "reader_commands"]

_DECOY = bytes(31) + b"\x07"
OK = b"\x90\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """The inputs of one known transaction.

    Attributes:
        interface: NFC or BLE.
        reader: The reader's key pair.
        credential: The device's credential key.
        issuer: Issuer of the reader certificate; None without one.
        reader_ephemeral: The reader's ephemeral key pair.
        device_ephemeral: The device's.
        reader_id: Group identifier, then sub-identifier, 32 bytes.
        transaction_id: 16 bytes.
        a5: The A5 object of the SELECT response.
        parameters: AUTH0 tag 41.
        policy: AUTH0 tag 42.
        certificate: Compressed reader certificate, or empty.
        reader_signature: The known signature of the reader, 64 bytes; empty in a fast one.
        device_signature: The known signature of the device, 64 bytes; empty in a fast one.
        kpersistent: Stored Kpersistent of a fast transaction; None in a standard one.
    """

    interface: Interface
    reader: PrivateKey
    credential: PublicKey
    issuer: PublicKey | None
    reader_ephemeral: PrivateKey
    device_ephemeral: PrivateKey
    reader_id: bytes
    transaction_id: bytes
    a5: bytes
    parameters: int
    policy: int
    certificate: bytes = b""
    reader_signature: bytes = b""
    device_signature: bytes = b""
    kpersistent: Secret | None = None

    @property
    def context(self) -> Context:
        """The context of the key schedule."""
        return Context(
            group_key_x=(self.issuer or self.reader.public).x,
            reader_id=self.reader_id,
            interface=self.interface,
            version=ALIRO.versions[0],
            reader_ephemeral_x=self.reader_ephemeral.public.x,
            device_ephemeral_x=self.device_ephemeral.public.x,
            transaction_id=self.transaction_id,
            parameters=self.parameters,
            policy=self.policy,
            a5=self.a5,
        )


class _KnownVault:
    """Holds one public key, and signs with a known signature whatever it is asked to."""

    def __init__(self, public: PublicKey, signature: bytes) -> None:
        self._public = public
        self._signature = signature

    def sign(self, key: str, digest: bytes) -> bytes:
        """Return the known signature; the peer decides whether it fits."""
        if not self._signature:
            raise VaultError(f"{key}: no signature over {len(digest)} bytes is known")
        return self._signature

    def agree(self, key: str, peer: PublicKey) -> Secret:
        """Refuse: no transaction needs it."""
        raise VaultError(f"{key}: the private key is not known for {peer!r}")

    def public(self, key: str) -> PublicKey:
        """Return the public key."""
        del key
        return self._public


def reader_commands(
    known: Transaction, responses: Sequence[bytes], exchanges: Sequence[tuple[bytes, bytes]] = ()
) -> list[bytes]:
    """Return the reader's commands when it is given ``responses``.

    Args:
        known: The transaction.
        responses: What the device answered up to its authentication, with status words.
        exchanges: Then for each EXCHANGE its plaintext and the device's answer.

    Raises:
        AuthenticationError: The reader did not authenticate the device, but there are exchanges.
        RemoteFault: The reader refused a response.
    """
    fast = known.kpersistent is not None
    identity = ReaderIdentity(
        profile=ALIRO,
        group_id=known.reader_id[:16],
        sub_id=known.reader_id[16:],
        vault=_KnownVault(known.reader.public, known.reader_signature),
        key="reader",
        certificate=b"" if fast else known.certificate,
        issuer_key=known.issuer,
    )
    enrolled = EnrolledCredential(
        name="known", public_key=known.credential, kpersistent=known.kpersistent
    )
    reader = AccessReader(
        identity,
        MemoryDirectory([enrolled]),
        ScriptedEntropy([known.reader_ephemeral.scalar().reveal()], [known.transaction_id]),
        interface=known.interface,
        policy=known.policy,
    )
    commands: list[bytes] = []
    flow = Flow.FAST if fast else Flow.STANDARD
    session: Session | None = _feed(reader.authenticate(flow), responses, commands)
    for plaintext, answer in exchanges:
        if session is None:
            raise AuthenticationError("the reader does not accept the device's answers")
        _feed(session.exchange(ExchangeRequest.parse(plaintext)), [answer], commands)
    return commands


def _feed(
    procedure: Generator[bytes, bytes, T], responses: Sequence[bytes], commands: list[bytes]
) -> T | None:
    """Run a procedure for as long as there are responses; None if it wanted more."""
    commands.append(next(procedure))
    for response in responses:
        try:
            commands.append(procedure.send(response))
        except StopIteration as end:
            result: T = end.value
            return result
    procedure.close()
    return None


def device_answers(known: Transaction, commands: Sequence[bytes]) -> list[bytes]:
    """Return the device's answers to SELECT and then to ``commands``, with status words."""
    group_id, sub_id = known.reader_id[:16], known.reader_id[16:]
    trusted = TrustedReader(
        group_id=group_id, public_key=known.reader.public, issuer_key=known.issuer
    )
    credential = DeviceCredential(
        profile=ALIRO,
        vault=_KnownVault(known.credential, known.device_signature),
        key="credential",
        readers={group_id: trusted},
        kpersistent={} if known.kpersistent is None else {(group_id, sub_id): known.kpersistent},
    )
    applet = AccessApplet(
        credential,
        ScriptedEntropy([_DECOY, known.device_ephemeral.scalar().reveal()], [bytes(32)]),
        interface=known.interface,
    )
    host = AppletHost([applet])
    select = select_command(ALIRO.access_aid).to_bytes()
    return [host.answer(command) for command in (select, *commands)]
