"""Takes what phones and the authority deliver: attestations of shared keys, withdrawal lists.

Everything is decided offline, by signatures, the owner epoch, places and the vehicle's own time
(:mod:`dkey.lifecycle.admission`), and committed before anything is answered. What is refused leaves
an entry in the event log with its code, and nothing else; the peer learns one status for all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dkey.crypto.p256 import PublicKey
from dkey.errors import (
    DkeyError,
    PolicyRefusal,
    RefusalCode,
    RemoteFault,
)
from dkey.lifecycle.attestation import noted_code, verify_chain
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.parcel import lists_to_take, rolled_back
from dkey.lifecycle.roles import CredentialState, Role
from dkey.lifecycle.withdrawal import verify_withdrawal
from firmware_mock import share_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dkey.control.touch import Position
    from dkey.lifecycle.admission import Admissions
    from dkey.lifecycle.claims import KeyClaims, WithdrawalClaims
    from dkey.lifecycle.parcel import KeyParcel, VehicleReceipt
    from firmware_mock.admission_book import Change
    from firmware_mock.key_list import KeyList
    from firmware_mock.records import Credential

__all__ = ["ShareDesk"]

_IN_USE: Final = (CredentialState.ACTIVE, CredentialState.SUSPENDED)
_NAMES: Final = {Role.ACTUAL_USER: "actual user", Role.PROVIDER: "provider"}


class ShareDesk:
    """Admits shared keys and takes withdrawal lists, at one vehicle.

    Args:
        keys: The key list.
        told: Called after each commit that changed somebody's rights.

    Attributes:
        report: Told of ``admitted``, ``admission_refused``, ``list_taken``, ``list_refused`` and
            ``rolled_back``, each a name and its fields, when it is on the disk.
    """

    def __init__(self, keys: KeyList, *, told: Callable[[], None]) -> None:
        self.report: Callable[..., None] = _quiet
        self._keys = keys
        self._told = told

    def receipt(self) -> VehicleReceipt:
        """Return the vehicle's present state. May be asked from a reader's thread."""
        return self._keys.book.receipt()

    def taker(self, key: PublicKey, position: Position) -> ParcelTaker:
        """Return who takes the parcel of the phone that proved this key at this reader."""
        return ParcelTaker(self, key, position)

    def provide_authority(self, key: PublicKey) -> None:
        """Keep the key of the authority whose word counts.

        Raises:
            PolicyRefusal: ALREADY_LINKED, an owner relies on another authority.
        """
        now = self._keys.book.admissions
        if now.owner_x is not None and now.authority_x not in (None, key.x):
            raise PolicyRefusal(
                RefusalCode.ALREADY_LINKED,
                "the owner of this vehicle relies on another authority",
                hint="factory-reset it first",
            )
        with self._keys.change() as change:
            share_rows.keep_authority_key(self._keys.store.file, key)
            change.apply("AUTHORITY", key.x)
            self._keys.log(change.writes, "AUTHORITY_PROVIDED")

    # --- lists --------------------------------------------------------------------------------

    def take_list(self, raw: bytes, issuer: Issuer = Issuer.AUTHORITY) -> bool:
        """Take a list that came by another way than a phone; return whether it was news.

        Raises:
            PolicyRefusal: REPLAY, an older one, or one of another owner's time; WRONG_VEHICLE.
            AuthenticationError: Not signed by that issuer.
            WireError: Not a withdrawal list.
        """
        key = self._roots().get(issuer)
        try:
            if key is None:
                raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "this vehicle has no such issuer")
            vehicle = self._keys.group_id
            claims = verify_withdrawal(raw, key, issuer=issuer, vehicle=vehicle)
            with self._keys.change() as change:
                news = self._apply_list(change, raw, claims)
        except (PolicyRefusal, RemoteFault) as exc:
            self._keys.note("LIST_REFUSED", code=noted_code(exc), text=str(exc))
            raise
        if news:
            self._told()
            self.report("list_taken", issuer=issuer.value, number=claims.number)
        return news

    def _apply_list(self, change: Change, raw: bytes, claims: WithdrawalClaims) -> bool:
        before = change.entries
        change.apply("LIST", raw)
        if change.entries == before:
            return False
        text = f"list {claims.number} of the {claims.issuer.value.lower()}"
        self._keys.log(change.writes, "WITHDRAWAL_LIST", text=text)
        return True

    # --- parcels ------------------------------------------------------------------------------

    def take(self, parcel: KeyParcel, key: PublicKey, position: Position) -> None:
        """Take what verifies in a parcel, in one commit; what does not is noted.

        Args:
            parcel: What the phone carries.
            key: The key that the phone proved; a chain for another one admits nobody.
            position: The reader.
        """
        refused: list[tuple[str, DkeyError]] = []
        before, lost = self._keys.book.admissions, False
        with self._keys.change() as change:
            sound = self._take_lists(change, parcel, refused)
            if sound and parcel.chain and self._keys.enrolled(key.x) is None:
                self._introduce(change, parcel.chain, key, position, refused)
            for kind, exc in refused:
                self._keys.log(
                    change.writes, kind, position=position, code=noted_code(exc), text=str(exc)
                )
            if parcel.seen is not None and rolled_back(parcel.seen, self.receipt()):
                lost = True
                self._keys.log(
                    change.writes,
                    "ROLLED_BACK",
                    position=position,
                    code=RefusalCode.REPLAY,
                    text="a phone remembers a later state of this vehicle",
                )
        self._told()
        self._tell(before, refused, position, lost=lost)

    def _tell(
        self,
        before: Admissions,
        refused: list[tuple[str, DkeyError]],
        position: Position,
        *,
        lost: bool,
    ) -> None:
        """Report what a parcel made, which is on the disk now."""
        now = self._keys.book.admissions
        for issuer in Issuer:
            if now.number(issuer) != before.number(issuer):
                self.report("list_taken", issuer=issuer.value, number=now.number(issuer))
        for each in now.admitted:
            if each not in before.admitted:
                self.report(
                    "admitted",
                    position=position.value,
                    role=each.claims.role.value,
                    permission=each.claims.permission.value,
                    slot=each.claims.slot,
                )
        for kind, exc in refused:
            code, text = noted_code(exc).value, str(exc)
            if kind == "LIST_REFUSED":
                self.report("list_refused", position=position.value, code=code, text=text)
            else:
                self.report("admission_refused", position=position.value, code=code, text=text)
        if lost:
            self.report("rolled_back", position=position.value)

    def _take_lists(
        self, change: Change, parcel: KeyParcel, refused: list[tuple[str, DkeyError]]
    ) -> bool:
        """Take the lists that are newer; return whether all of them are sound.

        Old ones are left, as phones carry them in good faith. Where one does not verify, nothing
        of the parcel is taken (specs/lifecycle.md §4).
        """
        try:
            news = lists_to_take(
                parcel, keys=self._roots(), vehicle=self._keys.group_id, taken=self.receipt()
            )
            for claims in news:
                self._apply_list(change, parcel.lists[claims.issuer], claims)
        except (PolicyRefusal, RemoteFault) as exc:
            refused.append(("LIST_REFUSED", exc))
            return False
        return True

    def _introduce(
        self,
        change: Change,
        chain: tuple[bytes, ...],
        key: PublicKey,
        position: Position,
        refused: list[tuple[str, DkeyError]],
    ) -> None:
        """Let the key in on the word of its chain, with all rows that make it count."""
        roots = {each.x: each for each in self._roots(standing=True).values()}
        vehicle = self._keys.group_id
        try:
            claims = verify_chain(chain, roots=roots, vehicle=vehicle)
            if claims[-1].public_key != key.point:
                raise PolicyRefusal(
                    RefusalCode.KEY_UNKNOWN, "the attestation is for another key than was proved"
                )
            credential = self._credential(claims[-1], key)
            change.apply("ADMIT", list(chain), key.x, self._keys.time.now_s())
        except (PolicyRefusal, RemoteFault) as exc:
            refused.append(("ADMISSION_REFUSED", exc))
            return
        change.writes.add(credential)
        share_rows.keep_share(self._keys.store.file, credential.credential_id, claims[-1].share_id)
        self._keys.log(
            change.writes,
            "ADMITTED",
            position=position,
            credential_id=credential.credential_id,
            text=f"{credential.role.value} {credential.permission.value}",
        )

    def _credential(self, claims: KeyClaims, key: PublicKey) -> Credential:
        """Return the credential of a share, not enrolled yet.

        Raises:
            PolicyRefusal: KEY_REVOKED, the key was here before.
        """
        if self._keys.store.credential_by_x(key.x) is not None:
            raise PolicyRefusal(
                RefusalCode.KEY_REVOKED,
                "this key was enrolled here before",
                hint="share to a new key",
            )
        name = _NAMES.get(claims.role, f"share {claims.slot}")
        return self._keys.new_credential(name, key, claims.role, claims.permission)

    def _roots(self, *, standing: bool = False) -> Mapping[Issuer, PublicKey]:
        """Return the keys whose word counts now: the owner's, and the authority's.

        Args:
            standing: To let somebody in, for which the owner's key itself has to be usable. To
                withdraw it need not: an owner who paused all keys may end that.
        """
        roots: dict[Issuer, PublicKey] = {}
        store, now = self._keys.store, self._keys.book.admissions
        if now.owner_x is not None:
            owner = store.credential_by_x(now.owner_x)
            usable = (CredentialState.ACTIVE,) if standing else _IN_USE
            if owner is not None and owner.state in usable:
                roots[Issuer.OWNER] = PublicKey.parse(owner.public_key)
        authority = share_rows.authority_key(store.file)
        if authority is not None:
            roots[Issuer.AUTHORITY] = authority
        return roots


def _quiet(event: str, /, **fields: object) -> None:
    del event, fields


@dataclass(frozen=True, slots=True)
class ParcelTaker:
    """Takes one parcel, for the delivery procedure."""

    desk: ShareDesk
    key: PublicKey
    position: Position

    def receipt(self) -> VehicleReceipt:
        """Return the vehicle's present state."""
        return self.desk.receipt()

    def take(self, parcel: KeyParcel) -> None:
        """Verify and commit what is in a parcel; what does not verify is noted, never raised."""
        self.desk.take(parcel, self.key, self.position)
