"""The credential file: what is read, what is refused with which words, what is written back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from test_cli_main import explained, run
from test_reader_file import OFF_CURVE, ORDER, PROFILES, bench, rewrite

from dkey.agent.credential_file import CredentialFile
from dkey.crypto.secret import Secret
from dkey.errors import FileFormatError
from dkey.testing import SeededEntropy

CLAUSE = "specs/formats.md §2"
NOWHERE = "apdu-tcp:0.0.0.0:0"
"""A link that is refused: a file that is taken by mistake ends with 3 and does not wait."""
GROUP, SUB = b"\x01" * 16, b"\x02" * 16
KEY = {"group_id": GROUP.hex(), "sub_id": SUB.hex(), "key": "5a" * 32}


@pytest.fixture
def path(tmp_path) -> Path:
    return bench(tmp_path).credential


def refused(path: Path, *named: str, clause: str = CLAUSE) -> None:
    """The file is refused on the command line in one error that names these, and is unchanged."""
    before = path.read_bytes()
    ran = run("device", "serve", NOWHERE, "--credential", path, "--once")
    assert ran.code == 2, ran
    assert ran.out == ""
    first, *rest = explained(ran)
    assert str(path) in first
    for each in named:
        assert each in first.removeprefix(f"error: {path}")
    assert f"  why: {clause}" in rest
    assert path.read_bytes() == before


def reader(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["readers"][0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("private_key", ""),
        ("private_key", "00" * 32),
        ("private_key", ORDER),
        ("private_key", "ff" * 32),
        ("private_key", "11" * 31),
        ("private_key", "11" * 33),
        ("private_key", "xy" * 32),
        ("private_key", 5),
        ("readers", {}),
        ("readers", "all"),
        ("kpersistent", {}),
        ("kpersistent", 0),
    ],
)
def test_a_bad_field_is_named(path, name, value):
    rewrite(path, **{name: value})
    refused(path, name)


def test_a_missing_private_key_is_named(path):
    rewrite(path, private_key=None)
    refused(path, "private_key", "is missing")


def test_a_missing_profile_is_named(path):
    rewrite(path, profile=None)
    refused(path, "profile", "is missing")


@pytest.mark.parametrize("value", ["ccc", "Vehicle", "", 1])
def test_a_profile_that_is_not_there_is_named(path, value):
    rewrite(path, profile=value)
    refused(path, "profile")


@pytest.mark.parametrize("value", ["ccc", "Vehicle", "", 1])
def test_a_profile_that_is_not_there_is_exit_2_and_the_ones_that_are_there_are_named(path, value):
    rewrite(path, profile=value)
    ran = run("device", "serve", NOWHERE, "--credential", path, "--once")
    assert ran.code == 2
    assert '"aliro"' in ran.err
    assert '"vehicle"' in ran.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("group_id", "00" * 15),
        ("group_id", "00" * 17),
        ("group_id", None),
        ("public_key", OFF_CURVE),
        ("public_key", "04" + "11" * 63),
        ("public_key", "02" + "11" * 64),
        ("public_key", 7),
        ("issuer_key", OFF_CURVE),
        ("issuer_key", "zz" * 65),
    ],
)
def test_a_bad_field_of_a_reader_is_named_with_its_place(path, name, value):
    rewrite(path, readers=[reader(path) | {name: value}])
    refused(path, f"readers[0]: {name}")


@pytest.mark.parametrize("name", ["group_id", "public_key"])
def test_a_missing_field_of_a_reader_is_named_with_its_place(path, name):
    entry = reader(path)
    del entry[name]
    rewrite(path, readers=[reader(path) | {"group_id": "00" * 16}, entry])
    refused(path, f"readers[1]: {name}", "is missing")


def test_a_reader_group_that_stands_twice_is_named(path):
    rewrite(path, readers=[reader(path)] * 2)
    refused(path, "readers[1]: group_id", "twice")


@pytest.mark.parametrize("value", [None, 3, "x", []])
def test_a_reader_that_is_no_object_is_named(path, value):
    rewrite(path, readers=[value])
    refused(path, "readers[0]")


@pytest.mark.parametrize(
    ("name", "value"),
    [("group_id", "00"), ("sub_id", "zz" * 16), ("key", "5a" * 31), ("key", "5a" * 33)],
)
def test_a_bad_field_of_a_kpersistent_is_named_with_its_place(path, name, value):
    rewrite(path, kpersistent=[KEY, KEY | {name: value}])
    refused(path, f"kpersistent[1]: {name}")


@pytest.mark.parametrize("name", KEY)
def test_a_missing_field_of_a_kpersistent_is_named_with_its_place(path, name):
    rewrite(path, kpersistent=[{k: v for k, v in KEY.items() if k != name}])
    refused(path, f"kpersistent[0]: {name}", "is missing")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", -1),
        ("size", 65536),
        ("size", "16"),
        ("size", 16.0),
        ("size", True),
        ("data", "zz"),
        ("data", "0"),
        ("data", "00" * 17),
        ("data", 7),
        ("read", 1),
        ("read", "yes"),
        ("write", 0),
    ],
)
def test_a_bad_field_of_the_mailbox_is_named(path, name, value):
    rewrite(path, mailbox={"size": 16, "data": "00", "read": True, "write": True} | {name: value})
    refused(path, f"mailbox: {name}")


def test_a_mailbox_content_that_does_not_fit_is_named_with_its_place(path):
    rewrite(path, mailbox={"size": 1, "data": "0000"})
    refused(path, "mailbox: data")


@pytest.mark.parametrize("value", [7, "x", []])
def test_a_mailbox_that_is_no_object_is_named(path, value):
    rewrite(path, mailbox=value)
    refused(path, "mailbox")


@pytest.mark.parametrize("text", ["", "{", "not json", "{}}", "[" * 100_000])
def test_what_is_not_json_is_refused(path, text):
    path.write_text(text)
    refused(path, "not JSON")


@pytest.mark.parametrize("text", ["[]", "7", "null"])
def test_json_that_is_no_object_is_refused(path, text):
    path.write_text(text)
    refused(path, "expected an object")


def test_a_key_that_stands_twice_is_refused(path):
    path.write_text(path.read_text()[:-1] + ', "readers": []}')
    refused(path, "twice")


def test_a_file_over_16_mib_is_refused_unread(path):
    with path.open("r+b") as file:
        file.truncate((16 << 20) + 1)
    refused(path, "over 16777216 bytes", clause="specs/formats.md §1")


def test_what_is_not_text_is_refused(path):
    path.write_bytes(b"\xff\x00")
    refused(path, "not a text file", clause="specs/formats.md §1")


def test_a_folder_is_a_usage_error(tmp_path):
    ran = run("device", "serve", NOWHERE, "--credential", tmp_path)
    assert ran.code == 2
    assert str(tmp_path) in ran.err


# ---- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_the_credential_is_what_the_file_says(tmp_path, profile):
    path = bench(tmp_path, profile).credential
    rewrite(path, kpersistent=[KEY])
    credential, document = CredentialFile(path).credential, json.loads(path.read_text())
    assert credential.profile.name == profile
    ((group_id, trusted),) = credential.readers.items()
    assert group_id.hex() == trusted.group_id.hex() == document["readers"][0]["group_id"]
    assert trusted.public_key.point.hex() == document["readers"][0]["public_key"]
    assert trusted.issuer_key is None
    assert credential.kpersistent == {(GROUP, SUB): Secret(b"\x5a" * 32)}


def test_readers_and_kpersistent_may_be_absent(path):
    rewrite(path, readers=None, kpersistent=None)
    credential = CredentialFile(path).credential
    assert (credential.readers, credential.kpersistent) == ({}, {})


def test_of_two_kpersistent_for_one_reader_the_last_one_counts(path):
    rewrite(path, kpersistent=[KEY, KEY | {"key": "a5" * 32}])
    assert CredentialFile(path).credential.kpersistent[GROUP, SUB] == Secret(b"\xa5" * 32)


def test_mailbox_data_is_filled_up_to_the_size_and_rights_are_on_by_default(path):
    rewrite(path, mailbox={"size": 4, "data": "aa"})
    mailbox = CredentialFile(path).credential.mailbox
    assert mailbox is not None
    assert (mailbox.data, mailbox.readable, mailbox.writable) == (b"\xaa\0\0\0", True, True)


@pytest.mark.parametrize("field", ["read", "write"])
def test_mailbox_rights_can_be_taken_away(path, field):
    rewrite(path, mailbox={"size": 4, field: False})
    mailbox = CredentialFile(path).credential.mailbox
    assert mailbox is not None
    assert {"read": mailbox.readable, "write": mailbox.writable}[field] is False


def test_no_repr_of_a_loaded_file_shows_a_secret(path):
    rewrite(path, kpersistent=[KEY])
    shown = repr(CredentialFile(path).credential)
    assert json.loads(path.read_text())["private_key"] not in shown
    assert "5a" * 8 not in shown
    assert "ZZZZZZZZ" not in shown  # the same bytes as text


# ---- what is written back -----------------------------------------------------------------------


def save(path: Path, **how: bool) -> None:
    CredentialFile(path, **how).save_kpersistent(GROUP, SUB, Secret(b"\x5a" * 32))


def test_a_saved_kpersistent_is_there_after_loading_again(path):
    save(path)
    assert CredentialFile(path).credential.kpersistent == {(GROUP, SUB): Secret(b"\x5a" * 32)}


def test_a_saved_kpersistent_takes_the_place_of_the_older_one_and_leaves_the_others(path):
    other = KEY | {"sub_id": "33" * 16}
    rewrite(path, kpersistent=[KEY | {"key": "a5" * 32}, other])
    save(path)
    entries = json.loads(path.read_text())["kpersistent"]
    assert sorted(entries, key=str) == sorted([KEY, other], key=str)


def test_all_other_fields_stay_as_they_are_the_unknown_ones_too(path):
    rewrite(path, comment={"mine": [1, None]})
    before = json.loads(path.read_text())
    save(path)
    assert json.loads(path.read_text()) == before | {"kpersistent": [KEY]}


def test_a_saved_mailbox_keeps_its_rights(path):
    rewrite(path, mailbox={"size": 4, "data": "aa", "write": False})
    CredentialFile(path).save_mailbox(b"\1\2\3\4")
    expected = {"size": 4, "data": "01020304", "read": True, "write": False}
    assert json.loads(path.read_text())["mailbox"] == expected


def test_a_credential_without_mailbox_gets_none(path):
    rewrite(path, mailbox=None)
    before = path.read_bytes()
    CredentialFile(path).save_mailbox(b"\1")
    assert path.read_bytes() == before


def test_read_only_writes_nothing(path):
    before = path.read_bytes()
    save(path, read_only=True)
    CredentialFile(path, read_only=True).save_mailbox(bytes(16))
    assert path.read_bytes() == before


def test_two_open_files_do_not_undo_each_others_fields(path):
    one, other = CredentialFile(path), CredentialFile(path)
    one.save_mailbox(b"\x77" * 16)
    other.save_kpersistent(GROUP, SUB, Secret(b"\x5a" * 32))
    document = json.loads(path.read_text())
    assert document["mailbox"]["data"] == "77" * 16
    assert document["kpersistent"] == [KEY]


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_mode_of_the_file_is_kept(path, mode):
    path.chmod(mode)
    save(path)
    assert path.stat().st_mode & 0o777 == mode


def test_a_crash_before_the_rename_leaves_the_old_file_and_no_other(path, monkeypatch):
    before, names = path.read_bytes(), {*path.parent.iterdir()}

    def crash(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises((OSError, FileFormatError)):
        save(path)
    assert path.read_bytes() == before
    assert {*path.parent.iterdir()} == names


def test_the_new_content_is_on_the_disk_before_it_takes_the_files_place(path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda fd: (order.append("sync"), real_fsync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (order.append("rename"), real_replace(self, to))[1]
    )
    save(path)
    assert order == ["sync", "rename", "sync"]


def test_keys_of_two_readers_of_a_group_are_kept_apart(path):
    file, entropy = CredentialFile(path), SeededEntropy("subs")
    keys = {(GROUP, bytes([at]) * 16): Secret(entropy.random(32)) for at in range(4)}
    for (group_id, sub_id), key in keys.items():
        file.save_kpersistent(group_id, sub_id, key)
        file.credential.kpersistent[group_id, sub_id] = key
    assert CredentialFile(path).credential.kpersistent == keys
