"""Phones, vehicle, relay and authority as processes of their own, each with its own state."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 60
DKEY = [sys.executable, "-W", "error", "-m", "dkey"]
DIGITS = re.compile(r"\d{4} \d{4} \d{4}")


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DKEY, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in out + err, out + err
    return process.returncode, out, err


def line_with(process: subprocess.Popen[str], part: str, *, err: bool = True) -> str:
    """Return the next line of a running process that has ``part``."""
    stream = process.stderr if err else process.stdout
    assert stream is not None
    for line in stream:
        if part in line:
            return line.rstrip("\n")
    raise AssertionError(f"it ended without {part!r}")


@contextmanager
def serving(*words: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run a server; give its process and its first line."""
    process = start(*words, "--json")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)


@dataclass
class Told:
    """What one ``dkey key`` command said."""

    code: int
    object: dict[str, Any]

    @property
    def refusal(self) -> str | None:
        return self.object["code"]

    @property
    def keys(self) -> dict[str, dict[str, Any]]:
        return {each["account"]: each for each in self.object["keys"]}

    def state(self, account: str) -> str:
        return self.keys[account]["state"]


class Phone:
    """A phone: a state folder of its own, and the commands of its user."""

    def __init__(self, folder: Path, account: str, world: World) -> None:
        self.store = folder / account.partition("@")[0]
        self.account = account
        self.world = world

    def key(self, *words: object) -> Told:
        code, out, err = ended(start("key", *words, "--store", self.store, "--json"))
        lines = out.splitlines()
        assert len(lines) == 1, (out, err)
        return Told(code, json.loads(lines[0]))

    def starts(self, *words: object) -> subprocess.Popen[str]:
        return start("key", *words, "--store", self.store)

    def agent(self, *words: object) -> dict[str, Any]:
        """Ask the agent; return its last line."""
        radio = ("--link", self.world.ble, "--store", self.store, "--json")
        _, out, err = ended(start("agent", *words, *radio))
        assert out, err
        return json.loads(out.splitlines()[-1])

    def meets(self) -> dict[str, Any]:
        """Be in range of the vehicle once."""
        return self.agent("status")

    def pairs(self) -> Phone:
        """Pair as the owner's phone, with the code at the head unit."""
        self.world.vehicle("set", "ignition=on")
        code = self.world.vehicle("press", "pair-owner")["pairing_code"]
        assert self.agent("pair", "--code", code)["state"] == "SYNCED"
        self.world.vehicle("set", "ignition=off")
        return self

    def file(self, name: str) -> Path:
        return self.store.with_suffix(f".{name}")

    def gives(self, friend: Phone, *words: object) -> str:
        """Hand a key over by files; return its id."""
        invitation, request = friend.file("invitation"), friend.file("request")
        answer = friend.file("answer")
        offered = self.key("share", friend.account, "--out", invitation, *words)
        assert offered.code == 0, offered
        friend.key("accept", invitation, "--out", request)
        assert self.key("share", "--request", request, "--yes", "--out", answer).code == 0
        assert friend.key("accept", "--answer", answer).code == 0
        return offered.object["share"]["id"]


class World:
    """A vehicle that runs, and where its radio is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ready: dict[str, Any] = {}

    @property
    def ble(self) -> str:
        return self.ready["ble"]

    @contextmanager
    def driving(self) -> Iterator[World]:
        """Run the vehicle while the block runs."""
        self.start()
        try:
            yield self
        finally:
            self.kill()

    def start(self) -> None:
        """Start the vehicle; its output goes to a file."""
        log = self.folder / "car.log"
        with log.open("a+") as out:
            out.seek(0, 2)
            begin = out.tell()
            self.process = subprocess.Popen(
                [*DKEY, "vehicle", "run", "--state", str(self.folder / "car"), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.ready = self._first(self.process, log, begin)

    def kill(self) -> None:
        """Cut the vehicle's power."""
        self.process.kill()
        self.process.wait()

    def _first(self, process: subprocess.Popen[bytes], log: Path, begin: int) -> dict[str, Any]:
        for _ in range(DEADLINE_S * 20):
            text = log.read_text()[begin:]
            if "\n" in text:
                return json.loads(text.splitlines()[0])
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(text)
        raise AssertionError("the vehicle does not start")

    def vehicle(self, *words: object) -> dict[str, Any]:
        state = ("--state", self.folder / "car", "--json")
        code, out, err = ended(start("vehicle", *words, *state))
        assert code == 0, out + err
        return json.loads(out)

    def phone(self, name: str) -> Phone:
        return Phone(self.folder, f"{name}@example.org", self)
