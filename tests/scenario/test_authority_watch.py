"""A vehicle and its authority: lists, first uses, erasure, and days without a network."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from authority_process import Process
from authority_world import OWNER, World

from dkey.authority.service import Authority
from dkey.cli.vehicle_authority import authority_key, authority_port
from dkey.errors import LinkError, LinkReason, RefusalCode
from dkey.lifecycle.commands import (
    AUTHORITY,
    Accept,
    Cleared,
    Found,
    Immobilise,
    Party,
    Revoke,
    Side,
    Suspend,
)
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.lifecycle.withdrawal import read_withdrawal
from dkey.testing import SeededEntropy
from firmware_mock import authority_watch
from firmware_mock.authority_watch import AuthorityWatch
from firmware_mock.garage import create_vehicle
from firmware_mock.owner_desk import OwnerDesk
from firmware_mock.owner_epoch import unpair_owner
from firmware_mock.process import Settings, VehicleProcess
from firmware_mock.stage import Phone
from tests.scenario.sharing import Desk, carry, refusals, signer_of


class Road:
    """The network between them, which may be away."""

    def __init__(self, authority):
        self._authority = authority
        self.away = False

    def withdrawal_list(self, vehicle, actor):
        return self._through().withdrawal_list(vehicle, actor)

    def execute(self, vehicle, command):
        return self._through().execute(vehicle, command)

    def _through(self):
        if self.away:
            raise LinkError(LinkReason.LOST, "no network", transient=True)
        return self._authority


async def here(call, *values):
    """Call in this thread, to which the store of an authority in process belongs."""
    return call(*values)


class Both:
    """A vehicle that an authority knows, with its owner linked."""

    def __init__(self, scene, authority):
        self.scene, self.vehicle = scene, scene.vehicle
        self.world = World(authority)
        self.group = self.vehicle.group_id
        authority.register_vehicle(
            self.group,
            vin="KNA12345678900001",
            market="KR",
            profile="DK2",
            public_key=self.vehicle.public_key.point,
        )
        party = Party(account=self.world.person(OWNER))
        found = Found(actor=OWNER, owner=party, key_x=scene.owner.public_key.x, epoch=1)
        self.world.do(self.group, found)
        self.vehicle.provide_authority(authority.public_key)
        self.desk = Desk(self.vehicle, signer_of(scene.owner))
        self.road = Road(authority)
        self.told = []
        self.watch = self.watching(self.road)

    def watching(self, port):
        return AuthorityWatch(
            self.vehicle,
            port,
            report=lambda name, **fields: self.told.append((name, fields)),
            call=here,
        )

    def shared(self, name):
        """Invite and accept; return the phone with what it carries, and its share id."""
        friend = Phone(name, self.vehicle, self.scene.entropy)
        invite = self.world.invitation(name)
        invited = self.world.do(self.group, invite)
        slot = next(e["slot"] for e in invited.effects if e["effect"] == "KeyOffered")
        accept = Accept(actor=invite.account, share_id=invite.share_id, key_x=friend.public_key.x)
        self.world.do(self.group, accept)
        return carry(friend, self.desk.attest(friend, slot, share_id=invite.share_id)), (
            invite.share_id
        )

    def state(self, item):
        return self.world.state(self.group, item)


@pytest.fixture
def both(scene, tmp_path):
    clock = scene.vehicle.wall_clock
    with Authority.open(tmp_path / "authority", create=True, clock=clock) as authority:
        yield Both(scene, authority)


async def test_the_first_use_is_reported_and_a_revocation_comes_back(scene, both):
    friend, item = both.shared("friend")
    assert (await scene.handle(friend)).action is not None
    assert await both.watch.once()
    assert both.watch.told_all
    both.world.do(both.group, Revoke(actor=OWNER, item=item))
    assert (await scene.handle(friend)).action is not None  # nobody told the vehicle yet
    assert await both.watch.once()
    assert (await scene.handle(friend)).code is RefusalCode.KEY_REVOKED
    assert (await scene.handle(scene.owner)).action is not None


async def test_without_a_network_keys_go_on_and_what_is_to_be_told_waits(scene, both):
    both.road.away = True
    friend, _ = both.shared("friend")
    assert (await scene.handle(friend)).action is not None
    assert not await both.watch.once()
    assert not await both.watch.once()
    assert [name for name, _ in both.told] == ["authority_lost"]
    assert not both.watch.told_all
    both.road.away = False
    assert await both.watch.once()
    assert both.watch.told_all
    assert ("authority", "Activate") in [(name, f.get("told")) for name, f in both.told]


async def test_a_suspended_share_and_an_immobilised_vehicle_come_by_the_list(scene, both):
    friend, item = both.shared("friend")
    await scene.handle(friend)
    await both.watch.once()
    both.world.do(both.group, Suspend(actor=OWNER, item=item))
    both.world.do(both.group, Immobilise(actor=AUTHORITY, on=True))
    await both.watch.once()
    assert (await scene.handle(friend)).code is RefusalCode.KEY_SUSPENDED
    assert (await scene.pad(scene.owner)).code is RefusalCode.IMMOBILISED


async def test_an_erased_vehicle_is_half_removed_until_the_account_side_is_clear(scene, both):
    friend, _ = both.shared("friend")
    await scene.handle(friend)
    await both.watch.once()
    OwnerDesk(scene.vehicle).transfer()
    assert await both.watch.once()
    assert both.watch.half_removed is True
    assert both.vehicle.keys.book.admissions.authority_x is not None
    both.world.do(both.group, Cleared(actor=AUTHORITY, side=Side.ACCOUNT))
    heir = scene.phone("heir")  # enrolled by the factory, so that somebody opens it
    assert (await scene.handle(heir)).action is not None
    assert await both.watch.once()
    assert both.vehicle.keys.book.admissions.epoch == 2


async def test_each_erasure_is_told_with_the_epoch_that_began_with_it(scene, both):
    both.road.away = True
    await both.watch.once()
    desk = OwnerDesk(scene.vehicle)
    desk.factory_reset()
    desk.factory_reset()
    assert [command.epoch for _, command in both.watch._waiting()] == [2, 3]
    both.road.away = False
    await both.watch.once()
    raw = both.road.withdrawal_list(both.group, AUTHORITY)
    assert read_withdrawal(raw).epoch == both.vehicle.keys.book.admissions.epoch == 3


async def test_an_owner_s_other_phone_begins_an_epoch_at_both_sides(scene, both):
    await both.watch.once()
    unpair_owner(scene.vehicle, same_person=True)
    await both.watch.once()
    raw = both.road.withdrawal_list(both.group, AUTHORITY)
    assert read_withdrawal(raw).epoch == both.vehicle.keys.book.admissions.epoch == 2
    assert refusals(scene.vehicle, "LIST_REFUSED") == []


async def test_a_list_that_is_refused_is_noted_once(scene, both):
    await both.watch.once()

    forged = both.desk.list(1, signer=both.desk.authority)

    class Older:
        def withdrawal_list(self, vehicle, actor):
            return forged

        def execute(self, vehicle, command):
            raise AssertionError

    forger = both.watching(Older())
    both.told.clear()
    for _ in range(3):
        assert await forger.once()
    assert [fields["took"] for _, fields in both.told] == [False]
    assert refusals(scene.vehicle, "LIST_REFUSED") == [RefusalCode.NOT_AUTHORISED]
    states = {each.state for each in scene.vehicle.store.credentials()}
    assert states == {CredentialState.ACTIVE}


async def test_it_asks_again_ever_more_rarely_while_nobody_answers(scene, both, monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 11:
            raise asyncio.CancelledError

    monkeypatch.setattr(authority_watch.asyncio, "sleep", sleep)
    both.road.away = True
    with pytest.raises(asyncio.CancelledError):
        await both.watch.run()
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


async def test_a_vehicle_process_is_in_step_with_an_authority_over_http(tmp_path):
    with tempfile.TemporaryDirectory(prefix="dkv") as name, Process(tmp_path / "state") as process:
        world, folder = process.world(), Path(name) / "car"
        vehicle = create_vehicle(folder)
        owner = Phone("owner", vehicle, SeededEntropy("owner"))
        vehicle.enrol("owner", owner.public_key, Role.OWNER, Permission.ENTRY_AND_START)
        vehicle.provide_authority(authority_key(process.ready["url"]))
        group = vehicle.group_id
        token = process.client.register_vehicle(
            group,
            vin="KNA12345678900001",
            market="KR",
            profile="DK2",
            public_key=vehicle.public_key.point,
        )
        vehicle.close()
        party = Party(account=world.person(OWNER))
        world.do(group, Found(actor=OWNER, owner=party, key_x=owner.public_key.x, epoch=1))
        world.do(group, Immobilise(actor=AUTHORITY, on=True))
        file = tmp_path / "token"
        file.write_text(token)
        port = authority_port(process.ready["url"], file)
        events, taken = [], asyncio.Event()

        def emit(event):
            events.append(event)
            if event["event"] == "list_taken":
                taken.set()

        car = VehicleProcess(Settings(state=folder, ble="none", authority=port), emit=emit)
        running = asyncio.create_task(car.run(signals=False))
        async with asyncio.timeout(20):
            await taken.wait()
        assert car.vehicle.body.signals().immobilised is True
        car.stop()
        await running
        port.close()
