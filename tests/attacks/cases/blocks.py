"""Peers that never come to an end: ISO-DEP blocks and waiting times (cases 30, 31)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.errors import LinkError
from dkey.link.isodep import Ats, IsoDepInitiator
from dkey.link.isodep_target import IsoDepTarget

from .. import Broken, case
from .scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.isodep import Transmit


def _drive(initiator: IsoDepInitiator, answer: Callable[[Transmit], bytes]) -> tuple[int, float]:
    """Carry one APDU to a hostile device; return frames and granted seconds until it gave up.

    2000 frames are the end of the case's patience.
    """
    frames, waited_s = 0, 0.0
    procedure = initiator.transceive(b"\x00\xa4\x04\x00")
    try:
        transmit = next(procedure)
        while frames < 2000:
            frames += 1
            waited_s += transmit.timeout_s
            transmit = procedure.send(answer(transmit))
    except LinkError:
        return frames, waited_s
    finally:
        procedure.close()
    return frames, waited_s


@case(
    30,
    "an ISO-DEP response that never ends is cut off",
    source="SweynTooth; ISO/IEC 14443-4 §7.5",
    broken=[
        Broken(
            module="dkey.link.isodep",
            old="            if len(response) > self._max_response:",
            new="            if False:",
            why="a response may have any size",
        ),
        Broken(
            module="dkey.link.isodep",
            old="            if len(reply) == 1:",
            new="            if False:",
            why="chained blocks may be empty",
        ),
    ],
)
def endless_block_chain(seed: int) -> None:
    chance = Scene(seed).chance
    for size, most in ((253, 300), (0, 2), (chance.randrange(100, 253), 700)):
        body = bytes(size)
        frames, _ = _drive(
            IsoDepInitiator(Ats(fsc=256, fwi=0)),
            lambda transmit, body=body: bytes((0x12 | transmit.frame[0] & 1,)) + body,
        )
        assert frames <= most, "the reader follows an endless chain of blocks"


@case(
    30,
    "an ISO-DEP command that never ends silences the device",
    source="SweynTooth; ISO/IEC 14443-4 §7.5",
    broken=[
        Broken(
            module="dkey.link.isodep_target",
            old="        if len(self._command) > self._max_command:",
            new="        if False:",
            why="a command may have any size",
        ),
    ],
)
def endless_block_command(seed: int) -> None:
    size = Scene(seed).chance.randrange(128, 254)
    answered: list[bytes] = []

    def answer(apdu: bytes) -> bytes:
        answered.append(apdu)
        return b"\x90\x00"

    target = IsoDepTarget(answer)
    target.receive(b"\xe0\x80")
    taken, number = 0, 0
    while taken < 1 << 17:
        if target.receive(bytes((0x12 | number,)) + bytes(size)) is None:
            break
        taken, number = taken + size, number ^ 1
    assert taken <= 65_544, "the device keeps an endless command"
    assert target.receive(bytes((0x02 | number,)) + b"\x00") is None, "it took the end of it"
    assert not answered, "the device carried out a command that was too long"


_GRANT = "        if self._wtx_count > self._max_wtx or self._wtx_total_s > self._max_wtx_total_s:"


@case(
    31,
    "a device that keeps asking for time gets a bounded number of extensions",
    source="ISO/IEC 14443-4 §7.3",
    broken=[
        Broken(
            module="dkey.link.isodep",
            old=_GRANT,
            new="        if False:",
            why="waiting time is granted without a limit",
        ),
        Broken(
            module="dkey.link.isodep",
            old=_GRANT,
            new="        if self._wtx_total_s > self._max_wtx_total_s:",
            why="extensions are not counted",
        ),
    ],
)
def many_short_waits(seed: int) -> None:
    del seed  # nothing here is random
    frames, _ = _drive(
        IsoDepInitiator(Ats(fsc=256, fwi=0), max_wtx_total_s=1e9), lambda _: b"\xf2\x01"
    )
    assert frames <= 130, "the reader grants time for ever"


@case(
    31,
    "a device that asks for long times gets a bounded sum of them",
    source="ISO/IEC 14443-4 §7.3",
    broken=[
        Broken(
            module="dkey.link.isodep",
            old=_GRANT,
            new="        if self._wtx_count > self._max_wtx:",
            why="the granted times are not added up",
        ),
    ],
)
def long_waits(seed: int) -> None:
    chance = Scene(seed).chance
    for fwi in (8, 11, 14):
        _, waited_s = _drive(
            IsoDepInitiator(Ats(fsc=256, fwi=fwi)),
            lambda _: bytes((0xF2, chance.randrange(30, 60))),
        )
        assert waited_s <= 5.0 + 3.2, f"the reader waits {waited_s:.0f} s for one answer"


@case(
    31,
    "waits between the blocks of one answer count together",
    source="ISO/IEC 14443-4 §7.3",
    broken=[
        Broken(
            module="dkey.link.isodep",
            old="""        errors, strange = 0, b""
""",
            new="""        errors, strange = 0, b""
        self._wtx_count, self._wtx_total_s = 0, 0.0
""",
            why="the limits begin anew with each block",
        ),
    ],
)
def waits_between_blocks(seed: int) -> None:
    waits = Scene(seed).chance.randrange(1, 20)
    state = {"waits": 0}

    def answer(transmit: Transmit) -> bytes:
        if state["waits"] < waits:
            state["waits"] += 1
            state["number"] = state.get("number", 0)
            return b"\xf2\x01"
        state["waits"] = 0
        return bytes((0x12 | state["number"],)) + b"\x00"

    def numbered(transmit: Transmit) -> bytes:
        if transmit.frame[0] & 0xF0 != 0xF0:
            state["number"] = transmit.frame[0] & 1
        return answer(transmit)

    frames, _ = _drive(IsoDepInitiator(Ats(fsc=256, fwi=0), max_wtx_total_s=1e9), numbered)
    assert frames <= 128 * 2 + 2, "waits between blocks are not counted together"


@case(
    31,
    "a multiplier that the standard does not know is refused",
    source="ISO/IEC 14443-4 §7.3",
    broken=[
        Broken(
            module="dkey.link.isodep",
            old="        if not 1 <= multiplier <= WTXM_MAX:",
            new="        if False:",
            why="any multiplier is granted, zero as well",
        ),
    ],
)
def strange_multipliers(seed: int) -> None:
    del seed  # nothing here is random
    for multiplier in (0, 60, 63):
        frames, _ = _drive(
            IsoDepInitiator(Ats(fsc=256, fwi=0)), lambda _, m=multiplier: bytes((0xF2, m))
        )
        assert frames == 1, f"WTXM {multiplier} was granted"
