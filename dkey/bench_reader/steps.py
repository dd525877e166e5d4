"""Notes what each step of a transaction answered and how long the device took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dkey.access.messages import Ins
from dkey.codec.apdu import CHAIN

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Step", "StepLog"]

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


class StepLog:
    """An observer that notes every step; a chain's blocks and GET RESPONSE are part of one step.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.steps: list[Step] = []
        self._clock = clock
        self._chained = False
        self._began_s = 0.0

    def sent(self, command: bytes) -> None:
        """Note a command that leaves."""
        ins = command[1]
        if not (self.steps and (self._chained or ins == Ins.GET_RESPONSE)):
            self._began_s = self._clock()
            self.steps.append(Step(name=_NAMES.get(ins, f"{ins:02X}"), sw=None, ms=0.0))
        self._chained = bool(command[0] & CHAIN)

    def received(self, response: bytes) -> None:
        """Note its response."""
        elapsed_ms = (self._clock() - self._began_s) * 1000
        status = int.from_bytes(response[-2:], "big") if len(response) >= 2 else None
        self.steps[-1] = Step(name=self.steps[-1].name, sw=status, ms=elapsed_ms)
