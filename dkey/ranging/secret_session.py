"""One ranging secret at one end: setup, life and the subsystem's session, joined.

What both ends of :mod:`dkey.ranging.session` do alike: carry out what setup decides, account for
the STS indices that go by, and notice that the secret is dead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dkey.codec.ble_contents import Ranging
from dkey.errors import PolicyRefusal
from dkey.ranging.session_events import (
    Began,
    Ceased,
    RangingEvent,
    Tell,
    Trouble,
    TroubleKind,
    Unavailable,
)
from dkey.ranging.setup_steps import Begin, GoOn, Refuse, Send, Stop
from dkey.ranging.ursk_life import UrskDeath

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dkey.codec.ble import RangingKind
    from dkey.crypto.secret import Secret
    from dkey.ranging.chip_session import ChipSession
    from dkey.ranging.measurement import RangingRound
    from dkey.ranging.setup import PhoneSetup, VehicleSetup
    from dkey.ranging.setup_plan import SessionPlan
    from dkey.ranging.setup_steps import Do
    from dkey.ranging.ursk_life import UrskLife

__all__ = ["SecretSession"]

FAILURES_MAX: Final = 3
"""So often ranging may fail within FAILURES_S before it is given up for that time (ours)."""
FAILURES_S: Final = 60.0
SILENT_S: Final = 3.0
"""Without a round that anybody heard for this long, UWB counts as lost (ours)."""
_DRIFT_BLOCKS: Final = 4096
"""Clocks of two ends that differ by 100 ppm each count one block less in so many."""


class SecretSession:
    """What both ends have in common.

    Args:
        session_id: Name of the session.
        life: Of the secret.
        setup: This end's.
        chip: The subsystem's session.
        margin: Blocks that count as used beyond those that went by.

    Attributes:
        session_id: As given.
        lost: Whether UWB counts as lost.
    """

    def __init__(
        self,
        session_id: int,
        life: UrskLife,
        setup: PhoneSetup | VehicleSetup,
        chip: ChipSession,
        *,
        margin: int = 0,
    ) -> None:
        self.session_id = session_id
        self.life = life
        self.chip = chip
        self.lost = False
        self._check_s = 0.0
        self._setup_state = setup
        self._margin = margin
        self._ran: tuple[SessionPlan, float] | None = None
        self._failed_s: list[float] = []
        self._block = 0
        self._last_block = 0
        self._dead = False

    # --- what setup decides -----------------------------------------------------------------

    def carry_out(
        self, actions: Iterable[Do], *, time0_us: int | None, now_s: float
    ) -> list[RangingEvent]:
        """Do what setup asks for.

        Args:
            actions: In order.
            time0_us: When the first block begins, in this subsystem's time, where one does.
            now_s: Monotonic time.
        """
        events: list[RangingEvent] = []
        for each in actions:
            match each:
                case Send():
                    events.append(Tell(session_id=self.session_id, content=each.message.content()))
                case Begin() | GoOn():
                    events += self._begin(each.plan, time0_us, now_s)
                case Stop():
                    events += self.halt("agreed with the other end", now_s)
                case Refuse():
                    text = "another session, or a secret that is dead"
                    events.append(Unavailable(session_id=self.session_id, text=text))
        return events

    def _begin(self, plan: SessionPlan, time0_us: int | None, now_s: float) -> list[RangingEvent]:
        events = self.halt("it begins anew", now_s)
        if time0_us is None:
            return [*events, *self.not_started("the time of the first block is not known")]
        try:
            self.life.begin(plan.sts_index0, now_s=now_s)
            ursk: Secret = self.life.spend(plan.sts_index0, plan.indices_per_block, now_s=now_s)
        except PolicyRefusal as exc:
            return [*events, *self.not_started(str(exc)), *self.died(now_s)]
        self._ran = plan, now_s
        self._block = self._last_block
        self.heard(now_s)
        self.chip.begin(plan, ursk, time0_us=time0_us, now_s=now_s)
        return [*events, Began(session_id=self.session_id, plan=plan)]

    def not_started(self, text: str) -> list[RangingEvent]:
        """Return the trouble of a session that the subsystem does not range in."""
        return [Trouble(kind=TroubleKind.NOT_STARTED, text=text, session_id=self.session_id)]

    def halt(self, text: str, now_s: float) -> list[RangingEvent]:
        """Stop ranging on this side; what went by until now is used up."""
        self.chip.end(now_s=now_s)
        if not self.life.running:
            return []
        self.pass_time(now_s)
        self.life.suspend()
        return [Ceased(session_id=self.session_id, text=text)]

    # --- STS indices and the end of the secret -----------------------------------------------

    def pass_time(self, now_s: float) -> None:
        """Let the indices of all blocks that began until now count as used."""
        if self._ran is None:
            return
        plan, began_s = self._ran
        blocks = int(max(0.0, now_s - began_s) / plan.block_s) + 1
        if self._margin:
            blocks += self._margin + blocks // _DRIFT_BLOCKS
        self.life.skip_to(plan.sts_index0 + blocks * plan.indices_per_block, now_s=now_s)

    @property
    def deadline(self) -> float | None:
        """When :meth:`tick` has something to do."""
        times = [self.life.deadline_s] if self.life.deadline_s is not None else []
        if self.life.running:
            times.append(self._check_s)
        return min(times, default=None)

    def tick(self, now_s: float) -> list[RangingEvent]:
        """Let time pass: the secret may die, UWB may be lost."""
        if self.life.running:
            self.pass_time(now_s)
        else:
            self.life.tick(now_s=now_s)
        events = self.died(now_s)
        if not self.life.running or now_s < self._check_s:
            return events
        self._check_s = now_s + SILENT_S
        self.chip.check(now_s=now_s)
        if not self.lost:
            self.lost = True
            text = f"no round was heard for {SILENT_S:g} s"
            events.append(Trouble(kind=TroubleKind.UWB_LOST, text=text, session_id=self.session_id))
        return events

    def died(self, now_s: float) -> list[RangingEvent]:
        """Return what to say of a secret that is dead, once."""
        death = self.life.death
        if death is None or self._dead:
            return []
        self._dead = True
        self._setup_state.close()
        events: list[RangingEvent] = []
        if self._ran is not None:
            self.chip.end(now_s=now_s)
            events.append(Ceased(session_id=self.session_id, text=death.value))
        if death is UrskDeath.LINK_LOST:
            return events
        hint = "connect again; a new ranging secret needs a new connection"
        events.append(
            Trouble(
                kind=TroubleKind.EXPIRED, text=death.value, hint=hint, session_id=self.session_id
            )
        )
        events.append(Unavailable(session_id=self.session_id, text=death.value))
        return events

    def lose_link(self, now_s: float) -> list[RangingEvent]:
        """The BLE link is gone, and the secret with it."""
        self.life.lose_link()
        return self.died(now_s)

    # --- rounds -------------------------------------------------------------------------------

    def heard(self, now_s: float) -> None:
        """A round was heard by somebody."""
        self.lost, self._check_s = False, now_s + SILENT_S

    def in_order(self, measured: RangingRound, *, numbered: bool) -> RangingRound | None:
        """Return the round with block and STS index as they count for the secret's whole life.

        A subsystem counts anew from each start, and one that reports SESSION_INFO knows neither;
        None for a round of no session that ranges, or of indices beyond the present time.
        """
        if self._ran is None or not self.life.running:
            return None
        plan, began_s = self._ran
        per_block = plan.indices_per_block
        if numbered:
            block = max(measured.sts_index - 1, 0)
            index = plan.sts_index0 + block * per_block + 1
        else:
            index = measured.sts_index
            block = (index - plan.sts_index0) // per_block
        # Two blocks of grace for clocks that differ; whoever counts faster than time is lying.
        latest = int((measured.at_s - began_s) / plan.block_s * 1.001) + 2
        if not 0 <= block <= latest:
            return None
        self._last_block = max(self._last_block, self._block + block + 1)
        return replace(
            measured, block=self._block + block + 1 & 0xFFFF, sts_index=index & 0x7FFFFFFF
        )

    # --- failures -----------------------------------------------------------------------------

    def failed(self, now_s: float) -> bool:
        """Note a failure; return whether it was one too many."""
        self._failed_s = [at for at in self._failed_s if at > now_s - FAILURES_S]
        self._failed_s.append(now_s)
        return len(self._failed_s) > FAILURES_MAX

    def may_try(self, now_s: float) -> bool:
        """Whether ranging has not failed too often of late."""
        return sum(at > now_s - FAILURES_S for at in self._failed_s) <= FAILURES_MAX

    def say(self, kind: RangingKind) -> Tell:
        """Return the notification of this kind."""
        return Tell(session_id=self.session_id, content=Ranging(kind=kind))
