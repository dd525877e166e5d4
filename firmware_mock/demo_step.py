"""One step of the story that ``dkey demo`` tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkey.errors import RefusalCode

__all__ = ["DemoStep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoStep:
    """One step as it happened.

    Attributes:
        chapter: Which part of the story.
        step: Who does what.
        medium: How.
        expect: What must come of it: an outcome, or ``refused`` and the code.
        outcome: What came of it.
        code: Refusal code, or None.
        detail: More for people: flow, name, reason.
        as_expected: Whether it came out right and a refusal changed nothing.
    """

    chapter: str
    step: str
    medium: str
    expect: str
    outcome: str
    code: RefusalCode | None
    detail: str
    as_expected: bool

    def to_json(self) -> dict[str, object]:
        """Return the object of ``dkey demo --json`` (specs/formats.md §7)."""
        return {
            "step": self.step,
            "medium": self.medium,
            "expect": self.expect,
            "outcome": self.outcome,
            "code": self.code,
        }
