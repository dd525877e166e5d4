"""A device that leaves the field at any frame of any transaction changes nothing."""

import itertools

import pytest

from dkey.control.rules import Action
from dkey.control.touch import Position
from dkey.errors import RefusalCode

ACTIVATED = 3  # a request and two frames of anticollision: the reader knows of the device
MOST_FRAMES = 40


async def _torn_at_every_frame(scene, attempt, settle):
    """Tear ``attempt`` away after 3, 4, 5 … frames until it succeeds; return its failures."""
    for frames in itertools.count(ACTIVATED):
        assert frames < MOST_FRAMES, "the transaction never ended"
        before = scene.everything()
        outcome = await attempt(frames)
        if outcome.code is None:
            return frames - ACTIVATED
        assert outcome.code is RefusalCode.CARD_DAMAGED
        assert scene.everything() == before
        settle()
    raise AssertionError


@pytest.mark.parametrize("warm", [False, True], ids=["standard", "fast"])
async def test_a_phone_torn_from_the_handle_changes_nothing(scene, warm):
    if warm:
        await scene.handle(scene.owner)
    failures = await _torn_at_every_frame(
        scene, lambda n: scene.handle(scene.owner, tear_after_frames=n), lambda: None
    )
    assert failures >= 4


async def test_a_phone_torn_from_the_pad_authorises_nothing(scene):
    def nothing_starts():
        assert scene.vehicle.press_start().code is RefusalCode.NO_KEY_ON_PAD

    failures = await _torn_at_every_frame(
        scene, lambda n: scene.pad(scene.owner, tear_after_frames=n), nothing_starts
    )
    assert failures >= 5


async def test_a_card_torn_away_while_pairing_is_not_enrolled_and_can_be_paired_again(scene):
    card = scene.blank_card()
    scene.body.ignition_on = True
    scene.vehicle.open_card_window()
    assert (await scene.pad(scene.owner)).action is Action.AUTHORISE_CARD
    failures = await _torn_at_every_frame(
        scene, lambda n: scene.pad(card, tear_after_frames=n), lambda: None
    )
    assert failures >= 5
    assert len(scene.vehicle.store.cards()) == 1


@pytest.mark.parametrize("lost", ["drop_answers", "corrupt_answers", "drop_commands"])
async def test_one_disturbed_frame_anywhere_is_repaired(scene, lost):
    for number in range(4, 9):
        chip = scene.stage.chip(Position.DOOR_HANDLE)
        getattr(chip.faults, lost).add(chip.rf_frames + number)
        assert (await scene.handle(scene.owner)).action is not None


async def test_an_answer_lost_for_good_at_the_very_end_leaves_the_door_as_it_was(scene):
    chip = scene.stage.chip(Position.DOOR_HANDLE)
    chip.faults.drop_answers.update(range(chip.rf_frames + 8, chip.rf_frames + 40))
    before = scene.everything()
    outcome = await scene.handle(scene.owner)
    chip.faults.drop_answers.clear()
    assert outcome.code is RefusalCode.CARD_DAMAGED
    assert scene.everything() == before
    assert (await scene.handle(scene.owner)).action is Action.UNLOCK


@pytest.mark.parametrize("frames", [1, 2])
async def test_a_device_that_leaves_before_it_is_selected_is_never_there(scene, frames):
    before = scene.everything()
    outcome = await scene.handle(scene.owner, tear_after_frames=frames)
    assert outcome.code is RefusalCode.CARD_DAMAGED
    assert scene.everything() == before
