"""``dkey doctor`` and ``dkey links``: what they find, with readers of our making."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError

import pytest
from test_cli_main import run

from dkey.errors import LinkError, LinkReason
from dkey.link.ble_adapters import AdapterFinding
from dkey.link.nfc_readers import ReaderFinding
from dkey.link.opener import KNOWN_LINKS, open_initiator

READER = ReaderFinding(link="nfc:tty:USB7:pn532", name="a PN532")
HELD = ReaderFinding(
    link="nfc:usb:072f:2200", name="an ACR122U", status=LinkReason.BUSY, hint="stop pcscd"
)
CIRCUMSTANCE = ReaderFinding(
    link="", name="kernel driver", status=LinkReason.BUSY, hint="blacklist it"
)
ADAPTER = AdapterFinding(link="ble:", name="Bluetooth adapter hci0")
NO_DAEMON = AdapterFinding(
    link="", name="bluetoothd does not run", status=LinkReason.ABSENT, hint="start it"
)


@pytest.fixture
def readers(monkeypatch):
    """Let these be the readers of this machine; give what was asked of the search."""
    asked: list[bool] = []

    def there_are(*found: ReaderFinding) -> list[bool]:
        def find(*, probe: bool = False) -> list[ReaderFinding]:
            asked.append(probe)
            return [*found]

        monkeypatch.setattr("dkey.cli.doctor.find_readers", find)
        monkeypatch.setattr("dkey.cli.doctor.find_adapters", lambda: [ADAPTER, NO_DAEMON])
        monkeypatch.setattr("dkey.cli.links.find_readers", find)
        return asked

    return there_are


@pytest.mark.parametrize("found", [[], [READER], [READER, HELD, CIRCUMSTANCE]])
def test_doctor_json_has_the_documented_keys_and_exit_0(readers, found):
    readers(*found)
    ran = run("doctor", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert {*document} == {"schema", "findings"}
    assert document["schema"] == "dkey.doctor/1"
    assert all({*each} == {"area", "name", "status", "hint"} for each in document["findings"])
    assert {each["area"] for each in document["findings"]} == {"software", "nfc", "ble"}


def test_doctor_gives_the_status_and_the_fix_of_each_reader(readers):
    readers(READER, HELD, CIRCUMSTANCE)
    findings = json.loads(run("doctor", "--json").out)["findings"]
    nfc = [(each["status"], each["hint"]) for each in findings if each["area"] == "nfc"]
    assert nfc == [("ok", None), ("busy", "stop pcscd"), ("busy", "blacklist it")]


def test_doctor_gives_the_status_and_the_fix_of_bluetooth(readers):
    readers()
    findings = json.loads(run("doctor", "--json").out)["findings"]
    ble = [(each["status"], each["hint"]) for each in findings if each["area"] == "ble"]
    assert ble == [("ok", None), ("absent", "start it")]


@pytest.mark.parametrize("found", [[], [CIRCUMSTANCE]])
def test_doctor_says_what_to_do_without_a_reader(readers, found):
    readers(*found)
    ran = run("doctor")
    assert ran.code == 0
    assert "no NFC reader found" in ran.out
    assert "dkey demo" in ran.out


def test_doctor_prints_a_fix_under_each_finding_that_is_not_fine(readers):
    readers(READER, HELD)
    lines = run("doctor").out.splitlines()
    held = next(at for at, line in enumerate(lines) if "ACR122U" in line)
    assert "[busy]" in lines[held]
    assert lines[held + 1].strip() == "try: stop pcscd"
    fine = next(line for line in lines if "a PN532" in line)
    assert "[" not in fine


@pytest.mark.parametrize(("words", "probe"), [([], False), (["--probe"], True)])
def test_doctor_opens_ports_only_when_it_is_told_to(readers, words, probe):
    asked = readers()
    run("doctor", *words)
    assert asked == [probe]


def test_doctor_names_a_package_that_is_not_there_with_the_command_that_installs_it(
    readers, monkeypatch
):
    readers()

    def version(package: str) -> str:
        if package == "bleak":
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr("dkey.cli.doctor.version", version)
    findings = json.loads(run("doctor", "--json").out)["findings"]
    (absent,) = [each for each in findings if each["name"] == "bleak"]
    assert absent["status"] == "absent"
    assert absent["hint"].endswith("-m pip install bleak")


@pytest.mark.parametrize("path", [None, "/usr/bin/tshark"])
def test_doctor_tells_whether_tshark_is_there(readers, monkeypatch, path):
    readers()
    monkeypatch.setattr("dkey.cli.doctor.shutil.which", lambda _: path)
    findings = json.loads(run("doctor", "--json").out)["findings"]
    (tshark,) = [each for each in findings if each["name"].startswith("tshark")]
    assert (tshark["status"] == "ok") is (path is not None)
    assert (tshark["hint"] is None) is (path is not None)


def test_links_json_has_the_documented_keys_and_every_form(readers):
    readers(READER, HELD, CIRCUMSTANCE)
    ran = run("links", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert {*document} == {"schema", "forms", "readers"}
    assert document["schema"] == "dkey.links/1"
    assert [each["form"] for each in document["forms"]] == [link.form for link in KNOWN_LINKS]
    assert all({*each} == {"form", "meaning", "usable"} for each in document["forms"])
    assert all({*each} == {"link", "name", "status", "hint"} for each in document["readers"])
    assert [each["link"] for each in document["readers"]] == [READER.link, HELD.link]


def test_links_prints_every_form_and_marks_those_of_a_later_build(readers):
    readers(READER)
    lines = run("links").out.splitlines()
    for link in KNOWN_LINKS:
        (line,) = [each for each in lines if each.split()[:1] == [link.form]]
        assert ("not in this build" in line) is not link.usable
    assert any(READER.link in line for line in lines)


def test_links_without_a_reader_says_where_to_look(readers):
    readers()
    assert "dkey doctor" in run("links").out


@pytest.mark.parametrize("link", [each for each in KNOWN_LINKS if not each.usable])
def test_a_form_that_is_marked_as_later_cannot_be_opened(link):
    with pytest.raises(LinkError) as refused:
        open_initiator(link.form)
    assert refused.value.reason is LinkReason.UNSUPPORTED


@pytest.mark.parametrize("command", ["doctor", "links"])
def test_on_this_machine_as_it_is_the_command_ends_with_0(command):
    assert run(command).code == 0
