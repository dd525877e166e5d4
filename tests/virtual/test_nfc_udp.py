"""nfcpy's unmodified ``udp:`` reader against our device side of the same wire format."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager

import pytest

from dkey.errors import LinkError, LinkReason
from dkey.link.isodep import activate
from dkey.link.nfc_udp import serve_nfc_udp
from dkey.link.opener import open_initiator, serve

nfc = pytest.importorskip("nfc")
pytest.importorskip("nfc.clf")

H = bytes.fromhex
COMMAND = H("00A4040000")
OK = H("9000")


class Echo:
    def __init__(self):
        self.commands = []
        self.fields_ended = 0

    def answer(self, command):
        self.commands.append(command)
        return command + OK

    def field_off(self):
        self.fields_ended += 1


class Tape:
    def __init__(self):
        self.seen = []

    def frame(self, *, from_reader, data):
        self.seen.append((from_reader, data.hex()))

    def field(self, *, on):
        self.seen.append(on)

    def apdu(self, *, from_reader, data):
        raise AssertionError("this transport has frames")


@asynccontextmanager
async def serving(responder, **options):
    """Serve ``responder`` over UDP; give the port and the serving task."""
    port = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_nfc_udp(0, responder, on_listening=port.set_result, **options))
    try:
        yield await port, task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def tap_with_nfcpy(port, commands, *, sens_req=None):
    """Sense, activate, send ``commands``; return UID and responses. Blocks: for a thread."""
    with contextlib.closing(nfc.ContactlessFrontend(f"udp:127.0.0.1:{port}")) as clf:
        found = clf.sense(nfc.clf.RemoteTarget("106A", sens_req=sens_req))
        if found is None:
            return None

        def drive(procedure):
            try:
                transmit = next(procedure)
                while True:
                    try:
                        frame = clf.exchange(bytearray(transmit.frame), transmit.timeout_s)
                    except nfc.clf.CommunicationError:
                        frame = None
                    transmit = procedure.send(bytes(frame) if frame else None)
            except StopIteration as finished:
                return finished.value

        initiator = drive(activate())
        responses = [drive(initiator.transceive(command)) for command in commands]
        assert drive(initiator.present())
        assert drive(initiator.deselect())
        return bytes(found.sdd_res), responses


@pytest.mark.parametrize("uid", ["08A1A2A3", "04112233445566"])
@pytest.mark.parametrize("sens_req", [None, b"\x52"], ids=["REQA", "WUPA"])
async def test_the_stock_reader_finds_the_device_and_exchanges_apdus(uid, sens_req):
    commands = [COMMAND, bytes(253), bytes(254), bytes(3000)]
    async with serving(Echo(), uid=H(uid)) as (port, _):
        found = await asyncio.to_thread(tap_with_nfcpy, port, commands, sens_req=sens_req)
    assert found == (H(uid), [command + OK for command in commands])


async def test_once_ends_with_the_field_of_the_first_reader():
    responder = Echo()
    async with serving(responder, once=True) as (port, task):
        await asyncio.to_thread(tap_with_nfcpy, port, [COMMAND])
        await asyncio.wait_for(task, 1)
    assert responder.commands == [COMMAND]
    assert responder.fields_ended == 1


async def test_a_reader_may_come_back_again_and_again():
    responder = Echo()
    async with serving(responder) as (port, _):
        for _ in range(5):
            _, responses = await asyncio.to_thread(tap_with_nfcpy, port, [COMMAND])
            assert responses == [COMMAND + OK]
    assert len(responder.commands) == responder.fields_ended == 5


class Reader(asyncio.DatagramProtocol):
    """A reader that sends hand-made datagrams."""

    def __init__(self):
        self.answers = asyncio.Queue()

    def datagram_received(self, data, addr):
        self.answers.put_nowait(data)

    async def ask(self, *datagrams):
        """Send ``datagrams``; return the answer to the last, the only one that has any."""
        for data in datagrams:
            self.transport.sendto(data)
        return await asyncio.wait_for(self.answers.get(), 1)

    def connection_made(self, transport):
        self.transport = transport


@asynccontextmanager
async def reader(port):
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(Reader, remote_addr=("127.0.0.1", port))
    try:
        yield made
    finally:
        transport.close()


@pytest.mark.parametrize(
    "junk",
    [b"", b"106A", b"106A xyz", b"106A 2", b"212F 26", b"106A " + b"00" * 4000, b"\xff\xfe \xff"],
)
async def test_what_is_no_frame_is_ignored(junk):
    async with serving(Echo()) as (port, _), reader(port) as made:
        assert await made.ask(junk, b"106A 26") == b"106A 0400"


async def test_a_gated_device_answers_after_its_polling_frame():
    def gate(body):
        return body == H("6A01AABB")

    async with serving(Echo(), gate=gate) as (port, _), reader(port) as made:
        # Two different requests: had the first been answered, the second would fall back.
        assert await made.ask(b"106A 26", b"106A 6a01aabb", b"106A 52") == b"106A 0400"
        assert made.answers.empty()


async def test_a_request_from_another_reader_begins_a_new_field():
    tape = Tape()
    async with serving(Echo(), tap=tape) as (port, _), reader(port) as one, reader(port) as two:
        assert await one.ask(b"106A 26") == b"106A 0400"
        assert await two.ask(b"106A 9320", b"RFOFF ", b"106A 26") == b"106A 0400"
    expected = [True, (True, "26"), (False, "0400")]
    assert tape.seen == [*expected, False, *expected, False]


async def test_rfoff_of_a_stranger_does_not_end_the_field():
    async with serving(Echo()) as (port, _), reader(port) as one, reader(port) as two:
        assert await one.ask(b"106A 26") == b"106A 0400"
        two.transport.sendto(b"RFOFF ")
        assert await one.ask(b"106A 9320") == b"106A 0801020308"


async def test_our_own_reader_and_device_meet_through_one_link_string():
    port = asyncio.get_running_loop().create_future()
    responder = Echo()
    device = asyncio.create_task(
        serve("nfc:udp:0", responder, once=True, on_listening=port.set_result)
    )
    made = open_initiator(f"nfc:udp:{await port}")
    link = await made.sense(timeout_s=5)
    await link.send(COMMAND)
    assert await link.recv() == COMMAND + OK
    await link.aclose()
    await made.aclose()
    await asyncio.wait_for(device, 1)
    assert responder.commands == [COMMAND]


async def test_rfoff_without_a_command_does_not_end_a_device_that_serves_once():
    async with serving(Echo(), once=True) as (port, task), reader(port) as made:
        for _ in range(3):
            assert (
                await made.ask(
                    b"106A 26",
                )
                == b"106A 0400"
            )
            made.transport.sendto(b"RFOFF ")
        assert await made.ask(b"106A 26") == b"106A 0400"
        assert not task.done()


async def test_the_tap_sees_frames_without_crc():
    tape = Tape()
    async with serving(Echo(), tap=tape) as (port, _):
        await asyncio.to_thread(tap_with_nfcpy, port, [COMMAND])
    frames = [entry for entry in tape.seen if not isinstance(entry, bool)]
    assert (tape.seen[0], tape.seen[-1]) == (True, False)
    assert frames[:2] == [(True, "26"), (False, "0400")]
    assert frames[4:6] == [(True, "93700801020308"), (False, "20")]
    assert (True, "0200a4040000") in frames
    assert (False, "0200a40400009000") in frames


async def test_a_taken_port_is_busy():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(LinkError) as caught:
            await serve_nfc_udp(port, Echo(), on_listening=lambda _: None)
    assert caught.value.reason is LinkReason.BUSY
