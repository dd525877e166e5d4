"""Any order of use, restarts and power cuts against a model of what a side must remember."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dkey.errors import PolicyRefusal, RefusalCode, StoreError
from dkey.lifecycle.slots import (
    PeerSeen,
    free_slot,
    peer_last_seen,
    remember_peer,
    slots,
    take_slot,
)

from .conftest import MEMORY
from .powercut import Outage
from .side import Side, make

BODIES = st.lists(st.binary(max_size=600), min_size=1, max_size=4)
SHARES = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
PEERS = st.sampled_from([b"vehicle", b"phone"])
MARKS = st.builds(
    PeerSeen, epoch=st.integers(min_value=0, max_value=3), number=st.integers(0, 2**63 - 1)
)


@dataclass(frozen=True)
class Model:
    """What the side must remember."""

    entries: tuple[bytes, ...] = ()
    snapshot: tuple[int, bytes] | None = None
    slots: dict[int, bytes] = field(default_factory=dict)
    peers: dict[bytes, PeerSeen] = field(default_factory=dict)


def told(side: Side) -> Model:
    """What it remembers."""
    state, after = side.ledger.restored()
    entries = tuple(side.bodies())
    assert tuple(entry.body for entry in after) == entries[len(entries) - len(after) :]
    seen = {peer: peer_last_seen(side.file, peer) for peer in (b"vehicle", b"phone")}
    return Model(
        entries=entries,
        snapshot=None if state is None else (len(entries) - len(after), state),
        slots=dict(slots(side.file)),
        peers={peer: mark for peer, mark in seen.items() if mark is not None},
    )


class Undo(Exception):
    """A caller changes its mind within a transaction."""


class LedgerMachine(RuleBasedStateMachine):
    """One side on a disk that loses its power now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.path = make(self.folder / "side.db")
        self.model = Model()
        self.lives = 0
        self.side = None

    def teardown(self) -> None:
        if self.side is not None:
            self.side.file.close()
            self.outage.disk.unregister()
        shutil.rmtree(self.folder)

    @initialize(seed=st.integers(0, 2**32), within=st.integers(2, 400))
    def power_on(self, seed: int, within: int) -> None:
        self.seed, self.within = seed, within
        self.start()

    def start(self) -> None:
        """Open the store; a cut during this leaves what was there."""
        while self.side is None:
            self.lives += 1
            self.outage = Outage((self.seed, self.lives), within=self.within + 60 * self.lives)
            try:
                self.side = Side(
                    self.path, seed=(self.seed, self.lives), connect=self.outage.connect
                )
            except (StoreError, sqlite3.Error):
                assert self.outage.disk.dead
                self.cut()

    def cut(self) -> None:
        with self.outage:
            self.side = None

    def commit(self, work, after: Model) -> None:
        """Do ``work`` in a transaction that leads to ``after``, or in which the power is cut."""
        try:
            with self.side.file.transaction():
                work()
        except StoreError:
            assert self.outage.disk.dead
            self.cut()
            self.start()
            assert told(self.side) in (self.model, after)
            self.model = told(self.side)
        else:
            self.model = after

    @rule(bodies=BODIES)
    def append(self, bodies: list[bytes]) -> None:
        def work() -> None:
            for body in bodies:
                self.side.ledger.append("share", body)

        self.commit(work, replace(self.model, entries=(*self.model.entries, *bodies)))

    @rule(bodies=BODIES, state=st.binary(max_size=5000))
    def append_and_snapshot(self, bodies: list[bytes], state: bytes) -> None:
        def work() -> None:
            for body in bodies:
                self.side.ledger.append("share", body)
            self.side.ledger.snapshot(state)

        entries = (*self.model.entries, *bodies)
        self.commit(work, replace(self.model, entries=entries, snapshot=(len(entries), state)))

    @rule(body=st.binary(max_size=100), share=SHARES)
    def undo(self, body: bytes, share: bytes) -> None:
        def torn() -> None:
            with self.side.file.transaction():
                self.side.ledger.append("share", body)
                free_slot(self.side.file, share)
                raise Undo

        with pytest.raises(Undo):
            torn()

    @rule(share=SHARES)
    def take(self, share: bytes) -> None:
        taken = self.model.slots
        free = [slot for slot in (1, 2, 3) if slot not in taken]
        if share not in taken.values() and not free:
            with self.side.file.transaction(), pytest.raises(PolicyRefusal) as caught:
                take_slot(self.side.file, share)
            assert caught.value.code is RefusalCode.SHARE_LIMIT
            return
        after = taken if share in taken.values() else {**taken, free[0]: share}
        self.commit(lambda: take_slot(self.side.file, share), replace(self.model, slots=after))

    @rule(share=SHARES)
    def give_back(self, share: bytes) -> None:
        after = {slot: each for slot, each in self.model.slots.items() if each != share}
        self.commit(lambda: free_slot(self.side.file, share), replace(self.model, slots=after))

    @rule(peer=PEERS, mark=MARKS)
    def meet(self, peer: bytes, mark: PeerSeen) -> None:
        known = self.model.peers.get(peer)
        if known is not None and mark < known:
            with self.side.file.transaction(), pytest.raises(PolicyRefusal) as caught:
                remember_peer(self.side.file, peer, mark)
            assert caught.value.code is RefusalCode.REPLAY
            return
        after = replace(self.model, peers={**self.model.peers, peer: mark})
        self.commit(lambda: remember_peer(self.side.file, peer, mark), after)

    @rule()
    def lose_power(self) -> None:
        self.cut()
        self.start()

    @rule()
    def close_and_open(self) -> None:
        self.side.file.close()
        self.cut()  # what a closed store left in the cache is lost at the worst moment
        self.start()

    @invariant()
    def it_tells_what_was_acknowledged(self) -> None:
        if self.side is not None:
            assert told(self.side) == self.model
            self.side.ledger.verify()


LedgerMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedgerMachine = LedgerMachine.TestCase
