"""The scenarios that come with the mock vehicle, as package data."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from dkey.errors import LocalFault
from firmware_mock.walk_scenario import Scenario, parse_scenario

__all__ = ["ATTACKS", "SHIPPED", "shipped_scenario"]

ATTACKS: Final = (
    "relay",
    "early-arrival-14db",
    "early-arrival-20db",
    "early-arrival-24db",
    "early-arrival-30db",
    "frame-advance-poll",
    "frame-advance-response",
    "frame-advance-final",
    "frame-advance-all",
    "sts-replay",
    "clock-skew",
    "jamming",
)
SHIPPED: Final = (
    "demo",
    "approach",
    "pass-by",
    "sit-in",
    "back-pocket",
    "two-phones",
    "leave",
    *ATTACKS,
)


def shipped_scenario(name: str) -> Scenario:
    """Return a shipped scenario.

    Raises:
        LocalFault: There is none of this name.
    """
    if name not in SHIPPED:
        raise LocalFault(
            f"no scenario {name!r} is shipped", hint=f"take one of {', '.join(SHIPPED)}"
        )
    return parse_scenario(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
