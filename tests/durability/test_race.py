"""Eight processes want the last place of a vehicle's shares: one gets it."""

from __future__ import annotations

import multiprocessing
import sqlite3
from contextlib import closing

import pytest

from dkey.lifecycle.slots import slots, take_slot

from .racers import WAIT_S, racer
from .side import Side, copy

RACERS, ROUNDS = 8, 60
REFUSED = "SHARE_LIMIT"


class Field:
    """The racers, started once."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.start = context.Barrier(RACERS)
        self.lines, self.processes = [], []
        for number in range(RACERS):
            ours, theirs = context.Pipe()
            process = context.Process(target=racer, args=(number, theirs, self.start))
            process.start()
            theirs.close()
            self.lines.append(ours)
            self.processes.append(process)

    def race(self, way: str, path: object) -> list[str]:
        for line in self.lines:
            line.send((way, str(path)))
        answers = []
        for line in self.lines:
            assert line.poll(WAIT_S), "a racer does not answer"
            answers.append(line.recv())
        return answers

    def end(self) -> None:
        for line in self.lines:
            line.send(None)
        for process in self.processes:
            process.join(WAIT_S)
        for line in self.lines:
            line.close()


@pytest.fixture(scope="module")
def field():
    racers = Field()
    yield racers
    racers.end()


def test_the_last_place_goes_to_one_racer_in_every_round(field, memory, template):
    for number in range(ROUNDS):
        path = copy(template, memory / f"race-{number}.db")
        before = number % 3  # places taken before the start
        with Side(path) as side, side.file.transaction():
            for share in range(before):
                take_slot(side.file, b"earlier %d" % share)
        answers = field.race("product", path)
        assert sorted(answers) == sorted(
            [f"place {slot}" for slot in range(before + 1, 4)] + [REFUSED] * (RACERS - 3 + before)
        )
        with Side(path) as side:
            side.ledger.verify()
            assert sorted(slots(side.file)) == [1, 2, 3]
            # What the ledger says is what the places say: they are one commit.
            won = [share for share in slots(side.file).values() if share.startswith(b"racer")]
            assert sorted(side.bodies()) == sorted(won)
        path.unlink()


def test_processes_that_append_at_once_make_one_chain(field, memory, template):
    path = copy(template, memory / "chain.db")
    assert field.race("in turn", path) == ["done"] * RACERS
    with Side(path) as side:
        side.ledger.verify()
        bodies = side.bodies()
    for racer_number in range(RACERS):
        mine = [body for body in bodies if body.startswith(b"racer %d " % racer_number)]
        assert mine == [b"racer %d %d" % (racer_number, number) for number in range(20)]
    assert len(bodies) == 20 * RACERS


def test_a_build_that_looks_first_and_writes_later_gives_too_many(field, memory):
    """The control: the racers do meet, so the test above could have failed."""
    path = memory / "naive.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE share (id BLOB)")
        db.execute("INSERT INTO share VALUES ('one'), ('two')")
        db.commit()
        field.race("naive", path)
        assert db.execute("SELECT count(*) FROM share").fetchone() == (2 + RACERS,)
