"""The vehicle as a process: its events, its links, its knobs, and phones that meet it there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dkey.access.applet import AppletHost
from dkey.access.ble_applet import BleApplet
from dkey.access.ble_device import DeviceBleSession
from dkey.access.ble_events import Established, VerdictReceived
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.delivery import mailbox_of, receipt_in
from dkey.access.device import AccessApplet
from dkey.access.profile import VEHICLE
from dkey.codec.ble import RkeAction
from dkey.codec.ble_advert import VehicleAdvert
from dkey.crypto.vault import MemoryVault
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.features import DK2_TOUCH, Capabilities
from dkey.lifecycle.parcel import KeyParcel, VehicleReceipt
from dkey.link.opener import open_central, serve
from dkey.link.session_driver import SessionDriver
from dkey.pairing.owner import OwnerPairingDevice, Stretch, from_sdu, parse_code, to_sdu
from dkey.testing import SeededEntropy
from firmware_mock.process import Settings, VehicleProcess
from tests.scenario.sharing import Desk, Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from dkey.access.ble_events import BleEvent
    from dkey.crypto.secret import Secret
    from dkey.link.base import Link
    from dkey.pairing.owner import PairedVehicle

SOON_S = 20.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder whose path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="dkv") as name:
        yield Path(name) / "car"


class Car:
    """A vehicle process in this process; its events as they come."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.process = VehicleProcess(Settings(state=folder, **how), emit=self.emit)

    def emit(self, event: dict[str, Any]) -> None:
        json.dumps(event)
        self.events.append(event)
        self.changed.set()

    async def event(self, name: str, **fields: object) -> dict[str, Any]:
        async with asyncio.timeout(SOON_S):
            while True:
                for event in self.events:
                    if event["event"] == name and fields.items() <= event.items():
                        return event
                self.changed.clear()
                await self.changed.wait()

    async def ask(self, **request: object) -> dict[str, Any]:
        (answer,) = await self.send(json.dumps(request).encode() + b"\n")
        return answer

    async def send(self, data: bytes) -> list[dict[str, Any]]:
        api = self.events[0]["api"]
        reader, writer = await asyncio.open_unix_connection(api)
        try:
            async with asyncio.timeout(SOON_S):
                writer.write(data)
                writer.write_eof()
                return [json.loads(line) for line in (await reader.read()).splitlines()]
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def running(folder: Path, **how: Any) -> AsyncIterator[Car]:
    car = Car(folder, **how)
    task = asyncio.create_task(car.process.run(signals=False))
    ready = asyncio.create_task(car.event("ready"))
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    try:
        if task.done():
            task.result()
        yield car
    finally:
        car.process.stop()
        async with asyncio.timeout(SOON_S):
            await task


class Phone:
    """A phone that pairs by BLE and remembers the vehicle."""

    def __init__(self, name: str = "phone", paired: PairedVehicle | None = None) -> None:
        self.name = name
        self.entropy = SeededEntropy(name)
        self.vault = MemoryVault(key=self.entropy.ephemeral())
        self.public_key = self.vault.public("key")
        self.paired = paired
        self.kpersistent: dict[tuple[bytes, bytes], Secret] = {}
        self.parcel: KeyParcel | None = None
        self.receipt: VehicleReceipt | None = None

    @property
    def credential(self) -> DeviceCredential:
        assert self.paired is not None
        group = self.paired.group_id
        trusted = TrustedReader(group_id=group, public_key=self.paired.public_key)
        return DeviceCredential(
            profile=VEHICLE,
            vault=self.vault,
            key="key",
            readers={group: trusted},
            kpersistent=self.kpersistent,
            mailbox=None if self.parcel is None else mailbox_of(self.parcel),
        )

    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        self.kpersistent[group_id, sub_id] = key

    def save_mailbox(self, data: bytes) -> None:
        self.receipt = receipt_in(data)

    @asynccontextmanager
    async def link(self, car: Car) -> AsyncIterator[Link]:
        central = open_central(car.events[0]["ble"])
        try:
            seen = await central.find(
                lambda each: isinstance(each.advert, VehicleAdvert), timeout_s=SOON_S
            )
            assert seen is not None
            link = await central.connect(seen)
            yield link
            await link.aclose()
        finally:
            await central.aclose()

    async def pair(self, car: Car, code: str) -> None:
        phone = OwnerPairingDevice(
            vault=self.vault,
            key="key",
            capabilities=Capabilities(nfc=True, ble=True, uwb=False, os="linux 6"),
            entropy=self.entropy,
        )
        async with asyncio.timeout(SOON_S), self.link(car) as link:
            said: bytes | None = phone.begin()
            while said is not None:
                await link.send(to_sdu(said))
                answer = phone.step(from_sdu(await link.recv()))
                if isinstance(answer, Stretch):
                    answer = phone.stretched(answer.run(parse_code(code)))
                said = answer
        self.paired = phone.paired

    async def ask(
        self, car: Car, *actions: RkeAction, remote_only: bool = True
    ) -> tuple[bool, list[str | None]]:
        """Connect, ask, leave; return whether it was a fast transaction, and the codes."""
        clock = asyncio.get_running_loop().time
        arrived: asyncio.Queue[BleEvent] = asyncio.Queue()

        def take(events: Iterable[BleEvent]) -> None:
            for event in events:
                arrived.put_nowait(event)

        async with asyncio.timeout(SOON_S), self.link(car) as link:
            applet = BleApplet(self.credential, self.entropy, store=self)
            session = DeviceBleSession(applet, remote_only=remote_only)
            driver: SessionDriver[BleEvent] = SessionDriver(session, link, clock=clock, take=take)
            session.start(clock())
            task = asyncio.create_task(driver.run())
            try:
                established = await arrived.get()
                assert isinstance(established, Established), established
                codes = []
                for action in actions:
                    session.request(action, clock())
                    driver.wake()
                    while not isinstance(event := await arrived.get(), VerdictReceived):
                        pass
                    codes.append(event.code)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        assert established.transaction is not None
        return established.transaction.fast, codes


async def paired(car: Car) -> Phone:
    """Pair the owner's phone at the head unit, in a car that stands with its ignition on."""
    phone = Phone()
    await car.ask(set={"ignition": "on"})
    answer = await car.ask(press="pair-owner")
    await phone.pair(car, answer["pairing_code"])
    await car.ask(set={"ignition": "off"})
    return phone


# ---- the process --------------------------------------------------------------------------------


async def test_the_first_event_is_ready_with_every_link(folder):
    async with running(folder) as car:
        ready = car.events[0]
    assert ready["event"] == "ready"
    assert ready["ble"] == f"ble-sim:{folder}/air.sock"
    assert ready["handle"].startswith("apdu-tcp:127.0.0.1:")
    assert ready["pad"].startswith("apdu-tcp:127.0.0.1:")
    assert ready["handle"] != ready["pad"]
    assert ready["api"] == f"{folder}/control.sock"


async def test_its_sockets_and_files_are_for_its_user_alone_and_the_sockets_go_with_it(folder):
    async with running(folder) as car:
        api = Path(car.events[0]["api"])
        assert stat.S_IMODE(api.stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "air.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not [each for each in folder.iterdir() if each.is_socket()]


async def test_a_new_vehicle_has_no_owner_and_stays_the_same_vehicle(folder):
    async with running(folder, ble="none") as car:
        assert car.process.vehicle.store.credentials() == ()
        first = car.events[0]["group_id"]
        assert car.events[0]["ble"] is None
    async with running(folder, ble="none") as car:
        assert car.events[0]["group_id"] == first


async def test_a_second_process_in_the_folder_is_refused_and_the_first_goes_on(folder):
    async with running(folder, ble="none") as car:
        done = await asyncio.to_thread(dkey, "vehicle", "run", "--state", folder, "--json")
        assert done.returncode == 3
        assert "another program uses" in done.stderr
        assert (await car.ask(show=True))["ok"]


def dkey(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dkey", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_cleanly(folder, number):
    words = [sys.executable, "-m", "dkey", "vehicle", "run"]
    with subprocess.Popen(
        [*words, "--state", str(folder), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"
        process.send_signal(number)
        _, complaints = process.communicate(timeout=SOON_S)
    assert process.returncode == 0
    assert complaints == ""
    assert not [each for each in folder.iterdir() if each.is_socket()]


# ---- knobs and buttons --------------------------------------------------------------------------


async def test_a_knob_changes_the_body_and_everybody_who_watches_is_told(folder):
    async with running(folder, ble="none") as car:
        answer = await car.ask(set={"ignition": "on", "gear": "R", "speed": "-3", "fob": "near"})
        assert answer["ok"]
        state = await car.event("state", speed_kmh=-3.0)
        assert (state["ignition_on"], state["gear_in_park"]) == (True, False)
        assert state["smartkey_near"] is True


async def test_the_value_unknown_fails_a_sensor_until_it_is_set_again(folder):
    async with running(folder, ble="none") as car:
        assert (await car.ask(set={"doors": "unknown"}))["state"]["doors_closed"] is None
        assert (await car.ask(set={"doors": "open"}))["state"]["doors_closed"] is False


@pytest.mark.parametrize(
    "values", [{"nope": "1"}, {"speed": "fast"}, {"speed": "nan"}, {"gear": "X"}, {"locked": ""}]
)
async def test_a_knob_that_makes_no_sense_changes_nothing(folder, values):
    async with running(folder, ble="none") as car:
        before = (await car.ask(show=True))["state"]
        answer = await car.ask(set={"ignition": "on"} | values)
        assert (answer["ok"], answer["code"]) == (False, None)
        assert (await car.ask(show=True))["state"] == before


async def test_start_without_a_key_is_refused_with_its_code(folder):
    async with running(folder, ble="none") as car:
        assert (await car.ask(press="start"))["code"] == "NO_KEY_ON_PAD"
        assert (await car.event("refused"))["code"] == "NO_KEY_ON_PAD"


async def test_pairing_with_the_ignition_off_is_refused_with_its_code(folder):
    async with running(folder, ble="none") as car:
        answer = await car.ask(press="pair-owner")
        assert (answer["ok"], answer["code"]) == (False, "IGNITION_OFF")


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"[]\n",
        b"{\n",
        b"\xff\xfe\n",
        b'{"press": 5}\n',
        b'{"set": []}\n',
        b"[" * 4000 + b"\n",
    ],
)
async def test_a_request_that_is_none_is_answered_so_and_harms_nobody(folder, data):
    async with running(folder, ble="none") as car:
        (answer,) = await car.send(data)
        assert (answer["ok"], answer["code"]) == (False, None)
        assert (await car.ask(show=True))["ok"]


@pytest.mark.parametrize("data", [b"x" * 10_000 + b"\n", b'{"show": true}', b""])
async def test_a_line_that_is_too_long_or_unfinished_gets_no_answer(folder, data):
    async with running(folder, ble="none") as car:
        with contextlib.suppress(ConnectionError):
            assert await car.send(data) == []
        assert (await car.ask(show=True))["ok"]


async def test_the_command_line_turns_knobs_and_presses_buttons(folder):
    async with running(folder, ble="none") as car:
        on = await asyncio.to_thread(dkey, "vehicle", "set", "ignition=on", "--state", folder)
        assert (on.returncode, on.stdout) == (0, "locked, ignition on, horn off\n")
        start = await asyncio.to_thread(dkey, "vehicle", "press", "start", "--state", folder)
        assert (start.returncode, "NO_KEY_ON_PAD" in start.stdout) == (1, True)
        nope = await asyncio.to_thread(dkey, "vehicle", "press", "nope", "--state", folder)
        assert nope.returncode == 2
        await car.event("state", ignition_on=True)
    gone = dkey("vehicle", "set", "ignition=on", "--state", folder)
    assert gone.returncode == 3
    assert "dkey vehicle run" in gone.stderr


# ---- phones -------------------------------------------------------------------------------------


async def test_a_phone_pairs_over_ble_and_commands_the_vehicle(folder):
    async with running(folder) as car:
        phone = await paired(car)
        _, codes = await phone.ask(car, RkeAction.REMOTE_START, RkeAction.UNLOCK)
        assert codes == [None, "IGNITION_ON"]
        await car.event("pairing_code")
        await car.event("paired")
        await car.event("authenticated", credential="owner", flow="standard")
        await car.event("command", action="REMOTE_START", credential="owner")
        await car.event("refused", action="UNLOCK", code="IGNITION_ON")
        state = (await car.ask(show=True))["state"]
        assert (state["ignition_on"], state["remote_running"]) == (True, True)


async def test_the_key_and_the_repeat_timer_outlive_the_process(folder):
    async with running(folder) as car:
        phone = await paired(car)
        fast, codes = await phone.ask(car, RkeAction.UNLOCK, remote_only=False)
        assert (fast, codes) == (False, [None])
    async with running(folder) as car:
        fast, codes = await phone.ask(car, RkeAction.LOCK, remote_only=False)
        assert (fast, codes) == (True, ["TOO_SOON"])


async def test_the_paired_phone_works_at_the_handle_too(folder):
    async with running(folder) as car:
        phone = await paired(car)
        applet = AccessApplet(phone.credential, phone.entropy, store=phone)
        listening = asyncio.Event()
        serving = asyncio.create_task(
            serve(
                car.events[0]["handle"],
                AppletHost([applet]),
                once=True,
                on_listening=lambda _port: listening.set(),
            )
        )
        tap = await car.event("tap")
        assert (tap["position"], tap["action"], tap["code"]) == ("DOOR_HANDLE", "UNLOCK", None)
        assert tap["credential"] == "owner"
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_factory_reset_ends_the_owners_key(folder):
    async with running(folder) as car:
        phone = await paired(car)
        await phone.ask(car, RkeAction.HORN_OFF)
        assert (await car.ask(press="factory-reset"))["ok"]
        with pytest.raises(AssertionError):
            await phone.ask(car, RkeAction.UNLOCK)
        await car.event("refused", code="KEY_UNKNOWN")
        assert (await car.ask(show=True))["state"]["locked"] is True


async def test_a_touch_only_vehicle_refuses_what_comes_by_ble(folder):
    async with running(folder, features=DK2_TOUCH) as car:
        phone = await paired(car)
        _, codes = await phone.ask(car, RkeAction.UNLOCK, RkeAction.HORN_ON)
        assert codes == ["FEATURE_NOT_SUPPORTED"] * 2


async def test_a_participant_that_speaks_no_hci_disturbs_nobody(folder):
    async with running(folder) as car:
        phone = await paired(car)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as junk:
            junk.connect(str(folder / "air.sock"))
            junk.sendall(b"\xff" * 64)
        assert await phone.ask(car, RkeAction.UNLOCK) == (False, [None])


# ---- shared keys --------------------------------------------------------------------------------


async def shared(car: Car, owner: Phone) -> tuple[Phone, Desk]:
    """Return a friend's phone with an attestation that the owner's phone signed."""
    side = Desk(car.process.vehicle, Signer(owner.vault, "key"))
    friend = Phone("friend", owner.paired)
    friend.parcel = KeyParcel(chain=(side.attest(friend),), lists={})
    return friend, side


async def test_a_friend_is_let_in_over_the_air_and_falls_by_the_owners_list(folder):
    async with running(folder) as car:
        owner = await paired(car)
        await owner.ask(car, RkeAction.HORN_OFF)  # the owner's first use, from which it counts
        friend, side = await shared(car, owner)
        assert await friend.ask(car, RkeAction.UNLOCK) == (False, [None])
        admitted = await car.event("admitted")
        assert (admitted["role"], admitted["slot"]) == ("ASSOCIATE", 1)
        assert friend.receipt is not None
        assert friend.receipt.admissions == 1
        news = side.list(1, revoked=(side.share_id("friend"),))
        owner.parcel = KeyParcel(lists={Issuer.OWNER: news})
        await owner.ask(car, RkeAction.HORN_OFF)
        await car.event("list_taken", issuer="OWNER", number=1)
        with pytest.raises(AssertionError):
            await friend.ask(car, RkeAction.LOCK)
        await car.event("refused", code="KEY_REVOKED")
        assert (await car.ask(keys=True))["count"] == 1


async def test_the_key_menu_needs_the_owners_phone_on_the_pad(folder):
    async with running(folder) as car:
        owner = await paired(car)
        await owner.ask(car, RkeAction.HORN_OFF)
        friend, _ = await shared(car, owner)
        await friend.ask(car)
        shown = await car.ask(keys=True)
        assert (shown["session"], shown["count"], shown["keys"]) == (None, 2, [])
        known = car.process.vehicle.store.credential_by_x(friend.public_key.x)
        wanted = {"revoke": known.credential_id}
        refused = await car.ask(keys=wanted)
        assert (refused["ok"], refused["code"]) == (False, "NOT_AUTHORISED")
        assert (await car.ask(press="transfer"))["code"] == "NOT_AUTHORISED"
        applet = AccessApplet(owner.credential, owner.entropy, store=owner)
        where = car.events[0]["pad"]
        host = AppletHost([applet])
        pad = asyncio.create_task(serve(where, host, once=True, on_listening=lambda _port: None))
        await car.event("tap", position="CONSOLE_PAD")
        shown = await car.ask(keys=True)
        assert [each["role"] for each in shown["keys"]] == ["OWNER", "ASSOCIATE"]
        assert (await car.ask(keys=wanted))["count"] == 1
        done = await car.ask(press="transfer")
        assert (done["ok"], done["owner_epoch"], done["half_removed"]) == (True, 2, False)
        assert (await car.ask(keys=True))["count"] == 0
        pad.cancel()
        await asyncio.gather(pad, return_exceptions=True)


async def test_the_command_line_shows_the_keys_in_use(folder):
    async with running(folder, ble="none"):
        ran = await asyncio.to_thread(dkey, "vehicle", "keys", "--state", folder)
        assert (ran.returncode, ran.stdout) == (0, "0 keys in use\n")
        ran = await asyncio.to_thread(dkey, "vehicle", "keys", "--json", "--state", folder)
        assert json.loads(ran.stdout) == {"ok": True, "session": None, "count": 0, "keys": []}
        ran = await asyncio.to_thread(dkey, "vehicle", "keys", "--revoke", "x", "--state", folder)
        assert (ran.returncode, "pad" in ran.stderr) == (1, True)


@pytest.mark.parametrize("keys", [5, {}, {"revoke": "a", "resume": "b"}, {"rename": "a"}])
async def test_a_request_about_keys_that_makes_no_sense_is_refused(folder, keys):
    async with running(folder, ble="none") as car:
        answer = await car.ask(keys=keys)
        assert (answer["ok"], answer["code"]) == (False, None)
