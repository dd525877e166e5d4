"""States of a share in the making, and what is kept of it (specs/lifecycle.md §6.6).

A table for each end says which input is allowed in which state; everything else is refused and
changes nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from dkey.errors import AuthenticationError, PolicyRefusal, RefusalCode, StoreError, WireError
from dkey.lifecycle.invitation import read_invitation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.crypto.seal import Seal
    from dkey.crypto.secret import Secret

__all__ = [
    "FRIEND_TRANSITIONS",
    "SHARER_TRANSITIONS",
    "ShareInput",
    "ShareState",
    "allow",
    "at",
    "keep",
    "restore",
]

CLAUSE: Final = "specs/lifecycle.md §6.6"
_VERSION: Final = 1


class ShareState(Enum):
    """States of an exchange, at either end."""

    INVITED = "invited"
    REQUESTED = "a key was sent"
    CONFIRMED = "the sharer confirmed the key"
    SIGNED = "the key is signed"
    IMPORTED = "the friend has the signed key"
    DECLINED = "declined"
    EXPIRED = "not finished in time"
    LOCKED = "too many wrong PINs"


class ShareInput(Enum):
    """What moves an exchange."""

    REQUEST = "a request"
    WRONG_PIN = "a request with a wrong PIN"
    CONFIRM = "the sharer confirms the fingerprint"
    SIGN = "the sharer signs"
    ANSWER = "the answer"
    RECEIPT = "the receipt"
    DECLINE = "declined"
    TIMEOUT = "time is up"


_S, _I = ShareState, ShareInput
_Table = dict[tuple[ShareState, ShareInput], tuple[ShareState, ...]]
SHARER_TRANSITIONS: Final[_Table] = {
    (_S.INVITED, _I.REQUEST): (_S.REQUESTED,),
    (_S.INVITED, _I.WRONG_PIN): (_S.INVITED, _S.LOCKED),
    (_S.INVITED, _I.DECLINE): (_S.DECLINED,),
    (_S.INVITED, _I.TIMEOUT): (_S.EXPIRED,),
    (_S.REQUESTED, _I.REQUEST): (_S.REQUESTED,),
    (_S.REQUESTED, _I.CONFIRM): (_S.CONFIRMED,),
    (_S.REQUESTED, _I.DECLINE): (_S.DECLINED,),
    (_S.REQUESTED, _I.TIMEOUT): (_S.EXPIRED,),
    (_S.CONFIRMED, _I.REQUEST): (_S.CONFIRMED,),
    (_S.CONFIRMED, _I.SIGN): (_S.SIGNED,),
    (_S.CONFIRMED, _I.DECLINE): (_S.DECLINED,),
    (_S.CONFIRMED, _I.TIMEOUT): (_S.EXPIRED,),
    (_S.SIGNED, _I.REQUEST): (_S.SIGNED,),
    (_S.SIGNED, _I.RECEIPT): (_S.IMPORTED,),
    (_S.IMPORTED, _I.RECEIPT): (_S.IMPORTED,),
}
"""The sharer's end. After it signed, a share ends by withdrawal only, not by declining."""
FRIEND_TRANSITIONS: Final[_Table] = {
    (_S.INVITED, _I.REQUEST): (_S.REQUESTED,),
    (_S.INVITED, _I.DECLINE): (_S.DECLINED,),
    (_S.INVITED, _I.TIMEOUT): (_S.EXPIRED,),
    (_S.REQUESTED, _I.REQUEST): (_S.REQUESTED,),
    (_S.REQUESTED, _I.ANSWER): (_S.IMPORTED,),
    (_S.REQUESTED, _I.DECLINE): (_S.DECLINED,),
    (_S.IMPORTED, _I.ANSWER): (_S.IMPORTED,),
}
"""The friend's end. It waits for an answer without a limit: one that comes late is still good."""
_ENDS: Final = {
    _S.LOCKED: (RefusalCode.CODE_LOCKED_OUT, "the PIN was wrong too often"),
    _S.EXPIRED: (RefusalCode.CODE_TIMEOUT, "the invitation was not used in time"),
}


def allow(state: ShareState, given: ShareInput, table: _Table) -> None:
    """Check that an input is allowed in a state.

    Raises:
        PolicyRefusal: CODE_TIMEOUT, CODE_LOCKED_OUT, or NOT_AUTHORISED in any other state.
    """
    if (state, given) not in table:
        code, text = _ENDS.get(
            state, (RefusalCode.NOT_AUTHORISED, f"the state of the share is: {state.value}")
        )
        raise PolicyRefusal(code, f"{text}; not possible now: {given.value}")


def at(state: ShareState, expires_s: int, now_s: int, table: _Table) -> ShareState:
    """Return the state at a time: one that has a limit ends after it, for good."""
    if now_s > expires_s and (state, _I.TIMEOUT) in table:
        return _S.EXPIRED
    return state


def keep(side: str, state: ShareState, signed: bytes, secret: Secret, seal: Seal) -> dict[str, Any]:
    """Return what both ends keep, as plain values; the secret is sealed to its place."""
    share_id = read_invitation(signed).share_id
    return {
        "version": _VERSION,
        "side": side,
        "state": state.name,
        "invitation": signed,
        "secret": seal.close(secret, _place(side, share_id)),
    }


def restore(side: str, value: Mapping[str, Any], seal: Seal) -> dict[str, Any]:
    """Return the fields that :func:`keep` was given.

    Raises:
        StoreError: Not such a value.
        VaultError: The secret was sealed by another seal, or for another exchange.
    """
    try:
        if (value["version"], value["side"]) != (_VERSION, side):
            raise ValueError("of another version or side")
        signed = value["invitation"]
        invitation = read_invitation(signed)
        return {
            "invitation": invitation,
            "signed": signed,
            "state": ShareState[value["state"]],
            "secret": seal.open(value["secret"], _place(side, invitation.share_id)),
        }
    except (KeyError, TypeError, ValueError, WireError, AuthenticationError) as exc:
        raise StoreError("a kept share is damaged", clause=CLAUSE) from exc


def _place(side: str, share_id: bytes) -> bytes:
    return f"dkey share {side} ".encode() + share_id
