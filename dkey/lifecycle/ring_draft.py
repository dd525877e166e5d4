"""A ring while one command changes it: the few primitive changes, each with its effect.

A draft lives inside one call of :func:`dkey.lifecycle.ring.apply`. A refusal throws it away, so
that nothing was changed then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.cascade import beneath
from dkey.lifecycle.changed import changed, made_of
from dkey.lifecycle.claims import key_ref
from dkey.lifecycle.policy import MAX_ENDED_SHARES, MAX_SHARES, MAX_WITHDRAWN
from dkey.lifecycle.ring_effects import Effect, KeyEnded, KeyHeld, KeyLifted
from dkey.lifecycle.ring_state import Ended, Held, ShareState, Withdrawn
from dkey.lifecycle.ring_value import Ring, is_corporate, suspends_all
from dkey.lifecycle.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.lifecycle.commands import Party, Side
    from dkey.lifecycle.flags import Flags
    from dkey.lifecycle.ring_state import CardKey, Due, PauseState, Share

__all__ = ["Draft"]

_ENDED: Final = ShareState.ENDED


def _split(
    holds: frozenset[Held], wanted: Callable[[Held], bool]
) -> tuple[list[Held], frozenset[Held]]:
    """Return the causes that are wanted, in a fixed order, and the others."""
    gone = [each for each in holds if wanted(each)]
    if len(gone) == len(holds):
        left: frozenset[Held] = frozenset()
    else:
        left = frozenset([each for each in holds if each not in gone])
    if len(gone) > 1:
        gone.sort(key=lambda held: (held.kind, held.who, held.on))
    return gone, left


class Draft:
    """The mutable copy of a ring; attributes are those of :class:`Ring`.

    Args:
        ring: What it starts from.
        at_s: When the command came; time never goes back.

    Attributes:
        places: How many shares take a place at most.
    """

    # What is not of the ring; the rest lies in __dict__, which is the content of the next ring.
    __slots__ = ("__dict__", "_before", "_listed", "effects", "now_s")

    places = MAX_SHARES

    vehicle: bytes
    flags: Flags
    epoch: int
    told_epoch: int
    owner: Party | None
    owner_key_x: bytes | None
    owner_holds: frozenset[Held]
    account_holds: frozenset[Held]
    may_pause: bool
    shares: list[Share]
    cards: list[CardKey]
    initial_cards: int
    spent: frozenset[bytes]
    withdrawn: tuple[Withdrawn, ...]
    list_number: int
    vetoes: frozenset[str]
    veto_all: bool
    closed: frozenset[str]
    pause: PauseState | None
    pauses_from_s: int
    pauses_used: int
    immobilised: bool
    removal: frozenset[Side] | None
    due: tuple[Due, ...]

    def __init__(self, ring: Ring, at_s: int) -> None:
        self.__dict__ = {**ring.__dict__}
        self.now_s = max(at_s, ring.clock_s)
        self.shares = list(ring.shares)
        self.cards = list(ring.cards)
        self.effects: list[Effect] = []
        self._before = ring
        self._listed = False

    def done(self) -> Ring:
        """Return the ring as it is now; a list that says something else has the next number."""
        before = self._before
        if self.epoch == before.epoch and not self._listed:
            all_now = suspends_all(self.flags, self.owner, self.pause, self.owner_holds)
            corporate = is_corporate(self.owner)
            self._listed = (all_now, corporate) != (before.all_suspended, before.corporate)
        content = {
            **self.__dict__,
            "clock_s": self.now_s,
            "shares": tuple(self.shares),
            "cards": tuple(self.cards),
            "list_number": self.list_number + self._listed,
        }
        return made_of(Ring, content)

    # --- questions ----------------------------------------------------------------------------

    @property
    def live(self) -> list[Share]:
        """Shares that have not ended."""
        return [each for each in self.shares if each.state is not _ENDED]

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
            if each.account == account and each.state is not _ENDED:
                return each
        return None

    def beneath(self, share: Share) -> tuple[Share, ...]:
        """Return the live shares that fall with this one."""
        return beneath(self.live, share, self.flags)

    def signed_by(self, share: Share) -> tuple[Share, ...]:
        """Return the live shares that an actual user's key signed; they are suspended with it."""
        if share.role is not Role.ACTUAL_USER or not self.flags.cascade_automatic:
            return ()
        return tuple([each for each in self.live if each.grantor == share.account])

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
        cards = [each for each in self.cards if each.ended is None]
        return len(self.withdrawn) + len(self.live) + len(cards) + 2

    # --- changes ------------------------------------------------------------------------------

    def listed(self) -> None:
        """Note that the withdrawal list changed."""
        self._listed = True

    def unlisted(self) -> None:
        """Note that a new list begins with nothing in it."""
        self._listed = False

    def put(self, share: Share) -> None:
        """Replace a share by its next value."""
        item = share.share_id
        for at, each in enumerate(self.shares):
            if each.share_id == item:
                self.shares[at] = share
                return

    def put_card(self, card: CardKey) -> None:
        """Replace a card by its next value."""
        for at, each in enumerate(self.cards):
            if each.card == card.card:
                self.cards[at] = card
                return

    def withdraw(self, item: bytes, until_s: int) -> None:
        """Put a key on the list of what is revoked."""
        self.withdrawn += (made_of(Withdrawn, {"item": item, "until_s": until_s}),)
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
        if share.state is _ENDED:
            return
        below = {each.share_id for each in self.beneath(share)}
        for at, each in enumerate(self.shares):
            if each.share_id == share.share_id:
                self._end_at(at, each, reason)
        for at, each in enumerate(self.shares):
            if each.share_id in below:
                self._end_at(at, each, Ended.REVOKED)

    def end_shares(self, reason: Ended) -> None:
        """End every share for good."""
        for at, share in enumerate(self.shares):
            if share.state is not _ENDED:
                self._end_at(at, share, reason)

    def _end_at(self, at: int, share: Share, reason: Ended) -> None:
        self.shares[at] = share.ended_as(reason, self.now_s)
        if share.role is Role.ACTUAL_USER:
            self.may_pause = False  # it was delegated to this one (S86)
        if reason is not Ended.EXPIRED:
            self.withdraw(share.share_id, share.not_after_s)
        elif share.holds:
            self._listed = True
        self._ended(share.share_id, share.account, share.role, reason)

    def _ended(self, item: bytes, account: str, role: Role, reason: Ended) -> None:
        content = {"item": item, "account": account, "role": role, "reason": reason}
        self.effects.append(made_of(KeyEnded, content))

    def end_card(self, card: CardKey, reason: Ended) -> None:
        """End a card for good."""
        if card.ended is not None:
            return
        self.put_card(changed(card, ended=reason, holds=frozenset()))
        self.withdraw(card.card, 0)
        self._ended(card.card, self.owner_account, Role.CARD, reason)

    def end_everything(self) -> None:
        """End every share and card at once, and drop them; the list still names them."""
        reason, account = Ended.REVOKED, self.owner_account
        fallen = [(each.share_id, each.not_after_s, each.account, each.role) for each in self.live]
        fallen += [(each.card, 0, account, Role.CARD) for each in self.cards if each.ended is None]
        for item, until_s, whose, role in fallen:
            self.withdraw(item, until_s)
            self._ended(item, whose, role, reason)
        self.shares, self.cards = [], []
        self._listed = True

    def hold_owner(self, held: Held) -> None:
        """Suspend the owner."""
        one = frozenset((held,))
        if self.owner is not None and not one <= self.owner_holds:
            self._listed = self._listed or not self.owner_holds
            self.owner_holds |= one
            self._held(self.owner_item or b"", self.owner_account, held)

    def hold_shares(self, shares: Iterable[Share], held: Held) -> None:
        """Suspend shares."""
        wanted = {each.share_id for each in shares}
        one = frozenset((held,))
        for at, share in enumerate(self.shares):
            fits = share.share_id in wanted and share.ended is None
            if fits and not one <= share.holds:
                self._listed = self._listed or not share.holds
                self.shares[at] = share.held_by(share.holds | one)
                self._held(share.share_id, share.account, held)

    def hold_cards(self, cards: Iterable[CardKey], held: Held) -> None:
        """Suspend cards."""
        wanted = {each.card for each in cards}
        one = frozenset((held,))
        for at, card in enumerate(self.cards):
            fits = card.card in wanted and card.ended is None
            if fits and not one <= card.holds:
                self._listed = self._listed or not card.holds
                self.cards[at] = changed(card, holds=card.holds | one)
                self._held(card.card, self.owner_account, held)

    def _held(self, item: bytes, account: str, held: Held) -> None:
        content = {"item": item, "account": account, "kind": held.kind, "who": held.who}
        self.effects.append(made_of(KeyHeld, content))

    def lift(self, wanted: Callable[[Held], bool]) -> bool:
        """Lift every cause that is wanted, wherever it holds something; return whether any did."""
        before = len(self.effects)
        if self.owner_holds:
            gone, self.owner_holds = _split(self.owner_holds, wanted)
            self._lifted(self.owner_item or b"", self.owner_account, gone, self.owner_holds)
        for at, share in enumerate(self.shares):
            if share.holds:
                gone, left = _split(share.holds, wanted)
                self.shares[at] = share.held_by(left) if gone else share
                self._lifted(share.share_id, share.account, gone, left)
        for at, card in enumerate(self.cards):
            if card.holds:
                gone, left = _split(card.holds, wanted)
                self.cards[at] = changed(card, holds=left) if gone else card
                self._lifted(card.card, self.owner_account, gone, left)
        return len(self.effects) > before

    def _lifted(self, item: bytes, account: str, gone: list[Held], left: frozenset[Held]) -> None:
        self._listed = self._listed or not left
        for each in gone:
            content = {"item": item, "account": account, "kind": each.kind, "usable": not left}
            self.effects.append(made_of(KeyLifted, content))
