"""The virtual Bluetooth air: participants, their signal strengths, and the links between them.

In one process, ``Air().device(name)`` gives a Bumble host on the air. Other processes join through
:mod:`firmware_mock.air_server`; ``python -m firmware_mock.air`` runs an air for them alone:

    python -m firmware_mock.air --tcp 127.0.0.1:PORT | --unix PATH [--vhci] [--btsnoop DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import signal
import sys
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bumble import hci
from bumble.core import PhysicalTransport
from bumble.device import DeviceConfiguration
from bumble.link import LocalLink

from dkey.errors import DkeyError
from firmware_mock.air_controller import Advert, AirController, AirDevice
from firmware_mock.air_server import attach_kernel, serve_tcp, serve_unix

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from bumble import controller, ll
    from bumble.transport.common import Transport

    from firmware_mock.air_server import AirServer

    RssiModel = Callable[[str, str], int | None]

__all__ = ["Air"]

_RSSI_DBM = -50
_SUPERVISION_S = 0.72


class Air(LocalLink):
    """A medium that carries advertising and links between the participants in range."""

    controllers: set[AirController]  # type: ignore[assignment]  # none of another kind joins

    def __init__(
        self,
        *,
        rssi_dbm: int = _RSSI_DBM,
        model: RssiModel | None = None,
        supervision_s: float = _SUPERVISION_S,
        btsnoop_dir: Path | None = None,
    ) -> None:
        """Make an empty air.

        Args:
            rssi_dbm: Signal strength between all participants for which nothing else is said.
            model: ``model(receiver, sender)`` returns the strength in dBm by participants' names,
                or None for out of range; asked for every packet, so it may move. Call
                :meth:`recheck` after a move that may break or mend a link.
            supervision_s: How long a link outlives its last packet, seconds.
            btsnoop_dir: Existing folder that receives one ``NAME.btsnoop`` for each participant.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._rssi_dbm = rssi_dbm
        self._model = model
        self._supervision_s = supervision_s
        self._btsnoop_dir = btsnoop_dir
        self._pairs: dict[frozenset[str], int | None] = {}
        self._held: dict[tuple[AirController, AirController], deque[Callable[[], None]]] = {}
        self._dying: dict[frozenset[AirController], asyncio.TimerHandle] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._logs: dict[AirController, BinaryIO] = {}
        self._transports: list[Transport] = []

    # -- participants

    @property
    def participants(self) -> list[str]:
        """Names of those on the air, sorted."""
        return sorted(each.name for each in self.controllers)

    def join(self, name: str, *, public_address: str | None = None) -> AirController:
        """Return a new controller without a host.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.participants:
            raise ValueError(f"{name!r} is on the air already")
        log = None
        if self._btsnoop_dir is not None:
            # Unbuffered: the log is whole up to the packet that crashed somebody.
            log = _fresh(self._btsnoop_dir, name).open("wb", buffering=0)
        address = (
            hci.Address(public_address, hci.AddressType.PUBLIC_DEVICE) if (public_address) else None
        )
        joined = AirController(name, self, public_address=address, log=log)
        if log is not None:
            self._logs[joined] = log
        return joined

    def device(
        self, name: str, *, address: str | None = None, config: DeviceConfiguration | None = None
    ) -> AirDevice:
        """Return a new host, still powered off, on a new controller.

        Args:
            name: Name of the participant, and of the device unless ``config`` is given.
            address: Random static address ``C0:..``; None: chance.
            config: Bumble's settings, instead of ``address``.
        """
        joined = self.join(name)
        if config is None:
            own = hci.Address(address) if address else hci.Address.generate_static_address()
            config = DeviceConfiguration(name=name, address=own, irk=secrets.token_bytes(16))
        # Bumble takes a controller as the source and the sink of its HCI packets.
        return AirDevice.from_config_with_hci(config, joined, joined)  # type: ignore[return-value]

    def keep(self, transport: Transport) -> None:
        """Hold ``transport``, which carries a participant, as long as the air."""
        self._transports.append(transport)

    def leave(self, name: str) -> None:
        """Take a participant off the air at once, as when its battery falls out.

        Its own host gets no answer any more; its peers notice after the supervision timeout.
        """
        for each in [each for each in self.controllers if each.name == name]:
            self._remove(each)

    def close(self) -> None:
        """Take everybody off and close the logs."""
        for each in list(self.controllers):
            self._remove(each)
        for timer in [*self._timers, *self._dying.values()]:
            timer.cancel()
        self._timers.clear()
        self._dying.clear()

    def _remove(self, leaver: AirController) -> None:
        self.abandon(leaver)
        leaver.hci_sink = None
        self.controllers.discard(leaver)
        if log := self._logs.pop(leaver, None):
            log.close()

    def abandon(self, leaver: AirController) -> None:
        """Silence a participant and forget its links; its peers notice after the timeout."""
        leaver.fall_silent()
        orphans = [
            (peer, end)
            for link in leaver.le_connections.values()
            if (peer := self.other_end(link)) is not None
            for end in peer.le_connections.values()
            if end.peer_address == link.self_address and end.self_address == link.peer_address
        ]
        leaver.le_connections.clear()
        for pair in [pair for pair in self._held if leaver in pair]:
            del self._held[pair]
        if orphans:
            self._after_supervision(orphans)

    # -- signal strength

    def set_rssi(self, one: str, other: str, rssi_dbm: int | None) -> None:
        """Fix the strength between two names, both ways; None: out of range of each other.

        Out of range nothing is heard, packets wait, and a link dies after the supervision
        timeout unless the two are back in range before.
        """
        self._pairs[frozenset((one, other))] = rssi_dbm
        self.recheck()

    def rssi(self, receiver: AirController, sender: AirController) -> int | None:
        """Return what ``receiver`` measures of ``sender``, dBm, or None out of range."""
        pair = frozenset((receiver.name, sender.name))
        if pair in self._pairs:
            return self._pairs[pair]
        return self._model(receiver.name, sender.name) if self._model else self._rssi_dbm

    def recheck(self) -> None:
        """Start, or stop, the supervision timeout of links whose strength changed."""
        linked = {
            frozenset((each, peer))
            for each in self.controllers
            for link in each.le_connections.values()
            if (peer := self.other_end(link)) is not None
        }
        for pair in linked | self._dying.keys():
            one, other = pair
            if self._in_range(one, other):
                if timer := self._dying.pop(pair, None):
                    timer.cancel()
                self._release(one, other)
                self._release(other, one)
            else:
                self._watch(one, other)

    def _in_range(self, one: AirController, other: AirController) -> bool:
        return self.rssi(one, other) is not None and self.rssi(other, one) is not None

    # -- links

    def other_end(self, link: controller.Connection) -> AirController | None:
        """Return the participant at the other end of ``link``, or None if it is gone."""
        for each in self.controllers:
            far = each.le_connections.get(link.self_address)
            if far is not None and far.self_address == link.peer_address:
                return each
        return None

    def broadcast(self, sender: AirController, advert: Advert) -> None:
        """Carry one advertising event to everybody in range."""
        loop = asyncio.get_running_loop()
        for each in self.controllers:
            if each is not sender and (rssi_dbm := self.rssi(each, sender)) is not None:
                loop.call_soon(each.hear, sender, advert, rssi_dbm)

    def request_link(self, request: ll.ConnectInd) -> None:
        """Carry a connection request, at once: the first of two centrals gets the advertiser."""
        for each in self.controllers:
            if each.advertises(request.advertiser_address):
                each.on_le_connect_ind(request)
                return

    def send_acl_data(
        self,
        sender_controller: controller.Controller,
        destination_address: hci.Address,
        transport: PhysicalTransport,
        data: bytes,
    ) -> None:
        """Carry data over an LE link, under the address that the link was made with."""
        if transport != PhysicalTransport.LE:
            super().send_acl_data(sender_controller, destination_address, transport, data)
            return
        link = sender_controller.le_connections.get(destination_address)
        receiver = link and self.other_end(link)
        if link and receiver and isinstance(sender_controller, AirController):
            take = partial(receiver.on_link_acl_data, link.self_address, transport, data)
            self._carry(sender_controller, receiver, link.self_address, take)

    def send_ll_control_pdu(
        self, sender_address: hci.Address, receiver_address: hci.Address, packet: ll.ControlPdu
    ) -> None:
        """Carry a link layer PDU; to a peer that vanished it is simply lost."""
        for sender in self.controllers:
            link = sender.le_connections.get(receiver_address)
            if link is None or link.self_address != sender_address:
                continue
            if receiver := self.other_end(link):
                take = partial(receiver.on_ll_control_pdu, sender_address, packet)
                self._carry(sender, receiver, sender_address, take)
            return

    def _carry(
        self,
        sender: AirController,
        receiver: AirController,
        source: hci.Address,
        take: Callable[[], None],
    ) -> None:
        def deliver() -> None:
            if source in receiver.le_connections:  # it may have ended on the way
                take()

        if not self._in_range(sender, receiver):
            self._held.setdefault((sender, receiver), deque()).append(deliver)
            self._watch(sender, receiver)
            return
        self._release(sender, receiver)
        asyncio.get_running_loop().call_soon(deliver)

    def _release(self, sender: AirController, receiver: AirController) -> None:
        loop = asyncio.get_running_loop()
        for deliver in self._held.pop((sender, receiver), ()):
            loop.call_soon(deliver)

    def _watch(self, one: AirController, other: AirController) -> None:
        pair = frozenset((one, other))
        if pair not in self._dying:
            ends = [
                (each, link)
                for each, peer in ((one, other), (other, one))
                for link in each.le_connections.values()
                if self.other_end(link) is peer
            ]
            self._dying[pair] = asyncio.get_running_loop().call_later(
                self._supervision_s, self._expire, pair, ends
            )

    def _expire(
        self,
        pair: frozenset[AirController],
        ends: list[tuple[AirController, controller.Connection]],
    ) -> None:
        del self._dying[pair]
        one, other = pair
        if self._in_range(one, other):
            self._release(one, other)
            self._release(other, one)
            return
        self._held.pop((one, other), None)
        self._held.pop((other, one), None)
        for each, link in ends:
            each.lose(link)

    def _after_supervision(self, ends: list[tuple[AirController, controller.Connection]]) -> None:
        def expire() -> None:
            self._timers.discard(timer)
            for each, link in ends:
                each.lose(link)

        timer = asyncio.get_running_loop().call_later(self._supervision_s, expire)
        self._timers.add(timer)


# -- python -m firmware_mock.air


def _fresh(folder: Path, name: str) -> Path:
    """Return a log that is not there yet: whoever comes back must not overwrite what was before."""
    path, number = folder / f"{name}.btsnoop", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.btsnoop"
    return path


def _tcp(text: str) -> int:
    host, _, port = text.rpartition(":")
    if host != "127.0.0.1" or not port.isdecimal() or int(port) > 0xFFFF:
        raise argparse.ArgumentTypeError("give 127.0.0.1:PORT; the air listens nowhere else")
    return int(port)


async def _run(options: argparse.Namespace) -> None:
    air = Air(rssi_dbm=options.rssi, btsnoop_dir=options.btsnoop)
    servers: list[AirServer] = []
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        if options.vhci:
            await attach_kernel(air)
        if options.tcp is not None:
            servers.append(await serve_tcp(air, options.tcp))
        if options.unix is not None:
            servers.append(await serve_unix(air, options.unix))
        for each in servers:
            print(f"listening ble-sim:{each.where}", flush=True)  # noqa: T201 - for whoever waits
        await stop.wait()
    finally:
        for each in servers:
            await each.aclose()
        air.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the air until SIGINT or SIGTERM; return the exit status (3: link)."""
    parser = argparse.ArgumentParser(prog="python -m firmware_mock.air", description=__doc__)
    parser.add_argument("--tcp", type=_tcp, metavar="127.0.0.1:PORT", help="0: any free port")
    parser.add_argument("--unix", type=Path, metavar="PATH")
    parser.add_argument("--vhci", action="store_true", help="a kernel adapter joins, too")
    parser.add_argument("--rssi", type=int, default=_RSSI_DBM, metavar="DBM")
    parser.add_argument("--btsnoop", type=Path, metavar="DIR", help="one log per participant")
    options = parser.parse_args(arguments)
    if options.tcp is None and options.unix is None:
        parser.error("give --tcp or --unix")
    try:
        asyncio.run(_run(options))
    except DkeyError as exc:
        sys.stderr.write(f"error: {exc}\n" + (f"  try: {exc.hint}\n" if exc.hint else ""))
        return 3
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
