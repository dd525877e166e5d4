"""The bench reader over BLE messages: the report, its steps, remote requests, failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from test_ble_desk import End, pair

from dkey.access.ble_applet import BleApplet
from dkey.access.ble_device import DeviceBleSession
from dkey.access.ble_events import Established, StatusReported, VerdictReceived
from dkey.access.enrolled import Flow
from dkey.access.exchange import ExchangeRequest, Read, ReaderStatus
from dkey.access.profile import ALIRO
from dkey.agent.credential_file import CredentialFile
from dkey.bench_reader.message_tap import MessageReport, message_tap
from dkey.bench_reader.reader_file import ReaderFile
from dkey.codec.ble import RkeAction, StatusSource
from dkey.crypto.p256 import PrivateKey
from dkey.link.session_driver import SessionDriver
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dkey.access.ble_events import BleEvent

READER, CREDENTIAL, OTHER = (PrivateKey.from_scalar(bytes(31) + bytes((n,))) for n in (2, 3, 4))
SOON_S = 5.0
STANDARD = ["Initiate AP RKE", "AUTH0", "AUTH1", "AP Completed", "Reader Status Changed"]


class Bench:
    """A reader file, a credential file, and a phone that asks for what it is told to."""

    def __init__(self, folder: Path, profile: str, *, known: bool = True, trusted: bool = True):
        group, sub = "11" * 16, "22" * 16
        self.reader_path = folder / "reader.json"
        self.credential_path = folder / "credential.json"
        enrolled = CREDENTIAL if known else OTHER
        self.write(
            self.reader_path,
            {
                "profile": profile,
                "group_id": group,
                "sub_id": sub,
                "private_key": READER.scalar().reveal().hex(),
                "credentials": [{"name": "me", "public_key": enrolled.public.point.hex()}],
            },
        )
        self.write(
            self.credential_path,
            {
                "profile": profile,
                "private_key": CREDENTIAL.scalar().reveal().hex(),
                "readers": [
                    {
                        "group_id": group,
                        "public_key": (READER if trusted else OTHER).public.point.hex(),
                    }
                ],
                "kpersistent": [],
                "mailbox": {"size": 4, "data": "01020304"},
            },
        )
        self.device_events: list[BleEvent] = []
        self.entropy = SeededEntropy("bench"), SeededEntropy("phone")

    @staticmethod
    def write(path: Path, document: dict[str, object]) -> None:
        path.write_text(json.dumps(document))
        path.chmod(0o600)

    async def run(
        self,
        *,
        flow: Flow = Flow.STANDARD,
        actions: Iterable[RkeAction] = (),
        remote_only: bool = True,
        read_only: bool = False,
        mailbox: ExchangeRequest | None = None,
        linger_s: float = 0.1,
    ) -> MessageReport:
        near, far = pair()
        clock = asyncio.get_running_loop().time
        file = CredentialFile(self.credential_path)
        applet = BleApplet(file.credential, self.entropy[1], store=file)
        session = DeviceBleSession(applet, remote_only=remote_only)
        left = list(actions)

        def take(events: Iterable[BleEvent]) -> None:
            for event in events:
                self.device_events.append(event)
                verdicts = file.credential.profile is not ALIRO
                turn = VerdictReceived if verdicts else StatusReported
                if left and isinstance(event, (Established, turn)):
                    if not verdicts and isinstance(event, Established):
                        continue  # its first status comes at once
                    session.request(left.pop(0), clock())

        driver: SessionDriver[BleEvent] = SessionDriver(session, far, clock=clock, take=take)
        session.start(clock())
        phone = asyncio.create_task(driver.run())
        async with asyncio.timeout(SOON_S):
            report = await message_tap(
                near,
                ReaderFile(self.reader_path),
                flow=flow,
                entropy=self.entropy[0],
                clock=clock,
                mailbox=mailbox,
                read_only=read_only,
                linger_s=linger_s,
            )
            await near.aclose()
            await phone
        return report


def names(report: MessageReport) -> list[str]:
    return [step.name for step in report.steps]


@pytest.mark.parametrize("profile", ["aliro", "vehicle"])
async def test_a_standard_session_takes_the_fewest_messages(tmp_path, profile):
    report = await Bench(tmp_path, profile).run()
    assert (report.result, report.flow, report.credential) == ("ok", "standard", "me")
    assert names(report) == STANDARD
    assert [step.sw for step in report.steps] == [None, 0x9000, 0x9000, None, None]


@pytest.mark.parametrize("profile", ["aliro", "vehicle"])
async def test_a_device_that_wants_ranging_is_served_fast_the_second_time(tmp_path, profile):
    bench = Bench(tmp_path, profile)
    flows = [(await bench.run(flow=Flow.AUTO, remote_only=False)).flow for _ in range(2)]
    assert flows == ["standard", "fast"]


async def test_read_only_stores_no_kpersistent(tmp_path):
    bench = Bench(tmp_path, "aliro")
    before = bench.reader_path.read_bytes()
    await bench.run(read_only=True)
    assert bench.reader_path.read_bytes() == before
    await bench.run()
    assert bench.reader_path.read_bytes() != before


async def test_remote_requests_of_the_aliro_profile_change_the_state(tmp_path):
    bench = Bench(tmp_path, "aliro")
    report = await bench.run(actions=[RkeAction.LOCK, RkeAction.UNLOCK])
    assert report.commands == ["LOCK", "UNLOCK"]
    assert report.state == "unsecure"
    told = [each for each in bench.device_events if isinstance(each, StatusReported)]
    assert [(each.source, each.state) for each in told] == [
        (StatusSource.UNSPECIFIED, ReaderStatus.UNSECURE & 0xFF),
        (StatusSource.THIS_DEVICE_BLE, ReaderStatus.SECURE & 0xFF),
        (StatusSource.THIS_DEVICE_BLE, ReaderStatus.UNSECURE & 0xFF),
    ]


async def test_every_request_of_the_vehicle_profile_gets_its_verdict(tmp_path):
    bench = Bench(tmp_path, "vehicle")
    wanted = list(RkeAction)
    report = await bench.run(actions=wanted)
    assert report.commands == [each.name for each in wanted]
    verdicts = [each for each in bench.device_events if isinstance(each, VerdictReceived)]
    assert [(each.action, each.code) for each in verdicts] == [(each, None) for each in wanted]


async def test_a_mailbox_is_read_before_the_session_is_completed(tmp_path):
    request = ExchangeRequest(mailbox=(Read(1, 2),))
    report = await Bench(tmp_path, "aliro").run(mailbox=request)
    assert report.reads == (b"\x02\x03",)
    assert names(report).index("EXCHANGE") < names(report).index("AP Completed")


async def test_a_key_that_is_not_in_the_file_is_refused(tmp_path):
    bench = Bench(tmp_path, "aliro", known=False)
    report = await bench.run()
    assert (report.result, report.code) == ("refused", "KEY_UNKNOWN")
    assert report.credential == CREDENTIAL.public.point.hex()
    assert not any(isinstance(each, Established) for each in bench.device_events)


async def test_a_device_that_does_not_trust_the_reader_refuses(tmp_path):
    report = await Bench(tmp_path, "aliro", trusted=False).run()
    assert (report.result, report.code) == ("refused", "NOT_AUTHORISED")
    assert report.state is None


async def tapped(bench: Bench, *sent: bytes, leave: bool = True) -> tuple[MessageReport, End]:
    near, far = pair()
    for each in sent:
        await far.send(each)
    if leave:
        await far.aclose()
    async with asyncio.timeout(SOON_S):
        report = await message_tap(
            near,
            ReaderFile(bench.reader_path),
            flow=Flow.STANDARD,
            entropy=bench.entropy[0],
            clock=asyncio.get_running_loop().time,
        )
    return report, far


async def test_a_device_that_leaves_before_it_speaks_is_an_error(tmp_path):
    report, _ = await tapped(Bench(tmp_path, "aliro"))
    assert report.result == "error"
    assert report.steps == []


@pytest.mark.parametrize(
    "junk", [b"\x00", b"\xff" * 9, b"\x02\x05\x00\x02\xa5\x00", b"\x00\x01\x00\x01\x00"]
)
async def test_junk_ends_the_session_with_one_message_at_most(tmp_path, junk):
    report, far = await tapped(Bench(tmp_path, "aliro"), junk, leave=False)
    assert report.result in {"error", "refused"}
    assert far.inbox.qsize() <= 1


async def test_the_json_is_that_of_a_tap_with_state_and_commands(tmp_path):
    document = (await Bench(tmp_path, "aliro").run(actions=[RkeAction.LOCK])).to_json()
    assert {*document} == {
        *("schema", "result", "flow", "credential", "code", "steps", "state", "commands"),
    }
    assert document["schema"] == "dkey.tap/1"
    assert "keys" not in document


# ---- the two commands, as processes -------------------------------------------------------------

DKEY = [sys.executable, "-m", "dkey"]


@contextlib.contextmanager
def phone_listening(bench: Bench, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    served = ["device", "serve", "msg-tcp:127.0.0.1:0", "--credential", str(bench.credential_path)]
    with subprocess.Popen(
        [*DKEY, *served, "--once", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().split()[-1]
        try:
            yield f"msg-tcp:127.0.0.1:{port}", process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("profile", "words", "commands"),
    [
        ("aliro", ("--action", "unlock"), ["UNLOCK"]),
        ("vehicle", ("--action", "start", "--action", "horn-on"), ["REMOTE_START", "HORN_ON"]),
    ],
)
def test_a_phones_program_and_a_readers_program_meet_over_msg_tcp(
    tmp_path, profile, words, commands
):
    bench = Bench(tmp_path, profile)
    with phone_listening(bench, *words) as (link, phone):
        tapped = subprocess.run(
            [*DKEY, "tap", link, "--reader", str(bench.reader_path), "--json", "--linger", "0.3"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        document = json.loads(tapped.stdout)
        assert (tapped.returncode, document["result"], document["commands"]) == (0, "ok", commands)
        _, said = phone.communicate(timeout=30)
    assert "reader status" in said
    assert "Kpersistent" not in said


def served(bench: Bench, link: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DKEY, "device", "serve", link, "--credential", str(bench.credential_path), *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_action_that_the_profile_or_the_reader_does_not_know_is_a_usage_error(tmp_path):
    bench = Bench(tmp_path, "aliro")
    assert served(bench, "msg-tcp:127.0.0.1:0", "--action", "start").returncode == 2
    bench = Bench(tmp_path, "vehicle")
    assert served(bench, "apdu-tcp:127.0.0.1:0", "--action", "start").returncode == 2
    twice = ("--action", "lock", "--action", "unlock")
    assert served(bench, "apdu-tcp:127.0.0.1:0", *twice).returncode == 2
