"""What went wrong, in words a driver understands, and what to try (requirements S21, S24).

:class:`Trouble` is the kind for programs. Every refusal code has a sentence here; errors of links
are told apart by :func:`unreachable`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from dkey.errors import (
    DkeyError,
    LinkError,
    LinkReason,
    LocalFault,
    PolicyRefusal,
    RefusalCode,
    RemoteFault,
)

__all__ = [
    "SENTENCES",
    "NotPaired",
    "Trouble",
    "Unreachable",
    "refusal",
    "trouble",
    "trouble_of",
    "unreachable",
]


class Trouble(StrEnum):
    """Why the agent could not do what was asked."""

    BLUETOOTH_OFF = "bluetooth_off"
    AIRPLANE_MODE = "airplane_mode"
    NO_ADAPTER = "no_adapter"
    NO_BLUETOOTH_SERVICE = "no_bluetooth_service"
    NO_PERMISSION = "no_permission"
    NOT_IN_RANGE = "not_in_range"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    UNCERTAIN = "uncertain"
    """The link was lost between request and answer: done or not is not known."""
    LINK = "link"
    """Another fault of the link."""
    NOT_PAIRED = "not_paired"
    REFUSED = "refused"
    FORGOTTEN = "forgotten"
    """The vehicle does not know the key any more."""
    UNTRUSTED = "untrusted"
    """The peer did not prove to be the vehicle, or broke the protocol."""
    STORE = "store"
    """A fault on this side: store, vault, file, argument."""


class Unreachable(LinkError):
    """The vehicle could not be reached, or the link broke.

    Attributes:
        trouble: Which of the kinds of a link.
    """

    def __init__(
        self,
        trouble: Trouble,
        message: str,
        *,
        reason: LinkReason,
        hint: str | None,
        transient: bool = False,
    ) -> None:
        super().__init__(reason, message, hint=hint, transient=transient)
        self.trouble = trouble


_LINK: Final[dict[Trouble, tuple[str, str]]] = {
    Trouble.BLUETOOTH_OFF: (
        "Bluetooth is switched off",
        "switch Bluetooth on (`bluetoothctl power on`); the key card works without it",
    ),
    Trouble.AIRPLANE_MODE: (
        "airplane mode switches Bluetooth off",
        "leave airplane mode (`rfkill unblock bluetooth`); the key card works without it",
    ),
    Trouble.NO_ADAPTER: (
        "there is no Bluetooth adapter",
        "plug one in, or name another radio with --link; `dkey doctor` looks for adapters",
    ),
    Trouble.NO_BLUETOOTH_SERVICE: (
        "the Bluetooth service does not run",
        "start it (`sudo systemctl start bluetooth`), then try again",
    ),
    Trouble.NO_PERMISSION: (
        "this program may not use Bluetooth",
        "join the group `bluetooth`, or allow it in the system's settings",
    ),
    Trouble.NOT_IN_RANGE: (
        "the vehicle is not in range",
        "go closer; the key card works at the handle. After a reset at the head unit, pair again",
    ),
    Trouble.TIMED_OUT: (
        "the vehicle did not answer in time",
        "go closer and try again",
    ),
    Trouble.LOST: (
        "the connection to the vehicle was lost",
        "go closer and try again",
    ),
    Trouble.UNCERTAIN: (
        "the connection was lost before the vehicle's answer; it may have acted or not",
        "look at the vehicle, or ask `dkey agent status`, before you try again",
    ),
}
"""Trouble of a link: sentence, what to try."""

_SIGNS: Final = (
    ("rfkill", Trouble.AIRPLANE_MODE),
    ("airplane", Trouble.AIRPLANE_MODE),
    ("power on", Trouble.BLUETOOTH_OFF),
    ("powered off", Trouble.BLUETOOTH_OFF),
    ("switched off", Trouble.BLUETOOTH_OFF),
    ("bluetoothd", Trouble.NO_BLUETOOTH_SERVICE),
    ("d-bus", Trouble.NO_BLUETOOTH_SERVICE),
    ("systemctl", Trouble.NO_BLUETOOTH_SERVICE),
)
"""Links have one reason for all kinds of absence; its text and hint tell them apart."""

_OF_REASON: Final = {
    LinkReason.DENIED: Trouble.NO_PERMISSION,
    LinkReason.TIMEOUT: Trouble.TIMED_OUT,
    LinkReason.LOST: Trouble.LOST,
}


def unreachable(exc: LinkError) -> Unreachable:
    """Return a link's error as one that says what it means to the driver."""
    if isinstance(exc, Unreachable):
        return exc
    kind = _kind(exc)
    sentence, hint = _LINK.get(kind, ("", exc.hint))
    said = str(exc)
    message = f"{sentence}: {said}" if sentence and sentence not in said else said
    # What the link itself advises fits the platform and the link string better.
    chosen = exc.hint if kind is Trouble.NO_ADAPTER and exc.hint else hint
    return Unreachable(
        kind,
        message,
        reason=exc.reason,
        hint=chosen,
        transient=exc.transient or kind in _TRANSIENT,
    )


def _kind(exc: LinkError) -> Trouble:
    said = f"{exc} {exc.hint or ''}".lower()
    if exc.reason is LinkReason.ABSENT:
        return next((kind for sign, kind in _SIGNS if sign in said), Trouble.NO_ADAPTER)
    if exc.reason is LinkReason.DENIED and "the vehicle refuses" in said:
        return Trouble.LINK
    if exc.reason is LinkReason.TIMEOUT and "bluetoothd" in said:
        return Trouble.NO_BLUETOOTH_SERVICE
    return _OF_REASON.get(exc.reason, Trouble.LINK)


_TRANSIENT: Final = frozenset({Trouble.TIMED_OUT, Trouble.LOST})


def trouble(kind: Trouble, reason: LinkReason) -> Unreachable:
    """Return the error for trouble that the agent itself noticed."""
    sentence, hint = _LINK[kind]
    return Unreachable(kind, sentence, reason=reason, hint=hint, transient=kind in _TRANSIENT)


def trouble_of(exc: DkeyError) -> Trouble:
    """Return the kind of any error, for programs."""
    if isinstance(exc, LinkError):
        return unreachable(exc).trouble
    if isinstance(exc, PolicyRefusal):
        return Trouble.FORGOTTEN if exc.code is RefusalCode.KEY_UNKNOWN else Trouble.REFUSED
    if isinstance(exc, RemoteFault):
        return Trouble.UNTRUSTED
    return Trouble.NOT_PAIRED if isinstance(exc, NotPaired) else Trouble.STORE


class NotPaired(LocalFault):
    """No vehicle is paired, or not the one that was asked for."""


# --- refusals ----------------------------------------------------------------------------------

PAIR_AGAIN: Final = "pair again at the head unit: `dkey agent pair`"
_WAIT: Final = "wait, then try again"
_OWNER: Final = "ask the vehicle's owner"
_DEALER: Final = "ask the dealer"

_C = RefusalCode
SENTENCES: Final[dict[RefusalCode, tuple[str, str]]] = {
    _C.SHARE_LIMIT: ("Three people share this vehicle already.", "withdraw a share first"),
    _C.NOT_AUTHORISED: ("This key may not do that.", _OWNER),
    _C.VETOED_BY_OWNER: ("The owner forbade this share.", _OWNER),
    _C.NOT_SYNCED: (
        "The key is not set up completely: the vehicle has not confirmed it yet.",
        "go to the vehicle and run `dkey agent status`, which finishes the setup",
    ),
    _C.DEVICE_UNSUPPORTED: (
        "This device lacks what a digital key of this vehicle needs.",
        "use another phone, or a key card",
    ),
    _C.FEATURE_NOT_SUPPORTED: (
        "This vehicle, this device or this key does not have that function.",
        "`dkey agent status` lists the functions of this key",
    ),
    _C.PERMISSION_ENTRY_ONLY: ("This key locks and unlocks; it does not start.", _OWNER),
    _C.KEY_REVOKED: ("This key was withdrawn for good.", _OWNER),
    _C.KEY_SUSPENDED: ("This key is withdrawn for a time.", _OWNER),
    _C.KEY_EXPIRED: ("The time of this key is over.", _OWNER),
    _C.KEY_UNKNOWN: ("The vehicle does not know this key any more.", PAIR_AGAIN),
    _C.WRONG_VEHICLE: ("This key belongs to another vehicle.", "choose it with --vehicle"),
    _C.ENTITLEMENT: ("The service contract does not cover this.", _DEALER),
    _C.TOO_SOON: ("A remote command was carried out moments ago.", _WAIT),
    _C.DRIVING: ("The vehicle is driving, or may be.", "stop and park it first"),
    _C.IGNITION_ON: ("The ignition is on.", "switch the ignition off first"),
    _C.GEAR_NOT_P: ("The gear is not in park.", "shift to P first"),
    _C.DOOR_NOT_LOCKED: ("The doors are not locked, or may not be.", "lock it: `dkey agent lock`"),
    _C.SMARTKEY_NEARBY: ("The smart key is close to the vehicle.", "use it, or take it away"),
    _C.SMARTKEY_LOCK_COOLDOWN: ("The smart key locked the doors moments ago.", _WAIT),
    _C.ASLEEP: ("The vehicle sleeps after a long time parked.", "open it with a card or key"),
    _C.IMMOBILISED: ("The vehicle is immobilised for every key.", _OWNER),
    _C.UPDATE_IN_PROGRESS: ("The vehicle installs an update.", "try again when it is over"),
    _C.SERVICE_MODE: ("The vehicle is in service mode.", "ask the workshop to end it"),
    _C.VALET: ("The vehicle is in valet mode.", "end valet mode at the head unit"),
    _C.CODE_LOCKED_OUT: (
        "The code was wrong too often and is locked out.",
        "have the head unit show a new code",
    ),
    _C.CODE_TIMEOUT: ("The code is over.", "have the head unit show a new code"),
    _C.ALREADY_LINKED: (
        "The vehicle has an owner's key already.",
        "ask the owner, or reset the vehicle's keys at the head unit",
    ),
    _C.WRONG_VIN: ("The vehicle identification number is not valid.", "check the number"),
    _C.WRONG_MARKET: ("The vehicle is of another market.", _DEALER),
    _C.PENDING_ACTIVATION: ("Activation is not finished.", _WAIT),
    _C.DEACTIVATED: ("The unit was deactivated.", _DEALER),
    _C.MODULE_EXPIRED: ("The vehicle's connection has ended for good.", _DEALER),
    _C.PAUSE_QUOTA: ("No further pause is allowed.", "end the pause, or ask the service"),
    _C.CARD_DAMAGED: ("The transaction broke off.", "hold the phone still and try again"),
    _C.CARD_BLOCKED: ("This card was replaced by another.", "use the other card"),
    _C.IN_PERSON_ONLY: ("A provider gets no key here.", "hand over the vehicle in person"),
    _C.CONSENT_MISSING: ("A consent that this needs was not given.", "give it, then try again"),
    _C.OUT_OF_ZONE: ("The phone is not where this needs it.", "go closer, or get in"),
    _C.REPLAY: ("The vehicle saw an answer that was used before.", "try again"),
    _C.IGNITION_OFF: ("The ignition is off.", "switch the ignition on first"),
    _C.CARD_LIMIT: ("No place is free for a card.", "remove a card first"),
    _C.STANDARD_REQUIRED: ("The vehicle wants a full transaction for this.", "try again"),
    _C.NO_KEY_ON_PAD: ("No key lies on the console pad.", "lay the phone on the pad"),
}
"""Refusal code: a sentence, what to try."""


def refusal(code: str, remaining_s: float | None = None) -> DkeyError:
    """Return the error for a refusal by the vehicle, or by the agent itself."""
    try:
        known = RefusalCode(code)
    except ValueError:
        return RemoteFault(
            f"the vehicle refused for a reason that this program does not know: {code[:40]!r}",
            hint="use a newer dkey",
        )
    sentence, hint = SENTENCES[known]
    if remaining_s is not None:
        hint = f"try again in {remaining_s:.0f} s"
    return PolicyRefusal(known, sentence, remaining_s=remaining_s, hint=hint)
