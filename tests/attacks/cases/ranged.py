"""Distance, with everything there: BLE messages, ranging secrets, UCI, a virtual air, the body.

The same attacks as in :mod:`.ranging`, but played against a vehicle and a phone that really range
with each other (cases 21, 22).
"""

from __future__ import annotations

import asyncio
import random
from math import dist
from typing import TYPE_CHECKING

import numpy as np

from dkey.codec.ble import RangingKind
from dkey.codec.ble_contents import Ranging
from dkey.codec.ble_ranging import RangingSelection, RangingStart, TimeSync
from dkey.codec.uci import HEADER_SIZE, packet_size
from dkey.control.proximity import ProximityMode
from dkey.crypto.secret import Secret
from dkey.ranging.layout import Zone
from dkey.ranging.session_events import Began
from dkey.ranging.session_vehicle import RangingVehicle
from dkey.ranging.uci_host import UciHost
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_attacks import Relay
from firmware_mock.uwb_channel import Channel
from firmware_mock.uwb_rounds import Tampering
from firmware_mock.uwb_subsystem import UwbSubsystem

from .. import Broken, Edit, case
from .ranged_scene import DOOR_M, Scene, jumped, scene

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GATE, RULES = "dkey.ranging.gate", "dkey.control.proximity_rules"
HOME_M = (25.0, 18.0)
LIGHT_M_S = 299_792_458.0
_ANYWHERE = "        holds=lambda case: case.key.zone.zone is not case.at,"
_LAST_LINE = Edit(
    module=RULES,
    old="        holds=lambda case: case.key.trust.level is not TrustLevel.TRUSTED,",
    new="        holds=lambda case: False,",
)
_UNSUSPECTED = Edit(
    module=RULES,
    old="        holds=lambda case: case.key.trust.level is TrustLevel.SUSPICIOUS,",
    new="        holds=lambda case: False,",
)


class Masked:
    """An attacker who gives every anchor the range of another place, on all frames."""

    def __init__(
        self, car: Scene, true_m: tuple[float, float], told_m: tuple[float, float]
    ) -> None:
        height_m = car.air.car.phone_z_m
        self.early_s = np.array(
            [
                [
                    (dist((*true_m, height_m), each) - dist((*told_m, height_m), each)) / LIGHT_M_S
                    for each in car.air.car.anchors_m
                ]
            ]
        )

    def tampering(self, tracks: int, anchors: int, rng: object, *, slot_s: float) -> Tampering:
        del tracks, anchors, rng, slot_s
        early_s = -self.early_s
        return Tampering(poll_s=early_s, response_s=early_s, final_s=early_s)


def played(
    seed: int,
    attack: Callable[[Scene], Awaitable[None]],
    *,
    mode: ProximityMode = ProximityMode.ON_HANDLE_ACTION,
) -> None:
    """Play an attack on a parked vehicle whose owner is not there; nothing may move."""

    async def story() -> None:
        async with scene(seed, mode=mode, channel=Channel.CLEAN) as car:
            await attack(car)
            assert car.body.locked is True, "the doors opened for somebody who is not there"
            assert not car.body.ignition_on, "the engine started for somebody who is not there"

    jumped(story)


async def try_everything(car: Scene, seconds: int) -> None:
    """Hands at every handle and at START, again and again."""
    for _ in range(seconds):
        await asyncio.sleep(1.0)
        for zone in (Zone.DOOR_DRIVER, Zone.DOOR_PASSENGER, Zone.TRUNK):
            car.uwb.touch_handle(zone)
        car.uwb.press_start()


@case(
    21,
    "a phone at home, relayed by Bluetooth and by UWB, opens and starts nothing",
    source="NCC Group 2022 (BLE relay); distance bounding",
    broken=[
        Broken(
            module=RULES,
            old=_ANYWHERE,
            new="        holds=lambda case: False,",
            why="a live session that ranges is enough, wherever it places the phone",
        ),
    ],
)
def relayed_all(seed: int) -> None:
    async def attack(car: Scene) -> None:
        path_m = random.Random(seed).uniform(5.0, 40.0)
        owner = car.phone()
        owner.station.at_m = HOME_M
        car.air.attacks.append(Relay(path_m=path_m))
        await owner.connect()
        await try_everything(car, 6)

    played(seed, attack)


@case(
    21,
    "a phone at home, relayed by Bluetooth alone, opens and starts nothing",
    source="NCC Group 2022: BLE latency alone must not grant entry",
    broken=[
        Broken(
            module=RULES,
            old="        holds=lambda case: case.key.zone.zone is None,",
            new="        holds=lambda case: False,",
            why="a phone that was never ranged counts as being where it is needed",
            also=(
                Edit(
                    module=RULES,
                    old=_ANYWHERE,
                    new="        holds=lambda case: case.key.zone.zone not in (case.at, None),",
                ),
                _LAST_LINE,
            ),
        ),
    ],
)
def relayed_bluetooth(seed: int) -> None:
    async def attack(car: Scene) -> None:
        owner = await car.phone().connect(uwb=random.Random(seed).random() < 0.5)
        if owner.uwb_link is not None:
            owner.uwb_link.subsystem.chip.faults.deaf = True
            owner.uwb_link.subsystem.reset()
        await try_everything(car, 6)

    played(seed, attack)


@case(
    22,
    "every frame of a phone at 12 m advanced to the door, anchor by anchor: nothing opens",
    source="Ghost Peak (2111.05313), where it succeeds with every frame",
    broken=[
        Broken(
            module=GATE,
            old="            if nearer > settings.jump_m:",
            new="            if nearer > 1000 * settings.jump_m:",
            why="a phone may come closer faster than anyone moves",
        ),
    ],
)
def advanced_to_the_door(seed: int) -> None:
    async def attack(car: Scene) -> None:
        chance = random.Random(seed)
        owner = car.phone()
        owner.station.at_m = (chance.uniform(-3.0, 3.0), DOOR_M[1] + 11.0)
        await owner.connect()
        await asyncio.sleep(4.0)
        car.air.attacks.append(Masked(car, owner.station.at_m, DOOR_M))
        await asyncio.sleep(6.0)

    played(seed, attack, mode=ProximityMode.PASSIVE_APPROACH)


@case(
    22,
    "a phone that begins again at an STS index that was used is not ranged",
    source="security 5, case 22: STS replay; Aliro 1.0 §11.1.1.4",
    broken=[
        Broken(
            module="dkey.ranging.setup",
            old="else least <= index < INDEX_LIMIT",
            new="else 0 <= index < INDEX_LIMIT",
            why="setup takes any index after the first",
            also=(
                Edit(
                    module="dkey.ranging.ursk_life",
                    old="        if self._next is not None and index < self._next:",
                    new="        if self._next is not None and index < 0:",
                ),
            ),
        ),
    ],
)
def replayed_index(seed: int) -> None:
    chance = random.Random(seed)
    first = chance.randrange(2**20, 2**29)
    vehicle, air = RangingVehicle(UciHost(), responders=6), UwbAir(seed=seed)
    chip = UwbSubsystem(air, Station())
    ursk = Secret(chance.randbytes(32))
    vehicle.start(0.0)
    _pump(vehicle, chip, 0.0)
    vehicle.open(1, ursk, 0.0)
    begun = _begin(vehicle, chip, 0.0, first)
    assert len(begun) == 1, "an honest phone is not ranged"
    vehicle.received(1, Ranging(kind=RangingKind.SUSPENDED), 1.0)
    replayed = _begin(vehicle, chip, 2.0, first - chance.randrange(1000))
    assert replayed == [], "a phone ranges under STS indices that were used"


def _begin(vehicle: RangingVehicle, chip: UwbSubsystem, now_s: float, index: int) -> list[Began]:
    """Play the phone's part of setup by hand."""
    time_us = round(now_s * 1e6)
    sync = TimeSync(
        event_count=0,
        device_time_us=time_us,
        uncertainty=80,
        skew_available=0,
        max_ppm=0,
        success=1,
        retry_delay_ms=0,
    )
    selection = RangingSelection(
        configs=(0,),
        pulse_shapes=(0,),
        channels=2,
        sync_mask=0x00FFFF00,
        ran_multiplier=1,
        slot_mask=1,
        hopping=0x48,
    )
    start = RangingStart(sts_index0=index, uwb_time0_us=time_us + 100_000, hop_key=7, sync_index=9)
    events = [
        *vehicle.received(1, sync.content(), now_s),
        *(vehicle.received(1, Ranging(kind=RangingKind.INITIATE), now_s) if now_s else ()),
        *vehicle.received(1, selection.content(), now_s),
        *vehicle.received(1, start.content(), now_s),
    ]
    _pump(vehicle, chip, now_s)
    return [each for each in events if isinstance(each, Began)]


def _pump(vehicle: RangingVehicle, chip: UwbSubsystem, now_s: float) -> None:
    for _ in range(20):
        for packet in vehicle.outbox():
            chip.feed(packet)
        data = chip.take()
        while data:
            size = packet_size(data[:HEADER_SIZE])
            vehicle.receive(data[:size], now_s)
            data = data[size:]
