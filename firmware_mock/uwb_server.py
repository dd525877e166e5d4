"""Virtual UWB subsystems for other programs' UCI hosts, over TCP.

Each connection is one subsystem of its own, all on the same air: a phone's host and a vehicle's
connect to the same port and range with each other.
"""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from dkey.errors import LinkError, LinkReason
from firmware_mock.uwb_pace import REALTIME, keep_pace
from firmware_mock.uwb_subsystem import OUTBOX_MAX, UwbSubsystem

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_mock.uwb_air import Station, UwbAir

__all__ = ["UwbServer"]

_CONNECTIONS_MAX: Final = 8
_CHUNK: Final = 4096


class UwbServer:
    """Listens on a loopback address until it is cancelled."""

    def __init__(
        self,
        air: UwbAir,
        station: Callable[[], Station],
        *,
        pace: float = REALTIME,
        mirror: bool = False,
        uci_major: int = 1,
        raw: bool = False,
        emit: Callable[[dict[str, object]], None],
    ) -> None:
        """Make a server.

        Args:
            air: What all subsystems share; this server advances it.
            station: Returns the place of each new phone.
            pace: Virtual seconds in one second.
            mirror: Whether each vehicle's session finds a phone with the same parameters.
            uci_major: 1 or 2.
            raw: Whether ranging notifications end with clock ratios.
            emit: Told of events, one object each: ``ready``, ``connected``, ``closed``.
        """
        self._air = air
        self._station = station
        self._pace = pace
        self._mirror = mirror
        self._uci_major = uci_major
        self._raw = raw
        self._emit = emit
        self._open: dict[asyncio.StreamWriter, UwbSubsystem] = {}
        self._number = 0

    @property
    def subsystems(self) -> tuple[UwbSubsystem, ...]:
        """Return the subsystems of all open connections, oldest first."""
        return tuple(self._open.values())

    async def run(self, host: str, port: int) -> None:
        """Serve; with port 0 the system chooses one, which the ``ready`` event names.

        Raises:
            LinkError: UNSUPPORTED for an address that is not loopback, BUSY when the port is taken.
        """
        try:
            local = host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            local = False
        if not local:
            raise LinkError(
                LinkReason.UNSUPPORTED,
                f"{host} is no loopback address",
                hint="UCI carries ranging secrets in clear: serve on 127.0.0.1",
            )
        try:
            server = await asyncio.start_server(self._serve, host, port, limit=_CHUNK)
        except OSError as exc:
            raise LinkError(
                LinkReason.BUSY, f"cannot listen on {host} port {port}", hint="use port 0"
            ) from exc
        async with server:
            bound = server.sockets[0].getsockname()[1]
            self._emit({"event": "ready", "link": f"uci-tcp:{host}:{bound}"})
            await keep_pace(self._air, pace=self._pace, after=self._pump)

    def _pump(self) -> None:
        for writer, subsystem in self._open.items():
            waiting = writer.transport.get_write_buffer_size()
            if waiting < OUTBOX_MAX and not writer.is_closing():
                data = subsystem.take()
                if data:
                    writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= _CONNECTIONS_MAX:
            writer.close()
            return
        self._number += 1
        number = self._number
        subsystem = UwbSubsystem(
            self._air, self._station(), uci_major=self._uci_major, raw=self._raw
        )
        if self._mirror:
            subsystem.chip.mirror = self._station()
        self._open[writer] = subsystem
        self._emit({"event": "connected", "subsystem": number})
        try:
            self._pump()
            while data := await reader.read(_CHUNK):
                subsystem.feed(data)
                self._pump()
        except OSError:
            pass  # reset by the host: as good as closed
        finally:
            del self._open[writer]
            subsystem.chip.reset()
            writer.close()
            self._emit({"event": "closed", "subsystem": number})
            with contextlib.suppress(OSError):
                await writer.wait_closed()
