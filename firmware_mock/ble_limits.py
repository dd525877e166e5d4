"""What phones may take from the vehicle's radio, and who leaves first when it is full."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["PeerStage", "RadioLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RadioLimits:
    """What phones may take from the vehicle.

    Attributes:
        connections: Most connections at a time.
        half_open: Most of them that have not selected a bearer.
        message_bytes: Longest message, also the MTU of the L2CAP channel.
        pending_bytes: Most that one peer has pending: messages not taken yet, each with a
            surcharge, and the part of one that came.
        pending_total_bytes: The same for all peers together.
        bearer_s: Time from the connection to the choice of a bearer.
        first_message_s: Time from there to the first whole message.
        fragment_s: Time from the first to the last byte of a message.
        idle_s: Longest silence of a peer that is not authenticated.
        send_s: Longest time for one message to be taken by the peer.
        wind_up_s: Time for the owner's task to end after its link ended, then it is cancelled.
    """

    connections: int = 64
    half_open: int = 32
    message_bytes: int = 4096
    pending_bytes: int = 8192
    pending_total_bytes: int = 262_144
    bearer_s: float = 10.0
    first_message_s: float = 5.0
    fragment_s: float = 3.0
    idle_s: float = 30.0
    send_s: float = 5.0
    wind_up_s: float = 2.0


class PeerStage(IntEnum):
    """How far a peer is; when the vehicle is full, the lowest leaves first."""

    CONNECTED = 0
    """No bearer yet."""
    SELECTED = 1
    """A bearer, but no whole message yet."""
    SPEAKING = 2
    """It sent a message and is not authenticated."""
    AUTHENTICATED = 3
    """Never evicted."""
