"""``dkey uwb serve``: what it refuses, and that its choices are those of the mock vehicle."""

import click
import pytest
from click.testing import CliRunner

from dkey.cli.uwb import cli
from dkey.errors import FileFormatError, LinkError, LinkReason
from firmware_mock.uwb_channel import Channel
from firmware_mock.uwb_paths import PATHS


def run(*words: str):
    return CliRunner().invoke(cli, ["serve", *words])


@pytest.mark.parametrize(
    "link",
    ["tcp:127.0.0.1:1", "uci-tcp:127.0.0.1", "uci-tcp:127.0.0.1:x", "uci-tcp:127.0.0.1:70000"],
)
def test_a_link_that_is_none_is_refused(link: str) -> None:
    found = run(link).exception
    assert isinstance(found, LinkError)
    assert found.reason is LinkReason.UNSUPPORTED


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_only_loopback_is_served(host: str) -> None:
    found = run(f"uci-tcp:{host}:0").exception
    assert isinstance(found, LinkError)
    assert found.reason is LinkReason.UNSUPPORTED


def test_a_layout_that_is_none_is_refused(tmp_path) -> None:
    file = tmp_path / "layout.toml"
    file.write_bytes(b"\xff")
    assert isinstance(run("--layout", str(file)).exception, FileFormatError)
    file.write_text("format = 1")
    assert isinstance(run("--layout", str(file)).exception, FileFormatError)


def choices(option: str) -> set[str]:
    params = {each.name: each for each in cli.commands["serve"].params}
    kind = params[option].type
    assert isinstance(kind, click.Choice)
    return set(kind.choices)


def test_every_channel_and_path_can_be_chosen() -> None:
    presets = {
        name.lower() for name in vars(Channel) if isinstance(getattr(Channel, name), Channel)
    }
    assert choices("channel") == presets
    assert choices("path") == {name for name, people in PATHS.items() if len(people) == 1}
