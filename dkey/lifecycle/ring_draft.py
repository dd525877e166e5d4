"""A ring while one command changes it: the few primitive changes, each with its effect.

A draft lives inside one call of :func:`dkey.lifecycle.ring.apply`. A refusal throws it away, so
that nothing was changed then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.cascade import beneath
from dkey.lifecycle.claims import key_ref
from dkey.lifecycle.policy import MAX_ENDED_SHARES, MAX_SHARES, MAX_WITHDRAWN
from dkey.lifecycle.ring_effects import Effect, KeyEnded, KeyHeld, KeyLifted
from dkey.lifecycle.ring_state import Ended, Held, ShareState, Withdrawn
from dkey.lifecycle.ring_value import Ring
from dkey.lifecycle.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.lifecycle.ring_state import CardKey, Share

__all__ = ["Draft"]


class Draft:
    """The mutable copy of a ring; attributes are those of :class:`Ring`.

    Args:
        ring: What it starts from.
        at_s: When the command came; time never goes back.

    Attributes:
        places: How many shares take a place at most.
    """

    places = MAX_SHARES

    def __init__(self, ring: Ring, at_s: int) -> None:
        self.flags = ring.flags
        self.vehicle = ring.vehicle
        self.epoch = ring.epoch
        self.told_epoch = ring.told_epoch
        self.now_s = max(at_s, ring.clock_s)
        self.owner = ring.owner
        self.owner_key_x = ring.owner_key_x
        self.owner_holds = ring.owner_holds
        self.account_holds = ring.account_holds
        self.may_pause = ring.may_pause
        self.shares = list(ring.shares)
        self.cards = list(ring.cards)
        self.initial_cards = ring.initial_cards
        self.spent = ring.spent
        self.withdrawn = ring.withdrawn
        self.list_number = ring.list_number
        self.vetoes = ring.vetoes
        self.veto_all = ring.veto_all
        self.closed = ring.closed
        self.pause = ring.pause
        self.pauses_from_s = ring.pauses_from_s
        self.pauses_used = ring.pauses_used
        self.immobilised = ring.immobilised
        self.removal = ring.removal
        self.due = ring.due
        self.effects: list[Effect] = []
        self._listed = False

    def done(self) -> Ring:
        """Return the ring as it is now; a changed withdrawal list has the next number."""
        return Ring(
            vehicle=self.vehicle,
            flags=self.flags,
            epoch=self.epoch,
            told_epoch=self.told_epoch,
            clock_s=self.now_s,
            owner=self.owner,
            owner_key_x=self.owner_key_x,
            owner_holds=self.owner_holds,
            account_holds=self.account_holds,
            may_pause=self.may_pause,
            shares=tuple(self.shares),
            cards=tuple(self.cards),
            initial_cards=self.initial_cards,
            spent=self.spent,
            withdrawn=self.withdrawn,
            list_number=self.list_number + self._listed,
            vetoes=self.vetoes,
            veto_all=self.veto_all,
            closed=self.closed,
            pause=self.pause,
            pauses_from_s=self.pauses_from_s,
            pauses_used=self.pauses_used,
            immobilised=self.immobilised,
            removal=self.removal,
            due=self.due,
        )

    # --- questions ----------------------------------------------------------------------------

    @property
    def live(self) -> list[Share]:
        """Shares that have not ended."""
        return [each for each in self.shares if each.state is not ShareState.ENDED]

    @property
    def owner_account(self) -> str:
        """The owner's account; empty without an owner."""
        return self.owner.account if self.owner is not None else ""

    @property
    def owner_item(self) -> bytes | None:
        """Key reference of the owner's key."""
        return key_ref(self.owner_key_x) if self.owner_key_x is not None else None

    def share_of(self, account: str) -> Share | None:
        """Return the live share of an account; it has at most one."""
        for each in self.shares:
            if each.account == account and each.state is not ShareState.ENDED:
                return each
        return None

    def beneath(self, share: Share) -> tuple[Share, ...]:
        """Return the live shares that fall with this one."""
        return beneath(self.live, share, self.flags)

    def find(self, item: bytes) -> tuple[Role, Share | None, CardKey | None]:
        """Return the role of a key, and the share or card that it is.

        Raises:
            PolicyRefusal: KEY_UNKNOWN.
        """
        for share in self.shares:
            if share.share_id == item:
                return share.role, share, None
        for card in self.cards:
            if card.card == item:
                return Role.CARD, None, card
        if item == self.owner_item:
            return Role.OWNER, None, None
        raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, "this vehicle has no such key or card")

    def invited(self, share_id: bytes) -> Share:
        """Return a share.

        Raises:
            PolicyRefusal: KEY_UNKNOWN.
        """
        for share in self.shares:
            if share.share_id == share_id:
                return share
        raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, "this vehicle has no such share")

    def has_room(self) -> bool:
        """Whether the list can name one more key, when all that live are withdrawn one day."""
        if self._most_listed() > MAX_WITHDRAWN:
            self.forget_expired()
        return self._most_listed() <= MAX_WITHDRAWN

    def _most_listed(self) -> int:
        """Return how long the list gets with every key, the owner's and one more on it."""
        cards = sum(1 for each in self.cards if each.ended is None)
        return len(self.withdrawn) + len(self.live) + cards + 2

    # --- changes ------------------------------------------------------------------------------

    def listed(self) -> None:
        """Note that the withdrawal list changed."""
        self._listed = True

    def unlisted(self) -> None:
        """Note that a new list begins with nothing in it."""
        self._listed = False

    def put(self, share: Share) -> None:
        """Replace a share by its next value."""
        for at, each in enumerate(self.shares):
            if each.share_id == share.share_id:
                self.shares[at] = share

    def put_card(self, card: CardKey) -> None:
        """Replace a card by its next value."""
        self.cards = [card if each.card == card.card else each for each in self.cards]

    def withdraw(self, item: bytes, until_s: int) -> None:
        """Put a key on the list of what is revoked."""
        self.withdrawn = (*self.withdrawn, Withdrawn(item=item, until_s=until_s))
        self._listed = True

    def forget_oldest(self) -> None:
        """Keep no more of what ended than is shown, whoever invites and revokes all day."""
        ended = [each.share_id for each in self.shares if each.state is ShareState.ENDED]
        if len(ended) > MAX_ENDED_SHARES:
            gone = set(ended[:-MAX_ENDED_SHARES])
            self.shares = [each for each in self.shares if each.share_id not in gone]

    def forget_expired(self) -> None:
        """Take from the list what is expired anyway."""
        now_s = self.now_s
        kept = tuple(each for each in self.withdrawn if not each.until_s or each.until_s >= now_s)
        if kept != self.withdrawn:
            self.withdrawn = kept
            self._listed = True

    def end(self, share: Share, reason: Ended) -> None:
        """End a share for good, and what stands on it (S54); a share that ended stays as it is."""
        if share.state is ShareState.ENDED:
            return
        below = self.beneath(share)
        self.put(share.ended_as(reason, self.now_s))
        if share.role is Role.ACTUAL_USER:
            self.may_pause = False  # it was delegated to this one (S86)
        if reason is not Ended.EXPIRED:
            self.withdraw(share.share_id, share.not_after_s)
        elif share.holds:
            self._listed = True
        self.effects.append(
            KeyEnded(item=share.share_id, account=share.account, role=share.role, reason=reason)
        )
        for each in below:
            self.end(self.invited(each.share_id), Ended.REVOKED)

    def end_card(self, card: CardKey, reason: Ended) -> None:
        """End a card for good."""
        if card.ended is not None:
            return
        self.put_card(replace(card, ended=reason, holds=frozenset()))
        self.withdraw(card.card, 0)
        self.effects.append(
            KeyEnded(item=card.card, account=self.owner_account, role=Role.CARD, reason=reason)
        )

    def end_everything(self) -> None:
        """End every share and card at once, and drop them; the list still names them."""
        reason, account = Ended.REVOKED, self.owner_account
        fallen = [(each.share_id, each.not_after_s, each.account, each.role) for each in self.live]
        fallen += [(each.card, 0, account, Role.CARD) for each in self.cards if each.ended is None]
        self.withdrawn += tuple(
            Withdrawn(item=item, until_s=until_s) for item, until_s, _, _ in fallen
        )
        self.effects += [
            KeyEnded(item=item, account=whose, role=role, reason=reason)
            for item, _, whose, role in fallen
        ]
        self.shares, self.cards = [], []
        self._listed = True

    def hold_owner(self, held: Held) -> None:
        """Suspend the owner."""
        if held not in self.owner_holds and self.owner is not None:
            self.owner_holds |= {held}
            self._held(self.owner_item or b"", self.owner_account, held)

    def hold_shares(self, shares: Iterable[Share], held: Held) -> None:
        """Suspend shares."""
        wanted = {each.share_id for each in shares}
        one = frozenset((held,))
        for at, share in enumerate(self.shares):
            fits = share.share_id in wanted and share.ended is None
            if fits and not one <= share.holds:
                self.shares[at] = share.held_by(share.holds | one)
                self._held(share.share_id, share.account, held)

    def hold_cards(self, cards: Iterable[CardKey], held: Held) -> None:
        """Suspend cards."""
        one = frozenset((held,))
        for card in cards:
            if card.ended is None and not one <= card.holds:
                self.put_card(replace(card, holds=card.holds | one))
                self._held(card.card, self.owner_account, held)

    def _held(self, item: bytes, account: str, held: Held) -> None:
        self._listed = True
        self.effects.append(KeyHeld(item=item, account=account, kind=held.kind, who=held.who))

    def lift(self, wanted: Callable[[Held], bool]) -> bool:
        """Lift every cause that is wanted, wherever it holds something; return whether any did."""
        before = len(self.effects)
        gone = frozenset(each for each in self.owner_holds if wanted(each))
        if gone:
            self.owner_holds -= gone
            self._lifted(self.owner_item or b"", self.owner_account, gone, self.owner_holds)
        for share in list(self.shares):
            if not share.holds:
                continue
            gone = frozenset(each for each in share.holds if wanted(each))
            if gone:
                self.put(share.held_by(share.holds - gone))
                self._lifted(share.share_id, share.account, gone, share.holds - gone)
        for card in list(self.cards):
            gone = frozenset(each for each in card.holds if wanted(each))
            if gone:
                self.put_card(replace(card, holds=card.holds - gone))
                self._lifted(card.card, self.owner_account, gone, card.holds - gone)
        return len(self.effects) > before

    def _lifted(
        self, item: bytes, account: str, gone: frozenset[Held], left: frozenset[Held]
    ) -> None:
        self._listed = True
        for each in sorted(gone, key=lambda held: (held.kind, held.who, held.on)):
            self.effects.append(
                KeyLifted(item=item, account=account, kind=each.kind, usable=not left)
            )
