"""Pairing a card key: the P-256 applet, both ends (specs/card-keys.md §3).

BEGIN agrees on ephemeral keys, BIND exchanges long-term keys and proofs under their protection,
COMMIT makes the card keep the vehicle's key. The vehicle keeps the card's key only after COMMIT
was answered, the card the vehicle's only in COMMIT: a card torn away before changes nothing, and
one torn away during COMMIT may be paired with the same vehicle again. Who may pair at all is
:mod:`dkey.control.card_window`'s matter.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol

from dkey.access.credential import TrustedReader
from dkey.access.freshness import Freshness
from dkey.access.select import SelectResponse, select_command
from dkey.codec import tlv
from dkey.codec.apdu import SW, Command, Limits, Response, exchange
from dkey.codec.tlv import Field, Layout
from dkey.crypto.channel import SecureChannel
from dkey.crypto.kdf import hkdf, x963
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import (
    AuthenticationError,
    DkeyError,
    RemoteFault,
    SequenceError,
    StatusError,
    WireError,
)
from dkey.lifecycle.roles import CardProvenance

if TYPE_CHECKING:
    from collections.abc import Generator

    from dkey.access.credential import DeviceCredential
    from dkey.access.enrolled import ReaderIdentity
    from dkey.crypto.entropy import Entropy

log = logging.getLogger(__name__)
__all__ = ["CARD_AID", "CardApplet", "CardStore", "PairingIns", "PendingCard", "begin_pairing"]

CARD_AID: Final = bytes.fromhex("F0646B65790301")
"""Application identifier of card pairing (specs/vehicle-profile.md §2)."""
CLAUSE: Final = "specs/card-keys.md §3"
_VERSION: Final = b"\x01\x00"
_LABEL: Final = b"CardPairing*"
_VEHICLE_USAGE: Final = b"VPC1"
_CARD_USAGE: Final = b"CPV1"
_PROVENANCE: Final = {CardProvenance.INITIAL: b"\x01", CardProvenance.PURCHASED: b"\x02"}
_CONFIRM: Final = b"\x98\x00"


class PairingIns(IntEnum):
    """Instruction bytes, class 80."""

    BEGIN = 0xA0
    BIND = 0xA1
    COMMIT = 0xA2


_BEGIN: Final = Layout(
    "BEGIN",
    CLAUSE,
    Field(0x87, 65, 65),
    Field(0x4C, 16, 16),
    Field(0x4D, 16, 16),
    skip_unknown=False,
)
_BEGIN_ANSWER: Final = Layout("BEGIN response", CLAUSE, Field(0x86, 65, 65), skip_unknown=False)
_BIND: Final = Layout("BIND", CLAUSE, Field(0x5A, 65, 65), Field(0x9E, 64, 64), skip_unknown=False)
_BIND_ANSWER: Final = Layout(
    "BIND response",
    CLAUSE,
    Field(0x5A, 65, 65),
    Field(0x50, 1, 1),
    Field(0x9E, 64, 64),
    skip_unknown=False,
)


@dataclass(frozen=True, slots=True)
class _Transcript:
    """What both ends know after BEGIN."""

    group_id: bytes
    transaction_id: bytes
    vehicle_ephemeral: bytes
    card_ephemeral: bytes

    def channel(self, shared: Secret, *, is_reader: bool) -> SecureChannel:
        """Derive the two keys of the pairing."""
        kdh = x963(shared.reveal(), self.transaction_id, 32)
        salt = b"".join(
            (_LABEL, self.group_id, _VERSION, self.vehicle_ephemeral, self.transaction_id)
        )
        block = hkdf(kdh, salt, self.card_ephemeral, 64)
        return SecureChannel(Secret(block[:32]), Secret(block[32:]), is_reader=is_reader)

    def signed_data(self, usage: bytes, *parts: bytes) -> bytes:
        """Return what one end signs: the transcript, what it says, and its usage word."""
        return b"".join(
            (
                tlv.encode(0x4D, self.group_id),
                tlv.encode(0x86, self.card_ephemeral),
                tlv.encode(0x87, self.vehicle_ephemeral),
                tlv.encode(0x4C, self.transaction_id),
                *parts,
                tlv.encode(0x93, usage),
            )
        )


# --- the vehicle's end ----------------------------------------------------------------------


@dataclass(slots=True)
class PendingCard:
    """A card that proved its key and waits for the vehicle's decision.

    Attributes:
        public_key: The card's credential key.
        provenance: What the card declares itself to be.
    """

    public_key: PublicKey
    provenance: CardProvenance
    _channel: SecureChannel

    def commit(self) -> Generator[bytes, bytes, None]:
        """Make the card keep this vehicle; the vehicle enrols the card only when this returns.

        Raises:
            StatusError: The card answered an error status.
            AuthenticationError: Its answer does not verify.
        """
        sealed = self._channel.seal(_CONFIRM)
        answer = yield from _ask("COMMIT", PairingIns.COMMIT, sealed)
        confirmed = self._channel.open(answer)
        self._channel.destroy()
        if confirmed != _CONFIRM:
            raise WireError("COMMIT was answered with something else", clause=CLAUSE)

    def abandon(self) -> None:
        """Forget the keys; the card keeps nothing."""
        self._channel.destroy()


def begin_pairing(
    identity: ReaderIdentity, entropy: Entropy
) -> Generator[bytes, bytes, PendingCard]:
    """Run SELECT, BEGIN and BIND with the card in the field.

    Raises:
        StatusError: Not a card of this kind, or bound to another vehicle.
        WireError: The card's bytes are malformed.
        AuthenticationError: The card did not prove its key.
    """
    raw = yield from exchange(select_command(CARD_AID), Limits())
    if raw.sw != SW.OK:
        raise StatusError("SELECT", raw.sw, clause=CLAUSE)
    if SelectResponse.parse(raw.data, minimal=True).aid != CARD_AID:
        raise WireError("another application answered", clause=CLAUSE)
    ephemeral, transaction_id = entropy.ephemeral(), entropy.random(16)
    request = b"".join(
        (
            tlv.encode(0x87, ephemeral.public.point),
            tlv.encode(0x4C, transaction_id),
            tlv.encode(0x4D, identity.group_id),
        )
    )
    answer = _BEGIN_ANSWER.parse(
        (yield from _ask("BEGIN", PairingIns.BEGIN, request)), minimal=True
    )
    card_ephemeral = PublicKey.parse(answer[0x86])
    transcript = _Transcript(
        identity.group_id, transaction_id, ephemeral.public.point, card_ephemeral.point
    )
    channel = transcript.channel(ephemeral.agree(card_ephemeral), is_reader=True)
    return (yield from _bind(identity, transcript, channel))


def _bind(
    identity: ReaderIdentity, transcript: _Transcript, channel: SecureChannel
) -> Generator[bytes, bytes, PendingCard]:
    shown = tlv.encode(0x5A, identity.group_key.point)
    digest = sha256(transcript.signed_data(_VEHICLE_USAGE, shown)).digest()
    proof = identity.vault.sign(identity.key, digest)
    sealed = channel.seal(shown + tlv.encode(0x9E, proof))
    raw = yield from _ask("BIND", PairingIns.BIND, sealed)
    try:
        answer = _BIND_ANSWER.parse(channel.open(raw), minimal=True)
        public_key = PublicKey.parse(answer[0x5A])
        said = tlv.encode(0x5A, answer[0x5A]) + tlv.encode(0x50, answer[0x50])
        public_key.verify(answer[0x9E], transcript.signed_data(_CARD_USAGE, said))
        provenance = next((p for p, code in _PROVENANCE.items() if code == answer[0x50]), None)
        if provenance is None:
            raise WireError("the card declares an unknown provenance", clause=CLAUSE)
    except RemoteFault:
        channel.destroy()
        raise
    return PendingCard(public_key, provenance, channel)


def _ask(name: str, ins: PairingIns, data: bytes) -> Generator[bytes, bytes, bytes]:
    answer = yield from exchange(Command(0x80, ins, 0, 0, data, 256), Limits())
    if answer.sw != SW.OK:
        raise StatusError(name, answer.sw, clause=CLAUSE)
    return answer.data


# --- the card's end ----------------------------------------------------------------------


class CardStore(Protocol):
    """Where a card makes its vehicle durable; called before COMMIT is answered."""

    def save_reader(self, reader: TrustedReader) -> None:
        """Keep the one vehicle of this card."""


@dataclass(slots=True)
class _Pairing:
    ephemeral: PrivateKey
    transcript: _Transcript
    channel: SecureChannel
    reader: TrustedReader | None = None


class CardApplet:
    """The pairing applet of a card.

    Args:
        credential: The card's credential; its trusted readers change in COMMIT.
        provenance: Whether the card came with the vehicle or was bought later.
        entropy: Source of ephemeral keys.
        store: Makes the vehicle durable; None keeps it in memory only.
    """

    def __init__(
        self,
        credential: DeviceCredential,
        provenance: CardProvenance,
        entropy: Entropy,
        *,
        store: CardStore | None = None,
    ) -> None:
        self.aid = CARD_AID
        self.provenance = provenance
        self._credential = credential
        self._entropy = entropy
        self._store = store
        self._public = credential.vault.public(credential.key)
        self._fresh = Freshness()
        self._now: _Pairing | None = None
        self._selected = False
        self._fci = SelectResponse(aid=CARD_AID, versions=(_VERSION,)).to_bytes()

    def select(self) -> Response:
        """Begin anew."""
        self._forget()
        self._selected = True
        return Response(self._fci)

    def deselect(self) -> None:
        """The pairing is over: forget its keys."""
        self._forget()

    def fail(self) -> None:
        """Forget the keys after a malformed command."""
        self._forget()

    def command(self, command: Command) -> Response:
        """Answer one whole command; every failure is one status, and the pairing is forgotten."""
        try:
            if command.cla != 0x80 or command.p1 or command.p2:
                raise WireError("class or parameters", clause=CLAUSE)
            match command.ins:
                case PairingIns.BEGIN:
                    return Response(self._begin(command.data))
                case PairingIns.BIND:
                    return Response(self._bind(command.data))
                case PairingIns.COMMIT:
                    return Response(self._commit(command.data))
                case _:
                    raise WireError("unknown instruction", clause=CLAUSE)
        except Exception as exc:  # noqa: BLE001 - a store's own fault must not leave keys behind
            if not isinstance(exc, DkeyError):
                log.error("pairing failed inside: %s", type(exc).__name__)  # noqa: TRY400 - no data
            self._forget()
            return Response(sw=SW.SECURITY)

    def _begin(self, data: bytes) -> bytes:
        if not self._selected or self._now is not None:
            raise SequenceError("BEGIN out of order", clause=CLAUSE)
        found = _BEGIN.parse(data, minimal=True)
        vehicle_ephemeral = PublicKey.parse(found[0x87])
        ephemeral = self._entropy.ephemeral()
        self._fresh.require(ephemeral.public.x)
        transcript = _Transcript(
            found[0x4D], found[0x4C], vehicle_ephemeral.point, ephemeral.public.point
        )
        channel = transcript.channel(ephemeral.agree(vehicle_ephemeral), is_reader=False)
        self._now = _Pairing(ephemeral, transcript, channel)
        return tlv.encode(0x86, ephemeral.public.point)

    def _bind(self, data: bytes) -> bytes:
        now = self._pairing()
        if now.reader is not None:
            raise SequenceError("BIND out of order", clause=CLAUSE)
        shown = _BIND.parse(now.channel.open(data), minimal=True)
        public_key = PublicKey.parse(shown[0x5A])
        said = tlv.encode(0x5A, shown[0x5A])
        public_key.verify(shown[0x9E], now.transcript.signed_data(_VEHICLE_USAGE, said))
        now.reader = TrustedReader(group_id=now.transcript.group_id, public_key=public_key)
        bound = self._credential.readers
        if bound and bound.get(now.reader.group_id) != now.reader:
            raise AuthenticationError("the card belongs to another vehicle", clause=CLAUSE)
        answer = tlv.encode(0x5A, self._public.point) + tlv.encode(
            0x50, _PROVENANCE[self.provenance]
        )
        digest = sha256(now.transcript.signed_data(_CARD_USAGE, answer)).digest()
        proof = self._credential.vault.sign(self._credential.key, digest)
        return now.channel.seal(answer + tlv.encode(0x9E, proof))

    def _commit(self, data: bytes) -> bytes:
        now = self._pairing()
        if now.reader is None or now.channel.open(data) != _CONFIRM:
            raise SequenceError("COMMIT out of order", clause=CLAUSE)
        if self._store is not None:
            self._store.save_reader(now.reader)
        self._credential.readers[now.reader.group_id] = now.reader
        sealed = now.channel.seal(_CONFIRM)
        self._forget()
        return sealed

    def _pairing(self) -> _Pairing:
        if self._now is None:
            raise SequenceError("no pairing has begun", clause=CLAUSE)
        return self._now

    def _forget(self) -> None:
        now, self._now = self._now, None
        self._selected = False
        if now is not None:
            now.channel.destroy()
