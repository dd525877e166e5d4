"""Notes what each step of a transaction answered and how long the device took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dkey.access.messages import Ins
from dkey.codec.apdu import CHAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.base import Cap, Link

__all__ = ["Step", "TimedLink"]

_NAMES: Final[dict[int, str]] = {ins: ins.name.replace("_", " ") for ins in Ins}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of a transaction.

    Attributes:
        name: Such as ``AUTH0``.
        sw: Final status word; None when no answer came.
        ms: From the first byte sent to the last answer received, milliseconds.
    """

    name: str
    sw: int | None
    ms: float


class TimedLink:
    """A link that notes every step; blocks of a chain and GET RESPONSE count as one step."""

    def __init__(self, link: Link, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock
        self._chained = False
        self._began_s = 0.0
        self.mtu: int = link.mtu
        self.caps: frozenset[Cap] = link.caps
        self.steps: list[Step] = []

    async def send(self, data: bytes) -> None:
        """Send one command APDU."""
        ins = data[1]
        now_s = self._clock()
        if not (self.steps and (self._chained or ins == Ins.GET_RESPONSE)):
            self._began_s = now_s
            name = _NAMES.get(ins, f"{ins:02X}")
            self.steps.append(Step(name=name, sw=None, ms=0.0))
        self._chained = bool(data[0] & CHAIN)
        await self._link.send(data)

    async def recv(self) -> bytes:
        """Return the response APDU and complete the step."""
        data = await self._link.recv()
        elapsed_ms = (self._clock() - self._began_s) * 1000
        status = int.from_bytes(data[-2:], "big") if len(data) >= 2 else None
        self.steps[-1] = Step(name=self.steps[-1].name, sw=status, ms=elapsed_ms)
        return data

    async def aclose(self) -> None:
        """Close the link under it."""
        await self._link.aclose()
