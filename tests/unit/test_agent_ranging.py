"""The phone's UWB beside its agent: staying near, and what it tells."""

from __future__ import annotations

import asyncio

from agent_world import jumping

from dkey.agent.agent_ranging import keep_near
from dkey.errors import LinkError, LinkReason


@jumping
async def test_an_agent_that_stays_near_tries_again_and_says_a_failure_once():
    told: list[str] = []
    left = [False, False, True, True]

    async def follow() -> bool:
        if not left.pop(0):
            raise LinkError(LinkReason.ABSENT, "nobody there")
        return True

    task = asyncio.create_task(keep_near(follow, lambda name, _values: told.append(name)))
    began_s = asyncio.get_running_loop().time()
    while left:
        await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told == ["not_near"]
    assert asyncio.get_running_loop().time() - began_s < 15
