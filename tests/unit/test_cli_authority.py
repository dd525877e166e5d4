"""``dkey authority``: init, openapi, and what run refuses."""

from __future__ import annotations

import json
import stat

import pytest

from dkey.authority.serve import parse_listen
from dkey.cli import main
from dkey.errors import LocalFault


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["authority", *words])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_init_makes_a_private_folder_and_tells_the_next_command(capsys, tmp_path):
    folder = tmp_path / "authority"
    code, out, _ = run(capsys, "init", "--state", str(folder))
    assert code == 0
    assert "dkey authority run" in out
    assert stat.S_IMODE((folder / "admin.token").stat().st_mode) == 0o600


def test_init_does_not_replace_an_authority(capsys, tmp_path):
    folder = tmp_path / "authority"
    run(capsys, "init", "--state", str(folder))
    token = (folder / "admin.token").read_text()
    code, _, err = run(capsys, "init", "--state", str(folder))
    assert code == 2
    assert "holds an authority already" in err
    assert (folder / "admin.token").read_text() == token


def test_init_shows_no_token(capsys, tmp_path):
    folder = tmp_path / "authority"
    _, out, err = run(capsys, "init", "--state", str(folder), "--json")
    assert json.loads(out)["event"] == "created"
    assert (folder / "admin.token").read_text().strip() not in out + err


def test_openapi_prints_the_whole_document(capsys):
    code, out, _ = run(capsys, "openapi")
    document = json.loads(out)
    assert code == 0
    assert document["openapi"].startswith("3.")
    assert "/v1/vehicles/{vehicle}/shares" in document["paths"]


@pytest.mark.parametrize(
    "text", ["", "8460", "host:1", "127.0.0.1:x", "127.0.0.1:70000", "1.2.3:1"]
)
def test_what_is_no_place_to_listen_is_refused(text):
    with pytest.raises(LocalFault):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [("127.0.0.1:0", True), ("localhost:1", True), ("[::1]:1", True), ("0.0.0.0:1", False)],
)
def test_only_a_loopback_address_is_local(text, local):
    assert parse_listen(text).local is local


def test_a_damaged_folder_is_told_and_not_served(capsys, tmp_path):
    folder = tmp_path / "authority"
    run(capsys, "init", "--state", str(folder))
    (folder / "admin.token").chmod(0o644)
    code, _, err = run(capsys, "run", "--state", str(folder), "--listen", "127.0.0.1:0")
    assert code == 2
    assert "open to other users" in err
