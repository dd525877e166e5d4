"""A vehicle with two virtual readers, and the phones and cards that come to them.

Each reader is a virtual PN532 on a pseudo-terminal, driven by nfcpy's own driver: what runs here
is what runs on a bench, but for the chip and the air.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dkey.access.applet import AppletHost
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.device import AccessApplet
from dkey.access.profile import VEHICLE
from dkey.control.intent import encode_intent
from dkey.control.touch import Intent, Position
from dkey.crypto.vault import MemoryVault
from dkey.errors import LinkError, LinkReason, RefusalCode
from dkey.link.nfc import NfcInitiator
from dkey.pairing.card import CardApplet
from firmware_mock.field import DeviceInField
from firmware_mock.garage import create_vehicle
from firmware_mock.pn532 import VirtualPn532
from firmware_mock.pty_port import PtyPort
from firmware_mock.vehicle import TapOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.crypto.entropy import Entropy
    from dkey.lifecycle.roles import CardProvenance
    from dkey.link.base import FrameTap, Responder
    from dkey.link.nfc import NfcLink
    from firmware_mock.vehicle import Vehicle

__all__ = ["Card", "Phone", "Recorder", "Replayer", "Stage"]

_KEY = "credential"
_TOUCH = (Position.DOOR_HANDLE, Position.CONSOLE_PAD)
_SENSE_S = 1.0


class Phone:
    """A phone with one credential for one vehicle.

    Attributes:
        name: Whose phone it is.
        public_key: Its credential's public key.
        applet: Its access applet.
    """

    def __init__(self, name: str, vehicle: Vehicle, entropy: Entropy) -> None:
        self.name = name
        trusted = TrustedReader(group_id=vehicle.group_id, public_key=vehicle.public_key)
        self.credential = DeviceCredential(
            profile=VEHICLE,
            vault=MemoryVault(**{_KEY: entropy.ephemeral()}),
            key=_KEY,
            readers={vehicle.group_id: trusted},
        )
        self.public_key = self.credential.vault.public(_KEY)
        self.applet = AccessApplet(self.credential, entropy)
        self._host = AppletHost([self.applet])

    def wanting(self, intent: Intent | None) -> Phone:
        """Ask for LOCK or UNLOCK from now on; None asks for a toggle."""
        self.applet.extension = encode_intent(intent)
        return self

    def answer(self, command: bytes) -> bytes:
        """Answer one command APDU."""
        return self._host.answer(command)

    def field_off(self) -> None:
        """The field ended."""
        self._host.field_off()


class Card:
    """A card key, blank until a vehicle pairs it."""

    def __init__(self, provenance: CardProvenance, entropy: Entropy) -> None:
        self.credential = DeviceCredential(
            profile=VEHICLE, vault=MemoryVault(**{_KEY: entropy.ephemeral()}), key=_KEY, readers={}
        )
        self.public_key = self.credential.vault.public(_KEY)
        self._host = AppletHost(
            [
                AccessApplet(self.credential, entropy),
                CardApplet(self.credential, provenance, entropy),
            ]
        )

    def answer(self, command: bytes) -> bytes:
        """Answer one command APDU."""
        return self._host.answer(command)

    def field_off(self) -> None:
        """The field ended."""
        self._host.field_off()


class Recorder:
    """An attacker between reader and device who writes every answer down."""

    def __init__(self, device: Responder) -> None:
        self._device = device
        self.answers: list[bytes] = []

    def answer(self, command: bytes) -> bytes:
        """Pass one command on and note the answer."""
        response = self._device.answer(command)
        self.answers.append(response)
        return response

    def field_off(self) -> None:
        """The field ended."""
        self._device.field_off()


class Replayer:
    """An attacker's device that gives recorded answers, whatever is asked."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = iter(answers)

    def answer(self, command: bytes) -> bytes:
        """Give the next recorded answer."""
        del command
        return next(self._answers, b"\x69\x82")

    def field_off(self) -> None:
        """The field ended."""


class Stage:
    """A vehicle and its two virtual readers; an async context manager.

    Args:
        entropy: Random source of everything here.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970.
        tap: Receives the frames of both readers, for a trace.
        folder: Where the vehicle is kept; None for a temporary place.

    Attributes:
        vehicle: The vehicle, new and locked.
    """

    def __init__(
        self,
        *,
        entropy: Entropy,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        tap: FrameTap | None = None,
        folder: Path | None = None,
    ) -> None:
        self._cleanup = contextlib.ExitStack()
        if folder is None:
            folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        self.vehicle = create_vehicle(
            folder / "vehicle", entropy=entropy, clock=clock, wall_clock=wall_clock
        )
        self._cleanup.callback(self.vehicle.close)
        self._chips = {position: VirtualPn532() for position in _TOUCH}
        self._initiators: dict[Position, NfcInitiator] = {}
        self._on_pad: NfcLink | None = None
        for position, chip in self._chips.items():
            port = self._cleanup.enter_context(PtyPort(chip))
            self._initiators[position] = NfcInitiator(port.path, tap=tap)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for initiator in self._initiators.values():
            await initiator.aclose()
        self._cleanup.close()

    def chip(self, position: Position) -> VirtualPn532:
        """Return the chip of one reader, to set faults on it."""
        return self._chips[position]

    async def tap(
        self, position: Position, device: Responder, *, tear_after_frames: int | None = None
    ) -> TapOutcome:
        """Hold a device to a reader until the transaction is over, then take it away.

        Args:
            position: The reader.
            device: The phone or card.
            tear_after_frames: Take it away after this many frames, even in mid-transaction.
        """
        outcome, link = await self._present(position, device, tear_after_frames)
        if link is not None:
            await link.aclose()
        self._take_away(position)
        return outcome

    async def lay_on_pad(self, device: Responder) -> TapOutcome:
        """Lay a device on the console pad; it stays there until :meth:`take_off_pad`."""
        outcome, self._on_pad = await self._present(Position.CONSOLE_PAD, device, None)
        return outcome

    async def take_off_pad(self) -> None:
        """Take the device off the console pad."""
        self._take_away(Position.CONSOLE_PAD)
        if self._on_pad is not None:
            if not await self._on_pad.present():
                self.vehicle.pad_cleared()
            await self._on_pad.aclose()
            self._on_pad = None

    async def _present(
        self, position: Position, device: Responder, tear_after_frames: int | None
    ) -> tuple[TapOutcome, NfcLink | None]:
        chip = self._chips[position]
        chip.tear_after_frames = tear_after_frames
        chip.target = DeviceInField(device)
        try:
            link = await self._initiators[position].sense(timeout_s=_SENSE_S)
            if link is None:
                raise LinkError(LinkReason.LOST, "the device left before it was sensed")
        except LinkError as exc:
            text = str(exc)
            code = RefusalCode.CARD_DAMAGED
            return TapOutcome(position=position, code=code, text=text), None
        return await self.vehicle.tap(position, link), link

    def _take_away(self, position: Position) -> None:
        chip = self._chips[position]
        chip.target = None
        chip.tear_after_frames = None
