"""Pairing as the owner: the phone's side over BLE and NFC (specs/pairing.md).

The vehicle is kept before it hears that it may enrol the key, so a phone that is torn away then
does not lose a key that the vehicle has; the next pairing uses the same key again.
"""

from __future__ import annotations

import asyncio
import platform
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from dkey.agent.advice import SENTENCES, Trouble, Unreachable, trouble, unreachable
from dkey.agent.finding import Patience, find, pairing_open, patiently
from dkey.agent.store_schema import KeyState
from dkey.agent.touching import Ending, HomeThread, serve_until
from dkey.errors import (
    AuthenticationError,
    DkeyError,
    LinkError,
    LinkReason,
    LocalFault,
    PolicyRefusal,
    RemoteFault,
)
from dkey.lifecycle.features import Capabilities
from dkey.pairing.owner import (
    OwnerPairingApplet,
    OwnerPairingDevice,
    Stretch,
    from_sdu,
    to_sdu,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dkey.agent.finding import Central
    from dkey.agent.store import AgentStore
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret
    from dkey.link.base import FrameTap, Link
    from dkey.pairing.owner import PairedVehicle

__all__ = ["enrol", "enrol_nfc", "this_device"]

_ANSWER_S: Final = 10.0


def this_device(*, nfc: bool = True, ble: bool = True, uwb: bool = False) -> Capabilities:
    """Return what this computer is able to, as far as it was told (requirements S21)."""
    name = {"darwin": "macos"}.get(platform.system().lower(), platform.system().lower())
    version = platform.mac_ver()[0] if name == "macos" else platform.release()
    return Capabilities(nfc=nfc, ble=ble, uwb=uwb, os=f"{name} {version}"[:32])


async def enrol(
    store: AgentStore,
    central: Central[Any],
    code: Secret,
    capabilities: Capabilities,
    *,
    entropy: Entropy,
    patience: Patience,
    tell: Callable[..., None],
    link: Link | None = None,
) -> PairedVehicle:
    """Pair over BLE and keep the vehicle as REGISTERED.

    Finding and connecting are tried again; the code is not, because a wrong one counts.

    Args:
        store: Gets the key and the vehicle.
        central: Finds the vehicle.
        code: 8 digits.
        capabilities: What this device is able to.
        entropy: Random source.
        patience: How long to look.
        tell: Told of progress, with a name and plain values.
        link: A link to the vehicle; None finds the one that has pairing open.

    Raises:
        PolicyRefusal: The vehicle refused, with its code.
        RemoteFault: The code is wrong, or the peer broke the protocol.
        Unreachable: No vehicle in range has pairing open, or the link broke.
    """
    if link is None:
        link = await _to_open_window(central, patience, tell)
    try:
        async with _attempt(store, capabilities, entropy) as device:
            try:
                await _over_messages(device, link, code, tell)
            except (LinkError, TimeoutError) as exc:
                raise _broken_off(device, exc) from exc
    finally:
        await link.aclose()
    return _result(device, tell)


async def enrol_nfc(
    store: AgentStore,
    link: str,
    code: Secret,
    capabilities: Capabilities,
    *,
    entropy: Entropy,
    tell: Callable[..., None],
    timeout_s: float,
    tap: FrameTap | None = None,
) -> PairedVehicle:
    """Pair over NFC: lay this phone on the console pad, on an NFC or apdu-tcp link string.

    Raises:
        PolicyRefusal: The vehicle refused, with its code.
        RemoteFault: The code is wrong, or the peer broke the protocol.
        Unreachable: No reader came within ``timeout_s``, or the link broke.
    """
    ending: Ending[None] = Ending()
    async with _attempt(store, capabilities, entropy) as device:
        attempts = iter((device,))

        def attempt() -> OwnerPairingDevice:
            for each in attempts:
                return each
            raise LocalFault("the pairing is over", hint="begin a new one")

        applet = OwnerPairingApplet(
            attempt,
            lambda stretch: stretch.run(code),
            paired=lambda _device: ending.done(None),
            failed=ending.failed,
        )
        try:
            await serve_until(ending, link, applet, tell=tell, timeout_s=timeout_s, tap=tap)
        except LinkError as exc:
            raise _broken_off(device, exc) from exc
    return _result(device, tell)


async def _to_open_window(
    central: Central[Any], patience: Patience, tell: Callable[..., None]
) -> Link:
    tell("searching", pairing=True)

    async def attempt() -> Link:
        sighting, link = await find(central, pairing_open, patience)
        tell("connected", address=sighting.address, rssi_dbm=sighting.rssi_dbm)
        return link

    def retried(number: int, exc: Unreachable) -> None:
        tell("retry", attempt=number, trouble=exc.trouble.value, text=str(exc))

    try:
        return await patiently(attempt, patience, retried)
    except Unreachable as exc:
        if exc.trouble is not Trouble.NOT_IN_RANGE:
            raise
        raise Unreachable(
            Trouble.NOT_IN_RANGE,
            "no vehicle in range has owner pairing open",
            reason=exc.reason,
            hint="sit in the vehicle, switch the ignition on, and open pairing at the head unit",
        ) from exc


@asynccontextmanager
async def _attempt(
    store: AgentStore, capabilities: Capabilities, entropy: Entropy
) -> AsyncIterator[OwnerPairingDevice]:
    """Give the phone's end of an attempt; its key goes again unless the vehicle was kept."""
    pending = [
        each
        for each in store.vehicles()
        if each.state is KeyState.REGISTERED and not store.keys.state.shared(each.group_id)
    ]
    key = pending[0].key if pending else store.new_key()
    home = HomeThread()

    def keep(vehicle: PairedVehicle) -> None:
        if pending and pending[0].group_id != vehicle.group_id:
            waiting = pending[0].group_id.hex()
            raise LocalFault(
                f"the setup with vehicle {waiting} is not finished",
                hint=f"finish it there with `dkey agent status`, or `dkey agent forget {waiting}`",
            )
        home.run(lambda: store.add(vehicle, key))

    device = OwnerPairingDevice(
        vault=store.vault, key=key, capabilities=capabilities, entropy=entropy, keep=keep
    )
    try:
        yield device
    except (PolicyRefusal, AuthenticationError) as exc:
        _record(store, exc)
        raise _explained(exc) from exc
    finally:
        if not device.done:
            device.abandon()
        if all(each.key != key for each in store.vehicles()):
            store.drop_key(key)


async def _over_messages(
    device: OwnerPairingDevice, link: Link, code: Secret, tell: Callable[..., None]
) -> None:
    """Run an attempt over a message link; every wait has a deadline."""
    message: bytes | None = device.begin()
    while message is not None:
        await link.send(to_sdu(message))
        async with asyncio.timeout(_ANSWER_S):
            answer = from_sdu(await link.recv())
        step = device.step(answer)
        if isinstance(step, Stretch):
            tell("code", step="stretching")
            registration = await asyncio.to_thread(step.run, code)
            message = device.stretched(registration)
        else:
            message = step


def _broken_off(device: OwnerPairingDevice, exc: LinkError | TimeoutError) -> Unreachable:
    """Return the error for a pairing whose link broke; after GRANT the key may be enrolled."""
    if device.paired is not None:
        return trouble(Trouble.UNCERTAIN, LinkReason.LOST)
    if isinstance(exc, LinkError):
        return unreachable(exc)
    return trouble(Trouble.TIMED_OUT, LinkReason.TIMEOUT)


def _result(device: OwnerPairingDevice, tell: Callable[..., None]) -> PairedVehicle:
    vehicle = device.paired
    if vehicle is None:
        raise RemoteFault("the pairing ended without a vehicle", hint="pair again")
    tell(
        "paired",
        vehicle=vehicle.group_id.hex(),
        features=sorted(vehicle.features),
        key_name=vehicle.key_name,
    )
    return vehicle


def _record(store: AgentStore, exc: DkeyError) -> None:
    code = exc.code.value if isinstance(exc, PolicyRefusal) else Trouble.UNTRUSTED.value
    store.record("pairing refused", code=code, text=str(exc))


def _explained(exc: PolicyRefusal | AuthenticationError) -> DkeyError:
    """Return the failure with a sentence and what to try; the vehicle's own words stay."""
    if not isinstance(exc, PolicyRefusal):
        return AuthenticationError(
            "the code is wrong, or this is not the vehicle that shows it",
            clause=exc.clause,
            hint="compare it with the head unit; the third wrong code locks it",
        )
    sentence, hint = SENTENCES[exc.code]
    said = str(exc)
    text = sentence if exc.code.value in said else f"{sentence} {said}"
    return PolicyRefusal(exc.code, text, remaining_s=exc.remaining_s, hint=exc.hint or hint)
