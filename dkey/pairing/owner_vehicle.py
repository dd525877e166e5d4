"""The vehicle's end of owner pairing: SPAKE2+'s verifier (specs/pairing.md §3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dkey.crypto.spake2plus import Parties, Verifier
from dkey.errors import PolicyRefusal, WireError
from dkey.pairing.owner_keys import (
    VEHICLE_TRANSITIONS,
    PairingState,
    channel_of,
    open_message,
    parties_of,
    seal_message,
    signed_data,
    state_after,
    transcript_of,
)
from dkey.pairing.owner_messages import (
    CLAUSE,
    CONFIRMED,
    VERSION,
    Begin,
    Confirm,
    Cost,
    DeviceKey,
    Kind,
    Offer,
    PairedVehicle,
    Proof,
    Refused,
    Share,
    kind_of,
)

if TYPE_CHECKING:
    from dkey.crypto.channel import SecureChannel
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.spake2plus import Record

__all__ = ["OwnerPairingVehicle", "PairingRegister"]


class PairingRegister(Protocol):
    """What the vehicle decides and keeps; every method is durable when it returns.

    Each is called at most once, in this order, before the message that depends on it is returned.
    """

    def count_try(self) -> None:
        """Count one try of the code, before PROOF.

        Raises:
            PolicyRefusal: The code takes no more tries, or no longer counts.
        """

    def admit(self, device: DeviceKey) -> PairedVehicle:
        """Say what this key would get; keeps nothing.

        Raises:
            PolicyRefusal: It gets nothing; the device is told, under the channel.
        """

    def enrol(self) -> None:
        """Keep the admitted key, before DONE.

        Raises:
            PolicyRefusal: What permitted it holds no more.
        """


class OwnerPairingVehicle:
    """The vehicle's end of one attempt.

    Args:
        record: Of the code.
        salt: With which the code was stretched.
        cost: At which it was stretched.
        register: Counts tries and enrols.
        entropy: Random source.

    Attributes:
        state: Where it stands.
        refusal: Why the device was refused under the channel; None when it was not.
    """

    def __init__(
        self,
        *,
        record: Record,
        salt: bytes,
        cost: Cost,
        register: PairingRegister,
        entropy: Entropy,
    ) -> None:
        self.state = PairingState.READY
        self.refusal: PolicyRefusal | None = None
        self._record = record
        self._offer = Offer(salt=salt, cost=cost)
        self._register = register
        self._entropy = entropy
        self._parties: Parties | None = None
        self._verifier: Verifier | None = None
        self._transcript = b""
        self._channel: SecureChannel | None = None

    @property
    def done(self) -> bool:
        """Whether the key is enrolled."""
        return self.state is PairingState.DONE

    def step(self, message: bytes) -> bytes:
        """Take the phone's message and return the vehicle's next one.

        After an exception nothing may be sent but :func:`~dkey.pairing.owner_messages.failure`.

        Raises:
            WireError: Malformed.
            SequenceError: Out of order.
            AuthenticationError: The phone does not know the code, or did not prove its key.
            PolicyRefusal: The register refused.
        """
        try:
            kind = kind_of(message)
            after = state_after(VEHICLE_TRANSITIONS, self.state, kind)
            answer = self._answer(kind, message)
        except BaseException:
            self.abandon()
            raise
        if self.refusal is not None:
            self.abandon()
        else:
            self.state = after
        return answer

    def abandon(self) -> None:
        """End it and forget its keys."""
        self.state = PairingState.ENDED
        self._verifier = None
        if self._channel is not None:
            self._channel.destroy()

    def _answer(self, kind: Kind, message: bytes) -> bytes:
        match kind:
            case Kind.BEGIN:
                return self._begun(Begin.parse(message))
            case Kind.SHARE:
                return self._shared(Share.parse(message))
            case Kind.CONFIRM:
                return self._confirmed(Confirm.parse(message))
            case _:
                return self._accepted(message)

    def _begun(self, begin: Begin) -> bytes:
        if VERSION not in begin.versions:
            raise WireError("no version in common", clause=CLAUSE)
        self._parties = parties_of(begin, self._offer)
        return self._offer.to_bytes()

    def _shared(self, message: Share) -> bytes:
        assert self._parties is not None  # the state says so
        # The answer tells the peer whether its guess was right: it is counted before it exists.
        self._register.count_try()
        verifier = Verifier(self._record, parties=self._parties, entropy=self._entropy)
        share, confirmation = verifier.respond(message.share)
        self._transcript = transcript_of(self._parties, message.share, share)
        self._verifier = verifier
        return Proof(share=share, confirmation=confirmation).to_bytes()

    def _confirmed(self, message: Confirm) -> bytes:
        assert self._verifier is not None  # the state says so
        self._verifier.verify(message.confirmation)
        shared = self._verifier.shared_key()
        channel = channel_of(shared, self._transcript, is_vehicle=True)
        self._channel = channel
        device = DeviceKey.parse(channel.open(message.sealed, bytes((Kind.CONFIRM,))))
        device.public_key.verify(device.proof, signed_data(self._transcript, device))
        try:
            granted = self._register.admit(device)
        except PolicyRefusal as exc:
            self.refusal = exc
            said = Refused(code=exc.code, text=str(exc))
            return seal_message(channel, Kind.REFUSED, said.to_bytes())
        return seal_message(channel, Kind.GRANT, granted.to_bytes())

    def _accepted(self, message: bytes) -> bytes:
        assert self._channel is not None  # the state says so
        if open_message(self._channel, Kind.ACCEPT, message) != CONFIRMED:
            raise WireError("ACCEPT says something else", clause=CLAUSE)
        self._register.enrol()
        answer = seal_message(self._channel, Kind.DONE, CONFIRMED)
        self._channel.destroy()
        return answer
