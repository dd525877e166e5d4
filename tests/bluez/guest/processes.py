"""Processes that a payload starts: their JSON events, their logs, their end. Standard library."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ARTEFACTS", "Failed", "Process", "dkey", "expect", "judged", "say", "start_air"]

ARTEFACTS = Path("/artefacts")
Event = dict[str, Any]

_EVENT_S = 60.0
_running: list[Process] = []


class Failed(Exception):
    """The payload's verdict is no."""


def say(text: str) -> None:
    """Print a line with the guest's uptime in seconds."""
    uptime_s = Path("/proc/uptime").read_text().split()[0]
    print(f"[{uptime_s}] {text}", flush=True)  # noqa: T201 - the console is the payload's report


def dkey(*arguments: str) -> list[str]:
    """Return the command line of the ``dkey`` command."""
    return [sys.executable, "-c", "from dkey.cli import main; main()", *arguments]


class Process:
    """One process; its output goes to ``/artefacts/NAME.log``, its JSON lines to :meth:`next`."""

    def __init__(self, name: str, *command: str) -> None:
        self.name = name
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._errors = (ARTEFACTS / f"{name}.err").open("ab")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        _running.append(self)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with (ARTEFACTS / f"{self.name}.log").open("ab", buffering=0) as log:
            for line in self._process.stdout:
                log.write(line)
                text = line.decode("utf-8", "replace").strip()
                try:
                    event = json.loads(text)
                except ValueError:
                    event = None
                self._events.put(event if isinstance(event, dict) else {"text": text})
        self._events.put(None)

    def next(
        self, what: str, wanted: Callable[[Event], bool], timeout_s: float = _EVENT_S
    ) -> Event:
        """Return the next event that ``wanted`` takes; those before it are dropped.

        Raises:
            Failed: the process ended, or the time ran out.
        """
        end = time.monotonic() + timeout_s
        while True:
            try:
                event = self._events.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty as exc:
                raise Failed(f"{self.name}: no {what} in {timeout_s:.0f} s") from exc
            if event is None:
                self._events.put(None)
                raise Failed(f"{self.name}: ended ({self._process.wait()}) before {what}")
            if wanted(event):
                return event

    def event(self, name: str, timeout_s: float = _EVENT_S) -> Event:
        """Return the next event of this name."""
        return self.next(name, lambda each: each.get("event") == name, timeout_s)

    def rest(self, timeout_s: float = _EVENT_S) -> list[Event]:
        """Wait for the end and return the events not yet taken.

        Raises:
            Failed: it does not end.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as exc:
            raise Failed(f"{self.name}: still runs after {timeout_s:.0f} s") from exc
        self._reader.join()
        taken = []
        while (event := self._events.get()) is not None:
            taken.append(event)
        return taken

    @property
    def exit_code(self) -> int | None:
        """Exit code, None while it runs."""
        return self._process.poll()

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 10.0) -> None:
        """Send a signal and wait for the end; kill what ignores it."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_air(path: str) -> Process:
    """Start the virtual air with the kernel's adapter on it; return when ``path`` can be joined."""
    air = Process(
        *("air", sys.executable, "-m", "firmware_mock.air", "--unix", path),
        *("--vhci", "--btsnoop", str(ARTEFACTS)),
    )
    air.next("socket", lambda each: "listening" in each.get("text", ""))
    return air


def expect(what: str, found: object, wanted: object) -> None:
    """Fail unless the two are equal."""
    if found != wanted:
        raise Failed(f"{what}: {found!r}, expected {wanted!r}")


def judged(story: Callable[[], None]) -> int:
    """Run a payload's story, end what it started, and return the exit code."""
    try:
        story()
    except Failed as exc:
        say(f"FAILED {exc}")
        for each in _running:
            errors = (ARTEFACTS / f"{each.name}.err").read_text("utf-8", "replace")
            for line in errors.splitlines()[-15:]:
                say(f"{each.name}: {line}")
        return 1
    else:
        say("PASSED")
        return 0
    finally:
        for each in reversed(_running):
            each.stop()
        os.sync()
