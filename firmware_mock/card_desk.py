"""Card pairing at the console pad: the window, the owner's authority, the card itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.access.enrolled import Flow
from dkey.control.card_window import CardWindow, WindowState
from dkey.control.rules import Action, Verdict
from dkey.control.touch import Position
from dkey.errors import LinkError, PolicyRefusal, RefusalCode, RemoteFault
from dkey.lifecycle.claims import key_ref
from dkey.lifecycle.roles import Permission, Role
from dkey.link.driver import run
from dkey.pairing.card import PendingCard, begin_pairing
from firmware_mock.outcome import failure_of, outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.control.rules import Grant
    from dkey.crypto.entropy import Entropy
    from dkey.link.base import Link
    from firmware_mock.body import Body
    from firmware_mock.key_list import KeyList
    from firmware_mock.outcome import TapOutcome
    from firmware_mock.store import Credential

__all__ = ["CardDesk"]

_PAD = Position.CONSOLE_PAD


class CardDesk:
    """Pairs cards, one at a time, as the window allows (specs/card-keys.md §2).

    Args:
        keys: The vehicle's key list.
        body: For the signals that a rule looks at.
        entropy: Random source.
        clock: Monotonic seconds.

    Attributes:
        window: The card pairing window.
    """

    def __init__(
        self, keys: KeyList, body: Body, *, entropy: Entropy, clock: Callable[[], float]
    ) -> None:
        self.window = CardWindow()
        self._keys = keys
        self._body = body
        self._entropy = entropy
        self._clock = clock

    @property
    def awaits_owner(self) -> bool:
        """Whether the next key on the pad is asked for its consent."""
        return self.window.state is WindowState.AWAIT_OWNER

    @property
    def awaits_card(self) -> bool:
        """Whether the next device on the pad is taken for a card to pair."""
        return self.window.state is WindowState.AWAIT_CARD

    def open(self, *, replaces: str | None = None) -> None:
        """The driver asks at the head unit to pair a card.

        Args:
            replaces: Credential id of the damaged card whose place it takes, or None.

        Raises:
            PolicyRefusal: A window is open already.
        """
        self.tick()
        self.window = self.window.open(replaces=replaces, now_s=self._clock())

    def cancel(self) -> None:
        """The driver gives up pairing a card."""
        self.window = self.window.cancel()

    def tick(self) -> None:
        """Close the window when its time is over."""
        self.window = self.window.tick(now_s=self._clock())

    def decide_owner(self, owner: Grant | None, flow: Flow) -> Verdict:
        """Decide a tap on the pad while the window waits for the owner."""
        credential_id = None if owner is None else owner.credential_id
        try:
            self._authorised(owner, flow)
        except PolicyRefusal as exc:
            return Verdict(action=None, code=exc.code, credential_id=credential_id, text=str(exc))
        return Verdict(action=Action.AUTHORISE_CARD, code=None, credential_id=credential_id)

    def authorise(self, owner: Grant, flow: Flow) -> None:
        """The owner's transaction on the pad is over: one card may come.

        Raises:
            PolicyRefusal: By the pairing rules; the window stays as it is.
        """
        self.window = self._authorised(owner, flow)

    async def tap(self, link: Link) -> TapOutcome:
        """Pair the card on ``link``; never raises for what the card does."""
        reader = self._keys.reader(_PAD)
        try:
            card = await run(begin_pairing(reader.identity, self._entropy), link)
            self._admit(card)
            await run(card.commit(), link)
            # The card may have taken its time: what permits it must still hold, as after a tap.
            window = self._admit(card)
            credential = self._enrol(card)
        except PolicyRefusal as exc:
            return self._refused(exc.code, str(exc))
        except (LinkError, RemoteFault) as exc:
            return self._refused(*failure_of(exc))
        self.window = window
        return outcome_of(_PAD, credential.grant(), None, action=Action.ENROL_CARD)

    def _enrol(self, card: PendingCard) -> Credential:
        credential = self._keys.new_credential(
            f"card {len(self._keys.store.cards()) + 1}",
            card.public_key,
            Role.CARD,
            Permission.ENTRY_AND_START,
            provenance=card.provenance,
        )
        with self._keys.change() as change:
            replaced = self._keys.reference(self.window.replaces)
            change.writes.add(credential, replaces=self.window.replaces)
            change.apply("CARD", key_ref(credential.x), replaced)
            self._keys.log(
                change.writes,
                Action.ENROL_CARD.value,
                position=_PAD,
                credential_id=credential.credential_id,
                text=card.provenance.value,
            )
        return credential

    def _authorised(self, owner: Grant | None, flow: Flow) -> CardWindow:
        return self.window.authorise(
            owner,
            fast=flow is Flow.FAST,
            signals=self._body.signals(),
            cards=self._keys.cards,
            now_s=self._clock(),
        )

    def _admit(self, card: PendingCard) -> CardWindow:
        """Check a card that proved its key; the returned window is closed.

        Raises:
            PolicyRefusal: By the pairing rules, or the key is enrolled already.
        """
        self.tick()
        try:
            if self._keys.store.credential_by_x(card.public_key.x) is not None:
                raise PolicyRefusal(
                    RefusalCode.ALREADY_LINKED,
                    "the card is enrolled already",
                    hint="use another card; a card that was replaced stays out of use",
                )
            owner = self.window.owner
            if owner is not None:  # with the rights it has now, not those it had on the pad
                owner = self._keys.grant(owner.credential_id)
            return self.window.admit(
                card.provenance,
                owner=owner,
                signals=self._body.signals(),
                cards=self._keys.store.cards(),
            )
        except PolicyRefusal:
            card.abandon()
            raise

    def _refused(self, code: RefusalCode, text: str) -> TapOutcome:
        self._keys.note("REFUSED", position=_PAD, code=code, text=text)
        return outcome_of(_PAD, None, None, code=code, text=text)
