"""A relay on a real loopback port, with a clock that a test moves; and devices that ask it."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import uvicorn
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dkey.relay.client import RelayClient
from dkey.relay.limits import Limits
from dkey.relay.messages import Create, Display, Payload
from dkey.relay.server import relay_app
from dkey.relay.store import RelayStore
from dkey.testing import FakeClock, SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW_S = 1_800_000_000
HOUR_S = 3600
SECRET_TEXT = b"KeyCreationRequest: entry and start for one weekend"
PLENTY = Limits(burst=10_000, creates_burst=10_000)


def sealed(text: bytes = SECRET_TEXT, algorithm: str = "AEAD_AES_256_GCM") -> Payload:
    """Return what AES-GCM makes of ``text`` under a key that only the test has."""
    iv = SeededEntropy(text.hex()).random(12)
    return Payload(algorithm=algorithm, data=iv + AESGCM(b"k" * 32).encrypt(iv, text, None))


def invitation(now_s: float = NOW_S, *, hours: float = 24, **how) -> Create:
    how.setdefault("payload", sealed())
    how.setdefault("display", Display(title="A key", description="For a car"))
    return Create(expires_s=int(now_s + hours * HOUR_S), **how)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self):
        yield


class World:
    """One relay that runs in a thread."""

    def __init__(self, database: str, limits: Limits = PLENTY) -> None:
        self.clock = FakeClock(NOW_S)
        self.ticks = FakeClock()
        self.entropy = SeededEntropy(database)
        self.store = RelayStore.open(
            database, clock=self.clock, entropy=self.entropy, limits=limits
        )
        app = relay_app(self.store, limits=limits, monotonic=self.ticks, purge_s=1e6)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False)
        self.server = _Server(config)
        self.http = httpx.Client(trust_env=False, timeout=20)

    @contextmanager
    def running(self) -> Iterator[World]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield self
        finally:
            self.server.should_exit = True
            self.http.close()
            thread.join(20)
            self.store.close()
            listener.close()
        assert not thread.is_alive()

    def device(self) -> RelayClient:
        claim = uuid.UUID(bytes=self.entropy.random(16), version=4)
        return RelayClient(self.url, claim=claim, entropy=self.entropy, http=self.http)

    def raw(self, method: str, path: str = "", *, claim: object = True, **how) -> httpx.Response:
        """Ask by hand."""
        headers = dict(how.pop("headers", {}))
        if claim is True:
            claim = uuid.UUID(int=1)
        if claim is not None:
            headers["Mailbox-Device-Claim"] = str(claim)
        return self.http.request(method, f"{self.url}/v1/m{path}", headers=headers, **how)


POSTGRES = os.environ.get("DKEY_TEST_POSTGRES")
