"""How long a ranging secret lives, and that no STS index is ever used twice under it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.ranging.keys import INDEX_LIMIT, URSK_SIZE

if TYPE_CHECKING:
    from dkey.crypto.secret import Secret

__all__ = ["FIRST_INDEX_LIMIT", "URSK_TTL_S", "UrskDeath", "UrskLife"]

CLAUSE: Final = "Aliro 1.0 §11.1.1.4"
URSK_TTL_S: Final = 12 * 3600.0
"""Life of a ranging secret from its first dURSK (Aliro 1.0 §11.1.1.4)."""
FIRST_INDEX_LIMIT: Final = 2**30
"""The first STS index is drawn below this (Aliro 1.0 §11.1.1.4)."""


class UrskDeath(StrEnum):
    """Why a ranging secret is dead."""

    EXPIRED = "12 h are over"
    EXHAUSTED = "the STS index is used up"
    INDEX_LOST = "the STS index was lost"
    LINK_LOST = "the BLE link was lost"


class UrskLife:
    """One ranging secret from its derivation to its end.

    Time and the random first index come in as arguments. Whoever derives a round's keys first
    calls :meth:`spend` for all its slots: the index moves on whether or not the radio uses it, so
    that a lost frame, a suspension or a crash of the radio can never bring one back.

    Attributes:
        death: Why it is dead; None while it lives.
    """

    __slots__ = ("_began_s", "_next", "_now_s", "_running", "_ursk", "death")

    def __init__(self, ursk: Secret) -> None:
        if len(ursk) != URSK_SIZE:
            raise LocalFault(f"a ranging secret has {URSK_SIZE} bytes", clause=CLAUSE)
        self._ursk: Secret | None = ursk
        self._began_s: float | None = None
        self._now_s = float("-inf")
        self._next: int | None = None
        self._running = False
        self.death: UrskDeath | None = None

    @property
    def running(self) -> bool:
        """Whether a session uses it now."""
        return self._running

    @property
    def next_index(self) -> int | None:
        """Lowest STS index that was never used; None before the first session."""
        return self._next

    @property
    def deadline_s(self) -> float | None:
        """When its time is over; None before the first session, and when it is dead."""
        if self._began_s is None or self.death is not None:
            return None
        return self._began_s + URSK_TTL_S

    def begin(self, sts_index0: int, *, now_s: float) -> None:
        """Start the first session, or resume; the time of the secret starts with the first.

        Args:
            sts_index0: For the first session random, 0..2^30-1; for a later one not below
                :attr:`next_index`.
            now_s: Monotonic time.

        Raises:
            LocalFault: A session runs already, the index is out of range, or time runs backwards.
            PolicyRefusal: The secret is dead, or the index was used before.
        """
        self._alive(now_s)
        if self._running:
            raise LocalFault("a ranging session runs already", clause=CLAUSE, hint="suspend first")
        limit = FIRST_INDEX_LIMIT if self._next is None else INDEX_LIMIT
        if not 0 <= sts_index0 < limit:
            raise LocalFault(f"STS_Index0 is below {limit}, not {sts_index0}", clause=CLAUSE)
        self._unused(sts_index0)
        if self._began_s is None:
            self._began_s = now_s
        self._next = sts_index0
        self._running = True

    def spend(self, index: int, count: int = 1, *, now_s: float) -> Secret:
        """Use up ``count`` indices from ``index`` on, and all below; return the secret for them.

        Raises:
            LocalFault: No session runs, or an impossible count or time.
            PolicyRefusal: One of the indices was used before (REPLAY; nothing is changed), or the
                secret is dead or dies now (KEY_EXPIRED).
        """
        ursk = self._alive(now_s)
        if not self._running:
            raise LocalFault("no ranging session runs", clause=CLAUSE, hint="begin one first")
        if count < 1 or index < 0:
            raise LocalFault("a round uses at least one STS index", clause=CLAUSE)
        self._unused(index)
        if index + count > INDEX_LIMIT:
            self._die(UrskDeath.EXHAUSTED)
            raise self._refusal()
        self._next = index + count
        return ursk

    def suspend(self) -> None:
        """End the session and keep the secret. Does nothing when none runs."""
        self._running = False

    def lose_index(self) -> None:
        """The STS index is not known any more: the secret dies."""
        self._die(UrskDeath.INDEX_LOST)

    def lose_link(self) -> None:
        """The BLE link is lost: the secret dies."""
        self._die(UrskDeath.LINK_LOST)

    def tick(self, *, now_s: float) -> UrskDeath | None:
        """Let time pass; return why the secret is dead, if it is."""
        if self.death is None and self._is_over(now_s):
            self._die(UrskDeath.EXPIRED)
        return self.death

    def _alive(self, now_s: float) -> Secret:
        """Return the secret.

        Raises:
            LocalFault: Time runs backwards, or is no number.
            PolicyRefusal: The secret is dead.
        """
        if not now_s >= self._now_s:
            raise LocalFault("monotonic time cannot run backwards", clause=CLAUSE)
        self._now_s = now_s
        self.tick(now_s=now_s)
        if self._ursk is None:
            raise self._refusal()
        return self._ursk

    def _is_over(self, now_s: float) -> bool:
        deadline_s = self.deadline_s
        return deadline_s is not None and now_s >= deadline_s

    def _unused(self, index: int) -> None:
        if self._next is not None and index < self._next:
            raise PolicyRefusal(
                RefusalCode.REPLAY,
                f"STS index {index} was used before; the next is {self._next}",
                hint="go on from the next index; never go back",
            )

    def _die(self, cause: UrskDeath) -> None:
        if self.death is None:
            self.death = cause
        self._ursk = None
        self._running = False

    def _refusal(self) -> PolicyRefusal:
        return PolicyRefusal(
            RefusalCode.KEY_EXPIRED,
            f"the ranging secret is dead: {self.death}",
            hint="connect again; a new ranging secret needs a new connection",
        )

    def __repr__(self) -> str:
        state = self.death or ("running" if self._running else "idle")
        return f"<ranging secret: {state}>"
