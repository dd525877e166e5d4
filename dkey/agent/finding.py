"""Finding a vehicle on the air and connecting to it, a bounded number of times."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from dkey.agent.advice import Trouble, Unreachable, trouble, unreachable
from dkey.codec.ble_advert import VehicleAdvert
from dkey.errors import LinkError, LinkReason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dkey.codec.ble_advert import Advert
    from dkey.crypto.secret import Secret
    from dkey.link.base import Link

__all__ = ["Central", "Patience", "Sighting", "find", "pairing_open", "patiently", "resolves"]

log = logging.getLogger(__name__)
T = TypeVar("T")
S = TypeVar("S", bound="Sighting")


class Sighting(Protocol):
    """A reader that advertises."""

    @property
    def address(self) -> str:
        """Its present address."""

    @property
    def rssi_dbm(self) -> int:
        """How strong it is heard."""

    @property
    def advert(self) -> VehicleAdvert | Advert:
        """What it advertises."""


class Central(Protocol[S]):
    """The phone's radio; see :mod:`dkey.link.ble`."""

    async def find(self, wanted: Callable[[S], bool], *, timeout_s: float) -> S | None:
        """Return the first sighting that is wanted, None after ``timeout_s``."""

    async def connect(self, sighting: S, *, timeout_s: float) -> Link:
        """Return a message link to what was sighted."""

    async def aclose(self) -> None:
        """Release the radio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often the agent tries.

    Attributes:
        attempts: Most connections for one wish.
        find_s: Longest search for the vehicle, seconds.
        connect_s: Longest time to a link, seconds.
        backoff_s: Pause before the second attempt; it doubles each time.
        answer_s: Longest time from a request to its verdict, however busy the vehicle is.
    """

    attempts: int = 3
    find_s: float = 10.0
    connect_s: float = 10.0
    backoff_s: float = 0.5
    answer_s: float = 10.0


def resolves(resolving_key: Secret) -> Callable[[Sighting], bool]:
    """Return the test for the vehicle with this resolving key."""

    def wanted(sighting: Sighting) -> bool:
        advert = sighting.advert
        return isinstance(advert, VehicleAdvert) and advert.resolves(resolving_key.reveal())

    return wanted


def pairing_open(sighting: Sighting) -> bool:
    """Whether this vehicle advertises that an owner pairing is open at its head unit."""
    return isinstance(sighting.advert, VehicleAdvert) and sighting.advert.pairing


async def find(
    central: Central[S], wanted: Callable[[S], bool], patience: Patience
) -> tuple[S, Link]:
    """Find a vehicle and connect to it, once.

    Raises:
        Unreachable: NOT_IN_RANGE when none was seen, else what the radio says.
    """
    try:
        sighting = await central.find(wanted, timeout_s=patience.find_s)
        if sighting is None:
            raise trouble(Trouble.NOT_IN_RANGE, LinkReason.TIMEOUT)
        return sighting, await central.connect(sighting, timeout_s=patience.connect_s)
    except Unreachable:
        raise
    except LinkError as exc:
        meant = unreachable(exc)
        if meant.trouble is Trouble.BLUETOOTH_OFF and _blocked():
            meant = trouble(Trouble.AIRPLANE_MODE, exc.reason)
        raise meant from exc


def _blocked(root: Path = Path("/sys/class/rfkill")) -> bool:
    """Return whether the system, and not its Bluetooth service, keeps the radio off (Linux)."""
    try:
        for kind in root.glob("*/type"):
            if kind.read_text(encoding="ascii").strip() == "bluetooth":
                flags = [
                    (kind.parent / name).read_text(encoding="ascii") for name in ("soft", "hard")
                ]
                if "1" in [flag.strip() for flag in flags]:
                    return True
    except OSError:
        pass
    return False


async def patiently(
    attempt: Callable[[], Awaitable[T]],
    patience: Patience,
    on_retry: Callable[[int, Unreachable], None],
) -> T:
    """Run ``attempt`` until it succeeds, fails for good, or was made often enough.

    Only a lost link and a missing answer are tried again; every other failure, a refusal above
    all, is final.

    Args:
        attempt: One attempt; it cleans up after itself.
        patience: How often, and the pauses between.
        on_retry: Told of the number of the coming attempt and of what made it necessary.
    """
    for number in range(1, patience.attempts + 1):
        try:
            return await attempt()
        except Unreachable as exc:
            if not exc.transient or number >= patience.attempts:
                raise
            log.debug("attempt %d: %s", number, exc.trouble)
            on_retry(number + 1, exc)
        await asyncio.sleep(patience.backoff_s * 2 ** (number - 1))
    raise AssertionError("unreachable")  # pragma: no cover
