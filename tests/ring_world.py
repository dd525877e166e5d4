"""A ring and a vehicle to play lifecycle stories with: short calls, one clock, no signatures."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle import commands as c
from dkey.lifecycle.admission import Admissions
from dkey.lifecycle.claims import Issuer, KeyClaims, holder_ref, key_ref
from dkey.lifecycle.flags import Flags
from dkey.lifecycle.ring import Ring, apply
from dkey.lifecycle.ring_draft import Draft
from dkey.lifecycle.roles import CardProvenance, Permission, Role

T0 = 1_700_000_000
DAY = 86_400
YEAR = 365 * DAY
VEHICLE_ID = b"V" * 16
OWNER, OWNER_X = "owner@example.org", b"o" * 32
AUTHORITY_X = b"@" * 32
START, ENTRY = Permission.ENTRY_AND_START, Permission.ENTRY


def share_id(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def x_of(name: str) -> bytes:
    return name.encode().ljust(32, b"x")


def mail(name: str) -> str:
    return f"{name}@example.org"


def card(n: int) -> bytes:
    return b"card" + bytes([n]) * 12


@contextmanager
def refused(code: RefusalCode):
    with pytest.raises(PolicyRefusal) as caught:
        yield
    assert caught.value.code is code


class World:
    """One ring, its vehicle, and the attestations that people carry."""

    def __init__(self, *, corporate: bool = False, found: bool = True, **flags) -> None:
        self.flags = Flags(**flags)
        self.now = T0
        self.ring = Ring(vehicle=VEHICLE_ID, flags=self.flags)
        self.car = Admissions(vehicle=VEHICLE_ID, flags=self.flags, authority_x=AUTHORITY_X)
        self.corporate = corporate
        self.effects = ()
        self.draft_type = Draft
        if found:
            self.found()

    def found(self, account: str = OWNER, key_x: bytes = OWNER_X) -> None:
        kind = c.PartyKind.CORPORATE if self.corporate else c.PartyKind.PERSON
        actor = c.AUTHORITY if self.corporate else account
        party = c.Party(account=account, kind=kind)
        self.do(c.Found(actor=actor, owner=party, key_x=key_x))
        self.car = self.car.enrol_owner(key_x)
        if self.corporate and self.car.epoch == self.ring.epoch:
            for issuer in Issuer:
                self.deliver(issuer)

    def do(self, command: c.Command) -> tuple:
        self.ring, self.effects = apply(
            self.ring, command, at_s=self.now, draft_type=self.draft_type
        )
        return self.effects

    def pass_days(self, days: float) -> tuple:
        self.now += int(days * DAY)
        return self.do(c.Tick(actor=c.AUTHORITY))

    def invite(self, name: str, *, by: str = OWNER, role=Role.ASSOCIATE, permission=START, **more):
        defaults = {"not_before_s": self.now, "not_after_s": self.now + YEAR, "account": mail(name)}
        self.do(
            c.Invite(
                actor=by,
                share_id=share_id(name),
                role=role,
                permission=permission,
                **{**defaults, **more},
            )
        )
        return share_id(name)

    def share(self, name: str, **more) -> bytes:
        """Invite, accept and use it once."""
        item = self.invite(name, **more)
        account = self.ring.share(item).account
        self.do(c.Accept(actor=account, share_id=item, key_x=x_of(name)))
        self.do(c.Activate(actor=c.VEHICLE, share_id=item))
        return item

    def add_card(self, n: int = 1, provenance=CardProvenance.PURCHASED, **more) -> bytes:
        self.do(c.AddCard(actor=more.pop("by", OWNER), card=card(n), provenance=provenance, **more))
        self.car = self.car.enrol_card(card(n), replaces=more.get("replaces"))
        return card(n)

    def order(self, name: str = "wash", *, by: str, start: bool = False, **booking):
        details = {
            "booking_id": "B-1",
            "provider": mail(name),
            "purpose": "car wash",
            "begins_s": self.now,
            "ends_s": self.now + 3600,
            "needs_start": start,
            "third_party_consent": True,
        }
        return self.invite(
            name,
            by=by,
            role=Role.PROVIDER,
            permission=START if start else ENTRY,
            booking=c.Booking(**{**details, **booking}),
        )

    def usable(self, item: bytes, **more) -> RefusalCode | None:
        return self.ring.usable(item, self.now, **more)

    @property
    def owner_item(self) -> bytes:
        return key_ref(OWNER_X)

    # --- the vehicle --------------------------------------------------------------------------

    def claims(self, name: str, *, signer: bytes = OWNER_X, **more) -> KeyClaims:
        share = self.ring.share(share_id(name))
        fields = {
            "vehicle": VEHICLE_ID,
            "epoch": self.ring.epoch,
            "slot": share.slot,
            "share_id": share.share_id,
            "holder": holder_ref(VEHICLE_ID, share.account),
            "public_key": b"\4" + x_of(name) + bytes(32),
            "role": share.role,
            "permission": share.permission,
            "not_before_s": share.not_before_s,
            "not_after_s": share.not_after_s,
            "reshare": share.role is Role.ACTUAL_USER,
            "list_number": self.ring.list_number,
            "issued_s": self.now,
            "signer": signer,
        }
        return KeyClaims(**{**fields, **more})

    def admit(self, *chain: KeyClaims, x: bytes | None = None) -> None:
        key = chain[-1].public_key[1:33] if x is None else x
        self.car = self.car.admit(chain, key, self.now)

    def list(self, issuer: Issuer = Issuer.AUTHORITY):
        return self.ring.withdrawal(issuer, issued_s=self.now)

    def deliver(self, issuer: Issuer = Issuer.AUTHORITY) -> None:
        self.car = self.car.take_list(self.list(issuer))

    def verdict(self, key: bytes, **more) -> RefusalCode | None:
        return self.car.verdict(key, self.now, **more).refusal
