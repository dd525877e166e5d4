"""The two frames of a round that carry data: Pre-POLL and Final_Data (SP0).

A frame is a 23-byte header in clear, then the payload under AES-CCM* with a tag of 8 bytes and
the header as associated data (specs/ranging.md §5). All integers on the air are little-endian;
the nonce alone holds its counter big-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import construct as c
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from dkey.crypto.secret import Secret  # noqa: TC001 - part of the public signature
from dkey.errors import AuthenticationError, LocalFault, ReplayError, WireError
from dkey.ranging.configuration import RESPONDERS_MAX
from dkey.ranging.keys import UwbAddresses  # noqa: TC001 - part of the public signature

__all__ = [
    "ALIRO_OUI",
    "MHR_SIZE",
    "MIC_SIZE",
    "VEHICLE_OUI",
    "FinalData",
    "FrameId",
    "FrameReceiver",
    "FrameSender",
    "Mhr",
    "PrePoll",
    "ResponderTime",
]

CLAUSE: Final = "specs/ranging.md §5"
MHR_SIZE: Final = 23
MIC_SIZE: Final = 8
COUNTER_LIMIT: Final = 0xFFFFFFFF
ALIRO_OUI: Final = 0x4A191B
"""Of the aliro profile (Aliro 1.0 §12.1.5)."""
VEHICLE_OUI: Final = 0x02646B
"""Of the vehicle profile: ours, locally administered, the same as in BLE messages."""

_FRAME_CONTROL: Final = 0x2B49
_SECURITY_CONTROL: Final = 0x16
_SECURITY_LEVEL: Final = 0x06
_KEY_INDEX: Final = 0xAA
_VENDOR_IE: Final = 0x0005
_TERMINATION: Final = 0x3F80
_PAYLOAD_MAX: Final = 127 - MHR_SIZE - MIC_SIZE - 2
"""What header, tag and checksum leave of a frame of 127 bytes."""


class FrameId(IntEnum):
    """Message identifier in the vendor information element."""

    PRE_POLL = 1
    FINAL_DATA = 2


_MHR: Final = c.Struct(
    c.Const(_FRAME_CONTROL, c.Int16ul),
    "dest_short" / c.Int16ul,
    c.Const(_SECURITY_CONTROL, c.Int8ul),
    "counter" / c.Int32ul,
    "key_source" / c.Bytes(4),
    c.Const(_KEY_INDEX, c.Int8ul),
    c.Const(_VENDOR_IE, c.Int16ul),
    "oui" / c.Int24ul,
    "message" / c.Int8ul,
    "size" / c.Int8ul,
    c.Const(_TERMINATION, c.Int16ul),
    c.Terminated,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mhr:
    """MAC header of an SP0 frame, 23 bytes.

    Wire, little-endian: 2B49 || dest(2) || 16 || counter(4) || key source(4) || AA || 0005 ||
    OUI(3) || message(1) || payload length(1) || 3F80.

    Attributes:
        dest_short: Destination address, 0..65535.
        counter: Frame counter, 0..2^32-1.
        key_source: 4 bytes, as on the air.
        oui: Of the profile, 24 bits.
        message: Message identifier, 0..255.
        size: Length of the payload without its tag, 0..255.
    """

    dest_short: int
    counter: int
    key_source: bytes
    oui: int
    message: int
    size: int

    def to_bytes(self) -> bytes:
        """Encode, 23 bytes."""
        return _built(_MHR, {name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def parse(cls, data: bytes) -> Mhr:
        """Decode exactly one header.

        Raises:
            WireError: Not 23 bytes, or another frame type, security level or element.
        """
        found = _parsed(_MHR, data)
        return cls(**{name: found[name] for name in cls.__slots__})


_PRE_POLL: Final = c.Struct(
    "session_id" / c.Int32ul,
    "poll_sts_index" / c.Int32ul,
    "block" / c.Int16ul,
    "hop" / c.Int8ul,
    "round" / c.Int16ul,
    c.Terminated,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrePoll:
    """First frame of a round, 13 bytes: tells the anchors where the session is.

    Wire, little-endian: session(4) || STS index of the POLL(4) || block(2) || hop(1) || round(2).

    Attributes:
        session_id: 0..2^32-1.
        poll_sts_index: The Pre-POLL's own index is one less, 1..2^32-1.
        block: Low 16 bits of the block number.
        hop: Whether this round was hopped to.
        round: Round within the block, 0..65535.
    """

    session_id: int
    poll_sts_index: int
    block: int
    hop: bool
    round: int

    def to_bytes(self) -> bytes:
        """Encode, 13 bytes."""
        return _built(_PRE_POLL, {name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def parse(cls, data: bytes) -> PrePoll:
        """Decode exactly one payload.

        Raises:
            WireError: Not 13 bytes, no index before the POLL's, or a flag that is none.
        """
        found = _parsed(_PRE_POLL, data)
        if found.hop > 1 or not found.poll_sts_index:
            raise WireError("a Pre-POLL has a hop flag and an earlier index", clause=CLAUSE)
        return cls(
            session_id=found.session_id,
            poll_sts_index=found.poll_sts_index,
            block=found.block,
            hop=bool(found.hop),
            round=found.round,
        )


_RESPONDER: Final = c.Struct(
    "responder" / c.Int8ul,
    "response_delta" / c.Int32ul,
    "uncertainty" / c.Int8ul,
    "status" / c.Int8ul,
)
_FINAL_DATA: Final = c.Struct(
    "session_id" / c.Int32ul,
    "block" / c.Int16ul,
    "next_hop" / c.Int8ul,
    "next_round" / c.Int16ul,
    "final_sts_index" / c.Int32ul,
    "final_delta" / c.Int32ul,
    "responders" / c.PrefixedArray(c.Int8ul, _RESPONDER),
    c.Terminated,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderTime:
    """When the initiator received one response, 7 bytes.

    Attributes:
        responder: Index of the anchor, 0..255.
        response_delta: From the POLL's departure to its arrival, ticks of 15.65 ps, 32 bits.
        uncertainty: Of the time stamp, as the subsystem encodes it, 0..255.
        status: 0 received.
    """

    responder: int
    response_delta: int
    uncertainty: int = 0
    status: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalData:
    """Last frame of a round, 18 + 7n bytes: the initiator's time stamps, and the next round.

    Wire, little-endian: session(4) || block(2) || next hop(1) || next round(2) || STS index of
    the FINAL(4) || FINAL departure(4) || n(1) || n of responder(1), arrival(4), uncertainty(1),
    status(1).

    Attributes:
        session_id: 0..2^32-1.
        block: Low 16 bits of the block number.
        next_hop: Whether the next block hops.
        next_round: First round of the next block.
        final_sts_index: STS index of the FINAL.
        final_delta: From the POLL's departure to the FINAL's, ticks of 15.65 ps, 32 bits.
        responders: At most 10, each anchor once.
    """

    session_id: int
    block: int
    next_hop: bool
    next_round: int
    final_sts_index: int
    final_delta: int
    responders: tuple[ResponderTime, ...]

    def to_bytes(self) -> bytes:
        """Encode, 18 + 7n bytes."""
        if len(self.responders) > RESPONDERS_MAX:
            raise LocalFault(f"a Final_Data has at most {RESPONDERS_MAX} responders", clause=CLAUSE)
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["responders"] = [
            {name: getattr(each, name) for name in each.__slots__} for each in self.responders
        ]
        return _built(_FINAL_DATA, fields)

    @classmethod
    def parse(cls, data: bytes) -> FinalData:
        """Decode exactly one payload.

        Raises:
            WireError: Lengths that do not add up, more than 10 responders, one of them twice, or
                a flag that is none.
        """
        found = _parsed(_FINAL_DATA, data)
        times = tuple(
            ResponderTime(**{name: each[name] for name in ResponderTime.__slots__})
            for each in found.responders
        )
        if len(times) > RESPONDERS_MAX or len({each.responder for each in times}) < len(times):
            raise WireError("a Final_Data has each responder once, 10 at most", clause=CLAUSE)
        if found.next_hop > 1:
            raise WireError("a hop flag is 0 or 1", clause=CLAUSE)
        fields = {name: found[name] for name in cls.__slots__}
        return cls(**fields | {"next_hop": bool(found.next_hop), "responders": times})


def _nonce(addresses: UwbAddresses, counter: int) -> bytes:
    return addresses.src_long + counter.to_bytes(4, "big") + bytes((_SECURITY_LEVEL,))


class FrameSender:
    """Seals the frames of one ranging secret; its counter never goes back.

    One counter for all keys of the secret: the Pre-POLL key outlives a session, so a sender that
    resumes passes on the counter where the last one stopped.

    Attributes:
        counter: Counter of the next frame.
    """

    def __init__(self, addresses: UwbAddresses, oui: int, *, counter: int = 0) -> None:
        self._addresses = addresses
        self._oui = oui
        self.counter = counter

    def seal(self, key: Secret, message: FrameId, payload: bytes) -> bytes:
        """Return the frame: header, sealed payload, tag.

        Args:
            key: mUPSK1 for a Pre-POLL, the round's dUDSK for a Final_Data.
            message: Which of the two.
            payload: Its bytes in clear.

        Raises:
            LocalFault: The counter is used up, or the payload is too long.
        """
        if len(payload) > _PAYLOAD_MAX:
            raise LocalFault(f"a frame carries at most {_PAYLOAD_MAX} bytes", clause=CLAUSE)
        if self.counter >= COUNTER_LIMIT:
            raise LocalFault("the frame counter is used up", clause=CLAUSE, hint="connect again")
        header = Mhr(
            dest_short=int.from_bytes(self._addresses.dest_short, "big"),
            counter=self.counter,
            key_source=self._addresses.key_source,
            oui=self._oui,
            message=message,
            size=len(payload),
        ).to_bytes()
        nonce = _nonce(self._addresses, self.counter)
        self.counter += 1
        return header + AESCCM(key.reveal(), MIC_SIZE).encrypt(nonce, payload, header)


class FrameReceiver:
    """Opens the frames of one ranging secret; a counter that came before is refused.

    Attributes:
        lowest: Lowest frame counter that is taken.
    """

    def __init__(self, addresses: UwbAddresses, oui: int, *, lowest: int = 0) -> None:
        self._addresses = addresses
        self._oui = oui
        self.lowest = lowest

    def open(self, key: Secret, message: FrameId, frame: bytes) -> bytes:
        """Return the payload of a frame in clear.

        Only a frame whose tag verifies moves the counter, so that a forged one cannot lock the
        true sender out.

        Raises:
            WireError: Not such a frame, or one of another session or profile.
            ReplayError: Its counter came before.
            AuthenticationError: Its tag does not verify.
        """
        header = frame[:MHR_SIZE]
        mhr = Mhr.parse(header)
        wanted = (
            int.from_bytes(self._addresses.dest_short, "big"),
            self._addresses.key_source,
            self._oui,
            message,
            len(frame) - MHR_SIZE - MIC_SIZE,
        )
        if (mhr.dest_short, mhr.key_source, mhr.oui, mhr.message, mhr.size) != wanted:
            raise WireError("a frame of another session, profile, kind or length", clause=CLAUSE)
        if mhr.counter < self.lowest:
            raise ReplayError("a frame counter came twice", clause=CLAUSE)
        try:
            nonce = _nonce(self._addresses, mhr.counter)
            opened = AESCCM(key.reveal(), MIC_SIZE).decrypt(nonce, frame[MHR_SIZE:], header)
        except InvalidTag as exc:
            raise AuthenticationError("a ranging frame does not verify", clause=CLAUSE) from exc
        self.lowest = mhr.counter + 1
        return opened


def _built(layout: Any, fields: dict[str, Any]) -> bytes:
    try:
        built: bytes = layout.build(fields)
    except c.ConstructError as exc:
        raise LocalFault(f"a field of the frame does not fit: {exc}", clause=CLAUSE) from exc
    return built


def _parsed(layout: Any, data: bytes) -> Any:
    try:
        return layout.parse(data)
    except c.ConstructError as exc:
        raise WireError("the bytes are not such a ranging frame", clause=CLAUSE) from exc
