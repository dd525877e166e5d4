"""The card file: a credential file of the vehicle profile that says where the card came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from test_cli_main import explained, run
from test_credential_file import NOWHERE
from test_reader_file import OFF_CURVE, rewrite

from dkey.access.credential import TrustedReader
from dkey.agent.card_file import CardFile
from dkey.crypto.secret import Secret
from dkey.errors import FileFormatError
from dkey.lifecycle.roles import CardProvenance
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from pathlib import Path

CARD, CREDENTIAL = "specs/formats.md §6", "specs/formats.md §2"


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "card.json"
    CardFile.create(path, CardProvenance.PURCHASED, SeededEntropy("card"))
    return path


def vehicle(seed: str = "vehicle") -> TrustedReader:
    entropy = SeededEntropy(seed)
    return TrustedReader(group_id=entropy.random(16), public_key=entropy.ephemeral().public)


def refused(path: Path, *named: str, clause: str) -> None:
    before = path.read_bytes()
    ran = run("card", "serve", NOWHERE, "--card", path, "--once")
    assert ran.code == 2, ran
    assert ran.out == ""
    first, *rest = explained(ran)
    assert str(path) in first
    for each in named:
        assert each in first.removeprefix(f"error: {path}")
    assert f"  why: {clause}" in rest
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", ["initial", "STOLEN", "", 1, ["INITIAL"], {}])
def test_a_provenance_that_is_not_there_is_named(path, value):
    rewrite(path, provenance=value)
    refused(path, "provenance", clause=CARD)


def test_a_missing_provenance_is_named(path):
    rewrite(path, provenance=None)
    refused(path, "provenance", "is missing", clause=CARD)


def test_a_card_of_another_profile_is_refused(path):
    rewrite(path, profile="aliro")
    refused(path, "profile", "vehicle", clause=CARD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("private_key", "00" * 32),
        ("private_key", "zz" * 32),
        ("private_key", None),
        ("readers", {}),
        ("readers", [{"group_id": "00" * 16, "public_key": OFF_CURVE}]),
        ("readers", [7]),
        ("kpersistent", [{}]),
        ("kpersistent", "x"),
    ],
)
def test_what_is_bad_in_a_credential_file_is_bad_in_a_card_file(path, name: str, value: Any):
    rewrite(path, **{name: value})
    refused(path, name, clause=CREDENTIAL)


@pytest.mark.parametrize("text", ["", "{", "x"])
def test_what_is_not_json_is_refused(path, text):
    path.write_text(text)
    refused(path, "not JSON", clause=CREDENTIAL)


def test_a_key_that_stands_twice_is_refused(path):
    path.write_text(path.read_text().rstrip()[:-1] + ', "readers": []}')
    refused(path, "twice", clause=CREDENTIAL)


def test_a_folder_is_a_usage_error(tmp_path):
    assert run("card", "serve", NOWHERE, "--card", tmp_path, "--once").code == 2


def test_a_credential_file_of_a_phone_is_no_card(path):
    document = json.loads(path.read_text())
    del document["provenance"]
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="provenance"):
        CardFile(path)


@pytest.mark.parametrize("provenance", CardProvenance)
def test_a_new_card_is_blank_private_and_keeps_its_provenance(tmp_path, provenance):
    path = tmp_path / "new.json"
    CardFile.create(path, provenance, SeededEntropy("new"))
    card = CardFile(path)
    assert card.provenance is provenance
    assert (card.credential.readers, card.credential.kpersistent) == ({}, {})
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_new_cards_have_two_keys(tmp_path):
    entropy = SeededEntropy("two")
    for name in ("a", "b"):
        CardFile.create(tmp_path / name, CardProvenance.INITIAL, entropy)
    keys = {json.loads((tmp_path / name).read_text())["private_key"] for name in ("a", "b")}
    assert len(keys) == 2


def test_a_new_card_never_takes_the_place_of_a_file(path):
    before = path.read_bytes()
    with pytest.raises(FileFormatError, match="exists already"):
        CardFile.create(path, CardProvenance.INITIAL, SeededEntropy("other"))
    assert path.read_bytes() == before


def test_a_new_card_in_a_folder_that_is_not_there_is_exit_2_and_says_so(tmp_path):
    ran = run("card", "serve", NOWHERE, "--card", tmp_path / "no" / "card.json")
    assert ran.code == 2
    assert explained(ran)


def test_pairing_writes_the_vehicle_as_the_one_reader_of_the_card(path):
    file = CardFile(path)
    for trusted in (vehicle("first"), vehicle("second")):
        file.save_reader(trusted)
        assert CardFile(path).credential.readers == {trusted.group_id: trusted}


def test_pairing_keeps_key_and_provenance(path):
    before = json.loads(path.read_text())
    CardFile(path).save_reader(vehicle())
    after = json.loads(path.read_text())
    assert {k: v for k, v in after.items() if k != "readers"} == {
        k: v for k, v in before.items() if k != "readers"
    }


def test_a_read_only_card_is_not_paired_in_its_file(path):
    before = path.read_bytes()
    CardFile(path, read_only=True).save_reader(vehicle())
    assert path.read_bytes() == before


def test_a_card_keeps_a_kpersistent_as_a_phone_does(path):
    CardFile(path).save_kpersistent(b"\1" * 16, b"\2" * 16, Secret(b"\3" * 32))
    stored = CardFile(path).credential.kpersistent
    assert stored == {(b"\1" * 16, b"\2" * 16): Secret(b"\3" * 32)}
