"""Unlocking over BLE against bleak and bare messages, pairing CPU, fifty phones at one vehicle.

Everything runs in one process on the virtual air, on real entropy. What each figure means is in
``bench/README.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, thread_time
from typing import TYPE_CHECKING

from _ble_world import ADVERT_MS, BareWorld, BleFloor, Ether, Record, World
from _pair import ENTROPY
from _report import Figure, Samples, progress, report, slice_medians, spread

from dkey.access.enrolled import Flow
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.lifecycle.features import Capabilities, Feature
from dkey.pairing.owner import (
    Cost,
    OwnerPairingDevice,
    OwnerPairingVehicle,
    PairedVehicle,
    Stretch,
    one_time_code,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from _ble_world import Exchange

    from dkey.crypto.spake2plus import Registration
    from dkey.pairing.owner_messages import DeviceKey

FLOWS = (Flow.FAST, Flow.STANDARD)
LIMIT_PERCENT = 20
PHONES = 50
WARM_UP = 3
SEED = 1


# ---- figures 1 to 3: from a disconnected agent to UNLOCKED --------------------------------------


class Unlocks:
    """Unlocks of both flows, and bare flows of the same messages with and without the crypto.

    Args:
        world: A vehicle and one phone.
        bare: The bare flow's.
    """

    def __init__(self, world: World, bare: BareWorld) -> None:
        self.records: dict[Flow, list[Exchange]] = {}
        self._world, self._bare = world, bare
        self._phone = world.phones[0]
        self._floor = BleFloor()
        self._chance = random.Random(SEED)
        self._ethers = {
            "flow": Ether(world.air, "vehicle", self._phone.device, "phone-0"),
            "bare": Ether(bare.air, "vehicle", bare.phone, "phone-0"),
        }

    async def record(self) -> None:
        """Take down the messages of one unlock of each flow."""
        for flow in (Flow.STANDARD, Flow.FAST):
            tap = Record()
            await self._unlock(flow, 0.0, tap)
            self.records[flow] = tap.exchanges

    async def rounds(self, samples: int, *, prompt: bool) -> Samples:
        """Time so many rounds, seconds; the kinds take turns in every order.

        Args:
            samples: Rounds.
            prompt: Whether an advertisement comes as soon as somebody waits for it.
        """
        for each in self._ethers.values():
            each.prompt = prompt
        times: Samples = {}
        orders = [*permutations(("flow", "bare", "crypto") if prompt else ("flow", "bare"))]
        for number in range(-WARM_UP, samples):
            phase_s = self._chance.uniform(0.0, ADVERT_MS / 1e3)
            for flow in FLOWS:
                for kind in orders[number % len(orders)]:
                    taken = await self._once(flow, kind, phase_s)
                    if number >= 0:
                        for name, seconds in taken.items():
                            times.setdefault(f"{flow.value} {name}", []).append(seconds)
        return times

    async def _once(self, flow: Flow, kind: str, phase_s: float) -> dict[str, float]:
        if kind == "flow":
            return await self._unlock(flow, phase_s)
        turns: Iterator[None] = self._floor.ble_turns(flow) if kind == "crypto" else iter(())
        await self._settled("bare", phase_s)
        taken_s, cpu_s = await self._bare.unlock(self.records[flow], turns)
        return {kind: taken_s, f"{kind} cpu": cpu_s}

    async def _unlock(
        self, flow: Flow, phase_s: float, tap: Record | None = None
    ) -> dict[str, float]:
        world, phone = self._world, self._phone
        if flow is Flow.STANDARD:
            phone.forget_fast()
        world.lock()
        agent = phone.agent(tap)
        await self._settled("flow", phase_s)
        world.commits_s = 0.0
        began, began_cpu = perf_counter(), process_time()
        outcome = await agent.unlock()
        ended, ended_cpu = perf_counter(), process_time()
        assert outcome.fast is (flow is Flow.FAST)
        assert not world.vehicle.body.locked
        commits_s, marks = world.commits_s, phone.marks
        await agent.aclose()
        return {
            "flow": ended - began,
            "flow cpu": ended_cpu - began_cpu,
            "commits": commits_s,
            "find and connect": marks["connected"] - began,
            "transaction": marks["authenticated"] - marks["connected"],
            "command": ended - marks["authenticated"],
        }

    async def _settled(self, which: str, phase_s: float) -> None:
        ether = self._ethers[which]
        await ether.quiet()
        if not ether.prompt:
            await ether.after_advert(phase_s)


def _share(
    times: Samples, flow: Flow, below: Callable[[int], float], unit: str = "", **said: object
) -> Figure:
    """Return our share above ``below``, in percent of the bare flow; neighbours are subtracted."""
    whole, bare = times[f"{flow.value} flow{unit}"], times[f"{flow.value} bare{unit}"]
    extra = [each - below(number) for number, each in enumerate(whole)]
    slices = zip(slice_medians(extra), slice_medians(bare), strict=True)
    return Figure(
        value=median(extra) / median(bare) * 100,
        unit="%",
        samples=len(whole),
        spread=spread([above / base * 100 for above, base in slices]),
        **said,  # type: ignore[arg-type]
    )


def _shares(flow: Flow, prompt: Samples, radio: Samples) -> list[Figure]:
    bare, crypto, commits = (
        prompt[f"{flow.value} {name}"] for name in ("bare", "crypto", "commits")
    )

    crypto_cpu = prompt[f"{flow.value} crypto cpu"]

    def ms(times: Samples, name: str) -> str:
        return f"{median(times[f'{flow.value} {name}']) * 1e3:.2f}"

    parts = ("find and connect", "transaction", "command")
    note = (
        f"unlock {ms(prompt, 'flow')} ms ("
        + ", ".join(f"{each} {ms(prompt, each)}" for each in parts)
        + f"; durable writes {ms(prompt, 'commits')} of it), bare {ms(prompt, 'bare')} ms, "
        f"bare with the bare crypto {ms(prompt, 'crypto')} ms"
    )
    floor = (
        "bleak's scan, connect and discovery, an L2CAP channel and the recorded messages of the "
        "same unlock, to a responder that answers from the record"
    )
    title = f"{flow.value} unlock above bleak"
    seen = radio[f"{flow.value} bare"]
    return [
        _share(
            radio,
            flow,
            lambda number: seen[number],
            name=f"{title}, on the air",
            floor=f"{floor}; both wait for the vehicle's advertisements, every {ADVERT_MS:g} ms",
            limit=LIMIT_PERCENT,
            note=f"unlock {ms(radio, 'flow')} ms, bare {ms(radio, 'bare')} ms",
        ),
        _share(
            prompt,
            flow,
            lambda number: bare[number],
            name=f"{title}, no waiting",
            floor=f"{floor}; an advertisement comes as soon as somebody waits for it",
            limit=LIMIT_PERCENT,
            note=note,
        ),
        _share(
            prompt,
            flow,
            lambda number: crypto[number],
            name=f"{title}, no waiting, without crypto",
            floor="the same, in which both ends also run the crypto floor, where the product runs "
            "it; in percent of the bare flow without",
            limit=LIMIT_PERCENT,
            note=note,
        ),
        _share(
            prompt,
            flow,
            lambda number: crypto[number] + commits[number],
            name=f"{title}, without crypto and disk",
            floor="the same, and the time of the durable writes of both sides taken off",
            note=note,
        ),
        _share(
            prompt,
            flow,
            lambda number: crypto_cpu[number],
            unit=" cpu",
            name=f"{title}, CPU, without crypto",
            floor="the same as without crypto, in CPU time of the process, which other work on "
            "the machine and waiting for the disk change little",
            note=f"CPU: unlock {ms(prompt, 'flow cpu')} ms, bare {ms(prompt, 'bare cpu')} ms, "
            f"bare with the bare crypto {ms(prompt, 'crypto cpu')} ms",
        ),
    ]


def _round_trips(flow: Flow, exchanges: list[Exchange]) -> Figure:
    trips = float(len(exchanges))
    sizes = " ".join(
        f"{len(each.request)}>" + "+".join(str(len(answer)) for answer in each.answers)
        for each in exchanges
    )
    return Figure(
        name=f"message round trips of a {flow.value} unlock",
        value=trips,
        unit="trips",
        floor="nothing: counted on the link, from Initiate AP to the verdict",
        samples=1,
        spread=(trips, trips),
        note=f"bytes of request and answers: {sizes}; before them bleak's connect and discovery, "
        "one read, one write and the channel",
    )


async def unlocks(samples: int, folder: Path) -> list[Figure]:
    bare = BareWorld()
    await bare.start()
    try:
        async with World.running(folder, 1) as world:
            measuring = Unlocks(world, bare)
            await measuring.record()
            progress(f"unlocks, {samples} of each kind, advertisements come at once")
            prompt = await measuring.rounds(samples, prompt=True)
            few = max(10, samples // 3)
            progress(f"unlocks, {few} of each kind, advertisements every {ADVERT_MS:g} ms")
            radio = await measuring.rounds(few, prompt=False)
    finally:
        bare.close()
    figures = [figure for flow in FLOWS for figure in _shares(flow, prompt, radio)]
    return figures + [_round_trips(flow, measuring.records[flow]) for flow in FLOWS]


# ---- figure 4: owner pairing ------------------------------------------------------------------


class _Kept:
    """A register that keeps nothing, so that no disk is in the figure."""

    def __init__(self, vehicle: PairedVehicle) -> None:
        self._vehicle = vehicle

    def count_try(self) -> None:
        pass

    def admit(self, device: DeviceKey) -> PairedVehicle:
        del device
        return self._vehicle

    def enrol(self) -> None:
        pass


def _paired(stretch: Stretch, registration: Registration) -> tuple[float, float]:
    """Pair once; return the CPU seconds of phone and vehicle, scrypt left out."""
    used = {"phone": 0.0, "vehicle": 0.0}
    vault = MemoryVault(key=PrivateKey.generate())
    public_key = PrivateKey.generate().public
    capabilities = Capabilities(nfc=True, ble=True, uwb=True, os="android 14")

    def timed(side: str, work: Callable[[], object]) -> object:
        began = thread_time()
        result = work()
        used[side] += thread_time() - began
        return result

    granted = PairedVehicle(
        group_id=ENTROPY.random(16),
        public_key=public_key,
        resolving_key=Secret(ENTROPY.random(16)),
        owner_epoch=1,
        features=frozenset(Feature),
        key_name="0011223344556677",
    )
    record = timed("vehicle", registration.record)
    vehicle = OwnerPairingVehicle(
        record=record,  # type: ignore[arg-type]
        salt=stretch.salt,
        cost=stretch.cost,
        register=_Kept(granted),
        entropy=ENTROPY,
    )
    phone = OwnerPairingDevice(vault=vault, key="key", capabilities=capabilities, entropy=ENTROPY)
    said: object = timed("phone", phone.begin)
    while isinstance(said, bytes):
        answer = timed("vehicle", partial(vehicle.step, said))
        assert isinstance(answer, bytes)
        said = timed("phone", partial(phone.step, answer))
        if isinstance(said, Stretch):
            said = timed("phone", partial(phone.stretched, registration))
    assert phone.done
    assert vehicle.done
    return used["phone"], used["vehicle"]


def pairing(samples: int) -> list[Figure]:
    progress(f"owner pairing, {samples} times")
    stretch = Stretch(salt=ENTROPY.random(16), cost=Cost())
    began = thread_time()
    registration = stretch.run(one_time_code(ENTROPY))
    scrypt_ms = (thread_time() - began) * 1e3
    for _ in range(WARM_UP):
        _paired(stretch, registration)
    sides = zip(*(_paired(stretch, registration) for _ in range(samples)), strict=True)
    return [
        Figure(
            name=f"owner pairing, CPU of the {name}",
            value=median(taken) * 1e3,
            unit="ms",
            floor="nothing: CPU time of the thread in the procedure, without scrypt, link and disk",
            limit=10,
            samples=samples,
            spread=spread([each * 1e3 for each in slice_medians(taken)]),
            note=f"slowest {max(taken) * 1e3:.2f} ms; scrypt once {scrypt_ms:.0f} ms",
        )
        for name, taken in zip(("phone", "vehicle"), sides, strict=True)
    ]


# ---- figure 5: fifty phones -------------------------------------------------------------------


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmRSS"].split()[0]) / 1024


@dataclass(slots=True)
class _Crowd:
    """What was measured of phones that are connected at once; seconds and MB."""

    unlocks_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    connecting_s: float = 0.0
    memory_mb: list[float] = field(default_factory=list)


async def _gather(phones: int, rounds: int, folder: Path) -> _Crowd:
    """Connect all phones, then let each unlock in turn, so many rounds."""
    found = _Crowd()
    async with World.running(folder, phones) as world:
        agents = [each.agent() for each in world.phones]
        found.memory_mb.append(_resident_mb())
        began = perf_counter()
        for agent in agents:
            status = await agent.status()
            assert status.reached, status.error
        found.connecting_s = perf_counter() - began
        assert len(world.radio.peers) == len(world.desk.phones) == phones
        found.memory_mb.append(_resident_mb())
        for agent in agents * rounds:
            world.lock()
            await world.told("locked")
            began, began_cpu = perf_counter(), process_time()
            await agent.unlock()
            found.unlocks_s.append(perf_counter() - began)
            found.cpu_s.append(process_time() - began_cpu)
            assert not world.vehicle.body.locked
            await world.told("unlocked")
            found.told_s.append(perf_counter() - began)
        assert len(world.radio.peers) == phones
        found.memory_mb.append(_resident_mb())
        for agent in agents:
            await agent.aclose()
    return found


def _p99_ms(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)] * 1e3


async def crowd(rounds: int, folder: Path) -> list[Figure]:
    progress(f"{PHONES} phones, {rounds} unlocks each")
    alone = await _gather(1, max(20, rounds * PHONES // 5), folder / "one")
    many = await _gather(PHONES, rounds, folder / "crowd")
    made_mb, connected_mb, after_mb = many.memory_mb
    return [
        Figure(
            name=f"unlock with {PHONES} phones connected, p99",
            value=_p99_ms(many.unlocks_s),
            unit="ms",
            floor="nothing: from the wish to the verdict on a connection that is up, while all "
            "phones are told that the doors opened",
            samples=len(many.unlocks_s),
            spread=spread([each * 1e3 for each in slice_medians(many.unlocks_s)]),
            note=f"median {median(many.unlocks_s) * 1e3:.2f} ms, slowest "
            f"{max(many.unlocks_s) * 1e3:.0f} ms; CPU median {median(many.cpu_s) * 1e3:.2f} ms, "
            f"p99 {_p99_ms(many.cpu_s):.2f} ms; the last phone was told after "
            f"{median(many.told_s) * 1e3:.1f} ms, median; one phone alone: median "
            f"{median(alone.unlocks_s) * 1e3:.2f} ms, CPU {median(alone.cpu_s) * 1e3:.2f} ms; "
            f"connected one after another in {many.connecting_s:.1f} s. The spread is of medians",
        ),
        Figure(
            name=f"memory of {PHONES} connected phones",
            value=after_mb - made_mb,
            unit="MB",
            floor="growth of VmRSS from the phones' hosts, stores and agents being made to all "
            "having unlocked: links and sessions of phone and vehicle sides together",
            samples=1,
            spread=(connected_mb - made_mb, after_mb - made_mb),
            note=f"process {made_mb:.1f} MB before, {connected_mb:.1f} MB connected, "
            f"{after_mb:.1f} MB after {len(many.unlocks_s)} unlocks; an upper bound for the "
            "vehicle, as the phones' ends are in the same process",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--samples", type=int, help="unlocks of each kind")
    chosen = parser.parse_args(arguments)
    samples = chosen.samples or (40 if chosen.quick else 200)
    if samples < 10:
        parser.error("--samples is at least 10")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = asyncio.run(unlocks(samples, folder / "unlocks"))
        figures += pairing(max(20, samples))
        figures += asyncio.run(crowd(2 if chosen.quick else 10, folder / "crowd"))
    report("ble", figures, as_json=chosen.json)


if __name__ == "__main__":
    main()
