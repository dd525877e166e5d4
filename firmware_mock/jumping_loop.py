"""An event loop whose time jumps to the next deadline: minutes of a story take a moment.

Only for stories in which everything is in this process: nobody waits for a socket.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["JumpingLoop", "jumped"]

T = TypeVar("T")
_BEGIN_S: Final = 1000.0


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: what would have been waited is added to the loop's time."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is not None:
            self.skipped_s += max(timeout, 0)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop with a time of its own."""

    def __init__(self) -> None:
        self._jumps = _JumpingSelector()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Return seconds since an arbitrary begin."""
        return _BEGIN_S + self._jumps.skipped_s


def jumped(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run an async story on such a loop, in this thread, and return what it returns."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(story())
