"""The life of keys: decisions of the policy, its exhaustive check, and the ledger that is kept.

What each figure means is in ``bench/README.md``. The files lie in ``--folder``, by default the
directory for temporary files: a commit on a RAM disk says nothing about one on a disk.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time
from typing import TYPE_CHECKING

from _decisions import decisions
from _report import Figure, Samples, progress, report, slice_medians, spread

from dkey.conformance.lifecycle_check import check
from dkey.crypto.entropy import SystemEntropy
from dkey.crypto.secret import Secret
from dkey.lifecycle.durable import DurableFile, Layout
from dkey.lifecycle.ledger import Ledger
from dkey.lifecycle.ledger_schema import (
    LEDGER_COLUMNS,
    LEDGER_GAPS,
    LEDGER_SCHEMA,
    check_ledger,
)
from dkey.lifecycle.ring import apply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH = 25
"""Commits in a row before the other subject has its turn."""
PARTS = 10
"""Parts of a run of decisions; other work on the machine seldom meets all of them."""
BODY = 200
"""Bytes in an entry: about an attestation without its certificates."""
SEAL, RUNNING = 28, 32
"""What an entry has besides its body: nonce and tag, running digest."""
TAIL = 100
"""Entries behind the last snapshot when a ledger is opened."""
KEY = Secret(bytes(range(32)))
LAYOUT = Layout(
    what="a ledger",
    application_id=0x646B_6265,
    migrations=(LEDGER_SCHEMA,),
    columns=LEDGER_COLUMNS,
    gaps=(LEDGER_GAPS,),
    restore="run again",
    checks=(check_ledger,),
)


def opened(path: Path) -> tuple[DurableFile, Ledger]:
    file = DurableFile.open(path, LAYOUT)
    return file, Ledger(file, KEY, SystemEntropy())


# ---- append ------------------------------------------------------------------------------------


def _bare(path: Path) -> sqlite3.Connection:
    """Open a database with the same settings and one table of the same row size, no more."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(
        "CREATE TABLE entry (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL,"
        " sealed BLOB NOT NULL, running BLOB NOT NULL) STRICT"
    )
    return db


def appends(folder: Path, samples: int) -> list[Figure]:
    progress(f"appends, {samples} of each kind")
    body, sealed, running = os.urandom(BODY), os.urandom(BODY + SEAL), os.urandom(RUNNING)
    DurableFile.create(folder / "append.db", LAYOUT, lambda _: None)
    file, ledger = opened(folder / "append.db")

    def append() -> None:
        with file.transaction():
            ledger.append("share", body)

    with closing(file), closing(_bare(folder / "bare.db")) as db:

        def commit() -> None:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO entry VALUES (NULL, ?, ?, ?)", ("share", sealed, running))
            db.execute("COMMIT")

        times = in_turn({"append": append, "commit": commit}, samples)
    parts = zip(slice_medians(times["append"]), slice_medians(times["commit"]), strict=True)
    micro = {name: median(each) * 1e6 for name, each in times.items()}
    return [
        Figure(
            name="durable append / bare commit",
            value=micro["append"] / micro["commit"],
            unit="ratio",
            floor="one INSERT of a row of the same size in SQLite, WAL and synchronous=FULL",
            limit=1.3,
            samples=samples,
            spread=spread([a / b for a, b in parts]),
            note=f"append {micro['append']:.0f} us, bare commit {micro['commit']:.0f} us; "
            f"a body of {BODY} bytes",
        )
    ]


def in_turn(subjects: dict[str, Callable[[], None]], samples: int) -> Samples:
    """Time each call of each subject, seconds; small batches in turn, every other time reversed."""
    times: Samples = {name: [] for name in subjects}
    order = [*subjects]
    for work in subjects.values():
        for _ in range(BATCH):
            work()
    while len(times[order[0]]) < samples:
        for name in order:
            for _ in range(BATCH):
                began = perf_counter()
                subjects[name]()
                times[name].append(perf_counter() - began)
        order.reverse()
    return times


# ---- open and growth ---------------------------------------------------------------------------


def _filled(path: Path, count: int) -> None:
    """Make a ledger of ``count`` entries with a snapshot ``TAIL`` before the end, closed."""
    DurableFile.create(path, LAYOUT, lambda _: None)
    file, ledger = opened(path)
    body, state = os.urandom(BODY), os.urandom(4096)
    with closing(file), file.transaction():
        for number in range(1, count + 1):
            ledger.append("share", body)
            if number == count - TAIL:
                ledger.snapshot(state)


def _open_ms(path: Path) -> float:
    began = perf_counter()
    file, _ = opened(path)
    taken = perf_counter() - began
    file.close()
    return taken * 1e3


def openings(folder: Path, samples: int) -> list[Figure]:
    figures = []
    sizes = {}
    for count, limit in ((1_000, None), (10_000, None), (100_000, 300.0)):
        progress(f"a ledger of {count:,} entries, opened {samples} times")
        path = folder / f"{count}.db"
        _filled(path, count)
        sizes[count] = path.stat().st_size
        _open_ms(path)  # warms the file cache
        taken = [_open_ms(path) for _ in range(samples)]
        figures.append(
            Figure(
                name=f"open a store with {count:,} entries",
                value=median(taken),
                unit="ms",
                floor="nothing: DurableFile.open with all its checks, every entry against the "
                f"running digest, the snapshot and the {TAIL} entries after it opened",
                limit=limit,
                samples=samples,
                spread=spread(taken),
                note=f"the file has {sizes[count] / 1e6:.2f} MB",
            )
        )
    grown = (sizes[100_000] - sizes[10_000]) / 90_000
    figures.append(
        Figure(
            name="growth for each entry / its body",
            value=grown / BODY,
            unit="ratio",
            floor=f"the {BODY} bytes of the body",
            samples=90_000,
            spread=(grown / BODY, grown / BODY),
            note=f"{grown:.0f} bytes; of which nonce and tag {SEAL}, running digest {RUNNING}",
        )
    )
    return figures


# ---- policy ------------------------------------------------------------------------------------


def policy(samples: int) -> list[Figure]:
    """Time every kind of decision, in turn; the best part of the run counts for each kind."""
    kinds = decisions()
    progress(f"{len(kinds)} kinds of decisions, {samples} of each")
    parts: list[dict[str, float]] = []
    for _ in range(PARTS):
        medians = {}
        for name, ring, command, at_s in kinds:
            times = []
            for _ in range(samples // PARTS):
                began = perf_counter()
                apply(ring, command, at_s=at_s)
                times.append(perf_counter() - began)
            medians[name] = median(times) * 1e6
        parts.append(medians)
    best = {name: min(part[name] for part in parts) for name in parts[0]}
    ordered = sorted(best, key=lambda name: best[name])
    slowest = ordered[-1]
    floor = "nothing: the ring after one command, on a ring with every place taken"
    ranking = ", ".join(f"{name} {best[name]:.1f}" for name in reversed(ordered[-5:]))
    return [
        Figure(
            name="policy decision, mean of all kinds",
            value=mean(best.values()),
            unit="us",
            floor=floor,
            limit=20.0,
            samples=samples * len(kinds),
            spread=spread([mean(part.values()) for part in parts]),
            note=f"{len(kinds)} kinds; the quickest is {ordered[0]}, {best[ordered[0]]:.1f} us",
        ),
        Figure(
            name="policy decision, slowest kind",
            value=best[slowest],
            unit="us",
            floor=floor,
            limit=20.0,
            samples=samples,
            spread=spread([part[slowest] for part in parts]),
            note=f"us: {ranking}",
        ),
    ]


def exhaustive(depth: int | None) -> list[Figure]:
    """Time the exhaustive check of all worlds, each to its own depth, or to a smaller one."""
    progress("the exhaustive check")
    began, worked = perf_counter(), process_time()
    report = check(depth)
    taken, work = perf_counter() - began, process_time() - worked
    said = "no promise broken" if report.violation is None else f"BROKEN: {report.violation}"
    return [
        Figure(
            name="exhaustive check, CPU" + (f", {depth} events deep" if depth else ""),
            value=work,
            unit="s",
            floor="nothing: every order of events in every world, to the depth that CI runs",
            limit=60.0,
            samples=1,
            spread=(work, work),
            note=f"{report.states:,} states in {len(report.worlds)} worlds, {taken:.1f} s by the "
            f"clock on one processor; {said}",
        )
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--folder", type=Path, help="where the files lie: a disk, not a RAM disk")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        subjects = (
            lambda: policy(500 if chosen.quick else 3000),
            lambda: exhaustive(3 if chosen.quick else None),
            # a subject of the lifecycle that lies elsewhere adds its line here
            lambda: appends(Path(name), 500 if chosen.quick else 4000),
            lambda: openings(Path(name), 5 if chosen.quick else 15),
        )
        figures = [figure for subject in subjects for figure in subject()]
    report("lifecycle", figures, as_json=chosen.json)


if __name__ == "__main__":
    main()
