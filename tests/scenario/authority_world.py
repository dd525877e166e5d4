"""A world for scenarios with the authority: people, vehicles, and short words for what they do."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from dkey.authority.accounts import ENROLMENT, Purpose
from dkey.crypto.p256 import PrivateKey
from dkey.errors import PolicyRefusal
from dkey.lifecycle.commands import (
    AUTHORITY,
    VEHICLE,
    Accept,
    Activate,
    Booking,
    Found,
    Invite,
    Party,
    PartyKind,
)
from dkey.lifecycle.roles import Permission, Role

if TYPE_CHECKING:
    from dkey.errors import RefusalCode
    from dkey.lifecycle.commands import Command

START = 1_800_000_000
DAY = 86_400
OWNER = "owner@example.org"


class World:
    """Scenes over an authority, or over a client of one: the interface is the same."""

    def __init__(self, authority: Any) -> None:
        self.authority = authority
        self.people: set[str] = set()
        self.cars = 0

    def person(self, name: str, *, agreed: bool = True) -> str:
        account = name if "@" in name else f"{name}@example.org"
        if account in self.people:
            return account
        self.people.add(account)
        self.authority.register_account(account, sms="+82 10 1234")
        for purpose in (*ENROLMENT, Purpose.THIRD_PARTY) if agreed else ():
            self.authority.record_consent(
                account, account, purpose, version="2025-02-13", channel="APP"
            )
        return account

    def car(self, *, profile: str = "DK1", vin: str | None = None, market: str = "KR") -> bytes:
        self.cars += 1
        vehicle = self.cars.to_bytes(16, "big")
        prefix = "KNA" if market == "KR" else "XWE"
        self.authority.register_vehicle(
            vehicle,
            vin=vin or f"{prefix}1234567890{self.cars:04d}",
            market=market,
            profile=profile,
            public_key=PrivateKey.from_scalar(bytes(31) + b"\x07").public.point,
        )
        return vehicle

    def owned(self, *, corporate: bool = False, profile: str = "DK1", market: str = "KR") -> bytes:
        vehicle, owner = self.car(profile=profile, market=market), self.person(OWNER)
        kind = PartyKind.CORPORATE if corporate else PartyKind.PERSON
        party = Party(account=owner, kind=kind)
        actor = AUTHORITY if corporate else owner
        self.do(vehicle, Found(actor=actor, owner=party, key_x=secrets.token_bytes(32)))
        return vehicle

    def do(self, vehicle: bytes, command: Command) -> Any:
        return self.authority.execute(vehicle, command)

    def refused(self, vehicle: bytes, command: Command) -> RefusalCode:
        try:
            self.do(vehicle, command)
        except PolicyRefusal as refusal:
            return refusal.code
        raise AssertionError("it was not refused")

    def invitation(
        self,
        account: str,
        *,
        actor: str = OWNER,
        role: Role = Role.ASSOCIATE,
        permission: Permission = Permission.ENTRY_AND_START,
        booking: Booking | None = None,
        until_s: int = START + 1000 * DAY,
        replaces: bytes | None = None,
    ) -> Invite:
        return Invite(
            actor=actor,
            share_id=secrets.token_bytes(16),
            account=self.person(account),
            role=role,
            permission=permission,
            not_before_s=START,
            not_after_s=until_s,
            booking=booking,
            replaces=replaces,
        )

    def share(self, vehicle: bytes, account: str, **how: Any) -> bytes:
        """Invite, accept and activate."""
        command = self.invitation(account, **how)
        self.do(vehicle, command)
        key = secrets.token_bytes(32)
        self.do(vehicle, Accept(actor=command.account, share_id=command.share_id, key_x=key))
        self.do(vehicle, Activate(actor=VEHICLE, share_id=command.share_id))
        return command.share_id

    def state(self, vehicle: bytes, item: bytes) -> str:
        found = self.authority.keys(vehicle, AUTHORITY).keys
        return next(entry.state for entry in found if entry.item == item.hex())

    def booking(self, provider: str, **how: Any) -> Booking:
        return Booking(
            **{
                "booking_id": "B-1",
                "provider": self.person(provider),
                "purpose": "a wash",
                "begins_s": START,
                "ends_s": START + 3600,
                "needs_start": False,
                "third_party_consent": True,
                **how,
            }
        )
