"""The reader's side of an authenticated transaction, and its failure processes.

All of it are generators, as in :mod:`dkey.access.reader`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.access.exchange import ExchangeRequest, ReaderStatus, parse_response
from dkey.access.messages import ControlFlow, Ins, Signaling, command
from dkey.codec.apdu import SW, Limits, Response, exchange
from dkey.errors import AuthenticationError, LinkError, RemoteFault, StatusError

if TYPE_CHECKING:
    from collections.abc import Generator

    from dkey.access.enrolled import EnrolledCredential, Flow
    from dkey.access.exchange import MailboxOp
    from dkey.access.schedule import SessionKeys
    from dkey.crypto.channel import SecureChannel
    from dkey.crypto.p256 import PublicKey
    from dkey.crypto.secret import Secret

__all__ = ["Session", "control_flow", "fail_protected"]


class Session:
    """An authenticated transaction: who the device is, and the protected channel to it.

    Attributes:
        flow: How it was authenticated, STANDARD or FAST.
        credential: The enrolled credential, or None when the key is not enrolled.
        public_key: The device's credential key; None when it named an unknown key slot.
        extension: Value of the device's B2 object, or empty.
        signaling: The device's signaling bitmap.
        mailbox: The mailbox subset of the AUTH1 response; None without.
        keys: All session keys.
        kpersistent: Kpersistent to store once the transaction is complete; None after fast.
        transaction_id: 16 bytes; its last 4 name the ranging session.
    """

    def __init__(
        self,
        *,
        flow: Flow,
        credential: EnrolledCredential | None,
        public_key: PublicKey | None,
        extension: bytes,
        signaling: Signaling,
        mailbox: bytes | None,
        keys: SessionKeys,
        kpersistent: Secret | None,
        channel: SecureChannel,
        limits: Limits,
        transaction_id: bytes = bytes(16),
    ) -> None:
        self.flow = flow
        self.credential = credential
        self.public_key = public_key
        self.extension = extension
        self.signaling = signaling
        self.mailbox = mailbox
        self.keys = keys
        self.kpersistent = kpersistent
        self.transaction_id = transaction_id
        self._channel = channel
        self._limits = limits

    def exchange(self, request: ExchangeRequest) -> Generator[bytes, bytes, tuple[bytes, ...]]:
        """Send one EXCHANGE and return the data of its reads, in order.

        Raises:
            StatusError: The device answered an error status.
            AuthenticationError: The response does not verify.
            RemoteFault: The device reports that it did nothing of the request.
        """
        if not self._channel.alive:
            raise AuthenticationError("the transaction is over", clause="Aliro 1.0 §8.3.3.5")
        try:
            sealed = self._channel.seal(request.to_bytes())
            answer = yield from exchange(command(Ins.EXCHANGE, sealed), self._limits)
            if answer.sw != SW.OK:
                raise StatusError("EXCHANGE", answer.sw, clause="Aliro 1.0 §8.3.3.5")
            reads, result = parse_response(self._channel.open(answer.data))
            if result:
                raise RemoteFault(
                    f"the device refused the request with {result:04X}",
                    clause="Aliro 1.0 §8.3.3.5.5",
                )
        except RemoteFault:
            self._channel.destroy()
            yield from control_flow(ControlFlow())
            raise
        except LinkError:
            self._channel.destroy()
            raise
        return reads

    def complete(
        self, status: ReaderStatus, *, mailbox: tuple[MailboxOp, ...] | None = None
    ) -> Generator[bytes, bytes, None]:
        """End the transaction with a status that the device confirms; the keys are gone then.

        Args:
            status: SECURE or another that tells no failure.
            mailbox: Mailbox commands that ride in the same EXCHANGE.
        """
        yield from self.exchange(ExchangeRequest(status=status, mailbox=mailbox))
        self._channel.destroy()

    def fail(self, status: ReaderStatus) -> Generator[bytes, bytes, None]:
        """End the transaction in failure (Aliro 1.0 §8.3.3.1); what the device answers is moot."""
        yield from fail_protected(self._channel, status, self._limits)


def control_flow(message: ControlFlow) -> Generator[bytes, bytes, None]:
    """Tell the device of a failure where no protected channel can; its answer is moot."""
    yield command(Ins.CONTROL_FLOW, message.to_bytes()).to_bytes()


def fail_protected(
    channel: SecureChannel, status: ReaderStatus, limits: Limits
) -> Generator[bytes, bytes, None]:
    """Tell the device of a failure under the channel's protection, else by CONTROL FLOW."""
    try:
        sealed = channel.seal(ExchangeRequest(status=status).to_bytes())
        answer = yield from exchange(command(Ins.EXCHANGE, sealed), limits)
    except RemoteFault:
        answer = Response(sw=SW.GENERAL)
    channel.destroy()
    if answer.sw != SW.OK:
        yield from control_flow(ControlFlow())
