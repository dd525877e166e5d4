"""Serving the authority: a socket, uvicorn around the application, and the passing of time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from dkey.authority.http import create_app
from dkey.authority.service import Authority
from dkey.errors import LinkError, LinkReason, LocalFault, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dkey.authority.http_guard import Limits
    from dkey.testing import FakeClock

__all__ = ["Listening", "Place", "parse_listen", "serve"]

_log = logging.getLogger(__name__)
_TICK_S: Final = 10.0
"""How often what is due happens by itself (ours)."""
_GRACE_S: Final = 3
"""How long requests that run may take when the server stops (ours)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to listen.

    Attributes:
        host: An IP address.
        port: 0 lets the system choose.
    """

    host: str
    port: int

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A server that answers.

    Attributes:
        url: Where.
        public_key: The authority's, 65 bytes.
        local: Whether only this machine reaches it.
    """

    url: str
    public_key: bytes
    local: bool


def parse_listen(text: str) -> Place:
    """Return the place in ``HOST:PORT``.

    Raises:
        LocalFault: Not an IP address and a port.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        number = -1
    if not (0 <= number <= 65_535 and port.isascii() and port.isdigit()):
        raise LocalFault(f"{text!r} is no place to listen", hint="give it as 127.0.0.1:8460")
    return Place(host=host, port=number)


async def serve(
    folder: Path,
    place: Place,
    *,
    ready: Callable[[Listening], None],
    fake_clock: FakeClock | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve the authority in ``folder`` until SIGINT or SIGTERM.

    Raises:
        LocalFault: No authority is there, or it is damaged.
        LinkError: The port is taken.
    """
    how: dict[str, Any] = {"clock": fake_clock} if fake_clock is not None else {}
    with Authority.open(folder, **how) as authority, _bound(place) as bound:
        if fake_clock is not None:
            fake_clock.now_s = max(fake_clock.now_s, authority.health().time_s)
        server = _Server(
            uvicorn.Config(
                create_app(authority, fake_clock=fake_clock, limits=limits),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        server.on_ready = lambda: ready(_listening(authority, bound, place))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop)
        ticking = asyncio.create_task(_tick(authority))
        try:
            await server.serve(sockets=[bound])
        finally:
            ticking.cancel()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """A server that tells when it answers and leaves signals to its caller."""

    on_ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self.on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    def stop(self) -> None:
        """Answer what runs, then end."""
        self.should_exit = True


async def _tick(authority: Authority) -> None:
    """Let happen what is due, now and then."""
    while True:
        await asyncio.sleep(_TICK_S)
        try:
            authority.tick()
        except StoreError as exc:
            _log.warning("what is due waits: %s", exc)  # commands fail closed until it works


@contextlib.contextmanager
def _bound(place: Place) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle's delay off: 40 ms less for each answer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((place.host, place.port))
        except OSError as exc:
            raise LinkError(
                LinkReason.BUSY,
                f"cannot listen on {place.host} port {place.port}: {exc.strerror}",
                hint="use --listen 127.0.0.1:0 for a free port",
            ) from exc
        yield bound
    finally:
        bound.close()


def _listening(authority: Authority, bound: socket.socket, place: Place) -> Listening:
    port = bound.getsockname()[1]
    host = f"[{place.host}]" if ":" in place.host else place.host
    return Listening(
        url=f"http://{host}:{port}",
        public_key=authority.public_key.point,
        local=place.local,
    )
