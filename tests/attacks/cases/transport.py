"""Peers that never come to an end: chains, claimed lengths, waiting (cases 30, 31)."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

from dkey.access.messages import Ins
from dkey.access.reader import Flow
from dkey.codec.apdu import Command
from dkey.errors import LinkError, LinkReason, WireError
from dkey.link.isodep import Ats, IsoDepInitiator
from dkey.link.isodep_target import IsoDepTarget

from .. import Broken, case
from .scene import Scene, Wire, attempt, failed, refusal, transact

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.isodep import Transmit

AT_LEAST = 2000
"""Bytes of a command chain that a device must take (Aliro 1.0 §8.3.2.2)."""
AT_MOST = 4096
"""Bytes of a command or response chain that anybody takes (specs/vehicle-profile.md)."""


# --- 30 chains and claims, ISO 7816 ---------------------------------------------------------------


def _accepted(scene: Scene, sizes: Callable[[], int]) -> int:
    """Return how many bytes of an endless command chain a phone takes; capped at 16 KiB."""
    phone, taken, blocks = scene.phone(), 0, 0
    phone.answer(Command(0x00, Ins.SELECT, 4, 0, scene.profile.access_aid, 256).to_bytes())
    while taken < 1 << 14 and blocks < 1 << 13:
        size = sizes()
        answer = phone.answer(Command(0x90, Ins.LOAD_CERT, 0, 0, bytes(size)).to_bytes())
        if failed(answer):
            return taken
        taken, blocks = taken + size, blocks + 1
    return taken + (1 << 14)


@case(
    30,
    "a command chain without an end is cut off",
    source="SweynTooth; ISO/IEC 7816-4 §5.3",
    broken=[
        Broken(
            module="dkey.codec.apdu",
            old="        if self._size > self._limit:",
            new="        if False:",
            why="an assembled command may have any size",
        ),
    ],
)
def endless_command_chain(seed: int) -> None:
    scene = Scene(seed)
    for sizes in (lambda: 255, lambda: 1, lambda: scene.chance.randrange(1, 256)):
        taken = _accepted(scene, sizes)
        if taken < AT_LEAST:
            raise RuntimeError(f"the phone takes only {taken} bytes")
        assert taken <= AT_MOST, "the phone keeps an endless command chain"


@case(
    30,
    "a command chain of empty blocks is refused at once",
    source="SweynTooth; ISO/IEC 7816-4 §5.3",
    broken=[
        Broken(
            module="dkey.codec.apdu",
            old="if (self._head not in (None, head)) or (more and not command.data):",
            new="if self._head not in (None, head):",
            why="empty blocks make no progress and meet no limit",
        ),
    ],
)
def empty_command_chain(seed: int) -> None:
    assert _accepted(Scene(seed), lambda: 0) == 0, "the phone takes empty chain blocks for ever"


@case(
    30,
    "a chain cannot end in another command than it began",
    source="parser differentials; ISO/IEC 7816-4 §5.3.3",
    broken=[
        Broken(
            module="dkey.codec.apdu",
            old="if (self._head not in (None, head)) or (more and not command.data):",
            new="if more and not command.data:",
            why="the blocks of different commands are put together",
        ),
    ],
)
def mixed_command_chain(seed: int) -> None:
    scene = Scene(seed)
    phone = scene.phone()
    wire = Wire(phone.answer)
    transact(scene.reader(), wire)
    select, auth0 = wire.command(Ins.SELECT), wire.command(Ins.AUTH0)
    cut = scene.chance.randrange(1, len(auth0) - 7)
    phone.answer(select)
    phone.answer(Command(0x90, Ins.EXCHANGE, 0, 0, auth0[5 : 5 + cut]).to_bytes())
    answer = phone.answer(Command(0x80, Ins.AUTH0, 0, 0, auth0[5 + cut : -1], 256).to_bytes())
    assert failed(answer), "a command was put together from blocks of two"


@case(
    30,
    "a device that always has more to say does not hold the reader",
    source="SweynTooth; ISO/IEC 7816-4 §5.3.4",
    broken=[
        Broken(
            module="dkey.codec.apdu",
            old="        if total > limits.total or (not answer.data and answer.sw >> 8 == 0x61):",
            new="        if not answer.data and answer.sw >> 8 == 0x61:",
            why="an assembled response may have any size",
        ),
        Broken(
            module="dkey.codec.apdu",
            old="        if total > limits.total or (not answer.data and answer.sw >> 8 == 0x61):",
            new="        if total > limits.total:",
            why="empty parts make no progress and meet no limit",
        ),
    ],
)
def endless_response_chain(seed: int) -> None:
    scene = Scene(seed)
    for size in (0, 1, scene.chance.randrange(2, 256), 256):
        asked = 0

        def more(_: bytes, size: int = size) -> bytes:
            nonlocal asked
            asked += 1
            if asked > 2 * AT_MOST:
                raise LinkError(LinkReason.LOST, "the case has seen enough")
            return bytes(size) + b"\x61\x00"

        refused = attempt(scene.reader().authenticate(Flow.STANDARD), more)
        assert isinstance(refused, WireError), "the reader did not see through it"
        assert asked <= AT_MOST // max(size, 1) + 3, "the reader went on asking for more"


@case(
    30,
    "a claim of 64 KiB is refused without room being made for it",
    source="SweynTooth; allocation by claimed length",
    broken=[
        Broken(
            module="dkey.codec.apdu",
            old="        if lc and size == 7 + lc:",
            new="        if lc and size <= 7 + lc:",
            why="an extended length may claim more than there is",
        ),
        Broken(
            module="dkey.codec.apdu",
            old="""        lc = int.from_bytes(apdu[5:7], "big")
""",
            new="""        lc = int.from_bytes(apdu[5:7], "big")
        room = bytearray(lc)
""",
            why="the claimed length is allocated before it is checked",
        ),
    ],
)
def large_claims(seed: int) -> None:
    scene = Scene(seed)
    phone = scene.phone()
    phone.answer(Command(0x00, Ins.SELECT, 4, 0, scene.profile.access_aid, 256).to_bytes())
    head = bytes((0x80, Ins.AUTH0, 0, 0))
    short = head + b"\x00\xff\xff" + scene.chance.randbytes(scene.chance.randrange(1, 200))
    tracemalloc.start()
    try:
        refused = refusal(Command.parse, short)
        answer = phone.answer(short)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(refused, WireError), "a command of few bytes has 64 KiB of data"
    assert failed(answer), "the phone took a command that claims 64 KiB"
    assert peak < 0x8000, f"{peak} bytes were set aside for a claim"
    whole = head + b"\x00\xff\xff" + bytes(0xFFFF)
    assert failed(phone.answer(whole)), "the phone took 64 KiB of nothing for an AUTH0"


# --- 30 and 31, ISO 14443-4 -----------------------------------------------------------------------


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
    target = IsoDepTarget(lambda apdu: answered.append(apdu) or b"\x90\x00")
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
