"""Runs one case against one deliberately broken build, in a process of its own.

:class:`Foundry` starts one server process that has imported no part of the product. For each
broken build the server forks; the child puts an importer before all others that compiles the
broken modules from replaced source, imports the case, runs it, and ends. No build sees another.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, TracebackType

    from . import Broken, Case

__all__ = ["RED", "Foundry", "Outcome", "source_of"]

ROOT = Path(__file__).resolve().parents[2]
RED, SURVIVED, CRASHED, NO_MATCH, NOT_IMPORTED = 10, 0, 1, 11, 12
DEADLINE_S = 30.0
_MEANING = {
    SURVIVED: "the case did not notice the broken build: it cannot fail",
    CRASHED: "the case crashed under the broken build instead of judging it",
    NO_MATCH: "update the broken build: its old text does not match the source exactly once",
    NOT_IMPORTED: "update the broken build: the case never imports the module it breaks",
}
_WARM = (  # what the product imports from elsewhere; only saves time
    "asyncio",
    "cbor2",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.kdf.hkdf",
    "cryptography.hazmat.primitives.kdf.x963kdf",
    "cryptography.hazmat.primitives.serialization",
    "cryptography.x509",
    "random",
    "sqlite3",
    "tempfile",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended under a broken build; ``red`` is what is wanted."""

    code: int
    output: str

    @property
    def red(self) -> bool:
        """Whether the case failed by its own assertion."""
        return self.code == RED

    @property
    def text(self) -> str:
        """What happened and what to do about it."""
        meaning = _MEANING.get(self.code, f"the process ended with code {self.code}")
        return f"{meaning}\n{self.output}"


def source_of(module: str) -> Path:
    """Return the source file of a product module, by name alone."""
    stem = ROOT.joinpath(*module.split("."))
    return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")


class Foundry:
    """Makes broken builds and runs cases in them. A context manager; not for several threads."""

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.broken"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.communicate()  # closing its input ends it

    def run(self, case: Case, broken: Broken, *, seed: int = 1) -> Outcome:
        """Run ``case`` in the build that ``broken`` describes."""
        job = {
            "case": case.name,
            "cases": case.module,
            "seed": seed,
            "edits": [(edit.module, edit.old, edit.new) for edit in broken.edits],
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            return Outcome(CRASHED, "the server of broken builds ended")
        return Outcome(**json.loads(answer))


# --- in the server ------------------------------------------------------------------------------


def serve() -> None:
    """Take one job a line from standard input until it is closed."""
    for name in _WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if any(name.split(".")[0] in ("dkey", "firmware_mock") for name in sys.modules):
        raise SystemExit("the server imported the product: builds would not be apart")
    for line in sys.stdin:
        code, output = _in_a_child(json.loads(line))
        print(json.dumps({"code": code, "output": output}), flush=True)  # noqa: T201 - the protocol


def _in_a_child(job: dict[str, Any]) -> tuple[int, str]:
    """Fork, run the job in the child, and return its exit code and what it printed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = CRASHED
        try:
            os.close(reading)
            for stream in (1, 2):
                os.dup2(writing, stream)
            os.close(writing)
            code = _judge(job)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(writing)
    output = _read_all(reading, child)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), output


def _read_all(reading: int, child: int) -> str:
    """Return what the child prints until it ends; a child over its time is killed."""
    parts: list[bytes] = []
    end_s = time.monotonic() + DEADLINE_S
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, end_s - time.monotonic())):
                os.kill(child, signal.SIGKILL)
                parts.append(b"\nkilled: over its time")
                break
            part = os.read(reading, 65536)
            if not part:
                break
            parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


# --- in the child -------------------------------------------------------------------------------


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles one module from the replaced source; knows no cached bytecode."""

    def __init__(self, fullname: str, path: str, edits: Sequence[tuple[str, str]]) -> None:
        super().__init__(fullname, path)
        self.edits = edits

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text(encoding="utf-8")
        for old, new in self.edits:
            found = source.count(old)
            if found != 1:
                print(f"{self.path} has the old text {found} times:\n{old}", flush=True)  # noqa: T201
                os._exit(NO_MATCH)
            source = source.replace(old, new)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder:
    """Finds the broken modules."""

    def __init__(self, edits: Sequence[tuple[str, str, str]]) -> None:
        self.edits = edits

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        edits = [(old, new) for module, old, new in self.edits if module == fullname]
        if not edits:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None:
            return None
        return importlib.util.spec_from_file_location(
            fullname,
            found.origin,
            loader=_Loader(fullname, found.origin, edits),
            submodule_search_locations=found.submodule_search_locations,
        )


def _judge(job: dict[str, Any]) -> int:
    """Run the case of ``job`` in the broken build and return the exit code for it."""
    sys.meta_path.insert(0, _Finder(job["edits"]))
    here = Path(__file__).resolve().parent
    attacks = importlib.import_module("tests.attacks")
    try:
        attacks.load_module(job["cases"])
        attacks.registered(job["case"]).run(job["seed"])
    except AssertionError as exc:
        traceback.print_exc()
        raised_in = traceback.extract_tb(exc.__traceback__)[-1].filename
        return RED if here in Path(raised_in).resolve().parents else CRASHED
    except BaseException:  # noqa: BLE001 - whatever it was, the parent shows it
        traceback.print_exc()
        return CRASHED
    wanted = {module for module, _, _ in job["edits"]}
    return SURVIVED if wanted <= sys.modules.keys() else NOT_IMPORTED


if __name__ == "__main__":
    serve()
