"""What a vehicle lets in, decided by itself, offline (design 2, requirements S54, S122, S123, C18).

:class:`Admissions` is all that a vehicle remembers of keys and withdrawal lists. It takes what
signed statements say after their signatures were checked. Each method returns the next value, which
is committed before anything is answered, or refuses and nothing was changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from dkey.errors import PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.admission_checks import (
    check_corporate,
    check_free,
    check_lift,
    check_list_issuer,
    check_may_issue,
    check_reference,
    issuer_of,
)
from dkey.lifecycle.admission_state import Admitted, Taken, Verdict, with_corporate
from dkey.lifecycle.claims import NO_SLOT, Issuer, KeyClaims, WithdrawalClaims, key_ref
from dkey.lifecycle.flags import Flags
from dkey.lifecycle.plain import CLAUSE, from_plain, to_plain
from dkey.lifecycle.policy import MAX_CHAIN, MAX_SHARES
from dkey.lifecycle.roles import Permission, Role

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Admissions", "Admitted", "Taken", "Verdict"]

VERSION: Final = 2
_X: Final = slice(1, 33)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admissions:
    """Everything that one vehicle remembers of who may open it.

    Attributes:
        vehicle: Vehicle identifier, 16 bytes.
        flags: The choices of this deployment.
        epoch: Owner epoch; statements of another one are refused.
        owner_x: x-coordinate of the owner's key; None before pairing.
        authority_x: x-coordinate of the authority's signing key; None where there is none.
        admitted: Keys that were let in, at most one a slot.
        cards: Key references of paired cards.
        taken: The latest list of each issuer.
        gone: Every share and key that was ever revoked or replaced in this epoch.
        immobilised: No key may start; outlives a factory reset, which a thief can do (S101).
        time_s: Latest time that the vehicle saw or the authority signed; never goes back.
        owner_time_s: Latest time that the owner of this epoch signed. It counts as long as the
            epoch: nobody could let every share of the next owner expire.
    """

    vehicle: bytes
    flags: Flags = field(default_factory=Flags)
    epoch: int = 0
    owner_x: bytes | None = None
    authority_x: bytes | None = None
    admitted: tuple[Admitted, ...] = ()
    cards: frozenset[bytes] = frozenset()
    taken: tuple[Taken, ...] = ()
    gone: frozenset[bytes] = frozenset()
    immobilised: bool = False
    time_s: int = 0
    owner_time_s: int = 0

    # --- the owner ----------------------------------------------------------------------------

    def enrol_owner(self, x: bytes) -> Admissions:
        """Return with the first owner's key.

        Raises:
            PolicyRefusal: ALREADY_LINKED until a factory reset (S125); REPLAY for a key that is
                enrolled as another's.
        """
        if self.owner_x == x:
            return self
        if self.owner_x is not None:
            raise PolicyRefusal(
                RefusalCode.ALREADY_LINKED,
                "the vehicle has an owner",
                hint="factory-reset it first",
            )
        if any(each.x == x or each.claims.share_id == key_ref(x) for each in self.admitted):
            raise PolicyRefusal(RefusalCode.REPLAY, "this key is enrolled as a share")
        return replace(self, owner_x=x)

    def change_owner(
        self, x: bytes | None, *, shares: Iterable[bytes] = (), cards: Iterable[bytes] = ()
    ) -> Admissions:
        """Return with another owner's key in a new epoch; lists begin anew.

        Args:
            x: The new owner's key; None for one that has none.
            shares: Share ids that survive, by the authority's word.
            cards: Cards that survive.
        """
        stay, stay_cards = frozenset(shares), frozenset(cards)
        return replace(
            self,
            epoch=self.epoch + 1,
            owner_x=x,
            admitted=tuple(
                each
                for each in self.admitted
                if each.claims.share_id in stay
                and each.x != x
                and self._parent_stays(each, stay)
                and each.until_s >= self._now(0)
                and (x is None or each.claims.share_id != key_ref(x))
            ),
            cards=self.cards & stay_cards,
            taken=(),
            gone=frozenset(),
            owner_time_s=0,
        )

    @staticmethod
    def _parent_stays(each: Admitted, stay: frozenset[bytes]) -> bool:
        return not each.parent or each.parent in stay

    def enrol_card(self, card: bytes, *, replaces: bytes | None = None) -> Admissions:
        """Return with one more card, or one in the place of another (C32, S25).

        Raises:
            PolicyRefusal: KEY_REVOKED for a card that was withdrawn; CARD_LIMIT.
        """
        if card in self.gone:
            raise PolicyRefusal(RefusalCode.KEY_REVOKED, "this card was withdrawn")
        if self._share(card) is not None or (self.owner_x and card == key_ref(self.owner_x)):
            raise PolicyRefusal(RefusalCode.REPLAY, "this is the reference of another key")
        cards = self.cards - {replaces} | {card}
        if len(cards) > self.flags.max_cards:
            raise PolicyRefusal(RefusalCode.CARD_LIMIT, "no place for another card")
        gone = self.gone | {replaces} if replaces is not None else self.gone
        return replace(self, cards=cards, gone=gone)

    def factory_reset(self) -> Admissions:
        """Return with nothing left, in a new epoch; numbers of lists begin anew (S62, S122)."""
        return replace(
            self,
            epoch=self.epoch + 1,
            owner_x=None,
            admitted=(),
            cards=frozenset(),
            taken=(),
            gone=frozenset(),
            owner_time_s=0,
        )

    def power_cycle(self) -> Admissions:
        """Return after power was lost: nothing is forgotten (S123)."""
        return self

    # --- shares -------------------------------------------------------------------------------

    def admit(self, chain: tuple[KeyClaims, ...], x: bytes, now_s: int) -> Admissions:
        """Return with a key let in on the word of its chain, root first.

        Args:
            chain: One attestation, or the actual user's and the one that the actual user signed.
            x: x-coordinate of the key that authenticated.
            now_s: Trusted time, seconds since 1970.

        Raises:
            PolicyRefusal: WRONG_VEHICLE, KEY_UNKNOWN (another's attestation), NOT_AUTHORISED (no
                issuer's word, or a person's actual user), KEY_REVOKED (epoch or list), KEY_EXPIRED,
                NOT_SYNCED (a list is missing), KEY_SUSPENDED, REPLAY (another key for a share),
                SHARE_LIMIT.
        """
        if not 1 <= len(chain) <= MAX_CHAIN:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "no such chain of attestations")
        if any(each.vehicle != self.vehicle for each in chain):
            raise PolicyRefusal(RefusalCode.WRONG_VEHICLE, "this key is for another vehicle")
        claims = chain[-1]
        if claims.public_key[_X] != x:
            raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, "this attestation is for another key")
        known = self._share(claims.share_id)
        same = known is not None and known.claims == claims
        if not same:
            self._check_epoch(chain)
        issuer = issuer_of(self, chain)
        after = self._reached(issuer, chain[0].issued_s, now_s)
        now_s = max(self._now(now_s), chain[0].issued_s)
        self._check_gone(chain)
        self._check_window(chain, now_s)
        self._check_lists(chain, issuer)
        self._check_suspended(chain, issuer)
        if same:
            return after
        check_may_issue(self, chain, issuer)
        self._check_corporate(chain, issuer)
        check_reference(self, claims.share_id, x)
        self._check_binding(known, claims, x, now_s)
        former = self._place(claims, now_s)
        admitted = Admitted(
            claims=claims,
            x=x,
            parent=chain[0].share_id if len(chain) > 1 else b"",
            until_s=min(each.not_after_s for each in chain),
        )
        over = tuple(each for each in self.admitted if each == former or each.x == x)
        stays = tuple(each for each in self.admitted if each not in (*over, known))
        gone = self.gone | {each.claims.share_id for each in over if each != known}
        return replace(after, admitted=(*stays, admitted), gone=gone)

    def _now(self, now_s: int) -> int:
        return max(now_s, self.time_s, self.owner_time_s)

    def _reached(self, issuer: Issuer, issued_s: int, now_s: int = 0) -> Admissions:
        """Return with the time seen, and that at which an issuer signed."""
        if issuer is Issuer.OWNER:
            time_s, owner_time_s = max(self.time_s, now_s), max(self.owner_time_s, issued_s)
        else:
            time_s, owner_time_s = max(self.time_s, now_s, issued_s), self.owner_time_s
        if (time_s, owner_time_s) == (self.time_s, self.owner_time_s):
            return self
        return replace(self, time_s=time_s, owner_time_s=owner_time_s)

    def _share(self, share_id: bytes) -> Admitted | None:
        return next((each for each in self.admitted if each.claims.share_id == share_id), None)

    def _check_epoch(self, chain: tuple[KeyClaims, ...]) -> None:
        if any(each.epoch != self.epoch for each in chain):
            raise PolicyRefusal(
                RefusalCode.KEY_REVOKED,
                "this attestation is of another owner's time",
                hint="ask the owner for a new one",
            )

    def _check_gone(self, chain: tuple[KeyClaims, ...]) -> None:
        if any(each.share_id in self.gone for each in chain):
            raise PolicyRefusal(RefusalCode.KEY_REVOKED, "this share was withdrawn")

    def _check_window(self, chain: tuple[KeyClaims, ...], now_s: int) -> None:
        for each in chain:
            if not each.not_before_s <= now_s <= each.not_after_s:
                raise PolicyRefusal(RefusalCode.KEY_EXPIRED, "this share is not valid at this time")

    def _check_lists(self, chain: tuple[KeyClaims, ...], issuer: Issuer) -> None:
        number = self.number(issuer)
        if any(each.list_number > number for each in chain):
            raise PolicyRefusal(
                RefusalCode.NOT_SYNCED,
                "a newer withdrawal list must come first",
                hint="bring the list from the authority or the owner's phone",
            )

    def _check_suspended(self, chain: tuple[KeyClaims, ...], issuer: Issuer) -> None:
        owner = key_ref(self.owner_x) if self.owner_x is not None else b""
        if issuer is Issuer.OWNER and owner in self.gone:
            raise PolicyRefusal(RefusalCode.KEY_REVOKED, "the owner's key was withdrawn")
        own = chain if self.flags.cascade_automatic else chain[-1:]
        if any(self.suspended(each.share_id) for each in own):
            raise PolicyRefusal(RefusalCode.KEY_SUSPENDED, "this share is suspended")

    def _check_corporate(self, chain: tuple[KeyClaims, ...], issuer: Issuer) -> None:
        check_corporate(self, chain, issuer)

    def _check_binding(
        self, known: Admitted | None, claims: KeyClaims, x: bytes, now_s: int
    ) -> None:
        renewed = known is not None and known.x == x and known.claims.epoch < claims.epoch
        if known is not None and not renewed:
            raise PolicyRefusal(RefusalCode.REPLAY, "this share was taken by another attestation")
        others = (each for each in self.admitted if each is not known)
        check_free(others, self.owner_x, x, now_s)

    def _place(self, claims: KeyClaims, now_s: int) -> Admitted | None:
        """Return whose expired place the key takes; None for a free one."""
        if claims.slot == NO_SLOT:
            counts = claims.role is Role.PROVIDER and not self.flags.provider_counts
            if claims.role is not Role.ACTUAL_USER and not counts:
                raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "this role needs a slot")
        elif not 1 <= claims.slot <= MAX_SHARES or claims.role is Role.ACTUAL_USER:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "there is no such slot for this role")
        for each in self.admitted:
            place = (each.claims.slot, claims.slot == NO_SLOT and each.claims.role)
            wanted = (claims.slot, claims.slot == NO_SLOT and claims.role)
            if place == wanted and each.claims.share_id != claims.share_id:
                if each.until_s < now_s:
                    return each
                raise PolicyRefusal(
                    RefusalCode.SHARE_LIMIT,
                    "another share holds this place",
                    hint="bring the list that withdraws it",
                )
        return None

    # --- lists --------------------------------------------------------------------------------

    def number(self, issuer: Issuer) -> int:
        """Return the number of the latest list of an issuer; 0 for none in this epoch."""
        return next((each.number for each in self.taken if each.issuer is issuer), 0)

    def take_list(self, claims: WithdrawalClaims) -> Admissions:
        """Return after a withdrawal list; the same one again changes nothing.

        Raises:
            PolicyRefusal: WRONG_VEHICLE; REPLAY (older, of another epoch, or other content under a
                number that was taken); NOT_AUTHORISED (not an issuer of this vehicle).
        """
        if claims.vehicle != self.vehicle:
            raise PolicyRefusal(RefusalCode.WRONG_VEHICLE, "this list is for another vehicle")
        self._check_list_epoch(claims)
        check_list_issuer(self, claims)
        taken = Taken.of(claims)
        former = next((each for each in self.taken if each.issuer is claims.issuer), None)
        after = self._reached(claims.issuer, claims.issued_s)
        if former == taken:
            return after
        self._check_newer(former, taken)
        check_lift(self, former, taken)
        gone, stays = self._fallen(self._gone_with(taken))
        return replace(
            after,
            taken=tuple(
                sorted(
                    (*(each for each in self.taken if each is not former), taken),
                    key=lambda each: each.issuer.value,
                )
            ),
            gone=gone,
            admitted=stays,
            cards=self.cards - gone,
            immobilised=(
                claims.immobilised if claims.issuer is Issuer.AUTHORITY else self.immobilised
            ),
        )

    def _check_list_epoch(self, claims: WithdrawalClaims) -> None:
        if claims.epoch != self.epoch:
            raise PolicyRefusal(RefusalCode.REPLAY, "this list is of another owner's time")

    def _check_newer(self, former: Taken | None, taken: Taken) -> None:
        if taken.number < 1 or (former is not None and taken.number <= former.number):
            raise PolicyRefusal(RefusalCode.REPLAY, "the vehicle has a newer list")

    def withdraw(self, items: Iterable[bytes]) -> Admissions:
        """Return with shares, keys or cards withdrawn for good at the vehicle itself (S49, S54)."""
        gone, stays = self._fallen(self.gone | frozenset(items))
        return replace(self, gone=gone, admitted=stays, cards=self.cards - gone)

    def _gone_with(self, taken: Taken) -> frozenset[bytes]:
        return self.gone | taken.revoked

    def _fallen(self, gone: frozenset[bytes]) -> tuple[frozenset[bytes], tuple[Admitted, ...]]:
        """Return who is gone with these, and who is left."""
        stays = self._still_admitted(gone)
        # Their keys are remembered too, so that the answer to them is "revoked", not "unknown".
        for each in self.admitted:
            if each not in stays:
                gone |= {each.claims.share_id, key_ref(each.x)}
        return gone, stays

    def _still_admitted(self, gone: frozenset[bytes]) -> tuple[Admitted, ...]:
        """Return who is left: not the revoked, and nobody whom a revoked actual user let in."""
        return tuple(
            each
            for each in self.admitted
            if each.claims.share_id not in gone and each.parent not in gone
        )

    def suspended(self, item: bytes) -> bool:
        """Return whether a list suspends a share, key or card, or all of them."""
        return any(each.all_suspended or item in each.suspended for each in self.taken)

    # --- questions ----------------------------------------------------------------------------

    def verdict(self, key: bytes, now_s: int, *, fast: bool = False) -> Verdict:
        """Return whether a key is good now, and for what.

        Args:
            key: x-coordinate (32 bytes) of a key, or reference (16 bytes) of a share or card.
            now_s: Trusted time; an earlier one than the vehicle has seen counts as that one.
            fast: In a fast transaction, which never authorises start (design 2).
        """
        for each in self.admitted:
            if key in (each.x, each.claims.share_id):
                return self._share_verdict(each, self._now(now_s), fast=fast)
        ref = key_ref(key) if len(key) == 32 else key
        if self.owner_x is not None and ref == key_ref(self.owner_x):
            role = Role.OWNER
        elif ref in self.cards:
            role = Role.CARD
        elif ref in self.gone:
            return Verdict(refusal=RefusalCode.KEY_REVOKED, item=ref)
        else:
            return Verdict(refusal=RefusalCode.KEY_UNKNOWN)
        refusal = self._refusal(ref)
        if refusal is not None:
            return Verdict(refusal=refusal, item=ref, role=role)
        return Verdict(
            refusal=None,
            item=ref,
            role=role,
            permission=Permission.ENTRY_AND_START,
            may_start=not self.immobilised and not fast,
        )

    def _refusal(self, item: bytes) -> RefusalCode | None:
        if item in self.gone:
            return RefusalCode.KEY_REVOKED
        return RefusalCode.KEY_SUSPENDED if self.suspended(item) else None

    def _share_verdict(self, each: Admitted, now_s: int, *, fast: bool) -> Verdict:
        claims = each.claims
        refusal = self._refusal(claims.share_id)
        if refusal is None and each.parent and self.flags.cascade_automatic:
            refusal = self._refusal(each.parent)
        if refusal is None and not claims.not_before_s <= now_s <= each.until_s:
            refusal = RefusalCode.KEY_EXPIRED
        if refusal is not None:
            return Verdict(refusal=refusal, item=claims.share_id, role=claims.role)
        starts = claims.permission is Permission.ENTRY_AND_START
        return Verdict(
            refusal=None,
            item=claims.share_id,
            role=claims.role,
            permission=claims.permission,
            may_start=starts and not self.immobilised and not fast,
        )

    def at(self, now_s: int) -> Admissions:
        """Return with this time seen; an earlier one changes nothing."""
        return self if now_s <= self.time_s else replace(self, time_s=now_s)

    # --- snapshots ----------------------------------------------------------------------------

    def to_value(self) -> list[Any]:
        """Return everything as a plain value that CBOR can carry."""
        return [VERSION, to_plain(self)]

    @classmethod
    def from_value(cls, value: Any) -> Admissions:
        """Return what :meth:`to_value` gave.

        Raises:
            WireError: Not exactly such a value.
        """
        if not isinstance(value, list) or len(value) != 2 or value[0] not in (1, VERSION):
            raise WireError("not admissions of a version that is known", clause=CLAUSE)
        return from_plain(cls, value[1] if value[0] == VERSION else with_corporate(value[1]))
