"""The virtual UWB world survives any bytes, and ends that disagree measure nothing."""

from dataclasses import fields

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dkey.codec.uci import Group, Packet, PacketType, segments
from dkey.codec.uci_core import DeviceResetCmd
from dkey.codec.uci_status import Status
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault
from dkey.ranging.hopping import MacMode
from firmware_mock.uwb_air import UwbAir
from firmware_mock.uwb_channel import OK, Car, Channel, Clocks, Tampering, Where, simulate
from firmware_mock.uwb_subsystem import OUTBOX_MAX
from uwb_host import SESSION, Host
from uwb_world import PARAMETERS, World, changed

BYTES = st.binary(max_size=300)
COMMANDS = st.builds(
    lambda group, opcode, payload: Packet(
        type=PacketType.COMMAND, group=group, opcode=opcode, payload=payload
    ).to_bytes(),
    st.sampled_from([*Group, 9]),
    st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 0x20, 0x21, 63]),
    st.one_of(
        st.binary(max_size=40),
        st.binary(max_size=40).map(lambda rest: SESSION.to_bytes(4, "little") + rest),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(BYTES, COMMANDS), max_size=12))
def test_no_bytes_end_the_subsystem(pieces: list[bytes]) -> None:
    host = Host(UwbAir())
    host.ready(initiator=False)
    host.on("RANGE_START")
    for piece in pieces:
        host.subsystem.feed(piece)
        host.chip.air.advance(host.chip.air.now_ns + 30_000_000)
    assert len(host.subsystem.take()) < 2 * OUTBOX_MAX
    host.subsystem.reset()  # whatever packet was begun
    host.subsystem.take()
    assert host.status("DEVICE_RESET", DeviceResetCmd()) == Status.OK


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=4, max_size=600), st.integers(1, 40))
def test_the_pieces_in_which_bytes_come_do_not_matter(data: bytes, size: int) -> None:
    whole, cut = Host(UwbAir()), Host(UwbAir())
    packets = segments(Packet(type=PacketType.COMMAND, group=1, opcode=3, payload=data))
    stream = b"".join(each.to_bytes() for each in packets)
    whole.subsystem.feed(stream)
    for at in range(0, len(stream), size):
        cut.subsystem.feed(stream[at : at + size])
    assert whole.subsystem.take() == cut.subsystem.take()


SECRETS = st.binary(min_size=32, max_size=32).map(Secret)
CHANGES = {
    "ursk": SECRETS,
    "protocol_version": st.integers(0, 0xFFFF),
    "config_id": st.integers(0, 0xFFFF),
    "session_id": st.integers(0, 2**32 - 1),
    "sts_index0": st.integers(0, 2**30),
    "responders": st.integers(1, 8),
    "ran_multiplier": st.integers(1, 4),
    "slots_per_round": st.sampled_from([12, 16, 18, 24]),
    "chaps_per_slot": st.sampled_from([3, 4, 6, 8]),
    "pulse_shape": st.sampled_from([0x00, 0x01, 0x10, 0x11, 0x22]),
    "time0_ns": st.integers(-5, 5).map(lambda n: PARAMETERS.time0_ns + n * 96_000_000),
}


def value(told, name: str):
    return getattr(told if hasattr(told, name) else told.configuration, name)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from([*CHANGES]).flatmap(lambda name: st.tuples(st.just(name), CHANGES[name])))
def test_ends_that_disagree_on_any_keyed_field_never_measure(change: tuple) -> None:
    name, new = change
    try:
        other = changed(**{name: new})
    except LocalFault:
        return
    same = value(other, name) == value(PARAMETERS, name)
    world = World(other, PARAMETERS).run(0.5)
    ranged = any(each.distance_cm is not None for entry in world.rounds for each in entry.ranges)
    assert ranged == same


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([{}, {"continuous": True}, {"adaptive": True}]),
    st.integers(0, 7),
    st.integers(0, 2**32 - 1),
)
def test_ends_that_agree_always_measure(key: int, hops: dict, offset: int, seed: int) -> None:
    told = changed(hop_key=key, mode=MacMode(offset=offset), **hops)
    world = World(told, seed=seed).run(0.5)
    assert world.rounds
    assert set().union(*world.statuses()) == {OK}


@settings(max_examples=50, deadline=None)
@given(
    st.floats(-30, 30),
    st.floats(-30, 30),
    st.floats(0, 200e-9),
    st.integers(0, 2**32 - 1),
)
def test_what_delays_frames_never_shortens_a_range(x: float, y: float, late: float, seed) -> None:
    rng = np.random.default_rng(seed)
    where = Where(at_m=np.array([[x, y]]))
    clocks = Clocks.draw(Channel.GARAGE, 1, 6, rng)
    relay = Tampering(poll_s=late, response_s=late, final_s=late)
    found = simulate(Channel.GARAGE, Car.SIX, where, clocks, rng, tampering=relay)
    error = found.distance_m - found.path_m - late * 299_792_458
    assert (np.isnan(error) | (error > -0.3)).all()


def test_every_field_that_goes_into_the_keys_is_tried() -> None:
    keyed = {each.name for each in fields(PARAMETERS.configuration)} | {"ursk", "time0_ns"}
    assert keyed == set(CHANGES)
