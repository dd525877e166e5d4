"""What the doctor learns of Bluetooth: adapters, their switches, D-Bus and bluetoothd."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest

from dkey.errors import LinkReason
from dkey.link.ble_adapters import find_adapters

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="BlueZ is Linux only")

NO_BUS = "unix:path=/nonexistent/bus"
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/>
<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""
needs_bus = pytest.mark.skipif(
    shutil.which("dbus-daemon") is None, reason="dbus-daemon is not installed"
)


def adapter(root, name="hci0", *, hard="0", soft="0"):
    folder = root / "sys/class/bluetooth" / name / "rfkill0"
    folder.mkdir(parents=True)
    (folder / "hard").write_text(hard + "\n")
    (folder / "soft").write_text(soft + "\n")


def named(findings, part):
    (found,) = [each for each in findings if part in each.name]
    return found


def test_without_bluetooth_every_finding_says_what_to_do(tmp_path):
    findings = find_adapters(root=tmp_path, bus=NO_BUS)
    for part in ("no Bluetooth adapter", "no D-Bus system bus"):
        found = named(findings, part)
        assert found.status is LinkReason.ABSENT
        assert found.hint
    assert named(findings, "bleak").status is None


@pytest.mark.parametrize(
    ("switches", "text", "hint"),
    [
        ({"hard": "1"}, "hardware switch", "switch or key"),
        ({"soft": "1"}, "rfkill", "rfkill unblock"),
    ],
)
def test_a_blocked_adapter_is_absent_with_the_way_to_unblock_it(tmp_path, switches, text, hint):
    adapter(tmp_path, **switches)
    found = named(find_adapters(root=tmp_path, bus=NO_BUS), "adapter hci0")
    assert found.status is LinkReason.ABSENT
    assert text in found.name
    assert hint in found.hint


def test_adapters_that_nothing_speaks_against_are_listed_and_connections_are_not(tmp_path):
    adapter(tmp_path, "hci1")
    adapter(tmp_path, "hci0")
    adapter(tmp_path, "hci0:64")
    found = [each for each in find_adapters(root=tmp_path, bus=NO_BUS) if each.link]
    assert [each.name for each in found] == ["Bluetooth adapter hci0", "Bluetooth adapter hci1"]
    assert all(each.status is None and each.link == "ble:" for each in found)


def test_a_bus_that_says_nothing_is_given_up(tmp_path):
    path = tmp_path / "bus"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        found = named(find_adapters(root=tmp_path, bus=f"unix:path={path}"), "D-Bus")
    assert found.status is LinkReason.TIMEOUT


def test_a_bus_address_that_makes_no_sense_is_told_and_not_raised(tmp_path):
    found = named(find_adapters(root=tmp_path, bus="nonsense"), "D-Bus")
    assert found.status is LinkReason.UNSUPPORTED


@asynccontextmanager
async def bus_of(tmp_path):
    """Run a message bus of our own; give its address."""
    path = tmp_path / "bus"
    (tmp_path / "bus.conf").write_text(CONFIG.format(path=path))
    process = await asyncio.create_subprocess_exec(
        "dbus-daemon",
        f"--config-file={tmp_path}/bus.conf",
        "--nofork",
        "--print-address",
        stdout=subprocess.PIPE,
    )
    try:
        address = (await process.stdout.readline()).decode().strip()
        yield address
    finally:
        process.terminate()
        await process.communicate()


@asynccontextmanager
async def bluez_of(address, adapters):
    """Play bluetoothd with ``adapters``, names to whether they are powered; None: deny."""
    from dbus_fast import Message, Variant  # noqa: PLC0415 - Linux only
    from dbus_fast.aio import MessageBus  # noqa: PLC0415

    bus = await MessageBus(bus_address=address).connect()

    def answer(message):
        if message.member != "GetManagedObjects":
            return None
        if adapters is None:
            return Message.new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "no")
        objects = {
            f"/org/bluez/{name}": {"org.bluez.Adapter1": {"Powered": Variant("b", powered)}}
            for name, powered in adapters.items()
        }
        objects["/org/bluez"] = {"org.bluez.AgentManager1": {}}
        return Message.new_method_return(message, "a{oa{sa{sv}}}", [objects])

    bus.add_message_handler(answer)
    await bus.request_name("org.bluez")
    try:
        yield
    finally:
        bus.disconnect()


@needs_bus
async def test_a_bus_without_bluetoothd_says_how_to_start_it(tmp_path):
    async with asyncio.timeout(10), bus_of(tmp_path) as address:
        findings = await asyncio.to_thread(find_adapters, root=tmp_path, bus=address)
    found = named(findings, "bluetoothd does not run")
    assert found.status is LinkReason.ABSENT
    assert "systemctl start bluetooth" in found.hint


@needs_bus
async def test_adapters_that_are_switched_off_are_told_from_those_that_are_on(tmp_path):
    adapter(tmp_path, "hci0")
    async with (
        asyncio.timeout(10),
        bus_of(tmp_path) as address,
        bluez_of(address, {"hci0": False, "hci1": True}),
    ):
        findings = await asyncio.to_thread(find_adapters, root=tmp_path, bus=address)
    off, on = named(findings, "hci0"), named(findings, "hci1")
    assert off.status is LinkReason.ABSENT
    assert "bluetoothctl power on" in off.hint
    assert on.status is None
    assert named(findings, "bluetoothd runs").status is None


@needs_bus
async def test_a_bluetoothd_that_denies_access_is_denied(tmp_path):
    async with asyncio.timeout(10), bus_of(tmp_path) as address, bluez_of(address, None):
        findings = await asyncio.to_thread(find_adapters, root=tmp_path, bus=address)
    assert named(findings, "denies").status is LinkReason.DENIED
