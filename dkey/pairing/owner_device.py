"""The phone's end of owner pairing: SPAKE2+'s prover (specs/pairing.md §3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from dkey.crypto.spake2plus import Parties, Prover, derive_w0_w1
from dkey.errors import AuthenticationError, DkeyError, LocalFault, PolicyRefusal, WireError
from dkey.pairing.owner_keys import (
    DEVICE_TRANSITIONS,
    ID_DEVICE,
    ID_VEHICLE,
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
    failure_code,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.crypto.channel import SecureChannel
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret
    from dkey.crypto.spake2plus import Registration
    from dkey.crypto.vault import Vault
    from dkey.lifecycle.features import Capabilities

__all__ = ["OwnerPairingDevice", "Stretch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The code must be stretched now: about 0.1 s and 32 MiB, so best in a thread."""

    salt: bytes
    cost: Cost

    def run(self, code: Secret) -> Registration:
        """Return what :meth:`OwnerPairingDevice.stretched` takes."""
        cost = self.cost
        return derive_w0_w1(code, self.salt, ID_DEVICE, ID_VEHICLE, n=cost.n, r=cost.r, p=cost.p)


class OwnerPairingDevice:
    """The phone's end of one attempt.

    A phone that was torn away before DONE pairs again with the *same* key: the vehicle may have
    enrolled it already.

    Args:
        vault: Holds the credential key.
        key: Its name there.
        capabilities: What the phone is able to.
        entropy: Random source.
        keep: Makes the vehicle durable, not yet confirmed; called before ACCEPT.

    Attributes:
        state: Where it stands.
        paired: The vehicle, from GRANT on; it counts when :attr:`done`.
    """

    def __init__(
        self,
        *,
        vault: Vault,
        key: str,
        capabilities: Capabilities,
        entropy: Entropy,
        keep: Callable[[PairedVehicle], None] | None = None,
    ) -> None:
        self.state = PairingState.READY
        self.paired: PairedVehicle | None = None
        self._vault = vault
        self._key = key
        self._capabilities = capabilities
        self._entropy = entropy
        self._keep = keep
        self._begin = Begin()
        self._parties: Parties | None = None
        self._prover: Prover | None = None
        self._share = b""
        self._channel: SecureChannel | None = None

    @property
    def done(self) -> bool:
        """Whether the vehicle said that it keeps the key."""
        return self.state is PairingState.DONE

    def begin(self) -> bytes:
        """Return BEGIN. Over NFC the answer to SELECT takes its place, and this is called too.

        Raises:
            LocalFault: It has begun already.
        """
        if self.state is not PairingState.READY:
            self.abandon()
            raise LocalFault("the pairing has begun already", hint="make a new one")
        self.state = PairingState.BEGUN
        return self._begin.to_bytes()

    def step(self, message: bytes) -> bytes | Stretch | None:
        """Take the vehicle's message; return the next one, a Stretch to carry out, or None at end.

        Raises:
            WireError: Malformed, or a cost of scrypt that the policy does not take.
            SequenceError: Out of order.
            AuthenticationError: The vehicle does not hold this code, or gave up.
            PolicyRefusal: The vehicle refuses this device, with its code.
        """
        try:
            kind = kind_of(message)
            if kind is Kind.FAILED:
                raise self._failed(message)
            after = state_after(DEVICE_TRANSITIONS, self.state, kind)
            answer = self._answer(kind, message)
        except BaseException:
            self.abandon()
            raise
        self.state = after
        return answer

    def stretched(self, registration: Registration) -> bytes:
        """Take the stretched code and return SHARE.

        Raises:
            LocalFault: No Stretch was asked for.
        """
        if self.state is not PairingState.STRETCHING or self._parties is None:
            self.abandon()
            raise LocalFault("no stretched code is awaited", hint="begin a new pairing")
        self._prover = Prover(registration, parties=self._parties, entropy=self._entropy)
        self._share = self._prover.share()
        self.state = PairingState.SHARED
        return Share(share=self._share).to_bytes()

    def abandon(self) -> None:
        """End it and forget its keys."""
        self.state = PairingState.ENDED
        self._prover = None
        if self._channel is not None:
            self._channel.destroy()

    def _answer(self, kind: Kind, message: bytes) -> bytes | Stretch | None:
        match kind:
            case Kind.OFFER:
                return self._offered(Offer.parse(message))
            case Kind.PROOF:
                return self._proved(Proof.parse(message))
            case Kind.GRANT:
                return self._granted(message)
            case Kind.REFUSED:
                assert self._channel is not None  # the state says so
                said = Refused.parse(open_message(self._channel, kind, message))
                raise PolicyRefusal(said.code, said.text or None)
            case _:
                self._finished(message)
                return None

    def _offered(self, offer: Offer) -> Stretch:
        if offer.version not in self._begin.versions:
            raise WireError("the vehicle chose a version that was not offered", clause=CLAUSE)
        if not offer.cost.acceptable:
            raise WireError("the vehicle asks for another cost of scrypt", clause=CLAUSE)
        self._parties = parties_of(self._begin, offer)
        return Stretch(salt=offer.salt, cost=offer.cost)

    def _proved(self, message: Proof) -> bytes:
        assert self._prover is not None  # the state says so
        assert self._parties is not None
        confirmation = self._prover.confirm(message.share, message.confirmation)
        transcript = transcript_of(self._parties, self._share, message.share)
        channel = channel_of(self._prover.shared_key(), transcript, is_vehicle=False)
        self._channel = channel
        device = DeviceKey(
            public_key=self._vault.public(self._key), capabilities=self._capabilities
        )
        digest = sha256(signed_data(transcript, device)).digest()
        device = replace(device, proof=self._vault.sign(self._key, digest))
        sealed = channel.seal(device.to_bytes(), bytes((Kind.CONFIRM,)))
        return Confirm(confirmation=confirmation, sealed=sealed).to_bytes()

    def _granted(self, message: bytes) -> bytes:
        assert self._channel is not None  # the state says so
        paired = PairedVehicle.parse(open_message(self._channel, Kind.GRANT, message))
        if self._keep is not None:
            self._keep(paired)
        self.paired = paired
        return seal_message(self._channel, Kind.ACCEPT, CONFIRMED)

    def _finished(self, message: bytes) -> None:
        assert self._channel is not None  # the state says so
        if open_message(self._channel, Kind.DONE, message) != CONFIRMED:
            raise WireError("DONE says something else", clause=CLAUSE)
        self._channel.destroy()

    def _failed(self, message: bytes) -> DkeyError:
        code = failure_code(message)
        if code is not None and self.state is PairingState.BEGUN:
            return PolicyRefusal(code, f"the vehicle does not pair now: {code.value}")
        return AuthenticationError(
            "the vehicle gave up the pairing",
            clause=CLAUSE,
            hint="compare the code with the head unit's, or let it issue a new one",
        )
