"""Exhaustive check of the lifecycle rules themselves: every order of events up to a depth.

It runs :func:`dkey.lifecycle.ring.apply` and :class:`dkey.lifecycle.admission.Admissions`, not a
model of them, breadth first, so that what it finds is a shortest story. Broken variants of the
rules, :data:`WEAKENED`, show that it can find something.

``python -m dkey.conformance.lifecycle_check [--depth N] [--world NAME] [--weaken NAME] [--json]``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dkey.conformance.lifecycle_alike import signature
from dkey.conformance.lifecycle_promises import broken
from dkey.conformance.lifecycle_state import Policy, Scene, Violation
from dkey.conformance.lifecycle_weakened import WEAKENED
from dkey.conformance.lifecycle_worlds import WORLDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dkey.conformance.lifecycle_state import State

__all__ = ["WEAKENED", "WORLDS", "Report", "Searched", "check", "main"]

_SCHEMA: Final = "dkey.lifecycle-check/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """One world that was searched.

    Attributes:
        world: Its name.
        begins: Events of the story before the search begins.
        depth: Events in a row that were looked at after it; all of them, in every order.
        states: Different states that were visited, people swapped counting as one.
    """

    world: str
    begins: int
    depth: int
    states: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the check found.

    Attributes:
        worlds: What was searched; the last one only in part where a promise was broken.
        violation: The promise that was broken; None when all hold.
        trace: A shortest story that leads there, one event a line, with the one before the search.
    """

    worlds: tuple[Searched, ...]
    violation: str | None = None
    trace: tuple[str, ...] = ()

    @property
    def states(self) -> int:
        """States that were visited in all worlds."""
        return sum(each.states for each in self.worlds)


def check(
    depth: int | None = None,
    *,
    world: str | None = None,
    weaken: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Visit every state near the beginning of every world and return the first broken promise.

    Args:
        depth: Events in a row in every world; None for each world's own depth.
        world: A key of :data:`WORLDS`, to search that one only.
        weaken: A key of :data:`WEAKENED`, to check broken rules instead, in the world where the
            story happens unless ``world`` is given.
        tell: Takes a line before each world.
    """
    where, policy = WEAKENED[weaken] if weaken is not None else (None, Policy())
    chosen = world or where
    done: list[Searched] = []
    for each in WORLDS.values() if chosen is None else [WORLDS[chosen]]:
        deep = each.depth if depth is None else depth
        tell(f"{each.name}: {each.about}; {deep} events deep")
        states, violation, trace = search(Scene(world=each, policy=policy), deep)
        done.append(Searched(world=each.name, begins=len(each.story), depth=deep, states=states))
        if violation is not None:
            story = (*each.story, *trace)
            return Report(worlds=tuple(done), violation=violation, trace=story)
    return Report(worlds=tuple(done))


def search(scene: Scene, depth: int) -> tuple[int, str | None, tuple[str, ...]]:
    """Search breadth first; return the number of states, and a broken promise with its story."""
    first = scene.told()
    came: dict[Any, tuple[Any, str]] = {signature(first): (None, "")}
    queue: deque[tuple[State, Any, int]] = deque([(first, signature(first), 0)])
    while queue:
        state, key, at = queue.popleft()
        if at == depth:
            break
        try:
            for text, after in scene.steps(state):
                if after is state:
                    continue
                next_key = signature(after)
                if next_key in came:
                    continue
                came[next_key] = (key, text)
                violation = broken(after)
                if violation is not None:
                    return len(came), violation, _story(came, next_key)
                if at + 1 < depth:
                    queue.append((after, next_key, at + 1))
        except Violation as exc:
            return len(came), str(exc), (*_story(came, key), exc.event)
    return len(came), None, ()


def _story(came: Mapping[Any, tuple[Any, str]], key: Any) -> tuple[str, ...]:
    lines: list[str] = []
    while key is not None:
        key, text = came[key]
        lines.append(text)
    return tuple(line for line in reversed(lines) if line)


# --- as a program ------------------------------------------------------------------------------


def _to_json(report: Report) -> dict[str, object]:
    return {
        "schema": _SCHEMA,
        "states": report.states,
        "worlds": [
            {"world": w.world, "begins": w.begins, "depth": w.depth, "states": w.states}
            for w in report.worlds
        ],
        "violation": report.violation,
        "trace": list(report.trace),
    }


def _to_text(report: Report) -> str:
    lines = [
        f"{each.world}: {each.states:,} states, every order of {each.depth} events"
        + (f" after a story of {each.begins}" if each.begins else "")
        for each in report.worlds
    ]
    if report.violation is None:
        return "\n".join([*lines, f"{report.states:,} states; every promise holds"])
    steps = [f"  {number}. {event}" for number, event in enumerate(report.trace, 1)]
    return "\n".join([f"broken: {report.violation}", "a shortest story:", *steps])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; return 0 when every promise holds, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m dkey.conformance.lifecycle_check", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--depth", type=int, help="events in a row, in every world")
    parser.add_argument("--world", choices=WORLDS, help="search this world only")
    parser.add_argument("--weaken", choices=WEAKENED, help="check rules with one thing broken")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args(arguments)
    report = check(
        chosen.depth,
        world=chosen.world,
        weaken=chosen.weaken,
        tell=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
    )
    print(json.dumps(_to_json(report)) if chosen.json else _to_text(report))  # noqa: T201
    return 0 if report.violation is None else 1


if __name__ == "__main__":
    sys.exit(main())
