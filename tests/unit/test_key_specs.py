"""The pages about keys agree with the code: entries of the ledger, fields of the JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from key_world import OWNER, Phone

from dkey.agent.key_records import Kind

SPECS = Path(__file__).parents[2] / "specs"
FORMATS = (SPECS / "formats.md").read_text(encoding="utf-8")
SECTION = FORMATS[FORMATS.index("## 16.") :]


@pytest.fixture
def listed(tmp_path):
    return Phone(tmp_path / "owner", OWNER).pair().key("list", "--account", OWNER).object


def test_every_kind_of_entry_is_documented():
    page = (SPECS / "agent.md").read_text(encoding="utf-8")
    table = page[page.index("## 5. ") : page.index("### 5.7")]
    rows = re.findall(r"^\| `([a-z]+)` \| ", table, re.MULTILINE)
    assert rows == [each.value for each in Kind]


def test_the_example_has_the_fields_that_the_command_prints(listed):
    example = json.loads(re.search(r"<!-- example: key -->\n```json\n(.*)\n```", SECTION)[1])
    assert [*example] == [*listed]
    for name in ("vehicles", "keys"):
        assert [*example[name][0]] == [*listed[name][0]]


def test_every_field_that_is_printed_is_documented(listed):
    for name in {*listed} | {*listed["vehicles"][0]} | {*listed["keys"][0]}:
        assert f"`{name}`" in SECTION, name
