"""Whole BLE messages over TCP: what a message link promises, and what only TCP can get wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkey.errors import LinkError, LinkReason, WireError
from dkey.link.base import Cap, Link
from dkey.link.msg_tcp import MsgTcpInitiator, serve_messages_tcp
from dkey.link.opener import open_message_initiator, serve_messages

HOST = "127.0.0.1"
SOON_S = 0.05
FRAGMENT_S = 1.5


class Tape:
    def __init__(self):
        self.seen = []

    def message(self, *, from_reader, data):
        self.seen.append((from_reader, data))


class FramesOnly:
    def frame(self, *, from_reader, data): ...
    def field(self, *, on): ...
    def apdu(self, *, from_reader, data): ...


async def echo(link):
    while True:
        await link.send(await link.recv())


@asynccontextmanager
async def serving(on_link, **options):
    port = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve_messages_tcp(HOST, 0, on_link, on_listening=port.set_result, **options)
    )
    try:
        yield await port, task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def reader_of(port, **options):
    initiator = MsgTcpInitiator(HOST, port, **options)
    try:
        yield await initiator.sense(timeout_s=2)
    finally:
        await initiator.aclose()


@asynccontextmanager
async def device_link(**options):
    """Give the device's link and the raw streams of a reader that may misbehave."""
    made = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def hold(link):
        made.set_result(link)
        await done.wait()

    async with serving(hold, **options) as (port, _):
        streams = await asyncio.open_connection(HOST, port)
        try:
            yield await made, *streams
        finally:
            done.set()
            streams[1].close()
            with contextlib.suppress(OSError):
                await streams[1].wait_closed()


async def failure(awaitable):
    with pytest.raises(LinkError) as caught:
        await awaitable
    assert caught.value.hint
    return caught.value.reason


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=4096), min_size=1, max_size=6))
def test_messages_arrive_whole_and_in_order(messages):
    async def main():
        async with serving(echo) as (port, _), reader_of(port) as link:
            for message in messages:
                await link.send(message)
            assert [await link.recv() for _ in messages] == messages

    asyncio.run(main())


async def test_a_link_carries_ble_messages_and_nothing_else():
    async with serving(echo) as (port, _), reader_of(port) as link:
        assert isinstance(link, Link)
        assert link.caps == {Cap.BLE}
        assert link.mtu >= 2048
        assert await link.present()


async def test_the_device_may_speak_first():
    async def speak(link):
        await link.send(b"initiate")

    async with serving(speak, once=True) as (port, task), reader_of(port) as link:
        assert await link.recv() == b"initiate"
        await task


async def test_a_message_in_pieces_of_one_byte_arrives_whole():
    async with device_link() as (link, _, writer):
        for byte in (2000).to_bytes(2, "big") + bytes(2000):
            writer.write(bytes([byte]))
            await writer.drain()
        assert await link.recv() == bytes(2000)


@pytest.mark.parametrize("claim", [0, 4097, 0xFFFF])
async def test_an_impossible_length_ends_the_link_at_once(claim):
    async with device_link() as (link, reader, writer):
        writer.write(claim.to_bytes(2, "big"))
        async with asyncio.timeout(FRAGMENT_S / 2):
            assert await failure(link.recv()) is LinkReason.PROTOCOL
            assert await reader.read() == b""
        assert not await link.present()


@pytest.mark.parametrize("piece", [b"\x00", b"\x00\x05half"[:5]], ids=["length", "body"])
async def test_a_message_that_never_ends_ends_the_link_within_its_deadline(piece):
    async with device_link() as (link, reader, writer):
        writer.write(piece)
        async with asyncio.timeout(FRAGMENT_S + 1):
            assert await failure(link.recv()) is LinkReason.PROTOCOL
            assert await reader.read() == b""


async def test_what_arrived_before_the_peer_left_is_handed_out_then_lost():
    async with device_link() as (link, _, writer):
        writer.write(b"\x00\x01a\x00\x01b")
        writer.close()
        while await link.present():
            await asyncio.sleep(0)
        assert [await link.recv(), await link.recv()] == [b"a", b"b"]
        assert await failure(link.recv()) is LinkReason.LOST
        assert await failure(link.send(b"c")) is LinkReason.LOST
        assert not await link.present()


async def test_a_peer_that_is_not_listened_to_is_held_and_nothing_is_lost():
    async with device_link() as (link, _, writer):
        messages = [bytes([n % 256]) * 4096 for n in range(64)]
        for message in messages:
            writer.write(len(message).to_bytes(2, "big") + message)
        assert [await link.recv() for _ in messages] == messages


async def test_a_peer_that_takes_nothing_is_given_up():
    async with device_link() as (link, _, writer):
        writer.transport.pause_reading()

        async def flood():
            while True:
                await link.send(bytes(4096))

        assert await failure(flood()) is LinkReason.TIMEOUT
        assert not await link.present()


async def test_a_wait_that_times_out_leaves_the_link_usable():
    async with device_link(idle_s=SOON_S) as (link, _, writer):
        assert await failure(link.recv()) is LinkReason.TIMEOUT
        writer.write(b"\x00\x04late")
        assert await link.recv() == b"late"


async def test_a_cancelled_wait_loses_no_message():
    async with device_link() as (link, _, writer):
        for n in range(50):
            waiting = asyncio.create_task(link.recv())
            await asyncio.sleep(0)
            writer.write(b"\x00\x01" + bytes([n]))
            await writer.drain()
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert await waiting == bytes([n])
                continue
            assert await link.recv() == bytes([n])


async def test_closing_ends_a_pending_wait():
    async with serving(echo) as (port, _), reader_of(port) as link:
        waiting = asyncio.create_task(link.recv())
        await asyncio.sleep(0)
        await link.aclose()
        assert await failure(waiting) is LinkReason.CLOSED
        assert await failure(link.send(b"x")) is LinkReason.CLOSED
        await link.aclose()


@pytest.mark.parametrize("size", [0, 4097])
async def test_a_message_of_impossible_size_is_refused_and_the_link_lives(size):
    async with serving(echo) as (port, _), reader_of(port) as link:
        assert await failure(link.send(bytes(size))) is LinkReason.UNSUPPORTED
        await link.send(b"still here")
        assert await link.recv() == b"still here"


async def test_taps_on_both_sides_see_who_sent_what():
    reader_tape, device_tape = Tape(), Tape()
    async with (
        serving(echo, tap=device_tape) as (port, _),
        reader_of(port, tap=reader_tape) as link,
    ):
        await link.send(b"ask")
        await link.recv()
    assert reader_tape.seen == device_tape.seen == [(True, b"ask"), (False, b"ask")]


async def test_a_tap_without_messages_is_left_alone():
    async with serving(echo) as (port, _), reader_of(port, tap=FramesOnly()) as link:
        await link.send(b"ask")
        assert await link.recv() == b"ask"


async def test_one_reader_is_served_after_the_other_also_after_a_fault():
    async def faulty(link):
        await link.send(b"hello")
        await link.recv()
        raise WireError("not what this device expects")

    async with serving(faulty) as (port, _):
        for _ in range(3):
            async with reader_of(port) as link:
                assert await link.recv() == b"hello"
                await link.send(b"x")
                assert await failure(link.recv()) is LinkReason.LOST


async def test_cancelling_the_server_closes_its_link():
    async with serving(echo) as (port, task), reader_of(port) as link:
        await link.send(b"x")
        await link.recv()
        task.cancel()
        assert await failure(link.recv()) is LinkReason.LOST


async def test_twenty_connections_leave_no_task_behind():
    before = asyncio.all_tasks()
    async with serving(echo) as (port, _):
        for _ in range(20):
            async with reader_of(port) as link:
                await link.send(b"x")
                await link.recv()
    async with asyncio.timeout(1):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0)


async def test_nobody_listening_is_absent_and_may_come():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        reader = MsgTcpInitiator(HOST, taken.getsockname()[1])
        with pytest.raises(LinkError) as caught:
            await reader.sense(timeout_s=SOON_S)
    assert caught.value.reason is LinkReason.ABSENT
    assert caught.value.transient
    assert "msg-tcp:" in caught.value.hint


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.1"])
async def test_the_device_listens_on_loopback_only(host):
    served = serve_messages_tcp(host, 0, echo, on_listening=lambda _: None)
    assert await failure(served) is LinkReason.UNSUPPORTED


async def test_link_strings_open_both_sides():
    port = asyncio.get_running_loop().create_future()
    serving_task = asyncio.create_task(
        serve_messages(f"msg-tcp:{HOST}:0", echo, on_listening=port.set_result)
    )
    initiator = open_message_initiator(f"msg-tcp:{HOST}:{await port}")
    link = await initiator.sense(timeout_s=1)
    await link.send(b"x")
    assert await link.recv() == b"x"
    await initiator.aclose()
    serving_task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving_task


@pytest.mark.parametrize(
    "text", ["msg-tcp:", "msg-tcp:127.0.0.1", "msg-tcp:127.0.0.1:0", "apdu-tcp:127.0.0.1:1", "x"]
)
def test_other_strings_open_no_message_link(text):
    with pytest.raises(LinkError) as caught:
        open_message_initiator(text)
    assert caught.value.reason is LinkReason.UNSUPPORTED
    assert caught.value.hint
