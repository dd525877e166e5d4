"""The vehicle's key list in memory: who may do what, and what each reader knows of them.

The store is the truth; this is what a transaction reads, which may run on another thread and must
not wait for a disk. Every change is committed first and loaded afterwards.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.profile import VEHICLE, Interface
from dkey.access.reader import AccessReader
from dkey.control.touch import Position
from dkey.crypto.p256 import PublicKey
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.claims import key_ref
from dkey.lifecycle.features import Feature
from dkey.lifecycle.policy import DAY_S, FAST_MAX_AGE_DAYS
from dkey.lifecycle.roles import CredentialState, Role
from firmware_mock import share_rows
from firmware_mock.admission_book import AdmissionBook, Change
from firmware_mock.admission_state import item_of
from firmware_mock.bounded_directory import BoundedDirectory
from firmware_mock.store import Credential
from firmware_mock.trusted_clock import TrustedClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dkey.control.card_rules import EnrolledCard
    from dkey.control.rules import Grant
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.seal import Seal
    from dkey.crypto.secret import Secret
    from dkey.crypto.vault import Vault
    from dkey.lifecycle.admission import Admissions
    from dkey.lifecycle.flags import Flags
    from dkey.lifecycle.roles import CardProvenance, Permission
    from firmware_mock.store import CredentialStore, Transaction

__all__ = ["READER_KEY", "KeyList"]

READER_KEY: Final = "reader"
"""Name of the vehicle's reader key in its vault; all its readers share it."""
_DEVICE_SETTING: Final = 1
_SECURE_ACTION: Final = 2
"""Authentication policies (Aliro 1.0 §8.3.3.2.1): to authorise start is a secure action."""


class KeyList:
    """Credentials, their rights, and the readers that authenticate them.

    Args:
        store: Credentials and events.
        vault: Holds the reader key.
        seal: Seals Kpersistent in the store.
        entropy: Random source.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970, for the event log.
        flags: The choices of this deployment, for a vehicle that begins.

    Attributes:
        store: As given.
        group_id: The vehicle's identifier, 16 bytes.
        cards: Every card this vehicle ever had.
        book: Who may open the vehicle, by what was signed.
        time: The clock for windows of validity.
    """

    def __init__(
        self,
        store: CredentialStore,
        *,
        vault: Vault,
        seal: Seal,
        entropy: Entropy,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        flags: Flags | None = None,
    ) -> None:
        self.store = store
        self.time = TrustedClock(store.file, clock=clock, wall_clock=wall_clock)
        self.book = AdmissionBook(store, flags=flags)
        self.time.seen(self.book.admissions.time_s)
        self._vault = vault
        self._seal = seal
        self._entropy = entropy
        self._wall_clock = wall_clock
        identity = store.identity()
        self.group_id = identity.group_id
        self._sub_ids = {reader.position: reader.sub_id for reader in identity.readers}
        self._readers = {
            reader.position: self._reader(reader.sub_id, reader.position)
            for reader in identity.readers
        }
        self._grants: dict[str, Grant] = {}
        self._pending: frozenset[str] = frozenset()
        self._windows: dict[str, tuple[int, int]] = {}
        self._standard: Mapping[str, int] = {}
        self._features: Mapping[str, frozenset[Feature]] = {}
        self.cards: tuple[EnrolledCard, ...] = ()
        self.reload()

    @property
    def public_key(self) -> PublicKey:
        """The reader key that devices trust."""
        return self._vault.public(READER_KEY)

    def reader(self, position: Position) -> AccessReader:
        """Return the reader at this position; its directory always holds the key list as it is."""
        return self._readers[position]

    def sub_id(self, position: Position) -> bytes:
        """Return a reader's sub-identifier, 16 bytes."""
        return self._sub_ids[position]

    def grants(self) -> tuple[Grant, ...]:
        """Return everybody's rights, revoked ones included; not of those that were never used."""
        return tuple(self._timed(g) for key, g in self._grants.items() if key not in self._pending)

    def grant(self, credential_id: str) -> Grant | None:
        """Return the rights of a credential as enrolled now, with what binds its holder.

        None for one that is not enrolled, and for one that still waits for its first use.
        """
        known = None if credential_id in self._pending else self._grants.get(credential_id)
        return None if known is None else self._timed(known)

    def acting(self, credential: EnrolledCredential | None, flow: Flow) -> Grant | None:
        """Return the rights with which an authenticated credential acts in this transaction.

        A key that waits for its first use counts from its first standard transaction on, with that.
        """
        if credential is None:
            return None
        if flow is not Flow.STANDARD:
            return self.grant(credential.name)
        known = self._grants.get(credential.name)
        return None if known is None else self._timed(known)

    def enrolled(self, x: bytes) -> EnrolledCredential | None:
        """Return the credential with this x-coordinate as the readers know it now."""
        return self._readers[Position.BLE].directory.by_x(x)

    @property
    def owner_withdrawn(self) -> bool:
        """Whether the owner's key was withdrawn for good and the vehicle was not cleared since."""
        now = self.book.admissions
        return now.owner_x is not None and key_ref(now.owner_x) in now.gone

    def features(self, credential_id: str) -> frozenset[Feature]:
        """Return what a credential's device is able to; everything where it never said."""
        return self._features.get(credential_id, frozenset(Feature))

    def may_be_fast(self, credential_id: str) -> bool:
        """Whether a credential may act by a fast transaction now.

        A shared key may for :data:`~dkey.lifecycle.policy.FAST_MAX_AGE_DAYS` after its last
        standard one. Asked from a reader's thread too.
        """
        if credential_id not in self._windows:
            return True
        last_s = self._standard.get(credential_id)
        return last_s is not None and self.now_s() - last_s <= FAST_MAX_AGE_DAYS * DAY_S

    def now_s(self) -> int:
        """Return the time that shared keys are held to: trusted, or signed by this owner."""
        return max(self.time.now_s(), self.book.admissions.owner_time_s)

    def _timed(self, grant: Grant) -> Grant:
        window = self._windows.get(grant.credential_id)
        if window is None or window[0] <= self.now_s() <= window[1]:
            return grant
        return replace(grant, expired=True)

    # --- changes ------------------------------------------------------------------------------

    def new_credential(
        self,
        name: str,
        public_key: PublicKey,
        role: Role,
        permission: Permission,
        *,
        provenance: CardProvenance | None = None,
    ) -> Credential:
        """Return a credential with an identifier of its own; it is not enrolled yet."""
        return Credential(
            credential_id=self._entropy.random(8).hex(),
            name=name,
            public_key=public_key.point,
            role=role,
            permission=permission,
            created_s=self._wall_clock(),
            provenance=provenance,
        )

    def enrol(self, credential: Credential, *, replaces: str | None = None) -> None:
        """Add a phone's credential to the store and to the list.

        Raises:
            PolicyRefusal: ALREADY_LINKED, the vehicle has an owner (requirements S38, S125).
            LocalFault: The key is enrolled already.
        """
        if credential.role is Role.OWNER and any(
            each.role is Role.OWNER and each.state is not CredentialState.REVOKED
            for each in self.grants()
        ):
            raise PolicyRefusal(RefusalCode.ALREADY_LINKED, "the vehicle has an owner already")
        with self.change() as change:
            change.writes.add(credential, replaces=replaces)
            if credential.role is Role.OWNER:
                change.apply("OWNER", credential.x)
            if credential.role is Role.CARD:
                change.apply("CARD", key_ref(credential.x), self.reference(replaces))
            self.log(
                change.writes,
                "ENROLLED",
                credential_id=credential.credential_id,
                text=credential.name,
            )

    def set_state(self, credential_id: str, state: CredentialState) -> None:
        """Suspend, resume or revoke one credential at the vehicle itself, at once and durably.

        Kpersistent of an unusable one is erased. To resume lifts what was done here, not what a
        list says (requirements C15). With the owner's key all shared ones are revoked (S54).
        """
        with self.change() as change:
            change.writes.set_state(credential_id, state)
            change.touched = True  # what a list suspends is not active for being resumed here
            if state is not CredentialState.ACTIVE:
                change.writes.forget_kpersistent(credential_id)
            item = self._item(credential_id)
            if state is CredentialState.REVOKED:
                change.apply("WITHDRAW", *self._falling(credential_id, item, change.admissions))
            else:
                change.apply("HOLD", item, state is CredentialState.SUSPENDED)
            self.log(change.writes, state.value, credential_id=credential_id)

    def _falling(self, credential_id: str, item: bytes, now: Admissions) -> tuple[bytes, ...]:
        known = self._grants.get(credential_id)
        if known is None or known.role is not Role.OWNER or credential_id in self._pending:
            return (item,)
        return (item, *(each.claims.share_id for each in now.admitted))

    def _item(self, credential_id: str) -> bytes:
        known = self.store.credential(credential_id)
        if known is None:
            raise LocalFault(f"no credential {credential_id} is enrolled")
        return item_of(known, share_rows.shares(self.store.file).get(credential_id))

    def reference(self, credential_id: str | None) -> bytes | None:
        """Return how lists refer to a credential; None for None."""
        return None if credential_id is None else self._item(credential_id)

    def commit_use(
        self, position: Position, grant: Grant, kind: str, *, kpersistent: Secret | None
    ) -> None:
        """Commit that a credential was used at a reader, with what the transaction made.

        One that waited for its first use counts from here on, in the same commit.

        Args:
            position: The reader.
            grant: Who acted.
            kind: What for, as the event log says it.
            kpersistent: What a standard transaction made; None after a fast one.
        """
        credential_id, sub_id = grant.credential_id, self._sub_ids[position]
        with self.change() as change:
            writes = change.writes
            if kpersistent is not None:
                if credential_id in self._pending:
                    self._first_use(change, grant, position)
                if credential_id in self._windows:
                    share_rows.keep_standard_use(self.store.file, credential_id, self.now_s())
                sealed = self._seal.close(kpersistent, _place(credential_id, sub_id))
                writes.put_kpersistent(credential_id, sub_id, sealed)
            else:
                writes.mark_used(credential_id, sub_id)
            self.log(writes, kind, position=position, credential_id=credential_id)

    def _first_use(self, change: Change, grant: Grant, position: Position) -> None:
        self.log(change.writes, "FIRST_USE", position=position, credential_id=grant.credential_id)
        known = self.store.credential(grant.credential_id)
        if known is not None and known.role is Role.OWNER:
            change.apply("OWNER", known.x)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """Make the entries and writes of the block one commit, and load what it made.

        Raises:
            StoreError: Nothing was committed.
            PolicyRefusal: A rule says no; nothing was committed.
        """
        with self.book.change() as change:
            yield change
        self.time.seen(self.book.admissions.time_s)
        self.reload()

    def note(
        self,
        kind: str,
        *,
        position: Position | None = None,
        credential_id: str | None = None,
        code: RefusalCode | None = None,
        text: str = "",
    ) -> None:
        """Commit one event that changes nobody's rights."""
        with self.store.transaction() as writes:
            self.log(
                writes, kind, position=position, credential_id=credential_id, code=code, text=text
            )

    def log(
        self,
        writes: Transaction,
        kind: str,
        *,
        position: Position | None = None,
        credential_id: str | None = None,
        code: RefusalCode | None = None,
        text: str = "",
    ) -> None:
        """Add an event to a commit of the caller; the time is kept with it."""
        self.time.keep()
        writes.log(
            t_s=self._wall_clock(),
            kind=kind,
            position=position,
            credential_id=credential_id,
            code=code,
            text=text,
        )

    # --- memory -------------------------------------------------------------------------------

    def reload(self) -> None:
        """Bring the readers' directories and the rights in line with the store."""
        self.book.catch_up()
        known = self.store.credentials()
        grants = {each.credential_id: each.grant() for each in known}
        pending = frozenset(each.credential_id for each in known if each.first_use)
        _follow_holder(grants, pending)
        admitted = {each.x: each for each in self.book.admissions.admitted}
        self._pending = pending  # first: a transaction on another thread sees no key too early
        self._windows = {
            each.credential_id: (
                admitted[each.x].claims.not_before_s,
                admitted[each.x].until_s,
            )
            for each in known
            if each.x in admitted
        }
        self._standard = share_rows.standard_uses(self.store.file)
        self._features = share_rows.feature_sets(self.store.file)
        self._grants = grants
        self.cards = self.store.cards()
        for position, reader in self._readers.items():
            reader.directory = self._directory(known, self._sub_ids[position])

    def _directory(self, known: tuple[Credential, ...], sub_id: bytes) -> BoundedDirectory:
        limit = VEHICLE.max_fast_candidates
        stored = {
            each.credential.credential_id: self._seal.open(
                each.sealed, _place(each.credential.credential_id, sub_id)
            )
            for each in reversed(self.store.fast_candidates(sub_id, limit=limit))
            if each.credential.state is CredentialState.ACTIVE
        }
        order = [*(c for c in known if c.credential_id not in stored)]
        order += sorted(
            (c for c in known if c.credential_id in stored),
            key=lambda c: [*stored].index(c.credential_id),
        )
        return BoundedDirectory(
            (
                EnrolledCredential(
                    name=each.credential_id,
                    public_key=PublicKey.parse(each.public_key),
                    kpersistent=stored.get(each.credential_id),
                )
                for each in order
            ),
            self.may_be_fast,
        )

    def _reader(self, sub_id: bytes, position: Position) -> AccessReader:
        identity = ReaderIdentity(
            profile=VEHICLE,
            group_id=self.group_id,
            sub_id=sub_id,
            vault=self._vault,
            key=READER_KEY,
        )
        policy = _SECURE_ACTION if position is Position.CONSOLE_PAD else _DEVICE_SETTING
        interface = Interface.BLE if position is Position.BLE else Interface.NFC
        return AccessReader(
            identity, MemoryDirectory(), self._entropy, policy=policy, interface=interface
        )


def _follow_holder(grants: dict[str, Grant], pending: frozenset[str]) -> None:
    """Let the cards follow a restriction of their holder, the owner (requirements S22, C5)."""
    owners = [g for key, g in grants.items() if g.role is Role.OWNER and key not in pending]
    if not owners or any(each.state is CredentialState.ACTIVE for each in owners):
        return
    for credential_id, grant in grants.items():
        if grant.role is Role.CARD and grant.state is CredentialState.ACTIVE:
            grants[credential_id] = replace(grant, state=owners[-1].state)


def _place(credential_id: str, sub_id: bytes) -> bytes:
    return credential_id.encode() + b"/" + sub_id
