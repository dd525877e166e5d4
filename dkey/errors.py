"""Every exception and every refusal code of the stack.

One tree, rooted in :class:`DkeyError`. Local faults (the caller's file, argument or store) and
remote faults (the peer's bytes or answers) are different classes, so that a program can tell
"fix your input" from "the other side misbehaved".
"""

from __future__ import annotations

from enum import Enum, StrEnum

__all__ = [
    "AuthenticationError",
    "DkeyError",
    "EntropyError",
    "FileFormatError",
    "LinkError",
    "LinkReason",
    "LocalFault",
    "PolicyRefusal",
    "RefusalCode",
    "RemoteFault",
    "ReplayError",
    "SequenceError",
    "StatusError",
    "StoreError",
    "VaultError",
    "WireError",
]


class DkeyError(Exception):
    """Root of all errors raised on purpose.

    Attributes:
        clause: Source of the violated rule, such as ``Aliro 1.0 §8.3.3.2``; None when no
            document states it.
        hint: What to do next, one sentence; None when nothing can be done.
    """

    def __init__(self, message: str, *, clause: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.clause = clause
        self.hint = hint

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} [{self.clause}]" if self.clause else text


class LocalFault(DkeyError):
    """Something on this side is wrong: an argument, a file, a store, a key."""


class FileFormatError(LocalFault):
    """A file of ours does not have the documented format (specs/formats.md)."""


class StoreError(LocalFault):
    """A durable store is damaged, from a newer program, or unusable; it was not changed."""


class VaultError(LocalFault):
    """A private key is missing, or its seal does not open."""


class EntropyError(LocalFault):
    """The random source repeated itself; continuing would reuse a nonce or a key."""


class RemoteFault(DkeyError):
    """The peer broke the protocol or failed to prove who it is."""


class WireError(RemoteFault):
    """Bytes from outside do not have the form that the clause prescribes."""


class SequenceError(RemoteFault):
    """A well-formed message arrived in a state that does not allow it."""


class AuthenticationError(RemoteFault):
    """A signature, a tag or a certificate does not verify.

    One class for all of them on purpose: what exactly failed must not reach the peer.
    """


class StatusError(RemoteFault):
    """The peer answered a command with an error status.

    Attributes:
        command: Name of the refused command, such as ``AUTH1``.
        status: The two status bytes as one number, 0..65535.
    """

    def __init__(self, command: str, status: int, *, clause: str | None = None) -> None:
        super().__init__(
            f"{command} was answered {status:04X}",
            clause=clause,
            hint="check that both sides hold each other's keys for the same reader group",
        )
        self.command = command
        self.status = status


class ReplayError(AuthenticationError):
    """The peer answered with a value that it has used before."""


class LinkReason(Enum):
    """Why a link cannot be used."""

    ABSENT = "absent"
    """There is no such reader, port or peer."""
    BUSY = "busy"
    """Another program, or the kernel, holds the reader."""
    DENIED = "denied"
    """The operating system refuses access."""
    UNSUPPORTED = "unsupported"
    """The reader, the platform or the link string cannot do this."""
    LOST = "lost"
    """The peer left: field off, connection closed, card torn away."""
    TIMEOUT = "timeout"
    """The peer did not answer within its deadline."""
    PROTOCOL = "protocol"
    """The peer broke the transport's framing (ISO-DEP, length prefix)."""
    CLOSED = "closed"
    """This side closed the link."""


class LinkError(DkeyError):
    """A transport failed.

    Attributes:
        reason: How.
        transient: Whether the same call may succeed later by itself, as when a peer's program is
            not started yet.
    """

    def __init__(
        self,
        reason: LinkReason,
        message: str,
        *,
        clause: str | None = None,
        hint: str | None = None,
        transient: bool = False,
    ) -> None:
        super().__init__(message, clause=clause, hint=hint)
        self.reason = reason
        self.transient = transient


class RefusalCode(StrEnum):
    """Why the vehicle, or the policy, says no.

    The codes of requirements section F come first; the last group is ours. Meanings and sources
    are listed in specs/refusals.md.
    """

    SHARE_LIMIT = "SHARE_LIMIT"
    NOT_AUTHORISED = "NOT_AUTHORISED"
    VETOED_BY_OWNER = "VETOED_BY_OWNER"
    NOT_SYNCED = "NOT_SYNCED"
    DEVICE_UNSUPPORTED = "DEVICE_UNSUPPORTED"
    FEATURE_NOT_SUPPORTED = "FEATURE_NOT_SUPPORTED"
    PERMISSION_ENTRY_ONLY = "PERMISSION_ENTRY_ONLY"
    KEY_REVOKED = "KEY_REVOKED"
    KEY_SUSPENDED = "KEY_SUSPENDED"
    KEY_EXPIRED = "KEY_EXPIRED"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    WRONG_VEHICLE = "WRONG_VEHICLE"
    ENTITLEMENT = "ENTITLEMENT"
    TOO_SOON = "TOO_SOON"
    DRIVING = "DRIVING"
    IGNITION_ON = "IGNITION_ON"
    GEAR_NOT_P = "GEAR_NOT_P"
    DOOR_NOT_LOCKED = "DOOR_NOT_LOCKED"
    SMARTKEY_NEARBY = "SMARTKEY_NEARBY"
    SMARTKEY_LOCK_COOLDOWN = "SMARTKEY_LOCK_COOLDOWN"
    ASLEEP = "ASLEEP"
    IMMOBILISED = "IMMOBILISED"
    UPDATE_IN_PROGRESS = "UPDATE_IN_PROGRESS"
    SERVICE_MODE = "SERVICE_MODE"
    VALET = "VALET"
    CODE_LOCKED_OUT = "CODE_LOCKED_OUT"
    CODE_TIMEOUT = "CODE_TIMEOUT"
    ALREADY_LINKED = "ALREADY_LINKED"
    WRONG_VIN = "WRONG_VIN"
    WRONG_MARKET = "WRONG_MARKET"
    PENDING_ACTIVATION = "PENDING_ACTIVATION"
    DEACTIVATED = "DEACTIVATED"
    MODULE_EXPIRED = "MODULE_EXPIRED"
    PAUSE_QUOTA = "PAUSE_QUOTA"
    CARD_DAMAGED = "CARD_DAMAGED"
    CARD_BLOCKED = "CARD_BLOCKED"
    IN_PERSON_ONLY = "IN_PERSON_ONLY"
    CONSENT_MISSING = "CONSENT_MISSING"
    OUT_OF_ZONE = "OUT_OF_ZONE"
    REPLAY = "REPLAY"
    # Ours: no source document names these cases.
    IGNITION_OFF = "IGNITION_OFF"
    CARD_LIMIT = "CARD_LIMIT"
    STANDARD_REQUIRED = "STANDARD_REQUIRED"
    NO_KEY_ON_PAD = "NO_KEY_ON_PAD"


class PolicyRefusal(DkeyError):
    """A rule says no. ``code`` names the rule; nothing was changed.

    Attributes:
        code: The refusal code, one for each rule.
        remaining_s: Seconds until the same request may pass, where time is the reason.
    """

    def __init__(
        self,
        code: RefusalCode,
        message: str | None = None,
        *,
        remaining_s: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message or code.value, hint=hint)
        self.code = code
        self.remaining_s = remaining_s
