"""Who is told what of the effects of a command (requirements A16)."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dkey.authority.notifications import Topic
from dkey.authority.persons import NAMED
from dkey.lifecycle.ring_effects import (
    KeyEnded,
    KeyHeld,
    KeyLifted,
    KeyOffered,
    Linked,
    NoticeDue,
    NoticeKind,
    OwnerNotified,
)
from dkey.lifecycle.ring_state import HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dkey.lifecycle.ring_effects import Effect

__all__ = ["Told", "told"]

_DUE: Final[Mapping[NoticeKind, tuple[Topic, str]]] = MappingProxyType(
    {
        NoticeKind.PAUSE_ENDS: (
            Topic.PAUSE_ENDING,
            "the pause ends in 7 days; it is extended unless you end it",
        ),
        NoticeKind.PAUSE_TERMINABLE: (
            Topic.PAUSE_ENDING,
            "the extended pause ends in 7 days; the contract may be ended then",
        ),
        NoticeKind.SUSPENSION: (
            Topic.SUSPENSION,
            "your keys are suspended in 7 days for unpaid fees; you may object",
        ),
        NoticeKind.TERMINATION: (Topic.OTHER, "the contract ends in 14 days"),
        NoticeKind.TRANSFERRED: (
            Topic.TRANSFER,
            "the contract ended: the vehicle was passed on",
        ),
        NoticeKind.PROVIDER_KEY: (Topic.PROVIDER_SHARE, "a provider is given a key"),
    }
)
"""Topic and words of each notice that falls due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One notice to one person.

    Attributes:
        to: Pseudonym.
        topic: What kind of notice.
        words: What it says, with pseudonyms.
    """

    to: str
    topic: Topic
    words: str


def told(effects: Iterable[Effect], actor: str) -> list[Told]:
    """Return the notices that effects of a command by ``actor`` ask for, once each."""
    found: dict[tuple[str, Topic, str], Told] = {}
    for effect in effects:
        one = _told(effect)
        own = isinstance(effect, KeyOffered | KeyEnded | KeyHeld | KeyLifted)
        if one is None or not one.to or one.to in NAMED or (own and one.to == actor):
            continue
        found[(one.to, one.topic, one.words)] = one
    return [*found.values()]


def _told(effect: Effect) -> Told | None:  # noqa: PLR0911 - one row for each kind
    match effect:
        case KeyOffered():
            words = f"a key was offered to you as {effect.role.value}"
            return Told(to=effect.account, topic=Topic.SHARE_OFFERED, words=words)
        case KeyEnded():
            words = f"a key of yours has ended: {effect.reason.value}"
            return Told(to=effect.account, topic=Topic.SHARE_ENDED, words=words)
        case KeyHeld():
            topic = Topic.LOST if effect.kind is HoldKind.LOST else Topic.SUSPENSION
            words = f"a key of yours is suspended: {effect.kind.value}"
            return Told(to=effect.account, topic=topic, words=words)
        case KeyLifted() if effect.usable:
            words = "a key of yours is not suspended any more"
            return Told(to=effect.account, topic=Topic.SHARE_CHANGED, words=words)
        case NoticeDue():
            topic, words = _DUE[effect.kind]
            return Told(to=effect.to, topic=topic, words=words)
        case OwnerNotified():
            words = (
                f"{effect.ordered_by} ordered a key for {effect.recipient}"
                f" at {effect.at_s}: {effect.purpose}"
            )
            return Told(to=effect.to, topic=Topic.PROVIDER_SHARE, words=words)
        case Linked():
            words = "the vehicle is linked to your account"
            return Told(to=effect.owner.account, topic=Topic.OWNER_CHANGED, words=words)
        case _:
            return None
