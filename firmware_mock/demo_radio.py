"""The Bluetooth part of the story: pairing the owner, near-range remote control, sharing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.agent.advice import Unreachable, trouble_of
from dkey.codec.ble import RkeAction
from dkey.errors import AuthenticationError, PolicyRefusal, RefusalCode
from dkey.lifecycle.features import Capabilities
from dkey.link.message_link import MessageTap
from dkey.pairing.owner import parse_code
from dkey.testing import FakeClock
from firmware_mock.demo_keys import tell_keys
from firmware_mock.demo_step import DemoStep
from firmware_mock.radio_stage import RadioStage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable

    from dkey.agent.agent import Agent
    from dkey.crypto.entropy import Entropy
    from dkey.link.base import FrameTap

__all__ = ["RadioStory", "tell_radio"]

_PHONE: Final = Capabilities(nfc=True, ble=True, uwb=False, os="linux 6")
_EPOCH_S: Final = 1_767_225_600.0
_REPEAT_S: Final = 30.0
_WORDS: Final = {
    RkeAction.LOCK: "locked",
    RkeAction.UNLOCK: "unlocked",
    RkeAction.REMOTE_START: "started",
    RkeAction.REMOTE_STOP: "stopped",
    RkeAction.HORN_ON: "horn on",
    RkeAction.HORN_OFF: "horn off",
}


class RadioStory:
    """The cast, and how a step is judged."""

    def __init__(self, stage: RadioStage, clock: FakeClock) -> None:
        self.stage = stage
        self.body = stage.vehicle.body
        self.clock = clock
        self.chapter = ""

    def pause(self) -> None:
        """Let the time pass that the vehicle wants between two remote commands."""
        self.clock.advance(_REPEAT_S)

    async def ask(
        self, step: str, phone: Agent, action: RkeAction, expect: RefusalCode | str | None = None
    ) -> DemoStep:
        """Let a phone ask for an action; None expects that it is done, a text some trouble."""
        wanted = _WORDS[action] if expect is None else str(expect)
        if isinstance(expect, RefusalCode):
            wanted = f"refused {expect}"
        return await self._told(step, "Bluetooth", wanted, phone.command(action), _WORDS[action])

    async def pair(self, step: str, phone: Agent, code: str, wanted: str) -> DemoStep:
        """Let a phone pair by a code."""
        pairing = phone.pair(parse_code(code), _PHONE)
        return await self._told(step, "Bluetooth", wanted, pairing, "paired")

    async def show(self, step: str, expect: RefusalCode) -> DemoStep:
        """Ask the head unit for a code that it must not show."""
        return await self._told(
            step, "head unit", f"refused {expect}", self.stage.show_code(), "code shown"
        )

    async def _told(
        self, step: str, medium: str, wanted: str, doing: Awaitable[object], done: str
    ) -> DemoStep:
        before = self._state()
        code, detail = None, ""
        try:
            found = await doing
            outcome = done
            fast = getattr(found, "fast", None)
            detail = "" if fast is None else f"{'fast' if fast else 'standard'} transaction"
        except PolicyRefusal as exc:
            code, detail = exc.code, Exception.__str__(exc)
            outcome = "refused"
        except AuthenticationError as exc:
            outcome, detail = "wrong code", Exception.__str__(exc)
        except Unreachable as exc:
            outcome, detail = trouble_of(exc).value.replace("_", " ").lower(), str(exc)
        said = f"refused {code}" if code else outcome
        right = said == wanted
        if outcome != done and self._state() != before:
            outcome, right = f"{outcome}, but something changed", False
        return DemoStep(
            chapter=self.chapter,
            step=step,
            medium=medium,
            expect=wanted,
            outcome=outcome,
            code=code,
            detail=detail,
            as_expected=right,
        )

    def _state(self) -> object:
        return self.body.signals(), self.stage.vehicle.store.credentials()


async def tell_radio(
    entropy: Entropy, *, tap: FrameTap | None = None
) -> AsyncGenerator[DemoStep, None]:
    """Play the Bluetooth part and yield its steps as they happen."""
    clock = FakeClock(1000.0)
    stage = RadioStage(
        entropy=entropy,
        clock=clock,
        wall_clock=lambda: _EPOCH_S + clock.now_s,
        tap=tap if isinstance(tap, MessageTap) else None,
    )
    async with stage:
        story = RadioStory(stage, clock)
        owner = await stage.phone("owner")
        async for step in _pairing(story, owner):
            yield step
        async for step in _remote(story, owner):
            yield step
        async for step in tell_keys(story, owner, entropy):
            yield step
        await owner.aclose()


async def _pairing(story: RadioStory, owner: Agent) -> AsyncIterator[DemoStep]:
    """The owner's phone is paired by the code that the head unit shows."""
    story.chapter = "Pairing the owner's phone"
    code = RefusalCode.IGNITION_OFF
    yield await story.show("a code is asked for, ignition off", code)
    story.body.ignition_on = True
    shown = await story.stage.show_code()
    right = shown.code.replace(" ", "")
    wrong = "".join(str(9 - int(digit)) for digit in right)
    yield await story.pair("a stranger guesses the code", owner, wrong, "wrong code")
    yield await story.pair("the owner types the code", owner, right, "paired")
    await story.stage.hide_code()
    linked = RefusalCode.ALREADY_LINKED
    yield await story.show("somebody else asks for a code", linked)
    story.body.ignition_on = False


async def _remote(story: RadioStory, owner: Agent) -> AsyncIterator[DemoStep]:
    """Near-range remote control, and every reason against it."""
    story.chapter = "Near-range remote control"
    body, start = story.body, RkeAction.REMOTE_START
    yield await story.ask("owner unlocks from two steps away", owner, RkeAction.UNLOCK)
    yield await story.ask("locks at once", owner, RkeAction.LOCK, RefusalCode.TOO_SOON)
    story.pause()
    yield await story.ask("starts, doors not locked", owner, start, RefusalCode.DOOR_NOT_LOCKED)
    yield await story.ask("locks, 30 s later", owner, RkeAction.LOCK)
    story.pause()
    for step, signal, value, code in (
        ("starts, not in P", "gear_in_park", False, RefusalCode.GEAR_NOT_P),
        ("starts, the fob is near", "smartkey_near", True, RefusalCode.SMARTKEY_NEARBY),
        ("starts, an update runs", "updating", True, RefusalCode.UPDATE_IN_PROGRESS),
        ("starts, immobilised", "immobilised", True, RefusalCode.IMMOBILISED),
        ("starts, while driving", "speed_kmh", 20.0, RefusalCode.DRIVING),
        ("starts, the engine runs", "ignition_on", True, RefusalCode.IGNITION_ON),
    ):
        was = getattr(body, signal)
        setattr(body, signal, value)
        yield await story.ask(step, owner, start, code)
        setattr(body, signal, was)
    body.fob_lock(now_s=story.clock.now_s)
    cooldown = RefusalCode.SMARTKEY_LOCK_COOLDOWN
    yield await story.ask("starts, the fob just locked", owner, start, cooldown)
    story.pause()
    yield await story.ask("starts the engine", owner, start)
    story.pause()
    yield await story.ask("stops it", owner, RkeAction.REMOTE_STOP)
    story.pause()
    yield await story.ask("sounds the horn", owner, RkeAction.HORN_ON)
    yield await story.ask("silences it", owner, RkeAction.HORN_OFF)
    story.pause()
