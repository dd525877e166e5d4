"""Notices to people: to whom, of what kind, why, when, on which channel, and whether it arrived.

A notice is part of the transaction of what it tells of: it is recorded with it or not at all. A
channel that fails is recorded as not delivered, and the command stands (requirements S111, S135,
S147). Security notices go out whatever a person switched off; offers do not (S134).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from dkey.errors import DkeyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dkey.lifecycle.durable import DurableFile

__all__ = [
    "CHANNELS",
    "Channel",
    "DeliveryError",
    "Notice",
    "Notices",
    "Port",
    "Reach",
    "RecordingPort",
    "Topic",
]


class Channel(StrEnum):
    """Where a notice can go (requirements S135)."""

    APP_PUSH = "APP_PUSH"
    SMS = "SMS"
    EMAIL = "EMAIL"
    HEAD_UNIT = "HEAD_UNIT"


class Topic(StrEnum):
    """What a notice tells."""

    SHARE_OFFERED = "SHARE_OFFERED"
    SHARE_ENDED = "SHARE_ENDED"
    SHARE_CHANGED = "SHARE_CHANGED"
    PROVIDER_SHARE = "PROVIDER_SHARE"
    PAUSE_ENDING = "PAUSE_ENDING"
    SUSPENSION = "SUSPENSION"
    LOST = "LOST"
    OWNER_CHANGED = "OWNER_CHANGED"
    TRANSFER = "TRANSFER"
    SERVICE_RESTORED = "SERVICE_RESTORED"
    OTHER = "OTHER"
    OFFER = "OFFER"


_PHONE: Final = (Channel.APP_PUSH, Channel.EMAIL)
CHANNELS: Final[Mapping[Topic, tuple[Channel, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(Topic, _PHONE),
        Topic.PROVIDER_SHARE: (Channel.APP_PUSH, Channel.SMS),
        Topic.PAUSE_ENDING: (Channel.HEAD_UNIT, Channel.SMS),
        Topic.LOST: (Channel.APP_PUSH, Channel.SMS, Channel.EMAIL),
        Topic.TRANSFER: (Channel.SMS, Channel.EMAIL),
        Topic.OFFER: (Channel.EMAIL,),
    }
)
"""Channels of each kind: S111 for providers, S84 for a pause, S56 for a transfer, the rest ours."""


class DeliveryError(DkeyError):
    """A channel could not take a notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How a person can be reached: the latest known contacts (requirements S70, S135).

    Attributes:
        account: E-mail address; None after the person was erased.
        sms: Telephone number.
        app: Whether the app is there to push to.
        offers: Whether the person wants advertisements.
    """

    account: str | None
    sms: str | None
    app: bool
    offers: bool

    def address(self, channel: Channel) -> str | None:
        """Return where a notice goes on ``channel``; None where it cannot."""
        if self.account is None:
            return None
        match channel:
            case Channel.EMAIL:
                return self.account
            case Channel.SMS:
                return self.sms
            case Channel.APP_PUSH:
                return self.account if self.app else None
            case Channel.HEAD_UNIT:
                return "head unit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One notice on one channel, as it was recorded.

    Attributes:
        number: From 1, in order.
        at_s: When, seconds since 1970.
        vehicle: Vehicle identifier; None for what concerns no vehicle.
        recipient: Pseudonym of the person.
        kind: What it tells.
        purpose: In words: what happened and who else gets to know something (S147).
        channel: Where it went.
        delivered: Whether the channel took it.
    """

    number: int
    at_s: int
    vehicle: bytes | None
    recipient: str
    kind: Topic
    purpose: str
    channel: Channel
    delivered: bool


class Port(Protocol):
    """What carries notices away."""

    def deliver(self, channel: Channel, address: str, text: str) -> None:
        """Hand a notice to a channel.

        Raises:
            DeliveryError: The channel did not take it.
        """


class RecordingPort:
    """Delivers to memory, for a prototype and for tests; channels in ``broken`` fail."""

    def __init__(self, broken: Iterable[Channel] = ()) -> None:
        self.broken = {*broken}
        self.sent: list[tuple[Channel, str, str]] = []

    def deliver(self, channel: Channel, address: str, text: str) -> None:
        """Keep the notice."""
        if channel in self.broken:
            raise DeliveryError(f"{channel.value} is out of order", hint="repair the channel")
        self.sent.append((channel, address, text))


class Notices:
    """The record of all notices, in the authority's file."""

    def __init__(self, file: DurableFile, port: Port) -> None:
        self._file = file
        self._port = port

    def send(
        self,
        recipient: str,
        reach: Reach,
        kind: Topic,
        purpose: str,
        *,
        at_s: int,
        vehicle: bytes | None = None,
        said: str | None = None,
    ) -> None:
        """Deliver on every channel of the kind and record each; inside an open transaction.

        Args:
            recipient: Pseudonym of the person.
            reach: How the person can be reached.
            kind: What the notice tells.
            purpose: In words, with pseudonyms, for the record.
            at_s: When, seconds since 1970.
            vehicle: Vehicle identifier.
            said: The words that go out, where they differ from the recorded ones.
        """
        if kind is Topic.OFFER and not reach.offers:
            return
        for channel in CHANNELS[kind]:
            delivered = self._delivered(channel, reach.address(channel), said or purpose)
            number = self._file.rows("SELECT coalesce(max(number), 0) + 1 FROM notification")[0][0]
            row = (number, at_s, vehicle, recipient, kind.value, purpose, channel.value)
            self._file.put("notification", *row, int(delivered))

    def purge(self, before_s: int) -> None:
        """Remove notices from before a time, oldest first, up to one that a dispute holds."""
        self._file.delete(
            "notification",
            "at_s < ? AND number < coalesce((SELECT min(n.number) FROM notification n, dispute d"
            " WHERE d.ended_s IS NULL AND (d.person = n.recipient OR d.vehicle = n.vehicle)"
            "), number + 1)",
            before_s,
        )

    def of(self, recipient: str) -> list[Notice]:
        """Return what was sent to a person, in order."""
        rows = self._file.rows(
            "SELECT number, at_s, vehicle, recipient, kind, purpose, channel, delivered"
            " FROM notification WHERE recipient = ? ORDER BY number",
            recipient,
        )
        return [
            Notice(
                number=number,
                at_s=at_s,
                vehicle=vehicle,
                recipient=to,
                kind=Topic(kind),
                purpose=purpose,
                channel=Channel(channel),
                delivered=bool(delivered),
            )
            for number, at_s, vehicle, to, kind, purpose, channel, delivered in rows
        ]

    def _delivered(self, channel: Channel, address: str | None, text: str) -> bool:
        if address is None:
            return False
        try:
            self._port.deliver(channel, address, text)
        except DeliveryError:
            return False
        return True
