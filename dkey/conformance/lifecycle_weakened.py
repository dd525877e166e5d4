"""Rules with one thing broken each: the exhaustive lifecycle check finds a story against each."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dkey.conformance.lifecycle_state import Policy
from dkey.lifecycle.admission import Admissions
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.ring_draft import Draft
from dkey.lifecycle.ring_state import HoldKind, ShareState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dkey.lifecycle.admission_state import Admitted, Taken
    from dkey.lifecycle.claims import Issuer, KeyClaims
    from dkey.lifecycle.ring_state import Ended, Held, Share
    from dkey.lifecycle.ring_value import Ring

__all__ = ["WEAKENED"]


class _FourPlaces(Draft):
    places = MAX_SHARES + 1


class _NoCascade(Draft):
    def beneath(self, share: Share) -> tuple[Share, ...]:  # noqa: ARG002 - the same signature
        return ()


class _UpwardCascade(Draft):
    def beneath(self, share: Share) -> tuple[Share, ...]:
        return tuple(each for each in self.live if each.share_id != share.share_id)


class _WholeVehicle(Draft):
    def beneath(self, share: Share) -> tuple[Share, ...]:
        above = super().beneath(share)
        return above or tuple(each for each in self.live if each.share_id != share.share_id)


class _PendingIsFree(Draft):
    @property
    def live(self) -> list[Share]:
        return [each for each in self.shares if each.state is ShareState.ACTIVE]


class _VetoesOnPaper(Draft):
    def end(self, share: Share, reason: Ended) -> None:
        if share.account not in self.vetoes:
            super().end(share, reason)


class _LiftsAll(Draft):
    def lift(self, wanted: Callable[[Held], bool]) -> bool:
        pause = self.pause is None
        return super().lift(lambda held: pause or wanted(held) or held.kind is HoldKind.PAUSE)


class _AheadOfTheVehicle(Draft):
    def done(self) -> Ring:
        before = self._before
        self.epoch += before.owner is not None and self.owner not in (None, before.owner)
        return super().done()


class _AnybodyIsCorporate(Admissions):
    __slots__ = ()

    def _check_corporate(self, chain: tuple[KeyClaims, ...], issuer: Issuer) -> None:
        """Let in an actual user of any owner."""


class _SharedSlots(Admissions):
    __slots__ = ()

    def _place(self, claims: KeyClaims, now_s: int) -> Admitted | None:  # noqa: ARG002
        return None


class _NoEpoch(Admissions):
    __slots__ = ()

    def _check_epoch(self, chain: tuple[KeyClaims, ...]) -> None:
        """Take an attestation of any owner's time."""


class _OlderList(Admissions):
    __slots__ = ()

    def _check_newer(self, former: Taken | None, taken: Taken) -> None:
        """Take a list of any number."""


class _Remembers(Admissions):
    __slots__ = ()

    def factory_reset(self) -> Admissions:
        reset: Admissions = replace(self, epoch=self.epoch + 1, owner_x=None)
        return reset


class _WallClock(Admissions):
    __slots__ = ()

    def _now(self, now_s: int) -> int:
        return now_s


class _Forgetful(Admissions):
    __slots__ = ()

    def power_cycle(self) -> Admissions:
        kept: Admissions = replace(self, taken=(), gone=frozenset())
        return kept


class _LastWord(Admissions):
    __slots__ = ()

    def suspended(self, item: bytes) -> bool:
        last = self.taken[-1:]
        return any(each.all_suspended or item in each.suspended for each in last)


class _KeepsAll(Admissions):
    __slots__ = ()

    def change_owner(self, x: bytes | None, **_: object) -> Admissions:
        changed: Admissions = replace(self, epoch=self.epoch + 1, owner_x=x, taken=())
        return changed


WEAKENED: Final[Mapping[str, tuple[str, Policy]]] = MappingProxyType(
    {
        "four places in the ledger": ("fresh", Policy(draft=_FourPlaces)),
        "slots are not exclusive": ("fresh", Policy(admissions=_SharedSlots)),
        "the owner epoch is not checked": ("fresh", Policy(admissions=_NoEpoch)),
        "the answer leaves before the commit": ("fresh", Policy(commit_first=False)),
        "no cascade": ("fresh", Policy(draft=_NoCascade)),
        "the cascade goes upwards": ("fresh", Policy(draft=_UpwardCascade)),
        "a list may go back": ("fresh", Policy(admissions=_OlderList)),
        "a factory reset leaves keys behind": ("fresh", Policy(admissions=_Remembers)),
        "the wall clock alone decides": ("fresh", Policy(admissions=_WallClock)),
        "the grant chain is not looked at": ("grant-chain", Policy(draft=_WholeVehicle)),
        "the authority answers before it writes": ("crashes", Policy(write_first=False)),
        "a restart forgets the lists": ("crashes-busy", Policy(admissions=_Forgetful)),
        "a pending invitation takes no place": ("invitations", Policy(draft=_PendingIsFree)),
        "the other issuer's list lifts a suspension": (
            "owner-signs",
            Policy(admissions=_LastWord),
        ),
        "a change of owner begins an epoch by itself": (
            "handover",
            Policy(draft=_AheadOfTheVehicle),
        ),
        "a person has an actual user": ("owner-signs", Policy(admissions=_AnybodyIsCorporate)),
        "a veto leaves the key": ("vetoes", Policy(draft=_VetoesOnPaper)),
        "a change of owner leaves keys behind": ("handover", Policy(admissions=_KeepsAll)),
    }
)
"""What is broken, in which world the story happens, and the rules with it broken."""
