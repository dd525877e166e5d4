"""UCI links: a serial port (a pty) and TCP on loopback."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import tty
from pathlib import Path

import pytest

from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap, Link
from dkey.link.opener import open_uci
from dkey.link.uci_tcp import open_uci_tcp

RESET = bytes.fromhex("2000000100")
ANSWER = bytes.fromhex("4000000100")
READY = bytes.fromhex("6001000101")


class SerialPeer:
    """The far end of a serial port."""

    def __init__(self) -> None:
        self.far, near = pty.openpty()
        tty.setraw(near)
        self.text = f"uci:{os.ttyname(near)}"
        self._near = near

    async def write(self, data: bytes) -> None:
        os.write(self.far, data)

    async def read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            found += await asyncio.to_thread(os.read, self.far, size - len(found))
        return found

    async def leave(self) -> None:
        os.close(self._near)
        os.close(self.far)
        self.far = self._near = -1

    async def aclose(self) -> None:
        if self.far >= 0:
            await self.leave()


class TcpPeer:
    """A subsystem that listens on loopback."""

    async def listen(self) -> TcpPeer:
        self._taken: asyncio.Future = asyncio.get_running_loop().create_future()
        self._server = await asyncio.start_server(
            lambda reader, writer: self._taken.set_result((reader, writer)), "127.0.0.1", 0
        )
        self.text = f"uci-tcp:127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def write(self, data: bytes) -> None:
        _, writer = await self._taken
        writer.write(data)
        await writer.drain()

    async def read(self, size: int) -> bytes:
        reader, _ = await self._taken
        return await reader.readexactly(size)

    async def leave(self) -> None:
        _, writer = await self._taken
        writer.close()

    async def aclose(self) -> None:
        if self._taken.done():
            self._taken.result()[1].close()
        self._server.close()


@pytest.fixture(params=["serial", "tcp"])
async def ends(request):
    peer = SerialPeer() if request.param == "serial" else await TcpPeer().listen()
    link = await open_uci(peer.text)
    yield link, peer
    async with asyncio.timeout(5):
        await link.aclose()
        await peer.aclose()


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def reason(awaitable) -> LinkReason:
    with pytest.raises(LinkError) as caught:
        async with asyncio.timeout(4):
            await awaitable
    return caught.value.reason


async def test_packets_pass_both_ways_whole(ends):
    link, peer = ends
    await link.send(RESET)
    assert await peer.read(len(RESET)) == RESET
    await peer.write(ANSWER + READY)
    assert [await link.recv(), await link.recv()] == [ANSWER, READY]


async def test_a_packet_that_comes_in_pieces_is_put_together(ends):
    link, peer = ends
    for at in range(len(READY)):
        await peer.write(READY[at : at + 1])
        await asyncio.sleep(0)
    assert await link.recv() == READY


async def test_every_byte_value_passes_unchanged(ends):
    link, peer = ends
    packet = bytes.fromhex("6e0100ff") + bytes(range(255))
    await peer.write(packet)
    assert await link.recv() == packet
    await link.send(packet)
    assert await peer.read(len(packet)) == packet


async def test_it_is_a_link_of_uci_packets(ends):
    link, _ = ends
    assert isinstance(link, Link)
    assert link.caps == {Cap.UCI}
    assert await link.present()


async def test_what_is_no_packet_ends_the_link_as_a_broken_protocol(ends):
    link, peer = ends
    await peer.write(b"\xff\xff\xff\xff")
    assert await reason(link.recv()) is LinkReason.PROTOCOL


async def test_a_peer_that_leaves_is_lost(ends):
    link, peer = ends
    await peer.write(READY)
    assert await link.recv() == READY
    await peer.leave()
    assert await reason(link.recv()) is LinkReason.LOST
    assert not await link.present()


async def test_closing_ends_a_pending_wait_and_may_be_done_twice(ends):
    link, _ = ends
    waiting = asyncio.create_task(link.recv())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await link.aclose()
        await link.aclose()
    assert await reason(waiting) is LinkReason.CLOSED
    assert await reason(link.send(RESET)) is LinkReason.CLOSED


async def test_a_serial_port_that_is_open_already_is_busy():
    peer = SerialPeer()
    link = await open_uci(peer.text)
    assert await reason(open_uci(peer.text)) is LinkReason.BUSY
    await link.aclose()
    again = await open_uci(peer.text)
    await again.aclose()
    await peer.aclose()


async def test_a_closed_serial_link_leaves_no_descriptor_open():
    peer = SerialPeer()
    before = descriptors()
    for _ in range(3):
        link = await open_uci(peer.text)
        await link.aclose()
    assert descriptors() == before
    await peer.aclose()


async def test_a_serial_port_that_is_not_there_is_absent():
    assert await reason(open_uci("uci:/dev/there-is-no-such-port")) is LinkReason.ABSENT


async def test_a_port_on_which_nobody_listens_is_absent():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        port = held.getsockname()[1]
        assert await reason(open_uci_tcp("127.0.0.1", port)) is LinkReason.ABSENT


@pytest.mark.parametrize(
    "text", ["uci:", "uci:ttyACM0", "uci-tcp:", "uci-tcp:h", "uci-tcp:h:0", "x:1"]
)
async def test_a_malformed_link_string_names_the_forms(text):
    with pytest.raises(LinkError, match="uci") as caught:
        await open_uci(text)
    assert caught.value.reason is LinkReason.UNSUPPORTED
