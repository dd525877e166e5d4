"""``--uwb`` of ``dkey vehicle run`` and ``dkey agent run``: what is refused, and why."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dkey.cli.agent import cli as agent
from dkey.cli.vehicle import cli as vehicle
from dkey.errors import FileFormatError, LinkError, LinkReason, LocalFault


def run(tmp_path, *words: str):
    return CliRunner().invoke(
        vehicle, ["run", "--state", str(tmp_path / "car"), "--ble", "none", *words]
    )


def test_a_touch_only_vehicle_takes_no_anchors(tmp_path):
    found = run(tmp_path, "--uwb", "sim:", "--features", "DK2_TOUCH").exception
    assert isinstance(found, LocalFault)
    assert "touch only" in str(found)


@pytest.mark.parametrize(
    ("link", "reason"),
    [("uci-tcp:127.0.0.1:9", LinkReason.ABSENT), ("bogus:", LinkReason.UNSUPPORTED)],
)
def test_anchors_that_are_not_there_are_told(tmp_path, link, reason):
    found = run(tmp_path, "--uwb", link).exception
    assert isinstance(found, LinkError)
    assert found.reason is reason


def test_a_layout_that_is_none_is_refused(tmp_path):
    file = tmp_path / "layout.toml"
    file.write_text("format = 1")
    found = run(tmp_path, "--uwb", "sim:", "--layout", str(file)).exception
    assert isinstance(found, FileFormatError)


def test_a_phone_whose_uwb_is_not_there_is_told(tmp_path):
    words = ["run", "--store", str(tmp_path / "phone"), "--uwb", "uci-tcp:127.0.0.1:9"]
    found = CliRunner().invoke(agent, words).exception
    assert isinstance(found, LinkError)
    assert found.reason is LinkReason.ABSENT
