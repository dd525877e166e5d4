"""``dkey agent`` in this process: output, exit codes and advice, with a radio of our making."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from agent_world import CODE, World
from test_cli_main import explained, run

from dkey.agent.api import SCHEMA, serve_api
from dkey.agent.store import AgentStore, KeyState
from dkey.codec.ble import RkeAction
from dkey.errors import LinkError, LinkReason
from dkey.lifecycle.features import DK2_TOUCH
from dkey.testing import SeededEntropy

ACTIONS = [
    (["unlock"], RkeAction.UNLOCK, "unlocked"),
    (["lock"], RkeAction.LOCK, "locked"),
    (["start"], RkeAction.REMOTE_START, "engine started"),
    (["stop"], RkeAction.REMOTE_STOP, "engine stopped"),
    (["horn", "on"], RkeAction.HORN_ON, "the horn sounds"),
    (["horn", "off"], RkeAction.HORN_OFF, "the horn is silent"),
]


class Desk:
    """A store folder, a vehicle on the air, and the command line."""

    def __init__(self, folder, monkeypatch) -> None:
        self.folder = folder
        self.world = World(None)
        self.links: list[str] = []
        monkeypatch.setattr("dkey.link.opener.open_central", self.central)

    def central(self, text, **_how):
        self.links.append(text)
        return self.world.air

    def store(self) -> AgentStore:
        return AgentStore.open(self.folder, entropy=SeededEntropy("desk"), create=True)

    def registered(self, state=KeyState.SYNCED) -> None:
        with self.store() as store:
            self.world.store = store
            self.world.registered()
            if state is not KeyState.REGISTERED:
                store.set_state(self.world.vehicle.paired().group_id, state)

    @property
    def state(self) -> KeyState:
        with self.store() as store:
            return store.vehicles()[0].state if store.vehicles() else KeyState.NONE

    def agent(self, *words):
        return run("agent", *words, "--store", self.folder)

    def events(self, *words):
        ran = self.agent(*words, "--json")
        assert ran.err == ""
        lines = [json.loads(line) for line in ran.out.splitlines()]
        assert all({"t", "event"} <= {*each} for each in lines)
        return ran.code, lines


@pytest.fixture
def desk(tmp_path, monkeypatch):
    return Desk(tmp_path / "keys", monkeypatch)


@pytest.mark.parametrize(("words", "action", "said"), ACTIONS)
def test_each_command_does_what_it_says(desk, words, action, said):
    desk.registered()
    ran = desk.agent(*words)
    assert (ran.code, desk.world.vehicle.asked) == (0, [action])
    assert ran.out.startswith(said)


def test_progress_stands_on_standard_error_and_the_next_step_on_output(desk):
    desk.registered()
    ran = desk.agent("unlock")
    assert "looking for the vehicle" in ran.err
    assert ran.out.splitlines()[-1] == "next: dkey agent lock"


def test_json_is_one_event_a_line_and_ends_with_the_result(desk):
    desk.registered()
    code, lines = desk.events("unlock")
    assert code == 0
    names = [each["event"] for each in lines[:-1]]
    assert names == ["searching", "connected", "authenticated", "verdict"]
    result = lines[-1]
    assert (result["event"], result["schema"], result["ok"]) == ("result", SCHEMA, True)
    assert (result["action"], result["flow"], result["doors"]) == ("UNLOCK", "standard", "unlocked")


def test_the_second_command_is_fast(desk):
    desk.registered()
    desk.agent("lock")
    _, lines = desk.events("unlock")
    assert lines[-1]["flow"] == "fast"


def test_a_refusal_is_exit_1_with_sentence_code_and_advice(desk):
    desk.registered()
    desk.world.vehicle.answers[RkeAction.LOCK] = ("DRIVING", None)
    ran = desk.agent("lock")
    assert ran.code == 1
    assert [line.split(":")[0].strip() for line in explained(ran)] == ["error", "try"]


def test_a_refusal_in_json_carries_its_code(desk):
    desk.registered()
    desk.world.vehicle.answers[RkeAction.LOCK] = ("TOO_SOON", 3.5)
    code, lines = desk.events("lock")
    error = lines[-1]["error"]
    assert (code, lines[-1]["ok"]) == (1, False)
    assert (error["kind"], error["code"], error["remaining_s"]) == ("refused", "TOO_SOON", 3.5)


def test_without_a_store_a_command_says_how_to_begin(desk):
    ran = desk.agent("unlock")
    assert ran.code == 2
    assert "dkey agent pair" in explained(ran)[-1]
    assert not desk.folder.exists()


def test_status_without_a_store_is_none(desk):
    ran = desk.agent("status")
    assert (ran.code, "NONE" in ran.out, "dkey agent pair" in ran.out) == (0, True, True)
    assert not desk.folder.exists()


def test_no_command_passes_before_the_vehicle_confirmed_the_key(desk):
    desk.registered(KeyState.REGISTERED)
    ran = desk.agent("unlock")
    assert (ran.code, desk.world.vehicle.asked) == (1, [])
    assert "dkey agent status" in explained(ran)[-1]


def test_status_finishes_the_setup(desk):
    desk.registered(KeyState.REGISTERED)
    ran = desk.agent("status")
    assert (ran.code, desk.state) == (0, KeyState.SYNCED)
    assert "remote_start" in ran.out


def test_offline_status_touches_no_radio(desk):
    desk.registered()
    ran = desk.agent("status", "--offline")
    assert (ran.code, desk.world.air.searches) == (0, 0)
    assert "SYNCED" in ran.out


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (LinkError(LinkReason.DENIED, "denied", hint="ask"), 3, "no_permission"),
        (LinkError(LinkReason.ABSENT, "there is no Bluetooth adapter"), 3, "no_adapter"),
    ],
)
def test_a_vehicle_that_is_not_reached_is_exit_3_with_the_kind(desk, error, code, kind):
    desk.registered()
    desk.world.air.find_error = error
    for words in (["status"], ["unlock"]):
        exit_code, lines = desk.events(*words)
        assert (exit_code, lines[-1]["error"]["kind"]) == (code, kind)


def test_a_touch_only_vehicle_shows_no_functions_and_refuses_here(desk):
    desk.world.vehicle.features = DK2_TOUCH.features
    desk.registered()
    code, lines = desk.events("status", "--offline")
    assert (code, lines[-1]["functions"]) == (0, [])
    code, lines = desk.events("unlock")
    assert (code, lines[-1]["error"]["code"]) == (1, "FEATURE_NOT_SUPPORTED")
    assert desk.world.air.searches == 0


@pytest.mark.parametrize(
    "words",
    [["--code", "1234 5678"], ["--code", "12345678"], ["--qr", "dkey:pair?v=1&code=12345678"]],
)
def test_pairing_takes_the_digits_or_the_qr(desk, words):
    desk.world.vehicle.pairing = True
    ran = desk.agent("pair", *words)
    assert (ran.code, desk.state) == (0, KeyState.SYNCED)
    assert ran.out.splitlines()[-1] == "next: dkey agent unlock"


def test_a_wrong_code_is_exit_1(desk):
    desk.world.vehicle.pairing = True
    ran = desk.agent("pair", "--code", "99999999")
    assert (ran.code, desk.state) == (1, KeyState.NONE)
    assert "third wrong code" in explained(ran)[-1]


@pytest.mark.parametrize("code", ["1234", "abcdefgh", ""])
def test_a_text_that_is_no_code_is_a_usage_error_and_not_repeated(desk, code):
    ran = desk.agent("pair", "--code", code)
    assert ran.code == 2
    assert desk.world.vehicle.tries == 0


def test_code_and_qr_together_are_a_usage_error(desk):
    assert desk.agent("pair", "--code", "12345678", "--qr", "x").code == 2


def test_the_code_is_never_shown(desk):
    desk.world.vehicle.pairing = True
    ran = desk.agent("pair", "--code", CODE.reveal().decode(), "--json")
    assert CODE.reveal().decode() not in ran.out + ran.err


def test_forget_deletes_the_key(desk):
    desk.registered()
    group = desk.world.vehicle.paired().group_id.hex()
    assert desk.agent("forget", group).code == 0
    assert desk.state is KeyState.NONE


@pytest.mark.parametrize("text", ["", "12", "zz" * 16])
def test_a_vehicle_that_is_no_identifier_is_a_usage_error(desk, text):
    desk.registered()
    assert desk.agent("unlock", "--vehicle", text).code == 2


def test_the_link_is_the_systems_adapter_unless_given(desk):
    desk.registered()
    desk.agent("lock")
    desk.agent("lock", "--link", "ble-sim:127.0.0.1:9")
    assert desk.links == ["ble:", "ble-sim:127.0.0.1:9"]


def test_a_passphrase_file_opens_the_store(desk, tmp_path):
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    desk.world.vehicle.pairing = True
    assert desk.agent("pair", "--code", "12345678", "--passphrase-file", secret).code == 0
    assert desk.agent("status", "--offline", "--passphrase-file", secret).code == 0
    assert desk.agent("status", "--offline").code == 2


def test_a_running_agent_is_used_by_the_other_commands(desk):
    desk.registered()
    ready, stop = threading.Event(), threading.Event()

    def serve() -> None:
        async def serving() -> None:
            with desk.store() as store:
                desk.world.store = store
                agent = desk.world.agent
                async with serve_api(agent, desk.folder / "agent.sock"):
                    ready.set()
                    await asyncio.to_thread(stop.wait)
                await agent.aclose()

        asyncio.run(serving())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(10)
        ran = desk.agent("unlock")
        assert (ran.code, desk.links) == (0, [])
        assert ran.out.startswith("unlocked")
        desk.world.vehicle.answers[RkeAction.LOCK] = ("DRIVING", None)
        assert desk.agent("lock").code == 1
        assert "SYNCED" in desk.agent("status").out
    finally:
        stop.set()
        thread.join(10)


def test_a_socket_that_nobody_serves_is_passed_over(desk):
    desk.registered()

    async def left_behind() -> None:
        server = await asyncio.start_unix_server(lambda _r, _w: None, desk.folder / "agent.sock")
        server.close()
        await server.wait_closed()

    asyncio.run(left_behind())
    assert desk.agent("lock").code == 0
    assert desk.links == ["ble:"]
