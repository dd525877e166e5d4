"""Shared keys over Bluetooth: let in, delivered to, turned away."""

from __future__ import annotations

import pytest

from dkey.access.ble_events import Ended, Established, StatusReported
from dkey.access.exchange import Fault
from dkey.access.mailbox import Mailbox, MailboxFault
from dkey.codec.ble import RkeAction
from dkey.errors import RefusalCode
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.roles import Permission
from dkey.lifecycle.slots import slots
from tests.scenario.sharing import Desk, carry, receipt_of, refusals, signer_of
from tests.unit.test_ble_desk import Car, Phone


@pytest.fixture
def car(tmp_path):
    made = Car(tmp_path)
    yield made
    made.desk.close()
    made.vehicle.close()


@pytest.fixture
def side(car):
    made = Desk(car.vehicle, signer_of(car.owner))
    made.provide()
    return made


async def connects(phone, *, remote_only=True):
    async with phone.connected(remote_only=remote_only) as connection:
        return await connection.in_()


async def is_refused(phone):
    async with phone.connected() as connection:
        await connection.wait_for(Ended)
        return not any(isinstance(each, Established) for each in connection.events)


@pytest.mark.parametrize("remote_only", [True, False])
async def test_a_friend_is_let_in_by_the_first_connection(car, side, remote_only):
    friend = Phone("friend", car)
    carry(friend, side.attest(friend))
    await connects(friend, remote_only=remote_only)
    assert slots(car.vehicle.store.file) == {1: side.share_id("friend")}
    assert receipt_of(friend).admissions == 1
    async with friend.connected() as connection:
        await connection.in_()
        verdict = await connection.ask(RkeAction.UNLOCK)
    assert verdict.code is None
    assert car.body.locked is False


async def test_an_entry_key_starts_nothing_by_remote_control(car, side):
    friend = Phone("friend", car)
    carry(friend, side.attest(friend, permission=Permission.ENTRY))
    async with friend.connected() as connection:
        await connection.in_()
        verdict = await connection.ask(RkeAction.REMOTE_START)
    assert verdict.code == RefusalCode.PERMISSION_ENTRY_ONLY


async def test_a_friend_whose_attestation_does_not_hold_is_turned_away(car, side):
    friend = Phone("friend", car)
    carry(friend, side.attest(friend, epoch=9))
    assert await is_refused(friend)
    assert refusals(car.vehicle) == [RefusalCode.KEY_REVOKED]
    assert slots(car.vehicle.store.file) == {}


async def test_a_list_by_bluetooth_cuts_off_a_friend_who_is_connected(car, side):
    falls, carrier = Phone("falls", car), Phone("carrier", car)
    carry(falls, side.attest(falls, 1))
    carry(carrier, side.attest(carrier, 2))
    await connects(carrier)
    news = side.list(1, revoked=(side.share_id("falls"),))
    async with falls.connected() as connection:
        await connection.in_()
        carry(carrier, side.attest(carrier, 2), owner_list=news, seen=receipt_of(carrier))
        await connects(carrier)
        assert (await connection.ask(RkeAction.UNLOCK)).code == RefusalCode.KEY_REVOKED
    assert car.body.locked is True
    assert receipt_of(carrier).owner_list == 1
    assert await is_refused(falls)


async def test_an_expired_friend_is_cut_off_while_connected(car, side):
    friend = Phone("friend", car)
    carry(friend, side.attest(friend, not_after_s=side.now_s + 5))
    async with friend.connected() as connection:
        await connection.in_()
        car.clock.advance(6)
        assert (await connection.ask(RkeAction.UNLOCK)).code == RefusalCode.KEY_EXPIRED
    assert await is_refused(friend)


async def test_a_parcel_that_is_cut_short_ends_the_connection_and_takes_nothing(car, side):
    friend = Phone("friend", car)
    carry(friend, side.attest(friend))
    whole = friend.credential.mailbox
    friend.credential.mailbox = Mailbox(whole.data[:-40], subset=whole.subset)
    assert await is_refused(friend)
    assert slots(car.vehicle.store.file) == {}


async def test_a_parcel_whose_header_lies_is_refused_and_noted(car, side):
    friend = Phone("friend", car)
    carry(friend, side.attest(friend))
    data = bytearray(friend.credential.mailbox.data)
    data[15] = 7  # an owner's list is announced that the body does not have
    data[4] |= 2
    friend.credential.mailbox.data = bytes(data)
    assert await is_refused(friend)
    assert car.reports[-2][1]["code"] == "CARD_DAMAGED"


async def test_what_a_delivery_made_is_there_even_when_the_phone_breaks_off(car, side):
    class Torn(Mailbox):
        def stage(self, ops):
            if any(hasattr(op, "data") for op in ops):
                raise MailboxFault(Fault.STORAGE, "full")
            return super().stage(ops)

    friend = Phone("friend", car)
    carry(friend, side.attest(friend))
    whole = friend.credential.mailbox
    friend.credential.mailbox = Torn(whole.data, subset=whole.subset)
    assert await is_refused(friend)
    assert slots(car.vehicle.store.file) == {1: side.share_id("friend")}
    carry(friend, side.attest(friend))
    await connects(friend)


async def test_all_suspended_by_the_authority_cuts_off_the_owner_too(car, side):
    async with car.owner.connected() as connection:
        await connection.in_()
        car.vehicle.share_desk.take_list(side.list(1, issuer=Issuer.AUTHORITY, all_suspended=True))
        assert (await connection.ask(RkeAction.UNLOCK)).code == RefusalCode.KEY_SUSPENDED
    assert await is_refused(car.owner)


async def test_a_friend_who_falls_while_connected_learns_no_more_of_the_doors(car, side):
    friend = Phone("friend", car)
    carry(friend, side.attest(friend))
    async with friend.connected() as connection:
        await connection.in_()
        car.vehicle.body.unlock()
        car.vehicle.changed()
        await connection.wait_for(StatusReported)
        car.vehicle.share_desk.take_list(
            side.list(1, issuer=Issuer.AUTHORITY, revoked=(side.share_id("friend"),))
        )
        at = len(connection.events)
        car.vehicle.body.lock()
        car.vehicle.changed()
        await connection.ask(RkeAction.UNLOCK)
        told = [each for each in connection.events[at:] if isinstance(each, StatusReported)]
        assert told == []
