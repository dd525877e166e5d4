"""What the vehicle's radio advertises, and how it stays untraceable while it does."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Final

from bumble import core

from dkey.codec.ble_advert import (
    EXPIRY_UNAVAILABLE,
    Advert,
    VehicleAdvert,
    dynamic_tag,
    vehicle_tag,
)
from dkey.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.access.profile import Profile
    from dkey.crypto.secret import Secret
    from firmware_mock.air_controller import AirDevice

__all__ = ["Advertiser"]

_log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0


class Advertiser:
    """Keeps one host advertising: again after each connection, under a new name by time.

    Args:
        profile: The wire profile.
        resolving_key: Group resolving key, 16 bytes.
        rotation_s: Seconds between renewals.
        interval_ms: Advertising interval.
        group_id, sub_id: Identifiers of the reader, 16 bytes each, for the aliro profile.
        chance: Source of random bytes.

    Attributes:
        ranging, remote, pairing: What is offered, from the next renewal on.
        resolving_key: The key, likewise.
    """

    def __init__(
        self,
        profile: Profile,
        resolving_key: Secret,
        *,
        rotation_s: float,
        interval_ms: float,
        group_id: bytes,
        sub_id: bytes,
        chance: Callable[[int], bytes],
    ) -> None:
        self._aliro = profile.name == "aliro"
        if self._aliro and (len(group_id), len(sub_id)) != (16, 16):
            raise LocalFault("the aliro profile advertises the reader: give group_id and sub_id")
        self.resolving_key = resolving_key
        self.ranging = self.remote = self.pairing = False
        self._rotation_s = rotation_s
        self._interval_ms = interval_ms
        self._group_id, self._sub_id = group_id, sub_id
        self._chance = chance
        self._nonce = b""
        self._expiry: float = EXPIRY_UNAVAILABLE
        self._announcing = asyncio.Lock()
        self._silent = asyncio.Event()
        self._stopped = False

    def silenced(self) -> None:
        """Say that a connection took the advertiser."""
        self._silent.set()

    async def renew(self, host: AirDevice, now: float | None = None) -> None:
        """Renew address, nonce and tag, and advertise; ``now`` is unix seconds, if known."""
        self._expiry = EXPIRY_UNAVAILABLE if now is None else now + self._rotation_s
        await self._announce(host, renew=True)

    async def keep_on_air(self, host: AirDevice) -> None:
        """Run until :meth:`stop`. Not to be cancelled: Bumble loses step with the controller."""
        loop = asyncio.get_running_loop()
        renew_at, retry_at = loop.time() + self._rotation_s, math.inf
        while not self._stopped:
            renew = False
            try:
                async with asyncio.timeout_at(min(renew_at, retry_at)):
                    await self._silent.wait()
            except TimeoutError:
                renew = renew_at <= retry_at
            self._silent.clear()
            if renew:
                renew_at = loop.time() + self._rotation_s
                if self._expiry != EXPIRY_UNAVAILABLE:
                    self._expiry += self._rotation_s
            retry_at = math.inf
            try:
                await self._announce(host, renew=renew)
            except core.BaseBumbleError as exc:
                _log.warning("the controller refuses to advertise: %s", exc)
                retry_at = loop.time() + _RETRY_S

    async def stop(self, host: AirDevice) -> None:
        """Advertise no more."""
        self._stopped = True
        self._silent.set()
        async with self._announcing:
            await host.stop_advertising()

    async def _announce(self, host: AirDevice, *, renew: bool) -> None:
        async with self._announcing:
            if self._stopped:
                return
            await host.stop_advertising()
            if renew:
                if not await host.update_rpa():
                    _log.warning("the address stays: the host scans or connects elsewhere")
                self._nonce = self._chance(4)
            data, answer = self._data(bytes(host.random_address)[::-1])
            await host.start_advertising(
                advertising_data=data,
                scan_response_data=answer,
                advertising_interval_min=self._interval_ms,
                advertising_interval_max=self._interval_ms,
            )

    def _data(self, address: bytes) -> tuple[bytes, bytes]:
        key = self.resolving_key.reveal()
        if not self._aliro:
            ours = VehicleAdvert(
                ranging=self.ranging,
                remote=self.remote,
                pairing=self.pairing,
                nonce=self._nonce,
                tag=vehicle_tag(key, self._nonce),
            )
            return ours.to_bytes(), ours.scan_response
        expiry = int(self._expiry)
        published = Advert(
            ranging=self.ranging,
            ble_only=True,
            group_prefix=self._group_id[:8],
            sub_prefix=self._sub_id[:2],
            expiry=expiry,
            tag=dynamic_tag(key, address, expiry),
        )
        return published.to_bytes(), b""
