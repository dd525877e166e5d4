"""Shared keys: forwarded, stale, one too many, signed by nobody (cases 17, 18, 24, 28)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.errors import StoreError
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.roles import Permission, Role
from firmware_mock.owner_epoch import erase_owner
from firmware_mock.stage import Phone
from tests.durability.delivery_world import parcel_of
from tests.scenario.sharing import Desk, carry, signer_of

from .. import Broken, Edit, case
from .parked import HANDLE, Parked

if TYPE_CHECKING:
    from typing import Any

ADMISSION = "dkey.lifecycle.admission"


def side_of(parked: Parked) -> Desk:
    return Desk(parked.vehicle, signer_of(parked.owner))


def phone_of(parked: Parked, name: str) -> Phone:
    return Phone(name, parked.vehicle, parked.entropy)


def friend_of(parked: Parked, name: str = "friend", slot: int = 1, **claims: Any) -> Phone:
    """Return a friend who was let in as it should be."""
    friend = phone_of(parked, name)
    carry(friend, side_of(parked).attest(friend, slot, **claims))
    outcome = parked.tap(HANDLE, friend)
    if outcome.action is None:
        raise RuntimeError(f"the friend was not let in: {outcome.text}")
    return friend


def opens(parked: Parked, phone: Phone) -> bool:
    return parked.tap(HANDLE, phone).action is not None


@case(
    17,
    "an attestation of a former owner's time opens nothing, though the same key owns the vehicle",
    source="security 5; life_bfs (epoch)",
    broken=[
        Broken(
            module=ADMISSION,
            old="        if any(each.epoch != self.epoch for each in chain):",
            new="        if False:",
            why="the owner epoch of an attestation is not compared",
        ),
    ],
)
def former_owners_friend(seed: int) -> None:
    with Parked(seed) as parked:
        friend = phone_of(parked, "friend")
        stale = side_of(parked).attest(friend)
        erase_owner(parked.vehicle, "FACTORY_RESET")
        owner = parked.owner
        parked.vehicle.enrol("owner", owner.public_key, Role.OWNER, Permission.ENTRY_AND_START)
        carry(friend, stale)
        assert not opens(parked, friend), "a former owner's friend opened the vehicle"


@case(
    17,
    "a share that was withdrawn before its first use stays out, though its place is free",
    source="security 5; life_bfs (slots)",
    broken=[
        Broken(
            module=ADMISSION,
            old="        if any(each.share_id in self.gone for each in chain):",
            new="        if False:",
            why="what was withdrawn is not looked up, when a key is let in nor afterwards",
            also=(
                Edit(
                    module="firmware_mock.admission_state",
                    old="    gone = item in now.gone\n",
                    new="    gone = False\n",
                ),
            ),
        ),
    ],
)
def withdrawn_before_use(seed: int) -> None:
    with Parked(seed) as parked:
        side, late = side_of(parked), phone_of(parked, "late")
        stale = side.attest(late, 2)
        news = side.list(1, revoked=(side.share_id("late"),))
        if not opens(parked, carry(parked.owner, owner_list=news)):
            raise RuntimeError("the owner could not deliver the list")
        carry(late, stale)
        assert not opens(parked, late), "a withdrawn share opened the vehicle"


@case(
    18,
    "a fourth friend is not let in, whatever place the attestation names",
    source="security 4.1; requirements S10",
    broken=[
        Broken(
            module=ADMISSION,
            old="                if each.until_s < now_s:",
            new="                if True:",
            why="a taken place is given to who comes next",
        ),
        Broken(
            module=ADMISSION,
            old="            if place == wanted and each.claims.share_id != claims.share_id:",
            new="            if False:",
            why="nobody looks whether a place is taken, in memory or in the store",
            also=(
                Edit(
                    module="dkey.lifecycle.slots",
                    old="    if not free or (slot is not None and slot not in free):",
                    new="    if slot is None:",
                ),
                Edit(
                    module="dkey.lifecycle.slots",
                    old='    file.put("share_slot", place, share_id)',
                    new='    file.put("share_slot", place, share_id, replace=True)',
                ),
            ),
        ),
    ],
)
def fourth_friend(seed: int) -> None:
    with Parked(seed) as parked:
        for slot in range(1, MAX_SHARES + 1):
            friend_of(parked, f"friend {slot}", slot)
        for slot in range(1, MAX_SHARES + 1):
            late = phone_of(parked, f"late {slot}")
            carry(late, side_of(parked).attest(late, slot))
            assert not opens(parked, late), "a fourth friend opened the vehicle"


@case(
    18,
    "two programs that let a friend into the same place at once: one of the friends comes in",
    source="race.py: 24 of 60 rounds gave too many",
    broken=[
        Broken(
            module="firmware_mock.admission_book",
            old="""        with self._store.transaction() as writes:
            self.catch_up()
            change =""",
            new="""        with self._store.transaction() as writes:
            change =""",
            why="a change rests on what was read before the store was locked",
        ),
    ],
)
def race_for_a_place(seed: int) -> None:
    with Parked(seed) as parked:
        other = parked.opened()
        side = side_of(parked)
        one, two = phone_of(parked, "one"), phone_of(parked, "two")
        for phone, vehicle in ((one, parked.vehicle), (two, other)):
            carry(phone, side.attest(phone, 3))
            vehicle.share_desk.take(parcel_of(phone), phone.public_key, HANDLE)
        other.close()
        sound = True
        try:
            parked.power_cycle()
        except StoreError:
            sound = False
        assert sound, "two friends were let into one place, and the ledger does not add up"
        inside = [opens(parked, phone) for phone in (one, two)]
        assert inside == [True, False], f"of two friends for one place {inside} came in"


@case(
    24,
    "a phone that comes just after the owner and vouches for itself is not let in",
    source="Herfurt 2022: a key added in the window after a tap",
    broken=[
        Broken(
            module="firmware_mock.share_desk",
            old="        roots = {each.x: each for each in self._roots(standing=True).values()}",
            new="        roots = {each.x: each for each in (*self._roots().values(), key)}",
            why="whoever proved a key may sign, and nobody asks whose word it is",
            also=(
                Edit(
                    module="dkey.lifecycle.admission_checks",
                    old="    elif now.owner_x is not None and root.signer == now.owner_x:",
                    new="    elif now.owner_x is not None:",
                ),
            ),
        ),
    ],
)
def vouches_for_itself(seed: int) -> None:
    with Parked(seed) as parked:
        if not opens(parked, parked.owner):
            raise RuntimeError("the owner could not open the vehicle")
        thief = phone_of(parked, "thief")
        carry(thief, side_of(parked).attest(thief, signer=signer_of(thief)))
        assert not opens(parked, thief), "a phone let itself in"


@case(
    28,
    "an attestation that was forwarded opens nothing for another phone",
    source="security 1.3, share.pv mut8",
    broken=[
        Broken(
            module="firmware_mock.share_desk",
            old="            if claims[-1].public_key != key.point:",
            new="            if False:",
            why="nobody compares the attested key with the proved one",
            also=(
                Edit(
                    module=ADMISSION,
                    old="        if claims.public_key[_X] != x:",
                    new="        if False:",
                ),
            ),
        ),
    ],
)
def forwarded(seed: int) -> None:
    with Parked(seed) as parked:
        friend, thief = phone_of(parked, "friend"), phone_of(parked, "thief")
        carry(thief, side_of(parked).attest(friend))
        assert not opens(parked, thief), "a forwarded attestation opened the vehicle"


@case(
    28,
    "a share is one key's: a second attestation under the same share lets nobody in",
    source="security 5: one use",
    broken=[
        Broken(
            module=ADMISSION,
            old="        if known is not None and not renewed:",
            new="        if False:",
            why="another attestation takes a share over",
            also=(
                Edit(
                    module="firmware_mock.share_rows",
                    old='    file.put("share", credential_id, share_id)',
                    new='    file.put("share", credential_id, share_id, replace=True)',
                ),
            ),
        ),
    ],
)
def share_used_twice(seed: int) -> None:
    with Parked(seed) as parked:
        friend_of(parked)
        side, thief = side_of(parked), phone_of(parked, "thief")
        carry(thief, side.attest(thief, share_id=side.share_id("friend")))
        assert not opens(parked, thief), "one share let two keys in"


@case(
    28,
    "a friend who was given a key passes none on",
    source="requirements C17",
    broken=[
        Broken(
            module="dkey.lifecycle.attestation",
            old="    if not (first.reshare and first.role is Role.ACTUAL_USER):",
            new="    if False:",
            why="every holder of a key may sign the next",
            also=(
                Edit(
                    module="dkey.lifecycle.admission_checks",
                    old="""            parent.reshare
            and parent.role is Role.ACTUAL_USER
            and child.signer""",
                    new="            child.signer",
                ),
            ),
        ),
    ],
)
def passed_on(seed: int) -> None:
    with Parked(seed) as parked:
        side, third = side_of(parked), phone_of(parked, "third")
        friend = phone_of(parked, "friend")
        mine = side.attest(friend, 1)
        carry(third, mine, side.attest(third, 2, signer=signer_of(friend)))
        assert not opens(parked, third), "a friend's friend opened the vehicle"
