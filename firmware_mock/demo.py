"""The story that ``dkey demo`` tells: over Bluetooth, by UWB, then by touch.

A step says who does what and what must come of it; it is as expected only if outcome and code are
right and, where the vehicle refuses, nothing of it changed. Time is told, not waited for.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from dkey.control.rules import Action
from dkey.control.touch import Intent, Position
from dkey.errors import RefusalCode
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission, Role
from dkey.testing import FakeClock
from firmware_mock.demo_radio import tell_radio
from firmware_mock.demo_step import DemoStep
from firmware_mock.demo_walk import tell_walk
from firmware_mock.stage import Card, Phone, Recorder, Replayer, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dkey.control.rules import Verdict
    from dkey.crypto.entropy import Entropy
    from dkey.link.base import FrameTap, Responder
    from firmware_mock.vehicle import TapOutcome, Vehicle

__all__ = ["tell"]

_PHONE: Final = "NFC phone"
_CARD: Final = "NFC card"
_BUTTON: Final = "button"
_HEAD_UNIT: Final = "head unit"
_WORDS: Final = {
    Action.LOCK: "locked",
    Action.UNLOCK: "unlocked",
    Action.AUTHORISE_START: "start authorised",
    Action.START: "started",
    Action.AUTHORISE_CARD: "card authorised",
    Action.ENROL_CARD: "card paired",
}
_EPOCH_S: Final = 1_767_225_600.0


class _Story:
    """The cast, and how a step is judged."""

    def __init__(self, stage: Stage, clock: FakeClock, entropy: Entropy) -> None:
        self.stage = stage
        self.vehicle: Vehicle = stage.vehicle
        self.clock = clock
        self.entropy = entropy
        self.chapter = ""
        self.friend: Phone | None = None
        self.owner = self.phone("owner", Role.OWNER, Permission.ENTRY_AND_START)

    def phone(self, name: str, role: Role, permission: Permission) -> Phone:
        """Return an enrolled phone."""
        phone = Phone(name, self.vehicle, self.entropy)
        self.vehicle.enrol(name, phone.public_key, role, permission)
        return phone

    async def tap(
        self,
        step: str,
        device: Responder,
        expect: Action | RefusalCode,
        *,
        position: Position = Position.DOOR_HANDLE,
        medium: str = _PHONE,
        tear_after_frames: int | None = None,
    ) -> DemoStep:
        """Hold a device to a reader and take it away."""
        before = self._state()
        outcome = await self.stage.tap(position, device, tear_after_frames=tear_after_frames)
        return self._told(step, medium, expect, outcome, before)

    async def lay(
        self, step: str, device: Responder, expect: Action | RefusalCode, medium: str = _PHONE
    ) -> DemoStep:
        """Lay a device on the pad and leave it there."""
        before = self._state()
        return self._told(step, medium, expect, await self.stage.lay_on_pad(device), before)

    def press(self, step: str, expect: Action | RefusalCode) -> DemoStep:
        """Press START."""
        before = self._state()
        verdict = self.vehicle.press_start()
        return self._told(step, _BUTTON, expect, verdict, before)

    def _told(
        self,
        step: str,
        medium: str,
        expect: Action | RefusalCode,
        found: TapOutcome | Verdict,
        before: object,
    ) -> DemoStep:
        wanted = f"refused {expect}" if isinstance(expect, RefusalCode) else _WORDS[Action(expect)]
        outcome = "refused" if found.action is None else _WORDS[found.action]
        right = found.code is expect if found.action is None else found.action is expect
        if found.action is None and self._state() != before:
            outcome, right = "refused, but something changed", False
        flow = getattr(found, "flow", None)
        detail = found.text if found.action is None else f"{flow} transaction" if flow else ""
        return DemoStep(
            chapter=self.chapter,
            step=step,
            medium=medium,
            expect=wanted,
            outcome=outcome,
            code=found.code,
            detail=detail,
            as_expected=right,
        )

    def _state(self) -> object:
        """Return everything that a refusal must leave as it is."""
        signals = self.vehicle.body.signals()
        return signals, self.vehicle.store.credentials()


async def tell(
    entropy: Entropy,
    *,
    tap: FrameTap | None = None,
    note: Callable[[str], None] | None = None,
) -> AsyncIterator[DemoStep]:
    """Play the whole story and yield its steps as they happen.

    Args:
        entropy: Random source of vehicle, phones and cards.
        tap: Receives all NFC frames, for a trace.
        note: Called with the text of each step before it is played, for a trace.
    """
    async with aclosing(tell_radio(entropy, tap=tap)) as radio:
        async for step in radio:
            if note is not None:
                note(f"{step.step}: {step.outcome}")
            yield step
    for step in await tell_walk(entropy):
        if note is not None:
            note(f"{step.step}: {step.outcome}")
        yield step
    clock = FakeClock(1000.0)
    stage = Stage(entropy=entropy, clock=clock, wall_clock=lambda: _EPOCH_S + clock.now_s, tap=tap)
    async with stage:
        story = _Story(stage, clock, entropy)
        for chapter in (_touch, _entry_only, _card, _replacement, _body_says_no, _attacks):
            async for step in chapter(story):
                if note is not None:
                    note(f"{step.step}: {step.outcome}")
                yield step


async def _touch(story: _Story) -> AsyncIterator[DemoStep]:
    """The owner's phone at the handle and on the pad."""
    story.chapter = "The owner's phone"
    owner = story.owner
    yield await story.tap("owner taps the door handle", owner, Action.UNLOCK)
    yield await story.tap("taps again at once", owner, RefusalCode.TOO_SOON)
    story.clock.advance(2)
    yield await story.tap("taps again, 2 s later", owner, Action.LOCK)
    owner.wanting(Intent.UNLOCK)
    yield await story.tap("taps, asking to unlock", owner, Action.UNLOCK)
    owner.wanting(None)
    yield story.press("presses START, phone in the pocket", RefusalCode.NO_KEY_ON_PAD)
    yield await story.lay("lays the phone on the console pad", owner, Action.AUTHORISE_START)
    yield story.press("presses START", Action.START)
    await story.stage.take_off_pad()
    story.vehicle.body.stop()
    story.clock.advance(29)
    yield story.press("presses START 29 s after taking it off", Action.START)
    story.vehicle.body.stop()
    story.clock.advance(2)
    yield story.press("presses START 31 s after taking it off", RefusalCode.NO_KEY_ON_PAD)


async def _entry_only(story: _Story) -> AsyncIterator[DemoStep]:
    """A credential that may open but not start."""
    story.chapter = "An entry-only credential"
    story.friend = story.phone("friend", Role.ASSOCIATE, Permission.ENTRY)
    friend = story.friend.wanting(Intent.UNLOCK)
    yield await story.tap("friend taps the door handle", friend, Action.UNLOCK)
    yield await story.lay("friend's phone on the pad", friend, RefusalCode.PERMISSION_ENTRY_ONLY)
    yield story.press("friend presses START", RefusalCode.PERMISSION_ENTRY_ONLY)
    await story.stage.take_off_pad()


async def _card(story: _Story) -> AsyncIterator[DemoStep]:
    """Pairing the card that came with the vehicle, and using it."""
    story.chapter = "Pairing a card"
    pad = Position.CONSOLE_PAD
    owner = story.owner
    card = Card(CardProvenance.INITIAL, story.entropy)
    yield await story.tap(
        "blank card on the pad", card, RefusalCode.NOT_AUTHORISED, position=pad, medium=_CARD
    )
    story.vehicle.open_card_window()
    yield await story.tap(
        "pairing asked for, ignition off", owner, RefusalCode.IGNITION_OFF, position=pad
    )
    story.vehicle.body.start()
    yield await story.tap(
        "pairing asked for, a stranger on the pad",
        Phone("stranger", story.vehicle, story.entropy),
        RefusalCode.NOT_AUTHORISED,
        position=pad,
    )
    yield await story.tap(
        "ignition on, owner on the pad", owner, Action.AUTHORISE_CARD, position=pad
    )
    yield await story.tap(
        "card torn away while pairing",
        card,
        RefusalCode.CARD_DAMAGED,
        position=pad,
        medium=_CARD,
        tear_after_frames=7,
    )
    yield await story.tap("card on the pad", card, Action.ENROL_CARD, position=pad, medium=_CARD)
    story.vehicle.body.stop()
    story.vehicle.body.lock()
    story.clock.advance(60)
    yield await story.tap("card at the door handle", card, Action.UNLOCK, medium=_CARD)
    yield await story.lay("card on the pad", card, Action.AUTHORISE_START, medium=_CARD)
    yield story.press("presses START", Action.START)
    await story.stage.take_off_pad()
    story.vehicle.body.stop()


async def _replacement(story: _Story) -> AsyncIterator[DemoStep]:
    """A damaged card is replaced and stays out of use."""
    story.chapter = "Replacing a damaged card"
    pad, body, vehicle = Position.CONSOLE_PAD, story.vehicle.body, story.vehicle
    owner = story.owner
    body.start()
    old = Card(CardProvenance.PURCHASED, story.entropy)
    new = Card(CardProvenance.PURCHASED, story.entropy)
    vehicle.open_card_window()
    await story.stage.tap(pad, owner)
    yield await story.tap(
        "a bought card is the second one", old, Action.ENROL_CARD, position=pad, medium=_CARD
    )
    vehicle.open_card_window()
    yield await story.tap("a third card is asked for", owner, RefusalCode.CARD_LIMIT, position=pad)
    vehicle.cancel_card_window()
    damaged = vehicle.store.credential_by_x(old.public_key.x)
    vehicle.open_card_window(replaces=None if damaged is None else damaged.credential_id)
    await story.stage.tap(pad, owner)
    yield await story.tap(
        "a new card takes its place", new, Action.ENROL_CARD, position=pad, medium=_CARD
    )
    body.stop()
    body.lock()
    story.clock.advance(60)
    yield await story.tap("the old card at the handle", old, RefusalCode.CARD_BLOCKED, medium=_CARD)
    yield await story.tap("the new card at the handle", new, Action.UNLOCK, medium=_CARD)


async def _body_says_no(story: _Story) -> AsyncIterator[DemoStep]:
    """What the vehicle's own state forbids."""
    story.chapter = "The vehicle says no"
    body, vehicle = story.vehicle.body, story.vehicle
    owner = story.owner
    owner.wanting(Intent.UNLOCK)
    body.updating = True
    yield await story.tap("taps while an update runs", owner, Action.UNLOCK)
    yield await story.lay("phone on the pad, updating", owner, RefusalCode.UPDATE_IN_PROGRESS)
    await story.stage.take_off_pad()
    body.updating = False
    yield await story.lay("phone on the pad, update done", owner, Action.AUTHORISE_START)
    body.immobilised = True
    yield story.press("presses START, immobilised", RefusalCode.IMMOBILISED)
    body.immobilised = False
    await story.stage.take_off_pad()
    body.speed_kmh = 30.0
    yield await story.tap("taps while driving", owner, RefusalCode.DRIVING)
    body.speed_kmh = 0.0
    friend = story.friend
    known = None if friend is None else vehicle.store.credential_by_x(friend.public_key.x)
    if friend is None or known is None:
        raise ValueError("the friend's chapter comes first")
    vehicle.set_state(known.credential_id, CredentialState.SUSPENDED)
    yield await story.tap("friend taps, suspended", friend, RefusalCode.KEY_SUSPENDED)
    vehicle.set_state(known.credential_id, CredentialState.REVOKED)
    yield await story.tap("friend taps, key revoked", friend, RefusalCode.KEY_REVOKED)


async def _attacks(story: _Story) -> AsyncIterator[DemoStep]:
    """What an attacker gets."""
    story.chapter = "What an attacker gets"
    owner = story.owner
    owner.wanting(Intent.LOCK)
    stranger = Phone("stranger", story.vehicle, story.entropy)
    yield await story.tap("an unknown phone", stranger, RefusalCode.KEY_UNKNOWN)
    recorded = Recorder(owner)
    yield await story.tap("the owner locks, overheard", recorded, Action.LOCK)
    yield await story.tap(
        "the overheard tap is replayed", Replayer(recorded.answers), RefusalCode.REPLAY
    )
    yield await story.tap(
        "a phone is torn away", owner, RefusalCode.CARD_DAMAGED, tear_after_frames=6
    )
