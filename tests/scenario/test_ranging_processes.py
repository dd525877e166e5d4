"""A vehicle process that hosts its anchors, and an agent whose phone has UWB, by their links."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dkey.agent.agent import Agent
from dkey.agent.agent_ranging import AgentRanging, keep_near
from dkey.agent.finding import Patience
from dkey.agent.store import AgentStore
from dkey.crypto.entropy import SystemEntropy
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.features import DK2_TOUCH, Capabilities
from dkey.link.opener import open_central, open_uci
from dkey.pairing.owner import parse_code
from firmware_mock.process import Settings, VehicleProcess

SOON_S = 20.0
PHONE = Capabilities(nfc=True, ble=True, uwb=True, os="linux 6")
SOON = Patience(attempts=2, find_s=2, connect_s=5, backoff_s=0.01, answer_s=5)


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="dku") as name:
        yield Path(name)


class Car:
    """A vehicle process in this process."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self.process = VehicleProcess(Settings(state=folder / "car", **how), emit=self._emit)
        self.task = asyncio.create_task(self.process.run(signals=False))

    def _emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self._changed.set()

    async def event(self, name: str, **fields: object) -> dict[str, Any]:
        async with asyncio.timeout(SOON_S):
            while True:
                for event in self.events:
                    if event["event"] == name and fields.items() <= event.items():
                        return event
                self._changed.clear()
                await self._changed.wait()

    async def ask(self, **request: object) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(self.events[0]["api"])
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            writer.write_eof()
            async with asyncio.timeout(SOON_S):
                return json.loads(await reader.readline())
        finally:
            writer.close()
            await writer.wait_closed()

    async def stop(self) -> None:
        self.process.stop()
        async with asyncio.timeout(SOON_S):
            await self.task


async def test_an_agent_with_uwb_is_ranged_by_the_vehicle_it_follows(folder):
    car = Car(folder, uwb="sim:")
    ready = await car.event("ready")
    store = AgentStore.open(folder / "owner", entropy=SystemEntropy(), create=True)
    told: list[str] = []

    def tell(name: str, _values: dict[str, Any]) -> None:
        told.append(name)

    clock = asyncio.get_running_loop().time
    ranging = AgentRanging(SystemEntropy(), clock=clock, on_event=tell)
    agent = Agent(
        store,
        open_central(ready["ble"]),
        entropy=SystemEntropy(),
        patience=SOON,
        ranging=ranging,
    )
    tasks = [asyncio.create_task(ranging.run(await open_uci(ready["uwb"])))]
    try:
        await car.ask(set={"ignition_on": "on"})
        shown = await car.ask(press="pair-owner")
        await agent.pair(parse_code(shown["pairing_code"]), PHONE)
        await car.ask(set={"ignition_on": "off"})
        tasks.append(asyncio.create_task(keep_near(agent.follow, tell)))
        await car.event("zone", text="FAR, trusted")
        assert "ranging" in told
        refused = await car.ask(press="handle")
        assert refused["code"] == RefusalCode.OUT_OF_ZONE
        assert (await agent.unlock()).doors == "unlocked"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await agent.aclose()
        store.close()
        await car.stop()


async def test_a_touch_only_vehicle_takes_no_anchors(folder):
    car = Car(folder, uwb="sim:", features=DK2_TOUCH)
    with pytest.raises(LocalFault, match="touch only"):
        async with asyncio.timeout(SOON_S):
            await car.task


async def test_a_key_to_a_touch_only_vehicle_follows_nothing(folder):
    car = Car(folder, features=DK2_TOUCH)
    ready = await car.event("ready")
    store = AgentStore.open(folder / "owner", entropy=SystemEntropy(), create=True)
    agent = Agent(store, open_central(ready["ble"]), entropy=SystemEntropy(), patience=SOON)
    try:
        await car.ask(set={"ignition_on": "on"})
        shown = await car.ask(press="pair-owner")
        code = parse_code(shown["pairing_code"])
        await agent.pair_nfc(code, PHONE, ready["pad"], timeout_s=SOON_S)
        with pytest.raises(PolicyRefusal) as caught:
            await agent.follow()
        assert caught.value.code is RefusalCode.FEATURE_NOT_SUPPORTED
    finally:
        with suppress(Exception):
            await agent.aclose()
        store.close()
        await car.stop()
