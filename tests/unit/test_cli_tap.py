"""``dkey tap`` in this process against devices on threads of their own."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from test_cli_device import Device, in_field, leaks, secrets_of
from test_cli_main import Ran, explained, run
from test_reader_file import PROFILES, Bench, bench, credential, rewrite

from dkey.access.applet import AppletHost
from dkey.errors import RefusalCode
from dkey.testing import SeededEntropy

DOCUMENTED = {"schema", "result", "flow", "credential", "code", "steps"}
KEYS = {"exchange_reader", "exchange_device", "step_up", "ble", "ursk", "kpersistent"}
CODES = {code.value for code in RefusalCode}


@pytest.fixture
def files(tmp_path) -> Bench:
    return bench(tmp_path)


def checked(ran: Ran, *extra: str) -> dict[str, Any]:
    """Return the one object that ``tap --json`` printed, if it is as documented."""
    (line,) = ran.out.splitlines()
    document = json.loads(line)
    assert {*document} == DOCUMENTED | {*extra}
    assert document["schema"] == "dkey.tap/1"
    assert document["result"] in ("ok", "refused", "error")
    assert document["flow"] in ("standard", "fast", None)
    assert document["code"] is None or document["code"] in CODES
    for step in document["steps"]:
        assert {*step} == {"name", "sw", "ms"}
        assert step["sw"] is None or len(bytes.fromhex(step["sw"])) == 2
        assert step["ms"] >= 0
    assert (ran.err == "") is (document["result"] == "ok")
    if document["result"] != "ok":
        explained(ran)
    return document


def names(document: dict[str, Any]) -> list[str]:
    return [step["name"] for step in document["steps"]]


def tapped(files: Bench, responder: Any, *words: object) -> Ran:
    with in_field(responder) as link:
        return run("tap", link, "--reader", files.reader, "--json", *words)


def tap_ok(files: Bench, flow: str = "standard", *words: object) -> dict[str, Any]:
    ran = tapped(files, Device(files.credential), "--flow", flow, *words)
    assert ran.code == 0, ran
    return checked(ran)


# ---- transactions that succeed ------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("certificate", [False, True])
def test_a_standard_transaction_then_a_fast_one(tmp_path, profile, certificate):
    files = bench(tmp_path, profile, certificate=certificate)
    first, second = tap_ok(files, "standard"), tap_ok(files, "fast")
    load = ["LOAD CERT"] if certificate else []
    assert names(first) == ["SELECT", "AUTH0", *load, "AUTH1", "EXCHANGE"]
    assert names(second) == ["SELECT", "AUTH0", "EXCHANGE"]
    for document, flow in ((first, "standard"), (second, "fast")):
        assert document["flow"] == flow
        assert document["result"] == "ok"
        assert document["credential"] == "owner phone"
        assert document["code"] is None
        assert {step["sw"] for step in document["steps"]} == {"9000"}


def test_auto_is_standard_at_first_and_fast_from_then_on(files):
    assert [tap_ok(files, "auto")["flow"] for _ in range(3)] == ["standard", "fast", "fast"]


def test_auto_falls_back_to_standard_when_the_stored_key_does_not_match(files):
    rewrite(files.reader, credentials=[credential(files.reader) | {"kpersistent": "5a" * 32}])
    document = tap_ok(files, "auto")
    assert document["flow"] == "standard"
    assert files.reader_kpersistent == files.device_kpersistent != "5a" * 32


def test_auto_is_the_flow_when_none_is_given(files):
    device = Device(files.credential)
    flows = [checked(tapped(files, device))["flow"] for _ in range(2)]
    assert flows == ["standard", "fast"]


@pytest.mark.parametrize("status", ["secure", "unsecure"])
def test_the_status_that_was_asked_for_reaches_the_device(files, status):
    device = Device(files.credential)
    assert tapped(files, device, "--status", status).code == 0
    (event,) = device.applet.events
    assert event.status == {"secure": 0x0100, "unsecure": 0x0101}[status]


def test_without_json_every_step_is_a_line_and_the_last_words_say_what_next(files):
    with in_field(Device(files.credential)) as link:
        ran = run("tap", link, "--reader", files.reader, "--flow", "standard")
    assert ran.code == 0
    first_words = [line.split()[0] for line in ran.out.splitlines()]
    assert first_words == ["SELECT", "AUTH0", "AUTH1", "EXCHANGE", "total", "ok:", "next:"]
    assert "owner phone" in ran.out


def test_a_read_only_tap_does_not_promise_a_fast_one(files):
    with in_field(Device(files.credential)) as link:
        ran = run("tap", link, "--reader", files.reader, "--read-only")
    assert ran.code == 0
    assert "stored now" not in ran.out


# ---- the mailbox --------------------------------------------------------------------------------


def test_what_is_read_from_the_mailbox_is_in_the_object(files):
    ran = tapped(
        files, Device(files.credential), "--mailbox-read", "0:4", "--mailbox-read", "0x1:2"
    )
    assert ran.code == 0
    assert checked(ran, "reads")["reads"] == ["a0a1a2a3", "a1a2"]


def test_what_is_written_to_the_mailbox_is_in_the_devices_file(files):
    ran = tapped(files, Device(files.credential), "--mailbox-write", "2:beef")
    assert ran.code == 0
    checked(ran)
    data = json.loads(files.credential.read_text())["mailbox"]["data"]
    assert data == "a0a1beef" + "00" * 12


def test_a_read_and_a_write_together_read_what_was_there_before(files):
    words = ("--mailbox-read", "0:2", "--mailbox-write", "0:ffff")
    document = checked(tapped(files, Device(files.credential), *words), "reads")
    assert document["reads"] == ["a0a1"]


def test_the_mailbox_works_in_a_fast_transaction_too(files):
    tap_ok(files)
    ran = tapped(files, Device(files.credential), "--flow", "fast", "--mailbox-read", "0:1")
    assert checked(ran, "reads")["reads"] == ["a0"]


@pytest.mark.parametrize("words", [("--mailbox-read", "15:2"), ("--mailbox-write", "15:0000")])
def test_a_mailbox_command_out_of_bounds_is_exit_1_and_changes_no_mailbox(files, words):
    before = json.loads(files.credential.read_text())["mailbox"]
    ran = tapped(files, Device(files.credential), *words)
    assert ran.code == 1
    document = checked(ran)
    assert document["result"] == "error"
    assert document["flow"] == "standard"
    assert document["credential"] == "owner phone"
    assert json.loads(files.credential.read_text())["mailbox"] == before
    assert files.reader_kpersistent is None


@pytest.mark.parametrize(
    "words",
    [
        ("--mailbox-read", "4"),
        ("--mailbox-read", "a:b"),
        ("--mailbox-read", ""),
        ("--mailbox-write", "0:xyz"),
        ("--mailbox-write", "0:0"),
        ("--mailbox-write", "beef"),
    ],
)
def test_a_malformed_mailbox_option_is_a_usage_error_before_anything_is_sent(files, words):
    device = Device(files.credential)
    ran = tapped(files, device, *words)
    assert ran.code == 2
    assert words[1] in ran.err
    assert device.applet.state.name == "ENDED"


@pytest.mark.parametrize(
    "words",
    [
        ("--mailbox-read", "-1:4"),
        ("--mailbox-read", "65536:1"),
        ("--mailbox-read", "0:65536"),
        ("--mailbox-write", "65536:00"),
        ("--mailbox-write", "-1:00"),
    ],
)
def test_a_mailbox_option_out_of_16_bits_is_a_usage_error(files, words):
    assert tapped(files, Device(files.credential), *words).code == 2


# ---- transactions that are refused --------------------------------------------------------------


def test_a_key_that_is_not_in_the_reader_file_is_refused_and_shown(files):
    device = json.loads(files.reader.read_text())["credentials"][0]["public_key"]
    rewrite(files.reader, credentials=[])
    before = files.reader.read_bytes()
    ran = tapped(files, Device(files.credential))
    assert ran.code == 1
    document = checked(ran)
    assert document["result"] == "refused"
    assert document["code"] == "KEY_UNKNOWN"
    assert document["credential"] == device
    assert document["flow"] == "standard"
    assert files.reader.read_bytes() == before


def test_a_device_that_does_not_trust_the_reader_refuses(files):
    rewrite(files.credential, readers=[])
    before = files.content()
    ran = tapped(files, Device(files.credential))
    assert ran.code == 1
    document = checked(ran)
    assert (document["result"], document["code"]) == ("refused", "NOT_AUTHORISED")
    assert (document["flow"], document["credential"]) == (None, None)
    assert files.content() == before


def test_a_reader_with_another_key_than_the_trusted_one_is_refused(files):
    rewrite(files.reader, private_key=SeededEntropy("x").ephemeral().scalar().reveal().hex())
    ran = tapped(files, Device(files.credential))
    assert ran.code == 1
    assert checked(ran)["code"] == "NOT_AUTHORISED"


def test_a_certificate_of_an_issuer_that_the_device_does_not_know_is_refused(tmp_path):
    files = bench(tmp_path, certificate=True)
    (trusted,) = json.loads(files.credential.read_text())["readers"]
    trusted["issuer_key"] = SeededEntropy("x").ephemeral().public.point.hex()
    rewrite(files.credential, readers=[trusted])
    ran = tapped(files, Device(files.credential))
    assert ran.code == 1
    assert checked(ran)["code"] == "NOT_AUTHORISED"


def test_fast_without_a_stored_key_is_refused_and_stores_nothing(files):
    before = files.content()
    ran = tapped(files, Device(files.credential), "--flow", "fast")
    assert ran.code == 1
    document = checked(ran)
    assert (document["result"], document["code"]) == ("refused", "NOT_AUTHORISED")
    assert document["flow"] is None
    assert files.content() == before


@pytest.mark.parametrize(("device", "reader"), [PROFILES, PROFILES[::-1]])
def test_a_device_of_the_other_profile_is_unsupported(tmp_path, device, reader):
    files = bench(tmp_path, device)
    rewrite(files.reader, profile=reader)
    ran = tapped(files, Device(files.credential))
    assert ran.code == 1
    document = checked(ran)
    assert (document["result"], document["code"]) == ("refused", "DEVICE_UNSUPPORTED")
    assert names(document) == ["SELECT"]
    assert document["steps"][0]["sw"] == "6A82"


# ---- the link fails -----------------------------------------------------------------------------


def test_nobody_listening_is_exit_3_and_an_object_without_steps(files):
    with socket.socket() as held:  # bound and not listening: nobody else gets the port
        held.bind(("127.0.0.1", 0))
        link = f"apdu-tcp:127.0.0.1:{held.getsockname()[1]}"
        ran = run("tap", link, "--reader", files.reader, "--json", "--timeout", 0.1)
    assert ran.code == 3
    expected = {"result": "error", "flow": None, "credential": None, "code": None, "steps": []}
    assert checked(ran) == {"schema": "dkey.tap/1", **expected}


class Torn:
    """A device that leaves the field instead of giving answer number ``after``."""

    def __init__(self, device: Any, after: int) -> None:
        self._device, self._left = device, after

    def answer(self, command: bytes) -> bytes:
        self._left -= 1
        return b"" if self._left < 0 else self._device.answer(command)

    def field_off(self) -> None:
        self._device.field_off()


@pytest.mark.parametrize("after", range(4))
def test_a_device_torn_away_in_the_middle_is_exit_3_and_leaves_the_reader_file(files, after):
    before = files.reader.read_bytes()
    ran = tapped(files, Torn(Device(files.credential), after), "--flow", "standard")
    assert ran.code == 3
    document = checked(ran)
    assert (document["result"], document["code"]) == ("error", "CARD_DAMAGED")
    assert len(document["steps"]) == after + 1
    assert document["steps"][-1]["sw"] is None
    assert all(step["sw"] == "9000" for step in document["steps"][:-1])
    assert files.reader.read_bytes() == before


@pytest.mark.parametrize("after", range(3))
def test_a_device_torn_away_in_a_fast_transaction_leaves_both_files(files, after):
    tap_ok(files)
    before = files.content()
    ran = tapped(files, Torn(Device(files.credential), after), "--flow", "fast")
    assert ran.code == 3
    checked(ran)
    assert files.content() == before


@pytest.mark.parametrize("after", range(4))
def test_after_a_device_was_torn_away_the_next_tap_mends_both_files(files, after):
    tap_ok(files)
    tapped(files, Torn(Device(files.credential), after), "--flow", "standard")
    assert tap_ok(files, "auto")["result"] == "ok"
    assert tap_ok(files, "fast")["flow"] == "fast"
    assert files.reader_kpersistent == files.device_kpersistent


@pytest.mark.parametrize("link", ["bogus", "", "apdu-tcp:", "apdu-tcp:x:99999", "nfc:nope", "sim:"])
def test_a_link_string_that_is_none_is_exit_3_and_says_which_are(files, link):
    ran = run("tap", link, "--reader", files.reader)
    assert ran.code == 3
    assert "dkey links" in explained(ran)[-1]


@pytest.mark.parametrize("link", ["bogus", "sim:"])
def test_a_link_string_that_is_none_gives_an_object_too(files, link):
    checked(run("tap", link, "--reader", files.reader, "--json"))


@pytest.mark.parametrize("timeout", ["0", "-1", "abc", "1e9"])
def test_a_timeout_that_makes_no_sense_is_a_usage_error(files, timeout):
    ran = run("tap", "apdu-tcp:127.0.0.1:9", "--reader", files.reader, "--timeout", timeout)
    assert ran.code == 2


def test_a_timeout_that_is_no_number_is_a_usage_error(files):
    ran = run("tap", "apdu-tcp:127.0.0.1:9", "--reader", files.reader, "--timeout", "nan")
    assert ran.code == 2


# ---- devices that break the protocol ------------------------------------------------------------


class Broken:
    """A device whose answer number ``at`` is changed on its way."""

    def __init__(self, device: Any, at: int, change: Any) -> None:
        self._device, self._at, self._change = device, at, change

    def answer(self, command: bytes) -> bytes:
        answer = self._device.answer(command)
        self._at -= 1
        return self._change(answer) if self._at == -1 else answer

    def field_off(self) -> None:
        self._device.field_off()


CHANGES = {
    "one byte": lambda _: b"\x90",
    "no data": lambda _: b"\x90\x00",
    "cut short": lambda answer: answer[: len(answer) // 2],
    "one byte more": lambda answer: answer[:-2] + b"\x00" + answer[-2:],
    "one bit flipped": lambda answer: bytes([answer[0] ^ 1]) + answer[1:],
    "last bit flipped": lambda answer: answer[:-3] + bytes([answer[-3] ^ 1]) + answer[-2:],
    "zeros": lambda answer: bytes(len(answer)),
    "much": lambda _: b"\xff" * 60_000 + b"\x90\x00",
    "endless": lambda _: b"\x11" * 200 + b"\x61\x00",
    "an error": lambda _: b"\x69\x82",
    "an odd status": lambda answer: answer[:-2] + b"\x12\x34",
}


@pytest.mark.parametrize(
    ("flow", "at"), [("standard", at) for at in range(4)] + [("fast", at) for at in range(3)]
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_malformed_answer_is_exit_1_an_object_and_no_change(files, change, at, flow):
    tap_ok(files)
    before = files.reader.read_bytes()
    responder = Broken(Device(files.credential), at, CHANGES[change])
    ran = tapped(files, responder, "--flow", flow)
    document = checked(ran)
    assert ran.code == 1, document
    assert document["result"] in ("refused", "error")
    assert document["code"] is not None
    assert files.reader.read_bytes() == before


class Recorded:
    """A device that answers what was answered once before."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = iter(answers)

    def answer(self, command: bytes) -> bytes:
        return next(self._answers, b"\x69\x82")

    def field_off(self) -> None:
        pass


@pytest.mark.parametrize("flow", ["standard", "fast"])
def test_a_recorded_device_is_refused(files, flow):
    tap_ok(files)
    device, answers = Device(files.credential), []
    recorder = Broken(device, -1, None)
    recorder.answer = lambda command: (answers.append(device.answer(command)), answers[-1])[1]  # type: ignore[method-assign]
    assert tapped(files, recorder, "--flow", flow).code == 0
    ran = tapped(files, Recorded(answers), "--flow", flow)
    assert ran.code == 1
    assert checked(ran)["result"] == "refused"


# ---- secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("certificate", [False, True])
def test_the_keys_that_are_shown_are_the_devices(tmp_path, profile, certificate):
    files = bench(tmp_path, profile, certificate=certificate)
    device = Device(files.credential)
    for flow in ("standard", "fast"):
        ran = tapped(files, device, "--flow", flow, "--show-secrets")
        keys = checked(ran, "keys")["keys"]
        event = device.applet.events[-1]
        assert event.fast is (flow == "fast")
        assert {*keys} == KEYS
        for name in KEYS - {"kpersistent"}:
            ours = getattr(event.keys, name)
            assert keys[name] == (None if ours is None else ours.reveal().hex()), name
        assert keys["kpersistent"] == files.device_kpersistent
        assert (keys["step_up"] is None) is (flow == "fast")


def test_no_two_of_the_keys_that_are_shown_are_equal(files):
    ran = tapped(files, Device(files.credential), "--show-secrets")
    keys = checked(ran, "keys")["keys"]
    assert len({*keys.values()}) == len(KEYS)


def test_keys_are_in_the_text_output_when_asked_for(files):
    with in_field(Device(files.credential)) as link:
        ran = run("tap", link, "--reader", files.reader, "--show-secrets")
    assert {line.split()[0] for line in ran.out.splitlines()} >= KEYS


def test_keys_are_shown_too_when_the_key_is_unknown(files):
    rewrite(files.reader, credentials=[])
    ran = tapped(files, Device(files.credential), "--show-secrets")
    assert ran.code == 1
    assert {*checked(ran, "keys")["keys"]} == KEYS


def test_no_keys_are_shown_when_nobody_was_authenticated(files):
    rewrite(files.credential, readers=[])
    checked(tapped(files, Device(files.credential), "--show-secrets"))


def all_secrets(files: Bench, device: Device) -> set[bytes]:
    secrets = secrets_of(files)
    for event in device.applet.events:
        names = [*KEYS - {"kpersistent"}, *(["cryptogram"] if event.fast else [])]
        for key in (getattr(event.keys, name) for name in names):
            if key is not None:
                secrets.add(key.reveal())
    return secrets


@pytest.mark.parametrize("json_words", [[], ["--json"]])
def test_without_show_secrets_no_secret_is_in_any_output_or_trace(files, tmp_path, json_words):
    device, places = Device(files.credential), []
    with in_field(device) as link:
        for flow in ("standard", "fast"):
            trace = tmp_path / f"{flow}.pcapng"
            words = ("--reader", files.reader, "--flow", flow, "--trace", trace, *json_words)
            ran = run("tap", link, *words)
            assert ran.code == 0
            places += [ran.out, ran.err, trace.read_bytes()]
            places.append(trace.with_suffix(".jsonl").read_bytes())
    secrets = all_secrets(files, device)
    assert len(secrets) > 10
    assert leaks(secrets, *places) == []


def test_with_show_secrets_the_keys_are_in_the_jsonl_and_not_in_the_pcapng(files, tmp_path):
    trace = tmp_path / "tap.pcapng"
    ran = tapped(files, Device(files.credential), "--show-secrets", "--trace", trace)
    keys = {bytes.fromhex(each) for each in checked(ran, "keys")["keys"].values()}
    assert leaks(keys, trace.read_bytes()) == []
    assert len(leaks(keys, trace.with_suffix(".jsonl").read_bytes())) == len(KEYS)


@pytest.mark.parametrize("name", ["t.pcapng", "t.jsonl", "t"])
def test_a_trace_is_a_pcapng_and_a_jsonl_whatever_its_suffix(files, tmp_path, name):
    assert tapped(files, Device(files.credential), "--trace", tmp_path / name).code == 0
    assert (tmp_path / "t.pcapng").read_bytes().startswith(b"\x0a\x0d\x0d\x0a")
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["schema"] == "dkey.trace/1"
    apdus = [each for each in map(json.loads, lines[1:]) if each["layer"] == "apdu"]
    assert [each["dir"] for each in apdus] == ["reader", "device"] * 4


def test_a_trace_of_a_refused_tap_is_written_too(files, tmp_path):
    rewrite(files.credential, readers=[])
    assert tapped(files, Device(files.credential), "--trace", tmp_path / "t.pcapng").code == 1
    assert '"layer": "apdu"' in (tmp_path / "t.jsonl").read_text()


def test_a_trace_that_cannot_be_written_is_exit_2_before_anything_is_sent(files, tmp_path):
    device = Device(files.credential)
    ran = tapped(files, device, "--trace", tmp_path / "no" / "t.pcapng")
    assert ran.code == 2
    assert not device.applet.events


@pytest.mark.parametrize("words", [[], ["--show-secrets"]])
def test_no_error_shows_the_private_key_of_a_bad_file(files, words):
    rewrite(files.reader, sub_id="00")
    secret = json.loads(files.reader.read_text())["private_key"]
    ran = run("tap", "apdu-tcp:127.0.0.1:9", "--reader", files.reader, "--json", *words)
    assert ran.code == 2
    assert secret not in ran.out + ran.err


# ---- files --------------------------------------------------------------------------------------


def test_a_standard_transaction_stores_the_same_key_on_both_sides(files):
    tap_ok(files, "standard")
    first = files.reader_kpersistent
    assert first == files.device_kpersistent
    assert first is not None
    tap_ok(files, "standard")
    assert first != files.reader_kpersistent == files.device_kpersistent


def test_a_fast_transaction_leaves_both_files_byte_for_byte(files):
    tap_ok(files, "standard")
    before = files.content()
    tap_ok(files, "fast")
    assert files.content() == before


@pytest.mark.parametrize("flow", ["standard", "fast", "auto"])
def test_read_only_leaves_both_files_byte_for_byte(files, flow):
    tap_ok(files, "standard")
    before = files.content()
    ran = tapped(files, Device(files.credential, read_only=True), "--flow", flow, "--read-only")
    assert ran.code == 0
    assert files.content() == before


def test_read_only_on_one_side_only_still_lets_the_next_tap_mend_it(files):
    tap_ok(files, "standard")
    tap_ok(files, "standard", "--read-only")
    assert files.reader_kpersistent != files.device_kpersistent
    assert tap_ok(files, "auto")["flow"] == "standard"
    assert files.reader_kpersistent == files.device_kpersistent


def crash(*_args: object, **_options: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_reader_that_crashes_before_it_stores_keeps_its_old_file(files, monkeypatch):
    tap_ok(files)
    before = files.reader.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr("dkey.bench_reader.reader_file.replace_file", crash)
        ran = tapped(files, Device(files.credential), "--flow", "standard")
    assert ran.code != 0
    assert files.reader.read_bytes() == before
    assert {path.name for path in files.reader.parent.iterdir()} == {
        "reader.json",
        "credential.json",
    }
    assert tap_ok(files, "auto")["flow"] == "standard"
    assert files.reader_kpersistent == files.device_kpersistent


def test_a_device_that_crashes_before_it_stores_keeps_its_old_file(files, monkeypatch):
    tap_ok(files)
    before = files.content()
    with monkeypatch.context() as broken:
        broken.setattr("dkey.agent.credential_file.replace_file", crash)
        ran = tapped(files, Device(files.credential), "--flow", "standard")
    assert ran.code in (1, 3)
    checked(ran)
    assert files.content() == before
    assert tap_ok(files, "fast")["flow"] == "fast"


def test_a_reader_file_that_cannot_be_written_is_a_local_fault_with_an_object(files, monkeypatch):
    monkeypatch.setattr("dkey.crypto.vault.files._replace", crash)
    ran = tapped(files, Device(files.credential, read_only=True), "--flow", "standard")
    assert ran.code == 2
    checked(ran)


def test_a_reader_file_that_changed_during_the_tap_keeps_the_change(files):
    class Editor(Device):
        def answer(self, command: bytes) -> bytes:
            rewrite(files.reader, comment="written meanwhile")
            return super().answer(command)

    assert tapped(files, Editor(files.credential)).code == 0
    document = json.loads(files.reader.read_text())
    assert document["comment"] == "written meanwhile"
    assert files.reader_kpersistent == files.device_kpersistent


def test_the_device_serves_one_tap_after_the_other(files):
    device = Device(files.credential)
    with in_field(device) as link:
        codes = [run("tap", link, "--reader", files.reader, "--json").code for _ in range(5)]
    assert codes == [0] * 5
    assert [event.fast for event in device.applet.events] == [False, True, True, True, True]


def test_no_reader_file_is_a_usage_error():
    assert run("tap", "apdu-tcp:127.0.0.1:9").code == 2


def test_a_device_without_any_applet_is_unsupported(files):
    ran = tapped(files, AppletHost([]))
    assert (ran.code, checked(ran)["code"]) == (1, "DEVICE_UNSUPPORTED")


@pytest.mark.parametrize("example", ["aliro", "vehicle"])
def test_the_fields_that_are_printed_are_those_of_the_specification(example, tmp_path):
    text = (Path(__file__).parents[2] / "specs" / "formats.md").read_text()
    line = text.split("<!-- example: tap -->")[1].split("```json\n")[1].split("\n```")[0]
    assert {*json.loads(line)} == DOCUMENTED
    assert {*tap_ok(bench(tmp_path, example))} == DOCUMENTED
