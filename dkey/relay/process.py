"""The relay as a process: its socket, its certificate, and a clean end on SIGINT and SIGTERM."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvicorn

from dkey.errors import LinkError, LinkReason, LocalFault
from dkey.relay.limits import Limits
from dkey.relay.server import relay_app
from dkey.relay.store import RelayStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dkey.crypto.entropy import Entropy

__all__ = ["Settings", "run_relay"]

_END_S = 5
_CONNECTIONS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a relay runs.

    Attributes:
        host: Address to listen on. Without a certificate it must be a loopback address.
        port: 0 lets the system choose.
        database: SQLAlchemy URL; not shown in a repr, as it may hold a password.
        certificate: PEM file with the chain, and ``key`` with its private key: serve TLS.
        proxy: Address of the proxy in front, whose word about a client's address is taken.
    """

    host: str
    port: int
    database: str = field(repr=False)
    limits: Limits = field(default_factory=Limits)
    certificate: Path | None = None
    key: Path | None = None
    proxy: str | None = None


class _Server(uvicorn.Server):
    """A server that ends, with exit code 0, when it is asked to."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGINT and SIGTERM without raising them again afterwards."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        self.should_exit = True


def run_relay(settings: Settings, *, entropy: Entropy, ready: Callable[[str, int], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``ready`` gets the scheme and the port once it serves.

    Raises:
        LocalFault: Other machines could reach it without TLS.
        LinkError: The address is taken, or not of this machine.
        StoreError: The database does not open.
    """
    _check_transport(settings)
    store = RelayStore.open(
        settings.database, clock=time.time, entropy=entropy, limits=settings.limits
    )
    try:
        with _listen(settings.host, settings.port) as listener:
            app = relay_app(store, limits=settings.limits, monotonic=time.monotonic)
            scheme = "https" if settings.certificate else "http"
            server = _Server(
                _config(settings, app),
                lambda: ready(scheme, listener.getsockname()[1]),
            )
            asyncio.run(server.serve(sockets=[listener]))
    finally:
        store.close()


def _config(settings: Settings, app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # any ASGI application
        log_config=None,
        access_log=False,  # its lines hold identifiers of mailboxes
        server_header=False,
        proxy_headers=settings.proxy is not None,
        forwarded_allow_ips=settings.proxy or "",
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_END_S,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        ws="none",
    )


def _check_transport(settings: Settings) -> None:
    if (settings.certificate is None) != (settings.key is None):
        raise LocalFault("a certificate needs its key", hint="give --certificate and --key")
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and settings.certificate is None:
        raise LocalFault(
            f"{settings.host} can be reached by others, and there is no certificate",
            hint="give --certificate and --key, or listen on 127.0.0.1 behind a proxy with TLS",
        )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as exc:
        raise LinkError(
            LinkReason.BUSY,
            f"cannot listen on {host}:{port}: {exc.strerror}",
            hint="choose another port with --listen, or 0 for any",
        ) from exc
