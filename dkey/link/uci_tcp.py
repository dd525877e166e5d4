"""``uci-tcp:HOST:PORT``: a UWB subsystem, real or virtual, that speaks UCI over TCP.

The subsystem listens. The stream is UCI packets and nothing else.
"""

from __future__ import annotations

import asyncio

from dkey.errors import LinkError, LinkReason
from dkey.link.length_prefixed import no_delay
from dkey.link.uci_link import UciLink

__all__ = ["open_uci_tcp"]


async def open_uci_tcp(
    host: str,
    port: int,
    *,
    timeout_s: float = 5.0,
    idle_s: float = 60.0,
) -> UciLink:
    """Connect to a subsystem.

    Args:
        host: Name or address.
        port: 1..65535.
        timeout_s: Deadline of the connection.
        idle_s: Deadline of one ``recv`` on the link.

    Raises:
        LinkError: ABSENT when nobody listens there.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
    except OSError as exc:  # TimeoutError is one
        raise LinkError(
            LinkReason.ABSENT,
            f"no UWB subsystem listens on {host} port {port}",
            hint="start the virtual subsystem, or the bridge to the chip, first",
            transient=True,
        ) from exc
    no_delay(writer)
    return UciLink(reader, writer, idle_s=idle_s)
