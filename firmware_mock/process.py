"""The mock vehicle as a process of its own: readers, radio, head unit, and a control socket.

Other processes meet it as a phone would: they serve a device on the links of its readers, or join
the virtual air that it hosts. It tells what happens as events, one at a time, in order.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dkey.access.profile import VEHICLE
from dkey.control.touch import Position
from dkey.errors import LinkError, LinkReason, LocalFault
from dkey.lifecycle.features import Feature
from dkey.link.message_link import MessageTap
from dkey.link.opener import open_initiator
from firmware_mock.air import Air
from firmware_mock.air_server import serve_unix
from firmware_mock.authority_watch import AuthorityWatch
from firmware_mock.ble_desk import BleDesk
from firmware_mock.ble_radio import VehicleRadio
from firmware_mock.control import ControlServer, set_knobs, state_of
from firmware_mock.garage import create_vehicle, holds_vehicle, open_vehicle
from firmware_mock.head_unit import VERBS, HeadUnit
from firmware_mock.owner_desk import OwnerDesk
from firmware_mock.uwb_buttons import UWB_BUTTONS, press_uwb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from dkey.lifecycle.features import FeatureProfile
    from dkey.link.base import FrameTap
    from dkey.ranging.layout import Layout
    from firmware_mock.authority_watch import AuthorityPort
    from firmware_mock.outcome import TapOutcome
    from firmware_mock.uwb_desk import UwbDesk
    from firmware_mock.vehicle import Vehicle

__all__ = ["BUTTONS", "Settings", "VehicleProcess"]

_NO_RADIO: Final = "none"
_PORTS: Final = range(20_000, 30_000)
"""Below the ports that the system gives to connections: a reader that polls cannot meet itself."""
_TRIES: Final = 64
_UPKEEP_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a vehicle process is started.

    Attributes:
        state: Folder of the vehicle; one that nobody owns is made there if there is none.
        ble: ``none``, or Bumble's name of a controller; None hosts a virtual air.
        handle: Link of the reader at the door handle; None reserves a local port.
        pad: The same for the console pad.
        features: What kind of vehicle it is; None leaves it as it is.
        knobs: Body signals to begin with, by their names for people.
        btsnoop: Existing folder for a capture of each participant of the virtual air.
        authority: Keeps the vehicle in step with its authority; None for none.
        uwb: Link of the anchors' UWB subsystem, ``sim:`` for a virtual one; None for no anchors.
        layout: Where the anchors are; None takes a shipped layout.
        passive: Whether coming to a door unlocks it, and no hand is needed.
    """

    state: Path
    ble: str | None = None
    handle: str | None = None
    pad: str | None = None
    features: FeatureProfile | None = None
    knobs: Mapping[str, str] = field(default_factory=dict)
    btsnoop: Path | None = None
    authority: AuthorityPort | None = None
    uwb: str | None = None
    layout: Layout | None = None
    passive: bool = False


class VehicleProcess:
    """One running vehicle.

    Args:
        settings: How it is started.
        emit: Gets every event, a JSON object with ``t`` and ``event``.
        tap: Receives what passes on the readers, and BLE messages if it takes them.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        emit: Callable[[dict[str, object]], None],
        tap: FrameTap | None = None,
    ) -> None:
        self._settings = settings
        self._emit = emit
        self._tap = tap
        self._stopped = asyncio.Event()
        self._stack = AsyncExitStack()
        self._vehicle: Vehicle | None = None
        self._owner: OwnerDesk | None = None
        self._watch: AuthorityWatch | None = None
        self._radio: VehicleRadio | None = None
        self._uwb: UwbDesk | None = None
        self._shown: dict[str, object] = {}
        self._said: tuple[bool, bytes] | None = None
        self._due = asyncio.Event()

    @property
    def vehicle(self) -> Vehicle:
        """The vehicle, while it runs."""
        if self._vehicle is None:
            raise LocalFault("the vehicle does not run")
        return self._vehicle

    @property
    def _head_unit(self) -> HeadUnit:
        return HeadUnit(self.vehicle, self._owners)

    @property
    def _owners(self) -> OwnerDesk:
        if self._owner is None:
            raise LocalFault("the vehicle does not run")
        return self._owner

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopped.set()

    async def run(self, *, signals: bool = True) -> None:
        """Run until :meth:`stop`, or SIGINT or SIGTERM.

        Args:
            signals: Whether to take those signals; only in the main thread.

        Raises:
            DkeyError: It cannot be started, or a reader or the controller is lost.
        """
        loop = asyncio.get_running_loop()
        handled = (signal.SIGINT, signal.SIGTERM) if signals else ()
        for number in handled:
            loop.add_signal_handler(number, self.stop)
        try:
            async with self._stack:
                readers = await self._start()
                await self._until_stopped(readers)
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def event(self, event: str, /, **fields: object) -> None:
        """Tell of something that happened."""
        self._emit({"t": self.vehicle.wall_clock(), "event": event, **fields})
        # A phone that was paired comes back at once: the address has to be renewed before.
        self._due.set()

    # --- start and stop -----------------------------------------------------------------------

    async def _start(self) -> dict[Position, str]:
        settings = self._settings
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        control = ControlServer(settings.state / "control.sock", self._obey)
        await control.start()  # first: it is what keeps a second process out of this folder
        self._stack.push_async_callback(control.aclose)
        make = open_vehicle if holds_vehicle(settings.state) else create_vehicle
        vehicle = make(settings.state)
        self._stack.callback(vehicle.close)
        if settings.features is not None:
            vehicle.features = settings.features
        set_knobs(vehicle.body, settings.knobs)
        self._vehicle = vehicle
        self._owner = owner = OwnerDesk(vehicle, profile=vehicle.features, report=self.event)
        vehicle.owner_desk = owner
        vehicle.share_desk.report = self.event
        tap = self._tap if isinstance(self._tap, MessageTap) else None
        if settings.authority is not None:
            self._watch = AuthorityWatch(vehicle, settings.authority, report=self.event)
        desk = BleDesk(vehicle, report=self.event, pairing=owner, tap=tap)
        self._stack.callback(desk.close)
        uwb = await self._start_uwb(desk)
        ble = await self._start_radio(owner, desk)
        links = {
            Position.DOOR_HANDLE: settings.handle or _local_link(),
            Position.CONSOLE_PAD: settings.pad or _local_link(),
        }
        self.event(
            "ready",
            ble=ble,
            handle=links[Position.DOOR_HANDLE],
            pad=links[Position.CONSOLE_PAD],
            uwb=uwb,
            api=str(settings.state / "control.sock"),
            group_id=vehicle.group_id.hex(),
            features=vehicle.features.name,
        )
        vehicle.on_change.append(lambda _position, _by: self._state())
        self._state()
        return links

    async def _start_uwb(self, desk: BleDesk) -> str | None:
        settings = self._settings
        if settings.uwb is None:
            return None
        from firmware_mock.uwb_side import start_uwb  # noqa: PLC0415 - only anchors need numpy

        self._uwb, shown = await start_uwb(
            desk, settings.uwb, self._stack, layout=settings.layout, passive=settings.passive
        )
        return shown

    async def _start_radio(self, owner: OwnerDesk, desk: BleDesk) -> str | None:
        where = self._settings.ble
        if where == _NO_RADIO:
            return None
        shown = where
        host: Any = where
        if where is None:
            air = Air(btsnoop_dir=self._settings.btsnoop)
            self._stack.callback(air.close)
            server = await serve_unix(air, (self._settings.state / "air.sock").resolve())
            self._stack.push_async_callback(server.aclose)
            host = air.device("vehicle")
            shown = f"ble-sim:{server.where}"
        self._radio = VehicleRadio(
            host,
            profile=VEHICLE,
            resolving_key=owner.resolving_key,
            on_peer=desk.serve,
            ranging=desk.ranging,
            remote=Feature.REMOTE in desk.vehicle.features.features,
        )
        await self._radio.start()
        self._said = False, owner.resolving_key.reveal()
        self._stack.push_async_callback(self._radio.aclose)
        return shown

    async def _until_stopped(self, links: dict[Position, str]) -> None:
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._stopped.wait()),
            asyncio.create_task(self._keep_up()),
        ]
        if self._watch is not None:
            tasks.append(asyncio.create_task(self._watch.run()))
        initiators = []
        try:
            for position, text in links.items():
                initiator = open_initiator(text, tap=self._tap)
                initiators.append(initiator)
                serving = self.vehicle.serve(position, initiator, self._tapped)
                tasks.append(asyncio.create_task(serving))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for initiator in initiators:
                await initiator.aclose()

    async def _advertise(self) -> None:
        """Let the radio say what is true now: a pairing window, a new resolving key."""
        key = self._owners.resolving_key
        said = self._owners.shown is not None, key.reveal()
        if self._radio is not None and said != self._said:
            self._said = said
            await self._radio.offer(pairing=said[0], resolving_key=key)

    async def _keep_up(self) -> None:
        """Let time close windows and codes, which nobody else may notice for long."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_UPKEEP_S):
                    await self._due.wait()
            self._due.clear()
            self.vehicle.card_desk.tick()
            await self._advertise()

    # --- events -------------------------------------------------------------------------------

    def _tapped(self, outcome: TapOutcome) -> None:
        if self._watch is not None and outcome.flow == "standard":
            self._watch.soon()
        self.event(
            "tap",
            position=outcome.position.value,
            credential=outcome.name,
            flow=outcome.flow,
            action=outcome.action,
            code=outcome.code,
            text=outcome.text,
        )

    def _state(self) -> None:
        """Tell the state of the body when it is another than was told last."""
        state = state_of(self.vehicle.body)
        if state != self._shown:
            self._shown = state
            self.event("state", **state)

    # --- the control socket -------------------------------------------------------------------

    async def _obey(self, request: Mapping[str, Any]) -> dict[str, object]:
        match request:
            case {"set": dict(values)}:
                set_knobs(self.vehicle.body, values)
                self.vehicle.changed()
                return {"state": state_of(self.vehicle.body)}
            case {"press": str(name)} if name in BUTTONS:
                said = await BUTTONS[name](self)
                self.vehicle.changed()
                return said | {"state": state_of(self.vehicle.body)}
            case {"press": str(name)} if name in UWB_BUTTONS:
                return press_uwb(self._uwb, name) | {"state": state_of(self.vehicle.body)}
            case {"press": name}:
                raise LocalFault(
                    f"there is no button {name!r}",
                    hint=f"choose among {', '.join([*BUTTONS, *UWB_BUTTONS])}",
                )
            case {"show": _}:
                return {"state": state_of(self.vehicle.body)}
            case {"keys": True}:
                return self._head_unit.keys()
            case {"keys": dict(asked)} if len(asked) == 1 and asked.keys() <= VERBS.keys():
                ((verb, key),) = asked.items()
                self._head_unit.withdraw(verb, str(key))
                self.vehicle.changed()
                return self._head_unit.keys()
            case {"keys": _}:
                raise LocalFault(
                    "that is nothing to do with keys", hint=f"choose among {', '.join(VERBS)}"
                )
            case _:
                raise LocalFault("a request has set, press, show or keys")

    async def press_start(self) -> dict[str, object]:
        """START, with the foot on the brake."""
        inside = None if self._uwb is None else self._uwb.press_start()
        if inside is not None and inside.granted:
            return {"code": None, "text": inside.text}
        verdict = self.vehicle.press_start()
        if verdict.code is not None:
            self.event("refused", credential=None, code=verdict.code, text=verdict.text)
        return {"code": verdict.code, "text": verdict.text}

    async def press_stop(self) -> dict[str, object]:
        """STOP: the engine and the ignition are off."""
        self.vehicle.body.stop()
        return {}

    async def press_pair_card(self) -> dict[str, object]:
        """Pair a card, at the head unit."""
        self.vehicle.open_card_window()
        self.event("card_window", text="lay the owner's phone on the pad, then the card")
        return {}

    async def press_cancel(self) -> dict[str, object]:
        """Give up whatever is being paired, at the head unit."""
        self.vehicle.cancel_card_window()
        self._owners.cancel()
        await self._advertise()
        return {}

    async def press_pair_owner(self) -> dict[str, object]:
        """Pair the owner's phone, at the head unit: it shows a code."""
        shown = await self._owners.open_window()
        await self._advertise()
        return {"pairing_code": shown.code, "qr": shown.qr}

    async def press_factory_reset(self) -> dict[str, object]:
        """Factory reset, at the head unit: all keys, cards and codes are gone."""
        return await self._cleared(self._owners.factory_reset())

    async def press_transfer(self) -> dict[str, object]:
        """Transfer, at the head unit, with the owner's key on the pad: all is erased."""
        epoch = self._head_unit.transfer()
        return await self._cleared(epoch)

    async def press_unpair(self) -> dict[str, object]:
        """End the owner's key and all others, with the owner's key on the pad."""
        epoch = self._head_unit.unpair()
        return await self._cleared(epoch)

    async def press_change_owner(self) -> dict[str, object]:
        """The owner changes account or phone, with the old key on the pad: the cards stay."""
        epoch = self._head_unit.unpair(same_person=True)
        await self._advertise()
        return {"owner_epoch": epoch}

    async def _cleared(self, epoch: int) -> dict[str, object]:
        """Tell the authority, and say whether its side still holds something (S61)."""
        await self._advertise()
        if self._watch is not None:
            await self._watch.once()
        waits = self.vehicle.keys.book.admissions.authority_x is not None
        half = waits and (self._watch is None or self._watch.half_removed is not False)
        text = ""
        if half:
            text = "half removed: the account side still has to be cleared"
            self.event("half_removed", text=text)
        return {"owner_epoch": epoch, "half_removed": half, "text": text}

    async def press_fob_lock(self) -> dict[str, object]:
        """LOCK on the smart key."""
        self.vehicle.body.fob_lock(now_s=self.vehicle.clock())
        return {}

    async def press_fob_unlock(self) -> dict[str, object]:
        """UNLOCK on the smart key."""
        self.vehicle.body.fob_unlock()
        return {}


BUTTONS: Final[dict[str, Callable[[VehicleProcess], Awaitable[dict[str, object]]]]] = {
    "start": VehicleProcess.press_start,
    "stop": VehicleProcess.press_stop,
    "pair-owner": VehicleProcess.press_pair_owner,
    "pair-card": VehicleProcess.press_pair_card,
    "factory-reset": VehicleProcess.press_factory_reset,
    "transfer": VehicleProcess.press_transfer,
    "unpair": VehicleProcess.press_unpair,
    "change-owner": VehicleProcess.press_change_owner,
    "cancel": VehicleProcess.press_cancel,
    "fob-lock": VehicleProcess.press_fob_lock,
    "fob-unlock": VehicleProcess.press_fob_unlock,
}
"""Buttons that can be pressed from outside."""


def _local_link() -> str:
    """Return a link to a port that is free now, for a phone's program to listen at."""
    for _ in range(_TRIES):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return f"apdu-tcp:127.0.0.1:{port}"
    raise LinkError(
        LinkReason.BUSY, "no free port for a reader", hint="give --handle and --pad links"
    )
