from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from .side import make

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def memory():
    """A folder in memory where there is one: these tests bring their own disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def template(memory):
    """The file of a new side."""
    return make(memory / "template.db")
