"""The reader file: what is read, what is refused with which words, what is written back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_cli_main import explained, run

from dkey.access.certificate import ReaderCertificate
from dkey.bench_reader import reader_file
from dkey.bench_reader.reader_file import ReaderFile
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import FileFormatError
from dkey.testing import SeededEntropy

PROFILES = ("aliro", "vehicle")
CLAUSE = "specs/formats.md §3"


def rewrite(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file; None removes one."""
    document = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


@dataclass
class Bench:
    """A reader file and a credential file that know each other."""

    reader: Path
    credential: Path

    @property
    def reader_kpersistent(self) -> str | None:
        return json.loads(self.reader.read_text())["credentials"][0].get("kpersistent")

    @property
    def device_kpersistent(self) -> str | None:
        entries = json.loads(self.credential.read_text())["kpersistent"]
        return entries[0]["key"] if entries else None

    def content(self) -> tuple[bytes, bytes]:
        return self.reader.read_bytes(), self.credential.read_bytes()


def bench(folder: Path, profile: str = "vehicle", *, certificate: bool = False) -> Bench:
    """Write both files; with ``certificate`` the reader proves itself by one."""
    entropy = SeededEntropy(f"bench {profile} {certificate}")
    reader, device, issuer = (entropy.ephemeral() for _ in range(3))
    group_id, sub_id = entropy.random(16).hex(), entropy.random(16).hex()
    trusted = {"group_id": group_id, "public_key": reader.public.point.hex()}
    document: dict[str, Any] = {
        "profile": profile,
        "group_id": group_id,
        "sub_id": sub_id,
        "private_key": reader.scalar().reveal().hex(),
        "credentials": [{"name": "owner phone", "public_key": device.public.point.hex()}],
    }
    if certificate:
        issued = ReaderCertificate.issue(
            MemoryVault(issuer=issuer), "issuer", issuer.public, reader.public
        )
        document["certificate"] = issued.compress().hex()
        document["issuer_key"] = trusted["issuer_key"] = issuer.public.point.hex()
    held = {
        "profile": profile,
        "private_key": device.scalar().reveal().hex(),
        "readers": [trusted],
        "kpersistent": [],
        "mailbox": {"size": 16, "data": "a0a1a2a3", "read": True, "write": True},
    }
    found = Bench(folder / "reader.json", folder / "credential.json")
    found.reader.write_text(json.dumps(document))
    found.credential.write_text(json.dumps(held))
    return found


@pytest.fixture
def path(tmp_path) -> Path:
    return bench(tmp_path).reader


def credential(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["credentials"][0]


OFF_CURVE = "04" + "11" * 64
ORDER = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"

BAD_FIELDS: list[tuple[str, Any, str]] = [
    (name, wrong, name)
    for name, wrongs in {
        "group_id": ["", "00" * 15, "00" * 17, "zz" * 16, 7, [], {}, "0" * 31],
        "sub_id": ["", "00" * 15, "00" * 17, "zz" * 16, True],
        "private_key": ["", "00" * 32, ORDER, "ff" * 32, "11" * 31, "11" * 33, "xy" * 32, 5],
        "credentials": ["", {}, 7, True],
        "certificate": ["zz", "3", 7],
    }.items()
    for wrong in wrongs
]
BAD_CREDENTIALS: list[tuple[str, Any]] = [
    ("name", ""),
    ("name", 7),
    ("public_key", OFF_CURVE),
    ("public_key", "04" + "00" * 64),
    ("public_key", "02" + "11" * 32),
    ("public_key", "06" + "11" * 64),
    ("public_key", "00" * 65),
    ("public_key", "zz" * 65),
    ("public_key", 4),
    ("kpersistent", "11" * 31),
    ("kpersistent", "11" * 33),
    ("kpersistent", "zz" * 32),
    ("kpersistent", []),
]


def refused(path: Path, *named: str, clause: str = CLAUSE) -> None:
    """The file is refused on the command line in one error that names these, and is unchanged."""
    before = path.read_bytes()
    ran = run("tap", "apdu-tcp:127.0.0.1:9", "--reader", path, "--json", "--timeout", 0.1)
    assert ran.code == 2, ran
    assert ran.out == ""
    first, *rest = explained(ran)
    assert str(path) in first
    for each in named:
        assert each in first.removeprefix(f"error: {path}")
    assert f"  why: {clause}" in rest
    assert path.read_bytes() == before


@pytest.mark.parametrize(("name", "value", "named"), BAD_FIELDS)
def test_a_bad_field_is_named(path, name, value, named):
    rewrite(path, **{name: value})
    refused(path, named)


@pytest.mark.parametrize("name", ["group_id", "sub_id", "private_key"])
def test_a_missing_field_is_named(path, name):
    rewrite(path, **{name: None})
    refused(path, name, "is missing")


@pytest.mark.parametrize("value", ["ccc", "ALIRO", "", 1, ["aliro"]])
def test_a_profile_that_is_not_there_is_named(path, value):
    rewrite(path, profile=value)
    refused(path, "profile")


def test_a_missing_profile_is_named(path):
    rewrite(path, profile=None)
    refused(path, "profile")


@pytest.mark.parametrize(("name", "value"), BAD_CREDENTIALS)
def test_a_bad_field_of_a_credential_is_named_with_its_place(path, name, value):
    rewrite(path, credentials=[credential(path) | {name: value}])
    refused(path, f"credentials[0]: {name}")


@pytest.mark.parametrize("name", ["name", "public_key"])
def test_a_missing_field_of_a_credential_is_named_with_its_place(path, name):
    entry = credential(path)
    del entry[name]
    rewrite(path, credentials=[entry])
    refused(path, f"credentials[0]: {name}", "is missing")


@pytest.mark.parametrize("value", [None, 7, "x", []])
def test_a_credential_that_is_no_object_is_named(path, value):
    rewrite(path, credentials=[credential(path), value])
    refused(path, "credentials[1]")


def test_two_credentials_with_the_same_key_are_refused(path):
    rewrite(path, credentials=[credential(path), credential(path) | {"name": "other"}])
    refused(path, "credentials", "same public key")


def test_two_credentials_with_the_same_x_coordinate_are_refused(path):
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    point = credential(path)["public_key"]
    mirrored = point[:66] + f"{prime - int(point[66:], 16):064x}"
    rewrite(path, credentials=[credential(path), {"name": "other", "public_key": mirrored}])
    refused(path, "credentials", "same public key")


def test_a_certificate_without_issuer_key_is_refused(tmp_path):
    path = bench(tmp_path, certificate=True).reader
    rewrite(path, issuer_key=None)
    refused(path, "issuer_key", "is missing")


def test_a_certificate_of_another_issuer_is_refused(tmp_path):
    path = bench(tmp_path, certificate=True).reader
    rewrite(path, issuer_key=SeededEntropy("other").ephemeral().public.point.hex())
    refused(path, "certificate")


def test_a_certificate_of_another_key_is_refused(tmp_path):
    path = bench(tmp_path, certificate=True).reader
    rewrite(path, private_key=SeededEntropy("other").ephemeral().scalar().reveal().hex())
    refused(path, "certificate", "another key")


@pytest.mark.parametrize("at", [0, 10, 40, 120, -1])
def test_a_certificate_with_one_changed_byte_is_refused(tmp_path, at):
    path = bench(tmp_path, certificate=True).reader
    data = bytearray.fromhex(json.loads(path.read_text())["certificate"])
    data[at] ^= 1
    rewrite(path, certificate=data.hex())
    refused(path, "certificate")


@pytest.mark.parametrize("value", ["30", "3000", "00" * 40])
def test_what_is_no_certificate_is_refused(tmp_path, value):
    path = bench(tmp_path, certificate=True).reader
    rewrite(path, certificate=value)
    refused(path, "certificate")


@pytest.mark.parametrize("value", [OFF_CURVE, "", "zz" * 65, 7])
def test_a_bad_issuer_key_is_named(tmp_path, value):
    path = bench(tmp_path, certificate=True).reader
    rewrite(path, issuer_key=value)
    refused(path, "issuer_key")


@pytest.mark.parametrize(
    "text", ["", "{", "not json", '{"profile": }', "{}}", "[" * 100_000, '{"a": 1,}', "\ufeff{}"]
)
def test_what_is_not_json_is_refused(path, text):
    path.write_text(text, encoding="utf-8")
    refused(path, "not JSON")


@pytest.mark.parametrize("text", ["[]", "7", '"text"', "null", "true"])
def test_json_that_is_no_object_is_refused(path, text):
    path.write_text(text)
    refused(path, "expected an object")


def test_a_key_that_stands_twice_is_refused(path):
    path.write_text(path.read_text()[:-1] + ', "sub_id": "' + "00" * 16 + '"}')
    refused(path, "twice")


def test_a_key_that_stands_twice_deep_inside_is_refused(path):
    path.write_text(path.read_text().replace('"name"', '"name": "x", "name"'))
    refused(path, "twice")


def test_a_key_that_stands_twice_is_named(path):
    path.write_text(path.read_text()[:-1] + ', "sub_id": "' + "00" * 16 + '"}')
    refused(path, "sub_id")


@pytest.mark.parametrize("text", [" ".join(["11"] * 16), "11" * 16 + "\n"])
def test_hex_with_white_space_in_it_is_refused(path, text):
    rewrite(path, group_id=text)
    refused(path, "group_id")


@pytest.mark.parametrize("data", [b"\xff\xfe{}", b"\x80", b"{\x00\xc3}"])
def test_what_is_not_text_is_refused(path, data):
    path.write_bytes(data)
    refused(path, "not a text file", clause="specs/formats.md §1")


def test_a_file_over_16_mib_is_refused_unread(path):
    with path.open("r+b") as file:
        file.truncate((16 << 20) + 1)
    refused(path, "over 16777216 bytes", clause="specs/formats.md §1")


def test_a_folder_is_a_usage_error(tmp_path):
    ran = run("tap", "apdu-tcp:127.0.0.1:9", "--reader", tmp_path)
    assert ran.code == 2
    assert str(tmp_path) in ran.err


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path):
    ran = run("tap", "apdu-tcp:127.0.0.1:9", "--reader", tmp_path / "absent.json")
    assert ran.code == 2
    assert "absent.json" in ran.err


def test_a_file_that_cannot_be_read_is_exit_2_and_says_why(path, monkeypatch):
    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    ran = run("tap", "apdu-tcp:127.0.0.1:9", "--reader", path)
    assert ran.code == 2
    assert explained(ran)[0] == f"error: {path}: Permission denied"


# ---- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_the_identity_is_what_the_file_says(tmp_path, profile):
    path = bench(tmp_path, profile).reader
    document, identity = json.loads(path.read_text()), ReaderFile(path).identity
    assert identity.profile.name == profile
    assert identity.group_id.hex() == document["group_id"]
    assert identity.sub_id.hex() == document["sub_id"]
    assert identity.group_key == identity.vault.public(identity.key)


def test_with_a_certificate_the_group_key_is_the_issuers(tmp_path):
    path = bench(tmp_path, certificate=True).reader
    document, identity = json.loads(path.read_text()), ReaderFile(path).identity
    assert identity.certificate.hex() == document["certificate"]
    assert identity.group_key.point.hex() == document["issuer_key"]


def test_an_issuer_key_without_certificate_has_no_effect(path):
    rewrite(path, issuer_key=SeededEntropy("other").ephemeral().public.point.hex())
    identity = ReaderFile(path).identity
    assert identity.group_key == identity.vault.public(identity.key)


def test_credentials_may_be_absent(path):
    rewrite(path, credentials=None)
    assert len(ReaderFile(path).directory) == 0


def test_upper_case_hex_is_read(path):
    before = ReaderFile(path).identity.group_id
    rewrite(path, group_id=before.hex().upper())
    assert ReaderFile(path).identity.group_id == before


def test_no_repr_of_a_loaded_file_shows_a_secret(path):
    rewrite(path, credentials=[credential(path) | {"kpersistent": "5a" * 32}])
    secret = json.loads(path.read_text())["private_key"]
    file = ReaderFile(path)
    shown = repr(file.identity) + repr([*file.directory])
    assert secret not in shown
    assert "5a" * 8 not in shown


# ---- what is written back -----------------------------------------------------------------------


def save(path: Path) -> None:
    file = ReaderFile(path)
    (known,) = file.directory
    file.save_kpersistent(known.public_key, Secret(b"\x5a" * 32))


def test_a_kpersistent_is_written_in_lower_case_into_its_credential_only(path):
    other = {"name": "other", "public_key": SeededEntropy("o").ephemeral().public.point.hex()}
    first = credential(path)
    rewrite(path, credentials=[first, other])
    file = ReaderFile(path)
    file.save_kpersistent(next(iter(file.directory)).public_key, Secret(b"\x5a" * 32))
    entries = json.loads(path.read_text())["credentials"]
    assert entries == [first | {"kpersistent": "5a" * 32}, other]


def test_all_other_fields_stay_as_they_are_the_unknown_ones_too(path):
    rewrite(path, comment="mine", nested={"a": [1, None]})
    before = json.loads(path.read_text())
    save(path)
    after = json.loads(path.read_text())
    before["credentials"][0]["kpersistent"] = "5a" * 32
    assert after == before


def test_a_saved_kpersistent_is_a_fast_candidate_at_once_and_after_loading_again(path):
    file = ReaderFile(path)
    (known,) = file.directory
    file.save_kpersistent(known.public_key, Secret(b"\x5a" * 32))
    for each in (file, ReaderFile(path)):
        (candidate,) = each.directory.fast_candidates(16)
        assert candidate.kpersistent == Secret(b"\x5a" * 32)


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_mode_of_the_file_is_kept(path, mode):
    path.chmod(mode)
    save(path)
    assert path.stat().st_mode & 0o777 == mode


def test_a_link_keeps_pointing_to_the_file(path, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(path)
    save(link)
    assert link.is_symlink()
    assert credential(path)["kpersistent"] == "5a" * 32


def test_a_crash_before_the_rename_leaves_the_old_file_and_no_other(path, monkeypatch):
    before, names = path.read_bytes(), {*path.parent.iterdir()}

    def crash(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises((OSError, FileFormatError)):
        save(path)
    assert path.read_bytes() == before
    assert {*path.parent.iterdir()} == names


def test_the_file_is_replaced_and_never_written_in_place(path, monkeypatch):
    calls = []
    monkeypatch.setattr(reader_file, "replace_file", lambda *args: calls.append(args))
    before = path.read_bytes()
    save(path)
    assert path.read_bytes() == before
    assert [where for where, _ in calls] == [path]
