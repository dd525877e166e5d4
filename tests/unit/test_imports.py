"""What importing costs: nothing heavy before it is needed, and no module needs another first."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dkey
from dkey.cli import COMMANDS

HEAVY = {
    "bleak",
    "nfc",
    "bumble",
    "numpy",
    "asyncio",
    "click",
    "cryptography",
    "construct",
    "cbor2",
}
ROOT = Path(dkey.__file__).parent
MODULES = sorted(each.name for each in pkgutil.walk_packages([str(ROOT)], "dkey."))


def python(code: str, *words: str) -> Any:
    """Run ``code`` in a fresh Python and return the JSON that it printed last."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages that ``statement`` loads in a fresh Python."""
    code = (
        "import sys, json\nbefore = {*sys.modules}\n"
        f"{statement}\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in {*sys.modules} - before})))"
    )
    return {*python(code)}


@pytest.mark.parametrize("module", ["dkey", "dkey.errors", "dkey.link.base"])
def test_the_foundation_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}") & HEAVY == set()


@pytest.mark.parametrize(
    "module", ["dkey.access.reader", "dkey.access.device", "dkey.control.touch"]
)
def test_the_core_loads_no_transport(module):
    loaded = loaded_by(f"import {module}")
    assert (
        loaded & {"bleak", "nfc", "bumble", "numpy", "asyncio", "click", "serial", "usb1"} == set()
    )


HELP = """
import contextlib, io, sys, json
from dkey.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
top = sorted({name.partition('.')[0] for name in sys.modules})
print(json.dumps([out.getvalue(), top]))
"""


def test_help_lists_every_command_and_loads_neither_crypto_nor_transport():
    text, loaded = python(HELP, "--help")
    assert {*COMMANDS} <= {line.split()[0] for line in text.splitlines() if line.startswith("  ")}
    assert "cryptography" not in loaded
    assert {*loaded} & (HEAVY - {"click"}) == set()


def test_version_loads_neither_crypto_nor_transport():
    text, loaded = python(HELP, "--version")
    assert text.startswith("dkey ")
    assert {*loaded} & (HEAVY - {"click"}) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_neither_nfcpy_nor_bleak_nor_the_mock_vehicle(command):
    _, loaded = python(HELP, command, "--help")
    assert {*loaded} & {"bleak", "nfc", "bumble", "numpy", "firmware_mock"} == set()


def test_every_module_can_be_the_first_one_that_is_imported():
    code = """
import importlib, json, sys
failed = {}
for module in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dkey"]:
        del sys.modules[name]
    try:
        importlib.import_module(module)
    except Exception as exc:
        failed[module] = repr(exc)
print(json.dumps(failed))
"""
    assert len(MODULES) > 50
    assert python(code, *MODULES) == {}


def imported_names(path: Path) -> set[str]:
    """Return the modules that the import statements of a source file name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


SOURCES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_the_mock_vehicle_or_a_test(path):
    tops = {name.partition(".")[0] for name in imported_names(path)}
    assert tops & {"firmware_mock", "tests", "conftest", "pytest", "hypothesis"} == set()


def test_the_look_for_imports_finds_a_late_one(tmp_path):
    path = tmp_path / "late.py"
    path.write_text("def f():\n    from firmware_mock.garage import open_vehicle\n")
    assert imported_names(path) == {"firmware_mock.garage"}


def test_every_name_that_a_module_offers_is_there():
    code = """
import importlib, json, sys
print(json.dumps([
    f"{module}.{name}" for module in sys.argv[1:]
    for name in getattr(importlib.import_module(module), "__all__", ())
    if not hasattr(importlib.import_module(module), name)
]))
"""
    assert python(code, *MODULES) == []
