"""The phone-side key agent: finds the vehicle, proves the key, asks for actions.

A key goes NONE -> REGISTERED (paired) -> SYNCED (the vehicle confirmed it by a standard
transaction); no command is sent before SYNCED (requirements S20, S79). Functions that vehicle,
device and permission do not have in common are refused here and not shown (S16, S17). What fails
says why and what to try (:mod:`dkey.agent.advice`); a refusal is never tried again by itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from dkey.access.ble_applet import BleApplet
from dkey.agent.advice import NotPaired, Unreachable, refusal, trouble_of
from dkey.agent.agent_session import AgentSession, session_over
from dkey.agent.agent_status import Outcome, Status, doors_text
from dkey.agent.carried import CarriedStore
from dkey.agent.enrolment import enrol, enrol_nfc
from dkey.agent.finding import Patience, find, patiently, resolves
from dkey.agent.store_schema import KeyState
from dkey.agent.touching import touch
from dkey.codec.ble import RkeAction
from dkey.errors import DkeyError, PolicyRefusal, RefusalCode, StoreError
from dkey.lifecycle.features import Feature
from dkey.lifecycle.parcel import HEADER_SIZE, ParcelHeader

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.agent.agent_ranging import AgentRanging
    from dkey.agent.finding import Central
    from dkey.agent.store import AgentStore, VehicleKey
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret
    from dkey.lifecycle.features import Capabilities
    from dkey.link.base import FrameTap, Link

__all__ = ["Agent", "Outcome", "Status"]

_AFTER: Final = {RkeAction.LOCK: "locked", RkeAction.UNLOCK: "unlocked"}


class Agent:
    """One user's key to one vehicle.

    Used from one event loop; commands take turns. A connection stays up for the next command.

    Args:
        store: Where keys lie; stays the caller's to close.
        central: The radio; closed with the agent.
        entropy: Source of ephemeral keys.
        group_id: Which vehicle, where the store has several.
        patience: How long and how often to try.
        tap: Told what passes when the phone is held to a reader; BLE has the central's.
        on_event: Told what happens: a name and plain values, as ``dkey agent run --json`` prints.
        ranging: The phone's UWB; None without.
    """

    def __init__(
        self,
        store: AgentStore,
        central: Central[Any],
        *,
        entropy: Entropy,
        group_id: bytes | None = None,
        patience: Patience | None = None,
        tap: FrameTap | None = None,
        on_event: Callable[[str, dict[str, Any]], None] = lambda _name, _values: None,
        ranging: AgentRanging | None = None,
    ) -> None:
        self._ranging = ranging
        self._store = store
        self._central = central
        self._entropy = entropy
        self._group_id = group_id
        self._patience = patience or Patience()
        self._tap = tap
        self._on_event = on_event
        self._turn = asyncio.Lock()
        self._session: AgentSession | None = None
        self._carried = (0, 0, 0)
        self._followed: AgentSession | None = None

    # --- what is known ----------------------------------------------------------------------

    @property
    def known(self) -> VehicleKey | None:
        """The vehicle of this agent; None when none is paired.

        Raises:
            NotPaired: The chosen one is not paired, or several are and none was chosen.
        """
        vehicles = self._store.vehicles()
        if self._group_id is not None:
            for each in vehicles:
                if each.group_id == self._group_id:
                    return each
            raise NotPaired(
                f"vehicle {self._group_id.hex()} is not paired", hint="`dkey agent pair` pairs one"
            )
        if len(vehicles) > 1:
            names = ", ".join(each.group_id.hex() for each in vehicles)
            raise NotPaired(
                f"several vehicles are paired: {names}", hint="choose one with --vehicle"
            )
        return vehicles[0] if vehicles else None

    @property
    def state(self) -> KeyState:
        """How far the key is set up."""
        return KeyState.NONE if self.known is None else self.known.state

    @property
    def actions(self) -> tuple[RkeAction, ...]:
        """What may be asked for now; what is not effective is hidden (requirements S16, S17)."""
        known = self.known
        if known is None or known.state is not KeyState.SYNCED:
            return ()
        return tuple(RkeAction) if Feature.REMOTE in known.vehicle.features else ()

    async def status(self, *, connect: bool = True) -> Status:
        """Return what is known; finishes the setup of a key where the vehicle is reached.

        Args:
            connect: Whether to reach for the vehicle.
        """
        error: DkeyError | None = None
        async with self._turn:
            known = self.known
            if known is not None and connect:
                try:
                    synced = known.state is KeyState.SYNCED
                    await self._connected(known, standard=not synced)
                except DkeyError as exc:
                    error = exc
            session = self._session
            return Status(
                state=self.state,
                known=self.known,
                actions=self.actions,
                reached=None if known is None or not connect else error is None,
                error=error,
                doors=doors_text(session.doors if session else None),
                fast=session.fast if session else None,
            )

    async def follow(self) -> bool:
        """Connect for ranging, where no connection may range; return whether one was made.

        Raises:
            NotPaired: No vehicle is paired.
            PolicyRefusal: The vehicle turned the key away, or has no proximity.
            Unreachable: The vehicle was not reached.
        """
        async with self._turn:
            known, session = self.known, self._session
            if known is None:
                raise NotPaired("no vehicle is paired", hint="`dkey agent pair` pairs one")
            if Feature.PROXIMITY_LOCK not in known.vehicle.features:
                raise refusal(RefusalCode.FEATURE_NOT_SUPPORTED)
            # One that this made stays, whatever came of ranging: a phone is no nuisance.
            if session is not None and session is self._followed and await session.alive():
                return False
            await self._drop()
            self._followed = await self._connected(known, standard=False)
            return True

    # --- commands ---------------------------------------------------------------------------

    async def unlock(self) -> Outcome:
        """Unlock the doors; raises as :meth:`command`."""
        return await self.command(RkeAction.UNLOCK)

    async def lock(self) -> Outcome:
        """Lock the doors; raises as :meth:`command`."""
        return await self.command(RkeAction.LOCK)

    async def start(self) -> Outcome:
        """Start the engine, always after a standard transaction; raises as :meth:`command`."""
        return await self.command(RkeAction.REMOTE_START)

    async def stop(self) -> Outcome:
        """Stop an engine that :meth:`start` started; raises as :meth:`command`."""
        return await self.command(RkeAction.REMOTE_STOP)

    async def horn(self, *, on: bool) -> Outcome:
        """Sound the horn, which stops by itself, or silence it; raises as :meth:`command`."""
        return await self.command(RkeAction.HORN_ON if on else RkeAction.HORN_OFF)

    async def command(self, action: RkeAction) -> Outcome:
        """Ask the vehicle for an action.

        Raises:
            NotPaired: No vehicle is paired.
            PolicyRefusal: The vehicle, or the agent itself, says no; ``code`` tells why.
            Unreachable: The vehicle was not reached, or the answer did not come.
            RemoteFault: The peer did not prove to be the vehicle.
            LocalFault: Something on this side is wrong.
        """
        began_s = asyncio.get_running_loop().time()
        async with self._turn:
            known = self._permitted(action)
            standard = action is RkeAction.REMOTE_START
            session = await self._ask(known, action, standard=standard)
            return Outcome(
                action=action,
                fast=session.fast,
                doors=_AFTER.get(action) or doors_text(session.doors),
                elapsed_s=asyncio.get_running_loop().time() - began_s,
            )

    def _permitted(self, action: RkeAction) -> VehicleKey:
        """Refuse here what needs no vehicle to refuse it."""
        known = self.known
        if known is None:
            raise NotPaired("no vehicle is paired", hint="`dkey agent pair` pairs one")
        if known.state is KeyState.FORGOTTEN:
            raise refusal(RefusalCode.KEY_UNKNOWN)
        if known.state is not KeyState.SYNCED:
            raise refusal(RefusalCode.NOT_SYNCED)
        if action not in self.actions:
            raise refusal(RefusalCode.FEATURE_NOT_SUPPORTED)
        return known

    async def _ask(self, known: VehicleKey, action: RkeAction, *, standard: bool) -> AgentSession:
        """Connect where needed, ask once, and note the answer; return the connection."""
        session = await self._connected(known, standard=standard)
        try:
            verdict = await session.request(action, answer_s=self._patience.answer_s)
        except DkeyError as exc:
            await self._drop()
            self._note("failed", known, code=trouble_of(exc).value, text=action.name)
            raise
        if verdict.code == RefusalCode.STANDARD_REQUIRED and session.fast:
            return await self._ask(known, action, standard=True)
        self._tell(
            "verdict", action=action.name, code=verdict.code, remaining_s=verdict.remaining_s
        )
        if verdict.code is None:
            self._note("command", known, text=action.name)
            return session
        self._note("refused", known, code=verdict.code, text=action.name)
        if verdict.code == RefusalCode.KEY_UNKNOWN:
            await self._forgotten(known)
        raise refusal(verdict.code, verdict.remaining_s)

    # --- pairing ----------------------------------------------------------------------------

    async def pair(
        self,
        code: Secret,
        capabilities: Capabilities,
        *,
        link: Link | None = None,
    ) -> Status:
        """Pair with the vehicle whose head unit shows ``code``, then let it confirm the key.

        Args:
            code: What the head unit shows.
            capabilities: What this device is able to.
            link: A message link to the vehicle; None searches for one that has pairing open.

        Returns:
            The status after it: SYNCED, or REGISTERED with the error that kept the vehicle from
            confirming the key yet.

        Raises:
            PolicyRefusal: The vehicle refused; nothing was kept.
            Unreachable: No vehicle has pairing open in range, or the link broke.
            RemoteFault: The code is wrong, or the peer is not the vehicle that shows it.
        """
        async with self._turn:
            await self._drop()
            vehicle = await enrol(
                self._store,
                self._central,
                code,
                capabilities,
                entropy=self._entropy,
                patience=self._patience,
                tell=self._tell,
                link=link,
            )
            self._group_id = vehicle.group_id
        return await self.status()

    async def pair_nfc(
        self, code: Secret, capabilities: Capabilities, link: str, *, timeout_s: float
    ) -> Status:
        """Pair on the console pad: be a phone on an NFC or apdu-tcp link; as :meth:`pair`.

        The vehicle confirms the key when it is reached next, over BLE or by :meth:`touch`.
        """
        async with self._turn:
            await self._drop()
            vehicle = await enrol_nfc(
                self._store,
                link,
                code,
                capabilities,
                entropy=self._entropy,
                tell=self._tell,
                timeout_s=timeout_s,
                tap=self._tap,
            )
            self._group_id = vehicle.group_id
        return await self.status(connect=Feature.REMOTE in vehicle.features)

    async def touch(self, link: str, *, timeout_s: float) -> Status:
        """Be held to a reader of the vehicle, on an NFC or apdu-tcp link, for one transaction.

        A standard one finishes the setup of the key, as over BLE.

        Raises:
            NotPaired: No vehicle is paired.
            PolicyRefusal: The vehicle turned the key away.
            Unreachable: No reader came within ``timeout_s``, or it left too early.
        """
        async with self._turn:
            known = self.known
            if known is None:
                raise NotPaired("no vehicle is paired", hint="`dkey agent pair` pairs one")
            try:
                event = await touch(
                    self._store,
                    known,
                    link,
                    entropy=self._entropy,
                    tell=self._tell,
                    timeout_s=timeout_s,
                    tap=self._tap,
                )
            except PolicyRefusal as exc:
                self._note("refused", known, code=exc.code.value, text="touch")
                if exc.code is RefusalCode.KEY_UNKNOWN:
                    await self._forgotten(known)
                raise
            self._tell("authenticated", flow="fast" if event.fast else "standard")
            if not event.fast:
                self._confirmed(known)
            return Status(
                state=self.state,
                known=self.known,
                actions=self.actions,
                reached=True,
                doors=doors_text(event.status & 0xFF),
                fast=event.fast,
            )

    async def leave(self) -> None:
        """Leave the vehicle; the next command connects anew. May be called twice."""
        async with self._turn:
            await self._drop()

    async def aclose(self) -> None:
        """Leave the vehicle and let the radio go. May be called twice."""
        await self._drop()
        await self._central.aclose()

    # --- the connection ---------------------------------------------------------------------

    async def _connected(self, known: VehicleKey, *, standard: bool) -> AgentSession:
        """Return a connection that serves; the present one, or a new one within the patience."""
        session = self._session
        fits = not (standard and session is not None and session.fast)
        if session is not None and fits and not self._has_news(known) and await session.alive():
            return session
        await self._drop()

        def retried(number: int, exc: Unreachable) -> None:
            self._tell("retry", attempt=number, trouble=exc.trouble.value, text=str(exc))

        try:
            session = await patiently(
                lambda: self._attempt(known, standard=standard), self._patience, retried
            )
        except PolicyRefusal as exc:
            self._note("refused", known, code=exc.code.value, text="connection")
            if exc.code is RefusalCode.KEY_UNKNOWN:
                await self._forgotten(known)
            raise
        self._session = session
        self._tell("authenticated", flow="fast" if session.fast else "standard")
        if not session.fast:
            self._confirmed(known)
        return session

    async def _attempt(self, known: VehicleKey, *, standard: bool) -> AgentSession:
        self._tell("searching", vehicle=known.group_id.hex())
        wanted = resolves(known.vehicle.resolving_key)
        sighting, link = await find(self._central, wanted, self._patience)
        self._tell("connected", address=sighting.address, rssi_dbm=sighting.rssi_dbm)
        credential = self._store.credential(known.group_id)
        self._carried = self._carries(known)
        applet = BleApplet(
            credential, self._entropy, store=CarriedStore(self._store, known.group_id)
        )
        # Only a connection that may range can begin with a fast transaction.
        remote_only = standard or not credential.kpersistent
        if self._ranging is not None and not credential.kpersistent:
            remote_only = False  # without it the transaction is a standard one anyway
        return await AgentSession.open(
            link,
            session_over(link, applet, remote_only=remote_only),
            applet,
            on_status=lambda state: self._tell("doors", state=doors_text(state)),
            on_end=lambda: self._tell("disconnected"),
            ranging=self._ranging,
        )

    def _has_news(self, known: VehicleKey) -> bool:
        """Whether something is to be carried that was not there when the connection was made."""
        return self._carries(known) != self._carried

    def _carries(self, known: VehicleKey) -> tuple[int, int, int]:
        """Return what tells one parcel from an older one."""
        content = self._store.keys.carried(known.group_id).data
        header = ParcelHeader.parse(content[:HEADER_SIZE])
        return header.epoch, header.owner_list, header.authority_list

    def _confirmed(self, known: VehicleKey) -> None:
        """A standard transaction succeeded: the key counts from now on (requirements S79)."""
        if known.state is not KeyState.SYNCED:
            self._store.set_state(known.group_id, KeyState.SYNCED, "standard transaction")
            self._tell("synced", vehicle=known.group_id.hex())

    async def _forgotten(self, known: VehicleKey) -> None:
        """The vehicle, having proved who it is, does not know the key: nothing is tried with it."""
        await self._drop()
        self._store.set_state(known.group_id, KeyState.FORGOTTEN, "said by the vehicle")
        self._tell("forgotten", vehicle=known.group_id.hex())

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.aclose()

    def _tell(self, name: str, **values: Any) -> None:
        self._on_event(name, values)

    def _note(self, kind: str, known: VehicleKey, *, code: str | None = None, text: str) -> None:
        """Add to the history; a full disk must not hide what the vehicle did."""
        try:
            self._store.record(kind, group_id=known.group_id, code=code, text=text)
        except StoreError as exc:
            self._tell("history_failed", text=str(exc))
