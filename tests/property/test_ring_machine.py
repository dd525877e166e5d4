"""Any sequence of commands: the ring keeps its promises, and the vehicle that follows it too."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dkey.codec import cbor
from dkey.errors import PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle import commands as c
from dkey.lifecycle.claims import Issuer, key_ref
from dkey.lifecycle.command_codec import COMMANDS, decode, encode
from dkey.lifecycle.flags import CardFollowsPhone, CascadeScope, Flags
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.ring import Ring, apply
from dkey.lifecycle.ring_draft import Draft
from dkey.lifecycle.ring_effects import KeyEnded
from dkey.lifecycle.ring_state import Ended, ShareState
from dkey.lifecycle.roles import CardProvenance, Permission, Role
from dkey.lifecycle.withdrawal import WITHDRAWAL
from ring_world import (
    AUTHORITY_X,
    DAY,
    OWNER,
    OWNER_X,
    VEHICLE_ID,
    World,
    card,
    mail,
    share_id,
    x_of,
)

NAMES = ("anna", "bob", "carl", "dora", "user")
ACCOUNTS = (OWNER, *map(mail, NAMES))
ACTORS = (*ACCOUNTS, c.AUTHORITY, c.VEHICLE, c.DEALER, "stranger@example.org")
ITEMS = (*map(share_id, NAMES), *(share_id(n + "2") for n in NAMES), card(1), card(2), b"?" * 16)
ITEMS = (*ITEMS, key_ref(OWNER_X), key_ref(x_of("anna")))
KEYS = (OWNER_X, *map(x_of, NAMES))
ENUMS = {
    "role": st.sampled_from(Role),
    "cause": st.sampled_from(c.HoldCause),
    "reason": st.sampled_from(c.EndReason),
    "side": st.sampled_from(c.Side),
    "permission": st.sampled_from(Permission),
    "provenance": st.sampled_from(CardProvenance),
    "on": st.booleans(),
    "allowed": st.booleans(),
}
PARTIES = st.builds(
    c.Party, account=st.sampled_from(ACCOUNTS), kind=st.sampled_from(list(c.PartyKind))
)
TIMES = st.integers(1_690_000_000, 1_750_000_000)
BOOKINGS = st.builds(
    c.Booking,
    booking_id=st.text(max_size=4),
    provider=st.sampled_from(ACCOUNTS),
    purpose=st.text(max_size=4),
    begins_s=TIMES,
    ends_s=TIMES,
    needs_start=st.booleans(),
    third_party_consent=st.booleans(),
    iphone=st.booleans(),
)
BY_FIELD = {
    "actor": st.sampled_from(ACTORS),
    "share_id": st.sampled_from(ITEMS),
    "item": st.sampled_from((*ITEMS, key_ref(OWNER_X))),
    "card": st.sampled_from(ITEMS),
    "replaces": st.none() | st.sampled_from(ITEMS),
    "owner": PARTIES,
    "key_x": st.sampled_from(KEYS),
    "account": st.sampled_from(ACCOUNTS),
    "booking": st.none() | BOOKINGS,
    "days": st.integers(0, 91),
    "not_before_s": TIMES,
    "not_after_s": TIMES,
}
FLAGS = st.builds(
    Flags,
    provider_counts=st.booleans(),
    cascade_scope=st.sampled_from(CascadeScope),
    cascade_automatic=st.booleans(),
    card_follows_phone=st.sampled_from(CardFollowsPhone),
    pause_affects_cards=st.booleans(),
    owner_approval_required=st.booleans(),
    friends_survive_owner_change=st.booleans(),
    remote_handover=st.booleans(),
)


def any_command(kind):
    names = kind.__dataclass_fields__
    return st.builds(kind, **{n: {**ENUMS, **BY_FIELD}[n] for n in names if n in BY_FIELD | ENUMS})


COMMAND = st.one_of([any_command(each) for each in COMMANDS.values()])


@given(COMMAND)
def test_every_command_round_trips_in_one_form_only(command):
    data = encode(command)
    assert decode(data) == command
    with pytest.raises(WireError):
        decode(data + b"\0")
    value = cbor.decode(data)
    with pytest.raises(WireError):
        decode(cbor.encode([*value, 0]))
    with pytest.raises(WireError):
        decode(cbor.encode(["No" + value[0], *value[1:]]))


@given(st.binary(max_size=40))
def test_no_bytes_crash_the_command_decoder(data):
    try:
        decode(data)
    except WireError:
        return


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(FLAGS, st.lists(COMMAND, max_size=30))
def test_a_ring_round_trips_after_any_commands(flags, commands):
    ring = Ring(vehicle=VEHICLE_ID, flags=flags)
    for command in commands:
        try:
            ring, _ = apply(ring, command, at_s=1_700_000_000)
        except PolicyRefusal:
            continue
    assert Ring.from_value(cbor.decode(cbor.encode(ring.to_value()))) == ring


NOTHING = ((), (), False, False, False)


def said(ring: Ring) -> tuple:
    """Return what a ring's withdrawal list would say, whatever its number is."""
    claims = replace(ring, list_number=1).withdrawal(Issuer.AUTHORITY, issued_s=0)
    flags = claims.all_suspended, claims.immobilised, claims.corporate
    return claims.revoked, claims.suspended, *flags


class RingMachine(RuleBasedStateMachine):
    """A ring under commands of anybody, with a vehicle that takes each list at once."""

    draft_type = Draft

    def __init__(self) -> None:
        super().__init__()
        self.world = World(corporate=True, remote_handover=True)
        self.world.draft_type = self.draft_type
        self.ended: dict[bytes, object] = {}
        self.fallen: set[bytes] = set()
        self.number = (0, 0)
        self.said: dict[tuple[int, int], object] = {}

    def apply(self, command) -> None:
        world = self.world
        before = world.ring
        try:
            world.do(command)
        except PolicyRefusal:
            assert world.ring is before
            return
        self.check_number(before, world.ring)
        self.fallen |= {
            each.item
            for each in world.effects
            if isinstance(each, KeyEnded) and each.role is not Role.OWNER
        }
        if world.ring.epoch != before.epoch:
            world.car = world.car.factory_reset()
            if world.ring.owner_key_x is not None:
                world.car = world.car.enrol_owner(world.ring.owner_key_x)
        if world.ring.list_number and world.ring.epoch == world.car.epoch:
            world.deliver()

    def check_number(self, before: Ring, after: Ring) -> None:
        """Within an epoch the list has the next number when it says something else, and only then.

        In a new epoch it has none, or the first one where something is withdrawn already.
        """
        if after.epoch != before.epoch:
            assert after.list_number == (said(after) != NOTHING)
        else:
            assert after.list_number == before.list_number + (said(after) != said(before))

    @rule(command=COMMAND)
    def anybody_does_anything(self, command) -> None:
        self.apply(command)

    @rule(name=st.sampled_from(NAMES), second=st.booleans(), by=st.sampled_from((*NAMES, "")))
    def somebody_shares(self, name, second, by) -> None:
        owner = self.world.ring.owner
        actor = mail(by) if by else (owner.account if owner else OWNER)
        item = share_id(name + "2" * second)
        role = Role.ACTUAL_USER if name == "user" else Role.ASSOCIATE
        self.apply(
            c.Invite(
                actor=actor,
                share_id=item,
                account=mail(name),
                role=role,
                permission=Permission.ENTRY_AND_START,
                not_before_s=self.world.now,
                not_after_s=self.world.now + 30 * DAY,
            )
        )
        self.apply(c.Accept(actor=mail(name), share_id=item, key_x=x_of(name)))
        self.apply(c.Activate(actor=c.VEHICLE, share_id=item))

    @rule(
        name=st.sampled_from(NAMES),
        second=st.booleans(),
        kind=st.sampled_from((c.Revoke, c.Suspend, c.Resume)),
    )
    def the_owner_withdraws_or_resumes(self, name, second, kind) -> None:
        owner = self.world.ring.owner
        actor = owner.account if owner else OWNER
        self.apply(kind(actor=actor, item=share_id(name + "2" * second)))

    @rule(which=st.integers(0, 3), kind=st.sampled_from((c.Suspend, c.Resume, c.Revoke)))
    def the_owner_does_it_to_a_share_that_lives(self, which, kind) -> None:
        ring = self.world.ring
        if ring.owner is not None and ring.live:
            item = ring.live[which % len(ring.live)].share_id
            self.apply(kind(actor=ring.owner.account, item=item))

    @rule(days=st.integers(-20, 40))
    def the_clock_steps(self, days) -> None:
        self.world.now += days * DAY

    @rule(name=st.sampled_from(NAMES), second=st.booleans())
    def somebody_uses_a_key(self, name, second) -> None:
        key = name + "2" * second
        share = self.world.ring.share(share_id(key))
        if share is None or share.key_x is None:
            return
        public_key = b"\4" + share.key_x + bytes(32)
        claims = self.world.claims(key, signer=AUTHORITY_X, public_key=public_key)
        try:
            self.world.admit(claims)
        except PolicyRefusal:
            return

    @invariant()
    def never_more_than_three_places_are_taken(self) -> None:
        live = self.world.ring.live
        slots = [each.slot for each in live if each.slot]
        assert len(slots) == len(set(slots)) <= MAX_SHARES
        assert len({each.account for each in live}) == len(live)
        assert sum(each.role is Role.ACTUAL_USER for each in live) <= 1
        admitted = [each.claims.slot for each in self.world.car.admitted if each.claims.slot]
        assert len(admitted) == len(set(admitted)) <= MAX_SHARES

    @invariant()
    def what_ended_stays_ended(self) -> None:
        for share in self.world.ring.shares:
            if share.state is ShareState.ENDED:
                assert self.ended.setdefault(share.share_id, share.ended) == share.ended
                assert self.world.usable(share.share_id) is not None
            else:
                assert share.share_id not in self.ended

    @invariant()
    def what_was_reported_as_ended_is_never_usable_again(self) -> None:
        assert all(self.world.usable(each) is not None for each in self.fallen)

    @invariant()
    def nobody_holds_a_key_without_an_owner(self) -> None:
        ring = self.world.ring
        if ring.owner is None:
            assert (ring.shares, ring.cards, ring.owner_key_x) == ((), (), None)

    @invariant()
    def nothing_of_a_suspended_owner_is_usable(self) -> None:
        ring = self.world.ring
        if ring.owner is not None and ring.all_suspended:
            listed = ring.keys()
            assert all(self.world.usable(each.item) for each in listed)

    @invariant()
    def what_the_ring_refuses_for_good_the_vehicle_refuses(self) -> None:
        for share in self.world.ring.shares:
            if self.world.usable(share.share_id) is RefusalCode.KEY_REVOKED:
                assert self.world.verdict(share.share_id) is not None

    @invariant()
    def the_list_number_never_falls_within_an_epoch(self) -> None:
        number = (self.world.ring.epoch, self.world.ring.list_number)
        assert number >= self.number
        self.number = number

    @invariant()
    def every_list_can_be_signed_and_what_it_says_has_one_number(self) -> None:
        ring = self.world.ring
        if not ring.list_number:
            return
        said = ring.withdrawal(Issuer.AUTHORITY, issued_s=0)
        values = {name: getattr(said, name) for name in WITHDRAWAL.fields}
        assert WITHDRAWAL.check is not None
        WITHDRAWAL.check(values)
        assert self.said.setdefault((said.epoch, said.number), said) == said

    @invariant()
    def nobody_below_the_owner_ends_the_owners_key(self) -> None:
        ring = self.world.ring
        if ring.owner is not None and ring.owner.account not in ring.closed:
            assert all(each.item != key_ref(ring.owner_key_x or b"") for each in ring.withdrawn)


RingMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestRing = RingMachine.TestCase


class FourPlaces(Draft):
    places = 4


class Resurrects(Draft):
    def end(self, share, reason):
        super().end(share, reason)
        if reason is not Ended.EXPIRED:
            self.put(share)


class RevokesSilently(Draft):
    def withdraw(self, item, until_s):
        super().withdraw(item, until_s)
        self.unlisted()


class SuspendsSilently(Draft):
    def hold_shares(self, shares, held):
        super().hold_shares(shares, held)
        self.unlisted()


class ResumesSilently(Draft):
    def lift(self, wanted):
        lifted = super().lift(wanted)
        self.unlisted()
        return lifted


class CountsEveryCommand(Draft):
    def done(self):
        self.listed()
        return super().done()


NUMBERS = [RevokesSilently, SuspendsSilently, ResumesSilently, CountsEveryCommand]


def play(draft_type) -> None:
    """Share, suspend and resume twice, and revoke, with what the machine asserts of each."""
    machine = type("BrokenMachine", (RingMachine,), {"draft_type": draft_type})()
    item = share_id("anna")
    machine.somebody_shares(name="anna", second=False, by="")
    for command in (
        c.Suspend(actor=OWNER, item=item),
        c.Suspend(actor=c.AUTHORITY, item=item),
        c.Resume(actor=c.AUTHORITY, item=item),
        c.Resume(actor=OWNER, item=item),
        c.Revoke(actor=OWNER, item=item),
    ):
        machine.apply(command)


def test_the_numbers_of_a_sound_ring_pass():
    play(Draft)


@pytest.mark.parametrize("broken", NUMBERS)
def test_a_list_number_that_does_not_follow_what_the_list_says_is_caught(broken):
    with pytest.raises(AssertionError):
        play(broken)


@pytest.mark.parametrize(
    "broken", [FourPlaces, Resurrects, RevokesSilently, SuspendsSilently, CountsEveryCommand]
)
def test_the_machine_catches_a_broken_ring(broken):
    machine = type("BrokenMachine", (RingMachine,), {"draft_type": broken})
    quiet = settings(
        max_examples=400,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate],
    )
    with pytest.raises((AssertionError, PolicyRefusal, ValueError)):
        run_state_machine_as_test(machine, settings=quiet)


@given(st.data())
def test_damaged_snapshots_are_wire_errors_and_nothing_else(data):
    world = World()
    world.share("anna")
    world.do(c.Suspend(actor=OWNER, item=share_id("anna")))
    value = world.ring.to_value()
    at = value[1]
    while True:
        index = data.draw(st.integers(0, len(at) - 1))
        if isinstance(at[index], list) and at[index] and data.draw(st.booleans()):
            at = at[index]
            continue
        at[index] = data.draw(
            st.none() | st.booleans() | st.integers() | st.binary() | st.text() | st.just([[]])
        )
        break
    try:
        ring = Ring.from_value(value)
    except WireError:
        return
    assert ring.to_value() == value
