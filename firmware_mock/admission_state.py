"""What the vehicle's ledger adds up to, entry by entry, and what that makes of each credential.

:func:`applied` is the only way from one state to the next: it makes an entry that is written now
and replays one that is read, so that both mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from dkey.codec import cbor
from dkey.errors import PolicyRefusal, StoreError, WireError
from dkey.lifecycle.admission import Admissions
from dkey.lifecycle.attestation import read_attestation
from dkey.lifecycle.claims import key_ref
from dkey.lifecycle.roles import CredentialState, Role
from dkey.lifecycle.withdrawal import read_withdrawal
from firmware_mock import share_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.lifecycle.ledger import Entry
    from firmware_mock.records import Credential
    from firmware_mock.store import CredentialStore

__all__ = ["AdmissionState", "applied", "founded", "item_of", "replayed", "state_of"]

_OUT: Final = (CredentialState.REVOKED, CredentialState.REPLACED)
_NEWER: Final = "use the program that wrote this store, or restore a backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionState:
    """Everything that the ledger says.

    Attributes:
        admissions: Who may open the vehicle, by what was signed.
        held: Share ids and key references that the owner suspended at the head unit.
        count: Keys that were admitted in this owner epoch so far.
    """

    admissions: Admissions
    held: frozenset[bytes] = frozenset()
    count: int = 0

    def to_bytes(self) -> bytes:
        """Encode for a snapshot."""
        return cbor.encode([self.admissions.to_value(), sorted(self.held), self.count])

    @classmethod
    def parse(cls, data: bytes) -> AdmissionState:
        """Decode a snapshot.

        Raises:
            StoreError: Of a version that this program does not know.
        """
        try:
            value: Any = cbor.decode(data)
            admissions, held, count = value
            return cls(
                admissions=Admissions.from_value(admissions),
                held=frozenset(bytes(each) for each in held),
                count=int(count),
            )
        except (WireError, ValueError, TypeError) as exc:
            raise StoreError(f"a snapshot is not readable: {exc}", hint=_NEWER) from exc


def founded(store: CredentialStore, admissions: Admissions) -> AdmissionState:
    """Return the state that a store without a ledger stands for: what its tables say.

    Args:
        store: The store.
        admissions: With vehicle and flags only.
    """
    known = [each for each in store.credentials() if not each.first_use]
    refs = {state: set[bytes]() for state in CredentialState}
    for each in known:
        refs[each.state].add(key_ref(each.x))
    in_use = [each for each in known if each.state not in _OUT]
    authority = share_rows.authority_key(store.file)
    return AdmissionState(
        admissions=replace(
            admissions,
            epoch=store.ownership().epoch,
            owner_x=next((each.x for each in in_use if each.role is Role.OWNER), None),
            authority_x=None if authority is None else authority.x,
            cards=frozenset(key_ref(each.x) for each in in_use if each.role is Role.CARD),
            gone=frozenset(refs[CredentialState.REVOKED] | refs[CredentialState.REPLACED]),
        ),
        held=frozenset(refs[CredentialState.SUSPENDED]),
    )


def applied(state: AdmissionState, kind: str, body: list[Any]) -> AdmissionState:  # noqa: C901, PLR0911
    """Return the state after one entry.

    ============  ==========================  ====================================================
    kind          body                        what happened
    ============  ==========================  ====================================================
    AUTHORITY     x                           the authority's key was provided
    OWNER         x                           the owner's key counts from here on
    CARD          reference, replaced or null  a card was paired
    ADMIT         chain as signed, x, time     a shared key was let in
    LIST          list as signed               a withdrawal list was taken
    WITHDRAW      references                   withdrawn for good at the head unit
    HOLD          reference, on                suspended or resumed at the head unit
    EPOCH         cards that stay             the owner changes account or phone: a new epoch
    UNPAIR        -                           the owner was unpaired: a new epoch
    RESET         -                           factory reset
    ============  ==========================  ====================================================

    Raises:
        PolicyRefusal: A rule says no.
        StoreError: An entry of a kind that is not known.
    """
    now = state.admissions
    match kind, body:
        case "AUTHORITY", [bytes(x)]:
            return replace(state, admissions=replace(now, authority_x=x))
        case "OWNER", [bytes(x)]:
            return replace(state, admissions=now.enrol_owner(x))
        case "CARD", [bytes(ref), replaces]:
            return replace(state, admissions=now.enrol_card(ref, replaces=replaces))
        case "ADMIT", [list(raws), bytes(x), int(now_s)]:
            chain = tuple(read_attestation(raw).claims for raw in raws)
            after = now.admit(chain, x, now_s)
            new = after.admitted != now.admitted
            return replace(state, admissions=after, count=state.count + new)
        case "LIST", [bytes(raw)]:
            return replace(state, admissions=now.take_list(read_withdrawal(raw)))
        case "WITHDRAW", [*items]:
            return replace(state, admissions=now.withdraw(items), held=state.held - {*items})
        case "HOLD", [bytes(item), bool(on)]:
            held = state.held | {item} if on else state.held - {item}
            return replace(state, held=held)
        case "EPOCH", [*cards]:
            return AdmissionState(admissions=now.change_owner(None, cards=cards))
        case "UNPAIR", []:
            return AdmissionState(admissions=now.change_owner(None))
        case "RESET", []:
            return AdmissionState(admissions=now.factory_reset())
    raise StoreError(f"the ledger has an entry {kind} that is not known", hint=_NEWER)


def replayed(state: AdmissionState, entry: Entry) -> AdmissionState:
    """Return the state after an entry that was read.

    Raises:
        StoreError: It does not follow from the state before; it is named.
    """
    try:
        return applied(state, entry.kind, list(cbor.decode(entry.body)))
    except (PolicyRefusal, WireError, TypeError, ValueError) as exc:
        raise StoreError(
            f"entry {entry.seq} of the ledger, {entry.kind}, does not follow: {exc}", hint=_NEWER
        ) from exc


def item_of(credential: Credential, share_id: bytes | None) -> bytes:
    """Return how lists refer to a credential: its share id, or the reference of its key."""
    return key_ref(credential.x) if share_id is None else share_id


def state_of(
    state: AdmissionState, credential: Credential, shares: Mapping[str, bytes]
) -> CredentialState:
    """Return the state that a credential has by what the ledger says.

    One that waits for its first use, and one that is out of use, is as it is. A phone that the
    factory enrolled has no share; it is withdrawn and suspended by the reference of its key.
    """
    if credential.first_use or credential.state in _OUT:
        return credential.state
    share_id = shares.get(credential.credential_id)
    item, now = item_of(credential, share_id), state.admissions
    admitted = next((each for each in now.admitted if each.claims.share_id == share_id), None)
    gone = item in now.gone
    gone |= credential.role is Role.OWNER and credential.x != now.owner_x
    gone |= credential.role is Role.CARD and item not in now.cards
    gone |= share_id is not None and admitted is None
    if gone:
        return CredentialState.REVOKED
    held = item in state.held or now.suspended(item)
    if admitted is not None and admitted.parent and now.flags.cascade_automatic:
        held |= admitted.parent in state.held or now.suspended(admitted.parent)
    return CredentialState.SUSPENDED if held else CredentialState.ACTIVE
