"""Where virtual time meets a clock: an air that is advanced as real time passes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_mock.uwb_air import UwbAir

__all__ = ["FAST", "REALTIME", "keep_pace"]

REALTIME: Final = 1.0
FAST: Final = 20.0
"""Virtual seconds in one second."""


async def keep_pace(
    air: UwbAir,
    *,
    pace: float = REALTIME,
    step_s: float = 0.005,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Advance the air until cancelled.

    Args:
        air: Nobody else may advance it meanwhile.
        pace: Virtual seconds in one second.
        step_s: How often, seconds.
        after: Called after each step, to carry away what was said.
    """
    loop = asyncio.get_running_loop()
    start_s, start_ns = loop.time(), air.now_ns
    while True:
        passed_s = (loop.time() - start_s) * pace
        air.advance(start_ns + int(passed_s * 1e9))
        after()
        await asyncio.sleep(step_s)
