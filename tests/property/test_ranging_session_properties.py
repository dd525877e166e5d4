"""Any order of wishes, failures and deliveries; any bytes: ranging sessions stay in step."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dkey.codec.ble import Message, MessageType, RangingKind, UwbId
from dkey.codec.ble_contents import Opaque, Ranging
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault
from dkey.ranging.session_events import Began, Measured, Tell, Violated
from dkey.ranging.session_phone import RangingPhone
from dkey.ranging.session_vehicle import RangingVehicle
from dkey.ranging.setup_steps import SetupState
from dkey.ranging.uci_host import UciHost
from dkey.testing import SeededEntropy
from ranging_session_world import Phone, World

ALLOWED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def free(phone: Phone) -> bool:
    """Whether the phone may begin a request: it waits for no reply."""
    return phone.connected and phone.turn.own is None and phone.turn.theirs is None


def free_there(phone: Phone) -> bool:
    return phone.connected and phone.turn_there.own is None and phone.turn_there.theirs is None


def _suspend(world: World, phone: Phone) -> None:
    if free(phone):
        phone.take(phone.end.suspend(world.now_s))


def _resume(world: World, phone: Phone) -> None:
    if free(phone):
        phone.take(phone.end.resume(world.now_s))


def _initiate(world: World, phone: Phone) -> None:
    if free(phone):
        phone.take(phone.end.initiate(world.now_s))


def _suspend_there(world: World, phone: Phone) -> None:
    if free_there(phone):
        world.take(world.end.suspend(phone.session_id, world.now_s))


def _resume_there(world: World, phone: Phone) -> None:
    if free_there(phone):
        world.take(world.end.resume(phone.session_id, world.now_s))


WISHES = {
    "phone suspends": _suspend,
    "phone resumes": _resume,
    "phone initiates": _initiate,
    "vehicle suspends": _suspend_there,
    "vehicle resumes": _resume_there,
    "anchors reset": lambda world, _: world.subsystem.reset(),
    "phone's chip resets": lambda _, phone: phone.subsystem.reset(),
    "one message": lambda _, phone: phone.deliver(),
    "time": lambda world, _: world.run(0.25, step_s=0.02),
}
STEPS = st.lists(st.sampled_from([*WISHES]), min_size=1, max_size=14)


def step(world: World, phone: Phone, what: str) -> None:
    with suppress(LocalFault):  # nothing to suspend or to resume now
        WISHES[what](world, phone)


@ALLOWED
@given(STEPS, st.integers(0, 3))
def test_in_any_order_of_wishes_and_failures_no_index_comes_twice_and_ranging_comes_back(
    steps: list[str], seed: int
) -> None:
    world = World(seed=seed)
    phone = world.phone()
    world.settle()
    phone.connect()
    for each in steps:
        step(world, phone, each)
    world.run(5.0, step_s=0.02)
    assert phone.broken == []
    indices = [each.plan.sts_index0 for each in world.events if isinstance(each, Began)]
    assert indices == sorted(set(indices))
    measured = [each.round.sts_index for each in world.rounds]
    assert measured == sorted(set(measured))
    if phone.end.state is SetupState.SUSPENDED and free(phone):
        phone.take(phone.end.initiate(world.now_s))
    count = len(world.good())
    world.run(12.0, step_s=0.02)
    gave_up = sum(each in ("anchors reset", "phone's chip resets") for each in steps) > 2
    assert len(world.good()) > count or gave_up


payloads = st.one_of(
    st.binary(max_size=40),
    st.lists(st.tuples(st.integers(0, 0x12), st.binary(max_size=8)), max_size=8).map(
        lambda rows: b"".join(bytes((key, len(value))) + value for key, value in rows)
    ),
)
contents = st.one_of(
    st.builds(
        lambda number, body: Opaque(message=Message(MessageType.UWB, number, body or b"\x00")),
        st.sampled_from(UwbId),
        payloads,
    ),
    st.builds(
        lambda body: Opaque(message=Message(MessageType.SUPPLEMENTARY, 0, body or b"\x00")),
        payloads,
    ),
    st.sampled_from(RangingKind).map(lambda kind: Ranging(kind=kind)),
)


@ALLOWED
@given(st.lists(contents, min_size=1, max_size=6), st.booleans())
def test_no_setup_message_raises_and_a_malformed_one_ends_the_session_and_begins_nothing(
    told: list, to_vehicle: bool
) -> None:
    world = World()
    phone = world.phone()
    world.settle()
    end = world.end if to_vehicle else phone.end
    if to_vehicle:
        world.end.open(7, Secret(bytes(32)), world.now_s)
    else:
        phone.end.open(7, Secret(bytes(32)), world.now_s)
    for content in told:
        if to_vehicle:
            assert isinstance(end, RangingVehicle)
            events = end.received(7, content, world.now_s)
        else:
            assert isinstance(end, RangingPhone)
            events = end.received(content, world.now_s)
        ended = any(isinstance(each, Violated) for each in events)
        if ended:
            assert not any(isinstance(each, Tell | Began) for each in events)
            break
    assert all(not isinstance(each, Measured) for each in world.events)


@ALLOWED
@given(st.lists(st.binary(max_size=64), max_size=8), st.booleans())
def test_whatever_a_subsystem_says_nothing_is_measured_of_a_session_that_does_not_range(
    packets: list[bytes], initiator: bool
) -> None:
    end: RangingPhone | RangingVehicle
    if initiator:
        end = RangingPhone(UciHost(initiator=True), SeededEntropy(1))
        end.start(0.0)
        end.open(7, Secret(bytes(32)), 0.0)
    else:
        end = RangingVehicle(UciHost(), responders=6)
        end.start(0.0)
        end.open(7, Secret(bytes(32)), 0.0)
    for at, each in enumerate(packets):
        events = end.receive(each, float(at))
        assert not any(isinstance(event, Measured | Began) for event in events)
        end.tick(float(at))
