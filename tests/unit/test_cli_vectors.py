"""``dkey vectors check``: rows, JSON and exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from dkey.cli.vectors import cli

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

# RFC 5869 A.3.
KNOWN: dict[str, Any] = {
    "Hash": "SHA-256",
    "IKM": "0b" * 22,
    "salt": "",
    "info": "",
    "L": "42",
    "OKM": "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
}
# A function of SP 800-108 that is not implemented.
LATER = {
    "prf": "CMAC_TDES3",
    "rlen": "8_BITS",
    "ctrlocation": "BEFORE_FIXED",
    "L": "128",
    "KI": "00" * 24,
    "FixedInputData": "00",
    "KO": "00" * 16,
}


def file(folder: Path, name: str, *vectors: dict[str, Any]) -> str:
    path = folder / name
    path.write_text(json.dumps({"vectors": vectors}))
    return str(path)


def check(*args: str) -> Result:
    return CliRunner().invoke(cli, ["check", *args])


def test_agreement_is_a_row_and_exit_0(tmp_path: Path) -> None:
    result = check(file(tmp_path, "good.json", KNOWN, KNOWN))
    assert result.exit_code == 0
    header, row = result.stdout.splitlines()
    assert header.split() == ["agreed", "disagreed", "not", "yet"]
    assert row.split() == ["good.json", "2", "0", "0"]


def test_a_disagreement_is_named_and_exit_1(tmp_path: Path) -> None:
    result = check(file(tmp_path, "wrong.json", KNOWN, {**KNOWN, "OKM": "00" * 42, "id": "second"}))
    assert result.exit_code == 1
    row, failure = result.stdout.splitlines()[1:]
    assert row.split() == ["wrong.json", "1", "1", "0"]
    assert failure.strip() == "second: OKM differs"


def test_what_is_not_implemented_is_counted_apart_and_is_no_failure(tmp_path: Path) -> None:
    result = check(file(tmp_path, "later.json", LATER))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["later.json", "0", "0", "1"]


def test_a_bad_file_is_explained_and_exit_2_while_the_others_are_checked(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"vectors": [')
    wrong = file(tmp_path, "wrong.json", {**KNOWN, "OKM": "00" * 42})
    result = check(str(bad), wrong, file(tmp_path, "good.json", KNOWN))
    assert result.exit_code == 2
    assert "not JSON" in result.stderr
    assert "try:" in result.stderr
    assert "good.json" in result.stdout
    assert "wrong.json" in result.stdout


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    assert check(str(tmp_path / "absent.json")).exit_code == 2


def test_no_file_is_a_usage_error() -> None:
    assert check().exit_code == 2


def test_json_is_one_object_for_each_file(tmp_path: Path) -> None:
    good = file(tmp_path, "good.json", KNOWN)
    wrong = file(tmp_path, "wrong.json", {**KNOWN, "OKM": "00" * 42})
    result = check("--json", good, wrong)
    assert result.exit_code == 1
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first == {
        "schema": "dkey.vectors/1",
        "file": good,
        "agreed": 1,
        "disagreed": 0,
        "not_implemented": 0,
        "failures": [],
    }
    assert second["failures"] == [{"id": "vectors[0]", "what": "OKM differs"}]


def test_json_keeps_the_explanation_of_a_bad_file_off_standard_output(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("[]")
    result = check("--json", str(bad))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "error:" in result.stderr
