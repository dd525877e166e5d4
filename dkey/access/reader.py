"""The reader role: one access transaction, read top to bottom (Aliro 1.0 §8.2, §8.3.3).

:meth:`AccessReader.authenticate` and the methods of :class:`~dkey.access.session.Session` are
generators: they yield command APDUs and are sent response APDUs, and know no transport. Whoever
drives them sends a link failure in with ``throw``; nothing is kept from a transaction that did not
end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeVar

from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.exchange import ReaderStatus
from dkey.access.freshness import Freshness
from dkey.access.messages import (
    Auth0Command,
    Auth0Response,
    Auth1Command,
    Auth1Payload,
    ControlFlow,
    CryptogramPayload,
    Ins,
    command,
)
from dkey.access.profile import Interface
from dkey.access.schedule import (
    DEVICE_USAGE,
    READER_USAGE,
    Context,
    SessionKeys,
    diffie_hellman_key,
)
from dkey.access.select import SelectResponse, select_command
from dkey.access.session import Session, control_flow, fail_protected
from dkey.codec.apdu import SW, Command, Limits, Response, exchange
from dkey.crypto.channel import SecureChannel, open_once
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.errors import (
    AuthenticationError,
    LocalFault,
    RemoteFault,
    ReplayError,
    StatusError,
    WireError,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from dkey.access.enrolled import CredentialDirectory
    from dkey.crypto.entropy import Entropy

__all__ = ["AccessReader", "EnrolledCredential", "ReaderIdentity"]

T = TypeVar("T")
MAX_COMMAND: Final = 2048
MAX_RESPONSE: Final = 4096


@dataclass(frozen=True, slots=True)
class _Opening:
    """What AUTH0 established."""

    ephemeral: PrivateKey
    device_ephemeral: PublicKey
    context: Context
    answer: Auth0Response


class AccessReader:
    """One reader: its identity, the credentials it knows, its random source.

    Args:
        identity: Who the reader is.
        directory: Enrolled credentials.
        entropy: Source of ephemeral keys and transaction identifiers.
        interface: NFC or BLE; enters the key schedule.
        policy: AUTH0 authentication policy, 1..3.
        extension: Value of the B1 object to send, or empty.
        want_public_key: Ask for the credential's public key; False asks for its key slot.
    """

    def __init__(
        self,
        identity: ReaderIdentity,
        directory: CredentialDirectory,
        entropy: Entropy,
        *,
        interface: Interface = Interface.NFC,
        policy: int = 1,
        extension: bytes = b"",
        want_public_key: bool = True,
    ) -> None:
        self.identity = identity
        self.directory = directory
        self._entropy = entropy
        self._interface = interface
        self._policy = policy
        self._extension = extension
        self._want_public_key = want_public_key
        self._minimal = identity.profile.minimal_lengths
        self._fresh = Freshness()
        self._seen = Freshness(depth=256)
        self._group_key_x = identity.group_key.x
        self._reader_id = identity.group_id + identity.sub_id

    def authenticate(self, flow: Flow = Flow.AUTO) -> Generator[bytes, bytes, Session]:
        """Run SELECT, AUTH0 and, unless fast succeeds, LOAD CERT and AUTH1.

        On a failure the device is told by the reader's failure process before the error is
        raised. The session of a key that is not enrolled has ``credential`` None; the caller
        ends it with :meth:`~dkey.access.session.Session.fail`.

        Raises:
            StatusError: The device answered an error status.
            WireError: The device's bytes are malformed.
            AuthenticationError: The device did not prove its key, or ``Flow.FAST`` did not match.
        """
        selected = yield from self._select()
        limits = _limits(selected.max_command, selected.max_response)
        candidates: Sequence[EnrolledCredential] = ()
        if flow is not Flow.STANDARD:
            most = self.identity.profile.max_fast_candidates
            candidates = self.directory.fast_candidates(most)
        fast = flow is Flow.FAST or (flow is Flow.AUTO and bool(candidates))
        opening = yield from _telling(self._auth0(selected, limits, fast=fast))
        if fast:
            session = yield from self._match(opening, candidates, limits)
            if session is not None:
                return session
            if flow is Flow.FAST:
                yield from control_flow(ControlFlow())
                raise AuthenticationError("no stored Kpersistent matches the device")
        answer = yield from _telling(self._prove(opening, limits))
        return (yield from self._verify(opening, answer, limits))

    # --- SELECT and AUTH0 -------------------------------------------------------------------

    def _select(self) -> Generator[bytes, bytes, SelectResponse]:
        profile = self.identity.profile
        select = select_command(profile.access_aid)
        answer = yield from _checked("SELECT", select, Limits(total=MAX_RESPONSE))
        try:
            selected = _parsed(answer.data, minimal=self._minimal)
            if selected.aid != profile.access_aid:
                raise WireError("another application answered", clause="Aliro 1.0 §10.2.1.2")
        except RemoteFault:
            yield from control_flow(ControlFlow())
            raise
        if not set(selected.versions) & set(profile.versions):
            yield from control_flow(ControlFlow(reason=ControlFlow.NO_COMMON_VERSION))
            raise WireError("no common protocol version", clause="Aliro 1.0 §8.3.3.2.5")
        return selected

    def _auth0(
        self, selected: SelectResponse, limits: Limits, *, fast: bool
    ) -> Generator[bytes, bytes, _Opening]:
        version = next(v for v in self.identity.profile.versions if v in selected.versions)
        ephemeral = self._entropy.ephemeral()
        transaction_id = self._entropy.random(16)
        self._fresh.require(ephemeral.public.x)
        self._fresh.require(transaction_id)
        request = Auth0Command(
            parameters=int(fast),
            policy=self._policy,
            version=version,
            reader_ephemeral=ephemeral.public.point,
            transaction_id=transaction_id,
            reader_id=self._reader_id,
            extension=self._extension,
        )
        raw = yield from _checked("AUTH0", command(Ins.AUTH0, request.to_bytes()), limits)
        answer = Auth0Response.parse(raw.data, minimal=self._minimal)
        device_ephemeral = PublicKey.parse(answer.device_ephemeral)
        if device_ephemeral.x == ephemeral.public.x:
            raise ReplayError("the device returned the reader's own key")
        if not self._seen.first_time(device_ephemeral.x):
            raise ReplayError("the device repeated an ephemeral key", clause="Aliro 1.0 §8.3.3.2")
        if bool(answer.cryptogram) is not fast:
            raise WireError(
                "a cryptogram that was not asked for, or none", clause="Aliro 1.0 §8.3.3.2.8"
            )
        context = Context(
            group_key_x=self._group_key_x,
            reader_id=self._reader_id,
            interface=self._interface,
            version=version,
            reader_ephemeral_x=ephemeral.public.x,
            device_ephemeral_x=device_ephemeral.x,
            transaction_id=transaction_id,
            parameters=request.parameters,
            policy=request.policy,
            a5=selected.a5,
            extensions=request.extension_object + answer.extension_object,
        )
        return _Opening(ephemeral, device_ephemeral, context, answer)

    def _match(
        self, opening: _Opening, candidates: Sequence[EnrolledCredential], limits: Limits
    ) -> Generator[bytes, bytes, Session | None]:
        """Try every stored Kpersistent, always all of them, so that the position does not show."""
        context, answer = opening.context, opening.answer
        match: tuple[EnrolledCredential, SessionKeys, bytes] | None = None
        for candidate in candidates:
            if candidate.kpersistent is None:
                continue
            keys = context.fast(candidate.kpersistent, candidate.public_key.x)
            plain = open_once(keys.cryptogram, answer.cryptogram)
            if plain is not None:
                match = candidate, keys, plain
        if match is None:
            return None
        credential, keys, plain = match
        channel = _reader_channel(keys)
        try:
            signaling = CryptogramPayload.parse(plain).signaling
        except RemoteFault:
            yield from fail_protected(channel, ReaderStatus.BAD_FORMAT, limits)
            raise
        return Session(
            flow=Flow.FAST,
            credential=credential,
            public_key=credential.public_key,
            extension=answer.extension,
            signaling=signaling,
            mailbox=None,
            keys=keys,
            kpersistent=None,
            channel=channel,
            limits=limits,
            transaction_id=context.transaction_id,
        )

    # --- LOAD CERT and AUTH1 ----------------------------------------------------------------

    def _prove(self, opening: _Opening, limits: Limits) -> Generator[bytes, bytes, bytes]:
        """Show the certificate, if there is one, and the reader's signature."""
        if self.identity.certificate:
            load = command(Ins.LOAD_CERT, self.identity.certificate)
            loaded = yield from _checked("LOAD CERT", load, limits)
            if loaded.data:
                raise WireError("LOAD CERT was answered with data", clause="Aliro 1.0 §8.3.3.3")
        digest = sha256(opening.context.signed_data(READER_USAGE)).digest()
        request = Auth1Command(
            want_public_key=self._want_public_key,
            signature=self.identity.vault.sign(self.identity.key, digest),
        )
        answer = yield from _checked("AUTH1", command(Ins.AUTH1, request.to_bytes()), limits)
        return answer.data

    def _verify(
        self, opening: _Opening, sealed: bytes, limits: Limits
    ) -> Generator[bytes, bytes, Session]:
        """Open the device's proof and verify it."""
        context = opening.context
        shared = opening.ephemeral.agree(opening.device_ephemeral)
        kdh = diffie_hellman_key(shared, context.transaction_id)
        keys = context.standard(kdh)
        channel = _reader_channel(keys)
        status = ReaderStatus.BAD_CONTENT
        try:
            plain = channel.open(sealed)
            status = ReaderStatus.BAD_FORMAT
            payload = Auth1Payload.parse(plain, minimal=self._minimal)
            status = self._absent(payload) or ReaderStatus.BAD_CONTENT
            credential, public_key = self._identify(payload)
            if public_key is not None:
                status = ReaderStatus.BAD_DEVICE_SIGNATURE
                public_key.verify(payload.signature, context.signed_data(DEVICE_USAGE))
        except RemoteFault:
            yield from fail_protected(channel, status, limits)
            raise
        return Session(
            flow=Flow.STANDARD,
            credential=credential,
            public_key=public_key,
            extension=opening.answer.extension,
            signaling=payload.signaling,
            mailbox=payload.mailbox,
            keys=keys,
            kpersistent=None if public_key is None else context.persistent(kdh, public_key.x),
            channel=channel,
            limits=limits,
            transaction_id=context.transaction_id,
        )

    def _absent(self, payload: Auth1Payload) -> ReaderStatus | None:
        """Return the status for a part of the proof that the device left out."""
        if not payload.signature:
            return ReaderStatus.NO_SIGNATURE
        if self._want_public_key:
            return None if payload.public_key else ReaderStatus.NO_PUBLIC_KEY
        return None if payload.key_slot else ReaderStatus.NO_KEY_SLOT

    def _identify(
        self, payload: Auth1Payload
    ) -> tuple[EnrolledCredential | None, PublicKey | None]:
        """Return the credential that the device names and the key its signature must fit.

        The enrolled key decides, not the bytes that were sent; a named key that is not enrolled
        is returned to verify the proof, and a key slot that is not enrolled names no key.
        """
        if self._absent(payload):
            raise WireError(
                "the device sent no proof of its identity", clause="Aliro 1.0 §8.3.3.4.2"
            )
        if not self._want_public_key:
            enrolled = self.directory.by_key_slot(payload.key_slot)
            return enrolled, enrolled.public_key if enrolled else None
        enrolled = self.directory.by_x(payload.public_key[1:33])
        if enrolled is not None and enrolled.public_key.point == payload.public_key:
            return enrolled, enrolled.public_key  # checked when it was enrolled
        named = PublicKey.parse(payload.public_key)
        return enrolled, named if enrolled is None else enrolled.public_key


def _telling(procedure: Generator[bytes, bytes, T]) -> Generator[bytes, bytes, T]:
    """Run ``procedure``; on a fault tell the device by CONTROL FLOW before it is raised."""
    try:
        return (yield from procedure)
    except (RemoteFault, LocalFault):
        yield from control_flow(ControlFlow())
        raise


@lru_cache(maxsize=16)
def _parsed(data: bytes, *, minimal: bool) -> SelectResponse:
    """Return a SELECT response; devices of one kind all give the same."""
    return SelectResponse.parse(data, minimal=minimal)


@lru_cache(maxsize=16)
def _limits(max_command: int | None, max_response: int | None) -> Limits:
    if max_command is None or max_response is None:
        return Limits(total=MAX_RESPONSE)
    return Limits(
        command=min(max_command, MAX_COMMAND),
        response=min(max_response, MAX_RESPONSE),
        total=MAX_RESPONSE,
    )


def _reader_channel(keys: SessionKeys) -> SecureChannel:
    return SecureChannel(*keys.exchange, is_reader=True)


def _checked(name: str, request: Command, limits: Limits) -> Generator[bytes, bytes, Response]:
    """Send one command; an error status is an error."""
    answer = yield from exchange(request, limits)
    if answer.sw != SW.OK:
        raise StatusError(name, answer.sw, clause="Aliro 1.0 §8.3.2.3")
    return answer
