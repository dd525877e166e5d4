"""What a process of the guest tells its payload: one JSON object a line."""

from __future__ import annotations

import json
import time

__all__ = ["ms_since", "tell"]


def tell(event: str, **fields: object) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **fields}), flush=True)  # noqa: T201 - a payload reads it


def ms_since(started: float) -> float:
    """Return the milliseconds since ``started``, a ``time.perf_counter()``."""
    return round(1e3 * (time.perf_counter() - started), 1)
