"""A reader's directory that keeps some keys from fast transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.access.directory import MemoryDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dkey.access.enrolled import EnrolledCredential

__all__ = ["BoundedDirectory"]


class BoundedDirectory(MemoryDirectory):
    """Offers no key to a fast transaction that may not act by one now.

    Args:
        credentials: In the order of use, oldest first.
        may: Whether the credential of this name may.
    """

    def __init__(
        self, credentials: Iterable[EnrolledCredential], may: Callable[[str], bool]
    ) -> None:
        super().__init__(credentials)
        self._may = may

    def fast_candidates(self, limit: int) -> Sequence[EnrolledCredential]:
        """Return the last ``limit`` credentials that have a Kpersistent and may use it."""
        return [each for each in super().fast_candidates(limit) if self._may(each.name)]
