"""The lifecycle part of the acceptance list (requirements G) at a vehicle, by its numbers.

Touch readers on real drivers, no network; the pure rules have their own list beside this one.
"""

import pytest

from dkey.control.rules import Action
from dkey.control.touch import Position
from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.claims import Issuer, key_ref
from dkey.lifecycle.roles import CredentialState, Permission, Role
from firmware_mock.head_unit import HeadUnit
from firmware_mock.owner_desk import OwnerDesk
from firmware_mock.stage import Phone, Stage
from tests.scenario.sharing import Desk, carry, signer_of

R = RefusalCode


class Town:
    """A vehicle with an owner, an actual user with a friend, a friend of the owner, and a card."""

    def __init__(self, scene):
        self.scene, self.vehicle, self.owner = scene, scene.vehicle, scene.owner
        self.desk = Desk(scene.vehicle, signer_of(scene.owner))
        self.desk.corporate()
        self.menu = HeadUnit(scene.vehicle, OwnerDesk(scene.vehicle))
        self.number = 1

    async def begin(self):
        desk, scene = self.desk, self.scene
        self.user, self.anna, self.bob = (
            Phone(name, scene.vehicle, scene.entropy) for name in ("user", "anna", "bob")
        )
        mine = desk.user_attest(self.user)
        carry(self.user, mine)
        carry(self.anna, mine, desk.attest(self.anna, 1, signer=signer_of(self.user)))
        carry(self.bob, desk.attest(self.bob, 2, permission=Permission.ENTRY))
        for phone in (self.user, self.anna, self.bob):
            assert await self.code(phone) is None
        self.card = scene.blank_card()
        assert (await scene.pair(self.card)).code is None
        return self

    async def code(self, device):
        """Hold a device to the handle; return why the door did not move."""
        return (await self.scene.handle(device)).code

    async def codes(self):
        everybody = (self.owner, self.user, self.anna, self.bob, self.card)
        return [await self.code(device) for device in everybody]

    def take(self, **says):
        """Let the vehicle take the authority's next list, by whatever way."""
        self.number += 1
        self.vehicle.share_desk.take_list(
            self.desk.list(self.number, issuer=Issuer.AUTHORITY, **says)
        )


@pytest.fixture
async def town(scene):
    return await Town(scene).begin()


async def test_02_an_entry_key_opens_and_does_not_start_with_the_back_end_off(town):
    assert await town.code(town.bob) is None
    assert (await town.scene.stage.lay_on_pad(town.bob)).code is R.PERMISSION_ENTRY_ONLY
    assert town.vehicle.press_start().code is not None
    await town.scene.stage.take_off_pad()


async def test_03_revoking_the_actual_user_ends_whom_the_user_let_in_and_not_the_owner(town):
    town.take(revoked=(town.desk.share_id("user"),))
    assert await town.codes() == [None, R.KEY_REVOKED, R.KEY_REVOKED, None, None]


async def test_03_suspending_the_actual_user_leaves_the_owner_alone(town):
    town.take(suspended=(town.desk.share_id("user"),))
    assert await town.codes() == [None, R.KEY_SUSPENDED, R.KEY_SUSPENDED, None, None]


async def test_04_suspending_the_owner_refuses_all_and_resuming_gives_back_only_that(town):
    bob = town.desk.share_id("bob")
    town.take(suspended=(bob,))
    town.take(suspended=(bob,), all_suspended=True)
    assert await town.codes() == [R.KEY_SUSPENDED] * 5
    town.take(suspended=(bob,))
    assert await town.codes() == [None, None, None, R.KEY_SUSPENDED, None]


async def test_07_after_a_transfer_everybody_is_refused_and_a_new_owner_comes(town):
    await town.scene.stage.lay_on_pad(town.owner)
    town.menu.transfer()
    await town.scene.stage.take_off_pad()
    assert await town.codes() == [R.KEY_UNKNOWN] * 5
    assert town.menu.keys()["count"] == 0
    assert town.vehicle.store.cards() == ()
    heir = town.scene.phone("heir", Role.OWNER)
    assert await town.code(heir) is None


async def test_08_a_vehicle_that_was_cleared_alone_has_its_clearing_to_tell(town):
    await town.scene.stage.lay_on_pad(town.owner)
    town.menu.transfer()
    await town.scene.stage.take_off_pad()
    kinds = [entry.kind for entry in town.vehicle.store.ledger.entries()]
    assert kinds[-1] == "RESET"  # which the authority is told of: test_authority_watch.py
    assert town.vehicle.keys.book.admissions.authority_x is not None


async def test_16_a_restricted_holder_s_card_is_refused_and_with_the_phone_off_it_works(town):
    assert await town.code(town.card) is None
    town.take(suspended=(key_ref(town.owner.public_key.x),))
    assert await town.code(town.owner) is R.KEY_SUSPENDED
    assert await town.code(town.card) is R.KEY_SUSPENDED
    town.take()
    assert await town.code(town.card) is None


async def test_17_a_tap_that_breaks_off_changes_no_state(town):
    before = town.scene.everything(), town.vehicle.keys.book.state
    for frames in (3, 4, 5):
        outcome = await town.scene.handle(town.bob, tear_after_frames=frames)
        assert outcome.code is R.CARD_DAMAGED
    assert (town.scene.everything(), town.vehicle.keys.book.state) == before


async def test_19_a_power_cycle_keeps_revocations_and_a_factory_reset_erases_all(town):
    town.take(revoked=(town.desk.share_id("bob"),))
    again = town.scene.reopened()
    bob = again.store.credential_by_x(town.bob.public_key.x)
    assert bob.state is CredentialState.REVOKED
    assert again.keys.book.state == town.vehicle.keys.book.state
    OwnerDesk(town.vehicle).factory_reset()
    assert town.vehicle.store.credentials() == ()
    assert await town.codes() == [R.KEY_UNKNOWN] * 5


async def test_20_a_second_owner_is_refused_until_somebody_resets_the_vehicle(town):
    with pytest.raises(PolicyRefusal) as refused:
        town.scene.phone("second", Role.OWNER)
    assert refused.value.code is R.ALREADY_LINKED
    OwnerDesk(town.vehicle).factory_reset()
    second = town.scene.phone("second", Role.OWNER)
    assert await town.code(second) is None


async def test_25_keys_of_one_vehicle_open_no_other(town, tmp_path):
    scene = town.scene
    other = Stage(
        entropy=scene.entropy,
        clock=scene.clock,
        wall_clock=scene.vehicle.wall_clock,
        folder=tmp_path / "other",
    )
    async with other:
        side = Desk(other.vehicle, signer_of(town.owner))
        other.vehicle.enrol("owner", town.owner.public_key, Role.OWNER, Permission.ENTRY_AND_START)
        assert (await other.tap(Position.DOOR_HANDLE, town.bob)).code is R.NOT_AUTHORISED
        # Even a phone that trusts the other vehicle has nothing to show there.
        guest = Phone("guest", other.vehicle, scene.entropy)
        carry(guest, town.desk.attest(guest))
        assert (await other.tap(Position.DOOR_HANDLE, guest)).code is R.KEY_UNKNOWN
        carry(guest, side.attest(guest))
        assert (await other.tap(Position.DOOR_HANDLE, guest)).action is Action.UNLOCK
