"""The command line as people run it: real processes that talk over loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 30
# A shell starts what runs in the background deaf to SIGINT; an interactive user's is not.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from dkey.cli import main
main()
"""
DKEY = [sys.executable, "-W", "error", "-c", MAIN]
KEYS = {"exchange_reader", "exchange_device", "step_up", "ble", "ursk", "kpersistent"}


def start(*words: object, **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DKEY, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in out + err
    assert "Warning" not in err
    return process.returncode, out, err


def dkey(*words: object) -> tuple[int, str, str]:
    return ended(start(*words))


@contextmanager
def serving(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a device; give its process and its port once it said ``listening PORT``."""
    process = start(*words)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        word, _, port = line.rstrip("\n").partition(" ")
        assert word == "listening", line
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)


class Files:
    """A reader file and a credential file that know each other."""

    def __init__(self, folder: Path) -> None:
        entropy = SeededEntropy("processes")
        reader, device = entropy.ephemeral(), entropy.ephemeral()
        group_id = entropy.random(16).hex()
        self.reader, self.credential = folder / "reader.json", folder / "credential.json"
        self.reader.write_text(
            json.dumps(
                {
                    "profile": "aliro",
                    "group_id": group_id,
                    "sub_id": entropy.random(16).hex(),
                    "private_key": reader.scalar().reveal().hex(),
                    "credentials": [{"name": "owner", "public_key": device.public.point.hex()}],
                }
            )
        )
        self.credential.write_text(
            json.dumps(
                {
                    "profile": "aliro",
                    "private_key": device.scalar().reveal().hex(),
                    "readers": [{"group_id": group_id, "public_key": reader.public.point.hex()}],
                    "kpersistent": [],
                }
            )
        )

    def kpersistent(self) -> tuple[str | None, str | None]:
        reader = json.loads(self.reader.read_text())["credentials"][0].get("kpersistent")
        device = json.loads(self.credential.read_text())["kpersistent"]
        return reader, device[0]["key"] if device else None


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


def tap(files: Files, link: str, *words: object) -> dict[str, Any]:
    code, out, err = dkey("tap", link, "--reader", files.reader, "--json", *words)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_device_and_taps_in_every_flow(files):
    serve = ("device", "serve", "apdu-tcp:127.0.0.1:0", "--credential", files.credential)
    with serving(*serve) as (_, port):
        link = f"apdu-tcp:127.0.0.1:{port}"
        first = tap(files, link, "--flow", "standard")
        stored = files.kpersistent()
        second = tap(files, link, "--flow", "fast", "--show-secrets")
        third = tap(files, link, "--flow", "auto")
    assert [each["flow"] for each in (first, second, third)] == ["standard", "fast", "fast"]
    assert stored[0] == stored[1] == second["keys"]["kpersistent"]
    assert {*second["keys"]} == KEYS
    assert files.kpersistent() == stored


def test_once_ends_with_0_after_one_tap(files):
    serve = ("device", "serve", "apdu-tcp:127.0.0.1:0", "--credential", files.credential)
    with serving(*serve, "--once") as (process, port):
        tap(files, f"apdu-tcp:127.0.0.1:{port}")
        assert ended(process)[:2] == (0, "")


@pytest.mark.parametrize("link", ["apdu-tcp:127.0.0.1:0", "nfc:udp:0"])
def test_an_interrupt_ends_a_device_with_130_and_one_word(files, link):
    with serving("device", "serve", link, "--credential", files.credential) as (process, _):
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert (code, out, err.split()) == (130, "", ["stopped"])


def test_a_device_and_a_tap_over_the_simulated_field(files, tmp_path):
    trace = tmp_path / "air.pcapng"
    serve = ("device", "serve", "nfc:udp:0", "--credential", files.credential, "--once")
    with serving(*serve) as (process, port):
        document = tap(files, f"nfc:udp:{port}", "--trace", trace)
        assert ended(process)[:2] == (0, "")
    assert (document["result"], document["flow"]) == ("ok", "standard")
    assert '"layer": "frame"' in trace.with_suffix(".jsonl").read_text()


def test_an_interrupt_ends_a_waiting_tap_with_130(files):
    # Nobody listens on port 1 of loopback; the tap waits for a device.
    process = start("tap", "apdu-tcp:127.0.0.1:1", "--reader", files.reader, "--timeout", 600)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("waiting for a device")
    process.send_signal(signal.SIGINT)
    code, out, _ = ended(process)
    assert (code, out) == (130, "")


def test_a_vehicle_a_phone_and_two_cards(tmp_path):
    car, owner, old, new = (tmp_path / name for name in ("car", "owner.json", "a.json", "b.json"))
    assert dkey("vehicle", "init", car, "--owner", owner)[0] == 0
    any_port = "apdu-tcp:127.0.0.1:0"
    with (
        serving("device", "serve", any_port, "--credential", owner) as (_, phone_port),
        serving("card", "serve", any_port, "--card", old) as (_, old_port),
        serving("card", "serve", any_port, "--card", new) as (_, new_port),
    ):
        ports = (phone_port, old_port, new_port)
        phone, first, second = (f"apdu-tcp:127.0.0.1:{port}" for port in ports)

        def outcome(*words: object) -> dict[str, Any]:
            code, out, _ = dkey(*words, "--json")
            document = json.loads(out)
            assert code == (1 if document["code"] else 0)
            return document

        assert outcome("vehicle", "tap", car, "handle", phone)["action"] == "UNLOCK"
        paired = outcome("card", "pair", car, "--owner", phone, "--card", first)
        assert paired["action"] == "ENROL_CARD"
        assert outcome("vehicle", "tap", car, "handle", first)["action"] == "UNLOCK"
        pad = ("--owner", phone, "--card", second)
        assert outcome("card", "replace", car, paired["credential"], *pad)["code"] is None
        assert outcome("vehicle", "tap", car, "handle", first)["code"] == "CARD_BLOCKED"
        assert outcome("vehicle", "tap", car, "handle", second)["action"] == "UNLOCK"
    code, out, _ = dkey("card", "list", car, "--json")
    states = [card["state"] for card in json.loads(out)["cards"]]
    assert (code, len(states), states[1]) == (0, 2, "ACTIVE")
    assert states[0] != "ACTIVE"


def test_a_vehicle_runs_serves_a_tap_obeys_and_ends(tmp_path):
    car, owner = tmp_path / "car", tmp_path / "owner.json"
    assert dkey("vehicle", "init", car, "--owner", owner)[0] == 0
    serve = ("device", "serve", "apdu-tcp:127.0.0.1:0", "--credential", owner)
    with serving(*serve) as (_, port):
        process = start(
            "vehicle", "run", car, "--pad", f"apdu-tcp:127.0.0.1:{port}", stdin=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith("console pad: apdu-tcp")
        assert "authorise start" in process.stdout.readline()
        process.stdin.write("start\n")
        process.stdin.flush()
        assert process.stdout.readline() == "START: started\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in out + err
    assert process.returncode == 130


def test_output_to_a_reader_that_left_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    try:
        ran = subprocess.run(
            [*DKEY, "links"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    finally:
        os.close(write)
    assert "Traceback" not in ran.stderr
    assert ran.returncode in (0, 1)
