"""The UWB part of the story: the car opens as its owner walks up, and starts with the phone inside.

It runs on a loop of its own whose time jumps, so that half a minute of walking takes a moment.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dkey.codec.ble import RkeAction
from dkey.errors import RefusalCode
from dkey.lifecycle.roles import Permission, Role
from firmware_mock.demo_step import DemoStep
from firmware_mock.jumping_loop import jumped
from firmware_mock.proximity_stage import DOOR_M, FAR_M, SEAT_M, ProximityStage
from firmware_mock.uwb_channel import Channel

if TYPE_CHECKING:
    from dkey.control.rules import Verdict
    from dkey.crypto.entropy import Entropy
    from firmware_mock.proximity_stage import Walker

__all__ = ["tell_walk"]

_PASS_M: Final = (-6.0, 4.0)
_UWB: Final = "UWB"


class _WalkStory:
    """The stage, and how a step is judged."""

    def __init__(self, stage: ProximityStage) -> None:
        self.stage = stage
        self.steps: list[DemoStep] = []

    def told(
        self,
        step: str,
        wanted: str,
        outcome: str,
        code: RefusalCode | None = None,
        detail: str = "",
    ) -> None:
        """Note one step and what came of it."""
        said = f"refused {code}" if code else outcome
        self.steps.append(
            DemoStep(
                chapter="Walking up, by UWB",
                step=step,
                medium=_UWB,
                expect=wanted,
                outcome=outcome,
                code=code,
                detail=detail,
                as_expected=said == wanted,
            )
        )

    def doors(self, step: str, wanted: str) -> None:
        """Judge by the doors."""
        outcome = "locked" if self.stage.body.locked else "unlocked"
        where = [f"zone {each['text']}" for each in self.stage.told("zone")][-1:]
        self.told(step, wanted, outcome, detail=", ".join(where))

    def start(self, step: str, wanted: str, verdict: Verdict | None) -> None:
        """Judge a press of START."""
        if verdict is None:
            self.told(step, wanted, "nothing")
        elif verdict.code is not None:
            self.told(step, wanted, "refused", verdict.code, verdict.text)
        else:
            outcome = "started" if self.stage.body.ignition_on else "nothing"
            self.told(step, wanted, outcome, detail="phone in the cabin, standard transaction")


async def tell_walk(entropy: Entropy) -> list[DemoStep]:
    """Play the chapter and return its steps."""
    return await asyncio.to_thread(jumped, lambda: _play(entropy))


async def _play(entropy: Entropy) -> list[DemoStep]:
    with tempfile.TemporaryDirectory(prefix="dkw") as name:
        async with AsyncExitStack() as stack:
            stage = ProximityStage(
                Path(name),
                entropy=lambda _who: entropy,
                stack=stack,
                seed=int.from_bytes(entropy.random(4), "big"),
                channel=Channel.PROTOTYPE,
            )
            await asyncio.sleep(0.1)
            story = _WalkStory(stage)
            owner = await stage.phone().connect()
            friend = stage.phone("friend", Role.ASSOCIATE, Permission.ENTRY)
            await _owner(story, owner)
            await _friend(story, await friend.connect())
            return story.steps


async def _owner(story: _WalkStory, owner: Walker) -> None:
    stage = story.stage
    await owner.walk((3.0, 7.0), _PASS_M)
    story.doors("owner passes by, 4 m off", "locked")
    await owner.walk(FAR_M, DOOR_M)
    story.doors("owner walks up, phone in the pocket", "unlocked")
    outside = RefusalCode.OUT_OF_ZONE
    story.start("somebody presses START meanwhile", f"refused {outside}", stage.uwb.press_start())
    await owner.walk(SEAT_M)
    story.start("owner sits in and presses START", "started", stage.uwb.press_start())
    stage.body.stop()
    await owner.walk(DOOR_M, FAR_M, stay_s=6.0)
    story.doors("gets out and walks away", "locked")


async def _friend(story: _WalkStory, friend: Walker) -> None:
    stage = story.stage
    await friend.walk(DOOR_M, SEAT_M)
    story.doors("a friend walks up", "unlocked")
    entry = RefusalCode.PERMISSION_ENTRY_ONLY
    story.start("the friend presses START", f"refused {entry}", stage.uwb.press_start())
    assert friend.uwb_link is not None
    await friend.walk(DOOR_M, FAR_M, stay_s=6.0)
    story.doors("walks away", "locked")
    await friend.uwb_link.aclose()
    await friend.walk(DOOR_M)
    story.doors("comes back, UWB broken", "locked")
    assert friend.session is not None
    verdict = await friend.session.request(RkeAction.UNLOCK, answer_s=5)
    story.told(
        "unlocks with a button on the phone instead",
        "unlocked",
        "refused" if verdict.code else "unlocked",
        None if verdict.code is None else RefusalCode(verdict.code),
        "loss of UWB leaves Bluetooth and touch",
    )
