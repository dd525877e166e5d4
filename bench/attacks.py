"""The attack catalogue at length, and early arrivals against receivers and trust gates.

    python bench/attacks.py [--seeds 200] [--case NAME ...] [--part PART] [--quick] [--json]

The catalogue: every case with many seeds, and every broken build once. The UWB table
(``_uwb.py``): one row for each receiver and setting of the gate. ``--quick`` runs little of both.
Exits 0 when every case holds, every broken build is caught and no door opens, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from _report import Figure, report
from _uwb import Sizes, print_rows, uwb_figures, uwb_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.attacks import REQUIRED, load
from tests.attacks.broken import Foundry

if TYPE_CHECKING:
    from tests.attacks import Case

SEEDS = 200


@dataclass(slots=True)
class Result:
    """How one case did."""

    case: Case
    seeds: int
    failures: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    caught: int = 0
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """``holds``, or what is wrong; ``open`` is a failure that is known and not yet mended."""
        if self.failures:
            return "open" if self.case.finding else "FAILS"
        return "holds" if not self.missed else "BLIND"


def measure(case: Case, foundry: Foundry, seeds: int) -> Result:
    """Run one case with the seeds 1 to ``seeds``, then against its broken builds."""
    result = Result(case, seeds)
    began_s = time.perf_counter()
    for seed in range(1, seeds + 1):
        try:
            case.run(seed)
        except Exception as exc:  # noqa: BLE001 - a crash is a failure of the case, and is shown
            result.failures.append(f"seed {seed}: {type(exc).__name__}: {exc}")
    result.seconds = time.perf_counter() - began_s
    for broken in case.broken:
        outcome = foundry.run(case, broken)
        if outcome.red:
            result.caught += 1
        else:
            first, *rest = outcome.text.strip().splitlines()
            result.missed.append(f"{broken.why}: {' / '.join([first, *rest[-1:]])}")
    return result


def figure(name: str, value: int, limit: int, floor: str, samples: int) -> Figure:
    """Return one figure of the report: a count of which nothing may be missing."""
    return Figure(
        name=name,
        value=value,
        unit="of " + str(limit),
        floor=floor,
        limit=limit,
        better="higher",
        samples=samples,
        spread=(value, value),
    )


def figures(results: list[Result]) -> list[Figure]:
    """Return what the run came to."""
    runs = sum(r.seeds for r in results)
    builds = sum(len(r.case.broken) for r in results)
    held = sum(not r.failures for r in results)
    good = runs - sum(len(r.failures) for r in results)
    caught = sum(r.caught for r in results)
    numbers = {r.case.number for r in results} & set(REQUIRED)
    bad = {r.case.number for r in results if r.failures or r.missed}
    every = "the numbers of the catalogue that apply to NFC, cards and touch decisions"
    return [
        figure("cases that hold", held, len(results), "all cases written as code", len(results)),
        figure("seeded runs that hold", good, runs, "all cases with all seeds", runs),
        figure("broken builds caught", caught, builds, "all deliberately broken builds", builds),
        figure("catalogue numbers that hold", len(numbers - bad), len(numbers), every, runs),
    ]


def table(results: list[Result]) -> None:
    """Print the results for people."""
    print(f"{'case':34} {'seeds':>6} {'verdict':8} {'broken':>7} {'seconds':>8}  title")
    for r in results:
        caught = f"{r.caught}/{len(r.case.broken)}"
        print(
            f"{r.case.name:34} {r.seeds:6} {r.verdict:8} {caught:>7} {r.seconds:8.2f}"
            f"  {r.case.title}"
        )
    for r in results:
        finding = (f"known finding: {r.case.finding}",) if r.case.finding else ()
        for text in (*finding, *r.failures[:3], *r.missed):
            print(f"\n{r.case.name}: {text}")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each case")
    parser.add_argument("--case", action="append", help="only this case; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--part", choices=("catalogue", "uwb"), help="only this part")
    parser.add_argument("--frames", type=int, default=3000, help="of each power, at chip level")
    parser.add_argument("--decisions", type=int, default=100_000, help="of each UWB row")
    parser.add_argument("--walks", type=int, default=60, help="to the door, for each UWB row")
    parser.add_argument("--seed", type=int, default=1, help="of the UWB table")
    parser.add_argument("--quick", action="store_true", help="5 seeds, 2000 decisions, 150 frames")
    options = parser.parse_args()
    found: list[Figure] = []
    tables: dict[str, object] = {}
    began_s = time.perf_counter()
    if options.part != "uwb":
        cases = [c for c in load() if not options.case or c.name in options.case]
        if not cases:
            parser.error("no such case; the names stand in the first column of the table")
        with Foundry() as foundry:
            seeds = min(options.seeds, 5) if options.quick else options.seeds
            results = [measure(case, foundry, seeds) for case in cases]
        found += figures(results)
        if not options.json:
            table(results)
    if options.part != "catalogue" and not options.case:
        sizes = Sizes(frames=options.frames, decisions=options.decisions, walks=options.walks)
        if options.quick:
            sizes = Sizes(frames=150, decisions=2000, walks=6)
        rows = uwb_rows(sizes, options.seed)
        found += uwb_figures(rows)
        tables["uwb"] = rows
        if not options.json:
            print_rows(rows)
    if not options.json:
        print(f"\n{time.perf_counter() - began_s:.0f} s in all\n")
    report("attacks", found, as_json=options.json, tables=tables)
    return 1 if any(each.met is False for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
