"""The local API: its socket, its form, several clients, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import stat

import pytest
from agent_world import PHONE, World

from dkey.agent.api import LINE_MAX, SCHEMA, call, serve_api
from dkey.agent.store import AgentStore, KeyState
from dkey.codec.ble import RkeAction
from dkey.errors import LinkError, LinkReason, LocalFault
from dkey.testing import FakeClock, SeededEntropy

VERBS = ["hello", "status", "unlock", "lock", "start", "stop", "horn", "pair"]


@pytest.fixture
def world(tmp_path):
    entropy = SeededEntropy("store")
    folder = tmp_path / "keys"
    with AgentStore.open(folder, entropy=entropy, create=True, clock=FakeClock(1e9)) as store:
        yield World(store)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.sock"


@pytest.fixture
async def served(world, path):
    """A served agent with a usable key; gives its socket."""
    agent = world.synced().agent
    async with serve_api(agent, path):
        yield path
    await agent.aclose()


class Client:
    def __init__(self, path):
        self.path = path

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_unix_connection(self.path)
        return self

    async def __aexit__(self, *_):
        self.writer.close()
        await self.writer.wait_closed()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def heard(self):
        async with asyncio.timeout(10):
            return json.loads(await self.reader.readline())

    async def ask(self, **request):
        await self.say(json.dumps(request).encode() + b"\n")
        return await self.heard()

    async def ended(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


async def test_only_its_user_may_use_the_socket(served):
    assert stat.S_IMODE(served.stat().st_mode) == 0o600


async def test_hello_tells_schema_and_verbs(served):
    async with Client(served) as client:
        answer = await client.ask(id=1, do="hello")
    assert answer == {"id": 1, "ok": True, "schema": SCHEMA, "verbs": VERBS}


@pytest.mark.parametrize(
    ("request_", "action"),
    [
        ({"do": "unlock"}, RkeAction.UNLOCK),
        ({"do": "lock"}, RkeAction.LOCK),
        ({"do": "start"}, RkeAction.REMOTE_START),
        ({"do": "stop"}, RkeAction.REMOTE_STOP),
        ({"do": "horn", "on": True}, RkeAction.HORN_ON),
        ({"do": "horn", "on": False}, RkeAction.HORN_OFF),
    ],
)
async def test_each_verb_of_remote_control_is_carried_out(served, world, request_, action):
    async with Client(served) as client:
        answer = await client.ask(id="a", **request_)
    assert (answer["id"], answer["ok"], answer["action"]) == ("a", True, action.name)
    assert {*answer} == {"id", "ok", "action", "flow", "doors", "seconds"}
    assert world.vehicle.asked == [action]


async def test_status_lists_what_the_key_can_do(served):
    async with Client(served) as client:
        answer = await client.ask(id=1, do="status", connect=False)
    assert answer["state"] == "SYNCED"
    assert answer["functions"] == [each.name for each in RkeAction]
    assert (answer["reached"], answer["error"]) == (None, None)


async def test_a_refusal_carries_code_text_and_advice(served, world):
    world.vehicle.answers[RkeAction.LOCK] = ("TOO_SOON", 12.5)
    async with Client(served) as client:
        answer = await client.ask(id=1, do="lock")
    error = answer["error"]
    assert (answer["ok"], error["kind"], error["code"]) == (False, "refused", "TOO_SOON")
    assert error["remaining_s"] == 12.5
    assert error["text"]
    assert error["try"]


async def test_a_vehicle_out_of_range_is_told_apart(served, world):
    world.air.find_error = LinkError(LinkReason.DENIED, "no rights", hint="ask")
    async with Client(served) as client:
        answer = await client.ask(id=1, do="lock")
    assert answer["error"]["kind"] == "no_permission"


async def test_a_phone_pairs_through_the_api(world, path):
    world.vehicle.pairing = True
    agent = world.agent
    async with serve_api(agent, path), Client(path) as client:
        answer = await client.ask(id=1, do="pair", code="1234 5678")
    assert (answer["ok"], answer["state"]) == (True, "SYNCED")
    assert world.state is KeyState.SYNCED
    assert PHONE.nfc
    await agent.aclose()


async def test_a_code_that_is_none_never_reaches_the_vehicle(served, world):
    async with Client(served) as client:
        answer = await client.ask(id=1, do="pair", code="12")
    assert (answer["ok"], answer["error"]["kind"]) == (False, "store")
    assert world.vehicle.tries == 0


async def test_requests_of_one_client_are_answered_in_order(served, world):
    async with Client(served) as client:
        lines = [json.dumps({"id": n, "do": "lock" if n % 2 else "unlock"}) for n in range(6)]
        await client.say("\n".join([*lines, ""]).encode())
        answers = [await client.heard() for _ in lines]
    assert [each["id"] for each in answers] == [*range(6)]
    assert [each.name for each in world.vehicle.asked] == ["UNLOCK", "LOCK"] * 3


async def test_several_clients_are_served(served, world):
    async with Client(served) as one, Client(served) as two:
        answers = await asyncio.gather(one.ask(id=1, do="lock"), two.ask(id=2, do="unlock"))
    assert [each["ok"] for each in answers] == [True, True]
    assert len(world.vehicle.links) == 1


@pytest.mark.parametrize(
    "request_",
    [
        {"id": 1, "do": "open_sesame"},
        {"id": 1},
        {"id": 1, "do": 7},
        {"id": 1, "do": "horn"},
        {"id": 1, "do": "horn", "on": "yes"},
        {"id": 1, "do": "horn", "on": 1},
        {"id": 1, "do": "lock", "force": True},
        {"id": 1, "do": "pair"},
        {"id": None, "do": "lock"},
        {"id": [1], "do": "lock"},
        {"do": "lock"},
    ],
)
async def test_a_malformed_request_is_refused_and_the_next_one_served(served, world, request_):
    async with Client(served) as client:
        answer = await client.ask(**request_)
        assert (answer["ok"], answer["error"]["kind"]) == (False, "request")
        assert world.vehicle.asked == []
        assert (await client.ask(id=2, do="lock"))["ok"]


@pytest.mark.parametrize(
    "line", [b"unlock\n", b"\xff\xfe\n", b"[" * 3000 + b"\n", b"x" * (LINE_MAX + 10) + b"\n"]
)
async def test_a_line_that_is_no_json_or_too_long_ends_the_connection_alone(served, line):
    async with Client(served) as good, Client(served) as bad:
        await bad.say(line)
        answer = await bad.heard()
        assert (answer["id"], answer["error"]["kind"]) == (None, "request")
        assert await bad.ended()
        assert (await good.ask(id=1, do="lock"))["ok"]


async def test_json_that_is_no_object_is_refused(served):
    async with Client(served) as client:
        await client.say(b"[1, 2]\n")
        assert (await client.heard())["error"]["kind"] == "request"


async def test_one_client_too_many_is_turned_away(world, path):
    agent = world.agent
    async with serve_api(agent, path, clients_max=1), Client(path) as first:
        assert (await first.ask(id=1, do="hello"))["ok"]
        async with Client(path) as second:
            assert (await second.heard())["error"]["kind"] == "busy"
            assert await second.ended()
        assert (await first.ask(id=2, do="hello"))["ok"]
    await agent.aclose()


async def test_a_client_that_leaves_in_the_middle_harms_nobody(served):
    async with Client(served) as client:
        await client.say(b'{"id": 1, "do": "lo')
    async with Client(served) as client:
        assert (await client.ask(id=1, do="lock"))["ok"]


async def test_a_second_agent_is_refused_at_the_same_socket(served, world):
    with pytest.raises(LocalFault, match="another agent"):
        async with serve_api(world.agent, served):
            pass
    async with Client(served) as client:
        assert (await client.ask(id=1, do="hello"))["ok"]


async def test_a_socket_left_by_a_crash_is_replaced(world, path):
    server = await asyncio.start_unix_server(lambda _r, _w: None, path)
    server.close()
    await server.wait_closed()
    assert path.exists()
    async with serve_api(world.agent, path), Client(path) as client:
        assert (await client.ask(id=1, do="hello"))["ok"]
    assert not path.exists()


async def test_a_file_in_the_way_is_left_alone(world, path):
    path.write_text("precious")
    with pytest.raises(LocalFault, match="no socket"):
        async with serve_api(world.agent, path):
            pass
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_a_socket_is_said(world, tmp_path):
    with pytest.raises(LocalFault, match="too long"):
        async with serve_api(world.agent, tmp_path / ("x" * 120)):
            pass


async def test_the_client_function_asks_and_returns(served):
    answer = await call(served, "horn", timeout_s=10, on=True)
    assert (answer["ok"], answer["action"]) == (True, "HORN_ON")


async def test_the_client_function_says_that_no_agent_runs(path):
    with pytest.raises(LinkError) as caught:
        await call(path, "lock", timeout_s=10)
    assert caught.value.reason is LinkReason.ABSENT
