"""The authority in process: accounts, consents, vehicles, keys, records (requirements B11).

Every method trusts its caller about who acts: :meth:`Authority.authenticates` is for whoever serves
it to others (:mod:`dkey.authority.http`). Used from one thread.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from dkey.authority.accounts import Purpose, UnknownError, new_token
from dkey.authority.audit import Basis
from dkey.authority.core import OutageError
from dkey.authority.folder import SIGNING_KEY, create_folder, holds_authority, open_folder
from dkey.authority.json_form import to_json
from dkey.authority.persons import NAMED, outward_value
from dkey.authority.telematic_desk import TelematicDesk
from dkey.authority.values import Booked, Health, KeyEntry, KeyList
from dkey.authority.vehicles import VehicleRecord
from dkey.crypto.entropy import SystemEntropy
from dkey.crypto.p256 import PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.commands import AUTHORITY, VEHICLE, CloseAccount

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from dkey.authority.audit import AuditEntry
    from dkey.authority.notifications import Notice, Port
    from dkey.authority.outage import Incident, Waiting
    from dkey.crypto.entropy import Entropy

__all__ = ["Authority", "OutageError"]

_LIVE = frozenset({"PENDING", "NOT_SYNCED", "ACTIVE", "SUSPENDED"})


class Authority(TelematicDesk):
    """One authority in one state folder; made by :meth:`open`."""

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        create: bool = False,
        entropy: Entropy | None = None,
        clock: Callable[[], float] = time.time,
        port: Port | None = None,
    ) -> Self:
        """Open the authority in ``folder`` with everything that it ever answered.

        Raises:
            LocalFault: There is none and ``create`` is not set, or it is damaged.
        """
        source = entropy or SystemEntropy()
        if create and not holds_authority(folder):
            create_folder(folder, entropy=source, clock=clock)
        return cls(open_folder(folder, entropy=source), entropy=source, clock=clock, port=port)

    def close(self) -> None:
        """Keep the state and release the store; may be called twice."""
        self._rings.save()
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def public_key(self) -> PublicKey:
        """What the authority's statements are verified with."""
        return self._folder.vault.public(SIGNING_KEY)

    def authenticates(self, actor: str, token: str, vehicle: bytes | None = None) -> bool:
        """Return whether ``token`` is the actor's: an account's, the vehicle's, or the admin's."""
        if actor in NAMED:
            admin = self._folder.admin_token.reveal()
            if hmac.compare_digest(admin, token.encode()):
                return True
            return (
                actor == VEHICLE
                and vehicle is not None
                and self._vehicles.authenticates(vehicle, token)
            )
        return self._accounts.authenticates(actor, token)

    def health(self) -> Health:
        """Return how the authority is."""
        return Health(
            time_s=self._now(),
            outage=self._outage.open,
            waiting=len(self._outage.queue(open_only=True)),
            vehicles=len(self._vehicles.all()),
            entries=self._rings.head,
        )

    # --- people -------------------------------------------------------------------------------

    def register_account(
        self, account: str, *, sms: str | None = None, app: bool = True, offers: bool = False
    ) -> str:
        """Make an account and return its bearer token, which is shown this once.

        Raises:
            LocalFault: Not the form of an e-mail address.
            PolicyRefusal: ALREADY_LINKED, the account is taken.
        """
        self._check_service()
        now_s, token = self._now(), new_token(self._entropy)
        with self._file.transaction():
            person = self._accounts.register(
                account,
                token=Secret(token.encode()),
                entropy=self._entropy,
                now_s=now_s,
                sms=sms,
                app=app,
                offers=offers,
            )
            self._note(now_s, person, "RegisterAccount")
        return token

    def close_account(self, actor: str, account: str) -> None:
        """End an account: its phone keys are unusable at every vehicle; cards stay (S57)."""
        self._check_service()
        person, by, now_s = self._accounts.person(account), self._person(actor), self._now()
        self._close_keys(person, now_s)
        with self._file.transaction():
            self._accounts.close(person)
            self._note(now_s, by, "CloseAccount", subject=person)

    def record_consent(
        self, actor: str, account: str, purpose: Purpose, *, version: str, channel: str
    ) -> None:
        """Record that somebody agreed, before anything that needs it (S66, S71, S157)."""
        self._check_service()
        person, now_s = self._accounts.person(account), self._now()
        with self._file.transaction():
            self._accounts.consent(person, purpose, version=version, channel=channel, now_s=now_s)
            self._note(now_s, self._person(actor), "Consent", subject=person, text=purpose.value)

    def withdraw_consent(self, actor: str, account: str, purpose: Purpose) -> int:
        """Take a consent back; return how many audit entries went with it (S145, S148)."""
        self._check_service()
        person, now_s = self._accounts.person(account), self._now()
        with self._file.transaction():
            self._accounts.withdraw(person, purpose, now_s)
            gone = 0
            if purpose is not Purpose.TERMS:
                gone = self._audit.withdraw_consent(person, Basis(purpose.value), now_s)
            self._note(
                now_s, self._person(actor), "WithdrawConsent", basis=Basis.NONE, text=purpose.value
            )
        return gone

    def set_offers(self, actor: str, account: str, *, wanted: bool) -> None:
        """Switch advertisements on or off; security notices have no switch (S134)."""
        self._check_service()
        person, now_s = self._accounts.person(account), self._now()
        with self._file.transaction():
            self._accounts.set_offers(person, wanted=wanted)
            self._note(now_s, self._person(actor), "SetOffers", subject=person)

    def notices(self, account: str) -> list[Notice]:
        """Return every notice that was sent to somebody, as the person could read it."""
        notices = self._notices.of(self._accounts.person(account))
        return [replace(each, purpose=self._outward(each.purpose)) for each in notices]

    def export(self, account: str) -> dict[str, object]:
        """Return all that is kept about a person: own keys, consents, notices, events (S153).

        Other people's accounts are null in it (S142).
        """
        person = self._accounts.person(account)

        def own(other: str) -> str | None:
            return account if other == person else None

        rings = [(r.vehicle, self._rings.ring(r.vehicle)) for r in self._vehicles.all()]
        keys = [
            {"vehicle": vehicle.hex(), **to_json(view)}
            for vehicle, ring in rings
            for view in ring.keys(None)
            if view.account == person
        ]
        consents = [
            {
                "purpose": purpose.value,
                "version": version,
                "channel": channel,
                "given_s": given_s,
                "withdrawn_s": withdrawn_s,
            }
            for purpose, version, channel, given_s, withdrawn_s in self._accounts.consents(person)
        ]
        form = {
            "account": account,
            "keys": keys,
            "consents": consents,
            "notices": to_json(self._notices.of(person)),
            "events": [{**to_json(each), "text": ""} for each in self._audit.export(person)],
        }
        exported = outward_value(form, own)
        assert isinstance(exported, dict)
        return exported

    def erase(self, actor: str, account: str) -> int:
        """Forget a person; return how many audit entries went (S142, S151).

        The keys end first. What others still need, the ledger, names only a pseudonym from then on.

        Raises:
            PolicyRefusal: NOT_AUTHORISED while a dispute about the person is open.
        """
        self._check_service()
        person, now_s = self._accounts.person(account), self._now()
        if self._audit.disputed(person):
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                "a dispute about this person is open",
                hint="ask again when it has ended",
            )
        self._close_keys(person, now_s)
        with self._file.transaction():
            gone = self._audit.erase(person, now_s)
            self._accounts.erase(person)
            by = actor if actor in NAMED else AUTHORITY
            self._note(now_s, by, "ErasePerson", basis=Basis.NONE)
        return gone

    def open_dispute(
        self, reason: str, *, account: str | None = None, vehicle: bytes | None = None
    ) -> int:
        """Keep all entries about a person or a vehicle until the dispute ends (S145)."""
        self._check_service()
        person = None if account is None else self._accounts.person(account)
        if (person is None) == (vehicle is None):
            raise LocalFault("a dispute is about one person or one vehicle", hint="name one")
        now_s = self._now()
        with self._file.transaction():
            number = self._audit.open_dispute(now_s, reason, person=person, vehicle=vehicle)
            self._note(now_s, AUTHORITY, "OpenDispute", vehicle=vehicle, subject=person)
        return number

    def end_dispute(self, number: int) -> None:
        """End a dispute: its entries grow old like the others again."""
        self._check_service()
        now_s = self._now()
        with self._file.transaction():
            if not self._audit.end_dispute(number, now_s):
                raise UnknownError(f"no dispute {number} is open", hint="check its number")
            self._note(now_s, AUTHORITY, "EndDispute")

    # --- vehicles -----------------------------------------------------------------------------

    def register_vehicle(
        self,
        vehicle: bytes,
        *,
        vin: str,
        market: str,
        profile: str,
        public_key: bytes,
        service_mode: bool = False,
    ) -> str:
        """Take in a vehicle without an owner; return its bearer token, which is shown this once.

        Raises:
            LocalFault: An unknown profile or a malformed identifier.
            WireError: Not a public key.
            PolicyRefusal: WRONG_VIN, WRONG_MARKET, SERVICE_MODE, ALREADY_LINKED.
        """
        self._check_service()
        now_s, token = self._now(), new_token(self._entropy)
        record = VehicleRecord(
            vehicle=vehicle,
            vin=vin,
            market=market,
            profile=profile,
            public_key=PublicKey.parse(public_key).point,
            service_mode=service_mode,
            registered_s=now_s,
        )
        with self._file.transaction():
            self._vehicles.register(record, Secret(token.encode()))
            step = self._rings.take_in(vehicle, record.flags)
            self._rings.signed_list(step.ring, now_s)
            self._note(now_s, AUTHORITY, "RegisterVehicle", vehicle=vehicle)
        self._rings.keep(step)
        return token

    def set_service_mode(self, vehicle: bytes, *, on: bool) -> None:
        """Record that a vehicle is in service mode, or not any more (S73)."""
        self._check_service()
        now_s = self._now()
        with self._file.transaction():
            self._vehicles.set_service_mode(vehicle, on=on)
            text = "on" if on else "off"
            self._note(now_s, AUTHORITY, "ServiceMode", vehicle=vehicle, text=text)

    def keys(self, vehicle: bytes, actor: str) -> KeyList:
        """Return the keys that the actor may see, and how many there are (S140, C29, C38)."""
        self._vehicles.find(vehicle)
        ring = self._rings.ring(vehicle)
        everything = ring.keys()
        shown = everything if actor in NAMED else ring.keys(self._person(actor))
        entries = []
        for view in shown:
            form = to_json(view)
            form["account"] = self._accounts.account(view.account) if view.account else None
            entries.append(KeyEntry(**form))
        return KeyList(
            count=sum(1 for view in everything if view.state in _LIVE),
            keys=tuple(entries),
            linked=ring.owner is not None,
            half_removed=ring.half_removed.value if ring.half_removed else None,
            outage=self._outage.open,
        )

    def bookings(self, vehicle: bytes, actor: str) -> list[Booked]:
        """Return the bookings of the provider keys that the actor may see (S115, C38)."""
        visible = {entry.item: entry for entry in self.keys(vehicle, actor).keys}
        found = []
        for share in self._rings.ring(vehicle).shares:
            entry, booking = visible.get(share.share_id.hex()), share.booking
            if entry is None or booking is None:
                continue
            found.append(
                Booked(
                    share_id=entry.item,
                    booking_id=booking.booking_id,
                    provider=self._accounts.account(booking.provider),
                    purpose=booking.purpose,
                    begins_s=booking.begins_s,
                    ends_s=booking.ends_s,
                    state=entry.state,
                    ordered_by=self._accounts.account(share.grantor),
                )
            )
        return found

    def holds_key(self, vehicle: bytes, actor: str) -> bool:
        """Return whether the actor has anything to do with a vehicle."""
        ring = self._rings.ring(self._vehicles.find(vehicle).vehicle)
        if actor in NAMED:
            return True
        person = self._person(actor)
        owns = ring.owner is not None and ring.owner.account == person
        return owns or any(share.account == person for share in ring.live)

    def withdrawal_list(self, vehicle: bytes, actor: str = AUTHORITY) -> bytes:  # noqa: ARG002 - as a client's
        """Return the newest signed withdrawal list; there is always one (C18)."""
        self._vehicles.find(vehicle)
        rows = self._file.rows("SELECT signed FROM withdrawal WHERE vehicle = ?", vehicle)
        return bytes(rows[0][0])

    def audit_log(self, vehicle: bytes | None = None) -> list[AuditEntry]:
        """Return the audit log, with pseudonyms; for the authority itself."""
        return self._audit.entries(vehicle=vehicle)

    def incidents(self) -> list[Incident]:
        """Return every outage: report, actions, resumption (S138)."""
        return self._outage.incidents()

    def queue(self) -> list[Waiting]:
        """Return the commands that wait or waited, with their results."""
        return self._outage.queue()

    # --- inside -------------------------------------------------------------------------------

    def _close_keys(self, person: str, now_s: int) -> None:
        for record in self._vehicles.all():
            ring = self._rings.ring(record.vehicle)
            owns = ring.owner is not None and ring.owner.account == person
            if owns or any(share.account == person for share in ring.live):
                command = CloseAccount(actor=AUTHORITY, account=person)
                self._perform(record, command, now_s)
