"""Peers that never come to an end: command and response chains, claimed lengths (case 30)."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

from dkey.access.enrolled import Flow
from dkey.access.messages import Ins
from dkey.codec.apdu import Command
from dkey.errors import LinkError, LinkReason, WireError

from .. import Broken, case
from .scene import Scene, Wire, attempt, failed, refusal, transact

if TYPE_CHECKING:
    from collections.abc import Callable


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


@case(
    30,
    "a malformed command ends everything, also what waits for GET RESPONSE",
    source="rule for all cases: fail closed, no data after a failure",
    broken=(
        Broken(
            module="dkey.access.applet",
            old="        self._splitter.reset()\n        if self._selected is not None:\n"
            "            self._selected.fail()",
            new="        if self._selected is not None:\n            self._selected.fail()",
            why="what waits for GET RESPONSE outlives the failure",
        ),
    ),
)
def rest_after_failure(seed: int) -> None:
    scene = Scene(seed)
    phone = scene.phone()
    wire = Wire(phone.answer)
    transact(scene.reader(), wire)
    phone.answer(wire.command(Ins.SELECT))
    phone.answer(wire.command(Ins.AUTH0)[:-1] + bytes((scene.chance.randrange(1, 60),)))
    if not failed(phone.answer(b"\x80\x81\x00")):
        raise RuntimeError("three bytes are a command")
    rest = phone.answer(b"\x00\xc0\x00\x00\x00")
    assert failed(rest), "the phone handed out the rest of an answer after the failure process"
