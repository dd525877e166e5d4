"""A vehicle and phones on a virtual air: Bluetooth LE end to end, in one process.

The phone is the real agent on plain bleak, the vehicle's radio a real peripheral; both hosts and
their controllers are Bumble's, and only the air between them is ours.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dkey.access.profile import VEHICLE
from dkey.agent.agent import Agent
from dkey.agent.finding import Patience
from dkey.agent.store import AgentStore
from dkey.link.opener import open_central
from firmware_mock.air import Air
from firmware_mock.ble_desk import BleDesk
from firmware_mock.ble_radio import VehicleRadio
from firmware_mock.garage import create_vehicle
from firmware_mock.owner_desk import OwnerDesk

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.crypto.entropy import Entropy
    from dkey.link.message_link import MessageTap
    from firmware_mock.owner_desk import CodeShown

__all__ = ["RadioStage"]

_PATIENCE = Patience(attempts=2, find_s=2, connect_s=5, backoff_s=0.01, answer_s=5)


class RadioStage:
    """A vehicle that nobody owns yet, on the air; an async context manager.

    Args:
        entropy: Random source of everything here.
        clock: Monotonic seconds of the vehicle.
        wall_clock: Seconds since 1970 of the vehicle.
        tap: Receives the phones' messages, for a trace.

    Attributes:
        air: The virtual air.
        vehicle: The vehicle, new and locked.
        owners: Its head unit's owner pairing.
        desk: Its Bluetooth sessions.
        stores: The phones' key stores, by name.
    """

    def __init__(
        self,
        *,
        entropy: Entropy,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        tap: MessageTap | None = None,
    ) -> None:
        self._cleanup = contextlib.AsyncExitStack()
        self._folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="dk")))
        self._entropy = entropy
        self._wall_clock = wall_clock
        self._tap = tap
        self.stores: dict[str, AgentStore] = {}
        self.air = Air()
        self._cleanup.callback(self.air.close)
        self.vehicle = create_vehicle(
            self._folder / "vehicle", entropy=entropy, clock=clock, wall_clock=wall_clock
        )
        self._cleanup.callback(self.vehicle.close)
        self.owners = OwnerDesk(self.vehicle)
        self.vehicle.owner_desk = self.owners
        self.desk = BleDesk(self.vehicle, pairing=self.owners)
        self._cleanup.callback(self.desk.close)
        self._radio = VehicleRadio(
            self.air.device("vehicle"),
            profile=VEHICLE,
            resolving_key=self.owners.resolving_key,
            on_peer=self.desk.serve,
        )

    async def __aenter__(self) -> Self:
        await self._radio.start()
        self._cleanup.push_async_callback(self._radio.aclose)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._cleanup.aclose()

    async def phone(self, name: str) -> Agent:
        """Return a phone's agent with a radio and a key store of its own."""
        store = AgentStore.open(
            self._folder / name, entropy=self._entropy, create=True, clock=self._wall_clock
        )
        self._cleanup.callback(store.close)
        self.stores[name] = store
        device = self.air.device(name)
        await device.power_on()
        central = open_central("sim:", device=device, tap=self._tap)
        agent = Agent(store, central, entropy=self._entropy, patience=_PATIENCE)
        self._cleanup.push_async_callback(agent.aclose)
        return agent

    async def show_code(self) -> CodeShown:
        """Let the head unit show a code, and the adverts say so.

        Raises:
            PolicyRefusal: By the rules of owner pairing.
        """
        shown = await self.owners.open_window()
        await self._radio.offer(pairing=True)
        return shown

    async def hide_code(self) -> None:
        """Let the adverts say that no pairing is open."""
        await self._radio.offer(pairing=False, resolving_key=self.owners.resolving_key)
