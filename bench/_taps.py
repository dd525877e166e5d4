"""Taps through nfcpy on a pseudo-terminal, against echoes of the same APDUs."""

from __future__ import annotations

import asyncio
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from _floor import Floor
from _pair import Pair
from _report import Figure, Samples, progress, slice_medians, spread

from dkey.access.enrolled import Flow
from dkey.errors import LinkError
from dkey.link.driver import run, run_blocking
from firmware_mock.field import DeviceInField

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dkey.link.nfc import NfcInitiator
    from firmware_mock.pn532 import VirtualPn532

__all__ = ["taps"]


class Recording:
    """The APDUs of one transaction, and a device that answers them from the record.

    Attributes:
        turns: What reader and device compute before each message; nothing in a bare echo.
    """

    def __init__(self) -> None:
        self.turns: Iterator[None] = iter(())
        self.commands: list[bytes] = []
        self.responses: list[bytes] = []
        self._next = 0

    def sent(self, command: bytes) -> None:
        """Note a command."""
        self.commands.append(command)

    def received(self, response: bytes) -> None:
        """Note its response."""
        self.responses.append(response)

    def answer(self, command: bytes) -> bytes:
        """Give the next recorded response."""
        del command
        next(self.turns, None)
        self._next += 1
        return self.responses[self._next - 1]

    def field_off(self) -> None:
        """Begin again."""
        self._next = 0

    def echo(self, exchange: Callable[[bytes], bytes]) -> None:
        """Send the recorded commands in a plain loop."""
        for command in self.commands:
            next(self.turns, None)
            exchange(command)
        next(self.turns, None)


_KINDS = ("tap", "echo", "crypto")
_FLOWS = (Flow.STANDARD, Flow.FAST)
_MAX_LOST = 3


class Taps:
    """Taps of both flows, bare echoes and echoes with the floor, on one reader.

    Args:
        chip: The virtual PN532 that ``initiator`` drives.
        initiator: The reader.

    Attributes:
        lost: Rounds that were repeated because nfcpy gave up: it does when the machine stalls
            for 100 ms.
    """

    def __init__(self, chip: VirtualPn532, initiator: NfcInitiator) -> None:
        self.lost = 0
        self._chip, self._initiator = chip, initiator
        self._floor = Floor()
        self._pairs = {flow: Pair() for flow in _FLOWS}
        self._records = {flow: Recording() for flow in _FLOWS}
        for flow, pair in self._pairs.items():
            run_blocking(pair.procedure(flow), pair.host.answer, self._records[flow])

    async def rounds(self, samples: int) -> Samples:
        """Time ``samples`` rounds of all kinds; the order turns around every other round."""
        times: Samples = {f"{flow.value} {kind}": [] for flow in _FLOWS for kind in _KINDS}
        done, opening = 0, True
        while done < samples:
            kinds = _KINDS if done % 2 else _KINDS[::-1]
            try:
                taken = [(f, kind, await self._once(f, kind)) for f in _FLOWS for kind in kinds]
            except LinkError:
                self.lost, opening = self.lost + 1, True
                if self.lost > _MAX_LOST:
                    raise
                continue
            if opening:  # this round opened the reader
                opening = False
                continue
            done += 1
            for flow, kind, seconds in taken:
                times[f"{flow.value} {kind}"].append(seconds)
        return times

    async def _once(self, flow: Flow, kind: str) -> float:
        """Sense the device, do the work, switch the field off; return the seconds it took."""
        pair, record = self._pairs[flow], self._records[flow]
        record.turns = self._floor.turns(flow) if kind == "crypto" else iter(())
        self._chip.target = DeviceInField(pair.host if kind == "tap" else record)
        began = perf_counter()
        link = await self._initiator.sense(timeout_s=5.0)
        assert link is not None
        if kind == "tap":
            pair.keep(await run(pair.procedure(flow), link))
        else:
            await link.run_blocking(record.echo)
        await link.aclose()
        return perf_counter() - began


def _shares(times: Samples, flow: str, lost: int) -> list[Figure]:
    """Return our share of a tap above the echo, percent: whole, and above the bare crypto."""
    tap, echo, crypto = (times[f"{flow} {kind}"] for kind in _KINDS)
    note = (
        f"{flow} tap {median(tap) * 1e3:.2f} ms, echo {median(echo) * 1e3:.2f} ms, "
        f"echo with the bare crypto {median(crypto) * 1e3:.2f} ms; "
        f"{lost} rounds lost to a stall of the machine and repeated"
    )

    def share(name: str, below: list[float], floor: str, limit: float | None) -> Figure:
        # Neighbours in time are subtracted: an idle machine wakes up slowly, a busy one does not.
        extra = [a - b for a, b in zip(tap, below, strict=True)]
        slices = zip(slice_medians(extra), slice_medians(echo), strict=True)
        return Figure(
            name=f"{flow} tap through nfcpy on the pty, {name}",
            value=median(extra) / median(echo) * 100,
            unit="%",
            floor=floor,
            limit=limit,
            samples=len(tap),
            spread=spread([above / base * 100 for above, base in slices]),
            note=note,
        )

    return [
        share(
            "above an echo",
            echo,
            "recorded APDUs of the same tap, sent by a plain loop inside NfcLink.run_blocking to a "
            "responder that answers from the record: the same nfcpy driver, pseudo-terminal, "
            "virtual PN532, ISO-DEP, sense and field off; no cryptography",
            20 if flow == "standard" else None,
        ),
        share(
            "without crypto",
            crypto,
            "the same echo, in which reader and device also run the crypto floor, each operation "
            "where the product runs it; in percent of the echo without",
            20 if flow == "standard" else None,
        ),
    ]


def taps(samples: int) -> list[Figure]:
    # Here, because nfcpy is not in the process that figure 6 measures.
    from dkey.link.nfc import NfcInitiator  # noqa: PLC0415
    from firmware_mock.pn532 import VirtualPn532  # noqa: PLC0415
    from firmware_mock.pty_port import PtyPort  # noqa: PLC0415

    async def measured() -> list[Figure]:
        chip = VirtualPn532()
        with PtyPort(chip) as port:
            initiator = NfcInitiator(port.path)
            measuring = Taps(chip, initiator)
            times = await measuring.rounds(samples)
            await initiator.aclose()
        return [figure for flow in _FLOWS for figure in _shares(times, flow.value, measuring.lost)]

    progress(f"taps through nfcpy on a pseudo-terminal, {samples} of each kind")
    return asyncio.run(measured())
