"""Keeps a vehicle and its authority in step, as far as there is a network.

The vehicle asks for the withdrawal list, and tells of keys that it saw for the first time and of
its own erasure. All of it may wait: what is to be told stands in the ledger, and how far it was
told is kept. Nothing that opens or starts waits for this.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from dkey.codec import cbor
from dkey.errors import DkeyError, PolicyRefusal, RefusalCode, RemoteFault
from dkey.lifecycle.attestation import noted_code, read_attestation
from dkey.lifecycle.commands import VEHICLE, Activate, BeginEpoch, Cleared, Command, Side
from firmware_mock import share_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dkey.authority.values import Outcome
    from dkey.lifecycle.ledger import Entry
    from firmware_mock.vehicle import Vehicle

__all__ = ["AuthorityPort", "AuthorityWatch", "report_of"]

log = logging.getLogger(__name__)
_BEGINS_EPOCH: Final = ("RESET", "UNPAIR", "EPOCH")
POLL_S: Final = 30.0
"""Between two questions for the list, while the authority answers (ours)."""
BACKOFF_S: Final = (1.0, 300.0)
"""Wait after the first failure, doubled by each further one up to the second value (ours)."""


class AuthorityPort(Protocol):
    """An authority, in process or behind HTTP; its calls block."""

    def withdrawal_list(self, vehicle: bytes, actor: str) -> bytes:
        """Return the newest signed withdrawal list."""

    def execute(self, vehicle: bytes, command: Command) -> Outcome:
        """Ask for a command."""


def report_of(entry: Entry, epoch: int) -> Command | None:
    """Return what the authority is told of a ledger entry; None for nothing.

    Args:
        entry: The entry.
        epoch: Owner epoch of the vehicle after it; by it a report that comes late is known.
    """
    if entry.kind == "ADMIT":
        raws = cbor.decode(entry.body)[0]
        share_id = read_attestation(raws[-1]).claims.share_id
        return Activate(actor=VEHICLE, share_id=share_id)
    if entry.kind in ("RESET", "UNPAIR"):
        return Cleared(actor=VEHICLE, side=Side.VEHICLE, epoch=epoch)
    if entry.kind == "EPOCH":
        return BeginEpoch(actor=VEHICLE, epoch=epoch)
    return None


class AuthorityWatch:
    """Speaks to the authority of one vehicle, from the vehicle's loop.

    Args:
        vehicle: The vehicle.
        port: The authority.
        report: Told of ``authority`` and ``authority_lost``, each a name and its fields.
        call: Runs what blocks; another one is for an authority in this process.

    Attributes:
        reached: Whether the authority answered last.
        half_removed: Whether the account side still holds something after the last erasure; None
            while that is not known.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        port: AuthorityPort,
        *,
        report: Callable[..., None],
        call: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self._vehicle = vehicle
        self._port = port
        self._report = report
        self._call = call
        self._due = asyncio.Event()
        self._refused: tuple[bytes, int] | None = None
        self.reached = True
        self.half_removed: bool | None = None

    @property
    def told_all(self) -> bool:
        """Whether nothing waits to be told."""
        return not self._waiting()

    def soon(self) -> None:
        """Something happened that the authority should know."""
        self._due.set()

    async def run(self) -> None:
        """Keep in step until cancelled."""
        wait_s = BACKOFF_S[0]
        while True:
            self._due.clear()
            if await self.once():
                wait_s = BACKOFF_S[0]
                await self._wait(POLL_S)
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, BACKOFF_S[1])

    async def once(self) -> bool:
        """Tell what waits and take the newest list; return whether the authority answered."""
        try:
            await self._tell()
            await self._ask()
        except (DkeyError, ValueError) as exc:
            log.info("the authority: %s", exc)
            if self.reached:
                self._report("authority_lost", text=str(exc))
            self.reached = False
            return False
        self.reached = True
        return True

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._due.wait()
        except TimeoutError:
            pass

    def _waiting(self) -> list[tuple[int, Command]]:
        found: list[tuple[int, Command]] = []
        entries, epoch = self._untold()
        for entry in reversed(entries):
            command = report_of(entry, epoch)
            if command is not None:
                found.append((entry.seq, command))
            epoch -= entry.kind in _BEGINS_EPOCH
        return found[::-1]

    def _untold(self) -> tuple[list[Entry], int]:
        """Return the entries that were not told yet, and the owner epoch after the last of them."""
        store = self._vehicle.store
        while True:  # until no other process began an epoch meanwhile
            epoch = store.ownership().epoch
            entries = list(store.ledger.entries(after_seq=share_rows.reported_seq(store.file)))
            if store.ownership().epoch == epoch:
                return entries, epoch

    async def _tell(self) -> None:
        store = self._vehicle.store
        for seq, command in self._waiting():
            code: RefusalCode | None = None
            if isinstance(command, Cleared):
                self.half_removed = None
            try:
                done = await self._call(self._port.execute, self._vehicle.group_id, command)
                if isinstance(command, Cleared) and not done.queued:
                    told = {str(effect["effect"]) for effect in done.effects}
                    self.half_removed = "HalfRemoved" in told
            except PolicyRefusal as exc:
                code = exc.code  # it knows better: the share fell in the meantime
            with store.transaction() as writes:
                share_rows.keep_reported(store.file, seq)
                self._vehicle.keys.log(writes, "REPORTED", code=code, text=type(command).__name__)
            self._report("authority", told=type(command).__name__, code=code)

    async def _ask(self) -> None:
        group_id = self._vehicle.group_id
        raw = await self._call(self._port.withdrawal_list, group_id, VEHICLE)
        this = raw, self._vehicle.keys.book.admissions.epoch
        if this == self._refused:
            return
        try:
            news = self._vehicle.share_desk.take_list(raw)
        except (PolicyRefusal, RemoteFault) as exc:
            self._refused = this  # noted once; another list, or another epoch, may be better
            self._report("authority", took=False, code=noted_code(exc), text=str(exc))
            return
        if news:
            self._report("authority", took=True, code=None, text="a newer withdrawal list")
