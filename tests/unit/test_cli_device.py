"""``dkey device serve`` in this process, with readers on threads of their own."""

from __future__ import annotations

import asyncio
import io
import json
import queue
import socket
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from test_cli_main import Ran, explained, run
from test_reader_file import Bench, bench, rewrite

from dkey.access.applet import AppletHost
from dkey.access.device import AccessApplet
from dkey.access.enrolled import Flow
from dkey.access.reader import AccessReader
from dkey.agent.credential_file import CredentialFile
from dkey.bench_reader.reader_file import ReaderFile
from dkey.bench_reader.tap import TapReport, tap
from dkey.control.intent import parse_intent
from dkey.errors import RemoteFault
from dkey.link.driver import run as drive
from dkey.link.opener import open_initiator, serve
from dkey.testing import FakeClock, SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dkey.link.base import Link, Responder

LINK = "apdu-tcp:127.0.0.1:0"
DEADLINE_S = 20


@contextmanager
def in_field(responder: Responder) -> Iterator[str]:
    """Serve ``responder`` on a thread of its own; give the link string that reaches it."""
    ready: Future[tuple[str, Callable[[], None]]] = Future()

    async def device() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def listening(port: str) -> None:
            ready.set_result((port, lambda: loop.call_soon_threadsafe(task.cancel) and None))

        try:
            await serve(LINK, responder, on_listening=listening)
        except asyncio.CancelledError:
            return

    thread = threading.Thread(target=lambda: asyncio.run(device()))
    thread.start()
    port, stop = ready.result(DEADLINE_S)
    try:
        yield f"apdu-tcp:127.0.0.1:{port}"
    finally:
        stop()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


class Device:
    """The device end of a credential file, as ``dkey device serve`` builds it.

    Attributes:
        applet: Its access applet; ``events`` has the keys of finished transactions.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        file = CredentialFile(path, read_only=read_only)
        self.applet = AccessApplet(
            file.credential, SeededEntropy("device"), store=None if read_only else file
        )
        self._host = AppletHost([self.applet])

    def answer(self, command: bytes) -> bytes:
        return self._host.answer(command)

    def field_off(self) -> None:
        self._host.field_off()


class Said(io.StringIO):
    """Standard output that hands over the port of ``listening PORT``."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def write(self, text: str) -> int:
        if text.startswith("listening "):
            self.ports.put(text.split()[1])
        return super().write(text)


def served(reader: Callable[[Link], Any], *words: object) -> tuple[Ran, Any]:
    """Run ``dkey WORDS`` with one reader that comes once it listens; give both results."""
    said, result = Said(), Future()

    async def visit(port: str) -> Any:
        initiator = open_initiator(f"apdu-tcp:127.0.0.1:{port}")
        try:
            link = await initiator.sense(timeout_s=DEADLINE_S)
            assert link is not None
            return await reader(link)
        finally:
            await initiator.aclose()

    def come() -> None:
        port = said.ports.get(timeout=DEADLINE_S)
        try:
            result.set_result(None if port is None else asyncio.run(visit(port)))
        except BaseException as exc:  # noqa: BLE001 - handed to the test
            result.set_exception(exc)

    thread = threading.Thread(target=come)
    thread.start()
    try:
        ran = run(*words, out=said)
    finally:
        said.ports.put(None)
        thread.join(DEADLINE_S)
    return ran, result.result(0)


def tapping(files: Bench, flow: Flow = Flow.STANDARD) -> Callable[[Link], Any]:
    """A reader that runs one transaction and keeps what it learns in the reader file."""

    async def reader(link: Link) -> TapReport:
        return await tap(
            link,
            ReaderFile(files.reader),
            flow=flow,
            entropy=SeededEntropy("reader"),
            clock=FakeClock(),
        )

    return reader


@pytest.fixture
def files(tmp_path) -> Bench:
    return bench(tmp_path)


def serve_once(files: Bench, *words: object, flow: Flow = Flow.STANDARD) -> tuple[Ran, TapReport]:
    return served(
        tapping(files, flow),
        *("device", "serve", LINK, "--credential", files.credential, "--once", *words),
    )


def test_once_serves_one_field_period_and_prints_the_port_only(files):
    ran, report = serve_once(files)
    assert report.result == "ok"
    assert ran.code == 0
    word, port = ran.out.split()
    assert word == "listening"
    assert 0 < int(port) < 65536
    assert ran.out.count("\n") == 1


def test_each_finished_transaction_is_one_line_on_standard_error(files):
    (first, _), (second, _) = serve_once(files), serve_once(files, flow=Flow.FAST)
    assert first.err == "standard transaction, reader says 0101 (unsecure)\n"
    assert second.err == "fast transaction, reader says 0101 (unsecure)\n"


def test_a_transaction_that_does_not_finish_is_not_told(files):
    rewrite(files.reader, private_key=SeededEntropy("x").ephemeral().scalar().reveal().hex())
    ran, report = serve_once(files)
    assert report.result == "refused"
    assert ran.err == ""


def test_an_action_needs_a_profile_that_carries_it(tmp_path):
    files = bench(tmp_path, "aliro")
    words = ("--credential", files.credential, "--action", "lock")
    assert run("device", "serve", "apdu-tcp:0.0.0.0:0", *words).code == 2


def test_a_standard_transaction_writes_its_kpersistent_into_the_file(files):
    _, report = serve_once(files)
    assert report.kpersistent is not None
    assert files.device_kpersistent == report.kpersistent.reveal().hex()


def test_what_one_run_stored_lets_the_next_one_be_fast(files):
    serve_once(files)
    before = files.content()
    _, report = serve_once(files, flow=Flow.FAST)
    assert (report.result, report.flow) == ("ok", "fast")
    assert files.content() == before


def test_read_only_leaves_the_file_as_it_is(files):
    before = files.credential.read_bytes()
    ran, report = serve_once(files, "--read-only")
    assert (ran.code, report.result) == (0, "ok")
    assert files.credential.read_bytes() == before


def test_a_reader_that_leaves_before_the_end_changes_nothing(files):
    before = files.credential.read_bytes()

    async def torn(link: Link) -> None:
        file = ReaderFile(files.reader)
        procedure = AccessReader(file.identity, file.directory, SeededEntropy("r")).authenticate()
        await drive(procedure, link)

    ran, _ = served(torn, "device", "serve", LINK, "--credential", files.credential, "--once")
    assert ran.code == 0
    assert files.credential.read_bytes() == before


@pytest.mark.parametrize("action", [None, "lock", "unlock"])
def test_the_action_that_was_asked_for_reaches_the_reader(files, action):
    async def intent(link: Link) -> Any:
        file = ReaderFile(files.reader)
        procedure = AccessReader(file.identity, file.directory, SeededEntropy("r")).authenticate()
        return parse_intent((await drive(procedure, link)).extension)

    words = ["--action", action] if action else []
    _, found = served(
        intent, "device", "serve", LINK, "--credential", files.credential, "--once", *words
    )
    assert (None if found is None else found.value.lower()) == action


@pytest.mark.parametrize(("words", "let_in"), [([], True), (["--no-user-auth"], False)])
def test_a_locked_phone_refuses_a_reader_that_wants_the_user(files, words, let_in):
    async def strict(link: Link) -> bool:
        file = ReaderFile(files.reader)
        reader = AccessReader(file.identity, file.directory, SeededEntropy("r"), policy=3)
        try:
            await drive(reader.authenticate(), link)
        except RemoteFault:
            return False
        return True

    _, found = served(
        strict, "device", "serve", LINK, "--credential", files.credential, "--once", *words
    )
    assert found is let_in


def test_an_action_that_is_not_there_is_a_usage_error(files):
    words = ("--credential", files.credential, "--action", "explode")
    assert run("device", "serve", LINK, *words).code == 2


@pytest.mark.parametrize(
    "link", ["apdu-tcp:0.0.0.0:0", "apdu-tcp:[::]:0", "bogus", "", "nfc:nope", "ble:00:11", "sim:"]
)
def test_a_link_that_cannot_be_served_is_exit_3_with_a_hint(files, link):
    before = files.credential.read_bytes()
    ran = run("device", "serve", link, "--credential", files.credential, "--once")
    assert ran.code == 3
    assert ran.out == ""
    assert explained(ran)[-1].startswith("  try: ")
    assert files.credential.read_bytes() == before


def test_a_port_that_is_taken_is_exit_3_and_names_it(files):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        link = f"apdu-tcp:127.0.0.1:{port}"
        ran = run("device", "serve", link, "--credential", files.credential, "--once")
    assert ran.code == 3
    assert str(port) in explained(ran)[0]


def test_no_credential_is_a_usage_error():
    assert run("device", "serve", LINK).code == 2


# ---- traces and secrets -------------------------------------------------------------------------


def secrets_of(files: Bench, *reports: TapReport) -> set[bytes]:
    """Return every secret that the two files or the given transactions hold."""
    found = {
        json.loads(path.read_text())["private_key"] for path in (files.reader, files.credential)
    }
    found |= {key for key in (files.reader_kpersistent, files.device_kpersistent) if key}
    found |= {value for report in reports for value in report.secrets().values() if value}
    return {bytes.fromhex(each) for each in found}


def leaks(secrets: set[bytes], *places: bytes | str) -> list[str]:
    """Return the secrets that stand in one of the places, as bytes or as hex."""
    texts = [each.encode() if isinstance(each, str) else each for each in places]
    return [
        secret.hex()
        for secret in secrets
        for text in texts
        if secret in text or secret.hex().encode() in text.lower()
    ]


def test_a_trace_is_two_private_files_and_has_no_secret(files, tmp_path):
    trace = tmp_path / "tap.pcapng"
    ran, report = serve_once(files, "--trace", trace)
    contents = [path.read_bytes() for path in (trace, trace.with_suffix(".jsonl"))]
    assert ran.code == 0
    assert contents[0].startswith(b"\x0a\x0d\x0d\x0a")
    assert b'"layer": "apdu"' in contents[1]
    assert trace.stat().st_mode & 0o777 == 0o600
    secrets = secrets_of(files, report)
    assert len(secrets) >= 7
    assert leaks(secrets, ran.out, ran.err, *contents) == []


def test_a_trace_has_the_session_keys_when_secrets_are_asked_for(files, tmp_path):
    trace = tmp_path / "tap.pcapng"
    _, report = serve_once(files, "--trace", trace, "--show-secrets")
    assert report.keys is not None
    keys = {report.keys.exchange_reader.reveal(), report.keys.exchange_device.reveal()}
    assert len(leaks(keys, trace.with_suffix(".jsonl").read_bytes())) == 2


def test_a_trace_that_cannot_be_written_is_exit_2(files, tmp_path):
    words = ("--credential", files.credential, "--trace", tmp_path / "no" / "tap.pcapng")
    ran = run("device", "serve", "apdu-tcp:0.0.0.0:0", "--once", *words)
    assert ran.code == 2
    assert explained(ran)


# ---- a device whose disk fails ------------------------------------------------------------------


def test_a_device_that_cannot_write_gives_no_final_answer_and_keeps_its_old_file(
    files, monkeypatch
):
    serve_once(files)
    before = files.credential.read_bytes()

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dkey.crypto.vault.files._replace", full)
    _, report = serve_once(files)
    assert report.result == "error" or report.result == "refused"
    assert files.credential.read_bytes() == before


def test_a_device_that_cannot_write_says_so_to_its_user(files, monkeypatch):
    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dkey.crypto.vault.files._replace", full)
    ran, report = serve_once(files)
    assert report.steps[-1].sw is not None
    assert "No space left" in ran.err


def test_field_off_in_the_middle_leaves_the_device_ready_for_the_next_reader(files):
    device = Device(files.credential)
    with in_field(device) as link:

        async def half() -> None:
            initiator = open_initiator(link)
            found = await initiator.sense(timeout_s=DEADLINE_S)
            assert found is not None
            file = ReaderFile(files.reader)
            reader = AccessReader(file.identity, file.directory, SeededEntropy("r"))
            await drive(reader.authenticate(), found)
            await initiator.aclose()

        asyncio.run(half())
        assert run("tap", link, "--reader", files.reader).code == 0
    assert len(device.applet.events) == 1


def test_a_reader_of_the_other_profile_is_not_answered(tmp_path):
    files = bench(tmp_path, "aliro")
    rewrite(files.reader, profile="vehicle")
    ran, report = serve_once(files)
    assert ran.code == 0
    assert report.code == "DEVICE_UNSUPPORTED"
