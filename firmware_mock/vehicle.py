"""The mock vehicle: two touch readers, a body, a durable list of credentials, an event log.

A tap is one procedure that runs wherever the link's driver runs, and reads only memory. What it
decided is committed and carried out afterwards, here, and only when the device confirmed the end
of the transaction: a device that leaves the field at any point before changes nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dkey.access.directory import MemoryDirectory
from dkey.access.exchange import ReaderStatus
from dkey.access.profile import VEHICLE, Interface
from dkey.access.reader import AccessReader, EnrolledCredential, Flow, ReaderIdentity
from dkey.control.card_window import CardWindow, WindowState
from dkey.control.intent import parse_intent
from dkey.control.rules import Action, Grant, Verdict
from dkey.control.touch import Intent, Position, StartAuthorisation, decide_handle
from dkey.crypto.p256 import PublicKey
from dkey.errors import (
    AuthenticationError,
    DkeyError,
    LinkError,
    LinkReason,
    PolicyRefusal,
    RefusalCode,
    RemoteFault,
    ReplayError,
    StatusError,
)
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission, Role
from dkey.link.driver import run
from dkey.pairing.card import PendingCard, begin_pairing
from firmware_mock.store import Credential

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dkey.control.card_rules import EnrolledCard
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.seal import Seal
    from dkey.crypto.secret import Secret
    from dkey.crypto.vault import Vault
    from dkey.link.base import Initiator, Link
    from firmware_mock.body import Body
    from firmware_mock.store import CredentialStore, Transaction

__all__ = ["READER_KEY", "TapOutcome", "Vehicle"]

READER_KEY: Final = "reader"
"""Name of the vehicle's reader key in its vault; all its readers share it."""
_DEVICE_SETTING: Final = 1
_SECURE_ACTION: Final = 2
"""Authentication policies (Aliro 1.0 §8.3.3.2.1): to authorise start is a secure action."""
_SENSE_S: Final = 1.0
_PRESENCE_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TapOutcome:
    """What one tap came to.

    Attributes:
        position: The reader.
        credential_id: The acting credential; None when none was authenticated.
        name: Its name for people.
        flow: ``standard`` or ``fast``; None when not authenticated.
        action: What the vehicle did, or None.
        code: Why it did nothing, or None.
        text: The outcome in words.
    """

    position: Position
    credential_id: str | None = None
    name: str | None = None
    flow: str | None = None
    action: Action | None = None
    code: RefusalCode | None = None
    text: str = ""


@dataclass(slots=True)
class _Decided:
    """A tap whose transaction ended; nothing of it is kept yet."""

    verdict: Verdict
    grant: Grant | None
    intent: Intent | None
    flow: Flow
    kpersistent: Secret | None


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

    Attributes:
        body: Doors, engine, signals.
        store: Credentials and events.
        group_id: The vehicle's identifier, 16 bytes.
        window: The card pairing window.
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
    ) -> None:
        self.store = store
        self.body = body
        self.window = CardWindow()
        self._vault = vault
        self._seal = seal
        self._entropy = entropy
        self._clock = clock
        self._wall_clock = wall_clock
        self._last_touch_s: float | None = None
        self._pad = StartAuthorisation()
        identity = store.identity()
        self.group_id = identity.group_id
        self._readers = {
            reader.position: self._reader(reader.sub_id, reader.position)
            for reader in identity.readers
        }
        self._sub_ids = {reader.position: reader.sub_id for reader in identity.readers}
        self._grants: dict[str, Grant] = {}
        self._cards: tuple[EnrolledCard, ...] = ()
        self._reload()

    @property
    def public_key(self) -> PublicKey:
        """The reader key that devices trust."""
        return self._vault.public(READER_KEY)

    def close(self) -> None:
        """Close the store. May be called twice."""
        self.store.close()

    # --- credentials ------------------------------------------------------------------------

    def enrol(
        self, name: str, public_key: PublicKey, role: Role, permission: Permission
    ) -> Credential:
        """Enrol a phone's credential as the factory does (owner pairing and shares come later).

        Raises:
            PolicyRefusal: ALREADY_LINKED, the vehicle has an owner (requirements S38, S125).
            LocalFault: The key is enrolled already.
        """
        if role is Role.OWNER and any(
            each.role is Role.OWNER and each.state is not CredentialState.REVOKED
            for each in self._grants.values()
        ):
            raise PolicyRefusal(RefusalCode.ALREADY_LINKED, "the vehicle has an owner already")
        credential = self._credential(name, public_key, role, permission)
        with self.store.transaction() as writes:
            writes.add(credential)
            self._log(writes, "ENROLLED", credential_id=credential.credential_id, text=name)
        self._reload()
        return credential

    def set_state(self, credential_id: str, state: CredentialState) -> None:
        """Suspend, resume or revoke one credential; Kpersistent of an unusable one is erased."""
        with self.store.transaction() as writes:
            writes.set_state(credential_id, state)
            if state is not CredentialState.ACTIVE:
                writes.forget_kpersistent(credential_id)
            self._log(writes, state.value, credential_id=credential_id)
        self._reload()

    def _credential(
        self,
        name: str,
        public_key: PublicKey,
        role: Role,
        permission: Permission,
        provenance: CardProvenance | None = None,
    ) -> Credential:
        return Credential(
            credential_id=self._entropy.random(8).hex(),
            name=name,
            public_key=public_key.point,
            role=role,
            permission=permission,
            created_s=self._wall_clock(),
            provenance=provenance,
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

    def _reload(self) -> None:
        """Bring the readers' directories and the grants in line with the store."""
        known = self.store.credentials()
        self._grants = {each.credential_id: each.grant() for each in known}
        self._follow_holder()
        self._cards = self.store.cards()
        for position, reader in self._readers.items():
            sub_id = self._sub_ids[position]
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
            reader.directory = MemoryDirectory(
                EnrolledCredential(
                    name=each.credential_id,
                    public_key=PublicKey.parse(each.public_key),
                    kpersistent=stored.get(each.credential_id),
                )
                for each in order
            )
        if self._pad.grant is not None:
            now = self._grants.get(self._pad.grant.credential_id)
            self._pad = self._pad.updated(now) if now is not None else StartAuthorisation()

    def _follow_holder(self) -> None:
        """Let the cards follow a restriction of their holder, the owner (requirements S22, C5)."""
        owners = [each for each in self._grants.values() if each.role is Role.OWNER]
        if not owners or any(each.state is CredentialState.ACTIVE for each in owners):
            return
        for credential_id, grant in self._grants.items():
            if grant.role is Role.CARD and grant.state is CredentialState.ACTIVE:
                self._grants[credential_id] = replace(grant, state=owners[-1].state)

    # --- taps -------------------------------------------------------------------------------

    async def tap(self, position: Position, link: Link) -> TapOutcome:
        """Run one transaction with the device on ``link`` and act on it.

        Never raises for what the device does: a refusal and a device that left are outcomes.
        """
        self.window = self.window.tick(now_s=self._clock())
        if position is Position.CONSOLE_PAD and self.window.state is WindowState.AWAIT_CARD:
            return await self._pair_card(link)
        try:
            decided = await run(self._transaction(position), link)
            return self._settle(position, decided)
        except PolicyRefusal as exc:
            return self._refused(position, exc.code, str(exc))
        except (LinkError, RemoteFault) as exc:
            code, text = _failure(exc)
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

    def _transaction(self, position: Position) -> Generator[bytes, bytes, _Decided]:
        reader = self._readers[position]
        handle = position is Position.DOOR_HANDLE
        session = yield from reader.authenticate(Flow.AUTO if handle else Flow.STANDARD)
        credential = session.credential
        grant = None if credential is None else self._grants.get(credential.name)
        try:
            intent = parse_intent(session.extension) if VEHICLE.intents else None
        except RemoteFault:
            yield from session.fail(ReaderStatus.BAD_FORMAT)
            raise
        verdict = self._decide(position, grant, intent, session.flow)
        if verdict.code is not None:
            yield from session.fail(_status(verdict.code))
        else:
            locked = verdict.action is Action.LOCK
            yield from session.complete(ReaderStatus.SECURE if locked else ReaderStatus.UNSECURE)
        return _Decided(verdict, grant, intent, session.flow, session.kpersistent)

    def _decide(
        self, position: Position, grant: Grant | None, intent: Intent | None, flow: Flow
    ) -> Verdict:
        now_s, signals = self._clock(), self.body.signals()
        fast = flow is Flow.FAST
        if position is Position.CONSOLE_PAD and self.window.state is WindowState.AWAIT_OWNER:
            return self._decide_owner(grant, flow)
        if position is Position.CONSOLE_PAD:
            pad = StartAuthorisation().present(grant, fast=fast, now_s=now_s)
            return pad.authorised(now_s=now_s, signals=signals)
        return decide_handle(
            grant,
            intent=intent,
            fast=fast,
            signals=signals,
            last_action_s=self._last_touch_s,
            now_s=now_s,
        )

    def _settle(self, position: Position, decided: _Decided) -> TapOutcome:
        """Commit and carry out what a finished transaction decided."""
        grant, verdict = decided.grant, decided.verdict
        if position is Position.CONSOLE_PAD and verdict.action is not Action.AUTHORISE_CARD:
            # Whoever lies there now counts, also when refused: the key before it does no more.
            fast = decided.flow is Flow.FAST
            self._pad = StartAuthorisation().present(grant, fast=fast, now_s=self._clock())
        if verdict.code is not None or verdict.action is None or grant is None:
            code = verdict.code or RefusalCode.NOT_AUTHORISED
            return self._refused(position, code, verdict.text, grant=grant, flow=decided.flow)
        # The body may have changed while the device answered: ask again, and act on that.
        again = self._decide(position, grant, decided.intent, decided.flow)
        if again.action is not verdict.action:
            code = again.code or RefusalCode.NOT_AUTHORISED
            return self._refused(position, code, again.text, grant=grant, flow=decided.flow)
        self._commit(position, decided, verdict.action.value)
        match verdict.action:
            case Action.AUTHORISE_START:
                pass  # the device lies on the pad, which is all there is to it
            case Action.AUTHORISE_CARD:
                self.window = self._authorised_window(grant, decided.flow)
            case Action.LOCK:
                self._last_touch_s = self._clock()
                self.body.lock()
            case Action.UNLOCK:
                self._last_touch_s = self._clock()
                self.body.unlock()
            case _:
                raise ValueError(f"a tap cannot {verdict.action}")
        return _outcome(position, grant, decided.flow, action=verdict.action)

    def _commit(self, position: Position, decided: _Decided, kind: str) -> None:
        grant, sub_id = decided.grant, self._sub_ids[position]
        if grant is None:
            return
        with self.store.transaction() as writes:
            if decided.kpersistent is not None:
                sealed = self._seal.close(decided.kpersistent, _place(grant.credential_id, sub_id))
                writes.put_kpersistent(grant.credential_id, sub_id, sealed)
            else:
                writes.mark_used(grant.credential_id, sub_id)
            self._log(writes, kind, position=position, credential_id=grant.credential_id)
        self._reload()

    def _refused(
        self,
        position: Position,
        code: RefusalCode,
        text: str,
        *,
        grant: Grant | None = None,
        flow: Flow | None = None,
    ) -> TapOutcome:
        with self.store.transaction() as writes:
            self._log(
                writes,
                "REFUSED",
                position=position,
                credential_id=None if grant is None else grant.credential_id,
                code=code,
                text=text,
            )
        return _outcome(position, grant, flow, code=code, text=text)

    # --- the pad and the start button ---------------------------------------------------------

    def pad_cleared(self) -> None:
        """The device was taken off the pad: the grace begins."""
        self._pad = self._pad.removed(now_s=self._clock())

    def press_start(self) -> Verdict:
        """The driver presses START; the engine starts if a device on the pad permits it."""
        now_s = self._clock()
        verdict = self._pad.start(signals=self.body.signals(), now_s=now_s)
        with self.store.transaction() as writes:
            self._log(
                writes,
                "REFUSED" if verdict.code else "START",
                position=Position.CONSOLE_PAD,
                credential_id=verdict.credential_id,
                code=verdict.code,
                text=verdict.text,
            )
        if verdict.granted:
            self.body.start()
        return verdict

    # --- card pairing -------------------------------------------------------------------------

    def open_card_window(self, *, replaces: str | None = None) -> None:
        """The driver asks at the head unit to pair a card.

        Args:
            replaces: Credential id of the damaged card whose place it takes, or None.

        Raises:
            PolicyRefusal: A window is open already.
        """
        self.window = self.window.tick(now_s=self._clock())
        self.window = self.window.open(replaces=replaces, now_s=self._clock())

    def cancel_card_window(self) -> None:
        """The driver gives up pairing a card."""
        self.window = self.window.cancel()

    def _authorised_window(self, owner: Grant | None, flow: Flow) -> CardWindow:
        return self.window.authorise(
            owner,
            fast=flow is Flow.FAST,
            signals=self.body.signals(),
            cards=self._cards,
            now_s=self._clock(),
        )

    def _decide_owner(self, owner: Grant | None, flow: Flow) -> Verdict:
        """Decide a tap on the pad while the window waits for the owner."""
        credential_id = None if owner is None else owner.credential_id
        try:
            self._authorised_window(owner, flow)
        except PolicyRefusal as exc:
            return Verdict(action=None, code=exc.code, credential_id=credential_id, text=str(exc))
        return Verdict(action=Action.AUTHORISE_CARD, code=None, credential_id=credential_id)

    async def _pair_card(self, link: Link) -> TapOutcome:
        position = Position.CONSOLE_PAD
        reader = self._readers[position]
        try:
            card = await run(begin_pairing(reader.identity, self._entropy), link)
            self._admit(card)
            await run(card.commit(), link)
            # The card may have taken its time: what permits it must still hold, as after a tap.
            window = self._admit(card)
            credential = self._credential(
                f"card {len(self.store.cards()) + 1}",
                card.public_key,
                Role.CARD,
                Permission.ENTRY_AND_START,
                card.provenance,
            )
            with self.store.transaction() as writes:
                writes.add(credential, replaces=self.window.replaces)
                self._log(
                    writes,
                    Action.ENROL_CARD.value,
                    position=position,
                    credential_id=credential.credential_id,
                    text=card.provenance.value,
                )
        except PolicyRefusal as exc:
            return self._refused(position, exc.code, str(exc))
        except (LinkError, RemoteFault) as exc:
            code, text = _failure(exc)
            return self._refused(position, code, text)
        self.window = window
        self._reload()
        return _outcome(position, credential.grant(), None, action=Action.ENROL_CARD)

    def _admit(self, card: PendingCard) -> CardWindow:
        """Check a card that proved its key; the returned window is closed.

        Raises:
            PolicyRefusal: By the pairing rules, or the key is enrolled already.
        """
        self.window = self.window.tick(now_s=self._clock())
        try:
            if self.store.credential_by_x(card.public_key.x) is not None:
                raise PolicyRefusal(
                    RefusalCode.ALREADY_LINKED,
                    "the card is enrolled already",
                    hint="use another card; a card that was replaced stays out of use",
                )
            owner = self.window.owner
            if owner is not None:  # with the rights it has now, not those it had on the pad
                owner = self._grants.get(owner.credential_id)
            return self.window.admit(
                card.provenance,
                owner=owner,
                signals=self.body.signals(),
                cards=self.store.cards(),
            )
        except PolicyRefusal:
            card.abandon()
            raise

    def _log(
        self,
        writes: Transaction,
        kind: str,
        *,
        position: Position | None = None,
        credential_id: str | None = None,
        code: RefusalCode | None = None,
        text: str = "",
    ) -> None:
        writes.log(
            t_s=self._wall_clock(),
            kind=kind,
            position=position,
            credential_id=credential_id,
            code=code,
            text=text,
        )


def _place(credential_id: str, sub_id: bytes) -> bytes:
    return credential_id.encode() + b"/" + sub_id


def _outcome(
    position: Position,
    grant: Grant | None,
    flow: Flow | None,
    *,
    action: Action | None = None,
    code: RefusalCode | None = None,
    text: str = "",
) -> TapOutcome:
    return TapOutcome(
        position=position,
        credential_id=None if grant is None else grant.credential_id,
        name=None if grant is None else grant.name,
        flow=None if flow is None else flow.value,
        action=action,
        code=code,
        text=text,
    )


def _failure(exc: DkeyError) -> tuple[RefusalCode, str]:
    """Return the refusal code for a transaction that broke."""
    if isinstance(exc, ReplayError):
        return RefusalCode.REPLAY, "the device answered with what was answered before"
    if isinstance(exc, AuthenticationError):
        return RefusalCode.NOT_AUTHORISED, "the device did not prove a key"
    if isinstance(exc, StatusError):
        if exc.command == "SELECT":
            return RefusalCode.DEVICE_UNSUPPORTED, "the device has no key of this kind"
        said = f"{exc.command}: {exc.status:04X}"
        return RefusalCode.NOT_AUTHORISED, f"the device does not trust this vehicle ({said})"
    return RefusalCode.CARD_DAMAGED, f"the transaction broke off: {exc}"


def _status(code: RefusalCode) -> ReaderStatus:
    """Return what the device is told of a refusal."""
    if code is RefusalCode.KEY_UNKNOWN:
        return ReaderStatus.KEY_NOT_FOUND
    if code in (RefusalCode.KEY_REVOKED, RefusalCode.CARD_BLOCKED):
        return ReaderStatus.KEY_NOT_TRUSTED
    return ReaderStatus.ACCESS_RIGHTS
