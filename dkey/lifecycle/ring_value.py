"""The ring: who holds a key of one vehicle, as one immutable value (design 4, requirements A5-A7).

:func:`dkey.lifecycle.ring.apply` makes the next one. This module answers questions only: is a key
usable, what does the withdrawal list say, which keys are there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dkey.errors import PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.claims import Issuer, WithdrawalClaims, key_ref
from dkey.lifecycle.commands import Party, PartyKind, Side
from dkey.lifecycle.flags import CardFollowsPhone, Flags
from dkey.lifecycle.plain import CLAUSE, from_plain, to_plain
from dkey.lifecycle.ring_state import (
    PHONE_CAUSES,
    CardKey,
    Due,
    Ended,
    Held,
    HoldKind,
    KeyView,
    PauseState,
    Share,
    ShareState,
    Withdrawn,
)
from dkey.lifecycle.roles import Permission, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Ring", "is_corporate", "suspends_all"]

VERSION: Final = 1
_ENDED_AS: Final = {
    Ended.REVOKED: RefusalCode.KEY_REVOKED,
    Ended.DECLINED: RefusalCode.KEY_REVOKED,
    Ended.REPLACED: RefusalCode.KEY_REVOKED,
    Ended.EXPIRED: RefusalCode.KEY_EXPIRED,
}


@dataclass(frozen=True, kw_only=True)  # no slots: see dkey.lifecycle.changed
class Ring:
    """Every key of one vehicle and what governs it.

    Attributes:
        vehicle: Vehicle identifier, 16 bytes.
        flags: The choices of this deployment.
        epoch: Owner epoch of the vehicle, by its own word; a list counts in that epoch only.
        told_epoch: Owner epoch that the vehicle itself stated last.
        clock_s: Latest time seen; time never goes back here.
        owner: None while nobody is linked.
        owner_key_x: x-coordinate of the owner's key; None for a back-end-only owner (C31).
        owner_holds: Every cause that suspends the owner.
        account_holds: Every suspension of an account that lasts; it takes new keys too (S89).
        may_pause: The owner delegated the pause right (S86).
        shares: Shares that live, and the newest that ended in the last six months; by time of their
            invitation.
        cards: Cards of this owner, ended ones included.
        initial_cards: Initial cards that this vehicle ever had (S34).
        spent: Every share id and card reference that was ever used here.
        withdrawn: What the withdrawal list of this epoch revokes.
        list_number: Changes of the withdrawal list in this epoch.
        vetoes: Accounts with which sharing is forbidden.
        veto_all: Sharing is forbidden at all.
        closed: Accounts that were ended, of holders of this vehicle (S57).
        pause: The pause that runs.
        pauses_from_s: First pause request of the present year (C13).
        pauses_used: Requests since then.
        immobilised: No key may start (S101).
        removal: Sides that are cleared of the last owner already; None when none is outstanding.
        due: What happens later by itself, by time.
    """

    vehicle: bytes
    flags: Flags = field(default_factory=Flags)
    epoch: int = 0
    told_epoch: int = 0
    clock_s: int = 0
    owner: Party | None = None
    owner_key_x: bytes | None = None
    owner_holds: frozenset[Held] = frozenset()
    account_holds: frozenset[Held] = frozenset()
    may_pause: bool = False
    shares: tuple[Share, ...] = ()
    cards: tuple[CardKey, ...] = ()
    initial_cards: int = 0
    spent: frozenset[bytes] = frozenset()
    withdrawn: tuple[Withdrawn, ...] = ()
    list_number: int = 0
    vetoes: frozenset[str] = frozenset()
    veto_all: bool = False
    closed: frozenset[str] = frozenset()
    pause: PauseState | None = None
    pauses_from_s: int = 0
    pauses_used: int = 0
    immobilised: bool = False
    removal: frozenset[Side] | None = None
    due: tuple[Due, ...] = ()

    # --- questions ----------------------------------------------------------------------------

    @property
    def live(self) -> tuple[Share, ...]:
        """Shares that have not ended."""
        return tuple(each for each in self.shares if each.state is not ShareState.ENDED)

    @property
    def places_taken(self) -> int:
        """Places of the three that are taken (requirements C1)."""
        return sum(1 for each in self.shares if each.slot and each.state is not ShareState.ENDED)

    @property
    def half_removed(self) -> Side | None:
        """The side that still holds something of the last owner, when the other one is clear."""
        if self.removal is None or len(self.removal) != 1:
            return None
        return Side.VEHICLE if Side.ACCOUNT in self.removal else Side.ACCOUNT

    @property
    def next_due_s(self) -> int | None:
        """When the next Tick has something to do."""
        times = [each.not_after_s + 1 for each in self.live]
        times += [each.at_s for each in self.due]
        if self.pause is not None and self.pause.until_s:
            times.append(self.pause.until_s)
        return min(times, default=None)

    def share(self, share_id: bytes) -> Share | None:
        """Return a share of this vehicle, ended ones of the last months included."""
        for each in self.shares:
            if each.share_id == share_id:
                return each
        return None

    def card(self, ref: bytes) -> CardKey | None:
        """Return a card of this owner."""
        for each in self.cards:
            if each.card == ref:
                return each
        return None

    def usable(
        self, item: bytes, at_s: int, *, start: bool = False, phone_off: bool = False
    ) -> RefusalCode | None:
        """Return why a key or card is not usable at this time; None when it is.

        Args:
            item: Share id, or key reference of the owner's key or a card.
            at_s: Seconds since 1970; an earlier time than the ring has seen counts as that one.
            start: To start with it, not only to enter.
            phone_off: The phone of the card's holder is off (C5).
        """
        refusal = self._unusable(item, max(at_s, self.clock_s), phone_off=phone_off)
        if refusal is not None or not start:
            return refusal
        if self.immobilised:
            return RefusalCode.IMMOBILISED
        share = self.share(item)
        if share is not None and share.permission is Permission.ENTRY:
            return RefusalCode.PERMISSION_ENTRY_ONLY
        return None

    def _unusable(self, item: bytes, now_s: int, *, phone_off: bool) -> RefusalCode | None:
        for share in self.shares:
            if share.share_id == item:
                return _share_unusable(share, now_s)
        card = self.card(item)
        if card is not None:
            return self._card_unusable(card, phone_off=phone_off)
        if self.owner_key_x is not None and item == key_ref(self.owner_key_x):
            if self.owner is None or self.owner.account in self.closed:
                return RefusalCode.KEY_REVOKED
            return RefusalCode.KEY_SUSPENDED if self.owner_holds else None
        if item in self.spent or any(each.item == item for each in self.withdrawn):
            return RefusalCode.KEY_REVOKED
        return RefusalCode.KEY_UNKNOWN

    def _card_unusable(self, card: CardKey, *, phone_off: bool) -> RefusalCode | None:
        if card.ended is not None:
            return _ENDED_AS[card.ended]
        own = card.card.hex()
        if any(each.kind is HoldKind.PAUSE or each.on == own for each in card.holds):
            return RefusalCode.KEY_SUSPENDED
        follows = self.flags.card_follows_phone is CardFollowsPhone.ALWAYS
        if card.holds or (phone_off and follows):
            return RefusalCode.CARD_BLOCKED
        return None

    def withdrawal(self, issuer: Issuer, *, issued_s: int) -> WithdrawalClaims:
        """Return what this issuer's next withdrawal list says; its content has one number.

        Raises:
            PolicyRefusal: NOT_SYNCED, no list is needed before the first change.
        """
        if not self.list_number:
            raise PolicyRefusal(RefusalCode.NOT_SYNCED, "nothing was withdrawn in this epoch yet")
        return WithdrawalClaims(
            vehicle=self.vehicle,
            epoch=self.epoch,
            issuer=issuer,
            number=self.list_number,
            issued_s=issued_s,
            revoked=tuple(sorted({each.item for each in self.withdrawn})),
            suspended=tuple(sorted(self._suspended())),
            all_suspended=self.all_suspended,
            immobilised=self.immobilised and issuer is Issuer.AUTHORITY,
            corporate=self.corporate and issuer is Issuer.AUTHORITY,
        )

    def _suspended(self) -> Iterator[bytes]:
        closed = self.owner is None or self.owner.account in self.closed
        if self.owner_key_x is not None and self.owner_holds and not closed:  # else it is revoked
            yield key_ref(self.owner_key_x)
        for share in self.live:
            if share.holds:
                yield share.share_id
        for card in self.cards:
            if card.holds and card.ended is None:
                yield card.card

    @property
    def all_suspended(self) -> bool:
        """Whether the list suspends every key and card."""
        return suspends_all(self.flags, self.owner, self.pause, self.owner_holds)

    @property
    def corporate(self) -> bool:
        """Whether the authority's list says that the owner is a corporation."""
        return is_corporate(self.owner)

    def keys(self, viewer: str | None = None) -> tuple[KeyView, ...]:
        """Return the keys for display, pending ones and bookings included (S115).

        Args:
            viewer: Account of who looks; None for the authority and the owner's session. Anyone but
                the owner and the actual user sees the own key and orders by name, and no other
                key (S140, C29, C38).
        """
        everything = viewer is None or (self.owner is not None and viewer == self.owner.account)
        everything = everything or any(
            each.account == viewer
            and each.role is Role.ACTUAL_USER
            and each.state is ShareState.ACTIVE
            for each in self.live
        )
        return tuple(
            each
            for each, seen_by in self._views()
            if everything or (viewer is not None and viewer in seen_by)
        )

    def _views(self) -> Iterator[tuple[KeyView, tuple[str, ...]]]:
        owner = self.owner
        if owner is not None and self.owner_key_x is not None:
            closed = owner.account in self.closed
            state = "SUSPENDED" if self.owner_holds else "ACTIVE"
            yield (
                KeyView(
                    item=key_ref(self.owner_key_x),
                    role=Role.OWNER,
                    permission=Permission.ENTRY_AND_START,
                    state="REVOKED" if closed else state,
                    account=owner.account,
                    slot=0,
                ),
                (owner.account,),
            )
        for share in self.shares:
            view = KeyView(
                item=share.share_id,
                role=share.role,
                permission=share.permission,
                state=_state_of(share),
                account=share.account,
                slot=share.slot,
                not_after_s=share.not_after_s,
                booking_id=share.booking.booking_id if share.booking else None,
            )
            orders = (share.grantor,) if share.role is Role.PROVIDER else ()
            yield view, (share.account, *orders)
        for card in self.cards:
            state = "SUSPENDED" if card.holds else "ACTIVE"
            yield (
                KeyView(
                    item=card.card,
                    role=Role.CARD,
                    permission=Permission.ENTRY_AND_START,
                    state=card.ended.value if card.ended else state,
                    account=owner.account if owner else None,
                    slot=0,
                ),
                (),
            )

    # --- snapshots ----------------------------------------------------------------------------

    def to_value(self) -> list[Any]:
        """Return the ring as a plain value that CBOR can carry."""
        return [VERSION, to_plain(self)]

    @classmethod
    def from_value(cls, value: Any) -> Ring:
        """Return the ring that :meth:`to_value` gave.

        Raises:
            WireError: Not exactly such a value.
        """
        if not isinstance(value, list) or len(value) != 2 or value[0] != VERSION:
            raise WireError("not a ring of a version that is known", clause=CLAUSE)
        return from_plain(cls, value[1])


def is_corporate(owner: Party | None) -> bool:
    """Return whether an owner is a corporation, which alone has an actual user (S40)."""
    return owner is not None and owner.kind is PartyKind.CORPORATE


def suspends_all(
    flags: Flags, owner: Party | None, pause: PauseState | None, owner_holds: frozenset[Held]
) -> bool:
    """Return whether every key and card is suspended: in a pause, or with the owner (S51, S83)."""
    paused = pause is not None and flags.pause_affects_cards
    suspended = flags.cascade_automatic and any(
        each.kind is HoldKind.ACCOUNT and each.cause not in PHONE_CAUSES for each in owner_holds
    )
    return owner is not None and (paused or suspended)


def _share_unusable(share: Share, now_s: int) -> RefusalCode | None:
    if share.ended is not None:
        return _ENDED_AS[share.ended]
    if not share.not_before_s <= now_s <= share.not_after_s:
        return RefusalCode.KEY_EXPIRED
    if share.state is ShareState.PENDING:
        return RefusalCode.PENDING_ACTIVATION
    if share.holds:
        return RefusalCode.KEY_SUSPENDED
    return None if share.confirmed else RefusalCode.NOT_SYNCED


def _state_of(share: Share) -> str:
    if share.ended is not None:
        return share.ended.value
    if share.holds:
        return "SUSPENDED"
    if share.state is ShareState.PENDING:
        return "PENDING"
    return "ACTIVE" if share.confirmed else "NOT_SYNCED"
