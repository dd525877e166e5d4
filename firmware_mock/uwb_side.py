"""Starts the ranging side of a vehicle process: its anchors' link, and the desk that uses it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from dkey.control.proximity import ProximityMode, ProximitySettings
from dkey.errors import LocalFault
from dkey.link.opener import open_uci
from dkey.ranging.layouts import SHIPPED, shipped_layout
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_channel import Car
from firmware_mock.uwb_desk import UwbDesk
from firmware_mock.uwb_server import UwbServer

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from dkey.ranging.layout import Layout
    from firmware_mock.ble_desk import BleDesk

__all__ = ["SIMULATED", "start_uwb"]

SIMULATED: Final = "sim:"
"""Link string of a virtual air that the vehicle hosts itself."""
_PHONE_AT_M: Final = (4.0, 3.0)


async def start_uwb(
    desk: BleDesk,
    link: str,
    stack: AsyncExitStack,
    *,
    layout: Layout | None = None,
    passive: bool = False,
) -> tuple[UwbDesk, str]:
    """Give a vehicle its anchors; return their desk and the link at which phones find the air.

    Args:
        desk: Of Bluetooth; it ranges its phones from now on.
        link: ``uci:PATH``, ``uci-tcp:HOST:PORT``, or ``sim:`` to host a virtual air.
        stack: Ends all of it.
        layout: Anchors, cabin and doors; the first that is shipped by default.
        passive: Whether coming to a door unlocks it, and no hand is needed.

    Raises:
        LocalFault: The vehicle works by touch only.
        LinkError: The subsystem cannot be opened.
    """
    if not desk.ranging:
        raise LocalFault(
            "this vehicle works by touch only",
            hint="leave --uwb out, or choose --features DK2",
        )
    used = layout or shipped_layout(SHIPPED[0])
    shown = link
    if link == SIMULATED:
        shown = await _host(used, stack)
    opened = await open_uci(shown)
    mode = ProximityMode.PASSIVE_APPROACH if passive else ProximityMode.ON_HANDLE_ACTION
    uwb = UwbDesk(desk.vehicle, used, settings=ProximitySettings(mode=mode), report=desk.report)
    desk.uwb = uwb
    stack.push_async_callback(_ended, asyncio.create_task(uwb.run(opened)))
    return uwb, shown


async def _host(layout: Layout, stack: AsyncExitStack) -> str:
    """Serve a virtual air on a free local port; return its link."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            ready.set_result(str(event["link"]))

    air = UwbAir(car=Car.of(layout))
    server = UwbServer(air, lambda: Station(at_m=_PHONE_AT_M), raw=True, emit=emit)
    serving = asyncio.create_task(server.run("127.0.0.1", 0))
    stack.push_async_callback(_ended, serving)
    serving.add_done_callback(lambda _: ready.cancel())
    try:
        return await ready
    except asyncio.CancelledError:
        if serving.done() and not serving.cancelled():
            serving.result()  # why it cannot listen
        raise


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
