"""bleak's scanner and client on a Bumble host, for radios that the operating system does not own.

``scanner_type, client_type = backends(device)`` gives the types that bleak takes as ``backend=``,
so that code above is plain bleak on every radio. Importing this module imports Bumble (half a
second); nothing else in this package does.

What differs from the operating systems' stacks: handles of characteristics are those of their
values, and the generic services 0x1800 and 0x1801 are visible.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING

from bumble import core, hci
from bumble.device import Device, DeviceConfiguration
from bumble.host import Host
from bumble.transport import open_transport

from dkey.errors import LinkError, LinkReason
from dkey.link.ble_bumble_client import BumbleClient
from dkey.link.ble_bumble_scanner import BumbleScanner

if TYPE_CHECKING:
    from bleak.backends.client import BaseBleakClient
    from bleak.backends.scanner import BaseBleakScanner
    from bumble.transport.common import Transport

__all__ = ["BumbleClient", "BumbleScanner", "SimDevice", "backends", "open_sim"]

_CLOSE_S = 2.0
_OPEN_S = 5.0
_SCHEME = "ble-sim:"


def backends(device: Device) -> tuple[type[BaseBleakScanner], type[BaseBleakClient]]:
    """Return bleak's scanner and client types for ``backend=``, bound to a powered-on host."""
    return (
        type("BumbleScanner", (BumbleScanner,), {"device": device, "__module__": __name__}),
        type("BumbleClient", (BumbleClient,), {"device": device, "__module__": __name__}),
    )


class SimDevice(Device):
    """A Bumble host whose controller is on a virtual air in another process."""

    def __init__(self, config: DeviceConfiguration, transport: Transport) -> None:
        super().__init__(config=config, host=Host(transport.source, transport.sink))
        self._transport = transport
        self._closed = False

    @property
    def lost(self) -> bool:
        """Whether the connection to the air ended."""
        return self._closed or self._transport.source.terminated.done()

    async def aclose(self) -> None:
        """End all links and leave the air. May be called twice."""
        if self._closed:
            return
        with contextlib.suppress(core.BaseBumbleError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                for connection in list(self.connections.values()):
                    await connection.disconnect()
        self._closed = True
        await self._transport.close()


async def open_sim(address: str, *, own_address: str | None = None) -> SimDevice:
    """Join a virtual air and return a powered-on host; close it with ``aclose``.

    Args:
        address: ``ble-sim:HOST:PORT``, or ``ble-sim:`` and the path of a unix socket; the scheme
            may be left out.
        own_address: Random static address such as ``C0:11:22:33:44:55``; None: chance.

    Raises:
        LinkError: ABSENT when no air is there, DENIED, TIMEOUT when it does not answer,
            UNSUPPORTED when ``address`` has another form.
    """
    where = address.removeprefix(_SCHEME)
    host, _, port = where.rpartition(":")
    if "/" in where:
        kind = "unix-client"
    elif host and port.isdecimal():
        kind = "tcp-client"
    else:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"{address!r} names no virtual air",
            hint="write ble-sim:127.0.0.1:PORT, or ble-sim: and a path with a slash",
        )
    own = hci.Address(own_address) if own_address else hci.Address.generate_static_address()
    config = DeviceConfiguration(name="dkey", address=own, irk=secrets.token_bytes(16))
    try:
        async with asyncio.timeout(_OPEN_S):
            transport = await open_transport(f"{kind}:{where}")
            device = SimDevice(config, transport)
            try:
                await device.power_on()
            except BaseException:
                await device.aclose()
                raise
    except TimeoutError as exc:
        raise LinkError(
            LinkReason.TIMEOUT,
            f"nothing at {where} answers as a Bluetooth controller",
            hint="check that the address is that of python -m firmware_mock.air",
        ) from exc
    except PermissionError as exc:
        raise LinkError(
            LinkReason.DENIED, f"{where} may not be used", hint="run as the air's user"
        ) from exc
    except (OSError, core.BaseBumbleError) as exc:
        raise LinkError(
            LinkReason.ABSENT,
            f"no virtual air at {where}",
            hint="start the vehicle that brings it: dkey vehicle run --state DIR",
            transient=True,
        ) from exc
    return device
