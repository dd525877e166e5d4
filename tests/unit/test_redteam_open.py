"""Findings that are known and not settled: each turns green when it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dkey.errors import PolicyRefusal
from dkey.lifecycle import commands as c
from dkey.lifecycle.claims import NO_SLOT
from dkey.lifecycle.roles import Role
from ring_world import OWNER, World, mail, share_id, x_of


@pytest.mark.xfail(strict=True, reason="a vehicle does not know whether its owner is a corporation")
def test_a_person_makes_no_actual_user_beside_three_associates() -> None:
    world = World()
    for name in ("anna", "bob", "carl"):
        world.share(name)
        world.admit(world.claims(name))
    fourth = replace(
        world.claims("anna"),
        share_id=b"4" * 16,
        slot=NO_SLOT,
        role=Role.ACTUAL_USER,
        reshare=True,
        public_key=b"\4" + x_of("dora") + bytes(32),
    )
    with pytest.raises(PolicyRefusal):
        world.admit(fourth)


@pytest.mark.xfail(strict=True, reason="a change of owner has no list in the vehicle's own epoch")
def test_who_lost_the_key_by_a_change_of_owner_can_be_refused_by_a_list() -> None:
    world = World()
    world.share("anna")
    world.admit(world.claims("anna"))
    mine = c.Party(account=mail("mine"))
    world.do(c.ChangeOwner(actor=OWNER, owner=mine, key_x=x_of("new")))
    try:
        world.deliver()
    except PolicyRefusal as refusal:
        pytest.fail(f"no list that the vehicle takes: {refusal.code}")
    assert world.verdict(share_id("anna")) is not None


@pytest.mark.xfail(strict=True, reason="account ids that differ in case are two accounts")
def test_a_veto_holds_for_another_spelling_of_the_account() -> None:
    world = World(corporate=True)
    world.share("user", role=Role.ACTUAL_USER)
    world.do(c.Veto(actor=OWNER, account=mail("anna")))
    with pytest.raises(PolicyRefusal):
        world.invite("anna", by=mail("user"), account=mail("anna").upper())
