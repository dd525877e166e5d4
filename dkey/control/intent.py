"""The explicit LOCK or UNLOCK that a device may put on the wire (specs/vehicle-profile.md §4).

Wire: in the B2 object of the AUTH0 response, one vendor extension ``30 { 04 03 OUI, 81 01 action
}`` with action 1 = lock, 2 = unlock. B2 enters the key schedule, so an intent that was changed on
the way ends the transaction. A device that sends none asks for a toggle.
"""

from __future__ import annotations

from typing import Final

from dkey.access.messages import parse_extensions, vendor_extension
from dkey.codec import tlv
from dkey.control.touch import Intent
from dkey.errors import WireError

__all__ = ["OUI", "encode_intent", "parse_intent"]

OUI: Final = bytes.fromhex("02646B")
"""Our identifier: locally administered (bit 1 of the first byte), so it is nobody's."""
CLAUSE: Final = "specs/vehicle-profile.md §4"
_ACTION: Final = 0x81
_CODES: Final = {Intent.LOCK: 1, Intent.UNLOCK: 2}


def encode_intent(intent: Intent | None) -> bytes:
    """Return the value of the B2 object; empty for a bare tap."""
    if intent is None:
        return b""
    return vendor_extension(OUI, tlv.encode(_ACTION, bytes((_CODES[intent],))))


def parse_intent(extension: bytes) -> Intent | None:
    """Return the intent in the value of a B2 object; None when it carries none of ours.

    Raises:
        WireError: Our extension is malformed or asks for something unknown.
    """
    if not extension:
        return None
    content = parse_extensions(extension).get(OUI)
    if content is None:
        return None
    code = tlv.single(content, _ACTION, minimal=True)
    for intent, value in _CODES.items():
        if code == bytes((value,)):
            return intent
    raise WireError(f"intent {code.hex()} is not defined", clause=CLAUSE)
