"""The mock vehicle: two touch readers, a body, a durable list of credentials, an event log.

A tap is one procedure that runs wherever the link's driver runs, and reads only memory. What it
decided is committed and carried out afterwards, here, and only when the device confirmed the end
of the transaction: a device that leaves the field at any point before changes nothing.

What is not touch is done by desks that share the vehicle's key list and body: cards
(:mod:`firmware_mock.card_desk`), Bluetooth (:mod:`firmware_mock.ble_desk`), the owner's pairing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from dkey.access.enrolled import Flow
from dkey.control.rules import Action, Grant, Verdict
from dkey.control.touch import Intent, Position, StartAuthorisation, decide_handle
from dkey.errors import (
    LinkError,
    LinkReason,
    PolicyRefusal,
    RefusalCode,
    RemoteFault,
)
from dkey.lifecycle.features import DK2, Feature
from firmware_mock.card_desk import CardDesk
from firmware_mock.key_list import READER_KEY, KeyList
from firmware_mock.outcome import TapOutcome, failure_of, outcome_of
from firmware_mock.share_desk import ShareDesk
from firmware_mock.touch_tap import Decided, TouchTap

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.access.reader import AccessReader
    from dkey.control.card_window import CardWindow
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.p256 import PublicKey
    from dkey.crypto.seal import Seal
    from dkey.crypto.secret import Secret
    from dkey.crypto.vault import Vault
    from dkey.lifecycle.features import FeatureProfile
    from dkey.lifecycle.roles import CredentialState, Permission, Role
    from dkey.link.base import Initiator, Link
    from firmware_mock.body import Body
    from firmware_mock.store import Credential, CredentialStore

__all__ = ["READER_KEY", "PadDesk", "TapOutcome", "Vehicle"]

_SENSE_S = 1.0
_PRESENCE_S = 0.2


class PadDesk(Protocol):
    """A desk that may claim the next device on the console pad for itself."""

    @property
    def awaits_device(self) -> bool:
        """Whether it claims it."""

    async def tap(self, link: Link) -> TapOutcome:
        """Serve the device; never raises for what the device does."""


class Vehicle:
    """One vehicle, used from one thread. Make it with :func:`firmware_mock.garage.open_vehicle`.

    Args:
        store: Credentials and events.
        vault: Holds the reader key.
        seal: Seals Kpersistent in the store.
        body: Doors, engine, signals.
        entropy: Random source.
        clock: Monotonic seconds, for debounce, grace and windows.
        wall_clock: Seconds since 1970, for the event log.
        features: What this kind of vehicle offers.

    Attributes:
        body: Doors, engine, signals.
        store: Credentials and events.
        keys: The key list, with the readers.
        card_desk: Card pairing.
        share_desk: Admits shared keys and takes withdrawal lists.
        owner_desk: Owner pairing at the pad; None until somebody provides it.
        features: What this kind of vehicle offers.
        on_change: Called after everything that may have moved the body, with the reader and the
            credential id of who did it; None for the driver.
        seal: As given.
        entropy: As given.
        clock: As given.
        wall_clock: As given.
    """

    def __init__(
        self,
        *,
        store: CredentialStore,
        vault: Vault,
        seal: Seal,
        body: Body,
        entropy: Entropy,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        features: FeatureProfile = DK2,
    ) -> None:
        self.store = store
        self.features = features
        self.body = body
        self.seal = seal
        self.entropy = entropy
        self.clock = clock
        self.wall_clock = wall_clock
        self.keys = KeyList(
            store, vault=vault, seal=seal, entropy=entropy, clock=clock, wall_clock=wall_clock
        )
        self.card_desk = CardDesk(self.keys, body, entropy=entropy, clock=clock)
        self.share_desk = ShareDesk(self.keys, told=self._rights_changed)
        self.owner_desk: PadDesk | None = None
        self._touch = TouchTap(self.keys, self.share_desk, self._decide)
        self.on_change: list[Callable[[Position | None, str | None], None]] = []
        self._clock = clock
        self._last_touch_s: float | None = None
        self._pad = StartAuthorisation()
        self._rights_changed()

    @property
    def group_id(self) -> bytes:
        """The vehicle's identifier, 16 bytes."""
        return self.keys.group_id

    @property
    def public_key(self) -> PublicKey:
        """The reader key that devices trust."""
        return self.keys.public_key

    @property
    def window(self) -> CardWindow:
        """The card pairing window."""
        return self.card_desk.window

    def close(self) -> None:
        """Keep the state and close the store. May be called twice."""
        self.keys.book.save()
        self.store.close()

    # --- credentials ------------------------------------------------------------------------

    def reader(self, position: Position) -> AccessReader:
        """Return the reader at this position; its directory always holds the key list as it is."""
        return self.keys.reader(position)

    def grant(self, credential_id: str) -> Grant | None:
        """Return the rights of a credential as enrolled now; None for one that never was."""
        return self.keys.grant(credential_id)

    def enrol(
        self, name: str, public_key: PublicKey, role: Role, permission: Permission
    ) -> Credential:
        """Enrol a phone's credential as the factory does.

        Raises:
            PolicyRefusal: ALREADY_LINKED, the vehicle has an owner (requirements S38, S125).
            LocalFault: The key is enrolled already.
        """
        credential = self.keys.new_credential(name, public_key, role, permission)
        self.keys.enrol(credential)
        self._rights_changed()
        return credential

    def provide_authority(self, key: PublicKey) -> None:
        """Keep the key of the authority whose word counts, as the factory does.

        Raises:
            PolicyRefusal: ALREADY_LINKED, an owner relies on another authority.
        """
        self.share_desk.provide_authority(key)

    def set_state(self, credential_id: str, state: CredentialState) -> None:
        """Suspend, resume or revoke one credential; Kpersistent of an unusable one is erased."""
        self.keys.set_state(credential_id, state)
        self._rights_changed()

    def reload(self) -> None:
        """Take over what somebody else committed to the store."""
        self.keys.reload()
        self._rights_changed()

    def commit_use(
        self, position: Position, grant: Grant, kind: str, *, kpersistent: Secret | None
    ) -> None:
        """Commit that a credential was used at a reader; its first use makes it count.

        Args:
            position: The reader.
            grant: Who acted.
            kind: What for, as the event log says it.
            kpersistent: What a standard transaction made; None after a fast one.
        """
        self.keys.commit_use(position, grant, kind, kpersistent=kpersistent)
        self._rights_changed()

    def changed(self, position: Position | None = None, credential_id: str | None = None) -> None:
        """Tell everybody who listens that the body may have moved, and who did it."""
        for listener in self.on_change:
            listener(position, credential_id)

    def _rights_changed(self) -> None:
        self.body.immobilised_by_order = self.keys.book.admissions.immobilised
        if self._pad.grant is not None:
            now = self.grant(self._pad.grant.credential_id)
            self._pad = self._pad.updated(now) if now is not None else StartAuthorisation()

    # --- taps -------------------------------------------------------------------------------

    async def tap(self, position: Position, link: Link) -> TapOutcome:
        """Run one transaction with the device on ``link`` and act on it.

        Never raises for what the device does: a refusal and a device that left are outcomes.
        """
        self.card_desk.tick()
        if position is Position.CONSOLE_PAD and self.card_desk.awaits_card:
            return await self.card_desk.tap(link)
        if position is Position.CONSOLE_PAD and self.owner_desk and self.owner_desk.awaits_device:
            return await self.owner_desk.tap(link)
        try:
            return self._settle(position, await self._touch.run(position, link))
        except PolicyRefusal as exc:
            return self._refused(position, exc.code, str(exc))
        except (LinkError, RemoteFault) as exc:
            code, text = failure_of(exc)
            return self._refused(position, code, text)

    async def serve(
        self, position: Position, initiator: Initiator, report: Callable[[TapOutcome], None]
    ) -> None:
        """Run one reader until cancelled: each device that comes is one tap until it leaves.

        Args:
            position: Where the reader is.
            initiator: The reader; the caller closes it.
            report: Called with each outcome.
        """
        while True:
            try:
                link = await initiator.sense(timeout_s=_SENSE_S)
            except LinkError as exc:
                if exc.reason is not LinkReason.ABSENT or not exc.transient:
                    raise
                continue
            if link is None:
                continue
            try:
                report(await self.tap(position, link))
                while await link.present():  # noqa: ASYNC110 - a field tells nothing by itself
                    await asyncio.sleep(_PRESENCE_S)
            finally:
                await link.aclose()
                if position is Position.CONSOLE_PAD:
                    self.pad_cleared()

    def _decide(
        self, position: Position, grant: Grant | None, intent: Intent | None, flow: Flow
    ) -> Verdict:
        now_s, signals = self._clock(), self.body.signals()
        fast = flow is Flow.FAST
        if position is Position.CONSOLE_PAD and self.card_desk.awaits_owner:
            return self.card_desk.decide_owner(grant, flow)
        if position is Position.CONSOLE_PAD:
            pad = StartAuthorisation().present(grant, fast=fast, now_s=now_s)
            verdict = pad.authorised(now_s=now_s, signals=signals)
            return self._able(verdict, Feature.TOUCH_START)
        verdict = decide_handle(
            grant,
            intent=intent,
            fast=fast,
            signals=signals,
            last_action_s=self._last_touch_s,
            now_s=now_s,
        )
        return self._able(verdict, Feature.TOUCH_LOCK)

    def _able(self, verdict: Verdict, feature: Feature) -> Verdict:
        """Refuse a function that this vehicle and the key's device do not have in common (S17)."""
        who = verdict.credential_id
        if not verdict.granted or who is None or self.offers(feature, who):
            return verdict
        return Verdict(
            action=None,
            code=RefusalCode.FEATURE_NOT_SUPPORTED,
            credential_id=who,
            text="the vehicle or the phone does not have this function",
        )

    def offers(self, feature: Feature, credential_id: str) -> bool:
        """Whether this vehicle has a function, and the device of this credential is able to it."""
        return feature in self.features.features & self.keys.features(credential_id)

    def _settle(self, position: Position, decided: Decided) -> TapOutcome:
        """Commit and carry out what a finished transaction decided."""
        verdict, flow = decided.verdict, decided.flow
        grant = self.keys.acting(decided.credential, flow)
        if position is Position.CONSOLE_PAD and verdict.action is not Action.AUTHORISE_CARD:
            # Whoever lies there now counts, also when refused: the key before it does no more.
            fast = flow is Flow.FAST
            self._pad = StartAuthorisation().present(grant, fast=fast, now_s=self._clock())
        if verdict.code is not None or verdict.action is None or grant is None:
            code = verdict.code or RefusalCode.NOT_AUTHORISED
            return self._refused(position, code, verdict.text, grant=grant, flow=flow)
        # The body and the rights may have changed while the device answered: ask again, and act
        # on that.
        again = self._decide(position, grant, decided.intent, flow)
        if again.action is not verdict.action:
            code = again.code or RefusalCode.NOT_AUTHORISED
            return self._refused(position, code, again.text, grant=grant, flow=flow)
        self.commit_use(position, grant, verdict.action.value, kpersistent=decided.kpersistent)
        match verdict.action:
            case Action.AUTHORISE_START:
                pass  # the device lies on the pad, which is all there is to it
            case Action.AUTHORISE_CARD:
                self.card_desk.authorise(grant, flow)
            case Action.LOCK:
                self._last_touch_s = self._clock()
                self.body.lock()
            case Action.UNLOCK:
                self._last_touch_s = self._clock()
                self.body.unlock()
            case _:
                raise ValueError(f"a tap cannot {verdict.action}")
        self.changed(position, grant.credential_id)
        return outcome_of(position, grant, flow, action=verdict.action)

    def _refused(
        self,
        position: Position,
        code: RefusalCode,
        text: str,
        *,
        grant: Grant | None = None,
        flow: Flow | None = None,
    ) -> TapOutcome:
        who = None if grant is None else grant.credential_id
        self.keys.note("REFUSED", position=position, credential_id=who, code=code, text=text)
        return outcome_of(position, grant, flow, code=code, text=text)

    # --- the pad and the start button ---------------------------------------------------------

    def pad_cleared(self) -> None:
        """The device was taken off the pad: the grace begins."""
        self._pad = self._pad.removed(now_s=self._clock())

    def key_on_pad(self) -> Grant | None:
        """Return the rights of the key that lies on the pad now; None for none."""
        self._rights_changed()
        return self._pad.grant if self._pad.removed_s is None else None

    def press_start(self) -> Verdict:
        """The driver presses START; the engine starts if a device on the pad permits it."""
        now_s = self._clock()
        self._rights_changed()  # its time may be over since the key was laid down
        verdict = self._pad.start(signals=self.body.signals(), now_s=now_s)
        self.keys.note(
            "REFUSED" if verdict.code else "START",
            position=Position.CONSOLE_PAD,
            credential_id=verdict.credential_id,
            code=verdict.code,
            text=verdict.text,
        )
        if verdict.granted:
            self.body.start()
            self.changed()
        return verdict

    # --- card pairing -------------------------------------------------------------------------

    def open_card_window(self, *, replaces: str | None = None) -> None:
        """The driver asks at the head unit to pair a card.

        Args:
            replaces: Credential id of the damaged card whose place it takes, or None.

        Raises:
            PolicyRefusal: A window is open already.
        """
        self.card_desk.open(replaces=replaces)

    def cancel_card_window(self) -> None:
        """The driver gives up pairing a card."""
        self.card_desk.cancel()
