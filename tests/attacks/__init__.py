"""The attack catalogue as code: one case or more for each number, each able to turn red.

A case is a function of a seed that plays one attack against the stack. It returns when the attack
failed and raises AssertionError when it succeeded; any other exception means that the case itself
does not work. Each case names *broken builds*: one piece of product source replaced by a mistake
that somebody could make, under which the attack succeeds (:mod:`.broken` runs them).

This module imports nothing of the product, so that a broken build is loaded from its first line.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["REQUIRED", "Broken", "Case", "Edit", "case", "load", "load_module", "registered"]

REQUIRED = tuple(range(1, 36))
"""Numbers of the catalogue that have to stand: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One replacement in the source of ``module``: ``old`` must occur there exactly once."""

    module: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken(Edit):
    """One deliberately broken build.

    Attributes:
        why: The mistake in words.
        also: Further replacements, where a second line of defence stands behind the first.
    """

    why: str
    also: tuple[Edit, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All replacements of this build."""
        return (self, *self.also)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One attack.

    Attributes:
        number: Its number in the catalogue.
        title: What holds, in one line.
        source: Where the attack is known from.
        module: Last part of the name of its file.
        run: Plays it with a seed.
        broken: Builds under which it succeeds.
        finding: Not empty while it succeeds against the stack itself: what is wrong there. Such a
            case needs no broken build; whoever mends the stack empties this and names one.
    """

    number: int
    title: str
    source: str
    module: str
    run: Callable[[int], None]
    broken: tuple[Broken, ...]
    finding: str = ""

    @property
    def name(self) -> str:
        """Unique name: the number and the function."""
        return f"{self.number:02d}-{self.run.__name__}"


_CASES: dict[str, Case] = {}


def case(
    number: int, title: str, *, source: str, broken: Sequence[Broken] = (), finding: str = ""
) -> Callable[[Callable[[int], None]], Callable[[int], None]]:
    """Register the decorated function of a seed as one case."""

    def register(run: Callable[[int], None]) -> Callable[[int], None]:
        new = Case(
            number=number,
            title=title,
            source=source,
            module=run.__module__.rpartition(".")[2],
            run=run,
            broken=tuple(broken),
            finding=finding,
        )
        if new.name in _CASES:
            raise ValueError(f"two cases are named {new.name}")
        _CASES[new.name] = new
        return run

    return register


def load_module(module: str) -> None:
    """Import one file of cases."""
    importlib.import_module(f"{__name__}.cases.{module}")


def load() -> tuple[Case, ...]:
    """Import all files of cases and return the cases by number."""
    cases = importlib.import_module(f"{__name__}.cases")
    for found in pkgutil.iter_modules(cases.__path__):
        load_module(found.name)
    return tuple(sorted(_CASES.values(), key=lambda each: each.name))


def registered(name: str) -> Case:
    """Return one case whose file is imported."""
    return _CASES[name]
