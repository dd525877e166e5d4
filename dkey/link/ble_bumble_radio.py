"""What the bleak backends on a Bumble host share: the radio's locks, its loss, texts of errors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason
from bleak.uuids import normalize_uuid_str

if TYPE_CHECKING:
    from bleak.backends.scanner import BaseBleakScanner
    from bumble.core import UUID
    from bumble.device import Device

__all__ = [
    "Losable",
    "SharedRadio",
    "check_radio",
    "error_text",
    "not_available",
    "radio_lost",
    "shared_of",
    "uuid_text",
]


@runtime_checkable
class Losable(Protocol):
    """A host that knows when its controller is gone."""

    @property
    def lost(self) -> bool:
        """Whether the controller is gone for good."""


class SharedRadio:
    """What all scanners and clients of one host share: a radio makes one connection at a time."""

    def __init__(self) -> None:
        self.dialling = asyncio.Lock()
        self.toggling = asyncio.Lock()
        self.scanners: set[BaseBleakScanner] = set()


_shared: WeakKeyDictionary[Device, SharedRadio] = WeakKeyDictionary()


def shared_of(device: Device) -> SharedRadio:
    """Return what all backends of ``device`` share."""
    return _shared.setdefault(device, SharedRadio())


def uuid_text(uuid: UUID) -> str:
    """Return a UUID the way bleak writes it: 128 bits, lower case, with dashes."""
    return normalize_uuid_str(uuid.to_hex_str("-"))


def error_text(exc: BaseException) -> str:
    """Return one line that names the kind of ``exc``; some of Bumble's have no text."""
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


def not_available(text: str) -> BleakBluetoothNotAvailableError:
    """Return bleak's error for a missing radio."""
    return BleakBluetoothNotAvailableError(text, BleakBluetoothNotAvailableReason.NO_BLUETOOTH)


def radio_lost(device: Device) -> bool:
    """Return whether ``device`` knows that its controller is gone."""
    return isinstance(device, Losable) and device.lost


def check_radio(device: Device) -> None:
    """Raise BleakBluetoothNotAvailableError if the controller is gone."""
    if radio_lost(device):
        raise not_available("the connection to the virtual air is lost")
