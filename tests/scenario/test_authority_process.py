"""The authority's process: its first line, its end, and what a kill at any moment leaves."""

from __future__ import annotations

import random
import signal
import stat
import threading

import httpx
import pytest
from authority_process import Process
from authority_world import OWNER, START

from dkey.authority.http import create_app
from dkey.authority.http_access import UnauthenticatedError
from dkey.authority.service import Authority
from dkey.errors import LinkError
from dkey.lifecycle.commands import AUTHORITY, VEHICLE, PowerCycle, Resume, Revoke, Suspend


@pytest.fixture
def state(tmp_path):
    return tmp_path / "authority"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(state, number):
    with Process(state) as process:
        assert process.stop(number) == 0


def test_the_first_line_tells_where_it_answers(state):
    with Process(state) as process:
        assert process.ready["event"] == "ready"
        assert process.ready["url"].startswith("http://127.0.0.1:")
        assert process.client.public_key.point.hex() == process.ready["public_key"]


def test_the_admin_token_and_the_store_are_private(state):
    with Process(state):
        for name in ("admin.token", "authority.key", "authority.db", "vault.json"):
            assert stat.S_IMODE((state / name).stat().st_mode) == 0o600, name
        assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_another_actor_s_token_is_refused(state):
    with Process(state) as process:
        world = process.world()
        vehicle = world.owned()
        item = world.share(vehicle, "bob")
        eve = process.connect()
        eve._tokens = {OWNER: eve.register_account("eve@example.org")}
        with pytest.raises(UnauthenticatedError):
            eve.execute(vehicle, Revoke(actor=OWNER, item=item))
        assert world.state(vehicle, item) == "ACTIVE"


def test_the_token_of_one_vehicle_does_not_speak_for_another(state):
    with Process(state) as process:
        world = process.world()
        one, other = world.car(), world.car()
        vehicle = process.connect()
        vehicle._tokens = {VEHICLE: process.client._tokens[one.hex()]}
        vehicle.execute(one, PowerCycle(actor=VEHICLE))
        with pytest.raises(UnauthenticatedError):
            vehicle.execute(other, PowerCycle(actor=VEHICLE))


def test_without_a_fake_clock_nobody_moves_the_time(state):
    with Authority.open(state, create=True) as authority:
        app = create_app(authority)
        paths = app._app.openapi()["paths"]
    assert "/v1/clock" not in paths


def test_a_restart_keeps_what_was_answered_and_the_time(state):
    with Process(state) as process:
        world = process.world()
        vehicle = world.owned()
        item = world.share(vehicle, "bob")
        world.authority.advance(1000)
        world.do(vehicle, Revoke(actor=OWNER, item=item))
        process.kill()
    with Process(state) as process:
        world.authority = process.client
        assert process.client.health().time_s >= START + 1000
        assert world.state(vehicle, item) == "REVOKED"


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_it_has_every_command_that_it_answered(state, seed):
    chance = random.Random(seed)
    acknowledged = chance.randrange(3, 25)
    with Process(state) as process:
        world = process.world()
        vehicle = world.owned()
        item = world.share(vehicle, "bob")
        suspended = False
        seen = threading.Semaphore(0)

        def killer():
            for _ in range(acknowledged):
                seen.acquire()
            process.process.kill()

        thread = threading.Thread(target=killer)
        thread.start()
        entries = process.client.health().entries
        try:
            while True:
                kind = Resume if suspended else Suspend
                number = process.client.execute(vehicle, kind(actor=OWNER, item=item)).number
                assert number > entries
                entries, suspended = number, not suspended
                seen.release()
        except LinkError:
            pass  # killed, perhaps in the middle of a command that was never answered
        thread.join()
        process.process.wait()
    with Process(state) as process:
        world.authority = process.client
        after = process.client.health().entries
        assert after in {entries, entries + 1}
        flipped = (after - entries) == 1
        expected = "SUSPENDED" if suspended != flipped else "ACTIVE"
        assert world.state(vehicle, item) == expected
        process.client.withdrawal_list(vehicle)


def test_every_failure_has_the_shape_of_a_refusal(state):
    with Process(state) as process, httpx.Client(base_url=process.ready["url"]) as http:
        answers = [
            http.get("/nothing"),
            http.get("/v1/accounts"),
            http.post("/v1/accounts", content=b"{"),
            http.post("/v1/accounts", json={"account": "NOT ONE"}),
            http.post("/v1/accounts", content=b"x" * 20_000),
            http.get(f"/v1/vehicles/{'0' * 32}/keys", params={"actor": AUTHORITY}),
        ]
    assert [answer.status_code for answer in answers] == [404, 405, 422, 422, 413, 401]
    for answer in answers:
        form = answer.json()
        assert {"ok", "code", "why", "try"} <= form.keys()
        assert form["ok"] is False
        assert form["why"]
        assert form["try"]
