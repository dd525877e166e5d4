"""What every link promises, on loopback and on apdu-tcp; and what only TCP can get wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager

import pytest

from dkey.errors import LinkError, LinkReason
from dkey.link.apdu_tcp import ApduTcpInitiator, serve_apdu_tcp
from dkey.link.base import Cap, Link
from dkey.link.loopback import LoopbackInitiator, loopback
from dkey.link.opener import KNOWN_LINKS, open_initiator, serve

SOON_S = 0.05
COMMAND = bytes.fromhex("00A4040000")
REASONS = LinkReason


class Echo:
    """A device that answers each command with itself and 9000, and counts field periods."""

    def __init__(self):
        self.fields_ended = 0
        self.field_off_seen = asyncio.Event()

    def answer(self, command):
        return command + b"\x90\x00"

    def field_off(self):
        self.fields_ended += 1
        self.field_off_seen.set()


class Tape:
    """A tap that keeps what it is shown."""

    def __init__(self):
        self.seen = []

    def frame(self, *, from_reader, data):
        self.seen.append(("frame", from_reader, data))

    def field(self, *, on):
        self.seen.append(("field", on))

    def apdu(self, *, from_reader, data):
        self.seen.append(("apdu", from_reader, data))


@asynccontextmanager
async def serving(responder, **options):
    """Serve ``responder`` over TCP; give the port and the serving task."""
    port = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve_apdu_tcp("127.0.0.1", 0, responder, on_listening=port.set_result, **options)
    )
    try:
        yield await port, task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def tcp_reader(responder, *, tap=None):
    async with serving(responder) as (port, _):
        reader = ApduTcpInitiator("127.0.0.1", port, tap=tap)
        try:
            yield reader
        finally:
            await reader.aclose()


@asynccontextmanager
async def loopback_reader(responder, *, tap=None):
    reader = LoopbackInitiator(responder, tap=tap)
    try:
        yield reader
    finally:
        await reader.aclose()


every_link = pytest.mark.parametrize(
    "reader", [loopback_reader, tcp_reader], ids=["loopback", "apdu-tcp"]
)


async def failure(awaitable):
    with pytest.raises(LinkError) as caught:
        await awaitable
    assert caught.value.hint
    return caught.value.reason


# The contract, shared


@every_link
@pytest.mark.parametrize("size", [1, 5, 255, 256, 4096, 65_000])
async def test_a_message_arrives_whole_and_is_answered(reader, size):
    async with reader(Echo()) as made:
        link = await made.sense(timeout_s=1)
        await link.send(bytes(size))
        assert await link.recv() == bytes(size) + b"\x90\x00"


@every_link
async def test_answers_come_in_order(reader):
    async with reader(Echo()) as made:
        link = await made.sense(timeout_s=1)
        for index in range(50):
            await link.send(bytes([index]))
            assert (await link.recv())[0] == index


@every_link
async def test_a_sensed_link_is_a_link_that_carries_apdus(reader):
    async with reader(Echo()) as made:
        link = await made.sense(timeout_s=1)
        assert isinstance(link, Link)
        assert Cap.APDU in link.caps
        assert Cap.NFC not in link.caps
        assert link.mtu >= 65_535


@every_link
@pytest.mark.parametrize("extra", [1, None])
async def test_a_message_of_impossible_size_is_refused_and_the_link_lives(reader, extra):
    async with reader(Echo()) as made:
        link = await made.sense(timeout_s=1)
        message = b"" if extra is None else bytes(link.mtu + extra)
        assert await failure(link.send(message)) is REASONS.UNSUPPORTED
        await link.send(COMMAND)
        assert await link.recv() == COMMAND + b"\x90\x00"


@every_link
async def test_closing_is_field_off_once_and_may_be_repeated(reader):
    responder = Echo()
    async with reader(responder) as made:
        link = await made.sense(timeout_s=1)
        await link.aclose()
        await link.aclose()
        await asyncio.wait_for(responder.field_off_seen.wait(), 1)
    assert responder.fields_ended == 1


@every_link
async def test_closing_ends_a_pending_recv_with_closed(reader):
    async with reader(Echo()) as made:
        link = await made.sense(timeout_s=1)
        pending = asyncio.create_task(link.recv())
        await asyncio.sleep(0)
        await link.aclose()
        assert await failure(asyncio.wait_for(pending, 1)) is REASONS.CLOSED


@every_link
async def test_a_closed_link_neither_sends_nor_receives(reader):
    async with reader(Echo()) as made:
        link = await made.sense(timeout_s=1)
        await link.aclose()
        assert await failure(link.send(COMMAND)) is REASONS.CLOSED
        assert await failure(link.recv()) is REASONS.CLOSED


@every_link
async def test_each_sense_is_a_new_field_period(reader):
    responder = Echo()
    async with reader(responder) as made:
        for _ in range(5):
            link = await made.sense(timeout_s=1)
            await link.send(COMMAND)
            await link.recv()
            await link.aclose()
            await asyncio.wait_for(responder.field_off_seen.wait(), 1)
            responder.field_off_seen.clear()
    assert responder.fields_ended == 5


@every_link
async def test_a_released_reader_senses_no_more(reader):
    async with reader(Echo()) as made:
        link = await made.sense(timeout_s=1)
        await made.aclose()
        await made.aclose()
        assert await failure(link.recv()) is REASONS.CLOSED
        assert await failure(made.sense(timeout_s=1)) is REASONS.CLOSED


@every_link
async def test_the_tap_sees_field_and_apdus(reader):
    tape = Tape()
    async with reader(Echo(), tap=tape) as made:
        link = await made.sense(timeout_s=1)
        await link.send(COMMAND)
        await link.recv()
        await link.aclose()
    assert tape.seen == [
        ("field", True),
        ("apdu", True, COMMAND),
        ("apdu", False, COMMAND + b"\x90\x00"),
        ("field", False),
    ]


# Loopback


async def test_a_loopback_recv_without_a_command_ends_by_its_deadline():
    link = loopback(Echo(), answer_s=0.01)
    assert await failure(link.recv()) is REASONS.TIMEOUT
    await link.aclose()


async def test_a_loopback_device_is_in_one_field_at_a_time():
    made = LoopbackInitiator(Echo())
    link = await made.sense(timeout_s=0)
    assert await failure(made.sense(timeout_s=0)) is REASONS.BUSY
    await link.aclose()
    assert await made.sense(timeout_s=0) is not None
    await made.aclose()


# apdu-tcp, reader side


@asynccontextmanager
async def peer(behave):
    """A TCP listener that does ``behave(reader, writer)``; gives a link to it."""

    async def on_connection(reader, writer):
        try:
            await behave(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    made = ApduTcpInitiator("127.0.0.1", server.sockets[0].getsockname()[1], answer_s=SOON_S)
    try:
        yield await made.sense(timeout_s=1)
    finally:
        await made.aclose()
        server.close()
        await server.wait_closed()


async def stay(reader, _writer):
    await reader.read()


async def test_a_silent_device_ends_recv_by_the_deadline():
    async with peer(stay) as link:
        assert await failure(link.recv()) is REASONS.TIMEOUT
        assert await failure(link.recv()) is REASONS.TIMEOUT


async def test_a_message_that_stalls_halfway_ends_by_the_deadline():
    async def stall(reader, writer):
        writer.write(b"\x00\x05\x01")
        await reader.read()

    async with peer(stall) as link:
        assert await failure(link.recv()) is REASONS.TIMEOUT


async def test_a_message_that_trickles_forever_ends_by_the_deadline():
    async def trickle(_reader, writer):
        writer.write(b"\xff\xff")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"\x00")
                await writer.drain()
                await asyncio.sleep(0)

    async with peer(trickle) as link:
        assert await failure(link.recv()) is REASONS.TIMEOUT


async def test_a_message_in_many_pieces_is_put_together():
    async def pieces(reader, writer):
        for byte in b"\x00\x04\x01\x02\x90\x00":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with peer(pieces) as link:
        assert await link.recv() == b"\x01\x02\x90\x00"


async def test_a_device_that_takes_nothing_ends_send_by_the_deadline():
    over = asyncio.Event()

    async def deaf(_reader, writer):
        writer.transport.pause_reading()
        await over.wait()

    async def send_until_it_fails(link):
        while True:
            await link.send(bytes(65_535))

    async with peer(deaf) as link:
        assert await failure(send_until_it_fails(link)) is REASONS.TIMEOUT
        over.set()


@pytest.mark.parametrize("before", [b"", b"\x00", b"\x00\x05\x01"])
async def test_a_device_that_closes_is_lost(before):
    async def leave(_reader, writer):
        writer.write(before)

    async with peer(leave) as link:
        assert await failure(link.recv()) is REASONS.LOST
        assert await failure(link.send(COMMAND)) is REASONS.LOST


async def test_a_length_of_zero_is_a_protocol_error():
    async def zero(reader, writer):
        writer.write(b"\x00\x00")
        await reader.read()

    async with peer(zero) as link:
        assert await failure(link.recv()) is REASONS.PROTOCOL


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_nobody_listening_is_absent_and_says_what_to_start():
    with pytest.raises(LinkError) as caught:
        await ApduTcpInitiator("127.0.0.1", free_port()).sense(timeout_s=SOON_S)
    assert caught.value.reason is REASONS.ABSENT
    assert "dkey device serve apdu-tcp:127.0.0.1:" in caught.value.hint


async def test_sense_waits_for_a_device_that_starts_later():
    port = free_port()
    sensing = asyncio.create_task(ApduTcpInitiator("127.0.0.1", port).sense(timeout_s=5))
    await asyncio.sleep(0)
    listening = asyncio.Event()
    device = asyncio.create_task(
        serve_apdu_tcp("127.0.0.1", port, Echo(), once=True, on_listening=lambda _: listening.set())
    )
    link = await sensing
    await link.aclose()
    await asyncio.wait_for(device, 1)


async def test_releasing_the_reader_ends_a_pending_sense():
    made = ApduTcpInitiator("127.0.0.1", free_port())
    sensing = asyncio.create_task(made.sense(timeout_s=60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await made.aclose()
    assert await failure(asyncio.wait_for(sensing, 0.5)) is REASONS.CLOSED


# apdu-tcp, device side


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "0", "::ffff:0.0.0.0"])
async def test_a_wildcard_address_is_refused(host):
    served = serve_apdu_tcp(host, 0, Echo(), on_listening=lambda _: None)
    assert await failure(asyncio.wait_for(served, 1)) is REASONS.UNSUPPORTED


async def test_a_taken_port_is_busy():
    async with serving(Echo()) as (port, _):
        served = serve_apdu_tcp("127.0.0.1", port, Echo(), on_listening=lambda _: None)
        assert await failure(asyncio.wait_for(served, 1)) is REASONS.BUSY


async def test_once_returns_after_the_first_reader():
    responder = Echo()
    async with serving(responder, once=True) as (port, task):
        made = ApduTcpInitiator("127.0.0.1", port)
        link = await made.sense(timeout_s=1)
        await link.aclose()
        await asyncio.wait_for(task, 1)
    assert responder.fields_ended == 1


async def test_a_second_reader_waits_its_turn():
    async with serving(Echo()) as (port, _):
        first = await ApduTcpInitiator("127.0.0.1", port).sense(timeout_s=1)
        second = await ApduTcpInitiator("127.0.0.1", port).sense(timeout_s=1)
        await second.send(b"\x02")
        await first.send(b"\x01")
        assert (await first.recv())[0] == 1
        await first.aclose()
        assert (await second.recv())[0] == 2
        await second.aclose()


async def test_readers_beyond_the_queue_are_closed_at_once():
    async with serving(Echo()) as (port, _):
        links = []
        for _ in range(6):
            links.append(await ApduTcpInitiator("127.0.0.1", port).sense(timeout_s=1))
            await links[0].send(COMMAND)  # the device has seen every connection so far
            await links[0].recv()
        assert await failure(links[5].recv()) is REASONS.LOST
        for link in links:
            await link.aclose()


@pytest.mark.parametrize("sent", [b"", b"\x00", b"\x00\x05\x01"])
async def test_a_reader_that_stalls_is_closed_by_the_idle_deadline(sent):
    responder = Echo()
    async with serving(responder, idle_s=SOON_S) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 1) == b""
        writer.close()
        await writer.wait_closed()
    assert responder.fields_ended == 1


async def test_a_reader_that_sends_a_length_of_zero_is_closed():
    responder = Echo()
    async with serving(responder) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x00\x00")
        assert await asyncio.wait_for(reader.read(), 1) == b""
        writer.close()
        await writer.wait_closed()
    assert responder.fields_ended == 1


async def test_an_answer_that_does_not_fit_ends_the_connection():
    async with serving(Echo()) as (port, _):
        link = await ApduTcpInitiator("127.0.0.1", port).sense(timeout_s=1)
        await link.send(bytes(65_535))
        assert await failure(link.recv()) is REASONS.LOST
        await link.aclose()


async def test_cancelling_the_device_ends_the_field_of_its_reader():
    responder = Echo()
    async with serving(responder) as (port, task):
        link = await ApduTcpInitiator("127.0.0.1", port).sense(timeout_s=1)
        await link.send(COMMAND)
        await link.recv()
        task.cancel()
        assert await failure(link.recv()) is REASONS.LOST
        await link.aclose()
    assert responder.fields_ended == 1


# The opener


async def test_a_link_string_serves_and_opens():
    port = asyncio.get_running_loop().create_future()
    device = asyncio.create_task(
        serve("apdu-tcp:127.0.0.1:0", Echo(), once=True, on_listening=port.set_result)
    )
    text = await port
    assert text.isdigit()
    link = await open_initiator(f"apdu-tcp:127.0.0.1:{text}").sense(timeout_s=1)
    await link.send(COMMAND)
    assert await link.recv() == COMMAND + b"\x90\x00"
    await link.aclose()
    await asyncio.wait_for(device, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "apdu-tcp",
        "apdu-tcp:",
        "apdu-tcp:127.0.0.1",
        "apdu-tcp::1234",
        "apdu-tcp:127.0.0.1:0",
        "apdu-tcp:127.0.0.1:65536",
        "apdu-tcp:127.0.0.1:x",
        "apdu-tcp:127.0.0.1:-1",
        "nfc:",
        "nfc:bluetooth",
        "nfc:udp:",
        "nfc:udp:0",
        "nfc:udp:99999999999999999999",
        "serial:/dev/ttyUSB0",
    ],
)
def test_a_malformed_link_string_is_refused_with_the_accepted_forms(text):
    with pytest.raises(LinkError) as caught:
        open_initiator(text)
    assert caught.value.reason is REASONS.UNSUPPORTED
    assert "apdu-tcp:HOST:PORT" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["ble:AA:BB", "ble-sim:h:1", "msg-tcp:h:1", "uci:/dev/x", "pcsc:ACS", "sim:"]
)
async def test_a_link_of_a_later_build_is_refused_as_such(text):
    with pytest.raises(LinkError, match="does not have") as caught:
        open_initiator(text)
    assert caught.value.reason is REASONS.UNSUPPORTED
    served = serve(text, Echo(), on_listening=lambda _: None)
    assert await failure(served) is REASONS.UNSUPPORTED


def test_every_known_link_says_what_it_is():
    forms = [known.form for known in KNOWN_LINKS]
    assert len(set(forms)) == len(forms)
    assert all(known.meaning and isinstance(known.usable, bool) for known in KNOWN_LINKS)
    assert ("apdu-tcp:HOST:PORT", True) in [(form, usable) for form, _, usable in KNOWN_LINKS]
