"""Any order of shares, lists, menus, resets and power cuts: ledger, tables and readers agree."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dkey.control.touch import Position
from dkey.errors import PolicyRefusal
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.lifecycle.slots import slots
from dkey.testing import FakeClock, SeededEntropy
from firmware_mock.garage import create_vehicle, open_vehicle
from firmware_mock.owner_epoch import erase_owner, unpair_owner
from firmware_mock.stage import Phone
from tests.durability.delivery_world import parcel_of
from tests.scenario.sharing import Desk, carry, signer_of

MEMORY = Path("/dev/shm")
ACTIVE = CredentialState.ACTIVE
friends = st.integers(0, 5)
kinds = st.sampled_from(["revoked", "suspended"])
places = st.integers(1, MAX_SHARES)


class BookMachine(RuleBasedStateMachine):
    """A vehicle, its owner, friends with a key each, and what was ever withdrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.clock, self.entropy = FakeClock(5.0), SeededEntropy("machine")
        self.vehicle = create_vehicle(self.folder / "car", **self.how())
        self.names = 0
        self.withdrawn: set[bytes] = set()
        self.lists = {Issuer.OWNER: 0, Issuer.AUTHORITY: 0}
        self.begin()

    def how(self):
        return {
            "entropy": self.entropy,
            "clock": self.clock,
            "wall_clock": lambda: 1.7e9 + self.clock.now_s,
        }

    def begin(self) -> None:
        """A new owner with new friends, in a new epoch."""
        self.names += 1
        self.owner = Phone("owner", self.vehicle, self.entropy)
        self.vehicle.enrol("owner", self.owner.public_key, Role.OWNER, Permission.ENTRY_AND_START)
        self.desk = Desk(self.vehicle, signer_of(self.owner))
        if self.names == 1:
            self.desk.provide()
        self.friends = [
            Phone(f"{self.names}.{number}", self.vehicle, self.entropy) for number in range(6)
        ]
        self.lists = dict.fromkeys(Issuer, 0)

    def teardown(self) -> None:
        self.vehicle.close()
        shutil.rmtree(self.folder)

    def known(self, friend):
        return self.vehicle.store.credential_by_x(friend.public_key.x)

    @rule(number=friends, place=places, days=st.integers(1, 3))
    def present(self, number, place, days):
        friend = self.friends[number]
        late_s = self.desk.now_s + days * 86_400
        carry(friend, self.desk.attest(friend, place, not_after_s=late_s))
        self.take(friend)

    @rule(
        number=friends,
        kind=st.sampled_from(["revoked", "suspended"]),
        issuer=st.sampled_from(Issuer),
    )
    def withdraw(self, number, kind, issuer):
        share = self.desk.share_id(self.friends[number].name)
        self.lists[issuer] += 1
        raw = self.desk.list(self.lists[issuer], issuer=issuer, **{kind: (share,)})
        self.desk_take(raw, issuer)
        if kind == "revoked":
            self.withdrawn.add(share)

    @rule(issuer=st.sampled_from(Issuer), everything=st.booleans())
    def relist(self, issuer, everything):
        self.lists[issuer] += 1
        raw = self.desk.list(self.lists[issuer], issuer=issuer, all_suspended=everything)
        self.desk_take(raw, issuer)

    def desk_take(self, raw, issuer):
        carrier = Phone("carrier", self.vehicle, self.entropy)
        owners = {"owner_list": raw} if issuer is Issuer.OWNER else {"authority_list": raw}
        self.take(carry(carrier, **owners))

    def take(self, phone):
        self.vehicle.share_desk.take(parcel_of(phone), phone.public_key, Position.DOOR_HANDLE)

    @rule(number=friends, state=st.sampled_from([ACTIVE, CredentialState.SUSPENDED]))
    def at_the_head_unit(self, number, state):
        known = self.known(self.friends[number])
        if known is not None:
            try:
                self.vehicle.set_state(known.credential_id, state)
            except PolicyRefusal:
                assert known.state is CredentialState.REVOKED

    @rule(days=st.integers(0, 2))
    def time_passes(self, days):
        self.clock.advance(days * 86_400 + 1)

    @rule()
    def power_cut(self):
        before, at_s = self.vehicle.keys.book.state, self.vehicle.keys.time.now_s()
        self.vehicle.close()
        self.vehicle = open_vehicle(self.folder / "car", **self.how())
        self.desk.vehicle = self.vehicle
        assert self.vehicle.keys.book.state == before
        assert self.vehicle.keys.time.now_s() >= at_s

    @precondition(lambda self: self.names < 4)
    @rule(how=st.sampled_from(["erase", "unpair", "change"]))
    def owner_goes(self, how):
        if how == "erase":
            erase_owner(self.vehicle, "FACTORY_RESET")
        else:
            unpair_owner(self.vehicle, same_person=how == "change")
        self.withdrawn.clear()
        self.begin()

    @invariant()
    def nobody_has_more_than_the_ledger_says(self):
        book = self.vehicle.keys.book
        taken = dict(slots(self.vehicle.store.file))
        assert len(taken) <= MAX_SHARES
        assert not self.withdrawn & set(taken.values())
        admitted = {each.x: each for each in book.admissions.admitted}
        for friend in self.friends:
            known = self.known(friend)
            if known is None:
                continue
            grant = self.vehicle.grant(known.credential_id)
            usable = grant.state is ACTIVE and not grant.expired
            verdict = book.admissions.verdict(friend.public_key.x, self.vehicle.keys.time.now_s())
            held = self.desk.share_id(friend.name) in book.state.held
            assert usable is (verdict.refusal is None and not held)
            assert (known.state is not CredentialState.REVOKED) is (friend.public_key.x in admitted)

    @invariant()
    def the_tables_are_what_the_ledger_adds_up_to(self):
        assert self.vehicle.keys.book._difference() is None


TestBook = BookMachine.TestCase
TestBook.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # each step is a commit: no shrinking
)
