"""How every benchmark reports: figures with limits, a table for people, one JSON object."""

from __future__ import annotations

import json
import os
import platform
import sys
import textwrap
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Figure", "Samples", "machine", "progress", "report", "slice_medians", "spread"]

Samples = dict[str, list[float]]
"""Name of a subject to its single measurements."""
SCHEMA = "dkey.bench/1"
_MARKS = {True: "yes", False: "NO", None: "-"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        name: What was measured.
        value: In ``unit``.
        unit: Such as ``ratio``, ``percent``, ``ms``, ``MB``.
        floor: What it is compared with, in words.
        limit: Highest or lowest good value, a (low, high) pair with ``better`` "inside", or None
            for a figure that is printed and not judged.
        better: "lower", "higher" or "inside".
        samples: How many single measurements stand behind the value.
        spread: Lowest and highest value over parts of the run, or of single measurements.
        note: Absolute times and whatever else a reader of the figure wants to know.
    """

    name: str
    value: float
    unit: str
    floor: str
    limit: float | tuple[float, float] | None = None
    better: Literal["lower", "higher", "inside"] = "lower"
    samples: int
    spread: tuple[float, float]
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value is within its limit; None without a limit."""
        if self.limit is None:
            return None
        if isinstance(self.limit, tuple):
            return self.limit[0] <= self.value <= self.limit[1]
        return self.value <= self.limit if self.better == "lower" else self.value >= self.limit

    def to_json(self) -> dict[str, object]:
        """Return the figure as an element of ``figures``."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "unit": self.unit,
            "floor": self.floor,
            "limit": self.limit,
            "better": self.better,
            "met": self.met,
            "samples": self.samples,
            "spread": [round(each, 4) for each in self.spread],
            "note": self.note,
        }


def slice_medians(samples: Sequence[float], slices: int = 10) -> list[float]:
    """Return the medians of ``slices`` consecutive parts of a run."""
    size = max(1, len(samples) // slices)
    return [median(samples[at : at + size]) for at in range(0, size * slices, size) if samples[at:]]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and the highest value."""
    return min(values), max(values)


def machine() -> dict[str, object]:
    """Return what a speed depends on; no names, no paths."""
    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "cryptography": version("cryptography"),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def report(
    subject: str,
    figures: Sequence[Figure],
    *,
    as_json: bool,
    tables: dict[str, object] | None = None,
) -> None:
    """Print the table, or with ``as_json`` the one object of schema ``dkey.bench/1``.

    ``tables`` are further members of the object, for what is more than figures.
    """
    where = machine()
    if as_json:
        document = {
            "schema": SCHEMA,
            "subject": subject,
            "machine": where,
            "figures": [each.to_json() for each in figures],
            **(tables or {}),
        }
        print(json.dumps(document, indent=1))
        return
    print(f"{subject}: " + ", ".join(f"{name} {value}" for name, value in where.items()))
    print(f"\n{'figure':<58}{'value':>14}{'limit':>13} {'met':<4}{'spread':>15}{'samples':>9}")
    for each in figures:
        value = f"{each.value:.3g} {each.unit}"
        between = f"{each.spread[0]:.3g}..{each.spread[1]:.3g}"
        judged = f"{_limit(each):>13} {_MARKS[each.met]:<4}"
        print(f"{each.name:<58}{value:>14}{judged}{between:>15}{each.samples:>9}")
    print()
    for each in figures:
        print(each.name)
        for text in (f"compared with: {each.floor}", each.note):
            if text:
                print(textwrap.fill(text, 98, initial_indent="    ", subsequent_indent="    "))


def _limit(figure: Figure) -> str:
    if figure.limit is None:
        return "-"
    if isinstance(figure.limit, tuple):
        return f"{figure.limit[0]:g}..{figure.limit[1]:g}"
    return f"{'<=' if figure.better == 'lower' else '>='} {figure.limit:g}"


def progress(text: str) -> None:
    """Tell who waits what is measured now."""
    print(text, file=sys.stderr, flush=True)
