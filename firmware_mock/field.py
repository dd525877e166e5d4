"""A phone or card in the field of a virtual reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.link.isodep_target import IsoDepTarget
from dkey.link.type_a import TypeATarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.base import Responder

__all__ = ["DeviceInField"]

_RANDOM_UID: Final = bytes.fromhex("08A1B2C3")
"""Starts with 08: a UID that says nothing about the device, as phones show."""


class DeviceInField:
    """What :class:`firmware_mock.pn532.VirtualPn532` takes as its ``target``.

    Args:
        responder: The device.
        uid: 4, 7 or 10 bytes.
        gate: Answers a poll only after a polling frame for which this is true; None always does.
    """

    def __init__(
        self,
        responder: Responder,
        *,
        uid: bytes = _RANDOM_UID,
        gate: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._responder = responder
        self._type_a = TypeATarget(uid, IsoDepTarget(responder.answer), gate=gate)

    def receive(self, frame: bytes, bits: int = 8) -> bytes | None:
        """Answer one frame of the reader, or stay silent."""
        return self._type_a.receive(frame, bits)

    def field_on(self) -> None:
        """The reader's field went on."""
        self._type_a.field_on()

    def field_off(self) -> None:
        """The reader's field went off, or the device was taken away."""
        self._type_a.field_off()
        self._responder.field_off()
