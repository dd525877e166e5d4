"""The local API: other programs of this user drive the agent (requirements S15).

A unix socket of mode 0600. Both directions are JSON, one object a line, UTF-8, at most 8 KiB; one
answer for each request, in the order of the requests of one connection. Several clients may be
connected; their commands take turns.

Requests have an ``id`` (any number or text, given back) and a verb ``do``::

    {"id": 1, "do": "unlock"}               lock, unlock, start, stop
    {"id": 2, "do": "horn", "on": true}
    {"id": 3, "do": "status", "connect": false}
    {"id": 4, "do": "pair", "code": "12345678"}
    {"id": 5, "do": "hello"}

Answers::

    {"id": 1, "ok": true, "action": "UNLOCK", "flow": "fast", "doors": "unlocked", "seconds": 0.31}
    {"id": 3, "ok": true, "state": "SYNCED", "vehicle": hex, "functions": ["LOCK", ...], ...}
    {"id": 5, "ok": true, "schema": "dkey.agent/1", "verbs": [...]}
    {"id": 1, "ok": false, "error": {"kind": "refused", "code": "TOO_SOON", "text": ...,
                                     "try": ..., "remaining_s": 12.5}}

``kind`` is a :class:`~dkey.agent.advice.Trouble`, or ``request`` for a malformed request, or
``busy`` for one too many; ``code`` a refusal code or null. A line that is too long, or no JSON,
is answered once with ``id`` null and ends the connection. Members that a verb does not have are
refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, Final

from dkey.agent.advice import trouble_of
from dkey.agent.enrolment import this_device
from dkey.errors import DkeyError, LinkError, LinkReason, LocalFault, PolicyRefusal
from dkey.pairing.owner import parse_code

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dkey.agent.agent import Agent
    from dkey.agent.agent_status import Outcome, Status

__all__ = ["SCHEMA", "call", "error_json", "outcome_json", "serve_api", "status_json"]

log = logging.getLogger(__name__)
SCHEMA: Final = "dkey.agent/1"
LINE_MAX: Final = 8192
CLIENTS_MAX: Final = 16
_SEND_S: Final = 5.0
_PATH_MAX: Final = 100  # a unix socket's name has 104 bytes on some systems

_MEMBERS: Final[dict[str, dict[str, type]]] = {
    "hello": {},
    "status": {"connect": bool},
    "unlock": {},
    "lock": {},
    "start": {},
    "stop": {},
    "horn": {"on": bool},
    "pair": {"code": str},
}
"""Verb to its members besides ``id`` and ``do``."""
_REQUIRED: Final = {"horn": {"on"}, "pair": {"code"}}


# --- values ------------------------------------------------------------------------------------


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as it stands in an answer."""
    return {
        "action": outcome.action.name,
        "flow": "fast" if outcome.fast else "standard",
        "doors": outcome.doors,
        "seconds": round(outcome.elapsed_s, 4),
    }


def status_json(status: Status) -> dict[str, Any]:
    """Return a status as it stands in an answer; ``error`` tells why the vehicle is not reached."""
    known = status.known
    return {
        "state": status.state.value,
        "vehicle": known.group_id.hex() if known else None,
        "key_name": known.vehicle.key_name if known else None,
        "owner_epoch": known.vehicle.owner_epoch if known else None,
        "features": sorted(known.vehicle.features) if known else [],
        "functions": [action.name for action in status.actions],
        "reached": status.reached,
        "doors": status.doors,
        "flow": None if status.fast is None else "fast" if status.fast else "standard",
        "error": error_json(status.error) if status.error else None,
    }


def error_json(exc: DkeyError) -> dict[str, Any]:
    """Return an error as it stands in an answer."""
    refused = isinstance(exc, PolicyRefusal)
    return {
        "kind": trouble_of(exc).value,
        "code": exc.code.value if refused else None,  # type: ignore[attr-defined]
        "text": Exception.__str__(exc),
        "try": exc.hint,
        "remaining_s": exc.remaining_s if refused else None,  # type: ignore[attr-defined]
    }


# --- serving -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serve_api(
    agent: Agent, path: Path, *, clients_max: int = CLIENTS_MAX
) -> AsyncIterator[None]:
    """Serve the API at ``path`` while the block runs.

    A socket that nobody serves any more is replaced. When the block ends, clients are cut off; a
    command that has been sent to the vehicle is not undone by that.

    Raises:
        LocalFault: The path is too long, is something else than a socket, or another agent
            serves there.
    """
    _make_room(path)
    clients: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            if len(clients) > clients_max:
                await _say(writer, _failed(None, "busy", f"{clients_max} clients are connected"))
            else:
                await _Client(agent, reader, writer).run()
        except (OSError, TimeoutError, asyncio.CancelledError):
            log.debug("a client is gone")
        finally:
            clients.discard(task)
            writer.close()

    mask = os.umask(0o177)  # the socket never exists with more rights, not even for a moment
    try:
        server = await asyncio.start_unix_server(accept, path, limit=LINE_MAX)
    except OSError as exc:
        raise LocalFault(
            f"the API cannot be served at {path}: {exc.strerror}",
            hint="choose another place with --api",
        ) from exc
    finally:
        os.umask(mask)
    try:
        yield
    finally:
        server.close()
        for task in clients:
            task.cancel()
        if clients:
            await asyncio.wait(clients)
        await server.wait_closed()
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _make_room(path: Path) -> None:
    """Remove a socket that nobody serves; refuse everything else that is in the way."""
    if len(os.fsencode(path)) > _PATH_MAX:
        raise LocalFault(
            f"the path of the API is too long for a socket: {path}",
            hint=f"give one of at most {_PATH_MAX} bytes with --api",
        )
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise LocalFault(f"{path} is no socket", hint="choose another place with --api")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except OSError:
            raise _served(path) from None
        else:
            raise _served(path)


def _served(path: Path) -> LocalFault:
    return LocalFault(
        f"another agent serves at {path}", hint="use that one, or stop it before you start this"
    )


class _Client:
    """One connection: its requests, one after another."""

    def __init__(
        self, agent: Agent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._agent = agent
        self._reader = reader
        self._writer = writer

    async def run(self) -> None:
        """Answer requests until the client leaves or breaks the rules."""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                await _say(self._writer, _failed(None, "request", "the line is too long"))
                return
            try:
                request = json.loads(line)
            except (ValueError, RecursionError):
                await _say(self._writer, _failed(None, "request", "the line is no JSON"))
                return
            await _say(self._writer, await self._answer(request))

    async def _answer(self, request: Any) -> dict[str, Any]:
        number = request.get("id") if isinstance(request, dict) else None
        if not isinstance(number, int | float | str):
            return _failed(None, "request", "a request is an object with an id")
        wrong = _wrong(request)
        if wrong is not None:
            return _failed(number, "request", wrong)
        try:
            return {"id": number, "ok": True, **await self._do(request)}
        except DkeyError as exc:
            return {"id": number, "ok": False, "error": error_json(exc)}
        except Exception as exc:  # noqa: BLE001 - one client's request must not end the agent
            log.error("%s failed inside: %s", request["do"], type(exc).__name__)  # noqa: TRY400
            return _failed(number, "internal", f"internal error: {type(exc).__name__}")

    async def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        agent = self._agent
        match request["do"]:
            case "hello":
                return {"schema": SCHEMA, "verbs": [*_MEMBERS]}
            case "status":
                return status_json(await agent.status(connect=request.get("connect", True)))
            case "pair":
                code = parse_code(request["code"])
                return status_json(await agent.pair(code, this_device()))
            case "horn":
                return outcome_json(await agent.horn(on=request["on"]))
            case verb:
                verbs = {"unlock": agent.unlock, "lock": agent.lock}
                verbs |= {"start": agent.start, "stop": agent.stop}
                return outcome_json(await verbs[verb]())


def _wrong(request: dict[str, Any]) -> str | None:
    """Return what is wrong with the form of a request; None when nothing is."""
    verb = request.get("do")
    members = _MEMBERS.get(verb) if isinstance(verb, str) else None
    if members is None:
        return f"do is one of {', '.join(_MEMBERS)}"
    given = {*request} - {"id", "do"}
    assert isinstance(verb, str)
    if given - {*members} or _REQUIRED.get(verb, set()) - given:
        takes = ", ".join(members) or "nothing"
        return f"{verb} takes {takes}"
    for name in given:
        if type(request[name]) is not members[name]:
            return f"{name} is not a {members[name].__name__}"
    return None


def _failed(number: Any, kind: str, text: str) -> dict[str, Any]:
    error = {"kind": kind, "code": None, "text": text, "try": None, "remaining_s": None}
    return {"id": number, "ok": False, "error": error}


async def _say(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    async with asyncio.timeout(_SEND_S):
        await writer.drain()


# --- calling -----------------------------------------------------------------------------------


async def call(
    path: Path,
    do: str,
    *,
    timeout_s: float,
    connected: Callable[[], None] = lambda: None,
    **members: Any,
) -> dict[str, Any]:
    """Ask the agent that serves at ``path``, and return its answer.

    Args:
        path: The socket.
        do: The verb.
        timeout_s: Longest wait for the answer, seconds.
        connected: Called when the agent is there, before it is asked.
        members: The verb's members.

    Raises:
        LinkError: ABSENT when no agent runs there, TIMEOUT, LOST when it ended.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_MAX)
    except OSError as exc:
        raise LinkError(
            LinkReason.ABSENT, f"no agent runs at {path}", hint="start it: `dkey agent run`"
        ) from exc
    connected()
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(json.dumps({"id": 1, "do": do, **members}).encode() + b"\n")
            await writer.drain()
            answer: dict[str, Any] = json.loads(await reader.readuntil(b"\n"))
            return answer
    except TimeoutError as exc:
        raise LinkError(
            LinkReason.TIMEOUT, f"the agent did not answer within {timeout_s:g} s"
        ) from exc
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as exc:
        raise LinkError(LinkReason.LOST, "the agent ended before it answered") from exc
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
