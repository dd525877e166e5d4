"""The authority in process: gates, one commit for each command, restart, outage, records."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from authority_world import DAY, OWNER, START, World

from dkey.authority.accounts import Purpose, UnknownError
from dkey.authority.core import OutageError
from dkey.authority.notifications import Channel, RecordingPort, Topic
from dkey.authority.rings import SNAPSHOT_EVERY
from dkey.authority.service import Authority
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.commands import (
    AUTHORITY,
    DEALER,
    VEHICLE,
    Accept,
    Found,
    Party,
    Pause,
    PowerCycle,
    Resume,
    Revoke,
    Suspend,
)
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.withdrawal import verify_withdrawal
from dkey.testing import FakeClock, SeededEntropy


class Place:
    """A state folder, a clock and a port; authorities come and go in it."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.clock = FakeClock(START)
        self.port = RecordingPort()
        self.authority = self.open()
        self.world = World(self.authority)

    def open(self):
        return Authority.open(
            self.folder,
            create=True,
            entropy=SeededEntropy(f"authority {self.clock.now_s}"),
            clock=self.clock,
            port=self.port,
        )

    def restart(self):
        self.authority.close()
        self.clock.advance(1)
        self.authority = self.world.authority = self.open()
        return self.authority


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "authority")
    yield place
    place.authority.close()


@pytest.fixture
def world(place):
    return place.world


def claims(world, vehicle):
    authority = world.authority
    return verify_withdrawal(
        authority.withdrawal_list(vehicle),
        authority.public_key,
        issuer=Issuer.AUTHORITY,
        vehicle=vehicle,
    )


# --- gates at registration and enrolment ---------------------------------------------------------


def test_a_vehicle_in_service_mode_is_not_paired(world):
    vehicle, owner = world.car(), world.person(OWNER)
    world.authority.set_service_mode(vehicle, on=True)
    found = Found(actor=owner, owner=Party(account=owner), key_x=bytes(32))
    assert world.refused(vehicle, found) is RefusalCode.SERVICE_MODE
    world.authority.set_service_mode(vehicle, on=False)
    world.do(vehicle, found)


@pytest.mark.parametrize(
    ("vin", "market", "code"),
    [
        ("KNA1", "KR", RefusalCode.WRONG_VIN),
        ("KNA12345678901234", "RU", RefusalCode.WRONG_MARKET),
        ("KNA12345678901234", "US", RefusalCode.WRONG_MARKET),
    ],
)
def test_a_vehicle_with_a_wrong_number_or_market_is_not_registered(world, vin, market, code):
    with pytest.raises(PolicyRefusal) as refused:
        world.car(vin=vin, market=market)
    assert refused.value.code is code


def test_a_number_is_registered_once(world):
    world.car(vin="KNA12345678901234")
    with pytest.raises(PolicyRefusal) as refused:
        world.car(vin="KNA12345678901234")
    assert refused.value.code is RefusalCode.ALREADY_LINKED


def test_nobody_is_enrolled_before_the_consents_are_recorded(world):
    vehicle, owner = world.car(), world.person(OWNER, agreed=False)
    found = Found(actor=owner, owner=Party(account=owner), key_x=bytes(32))
    assert world.refused(vehicle, found) is RefusalCode.CONSENT_MISSING
    for purpose in (Purpose.TERMS, Purpose.PERSONAL_DATA):
        world.authority.record_consent(DEALER, owner, purpose, version="1", channel="PAPER")
    world.do(vehicle, found)


def test_a_share_is_not_accepted_before_the_consents_are_recorded(world):
    vehicle = world.owned()
    world.person("bob", agreed=False)
    command = world.invitation("bob")
    world.do(vehicle, command)
    accept = Accept(actor=command.account, share_id=command.share_id, key_x=bytes(32))
    assert world.refused(vehicle, accept) is RefusalCode.CONSENT_MISSING


def test_a_key_is_offered_only_to_an_account(world):
    vehicle = world.owned()
    command = replace(world.invitation("bob"), account="nobody@example.org")
    with pytest.raises(UnknownError):
        world.do(vehicle, command)


# --- records -------------------------------------------------------------------------------------


def test_a_refused_command_leaves_an_audit_entry_and_nothing_else(world, place):
    vehicle = world.owned()
    world.person("eve")
    before, entries = world.authority.health().entries, world.authority.withdrawal_list(vehicle)
    code = world.refused(vehicle, Pause(actor="eve@example.org", days=10))
    last = world.authority.audit_log(vehicle)[-1]
    assert (last.action, last.code) == ("Pause", code.value)
    assert world.authority.health().entries == before
    assert world.authority.withdrawal_list(vehicle) == entries


def test_the_ledger_and_the_audit_log_name_no_account(world, place):
    vehicle = world.owned()
    world.share(vehicle, "bob")
    place.authority.close()
    db = sqlite3.connect(place.folder / "authority.db")
    tables = [n for (n,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        if table != "account":
            assert "example.org" not in str(db.execute(f"SELECT * FROM {table}").fetchall()), table
    db.close()


def test_an_erased_person_is_in_no_table_and_the_ring_still_works(world, place):
    vehicle = world.owned()
    item = world.share(vehicle, "bob")
    world.authority.erase("bob@example.org", "bob@example.org")
    assert world.refused(vehicle, Suspend(actor=OWNER, item=item)) is not None
    place.restart()
    place.authority.close()
    stored = (place.folder / "authority.db").read_bytes()
    assert b"owner@example.org" in stored
    assert "bob@example.org" not in str(sqlite3.connect(place.folder / "authority.db").iterdump())


def test_an_export_names_nobody_else(world):
    vehicle = world.owned()
    item = world.share(vehicle, "bob")
    exported = world.authority.export("bob@example.org")
    assert [key["item"] for key in exported["keys"]] == [item.hex()]
    assert exported["notices"]
    assert "Accept" in {event["action"] for event in exported["events"]}
    assert OWNER not in str(exported)


def test_a_notice_that_fails_is_recorded_and_the_command_stands(world, place):
    place.port.broken = {Channel.APP_PUSH}
    vehicle = world.owned()
    world.share(vehicle, "bob")
    offered = [
        n for n in world.authority.notices("bob@example.org") if n.kind is Topic.SHARE_OFFERED
    ]
    assert {n.channel: n.delivered for n in offered} == {
        Channel.APP_PUSH: False,
        Channel.EMAIL: True,
    }


# --- withdrawal lists ----------------------------------------------------------------------------


def test_a_withdrawal_list_is_there_before_anything_was_withdrawn(world):
    assert claims(world, world.owned()).revoked == ()


def test_the_number_of_the_list_rises_with_its_content_only(world):
    vehicle = world.owned()
    item = world.share(vehicle, "bob")
    first = claims(world, vehicle)
    world.share(vehicle, "carol")
    assert claims(world, vehicle) == first
    world.do(vehicle, Suspend(actor=OWNER, item=item))
    second = claims(world, vehicle)
    assert (second.number, second.suspended) == (first.number + 1, (item,))
    world.do(vehicle, Resume(actor=OWNER, item=item))
    assert claims(world, vehicle).number == second.number + 1


# --- restart -------------------------------------------------------------------------------------


def test_a_restart_brings_back_every_key_and_the_same_list(world, place):
    vehicle = world.owned()
    item = world.share(vehicle, "bob")
    world.do(vehicle, Revoke(actor=OWNER, item=item))
    before = world.authority.keys(vehicle, AUTHORITY), world.authority.withdrawal_list(vehicle)
    place.restart()
    assert (
        world.authority.keys(vehicle, AUTHORITY),
        world.authority.withdrawal_list(vehicle),
    ) == before


def test_a_restart_after_a_snapshot_brings_back_every_vehicle(world, place):
    cars = [world.owned() for _ in range(3)]
    items = [world.share(car, "bob") for car in cars]
    for _ in range(SNAPSHOT_EVERY):
        world.do(cars[0], PowerCycle(actor=VEHICLE))
    world.do(cars[1], Revoke(actor=OWNER, item=items[1]))
    before = [world.authority.keys(car, AUTHORITY) for car in cars]
    place.restart()
    assert [world.authority.keys(car, AUTHORITY) for car in cars] == before


def test_two_programs_cannot_run_one_authority(world, place):
    with pytest.raises(LocalFault, match="another program"):
        place.open()
    place.authority.close()
    place.authority = place.open()


def test_time_does_not_go_back_over_a_restart(world, place):
    place.clock.advance(DAY)
    world.owned()
    place.clock.now_s = START
    assert place.restart().health().time_s >= START + DAY


# --- outage --------------------------------------------------------------------------------------


def test_commands_of_an_outage_are_carried_out_in_order_when_it_ends(world, place):
    vehicle = world.owned()
    item = world.share(vehicle, "bob")
    authority = world.authority
    authority.begin_outage("a disk broke")
    assert world.do(vehicle, Suspend(actor=OWNER, item=item)).queued
    assert world.do(vehicle, Pause(actor="bob@example.org", days=1)).queued
    assert world.do(vehicle, Revoke(actor=OWNER, item=item)).queued
    assert world.state(vehicle, item) == "ACTIVE"
    assert authority.keys(vehicle, OWNER).outage
    place.clock.advance(60)
    results = authority.end_outage("the disk was replaced")
    assert [each.code for each in results] == [None, "NOT_AUTHORISED", None]
    assert world.state(vehicle, item) == "REVOKED"
    incident = authority.incidents()[0]
    assert (incident.reported_s, incident.resumed_s) == (START, START + 60)
    assert incident.actions == "the disk was replaced"


def test_an_outage_and_its_queue_survive_a_restart(world, place):
    vehicle = world.owned()
    item = world.share(vehicle, "bob")
    world.authority.begin_outage("a disk broke")
    world.do(vehicle, Revoke(actor=OWNER, item=item))
    authority = place.restart()
    assert authority.health().outage
    assert authority.health().waiting == 1
    authority.end_outage("done")
    assert world.state(vehicle, item) == "REVOKED"


def test_what_cannot_wait_is_refused_during_an_outage(world):
    world.authority.begin_outage("a disk broke")
    with pytest.raises(OutageError):
        world.person("bob")


# --- views ---------------------------------------------------------------------------------------


def test_an_associate_who_orders_a_wash_learns_no_other_account(world):
    vehicle = world.owned()
    world.share(vehicle, "bob")
    order = world.invitation(
        "wash",
        actor="bob@example.org",
        role=Role.PROVIDER,
        permission=Permission.ENTRY,
        booking=world.booking("wash"),
        until_s=START + 3600 + 15 * 60,
    )
    outcome = world.do(vehicle, order)
    assert OWNER not in str(outcome.effects)
