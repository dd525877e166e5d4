"""What one tap came to, and how a broken transaction is told to people and to the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dkey.access.exchange import ReaderStatus
from dkey.errors import (
    AuthenticationError,
    DkeyError,
    RefusalCode,
    ReplayError,
    StatusError,
)

if TYPE_CHECKING:
    from dkey.access.enrolled import Flow
    from dkey.control.rules import Action, Grant
    from dkey.control.touch import Position

__all__ = ["TapOutcome", "failure_of", "outcome_of", "status_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TapOutcome:
    """What one tap came to.

    Attributes:
        position: The reader.
        credential_id: The acting credential; None when none was authenticated.
        name: Its name for people.
        flow: ``standard`` or ``fast``; None when not authenticated.
        action: What the vehicle did, or None.
        code: Why it did nothing, or None.
        text: The outcome in words.
    """

    position: Position
    credential_id: str | None = None
    name: str | None = None
    flow: str | None = None
    action: Action | None = None
    code: RefusalCode | None = None
    text: str = ""


def outcome_of(
    position: Position,
    grant: Grant | None,
    flow: Flow | None,
    *,
    action: Action | None = None,
    code: RefusalCode | None = None,
    text: str = "",
) -> TapOutcome:
    """Return the outcome of a transaction with this credential, if any was authenticated."""
    return TapOutcome(
        position=position,
        credential_id=None if grant is None else grant.credential_id,
        name=None if grant is None else grant.name,
        flow=None if flow is None else flow.value,
        action=action,
        code=code,
        text=text,
    )


def failure_of(exc: DkeyError) -> tuple[RefusalCode, str]:
    """Return code and words for a transaction that broke."""
    if isinstance(exc, ReplayError):
        return RefusalCode.REPLAY, "the device answered with what was answered before"
    if isinstance(exc, AuthenticationError):
        return RefusalCode.NOT_AUTHORISED, "the device did not prove a key"
    if isinstance(exc, StatusError):
        if exc.command == "SELECT":
            return RefusalCode.DEVICE_UNSUPPORTED, "the device has no key of this kind"
        said = f"{exc.command}: {exc.status:04X}"
        return RefusalCode.NOT_AUTHORISED, f"the device does not trust this vehicle ({said})"
    return RefusalCode.CARD_DAMAGED, f"the transaction broke off: {exc}"


def status_of(code: RefusalCode) -> ReaderStatus:
    """Return what the device is told of a refusal; of an unknown key, always the same."""
    if code is RefusalCode.KEY_UNKNOWN:
        return ReaderStatus.KEY_NOT_FOUND
    if code in (RefusalCode.KEY_REVOKED, RefusalCode.CARD_BLOCKED):
        return ReaderStatus.KEY_NOT_TRUSTED
    return ReaderStatus.ACCESS_RIGHTS
