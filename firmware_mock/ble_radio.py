"""The vehicle's Bluetooth LE radio: advertising, the GATT service, and links to phones.

It runs on the virtual air or, by Bumble's name of a transport, on a controller that it has for
itself: ``usb:0``, ``serial:/dev/ttyACM0,1000000``, ``hci-socket:1``, ``tcp-client:HOST:PORT``,
``unix-client:PATH``. Nothing that it sends before a phone is authenticated tells one vehicle of
the vehicle profile from another: address, nonce and tag are renewed together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING, Any, Final, Self

from bumble import att, core, hci, l2cap
from bumble.device import DeviceConfiguration
from bumble.host import Host
from bumble.pairing import PairingConfig

from dkey.codec.ble_advert import DeviceChoice, ReaderInfo
from dkey.errors import LinkError, LinkReason, LocalFault, WireError
from firmware_mock.air_controller import AirDevice
from firmware_mock.ble_advertiser import Advertiser
from firmware_mock.ble_hci import open_controller
from firmware_mock.ble_limits import PeerStage, RadioLimits
from firmware_mock.ble_peer import PeerLink
from firmware_mock.ble_service import NoBonds, aliro_service, vehicle_service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from bumble.device import Connection
    from bumble.gatt import Characteristic
    from bumble.transport.common import Transport

    from dkey.access.profile import Profile
    from dkey.crypto.secret import Secret

    OnPeer = Callable[[PeerLink], Awaitable[None]]

__all__ = ["PeerLink", "RadioLimits", "VehicleRadio"]

_log = logging.getLogger(__name__)

_SPSM: Final = 0x0080
_MPS: Final = 512
_CREDITS: Final = 16
_ROTATION_S: Final = 900.0  # Core 5.4 Vol 3 Part C §10.7.1: recommended for private addresses
_OPEN_S: Final = 10.0
_CLOSE_S: Final = 2.0
_CANCEL_S: Final = 0.5
_NAME: Final = "dkey"  # readable by everybody who connects, so the same for all vehicles
_BAD_CHOICE: Final = 0x80  # ATT: first of the application's own errors


class VehicleRadio:
    """The BLE peripheral of one vehicle.

    Args:
        where: A host on the virtual air (it stays its owner's), or text: ``ble-sim:HOST:PORT``,
            ``ble-sim:/PATH``, or Bumble's name of a transport.
        profile: The wire profile; of ``aliro`` there is the L2CAP bearer alone.
        resolving_key: Group resolving key, 16 bytes: whoever has it recognises the vehicle.
        on_peer: Run as a task for every phone that selected a bearer. When it returns the link
            ends; when the link ends it gets LinkError, and ``limits.wind_up_s`` to return.
        limits: What phones may take.
        rotation_s: Seconds between renewals of address and tag.
        interval_ms: Advertising interval.
        group_id, sub_id: Identifiers of the reader, 16 bytes each; the aliro profile advertises
            8 and 2 bytes of them, as it is published.
        ranging, remote: Whether the advertisement offers them.
        open_s: Longest time to open and set up the controller.
        chance: Source of random bytes.

    Attributes:
        info: What phones read: SPSM, versions, features.
    """

    def __init__(
        self,
        where: AirDevice | str,
        *,
        profile: Profile,
        resolving_key: Secret,
        on_peer: OnPeer,
        limits: RadioLimits | None = None,
        rotation_s: float = _ROTATION_S,
        interval_ms: float = 100.0,
        group_id: bytes = b"",
        sub_id: bytes = b"",
        ranging: bool = False,
        remote: bool = True,
        open_s: float = _OPEN_S,
        chance: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.limits = limits or RadioLimits()
        self.info = ReaderInfo(spsm=_SPSM, versions=b"".join(profile.versions))
        self._aliro = profile.name == "aliro"
        self._where = where
        self._on_peer = on_peer
        self._open_s, self._chance = open_s, chance
        self._advertiser = Advertiser(
            profile,
            resolving_key,
            rotation_s=rotation_s,
            interval_ms=interval_ms,
            group_id=group_id,
            sub_id=sub_id,
            chance=chance,
        )
        self._advertiser.ranging, self._advertiser.remote = ranging, remote
        self._host: AirDevice | None = None
        self._transport: Transport | None = None
        self._tx: Characteristic[bytes] | None = None
        self._peers: dict[Connection, PeerLink] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._closed = False

    # -- life

    async def start(self) -> None:
        """Open the controller, serve and advertise.

        Raises:
            LinkError: ABSENT, BUSY, DENIED, UNSUPPORTED or TIMEOUT, with what to do.
        """
        if self._host is not None or self._closed:
            raise LocalFault("a radio is started once")
        if isinstance(self._where, str):
            self._transport = pipe = await open_controller(self._where)
            config = DeviceConfiguration(name=_NAME, irk=self._chance(16))
            self._host = host = AirDevice(config=config, host=Host(pipe.source, pipe.sink))
        else:
            self._host = host = self._where
        host.on(host.EVENT_CONNECTION, self._connected)
        try:
            async with asyncio.timeout(self._open_s):
                self._serve(host)
                await host.power_on()
                await self._advertiser.renew(host)
        except (TimeoutError, core.BaseBumbleError) as exc:
            await self.aclose()
            raise LinkError(
                LinkReason.TIMEOUT,
                "the Bluetooth controller does not answer as one",
                hint="check that nothing else uses it, and reset it",
            ) from exc
        except BaseException:
            await self.aclose()
            raise
        upkeep = self._spawn(self._advertiser.keep_on_air(host))
        if self._transport is not None:
            self._watch = self._spawn(self._await_loss(self._transport, upkeep))

    async def aclose(self) -> None:
        """Stop advertising and end all links and their tasks, within 5 s. May be called twice."""
        host = self._host
        if self._closed or host is None:
            self._closed = True
            return
        self._closed = True
        for link in self.peers:
            link.end(LinkError(LinkReason.CLOSED, "the vehicle's radio was closed"))
        if self._watch is not None:
            self._watch.cancel()
        if host.powered_on and not self._lost.is_set():
            with contextlib.suppress(TimeoutError, core.BaseBumbleError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._advertiser.stop(host)
        host.remove_listener(host.EVENT_CONNECTION, self._connected)
        ours = self._tasks - {asyncio.current_task()}
        if ours and (late := (await asyncio.wait(ours, timeout=_CLOSE_S))[1]):
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=_CANCEL_S)
        if self._transport is not None:
            await self._transport.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def wait_lost(self) -> None:
        """Return when the controller is gone for good: unplugged, or its air ended."""
        await self._lost.wait()

    async def _await_loss(self, transport: Transport, upkeep: asyncio.Task[None]) -> None:
        await asyncio.wait([transport.source.terminated])
        if self._closed:
            return
        _log.error("the Bluetooth controller is lost: no phone can connect any more")
        self._lost.set()
        for connection in list(self._peers):
            self._gone(connection)
        upkeep.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def peers(self) -> tuple[PeerLink, ...]:
        """The connected phones, half-open ones included, oldest first."""
        return tuple(self._peers.values())

    @property
    def address(self) -> str:
        """The address that is advertised now; empty before the start."""
        host = self._host
        return "" if host is None else host.random_address.to_string(with_type_qualifier=False)

    # -- advertising

    async def rotate(self, now: float | None = None) -> None:
        """Renew the random address, nonce and tag; links go on.

        Args:
            now: Unix seconds; the aliro profile advertises when it will rotate again. None: it
                says that it does not know.
        """
        # Shielded: a command that is given up puts Bumble out of step with the controller.
        if self._host is not None:
            await asyncio.shield(self._spawn(self._advertiser.renew(self._host, now)))

    async def offer(
        self,
        *,
        pairing: bool | None = None,
        ranging: bool | None = None,
        remote: bool | None = None,
        resolving_key: Secret | None = None,
        now: float | None = None,
    ) -> None:
        """Change what is advertised, and rotate; None leaves as it is."""
        ours = self._advertiser
        ours.pairing = ours.pairing if pairing is None else pairing
        ours.ranging = ours.ranging if ranging is None else ranging
        ours.remote = ours.remote if remote is None else remote
        ours.resolving_key = resolving_key or ours.resolving_key
        await self.rotate(now)

    # -- the GATT service and the channel

    def _serve(self, device: AirDevice) -> None:
        if self._aliro:
            service = aliro_service(self.info, choice=self._choose)
        else:
            service, self._tx = vehicle_service(
                self.info,
                choice=self._choose,
                chunk=self._take_chunk,
                subscribed=self._subscribed,
            )
        device.add_service(service)
        mtu = self.limits.message_bytes
        device.create_l2cap_server(
            l2cap.LeCreditBasedChannelSpec(
                psm=_SPSM, mtu=mtu, mps=min(mtu, _MPS), max_credits=_CREDITS
            ),
            self._opened,
        )
        # Bonding would hand out an identity address, and nothing here needs it.
        device.pairing_config_factory = lambda _connection: PairingConfig(delegate=NoBonds())

    def _choose(self, connection: Connection, value: bytes) -> None:
        link = self._peers.get(connection)
        if link is None:
            return
        try:
            choice = DeviceChoice.parse(value)
        except WireError as exc:
            link.end(LinkError(LinkReason.PROTOCOL, f"the phone's choice: {exc}"))
            raise att.ATT_Error(_BAD_CHOICE) from exc
        versions = self.info.versions
        known = {versions[at : at + 2] for at in range(0, len(versions), 2)}
        if choice.version not in known or (link.bearer and link.choice):
            raise att.ATT_Error(_BAD_CHOICE)  # the first choice on a bearer counts
        link.choice = choice

    def _take_chunk(self, connection: Connection, value: bytes) -> None:
        if link := self._peers.get(connection):
            link.take_chunk(value)

    def _subscribed(self, connection: Connection, notify: bool) -> None:
        link = self._peers.get(connection)
        if link is None or self._tx is None:
            return
        if notify and link.bearer is None:
            link.use_notifications(self._tx)
            self._hand_over(link)
        elif not notify and link.bearer == "gatt":
            link.lost()

    def _opened(self, channel: l2cap.LeCreditBasedChannel) -> None:
        link = self._peers.get(channel.connection)
        if link is not None and link.use_channel(channel):
            self._hand_over(link)

    # -- peers

    def _connected(self, connection: Connection) -> None:
        if connection.role != hci.Role.PERIPHERAL:
            return
        if self._closed:
            self._spawn(_hang_up(connection))
            return
        self._advertiser.silenced()
        half_open = [each for each in self.peers if each.stage is PeerStage.CONNECTED]
        if len(half_open) >= self.limits.half_open:
            self._evict(half_open[0])
        if len(self._peers) >= self.limits.connections:
            weakest = min(self.peers, key=lambda each: each.stage)  # the oldest of equals
            if weakest.stage is PeerStage.AUTHENTICATED:
                _log.warning("a phone was turned away: all %d links are in use", len(self._peers))
                self._spawn(_hang_up(connection, full=True))
                return
            self._evict(weakest)
        link = PeerLink(self, connection)
        self._peers[connection] = link
        connection.once(connection.EVENT_DISCONNECTION, lambda _reason: self._gone(connection))

    def _gone(self, connection: Connection) -> None:
        if link := self._peers.pop(connection, None):
            link.lost()

    def _evict(self, link: PeerLink) -> None:
        _log.info("peer %s (%s) is evicted", link.peer, link.stage.name.lower())
        link.end(
            LinkError(
                LinkReason.CLOSED,
                "the vehicle serves too many phones and ended a link that is not authenticated",
                hint="try again in a few seconds",
            )
        )

    def make_room(self, link: PeerLink) -> bool:
        """Whether all that is pending fits the cap, after evictions if need be."""
        while sum(each.pending for each in self.peers) > self.limits.pending_total_bytes:
            holders = [each for each in self.peers if each.pending]
            weakest = min(holders, key=lambda each: (each.stage, -each.pending))
            if weakest is link or weakest.stage is PeerStage.AUTHENTICATED:
                return False
            self._evict(weakest)
        return True

    def ended(self, link: PeerLink) -> None:
        """Forget a link that ended, and its connection unless the phone only left its bearer."""
        connection = link.connection
        left = link.fault is not None and link.fault.reason is LinkReason.LOST
        if left and self._peers.get(connection) is link and not self._closed:
            # Systems keep a connection for seconds and use it for the next program.
            # Whoever has not authenticated gains no time by leaving a bearer and coming back.
            since = None if link.authenticated else link.since
            self._peers[connection] = fresh = PeerLink(self, connection, since=since)
            fresh.choice = link.choice
        elif self._peers.pop(connection, None) and not self._lost.is_set():
            self._spawn(_hang_up(connection, link.released))
            return
        link.released()

    def _hand_over(self, link: PeerLink) -> None:
        work = self._spawn(self._run(link))
        link.on_end(lambda: self._wind_up(work))

    def _wind_up(self, work: asyncio.Task[None]) -> None:
        timer = asyncio.get_running_loop().call_later(self.limits.wind_up_s, work.cancel)
        work.add_done_callback(lambda _work: timer.cancel())

    async def _run(self, link: PeerLink) -> None:
        try:
            await self._on_peer(link)
        except LinkError as exc:
            _log.debug("link to %s: %s", link.peer, exc)
        except Exception:  # noqa: BLE001 - whatever it is, the other phones go on
            _log.exception("the session with %s failed; only its link ends", link.peer)
        finally:
            link.end(LinkError(LinkReason.CLOSED, "the session ended"))


async def _hang_up(
    connection: Connection, done: Callable[[], None] | None = None, *, full: bool = False
) -> None:
    reason = (
        hci.HCI_REMOTE_DEVICE_TERMINATED_CONNECTION_DUE_TO_LOW_RESOURCES_ERROR
        if full
        else hci.HCI_REMOTE_USER_TERMINATED_CONNECTION_ERROR
    )
    # No deadline: Bumble cannot bear that somebody gives up waiting for a disconnection.
    with contextlib.suppress(core.BaseBumbleError):
        await connection.disconnect(reason)
    if done is not None:
        done()
