"""nfcpy's own pn532 driver, end to end, against a virtual PN532 on a pseudo-terminal."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import glob
import os
import socket
import sys
import threading
from pathlib import Path

import nfc.clf
import nfc.clf.pn532
import pytest
import usb1

from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap, Initiator, Link
from dkey.link.isodep_target import IsoDepTarget
from dkey.link.nfc import NfcInitiator, find_readers
from dkey.link.nfc_target import serve_nfc
from dkey.link.nfc_udp import serve_nfc_udp
from dkey.link.type_a import TypeATarget
from firmware_mock.pn532 import VirtualPn532
from firmware_mock.pty_port import PtyPort

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="counts descriptors in /proc and needs a pty"
)

OK = b"\x90\x00"
POLLING_FRAME = bytes.fromhex("6a01c0ffee")


def echo(command: bytes) -> bytes:
    return command + OK


def device(uid: str = "04112233445566", answer=echo, gate=None, **isodep) -> TypeATarget:
    return TypeATarget(bytes.fromhex(uid), IsoDepTarget(answer, **isodep), gate=gate)


async def exchange(link: Link, command: bytes) -> bytes:
    await link.send(command)
    return await link.recv()


class Recorder:
    """A tap that remembers."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def frame(self, *, from_reader: bool, data: bytes) -> None:
        self.seen.append((">" if from_reader else "<") + data.hex())

    def field(self, *, on: bool) -> None:
        self.seen.append("on" if on else "off")

    def apdu(self, *, from_reader: bool, data: bytes) -> None:
        raise AssertionError("an NFC reader reports frames")


@pytest.fixture
def chip():
    return VirtualPn532()


@pytest.fixture
def port(chip):
    with PtyPort(chip) as served:
        yield served


@pytest.fixture
async def reader(port):
    initiator = NfcInitiator(port.path)
    yield initiator
    await initiator.aclose()


# ---- sensing ------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", ["04112233", "04112233445566", "04112233445566778899"])
async def test_a_device_with_a_uid_of_each_size_is_sensed(chip, reader, uid):
    chip.target = device(uid)
    link = await reader.sense(timeout_s=1)
    assert await exchange(link, b"hello") == b"hello" + OK


async def test_the_initiator_and_its_link_satisfy_the_interfaces(chip, reader):
    typed: Initiator = reader
    chip.target = device()
    link = await typed.sense(timeout_s=1)
    assert isinstance(link, Link)
    assert link.caps == {Cap.APDU, Cap.NFC}
    assert link.mtu == 65_544


async def test_an_empty_field_gives_none_and_is_switched_off(chip, reader):
    assert await reader.sense(timeout_s=0.1) is None
    assert not chip.field_is_on


async def test_a_device_that_comes_later_is_sensed(chip, reader):
    assert await reader.sense(timeout_s=0) is None
    waiting = asyncio.create_task(reader.sense(timeout_s=5))
    await asyncio.sleep(0)
    chip.target = device()
    assert await waiting is not None


async def test_a_device_without_isodep_is_not_a_device(chip, reader):
    chip.target = TypeATarget(bytes(4), IsoDepTarget(echo), sak=0x08)
    assert await reader.sense(timeout_s=0.1) is None


async def test_a_lost_ats_is_asked_for_again(chip, reader):
    chip.target = device()
    chip.faults.drop_answers = {6}  # REQA, two cascade levels of two frames, RATS
    link = await reader.sense(timeout_s=1)
    assert await exchange(link, b"x") == b"x" + OK


async def test_sensing_twice_ends_the_first_link(chip, reader):
    chip.target = device()
    first = await reader.sense(timeout_s=1)
    second = await reader.sense(timeout_s=1)
    with pytest.raises(LinkError) as caught:
        await exchange(first, b"x")
    assert caught.value.reason is LinkReason.CLOSED
    await first.aclose()
    assert await exchange(second, b"y") == b"y" + OK


# ---- APDUs --------------------------------------------------------------------------------


@pytest.mark.parametrize("fsci", [0, 5, 8])
async def test_commands_of_1_to_1000_bytes_come_back_unchanged(chip, reader, fsci):
    chip.target = device(fsci=fsci)
    link = await reader.sense(timeout_s=1)
    for size in (1, 2, 12, 13, 14, 252, 253, 254, 255, 256, 500, 1000):
        command = bytes(i % 253 for i in range(size))
        assert await exchange(link, command) == command + OK


async def test_a_response_of_3_kilobytes_is_chained(chip, reader):
    chip.target = device(answer=lambda _command: bytes(3000) + OK)
    link = await reader.sense(timeout_s=1)
    assert await exchange(link, b"\x00") == bytes(3000) + OK


async def test_a_device_that_asks_for_time_gets_it(chip, reader):
    def slow(command: bytes):
        yield 1
        yield 2
        return command + OK

    chip.target = device(answer=slow)
    link = await reader.sense(timeout_s=1)
    assert await exchange(link, b"x") == b"x" + OK


async def test_the_command_runs_once_when_its_answer_is_lost_or_damaged(chip, reader):
    runs = []
    chip.target = device(answer=lambda command: runs.append(command) or command + OK)
    link = await reader.sense(timeout_s=1)
    for fault in (chip.faults.drop_answers, chip.faults.corrupt_answers):
        fault.add(chip.rf_frames + 1)
        assert await exchange(link, b"once") == b"once" + OK
    assert runs == [b"once", b"once"]


async def test_a_whole_procedure_runs_in_one_hop(chip, reader):
    chip.target = device()
    link = await reader.sense(timeout_s=1)
    threads = set()

    def procedure(apdu):
        threads.add(threading.current_thread().name)
        return [apdu(bytes([i])) for i in range(5)]

    assert await link.run_blocking(procedure) == [bytes([i]) + OK for i in range(5)]
    assert threads == {"nfc-reader"}


async def test_an_error_of_the_procedure_reaches_the_caller(chip, reader):
    chip.target = device()
    link = await reader.sense(timeout_s=1)

    def procedure(apdu):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await link.run_blocking(procedure)
    assert await exchange(link, b"x") == b"x" + OK


async def test_an_oversized_command_is_refused(chip, reader):
    chip.target = device()
    link = await reader.sense(timeout_s=1)
    with pytest.raises(LinkError) as caught:
        await link.send(bytes(link.mtu + 1))
    assert caught.value.reason is LinkReason.UNSUPPORTED


async def test_lock_step_is_enforced(chip, reader):
    chip.target = device()
    link = await reader.sense(timeout_s=1)
    with pytest.raises(LinkError) as caught:
        await link.recv()
    assert caught.value.reason is LinkReason.PROTOCOL
    await link.send(b"x")
    with pytest.raises(LinkError) as caught:
        await link.send(b"y")
    assert caught.value.reason is LinkReason.PROTOCOL


# ---- ends ---------------------------------------------------------------------------------


async def test_a_device_torn_away_is_lost_and_the_next_one_is_sensed(chip, reader):
    chip.target = device(fsci=2)
    link = await reader.sense(timeout_s=1)
    chip.tear_after_frames = 2
    with pytest.raises(LinkError) as caught:
        await exchange(link, bytes(200))
    assert caught.value.reason in (LinkReason.LOST, LinkReason.TIMEOUT)
    await link.aclose()
    assert await reader.sense(timeout_s=0) is None
    chip.target = device("08010203")
    link = await reader.sense(timeout_s=1)
    assert await exchange(link, b"x") == b"x" + OK


async def test_closing_the_link_deselects_and_switches_the_field_off(chip, port):
    tap = Recorder()
    reader = NfcInitiator(port.path, tap=tap)
    chip.target = device()
    link = await reader.sense(timeout_s=1)
    assert chip.field_is_on
    await link.aclose()
    await link.aclose()
    assert not chip.field_is_on
    assert tap.seen[-3:] == [">c2", "<c2", "off"]
    await reader.aclose()


async def test_a_link_that_lost_its_device_closes_without_talking_to_it(chip, reader):
    chip.target = device(fwi=14)  # each frame to nobody would cost 3.2 s on a real chip
    link = await reader.sense(timeout_s=1)
    chip.target = None
    with pytest.raises(LinkError):
        await exchange(link, b"x")
    frames = chip.rf_frames
    await link.aclose()
    assert chip.rf_frames == frames
    assert not chip.field_is_on


async def test_a_cancelled_close_still_deselects_and_switches_the_field_off(chip, port):
    tap = Recorder()
    reader = NfcInitiator(port.path, tap=tap)
    chip.target = device()
    link = await reader.sense(timeout_s=1)
    closing = asyncio.create_task(link.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    chip.target = None
    assert await reader.sense(timeout_s=0) is None  # the thread has come past the closing
    assert tap.seen[-1] == "off"
    assert ">c2" in tap.seen
    await reader.aclose()


async def test_a_closed_link_says_so(chip, reader):
    chip.target = device()
    link = await reader.sense(timeout_s=1)
    await link.aclose()
    for use in (link.send(b"x"), link.recv(), link.run_blocking(lambda _apdu: None)):
        with pytest.raises(LinkError) as caught:
            await use
        assert caught.value.reason is LinkReason.CLOSED


async def test_a_closed_reader_says_so(reader):
    await reader.aclose()
    with pytest.raises(LinkError) as caught:
        await reader.sense(timeout_s=1)
    assert caught.value.reason is LinkReason.CLOSED


async def test_a_cancelled_sense_ends_within_half_a_second(reader):
    loop = asyncio.get_running_loop()
    await reader.sense(timeout_s=0)  # opened
    waiting = asyncio.create_task(reader.sense(timeout_s=60))
    await asyncio.sleep(0)
    start_s = loop.time()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await reader.sense(timeout_s=0) is None  # the thread is free again, too
    assert loop.time() - start_s < 0.5


async def test_closing_the_reader_ends_a_blocked_sense_within_half_a_second(reader):
    loop = asyncio.get_running_loop()
    await reader.sense(timeout_s=0)
    waiting = asyncio.create_task(reader.sense(timeout_s=60))
    await asyncio.sleep(0)
    start_s = loop.time()
    await reader.aclose()
    with pytest.raises(LinkError) as caught:
        await waiting
    assert caught.value.reason is LinkReason.CLOSED
    assert loop.time() - start_s < 0.5


@pytest.fixture
def held(chip):
    """A device in the field that does not answer before the event is set."""
    release = threading.Event()

    def answer(command: bytes) -> bytes:
        release.wait(10)
        return command + OK

    chip.target = device(answer=answer, fwi=10)
    yield release
    release.set()


async def test_a_cancelled_recv_ends_within_half_a_second(chip, reader, held):
    loop = asyncio.get_running_loop()
    link = await reader.sense(timeout_s=1)
    await link.send(b"x")
    waiting = asyncio.create_task(link.recv())
    await asyncio.sleep(0)
    start_s = loop.time()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    held.set()
    await link.aclose()
    assert loop.time() - start_s < 0.5
    assert not chip.field_is_on


async def test_closing_the_link_ends_a_pending_recv(reader, held):
    link = await reader.sense(timeout_s=1)
    await link.send(b"x")
    waiting = asyncio.create_task(link.recv())
    await asyncio.sleep(0)
    closing = asyncio.create_task(link.aclose())
    with pytest.raises(LinkError) as caught:
        await waiting
    assert caught.value.reason is LinkReason.CLOSED
    held.set()
    await closing


async def test_closing_the_reader_ends_a_procedure_between_two_apdus(reader, held):
    link = await reader.sense(timeout_s=1)
    errors = []

    def procedure(apdu):
        try:
            while True:
                apdu(b"x")
        except LinkError as error:
            errors.append(error.reason)
            raise

    running = asyncio.create_task(link.run_blocking(procedure))
    await asyncio.sleep(0)
    held.set()
    await reader.aclose()
    with pytest.raises(LinkError) as caught:
        await running
    assert caught.value.reason is LinkReason.CLOSED
    assert errors in ([], [LinkReason.CLOSED])  # empty when it was stopped before it began


async def test_reopening_100_times_leaks_nothing(chip, port):
    def resources() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    chip.target = device()
    counts = []
    for _ in range(101):
        reader = NfcInitiator(port.path)
        assert await reader.sense(timeout_s=1) is not None
        await reader.aclose()
        counts.append(resources())
    assert counts[-1] == counts[0]


def test_the_port_leaves_nothing_behind():
    before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    with PtyPort(VirtualPn532()) as served:
        assert Path(served.path).exists()
    served.close()
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before


async def test_an_unplugged_reader_is_lost_and_then_absent(chip):
    chip.target = device()
    with PtyPort(chip) as port:
        reader = NfcInitiator(port.path)
        link = await reader.sense(timeout_s=1)
    with pytest.raises(LinkError) as caught:
        await exchange(link, b"x")
    assert caught.value.reason is LinkReason.LOST
    await link.aclose()
    with pytest.raises(LinkError) as caught:
        await reader.sense(timeout_s=1)
    assert caught.value.reason is LinkReason.ABSENT
    await reader.aclose()


# ---- polling frame --------------------------------------------------------------------------


async def sense_with(port: PtyPort, frame: bytes | None) -> bool:
    reader = NfcInitiator(port.path, polling_frame=frame)
    try:
        return await reader.sense(timeout_s=0.1) is not None
    finally:
        await reader.aclose()


@pytest.mark.parametrize(
    ("frame", "found"), [(None, False), (b"\x6a\x01\xc0\xff\xef", False), (POLLING_FRAME, True)]
)
async def test_a_gated_device_answers_the_matching_polling_frame_only(chip, port, frame, found):
    chip.target = device(gate=lambda body: body == POLLING_FRAME)
    assert await sense_with(port, frame) is found


async def test_an_ungated_device_is_sensed_despite_a_polling_frame(chip, port):
    chip.target = device()
    assert await sense_with(port, POLLING_FRAME)


async def test_a_device_behind_the_gate_carries_apdus(chip, port):
    chip.target = device(gate=lambda body: body == POLLING_FRAME)
    reader = NfcInitiator(port.path, polling_frame=POLLING_FRAME)
    link = await reader.sense(timeout_s=1)
    assert await exchange(link, bytes(300)) == bytes(300) + OK
    await reader.aclose()


async def test_a_reader_that_is_no_pn53x_refuses_a_polling_frame():
    reader = NfcInitiator("udp:54399", polling_frame=POLLING_FRAME)
    with pytest.raises(LinkError) as caught:
        await reader.sense(timeout_s=0)
    assert caught.value.reason is LinkReason.UNSUPPORTED
    await reader.aclose()


# ---- tap ------------------------------------------------------------------------------------


async def test_the_tap_sees_the_activation_and_every_block(chip, port):
    tap = Recorder()
    chip.target = device()
    reader = NfcInitiator(port.path, tap=tap)
    link = await reader.sense(timeout_s=1)
    await exchange(link, b"\x00\xa4")
    await reader.aclose()
    assert tap.seen == [
        "on",
        ">26", "<4400",
        ">9320", "<88041122bf", ">937088041122bf", "<04",
        ">9520", "<3344556644", ">95703344556644", "<20",
        ">e080", "<0578008000",
        ">0200a4", "<0200a49000",
        "off",
    ]  # fmt: skip


# ---- readers that cannot be opened ------------------------------------------------------------


async def reason_of(path: str) -> LinkReason:
    reader = NfcInitiator(path)
    with pytest.raises(LinkError) as caught:
        await reader.sense(timeout_s=0)
    await reader.aclose()
    assert caught.value.hint
    return caught.value.reason


@pytest.mark.parametrize("path", ["/dev/no-such-port", "tty:USB97:pn532", "tty:nosuch:pn532"])
async def test_a_reader_that_is_not_there_is_absent(path):
    assert await reason_of(path) is LinkReason.ABSENT


async def test_a_usb_reader_that_is_not_there_is_absent_or_libusb_is_missing():
    libusb = not any("libusb does not load" in finding.name for finding in find_readers())
    expected = LinkReason.ABSENT if libusb else LinkReason.UNSUPPORTED
    assert await reason_of("usb:dead:beef") is expected


async def test_a_udp_port_that_has_a_name_is_unsupported(monkeypatch):
    monkeypatch.setattr(socket, "getnameinfo", lambda *_args: ("127.0.0.1", "tcpmux"))
    assert await reason_of("udp:54399") is LinkReason.UNSUPPORTED


async def test_a_port_where_nothing_answers_is_absent():
    class Silence:
        output = staticmethod(lambda _data: None)

        def host(self, data: bytes) -> bytes:
            return b""

    with PtyPort(Silence()) as port:
        assert await reason_of(port.path) is LinkReason.ABSENT


async def test_a_port_without_permission_is_denied(port, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_args, **_kwargs: False)
    assert await reason_of(port.path) is LinkReason.DENIED


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EBUSY, LinkReason.BUSY),
        (errno.EACCES, LinkReason.DENIED),
        (errno.ENXIO, LinkReason.ABSENT),
        (errno.EINVAL, LinkReason.UNSUPPORTED),
    ],
)
async def test_what_the_operating_system_says_becomes_a_reason(port, monkeypatch, code, reason):
    def refuse(_transport: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(nfc.clf.pn532, "init", refuse)
    assert await reason_of(port.path) is reason


class UsbDevice:
    """An ACR122U on the bus."""

    def getVendorID(self) -> int:
        return 0x072F

    def getProductID(self) -> int:
        return 0x2200

    def getBusNumber(self) -> int:
        return 999

    def getDeviceAddress(self) -> int:
        return 999


@pytest.mark.parametrize(
    ("modules", "process", "hint"),
    [("pn533_usb 20480 0 - Live\n", "bash\n", "blacklist"), ("", "pcscd\n", "systemctl stop")],
)
@pytest.mark.parametrize("path", ["usb", "usb:072f:2200"])
async def test_a_usb_reader_that_something_holds_is_busy(monkeypatch, modules, process, hint, path):
    class Bus(contextlib.nullcontext):
        def getDeviceList(self, **_options: object) -> list[UsbDevice]:
            return [UsbDevice()]

    def read_text(file: Path, **_options: object) -> str:
        return modules if file.name == "modules" else process

    monkeypatch.setattr(usb1, "USBContext", lambda: Bus(Bus()))
    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(nfc.clf.ContactlessFrontend, "open", lambda _self, _path: False)
    reader = NfcInitiator(path)
    with pytest.raises(LinkError) as caught:
        await reader.sense(timeout_s=0)
    await reader.aclose()
    assert caught.value.reason is LinkReason.BUSY
    assert hint in caught.value.hint
    (finding,) = (found for found in find_readers() if found.link == "nfc:usb:072f:2200")
    assert (finding.status, finding.hint) == (LinkReason.BUSY, caught.value.hint)


@pytest.mark.parametrize("path", ["/dev/x;true", "/etc", "i2c:1", "udp:", ""])
async def test_a_path_that_means_no_reader_is_unsupported(path):
    assert await reason_of(path) is LinkReason.UNSUPPORTED


@pytest.mark.parametrize("baud_rate", [921_600, 230_400])
async def test_a_chip_that_a_crashed_host_left_at_another_speed_is_found(chip, port, baud_rate):
    port.left_at_baud = baud_rate
    chip.target = device()
    reader = NfcInitiator(port.path)
    assert await reader.sense(timeout_s=1) is not None
    await reader.aclose()


# ---- card emulation -------------------------------------------------------------------------


class Phone:
    """A responder that counts."""

    def __init__(self) -> None:
        self.periods = 0

    def answer(self, command: bytes) -> bytes:
        return command + OK

    def field_off(self) -> None:
        self.periods += 1


@pytest.fixture
async def emulation(chip):
    """A phone on a second chip, in the field of ``chip``."""
    phone, card_chip, listening = Phone(), VirtualPn532(), asyncio.Event()
    chip.target = card_chip.antenna
    with PtyPort(card_chip) as card_port:
        serving = asyncio.create_task(
            serve_nfc(card_port.path, phone, on_listening=lambda _name: listening.set())
        )
        await listening.wait()
        yield phone
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


async def test_card_emulation_answers_another_reader(emulation, reader):
    link = await reader.sense(timeout_s=5)
    for size in (1, 60, 300, 1000):
        assert await exchange(link, bytes(size)) == bytes(size) + OK
    await link.aclose()


async def test_card_emulation_serves_one_field_period_after_the_other(emulation, reader):
    for period in range(3):
        link = await reader.sense(timeout_s=5)
        assert emulation.periods == period
        assert await exchange(link, b"x") == b"x" + OK
        await link.aclose()


async def test_card_emulation_ends_after_one_period_when_asked(chip, reader):
    phone, card_chip, tap, names = Phone(), VirtualPn532(), Recorder(), []
    chip.target = card_chip.antenna
    with PtyPort(card_chip) as card_port:
        serving = asyncio.create_task(
            serve_nfc(card_port.path, phone, once=True, tap=tap, on_listening=names.append)
        )
        link = await reader.sense(timeout_s=5)
        await exchange(link, b"x")
        await link.aclose()
        await serving
    assert phone.periods == 1
    assert len(names) == 1
    assert tap.seen == ["on", ">0278", "<02789000", ">c2", "<c2", "off"]


async def test_card_emulation_on_a_reader_that_is_not_there_is_absent():
    with pytest.raises(LinkError) as caught:
        await serve_nfc("/dev/no-such-port", Phone(), on_listening=lambda _name: None)
    assert caught.value.reason is LinkReason.ABSENT


async def test_card_emulation_on_a_reader_that_cannot_listen_is_unsupported(port, monkeypatch):
    def refuse(*_args: object) -> None:
        raise nfc.clf.UnsupportedTargetError

    monkeypatch.setattr(nfc.clf.ContactlessFrontend, "listen", refuse)
    with pytest.raises(LinkError) as caught:
        await serve_nfc(port.path, Phone(), on_listening=lambda _name: None)
    assert caught.value.reason is LinkReason.UNSUPPORTED


# ---- nfcpy's udp reader -----------------------------------------------------------------------


async def test_the_same_initiator_reads_a_device_over_udp():
    phone, ports = Phone(), asyncio.Queue()
    serving = asyncio.create_task(serve_nfc_udp(0, phone, once=True, on_listening=ports.put_nowait))
    reader = NfcInitiator(f"udp:{await ports.get()}")
    link = await reader.sense(timeout_s=5)
    assert await exchange(link, bytes(1000)) == bytes(1000) + OK
    await link.aclose()
    await serving
    await reader.aclose()
    assert phone.periods == 1


# ---- findings -------------------------------------------------------------------------------


def test_probing_tells_a_pn532_from_a_silent_port(port, monkeypatch):
    class Silence:
        output = staticmethod(lambda _data: None)

        def host(self, data: bytes) -> bytes:
            return b""

    with PtyPort(Silence()) as silent:
        paths = [port.path, silent.path]
        monkeypatch.setattr(glob, "glob", lambda name: paths if name == "/dev/serial0" else [])
        found = {finding.link: finding.status for finding in find_readers(probe=True)}
    assert found[f"nfc:{port.path}"] is None
    assert found[f"nfc:{silent.path}"] is LinkReason.ABSENT


def test_the_list_of_readers_never_raises(monkeypatch):
    assert any("stty" in finding.name for finding in find_readers())

    def broken(*_args: object, **_kwargs: object) -> bool:
        raise RuntimeError("broken")

    monkeypatch.setattr(os, "access", broken)
    monkeypatch.setattr(Path, "read_text", broken)
    assert any(finding.status is LinkReason.UNSUPPORTED for finding in find_readers())
