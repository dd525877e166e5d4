"""``dkey vehicle`` in this process: a vehicle in a folder, phones on threads of their own."""

from __future__ import annotations

import gc
import json
import os
import socket
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from test_cli_device import Device, in_field, leaks
from test_cli_main import Ran, explained, run

from dkey.testing import SeededEntropy
from firmware_mock.garage import open_vehicle

if TYPE_CHECKING:
    from pathlib import Path

OUTCOME = {"schema", "position", "credential", "flow", "action", "code", "text"}


class Garage:
    """A vehicle in a folder with its owner's phone."""

    def __init__(self, folder: Path) -> None:
        self.car, self.owner = folder / "car", folder / "owner.json"
        assert run("vehicle", "init", self.car, "--owner", self.owner).code == 0

    def add(self, name: str, *words: str) -> Path:
        path = self.car.parent / f"{name}.json"
        assert run("vehicle", "add", self.car, path, "--name", name, *words).code == 0
        return path

    def tap(self, reader: str, path: Path, *words: object) -> Ran:
        with in_field(Device(path)) as link:
            return run("vehicle", "tap", self.car, reader, link, "--json", *words)

    def outcome(self, reader: str, path: Path, *words: object) -> dict[str, Any]:
        ran = self.tap(reader, path, *words)
        document = json.loads(ran.out.splitlines()[0])
        assert {*document} == OUTCOME
        assert document["schema"] == "dkey.outcome/1"
        assert ran.code == (1 if document["code"] else 0)
        return document

    def shown(self) -> dict[str, Any]:
        ran = run("vehicle", "show", self.car, "--json")
        assert ran.code == 0
        return json.loads(ran.out)


@pytest.fixture
def garage(tmp_path) -> Garage:
    return Garage(tmp_path)


@pytest.fixture
def nobody():
    """Return a link string to a port that nobody listens on and nobody else can take."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"apdu-tcp:127.0.0.1:{held.getsockname()[1]}"


# ---- init and add -------------------------------------------------------------------------------


def test_init_makes_a_private_vehicle_and_a_private_credential(garage):
    assert garage.car.stat().st_mode & 0o777 == 0o700
    assert garage.owner.stat().st_mode & 0o777 == 0o600
    assert all(path.stat().st_mode & 0o077 == 0 for path in garage.car.iterdir())


def test_init_says_what_to_do_next(tmp_path):
    ran = run("vehicle", "init", tmp_path / "car", "--owner", tmp_path / "o.json")
    assert "next: dkey device serve" in ran.out
    assert ran.err == ""


def test_init_over_a_vehicle_is_exit_2_and_changes_nothing(garage, tmp_path):
    before = garage.shown()
    ran = run("vehicle", "init", garage.car, "--owner", tmp_path / "other.json")
    assert ran.code == 2
    assert "holds a vehicle already" in explained(ran)[0]
    assert not (tmp_path / "other.json").exists()
    assert garage.shown() == before


def test_init_over_a_credential_is_exit_2_and_makes_no_vehicle(garage, tmp_path):
    before = garage.owner.read_bytes()
    ran = run("vehicle", "init", tmp_path / "second", "--owner", garage.owner)
    assert ran.code == 2
    assert garage.owner.read_bytes() == before
    assert not (tmp_path / "second").exists()


def test_init_that_cannot_write_the_owners_file_makes_no_vehicle(tmp_path):
    ran = run("vehicle", "init", tmp_path / "car", "--owner", tmp_path / "no" / "owner.json")
    assert ran.code == 2
    assert run("vehicle", "init", tmp_path / "car", "--owner", tmp_path / "owner.json").code == 0


def test_add_that_cannot_write_the_file_enrols_nobody(garage, tmp_path):
    words = (tmp_path / "no" / "friend.json", "--name", "friend")
    assert run("vehicle", "add", garage.car, *words).code == 2
    assert len(garage.shown()["credentials"]) == 1


def test_add_over_a_file_is_exit_2_and_enrols_nobody(garage):
    ran = run("vehicle", "add", garage.car, garage.owner, "--name", "friend")
    assert ran.code == 2
    assert len(garage.shown()["credentials"]) == 1


def test_the_folder_may_not_be_a_file(tmp_path):
    (tmp_path / "car").write_text("")
    assert run("vehicle", "init", tmp_path / "car", "--owner", tmp_path / "o.json").code == 2


# ---- show ---------------------------------------------------------------------------------------


def test_show_has_the_documented_keys(garage):
    garage.add("friend", "--entry-only")
    document = garage.shown()
    assert {*document} == {"schema", "group_id", "credentials", "events"}
    assert document["schema"] == "dkey.vehicle/1"
    owner, friend = document["credentials"]
    assert {*owner} == {"id", "name", "role", "permission", "state"}
    assert (owner["role"], owner["permission"]) == ("OWNER", "ENTRY_AND_START")
    assert (friend["name"], friend["permission"], friend["state"]) == ("friend", "ENTRY", "ACTIVE")
    keys = {"seq", "t_s", "kind", "position", "credential", "code", "text"}
    assert all({*event} == keys for event in document["events"])


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (2, 2), (99, 3)])
def test_show_prints_as_many_of_the_last_events_as_asked_for(garage, count, shown):
    garage.add("a")
    garage.add("b")
    events = json.loads(run("vehicle", "show", garage.car, "--events", count, "--json").out)[
        "events"
    ]
    assert [event["credential"] for event in events] == ["owner", "a", "b"][3 - shown :]


def test_show_names_everybody_in_the_text_too(garage):
    garage.add("friend")
    ran = run("vehicle", "show", garage.car)
    assert ran.code == 0
    assert {"owner", "friend", "credentials"} - {*ran.out.split()} == {"credentials"}


# ---- tap ----------------------------------------------------------------------------------------


def test_the_owner_unlocks_at_the_handle_standard_at_first_and_then_fast(garage):
    flows = [garage.outcome("handle", garage.owner) for _ in range(2)]
    assert [each["flow"] for each in flows] == ["standard", "fast"]
    assert all(
        (each["action"], each["credential"], each["position"], each["code"])
        == ("UNLOCK", "owner", "DOOR_HANDLE", None)
        for each in flows
    )


def test_the_owner_starts_from_the_pad(garage):
    ran = garage.tap("pad", garage.owner, "--start")
    outcome, start = map(json.loads, ran.out.splitlines())
    assert ran.code == 0
    assert (outcome["action"], outcome["flow"]) == ("AUTHORISE_START", "standard")
    assert start == {"start": "ok"}


def test_start_at_the_handle_is_refused_and_exit_1(garage):
    ran = garage.tap("handle", garage.owner, "--start")
    assert ran.code == 1
    assert json.loads(ran.out.splitlines()[1]) == {"start": "NO_KEY_ON_PAD"}


def test_an_entry_only_friend_enters_and_does_not_start(garage):
    friend = garage.add("friend", "--entry-only")
    assert garage.outcome("handle", friend)["action"] == "UNLOCK"
    ran = garage.tap("pad", friend, "--start")
    assert ran.code == 1
    (line,) = ran.out.splitlines()
    assert json.loads(line)["code"] == "PERMISSION_ENTRY_ONLY"


@pytest.mark.parametrize(
    ("signal", "code"),
    [("speed_kmh=30", "DRIVING"), ("speed_kmh=-30", "DRIVING"), ("speed_kmh=0", None)],
)
def test_signals_are_set_before_the_tap(garage, signal, code):
    assert garage.outcome("handle", garage.owner, "--signal", signal)["code"] == code


@pytest.mark.parametrize("value", ["on", "ON", "true", "yes", "1"])
def test_a_flag_signal_takes_the_usual_words(garage, value):
    ran = garage.tap("pad", garage.owner, "--start", "--signal", f"immobilised={value}")
    assert ran.code == 1
    assert "IMMOBILISED" in ran.out


@pytest.mark.parametrize(
    "signal", ["nope=1", "driving=on", "locked", "locked=maybe", "speed_kmh=fast", "=on", ""]
)
def test_a_signal_that_makes_no_sense_is_a_usage_error(garage, nobody, signal):
    before = garage.shown()
    ran = run("vehicle", "tap", garage.car, "handle", nobody, "--signal", signal)
    assert ran.code == 2
    assert garage.shown() == before


@pytest.mark.parametrize("signal", ["__class__=on", "__slots__=on", "__eq__=on"])
def test_a_signal_that_is_an_attribute_of_python_is_a_usage_error(garage, nobody, signal):
    words = ("--timeout", 0.1, "--signal", signal)
    assert run("vehicle", "tap", garage.car, "handle", nobody, *words).code == 2


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_speed_that_is_no_number_is_a_usage_error(garage, nobody, value):
    words = ("--timeout", 0.1, "--signal", f"speed_kmh={value}")
    assert run("vehicle", "tap", garage.car, "handle", nobody, *words).code == 2


def test_a_stranger_is_refused_and_noted(garage, tmp_path):
    other = Garage(tmp_path / "other")
    document = garage.outcome("handle", other.owner)
    assert document["code"] == "NOT_AUTHORISED"
    assert (document["credential"], document["action"]) == (None, None)
    assert garage.shown()["events"][-1]["kind"] == "REFUSED"


def test_a_device_of_the_other_profile_is_unsupported(garage):
    document = json.loads(garage.owner.read_text())
    garage.owner.write_text(json.dumps(document | {"profile": "aliro"}))
    assert garage.outcome("handle", garage.owner)["code"] == "DEVICE_UNSUPPORTED"


def test_nobody_at_the_reader_is_exit_3(garage, nobody):
    ran = run("vehicle", "tap", garage.car, "handle", nobody, "--timeout", 0.1)
    assert ran.code == 3
    assert "nobody listens" in explained(ran)[0]


def test_a_reader_that_the_vehicle_does_not_have_is_a_usage_error(garage, nobody):
    assert run("vehicle", "tap", garage.car, "boot", nobody).code == 2


def test_the_text_output_is_one_line(garage):
    with in_field(Device(garage.owner)) as link:
        ran = run("vehicle", "tap", garage.car, "handle", link)
    assert ran == (0, "door handle: owner: unlock  (standard)\n", "")


def test_a_trace_of_a_tap_has_no_secret(garage, tmp_path):
    trace = tmp_path / "t.pcapng"
    ran = garage.tap("handle", garage.owner, "--trace", trace)
    held = json.loads(garage.owner.read_text())
    secrets = {bytes.fromhex(held["private_key"]), bytes.fromhex(held["kpersistent"][0]["key"])}
    files = [trace.read_bytes(), trace.with_suffix(".jsonl").read_bytes()]
    assert b'"layer": "apdu"' in files[1]
    assert leaks(secrets, ran.out, ran.err, *files) == []


# ---- a folder that is no vehicle, or a damaged one ----------------------------------------------

COMMANDS = [
    ("vehicle", "show"),
    ("card", "list"),
    ("vehicle", "tap", "handle", "apdu-tcp:127.0.0.1:9"),
    ("vehicle", "run", "--pad", "apdu-tcp:127.0.0.1:9"),
    ("card", "pair", "--owner", "apdu-tcp:127.0.0.1:9", "--card", "apdu-tcp:127.0.0.1:9"),
]


def on(command: tuple[str, ...], car: Path) -> Ran:
    return run(*command[:2], car, *command[2:])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_without_vehicle_is_exit_2_and_says_how_to_make_one(tmp_path, command):
    ran = on(command, tmp_path / "nothing")
    assert ran.code == 2
    assert "dkey vehicle init" in explained(ran)[-1]
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_damaged_store_is_exit_2_says_so_and_is_left_as_it_is(garage, command):
    store = garage.car / "vehicle.db"
    store.write_bytes(b"\xff" * 4096)
    ran = on(command, garage.car)
    assert ran.code == 2
    assert "damaged" in explained(ran)[0]
    assert str(store) in explained(ran)[0]
    assert store.read_bytes() == b"\xff" * 4096


def test_an_empty_store_is_damaged_and_never_an_empty_vehicle(garage):
    (garage.car / "vehicle.db").write_bytes(b"")
    ran = run("vehicle", "show", garage.car)
    assert ran.code == 2
    assert "damaged" in explained(ran)[0]


def test_a_store_with_a_broken_page_is_exit_2(garage):
    store = garage.car / "vehicle.db"
    data = bytearray(store.read_bytes())
    for at in range(4096, len(data)):
        data[at] ^= 0xA5
    store.write_bytes(data)
    ran = run("vehicle", "show", garage.car)
    assert ran.code == 2
    assert "damaged" in explained(ran)[0]


def test_a_store_of_a_newer_program_is_exit_2_and_untouched(garage):
    store = garage.car / "vehicle.db"
    with closing(sqlite3.connect(store)) as db:
        db.execute("PRAGMA user_version = 99")
        db.commit()
    before = store.read_bytes()
    ran = run("vehicle", "show", garage.car)
    assert ran.code == 2
    assert "99" in explained(ran)[0]
    assert store.read_bytes() == before


def test_a_store_that_others_can_read_is_exit_2(garage):
    (garage.car / "vehicle.db").chmod(0o644)
    ran = run("vehicle", "show", garage.car)
    assert ran.code == 2
    assert "chmod 600" in explained(ran)[-1]


@pytest.mark.parametrize("name", ["vault.json", "vehicle.key"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff" * 32])
def test_a_damaged_or_lost_vault_or_key_is_exit_2(garage, name, content):
    path = garage.car / name
    path.unlink() if content is None else path.write_bytes(content)
    ran = run("vehicle", "show", garage.car)
    assert ran.code == 2
    assert explained(ran)


# ---- run ----------------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch):
    """Let these lines be what was typed; the input stays open after them."""
    opened = []

    def lines(*words: str) -> None:
        read, write = os.pipe()
        os.write(write, "".join(f"{word}\n" for word in words).encode())
        stdin = os.fdopen(read, "r")
        opened.extend([stdin, os.fdopen(write, "w")])
        monkeypatch.setattr(sys, "stdin", stdin)

    yield lines
    for each in opened:
        each.close()


def test_run_needs_a_reader(garage):
    assert run("vehicle", "run", garage.car).code == 2


@pytest.fixture
def unraisable(monkeypatch):
    """Return what went wrong where nobody could catch it, such as things that were not closed."""
    seen: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda each: seen.append(str(each.exc_value)))
    yield seen
    gc.collect()


def test_run_closes_all_that_it_opened(garage, nobody, typed, unraisable):
    typed("quit")
    assert run("vehicle", "run", garage.car, "--pad", nobody).code == 0
    gc.collect()
    assert unraisable == []


@pytest.mark.usefixtures("unraisable")
def test_run_obeys_what_is_typed_until_quit(garage, nobody, typed):
    typed("start", "speed_kmh=3", "show", "nope=1", "pair", "pair", "cancel", "stop", "quit")
    ran = run("vehicle", "run", garage.car, "--pad", nobody, "--signal", "valet=on")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == f"console pad: {nobody}"
    assert lines[1] == "START: NO_KEY_ON_PAD"
    assert "speed_kmh=3.0" in lines[2]
    assert "valet=True" in lines[2]
    assert "there is no signal 'nope'" in lines[3]
    assert lines[4].startswith("lay the owner's phone")
    assert "open" in lines[5]
    assert len(lines) == 6


@pytest.mark.parametrize("link", ["bogus", "sim:"])
def test_run_on_a_link_that_is_none_is_exit_3(garage, link):
    assert run("vehicle", "run", garage.car, "--handle", link).code == 3


# ---- the authority's key -------------------------------------------------------------------------

KEY = SeededEntropy("authority").ephemeral().public


@pytest.mark.parametrize("form", ["hex", "json"])
def test_a_vehicle_is_made_with_the_key_of_its_authority(tmp_path, form):
    said = {"hex": KEY.point.hex() + "\n", "json": json.dumps({"public_key": KEY.point.hex()})}
    file = tmp_path / "authority.pub"
    file.write_text(said[form])
    car, owner = tmp_path / "car", tmp_path / "owner.json"
    made = run("vehicle", "init", car, "--owner", owner, "--authority-key", file)
    assert made.code == 0
    vehicle = open_vehicle(car)
    assert vehicle.keys.book.admissions.authority_x == KEY.x
    vehicle.close()


@pytest.mark.parametrize("said", ["", "04", "{}", '{"public_key": 5}', "zz"])
def test_a_file_without_an_authoritys_key_makes_no_vehicle(tmp_path, said):
    file = tmp_path / "authority.pub"
    file.write_text(said)
    car, owner = tmp_path / "car", tmp_path / "owner.json"
    ran = run("vehicle", "init", car, "--owner", owner, "--authority-key", file)
    assert ran.code == 2
    assert "public key" in ran.err
    assert not car.exists()


def test_a_vehicle_that_runs_without_its_token_says_so(tmp_path):
    gone = tmp_path / "no.token"
    ran = run(
        *("vehicle", "run", "--state", tmp_path / "car"),
        *("--authority", "http://127.0.0.1:9", "--authority-token", gone),
    )
    assert ran.code == 2
    assert "token" in ran.err
