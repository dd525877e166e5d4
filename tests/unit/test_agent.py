"""The phone's agent against a vehicle at the other end of a message link, on a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest
from agent_world import CODE, GROUP, PHONE, READER, RESOLVING, SOON, Vehicle, World, jumping

from dkey.access.exchange import ReaderStatus
from dkey.agent.advice import SENTENCES, NotPaired, Trouble, Unreachable, trouble_of, unreachable
from dkey.agent.agent import Agent
from dkey.agent.finding import Patience
from dkey.agent.store import AgentStore, KeyState
from dkey.codec.ble import RkeAction
from dkey.codec.ble_advert import VehicleAdvert
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.secret import Secret
from dkey.errors import (
    AuthenticationError,
    LinkError,
    LinkReason,
    LocalFault,
    PolicyRefusal,
    RefusalCode,
    RemoteFault,
    StoreError,
)
from dkey.lifecycle.features import DK2_TOUCH
from dkey.pairing.owner import PairedVehicle
from dkey.testing import FakeClock, SeededEntropy


@pytest.fixture
def world(tmp_path):
    entropy = SeededEntropy("store")
    folder = tmp_path / "keys"
    with AgentStore.open(folder, entropy=entropy, create=True, clock=FakeClock(1e9)) as store:
        yield World(store)


async def refused(awaitable) -> PolicyRefusal:
    with pytest.raises(PolicyRefusal) as caught:
        await awaitable
    assert caught.value.hint
    return caught.value


async def failed(awaitable) -> Unreachable:
    with pytest.raises(Unreachable) as caught:
        await awaitable
    assert caught.value.hint
    return caught.value


# --- commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", RkeAction)
@jumping
async def test_each_action_reaches_the_vehicle(world, action):
    agent = world.synced().agent
    outcome = await agent.command(action)
    assert (outcome.action, world.vehicle.asked) == (action, [action])
    await agent.aclose()


@jumping
async def test_the_verbs_ask_for_what_they_say(world):
    agent = world.synced().agent
    for call in (agent.unlock, agent.lock, agent.start, agent.stop):
        await call()
    await agent.horn(on=True)
    await agent.horn(on=False)
    assert [each.name for each in world.vehicle.asked] == [
        *("UNLOCK", "LOCK", "REMOTE_START", "REMOTE_STOP", "HORN_ON", "HORN_OFF"),
    ]
    await agent.aclose()


@jumping
async def test_the_first_connection_is_standard_and_the_next_one_fast(world):
    world.synced()
    for expected in (False, True):
        agent = world.agent
        assert (await agent.unlock()).fast is expected
        await agent.aclose()
    assert world.vehicle.flows == ["standard", "fast"]


@jumping
async def test_start_is_never_asked_after_a_fast_transaction(world):
    world.synced()
    first = world.agent
    await first.unlock()
    await first.aclose()
    agent = world.agent
    await agent.unlock()
    await agent.start()
    assert world.vehicle.flows == ["standard", "fast", "standard"]
    await agent.aclose()


@jumping
async def test_a_vehicle_that_wants_a_standard_transaction_gets_one_once(world):
    world.synced()
    first = world.agent
    await first.unlock()
    await first.aclose()
    world.vehicle.answers[RkeAction.UNLOCK] = ("STANDARD_REQUIRED", None)
    agent = world.agent
    assert (await refused(agent.unlock())).code is RefusalCode.STANDARD_REQUIRED
    assert world.vehicle.flows == ["standard", "fast", "standard"]
    await agent.aclose()


@jumping
async def test_a_connection_serves_several_commands(world):
    agent = world.synced().agent
    for _ in range(5):
        await agent.lock()
    assert len(world.vehicle.links) == 1
    await agent.aclose()


@jumping
async def test_commands_of_several_callers_take_turns(world):
    agent = world.synced().agent
    await asyncio.gather(*(agent.command(action) for action in RkeAction))
    assert sorted(world.vehicle.asked) == sorted(RkeAction)
    await agent.aclose()


@jumping
async def test_an_idle_connection_stays(world):
    agent = world.synced().agent
    await agent.lock()
    await asyncio.sleep(3600)
    await agent.unlock()
    assert len(world.vehicle.links) == 1
    await agent.aclose()


@jumping
async def test_doors_are_told_as_they_change(world):
    agent = world.synced().agent
    await agent.lock()
    world.vehicle.links[0].report(ReaderStatus.UNSECURE)
    await asyncio.sleep(1)
    assert ("doors", {"state": "unlocked"}) in world.told
    assert (await agent.status()).doors == "unlocked"
    await agent.aclose()


@jumping
async def test_what_was_done_and_refused_is_in_the_history(world):
    agent = world.synced().agent
    world.vehicle.answers[RkeAction.LOCK] = ("DRIVING", None)
    await agent.unlock()
    await refused(agent.lock())
    assert world.history()[-2:] == [("command", None, "UNLOCK"), ("refused", "DRIVING", "LOCK")]
    await agent.aclose()


@jumping
async def test_a_history_that_cannot_be_written_does_not_hide_the_verdict(world, monkeypatch):
    agent = world.synced().agent
    await agent.lock()

    def full(*_args, **_named):
        raise StoreError("the disk is full")

    monkeypatch.setattr(world.store, "record", full)
    assert (await agent.unlock()).action is RkeAction.UNLOCK
    assert "history_failed" in world.names
    await agent.aclose()


# --- refusals ----------------------------------------------------------------------------------


def test_every_refusal_code_has_a_sentence_and_advice():
    assert {*SENTENCES} == {*RefusalCode}
    assert all(sentence.endswith(".") and hint for sentence, hint in SENTENCES.values())


@pytest.mark.parametrize("code", [each for each in RefusalCode if each != "KEY_UNKNOWN"])
@jumping
async def test_a_refusal_is_told_and_not_tried_again(world, code):
    agent = world.synced().agent
    world.vehicle.answers[RkeAction.LOCK] = (code.value, None)
    assert (await refused(agent.lock())).code is code
    assert world.vehicle.asked == [RkeAction.LOCK]
    await agent.aclose()


@jumping
async def test_the_rest_of_the_time_comes_with_the_refusal(world):
    agent = world.synced().agent
    world.vehicle.answers[RkeAction.LOCK] = ("TOO_SOON", 12.5)
    error = await refused(agent.lock())
    assert error.remaining_s == 12.5
    assert "12" in error.hint
    await agent.aclose()


@jumping
async def test_after_a_refusal_the_connection_still_serves(world):
    agent = world.synced().agent
    world.vehicle.answers[RkeAction.LOCK] = ("DRIVING", None)
    await refused(agent.lock())
    await agent.unlock()
    assert len(world.vehicle.links) == 1
    await agent.aclose()


@jumping
async def test_a_reason_that_nobody_knows_is_no_success(world):
    agent = world.synced().agent
    world.vehicle.answers[RkeAction.LOCK] = ("FLAT_TYRE", None)
    with pytest.raises(RemoteFault, match="FLAT_TYRE"):
        await agent.lock()
    await agent.aclose()


# --- states ------------------------------------------------------------------------------------


@jumping
async def test_nothing_is_asked_without_a_pairing(world):
    agent = world.agent
    with pytest.raises(NotPaired):
        await agent.unlock()
    assert (agent.state, agent.actions) == (KeyState.NONE, ())
    assert world.air.searches == 0
    await agent.aclose()


@pytest.mark.parametrize("action", RkeAction)
@jumping
async def test_no_command_is_sent_before_synced(world, action):
    world.registered()
    agent = world.agent
    assert (await refused(agent.command(action))).code is RefusalCode.NOT_SYNCED
    assert agent.actions == ()
    assert world.air.searches == 0
    await agent.aclose()


@jumping
async def test_a_standard_transaction_makes_a_key_synced(world):
    world.registered()
    agent = world.agent
    status = await agent.status()
    assert (status.state, status.reached, world.state) == (KeyState.SYNCED, True, KeyState.SYNCED)
    assert status.actions == tuple(RkeAction)
    await agent.aclose()


@jumping
async def test_a_vehicle_out_of_range_leaves_a_key_registered(world):
    world.registered()
    world.air.in_range = False
    agent = world.agent
    status = await agent.status()
    assert (status.state, status.reached) == (KeyState.REGISTERED, False)
    assert trouble_of(status.error) is Trouble.NOT_IN_RANGE
    await agent.aclose()


@jumping
async def test_a_key_that_the_vehicle_forgot_is_not_tried_again(world):
    agent = world.synced().agent
    world.vehicle.directory.clear()
    error = await refused(agent.unlock())
    assert (error.code, world.state) == (RefusalCode.KEY_UNKNOWN, KeyState.FORGOTTEN)
    assert "dkey agent pair" in error.hint
    assert len(world.vehicle.links) == 1
    assert (await refused(agent.unlock())).code is RefusalCode.KEY_UNKNOWN
    assert len(world.vehicle.links) == 1
    await agent.aclose()


@jumping
async def test_a_verdict_key_unknown_forgets_the_key_too(world):
    agent = world.synced().agent
    world.vehicle.answers[RkeAction.LOCK] = ("KEY_UNKNOWN", None)
    await refused(agent.lock())
    assert world.state is KeyState.FORGOTTEN
    assert world.store.credential(GROUP).kpersistent == {}
    await agent.aclose()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (ReaderStatus.KEY_NOT_TRUSTED, RefusalCode.KEY_REVOKED),
        (ReaderStatus.KEY_EXPIRED, RefusalCode.KEY_EXPIRED),
        (ReaderStatus.ACCESS_RIGHTS, RefusalCode.KEY_SUSPENDED),
        (ReaderStatus.HARDWARE, RefusalCode.NOT_AUTHORISED),
    ],
)
@jumping
async def test_a_key_that_is_turned_away_learns_why_and_stays(world, status, code):
    agent = world.synced().agent
    world.vehicle.refuses = status
    assert (await refused(agent.unlock())).code is code
    assert (world.state, len(world.vehicle.links)) == (KeyState.SYNCED, 1)
    await agent.aclose()


@jumping
async def test_somebody_who_only_plays_the_vehicle_cannot_make_the_phone_forget(world):
    agent = world.synced().agent
    world.vehicle.key = PrivateKey.from_scalar(bytes(31) + b"\x09")
    world.vehicle.refuses = ReaderStatus.KEY_NOT_FOUND
    with pytest.raises(RemoteFault):
        await agent.unlock()
    assert world.state is KeyState.SYNCED
    await agent.aclose()


@jumping
async def test_of_several_vehicles_one_must_be_chosen(world):
    world.synced()
    world.vehicle.features = frozenset()
    other = PairedVehicle(
        group_id=b"O" * 16,
        public_key=READER.public,
        resolving_key=RESOLVING,
        owner_epoch=1,
        features=frozenset(),
        key_name="other",
    )
    world.store.add(other, world.store.new_key())
    agent = world.agent
    with pytest.raises(NotPaired, match="several"):
        await agent.unlock()
    await agent.aclose()


# --- functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("action", RkeAction)
@jumping
async def test_a_touch_only_vehicle_hides_and_refuses_remote_control(world, action):
    world.vehicle.features = DK2_TOUCH.features
    agent = world.synced().agent
    assert agent.actions == ()
    assert (await refused(agent.command(action))).code is RefusalCode.FEATURE_NOT_SUPPORTED
    assert world.air.searches == 0
    await agent.aclose()


# --- trouble -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "text", "hint", "kind"),
    [
        (LinkReason.ABSENT, "there is no Bluetooth adapter", "plug in", Trouble.NO_ADAPTER),
        (
            LinkReason.ABSENT,
            "Bluetooth is switched off",
            "switch Bluetooth on: `bluetoothctl power on`",
            Trouble.BLUETOOTH_OFF,
        ),
        (LinkReason.ABSENT, "hci0 is blocked by rfkill", "unblock it", Trouble.AIRPLANE_MODE),
        (
            LinkReason.ABSENT,
            "bluetoothd does not run",
            "start it: `sudo systemctl start bluetooth`",
            Trouble.NO_BLUETOOTH_SERVICE,
        ),
        (LinkReason.DENIED, "bluetoothd denies access", "join", Trouble.NO_PERMISSION),
        (LinkReason.DENIED, "connect: the vehicle refuses: 5", "again", Trouble.LINK),
        (LinkReason.TIMEOUT, "the vehicle does not answer", "closer", Trouble.TIMED_OUT),
        (LinkReason.LOST, "the connection is lost", "closer", Trouble.LOST),
        (LinkReason.UNSUPPORTED, "no LE central role", "another", Trouble.LINK),
    ],
)
def test_the_kinds_of_absence_are_told_apart(reason, text, hint, kind):
    found = unreachable(LinkError(reason, text, hint=hint))
    assert (found.trouble, found.reason) == (kind, reason)
    assert found.hint


@jumping
async def test_bluetooth_that_is_off_ends_the_wish_at_once(world):
    agent = world.synced().agent
    world.air.find_error = LinkError(
        LinkReason.ABSENT, "Bluetooth is switched off", hint="`bluetoothctl power on`"
    )
    kinds = {Trouble.BLUETOOTH_OFF, Trouble.AIRPLANE_MODE}
    assert (await failed(agent.unlock())).trouble in kinds
    assert world.air.searches == 1
    await agent.aclose()


@jumping
async def test_out_of_range_is_said_after_the_search(world):
    agent = world.synced().agent
    world.air.in_range = False
    began_s = asyncio.get_running_loop().time()
    assert (await failed(agent.unlock())).trouble is Trouble.NOT_IN_RANGE
    assert 10 <= asyncio.get_running_loop().time() - began_s < 11
    await agent.aclose()


@jumping
async def test_another_vehicle_in_range_is_not_connected_to(world, monkeypatch):
    agent = world.synced().agent
    strange = VehicleAdvert(ranging=True, remote=True, nonce=b"once", tag=bytes(5))
    monkeypatch.setattr(Vehicle, "advert", strange)
    assert (await failed(agent.unlock())).trouble is Trouble.NOT_IN_RANGE
    assert world.vehicle.links == []
    await agent.aclose()


LOST = LinkError(LinkReason.LOST, "gone")


@pytest.mark.parametrize("fault", [LOST, {"lose_after": 0}, {"lose_after": 1}, {"mute_after": 1}])
@jumping
async def test_a_link_that_breaks_before_the_command_is_made_again(world, fault):
    agent = world.synced().agent
    world.air.faults = [fault, fault]
    await agent.unlock()
    assert world.vehicle.asked == [RkeAction.UNLOCK]
    assert world.names.count("retry") == 2
    assert all(link.closed for link in world.vehicle.links[:-1])
    await agent.aclose()


@jumping
async def test_attempts_are_bounded(world):
    agent = world.synced().agent
    world.air.faults = [{"lose_after": 1}] * 9
    assert (await failed(agent.unlock())).trouble is Trouble.LOST
    assert len(world.air.faults) == 9 - SOON.attempts
    await agent.aclose()


@jumping
async def test_pauses_between_attempts_grow(world):
    agent = world.synced().agent
    world.air.faults = [LOST] * 3
    began_s = asyncio.get_running_loop().time()
    await failed(agent.unlock())
    assert 1.5 <= asyncio.get_running_loop().time() - began_s < 1.6
    await agent.aclose()


@pytest.mark.parametrize("fault", ["lose_after", "lose_answer", "mute_after"])
@jumping
async def test_a_command_without_an_answer_is_uncertain_and_not_repeated(world, fault):
    agent = world.synced().agent
    world.air.faults = [{fault: 3}]
    error = await failed(agent.unlock())
    assert error.trouble is Trouble.UNCERTAIN
    assert len(world.vehicle.asked) == (0 if fault == "lose_after" else 1)
    assert len(world.vehicle.links) == 1
    assert world.history()[-1] == ("failed", "uncertain", "UNLOCK")
    await agent.aclose()


@jumping
async def test_after_a_lost_connection_the_next_command_connects_again_and_is_fast(world):
    agent = world.synced().agent
    await agent.lock()
    world.vehicle.links[0].lose()
    await asyncio.sleep(1)
    assert "disconnected" in world.names
    assert (await agent.unlock()).fast
    assert len(world.vehicle.links) == 2
    await agent.aclose()


@jumping
async def test_a_store_that_cannot_keep_the_session_key_fails_on_this_side(world, monkeypatch):
    agent = world.synced().agent

    def full(*_args):
        raise StoreError("the disk is full", hint="free the disk")

    monkeypatch.setattr(world.store, "save_kpersistent", full)
    with pytest.raises(LocalFault, match="disk is full"):
        await agent.unlock()
    assert world.vehicle.asked == []
    await agent.aclose()


@jumping
async def test_closing_ends_link_and_radio_and_may_be_repeated(world):
    agent = world.synced().agent
    await agent.lock()
    await agent.aclose()
    await agent.aclose()
    assert world.vehicle.links[0].closed
    assert world.air.closed


@jumping
async def test_a_cancelled_command_leaves_no_link_behind(world):
    agent = world.synced().agent
    world.air.faults = [{"mute_after": 0}]
    task = asyncio.create_task(agent.unlock())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.vehicle.links[0].closed
    await agent.aclose()


@jumping
async def test_no_secret_is_told(world):
    world.registered()
    agent = world.agent
    await agent.status()
    await agent.unlock()
    text = repr(world.told) + repr(world.history())
    kept = [key.reveal().hex() for key in world.store.credential(GROUP).kpersistent.values()]
    assert kept
    assert not [each for each in (*kept, RESOLVING.reveal().hex()) if each in text]
    await agent.aclose()


# --- pairing (on the real clock: the code is stretched in a thread) ----------------------------


async def test_pairing_ends_with_a_key_that_works(world):
    world.vehicle.pairing = True
    agent = world.agent
    status = await agent.pair(CODE, PHONE)
    assert (status.state, status.reached) == (KeyState.SYNCED, True)
    assert status.known.vehicle == world.vehicle.paired()
    await agent.unlock()
    assert world.vehicle.asked == [RkeAction.UNLOCK]
    await agent.aclose()


async def test_without_an_open_window_pairing_says_what_to_do(world):
    patience = Patience(find_s=0.01)
    agent = Agent(world.store, world.air, entropy=SeededEntropy(1), patience=patience)
    error = await failed(agent.pair(CODE, PHONE))
    assert (error.trouble, "head unit" in error.hint) == (Trouble.NOT_IN_RANGE, True)
    await agent.aclose()


async def test_a_wrong_code_is_tried_once_and_keeps_nothing(world):
    world.vehicle.pairing, world.vehicle.pairs_with = True, Secret(b"87654321")
    agent = world.agent
    with pytest.raises(AuthenticationError, match="code is wrong"):
        await agent.pair(CODE, PHONE)
    assert (world.vehicle.tries, world.state) == (1, KeyState.NONE)
    assert world.store.vault.names() == ["seal"]
    assert world.history()[-1][0] == "pairing refused"
    await agent.aclose()


async def test_a_vehicle_that_refuses_the_phone_is_quoted(world):
    world.vehicle.pairing = True
    world.vehicle.refusal = PolicyRefusal(RefusalCode.DEVICE_UNSUPPORTED, "no NFC here")
    agent = world.agent
    error = await refused(agent.pair(CODE, PHONE))
    assert error.code is RefusalCode.DEVICE_UNSUPPORTED
    assert "no NFC here" in str(error)
    assert (world.state, world.store.vault.names()) == (KeyState.NONE, ["seal"])
    await agent.aclose()


async def test_a_phone_torn_away_after_the_grant_keeps_its_key_and_pairs_again_with_it(world):
    world.vehicle.pairing = True
    world.air.faults = [{"lose_answer": 3}]
    agent = world.agent
    error = await failed(agent.pair(CODE, PHONE))
    assert (error.trouble, world.state) == (Trouble.UNCERTAIN, KeyState.REGISTERED)
    (before,) = world.store.vehicles()
    assert (await agent.pair(CODE, PHONE)).state is KeyState.SYNCED
    (after,) = world.store.vehicles()
    assert before.key == after.key
    await agent.aclose()


async def test_a_phone_torn_away_after_the_grant_finishes_by_its_first_transaction(world):
    world.vehicle.pairing = True
    world.air.faults = [{"lose_answer": 3}]
    agent = world.agent
    await failed(agent.pair(CODE, PHONE))
    assert (await agent.status()).state is KeyState.SYNCED
    await agent.aclose()


async def test_a_phone_torn_away_before_the_grant_keeps_nothing(world):
    world.vehicle.pairing = True
    world.air.faults = [{"lose_after": 2}]
    agent = world.agent
    assert (await failed(agent.pair(CODE, PHONE))).trouble is Trouble.LOST
    assert (world.state, world.store.vault.names()) == (KeyState.NONE, ["seal"])
    await agent.aclose()
