"""How the authority carries out a command: gates, ring, ledger, notices, audit, in one commit.

What was answered is committed. A refused command leaves an audit entry and nothing else. During an
outage commands wait, in order, and each gets its result recorded when the outage ends.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from dkey.authority.accounts import Accounts, Purpose
from dkey.authority.audit import RETENTION_S, Audit, Basis
from dkey.authority.json_form import to_json
from dkey.authority.notifications import Notices, RecordingPort
from dkey.authority.outage import Outage
from dkey.authority.persons import NAMED, accounts_in, outward_text, outward_value, renamed
from dkey.authority.rings import Rings
from dkey.authority.telling import told
from dkey.authority.values import Outcome
from dkey.authority.vehicles import Vehicles
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode, StoreError
from dkey.lifecycle.command_codec import decode, encode
from dkey.lifecycle.commands import (
    AUTHORITY,
    Accept,
    ChangeOwner,
    Found,
    Invite,
    Tick,
)
from dkey.lifecycle.ledger import Ledger
from dkey.lifecycle.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkey.authority.folder import Folder
    from dkey.authority.notifications import Port
    from dkey.authority.outage import Waiting
    from dkey.authority.rings import Step
    from dkey.authority.vehicles import VehicleRecord
    from dkey.crypto.entropy import Entropy
    from dkey.lifecycle.commands import Command
    from dkey.lifecycle.ring_effects import Effect

__all__ = ["Core", "OutageError"]

_log = logging.getLogger(__name__)
_ITEMS: Final = ("share_id", "item", "card")


class OutageError(LocalFault):
    """The authority is out, and this cannot wait in its queue."""


class Core:
    """The part of the authority that carries out commands.

    Args:
        folder: The open state folder.
        entropy: Source of tokens, pseudonyms and nonces.
        clock: Seconds since 1970; time never goes back here, whatever it says.
        port: What carries notices away; None records them only.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        entropy: Entropy,
        clock: Callable[[], float],
        port: Port | None = None,
    ) -> None:
        self._folder = folder
        self._file = folder.file
        self._entropy = entropy
        self._clock = clock
        self._accounts = Accounts(self._file)
        self._audit = Audit(self._file)
        self._notices = Notices(self._file, port or RecordingPort())
        self._outage = Outage(self._file)
        self._vehicles = Vehicles(self._file)
        ledger = Ledger(self._file, folder.seal_key, entropy)
        self._rings = Rings(self._file, ledger, folder.vault)
        if not self._outage.open:
            self._drain()  # a restart in the middle of a restore

    def execute(self, vehicle: bytes, command: Command) -> Outcome:
        """Carry out a command of an authenticated actor, or let it wait during an outage.

        Raises:
            PolicyRefusal: A rule says no; only an audit entry tells of it.
            UnknownError: The vehicle, or an account in the command, is not registered.
        """
        record = self._vehicles.find(vehicle)
        inner = self._inward(command)
        encoded = encode(inner)  # a malformed identifier is found before anything is kept
        now_s = self._now()
        if self._outage.open:
            with self._file.transaction():
                return Outcome(queued=True, number=self._outage.wait(vehicle, encoded, now_s))
        self._tick(vehicle, now_s)
        step = self._perform(record, inner, now_s)
        return Outcome(
            queued=False, number=step.number, effects=self._reported(step.effects, inner, vehicle)
        )

    def tick(self) -> None:
        """Let everything happen that is due: ends, extensions, notices, the purge of the log."""
        now_s = self._now()
        with self._file.transaction():
            self._audit.purge(now_s)
            self._notices.purge(now_s - RETENTION_S)
            self._outage.purge(now_s - RETENTION_S)
        if self._outage.open:
            return
        for record in self._vehicles.all():
            self._tick(record.vehicle, now_s)

    def begin_outage(self, reason: str) -> int:
        """Go out of service: commands wait from here on; return the incident's number."""
        now_s = self._now()
        with self._file.transaction():
            number = self._outage.begin(reason, now_s)
            self._note(now_s, AUTHORITY, "BeginOutage", text=reason)
        return number

    def end_outage(self, actions: str) -> list[Waiting]:
        """Come back: carry out what waits, in order, and record each result (S31, S138)."""
        now_s = self._now()
        first = {waiting.number for waiting in self._outage.queue(open_only=True)}
        if self._outage.open:
            with self._file.transaction():
                self._outage.end(actions, now_s)
                self._note(now_s, AUTHORITY, "EndOutage", text=actions)
        self._drain()
        return [waiting for waiting in self._outage.queue() if waiting.number in first]

    # --- one command --------------------------------------------------------------------------

    def _perform(
        self, record: VehicleRecord, command: Command, now_s: int, waiting: Waiting | None = None
    ) -> Step:
        """Carry out a command with pseudonyms; its notices and audit entry are one commit."""
        try:
            with self._file.transaction():
                self._check(record, command)
                step = self._rings.step(record.vehicle, command, now_s)
                self._rings.signed_list(step.ring, now_s)
                self._tell(record.vehicle, step.effects, command.actor, now_s)
                self._note_command(record.vehicle, command, now_s)
                if waiting is not None:
                    self._outage.done(waiting, now_s, code=None, text="done")
        except PolicyRefusal as refusal:
            text = self._outward(Exception.__str__(refusal))
            with self._file.transaction():
                self._note_command(record.vehicle, command, now_s, refusal)
                if waiting is not None:
                    self._outage.done(waiting, now_s, code=refusal.code.value, text=text)
            raise PolicyRefusal(
                refusal.code, text, remaining_s=refusal.remaining_s, hint=refusal.hint
            ) from refusal
        self._rings.keep(step)
        return step

    def _check(self, record: VehicleRecord, command: Command) -> None:
        """Check what the ring does not know: service mode, consents, accounts that are open."""
        enrolled: str | None = None
        match command:
            case Found() | ChangeOwner():
                record.check_service_mode()
                enrolled = command.owner.account
            case Accept():
                record.check_service_mode()
                enrolled = command.actor
            case Invite() if command.booking is not None:
                self._accounts.check_consents(command.actor, (Purpose.THIRD_PARTY,))
                self._check_booking(command)
            case _:
                pass
        if enrolled is not None and enrolled not in NAMED:
            self._accounts.check_consents(enrolled)

    def _check_booking(self, command: Invite) -> None:
        """A provider's key is for the provider of its booking, and for nobody else (S107)."""
        booking = command.booking
        if booking is not None and booking.provider != command.account:
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                "the booking is with another provider",
                hint="offer the key to the provider of the booking",
            )

    def _tick(self, vehicle: bytes, now_s: int) -> None:
        command = Tick(actor=AUTHORITY)
        if not self._rings.would_change(vehicle, command, now_s):
            return
        with self._file.transaction():
            step = self._rings.step(vehicle, command, now_s)
            self._rings.signed_list(step.ring, now_s)
            self._tell(vehicle, step.effects, AUTHORITY, now_s)
            names = ", ".join(type(effect).__name__ for effect in step.effects)
            self._note(now_s, AUTHORITY, "Tick", vehicle=vehicle, text=names)
        self._rings.keep(step)

    def _drain(self) -> None:
        """Carry out what waits, in order; a command whose turn failed is refused, not lost."""
        for waiting in self._outage.queue(open_only=True):
            now_s = self._now()
            self._tick(waiting.vehicle, now_s)
            command = decode(waiting.command)
            record = self._vehicles.find(waiting.vehicle)
            try:
                self._perform(record, command, now_s, waiting)
            except PolicyRefusal as refusal:
                _log.info("waiting command %d was refused: %s", waiting.number, refusal.code)
            except LocalFault as fault:
                if isinstance(fault, StoreError):
                    raise
                with self._file.transaction():
                    text = Exception.__str__(fault)
                    self._outage.done(waiting, now_s, code="FAILED", text=text)

    # --- records ------------------------------------------------------------------------------

    def _tell(
        self, vehicle: bytes | None, effects: Iterable[Effect], actor: str, now_s: int
    ) -> None:
        for one in told(effects, actor):
            self._notices.send(
                one.to,
                self._accounts.reach(one.to),
                one.topic,
                one.words,
                at_s=now_s,
                vehicle=vehicle,
                said=self._outward(one.words),
            )

    def _note_command(
        self, vehicle: bytes, command: Command, now_s: int, refusal: PolicyRefusal | None = None
    ) -> None:
        items = (getattr(command, name, None) for name in _ITEMS)
        key_id = next((item for item in items if item is not None), None)
        self._note(
            now_s,
            command.actor,
            type(command).__name__,
            vehicle=vehicle,
            subject=self._subject(vehicle, command, key_id),
            key_id=key_id,
            code=refusal.code.value if refusal is not None else None,
            basis=Basis.THIRD_PARTY if getattr(command, "booking", None) else Basis.PERSONAL_DATA,
            text=Exception.__str__(refusal) if refusal is not None else "",
        )

    def _subject(self, vehicle: bytes, command: Command, key_id: bytes | None) -> str | None:
        """Return whom a command concerns besides its actor; a key's holder where it names none."""
        others = sorted(accounts_in(command) - {command.actor})
        if others:
            return others[0]
        share = self._rings.ring(vehicle).share(key_id) if key_id is not None else None
        return share.account if share is not None and share.account != command.actor else None

    def _note(
        self,
        now_s: int,
        actor: str,
        action: str,
        *,
        vehicle: bytes | None = None,
        subject: str | None = None,
        key_id: bytes | None = None,
        code: str | None = None,
        basis: Basis | None = None,
        text: str = "",
    ) -> None:
        """Write an audit entry and remember how late it is; inside an open transaction."""
        self._audit.append(
            at_s=now_s,
            actor=actor,
            action=action,
            vehicle=vehicle,
            subject=subject,
            key_id=key_id,
            code=code,
            basis=basis or (Basis.NONE if actor in NAMED and not subject else Basis.PERSONAL_DATA),
            text=text,
        )
        one, created_s, _, incident = self._file.rows(
            "SELECT one, created_s, clock_s, incident FROM authority"
        )[0]
        self._file.update("authority", one, created_s, now_s, incident)

    def _now(self) -> int:
        """Return the time: the clock's, but never before what was recorded last."""
        recorded: int = self._file.rows("SELECT clock_s FROM authority")[0][0]
        return max(int(self._clock()), recorded)

    # --- accounts and pseudonyms --------------------------------------------------------------

    def _inward(self, command: Command) -> Command:
        return renamed(command, self._accounts.person)

    def _outward(self, text: str) -> str:
        return outward_text(text, self._accounts.account)

    def _reported(
        self, effects: Iterable[Effect], command: Command, vehicle: bytes
    ) -> tuple[dict[str, object], ...]:
        """Return effects for the actor: others' accounts are for the owner's side only (S140)."""
        actor, known = command.actor, accounts_in(command)
        ring = self._rings.ring(vehicle)
        owner = ring.owner is not None and ring.owner.account == actor
        manages = owner or any(
            share.account == actor and share.role is Role.ACTUAL_USER for share in ring.live
        )

        def account(person: str) -> str | None:
            shown = actor in NAMED or manages or person in known
            return self._accounts.account(person) if shown else None

        found = []
        for effect in effects:
            form = {"effect": type(effect).__name__, **to_json(effect)}
            found.append(outward_value(form, account))
        return tuple(found)  # type: ignore[arg-type]

    def _person(self, account: str) -> str:
        return account if account in NAMED else self._accounts.person(account)

    def _check_service(self) -> None:
        """Refuse what cannot wait for the end of an outage."""
        if self._outage.open:
            raise OutageError(
                "the authority is out of service", hint="commands on keys wait; ask again later"
            )
