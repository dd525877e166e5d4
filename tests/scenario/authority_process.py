"""The authority as a process of its own, on a loopback port that it chooses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from authority_world import START, World

from dkey.authority.client import AuthorityClient
from dkey.lifecycle.commands import AUTHORITY, DEALER, VEHICLE

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class Process:
    """A running ``dkey authority run``; ``with`` ends it."""

    def __init__(self, state: Path, *, start_s: int = START) -> None:
        words = ["authority", "run", "--state", str(state), "--listen", "127.0.0.1:0", "--json"]
        self.state = state
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dkey", *words, "--fake-clock", str(start_s)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.clients: list[AuthorityClient] = []
        self.client = self.connect()

    def connect(self) -> AuthorityClient:
        admin = (self.state / "admin.token").read_text().strip()
        client = AuthorityClient(
            self.ready["url"], dict.fromkeys((AUTHORITY, DEALER, VEHICLE), admin)
        )
        self.clients.append(client)
        return client

    def world(self) -> World:
        return World(self.client)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.kill()
        self.process.stdout.close()
