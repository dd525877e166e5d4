"""The specification agrees with the code: drawn tables, refusal codes, examples, references."""

from __future__ import annotations

import ast
import asyncio
import importlib
import io
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from dkey.access.applet import AppletHost
from dkey.access.ble_rules import BleInput
from dkey.access.device import AccessApplet
from dkey.access.enrolled import Flow
from dkey.agent.advice import Trouble, refusal
from dkey.agent.agent_status import Outcome
from dkey.agent.api import SCHEMA, error_json, outcome_json
from dkey.agent.card_file import CardFile
from dkey.agent.credential_file import CredentialFile
from dkey.agent.key_views import KeyLine
from dkey.bench_reader.message_tap import MessageReport
from dkey.bench_reader.reader_file import ReaderFile
from dkey.bench_reader.tap import tap
from dkey.cli.vectors import cli
from dkey.cli.walk import cli as walk_cli
from dkey.codec.ble import RkeAction, split_sdu
from dkey.control.owner_window import OWNER_PAIRING_RULES
from dkey.control.touch import Position
from dkey.crypto.kdf import hkdf
from dkey.crypto.secret import Secret
from dkey.crypto.vault.software import SoftwareVault
from dkey.errors import FileFormatError, RefusalCode
from dkey.lifecycle.roles import CardProvenance, Permission, Role
from dkey.link.loopback import loopback
from dkey.testing import FakeClock, SeededEntropy
from dkey.trace.jsonl import Layer, encode_header, encode_record, read_records
from dkey.trace.pcapng import Event, parse_event, read_packets
from firmware_mock.body import Body
from firmware_mock.control import set_knobs, state_of
from firmware_mock.garage import create_vehicle
from firmware_mock.head_unit import VERBS, HeadUnit
from firmware_mock.owner_desk import OwnerDesk
from firmware_mock.stage import Phone
from firmware_mock.walk_scenario import parse_scenario

ROOT = Path(__file__).resolve().parents[2]
SPECS = ROOT / "specs"
PAGES = sorted(SPECS.glob("*.md"))
SOURCES = sorted([*(ROOT / "dkey").rglob("*.py"), *(ROOT / "firmware_mock").rglob("*.py")])
CITED = re.compile(r"specs/([a-z-]+\.md)(?:[\s\"]+§([\d.]*\d))?")
LINKED = re.compile(r"\]\(([a-z-]+\.md)\)(?:\s+§([\d.]*\d))?")
EXAMPLE = re.compile(r"<!-- example: ([a-z-]+) -->\n```[a-z]*\n(.*?\n)```", re.DOTALL)
TELLERS = ("event", "report", "_report", "tell", "_tell")
MARK = re.compile(r"\*(ours|published|observed)\b[^*]*\*")


def text_of(page: str) -> str:
    return (SPECS / page).read_text(encoding="utf-8")


def headings(page: str) -> set[str]:
    """Return the section numbers of a page, and of its numbered rules."""
    text = text_of(page)
    return {
        *re.findall(r"^#+ ([\d.]*\d)\.? ", text, re.MULTILINE),
        *re.findall(r"^- \*\*([\d.]+\d)\*\* ", text, re.MULTILINE),
    }


def missing(page: str, section: str) -> bool:
    """Whether there is no such page, or no such section of it."""
    return not (SPECS / page).is_file() or bool(section and section not in headings(page))


def example(name: str) -> str:
    found = dict(EXAMPLE.findall(text_of("formats.md")))
    return found[name]


def example_file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.json"
    path.write_text(example(name), encoding="utf-8")
    path.chmod(0o600)
    return path


def draw(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SPECS / "draw.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


# --- drawn blocks ---------------------------------------------------------------------------------


def test_every_drawn_block_is_what_the_code_says() -> None:
    outcome = draw("--check")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_a_changed_table_is_noticed_and_drawn_again(tmp_path) -> None:
    copy = tmp_path / "specs"
    copy.mkdir()
    for file in SPECS.iterdir():
        if file.is_file():
            copy.joinpath(file.name).write_bytes(file.read_bytes())
    for package in ("dkey", "firmware_mock", "tests"):
        tmp_path.joinpath(package).symlink_to(ROOT / package)
    page = copy / "touch.md"
    right = page.read_text(encoding="utf-8")
    page.write_text(right.replace("`NO_KEY_ON_PAD`", "`KEY_ON_PAD`"), encoding="utf-8")
    command = [sys.executable, str(copy / "draw.py")]

    check = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 1
    assert "-| 1 | `KEY_ON_PAD`" in check.stdout
    assert "`KEY_ON_PAD`" in page.read_text(encoding="utf-8"), "--check wrote"

    subprocess.run(command, capture_output=True, check=True)
    assert page.read_text(encoding="utf-8") == right


# --- refusals and rules ---------------------------------------------------------------------------


def test_every_refusal_code_has_a_meaning_and_a_source_and_nothing_else_has() -> None:
    texts = tomllib.loads((SPECS / "refusals.toml").read_text(encoding="utf-8"))
    assert set(texts) == {code.value for code in RefusalCode}
    for code, (meaning, source) in texts.items():
        assert meaning.endswith("."), code
        assert source, code


def test_every_numbered_rule_of_the_profile_bears_a_mark() -> None:
    rules = re.findall(
        r"^- \*\*[\d.]+\*\* .*?(?=^- |^$)", text_of("vehicle-profile.md"), re.MULTILINE | re.DOTALL
    )
    assert len(rules) > 40
    assert [rule for rule in rules if not MARK.search(rule)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_rules_are_numbered_once_and_under_their_section(page) -> None:
    section, seen = "", set()
    for line in page.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"#+ ([\d.]*\d)\.? ", line):
            section = found[1]
        elif found := re.match(r"- \*\*([\d.]+\d)\*\* ", line):
            assert found[1].rpartition(".")[0] == section
            assert found[1] not in seen
            seen.add(found[1])


def test_every_number_of_the_attack_catalogue_is_answered() -> None:
    section = text_of("threat-model.md").partition("## 7.")[2].partition("<!-- drawn")[0]
    assert re.findall(r"^\| (\d+) \|", section, re.MULTILINE) == [str(n) for n in range(1, 36)]


# --- references -----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_section_that_the_code_cites_exists(file) -> None:
    cited = CITED.findall(file.read_text(encoding="utf-8"))
    assert [each for each in cited if missing(*each)] == []


def test_the_search_for_citations_finds_some_and_can_fail() -> None:
    found = [each for file in SOURCES for each in CITED.findall(file.read_text(encoding="utf-8"))]
    assert ("card-keys.md", "3") in found
    assert ("formats.md", "6") in found
    assert missing("formats.md", "99")
    assert missing("nowhere.md", "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_section_that_a_page_cites_exists(page) -> None:
    cited = LINKED.findall(page.read_text(encoding="utf-8"))
    cited += [(page.name, each) for each in re.findall(r"\(§([\d.]*\d)\)", page.read_text("utf-8"))]
    assert [each for each in cited if missing(*each)] == []


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or a public name in one."""
    parts = name.split(".")
    for at in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:at]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[at:]:
            value = getattr(value, attribute, None)
        return value is not None
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_path_that_a_page_names_exists(page) -> None:
    quoted = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    dotted = [q for q in quoted if re.fullmatch(r"(dkey|firmware_mock)(\.\w+)+", q)]
    schemas = re.compile(r"dkey\.\w+/\d")
    paths = [q for q in quoted if re.fullmatch(r"(dkey|firmware_mock|tests|specs)/[\w/.-]+", q)]
    assert [q for q in dotted if not schemas.match(q) and not resolves(q)] == []
    assert [q for q in paths if not (ROOT / q).exists()] == []


def test_a_name_that_does_not_exist_is_not_resolved() -> None:
    assert resolves("dkey.errors.RefusalCode")
    assert not resolves("dkey.errors.Nothing")
    assert not resolves("dkey.nothing")


# --- examples -------------------------------------------------------------------------------------


async def test_the_credential_and_reader_examples_run_a_fast_transaction(tmp_path) -> None:
    device = CredentialFile(example_file(tmp_path, "credential"), read_only=True)
    reader = ReaderFile(example_file(tmp_path, "reader"))
    applet = AccessApplet(device.credential, SeededEntropy(1))
    link = loopback(AppletHost([applet]))
    try:
        report = await tap(
            link,
            reader,
            flow=Flow.FAST,
            entropy=SeededEntropy(2),
            clock=FakeClock(),
            read_only=True,
        )
    finally:
        await link.aclose()

    shown = report.to_json()
    documented = json.loads(example("tap"))
    assert report.result == "ok"
    assert [*shown] == [*documented]
    for step in (*shown["steps"], *documented["steps"]):
        step["ms"] = 0
    assert shown == documented


def test_the_credential_example_shows_every_field(tmp_path) -> None:
    credential = CredentialFile(example_file(tmp_path, "credential")).credential
    assert credential.profile.name == "vehicle"
    assert len(credential.readers) == len(credential.kpersistent) == 1
    assert credential.mailbox is not None


def test_the_reader_example_with_a_certificate_is_valid(tmp_path) -> None:
    identity = ReaderFile(example_file(tmp_path, "reader-certificate")).identity
    assert identity.certificate
    assert identity.group_key == identity.issuer_key


def test_the_card_example_is_a_blank_card(tmp_path) -> None:
    card = CardFile(example_file(tmp_path, "card"))
    assert card.provenance is CardProvenance.PURCHASED
    assert card.credential.readers == {}


@pytest.mark.parametrize("name", ["credential", "reader", "card"])
def test_an_example_without_its_private_key_is_refused(tmp_path, name) -> None:
    path = example_file(tmp_path, name)
    document = json.loads(path.read_text())
    del document["private_key"]
    path.write_text(json.dumps(document))
    opener = {"credential": CredentialFile, "reader": ReaderFile, "card": CardFile}[name]
    with pytest.raises(FileFormatError):
        opener(path)


def test_the_tap_example_has_no_key_that_is_not_asked_for() -> None:
    assert "keys" not in json.loads(example("tap"))


def test_the_apdu_tcp_example_is_a_select_that_a_device_answers_like_this(tmp_path) -> None:
    device = CredentialFile(example_file(tmp_path, "credential"), read_only=True)
    host = AppletHost([AccessApplet(device.credential, SeededEntropy(1))])
    command, response = (bytes.fromhex(line) for line in example("apdu-tcp").splitlines())
    for message in (command, response):
        assert int.from_bytes(message[:2], "big") == len(message) - 2
    assert host.answer(command[2:]) == response[2:]


def test_the_demo_example_is_a_line_for_each_step_and_a_summary() -> None:
    *steps, last = (json.loads(line) for line in example("demo").splitlines())
    for step in steps:
        assert [*step] == ["step", "medium", "expect", "outcome", "code"]
        assert step["code"] is None or RefusalCode(step["code"])
        assert (step["outcome"] == "refused") is (step["code"] is not None)
    assert last == {"summary": {"steps": len(steps), "as_expected": len(steps)}}


def test_the_vectors_example_has_the_fields_that_the_command_prints(tmp_path) -> None:
    okm = hkdf(bytes(22), b"", b"", 42).hex()
    case = {"id": "1", "IKM": "00" * 22, "salt": "", "info": "", "L": 42, "OKM": okm}
    path = tmp_path / "hkdf.json"
    path.write_text(json.dumps({"vectors": [case]}))
    outcome = CliRunner().invoke(cli, ["check", "--json", str(path)])
    printed, documented = json.loads(outcome.stdout), json.loads(example("vectors"))
    assert outcome.exit_code == 0
    assert printed["agreed"] == 1
    assert [(k, type(v)) for k, v in printed.items()] == [
        (k, type(v)) for k, v in documented.items()
    ]


def test_the_trace_example_is_read_and_written_alike() -> None:
    text = example("trace").encode()
    records = [*read_records(io.BytesIO(text))]
    assert {record.layer for record in records} == set(Layer)
    header = {k: v for k, v in json.loads(text.splitlines()[0]).items() if k != "schema"}
    assert encode_header(header) + b"".join(map(encode_record, records)) == text


def test_the_pcapng_example_says_field_on_and_has_a_message_of_the_device() -> None:
    field, message = read_packets(io.BytesIO(bytes.fromhex(example("pcapng"))))
    assert (field.interface, field.link_type) == ("nfc", 264)
    assert parse_event(field.data) == (Event.FIELD_ON, b"")
    assert (message.interface, message.link_type) == ("ble", 147)
    assert message.data[:1] == b"\0"
    assert [BleInput.of(each) for each in split_sdu(message.data[1:])] == [BleInput.INITIATE_AP_RKE]


def test_the_msg_tcp_example_is_the_first_message_of_a_device() -> None:
    data = bytes.fromhex(example("msg-tcp"))
    assert int.from_bytes(data[:2], "big") == len(data) - 2
    assert [BleInput.of(each) for each in split_sdu(data[2:])] == [BleInput.INITIATE_AP_RKE]


def test_the_message_tap_example_has_the_fields_that_a_report_has() -> None:
    documented = json.loads(example("tap-message"))
    assert [*documented] == [*MessageReport().to_json()]
    names = {each.value for each in BleInput} | {"AUTH0", "AUTH1"}
    assert {step["name"] for step in documented["steps"]} <= names


def events_of(*files: str) -> dict[str, set[str]]:
    """Return each event that these sources tell, with the fields that stand there by name."""
    found: dict[str, set[str]] = {}
    for pattern in files:
        for file in ROOT.glob(pattern):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                first = node.args[0]
                if name in TELLERS and isinstance(first, ast.Constant):
                    keys = {keyword.arg for keyword in node.keywords if keyword.arg}
                    found.setdefault(str(first.value), set()).update(keys)
    return found


def documented_events(section: str) -> dict[str, set[str]]:
    text = re.split(rf"^## {section}\. ", text_of("formats.md"), flags=re.MULTILINE)[1]
    table = re.split(r"^## ", text, flags=re.MULTILINE)[0].partition("| event |")[2]
    rows = re.findall(r"^\| (`[^|]+) \| (.*) \|$", table.partition("\n\n")[0], re.MULTILINE)
    return {
        name: {*re.findall(r"`(\w+)`", fields)} - {"true"}
        for names, fields in rows
        for name in re.findall(r"`(\w+)`", names)
    }


@pytest.mark.parametrize(
    ("section", "files"),
    [
        (
            "12",
            (
                *("firmware_mock/process.py", "firmware_mock/ble_phone.py"),
                *("firmware_mock/*_desk.py", "firmware_mock/*_watch.py"),
            ),
        ),
        ("14", ("dkey/agent/*.py", "dkey/cli/agent*.py")),
    ],
)
def test_every_event_that_the_code_tells_is_documented_with_its_fields(section, files) -> None:
    told, documented = events_of(*files), documented_events(section)
    assert {*told} == {*documented}
    assert {n: f - documented[n] for n, f in told.items() if f - documented[n]} == {}


@pytest.mark.parametrize(("name", "section"), [("vehicle-run", "12"), ("agent", "14")])
def test_an_example_of_events_has_documented_events_with_their_fields(name, section) -> None:
    if name == "agent":
        lines, first = example("agent"), "searching"
    else:
        lines, first = example("vehicle-run"), "ready"
    events = [json.loads(line) for line in lines.splitlines()]
    assert events[0]["event"] == first
    for event in events:
        fields = {*event} - {"t", "event"}
        if event["event"] not in ("state", "result"):
            assert fields <= documented_events(section)[event["event"]]


def test_the_control_example_is_what_a_vehicle_answers() -> None:
    _, refused, asked, done = (json.loads(line) for line in example("control").splitlines())
    body = Body()
    set_knobs(body, asked["set"])
    assert done == {"ok": True, "state": state_of(body)}
    assert RefusalCode(refused["code"])
    assert refused["error"] in {rule.text for rule in OWNER_PAIRING_RULES}


def test_the_key_menu_example_has_the_fields_that_a_vehicle_answers(tmp_path) -> None:
    asked, answered = (json.loads(line) for line in example("control-keys").splitlines())
    vehicle = create_vehicle(tmp_path / "car", entropy=SeededEntropy(1))
    owner = Phone("owner", vehicle, SeededEntropy(2))
    vehicle.enrol("owner", owner.public_key, Role.OWNER, Permission.ENTRY_AND_START)
    menu = HeadUnit(vehicle, OwnerDesk(vehicle))
    outcome = asyncio.run(vehicle.tap(Position.CONSOLE_PAD, loopback(owner)))
    shown = {"ok": True, **menu.keys()}
    vehicle.close()
    assert outcome.code is None
    assert [*shown] == [*answered]
    for key in answered["keys"]:
        assert [*key] == [*shown["keys"][0]]
    ((verb, _),) = asked["keys"].items()
    assert verb in VERBS


def test_the_agent_api_example_has_the_fields_that_the_agent_answers() -> None:
    lines = [json.loads(line) for line in example("agent-api").splitlines()]
    outcome = Outcome(action=RkeAction.UNLOCK, fast=True, doors="unlocked", elapsed_s=0.5147)
    fault = refusal("TOO_SOON", 24.204)
    for asked, answer in zip(lines[::2], lines[1::2], strict=True):
        assert asked["id"] == answer["id"]
    hello, done, refused = lines[1::2]
    assert hello["schema"] == SCHEMA
    assert done == {"id": 2, "ok": True} | outcome_json(outcome)
    assert refused == {"id": "a", "ok": False, "error": error_json(fault)}


def test_every_kind_of_trouble_is_explained() -> None:
    section = text_of("agent.md").partition("## 3.")[2].partition("## 4.")[0]
    assert {*re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)} == {*Trouble}


def test_the_vault_example_opens_with_its_passphrase(tmp_path) -> None:
    path = example_file(tmp_path, "vault")
    passphrase = Secret(b"example passphrase")
    vault = SoftwareVault.open(path, passphrase=passphrase, entropy=SeededEntropy(1))
    document = json.loads(example("vault"))
    assert vault.names() == ["reader"]
    assert vault.public("reader").point.hex() == document["keys"][0]["public"]


def test_the_key_example_has_the_fields_that_a_key_has() -> None:
    documented = json.loads(example("key"))
    fields = {"vehicle", "id"} | {*KeyLine.__dataclass_fields__} - {"item"}
    assert [{*each} for each in documented["keys"]] == [fields, fields]
    assert documented["code"] is None


def test_the_scenario_example_is_a_scenario() -> None:
    scenario = parse_scenario(example("scenario"))
    assert (scenario.name, len(scenario.events), len(scenario.attacks)) == ("both", 1, 1)


@pytest.mark.parametrize("kind", ["walk", "walk-record"])
def test_the_walk_examples_are_what_the_seed_gives(kind: str, tmp_path: Path) -> None:
    documented = {"walk": example("walk"), "walk-record": example("walk-record")}[kind]
    record = tmp_path / "walk.jsonl"
    words = ["approach", "--seed", "7", "--json", "--jsonl", str(record)]
    printed = CliRunner().invoke(walk_cli, words).stdout if kind == "walk" else ""
    if kind == "walk-record":
        CliRunner().invoke(walk_cli, words)
        printed = record.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in printed.splitlines()]
    for line in documented.splitlines():
        wanted = json.loads(line)
        assert any(shape(each) == shape(wanted) for each in lines)


def shape(value: object) -> object:
    """Return what a value is made of, without its figures, which differ between processors."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return "number" if isinstance(value, int | float) else type(value).__name__


def test_every_example_is_checked_here() -> None:
    own = Path(__file__).read_text(encoding="utf-8")
    names = [name for name, _ in EXAMPLE.findall(text_of("formats.md"))]
    assert len(names) == len(set(names)) == 22
    assert [
        n for n in names if f'example("{n}")' not in own and f'tmp_path, "{n}"' not in own
    ] == []
