"""The control socket: how somebody at the vehicle, or a test, turns its knobs from outside.

A unix socket, mode 0600, one JSON object a line in both directions (specs/formats.md):
``{"set": {NAME: VALUE, ...}}``, ``{"press": NAME}`` or ``{"show": true}``. The answer is
``{"ok": true, ...}`` or ``{"ok": false, "code": refusal code or null, "error", "hint"}``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
import stat
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from dkey.control.rules import Signals
from dkey.errors import DkeyError, LinkError, LinkReason, LocalFault, PolicyRefusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from firmware_mock.body import Body

__all__ = ["KNOBS", "ControlServer", "set_knobs", "state_of"]

_log = logging.getLogger(__name__)

_LINE_MAX: Final = 4096
_CLIENTS_MAX: Final = 8
_IDLE_S: Final = 60.0
_FLAGS: Final = {"on": True, "true": True, "yes": True, "1": True} | {
    "off": False,
    "false": False,
    "no": False,
    "0": False,
}
_WORDS: Final[dict[str, dict[str, bool]]] = {
    "gear_in_park": {"p": True, "r": False, "n": False, "d": False},
    "doors_closed": {"closed": True, "open": False},
    "smartkey_near": {"near": True, "away": False},
}
KNOBS: Final = {
    "ignition": "ignition_on",
    "gear": "gear_in_park",
    "speed": "speed_kmh",
    "doors": "doors_closed",
    "fob": "smartkey_near",
    "update": "updating",
} | {field.name: field.name for field in fields(Signals)}
"""Names that ``set`` takes, to the signal that each stands for."""


def set_knobs(body: Body, values: Mapping[str, str]) -> None:
    """Set body signals by their names for people, all of them or none; ``unknown`` fails one.

    Raises:
        LocalFault: No such name, or a value that does not fit it.
    """
    wanted: dict[str, bool | float | None] = {}
    for name, value in values.items():
        if name not in KNOBS:
            raise LocalFault(
                f"there is no signal {name!r}", hint=f"choose among {', '.join(sorted(KNOBS))}"
            )
        wanted[KNOBS[name]] = _value(name, str(value).lower())
    for signal, setting in wanted.items():
        if setting is None:
            body.fail(signal)
            continue
        body.repair(signal)
        if signal == "ignition_on":
            body.start() if setting else body.stop()
        else:
            setattr(body, signal, setting)


def _value(name: str, text: str) -> bool | float | None:
    signal = KNOBS[name]
    if text == "unknown":
        return None
    if signal == "speed_kmh":
        with suppress(ValueError):
            if math.isfinite(speed := float(text)):
                return speed
        raise LocalFault(f"{name} is a number of km/h, not {text!r}")
    words = _FLAGS | _WORDS.get(signal, {})
    if text not in words:
        shown = "/".join(_WORDS.get(signal, {"on": True, "off": False}))
        raise LocalFault(f"{name} takes {shown} or unknown, not {text!r}")
    return words[text]


def state_of(body: Body) -> dict[str, object]:
    """Return the state of the body as events and answers tell it; null: not known."""
    signals = body.signals()
    state: dict[str, object] = {
        field.name: getattr(signals, field.name) for field in fields(Signals)
    }
    return state | {"horn": body.horn, "remote_running": body.remote_running}


class ControlServer:
    """Listens at a unix socket until closed.

    Args:
        path: Where; a socket that nobody listens at any more is replaced.
        obey: Carries out one request and returns what the answer has beside ``ok``.
    """

    def __init__(
        self, path: Path, obey: Callable[[Mapping[str, Any]], Awaitable[dict[str, object]]]
    ) -> None:
        self._path = path
        self._obey = obey
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            LinkError: BUSY, another vehicle runs there; DENIED; UNSUPPORTED, the path is too long.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(self._path)
            before = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
            self._server = await asyncio.start_unix_server(
                self._accept, sock=listener, limit=_LINE_MAX
            )
        except OSError as exc:
            listener.close()
            long = "too long" in str(exc)
            denied = LinkReason.DENIED if isinstance(exc, PermissionError) else LinkReason.BUSY
            raise LinkError(
                LinkReason.UNSUPPORTED if long else denied,
                f"cannot listen at {self._path}: {exc}",
                hint="choose a folder with a shorter path" if long else "choose another folder",
            ) from exc
        except LinkError:
            listener.close()
            raise

    async def aclose(self) -> None:
        """Stop listening and end all connections. May be called twice."""
        if self._server is None:
            return
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= _CLIENTS_MAX:
            writer.close()
            return
        self._clients.add(task)
        try:
            await self._talk(reader, writer)
        except (OSError, ValueError, TimeoutError) as exc:  # gone, a line too long, or silent
            _log.debug("a control connection ended: %s", exc)
        except asyncio.CancelledError:
            pass  # the server closes; asyncio would report it as a failure of the callback
        finally:
            self._clients.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_IDLE_S):
                line = await reader.readline()
            if not line.endswith(b"\n"):
                return
            answer = await self._answer(line)
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(_IDLE_S):
                await writer.drain()

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise LocalFault("a request is a JSON object")
            return {"ok": True} | await self._obey(request)
        except PolicyRefusal as exc:
            return _said_no(exc, exc.code.value)
        except DkeyError as exc:
            return _said_no(exc)
        except (ValueError, RecursionError) as exc:
            return _said_no(LocalFault(f"a request is one line of JSON: {exc}"))


def _said_no(exc: DkeyError, code: str | None = None) -> dict[str, object]:
    return {"ok": False, "code": code, "error": str(exc), "hint": exc.hint}


def _remove_stale(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
    raise LinkError(
        LinkReason.BUSY,
        f"another program uses {path}",
        hint="end the vehicle that runs in this folder, or choose another folder",
    )
