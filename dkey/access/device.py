"""The device role: the applet that answers a reader (Aliro 1.0 §8.2, §8.3.3).

:class:`AccessApplet` is sans-IO: whole commands in, responses out. Private keys stay in a vault,
durable changes go through a :class:`~dkey.access.credential.DeviceStore` before the answer is
returned, and every failure is the same to the reader: an error status without data, keys destroyed.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from dkey.access.applet import quiet
from dkey.access.certificate import ReaderCertificate
from dkey.access.credential import DeviceEvent, key_slot
from dkey.access.device_states import TRANSITIONS, DeviceState
from dkey.access.exchange import SUCCESS, ExchangeRequest, Fault, failure, parse_notice
from dkey.access.freshness import Freshness
from dkey.access.mailbox import MailboxFault
from dkey.access.messages import (
    Auth0Command,
    Auth0Response,
    Auth1Command,
    Auth1Payload,
    ControlFlow,
    CryptogramPayload,
    Ins,
    Signaling,
    extension_object,
)
from dkey.access.profile import Interface
from dkey.access.schedule import (
    DEVICE_USAGE,
    READER_USAGE,
    Context,
    SessionKeys,
    diffie_hellman_key,
)
from dkey.access.select import SelectResponse
from dkey.codec.apdu import SW, Command, Response
from dkey.crypto.channel import SecureChannel, seal_once
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import AuthenticationError, DkeyError, SequenceError, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.access.credential import DeviceCredential, DeviceStore, TrustedReader
    from dkey.crypto.entropy import Entropy

__all__ = ["AccessApplet"]

log = logging.getLogger(__name__)
_EVENTS: Final = 32


class _NoStore:
    """A device that keeps nothing."""

    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        """Keep nothing."""

    def save_mailbox(self, data: bytes) -> None:
        """Keep nothing."""


@dataclass(slots=True)
class _Transaction:
    """What one transaction has established so far."""

    command: Auth0Command
    reader_ephemeral: PublicKey
    ephemeral: PrivateKey
    context: Context
    reader: TrustedReader | None
    certificate: bytes = b""
    keys: SessionKeys | None = None
    kpersistent: Secret | None = None
    channel: SecureChannel | None = None
    confirmed: bool = False
    ursk_released: bool = False
    updated: bool = False


class AccessApplet:
    """The access applet of one credential.

    Args:
        credential: Keys, trusted readers and mailbox. Its Kpersistent and mailbox are updated.
        entropy: Source of ephemeral keys.
        store: Makes changes durable; None keeps them in memory only.
        interface: NFC or BLE; enters the key schedule.
        extension: Value of the B2 object to send in AUTH0 responses, or empty.
        user_authenticated: Whether the user unlocked the device (authentication policy 3).
        fast_enabled: Whether stored Kpersistent are used at all.
        keep: Whether a new Kpersistent replaces the stored one, here and in the store.
        on_event: Called with each finished transaction, before its last answer is returned.

    Attributes:
        events: The last finished transactions.
    """

    def __init__(
        self,
        credential: DeviceCredential,
        entropy: Entropy,
        *,
        store: DeviceStore | None = None,
        interface: Interface = Interface.NFC,
        extension: bytes = b"",
        user_authenticated: bool = True,
        fast_enabled: bool = True,
        on_event: Callable[[DeviceEvent], None] | None = None,
        keep: bool = True,
    ) -> None:
        profile = credential.profile
        self.aid = profile.access_aid
        self.credential = credential
        self.extension = extension
        self.user_authenticated = user_authenticated
        self.state = DeviceState.ENDED
        self.events: deque[DeviceEvent] = deque(maxlen=_EVENTS)
        self._on_event = on_event
        self._keep = keep
        self._entropy = entropy
        self._store: DeviceStore = store or _NoStore()
        self._interface = interface
        self._fast_enabled = fast_enabled
        self._minimal = profile.minimal_lengths
        self._public = credential.vault.public(credential.key)
        fci = SelectResponse(
            aid=profile.access_aid,
            versions=profile.versions,
            application_type=profile.application_type,
        )
        self._fci, self._a5 = fci.to_bytes(), fci.encode_a5()
        # An unknown reader is served from these, so that it sees what a known one sees.
        self._decoy_reader = entropy.ephemeral().public
        self._decoy_kpersistent = Secret(entropy.random(32))
        self._fresh = Freshness()
        self._now: _Transaction | None = None

    # --- the applet interface ---------------------------------------------------------------

    def select(self) -> Response:
        """Begin anew; the response is the file control information."""
        self._forget()
        self.state = DeviceState.SELECTED
        return Response(self._fci)

    def deselect(self) -> None:
        """The transaction is over: forget its keys."""
        self._forget()

    def fail(self) -> None:
        """Run the device's failure process (Aliro 1.0 §8.3.3.1)."""
        self._forget()

    def command(self, command: Command) -> Response:
        """Answer one whole command; a failure is an error status and no data."""
        try:
            return self._dispatch(command)
        except AuthenticationError as exc:
            return self._refuse(SW.SECURITY, exc)
        except SequenceError as exc:
            return self._refuse(SW.CONDITIONS, exc)
        except WireError as exc:
            return self._refuse(SW.WRONG_DATA, exc)
        except DkeyError as exc:
            return self._refuse(SW.GENERAL, exc)
        except Exception as exc:  # noqa: BLE001 - a store's own fault must not leave keys behind
            log.error("transaction failed inside: %s", type(exc).__name__)  # noqa: TRY400 - no data
            return self._refuse(SW.GENERAL)

    def _dispatch(self, command: Command) -> Response:
        ins = command.ins
        handler = _HANDLERS.get(ins)
        if handler is None:
            return self._refuse(SW.INS_UNKNOWN)
        if command.cla != 0x80:
            return self._refuse(SW.CLA_UNKNOWN)
        if command.p1 or command.p2:
            return self._refuse(SW.WRONG_P1P2)
        if ins != Ins.CONTROL_FLOW and (self.state, ins) not in TRANSITIONS:
            name = Ins(ins).name
            raise SequenceError(f"{name} in state {self.state.value}", clause="Aliro 1.0 §8.2")
        return handler(self, command.data)

    def _refuse(self, status: SW, exc: DkeyError | None = None) -> Response:
        if exc is not None:
            log.debug("transaction failed: %s", quiet(exc))
        self._forget()
        return Response(sw=status)

    def _forget(self) -> None:
        now, self._now = self._now, None
        if now is not None and now.channel is not None:
            now.channel.destroy()
        if self.credential.mailbox is not None:
            self.credential.mailbox.discard()
        self.state = DeviceState.ENDED

    def _transaction(self) -> _Transaction:
        if self._now is None:
            raise SequenceError("no transaction has begun", clause="Aliro 1.0 §8.2")
        return self._now

    # --- AUTH0 ------------------------------------------------------------------------------

    def _auth0(self, data: bytes) -> Response:
        command = Auth0Command.parse(data, minimal=self._minimal)
        if command.version not in self.credential.profile.versions:
            raise SequenceError("the version is not supported", clause="Aliro 1.0 §8.3.3.2.5")
        reader_ephemeral = PublicKey.parse(command.reader_ephemeral)
        ephemeral = self._entropy.ephemeral()
        self._fresh.require(ephemeral.public.x)
        reader = self.credential.readers.get(command.reader_id[:16])
        group_key = self._decoy_reader if reader is None else reader.issuer_key or reader.public_key
        context = Context(
            group_key_x=group_key.x,
            reader_id=command.reader_id,
            interface=self._interface,
            version=command.version,
            reader_ephemeral_x=reader_ephemeral.x,
            device_ephemeral_x=ephemeral.public.x,
            transaction_id=command.transaction_id,
            parameters=command.parameters,
            policy=command.policy,
            a5=self._a5,
            extensions=command.extension_object + extension_object(0xB2, self.extension),
        )
        now = _Transaction(command, reader_ephemeral, ephemeral, context, reader)
        answer = Auth0Response(
            device_ephemeral=ephemeral.public.point,
            cryptogram=self._cryptogram(now) if command.fast else b"",
            extension=self.extension,
        )
        self._now = now
        self.state = DeviceState.AUTH0_FAST if command.fast else DeviceState.AUTH0_STANDARD
        return Response(answer.to_bytes())

    def _cryptogram(self, now: _Transaction) -> bytes:
        """Derive fast keys and return the cryptogram, from a decoy when no key is stored."""
        reader_id = now.command.reader_id
        stored = self.credential.kpersistent.get((reader_id[:16], reader_id[16:]))
        if (
            stored is None
            or now.reader is None
            or not self._fast_enabled
            or self._has_news()
            or not self._permitted(now)
        ):
            stored = self._decoy_kpersistent
        now.keys = now.context.fast(stored, self._public.x)
        now.channel = _device_channel(now.keys)
        payload = CryptogramPayload(signaling=self._signaling()).to_bytes()
        return seal_once(now.keys.cryptogram, payload)

    def _has_news(self) -> bool:
        """Whether the vehicle shall take a delivery, which only a standard transaction does."""
        mailbox = self.credential.mailbox
        if mailbox is None or not mailbox.writable:
            return False
        from dkey.access.delivery import carries_news  # noqa: PLC0415 - few devices have a mailbox

        return carries_news(mailbox.data)

    def _permitted(self, now: _Transaction) -> bool:
        """Whether the authentication policy lets this transaction go on (Aliro 1.0 §8.3.3.2.1)."""
        return now.command.policy != 3 or self.user_authenticated

    def _signaling(self) -> Signaling:
        mailbox = self.credential.mailbox
        return Signaling(0 if mailbox is None else mailbox.signaling)

    # --- LOAD CERT, AUTH1 -------------------------------------------------------------------

    def _load_cert(self, data: bytes) -> Response:
        # The form is checked here, trust only in AUTH1: an untrusted certificate must not show.
        ReaderCertificate.expand(data)
        self._transaction().certificate = data
        self.state = DeviceState.CERTIFICATE
        return Response()

    def _auth1(self, data: bytes) -> Response:
        now = self._transaction()
        command = Auth1Command.parse(data, minimal=self._minimal)
        if command.certificate:
            if now.certificate:
                raise WireError("two reader certificates", clause="Aliro 1.0 §8.3.3.4.1")
            ReaderCertificate.expand(command.certificate)
            now.certificate = command.certificate
        context = self._verify_reader(now, command.signature)
        shared = now.ephemeral.agree(now.reader_ephemeral)
        kdh = diffie_hellman_key(shared, context.transaction_id)
        now.context = context
        now.keys = context.standard(kdh)
        now.kpersistent = context.persistent(kdh, self._public.x)
        now.channel = _device_channel(now.keys)
        now.confirmed = False
        digest = sha256(context.signed_data(DEVICE_USAGE)).digest()
        mailbox = self.credential.mailbox
        payload = Auth1Payload(
            key_slot=b"" if command.want_public_key else key_slot(self._public),
            public_key=self._public.point if command.want_public_key else b"",
            signature=self.credential.vault.sign(self.credential.key, digest),
            signaling=self._signaling(),
            mailbox=None if mailbox is None else mailbox.auth1_part,
        )
        sealed = now.channel.seal(payload.to_bytes())
        self.state = DeviceState.SECURED
        return Response(sealed)

    def _verify_reader(self, now: _Transaction, signature: bytes) -> Context:
        """Verify the reader's proof and return the context with the group key it implies.

        Unknown group, untrusted certificate, bad signature and missing user authentication end
        in the same error after the same work.

        Raises:
            AuthenticationError: Any of these.
        """
        reader, context = now.reader, now.context
        key, group_key = self._decoy_reader, context.group_key_x
        if now.certificate:
            key = self._certified(reader, now.certificate)
        elif reader is not None:
            key, group_key = reader.public_key, reader.public_key.x
        key.verify(signature, context.signed_data(READER_USAGE))
        if reader is None or not self._permitted(now):
            raise AuthenticationError("the reader is not trusted", clause="Aliro 1.0 §8.3.3.4")
        if group_key == context.group_key_x:
            return context
        return replace(context, group_key_x=group_key)

    def _certified(self, reader: TrustedReader | None, compressed: bytes) -> PublicKey:
        """Return the certified key, or the decoy when the certificate is not trusted."""
        issuer = None if reader is None else reader.issuer_key
        parsed = ReaderCertificate.expand(compressed)
        try:
            parsed.verify(issuer or self._decoy_reader)
        except AuthenticationError:
            return self._decoy_reader
        return parsed.public_key

    # --- EXCHANGE ---------------------------------------------------------------------------

    def _exchange(self, data: bytes) -> Response:
        now = self._transaction()
        if now.channel is None or now.keys is None:
            raise SequenceError("no keys are established", clause="Aliro 1.0 §8.2")
        plain = now.channel.open(data)
        if not now.confirmed:
            self._confirm(now)
        self.state = DeviceState.SECURED
        try:
            request = ExchangeRequest.parse(plain, minimal=self._minimal)
            answer = self._execute(now, request)
        except MailboxFault as exc:
            return self._fault(now.channel, exc.fault)
        except WireError:
            return self._fault(now.channel, Fault.FORMAT)
        sealed = now.channel.seal(answer)
        if request.status is not None:
            self._finish(now, now.keys, request.status)
        return Response(sealed)

    def _finish(self, now: _Transaction, keys: SessionKeys, status: int) -> None:
        """Note the transaction that the reader ended, and forget its keys."""
        event = DeviceEvent(
            group_id=now.context.reader_id[:16],
            sub_id=now.context.reader_id[16:],
            fast=now.kpersistent is None,
            status=status,
            keys=keys,
            kpersistent=now.kpersistent,
            transaction_id=now.context.transaction_id,
        )
        self.events.append(event)
        self._forget()
        if self._on_event is not None:
            self._on_event(event)

    def _confirm(self, now: _Transaction) -> None:
        """The first protected command proves the reader: only now is anything kept."""
        now.confirmed = True
        if now.kpersistent is None or not self._keep:
            return
        group_id, sub_id = now.context.reader_id[:16], now.context.reader_id[16:]
        self._store.save_kpersistent(group_id, sub_id, now.kpersistent)
        self.credential.kpersistent[group_id, sub_id] = now.kpersistent

    def _execute(self, now: _Transaction, request: ExchangeRequest) -> bytes:
        if request.notice is not None:
            parse_notice(request.notice, minimal=self._minimal)
        if request.document_update is not None:
            raise MailboxFault(Fault.UNSUPPORTED, "this device takes no document updates")
        if request.release_ursk:
            if self._interface is not Interface.BLE or now.ursk_released:
                raise MailboxFault(Fault.UNSUPPORTED, "the ranging secret is not available")
            now.ursk_released = True
        reads = self._use_mailbox(request)
        parts = [len(part).to_bytes(2, "big") + part for part in reads]
        return b"".join((*parts, SUCCESS))

    def _use_mailbox(self, request: ExchangeRequest) -> tuple[bytes, ...]:
        if request.mailbox is None:
            return ()
        mailbox = self.credential.mailbox
        if mailbox is None:
            raise MailboxFault(Fault.UNSUPPORTED, "this credential has no mailbox")
        reads = mailbox.stage(request.mailbox)
        if not request.keep_session:
            content = mailbox.preview()
            if content is not None:
                self._store.save_mailbox(content)
            mailbox.commit()
        return reads

    def _fault(self, channel: SecureChannel, fault: Fault) -> Response:
        """Answer a failed EXCHANGE: protected, status 9000, then the keys are gone."""
        sealed = channel.seal(failure(fault))
        self._forget()
        return Response(sealed)

    # --- CONTROL FLOW -----------------------------------------------------------------------

    def _control_flow(self, data: bytes) -> Response:
        ControlFlow.parse(data, minimal=self._minimal)
        self._forget()
        return Response()


_HANDLERS: Final[dict[int, Callable[[AccessApplet, bytes], Response]]] = {
    Ins.AUTH0: AccessApplet._auth0,  # noqa: SLF001
    Ins.LOAD_CERT: AccessApplet._load_cert,  # noqa: SLF001
    Ins.AUTH1: AccessApplet._auth1,  # noqa: SLF001
    Ins.EXCHANGE: AccessApplet._exchange,  # noqa: SLF001
    Ins.CONTROL_FLOW: AccessApplet._control_flow,  # noqa: SLF001
}


def _device_channel(keys: SessionKeys) -> SecureChannel:
    return SecureChannel(*keys.exchange, is_reader=False)
