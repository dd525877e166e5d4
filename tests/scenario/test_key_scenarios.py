"""Keys between real processes: an owner, friends, a relay, an authority, a vehicle; any dies."""

from __future__ import annotations

import signal
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from authority_process import Process
from key_processes import DIGITS, Phone, World, ended, line_with, serving

from dkey.agent.store import AgentStore
from dkey.authority.accounts import ENROLMENT, Purpose
from dkey.crypto.entropy import SystemEntropy
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.commands import AUTHORITY, Activate, Found, Party, PartyKind
from dkey.lifecycle.withdrawal import read_withdrawal
from firmware_mock.garage import open_vehicle

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN = "unlocked"
AHEAD_S = 600  # the authority's clock stands still meanwhile


@pytest.fixture
def world() -> Iterator[World]:
    """A vehicle that runs; its folder's path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="dkk") as name, World(Path(name)).driving() as made:
        yield made


@pytest.fixture
def owner(world) -> Phone:
    phone = world.phone("owner").pairs()
    assert phone.key("own", "--account", phone.account).code == 0
    return phone


@pytest.fixture
def relay(world) -> Iterator[str]:
    with serving("relay", "run", "--state", world.folder / "relay") as (_, ready):
        yield ready["url"]


# --- hand to hand through a relay ---------------------------------------------------------------


def test_three_friends_open_the_vehicle_and_the_fourth_is_refused(world, owner, relay):
    """Acceptance 1: three shares, the fourth is refused; one leaves, and another may come."""
    with serving("agent", "run", "--link", world.ble, "--store", owner.store):
        friends = [world.phone(f"friend{number}") for number in range(1, 4)]
        for friend in friends:
            share_by_relay(owner, friend, relay)
            assert friend.meets()["state"] == "SYNCED"
        refused = owner.key("share", "friend4@example.org", "--relay", relay)
        assert (refused.code, refused.refusal) == (1, "SHARE_LIMIT")
        assert friends[0].agent("unlock")["doors"] == OPEN
        assert owner.key("revoke", friends[0].account).code == 0
        share_by_relay(owner, world.phone("friend4"), relay)


def share_by_relay(owner: Phone, friend: Phone, relay: str) -> None:
    sharing = owner.starts("share", friend.account, "--relay", relay, "--wait", "--yes")
    link = line_with(sharing, "invitation").split()[1]
    taking = friend.starts("accept", link, "--wait")
    assert ended(taking)[0] == 0
    assert ended(sharing)[0] == 0


def test_both_phones_see_the_same_digits_and_each_may_die_and_come_back(world, owner, relay):
    friend = world.phone("friend")
    first = owner.starts("share", friend.account, "--relay", relay, "--wait", "--yes")
    link = line_with(first, "invitation").split()[1]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    taking = friend.starts("accept", link, "--wait")
    told = DIGITS.search(line_with(taking, "tell the sharer"))
    taking.send_signal(signal.SIGKILL)
    taking.communicate()
    share_id = owner.key("list").keys[friend.account]["id"]
    second = owner.starts("share", share_id[:8], "--wait", "--compared", told[0])
    assert ended(friend.starts("accept", link, "--wait"))[0] == 0
    assert ended(second)[0] == 0
    assert friend.meets()["state"] == "SYNCED"


def test_an_invitation_is_redeemed_by_the_first_phone_only(world, owner, relay):
    offered = owner.key("share", "friend@example.org", "--relay", relay)
    link = offered.object["share"]["link"]
    assert world.phone("friend").key("accept", link).code == 0
    thief = Phone(world.folder / "thief", "friend@example.org", world)
    second = thief.key("accept", link)
    assert (second.code, second.refusal) == (1, "NOT_AUTHORISED")


# --- withdrawal without a network ---------------------------------------------------------------


def test_a_revoked_friend_is_refused_once_another_friend_brought_the_list(world, owner):
    bad, good = world.phone("bad"), world.phone("good")
    for friend in (bad, good):
        owner.gives(friend)
        assert friend.meets()["state"] == "SYNCED"
    assert owner.key("revoke", bad.account).keys[bad.account]["vehicle_knows"] is False
    owner.key("show", bad.account, "--list", owner.file("list"))
    assert good.key("accept", owner.file("list")).object["news"] is True
    good.meets()
    refused = bad.agent("unlock")
    assert refused["ok"] is False
    owner.meets()
    assert owner.key("list").keys[bad.account]["vehicle_knows"] is True


def test_the_owner_s_own_phone_brings_suspension_and_resumption(world, owner):
    friend = world.phone("friend")
    owner.gives(friend)
    friend.meets()
    owner.key("suspend", friend.account)
    assert owner.meets()["reached"] is True
    world.kill()
    world.start()
    assert friend.agent("unlock")["ok"] is False
    owner.key("resume", friend.account)
    owner.meets()
    assert friend.agent("unlock")["doors"] == OPEN


def test_after_a_transfer_every_phone_is_refused_once_the_owner_s_came_by(world, owner):
    friend = world.phone("friend")
    owner.gives(friend)
    friend.meets()
    given = owner.key("transfer", "--yes").object["vehicles"][0]
    assert given["half_removed"] == "VEHICLE"
    owner.meets()
    for phone in (owner, friend):
        assert phone.agent("unlock")["ok"] is False


def test_a_friend_who_may_only_enter_cannot_start(world, owner):
    friend = world.phone("friend")
    owner.gives(friend, "--permission", "entry")
    friend.meets()
    assert friend.agent("start")["error"]["code"] is not None


def test_an_associate_neither_shares_nor_withdraws(world, owner):
    """Acceptance 5."""
    friend, other = world.phone("friend"), world.phone("other")
    share_id = owner.gives(friend)
    owner.gives(other)
    friend.meets()
    for words in (("share", "next@example.org"), ("revoke", share_id), ("suspend", share_id)):
        assert friend.key(*words).refusal == "NOT_AUTHORISED"


def test_two_invitations_for_the_last_place_race_and_one_wins(world, owner):
    """Acceptance 1, the race: two processes of one store."""
    for name in ("one", "two"):
        owner.key("share", f"{name}@example.org")
    racing = [owner.starts("share", f"{name}@example.org", "--json") for name in ("three", "four")]
    assert sorted(ended(each)[0] for each in racing) == [0, 1]
    assert len(owner.key("list").keys) == 4


# --- with an authority --------------------------------------------------------------------------


class Office:
    """An authority's process, with the vehicle and the people registered there."""

    def __init__(self, process: Process, world: World) -> None:
        self.process = process
        self.world = world
        self.vehicle = bytes.fromhex(world.ready["group_id"])
        process.client.register_vehicle(
            self.vehicle,
            vin="KNA12345678900001",
            market="KR",
            profile="DK1",
            public_key=_reader_key(world),
        )

    def person(self, phone: Phone) -> tuple[str, object]:
        """Register a phone's account; return the options that link it."""
        client = self.process.client
        token = client.register_account(phone.account)
        for purpose in (*ENROLMENT, Purpose.THIRD_PARTY):
            client.record_consent(phone.account, phone.account, purpose, version="1", channel="APP")
        phone.world.folder.joinpath(f"{phone.store.name}.token").write_text(token)
        return (
            *("--authority", self.process.ready["url"]),
            *("--token-file", phone.world.folder / f"{phone.store.name}.token"),
        )


def _reader_key(world: World) -> bytes:
    with AgentStore.open(world.folder / "owner", entropy=SystemEntropy()) as store:
        return store.vehicles()[0].vehicle.public_key.point


@pytest.fixture
def office(world, owner) -> Iterator[Office]:
    with Process(world.folder / "authority", start_s=int(time.time()) + AHEAD_S) as process:
        yield Office(process, world)


def test_what_is_done_without_the_authority_waits_and_is_told_later(world, owner, office):
    assert owner.key("list", *office.person(owner)).code == 0
    friend = world.phone("friend")
    office.process.client.register_account(friend.account)
    office.process.kill()
    offered = owner.key("share", friend.account)
    assert offered.code == 0
    assert offered.keys[friend.account]["waiting"] is True
    assert offered.object["vehicles"][0]["reached"] is False
    with Process(world.folder / "authority", start_s=int(time.time()) + AHEAD_S) as again:
        moved = again.ready["url"]
        assert moved != office.process.ready["url"]
        words = ("--authority", moved, "--token-file", world.folder / "owner.token")
        told = owner.key("list", *words)
    assert told.object["vehicles"][0]["waiting"] == 0
    assert told.state(friend.account) == "PENDING"


def test_a_difference_between_phone_and_authority_is_shown_and_not_guessed(world, owner, office):
    owner.key("list", *office.person(owner))
    friend = world.phone("friend")
    office.person(friend)
    owner.gives(friend)
    shown = owner.key("list").keys[friend.account]
    assert (shown["state"], shown["here"]) == ("DISAGREES", "NOT_SYNCED")
    assert shown["authority"] == "PENDING"
    assert "DISAGREES" in ended(owner.starts("list"))[1]


def test_a_friend_with_the_same_authority_tells_it_of_the_key(world, owner, office):
    owner.key("list", *office.person(owner))
    friend = world.phone("friend")
    words = office.person(friend)
    owner.gives(friend)
    friend.key("list", *words)
    assert owner.key("list").state(friend.account) == "NOT_SYNCED"


def test_the_authority_s_list_is_carried_in_the_vehicle_s_owner_epoch(world, owner, office):
    owner.key("list", *office.person(owner))
    assert owner.key("show", owner.account, "--list", owner.file("list")).code == 0
    said = read_withdrawal(owner.file("list").read_bytes())
    assert (said.issuer, said.epoch) == (Issuer.AUTHORITY, 1)


def test_an_actual_user_is_held_by_the_owner_s_veto(world, owner, office):
    """Acceptance 6."""
    office.person(owner)
    words = ("--authority", office.process.ready["url"])
    token = ("--token-file", world.folder / "owner.token")
    _corporate(world, owner, office)
    owner.key("own", "--account", owner.account, "--corporate", *words, *token)
    user, friend = world.phone("user"), world.phone("friend")
    linked = office.person(user)
    office.person(friend)
    owner.gives(user, "--role", "actual-user")
    assert user.meets()["state"] == "SYNCED"
    user.key("list", *linked)
    office.process.client.execute(
        office.vehicle, _activate(user.key("list").keys[user.account]["id"])
    )
    user.gives(friend)
    assert owner.key("veto", friend.account).code == 0
    assert user.key("list").keys[friend.account]["authority"] == "REVOKED"
    owner.key("list")
    again = user.key("revoke", friend.account)
    assert again.code == 0
    refused = user.key("share", friend.account)
    assert (refused.code, refused.refusal) == (1, "VETOED_BY_OWNER")


def _corporate(world: World, owner: Phone, office: Office) -> None:
    with AgentStore.open(owner.store, entropy=SystemEntropy()) as store:
        known = store.vehicles()[0]
        key_x, epoch = store.vault.public(known.key).x, known.vehicle.owner_epoch
    party = Party(account=owner.account, kind=PartyKind.CORPORATE)
    found = Found(actor=AUTHORITY, owner=party, key_x=key_x, epoch=epoch)
    office.process.client.execute(office.vehicle, found)
    with closing(open_vehicle(world.folder / "car", entropy=SystemEntropy())) as vehicle:
        vehicle.provide_authority(office.process.client.public_key)


def _activate(share_id: str):
    return Activate(actor=AUTHORITY, share_id=bytes.fromhex(share_id))


# --- providers ----------------------------------------------------------------------------------

WASH = ("share", "wash@example.org", "--role", "provider", "--booking", "B-7", "--until", "+2h")


def test_a_provider_s_key_is_in_person_only_here_unless_the_vehicle_hands_over(world, owner):
    """Acceptance 22: in-person vehicles and phones, consent, and the end with the booking."""
    assert owner.key(*WASH, "--consent").refusal == "IN_PERSON_ONLY"
    owner.key("own", "--account", owner.account, "--handover")
    assert owner.key(*WASH).refusal == "CONSENT_MISSING"
    assert owner.key(*WASH, "--consent", "--iphone").refusal == "IN_PERSON_ONLY"
    given = owner.key(*WASH, "--consent", "--permission", "entry").keys["wash@example.org"]
    assert given["booking_id"] == "B-7"
    assert given["not_after_s"] <= time.time() + 2 * 3600 + 15 * 60


def test_a_sharee_without_start_orders_no_service(world, owner):
    """Acceptance 22: an order needs a key that starts."""
    friend = world.phone("friend")
    owner.gives(friend, "--permission", "entry")
    friend.meets()
    refused = friend.key(*WASH, "--consent", "--permission", "entry")
    assert refused.refusal == "PERMISSION_ENTRY_ONLY"


def test_a_sharee_s_order_is_told_to_the_owner_who_hands_the_key_over(world, owner, office):
    """Acceptance 22: with start, the owner is notified; the key ends with the booking."""
    owner.key("own", "--account", owner.account, "--handover", *office.person(owner))
    friend, wash = world.phone("friend"), world.phone("wash")
    linked = office.person(friend)
    office.person(wash)
    owner.gives(friend)
    friend.meets()
    share_id = friend.key("list", *linked).keys[friend.account]["id"]
    office.process.client.execute(office.vehicle, _activate(share_id))
    words = ("--consent", "--permission", "entry", "--purpose", "a wash")
    ordered = friend.key(*WASH, *words)
    assert ordered.code == 0, ordered
    assert ordered.object["share"]["owner_notified"]
    topics = [each.kind.value for each in office.process.client.notices(owner.account)]
    assert "PROVIDER_SHARE" in topics
    order = ordered.object["share"]["id"]
    assert owner.key("list").keys[wash.account]["state"] == "DISAGREES"
    offered = owner.key("share", order, "--permission", "entry", "--out", wash.file("invitation"))
    assert offered.code == 0, offered
    wash.key("accept", wash.file("invitation"), "--out", wash.file("request"))
    signed = owner.key("share", "--request", wash.file("request"), "--yes", "--out", wash.file("a"))
    assert signed.code == 0, signed
    taken = wash.key("accept", "--answer", wash.file("a")).keys[wash.account]
    assert taken["not_after_s"] <= time.time() + 2 * 3600 + 15 * 60
