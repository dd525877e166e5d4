"""The whole way: the agent on bleak, a simulated air, and the vehicle with its head unit."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dkey.agent.advice import Trouble, Unreachable, trouble_of
from dkey.agent.agent import Agent
from dkey.agent.api import call, serve_api
from dkey.agent.finding import Patience
from dkey.agent.store import AgentStore, KeyState
from dkey.codec.ble import RkeAction
from dkey.crypto.entropy import SystemEntropy
from dkey.errors import AuthenticationError, PolicyRefusal, RefusalCode
from dkey.lifecycle.features import DK2_TOUCH, Capabilities, Feature
from dkey.link.opener import open_central
from dkey.pairing.owner import parse_code
from firmware_mock.process import Settings, VehicleProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOON_S = 20.0
PHONE = Capabilities(nfc=True, ble=True, uwb=False, os="linux 6")
SOON = Patience(attempts=2, find_s=2, connect_s=5, backoff_s=0.01, answer_s=5)


@pytest.fixture
def folder():
    """A folder whose path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="dka") as name:
        yield Path(name)


class Scene:
    """A vehicle process in this process, and what a user does."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.folder = folder
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self.process = VehicleProcess(Settings(state=folder / "car", **how), emit=self._emit)

    def _emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self._changed.set()

    async def event(self, name: str, *, after: int = 0, **fields: object) -> dict[str, Any]:
        async with asyncio.timeout(SOON_S):
            while True:
                for event in self.events[after:]:
                    if event["event"] == name and fields.items() <= event.items():
                        return event
                self._changed.clear()
                await self._changed.wait()

    async def ask(self, **request: object) -> None:
        reader, writer = await asyncio.open_unix_connection(self.events[0]["api"])
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            writer.write_eof()
            async with asyncio.timeout(SOON_S):
                await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def code(self) -> str:
        """Open pairing at the head unit and read the code off it."""
        await self.ask(set={"ignition_on": "on"})
        mark = len(self.events)
        await self.ask(press="pair-owner")
        shown = await self.event("pairing_code", after=mark)
        return str(shown["code"])

    @asynccontextmanager
    async def phone(self, name: str = "owner") -> AsyncIterator[Agent]:
        """An agent with its own radio and store, as one process would have."""
        store = AgentStore.open(self.folder / name, entropy=SystemEntropy(), create=True)
        central = open_central(self.events[0]["ble"])
        agent = Agent(store, central, entropy=SystemEntropy(), patience=SOON)
        try:
            yield agent
        finally:
            await agent.aclose()
            store.close()

    async def paired(self, agent: Agent) -> None:
        """Pair, and park with the engine off."""
        await agent.pair(parse_code(await self.code()), PHONE)
        await self.ask(set={"ignition_on": "off"})

    @property
    def body(self) -> Any:
        return self.process.vehicle.body


@asynccontextmanager
async def scene(folder: Path, **how: Any) -> AsyncIterator[Scene]:
    made = Scene(folder, **how)
    task = asyncio.create_task(made.process.run(signals=False))
    ready = asyncio.create_task(made.event("ready"))
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    try:
        if task.done():
            task.result()
        yield made
    finally:
        made.process.stop()
        async with asyncio.timeout(SOON_S):
            await task


async def test_an_owner_pairs_and_unlocks(folder):
    async with scene(folder) as car, car.phone() as agent:
        await car.paired(agent)
        assert agent.state is KeyState.SYNCED
        outcome = await agent.unlock()
        assert outcome.doors == "unlocked"
        assert car.body.locked is False


async def test_a_phone_that_starts_again_resumes_with_a_fast_transaction(folder):
    async with scene(folder) as car:
        async with car.phone() as agent:
            await car.paired(agent)
        async with car.phone() as agent:
            assert (await agent.unlock()).fast
        assert car.body.locked is False


async def test_remote_start_is_standard_and_runs_the_engine(folder):
    async with scene(folder) as car:
        async with car.phone() as agent:
            await car.paired(agent)
        async with car.phone() as agent:
            outcome = await agent.start()
        assert not outcome.fast
        assert car.body.ignition_on


async def test_the_vehicles_refusal_reaches_the_user_with_its_time(folder):
    async with scene(folder) as car, car.phone() as agent:
        await car.paired(agent)
        await agent.unlock()
        with pytest.raises(PolicyRefusal) as caught:
            await agent.lock()
        assert caught.value.code is RefusalCode.TOO_SOON
        assert 0 < (caught.value.remaining_s or 0) <= 30
        assert car.body.locked is False


async def test_an_agent_outlives_its_vehicles_restart_and_resumes(folder):
    async with AsyncExitStack() as outer:
        async with scene(folder) as car:
            agent = await outer.enter_async_context(car.phone())
            await car.paired(agent)
            assert (await agent.status()).reached
        assert not (await agent.status()).reached
        async with scene(folder) as car:
            await car.ask(set={"ignition_on": "off"})
            outcome = await agent.unlock()
            assert (outcome.fast, car.body.locked) == (True, False)


async def test_the_third_wrong_code_locks_it_out_even_for_the_right_one(folder):
    async with scene(folder) as car, car.phone() as agent:
        right = await car.code()
        wrong = parse_code("00000000" if right != "0000 0000" else "11111111")
        for _ in range(3):
            with pytest.raises(AuthenticationError):
                await agent.pair(wrong, PHONE)
        with pytest.raises((PolicyRefusal, Unreachable)) as caught:
            await agent.pair(parse_code(right), PHONE)
        if isinstance(caught.value, PolicyRefusal):
            assert caught.value.code is RefusalCode.CODE_LOCKED_OUT
        assert agent.state is KeyState.NONE


async def test_without_an_open_window_no_vehicle_is_found_to_pair(folder):
    async with scene(folder) as car, car.phone() as agent:
        with pytest.raises(Unreachable) as caught:
            await agent.pair(parse_code("12345678"), PHONE)
        assert caught.value.trouble is Trouble.NOT_IN_RANGE


async def test_after_a_factory_reset_nothing_on_the_air_tells_the_old_owner_of_the_vehicle(folder):
    async with scene(folder) as car, car.phone() as agent:
        await car.paired(agent)
        await agent.aclose()
        await car.ask(press="factory-reset")
        async with car.phone() as again:
            with pytest.raises(Unreachable) as caught:
                await again.unlock()
        assert caught.value.trouble is Trouble.NOT_IN_RANGE
        assert "pair again" in (caught.value.hint or "")
        assert car.body.locked


async def test_a_vehicle_that_was_left_is_out_of_range(folder):
    async with scene(folder) as car:
        async with car.phone() as agent:
            await car.paired(agent)
        link = car.events[0]["ble"]
    store = AgentStore.open(folder / "owner", entropy=SystemEntropy())
    agent = Agent(store, open_central(link), entropy=SystemEntropy(), patience=SOON)
    status = await agent.status()
    assert (status.state, status.reached) == (KeyState.SYNCED, False)
    assert status.error is not None
    assert trouble_of(status.error) is Trouble.NO_ADAPTER  # its air went with it
    await agent.aclose()
    store.close()


async def test_a_program_drives_the_agent_through_the_local_api(folder):
    async with scene(folder) as car, car.phone() as agent:
        await car.paired(agent)
        api = folder / "agent.sock"
        async with serve_api(agent, api):
            answer = await call(api, "unlock", timeout_s=SOON_S)
            refused = await call(api, "horn", timeout_s=SOON_S, on=True)
        assert (answer["ok"], answer["action"]) == (True, RkeAction.UNLOCK.name)
        assert refused["error"]["code"] == "TOO_SOON"


async def test_a_touch_only_vehicle_pairs_on_the_pad_and_offers_no_remote_control(folder):
    async with scene(folder, features=DK2_TOUCH) as car, car.phone() as agent:
        code = parse_code(await car.code())
        pad, handle = car.events[0]["pad"], car.events[0]["handle"]
        status = await agent.pair_nfc(code, PHONE, pad, timeout_s=SOON_S)
        assert Feature.REMOTE not in status.known.vehicle.features
        assert (status.state, agent.actions) == (KeyState.REGISTERED, ())
        await car.ask(set={"ignition_on": "off"})
        touched = await agent.touch(handle, timeout_s=SOON_S)
        assert (touched.state, agent.actions) == (KeyState.SYNCED, ())
        await car.event("state", locked=False)
        with pytest.raises(PolicyRefusal) as caught:
            await agent.unlock()
        assert caught.value.code is RefusalCode.FEATURE_NOT_SUPPORTED
