"""What both ends of owner pairing compute alike, and their state tables (specs/pairing.md §3)."""

from __future__ import annotations

from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from dkey.codec import tlv
from dkey.crypto.channel import SecureChannel
from dkey.crypto.kdf import hkdf
from dkey.crypto.secret import Secret
from dkey.crypto.spake2plus import Parties
from dkey.errors import SequenceError
from dkey.pairing.owner_messages import CLAUSE, Kind, body

if TYPE_CHECKING:
    from dkey.pairing.owner_messages import Begin, DeviceKey, Offer

__all__ = [
    "DEVICE_TRANSITIONS",
    "ID_DEVICE",
    "ID_VEHICLE",
    "VEHICLE_TRANSITIONS",
    "PairingState",
    "channel_of",
    "open_message",
    "parties_of",
    "seal_message",
    "signed_data",
    "state_after",
    "transcript_of",
]

ID_DEVICE: Final = b"dkey owner device"
ID_VEHICLE: Final = b"dkey vehicle"
"""Identities in SPAKE2+. The vehicle's own identifier is not shown before the code is proved."""
_CONTEXT: Final = b"dkey owner pairing"
_CHANNEL: Final = b"dkey owner pairing channel"
_USAGE: Final = b"OPD1"


def parties_of(begin: Begin, offer: Offer) -> Parties:
    """Bind versions offered and chosen, salt and cost: a changed one ends the pairing."""
    context = b"".join((_CONTEXT, begin.to_bytes(), offer.to_bytes()))
    return Parties(context=context, id_prover=ID_DEVICE, id_verifier=ID_VEHICLE)


def transcript_of(parties: Parties, share_p: bytes, share_v: bytes) -> bytes:
    """Return the hash of what passed until both ends have the key, 32 bytes."""
    return sha256(b"".join((parties.context, share_p, share_v))).digest()


def channel_of(shared: Secret, transcript: bytes, *, is_vehicle: bool) -> SecureChannel:
    """Return one end of the channel under SPAKE2+'s key."""
    block = hkdf(shared.reveal(), transcript, _CHANNEL, 64)
    return SecureChannel(Secret(block[:32]), Secret(block[32:]), is_reader=is_vehicle)


def signed_data(transcript: bytes, device: DeviceKey) -> bytes:
    """Return what the device's key signs to prove itself."""
    return b"".join((tlv.encode(0x91, transcript), device.said(), tlv.encode(0x93, _USAGE)))


def seal_message(channel: SecureChannel, kind: Kind, plaintext: bytes) -> bytes:
    """Return a message whose data are sealed, bound to its kind."""
    return bytes((kind,)) + channel.seal(plaintext, bytes((kind,)))


def open_message(channel: SecureChannel, kind: Kind, message: bytes) -> bytes:
    """Verify and open the data of a message of this kind."""
    return channel.open(body(message, kind), bytes((kind,)))


class PairingState(Enum):
    """States of either end."""

    READY = "has not begun"
    BEGUN = "waits for OFFER"
    OFFERED = "waits for SHARE"
    STRETCHING = "waits for the stretched code"
    SHARED = "waits for PROOF"
    PROVED = "waits for CONFIRM"
    CONFIRMED = "waits for GRANT"
    GRANTED = "waits for ACCEPT"
    ACCEPTED = "waits for DONE"
    DONE = "done"
    ENDED = "ended"


_S = PairingState
VEHICLE_TRANSITIONS: Final[dict[tuple[PairingState, Kind], tuple[PairingState, ...]]] = {
    (_S.READY, Kind.BEGIN): (_S.OFFERED,),
    (_S.OFFERED, Kind.SHARE): (_S.PROVED,),
    (_S.PROVED, Kind.CONFIRM): (_S.GRANTED, _S.ENDED),
    (_S.GRANTED, Kind.ACCEPT): (_S.DONE,),
}
"""Every pair that is not listed, and every failure, leads to ENDED."""
DEVICE_TRANSITIONS: Final[dict[tuple[PairingState, Kind], tuple[PairingState, ...]]] = {
    (_S.BEGUN, Kind.OFFER): (_S.STRETCHING,),
    (_S.SHARED, Kind.PROOF): (_S.CONFIRMED,),
    (_S.CONFIRMED, Kind.GRANT): (_S.ACCEPTED,),
    (_S.CONFIRMED, Kind.REFUSED): (_S.ENDED,),
    (_S.ACCEPTED, Kind.DONE): (_S.DONE,),
}
"""READY leads to BEGUN when the pairing begins, STRETCHING to SHARED with the stretched code."""


def state_after(
    table: dict[tuple[PairingState, Kind], tuple[PairingState, ...]],
    state: PairingState,
    kind: Kind,
) -> PairingState:
    """Return the first state that this message leads to; SequenceError if it leads nowhere."""
    found = table.get((state, kind))
    if found is None:
        raise SequenceError(f"{kind.name} came, but the pairing {state.value}", clause=CLAUSE)
    return found[0]
