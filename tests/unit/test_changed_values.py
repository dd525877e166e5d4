"""Next values of the ring's parts: like those of dataclasses.replace, only faster."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from dkey.lifecycle.changed import changed, made_of
from dkey.lifecycle.ring import Ring
from dkey.lifecycle.ring_effects import KeyEnded, KeyHeld, KeyLifted
from dkey.lifecycle.ring_state import CardKey, Withdrawn
from dkey.lifecycle.roles import CardProvenance
from ring_world import World, card, share_id

CARD = CardKey(card=card(1), provenance=CardProvenance.INITIAL)


def test_a_changed_value_is_what_replace_makes():
    world = World()
    world.share("anna")
    share = world.ring.share(share_id("anna"))
    assert changed(share, confirmed=False, slot=2) == replace(share, confirmed=False, slot=2)
    assert hash(changed(share)) == hash(share)
    assert changed(world.ring, epoch=7) == replace(world.ring, epoch=7)


def test_the_former_value_stays_as_it_was():
    changed(CARD, provenance=CardProvenance.PURCHASED)
    assert CARD.provenance is CardProvenance.INITIAL


def test_a_changed_value_is_frozen():
    with pytest.raises(FrozenInstanceError):
        changed(CARD).ended = None


def test_a_field_that_is_not_there_is_refused():
    with pytest.raises(TypeError, match="CardKey"):
        changed(CARD, expired=True)


@pytest.mark.parametrize("cls", [KeyEnded, KeyHeld, KeyLifted, Withdrawn, CardKey])
def test_a_value_of_its_content_is_what_the_constructor_makes(cls):
    content = {each.name: each.name for each in fields(cls)}
    assert made_of(cls, dict(content)) == cls(**content)


def test_what_a_command_returns_has_every_field_and_no_other():
    world = World(corporate=True)
    world.share("anna")
    world.add_card(1)
    ring = world.ring
    for value in (ring, *ring.shares, *ring.cards):
        assert [*vars(value)] == [each.name for each in fields(value)]
    assert isinstance(ring, Ring)
