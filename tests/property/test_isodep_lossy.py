"""Both ends of ISO-DEP over an air that loses, damages, doubles and delays frames, in order.

Whatever happens, a command is answered exactly or ends in LinkError, and runs at most once.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass

import pytest

from dkey.errors import LinkError, LinkReason
from dkey.link.isodep import activate
from dkey.link.isodep_blocks import FSC_SIZES
from dkey.link.isodep_target import IsoDepTarget

BATCHES, RUNS, COMMANDS = 15, 100, 5
SHORT_ATS = {2: ("01",), 8: ("0208", "032880", "04288031")}


@dataclass(frozen=True)
class Faults:
    lose: float = 0.0
    damage: float = 0.0
    double: float = 0.0
    delay: float = 0.0


class Air:
    """First in, first out both ways, as in a field: what is late stays in order."""

    def __init__(self, device, chance, faults, seen):
        self.device, self.chance, self.faults, self.seen = device, chance, faults, seen
        self.up, self.down = deque(), deque()

    def hits(self, name):
        hit = self.chance.random() < getattr(self.faults, name)
        self.seen[name] += hit
        return hit

    def exchange(self, frame):
        if not (self.hits("lose") or self.hits("damage")):
            self.up.extend([frame] * (1 + self.hits("double")))
        if not self.hits("delay"):
            while self.up:
                self.answered(self.device(self.up.popleft()))
        if not self.down or self.hits("delay"):
            return None
        return self.down.popleft()

    def answered(self, answer):
        if answer is None or self.hits("lose"):
            return
        self.down.extend([None if self.hits("damage") else answer] * (1 + self.hits("double")))


def drive(procedure, exchange):
    frames = 0
    try:
        transmit = next(procedure)
        while True:
            frames += 1
            assert frames < 20_000, "the procedure does not end"
            assert transmit.timeout_s <= 3.2
            transmit = procedure.send(exchange(transmit.frame))
    except StopIteration as finished:
        return finished.value


def attempt(procedure, exchange):
    try:
        return drive(procedure, exchange)
    except LinkError as error:
        return error


def respond(command):
    """Return the one right response to ``command``: any length, different for each command."""
    chance = random.Random(command)
    return (
        chance.randbytes(chance.choice([0, 1, 13, 61, 253, 254, 700])) + command[:4] + b"\x90\x00"
    )


class Device:
    """An ISO-DEP target that counts what it runs and asks for time by chance."""

    def __init__(self, chance):
        self.chance = chance
        self.runs = Counter()
        fsci = chance.randrange(9)
        self.short = chance.choice(SHORT_ATS.get(fsci, ("",))) if chance.random() < 0.5 else ""
        self.target = IsoDepTarget(self.answer, fsci=fsci, fwi=chance.randrange(7))

    def answer(self, command):
        self.runs[command] += 1
        if self.chance.random() < 0.5:
            return respond(command)
        return self.after_a_while(command)

    def after_a_while(self, command):
        for _ in range(self.chance.randrange(4)):
            yield self.chance.randrange(1, 4)
        return respond(command)

    def receive(self, frame):
        answer = self.target.receive(frame)
        return bytes.fromhex(self.short) if self.short and answer == self.target.ats else answer


def one_run(seed, seen):
    chance = random.Random(seed)
    level = chance.choice([0.0, 0.02, 0.05, 0.1, 0.2])
    faults = Faults(*(level * chance.random() for _ in range(4)))
    device = Device(chance)
    max_frame = chance.choice([*FSC_SIZES, 252])
    initiator = None
    for index in range(COMMANDS):
        if initiator is None:
            device.target.reset()
            # An ATS has no block number, so before activation frames are lost, not late.
            air = Air(device.receive, chance, Faults(lose=faults.lose), seen)
            try:
                initiator = drive(activate(max_frame=max_frame), air.exchange)
            except LinkError:
                continue
            air = Air(device.receive, chance, faults, seen)
        command = index.to_bytes(4, "big") + chance.randbytes(chance.choice([1, 9, 60, 300, 900]))
        outcome = attempt(initiator.transceive(command), air.exchange)
        if isinstance(outcome, LinkError):
            assert outcome.hint
            assert outcome.reason in (LinkReason.LOST, LinkReason.PROTOCOL, LinkReason.TIMEOUT)
            initiator = None
            seen["failed"] += 1
            continue
        assert outcome == respond(command)
        assert device.runs[command] == 1
        seen["exact"] += 1
        if chance.random() < 0.2:
            drive(initiator.present(), air.exchange)
    assert max(device.runs.values(), default=0) <= 1


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_answer_is_exact_or_an_error_and_nothing_runs_twice(batch):
    seen = Counter()
    for seed in range(batch * RUNS, (batch + 1) * RUNS):
        one_run(seed, seen)
    # The runs are worth something only if the faults happened and most were repaired.
    assert min(seen[name] for name in ("lose", "damage", "double", "delay")) > 50
    assert seen["exact"] > 0.8 * (seen["exact"] + seen["failed"])


@pytest.mark.parametrize("seed", range(20))
def test_a_storm_of_requests_for_time_ends_over_a_lossy_air(seed):
    chance = random.Random(seed)

    def storm(_command):
        while True:
            yield chance.randrange(1, 60)

    target = IsoDepTarget(storm, fwi=chance.randrange(15))
    initiator = drive(activate(), target.receive)
    air = Air(target.receive, chance, Faults(lose=0.05, double=0.1, delay=0.1), Counter())
    with pytest.raises(LinkError) as caught:
        drive(initiator.transceive(b"\x00\xa4\x04\x00"), air.exchange)
    assert caught.value.reason in (LinkReason.TIMEOUT, LinkReason.LOST)


@pytest.mark.parametrize("seed", range(100))
def test_without_faults_every_size_gets_through(seed):
    chance = random.Random(seed)
    device = Device(chance)
    initiator = drive(activate(max_frame=chance.choice(FSC_SIZES)), device.receive)
    for index in range(5):
        command = index.to_bytes(4, "big") + chance.randbytes(chance.randrange(2000))
        assert drive(initiator.transceive(command), device.receive) == respond(command)
