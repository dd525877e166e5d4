"""Vehicle identification numbers: their form, and the market that they were built for (S74)."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dkey.errors import PolicyRefusal, RefusalCode

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MARKET_PREFIXES", "check_vin"]

_VIN: Final = re.compile(r"[A-HJ-NPR-Z0-9]{13}[0-9]{4}")
MARKET_PREFIXES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "KR": ("KL", "KM", "KN", "KP", "KR"),
        "RU": ("XWE", "Z94"),
    }
)
"""Market to how its numbers begin: ISO 3780 for Korea, requirements S74 for Russia."""


def check_vin(vin: str, market: str) -> None:
    """Check a number (ISO 3779: 17 characters without I, O, Q; the last four are digits).

    Raises:
        PolicyRefusal: WRONG_VIN for its form, WRONG_MARKET for a market that is not served or not
            the vehicle's.
    """
    if not _VIN.fullmatch(vin):
        raise PolicyRefusal(
            RefusalCode.WRONG_VIN,
            "the vehicle identification number is not valid",
            hint="copy the 17 characters from the registration certificate",
        )
    if not vin.startswith(MARKET_PREFIXES.get(market, ())):
        raise PolicyRefusal(
            RefusalCode.WRONG_MARKET,
            f"the vehicle was not built for market {market}",
            hint=f"markets served: {', '.join(MARKET_PREFIXES)}; register it in its own",
        )
