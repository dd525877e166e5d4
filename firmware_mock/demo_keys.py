"""The key-sharing part of the story: three friends, a fourth, what is withdrawn, what is ended.

Every phone is the real agent with a store of its own. The messages of a share go from hand to hand,
as files would; what the vehicle learns, it learns over Bluetooth from whichever phone comes by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dkey.agent.key_accepting import Friend
from dkey.agent.key_sharing import Offer, Sharer
from dkey.codec.ble import RkeAction
from dkey.errors import DkeyError, PolicyRefusal, RefusalCode
from dkey.lifecycle import commands
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.roles import Permission, Role
from firmware_mock.demo_step import DemoStep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dkey.agent.agent import Agent
    from dkey.agent.store import AgentStore
    from dkey.crypto.entropy import Entropy
    from firmware_mock.demo_radio import RadioStory

__all__ = ["tell_keys"]

_DAY_S: Final = 86_400
_YEAR_S: Final = 365 * _DAY_S
_ENTRY: Final = Permission.ENTRY
_START: Final = Permission.ENTRY_AND_START


@dataclass(slots=True)
class _Holder:
    """A friend: a phone, its store, and the share once there is one."""

    name: str
    account: str
    agent: Agent
    store: AgentStore
    share_id: bytes = b""


class _KeyStory:
    """The cast, and how a step of sharing is judged."""

    def __init__(self, story: RadioStory, entropy: Entropy) -> None:
        self.story = story
        self.entropy = entropy
        self.store = story.stage.stores["owner"]
        self.vehicle = self.store.vehicles()[0].group_id
        self.sharer = Sharer(self.store, entropy)

    async def friend(self, name: str, account: str) -> _Holder:
        """Return somebody with a phone that has no key yet."""
        agent = await self.story.stage.phone(name)
        return _Holder(name, account, agent, self.story.stage.stores[name])

    def told(
        self, step: str, medium: str, wanted: str, doing: Callable[[], str], done: str
    ) -> DemoStep:
        """Do something that a rule may refuse, and judge it."""
        code, outcome = None, done
        try:
            detail = doing()
        except PolicyRefusal as exc:
            code, outcome, detail = exc.code, "refused", Exception.__str__(exc)
        except DkeyError as exc:
            outcome, detail = "failed", str(exc)
        return DemoStep(
            chapter=self.story.chapter,
            step=step,
            medium=medium,
            expect=wanted,
            outcome=outcome,
            code=code,
            detail=detail,
            as_expected=(f"refused {code}" if code else outcome) == wanted,
        )

    def share(
        self,
        step: str,
        friend: _Holder,
        permission: Permission,
        expect: RefusalCode | None = None,
    ) -> DemoStep:
        """Invite, accept, compare the keys, sign, import: five files between two phones."""

        def doing() -> str:
            now_s = self.store.keys.now_s
            offer = Offer(
                account=friend.account,
                role=Role.ASSOCIATE,
                permission=permission,
                not_before_s=now_s,
                not_after_s=now_s + _YEAR_S,
            )
            sent = self.sharer.invite(self.vehicle, offer)
            taking = Friend(friend.store, self.entropy)
            link = self.sharer.link(sent)
            got = taking.open(link.secret, sent.envelope)
            request = taking.request(got.share_id)
            compared = taking.fingerprint(request)
            self.sharer.take(request.envelope)
            answer = self.sharer.sign(got.share_id, compared)
            receipt = taking.answer(got.share_id, answer.envelope)
            self.sharer.take(receipt.envelope)
            friend.share_id = got.share_id
            return f"{permission}, both compared {compared}"

        wanted = "key shared" if expect is None else f"refused {expect}"
        return self.told(step, "phone to phone", wanted, doing, "key shared")

    def order(self, step: str, done: str, *wanted: commands.Command) -> DemoStep:
        """Let the owner's phone do something to the keys, with no network."""

        def doing() -> str:
            with self.store.keys.change() as change:
                for each in wanted:
                    change.command(self.vehicle, each)
            held = self.store.keys.book(self.vehicle).held(Issuer.OWNER)
            return "" if held is None else f"list {held.number} signed; the vehicle has to hear it"

        return self.told(step, "owner's phone", done, doing, done)

    def carry(self, step: str, friend: _Holder) -> DemoStep:
        """Hand the owner's list to a friend's phone."""

        def doing() -> str:
            held = self.store.keys.book(self.vehicle).held(Issuer.OWNER)
            assert held is not None
            Friend(friend.store, self.entropy).carry(held.raw)
            return f"list {held.number}"

        return self.told(step, "phone to phone", "list handed on", doing, "list handed on")

    def erase(self, step: str) -> DemoStep:
        """Clear the vehicle for the next owner."""

        def doing() -> str:
            stage = self.story.stage
            epoch = stage.owners.transfer()
            left = [each for each in stage.vehicle.keys.grants() if each.state == "ACTIVE"]
            if left:
                raise PolicyRefusal(RefusalCode.ALREADY_LINKED, f"{len(left)} keys are left")
            return f"no key and no card left, owner epoch {epoch}"

        return self.told(step, "head unit", "erased", doing, "erased")

    def actor(self) -> str:
        """Return the owner's account."""
        return self.store.keys.book(self.vehicle).account


async def tell_keys(story: RadioStory, owner: Agent, entropy: Entropy) -> AsyncIterator[DemoStep]:
    """Play the chapters on sharing; the owner is paired and synced."""
    keys = _KeyStory(story, entropy)
    names = ("first", "second", "third", "fourth")
    friends = [await keys.friend(f"{name} friend", f"{name}@example.org") for name in names]
    for chapter in (_sharing, _withdrawing, _ending):
        async for step in chapter(keys, owner, friends):
            yield step
    for each in friends:
        await each.agent.aclose()


async def _sharing(
    keys: _KeyStory, owner: Agent, friends: list[_Holder]
) -> AsyncIterator[DemoStep]:
    """Three people get keys, a fourth does not; the vehicle learns of each at the first use."""
    story, (first, second, third, fourth) = keys.story, friends
    story.chapter = "Sharing the key"
    yield keys.share("owner shares with a first friend", first, _START)
    yield keys.share("with a second, entry only", second, _ENTRY)
    yield keys.share("with a third", third, _START)
    limit = RefusalCode.SHARE_LIMIT
    yield keys.share("with a fourth", fourth, _START, limit)
    unlock, lock = RkeAction.UNLOCK, RkeAction.LOCK
    for friend in (first, second, third):
        await friend.agent.status()
    yield await story.ask("first friend unlocks, car offline", first.agent, unlock)
    story.pause()
    yield await story.ask("second friend locks", second.agent, lock)
    story.pause()
    entry = RefusalCode.PERMISSION_ENTRY_ONLY
    yield await story.ask("second friend starts", second.agent, RkeAction.REMOTE_START, entry)
    story.pause()
    del owner


async def _withdrawing(
    keys: _KeyStory, owner: Agent, friends: list[_Holder]
) -> AsyncIterator[DemoStep]:
    """Revocation travels with any phone; a suspended key comes back, a revoked one never."""
    story, (first, second, third, fourth) = keys.story, friends
    story.chapter = "Withdrawing keys, with no network"
    actor = keys.actor()
    unlock, lock = RkeAction.UNLOCK, RkeAction.LOCK
    yield keys.order(
        "owner revokes the first friend, far away",
        "revoked",
        commands.Revoke(actor=actor, item=first.share_id),
    )
    yield keys.carry("third friend's phone takes the list along", third)
    await third.agent.leave()
    yield await story.ask("third friend unlocks", third.agent, unlock)
    story.pause()
    revoked = RefusalCode.KEY_REVOKED
    yield await story.ask("first friend locks", first.agent, lock, revoked)
    yield keys.share("a place is free: the fourth friend gets it", fourth, _START)
    await fourth.agent.status()
    yield await story.ask("fourth friend locks", fourth.agent, lock)
    story.pause()
    suspend = commands.Suspend(actor=actor, item=second.share_id)
    yield keys.order("owner suspends the second friend", "suspended", suspend)
    await owner.leave()
    yield await story.ask("owner passes by and unlocks", owner, unlock)
    story.pause()
    suspended = RefusalCode.KEY_SUSPENDED
    yield await story.ask("second friend locks", second.agent, lock, suspended)
    resume = commands.Resume(actor=actor, item=second.share_id)
    yield keys.order("owner resumes it", "resumed", resume)
    await owner.leave()
    yield await story.ask("owner passes by and locks", owner, lock)
    story.pause()
    yield await story.ask("second friend unlocks", second.agent, unlock)
    story.pause()


async def _ending(keys: _KeyStory, owner: Agent, friends: list[_Holder]) -> AsyncIterator[DemoStep]:
    """A pause takes every key at once; a transfer leaves none."""
    story, (_, second, third, fourth) = keys.story, friends
    story.chapter = "Pausing and handing over"
    actor = keys.actor()
    suspended = RefusalCode.KEY_SUSPENDED
    lock = RkeAction.LOCK
    yield keys.order(
        "owner pauses all keys for a month", "paused", commands.Pause(actor=actor, days=30)
    )
    await owner.leave()
    await owner.status()
    for name, friend in (("second", second), ("third", third), ("fourth", fourth)):
        yield await story.ask(f"{name} friend locks", friend.agent, lock, suspended)
    yield keys.order("owner ends the pause", "resumed", commands.EndPause(actor=actor))
    await owner.leave()
    await owner.status()
    yield await story.ask("third friend locks", third.agent, lock)
    story.pause()
    yield keys.order("the vehicle is sold", "transferred", commands.Transfer(actor=actor))
    yield keys.erase("owner erases everything at the head unit")
    unknown = RefusalCode.KEY_UNKNOWN
    for name, phone in (("third friend", third.agent), ("former owner", owner)):
        yield await story.ask(f"{name} unlocks", phone, RkeAction.UNLOCK, unknown)
