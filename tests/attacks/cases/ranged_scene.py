"""A vehicle with anchors and phones with UWB: real messages, a virtual air, time that jumps."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkey.ranging.kalman import KalmanFilter
from dkey.ranging.layouts import shipped_layout
from dkey.testing import SeededEntropy
from firmware_mock.jumping_loop import jumped
from firmware_mock.proximity_stage import DOOR_M, FAR_M, SEAT_M, ProximityStage, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["DOOR_M", "FAR_M", "LAYOUT", "SEAT_M", "Scene", "Wire", "jumped", "scene"]

LAYOUT = shipped_layout("saloon")
Scene = ProximityStage


@asynccontextmanager
async def scene(seed: int = 1, **how: Any) -> AsyncIterator[Scene]:
    """Yield a vehicle that is parked, locked, and up."""
    with tempfile.TemporaryDirectory(prefix="dkr") as name:
        async with AsyncExitStack() as stack:
            made = ProximityStage(
                Path(name),
                entropy=lambda who: SeededEntropy(f"{who} {seed}"),
                stack=stack,
                seed=seed,
                **{"estimator": lambda: KalmanFilter(LAYOUT)} | how,
            )
            await asyncio.sleep(0.1)
            yield made
