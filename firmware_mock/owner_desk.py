"""Owner pairing at the mock vehicle: the head unit's window, the pad, the radio, the store.

The window is a value (:mod:`dkey.control.owner_window`), the attempt a procedure
(:mod:`dkey.pairing.owner`). The desk makes durable what they decide, before a phone learns of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dkey.control.owner_window import (
    ATTEMPT_TIMEOUT_S,
    OwnerCase,
    OwnerState,
    OwnerWindow,
)
from dkey.control.touch import Position
from dkey.crypto.p256 import PublicKey
from dkey.crypto.secret import Secret
from dkey.crypto.spake2plus import Record
from dkey.errors import (
    DkeyError,
    LinkError,
    LocalFault,
    PolicyRefusal,
    RefusalCode,
    RemoteFault,
)
from dkey.lifecycle.features import DK2, FeatureProfile
from dkey.lifecycle.policy import CODE_MAX_TRIES
from dkey.lifecycle.roles import CredentialState, Role
from dkey.link.driver import run
from dkey.pairing.owner import (
    Cost,
    Stretch,
    failure,
    from_sdu,
    is_owner_pairing,
    one_time_code,
    qr_text,
    select_phone,
    shown_code,
    tell_phone,
    to_sdu,
)
from firmware_mock.outcome import TapOutcome, failure_of
from firmware_mock.owner_attempt import LiveCode, OwnerAttempt
from firmware_mock.owner_epoch import erase_owner, resolving_place, unpair_owner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from dkey.crypto.spake2plus import Registration
    from dkey.link.base import Link
    from firmware_mock.records import PairingCode
    from firmware_mock.vehicle import Vehicle

__all__ = ["CodeShown", "OwnerDesk"]

log = logging.getLogger(__name__)
_PAD: Final = Position.CONSOLE_PAD
_HANG_UP_S: Final = 1.0
"""How long the phone has to hang up after the last message, which closing might overtake."""
_RESOLVING_KEY: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeShown:
    """What the head unit shows.

    Attributes:
        code: The digits, in two groups of four.
        qr: Content of the QR.
    """

    code: str = field(repr=False)
    qr: str = field(repr=False)


class OwnerDesk:
    """Pairs the owner's phone, one at a time (specs/pairing.md §2).

    Register it with the vehicle (``vehicle.owner_desk``) and with its radio's desk.

    Args:
        vehicle: The vehicle.
        profile: What the vehicle offers.
        stretch: Stretches the code, in a thread; another one is for tests.
        report: Told of ``pairing_code``, ``pairing_refused``, ``paired`` and ``factory_reset``,
            each a name and its fields.

    Attributes:
        window: The window as it is; :meth:`tick` brings it up to date.
        profile: As given.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        *,
        profile: FeatureProfile = DK2,
        stretch: Callable[[Stretch, Secret], Registration] = Stretch.run,
        report: Callable[..., None] | None = None,
    ) -> None:
        self.profile = profile
        self._vehicle = vehicle
        self._stretch = stretch
        self._report = report or _quiet
        self._cost = Cost()
        self._live: LiveCode | None = None
        self.window = OwnerWindow()
        self._resolving_key = self._open_resolving_key()
        self._restore()

    # --- the head unit --------------------------------------------------------------------------

    @property
    def resolving_key(self) -> Secret:
        """Resolves the vehicle's adverts, 16 bytes; another one after a factory reset."""
        return self._resolving_key

    @property
    def owner_epoch(self) -> int:
        """Rises with each factory reset, from 1."""
        return self._vehicle.store.ownership().epoch

    @property
    def shown(self) -> CodeShown | None:
        """What the head unit shows now; None when there is no code to be entered."""
        self.tick()
        if self._live is None or self.window.state not in (OwnerState.OPEN, OwnerState.BUSY):
            return None
        return CodeShown(code=shown_code(self._live.code), qr=qr_text(self._live.code))

    async def open_window(self) -> CodeShown:
        """The driver asks at the head unit to pair the owner's phone; also for a new code.

        Raises:
            PolicyRefusal: By the rules of the window; it stays as it is.
        """
        vehicle = self._vehicle
        self._issue()
        if vehicle.keys.owner_withdrawn:
            self.unpair()  # nothing of the owner who is gone may stand beside the next one
        code, salt = one_time_code(vehicle.entropy), vehicle.entropy.random(16)
        stretch = Stretch(salt=salt, cost=self._cost)
        registration = await asyncio.to_thread(self._stretch, stretch, code)
        record = registration.record()
        window = self._issue()  # time has passed
        payload = Secret(code.reveal() + record.w0.reveal() + record.point.point)
        with vehicle.store.transaction() as writes:
            number = writes.issue_code(
                issued_s=vehicle.wall_clock(),
                salt=salt,
                sealed=vehicle.seal.close(payload, _code_place(salt)),
            )
            vehicle.keys.log(writes, "PAIRING_CODE", text=f"code {number}")
        self.window = window
        self._live = LiveCode(number=number, code=code, salt=salt, record=record)
        shown = CodeShown(code=shown_code(code), qr=qr_text(code))
        self._report("pairing_code", code=shown.code, qr=shown.qr)
        return shown

    def cancel(self) -> None:
        """The driver closes the window; a running attempt ends with its next message."""
        self.window = self.window.cancel()
        self._close_code()

    def factory_reset(self) -> int:
        """Erase all keys, cards and codes at the head unit; return the new owner epoch.

        Raises:
            PolicyRefusal: DRIVING.
        """
        epoch = self._begin_epoch(lambda: erase_owner(self._vehicle, "FACTORY_RESET"))
        self._report("factory_reset", epoch=epoch)
        return epoch

    def transfer(self) -> int:
        """Erase everything for another owner; return the new owner epoch (requirements S55).

        Raises:
            PolicyRefusal: DRIVING.
        """
        epoch = self._begin_epoch(lambda: erase_owner(self._vehicle, "TRANSFERRED"))
        self._report("transferred", epoch=epoch)
        return epoch

    def unpair(self, *, same_person: bool = False) -> int:
        """End the owner's key, and with it all shared ones; return the new owner epoch.

        Args:
            same_person: The owner comes back with another account or phone: the cards stay.

        Raises:
            PolicyRefusal: DRIVING.
        """
        epoch = self._begin_epoch(lambda: unpair_owner(self._vehicle, same_person=same_person))
        self._report("unpaired", epoch=epoch, same_person=same_person)
        return epoch

    def _begin_epoch(self, end: Callable[[], tuple[int, Secret]]) -> int:
        if self._vehicle.body.signals().driving:
            raise PolicyRefusal(RefusalCode.DRIVING, "the vehicle is driving")
        epoch, self._resolving_key = end()
        self.window = self.window.cancel()
        self._live = None
        self._vehicle.reload()
        return epoch

    def tick(self) -> None:
        """Bring the window up to date: deadlines, and the first use of the key it enrolled."""
        window = self.window.tick(now_s=self._vehicle.clock())
        if window.state is OwnerState.PAIRED and window.paired is not None:
            credential = self._vehicle.store.credential(window.paired)
            if credential is None or not credential.first_use:
                window = window.used()
        closed = window.state is OwnerState.CLOSED and self.window.state is not window.state
        self.window = window
        if closed:
            self._close_code()

    # --- phones -----------------------------------------------------------------------------

    @property
    def awaits_device(self) -> bool:
        """Whether the next device on the pad is taken for a phone to pair."""
        self.tick()
        return self.window.state is OwnerState.OPEN

    async def tap(self, link: Link) -> TapOutcome:
        """Pair the phone on the pad. Never raises for what it does."""

        async def tell(message: bytes) -> bytes | None:
            return await run(tell_phone(message), link)

        try:
            attempt = self._begin()
        except PolicyRefusal as exc:
            return self._ended(None, exc)
        try:
            with self._running(attempt):
                await self._run(attempt, await run(select_phone(), link), tell)
        except (PolicyRefusal, RemoteFault, LinkError) as exc:
            return self._ended(attempt, exc)
        return self._paired(attempt)

    def begins(self, first: bytes) -> bool:
        """Whether the first message of a BLE link asks for owner pairing."""
        return is_owner_pairing(first)

    async def serve(self, link: Link, first: bytes) -> TapOutcome:
        """Pair the phone on a message link that began with ``first``. Never raises for its deeds.

        The phone hangs up after the last message; the caller closes the link.
        """

        async def tell(message: bytes) -> bytes | None:
            await link.send(to_sdu(message))
            last = attempt.procedure.done or attempt.procedure.refusal is not None
            return None if last else from_sdu(await link.recv())

        try:
            begin = from_sdu(first)
            attempt = self._begin()
        except (PolicyRefusal, RemoteFault) as exc:
            code = exc.code if isinstance(exc, PolicyRefusal) else None
            await _last(link, failure(code))
            return self._ended(None, exc, Position.BLE)
        try:
            with self._running(attempt):
                async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                    await self._run(attempt, begin, tell)
        except (PolicyRefusal, RemoteFault, LinkError, TimeoutError) as exc:
            outcome = self._ended(attempt, exc, Position.BLE)
            if not isinstance(exc, LinkError) and attempt.procedure.refusal is None:
                await _last(link, failure())
            return outcome
        outcome = self._paired(attempt, Position.BLE)
        await _hang_up(link)
        return outcome

    @contextlib.contextmanager
    def _running(self, attempt: OwnerAttempt) -> Iterator[None]:
        """End the attempt however it ends, also when the vehicle itself stops or fails."""
        try:
            yield
        finally:
            if not attempt.procedure.done:
                attempt.procedure.abandon()
                self.window = self.window.end(attempt.number)

    async def _run(
        self,
        attempt: OwnerAttempt,
        message: bytes,
        tell: Callable[[bytes], Awaitable[bytes | None]],
    ) -> None:
        procedure = attempt.procedure
        answer: bytes | None = message
        while answer is not None:
            said = procedure.step(answer)
            try:
                answer = await tell(said)
            except (LinkError, RemoteFault):
                if not procedure.done:
                    raise
                log.info("the phone left before it learned that it is paired")
                return
        if procedure.refusal is not None:
            raise procedure.refusal

    def _begin(self) -> OwnerAttempt:
        """Begin an attempt; each one has its number in the window."""
        self.tick()
        window = self.window.begin(self.case(), now_s=self._vehicle.clock())
        if self._live is None:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "there is no code")
        self.window = window
        return OwnerAttempt(self, self._vehicle, self._live, window.attempt, self._cost)

    def _paired(self, attempt: OwnerAttempt, position: Position = _PAD) -> TapOutcome:
        credential = attempt.enrolled
        self._report(
            "paired",
            credential=credential.credential_id,
            position=position.value,
            features=sorted(attempt.granted.features),
            missing={str(feature): why for feature, why in attempt.granted.missing.items()},
        )
        return TapOutcome(
            position=position,
            credential_id=credential.credential_id,
            name=credential.name,
            text="the owner's phone is paired; its first standard transaction makes it count",
        )

    def _ended(
        self, attempt: OwnerAttempt | None, exc: Exception, position: Position = _PAD
    ) -> TapOutcome:
        if isinstance(exc, PolicyRefusal):
            code, text = exc.code, str(exc)
        elif attempt is not None and attempt.guessed:
            code, text = RefusalCode.NOT_AUTHORISED, "the phone did not prove the code"
        elif isinstance(exc, DkeyError):
            code, text = failure_of(exc)
        else:
            code, text = RefusalCode.CARD_DAMAGED, "the phone took too long"
        if attempt is not None and self.window.state is OwnerState.LOCKED:
            code, text = RefusalCode.CODE_LOCKED_OUT, f"the code was tried {CODE_MAX_TRIES} times"
        self._vehicle.keys.note("REFUSED", position=position, code=code, text=text)
        self._report("pairing_refused", code=code.value, text=text, position=position.value)
        return TapOutcome(position=position, code=code, text=text)

    # --- memory -------------------------------------------------------------------------------

    def case(self) -> OwnerCase:
        """Return what the rules of the window look at, as it is now."""
        linked = any(
            each.role is Role.OWNER
            and each.state is not CredentialState.REVOKED
            and not each.first_use
            for each in self._vehicle.store.credentials()
        )
        return OwnerCase(linked=linked, signals=self._vehicle.body.signals())

    def _issue(self) -> OwnerWindow:
        self.tick()
        wall_s = self._vehicle.wall_clock()
        ages_s = [wall_s - each.issued_s for each in self._vehicle.store.pairing_codes()]
        return self.window.issue(self.case(), ages_s=ages_s, now_s=self._vehicle.clock())

    def _close_code(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with self._vehicle.store.transaction() as writes:
                writes.close_code(live.number)

    def _open_resolving_key(self) -> Secret:
        store, seal = self._vehicle.store, self._vehicle.seal
        now = store.ownership()
        if now.resolving_key is not None:
            return seal.open(now.resolving_key, resolving_place(now.epoch))
        key = Secret(self._vehicle.entropy.random(_RESOLVING_KEY))
        with store.transaction() as writes:
            writes.set_resolving_key(seal.close(key, resolving_place(now.epoch)))
        return key

    def _restore(self) -> None:
        """Take the code up where it was before a restart."""
        codes = [each for each in self._vehicle.store.pairing_codes() if not each.closed]
        if not codes:
            return
        found = codes[-1]
        self._live = self._opened(found)
        self.window = OwnerWindow.restored(
            tries=found.tries,
            age_s=self._vehicle.wall_clock() - found.issued_s,
            paired=found.credential_id,
            now_s=self._vehicle.clock(),
        )
        self.tick()

    def _opened(self, kept: PairingCode) -> LiveCode:
        if kept.sealed is None:
            raise LocalFault("a closed code cannot be tried")
        payload = self._vehicle.seal.open(kept.sealed, _code_place(kept.salt)).reveal()
        record = Record(w0=Secret(payload[8:40]), point=PublicKey.parse(payload[40:]))
        return LiveCode(number=kept.number, code=Secret(payload[:8]), salt=kept.salt, record=record)


async def _last(link: Link, message: bytes) -> None:
    """Send a last message; a phone that left misses it."""
    with contextlib.suppress(LinkError):
        await link.send(to_sdu(message))
        await _hang_up(link)


async def _hang_up(link: Link) -> None:
    """Wait a moment for the phone to hang up."""
    with contextlib.suppress(LinkError, TimeoutError):
        async with asyncio.timeout(_HANG_UP_S):
            await link.recv()


def _quiet(event: str, /, **fields: object) -> None:
    del event, fields


def _code_place(salt: bytes) -> bytes:
    return b"pairing code/" + salt
