"""What people do at a vehicle with anchors: hands at handles, consent at the head unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.errors import LocalFault
from dkey.ranging.layout import Zone

if TYPE_CHECKING:
    from firmware_mock.uwb_desk import UwbDesk

__all__ = ["UWB_BUTTONS", "press_uwb"]

_HANDLES: Final = {
    "handle": Zone.DOOR_DRIVER,
    "handle-passenger": Zone.DOOR_PASSENGER,
    "handle-trunk": Zone.TRUNK,
}
_CONSENT: Final = {"consent-off": False, "consent-on": True}
UWB_BUTTONS: Final = frozenset(_HANDLES) | frozenset(_CONSENT)
"""Names of what can be pressed."""


def press_uwb(uwb: UwbDesk | None, name: str) -> dict[str, object]:
    """Press one; return the refusal, if it is one.

    Raises:
        LocalFault: The vehicle has no anchors.
    """
    if uwb is None:
        raise LocalFault("this vehicle has no anchors", hint="start it with --uwb sim:")
    if name in _CONSENT:
        uwb.set_consent(on=_CONSENT[name])
        return {}
    verdict = uwb.touch_handle(_HANDLES[name])
    return {} if verdict is None else {"code": verdict.code, "text": verdict.text}
