"""Known answers of UWB and AES-CMAC, and that a wrong one turns red.

The files are third-party facts in the shared ``vectors`` folder beside the repository; without it
these tests skip. Counts are asserted, so that an empty or shrunken file does not pass.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dkey.conformance.vectors import check_file
from dkey.errors import FileFormatError

FOLDER = Path(__file__).parents[2].parent / "shared" / "vectors"
UWB = "uwb_public.json"


def shared(name: str) -> Path:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not there: the shared vectors are not part of the tree")
    return path


def entries() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shared(UWB).read_text())["vectors"]
    return found


@pytest.mark.parametrize(
    ("name", "values"),
    [(UWB, 31), ("nist_800_38b_aes_cmac.json", 8), ("wycheproof_aes_cmac.json", 204)],
)
def test_every_value_of_the_file_is_computed_and_agrees(name, values):
    report = check_file(shared(name))
    assert (report.disagreed, report.not_implemented) == (0, 0), report.failures
    assert report.agreed == values


def damaged(value: Any) -> Any:
    """Return the value with one thing changed."""
    if isinstance(value, str):
        return f"{(int(value[0], 16) ^ 1):x}" + value[1:]
    if isinstance(value, int):
        return value + 1
    return [damaged(value[0]), *value[1:]]


TELLING = {
    "mupsk1": "mupsk1",
    "mupsk2": "mupsk2",
    "mursk": "mursk",
    "salted_hash": "salted_hash",
    "ursk_kt": "ursk_kt",
    "dursk": "dursk",
    "dudsk": "dudsk",
    "sts_v": "sts_v",
    "uad": "src_long",
    "sp0_pre_poll_ccm": "mic",
    "hop_default_n80": "rounds",
    "hop_default_n8": "round",
    "uci_ccc_open_app_config": "tlv_count",
    "uci_ccc_capabilities": "chaps_per_slot",
}


def test_the_file_has_the_entries_that_are_damaged_here():
    assert {entry["name"] for entry in entries()} == {*TELLING}


@pytest.mark.parametrize(("name", "output"), TELLING.items())
def test_a_wrong_answer_is_a_disagreement(tmp_path, name, output):
    (entry,) = [entry for entry in entries() if entry["name"] == name]
    entry["outputs"][output] = damaged(entry["outputs"][output])
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({"vectors": [entry]}))
    assert check_file(path).disagreed >= 1


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("hop_default_n80", "blocks", "1,2"),
        ("mupsk1", "ursk", "00"),
        ("sp0_pre_poll_ccm", "plaintext_fields", 3),
    ],
)
def test_a_damaged_entry_is_a_damaged_file(tmp_path, name, field, value):
    (entry,) = [entry for entry in entries() if entry["name"] == name]
    entry["inputs"][field] = value
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps({"vectors": [entry]}))
    with pytest.raises(FileFormatError):
        check_file(path)


def test_what_the_stack_does_not_compute_is_counted_apart(tmp_path):
    entry = {"name": "another", "inputs": {}, "outputs": {"later": "00"}}
    path = tmp_path / "later.json"
    path.write_text(json.dumps({"vectors": [entry]}))
    assert check_file(path).not_implemented == 1
